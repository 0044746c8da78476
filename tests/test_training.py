"""The fit loop: what it trains, what it keeps, and that a run comes out the same however often it is killed."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import re
import socket
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from torch.utils.data import Dataset, Subset
from training_runs import Line, Prompted, clusters, cross_entropy, killed_run, one_of_two, train_line, train_prompts

from hc_lafter.tuning import training
from hc_lafter.tuning.batches import order
from hc_lafter.tuning.training import History, Phase, Rows, fit

BOTH = Phase("both", 3, ("first", "last"))
# Half a batch each, averaged: another order of summation, float32, parameters of order 1 after some tens of steps.
PROCESS_TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def run(module=None, data=None, terms=cross_entropy, phases=(BOTH,), **options) -> tuple[History, nn.Module]:
    module = Line() if module is None else module
    options = {"batch_size": 8, "seed": 0, "progress": False} | options
    return fit(module, clusters() if data is None else data, terms, phases, **options), module


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def at_each_step(terms=cross_entropy):
    """Terms that call ``seen`` with the step from 1 and the module."""

    def counting(module, batch):
        counting.step += 1
        counting.seen(counting.step, module)
        return terms(module, batch)

    counting.step, counting.seen = 0, lambda step, module: None
    return counting


# --- what it trains ---


def test_is_a_plain_loop_with_adamw():
    """Against the loop that one would write by hand, to the bit."""
    phases = [Phase("last", 1, ("last",)), Phase("both", 2, ("last", "first"), {"task": 0.5, "size": 2.0})]

    def terms(module, batch):
        return cross_entropy(module, batch) | {"size": module.last.weight.square().mean()}

    history, module = run(terms=terms, phases=phases)

    plain, rows, losses = Line(), clusters(), []
    optimiser = torch.optim.AdamW([g for g in plain.parameter_groups() if g["name"] != "spare"])
    for epoch, indices in order(len(rows), 8, 3, seed=0):
        phase = phases[min(epoch - 1, 1)]
        plain.first.requires_grad_("first" in phase.trains)
        optimiser.zero_grad()
        found = terms(plain, rows.__getitems__(indices))
        loss = sum(w * found[k] for k, w in phase.weights.items())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert same(module, plain)
    assert [row["loss"] for row in history.steps] == losses
    assert checked(module)["accuracy"] > checked(Line())["accuracy"] + 0.3  # and it learns
    assert same(plain.spare, Line().spare) and not same(plain.first, Line().first)


def test_only_the_groups_of_a_phase_have_a_gradient():
    terms, seen = at_each_step(), {}
    terms.seen = lambda step, module: seen.update(
        {step: {name for name, p in module.named_parameters() if p.requires_grad}}
    )
    module = Line()
    module.spare.requires_grad_(False)
    phases = [
        Phase("a", 1, ("last",)),
        Phase("b", 1, ("first",)),
        Phase("c", 1, ("last", "first")),
        Phase("d", 1, ("last",)),
    ]
    history, _ = run(module, terms=terms, phases=phases)
    first, last = {"first.weight", "first.bias"}, {"last.weight"}
    assert [seen[s] for s in range(1, 21)] == [last] * 5 + [first] * 5 + [last | first] * 5 + [last] * 5
    assert [row["phase"] for row in history.steps] == ["a"] * 5 + ["b"] * 5 + ["c"] * 5 + ["d"] * 5
    # it leaves the flags as they were, and no gradients
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == {"spare.weight", "spare.bias"}
    assert all(p.grad is None for p in module.parameters())


def test_a_frozen_group_stands_still():
    """Momentum and weight decay of an earlier phase must not move what a later one freezes."""
    terms, last = at_each_step(), {}
    terms.seen = lambda step, module: last.update({step: module.last.weight.detach().clone()})
    run(terms=terms, phases=[Phase("a", 1, ("last",)), Phase("b", 2, ("first",))])
    assert not torch.equal(last[1], last[6]) and torch.equal(last[6], last[15])


def test_a_term_without_a_weight_is_recorded_and_not_trained_on():
    def terms(module, batch):
        return cross_entropy(module, batch) | {"size": module.last.weight.square().sum(), "examples": torch.tensor(7.0)}

    history, module = run(terms=terms)
    assert same(module, run()[1])
    assert list(history.steps[0]) == ["step", "epoch", "phase", "loss", "task", "size", "examples"]
    assert {row["examples"] for row in history.steps} == {7.0}
    assert all(row["loss"] == row["task"] for row in history.steps)
    assert [row["step"] for row in history.steps] == list(range(1, 16))
    assert [row["epoch"] for row in history.steps] == [1] * 5 + [2] * 5 + [3] * 5


def test_eval_mode_unless_asked():
    class Dropping(Line):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return super().forward(self.drop(x))

    def validate(module):
        modes.append(module.training)
        return {"accuracy": len(modes)}

    modes: list[bool] = []
    terms = at_each_step()
    terms.seen = lambda step, module: modes.append(module.training)
    _, module = run(Dropping().train(), terms=terms, validate=validate)
    assert not any(modes) and not module.training and same(module, run()[1])
    modes.clear()
    _, module = run(Dropping(), terms=terms, validate=validate, train_mode=True)
    assert modes == ([True] * 5 + [False]) * 3 and not module.training and not same(module, run()[1])


# --- what it keeps ---


def test_keeps_the_best_epoch_the_first_of_equals():
    states = []

    def validate(module):
        assert torch.is_inference_mode_enabled()
        states.append({k: v.clone() for k, v in module.state_dict().items()})
        return {"f1": [0.2, 0.7, 0.7, 0.1][len(states) - 1], "accuracy": torch.tensor(len(states))}

    phases = [Phase("a", 3, ("last",)), Phase("b", 1, ("first",))]
    history, module = run(phases=phases, validate=validate, select="f1")
    assert history.best_epoch == 2
    assert [row["phase"] for row in history.epochs] == ["a", "a", "a", "b"]
    assert history.epochs[2] == {"epoch": 3, "phase": "a", "f1": 0.7, "accuracy": 3.0}
    assert all(torch.equal(v, states[1][k]) for k, v in module.state_dict().items())
    assert len(history.seconds) == 4 and min(history.seconds) > 0


def test_without_validation_the_last_epoch_stays():
    history, module = run()
    assert history.best_epoch == 3 and history.epochs[-1] == {"epoch": 3, "phase": "both"}
    shorter, _ = run(phases=[replace(BOTH, epochs=2)])
    assert shorter.steps == history.steps[:10] and not same(module, _)


def test_a_metric_that_is_no_number_is_never_the_best():
    values = iter([math.nan, 0.1, math.nan])
    history, _ = run(validate=lambda module: {"accuracy": next(values)})
    assert history.best_epoch == 2


# --- divergence ---


def spiked(at: dict[int, float]):
    """A loss that is multiplied at some steps."""
    terms = at_each_step()

    def altered(module, batch):
        found = terms(module, batch)
        return {"task": found["task"] * at.get(terms.step, 1.0)}

    return altered


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(bad, tmp_path):
    with pytest.warns(
        UserWarning, match="my run diverged at step 13 .epoch 3, phase both.*epoch 2: lower the learning"
    ):
        history, module = run(terms=spiked({13: bad}), name="my run", checkpoint=tmp_path / "run.safetensors")
    assert len(history.steps) == 13 and len(history.epochs) == 2 and history.best_epoch == 2
    _, two = run(phases=[replace(BOTH, epochs=2)])
    assert same(module, two)
    # its checkpoint says the same again, without a step
    with pytest.warns(UserWarning, match="diverged at step 13"):
        again, module = run(terms=spiked({1: bad}), name="my run", checkpoint=tmp_path / "run.safetensors")
    assert repr(again) == repr(history) and same(module, two)


def test_diverging_at_once_leaves_the_module_as_it_came():
    with pytest.warns(UserWarning, match="that it came with"):
        history, module = run(terms=spiked({1: math.nan}))
    assert same(module, Line()) and history.best_epoch == 0 and history.epochs == []


def test_a_learning_rate_that_is_far_too_high_is_found_early():
    module, rows = Line(), clusters(300)
    groups = [group | {"lr": 1e3} for group in module.parameter_groups()]
    module.parameter_groups = lambda: groups
    with pytest.warns(UserWarning, match="may be 10 times"):
        history, _ = run(module, rows, phases=[replace(BOTH, epochs=5)])
    assert len(history.steps) < 10  # of 190


def test_the_best_epoch_is_what_a_diverged_run_leaves():
    values = iter([0.9, 0.1])
    with pytest.warns(UserWarning, match="parameters of epoch 1"):
        history, module = run(terms=spiked({12: math.nan}), validate=lambda module: {"accuracy": next(values)})
    assert history.best_epoch == 1 and same(module, run(phases=[replace(BOTH, epochs=1)])[1])


@pytest.mark.parametrize(
    "harmless",
    [
        {7: 50.0},  # one bad batch
        {7: 50.0, 9: 50.0},  # two
        dict.fromkeys(range(6, 16), 9.0),  # nine times as high for good
        {1: 1e-9, 2: 1e-9},  # nearly nothing to begin with: what comes then is not large for that
    ],
)
def test_what_is_no_divergence(harmless):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history, _ = run(terms=spiked(harmless))
    assert history.diverged is None and len(history.steps) == 15


def test_other_weights_have_a_reference_of_their_own():
    """A term that joins later may be large; under old weights the first phase's loss still counts."""

    def terms(module, batch):
        return cross_entropy(module, batch) | {"large": 500 + module.last.weight.sum()}

    phases = [
        Phase("a", 1, ("last",)),
        Phase("b", 1, ("last",), {"task": 1.0, "large": 1.0}),
        Phase("c", 1, ("last",)),
    ]
    history, _ = run(terms=terms, phases=phases)
    assert history.diverged is None
    with pytest.warns(UserWarning, match="step 8 .epoch 2, phase c"):
        run(terms=spiked(dict.fromkeys(range(6, 16), 40.0)), phases=[phases[0], replace(phases[2], epochs=2)])


# --- the same run twice ---


class Drawn(Dataset):
    """Noise that depends on (epoch, index) alone."""

    def __init__(self, n=21):
        self.n, self.epoch, self.epochs = n, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.epochs.append(epoch)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= 1000:
            raise ValueError(f"record {index} is broken: take it out.")
        noise = torch.randn(6, generator=torch.Generator().manual_seed(100 * self.epoch + index))
        return {"x": noise + 3 * F.one_hot(torch.tensor(index % 3), 6), "label": index % 3}


def noisy(module, batch):
    return cross_entropy(module, {**batch, "x": batch["x"] + torch.randn(batch["x"].shape)})


def test_the_same_call_gives_the_same_bits_whatever_came_before():
    torch.manual_seed(1)
    one, module = run(terms=noisy, data=Drawn())
    torch.manual_seed(2)
    torch.rand(5)
    two, other = run(terms=noisy, data=Drawn())
    assert one == two and same(module, other)
    three, _ = run(terms=noisy, data=Drawn(), seed=5)
    assert [r["loss"] for r in three.steps] != [r["loss"] for r in one.steps]


def test_the_callers_random_numbers_are_left_alone():
    states = torch.get_rng_state(), str(np.random.get_bit_generator().state), random.getstate()
    run(terms=noisy)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (str(np.random.get_bit_generator().state), random.getstate())


def test_each_step_has_noise_of_its_own():
    drawn = []
    terms = at_each_step()
    terms.seen = lambda step, module: drawn.append(torch.rand(()).item())
    run(terms=terms)
    assert len(set(drawn)) == 15


@pytest.mark.parametrize("size", [16, 17, 21])
def test_every_example_comes_once_an_epoch_in_an_order_of_its_own(size):
    batches = list(order(size, 8, 3, seed=4))
    epochs = [[i for e, indices in batches if e == epoch for i in indices] for epoch in (1, 2, 3)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and list(range(size)) not in epochs
    assert [e for e, _ in batches] == sorted([1, 2, 3] * math.ceil(size / 8))
    assert {len(indices) for _, indices in batches} == {8, size % 8 or 8}
    assert list(order(size, 8, 3, seed=5)) != batches
    for start in range(len(batches) + 1):
        assert list(order(size, 8, 3, seed=4, start=start)) == batches[start:]
    halves = [list(order(size, 8, 3, seed=4, parts=(p,), of=2)) for p in (0, 1)]
    for (_, whole), (_, left), (_, right) in zip(batches, *halves, strict=True):
        assert left == whole[::2] and right == (whole[1::2] or whole)


def test_workers_change_nothing():
    """They read ahead, into the next epoch too; each item has to come from its own epoch all the same."""
    data = Drawn()
    alone, module = run(terms=noisy, data=data)
    assert data.epochs == [1, 2, 3]
    helped, other = run(terms=noisy, data=Drawn(), workers=2)
    assert alone == helped and same(module, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_item_is_one_sentence(workers):
    with pytest.raises(ValueError, match=r"^record 10\d\d is broken: take it out.$"):
        run(data=Subset(Drawn(2000), range(995, 1005)), workers=workers)


def test_rows():
    rows = Rows(x=torch.arange(12).reshape(6, 2), y=torch.arange(6))
    assert len(rows) == 6 and rows[4]["x"].tolist() == [8, 9]
    batch = rows.__getitems__([5, 0])
    assert batch["x"].tolist() == [[10, 11], [0, 1]] and batch["y"].tolist() == [5, 0]
    assert rows.fingerprint != Rows(x=rows.tensors["x"], y=torch.arange(6).flip(0)).fingerprint
    _, whole = run(data=clusters())
    _, items = run(data=[clusters()[i] for i in range(33)])
    _, part = run(data=Subset(clusters(60), range(33)))
    assert same(whole, items) and not same(whole, part)
    assert same(part, run(data=Rows(**clusters(60).__getitems__(range(33))))[1])
    with pytest.raises(ValueError):
        len(Rows(x=torch.zeros(3), y=torch.zeros(2)))


# --- precision, device, progress ---


def test_bf16_is_autocast_and_does_not_stick():
    seen = []

    def terms(module, batch):
        found = cross_entropy(module, batch)
        seen.append((module(batch["x"]).dtype, found["task"].dtype))
        return found

    half, module = run(terms=terms, precision="bf16")
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    seen.clear()
    full, _ = run(terms=terms)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert full != half and run(terms=terms, precision="bf16")[0] == half
    assert abs(full.steps[0]["loss"] - half.steps[0]["loss"]) < 0.02


def test_validation_runs_in_the_same_precision():
    seen = []

    def validate(module):
        seen.append(module(clusters().tensors["x"]).dtype)
        return {"accuracy": 0.5}

    run(validate=validate, precision="bf16")
    run(validate=validate)
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3


def test_the_bar_says_loss_and_metric_and_nothing_else_is_said(capfd):
    run(validate=lambda module: {"accuracy": 0.25}, progress=True, name="wide")
    out, err = capfd.readouterr()
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert out == "" and last.startswith("wide: 100%") and "15/15" in last
    assert re.search(r"loss=[\d.]+, accuracy=0.25\]", last)
    run()
    assert capfd.readouterr() == ("", "")


# --- checkpoints ---


class Stop(Exception):
    pass


def stopping(at: int):
    terms = at_each_step(noisy)

    def stop(step, module):
        if step == at:
            raise Stop

    terms.seen = stop
    return terms


def checked(module):
    rows = clusters(40, seed=9).tensors
    return {"accuracy": (module(rows["x"]).argmax(1) == rows["label"]).float().mean()}


@pytest.mark.parametrize("at", [1, 2, 5, 6, 7, 12, 15])
def test_goes_on_from_a_checkpoint_to_the_same_bits(at, tmp_path):
    options = {"phases": [Phase("a", 1, ("last",)), replace(BOTH, epochs=2)], "validate": checked, "every": 2}
    options["data"] = Drawn(33)
    whole, module = run(terms=noisy, **options)
    path = tmp_path / "folder" / "run.safetensors"
    with pytest.raises(Stop):
        run(terms=stopping(at), checkpoint=path, **options)
    assert path.exists() == (at > 2)
    terms = at_each_step(noisy)
    halved, other = run(terms=terms, checkpoint=path, **options)
    assert halved == whole and same(module, other) and len(halved.seconds) == 3
    # it went on from the last multiple of two, or the last epoch's end, before the step that failed
    assert 15 - terms.step == max([s for s in (0, 2, 4, 5, 6, 8, 10, 12, 14) if s < at])
    # and a run that has ended is not run again
    terms = at_each_step(noisy)
    again, third = run(terms=terms, checkpoint=path, **options)
    assert terms.step == 0 and again == whole and again.seconds == halved.seconds and same(third, module)
    assert [p.name for p in path.parent.iterdir()] == ["run.safetensors"]


def test_only_what_is_trained_is_stored(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(terms=stopping(4), checkpoint=path, every=1, phases=[replace(BOTH, trains=("last",))])
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    adamw = {f"adamw.{key}.last.weight" for key in ("step", "exp_avg", "exp_avg_sq")}
    assert names == {"kept.last.weight", "now.last.weight", *adamw}
    run(terms=noisy, checkpoint=path, every=1, phases=[replace(BOTH, trains=("last",))])
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"kept.last.weight"}


def lively(seed):
    module = Line(seed)
    groups = [g | {"lr": 0.5} if g["name"] == "last" else g for g in module.parameter_groups()]
    module.parameter_groups = lambda: groups
    return module


@pytest.mark.parametrize(
    "changed, difference",
    [
        ({"batch_size": 4}, r"batch size 8 there, 4 here"),
        ({"seed": 1}, r"seed 0 there, 1 here"),
        ({"phases": [replace(BOTH, epochs=4)]}, "other phases"),
        ({"phases": [replace(BOTH, weights={"task": 2.0})]}, "other phases"),
        ({"module": Line(seed=1)}, "other module at the start"),
        ({"module": lively(0)}, "other parameter groups"),
        ({"data": clusters(33, seed=2)}, "other data"),
        ({"data": clusters(34)}, "other data; examples 33 there, 34 here"),
        ({"precision": "bf16"}, "precision fp32 there, bf16 here"),
        ({"validate": checked}, "select None there, accuracy here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changed, difference, tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    with pytest.raises(ValueError) as error:
        run(checkpoint=path, **changed)
    message = str(error.value)
    assert message.startswith(f"{path} is the checkpoint of another run (") and f"({difference})" in message
    assert message.endswith("delete it, or give another path.")


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-7]
    elif damage == "bit":
        content[-5] ^= 4
    elif damage == "empty":
        content = b""
    else:
        content = save({"a": torch.zeros(2)})
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.safetensors is damaged .*: delete it, and run again what"):
        run(checkpoint=path)


def test_a_checkpoint_where_none_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        run(checkpoint=tmp_path / "file" / "run.safetensors")


# --- mistakes ---


@pytest.mark.parametrize(
    "options, message",
    [
        ({"phases": [Phase("a", 1, ("frist",))]}, "'a' trains 'frist'.*choose from first, last, spare"),
        ({"phases": [Phase("a", 1, ("first",), {"tsak": 1.0})]}, "weighs the term 'tsak', and there are task"),
        ({"phases": [Phase("a", 1, ("spare",))]}, "the loss depends on no parameter"),
        ({"validate": lambda m: {"f1": 1.0}}, "the validation gives f1: it must give 'accuracy'"),
        ({"phases": [Phase("a", 0, ("first",))]}, "0 epochs"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"data": Rows(x=torch.zeros(0, 6))}, "0 examples"),
        ({"precision": "fp16"}, "precision 'fp16' is unknown: choose one of fp32, bf16"),
    ],
)
def test_mistakes_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as error:
        run(**options)
    assert "\n" not in str(error.value)


def test_groups_must_be_the_modules_and_say_their_rates():
    module = Line()
    group = {"name": "first", "params": [nn.Parameter(torch.zeros(2))], "lr": 1.0}
    for rates in ({}, {"weight_decay": 0.0}):
        module.parameter_groups = lambda rates=rates: [group | rates]
        with pytest.raises(KeyError):
            run(module, phases=[Phase("a", 1, ("first",))])


# --- memory, trackers ---


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_batch_in_parts_trains_as_the_whole(accumulate):
    """33 rows by 8: the last batch of an epoch has one row, and the parts without any count for nothing."""
    whole, parameters = train_line(None)
    parted, others = train_line(None, accumulate=accumulate)
    for name in ("loss", "task", "twice"):
        rows = (torch.tensor([row[name] for row in history.steps]) for history in (parted, whole))
        torch.testing.assert_close(*rows, rtol=0, atol=1e-6)
    for name, value in parameters.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-6)


def test_gradient_checkpointing_holds_less_and_changes_no_bit():
    histories, modules, held = [], [], []
    data = Rows(x=torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)), label=torch.arange(6) % 3)

    def terms(module, batch):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            found = cross_entropy(module, batch)
        held.append(sum(sizes))
        return found

    for wanted in (False, True):
        module = Prompted(("anger", "awe", "fear"))
        options = {"batch_size": 6, "grad_checkpointing": wanted}
        histories.append(run(module, data, terms, [Phase("all", 2, ("classifier", "prompts"))], **options)[0])
        modules.append(module)
        assert not module.visual.transformer.grad_checkpointing
    assert histories[0] == histories[1] and same(*modules)
    assert held[2] < 0.2 * held[0]


def test_the_history_is_a_table():
    opinions = iter([0.5, math.nan, 0.75])
    history, _ = run(validate=lambda module: {"accuracy": next(opinions)})
    table = history.table()
    assert list(table.columns) == ["step", "epoch", "phase", "loss", "task", "validation accuracy"]
    assert table[["step", "epoch", "loss"]].to_dict("records") == [
        {key: row[key] for key in ("step", "epoch", "loss")} for row in history.steps
    ]
    assert table["validation accuracy"].dropna().to_dict() == {4: 0.5, 14: 0.75}
    assert list(History().table().columns) == ["step", "epoch", "phase", "loss"] and History().table().empty


def test_a_tracker_has_what_the_history_has(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    opinions = iter([0.5, 0.25, 0.75])
    history, module = run(
        tracker="tensorboard", tracker_folder=tmp_path, name="a run, seed 0",
        validate=lambda module: {"accuracy": next(opinions)},
    )  # fmt: skip
    (folder,) = tmp_path.iterdir()
    found = events.EventAccumulator(str(folder)).Reload()
    assert folder.name == "a-run-seed-0"
    losses, accuracies = found.Scalars("loss"), found.Scalars("validation accuracy")
    assert [(e.step, e.value) for e in losses] == [(row["step"], row["loss"]) for row in history.steps]
    assert [(e.step, e.value) for e in accuracies] == [(5, 0.5), (10, 0.25), (15, 0.75)]
    opinions = iter([0.5, 0.25, 0.75])
    other, untracked = run(validate=lambda module: {"accuracy": next(opinions)})
    assert other == history and same(module, untracked)


def test_trackers_that_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match=r"tracker 'tensorbord' is unknown \(did you mean 'tensorboard'\?\)"):
        run(tracker="tensorbord")
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"the tracker wandb is a package .*: pip install wandb"):
        run(tracker="wandb")


# --- processes ---


def context():
    """Where there is a fork server, a process starts in no time, torch imported; elsewhere it imports it anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch._dynamo", "hc_lafter.tuning.training", "hc_lafter.tuning.views"])
    return server


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_bits(tmp_path):
    """SIGKILL (on Windows TerminateProcess) in the middle of steps, validations and the writing of checkpoints."""
    path, rng, start = tmp_path / "run.safetensors", random.Random(0), context()
    started = time.perf_counter()
    whole, parameters = train_prompts(None)
    step = (time.perf_counter() - started) / len(whole.steps)
    moments = sorted(rng.sample(range(1, len(whole.steps) - 6), 10))
    done = 0
    for moment in moments:
        ours, theirs = start.Pipe()
        process = start.Process(target=killed_run, args=(path, theirs))
        process.start()
        theirs.close()
        for _ in range(moment - done):  # it asks before each step that it takes again
            assert ours.recv() == "step"
            ours.send("go")
        ours.send("go")
        ours.send("go")  # two steps beyond the moment and no more, however slow this process is
        time.sleep(rng.uniform(0, 1.5) * step)
        process.kill()
        process.join()
        assert process.exitcode not in (0, None)
        before, done = done, _steps_stored(path)
        assert max(before, moment - 3) <= done <= max(before, moment) + 2
    assert {p.name for p in tmp_path.iterdir()} <= {path.name} | _unfinished(tmp_path)
    killed, others = train_prompts(path)
    assert killed == whole
    assert parameters.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in parameters.items())


def _steps_stored(path) -> int:
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])["step"]


def _unfinished(folder) -> set[str]:
    """Temporary files that a kill in the middle of writing left behind."""
    return {p.name for p in folder.glob(".run-*.safetensors")}


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start, pipes, processes = context(), [], []
    for rank in (0, 1):
        ours, theirs = start.Pipe(duplex=False)
        processes.append(start.Process(target=one_of_two, args=(rank, port, tmp_path, theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    alone, parameters = train_line(None)
    for history, theirs, _, again, best, refused in results:
        assert again and best == 1 and refused.startswith("the processes do not start alike")
        assert history["best_epoch"] == alone.best_epoch
        assert [row["epoch"] for row in history["steps"]] == [row["epoch"] for row in alone.steps]
        for name in ("loss", "task", "twice"):
            torch.testing.assert_close(
                *[torch.tensor([r[name] for r in s]) for s in (history["steps"], alone.steps)], **PROCESS_TOLERANCE
            )
        for name, value in parameters.items():
            torch.testing.assert_close(torch.from_numpy(theirs[name]), value, **PROCESS_TOLERANCE)
    assert all((results[0][1][name] == results[1][1][name]).all() for name in parameters)
    assert results[0][2] > 0 and results[1][2] == 0  # the first alone writes
    assert [p.name for p in tmp_path.iterdir()] == ["both.safetensors"]
