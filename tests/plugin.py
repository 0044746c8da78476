"""A system in a package of its own, as a user would write it: a scalar mix of layers, known by an entry point."""

from __future__ import annotations

from pathlib import Path

SCALAR_MIX = '''\
"""Scalar mix (Peters et al., NAACL 2018, section 3.2): a softmax weight for each layer, read by the text classifier."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hc_lafter.systems import Output, Phase, System
from hc_lafter.systems.base import frozen, parameter_groups, taps_of


@dataclass(frozen=True)
class ScalarMixConfig:
    layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11, 12)
    lr: float = 1e-4
    weight_decay: float = 0.01


class ScalarMix(nn.Module):
    def __init__(self, visual, classifier, config):
        super().__init__()
        self.config, self.visual = config, frozen(visual)
        self.mix = nn.Parameter(torch.zeros(len(config.layers)))
        self.classifier = nn.Parameter(classifier.detach().clone())

    def forward(self, x):
        taps = taps_of(self.visual, x, self.config.layers)
        mixed = (self.mix.softmax(0)[:, None] * taps).sum(dim=1)
        return Output(F.normalize(mixed, dim=-1) @ self.classifier.T)

    def parameter_groups(self):
        lr, decay = self.config.lr, self.config.weight_decay
        return parameter_groups({"mix": ([self.mix], lr, 0.0), "classifier": ([self.classifier], lr, decay)})

    def schedule(self, epochs):
        return [Phase("all", epochs, ("mix", "classifier"))]


SPEC = System(
    name="scalar mix",
    colour="#7F7F00",
    reads="taps",
    regimes=("supervised",),
    config=ScalarMixConfig,
    build=lambda start, config, seed: ScalarMix(start.visual, start.classifier, config),
    sources=("Peters et al., NAACL 2018, section 3.2",),
)
'''


def installed(folder: Path) -> Path:
    """Lay the package out in a folder as pip would; the folder belongs on the path."""
    info = folder / "scalar_mix-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "scalar_mix.py").write_text(SCALAR_MIX, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scalar-mix\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[hc_lafter.systems]\nscalar-mix = scalar_mix\n", encoding="utf-8")
    return folder
