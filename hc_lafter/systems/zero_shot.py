"""Zero-shot CLIP (Radford et al., ICML 2021, section 3.1): the bar that every adaptation has to clear.

Of pictures, and of pixels: the value path is what MaskCLIP reads (Zhou, Loy, Dai, ECCV 2022, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import project, value_path, walk
from hc_lafter.systems import Group, Masks, Output, frozen
from hc_lafter.systems.masks import mask_logits


@dataclass(frozen=True)
class ZeroShotConfig:
    """``source``: what the class texts are made of, one of `hc_lafter.clip.text.SOURCES`."""

    source: str = "templates"


class ZeroShot(nn.Module):
    """Cosine with one unit vector per class, times the logit scale; nothing to train.

    Args:
        visual: the vision tower.
        class_text: [C, D], `hc_lafter.clip.text.Texts.means`.
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


class ZeroShotMasks(nn.Module):
    """Each patch's cosine with one unit vector per class, bilinear to the picture; nothing to train.

    Args:
        visual: the vision tower.
        class_text: [C, D].
        values: read the last block's value path (MaskCLIP); False reads its plain output, as CLIP was trained.
        position: of the position embedding, see `hc_lafter.clip.vit.position_embedding`.
    """

    def __init__(self, visual: nn.Module, class_text: Tensor, *, values: bool = True, position: str = "bicubic"):
        super().__init__()
        self.visual, self.values, self.position = frozen(visual), values, position
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))

    def forward(self, images: Tensor) -> Masks:
        """[B, 3, H, W] -> cosines [B, C, H, W]."""
        depth = len(self.visual.transformer.resblocks)
        layer = depth - 1 if self.values else depth
        walked = walk(self.visual, images, layers=(layer,), patches=True, position=self.position, until=layer)
        tokens = walked.patch_taps[0]
        tokens = project(self.visual, value_path(self.visual, tokens) if self.values else tokens)
        return Masks(mask_logits(tokens, self.class_text, walked.grid, images.shape[-2:], scale=1.0))

    def parameter_groups(self) -> list[Group]:
        return []
