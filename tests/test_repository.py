"""The repository itself: one source of versions, bare notebooks, a README whose commands and numbers hold."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from hc_lafter.suite import readme
from hc_lafter.systems import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip()]
    return {r.name.replace("_", "-"): r for r in found if r.marker is None or r.marker.evaluate(default_environment())}


def tracked() -> list[str]:
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("this copy is not a git checkout")
    return run.stdout.splitlines()


def test_the_pins_are_what_the_project_asks_for_and_what_is_installed():
    pinned = pins()
    assert len(pinned) > 100
    for text in PROJECT["project"]["dependencies"]:
        asked = Requirement(text)
        pin = pinned[asked.name.replace("_", "-")]
        (version,) = [s.version for s in pin.specifier]
        assert version in asked.specifier, f"{pin} is not {asked}: export requirements.txt again"
        assert importlib.metadata.version(asked.name) == version, f"{asked.name} is not the pinned {version}"


def test_conda_takes_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt", "-e ."]}
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    versions = [int(part) for part in python.removeprefix("python=").split(".")]
    assert [3, 11] <= versions <= [3, 13]


def test_no_file_names_a_registry_and_the_lock_stays_out():
    names = tracked()
    assert "uv.lock" not in names
    for name in ("requirements.txt", "pyproject.toml", "environment.yml"):
        assert not re.search(r"https?://", (ROOT / name).read_text(encoding="utf-8")), name


def test_notebooks_are_sources():
    assert [n.stem[:2] for n in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [c for c in cells if c["cell_type"] == "code"]
        assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code), f"{path}: strip it"
        assert max(len("".join(c["source"]).splitlines()) for c in code) <= 25
        assert sum("parameters" in c["metadata"].get("tags", []) for c in code) == 1
        assert len(cells) - len(code) >= len(code) / 2, "prose is missing"


def test_a_notebook_says_how_many_tables_of_comparisons_share_its_chance_of_a_wrong_verdict():
    """`Study(..., tables=)` against the calls that make them; some make several, by a loop or for several scores."""
    several = {"02-nga-weights": 2, "04-full-training": 1, "05-cascade-vs-hybrid": 2, "07-sc-clip-diagnostics": 1}
    several |= {"08-ablations": 1}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        made = [ast.unparse(call.func) in ("study.differences", "segmentation.differences") for call in calls]
        (study,) = (call for call in calls if ast.unparse(call.func) == "Study")
        said = {k.arg: k.value.value for k in study.keywords}.get("tables", 1)
        assert said == max(1, sum(made) + several.get(path.stem, 0)), path.name


def test_every_notebook_stands_in_the_readme():
    for path in NOTEBOOKS:
        assert f"notebooks/{path.name}" in README


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", [*PAGES, "hc_lafter/embedded/FIDELITY_CARD.md"])
def test_links_and_pictures_are_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not ((ROOT / page).parent / link).exists()] == []
    assert len(links) > 10 or page != "README.md"


def test_every_system_stands_in_the_designs():
    page = (ROOT / "docs" / "designs.md").read_text(encoding="utf-8").lower()
    assert [name for name in registry() if re.split(r"[,(]", name)[0].strip().lower() not in page] == []


# What a reader of the repository cannot open: a document is cited by its paper, its release, or docs/designs.md.
ELSEWHERE = re.compile(r"SPEC section|DATASETS\.md|PROTOCOL(\.md|, section| section)|EVIDENCE\.md|\.\./shared")


def test_nothing_refers_to_documents_that_readers_lack():
    names = [n for n in tracked() if n.endswith((".py", ".md", ".toml", ".yaml", ".yml", ".ipynb")) and "/" in n]
    names = [n for n in names if not n.startswith(("results/", "figures/", "tests/test_repository"))]
    found = [n for n in names if ELSEWHERE.search((ROOT / n).read_text(encoding="utf-8"))]
    assert found == []


def test_the_api_reference_builds_without_a_warning(tmp_path):
    build = [sys.executable, "docs/build.py", str(tmp_path)]
    run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    pages = {p.relative_to(tmp_path).with_suffix("").as_posix() for p in tmp_path.rglob("*.html")}
    modules = [p.relative_to(ROOT).with_suffix("") for p in (ROOT / "hc_lafter").rglob("*.py")]
    wanted = {(m.parent if m.name == "__init__" else m).as_posix() for m in modules if m.name != "__main__"}
    assert wanted <= pages


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = script.splitlines()[-1]
    assert command in README.splitlines() and "pytest" in command


def test_the_headline_comes_from_results():
    table = readme.headline(ROOT / "results" / "default")
    assert readme.updated(README, table) == README, "run python -m hc_lafter.suite.readme"


def test_ruff_finds_nothing():
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("room", ["analysis", "suite/plots.py", "suite/study.py"])
def test_rooms_that_stand_apart_import_no_model(room):
    """`analysis`, `plots` and `study` know no tower and no data set: a plain record, and the systems' colours only."""
    place = ROOT / "hc_lafter" / room
    barred = {"hc_lafter.clip", "hc_lafter.tuning", "hc_lafter.data", "hc_lafter.systems"}
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names = [n for n in names if n not in ("hc_lafter.tuning.setting", "hc_lafter.systems")]
            assert not [n for n in names if any(n == b or n.startswith(b + ".") for b in barred)], path


def test_only_the_walk_touches_a_block():
    for path in sorted((ROOT / "hc_lafter").rglob("*.py")):
        if path.name != "vit.py":
            assert "resblocks[" not in path.read_text(encoding="utf-8"), f"{path.name} reaches into the tower"
