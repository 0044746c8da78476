"""What tuning asks of its caller: the values of a profile, and where and how to compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch


class Setting(Protocol):
    """Whatever has these; `hc_lafter.suite.study.Study` does.

    Attributes:
        notebook: a name for what is running, part of every checkpoint's.
        profile: values by name: the CLIP, the data set, sizes, epochs, batch sizes, worker processes.
        seed: of the data set.
        device, precision: where and how to compute.
        results, cache: folders.
    """

    notebook: str
    profile: Any
    seed: int
    device: torch.device
    precision: str
    results: Path
    cache: Path

    def autocast(self) -> torch.autocast:
        """The context in which a tower runs in this precision."""
        ...
