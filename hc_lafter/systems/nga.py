"""Neighborhood Gaussian Aggregation: the d layers of one stage become one feature.

Layers of a stage are numbered l = 1..d from shallow to deep; layer l is d - l + 1 steps from the stage's end:

    w_l = exp(-(d - l + 1)^2 / (2 sigma^2)),    Z = sum_l w_l H_l / sum_l w_l.

The idea is Cascade-CLIP's (Li et al., ICML 2024), whose release learns a free vector instead, initialised to
exp(-(d - l)^2 / 2) and never normalised: the kind ``free``. It counts from the deepest layer itself, one step less, and
so starts flatter: for d = 3 at sigma 1 the formula above gives [0.015, 0.180, 0.806]; the release's start, once
normalised, is [0.078, 0.348, 0.574].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hc_lafter.systems.base import choose

KINDS = ("gaussian", "gaussian_per_layer", "free", "mean", "last")

# The largest 1 / sigma^2 used, exp(60) = 1e26 or sigma = 1e-13: its products with the squared distances of any stage
# stay finite in fp32, and the weights there equal those of `last` to the bit.
_MAX_LOG_PRECISION = 60.0


def gaussian_weights(depth: int, sigma: float | Tensor) -> Tensor:
    """The normalised weights of a stage of ``depth`` layers, shallow to deep.

    Args:
        depth: d, layers in the stage.
        sigma: width in layers, above 0: one number, or a tensor or list of any shape.

    Returns:
        [d] float64 for one number, else [..., d]; sums to one. Exactly [0, ..., 0, 1] for a sigma near 0 and exactly
        1 / d each for a huge one.
    """
    return _weights(depth, torch.as_tensor(sigma, dtype=torch.float64).log().unsqueeze(-1))


class NGA(nn.Module):
    """One stage's aggregation, [B, d, ...] -> [B, ...].

    ==================== ========== ============================================================================
    kind                 parameters weights
    ==================== ========== ============================================================================
    gaussian             1          the formula above, one sigma
    gaussian_per_layer   d          the same with a sigma of its own for each layer
    free                 d          Cascade-CLIP's release: a free vector, not normalised, of either sign
    mean                 0          1 / d each (control)
    last                 0          the deepest layer alone (control)
    ==================== ========== ============================================================================

    The parameter is log sigma (``log_sigma``): an optimiser cannot make sigma negative, sigma 1 is exactly 0, and one
    step changes sigma by the same share at any width, as fits weights that depend on sigma through a ratio.
    The weights are a softmax, which subtracts the largest exponent first: the formula as written underflows to 0 / 0
    below sigma 0.07 in fp32, since even the deepest layer is one step away.

    Args:
        depth: d, layers in the stage.
        kind: one of the five.
        sigma: initial width in layers, for the two Gaussian kinds.

    Raises:
        ValueError: an unknown kind, a sigma that is not positive and finite, or one for a kind without sigma.
    """

    def __init__(self, depth: int, kind: str = "gaussian", sigma: float = 1.0):
        super().__init__()
        choose("NGA kind", kind, KINDS)
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma is {sigma}, but a width must be above 0 and finite, such as 1.0.")
        self.depth, self.kind = depth, kind
        if kind == "gaussian":
            self.log_sigma = nn.Parameter(torch.tensor([math.log(sigma)]))
        elif kind == "gaussian_per_layer":
            self.log_sigma = nn.Parameter(torch.full((depth,), math.log(sigma)))
        elif sigma != 1.0:
            raise ValueError(f"NGA kind {kind!r} has no sigma, but sigma is {sigma}: leave it out.")
        elif kind == "free":
            self.vector = nn.Parameter(torch.exp(-0.5 * (_distances(depth) - 1) ** 2))

    @property
    def sigma(self) -> Tensor | None:
        """Width in layers, [1] or [d], detached; None for kinds without one. May round to 0 or infinity."""
        return self.log_sigma.detach().exp() if self.kind.startswith("gaussian") else None

    def weights(self) -> Tensor:
        """[d], shallow to deep, at least fp32, gradient attached; sums to one except for ``free``."""
        if self.kind == "free":
            return self.vector.to(_at_least_fp32(self.vector.dtype))
        if self.kind == "mean":
            return torch.full((self.depth,), 1 / self.depth)
        if self.kind == "last":
            return torch.eye(self.depth)[-1]
        return _weights(self.depth, self.log_sigma.to(_at_least_fp32(self.log_sigma.dtype)))

    def forward(self, layers: Tensor) -> Tensor:
        """[B, d, D] (or [B, d, N, D], any axes behind d) -> [B, D] (or [B, N, D]) in the same dtype.

        Half precision is summed in fp32, autocast or not: weights rounded to bf16 no longer sum to one.
        """
        if self.kind == "last":
            return layers[:, -1]
        if self.kind == "mean":
            return layers.mean(dim=1)
        wide = _at_least_fp32(layers.dtype)
        weights = self.weights().to(wide).reshape(-1, *[1] * (layers.ndim - 2))
        return (weights * layers.to(wide)).sum(dim=1).to(layers.dtype)

    def extra_repr(self) -> str:
        sigma = "" if self.sigma is None else f", sigma={[round(s, 4) for s in self.sigma.tolist()]}"
        return f"{self.depth}, kind={self.kind!r}{sigma}"


def stages_nga(stages: Sequence[Sequence[int]], kind: str, sigma: float) -> nn.ModuleList:
    """One `NGA` per stage, from its layers; ``sigma`` is for the Gaussian kinds, the others have none."""
    start = {"sigma": sigma} if kind.startswith("gaussian") else {}
    return nn.ModuleList(NGA(len(stage), kind, **start) for stage in stages)


def _weights(depth: int, log_sigma: Tensor) -> Tensor:
    """[..., 1] or [..., d] -> [..., d]. Clamped rather than squared: 1 / sigma^2 = inf would make the softmax NaN."""
    precision = (-2 * log_sigma).clamp(max=_MAX_LOG_PRECISION).exp()
    distances = _distances(depth).to(log_sigma)
    return torch.softmax(-0.5 * distances**2 * precision, dim=-1)


def _distances(depth: int) -> Tensor:
    """[d]: d, ..., 2, 1."""
    return torch.arange(depth, 0, -1, dtype=torch.float32)


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
