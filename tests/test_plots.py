"""What was drawn, not which pixels: the numbers given are the numbers shown."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle

from hc_lafter.suite import plots
from hc_lafter.systems import find, registry

# What the eye makes of linear RGB: as it is, without long and without middle cones (Machado et al., IEEE TVCG 2009).
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.fixture(autouse=True)
def style():
    with plots.at_width("double"):
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def seen(colour, eye):
    """OKLab (Ottosson, 2020), times 100: a distance of 2 is just noticed side by side."""
    rgb = np.array(to_rgb(colour))
    linear = np.clip(EYES[eye] @ np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92), 0, 1)
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.6806995, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.0259040, 0.78277177, -0.80867577],
    ]
    return 100 * np.array(lab) @ np.cbrt(np.array(cones) @ linear)


@pytest.mark.parametrize("eye", EYES)
def test_any_two_systems_can_be_told_apart(eye):
    """Those of the curve; of two with the same line the colours are."""
    for a, b in combinations((entry for entry in registry().values() if entry.reads != "masks"), 2):
        if a.line == b.line:
            distance = np.linalg.norm(seen(a.colour, eye) - seen(b.colour, eye))
            assert distance > 7, f"{a.name} and {b.name}: {distance:.1f}"
    better, worse = (seen(plots.VERDICTS[v][0], eye) for v in ("better", "worse"))
    assert np.linalg.norm(better - worse) > 7
    assert len({marker for _, marker in plots.VERDICTS.values()}) == 3


@pytest.mark.parametrize(
    ("ends", "texts"), [((0.4, 0.8), ["40%", "60%", "80%"]), ((0.7, 0.75), ["70.0%", "72.5%", "75.0%"])]
)
def test_per_cent_has_the_digits_that_tell_ticks_apart(ax, ends, texts):
    ax.set(ylim=ends, yticks=np.linspace(*ends, 3))
    plots.percent(ax)
    ax.figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == texts


def test_layer_curve(ax):
    layers, value, low, high = [1, 2, 5], [0.2, 0.4, 0.5], [0.1, 0.3, 0.45], [0.3, 0.5, 0.6]
    table = pd.DataFrame({"value": value, "low": low, "high": high})
    assert plots.layer_curve(ax, layers, table, system="zero-shot") is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([layers, value]))
    assert line.get_label() == "zero-shot" and line.get_color() == plots.colour("zero-shot")
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(p) for p in zip(layers, high, strict=True)} <= {tuple(v) for v in band.round(6)}
    assert {tuple(p) for p in zip(layers, low, strict=True)} <= {tuple(v) for v in band.round(6)}
    assert ax.yaxis.get_major_formatter()(0.4) == "40%"


def test_a_colour_is_the_systems_whatever_follows_its_name():
    lafter, prompts = (find(name).colour for name in ("LaFTer", "HybridCascade-LaFTer, prompts"))
    names = ("LaFTer", "LaFTer, supervised", "HybridCascade-LaFTer, prompts", "layer 5")
    assert [plots.colour(name) for name in names] == [lafter, lafter, prompts, plots.NEUTRAL]


@pytest.mark.parametrize(
    ("count", "columns", "double", "single"),
    [(2, None, (1, 2), (2, 1)), (5, 3, (2, 3), (5, 1)), (8, 4, (2, 4), (4, 2)), (3, 1, (3, 1), (3, 1))],
)
def test_panels_stand_below_each_other_in_single_width(count, columns, double, single):
    for width, shape in (("double", double), ("single", single)):
        with plots.at_width(width):
            figure, axes = plots.panels(count, columns=columns, height=2, width_ratios=range(1, double[1] + 1))
        assert len(axes) == len(figure.axes) == count
        assert axes[0].get_subplotspec().get_gridspec().get_geometry() == shape
        assert figure.get_size_inches() == pytest.approx((plots.WIDTHS[width], min(2 * shape[0], plots.PAGE)))
        plots.label_outer(axes, "x", "y")
        rows = [divmod(i, shape[1]) for i in range(count)]
        assert [bool(ax.get_ylabel()) for ax in axes] == [column == 0 for _, column in rows]
        assert [bool(ax.get_xlabel()) for ax in axes] == [(row + 1, column) not in rows for row, column in rows]
    with plots.at_width("double"):
        figure, axes = plots.panels(3, columns=1, height=[1, 2, 3], polar=[1])
    assert figure.get_figheight() == 6 and [ax.name for ax in axes] == ["rectilinear", "polar", "rectilinear"]


def test_legend_below_has_each_label_once():
    figure, axes = plots.panels(2)
    for ax in axes:
        ax.plot([0, 1], label="a line")
    axes[1].plot([1, 0], label="another")
    plots.legend_below(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a line", "another"]


def test_a_long_legend_takes_nothing_from_the_panel():
    def height(systems: int) -> float:
        with plots.at_width("single"):
            figure, (ax,) = plots.panels(1, height=3.6)
            for i in range(systems):
                ax.plot([0, 1], [0, i], label=f"a system with a long name, {i}")
            plots.legend_below(figure)
            plots.fit(figure)
        return ax.get_position().height * figure.get_figheight()

    assert height(20) > 0.9 * height(5)


def test_level_is_named(ax):
    plots.level(ax, 0.125, "chance")
    assert list(ax.lines[0].get_ydata()) == [0.125, 0.125]
    assert ax.texts[0].get_text() == "chance" and ax.texts[0].xy[1] == 0.125


def test_distribution_runs_from_top_to_bottom(ax):
    plots.distribution(ax, ["awe", "fear", "unknown"], np.array([0.5, 0.3, 0.2]))
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.3, 0.2]
    assert [bar.get_y() + bar.get_height() / 2 for bar in ax.patches] == [2, 1, 0]
    assert plt.matplotlib.colors.to_hex(ax.patches[0].get_facecolor()) == plots.EMOTION_COLOURS["awe"].lower()
    assert plt.matplotlib.colors.to_hex(ax.patches[2].get_facecolor()) == plots.NEUTRAL.lower()


def test_accuracy_against_labels():
    """A curve per supervised system, a mark at 0 for what has no labels, hollow where a run has not converged."""
    rows = [("linear probe", "supervised", n, 0.1 * i, None) for i, n in enumerate((32, 128), start=5)]
    rows += [("LaFTer", "supervised", n, 0.1 * i, n == 32) for i, n in enumerate((32, 128), start=4)]
    rows += [("LaFTer", "label-free", 2000, 0.45, True), ("zero-shot", "no training", 0, 0.4, None)]
    table = pd.DataFrame(rows, columns=["system", "regime", "n_train", "value", "converged"])
    table = table.assign(low=table["value"] - 0.02, high=table["value"] + 0.02)
    figure = plots.label_curves(table, 8, levels={"best": 0.9}, title="labels")
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "4", "16"]
    assert ax.get_xticks().tolist() == [0, 2, 4]
    curves = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2]
    for aside, values in (
        (-0.2, [0.5, 0.6]),
        (0, [0.4, 0.5]),
    ):  # no mark hides another: the last of three is at 0 alone
        assert any(np.allclose(curve, np.transpose([[2 + aside, 4 + aside], values])) for curve in curves)
    marks = [found for found in ax.collections if isinstance(found, PathCollection) and len(found.get_offsets())]
    free = [xy for found in marks for xy in found.get_offsets().tolist() if xy[0] < 1]
    assert sorted(free) == [pytest.approx([-0.6, 0.4]), pytest.approx([0.6, 0.45])]
    hollow = [(found.get_facecolors()[:, :3] == 1).all(axis=1).tolist() for found in marks]
    assert hollow == [[False, False], [False, True], [False], [False]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["linear probe", "LaFTer", "zero-shot"]
    plt.close(figure)


def test_the_key_of_a_system_is_what_is_drawn_of_it():
    """Of every system of the registry: colour, marker and line; a line only where there is a curve."""
    rows = [
        (name, regime, n, 0.5, None)
        for name, entry in registry().items()
        if entry.reads != "masks"
        for regime in {"supervised", "label-free", "no training"} & set(entry.regimes)
        for n in ((32, 128) if regime == "supervised" else (2000 if regime == "label-free" else 0,))
    ]
    table = pd.DataFrame(rows, columns=["system", "regime", "n_train", "value", "converged"])
    only = {name for name, of in table.groupby("system") if set(of["regime"]) == {"label-free"}}
    assert "LaFTer, confident" in only  # the case that was wrong
    figure = plots.label_curves(table.assign(low=0.4, high=0.6), 8)
    (ax,) = figure.axes
    curves = {to_hex(line.get_color()): line.get_linestyle() for line in ax.lines if len(line.get_xdata())}
    marks = {}
    for found in ax.collections:
        if isinstance(found, PathCollection) and len(found.get_offsets()):
            marks.setdefault(to_hex(found.get_edgecolors()[0]), found.get_paths()[0].vertices)  # the curve's first
    keys = {line.get_label(): line for line in ax.lines if not len(line.get_xdata())}
    assert set(keys) == set(table["system"])
    for name, key in keys.items():
        shade = plots.colour(name).lower()
        assert to_hex(key.get_color()) == shade
        assert key.get_linestyle() == curves.get(shade, "None"), name
        style = MarkerStyle(key.get_marker())
        shape = style.get_path().transformed(style.get_transform()).vertices
        assert shape.shape == marks[shade].shape and np.allclose(shape, marks[shade]), name


def test_maps_of_another_scale_have_a_colour_bar_of_their_own():
    maps, change = (
        {"a": np.eye(2), "b": np.eye(2), "c": np.eye(2) - 1},
        {"cmap": "RdBu_r", "vmin": -1, "label": "change"},
    )
    figure = plots.heats(maps, label="CKA", each={"c": change})
    bars = {ax.get_ylabel(): ax.get_ylim() for ax in figure.axes if ax.get_label() == "<colorbar>"}
    assert bars == {"CKA": (0, 1), "change": (-1, 1)}
    with pytest.raises(ValueError, match="map 'c' has another scale than its colour bar 'CKA'"):
        plots.heats(maps, label="CKA", each={"c": {"vmin": -1}})


@pytest.mark.parametrize("width", plots.WIDTHS)
def test_names_of_dots_lie_on_none_and_are_nearest_their_own(width):
    """A cluster, a pair and two on one spot's height, as layers of a tower are."""
    x, y = [0.09, 0.095, 0.1, 0.11, 0.06, 0.13, 0.17], [0.08, 0.08, 0.08, 0.08, 0.42, 0.4, 0.33]
    values = [pd.DataFrame({"value": v, "low": np.array(v) - 0.1, "high": np.array(v) + 0.1}) for v in (x, y)]
    with plots.at_width(width):
        figure = plots.fit(plots.alone(plots.crosses, *values, names=range(3, 10)))
    (ax,) = figure.axes
    figure.draw_without_rendering()
    dots = ax.transData.transform(np.column_stack([x, y]))
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == list("3456789")
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*dot) for dot in dots)
        assert np.linalg.norm(dots - np.mean([box.min, box.max], axis=0), axis=1).argmin() == i


@pytest.mark.parametrize("width", plots.WIDTHS)
@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 8])
def test_samples_leave_no_panel_empty(width, count):
    images, names = [np.full((4, 4, 3), i) for i in range(count)], [f"class {i}" for i in range(count)]
    with plots.at_width(width):
        plain = plots.samples(images, names, ["a", "b"], [None] * count)
        told = plots.samples(images, names, ["a", "b"], [np.array([0.3, 0.7])] * count)
    assert len(plain.axes) == count and all(ax.images for ax in plain.axes)
    assert len(told.axes) == 2 * count
    pictures, bars = ([ax for ax in told.axes if bool(ax.images) == has] for has in (True, False))
    assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in pictures] == list(range(count))
    assert sorted(ax.get_title() for ax in pictures) == names
    for top in pictures:  # each above its own
        place = top.get_subplotspec()
        below = [ax for ax in bars if ax.get_subplotspec().rowspan.start == place.rowspan.start + 1]
        assert any(ax.get_subplotspec().colspan == place.colspan for ax in below)
    assert told.get_figheight() == 2 * plain.get_figheight()


@pytest.mark.parametrize("width", plots.WIDTHS)
def test_long_names_take_nothing_from_samples(width):
    sizes = []
    for name in ("cat", "a long name of a class that breaks"):
        with plots.at_width(width):
            figure = plots.fit(plots.samples([np.zeros((4, 4, 3))] * 6, [name] * 6))
        sizes.append(figure.axes[0].get_window_extent().height)
    assert sizes[1] > 0.9 * sizes[0]


def test_an_emotion_has_its_colour_however_it_is_written():
    assert plots.emotion_colour("Anger") == plots.emotion_colour("anger") == plots.EMOTION_COLOURS["anger"]
    assert plots.emotion_colour("joy") == plots.NEUTRAL and plots.emotion_colour("joy", "red") == "red"


def test_norm_bands(ax):
    quantiles = np.array([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6.0]])
    plots.norm_bands(ax, [1, 2], quantiles, colour="black", label="x")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3, 4])
    outer, inner = (c.get_paths()[0].vertices[:, 1] for c in ax.collections)
    assert (outer.min(), outer.max()) == (1, 6) and (inner.min(), inner.max()) == (2, 5)


def test_pictures_have_no_frame(ax):
    plots.picture(ax, np.zeros((4, 6, 3)), "title")
    assert not ax.axison and ax.images[0].get_array().shape == (4, 6, 3) and ax.get_title() == "title"
    drawn = plots.picture(ax, np.arange(6.0).reshape(2, 3), vmin=0, vmax=1)
    assert drawn.get_clim() == (0, 1)


def test_bars(ax):
    systems, value, low, high = ["zero-shot", "LaFTer"], [0.5, 0.6124], [0.4, 0.55], [0.6, 0.7]
    table = pd.DataFrame({"system": systems, "value": value, "low": low, "high": high})
    plots.bars(ax, table, levels={"chance": 0.125})
    assert [t.get_text() for t in ax.get_yticklabels()] == systems and list(ax.get_yticks()) == [1, 0]
    spans, dots, chance = ax.lines[0:4:2], ax.lines[1:4:2], ax.lines[4]
    assert [list(line.get_xdata()) for line in spans] == [[0.4, 0.6], [0.55, 0.7]]
    assert [list(line.get_xdata()) for line in dots] == [[0.5], [0.6124]]
    assert [line.get_color() for line in dots] == [plots.colour(s) for s in systems]
    assert list(chance.get_xdata()) == [0.125, 0.125]
    assert [t.get_text() for t in ax.texts] == ["50.0% [40.0, 60.0]", "61.2% [55.0, 70.0]", "chance"]


@pytest.mark.parametrize(
    ("unit", "centre", "text"), [("ratio", 1, "0.50 [0.40, 0.60]"), ("points", 0, "+50.0 [+40.0, +60.0]")]
)
def test_bars_mark_what_makes_no_difference(ax, unit, centre, text):
    table = pd.DataFrame({"system": ["a"], "value": [0.5], "low": [0.4], "high": [0.6], "colour": ["red"]})
    plots.bars(ax, table, unit=unit)
    interval, point, line = ax.lines
    assert (interval.get_color(), point.get_color()) == ("red", "red") and list(line.get_xdata()) == [centre] * 2
    assert [t.get_text() for t in ax.texts] == [text]
    plots.bars(ax, table, unit=unit, numbers=False)
    assert len(ax.texts) == 1


def tidy(systems, **more):
    value = np.linspace(0.1, 0.4, len(systems))
    return pd.DataFrame({"system": systems, "value": value, "low": value - 0.05, "high": value + 0.05} | more)


def test_bars_and_forest_take_tidy_tables(ax):
    table = tidy(["LaFTer", "LaFTer"], regime=["supervised", "label-free"])
    plots.bars(ax, table)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["LaFTer, supervised", "LaFTer, label-free"]
    assert {line.get_color() for line in ax.lines} == {plots.colour("LaFTer")}
    ax.clear()
    plots.bars(ax, tidy(["a"], name=["the name"]), unit="unitless")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["the name"] and ax.texts[0].get_text().startswith("0.100 [")
    compared = tidy(["a", "b", "c"], minus=["x", "y", "x"], verdict="better", kind=["k", "k", "l"])
    for groups, headings in (
        (None, {"minus x": ["a", "c"], "minus y": ["b"]}),
        ("kind", {"k": ["a", "b"], "l": ["c"]}),
    ):
        ax.clear()
        plots.forest(ax, compared, groups)
        at = sorted(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True), reverse=True)
        assert [name for _, name in at] == [n for heading, names in headings.items() for n in (heading, *names)]


def test_figures_of_tables():
    figure = plots.estimates({"one": tidy(["a", "b"]), "two": tidy(["c"])}, levels={"chance": 0.2}, xlabel="accuracy")
    assert [ax.get_title("left") for ax in figure.axes] == ["one", "two"]
    assert all([0.2, 0.2] in [list(line.get_xdata()) for line in ax.lines] for ax in figure.axes)
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "accuracy"]
    compared = tidy(["a", "b"], minus="x", verdict=["worse", "no difference"])
    beside = plots.differences({"accuracy": compared, "KL": compared})
    both = plots.compared(tidy(["a"]), compared)
    assert [len(f.axes) for f in (beside, both)] == [2, 2] and len(both.legends) == len(beside.legends) == 1
    alone = plots.alone(plots.level, 0.5, "half", height=1.5, look={"xlabel": "x"})
    assert alone.get_figheight() == 1.5 and alone.axes[0].get_xlabel() == "x"


def test_forest(ax):
    # The last interval leaves out zero, but its corrected verdict does not follow it: a thin line shows why.
    verdicts = ["worse", "better", "no difference"]
    table = pd.DataFrame({"system": ["no NGA", "no adapter", "other"], "value": [-0.05, 0.03, 0.02]})
    table = table.assign(low=[-0.08, 0.01, 0.001], high=[-0.02, 0.05, 0.04], verdict=verdicts)
    table = table.assign(low_all=[np.nan, np.nan, -0.01], high_all=[np.nan, np.nan, 0.05])
    plots.forest(ax, table.assign(group=["Parts", "Parts", "Grouping"]), "group")
    spans, marks = ax.lines[0:6:2], ax.lines[1:6:2]
    assert [list(s.get_xdata()) for s in spans] == [[-0.08, -0.02], [0.01, 0.05], [0.001, 0.04]]
    assert [list(m.get_xdata()) for m in marks] == [[-0.05], [0.03], [0.02]]
    assert [(m.get_color(), m.get_marker()) for m in marks] == [plots.VERDICTS[v] for v in verdicts]
    assert [m.get_markerfacecolor() == "white" for m in marks] == [False, False, True]
    at = {t.get_text(): y for t, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    assert [list(m.get_ydata()) for m in marks] == [[at[name]] for name in ("no NGA", "no adapter", "other")]
    words = {t.get_text(): t.get_position()[1] for t in ax.texts}
    assert at["Parts"] > at["no NGA"] > at["no adapter"] > at["Grouping"] > at["other"] > ax.get_ylim()[0]
    bold = {t.get_text() for t in ax.get_yticklabels() if t.get_weight() == "bold"}
    assert bold == {"Parts", "Grouping"}
    assert words["-5.0 [-8.0, -2.0]"] == at["no NGA"]
    assert list(ax.lines[6].get_xdata()) == [0, 0]
    (thin,) = ax.collections
    np.testing.assert_array_equal(thin.get_segments(), [[[-0.01, at["other"]], [0.05, at["other"]]]])


def test_a_verdict_of_too_few_seeds_has_a_mark_of_its_own():
    few = "undecided with 3 seeds"
    table = tidy(["a", "b", "c"], minus="x", verdict=["no difference", few, "better"], low_all=[-0.1, np.nan, np.nan])
    figure = plots.differences(table.assign(high_all=[0.2, np.nan, np.nan]))
    marks = [line.get_marker() for line in figure.axes[0].lines[1:6:2]]
    assert marks == ["o", "s", "^"]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["better", "no difference", few, "all comparisons together"]


def test_confusion_shades_by_row_and_writes_counts(ax):
    plots.confusion(ax, np.array([[9, 1, 0], [2, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0.9, 0.1, 0], [0.5, 0.5, 0], [0, 0, 0]])
    assert [t.get_text() for t in ax.texts] == list("910220000")
    assert ax.texts[1].get_position() == (1, 0)  # column, row
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true class")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


def test_confusion_of_many_classes_has_no_numbers(ax):
    plots.confusion(ax, np.eye(13, dtype=int), [str(i) for i in range(13)])
    assert not ax.texts


def test_curves_show_mean_and_extremes(ax):
    plots.curves(ax, [1, 2, 3], np.array([[1.0, 2, 3], [3.0, 4, np.nan]]), system="mean of layers")
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), [2, 3, np.nan])  # one run diverged: the curve ends
    assert line.get_linestyle() == ":" and line.get_label() == "mean of layers"
    band = ax.collections[0].get_paths()[0].vertices
    assert {(1, 1), (1, 3), (2, 2), (2, 4)} <= {tuple(v) for v in band}


def test_phases_are_shaded_in_turn_and_named_above_the_curves(ax):
    ax.set_ylim(0, 1)
    plots.phases(ax, {"first": (0, 3), "second": (3, 8)})
    assert [(t.get_text(), t.get_position()[0]) for t in ax.texts] == [("first", 1.5), ("second", 5.5)]
    assert [(p.get_x(), p.get_width(), p.get_alpha() > 0) for p in ax.patches] == [(0, 3, True), (3, 5, False)]
    assert ax.get_ylim() == (0, pytest.approx(1.12))


def test_reliability_leaves_empty_bins_out(ax):
    plots.reliability(ax, [0.2, np.nan, 0.9], [0.1, np.nan, 0.8], [0.25, 0, 0.75], system="LaFTer", label="cooled")
    plots.reliability(ax, [0.5], [0.5], [1.0], system="zero-shot")
    dots = ax.collections[0]
    np.testing.assert_array_equal(dots.get_offsets(), [[0.2, 0.1], [0.9, 0.8]])
    np.testing.assert_allclose(dots.get_sizes() - 4, [40, 120])  # area by share
    assert to_hex(dots.get_facecolor()[0]) == plots.colour("LaFTer").lower() and dots.get_label() == "cooled"
    diagonals = [line for line in ax.lines if list(line.get_xdata()) == list(line.get_ydata()) == [0, 1]]
    assert len(diagonals) == 1


def test_wheel():
    _, ax = plt.subplots(subplot_kw={"projection": "polar"})
    ring, p, q = ["awe", "fear", "unknown", "anger"], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    plots.wheel(ax, ring, p, others={"truth": q})
    sectors, outlines = ax.patches[:4], ax.patches[4:]
    assert [s.get_height() for s in sectors] == p and [s.get_height() for s in outlines] == q
    middle = [s.get_x() + s.get_width() / 2 for s in sectors]
    np.testing.assert_allclose(middle, [0, np.pi / 2, np.pi, 1.5 * np.pi])
    shades = [plots.EMOTION_COLOURS.get(name, plots.NEUTRAL).lower() for name in ring]
    assert [to_hex(s.get_facecolor()) for s in sectors] == shades
    assert not any(s.get_fill() for s in outlines) and ax.get_legend_handles_labels()[1] == ["truth"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ring
    assert ax.get_theta_direction() == -1 and ax.get_theta_offset() == np.pi / 2  # clockwise from the top


def test_weights_heat(ax):
    weights = np.array([[0.0, 0.25], [1.0, 0.75]])
    plots.weights_heat(ax, weights, [11, 12], [0.1, 2.0])
    np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    assert [t.get_text() for t in ax.texts] == ["0.00", "0.25", "1.00", "0.75"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["11", "12"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "2"]


def test_shares_stand_on_each_other(ax):
    parts = np.array([[0.1, 0.9], [0.4, 0.6], [0.5, 0.5]])
    plots.shares(ax, [0.5, 1.0, 4.0], parts, colours=["#112233", "#445566"])
    lower, upper = (c.get_paths()[0].vertices for c in ax.collections)
    assert {(x, y) for x, y in lower} == {(0.5, 0), (1, 0), (4, 0), (0.5, 0.1), (1, 0.4), (4, 0.5)}
    assert {(x, y) for x, y in upper} == {(0.5, 0.1), (1, 0.4), (4, 0.5), (0.5, 1), (1, 1), (4, 1)}
    assert [to_hex(c.get_facecolor()[0]) for c in ax.collections] == ["#112233", "#445566"]
    assert ax.get_xlim() == (0.5, 4) and ax.get_ylim() == (0, 1)


def test_training_curves_have_a_panel_each():
    runs = {"LaFTer": ([1, 2], np.array([[1.0, 2], [3, 4]])), "own": ([1, 2], np.array([[0.0, 1]]))}
    figure = plots.training_curves({"loss": runs, "accuracy": runs}, spans={"one": (1, 2)}, colours={"own": "red"})
    assert [ax.get_title("left") for ax in figure.axes] == ["loss", "accuracy"]
    for ax in figure.axes:
        assert [list(line.get_ydata()) for line in ax.lines] == [[2, 3], [0, 1]]
        assert [to_hex(line.get_color()) for line in ax.lines] == [plots.colour("LaFTer").lower(), "#ff0000"]
        assert [text.get_text() for text in ax.texts] == ["one"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LaFTer", "own"]


def test_heat_writes_a_symmetric_map_once(ax):
    values = np.array([[1.0, 0.25], [0.25, 0.5]])
    plots.heat(ax, values, rows=["a", "b"], floor=np.full((2, 2), 0.3), frames=[((0, 0), (1, 2))])
    assert {t.get_position(): t.get_text() for t in ax.texts} == {(0, 0): "1.00", (0, 1): ".25", (1, 1): ".50"}
    hatched = [p for p in ax.patches if p.get_hatch()]
    assert [p.get_xy() for p in hatched] == [(0.5, -0.5), (-0.5, 0.5)]
    frame = ax.patches[-1]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, -0.5), 2, 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2"]


@pytest.mark.parametrize(("size", "shown"), [(3, True), (40, False)])
def test_numbers_in_cells_fit_or_go(size, shown):
    with plots.at_width("single"):
        figure = plots.fit(plots.heats({"map": np.random.default_rng(0).random((size, size))}))
    ax = figure.axes[0]
    cell = ax.get_window_extent().width / size
    assert {text.get_visible() for text in ax.texts} == {shown}
    assert not shown or max(text.get_window_extent().width for text in ax.texts) <= cell


def test_a_wide_gallery_is_turned_in_single_width():
    images, names, marked = [[np.full((2, 3), 10 * i + j) for j in range(7)] for i in range(2)], list("abcdefg"), []
    for width, shape in (("double", (2, 7)), ("single", (7, 2))):
        with plots.at_width(width):
            figure = plots.gallery(images, names, label="value", mark=lambda ax, i, j: marked.append((i, j)), vmin=0)
        *axes, bar = figure.axes
        assert axes[0].get_subplotspec().get_gridspec().get_geometry() == shape and bar.get_ylabel() == "value"
        seen = np.array([ax.images[0].get_array()[0, 0] for ax in axes]).reshape(shape)
        np.testing.assert_array_equal(seen if width == "double" else seen.T, [np.arange(7), 10 + np.arange(7)])
        said = [ax.get_title() or (ax.texts and ax.texts[0].get_text()) for ax in axes]
        assert [text for text in said if text] == names
    assert marked == [(i, j) for i in range(2) for j in range(7)] * 2


def test_classes_stand_below_their_masks():
    """The commonest first; what is in none, or ignored, has no name."""
    masks = [np.array([[2, 2, 255], [2, 0, 255]])]
    palette = plots.class_colours(3)
    figure = plots.with_classes([[palette[masks[0]]]], ["truth"], masks=masks, classes=["sky", "sea", "wall"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["wall", "sky"]
    assert palette.shape == (256, 3) and (palette[3:] == 1).all()
    assert (plots.class_colours(61)[60] == palette[0]).all()
    many, names = np.arange(30).reshape(5, 6), [f"class {i}" for i in range(30)]
    (legend,) = plots.with_classes([[many]], masks=[many], classes=names).legends
    assert len(legend.get_texts()) == 24 and legend.get_title().get_text() == "the 24 commonest of 30 classes"
