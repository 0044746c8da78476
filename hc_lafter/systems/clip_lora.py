"""CLIP-LoRA (Zanella & Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPRW 2024).

A low-rank matrix is added to the query, key and value projections of every block of both towers (LoRA: Hu et al., ICLR
2022); nothing else learns. Rank 2, as in the paper and in its release (MaxZanella/CLIP-LoRA, commit a0d32de, run_utils
5f32cce), and the release's rate, decay and dropout. *As in the release and not in the paper,* the product is scaled by
alpha / sqrt(rank). Five things differ from it: dropout draws one mask per matrix and step, which a weight can have,
where the release draws one per token; a class's vector is the mean over all of the suite's templates and so starts as
zero-shot's, where the release has one template; images are not augmented; the loss has the votes' shares, as of every
trained system here, beside the labels, which are all that the release has; validation chooses the epoch, where the
release takes the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import encode_tokens, templates_for
from hc_lafter.clip.vit import walk
from hc_lafter.systems.base import Group, Output, Phase, System, TextTuned, frozen, parameter_groups


@dataclass(frozen=True)
class ClipLoraConfig:
    """The release's settings.

    Attributes:
        rank: of each added matrix.
        alpha: over the root of the rank it scales that matrix.
        dropout: of the added matrix's inputs, in training.
        lr, weight_decay: AdamW's.
    """

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    lr: float = 2e-4
    weight_decay: float = 0.01


class LowRank(nn.Module):
    """W + scale * up @ down, for each of the three parts of an attention's input projection; ``up`` starts at zero."""

    def __init__(self, width: int, config: ClipLoraConfig, generator: torch.Generator):
        super().__init__()
        self.scale, self.dropout = config.alpha / config.rank**0.5, config.dropout
        bound = width**-0.5  # nn.Linear's
        self.down = nn.Parameter(torch.empty(3, config.rank, width).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(3, width, config.rank))

    def forward(self, weight: Tensor) -> Tensor:
        down = self.down * F.dropout(torch.ones_like(self.down[:, :1]), self.dropout, self.training)
        return weight + self.scale * (self.up @ down).flatten(0, 1)


class ClipLora(TextTuned):
    """Both towers with low-rank additions -> cosine, times the logit scale.

    Args:
        clip: a copy of its model is tuned.
        classes: C names; ``_`` counts as a space.
        seed: of the additions' start.

    ``forward`` takes images [B, 3, H, W].
    """

    def __init__(
        self, clip: Clip, classes: tuple[str, ...], config: ClipLoraConfig = ClipLoraConfig(), *, seed: int = 0
    ):
        super().__init__()
        self.config, self.clip_model = config, frozen(clip.model, copied=True)
        generator, self._added = torch.Generator().manual_seed(seed), []
        for part in list(self.clip_model.modules()):
            if isinstance(part, nn.MultiheadAttention):
                addition = LowRank(part.embed_dim, config, generator).to(part.in_proj_weight.device)
                parametrize.register_parametrization(part, "in_proj_weight", addition)
                self._added.append(addition)
        texts = [t.format(name.replace("_", " ")) for name in classes for t in templates_for(classes)]
        self.register_buffer("tokens", clip.tokenizer(texts), persistent=False)
        self.classes = len(classes)

    @property
    def visual(self) -> nn.Module:
        """The vision tower, additions included."""
        return self.clip_model.visual

    def encode_classes(self) -> Tensor:
        """[C, D] unit rows: the mean over the templates' unit vectors, normalised."""
        texts = encode_tokens(self.clip_model, self.tokens)
        return F.normalize(texts.unflatten(0, (self.classes, -1)).mean(dim=1), dim=-1)

    def forward(self, x: Tensor) -> Output:
        with parametrize.cached():  # a block looks at its weight more than once
            unit = F.normalize(walk(self.visual, x).final, dim=-1)
            return Output(self.clip_model.logit_scale.exp() * unit @ self.class_vectors().T)

    def parameter_groups(self) -> list[Group]:
        added = [p for addition in self._added for p in addition.parameters()]
        return parameter_groups({"additions": (added, self.config.lr, self.config.weight_decay)})

    def schedule(self, epochs: int) -> list[Phase]:
        return [Phase("additions", epochs, ("additions",))]


SPEC = System(
    name="CLIP-LoRA",
    colour="#7300E6",
    reads="images",
    regimes=("supervised",),
    config=ClipLoraConfig,
    build=lambda start, config, seed: ClipLora(start.clip, start.classes, config, seed=seed),
    sources=("Zanella & Ben Ayed, CVPRW 2024", "github.com/MaxZanella/CLIP-LoRA, commit a0d32de"),
    released_rate=True,
    baseline=True,
    order=32,
    line="--",
)
