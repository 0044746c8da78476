"""HybridCascade-LaFTer and the systems it grew from, for finding out what the layers of CLIP are good for.

The public names are those of `__all__`; what is not named there may change without notice. Each is imported when it is
first asked for, so that ``import hc_lafter`` is quick. ``__main__`` is the command line.

Seven rooms, imports one way: ``suite`` (what notebooks and the report need) -> ``tuning`` (features, views, the fit
loop) -> ``systems`` (one file each) -> ``clip`` (a CLIP in hand); ``data`` and ``analysis`` know none of them.
``embedded`` holds the shipped weights, their cards and what makes them again. ``files``, ``store`` and ``refusals``
belong to no room and are used by all; ``__main__`` is the command line. Axes have one letter everywhere: B images,
L layers, W tower width, D shared embedding size, N = h x w patches, C classes.
"""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # `python -m hc_lafter`, which puts the working folder first
    sys.path.append(sys.path.pop(0))  # a file there that is named like a library is no library

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("hc-lafter")

_MODULES = {  # public name -> module that has it, or is it
    "load_clip": "hc_lafter.clip.load",
    "open_data": "hc_lafter.data",
    "systems": "hc_lafter.systems",
    "tune": "hc_lafter.tuning.tune",
    "predict": "hc_lafter.systems.trained",
    "tap": "hc_lafter.tuning.features",
    "linear_probe": "hc_lafter.analysis.probe",
    "cka": "hc_lafter.analysis.cka",
    "lof": "hc_lafter.analysis.lof",
    "mean_iou": "hc_lafter.analysis.segmentation",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULES[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
