"""Numbers in, axes out: what the notebooks draw. Nothing here computes a metric or writes a file.

One palette: a system keeps its colour in every figure. The colours are Okabe and Ito's, safe for colour-blind readers;
where their eight run out darker sisters follow, and the controls are greys with broken lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

PALETTE = {
    "zero-shot": "#0072B2",
    "mean of prose": "#B0B0B0",
    "text classifier": "#774433",
    "linear probe": "#000000",
    "LaFTer": "#E69F00",
    "multi-layer LaFTer": "#56B4E9",
    "multi-layer LaFTer (B/16 segments)": "#003B5C",
    "mean of layers": "#444444",
    "HybridCascade-LaFTer": "#D55E00",
    "Cascade-CLIP": "#009E73",
    "SC-CLIP": "#CC79A7",
}
LINES = {"mean of prose": "--", "mean of layers": ":"}  # all others are drawn through
NEUTRAL = "#8A8A8A"
HIGHLIGHT = "#7B3294"  # no system's colour: for what is pointed at
EMOTION_COLOURS = {  # warm for the four positive ones of Mikels' eight, cold and dark for the four negative ones
    "amusement": "#F0E442", "awe": "#56B4E9", "contentment": "#009E73", "excitement": "#E69F00",
    "anger": "#D55E00", "disgust": "#6B8E23", "fear": "#5E3C99", "sadness": "#0072B2",
}  # fmt: skip
VERDICTS = {"better": ("#01665E", "^"), "worse": ("#8C510A", "v"), "no difference": (NEUTRAL, "o")}  # colour, marker


WIDTHS = {"single": 3.5, "double": 7.2}  # inches: a column, and a page of two columns, of most journals
_width = "double"  # at which the next figure is drawn


@contextmanager
def at_width(name: str) -> Iterator[None]:
    """Figures that are drawn in here are as wide as ``WIDTHS`` says."""
    global _width
    before, _width = _width, name
    try:
        yield
    finally:
        _width = before


def narrow() -> bool:
    """Whether the figure that is being drawn is one column wide."""
    return _width == "single"


def panels(count: int = 1, *, columns: int | None = None, height: float = 2.4, **subplots) -> tuple[Figure, np.ndarray]:
    """A figure of the present width with [count] axes, side by side in double width, one below the other in single.

    Args:
        columns: axes in a row at double width; all of them up to three by default.
        height: of a row of axes, in inches.
        subplots: as matplotlib's ``Figure.subplots`` takes them (``sharey``, ``subplot_kw``, ``width_ratios``; ratios
            are left out where the panels stand one below the other).
    """
    columns = 1 if _width == "single" else min(count, columns or 3)
    rows = -(-count // columns)
    if columns == 1:
        subplots.pop("width_ratios", None)
    figure = plt.figure(figsize=(WIDTHS[_width], rows * height))
    axes = figure.subplots(rows, columns, squeeze=False, **subplots).ravel()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


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
    line = LINES.get(system, "-")
    ax.plot(layers, value, line, marker="o", color=colour, markersize=4, linewidth=1.8, label=label or system)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
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


def times(ax: Axes, ratios: Mapping[str, Mapping[str, float]]) -> Axes:
    """Ratios of times {value, low, high} by system, the first on top, 1 marked: what ``costs.ratios`` gives."""
    rows = np.arange(len(ratios))[::-1]
    for y, (system, r) in zip(rows, ratios.items(), strict=True):
        colour = PALETTE.get(system.split(",")[0], NEUTRAL)
        ax.plot([r["low"], r["high"]], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        ax.plot([r["value"]], [y], "o", color=colour, markersize=7)
        _at_right(ax, y, f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]")
    ax.axvline(1, color="black", linewidth=0.8, zorder=0)
    ax.set_yticks(rows, list(ratios))
    ax.set_ylim(-0.6, len(ratios) - 0.4)
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


def bars(
    ax: Axes,
    systems: Sequence[str],
    value: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Axes:
    """Systems as dots with intervals, the first on top, in their colours, the numbers at the right; fractions.

    Args:
        names: what stands at the rows, where it is more than the system.
        levels: name -> where a broken line is drawn: chance, a ceiling.
    """
    rows = np.arange(len(systems))[::-1]
    for y, system, v, a, b in zip(rows, systems, value, low, high, strict=True):
        colour = PALETTE.get(system, NEUTRAL)
        ax.plot([a, b], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        ax.plot([v], [y], "o", color=colour, markersize=7)
        _at_right(ax, y, f"{v:.1%} [{100 * a:.1f}, {100 * b:.1f}]")
    for name, at in (levels or {}).items():
        ax.axvline(at, color=NEUTRAL, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        ax.annotate(
            name, (at, len(systems) - 0.4), color=NEUTRAL, fontsize=8.5, ha="center", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    ax.set_yticks(rows, names or systems)
    ax.set_ylim(-0.6, len(systems) - (0.1 if levels else 0.4))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.grid(axis="y", visible=False)
    return ax


def forest(ax: Axes, groups: Mapping[str, Mapping[str, object]]) -> Axes:
    """Ablations at a glance: paired differences to the full system under their headings, coloured by verdict.

    Args:
        groups: heading -> name -> what ``statistics.compare_all`` gives: value, low, high (fractions, shown as points
            of 100) and verdict. Colour and marker follow the verdict, which may be stricter than the interval.
    """
    y, ticks = 0.0, {}
    for heading, rows in groups.items():
        ax.text(0.01, y, heading, transform=ax.get_yaxis_transform(), fontsize=9, weight="bold", va="center")
        for name, c in rows.items():
            y -= 1
            ticks[y] = name
            colour, marker = VERDICTS[c.verdict]
            face = "white" if c.verdict == "no difference" else colour
            ax.plot([c.low, c.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
            ax.plot([c.value], [y], marker, color=colour, markersize=8, markerfacecolor=face, markeredgewidth=1.6)
            _at_right(ax, y, f"{100 * c.value:+.1f} [{100 * c.low:+.1f}, {100 * c.high:+.1f}]")
        y -= 1.3
    ax.axvline(0, color="black", linewidth=0.8, zorder=1)
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set_ylim(y - 0.3, 0.6)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    ax.grid(axis="y", visible=False)
    shown = [
        Line2D([], [], marker=m, color=c, markersize=7, markerfacecolor="white" if v == "no difference" else c, label=v)
        for v, (c, m) in VERDICTS.items()
    ]
    ax.legend(handles=shown, loc="lower center", ncol=3, fontsize=8.5, borderaxespad=0.2)
    return ax


def confusion(ax: Axes, matrix: np.ndarray, classes: Sequence[str]) -> Axes:
    """Counts [C, C], row the true class; the shade is the share of the row, the number (up to 12 classes) the count."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(counts.shape if len(classes) <= 12 else (0, 0)):
        shade = "white" if share[i, j] > 0.5 else "black" if counts[i, j] else NEUTRAL
        ax.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=shade)
    at = np.arange(len(classes))
    ax.set_xticks(at, classes, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_yticks(at, classes, fontsize=8)
    ax.set(xlabel="predicted", ylabel="true class")
    ax.grid(visible=False)
    return ax


def curves(ax: Axes, at: Sequence[float], runs: np.ndarray, *, system: str, label: str | None = None) -> Axes:
    """A training curve: the mean of the runs [seeds, n] over steps or epochs ``at`` [n], their least and most a band.

    A run that diverged (NaN from some step on) breaks the curve off there: the mean of the others is not drawn.
    """
    runs, colour = np.atleast_2d(runs), PALETTE.get(system, NEUTRAL)
    ax.fill_between(at, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    ax.plot(at, runs.mean(axis=0), LINES.get(system, "-"), color=colour, linewidth=1.6, label=label or system)
    return ax


def phases(ax: Axes, spans: Mapping[str, tuple[float, float]]) -> Axes:
    """Training phases, name -> (first, last) on the x axis: every second one shaded, names above the curves."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.12 * (top - bottom))  # room for the names
    for i, (name, (first, last)) in enumerate(spans.items()):
        ax.axvspan(first, last, color=NEUTRAL, alpha=0.14 if i % 2 == 0 else 0.0, linewidth=0, zorder=0)
        ax.text(
            (first + last) / 2, 0.985, name, transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=8,
            color="#555555",
        )  # fmt: skip
    return ax


def reliability(
    ax: Axes, confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray, *, system: str, label: str | None = None
) -> Axes:
    """Reliability diagram of ``metrics.calibration``'s M bins: a dot each, its area the share of images.

    Empty bins have none. Below the diagonal the system is surer than it is right. Several may share the axes.
    """
    seen = np.asarray(share) > 0
    x, y, area = (np.asarray(v, dtype=float)[seen] for v in (confidence, accuracy, share))
    colour = PALETTE.get(system, NEUTRAL)
    if not ax.lines:
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    ax.plot(x, y, LINES.get(system, "-"), color=colour, linewidth=1, alpha=0.6)
    ax.scatter(x, y, s=8 + 400 * area, color=colour, alpha=0.75, linewidth=0, clip_on=False, label=label or system)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    return ax


def wheel(ax: Axes, ring: Sequence[str], p: np.ndarray, *, others: Mapping[str, np.ndarray] | None = None) -> Axes:
    """A label distribution [K] on its ring: K sectors clockwise from the top, the radius is the probability.

    Args:
        ax: polar axes, ``subplot_kw={"projection": "polar"}``.
        ring: the K names in the order of the ring (``wheels.Wheel.ring``), which is that of ``p``, too.
        others: name -> [K], up to four further distributions as outlines: the truth, another strategy.

    Raises:
        ValueError: the axes are not polar.
    """
    if ax.name != "polar":
        raise ValueError('a wheel needs polar axes: give subplot_kw={"projection": "polar"}.')
    angle, width = 2 * np.pi * np.arange(len(ring)) / len(ring), 2 * np.pi / len(ring)
    ax.set_theta_zero_location("N")
    ax.set_theta_direction(-1)
    shades = [EMOTION_COLOURS.get(name, NEUTRAL) for name in ring]
    ax.bar(angle, p, width=width, color=shades, alpha=0.85, edgecolor="white", linewidth=1)
    for (name, q), line in zip((others or {}).items(), ("-", "--", ":", "-."), strict=False):
        ax.bar(angle, q, width=width, fill=False, edgecolor="black", linestyle=line, linewidth=1.1, label=name)
    ax.set_xticks(angle, ring, fontsize=8)
    for text, at in zip(ax.get_xticklabels(), np.sin(angle).round(6), strict=True):
        text.set_ha("center" if at == 0 else "left" if at > 0 else "right")
    ax.tick_params(axis="x", pad=1)
    ax.tick_params(axis="y", labelsize=7, labelcolor="#555555")
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.set_rlabel_position(np.degrees(angle[np.argmax(p)] + np.pi + width / 2) % 360)  # where the sectors are short
    return ax


def weights_heat(ax: Axes, weights: np.ndarray, layers: Sequence[str | int], sigmas: Sequence[float]) -> Axes:
    """Aggregation weights [L, K] of L layers (rows, as given) at K sigmas (columns); numbers are shown up to K = 12."""
    weights = np.asarray(weights)
    ax.imshow(weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(weights.shape if len(sigmas) <= 12 else (0, 0)):
        shade = "black" if weights[i, j] > 0.6 else "white"
        ax.text(j, i, f"{weights[i, j]:.2f}", ha="center", va="center", fontsize=8, color=shade)
    ax.set_xticks(np.arange(len(sigmas)), [f"{s:g}" for s in sigmas])
    ax.set_yticks(np.arange(len(layers)), layers)
    ax.set(xlabel="sigma (layers)", ylabel="layer")
    ax.grid(visible=False)
    return ax


def shares(ax: Axes, at: Sequence[float], parts: np.ndarray, *, colours: Sequence[str]) -> Axes:
    """Shares [K, L] of L parts at K places, stacked: the first at the bottom. What sums to one fills the axes."""
    ax.stackplot(at, *np.asarray(parts).T, colors=colours, edgecolor="white", linewidth=0.6)
    ax.set(xlim=(min(at), max(at)), ylim=(0, 1))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.grid(visible=False)
    return ax


def _at_right(ax: Axes, y: float, text: str) -> None:
    ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), fontsize=8.5, va="center", family="monospace")
