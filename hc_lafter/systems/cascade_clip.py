"""Cascade-CLIP (Li et al., ICML 2024): zero-shot segmentation from the patches of layers 6 to 12, one decoder a level.

After the paper's section 3 and the released behaviour (commit dadf40d), whose oddities affect its numbers. They are the
defaults here, each with a setting: the class embedding is added twice (``position``); the norm named after prompts acts
on block outputs, so that two LayerNorms follow each other (``double_norm``); the projections of layers 6-11 are drawn
at random and never trained, since the release's optimiser trains only the head and what is called "prompt"
(``projections``, ``train_projections``); focal loss counts ignored pixels as negatives and is divided by the classes
present (`hc_lafter.systems.losses.focal_dice`); LayerNorms and NGA are decayed like everything else, since mmcv applies
the longest key that a parameter's name holds, of two alike the first by the alphabet, and "backbone" and "head" both
come before "norm". Unlike the release, it takes any grid of patches, and normalises pixels as the tower does, where the
release takes ImageNet's mean and deviation. One decoder on the
last layer, ``levels=((12,),)``, is what ZegCLIP (Zhou et al., CVPR 2023) does with the same prompts.

B images, C classes, W tower width, D embedding size, N = h x w patches, P prompts, Q queries (one per class).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.analysis.costs import parameters
from hc_lafter.clip.vit import Prompts, walk
from hc_lafter.systems.base import (
    Group,
    Masks,
    Phase,
    System,
    choose,
    choose_layers,
    frozen,
    parameter_groups,
    prompt_tokens,
    split_epochs,
)
from hc_lafter.systems.nga import NGA

PROJECTIONS = ("random", "tower")
# The release's on VOC (40,000 steps on PASCAL Context, 80,000 on COCO-Stuff), 16 crops a step: the rate rises over the
# first 1,500, then falls with the power .9 of what is left, to 1e-6.
SCHEDULE = {"warmup": 1_500 / 20_000, "decay": "poly"}


@dataclass(frozen=True)
class CascadeCLIPConfig:
    """The release's settings.

    Attributes:
        levels: layers that each decoder reads, from 1; the last layer goes through the tower's own LN_post and P,
            every other through a LayerNorm and a projection of its own. For 12 blocks, as all that is published; scaled
            for others by the rules of `hc_lafter.systems.depth`.
        tokens: P, prompt tokens before each block, replaced at the next.
        decoder_layers, heads: of each decoder, whose MLP is four times as wide as D.
        nga: how the layers of a level are summed, see `hc_lafter.systems.nga.NGA`; ``free`` is the release's.
        position: of the position embedding, see `hc_lafter.clip.vit.position_embedding`; ``cascade`` adds the class
            embedding to CLS a second time and interpolates bilinearly.
        double_norm: a LayerNorm (eps 1e-6, trained) on the block outputs before LN_post or a layer's own.
        projections: ``random``, W^-1/2 N(0, 1) as released, or ``tower``: copies of LN_post and P.
        train_projections: train them; the release does not.
        start: initial standard deviation of the head's matrices. The release's 0.02 suits its 20,000 steps; for a few
            hundred, D^-1/2, which keeps a vector's length.
        augment: train on random crops with a flip and other colours, see `hc_lafter.tuning.masks.CropAndJitter`.
        margin: subtracted from the sigmoid of seen classes by `CascadeCLIP.decide` (calibrated stacking; Chao et al.,
            ECCV 2016). 0 for a system trained transductively.
        dropout: of prompts, attention and decoder layers, in training mode only.
        present_only, ignored_negative: of the focal loss, see `hc_lafter.systems.losses.focal_dice`.
        lr, weight_decay: AdamW's.
    """

    levels: tuple[tuple[int, ...], ...] = ((6, 7, 8), (9, 10, 11), (12,))
    tokens: int = 10
    decoder_layers: int = 3
    heads: int = 8
    nga: str = "free"
    position: str = "cascade"
    double_norm: bool = True
    projections: str = "random"
    train_projections: bool = False
    start: float = 0.02
    augment: bool = True
    margin: float = 0.1
    dropout: float = 0.1
    present_only: bool = True
    ignored_negative: bool = True
    lr: float = 2e-4
    weight_decay: float = 0.01

    @property
    def layers(self) -> list[int]:
        """The layers to tap, level by level."""
        return [layer for level in self.levels for layer in level]


class CascadeCLIP(nn.Module):
    """Prompted tower -> patch features of each level -> a decoder per level, whose last maps are summed.

    Args:
        visual: the vision tower, never trained.
        text: [C, D], one vector per class; brought to unit length.
        seen: [C] bool, the classes whose pixels are labelled in training.
        seed: of all initial values.

    Raises:
        ValueError: levels that do not fit the tower, an unknown kind of projection, or heads that do not divide D.
    """

    def __init__(
        self,
        visual: nn.Module,
        text: Tensor,
        seen: Tensor,
        config: CascadeCLIPConfig = CascadeCLIPConfig(),
        *,
        seed: int = 0,
    ):
        super().__init__()
        (width, dim), depth = visual.proj.shape, len(visual.transformer.resblocks)
        choose_layers("levels", config.levels, visual)
        choose("projections", config.projections, PROJECTIONS)
        if dim % config.heads:
            raise ValueError(f"{config.heads} heads do not divide the embedding size {dim}: choose a divisor.")
        self.config, self.visual, self.depth = config, frozen(visual), depth
        self.register_buffer("text", F.normalize(text.detach().float(), dim=-1))
        self.register_buffer("seen", seen.detach().bool())
        generator = torch.Generator().manual_seed(seed)
        self.prompts = nn.ParameterList(prompt_tokens(config.tokens, visual, generator) for _ in range(depth))
        self.prompt_proj = _linear(width, width, generator, (2 / width) ** 0.5)  # He et al., fan out
        self.prompt_norm = nn.LayerNorm(width, eps=1e-6) if config.double_norm else nn.Identity()
        early = [str(layer) for layer in config.layers if layer != depth]
        self.norms = nn.ModuleDict({layer: nn.LayerNorm(width) for layer in early})
        self.projections = nn.ParameterDict()
        for layer in early:
            projection = torch.randn(width, dim, generator=generator) * width**-0.5
            if config.projections == "tower":
                projection = visual.proj.detach().clone()
                self.norms[layer].load_state_dict(visual.ln_post.state_dict())
            self.projections[layer] = nn.Parameter(projection)
        for part in (self.norms, self.projections):
            part.requires_grad_(config.train_projections)
        self.nga = nn.ModuleList(NGA(len(level), config.nga) if len(level) > 1 else _Only() for level in config.levels)
        self.queries = nn.ModuleList(_linear(2 * dim, dim, generator, config.start) for _ in config.levels)
        self.decoders = nn.ModuleList(_Decoder(dim, config, generator) for _ in config.levels)

    def train(self, mode: bool = True) -> CascadeCLIP:
        """Training mode switches the dropouts on; the frozen tower stays in eval mode."""
        super().train(mode)
        self.visual.eval()
        return self

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
        """[B, 3, H, W] -> unit patch features [B, N, D] of each tapped layer, unit CLS [B, D], grid (h, w)."""
        layers, drop = self.config.layers, self.config.dropout
        prompts = {
            index: F.dropout(self.prompt_proj(tokens).expand(len(images), -1, -1), drop, self.training)
            for index, tokens in enumerate(self.prompts)
        }
        walked = walk(
            self.visual,
            images,
            layers=[*layers, self.depth],
            patches=True,
            prompts=Prompts(prompts),
            position=self.config.position,
        )
        cls = self._project(self.depth, walked.cls[:, -1])
        patches = [self._project(layer, tokens) for layer, tokens in zip(layers, walked.patch_taps[:-1], strict=True)]
        return patches, cls, walked.grid

    def _project(self, layer: int, tokens: Tensor) -> Tensor:
        tokens = self.prompt_norm(tokens)
        if layer == self.depth:
            return F.normalize(self.visual.ln_post(tokens) @ self.visual.proj, dim=-1)
        return F.normalize(self.norms[str(layer)](tokens) @ self.projections[str(layer)], dim=-1)

    def query(self, level: int, cls: Tensor, text: Tensor | None = None) -> Tensor:
        """[B, D] -> [B, C, D]: Linear([cls * text, text]), the relationship descriptor of ZegCLIP (section 3.3)."""
        text = (self.text if text is None else text).expand(len(cls), -1, -1)
        return self.queries[level](torch.cat([cls[:, None] * text, text], dim=-1))

    def maps(self, images: Tensor) -> list[list[Tensor]]:
        """Attention logits [B, C, h, w] of every level (outer) and decoder layer (inner), not yet enlarged."""
        return self.decode(*self.features(images))

    def decode(
        self, patches: list[Tensor], cls: Tensor, grid: tuple[int, int], text: Tensor | None = None
    ) -> list[list[Tensor]]:
        """`maps` from `features`, for the system's own classes or for other unit ``text`` [C', D]."""
        found, remaining = [], iter(patches)
        for index, (level, nga) in enumerate(zip(self.config.levels, self.nga, strict=True)):
            memory = nga(torch.stack([next(remaining) for _ in level], dim=1))
            maps = self.decoders[index](self.query(index, cls, text), memory)
            found.append([m.unflatten(-1, grid) for m in maps])
        return found

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Masks:
        """[B, 3, H, W] -> mask logits [B, C, *size], ``size`` being the input's own by default."""
        last = torch.stack([level[-1] for level in self.maps(images)]).sum(dim=0)
        return Masks(F.interpolate(last, size=size or images.shape[-2:], mode="bilinear", align_corners=False))

    def decide(self, logits: Tensor, margin: float | None = None) -> Tensor:
        """[B, C, H, W] logits -> sigmoid, less ``margin`` (the configuration's by default) on the seen classes."""
        margin = self.config.margin if margin is None else margin
        return logits.sigmoid() - margin * self.seen[:, None, None]

    def parameter_groups(self) -> list[Group]:
        """``prompts`` with their projection, ``head``, ``norms`` (NGA among them), ``projections``; all are decayed."""
        lr, decay = self.config.lr, self.config.weight_decay
        head = nn.ModuleList([self.queries, self.decoders])
        norms = [p for m in head.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()]
        matrices = [p for p in head.parameters() if all(p is not norm for norm in norms)]
        thawed = self.config.train_projections
        return parameter_groups({
            "prompts": ([*self.prompts, *self.prompt_proj.parameters()], lr, decay),
            "head": (matrices, lr, decay),
            "norms": ([*self.prompt_norm.parameters(), *self.nga.parameters(), *norms], lr, decay),
            "projections": (list(self.projections.values()) if thawed else [], lr, decay),
            "projection norms": (list(self.norms.parameters()) if thawed else [], lr, decay),
        })  # fmt: skip

    def schedule(self, epochs: int, *, transductive: bool = False) -> list[Phase]:
        """One phase on seen pixels; if transductive, a second one on the system's own labels.

        Raises:
            ValueError: fewer epochs than phases.
        """
        there = tuple(str(group["name"]) for group in self.parameter_groups())
        seen = {"focal": 1.0, "dice": 1.0}
        if not transductive:
            return [Phase("seen pixels", epochs, there, seen)]
        first, second = split_epochs(epochs, (1, 1))
        own = {"focal, own labels": 1.0, "dice, own labels": 1.0}
        return [Phase("seen pixels", first, there, seen), Phase("own labels for the unseen", second, there, own)]


def account(system: CascadeCLIP) -> dict[str, int]:
    """Numbers of parameters, as this system has them and as the release does, which builds more than it uses.

    Returns:
        ``tower``: frozen, CLIP's own. ``projections``: LayerNorms and projections of the earlier layers. ``trainable``:
        trained here. ``without gradient``: the release's value path, MLP and norms in the last layer of each decoder,
        whose output is not used. ``never called``: its self-attention and first norms. ``released trainable``: the
        three together, which the paper counts. ``total``: all of it, the tower included.
    """
    dim, decoders = system.text.shape[1], len(system.decoders)
    linear, norm, found = dim * dim + dim, 2 * dim, parameters(system)
    mlp = (dim * 4 * dim + 4 * dim) + (4 * dim * dim + dim)
    unused = decoders * (2 * linear + mlp + 2 * norm)
    uncalled = decoders * system.config.decoder_layers * (4 * linear + norm)
    return {
        "tower": found.total - found.beside,
        "projections": sum(p.numel() for part in (system.norms, system.projections) for p in part.parameters()),
        "trainable": found.trained,
        "without gradient": unused,
        "never called": uncalled,
        "released trainable": found.trained + unused + uncalled,
        "total": found.total + unused + uncalled,
    }


class _Only(nn.Module):
    """A level of one layer: [B, 1, N, D] -> [B, N, D]."""

    def forward(self, layers: Tensor) -> Tensor:
        return layers[:, 0]


class _Decoder(nn.Module):
    """Class queries attend to patches: cross-attention, MLP, no self-attention (SegViT: Zhang et al., NeurIPS 2022).

    Only the map of the last layer is used, so it has no more than the two matrices for it.
    """

    def __init__(self, dim: int, config: CascadeCLIPConfig, generator: torch.Generator):
        super().__init__()
        last = config.decoder_layers - 1
        self.layers = nn.ModuleList(
            _Layer(dim, config, generator, map_only=index == last) for index in range(config.decoder_layers)
        )

    def forward(self, queries: Tensor, memory: Tensor) -> list[Tensor]:
        """[B, Q, D], [B, N, D] -> the map [B, Q, N] of each layer."""
        maps = []
        for layer in self.layers:
            queries, attended = layer(queries, memory)
            maps.append(attended)
        return maps


class _Layer(nn.Module):
    def __init__(self, dim: int, config: CascadeCLIPConfig, generator: torch.Generator, *, map_only: bool):
        super().__init__()
        self.heads, self.dropout, self.map_only = config.heads, config.dropout, map_only
        names = {"q": (dim, dim), "k": (dim, dim)}
        if not map_only:
            names |= {"v": (dim, dim), "proj": (dim, dim), "linear1": (dim, 4 * dim), "linear2": (4 * dim, dim)}
            self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for name, (inner, outer) in names.items():
            self.add_module(name, _linear(inner, outer, generator, config.start))

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        q, k = (self._split(part) for part in (self.q(queries), self.k(memory)))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # [B, heads, Q, N]
        attended = logits.mean(dim=1)
        if self.map_only:
            return queries, attended
        attention = F.dropout(logits.softmax(dim=-1), self.dropout, self.training)
        values = (attention @ self._split(self.v(memory))).transpose(1, 2).flatten(2)
        queries = self.norm2(queries + self._drop(self.proj(values)))
        hidden = self._drop(self.linear1(queries).relu())
        return self.norm3(queries + self._drop(self.linear2(hidden))), attended

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _linear(inner: int, outer: int, generator: torch.Generator, std: float) -> nn.Linear:
    layer = nn.Linear(inner, outer)
    with torch.no_grad():
        layer.weight.normal_(0, std, generator=generator)
        layer.bias.zero_()
    return layer


SPEC = System(
    name="Cascade-CLIP",
    colour="#009E73",
    reads="masks",
    regimes=("inductive", "transductive"),
    config=CascadeCLIPConfig,
    build=lambda start, config, seed: CascadeCLIP(start.visual, start.text, start.seen, config, seed=seed),
    sources=("Li et al., ICML 2024", "github.com/HVision-NKU/Cascade-CLIP, commit dadf40d"),
    order=70,
)
VARIANTS = (
    SPEC.variant(
        "one decoder, last layer",
        settings={"levels": ((12,),)},
        colour="#005C42",
        regimes=("inductive",),
        sources=("Zhou et al., CVPR 2023 (ZegCLIP)",),
        order=72,
    ),
)
