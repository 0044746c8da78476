"""What every system is made of: its outputs and phases, what it starts from, and the entry that makes it known."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from hc_lafter.clip.load import Clip
from hc_lafter.clip.vit import project, walk
from hc_lafter.systems.depth import check_layers, scaled
from hc_lafter.systems.masks import PROTOCOLS, Protocol

Group = dict[str, object]  # {"name", "params", "lr", "weight_decay"}: a parameter group of torch.optim
READS = ("taps", "images", "masks")
REGIMES = ("no training", "label-free", "supervised", "inductive", "transductive")


@dataclass(frozen=True)
class Output:
    """A system's answer to a batch.

    Attributes:
        logits: [B, C].
        stage_logits: [B, S, C], from the shallowest stage to the deepest; None for a system without stages.
        weights: [S], the fusion weights.
        features: [B, S, D], the input of the classifier.
    """

    logits: Tensor
    stage_logits: Tensor | None = None
    weights: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class Masks:
    """A segmentation system's answer to a batch: ``logits`` [B, C, H, W], one map per class, at the input's size."""

    logits: Tensor


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        name: in figures; unique within a run.
        epochs: from 1.
        trains: names of the parameter groups that are trained; all other parameters are fixed.
        weights: term -> its weight in the loss. A term without a weight is recorded, not trained on.
    """

    name: str
    epochs: int
    trains: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=lambda: {"task": 1.0})


@dataclass(frozen=True, eq=False)
class Start:
    """What a system is built from.

    Attributes:
        visual: the vision tower. tower: its name, such as ``ViT-B-16/laion2b_s34b_b88k``.
        text: [C, D], one unit vector per class, the mean of its filled templates.
        logit_scale: the multiplier itself (100 for CLIP).
        classifier: [C, D], trained on texts; None for segmentation systems.
        seen: [C] bool, the classes whose pixels are labelled in training; None for systems that classify images.
        clip, classes: the whole CLIP and C names, for systems that tune what the text tower says.
        support: the training images as (taps [n, L, D] of ``config.layers``, labels [n]), for systems that keep them;
            computed when called. None where no training label may be read, and for a system that is loaded from a file.
    """

    visual: nn.Module
    tower: str
    text: Tensor
    logit_scale: float
    classifier: Tensor | None = None
    seen: Tensor | None = None
    clip: Clip | None = None
    classes: tuple[str, ...] = ()
    support: Callable[[], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True, eq=False)
class System:
    """A system's entry, from which notebooks, tables, figures, costs and tests know it. Its module ends in one.

    Attributes:
        name: in every table and figure.
        colour: in every figure, as ``#rrggbb``.
        reads: ``taps``, projected CLS [B, L, D] of ``config.layers``, computed once; ``images`` [B, 3, H, W], with
            the tower run at each step; ``masks``: images, and the answer is a mask.
        regimes: how it may be tuned, of `REGIMES`.
        config: a frozen dataclass of settings, each with a default. A field ``tokens``, ``lr`` or ``nga_lr`` follows
            the profile.
        build: (start, config, seed) -> module. The module has ``parameter_groups()`` and, unless there is nothing to
            train, ``schedule(epochs)`` -> phases. It may have ``settle(taps, labels)``, called after training with the
            validation images, to choose what no gradient does; what it chooses are buffers.
        sources: papers and releases.
        settings: of ``config``, where this entry departs from its defaults.
        preset: (tower's name, data set's name, its blocks or None) -> ``config``, where a release has other settings
            for other towers or data sets. Without one layers are scaled, see `hc_lafter.systems.depth`.
        fit: instead of gradient descent: (start, config, train, val) -> module, each of the two (taps, labels).
        released_rate: the learning rate is a release's and does not follow the profile's factor.
        protocols: data set's name -> how the release scores it, for a system that is not trained and a data set whose
            background is a class; SC-CLIP's where the system has none of its own.
        baseline: a published method for comparison, which a profile may leave out.
        order: place in tables, ascending.
        line: matplotlib's style of its curves.
    """

    name: str
    colour: str
    reads: str
    regimes: tuple[str, ...]
    config: type
    build: Callable[[Start, Any, int], nn.Module]
    sources: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: Callable[[str, str, int | None], Any] | None = None
    fit: Callable[..., nn.Module] | None = None
    released_rate: bool = False
    protocols: Mapping[str, Protocol] = field(default_factory=lambda: PROTOCOLS)
    baseline: bool = False
    order: float = 100.0
    line: str = "-"

    def __post_init__(self) -> None:
        if self.reads not in READS or not self.regimes or not set(self.regimes) <= set(REGIMES):
            raise ValueError(
                f"system {self.name!r} reads {self.reads!r} in the regimes {', '.join(self.regimes) or 'none'}: choose "
                f"one of {', '.join(READS)}, and of the regimes {', '.join(REGIMES)}."
            )

    def configure(self, tower: str = "", data: str = "", depth: int | None = None, **changes: Any) -> Any:
        """The settings of this entry, with changes; its preset's for a tower and a data set where it has presets.

        Args:
            tower, data: names.
            depth: the tower's blocks, for which layers are scaled; None: as for 12.
            changes: of the settings. Layers among them are the tower's own.

        Raises:
            ValueError: there is no preset for this tower, it has too few blocks, or changes name a layer it lacks.
        """
        preset = self.preset(tower, data, depth) if self.preset and tower else None
        config = replace(self.config() if preset is None else preset, **self.settings)
        if depth is None:
            return replace(config, **changes)
        config = replace(scaled(config, depth) if preset is None else config, **changes)
        check_layers(config, depth)
        return config

    def variant(self, name: str, *, settings: Mapping[str, Any], **changes: Any) -> System:
        """A second entry of the same module, with other settings: a module lists them as ``VARIANTS``."""
        return replace(self, name=name, settings={**self.settings, **settings}, **changes)


def choose(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ValueError: the setting ``name`` has a value that is not known."""
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown: choose one of {', '.join(known)}.")


def choose_layers(name: str, groups: Sequence[Sequence[int]], visual: nn.Module) -> None:
    """Raises ValueError: the setting ``name`` has an empty group of layers, or layers that the tower lacks."""
    depth = len(visual.transformer.resblocks)
    if not groups or not all(groups) or any(not 1 <= layer <= depth for group in groups for layer in group):
        raise ValueError(f"{name} {groups} must each hold layers of this tower, from 1 to {depth}.")


def frozen(visual: nn.Module, *, copied: bool = False) -> nn.Module:
    """The tower in eval mode and without gradients: shared, or ``copied`` for a system that trains parts of it."""
    return (copy.deepcopy(visual) if copied else visual).eval().requires_grad_(False)


class TextTuned(nn.Module):
    """A system whose class vectors come from a text tower: at each step of training, and once where nothing learns."""

    def __init__(self) -> None:
        super().__init__()
        self._held: Tensor | None = None

    def encode_classes(self) -> Tensor:
        """[C, D] unit rows, through the text tower."""
        raise NotImplementedError

    def class_vectors(self) -> Tensor:
        """As `encode_classes`; without gradients those of the first call since ``eval()`` or ``train()``."""
        if torch.is_grad_enabled():
            return self.encode_classes()
        if self._held is None:
            self._held = self.encode_classes()
        return self._held

    def train(self, mode: bool = True) -> TextTuned:
        self._held = None
        return super().train(mode)


def taps_of(visual: nn.Module, x: Tensor, layers: Sequence[int]) -> Tensor:
    """[B, L, D], CLS of ``layers`` in the shared space, LN_post(cls) @ P, of images; taps are returned unchanged."""
    return project(visual, walk(visual, x, layers=list(layers)).cls) if x.ndim == 4 else x


def prompt_tokens(count: int, visual: nn.Module, generator: torch.Generator) -> nn.Parameter:
    """[P, W] drawn uniformly within v = sqrt(6 / (3 p^2 + W)), p the patch side in pixels (Jia et al., ECCV 2022).

    LaFTer's release has p = 16 at every patch size.
    """
    width, _, patch, _ = visual.conv1.weight.shape
    bound = (6 / (3 * patch * patch + width)) ** 0.5
    return nn.Parameter(torch.empty(count, width).uniform_(-bound, bound, generator=generator))


def parameter_groups(parts: Mapping[str, tuple[Sequence[nn.Parameter], float, float]]) -> list[Group]:
    """name -> (parameters, rate, weight decay) in torch.optim's form, without the names that have no parameters."""
    return [
        {"name": name, "params": list(params), "lr": lr, "weight_decay": decay}
        for name, (params, lr, decay) in parts.items()
        if len(params)
    ]


def split_epochs(epochs: int, shares: tuple[int, ...]) -> list[int]:
    """Epochs per phase in the proportion of ``shares``, at least one each.

    Raises:
        ValueError: fewer epochs than phases.
    """
    if epochs < len(shares):
        raise ValueError(f"{epochs} epochs do not hold the {len(shares)} phases of this system: give {len(shares)}.")
    found = [max(1, round(epochs * share / sum(shares))) for share in shares]
    while sum(found) != epochs:  # rounding: the longest phase makes up the difference
        found[found.index(max(found))] += 1 if sum(found) < epochs else -1
    return found
