"""Fifty SIGKILLs at random moments, over a sweep of runs and over the chain of notebooks: nothing is lost or wrong.

By hand, since it takes a quarter of an hour: ``uv run pytest -m campaign -n 0 -s tests/faults/test_kills.py``. README
has its figures. The default tests have a smaller one, `test_twenty_kills_at_random_moments_lose_nothing`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.slow,  # `-m "not slow"` takes the place of what addopts leaves out
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system"),
]

KILLS = {"none": 24, "local": 14, "chain": 12}  # fifty
SYSTEMS = ["mean of layers", "LaFTer"]  # one reads cached features, the other trains its tower
# Seconds after a start: whoever starts next goes on, so that the kills lie all over the work.
WITHIN = {"none": 20, "local": 20, "chain": 40}
SWEEP = ["runs", "--profile", "smoke", "--only", "04", "--systems", *SYSTEMS, "--scheduler"]
CHAIN = ["run", "--profile", "smoke", "--only", "01", "02", "03", "--out"]
# Files that hold times, or hashes of such files; all others are the same bytes in every run. (The cache `cells` has
# times, too, and its other numbers are those of the results.)
TIMED = re.compile(
    r"timings\.json|provenance\.json|.*\.ipynb|.*\.log|.*\.lock|[0-9a-f]{64}\.json|\d\d-[a-z-]+\.json|(cost|throughput).*"
)


def command(words: list[str], place: Path) -> None:
    """As ``python -m hc_lafter``, in a process that was forked off one that has imported everything."""
    os.environ["HC_LAFTER_CACHE"], os.environ["HC_LAFTER_OUTPUT"] = str(place / "cache"), str(place)
    place.mkdir(exist_ok=True)
    out = os.open(place / "said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from hc_lafter.__main__ import main

    raise SystemExit(main([*words, *([str(place)] if words[-1] == "--out" else [])]))


@pytest.fixture(scope="module")
def start() -> Callable[[list[str], Path], multiprocessing.Process]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hc_lafter.suite.plans", "hc_lafter.suite.chain", "distributed"])

    def started(words: list[str], place: Path) -> multiprocessing.Process:
        process = context.Process(target=command, args=(words, place))
        process.start()
        return process

    return started


def kept(place: Path) -> dict[str, bytes]:
    """What a command has left, by its path; nothing half-written is among it."""
    files = [path for path in place.rglob("*") if path.is_file() and not {"ipython", "cells"} & {*path.parts}]
    stale = [
        p for p in files if re.fullmatch(r"\..*-[0-9a-f]{8}\..*", p.name) or p.suffix in (".checkpoint", ".failed")
    ]
    assert not stale
    return {str(p.relative_to(place)): p.read_bytes() for p in files if not TIMED.fullmatch(p.name)}


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory) -> Callable[[bool], dict[str, bytes]]:
    """Of the chain or not: what is left by a run that nobody kills, of the sweep in one process."""

    @cache
    def found(chain: bool) -> dict[str, bytes]:
        place, before = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
        process = start(CHAIN if chain else [*SWEEP, "none"], place)
        process.join()
        assert process.exitcode == 0
        print(f"\nundisturbed: {time.monotonic() - before:.0f} s, {len(kept(place))} files")
        return kept(place)

    return found


@pytest.mark.parametrize("kind", KILLS)
def test_kills_at_random_moments_lose_nothing(kind, tmp_path, start, undisturbed):
    words = CHAIN if kind == "chain" else [*SWEEP, kind]
    expected = undisturbed(kind == "chain")
    draw, killed, places = random.Random(50), {"itself": 0, "a process of it": 0}, [tmp_path / "0"]
    process = start(words, places[0])
    while sum(killed.values()) < KILLS[kind]:
        process.join(draw.uniform(0, WITHIN[kind]))
        if process.exitcode == 0:  # done between two kills: the next ones hit another place
            places.append(tmp_path / str(len(places)))
        if process.exitcode is not None:
            process = start(words, places[-1])
            continue
        below = psutil.Process(process.pid).children(recursive=True)
        if below and draw.random() < 0.5:
            with suppress(psutil.NoSuchProcess):  # it has ended since
                draw.choice(below).kill()
                killed["a process of it"] += 1
        else:
            process.kill()
            process.join()
            psutil.wait_procs(below, timeout=60)  # they notice that they are alone
            killed["itself"] += 1
            process = start(words, places[-1])
    process.join()
    for place in places:
        process = start(words, place)
        process.join()
        assert process.exitcode == 0
        found = kept(place)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
    print(f"{kind}: {killed} killed, {len(places)} places are the same bytes as the undisturbed one")
