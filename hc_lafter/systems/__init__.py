"""The systems, one file each: a frozen dataclass of defaults and an ``nn.Module`` whose tower is frozen by default.

``forward(x)`` takes images [B, 3, H, W], or what the tower said of them where that can be computed once (each system
says what it takes), and returns an `Output`. ``parameter_groups()`` names what can be trained, in torch.optim's form;
``schedule(epochs)`` gives the phases as (name, epochs, groups in training, weight of each loss term).
B images, S stages, C classes, D embedding size.

Beside the systems live the parts that several of them share: `nga`, `losses`, `masks`, `windows`. Nothing here opens
data, runs a loop of training or knows the suite.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Group = dict[str, object]  # {"name", "params", "lr", "weight_decay"}: a parameter group of torch.optim
PhaseRow = tuple[str, int, tuple[str, ...], dict[str, float]]


@dataclass(frozen=True)
class Output:
    """What a system says of a batch.

    Attributes:
        logits: [B, C].
        stage_logits: [B, S, C], from the shallowest stage to the deepest; None for a system without stages.
        weights: [S], the fusion weights now.
        features: [B, S, D], what the classifier read.
    """

    logits: Tensor
    stage_logits: Tensor | None = None
    weights: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class Masks:
    """What a segmentation system says of a batch.

    Attributes:
        logits: [B, C, H, W], one map per class, at the input's size.
    """

    logits: Tensor


def frozen(visual: nn.Module, *, copied: bool = False) -> nn.Module:
    """The tower in eval mode, where nothing asks for a gradient.

    Systems that never train it share it, so that a hundred of them hold one; ``copied`` is for those that do.
    """
    return (copy.deepcopy(visual) if copied else visual).eval().requires_grad_(False)


def prompt_tokens(count: int, visual: nn.Module, generator: torch.Generator) -> nn.Parameter:
    """[P, W] drawn uniformly within v = sqrt(6 / (3 p^2 + W)), p the patch side in pixels (Jia et al., ECCV 2022).

    LaFTer's release has p = 16 at every patch size.
    """
    width, _, patch, _ = visual.conv1.weight.shape
    bound = (6 / (3 * patch * patch + width)) ** 0.5
    return nn.Parameter(torch.empty(count, width).uniform_(-bound, bound, generator=generator))


def parameter_groups(parts: Mapping[str, tuple[Sequence[nn.Parameter], float, float]]) -> list[Group]:
    """name -> (parameters, rate, weight decay) in torch.optim's form; a name without parameters is left out."""
    return [
        {"name": name, "params": list(params), "lr": lr, "weight_decay": decay}
        for name, (params, lr, decay) in parts.items()
        if len(params)
    ]


def split_epochs(epochs: int, shares: tuple[int, ...]) -> list[int]:
    """Epochs per phase in the proportion of ``shares``, each phase with one at least.

    Raises:
        ValueError: fewer epochs than phases.
    """
    if epochs < len(shares):
        raise ValueError(f"{epochs} epochs do not hold the {len(shares)} phases of this system: give {len(shares)}.")
    found = [max(1, round(epochs * share / sum(shares))) for share in shares]
    while sum(found) != epochs:  # rounding: what is over or short goes from or to the longest phase
        found[found.index(max(found))] += 1 if sum(found) < epochs else -1
    return found
