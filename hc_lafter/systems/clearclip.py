"""ClearCLIP (Lan et al., "Decomposing CLIP representations for dense vision-language inference", ECCV 2024).

No training. The last block without its residual and without its MLP, its attention by queries with queries (section
3.3): what is left is the attention's output alone. After the release (commit afe06b8), which reads larger windows than
others, names each class once and scores background with one word.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from hc_lafter.clip.vit import last_heads, last_out
from hc_lafter.systems.base import System
from hc_lafter.systems.last_block import LastBlock
from hc_lafter.systems.masks import Protocol, protocols

_LARGE = {"scale": 50.0, "short": 2.0, "window": 2.0, "stride": 1.0, "words": "clearclip"}
PROTOCOLS = protocols(Protocol(0.5, **_LARGE), Protocol(0.15, **_LARGE), Protocol(0.4, **_LARGE))


@dataclass(frozen=True)
class ClearCLIPConfig:
    """The release's settings.

    Attributes:
        position: see `hc_lafter.clip.vit.position_embedding`.
        logit_scale: factor on the cosines; it matters only where a probability threshold applies. The same for all of
            the release's data sets.
    """

    position: str = "bicubic_offset"
    logit_scale: float = 50.0


class ClearCLIP(LastBlock):
    """See the module; arguments as `LastBlock`."""

    def replaced(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        q, _, v = last_heads(self.visual, tokens)
        return last_out(self.visual, F.scaled_dot_product_attention(q, q, v))


SPEC = System(
    name="ClearCLIP",
    colour="#B15928",
    reads="masks",
    regimes=("no training",),
    config=ClearCLIPConfig,
    build=lambda start, config, seed: ClearCLIP(start.visual, start.text, config),
    sources=("Lan et al., ECCV 2024", "github.com/mc-lan/ClearCLIP, commit afe06b8"),
    protocols=PROTOCOLS,
    order=86,
)
