"""Scalar mix (Peters et al., "Deep contextualized word representations", NAACL 2018, section 3.2).

gamma * sum_l s_l h_l with s a softmax over layers and gamma a gain: a number per layer and one more, and so the natural
rival of every other way to weigh layers. Tenney et al. (ACL 2019, section 3.1) read from s where in a network something
is known. AllenNLP's release can normalise each layer first; here LN_post has done so. It is trained as every system
here is, on labels and the votes' shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.systems.base import Group, Output, Phase, System, frozen, parameter_groups, taps_of


@dataclass(frozen=True)
class ScalarMixConfig:
    """``layers``: those mixed, for 12 blocks (`hc_lafter.systems.depth`). ``lr``, ``weight_decay``: AdamW's; weights
    and gain are not decayed.
    """

    layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11, 12)
    lr: float = 1e-4
    weight_decay: float = 0.01


class ScalarMix(nn.Module):
    """The layers' projected CLS in a learned mixture, at unit length times the gain, read by the text classifier.

    It starts as the mean of layers. The gain stands behind the normalisation, where it changes the logits' size.

    Args:
        classifier: [C, D], trained on texts, and tuned.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, L, D].
    """

    def __init__(self, visual: nn.Module, classifier: Tensor, config: ScalarMixConfig = ScalarMixConfig()):
        super().__init__()
        self.config, self.visual = config, frozen(visual)
        self.mix = nn.Parameter(torch.zeros(len(config.layers)))
        self.gain = nn.Parameter(torch.ones(()))
        self.classifier = nn.Parameter(classifier.detach().clone())

    def forward(self, x: Tensor) -> Output:
        """``weights`` of the answer are the layers', [L]."""
        weights = self.mix.softmax(dim=0)
        mixed = (weights[:, None] * taps_of(self.visual, x, self.config.layers)).sum(dim=1)
        return Output(self.gain * F.normalize(mixed, dim=-1) @ self.classifier.T, weights=weights)

    def parameter_groups(self) -> list[Group]:
        lr, decay = self.config.lr, self.config.weight_decay
        parts = {"mix": ([self.mix, self.gain], lr, 0.0), "classifier": ([self.classifier], lr, decay)}
        return parameter_groups(parts)

    def schedule(self, epochs: int) -> list[Phase]:
        return [Phase("all", epochs, ("mix", "classifier"))]


SPEC = System(
    name="scalar mix of layers",
    colour="#117733",
    reads="taps",
    regimes=("label-free", "supervised"),
    config=ScalarMixConfig,
    build=lambda start, config, seed: ScalarMix(start.visual, start.classifier, config),
    sources=("Peters et al., NAACL 2018, section 3.2", "Tenney et al., ACL 2019, section 3.1"),
    baseline=True,
    order=21,
    line=":",
)
