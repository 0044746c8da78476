"""The notebooks of a profile in one process, one after the other: a chain for half the time, without kernels and files
of figures. `test_notebooks.py` and `test_full_profile.py` start it.

    python tests/one_process.py PROFILE drawn|undrawn [NUMBER ...] [KEY=VALUE ...]

What a notebook prints lands in ``HC_LAFTER_OUTPUT/<name>.txt``. Times are taken once, since they are no metric. A
figure is made at the width that has less room, so that what cannot be drawn fails, or not at all; no file of it is
written.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from timeit import timeit

import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from hc_lafter.analysis import costs
from hc_lafter.suite import plans, plots
from hc_lafter.suite.chain import REPORT
from hc_lafter.suite.paths import find_root
from hc_lafter.suite.profiles import parse_overrides
from hc_lafter.suite.runner import find_chain
from hc_lafter.suite.study import Study


def drawn(self, name, draw, *args, **kwargs):
    with plots.at_width("single"):
        plt.close(plots.fit(draw(*args, **kwargs)))


def main(profile: str, figures: str, *words: str) -> None:
    """Run the notebooks of these numbers, or all; without the report where figures are drawn, which wants their files.

    The error of a cell is raised.
    """
    os.chdir(root := find_root())
    numbers, params = ([w for w in words if ("=" in w) == with_value] for with_value in (False, True))
    given, figure = parse_overrides(params), Study.figure
    costs._in_turn = lambda functions, rounds: {name: [timeit(call, number=1)] for name, call in functions.items()}
    made = {"drawn": drawn, "undrawn": lambda *args, **kwargs: None}[figures]
    chain = [book for book in find_chain(root / "notebooks") if not numbers or book.number in numbers]
    chain = [book for book in chain if book.name != REPORT or figures == "undrawn"]
    plans.compute(profile, given, [notebook.name for notebook in chain], progress=False)
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    for notebook in chain:
        shell.reset()  # of all that the one before has left
        Study.figure = made if notebook.name != REPORT else figure  # it shows its own from the file
        with (Path(os.environ["HC_LAFTER_OUTPUT"]) / f"{notebook.name}.txt").open("w", encoding="utf-8") as file:
            for kind, source, tags in json.loads(notebook.code):
                if kind == "code":
                    with contextlib.redirect_stdout(file):
                        shell.run_cell(source).raise_error()
                if "parameters" in tags:
                    shell.push({"profile": profile, "overrides": {**notebook.overrides, **given}})


if __name__ == "__main__":
    main(*sys.argv[1:])
