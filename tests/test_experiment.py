"""What the tuning notebooks share: material against slow re-computations, one run's choice and its checkpoint."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from hc_lafter.clip.text import EMOTION_TEMPLATES, TextClassifier, class_embeddings, save_text_classifier
from hc_lafter.clip.vit import project, walk
from hc_lafter.data import open_data
from hc_lafter.data.emotion import wheels as emotions
from hc_lafter.data.world.dataset import World
from hc_lafter.suite.study import Study
from hc_lafter.systems import Output
from hc_lafter.systems.baselines import MeanOfLayers, MeanOfLayersConfig
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.losses import distillation
from hc_lafter.tuning import experiment
from hc_lafter.tuning.experiment import (
    check_depth,
    curves,
    gather,
    predict,
    pseudo_labels,
    save_tuned,
    text_classifier,
    tune,
)
from hc_lafter.tuning.regimes import LabelFree, Supervised
from hc_lafter.tuning.training import History

ROOT = Path(__file__).parents[1]
SMALL = {"n_train": 40, "n_val": 24, "n_test": 24, "batch_size": 20, "device": "cpu", "epochs": 3, "tune_batch": 8}
LAYERS = (5, 6, 9, 12)


def study_of(place: Path, notebook: str = "04-full-training", **given) -> Study:
    """A study whose every place is ``place``, whatever the environment of the tests says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HC_LAFTER_OUTPUT", str(place))
        patch.setenv("HC_LAFTER_CACHE", str(place / "cache"))
        return Study(notebook, "smoke", root=ROOT, **{**SMALL, **given})


@pytest.fixture(scope="module", autouse=True)
def as_before():
    """The style and the random state that a study sets are put back."""
    with plt.rc_context(), torch.random.fork_rng(devices=[]):
        yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def material(features):
    return gather(study_of(features))


@pytest.fixture
def study(tmp_path):
    """Nobody's runs are in its cache."""
    return study_of(tmp_path)


@pytest.fixture(scope="module")
def classifier(material) -> TextClassifier:
    return TextClassifier(class_embeddings(material.clip, material.classes, EMOTION_TEMPLATES), material.classes)


def mean_of_layers(material, classifier, lr=0.01, layers=LAYERS):
    return MeanOfLayers(material.clip.visual, classifier.weight, MeanOfLayersConfig(layers, lr=lr))


def hybrid(material, classifier, lr=0.01, **change):
    config = HybridCascadeConfig(stages=((5, 6), (9, 12)), lr=lr, nga_lr=0.01, **change)
    return HybridCascade(material.clip.visual, classifier.weight, config)


def one_image(material, index) -> torch.Tensor:
    return material.clip.transform(material.dataset[int(index)].image)[None]


def same_parameters(a: nn.Module, b: nn.Module) -> bool:
    b = dict(b.named_parameters())
    return all(torch.equal(p, b[name]) for name, p in a.named_parameters())


# --- material ---


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


def test_training_never_reads_what_scores(study, features, material, classifier, monkeypatch):
    def spoilt(*args, **options):
        data = open_data(*args, **options)
        data.distributions = np.full_like(data.distributions, np.nan)
        return data

    monkeypatch.setattr(experiment, "open_data", spoilt)
    other = gather(study_of(features))
    assert np.isnan(other.truth).all() and torch.equal(other.soft, material.soft)
    how = {"seed": 0, "images": material.draw(24, 0), "taps": LAYERS, "progress": False}
    runs = [
        tune(study, m, hybrid(material, classifier), Supervised(), name=name, **how)
        for name, m in (("exact", material), ("spoilt", other))
    ]
    assert runs[0].history == runs[1].history and torch.equal(runs[0].test, runs[1].test)


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)


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
    root, number = tmp_path / "EmoSet-118K", 0
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        rows = []
        for name in sorted(order):
            for _ in range(count):
                number += 1
                rows.append([name, f"image/{name}/{name}_{number:05d}.jpg", f"annotation/{name}/{name}_{number}.json"])
                paint(root / rows[-1][1], number)
        (root / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    info = {"emotion": {"label2idx": {name: i for i, name in enumerate(order)}}}
    (root / "info.json").write_text(json.dumps(info), encoding="utf-8")

    found = gather(study_of(tmp_path / "out", data=f"emoset:{root}"))
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
    found = gather(study_of(tmp_path / "out", data=str(table_of(tmp_path, rows))))
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
    monkeypatch.setattr(experiment, "open_data", lambda *_, **__: World(**sizes))
    with pytest.raises(ValueError, match=f"'world' has no images in the split '{empty}': add some"):
        gather(study_of(tmp_path))


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


# --- tuning ---


class Dial(nn.Module):
    """One number, and the class that it is nearest to is the answer for every image: each epoch says another class."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return Output(-((torch.arange(8.0) - self.at) ** 2).expand(len(x), 8))

    def parameter_groups(self):
        return [{"name": "dial", "params": [self.at], "lr": 0.25, "weight_decay": 0.0}]

    def schedule(self, epochs):
        return [("turn", epochs, ("dial",), {"task": 1.0})]


@dataclass(frozen=True)
class Turn:
    """AdamW then goes up by its rate at each step: by 1 per epoch of four batches."""

    def __call__(self, system, batch):
        return {"task": -system.at}


def told(material, val, test):
    """The material with these classes for the images of val and of test."""
    labels = material.labels.clone()
    labels[material.part["val"]] = torch.tensor(val).repeat_interleave(24 // len(val))
    labels[material.part["test"]] = torch.tensor(test).repeat_interleave(24 // len(test))
    return replace(material, labels=labels)


@pytest.mark.parametrize("on_test", [False, True])
@pytest.mark.parametrize(
    ("val", "best"), [([5, 5, 2, 4], 5), ([1, 1, 2, 4], 1), ([2, 4, 7, 7], 2), ([3, 3, 3, 5], 3), ([0, 0, 7, 7], 1)]
)
def test_the_epoch_is_chosen_on_validation_alone(study, material, val, best, on_test):
    """On the test images epoch 4 is right in half of the cases, and never the best of val."""
    material = told(material, val, [4, 4, 1, 5])
    run = tune(
        study, material, Dial(), Turn(), name="dial", seed=0, images=material.part["train"][:32], taps=[12],
        epochs=5, on_test=material.part["test"] if on_test else None, progress=False,
    )  # fmt: skip
    assert [row["accuracy"] for row in run.history.epochs] == [val.count(e) / 4 for e in range(1, 6)]
    assert run.history.best_epoch == best and round(run.system.at.item()) == best
    assert (run.test.argmax(dim=1) == best).all() and run.test.shape == (24, 8)
    seen = [row.get("test accuracy") for row in run.history.epochs]
    assert seen == ([0.25, 0.0, 0.0, 0.5, 0.25] if on_test else [None] * 5)


def test_nothing_but_the_drawn_images_and_validation_decides_a_run(study, material, classifier):
    """Poison all else: test features, test labels, votes and labels of images that were not drawn."""
    images = material.draw(24, 0)
    kept = np.concatenate([images, material.part["val"]])
    poisoned = np.setdiff1d(np.arange(88), kept)
    shared, labels, soft = material.shared.clone(), material.labels.clone(), material.soft.clone()
    shared[poisoned], labels[poisoned], soft[poisoned] = float("nan"), 0, float("nan")
    other = replace(material, shared=shared, labels=labels, soft=soft)
    how = {"seed": 0, "images": images, "taps": LAYERS, "progress": False}
    clean = tune(study, material, hybrid(material, classifier), Supervised(), name="clean", **how)
    dirty = tune(study, other, hybrid(material, classifier), Supervised(), name="dirty", **how)
    assert clean.history == dirty.history and same_parameters(clean.system, dirty.system)
    assert not clean.test.isnan().any() and dirty.test.isnan().all()


def test_label_free_tuning_reads_no_training_label(study, material, classifier):
    images, pseudo = material.draw(24, 0), pseudo_labels(material, classifier)
    labels, soft = material.labels.clone(), material.soft.clone()
    labels[material.part["train"]], soft[material.part["train"]] = 3, float("nan")
    how = {"seed": 0, "images": images, "taps": LAYERS, "pseudo": pseudo, "progress": False}
    runs = [
        tune(study, m, mean_of_layers(material, classifier), LabelFree(), name=name, **how)
        for name, m in (("labels", material), ("none", replace(material, labels=labels, soft=soft)))
    ]
    assert runs[0].history == runs[1].history and torch.equal(runs[0].test, runs[1].test)


def test_taps_and_plain_images_tune_alike(study, material, classifier):
    """A frozen tower: cached features are a shortcut and nothing else. Test logits are in the order of the split."""
    how = {"seed": 1, "images": material.draw(24, 0), "progress": False}
    systems = [hybrid(material, classifier) for _ in range(2)]
    tapped = tune(study, material, systems[0], Supervised(), name="taps", taps=LAYERS, **how)
    walked = tune(study, material, systems[1], Supervised(), name="images", view="plain", **how)
    assert tapped.system is systems[0] and len(tapped.history.steps) == 9
    before = predict(study, material, hybrid(material, classifier), material.part["test"], taps=LAYERS)
    assert (tapped.test - before).abs().max() > 0.01  # there was something to learn
    for a, b in zip(tapped.history.steps, walked.history.steps, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert tapped.history.epochs == walked.history.epochs and tapped.history.best_epoch == walked.history.best_epoch
    torch.testing.assert_close(tapped.test, walked.test, atol=1e-4, rtol=0)
    with torch.inference_mode():
        alone = torch.cat([tapped.system(one_image(material, i)).logits for i in material.part["test"]])
    torch.testing.assert_close(tapped.test, alone, atol=1e-4, rtol=0)


def test_the_best_epoch_of_a_tuned_system_is_the_first_of_the_highest(study, material, classifier):
    run = tune(
        study, material, mean_of_layers(material, classifier, lr=0.3), Supervised(), name="wild", seed=0,
        images=material.draw(24, 0), taps=LAYERS, epochs=6, progress=False,
    )  # fmt: skip
    found = [row["accuracy"] for row in run.history.epochs]
    assert len(set(found)) > 1, "the case decides nothing"
    assert run.history.best_epoch == 1 + found.index(max(found))
    assert np.array_equal(run.chosen, material.part["val"])
    torch.testing.assert_close(run.val, predict(study, material, run.system, run.chosen, taps=LAYERS))
    assert (run.val.argmax(1) == material.labels[run.chosen]).float().mean() == pytest.approx(max(found))


def test_a_tower_is_tuned_with_its_moving_teacher(tmp_path, material, classifier):
    """LaFTer as released, on strong views, its epoch chosen on few validation images; the material's tower stays."""
    study = study_of(tmp_path, n_select=9)
    before = {name: p.clone() for name, p in material.clip.visual.named_parameters()}
    system = LaFTer(material.clip.visual, classifier.weight, LaFTerConfig(tokens=2, lr=5e-3))
    start = {name: p.detach().clone() for name, p in system.named_parameters()}
    run = tune(
        study, material, system, LabelFree(teach=system.teach), name="LaFTer", seed=0, images=material.draw(16, 0),
        progress=False,
    )  # fmt: skip
    assert all(torch.equal(p, before[name]) for name, p in material.clip.visual.named_parameters())
    moved = {name for name, p in system.named_parameters() if not torch.equal(p, start[name])}
    assert {"prompts", "classifier", "visual.ln_pre.weight"} <= moved and "visual.proj" not in moved
    assert np.array_equal(run.chosen, material.draw(9, 0, "val"))
    torch.testing.assert_close(run.val, predict(study, material, system, run.chosen))
    on_val = (run.val.argmax(1) == material.labels[run.chosen]).float().mean()
    assert run.history.epochs[run.history.best_epoch - 1]["accuracy"] == pytest.approx(on_val.item())
    with torch.inference_mode():
        alone = torch.cat([system(one_image(material, i)).logits for i in material.part["test"]])
    torch.testing.assert_close(run.test, alone, atol=1e-3, rtol=1e-4)


def test_the_frozen_feature_is_there_for_distillation(study, material, classifier):
    images, system = material.draw(8, 0), hybrid(material, classifier, distillation=0.5)
    with torch.no_grad():
        says = system(material.taps(LAYERS, images)).features
    first = distillation(says, material.shared[images, -1]).item()
    how = {"name": "distilled", "seed": 0, "images": images, "taps": LAYERS, "progress": False}
    run = tune(study, material, system, Supervised(), frozen=True, **how)
    assert run.history.steps[0]["distillation"] == pytest.approx(first, rel=1e-5)
    with pytest.raises(ValueError, match="weighs the term 'distillation'"):
        tune(study, material, hybrid(material, classifier, distillation=0.5), Supervised(), **how)


def test_an_unknown_view_is_refused(study, material, classifier):
    with pytest.raises(ValueError, match="view 'weak' is unknown: choose one of strong, plain"):
        tune(
            study, material, mean_of_layers(material, classifier), Supervised(), name="x", seed=0,
            images=material.part["train"], view="weak",
        )  # fmt: skip


# --- predictions ---


def test_predictions_from_taps_are_those_from_images(tmp_path, material, classifier):
    system = hybrid(material, classifier)
    with torch.no_grad():
        for parameter in (p for group in system.parameter_groups() for p in group["params"]):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    some = material.part["test"][[5, 0, 19, 7, 3]]
    study = study_of(tmp_path, batch_size=2)
    taps, images = (predict(study, material, system, some, taps=t) for t in (LAYERS, None))
    assert taps.shape == (5, 8) and taps.dtype == torch.float32
    torch.testing.assert_close(taps, images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        predict(study, material, system, some[::-1].copy(), taps=LAYERS).flip(0), taps, atol=1e-5, rtol=1e-5
    )
    assert taps.std(dim=0).min() > 1e-3  # images differ: an order that is lost would show


def test_pseudo_labels_are_the_nearest_texts(material, classifier):
    found = pseudo_labels(material, classifier)
    weight = classifier.weight.double().numpy()
    for index in range(88):
        feature = material.shared[index, -1].double().numpy()
        cosines = [w @ feature / np.linalg.norm(feature) for w in weight]
        assert found[index] == int(np.argmax(cosines))
    assert found.dtype == torch.int64 and len(set(found.tolist())) > 1
    # as a teacher that does not move says it at each step
    system = LaFTer(material.clip.visual, classifier.weight, LaFTerConfig(tokens=2))
    images = torch.cat([one_image(material, i) for i in range(20)])
    assert torch.equal(system.teach(images), found[:20])


def test_the_text_classifier_comes_from_notebook_03_by_name(study, material, classifier):
    with pytest.raises(FileNotFoundError) as caught:
        text_classifier(study, material, 0)
    path = study.results.parent / "03-text-adapter" / "classifier-0.safetensors"
    assert str(caught.value) == f"{path} is missing: run notebook 03-text-adapter under the same profile first."
    turned = TextClassifier(classifier.weight.flip(0), material.classes[::-1])
    save_text_classifier(turned, path, material.clip)
    twice = TextClassifier(2 * classifier.weight, material.classes)
    save_text_classifier(twice, path.with_name("classifier-1.safetensors"), material.clip)
    for seed, factor in ((0, 1), (1, 2)):
        found = text_classifier(study, material, seed)
        assert found.classes == material.classes and torch.equal(found.weight, factor * classifier.weight)
    save_text_classifier(TextClassifier(classifier.weight[:2], ("cat", "dog")), path, material.clip)
    with pytest.raises(ValueError, match=r"is a classifier of cat, dog, not of amusement, .*: run notebook 03"):
        text_classifier(study, material, 0)


def test_towers_of_another_depth_are_refused(material):
    check_depth(material.clip)
    with pytest.raises(ValueError, match=r"embedded has 24 blocks, and the designs' .* are made of 12: take a ViT-B"):
        check_depth(replace(material.clip, layers=24))


def test_curves_of_runs_that_end_at_different_steps():
    steps = [[{"step": i + 1, "loss": 10.0 * run + i} for i in range(n)] for run, n in ((1, 3), (2, 2))]
    at, values = curves([History(steps=rows) for rows in steps], "steps", "loss")
    np.testing.assert_array_equal(at, [1, 2, 3])
    np.testing.assert_array_equal(values, [[10, 11, 12], [20, 21, np.nan]])


# --- checkpoints ---


@dataclass(frozen=True)
class Counted(Supervised):
    """Says how many batches it was asked about."""

    asked: ClassVar[list[int]] = []

    def __call__(self, system, batch):
        self.asked.append(len(batch["label"]))
        return super().__call__(system, batch)


def test_a_run_that_has_ended_is_found_again_and_no_other(tmp_path, material, classifier, monkeypatch):
    """Whatever decides a run names its file: nothing is read that is another run's, and nothing is refused."""
    study, drawn = study_of(tmp_path), material.draw(24, 0)
    few = {"taps": None, "images": drawn[:8]}

    def run(study=study, build=mean_of_layers, lr=0.01, weight=1.0, lam=0.8, **more):
        """-> the run, the batches it trained on, the checkpoints that came."""
        system = build(material, replace(classifier, weight=weight * classifier.weight), lr=lr)
        batches, files = len(Counted.asked), len(list((tmp_path / "cache" / "runs").glob("*")))
        how = {"name": "a", "seed": 0, "images": drawn, "taps": LAYERS, "progress": False, **more}
        found = tune(study, material, system, Counted(lam), **how)
        return found, len(Counted.asked) - batches, len(list((tmp_path / "cache" / "runs").glob("*"))) - files

    def finds_the_first_again():
        again, batches, files = run()
        assert (batches, files) == (0, 0)
        assert again.history == first.history and again.history.seconds == first.history.seconds
        assert torch.equal(again.test, first.test) and same_parameters(again.system, first.system)

    first, batches, files = run()
    assert (batches, files) == (9, 1)
    finds_the_first_again()
    for batches, change in [
        (9, {"seed": 1}),
        (9, {"lam": 0.0}),
        (9, {"name": "b"}),
        (9, {"study": study_of(tmp_path, "08-ablations")}),
        (9, {"images": np.sort(drawn)[::-1].copy()}),
        (3, {"images": drawn[:8]}),
        (12, {"epochs": 4}),
        (6, {"batch_size": 12}),
        (9, {"lr": 0.02}),
        (9, {"weight": 1.5}),
        (9, {"soft": F.one_hot(material.labels, 8).float()}),
        (9, {"frozen": True}),
        (9, {"build": hybrid}),
        (9, {"build": partial(hybrid, normalise=False)}),  # no parameter tells the two apart
        (9, {"study": study_of(tmp_path, n_select=5)}),
        (9, {"on_test": np.arange(80, 84)}),
        (3, {**few, "view": "plain"}),
        (3, {**few, "view": "strong"}),
        (3, {**few, "view": "plain", "study": study_of(tmp_path, n_select=5)}),
    ]:
        found = run(**change)
        assert found[1:] == (batches, 1), change
        again = run(**change)
        assert again[1:] == (0, 0) and again[0].history == found[0].history, change
    finds_the_first_again()
    monkeypatch.setattr(experiment, "code_hash", lambda folder: "other code")
    assert run()[1:] == (9, 1)


def test_what_was_trained_is_saved_for_a_later_notebook(study, material, classifier, tmp_path):
    how = {"name": "kept", "seed": 0, "images": material.draw(8, 0), "taps": LAYERS, "progress": False}
    run = tune(study, material, hybrid(material, classifier), Supervised(), **how)
    path = save_tuned(run.system, tmp_path / "kept.safetensors", system="HybridCascade-LaFTer", seed="0")
    found = load_file(path)
    here = dict(run.system.named_parameters())
    assert set(found) == {name for name in here if not name.startswith("visual.")}
    assert all(torch.equal(found[name], here[name]) for name in found)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"system": "HybridCascade-LaFTer", "seed": "0"}
