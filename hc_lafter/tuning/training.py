"""The one fit loop, for any module that names its parameter groups. It knows no system by name.

Accelerate brings device and processes; what a run needs to come out the same twice is ours: every step has random
numbers of its own, drawn from (seed, step), so that there is no generator state to keep, and a run that was killed
goes on to the very bits (on a CPU) of one that was not.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import GeneralTracker
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hc_lafter import store
from hc_lafter.commands import TRACKERS
from hc_lafter.refusals import nearest
from hc_lafter.systems.base import Phase
from hc_lafter.tuning.batches import Batches, Rows, order, read, seed_step

RISE = 10.0  # a loss this many times the reference has diverged
LEAST = 0.3  # nats; a smaller reference counts as this: below 3 nats, a guess among 20 classes, nothing has diverged
DECAYS: dict[str, Callable[[float], float]] = {  # of the share of the steps that is done
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "poly": lambda done: (1 - done) ** 0.9,
}
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, of a parameter

__all__ = ["History", "Phase", "Rows", "fit", "load_checkpoint"]


@dataclass
class History:
    """What a run left behind. Steps and epochs are counted from 1, through all phases.

    Attributes:
        steps: a row per optimiser step: step, epoch, phase, loss, and each term. Measured before the step is taken.
        epochs: a row per epoch: epoch, phase, and each metric of the validation.
        best_epoch: the epoch whose parameters the module has in the end; 0: those that it came with.
        diverged: None, or a sentence that says where, and what to do.
        seconds: wall time per epoch, validation included. It never repeats, so it takes no part in a comparison.
        start: the validation's metrics before the first step, where these were asked for.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    diverged: str | None = None
    seconds: list[float] = field(default_factory=list, compare=False)
    start: dict[str, float] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """A row per step: ``step``, ``epoch``, ``phase``, ``loss``, each term, and in the row of an epoch's last step
        what validation then said, in columns such as ``validation accuracy``; in the others these are NaN.
        """
        steps = pd.DataFrame(self.steps, columns=None if self.steps else ["step", "epoch", "phase", "loss"])
        last = ~steps["epoch"].duplicated(keep="last")
        for name in dict.fromkeys(name for row in self.epochs for name in _numbers(row)):
            said = {row["epoch"]: row.get(name) for row in self.epochs}
            steps[f"validation {name}"] = steps["epoch"].map(said).where(last)
        return steps


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
    warmup: float = 0.0,
    decay: str = "constant",
    from_start: bool = False,
    stretch: int | None = None,
    accumulate: int = 1,
    grad_checkpointing: bool = False,
    tracker: str | GeneralTracker | None = None,
    tracker_folder: str | Path = ".",
) -> History:
    """Train a module through its phases and leave it with the best epoch's parameters, on the device, in eval mode.

    One AdamW (Loshchilov and Hutter, ICLR 2019; torch's betas) goes through the whole run: a group that thaws in a
    later phase starts its moments there, one that thaws again goes on with the old ones. The same call gives the same
    bits on a CPU, and the caller's random numbers go on as if nothing had been drawn.

    Several processes (``accelerate launch``, on a CPU ``torchrun``) run the same call. Each takes its share of every
    batch, or ``accumulate`` shares one after another; gradients and recorded terms are averages of the shares', each
    weighted by its number of examples. Where a term is a mean over the examples of its batch that is the whole batch's,
    up to roundings; a mean over anything else, such as the pixels of a class, becomes a mean of the shares' means.

    The run has diverged where the loss is not finite, or where the median of the last five losses is over ``RISE``
    times the first loss under the same weights (at least ``LEAST``). It then stops, with a warning.

    Args:
        module: its ``parameter_groups()`` gives dicts of ``name``, ``params``, ``lr`` and ``weight_decay``.
        data: map-style, items are dicts of tensors. Where it has ``set_epoch`` that is called with the epoch, from 1
            (in the process that reads the items), and an item must depend on nothing but index and epoch. Where
            its ``__getitems__`` gives a dict, that is the batch.
        terms: the scalars of one batch, of which the phases' weights make the loss. Noise may be drawn from torch's
            global generator.
        phases: in the order of training.
        batch_size: examples per step, over all processes; an epoch's last batch may be smaller.
        seed: of the order of examples, drawn from (seed, epoch), and of the noise; from 0.
        validate: metrics after each epoch, in eval and inference mode.
        select: the metric whose highest value decides which epoch is kept, the first of equals. Without ``validate``
            the last epoch is.
        precision: ``fp32``, or ``bf16`` through autocast.
        device: where to train; with several processes each takes its own of that kind.
        workers: processes that read the data; 0 reads it in this one.
        checkpoint: the run's file, written every ``every`` steps and after each epoch. The same call goes on from it,
            in the middle of an epoch too, and a run that had ended returns at once. What ``terms`` and ``validate``
            compute is not known to it: give another path where you change them. The frozen parameters are not in it.
        progress: show a bar, with the loss and the selected metric.
        name: what bar and messages call the run.
        warmup: share of all steps over which every rate rises in a line.
        decay: of the rates after that: ``constant``; ``cosine`` to zero; ``poly``, linear to zero to the power of 0.9,
            as segmentation papers have it.
        from_start: validate before the first step, too; the module that came in may then be the best.
        stretch: steps that stand for an epoch of the phases, after which is validated; the data are read over and over
            in their own epochs. None: an epoch is one pass through the data.
        train_mode: keep the module in training mode between validations (dropout). Buffers are not kept in checkpoints.
        accumulate: shares of a batch that each process takes one after another, for batches that do not fit the memory.
        grad_checkpointing: keep of each block of a tower its input alone, and compute the rest again on the way back
            (Chen et al., arXiv 1604.06174): same gradients, about a third more time, a fraction of the memory.
        tracker: where Accelerate logs, at each step and epoch, what the history holds: ``tensorboard``, ``wandb`` or
            ``mlflow``, or a tracker of your own.
        tracker_folder: for the trackers that write files.

    Raises:
        ValueError: an unknown precision, group, term, metric or tracker, nothing to train on, a loss without a
            gradient, a broken item of the data, a checkpoint that is damaged or of another run, processes that start
            differently; one sentence each.
        ModuleNotFoundError: the tracker's package is not installed.
        OSError: the checkpoint cannot be written.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision {precision!r} is unknown: choose one of fp32, bf16.")
    if decay not in DECAYS:
        raise ValueError(f"decay {decay!r} is unknown: choose one of {', '.join(DECAYS)}.")
    epochs = sum(phase.epochs for phase in phases)
    if min(batch_size, len(data), epochs) < 1:
        raise ValueError(
            f"batch_size {batch_size}, {len(data)} examples and {epochs} epochs cannot be: give at least 1 of each."
        )
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}: give the number of shares of a batch, from 1.")
    accelerator = _accelerator(torch.device(device), tracker, tracker_folder)
    process, processes = accelerator.process_index, accelerator.num_processes
    device = accelerator.device if processes > 1 else torch.device(device)
    module.to(device).train(train_mode)
    run = _Run(module, tuple(phases), len(data), batch_size, name or "the training", warmup, decay, stretch)
    definition = {}
    if checkpoint is not None or processes > 1:
        chosen = {"select": select if validate is not None else None, "data": getattr(data, "fingerprint", "")}
        definition = run.definition() | chosen | {"seed": seed, "precision": precision}
        definition |= {"warmup": warmup, "decay": decay, "from_start": from_start, "stretch": stretch}
    if checkpoint is not None and (found := load_checkpoint(checkpoint, definition)):
        run.restore(*found)
    if len(set(gather_object([f"{definition} {run.step}"]))) > 1:
        raise ValueError(
            "the processes do not start alike: build the module from the same seed in each of them, and keep the "
            "checkpoint where all of them read it."
        )
    if accelerator.is_main_process:
        settings = {"batch_size": batch_size, "epochs": epochs, "seed": seed, "precision": precision}
        settings |= {f"lr of {group}": rate for group, rate in run.rates.items()}
        _start(accelerator, tracker, run.name, settings | {"processes": processes, "accumulate": accumulate})
    parts, of = range(process, processes * accumulate, processes), processes * accumulate
    passes = math.ceil(run.total / run.per_pass)
    loader = DataLoader(
        Batches(data),
        batch_size=None,
        sampler=order(run.size, batch_size, passes, seed=seed, start=run.step, parts=parts, of=of),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # without one the loader draws from the global stream
    )
    batches = read(loader)  # one pass for all epochs, so that workers start once
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(total=run.total, initial=run.step, desc=name or "fit", unit="step", disable=hidden)
    with (
        bar,
        run.gradients_as_before(),
        _checkpointing(module, grad_checkpointing),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        objective = accelerator.prepare(_Objective(module, terms))
        if from_start and validate is not None and not run.step:
            with autocast():
                run.history.start = _metrics(module, validate, select)
        while not run.ended:
            phase, summed = run.begin_step(), 0.0
            for part in parts:
                seed_step(device, seed, run.step, part)
                batch, share = send_to_device(next(batches), device, non_blocking=True), run.share(part, of)
                with nullcontext() if part == parts[-1] else accelerator.no_sync(objective):
                    with autocast():
                        loss, values = objective(batch, phase)
                    (loss * (share * processes)).backward()  # DDP averages over processes, whose shares may differ
                summed = summed + share * torch.stack([v.float().to(device) for v in values.values()])
            run.end_step(dict(zip(values, accelerator.reduce(summed, "sum").tolist(), strict=True)))
            _log(accelerator, run.step, _numbers(run.history.steps[-1]))
            if run.at_epoch_end and not run.history.diverged:
                with autocast():
                    run.end_epoch({} if validate is None else _metrics(module, validate, select), select)
                found = _numbers(run.history.epochs[-1])
                _log(accelerator, run.step, {f"validation {name}": value for name, value in found.items()})
            due = run.at_epoch_end or run.ended or run.step % every == 0
            if due and checkpoint is not None and accelerator.is_main_process:
                store.write(checkpoint, run.tensors(), run=definition, state=run.state())
            latest = (run.history.epochs or [{}])[-1] | {"loss": run.history.steps[-1]["loss"]}
            bar.set_postfix({k: f"{latest[k]:.4g}" for k in ("loss", select) if k in latest}, refresh=False)
            bar.update()
    for each in accelerator.trackers:
        each.finish()  # accelerator.end_training would end the processes' group, too
    accelerator.wait_for_everyone()  # until the checkpoint is written: the next call may read it
    run.put(run.kept)
    module.eval()
    if run.history.diverged:
        warnings.warn(run.history.diverged, stacklevel=2)
    return run.history


@contextmanager
def _checkpointing(module: nn.Module, wanted: bool) -> Iterator[None]:
    """The towers in a module, `hc_lafter.clip.vit.walk` through which heeds the setting; afterwards as they were."""
    before = [(part, part.grad_checkpointing) for part in module.modules() if hasattr(part, "grad_checkpointing")]
    for part, already in before:
        part.grad_checkpointing = wanted or already
    try:
        yield
    finally:
        for part, already in before:
            part.grad_checkpointing = already


def _metrics(module: nn.Module, validate: Callable, select: str) -> dict[str, float]:
    """What validation says in the first process: there is one opinion of which epoch is the best."""
    mode = module.training
    module.eval()
    with torch.inference_mode():
        metrics = {name: float(value) for name, value in validate(module).items()}
    module.train(mode)
    metrics = broadcast_object_list([metrics])[0]
    if select not in metrics:
        raise ValueError(
            f"the validation gives {', '.join(metrics) or 'nothing'}: it must give {select!r}, by which the epoch is "
            "chosen."
        )
    return metrics


class _Objective(nn.Module):
    """Module and terms as one forward, for data-parallel training: the terms may use any part of the module, twice."""

    def __init__(self, module: nn.Module, terms: Callable):
        super().__init__()
        self.module, self.terms = module, terms

    def forward(self, batch: Mapping[str, Tensor], phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what is recorded. That is detached: DDP waits for the gradient of whatever comes out."""
        terms = self.terms(self.module, batch)
        lacking = [name for name in phase.weights if name not in terms]
        if lacking:
            raise ValueError(
                f"phase {phase.name!r} weighs the term {lacking[0]!r}, and there are {', '.join(terms) or 'none'}."
            )
        loss = sum(weight * terms[name] for name, weight in phase.weights.items())
        if not loss.requires_grad:
            raise ValueError(f"in phase {phase.name!r} the loss depends on no parameter of its groups.")
        return loss, {name: value.detach() for name, value in {"loss": loss, **terms}.items()}


class _Run:
    """A run under way: what it trains, how far it is, what it has measured and what it will leave behind."""

    def __init__(
        self,
        module: nn.Module,
        phases: tuple[Phase, ...],
        size: int,
        batch_size: int,
        name: str,
        warmup: float = 0.0,
        decay: str = "constant",
        stretch: int | None = None,
    ):
        self.module, self.phases, self.size, self.batch_size, self.name = module, phases, size, batch_size, name
        self.warmup, self.decay = warmup, DECAYS[decay]
        self.groups = _groups(module, phases)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.parameters = {names[id(p)]: p for group in self.groups.values() for p in group["params"]}
        self.rates = {name: group["lr"] for name, group in self.groups.items()}  # at their height
        self.optimiser = torch.optim.AdamW(list(self.groups.values()))
        self.schedule = [phase for phase in phases for _ in range(phase.epochs)]  # by epoch
        self.per_pass = math.ceil(size / batch_size)  # steps
        self.per_epoch = stretch or self.per_pass
        self.total = self.per_epoch * len(self.schedule)
        self.step, self.history, self.kept = 0, History(), self.now()  # step: how many were taken
        self.phase: Phase | None = None
        self.losses: list[float] = []  # under the weights of this phase
        self.started = time.perf_counter()  # of the epoch, less what it took before a restart

    @property
    def ended(self) -> bool:
        return self.step == self.total or self.history.diverged is not None

    @property
    def at_epoch_end(self) -> bool:
        return self.step % self.per_epoch == 0

    # --- training ---

    def share(self, part: int, of: int) -> float:
        """Of the next batch's examples, as `order` deals them."""
        examples = min(self.batch_size, self.size - self.step % self.per_pass * self.batch_size)
        return len(range(part, examples, of)) / examples

    def begin_step(self) -> Phase:
        """The phase; its groups ask for a gradient and nothing else does, so that autograd skips the rest."""
        phase = self.schedule[self.step // self.per_epoch]
        if phase is not self.phase:
            self.phase = phase
            for name, group in self.groups.items():
                for parameter in group["params"]:
                    parameter.requires_grad_(name in phase.trains)
            alike = {other.name for other in self.phases if dict(other.weights) == dict(phase.weights)}
            self.losses = [row["loss"] for row in self.history.steps if row["phase"] in alike]
        factor = self.factor()
        for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
            group["lr"] = factor * rate
        self.optimiser.zero_grad()  # of all groups: AdamW moves whatever has a gradient, zeros too
        return phase

    def factor(self) -> float:
        """Of every rate, at this step: up in a line, then as the decay says."""
        rise = round(self.warmup * self.total)
        if self.step < rise:
            return (self.step + 1) / rise
        return self.decay((self.step - rise) / max(1, self.total - rise))

    def end_step(self, values: Mapping[str, float]) -> None:
        """Record the loss and the terms, and take the step unless they say that the run has diverged."""
        row = {"step": self.step + 1, "epoch": self.step // self.per_epoch + 1, "phase": self.phase.name, **values}
        self.step += 1
        self.history.steps.append(row)
        self.losses.append(row["loss"])
        reference, middle = max(LEAST, self.losses[0]), statistics.median_low(self.losses[-5:])
        finite = math.isfinite(row["loss"])
        if finite and middle <= RISE * reference:
            self.optimiser.step()
            return
        best = self.history.best_epoch
        value = f"{middle:.4g} (the median of the last five)" if finite else f"{row['loss']}"
        self.history.diverged = (
            f"{self.name} diverged at step {row['step']} (epoch {row['epoch']}, phase {row['phase']}), where its "
            f"loss is {value} and may be {RISE:g} times {reference:.4g} at most; the module has the parameters "
            f"{f'of epoch {best}' if best else 'that it came with'}: lower the learning rate of "
            f"{' or '.join(self.phase.trains)}."
        )

    def end_epoch(self, metrics: Mapping[str, float], select: str) -> None:
        """Record the metrics; keep the parameters where the selected one is the highest so far, or there is none."""
        history, now = self.history, time.perf_counter()
        epochs, best = history.epochs, history.best_epoch
        epochs.append({"epoch": len(epochs) + 1, "phase": self.phase.name, **metrics})
        highest = epochs[best - 1] if best else history.start
        if not metrics or metrics[select] > highest.get(select, -math.inf):
            history.best_epoch, self.kept = len(epochs), self.now()
        history.seconds.append(now - self.started)
        self.started = now

    # --- what is kept ---

    def now(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def put(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    @contextmanager
    def gradients_as_before(self) -> Iterator[None]:
        """Gradients for what is trained in some phase; afterwards each parameter asks for one as it did before."""
        before = [(parameter, parameter.requires_grad) for parameter in self.module.parameters()]
        self.module.requires_grad_(False)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter, wanted in before:
                parameter.requires_grad_(wanted)
                parameter.grad = None

    def definition(self) -> dict[str, Any]:
        """What decides this run, as far as the module and its phases do."""
        return {
            "phases": [[p.name, p.epochs, sorted(p.trains), dict(p.weights)] for p in self.phases],
            "parameter_groups": [[n, self.rates[n], g["weight_decay"]] for n, g in self.groups.items()],
            "parameters": list(self.parameters),
            "module_at_the_start": store.weight_hash(self.module.state_dict()),
            "examples": self.size,
            "batch_size": self.batch_size,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the kept parameters and, until the run has ended, the present ones and AdamW's."""
        tensors = {f"kept.{name}": value for name, value in self.kept.items()}
        if not self.ended:
            for name, parameter in self.parameters.items():
                tensors[f"now.{name}"] = parameter
                tensors |= {f"adamw.{key}.{name}": v for key, v in self.optimiser.state[parameter].items()}
        return tensors

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "history": vars(self.history), "elapsed": time.perf_counter() - self.started}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.step, self.history = state["step"], History(**state["history"])
        self.started = time.perf_counter() - state["elapsed"]
        self.kept = {name: tensors[f"kept.{name}"] for name in self.parameters}
        if self.ended:
            return
        self.put({name: tensors[f"now.{name}"] for name in self.parameters})
        moments = {
            place: {key: tensors[f"adamw.{key}.{name}"] for key in _MOMENTS}
            for place, name in enumerate(self.parameters)
            if f"adamw.step.{name}" in tensors
        }
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})


def load_checkpoint(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors (on the CPU) and the state of a checkpoint; None where there is no file.

    Args:
        path: written by `hc_lafter.store.write` with ``run``, everything that decides the run, and ``state``.
        run: likewise, of the run that wants to go on.

    Raises:
        ValueError: the file is damaged, is not a checkpoint, or belongs to another run (named: what differs).
    """
    if not Path(path).exists():
        return None
    tensors, metadata = store.read(path)
    theirs, ours = metadata.get("run", {}), json.loads(json.dumps(run))  # tuples become lists, as they did in the file
    different = []
    for key in sorted({*theirs, *ours}):
        name, values = key.replace("_", " "), f"{theirs.get(key)} there, {ours.get(key)} here"
        if theirs.get(key) != ours.get(key):
            different.append(f"{name} {values}" if len(values) < 64 else f"other {name}")
    if different:
        raise ValueError(
            f"{path} is the checkpoint of another run ({'; '.join(different)}): delete it, or give another path."
        )
    return tensors, metadata["state"]


def _groups(module: nn.Module, phases: Sequence[Phase]) -> dict[str, dict[str, Any]]:
    """The parameter groups that any phase trains, by name, in the module's order."""
    known = {group["name"]: group for group in module.parameter_groups()}
    for phase in phases:
        unknown = [name for name in phase.trains if name not in known]
        if unknown:
            raise ValueError(
                f"phase {phase.name!r} trains {unknown[0]!r}, which is none of the module's parameter groups: "
                f"choose from {', '.join(known)}."
            )
    wanted = {name for phase in phases for name in phase.trains}
    keys = ("name", "params", "lr", "weight_decay")
    return {name: {key: group[key] for key in keys} for name, group in known.items() if name in wanted}


def _accelerator(device: torch.device, tracker: str | GeneralTracker | None, folder: str | Path) -> Accelerator:
    """Accelerate's state is one per process: where an earlier one is of another device, it is made again."""
    if isinstance(tracker, str):
        if tracker not in TRACKERS:
            raise ValueError(f"tracker {tracker!r} is unknown{nearest(tracker, TRACKERS)}: {', '.join(TRACKERS)}.")
        if find_spec(tracker) is None:
            raise ModuleNotFoundError(f"the tracker {tracker} is a package that is not here: pip install {tracker}")
    state = PartialState._shared_state
    if state and state["device"].type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)
    # phases freeze groups, and a loss may use no part of one: such parameters are unused in a step, which DDP must know
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(
        cpu=device.type == "cpu", mixed_precision="no", device_placement=False, kwargs_handlers=[parallel],
        log_with=tracker, project_dir=folder,
    )  # fmt: skip


def _start(accelerator: Accelerator, tracker: str | GeneralTracker | None, name: str, settings: dict[str, Any]) -> None:
    """A run of the project hc_lafter; tensorboard, which knows no projects, has a folder for each run instead."""
    project = re.sub(r"\W+", "-", name) if tracker == "tensorboard" else "hc_lafter"
    accelerator.init_trackers(project, settings, {"wandb": {"name": name}, "mlflow": {"run_name": name}})


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row without its place."""
    return {name: value for name, value in row.items() if name not in ("step", "epoch", "phase")}


def _log(accelerator: Accelerator, step: int, values: Mapping[str, float]) -> None:
    """To the trackers. MLflow takes no comma in a name."""
    if accelerator.trackers:
        accelerator.log({name.replace(",", ""): value for name, value in values.items()}, step=step)
