"""Large images through small windows: any system that gives mask logits, crop by crop, overlaps averaged."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along a side of ``length`` pixels: every ``stride``, the last one flush with the end.

    A side shorter than the crop has one window, which is as long as the side.
    """
    last = max(length - crop, 0)
    return [*range(0, last, stride), last]


def sliding(predict: Callable[[Tensor], Tensor], images: Tensor, *, crop: int = 224, stride: int = 112) -> Tensor:
    """[B, C, H, W] logits of [B, 3, H, W] images: the mean over all windows that see a pixel.

    SC-CLIP's and SCLIP's releases: crop 224, stride 112, images resized beforehand to a short side of 336 (560 on
    Cityscapes). The last window of a row or column is moved back into the image, not padded.

    Args:
        predict: [B, 3, h, w] -> [B, C, h, w], such as ``lambda crop: system(crop).logits``.
        crop, stride: pixels, along both sides.

    Raises:
        ValueError: a crop or stride below 1, a stride that leaves gaps, or logits of another size than their window.
    """
    if not 1 <= stride <= crop:
        raise ValueError(f"a crop of {crop} px and a stride of {stride} px leave gaps: give 1 <= stride <= crop.")
    height, width = images.shape[2:]
    total = seen = None
    for top, left in product(starts(height, crop, stride), starts(width, crop, stride)):
        place = (..., slice(top, top + crop), slice(left, left + crop))
        logits = predict(images[place])
        if logits.shape[2:] != images[place].shape[2:]:
            raise ValueError(
                f"a window of {tuple(images[place].shape[2:])} px came back with logits of {tuple(logits.shape[2:])}: "
                f"the system has to answer at the size it was asked at."
            )
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
            seen = torch.zeros(height, width, dtype=logits.dtype, device=logits.device)
        total[place] += logits
        seen[place] += 1
    return total / seen
