"""The losses that torch does not have. B images, C classes, S stages.

Every function computes in fp32 at least (float64 stays), whatever autocast or the dtype of its input, takes logarithms
by log-softmax alone, and returns a scalar in nats. Batches are not empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dual_task_targets(labels: Tensor, distributions: Tensor, lam: float = 0.8) -> Tensor:
    """t = (1 - lam) * onehot + lam * distribution, [B, C], at least fp32.

    Yang, She and Sun (IJCAI 2017): their two losses, cross-entropy and the divergence from the label distribution,
    share one softmax, so that their sum is a single divergence from t up to a constant.

    Args:
        labels: [B] int64 class indices.
        distributions: [B, C], rows sum to one.
        lam: share of the distribution, 0 to 1; the paper's best is 0.8.
    """
    distributions = _wide(distributions)
    onehot = F.one_hot(labels, distributions.shape[1]).to(distributions.dtype)
    return (1 - lam) * onehot + lam * distributions


def dual_task(
    logits: Tensor, labels: Tensor, distributions: Tensor, *, lam: float = 0.8, temperature: float = 1.0
) -> Tensor:
    """T^2 * KL(t || softmax(z / T)), the mean over the batch.

    Its gradient in the logits is T * (softmax(z / T) - t) / B. It is zero only where the prediction is t itself; a
    cross-entropy with t is larger by t's entropy.

    Args:
        logits: z [B, C].
        labels, distributions, lam: as in ``dual_task_targets``.
        temperature: T, above 0. The target is not softened by it.
    """
    targets = dual_task_targets(labels, distributions, lam)
    log_p = F.log_softmax(_wide(logits) / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, targets.to(log_p.dtype), reduction="batchmean")


def pseudo_labels(features: Tensor, weight: Tensor, threshold: float = 0.0, logit_scale: float = 100.0) -> Tensor:
    """[B] int64, what a text-trained classifier says of unit features; -100, torch's ``ignore_index``, where not sure.

    Args:
        features: [B, D] of unit length.
        weight: [C, D].
        threshold: of the probability of the first choice, the softmax of the logits with ``weight`` scaled to rows of
            unit length in the mean, times ``logit_scale``; 0 keeps every label.
    """
    logits = features @ weight.T
    labels = logits.argmax(dim=1)
    if not threshold:
        return labels
    sure = (logit_scale / weight.norm(dim=1).mean() * logits).softmax(dim=1).amax(dim=1) >= threshold
    return labels.where(sure, -100)


def consistency(stage_logits: Sequence[Tensor] | Tensor) -> Tensor:
    """Mean over the stage pairs i < j of KL(p_j || p_i), the mean over the batch.

    The gradient flows into both stages of a pair. A single stage has no pair: 0.

    Args:
        stage_logits: S tensors [B, C] from the shallowest stage to the deepest, or one [S, B, C].
    """
    log_p = [F.log_softmax(_wide(z), dim=-1) for z in stage_logits]
    pairs = [(i, j) for j in range(len(log_p)) for i in range(j)]
    if not pairs:
        return log_p[0].new_zeros(())
    divergences = [F.kl_div(log_p[i], log_p[j], reduction="batchmean", log_target=True) for i, j in pairs]
    return torch.stack(divergences).mean()


def distillation(stage_features: Tensor, frozen: Tensor) -> Tensor:
    """1 - cosine between each stage's feature and the frozen tower's final feature, the mean over stages and batch.

    From 0 (same direction) to 2; no gradient enters ``frozen``.

    Args:
        stage_features: [B, S, D].
        frozen: [B, D].
    """
    cosine = F.cosine_similarity(_wide(stage_features), _wide(frozen.detach()).unsqueeze(1), dim=-1)
    return (1 - cosine).mean()


def focal_dice(
    logits: Tensor,
    mask: Tensor,
    *,
    focal_weight: float = 100.0,
    present_only: bool = True,
    ignored_negative: bool = True,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Sigmoid focal loss, weighted, and Dice loss of class masks (Cascade-CLIP, section 3.4; ZegCLIP, section 3.5).

    Focal (Lin et al., ICCV 2017, equation 5) is a mean over pixels and a sum over images and ALL classes; Dice
    (Milletari et al., 3DV 2016), 1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1), a sum over the classes PRESENT in each
    image. Both are divided by the number of (image, present class) pairs, as in the release.

    Args:
        logits: [B, C, H, W].
        mask: [B, H, W] integer class indices; anything outside 0..C-1 is ignored (255 by custom).
        focal_weight: of the focal loss; Dice has weight 1.
        present_only: divide the focal loss by the pairs that are present, as released, though all classes are summed;
            False divides by all B * C of them.
        ignored_negative: an ignored pixel counts as a negative of every class in the focal loss and enlarges sum(p) in
            Dice, as released; False leaves it out of both.

    Returns:
        The two scalars, each at least fp32. Without a labelled pixel in the batch the divisor is 1.
    """
    logits, classes = _wide(logits).flatten(2), logits.shape[1]
    mask = mask.flatten(1).long()
    valid = (mask >= 0) & (mask < classes)
    index = torch.where(valid, mask, classes)
    target = F.one_hot(index, classes + 1)[..., :classes].transpose(1, 2).to(logits.dtype)  # [B, C, HW]
    counted = torch.ones_like(valid) if ignored_negative else valid
    counted = counted[:, None].to(logits.dtype)
    present = target.sum(dim=-1) > 0
    pairs = present.sum().clamp(min=1)

    p = logits.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    share = alpha * target + (1 - alpha) * (1 - target)
    per_pixel = share * surprise * (1 - right) ** gamma * counted
    focal = (per_pixel.sum(dim=-1) / counted.sum(dim=-1).clamp(min=1)).sum()
    focal = focal_weight * focal / (pairs if present_only else present.numel())

    p = p * counted
    overlap = 1 - (2 * (p * target).sum(dim=-1) + 1) / (p.sum(dim=-1) + target.sum(dim=-1) + 1)
    return focal, (overlap * present).sum() / pairs


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
