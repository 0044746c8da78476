"""Features of a data set: right, the same bits every time, and never somebody else's."""

import dataclasses
import hashlib
import json
import pickle
import shutil
import sys
import warnings
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from hc_lafter import store
from hc_lafter.clip import vit
from hc_lafter.clip.load import load_clip, resized_transform
from hc_lafter.data.record import Dataset, Record
from hc_lafter.tuning import features
from hc_lafter.tuning.features import tap

# One image alone or in a batch: another order of summation in the matrix products, float32, features of order 1.
BATCH_TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Noise(Dataset):
    """Seeded noise images of several sizes; ``broken`` names one that raises as Pillow does."""

    name, classes = "noise", ("a", "b", "c")

    def __init__(self, n: int = 7, seed: int = 0, broken: str | None = None):
        self.n, self.seed, self.broken = n, seed, broken
        self.ids = [f"img-{i}" for i in range(n)]
        self.labels = np.arange(n) % 3
        self.splits = np.array([("train", "val", "test")[i % 3] for i in range(n)])

    def __getitem__(self, index: int) -> Record:
        id, label = self.ids[index], int(self.labels[index])
        if id == self.broken:
            raise OSError("image file is truncated (12 bytes not processed)")
        rng = np.random.default_rng([self.seed, index])
        pixels = rng.integers(0, 256, (40, 32 + 8 * (index % 3), 3), dtype=np.uint8)
        return Record(id, str(self.splits[index]), Image.fromarray(pixels), label, self.classes[label])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.n} {self.seed}".encode()).hexdigest()


def make_clip(folder, seed: int = 1):
    path = folder / "tiny-features.json"
    path.write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(path)
    return load_clip(f"tiny-features/random:{seed}")


@pytest.fixture
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("architecture"))


quick = partial(tap, layers=(1, 3), patches=True, batch_size=3, progress=False)


def same_bits(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("cls", "patches", "final", "labels"))


def no_walk(*args, **kwargs):
    raise AssertionError("the tower was walked")


def test_features_are_those_of_one_image_at_a_time(clip):
    data = Noise()
    got = quick(clip, data)
    assert got.ids == tuple(data.ids) and got.grid == (4, 4) and got.layers == (1, 3)
    assert got.cls.shape == (7, 2, 32) and got.patches.shape == (7, 2, 16, 32) and got.final.shape == (7, 16)
    assert {got.cls.dtype, got.patches.dtype, got.final.dtype} == {torch.float32} and got.labels.dtype == torch.int64
    for i in range(7):
        image = clip.transform(data[i].image)[None]
        with torch.inference_mode():
            one = vit.walk(clip.visual, image, layers=(1, 3), patches=True)
            torch.testing.assert_close(clip.model.encode_image(image)[0], got.final[i], **BATCH_TOLERANCE)
        torch.testing.assert_close(one.cls[0], got.cls[i], **BATCH_TOLERANCE)
        torch.testing.assert_close(one.patches[0], got.patches[i], **BATCH_TOLERANCE)


def test_batch_size_moves_roundings_only_and_one_batch_size_no_bit(clip):
    three, seven, again = quick(clip, Noise()), quick(clip, Noise(), batch_size=7), quick(clip, Noise())
    assert same_bits(three, again) and three.key == again.key
    torch.testing.assert_close(three.cls, seven.cls, **BATCH_TOLERANCE)
    torch.testing.assert_close(three.patches, seven.patches, **BATCH_TOLERANCE)
    torch.testing.assert_close(three.final, seven.final, **BATCH_TOLERANCE)


def test_without_patches_and_without_layers(clip):
    full = quick(clip, Noise())
    assert quick(clip, Noise(), patches=False).patches is None
    final = quick(clip, Noise(), layers=(), patches=False)
    assert final.cls.shape == (7, 0, 32) and torch.equal(final.final, full.final)


def test_second_call_reads(clip, tmp_path, monkeypatch):
    first = quick(clip, Noise(), cache=tmp_path)
    monkeypatch.setattr(vit, "walk", no_walk)
    second = quick(clip, Noise(), cache=tmp_path)
    assert same_bits(first, second) and (first.key, first.grid) == (second.key, second.grid)
    assert [p.name for p in tmp_path.rglob("*.safetensors")] == [f"{first.key}.safetensors"]
    with pytest.raises(AssertionError, match="walked"):
        quick(clip, Noise())


def test_empty_taps_are_cached_too(clip, tmp_path):
    call = partial(quick, clip, Noise(), layers=(), patches=False, cache=tmp_path)
    first = call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(call().final, first.final)


def test_every_input_is_in_the_key(clip, tmp_path, monkeypatch):
    """Each change below alters the features or who they belong to; none may find an entry of another."""

    def weights():
        clip.visual.ln_post.bias.data[3] += 1e-3  # as a fine-tuning would, behind the back of clip.weight_hash

    def activation():
        clip.visual.transformer.resblocks[0].mlp.gelu = nn.ReLU()

    def heads():
        attention = clip.visual.transformer.resblocks[1].attn
        attention.num_heads, attention.head_dim = 2, 16

    def epsilon():
        clip.visual.ln_pre.eps = 1e-3

    class Relabelled(Noise):
        def __init__(self):
            super().__init__()
            self.labels = self.labels[::-1].copy()

    calls = [
        {},
        {"layers": (1, 2)},
        {"layers": (1,)},
        {"patches": False},
        {"precision": "bf16"},
        {"batch_size": 4},
        {"size": (32, 32)},
        {"size": (32, 40)},
        {"dataset": Noise(seed=1)},
        {"dataset": Noise().subset([1, 0, 2, 3, 4, 5, 6])},
        {"dataset": Relabelled()},
        {"clip": dataclasses.replace(clip, transform_id="other pixels")},
    ]
    keys = [quick(**({"clip": clip, "dataset": Noise()} | change), cache=tmp_path).key for change in calls]
    for change in (weights, activation, heads, epsilon):
        change()
        keys.append(quick(clip, Noise(), cache=tmp_path).key)
    monkeypatch.setattr(features, "__version__", "999")
    keys.append(quick(clip, Noise(), cache=tmp_path).key)
    monkeypatch.setattr(features, "file_hash", lambda path: "other code")
    keys.append(quick(clip, Noise(), cache=tmp_path).key)
    assert len(set(keys)) == len(keys) == 18
    assert len(list(tmp_path.rglob("*.safetensors"))) == 18


def test_names_and_workers_are_not_in_the_key(clip):
    renamed = dataclasses.replace(clip, name="another name")
    assert quick(renamed, Noise()).key == quick(clip, Noise()).key


def test_room_on_the_disk_is_looked_for_before_the_walk(clip, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=4 * 7 * (2 * 32 + 16 + 2 * 16 * 32) - 1)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(vit, "walk", no_walk)
    with pytest.raises(OSError, match="make room"):
        quick(clip, Noise(), cache=tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=usage.free + 1))
    with pytest.raises(AssertionError, match="walked"):
        quick(clip, Noise(), cache=tmp_path)


@pytest.mark.parametrize("workers", [0, 1, pytest.param("spawn", marks=pytest.mark.slow)])
def test_an_undecodable_image_is_named(clip, workers, monkeypatch, tmp_path):
    """In this process, in a worker, and in one started afresh as on Windows and macOS (10 s, all of them imports)."""
    if workers == "spawn":
        monkeypatch.setattr(features, "DataLoader", partial(DataLoader, multiprocessing_context="spawn"))
    with pytest.raises(ValueError, match=r"^the image of record 'img-5' in data set 'noise' .*truncated.*out\.$"):
        quick(clip, Noise(broken="img-5"), workers=1 if workers == "spawn" else workers, cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_workers_change_nothing(clip):
    assert same_bits(quick(clip, Noise(), workers=2), quick(clip, Noise()))


def test_what_a_worker_gets_can_be_pickled(clip):
    """What spawning needs."""
    images = pickle.loads(pickle.dumps(features._Images(Noise(), clip.transform)))
    other = pickle.loads(pickle.dumps(features._Images(Noise(), resized_transform(clip, (16, 40)))))
    assert images[2].shape == (3, 32, 32) and other[2].shape == (3, 16, 40)


def test_a_programming_error_keeps_its_traceback(clip):
    class Faulty(Noise):
        def __getitem__(self, index):
            raise KeyError("a slip")

    with pytest.raises(KeyError, match="a slip"):
        quick(clip, Faulty())


def test_a_feature_that_is_not_finite_is_named(clip):
    data = Noise()
    count = iter(range(7))
    spoiled = dataclasses.replace(
        clip, transform=lambda image: clip.transform(image) * (float("nan") if next(count) == 4 else 1)
    )
    with pytest.raises(ValueError, match="record 'img-4' are not finite"):
        quick(spoiled, data)


def test_bf16_is_close_and_stored_as_float32(clip):
    full, half = quick(clip, Noise()), quick(clip, Noise(), precision="bf16")
    assert half.final.dtype == torch.float32 and not torch.equal(full.final, half.final)
    # bfloat16 has 8 bits of mantissa: relative errors of some 2^-8, a few times over in three blocks
    assert torch.cosine_similarity(full.final, half.final).min() > 0.999


def test_the_global_random_stream_is_left_alone(clip, tmp_path):
    """Else what follows would depend on whether the cache had an entry."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for _ in range(2):
        quick(clip, Noise(), cache=tmp_path)
        assert torch.equal(torch.get_rng_state(), before)


def test_another_size_stretches_the_whole_image(clip):
    """A picture red above and blue below stays so in the upper and lower rows of a grid of any shape."""
    pixels = np.zeros((60, 20, 3), np.uint8)
    pixels[:30, :, 0] = pixels[30:, :, 2] = 255
    out = resized_transform(clip, (16, 40))(Image.fromarray(pixels))
    assert out.shape == (3, 16, 40)
    normalise = clip.transform.transforms[-1]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (normalise.mean, normalise.std))
    plain = out * std + mean
    assert (plain[0, :6] > 0.99).all() and (plain[0, -6:] < 0.01).all() and (plain[2, -6:] > 0.99).all()
    got = quick(clip, Noise(), size=(16, 40))
    assert got.grid == (2, 5) and got.patches.shape == (7, 2, 10, 32)


def test_accessors(clip):
    got = quick(clip, Noise())
    assert quick(clip, Noise(), layers=np.array([1, 3])).key == got.key
    assert torch.equal(got.layer(3), got.cls[:, 1]) and torch.equal(got.layer_patches(1), got.patches[:, 0])
    assert got.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and np.flatnonzero(got.splits == "val").tolist() == [1, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (3, 1)}, "must ascend"),
        ({"layers": (1, 1)}, "must ascend"),
        ({"layers": (4,)}, r"lie in 1\.\.3"),
        ({"precision": "auto"}, "precision 'auto' is unknown"),
        ({"size": (32, 33)}, "width of 33 px is not a multiple of the patch side of 8 px: choose 32"),
        ({"dataset": Noise().subset([0, 1, 0])}, "'img-0' more than once"),
        ({"dataset": Noise().subset([])}, "has no records"),
    ],
)
def test_refusals(clip, change, message):
    with pytest.raises(ValueError, match=message):
        quick(**({"clip": clip, "dataset": Noise()} | change))


@pytest.mark.parametrize(("progress", "terminal"), [(True, True), (True, False), (False, True)])
def test_progress_says_what_it_does_to_who_can_see_it(clip, capfd, monkeypatch, progress, terminal):
    """A file would get a line's worth of every redrawing."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    quick(clip, Noise(), progress=progress)
    shown = capfd.readouterr().err
    assert "on noise" in shown and "7/7" in shown if progress and terminal else shown == ""
