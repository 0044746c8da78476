"""Tip-Adapter-F (Zhang et al., "Tip-Adapter", ECCV 2022, section 3): a cache of the training images beside zero-shot.

Keys are the training images' unit features, values their one-hot labels; an image's affinity to the keys is turned
into class scores, which are added to zero-shot's logits. Before any step this is the training-free Tip-Adapter; the F
tunes the keys. *The release* (gaopengcuhk/Tip-Adapter, commit 327763e) keeps the epoch that is best on the *test*
images, then searches alpha and beta on validation (200 x 20 values from 0.1 to, for DTD, 13), and reports the better of
the two test accuracies. Here validation chooses both. Three more things differ: the release's keys are means over ten
augmented views, its AdamW has an epsilon of 1e-4, and its loss knows labels alone, where this one has the votes' shares
as every other trained system here. Beyond `TipAdapterConfig.shots` images per class the values shrink, since alpha
would otherwise have to; the paper stops at 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems.base import Group, Output, Phase, Start, System, frozen, parameter_groups, taps_of

GRID = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0)
_AFFINITIES = 2**22  # held at once while alpha and beta are chosen


@dataclass(frozen=True)
class TipAdapterConfig:
    """The settings of the paper and its release.

    Attributes:
        layers: the last alone, of 12 blocks or any other number (`hc_lafter.systems.depth`).
        alpha: the cache's weight; 0 is zero-shot. beta: how sharply affinity counts. Both as in training.
        alphas, betas: from which validation chooses for given keys; nothing to choose from leaves both.
        shots: images per class from which on a class's values sum to this.
        lr, weight_decay: AdamW's, of the keys.
    """

    layers: tuple[int, ...] = (12,)
    alpha: float = 1.0
    beta: float = 1.0
    alphas: tuple[float, ...] = GRID
    betas: tuple[float, ...] = GRID
    shots: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.01


class TipAdapterF(nn.Module):
    """scale * x t_c + alpha * sum_i exp(-beta (1 - x k_i)) v_ic, with unit x; the keys k are tuned.

    Args:
        start: whose ``support`` holds the training images; without it the cache is empty until tensors are loaded.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, 1, D]. In training mode alpha and beta are the
    configuration's, whatever `settle` chose in between: the keys' gradient does not depend on when that was called.
    """

    def __init__(self, start: Start, config: TipAdapterConfig = TipAdapterConfig()):
        super().__init__()
        self.config, self.visual, self.logit_scale = config, frozen(start.visual), float(start.logit_scale)
        classes, width = start.text.shape
        empty = torch.zeros(0, 1, width), torch.zeros(0, dtype=torch.long)
        taps, labels = start.support() if start.support else empty
        values = F.one_hot(labels, classes).float()
        self.register_buffer("class_text", F.normalize(start.text, dim=-1))
        self.register_buffer("values", values * (config.shots / values.sum(dim=0).clamp(min=config.shots)))
        self.register_buffer("alpha", torch.tensor(config.alpha))
        self.register_buffer("beta", torch.tensor(config.beta))
        self.keys = nn.Parameter(F.normalize(taps[:, -1], dim=-1))
        self.register_load_state_dict_pre_hook(_as_large_as)

    def forward(self, x: Tensor) -> Output:
        unit = F.normalize(taps_of(self.visual, x, self.config.layers)[:, -1], dim=-1)
        alpha, beta = (self.config.alpha, self.config.beta) if self.training else (self.alpha, self.beta)
        return Output(self._zero_shot(unit) + alpha * self._cached(unit @ self.keys.T, beta))

    def _zero_shot(self, unit: Tensor) -> Tensor:
        return self.logit_scale * unit @ self.class_text.T

    def _cached(self, affinity: Tensor, beta: Tensor | float) -> Tensor:
        return torch.exp(beta * (affinity - 1)) @ self.values

    @torch.no_grad()
    def settle(self, taps: Tensor, labels: Tensor) -> None:
        """Choose alpha and beta by accuracy on validation images, taps [B, 1, D] and labels [B].

        The values of training stay unless others are better; of equals the first. It depends on the keys alone, not on
        an earlier choice, and takes some images at a time, so that their affinities to any cache fit the memory.
        """
        unit, config = F.normalize(taps[:, -1], dim=-1), self.config
        right = dict.fromkeys([(config.alpha, config.beta), *product(config.alphas, config.betas)], 0)
        rows = max(1, _AFFINITIES // max(1, len(self.keys)))
        for some, truth in zip(unit.split(rows), labels.split(rows), strict=True):
            affinity, plain = some @ self.keys.T, self._zero_shot(some)
            cached = {beta: self._cached(affinity, beta) for beta in {beta for _, beta in right}}
            for alpha, beta in right:
                right[alpha, beta] += ((plain + alpha * cached[beta]).argmax(dim=1) == truth).sum().item()
        alpha, beta = max(right, key=right.get)
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)

    def parameter_groups(self) -> list[Group]:
        return parameter_groups({"keys": ([self.keys], self.config.lr, self.config.weight_decay)})

    def schedule(self, epochs: int) -> list[Phase]:
        return [Phase("keys", epochs, ("keys",))]


def _as_large_as(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for a cache of another size: a saved system is built without its training images."""
    for name in ("keys", "values"):
        if prefix + name in tensors:
            own = getattr(module, name)
            own.data = own.new_empty(tensors[prefix + name].shape)


SPEC = System(
    name="Tip-Adapter-F",
    colour="#00BFA8",
    reads="taps",
    regimes=("supervised",),
    config=TipAdapterConfig,
    build=lambda start, config, seed: TipAdapterF(start, config),
    sources=("Zhang et al., ECCV 2022", "github.com/gaopengcuhk/Tip-Adapter, commit 327763e"),
    released_rate=True,
    baseline=True,
    order=14,
    line="--",
)
