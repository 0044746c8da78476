"""Systems side by side, and which to use for what: results of notebooks 01-08 in, tables out.

Every number comes from ``results/<profile>``, every verdict from the notebooks' own comparisons, each notebook's being
one family; this only puts them into rows and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hc_lafter.analysis.statistics import NO_DIFFERENCE
from hc_lafter.suite.claims import REFERENCE, Missing, Results
from hc_lafter.suite.words import RECALIBRATED, name, number, span

ZERO_SHOT = "zero-shot"
FULL, MASKS, SC_CLIP = "04-full-training", "05-cascade-vs-hybrid", "07-sc-clip-diagnostics"
NAMES = ("system", "minus", "regime", "dataset", "split", "metric", "verdict")  # "" where a record has none
CHOICE = "choice with "  # so many labels per class
TRAINED_HERE = "trainable parameters here, classifier aside"
STEPS = "training steps"
MASK_SCORES = {  # metric of notebook 05 -> heading
    "mIoU": "all classes",
    "seen mIoU": "seen classes",
    "unseen mIoU": "unseen classes",
    "harmonic mean of seen and unseen": "harmonic mean of the two",
    "pixel accuracy": "pixel accuracy",
}
COSTS = {  # first word of a metric of notebook 05 -> heading, factor, digits
    "beside the tower": ("parameters added, {}", 1, 0),
    "trained": ("trained, {}", 1, 0),
    "FLOP": ("GFLOP per image, {}", 1e-9, 2),
    "training memory": ("training memory, {}, MiB", 1, 1),
}


def rows(results: Results, notebook: str, file: str = "metrics.json", *, all_towers: bool = False) -> pd.DataFrame:
    """The records of a notebook on test images or on none; empty where it has not run.

    Args:
        all_towers: the second tower's, of random weights, too.

    Returns:
        A row per record: its fields, ``name`` (system and regime, if that tells two apart) and ``text`` (`span`
        without the unit).
    """
    try:
        records, _ = results.rows(notebook, file)
    except Missing:
        records = []
    numbers = ["value", "low", "high", "n", "seeds", "unit", "n_train", "converged"]
    table = pd.DataFrame(records, columns=[*NAMES, *numbers])
    names = table[[*NAMES]].astype(object)
    table[[*NAMES]] = names.where(names.notna(), "")
    table["name"], table["text"] = [name(r) for r in records], [span(r, unit=False) for r in records]
    table = table[table["split"].isin(["test", "none", "timing"])].astype({"n": "Int64", "seeds": "Int64"})
    return table if all_towers else table[~table["dataset"].str.endswith("/random")]


def _systems(results: Results, notebook: str) -> pd.DataFrame:
    """`rows` that are no difference; accuracies of an epoch that was chosen on test images are left out."""
    found = rows(results, notebook)
    return found[(found["minus"] == "") & ~found["system"].str.contains("on test")]


def _wide(found: pd.DataFrame, metrics: Mapping[str, str], index: list[str]) -> pd.DataFrame:
    """A row per system, a column per metric (under its heading) that anything was measured in."""
    found = found[found["metric"].isin(metrics)]
    table = found.pivot_table("text", index, "metric", aggfunc="first", sort=False).reset_index()
    there = [metric for metric in metrics if metric in table]
    return table[[*index, *there]].rename(columns=metrics).fillna("") if there else pd.DataFrame()


def accuracies(results: Results) -> pd.DataFrame:
    """Image-level systems (name, system, regime, value, ...) by top-1 accuracy, with their ``minus zero-shot``."""
    systems, found = _systems(results, FULL), rows(results, FULL)
    top = systems[systems["metric"] == "top-1 accuracy"].drop(columns="verdict")
    duels = found[(found["metric"] == "top-1 accuracy") & (found["minus"] == ZERO_SHOT)]
    duels = duels[["name", "text", "verdict"]].rename(columns={"text": "minus zero-shot"})
    return top.merge(duels, "left", "name").fillna({"minus zero-shot": "", "verdict": ""})


def sample(results: Results, notebook: str, metric: str, *, brief: bool = False) -> str:
    """What numbers of a notebook rest on: ``100 test images of the world, 3 seeds, 95% intervals``; "" without any.

    Args:
        brief: as of `masked`.
    """
    found = rows(results, notebook)
    found = masked(results, brief=brief) if notebook == MASKS else found[found["dataset"] != REFERENCE]
    found = found[found["metric"] == metric]
    if found.empty:
        return ""
    data = "world" if found["dataset"].iloc[0] == REFERENCE else found["dataset"].iloc[0]
    seeds = sorted({*found["seeds"].dropna()} - {1})  # 1: nothing is trained
    fewer = f" ({seeds[0]} where the tower is trained)" if len(seeds) > 1 else ""
    told = f"{found['n'].max():,} test images of {'the world' if data == 'world' else data}"
    told += f", {seeds[-1]} seeds{fewer}, 95% intervals" if seeds else ", 95% intervals"
    learned = results.made.get(notebook, {}).get("profile", {}).get("n_tune")
    return told + (f"; supervised systems learn from {learned:,} labels" if notebook == FULL and learned else "")


def classification(results: Results) -> pd.DataFrame:
    """Image-level systems x what notebook 04 measured of them; none where it did not run."""
    systems, top = _systems(results, FULL), accuracies(results)
    if top.empty:
        return pd.DataFrame()
    more = _wide(systems, {"kl, tempered": "KL to the true mix, nats", "ECE": "calibration error, %"}, ["name"])
    trained = _wide(systems, {TRAINED_HERE: "parameters trained beside the classifier"}, ["system"])
    labels = ["labels"] if top["n_train"].notna().any() else []  # a row for each number of labels
    top["labels"] = ["" if pd.isna(n) else f"{n:,.0f}" for n in top["n_train"]]
    table = top[["name", "system", "regime", *labels, "text", "minus zero-shot", "verdict"]]
    table = table.replace({"regime": {"": "no training"}})
    for beside, key in ((more, "name"), (trained, "system")):
        table = table.merge(beside, "left", key) if len(beside) else table
    heads = {"regime": "learns from", "text": "top-1 accuracy, %", "minus zero-shot": "minus zero-shot, points"}
    return table.drop(columns="name").rename(columns=heads).fillna("")


def choices(results: Results) -> pd.DataFrame:
    """Which system to take with how many labels (notebook 04, trained to convergence); none where it is unknown."""
    found = rows(results, FULL)
    found = found[found["metric"].str.startswith(CHOICE)]
    if found.empty:
        return pd.DataFrame()
    duels, lines = found[found["minus"] != ""], []
    for row in found[found["minus"] == ""].to_dict("records"):
        of = duels[duels["metric"] == row["metric"]]
        level, above = (of.loc[of["verdict"] == said, "minus"] for said in (NO_DIFFERENCE, "worse"))
        gain = of.loc[of["minus"] == ZERO_SHOT, "text"]
        lines.append({
            "with": row["metric"].removeprefix(CHOICE),
            "take": row["system"] + (", label-free" if row["regime"] == "label-free" else ""),
            "top-1 accuracy, %": row["text"], "minus zero-shot, points": "".join(gain),
            "not distinguishable from it": "; ".join(level) or "none", "better than it": "; ".join(above) or "none",
            "costs": _cost(results, row),
        })  # fmt: skip
    return pd.DataFrame(lines)


def masked(results: Results, *, brief: bool = False) -> pd.DataFrame:
    """What systems that give masks reach (notebook 05): committed runs of the profile ``reference``, where it has read
    any and its own are of the world, too; else, and where ``brief``, its own runs."""
    found = _systems(results, MASKS)
    found = found[found["metric"].isin([*MASK_SCORES, STEPS])]
    long = found["dataset"] == REFERENCE
    longest = not brief and bool(long.any()) and {*found.loc[~long, "dataset"]} <= {"world"}
    return found[long == longest]


def masks(results: Results, *, brief: bool = False) -> pd.DataFrame:
    """Systems that give masks x mIoU of all, seen and unseen classes, of `masked`; none where notebook 05 did not run.

    Of committed runs also the steps, and whether validation still gained when they ended.
    """
    found = masked(results, brief=brief)
    heads = MASK_SCORES | {STEPS: STEPS}
    if found["converged"].notna().any():
        gains = found.groupby("name")["converged"].agg(lambda flags: "yes" if flags.eq(False).any() else "")
        found, heads = found.assign(gains=found["name"].map(gains)), heads | {"gains": "still gained at the end"}
        told = found.drop_duplicates("name").assign(metric="gains")
        found = pd.concat([found, told.assign(text=told["gains"])])
    return _wide(found, heads, ["name"]).rename(columns={"name": "system"})


def layers(results: Results) -> pd.DataFrame:
    """Layers x top-1 accuracy of their CLS token, read zero-shot and by a probe (notebook 01)."""
    found = rows(results, "01-feature-tapping")
    found = found[found["metric"] == "top-1 accuracy"]
    found[["metric", "layer"]] = found["system"].str.split(", layer ", expand=True)  # who reads which layer
    found["metric"] = found["metric"].where(found["minus"] == "", "minus the last layer's")
    heads = {"zero-shot": "zero-shot, %", "linear probe": "linear probe, %"}
    return _wide(found, heads | {"minus the last layer's": "probe minus the last layer's, points"}, ["layer"])


def costs(results: Results) -> pd.DataFrame:
    """What a system costs beside the tower, counted (notebook 05)."""
    found = pd.concat([_systems(results, MASKS), rows(results, MASKS, "timings.json")])
    found = found[found["metric"].str.split(", ").str[0].isin(COSTS)]
    kinds = [metric.partition(", ") for metric in found["metric"]]  # of a tower, or of a batch
    looks = [COSTS[kind] for kind, *_ in kinds]
    heads = {"".join(k): head.format(k[2]) for k, (head, *_) in zip(kinds, looks, strict=True)}
    text = [f"{v * factor:,.{digits}f}" for v, (_, factor, digits) in zip(found["value"], looks, strict=True)]
    return _wide(found.assign(text=text), heads, ["system"])


def tuning_costs(results: Results) -> pd.DataFrame:
    """What tuning an image-level system takes (notebook 04); none where it did not run."""
    counted, timed = _systems(results, FULL), rows(results, FULL, "timings.json")
    counted = counted[counted["metric"].str.contains("classifier aside", regex=False)]
    timed = timed[timed["unit"].isin(["seconds", "MiB"]) & timed["system"].isin(counted["system"])]
    heads = {metric: metric.replace(", classifier aside", "") for metric in counted["metric"].unique()}
    heads |= {row.metric: f"{row.metric}, {row.unit}" for row in timed.itertuples()}
    return _wide(pd.concat([counted, timed]), heads, ["system"])


def time_ratios(results: Results) -> pd.DataFrame:
    """Forward passes measured in turn, as ratios (notebooks 04, 05 and 07), for either tower."""
    found = pd.concat([rows(results, n, "timings.json", all_towers=True) for n in (FULL, MASKS, SC_CLIP)])
    found = found[(found["unit"] == "ratio") & (found["metric"] != "time / " + found["system"])]
    heads = {"system": "system", "metric": "measured", "text": "ratio", "dataset": "tower", "n": "rounds"}
    return found[list(heads)].rename(columns=heads)


def longest(results: Results) -> Results:
    """Of these results and the long runs beside them those whose systems for whole images are trained the longest."""
    long = results.trained
    return long if long is not None and (long.folder / FULL / "metrics.json").is_file() else results


def against_others(results: Results, system: str) -> pd.DataFrame:
    """A system's paired differences in top-1 accuracy to the others, with the verdicts of notebook 04, of `longest`."""
    found = rows(longest(results), FULL)
    found = found[(found["system"] == system) & (found["metric"] == "top-1 accuracy") & (found["minus"] != "")]
    found = found[~found["minus"].str.startswith(f"{system}, ") & found["n_train"].isna()]  # no points of the curve
    heads = {"minus": "compared with", "regime": "learns from", "text": "points", "verdict": "verdict"}
    return found[list(heads)].rename(columns=heads)


def advice(results: Results) -> pd.DataFrame:
    """Task by task the system to use, what it reaches, what it costs, and what it was held against.

    Of image-level systems the highest of those that are *better* than zero-shot; zero-shot where there is none.
    For distributions (of `longest`) and masks (of `masked`) the best number, with the runner-up beside it. Image-level
    systems are left out where `choices` has them, trained to convergence.
    """
    top, lines = accuracies(results), []
    tasks = {"no labels": ["", "label-free"], "a few labels": ["", "label-free", "supervised"]}
    for task, regimes in tasks.items() if choices(results).empty else ():
        tried = top[top["regime"].isin(regimes)]
        if ZERO_SHOT not in set(tried["system"]):
            continue
        best = tried[tried["verdict"] == "better"].nlargest(1, "value")
        best = (tried[tried["system"] == ZERO_SHOT] if best.empty else best).to_dict("records")[0]
        tuned = tried[tried["regime"] != ""]["verdict"]
        won, tied = (tuned == "better").sum() or "none", (tuned == NO_DIFFERENCE).sum()
        why = f"of {len(tuned)} tuned systems {won} better than zero-shot, {tied} no different"
        few = tuned[tuned.str.startswith("undecided")]
        why += "".join(f", {n} {verdict}" for verdict, n in few.value_counts().items())
        lines.append(_line(results, f"Name an image, {task}", best, why))
    mixes = _systems(longest(results), FULL)
    mixes = mixes[(mixes["metric"] == "kl, tempered") & mixes["converged"].ne(False)]
    lines.append(_best(results, "Tell the mix of emotions", mixes, lowest=True))
    found = masked(results)
    found = found[found["low"].notna()]
    for task, metric in (("classes with masks to learn from", "seen mIoU"), ("other classes", "unseen mIoU")):
        lines.append(_best(results, f"Masks, of {task}", found[found["metric"] == metric]))
    return pd.DataFrame([line for line in lines if line])


def _best(results: Results, task: str, tried: pd.DataFrame, *, lowest: bool = False) -> dict[str, str] | None:
    order = tried.sort_values("value", ascending=lowest, kind="stable").to_dict("records")
    if not order:
        return None
    why = f"the best of {len(order)}"
    if len(order) > 1:
        first, second = order[:2]
        apart = second["high"] < first["low"] or first["high"] < second["low"]
        why += f"; next {second['name']}, {span(second)}{'' if apart else '; the two intervals overlap'}"
    return _line(results, task, order[0], why)


def _line(results: Results, task: str, row: Mapping[str, Any], why: str) -> dict[str, str]:
    metric = {"top-1 accuracy": "", "kl, tempered": "KL to the true mix"}.get(row["metric"], row["metric"])
    gains = pd.notna(row["converged"]) and not row["converged"]
    reaches = f"{span(row)} {metric}".strip() + ", and still gained when training ended" * gains
    return {"task": task, "use": row["name"], "reaches": reaches, "costs": _cost(results, row), "why": why}


def _cost(results: Results, row: Mapping[str, Any]) -> str:
    """What a system takes: parameters and training of notebook 04 or 05, time of a forward pass beside the tower's."""
    system, parts = row["system"].removesuffix(RECALIBRATED), []
    for notebook, nothing in ((FULL, "the classifier alone is trained"), (MASKS, "nothing to train")):
        found, timed = _systems(results, notebook), rows(results, notebook, "timings.json")
        here = found["metric"].str.startswith("trained, ") & ~found["metric"].str.endswith("/random")
        trained = found[(found["system"] == system) & (here | (found["metric"] == TRAINED_HERE))]["value"].max()
        timed = timed[timed["system"] == system]
        took = [f"{t.value:.3g} {t.unit} ({t.metric})" for t in timed.itertuples() if t.unit in ("seconds", "MiB")]
        if trained >= 0:  # where nothing was counted it is no number
            beside = " beside the classifier" if notebook == FULL else ""
            parts = [f"{number(trained, 'count')} parameters trained{beside}", *took] if trained else [nothing]
            break
    if not parts:  # several seeds: something was trained
        several = pd.notna(row["seeds"]) and row["seeds"] > 1
        unknown = "trained on sentences alone" if row["regime"] == "no training" else "what it trains was not counted"
        parts = [unknown if several else "nothing to train"]
    ratios = pd.concat([rows(results, notebook, "timings.json") for notebook in (FULL, SC_CLIP)])
    ratios = ratios[ratios["metric"].isin(["time / the tower alone", "time / encode_image"])]
    for ratio in ratios[ratios["system"] == system][:1].itertuples():
        if ratio.low > 1 or ratio.high < 1:  # else it is noise
            how = "" if row["system"] == system else ", with the settings of its release,"
            parts.append(
                f"a forward pass{how} takes {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times the tower's"
            )
    return "; ".join(parts)
