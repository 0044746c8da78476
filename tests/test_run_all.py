"""The runner on chains of small notebooks: what it runs, skips, refuses, survives; kernels are started sparingly."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import nbformat
import psutil
import pytest

from hc_lafter.suite import runner, schedule
from hc_lafter.suite.runner import clip_fingerprint, compare, data_fingerprint, tidy

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("run_all", REPOSITORY / "run_all.py")
run_all = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run_all)

PARAMETERS = 'profile = "default"\nseeds = None\ndata = None\nclip: str | None = None\n'
# What study.save_metrics does, without the seconds that importing torch takes.
SAVE = """\
import json, os
from pathlib import Path
folder = Path(os.environ["HC_LAFTER_OUTPUT"]) / "results" / profile / "{name}"
folder.mkdir(parents=True, exist_ok=True)
row = dict(system="s", dataset="d", split="test", metric="m", unit="fraction")
row |= dict(value=0.5, low=None, high=None, n=1, seeds=seeds)
_ = (folder / "metrics.json").write_text(json.dumps([row]))"""


class Chain:
    """A repository of small notebooks, in a folder whose name is a trial for paths, run from a folder elsewhere."""

    def __init__(self, root: Path, capsys):
        self.root, self.capsys, self.needs = root, capsys, {}
        (root / "notebooks").mkdir(parents=True)
        (root / "hc_lafter").mkdir()
        self.code = root / "hc_lafter" / "code.py"
        self.code.write_text("x = 1\n")

    def add(self, name, *cells, parameters=PARAMETERS, saves=True, language="python", needs=()):
        book = nbformat.v4.new_notebook()
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": language}
        book.cells = [nbformat.v4.new_markdown_cell(f"# What is {name}?")]
        if parameters is not None:
            book.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        sources = [*cells, SAVE.format(name=name)] if saves else cells
        book.cells += [nbformat.v4.new_code_cell(source) for source in sources]
        for number, cell in enumerate(book.cells):
            cell.id = f"cell-{number}"
        path = self.root / "notebooks" / f"{name}.ipynb"
        nbformat.write(book, path)
        self.needs[name[:2]] = needs
        return path

    def run(self, *words):
        """Exit status, stdout, stderr."""
        words = words if "--jobs" in words else (*words, "--jobs", "1")
        status = run_all.main(words, self.root, self.needs)
        return status, *self.capsys.readouterr()

    def up_to_date(self, *words):
        """The names of notebooks that would be skipped."""
        run, selected = run_all.prepare(run_all.parser().parse_args(words), self.root.resolve(), self.needs)
        return [notebook.name for notebook in selected if run.up_to_date(notebook)]

    def results(self, name, profile="default"):
        return self.root / "results" / profile / name

    def executed(self, name, profile="default"):
        return nbformat.read(self.results(name, profile) / f"{name}.ipynb", as_version=4)


@pytest.fixture
def chain(tmp_path, monkeypatch, capsys):
    for name in ("HC_LAFTER_ROOT", "HC_LAFTER_OUTPUT", "HC_LAFTER_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # A user's own kernel of another Python, under the name that every notebook asks for: it must not win.
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return Chain(tmp_path / "re{po} ü", capsys)


@pytest.fixture
def no_kernel(monkeypatch):
    def fail(*_):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(runner, "_papermill", fail)


def test_runs_then_skips_what_is_up_to_date(chain, monkeypatch):
    chain.add("01-first", "import sys\nprint(sys.executable)\nprint(Path.home()) if 0 else None")
    chain.add("02-second", needs=("01",))
    chain.add("03-third", saves=False)
    words = ("--only", "1", "02-second", "--param", "seeds=4")
    status, out, err = chain.run(*words)
    assert (status, err) == (0, ""), out
    *lines, places = out.splitlines()
    assert [line.split(" ran in ")[0] for line in lines] == ["[1/2] 01-first ...", "[2/2] 02-second ..."]
    assert "figures/default" in places and "results/default" in places
    assert json.loads((chain.results("01-first") / "metrics.json").read_text())[0]["seeds"] == 4

    # The executed copy: strictly sequential, parameters in, no time, no folder of this machine.
    text = (chain.results("01-first") / "01-first.ipynb").read_text(encoding="utf-8")
    executed = chain.executed("01-first")
    assert [c.execution_count for c in executed.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    assert executed.metadata.papermill == {"parameters": {"profile": "default", "seeds": 4}}
    # This very Python ran it, not the kernel that JUPYTER_PATH offers.
    printed = executed.cells[3].outputs[0].text.strip()
    assert printed == sys.executable.replace(sys.prefix, "<python>")
    assert not any(word in text for word in ("start_time", "duration", "iopub", str(chain.root), "re{po}"))

    # Nothing has changed: nothing runs.
    status, out, _ = chain.run(*words)
    assert status == 0 and out.count("up to date, skipped (use --force)") == 2
    both = ["01-first", "02-second"]
    assert chain.up_to_date("--param", "seeds=4") == both
    assert "03-third                 to run     What is 03-third?" in chain.run("--list", "--param", "seeds=4")[1]

    # Each input, changed, makes stale what it went into; changed back, it does not.
    assert chain.up_to_date() == [] == chain.up_to_date("--param", "seeds=5")
    chain.code.write_text("x = 2\n")
    assert chain.up_to_date("--param", "seeds=4") == []
    chain.code.write_text("x = 1\n")
    assert chain.up_to_date("--param", "seeds=4") == both
    with monkeypatch.context() as patch:
        patch.setattr(runner, "versions", lambda: {"torch": "0"})
        assert chain.up_to_date("--param", "seeds=4") == []
    chain.add("02-second", "1", needs=("01",))
    assert chain.up_to_date("--param", "seeds=4") == ["01-first"]
    chain.add("02-second", needs=("01",))
    chain.add("01-first", "1")  # the second reads what the first writes
    assert chain.up_to_date("--param", "seeds=4") == []
    chain.add("01-first", "import sys\nprint(sys.executable)\nprint(Path.home()) if 0 else None")
    assert chain.up_to_date("--param", "seeds=4") == both

    # An output gone or changed, a stamp damaged: it runs again.
    metrics = chain.results("02-second") / "metrics.json"
    whole = metrics.read_text()
    metrics.write_text(whole.replace("0.5", "0.6"))
    assert chain.up_to_date("--param", "seeds=4") == ["01-first"]
    metrics.unlink()
    assert chain.up_to_date("--param", "seeds=4") == ["01-first"]
    metrics.write_text(whole)
    assert chain.up_to_date("--param", "seeds=4") == both
    for damage in ("{half", "[]", '{"key": 1}', ""):
        (chain.root / ".hc_lafter" / "stamps" / "default" / "01-first.json").write_text(damage)
        assert chain.up_to_date("--param", "seeds=4") == ["02-second"], damage

    # Run again after all, it writes the same bytes.
    before = (chain.results("01-first") / "01-first.ipynb").read_bytes()
    assert chain.run("--only", "1", "--param", "seeds=4")[0] == 0
    assert (chain.results("01-first") / "01-first.ipynb").read_bytes() == before
    assert chain.up_to_date("--param", "seeds=4") == both


def test_failures_are_named_saved_and_contained(chain):
    chain.add("01-raises", "print('so far')", "raise ValueError('first line\\nlast line')", "print('never')")
    chain.add("02-after", needs=("01",))
    chain.add("03-dies", "import os\nos._exit(9)")
    chain.add("04-slow", "import time\ntime.sleep(600)")
    chain.add("05-leaves", "import sys\nsys.exit(0)")
    chain.add("06-silent", "1", saves=False)
    (chain.results("06-silent")).mkdir(parents=True)
    (chain.results("06-silent") / "metrics.json").write_text("[]")  # of an earlier run: does not count for this one
    status, out, err = chain.run("--timeout", "4")
    assert status == 1 and err == ""
    lines = out.splitlines()
    assert "[1/6] 01-raises ... FAILED in cell 4 (In [4]): ValueError: last line" in lines[0]
    assert lines[0].endswith("(saved in results/default/01-raises/01-raises.ipynb)")
    assert lines[1] == "[2/6] 02-after ... skipped, needs 01-raises"
    assert "FAILED in cell 3 (In [3]): DeadKernelError: the kernel died, most often for want of memory" in lines[2]
    assert (
        "FAILED in cell 3 (In [3]): CellTimeoutError: the cell ran longer than 4 s: give a higher --timeout" in lines[3]
    )
    assert "FAILED in cell 4: it was never reached" in lines[4]
    assert "FAILED it ran, but wrote no metrics.json" in lines[5]
    assert lines[6].startswith("6 of 6 did not run: 01-raises, 02-after, 03-dies")
    # Saved as far as they got, marked where they broke.
    executed = chain.executed("01-raises")
    assert "An Exception was encountered at" in executed.cells[0].source
    assert any(c.get("outputs") and c.outputs[0].get("text") == "so far\n" for c in executed.cells)
    assert executed.cells[-1].execution_count is None
    for name in ("03-dies", "04-slow"):
        assert "An Exception was encountered at" in chain.executed(name).cells[0].source
        assert sum(o.output_type == "error" for c in chain.executed(name).cells for o in c.get("outputs", [])) == 1
    assert chain.up_to_date() == []
    assert not list((chain.root / ".hc_lafter" / "running").glob("*.ipynb"))
    assert not [p for p in psutil.Process().children() if "ipykernel" in " ".join(p.cmdline())]


def test_data_of_the_user(chain):
    """A relative path counts from where the user is, reaches the kernel as it was given, and its files are inputs."""
    photos = Path("photos")
    photos.mkdir()
    (photos / "a.png").write_bytes(b"a")
    chain.add("01-first", "from pathlib import Path\nprint(sorted(p.name for p in Path(data).iterdir()))")
    chain.add("02-other", parameters='profile = "default"')
    words = ("--profile", "smoke", "--param", "data=photos", "--param", "seeds=none")
    assert chain.run("--only", "1", *words, "--out", "mine")[0] == 0
    executed = nbformat.read("mine/results/smoke/01-first/01-first.ipynb", as_version=4)
    assert executed.metadata.papermill.parameters == {"data": "photos", "profile": "smoke"}
    assert executed.cells[3].outputs[0].text == "['a.png']\n"
    assert not (chain.root / "results").exists()
    words = (*words, "--out", "mine")
    assert chain.up_to_date(*words) == ["01-first"]
    (photos / "b.png").write_bytes(b"b")
    assert chain.up_to_date(*words) == []


def test_data_named_in_the_parameters_cell_is_an_input_too(chain):
    Path("photos").mkdir()
    chain.add("01-first", parameters='profile = "default"\ndata: str = "photos"')

    def key():
        run, selected = run_all.prepare(run_all.parser().parse_args([]), chain.root, {})
        return run.key(selected[0])

    before = key()
    assert key() == before
    Path("photos/a.png").write_bytes(b"a")
    assert key() != before
    Path("photos/a.png").unlink()
    Path("photos").rmdir()
    assert "data=photos is neither 'world' nor a folder" in chain.run()[2]


def test_fingerprints_of_data_and_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    image = tmp_path / "photos" / "cat" / "a.png"
    image.write_bytes(b"a")
    table = tmp_path / "list.csv"
    table.write_text("path,label\nphotos/cat/a.png,cat\nphotos/gone.png,cat\n")
    assert data_fingerprint("world") is None

    def both():
        return data_fingerprint("photos"), data_fingerprint("list.csv")

    first = both()
    assert first == both() == (data_fingerprint(str(tmp_path / "photos")), data_fingerprint(str(table)))
    os.utime(image, ns=(1, 1))
    second = both()
    assert second[0] != first[0] and second[1] != first[1]
    table.write_text(table.read_text() + "photos/cat/a.png,dog\n")
    assert both()[1] != second[1]

    weights = tmp_path / "mine.pt"
    weights.write_bytes(b"one")
    one = clip_fingerprint("mine.pt")
    assert one == clip_fingerprint("ViT-B-32@mine.pt")
    weights.write_bytes(b"two")
    assert clip_fingerprint("mine.pt") != one
    assert clip_fingerprint("embedded") is None is clip_fingerprint("ViT-B-32/openai")


@pytest.mark.parametrize("line", ["a/1.png;x", "a/1.png\tx", '"a/1.png",x', "a\\1.png,x"])
def test_an_image_of_a_csv_counts_whatever_the_separator(tmp_path, line):
    (tmp_path / "a").mkdir()
    image, table = tmp_path / "a" / "1.png", tmp_path / "list.csv"
    image.write_bytes(b"1")
    table.write_text(f"path,label\n{line}\n" + "y" * 300_000 + ".png\n")
    before = data_fingerprint(str(table))
    image.write_bytes(b"22")
    assert data_fingerprint(str(table)) != before


def test_what_lies_beside_a_checkpoint_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "me@home"
    folder.mkdir()
    (folder / "mine.pt").write_bytes(b"weights")
    before = clip_fingerprint("me@home/mine.pt")
    (folder / "open_clip_config.json").write_text("{}")
    assert clip_fingerprint("me@home/mine.pt") != before is not None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--profile", "smok"], "profile 'smok' is unknown (did you mean 'smoke'?): choose one of"),
        (["--only", "42"], "notebook '42' is not there: choose one of 01-first, 02-second."),
        (["--from", "01-frist"], "notebook '01-frist' is not there (did you mean '01-first'?)"),
        (["--param", "sedes=3"], "parameter 'sedes' is unknown (did you mean 'seeds'?)"),
        (["--param", "seeds=three"], "parameter seeds='three' is not usable"),
        (["--param", "seeds"], "--param seeds has no value: write it as key=value."),
        (
            ["--param", "bootstrap=900"],
            "--param bootstrap would change nothing: none of 01-first, 02-second has bootstrap",
        ),
        (["--only", "2", "--param", "seeds=3"], "--param seeds would change nothing: none of 02-second has seeds"),
        (["--param", "data=gone"], "data=gone is neither 'world' nor a folder or file here: check the path"),
        (["--param", "clip=gone.pt"], "checkpoint gone.pt is no file here: check the path"),
        (["--param", "clip=ViT-B-32@gone"], "checkpoint ViT-B-32@gone is no file here"),
        (["--timeout", "0"], "--timeout 0 leaves no time"),
    ],
)
def test_refuses_requests(chain, no_kernel, words, sentence):
    chain.add("01-first")
    chain.add("02-second", parameters='profile = "default"')
    status, out, err = chain.run(*words)
    assert (status, out) == (2, "") and sentence in err
    assert err.count("\n") == 1 and err.endswith(".\n")


def test_refuses_notebooks(chain, no_kernel):
    def refused(path):
        status, out, err = chain.run()
        path.unlink()
        assert (status, out) == (2, "") and err.count("\n") == 1
        return err

    assert "holds no notebook named like 01-feature-tapping.ipynb" in chain.run()[2]
    good = chain.add("01-good")
    assert "02-x.ipynb has no cell tagged 'parameters'" in refused(chain.add("02-x", parameters=None))
    assert "02-x.ipynb declares no profile" in refused(chain.add("02-x", parameters="seeds = 3"))
    assert "02-x.ipynb has a parameters cell that is no Python" in refused(chain.add("02-x", parameters="%time 1"))
    assert "02-x.ipynb wants a kernel for julia" in refused(chain.add("02-x", language="julia"))
    assert "01-good.ipynb and 01-same.ipynb share a number" in refused(chain.add("01-same"))
    broken = good.with_name("02-broken.ipynb")
    broken.write_text("{")
    assert "02-broken.ipynb is no notebook" in refused(broken)
    good.with_name("Untitled.ipynb").write_text("{")  # a scratchpad is no part of the chain
    assert chain.run("--list")[0] == 0


def test_refuses_what_cannot_be_written(chain, no_kernel):
    chain.add("01-first")
    for name in ("results", "figures", ".hc_lafter"):
        (chain.root / name).write_text("a file in the place of the folder")
        status, out, err = chain.run()
        assert (status, out) == (2, "") and "cannot be written" in err and name in err and err.count("\n") == 1
        (chain.root / name).unlink()


def test_refuses_a_second_run_beside_the_first(chain, no_kernel):
    chain.add("01-first")
    (chain.root / ".hc_lafter").mkdir()
    with filelock.FileLock(chain.root / ".hc_lafter" / "run-default.lock"):
        assert chain.run()[2] == "another run of profile default is at work here: wait for it, or end it.\n"


def test_missing_kernel(chain, monkeypatch):
    chain.add("01-first")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ipykernel" else there(name, *a))
    status, out, _ = chain.run()
    assert status == 1 and "has no Jupyter kernel: install ipykernel into it" in out


def test_kernel_that_does_not_start(chain, monkeypatch):
    chain.add("01-first")
    monkeypatch.setattr(runner.sys, "executable", sys.executable + "-gone")
    status, out, _ = chain.run()
    assert status == 1 and "[1/1] 01-first ... FAILED before its first cell: " in out and out.count("\n") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT and SIGTERM to send to one process")
def test_stopped_from_outside_it_goes_on_next_time(chain, tmp_path):
    chain.add("01-first")
    pids = tmp_path / "pid"
    chain.add("02-slow", f"import os, time\n_ = open({str(pids)!r}, 'w').write(str(os.getpid()))", "time.sleep(600)")
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    code += f"import run_all; sys.exit(run_all.main(sys.argv[1:], {str(chain.root)!r}))"
    for number, expected, said, jobs in (
        (signal.SIGINT, 130, "interrupted", "1"),
        (signal.SIGTERM, 143, "ended from outside", "1"),
        (signal.SIGINT, 130, "interrupted", "2"),
        (signal.SIGTERM, 143, "ended from outside", "2"),
    ):
        pids.unlink(missing_ok=True)
        words = [sys.executable, "-c", code, "--jobs", jobs]
        process = subprocess.Popen(words, stdout=-1, stderr=-1, text=True)
        deadline = time.monotonic() + 120
        while not (pids.exists() and pids.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        kernel = psutil.Process(int(pids.read_text()))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == expected, out + err
        assert said in err and "Traceback" not in err
        psutil.wait_procs([kernel], timeout=10)
        assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
        assert chain.up_to_date() == ["01-first"]
        assert list(chain.results("02-slow").iterdir()) == []
    assert "01-first ... up to date" in out  # the second time it went on from the first


def test_side_by_side(chain):
    """Each starts when its needs have run; what the longest way hangs on comes first; failures stay where they are."""
    wait = "import os, time\nwhile not os.path.exists({!r}): time.sleep(0.05)"
    made = [chain.root / f"made-{i}" for i in (1, 2)]
    done = "open({!r}, 'w').close()"
    # 01 and 02 can only end if they run at the same time.
    chain.add("01-first", done.format(str(made[0])), wait.format(str(made[1])))
    chain.add("02-second", done.format(str(made[1])), wait.format(str(made[0])))
    chain.add("03-third", "1 / 0", needs=("01",))
    chain.add("04-fourth", needs=("01", "02"))
    chain.add("05-fifth", needs=("03",))
    status, out, err = chain.run("--jobs", "2", "--timeout", "100")
    lines = out.splitlines()
    assert (status, err) == (1, ""), out + err
    assert [line[:5] for line in lines[:5]] == [f"[{i}/5]" for i in range(1, 6)]
    said = {line.split()[1]: line for line in lines[:5]}
    assert all(" ran in " in said[name] for name in ("01-first", "02-second", "04-fourth"))
    assert "FAILED in cell 3 (In [3]): ZeroDivisionError: division by zero (saved in results" in said["03-third"]
    assert said["05-fifth"].endswith("skipped, needs 03-third")
    assert lines[-1] == "2 of 5 did not run: 03-third, 05-fifth."
    assert chain.up_to_date() == ["01-first", "02-second", "04-fourth"]
    status, out, _ = chain.run("--jobs", "2", "--only", "1", "4")
    assert status == 0 and out.count("up to date, skipped (use --force)") == 2
    assert chain.run("--jobs", "0")[2] == "--jobs 0 runs nothing: give a whole number from 1.\n"


def test_a_process_that_dies_is_a_failure(chain):
    """Of one notebook: the others go on."""
    chain.add("01-first", "import os, signal\nos.kill(os.getppid(), 9)" if os.name == "posix" else "exit()")
    chain.add("02-second")
    status, out, err = chain.run("--jobs", "2")
    assert status == 1 and "02-second ... ran in" in out, out + err
    assert "01-first ... FAILED its process ended by itself (exit status -9)" in out or os.name != "posix"


def test_the_longest_way_starts_first(tmp_path):
    books = [
        runner.Notebook(tmp_path / f"0{i}-x.ipynb", needs, "", {}, "") for i, needs in ((1, ()), (2, ()), (3, ("02",)))
    ]
    left = schedule._way_to_the_end(books, {"01": 4, "02": 1, "03": 5})
    assert left == {"03": 5, "02": 6, "01": 4}


def test_how_many_at_once(monkeypatch):
    memory = lambda free: lambda: type("Memory", (), {"available": free * schedule.ROOM})  # noqa: E731
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr(schedule.psutil, "virtual_memory", memory(5.5))
    assert schedule.side_by_side(threads=1, notebooks=9) == 5
    assert schedule.side_by_side(threads=2, notebooks=9) == 4
    assert schedule.side_by_side(threads=1, notebooks=2) == 2
    assert schedule.side_by_side(threads=0, notebooks=9) == 1  # every core for each
    monkeypatch.setattr(schedule.psutil, "virtual_memory", memory(0.5))
    assert schedule.side_by_side(threads=1, notebooks=9) == 1


def test_check_compares_with_what_is_there(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(run_all.tempfile, "tempdir", str(tmp_path))
    chain.add("01-first")
    assert "results/default/01-first/metrics.json is missing" in chain.run("--check")[1].replace(os.sep, "/")
    assert chain.run()[0] == 0
    metrics = chain.results("01-first") / "metrics.json"
    stood = metrics.stat().st_mtime_ns
    status, out, _ = chain.run("--check")
    assert status == 0 and "01-first: agrees, 1 of 1 records equal to the last digit" in out
    # A run that agrees leaves nothing; the one above, which had nothing to agree with, stays to be looked into.
    assert len(list(tmp_path.glob("hc-lafter-check-*"))) == 1
    metrics.write_text(metrics.read_text().replace("0.5", "0.55"))
    status, out, _ = chain.run("--check")
    assert status == 1 and "01-first: DIFFERS in 1 places, 0 of 1 records" in out
    assert "s / d / test / m: value 0.5, committed 0.55, allowed 0.02 off" in out
    fresh = Path(out.splitlines()[-1].removeprefix("the fresh results are in "))
    assert (fresh / "results" / "default" / "01-first" / "metrics.json").exists()
    assert metrics.stat().st_mtime_ns != stood and "0.55" in metrics.read_text()


def test_tolerances():
    def row(**changes):
        whole = {"system": "s", "dataset": "d", "split": "test", "metric": "m", "n": 10, "seeds": 3}
        return {**whole, "value": 0.5, "low": 0.4, "high": 0.6, "unit": "fraction", **changes}

    assert compare([row()], [row()]) == ([], 1)
    assert compare([row()], [row(value=0.519)]) == ([], 0)
    for changes, word in (
        ({"value": 0.521}, "value 0.521"),
        ({"low": 0.37}, "low 0.37"),
        ({"high": None}, "high None"),
        ({"n": 11}, "n 11, committed 10"),
        ({"unit": "nats"}, "unit nats"),
    ):
        lines, equal = compare([row()], [row(**changes)])
        assert len(lines) == 1 and word in lines[0] and equal == 0
    count = {"unit": "count", "low": None, "high": None}
    assert compare([row(value=1000, **count)], [row(value=1001, **count)])[0]
    nats = {"unit": "nats", "low": None, "high": None}
    assert compare([row(value=2.0, **nats)], [row(value=2.1, **nats)]) == ([], 0)
    assert compare([row(value=2.0, **nats)], [row(value=2.2, **nats)])[0]
    assert compare([row()], [row(metric="other")])[0] == [
        "s / d / test / m: only in the committed run",
        "s / d / test / other: only in the fresh run",
    ]


def test_tidy_drops_dead_widgets_and_folders(tmp_path):
    book = nbformat.v4.new_notebook(metadata={"widgets": {"state": 1}, "papermill": {"input_path": "/x"}})
    bar = nbformat.v4.new_output("display_data", {runner.WIDGET: {"model_id": "random"}, "text/plain": "0%"})
    text = nbformat.v4.new_output("stream", text=f"{tmp_path / 'a.py'}: {Path(sys.prefix) / 'lib'}")
    image = nbformat.v4.new_output("display_data", {"image/png": "aGk=", "text/html": f"<a>{tmp_path}</a>"})
    book.cells = [nbformat.v4.new_code_cell("1", outputs=[bar, text, image], metadata={"papermill": {"duration": 1}})]
    tidied = tidy(book, tmp_path)
    nbformat.validate(tidied)
    assert tidied.metadata == {"papermill": {"parameters": {}}} and tidied.cells[0].metadata == {}
    assert [output.output_type for output in tidied.cells[0].outputs] == ["stream", "display_data"]
    assert tidied.cells[0].outputs[0].text.startswith("<repository>") and "<python>" in tidied.cells[0].outputs[0].text
    assert tidied.cells[0].outputs[1].data == {"image/png": "aGk=", "text/html": "<a><repository></a>"}


def test_a_study_inside(chain):
    """The one notebook here that imports torch: a study's files land where the runner looks, its figure is shown."""
    start = "from hc_lafter.suite.study import Study\nimport matplotlib.pyplot as plt\n"
    start += "study = Study('01-real', profile, seeds=seeds)"
    draw = "figure, axes = plt.subplots()\naxes.plot([1, 2])\n_ = study.save_figure(figure, 'line')"
    save = (
        "_ = study.provenance(clip='abc', data='def')\n"
        "_ = study.save_metrics([study.metric('s', 'world', 'test', 'm', 0.5, unit='fraction')])"
    )
    chain.add("01-real", start, draw, save, saves=False)
    status, out, _ = chain.run("--profile", "smoke", "--param", "seeds=2")
    assert status == 0, out
    assert sorted(p.name for p in (chain.root / "figures" / "smoke" / "01-real").iterdir()) == ["line.png", "line.svg"]
    names = [path.name for path in sorted(chain.results("01-real", "smoke").iterdir())]
    assert names == ["01-real.ipynb", "metrics.json", "metrics.parquet"]
    assert any(
        "image/png" in o.get("data", {}) for c in chain.executed("01-real", "smoke").cells for o in c.get("outputs", [])
    )
    assert str(chain.root) not in (chain.root / "results" / "smoke" / "provenance.json").read_text(encoding="utf-8")
    assert chain.up_to_date("--profile", "smoke", "--param", "seeds=2") == ["01-real"]


def test_listing_is_quick(chain):
    chain.add("01-first")
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import run_all\n"
        f"status = run_all.main(['--list'], {str(chain.root)!r})\n"
        "sys.exit(status or sum(name in sys.modules for name in ('torch', 'papermill', 'pandas', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "01-first                 to run     What is 01-first?\n"


def test_graph_points_backwards():
    """The order of numbers is an order in which needs come first; and every notebook of ours stands in the graph."""
    assert all(need < number for number, needs in run_all.NEEDS.items() for need in needs)
    numbers = [path.name[:2] for path in sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]-*.ipynb"))]
    assert set(numbers) <= set(run_all.NEEDS)
