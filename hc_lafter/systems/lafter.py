"""LaFTer (Mirza et al., NeurIPS 2023): prompts and LayerNorms tuned with labels that a text-trained classifier gives.

After the paper's section 3 and the released behaviour (commit 26f3bf4), including its oddities: the prompts enter after
``ln_pre`` without a position; the student's feature is not normalised, though its classifier was trained on unit text
vectors; the teacher is the *same* tower without prompts, whose LayerNorms are trained; LayerNorm weights are decayed,
their biases are not; the rate is constant. Tests compare it with tensors of the released code.

``LaFTer, confident`` learns only from images of which the teacher is sure, as FixMatch does (Sohn et al., NeurIPS 2020,
section 2.1, its threshold of 0.95); a baseline of this package.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.vit import Prompts, walk
from hc_lafter.systems.base import Group, Output, Phase, System, frozen, parameter_groups, prompt_tokens
from hc_lafter.systems.losses import pseudo_labels


@dataclass(frozen=True)
class LaFTerConfig:
    """The release's settings.

    Attributes:
        tokens: P, prompt tokens between CLS and the patches, through all blocks.
        prompt_start: a factor on their random start (`hc_lafter.systems.base.prompt_tokens`), which is that of the
            tower's own patches; 0 starts them at zero.
        smoothing: of the pseudo-labels.
        threshold: the probability from which on a pseudo-label counts, 0 to 1; 0 takes all. The teacher has never been
            fitted to images and its own softmax is nowhere near sure, so that its logits are taken at CLIP's logit
            scale (`hc_lafter.systems.losses.pseudo_labels`).
        lr, weight_decay: AdamW's.
    """

    tokens: int = 50
    prompt_start: float = 1.0
    smoothing: float = 0.1
    threshold: float = 0.0
    lr: float = 5e-4
    weight_decay: float = 0.01


class LaFTer(nn.Module):
    """Prompted tower -> feature, not normalised -> classifier.

    Args:
        visual: the vision tower; a copy is tuned.
        classifier: [C, D], trained on texts (`hc_lafter.clip.text.train_text_classifier`); the teacher's is not tuned.
        seed: of the prompts' initial values.
        logit_scale: CLIP's, for ``config.threshold``.
    """

    def __init__(
        self,
        visual: nn.Module,
        classifier: Tensor,
        config: LaFTerConfig = LaFTerConfig(),
        *,
        seed: int = 0,
        logit_scale: float = 100.0,
    ):
        super().__init__()
        self.config, self.visual, self.logit_scale = config, frozen(visual, copied=True), float(logit_scale)
        self.prompts = prompt_tokens(config.tokens, visual, torch.Generator().manual_seed(seed))
        self.prompts.data *= config.prompt_start
        self.classifier = nn.Parameter(classifier.detach().clone())
        self.register_buffer("teacher_classifier", classifier.detach().clone())

    def forward(self, x: Tensor) -> Output:
        """Images [B, 3, H, W], strongly augmented in training."""
        return Output(walk(self.visual, x, prompts=Prompts({0: self.prompts})).final @ self.classifier.T)

    @torch.no_grad()
    def teach(self, x: Tensor) -> Tensor:
        """[B] int64 pseudo-labels of weakly augmented images, from the tower without prompts; -100 where not sure."""
        features = F.normalize(walk(self.visual, x).final, dim=-1)
        return pseudo_labels(features, self.teacher_classifier, self.config.threshold, self.logit_scale)

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
    build=lambda start, config, seed: LaFTer(
        start.visual, start.classifier, config, seed=seed, logit_scale=start.logit_scale
    ),
    sources=("Mirza et al., NeurIPS 2023", "github.com/jmiemirza/LaFTer, commit 26f3bf4"),
    released_rate=True,
    order=30,
)
VARIANTS = (
    SPEC.variant(
        "LaFTer, confident",
        settings={"threshold": 0.95},
        colour="#000699",
        regimes=("label-free",),
        sources=(*SPEC.sources, "threshold: Sohn et al., NeurIPS 2020, section 2.1"),
        baseline=True,
        order=31,
        line="--",
    ),
)
