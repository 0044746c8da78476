"""A finished figure as plain data, and a figure from such data. No pickle, nothing computed anew.

`record` writes down what a figure holds (axes in grids, lines, patches, collections, images, texts, legends, colour
bars) and `build` makes it again, at any size: ticks that were found automatically are found anew, and so is the layout.
What a record has no words for is refused by name; nothing is dropped.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import cm, collections, colors, patches, ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline
from matplotlib.text import Annotation, Text
from matplotlib.transforms import IdentityTransform

# One style for every figure. Glyphs are drawn as paths and ids are salted, so that a figure looks the same without our
# fonts and a second run writes the same bytes.
STYLE = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.fonttype": "path",
    "svg.hashsalt": "hc-lafter",
    "pdf.fonttype": 42,
}
LEAST_TEXT, LEAST_LINE = 5.0, 0.4  # points: nothing smaller can be read in print

# What is kept of each kind of artist: names that have a getter and a setter. Only what differs from a bare one is kept.
ANY = "zorder clip_on visible"
LOOK = {
    "line": f"{ANY} color alpha linewidth drawstyle marker markersize markeredgewidth markeredgecolor markerfacecolor "
    "fillstyle markevery solid_capstyle solid_joinstyle dash_capstyle dash_joinstyle",
    "patch": f"{ANY} facecolor edgecolor linewidth fill hatch capstyle joinstyle",
    "paths": f"{ANY} facecolor edgecolor linewidths hatch capstyle joinstyle",
    "text": f"{ANY} color alpha fontsize fontweight fontstyle fontfamily horizontalalignment verticalalignment "
    "rotation rotation_mode linespacing",
    "mesh": f"{ANY} alpha edgecolor linewidths",
    "image": f"{ANY} alpha interpolation",
    "spine": "visible edgecolor linewidth zorder",
}
POINTS = {"linewidth", "linewidths", "markersize", "markeredgewidth", "fontsize", "labelsize", "length", "width", "pad"}
PATCHES = (patches.Rectangle, patches.Polygon, patches.Wedge, patches.Ellipse, patches.PathPatch, patches.StepPatch)
LEGEND = (
    "borderpad", "labelspacing", "handlelength", "handleheight", "handletextpad", "borderaxespad", "columnspacing",
)  # fmt: skip
LOCATORS = {"nbins": "_nbins", "integer": "_integer", "steps": "_steps", "prune": "_prune", "symmetric": "_symmetric"}
PERCENT = {"xmax": "xmax", "decimals": "decimals", "symbol": "_symbol"}


class _Unknown(Exception):
    """Something in a figure that a record has no words for."""


def record(figure: Figure, name: str = "a figure") -> dict[str, Any]:
    """A finished figure as plain data that JSON can hold; the same figure gives the same record.

    Args:
        figure: its axes in grids (``plt.subplots``), cartesian or polar, with lines, patches, collections, images,
            texts, annotations, legends and colour bars.
        name: what an error calls it.

    Raises:
        ValueError: the figure holds something else; one sentence with its kind.
    """
    try:
        with style():
            return _figure(figure)
    except _Unknown as thing:
        raise ValueError(
            f"{name} holds {thing}, of which no record can be made: draw it with what "
            "hc_lafter/suite/figure_record.py knows, or teach it there."
        ) from None


def _figure(figure: Figure) -> dict[str, Any]:
    axes = [ax for ax in figure.axes if not hasattr(ax, "_colorbar")]
    grids = list(dict.fromkeys(_spec(ax).get_gridspec() for ax in axes))
    named = {figure.get_suptitle: "suptitle", figure.get_supxlabel: "supxlabel", figure.get_supylabel: "supylabel"}
    known = {id(a) for a in (figure.patch, *figure.axes, *figure.legends)}
    titles = {}
    for ask, kind in named.items():
        if ask():
            text = getattr(figure, f"_{kind}")
            known.add(id(text))
            titles[kind] = {"x": text.get_position()[0], **_text(text, getattr(_bare_figure(), f"_{kind}"))}
    others = [a for a in figure.get_children() if id(a) not in known]
    frames = {"figure": figure.transFigure}
    return {
        "size": [round(float(v), 6) for v in figure.get_size_inches()],
        "grids": [
            {"shape": [g.nrows, g.ncols], "width_ratios": _plain(g.get_width_ratios()),
             "height_ratios": _plain(g.get_height_ratios()), "wspace": g.wspace, "hspace": g.hspace} for g in grids
        ],
        "axes": [_axes(ax, axes, grids) for ax in axes],
        "bars": [_bar(ax, axes) for ax in figure.axes if hasattr(ax, "_colorbar")],
        "legends": [_legend(legend, figure.transFigure) for legend in figure.legends],
        "artists": [_artist(a, frames) for a in others],
        **titles,
    }  # fmt: skip


def _spec(ax: Axes):
    spec = ax.get_subplotspec()
    if (
        spec is None
        or not isinstance(spec.get_gridspec(), GridSpec)
        or ax.get_figure(root=False) is not ax.get_figure(root=True)
    ):
        raise _Unknown(f"axes outside a grid of the figure ({ax})")
    return spec


def _axes(ax: Axes, axes: Sequence[Axes], grids: Sequence[GridSpec]) -> dict[str, Any]:
    if ax.name not in ("rectilinear", "polar") or ax.child_axes:
        raise _Unknown(f"axes of kind {ax.name if not ax.child_axes else 'inset'}")
    if ax._autotitlepos is False:  # None: not drawn yet
        raise _Unknown(f"a title at a height of its own ({ax.get_title() or ax.get_title('left')!r})")
    spec, bare = _spec(ax), _bare(ax.name)
    rows, columns = spec.rowspan, spec.colspan
    kept = {"cell": [grids.index(spec.get_gridspec()), rows.start, rows.stop, columns.start, columns.stop]}
    for axis, group in {"x": ax.get_shared_x_axes(), "y": ax.get_shared_y_axes()}.items():
        first = next(i for i, other in enumerate(axes) if other is ax or group.joined(ax, other))
        kept[axis] = _axis(getattr(ax, f"{axis}axis"), getattr(bare, f"{axis}axis"), ax.name == "polar")
        kept[f"share{axis}"] = first if axes[first] is not ax else None
    if ax.name == "polar":
        turn = ax.get_theta_offset(), ax.get_theta_direction(), ax.get_rlabel_position()
        kept["polar"] = dict(zip(("theta_offset", "theta_direction", "rlabel_position"), _plain(turn), strict=True))
    for loc, title, usual in (
        ("left", ax._left_title, bare._left_title), ("center", ax.title, bare.title),
        ("right", ax._right_title, bare._right_title),
    ):  # fmt: skip
        if title.get_text():
            pad = round(float(ax.titleOffsetTrans.to_values()[5]) * 72 / ax.figure.dpi, 6)
            kept[f"title {loc}"] = {"pad": pad, **_text(title, usual)}
    spines = {k: _props(s, LOOK["spine"], bare.spines[k]) for k, s in ax.spines.items()}
    own = {
        id(a) for a in (*ax.spines.values(), ax.xaxis, ax.yaxis, ax.title, ax._left_title, ax._right_title, ax.patch)
    }
    frames, legend = _frames(ax), ax.get_legend()
    return {
        **kept,
        "frame": [ax.axison, ax.get_frame_on(), _colour(ax.get_facecolor()), ax.patch.get_visible()],
        "aspect": [_plain(ax.get_aspect()), ax.get_adjustable(), _plain(ax.get_anchor()), _plain(ax.get_box_aspect())],
        "zorder": ax.get_zorder(),
        "spines": {k: v for k, v in spines.items() if v},
        "artists": [_artist(a, frames) for a in ax.get_children() if id(a) not in own and a is not legend],
        "legend": _legend(legend, ax.transAxes) if legend else None,
    }


def _axis(axis: Axis, bare: Axis, polar: bool = False, bar: bool = False) -> dict[str, Any]:
    """One axis: limits, scale, ticks (where they are fixed; else what finds them), their look, the label."""
    if not axis._autolabelpos:
        raise _Unknown(f"an axis label at a place of its own ({axis.get_label_text()!r})")
    lim = axis.axes.get_xlim() if axis.axis_name in ("x", "theta") else axis.axes.get_ylim()
    kept = {"lim": [float(v) for v in lim], "scale": axis.get_scale()}
    if kept["scale"] == "log":
        kept["base"] = axis.get_transform().base
    elif kept["scale"] != "linear" and not bar:  # a bar gets its scale from its norm
        raise _Unknown(f"a {kept['scale']} scale")
    where, how = axis.get_major_locator(), axis.get_major_formatter()
    usual = isinstance(how, ticker.LogFormatter) or type(how) is ticker.ScalarFormatter
    if polar or isinstance(where, ticker.FixedLocator | StrCategoryLocator) or isinstance(how, ticker.FuncFormatter):
        ticks = list(where())
        kept["ticks"] = _plain([float(tick) for tick in ticks])
    elif isinstance(where, ticker.NullLocator):
        kept["ticks"] = []
    elif isinstance(where, ticker.MaxNLocator) and not isinstance(where, ticker.AutoLocator):
        kept["locator"] = {key: _plain(getattr(where, name)) for key, name in LOCATORS.items()}
    elif not (axis.isDefault_majloc or isinstance(where, ticker.AutoLocator | ticker.LogLocator)):
        raise _Unknown(f"ticks by {type(where).__name__}")
    if isinstance(how, ticker.PercentFormatter):
        kept["percent"] = {key: getattr(how, name) for key, name in PERCENT.items()}
    elif isinstance(how, ticker.StrMethodFormatter | ticker.FormatStrFormatter):
        kept["format"] = how.fmt
    elif isinstance(how, ticker.NullFormatter):
        kept["format"] = ""
    elif kept.get("ticks") and not usual:
        kept["labels"] = [str(label) for label in how.format_ticks(ticks)]
    elif not usual and "ticks" not in kept:
        raise _Unknown(f"tick labels by {type(how).__name__}")
    if isinstance(axis.get_minor_locator(), ticker.NullLocator) and kept["scale"] == "log":
        kept["minor"] = False
    look, plain = axis.get_tick_params("major"), bare.get_tick_params("major")
    kept["look"] = {key: _plain(value) for key, value in look.items() if value != plain.get(key)}
    if "ticks" in kept:
        like = bare.get_major_ticks(1)[0].label1
        labels = [tick.label1 for tick in axis.get_major_ticks(len(kept["ticks"]))]
        names = LOOK["text"].removeprefix(ANY)  # which of them are seen the look says
        names = "color fontsize horizontalalignment" if polar else names  # drawing turns these about
        kept["styles"] = [_props(label, names, like) for label in labels]
        if all(style == kept["styles"][0] for style in kept["styles"]):
            kept["styles"] = kept["styles"][:1]
    label = _text(axis.label, bare.label)
    return {**kept, "label": {**label, "pad": axis.labelpad, "side": axis.get_label_position()}}


def _frames(ax: Axes) -> dict[str, Any]:
    """What a position may be given in: data, parts of the axes, one of each, parts of the figure."""
    mixed = {"x data": ax.get_xaxis_transform(), "y data": ax.get_yaxis_transform()}
    return {"data": ax.transData, "axes": ax.transAxes, **mixed, "figure": ax.figure.transFigure}


def _frame(transform: Any, frames: Mapping[str, Any], artist: Artist) -> str:
    for name, frame in frames.items():
        if transform is frame or transform == frame:
            return name
    raise _Unknown(f"{artist} in coordinates of its own")


def _artist(artist: Artist, frames: Mapping[str, Any] | None) -> dict[str, Any]:
    """One artist; without frames only its look (the key of a legend)."""

    def at(transform):
        return {} if frames is None else {"in": _frame(transform, frames, artist)}

    kind = type(artist)
    if artist.get_path_effects():
        raise _Unknown(f"path effects ({artist})")
    if kind is Line2D:
        points = {} if frames is None else {"xy": _pack(np.ma.filled(np.ma.asarray(artist.get_xydata()), np.nan))}
        dashes = artist.get_linestyle() if artist.get_linestyle() == "None" else _dashes(artist._unscaled_dash_pattern)
        if not isinstance(artist.get_marker(), str | int | None):
            raise _Unknown(f"a line with the marker {artist.get_marker()}")
        look = _props(artist, LOOK["line"], _plainest(Line2D))
        return {"kind": "line", **points, **at(artist.get_transform()), "dashes": dashes, **look}
    if isinstance(artist, PATCHES):
        path = {}
        if frames and type(artist) is patches.Rectangle and not artist.get_angle() and artist.axes.name != "polar":
            path = {"bounds": [float(v) for v in (*artist.get_xy(), artist.get_width(), artist.get_height())]}
        elif frames:
            path = {"path": _path(artist.get_patch_transform().transform_path(artist.get_path()))}
        look = _props(artist, LOOK["patch"], _plainest(patches.PathPatch))
        return {
            "kind": "patch",
            **path,
            **at(artist.get_data_transform()),
            "dashes": _dashes(artist._unscaled_dash_pattern),
            **look,
        }
    if isinstance(artist, collections.QuadMesh):
        grid = {"grid": _pack(artist.get_coordinates()), "values": _pack(artist.get_array()), **_coloured(artist)}
        return {"kind": "mesh", **grid, **_props(artist, LOOK["mesh"], _plainest(collections.QuadMesh))}
    if isinstance(artist, collections.PathCollection | collections.LineCollection | collections.PolyCollection):
        artist.update_scalarmappable()  # numbers become colours
        kept = {
            "paths": [_path(path) for path in artist.get_paths()],
            "dashes": [_dashes(d) for d in artist._us_linestyles],
        }
        sizes = artist.get_sizes() if isinstance(artist, collections.PathCollection) else ()
        if len(sizes):
            where = (
                {}
                if frames is None
                else {"offsets": _pack(np.ma.filled(np.ma.asarray(artist.get_offsets(), float), np.nan))}
            )
            kept |= {"sizes": _pack(sizes), **where, **at(artist.get_offset_transform())}
        else:
            kept |= at(artist.get_transform()) | {"filled": isinstance(artist, collections.PolyCollection)}
        return {"kind": "paths", **kept, **_props(artist, LOOK["paths"], _plainest(collections.PathCollection))}
    if kind is AxesImage:
        values = artist.get_array()
        if values.ndim == 3 and values.dtype.kind == "f":  # drawn with 8 bits, too
            values = (np.clip(np.asarray(values), 0, 1) * 255).astype(np.uint8)
        kept = {"values": _pack(values), "extent": _plain(artist.get_extent()), "origin": artist.origin}
        kept |= _coloured(artist) if values.ndim == 2 else {}
        return {"kind": "image", **kept, **_props(artist, LOOK["image"], _plainest(AxesImage))}
    if isinstance(artist, Annotation):
        both = {"of": artist.xycoords, "to": artist.anncoords}
        for key, frame in both.items():
            tells = [frame] if not isinstance(frame, tuple | list) else frame
            both[key] = list(tells) if all(isinstance(t, str) for t in tells) else _frame(frame, frames, artist)
        arrow = {"arrow": {key: _plain(v) for key, v in artist.arrowprops.items()}} if artist.arrowprops else {}
        where = {"xy": [float(v) for v in artist.xy], "at": [float(v) for v in artist.xyann], **both, **arrow}
        return {"kind": "note", **where, **_text(artist, _plainest(Text))}
    if kind is Text:
        where = {"xy": [float(v) for v in artist.get_unitless_position()], **at(artist.get_transform())}
        return {"kind": "text", **where, **_text(artist, _plainest(Text))}
    raise _Unknown(f"an artist of kind {kind.__name__} ({artist})")


def _text(text: Text, bare: Text | Mapping[str, Any]) -> dict[str, Any]:
    kept = {"text": text.get_text(), **_props(text, LOOK["text"], bare)}
    kept.pop("clip_on", None)  # a text is cut off only where it has something that cuts it
    if text.get_clip_on() and (text.get_clip_box() or text.get_clip_path()):
        kept["clip_on"] = True
    if box := text.get_bbox_patch():
        style = box.get_boxstyle()
        look = {"facecolor": _colour(box.get_facecolor()), "edgecolor": _colour(box.get_edgecolor())}
        form = f"{type(style).__name__.lower()},pad={style.pad:.6g}"
        kept["box"] = {"boxstyle": form, "linewidth": float(box.get_linewidth()), **look}
    return kept


def _legend(legend: Legend, frame: Any) -> dict[str, Any]:
    place = {code: name for name, code in Legend.codes.items()}.get(legend._loc_real, legend._loc_real)
    if legend._outside_loc:
        rest = [word for word in place.split() if word != legend._outside_loc]
        place = f"outside {legend._outside_loc} {rest[0]}"
    anchor = legend.get_bbox_to_anchor().transformed(frame.inverted()).bounds if legend._bbox_to_anchor else None
    texts = legend.get_texts()
    return {
        "keys": [_artist(key, None) for key in legend.legend_handles],
        "labels": [text.get_text() for text in texts],
        "loc": _plain(place),
        "anchor": _plain(anchor),
        "ncols": legend._ncols,
        "fontsize": float(texts[0].get_fontsize()) if texts else 10.0,
        "frameon": legend.get_frame_on(),
        "title": _text(legend.get_title(), _plainest(Text)),
        "zorder": legend.get_zorder(),
        "spaces": {
            key: getattr(legend, key) for key in LEGEND if getattr(legend, key) != mpl.rcParams[f"legend.{key}"]
        },
    }


def _bar(ax: Axes, axes: Sequence[Axes]) -> dict[str, Any]:
    bar, info = ax._colorbar, ax._colorbar_info
    own = {
        id(a) for a in (*ax.spines.values(), ax.xaxis, ax.yaxis, ax.title, ax._left_title, ax._right_title, ax.patch)
    }
    own |= {id(bar.solids), id(bar.dividers)}
    long, kind = bar.long_axis, "x" if bar.orientation == "horizontal" else "y"
    look = {key: _plain(info[key]) for key in ("location", "shrink", "fraction", "aspect", "pad")}
    return {
        "of": [axes.index(parent) for parent in info["parents"]],
        **_coloured(bar.mappable),
        "look": look,
        "extend": bar.extend,
        "alpha": _plain(bar.alpha),
        "axis": {kind: _axis(long, getattr(_bare("rectilinear"), f"{kind}axis"), bar=True)},
        "artists": [_artist(a, _frames(ax)) for a in ax.get_children() if id(a) not in own],
    }


def _coloured(thing: Any) -> dict[str, Any]:
    """Colour map and norm of what turns numbers into colours."""
    norm, cmap = thing.norm, thing.cmap
    if type(norm) not in (colors.Normalize, colors.LogNorm, colors.TwoSlopeNorm):
        raise _Unknown(f"colours by {type(norm).__name__}")
    ends = {key: _plain(getattr(norm, key)) for key in ("vmin", "vcenter", "vmax") if hasattr(norm, key)}
    known = cmap.name in mpl.colormaps and mpl.colormaps[cmap.name] == cmap
    kept = {"cmap": cmap.name, "norm": type(norm).__name__, "ends": ends}
    if not known:
        ends = {key: _colour(getattr(cmap, f"get_{key}")()) for key in ("bad", "under", "over")}
        kept |= {"cmap": [_colour(c) for c in cmap(np.arange(cmap.N))], "extremes": ends}
    return kept


def _props(artist: Artist, names: str, bare: Artist | Mapping[str, Any]) -> dict[str, Any]:
    """What of an artist's look differs from a bare one."""
    bare = bare if isinstance(bare, Mapping) else _looks(bare, names)
    return {name: value for name, value in _looks(artist, names).items() if value != bare[name]}


def _looks(artist: Artist, names: str) -> dict[str, Any]:
    return {name: (_colour if "color" in name else _plain)(getattr(artist, f"get_{name}")()) for name in names.split()}


@cache
def _plainest(kind: type) -> Mapping[str, Any]:
    """The look of an artist of which nothing was said."""
    name, make = {
        Line2D: ("line", lambda: Line2D([], [])),
        patches.PathPatch: ("patch", lambda: patches.PathPatch(Outline([[0, 0]]))),
        collections.PathCollection: ("paths", lambda: collections.PathCollection([])),
        collections.QuadMesh: ("mesh", lambda: collections.QuadMesh(np.zeros((2, 2, 2)))),
        AxesImage: ("image", lambda: AxesImage(_bare("rectilinear"))),
        Text: ("text", Text),
    }[kind]
    return _looks(make(), LOOK[name])


def _colour(value: Any) -> Any:
    """``#rrggbb[aa]``, or a list of them, of which equal ones are one."""
    if value is None or (isinstance(value, str) and value in ("none", "auto")):
        return value
    rgba = colors.to_rgba_array(value)
    named = [colors.to_hex(c, keep_alpha=bool(c[3] < 1)) for c in rgba]
    if np.ndim(value) == 2:
        return named[:1] if len(set(named)) == 1 else named
    return named[0]


def _plain(value: Any) -> Any:
    """What JSON holds; floats with 7 digits, which no picture tells from more."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return float(f"{value:.7g}") if np.isfinite(value) else None if np.isnan(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int):
        return getattr(value, "value", value)
    raise _Unknown(f"the value {value!r}")


def _dashes(pattern: tuple) -> Any:
    return "-" if pattern[1] is None else [_plain(pattern[0]), _plain(list(pattern[1]))]


def _path(path: Outline) -> dict[str, Any]:
    codes = {} if path.codes is None else {"codes": _pack(path.codes)}
    return {"xy": _pack(path.vertices), **codes, "bend": path._interpolation_steps}


def _pack(values: Any) -> Any:
    """An array as lists; a large one as packed bytes, floats in single precision."""
    values = np.ma.filled(values.astype(float), np.nan) if np.ma.is_masked(values) else np.asarray(values)
    if values.dtype.kind in "bui":
        fits = values.size == 0 or (values.min() >= 0 and values.max() < 256)
        values = values.astype(np.uint8 if fits else np.int32)
    if values.size <= 400 and values.ndim < 3:
        return _plain(values)
    values = np.ascontiguousarray(values, dtype="<f4" if values.dtype.kind == "f" else values.dtype.newbyteorder("<"))
    packed = base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()
    return {"dtype": values.dtype.str, "shape": list(values.shape), "zlib": packed}


def _unpack(kept: Any) -> np.ndarray:
    if isinstance(kept, dict):
        flat = np.frombuffer(zlib.decompress(base64.b64decode(kept["zlib"])), dtype=np.dtype(kept["dtype"]))
        return flat.reshape(kept["shape"])
    return np.array(kept, dtype=float)


@contextmanager
def style(k: float = 1.0) -> Iterator[None]:
    """Matplotlib's defaults with our style, whatever the notebook set; sizes in points times ``k``."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        for name in SIZES if k != 1 else ():
            mpl.rcParams[name] *= k
        yield


SIZES = (
    "font.size", "axes.titlesize", "axes.linewidth", "axes.titlepad", "axes.labelpad", "lines.linewidth",
    "lines.markersize", "lines.markeredgewidth", "patch.linewidth", "grid.linewidth", "hatch.linewidth",
    *[f"{x}tick.{m}.{s}" for x in "xy" for m in ("major", "minor") for s in ("size", "width", "pad")],
    "figure.constrained_layout.w_pad", "figure.constrained_layout.h_pad",
)  # fmt: skip


@cache
def _bare(projection: str) -> Axes:
    return Figure().add_subplot(projection=projection)


@cache
def _bare_figure() -> Figure:
    figure = Figure()
    figure.suptitle("-"), figure.supxlabel("-"), figure.supylabel("-")
    return figure


def build(kept: Mapping[str, Any], size: Sequence[float], k: float = 1.0) -> Figure:
    """The figure of a record at a size in inches, everything that is measured in points times ``k``."""
    figure = Figure(figsize=size)
    grids = [
        GridSpec(
            *g["shape"], figure=figure, **{key: g[key] for key in ("width_ratios", "height_ratios", "wspace", "hspace")}
        )
        for g in kept["grids"]
    ]
    axes = []
    for one in kept["axes"]:
        i, top, bottom, left, right = one["cell"]
        share = {f"share{x}": axes[one[f"share{x}"]] for x in "xy" if one[f"share{x}"] is not None}
        projection = {"projection": "polar"} if "polar" in one else {}
        ax = figure.add_subplot(grids[i][top:bottom, left:right], **projection, **share)
        axes.append(ax)
        _fill(ax, one, k)
    for one in kept["bars"]:
        bar = figure.colorbar(
            _mappable(one), ax=[axes[i] for i in one["of"]], extend=one["extend"], alpha=one["alpha"], **one["look"]
        )
        for x, axis in one["axis"].items():
            _set_axis(bar.ax, x, axis, k)
        for artist in one["artists"]:
            _add(bar.ax, artist, _frames(bar.ax), k)
    for legend in kept["legends"]:
        _add_legend(figure, legend, k)
    for artist in kept["artists"]:
        _add(figure, artist, {"figure": figure.transFigure}, k)
    for kind in ("suptitle", "supxlabel", "supylabel"):
        if kind in kept:
            look = {name: value for name, value in kept[kind].items() if name not in ("text", "x")}
            where = {"x": kept[kind]["x"]} if kind != "supylabel" else {}
            getattr(figure, kind)(kept[kind]["text"], **where, **_sized(look, k))
    return figure


def _fill(ax: Axes, kept: Mapping[str, Any], k: float) -> None:
    for setter, value in kept.get("polar", {}).items():
        getattr(ax, f"set_{setter}")(value)
    for artist in kept["artists"]:
        _add(ax, artist, _frames(ax), k)
    for x in "xy":
        _set_axis(ax, x, kept[x], k)
    for loc in ("left", "center", "right"):
        if title := dict(kept.get(f"title {loc}", {})):
            ax.set_title(title.pop("text"), loc=loc, pad=title.pop("pad") * k, **_sized(title, k))
    axis_on, frame_on, colour, visible = kept["frame"]
    ax.set(frame_on=frame_on, facecolor=colour, zorder=kept["zorder"])
    ax.patch.set_visible(visible)
    if not axis_on:
        ax.set_axis_off()
    aspect, adjustable, anchor, box = kept["aspect"]
    ax.set_aspect(aspect, adjustable=adjustable, anchor=_tuple(anchor))
    ax.set_box_aspect(box)
    for name, look in kept["spines"].items():
        ax.spines[name].set(**_sized(look, k))
    if kept["legend"]:
        _add_legend(ax, kept["legend"], k)


def _set_axis(ax: Axes, x: str, kept: Mapping[str, Any], k: float) -> None:
    axis = getattr(ax, f"{x}axis")
    if kept["scale"] == "log" and axis.get_scale() != "log":
        getattr(ax, f"set_{x}scale")("log", base=kept["base"])
    if "ticks" in kept:
        axis.set_major_locator(ticker.FixedLocator(kept["ticks"]))
    elif "locator" in kept:
        axis.set_major_locator(ticker.MaxNLocator(**kept["locator"]))
    if "labels" in kept:
        axis.set_major_formatter(ticker.FixedFormatter(kept["labels"]))
    elif "percent" in kept:
        axis.set_major_formatter(ticker.PercentFormatter(**kept["percent"]))
    elif "format" in kept:
        form = kept["format"]
        axis.set_major_formatter(ticker.FormatStrFormatter(form) if "%" in form else ticker.StrMethodFormatter(form))
    if not kept.get("minor", True):
        axis.set_minor_locator(ticker.NullLocator())
    ax.tick_params(axis=x, **_sized(kept["look"], k))
    if "styles" in kept:
        ticks = axis.get_major_ticks(len(kept["ticks"]))
        for tick, style in zip(ticks, kept["styles"] * (len(ticks) if len(kept["styles"]) == 1 else 1), strict=True):
            tick.label1.set(**_sized(style, k))
    label = dict(kept["label"])
    axis.labelpad = label.pop("pad") * k
    axis.set_label_position(label.pop("side"))
    axis.set_label_text(label.pop("text"), **_sized(label, k))
    getattr(ax, f"set_{x}lim")(kept["lim"])


def _add(host: Axes | Figure, kept: Mapping[str, Any], frames: Mapping[str, Any], k: float) -> None:
    host.add_artist(_made(kept, frames, k, host))


def _made(kept: Mapping[str, Any], frames: Mapping[str, Any] | None, k: float, host: Any = None) -> Artist:
    """The artist of a record; without frames a legend's key."""
    kept = dict(kept)
    kind, where, dashes = kept.pop("kind"), kept.pop("in", None), kept.pop("dashes", None)
    place = {"transform": frames[where]} if frames and where else {}
    if kind == "line":
        points = _unpack(kept.pop("xy", [[0, 0]])).reshape(-1, 2)
        return Line2D(*points.T, linestyle=_undashed(dashes), **place, **_sized(kept, k))
    if kind == "patch":
        if "bounds" in kept:
            x, y, *size = kept.pop("bounds")
            return patches.Rectangle((x, y), *size, linestyle=_undashed(dashes), **place, **_sized(kept, k))
        path = _unpath(kept.pop("path", {"xy": [[0, 0]], "bend": 1}))
        return patches.PathPatch(path, linestyle=_undashed(dashes), **place, **_sized(kept, k))
    if kind == "paths":
        paths, style = [_unpath(p) for p in kept.pop("paths")], {"linestyle": [_undashed(d) for d in dashes]}
        if kept.pop("filled", False):  # a legend that looks for the best place walks round these
            made = collections.PolyCollection([], **style, **place)
            made.set_verts_and_codes([path.vertices for path in paths], [path.codes for path in paths])
            made.set(**_sized(kept, k))
            return made
        if "sizes" not in kept:
            return collections.PathCollection(paths, **style, **place, **_sized(kept, k))
        sizes, offsets = _unpack(kept.pop("sizes")) * k**2, _unpack(kept.pop("offsets", [[0, 0]]))
        place = {"offsets": offsets, "offset_transform": frames[where]} if frames else {}
        made = collections.PathCollection(paths, sizes, **style, **place, **_sized(kept, k))
        made.set_transform(IdentityTransform())
        return made
    if kind == "mesh":
        grid, values = _unpack(kept.pop("grid")), _unpack(kept.pop("values"))
        colour = _colouring(kept)
        made = collections.QuadMesh(
            grid, array=values, antialiased=False, snap=True, **colour, transform=host.transData
        )
        made.set(**_sized(kept, k))
        return made
    if kind == "image":
        values, extent, origin = _unpack(kept.pop("values")), kept.pop("extent"), kept.pop("origin")
        made = AxesImage(host, **(_colouring(kept) if values.ndim == 2 else {}), extent=extent, origin=origin)
        made.set_data(values)
        made.set(**kept)
        return made
    box = kept.pop("box", None)
    look = {"clip_on": False, **_sized(kept, k), **({"bbox": _sized(box, k)} if box else {})}
    if kind == "note":
        of, to = (
            frames[c] if isinstance(c, str) else c[0] if len(c) == 1 else tuple(c)
            for c in (look.pop("of"), look.pop("to"))
        )  # fmt: skip
        shift = k if to in ("offset points", "offset pixels", "offset fontsize") else 1
        at = [v * shift for v in look.pop("at")]
        return Annotation(look.pop("text"), look.pop("xy"), at, of, to, look.pop("arrow", None), **look)
    return Text(*look.pop("xy"), look.pop("text"), **place, **look)


def _add_legend(host: Axes | Figure, kept: Mapping[str, Any], k: float) -> None:
    title = dict(kept["title"])
    legend = host.legend(
        [_made(key, None, k) for key in kept["keys"]], kept["labels"], loc=_tuple(kept["loc"]), ncols=kept["ncols"],
        bbox_to_anchor=kept["anchor"], fontsize=max(LEAST_TEXT, kept["fontsize"] * k) if k != 1 else kept["fontsize"],
        frameon=kept["frameon"], title=title.pop("text") or None, **kept["spaces"],
    )  # fmt: skip
    legend.get_title().set(**_sized(title, k))
    legend.set_zorder(kept["zorder"])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _mappable(kept: Mapping[str, Any]) -> cm.ScalarMappable:
    return cm.ScalarMappable(
        **_colouring({key: kept[key] for key in ("cmap", "norm", "ends", "extremes") if key in kept})
    )


def _colouring(kept: dict[str, Any]) -> dict[str, Any]:
    cmap, norm = kept.pop("cmap"), getattr(colors, kept.pop("norm"))(**kept.pop("ends"))
    if not isinstance(cmap, str):
        cmap = colors.ListedColormap(cmap).with_extremes(**kept.pop("extremes"))
    return {"cmap": cmap, "norm": norm}


def _sized(look: Mapping[str, Any], k: float) -> dict[str, Any]:
    """Points times ``k``; no text under 5 points, no line under 0.4."""
    if k == 1:
        return dict(look)
    return {name: _scaled(name, value, k) if name in POINTS else value for name, value in look.items()}


def _scaled(name: str, value: Any, k: float) -> Any:
    if isinstance(value, list):
        return [_scaled(name, v, k) for v in value]
    if not isinstance(value, int | float):
        return value
    least = LEAST_TEXT if name in ("fontsize", "labelsize") else LEAST_LINE if "linewidth" in name and value else 0
    return max(least, value * k)


def _undashed(dashes: Any) -> Any:
    return dashes if isinstance(dashes, str) else (dashes[0], dashes[1])


def _unpath(kept: Mapping[str, Any]) -> Outline:
    codes = _unpack(kept["codes"]).astype(np.uint8) if "codes" in kept else None
    return Outline(_unpack(kept["xy"]).reshape(-1, 2), codes, kept["bend"])
