"""Damage of known place, to judge a repair by: patches moved in the features, or drowned in noise in the image.

B images, N patches, W width. Tensors in, tensors out; everything is drawn on the CPU from a seed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def places(batches: Iterable[tuple[int, int]], share: float, seed: int) -> list[Tensor]:
    """Per batch of (B, N): [B, N] bool, in each image the same number of random patches, ``share`` of N, at least 1."""
    rng, found = np.random.default_rng(seed), []
    for images, patches in batches:
        count = max(1, round(share * patches))
        drawn = np.stack([rng.permutation(patches)[:count] for _ in range(images)])
        found.append(torch.zeros(images, patches, dtype=torch.bool).scatter_(1, torch.from_numpy(drawn), True))
    return found


def moved(tokens: Tensor, at: Tensor, strength: float, seed: int) -> Tensor:
    """[B, N, W] with the tokens at [B, N] moved by ``strength`` times the median norm of all.

    They share one direction, drawn from the seed, as the outlier tokens of large towers share theirs.
    """
    towards = torch.randn(tokens.shape[-1], generator=torch.Generator().manual_seed(seed))
    towards = torch.nn.functional.normalize(towards, dim=0).to(tokens.device)
    out = tokens.clone()
    out[at.to(tokens.device)] += strength * tokens.norm(dim=2).median() * towards
    return out


def blended(images: Tensor, at: Tensor, patch: int, strength: float, seed: int) -> Tensor:
    """[B, 3, H, W] with the patches at [B, N] blended with noise: 0 leaves them, 1 leaves nothing of them."""
    b, _, height, width = images.shape
    pixels = at.reshape(b, 1, height // patch, width // patch)
    pixels = pixels.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(pixels, (1 - strength) * images + strength * noise, images)
