"""Runs notebooks of the chain one after the other or side by side, each as soon as those that it needs have run.

Side by side every notebook has a process of its own, which does what one run after the other does here: papermill, the
executed copy, the stamp. How many threads a kernel computes with is a value of the profile, so that the numbers do not
depend on how many ran beside it.
"""

from __future__ import annotations

import _thread
import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from hc_lafter.suite.runner import Notebook, NotebookFailed, Run

ROOM = 3 * 2**30  # bytes of memory that one kernel of the default profile takes at most
PATIENCE = 15  # seconds: longer than kernels need to shut down


class Terminated(KeyboardInterrupt):
    """SIGTERM, turned into what Ctrl-C is, so that kernels are shut down on the way out."""


def side_by_side(threads: int, notebooks: int) -> int:
    """How many notebooks this machine runs at once: by its cores, its free memory, and how many there are.

    Args:
        threads: of each kernel; 0 means that one notebook takes all cores.
    """
    if threads == 0:
        return 1
    from joblib import cpu_count  # knows of containers and affinities; here, since it takes a while to import

    return max(1, min(cpu_count() // threads, psutil.virtual_memory().available // ROOM, notebooks))


def run_notebooks(
    run: Run,
    selected: Sequence[Notebook],
    *,
    jobs: int = 1,
    minutes: Mapping[str, float] | None = None,
    force: bool = False,
    timeout: int | None = None,
) -> dict[str, str]:
    """Run what is not up to date, one printed line per notebook.

    Args:
        selected: in an order in which needs come first; ``jobs=1`` keeps it.
        jobs: how many run at once. From 2 on that notebook starts first from which the way to the end of the chain is
            longest (list scheduling on the critical path: Graham, "Bounds on multiprocessing timing anomalies", SIAM
            Journal on Applied Mathematics 17, 1969).
        minutes: number -> about how long it takes, for that order; 1 where none is given.
        force: run what is up to date, too.
        timeout: limit in seconds for one cell; None = none.

    Returns:
        Number -> name of those that did not run.

    Raises:
        OSError: something cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; kernels and processes have ended.
    """
    waiting, failed, bar = list(selected), {}, sys.stderr.isatty()
    if jobs > 1:
        left = _way_to_the_end(selected, minutes or {})
        waiting.sort(key=lambda notebook: -left[notebook.number])
    # In a log the line says at once what is at work; on a terminal the bar does, and would wipe it out.
    lines = _Lines(len(selected), at_once=jobs == 1 and not bar)
    with _Beside(run, timeout, bar, jobs) if jobs > 1 else _Here(run, timeout, bar) as workers:
        while waiting or workers.busy:
            open_ = {notebook.number for notebook in [*waiting, *workers.busy]}
            ready = next((n for n in waiting if not open_.intersection(n.needs)), None)
            if ready is None or len(workers.busy) == jobs:
                for notebook, error, seconds in workers.finished():
                    outcome = f"ran in {seconds:.0f} s"
                    if error is not None:
                        failed[notebook.number] = notebook.name
                        copy = run.places(notebook).executed.relative_to(run.output).as_posix()
                        outcome = f"FAILED {error} (saved in {copy})"
                    lines.end(notebook, outcome)
                continue
            waiting.remove(ready)
            broken = [failed[number] for number in ready.needs if number in failed]
            if broken:
                failed[ready.number] = ready.name
                lines.end(ready, f"skipped, needs {', '.join(broken)}")
            elif not force and run.up_to_date(ready):
                lines.end(ready, "up to date, skipped (use --force)")
            else:
                lines.begin(ready)
                workers.start(ready)
    return failed


class _Lines:
    """What is printed: ``[1/9] 01-feature-tapping ... ran in 40 s``, numbered as they end."""

    def __init__(self, of: int, at_once: bool):
        self.of, self.at_once, self.told, self.begun = of, at_once, 0, False

    def begin(self, notebook: Notebook) -> None:
        if self.at_once:
            print(f"[{self.told + 1}/{self.of}] {notebook.name} ...", end="", flush=True)
            self.begun = True

    def end(self, notebook: Notebook, outcome: str) -> None:
        self.told += 1
        head = "" if self.begun else f"[{self.told}/{self.of}] {notebook.name} ..."
        print(f"{head} {outcome}", flush=True)
        self.begun = False


def _way_to_the_end(selected: Sequence[Notebook], minutes: Mapping[str, float]) -> dict[str, float]:
    """Number -> minutes from its start until everything that waits for it can have run."""
    left: dict[str, float] = {}
    for notebook in reversed(selected):
        after = (left[other.number] for other in selected if notebook.number in other.needs)
        left[notebook.number] = minutes.get(notebook.number, 1) + max(after, default=0)
    return left


class _Here:
    """One notebook at a time, in this process."""

    def __init__(self, run: Run, timeout: int | None, bar: bool):
        self.run, self.timeout, self.bar = run, timeout, bar
        self.busy: list[Notebook] = []

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, notebook: Notebook) -> None:
        self.busy.append(notebook)

    def finished(self) -> list[tuple[Notebook, str | None, float]]:
        notebook, begun, error = self.busy[0], time.monotonic(), None
        try:
            self.run.execute(notebook, timeout=self.timeout, bar=self.bar)
        except NotebookFailed as failure:
            error = str(failure)
        self.busy.clear()
        return [(notebook, error, time.monotonic() - begun)]


class _Beside:
    """Several notebooks at once, a process for each; left early, all of them end first."""

    def __init__(self, run: Run, timeout: int | None, bar: bool, jobs: int):
        self.run, self.timeout, self.bar, self.jobs = run, timeout, bar, jobs
        self.context = multiprocessing.get_context("spawn")  # what every system has; a fork would share our threads
        self.at: dict[Connection, tuple[Notebook, Any, float, int]] = {}

    @property
    def busy(self) -> list[Notebook]:
        return [notebook for notebook, *_ in self.at.values()]

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        processes = [process for _, process, *_ in self.at.values()]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.1, deadline - time.monotonic()))
            process.kill()

    def start(self, notebook: Notebook) -> None:
        taken = {row for *_, row in self.at.values()}
        row = next(row for row in range(self.jobs) if row not in taken)  # of the terminal, for its bar
        ours, theirs = self.context.Pipe(duplex=False)
        given = (self.run, notebook, self.timeout, row if self.bar else None, theirs)
        process = self.context.Process(target=_in_a_process, args=given, name=notebook.name)
        process.start()
        theirs.close()  # or its end would not be seen
        self.at[ours] = (notebook, process, time.monotonic(), row)

    def finished(self) -> list[tuple[Notebook, str | None, float]]:
        ended = []
        for pipe in wait(list(self.at)):
            notebook, process, begun, _ = self.at[pipe]
            try:
                outcome = pipe.recv()
            except EOFError:
                process.join()
                outcome = f"its process ended by itself (exit status {process.exitcode}), most often for want of memory"
            process.join()
            del self.at[pipe]
            pipe.close()
            if isinstance(outcome, Exception):  # no failure of the notebook: as it would have been raised here
                raise outcome
            ended.append((notebook, outcome, time.monotonic() - begun))
        return ended


def _in_a_process(run: Run, notebook: Notebook, timeout: int | None, row: int | None, pipe: Connection) -> None:
    with contextlib.suppress(KeyboardInterrupt), terminable(only_sigterm=True):
        try:
            run.execute(notebook, timeout=timeout, bar=row is not None, row=row or 0)
            pipe.send(None)
        except NotebookFailed as failure:
            pipe.send(str(failure))
        except (OSError, ValueError) as error:
            pipe.send(error)


class terminable:
    """While it lasts, SIGTERM raises `Terminated` as Ctrl-C raises KeyboardInterrupt (only the main thread may say so).

    A signal that arrives inside somebody's callback can be swallowed there, and the run would go on as if nothing had
    been said. It is therefore said once more if the run has not ended after `PATIENCE` seconds.

    Args:
        only_sigterm: let Ctrl-C pass, which a terminal sends to every process of the run: the first of them hears it
            and ends the others.
    """

    def __init__(self, *, only_sigterm: bool = False):
        self.only_sigterm = only_sigterm

    def __enter__(self) -> None:
        self.before, self.again = {}, None
        if threading.current_thread() is threading.main_thread():
            # A function and not SIG_IGN, which the kernel would inherit, and could not be interrupted.
            pass_over = (lambda *_: None) if self.only_sigterm else self.end
            self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            signal.signal(signal.SIGINT, pass_over)
            signal.signal(signal.SIGTERM, self.end)

    def __exit__(self, *_: object) -> None:
        if self.again is not None:
            self.again.cancel()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def end(self, number: int, _: object) -> None:
        if self.again is None:
            self.again = threading.Timer(PATIENCE, self.repeat, (number,))
            self.again.daemon = True
            self.again.start()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    @staticmethod
    def repeat(number: int) -> None:
        if hasattr(signal, "pthread_kill"):  # wakes the main thread from a system call, too
            signal.pthread_kill(threading.main_thread().ident, number)
        else:
            _thread.interrupt_main(number)
