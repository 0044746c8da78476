"""Runs: what decides one, what chooses its epoch, what is found again, who computes. Systems of the tests' own, too."""

from __future__ import annotations

import importlib.util
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import DIAL, up

from hc_lafter import predict, store, systems
from hc_lafter.data.world.dataset import World
from hc_lafter.suite import plans
from hc_lafter.systems.cascade_clip import CascadeCLIPConfig
from hc_lafter.systems.hybrid_cascade import HybridCascadeConfig
from hc_lafter.systems.lafter import LaFTerConfig
from hc_lafter.systems.losses import distillation
from hc_lafter.systems.mean_of_layers import MeanOfLayersConfig
from hc_lafter.systems.regimes import regime_terms
from hc_lafter.tuning import computing, runs, start
from hc_lafter.tuning import run as kept
from hc_lafter.tuning.computing import compute
from hc_lafter.tuning.material import Material, gather
from hc_lafter.tuning.runs import Run, get
from hc_lafter.tuning.start import start_of
from hc_lafter.tuning.tune import tune

LAYERS = (5, 6, 9, 12)
SIZES = {"n_train": 24, "n_val": 24, "epochs": 3, "batch_size": 8}
HYBRID = HybridCascadeConfig(stages=((5, 6), (9, 12)), lr=0.01, nga_lr=0.01)
MEAN = MeanOfLayersConfig(LAYERS, lr=0.01)


@pytest.fixture(scope="module")
def material(setting):
    return gather(setting)


def hybrid(setting, **changes) -> Run:
    return replace(Run("HybridCascade-LaFTer", "supervised", 0, setting, HYBRID, **SIZES), **changes)


def mean_of_layers(setting, **changes) -> Run:
    return replace(Run("mean of layers", "supervised", 0, setting, MEAN, **SIZES), **changes)


def same(a: runs.Result, b: runs.Result) -> bool:
    arrays = a.arrays.keys() == b.arrays.keys() and all(np.array_equal(a.arrays[k], b.arrays[k]) for k in a.arrays)
    tensors = a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    return a.history == b.history and arrays and tensors


# --- what chooses, and what is never read ---


@pytest.fixture
def dial(monkeypatch):
    monkeypatch.setattr(kept, "find", lambda name: DIAL if name == "dial" else systems.find(name))
    monkeypatch.setattr(computing, "regime_terms", lambda *_, **__: up)


@pytest.mark.parametrize("watched", [0, 24])
@pytest.mark.parametrize(
    ("val", "best"), [([5, 5, 2, 4], 5), ([1, 1, 2, 4], 1), ([2, 4, 7, 7], 2), ([3, 3, 3, 5], 3), ([0, 0, 7, 7], 1)]
)
def test_the_epoch_is_chosen_on_validation_alone(setting, material, dial, val, best, watched):
    """Up by 1 per epoch. On the test images epoch 4 is right in half of the cases, and never the best of val."""
    labels = material.labels.clone()
    for split, classes in (("val", val), ("test", [4, 4, 1, 5])):
        labels[material.part[split]] = torch.tensor(classes).repeat_interleave(6)
    run = Run("dial", "supervised", 0, setting, None, n_train=32, n_val=24, epochs=5, batch_size=8, n_watched=watched)
    found = compute(run, material=replace(material, labels=labels))
    assert [row["accuracy"] for row in found.history.epochs] == [val.count(e) / 4 for e in range(1, 6)]
    assert found.history.best_epoch == best and round(found.tensors["at"].item()) == best
    assert (found.test.argmax(axis=1) == best).all() and found.test.shape == (24, 8)
    seen = [row.get("test accuracy") for row in found.history.epochs]
    assert seen == ([0.25, 0.0, 0.0, 0.5, 0.25] if watched else [None] * 5)


@pytest.fixture
def same_draws(material, monkeypatch):
    """Images are drawn with the shares of the true labels, whatever a material's labels say."""
    draw = Material.draw
    monkeypatch.setattr(Material, "draw", lambda self, *of: draw(material, *of))


def test_nothing_but_the_drawn_images_and_validation_decides_a_run(setting, material, same_draws):
    """Poison all else: test features, test labels, votes and labels of images that were not drawn, and what scores."""
    kept = np.concatenate([material.draw(24, 0), material.part["val"]])
    poisoned = np.setdiff1d(np.arange(88), kept)
    shared, labels, soft = material.shared.clone(), material.labels.clone(), material.soft.clone()
    shared[poisoned], labels[poisoned], soft[poisoned] = float("nan"), 0, float("nan")
    truth = np.full_like(material.truth, np.nan)
    other = replace(material, shared=shared, labels=labels, soft=soft, truth=truth)
    clean, dirty = (compute(hybrid(setting), material=m) for m in (material, other))
    assert clean.history == dirty.history
    assert all(torch.equal(clean.tensors[name], dirty.tensors[name]) for name in clean.tensors)
    assert not np.isnan(clean.test).any() and np.isnan(dirty.test).all()


def test_label_free_tuning_reads_no_training_label(setting, material, same_draws):
    labels, soft = material.labels.clone(), material.soft.clone()
    labels[material.part["train"]], soft[material.part["train"]] = 3, float("nan")
    run = mean_of_layers(setting, regime="label-free")
    assert same(*(compute(run, material=m) for m in (material, replace(material, labels=labels, soft=soft))))


def test_taps_and_plain_images_tune_alike(setting, material, monkeypatch):
    """A frozen tower: cached features are a shortcut and nothing else. Test logits are in the order of the split."""
    tapped = compute(hybrid(setting, seed=1), material=material)
    images = replace(systems.find("HybridCascade-LaFTer"), reads="images")
    monkeypatch.setattr(kept, "find", lambda name: images)
    walked = compute(hybrid(setting, seed=1), material=material)
    assert np.abs(tapped.test - tapped.arrays["test before"]).max() > 0.01  # there was something to learn
    for a, b in zip(tapped.history.steps, walked.history.steps, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert tapped.history.epochs == walked.history.epochs and tapped.history.best_epoch == walked.history.best_epoch
    np.testing.assert_allclose(tapped.test, walked.test, atol=1e-4)
    module = tapped.module()
    with torch.inference_mode():
        views = [material.clip.transform(material.dataset[int(i)].image)[None] for i in material.part["test"]]
        alone = torch.cat([module(view).logits for view in views])
    np.testing.assert_allclose(tapped.test, alone.numpy(), atol=1e-4)


def test_a_tower_is_tuned_with_its_moving_teacher(setting, material):
    """LaFTer as released, on strong views, its epoch chosen on few validation images; the material's tower stays."""
    before = {name: p.clone() for name, p in material.clip.visual.named_parameters()}
    config = LaFTerConfig(tokens=2, lr=5e-3)
    run = Run("LaFTer", "label-free", 0, setting, config, n_train=16, n_val=9, epochs=3, batch_size=8, view="strong")
    found = compute(run, material=material)
    assert all(torch.equal(p, before[name]) for name, p in material.clip.visual.named_parameters())
    assert {"prompts", "classifier", "visual.ln_pre.weight"} <= found.tensors.keys()
    assert not torch.equal(found.tensors["visual.ln_pre.weight"], before["ln_pre.weight"])
    on_val = (found.val.argmax(1) == material.labels[material.draw(9, 0, "val")].numpy()).mean()
    assert found.history.epochs[found.history.best_epoch - 1]["accuracy"] == pytest.approx(on_val)
    fast = replace(run, config=replace(config, lr=5e-2))
    moving, still = (compute(replace(fast, moving_teacher=m), material=material) for m in (True, False))
    assert moving.history.steps[0] == still.history.steps[0] and moving.history != still.history


def test_a_systems_own_settings_reach_its_loss(setting, material):
    """LaFTer's label smoothing; whether Cascade-CLIP's focal loss counts absent classes and ignored pixels."""
    run = Run("LaFTer", "label-free", 0, setting, LaFTerConfig(tokens=2), n_train=8, n_val=8, epochs=1, batch_size=8)
    losses = [compute(replace(run, config=LaFTerConfig(tokens=2, smoothing=s)), material=material) for s in (0.0, 0.1)]
    assert losses[0].history.steps[0]["task"] != losses[1].history.steps[0]["task"]
    for change in ({"present_only": False}, {"ignored_negative": False}):
        run = Run("Cascade-CLIP", "inductive", 0, setting, CascadeCLIPConfig(tokens=2, **change))
        terms = regime_terms("inductive", run.entry.build(start_of(run), run.settings, 0))
        assert {"present_only": terms.present_only, "ignored_negative": terms.ignored_negative} == {
            "present_only": True, "ignored_negative": True, **change
        }  # fmt: skip


def test_the_frozen_feature_is_there_for_distillation(setting, material):
    run = hybrid(setting, config=replace(HYBRID, distillation=0.5), n_train=8)
    start = start_of(run, material=material)
    images = material.draw(8, 0)
    with torch.no_grad():
        says = run.entry.build(start, run.settings, 0)(material.taps(LAYERS, images)).features
    first = distillation(says, material.shared[images, -1]).item()
    assert compute(run, material=material).history.steps[0]["distillation"] == pytest.approx(first, rel=1e-5)


def test_the_linear_probe_and_what_needs_no_training_are_runs_too(setting, material):
    truth = material.labels[material.part["test"]].numpy()
    for name, regime in (
        ("zero-shot", "no training"),
        ("text classifier", "no training"),
        ("linear probe", "supervised"),
    ):
        found = compute(Run(name, regime, 0, setting, n_train=40 * (regime == "supervised")), material=material)
        assert found.history.steps == [] and found.test.shape == (24, 8)
        assert (found.test.argmax(1) == truth).mean() > 1 / 8
        rebuilt = material.logits(found.module(), material.part["test"], [12]).numpy()
        np.testing.assert_array_equal(rebuilt, found.test)


def test_masks_choose_by_the_seen_classes_alone(setting):
    config = CascadeCLIPConfig(tokens=2, lr=2e-3, margin=0.0)
    run = Run("Cascade-CLIP", "transductive", 0, setting, config, n_train=8, n_val=4, n_test=4, epochs=2, batch_size=4)
    found = compute(run)
    epochs = found.history.epochs
    assert [row["phase"] for row in epochs] == ["seen pixels", "own labels for the unseen"]
    assert found.history.best_epoch == 1 + int(np.argmax([row["seen"] for row in epochs]))
    assert all(0 <= row["unseen"] <= 1 for row in epochs) and found.arrays["counts"].shape[::2] == (4, 3)


def test_a_regime_that_a_system_lacks_is_refused(setting):
    with pytest.raises(ValueError, match="zero-shot has no regime 'supervised': choose one of no training"):
        compute(Run("zero-shot", "supervised", 0, setting))
    with pytest.raises(ValueError, match=r"system 'lafter' is unknown .did you mean 'LaFTer'.*: choose of"):
        compute(Run("lafter", "supervised", 0, setting))


# --- the store ---


def test_whatever_decides_a_run_decides_its_key(setting):
    first = mean_of_layers(setting)
    changes = [
        {"seed": 1}, {"lam": 0.0}, {"regime": "label-free"}, {"n_train": 8}, {"n_val": 5}, {"n_test": 12},
        {"epochs": 4}, {"batch_size": 12}, {"view": "strong"}, {"classifier": "templates"}, {"target": "wheel"},
        {"moving_teacher": False}, {"n_watched": 4}, {"config": replace(MEAN, lr=0.02)},
        {"system": "text classifier, tuned"}, {"setting": replace(setting, precision="bf16")},
        {"setting": replace(setting, n_train=41)}, {"setting": replace(setting, seeds=(1, 2))},
    ]  # fmt: skip
    keys = [replace(first, **change).key for change in changes]
    assert len({first.key, *keys}) == len(changes) + 1
    elsewhere = replace(setting, cache=Path("elsewhere"), workers=3)
    assert replace(first, setting=elsewhere).key == first.key == mean_of_layers(setting).key


def test_what_was_computed_is_found_again(setting, tmp_path, monkeypatch):
    setting = replace(setting, cache=tmp_path)
    asked = [mean_of_layers(setting, seed=s) for s in (0, 1, 0)]
    first = get(asked, scheduler="none", progress=False)
    assert first[0] is not first[1] and same(first[0], first[2])
    left = sorted(p.suffix for p in (tmp_path / "runs").iterdir())
    assert left == [".json"] * 2 + [".lock"] * 2 + [".safetensors"] * 2  # no checkpoint
    assert runs.missing([*asked, hybrid(setting)]) == [hybrid(setting)]
    monkeypatch.setattr(runs, "compute", None)
    again = get(asked, scheduler="none", progress=False)
    assert all(same(a, b) and a.seconds == b.seconds for a, b in zip(first, again, strict=True))
    assert all(a.history.seconds == b.history.seconds for a, b in zip(first, again, strict=True))
    file = next((tmp_path / "runs").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged .*: delete it, and run again"):
        get(asked, scheduler="none", progress=False)


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(setting, tmp_path, monkeypatch):
    run = mean_of_layers(replace(setting, cache=tmp_path / "whole"))
    whole = get([run], scheduler="none", progress=False)[0]
    cut = mean_of_layers(replace(setting, cache=tmp_path / "cut"))
    fit, steps = computing.fit, []

    def counted(*args, **kwargs):
        history = fit(*args, **kwargs)
        steps.append(len(history.steps))
        return history

    def stopped(system, data, terms, phases, **kwargs):
        return fit(system, data, terms, phases, **kwargs | {"validate": Stop(kwargs["validate"])})

    class Stop:
        def __init__(self, validate):
            self.validate, self.asked = validate, 0

        def __call__(self, module):
            self.asked += 1
            if self.asked == 3:
                raise KeyboardInterrupt
            return self.validate(module)

    monkeypatch.setattr(computing, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        get([cut], scheduler="none", progress=False)
    assert [p.suffix for p in sorted((tmp_path / "cut" / "runs").iterdir())] == [".checkpoint", ".lock"]
    monkeypatch.setattr(computing, "fit", counted)
    assert same(get([cut], scheduler="none", progress=False)[0], whole)


@pytest.mark.slow
def test_two_workers_compute_what_one_process_does_and_a_failure_stops_nobody(setting, forked_workers, tmp_path):
    """The store's files are the same but for the seconds; a run that raises is named, and the others are kept."""
    kept = {}
    for name, scheduler in (("here", "none"), ("workers", None)):
        of = replace(setting, cache=tmp_path / name)
        plan = [mean_of_layers(of, seed=s, n_train=n) for s in (0, 1) for n in (8, 24)] + [hybrid(of)]
        plan.append(Run("LaFTer", "supervised", 0, of, LaFTerConfig(tokens=2), **SIZES))
        bad = mean_of_layers(of, classifier="nonsense")
        if scheduler is None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(runs, "_WORTH_WORKERS", 0.0)
                with pytest.raises(ValueError, match=r"1 of 7 runs failed, first mean of layers, .*: classifier 'nons"):
                    get([*plan, bad], progress=False)
        kept[name] = get(plan, scheduler="none", progress=False)
        assert len(list((of.cache / "runs").glob("*.safetensors"))) == 6
    assert all(same(a, b) for a, b in zip(kept["here"], kept["workers"], strict=True))


# --- what is said meanwhile ---


def test_a_log_gets_a_line_now_and_then_and_says_what_is_left(setting, monkeypatch, capsys):
    """Two runs of one cost and one of twice as much: after the latter as many minutes are left as it took."""
    some = [hybrid(setting, seed=s) for s in (0, 1, 2)]
    costs = dict(zip(some, (20.0, 10.0, 10.0), strict=True))
    monkeypatch.setattr(Run, "cost", property(costs.get))
    monkeypatch.setattr(runs, "_HEARTBEAT", 0.01)
    with runs._Count(some, shown=True) as count:
        time.sleep(0.1)
        count.add(some[0])
        count.began -= 180
        assert count.left() == "about 3 min left"
        time.sleep(0.1)
        count.add(some[1])
        count.began += 150
        assert count.left() == "less than 1 min left"
        count.choosing, count.trials = 1, 2  # nobody knows how long it takes
        assert (count.left(), count.tried()) == ("", "2 trials of rates and steps")
        count.began -= 150
        count.choosing = 0
        count.try_out(30.0)  # 10 of 70 are left, where 60 took three minutes
        assert (count.left(), count.tried()) == ("less than 1 min left", "")
        count.costs[some[2]] = 40.0  # as many steps were chosen
        assert count.left() == "about 2 min left"
    lines = capsys.readouterr().err
    assert set(lines.splitlines()) >= {"runs 0/3", "runs 1/3, about 3 min left"} and "\r" not in lines
    with runs._Count(some, shown=False):
        time.sleep(0.05)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("bokeh", [True, False])
def test_whoever_starts_workers_reads_where_they_are(monkeypatch, capsys, bokeh):
    """Without bokeh Dask serves no dashboard, and none is named."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: bokeh if name == "bokeh" else found(name, *of))
    for progress in (True, False):
        with runs._client(None, 1, progress) as client:
            address = client.scheduler.address
        pattern = r"dashboard http://\S+/status" if bokeh else f"scheduler {address}"
        line = rf"Runs are computed by 1 worker: {pattern}\n"
        assert re.fullmatch(line if progress else "", capsys.readouterr().out)


# --- the command ---


@pytest.fixture
def planned(setting, tmp_path, monkeypatch) -> dict[str, list[Run]]:
    """A profile of four runs, one of which fails, and the store of another's, in the places of the real ones."""
    monkeypatch.setenv("HC_LAFTER_CACHE", str(tmp_path / "cache"))
    here = replace(setting, cache=tmp_path / "cache")
    scenes = Run("plain patches", "no training", 0, here, n_test=4)
    profiles = {
        "smoke": [mean_of_layers(here), hybrid(here), scenes, mean_of_layers(here, classifier="nonsense")],
        "default": [mean_of_layers(here, seed=1)],
    }
    monkeypatch.setattr(plans, "NOTEBOOKS", {"08-ablations": lambda study: profiles[study.name]})
    return profiles


def test_a_failed_run_is_a_row_that_says_why_until_it_succeeds(planned, monkeypatch, capsys):
    assert plans.main(["--profile", "smoke", "--scheduler", "none"]) == 2
    assert "1 of 4 runs failed, first mean of layers, supervised" in capsys.readouterr().err
    assert plans.main(["--profile", "smoke", "--list"]) == 0
    *_, failed, last = capsys.readouterr().out.splitlines()
    assert re.search(r"failed: ValueError: classifier 'nonsense' is unknown: choose one of", failed)
    assert last.startswith("3 of 4 runs are there")
    classifier_for = start.classifier_for
    monkeypatch.setattr(start, "classifier_for", lambda material, kind, seed: classifier_for(material, "chosen", seed))
    assert plans.main(["--profile", "smoke", "--scheduler", "none"]) == 0
    assert not list(planned["smoke"][0].setting.cache.glob("runs/*.failed"))


def test_what_is_there_is_exported(planned, tmp_path, capsys):
    out = tmp_path / "tables"
    assert plans.main(["--profile", "smoke", "--export", str(out)]) == 2
    assert "none of the 4 runs is there" in capsys.readouterr().err and not out.exists()
    there = planned["smoke"][:3]
    mean, _, scenes = get(there, scheduler="none", progress=False)
    assert plans.main(["--profile", "smoke", "--export", str(out)]) == 0
    assert capsys.readouterr().out == f"3 of 4 runs are in {out}.\n"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.parquet")}
    assert names == {
        "predictions/mean-of-layers.parquet", "predictions/hybridcascade-lafter.parquet",
        "masks/plain-patches.parquet", "runs.parquet", "history.parquet",
    }  # fmt: skip
    table = pd.read_parquet(out / "predictions" / "mean-of-layers.parquet")
    material = gather(there[0].setting)
    assert list(table) == ["run", "system", "regime", "seed", "n_train", "id", "label", *material.classes]
    test = material.part["test"]
    assert list(table["id"]) == [material.dataset.ids[i] for i in test]
    assert list(table["label"]) == [material.classes[material.labels[i]] for i in test]
    np.testing.assert_allclose(table[list(material.classes)], torch.tensor(mean.test).softmax(1), atol=1e-6)
    counts = pd.read_parquet(out / "masks" / "plain-patches.parquet")
    assert counts["intersection"].sum() == scenes.arrays["counts"][..., 0].sum() and counts["id"].nunique() == 4
    described = pd.read_parquet(out / "runs.parquet").set_index("run")
    assert described.loc[there[0].key[:12], "config"] == repr(MEAN) and len(described) == 3
    history = pd.read_parquet(out / "history.parquet").query(f"run == '{there[0].key[:12]}'")
    assert list(history.query("kind == 'step'")["loss"]) == [row["loss"] for row in mean.history.steps]
    assert list(history.query("kind == 'epoch'")["accuracy"]) == [row["accuracy"] for row in mean.history.epochs]


def test_pruning_deletes_what_nobody_asks_for_and_nobody_holds(planned, capsys):
    asked, other = planned["smoke"][0], planned["default"][0]
    get([asked, other], scheduler="none", progress=False)
    folder = asked.setting.cache / "runs"
    for name in (f"{'0' * 64}.checkpoint", f".{'0' * 64}-12345678.checkpoint", f"{'0' * 64}.lock", "notes.txt"):
        (folder / name).write_bytes(b"12345")
    before = sorted(folder.iterdir())
    assert plans.main(["--profile", "smoke", "--prune"]) == 0
    dry = capsys.readouterr().out
    assert re.search(rf"{other}\s+3 ", dry) and re.search(r"unfinished\s+3 ", dry)
    assert "2 runs, 6 files, 0.0 MB" in dry and "Nothing was deleted: add --yes" in dry
    assert sorted(folder.iterdir()) == before
    with store.locked(folder / f"{other.key}.safetensors"):
        assert plans.main(["--profile", "smoke", "--prune", "--yes"]) == 0
    assert "1 deleted, 1 left alone: another process" in capsys.readouterr().out
    assert {p.name[:64] for p in folder.iterdir()} == {asked.key, other.key, "notes.txt"}
    assert plans.main(["--profile", "smoke", "default", "--prune", "--yes"]) == 0
    assert "0 runs, 0 files" in capsys.readouterr().out
    assert plans.main(["--profile", "smoke", "--prune", "--yes"]) == 0
    assert {p.name[:64] for p in folder.iterdir()} == {asked.key, "notes.txt"}
    assert runs.missing([asked, other]) == [other]


# --- a system that is used ---


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deeper").mkdir()
    for i, record in enumerate(World(0, 0, 3, seed=5)):
        record.image.save(folder / ("deeper" if i else "") / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "settings"),
    [("LaFTer", {"tokens": 2}), ("HybridCascade-LaFTer", {}), ("linear probe", {}), ("zero-shot", {})],
)
def test_a_trained_system_is_a_file_that_names_pictures(tmp_path, shared_cache, material, pictures, name, settings):
    trained = tune(
        name, material.clip, material.dataset, epochs=3, batch_size=20, progress=False, cache=shared_cache, **settings
    )
    path = systems.save(trained, tmp_path / "mine.safetensors")
    again = systems.load(path)
    assert (again.system, again.config, again.classes) == (name, trained.config, material.classes) and again.source
    table = again.predict(pictures, progress=False)
    assert list(table.columns) == ["path", "class", *material.classes] and len(table) == 3
    assert sorted(Path(p).name for p in table["path"]) == ["0.png", "1.png", "2.png"]
    shares = table[list(material.classes)].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert list(table["class"]) == [material.classes[i] for i in shares.argmax(axis=1)]
    before = predict(trained, list(table["path"]), progress=False)
    assert predict(path, pictures, progress=False).equals(table)
    np.testing.assert_allclose(shares, before[list(material.classes)].to_numpy(), atol=1e-6)
    size = sum(t.nbytes for t in material.clip.visual.state_dict().values())
    assert path.stat().st_size < 0.2 * size  # the CLIP is not in it


def test_masks_of_pictures_are_png_files(tmp_path, shared_cache, material, pictures):
    trained = tune("value path", material.clip, material.dataset, progress=False, cache=shared_cache)
    path = systems.save(trained, tmp_path / "masks.safetensors")
    with pytest.raises(ValueError, match="value path predicts masks: give a folder for them"):
        systems.load(path).predict(pictures, progress=False)
    table = systems.load(path).predict(pictures, masks=tmp_path / "masks", progress=False)
    from PIL import Image

    for file, sample in zip(table["mask"], table[list(trained.classes)].to_numpy(), strict=True):
        values = np.asarray(Image.open(file))
        assert values.shape == (64, 64) and np.isclose(sample.sum(), 1)
        np.testing.assert_allclose(np.bincount(values.ravel(), minlength=len(sample)) / values.size, sample, atol=1e-6)


def test_a_setting_that_a_system_lacks_is_refused(material):
    with pytest.raises(ValueError, match=r"LaFTer has no setting 'token' .did you mean 'tokens'"):
        tune("LaFTer", material.clip, material.dataset, token=3)
