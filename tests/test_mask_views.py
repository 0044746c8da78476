"""Images with masks as batches, masks scored: against slow re-computations."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hc_lafter.analysis import segmentation
from hc_lafter.clip.text import class_embeddings
from hc_lafter.clip.vit import project, value_path, walk
from hc_lafter.data.record import Dataset, Record
from hc_lafter.data.world import grammar, painter
from hc_lafter.data.world.dataset import World
from hc_lafter.systems import Masks
from hc_lafter.systems.dense_hybrid import DenseHybridCascade
from hc_lafter.systems.hybrid_cascade import HybridCascadeConfig
from hc_lafter.systems.regimes import SeenPixels
from hc_lafter.systems.value_path import ValuePath, ValuePathConfig
from hc_lafter.tuning import masks
from hc_lafter.tuning.material import opened_masks
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.training import fit

NAMES = painter.MASK_CLASSES


class Sizes(Dataset):
    """Pictures of many sizes, masks of three classes whose value tells the place."""

    name, classes, mask_classes = "sizes", (), ("a", "b", "c")

    def __init__(self, *sizes: tuple[int, int], broken: bool = False):
        self.sizes, self.broken = sizes, broken
        self.ids = [str(i) for i in range(len(sizes))]
        self.labels, self.splits = np.full(len(sizes), -1), np.full(len(sizes), "test")

    def __getitem__(self, index: int) -> Record:
        if self.broken:
            raise OSError("cut off")
        height, width = self.sizes[index]
        mask = (np.indices((height, width)).sum(0) % 3).astype(np.uint8)
        image = Image.fromarray(np.repeat(mask[..., None] * 80, 3, axis=-1))
        return Record(self.ids[index], "test", image, -1, "", mask=mask)

    @property
    def fingerprint(self) -> str:
        return str(self.sizes)


@pytest.fixture(scope="module")
def clip():
    from hc_lafter.clip.load import load_clip

    return load_clip("embedded")


@pytest.fixture(scope="module")
def text(clip):
    return class_embeddings(clip, [grammar.SYNONYMS[name][0] for name in NAMES], grammar.CLASS_TEMPLATES)


# --- views ---


def test_a_fixed_size_resizes_image_and_mask(clip):
    views = masks.MaskViews(Sizes((30, 50), (64, 64)), clip, size=(16, 24))
    for index in range(2):
        item = views[index]
        assert item["student"].shape == (3, 16, 24) and item["mask"].shape == (16, 24)
        assert item["mask"].dtype == torch.uint8 and item["index"] == index
    true = torch.from_numpy(views.dataset[0].mask)
    rows, columns = ((torch.arange(n) + 0.5) * (m / n) for n, m in ((16, 30), (24, 50)))
    nearest = true[rows.long()][:, columns.long()]
    assert torch.equal(views[0]["mask"], nearest)


@pytest.mark.parametrize(("size", "expected"), [((30, 50), (32, 56)), ((50, 30), (56, 32)), ((33, 33), (32, 32))])
def test_a_short_side_rounds_to_whole_patches_and_leaves_the_mask(clip, size, expected):
    item = masks.MaskViews(Sizes(size), clip, short=32)[0]
    assert item["student"].shape[1:] == expected and item["mask"].shape == size


@pytest.mark.parametrize(("size", "expected"), [((30, 50), (32, 53)), ((50, 31), (52, 32)), ((32, 32), (32, 32))])
def test_for_windows_an_image_is_resized_as_mmsegmentation_does(clip, size, expected):
    """OpenCV's bilinear to the nearest pixel; it rounds to 256 levels."""
    views = masks.MaskViews(Sizes(size), clip, short=32, whole=False)
    item, image = views[0], np.asarray(views.dataset[0].image)
    theirs = cv2.resize(image, expected[::-1], interpolation=cv2.INTER_LINEAR)
    ours = item["student"] * torch.tensor(clip.transform.transforms[-1].std)[:, None, None]
    ours = ours + torch.tensor(clip.transform.transforms[-1].mean)[:, None, None]
    assert item["student"].shape[1:] == expected and item["mask"].shape == size
    np.testing.assert_allclose(255 * ours.permute(1, 2, 0), theirs, rtol=0, atol=1.0)


def test_crops_are_drawn_anew_in_each_epoch_and_by_nothing_but_seed_epoch_and_index(clip):
    data = Sizes((60, 90), (90, 60))
    views = masks.MaskViews(data, clip, size=(32, 40), augment=True, seed=3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = views[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert one["student"].shape == (3, 32, 40) and one["mask"].shape == (32, 40) and one["mask"].dtype == torch.uint8
    again = pickle.loads(pickle.dumps(views))
    assert type(one["mask"]) is torch.Tensor and torch.equal(again[0]["student"], one["student"])
    views.set_epoch(1)
    other = masks.MaskViews(data, clip, size=(32, 40), augment=True, seed=4)
    for changed in (views, other):
        assert not torch.equal(changed[0]["student"], one["student"])
    assert views.fingerprint != other.fingerprint != masks.MaskViews(data, clip, size=(32, 40)).fingerprint


class Painted(Dataset):
    """A picture whose red says the class and whose green and blue the place; ``broad`` has little of a second class."""

    name, classes, mask_classes = "painted", (), ("a", "b")

    def __init__(self, size: int, broad: bool = False):
        self.size, self.broad, self.ids = size, broad, ["0"]
        self.labels, self.splits = np.full(1, -1), np.full(1, "train")

    def __getitem__(self, index: int) -> Record:
        mask = np.zeros((self.size, self.size), np.uint8)
        mask[:, : 2 if self.broad else self.size // 2] = 1
        y, x = np.indices(mask.shape) * 255 // self.size
        return Record(
            "0", "train", Image.fromarray(np.stack([mask * 200, y, x], -1).astype(np.uint8)), -1, "", mask=mask
        )

    @property
    def fingerprint(self) -> str:
        return f"{self.size} {self.broad}"


def epochs_of(views: masks.MaskViews, n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for epoch in range(n):
        views.set_epoch(epoch)
        found.append((views[0]["student"], views[0]["mask"]))
    return found


def test_image_and_mask_are_cut_turned_and_padded_alike(clip):
    """Behind the colours, red still says the class; scale, place and flip vary, and what is beyond is ignored."""
    views = masks.MaskViews(Painted(64), clip, size=(64, 64), augment=True)
    views.augment.colours = torch.nn.Identity()
    views.augment.colours.forward = lambda *inputs: inputs
    flips, shares, padded = set(), [], 0
    for image, mask in epochs_of(views, 40):
        inside = mask != 255
        assert set(mask[inside].tolist()) <= {0, 1} and (image[:, ~inside] == 0).all()  # 0: the tower's mean colour
        red = image[0]
        assert ((red > red[inside].mean()) == (mask == 1))[inside].float().mean() > 0.93  # but for mixed edges
        rows, columns = inside.any(1).sum().item(), inside.any(0).sum().item()
        assert inside.sum() == rows * columns and rows == columns >= 32  # a corner, in the top left
        blue = image[2][inside].reshape(rows, columns)
        flips.add(bool(blue[:, 0].mean() > blue[:, -1].mean()))
        shares.append(rows)
        padded += rows < 64
    assert flips == {True, False} and 5 < padded < 35 and len(set(shares)) > 5


def test_no_class_fills_a_crop_where_another_is_at_hand(clip):
    """Of crops that a class may fill to three quarters at most, ten more are drawn; half and half always gives one."""
    half = epochs_of(masks.MaskViews(Painted(64), clip, size=(32, 32), augment=True), 40)
    shares = [max(float((m == c).sum() / (m != 255).sum()) for c in (0, 1)) for _, m in half]
    assert sum(share < 0.75 for share in shares) >= 36
    broad = epochs_of(masks.MaskViews(Painted(64, broad=True), clip, size=(32, 32), augment=True), 10)
    assert all((m == 0).sum() > 0.75 * (m != 255).sum() for _, m in broad)  # none to be found: the last one is taken


def test_colours_are_changed_within_bounds_and_masks_are_not(clip):
    grey = np.full((40, 40, 3), 120, np.uint8)
    colours = masks.CropAndJitter(clip, (32, 32)).colours
    torch.manual_seed(0)
    means = []
    for _ in range(60):
        image, mask = colours(Image.fromarray(grey), torch.arange(4).reshape(2, 2))
        assert torch.equal(mask, torch.arange(4).reshape(2, 2))
        means.append(np.asarray(image).mean())
    assert min(means) >= 120 * (1 - 32 / 255) - 1 and max(means) <= 120 * (1 + 32 / 255) + 1
    assert 15 < sum(abs(m - 120) < 0.01 for m in means) < 45  # brightness moves half; grey has no contrast nor hue


def test_at_its_own_side_the_world_goes_through_the_towers_own_transform(clip):
    world = World(2, 0, 0, side=clip.image_size)
    item = masks.MaskViews(world, clip, short=clip.image_size)[1]
    torch.testing.assert_close(item["student"], clip.transform(world[1].image))
    assert np.array_equal(item["mask"], world[1].mask)


def test_views_go_to_a_worker_without_the_model(clip):
    views = masks.MaskViews(Sizes((30, 50)), clip, short=32)
    sent = pickle.dumps(views)
    assert len(sent) < 1e5
    again = pickle.loads(sent)
    assert torch.equal(again[0]["student"], views[0]["student"]) and again.fingerprint == views.fingerprint


def test_views_that_cannot_be_are_refused(clip):
    data = Sizes((30, 50))
    with pytest.raises(ValueError, match="width of 20 px is not a multiple of the patch side of 8 px"):
        masks.MaskViews(data, clip, size=(16, 20))[0]
    broken = masks.MaskViews(Sizes((30, 50), broken=True), clip, short=32)
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^the image of record '0' in .*'sizes' .*OSError: cut off.: repair it"):
            next(masks.batches(broken, 1, workers))


def test_batches_hold_one_size_in_order(clip):
    data = Sizes((32, 32), (32, 32), (32, 32), (40, 32), (32, 32))
    found = list(masks.batches(masks.MaskViews(data, clip, short=32), 2))
    assert [len(images) for images, _ in found] == [2, 1, 1, 1]
    assert [tuple(mask.shape[1:]) for _, mask in found] == [(32, 32), (32, 32), (40, 32), (32, 32)]


# --- scores ---


def test_patch_shares_are_means_over_each_patchs_pixels():
    mask = torch.from_numpy(World(0, 0, 1)[0].mask)[None]
    shares = masks.patch_shares(mask, (4, 8), len(NAMES))
    assert shares.shape == (1, len(NAMES), 4, 8)
    for row, column in ((0, 0), (3, 7), (2, 5)):
        block = mask[0, 16 * row : 16 * row + 16, 8 * column : 8 * column + 8]
        expected = torch.bincount(block.flatten().long(), minlength=len(NAMES)) / block.numel()
        torch.testing.assert_close(shares[0, :, row, column], expected)


def test_masks_are_scored_at_their_own_size(clip):
    """A predictor that knows the answer at a coarse grid, on images of several sizes, against the pixel loop."""
    data = Sizes((32, 48), (32, 48), (64, 40))
    views = masks.MaskViews(data, clip, short=32)
    fixed = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = masks.score_masks(
        lambda images: fixed.expand(len(images), -1, -1, -1), views, unseen=("c",), batch_size=8, progress=False
    )
    assert found.counts.shape == (3, 3, 3) and found.unseen.tolist() == [False, False, True]
    for index in range(3):
        mask = data[index].mask
        maps = F.interpolate(fixed[None], size=mask.shape, mode="bilinear", align_corners=False)[0]
        expected = segmentation.counts(maps.argmax(0)[None], mask[None], 3)
        assert np.array_equal(found.counts[index], expected[0])


@torch.no_grad()
def test_zero_shot_masks_are_cosines_of_the_value_path(clip, text):
    images = torch.stack([clip.transform(World(0, 0, 2)[i].image) for i in range(2)])
    for values, layer in ((True, clip.layers - 1), (False, clip.layers)):
        walked = walk(clip.visual, images, layers=(layer,), patches=True)
        tokens = value_path(clip.visual, walked.patch_taps[0]) if values else walked.patch_taps[0]
        cosines = F.cosine_similarity(project(clip.visual, tokens)[:, :, None], text[None, None], dim=-1)
        maps = F.interpolate(cosines.transpose(1, 2).unflatten(-1, (8, 8)), size=(64, 64), mode="bilinear")
        torch.testing.assert_close(ValuePath(clip.visual, text, ValuePathConfig(values=values))(images).logits, maps)


# --- the hybrid's head on patches ---


@torch.no_grad()
def test_the_dense_hybrid_is_the_hybrids_head_on_every_patch(clip, text):
    seen = torch.arange(len(NAMES)) % 4 > 0
    config = HybridCascadeConfig()
    system = DenseHybridCascade(clip.visual, text, seen, 20.0, config, seed=3).eval()
    for parameter in (p for group in system.parameter_groups() for p in group["params"]):
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    images = torch.stack([clip.transform(World(0, 0, 2)[i].image) for i in range(2)])
    walked = walk(clip.visual, images, layers=config.layers, patches=True)
    maps = torch.zeros(2, len(NAMES), 8, 8)
    for place in range(64):
        taps = torch.stack([project(clip.visual, tokens[:, place]) for tokens in walked.patch_taps], dim=1)
        maps[:, :, place // 8, place % 8] = system.head(taps).logits
    whole = F.interpolate(maps, size=(64, 64), mode="bilinear")
    torch.testing.assert_close(system(images).logits, whole, rtol=1e-4, atol=1e-4)
    assert system(torch.zeros(1, 3, 40, 64)).logits.shape == (1, len(NAMES), 40, 64)


def test_the_dense_hybrid_learns_seen_pixels_and_keeps_its_texts(clip, text):
    seen = torch.tensor([name not in painter.UNSEEN for name in NAMES])
    system = DenseHybridCascade(clip.visual, text, seen, 20.0, HybridCascadeConfig(lr=3e-3))
    before = system.head.classifier.clone()
    names = {group["name"] for group in system.parameter_groups()}
    assert names == {"adapters", "fusion", "nga"}
    world = World(12, 0, 0)
    views = masks.MaskViews(world, clip, size=(64, 64))
    phases = system.schedule(6)
    history = fit(system, views, SeenPixels(), phases, batch_size=12, seed=0, progress=False)
    assert history.steps[-1]["task"] < 0.8 * history.steps[0]["task"]
    assert torch.equal(system.head.classifier, before)
    with pytest.raises(ValueError, match="has a frozen tower and one shared classifier"):
        DenseHybridCascade(clip.visual, text, seen, 20.0, HybridCascadeConfig(prompts=2))


def test_seen_pixels_reads_no_unseen_label():
    seen = torch.tensor([True, False, True])
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    class Fixed:
        def __init__(self):
            self.seen = seen

        def __call__(self, images):
            return Masks(logits)

    mask = torch.tensor([[[0, 1], [2, 255]]])
    found = SeenPixels()(Fixed(), {"student": None, "mask": mask})["task"]
    two = logits[0, [0, 2]].log_softmax(0)
    torch.testing.assert_close(found, -(two[0, 0, 0] + two[1, 1, 0]) / 2)
    nothing = SeenPixels()(Fixed(), {"student": None, "mask": torch.full((1, 2, 2), 255)})["task"]
    assert nothing == 0


def test_draws_are_repeated_and_of_their_split():
    data = World(12, 12, 12)
    one, two = masks.draw(data, "train", 8, 0), masks.draw(data, "train", 8, 1)
    assert np.array_equal(one, masks.draw(data, "train", 8, 0)) and not np.array_equal(one, two)
    assert set(data.splits[one]) == {"train"} and len(set(one)) == 8


def test_a_data_set_without_masks_is_refused(tmp_path):
    for label in ("joy", "fear"):
        (tmp_path / "mine" / label).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(i + 10 * len(label)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / label / f"{i}.png")
    with pytest.raises(ValueError, match=r"mask_data is .*mine.*has no masks: give the world or, say, voc:FOLDER"):
        opened_masks(Setting(mask_data=str(tmp_path / "mine"), cache=tmp_path / "cache"))
