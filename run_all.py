"""Runs the notebooks, all of them or some, each in a kernel of its own, under one profile.

    python run_all.py                                  the whole chain, default profile; what is up to date is skipped
    python run_all.py --profile smoke                  its tiny twin
    python run_all.py --only 01 --param data=photos    one notebook on images of yours
    python run_all.py --check                          a fresh run beside the committed results
    python run_all.py --list                           which notebooks there are, and which would run

Results land in results/<profile>/<NN-name>/: metrics.json, timings.json and the executed notebook; figures in
figures/<profile>/<NN-name>/. Another --param writes to the same place: give --out to keep the committed results, or let
`git diff` show what moved. Relative paths count from the folder you are in. Kernels run the Python that runs this file,
whatever kernels are installed. Several notebooks run side by side where the machine has the cores for it, each on as
many threads as the profile says (one, as a rule), so that the numbers are those of --jobs 1. A notebook that fails is
saved as far as it got, marked at the cell; those that need it are skipped, the others go on. After Ctrl-C the next run
goes on with what was stopped.

Exit status: 0 every notebook ran (or was up to date), and under --check agrees; 1 one did not; 2 the request cannot be
met; 130 Ctrl-C; 143 ended from outside (SIGTERM).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hc_lafter.refusals import nearest
from hc_lafter.suite.paths import Places
from hc_lafter.suite.profiles import parse_value, profile_names
from hc_lafter.suite.runner import Notebook, Run, compare, find_chain, find_one
from hc_lafter.suite.schedule import Terminated, run_notebooks, side_by_side, terminable

# The chain as a graph: notebook -> notebooks whose artifacts it reads. A scheduler (dask, say) can take it as it is.
# Numbers of notebooks that are not on disk count for nothing; a notebook that is not named here needs none.
NEEDS: dict[str, tuple[str, ...]] = {
    "01": (),
    "02": (),
    "03": (),
    "04": ("03",),
    "05": ("03",),
    "06": ("04",),
    "07": (),
    "08": ("03",),
    "09": ("01", "02", "03", "04", "05", "06", "07", "08"),
}
# About how many minutes each takes in the default profile on one thread: several at once start in an order in which the
# last one ends early. Nothing else depends on them.
MINUTES = {"01": 1.3, "02": 1, "03": 1.3, "04": 10, "05": 10, "06": 1, "07": 2, "08": 6, "09": 0.3}
REPORT = "09-report"  # what it leaves becomes report.html


def parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    layout = argparse.RawDescriptionHelpFormatter
    this = argparse.ArgumentParser("run_all.py", description=summary, epilog=rest, formatter_class=layout)
    this.add_argument(
        "--profile", default="default", metavar="P", help=f"{', '.join(profile_names())} (default: default)"
    )
    which = this.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", default=[], metavar="NN", help="these notebooks alone")
    which.add_argument("--from", dest="start", metavar="NN", help="this notebook and all after it")
    this.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="a value of the profile given anew"
    )
    this.add_argument("--force", action="store_true", help="run what is up to date, too")
    this.add_argument(
        "--jobs", type=int, metavar="N", help="notebooks that run at once (default: as many as cores and memory allow)"
    )
    this.add_argument("--timeout", type=int, metavar="SECONDS", help="limit for one cell (default: none)")
    this.add_argument("--out", type=Path, metavar="DIR", help="what gets results and figures (default: the repository)")
    this.add_argument("--list", action="store_true", help="print the notebooks and run nothing")
    this.add_argument(
        "--check", action="store_true", help="run afresh elsewhere and compare with the results that are there"
    )
    return this


def main(
    argv: Sequence[str] | None = None,
    root: str | Path = Path(__file__).parent,
    needs: Mapping[str, Sequence[str]] = NEEDS,
) -> int:
    """Run the chain that lies in ``root / "notebooks"`` and return the exit status."""
    options = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an error message may hold signs that a Windows console lacks
    try:
        run, selected = prepare(options, Path(root).resolve(), needs)
        if options.list:
            return show(run, selected)
        with terminable():
            return check(run, selected, options) if options.check else work(run, selected, options)
    except Terminated:
        print("\nended from outside: the next run goes on from here.", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("\ninterrupted: the next run goes on from here.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def prepare(options: argparse.Namespace, root: Path, needs: Mapping[str, Sequence[str]]) -> tuple[Run, list[Notebook]]:
    """Everything that can be refused, refused before a kernel starts.

    Raises:
        ValueError: profile, notebook, parameter or what it points at is not usable.
    """
    names = profile_names()
    if options.profile not in names:
        near = nearest(options.profile, names)
        raise ValueError(f"profile {options.profile!r} is unknown{near}: choose one of {', '.join(names)}.")
    if options.timeout is not None and options.timeout < 1:
        raise ValueError(f"--timeout {options.timeout} leaves no time: give seconds from 1.")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs} runs nothing: give a whole number from 1.")
    chain = find_chain(root / "notebooks", needs)
    selected = chain
    if options.only:
        wanted = [find_one(chain, name) for name in options.only]
        selected = [notebook for notebook in chain if notebook in wanted]
    elif options.start:
        selected = chain[chain.index(find_one(chain, options.start)) :]
    for notebook in selected:
        if "profile" not in notebook.parameters:
            raise ValueError(
                f"{notebook.path.name} declares no profile in its parameters cell: add profile = 'default'."
            )
    overrides: dict[str, Any] = {}
    for text in options.param:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--param {text} has no value: write it as key=value.")
        overrides[key] = parse_value(key, value)
        if not any(key in notebook.parameters for notebook in selected):
            asked = ", ".join(notebook.name for notebook in selected)
            raise ValueError(f"--param {key} would change nothing: none of {asked} has {key} in its parameters cell.")
    # None means "as the profile says", which is what a notebook does when it is told nothing.
    overrides = {key: value for key, value in overrides.items() if value is not None}
    output = (
        Places.find(selected[0].name, options.profile, root).output if options.out is None else options.out.resolve()
    )
    run = Run(root, output, options.profile, overrides, chain)
    for notebook in selected:
        run.key(notebook)  # refuses paths that lead nowhere
    return run, selected


def show(run: Run, selected: Sequence[Notebook]) -> int:
    for notebook in selected:
        state = "up to date" if run.up_to_date(notebook) else "to run"
        needs = f" (needs {', '.join(notebook.needs)})" if notebook.needs else ""
        print(f"{notebook.name:24} {state:10} {notebook.title}{needs}")
    return 0


def work(run: Run, selected: Sequence[Notebook], options: argparse.Namespace) -> int:
    """Run what is not up to date; 1 if a notebook failed or was skipped for one that did."""
    failed = _run_all(run, selected, options, force=options.force)
    if failed:
        print(f"{len(failed)} of {len(selected)} did not run: {', '.join(sorted(failed.values()))}.")
    else:
        print(f"Figures are in figures/{run.profile}, metrics and executed notebooks in results/{run.profile}.")
    for notebook in selected:
        if notebook.name == REPORT and notebook.number not in failed:
            tell(run, notebook)
    return 1 if failed else 0


def tell(run: Run, notebook: Notebook) -> None:
    """Write the report of an executed notebook 09 and print what the ledger says and where the report lies.

    Raises:
        OSError: claims.json, which the notebook left, is gone, or the report cannot be written.
    """
    from hc_lafter.suite import claims, report  # here: nbconvert takes a second that --list should not wait for

    places = run.places(notebook)
    folder = places.results.parent
    records = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    path = report.write(places.executed, folder / "report.html")
    print(f"{claims.summary(records).splitlines()[0]}; the report is {path.relative_to(run.output).as_posix()}.")


def check(run: Run, selected: Sequence[Notebook], options: argparse.Namespace) -> int:
    """Run afresh, empty cache included, and what the selected ones need before them; 1 if one fails or differs."""
    wanted = {notebook.number for notebook in selected}
    for notebook in reversed(run.chain):
        wanted |= set(notebook.needs) if notebook.number in wanted else set()
    selected = [notebook for notebook in run.chain if notebook.number in wanted]
    elsewhere = Path(tempfile.mkdtemp(prefix="hc-lafter-check-"))
    fresh = Run(run.root, elsewhere, run.profile, run.overrides, run.chain, cache=elsewhere / "cache")
    agree = False
    try:
        failed = _run_all(fresh, selected, options, force=True)
        drifted = [_differs(run, fresh, notebook) for notebook in selected if notebook.number not in failed]
        agree = not failed and not any(drifted)
    finally:
        if agree or not any(elsewhere.glob("results/*/*/*")):
            shutil.rmtree(elsewhere, ignore_errors=True)
        else:
            print(f"the fresh results are in {elsewhere}")
    return 0 if agree else 1


def _differs(run: Run, fresh: Run, notebook: Notebook) -> bool:
    old, new = (side.places(notebook).metrics for side in (run, fresh))
    if not old.is_file():
        print(f"{notebook.name}: there is nothing to compare with: {old.relative_to(run.output)} is missing.")
        return True
    committed, found = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    lines, equal = compare(committed, found)
    verdict = f"DIFFERS in {len(lines)} places" if lines else "agrees"
    print(f"{notebook.name}: {verdict}, {equal} of {len(found)} records equal to the last digit")
    for line in lines:
        print(f"  {line}")
    return bool(lines)


def _run_all(run: Run, selected: Sequence[Notebook], options: argparse.Namespace, *, force: bool) -> dict[str, str]:
    """Run notebooks, one line each. Returns number -> name of those that did not run."""
    import filelock

    for notebook in selected:
        run.check_writable(notebook)
    jobs = options.jobs or side_by_side(run.threads, len(selected))
    lock = filelock.FileLock(run.places(selected[0]).state / f"run-{run.profile}.lock", timeout=0)
    try:
        with lock:
            return run_notebooks(run, selected, jobs=jobs, minutes=MINUTES, force=force, timeout=options.timeout)
    except filelock.Timeout:
        raise ValueError(f"another run of profile {run.profile} is at work here: wait for it, or end it.") from None


if __name__ == "__main__":
    sys.exit(main())
