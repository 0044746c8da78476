"""HybridCascade-LaFTer: CLS of many layers, grouped in stages, read by one text-trained classifier.

Per stage NGA -> unit length -> stage adapter -> the shared classifier; the stage logits are fused by learned weights.
The grouping is Cascade-CLIP's (Li et al., ICML 2024), carried from pixels to the CLS token; the classifier is LaFTer's.
"""

from __future__ import annotations

from dataclasses import dataclass

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

CLASSIFIERS = ("shared", "independent")
FUSIONS = ("learned", "equal")


@dataclass(frozen=True)
class HybridCascadeConfig:
    """The settings of the design, each of which the ablations vary.

    Attributes:
        stages: layers of each stage, from shallow to deep, none in two stages; for 12 blocks, and scaled for others by
            the rules of `hc_lafter.systems.depth`.
        nga, sigma: see `hc_lafter.systems.nga.NGA`.
        stage_adapters: Linear(D, D) - ReLU - Linear(D, D) without biases, residual, zero at the start.
        classifier: ``shared`` by the stages, or ``independent`` copies that part in training.
        fusion: ``learned`` weights through a softmax, or ``equal`` ones.
        prompts: tokens at the input, as in LaFTer; 0 keeps the tower's features fixed, so that they are computed once.
        normalise: bring each stage's feature to unit length, that of the texts that the classifier was trained on. Raw
            features, ten times as long, saturate its softmax.
        lr: of stage adapters, fusion weights, classifier and prompts. nga_lr: of the sigmas.
        weight_decay: AdamW's; sigmas and fusion weights have none.
        consistency: weight of that loss in the last phase. distillation: of `losses.distillation`, in all phases.
    """

    stages: tuple[tuple[int, ...], ...] = ((5, 6, 7), (8, 9), (10, 11, 12))
    nga: str = "gaussian"
    sigma: float = 1.0
    stage_adapters: bool = True
    classifier: str = "shared"
    fusion: str = "learned"
    prompts: int = 0
    normalise: bool = True
    lr: float = 1e-4
    nga_lr: float = 1e-5
    weight_decay: float = 0.01
    consistency: float = 0.1
    distillation: float = 0.0

    @property
    def layers(self) -> list[int]:
        """The layers to tap, in stage order."""
        return [layer for stage in self.stages for layer in stage]


class HybridCascade(nn.Module):
    """Stages of CLS features -> NGA -> unit length -> adapters -> one classifier -> fused logits.

    Args:
        visual: the vision tower, never trained.
        classifier: [C, D], trained on texts.
        seed: of the adapters' first matrix and of the prompts.

    Raises:
        ValueError: stages that do not fit the tower, or an unknown kind of NGA, classifier or fusion.
    """

    def __init__(
        self,
        visual: nn.Module,
        classifier: Tensor,
        config: HybridCascadeConfig = HybridCascadeConfig(),
        *,
        seed: int = 0,
    ):
        super().__init__()
        choose_layers("stages", config.stages, visual)
        choose("classifier", config.classifier, CLASSIFIERS)
        choose("fusion", config.fusion, FUSIONS)
        if len(set(config.layers)) < len(config.layers):
            raise ValueError(f"stages {config.stages} must hold no layer twice.")
        self.config, self.visual = config, frozen(visual)
        generator, count, width = torch.Generator().manual_seed(seed), len(config.stages), classifier.shape[1]
        self.nga = stages_nga(config.stages, config.nga, config.sigma)
        self.adapters = nn.ModuleList(_StageAdapter(width, generator) for _ in config.stages if config.stage_adapters)
        self.fusion = nn.Parameter(torch.zeros(count)) if config.fusion == "learned" else None
        copies = count if config.classifier == "independent" else 1
        self.classifier = nn.Parameter(classifier.detach().expand(copies, -1, -1).clone())
        self.prompts = prompt_tokens(config.prompts, visual, generator) if config.prompts else None

    def forward(self, x: Tensor) -> Output:
        """Images [B, 3, H, W]; or, without prompts, projected CLS [B, L, D] of ``config.layers`` (`vit.project`).

        Raises:
            ValueError: taps for a system whose prompts change the tower's features.
        """
        if x.ndim == 3 and self.prompts is not None:
            raise ValueError("this HybridCascade has prompts, and taps are computed without them: give images.")
        taps = self.taps(x) if x.ndim == 4 else x
        features = []
        for index, stage in enumerate(taps.split([len(s) for s in self.config.stages], dim=1)):
            z = self.nga[index](stage)
            z = F.normalize(z, dim=-1) if self.config.normalise else z
            features.append(self.adapters[index](z) if self.adapters else z)
        features = torch.stack(features, dim=1)
        logits = torch.einsum("bsd,scd->bsc", features, self.classifier.expand(len(self.nga), -1, -1))
        weights = self.fusion_weights()
        return Output(torch.einsum("s,bsc->bc", weights, logits), logits, weights, features)

    def taps(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, L, D], CLS of ``config.layers`` in the shared space: LN_post(cls) @ P."""
        prompts = None if self.prompts is None else Prompts({0: self.prompts})
        return project(self.visual, walk(self.visual, images, layers=self.config.layers, prompts=prompts).cls)

    def fusion_weights(self) -> Tensor:
        """[S], which sum to one."""
        if self.fusion is None:
            return torch.full((len(self.nga),), 1 / len(self.nga), device=self.classifier.device)
        return self.fusion.softmax(dim=0)

    def watched(self) -> dict[str, Tensor]:
        """For the history, beside the losses: the weight of each layer in its stage, and each stage's sigma."""
        weights = zip(self.config.layers, torch.cat([nga.weights() for nga in self.nga]), strict=True)
        found = {f"weight of layer {layer}": weight for layer, weight in weights}
        sigmas = {stage: nga.sigma for stage, nga in zip(self.config.stages, self.nga, strict=True)}
        return found | {f"sigma of layers {s[0]}-{s[-1]}": v[0] for s, v in sigmas.items() if v is not None}

    def parameter_groups(self) -> list[Group]:
        """``adapters``, ``fusion``, ``classifier``, ``nga``, ``prompts``, those that the settings have."""
        lr, decay = self.config.lr, self.config.weight_decay
        return parameter_groups({
            "adapters": (list(self.adapters.parameters()), lr, decay),
            "fusion": ([] if self.fusion is None else [self.fusion], lr, 0.0),
            "classifier": ([self.classifier], lr, decay),
            "nga": (list(self.nga.parameters()), self.config.nga_lr, 0.0),
            "prompts": ([] if self.prompts is None else [self.prompts], lr, decay),
        })  # fmt: skip

    def schedule(self, epochs: int = 8) -> list[Phase]:
        """First adapters, fusion and classifier, then sigma too, then everything, with the consistency loss.

        Raises:
            ValueError: fewer than 3 epochs.
        """
        there = [str(group["name"]) for group in self.parameter_groups()]
        first, second, third = split_epochs(epochs, (3, 3, 2))
        base = {"task": 1.0} | ({"distillation": self.config.distillation} if self.config.distillation else {})
        heads = tuple(n for n in there if n in ("adapters", "fusion", "classifier"))
        sigma = tuple(n for n in there if n != "prompts")
        return [
            Phase("stage adapters", first, heads, base),
            Phase("sigma unfrozen", second, sigma, base),
            Phase("all, consistency", third, tuple(there), {**base, "consistency": self.config.consistency}),
        ]


class _StageAdapter(nn.Module):
    """z + A2 relu(A1 z), [B, D] -> [B, D]; A2 starts at zero, so that the feature starts unchanged."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        bound = width**-0.5  # as nn.Linear's, but drawn from our generator
        self.first = nn.Parameter(torch.empty(width, width).uniform_(-bound, bound, generator=generator))
        self.last = nn.Parameter(torch.zeros(width, width))

    def forward(self, z: Tensor) -> Tensor:
        return z + torch.relu(z @ self.first.T) @ self.last.T


SPEC = System(
    name="HybridCascade-LaFTer",
    colour="#D55E00",
    reads="taps",
    regimes=("label-free", "supervised"),
    config=HybridCascadeConfig,
    build=lambda start, config, seed: HybridCascade(start.visual, start.classifier, config, seed=seed),
    sources=("this suite's own", "stages: Li et al., ICML 2024", "text classifier: Mirza et al., NeurIPS 2023"),
    order=50,
)
VARIANTS = (
    SPEC.variant(
        "HybridCascade-LaFTer, prompts",
        settings={"prompts": 50},
        colour="#FFAD80",
        reads="images",
        regimes=("supervised",),
        order=51,
    ),
)
