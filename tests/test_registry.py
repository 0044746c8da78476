"""The registry: every system's entry, and a system that another package adds."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from plugin import SCALAR_MIX, installed

from hc_lafter import systems
from hc_lafter.clip.load import build_embedded
from hc_lafter.data.world.dataset import World
from hc_lafter.suite import plans, plots
from hc_lafter.suite.study import Study
from hc_lafter.systems import Start, System
from hc_lafter.systems.base import REGIMES

C, D = 5, 128
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def start() -> Start:
    clip = build_embedded(seed=0)
    text = torch.randn(C, D, generator=torch.Generator().manual_seed(0))
    return Start(
        clip.visual, "embedded", text, 20.0, classifier=text, seen=torch.arange(C) > 0, clip=clip,
        classes=("awe", "fear", "anger", "dog", "beach"), support=lambda: (torch.randn(7, 1, D), torch.arange(7) % C),
    )  # fmt: skip


@pytest.mark.parametrize("entry", systems.registry().values(), ids=systems.registry())
def test_an_entry_keeps_its_promises(entry, start):
    """It is built from its own settings, answers in its own form, and its phases train its groups."""
    config = entry.configure(start.tower)
    given = {f.name: getattr(config, f.name) for f in fields(config)}
    assert is_dataclass(config) and given and entry.config(**given) == config
    assert entry.settings.items() <= given.items()  # a variant is what it says
    assert re.fullmatch("#[0-9A-F]{6}", entry.colour) and entry.sources and set(entry.regimes) <= set(REGIMES)
    if hasattr(config, "heads"):
        config = entry.configure(start.tower, heads=4)
    module = entry.build(start, config, 0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = module(images).logits
        if entry.reads == "taps":
            taps = torch.randn(2, len(config.layers), D)
            assert module(taps).logits.shape == (2, C)
    assert logits.shape == ((2, C, 32, 32) if entry.reads == "masks" else (2, C))
    if set(entry.regimes) != {"no training"} and entry.fit is None:
        groups = {group["name"] for group in module.parameter_groups()}
        phases = module.schedule(8)
        assert sum(p.epochs for p in phases) == 8 and groups == {name for p in phases for name in p.trains}


def test_names_are_found_and_near_ones_offered():
    assert systems.find("LaFTer").name == "LaFTer"
    with pytest.raises(ValueError, match=r"system 'LaFter' is unknown .did you mean 'LaFTer'"):
        systems.find("LaFter")
    with pytest.raises(ValueError, match="reads 'pixels' in the regimes supervised: choose one of taps"):
        System("x", "#000000", "pixels", ("supervised",), dict, lambda *_: None, ())


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A folder on the path with the package of another's system."""
    monkeypatch.syspath_prepend(installed(tmp_path))
    systems.registry.cache_clear()
    yield tmp_path
    systems.registry.cache_clear()
    sys.modules.pop("scalar_mix", None)


def test_a_file_of_another_package_is_a_system(added):
    assert len(SCALAR_MIX.splitlines()) <= 60
    assert list(systems.registry())[-1] == "scalar mix" and plots.colour("scalar mix") == "#7F7F00"
    assert ("scalar mix", "supervised") in plans.benchmark(Study("04-full-training", "smoke"))


def test_the_readme_shows_that_file():
    assert f"```python\n{SCALAR_MIX}```" in README


@pytest.mark.parametrize(
    ("source", "sentence"),
    [("x = 1\n", "the entry point scalar_mix has no SPEC: end the module in SPEC = System"),
     (SCALAR_MIX.replace('"scalar mix"', '"LaFTer"'), "two systems are called 'LaFTer': rename the one in scalar_mix")],
)  # fmt: skip
def test_entries_that_cannot_be_are_refused(added, source, sentence):
    (added / "scalar_mix.py").write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        systems.registry()


def test_five_lines_of_the_readme_train_lafter_on_a_folder_and_name_a_picture(tmp_path):
    """Run as printed, in a folder that holds ``photos`` and ``new``."""
    lines = re.search(r"```python\n(from hc_lafter import load_clip.*?)```", README, re.DOTALL)[1]
    assert len([line for line in lines.splitlines() if line]) == 5
    world = World(200, 0, 1, seed=8)
    of_each = [np.flatnonzero(world.labels[:200] == c)[:4] for c in range(len(world.classes))]
    for i in (*np.concatenate(of_each), 200):
        record = world[int(i)]
        place = tmp_path / ("new" if record.split == "test" else f"photos/{record.label_name}") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        record.image.save(place)
    found = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "200.png" in found.stdout and "path" in found.stdout and (tmp_path / "lafter.safetensors").is_file()
