"""Notebook 09, executed, as one HTML file that needs nothing else: no network, no script; for screen, phone and paper.

nbconvert does the converting. Code is folded away and unfolds at a click; pictures are inside the file.
Use: ``python -m hc_lafter.suite.report [--profile default]``; `run_all.py` does the same after notebook 09.
"""

from __future__ import annotations

import argparse
import re
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import nbformat

from hc_lafter.files import write_whole
from hc_lafter.suite.paths import Places

NOTEBOOK = "09-report"
# nbconvert's plain HTML body; the code of a cell goes into a fold, and the parameters that papermill adds stay out.
TEMPLATE = """
{%- extends 'basic/index.html.j2' -%}
{%- block codecell -%}
{%- if 'injected-parameters' not in cell.metadata.get('tags', []) -%}{{ super() }}{%- endif -%}
{%- endblock codecell -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock input_group -%}
{%- block in_prompt -%}{%- endblock in_prompt -%}
{%- block output_prompt -%}{%- endblock output_prompt -%}
{%- block output_area_prompt -%}{%- endblock output_area_prompt -%}
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


class _Outside(HTMLParser):
    """Collects what a page would fetch from elsewhere, or run."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: (value or "").strip() for name, value in attrs}
        links = [given[name] for name in ("src", "srcset", "poster", "data", "background") if name in given]
        links += [given.get("href", "")] if tag == "link" else []
        if tag in ("script", "iframe", "object", "embed") or any(name.startswith("on") for name in given):
            self.found.append(f"<{tag}>")
        self.found += [link for link in links if not link.startswith("data:")]
        self.handle_data(given.get("style", ""), style=True)

    handle_startendtag = handle_starttag

    def handle_data(self, data: str, *, style: bool = False) -> None:
        if style or self.cdata_elem == "style":
            self.found += re.findall(r"@import[^;]*|url\(\s*[\"']?(?!data:)[^)]*", data)


def page(notebook: nbformat.NotebookNode) -> str:
    """An executed notebook as a whole HTML page.

    Raises:
        ValueError: it was not executed, or something in it would be fetched from elsewhere, or would run.
    """
    from nbconvert.exporters import HTMLExporter  # here: it takes a second that no other module should pay
    from pygments.formatters import HtmlFormatter

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not any(cell.outputs for cell in code):
        raise ValueError("the notebook has no outputs: run run_all.py, then make the report of its executed copy.")
    exporter = HTMLExporter(raw_template=TEMPLATE, exclude_anchor_links=True)
    body, _ = exporter.from_notebook_node(notebook)
    style = (files("hc_lafter.suite") / "report.css").read_text(encoding="utf-8")
    style += HtmlFormatter(style="default").get_style_defs(".highlight")
    heads = (line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))
    whole = PAGE.format(title=next(heads, "# Report").lstrip("# "), style=style, body=body)
    outside = _Outside(whole).found
    if outside:
        raise ValueError(
            f"the page would fetch or run {outside[0]!r}: put the thing itself into the notebook's output."
        )
    return whole


def write(executed_notebook: str | Path, target: str | Path) -> Path:
    """Write the page of an executed notebook, whole or not at all, and return where.

    Raises:
        ValueError: as `page`; or the file is no notebook.
        FileNotFoundError: there is no such notebook.
    """
    path = Path(executed_notebook)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run run_all.py --only {NOTEBOOK[:2]} first.")
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat passes on whatever its parsers raise
        raise ValueError(
            f"{path} is no notebook ({type(error).__name__}): run run_all.py --only {NOTEBOOK[:2]} again."
        ) from None
    return write_whole(target, page(notebook))


def main(argv: list[str] | None = None) -> int:
    """Write results/<profile>/report.html from the executed notebook beside it."""
    parser = argparse.ArgumentParser(prog="python -m hc_lafter.suite.report", description=main.__doc__)
    parser.add_argument("--profile", default="default")
    places = Places.find(NOTEBOOK, parser.parse_args(argv).profile)
    try:
        print(write(places.executed, places.results.parent / "report.html"))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
