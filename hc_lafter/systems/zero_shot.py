"""Zero-shot CLIP (Radford et al., ICML 2021, section 3.1): the bar that every adaptation has to clear."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems import Group, Output, frozen
from hc_lafter.vit import walk


@dataclass(frozen=True)
class ZeroShotConfig:
    """``source``: what the class texts are made of, one of `hc_lafter.text.SOURCES`."""

    source: str = "templates"


class ZeroShot(nn.Module):
    """Cosine with one unit vector per class, times the logit scale; nothing to train.

    Args:
        visual: the vision tower.
        class_text: [C, D], `hc_lafter.text.Texts.means`.
        logit_scale: the multiplier itself (100 for CLIP).

    ``forward`` takes images [B, 3, H, W] or the tower's final features [B, D].
    """

    def __init__(self, visual: nn.Module, class_text: Tensor, logit_scale: float):
        super().__init__()
        self.visual, self.logit_scale = frozen(visual), float(logit_scale)
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))

    def forward(self, x: Tensor) -> Output:
        final = walk(self.visual, x).final if x.ndim == 4 else x
        return Output(self.logit_scale * F.normalize(final, dim=-1) @ self.class_text.T)

    def parameter_groups(self) -> list[Group]:
        return []
