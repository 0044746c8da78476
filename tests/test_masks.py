"""From logits to a class per pixel, against a loop over pixels. (Logits themselves: test_sc_clip.)"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hc_lafter.systems.masks import decide, enlarge


@pytest.fixture
def logits() -> torch.Tensor:
    """[3, 6, 7, 9]; classes that win much and classes that win little."""
    torch.manual_seed(0)
    return 2 * torch.randn(3, 6, 7, 9) + torch.tensor([0.0, 2.0, 1.0, 0.0, -2.0, -2.0])[:, None, None]


def slow(logits: torch.Tensor, background: int, probability: float, area: float) -> torch.Tensor:
    out = torch.empty(len(logits), *logits.shape[2:], dtype=torch.int64)
    for b, image in enumerate(logits):
        chance = image.softmax(dim=0)
        winners = [int(chance[:, y, x].argmax()) for y in range(image.shape[1]) for x in range(image.shape[2])]
        foreground = sum(c != background for c in winners)
        small = {c for c in range(len(image)) if c != background and winners.count(c) <= area * foreground}
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                left = {c: float(chance[c, y, x]) for c in range(len(image)) if not (area and c in small)}
                best = max(left, key=left.get)
                out[b, y, x] = best if left[best] >= probability else background
    return out


@pytest.mark.parametrize("background", [0, 3])
@pytest.mark.parametrize("probability, area", [(0, 0), (0.5, 0), (0, 0.1), (0.4, 0.15), (0.99, 0), (0, 0.9)])
def test_thresholds(logits, background, probability, area):
    ours = decide(logits, background=background, probability=probability, area=area)
    assert ours.dtype == torch.int64
    assert torch.equal(ours, slow(logits, background, probability, area))


def test_each_threshold_changes_something(logits):
    plain = decide(logits)
    assert torch.equal(plain, logits.argmax(dim=1)) and torch.equal(plain, decide(logits, background=0))
    for threshold in ({"probability": 0.5}, {"area": 0.1}):
        assert not torch.equal(plain, decide(logits, background=0, **threshold))


def test_each_image_has_areas_of_its_own(logits):
    alone = torch.cat([decide(image[None], background=0, area=0.1) for image in logits])
    assert torch.equal(decide(logits, background=0, area=0.1), alone)


@pytest.mark.parametrize("given, told", [
    ({"probability": 0.1}, "need a class to give pixels to: name the background"),
    ({"area": 0.1}, "need a class to give pixels to"),
    ({"probability": 1.0, "background": 0}, "the probability threshold is 1.0: give at least 0 and less than 1"),
    ({"area": -0.1, "background": 0}, "the area threshold is -0.1"),
])  # fmt: skip
def test_thresholds_that_cannot_be(logits, given, told):
    with pytest.raises(ValueError, match=told):
        decide(logits, **given)


@pytest.mark.parametrize("grid, size", [((7, 5), (112, 64)), ((3, 4), (3, 4)), ((9, 9), (5, 4)), ((1, 6), (8, 6))])
def test_enlarged_as_torch_does(grid, size):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *grid)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge(maps, size), expected, rtol=0, atol=1e-6)
