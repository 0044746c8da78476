"""Multi-layer LaFTer: segments of blocks with prompts of their own, read at the end of each segment.

A segment's prompts enter where it starts and replace those of the segment before. Training goes from the deepest
segment to the shallowest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import Prompts, project, walk
from hc_lafter.systems.base import (
    Group,
    Output,
    Phase,
    System,
    choose,
    choose_layers,
    frozen,
    parameter_groups,
    prompt_tokens,
    split_epochs,
)
from hc_lafter.systems.nga import stages_nga

SEGMENTS = {  # layers counted from 1, for 12 blocks
    "ViT-B/32": ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11), (12,)),
    "ViT-B/16": ((6, 7, 8), (9, 10, 11), (12,)),  # blocks 1-5 stay without prompts
}
POOLED = ("cls", "patches")


@dataclass(frozen=True)
class MultiLayerConfig:
    """The settings of the design.

    Attributes:
        segments: layers of each, from shallow to deep, without a gap; for 12 blocks, and scaled for others by the rules
            of `hc_lafter.systems.depth`.
        tokens: P, prompt tokens per segment.
        prompt_start: a factor on their random start (`hc_lafter.systems.base.prompt_tokens`); 0 starts them at zero, as
            the design was written. Without a position, tokens that start equal stay equal: a segment then has one
            vector, P times.
        pooled: of each block, ``cls`` or ``patches``, the mean of its patch tokens.
        nga, sigma: see `hc_lafter.systems.nga.NGA`.
        lr: of prompts, classifier and segment weights. nga_lr: of the sigmas. weight_decay: AdamW's; sigmas have none.
    """

    segments: tuple[tuple[int, ...], ...] = SEGMENTS["ViT-B/32"]
    tokens: int = 16
    prompt_start: float = 1.0
    pooled: str = "cls"
    nga: str = "gaussian"
    sigma: float = 1.0
    lr: float = 1e-4
    nga_lr: float = 1e-5
    weight_decay: float = 0.01


class MultiLayerLaFTer(nn.Module):
    """Per segment: LN_post and projection of every block -> NGA -> unit length; their weighted sum -> classifier.

    Args:
        visual: the vision tower, never trained.
        classifier: [C, D], trained on texts.
        seed: of the prompts' start.

    Raises:
        ValueError: segments that are not a run of this tower's layers, or an unknown pooling or NGA kind.
    """

    def __init__(
        self,
        visual: nn.Module,
        classifier: Tensor,
        config: MultiLayerConfig = MultiLayerConfig(),
        *,
        seed: int = 0,
    ):
        super().__init__()
        choose_layers("segments", config.segments, visual)
        choose("pooled", config.pooled, POOLED)
        layers = [layer for segment in config.segments for layer in segment]
        if layers != list(range(layers[0], layers[-1] + 1)):
            raise ValueError(f"segments {config.segments} do not follow one another: leave no layer out between them.")
        self.config, self.visual, self.layers = config, frozen(visual), layers
        generator = torch.Generator().manual_seed(seed)
        self.prompts = nn.ParameterList(prompt_tokens(config.tokens, visual, generator) for _ in config.segments)
        for tokens in self.prompts:
            tokens.data *= config.prompt_start
        self.nga = stages_nga(config.segments, config.nga, config.sigma)
        self.segment_weights = nn.Parameter(torch.zeros(len(config.segments)))  # through a softmax: equal at the start
        self.classifier = nn.Parameter(classifier.detach().clone())

    def forward(self, x: Tensor) -> Output:
        """Images [B, 3, H, W]; ``stage_logits`` are those of each segment alone."""
        patches = self.config.pooled == "patches"
        prompts = Prompts({s[0] - 1: tokens for s, tokens in zip(self.config.segments, self.prompts, strict=True)})
        walked = walk(self.visual, x, layers=self.layers, patches=patches, prompts=prompts)
        tokens = torch.stack([t.mean(dim=1) for t in walked.patch_taps], dim=1) if patches else walked.cls
        parts = project(self.visual, tokens).split([len(s) for s in self.config.segments], dim=1)
        stages = torch.stack([F.normalize(nga(part), dim=-1) for nga, part in zip(self.nga, parts, strict=True)], dim=1)
        weights = self.segment_weights.softmax(dim=0)
        fused = (weights[:, None] * stages).sum(dim=1)
        return Output(fused @ self.classifier.T, stages @ self.classifier.T, weights, stages)

    def parameter_groups(self) -> list[Group]:
        """``segment 1`` (the shallowest) and so on, ``classifier``, ``fusion``, and ``nga`` where it has parameters."""
        lr, decay = self.config.lr, self.config.weight_decay
        parts = {f"segment {i}": ([tokens], lr, decay) for i, tokens in enumerate(self.prompts, start=1)}
        parts |= {"classifier": ([self.classifier], lr, decay), "fusion": ([self.segment_weights], lr, 0.0)}
        parts["nga"] = (list(self.nga.parameters()), self.config.nga_lr, 0.0)
        return parameter_groups(parts)

    def schedule(self, epochs: int = 8) -> list[Phase]:
        """First the deepest segment and the classifier, then the others one by one, then everything.

        Raises:
            ValueError: fewer than 3 epochs.
        """
        first, middle, last = split_epochs(epochs, (2, 3, 3))
        names = [f"segment {i}" for i in range(len(self.prompts), 0, -1)]  # from deep to shallow
        phases = [Phase("deepest segment", first, (names[0], "classifier"))]
        done = 1
        for epoch in range(middle):
            reached = 1 + round((epoch + 1) * (len(names) - 1) / middle)
            active = (*names[:reached], "classifier")
            if phases[-1].trains == active:  # fewer segments than epochs: the phase is longer
                phases[-1] = replace(phases[-1], epochs=phases[-1].epochs + 1)
            elif reached > done:
                phases.append(Phase(f"{reached} of {len(names)} segments", 1, active))
            done = reached
        everything = tuple(str(group["name"]) for group in self.parameter_groups())
        return [*phases, Phase("all", last, everything)]


SPEC = System(
    name="multi-layer LaFTer",
    colour="#56B4E9",
    reads="images",
    regimes=("label-free", "supervised"),
    config=MultiLayerConfig,
    build=lambda start, config, seed: MultiLayerLaFTer(start.visual, start.classifier, config, seed=seed),
    sources=("LaFTer's prompts per segment of blocks: this suite's own", "Mirza et al., NeurIPS 2023"),
    order=40,
)
VARIANTS = (
    SPEC.variant(
        "multi-layer LaFTer (B/16 segments)",
        settings={"segments": SEGMENTS["ViT-B/16"]},
        colour="#003B5C",
        regimes=("supervised",),
        order=41,
    ),
)
