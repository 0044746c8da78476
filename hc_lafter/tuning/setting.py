"""What decides the material of a run: which CLIP, which data, how they are read. A value, so that it can be a key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Setting:
    """Which CLIP reads which data, and where that is computed.

    Attributes:
        clip: as `hc_lafter.load_clip` takes it.
        data, mask_data: as `hc_lafter.open_data` takes them. mask_split: which mask classes are unseen; None: the data
            set's only split.
        n_train, n_val, n_test: images per split.
        seeds: of runs; the first one is that of the data, too.
        on_error: ``raise`` or ``skip`` for an image that cannot be read.
        descriptions: sentences per class; None: the package's own.
        text_steps: that train a text classifier. text_noise: from which its noise is chosen.
        batch_size: images that go through a tower at once.
        precision: ``fp32`` or ``bf16``. device: as torch names it.
        threads: of the processor; 0 is torch's own choice.
        workers: processes that load images; 0 is the caller's own.
        cache: the folder of features and runs.
    """

    clip: str = "embedded"
    data: str = "world"
    mask_data: str = "world"
    mask_split: str | None = None
    n_train: int = 100_000
    n_val: int = 20_000
    n_test: int = 20_000
    seeds: tuple[int, ...] = (0,)
    on_error: str = "raise"
    descriptions: str | None = None
    text_steps: int = 400
    text_noise: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0)
    batch_size: int = 32
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    cache: Path | None = None

    @property
    def seed(self) -> int:
        return self.seeds[0]

    def autocast(self) -> torch.autocast:
        """The context in which a tower runs in this precision (nothing changes under fp32)."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16")
