"""Layers on towers of any depth: settings name those of a ViT-B's 12 blocks, and these rules find them in another.

*Share of the depth.* What ends behind layer l of 12 ends behind layer l * depth / 12, rounded, half up. A layer that
stands by itself is the one at its share; a run of layers, and each of the groups that stages, segments and levels are,
goes from behind the share of the layer before it to the share of its own last. So groups that follow one another do so
on every tower, and what reached to the last layer does.

*The last layer alone* stays the last layer alone: a group (12,) is (depth,), and the group before it reaches up to it.

What counts layers and not depth, such as NGA's sigma, stays as it is. With 12 blocks nothing changes. Settings that a
user gives are layers of the tower at hand and are taken as they are. No paper of these systems but SC-CLIP's has
settings for another depth: see `hc_lafter.systems.sc_clip.released`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

BLOCKS = 12
FEWEST = 5  # blocks that have room for every system's groups
GROUPED = ("stages", "segments", "levels")  # fields of a configuration; `layers` is one group, or layers one by one


def share(layer: int, depth: int, of: int = BLOCKS) -> int:
    """The layer of ``depth`` blocks at the share of the depth that ``layer`` has ``of`` blocks; 0 is the input."""
    return math.floor(layer * depth / of + 0.5)


def check_fewest(name: str, depth: int) -> None:
    """Raises ValueError: a tower, called ``name``, with fewer than `FEWEST` blocks."""
    if depth < FEWEST:
        raise ValueError(
            f"{name} has {depth} blocks, too few for the designs' stages and segments: take a tower of {FEWEST} or "
            "more."
        )


def scaled(config: Any, depth: int) -> Any:
    """A configuration for 12 blocks on a tower of ``depth``: its stages, segments, levels and layers by the rules.

    Raises:
        ValueError: the tower is too shallow for its groups.
    """
    if depth == BLOCKS:
        return config
    found: dict[str, Any] = {}
    for name in _layered(config):
        groups = getattr(config, name)
        found[name] = _groups(groups, depth) if name in GROUPED else _layers(groups, depth)
        if name in GROUPED and not all(found[name]):
            raise ValueError(f"{depth} blocks have no room for the {name} {groups}, made for 12: take a deeper tower.")
    return replace(config, **found)


def check_layers(config: Any, depth: int) -> None:
    """Raises ValueError: a configuration names layers that a tower of ``depth`` blocks lacks."""
    for name in _layered(config):
        value = getattr(config, name)
        layers = [layer for group in value for layer in group] if name in GROUPED else value
        wrong = [layer for layer in layers if not 1 <= layer <= depth]
        if wrong:
            raise ValueError(f"{name}: layer {wrong[0]} is not one of this tower's, choose from 1 to {depth}.")


def _layered(config: Any) -> list[str]:
    return [f.name for f in fields(config) if f.name in (*GROUPED, "layers")]


def _groups(groups: Sequence[Sequence[int]], depth: int) -> tuple[tuple[int, ...], ...]:
    alone = (BLOCKS,) in [tuple(group) for group in groups]

    def end(layer: int) -> int:
        return depth - 1 if alone and layer == BLOCKS - 1 else share(layer, depth)

    return tuple(tuple(range(end(group[0] - 1) + 1, end(group[-1]) + 1)) for group in groups)


def _layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    first, last = layers[0], layers[-1]
    if len(layers) > 1 and list(layers) == list(range(first, last + 1)):
        return tuple(range(share(first - 1, depth) + 1, share(last, depth) + 1))
    return tuple(dict.fromkeys(max(1, share(layer, depth)) for layer in layers))
