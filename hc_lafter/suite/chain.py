"""Runs the notebooks, all of them or some, one after the other, each in a kernel of its own, under one profile.

    hc-lafter run                                  the whole chain, default profile; what is up to date is skipped
    hc-lafter run --profile smoke                  its tiny twin
    hc-lafter run --only 01 --param data=photos    one notebook on images of yours
    hc-lafter run --check                          a fresh run beside the committed results
    hc-lafter run --list                           which notebooks there are, and which would run

`python run_all.py` in a checkout does the same. Results land in results/<profile>/<NN-name>/: metrics.json,
timings.json and the executed notebook; figures in figures/<profile>/<NN-name>/. Other values
(--param) go to results/<profile>+<hash>/ and leave the profile's results alone. Relative paths count from the folder
you are in. Kernels run the Python that runs this, whatever kernels are installed. A notebook that fails is saved as far
as it got, marked at the cell; those that need it are skipped, the others go on. After Ctrl-C the next run goes on with
what was stopped.

Exit status: 0 every notebook ran (or was up to date), and under --check agrees; 1 one did not; 2 the request cannot be
met; 130 Ctrl-C; 143 ended from outside (SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import filelock
from tqdm import tqdm

from hc_lafter.commands import Parser, print_anything, unheard
from hc_lafter.files import check_place
from hc_lafter.suite.paths import REPORT, Places, find_root
from hc_lafter.suite.profiles import load_profile, parse_overrides, profile_names
from hc_lafter.suite.records import key_of
from hc_lafter.suite.runner import Kernel, Notebook, NotebookFailed, Run, find_chain, find_one

# notebook -> notebooks whose files it reads, all with lower numbers; one that is not named here needs none
NEEDS: dict[str, tuple[str, ...]] = {"09": ("01", "02", "03", "04", "05", "06", "07", "08")}

# How far a fresh run may lie from the committed one: |fresh - committed| <= absolute + relative * |committed|.
TOLERANCES = {
    # Another processor adds in another order, and a prediction on the border flips: 0.02 is 20 images of 1,000.
    "fraction": (0.02, 0.0),
    # Counts of parameters, images, layers: nothing rounds them.
    "count": (0.0, 0.0),
    # Everything else (nats, cosines, ratios, deviations near zero): float32 through a few hundred optimiser steps.
    "": (1e-3, 0.05),
}
EXACT = ("n", "seeds", "unit")  # decided by the profile, not by arithmetic


class Terminated(KeyboardInterrupt):
    """SIGTERM, turned into what Ctrl-C is, so that the kernel is shut down on the way out."""


def parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    layout = argparse.RawDescriptionHelpFormatter
    this = Parser("hc-lafter run", description=summary, epilog=rest, formatter_class=layout)
    add = this.add_argument
    add("--profile", default="default", metavar="P", help=f"{', '.join(profile_names())} (default: %(default)s)")
    which = this.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", default=[], metavar="NN", help="these notebooks alone")
    which.add_argument("--from", dest="start", metavar="NN", help="this notebook and all after it")
    add(
        "--param",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a field of the profile",
    )
    add("--scheduler", metavar="ADDRESS", help="the Dask scheduler that training is sent to, such as tcp://host:8786")
    add("--force", action="store_true", help="run what is up to date, too")
    add("--timeout", type=int, metavar="SECONDS", help="limit for one cell (default: none)")
    add("--out", type=Path, metavar="DIR", help="the folder for results and figures (default: the repository)")
    add("--list", action="store_true", help="print the notebooks and run nothing")
    add("--check", action="store_true", help="run afresh elsewhere and compare with the results that are there")
    return this


def main(
    argv: Sequence[str] | None = None,
    root: str | Path | None = None,
    needs: Mapping[str, Sequence[str]] = NEEDS,
) -> int:
    """Run the notebooks of ``root / "notebooks"`` and return the exit status.

    Args:
        argv: the words after the command's name; None = those of this process.
        root: the repository; by default found as `hc_lafter.suite.paths.find_root` says.
        needs: number of a notebook -> numbers of those whose files it reads.
    """
    options = parser().parse_args(argv)
    print_anything()
    try:
        run, selected = prepare(options, Path(root or find_root()).resolve(), needs)
        if options.list:
            for notebook in selected:
                state = "up to date" if run.up_to_date(notebook) else "to run"
                needed = ", ".join(other.number for other in run.needed(notebook))
                after = f" (needs {needed})" if needed else ""
                print(f"{notebook.name:24} {state:10} {notebook.title}{after}", flush=True)
            return 0
        signal.signal(signal.SIGTERM, _terminate)
        return check(run, selected, options) if options.check else work(run, selected, options)
    except Terminated:
        print("\nended from outside: the next run goes on from here.", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("\ninterrupted: the next run goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return unheard()
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _terminate(*_: object) -> None:
    raise Terminated


def prepare(options: argparse.Namespace, root: Path, needs: Mapping[str, Sequence[str]]) -> tuple[Run, list[Notebook]]:
    """Everything that can be refused, refused before a kernel starts.

    Raises:
        ValueError: profile, notebook, parameter or what it points at is not usable.
    """
    load_profile(options.profile)
    if options.timeout is not None and options.timeout < 1:
        raise ValueError(f"--timeout {options.timeout} leaves no time: give seconds from 1.")
    chain = find_chain(root / "notebooks")
    selected = chain
    if options.only:
        wanted = [find_one(chain, name) for name in options.only]
        selected = [notebook for notebook in chain if notebook in wanted]
    elif options.start:
        selected = chain[chain.index(find_one(chain, options.start)) :]
    overrides = parse_overrides(options.param)
    output = options.out.resolve() if options.out else Places.find(chain[0].name, options.profile, root).output
    run = Run(root, output, options.profile, overrides, chain, needs, scheduler=options.scheduler)
    run.keys  # noqa: B018  refuses values that do not fit, and paths that lead nowhere
    run.check()
    return run, selected


def work(run: Run, selected: Sequence[Notebook], options: argparse.Namespace) -> int:
    """Run what is not up to date; 1 if a notebook failed or was skipped for one that did."""
    failed = execute(run, selected, force=options.force, timeout=options.timeout)
    if failed:
        print(f"{len(failed)} of {len(selected)} did not run: {', '.join(sorted(failed.values()))}.")
    else:
        folder = run.places(selected[0]).profile
        where = "" if run.output == run.root else f" of {run.output}"
        print(f"Figures are in figures/{folder}, metrics and executed notebooks in results/{folder}{where}.")
    for notebook in selected:
        if notebook.name == REPORT and notebook.number not in failed:
            _report(run, notebook)
            if run.output == run.root and run.places(notebook).profile == "default" and not failed:
                from hc_lafter.suite import readme  # here, since it brings pandas along

                if readme.wanted(run.root):
                    readme.renew(run.root)  # or its times would be another machine's
    return 1 if failed else 0


def execute(run: Run, selected: Sequence[Notebook], *, force: bool, timeout: int | None) -> dict[str, str]:
    """Compute what the notebooks read, then run them in order. Returns number -> name of those that did not run.

    Raises:
        ValueError: another run of the profile is at work in the same place.
        OSError: results, figures or working state cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the kernel has ended.
    """
    for place in map(run.places, selected):
        if run.cache is None:
            place.check()
        for folder in (place.results, place.figures, place.state, run.cache or place.cache):
            check_place(folder)
    failed: dict[str, str] = {}
    try:
        lock = filelock.FileLock(run.places(selected[0]).state / f"run-{run.profile}.lock").acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"another run of profile {run.profile} is at work here: wait for it, or end it.") from None
    kernels: dict[str, Kernel] = {}
    with lock, mock.patch.dict(os.environ, run.variables()), contextlib.ExitStack() as ends:
        ends.callback(lambda: [kernel.end() for kernel in kernels.values()])
        due = [notebook for notebook in selected if force or not run.up_to_date(notebook)]
        if due:
            from hc_lafter.suite.plans import compute  # here, since it brings torch along

            compute(run.profile, run.overrides, [notebook.name for notebook in due])
        bar = tqdm(selected, unit="notebook", leave=False, disable=not sys.stderr.isatty())
        for number, notebook in enumerate(bar, 1):
            head = f"[{number}/{len(selected)}] {notebook.name} ... "
            bar.set_description_str(notebook.name)
            if bar.disable:  # a log shows at once what is at work; on a terminal the bar does
                print(head, end="", flush=True)
            broken = [other.name for other in run.needed(notebook) if other.number in failed]
            if broken:
                outcome = f"skipped, needs {', '.join(broken)}"
            elif notebook not in due:
                outcome = "up to date, skipped (use --force)"
            else:
                for other in due[due.index(notebook) :][:2]:  # the next one gets ready on another core
                    kernels.setdefault(other.number, run.kernel(other, timeout=timeout))
                    with contextlib.suppress(Exception):  # what fails here fails again, and by name, in its turn
                        kernels[other.number].start()
                outcome = _outcome(run, notebook, kernels[notebook.number], bar)
            if outcome.startswith(("skipped", "FAILED")):
                failed[notebook.number] = notebook.name
            print(outcome, flush=True) if bar.disable else bar.write(head + outcome)
    return failed


def _outcome(run: Run, notebook: Notebook, kernel: Kernel, bar: tqdm) -> str:
    begun = time.monotonic()
    try:
        run.execute(notebook, kernel, on_cell=bar.set_postfix_str)
    except NotebookFailed as error:
        copy = run.places(notebook).failed.relative_to(run.output).as_posix()
        return f"FAILED {error} (saved in {copy})"
    return f"ran in {(time.monotonic() - begun) / 60:.1f} min"


def _report(run: Run, notebook: Notebook) -> None:
    """Write the report of an executed notebook 09; print the ledger's first line and where the report lies."""
    from hc_lafter.suite import claims, report  # here: nbconvert takes a second that --list should not wait for

    places = run.places(notebook)
    folder = places.results.parent
    records = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    path = report.make(places)
    print(f"{claims.summary(records).splitlines()[0]}; the report is {path.relative_to(run.output).as_posix()}.")


def check(run: Run, selected: Sequence[Notebook], options: argparse.Namespace) -> int:
    """Run afresh, empty cache included, and what the selected ones need before them; 1 if one fails or differs."""
    wanted = {other.number for notebook in selected for other in (notebook, *run.needed(notebook))}
    selected = [notebook for notebook in run.chain if notebook.number in wanted]
    elsewhere = Path(tempfile.mkdtemp(prefix="hc-lafter-check-"))
    fresh = replace(run, output=elsewhere, cache=elsewhere / "cache")
    wrong = execute(fresh, selected, force=True, timeout=options.timeout)
    for notebook in (notebook for notebook in selected if notebook.number not in wrong):
        old, new = (side.places(notebook).metrics for side in (run, fresh))
        if not old.is_file():
            lines, verdict = [], f"there is nothing to compare with: {old.relative_to(run.output)} is missing."
            wrong[notebook.number] = notebook.name
        else:
            committed, found = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
            lines, equal = compare(committed, found)
            verdict = f"DIFFERS in {len(lines)} places" if lines else "agrees"
            verdict += f", {equal} of {len(found)} records equal to the last digit"
            wrong |= {notebook.number: notebook.name} if lines else {}
        print("\n  ".join([f"{notebook.name}: {verdict}", *lines]))
    if wrong:
        print(f"the fresh results are in {elsewhere}")
        return 1
    shutil.rmtree(elsewhere)
    return 0


def compare(committed: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """What two runs' metrics do not agree on, within `TOLERANCES`.

    Args:
        committed, fresh: tidy records as `hc_lafter.suite.records.metric` makes them.

    Returns:
        One line per difference, and the number of records that are equal to the last digit.
    """
    old, new = ({key_of(row): row for row in rows} for rows in (committed, fresh))
    lines, equal = [], 0
    for key in dict.fromkeys([*old, *new]):
        name = " / ".join(part for part in key if part)
        if key not in old or key not in new:
            lines.append(f"{name}: only in the {'fresh' if key in new else 'committed'} run")
            continue
        equal += old[key] == new[key]
        absolute, relative = TOLERANCES.get(old[key]["unit"], TOLERANCES[""])
        for part in ("value", "low", "high", *EXACT):
            a, b = old[key][part], new[key][part]
            if part in EXACT or a is None or b is None:
                if a != b:
                    lines.append(f"{name}: {part} {b}, committed {a}")
            elif abs(b - a) > absolute + relative * abs(a):
                lines.append(f"{name}: {part} {b}, committed {a}, allowed {absolute + relative * abs(a):.3g} off")
    return lines, equal
