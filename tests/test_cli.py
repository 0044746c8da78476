"""The command line and the public names."""

import importlib
import inspect
import os
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

import hc_lafter
from hc_lafter.__main__ import COMMANDS, main
from hc_lafter.commands import FIDELITY, PARSERS, TRACKERS

REPOSITORY = Path(__file__).resolve().parents[1]


def test_help_imports_nothing_slow():
    code = "import sys; from hc_lafter.__main__ import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'open_clip', 'matplotlib', 'papermill') if name in sys.modules])"
    slips = (["docter"], ["pretrain", "--sise", "cpu"], [])
    for words in (["--help"], *([name, "--help"] for name in COMMANDS), *slips):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.stdout.splitlines()[-1] == "[]", words
        if words == ["docter"]:
            assert "'docter' is unknown (did you mean 'doctor'?): choose one of run, check" in done.stderr
        if words == ["--help"]:
            assert all(f"\n    {name} " in done.stdout for name in COMMANDS)


def test_options_are_those_of_the_code():
    from accelerate.utils import LoggerType

    from hc_lafter.embedded import fidelity, pretrain
    from hc_lafter.suite import figures, plots

    options = {name: vars(build())["_option_string_actions"] for name, build in PARSERS.items()}
    assert asdict(fidelity.Sizes()) == FIDELITY and options["fidelity"]["--seed"].default == fidelity.WORLD_SEED
    assert set(options["pretrain"]["--size"].choices) == set(pretrain.SIZES)
    assert {str(tracker) for tracker in LoggerType} >= set(TRACKERS)
    assert set(options["figures"]["--format"].choices) == set(figures.FORMATS)
    assert set(options["figures"]["--width"].choices) == set(plots.WIDTHS)


def test_a_reader_that_has_enough_ends_a_command_without_a_word(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hc_lafter", "figures", "--out", str(tmp_path), "04", "--format", "png"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (141, "") and list(tmp_path.iterdir())


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    from hc_lafter.data import doctor

    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "main", interrupted)
    assert main(["doctor", "photos"]) == 130 and capsys.readouterr().err == "Stopped.\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_changes_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC_LAFTER_OUTPUT", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0 and "usage: " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--out", ""],
        ["run", "--out="],
        ["run", "--only", " "],
        ["run", "--scheduler", ""],
        ["doctor", ""],
        ["doctor", "photos", "--cache", ""],
        ["tune", "--system", "LaFTer", "--out", "x.safetensors", "--data", ""],
        ["tune", "--system", "LaFTer", "--out", "x.safetensors", "--clip="],
        ["figures", "--out", ""],
        ["runs", "--export", ""],
    ],
)
def test_an_empty_value_is_refused_and_not_the_default(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "is empty: give a value, or leave it out." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_lies_in_the_working_folder_is_no_library(tmp_path):
    for name in ("torch", "open_clip", "random", "json"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    (tmp_path / "a" / "cat").mkdir(parents=True)
    code = [sys.executable, "-m", "hc_lafter.data.doctor", "a"]
    done = subprocess.run(
        code, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert "Traceback" not in done.stderr and done.stdout.startswith("a: 0 readable images"), done.stderr


def test_words_reach_the_command(capsys):
    assert main(["run", "--list", "--only", "01"]) == 0
    assert capsys.readouterr().out.startswith("01-feature-tapping")
    assert main(["run", "--check", "--only", "no-such"]) == 2
    assert "notebook 'no-such' is not there" in capsys.readouterr().err


def test_run_all_and_the_console_script_are_the_same_command():
    done = subprocess.run([sys.executable, "run_all.py", "--help"], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0 and "usage: hc-lafter run" in done.stdout
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["hc-lafter"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_public_names_are_imported_when_asked_for():
    code = (
        "import sys, hc_lafter\nassert set(hc_lafter.__all__) <= set(dir(hc_lafter))\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
    for name in hc_lafter.__all__:
        found = getattr(hc_lafter, name)
        assert callable(found) or inspect.ismodule(found)
        assert len(inspect.getdoc(found).split()) > 15, name
    with pytest.raises(AttributeError, match="has no attribute 'load_clib'"):
        hc_lafter.load_clib  # noqa: B018
