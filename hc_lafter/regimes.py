"""The two regimes of tuning (SPEC sections 3 and 7), as loss terms for `hc_lafter.training.fit`.

A regime takes a system and a batch and returns named scalar losses; which of them count, and how much, a phase
decides. ``student`` is what the system reads: images, or taps that were computed once. What a regime prints says all
that it computes, so that it can stand in a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.losses import consistency, distillation, dual_task
from hc_lafter.systems import Output


@dataclass(frozen=True)
class Supervised:
    """The true label and its distribution: the dual-task loss; the batch has student, label [B], distribution [B, C].

    LaFTer's step with the label in the place of the pseudo-label.

    Attributes:
        lam: the distribution's share; 0 is plain cross-entropy.
    """

    lam: float = 0.8

    def __call__(self, system: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = system(batch["student"])
        task = dual_task(out.logits, batch["label"], batch["distribution"], lam=self.lam)
        return {"task": task, **_of_stages(out, batch)}


@dataclass(frozen=True)
class LabelFree:
    """Hard pseudo-labels, label-smoothed cross-entropy; no label is read (Mirza et al., NeurIPS 2023, section 3.2).

    Attributes:
        smoothing: of the pseudo-labels.
        teach: images [B, 3, H, W] -> [B] pseudo-labels, asked at every step about the batch's ``teacher`` view. None:
            the batch brings ``pseudo`` [B], which were computed once; that is the same only for a teacher that does not
            move and a view that is fixed.
    """

    smoothing: float = 0.1
    teach: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def __call__(self, system: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pseudo = batch["pseudo"] if self.teach is None else self.teach(batch["teacher"])
        out = system(batch["student"])
        return {"task": F.cross_entropy(out.logits, pseudo, label_smoothing=self.smoothing), **_of_stages(out, batch)}


def _of_stages(out: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What stages add: their agreement, and their nearness to the frozen tower's feature where the batch brings it."""
    if out.stage_logits is None:
        return {}
    terms = {"consistency": consistency(out.stage_logits.transpose(0, 1))}
    if "frozen" in batch:
        terms["distillation"] = distillation(out.features, batch["frozen"])
    return terms
