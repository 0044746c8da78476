"""Runs the notebooks, as ``hc-lafter run`` does; `python run_all.py --help` prints how."""

import sys
from pathlib import Path

from hc_lafter.suite.chain import main

if __name__ == "__main__":
    sys.exit(main(root=Path(__file__).parent))
