"""Imports between the rooms run one way: suite -> tuning -> systems -> clip; data and analysis know none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hc_lafter"
# room -> what it may import from, beside itself and the modules that belong to no room
BENEATH = {
    "data": set(),
    "analysis": set(),
    "clip": {"data", "analysis"},
    "systems": {"clip", "data", "analysis"},
    "tuning": {"systems", "clip", "data", "analysis"},
    "suite": {"tuning", "systems", "clip", "data", "analysis"},
    "embedded": {"suite", "tuning", "systems", "clip", "data", "analysis"},
}
# the package itself and what every room may use; they use none
NO_ROOM = {"", "__main__", "commands", "files", "refusals", "store"}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name within the package -> file; the package itself is ""."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str | None:
    """The room of a module; "" for a module that belongs to none; None for one that has to be given a place."""
    first = module.partition(".")[0]
    return "" if first in (*NO_ROOM, "__main__") else first if first in BENEATH else None


def imported(name: str, path: Path, known: dict[str, Path], package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import from the package, those inside functions included."""
    here = [package, *(name.split(".") if name else [])]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = len(here) - node.level + (path.name == "__init__.py")
            base = ".".join([*(here[:up] if node.level else []), *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == package:
                module = target.partition(".")[2]
                while module not in known:  # the last name is not a module but something in one
                    module = module.rpartition(".")[0]
                yield node.lineno, module


def arrows_back(package: Path) -> list[str]:
    known, wrong = modules(package), []
    for name, path in known.items():
        mine = room_of(name)
        if mine is None:
            wrong.append(f"{path.name} belongs to no room: move it into one")
            continue
        for line, module in imported(name, path, known, package.name):
            theirs = room_of(module)
            if theirs not in {"", mine} | BENEATH.get(mine, set()):
                place = path.relative_to(package.parent).as_posix()
                wrong.append(f"{place}:{line}: {mine or 'no room'} imports from {theirs} ({module})")
    return wrong


def test_no_import_runs_back():
    assert arrows_back(PACKAGE) == []


@pytest.mark.parametrize("room", [*BENEATH, "data/world", "data/emotion", "data/masks", "data/own"])
def test_a_room_says_what_lives_there(room):
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert text and len(text.split()) > 15


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        (
            "clip/load.py",
            "def f():\n    from house.suite.study import Study\n",
            "clip/load.py:2: clip imports from suite",
        ),
        ("clip/load.py", "from ..tuning import fit\n", "clip/load.py:1: clip imports from tuning (tuning.fit)"),
        ("clip/load.py", "from .. import files\n", None),
        ("data/__init__.py", "from .own.folder import x\n", None),
        ("data/own/folder.py", "import house.analysis.cka as cka\n", "data imports from analysis (analysis.cka)"),
        ("files.py", "from house.clip.load import f\n", "files.py:1: no room imports from clip (clip.load)"),
        ("suite/study.py", "from house.embedded import pretrain\n", "imports from embedded (embedded.pretrain)"),
        ("embedded/pretrain.py", "from ..suite.study import Study\nfrom .. import __version__\n", None),
        ("hall.py", "", "hall.py belongs to no room"),
    ],
)
def test_an_arrow_that_runs_back_is_named(tmp_path, path, text, told):
    house = tmp_path / "house"
    names = ["clip/load", "suite/study", "tuning/fit", "data/own/folder", "analysis/cka", "files"]
    rooms = ("clip", "suite", "tuning", "data", "data/own", "embedded")
    for name in [*names, "embedded/pretrain", "__init__", *(f"{room}/__init__" for room in rooms)]:
        file = house / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("__version__ = '1'\n")
    (house / path).write_text(text)
    found = arrows_back(house)
    assert found == [] if told is None else len(found) == 1 and told in found[0], found
