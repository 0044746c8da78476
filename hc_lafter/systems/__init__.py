"""The systems that the suite compares, one file each, and the parts that they share.

A system's file holds a frozen dataclass of settings and an ``nn.Module`` around a frozen tower, and ends in its
``SPEC``, the entry from which every table, figure, cost and test knows it; another package adds one with an entry point
``hc_lafter.systems``. ``forward(x)`` takes images [B, 3, H, W], or projected CLS [B, L, D] where that can be computed
once, and returns an `Output` (`Masks` for segmentation). Shared parts: `base`, `nga`, `losses`, `regimes`, `masks`,
`last_block`; `trained` is a tuned system as a file. Nothing here opens a data set or runs a training loop.
B images, L layers, S stages, C classes, D embedding size.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from hc_lafter.refusals import nearest
from hc_lafter.systems.base import Group, Masks, Output, Phase, Start, System
from hc_lafter.systems.trained import Trained, load, save

__all__ = ["Group", "Masks", "Output", "Phase", "Start", "System", "Trained", "find", "load", "registry", "save"]

ENTRY_POINTS = "hc_lafter.systems"


@cache
def registry() -> dict[str, System]:
    """Every system by name, in the order of tables: this package's and those of other packages' entry points.

    Raises:
        ValueError: an entry point's module has no ``SPEC``, or two systems share a name.
    """
    ours = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    modules = [module for module in ours if hasattr(module, "SPEC")]
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        modules.append(module := point.load())
        if not isinstance(getattr(module, "SPEC", None), System):
            raise ValueError(f"the entry point {module.__name__} has no SPEC: end the module in SPEC = System(...).")
    found: dict[str, System] = {}
    for module in modules:
        for entry in (module.SPEC, *getattr(module, "VARIANTS", ())):
            if entry.name in found:
                raise ValueError(f"two systems are called {entry.name!r}: rename the one in {module.__name__}.")
            found[entry.name] = entry
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def find(name: str) -> System:
    """A system by its name.

    Raises:
        ValueError: the name is unknown; the nearest one is offered.
    """
    if name not in registry():
        raise ValueError(
            f"system {name!r} is unknown{nearest(str(name), registry())}: choose of {', '.join(registry())}."
        )
    return registry()[name]
