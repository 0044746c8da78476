"""The head of HybridCascade-LaFTer on every patch token: what it says of pixels. The grouping is Cascade-CLIP's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import project, walk
from hc_lafter.systems.base import Group, Masks, Phase, System, split_epochs
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig

DESIGN = HybridCascadeConfig()


class DenseHybridCascade(nn.Module):
    """The same head on every patch token in the place of CLS: what the hybrid says of pixels.

    The classifier is the class texts times the logit scale and stays as it is, so that a class without pixel labels can
    be named at all; stage adapters, NGA and fusion are trained. Patches of the last layer are the tower's plain ones,
    which CLIP never aligned with text; Cascade-CLIP reads the same, but behind deep prompts.

    Args:
        visual: the vision tower, never trained.
        text: [C, D], one vector per class; brought to unit length.
        seen: [C] bool, the classes whose pixels are labelled in training.
        logit_scale: the multiplier itself (100 for CLIP).
    """

    mask_loss = "cross-entropy"  # what a classifier of CLIP features is trained with, laid over the pixels

    def __init__(
        self,
        visual: nn.Module,
        text: Tensor,
        seen: Tensor,
        logit_scale: float,
        config: HybridCascadeConfig = DESIGN,
        *,
        seed: int = 0,
    ):
        super().__init__()
        if config.prompts or config.classifier != "shared":
            raise ValueError(
                "the dense head reads a frozen tower through one shared classifier: leave both as they are."
            )
        self.config = config
        self.head = HybridCascade(visual, logit_scale * F.normalize(text, dim=-1), config, seed=seed)
        self.head.classifier.requires_grad_(False)
        self.register_buffer("seen", seen.detach().bool())

    def forward(self, images: Tensor) -> Masks:
        """[B, 3, H, W] -> logits [B, C, H, W]."""
        head = self.head
        with torch.no_grad():
            walked = walk(head.visual, images, layers=self.config.layers, patches=True)
            taps = torch.stack([project(head.visual, tokens) for tokens in walked.patch_taps], dim=2)  # [B, N, L, D]
        logits = head(taps.flatten(0, 1)).logits.unflatten(0, taps.shape[:2])
        maps = logits.transpose(1, 2).unflatten(-1, walked.grid)
        return Masks(F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False))

    def parameter_groups(self) -> list[Group]:
        return [group for group in self.head.parameter_groups() if group["name"] != "classifier"]

    def schedule(self, epochs: int) -> list[Phase]:
        """The head's own first two phases: adapters and fusion, then sigma too. Pixels have no consistency loss."""
        there = tuple(str(group["name"]) for group in self.parameter_groups())
        first, second = split_epochs(epochs, (1, 1))
        heads = tuple(name for name in there if name != "nga")
        return [Phase("stage adapters", first, heads), Phase("sigma unfrozen", second, there)]


def _build(start, config, seed):
    return DenseHybridCascade(start.visual, start.text, start.seen, start.logit_scale, config, seed=seed)


SPEC = System(
    name="dense hybrid",
    colour="#D55E00",
    reads="masks",
    regimes=("inductive", "no training"),
    config=HybridCascadeConfig,
    build=_build,
    sources=("this suite's own", "Li et al., ICML 2024"),
    order=80,
)
