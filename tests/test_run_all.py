"""The runner on chains of small notebooks: what it runs, skips, refuses, survives; kernels are started sparingly."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import filelock
import nbformat
import psutil
import pytest
from PIL import Image

from hc_lafter.suite import chain as chain_module
from hc_lafter.suite import paths, readme, runner
from hc_lafter.suite.chain import NEEDS, compare, main, parser, prepare
from hc_lafter.suite.runner import find_chain, fingerprint, tidy

REPOSITORY = Path(__file__).resolve().parents[1]
PARAMETERS = 'profile = "default"\noverrides = {}'
# What study.finish does, without the seconds that importing torch takes.
SAVE = """\
import json, os
from pathlib import Path
from hc_lafter.suite.profiles import folder_name, load_profile
place = folder_name(profile, load_profile(profile, overrides))
folder = Path(os.environ["HC_LAFTER_OUTPUT"]) / "results" / place / "{name}"
folder.mkdir(parents=True, exist_ok=True)
row = dict(system="s", dataset="d", split="test", metric="m", unit="fraction")
row |= dict(value=0.5, low=None, high=None, n=1, seeds=overrides.get("seeds"))
_ = (folder / "metrics.json").write_text(json.dumps([row]))"""


class Chain:
    """A repository of small notebooks, in a folder whose name is a trial for paths, run from a folder elsewhere."""

    def __init__(self, root: Path, capsys):
        self.root, self.capsys, self.needs = root, capsys, {}
        (root / "notebooks").mkdir(parents=True)
        (root / "hc_lafter").mkdir()
        self.code = root / "hc_lafter" / "code.py"
        self.code.write_text("x = 1\n")

    def add(self, name, *cells, parameters=PARAMETERS, saves=True, needs=()):
        book = nbformat.v4.new_notebook()
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
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
        return main(words, self.root, self.needs), *self.capsys.readouterr()

    def up_to_date(self, *words):
        """The names of notebooks that would be skipped."""
        run, selected = prepare(parser().parse_args(words), self.root.resolve(), self.needs)
        return [notebook.name for notebook in selected if run.up_to_date(notebook)]

    def results(self, name, profile="default"):
        (folder,) = [*(self.root / "results").glob(f"{profile}*/{name}")]
        return folder

    def executed(self, name, profile="default"):
        return nbformat.read(self.results(name.partition(".")[0], profile) / f"{name}.ipynb", as_version=4)


@pytest.fixture
def chain(tmp_path, monkeypatch, capsys):
    for name in ("HC_LAFTER_ROOT", "HC_LAFTER_OUTPUT", "HC_LAFTER_CACHE", "HC_LAFTER_SCHEDULER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # A user's own kernel of another Python, under the name that every notebook asks for: it must not win.
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setitem(sys.modules, "hc_lafter.suite.plans", SimpleNamespace(compute=lambda *_: None))
    return Chain(tmp_path / "re{po} ü", capsys)


@pytest.fixture
def no_kernel(monkeypatch):
    def fail(*_):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(runner.Kernel, "start", fail)


def test_runs_then_skips_what_is_up_to_date(chain, monkeypatch):
    computed = []
    plans = sys.modules["hc_lafter.suite.plans"]
    plans.compute = lambda *asked: computed.append((*asked, os.environ.get("HC_LAFTER_SCHEDULER")))
    chain.add("01-first", "import sys\nprint(sys.executable)\nprint(Path.home()) if 0 else None")
    chain.add("02-second", "print(os.environ['HC_LAFTER_SCHEDULER']) if 'os' in dir() else None", needs=("01",))
    chain.add("03-third", saves=False)
    words = ("--only", "1", "02-second", "--param", "seeds=4", "--scheduler", "tcp://host:1")
    status, out, err = chain.run(*words)
    assert (status, err) == (0, ""), out
    *lines, places = out.splitlines()
    assert [line.split(" ran in ")[0] for line in lines] == ["[1/2] 01-first ...", "[2/2] 02-second ..."]
    assert all(line.endswith(" min") for line in lines)
    assert "figures/default+" in places and "results/default+" in places  # four seeds are not the profile's
    assert json.loads((chain.results("01-first") / "metrics.json").read_text())[0]["seeds"] == 4
    assert computed == [("default", {"seeds": 4}, ["01-first", "02-second"], "tcp://host:1")]
    assert "HC_LAFTER_SCHEDULER" not in os.environ

    # The executed copy: strictly sequential, parameters in, no time, no folder of this machine.
    text = (chain.results("01-first") / "01-first.ipynb").read_text(encoding="utf-8")
    executed = chain.executed("01-first")
    assert [c.execution_count for c in executed.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    # It says on its top what it is, and its folder is one that a study refuses (test_study.py).
    assert (
        "The record of a run" in executed.cells[0].source
        and "open `notebooks/01-first.ipynb`" in executed.cells[0].source
    )
    assert executed.metadata.papermill == {"parameters": {"profile": "default", "overrides": {"seeds": 4}}}
    # This very Python ran it, not the kernel that JUPYTER_PATH offers.
    printed = executed.cells[4].outputs[0].text.strip()
    assert printed == sys.executable.replace(sys.prefix, "<python>")
    assert not any(word in text for word in ("start_time", "duration", "iopub", str(chain.root), "re{po}"))

    # Nothing has changed: nothing runs.
    status, out, _ = chain.run(*words)
    assert status == 0 and out.count("up to date, skipped (use --force)") == 2 and len(computed) == 1
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
    second = (chain.root / "notebooks" / "02-second.ipynb").read_bytes()
    chain.add("02-second", "1", needs=("01",))
    assert chain.up_to_date("--param", "seeds=4") == ["01-first"]
    (chain.root / "notebooks" / "02-second.ipynb").write_bytes(second)
    first = (chain.root / "notebooks" / "01-first.ipynb").read_bytes()
    chain.add("01-first", "1")  # the second reads what the first writes
    assert chain.up_to_date("--param", "seeds=4") == []
    (chain.root / "notebooks" / "01-first.ipynb").write_bytes(first)
    assert chain.up_to_date("--param", "seeds=4") == both
    long = chain.root / "results" / "reference" / "04-long" / "metrics.json"
    long.parent.mkdir(parents=True)
    long.write_text("[]", encoding="utf-8")  # read by what reads others' results
    assert chain.up_to_date("--param", "seeds=4") == ["01-first"]
    shutil.rmtree(long.parents[1])
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
        (stamp,) = (chain.root / ".hc_lafter" / "stamps").glob("default+*/01-first.json")
        stamp.write_text(damage)
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
    earlier = chain.root / "results" / "default" / "06-silent"
    earlier.mkdir(parents=True)
    (earlier / "metrics.json").write_text("[]")  # of an earlier run: does not count for this one
    status, out, err = chain.run("--timeout", "4")
    assert status == 1 and err == ""
    lines = out.splitlines()
    assert "[1/6] 01-raises ... FAILED at In [4], ValueError: last line" in lines[0]
    assert lines[0].endswith("(saved in results/default/01-raises/01-raises.failed.ipynb)")
    assert lines[1] == "[2/6] 02-after ... skipped, needs 01-raises"
    assert "FAILED at In [3], DeadKernelError: the kernel died, most often for want of memory" in lines[2]
    assert "FAILED at In [3], CellTimeoutError: the cell ran longer than 4 s: give a higher --timeout" in lines[3]
    assert "FAILED at In [3], SystemExit: 0" in lines[4] and "FAILED it wrote no metrics.json" in lines[5]
    assert lines[6].startswith("6 of 6 did not run: 01-raises, 02-after, 03-dies")
    # Saved as far as they got, marked where they broke.
    executed = chain.executed("01-raises.failed")
    assert "An Exception was encountered at" in executed.cells[0].source
    assert "The record of a run" in executed.cells[1].source
    assert any(c.get("outputs") and c.outputs[0].get("text") == "so far\n" for c in executed.cells)
    assert executed.cells[-1].execution_count is None
    for name in ("03-dies", "04-slow"):
        executed = chain.executed(f"{name}.failed")
        assert "An Exception was encountered at" in executed.cells[0].source
        assert sum(o.output_type == "error" for c in executed.cells for o in c.get("outputs", [])) == 1
    assert chain.up_to_date() == []
    # A copy of a run that failed does not take the place of a whole one, and is gone after the next whole one.
    chain.add("01-raises", "1")
    assert chain.run("--only", "01")[0] == 0
    whole = (chain.results("01-raises") / "01-raises.ipynb").read_bytes()
    assert not [*chain.results("01-raises").glob("*.failed.ipynb")]
    chain.add("01-raises", "1 / 0")
    assert chain.run("--only", "01")[0] == 1
    assert (chain.results("01-raises") / "01-raises.ipynb").read_bytes() == whole
    assert not [p for p in psutil.Process().children() if "ipykernel" in " ".join(p.cmdline())]


def test_data_of_the_user(chain):
    """A relative path counts from where the user is, reaches the kernel as it was given, and its files are inputs."""
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"a")
    listing = "from pathlib import Path\nprint(overrides, sorted(p.name for p in Path(overrides['data']).iterdir()))"
    chain.add("01-first", listing, parameters=PARAMETERS.replace("{}", "{'data': 'elsewhere', 'n_test': 15}"))
    words = ("--profile", "smoke", "--param", "data=photos", "--param", "layers=none", "--out", "mine")
    assert chain.run(*words)[0] == 0
    (path,) = Path("mine/results").glob(
        "smoke+*/01-first/01-first.ipynb"
    )  # values of one's own have a place of their own
    executed = nbformat.read(path, as_version=4)
    # What the notebook's own cell says stays where the command line says nothing.
    assert executed.cells[4].outputs[0].text == "{'data': 'photos', 'n_test': 15, 'layers': None} ['a.png']\n"
    assert not (chain.root / "results").exists()
    assert chain.up_to_date(*words) == ["01-first"]
    Path("photos/b.png").write_bytes(b"b")
    assert chain.up_to_date(*words) == []
    assert chain.run()[2].startswith("data=elsewhere is neither 'world' nor a folder or file here")


def test_fingerprints_of_data_and_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    image = tmp_path / "photos" / "cat" / "a.png"
    image.write_bytes(b"a")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")  # a loop
    table = tmp_path / "list.csv"
    table.write_text("path,label\nphotos/cat/a.png,cat\nphotos/gone.png,cat\n")
    assert fingerprint("data", "world") is None is fingerprint("descriptions", "ekman")

    def both():
        return fingerprint("data", "photos"), fingerprint("data", "list.csv")

    first = both()
    assert first == both() == (fingerprint("mask_data", str(tmp_path / "photos")), fingerprint("data", str(table)))
    os.utime(image, ns=(1, 1))
    second = both()
    assert second[0] != first[0] and second[1] != first[1]
    table.write_text(table.read_text() + "photos/cat/a.png,dog\n")
    assert both()[1] != second[1]

    (tmp_path / "me@home").mkdir()
    weights = tmp_path / "me@home" / "mine.pt"
    weights.write_bytes(b"one")
    one = fingerprint("clip", "me@home/mine.pt")
    assert one == fingerprint("random_clip", "ViT-B-32@me@home/mine.pt")
    weights.write_bytes(b"other")
    assert fingerprint("clip", "me@home/mine.pt") != one
    before = fingerprint("clip", "me@home/mine.pt")
    (tmp_path / "me@home" / "open_clip_config.json").write_text("{}")  # decides the activation
    assert fingerprint("clip", "me@home/mine.pt") != before
    assert fingerprint("clip", "embedded") is None is fingerprint("clip", "ViT-B-32/openai")


@pytest.mark.parametrize("line", ["a/1.png;x", "a/1.png\tx", '"a/1.png",x', "a\\1.png,x"])
def test_an_image_of_a_csv_counts_whatever_the_separator(tmp_path, line):
    (tmp_path / "a").mkdir()
    image, table = tmp_path / "a" / "1.png", tmp_path / "list.csv"
    image.write_bytes(b"1")
    table.write_text(f"path,label\n{line}\n" + "y" * 300_000 + ".png\n")
    before = fingerprint("data", str(table))
    image.write_bytes(b"22")
    assert fingerprint("data", str(table)) != before


def test_refuses_notebooks(chain, no_kernel):
    def refused(path):
        status, out, err = chain.run()
        path.unlink()
        assert (status, out) == (2, "") and err.count("\n") == 1
        return err

    assert "holds no notebook named like 01-feature-tapping.ipynb" in chain.run()[2]
    good = chain.add("01-good")
    assert "02-x.ipynb lacks its parameters" in refused(chain.add("02-x", parameters=None))
    assert "02-x.ipynb lacks its parameters" in refused(chain.add("02-x", parameters="seeds = 3"))
    assert "02-x.ipynb computes in its parameters cell" in refused(chain.add("02-x", parameters="profile = str(1)"))
    assert "02-x.ipynb computes in its parameters cell" in refused(chain.add("02-x", parameters="%time 1"))
    for name, sentence in {
        "override": "sets 'override', which nothing reads (did you mean 'overrides'?)",
        "seeds": "sets seeds, which nothing reads: write overrides = {'seeds': ...}",
    }.items():
        other = chain.add("02-x", parameters=f"{PARAMETERS}\n{name} = 3")
        assert f"the parameters cell of 02-x.ipynb {sentence}" in refused(other)
    unknown = chain.add("02-x", parameters='profile = "default"\noverrides = {"sedes": 3}')
    assert "parameter 'sedes' is unknown (did you mean 'seeds'?)" in refused(unknown)
    assert "01-good.ipynb and 01-same.ipynb share a number" in refused(chain.add("01-same"))
    broken = good.with_name("02-broken.ipynb")
    broken.write_text("{")
    assert "02-broken.ipynb is not a notebook" in refused(broken)
    good.with_name("Untitled.ipynb").write_text("{")  # a scratchpad is not part of the chain
    assert chain.run("--list")[0] == 0


def test_a_full_disk_is_said_of_the_folder(chain, no_kernel, monkeypatch):
    """And not of the file that finds it out."""
    chain.add("01-first")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = chain.run()
    folder = chain.root / "results" / "default" / "01-first"
    assert status == 2 and err == (
        f"{folder} cannot be written (No space left on device): "
        "make room, give write access, or choose another folder.\n"
    )
    assert not [*folder.iterdir()]


@pytest.mark.parametrize("given", [["device=cuda:7"], ["device=cpu", "precision=bf16"]])
def test_what_the_machine_lacks_is_refused_before_a_kernel_starts(chain, no_kernel, monkeypatch, given):
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    chain.add("01-first")
    status, out, err = chain.run("--param", *given)
    assert (status, out) == (2, "") and err.startswith(f"{given[-1]} is not ") and err.count("\n") == 1


def test_places_that_cannot_be_written_are_named_with_the_way(chain, no_kernel, monkeypatch):
    chain.add("01-first")
    monkeypatch.setattr(paths.os, "access", lambda place, mode: chain.root not in (place, *Path(place).parents))
    err = chain.run()[2]
    assert err.endswith(
        "cannot be written: give write access, or choose another folder by --out DIR or HC_LAFTER_OUTPUT.\n"
    )
    place = paths.Places(chain.root, Path("mine").resolve(), "default", "01-first")
    assert place.cache == Path("mine/.hc_lafter/cache").resolve()  # of a checkout that others own
    monkeypatch.setenv("HC_LAFTER_CACHE", str(chain.root / "cache"))
    err = chain.run("--out", "mine")[2]
    assert f"{chain.root / 'cache'} cannot be written" in err and err.endswith("another folder by HC_LAFTER_CACHE.\n")


def test_nothing_of_the_account_or_the_working_folder_is_code_of_a_run(chain, tmp_path, monkeypatch):
    startup = tmp_path / "account" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-mine.py").write_text("of_the_account = 1\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "account"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep)  # an empty entry is the working folder
    Path("random.py").write_text("of_the_folder = 1\n")
    chain.add("01-first", "import random\nprint(hasattr(random, 'of_the_folder'), 'of_the_account' in dir())")
    assert chain.run()[0] == 0
    assert chain.executed("01-first").cells[4].outputs[0].text == "False False\n"


@pytest.mark.parametrize("name", ["open_clip.py", "json.py", "torch/__init__.py"])
def test_a_file_of_the_checkout_named_like_a_library_is_named(chain, no_kernel, name):
    chain.add("01-first")
    path = chain.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x = 1\n")
    status, out, err = chain.run()
    assert (status, out) == (2, "") and str(chain.root / name.partition("/")[0]) in err
    assert "would be imported instead of the library" in err and err.endswith("rename it.\n")
    path.unlink()
    (chain.root / "my_helpers.py").write_text("x = 1\n")
    assert chain.run("--list")[0] == 0


def test_refuses_a_second_run_beside_the_first(chain, no_kernel):
    chain.add("01-first")
    (chain.root / ".hc_lafter").mkdir()
    with filelock.FileLock(chain.root / ".hc_lafter" / "run-default.lock"):
        assert chain.run()[2] == "another run of profile default is at work here: wait for it, or end it.\n"


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
    code = "import signal, sys, types; from hc_lafter.suite import chain\n"
    # as in a terminal: a shell that runs the tests in the background has its children ignore SIGINT
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "sys.modules['hc_lafter.suite.plans'] = types.SimpleNamespace(compute=lambda *_: None)\n"
    code += f"sys.exit(chain.main([], {str(chain.root)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for number, expected, said in (
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended from outside"),
    ):
        pids.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, env=environment)
        deadline = time.monotonic() + 30
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


def test_check_compares_with_what_is_there(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(chain_module.tempfile, "tempdir", str(tmp_path))
    chain.add("01-first")
    assert "results/default/01-first/metrics.json is missing" in chain.run("--check")[1].replace(os.sep, "/")
    assert chain.run()[0] == 0
    metrics = chain.results("01-first") / "metrics.json"
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
    assert "0.55" in metrics.read_text()


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
    assert compare([row()], [row(minus="t", regime="supervised")])[0] == [
        "s / d / test / m: only in the committed run",
        "s / t / supervised / d / test / m: only in the fresh run",
    ]


def test_tidy_drops_dead_widgets_and_folders(tmp_path):
    bar = nbformat.v4.new_output("display_data", {runner.WIDGET: {"model_id": "random"}, "text/plain": "0%"})
    text = nbformat.v4.new_output("stream", text=f"{tmp_path / 'a.py'}: {Path(sys.prefix) / 'lib'}")
    page = f"<img src='data:image/png;base64,4ClR{tmp_path}Vp1=' alt='{tmp_path}-2'><a>{tmp_path}</a>"
    image = nbformat.v4.new_output("display_data", {"image/png": "aGk=", "text/html": page})
    coloured = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[f"\x1b[0;32m{tmp_path}/a.py\x1b[0m"])
    outputs = [bar, text, image, coloured]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs, metadata={"tags": ["injected-parameters"]})
    tidied = tidy(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
    nbformat.validate(tidied)
    assert tidied.cells[0].id == "injected-parameters-0"
    assert [output.output_type for output in tidied.cells[0].outputs] == ["stream", "display_data", "error"]
    assert tidied.cells[0].outputs[0].text.startswith("<repository>") and "<python>" in tidied.cells[0].outputs[0].text
    kept = page.replace("<a>" + str(tmp_path), "<a><repository>")  # a picture's letters and another folder stay
    assert tidied.cells[0].outputs[1].data == {"image/png": "aGk=", "text/html": kept}
    assert tidied.cells[0].outputs[2].traceback == ["\x1b[0;32m<repository>/a.py\x1b[0m"]


def test_a_study_inside(chain):
    """The one notebook here that imports torch: a study's files land where the runner looks."""
    chain.add(
        "01-real",
        "from hc_lafter.suite.study import Study\nstudy = Study('01-real', profile, overrides)",
        "study.add([dict(system='s', dataset='world', split='test', metric='m', value=0.5, unit='fraction')])\n"
        "study.finish(clip='abc', data='def')",
        saves=False,
    )
    status, out, _ = chain.run("--profile", "smoke", "--param", "seeds=3")
    assert status == 0, out
    assert {path.name for path in chain.results("01-real", "smoke").iterdir()} >= {"01-real.ipynb", "metrics.json"}
    kept = (chain.results("01-real", "smoke").parent / "provenance.json").read_text(encoding="utf-8")
    assert str(chain.root) not in kept
    files = set(json.loads(kept)["notebooks"]["01-real"]["files"])
    assert files == {path.name for path in chain.results("01-real", "smoke").iterdir()} >= {"01-real.ipynb"}
    assert chain.up_to_date("--profile", "smoke", "--param", "seeds=3") == ["01-real"]


def test_listing_is_quick(chain):
    """It starts no kernel and imports nothing that takes seconds."""
    chain.add("01-first")
    code = (
        "import sys; from hc_lafter.suite.chain import main\n"
        f"status = main(['--list'], {str(chain.root)!r})\n"
        "slow = ('torch', 'papermill', 'nbformat', 'pandas', 'matplotlib')\n"
        "sys.exit(status or str([name for name in slow if name in sys.modules] or ''))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stderr.strip() == ""
    assert done.stdout == "01-first                 to run     What is 01-first?\n"


def commands() -> list[str]:
    """Every command in the notebooks' prose and code, as it stands there."""
    books = [nbformat.read(book.path, as_version=4) for book in find_chain(REPOSITORY / "notebooks")]
    quoted = [found for book in books for cell in book.cells for found in re.findall(r"`([^`]+)`", cell.source)]
    return sorted({found for found in quoted if re.search(r"--param|run_all|hc-lafter |uv run", found)})


@pytest.mark.parametrize("command", commands())
def test_commands_in_notebooks_work_as_printed(command, tmp_path):
    """Up to what they would run: ``--list`` behind each."""
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "cat" / "a.png")
    runner, *words = command.replace("FOLDER", str(tmp_path)).removeprefix("uv run ").split(" ")
    assert command.startswith("uv run ") and runner == "run_all.py"
    done = subprocess.run([sys.executable, runner, *words, "--list"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("to run") == 9, done.stderr


def test_needs_go_before():
    """A notebook reads only files of notebooks with lower numbers, which are there."""
    numbers = [book.number for book in find_chain(REPOSITORY / "notebooks")]
    assert numbers == sorted(numbers)
    assert all(need < number and {need, number} <= set(numbers) for number, needs in NEEDS.items() for need in needs)


@pytest.mark.parametrize(
    ("profile", "elsewhere", "failed", "renewed"),
    [
        ("default", False, {}, True),
        ("default", True, {}, False),
        ("default+01234567", False, {}, False),
        ("reference", False, {}, False),
        ("default", False, {"04": "04-x"}, False),
    ],
)
def test_the_readme_follows_a_run_of_default(tmp_path, monkeypatch, profile, elsewhere, failed, renewed):
    """Times differ from machine to machine: after a run of one's own, `claims --check` must find nothing changed."""
    committed = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    head, rest = committed.split(readme.START)
    other = f"{head}{readme.START}\nanother machine's\n{readme.END}{rest.split(readme.END)[1]}"
    own, path = "# A fork\n", tmp_path / "README.md"
    (tmp_path / "results").symlink_to(REPOSITORY / "results")
    monkeypatch.setattr(chain_module, "execute", lambda *args, **kwargs: failed)
    monkeypatch.setattr(chain_module, "_report", lambda *args: None)
    output = tmp_path / "out" if elsewhere else tmp_path
    run = SimpleNamespace(output=output, root=tmp_path, places=lambda notebook: SimpleNamespace(profile=profile))
    selected = [SimpleNamespace(name="09-report", number="09")]
    for before, after in ((other, committed if renewed else other), (own, own)):
        path.write_text(before, encoding="utf-8")
        assert chain_module.work(run, selected, SimpleNamespace(force=False, timeout=None)) == bool(failed)
        assert path.read_text(encoding="utf-8") == after
