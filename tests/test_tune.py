"""``hc-lafter tune``: by one process, by two, by two that go on where one was stopped; what it refuses."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import hc_lafter
from hc_lafter import store, systems
from hc_lafter.__main__ import main
from hc_lafter.clip.load import build_embedded, save_clip
from hc_lafter.data import open_data
from hc_lafter.systems import find
from hc_lafter.tuning.command import settings_of

SIZES = [f"--{name}={size}" for name, size in (("n-train", 40), ("n-val", 24), ("n-test", 24), ("images", 20))]
# 20 images by 7: the last batch of an epoch has 6, three for each of two processes, the others four and three
RUN = [
    "--system",
    "LaFTer",
    "--regime",
    "supervised",
    *SIZES,
    "--epochs",
    "2",
    "--batch-size",
    "7",
    "--set",
    "tokens=2",
]
CURVE = 1e-5  # half a batch each, averaged: another order of summation, float32


@pytest.fixture(scope="module")
def place(tmp_path_factory, shared_cache) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    shared_cache.mkdir(exist_ok=True)
    (folder / "cache").symlink_to(shared_cache, target_is_directory=True)
    return folder


def tune(place: Path, name: str, *more: str) -> int:
    return main(["tune", *RUN, "--device", "cpu", "--cache", str(place / "cache"), "--out", str(place / name), *more])


@pytest.fixture(scope="module")
def alone(place) -> pd.DataFrame:
    assert tune(place, "alone.safetensors") == 0
    return pd.read_csv(place / "alone.csv")


def by_two(place: Path, name: str, *more: str) -> tuple[pd.DataFrame, str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["tune", *RUN, "--device", "cpu", "--cache", str(place / "cache"), "--out", str(place / name), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, "-m", "hc_lafter", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pd.read_csv((place / name).with_suffix(".csv")), done.stdout


def test_one_process_prints_and_writes(place, alone, capsys):
    assert list(alone.columns) == ["step", "epoch", "phase", "loss", "task", "validation accuracy"]
    assert alone["step"].tolist() == [1, 2, 3, 4, 5, 6] and alone["validation accuracy"].notna().sum() == 2
    assert tune(place, "again.safetensors", "--accumulate", "2", "--checkpointing") == 0
    said = capsys.readouterr().out.splitlines()
    again = pd.read_csv(place / "again.csv")
    torch.testing.assert_close(*(torch.tensor(t["loss"].to_numpy()) for t in (again, alone)), rtol=0, atol=CURVE)
    trained = systems.load(place / "again.safetensors")
    assert trained.system == "LaFTer" and trained.config.tokens == 2 and not trained.scores
    best = max(again["validation accuracy"].dropna())
    assert said[0].startswith(f"{place / 'again.safetensors'} is LaFTer, val accuracy {best:.4f}, test accuracy 0.")
    assert not list(place.glob("*.checkpoint"))


@pytest.mark.slow
def test_two_processes_train_as_one_does(place, alone):
    both, said = by_two(place, "both.safetensors")
    assert said.count("is LaFTer, val accuracy") == 1
    torch.testing.assert_close(*(torch.tensor(t["loss"].to_numpy()) for t in (both, alone)), rtol=0, atol=CURVE)
    mine, other = (store.read(place / f"{name}.safetensors")[0] for name in ("both", "alone"))
    for name, value in other.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert {p.name for p in place.glob("*both*")} == {"both.safetensors", "both.csv"}


@pytest.mark.slow
def test_two_go_on_where_one_was_stopped(place, alone, monkeypatch):
    write = store.write

    def stop(path, *rest, **metadata):
        write(path, *rest, **metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write", stop)
    assert tune(place, "stopped.safetensors") == 130
    monkeypatch.undo()
    (checkpoint,) = place.glob("stopped.*.checkpoint")
    assert store.read(checkpoint)[1]["state"]["step"] == 3
    both, _ = by_two(place, "stopped.safetensors", "--accumulate", "2")
    assert both[:3].equals(alone[:3]) and not both[3:].equals(alone[3:])
    torch.testing.assert_close(*(torch.tensor(t["loss"].to_numpy()) for t in (both, alone)), rtol=0, atol=CURVE)
    assert {p.name for p in place.glob("*stopped*")} == {"stopped.safetensors", "stopped.csv"}


def test_settings_have_the_types_of_the_configuration():
    hybrid = find("HybridCascade-LaFTer")
    assert settings_of(hybrid, ["lr=1e-3", "stages=[[5, 6], [7, 8]]"]) == {"lr": 1e-3, "stages": ((5, 6), (7, 8))}
    with pytest.raises(ValueError, match="give KEY=VALUE"):
        settings_of(hybrid, ["lr"])


def test_python_takes_names_and_plain_values(shared_cache):
    """What `load_clip` and `open_data` take, and settings as JSON or a form would hold them."""
    few = open_data("world", n_train=24, n_val=16, n_test=16)
    given = {"epochs": 1, "images": 1000, "layers": [11, 12], "lr": "1e-3", "cache": shared_cache, "progress": False}
    trained = hc_lafter.tune("mean of layers", "embedded", few, **given)
    assert trained.config.layers == (11, 12) and trained.config.lr == 1e-3
    one = trained.predict(few[0].image, progress=False)
    assert one["path"].tolist() == ["image 0"]
    assert one.equals(trained.predict([few[0].image], progress=False))


def test_a_data_set_is_opened_by_its_name(monkeypatch):
    from hc_lafter.tuning import tune as module

    asked = []
    monkeypatch.setattr(module, "open_data", lambda spec, **how: asked.append((spec, how["side"])) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hc_lafter.tune("LaFTer", "embedded", Path("photos"))
    assert asked == [("photos", 64)]


def test_what_is_not_trained_has_no_table(place, capsys):
    words = ["tune", "--system", "zero-shot", *SIZES, "--device", "cpu", "--cache", str(place / "cache")]
    assert main([*words, "--out", str(place / "plain.safetensors")]) == 0
    assert "step by step" not in capsys.readouterr().out and not (place / "plain.csv").exists()


def test_a_tuned_system_names_images_on_the_command_line(place, alone, capsys):
    few = open_data("world", n_train=1, n_val=1, n_test=4)
    (place / "new").mkdir()
    for n in range(4):
        few[n].image.save(place / "new" / f"{n}.png")
    trained = systems.load(place / "alone.safetensors")
    expected = trained.predict(place / "new", progress=False)
    capsys.readouterr()
    assert main(["predict", str(place / "alone.safetensors"), str(place / "new")]) == 0
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out))
    pd.testing.assert_frame_equal(printed, expected, check_dtype=False)
    assert (
        main(["predict", str(place / "alone.safetensors"), str(place / "new"), "--out", str(place / "named.csv")]) == 0
    )
    assert capsys.readouterr().out == f"{place / 'named.csv'} has a row for each of 4 images.\n"
    assert pd.read_csv(place / "named.csv").equals(printed)
    (place / "new" / "no.png").write_text("no picture")
    assert main(["predict", str(place / "alone.safetensors"), str(place / "new")]) == 0
    out, err = capsys.readouterr()
    assert pd.read_csv(io.StringIO(out)).equals(printed)
    said = [line for line in err.splitlines() if line and "batch" not in line]
    assert len(said) == 1 and re.match(r"1 of 5 images cannot be read \(.*no\.png'\): .*no\.png holds ", said[0])


def test_nothing_that_is_read_or_a_users_own_is_written_over(place, alone, capsys):
    labels, system = place / "labels.csv", place / "alone.safetensors"
    labels.write_text("path,label\n")
    before = system.read_bytes()
    assert tune(place, "labels.safetensors") == 2
    assert "labels.csv is no history of a training, and would be written over" in capsys.readouterr().err
    assert tune(place, "alone.safetensors", "--clip", f"ViT-S-32-alt@{system}") == 2
    assert "is read from it: choose another --out" in capsys.readouterr().err
    assert main(["predict", str(system), str(place), "--out", str(system)]) == 2
    assert "is read from it: choose another --out" in capsys.readouterr().err
    assert labels.read_text() == "path,label\n" and system.read_bytes() == before


def test_a_saved_system_finds_its_clip_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_clip(build_embedded(seed=3), "mine.safetensors")
    few = open_data("world", n_train=24, n_val=16, n_test=16)
    systems.save(hc_lafter.tune("zero-shot", "mine.safetensors", few, progress=False), "plain.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert systems.load(tmp_path / "plain.safetensors").clip.source == str(tmp_path / "mine.safetensors")
    (tmp_path / "mine.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"no file {tmp_path / 'mine.safetensors'}.*say where it is"):
        systems.load(tmp_path / "plain.safetensors")


def test_pictures_without_a_known_brightness_are_named(shared_cache):
    few = open_data("world", n_train=24, n_val=16, n_test=16)
    plain = hc_lafter.tune("zero-shot", "embedded", few, progress=False, cache=shared_cache)
    deep = few[0].image.convert("F")
    with pytest.warns(UserWarning, match="image 0 has Pillow's mode F, which does not say how bright it is"):
        assert len(plain.predict([deep, few[0].image], progress=False)) == 1
