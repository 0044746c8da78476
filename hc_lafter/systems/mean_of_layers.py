"""The mean of layers, read by the text-trained classifier: the baseline of every cascade.

With the last layer alone it is the text classifier itself, before or after tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems.base import Group, Output, Phase, System, frozen, taps_of


@dataclass(frozen=True)
class MeanOfLayersConfig:
    """``layers``: those averaged, for 12 blocks (`hc_lafter.systems.depth`). ``lr``, ``weight_decay``: AdamW's, for the
    classifier.
    """

    layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11, 12)
    lr: float = 1e-4
    weight_decay: float = 0.01


class MeanOfLayers(nn.Module):
    """The mean of the layers' projected CLS, at unit length, read by the text-trained classifier, which is tuned.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, L, D].
    """

    def __init__(
        self,
        visual: nn.Module,
        classifier: Tensor,
        config: MeanOfLayersConfig = MeanOfLayersConfig(),
    ):
        super().__init__()
        self.config, self.visual = config, frozen(visual)
        self.classifier = nn.Parameter(classifier.detach().clone())

    def forward(self, x: Tensor) -> Output:
        mean = taps_of(self.visual, x, self.config.layers).mean(dim=1)
        return Output(F.normalize(mean, dim=-1) @ self.classifier.T)

    def parameter_groups(self) -> list[Group]:
        lr, decay = self.config.lr, self.config.weight_decay
        return [{"name": "classifier", "params": [self.classifier], "lr": lr, "weight_decay": decay}]

    def schedule(self, epochs: int) -> list[Phase]:
        return [Phase("classifier", epochs, ("classifier",))]


SPEC = System(
    name="mean of layers",
    colour="#444444",
    reads="taps",
    regimes=("label-free", "supervised"),
    config=MeanOfLayersConfig,
    build=lambda start, config, seed: MeanOfLayers(start.visual, start.classifier, config),
    sources=("text classifier: Mirza et al., NeurIPS 2023, section 3.1",),
    order=20,
    line=":",
)
VARIANTS = (
    SPEC.variant(
        "text classifier",
        settings={"layers": (12,)},
        colour="#774433",
        regimes=("no training",),
        order=11,
        line="-",
    ),
    SPEC.variant("text classifier, tuned", settings={"layers": (12,)}, colour="#B98A6E", order=19, line="-"),
)
