"""JupyterLab in a real browser, as a user has it: notebooks run from the menu's commands, sliders dragged, what shows.

Chromium is the system's own (``apt-get install chromium``), driven by Playwright, which downloads none; without either
the tests are skipped and say so. One JupyterLab serves all of them, from a checkout of links whose notebooks say
``profile = "smoke"``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
EXPLORERS = {
    "02-nga-weights": ["sigma", "layers"],
    "07-sc-clip-diagnostics": ["image", "patch", "beta", "contamination"],
}
WIDTHS = (1400, 700)  # of the window; JupyterLab's own sidebars take 330 pixels of it
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository of links with notebooks of its own, so that whatever runs writes there."""
    made = tmp_path_factory.mktemp("checkout")
    for name in ("hc_lafter", "pyproject.toml"):
        (made / name).symlink_to(ROOT / name)
    for source in (ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"):
        text = source.read_text(encoding="utf-8")
        smoke = text.replace('profile = \\"default\\"', 'profile = \\"smoke\\"')
        assert smoke != text
        (made / "notebooks").mkdir(exist_ok=True)
        (made / "notebooks" / source.name).write_text(smoke, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def lab(checkout, shared_cache, tmp_path_factory, browser) -> Iterator[str]:
    """The address of a JupyterLab that no setting of the account reaches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = tmp_path_factory.mktemp("jupyter")
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    quiet = own / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)  # no question about news in the way, and no request for them
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    env = {key: value for key, value in os.environ.items() if not key.startswith("HC_LAFTER")}
    env |= {place: str(own / place) for place in (*places, "IPYTHONDIR")}
    # One process trains what there is: two workers would spend their time on starting.
    env |= {"PYTHONPATH": str(ROOT), "HC_LAFTER_CACHE": str(shared_cache), "HC_LAFTER_SCHEDULER": "none"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--IdentityProvider.token="]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={checkout}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    address = f"http://127.0.0.1:{port}"
    with (own / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=checkout, env=env, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, (own / "log").read_text(encoding="utf-8")
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()  # its kernels go with it
        server.wait(60)


class Opened:
    """A notebook in a tab: `page` is Playwright's, `said` what stands on the console as an error."""

    def __init__(self, browser: Any, lab: str, path: str):
        self.said: list[str] = []
        self.page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
        self.page.set_default_timeout(180_000)
        self.page.on("console", lambda m: self.said.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(f"{lab}/lab/tree/{path}?reset")
        self.page.wait_for_function(
            "window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext?.isReady"
            " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.connectionStatus === 'connected'"
        )

    def run_all(self) -> None:
        """*Run All Cells*, to its end."""
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")

    def cells(self) -> list[dict]:
        """The notebook's code cells as they would be saved."""
        book = self.page.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON()")
        return [cell for cell in book["cells"] if cell["cell_type"] == "code"]

    def show(self, number: int) -> Any:
        """Scroll to a code cell; its element."""
        at = self.page.evaluate(
            "async number => { const book = jupyterapp.shell.currentWidget.content, cells = book.widgets;"
            " const at = cells.indexOf(cells.filter(c => c.model.type === 'code').at(number));"
            " await book.scrollToItem(at, 'start'); return at; }",
            number,
        )
        cell = self.page.locator(f".jp-Cell[data-windowed-list-index='{at}']")
        cell.wait_for()
        return cell

    def find(self, text: str) -> int:
        """The number of the last code cell whose source has a text."""
        return max(i for i, cell in enumerate(self.cells()) if text in cell["source"])

    def bars(self) -> int:
        """The number of progress bars that stand under cells."""
        shown = 0
        for at, cell in enumerate(self.cells()):
            if any(WIDGET in output.get("data", {}) for output in cell["outputs"]):
                views = self.show(at).locator(".jp-OutputArea-output")
                views.last.wait_for(state="attached")
                self.page.wait_for_timeout(500)  # a widget is drawn after its cell
                shown += views.locator(".widget-hprogress").count()
        return shown


def faults(cells: list[dict]) -> list[dict]:
    outputs = [output for cell in cells for output in cell["outputs"]]
    return [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@pytest.fixture(scope="module", params=EXPLORERS)
def explorer(request, browser, lab) -> Iterator[tuple[str, Opened]]:
    """A notebook with sliders after *Run All Cells*."""
    opened = Opened(browser, lab, f"notebooks/{request.param}.ipynb")
    opened.run_all()
    yield request.param, opened
    opened.page.close()


def test_all_cells_run_and_neither_they_nor_the_console_say_an_error(explorer):
    _, opened = explorer
    cells = opened.cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert faults(cells) == []
    assert opened.said == []


def test_no_pile_of_bars_is_left(explorer):
    """A bar of many runs goes when they are done; the one that read the images may stay, full."""
    assert explorer[1].bars() <= 1


def test_bars_that_stay_are_counted(browser, lab, checkout):
    book = nbformat.v4.new_notebook()
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    lines = [f"for _ in tqdm(range(2), leave={leave}): pass" for leave in (True, False, True)]
    book.cells = [nbformat.v4.new_code_cell(f"from tqdm.auto import tqdm\n{line}") for line in lines]
    nbformat.write(book, checkout / "notebooks" / "bars.ipynb")
    opened = Opened(browser, lab, "notebooks/bars.ipynb")
    opened.run_all()
    assert opened.bars() == 2
    opened.page.close()


def picture_of(cell: Any, other_than: str = "") -> str:
    """The source of the picture under the sliders, once it is another one."""
    image = cell.locator(".jp-OutputArea-output img").last
    end = time.monotonic() + 30
    while (source := image.get_attribute("src") or "") == other_than and time.monotonic() < end:
        time.sleep(0.02)
    return source


@pytest.mark.parametrize("width", WIDTHS)
def test_each_slider_is_wide_enough_and_moves_the_picture(explorer, width):
    name, opened = explorer
    opened.page.set_viewport_size({"width": width, "height": 900})
    cell = opened.show(opened.find("explore("))
    sliders = cell.locator(".widget-slider")
    assert [sliders.nth(i).locator(".widget-label").inner_text() for i in range(sliders.count())] == EXPLORERS[name]
    frame = cell.locator(".jp-OutputArea-output").first.bounding_box()
    for part in (*sliders.all(), cell.locator(".jp-OutputArea-output img").last):
        box = part.bounding_box()
        assert frame["x"] - 8 <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] + 1, (frame, box)
    waited, before = {}, picture_of(cell)
    for i, slider in enumerate(EXPLORERS[name]):
        track, handle = (sliders.nth(i).locator(part).bounding_box() for part in (".noUi-base", ".noUi-handle"))
        assert track["width"] > 100
        at, middle = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        left_half = at < track["x"] + track["width"] / 2
        aim = track["x"] + track["width"] * (0.8 if left_half else 0.2)
        opened.page.mouse.move(at, middle)
        opened.page.mouse.down()
        opened.page.mouse.move(aim, middle, steps=4)
        opened.page.mouse.up()
        began = time.monotonic()
        after = picture_of(cell, before)
        waited[slider] = time.monotonic() - began
        assert after != before, f"{slider} left the picture as it was"
        before = after
    print(f"{name} at {width} px: seconds to a new picture", {k: round(v, 2) for k, v in waited.items()})
    assert max(waited.values()) < 20  # half a second on an idle machine; here only that it comes
    assert opened.said == []


def test_the_report_is_written_from_the_live_notebook(browser, lab, checkout):
    """It says on its top, and in report.html, which notebooks are missing; tables are set left."""
    folder = checkout / "results" / "smoke"
    for name in ("01-feature-tapping", "08-ablations"):
        shutil.copytree(ROOT / "results" / "default" / name, folder / name, dirs_exist_ok=True)
    there = {path.parent.name for path in folder.glob("*/metrics.json")}
    missing = [path.stem for path in sorted((checkout / "notebooks").glob("0[1-8]-*.ipynb")) if path.stem not in there]
    says = f"Not run: {', '.join(missing)}."
    opened = Opened(browser, lab, "notebooks/09-report.ipynb")
    opened.run_all()
    cells = opened.cells()
    assert faults(cells) == []
    first = opened.find("reporting.verdict(")
    assert says in "".join(cells[first]["outputs"][0]["data"]["text/html"])
    assert opened.show(first).locator(".missing b").inner_text() == says
    ledger = opened.show(opened.find("ledger_table(")).locator("#ledger")
    sides = ledger.evaluate("e => [...e.querySelectorAll('td, th')].map(c => getComputedStyle(c).textAlign)")
    assert len(sides) > 150 and set(sides) == {"left"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert says in page and page.count('id="ledger"') == 1 and "Of 30 claims: " in page
    assert opened.said == []
    opened.page.close()
