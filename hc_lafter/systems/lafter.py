"""LaFTer (Mirza et al., NeurIPS 2023): prompts and LayerNorms tuned with labels that a text-trained classifier gives.

After the paper's section 3 and the released behaviour (commit 26f3bf4), including its oddities: the prompts enter after
``ln_pre`` without a position; the student's feature is not normalised, though its classifier was trained on unit text
vectors; the teacher is the *same* tower without prompts, whose LayerNorms are trained; LayerNorm weights are decayed,
their biases are not; the rate is constant. Tests compare it with tensors of the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import Prompts, walk
from hc_lafter.systems.base import Group, Output, Phase, System, frozen, parameter_groups, prompt_tokens


@dataclass(frozen=True)
class LaFTerConfig:
    """The release's settings.

    Attributes:
        tokens: P, prompt tokens between CLS and the patches, through all blocks.
        smoothing: of the pseudo-labels.
        lr, weight_decay: AdamW's.
    """

    tokens: int = 50
    smoothing: float = 0.1
    lr: float = 5e-4
    weight_decay: float = 0.01


class LaFTer(nn.Module):
    """Prompted tower -> feature, not normalised -> classifier.

    Args:
        visual: the vision tower; a copy is tuned.
        classifier: [C, D], trained on texts (`hc_lafter.clip.text.train_text_classifier`); the teacher's is not tuned.
        seed: of the prompts' initial values.
    """

    def __init__(
        self,
        visual: nn.Module,
        classifier: Tensor,
        config: LaFTerConfig = LaFTerConfig(),
        *,
        seed: int = 0,
    ):
        super().__init__()
        self.config, self.visual = config, frozen(visual, copied=True)
        self.prompts = prompt_tokens(config.tokens, visual, torch.Generator().manual_seed(seed))
        self.classifier = nn.Parameter(classifier.detach().clone())
        self.register_buffer("teacher_classifier", classifier.detach().clone())

    def forward(self, x: Tensor) -> Output:
        """Images [B, 3, H, W], strongly augmented in training."""
        return Output(walk(self.visual, x, prompts=Prompts({0: self.prompts})).final @ self.classifier.T)

    @torch.no_grad()
    def teach(self, x: Tensor) -> Tensor:
        """[B] int64 pseudo-labels for weakly augmented images, from the tower without prompts."""
        return (F.normalize(walk(self.visual, x).final, dim=-1) @ self.teacher_classifier.T).argmax(dim=1)

    def parameter_groups(self) -> list[Group]:
        """Prompts, classifier, the tower's LayerNorm weights (decayed) and biases (not), all at one rate."""
        norms = [m for m in self.visual.modules() if isinstance(m, nn.LayerNorm)]
        lr, decay = self.config.lr, self.config.weight_decay
        parts = {
            "prompts": ([self.prompts], lr, decay),
            "classifier": ([self.classifier], lr, decay),
            "norm weights": ([m.weight for m in norms], lr, decay),
            "norm biases": ([m.bias for m in norms], lr, 0.0),
        }
        return parameter_groups(parts)

    def schedule(self, epochs: int) -> list[Phase]:
        """A single phase that trains everything."""
        return [Phase("all", epochs, tuple(str(g["name"]) for g in self.parameter_groups()))]


SPEC = System(
    name="LaFTer",
    colour="#E69F00",
    reads="images",
    regimes=("label-free", "supervised"),
    config=LaFTerConfig,
    build=lambda start, config, seed: LaFTer(start.visual, start.classifier, config, seed=seed),
    sources=("Mirza et al., NeurIPS 2023", "github.com/jmiemirza/LaFTer, commit 26f3bf4"),
    released_rate=True,
    order=30,
)
