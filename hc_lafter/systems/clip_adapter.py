"""CLIP-Adapter (Gao et al., "CLIP-Adapter", IJCV 2024, section 3.2): a bottleneck behind the image tower.

ratio * A(x) + (1 - ratio) * x, then zero-shot's cosine; A is two matrices, D to D / 4 and back, a ReLU behind each and
no bias. As in the release (gaopengcuhk/CLIP-Adapter, commit 9ac913a) there is an adapter for images only and one ratio,
0.2; the paper also describes one for texts, and searches the ratio per data set. The release augments its images and
trains with its framework's SGD; here the features are computed once, the suite's AdamW trains, and the loss has the
votes' shares, as of every trained system here, beside the labels, which are all that the release has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems.base import Group, Output, Phase, System, frozen, parameter_groups, taps_of


@dataclass(frozen=True)
class ClipAdapterConfig:
    """Ratio and reduction are the release's; the rate is one for AdamW, where the release has SGD.

    Attributes:
        layers: the last alone, of 12 blocks or any other number (`hc_lafter.systems.depth`).
        ratio: the adapter's share; 0 is zero-shot.
        reduction: D / the bottleneck's width.
        lr, weight_decay: AdamW's.
    """

    layers: tuple[int, ...] = (12,)
    ratio: float = 0.2
    reduction: int = 4
    lr: float = 1e-3
    weight_decay: float = 0.01


class ClipAdapter(nn.Module):
    """Bottleneck adapter on the image feature -> cosine with the class texts, times the logit scale.

    Args:
        class_text: [C, D], `hc_lafter.clip.text.Texts.means`.
        logit_scale: the multiplier itself (100 for CLIP).
        seed: of the adapter's start, ``nn.Linear``'s.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, 1, D].
    """

    def __init__(
        self,
        visual: nn.Module,
        class_text: Tensor,
        logit_scale: float,
        config: ClipAdapterConfig = ClipAdapterConfig(),
        *,
        seed: int = 0,
    ):
        super().__init__()
        self.config, self.visual, self.logit_scale = config, frozen(visual), float(logit_scale)
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))
        generator, width = torch.Generator().manual_seed(seed), class_text.shape[1]
        inner = max(1, width // config.reduction)
        self.down, self.up = (
            nn.Parameter(torch.empty(rows, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=generator))
            for rows, columns in ((inner, width), (width, inner))
        )

    def forward(self, x: Tensor) -> Output:
        final = taps_of(self.visual, x, self.config.layers)[:, -1]
        adapted = F.relu(F.linear(F.relu(F.linear(final, self.down)), self.up))
        mixed = self.config.ratio * adapted + (1 - self.config.ratio) * final
        return Output(self.logit_scale * F.normalize(mixed, dim=-1) @ self.class_text.T)

    def parameter_groups(self) -> list[Group]:
        return parameter_groups({"adapter": ([self.down, self.up], self.config.lr, self.config.weight_decay)})

    def schedule(self, epochs: int) -> list[Phase]:
        return [Phase("adapter", epochs, ("adapter",))]


SPEC = System(
    name="CLIP-Adapter",
    colour="#738CE6",
    reads="taps",
    regimes=("supervised",),
    config=ClipAdapterConfig,
    build=lambda start, config, seed: ClipAdapter(start.visual, start.text, start.logit_scale, config, seed=seed),
    sources=("Gao et al., IJCV 2024, section 3.2", "github.com/gaopengcuhk/CLIP-Adapter, commit 9ac913a"),
    baseline=True,
    order=15,
    line="--",
)
