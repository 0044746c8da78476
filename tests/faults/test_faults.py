"""Faults that are no bad input: memory that runs out, a clock that is set back, markup in names.

Elsewhere: killed workers, clients and schedulers and a full disk in `test_workers.py`; two processes on one entry,
damaged entries and a full cache in `test_store.py`; damaged checkpoints in `test_training.py`; places that cannot be
written in `test_run_all.py`. The package unpacks no archive: of a zip file single members are read into memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import replace

import nbformat
import pytest
from test_run_all import chain as chain
from test_workers import finished as finished
from test_workers import in_the_middle, kill_workers, plan, results
from test_workers import undisturbed as undisturbed

from hc_lafter.suite import report, words
from hc_lafter.tuning import computing, runs
from hc_lafter.tuning.runs import get

# --- memory ---


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_named_and_the_others_are_kept(
    tmp_path, undisturbed, forked_workers, monkeypatch
):
    """As the kernel does where memory runs out: each worker that is at it gets a SIGKILL."""
    monkeypatch.setattr(runs, "_KILLS", 0)
    asked = plan(tmp_path)[:2]
    get(plan(tmp_path)[2:], scheduler="none", progress=False)
    thread = in_the_middle(tmp_path, lambda: kill_workers([os.getpid()]))
    with pytest.raises(ValueError, match=r"of 2 runs failed, first LaFTer.*killed, perhaps for want of memory"):
        get(asked, scheduler="local", progress=False)
    thread.join()
    assert any("for want of memory" in runs.failure(run) for run in asked)
    get(asked, scheduler="none", progress=False)
    assert results(tmp_path) == undisturbed and not any(map(runs.failure, asked))


@pytest.mark.slow
def test_memory_that_runs_out_in_this_process_fails_one_run(tmp_path, undisturbed, monkeypatch):
    def greedy(run, **how):
        if run.system == "LaFTer" and run.seed == 1:
            raise MemoryError("Unable to allocate 1 TiB")  # NumPy's; torch raises a RuntimeError
        return computing.compute(run, **how)

    monkeypatch.setattr(runs, "compute", greedy)
    with pytest.raises(ValueError, match=r"^1 of 4 runs failed, first LaFTer.*seed 1: MemoryError: Unable to allocate"):
        get(plan(tmp_path), scheduler="none", progress=False)
    monkeypatch.undo()
    assert runs.missing(plan(tmp_path)) == [plan(tmp_path)[1]]
    get(plan(tmp_path), scheduler="none", progress=False)
    assert results(tmp_path) == undisturbed


# --- a store that is damaged ---


@pytest.mark.slow
def test_a_damaged_result_is_named_and_made_again_once_it_is_deleted(tmp_path, finished, undisturbed):
    asked = plan(shutil.copytree(finished, tmp_path, dirs_exist_ok=True))
    path = tmp_path / "runs" / f"{asked[-1].key}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{path.name} is damaged \(its checksum does not match\): delete it, and run"
    ):
        get(asked, scheduler="none", progress=False)
    path.unlink()
    get(asked, scheduler="none", progress=False)
    assert results(tmp_path) == undisturbed


# --- a clock that is set back ---


@pytest.mark.slow
def test_a_clock_that_runs_backwards_makes_no_time_negative(tmp_path, undisturbed, monkeypatch):
    now = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    asked = plan(tmp_path)[::2]  # a run of each system
    get(asked, scheduler="none", progress=False)
    monkeypatch.undo()
    assert len(results(tmp_path)) == 2 and results(tmp_path).items() <= undisturbed.items()
    for run in asked:
        taken = json.loads((tmp_path / "runs" / f"{run.key}.json").read_text(encoding="utf-8"))
        assert taken["run"] > 0 and all(seconds >= 0 for seconds in taken["epochs"])


@pytest.mark.slow
@pytest.mark.parametrize("years", [-50, 50])
def test_files_of_another_time_are_what_they_hold(tmp_path, finished, undisturbed, monkeypatch, years):
    asked, when = plan(tmp_path), time.time() + years * 365 * 86400
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*"):
        os.utime(path, (when, when))

    def never(*_, **__):
        raise AssertionError("computed once more")

    monkeypatch.setattr(computing, "_computed", never)
    again = get([replace(run) for run in asked], scheduler="none", progress=False)
    assert all(result.seconds > 0 for result in again) and results(tmp_path) == undisturbed


def test_notebooks_of_another_time_are_up_to_date(chain):
    chain.add("01-first")
    assert chain.run()[0] == 0
    for when in (0, time.time() + 10**9):
        for path in chain.root.rglob("*"):
            os.utime(path, (when, when))
        assert chain.up_to_date() == ["01-first"]
    status, out, _ = chain.run("--force")  # what it writes now is older than what was there
    assert status == 0 and re.search(r"ran in \d+\.\d min", out)


# --- markup in names ---

NAMES = {
    "script": "<script>alert(1)</script>",
    "handler": '<img src=x onerror="alert(1)">',
    "entity": "a &lt;b&gt; c",
    "link": "[a](javascript:alert(1))",
    "reference": "[1][2]",
    "definition": "[a]: javascript:alert(1)",
    "formula": "$\\href{javascript:alert(1)}{x}$",
    "code": "`x` ~~y~~",
    "emphasis": "*a* _b_ snake_case",
    "backslash": "\\<b>",
    "rule": "# a",
    "lines": "a\n\n<b>c</b>",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_in_a_verdict_is_text(kind):
    """Rendered as JupyterLab and nbconvert do, a verdict shows the name and holds nothing that a browser acts on."""
    from html.parser import HTMLParser

    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    class Seen(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.text = set(), ""

        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)
            assert not attrs

        def handle_data(self, data):
            self.text += data

    name = NAMES[kind]
    for line in (f"The best is {name}, +0.2 [-0.1, 0.5] points: **shown**.", f"{name}: 1."):
        markdown = words.plain(line)
        assert "\n" not in markdown and "$" not in markdown
        seen = Seen()
        seen.feed(markdown2html_mistune(f"- {markdown}\n"))
        assert seen.tags <= {"ul", "li", "strong", "span", "p"}
        assert seen.text.strip() == " ".join(line.split()).replace("**", "")


def test_the_verdict_of_the_package_itself_is_as_it_was():
    for path in sorted((report.Places.find("09-report", "default").results.parent).glob("*/verdict.md")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert words.plain(line.removeprefix("- ")) == line.removeprefix("- "), path


def test_names_in_the_outputs_of_a_notebook_run_nothing_in_the_report():
    """pandas escapes what it shows, a stream is text, and the page forbids scripts in any case."""
    import pandas as pd

    name = NAMES["script"]
    outputs = [
        nbformat.v4.new_output("stream", text=f"{name}\n"),
        nbformat.v4.new_output("display_data", {"text/html": pd.DataFrame({name: [name]}).to_html()}),
    ]
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("1", outputs=outputs)]
    page = report.page(nbformat.v4.new_notebook(cells=cells))
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert") == 3
    assert "default-src 'none'" in page
