"""Zero-shot CLIP (Radford et al., ICML 2021, section 3.1): the baseline of every adaptation."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems.base import Group, Output, System, frozen, taps_of


@dataclass(frozen=True)
class ZeroShotConfig:
    """``layers``: the last alone."""

    layers: tuple[int, ...] = (12,)


class ZeroShot(nn.Module):
    """Cosine with one unit vector per class, times the logit scale; nothing to train.

    Args:
        visual: the vision tower.
        class_text: [C, D], `hc_lafter.clip.text.Texts.means`.
        logit_scale: the multiplier itself (100 for CLIP).

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, 1, D] of ``config.layers``.
    """

    def __init__(
        self, visual: nn.Module, class_text: Tensor, logit_scale: float, config: ZeroShotConfig = ZeroShotConfig()
    ):
        super().__init__()
        self.config, self.visual, self.logit_scale = config, frozen(visual), float(logit_scale)
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))

    def forward(self, x: Tensor) -> Output:
        final = taps_of(self.visual, x, self.config.layers)[:, -1]
        return Output(self.logit_scale * F.normalize(final, dim=-1) @ self.class_text.T)

    def parameter_groups(self) -> list[Group]:
        return []


SPEC = System(
    name="zero-shot",
    colour="#0072B2",
    reads="taps",
    regimes=("no training",),
    config=ZeroShotConfig,
    build=lambda start, config, seed: ZeroShot(start.visual, start.text, start.logit_scale, config),
    sources=("Radford et al., ICML 2021, section 3.1",),
    order=10,
)
