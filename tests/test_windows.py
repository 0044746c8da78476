"""Sliding windows against a loop over pixels."""

from __future__ import annotations

import pytest
import torch

from hc_lafter.systems.windows import sliding, starts


def predict(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, h, w] -> [B, 2, h, w]: depends on what else the window sees, and on the place within it."""
    place = torch.arange(images.shape[3]) / 10
    return torch.stack([images.mean(dim=(1, 2, 3), keepdim=True)[:, 0] + images[:, 0], images[:, 1] + place], dim=1)


@pytest.mark.parametrize("size, crop, stride", [
    ((8, 8), 8, 4), ((8, 8), 8, 8), ((12, 8), 8, 4), ((13, 19), 8, 4), ((13, 19), 8, 3), ((9, 30), 8, 8),
    ((5, 6), 8, 4), ((5, 20), 8, 4), ((16, 16), 4, 1),
])  # fmt: skip
def test_every_pixel_is_the_mean_over_the_windows_that_see_it(size, crop, stride):
    torch.manual_seed(0)
    images, (height, width) = torch.randn(2, 3, *size), size
    expected = torch.empty(2, 2, *size)
    corners = [
        (top, left)
        for top in range(max(1, height - crop + 1))
        for left in range(max(1, width - crop + 1))
        if (top % stride == 0 or top == height - crop) and (left % stride == 0 or left == width - crop)
    ]
    answers = {(t, s): predict(images[:, :, t : t + crop, s : s + crop]) for t, s in corners}
    for y in range(height):
        for x in range(width):
            seen = [answers[t, s][:, :, y - t, x - s] for t, s in corners if t <= y < t + crop and s <= x < s + crop]
            assert seen
            expected[:, :, y, x] = torch.stack(seen).mean(dim=0)
    torch.testing.assert_close(sliding(predict, images, crop=crop, stride=stride), expected)


@pytest.mark.parametrize("length, crop, stride, expected", [
    (336, 224, 112, [0, 112]), (500, 224, 112, [0, 112, 224, 276]), (224, 224, 112, [0]), (100, 224, 112, [0]),
    (225, 224, 112, [0, 1]),
])  # fmt: skip
def test_where_windows_begin(length, crop, stride, expected):
    assert starts(length, crop, stride) == expected


def test_one_window_is_the_system_itself():
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(sliding(predict, images), predict(images))


@pytest.mark.parametrize("crop, stride", [(8, 9), (8, 0), (0, 0)])
def test_windows_that_leave_gaps(crop, stride):
    with pytest.raises(ValueError, match=f"a crop of {crop} px and a stride of {stride} px leave gaps"):
        sliding(predict, torch.randn(1, 3, 9, 9), crop=crop, stride=stride)


def test_an_answer_at_another_size():
    with pytest.raises(ValueError, match=r"a window of \(4, 4\) px came back with logits of \(2, 2\)"):
        sliding(lambda x: x[..., ::2, ::2], torch.randn(1, 3, 9, 9), crop=4, stride=4)
