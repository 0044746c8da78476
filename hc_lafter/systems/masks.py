"""From patch features to a class per pixel: mask logits of dense CLIP features, and the decision with its thresholds.

B images, C classes, K class names, N = h x w patches, D embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    logits = enlarge((scale * cosine).mT.contiguous().unflatten(2, grid), size)
    if owner is None:
        return logits
    return torch.stack([logits[:, owner == c].amax(dim=1) for c in range(int(owner.max()) + 1)], dim=1)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., h, w] -> [..., H, W], bilinear: F.interpolate's values, two to ten times as fast on a CPU.

    Bilinear interpolation is linear and takes rows and columns in turn, so it is two small matrix products.
    """
    rows, columns = (
        F.interpolate(torch.eye(n, dtype=maps.dtype, device=maps.device)[None], size=to, mode="linear")[0]
        for n, to in zip(maps.shape[-2:], size, strict=True)
    )
    return rows.mT @ maps @ columns


def decide(logits: Tensor, *, background: int | None = None, probability: float = 0.0, area: float = 0.0) -> Tensor:
    """[B, H, W] int64 classes of [B, C, H, W] logits: the likeliest, and the background where there is one in doubt.

    The thresholds that SC-CLIP, SCLIP and MaskCLIP's line of work sets per data set, and that move its numbers by
    points: SC-CLIP's release has probability .15 and area .1 on VOC with background, .15 on Context with background,
    .35 on COCO-Object, and none where every pixel has a class. (The release takes the softmax over names before a
    class's largest; here it is over classes. They differ where a class has several names.)

    Args:
        background: the class that takes pixels in doubt; None: nothing is in doubt, and no threshold is allowed.
        probability: a pixel whose likeliest class has a smaller softmax probability is background.
        area: a class that wins no more than this share of an image's pixels that are not background wins none there:
            each of them goes to the next likely class. Comes before ``probability``.

    Raises:
        ValueError: a threshold without a background, or out of [0, 1).
    """
    for name, value in (("probability", probability), ("area", area)):
        if not 0 <= value < 1:
            raise ValueError(f"the {name} threshold is {value}: give at least 0 and less than 1.")
    if background is None:
        if probability or area:
            raise ValueError(
                f"probability={probability} and area={area} need a class to give pixels to: name the background."
            )
        return logits.max(dim=1).indices  # several times as fast as argmax across a strided axis
    chance = logits.softmax(dim=1)
    if area:
        won = F.one_hot(chance.max(dim=1).indices, logits.shape[1]).sum(dim=(1, 2))  # [B, C] pixels
        won[:, background] = 0
        small = won <= area * won.sum(dim=1, keepdim=True)
        small[:, background] = False
        chance = chance.masked_fill(small[:, :, None, None], 0.0)
    best, classes = chance.max(dim=1)
    return classes.masked_fill(best < probability, background)
