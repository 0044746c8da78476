"""Pictures with maps beside them, and maps with their numbers, for notebooks 01, 06 and 07. Arrays in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hc_lafter.suite import plots

FRAME = "#00D8FF"  # seen on every shade of magma


@dataclass(frozen=True)
class Column:
    """A column of a `gallery`: a map or picture per image, [n] of [h, w] or [h, w, 3].

    Attributes:
        look: matplotlib's (``cmap``, ``vmin``, ``vmax``), for the whole column; vmin and vmax None: each map has its
            own scale.
        bar: label of the column's colour bar; columns with the same label share one. None: no bar.
        notes: [n] words for the lower left corner.
    """

    values: Sequence[np.ndarray]
    look: Mapping[str, Any] = field(default_factory=dict)
    bar: str | None = None
    notes: Sequence[str] = ()


def grid(rows: int, columns: int, *, height: float = 1.0, **subplots) -> tuple[Figure, np.ndarray]:
    """[rows, columns] axes at double width; at single width the grid is turned, and the axes come as asked for.

    Args:
        height: of a row, in inches. subplots: as matplotlib's ``Figure.subplots`` takes them.
    """
    turned = plots.narrow()
    shape = (columns, rows) if turned else (rows, columns)
    figure = plt.figure(figsize=(plots.WIDTHS["single" if turned else "double"], height * shape[0]))
    axes = figure.subplots(*shape, squeeze=False, **subplots)
    return figure, axes.T if turned else axes


def gallery(
    columns: Mapping[str, Column | Sequence[np.ndarray]],
    *,
    rings: Sequence[np.ndarray] = (),
    crosses: Sequence[np.ndarray] = (),
    cross: str = "red",
    height: float | None = None,
) -> Figure:
    """A row per image, a column per map; at single width it is turned, a row per map.

    Args:
        columns: title -> the maps.
        rings, crosses: [n] of [h, w] bool, patches that are marked on the first column, the image.
        cross: colour of the crosses.
        height: of a row in inches, as high as it is wide by default.
    """
    columns = {name: c if isinstance(c, Column) else Column(c) for name, c in columns.items()}
    n, turned = len(next(iter(columns.values())).values), plots.narrow()
    side = plots.WIDTHS["single"] / n if turned else plots.WIDTHS["double"] / len(columns)
    figure, axes = grid(n, len(columns), height=height or side)
    bars: dict[str, list[Axes]] = {}
    for (name, column), places in zip(columns.items(), axes.T, strict=True):
        for ax, value, note in zip(places, column.values, column.notes or [""] * n, strict=True):
            ax.imshow(value, **({"cmap": "magma"} | dict(column.look)))
            ax.text(0.04, 0.04, note, transform=ax.transAxes, color="white", fontsize=6)
            ax.set_axis_off()
        _titled(places[0], name, turned)
        if column.bar is not None:
            bars.setdefault(column.bar, []).extend(places)
    for label, places in bars.items():
        bar(figure, places[-1].images[0], places, label, location="right" if turned else "bottom")
    for ax, ring in zip(axes[:, 0], rings, strict=False):
        mark(ax, ring, **_RING)
    for ax, marked in zip(axes[:, 0], crosses, strict=False):
        mark(ax, marked, marker="x", color=cross, markersize=5, markeredgewidth=1.5)
    return figure


_RING = {"marker": "o", "color": "red", "fillstyle": "none", "markersize": 5, "markeredgewidth": 1.1}


def mark(ax: Axes, patches: np.ndarray, **look) -> None:
    """Mark patches [h, w] (bool) of the image that the axes show, whatever its size in pixels."""
    height, width = ax.images[0].get_size()
    rows, columns = np.nonzero(patches)
    h, w = np.shape(patches)
    ax.plot((columns + 0.5) * width / w - 0.5, (rows + 0.5) * height / h - 0.5, linestyle="none", **look)


def numbers(
    ax: Axes,
    values: np.ndarray,
    title: str,
    floor: np.ndarray | None = None,
    frames: Sequence[tuple[tuple[int, int], tuple[int, int]]] = (),
    **look,
):
    """A map [L, M] with its numbers, row 1 at the bottom; returns the drawn image, for a colour bar.

    A map that is the same both ways has each number once.

    Args:
        floor: [L, M]; what is no more than that is hatched.
        frames: ((row, column), (height, width)) of blocks to frame, counted from 0.
        look: matplotlib's; magma from 0 to 1 by default.
    """
    drawn = ax.imshow(values, origin="lower", **({"cmap": "magma", "vmin": 0, "vmax": 1} | look))
    once = values.shape[0] == values.shape[1] and np.allclose(values, values.T)
    for (i, j), value in np.ndenumerate(values):
        red, green, blue, _ = drawn.cmap(drawn.norm(value))
        if not once or j <= i:
            shade = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
            text = f"{value:z.2f}".replace("0.", ".", 1)
            ax.text(j, i, text, ha="center", va="center", fontsize=4.5, color=shade)
        if floor is not None and value <= floor[i, j]:
            hatch = {"fill": False, "hatch": "////", "linewidth": 0, "edgecolor": plots.NEUTRAL}
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **hatch))
    for (row, column), (height, width) in frames:
        corner = (column - 0.5, row - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FRAME, linewidth=1.5))
    for axis, count in zip("yx", values.shape, strict=True):
        getattr(ax, f"set_{axis}ticks")(range(count), range(1, count + 1), fontsize=7)
    ax.set_title(title, fontsize=9)
    ax.grid(visible=False)
    return drawn


def bar(figure: Figure, drawn, axes, label: str, floor: float | None = None, **how) -> None:
    """A colour bar for some axes, with a line where unrelated images end."""
    found = figure.colorbar(drawn, ax=axes, pad=0.02, **({"shrink": 0.8, "aspect": 30} | how))
    found.outline.set_visible(False)
    found.set_label(label, fontsize=8)
    found.ax.tick_params(labelsize=7)
    if floor is not None:
        found.ax.axhline(floor, color=FRAME, linewidth=1.6)


def _titled(ax: Axes, name: str, turned: bool) -> None:
    if turned:
        ax.text(-0.06, 0.5, name, transform=ax.transAxes, rotation=90, ha="right", va="center", fontsize=8)
    else:
        ax.set_title(name, fontsize=8, loc="center")
