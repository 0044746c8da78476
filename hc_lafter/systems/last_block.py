"""What the training-free systems share that put attention of their own in the place of the last block's.

B images, N = h x w patches, W tower width, D embedding size, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import project, walk
from hc_lafter.systems.base import Group, Masks, frozen
from hc_lafter.systems.masks import mask_logits


@dataclass(frozen=True)
class Taps:
    """A batch behind inner layers of the tower: all that a training-free system needs.

    Attributes:
        cls: layer -> [B, W].
        patches: layer -> [B, N, W].
        grid: (h, w), rows and columns of patches.
        size: (height, width) of the logits in pixels.
    """

    cls: Mapping[int, Tensor]
    patches: Mapping[int, Tensor]
    grid: tuple[int, int]
    size: tuple[int, int]


class LastBlock(nn.Module):
    """The frozen tower up to its last block, `replaced` in that block's place, then each patch's cosine with a class.

    Args:
        visual: the vision tower, never trained.
        class_text: [C, D].
        config: with ``position``, see `hc_lafter.clip.vit.position_embedding`, and ``logit_scale``.
    """

    def __init__(self, visual: nn.Module, class_text: Tensor, config: Any):
        super().__init__()
        self.config, self.visual = config, frozen(visual)
        self.last = len(visual.transformer.resblocks) - 1  # the layer whose output enters the last block
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))

    def replaced(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """What a system makes of the tokens [B, 1 + N, W] that enter the last block: the same shape, not projected."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Masks:
        """[B, 3, H, W] -> ``logit_scale`` times the cosines, [B, C, H, W]."""
        return self.head(self.taps(images))

    def taps(self, images: Tensor) -> Taps:
        """[B, 3, H, W] through all blocks but the last."""
        layer, position = self.last, self.config.position
        walked = walk(self.visual, images, layers=(layer,), patches=True, position=position, until=layer)
        cls, patches = {layer: walked.cls[:, 0]}, {layer: walked.patch_taps[0]}
        return Taps(cls, patches, walked.grid, tuple(images.shape[2:]))

    def head(self, taps: Taps) -> Masks:
        """All that follows the tower; ``taps`` may have other layers, too."""
        tokens = torch.cat([taps.cls[self.last][:, None], taps.patches[self.last]], dim=1)
        features = project(self.visual, self.replaced(tokens, taps.grid)[:, 1:])
        scale = self.config.logit_scale
        return Masks(mask_logits(features, self.class_text, taps.grid, taps.size, scale=scale))

    def parameter_groups(self) -> list[Group]:
        return []
