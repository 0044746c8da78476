"""The one fit loop, for any module that names its parameter groups. It knows no system by name.

Accelerate brings device, precision and processes; what a run needs to come out the same twice is ours: every step
has random numbers of its own, drawn from (seed, step), so that there is no generator state to keep, and a run that was
killed goes on to the very bits (on a CPU) of one that was not.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hc_lafter.store import weight_hash
from hc_lafter.systems.base import Phase
from hc_lafter.tuning import checkpoint as checkpoints
from hc_lafter.tuning.batches import Batches, Rows, as_is, order, seed_step

RISE = 10.0  # a loss this many times the reference has diverged
LEAST = 0.3  # nats; a smaller reference counts as this: below 3 nats, a guess among 20 classes, nothing has diverged
_PRECISIONS = {"fp32": "no", "bf16": "bf16"}  # our word: Accelerate's
_OURS = ("step", "epoch", "phase", "loss")  # columns of the curves that no term and no metric may take

__all__ = ["History", "Phase", "Rows", "fit"]


@dataclass
class History:
    """What a run left behind. Steps and epochs are counted from 1, through all phases.

    Attributes:
        steps: a row per optimiser step: step, epoch, phase, loss, and each term. Measured before the step is taken.
        epochs: a row per epoch: epoch, phase, and each metric of the validation.
        best_epoch: the epoch whose parameters the module has in the end; 0: those that it came with.
        diverged: None, or a sentence that says where, and what to do.
        seconds: wall time per epoch, validation included. It never repeats, so it takes no part in a comparison.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    diverged: str | None = None
    seconds: list[float] = field(default_factory=list, compare=False)


def fit(
    module: nn.Module,
    data: Dataset,
    terms: Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]],
    phases: Sequence[Phase],
    *,
    batch_size: int,
    seed: int,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    select: str = "accuracy",
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    workers: int = 0,
    checkpoint: Path | None = None,
    every: int = 50,
    progress: bool = True,
    name: str = "",
    train_mode: bool = False,
) -> History:
    """Train a module through its phases and leave it with the best epoch's parameters.

    One AdamW (Loshchilov and Hutter, ICLR 2019; torch's betas) goes through the whole run: a group that thaws in a
    later phase starts its moments there, one that thaws again goes on with the old ones. The order of examples is
    drawn from (seed, epoch); an epoch's last batch may be smaller. The same call gives the same bits on a CPU, and the
    caller's random numbers go on as if nothing had been drawn.

    Several processes (``accelerate launch``, on a CPU ``torchrun``) run the same call. Each takes its share of every
    batch; gradients and recorded terms are averages over the examples, as in one process, wherever a term is a mean
    over the examples of its batch. The module is not wrapped for that: ``terms`` may use any part of it, and twice.

    The run has diverged where the loss is not finite, or where the median of the last five losses is over ``RISE``
    times the first loss under the same weights (one bad batch is no divergence; a first loss below ``LEAST`` counts as
    that). It then stops, with a warning, and the module gets the parameters of ``History.best_epoch``.

    Args:
        module: its ``parameter_groups()`` gives dicts of ``name``, ``params``, ``lr`` and ``weight_decay``. It is
            moved to the device and left there in eval mode, each parameter asking for a gradient as it did before.
        data: map-style, items are dicts of tensors. Where it has ``set_epoch`` that is called with the epoch, from 1
            (in the process that reads the items), and an item must depend on nothing but index and epoch. Where
            its ``__getitems__`` gives a dict, that is the batch.
        terms: the scalars of one batch; only weighted ones need a gradient. Noise may be drawn from torch's global
            generator. Under ``bf16`` it runs in autocast.
        phases: in the order of training.
        batch_size: examples per step, over all processes.
        seed: of the order and the noise, from 0.
        validate: metrics after each epoch, in eval and inference mode.
        select: the metric whose highest value decides which epoch is kept, the first of equals. Without ``validate``
            the last epoch is.
        precision: ``fp32``, or ``bf16`` through autocast.
        device: where to train; with several processes each takes its own of that kind.
        workers: processes that read the data; 0 reads it here.
        checkpoint: the run's file, written every ``every`` steps and after each epoch. The same call goes on from it,
            in the middle of an epoch too, and a run that had ended returns at once. What ``terms`` and ``validate``
            compute is not known to it: give another path where you change them. The frozen parameters are not in it.
        progress: show a bar, with the loss and the selected metric.
        name: what bar and messages call the run.
        train_mode: keep the module in training mode between validations (dropout). Buffers are not kept in checkpoints.

    Raises:
        ValueError: an argument that cannot be, a checkpoint that is damaged or of another run, a term or a metric that
            is missing; one sentence each.
        OSError: the checkpoint cannot be written.
    """
    device = torch.device(device)
    accelerator = _accelerator(device, precision)
    device = accelerator.device if accelerator.num_processes > 1 else device
    if min(batch_size, len(data)) < accelerator.num_processes or every < 1:
        raise ValueError(
            f"batch_size {batch_size}, {len(data)} examples and every {every} cannot be: give at least 1 of each, and "
            f"an example to each of the processes ({accelerator.num_processes})."
        )
    module.to(device).train(train_mode)
    run = _Training(module, terms, tuple(phases), accelerator, len(data), batch_size, validate, select, name)
    definition = {}
    if checkpoint is not None or accelerator.num_processes > 1:
        definition = run.definition() | {"seed": seed, "precision": precision, "data": getattr(data, "fingerprint", "")}
    found = None if checkpoint is None else checkpoints.load(checkpoint, definition)
    if found:
        run.restore(*found)
    if len(set(gather_object([f"{definition} {run.step}"]))) > 1:
        raise ValueError(
            "the processes do not start alike: build the module from the same seed in each of them, and keep the "
            "checkpoint where all of them read it."
        )
    loader = DataLoader(
        Batches(data),
        batch_sampler=order(
            run.size,
            batch_size,
            len(run.schedule),
            seed=seed,
            start=run.step,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        ),
        collate_fn=as_is,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # without one the loader draws from the global stream
    )
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(total=run.total, initial=run.step, desc=name or "fit", unit="step", disable=hidden)
    with bar, run.gradients_as_before(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        batches = None if run.ended else iter(loader)  # one pass for all epochs, so that workers start once
        while not run.ended:
            seed_step(device, seed, run.step, accelerator.process_index)
            batch = next(batches)
            if isinstance(batch, str):
                raise ValueError(batch)
            run.take_step(send_to_device(batch, device, non_blocking=True))
            if run.at_epoch_end and not run.ended_early:
                run.end_epoch()
            due = run.at_epoch_end or run.ended or run.step % every == 0
            if due and checkpoint is not None and accelerator.is_main_process:
                checkpoints.save(checkpoint, run.tensors(), definition, run.state())
            bar.set_postfix(run.postfix(), refresh=False)
            bar.update()
    accelerator.wait_for_everyone()  # until the checkpoint is written: the next call may read it
    run.put(run.kept)
    module.eval()
    if run.history.diverged:
        warnings.warn(run.history.diverged, stacklevel=2)
    return run.history


class _Training:
    """A run under way: what it trains, how far it is, what it has measured and what it will leave behind."""

    def __init__(self, module, terms, phases, accelerator, size, batch_size, validate, select, name):
        self.module, self.terms, self.phases, self.accelerator = module, terms, phases, accelerator
        self.size, self.batch_size, self.validate, self.select = size, batch_size, validate, select
        self.name, self.train_mode = name or "the training", module.training
        self.groups = _groups(module, phases)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        trained = [parameter for group in self.groups.values() for parameter in group["params"]]
        if any(id(parameter) not in names for parameter in trained):
            raise ValueError("a parameter group holds a parameter that is none of the module's: register it there.")
        self.parameters = {names[id(parameter)]: parameter for parameter in trained}
        self.optimiser = torch.optim.AdamW(list(self.groups.values()))
        self.schedule = [phase for phase in phases for _ in range(phase.epochs)]  # by epoch
        self.per_epoch = math.ceil(size / batch_size)
        self.total = self.per_epoch * len(self.schedule)
        self.step, self.history, self.kept = 0, History(), self.now()  # step: how many were taken
        self.phase: Phase | None = None
        self.losses: list[float] = []  # under the weights of this phase
        self.started = time.perf_counter()  # of the epoch, less what it took before a restart

    @property
    def ended_early(self) -> bool:
        return self.history.diverged is not None

    @property
    def ended(self) -> bool:
        return self.step == self.total or self.ended_early

    @property
    def at_epoch_end(self) -> bool:
        return self.step % self.per_epoch == 0

    # --- training ---

    def take_step(self, batch: Mapping[str, Any]) -> None:
        phase = self.schedule[self.step // self.per_epoch]
        if phase is not self.phase:
            self._enter(phase)
        self.optimiser.zero_grad()  # of all groups: AdamW moves whatever has a gradient, zeros too
        row = {"step": self.step + 1, "epoch": self.step // self.per_epoch + 1, "phase": phase.name}
        row |= self._backward(batch)
        self.history.steps.append(row)
        self.losses.append(row["loss"])
        reference, middle = max(LEAST, self.losses[0]), statistics.median_low(self.losses[-5:])
        finite = math.isfinite(row["loss"])
        if finite and middle <= RISE * reference:
            self.optimiser.step()
        else:
            best = self.history.best_epoch
            value = f"{middle:.4g} (the median of the last five)" if finite else f"{row['loss']}"
            self.history.diverged = (
                f"{self.name} diverged at step {row['step']} (epoch {row['epoch']}, phase {phase.name}), where its "
                f"loss is {value} and may be {RISE:g} times {reference:.4g} at most; the module has the parameters "
                f"{f'of epoch {best}' if best else 'that it came with'}: lower the learning rate of "
                f"{' or '.join(phase.trains)}."
            )
        self.step += 1

    def _enter(self, phase: Phase) -> None:
        """Gradients for the groups that the phase names and for nothing else, so that autograd skips the rest."""
        self.phase = phase
        self.module.requires_grad_(False)
        for name in phase.trains:
            for parameter in self.groups[name]["params"]:
                parameter.requires_grad_(True)
        alike = {other.name for other in self.phases if dict(other.weights) == dict(phase.weights)}
        self.losses = [row["loss"] for row in self.history.steps if row["phase"] in alike]

    def _backward(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Fill the gradients; the loss and the terms, over all processes."""
        examples = min(self.batch_size, self.size - self.step % self.per_epoch * self.batch_size)
        mine = len(range(self.accelerator.process_index, examples, self.accelerator.num_processes))
        if not mine:  # a last batch smaller than the number of processes
            names = [name for name in self.history.steps[-1] if name not in _OURS]
            values = torch.zeros(1 + len(names), device=self.accelerator.device)
        else:
            with self.accelerator.autocast():
                terms = dict(self.terms(self.module, batch))
                names = self._checked(terms)
                loss = sum(weight * terms[name] for name, weight in self.phase.weights.items())
            if not loss.requires_grad:
                raise ValueError(f"in phase {self.phase.name!r} the loss depends on no parameter of its groups.")
            if mine < examples:
                loss = loss * (mine / examples)
            loss.backward()
            values = torch.stack([value.detach().float().to(loss.device) for value in (loss, *terms.values())])
        if self.accelerator.num_processes > 1:
            values[1:] *= mine / examples
            values = self._summed(values)
        return dict(zip(("loss", *names), values.tolist(), strict=True))

    def _summed(self, values: Tensor) -> Tensor:
        """Values and gradients summed over the processes. Where no process has a gradient, none appears."""
        trained = [p for p in self.parameters.values() if p.requires_grad]
        there = torch.tensor([float(p.grad is not None) for p in trained], device=values.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        message = torch.cat([values, there, *[gradient.float().flatten() for gradient in gradients]])
        message = self.accelerator.reduce(message, "sum")
        values, there, *gradients = message.split([len(values), len(there), *[p.numel() for p in trained]])
        for parameter, some, gradient in zip(trained, there.tolist(), gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if some else None
        return values

    def _checked(self, terms: Mapping[str, Tensor]) -> list[str]:
        lacking = [name for name in self.phase.weights if name not in terms]
        wrong = [n for n, v in terms.items() if n in _OURS or not isinstance(v, Tensor) or v.ndim]
        if lacking:
            raise ValueError(
                f"phase {self.phase.name!r} weighs the term {lacking[0]!r}, and there are {', '.join(terms) or 'none'}."
            )
        if wrong:
            raise ValueError(f"the term {wrong[0]!r} must be a scalar tensor, and not be called {', '.join(_OURS)}.")
        return list(terms)

    def end_epoch(self) -> None:
        metrics = {}
        if self.validate is not None:
            self.module.eval()
            with torch.inference_mode(), self.accelerator.autocast():
                metrics = {name: float(value) for name, value in self.validate(self.module).items()}
            self.module.train(self.train_mode)
            metrics = broadcast_object_list([metrics])[0]  # one opinion of which epoch is the best
            if self.select not in metrics or any(name in _OURS for name in metrics):
                raise ValueError(
                    f"the validation gives {', '.join(metrics) or 'nothing'}: it must give {self.select!r}, by which "
                    f"the epoch is chosen, and nothing that is called {', '.join(_OURS)}."
                )
        epochs, best = self.history.epochs, self.history.best_epoch
        epochs.append({"epoch": len(epochs) + 1, "phase": self.phase.name, **metrics})
        if self.validate is None or metrics[self.select] > (epochs[best - 1][self.select] if best else -math.inf):
            self.history.best_epoch, self.kept = len(epochs), self.now()
        now = time.perf_counter()
        self.history.seconds.append(now - self.started)
        self.started = now

    def postfix(self) -> dict[str, str]:
        shown = {"loss": self.history.steps[-1]["loss"]}
        if self.history.epochs and self.validate is not None:
            shown[self.select] = self.history.epochs[-1][self.select]
        return {name: f"{value:.4g}" for name, value in shown.items()}

    # --- what is kept ---

    def now(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def put(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    @contextmanager
    def gradients_as_before(self) -> Iterator[None]:
        before = [(parameter, parameter.requires_grad) for parameter in self.module.parameters()]
        try:
            yield
        finally:
            for parameter, wanted in before:
                parameter.requires_grad_(wanted)
                parameter.grad = None

    def definition(self) -> dict[str, Any]:
        """What decides this run, as far as the module and its phases do."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        return {
            "phases": [[p.name, p.epochs, sorted(p.trains), dict(p.weights)] for p in self.phases],
            "parameter_groups": [
                [*[group[key] for key in ("name", "lr", "weight_decay", "betas", "eps")]]
                + [[names[id(p)], list(p.shape)] for p in group["params"]]
                for group in self.optimiser.param_groups
            ],
            "module_at_the_start": weight_hash(self.module.state_dict()),
            "examples": self.size,
            "batch_size": self.batch_size,
            "select": self.select if self.validate is not None else None,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the kept parameters and, until the run has ended, the present ones and AdamW's."""
        tensors = {f"kept.{name}": value for name, value in self.kept.items()}
        if not self.ended:
            for name, parameter in self.parameters.items():
                tensors[f"now.{name}"] = parameter
                for key, value in self.optimiser.state[parameter].items():
                    tensors[f"adamw.{key}.{name}"] = value
        return tensors

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "history": vars(self.history), "elapsed": time.perf_counter() - self.started}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.step, self.history = state["step"], History(**state["history"])
        self.started = time.perf_counter() - state["elapsed"]
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = tensor
        self.kept = parts["kept"]
        if self.ended:
            return
        self.put(parts["now"])
        moments: dict[int, dict[str, Tensor]] = {}
        for index, name in enumerate(self.parameters):
            suffix = f".{name}"
            found = {k.removesuffix(suffix): v for k, v in parts.get("adamw", {}).items() if k.endswith(suffix)}
            if found:
                moments[index] = found
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def _groups(module: nn.Module, phases: Sequence[Phase]) -> dict[str, dict[str, Any]]:
    """The parameter groups that any phase trains, by name, in the module's order."""
    groups = {group["name"]: dict(group) for group in module.parameter_groups()}
    for phase in phases:
        unknown = [name for name in phase.trains if name not in groups]
        if unknown:
            raise ValueError(
                f"phase {phase.name!r} trains {unknown[0]!r}, which is none of the module's parameter groups: "
                f"choose from {', '.join(groups)}."
            )
        if phase.epochs < 1 or not phase.trains or not phase.weights:
            raise ValueError(f"phase {phase.name!r} needs an epoch, a group to train and a weighted term at least.")
    if not phases or len({phase.name for phase in phases}) < len(phases):
        raise ValueError(f"phases need names of their own, and theirs are {[phase.name for phase in phases]}.")
    for name, group in groups.items():
        if not {"lr", "weight_decay"} <= group.keys():
            raise ValueError(f"the parameter group {name!r} must give its lr and its weight_decay.")
    wanted = {name for phase in phases for name in phase.trains}
    return {name: group for name, group in groups.items() if name in wanted}


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """Accelerate's state is one per process: where an earlier one does not fit, it is made anew."""
    if precision not in _PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown here: choose one of {', '.join(_PRECISIONS)}.")
    mixed = _PRECISIONS[precision]
    state = {**PartialState._shared_state, **AcceleratorState._shared_state}
    if state and (state["device"].type != device.type or state.get("_mixed_precision", mixed) != mixed):
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)
    if accelerator.device.type != device.type:
        raise ValueError(f"device {device} is not on this machine: choose {accelerator.device.type}, or cpu.")
    return accelerator
