"""Zero-shot CLIP on pixels through the last block's value path (MaskCLIP: Zhou, Loy, Dai, ECCV 2022, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import project, value_path, walk
from hc_lafter.systems.base import Group, Masks, System, frozen
from hc_lafter.systems.masks import PROTOCOLS, mask_logits


@dataclass(frozen=True)
class ValuePathConfig:
    """How patches are read.

    Attributes:
        values: through the last block's value path (MaskCLIP); False reads the block's output, as CLIP was trained.
        position: of the position embedding, see `hc_lafter.clip.vit.position_embedding`.
        logit_scale: factor on the cosines; it matters only where a probability threshold applies.
    """

    values: bool = True
    position: str = "bicubic"
    logit_scale: float = 1.0


def preset(tower: str, data: str = "", depth: int | None = None) -> ValuePathConfig:
    """The defaults, with the cosines scaled where the data set's protocol has thresholds."""
    return ValuePathConfig(logit_scale=PROTOCOLS[data].scale) if data in PROTOCOLS else ValuePathConfig()


class ValuePath(nn.Module):
    """Each patch's cosine with one unit vector per class, bilinear to the image; nothing to train.

    Args:
        visual: the vision tower.
        class_text: [C, D].
    """

    def __init__(self, visual: nn.Module, class_text: Tensor, config: ValuePathConfig = ValuePathConfig()):
        super().__init__()
        self.config, self.visual = config, frozen(visual)
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))

    def forward(self, images: Tensor) -> Masks:
        """[B, 3, H, W] -> ``logit_scale`` times the cosines, [B, C, H, W]."""
        depth = len(self.visual.transformer.resblocks)
        layer = depth - 1 if self.config.values else depth
        walked = walk(self.visual, images, layers=(layer,), patches=True, position=self.config.position, until=layer)
        tokens = walked.patch_taps[0]
        tokens = project(self.visual, value_path(self.visual, tokens) if self.config.values else tokens)
        scale, size = self.config.logit_scale, images.shape[-2:]
        return Masks(mask_logits(tokens, self.class_text, walked.grid, size, scale=scale))

    def parameter_groups(self) -> list[Group]:
        return []


SPEC = System(
    name="value path",
    colour="#0072B2",
    reads="masks",
    regimes=("no training",),
    config=ValuePathConfig,
    preset=preset,
    build=lambda start, config, seed: ValuePath(start.visual, start.text, config),
    sources=("Zhou, Loy, Dai, ECCV 2022, section 3.2",),
    order=82,
)
VARIANTS = (SPEC.variant("plain patches", settings={"values": False}, colour="#9BC3E0", order=84),)
