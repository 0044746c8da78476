"""Numbers in, axes out: what the notebooks draw. Nothing here computes a metric or writes a file.

One palette: a system keeps its colour in every figure. The colours are Okabe and Ito's, safe for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

PALETTE = {
    "zero-shot": "#0072B2",
    "linear probe": "#000000",
    "LaFTer": "#E69F00",
    "multi-layer LaFTer": "#56B4E9",
    "HybridCascade-LaFTer": "#D55E00",
    "Cascade-CLIP": "#009E73",
    "SC-CLIP": "#CC79A7",
}
NEUTRAL = "#8A8A8A"
HIGHLIGHT = "#7B3294"  # no system's colour: for what is pointed at
EMOTION_COLOURS = {  # warm for the four positive ones of Mikels' eight, cold and dark for the four negative ones
    "amusement": "#F0E442", "awe": "#56B4E9", "contentment": "#009E73", "excitement": "#E69F00",
    "anger": "#D55E00", "disgust": "#6B8E23", "fear": "#5E3C99", "sadness": "#0072B2",
}  # fmt: skip


def layer_curve(
    ax: Axes,
    layers: Sequence[int],
    value: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    system: str,
    label: str | None = None,
) -> Axes:
    """A quantity per layer with its interval as a band; L values each, fractions."""
    colour = PALETTE.get(system, NEUTRAL)
    ax.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(layers, value, "o-", color=colour, markersize=4, linewidth=1.8, label=label or system)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return ax


def level(ax: Axes, value: float, text: str, *, colour: str = NEUTRAL) -> Axes:
    """A labelled horizontal line: chance, a ceiling. The label stands above the line at its left end."""
    ax.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1)
    ax.annotate(
        text, (0.01, value), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
        color=colour, fontsize=8.5, va="bottom",
    )  # fmt: skip
    return ax


def difference(ax: Axes, names: Sequence[str], value, low, high, *, colours: Sequence[str] | None = None) -> Axes:
    """Paired differences as points with intervals, one row each, zero marked; fractions, shown as points of 100."""
    rows = np.arange(len(names))[::-1]
    value, low, high = (np.asarray(v, dtype=float) for v in (value, low, high))
    for y, v, a, b, colour in zip(rows, value, low, high, colours or [NEUTRAL] * len(names), strict=True):
        ax.plot([a, b], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        ax.plot([v], [y], "o", color=colour, markersize=6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    ax.grid(axis="y", visible=False)
    return ax


def picture(ax: Axes, image: np.ndarray, title: str | None = None) -> Axes:
    """An image [height, width, 3] without frame."""
    ax.imshow(image)
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=9, loc="center")
    return ax


def map_over(ax: Axes, values: np.ndarray, *, cmap: str = "magma", vmin=None, vmax=None, title: str | None = None):
    """A map [h, w] of patches without frame; returns the drawn image, for a colour bar."""
    drawn = ax.imshow(values, cmap=cmap, vmin=vmin, vmax=vmax)
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=9, loc="center")
    return drawn


def distribution(ax: Axes, classes: Sequence[str], p: np.ndarray, *, colours: Mapping[str, str] | None = None) -> Axes:
    """One label distribution [C] as bars lying down."""
    shades = [(colours or EMOTION_COLOURS).get(name, NEUTRAL) for name in classes]
    ax.barh(np.arange(len(classes))[::-1], p, color=shades)
    ax.set_yticks(np.arange(len(classes))[::-1], classes, fontsize=7)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "", "1"], fontsize=7)
    ax.grid(axis="y", visible=False)
    return ax


def norm_bands(ax: Axes, layers: Sequence[int], quantiles: np.ndarray, *, colour: str, label: str) -> Axes:
    """Quantiles [L, 5] (1, 25, 50, 75, 99%) of token norms per layer: two bands and the median."""
    ax.fill_between(layers, quantiles[:, 0], quantiles[:, 4], color=colour, alpha=0.12, linewidth=0)
    ax.fill_between(layers, quantiles[:, 1], quantiles[:, 3], color=colour, alpha=0.28, linewidth=0)
    ax.plot(layers, quantiles[:, 2], "o-", color=colour, markersize=4, linewidth=1.8, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax
