"""Figures again, at the width at which they are printed: any figure of ``results/``, without computing anything.

    python -m hc_lafter.suite.figures --profile default --out paper --format pdf --width single
    04-full-training/accuracy

A notebook keeps a record of every figure that it saves (`hc_lafter.suite.figure_record`). Drawn to a column's width a
figure keeps its colours; text is 7 to 8 points instead of 10 (less only where nothing else helps, and never under 5),
panels that would get too narrow move below each other, long titles break, wide legends move below the panels.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import textwrap
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hc_lafter.files import write_whole
from hc_lafter.refusals import nearest
from hc_lafter.suite.figure_record import LEAST_TEXT, build, style
from hc_lafter.suite.paths import Places
from hc_lafter.suite.profiles import load_profile

# Inches. 3.25 and 6.75 are ICML's column and page; those of CVPR (3.28, 6.88), ACM (3.33, 7.0), IEEE (3.5, 7.16) and
# Nature (3.5, 7.2) are a little wider, so that a figure fits all of them as it is.
WIDTHS = {"single": 3.25, "double": 6.75}
TALLEST = 9.0  # inches: the page
ROOM, LEAST_ROOM = 1.0, 0.4  # inches: panels should not, and do not, get narrower
TEXT = (0.75, 0.7)  # of the notebook's sizes: 10 points become 7.5 or 7
LEAST_NUMBER = 4.0  # points: what a number in a cell may be, since its colour tells it, too
SMALL = (0.6, 0.5)  # where not even one panel a row has room
FORMATS = ("pdf", "svg", "png")
VERSION = 1
# No dates and no library versions in the files: the same numbers give the same bytes.
NO_DATES = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class TooNarrow(ValueError):
    """A figure does not fit a width."""


def dumps(kept: Mapping[str, Any]) -> str:
    """A record as the text of its file; the same record gives the same bytes."""
    text = json.dumps(kept, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f'{{"version":{VERSION},"crc":{zlib.crc32(text.encode())},"figure":{text}}}\n'


def load(path: str | Path) -> dict[str, Any]:
    """The record in a file.

    Raises:
        ValueError: the file is no record, was changed by hand, or comes from another version.
        OSError: it cannot be read.
    """
    path = Path(path)
    text = path.read_bytes()
    try:
        whole = json.loads(text)
        version, kept = whole["version"], whole["figure"]
        sound = version != VERSION or dumps(kept).encode() == text
    except (ValueError, KeyError, TypeError):
        version, sound = None, False
    if not sound:
        raise ValueError(f"{path} is damaged: run its notebook again, or fetch the file from git anew.")
    if version != VERSION:
        raise ValueError(f"{path} is a record of version {version}, not {VERSION}: run its notebook again.")
    return kept


def draw(kept: Mapping[str, Any], width: float | None = None) -> Figure:
    """The figure of a record, to be saved within `figure_record.style`.

    Args:
        kept: as `figure_record.record` gives it.
        width: inches; by default the figure's own size and look. For a width the layout is made anew: as many panels
            in a row, and text as large, as leave each panel `ROOM`.

    Raises:
        TooNarrow: not even then has each panel `LEAST_ROOM`.
    """
    if width is None:
        with style():
            return build(kept, kept["size"])
    best, most = None, -1.0
    for columns, k in _choices(kept, width):
        figure, room = _fitted(kept, width, columns, k)
        if best is None or room > 1.1 * most:
            best, most = figure, room
        if room >= ROOM:
            break
    if most < LEAST_ROOM:
        raise TooNarrow(f"{width} inches are too narrow for panels of {max(most, 0):.1f} inches: give a greater width.")
    return best


def narrowest(figure: Figure) -> float:
    """The width of the narrowest panel in inches, its labels left out."""
    panels = [ax for ax in figure.axes if not hasattr(ax, "_colorbar")]
    return min(ax.get_window_extent().width for ax in panels) / figure.dpi


def _choices(kept: Mapping[str, Any], width: float) -> Iterator[tuple[int, float]]:
    """Panels in a row and the scale of what is measured in points, the best first."""
    columns = _columns(kept)
    if _pictures(kept):  # they are compared along rows and columns: these stay, and text shrinks with the pictures
        yield columns, float(np.clip(1.15 * width / kept["size"][0], SMALL[-1], TEXT[0]))
        return
    counts = sorted({-(-columns // rows) for rows in range(1, columns + 1)}, reverse=True)
    counts = counts if _movable(kept) else [columns]
    for count in counts:
        for k in TEXT:
            if count == counts[0] or _height(kept, width, count, k) <= TALLEST:
                yield count, k
    for k in SMALL:
        yield from ((count, k) for count in counts if count == counts[0] or _height(kept, width, count, k) <= TALLEST)


def _columns(kept: Mapping[str, Any]) -> int:
    return max(grid["shape"][1] for grid in kept["grids"])


def _pictures(kept: Mapping[str, Any]) -> bool:
    bare = [any(a["kind"] == "image" for a in ax["artists"]) and not _named(ax) for ax in kept["axes"]]
    return sum(bare) * 2 >= len(bare)


def _named(ax: Mapping[str, Any]) -> bool:
    """Are there tick labels to be read?"""
    return ax["frame"][0] and any(ax[x].get("ticks", [0]) for x in "xy")


def _movable(kept: Mapping[str, Any]) -> bool:
    single = all(bottom - top == right - left == 1 for _, top, bottom, left, right in (a["cell"] for a in kept["axes"]))
    alone = len({tuple(a["cell"]) for a in kept["axes"]}) == len(kept["axes"])
    return single and alone and len({tuple(grid["shape"]) for grid in kept["grids"]}) == 1


def _height(kept: Mapping[str, Any], width: float, columns: int, k: float) -> float:
    """Inches: rows with many names keep their height beside the text, others shrink with their panels' width."""
    before, (w, h) = _columns(kept), kept["size"]
    if _pictures(kept):
        return h * width / w + 0.1
    named = any(any(c.isalpha() for c in "".join(ax["y"].get("labels", ()))) for ax in kept["axes"])
    share = k if named else np.clip(width / columns / (w / before), 0.55, 0.75)
    return float(h * share * -(-before // columns))


def _fitted(kept: Mapping[str, Any], width: float, columns: int, k: float) -> tuple[Figure, float]:
    """The figure, and the width of its narrowest panel: 0 where there was no room for any."""
    kept = copy.deepcopy(dict(kept))
    height = min(TALLEST, _height(kept, width, columns, k))
    if columns < _columns(kept):
        _move(kept, columns)
    with style(k), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure = build(kept, (width, height), k)
        figure.draw_without_rendering()
        if more := _move_legends(kept, figure, k):
            figure = build(kept, (width, min(TALLEST, height + more)), k)
        for _ in range(5):
            said.clear()
            figure.draw_without_rendering()
            if not (_break_lines(figure) | _thin_ticks(figure) | _pull_headings(figure)):
                break
        _fit_numbers(figure)
    return figure, 0.0 if said else narrowest(figure)


def _move(kept: dict[str, Any], columns: int) -> None:
    """Put the panels into fewer columns; names of rows and axes that only the first panel had appear at each row."""
    rows, before = kept["grids"][0]["shape"]
    titled = all(any(f"title {loc}" in ax for loc in ("left", "center")) for ax in kept["axes"])
    alone = rows == 1 or (titled and not any(len(bar["of"]) > 1 for bar in kept["bars"]))
    old = [ax["cell"] for ax in kept["axes"]]
    for i, ax in enumerate(kept["axes"]):
        _, row, _, column, _ = old[i]
        if alone:  # one after the other, as one reads
            row, column = divmod(row * before + column, columns)
        else:  # the columns of a table: they stay together
            row, column = column // columns * rows + row, column % columns
        ax["cell"] = [0, row, row + 1, column, column + 1]
    down, across = (max(ax["cell"][i] for ax in kept["axes"]) for i in (2, 4))
    taken = {(ax["cell"][1], ax["cell"][3]) for ax in kept["axes"]}
    kept["grids"] = [
        {"shape": [down, across], "width_ratios": None, "height_ratios": None, "wspace": None, "hspace": None}
    ]
    named = [y["look"].get("labelleft", True) and any(y.get("labels", ())) for y in (ax["y"] for ax in kept["axes"])]
    for i, ax in enumerate(kept["axes"]):
        _, row, _, column, _ = ax["cell"]
        if (row + 1, column) not in taken:
            ax["x"]["look"].pop("labelbottom", None)
        if column > 0:
            continue
        ax["y"]["look"].pop("labelleft", None)
        if not named[i]:  # since a panel beside it is
            for j, other in enumerate(kept["axes"]):
                if named[j] and old[j][1] == old[i][1] and other["y"]["ticks"] == ax["y"].get("ticks"):
                    ax["y"] |= {"labels": other["y"]["labels"], "styles": other["y"]["styles"]}
        if ax["sharey"] is not None and not ax["y"]["label"]["text"]:
            ax["y"]["label"] = kept["axes"][ax["sharey"]]["y"]["label"]


def _move_legends(kept: dict[str, Any], figure: Figure, k: float) -> float:
    """Give legends that are too wide fewer columns, or a place below the panels; the inches that they take there."""
    panels = [ax for ax in figure.axes if not hasattr(ax, "_colorbar")]
    drawn = list(zip(kept["legends"], figure.legends, strict=True))
    drawn += [(one["legend"], ax.get_legend()) for one, ax in zip(kept["axes"], panels, strict=True) if one["legend"]]
    below, changed = {}, False
    for said, legend in drawn:
        share = legend.get_window_extent().width / figure.bbox.width
        within = (legend.axes or figure).get_window_extent().width / figure.bbox.width
        beside = str(said["loc"]).startswith(("outside right", "outside left")) or (said["anchor"] or [0])[0] >= 1
        one = share / said["ncols"]
        high = legend.get_window_extent().height > 0.5 * (legend.axes or figure).get_window_extent().height
        if (beside and share > 0.25) or (legend.axes and not said["anchor"] and (high or share > 0.95 * within)):
            below.setdefault(tuple(said["labels"]), said | {"ncols": int(max(1, 0.98 // one))})
            kept["legends"] = [other for other in kept["legends"] if other is not said]
            for ax in kept["axes"]:
                ax["legend"] = None if ax["legend"] is said else ax["legend"]
        elif share > min(1.0, 1.1 * within):
            said["ncols"], changed = int(max(1, min(1.0, 1.1 * within) // one)), True
    if not below:
        return 0.01 if changed else 0.0
    first, *others = below.values()
    for other in others:  # there is one place for legends: one legend
        new = [i for i, label in enumerate(other["labels"]) if label not in first["labels"]]
        first |= {part: first[part] + [other[part][i] for i in new] for part in ("keys", "labels")}
        first |= {"ncols": min(first["ncols"], other["ncols"])}
    kept["legends"].append(first | {"loc": "outside lower center", "anchor": None})
    return -(-len(first["labels"]) // first["ncols"]) * max(LEAST_TEXT, first["fontsize"] * k) * 1.6 / 72


def _break_lines(figure: Figure) -> bool:
    """Break titles and labels that are longer than their place; were there any?"""
    whole, tall, broken = figure.bbox.width, figure.bbox.height, False
    panels = [ax for ax in figure.axes if not hasattr(ax, "_colorbar")]
    places = []
    if figure.get_suptitle():
        box = figure._suptitle.get_window_extent()
        places.append((figure._suptitle, whole - max(box.x0, 0) - 2 if box.x0 > -1 else whole - 4, box.width))
    for ax in panels:
        here, cell = ax.get_window_extent(), ax.get_subplotspec()
        columns, rows = cell.get_gridspec().ncols, cell.get_gridspec().nrows
        room = _edge(figure, ax) - here.x0 - 6
        places += [(t, room if t is not ax.title else here.width * 1.1, t.get_window_extent().width)
                   for t in (ax._left_title, ax.title)]  # fmt: skip
        middle = (here.x0 + here.x1) / 2
        room = min(2 * min(middle, whole - middle), whole * 0.97 / columns if columns > 1 else whole) - 2
        places.append((ax.xaxis.label, room, ax.xaxis.label.get_window_extent().width))
        middle = (here.y0 + here.y1) / 2
        room = here.height * 1.15 if rows > 1 else min(here.height * 1.3, 2 * middle, 2 * (tall - middle))
        places.append((ax.yaxis.label, room, ax.yaxis.label.get_window_extent().height))
    for text, room, taken in places:
        words = text.get_text()
        if taken > room * 0.99 and set(" -") & set(words) and "$" not in words:
            longest = max(len(line) for line in words.split("\n"))
            fits = max(8, int(longest * room / taken))
            new = "\n".join(textwrap.fill(line, fits, break_long_words=False) for line in words.split("\n"))
            broken |= new != words
            text.set_text(new)
    return broken


def _edge(figure: Figure, ax: Axes) -> float:
    """Where the next panel begins, or the figure ends, at the right."""
    here = ax.get_window_extent().x1
    return min((x for x in (o.get_window_extent().x0 for o in figure.axes) if x > here), default=figure.bbox.width)


def _pull_headings(figure: Figure) -> bool:
    """Headings between rows may begin above the rows' names; they take no room from the panel. Was one pulled there?"""
    pulled = False
    for ax in figure.axes:
        for text in ax.texts:
            if text.get_transform() == ax.get_yaxis_transform() and text.get_position()[0] < 0.5:
                box = text.get_window_extent()
                over = box.x1 + 0.03 * box.width - _edge(figure, ax)  # at other resolutions letters are wider
                pulled |= text.get_in_layout() or over > 0.5
                text.set_in_layout(False)
                text.set_x(text.get_position()[0] - max(0, over) / ax.get_window_extent().width)
    return bool(pulled)


def _fit_numbers(figure: Figure) -> None:
    """Numbers in the cells of maps are written as small as the cells ask for; where that is too small, not at all."""
    sizes = {}
    for ax in (ax for ax in figure.axes if ax.images):
        centred = [t for t in ax.texts if t.get_transform() == ax.transData and t.get_ha() == t.get_va() == "center"]
        if len(centred) < min(ax.images[0].get_array().shape[:2]):
            continue  # words on a picture
        (left, _), (right, _) = ax.transData.transform([(0, 0), (1, 0)])
        for text in centred:
            share = 0.95 * (right - left) / max(text.get_window_extent().width, 1)
            sizes[text] = text.get_fontsize() * min(share, 1)
    for text, size in sizes.items():
        text.set(fontsize=size, visible=min(sizes.values()) >= LEAST_NUMBER)


def _thin_ticks(figure: Figure) -> bool:
    """Where labels on an x axis touch: fewer of them, or names turned."""
    changed = False
    for ax in figure.axes:
        if ax.name == "polar" or not ax.axison:
            continue
        axis = ax.xaxis
        shown = [t.label1 for t in axis.get_major_ticks() if t.label1.get_visible() and t.label1.get_text()]
        low, high = sorted(ax.get_xlim())
        seen = [t for t in shown if low <= t.get_position()[0] <= high and not t.get_rotation()]
        boxes = sorted(t.get_window_extent().extents.tolist() for t in seen)
        if all(a[2] + 1 < b[0] for a, b in pairwise(boxes)):
            continue
        where, changed = axis.get_major_locator(), True
        if isinstance(where, ticker.MaxNLocator):
            axis.set_major_locator(ticker.MaxNLocator(max(2, len(boxes) - 2), integer=where._integer))
        else:
            for label in shown:
                label.set(rotation=40, ha="right", rotation_mode="anchor")
    return changed


def _records(results: Path) -> dict[str, Path]:
    """``<notebook>/<figure>`` -> the record's file."""
    return {f"{p.parent.parent.name}/{p.stem}": p for p in sorted(results.glob("*/figures/*.json"))}


def _asked(names: Sequence[str], known: Mapping[str, Path], results: Path) -> list[str]:
    if not known:
        raise ValueError(
            f"{results} holds no figures: run `python run_all.py --profile {results.name}` first, or name another "
            "profile."
        )
    chosen = []
    for name in names or [""]:
        found = [
            k for k in known if not name or name in (k, k.split("/")[0], k.split("/")[1], f"{k[:2]}/{k.split('/')[1]}")
        ]
        if not found:
            near = nearest(name, known) or nearest(name, {k.split("/")[1] for k in known})
            raise ValueError(f"figure {name!r} is not in {results}{near}: choose one of {', '.join(known)}.")
        chosen += found
    return list(dict.fromkeys(chosen))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 where the user is to mend something."""
    parser = argparse.ArgumentParser(prog="python -m hc_lafter.suite.figures", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="04-full-training/accuracy, accuracy or a notebook")
    parser.add_argument("--profile", default="default", help="whose results (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="the folder that gets a folder for each notebook")
    parser.add_argument("--format", default="pdf", choices=FORMATS, help="default: %(default)s")
    parser.add_argument(
        "--width", default="double", choices=WIDTHS, help="a column, or the page (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        load_profile(given.profile)
        results = Places.find("00-figures", given.profile).results.parent
        known = _records(results)
        for name in _asked(given.names, known, results):
            kept, note = load(known[name]), ""
            try:
                figure = draw(kept, WIDTHS[given.width])
            except TooNarrow:
                figure = draw(kept, WIDTHS["double"])
                note = f" (does not fit {WIDTHS[given.width]:g} inches: drawn {WIDTHS['double']:g} wide)"
            path = write_whole(given.out / f"{name}.{given.format}", saved(figure, given.format))
            print(f"{path}{note}", flush=True)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def saved(figure: Figure, form: str) -> bytes:
    """The file of a figure: fonts embedded (PDF) or drawn as paths (SVG), 300 dots per inch (PNG), no dates."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=form, metadata=NO_DATES[form], dpi=300)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
