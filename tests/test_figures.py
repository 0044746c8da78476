"""Figures again: a record draws the same picture, and one that can be read at a column's width."""

import json
import re
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hc_lafter.suite import figures, plots
from hc_lafter.suite.figure_record import LEAST_TEXT, record, style

DRAWN = {}


def drawn(draw):
    DRAWN[draw.__name__] = draw
    return draw


def subplots(*shape, size=(5.0, 3.0), **how):
    figure = Figure(figsize=size)
    return figure, figure.subplots(*shape, **how)


@drawn
def lines():
    figure, (left, right) = subplots(1, 2, width_ratios=[2, 1])
    at = np.arange(1, 9)
    left.plot(at, np.where(at == 4, np.nan, at**2), "o--", color="#0072B2", markerfacecolor="white", label="squares")
    left.plot(at, at, linestyle=(0, (4, 3)), alpha=0.5, linewidth=3, solid_capstyle="round", label="themselves")
    left.axhline(20, color="grey", linestyle=":")
    left.axvspan(2, 3, color="red", alpha=0.2, linewidth=0)
    left.vlines(at, 0, at, colors=["red", "green"] * 4, linewidth=2)
    left.set(xlabel="x", ylabel="y", xlim=(9, 0))
    left.set_title("at the left, as usual", fontsize=9)
    left.legend(title="what", fontsize=8)
    right.plot(2.0**at, at, "x", markersize=9, markeredgewidth=2, color="black")
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    right.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    right.minorticks_off()
    right.spines["top"].set_visible(True)
    return figure


@drawn
def bands():
    figure, (left, right) = subplots(1, 2, sharey=True)
    at = np.linspace(0, 1, 30)
    plots.layer_curve(left, at, at, at - 0.1, at + 0.1, system="LaFTer")
    plots.level(left, 0.5, "half")
    plots.shares(right, at + 0.1, np.stack([at, 1 - at], 1), colours=["#123456", "orange"])
    right.set_xscale("log")
    right.set_xticks([0.1, 1], ["a tenth", "one"], rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    figure.suptitle("two\nlines", x=0.01, ha="left", fontsize=9)
    figure.legend([Patch(color="orange")], ["the rest"], loc="outside right center", title="$d - 1$")
    return figure


@drawn
def points():
    figure, ax = subplots()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 60))
    seen = ax.scatter(x, y, c=y, s=20 + 60 * rng.random(60), cmap="viridis", norm=TwoSlopeNorm(0, -2, 3), alpha=0.7)
    ax.scatter(y, x, marker="^", color=["red", "blue"] * 30, linewidths=0, clip_on=False, label="turned")
    ax.add_collection(LineCollection([[(0, 0), (1, 1)], [(0, 1), (1, 0), (1, 2)]], colors="black", linestyles="--"))
    figure.colorbar(seen, ax=ax, shrink=0.7, location="bottom", label="height")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@drawn
def bars():
    figure, (left, right) = subplots(1, 2)
    made = left.bar(range(3), [1, 3, 2], color=["red", "#00FF0080", "blue"], width=0.7)
    left.bar_label(made, ["one", "three", "two"], fontsize=8, padding=2)
    left.set(ylim=(0, 4))
    right.barh(["a", "b", "c"], [0.2, 0.5, 0.3], color="grey", height=0.6)
    right.text(0.5, 1, " half", va="center", fontsize=8.5)
    right.stairs([1, 2, 1], [0, 0.1, 0.2, 0.3], color="black", label="steps")
    right.add_patch(Rectangle((0.1, 0.5), 0.3, 1, fill=False, hatch="////", linewidth=0, edgecolor="green"))
    right.add_patch(Circle((0.4, 2), 0.05, color="orange"))
    right.invert_yaxis()
    right.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"<{v:.1f}>"))
    right.tick_params(axis="y", labelcolor="red", pad=6)
    right.legend(ncols=2, loc="lower right")
    return figure


@drawn
def errors():
    figure, ax = subplots()
    ax.errorbar([1, 2, 3], [1, 2, 1], [0.2, 0.3, 0.1], [0.1, 0.1, 0.4], "o", color="purple", elinewidth=1, capsize=3)
    return figure


@drawn
def wheel():
    figure = Figure(figsize=(6, 3))
    ax, beside = figure.add_subplot(1, 2, 1, projection="polar"), figure.add_subplot(1, 2, 2)
    ring = list(plots.EMOTION_COLOURS)
    p = np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])
    plots.wheel(ax, ring, p, others={"votes": p[::-1]})
    ax.set_title("a ring", loc="center", pad=14)
    plots.distribution(beside, ring, p)
    return figure


@drawn
def forest():
    named = {"first": ("better", 0.02), "second": ("worse", -0.03), "third": ("no difference", 0.0)}
    rows = {
        name: type("Row", (), {"value": v, "low": v - 0.01, "high": v + 0.01, "verdict": verdict})
        for name, (verdict, v) in named.items()
    }
    figure, ax = subplots()
    plots.forest(ax, {"heading": rows, "another": rows})
    for text in ax.texts:
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    return figure


@drawn
def confusion():
    figure, (left, right) = subplots(1, 2, size=(7, 3))
    plots.confusion(left, np.array([[3, 1], [0, 5]]), ["cat", "dog"])
    plots.reliability(right, np.array([0.2, 0.8]), np.array([0.3, 0.7]), np.array([0.4, 0.6]), system="LaFTer")
    right.annotate("look", (0.2, 0.3), (0.5, 0.8), arrowprops={"arrowstyle": "->", "color": "red"})
    right.annotate("edge", (0.9, 0.1), xycoords="axes fraction", ha="right")
    right.annotate("over the edge", (0.02, 0.9), ha="center", bbox={"facecolor": "yellow", "pad": 1.5})
    right.text(1.0, 0.6, "cut here", clip_on=True)
    return figure


@drawn
def pictures():
    rng = np.random.default_rng(0)
    figure, axes = subplots(2, 3, size=(5, 3.5), squeeze=False)
    for row in axes:
        plots.picture(row[0], rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), "photo")
        plots.map_over(row[1], rng.random((5, 7)), vmin=0, vmax=1, title="map")
        classes = np.where(np.arange(70) < 5, np.nan, rng.integers(0, 3, (70, 70)))
        colours = ListedColormap(["red", "#00ff00", "0.5"]).with_extremes(bad="yellow")
        shown = row[2].imshow(classes, cmap=colours, vmin=0, vmax=2)
        row[2].set_xticks([])
        row[2].set_yticks([])
        row[2].imshow(rng.random((70, 70, 4)), extent=(0, 35, 0, 35), interpolation="bilinear")
        row[2].set(xlim=(-0.5, 69.5), ylim=(69.5, -0.5))
    bar = figure.colorbar(shown, ax=axes[:, 2], shrink=0.8, label="class")
    bar.ax.axhline(1.0, color="cyan", linewidth=2)
    bar.ax.text(-0.3, 1.0, "floor", ha="right", va="center", fontsize=7)
    figure.text(0.02, 0.02, "below all", fontsize=7)
    return figure


@drawn
def mesh():
    figure, ax = subplots()
    values = np.ma.masked_less(np.arange(1.0, 13).reshape(3, 4), 2)
    figure.colorbar(ax.pcolormesh(np.arange(5.0) ** 2, np.arange(4), values, cmap="magma", norm=LogNorm(1, 12)), ax=ax)
    ax.grid(visible=False)
    return figure


@drawn
def twins():
    figure, ax = subplots()
    ax.plot([0, 1], [0, 1])
    other = ax.twinx()
    other.plot([0, 1], [30, 10], color="red")
    other.set_ylabel("degrees")
    other.grid(visible=False)
    return figure


def made(name):
    with style():
        return DRAWN[name]()


def pixels(figure, dpi=100):
    with style():
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def kept_of(figure, name="it"):
    return json.loads(figures.dumps(record(figure, name)))["figure"]


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_is_the_same(name):
    figure = made(name)
    kept = kept_of(figure)  # before anything was drawn
    want = pixels(figure)
    got = pixels(figures.draw(kept))
    assert got.shape == want.shape and want.std() > 10
    assert np.abs(got - want).mean() < 0.4  # of 255; pictures are kept with 8 bits
    assert kept_of(figure) == kept_of(made(name)) == kept  # after it was drawn, and of another one


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("lines", ("axes", 0, "artists", 0, "color"), "#ff0000"),
        ("lines", ("axes", 0, "artists", 2, "in"), "data"),
        ("points", ("axes", 0, "artists", 1, "sizes"), [400.0]),
        ("bars", ("axes", 1, "y", "labels"), ["a", "b", "see"]),
        ("pictures", ("bars", 0, "artists", 1, "text"), "ceiling"),
        ("mesh", ("axes", 0, "artists", 0, "cmap"), "viridis"),
    ],
)
def test_a_changed_record_is_another_picture(name, place, value):
    kept = kept_of(made(name))
    before, inner = pixels(figures.draw(kept)), kept
    for key in place[:-1]:
        inner = inner[key]
    assert inner[place[-1]] != value
    inner[place[-1]] = value
    assert np.abs(pixels(figures.draw(kept)) - before).mean() > 0.02


def test_what_the_notebook_set_elsewhere_changes_nothing():
    figure = made("lines")
    want = kept_of(figure)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.grid": False}):
        assert kept_of(figure) == want
        other = figures.draw(want)
    assert np.array_equal(pixels(other), pixels(figures.draw(want)))


def arrow(ax):
    ax.add_patch(FancyArrowPatch((0, 0), (1, 1)))


def inset(ax):
    ax.inset_axes([0.5, 0.5, 0.3, 0.3])


def halo(ax):
    ax.text(0, 0, "a", path_effects=[withStroke(linewidth=2)])


def own_place(ax):
    ax.text(0, 0, "a", transform=ax.transData + ax.transAxes)


def high_title(ax):
    ax.set_title("a", y=1.3)


def far_label(ax):
    ax.set_xlabel("a")
    ax.xaxis.set_label_coords(0.5, -0.4)


def symlog(ax):
    ax.set_xscale("symlog")


@pytest.mark.parametrize(
    ("add", "says"),
    [
        (arrow, "FancyArrowPatch"),
        (inset, "inset"),
        (halo, "path effects"),
        (own_place, "coordinates"),
        (symlog, "symlog"),
        (high_title, "a title at a height of its own"),
        (far_label, "an axis label at a place of its own"),
    ],
)
def test_what_a_record_cannot_hold_is_refused_by_name(add, says):
    with style():
        figure, ax = subplots()
        add(ax)
    with pytest.raises(ValueError, match=rf"^04/accuracy holds .*{says}.*\.$"):
        record(figure, "04/accuracy")


def test_axes_outside_a_grid_are_refused():
    with style():
        figure = Figure()
        figure.add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="outside a grid"):
        record(figure)
    with style():
        figure = Figure()
        figure.subfigures(1, 2)[0].subplots()
    with pytest.raises(ValueError, match="grid"):
        record(figure)


def sizes_of(figure):
    return [t.get_fontsize() for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]


@pytest.mark.parametrize("width", figures.WIDTHS)
@pytest.mark.parametrize("name", DRAWN)
def test_a_column_holds_every_figure(name, width):
    inches = figures.WIDTHS[width]
    figure = figures.draw(kept_of(made(name)), inches)
    assert figure.get_size_inches()[0] == inches and figure.get_size_inches()[1] <= figures.TALLEST
    assert min(sizes_of(figure)) >= LEAST_TEXT
    figure.draw_without_rendering()
    edge = figure.bbox.padded(2)
    for title in (figure._suptitle, *(t for ax in figure.axes for t in (ax._left_title, ax.title, ax.xaxis.label))):
        if title is not None and title.get_text():
            box = title.get_window_extent()
            assert edge.x0 <= box.x0 and box.x1 <= edge.x1, title.get_text()


def test_panels_move_below_each_other_and_keep_their_names():
    with style():
        figure, axes = subplots(1, 3, size=(12, 4), sharey=True)
        for i, ax in enumerate(axes):
            ax.plot([0.1, 0.2, 0.3], [0, 1, 2], "o")
            ax.set_title(f"quantity {i}")
        axes[0].set_yticks(
            [0, 1, 2], ["the first of the systems that took part", "another system", "the last one"], fontsize=8
        )
        figure.suptitle("A sentence that is much too long for one column of a paper, " * 2, x=0.01, ha="left")
        axes[0].plot([], [], label="a line with a long name, longer than its panel is wide")
        axes[0].legend()
    figure = figures.draw(kept_of(figure), figures.WIDTHS["single"])
    figure.draw_without_rendering()
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    assert figures.narrowest(figure) >= figures.ROOM
    for ax in figure.axes:
        shown = [t.label1 for t in ax.yaxis.get_major_ticks() if t.label1.get_visible()]
        assert shown[0].get_text() == "the first of the systems that took part"
        assert {round(t.get_fontsize(), 6) for t in shown} == {round(8 * figures.TEXT[0], 6)}
    assert len(figure.legends) == 1 and not any(ax.get_legend() for ax in figure.axes)
    assert figure.get_suptitle().count("\n") >= 1


@pytest.mark.parametrize(("width", "shown"), [("single", False), ("double", True)])
def test_numbers_stay_within_their_cells_or_away(width, shown):
    with style():
        figure, axes = subplots(1, 2, size=(9, 4.5))
        for ax in axes:
            ax.imshow(np.eye(12))
            for i in range(12):
                ax.text(i, i, "1.00", ha="center", va="center", fontsize=6)
            ax.text(-0.4, 11.4, "a note", fontsize=7)
    figure = figures.draw(kept_of(figure), figures.WIDTHS[width])
    figure.draw_without_rendering()
    for ax in figure.axes:
        *numbers, note = ax.texts
        cell = ax.get_window_extent().width / 12
        assert note.get_visible() and {text.get_visible() for text in numbers} == {shown}
        assert all(text.get_window_extent().width <= cell for text in numbers if shown)
        assert all(text.get_fontsize() >= figures.LEAST_NUMBER for text in numbers if shown)


def test_a_legend_as_high_as_half_its_panel_moves_below():
    with style():
        figure, axes = subplots(1, 2, size=(11, 3.2))
        for ax, count in zip(axes, (8, 2), strict=True):
            for i in range(count):
                ax.plot([0, 1], [i, i], label=f"layer {i}")
            ax.legend()
    figure = figures.draw(kept_of(figure), figures.WIDTHS["double"])
    assert [ax.get_legend() is None for ax in figure.axes] == [True, False]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"layer {i}" for i in range(8)]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("HC_LAFTER_OUTPUT", str(tmp_path))
    for notebook, name in (("01-first", "lines"), ("01-first", "forest"), ("02-second", "lines")):
        path = tmp_path / "results" / "smoke" / notebook / "figures" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(figures.dumps(record(made(name))).encode())
    return tmp_path / "results" / "smoke"


def run(*arguments):
    return figures.main(["--profile", "smoke", *map(str, arguments)])


@pytest.mark.parametrize("width", figures.WIDTHS)
def test_the_pdf_has_its_fonts_and_the_width(results, tmp_path, capsys, width):
    out = tmp_path / "paper"
    assert run("--out", out, "--width", width, "01-first/forest") == 0
    path = out / "01-first" / "forest.pdf"
    assert capsys.readouterr().out.startswith(str(path)) and sorted(out.rglob("*.*")) == [path]
    content = path.read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content and b"CreationDate" not in content
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", content)
    assert float(box[1]) == pytest.approx(72 * figures.WIDTHS[width], abs=0.01)
    assert run("--out", tmp_path / "again", "--width", width, "01-first/forest") == 0
    assert (tmp_path / "again" / "01-first" / "forest.pdf").read_bytes() == content


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        ((), ["01-first/forest", "01-first/lines", "02-second/lines"]),
        (("lines",), ["01-first/lines", "02-second/lines"]),
        (("01-first",), ["01-first/forest", "01-first/lines"]),
        (("02/lines", "forest"), ["01-first/forest", "02-second/lines"]),
    ],
)
def test_names_choose(results, tmp_path, names, drawn):
    out = tmp_path / "paper"
    assert run("--out", out, "--format", "svg", *names) == 0
    assert sorted(out.rglob("*.svg")) == [out / f"{name}.svg" for name in drawn]


def refused(capsys, *arguments):
    """The one sentence on stderr."""
    assert figures.main(list(map(str, arguments))) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and said.err.endswith(".\n")
    return said.err


def test_errors_name_the_value_and_the_mend(results, tmp_path, capsys):
    out = tmp_path / "paper"
    assert "did you mean 'smoke'" in refused(capsys, "--profile", "smok", "--out", out)
    assert "run_all.py --profile default" in refused(capsys, "--profile", "default", "--out", out)
    assert "did you mean 'lines'" in refused(capsys, "--profile", "smoke", "--out", out, "line")
    assert "did you mean '01-first/lines'" in refused(capsys, "--profile", "smoke", "--out", out, "01-first/lins")
    assert not out.exists()
    out.write_text("a file")
    assert str(out) in refused(capsys, "--profile", "smoke", "--out", out, "forest")
    path = results / "01-first" / "figures" / "lines.json"
    content = path.read_text(encoding="utf-8")
    for damaged in ("", "{}", "[1]", content[:-20], content.replace("squares", "circles")):
        path.write_text(damaged, encoding="utf-8")
        said = refused(capsys, "--profile", "smoke", "--out", tmp_path / "other", "01-first/lines")
        assert str(path) in said and "damaged" in said
    path.write_text(content.replace('"version":1', '"version":99'), encoding="utf-8")
    assert "version 99" in refused(capsys, "--profile", "smoke", "--out", tmp_path / "other", "01-first/lines")
    for wrong in (("--format", "gif"), ("--width", "triple")):
        with pytest.raises(SystemExit, match="2"):
            run("--out", out, *wrong)


def test_what_does_not_fit_a_column_gets_the_page_and_is_told(results, tmp_path, capsys):
    with style():
        figure, axes = subplots(1, 12, size=(12, 1.5))
        for ax in axes:
            plots.picture(ax, np.zeros((4, 4, 3), np.uint8), "a title")
    kept = record(figure)
    with pytest.raises(figures.TooNarrow, match=r"3\.25 inches are too narrow"):
        figures.draw(kept, 3.25)
    (results / "02-second" / "figures" / "many.json").write_text(figures.dumps(kept), encoding="utf-8")
    assert run("--out", tmp_path / "paper", "--width", "single", "--format", "svg", "many") == 0
    assert "does not fit 3.25 inches: drawn 6.75 wide" in capsys.readouterr().out
    assert 'width="486pt"' in (tmp_path / "paper" / "02-second" / "many.svg").read_text(encoding="utf-8")
