"""What was drawn, not which pixels: the numbers given are the numbers shown."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hc_lafter import plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_a_system_has_one_colour_and_shares_it_with_none():
    marks = [*plots.PALETTE.values(), plots.NEUTRAL, plots.HIGHLIGHT]
    assert len(set(marks)) == len(marks)


def test_layer_curve(ax):
    layers, value, low, high = [1, 2, 5], [0.2, 0.4, 0.5], [0.1, 0.3, 0.45], [0.3, 0.5, 0.6]
    assert plots.layer_curve(ax, layers, value, low, high, system="zero-shot") is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([layers, value]))
    assert line.get_label() == "zero-shot" and line.get_color() == plots.PALETTE["zero-shot"]
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(p) for p in zip(layers, high, strict=True)} <= {tuple(v) for v in band.round(6)}
    assert {tuple(p) for p in zip(layers, low, strict=True)} <= {tuple(v) for v in band.round(6)}
    assert ax.yaxis.get_major_formatter()(0.4) == "40%"


def test_difference_puts_the_first_row_on_top(ax):
    plots.difference(ax, ["a", "b"], [-0.02, 0.03], [-0.05, 0.01], [0.01, 0.05], colours=["red", "blue"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"] and list(ax.get_yticks()) == [1, 0]
    interval, point = ax.lines[:2]
    assert list(interval.get_xdata()) == [-0.05, 0.01] and list(interval.get_ydata()) == [1, 1]
    assert list(point.get_xdata()) == [-0.02] and point.get_color() == "red"
    assert list(ax.lines[4].get_xdata()) == [0, 0]  # the line of no difference


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


def test_norm_bands(ax):
    quantiles = np.array([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6.0]])
    plots.norm_bands(ax, [1, 2], quantiles, colour="black", label="x")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3, 4])
    outer, inner = (c.get_paths()[0].vertices[:, 1] for c in ax.collections)
    assert (outer.min(), outer.max()) == (1, 6) and (inner.min(), inner.max()) == (2, 5)


def test_pictures_have_no_frame(ax):
    plots.picture(ax, np.zeros((4, 6, 3)), "title")
    assert not ax.axison and ax.images[0].get_array().shape == (4, 6, 3) and ax.get_title() == "title"
    drawn = plots.map_over(ax, np.arange(6.0).reshape(2, 3), vmin=0, vmax=1)
    assert drawn.get_clim() == (0, 1)
