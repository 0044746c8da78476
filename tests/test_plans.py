"""What the ledger's rules read is what plans compute and tables carry: numbers of labels and tokens, convergence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hc_lafter.suite import claims, plans
from hc_lafter.suite.claims import NOT_TESTABLE, SUPPORTED
from hc_lafter.suite.study import Study
from hc_lafter.systems import find
from hc_lafter.tuning.run import Result
from hc_lafter.tuning.training import History

NOTEBOOK = "08-ablations"
RULES = {claim.id: claim for claim in claims.load()}


def study(profile: str, **given) -> Study:
    return Study(NOTEBOOK, profile, {"bootstrap": 200, **given})


def made(runs, done: bool | None) -> list[Result]:
    """Results of runs without their training, whose curve on validation was level in the end, or still rose."""
    rows = [{"accuracy": 0.5 if done else 0.04 * i} for i in range(1, 21)]
    history = History(epochs=rows, start={"accuracy": 0.4 if done else 0.0})
    return [Result(run, {}, history, {}, 0.0, converged=done, error=0.01) for run in runs]


def records(plan, values, pairs, metric: str, done: bool | None, at: Study) -> list[dict]:
    found = {name: made(runs, done) for name, runs in plan.items()}
    table = plans.with_runs(at.differences(values, pairs), found)
    at.add(table, metric=metric, unit="fraction", dataset="world", split="test")
    return list(at._kept.values())


def judged(folder, rows: list[dict], claim: str) -> dict:
    path = folder / "reference" / NOTEBOOK / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return next(record for record in claims.judge(folder / "reference") if record["id"] == claim)


@pytest.mark.parametrize("done", [True, False, None])
def test_few_labels_are_what_the_claim_on_overfitting_reads(tmp_path, done):
    at = study("reference")
    plan = plans.few_labels(at)
    shared, independent = list(plan)[:2]
    rule = RULES["C10"].rule
    assert (independent, shared) == (rule.row.system, rule.row.minus)
    for runs in plan.values():
        least, most = rule.row.n_train
        assert {least <= run.n_train <= most and run.until is not None for run in runs} == {True}
        assert len(runs) >= RULES["C10"].requires.seeds and not any(run.brief for run in runs)  # logits of training
    rng = np.random.default_rng(0)
    right = {shared: rng.random((10, 400)) < 0.6, independent: rng.random((10, 400)) < 0.4}
    gaps = {name: 1.0 - hits for name, hits in right.items()}
    rows = records({k: plan[k] for k in right}, gaps, [(independent, shared)], "train-test gap", done, at)
    assert [(row["n_train"], row.get("converged"), row["seeds"]) for row in rows] == [(128, done, 10)]
    record = judged(tmp_path, rows, "C10")
    assert record["verdict"] == (SUPPORTED if done else NOT_TESTABLE), record["evidence"]["why"]
    assert done or f"no converged run (converged is {json.dumps(done)})" in record["evidence"]["why"]


@pytest.mark.parametrize("done", [True, False])
def test_numbers_of_tokens_are_what_the_claim_on_them_reads(tmp_path, done):
    at = study("reference", n_sweep=1)
    plan = {name: runs for name, runs in plans.prompts(at).items() if name.endswith(" tokens")}
    rows_read = [part.row for part in RULES["C28"].rule.of]
    assert {row.system for row in rows_read} | {row.minus for row in rows_read} == set(plan)
    for name, runs in plan.items():
        assert {(run.config.tokens, run.batch_size) for run in runs} == {(int(name.split()[1]), 50)}
        assert len(runs) >= 6 and all(run.until is not None for run in runs)
    hits = np.random.default_rng(0).random((6, 400)) < 0.6
    values = {name: hits ^ (np.arange(400) == i) for i, name in enumerate(plan)}
    pairs = [(row.system, row.minus) for row in rows_read]
    rows = records(plan, values, pairs, "top-1 accuracy", done, at)
    assert judged(tmp_path, rows, "C28")["verdict"] == (SUPPORTED if done else NOT_TESTABLE)


def test_starts_of_prompts():
    """The tower has patches of 8 pixels: the release's bound, made for 16, is narrower."""
    at = study("smoke")
    rows = plans.prompts(at)
    starts = {name: runs[0].config.prompt_start for name, runs in rows.items()}
    assert starts["LaFTer, 50 tokens"] == starts["multi-layer LaFTer"] == 1
    assert starts["LaFTer, 50 tokens, prompts from zeros"] == starts["multi-layer LaFTer, prompts from zeros"] == 0
    width = plans.opened(at.setting)[0].visual.conv1.out_channels
    bounds = [math.sqrt(6 / (3 * side**2 + width)) for side in (16, 8)]
    assert starts["LaFTer, 50 tokens, start for patches of 16 px"] == pytest.approx(bounds[0] / bounds[1])
    views = {name.rpartition(", ")[2]: (runs[0].view, runs[0].moving_teacher) for name, runs in rows.items()}
    assert views["50 tokens"] == views["plain view"] == ("plain", True)
    assert views["strong view"] == views["label-free"] == ("strong", True)
    assert views["frozen teacher"] == ("strong", False)
    assert {len(runs) for runs in rows.values()} == {2}
    assert plans.prompts(study("default")) == {}  # a newcomer's quarter of an hour


def test_random_start_of_multi_layer_lafter_is_the_run_of_notebook_04():
    at = study("reference", n_sweep=1)
    there = plans.benchmark(at)["multi-layer LaFTer", "supervised"]
    assert plans.prompts(at)["multi-layer LaFTer"] == there[:6]


def test_rows_have_converged_where_their_mean_curves_have():
    run = SimpleNamespace(n_train=7)
    done, rising, untold = (made([run] * 3, flag) for flag in (True, False, None))
    assert plans.settled(done) is True and plans.settled(done, rising) is False
    assert plans.settled(done, untold) is None and plans.settled(rising) is False
    uneven = [done[0], replace(done[1], converged=False), done[2]]  # one seed alone: the mean curve is level
    assert plans.settled(uneven) is True
    table = study("smoke").estimates({"a": np.arange(40) % 2, "b": np.arange(40) % 3 == 0})
    table = plans.with_runs(table, {"a": done, "b": untold})
    assert table["n_train"].tolist() == [7, 7] and table["converged"].tolist() == [True, None]


@pytest.mark.parametrize(("name", "depth", "said"), [
    ("HybridCascade-LaFTer", 12, "stages 5-7, 8-9, 10-12"), ("HybridCascade-LaFTer", 24, "stages 9-14, 15-18, 19-24"),
    ("one decoder, last layer", 24, "levels 24"), ("mean of layers", 24, "layers 9-24"),
    ("SC-CLIP", 24, "layers 9-19, by the likeness of 17 and 7"), ("NACLIP", 24, ""),
])  # fmt: skip
def test_layers_are_named_from_the_tower(name, depth, said):
    assert plans.layers_of(find(name).configure("mine", "world", depth)) == said


def test_too_few_test_images_are_told_before_anything_is_trained(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(20):
            pixels = np.random.default_rng([n, len(name), ord(name[0])]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.png")
    at = study("smoke", data=str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"{tmp_path.name}.* has 8 test images, too few for an interval: add some, or"
    ):
        plans.row(at, "mean of layers", "supervised")
    with pytest.raises(ValueError, match="too few for an interval"):  # 01 trains nothing, and is stopped as well
        plans.compute("smoke", {"data": str(tmp_path)}, ["01-feature-tapping"])


def test_masks_in_the_place_of_classes_are_refused(monkeypatch):
    monkeypatch.setattr(plans, "opened", lambda setting: (None, SimpleNamespace(classes=(), splits=np.array([]))))
    with pytest.raises(ValueError, match="data=voc:VOC is a set with masks: give it as mask_data, and classes as data"):
        plans.check_images(study("smoke", data="voc:VOC"))


def test_what_is_trained_to_convergence_has_no_epochs_of_its_own():
    """Else a profile's epochs, which decide nothing there, would make hours of results stale."""
    one, other = (plans.row(study("reference", mask_epochs=n), "Cascade-CLIP", "inductive") for n in (3, 4))
    assert one == other
    one, other = (plans.row(study("smoke", mask_epochs=n), "Cascade-CLIP", "inductive") for n in (3, 4))
    assert one != other


def test_of_ablations_the_trials_alone_are_committed():
    planned = {}
    for name in ("04-full-training", NOTEBOOK):
        at = Study(name, "reference")
        at.profile = at.profile.model_copy(update={"seeds": 2})
        planned[at] = plans.NOTEBOOKS[name](at)
    curve, ablations = map(set, planned.values())
    kept = set(plans._to_commit(planned))
    assert ablations - curve and not (ablations - curve) & kept and curve <= kept
    trials = {run.trial(*pair) for run in ablations for pair in (run.to_choose.trials if run.to_choose else ())}
    assert trials and trials <= kept


def test_classes_that_training_never_sees_are_named():
    at, labels = study("smoke", n_tune=3), np.repeat(np.arange(4), 5)
    material = SimpleNamespace(
        classes=("ant", "bee", "cat", "dog"), labels=torch.from_numpy(labels), part={"train": np.arange(20)},
        draw=lambda n, seed: np.arange(0, 20, 5)[:n],
    )  # fmt: skip
    assert plans.untrained_classes(at, material) == (
        "None of the 3 training images of seed 0 is of 'dog': give n_tune more."
    )
    assert plans.untrained_classes(study("smoke", n_tune=4), material) == ""


@pytest.mark.parametrize(("given", "said"), [
    ({"mask_split": "nope"}, "'nope'"),
    ({"mask_data": "nowhere"}, "nowhere"),
])  # fmt: skip
def test_masks_that_cannot_be_had_are_told_before_anything_is_trained(given, said):
    with pytest.raises(ValueError, match=said):
        plans.compute("smoke", given, ["05-cascade-vs-hybrid"])
