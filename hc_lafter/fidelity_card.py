"""The fidelity card as text and figure, made from ``fidelity.json`` alone so that the three cannot disagree."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hc_lafter.files import write_whole
from hc_lafter.suite.figures import saved
from hc_lafter.suite.plots import BROKEN, HIGHLIGHT, NEUTRAL, NOTE, ROW, WIDTHS, at_width, band, fit, legend_below

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's; one for each CLIP
BAND = "#DCE9DC"
CLASSES = 8  # of the emotions: published curves count labels in all
_DRAWN = ("fraction", "difference", "correlation")  # units that share the figure's axis


def verdict(value: float | None, band: Sequence[float | None] | None) -> str:
    """``met`` or ``missed`` by the value (not its interval), ends included; ``reported`` where there is no band.

    None is what was never reached: it misses every band.
    """
    if band is None:
        return "reported"
    low, high = band
    if value is None or not np.isfinite(value):
        return "missed"
    return "met" if (low is None or value >= low) and (high is None or value <= high) else "missed"


def read(folder: Path) -> dict[str, Any]:
    """``fidelity.json``, checked: every measure is there, and every verdict is what its number and band give.

    Raises:
        ValueError: the file is not there, or is none of `hc_lafter.fidelity`'s, or was changed by hand.
    """
    source = folder / "fidelity.json"
    try:
        facts = json.loads(source.read_text(encoding="utf-8"))
        for name, model in facts["models"].items():
            for _, key, m in _measures(facts):
                own, said = verdict(model["measured"][key]["value"], m["band"]), model["verdicts"][key]
                if own != said:
                    value = model["measured"][key]["value"]
                    raise ValueError(f"{name}, {key}: {value} in the band {m['band']} is {own}, not {said}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source} holds no fidelity measurements ({type(error).__name__}: {error}): make it again with "
            "`python -m hc_lafter.fidelity`."
        ) from error
    return facts


def write_card(folder: Path) -> Path:
    """Write ``FIDELITY_CARD.md`` beside a ``fidelity.json``, from it alone. Raises ValueError as `read`."""
    return write_whole(folder / "FIDELITY_CARD.md", fidelity_card(read(folder)))


def write_figure(folder: Path) -> list[Path]:
    """Write ``fidelity.png`` and ``.svg`` beside a ``fidelity.json``, from it alone. Raises ValueError as `read`."""
    with at_width("double"):
        figure = fit(draw(read(folder)))
        return [write_whole(folder / f"fidelity.{form}", saved(figure, form)) for form in ("png", "svg")]


# --- text ---


def fidelity_card(facts: Mapping[str, Any]) -> str:
    """Markdown of what `hc_lafter.fidelity.fidelity` returns."""
    models, sizes = facts["models"], facts["sizes"]
    missed = {name: [k for k, said in m["verdicts"].items() if said == "missed"] for name, m in models.items()}
    judged = sum(m["band"] is not None for _, _, m in _measures(facts))
    ceiling = facts["ceiling"]
    parts = [
        "# Fidelity card: does the embedded CLIP have the shape of a real one?",
        "Generated from `fidelity.json` by `python -m hc_lafter.fidelity --card --out <folder>`; do not edit.",
        f"Measured on the world of seed {facts['world_seed']}, "
        + ("which neither training nor any choice has touched: " if facts["held_out"] else "NOT the held-out one: ")
        + f"{sizes['train']:,} images to draw labels from, {sizes['val']:,} on which every probe's C was chosen, "
        f"{sizes['test']:,} test images, masks of the first {sizes['masks']:,}. Bands were fixed before the CLIPs that "
        "they judge were trained; the value decides, not its interval. Fractions, [95% interval].",
        "\n".join(
            f"- **{name}** (weights `{models[name]['weight_hash'][:16]}`): {judged - len(keys)} of {judged} bands met"
            + (f"; MISSED: {', '.join(keys)}." if keys else ".")
            for name, keys in missed.items()
        ),
        f"The best reader of the scenes, who knows the exact posterior, names {_interval(ceiling)} of the test labels.",
        "![The bands, and accuracy against labels](fidelity.png)",
        "## Facts",
        "Published figures are of real CLIPs on photographs, each read in the source named: they say which shape is "
        "meant, not which value.",
        *_facts(facts),
        "## Accuracy against labels per class",
        f"Linear probe on the last layer's feature in the shared space, as in notebook 01; {sizes['draws']} draws of "
        "the labelled images, one of the whole pool (last row). Intervals cover the test images and, but for the last "
        "row, the draws. C is chosen on the whole validation split, which holds more labels than the small draws.",
        _table(
            ("labels per class", *models),
            [
                (f"{rows[0]['labels per class']:g}", *map(_interval, rows))
                for rows in zip(*(m["curve"] for m in models.values()), strict=True)
            ]
            + [("zero-shot", *(_interval(m["measured"]["zero-shot"]) for m in models.values()))],
        ),
        f"Published, {facts['curve']['text'].removesuffix(' (published)')}: "
        + ", ".join(
            f"{a:.3f} with {k:,}" for k, a in zip(facts["curve"]["labels"], facts["curve"]["accuracy"], strict=True)
        )
        + f" labels in all ({facts['curve']['source']}).",
        "## Emotions by layer",
        f"Zero-shot (names in templates) and a probe with {next(iter(models.values()))['layers']['labels']:,} labels.",
        _layers(models),
        "## Masks by class",
        "IoU of the value path, all classes competing; the patch probe's layer and C were chosen on validation "
        "patches: "
        + "; ".join(
            f"{name} layer {p['layer']}, C {p['C']:g}, {p['patches']:,} patches"
            for name, p in ((name, m["chosen"]["patch probe"]) for name, m in models.items())
        )
        + ".",
        _table(
            ("class", *models),
            [(c, *(_number(m["iou"][c]) for m in models.values())) for c in next(iter(models.values()))["iou"]],
        ),
        "## How it was measured",
        _bullets(
            "Labels are the simulated votes' majority, as in the notebooks.",
            f"Attributes: {sizes['attributes']:,} labels each, on the last layer's CLS token; a factor counts as drawn "
            "for the scene, hidden or not. Expression: the `face` factor among pictures in which a person can be seen. "
            "A foreground object is present where it covers enough of the picture to be named by a caption.",
            f"Retrieval: {sizes['captions']:,} test pictures and one caption each that leaves nothing out.",
            f"Descriptions: `{facts['descriptions']}`.",
            "Masks: argmax over all classes, logits bilinear to the picture. The oracle tells each patch's share of "
            f"every class. The patch probe learns from the patches of {sizes['pixels']:,} training images whose most "
            "frequent class is a seen one; it and the value path are compared where the true class is a seen one, "
            "among the seen classes.",
            "SC-CLIP, released: the settings for ViT-B/16, LOF's neighbours as a share of the patches. Recalibrated: "
            "this package's preset for the embedded CLIP, chosen on validation images of another world.",
            "Intervals: Wilson's for shares; for differences, masks, curves and correlations the bootstrap over the "
            f"test images and, where there are several, the draws ({sizes['resamples']:,} resamples). They do not "
            "cover the training seed: for that compare the columns.",
            "The best of the layers is chosen on the test images that it is compared on, so its lead over the last "
            "layer is, if anything, too large. The largest norm of all has no interval: no resample exceeds it.",
            f"Probes choose C from {', '.join(f'{c:g}' for c in facts['cs'])}; the patch probe from "
            f"{', '.join(f'{c:g}' for c in facts['patch_cs'])}.",
            f"Measured on {facts['processor']}"
            + (f" in {facts['seconds'] / 60:.0f} minutes" if "seconds" in facts else "")
            + f" with torch {facts['versions'].get('torch')}, scikit-learn {facts['versions'].get('scikit-learn')}.",
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    models = facts["models"]
    for fact in facts["facts"]:
        rows = [
            (
                m["text"],
                _band(m["band"]),
                *(_shown(model, key, m["unit"]) for model in models.values()),
            )
            for key, m in fact["measures"].items()
        ]
        said = fact["published"]
        published = f"Published: {said['text']}. Source: {said['source']}." if said else "Published: none found."
        yield f"### {fact['id']}. {fact['title']}"
        yield _table(("measure", "band", *models), rows)
        yield published


def _shown(model: Mapping[str, Any], key: str, unit: str) -> str:
    e, said = model["measured"][key], model["verdicts"][key]
    mark = {"met": ", met", "missed": ", **MISSED**", "reported": ""}[said]
    return f"{_interval(e, unit)}, n {e['n']:,}{mark}"


def _interval(e: Mapping[str, Any], unit: str = "fraction") -> str:
    if e["low"] is None and e["value"] is not None:  # no interval: the largest of all
        return _number(e["value"], unit)
    return f"{_number(e['value'], unit)} [{_number(e['low'], unit)}, {_number(e['high'], unit)}]"


def _number(value: float | None, unit: str = "fraction") -> str:
    if value is None:
        return "never" if unit == "labels" else "-"
    return f"{value:{ {'labels': '.1f', 'ratio': '.2f', 'difference': '+.3f'}.get(unit, '.3f') }}"


def _band(band: Sequence[float | None] | None) -> str:
    if band is None:
        return "none"
    low, high = band
    return f">= {low:g}" if high is None else f"<= {high:g}" if low is None else f"{low:g} to {high:g}"


def _layers(models: Mapping[str, Any]) -> str:
    readers = [(name, reader) for name in models for reader in ("zero-shot", "probe")]
    rows = zip(*(models[name]["layers"][reader] for name, reader in readers), strict=True)
    head = ("layer", *(f"{name}, {reader}" for name, reader in readers))
    return _table(head, [(str(i), *map(_interval, row)) for i, row in enumerate(rows, start=1)])


def _measures(facts: Mapping[str, Any]) -> Iterator[tuple[Mapping, str, Mapping]]:
    """(fact, key, measure) in their order."""
    for fact in facts["facts"]:
        for key, m in fact["measures"].items():
            yield fact, key, m


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


# --- figure ---


def draw(facts: Mapping[str, Any]) -> Figure:
    """The card as a figure: a row per measure above, accuracy against labels and by layer below."""
    figure = Figure(figsize=(WIDTHS["double"], ROW * len(list(_measures(facts))) + 3.6))
    above, below = figure.subfigures(2, 1, height_ratios=[2.6, 1])
    curve, depth = below.subplots(1, 2)
    shades = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(facts["models"])}
    _rows(above.subplots(), facts, shades)
    _curve(curve, facts, shades)
    _depth(depth, facts, shades)
    empty = {"color": "black", "markerfacecolor": "white", "linewidth": 0}
    keys = [Line2D([], [], marker="o", color=shade, label=name) for name, shade in shades.items()]
    keys += [Patch(color=BAND, label="band, fixed beforehand")]
    keys += [Line2D([], [], marker="D", label="published, real CLIP on photographs", **empty)]
    keys += [Line2D([], [], marker="x", label="band missed", **empty)]
    legend_below(figure, keys)
    return figure


def _rows(ax: Axes, facts: Mapping[str, Any], shades: Mapping[str, str]) -> None:
    models, measures = facts["models"], list(_measures(facts))
    lows = [m["measured"][key]["low"] for m in models.values() for _, key, spec in measures if spec["unit"] in _DRAWN]
    low, high = min(-0.2, min(lows)) - 0.04, 1.02
    columns = {name: 1.02 + 0.14 * i for i, name in enumerate(models)}
    note = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": NOTE}
    for y, (fact, key, m) in enumerate(measures):
        first = y == 0 or fact["id"] != measures[y - 1][0]["id"]
        m = m | {"name": f"{fact['id']}   {m['text']}" if first else m["text"]}
        measures[y] = (fact, key, m)
        if first and y:
            ax.axhline(y - 0.5, color="#D0D0D0", linewidth=0.6)
        drawn = m["unit"] in _DRAWN
        if drawn and m["band"] is not None:
            a, b = (end if edge is None else edge for edge, end in zip(m["band"], (low, high), strict=True))
            ax.fill_between([a, b], y - 0.42, y + 0.42, color=BAND, linewidth=0, zorder=0)
        for i, (name, model) in enumerate(models.items()):
            e, missed = model["measured"][key], model["verdicts"][key] == "missed"
            at = y + 0.56 / max(len(models), 2) * (i - (len(models) - 1) / 2)
            if drawn:
                ax.plot([e["low"], e["high"]], [at, at], color=shades[name], solid_capstyle="round")
                ax.plot([e["value"]], [at], "o", color=shades[name], markersize=3.5)
            said = _number(e["value"], m["unit"]) + (" ×" if missed else "")
            ax.text(columns[name], y, said, color=shades[name], weight="bold" if missed else "normal", **note)
        published = (fact["published"] or {"values": {}})["values"]
        if drawn and key in published:
            ax.plot(published[key], y, "D", color="black", markerfacecolor="white", zorder=4)
        if not drawn:
            where = "shown below" if m["unit"] == "labels" else "a ratio, not on this axis"
            band_of = "" if m["band"] is None else f"band {_band(m['band'])}, "
            ax.text(0.5, y, band_of + where, ha="center", color="#555555", style="italic", **note)
    for name, x in columns.items():
        short = textwrap.shorten(name, 10, placeholder="...") if len(name) > 10 else name
        ax.text(x, -1, short, color=shades[name], **note | {"weight": "bold"})
    ax.axvline(0, color="black", linewidth=0.7, zorder=1)
    ax.set_yticks(range(len(measures)), [m["name"] for _, _, m in measures])
    for label, (_, _, m) in zip(ax.get_yticklabels(), measures, strict=True):
        label.set_color("black" if m["band"] is not None else "#666666")
    sizes = facts["sizes"]
    what = "fraction, difference of fractions, or correlation; 95% intervals; "
    what += f"{sizes['test']:,} test images, masks of {sizes['masks']:,}"
    ax.set(xlim=(low, high), ylim=(len(measures) - 0.4, -0.6), xlabel=what)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="y", visible=False)


def _curve(ax: Axes, facts: Mapping[str, Any], shades: Mapping[str, str]) -> None:
    ax.axvspan(
        *next(m["band"] for _, key, m in _measures(facts) if key == "crossing"), color=BAND, linewidth=0, zorder=0
    )
    for name, model in facts["models"].items():
        ends = ([row[k] for row in model["curve"]] for k in ("labels per class", "value", "low", "high"))
        band(ax, *ends, colour=shades[name])
        crossing, level = model["measured"]["crossing"]["value"], model["measured"]["zero-shot"]["value"]
        ax.axhline(level, color=shades[name], linestyle=":")
        if crossing is not None:
            ax.plot(crossing, level, "o", color=shades[name], markersize=8, markerfacecolor="none")
    said, grey = facts["curve"], {"color": NEUTRAL, "markerfacecolor": "white"}
    ax.plot(np.array(said["labels"]) / CLASSES, said["accuracy"], "D--", linewidth=1, label=said["text"], **grey)
    ax.axhline(facts["ceiling"]["value"], color=HIGHLIGHT, linestyle=BROKEN, label="best reader of the scenes")
    ax.plot([], [], "o-", color="#444444", label="linear probe")
    ax.plot([], [], ":", color="#444444", label="zero-shot")
    ax.set_xscale("log")
    marks = (1, 4, 16, 64, 250, 1000)
    ax.set_xticks(marks, [f"{k:,}" for k in marks])
    ax.minorticks_off()
    ax.set(xlim=(0.85, 3300), ylim=(0, 1), xlabel="labels per class", ylabel="top-1 accuracy on emotions")
    ax.set_title("Accuracy against labels")
    ax.legend(loc="lower right", fontsize=NOTE, frameon=True, framealpha=0.9, edgecolor="none")


def _depth(ax: Axes, facts: Mapping[str, Any], shades: Mapping[str, str]) -> None:
    for name, model in facts["models"].items():
        for reader, line in (("probe", "o-"), ("zero-shot", "o:")):
            rows = model["layers"][reader]
            at = range(1, len(rows) + 1)
            band(ax, at, *([r[k] for r in rows] for k in ("value", "low", "high")), colour=shades[name], line=line)
    labels = next(iter(facts["models"].values()))["layers"]["labels"]
    ax.plot([], [], "o-", color="#444444", label=f"probe, {labels:,} labels")
    ax.plot([], [], "o:", color="#444444", label="zero-shot")
    ax.set(ylim=(0, 1), xlabel="layer", ylabel="top-1 accuracy", title="Accuracy by layer", xticks=at)
    ax.legend(loc="upper left", fontsize=NOTE)
