"""Figures of a study: two widths, three formats, the same bytes again, nothing cut; and the copies for print."""

import ast
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm
from matplotlib.text import Text
from PIL import Image

from hc_lafter.suite import figures, plots
from hc_lafter.suite.study import Study

NAMES = ["zero-shot", "multi-layer LaFTer (B/16 segments)", "$5 of $x_1$, 50%, <b> & {y}", "一个名字很长的类别" * 3]


def table(names=NAMES, **more):
    value = np.linspace(-0.1, 0.3, len(names))
    ends = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return pd.DataFrame(
        {"system": names, "minus": "the linear probe of the last layer", "verdict": "worse"} | ends | more
    )


def anything():
    """What any notebook might draw: log scales, an inset, contours, an arrow, a colour bar, names of every kind."""
    figure, (left, middle, right) = plots.panels(3, title="A sentence that is longer than one column of a page, " * 2)
    left.loglog(10.0 ** np.arange(-3, 5), 10.0 ** np.arange(8))
    left.set(xlabel="price in $ of 50% <b> & more than there is room for below one panel", ylabel="a_b^c in $")
    left.inset_axes([0.6, 0.1, 0.35, 0.3]).semilogx([1, 100], [2, 3])
    x = np.linspace(-2, 2, 30)
    figure.colorbar(middle.contourf(x, x, np.hypot(*np.meshgrid(x, x))), ax=middle)
    middle.annotate("here", (0, 0), (1, 1.5), arrowprops={"arrowstyle": "->"})
    middle.set_xticks([-2, -1, 0, 1, 2], [f"long name {i}" for i in range(5)])
    figure.colorbar(right.pcolormesh(np.arange(1.0, 26).reshape(5, 5), norm=LogNorm(1, 25)), ax=right)
    return figure


def pictures():
    return [[np.zeros((20, 30, 3)), *np.random.default_rng(0).random((7, 4, 6))] for _ in range(3)]


DRAWN = {
    "anything": (anything,),
    "alone": (plots.alone, plots.forest, table()),
    "estimates": (plots.estimates, {"one": table(), "two": table(NAMES[:2])}, ),
    "differences": (plots.differences, {"accuracy": table(), "KL": table()}),
    "headed": (plots.differences, {"": table().assign(name="a", of="each at its own temperature")}, "of"),
    "compared": (plots.compared, table(), table()),
    "training": (plots.training_curves, {k: {n: ([1, 2, 3], np.eye(3)) for n in NAMES[:3]} for k in ("loss", "val")}),
    "heats": (plots.heats, {"first": np.eye(12), "second": np.ones((12, 12))}),
    "gallery": (plots.gallery, pictures(), [*NAMES, *NAMES]),
}  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("HC_LAFTER_OUTPUT", str(tmp_path))
    return Study("01-first")


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
@pytest.mark.parametrize("name", DRAWN)
def test_two_widths_three_formats_and_the_same_bytes_again(study, name):
    written = []
    for _ in range(2 if name in ("anything", "gallery") else 1):
        assert not plt.fignum_exists(study.figure(name, *DRAWN[name]).number)
        written.append({path.name: path.read_bytes() for path in study.figures.iterdir()})
        [path.unlink() for path in study.figures.iterdir()]
    assert written[0] == written[-1]
    assert set(written[0]) == {f"{name}{width}.{form}" for width in ("", "-single") for form in figures.FORMATS}
    for file, content in written[0].items():
        (study.figures / file).write_bytes(content)
    for width, inches in plots.WIDTHS.items():
        path = study.figures / (name if width == "double" else f"{name}-{width}")
        with Image.open(path.with_suffix(".png")) as image:
            assert image.width == round(300 * inches)
        pdf, svg = path.with_suffix(".pdf").read_bytes(), path.with_suffix(".svg").read_text(encoding="utf-8")
        assert float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)[1]) == pytest.approx(72 * inches, abs=0.01)
        assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) == pytest.approx(72 * inches, abs=0.01)
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
        assert "<text" not in svg and "dc:date" not in svg


def test_a_file_is_what_savefig_writes():
    with plots.at_width("double"):
        figure = plots.fit(anything())
        for form, metadata in figures.FORMATS.items():
            figure.savefig(buffer := io.BytesIO(), format=form, metadata=metadata)
            assert figures.saved(figure, form) == buffer.getvalue()
        plt.close(figure)


def test_a_profile_says_which_formats(study):
    """Of another figure nothing stays."""
    few, wanted = Study("01-first", "smoke"), {"one.svg", "one.png", "one-single.svg", "one-single.png"}
    for high in (0.3, 0.4):
        few.figure("one", plots.alone, lambda ax, high=high: ax.plot([0, 1], [0, high]))
        assert {path.name for path in few.figures.iterdir()} == wanted
        (few.figures / "one.pdf").touch()


def test_what_shows_this_very_figure_is_not_drawn_again(study, monkeypatch):
    drawn, saved = [], figures.saved
    monkeypatch.setattr(figures, "saved", lambda figure, form: drawn.append(form) or saved(figure, form))

    def again(high=0.3):
        drawn.clear()
        study.figure("one", plots.alone, lambda ax: ax.plot([0, 1], [0, high]))
        return sorted(drawn)

    every = ["pdf", "pdf", "png", "png", "svg", "svg"]
    assert [again(), again()] == [every, ["svg", "svg"]]
    old = (study.figures / "one.pdf").read_bytes()
    assert again(high=0.4) == every and (study.figures / "one.pdf").read_bytes() != old
    (study.figures / "one.png").unlink()
    assert again(high=0.4) == ["pdf", "png", "svg", "svg"] and (study.figures / "one.png").is_file()


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
@pytest.mark.parametrize("width", plots.WIDTHS)
@pytest.mark.parametrize("name", DRAWN)
def test_nothing_leaves_the_canvas(name, width):
    draw, *given = DRAWN[name]
    with plots.at_width(width):
        figure = plots.fit(draw(*given))
        figure.set_dpi(plt.rcParams["savefig.dpi"])  # as it is saved: on a screen's grid letters are narrower
        drawn = figure.get_tightbbox()
    wide, high = figure.get_size_inches()
    assert min(drawn.min) > -0.02 and drawn.x1 < wide + 0.02 and drawn.y1 < high + 0.02, drawn
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_visible()) >= plots.LEAST_CELL
    assert min(ax.get_window_extent().width for ax in figure.axes if ax.get_label() != "<colorbar>") > 0.25 * figure.dpi
    plt.close(figure)


def test_no_notebook_leaves_a_colour_to_matplotlib():
    """Its cycle means nothing, and looks like the colours of systems and emotions."""
    drawing = {"plot", "bar", "barh", "hist", "scatter", "errorbar", "fill_between", "stackplot"}
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in drawing:
                said = {word.arg for word in call.keywords}
                assert said & {"color", "colors", "c", None}, f"{path.name}: {ast.unparse(call)}"


@pytest.mark.parametrize(
    "own", [{"text.usetex": True}, {"axes.facecolor": "black", "lines.linewidth": 9, "figure.subplot.left": 0.4}]
)
def test_settings_of_the_account_do_not_reach_a_figure(study, own):
    def files():
        shown = study.figure("one", plots.alone, lambda ax: ax.plot([0, 1], [0, 0.3]))
        found = {path.name: path.read_bytes() for path in study.figures.iterdir()}
        [path.unlink() for path in study.figures.iterdir()]
        return found | {"shown": figures.saved(shown, "png")}

    plain = files()
    with plt.rc_context():
        plt.rcParams.update(own)  # what a matplotlibrc of the user's sets at import
        Study("01-first")  # begins as every notebook does
        assert files() == plain


def with_fonts(monkeypatch, *keep):
    """As on a machine that has these fonts alone."""
    manager = plots.font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [f for f in manager.ttflist if f.name in keep])
    monkeypatch.setattr(plots.font_manager, "findSystemFonts", list)
    plots._fallbacks.cache_clear()
    plots._signs_of.cache_clear()


def named(ax):
    ax.barh(NAMED, range(1, 1 + len(NAMED)))
    ax.set_title(NAMED[0])


NAMED = ["快乐", "$x_1$ 50% <b> &amp; a_b", "غضب", "😀 joy", "क्रोध"]


def test_signs_without_a_font_are_one_sentence_and_everything_else_is_text(study, capsys, monkeypatch, recwarn):
    with_fonts(monkeypatch, "DejaVu Sans", "Last Resort High-Efficiency")  # matplotlib's own, a box for every sign
    shown = study.figure("names", plots.alone, named)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("Figures cannot write 'क्रोध', '快乐', since")
    assert "install Noto Sans CJK and Noto Sans Devanagari; no number is touched." in said
    assert "غضب" not in said and "$" not in said  # DejaVu has these
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    assert {t.get_text() for t in shown.axes[0].get_yticklabels()} == set(NAMED)
    assert not any(t.get_parse_math() for t in shown.findobj(Text))
    study.figure("again", plots.alone, named)
    assert capsys.readouterr().out == ""


def test_a_font_that_has_the_signs_is_used(study, capsys, monkeypatch):
    """DejaVu Sans without its Arabic letters, and another font with them, stand for a machine with a Chinese font."""
    with_fonts(monkeypatch, "DejaVu Sans", "DejaVu Sans Mono")
    whole = plots._signs_of
    monkeypatch.setattr(plots, "_signs_of", lambda path: {c for c in whole(path) if "Mono" in path or c < 0x600})
    figure = study.figure("names", plots.alone, lambda ax: ax.set_title("غضب"))
    assert capsys.readouterr().out == ""
    assert figure.axes[0]._left_title.get_fontfamily() == ["DejaVu Sans", "DejaVu Sans Mono"] or (
        figure.axes[0].title.get_fontfamily() == ["DejaVu Sans", "DejaVu Sans Mono"]
    )
    plots._fallbacks.cache_clear()


def test_powers_of_ten_are_signs_and_dollars_stay():
    with plots.at_width("double"):
        figure = plots.fit(anything())
        said = {t.get_text() for t in figure.axes[0].get_xticklabels()}
    assert {"10⁻²", "10⁴"} <= said and not any("$" in text for text in said)
    assert "$" in figure.axes[0].get_xlabel() and not figure.axes[0].xaxis.label.get_parse_math()
    plt.close(figure)


@pytest.fixture
def saved(study):
    for notebook, name in (("01-first", "lines"), ("01-first", "forest"), ("02-second", "lines")):
        folder = study.figures.parent / notebook
        folder.mkdir(parents=True, exist_ok=True)
        for width in ("", "-single"):
            for form in figures.FORMATS:
                (folder / f"{name}{width}.{form}").write_text(f"{name}{width}")
    return study.figures.parent


def run(*arguments):
    return figures.main([*map(str, arguments)])


@pytest.mark.parametrize(
    ("names", "copied"),
    [
        ((), ["01-first--forest", "01-first--lines", "02-second--lines"]),
        (("lines",), ["01-first--lines", "02-second--lines"]),
        (("01",), ["01-first--forest", "01-first--lines"]),
        (("02/lines", "forest", "02"), ["01-first--forest", "02-second--lines"]),
        (("1",), ["01-first--forest", "01-first--lines"]),
        (("2/lines",), ["02-second--lines"]),
    ],
)
@pytest.mark.parametrize("width", plots.WIDTHS)
def test_names_choose_and_the_width_is_as_asked(saved, tmp_path, capsys, names, copied, width):
    out = tmp_path / "paper"
    assert run("--out", out, "--format", "svg", "--width", width, *names) == 0
    assert sorted(out.iterdir()) == [out / f"{name}.svg" for name in copied]
    assert sorted(capsys.readouterr().out.split()) == sorted(map(str, out.iterdir()))
    assert {path.read_text().endswith("-single") for path in out.iterdir()} == {width == "single"}


def test_what_is_not_there_is_refused_in_one_sentence(saved, tmp_path, capsys):
    out = tmp_path / "paper"

    def refused(*arguments):
        assert figures.main(["--out", str(out), *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1 and said.err.endswith(".\n") and not out.is_dir()
        return said.err

    assert "did you mean 'smoke'" in refused("--profile", "smok")
    assert "run_all.py --profile full" in refused("--profile", "full")
    assert "did you mean 'lines'" in refused("line")
    assert "did you mean '01-first/lines'" in refused("01-first/lins")
    (saved / "02-second" / "lines-single.pdf").unlink()
    assert "lines-single.pdf is missing: run" in refused("--width", "single")
    out.write_text("a file")
    assert str(out) in refused("forest")
    for wrong in (("--format", "gif"), ("--width", "triple")):
        with pytest.raises(SystemExit, match="2"):
            run("--out", out, *wrong)
