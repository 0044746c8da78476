"""The linear probe: logistic regression on frozen features, the baseline of tuning with labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.analysis.probe import ProbeResult, linear_probe
from hc_lafter.systems.base import Group, Output, System, frozen, taps_of


@dataclass(frozen=True)
class LinearProbeConfig:
    """``layers``: their projected CLS are concatenated; 12 is the last one, whatever the depth. ``cs``: the grid of C,
    from which validation chooses.
    """

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

    @classmethod
    def empty(cls, visual: nn.Module, classes: int, config: LinearProbeConfig) -> LinearProbe:
        """A probe of zeros, to load weights into or to count."""
        weight, bias = torch.zeros(classes, visual.output_dim * len(config.layers)), torch.zeros(classes)
        return cls(visual, ProbeResult(None, None, float("nan"), {}, (), weight, bias), config)

    def forward(self, x: Tensor) -> Output:
        return Output(F.linear(taps_of(self.visual, x, self.config.layers).flatten(1), self.weight, self.bias))

    def parameter_groups(self) -> list[Group]:
        return []


SPEC = System(
    name="linear probe",
    colour="#000000",
    reads="taps",
    regimes=("supervised",),
    config=LinearProbeConfig,
    build=lambda start, config, seed: LinearProbe.empty(start.visual, len(start.text), config),
    fit=lambda start, config, train, val: LinearProbe.fit(start.visual, train, val, config, classes=len(start.text)),
    sources=("Radford et al., ICML 2021, section 3.2", "Alain & Bengio, ICLR workshop 2017"),
    order=12,
)
