"""From patch features to a class per pixel: mask logits, sliding windows, and the thresholds of published protocols.

B images, C classes, K class names, N = h x w patches, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Protocol:
    """How a release scores a data set whose background is a class.

    Attributes:
        probability, area: the thresholds of `decide`.
        scale: factor on the cosines, which decides what a probability threshold means.
        short, window, stride: the image's shorter side, the side of a window and the distance between windows, in sides
            of the tower: 336, 224 and 112 of a tower of 224 px by default.
        words: the names of a class, see `hc_lafter.data.masks.sets.names_of`.
    """

    probability: float
    area: float = 0.0
    scale: float = 40.0
    short: float = 1.5
    window: float = 1.0
    stride: float = 0.5
    words: str = "sclip"


def protocols(voc21: Protocol, context60: Protocol, coco_object: Protocol) -> dict[str, Protocol]:
    """A release's protocols by the names of the data sets, of which some are the same images in another form."""
    return {
        "voc21": voc21,
        "voc21_aug": voc21,
        "context60": context60,
        "context60_voc_first": context60,
        "coco_object": coco_object,
    }


# SC-CLIP's release (commit 0417ba9)
PROTOCOLS = protocols(Protocol(0.15, area=0.1, scale=50.0), Protocol(0.15), Protocol(0.35, scale=55.0))


def mask_logits(
    features: Tensor,
    class_text: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    scale: float = 40.0,
    owner: Tensor | None = None,
) -> Tensor:
    """[B, C, H, W] of patch features [B, N, D]: ``scale`` times the cosine with class names, bilinear to the size.

    Args:
        class_text: [K, D], one row per name; of any length.
        grid: (h, w), rows and columns of patches. size: (H, W) in pixels.
        owner: [K] int64, the class of each name, 0 .. C - 1; a class has the largest of its names, taken after the
            upsampling as SC-CLIP's release does. None: one name per class.
    """
    cosine = F.normalize(features, dim=-1) @ F.normalize(class_text, dim=-1).T
    return of_classes(enlarge((scale * cosine).mT.contiguous().unflatten(2, grid), size), owner)


def of_classes(names: Tensor, owner: Tensor | None) -> Tensor:
    """[B, K, ...] -> [B, C, ...]: of each class the largest of its names' values; ``owner`` as in `mask_logits`."""
    if owner is None:
        return names
    return torch.stack([names[:, owner == c].amax(dim=1) for c in range(int(owner.max()) + 1)], dim=1)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., h, w] -> [..., H, W], bilinear: F.interpolate's values, two to ten times as fast on a CPU.

    Bilinear interpolation is linear and takes rows and columns in turn, so it is two small matrix products.
    """
    rows, columns = (
        F.interpolate(torch.eye(n, dtype=maps.dtype, device=maps.device)[None], size=to, mode="linear")[0]
        for n, to in zip(maps.shape[-2:], size, strict=True)
    )
    return rows.mT @ maps @ columns


def sliding(scores: Callable[[Tensor], Tensor], images: Tensor, *, crop: int, stride: int) -> Tensor:
    """[B, C, H, W] scores of [B, 3, H, W] images: the mean over all windows that contain a pixel.

    Windows begin every ``stride`` pixels; the last of a row or column is moved back into the image, not padded, and a
    side shorter than ``crop`` has one window as long as itself.

    Args:
        scores: [B, 3, h, w] -> [B, C, h, w].
        crop, stride: pixels, along both sides; the stride is at most the crop.
    """
    tops, lefts = ([*range(0, max(n - crop, 0), stride), max(n - crop, 0)] for n in images.shape[2:])
    total = count = None
    for top, left in product(tops, lefts):
        window = (..., slice(top, top + crop), slice(left, left + crop))
        found = scores(images[window])
        if total is None:
            total = found.new_zeros(*found.shape[:2], *images.shape[2:])
            count = torch.zeros_like(total[0, 0])
        total[window] += found
        count[window] += 1
    return total / count


def decide(
    logits: Tensor,
    *,
    background: int | None = None,
    probability: float = 0.0,
    area: float = 0.0,
    owner: Tensor | None = None,
) -> Tensor:
    """[B, H, W] int64 classes of [B, K, H, W] logits: the likeliest, or the background where that is in doubt.

    The post-processing of SCLIP's release, from which later ones start; each sets its thresholds per data set
    (`Protocol`).

    Args:
        owner: [K] int64, the class of each name. The softmax is then taken over names, and a class is as probable as
            its most probable name. None: one name per class.
        background: the class that takes pixels in doubt; None: every pixel gets its likeliest class, and the two
            thresholds do not apply.
        probability: a pixel whose likeliest class has a smaller softmax probability is background.
        area: a class that wins no more than this share of an image's foreground pixels wins none there: each of them
            goes to the next likely class. Applied before ``probability``.
    """
    if background is None:
        return of_classes(logits, owner).max(dim=1).indices  # several times as fast as argmax across a strided axis
    chance = of_classes(logits.softmax(dim=1), owner)
    if area:
        won = F.one_hot(chance.max(dim=1).indices, chance.shape[1]).sum(dim=(1, 2))  # [B, C] pixels
        won[:, background] = 0
        small = won <= area * won.sum(dim=1, keepdim=True)
        small[:, background] = False
        chance = chance.masked_fill(small[:, :, None, None], 0.0)
    best, classes = chance.max(dim=1)
    return classes.masked_fill(best < probability, background)
