"""The claims ledger: which of the claims made for these systems hold. Results in, verdicts out; no verdict is typed.

``claims.yaml`` holds each claim with its rule, what it speaks of (``domain``) and what results have to meet before they
may judge it (``requires``). A rule names rows of ``results/<profile>/<notebook>/metrics.json`` (or ``timings.json``),
and what their 95% intervals have to satisfy:

- ``supported``: the whole interval satisfies the rule; ``contradicted``: the whole interval violates it;
- ``inconclusive``: neither;
- ``not testable here``: no such row, or one that does not meet what the claim requires; the reason says which.

Counts, costs and formulas hold on any data. What the embedded world says of emotions is an illustration and marked so;
of masks of photographs it says nothing. A finding is judged only if its rule stood before the notebook ran.
``default`` trains too briefly, and with too few seeds, to judge what is trained: of that ``results/reference`` speaks,
where it has the row.

A rule of several parts needs ``all`` of them or ``any``; under ``each`` every part has a verdict of its own, and the
claim that of ``all``. Where one of m parts is enough for a verdict, chance has m attempts at it: these intervals are
widened from 95% to 1 - 0.05 / m, on the scale of a normal distribution, or where the number has S seeds of Student's
with S - 1 degrees of freedom, the fewest it can have (Dunn, "Multiple comparisons among means", JASA 56, 1961). Where
every part has to agree no correction is needed (Berger, "Multiparameter hypothesis testing and acceptance sampling",
Technometrics 24, 1982). A number over so few seeds that their sign test could not decide judges no finding.

Use: ``python -m hc_lafter claims [--profile default] [--check]``.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.stats import norm, t

from hc_lafter import commands
from hc_lafter.analysis.statistics import undecided
from hc_lafter.files import write_whole
from hc_lafter.suite import provenance, words
from hc_lafter.suite.paths import NOTEBOOK, Places, find_root
from hc_lafter.suite.provenance import RULES
from hc_lafter.suite.records import CONVERGED, REFERENCE

VERDICTS = ("supported", "contradicted", "inconclusive", "not testable here")
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE = VERDICTS
ALPHA = 0.05  # what the intervals of the notebooks leave out
KINDS = {"above": 1, "below": 1, "at_least": 1, "at_most": 1, "equals": 1, "between": 2}  # how many bounds each takes
WORLD = ("world", REFERENCE)  # the drawn world, as runs under this profile saw it, or committed ones
B16 = "ViT-B-16"  # the tower that SC-CLIP's settings are for, as open_clip names it
COUNTED = ("formula", "count", "cost on ViT-B")  # the other domains are findings
EMOTIONS, MASKS = "emotion classification", "masks"
PEOPLE, PHOTOGRAPHS = "emotion classification by votes of people", "masks of real photographs with a ViT-B/16"
READERS = ("best reader", "linear probe")  # what shows how much there is to read
BRIEF = "the profile default trains too briefly to judge a trained system"
TRAINED = "reference"  # the profile under which everything is trained until it no longer gains


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Row(_Strict):
    """Which records are meant: those that fit every field given, of which ``*`` stands for anything.

    A field that is left out fits any value, but for ``minus``: without it the record is no difference. Several records
    may fit if they differ in ``n_train``; then the rule has to hold for each.

    Attributes:
        n_train: the least and the most images that the system was trained on.
    """

    notebook: str = Field(pattern=f"^{NOTEBOOK.pattern}$")
    file: Literal["metrics.json", "timings.json"] = "metrics.json"
    system: str = "*"
    minus: str | None = None
    regime: str = "*"
    dataset: str = "*"
    split: str = "*"
    metric: str = "*"
    unit: str
    n_train: tuple[int, int] | None = Field(None, strict=False)

    def fits(self, record: Mapping[str, Any]) -> bool:
        names = ("system", "regime", "dataset", "split", "metric")
        least, most = self.n_train or (0, float("inf"))
        return (
            fnmatchcase(record.get("minus") or "", self.minus or "")
            and all(fnmatchcase(record.get(name) or "", getattr(self, name)) for name in names)
            and least <= (record.get("n_train") or 0) <= most
        )

    def __str__(self) -> str:
        given = self.model_dump(exclude_defaults=True, exclude={"notebook", "file", "unit"})
        return ", ".join(f"{key} {value!r}" for key, value in given.items())


class Published(_Strict):
    """A number out of a published table, used where the results hold no such row; low and high where it is a range."""

    value: float
    low: float
    high: float
    source: str


class Check(_Strict):
    """One number, or the ratio of two counts (``over``), against its bounds. ``exact``: counted, so no interval."""

    kind: Literal["above", "below", "at_least", "at_most", "equals", "between"]
    bounds: list[float]
    row: Row
    over: Row | None = None
    exact: bool = False
    published: Published | None = None
    name: str = ""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Check:
        if len(self.bounds) != KINDS[self.kind] or sorted(self.bounds) != self.bounds:
            raise ValueError(f"{self.kind} takes {KINDS[self.kind]} rising bounds and has {self.bounds}")
        if self.over and not self.exact:
            raise ValueError("a ratio is taken of exact counts")
        return self

    def verdict(self, low: float, high: float) -> str:
        """What an interval says."""
        a, b = self.bounds[0], self.bounds[-1]
        satisfied, violated = {
            "above": (low > a, high <= a),
            "below": (high < a, low >= a),
            "at_least": (low >= a, high < a),
            "at_most": (high <= a, low > a),
            "equals": (low == high == a, high < a or low > a),
            "between": (low >= a and high <= b, high < a or low > b),
        }[self.kind]
        return SUPPORTED if satisfied else CONTRADICTED if violated else INCONCLUSIVE


class Parts(_Strict):
    """Rules of which ``all`` or ``any`` have to hold, or ``each`` of which is judged by itself, under its ``name``."""

    kind: Literal["all", "any", "each"]
    of: list[Rule] = Field(min_length=1)
    name: str = ""


Rule = Annotated[Check | Parts, Field(discriminator="kind")]
Parts.model_rebuild()  # it holds rules, and so knows itself only now


class Requires(_Strict):
    """What a row has to meet before it judges a claim.

    Attributes:
        converged: every run behind it was trained until it no longer gained; of a difference, those of both systems.
        headroom: how far the best reader lies above the opponent at least, as a fraction: the gain that is claimed.
        n, seeds: the number of images (rounds, for times) and of seeds at least.
        budgets: at how many numbers of labels the claim is judged at least.
    """

    converged: bool = False
    headroom: float = 0
    n: int = 0
    seeds: int = 0
    budgets: int = 1


class Claim(_Strict):
    """One row of the ledger.

    Attributes:
        domain: what it speaks of.
        reading: the rule in words.
        takes: what makes the claim testable where it is not.
    """

    id: str = Field(pattern=r"^C\d\d$")
    statement: str
    source: str
    domain: Literal[*COUNTED, EMOTIONS, PEOPLE, MASKS, PHOTOGRAPHS]
    requires: Requires = Requires()
    reading: str
    takes: str
    figure: str | None = None
    rule: Rule


class _Ledger(_Strict):
    claims: list[Claim] = Field(min_length=1)


def load(path: Path = RULES) -> list[Claim]:
    """The claims of a rule file, checked.

    Raises:
        ValueError: no YAML, an unknown key or kind of rule, bounds that do not fit, a claim twice; one sentence.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        claims = _Ledger.model_validate(content).claims
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): restore it from git.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = list(first["loc"])
        if len(place) > 1:  # of a claim say its id, not its number in the list
            place[1] = content["claims"][place[1]].get("id", place[1])
        where, what = " / ".join(map(str, place)) or "the whole", first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"{path}, {where}: {what}: correct it.") from None
    twice = [i for i, count in Counter(claim.id for claim in claims).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: {twice[0]} stands there twice: correct it.")
    return claims


def trained(results: Path) -> Path | None:
    """Where results of `TRAINED` lie: beside those of another profile, else in the repository; None: nowhere."""
    try:
        homes = results.parent, find_root() / "results"
    except FileNotFoundError:
        homes = (results.parent,)
    return next((home / TRAINED for home in homes if provenance.read(home / TRAINED)), None)


class Missing(ValueError):
    """The results hold no row that a rule asks for."""


class Results:
    """``results/<profile>`` of a run, each file read once and refused where it is not what its notebook wrote.

    Attributes:
        beside: what goes before the names of its files in a ledger of another folder.
        trained: of ``default``, what `trained` finds.

    Raises:
        ValueError: its notebooks ran with different parameters, data, weights or code; they are named.
    """

    def __init__(self, folder: str | Path, beside: str = ""):
        self.folder, self.beside, self._files = Path(folder), beside, {}
        self.rules: dict[str, str] = {}  # as they stand now, where the results are judged
        self.made = provenance.read(self.folder)
        for line in provenance.mixed(self.made):
            raise ValueError(f"{self.folder}: {line}: run both again.")
        self.trained = None
        if self.folder.name == "default" and (long := trained(self.folder)):
            self.trained = Results(long, beside=f"{long.parent.name}/{TRAINED}/")

    def rows(self, notebook: str, file: str = "metrics.json") -> tuple[list[dict[str, Any]], str]:
        """The records of a file, and its sha256.

        Raises:
            Missing: the file is not there.
            ValueError: it is damaged, or was changed after its notebook wrote it.
        """
        if (notebook, file) not in self._files:
            path = self.folder / notebook / file
            if not path.is_file():
                raise Missing(f"{path} is missing")
            digest = provenance.text_hash(path)
            if self.made.get(notebook, {}).get("files", {}).get(file, digest) != digest:
                raise ValueError(f"{path} is not what {notebook} wrote: run it again.")
            try:
                self._files[notebook, file] = json.loads(path.read_text(encoding="utf-8")), digest
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}): run {notebook} again.") from None
        return self._files[notebook, file]

    def find(self, row: Row) -> list[dict[str, Any]]:
        """The records that a row means, each with its ``file`` and ``sha256``.

        Raises:
            Missing: none fits.
            ValueError: several fit that do not differ in ``n_train``, or the unit is another one; or as `rows`.
        """
        records, digest = self.rows(row.notebook, row.file)
        path, fitting = self.folder / row.notebook / row.file, [record for record in records if row.fits(record)]
        if not fitting:
            raise Missing(f"{path} holds no row of {row}")
        if len({record.get("n_train") for record in fitting}) < len(fitting):
            raise ValueError(f"{path} holds {len(fitting)} rows of {row}, where one is meant: narrow the rule.")
        if fitting[0]["unit"] != row.unit:
            raise ValueError(f"{path}: {row} is in {fitting[0]['unit']!r} and the rule in {row.unit!r}: correct it.")
        file = f"{self.beside}{row.notebook}/{row.file}"
        return [{"file": file, "sha256": digest, **record} for record in fitting]

    def headroom(self, found: Mapping[str, Any]) -> float | None:
        """How far the best of `READERS` lies above the system that a difference is taken to; None where not known."""
        records, _ = self.rows(Path(found["file"]).parent.name)
        same = [
            r
            for r in records
            if not r.get("minus")
            and all(r[k] == found[k] for k in ("dataset", "split"))
            and r["metric"].removesuffix(CONVERGED) == found["metric"]
        ]
        ours = [r for r in same if all(r.get(k) == found.get(k) for k in ("system", "regime", "n_train"))]
        best = max((r["value"] for r in same if r["system"] in READERS), default=None)
        return None if best is None or not ours else best - (ours[0]["value"] - found["value"])


def _read(check: Check, results: Results) -> list[dict[str, Any]]:
    """A check's numbers, with the rows that they come from."""
    try:
        found = results.find(check.row)
        if check.over is not None:
            found, whole = found[:1], results.find(check.over)[0]  # counts, which labels do not change
            if whole["value"] == 0:
                raise ValueError(f"{whole['file']}: {words.label(whole)} is 0 and divides nothing.")
            found[0] |= {"over": whole, "value": found[0]["value"] / whole["value"], "low": None, "high": None}
            found[0]["unit"] = "ratio"
    except Missing:
        if check.published is None:
            raise
        found = [{**_named(check.row), **check.published.model_dump()}]
    if check.exact:
        found = [f | {"low": f["value"], "high": f["value"]} if f["low"] is None else f for f in found]
    return found


def _best(check: Check, results: Results, short: bool) -> tuple[list[dict[str, Any]], Results]:
    """`_read`, and where: for runs that are brief or few ``results.trained``, unless the notebook itself has read
    committed runs."""
    try:
        found = _read(check, results)
    except Missing:
        if not (short and results.trained):
            raise
        return _read(check, results.trained), results.trained
    if short and results.trained and all(row["dataset"] != REFERENCE for row in found):
        with suppress(Missing):
            return _read(check, results.trained), results.trained
    return found, results


def _named(row: Row) -> dict[str, Any]:
    """What stands for a record that is not there."""
    names = row.model_dump(include={"system", "minus", "dataset", "split", "metric", "unit"})
    return {**dict.fromkeys(("file", "sha256", "value", "low", "high", "n", "seeds")), **names}


def _unmet(claim: Claim, found: Mapping[str, Any], results: Results) -> Iterator[str]:
    """Why a row must not judge a claim."""
    if found["file"] is None:  # a published number
        return
    need, notebook = claim.requires, Path(found["file"]).parent.name
    made, finding = results.made.get(notebook), claim.domain not in COUNTED
    if claim.domain in (PEOPLE, PHOTOGRAPHS) and found["dataset"] in WORLD:
        yield f"the embedded world decides nothing here, and the claim is about {claim.domain}"
    elif claim.domain == PHOTOGRAPHS and made and B16 not in str(made["clip"]):
        yield f"{notebook} ran on another tower, and the claim is about {claim.domain}"
    if finding and made and made.get("rules", {}).get(claim.id) != results.rules[claim.id]:
        yield f"its rule was written or changed after {notebook} ran"
    if need.converged and not found.get("converged"):
        yield f"no converged run (converged is {json.dumps(found.get('converged'))})"
    for key in ("n", "seeds"):
        if (found.get(key) or 0) < getattr(need, key):
            yield f"{key} is {found.get(key)} and the rule wants {getattr(need, key)}"
    if finding and (seeds := found.get("seeds") or 0) >= need.seeds and (few := undecided(seeds, ALPHA)):
        yield f"it is {few}"  # as comparisons in notebooks say
    if need.headroom and found.get("minus") and found["unit"] == "fraction":
        room = results.headroom(found)
        if room is None or room < need.headroom:
            known = "not known" if room is None else f"{words.number(room, 'fraction')} points"
            yield f"headroom above {found['minus']} is {known} and the claim is of {100 * need.headroom:g}"


def _judge(check: Check, found: dict[str, Any], supports: float, contradicts: float) -> dict[str, Any]:
    """The evidence of one row: the row, the ``check``, its ``verdict``, and ``why``; for the rates see `_weigh`."""
    value, low, high, verdict = found["value"], found["low"], found["high"], INCONCLUSIVE
    if low is None:
        return {**found, "verdict": verdict, "why": "the row has no interval"}
    for wanted, rate in ((SUPPORTED, supports), (CONTRADICTED, contradicts)):
        scale = t(found["seeds"] - 1) if (found.get("seeds") or 1) > 1 else norm
        wider = scale.ppf(1 - rate / 2) / scale.ppf(1 - ALPHA / 2)
        if check.verdict(value - wider * (value - low), value + wider * (high - value)) == wanted:
            verdict = wanted
    bounds = words.required(check.kind, check.bounds, found["unit"])
    return {**found, "verdict": verdict, "why": f"{words.span(found)}, to be {bounds}"}


def _combined(kind: str, verdicts: list[str]) -> str:
    """What parts say together; one that cannot be tested leaves open what the others do not settle."""
    settles, agrees = (SUPPORTED, CONTRADICTED) if kind == "any" else (CONTRADICTED, SUPPORTED)
    if settles in verdicts:
        return settles
    if NOT_TESTABLE in verdicts:
        return NOT_TESTABLE
    return agrees if set(verdicts) == {agrees} else INCONCLUSIVE


def _weigh(
    rule: Check | Parts, supports: float, contradicts: float, claim: Claim, results: Results
) -> tuple[str, int, list[dict]]:
    """Verdict, which piece of the evidence decides it, and all evidence; the rates are what a verdict may err by."""
    if isinstance(rule, Parts):
        m = len(rule.of)
        rates = (supports / m, contradicts) if rule.kind == "any" else (supports, contradicts / m)
        verdicts, deciding, read = [], [], []
        for part in rule.of:
            verdict, decides, evidence = _weigh(part, *rates, claim, results)
            verdicts.append(verdict)
            deciding.append(len(read) + decides)
            read += evidence
        verdict = _combined(rule.kind, verdicts)
        return verdict, deciding[verdicts.index(verdict)], read
    newcomers = results.folder.name.partition("+")[0] == "default"
    brief = claim.requires.converged and newcomers
    test = {"check": {"kind": rule.kind, "bounds": rule.bounds}}
    try:
        found, results = _best(rule, results, newcomers and bool(claim.requires.converged or claim.requires.seeds))
    except Missing as error:
        why = BRIEF if brief else error.args[0].replace(str(results.folder), results.folder.name)
        return NOT_TESTABLE, 0, [{**_named(rule.row), **test, "verdict": NOT_TESTABLE, "why": why}]
    brief = brief and results.folder.name != TRAINED
    found.sort(key=lambda row: row["dataset"] != REFERENCE)  # what is trained to convergence speaks first
    unmet = [[BRIEF] if brief and row["dataset"] != REFERENCE else list(_unmet(claim, row, results)) for row in found]
    met = sum(not reasons for reasons in unmet)
    if 0 < met < claim.requires.budgets:  # of the numbers of labels too few may judge
        short = f"{met} number of labels may judge it and the rule wants {claim.requires.budgets}"
        unmet, met = [reasons or [short] for reasons in unmet], 0
    read = [
        {**row, **test, "verdict": NOT_TESTABLE, "why": "; ".join(filter(None, (words.span(row), *reasons)))}
        if reasons
        else {**_judge(rule, row, supports, contradicts / met), **test}
        for row, reasons in zip(found, unmet, strict=True)
    ]
    verdicts = [row["verdict"] for row in read]
    verdict = _combined("all", [v for v in verdicts if v != NOT_TESTABLE] or [NOT_TESTABLE])
    return verdict, verdicts.index(verdict), read


def judge(results: str | Path, rules: Path = RULES) -> list[dict[str, Any]]:
    """The ledger of a run.

    Args:
        results: the folder ``results/<profile>``.
        rules: the rule file.

    Returns:
        Records {id, statement, source, verdict, value, low, high, n, rule, requires, domain, evidence}. The numbers are
        those of the row that decides; where nothing may judge they are what was measured, without a verdict. ``rule``:
        ``reading``, the ``test`` as data, ``file`` and its ``sha256``. ``evidence``: ``why``, ``figure``,
        ``illustration`` (whether the embedded world judged a claim on emotions or masks), the rows ``read``, each with
        the sha256 of its file, its ``check`` {kind, bounds}, its verdict and why, ``decides``, the position of the
        deciding one among them, and ``parts`` {name, verdict, decides} of a rule that judges each.

    Raises:
        ValueError: as `load`, `Results`.
    """
    claims, results, records = load(rules), Results(results), []
    results.rules = provenance.rules(rules)
    if results.trained:
        results.trained.rules = results.rules
    for claim in claims:
        each = claim.rule.of if claim.rule.kind == "each" else [claim.rule]
        read, parts = [], []
        for part in each:
            verdict, decides, evidence = _weigh(part, ALPHA, ALPHA, claim, results)
            parts.append({"name": part.name, "verdict": verdict, "decides": len(read) + decides})
            read += evidence
        verdict = _combined("all", [part["verdict"] for part in parts])
        decides = next(part["decides"] for part in parts if part["verdict"] == verdict)
        row, testable = read[decides], verdict != NOT_TESTABLE
        illustration = testable and claim.domain in (EMOTIONS, MASKS) and row["dataset"] in WORLD
        why = row["why"] if testable else f"{row['why']}; it takes {claim.takes}"
        rule = {
            "reading": claim.reading,
            "file": f"hc_lafter/suite/{rules.name}",
            "sha256": provenance.text_hash(rules),
            "test": claim.rule.model_dump(exclude_defaults=True, mode="json"),
        }
        evidence = {"why": why, "figure": claim.figure, "illustration": illustration, "decides": decides, "read": read}
        records.append(
            {
                **claim.model_dump(include={"id", "statement", "source"}),
                "verdict": verdict,
                **{key: row[key] for key in ("value", "low", "high", "n")},
                "rule": rule,
                "requires": claim.requires.model_dump(exclude_defaults=True),
                "domain": claim.domain,
                "evidence": {**evidence, "parts": parts if len(parts) > 1 else []},
            }
        )
    return records


def write(results: str | Path, records: Iterable[Mapping[str, Any]] | None = None) -> Path:
    """Write ``claims.json`` into ``results/<profile>``, whole or not at all; by default what `judge` finds there."""
    records = judge(results) if records is None else list(records)
    return write_whole(Path(results) / "claims.json", json.dumps(records, indent=1, allow_nan=False) + "\n")


def changed(results: str | Path) -> list[str]:
    """What is not as the run left it, one line each: numbers, parameters, weights, rules, and ``claims.json`` itself.

    Raises:
        ValueError: there is no ``claims.json``, or it is damaged; or as `judge`.
    """
    path = Path(results).resolve() / "claims.json"
    try:
        old = {record["id"]: record for record in json.loads(path.read_text(encoding="utf-8"))}
        judged_by = {record["rule"]["sha256"] for record in old.values()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): run python -m hc_lafter claims first.") from None
    lines = provenance.changed(path.parent)
    if path.parent.name == "default" and (long := trained(path.parent)):
        lines += [f"{TRAINED}: {line}" for line in provenance.changed(long)]
    if not lines:  # else a damaged copy is no news
        lines += provenance.outdated(path.parent)
    if judged_by != {provenance.text_hash(RULES)}:
        lines.append(f"{RULES.name} is not the file that {path.name} was judged by")
    try:
        new = {record["id"]: record for record in json.loads(json.dumps(judge(results)))}
    except ValueError as error:  # numbers that no run wrote are not judged
        return [*lines, str(error)]
    for key in sorted({*old, *new}):
        a, b = old.get(key, {}), new.get(key, {})
        parts = [name for name in {**a, **b} if a.get(name) != b.get(name)]
        if parts:
            verdicts = f"{a.get('verdict', 'absent')} there, {b.get('verdict', 'absent')} now"
            lines.append(f"{path.name}, {key}: {verdicts}; differs in {', '.join(parts)}")
    if path.parent == find_root() / "results" / "default" and not lines:
        from hc_lafter.suite import readme  # here, since it imports this module

        lines += readme.stale(find_root())
    return lines


def counts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Verdict -> how many claims, all four verdicts."""
    count = Counter(record["verdict"] for record in records)
    return {verdict: count[verdict] for verdict in VERDICTS}


def counted(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The claims in two groups, which are never added up: what holds on any data, and findings."""
    records = list(records)
    findings = [record for record in records if record["domain"] not in COUNTED]
    return {"findings": findings, "counts, costs and formulas": [r for r in records if r["domain"] in COUNTED]}


def tally(records: Iterable[Mapping[str, Any]]) -> str:
    """``of 19 findings 3 supported (3 as an illustration), ...; of 11 counts, costs and formulas 8 supported, ...``."""
    groups = []
    for group, of_it in counted(records).items():
        shown = Counter(r["verdict"] for r in of_it if r["evidence"]["illustration"])
        each = [
            f"{n} {verdict}{f' ({shown[verdict]} as an illustration)' if shown[verdict] else ''}"
            for verdict, n in counts(of_it).items()
            if n
        ]
        groups += [f"of {len(of_it)} {group} {', '.join(each)}"] if of_it else []
    return "; ".join(groups)


def summary(records: Iterable[Mapping[str, Any]]) -> str:
    """The ledger as lines of text, and how many of each verdict."""
    records = list(records)
    lines = []
    for r in records:
        row = r["evidence"]["read"][r["evidence"]["decides"]]
        why = words.because(row) if row.get("source") else r["evidence"]["why"]
        lines.append(f"{r['id']}  {r['verdict']:17s}  {r['statement']}: {why}")
    return "\n".join([f"{len(records)} claims: {tally(records)}", *lines])


@commands.answers
def main(argv: list[str] | None = None) -> int:
    """Write the ledger of a profile and print it; with ``--check`` hold what is there against what made it."""
    parser = argparse.ArgumentParser(prog="hc-lafter claims", description=main.__doc__.replace("``", ""))
    parser.add_argument("--profile", default="default", help="whose results are judged (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where anything was changed")
    options = parser.parse_args(argv)
    results = Places.reported(options.profile).results.parent
    if options.check:
        lines = changed(results)
        print("\n".join(lines) or f"{results / 'claims.json'} is what its results say.")
        long = trained(results) if results.name == "default" and not lines else None
        for line in provenance.outdated(long) if long else ():  # takes hours: told, and no fault
            print(f"{TRAINED}: {line}")
        return int(bool(lines))
    records = judge(results)
    write(results, records)
    print(summary(records))
    return 0
