"""Builds the API reference from the docstrings: ``uv run python docs/build.py [DIR]``; a warning is an error."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import hc_lafter


def main(out: Path = Path("site")) -> int:
    """Write one page per module into a folder. Returns 0, or 1 where pdoc warned of anything."""
    names = [m.name for m in pkgutil.walk_packages(hc_lafter.__path__, "hc_lafter.") if not m.name.endswith("__main__")]
    for name in ("hc_lafter", *names):  # imported before warnings count: those of other libraries are not ours
        module = importlib.import_module(name)
        if public := getattr(module, "__all__", None):  # pdoc shows a package's modules only where they are listed
            for lazy in public:
                setattr(module, lazy, getattr(module, lazy))
            inner = [other.rpartition(".")[2] for other in names if other.rpartition(".")[0] == name]
            module.__all__ = [*public, *(other for other in inner if other not in public)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pdoc.pdoc("hc_lafter", output_directory=out)
    for warning in found:
        print(warning.message, file=sys.stderr)
    print(f"{out / 'index.html'}: {len(list(out.rglob('*.html')))} pages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
