"""NACLIP (Hajimiri, Ben Ayed, Dolz, "Pay attention to your neighbours", WACV 2025). No training.

The last block without its residual and without its MLP, its attention by keys with keys plus a Gaussian window around
each patch (sections 3.2 and 3.3). As in the release (commit 8865082) the window, 1 at its centre, is added to the
scores before the softmax: it prefers neighbours by a factor of e at most, so that sigma towards 0 prefers the patch
itself by that factor and no more, and sigma without end leaves plain attention by keys among the patches. CLS takes
part without a bonus. The release smooths its masks by ten steps of PAMR, which this does not: its paper's tables have
both, 58.9 of mIoU on VOC21 without, its README 64.1 with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import last_heads, last_out
from hc_lafter.systems.base import System
from hc_lafter.systems.last_block import LastBlock
from hc_lafter.systems.masks import Protocol, protocols

PROTOCOLS = protocols(*[Protocol(0.1)] * 3)


@dataclass(frozen=True)
class NACLIPConfig:
    """The release's settings.

    Attributes:
        sigma: standard deviation of the window, in patches.
        position: see `hc_lafter.clip.vit.position_embedding`.
        logit_scale: factor on the cosines; it matters only where a probability threshold applies. The same for all of
            the release's data sets.
    """

    sigma: float = 5.0
    position: str = "bicubic_offset"
    logit_scale: float = 40.0


class NACLIP(LastBlock):
    """See the module; arguments as `LastBlock`.

    Raises:
        ValueError: a sigma that is not above 0.
    """

    def __init__(self, visual: nn.Module, class_text: Tensor, config: NACLIPConfig = NACLIPConfig()):
        super().__init__(visual, class_text, config)
        if not config.sigma > 0:
            raise ValueError(f"NACLIP's sigma={config.sigma} makes no window: give a width in patches, above 0.")

    def replaced(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        k, v = last_heads(self.visual, tokens, "kv")
        near = F.pad(window(grid, self.config.sigma), (1, 0, 1, 0)).to(k)  # nothing for CLS
        return last_out(self.visual, F.scaled_dot_product_attention(k, k, v, near))


def window(grid: tuple[int, int], sigma: float) -> Tensor:
    """[N, N], exp(-d^2 / (2 sigma^2)) of all pairs of places of a grid (h, w), d their distance in patches."""
    places = torch.cartesian_prod(*(torch.arange(float(side)) for side in grid))
    return torch.exp(-(places[:, None] - places).square().sum(dim=-1) / (2 * sigma**2))


SPEC = System(
    name="NACLIP",
    colour="#33A02C",
    reads="masks",
    regimes=("no training",),
    config=NACLIPConfig,
    build=lambda start, config, seed: NACLIP(start.visual, start.text, config),
    sources=("Hajimiri, Ben Ayed, Dolz, WACV 2025", "github.com/sinahmr/NACLIP, commit 8865082"),
    protocols=PROTOCOLS,
    order=87,
)
