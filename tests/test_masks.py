"""From logits to a class per pixel, and sliding windows, against loops over pixels. (Logits: test_sc_clip.)"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_segmentation_sets import paint, voc, write_mask

from hc_lafter.analysis import segmentation
from hc_lafter.clip.load import resized_transform
from hc_lafter.clip.text import class_embeddings
from hc_lafter.data.masks.sets import SETS, names_of
from hc_lafter.data.world import grammar, painter
from hc_lafter.suite.plans import untrained
from hc_lafter.systems import find
from hc_lafter.systems.masks import Protocol, decide, enlarge, of_classes, sliding
from hc_lafter.tuning import computing, runs
from hc_lafter.tuning import start as start_module
from hc_lafter.tuning.masks import draw
from hc_lafter.tuning.material import opened, opened_masks
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.start import start_of


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


def post_processed(logits: torch.Tensor, owner: list[int], protocol: Protocol) -> np.ndarray:
    """[H, W] of one image's [K, H, W], pixel by pixel: softmax over names, a class's best name, area, probability."""
    powers = np.exp(logits.double().numpy() - logits.amax(0).double().numpy())
    names, classes = powers / powers.sum(0), max(owner) + 1
    chance = np.array([names[[k for k, c in enumerate(owner) if c == of]].max(0) for of in range(classes)])
    height, width = chance.shape[1:]
    first = np.array([[int(chance[:, y, x].argmax()) for x in range(width)] for y in range(height)])
    foreground = (first != 0).sum()
    for of in range(1, classes):
        if protocol.area and (first == of).sum() <= protocol.area * foreground:
            chance[of] = 0
    out = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            best = int(chance[:, y, x].argmax())
            out[y, x] = best if chance[best, y, x] >= protocol.probability else 0
    return out


RELEASED = {  # by their configurations: probability, area, scale; px of the short side, a window, a stride; background
    "SC-CLIP": (0.15, 0.1, 50, 336, 224, 112, 26),
    "value path": (0.15, 0.1, 50, 336, 224, 112, 26),
    "SCLIP": (0.1, 0.1, 65, 336, 224, 112, 26),
    "NACLIP": (0.1, 0.0, 40, 336, 224, 112, 26),
    "ClearCLIP": (0.5, 0.0, 50, 448, 448, 224, 1),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", RELEASED)
def test_voc21_is_scored_as_the_release_does_to_the_pixel(tmp_path, monkeypatch, name):
    """Sides, resampling, windows, several names for a class, thresholds: written out beside the run."""
    probability, area, scale, *pixels, behind = RELEASED[name]
    made = {}

    def embedded(clip, words, *_, **__):
        """In the place of words that the tests' CLIP lacks: words of its own, in another order, a little blurred."""
        generator = torch.Generator().manual_seed(2)
        own = class_embeddings(clip, [grammar.SYNONYMS[n][0] for n in painter.MASK_CLASSES], grammar.CLASS_TEMPLATES)
        text = own[torch.randint(len(own), (len(words),), generator=generator)]
        text = text + 0.02 * torch.randn(text.shape, generator=generator)
        made["words"], made["text"] = list(words), F.normalize(text, dim=1)
        return made["text"]

    for module in (computing, start_module):
        monkeypatch.setattr(module, "class_embeddings", embedded)
    root = next(voc(tmp_path).rglob("JPEGImages")).parent
    for i, stem in enumerate((root / "ImageSets/Segmentation/val.txt").read_text().split()):
        size = ((11, 7), (9, 13), (8, 8))[i % 3]
        paint(root / "JPEGImages" / f"{stem}.jpg", seed=i, size=size)
        write_mask(root / "SegmentationClass" / f"{stem}.png", np.arange(size[0] * size[1]).reshape(size[::-1]) % 21)
    sizes = {"n_train": 20, "n_val": 10, "n_test": 10}
    setting = Setting(mask_data=f"voc21:{root}", cache=tmp_path / "cache", **sizes)
    run = runs.Run(name, "no training", 0, setting, n_test=3)
    assert run.settings.logit_scale == scale
    counts = computing.compute(run).arrays["counts"]
    words, text = made["words"], made["text"]
    assert words[behind:][:4] == ["aeroplane", "bicycle", "bird", "ship"]
    scenes, clip = opened_masks(setting), opened(setting)[0]
    start = replace(start_of(run), text=text)
    system = run.entry.build(start, run.settings, 0)
    owner = [0] * behind + [c for c, of in enumerate(names_of(scenes, run.entry.protocols["voc21"].words).values())
                            for _ in of if c]  # fmt: skip
    short, window, stride = (side * clip.image_size // 224 for side in pixels)
    changed = 0
    for row, index in enumerate(draw(scenes, "test", 3, 0)):
        record = scenes[index]
        factor = short / min(record.image.size)
        size = tuple(int(side * factor + 0.5) for side in record.image.size)
        x = record.image
        for step in resized_transform(clip, (8, 8)).transforms[1:]:
            x = step(x)
        x = F.interpolate(x[None], size[::-1], mode="bilinear", align_corners=False)
        total, seen = torch.zeros(1, len(owner), *x.shape[2:]), torch.zeros(x.shape[2:])
        for top in {min(t, x.shape[2] - window) for t in range(0, x.shape[2] - window + stride, stride)}:
            for left in {min(s, x.shape[3] - window) for s in range(0, x.shape[3] - window + stride, stride)}:
                place = (..., slice(top, top + window), slice(left, left + window))
                total[place] += system(x[place]).logits
                seen[place] += 1
        assert seen.min() >= 1
        logits = F.interpolate(total / seen, size=record.mask.shape, mode="bilinear", align_corners=False)
        expected = post_processed(logits[0], owner, Protocol(probability, area))
        assert np.array_equal(counts[row], segmentation.counts(expected[None], record.mask[None], 21)[0])
        changed += (expected != of_classes(logits, torch.tensor(owner)).argmax(1)[0].numpy()).sum()
    assert changed or not area  # the thresholds have something to decide


def test_names_compete_and_classes_are_thresholded(logits):
    """A class of two names has the better one's probability, which is not that of its better logit alone."""
    owner = torch.tensor([0, 0, 1, 2, 2, 3])
    for probability, area in ((0.0, 0.0), (0.5, 0.0), (0.3, 0.15)):
        ours = decide(logits, background=0, probability=probability, area=area, owner=owner)
        slow = [post_processed(image, owner.tolist(), Protocol(probability, area)) for image in logits]
        assert np.array_equal(ours.numpy(), slow)
    assert torch.equal(decide(logits, owner=owner), of_classes(logits, owner).argmax(1))
    of_logits = decide(of_classes(logits, owner), background=0, probability=0.5)
    assert not torch.equal(of_logits, decide(logits, background=0, probability=0.5, owner=owner))


def test_every_system_without_training_has_a_protocol_for_each_set_with_background():
    there = {name for name, (_, background) in SETS.items() if background == "class"}
    assert untrained() == ["SC-CLIP", "value path", "plain patches", "SCLIP", "ClearCLIP", "NACLIP"]
    for name in untrained():
        assert set(find(name).protocols) == there
        assert all(p.short >= p.window >= p.stride > 0 for p in find(name).protocols.values())
