"""The figure of the fidelity card: every measure beside its band and what is published of real CLIPs."""

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

from hc_lafter.embedded.cards import band_text, measures, number, read
from hc_lafter.files import write_whole
from hc_lafter.suite.figures import saved
from hc_lafter.suite.plots import BROKEN, HIGHLIGHT, NEUTRAL, NOTE, ROW, WIDTHS, at_width, band, fit, legend_below

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's; one for each CLIP
BAND = "#DCE9DC"
CLASSES = 8  # of the emotions: published curves count labels in all
_DRAWN = ("fraction", "difference", "correlation")  # units that share the figure's axis


def write_figure(folder: Path) -> Path:
    """Write ``fidelity.png`` beside a ``fidelity.json``, from it alone. Raises ValueError as `read`."""
    with at_width("double"):
        return write_whole(folder / "fidelity.png", saved(fit(draw(read(folder))), "png"))


def draw(facts: Mapping[str, Any]) -> Figure:
    """The card as a figure: a row per measure above, accuracy against labels and by layer below."""
    figure = Figure(figsize=(WIDTHS["double"], ROW * len(list(measures(facts))) + 3.6))
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
    models, rows = facts["models"], list(measures(facts))
    lows = [m["measured"][key]["low"] for m in models.values() for _, key, spec in rows if spec["unit"] in _DRAWN]
    low, high = min(-0.2, min(lows)) - 0.04, 1.02
    columns = {name: 1.02 + 0.14 * i for i, name in enumerate(models)}
    note = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": NOTE}
    for y, (fact, key, m) in enumerate(rows):
        first = y == 0 or fact["id"] != rows[y - 1][0]["id"]
        m = m | {"name": f"{fact['id']}   {m['text']}" if first else m["text"]}
        rows[y] = (fact, key, m)
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
            said = number(e["value"], m["unit"]) + (" ×" if missed else "")
            ax.text(columns[name], y, said, color=shades[name], weight="bold" if missed else "normal", **note)
        published = (fact["published"] or {"values": {}})["values"]
        if drawn and key in published:
            ax.plot(published[key], y, "D", color="black", markerfacecolor="white", zorder=4)
        if not drawn:
            where = "shown below" if m["unit"] == "labels" else "a ratio, not on this axis"
            band_of = "" if m["band"] is None else f"band {band_text(m['band'])}, "
            ax.text(0.5, y, band_of + where, ha="center", color="#555555", style="italic", **note)
    for name, x in columns.items():
        short = textwrap.shorten(name, 10, placeholder="...") if len(name) > 10 else name
        ax.text(x, -1, short, color=shades[name], **note | {"weight": "bold"})
    ax.axvline(0, color="black", linewidth=0.7, zorder=1)
    ax.set_yticks(range(len(rows)), [m["name"] for _, _, m in rows])
    for label, (_, _, m) in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_color("black" if m["band"] is not None else "#666666")
    sizes = facts["sizes"]
    what = "fraction, difference of fractions, or correlation; 95% intervals; "
    what += f"{sizes['test']:,} test images, masks of {sizes['masks']:,}"
    ax.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), xlabel=what)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="y", visible=False)


def _curve(ax: Axes, facts: Mapping[str, Any], shades: Mapping[str, str]) -> None:
    ax.axvspan(
        *next(m["band"] for _, key, m in measures(facts) if key == "crossing"), color=BAND, linewidth=0, zorder=0
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
