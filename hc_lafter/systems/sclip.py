"""SCLIP (Wang, Mei, Yuille, "Rethinking self-attention for dense vision-language inference", ECCV 2024). No training.

Correlative self-attention in the last block (section 3.2): queries attend to queries and keys to keys, and the two
weightings are added. As in the release (commit d84d4ab) they are not halved, so that a token's weights sum to two;
CLS takes part, and residual and MLP stay. The release can smooth its masks (PAMR) and does so nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from hc_lafter.clip.vit import last_heads, last_mlp, last_out
from hc_lafter.systems.base import System
from hc_lafter.systems.last_block import LastBlock
from hc_lafter.systems.masks import Protocol, protocols

PROTOCOLS = protocols(Protocol(0.1, area=0.1, scale=65.0), Protocol(0.1, scale=50.0), Protocol(0.1, scale=50.0))


@dataclass(frozen=True)
class SCLIPConfig:
    """The release's settings.

    Attributes:
        position: see `hc_lafter.clip.vit.position_embedding`.
        logit_scale: factor on the cosines; it matters only where a probability threshold applies.
    """

    position: str = "bicubic_offset"
    logit_scale: float = 40.0


def preset(tower: str, data: str = "", depth: int | None = None) -> SCLIPConfig:
    """The release's settings, which depend on the data set and not on the tower."""
    return SCLIPConfig(logit_scale=PROTOCOLS[data].scale) if data in PROTOCOLS else SCLIPConfig()


class SCLIP(LastBlock):
    """See the module; arguments as `LastBlock`."""

    def replaced(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        q, k, v = last_heads(self.visual, tokens)
        heads = F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
        return last_mlp(self.visual, tokens + last_out(self.visual, heads))


SPEC = System(
    name="SCLIP",
    colour="#6A3D9A",
    reads="masks",
    regimes=("no training",),
    config=SCLIPConfig,
    preset=preset,
    build=lambda start, config, seed: SCLIP(start.visual, start.text, config),
    sources=("Wang, Mei, Yuille, ECCV 2024", "github.com/wangf3014/SCLIP, commit d84d4ab"),
    protocols=PROTOCOLS,
    order=85,
)
