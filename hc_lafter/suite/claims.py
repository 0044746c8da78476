"""The claims ledger: what of what the design documents claim holds. Results in, verdicts out; no verdict is typed.

``claims.yaml`` holds each claim with a rule that was fixed before any result was read, and is hashed into every record.
A rule names rows of ``results/<profile>/<notebook>/metrics.json`` (or ``timings.json``) and what their 95% intervals
have to satisfy:

- ``supported``: the whole interval satisfies the rule; ``contradicted``: the whole interval violates it;
- ``inconclusive``: neither, or too few images or seeds;
- ``not testable here``: these data or this profile give no such row. In the profile ``default`` that is an error.

A rule of several parts needs ``all`` of them or ``any``. Where one of m parts is enough for a verdict, chance has m
attempts at it: these intervals are widened from 95% to 1 - 0.05 / m, on the scale of a normal distribution (Dunn,
"Multiple comparisons among means", JASA 56, 1961). Where every part has to agree no correction is needed (Berger,
"Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982).

Use: ``python -m hc_lafter.suite.claims [--profile default] [--check]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.stats import norm

from hc_lafter.files import write_whole
from hc_lafter.suite.paths import NOTEBOOK, Places

RULES = Path(__file__).with_name("claims.yaml")
VERDICTS = ("supported", "contradicted", "inconclusive", "not testable here")
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE = VERDICTS
ALPHA = 0.05  # what the intervals of the notebooks leave out
KINDS = {"above": 1, "below": 1, "at_least": 1, "at_most": 1, "equals": 1, "between": 2}  # how many bounds each takes
NUMBERS = ("value", "low", "high", "n", "seeds")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Row(_Strict):
    """Where a number lies. ``*`` in a name stands for anything (a batch size, a data set); one row must fit."""

    notebook: str = Field(pattern=f"^{NOTEBOOK.pattern}$")
    file: Literal["metrics.json", "timings.json"] = "metrics.json"
    system: str
    dataset: str = "*"
    split: str = "*"
    metric: str
    unit: str


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

    @model_validator(mode="after")
    def _fits(self) -> Check:
        if len(self.bounds) != KINDS[self.kind] or sorted(self.bounds) != self.bounds:
            raise ValueError(f"{self.kind} takes {KINDS[self.kind]} rising bounds and has {self.bounds}")
        if self.over and not self.exact:
            raise ValueError("a ratio is taken of exact counts")
        return self

    @property
    def wants(self) -> str:
        return f"{self.kind.replace('_', ' ')} {' and '.join(map(_told, self.bounds))}"

    def says(self, low: float, high: float) -> str:
        """The verdict of an interval."""
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
    """``all``: every part has to hold. ``any``: a statement with several readings, one of which has to hold."""

    kind: Literal["all", "any"]
    of: list[Rule] = Field(min_length=1)


Rule = Annotated[Check | Parts, Field(discriminator="kind")]
Parts.model_rebuild()  # it holds rules, and so knows itself only now


class Least(_Strict):
    """Images and seeds below which a claim stays inconclusive, whatever its interval says."""

    n: int = Field(0, ge=0)
    seeds: int = Field(0, ge=0)


class Claim(_Strict):
    """One row of the ledger. ``reading``: the rule in words; ``takes``: what makes it testable where it is not."""

    id: str = Field(pattern=r"^C\d\d$")
    statement: str
    source: str
    reading: str
    takes: str
    figure: str | None = None
    least: Least = Least()
    rule: Rule


class Ledger(_Strict):
    """The rule file."""

    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Ledger:
        twice = [i for i, count in Counter(c.id for c in self.claims).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} stands there twice")
        return self


def load(path: Path = RULES) -> Ledger:
    """The rules of a file, checked.

    Raises:
        ValueError: no YAML, an unknown key or kind of rule, bounds that do not fit, a claim twice; one sentence.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())}): restore it from git.") from None
    try:
        return Ledger.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = list(first["loc"])
        if len(place) > 1:  # of a claim say its id, not its number in the list
            place[1] = content["claims"][place[1]].get("id", place[1])
        told = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"{path}, {' / '.join(map(str, place)) or 'the whole'}: {told}: mend it.") from None


def _told(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _hash(path: Path) -> str:
    """Hex sha256 of a text file with its line ends as git keeps them, wherever it was checked out."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


class Missing(ValueError):
    """The results hold no row that a rule asks for."""


class Results:
    """``results/<profile>`` of a run, each file read once.

    ``metrics.json`` is read only where ``metrics.parquet``, written with it, holds the same numbers.
    """

    def __init__(self, folder: Path):
        self.folder, self._files = Path(folder), {}

    def rows(self, notebook: str, file: str) -> tuple[list[dict[str, Any]], str]:
        """The records of a file, and its sha256.

        Raises:
            Missing: the file is not there.
            ValueError: it is damaged, or its twin says otherwise.
        """
        if (notebook, file) not in self._files:
            path = self.folder / notebook / file
            if not path.is_file():
                raise Missing(f"{path} is missing")
            try:
                rows = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}): run {notebook} again.") from None
            if file == "metrics.json":
                _agree(path, rows)
            self._files[notebook, file] = rows, _hash(path)
        return self._files[notebook, file]

    def find(self, row: Row) -> dict[str, Any]:
        """The record that a row means, with its ``file`` and ``sha256``.

        Raises:
            Missing: none fits.
            ValueError: several fit, or its unit is another one; or as `rows`.
        """
        records, digest = self.rows(row.notebook, row.file)
        path, keys = self.folder / row.notebook / row.file, ("system", "dataset", "split", "metric")
        asked = " / ".join(getattr(row, key) for key in keys)
        fits = [r for r in records if all(fnmatchcase(str(r.get(key, "")), getattr(row, key)) for key in keys)]
        if not fits:
            raise Missing(f"{path} holds no row {asked}")
        if len(fits) > 1:
            raise ValueError(f"{path} holds {len(fits)} rows {asked}, where one is meant: name it closer in the rule.")
        if fits[0]["unit"] != row.unit:
            raise ValueError(f"{path}, {asked} is in {fits[0]['unit']!r} and the rule in {row.unit!r}: mend the rule.")
        return {"file": f"{row.notebook}/{row.file}", "sha256": digest, **fits[0]}


def _agree(path: Path, rows: list[dict[str, Any]]) -> None:
    twin = path.with_suffix(".parquet")
    if not twin.is_file():
        raise ValueError(f"{twin} is missing beside {path.name}, which it is held against: run the notebook again.")
    table = pd.read_parquet(twin).astype(object)
    told = table.where(table.notna(), None).to_dict("records")
    for ours, theirs in zip(rows, told, strict=False):
        if ours != theirs:
            name = " / ".join(str(ours.get(key)) for key in ("system", "dataset", "split", "metric"))
            raise ValueError(f"{path} was changed by hand, {name} is another in {twin.name}: run the notebook again.")
    if len(rows) != len(told):
        raise ValueError(f"{path} has {len(rows)} rows and {twin.name} {len(told)}: run the notebook again.")


def _read(test: Check, results: Results) -> dict[str, Any]:
    """A test's number, with the rows that it comes from."""
    try:
        found = results.find(test.row)
        if test.over is not None:
            whole = results.find(test.over)
            if whole["value"] == 0:
                raise ValueError(f"{whole['file']}, {whole['system']}, {whole['metric']} is 0 and divides nothing.")
            found |= {"over": whole, "value": found["value"] / whole["value"], "low": None, "high": None}
    except Missing:
        if test.published is None:
            raise
        named = test.row.model_dump(exclude={"notebook", "file"})
        found = {"file": None, "sha256": None, **named, "n": None, "seeds": None, **test.published.model_dump()}
    if test.exact and found["low"] is None:
        found |= {"low": found["value"], "high": found["value"]}
    return found


def _judge(test: Check, supports: float, contradicts: float, results: Results, least: Least) -> dict[str, Any]:
    """The evidence of one test: its number, its verdict, and why; for the two error rates see `_weigh`."""
    found = _read(test, results)
    value, low, high = (found[key] for key in NUMBERS[:3])
    short = [
        f"{key} is {found.get(key)} and the rule wants {asked}"
        for key, asked in (("n", least.n), ("seeds", least.seeds))
        if "source" not in found and (found.get(key) or 0) < asked
    ]
    verdict = INCONCLUSIVE
    if short or low is None:
        return {**found, "wants": test.wants, "verdict": verdict, "why": "; ".join(short) or "the row has no interval"}
    for wanted, rate in ((SUPPORTED, supports), (CONTRADICTED, contradicts)):
        wider = norm.ppf(1 - rate / 2) / norm.ppf(1 - ALPHA / 2)
        if test.says(value - wider * (value - low), value + wider * (high - value)) == wanted:
            verdict = wanted
    ends = "" if low == high else f" [{_told(low)}, {_told(high)}]"
    unit = "ratio" if test.over else found["unit"]
    why = f"{_told(value)}{ends} {unit}, to be {test.wants}"
    return {**found, "wants": test.wants, "verdict": verdict, "why": why}


def _weigh(rule: Check | Parts, judged: Callable[[Check, float, float], dict], supports: float, contradicts: float):
    """Verdict, the evidence that decides it, and all evidence; the rates are what either verdict may err by."""
    if isinstance(rule, Check):
        one = judged(rule, supports, contradicts)
        return one["verdict"], one, [one]
    whole, m = rule.kind == "all", len(rule.of)
    rates = (supports, contradicts / m) if whole else (supports / m, contradicts)
    parts = [_weigh(part, judged, *rates) for part in rule.of]
    said = [verdict for verdict, _, _ in parts]
    holds, falls = (all, any) if whole else (any, all)
    if holds(v == SUPPORTED for v in said):
        verdict = SUPPORTED
    else:
        verdict = CONTRADICTED if falls(v == CONTRADICTED for v in said) else INCONCLUSIVE
    return verdict, parts[said.index(verdict)][1], [one for _, _, evidence in parts for one in evidence]


def judge(results: str | Path, *, strict: bool | None = None, rules: Path = RULES) -> list[dict[str, Any]]:
    """The ledger of a run.

    Args:
        results: the folder ``results/<profile>``.
        strict: missing evidence is an error; None: in the profile ``default`` alone.
        rules: the rule file.

    Returns:
        Records {id, statement, source, verdict, value, low, high, n, rule, evidence}. The numbers are those of the part
        that decides. ``rule``: ``reading``, ``least``, the ``test`` as data, ``file`` and its ``sha256``. ``evidence``:
        ``why``, ``figure`` and the rows ``read``, each with the sha256 of its file, its own verdict and why.

    Raises:
        ValueError: strict, and evidence is missing (claim, file and metric are named); or as `load`, `Results.find`.
    """
    results, ledger, records = Results(results), load(rules), []
    strict = results.folder.name == "default" if strict is None else strict
    told = {"file": f"hc_lafter/suite/{rules.name}", "sha256": _hash(rules)}
    for claim in ledger.claims:
        judged = partial(_judge, results=results, least=claim.least)
        try:
            verdict, decides, read = _weigh(claim.rule, judged, ALPHA, ALPHA)
            why = decides["why"]
        except Missing as error:
            if strict:
                raise ValueError(f"claim {claim.id}: {error}: run run_all.py, or mend the rule.") from None
            verdict, decides, read = NOT_TESTABLE, {}, []
            why = f"{error.args[0].replace(str(results.folder), results.folder.name)}; it takes {claim.takes}"
        rule = {"reading": claim.reading, "least": claim.least.model_dump(), **told}
        rule["test"] = claim.rule.model_dump(exclude_defaults=True)
        records.append(
            {
                **claim.model_dump(include={"id", "statement", "source"}),
                "verdict": verdict,
                **{key: decides.get(key) for key in NUMBERS[:4]},
                "rule": rule,
                "evidence": {"why": why, "figure": claim.figure, "read": read},
            }
        )
    return records


def write(results: str | Path, records: Iterable[Mapping[str, Any]] | None = None) -> Path:
    """Write ``claims.json`` into ``results/<profile>``, whole or not at all; by default what `judge` says of it."""
    records = judge(results) if records is None else list(records)
    return write_whole(Path(results) / "claims.json", json.dumps(records, indent=1, allow_nan=False) + "\n")


def changed(results: str | Path) -> list[str]:
    """What a fresh judgement says otherwise than ``claims.json``: one line per claim, none where all agree.

    Raises:
        ValueError: there is no ``claims.json``, or it is damaged; or as `judge`.
    """
    path = Path(results) / "claims.json"
    try:
        old = {record["id"]: record for record in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): run python -m hc_lafter.suite.claims first.") from None
    new = {record["id"]: record for record in json.loads(json.dumps(judge(results)))}
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if a is None or b is None:
            lines.append(f"{key}: only in {'claims.json' if b is None else 'the fresh judgement'}")
        elif a != b:
            parts = ", ".join(name for name in a if a[name] != b.get(name))
            lines.append(f"{key}: {a['verdict']} there, {b['verdict']} now; differs in {parts}")
    return lines


def summary(records: Iterable[Mapping[str, Any]]) -> str:
    """The ledger as lines of text, and how many of each verdict."""
    records = list(records)
    count = Counter(record["verdict"] for record in records)
    head = f"{len(records)} claims: " + ", ".join(f"{count[v]} {v}" for v in VERDICTS)
    lines = [f"{r['id']}  {r['verdict']:17s}  {r['statement']}: {r['evidence']['why']}" for r in records]
    return "\n".join([head, *lines])


def main(argv: list[str] | None = None) -> int:
    """Write the ledger of a profile and print it; with ``--check`` hold the one that is there against its results."""
    parser = argparse.ArgumentParser(prog="python -m hc_lafter.suite.claims", description=main.__doc__)
    parser.add_argument("--profile", default="default")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where claims.json differs")
    asked = parser.parse_args(argv)
    results = Places.find("09-report", asked.profile).results.parent
    try:
        if asked.check:
            lines = changed(results)
            print("\n".join(lines) or f"{results / 'claims.json'} is what its results say.")
            return int(bool(lines))
        records = judge(results)
        write(results, records)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(summary(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
