"""Local outlier factor of the patch tokens of a batch of images: Breunig's, and what SC-CLIP's release computes.

Breunig, Kriegel, Ng, Sander, "LOF: identifying density-based local outliers" (SIGMOD 2000); SC-CLIP (Bai et al., TIP
2025, released code 0417ba9). Batched, without a loop over images or patches. B images, N patches, D channels. Tensors
in, tensors out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hc_lafter.analysis.statistics import rank_correlation

METHODS = ("released", "exact")
# Squared distances come from |x|^2 + |y|^2 - 2xy.
_CANCELS = 0.04  # d^2 / |x|^2, below which float32 loses the fifth digit of d
_ROUNDINGS = 32  # times epsilon times |x|^2: differences below that are roundings
_SPARE = 3  # candidates behind rank k, among which ties are settled
_SMOOTH = 1e-10  # scikit-learn's: it keeps the density of a point finite that lies on k others


def neighbourhood(k: int | float, patches: int) -> int:
    """How many neighbours ``k`` means among N patches: a number as it is, a share (0 < k < 1) of N, rounded, from 1.

    The release has 30 of 196. A share travels to other grids: 30 of the 49 of ViT-B/32 are hardly local.

    Raises:
        ValueError: k is neither, or is not below N: each patch would then be the neighbour of every other.
    """
    whole = isinstance(k, int) and not isinstance(k, bool)
    if not (k >= 1 if whole else isinstance(k, float) and 0 < k < 1):
        raise ValueError(f"k is {k!r}: give a number of neighbours from 1, or a share of the patches between 0 and 1.")
    count = k if whole else max(1, round(k * patches))
    if count >= patches:
        raise ValueError(
            f"k = {k} leaves no neighbourhood among {patches} patches: give less than {patches}, or a share such as "
            f"{30 / 196:.2f}, the release's 30 of 196."
        )
    return count


def lof(patches: Tensor, k: int | float, method: str = "released") -> Tensor:
    """[B, N] outlier scores of [B, N, D] patches, each image for itself; about 1 inside a cluster, larger outside.

    - ``exact``: Breunig's, with Euclidean distances d and the reachability max(d_ij, d_k(j)) of the *neighbour's*
      k-distance: mean over the k nearest j of lrd_j / lrd_i, lrd_i = 1 / mean_j max(d_ij, d_k(j)). It is minus
      scikit-learn's ``negative_outlier_factor_``.
    - ``released``: SC-CLIP's. *Squared* distances and the reachability max(d_ij, d_k(i)) of the point's *own*
      k-distance, which is d_k(i) always; so score_i = r_i * mean_j 1 / r_j with r = squared k-distance.

    Ties at rank k: exactly k neighbours are taken (as scikit-learn does; Breunig takes all that tie), and which of
    them is up to the rounding; that may change a score by some 1e-3.

    Duplicates: a patch is never its own neighbour, its copies are. A patch with k copies has a k-distance of 0. Under
    ``released``, where 1 / r_j is then infinite, r is held above float64's epsilon times the image's mean squared
    distance to its centre: copies of one patch score 1 among themselves, their neighbours outside score high and
    finite, and an image of one colour scores 1 everywhere. Under ``exact`` scikit-learn's 1e-10 does the same.

    Computed in float32 (float64 for float64), and in float64 where that would not do: the distances of patches whose
    k-th and next neighbour float32 cannot tell apart, and all of an image in which neighbours lie so close together,
    seen from the image's centre, that float32 loses the fifth digit.

    Raises:
        ValueError: not [B, N, D], a method that is none of the two, or a ``k`` that ``neighbourhood`` refuses.
    """
    if patches.ndim != 3:
        raise ValueError(f"patches must be [images, places, width], but their shape is {tuple(patches.shape)}.")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}.")
    count = neighbourhood(k, patches.shape[1])
    with torch.autocast(patches.device.type, enabled=False):  # bfloat16 has no digit to lose
        x = patches if patches.dtype == torch.float64 else patches.float()
        candidates = min(count + _SPARE, patches.shape[1] - 1)
        nearest, index, norms = _nearest(x, candidates)
        if x.dtype != torch.float64:
            loose = (nearest[..., 0] < _CANCELS * norms).any(dim=1)
            if loose.any():
                again, at, _ = _nearest(x[loose].cpu().double(), candidates)  # CPU: Apple's GPUs have no float64
                nearest[loose], index[loose] = again.to(nearest), at.to(index)
            _settle(x, nearest, index, norms.masked_fill(loose[:, None], 0.0), count)
        nearest, index = nearest[..., :count], index[..., :count].contiguous()
        score = _released(nearest, index, norms) if method == "released" else _exact(nearest, index)
        return score.to(x.dtype)


def outliers(scores: Tensor, contamination: float = 0.05) -> Tensor:
    """[B, N] bool: scores above their image's (1 - contamination) quantile, linearly interpolated; strictly above.

    Of N scores without ties that is a share of ``contamination``, rounded: 10 of 196 at .05. Equal scores everywhere
    have no outlier.

    Raises:
        ValueError: not [B, N], or a contamination that is not at least 0 and below 1.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be [images, places], but their shape is {tuple(scores.shape)}.")
    if not 0 <= contamination < 1:
        raise ValueError(f"contamination is {contamination}: give the share of patches that is taken as anomalous.")
    return scores > torch.quantile(scores, 1 - contamination, dim=1, keepdim=True)


def facts(patches: Tensor, k: int | float, contamination: float) -> dict[str, Tensor]:
    """What the two scores say of patches [B, N, W]: a number per image, [B] float64, by name.

    How many outliers either finds, the share of both in either, whether the released ones are those of large norm, the
    largest norm over the median, and the rank correlation of the scores.
    """
    score = {method: lof(patches, k, method) for method in METHODS}
    found, norm = {method: outliers(s, contamination) for method, s in score.items()}, patches.norm(dim=2)
    released, exact = found["released"], found["exact"]
    heavy = outliers(norm, contamination) & released
    ranks = torch.from_numpy(rank_correlation(*(s.cpu() for s in score.values())))
    numbers = {f"outliers, {method}": o.sum(1) for method, o in found.items()} | {
        "outliers shared by the two, of all found": (released & exact).sum(1) / (released | exact).sum(1).clamp(min=1),
        "released outliers among the largest norms": heavy.sum(1) / released.sum(1).clamp(min=1),
        "largest norm / median norm": norm.amax(1) / norm.median(1).values,
        "rank correlation of the two scores": ranks,
    }
    return {name: number.double() for name, number in numbers.items()}


def rankings(patches: Tensor, k: int | float) -> dict[str, Tensor]:
    """[B, N] each: what may tell the anomalous of the patches [B, N, W]: both scores, and the norm, as a control."""
    return {f"{method} LOF": lof(patches, k, method) for method in METHODS} | {"norm": patches.norm(dim=2)}


def detection(scores: Tensor, planted: Tensor, contamination: float) -> dict[str, Tensor]:
    """How well a score [B, N] finds the patches that were planted [B, N] (bool): a number per image, [B] float64.

    ``precision`` and ``recall`` of `outliers` at that contamination; ``average precision`` of the score as a ranking:
    the mean, over the planted patches, of the precision at their rank.
    """
    found = outliers(scores, contamination)
    hit = (found & planted).sum(1).double()
    ranked = planted.gather(1, scores.argsort(dim=1, descending=True, stable=True)).double()
    at_rank = ranked.cumsum(1) / torch.arange(1, 1 + ranked.shape[1], device=ranked.device)
    return {
        "precision": hit / found.sum(1).clamp(min=1),
        "recall": hit / planted.sum(1),
        "average precision": (at_rank * ranked).sum(1) / ranked.sum(1),
    }


def detections(patches: Tensor, planted: Tensor, k: int | float, contamination: float) -> dict[tuple[str, str], Tensor]:
    """(ranking, measure) -> [B]: `detection` of planted patches [B, N] among [B, N, W] by each of `rankings`."""
    return {
        (by, measure): values
        for by, scores in rankings(patches, k).items()
        for measure, values in detection(scores.to(planted.device), planted, contamination).items()
    }


def _nearest(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances and places [B, N, k] of the nearest others, in ascending order; squared norms [B, N]."""
    x = x - x.mean(dim=1, keepdim=True)  # distances stay, and what all patches share no longer cancels
    products = torch.bmm(x, x.mT)
    norms = products.diagonal(dim1=1, dim2=2).clone()
    products -= norms[:, None] / 2  # now the larger the nearer: (|x_i|^2 - d_ij) / 2
    products.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    nearness, index = products.topk(k, dim=2)
    nearest = norms[..., None] - 2 * nearness
    # Copies come out as a rounding of zero, on either side of it.
    zero = _ROUNDINGS * torch.finfo(x.dtype).eps * norms[..., None]
    return nearest.masked_fill(nearest < zero, 0.0), index, norms


def _settle(x: Tensor, nearest: Tensor, index: Tensor, norms: Tensor, k: int) -> None:
    """Reorder, in place, the candidates of patches whose k-th and next distance are roundings of ``norms`` apart."""
    if nearest.shape[2] == k:
        return
    unsure = nearest[..., k] - nearest[..., k - 1] < _ROUNDINGS * torch.finfo(x.dtype).eps * norms
    for image, place in (pair.unbind(1) for pair in unsure.nonzero().split(512)):
        tied = x[image[:, None], index[image, place]].cpu().double() - x[image, place, None].cpu().double()
        exact, order = tied.square().sum(dim=2).sort(dim=1)
        nearest[image, place] = exact.to(nearest)
        index[image, place] = index[image, place].gather(1, order.to(index))


def _of_neighbours(values: Tensor, index: Tensor) -> Tensor:
    """[B, N, k]: what each patch's neighbours have of [B, N] values."""
    return values.gather(1, index.flatten(1)).view_as(index)


def _released(nearest: Tensor, index: Tensor, norms: Tensor) -> Tensor:
    floor = torch.finfo(torch.float64).eps * norms.mean(dim=1, keepdim=True)
    r = nearest[..., -1].clamp_min(torch.finfo(torch.float32).tiny).maximum(floor)
    return (r[..., None] / _of_neighbours(r, index)).mean(dim=2)


def _exact(nearest: Tensor, index: Tensor) -> Tensor:
    distance = nearest.sqrt()
    reach = distance.maximum(_of_neighbours(distance[..., -1], index)).mean(dim=2) + _SMOOTH
    return reach * _of_neighbours(1 / reach, index).mean(dim=2)
