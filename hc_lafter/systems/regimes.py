"""The regimes of tuning, as loss terms of a system and a batch.

A regime takes a system and a batch and returns named scalar losses; a phase says which of them count, and how much.
``student`` is the system's input: images, or taps that were computed once. A regime's repr says all that it computes,
so that it can be part of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.data.record import IGNORE
from hc_lafter.systems.base import Output
from hc_lafter.systems.losses import consistency, distillation, dual_task, focal_dice


@dataclass(frozen=True)
class Supervised:
    """The label and the votes' shares: the dual-task loss; the batch has student, label [B], distribution [B, C].

    LaFTer's step with the label in the place of the pseudo-label.

    Attributes:
        lam: the distribution's share; 0 is plain cross-entropy.

    Raises:
        ValueError: lam outside 0..1.
    """

    lam: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam is {self.lam}, but the distribution's share lies between 0 and 1.")

    def __call__(self, system: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = system(batch["student"])
        task = dual_task(out.logits, batch["label"], batch["distribution"], lam=self.lam)
        return {"task": task, **_of_stages(out, batch), **_watched(system)}


@dataclass(frozen=True)
class LabelFree:
    """Hard pseudo-labels, label-smoothed cross-entropy; no label is read (Mirza et al., NeurIPS 2023, section 3.2).

    Attributes:
        smoothing: of the pseudo-labels.
        teach: images [B, 3, H, W] -> [B] pseudo-labels, called at every step on the batch's ``teacher`` view. None:
            the batch has ``pseudo`` [B], computed once, for a teacher that is not trained and a fixed view.
        threshold: above 0 pseudo-labels may be -100; these count as zero in the batch's mean (FixMatch: Sohn et al.,
            NeurIPS 2020, equation 4), and the share of the others is recorded as ``confident``.
    """

    smoothing: float = 0.1
    teach: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    threshold: float = 0.0

    def __call__(self, system: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pseudo = batch["pseudo"] if self.teach is None else self.teach(batch["teacher"])
        out = system(batch["student"])
        terms = {"task": F.cross_entropy(out.logits, pseudo, label_smoothing=self.smoothing)}
        if self.threshold:
            summed = F.cross_entropy(out.logits, pseudo, label_smoothing=self.smoothing, reduction="sum")
            terms = {"task": summed / len(pseudo), "confident": (pseudo >= 0).float().mean()}
        return {**terms, **_of_stages(out, batch), **_watched(system)}


@dataclass(frozen=True)
class SeenMasks:
    """Cascade-CLIP's two regimes; the batch has student [B, 3, H, W] and mask [B, H, W].

    Inductive, the terms ``focal`` and ``dice``: queries and labels of the seen classes alone, pixels of the others are
    ignored. Transductive, also ``focal, own labels`` and ``dice, own labels``: every class is queried, and a labelled
    pixel of an unseen class gets the unseen class with the system's highest logit. Its own class is never read; that
    it is unseen, is (as in the release).

    Attributes:
        transductive: compute those two terms as well.
        present_only, ignored_negative: of `hc_lafter.systems.losses.focal_dice`.
    """

    transductive: bool = False
    present_only: bool = True
    ignored_negative: bool = True

    def __call__(self, system: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, mask, seen = system(batch["student"]).logits, batch["mask"].long(), system.seen
        loss = partial(focal_dice, present_only=self.present_only, ignored_negative=self.ignored_negative)
        among_seen = _seen_places(mask, seen)
        focal, dice = loss(logits[:, seen], among_seen)
        terms = {"focal": focal, "dice": dice}
        if self.transductive:
            own = logits.detach().masked_fill(seen[:, None, None], -torch.inf).argmax(dim=1)
            unseen = (mask < len(seen)) & (among_seen == IGNORE)
            focal, dice = loss(logits, torch.where(unseen, own, mask))
            terms |= {"focal, own labels": focal, "dice, own labels": dice}
        return terms


@dataclass(frozen=True)
class SeenPixels:
    """Cross-entropy over the seen classes at every pixel of a seen class; the batch has student and mask [B, H, W].

    The term is ``task``, the usual loss of a classifier of CLIP features at every pixel.
    """

    def __call__(self, system: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = system(batch["student"]).logits[:, system.seen].float()
        target = _seen_places(batch["mask"].long(), system.seen)
        pixels = (target != IGNORE).sum().clamp(min=1)  # a batch without a seen pixel has no mean
        return {"task": F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / pixels}


def regime_terms(name: str, system: nn.Module, *, lam: float = 0.8, moving_teacher: bool = True) -> Callable:
    """The loss terms of a regime by its name, with its settings from the system's configuration.

    Args:
        name: one of `hc_lafter.systems.base.REGIMES`, but ``no training``.
        lam: see `Supervised`.
        moving_teacher: call the system's own ``teach`` at every step, where it has one.
    """
    config = system.config
    if name == "supervised":
        return Supervised(lam)
    if name == "label-free":
        teach = getattr(system, "teach", None) if moving_teacher else None
        return LabelFree(getattr(config, "smoothing", 0.1), teach, getattr(config, "threshold", 0.0))
    if getattr(system, "mask_loss", "") == "cross-entropy":
        return SeenPixels()
    settings = {key: getattr(config, key, True) for key in ("present_only", "ignored_negative")}
    return SeenMasks(transductive=name == "transductive", **settings)


def _seen_places(mask: Tensor, seen: Tensor) -> Tensor:
    """Class indices as positions among the seen classes; 255 for unseen classes and ignored pixels."""
    place = torch.full((IGNORE + 1,), IGNORE, device=mask.device)
    place[: len(seen)] = torch.where(seen, seen.cumsum(0) - 1, IGNORE)
    return place[mask]


def _watched(system: nn.Module) -> dict[str, Tensor]:
    """What a system's history records beside the losses."""
    return system.watched() if hasattr(system, "watched") else {}


def _of_stages(out: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Terms of stages: their agreement, and their distance to the frozen tower's feature where the batch has it."""
    if out.stage_logits is None:
        return {}
    terms = {"consistency": consistency(out.stage_logits.transpose(0, 1))}
    if "frozen" in batch:
        terms["distillation"] = distillation(out.features, batch["frozen"])
    return terms
