"""Runs the notebooks, as ``hc-lafter run`` does; `python run_all.py --help` prints how."""

import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
if os.path.abspath(sys.path[0]) == ROOT:
    del sys.path[0]  # a file here that is named like a library is no library

from importlib.machinery import PathFinder  # noqa: E402
from importlib.util import module_from_spec  # noqa: E402

# The package beside this file, whichever one is installed.
spec = PathFinder.find_spec("hc_lafter", [ROOT])
sys.modules["hc_lafter"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["hc_lafter"])

from hc_lafter.suite.chain import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(root=ROOT))
