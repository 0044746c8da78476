"""Workers that joined a scheduler by address, and one that is killed in the middle: the store holds the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from hc_lafter import store
from hc_lafter.systems.lafter import LaFTerConfig
from hc_lafter.systems.mean_of_layers import MeanOfLayersConfig
from hc_lafter.tuning.runs import Run, get
from hc_lafter.tuning.setting import Setting

pytestmark = pytest.mark.slow

SIZES = {"n_train": 32, "n_val": 24, "batch_size": 8}


def plan(cache: Path) -> list[Run]:
    setting = Setting(n_train=40, n_val=24, n_test=24, seeds=(0, 1), text_steps=20, text_noise=(0.0,), cache=cache)
    mean = Run("mean of layers", "supervised", 0, setting, MeanOfLayersConfig(lr=0.01), epochs=4, **SIZES)
    lafter = Run("LaFTer", "supervised", 0, setting, LaFTerConfig(tokens=2), epochs=6, **SIZES)
    return [replace(run, seed=s) for run in (lafter, mean) for s in (0, 1)]


def contents(cache: Path) -> dict[str, tuple]:
    """Name -> tensors and metadata but for the seconds and the place."""
    found = {}
    for path in (cache / "runs").glob("*.safetensors"):
        tensors, kept = store.read(path)
        history = {k: v for k, v in kept["history"].items() if k != "seconds"}
        found[path.name] = tensors, history
    return found


@pytest.fixture
def scheduler(tmp_path):
    """The address of a scheduler with two workers in processes of their own."""
    file, processes = tmp_path / "scheduler.json", []
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    common = [f"--scheduler-file={file}", "--no-dashboard"]
    worker = [*dask, "worker", *common, "--nthreads", "1", "--local-directory", str(tmp_path)]
    for command in ([*dask, "scheduler", "--port", "0", *common], worker, worker):
        processes.append(subprocess.Popen(command, **quiet))
    limit = time.time() + 60
    while not file.is_file() and time.time() < limit:
        time.sleep(0.2)
    yield json.loads(file.read_text())["address"], processes[1:]
    for process in processes:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def test_a_killed_worker_costs_time_and_no_result(tmp_path, scheduler):
    address, nannies = scheduler
    get(plan(tmp_path / "here"), scheduler="none", progress=False)
    killed = []

    def kill_one() -> None:
        """As soon as a run has left a checkpoint: whoever writes it is in the middle."""
        folder, limit = tmp_path / "there" / "runs", time.time() + 120
        while not list(folder.glob("*.checkpoint")) and time.time() < limit:
            time.sleep(0.02)
        for nanny in nannies:
            for child in psutil.Process(nanny.pid).children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    thread = threading.Thread(target=kill_one)
    thread.start()
    get(plan(tmp_path / "there"), scheduler=address, progress=False)
    thread.join()
    assert killed
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert here.keys() == there.keys() and len(here) == 4
    for name, (tensors, history) in here.items():
        assert history == there[name][1] and tensors.keys() == there[name][0].keys()
        assert all(torch.equal(tensors[k], there[name][0][k]) for k in tensors)
    assert {p.suffix for p in (tmp_path / "there" / "runs").iterdir()} == {".safetensors", ".lock"}
