"""The material of runs against slow re-computations: taps, targets, draws, predictions, pseudo-labels."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_emotion_sets import emoset, paint

from hc_lafter import store
from hc_lafter.clip.text import EMOTION_TEMPLATES, class_embeddings
from hc_lafter.clip.vit import project, walk
from hc_lafter.data.emotion import wheels as emotions
from hc_lafter.data.world.dataset import World
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.tuning import material as materials
from hc_lafter.tuning.batches import Rows
from hc_lafter.tuning.material import check_depth, gather, pseudo_labels
from hc_lafter.tuning.setting import Setting

LAYERS = (5, 6, 9, 12)


def setting_of(place: Path, **given) -> Setting:
    return Setting(n_train=40, n_val=24, n_test=24, batch_size=20, cache=place, **given)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return gather(setting_of(tmp_path_factory.mktemp("features")))


@pytest.fixture(scope="module")
def classifier(material) -> torch.Tensor:
    return class_embeddings(material.clip, material.classes, EMOTION_TEMPLATES)


def hybrid(material, classifier, lr=0.01, **change):
    config = HybridCascadeConfig(stages=((5, 6), (9, 12)), lr=lr, nga_lr=0.01, **change)
    return HybridCascade(material.clip.visual, classifier, config)


def one_image(material, index) -> torch.Tensor:
    return material.clip.transform(material.dataset[int(index)].image)[None]


# --- material ---


def test_a_cache_changes_no_bit_and_is_read_where_it_lies(material):
    kept, bare = material, gather(replace(material.setting, cache=None))
    assert torch.equal(kept.shared, bare.shared)
    files = map(store.Windows, (kept.setting.cache / "features").glob("*.safetensors"))
    (window,) = (file["shared"] for file in files if "shared" in file)
    assert torch.equal(window, bare.shared)
    some = torch.tensor([3, 1])
    for layers in ([5, 6, 7], [12, 5], [7]):
        at = kept.part["train"][::2]
        picked, taken = kept.picked(layers, at), bare.taps(layers, at)
        assert len(picked) == len(at) and torch.equal(picked[:], taken) and taken.is_contiguous()
        assert torch.equal(picked[some], taken[some]) and torch.equal(picked[2], taken[2])
        assert picked[some].is_contiguous() and torch.equal(picked[4:9], taken[4:9])
        assert Rows(x=picked).fingerprint == Rows(x=taken).fingerprint


def test_every_images_taps_are_those_of_the_image_alone(material):
    assert material.shared.shape == (88, 12, material.clip.embed_dim) and material.shared.dtype == torch.float32
    with torch.inference_mode():
        for index in (0, 17, 39, 40, 63, 64, 87):
            visual = material.clip.visual
            cls = walk(visual, one_image(material, index), layers=range(1, 13)).cls
            torch.testing.assert_close(material.shared[index], project(visual, cls)[0], atol=1e-5, rtol=1e-5)
            final = visual(one_image(material, index))[0]  # open_clip's own way
            torch.testing.assert_close(material.shared[index, -1], final, atol=1e-5, rtol=1e-5)
    some = material.part["val"][[3, 1]]
    by_hand = torch.stack([torch.stack([material.shared[i, 11], material.shared[i, 4]]) for i in some.tolist()])
    assert torch.equal(material.taps([12, 5], some), by_hand)
    assert torch.equal(material.taps([7]), material.shared[:, 6:7])


def test_the_worlds_votes_are_what_training_may_aim_at(material):
    data = material.dataset
    assert material.soft_from == "votes of 11 simulated viewers" and material.soft.dtype == torch.float32
    for index in range(0, 88, 11):
        record = data[index]
        np.testing.assert_allclose(material.soft[index], record.votes / 11, atol=1e-7)
        np.testing.assert_array_equal(material.truth[index], record.distribution)
        assert material.classes[material.labels[index]] == record.label_name
        assert index in material.part[record.split]
        torch.testing.assert_close(material.pixels[index]["student"][None], one_image(material, index))
    assert sorted(np.concatenate(list(material.part.values())).tolist()) == list(range(88))


def table_of(root: Path, rows: list[tuple[str, str]]) -> Path:
    """A csv of (split, label) with an image for each row."""
    with (root / "list.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "split"])
        for number, (split, label) in enumerate(rows):
            paint(root / f"{number}.png", number)
            out.writerow([f"{number}.png", label, split])
    return root / "list.csv"


def test_without_votes_the_wheels_rows_go_by_class_name(tmp_path):
    order = ("fear", "awe", "sadness", "amusement", "disgust", "contentment", "anger", "excitement")
    root = emoset(tmp_path / "EmoSet-118K", counts=(2, 1, 1))
    info = {"emotion": {"label2idx": {name: i for i, name in enumerate(order)}}}
    (root / "info.json").write_text(json.dumps(info), encoding="utf-8")
    found = gather(setting_of(tmp_path / "out", data=f"emoset:{root}"))
    assert (found.classes, found.soft_from, found.truth) == (order, "wheel", None)
    assert {split: len(part) for split, part in found.part.items()} == {"train": 16, "val": 8, "test": 8}
    table = emotions.targets("wheel", order)
    for index, row in enumerate(found.soft.double().numpy()):
        name = found.dataset.ids[index].split("/")[1]
        np.testing.assert_allclose(row, table[order.index(name)], atol=1e-7)
        ring = list(emotions.MIKELS_WHEEL.ring)  # its neighbours come next to the label, whatever the class order
        beside = {ring[(ring.index(name) + step) % 8] for step in (1, -1)}
        first, *others = np.argsort(-row, kind="stable")
        assert order[first] == name and {order[i] for i in others[:2]} == beside


@pytest.mark.parametrize(("names", "kind"), [(("Sadness", "awe", "Fear"), "wheel"), (("cat", "fear", "dog"), "labels")])
def test_soft_targets_of_classes_of_ones_own(tmp_path, names, kind):
    """A part of the ring is enough; one name off it, and the label stands alone."""
    rows = [(split, name) for split in ("train", "val", "test") for name in names]
    found = gather(setting_of(tmp_path / "out", data=str(table_of(tmp_path, rows))))
    assert found.soft_from == kind and found.truth is None and set(found.classes) == set(names)
    ring = emotions.MIKELS_WHEEL.ring
    for number, (_, name) in enumerate(rows):
        if kind == "labels":
            expected = [float(other == name) for other in found.classes]
        else:  # Yang, She and Sun's formula, along the shorter way
            ways = [abs(ring.index(name.lower()) - ring.index(other.lower())) for other in found.classes]
            raw = [np.exp(-(min(w, 8 - w) ** 2) / 2) / np.sqrt(2 * np.pi) + 0.1 / len(names) for w in ways]
            expected = np.array(raw) / sum(raw)
        at = list(found.dataset.ids).index(f"{number}.png")
        assert found.classes[found.labels[at]] == name
        np.testing.assert_allclose(found.soft[at], expected, atol=1e-6)


@pytest.mark.parametrize("empty", ["train", "val", "test"])
def test_a_split_without_images_is_refused(tmp_path, monkeypatch, empty):
    sizes = {"n_train": 8, "n_val": 8, "n_test": 8, f"n_{empty}": 0}
    monkeypatch.setattr(materials, "open_data", lambda *_, **__: World(**sizes))
    with pytest.raises(ValueError, match=f"'world' has no images in the split '{empty}': add some"):
        gather(setting_of(tmp_path))


# --- draws ---


def test_draws_keep_the_classes_shares_and_are_seeded(material):
    uneven = np.repeat(np.arange(8), (12, 8, 6, 5, 4, 3, 1, 1))
    labels = material.labels.clone()
    labels[material.part["train"]] = torch.from_numpy(np.random.default_rng(0).permutation(uneven))
    uneven = replace(material, labels=labels)
    shares = np.bincount(labels[material.part["train"]], minlength=8) / 40
    for n in (1, 8, 20, 39):
        drawn = uneven.draw(n, 3)
        assert len(set(drawn.tolist())) == n and set(drawn) <= set(material.part["train"])
        assert (np.abs(np.bincount(labels[drawn], minlength=8) - n * shares) <= 1).all()
    assert np.array_equal(uneven.draw(20, 3), uneven.draw(20, 3))
    assert len({tuple(uneven.draw(20, seed)) for seed in range(5)}) == 5
    assert set(material.draw(10, 0, "val")) <= set(material.part["val"])


@pytest.mark.parametrize("n", [24, 25, 10_000])
def test_a_draw_of_more_than_there_is_takes_all(material, n):
    assert np.array_equal(material.draw(n, 1, "val"), material.part["val"])


# --- predictions ---


def test_predictions_from_taps_are_those_from_images(material, classifier):
    system = hybrid(material, classifier)
    with torch.no_grad():
        for parameter in (p for group in system.parameter_groups() for p in group["params"]):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    some = material.part["test"][[5, 0, 19, 7, 3]]
    taps, images = (material.logits(system, some, layers) for layers in (LAYERS, None))
    assert taps.shape == (5, 8) and taps.dtype == torch.float32
    torch.testing.assert_close(taps, images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(material.logits(system, some[::-1].copy(), LAYERS).flip(0), taps, atol=1e-5, rtol=1e-5)
    assert taps.std(dim=0).min() > 1e-3  # images differ: an order that is lost would show


def test_pseudo_labels_are_the_nearest_texts(material, classifier):
    found = pseudo_labels(material, classifier)
    weight = classifier.double().numpy()
    for index in range(88):
        feature = material.shared[index, -1].double().numpy()
        cosines = [w @ feature / np.linalg.norm(feature) for w in weight]
        assert found[index] == int(np.argmax(cosines))
    assert found.dtype == torch.int64 and len(set(found.tolist())) > 1
    # as a teacher that does not move says it at each step
    system = LaFTer(material.clip.visual, classifier, LaFTerConfig(tokens=2))
    images = torch.cat([one_image(material, i) for i in range(20)])
    assert torch.equal(system.teach(images), found[:20])


def test_towers_without_room_for_stages_are_refused(material):
    for layers in (5, 12, 24):
        check_depth(replace(material.clip, layers=layers))
    with pytest.raises(ValueError, match=r"embedded has 4 blocks, too few for the designs' .*: take a tower of 5 or m"):
        check_depth(replace(material.clip, layers=4))
