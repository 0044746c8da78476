"""The fidelity card as a figure, made from ``fidelity.json`` alone so that the two cannot disagree."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from hc_lafter.embedded.cards import band_text, measures, number, read
from hc_lafter.files import write_whole
from hc_lafter.suite.figures import saved
from hc_lafter.suite.plots import HIGHLIGHT, NEUTRAL, at_width

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's; one for each CLIP
BAND = "#DCE9DC"
# Inches: a row of the figure and what parts two facts (in rows), names, axis, a column of numbers, the right panels.
_ROW, _GAP, _NAMES, _AXIS, _COLUMN, _RIGHT = 0.19, 0.35, 3.0, 3.0, 0.68, 2.9
_DRAWN = ("fraction", "difference", "correlation")  # units that share the figure's axis


def write_figure(folder: Path) -> Path:
    """Write ``fidelity.png`` beside a ``fidelity.json``, from it alone. Raises ValueError as `read`."""
    with at_width("double"):
        return write_whole(folder / "fidelity.png", saved(draw(read(folder)), "png"))


def draw(facts: Mapping[str, Any]) -> Figure:
    """The card as a figure: a row per measure at the left, accuracy against labels and by layer at the right."""
    models = facts["models"]
    high = _ROW * (len(list(measures(facts))) + _GAP * len(facts["facts"]) + 1)
    across = _NAMES + _AXIS + _COLUMN * len(models)  # where the right half begins
    width, height = across + 0.85 + _RIGHT + 0.15, high + 1.15
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")  # the places are inches, not what a layout finds

    def axes(left: float, bottom: float, wide: float, tall: float) -> Axes:
        return figure.add_axes((left / width, bottom / height, wide / width, tall / height))

    _rows(axes(_NAMES, 0.95, _AXIS, high), facts)
    _curve(axes(across + 0.85, 0.95 + 0.42 * high, _RIGHT, 0.58 * high - 0.2), facts)
    _depth(axes(across + 0.85, 0.95, _RIGHT, 0.42 * high - 0.75), facts)
    for ax in figure.axes:
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_size(8.5)
        ax.yaxis.label.set_size(8.5)
    keys = [
        Line2D([], [], marker="o", color=colour, linewidth=2, markersize=5, label=name)
        for name, colour in zip(models, _colours(models), strict=True)
    ]
    keys += [
        Patch(color=BAND, label="band, fixed beforehand"),
        Line2D([], [], marker="D", color="black", markerfacecolor="white", linewidth=0, markersize=5,
               label="published, real CLIP on photographs"),
        Line2D([], [], marker="x", color="black", linewidth=0, markersize=4.5, markeredgewidth=1.4,
               label="band missed"),
    ]  # fmt: skip
    figure.legend(handles=keys, loc="lower center", ncol=len(keys), frameon=False, fontsize=8.5)
    return figure


def _colours(models: Mapping[str, Any]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(models))]


def _rows(ax: Axes, facts: Mapping[str, Any]) -> None:
    models, rows = facts["models"], list(measures(facts))
    lows = [m["measured"][key]["low"] for m in models.values() for _, key, spec in rows if spec["unit"] in _DRAWN]
    low, high = min(-0.2, min(lows)) - 0.04, 1.02
    step = 0.56 / max(len(models), 2)
    begin, columns = 0.1 / _AXIS - _NAMES / _AXIS, [1.03 + _COLUMN / _AXIS * i for i in range(len(models))]
    across = ax.get_yaxis_transform()
    y, ticks, before = 0.0, {}, None
    for fact, key, m in rows:
        if fact["id"] != before:
            y, before = y - _GAP, fact["id"]
            ax.text(begin, y, fact["id"], transform=across, fontsize=8.5, weight="bold", va="center")
            if ticks:
                ends, at = [begin, columns[-1] + 0.9 * _COLUMN / _AXIS], y + (1 + _GAP) / 2
                ax.plot(ends, [at, at], transform=across, color="#D0D0D0", linewidth=0.6, clip_on=False)
        ticks[y] = m["text"]
        drawn = m["unit"] in _DRAWN
        if drawn and m["band"] is not None:
            a, b = (end if edge is None else edge for edge, end in zip(m["band"], (low, high), strict=True))
            ax.fill_between([a, b], y - 0.42, y + 0.42, color=BAND, linewidth=0, zorder=0)
        for i, (model, colour) in enumerate(zip(models.values(), _colours(models), strict=True)):
            e, missed = model["measured"][key], model["verdicts"][key] == "missed"
            at = y + step * ((len(models) - 1) / 2 - i)
            if drawn:
                ax.plot([e["low"], e["high"]], [at, at], color=colour, linewidth=1.6, solid_capstyle="round")
                ax.plot([e["value"]], [at], "o", color=colour, markersize=4)
            ax.text(columns[i], y, number(e["value"], m["unit"]) + (" ×" if missed else ""), color=colour,
                    transform=across, fontsize=7.5, va="center", weight="bold" if missed else "normal")  # fmt: skip
        published = (fact["published"] or {"values": {}})["values"]
        if drawn and key in published:
            ax.plot(published[key], y, "D", color="black", markerfacecolor="white", markersize=4.5, zorder=4)
        if not drawn:
            where = "shown at the right" if m["unit"] == "labels" else "a ratio, not on this axis"
            band = "" if m["band"] is None else f"band {band_text(m['band'])}, "
            ax.text(0.5, y, band + where, fontsize=7.5, color="#555555", va="center", ha="center", style="italic")
        y -= 1
    for x, name, colour in zip(columns, models, _colours(models), strict=True):
        ax.text(x, 0.5, textwrap.shorten(name, 10, placeholder="...") if len(name) > 10 else name, color=colour,
                transform=across, fontsize=8, weight="bold", va="center")  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.7, zorder=1)
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    for label, (_, _, m) in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_color("black" if m["band"] is not None else "#666666")
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(low, high), ylim=(y + 0.4, 0.4), xlabel=_unit_label(facts["sizes"]))
    ax.xaxis.set_major_locator(MultipleLocator(0.25))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="y", visible=False)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)


def _unit_label(sizes: Mapping[str, int]) -> str:
    what = "fraction, difference of fractions, or correlation"
    return f"{what}\n95% intervals; {sizes['test']:,} test images, masks of {sizes['masks']:,}"


def _curve(ax: Axes, facts: Mapping[str, Any]) -> None:
    models, classes = facts["models"], 8
    band = next(m["band"] for _, key, m in measures(facts) if key == "crossing")
    ax.axvspan(*band, color=BAND, linewidth=0, zorder=0)
    for model, colour in zip(models.values(), _colours(models), strict=True):
        at = [row["labels per class"] for row in model["curve"]]
        value, low, high = ([row[k] for row in model["curve"]] for k in ("value", "low", "high"))
        ax.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(at, value, "o-", color=colour, markersize=3.5, linewidth=1.6)
        ax.axhline(model["measured"]["zero-shot"]["value"], color=colour, linestyle=(0, (1, 1.5)), linewidth=1.4)
        e = model["measured"]["crossing"]
        if e["value"] is not None:
            ax.plot(e["value"], model["measured"]["zero-shot"]["value"], "o", color=colour, markersize=9,
                    markerfacecolor="none", markeredgewidth=1.4)  # fmt: skip
    said = facts["curve"]
    ax.plot(np.array(said["labels"]) / classes, said["accuracy"], "D--", color=NEUTRAL, markersize=4, linewidth=1.2,
            markerfacecolor="white")  # fmt: skip
    ax.axhline(facts["ceiling"]["value"], color=HIGHLIGHT, linestyle=(0, (4, 3)), linewidth=1)
    ax.set_xscale("log")
    marks = (1, 4, 16, 64, 250, 1000)
    ax.set_xticks(marks, [f"{k:,}" for k in marks])
    ax.minorticks_off()
    ax.set(xlim=(0.85, 3300), ylim=(0, 1), xlabel="labels per class", ylabel="top-1 accuracy on emotions")
    ax.set_title("Accuracy against labels", loc="left", fontsize=10)
    ax.legend(
        handles=[
            Line2D([], [], marker="o", color="#444444", markersize=3.5, label="linear probe"),
            Line2D([], [], color="#444444", linestyle=(0, (1, 1.5)), label="zero-shot"),
            Line2D([], [], marker="D", color=NEUTRAL, linestyle="--", markersize=4, markerfacecolor="white",
                   label=said["text"]),
            Line2D([], [], color=HIGHLIGHT, linestyle=(0, (4, 3)), label="best reader of the scenes"),
        ],
        loc="lower right", fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none",
    )  # fmt: skip


def _depth(ax: Axes, facts: Mapping[str, Any]) -> None:
    models = facts["models"]
    for model, colour in zip(models.values(), _colours(models), strict=True):
        for reader, line in (("probe", "-"), ("zero-shot", (0, (1, 1.5)))):
            rows = model["layers"][reader]
            at = range(1, len(rows) + 1)
            ax.fill_between(at, [r["low"] for r in rows], [r["high"] for r in rows], color=colour, alpha=0.15, lw=0)
            ax.plot(at, [r["value"] for r in rows], color=colour, linestyle=line, marker="o", markersize=3)
    ax.set(ylim=(0, 1), xlabel="layer", ylabel="top-1 accuracy")
    ax.set_xticks(range(1, len(rows) + 1))
    labels = next(iter(models.values()))["layers"]["labels"]
    ax.set_title("Accuracy by layer", loc="left", fontsize=10)
    ax.legend(
        handles=[
            Line2D([], [], color="#444444", marker="o", markersize=3, label=f"probe, {labels:,} labels"),
            Line2D([], [], color="#444444", linestyle=(0, (1, 1.5)), marker="o", markersize=3, label="zero-shot"),
        ],
        loc="upper left", fontsize=7.5, frameon=False,
    )  # fmt: skip
