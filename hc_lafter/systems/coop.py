"""CoOp (Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022): learned words before a class name.

M context vectors, the same for all classes, stand in the place of words before the name; the text tower makes a class
vector of them at each step, and images are read as by zero-shot CLIP. Both towers are frozen. As in the release
(KaiyangZhou/CoOp, commit 1e5ec09) contexts are drawn with a standard deviation of 0.02, or begin as given words, and
the name stands at the end. The release also puts a full stop behind the name, augments its images and trains with SGD;
here there is no full stop (as in the suite's templates), the features are computed once, the suite's AdamW trains, and
the loss has the votes' shares, as of every trained system here, beside the labels, which are all that the release has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import encode_tokens
from hc_lafter.systems.base import Group, Output, Phase, System, TextTuned, frozen, parameter_groups, taps_of


@dataclass(frozen=True)
class CoOpConfig:
    """The contexts are the paper's; the rate is one for AdamW, where the release has SGD.

    Attributes:
        layers: the last alone, of 12 blocks or any other number (`hc_lafter.systems.depth`).
        contexts: M. words: what the contexts start as, such as ``a photo of a``, which then decide M; "" draws them.
        lr, weight_decay: AdamW's.
    """

    layers: tuple[int, ...] = (12,)
    contexts: int = 16
    words: str = ""
    lr: float = 1e-3
    weight_decay: float = 0.01


class CoOp(TextTuned):
    """Cosine with class vectors from the text tower behind learned contexts, times the logit scale.

    Args:
        clip: both of its towers are used, neither is tuned.
        classes: C names; ``_`` counts as a space.
        seed: of the contexts' start.

    ``forward`` takes images [B, 3, H, W] or projected CLS [B, 1, D].

    Raises:
        ValueError: contexts and name are longer than the text tower's context.
    """

    def __init__(self, clip: Clip, classes: tuple[str, ...], config: CoOpConfig = CoOpConfig(), *, seed: int = 0):
        super().__init__()
        self.config, self.clip_model = config, frozen(clip.model)
        names, table = clip.tokenizer([name.replace("_", " ") for name in classes]), clip.model.token_embedding.weight
        if config.words:
            tokens = clip.tokenizer([config.words])[0]
            start = table[tokens[1 : int(tokens.argmax())].to(table.device)].detach().clone()
        else:
            generator = torch.Generator().manual_seed(seed)
            start = 0.02 * torch.randn(config.contexts, table.shape[1], generator=generator)
        longest = int(names.argmax(dim=1).max()) + 1 + len(start)
        if longest > names.shape[1]:
            raise ValueError(
                f"{len(start)} contexts and the longest class name take {longest} tokens, and the text tower has "
                f"{names.shape[1]}: set contexts lower."
            )
        self.contexts = nn.Parameter(start)
        places = names[:, :1].expand(-1, len(start))  # any token will do: a context takes its place
        tokens = torch.cat([names[:, :1], places, names[:, 1:]], dim=1)[:, : names.shape[1]]
        self.register_buffer("tokens", tokens, persistent=False)

    @property
    def visual(self) -> nn.Module:
        """The vision tower."""
        return self.clip_model.visual

    def encode_classes(self) -> Tensor:
        """[C, D] unit rows."""
        return encode_tokens(self.clip_model, self.tokens, self.contexts)

    def forward(self, x: Tensor) -> Output:
        unit = F.normalize(taps_of(self.visual, x, self.config.layers)[:, -1], dim=-1)
        return Output(self.clip_model.logit_scale.exp() * unit @ self.class_vectors().T)

    def parameter_groups(self) -> list[Group]:
        return parameter_groups({"contexts": ([self.contexts], self.config.lr, self.config.weight_decay)})

    def schedule(self, epochs: int) -> list[Phase]:
        return [Phase("contexts", epochs, ("contexts",))]


SPEC = System(
    name="CoOp",
    colour="#BF3086",
    reads="taps",
    regimes=("supervised",),
    config=CoOpConfig,
    build=lambda start, config, seed: CoOp(start.clip, start.classes, config, seed=seed),
    sources=("Zhou et al., IJCV 2022", "github.com/KaiyangZhou/CoOp, commit 1e5ec09"),
    baseline=True,
    order=16,
    line="--",
)
