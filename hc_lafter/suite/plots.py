"""Numbers in, axes out: what the notebooks draw. Nothing here computes a metric or writes a file.

Functions that take ``ax`` draw into it; those that return a `Figure` are what `Study.figure` calls once per width:
`alone`, `estimates`, `differences`, `compared`, `training_curves`, `heats`, `gallery`. One palette: a system keeps its
colour in every figure.
"""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise, product
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from matplotlib.ticker import Formatter, LogFormatterMathtext, MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox

from hc_lafter.systems import registry

# What is no system and yet has a colour of its own; a system's colour and line stand in its registry entry.
PALETTE = {"mean of prose": "#B0B0B0"}
NEUTRAL = "#8A8A8A"
HIGHLIGHT = "#7B3294"  # no system's colour: for what is pointed at
EMOTION_COLOURS = {  # warm for the four positive ones of Mikels' eight, cold and dark for the four negative ones
    "amusement": "#F0E442", "awe": "#56B4E9", "contentment": "#009E73", "excitement": "#E69F00",
    "anger": "#D55E00", "disgust": "#6B8E23", "fear": "#5E3C99", "sadness": "#0072B2",
}  # fmt: skip
VERDICTS = {"better": ("#01665E", "^"), "worse": ("#8C510A", "v"), "no difference": (NEUTRAL, "o")}  # colour, marker
TOO_FEW = (NEUTRAL, "s")  # colour, marker of any other verdict: one that no numbers of so few seeds could have given
BROKEN = (0, (4, 3))  # the line of a level

WIDTHS = {"single": 3.5, "double": 7.2}  # inches: a column, and a page of two columns, of most journals
PAGE = 9.5  # inches: panels get lower before they leave it
_LEGEND = 5  # rows of a legend below the panels, for which their height has room
NOTE, CELL, LEAST_CELL = 7.0, 6.5, 5.5  # points: notes beside marks; numbers in cells, and the smallest of those
ROW = 0.19  # inches: a row of a forest
NAMES = 6.5  # letters of a row's name before it breaks, per inch of its panel: half of the room
# Where several fonts have a sign that DejaVu lacks, these come first.
_PREFERRED = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "Hiragino Sans")
_PREFERRED += ("Yu Gothic", "Noto Emoji", "Symbola")
_BOXES = ("Last Resort", "LastResort", "Adobe Blank", "Unicode BMP Fallback")  # have a box, or nothing, for every sign
_EAST = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")  # scripts of one font
_TICKS = {"labelsize": 7.5, "major.size": 2.5, "major.width": 0.6}
# One style for every figure. Glyphs are drawn as paths and ids are salted, so that a figure looks the same without our
# fonts and a second run writes the same bytes. A dollar sign in a class name is a dollar sign: no text is mathtext.
STYLE = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.dpi": 110,
    "savefig.dpi": 300,
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "text.parse_math": False,
    "figure.titlesize": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelsize": 8,
    "axes.labelpad": 2.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    **{f"{x}tick.{key}": value for x in "xy" for key, value in _TICKS.items()},
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "hatch.linewidth": 0.5,
    "image.interpolation": "nearest",
    "svg.fonttype": "path",
    "svg.hashsalt": "hc-lafter",
    "pdf.fonttype": 42,
}

_width = "double"  # at which the next figure is drawn


def use_style() -> None:
    """Set our style on matplotlib's own defaults: no ``matplotlibrc`` of the account or the folder shows."""
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


@contextmanager
def at_width(name: str) -> Iterator[None]:
    """Figures that are drawn in here have our style and are as wide as ``WIDTHS`` says."""
    global _width
    before, _width = _width, name
    try:
        with mpl.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # `unwritten` names them
            use_style()
            yield
    finally:
        _width = before


def _look(system: str) -> tuple[str, str]:
    """Colour and line of a system, whatever follows its name after a comma."""
    known = registry()
    found = known.get(system) or known.get(system.split(",")[0])
    return (found.colour, found.line) if found else (PALETTE.get(system, NEUTRAL), "-")


def colour(system: str) -> str:
    """A system's colour, that of ``LaFTer`` for ``LaFTer, supervised`` too; grey for what is no system."""
    return _look(system)[0]


def emotion_colour(name: str, other: Any = NEUTRAL) -> Any:
    """The colour of one of Mikels' eight emotions, however it is capitalised; ``other`` for any other class."""
    return EMOTION_COLOURS.get(name.lower(), other)


# --- figures and their parts ---


def is_wide() -> bool:
    """Whether figures are now drawn at double width."""
    return _width == "double"


def panels(
    count: int = 1,
    *,
    columns: int | None = None,
    height: float | Sequence[float] = 2.2,
    title: str = "",
    polar: Iterable[int] = (),
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of the present width with [count] axes: side by side in double width, stacked in single.

    Args:
        columns: axes in a row at double width; all of them up to three by default. Four and more become half as many
            in single width, fewer become one.
        height: of a row of axes, in inches; or of each row, for axes in one column.
        title: above all of them, at the left.
        polar: which of the axes are polar.
        subplots: as matplotlib's ``Figure.subplots`` takes them (``sharey``, ``width_ratios``; ratios are left out
            where the panels do not stand as at double width).
    """
    wanted = min(count, columns or 3)
    columns = wanted if _width == "double" else max(1, wanted // 2 if wanted > 3 else 1)
    if columns != wanted:
        subplots.pop("width_ratios", None)
    rows = -(-count // columns)
    if isinstance(height, Sequence):
        subplots["height_ratios"], high = height, sum(height)
    else:
        high = min(rows * height, max(PAGE, height))
    figure = plt.figure(figsize=(WIDTHS[_width], high + 0.17 * (1 + title.count("\n")) * bool(title)))
    axes = figure.subplots(rows, columns, squeeze=False, **subplots).ravel()
    for spare in axes[count:]:
        spare.remove()
    for i in polar:
        place = axes[i].get_subplotspec()
        axes[i].remove()
        axes[i] = figure.add_subplot(place, projection="polar")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure, axes[:count]


def alone(draw: Callable[..., Any], *args: Any, height: float = 2.6, look: Mapping[str, Any] | None = None, **kwargs):
    """A `Figure` with one panel into which ``draw(ax, *args, **kwargs)`` draws; ``look`` goes to ``ax.set``."""
    figure, (ax,) = panels(1, height=height)
    draw(ax, *args, **kwargs)
    ax.set(**look or {})
    return figure


def label_outer(axes: Iterable[Axes], xlabel: str = "", ylabel: str = "") -> None:
    """Name the x axis at the lowest panel of each column and the y axis at the first panel of each row."""
    axes = list(axes)
    places = [ax.get_subplotspec() for ax in axes]
    lowest = {p.colspan.start: p.rowspan.start for p in sorted(places, key=lambda p: p.rowspan.start)}
    for ax, place in zip(axes, places, strict=True):
        if place.rowspan.start == lowest[place.colspan.start]:
            ax.set_xlabel(xlabel)
        if place.is_first_col():
            ax.set_ylabel(ylabel)


def legend_below(figure: Figure, handles: Sequence[Any] | None = None, **look: Any) -> None:
    """One legend below all panels, each label once, in as many columns as the width holds.

    Rows beyond `_LEGEND` make the figure higher, so that they take nothing from the panels.
    """
    if handles is None:
        handles = [handle for ax in figure.axes for handle in ax.get_legend_handles_labels()[0]]
    once = {handle.get_label(): handle for handle in reversed(handles)}
    labels = list(dict.fromkeys(handle.get_label() for handle in handles))
    if labels:
        columns = int(figure.get_size_inches()[0] / (0.5 + 0.061 * max(map(_length, labels))))
        columns = min(max(1, columns), len(labels))
        keys = [once[label] for label in labels]
        further = max(0, math.ceil(len(labels) / columns) - _LEGEND)
        figure.set_figheight(figure.get_figheight() + 0.17 * further)
        figure.legend(keys, labels, loc="outside lower center", ncols=columns, **look)


def fit(figure: Figure) -> Figure:
    """Make a finished figure fit its width, whatever it holds; nothing that fits is touched.

    Titles and axis labels break where they are longer than their room, tick labels that touch are thinned (numbers) or
    turned (names), numbers in the cells of maps shrink with the cells (and go where they would be under `LEAST_CELL`),
    names of dots (`crosses`) part until none lies on another, and powers of ten are written without mathtext, which our
    style switches off. The layout then stands still: it costs
    as much as drawing, and would be made anew for each format. It is made at the resolution of print, where letters
    have their own widths: on the grid of a screen's pixels they are up to a tenth narrower or wider.
    """
    axes = figure.findobj(Axes)
    for axis in (axis for ax in axes for axis in ax._axis_map.values()):
        for get, put in (
            (axis.get_major_formatter, axis.set_major_formatter),
            (axis.get_minor_formatter, axis.set_minor_formatter),
        ):
            if isinstance(get(), LogFormatterMathtext):
                put(_Powers(get()))
    for turn in range(5):
        figure.draw_without_rendering()
        if turn == 0 and _add_fonts(figure):
            figure.draw_without_rendering()
        if not (sum(_broken(*place) for place in _places(figure)) + sum(_thinned(ax) for ax in axes)):
            break
    screen = figure.get_dpi()
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    figure.draw_without_rendering()
    cells = {ax: [text for text in ax.texts if text.get_gid() == "cell"] for ax in axes}
    cells, room = {ax: numbers for ax, numbers in cells.items() if numbers}, 1.0
    for ax, numbers in cells.items():  # one size for all maps of a figure
        (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), (1, 1)])
        boxes = [text.get_window_extent() for text in numbers]
        room = min(room, 0.8 * abs(x1 - x0) / max(b.width for b in boxes), abs(y1 - y0) / max(b.height for b in boxes))
    for text in (text for numbers in cells.values() for text in numbers):
        size = text.get_fontsize() * room
        text.set(fontsize=size, visible=size >= LEAST_CELL)
    for ax in axes:
        _part_names(ax)
    figure.set_layout_engine("none")
    figure.set_dpi(screen)
    return figure


def unwritten(figure: Figure) -> dict[str, str]:
    """Texts of a figure that no font of this machine can write whole -> the signs that are missing."""
    missing = _fallbacks(_foreign(figure))[1]
    texts = {text.get_text() for text in figure.findobj(Text)} if missing else ()
    found = {text: "".join(sorted({*text} & missing)) for text in sorted(texts)}
    return {" ".join(text.split()): signs for text, signs in found.items() if signs}


def font_for(signs: Iterable[str]) -> str:
    """Which fonts to install for signs that none here has, for a sentence."""
    fonts = set()
    for sign in signs:
        script = unicodedata.name(sign, "SYMBOLS").split()[0].split("-")[0]
        picture = unicodedata.category(sign) in ("So", "Sk") or ord(sign) >= 0x1F000
        script = "CJK" if script in _EAST else script.title()
        fonts.add("Noto Emoji (the one without colours)" if picture and script != "CJK" else f"Noto Sans {script}")
    return " and ".join(sorted(fonts))


def _foreign(figure: Figure) -> frozenset[str]:
    """The signs in a figure that DejaVu Sans lacks and that are to be seen."""
    signs = {sign for text in figure.findobj(Text) for sign in text.get_text()}
    own = _signs_of(font_manager.findfont("DejaVu Sans"))
    unseen = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp", "Mn")
    return frozenset(s for s in signs if ord(s) not in own and unicodedata.category(s) not in unseen)


def _add_fonts(figure: Figure) -> bool:
    families = _fallbacks(_foreign(figure))[0]
    for text in figure.findobj(Text) if families else ():
        text.set_fontfamily([*text.get_fontfamily(), *families])
    return bool(families)


@cache
def _signs_of(path: str) -> frozenset[int]:
    """The code points that a font file draws; none of one that matplotlib cannot scale, such as coloured bitmaps."""
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


def _draws(path: str, sign: str) -> bool:
    """Whether a font has an outline for a sign; fonts in colours may have an empty one."""
    try:
        return font_manager.get_font(path).load_char(ord(sign)).width > 0
    except RuntimeError:
        return False


@cache
def _fallbacks(signs: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Fonts of this machine, the fewest that a greedy look finds, which have the signs; and the signs that none has.

    Fonts that were installed after matplotlib had made its list are looked for, too.
    """
    left, families, manager = set(signs), [], font_manager.fontManager
    if left:
        for path in sorted({*font_manager.findSystemFonts()} - {f.fname for f in manager.ttflist}):
            with suppress(OSError, RuntimeError, KeyError):
                manager.addfont(path)
        plain = [f for f in manager.ttflist if f.style == "normal" and not f.name.strip(".").startswith(_BOXES)]
        for font in sorted(plain, key=lambda f: (f.name not in _PREFERRED, f.weight != 400, f.name, f.fname)):
            has = {s for s in left if ord(s) in _signs_of(font.fname) and _draws(font.fname, s)}
            if has and font.name not in families:
                families.append(font.name)
                left -= has
            if not left:
                break
    return families, frozenset(left)


class _Powers(Formatter):
    """What a logarithmic axis says, with signs of Unicode: 10⁻², 2×10³."""

    def __init__(self, before: LogFormatterMathtext):
        self.before = before
        self.set_axis, self.set_locs = before.set_axis, before.set_locs

    def __call__(self, x: float, pos: int | None = None) -> str:
        said = re.sub(r"\$|\\mathdefault", "", self.before(x, pos)).replace(r"\times", "×").replace("−", "-")
        power = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        return re.sub(r"\^\{(.*?)\}", lambda m: m[1].translate(power), said).strip("{}")


def _places(figure: Figure) -> Iterator[tuple[Text, float, float]]:
    """Titles and labels, the room of each and what it takes, in pixels along its line."""
    whole, tall = figure.bbox.width, figure.bbox.height
    if figure._suptitle is not None:
        box = figure._suptitle.get_window_extent()
        yield figure._suptitle, 0.98 * whole, box.width
    for ax in figure.axes:
        here, place = ax.get_window_extent(), ax.get_subplotspec()
        edge = min((o.get_window_extent().x0 for o in figure.axes if o.get_window_extent().x0 > here.x1), default=whole)
        columns, rows = place.get_gridspec().get_geometry()[::-1] if place else (1, 1)
        yield ax._left_title, edge - here.x0 - 8, ax._left_title.get_window_extent().width
        yield ax.title, max(1.1 * here.width, 0.0), ax.title.get_window_extent().width
        middle = (here.x0 + here.x1) / 2
        room = min(2 * min(middle, whole - middle), 0.97 * whole / columns if columns > 1 else whole) - 4
        yield ax.xaxis.label, room, ax.xaxis.label.get_window_extent().width
        middle = (here.y0 + here.y1) / 2
        room = min(2 * min(middle, tall - middle), 1.2 * here.height if rows > 1 else tall)
        yield ax.yaxis.label, room, ax.yaxis.label.get_window_extent().height


def _broken(text: Text, room: float, taken: float) -> bool:
    words = text.get_text()
    if taken <= room or not words.strip():
        return False
    longest = max(len(line) for line in words.split("\n"))
    width = max(6, int(0.97 * longest * room / taken))
    if max(map(len, words.split())) > width:  # a word is not broken, it is written smaller
        text.set_fontsize(max(5.0, text.get_fontsize() * room / taken))
    text.set_text("\n".join(textwrap.fill(line, width, break_long_words=False) for line in words.split("\n")))
    return text.get_text() != words


def _thinned(ax: Axes) -> bool:
    if ax.name == "polar" or not ax.axison:
        return False
    low, high = sorted(ax.get_xlim())
    ticks = [t.label1 for t in ax.xaxis.get_major_ticks() if t.label1.get_visible() and t.label1.get_text()]
    seen = [t for t in ticks if low <= t.get_position()[0] <= high and not t.get_rotation()]
    boxes = sorted(t.get_window_extent().extents.tolist() for t in seen)
    if all(a[2] + 1 < b[0] for a, b in pairwise(boxes)):
        return False
    where = ax.xaxis.get_major_locator()
    if isinstance(where, MaxNLocator):
        where.set_params(nbins=max(2, len(boxes) - 2))
    else:
        for label in ticks:
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    return True


def _part_names(ax: Axes) -> None:
    """Put each dot's name where it lies on no dot and no other name, nearest to its own dot."""
    names, point = [text for text in ax.texts if text.get_gid() == "dot"], ax.get_figure(root=True).dpi / 72
    dots = ax.transData.transform([name.xy for name in names]) if names else []
    taken = [Bbox.from_extents(*(dot - 2.5 * point), *(dot + 2.5 * point)) for dot in dots]
    turns = np.radians((135, 315, 45, 225, 160, 340, 20, 200, 90, 270))
    for i, (name, dot) in enumerate(zip(names, dots, strict=True)):
        size = np.array(name.get_window_extent().size) / 2 + 0.5 * point
        for far, turn in product(range(8, 40, 2), turns):
            off = far * np.array([np.cos(turn), np.sin(turn)])
            middle = dot + off * point
            box = Bbox.from_extents(*(middle - size), *(middle + size))
            own = np.linalg.norm(dots - middle, axis=1).argmin() == i
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            if own and inside and not any(box.overlaps(other) for other in taken):
                break
        name.set_position(off)
        taken.append(box)


def _length(text: str) -> int:
    """Latin letters that are as wide as the longest line; Chinese and Japanese signs count twice."""
    return max(sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) for line in text.split("\n"))


def _short(name: str, most: int, lines: int = 2) -> str:
    name = str(name)
    most = max(6, most * len(name) // max(1, _length(name.replace("\n", " "))))
    return "\n".join(textwrap.wrap(name, most, max_lines=lines, placeholder="…")) or name


# --- rows with intervals ---

# Unit -> factor of the numbers, how a row's are written, and the value at which a line stands through all rows.
UNITS = {
    "fraction": (100, "{:.1f}% [{:.1f}, {:.1f}]", None),
    "points": (100, "{:+.1f} [{:+.1f}, {:+.1f}]", 0),
    "ratio": (1, "{:.2f} [{:.2f}, {:.2f}]", 1),
    "unitless": (1, "{:.3f} [{:.3f}, {:.3f}]", None),
}


def _rows(
    ax: Axes, table: pd.DataFrame, at: Sequence[float], unit: str, numbers: bool, headings: Mapping[float, str]
) -> None:
    """A row at each height: interval, point, numbers, name.

    The table has value, low, high, colour and, for other points than dots, marker and face; headings: height -> text.
    """
    factor, form, centre = UNITS[unit]
    beside = {"transform": ax.get_yaxis_transform(), "fontsize": NOTE - 0.5, "va": "center", "family": "monospace"}
    for row, y in zip(table.itertuples(), at, strict=True):
        marker, face = getattr(row, "marker", "o"), getattr(row, "face", row.colour)
        ends = row.low, row.high
        ax.plot(ends, [y, y], color=row.colour, linewidth=2, solid_capstyle="round")
        ax.plot(row.value, y, marker, color=row.colour, markersize=5.5, markerfacecolor=face, markeredgewidth=1.2)
        if numbers:
            ax.text(1.02, y, form.format(*(factor * x for x in (row.value, *ends))), **beside)
    if centre is not None:
        ax.axvline(centre, color="black", linewidth=0.8, zorder=1)
    names = [_short(name, _letters(ax)) for name in (*_names(table), *headings.values())]
    ax.set_yticks([*at, *headings], names)
    plt.setp(ax.get_yticklabels()[len(at) :], weight="bold")
    ax.tick_params(axis="y", length=0)  # of all: where ticks differ the layout takes any one's length, by chance
    ax.set_ylim(min(at) - 0.6, max((*at, *headings)) + 0.6)
    ax.grid(axis="y", visible=False)
    if factor == 100:
        percent(ax, "x", "" if unit == "points" else "%")


def _letters(ax: Axes) -> int:
    """How long a row's name may be before it breaks."""
    place = ax.get_subplotspec()
    return int(NAMES * ax.get_figure(root=True).get_size_inches()[0] / (place.get_gridspec().ncols if place else 1))


def percent(ax: Axes, axis: str = "y", symbol: str = "%") -> None:
    """Write the ticks of shares as per cent, with as many digits as tell them apart: 70%, 80%, or 72.5%, 75.0%."""
    getattr(ax, f"{axis}axis").set_major_formatter(_Percent(1.0, symbol=symbol))


class _Percent(PercentFormatter):
    def format_ticks(self, values: Sequence[float]) -> list[str]:
        shown = 100 * np.asarray(values)
        self.decimals = next((d for d in range(3) if np.allclose(shown, shown.round(d), atol=1e-9)), 3)
        return super().format_ticks(values)


def _names(table: pd.DataFrame) -> list[str]:
    """The column ``name``, or the systems, with their regimes where a system stands there twice."""
    if "name" in table or "regime" not in table or not table["system"].duplicated().any():
        return list(table["name" if "name" in table else "system"])
    return [f"{s}, {r}" if isinstance(r, str) else s for s, r in zip(table["system"], table["regime"], strict=True)]


def bars(
    ax: Axes,
    table: pd.DataFrame,
    *,
    levels: Mapping[str, float] | None = None,
    unit: str = "fraction",
    numbers: bool = True,
) -> Axes:
    """Systems as dots with intervals, the first on top, in their colours, the numbers at the right.

    Args:
        table: a row per system: system, value, low, high and, where they are other than the system's, name and colour
            (`Study.estimates`).
        levels: name -> where a broken line is drawn: chance, a ceiling.
        unit: of `UNITS`: fractions as per cent or as points, 0 marked; ratios, 1 marked; or numbers as they are.
        numbers: whether they stand at the right.
    """
    shades = table["colour"] if "colour" in table else map(colour, table["system"])
    _rows(ax, table.assign(colour=list(shades)), range(len(table) - 1, -1, -1), unit, numbers, {})
    for i, (name, x) in enumerate((levels or {}).items()):
        ax.axvline(x, color=NEUTRAL, linestyle=BROKEN, linewidth=1, zorder=0)
        beside = {"ha": "left" if i else "center", "va": "bottom"}  # a second name keeps clear of the first
        ax.annotate(name, (x, len(table) - 0.4), color="#555555", fontsize=NOTE, **beside)
    return ax


def forest(ax: Axes, table: pd.DataFrame, groups: str | None = None, *, tight: bool = False) -> Axes:
    """Paired differences under their headings, coloured by verdict, the numbers at the right.

    Args:
        table: a row per difference (`Study.differences`): system, minus, value, low, high (fractions, shown as points
            of 100), verdict and, where rows are named otherwise, name. Colour and marker follow the verdict, which may
            be stricter than the interval: a thin line from low_all to high_all is then that of all rows together.
        groups: the column whose values are the headings; by default "minus" and the opponent.
        tight: small names in one line each, and no numbers.
    """
    y, at, headings, parts = 0.0, [], {}, _grouped(table, groups)
    for heading, rows in parts.items():
        if heading:
            taller = 0 if tight else 0.4 * _short(heading, _letters(ax)).count("\n")  # above and below it
            y -= taller if at else 0
            headings[y] = heading
            y -= 1 + taller
        at += [y - i for i in range(len(rows))]
        y -= len(rows) + 0.3
    table = pd.concat(parts.values())
    looks = pd.DataFrame([VERDICTS.get(v, TOO_FEW) for v in table["verdict"]], table.index, ["colour", "marker"])
    looks["face"] = looks["colour"].replace(NEUTRAL, "white")
    _rows(ax, table.assign(**looks), at, "points", not tight, headings)
    if "low_all" in table and (wide := table["low_all"].notna().to_numpy()).any():
        ax.hlines(np.array(at)[wide], table["low_all"][wide], table["high_all"][wide], NEUTRAL, linewidth=0.8)
    if tight:
        ax.set_yticks([*at, *headings], [*_names(table), *headings.values()], fontsize=CELL - 0.5)
    return ax


def _verdicts_below(figure: Figure, *tables: pd.DataFrame) -> None:
    look, keys = {"markersize": 5.5, "linewidth": 2}, []
    there = dict.fromkeys(v for table in tables for v in table["verdict"])
    for verdict in [*(v for v in VERDICTS if v in there), *(v for v in there if v not in VERDICTS)]:
        shade, marker = VERDICTS.get(verdict, TOO_FEW)
        face = "white" if shade == NEUTRAL else shade
        keys.append(Line2D([], [], color=shade, marker=marker, label=verdict, markerfacecolor=face, **look))
    if any("low_all" in table and table["low_all"].notna().any() for table in tables):
        keys.append(Line2D([], [], color=NEUTRAL, linewidth=0.8, label="all comparisons together"))
    legend_below(figure, keys)


def _grouped(table: pd.DataFrame, groups: str | None) -> dict[str, pd.DataFrame]:
    """Heading -> rows."""
    if (groups or "minus") not in table:
        return {"": table}
    before = "" if groups else "minus "
    return {f"{before}{heading}": rows for heading, rows in table.groupby(groups or "minus", sort=False)}


def _high(*tables: Mapping[str, pd.DataFrame], beside: int = 1) -> float:
    """Inches that the longest of heading -> rows takes in a panel, with axis and label."""
    room, high = WIDTHS[_width] / (beside if _width == "double" else 1), 0.0
    for groups in tables:
        names = [name for rows in groups.values() for name in _names(rows)]
        row = ROW * (1.6 if max(map(_length, names)) > int(NAMES * room) else 1)
        high = max(high, row * (len(names) + 1.3 * len(groups) * any(groups)) + 0.65)
    return high


def estimates(
    tables: Any,
    *,
    xlabel: str = "",
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """`bars` as a figure.

    Args:
        tables: a tidy table, or heading -> table: panels one below the other on one axis, e.g. one per regime.
        levels: as `bars` takes them, named above the first panel.
    """
    tables = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    high = [_high({"": table}) for table in tables.values()]
    figure, axes = panels(len(tables), columns=1, height=high, title=title, sharex=True)
    for ax, (heading, table) in zip(axes, tables.items(), strict=True):
        first = ax is axes[0]
        bars(ax, table, levels=levels if first else None)
        for x in () if first else (levels or {}).values():
            ax.axvline(x, color=NEUTRAL, linestyle=BROKEN, linewidth=1, zorder=0)
        ax.set_title(heading, pad=12 if levels and first else None)
    axes[-1].set_xlabel(xlabel)
    return figure


def differences(
    tables: Any, groups: str | None = None, *, xlabel: str = "difference, in points", title: str = ""
) -> Figure:
    """`forest` as a figure; heading -> table with the same rows: panels beside each other, e.g. one per metric.

    In single width they stand one below the other, or, where that is longer than a page, side by side and tight.
    """
    tables = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    high = _high(*(_grouped(table, groups) for table in tables.values()), beside=len(tables)) + 0.25
    tight = _width == "single" and len(tables) > 1 and len(tables) * high > PAGE
    if tight:
        figure = plt.figure(figsize=(WIDTHS[_width], min(high, PAGE)))
        figure.suptitle(title, x=0.01, ha="left")
        axes = figure.subplots(1, len(tables))
    else:
        figure, axes = panels(len(tables), height=high, title=title)
    for ax, (heading, table) in zip(axes, tables.items(), strict=True):
        forest(ax, table, groups, tight=tight).set_title(heading)
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    label_outer(axes, xlabel)
    _verdicts_below(figure, *tables.values())
    return figure


def compared(
    table: pd.DataFrame,
    against: pd.DataFrame,
    groups: str | None = None,
    *,
    xlabel: str = "",
    levels: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """What each system reaches (`bars`, from `Study.estimates`) and its differences (`forest`, `Study.differences`)."""
    figure, (left, right) = panels(2, height=_high({"": table}, _grouped(against, groups), beside=2) + 0.2, title=title)
    bars(left, table, levels=levels).set_xlabel(xlabel)
    forest(right, against, groups).set_xlabel("difference, in points")
    _verdicts_below(figure, against)
    return figure


# --- curves ---


def band(ax: Axes, at, value, low=None, high=None, *, colour: str, line: str = "o-", label: str = "") -> Axes:
    """A line through values [n] over ``at`` [n], its interval a band; ``value`` may be a table with all three."""
    if isinstance(value, pd.DataFrame):
        value, low, high = value["value"], value["low"], value["high"]
    ax.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(at, value, line, color=colour, label=label)
    return ax


def layer_curve(ax: Axes, layers: Sequence[float], table: pd.DataFrame, *, system: str, label: str = "") -> Axes:
    """A fraction per layer (value, low, high) with its interval as a `band`."""
    shade, line = _look(system)
    band(ax, layers, table, colour=shade, line=f"o{line}", label=label or system)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    percent(ax)
    return ax


def level(ax: Axes, value: float, text: str) -> Axes:
    """A labelled horizontal line: chance, a ceiling. The label stands above the line at its left end."""
    ax.axhline(value, color=NEUTRAL, linestyle=BROKEN, linewidth=1)
    at = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    ground = {"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.5}
    ax.annotate(text, (0.01, value), color=NEUTRAL, fontsize=NOTE, va="bottom", bbox=ground, **at)
    return ax


def label_curves(
    table: pd.DataFrame, classes: int, *, levels: Mapping[str, float] | None = None, title: str = ""
) -> Figure:
    """Accuracy against labels per class: a curve per system with its 95% interval.

    What needs no labels stands at 0: squares read no training image, diamonds unlabelled ones. Hollow marks did not
    converge. Systems stand a little beside one another, so that no mark hides another.

    Args:
        table: as `hc_lafter.suite.reference.curve_of` gives it. classes: C.
        levels: name -> a broken line, such as the best possible reader.
    """
    learned = table["regime"] == "supervised"
    counts = sorted((table.loc[learned, "n_train"] / classes).unique())
    zero = np.log2(counts[0]) - 2
    free = table[~learned].sort_values("value")
    beside = dict(zip(free.index, zero + np.linspace(-0.6, 0.6, len(free)), strict=True))
    at = pd.Series(beside).reindex(table.index).fillna(np.log2(table["n_train"].clip(lower=1) / classes))
    names = table["system"].unique()
    aside = dict(zip(names, np.linspace(-0.2, 0.2, len(names)), strict=True))
    at += table["system"].map(aside).where(learned, 0)
    figure, (ax,) = panels(1, columns=1, height=3.6, title=title)
    for name, of in table.assign(at=at).groupby("system", sort=False):
        (shade, line), key = _look(name), None
        for regime, mark in (("supervised", "o"), ("label-free", "D"), ("no training", "s")):
            rows = of[of["regime"] == regime]
            if len(rows) > 1:
                band(ax, rows["at"], rows, colour=shade, line=line)
            if len(rows) and key is None:  # of several regimes the curve's
                key = {"marker": mark, "linestyle": line if len(rows) > 1 else ""}
            ax.vlines(rows["at"], rows["low"], rows["high"], color=shade, linewidth=0.8)
            faces = ["white" if done is False else shade for done in rows["converged"]]
            ax.scatter(rows["at"], rows["value"], c=faces, edgecolors=shade, s=16, marker=mark, zorder=3)
        ax.plot([], [], color=shade, label=name, **key)
    for text, value in (levels or {}).items():
        level(ax, value, text)
    ax.set_xticks([zero, *np.log2(counts)], ["0", *(f"{count:,.0f}" for count in counts)])
    ax.set(
        xlabel="labels per class (at 0: squares read no training image, diamonds unlabelled ones)",
        ylabel="top-1 accuracy",
    )
    percent(ax)
    legend_below(figure, handlelength=3)  # a mark hides the dashes of a shorter one
    return figure


def crosses(ax: Axes, x: pd.DataFrame, y: pd.DataFrame, names: Iterable[Any], *, colour: str = NEUTRAL) -> Axes:
    """A named dot for each row of two tables (value, low, high), with both intervals; `fit` keeps the names apart."""
    reach = [(t["value"] - t["low"], t["high"] - t["value"]) for t in (y, x)]
    ax.errorbar(x["value"], y["value"], *reach, "o", color=colour, elinewidth=1)
    beside = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": NOTE, "gid": "dot"}
    ground = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.3}
    for at, up, name in zip(x["value"], y["value"], names, strict=True):
        ax.annotate(str(name), (at, up), (-6, 6), bbox=ground, **beside)
    return ax


def norm_bands(ax: Axes, layers: Sequence[int], quantiles: np.ndarray, *, colour: str, label: str) -> Axes:
    """Quantiles [L, 5] (1, 25, 50, 75, 99%) of token norms per layer: two bands and the median."""
    ax.fill_between(layers, quantiles[:, 0], quantiles[:, 4], color=colour, alpha=0.12, linewidth=0)
    band(ax, layers, quantiles[:, 2], quantiles[:, 1], quantiles[:, 3], colour=colour, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def curves(ax: Axes, at: Sequence[float], runs: np.ndarray, *, system: str, shade: str | None = None) -> Axes:
    """A training curve: the mean of the runs [seeds, n] over steps or epochs ``at`` [n], their least and most a band.

    A run that diverged (NaN from some step on) breaks the curve off there: the mean of the others is not drawn.
    """
    runs, (own, line) = np.atleast_2d(runs), _look(system)
    ends = runs.min(axis=0), runs.max(axis=0)
    return band(ax, at, runs.mean(axis=0), *ends, colour=shade or own, line=line, label=system)


def training_curves(
    runs: Mapping[str, Mapping[str, tuple[Sequence[float], np.ndarray]]],
    *,
    spans: Mapping[str, tuple[float, float]] | None = None,
    colours: Mapping[str, str] | None = None,
    title: str = "",
    **layout: Any,
) -> Figure:
    """Curves of training, a panel for each quantity.

    Args:
        runs: panel, e.g. ``validation accuracy by epoch`` -> system -> (at [n], runs [seeds, n]) (`curves`).
        spans: phases of all panels (`phases`).
        colours: system -> colour, where it is not the palette's.
        layout: to `panels`: ``columns``, ``height``, ``sharey``.
    """
    figure, axes = panels(len(runs), title=title, **layout)
    for ax, (panel, found) in zip(axes, runs.items(), strict=True):
        for system, (at, values) in found.items():
            curves(ax, at, values, system=system, shade=(colours or {}).get(system))
        ax.set_title(panel)
        if spans:
            phases(ax, spans)
    if len({system for found in runs.values() for system in found}) > 1:
        legend_below(figure)
    return figure


def phases(ax: Axes, spans: Mapping[str, tuple[float, float]]) -> Axes:
    """Training phases, name -> (first, last) on the x axis: every second one shaded, names above the curves."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.12 * (top - bottom))  # room for the names
    for i, (name, (first, last)) in enumerate(spans.items()):
        ax.axvspan(first, last, color=NEUTRAL, alpha=0.14 if i % 2 == 0 else 0.0, linewidth=0, zorder=0)
        ax.text(
            (first + last) / 2, 0.985, name, transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=NOTE,
            color="#555555",
        )  # fmt: skip
    return ax


def shares(ax: Axes, at: Sequence[float], parts: np.ndarray, *, colours: Sequence[str]) -> Axes:
    """Shares [K, L] of L parts at K places, stacked: the first at the bottom. What sums to one fills the axes."""
    ax.stackplot(at, *np.asarray(parts).T, colors=colours, edgecolor="white", linewidth=0.5)
    ax.set(xlim=(min(at), max(at)), ylim=(0, 1))
    percent(ax)
    ax.grid(visible=False)
    return ax


def reliability(
    ax: Axes, confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray, *, system: str, label: str = ""
) -> Axes:
    """Reliability diagram of ``metrics.calibration``'s M bins: a dot each, its area the share of images.

    Empty bins have none. Below the diagonal the system is surer than it is right. Several may share the axes.
    """
    seen = np.asarray(share) > 0
    x, y, area = (np.asarray(v, dtype=float)[seen] for v in (confidence, accuracy, share))
    if not ax.lines:
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=BROKEN, linewidth=1, zorder=0)
    shade, line = _look(system)
    shade = {"color": shade, "linewidth": 0.8}
    ax.plot(x, y, line, alpha=0.6, **shade)
    ax.scatter(x, y, s=4 + 160 * area, alpha=0.75, clip_on=False, label=label or system, **shade | {"linewidth": 0})
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    return ax


# --- distributions ---


def distribution(ax: Axes, classes: Sequence[str], p: np.ndarray) -> Axes:
    """One label distribution [C] as bars lying down."""
    shades = [emotion_colour(name) for name in classes]
    at = np.arange(len(classes))[::-1]
    ax.barh(at, p, color=shades)
    ax.set_yticks(at, [_short(name, 20) for name in classes], fontsize=NOTE - 0.5)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "", "1"], fontsize=NOTE - 0.5)
    ax.grid(axis="y", visible=False)
    return ax


def wheel(ax: Axes, ring: Sequence[str], p: np.ndarray, *, others: Mapping[str, np.ndarray] | None = None) -> Axes:
    """A label distribution [K] on its ring: K sectors clockwise from the top, the radius is the probability.

    Args:
        ax: polar axes, ``panels(..., polar=[0])``.
        ring: the K names in the order of the ring (``wheels.Wheel.ring``), which is that of ``p``, too.
        others: name -> [K], up to four further distributions as outlines: the truth, another strategy.
    """
    angle, width = 2 * np.pi * np.arange(len(ring)) / len(ring), 2 * np.pi / len(ring)
    ax.set_theta_zero_location("N")
    ax.set_theta_direction(-1)
    shades = [emotion_colour(name) for name in ring]
    ax.bar(angle, p, width=width, color=shades, alpha=0.85, edgecolor="white", linewidth=0.8)
    for (name, q), line in zip((others or {}).items(), ("-", "--", ":", "-."), strict=False):
        ax.bar(angle, q, width=width, fill=False, edgecolor="black", linestyle=line, linewidth=0.9, label=name)
    ax.set_xticks(angle, ring)
    for text, at in zip(ax.get_xticklabels(), np.sin(angle).round(6), strict=True):
        text.set_ha("center" if at == 0 else "left" if at > 0 else "right")
    ax.tick_params(axis="x", pad=0)
    ax.tick_params(axis="y", labelsize=NOTE - 0.5, labelcolor="#555555")
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.set_rlabel_position(np.degrees(angle[np.argmax(p)] + np.pi + width / 2) % 360)  # where the sectors are short
    return ax


# --- maps and pictures ---


def heat(
    ax: Axes,
    values: np.ndarray,
    *,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    numbers: bool | np.ndarray = True,
    floor: np.ndarray | None = None,
    frames: Iterable[tuple[tuple[int, int], tuple[int, int]]] = (),
    **look: Any,
) -> AxesImage:
    """A map [R, C] with a number in each cell; returns what is drawn, for a colour bar.

    Args:
        rows, columns: names, by default counted from 1.
        numbers: values with two digits (once each where the map is symmetric), or what is written [R, C], or nothing.
        floor: [R, C]; cells no greater than that are hatched.
        frames: ((top, left), (height, width)) of cells, from 0.
        look: to ``imshow``: ``cmap``, ``vmin``, ``vmax``, ``origin``, ``aspect``.
    """
    values = np.asarray(values)
    shown = ax.imshow(values, **{"cmap": "magma", "vmin": 0, "vmax": 1} | look)
    alike = numbers is True and values.shape[0] == values.shape[1] and np.allclose(values, values.T)
    for (i, j), value in np.ndenumerate(values):
        if numbers is not False and (j <= i or not alike):
            shade = "black" if np.dot(shown.cmap(shown.norm(value))[:3], (0.3, 0.6, 0.1)) > 0.5 else "white"
            number = f"{value:z.2f}".replace("0.", ".", 1) if numbers is True else str(numbers[i, j])
            ax.text(j, i, number, ha="center", va="center", fontsize=CELL, color=shade, gid="cell")
        if floor is not None and value <= floor[i, j]:
            hatched = {"fill": False, "hatch": "////", "linewidth": 0, "edgecolor": NEUTRAL}
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **hatched))
    for (top, left), (height, width) in frames:
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="#00D8FF", linewidth=1.5))
    ax.set_yticks(range(values.shape[0]), rows if rows is not None else range(1, values.shape[0] + 1))
    ax.set_xticks(range(values.shape[1]), columns if columns is not None else range(1, values.shape[1] + 1))
    ax.grid(visible=False)
    return shown


def heats(
    maps: Mapping[str, np.ndarray], *, label: str = "", xlabel: str = "", ylabel: str = "", title: str = "",
    columns: int | None = None, height: float = 2.6, each: Mapping[str, Mapping[str, Any]] | None = None, **how: Any,
) -> Figure:  # fmt: skip
    """Maps, a panel each, with a colour bar for each scale.

    Args:
        maps: title -> values (`heat`). ``each``: title -> what only this one is drawn with. ``how``: all of them.
        label: of the colour bar; maps of another scale have a ``label`` of their own in ``each``.
    """
    (figure, axes), bars = panels(len(maps), columns=columns, height=height, title=title), {}
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        look = {"label": label, **how, **(each or {}).get(name, {})}
        said = look.pop("label")
        shown = heat(ax, values, **look)
        scale = shown.get_cmap().name, shown.get_clim()
        if bars.setdefault(said, (scale, shown))[0] != scale:
            raise ValueError(
                f"map {name!r} has another scale than its colour bar {said!r}: give it a label of its own."
            )
        ax.set_title(name)
    label_outer(axes, xlabel, ylabel)
    for said, (_, shown) in bars.items():
        figure.colorbar(shown, ax=list(axes), label=said, shrink=0.8, aspect=30)
    return figure


def confusion(ax: Axes, matrix: np.ndarray, classes: Sequence[str]) -> Axes:
    """Counts [C, C], row the true class; the shade is the share of the row, the number (up to 12 classes) the count."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_short(name, 20) for name in classes]
    heat(ax, share, rows=names, columns=names, numbers=counts if len(classes) <= 12 else False, cmap="Blues")
    plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    ax.set(xlabel="predicted", ylabel="true class")
    return ax


def weights_heat(ax: Axes, weights: np.ndarray, layers: Sequence[str | int], sigmas: Sequence[float]) -> Axes:
    """Aggregation weights [L, K] of L layers (rows, as given) at K sigmas (columns); numbers are shown up to K = 12."""
    numbers = np.vectorize("{:.2f}".format)(weights) if len(sigmas) <= 12 else False
    names = [f"{s:g}" for s in sigmas]
    heat(ax, weights, rows=layers, columns=names, numbers=numbers, cmap="viridis", aspect="auto")
    ax.set(xlabel="sigma (layers)", ylabel="layer")
    return ax


def picture(ax: Axes, image: np.ndarray, title: str = "", **look: Any) -> AxesImage:
    """An image [h, w, 3] or a map [h, w] without frame, drawn as ``look`` says (`heat`); returns what is drawn."""
    shown = ax.imshow(image, **{"cmap": "magma"} | look)
    ax.set_axis_off()
    ax.set_title(title, fontsize=NOTE, loc="center")
    return shown


def mark(ax: Axes, patches: np.ndarray, marker: str = "x", **look: Any) -> None:
    """Mark patches [h, w] (bool) of the picture that the axes show, whatever its size in pixels."""
    height, width = ax.images[0].get_array().shape[:2]
    (h, w), (rows, columns) = np.shape(patches), np.nonzero(patches)
    at = (columns + 0.5) * width / w - 0.5, (rows + 0.5) * height / h - 0.5
    ax.plot(*at, marker, **{"color": "red", "markersize": 5, "markeredgewidth": 1.2} | look)


def gallery(
    images: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    *,
    label: str = "",
    mark: Callable[[Axes, int, int], Any] | None = None,
    **look: Any,
) -> Figure:
    """Rows of pictures [h, w, 3] and maps [h, w].

    Args:
        images: rows, which stay rows at double width; at single width what would stand in more than five columns is
            turned, so that rows become columns and the titles names of rows.
        titles: of the columns.
        label: of a colour bar for the maps, which there is where this is given.
        mark: draws more into a picture: gets its axes, row and column, as given.
        look: how maps are drawn (`heat`), e.g. ``vmin``, ``cmap``.
    """
    down, across = len(images), len(images[0])
    turned = _width == "single" and across > max(5, down)
    shape = (across, down) if turned else (down, across)
    cell = (WIDTHS[_width] - 0.9 * turned - 0.7 * bool(label)) / shape[1]
    titles = [_short(name, 13 if turned else int(17 * cell), 3) for name in titles] or [""] * across
    tallest = max(image.shape[0] / image.shape[1] for row in images for image in row)
    above = 0 if turned else max(name.count("\n") + bool(name) for name in titles)
    figure = plt.figure(figsize=(WIDTHS[_width], shape[0] * cell * tallest + 0.13 * above))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes, shown = figure.subplots(*shape, squeeze=False), None
    for (i, j), ax in np.ndenumerate(axes.T if turned else axes):
        drawn = picture(ax, images[i][j], titles[j] if i == 0 and not turned else "", **look)
        shown = drawn if np.ndim(images[i][j]) == 2 else shown
        if i == 0 and turned:
            ax.text(-0.05, 0.5, titles[j], transform=ax.transAxes, ha="right", va="center", fontsize=NOTE)
        if mark:
            mark(ax, i, j)
    if label and shown is not None:
        figure.colorbar(shown, ax=axes, label=label, shrink=0.6, aspect=30)
    return figure


def samples(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    classes: Sequence[str] = (),
    distributions: Sequence[np.ndarray | None] = (),
) -> Figure:
    """Pictures [h, w, 3] in a row, in single width in two; below each its label distribution [C], where there are any.

    Args:
        distributions: one for each picture, None for one without.
    """
    high, blocks = 1 + any(p is not None for p in distributions), 1 if is_wide() else 2
    across = -(-len(images) // blocks)
    cell = WIDTHS[_width] / across
    titles = [_short(title, int(15 * cell)) for title in titles]
    height = max(0.95, min(cell, 1.4) + 0.05) + 0.13 * max(title.count("\n") for title in titles)
    figure, axes = panels(blocks * high * across, columns=blocks * across, height=height)
    axes = axes.reshape(blocks, high, across).swapaxes(1, 2).reshape(-1, high)
    for spare in axes[len(images) :].ravel():
        spare.remove()
    for (top, *_), image, title in zip(axes, images, titles, strict=False):
        picture(top, image, title)
    for (_, *below), p in zip(axes, distributions, strict=False):
        for ax in below:
            ax.set_axis_off() if p is None else distribution(ax, classes, p)
            ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    return figure


def class_colours(count: int) -> np.ndarray:
    """[256, 3]: a colour per class of masks, by index; sixty, then again from the first. White from ``count`` on."""
    shades = [shade for name in ("tab20", "tab20b", "tab20c") for shade in mpl.colormaps[name].colors]
    found = np.ones((256, 3))
    found[:count] = [shades[c % len(shades)] for c in range(count)]
    return found


def with_classes(
    images: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    *,
    masks: Sequence[np.ndarray],
    classes: Sequence[str],
    told: str = "",
    **look: Any,
) -> Figure:
    """A `gallery` and, below it, the classes that cover most of the ``masks`` [h, w], 24 at most, in their colours; of
    how many is said.

    Args:
        images, titles, look: as `gallery` takes them; masks among the images are painted with `class_colours`.
        classes: names, by index.
        told: what made the masks, said above the classes.
    """
    figure, shades = gallery(images, titles, **look), class_colours(len(classes))
    share = np.bincount(np.concatenate([np.ravel(mask) for mask in masks]), minlength=len(classes))[: len(classes)]
    common = [c for c in np.argsort(-share, kind="stable")[:24] if share[c]]
    several = (
        f"the {len(common)} commonest of {np.count_nonzero(share)} classes" if share.astype(bool).sum() > 24 else ""
    )
    legend_below(
        figure,
        [Patch(color=shades[c], label=classes[c]) for c in common],
        title="; ".join(filter(None, (told, several))),
    )
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.16 * (np.ceil(len(common) / (1.1 * width)) + bool(several)))
    return figure
