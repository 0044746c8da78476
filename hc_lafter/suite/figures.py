"""The figures of a run for print: those files that are as wide as a column or a page, in one folder.

    python -m hc_lafter figures --width single --format pdf --out paper 04 06/tuned

Every figure is saved at both widths when its notebook runs (`Study.figure`); here they are only picked and named.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backend_bases import get_registered_canvas_class
from matplotlib.figure import Figure

from hc_lafter import commands
from hc_lafter.files import write_whole
from hc_lafter.refusals import nearest
from hc_lafter.suite.paths import Places
from hc_lafter.suite.profiles import load_profile

# No dates and no library versions in the files: the same numbers give the same bytes.
FORMATS = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def saved(figure: Figure, form: str) -> bytes:
    """The file of a figure whose layout stands still (`hc_lafter.suite.plots.fit`): fonts embedded (PDF) or drawn as
    paths (SVG), 300 dots per inch (PNG), no dates.

    The same bytes as those of ``savefig``, which draws all of it once more beforehand, for the sake of a layout.
    """
    buffer, screen, canvas = io.BytesIO(), figure.get_dpi(), figure.canvas
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    try:
        getattr(get_registered_canvas_class(form)(figure), f"print_{form}")(buffer, metadata=FORMATS[form])
    finally:
        figure.set_canvas(canvas)
        figure.set_dpi(screen)
    return buffer.getvalue()


def save(figure: Figure, path: Path, formats: Sequence[str] = tuple(FORMATS)) -> None:
    """Write ``<path>.svg`` and the other formats, unless they show this very figure already.

    An SVG holds all that is drawn and takes a fifth of the time: where it is there to the byte, the others are of the
    same figure. It is written last, so that it never stands beside older ones; a format that is not asked for goes.

    Raises:
        OSError: the folder cannot be written.
    """
    files, drawn = {form: path.with_name(f"{path.name}.{form}") for form in FORMATS}, saved(figure, "svg")
    if all(files[form].is_file() for form in formats) and files["svg"].read_bytes() == drawn:
        return
    for form in ("pdf", "png"):
        write_whole(files[form], saved(figure, form)) if form in formats else files[form].unlink(missing_ok=True)
    write_whole(files["svg"], drawn)


def collect(profile: str, width: str, form: str, out: Path, names: Sequence[str] = ()) -> list[Path]:
    """Copy the figures of a run to ``out``, named ``<notebook>--<figure>.<form>``; all or, where one lacks, none.

    Args:
        names: notebooks (``04``, ``4`` or ``04-full-training``), figures (``accuracy``) or both (``04/accuracy``).

    Raises:
        ValueError: there is no such profile, or no such figure.
        FileNotFoundError: a figure was not saved at this width in this format.
        OSError: ``out`` cannot be written.
    """
    saves = load_profile(profile.partition("+")[0]).formats
    folder = Places.find("00-figures", profile).figures.parent
    found = {(p.parent.name, p.stem.removesuffix("-single")): p.parent for p in sorted(folder.glob("*/*.png"))}
    again = f"run `python run_all.py --profile {profile}`"
    if not found:
        raise ValueError(f"{folder} holds no figures: {again} first, or name another profile.")
    chosen: list[tuple[str, str]] = []
    for name in (re.sub(r"^\d(?=/|$)", r"0\g<0>", name) for name in names):
        hits = [(n, f) for n, f in found if name in (n, n[:2], f, f"{n}/{f}", f"{n[:2]}/{f}")]
        if not hits:
            known = [f"{n}/{f}" for n, f in found]
            near = nearest(name, known) or nearest(name, [part for pair in found for part in pair])
            raise ValueError(f"figure {name!r} is not in {folder}{near}: choose one of {', '.join(known)}.")
        chosen += hits
    files = {}
    for notebook, figure in dict.fromkeys(chosen or found):
        path = found[notebook, figure] / f"{figure}{'-single' if width == 'single' else ''}.{form}"
        if not path.is_file():
            if form not in saves:
                more = f"--param formats={saves},{form}"
                raise FileNotFoundError(f"{path} is missing, since {profile} saves no {form}: {again[:-1]} {more}`.")
            raise FileNotFoundError(f"{path} is missing: {again} again, which saves every width and format.")
        files[out / f"{notebook}--{figure}.{form}"] = path.read_bytes()
    return [write_whole(path, content) for path, content in files.items()]


@commands.answers
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = commands.figures().parse_args(arguments)
    print(*collect(given.profile, given.width, given.format, given.out, given.names), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
