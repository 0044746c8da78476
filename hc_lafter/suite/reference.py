"""What long runs said, as files small enough to be committed, and back into the store of another machine.

One Parquet file per system in ``results/<profile>/runs``, a row per run: its key, what it is, how it was trained and
on which kind of device, and its logits in half precision. The tuned tensors stay out. A run whose key is asked for
again is not computed again: what a GPU has computed stands for a CPU, too, since both agree but for roundings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from hc_lafter import store
from hc_lafter.analysis.statistics import compare_all, interval, paired
from hc_lafter.data import stratified
from hc_lafter.files import computing_versions, write_whole
from hc_lafter.suite.study import Study
from hc_lafter.systems import registry
from hc_lafter.tuning.convergence import converged
from hc_lafter.tuning.material import opened
from hc_lafter.tuning.run import Result, Run, keep, missing
from hc_lafter.tuning.runs import get
from hc_lafter.tuning.training import History

Key = TypeVar("Key", bound=Hashable)
FIELDS = ("system", "regime", "n_train", "seed", "batch_size", "view", "classifier", "target", "lam")
_NUMBERS = ("value", "low", "high", "n", "seeds")
PLACE = ["system", "regime", "n_train", "seed"]  # of a point on the curve
_LOGITS = ("val", "test", "train", "val before", "test before")
_STEPS = 400  # rows of a run on masks that are committed, as many as a figure can tell apart: all would be 10 MB


def write(found: Sequence[Result], folder: Path, points: Container[Run] = ()) -> list[Path]:
    """Add results to the committed ones, of which those of the same runs under other code go.

    The files that this wrote, one a system; those of other systems stay, byte for byte.

    Args:
        points: runs that are points of the curve of accuracy against labels.

    Raises:
        ValueError: a file that is there is damaged.
        OSError: the folder cannot be written.
    """
    before, paths = read(folder), []
    there = dict(zip(before["key"], before["point"], strict=True)) if len(before) else {}
    keys = {result.run: _key(result.run) for result in found}
    new = (r for r in found if not there.get(keys[r.run], False) and (r.run in points or keys[r.run] not in there))
    fresh = pd.DataFrame([_row(result, result.run in points) for result in new])
    kept = before
    if len(before) and len(fresh):  # a point has one place on the curve, however it was trained before
        places = pd.MultiIndex.from_frame(fresh.loc[fresh["point"], PLACE])
        replaced = before["point"] & pd.MultiIndex.from_frame(before[PLACE]).isin(places)
        went_on = replaced & before["key"].isin(keys.values())  # who has it knows that it was not the end
        kept = before.assign(point=before["point"] & ~went_on)
        arrays = [name for name in kept if f"{name}, shape" in kept or name.endswith(", shape")]
        kept.loc[went_on, arrays] = None
        kept = kept[~(kept["run"].isin(fresh["run"]) | (replaced & ~went_on))]
    for system in dict.fromkeys(fresh["system"]) if len(fresh) else ():
        rows = pd.concat([table[table["system"] == system] for table in (kept, fresh) if len(table)])
        path = file_of(folder, system)
        table = rows.sort_values(["regime", "n_train", "seed", "key"]).drop(columns=_arrays_of_others(rows))
        # hardly two logits are equal, their first bytes are alike; a page of a whole column lets zstd see that each run
        # counted the same pixels of a class
        small = {"compression": "zstd", "compression_level": 19, "use_dictionary": False, "data_page_size": 2**26}
        alike = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in (*_LOGITS, "counts") if name in table}
        paths.append(write_whole(path, partial(table.to_parquet, index=False, column_encoding=alike, **small)))
    return paths


def file_of(folder: Path, system: str) -> Path:
    """Where the committed runs of a system lie."""
    return folder / f"{re.sub('[^a-z0-9]+', '-', system.lower()).strip('-')}.parquet"


def _arrays_of_others(rows: pd.DataFrame) -> list[str]:
    shapes = [name for name in rows if name.endswith(", shape") and rows[name].isna().all()]
    return [*shapes, *(name.removesuffix(", shape") for name in shapes)]


def _row(result: Result, point: bool) -> dict[str, object]:
    run, history = result.run, vars(result.history)
    steps = sampled(result) if run.entry.reads == "masks" else history["steps"]
    history = history | {"steps": [_floats(step, lambda x: float(str(np.float32(x)))) for step in steps]}
    placeless = replace(run, setting=replace(run.setting, cache=None, device="cpu"))  # the same on every machine
    row = {name: getattr(run, name) for name in FIELDS} | {"key": _key(run), "run": repr(placeless), "point": point}
    row |= {"device": run.setting.device, "torch": computing_versions()["torch"]}
    row |= {"rate": result.rate, "steps": result.steps, "converged": result.converged, "error": result.error}
    row |= {"seconds": result.seconds}
    row |= {"history": json.dumps(history)}
    if run.entry.reads != "masks":
        data = opened(run.setting)[1]
        at = np.flatnonzero(data.splits == "test")
        if run.n_test is None:
            row["hits"] = result.test.argmax(axis=1) == data.labels[at]
        judged = np.flatnonzero(data.splits == "val")
        if run.n_val:
            judged = stratified(judged, data.labels, run.n_val, np.random.default_rng(0))  # as `Material.draw` does
        row["validation"] = float((result.val.argmax(axis=1) == data.labels[judged]).mean())
    for name in _committed(run, result.arrays):
        values = result.arrays[name]
        kind = values.dtype
        if kind == np.int64:
            kind = np.min_scalar_type(values.max(initial=0))
        elif name in _LOGITS and run.until is not None:
            kind = np.float16  # as in the store, to the bit
        row[name] = values.astype(kind).ravel()
        row[f"{name}, shape"] = list(values.shape)
    return row


def sampled(result: Result) -> list[dict[str, Any]]:
    """Every nth row of the steps of a history, 400 to 799 of a long run; all rows of what was sampled before."""
    every = max(1, (result.steps or 0) // _STEPS)
    return [row for row in result.history.steps if row["step"] % every == 0]


def _floats(row: Mapping[str, Any], change: Callable[[float], float]) -> dict[str, Any]:
    """A row of a history whose numbers, singles in double precision, are written with the digits of a single: halves
    the text, and `np.float32` gives the very number back."""
    return {name: change(value) if isinstance(value, float) else value for name, value in row.items()}


def _key(run: Run) -> str:
    """The run's key on a CPU."""
    return replace(run, setting=replace(run.setting, device="cpu")).key


def _committed(run: Run, names: Iterable[str]) -> list[str]:
    """Arrays that are committed: of a point of the curve what it says of test images, of a trial none, which is known
    by its history; else a hundred megabytes would come together."""
    return [name for name in names if not run.brief or name in ("test", "counts")]


def read(folder: Path, systems: Iterable[str] | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Every committed run, of these systems or of all, a row each, with these columns or all; empty where none is.

    Raises:
        ValueError: a file is damaged.
    """
    tables = []
    files = folder.glob("*.parquet") if systems is None else filter(Path.is_file, (file_of(folder, s) for s in systems))
    for path in sorted(set(files)):
        try:
            tables.append(pd.read_parquet(path, columns=columns))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): check it out again.") from error
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def adopt(runs: Sequence[Run], folder: Path) -> int:
    """Put the committed results of runs into the store where it lacks them; the number of those that were.

    Raises:
        ValueError: a committed file is damaged.
        OSError: the store cannot be written.
    """
    lacking = {_key(run): run for run in missing(runs) if run.setting.cache is not None}
    table = read(folder, {run.system for run in lacking.values()}) if lacking else pd.DataFrame()
    rows = table[table["key"].isin(list(lacking))] if len(table) else table
    for row in rows.to_dict("records"):
        shapes = {name: row[name] for name in row if name.endswith(", shape") and isinstance(row[name], np.ndarray)}
        arrays = {name.removesuffix(", shape"): shape for name, shape in shapes.items()}
        arrays = {name: np.array(row[name]).reshape(shape) for name, shape in arrays.items()}
        arrays = {name: v.astype(np.int64) if v.dtype.kind == "u" else v for name, v in arrays.items()}
        given = {name: None if pd.isna(row[name]) else row[name] for name in ("rate", "converged", "error")}
        history = History(**json.loads(row["history"]))
        history.steps = [_floats(step, lambda x: float(np.float32(x))) for step in history.steps]
        run = lacking[row["key"]]
        with store.locked(place := run.setting.cache / "runs" / f"{run.key}.safetensors"):
            if not place.is_file():  # another process may have been quicker, and has the tuned tensors as well
                keep(Result(run, arrays, history, {}, row["seconds"], row["steps"], **given))
    return len(rows)


def points_of(study: Study, plan: Mapping[Any, Sequence[Run]]) -> pd.DataFrame:
    """What is known of accuracy against training images, trained to convergence.

    Args:
        plan: the points of a curve; where the profile has none, what is committed of the profile ``reference``.

    Returns:
        A row per system, regime and number of training images: system, regime, n_train, ``hits`` [S, n] of the test
        images (one seed where all say the same), ``drawn``, the seeds, ``validation`` accuracy, its standard ``error``
        (NaN where nothing is trained), seeds, their number,
        converged (`gains_no_more`), rate (the chosen one), steps (the most that a seed took).
    """
    if plan:
        found = [result for row in to_the_end(plan).values() for result in row]
        there = read(study.committed)
        known = {row["key"]: row for row in there.to_dict("records") if row["point"]}
        # what was adopted has left its validation logits elsewhere, see `_committed`
        table = pd.DataFrame([_row(r, True) if "val" in r.arrays else known[_key(r.run)] for r in found])
    else:
        table = read(folder := study.committed.parents[1] / "reference" / "runs")
        study.rests_on(sorted(folder.glob("*.parquet")))
    if table.empty:
        return table
    place = {name: i for i, name in enumerate(registry())}
    table = table[table["point"]].sort_values("system", key=lambda names: names.map(place), kind="stable")
    rows = []
    for (system, regime, images), runs in table.groupby(["system", "regime", "n_train"], sort=False):
        runs = runs.sort_values("seed")
        hits = np.stack(runs["hits"])
        if regime == "no training" and (hits == hits[0]).all():
            hits = hits[:1]
        row = {"system": system, "regime": regime, "n_train": images, "hits": hits, "seeds": len(hits)}
        row["drawn"] = tuple(runs["seed"])[: len(hits)]
        flags = [None if pd.isna(flag) else flag for flag in runs["converged"]]
        seeds = zip(flags, (History(**json.loads(text)) for text in runs["history"]), runs["error"], strict=True)
        row |= {"validation": runs["validation"].mean(), "error": runs["error"].astype(float).mean()}
        row |= {"converged": gains_no_more(seeds)}
        rows.append(row | {"rate": runs["rate"].iloc[0], "steps": int(runs["steps"].max())})
    return pd.DataFrame(rows)


def may_go_on(run: Run) -> bool:
    """Whether `further` could say so of the row of a run."""
    return run.to_choose is not None and run.entry.reads != "images"


def further(found: Sequence[Result]) -> list[Run]:
    """The runs with which a row that still gains goes on: twice the steps, at a third of the learning rate.

    A rate that decays to zero gains at its end, the more the higher it was, however long it lasts; so twice the steps
    alone would never end it. Nothing for a row that has converged, and for those that name whole images and whose tower
    runs at each step, which are not given more than `Convergence.doublings`.

    Args:
        found: the results of a row, one per seed.
    """
    first = found[0]
    if not may_go_on(first.run) or first.rate is None or gained_no_more(found) is not False:
        return []
    rate = float(f"{first.rate / 3:.1g}")  # the next one of a grid of 1, 3, 10
    until = replace(first.run.until, rates=(rate,), steps=2 * first.steps, doublings=0)
    return [replace(result.run, until=until) for result in found]


def stages(
    rows: Mapping[Key, Sequence[Run]], folder: Path | None = None, *, compute: bool = True, **how: Any
) -> list[dict[Key, list[Result]]]:
    """The results of rows of runs, and behind them of those that went on, once and twice (`further`).

    Args:
        folder: of committed runs, which are not computed again.
        compute: False leaves out rows of which a run is neither there nor committed.
        how: of `hc_lafter.tuning.runs.get`: who computes.
    """
    found: list[dict[Key, list[Result]]] = []
    while rows and len(found) < 3:
        found.append(_found(rows, folder, compute, how))
        rows = {key: runs for key, row in found[-1].items() if (runs := further(row))}
    return found


def _found(
    rows: Mapping[Key, Sequence[Run]], folder: Path | None, compute: bool, how: Mapping[str, Any]
) -> dict[Key, list[Result]]:
    """The results of rows, of all at once, so that workers are never short of work; arguments as of `stages`."""
    if folder is not None:
        adopt([run for row in rows.values() for run in row], folder)
    if not compute:
        lacking = set(missing([run for row in rows.values() for run in row]))
        rows = {key: row for key, row in rows.items() if lacking.isdisjoint(row)}
    results = iter(get([run for row in rows.values() for run in row], **how))
    return {key: [next(results) for _ in row] for key, row in rows.items()}


def beside(run: Run, rate: float) -> Run:
    """The run that says what a learning rate is worth to a run's seed, on validation; it reads no test image."""
    return replace(run, until=replace(run.until, rates=(rate,)), n_test=0, n_watched=0, brief=True)


def at_best_rates(
    rows: Mapping[Key, Sequence[Run]], folder: Path | None = None, *, compute: bool = True, **how: Any
) -> tuple[dict[Key, list[Run]], list[Run]]:
    """Rows of runs, each at the learning rate whose validation score, the mean over its seeds, is the highest.

    One kept seed hardly tells a rate from the next one, while on test the two may lie a point apart: as much as the
    variants of one system do, which would then be compared by their luck. So all seeds try the rates on either side of
    the one that the kept seed chose, and on uphill until both neighbours are worse. Each rate has the steps that the
    kept seed finds enough for it.

    Args:
        folder, compute, how: as of `stages`.

    Returns:
        The rows, those without a choice of rates as they were; and every run that was made for it.
    """
    first, tried = _found(rows, folder, compute, how), []
    scores = {
        key: {row[0].rate: _score(row)}
        for key, row in first.items()
        if row[0].rate is not None and len(row[0].run.until.rates) > 1  # else there was nothing to choose
    }
    while True:
        asked: dict[tuple[Key, float], list[Run]] = {}
        for key in scores:
            row, ladder = first[key], first[key][0].run.until.ladder
            at = ladder.index(_highest(scores[key]))
            for rate in ladder[max(0, at - 1) : at + 2]:
                if rate not in scores[key]:
                    asked[key, rate] = [beside(result.run, rate) for result in row]
        if not asked:
            break
        found = _found(asked, folder, compute, how)
        for (key, rate), results in found.items():
            scores[key][rate] = _score(results)
            tried += asked[key, rate]
        for key in {key for key, _ in asked.keys() - found.keys()}:
            del first[key], scores[key]
    ended = {key: [result.run for result in row] for key, row in first.items()}
    for key, of in scores.items():
        if (best := _highest(of)) != first[key][0].rate:
            ended[key] = [replace(run, until=replace(run.until, rates=(best,))) for run in ended[key]]
    return ended, tried


def _highest(scores: Mapping[float | None, float]) -> float | None:
    """The rate of the highest score, the first of equals."""
    return max(scores, key=scores.__getitem__)


def _score(row: Sequence[Result]) -> float:
    """The mean of the seeds' best validation scores."""
    return float(np.mean([result.score for result in row]))


def to_the_end(rows: Mapping[Key, Sequence[Run]], **how: Any) -> dict[Key, list[Result]]:
    """The results of rows of runs, trained until they no longer gain.

    What a row that went on came to takes its place where it has converged, and its mean validation score is not lower
    by more than half a standard error.

    Args:
        how: of `stages`.
    """
    found, *later = stages(rows, **how) or [{}]
    for stage in later:
        for key, row in stage.items():
            error = np.mean([result.error for result in found[key]])
            if gained_no_more(row) and _score(row) >= _score(found[key]) - 0.5 * error:
                found[key] = row
    return found


def gained_no_more(row: Sequence[Result]) -> bool | None:
    """`gains_no_more` of a row's results."""
    return gains_no_more([(result.converged, result.history, result.error) for result in row])


def gains_no_more(seeds: Iterable[tuple[bool | None, History, float | None]]) -> bool | None:
    """Whether the seeds' mean curve of validation had ceased to gain, with steps of which twice as many were no better.

    None where nothing is trained so. A single seed's curve is too uneven for all of ten to meet the rule.

    Args:
        seeds: ``converged``, ``history`` and ``error`` of each seed's `Result`.
    """
    flags, histories, errors = zip(*seeds, strict=True)
    if all(flag is None for flag in flags):
        return None
    if any(history.diverged for history in histories) or not any(flags):  # no seed's alone: too few steps
        return False
    metric = "seen" if "seen" in histories[0].start else "accuracy"  # `Run.select`
    curves = np.mean([[row[metric] for row in (h.start, *h.epochs)] for h in histories], axis=0)
    return converged(curves[0], curves[1:].tolist(), float(np.mean(errors)))


def curve_of(study: Study, points: pd.DataFrame) -> pd.DataFrame:
    """`points_of` with the intervals of accuracy: value, low, high and n in the place of hits."""
    if points.empty:
        return points
    spans = [vars(interval(hits[0] if len(hits) == 1 else hits, **study.resampling)) for hits in points["hits"]]
    return points.drop(columns=["hits", "drawn", "seeds", "error"]).join(pd.DataFrame(spans))


def answers(study: Study, points: pd.DataFrame, classes: int, added: Mapping[str, int]) -> pd.DataFrame:
    """Which system to take, by the number of labels: chosen on validation, reported on test.

    With some labels whoever needs fewer may be chosen, too; what has not converged may not. Of those whose validation
    accuracy is at most one standard error below the highest it is the one that trains least (the one-standard-error
    rule: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3): nothing, or else the fewest
    parameters; of equals the highest.

    Args:
        added: parameters that each system trains, the classifier aside.

    Returns:
        Records, whose ``metric`` is ``choice with n labels per class``: of each number of labels the chosen system, and
        its paired differences to the others, of which all are one family.
    """
    points = points[points["converged"].ne(False)].reset_index(drop=True)
    points = points.assign(trains=points["system"].map(added).where(points["regime"] != "no training", -1))
    needed = points["n_train"].where(points["regime"] == "supervised", 0)
    chosen, pairs = [], {}
    for images in sorted(needed.unique()):
        open_to = points[needed.isin([0, images])]
        highest = open_to.loc[open_to["validation"].idxmax()]
        near = open_to[open_to["validation"] >= highest["validation"] - np.nan_to_num(highest["error"])]
        first = near.sort_values(["trains", "validation"], ascending=[True, False]).iloc[0]
        about = {"metric": f"choice with {images // classes:,} labels per class", "regime": first["regime"]}
        about |= {"system": first["system"], "n_train": first["n_train"]}
        chosen.append({**about, **first[["hits", "drawn", "seeds", "error"]]})
        for other in open_to.drop(first.name).itertuples():
            minus = other.system + (", label-free" if other.regime == "label-free" else "")
            pairs[minus, *about.items()] = _alike(first.hits, first.drawn, other.hits, other.drawn)
    found = compare_all({str(key): pair for key, pair in pairs.items()}, **study.comparing)
    duels = [{"minus": key[0], **dict(key[1:]), **vars(found[str(key)])} for key in pairs]
    return pd.concat([curve_of(study, pd.DataFrame(chosen)), pd.DataFrame(duels)], ignore_index=True)


def duels(study: Study, points: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Paired differences of systems wherever both stand on the curve, for the ledger, which alone gives the verdict.

    Args:
        pairs: (a, b) for a - b.

    Returns:
        Records, one per pair, regime and number of training images at which both have two seeds or more in common;
        converged is that of both.
    """
    rows, same = [], ["regime", "n_train"]
    for a, b in pairs:
        ours, theirs = (points[points["system"] == name] for name in (a, b))
        for row in ours.merge(theirs, on=same, suffixes=("", "_b")).itertuples():
            x, y = _alike(row.hits, row.drawn, row.hits_b, row.drawn_b)
            if len(x) > 1:
                found = {k: v for k, v in vars(paired(x, y, **study.resampling)).items() if k in _NUMBERS}
                about = {"system": a, "minus": b, "regime": row.regime, "n_train": row.n_train}
                rows.append({**about, "converged": row.converged is True and row.converged_b is True, **found})
    return pd.DataFrame(rows)


def _alike(
    a: np.ndarray, a_drawn: Sequence[int], b: np.ndarray, b_drawn: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """[S, n] each, with the seeds that both have; one seed that stands for all is repeated."""
    if 1 in (len(a), len(b)):
        a, b = np.broadcast_arrays(a, b)
        return a, b
    both = sorted({*a_drawn} & {*b_drawn})
    return tuple(x[[drawn.index(seed) for seed in both]] for x, drawn in ((a, a_drawn), (b, b_drawn)))
