"""Systems side by side, and which to use for what: results of notebooks 01-08 in, tables out.

Every number comes from ``results/<profile>``, every "better" and "worse" from the notebooks' own comparisons after
Holm's correction; this only puts them into rows and words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from hc_lafter.suite.claims import Missing, Results
from hc_lafter.suite.ledger import span, told

REGIMES = ("no training", "label-free", "supervised")
ZERO_SHOT = "zero-shot, no training"
FULL, MASKS, SC_CLIP = "04-full-training", "05-cascade-vs-hybrid", "07-sc-clip-diagnostics"


def of(results: Results, notebook: str, file: str = "metrics.json") -> dict[tuple[str, str], dict[str, Any]]:
    """(system, metric) -> record, of test or of no split, but not of the second tower; none where there is no file."""
    try:
        rows, _ = results.rows(notebook, file)
    except Missing:
        return {}
    kept = [row for row in rows if row.get("split") in ("test", "none", "timing") and row["dataset"][-7:] != "/random"]
    return {(row["system"], row["metric"]): row for row in kept}


def classification(results: Results) -> pd.DataFrame:
    """Image-level systems x what notebook 04 measured of them; none where it did not run."""
    found, duels = of(results, FULL), _duels(results)
    lines = []
    for (name, metric), row in found.items():
        system, _, regime = name.rpartition(", ")
        if metric != "top-1 accuracy" or regime not in REGIMES or " - " in name:
            continue
        against = duels.get((name, ZERO_SHOT))
        extra = found.get((system, "trainable parameters here, classifier aside"))
        line = {"system": system, "learns from": regime, "top-1 accuracy, %": span(row, unit=False)}
        line |= {"minus zero-shot, points": span(against, sign=True, unit=False) if against else ""}
        line |= {"verdict": against["verdict"] if against else ""}
        for label, key in (("KL to the true mix, nats", "kl, tempered"), ("calibration error, %", "ECE")):
            if (name, key) in found:
                line[label] = span(found[name, key], unit=False)
        line["parameters trained beside the classifier"] = told(extra["value"], "count") if extra else ""
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def masks(results: Results) -> pd.DataFrame:
    """Systems that give masks x mIoU of all, seen and unseen classes (notebook 05); none where it did not run."""
    heads = {
        "mIoU": "all classes",
        "seen mIoU": "seen classes",
        "unseen mIoU": "unseen classes",
        "harmonic mean of seen and unseen": "harmonic mean of the two",
        "pixel accuracy": "pixels named rightly",
    }
    found = of(results, MASKS)
    names = [name for name, metric in found if metric == "mIoU"]
    lines = [
        {"system": n} | {h: span(found[n, m], unit=False) for m, h in heads.items() if (n, m) in found} for n in names
    ]
    return pd.DataFrame(lines).fillna("")


def costs(results: Results) -> pd.DataFrame:
    """What a system costs beside the tower, counted and timed on the same images (notebook 05)."""
    counted, timed = of(results, MASKS), of(results, MASKS, "timings.json")
    towers = list(dict.fromkeys(metric[6:] for _, metric in counted if metric.startswith("FLOP, ")))
    names = list(dict.fromkeys(name for name, metric in [*counted, *timed] if _is_cost(metric)))
    lines = []
    for name in names:
        line = {"system": name}
        for tower in towers:
            for head, key, factor, digits in (
                ("parameters added", "beside the tower", 1, 0),
                ("trained", "trained", 1, 0),
                ("GFLOP per image", "FLOP", 1e-9, 2),
            ):
                row = counted.get((name, f"{key}, {tower}"))
                line[f"{head}, {tower}"] = f"{row['value'] * factor:,.{digits}f}" if row else ""
        for (system, metric), row in timed.items():
            if system == name and metric.startswith("forward, "):
                line[f"{metric}, ms"] = f"{1000 * row['value']:.1f}"
            if system == name and metric.startswith("training memory"):
                line[f"{metric}, MiB"] = f"{row['value']:.1f}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def _is_cost(metric: str) -> bool:
    return metric.startswith(("beside the tower, ", "trained, ", "FLOP, ", "forward, ", "training memory"))


def tuning_costs(results: Results) -> pd.DataFrame:
    """What tuning an image-level system takes (notebook 04); none where it did not run."""
    found, timed = of(results, FULL), of(results, FULL, "timings.json")
    counted = {metric: name for name, metric in found if "classifier aside" in metric}
    lines = []
    for name in dict.fromkeys(name for name, metric in found if metric in counted):
        line = {"system": name}
        for metric in counted:
            line[metric.replace(", classifier aside", "")] = told(found[name, metric]["value"], "count")
        for (system, metric), row in timed.items():
            if system == name and row["unit"] in ("seconds", "MiB"):
                line[f"{metric}, {row['unit']}"] = f"{row['value']:#.3g}".rstrip(".")
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def time_ratios(results: Results) -> pd.DataFrame:
    """Forward passes measured in turn, as ratios (notebooks 04, 05 and 07), for either tower."""
    lines = []
    for notebook in (FULL, MASKS, SC_CLIP):
        try:
            rows, _ = results.rows(notebook, "timings.json")
        except Missing:
            continue
        for row in rows:
            over = row["metric"].removeprefix("time / ")
            if row["unit"] == "ratio" and over not in (row["metric"], row["system"]):
                line = {"system": row["system"], "in times of": over, "tower": row["dataset"], "notebook": notebook[:2]}
                lines.append(line | {"time": span(row, unit=False), "rounds": row["n"] or ""})
    return pd.DataFrame(lines)


def against(results: Results, system: str) -> pd.DataFrame:
    """A system's paired differences in top-1 accuracy to the others, with the verdicts of notebook 04."""
    lines = [
        {"compared with": b, "learns from": a.removeprefix(f"{system}, "), "points": span(c, sign=True, unit=False)}
        | {"verdict": c["verdict"]}
        for (a, b), c in _duels(results).items()
        if a in [f"{system}, {regime}" for regime in REGIMES] and not b.startswith(f"{system}, ")
    ]
    return pd.DataFrame(lines)


def _duels(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    path = results.folder / FULL / "comparisons.parquet"
    rows = pd.read_parquet(path).to_dict("records") if path.is_file() else []
    return {(row["a"], row["b"]): row | {"unit": "fraction"} for row in rows}


def advice(results: Results) -> pd.DataFrame:
    """Task by task the system to use, what it reaches, what it costs, and what it was held against.

    Of image-level systems the highest of those that are *better* than zero-shot; zero-shot where there is none.
    For distributions and masks the best number, with the runner-up beside it.
    """
    found, duels = of(results, FULL), _duels(results)
    lines = []
    for task, regimes in (("Name an image, no labels", REGIMES[:2]), ("Name an image, a few labels", REGIMES)):
        top = {n: r for (n, metric), r in found.items() if metric == "top-1 accuracy" and " - " not in n}
        tried = {n: r for n, r in top.items() if n.rpartition(", ")[2] in regimes}
        if ZERO_SHOT not in tried:
            continue
        won = [n for n in tried if duels.get((n, ZERO_SHOT), {}).get("verdict") == "better"]
        best = max(won, key=lambda n: tried[n]["value"], default=ZERO_SHOT)
        others = [n for n in tried if n.rpartition(", ")[2] in regimes[1:]]
        tied = sum(duels.get((n, ZERO_SHOT), {}).get("verdict") == "no difference" for n in others)
        why = f"of {len(others)} tuned systems {len(won) or 'none'} better than zero-shot, {tied} no different"
        lines.append(_line(task, best, tried[best], _cost(results, best), why))
    mixes = {n: r for (n, m), r in found.items() if m == "kl, tempered" and " - " not in n}
    if mixes:
        lines.append(_ranked(results, "Tell the mix of emotions", mixes, min, "KL to the true mix"))
    found = of(results, MASKS)
    masks_of = (("Masks, of classes with masks to learn from", "seen mIoU"), ("Masks, of other classes", "unseen mIoU"))
    for task, metric in masks_of:
        tried = {n: r for (n, m), r in found.items() if m == metric and r["low"] is not None and " - " not in n}
        if tried:
            lines.append(_ranked(results, task, tried, max, metric))
    return pd.DataFrame(lines)


def _line(task: str, name: str, row: Mapping[str, Any], cost: str, why: str) -> dict[str, str]:
    reaches = f"{span(row)} {'' if row['metric'] == 'top-1 accuracy' else row['metric']}".strip()
    return {"task": task, "use": name, "reaches": reaches, "costs": cost, "why": why}


def _ranked(results: Results, task: str, tried: Mapping, best_of: Callable, metric: str) -> dict[str, str]:
    order = sorted(tried, key=lambda n: tried[n]["value"], reverse=best_of is max)
    first, *rest = order
    why = f"the best of {len(order)}"
    if rest:
        why += f"; next {rest[0]}, {span(tried[rest[0]])}"
        apart = tried[rest[0]]["high"] < tried[first]["low"] or tried[first]["high"] < tried[rest[0]]["low"]
        why += "" if apart else "; the two intervals overlap"
    return _line(task, first, tried[first] | {"metric": metric}, _cost(results, first), why)


def _cost(results: Results, name: str) -> str:
    """What a system takes: parameters and training of notebook 04 or 05, time of a forward pass beside the tower's."""
    bare = name.rpartition(", ")[0] if name.rpartition(", ")[2] in REGIMES else name
    counted, parts = ("trainable parameters here, classifier aside", "trained, embedded"), []
    for notebook in (FULL, MASKS):
        found, timed = of(results, notebook), of(results, notebook, "timings.json")
        trained = max((found[bare, metric]["value"] for metric in counted if (bare, metric) in found), default=0)
        if trained and not parts:
            parts = [f"{told(trained, 'count')} parameters trained"]
            for (system, metric), row in timed.items():
                if system == bare and row["unit"] in ("seconds", "MiB") and not metric.startswith("forward, "):
                    parts.append(f"{row['value']:.3g} {row['unit']} ({metric})")
    parts = parts or ["nothing to train"]
    passes = {
        n: row["value"] for (n, metric), row in of(results, MASKS, "timings.json").items() if "forward, " in metric
    }
    ratios = of(results, SC_CLIP, "timings.json")
    if bare in passes and "the tower alone" in passes:
        parts.append(f"a forward pass takes {passes[bare] / passes['the tower alone']:.2f} times the tower's")
    elif (bare, "time / encode_image") in ratios:
        parts.append(f"a forward pass takes {ratios[bare, 'time / encode_image']['value']:.2f} times the tower's")
    return "; ".join(parts)
