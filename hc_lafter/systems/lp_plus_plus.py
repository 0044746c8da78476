"""LP++ (Huang et al., "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP", CVPR 2024): a probe with texts.

A class's weight vector is w_c + alpha_c t_c, a visual prototype and a multiple of the class's text. Cross-entropy on
unit features is convex in both and the text is redundant where w is free, so the start and the steps decide: w starts
at the class means, alpha at 250 times the mean cosine of images with their class's text, and the step sizes follow from
the data, which leaves no rate to choose. As in the release (FereshteShakeri/FewShot-CLIP-Strong-Baseline, commit
4d1b771) w moves by full-batch gradient steps of 4 n / lambda_max(F^T F) with momentum 0.9, and alpha at every tenth of
them by n / (4 max_c sum_i (f_i t_c)^2). *The release* starts w at the classes' sums, which grow with the number of
images, has a bias that the paper lacks, and never clears alpha's gradient, so that alpha moves by the sum of all before
it; none of the three is followed. The iterate is chosen on validation, as there; of equals the release takes the last,
this one the first. Alone of the trained baselines it aims at labels, not at the votes' shares, as does the linear
probe.

The release takes 300 steps. Here these are the fewest: twice as many are taken, and so on, for as long as the best
validation accuracy gains by more than half a standard error, as every other system is trained
(`hc_lafter.tuning.convergence`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems.base import Group, Output, Start, System, frozen, taps_of

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LPPlusPlusConfig:
    """The settings of the release.

    Attributes:
        layers: the last alone, of 12 blocks or any other number (`hc_lafter.systems.depth`).
        steps: the fewest, each over all training images. doublings: how often as many again are taken while that helps;
            0 is the release's. alpha_every: steps of w for one of alpha.
        alpha: its start, as a multiple of the mean cosine.
        momentum: of w's steps.
    """

    layers: tuple[int, ...] = (12,)
    steps: int = 300
    doublings: int = 4
    alpha_every: int = 10
    alpha: float = 250.0
    momentum: float = 0.9


class LPPlusPlus(nn.Module):
    """x (w_c + alpha_c t_c) with unit x; fitted by `fit`, not by the training loop.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, 1, D].
    """

    def __init__(self, start: Start, config: LPPlusPlusConfig = LPPlusPlusConfig()):
        super().__init__()
        self.config, self.visual = config, frozen(start.visual)
        text = F.normalize(start.text, dim=-1)
        self.register_buffer("class_text", text)
        self.register_buffer("weight", torch.zeros_like(text))
        self.register_buffer("alpha", torch.zeros(len(text)))

    @classmethod
    def fit(cls, start: Start, train: Pair, val: Pair, config: LPPlusPlusConfig = LPPlusPlusConfig()) -> LPPlusPlus:
        """From taps [B, 1, D] and labels [B] of both splits; ``val`` chooses the iterate, the start among them."""
        system = cls(start, config)
        (x, y), (val_x, val_y) = ((F.normalize(taps[:, -1], dim=-1), labels) for taps, labels in (train, val))
        text = system.class_text.to(x)
        own = F.one_hot(y, len(text)).to(x)
        cosines, images = x @ text.T, own.sum(dim=0)
        weight = own.T @ x / images.clamp(min=1)[:, None]
        of_classes = (own * cosines).sum(dim=0)[images > 0] / images[images > 0]
        alpha = config.alpha * of_classes.mean() * torch.ones_like(images)
        step = 4 * len(x) / torch.linalg.eigvalsh(x.T @ x)[-1]
        alpha_step = len(x) / (4 * cosines.square().sum(dim=0).amax()).clamp(min=1e-12)  # texts of zeros have no cosine
        velocity, best, before, mark = torch.zeros_like(weight), -1.0, None, config.steps
        for count in range(config.steps * 2**config.doublings + 1):
            accuracy = (_logits(val_x, weight, alpha, text).argmax(dim=1) == val_y).double().mean().item()
            if accuracy > best:
                best = accuracy
                system.weight, system.alpha = weight.clone(), alpha.clone()
            if count == mark:
                error = (best * (1 - best) / len(val_y)) ** 0.5
                if before is not None and best - before <= error / 2:
                    break
                before, mark = best, 2 * mark
            surplus = (_logits(x, weight, alpha, text).softmax(dim=1) - own) / len(x)
            velocity = config.momentum * velocity + surplus.T @ x
            weight = weight - step * velocity
            if (count + 1) % config.alpha_every == 0:
                alpha = alpha - alpha_step * (surplus * cosines).sum(dim=0)
        return system

    def forward(self, x: Tensor) -> Output:
        unit = F.normalize(taps_of(self.visual, x, self.config.layers)[:, -1], dim=-1)
        return Output(_logits(unit, self.weight, self.alpha, self.class_text))

    def parameter_groups(self) -> list[Group]:
        return []


def _logits(unit: Tensor, weight: Tensor, alpha: Tensor, text: Tensor) -> Tensor:
    return unit @ (weight + alpha[:, None] * text).T


SPEC = System(
    name="LP++",
    colour="#730007",
    reads="taps",
    regimes=("supervised",),
    config=LPPlusPlusConfig,
    build=lambda start, config, seed: LPPlusPlus(start, config),
    fit=lambda start, config, train, val: LPPlusPlus.fit(start, train, val, config),
    sources=("Huang et al., CVPR 2024", "github.com/FereshteShakeri/FewShot-CLIP-Strong-Baseline, commit 4d1b771"),
    baseline=True,
    order=13,
    line="--",
)
