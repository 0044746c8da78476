"""Faults: workers, schedulers and clients that are killed, a disk that is full. The store holds the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hc_lafter.systems.lafter import LaFTerConfig
from hc_lafter.systems.mean_of_layers import MeanOfLayersConfig
from hc_lafter.tuning import runs
from hc_lafter.tuning.runs import Run, get
from hc_lafter.tuning.setting import Setting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system"),
]

SIZES = {"n_train": 32, "n_val": 24, "batch_size": 8}


def plan(cache: Path) -> list[Run]:
    setting = Setting(n_train=40, n_val=24, n_test=24, seeds=(0, 1), text_steps=20, text_noise=(0.0,), cache=cache)
    mean = Run("mean of layers", "supervised", 0, setting, MeanOfLayersConfig(lr=0.01), epochs=4, **SIZES)
    lafter = Run("LaFTer", "supervised", 0, setting, LaFTerConfig(tokens=2), epochs=4, **SIZES)
    return [replace(run, seed=s) for run in (lafter, mean) for s in (0, 1)]


def results(cache: Path) -> dict[str, bytes]:
    """The results' bytes; nothing but them, the times and the locks is left in the whole cache."""
    suffixes = {path.suffix for path in cache.rglob("*") if path.is_file()}
    hidden = [path.name for path in cache.rglob(".*")]
    assert suffixes == {".safetensors", ".json", ".lock"} and not hidden
    return {path.name: path.read_bytes() for path in (cache / "runs").glob("*.safetensors")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A cache with all results, which nothing has disturbed."""
    cache = tmp_path_factory.mktemp("here")
    get(plan(cache), scheduler="none", progress=False)
    return cache


@pytest.fixture(scope="module")
def undisturbed(finished) -> dict[str, bytes]:
    found = results(finished)
    assert len(found) == 4
    return found


def kill_tree(process: subprocess.Popen) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


@contextmanager
def joined(folder: Path) -> Iterator[tuple[str, subprocess.Popen, list[subprocess.Popen]]]:
    """The address of a scheduler, its process, and those of the workers' nannies."""
    file, processes = folder / "scheduler.json", []
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    common = [f"--scheduler-file={file}", "--no-dashboard"]
    worker = [*dask, "worker", *common, "--nthreads", "1", "--local-directory", str(folder)]
    for command in ([*dask, "scheduler", "--port", "0", *common], worker, worker):
        processes.append(subprocess.Popen(command, **quiet))
    limit = time.time() + 60
    while not file.is_file() and time.time() < limit:
        time.sleep(0.2)
    try:
        yield json.loads(file.read_text())["address"], processes[0], processes[1:]
    finally:
        for process in processes:
            kill_tree(process)


def in_the_middle(cache: Path, act: Callable[[], object]) -> threading.Thread:
    """Act as soon as a run has left a checkpoint: whoever writes it is in the middle."""

    def wait() -> None:
        limit = time.time() + 120
        while not list((cache / "runs").glob("*.checkpoint")) and time.time() < limit:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_workers(parents: list[int]) -> list[int]:
    """SIGKILL to those processes below the parents that compute: what was spawned, or forked off a server of forks."""
    found = [child for parent in parents for child in psutil.Process(parent).children(recursive=True)]
    forked = [child for child in found if child.ppid() not in parents and "forkserver" in " ".join(child.cmdline())]
    killed = [child.pid for child in found if child in forked or "spawn_main" in " ".join(child.cmdline())]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


@pytest.fixture(scope="module")
def processes():
    """Processes that start at once, since they are forked off one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hc_lafter.tuning.runs", "hc_lafter.systems.lafter", "dask.distributed"])
    return context


def start(processes, cache: Path, scheduler: str = "none", target: Callable = get) -> multiprocessing.Process:
    process = processes.Process(target=target, args=(plan(cache),), kwargs={"scheduler": scheduler, "progress": False})
    process.start()
    return process


def test_workers_that_are_killed_cost_time_and_no_result(tmp_path, undisturbed, forked_workers):
    """Two of this machine, all of them killed in the middle of a run."""
    killed = []
    thread = in_the_middle(tmp_path / "cache", lambda: killed.extend(kill_workers([os.getpid()])))
    get(plan(tmp_path / "cache"), scheduler="local", progress=False)
    thread.join()
    assert killed and results(tmp_path / "cache") == undisturbed


def test_workers_by_address_a_client_and_the_scheduler_are_killed_in_turn(tmp_path, undisturbed, processes):
    first, second = tmp_path / "first", tmp_path / "second"
    with joined(tmp_path) as (address, scheduler, nannies):
        client = start(processes, first, address)
        in_the_middle(first, client.kill).join()
        client.join()
        assert client.exitcode == -signal.SIGKILL
        killed = []
        thread = in_the_middle(first, lambda: killed.extend(kill_workers([nanny.pid for nanny in nannies])))
        get(plan(first), scheduler=address, progress=False)
        thread.join()
        assert killed and results(first) == undisturbed

        thread = in_the_middle(second, scheduler.kill)
        sentence = f"the scheduler {re.escape(address)} does not answer: finished runs are kept, and the others go on"
        with pytest.raises(ConnectionError, match=sentence):
            get(plan(second), scheduler=address, progress=False)
        thread.join()
        lacking = runs.missing(plan(second))
        assert lacking
    get(plan(second), scheduler="none", progress=False)
    assert results(second) == undisturbed


def test_a_client_that_is_killed_takes_its_own_workers_along(tmp_path, undisturbed, processes):
    client = start(processes, tmp_path / "cache", "local")
    workers = []

    def kill() -> None:
        workers.extend(psutil.Process(client.pid).children(recursive=True))
        client.kill()

    in_the_middle(tmp_path / "cache", kill).join()
    client.join()
    assert workers and not psutil.wait_procs(workers, timeout=30)[1]
    get(plan(tmp_path / "cache"), scheduler="none", progress=False)
    assert results(tmp_path / "cache") == undisturbed


def limited(asked: list[Run], **how) -> None:
    """As on a disk with room for a small run's files and not for a large one's."""
    import resource

    get([asked[-1]], **how)  # what all share is there
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        get(asked, **how)
    except ValueError as error:
        sys.exit("2 of 3 runs failed, first LaFTer" in str(error))


def test_a_full_disk_stops_what_does_not_fit_and_says_so(tmp_path, undisturbed, processes):
    process = start(processes, tmp_path, target=limited)
    process.join()
    assert process.exitcode == 1
    asked = plan(tmp_path)
    assert runs.missing(asked) == asked[:2]
    for run in asked[:2]:
        assert re.fullmatch(r"OSError: .*\.checkpoint cannot be written \(.*\): make room.*", runs.failure(run))
    assert not list(tmp_path.rglob(".*"))
    get(asked, scheduler="none", progress=False)
    assert results(tmp_path) == undisturbed and not runs.failure(asked[0])


def under_fire(asked: list[Run], **how) -> None:
    """Two clients for the same runs. One after the other is killed, twenty in all; whoever comes next goes on."""
    fork, draw, killed, sweeps = multiprocessing.get_context("fork"), random.Random(12), 0, 0

    def client(wanted: list[Run]) -> multiprocessing.Process:
        process = fork.Process(target=get, args=(wanted,), kwargs=how)
        process.start()
        return process

    while killed < 20:
        cache, sweeps = asked[0].setting.cache / str(sweeps), sweeps + 1
        wanted = plan(cache)
        runs.missing(wanted)  # opens CLIP and data, so that a client is at work as soon as it is forked
        clients = [client(wanted) for _ in range(2)]
        while killed < 20 and all(each.is_alive() for each in clients):
            time.sleep(draw.uniform(0.0, 0.5))
            which = draw.randrange(2)
            clients[which].kill()
            clients[which].join()
            if clients[which].exitcode == -signal.SIGKILL:
                killed += 1
                clients[which] = client(wanted)
        for each in clients:
            each.join()
            assert each.exitcode == 0


def test_twenty_kills_at_random_moments_lose_nothing(tmp_path, undisturbed, processes):
    process = start(processes, tmp_path, target=under_fire)
    process.join()
    assert process.exitcode == 0
    stores = list(tmp_path.iterdir())
    assert stores and all(results(cache) == undisturbed for cache in stores)
