"""The claims ledger: which of the claims made for these systems hold. Results in, verdicts out; no verdict is typed.

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

Use: ``python -m hc_lafter claims [--profile default] [--check]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.stats import norm

from hc_lafter.files import write_whole
from hc_lafter.suite import words
from hc_lafter.suite.paths import NOTEBOOK, Places
from hc_lafter.suite.profiles import load_profile

RULES = Path(__file__).with_name("claims.yaml")
VERDICTS = ("supported", "contradicted", "inconclusive", "not testable here")
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE = VERDICTS
ALPHA = 0.05  # what the intervals of the notebooks leave out
KINDS = {"above": 1, "below": 1, "at_least": 1, "at_most": 1, "equals": 1, "between": 2}  # how many bounds each takes


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Row(_Strict):
    """Which record is meant: the one that fits every field given, of which ``*`` stands for anything.

    A field that is left out fits any value, but for ``minus``: without it the record is no difference.
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

    def fits(self, record: Mapping[str, Any]) -> bool:
        names = ("system", "regime", "dataset", "split", "metric")
        return fnmatchcase(record.get("minus") or "", self.minus or "") and all(
            fnmatchcase(record.get(name) or "", getattr(self, name)) for name in names
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
    """``all``: every part has to hold. ``any``: a statement with several readings, one of which has to hold."""

    kind: Literal["all", "any"]
    of: list[Rule] = Field(min_length=1)


Rule = Annotated[Check | Parts, Field(discriminator="kind")]
Parts.model_rebuild()  # it holds rules, and so knows itself only now


class Claim(_Strict):
    """One row of the ledger.

    Attributes:
        reading: the rule in words.
        takes: what makes the claim testable where it is not.
        requires: conditions that the results have to meet before the claim is judged; domain: what the claim is about.
        least: images (``n``) and ``seeds`` below which it stays inconclusive, whatever its interval says.
    """

    id: str = Field(pattern=r"^C\d\d$")
    statement: str
    source: str
    reading: str
    takes: str
    figure: str | None = None
    requires: list[str] = []
    domain: str = ""
    least: dict[Literal["n", "seeds"], int] = {}
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


def _hash(path: Path) -> str:
    """Hex sha256 of a text file with its line ends as git keeps them, wherever it was checked out."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


class Missing(ValueError):
    """The results hold no row that a rule asks for."""


class Results:
    """``results/<profile>`` of a run, each file read once.

    ``metrics.json`` is read only where ``metrics.parquet``, written with it, holds the same numbers.
    """

    def __init__(self, folder: str | Path):
        self.folder, self._files = Path(folder), {}

    def rows(self, notebook: str, file: str = "metrics.json") -> tuple[list[dict[str, Any]], str]:
        """The records of a file, and its sha256.

        Raises:
            Missing: the file is not there.
            ValueError: it is damaged, or its twin differs.
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
                _compare_with_twin(path, rows)
            self._files[notebook, file] = rows, _hash(path)
        return self._files[notebook, file]

    def find(self, row: Row) -> dict[str, Any]:
        """The record that a row means, with its ``file`` and ``sha256``.

        Raises:
            Missing: none fits.
            ValueError: several fit, or its unit is another one; or as `rows`.
        """
        records, digest = self.rows(row.notebook, row.file)
        path, fitting = self.folder / row.notebook / row.file, [record for record in records if row.fits(record)]
        if not fitting:
            raise Missing(f"{path} holds no row of {row}")
        if len(fitting) > 1:
            raise ValueError(f"{path} holds {len(fitting)} rows of {row}, where one is meant: narrow the rule.")
        if fitting[0]["unit"] != row.unit:
            raise ValueError(f"{path}: {row} is in {fitting[0]['unit']!r} and the rule in {row.unit!r}: correct it.")
        return {"file": f"{row.notebook}/{row.file}", "sha256": digest, **fitting[0]}


def _compare_with_twin(path: Path, rows: list[dict[str, Any]]) -> None:
    twin = path.with_suffix(".parquet")
    if not twin.is_file():
        raise ValueError(f"{twin} is missing beside {path.name}, which it is held against: run the notebook again.")
    kept = [{k: v for k, v in row.items() if not pd.isna(v)} for row in pd.read_parquet(twin).to_dict("records")]
    for ours, theirs in zip_longest(rows, kept, fillvalue={}):
        if {key: value for key, value in ours.items() if value is not None} != theirs:
            what = words.label(ours or theirs)
            raise ValueError(f"{path} was changed by hand, {what} is another in {twin.name}: run the notebook again.")


def _read(check: Check, results: Results) -> dict[str, Any]:
    """A check's number, with the rows that it comes from."""
    try:
        found = results.find(check.row)
        if check.over is not None:
            whole = results.find(check.over)
            if whole["value"] == 0:
                raise ValueError(f"{whole['file']}: {words.label(whole)} is 0 and divides nothing.")
            found |= {"over": whole, "value": found["value"] / whole["value"], "low": None, "high": None}
            found["unit"] = "ratio"
    except Missing:
        if check.published is None:
            raise
        names = check.row.model_dump(include={"system", "dataset", "split", "metric", "unit"})
        found = {"file": None, "sha256": None, **names, "n": None, "seeds": None, **check.published.model_dump()}
    if check.exact and found["low"] is None:
        found |= {"low": found["value"], "high": found["value"]}
    return found


def _judge(check: Check, supports: float, contradicts: float, results: Results, least: Mapping) -> dict[str, Any]:
    """The evidence of one check: the row, the ``check``, its ``verdict``, and ``why``; for the rates see `_weigh`."""
    found = _read(check, results)
    value, low, high = found["value"], found["low"], found["high"]
    short = [
        f"{key} is {found.get(key)} and the rule wants {minimum}"
        for key, minimum in least.items()
        if "source" not in found and (found.get(key) or 0) < minimum
    ]
    found |= {"check": {"kind": check.kind, "bounds": check.bounds}, "verdict": INCONCLUSIVE}
    if short or low is None:
        return {**found, "why": "; ".join(short) or "the row has no interval"}
    for verdict, rate in ((SUPPORTED, supports), (CONTRADICTED, contradicts)):
        wider = norm.ppf(1 - rate / 2) / norm.ppf(1 - ALPHA / 2)
        if check.verdict(value - wider * (value - low), value + wider * (high - value)) == verdict:
            found["verdict"] = verdict
    bounds = words.required(check.kind, check.bounds, found["unit"])
    return {**found, "why": f"{words.span(found)}, to be {bounds}"}


def _weigh(rule: Check | Parts, supports: float, contradicts: float, *given: Any) -> tuple[str, int, list[dict]]:
    """Verdict, which piece of the evidence decides it, and all evidence; the rates are what a verdict may err by."""
    if isinstance(rule, Check):
        evidence = _judge(rule, supports, contradicts, *given)
        return evidence["verdict"], 0, [evidence]
    whole, m = rule.kind == "all", len(rule.of)
    rates = (supports, contradicts / m) if whole else (supports / m, contradicts)
    verdicts, deciding, read = [], [], []
    for part in rule.of:
        verdict, decides, evidence = _weigh(part, *rates, *given)
        verdicts.append(verdict)
        deciding.append(len(read) + decides)
        read += evidence
    holds, falls = (all, any) if whole else (any, all)
    verdict = INCONCLUSIVE
    if holds(v == SUPPORTED for v in verdicts):
        verdict = SUPPORTED
    elif falls(v == CONTRADICTED for v in verdicts):
        verdict = CONTRADICTED
    return verdict, deciding[verdicts.index(verdict)], read


def judge(results: str | Path, *, strict: bool | None = None, rules: Path = RULES) -> list[dict[str, Any]]:
    """The ledger of a run.

    Args:
        results: the folder ``results/<profile>``.
        strict: missing evidence is an error; None: in the profile ``default`` alone.
        rules: the rule file.

    Returns:
        Records {id, statement, source, verdict, value, low, high, n, rule, requires, domain, evidence}. The numbers are
        those of the part that decides. ``rule``: ``reading``, ``least``, the ``test`` as data, ``file`` and its
        ``sha256``. ``evidence``: ``why``, ``figure``, the rows ``read``, each with the sha256 of its file, its
        ``check`` {kind, bounds}, its verdict and why, and ``decides``, the position of the deciding one among them
        (None where nothing could be read).

    Raises:
        ValueError: strict, and evidence is missing (claim, file and metric are named); or as `load`, `Results.find`.
    """
    results, records = Results(results), []
    strict = results.folder.name == "default" if strict is None else strict
    for claim in load(rules):
        try:
            verdict, decides, read = _weigh(claim.rule, ALPHA, ALPHA, results, claim.least)
            row = read[decides]
            why = row["why"]
        except Missing as error:
            if strict:
                raise ValueError(f"claim {claim.id}: {error}: run the notebook, or correct the rule.") from None
            verdict, decides, read, row = NOT_TESTABLE, None, [], {}
            why = f"{error.args[0].replace(str(results.folder), results.folder.name)}; it takes {claim.takes}"
        rule = {
            "reading": claim.reading,
            "least": claim.least,
            "file": f"hc_lafter/suite/{rules.name}",
            "sha256": _hash(rules),
            "test": claim.rule.model_dump(exclude_defaults=True),
        }
        records.append(
            {
                **claim.model_dump(include={"id", "statement", "source"}),
                "verdict": verdict,
                **{key: row.get(key) for key in ("value", "low", "high", "n")},
                "rule": rule,
                **claim.model_dump(include={"requires", "domain"}),
                "evidence": {"why": why, "figure": claim.figure, "decides": decides, "read": read},
            }
        )
    return records


def write(results: str | Path, records: Iterable[Mapping[str, Any]] | None = None) -> Path:
    """Write ``claims.json`` into ``results/<profile>``, whole or not at all; by default what `judge` finds there."""
    records = judge(results) if records is None else list(records)
    return write_whole(Path(results) / "claims.json", json.dumps(records, indent=1, allow_nan=False) + "\n")


def changed(results: str | Path) -> list[str]:
    """Where a fresh judgement differs from ``claims.json``: one line per claim, none where all agree.

    Raises:
        ValueError: there is no ``claims.json``, or it is damaged; or as `judge`.
    """
    path = Path(results) / "claims.json"
    try:
        old = {record["id"]: record for record in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): run python -m hc_lafter claims first.") from None
    new = {record["id"]: record for record in json.loads(json.dumps(judge(results)))}
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key, {}), new.get(key, {})
        parts = [name for name in {**a, **b} if a.get(name) != b.get(name)]
        if parts:
            verdicts = f"{a.get('verdict', 'absent')} there, {b.get('verdict', 'absent')} now"
            lines.append(f"{key}: {verdicts}; differs in {', '.join(parts)}")
    return lines


def counts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Verdict -> how many claims, all four verdicts."""
    count = Counter(record["verdict"] for record in records)
    return {verdict: count[verdict] for verdict in VERDICTS}


def summary(records: Iterable[Mapping[str, Any]]) -> str:
    """The ledger as lines of text, and how many of each verdict."""
    records = list(records)
    head = f"{len(records)} claims: " + ", ".join(f"{count} {verdict}" for verdict, count in counts(records).items())
    lines = [f"{r['id']}  {r['verdict']:17s}  {r['statement']}: {r['evidence']['why']}" for r in records]
    return "\n".join([head, *lines])


def main(argv: list[str] | None = None) -> int:
    """Write the ledger of a profile and print it; with ``--check`` hold the one that is there against its results."""
    parser = argparse.ArgumentParser(prog="python -m hc_lafter claims", description=main.__doc__)
    parser.add_argument("--profile", default="default", help="whose results are judged (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where claims.json differs")
    options = parser.parse_args(argv)
    try:
        load_profile(options.profile)  # a misspelled one has no results, and would get a ledger without evidence
        results = Places.find("09-report", options.profile).results.parent
        if options.check:
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
