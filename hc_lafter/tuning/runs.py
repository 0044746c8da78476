"""Runs, and who computes them: this process, processes of this machine, or the workers of a Dask cluster.

`get` takes many runs and returns their results: from the store where they lie, otherwise computed. Notebooks share
runs, and a run that was cut off goes on from its checkpoint. Nothing here changes a number.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from hc_lafter.files import write_whole
from hc_lafter.tuning.computing import compute, set_threads
from hc_lafter.tuning.convergence import Choice, Score, Trial, search
from hc_lafter.tuning.material import gather
from hc_lafter.tuning.run import Result, Run, discard, failure, is_kept, missing, path_of, read_kept, surplus
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.texts import train_of_seed

__all__ = ["Result", "Run", "discard", "failure", "get", "missing", "surplus"]

_WORTH_WORKERS = 60.0  # estimated seconds of work below which starting processes takes longer than it saves
_HEARTBEAT = 60.0  # seconds between two lines of a log
_FIRST = 1e9  # the priority of what many runs wait for; that of a run is its cost in seconds
_KILLS = 10  # of workers that were at one run, after which the run is what kills them


def get(runs: Sequence[Run], *, scheduler: str | None = None, progress: bool = True) -> list[Result]:
    """The results of runs, in their order; what is missing is computed and kept.

    Args:
        scheduler: the address of a Dask scheduler; ``none`` computes in this process, ``local`` in processes of this
            machine, one per GPU or core; None: as the environment variable ``HC_LAFTER_SCHEDULER`` says, else as
            ``local`` where there is enough to do, else as ``none``.
        progress: show a bar.

    Raises:
        ValueError: a run failed; the sentence names it, and the others have been computed and kept.
        ConnectionError: the scheduler does not answer, or no longer; what was finished is kept.
    """
    paths = {run: path_of(run) for run in dict.fromkeys(runs)}
    missing = [run for run, path in paths.items() if path is None or not is_kept(path)]
    made = _compute_all(missing, scheduler, progress)
    return [made[run] if paths[run] is None else read_kept(run, paths[run]) for run in runs]


def _compute_all(runs: Sequence[Run], scheduler: str | None, progress: bool) -> dict[Run, Result]:
    """Every run computed, the longest first, so that no worker ends on one; those without a store are returned."""
    made, failed = {}, {}
    runs = sorted(runs, key=lambda run: -run.cost)
    wanted = scheduler or os.environ.get("HC_LAFTER_SCHEDULER")
    if any(run.setting.cache is None for run in runs):
        wanted = "none"  # workers answer through the store
    few = sum(run.cost for run in runs) < _WORTH_WORKERS or len(runs) < 2
    with _Count(runs, progress) as count:
        if wanted == "none" or (few and not wanted):
            for run in runs:
                count.show(str(run))
                try:
                    made[run] = compute(run, progress=count.watched and len(runs) < 3)  # of many one bar is enough
                except (ValueError, OSError, RuntimeError, MemoryError) as error:  # the others go on
                    failed[run] = _noted(run, f"{type(error).__name__}: {error}")
                count.add(run)
        elif runs:
            with _client(None if wanted == "local" else wanted, len(runs), progress) as client:
                for run, error in _spread(client, runs, count):
                    failed |= {run: _noted(run, error)} if error else {}
                    count.add(run)
    if failed:
        run, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed, first {run}: {error.removeprefix('ValueError: ')}")
    return made


def _noted(run: Run, error: str) -> str:
    """The reason why a run failed, which is kept beside the store until the run succeeds."""
    path = path_of(run)
    if path is not None:
        with suppress(OSError):  # a full disk, which may well be the reason; `get` raises it in any case
            write_whole(path.with_suffix(".failed"), f"{error}\n")
    return error


class _Count:
    """How many runs are done and how many minutes the others take: a bar, or a line a minute where none can be drawn.

    As long as rows of runs choose their rates and steps nobody knows how long that takes, nor the runs after it: then
    the trials are counted.

    Args:
        shown: False shows nothing.

    Attributes:
        choosing: rows that have not chosen.
        costs: of each run, as far as is known: a row's choice of steps may change it.
        spent: the cost of the trials that were computed.
    """

    def __init__(self, runs: Sequence[Run], shown: bool):
        self.runs, self.done, self.trials, self.choosing, self.began = runs, [], 0, 0, time.monotonic()
        self.costs, self.spent = {run: run.cost for run in runs}, 0.0
        layout = "{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"
        disable = None if shown and runs else True  # None: as the stream is a terminal or not
        self.bar = tqdm(total=len(runs), desc="runs", leave=False, bar_format=layout, disable=disable)
        self.watched, self.ended = not self.bar.disable, threading.Event()
        self.lines = threading.Thread(target=self._write, daemon=True) if shown and not self.watched and runs else None

    def __enter__(self) -> _Count:
        if self.lines:
            self.lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.bar.close()
        if self.lines:
            self.lines.join()

    def add(self, run: Run) -> None:
        self.done.append(run)
        self.bar.update()
        self.show()

    def try_out(self, cost: float) -> None:
        """One more trial is done; what was there already has cost nothing."""
        self.trials, self.spent = self.trials + 1, self.spent + cost
        self.show()

    def show(self, name: str = "") -> None:
        self.bar.set_postfix_str(", ".join(filter(None, (self.tried(), self.left(), name))))

    def tried(self) -> str:
        return f"{self.trials} trials of rates and steps" if self.choosing else ""

    def left(self) -> str:
        """From the time that the finished runs took, by what a run costs: the longest come first."""
        done, everything = (sum(self.costs[run] for run in some) for some in (self.done, self.runs))
        if not done or self.choosing:
            return ""
        minutes = (time.monotonic() - self.began) * (everything - done) / (done + self.spent) / 60
        return f"about {minutes:.0f} min left" if minutes >= 1 else "less than 1 min left"

    def _write(self) -> None:
        while not self.ended.wait(_HEARTBEAT):
            line = ", ".join(filter(None, (f"runs {len(self.done)}/{len(self.runs)}", self.tried(), self.left())))
            print(line, file=sys.stderr, flush=True)


def check_address(scheduler: str) -> None:
    """Refuse what can be no scheduler, before any work begins.

    Raises:
        ValueError: it is neither ``local`` nor ``none`` nor written like an address.
    """
    if not re.fullmatch(r"local|none|(tcp|tls|ucx|ucxx|ws|wss|inproc)://.+|[^/]+:\d+", scheduler):
        raise ValueError(
            f"the scheduler {scheduler!r} is no address: give one such as tcp://host:8786, or 'local' or 'none'."
        )


@contextmanager
def _client(address: str | None, most: int, progress: bool) -> Iterator[Any]:
    import dask  # seconds to import, and most calls find all they need
    from dask.distributed import Client, LocalCluster

    if address:
        check_address(address)
        try:
            with Client(address) as client:
                yield client
        except (OSError, CancelledError) as error:  # a run that fails raises nothing here
            raise ConnectionError(
                f"the scheduler {address} does not answer: finished runs are kept, and the others go on from their "
                "checkpoints when it runs again and they are asked for once more."
            ) from error
        return
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(most, gpus or cores)
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)
    dask.config.set({
        "distributed.scheduler.allowed-failures": _KILLS,
        "distributed.worker.daemon": False,  # a daemon could not start processes that load images
        # without MALLOC_TRIM_THRESHOLD_, under which glibc gives every large tensor's memory back at once: page faults
        # then take a third of the time
        "distributed.nanny.pre-spawn-environ": one,
    })  # fmt: skip
    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        if gpus > 1:
            client.register_plugin(_own_gpu(gpus))
        if progress:
            drawn = importlib.util.find_spec("bokeh")  # without it Dask serves no dashboard, whatever link it gives
            where = f"dashboard {cluster.dashboard_link}" if drawn else f"scheduler {cluster.scheduler_address}"
            tqdm.write(f"Runs are computed by {count} worker{'s' * (count > 1)}: {where}")
        yield client


def _own_gpu(gpus: int) -> Any:
    """What gives each worker, a restarted one too, a GPU of its own: before its first use of CUDA it sees no other."""
    from dask.distributed import WorkerPlugin

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")

    class OwnGPU(WorkerPlugin):
        name = "own-gpu"

        def setup(self, worker: Any) -> None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(worker.name)]

    return OwnGPU()


def _spread(client: Any, runs: Sequence[Run], count: _Count) -> Iterator[tuple[Run, str]]:
    """(run, "" or why it failed) as they are done; before it whatever several share, and the trials of rates and steps.

    No row of runs waits for the trials of another, and those that read masks share nothing with the others.
    """
    from dask.distributed import KilledWorker, as_completed, wait

    rows: dict[Run | None, list[Run]] = {}  # those that share their trials, under one that stands for all of these
    for run in runs:
        rows.setdefault(None if run.to_choose is None else run.trial(None, 1), []).append(run)
    scores: dict[Run, dict[Trial, Score]] = {row: {} for row in rows if row is not None}
    count.choosing = len(scores)
    of: dict[Any, tuple[Run, Run | None, Trial | None, float]] = {}
    under_way = as_completed()

    def submit(run: Run, row: Run | None = None, pair: Trial | None = None) -> None:
        future = client.submit(_kept, run, run.key, key=f"run-{run.key}", priority=run.cost)
        of[future] = run, row, pair, run.cost if missing([run]) else 0.0
        under_way.add(future)

    def go_on(row: Run) -> None:
        ahead = search(rows[row][0].to_choose, scores[row])
        if isinstance(ahead, Choice):
            count.choosing -= 1
            for run in rows[row]:
                count.costs[run] = replace(run, until=replace(run.until, steps=ahead.steps)).cost
                submit(run)
        else:
            for pair in ahead if not any(about[1] is row for about in of.values()) else ():
                submit(rows[row][0].trial(*pair), row, pair)

    def begin(masks: bool) -> None:
        for run in rows.get(None, ()):
            if masks == (run.entry.reads == "masks"):
                submit(run)
        for row in scores:
            if masks == (row.entry.reads == "masks"):
                go_on(row)

    texted = (run for run in runs if run.classifier != "templates" and run.entry.reads != "masks")
    settings = dict.fromkeys(run.setting for run in texted)
    shared = [(setting, seed) for setting in settings for seed in setting.seeds]
    # what fails here fails again, and by name, in the runs that need it
    gathering = [client.submit(_gathered, setting, pure=False, priority=_FIRST) for setting in settings]
    begin(masks=True)
    wait(gathering)
    wait([client.submit(train_of_seed, *one, pure=False, priority=_FIRST) for one in shared])
    begin(masks=False)
    for future in under_way:
        if future.cancelled():  # as all are when the scheduler is gone
            raise CancelledError
        run, row, pair, cost = of.pop(future)
        error = future.exception()
        if row is None:
            if isinstance(error, KilledWorker):
                error = RuntimeError("every worker that was at it was killed, perhaps for want of memory")
            yield run, "" if error is None else f"{type(error).__name__}: {error}"
            continue
        count.try_out(cost)
        if error is not None:
            count.choosing -= row in rows
            for waiting in rows.pop(row, ()):  # it fails again, and by name, in the runs that need it
                submit(waiting)
        elif row in rows:
            result = read_kept(run, path_of(run))
            scores[row][pair] = result.score, result.error, result.converged
            go_on(row)


def _gathered(setting: Setting) -> None:
    set_threads(setting)
    gather(setting)


def _kept(run: Run, key: str) -> None:
    if run.key != key:
        raise ValueError("this worker has other code, data or libraries than who asked: restart the workers.")
    compute(run)
