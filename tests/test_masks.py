"""From logits to a class per pixel, and sliding windows, against loops over pixels. (Logits: test_sc_clip.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_segmentation_sets import voc

from hc_lafter.analysis import segmentation
from hc_lafter.clip.load import resized_transform
from hc_lafter.data.masks.sets import SETS
from hc_lafter.systems.masks import PROTOCOLS, decide, enlarge, sliding
from hc_lafter.tuning import runs
from hc_lafter.tuning.masks import draw
from hc_lafter.tuning.material import opened, opened_masks
from hc_lafter.tuning.setting import Setting


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


def test_every_set_whose_background_is_a_class_has_a_protocol():
    assert set(PROTOCOLS) == {name for name, (_, background) in SETS.items() if background == "class"}


@pytest.mark.parametrize("grid, size", [((7, 5), (112, 64)), ((3, 4), (3, 4)), ((9, 9), (5, 4)), ((1, 6), (8, 6))])
def test_enlarged_as_torch_does(grid, size):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *grid)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge(maps, size), expected, rtol=0, atol=1e-6)


# --- sliding windows ---


def predict(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, h, w] -> [B, 2, h, w]: depends on what else the window sees, and on the place within it."""
    place = torch.arange(images.shape[3]) / 10
    return torch.stack([images.mean(dim=(1, 2, 3), keepdim=True)[:, 0] + images[:, 0], images[:, 1] + place], dim=1)


@pytest.mark.parametrize("size, crop, stride", [
    ((8, 8), 8, 4), ((8, 8), 8, 8), ((12, 8), 8, 4), ((13, 19), 8, 4), ((13, 19), 8, 3), ((9, 30), 8, 8),
    ((5, 6), 8, 4), ((5, 20), 8, 4), ((16, 16), 4, 1),
])  # fmt: skip
def test_every_pixel_is_the_mean_over_the_windows_that_contain_it(size, crop, stride):
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
            at = [answers[t, s][:, :, y - t, x - s] for t, s in corners if t <= y < t + crop and s <= x < s + crop]
            expected[:, :, y, x] = torch.stack(at).mean(dim=0)
    torch.testing.assert_close(sliding(predict, images, crop=crop, stride=stride), expected)


def test_one_window_is_the_system_itself():
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(sliding(predict, images, crop=224, stride=112), predict(images))


# --- the protocol ---


@torch.inference_mode()
@pytest.mark.parametrize("name", ["SC-CLIP", "value path"])
def test_a_set_with_background_is_scored_as_its_release_does(tmp_path, monkeypatch, name):
    """Windows of the tower's side, half apart, over a short side of one and a half; cosines times 50; thresholds."""
    texts = torch.randn(21, 512, generator=torch.Generator().manual_seed(0))  # of words that the tests' CLIP lacks
    monkeypatch.setattr(runs, "class_embeddings", lambda clip, *_, **__: F.normalize(texts[:, : clip.embed_dim], dim=1))
    sizes = {"n_train": 20, "n_val": 10, "n_test": 10}
    setting = Setting(mask_data=f"voc21:{voc(tmp_path)}", cache=tmp_path / "cache", **sizes)
    run = runs.Run(name, "no training", 0, setting, n_test=2)
    assert run.settings.logit_scale == 50
    counts = runs.compute(run).arrays["counts"]
    scenes, start, clip = opened_masks(setting), runs.start_of(run), opened(setting)[0]
    assert start.seen.all() and scenes.mask_classes[0] == "background"
    system = run.entry.build(start, run.settings, 0)
    plain = []
    for row, index in enumerate(draw(scenes, "test", 2, 0)):
        record = scenes[index]
        scale = 1.5 * clip.image_size / min(record.image.size)
        size = tuple(round(side * scale / clip.patch_size) * clip.patch_size for side in record.image.size[::-1])
        pixels = resized_transform(clip, size)(record.image)[None]
        logits = sliding(lambda x: system(x).logits, pixels, crop=64, stride=32)
        logits = F.interpolate(logits, size=record.mask.shape, mode="bilinear", align_corners=False)
        expected = decide(logits, background=0, probability=0.15, area=0.1)
        assert np.array_equal(counts[row], segmentation.counts(expected, record.mask[None], 21)[0])
        plain.append(segmentation.counts(decide(logits), record.mask[None], 21)[0])
    assert not np.array_equal(counts, plain)
