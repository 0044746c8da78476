"""Views: the recipe of the release, and draws that are a function of (seed, epoch, index) alone."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, RandomApply, RandomResizedCrop
from torchvision.transforms.functional import hflip, to_tensor

from hc_lafter.clip.load import load_clip
from hc_lafter.data.world.dataset import World
from hc_lafter.tuning import views
from hc_lafter.tuning.views import Blur, Views, strong_view, weak_view


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


@pytest.fixture(scope="module")
def world():
    return World(12, 0, 0)


def other_clip(clip, size=96, **preprocess):
    """The same tower with pixels of another kind."""
    settings = {**clip.preprocess, "size": size, **preprocess}
    return replace(clip, image_size=size, transform=image_transform_v2(PreprocessCfg(**settings), is_train=False))


def noise_image(side=80, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


class Dice:
    """Draws from all three global generators, as transforms found in the wild do."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random(), sum(image.getpixel((0, 0)))])  # noqa: NPY002


class Counted:
    """A view without anything random, and how often it was computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image: Image.Image) -> torch.Tensor:
        self.calls += 1
        return to_tensor(image)


class Watched(torch.utils.data.Dataset):
    """A data set that counts how often an image is made."""

    def __init__(self, dataset):
        self.dataset, self.decoded = dataset, 0
        self.ids, self.name, self.fingerprint = dataset.ids, dataset.name, dataset.fingerprint

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.decoded += 1
        return self.dataset[index]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


# --- the recipe ---


@pytest.mark.parametrize("size", [64, 96])
def test_the_strong_view_ends_in_the_towers_own_normalisation(clip, size):
    """Black stays black through crop, flip, jitter, grey and blur, so that only mean and deviation are left."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    tower = clip if size == 64 else other_clip(clip, size, mean=mean, std=std)
    if size == 64:
        mean, std = clip.preprocess["mean"], clip.preprocess["std"]
    view = strong_view(tower)(Image.new("RGB", (200, 130)))
    assert view.dtype == torch.float32 and view.shape == (3, size, size)
    expected = (-torch.tensor(mean) / torch.tensor(std))[:, None, None].expand_as(view)
    torch.testing.assert_close(view, expected, rtol=1e-5, atol=1e-5)


def test_the_strong_view_resamples_as_the_tower_does(clip):
    (crop,) = [t for t in strong_view(clip).transforms if isinstance(t, RandomResizedCrop)]
    assert (crop.size, crop.scale, crop.interpolation) == ((64, 64), (0.2, 1.0), InterpolationMode.BICUBIC)
    bilinear = strong_view(other_clip(clip, interpolation="bilinear")).transforms[0]
    assert bilinear.interpolation == InterpolationMode.BILINEAR


def test_a_fifth_of_the_strong_views_is_grey_and_half_of_them_flipped(clip):
    """500 draws: shares within four standard errors of 0.2 and 0.5 (0.072 and 0.09)."""
    plain = other_clip(clip, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = (200, 60, 10)  # dark on the left, red on the right, at any crop that holds both
    view, image = strong_view(plain), Image.fromarray(picture)
    torch.manual_seed(0)
    drawn = torch.stack([view(image) for _ in range(500)])
    grey = ((drawn - drawn.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-3) & (drawn.amax((1, 2, 3)) > 0.1)
    assert abs(grey.float().mean() - 0.2) < 0.072
    light = drawn.sum(1).mean(1)
    sides = light[:, -1] - light[:, 0]
    both = sides.abs() > 0.2
    assert both.sum() > 200 and abs((sides[both] < 0).float().mean() - 0.5) < 4 * 0.5 / both.sum() ** 0.5


@pytest.mark.parametrize("size, least, most", [(224, 0.1, 2.0), (64, 0.1 * 64 / 224, 2.0 * 64 / 224)])
def test_the_blur_is_the_releases_at_224_px_and_goes_with_the_side(clip, size, least, most):
    (step,) = [t for t in strong_view(other_clip(clip, size)).transforms if isinstance(t, RandomApply)][1:]
    assert step.p == 1.0 and (step.transforms[0].least, step.transforms[0].most) == pytest.approx((least, most))


def test_blur_smooths_and_keeps_the_mean():
    image = noise_image()
    torch.manual_seed(0)
    radii = []
    for _ in range(200):
        state = torch.get_rng_state()
        radii.append(torch.empty(()).uniform_(0.5, 2.0).item())
        torch.set_rng_state(state)
        blurred = to_tensor(Blur(0.5, 2.0)(image))
        assert abs(blurred.mean() - to_tensor(image).mean()) < 0.02
        assert blurred.std() < (0.75 if radii[-1] < 1 else 0.4) * to_tensor(image).std()
    assert 0.5 <= min(radii) < 0.6 and 1.9 < max(radii) <= 2.0


def test_blur_can_be_left_out_or_halved(clip):
    """With the same draws before it, the blurred view is the smoother one."""
    image, rough = noise_image(), {}
    for p in (0.0, 0.5, 1.0):
        rough[p] = []
        for seed in range(60):
            torch.manual_seed(seed)
            view = strong_view(other_clip(clip, 64), blur=p)(image)
            rough[p].append((view[:, :, 1:] - view[:, :, :-1]).abs().mean())
    none, some, all_ = (torch.tensor(rough[p]) for p in (0.0, 0.5, 1.0))
    changed = (some != none).float().mean()
    assert 0.25 < changed < 0.75 and (all_ <= none + 1e-6).all() and (all_ < none).float().mean() > 0.7


def test_the_weak_view_is_the_towers_own_or_its_mirror_image(clip):
    image = noise_image(64)
    assert weak_view(clip) is clip.transform
    plain, mirrored = clip.transform(image), clip.transform(hflip(image))
    torch.manual_seed(0)
    drawn = [weak_view(clip, flip=0.5)(image) for _ in range(60)]
    flips = sum(torch.equal(view, mirrored) for view in drawn)
    assert 15 < flips < 45 and flips + sum(torch.equal(view, plain) for view in drawn) == 60


# --- what is drawn ---


def test_an_item_has_its_views_its_index_and_its_rows(clip, world):
    labels, votes = torch.from_numpy(world.labels), torch.from_numpy(world.votes)
    plain = {"plain": clip.transform, "strong": strong_view(clip)}
    data = Views(world, plain, seed=0, extra={"label": labels, "votes": votes})
    item = data[5]
    assert list(item) == ["plain", "strong", "index", "label", "votes"]
    assert torch.equal(item["plain"], clip.transform(world[5].image)) and not torch.equal(item["plain"], item["strong"])
    assert item["index"] == 5 and item["label"] == labels[5] and torch.equal(item["votes"], votes[5])
    batch = next(iter(DataLoader(data, batch_size=4, generator=torch.Generator())))
    assert batch["strong"].shape == (4, 3, 64, 64) and batch["index"].tolist() == [0, 1, 2, 3]


def test_a_draw_is_a_function_of_seed_epoch_index_and_name(world):
    def drawn(seed=0, epoch=1, index=3, name="dice"):
        data = Views(world, {name: Dice()}, seed=seed)
        data.set_epoch(epoch)
        return data[index][name][:3]

    ways = [drawn(), drawn(seed=1), drawn(epoch=2), drawn(index=4), drawn(name="dado")]
    assert torch.equal(ways[0], drawn())
    for column in range(3):  # each of the three generators
        assert len({way[column].item() for way in ways}) == 5
    two = Views(world, {"other": Dice(), "dice": Dice()}, seed=0)
    two.set_epoch(1)
    assert torch.equal(two[3]["dice"][:3], ways[0])  # another view beside it changes nothing


def test_the_order_does_not_matter_and_global_random_numbers_stay(world):
    data = Views(world, {"dice": Dice()}, seed=0)
    states = torch.get_rng_state(), random.getstate(), np.random.get_bit_generator(), str(np.random.get_state())  # noqa: NPY002
    forwards = [data[i] for i in range(12)]
    torch.rand(3)
    random.random()
    backwards = [data[i] for i in reversed(range(12))][::-1]
    assert all(equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    data[0]
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_bit_generator() is states[2] and str(np.random.get_state()) == states[3]  # noqa: NPY002


def broken(image):
    raise OSError("image file is truncated")


def test_global_random_numbers_stay_when_a_transform_fails(world):
    data, state = Views(world, {"dice": Dice(), "broken": broken}, seed=0), random.getstate()
    with pytest.raises(OSError):
        data[0]
    assert random.getstate() == state and type(np.random.get_bit_generator()).__name__ == "MT19937"


def loaded(data, workers, **options):
    loader = DataLoader(data, batch_size=5, num_workers=workers, generator=torch.Generator(), **options)
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


@pytest.mark.parametrize("keep", [False, True])
def test_workers_draw_the_same(clip, world, keep):
    data = Views(world, {"strong": strong_view(clip), "dice": Dice()}, seed=0, keep=keep)
    data.set_epoch(3)
    data[2]  # something kept before the workers start
    assert equal(loaded(data, 0), loaded(data, 2))


@pytest.mark.slow
def test_spawned_workers_draw_the_same(clip, world):
    """As on macOS and Windows, where a worker begins with nothing but what is pickled."""
    data = Views(world, {"strong": strong_view(clip), "weak": weak_view(clip, 0.5)}, seed=0, keep=True)
    assert equal(loaded(data, 0), loaded(data, 1, multiprocessing_context="spawn"))


# --- what is kept ---


def test_keeping_changes_nothing_but_the_work(clip, world):
    watched, counted = Watched(world), Counted()
    transforms = {"plain": counted, "strong": strong_view(clip)}
    kept, fresh = Views(watched, transforms, seed=0, keep=True), Views(world, transforms, seed=0)
    for epoch in (1, 2, 3):
        kept.set_epoch(epoch)
        fresh.set_epoch(epoch)
        before = counted.calls
        items = [kept[i] for i in range(12)]
        assert counted.calls - before == (12 if epoch == 1 else 0)
        assert all(equal(a, fresh[i]) for i, a in enumerate(items))
    assert watched.decoded == 12
    assert not torch.equal(items[0]["strong"], items[1]["strong"])


def test_images_are_not_kept_where_every_view_is(world):
    watched = Watched(world)
    data = Views(watched, {"plain": Counted()}, seed=0, keep=True)
    for _ in range(2):
        [data[i] for i in range(12)]
    assert watched.decoded == 12 and all(name for _, name in data._kept)


class Sometimes:
    """Random for dark pictures only."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        view = to_tensor(image)
        return view + torch.rand(()) if view.mean() < 0.5 else view


def test_a_view_that_is_random_for_some_images_is_not_kept_for_those(world):
    kept, fresh = (Views(world, {"view": Sometimes()}, seed=0, keep=keep) for keep in (True, False))
    for epoch in (1, 2, 3):
        kept.set_epoch(epoch)
        fresh.set_epoch(epoch)
        assert all(equal(kept[i], fresh[i]) for i in range(12))
    dark = [to_tensor(world[i].image).mean() < 0.5 for i in range(12)]
    assert 0 < sum(dark) < 12


def test_memory_has_an_end(world, monkeypatch):
    watched = Watched(world)
    data = Views(watched, {"plain": Counted(), "dice": Dice()}, seed=0, keep=True)
    monkeypatch.setattr(views, "ROOM", 5 * (4 * 3 + 4) * 64 * 64)  # five float32 views; an image has 4 bytes per pixel
    fresh = Views(world, {"plain": Counted(), "dice": Dice()}, seed=0)
    for _ in range(2):
        assert all(equal(data[i], fresh[i]) for i in range(12))
    assert watched.decoded == 12 + 7 and data._held <= views.ROOM
    assert sorted(data._kept) == [(i, name) for i in range(5) for name in ("", "plain")]


def test_what_is_kept_does_not_travel(clip, world):
    data = Views(world, {"plain": clip.transform, "dice": Dice()}, seed=0, keep=True)
    empty, items = len(pickle.dumps(data)), [data[i] for i in range(12)]
    assert len(pickle.dumps(data)) < empty + 200
    copy = pickle.loads(pickle.dumps(data))
    assert all(equal(copy[i], item) for i, item in enumerate(items)) and len(data._kept) == 24


# --- what decides it, and mistakes ---


def test_the_fingerprint_knows_everything_that_decides_an_item(clip, world):
    label = {"label": torch.arange(12)}
    transforms = {"strong": strong_view(clip)}
    first = Views(world, transforms, seed=0, extra=label)
    assert first.fingerprint == Views(world, {"strong": strong_view(clip)}, seed=0, extra=label, keep=True).fingerprint
    others = [
        Views(world, transforms, seed=1, extra=label),
        Views(world, {"strong": strong_view(clip, blur=0.5)}, seed=0, extra=label),
        Views(world, {"student": strong_view(clip)}, seed=0, extra=label),
        Views(world, {"strong": strong_view(other_clip(clip, 96))}, seed=0, extra=label),
        Views(world, transforms, seed=0, extra={"label": torch.arange(12).flip(0)}),
        Views(world, transforms, seed=0),
        Views(World(12, 0, 0, seed=1), transforms, seed=0, extra=label),
    ]
    assert len({first.fingerprint, *[data.fingerprint for data in others]}) == 8


class Torn(World):
    def __getitem__(self, index):
        if index == 4:
            raise OSError("image file is truncated (12 bytes not processed)")
        return super().__getitem__(index)


def test_an_image_that_cannot_be_decoded_is_named(clip):
    data = Views(Torn(6, 0, 0), {"plain": clip.transform}, seed=0)
    assert data[3]["index"] == 3
    message = r"record .world-0/train/000004. in .* .world. cannot be decoded \(OSError: .*\): repair it or take it"
    with pytest.raises(ValueError, match=message):
        data[4]
