"""Both published segmentation systems on a real ViT-B/16 (random weights) and a small tree in PASCAL VOC's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_segmentation_sets import write_list, write_mask

from hc_lafter.analysis.segmentation import interval_of, measure
from hc_lafter.clip.load import load_clip
from hc_lafter.clip.text import class_embeddings
from hc_lafter.data import open_data
from hc_lafter.data.masks.names import VOC
from hc_lafter.data.masks.sets import mask_split, names_of, templates_of
from hc_lafter.systems.cascade_clip import CascadeCLIP, CascadeCLIPConfig, account
from hc_lafter.systems.masks import sliding
from hc_lafter.systems.regimes import SeenMasks
from hc_lafter.systems.sc_clip import SCClip, preset
from hc_lafter.tuning import masks
from hc_lafter.tuning.training import fit

pytestmark = pytest.mark.slow

SIDES = ((250, 180), (180, 250), (200, 200))  # width, height: what real sets are like


def voc_tree(root: Path, train: int = 11, val: int = 10) -> Path:
    """Pictures to learn from and to be judged by, in VOC 2012's layout: a seen class left, an unseen one right."""
    home = root / "VOCdevkit" / "VOC2012"
    stems = {"train": [f"2007_{i:06d}" for i in range(train)], "val": [f"2008_{i:06d}" for i in range(val)]}
    for split, group in stems.items():
        for i, stem in enumerate(group):
            width, height = SIDES[i % len(SIDES)]
            values = np.zeros((height, width), np.uint8)
            values[:, : width // 2], values[:, width // 2 :] = 1 + i % 15, 16 + i % 5
            values[0] = 255
            (home / "JPEGImages").mkdir(parents=True, exist_ok=True)
            pixels = np.stack([values * 12, 255 - values * 9, values * 5], axis=-1)
            Image.fromarray(pixels).save(home / "JPEGImages" / f"{stem}.jpg")
            write_mask(home / "SegmentationClass" / f"{stem}.png", values)
        write_list(home / "ImageSets" / "Segmentation" / f"{split}.txt", group)
    return home


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    home = voc_tree(tmp_path_factory.mktemp("data"))
    return open_data(f"voc:{home}", n_train=100, n_val=100, n_test=100)


@pytest.fixture(scope="module")
def clip():
    return load_clip("ViT-B-16/random")


@pytest.fixture(scope="module")
def text(clip, voc):
    first = [words[0] for words in names_of(voc).values()]
    return class_embeddings(clip, first, templates_of(voc)[:2])


def test_cascade_clip_learns_on_voc_and_is_judged_at_the_masks_own_size(clip, voc, text):
    split = mask_split(None, voc)
    assert voc.mask_classes == VOC and split.name == "voc15-5" and len(split.unseen) == 5
    seen = torch.from_numpy(~split.is_unseen(voc.mask_classes))
    system = CascadeCLIP(clip.visual, text, seen, CascadeCLIPConfig())
    assert round(account(system)["released trainable"] / 1e6, 2) == 40.09
    frozen = {name: value.clone() for name, value in system.visual.named_parameters()}
    views = masks.MaskViews(voc.split("train"), clip, size=(96, 96))
    history = fit(
        system, views, SeenMasks(transductive=True), system.schedule(2, transductive=True),
        batch_size=4, seed=0, progress=False, train_mode=True,
    )  # fmt: skip
    losses = [row["loss"] for row in history.steps]
    assert history.diverged is None and np.isfinite(losses).all() and losses[-1] < losses[0]
    assert all(torch.equal(value, frozen[name]) for name, value in system.visual.named_parameters())

    def windows(images):
        return sliding(lambda crop: system.decide(system(crop).logits), images, crop=96, stride=64)

    exam = masks.MaskViews(voc.split("test"), clip, short=112)
    found = masks.score_masks(windows, exam, unseen=split.unseen, batch_size=4, progress=False)
    pixels = sum(int((voc.split("test")[i].mask != 255).sum()) for i in range(10))
    assert found.counts.shape == (10, 20, 3) and found.counts[..., 2].sum() == found.counts[..., 1].sum() == pixels
    estimate = interval_of(found.counts, measure("miou"), resamples=100, rng_seed=0)
    assert 0 <= estimate.low <= estimate.value <= estimate.high < 1 and estimate.n == 10


def test_sc_clip_has_the_releases_settings_for_this_tower_and_takes_every_shape(clip, voc, text):
    system = SCClip(clip.visual, text, preset(clip.name))
    assert system.config == preset("ViT-B-16") and system.layers == list(range(4, 12))
    exam = masks.MaskViews(voc.split("test"), clip, short=224)
    with torch.inference_mode():
        item = exam[0]  # 250 x 180: 14 x 19 patches
        out = system(item["student"][None], keep=True)
    assert out.grid == (item["student"].shape[1] // 16, item["student"].shape[2] // 16) and out.grid[0] != out.grid[1]
    patches = out.grid[0] * out.grid[1]
    assert out.steps["outliers"].sum() == int(np.ceil(0.05 * (patches - 1))) and out.logits.isfinite().all()
    found = masks.score_masks(
        lambda x: system(x).logits, exam, unseen=mask_split(None, voc).unseen, batch_size=4, progress=False
    )
    assert found.counts[..., 2].sum() > 0 and np.isfinite(found.compute()["miou"])
