"""The systems, one file each, which ends in its ``SPEC``; a file added here, or by another package's entry point
``hc_lafter.systems``, appears in every table, figure, cost and test that lists systems.

A file holds a frozen dataclass of settings and an ``nn.Module`` whose tower is frozen by default. ``forward(x)`` takes
images [B, 3, H, W], or projected CLS [B, L, D] where that can be computed once, and returns an `Output` (`Masks` for
segmentation). Beside the systems live the parts that several share: `base`, `nga`, `losses`, `regimes`, `masks`.
Nothing here opens data, runs a loop of training or knows the suite.
B images, L layers, S stages, C classes, D embedding size.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from hc_lafter.refusals import nearest
from hc_lafter.systems.base import Group, Masks, Output, Phase, Start, System
from hc_lafter.systems.trained import Trained, load, save

__all__ = ["Group", "Masks", "Output", "Phase", "Start", "System", "Trained", "find", "load", "registry", "save"]

ENTRY_POINTS = "hc_lafter.systems"


@cache
def registry() -> dict[str, System]:
    """Every system by name, in the order of tables: those of this folder, then those of other packages' entry points.

    Raises:
        ValueError: an entry point's module has no ``SPEC``, or two systems share a name.
    """
    found: dict[str, System] = {}
    for module in _modules():
        for entry in (module.SPEC, *getattr(module, "VARIANTS", ())):
            if entry.name in found:
                raise ValueError(f"two systems are called {entry.name!r}: rename the one in {module.__name__}.")
            found[entry.name] = entry
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def find(name: str) -> System:
    """A system by its name.

    Raises:
        ValueError: there is none; the sentence names the nearest.
    """
    if name not in registry():
        raise ValueError(f"system {name!r} is unknown{nearest(name, registry())}: choose of {', '.join(registry())}.")
    return registry()[name]


@cache
def module_of(name: str) -> ModuleType:
    """The module in which a system stands."""
    entry = find(name)
    return next(m for m in _modules() if entry in (m.SPEC, *getattr(m, "VARIANTS", ())))


@cache
def _modules() -> tuple[ModuleType, ...]:
    ours = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    theirs = [point.load() for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: p.name)]
    lacking = [m.__name__ for m in theirs if not isinstance(getattr(m, "SPEC", None), System)]
    if lacking:
        raise ValueError(f"the entry point {lacking[0]} has no SPEC: end the module in SPEC = System(...).")
    return (*(m for m in ours if hasattr(m, "SPEC")), *theirs)
