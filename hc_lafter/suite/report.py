"""Notebook 09, executed, as one HTML file that needs nothing else: no network, no script; for screen, phone and paper.

nbconvert does the converting. Code is folded away and unfolds at a click; pictures are inside the file.
Use: ``python -m hc_lafter report [--profile default]``; a run of the notebooks does the same after notebook 09, and so
does the notebook's last cell in JupyterLab.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nbformat
from IPython import get_ipython
from markupsafe import Markup

from hc_lafter import commands
from hc_lafter.files import write_whole
from hc_lafter.suite import provenance
from hc_lafter.suite.paths import REPORT, Places, find_root
from hc_lafter.suite.runner import RECORD


def page(notebook: nbformat.NotebookNode) -> str:
    """An executed notebook as a whole HTML page.

    Its head forbids a browser to fetch or run anything: only pictures and styles inside the page are shown.

    Raises:
        ValueError: it was not executed.
    """
    from nbconvert.exporters import HTMLExporter  # here: it takes a second that no other module should pay
    from pygments.formatters import HtmlFormatter

    from hc_lafter.suite.reporting import TEMPLATES, environment

    if not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"):
        raise ValueError("the notebook has no outputs: run it, then make the report of its executed copy.")
    shown = [cell for cell in notebook.cells if RECORD not in cell.metadata.get("tags", ())]
    notebook = nbformat.from_dict({**notebook, "cells": shown})
    folds = (TEMPLATES / "notebook.html.j2").read_text(encoding="utf-8")
    body, _ = HTMLExporter(raw_template=folds, exclude_anchor_links=True).from_notebook_node(notebook)
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    style += HtmlFormatter(style="default").get_style_defs(".highlight")
    headings = (line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))
    title = next(headings, "# Report").removeprefix("# ")
    return environment().get_template("page.html.j2").render(title=title, style=Markup(style), body=Markup(body))


def write(executed_notebook: str | Path, target: str | Path) -> Path:
    """Write the page of an executed notebook, whole or not at all, and return where.

    Raises:
        ValueError: as `page`; or the file is not a notebook.
        FileNotFoundError: there is no such notebook.
    """
    path = Path(executed_notebook)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run notebook {REPORT[:2]} first.")
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat passes on whatever its parsers raise
        why = type(error).__name__
        raise ValueError(f"{path} is not a notebook ({why}): run notebook {REPORT[:2]} again.") from None
    return write_whole(target, page(notebook))


def make(places: Places) -> Path:
    """Write ``report.html`` beside what notebook 09 left, and take it into that notebook's provenance.

    Raises:
        ValueError, FileNotFoundError: as `write`.
    """
    path = write(places.executed, places.provenance.with_name(provenance.PAGE))
    provenance.renew(places, path)
    return path


def write_live(target: Path) -> None:
    """Write the page of the live notebook 09, as far as it has run; nothing where `run_all.py` makes it afterwards.

    The prose is that of the file in notebooks/, the outputs are those that IPython keeps of each cell's last run.

    Raises:
        ValueError: no cell that has run stands in the file: it was changed and not saved.
    """
    shell = get_ipython()
    if not hasattr(shell, "kernel") or "HC_LAFTER_ROOT" in os.environ:
        return
    notebook = nbformat.read(find_root() / "notebooks" / f"{REPORT}.ipynb", as_version=4)
    ran = {source.strip(): number for number, source in enumerate(shell.user_ns["In"])}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kept = shell.history_manager.outputs.get(ran.get(cell.source.strip()), [])
            cell.outputs = [_output(kind.output_type, kind.bundle) for kind in kept]
    write_whole(target, page(notebook))
    provenance.renew(Places.find(REPORT, target.parent.name), target)
    print(f"The report is {target.relative_to(target.parents[2])}.")


def _output(kind: str, bundle: dict) -> nbformat.NotebookNode:
    """What IPython keeps of an output, as nbformat has it."""
    if "stream" in bundle:
        name = "stderr" if kind == "err_stream" else "stdout"
        return nbformat.v4.new_output("stream", name=name, text="".join(bundle["stream"]))
    return nbformat.v4.new_output("display_data", data=bundle)


@commands.answers
def main(argv: list[str] | None = None) -> int:
    """Write results/<profile>/report.html from the executed notebook beside it."""
    parser = argparse.ArgumentParser(prog="hc-lafter report", description=main.__doc__)
    parser.add_argument("--profile", default="default", help="whose results are reported (default: %(default)s)")
    print(make(Places.reported(parser.parse_args(argv).profile)))
    return 0
