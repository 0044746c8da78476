"""The head of HybridCascade-LaFTer on every patch token in the place of CLS, which gives a class per pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import project, walk
from hc_lafter.systems.base import Group, Masks, Phase, System, split_epochs
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig


class DenseHybridCascade(nn.Module):
    """Patches of each layer -> HybridCascade's head, patch by patch -> maps, bilinear to the image.

    The classifier is the class texts times the logit scale and is not trained, so that a class without pixel labels can
    be predicted at all; stage adapters, NGA and fusion are trained. Patches of the last layer are the tower's plain
    ones, which CLIP never aligned with text; Cascade-CLIP reads the same, but behind deep prompts.

    Args:
        visual: the vision tower, never trained.
        text: [C, D], one vector per class; brought to unit length.
        seen: [C] bool, the classes whose pixels are labelled in training.
        logit_scale: the multiplier itself (100 for CLIP).

    Raises:
        ValueError: a configuration with prompts or with independent classifiers.
    """

    mask_loss = "cross-entropy"  # the usual loss of a classifier of CLIP features, at every pixel

    def __init__(
        self,
        visual: nn.Module,
        text: Tensor,
        seen: Tensor,
        logit_scale: float,
        config: HybridCascadeConfig,
        *,
        seed: int = 0,
    ):
        super().__init__()
        if config.prompts or config.classifier != "shared":
            raise ValueError("the dense hybrid has a frozen tower and one shared classifier: leave both as they are.")
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
        """The head's own first two phases, adapters and fusion, then sigma too, without a consistency loss."""
        there = tuple(str(group["name"]) for group in self.parameter_groups())
        first, second = split_epochs(epochs, (1, 1))
        heads = tuple(name for name in there if name != "nga")
        return [Phase("stage adapters", first, heads), Phase("sigma unfrozen", second, there)]


SPEC = System(
    name="dense hybrid",
    colour="#D55E00",
    reads="masks",
    regimes=("inductive", "no training"),
    config=HybridCascadeConfig,
    build=lambda start, config, seed: DenseHybridCascade(
        start.visual, start.text, start.seen, start.logit_scale, config, seed=seed
    ),
    sources=("this suite's own", "Li et al., ICML 2024"),
    order=80,
)
