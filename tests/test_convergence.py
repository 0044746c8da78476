"""Training until it no longer gains: the rule, the rate, the schedule, and what of it is committed."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import DIAL, Dial, up

from hc_lafter import files, systems
from hc_lafter.analysis.segmentation import scores
from hc_lafter.data.masks.sets import mask_split
from hc_lafter.suite import plans, reference
from hc_lafter.suite.records import REFERENCE
from hc_lafter.suite.study import Study
from hc_lafter.systems import sc_clip
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig
from hc_lafter.systems.mean_of_layers import MeanOfLayersConfig
from hc_lafter.tuning import computing, runs
from hc_lafter.tuning import run as kept
from hc_lafter.tuning.batches import Rows
from hc_lafter.tuning.computing import compute
from hc_lafter.tuning.convergence import Choice, Convergence, at_rate, converged, search
from hc_lafter.tuning.material import gather, opened_masks
from hc_lafter.tuning.runs import Run, get
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.training import History, fit

RISING = [0.50 + 0.02 * i for i in range(20)]


@pytest.mark.parametrize(
    ("start", "scores", "n", "answer"),
    [
        (0.4, RISING, 1000, False),  # the best is the last, and the last fifth gained .08
        (0.4, RISING, 3, True),  # of three images, .08 is less than half a standard error of .19
        (0.4, [*RISING[:18], 0.5, 0.5], 1000, True),  # the best is not among the last tenth
        (0.4, [*RISING[:19], 0.5], 1000, False),
        (0.99, RISING, 1000, True),  # training was of no use at all
        (0.4, [0.8] * 20, 1000, True),  # the first of equals is the first
        (0.4, [*[0.8] * 19, 0.805], 1000, True),  # half a standard error is .0063
        (0.4, [*[0.8] * 19, 0.807], 1000, False),
    ],
)
def test_converged_is_what_more_steps_would_not_help(start, scores, n, answer):
    best = max(start, *scores)
    assert converged(start, scores, math.sqrt(best * (1 - best) / n)) is answer


def test_every_rate_of_a_configuration_keeps_its_ratio():
    design = HybridCascadeConfig(lr=1e-4, nga_lr=1e-5)
    assert at_rate(design, 3e-3) == replace(design, lr=3e-3, nga_lr=pytest.approx(3e-4))
    assert at_rate(systems.find("linear probe").config(), 1.0) == systems.find("linear probe").config()


# --- the schedule ---


def turned(**how) -> float:
    dial = Dial()
    fit(dial, Rows(x=torch.zeros(10)), up, dial.schedule(10), batch_size=4, seed=0, stretch=2, progress=False, **how)
    return dial.at.item()


@pytest.mark.parametrize(
    ("warmup", "decay", "factors"),
    [
        (0.0, "constant", [1.0] * 20),
        (0.2, "constant", [0.25, 0.5, 0.75, 1.0, *[1.0] * 16]),
        (0.0, "cosine", [(1 + math.cos(math.pi * i / 20)) / 2 for i in range(20)]),
        (0.1, "poly", [0.5, 1.0, *((1 - i / 18) ** 0.9 for i in range(18))]),
    ],
)
def test_rates_rise_and_fall_as_the_schedule_says(warmup, decay, factors):
    assert turned(warmup=warmup, decay=decay) == pytest.approx(0.25 * sum(factors), rel=1e-5)


def test_an_unknown_decay_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="decay 'cosin' is unknown: choose one of constant, cosine, poly"):
        turned(decay="cosin")


def test_the_module_that_came_in_may_be_the_best():
    dial, opinions = Dial(), iter([0.9, 0.5, 0.9])
    how = {"validate": lambda module: {"accuracy": next(opinions)}, "from_start": True, "stretch": 1}
    history = fit(dial, Rows(x=torch.zeros(8)), up, dial.schedule(2), batch_size=4, seed=0, progress=False, **how)
    assert history.start == {"accuracy": 0.9} and history.best_epoch == 0 and dial.at.item() == 0


def test_a_stretch_is_as_long_as_it_says_and_data_are_read_in_their_own_epochs():
    seen = []

    def noted(system, batch):
        seen.append(batch["x"].tolist())
        return up(system, batch)

    dial, data = Dial(), Rows(x=torch.arange(10.0))
    history = fit(dial, data, noted, dial.schedule(3), batch_size=4, seed=0, stretch=2, progress=False)
    assert [row["epoch"] for row in history.steps] == [1, 1, 2, 2, 3, 3] and len(history.epochs) == 3
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    for a, b, c in (seen[:3], seen[3:]):
        assert sorted([*a, *b, *c]) == list(range(10))


# --- runs ---


SIZES = {"n_train": 24, "n_val": 24, "batch_size": 8}


@pytest.fixture
def dial(monkeypatch, setting):
    monkeypatch.setattr(kept, "find", lambda name: DIAL if name == "dial" else systems.find(name))
    monkeypatch.setattr(computing, "regime_terms", lambda *_, **__: up)
    material = gather(setting)
    labels = material.labels.clone()
    labels[material.part["val"]] = 3

    def tuned(until: Convergence) -> runs.Result:
        run = Run("dial", "supervised", 0, setting, until=until, **SIZES)
        return compute(run, material=replace(material, labels=labels))

    return tuned


def test_the_rate_is_the_one_that_validation_likes(dial):
    """In ten steps without decay 0.3 arrives at 3, the class of every validation image; 0.1 at 1, 0.7 at 7."""
    found = dial(Convergence(10, (0.1, 0.3, 0.7), 0, checks=1, warmup=0.0, decay="constant"))
    assert found.rate == 0.3 and found.settings.lr == 0.3 and found.converged is False
    assert found.history.start == {"accuracy": 0.0} and (found.test.argmax(axis=1) == 3).all()


def test_a_trial_has_a_seed_of_its_own_and_reads_no_test_image(setting):
    run = Run("mean of layers", "supervised", 0, setting, until=Convergence(4, checks=2, doublings=1), **SIZES)
    trials = [run.trial(*pair) for pair in run.to_choose.trials]
    assert len(set(trials)) == (4 + 2 * 3) * 2
    assert trials == [replace(run, seed=1).trial(*p) for p in run.to_choose.trials]
    assert {t.seed for t in trials}.isdisjoint({0, 1}) and all(len(t.to_choose.trials) == 1 for t in trials)
    assert set(compute(trials[0]).arrays) == {"val"}
    assert Run("linear probe", "supervised", 0, setting, until=Convergence(4), **SIZES).to_choose is None


GRID = Convergence(100, (0.1, 0.2, 0.3, 0.4), doublings=2)


@pytest.mark.parametrize(
    ("until", "by_steps", "asked", "choice", "rising"),
    [  # by_steps: the score at each rate with 100, 200 and 400 steps, in hundredths; a standard error is two of them;
        # the fifth rate is the first beyond the grid, any other scores nothing
        (
            GRID,
            [[1, 2, 3, 1], [9, 2, 3.9, 1]],
            [4, 3],
            Choice(0.3, 100, True),
            (),
        ),  # .1 is too far away
        (GRID, [[1, 2, 3, 1], [9, 2, 4.1, 4.2], [9, 2, 4, 9]], [4, 3, 3], Choice(0.4, 400, False), ()),
        (GRID, [[1, 2, 3, 1], [9, 5, 4.1, 1], [5.5, 5, 3, 9]], [4, 3, 3], Choice(0.2, 200, True), ()),
        (
            GRID,
            [[7, 7, 7, 7], [6, 7, 9, 9]],
            [4, 1, 3],
            Choice(0.1, 100, True),
            (),
        ),  # the first of equals
        (
            GRID,
            [[1, 2, 3, 4, 5.1], [1, 2, 3, 4, 5]],
            [4, 1, 1, 3],
            Choice(1.26, 100, True),
            (),
        ),  # beyond the end
        (
            GRID,
            [[1, 2, 3, 4, 4.9], [1, 2, 3, 4, 4.9]],
            [4, 1, 3],
            Choice(0.4, 100, True),
            (),
        ),  # too little gain
        (replace(GRID, doublings=0), [[1, 2, 3, 4, 4]], [4, 1], Choice(0.4, 100, None), ()),
        (
            GRID,
            [[1, 2, 3, 1], [9, 2, 3.9, 1], [9, 2, 3.9, 1]],
            [4, 3, 3],
            Choice(0.3, 200, True),
            (100,),
        ),  # it rose
        (GRID, [[1, 2, 3, 1], [9, 2, 3.9, 1], [9, 2, 3.9, 1]], [4, 3, 3], Choice(0.3, 400, True), (100, 200)),
        (replace(GRID, doublings=0), [[1, 2, 3, 1]], [4], Choice(0.3, 100, None), ()),
        (replace(GRID, rates=(0.3,)), [[1], [1]], [1, 1], Choice(0.3, 100, True), ()),
        (replace(GRID, rates=()), [[1], [3], [3]], [1, 1, 1], Choice(None, 200, True), ()),
        (replace(GRID, rates=(0.3,), doublings=0), [], [], Choice(0.3, 100, None), ()),
    ],
)
def test_rates_and_steps_are_searched_together(until, by_steps, asked, choice, rising):
    rates, scores, waves = until.rates or (None,), {}, []
    while isinstance(found := search(until, scores), list):
        waves.append(len(found))
        for rate, steps in found:
            by_rate = by_steps[(steps // 100).bit_length() - 1]
            place = [*rates, 1.26].index(rate) if rate in (*rates, 1.26) else 99
            scores[rate, steps] = (by_rate[place] if place < len(by_rate) else 0) / 100, 0.02, steps not in rising
    assert (waves, found) == (asked, choice)


def test_steps_are_doubled_until_they_no_longer_help(dial):
    """At 0.13 a step, class 3 is nearest from step 20 on: the last of twenty, the middle of forty."""
    same = {"rates": (0.13,), "checks": 10, "warmup": 0.0, "decay": "constant"}
    reached = dial(Convergence(10, doublings=2, **same))
    assert reached.steps == 40 and reached.converged  # 20 are no worse, but were right at their last step alone
    assert dial(Convergence(10, doublings=1, **same)).converged is False  # nobody knows whether 40 steps were better
    reached = dial(Convergence(40, doublings=1, **same))
    assert reached.steps == 40 and reached.converged
    assert dial(Convergence(10, doublings=0, **same)).converged  # wrong throughout, and nobody tried more


def small(setting, **changes) -> Run:
    until = Convergence(8, (1e-3, 1e-2), 2, checks=4)
    return replace(
        Run("mean of layers", "supervised", 0, setting, MeanOfLayersConfig(lr=1.0), until=until, **SIZES), **changes
    )


def same(a: runs.Result, b: runs.Result, tensors: bool = True) -> bool:
    arrays = a.arrays.keys() == b.arrays.keys() and all(np.array_equal(a.arrays[k], b.arrays[k]) for k in a.arrays)
    chosen = (a.rate, a.steps, a.converged, a.history) == (b.rate, b.steps, b.converged, b.history)
    return chosen and arrays and (not tensors or all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors))


def test_what_is_read_is_what_was_computed_and_a_run_that_was_cut_off_goes_on(setting, monkeypatch):
    (first,) = get([small(setting)], scheduler="none", progress=False)
    assert same(first, get([small(setting)], scheduler="none")[0])
    assert np.array_equal(first.test, first.test.astype(np.float16))
    path = setting.cache / "runs" / f"{small(setting).key}.safetensors"
    path.unlink()
    whole = computing.fit

    def cut(*args, validate, **kwargs):
        seen = []

        def stop(module):
            seen.append(module)
            if len(seen) == 4:  # before the first step, and after two stretches
                raise KeyboardInterrupt
            return validate(module)

        return whole(*args, validate=stop, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(computing, "fit", cut)
        get([small(setting)], scheduler="none", progress=False)
    assert path.with_suffix(".checkpoint").is_file() and not path.is_file()
    assert same(first, get([small(setting)], scheduler="none", progress=False)[0])
    assert not list(path.parent.glob(f"{small(setting).key}*checkpoint"))


def test_masks_have_a_standard_error_by_the_jackknife(tmp_path, monkeypatch):
    sizes = {"n_train": 8, "n_val": 6, "n_test": 6, "batch_size": 6}
    setting = Setting(**sizes, seeds=(0,), text_steps=20, text_noise=(0.0,), cache=tmp_path)
    until = Convergence(2, (1e-3,), 0, checks=1, decay="poly")
    run = Run("one decoder, last layer", "inductive", 0, setting, until=until, **{**sizes, "batch_size": 4})
    (found,) = get([run], scheduler="none", progress=False)
    scenes = opened_masks(setting)
    unseen = np.isin(scenes.mask_classes, mask_split(None, scenes).unseen)
    left_out = [scores(np.delete(found.val, i, axis=0).sum(axis=0), unseen)["seen"] for i in range(6)]
    assert found.error == pytest.approx(np.sqrt(5 / 6 * np.sum((left_out - np.mean(left_out)) ** 2)))
    assert found.score == scores(found.val.sum(axis=0), unseen)["seen"] and len(found.arrays["counts"]) == 6
    (path,) = reference.write([found], tmp_path / "runs")
    assert pd.read_parquet(path)["counts"][0].dtype == np.uint16  # a picture has 4,096 pixels
    elsewhere = replace(run, setting=replace(setting, cache=tmp_path / "cache"))
    assert reference.adopt([elsewhere], tmp_path / "runs") == 1
    assert same(found, get([elsewhere], scheduler="none", progress=False)[0], tensors=False)
    monkeypatch.setattr(reference, "_STEPS", 1)  # of a long run's steps every nth is committed, here the second of two
    (path,) = reference.write([found], tmp_path / "few")
    there = replace(run, setting=replace(setting, cache=tmp_path / "another"))
    assert reference.adopt([there], tmp_path / "few") == 1
    (few,) = get([there], scheduler="none", progress=False)
    assert few.history.steps == reference.sampled(few) == reference.sampled(found) == found.history.steps[1:]
    assert len(found.history.steps) == 2 and few.steps == 2 and few.history.epochs == found.history.epochs


def test_a_brief_run_keeps_what_it_says_and_how_far_it_went(setting):
    whole, brief = get([small(setting, seed=1), small(setting, seed=1, brief=True)], scheduler="none", progress=False)
    assert set(brief.arrays) == {"val", "test"} < set(whole.arrays) and brief.history.steps == []
    assert np.array_equal(brief.test, whole.test) and brief.steps == whole.steps == len(whole.history.steps)
    assert brief.history.epochs == whole.history.epochs


# --- committed ---


def test_committed_runs_are_read_instead_of_computed(setting, tmp_path, monkeypatch):
    asked = [small(setting, seed=seed) for seed in (0, 1)]
    made = get(asked, scheduler="none", progress=False)
    (path,) = reference.write(made, tmp_path / "runs")
    assert path.name == "mean-of-layers.parquet" and str(setting.cache) not in pd.read_parquet(path)["run"][0]
    elsewhere = [replace(run, setting=replace(setting, cache=tmp_path / "cache")) for run in asked]
    assert reference.adopt(elsewhere, tmp_path / "runs") == 2
    monkeypatch.setattr(runs, "compute", lambda *_, **__: pytest.fail("computed again"))
    found = get(elsewhere, scheduler="none")
    assert all(same(a, b, tensors=False) for a, b in zip(made, found, strict=True))
    with pytest.raises(ValueError, match=r"only its logits were committed.* delete .*\.safetensors"):
        found[0].module()
    assert reference.adopt(elsewhere, tmp_path / "runs") == 0


def test_points_of_adopted_runs_are_those_of_computed_ones(setting, tmp_path):
    """Of a brief run no validation logits are committed: what they said is."""
    asked = [small(setting, seed=seed, brief=True) for seed in (0, 1)]
    study = SimpleNamespace(committed=tmp_path / "runs")
    found = get(asked, scheduler="none", progress=False)
    computed = reference.points_of(study, {"all": asked})
    reference.write(found, study.committed, set(asked))
    elsewhere = [replace(run, setting=replace(setting, cache=tmp_path / "cache")) for run in asked]
    assert reference.adopt(elsewhere, study.committed) == 2 and "val" not in get(elsewhere)[0].arrays
    adopted = reference.points_of(study, {"all": elsewhere})
    assert np.array_equal(adopted["hits"][0], computed["hits"][0])
    pd.testing.assert_frame_equal(adopted.drop(columns="hits"), computed.drop(columns="hits"))


def test_what_another_device_computed_is_read_here(setting, tmp_path):
    """Meta stands for a GPU: the run is the same but for the device, under which it has another key."""
    (made,) = get([small(setting)], scheduler="none", progress=False)
    there = replace(made.run, setting=replace(setting, device="meta"))
    assert there.key != made.run.key
    reference.write([replace(made, run=there)], tmp_path / "runs")
    assert reference.read(tmp_path / "runs")[["device", "key"]].to_numpy().tolist() == [["meta", made.run.key]]
    asked = replace(made.run, setting=replace(setting, cache=tmp_path / "cache"))
    assert reference.adopt([asked], tmp_path / "runs") == 1 and same(made, get([asked])[0], tensors=False)


def test_a_run_under_other_code_takes_the_old_ones_place(setting, tmp_path, monkeypatch):
    made = get([small(setting)], scheduler="none", progress=False)
    reference.write(made, tmp_path)
    monkeypatch.setattr(kept, "code_behind", lambda *modules: "another")
    assert reference.adopt([replace(small(setting), setting=replace(setting, cache=tmp_path / "c"))], tmp_path) == 0
    reference.write(made, tmp_path)
    assert len(reference.read(tmp_path)) == 1


def test_a_point_has_one_place_on_the_curve(setting, tmp_path):
    """Trained otherwise, it takes the place of the one before; what is no point stays beside it."""
    before, other = small(setting), small(setting, lam=0.0)
    after = small(setting, until=replace(before.until, steps=4))
    reference.write(get([before, other], scheduler="none", progress=False), tmp_path, {before})
    reference.write(get([after], scheduler="none", progress=False), tmp_path, {after})
    table = reference.read(tmp_path)
    assert sorted(table["key"]) == sorted([other.key, after.key])


def test_files_of_other_systems_stay(setting, tmp_path):
    """Byte for byte, though another system has arrays that they lack."""
    reference.write(get([small(setting)], scheduler="none", progress=False), tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    probe = Run("linear probe", "supervised", 0, setting, until=Convergence(4), **SIZES)
    (fresh,) = reference.write(get([probe], scheduler="none", progress=False), tmp_path)
    assert fresh.name == "linear-probe.parquet" and path.read_bytes() == before
    assert "val before" in pd.read_parquet(path) and "val before" not in pd.read_parquet(fresh)
    assert reference.write(get([probe], scheduler="none", progress=False), tmp_path) == []


def test_what_is_not_trained_to_convergence_keeps_all_its_digits(setting, tmp_path):
    run = replace(small(setting), until=None, epochs=2)
    (made,) = get([run], scheduler="none", progress=False)
    reference.write([made], tmp_path / "runs")
    elsewhere = replace(run, setting=replace(setting, cache=tmp_path / "cache"))
    assert reference.adopt([elsewhere], tmp_path / "runs") == 1
    assert same(made, get([elsewhere], scheduler="none")[0], tensors=False)
    assert not np.array_equal(made.test, made.test.astype(np.float16))


def test_an_adopted_probe_is_no_module_of_zeros(setting, tmp_path):
    run = Run("linear probe", "supervised", 0, setting, until=Convergence(4), **SIZES)
    reference.write(get([run], scheduler="none", progress=False), tmp_path / "runs")
    elsewhere = replace(run, setting=replace(setting, cache=tmp_path / "cache"))
    assert reference.adopt([elsewhere], tmp_path / "runs") == 1
    with pytest.raises(ValueError, match="only its logits were committed"):
        get([elsewhere], scheduler="none")[0].module()


def test_a_full_result_is_never_replaced_by_a_committed_one(setting, tmp_path, monkeypatch):
    run = small(setting)
    (made,) = get([run], scheduler="none", progress=False)
    reference.write([made], tmp_path)
    monkeypatch.setattr(reference, "missing", list)  # it was finished between the question and the answer
    reference.adopt([run], tmp_path)
    assert get([run], scheduler="none")[0].tensors


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "lafter.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"lafter\.parquet is damaged .* check it out again"):
        reference.read(tmp_path)


# --- the code behind a run ---


@pytest.mark.parametrize(
    ("path", "new", "stale"),
    [
        ("systems/lafter.py", "\nADDED = 1\n", True),
        ("systems/losses.py", "\nADDED = 1\n", True),  # lafter.py imports regimes, which imports it
        ("clip/vit.py", "\nADDED = 1\n", True),
        ("tuning/training.py", "\nADDED = 1\n", True),
        ("tuning/training.py", "\n# a comment\n", False),
        ("data/__init__.py", "\nADDED = 1\n", True),  # draws images
        ("data/decode.py", "\nADDED = 1\n", True),
        ("systems/sc_clip.py", "\nADDED = 1\n", False),
        ("systems/__init__.py", "\nADDED = 1\n", False),
        ("commands.py", "\nADDED = 1\n", False),
        ("analysis/statistics.py", "\nADDED = 1\n", False),
        ("suite/plots.py", "\nADDED = 1\n", False),
        ("data/own/folder.py", "\nADDED = 1\n", False),
        ("embedded/vocabulary.txt", "word\n", True),
    ],
)
def test_a_result_is_stale_when_the_code_behind_it_changes(tmp_path, monkeypatch, path, new, stale):
    package = shutil.copytree(Path(files.__file__).parent, tmp_path / "hc_lafter")
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    modules = "hc_lafter.tuning.computing", "hc_lafter.data.decode", "hc_lafter.systems.lafter"
    before = files.code_behind.__wrapped__(*modules)
    with (package / path).open("a", encoding="utf-8") as file:
        file.write(new)
    assert (files.code_behind.__wrapped__(*modules) != before) is stale


def _mean_gains_no_more(made: list[runs.Result]) -> bool:
    curves = [[row["accuracy"] for row in (r.history.start, *r.history.epochs)] for r in made]
    start, *scores = np.mean(curves, axis=0).tolist()
    return any(r.converged for r in made) and converged(start, scores, np.mean([r.error for r in made]))


def test_the_curve_is_of_its_points_alone(setting, tmp_path):
    """Accuracy by hand; a run that is no point, such as an ablation, stands beside and does not count."""
    points = [small(setting, seed=seed, n_train=n) for n in (8, 24) for seed in (0, 1)]
    others = [small(setting, lam=0.0)]
    made = get([*points, *others], scheduler="none", progress=False)
    reference.write(made, tmp_path / "results" / "reference" / "runs", set(points))

    default, read = tmp_path / "results" / "default" / "runs", []
    study = SimpleNamespace(resampling={"resamples": 200, "rng_seed": 0}, committed=default)
    study.rests_on = lambda paths: read.extend(path.name for path in paths)
    found = reference.points_of(study, {})
    assert read == ["mean-of-layers.parquet"]
    curve = reference.curve_of(study, found)
    material = gather(setting)
    truth = material.labels[material.part["test"]].numpy()
    by_hand = [np.mean([(r.test.argmax(1) == truth).mean() for r in made[i : i + 2]]) for i in (0, 2)]
    assert curve["n_train"].tolist() == [8, 24] and curve["value"].tolist() == pytest.approx(by_hand)
    assert set(curve["seeds"]) == {2} and set(curve["n"]) == {24}
    assert curve["converged"].tolist() == [_mean_gains_no_more(made[i : i + 2]) for i in (0, 2)]
    asked = reference.points_of(study, {i: [run] for i, run in enumerate(points)})
    assert reference.curve_of(study, asked).equals(curve)
    judged = material.labels[material.draw(24, 0, "val")].numpy()
    by_hand = [np.mean([(r.val.argmax(1) == judged).mean() for r in made[i : i + 2]]) for i in (0, 2)]
    assert found["validation"].tolist() == pytest.approx(by_hand)


def test_the_choice_is_made_on_validation_and_reported_on_test():
    """By hand, with 400 images; `level` is right on others than `best`, and on two more."""
    hits = {"zero-shot": np.arange(400)[None] < 160, "probe": np.tile(np.arange(400) < 150, (6, 1))}
    hits |= {"best": np.tile(np.arange(400) < 300, (6, 1)), "level": np.tile(np.arange(400) % 400 >= 98, (6, 1))}
    hits |= {"short": np.tile(np.arange(400) < 390, (6, 1)), "free": np.tile(np.arange(400) < 200, (6, 1))}
    about = [
        ("zero-shot", "no training", 0, 0.40, None), ("free", "label-free", 2000, 0.50, True),
        ("probe", "supervised", 32, 0.38, True), ("best", "supervised", 512, 0.76, True),
        ("level", "supervised", 512, 0.75, True), ("short", "supervised", 512, 0.97, False),
    ]  # fmt: skip
    points = pd.DataFrame(about, columns=["system", "regime", "n_train", "validation", "converged"])
    points["error"] = [np.nan, *[0.005] * 5]
    points["hits"], points["seeds"] = [hits[name] for name in points["system"]], 6
    points["drawn"] = [tuple(range(len(seeds))) for seeds in points["hits"]]
    resampling = {"resamples": 2000, "rng_seed": 0}
    study = SimpleNamespace(resampling=resampling, comparing={**resampling, "tables": 2})
    added = {"best": 900, "level": 100, "probe": 0, "short": 0, "free": 0, "zero-shot": 0}
    found = reference.answers(study, points, 8, added)
    chosen = found[found["minus"].isna()]
    assert chosen["metric"].tolist() == [f"choice with {n} labels per class" for n in (0, 4, 64)]
    assert chosen["system"].tolist() == ["free", "free", "best"] and chosen["value"].tolist() == [0.5, 0.5, 0.75]
    verdicts = found[found["metric"] == "choice with 64 labels per class"].set_index("minus")["verdict"].dropna()
    assert verdicts.to_dict() == {"zero-shot": "better", "free, label-free": "better", "level": "no difference"}
    assert "short" not in set(found["minus"])  # it has not converged, and judges nothing
    wider = reference.answers(study, points.assign(error=[np.nan, *[0.0101] * 5]), 8, added)
    wider = wider[wider["minus"].isna()].set_index("metric")["system"]
    assert wider["choice with 64 labels per class"] == "level"  # within one standard error, and it trains less
    assert wider["choice with 0 labels per class"] == "free"
    cheap = points.assign(validation=points["validation"].replace(0.50, 0.4049), error=[np.nan, *[0.005] * 5])
    assert reference.answers(study, cheap, 8, added)["system"].iloc[0] == "zero-shot"  # nothing is trained


def test_two_systems_meet_where_both_stand_on_the_curve_and_on_the_seeds_of_both():
    """By hand: seed s of `ours` is right on 100 + s of 400 images, of `theirs` on 90 + 3 s."""
    ours, theirs = (lambda s: np.arange(400) < 100 + s), (lambda s: np.arange(400) < 90 + 3 * s)

    def point(system, n, seeds, hits, converged=True, regime="supervised"):
        stacked = np.stack([hits(s) for s in seeds])
        return {
            "system": system,
            "regime": regime,
            "n_train": n,
            "hits": stacked,
            "drawn": seeds,
            "converged": converged,
        }

    points = pd.DataFrame([
        point("ours", 32, (0, 1, 2, 4, 5), ours), point("theirs", 32, (1, 2, 3, 5), theirs),
        point("ours", 128, (0, 1, 2), ours), point("theirs", 128, (0, 1, 2), theirs, converged=False),
        point("ours", 512, (0, 1, 2), ours),  # alone
        point("ours", 2000, (0, 1), ours), point("theirs", 2000, (1, 2), theirs),  # one seed in common
        point("theirs", 32, (0, 1), theirs, regime="label-free"),
    ])  # fmt: skip
    study = SimpleNamespace(resampling={"resamples": 200, "rng_seed": 0})
    found = reference.duels(study, points, [("ours", "theirs"), ("ours", "nobody")])
    assert found[["system", "minus", "regime", "n_train"]].to_numpy().tolist() == [
        ["ours", "theirs", "supervised", n] for n in (32, 128)
    ]
    assert found["converged"].tolist() == [True, False] and found["seeds"].tolist() == [3, 3]
    by_hand = [np.mean([10 - 2 * s for s in seeds]) / 400 for seeds in ((1, 2, 5), (0, 1, 2))]
    assert found["value"].tolist() == pytest.approx(by_hand)
    assert "verdict" not in found  # it is the ledger's
    study = Study("04-full-training", "smoke")
    study.add(found, dataset="world", split="test", metric="top-1 accuracy", unit="fraction")


def of_seeds(values, converged=True, diverged=None):
    """Results of runs whose loss ends at a value; what each names rightly is ``hits``, patched."""
    flat = {"start": {"accuracy": 0.5}, "epochs": [{"accuracy": 0.5}] * 4, "diverged": diverged}
    history = [SimpleNamespace(steps=[{"task": 9.0}] * 4 + [{"task": v}], **flat) for v in values]
    return [SimpleNamespace(history=h, converged=converged, error=0.01) for h in history]


def test_steadiness_is_a_ratio_of_standard_deviations_over_seeds(monkeypatch):
    ours, theirs = of_seeds([1.0, 1.1, 1.3, 1.2]), of_seeds([2.0, 2.4, 2.2, 2.9])
    theirs.append(of_seeds([7.0])[0])  # a seed that the other has not takes no part
    right = {id(ours): np.arange(40).reshape(4, 10) % 3 == 0, id(theirs): np.arange(40).reshape(4, 10) < 21}
    monkeypatch.setattr(plans, "hits", lambda material, found: right[id(ours if found[0] is ours[0] else theirs)])
    loss, accuracy = plans.steadier(None, ours, theirs)
    assert loss["metric"] == "sd over seeds of the smoothed task loss" and loss["split"] == "train"
    assert loss["value"] == pytest.approx(np.std([1.0, 1.1, 1.3, 1.2]) / np.std([2.0, 2.4, 2.2, 2.9]))
    spread = [right[id(x)].mean(axis=1).std() for x in (ours, theirs)]
    assert accuracy["value"] == pytest.approx(spread[0] / spread[1]) and accuracy["split"] == "test"
    assert loss["converged"] is True and loss["seeds"] == 4
    right[id(theirs)] = np.ones((4, 10), dtype=bool)  # accuracy does not vary: no ratio
    assert [row["split"] for row in plans.steadier(None, ours, theirs)] == ["train"]
    assert plans.steadier(None, ours, of_seeds([1.0, 2.0, 3.0, 4.0], diverged="it broke")) == []
    assert plans.settled(ours, of_seeds([1.0], converged=False)) is False
    assert plans.settled(ours, of_seeds([1.0], converged=None)) is None


def test_the_consistency_loss_is_on_for_a_third_of_the_steps():
    for name in ("smoke", "default", "reference"):
        arms = plans.consistency(Study("04-full-training", name))
        assert {x: runs[0].settings.consistency for x, runs in arms.items()} == {"on": 0.1, "off": 0.0}
        run = arms["on"][0]
        stretches = run.epochs if run.until is None else run.until.checks
        *_, last = HybridCascade.schedule(SimpleNamespace(config=run.settings, parameter_groups=list), stretches)
        assert last.weights["consistency"] == 0.1 and last.epochs / stretches >= 0.3


def test_the_arms_on_masks_are_both_one_or_none_of_the_two():
    arms = plans.mask_arms(Study("05-cascade-vs-hybrid", "reference"))
    assert len(arms) == 7 and {len(runs) for runs in arms.values()} == {plans.TOWER_SEEDS}
    whole = plans.mask_systems(Study("05-cascade-vs-hybrid", "reference"))["Cascade-CLIP", "inductive"]
    assert arms["Cascade-CLIP, three decoders, free"] == whole  # trained once
    assert {run.system for run in arms["Cascade-CLIP, one decoder, last"]} == {"one decoder, last layer"}
    assert all(run.until is not None for runs in arms.values() for run in runs)
    of = {name: runs[0].settings for name, runs in arms.items()}
    assert of["Cascade-CLIP, one decoder, mean"].levels == ((6, 7, 8, 9, 10, 11, 12),)
    assert {c.nga for name, c in of.items() if "three" in name} == {"mean", "last", "free"}
    assert plans.mask_arms(Study("05-cascade-vs-hybrid", "default")) == {}


def test_committed_arms_are_read_under_a_profile_that_trains_none():
    study = Study("05-cascade-vs-hybrid", "default")
    once, twice, *rest = plans.results_of_arms(study)
    assert {name.removeprefix("Cascade-CLIP, ") for name in twice} <= {name[14:] for name in once} and not any(rest)
    metrics = json.loads((study.committed.parent / study.notebook / "metrics.json").read_text())
    told = [r for r in metrics if r["dataset"] == REFERENCE and r["metric"] == "mIoU"]
    told = {r["system"]: r for r in told if r.get("minus") == "Cascade-CLIP, three decoders, free"}
    whole = "Cascade-CLIP, three decoders, free"
    assert {*told} == {*twice} - {whole} and {r["converged"] for r in told.values()} == {False}

    def miou(results):  # slowly: the mean over seeds of the mean over classes, of counts that are summed over pictures
        sums = [r.arrays["counts"].sum(axis=0).astype(float) for r in results]
        return np.mean([np.mean([i / (p + t - i) for i, p, t in of if p + t > 0]) for of in sums])

    for name, row in told.items():
        assert (row["seeds"], row["n"]) == (len(twice[name]), len(twice[name][0].arrays["counts"])) == (6, 2000)
        assert row["value"] == pytest.approx(miou(twice[name]) - miou(twice[whole]), abs=1e-6)
        assert {r.run.seed for r in twice[name]} == {r.run.seed for r in once[name]} == {*range(6)}
        assert [r.steps for r in twice[name]] == [2 * r.steps for r in once[name]]


def test_committed_masks_are_read_under_a_profile_that_trains_briefly():
    """Their means of IoU, slowly; and each row once, at its longest training."""
    study = Study("05-cascade-vs-hybrid", "default")
    found = plans.trained_masks(study)
    assert found and plans.trained_masks(Study("05-cascade-vs-hybrid", "reference")) == {}
    metrics = json.loads((study.committed.parent / study.notebook / "metrics.json").read_text())
    told = [r for r in metrics if r["dataset"] == REFERENCE and r["metric"] == "mIoU" and not r.get("minus")]
    verdict = (study.committed.parent / study.notebook / "verdict.md").read_text()
    assert len(told) == len(found)
    for row, ((name, regime), lengths) in zip(told, found.items(), strict=True):
        results = lengths[-1]
        assert row["system"].startswith(name) and row["n"] == len(results[0].arrays["counts"]) == 2000
        assert row.get("regime") == (None if regime == "no training" else regime)
        sums = [r.arrays["counts"].sum(axis=0).astype(float) for r in results]
        slow = np.mean([np.mean([i / (p + t - i) for i, p, t in of if p + t > 0]) for of in sums])
        assert row["value"] == pytest.approx(slow, abs=1e-6)
        assert row.get("converged") is (None if regime == "no training" else reference.gained_no_more(results))
        steps = [length[0].steps for length in lengths]
        assert steps == ([0] if regime == "no training" else [steps[0] * 2**i for i in range(len(steps))])
        if len(steps) > 1:
            said = [f"{np.mean([r.score for r in length]):.3f} after {length[0].steps:,}" for length in lengths]
            assert f"{row['system']}, {', '.join(said)} steps" in verdict


def test_sc_clip_is_recalibrated_where_its_settings_are_not_its_releases():
    (run,) = plans.mask_systems(Study("05-cascade-vs-hybrid", "default"))["SC-CLIP", "no training"]
    assert plans.called(run) == "SC-CLIP, recalibrated"
    released = replace(sc_clip.released(12), k=7, logit_scale=50.0)  # which follow patches and data
    assert plans.called(replace(run, config=released)) == "SC-CLIP"
    assert plans.called(replace(run, config=replace(released, beta=0.5))) == "SC-CLIP, recalibrated"
    other = plans.mask_systems(Study("05-cascade-vs-hybrid", "default"))["NACLIP", "no training"][0]
    assert plans.called(other) == "NACLIP"


# --- rows that go on ---


def rising(run: Run, best: float, level: bool) -> runs.Result:
    """A result of a run whose validation score was level from the first check on, or rose until the last."""
    scores = [best if level else best * i / 10 for i in range(1, 11)]
    history = History(epochs=[{"accuracy": score} for score in scores], start={"accuracy": 0.1})
    rate, steps = run.until.rates[0], run.until.steps
    return runs.Result(run, {}, history, {}, 0.0, steps, rate, converged=level, error=0.02)


@pytest.mark.parametrize(
    ("then", "steps"),
    [
        ([(0.8, True)], 80),
        ([(0.795, True)], 80),  # not lower by more than half a standard error
        ([(0.78, True)], 40),  # lower: the first stays, flag and all
        ([(0.8, False), (0.8, True)], 160),
        ([(0.8, False), (0.8, False)], 40),
    ],
)
def test_a_row_that_still_gains_goes_on_twice_at_most(setting, monkeypatch, then, steps):
    answers, asked = dict(zip((40, 80, 160), [(0.8, False), *then], strict=False)), []

    def get(wanted):
        asked.extend(wanted)
        return [rising(run, *answers[run.until.steps]) for run in wanted]

    monkeypatch.setattr(reference, "get", get)
    first = Convergence(40, (0.1,), 0, checks=10)
    row = [small(setting, seed=seed, until=first) for seed in (0, 1)]
    found = reference.to_the_end({"a": row})["a"]
    assert [(r.steps, r.run.seed) for r in found] == [(steps, 0), (steps, 1)]
    rates = {run.until.steps: run.until.rates for run in asked}
    assert rates == dict(list({40: (0.1,), 80: (0.03,), 160: (0.01,)}.items())[: 1 + len(then)])
    assert all(replace(run, until=first) == row[run.seed] for run in asked)


@pytest.mark.parametrize(
    ("seeds_say", "chosen", "tried"),
    [
        ({0.001: 0.7, 0.003: 0.8, 0.01: 0.7}, 0.003, [0.001, 0.01]),  # as the kept seed
        ({0.001: 0.8, 0.003: 0.8, 0.01: 0.8}, 0.003, [0.001, 0.01]),  # equal: as the kept seed
        ({0.000316: 0.7, 0.001: 0.8, 0.003: 0.6, 0.01: 0.7}, 0.001, [0.001, 0.01, 0.000316]),
        ({0.001: 0.5, 0.003: 0.6, 0.01: 0.7, 0.0316: 0.9, 0.1: 0.8}, 0.0316, [0.001, 0.01, 0.0316, 0.1]),  # uphill
    ],
)
def test_all_seeds_choose_between_the_rates_beside_the_kept_seeds(setting, monkeypatch, seeds_say, chosen, tried):
    asked = []

    def get(wanted, **how):
        asked.extend(wanted)
        rates = [0.003 if len(run.until.rates) > 1 else run.until.rates[0] for run in wanted]
        found = [rising(run, seeds_say[rate] + 0.01 * run.seed, True) for run, rate in zip(wanted, rates, strict=True)]
        return [replace(result, rate=rate) for result, rate in zip(found, rates, strict=True)]

    monkeypatch.setattr(reference, "get", get)
    monkeypatch.setattr(reference, "missing", lambda runs: [])
    grid = Convergence(40, (0.001, 0.003, 0.01), 0, checks=10)
    row = [small(setting, seed=seed, until=grid) for seed in (0, 1)]
    rows, runs = reference.at_best_rates({"a": row})
    alone = [replace(run, until=replace(grid, rates=(chosen,))) for run in row]
    assert rows == {"a": row if chosen == 0.003 else alone}
    assert list(dict.fromkeys(run.until.rates for run in runs)) == [(rate,) for rate in tried]
    assert asked == [*row, *runs] and [run.seed for run in runs] == [0, 1] * len(tried)
    assert all(run.n_test == 0 and run.brief for run in runs)  # nothing is chosen on the test split


def test_a_choice_of_rates_that_is_not_there_leaves_its_row_out(setting, monkeypatch):
    grid = Convergence(40, (0.001, 0.003, 0.01), 0, checks=10)
    row = [small(setting, seed=seed, until=grid) for seed in (0, 1)]
    fixed = [replace(run, until=None) for run in row]

    def get(wanted):
        found = [replace(rising(replace(run, until=grid), 0.8, True), run=run, rate=0.003) for run in wanted]
        return [r if r.run.until else replace(r, rate=None, history=History()) for r in found]  # no training, no score

    monkeypatch.setattr(reference, "get", get)
    monkeypatch.setattr(reference, "missing", lambda runs: [run for run in runs if run.n_test == 0])
    assert reference.at_best_rates({"a": row, "b": fixed}, compute=False) == ({"b": fixed}, [])


def test_who_computes_the_first_runs_computes_those_that_go_on(setting, monkeypatch):
    asked = []

    def get(wanted, **how):
        asked.append(how)
        return [rising(run, 0.8, False) for run in wanted]

    monkeypatch.setattr(reference, "get", get)
    row = [small(setting, until=Convergence(40, (0.1,), 0, checks=10))]
    assert len(reference.stages({"a": row}, scheduler="tcp://127.0.0.1:1")) == 3
    assert asked == [{"scheduler": "tcp://127.0.0.1:1"}] * 3


def test_towers_that_name_images_and_untrained_systems_do_not_go_on(setting):
    until = Convergence(40, (0.1,), 0, checks=10)
    masked = replace(small(setting, until=until), system="dense hybrid", regime="inductive", config=None)
    on_seen = rising(masked, 0.8, False)
    history = History(epochs=[{"seen": row["accuracy"]} for row in on_seen.history.epochs], start={"seen": 0.1})
    (after,) = reference.further([replace(on_seen, history=history)])
    assert (after.until.steps, after.until.rates) == (80, (0.03,))
    tower = replace(small(setting, until=until), system="LaFTer", config=None)
    assert reference.further([rising(tower, 0.8, False)]) == []
    assert reference.further([rising(small(setting, until=until), 0.8, True)]) == []
    assert reference.further([replace(rising(small(setting, until=until), 0.8, False), rate=None)]) == []


def test_what_a_row_went_on_from_stays_committed_and_is_no_point(setting, tmp_path):
    before = small(setting, until=Convergence(2, (1e-2,), 0, checks=1))
    after = replace(before, until=Convergence(4, (3e-3,), 0, checks=1))
    reference.write(get([before], scheduler="none", progress=False), tmp_path, {before})
    reference.write(get([before, after], scheduler="none", progress=False), tmp_path, {after})
    table = reference.read(tmp_path)
    assert dict(zip(table["steps"], table["point"], strict=True)) == {2: False, 4: True}
    assert dict(zip(table["steps"], table["test"].notna(), strict=True)) == {2: False, 4: True}  # its curve is enough
    elsewhere = replace(before, setting=replace(setting, cache=tmp_path / "cache"))
    assert reference.adopt([elsewhere], tmp_path) == 1
    assert vars(get([elsewhere])[0].history)["epochs"] == get([before])[0].history.epochs
    reference.write(get([before, after], scheduler="none", progress=False), tmp_path, {after})
    assert reference.read(tmp_path).equals(table)
