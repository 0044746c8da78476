"""The bars that multi-layer tuning has to clear: the linear probe, and the plain mean of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.analysis.probe import ProbeResult, linear_probe
from hc_lafter.clip.vit import project, walk
from hc_lafter.systems import Group, Output, PhaseRow, frozen


@dataclass(frozen=True)
class LinearProbeConfig:
    """``layers``: those whose projected CLS are joined end to end. ``cs``: the grid of C, chosen on validation."""

    layers: tuple[int, ...] = (12,)
    cs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)


class LinearProbe(nn.Module):
    """Logistic regression on frozen features (Radford et al., ICML 2021, section 3.2; Alain & Bengio, 2017).

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, L, D] of ``config.layers``. Fitted by `fit`, not by the
    training loop.
    """

    def __init__(self, visual: nn.Module, result: ProbeResult, config: LinearProbeConfig):
        super().__init__()
        self.config, self.visual, self.c = config, frozen(visual), result.c
        self.register_buffer("weight", torch.as_tensor(result.weight, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor(result.bias, dtype=torch.float32))

    @classmethod
    def fit(
        cls,
        visual: nn.Module,
        train: tuple[Tensor, Tensor],
        val: tuple[Tensor, Tensor],
        config: LinearProbeConfig = LinearProbeConfig(),
        *,
        classes: int,
    ) -> LinearProbe:
        """From taps [B, L, D] and labels [B] of both splits; C is chosen on ``val``.

        Raises:
            ValueError: as `analysis.probe.linear_probe`.
        """
        (x, y), (val_x, val_y) = ((taps.flatten(1), labels) for taps, labels in (train, val))
        return cls(visual, linear_probe(x, y, val_x, val_y, val_x, cs=config.cs, classes=classes), config)

    def forward(self, x: Tensor) -> Output:
        taps = _taps(self.visual, x, self.config.layers) if x.ndim == 4 else x
        return Output(F.linear(taps.flatten(1), self.weight, self.bias))

    def parameter_groups(self) -> list[Group]:
        return []


@dataclass(frozen=True)
class MeanOfLayersConfig:
    """``layers``: which are averaged. ``lr``, ``weight_decay``: AdamW's, for the classifier."""

    layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11, 12)
    lr: float = 1e-4
    weight_decay: float = 0.01


class MeanOfLayers(nn.Module):
    """The mean of the layers' projected CLS, at unit length, read by the text-trained classifier, which is tuned.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, L, D]. With one layer it is tuning the classifier alone.
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
        taps = _taps(self.visual, x, self.config.layers) if x.ndim == 4 else x
        return Output(F.normalize(taps.mean(dim=1), dim=-1) @ self.classifier.T)

    def parameter_groups(self) -> list[Group]:
        lr, decay = self.config.lr, self.config.weight_decay
        return [{"name": "classifier", "params": [self.classifier], "lr": lr, "weight_decay": decay}]

    def schedule(self, epochs: int) -> list[PhaseRow]:
        return [("classifier", epochs, ("classifier",), {"task": 1.0})]


def _taps(visual: nn.Module, images: Tensor, layers: Sequence[int]) -> Tensor:
    return project(visual, walk(visual, images, layers=layers).cls)
