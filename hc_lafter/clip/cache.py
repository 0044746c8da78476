"""`hc_lafter.store.cached` under its former name, for callers that still give shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hc_lafter.store import cached


def stored(
    folder: Path | None,
    inputs: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[], dict[str, Tensor]],
) -> tuple[str, dict[str, Tensor]]:
    """`cached`, with room for float32 tensors of these shapes."""
    return cached(folder, inputs, make, sum(4 * int(np.prod(shape)) for shape in shapes.values()))
