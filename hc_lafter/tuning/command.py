"""``hc-lafter tune``: one system tuned and saved, by one process or several (``accelerate launch``, ``torchrun``).

Each process opens CLIP and data and takes its share of every batch (`hc_lafter.tuning.training.fit`); the first one
alone prints and writes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import torch
import yaml
from accelerate.state import PartialState

from hc_lafter import commands
from hc_lafter.clip.load import load_clip
from hc_lafter.data import open_data
from hc_lafter.files import check_place, write_whole
from hc_lafter.refusals import nearest
from hc_lafter.systems import System, find, save
from hc_lafter.tuning.tune import checked, tune

_NOT_THE_RUN = ("out", "accumulate", "checkpointing", "tracker", "cache", "device")  # change where it is done


def settings_of(entry: System, given: Sequence[str]) -> dict[str, Any]:
    """Settings of a system's configuration from words such as ``tokens=16``, ``layers=[5,6]`` or ``lr=1e-3``.

    Raises:
        ValueError: no ``=``, an unknown name, or a value that the system does not take; one sentence.
    """
    names, found = [f.name for f in fields(entry.config)], {}
    for word in given:
        name, separator, value = word.partition("=")
        if not separator or name not in names:
            near = "" if name in names else nearest(name, names)
            raise ValueError(f"--set {word}: {entry.name} has the settings {', '.join(names)}{near}; give KEY=VALUE.")
        if not value.strip():
            raise ValueError(f"--set {word} is empty: give {name} a value, or leave it out.")
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(value)
        found |= checked(entry, {name: value})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, save, and print the accuracies on validation and test."""
    given = commands.tune().parse_args(argv)
    there = torch.cuda.is_available()
    cuda = there if given.device is None else given.device == "cuda"
    if cuda and not there:
        print("--device cuda is not on this machine: leave it out, or install its driver.", file=sys.stderr)
        return 2
    state = PartialState(cpu=not cuda)
    try:
        _tune(given, state)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if state.is_main_process:
            print(error, file=sys.stderr)
        return 2
    finally:
        state.destroy_process_group()
    return 0


def _tune(given: Any, state: PartialState) -> None:
    entry = find(given.system)
    if given.out.is_dir() or given.out.suffix != ".safetensors":
        raise ValueError(f"--out {given.out} names no file of a system: give one that ends in .safetensors.")
    history = given.out.with_suffix(".csv")
    for path in (given.out, history):
        commands.keep_inputs(path, given.data, given.clip)
    if history.is_file() and not history.read_bytes().startswith(b"step,"):
        raise ValueError(f"{history} is no history of a training, and would be written over: choose another --out.")
    settings = settings_of(entry, given.set)
    one_run = sorted((name, str(value)) for name, value in vars(given).items() if name not in _NOT_THE_RUN)
    checkpoint = given.out.with_suffix(f".{hashlib.sha256(repr(one_run).encode()).hexdigest()[:8]}.checkpoint")
    if state.is_main_process:
        check_place(given.out.absolute().parent)
    clip = load_clip(given.clip, device=str(state.device))
    sizes = {name: getattr(given, name) for name in ("n_train", "n_val", "n_test")}
    data = open_data(given.data, **sizes, side=clip.image_size, seed=given.seed, cache=given.cache)
    if state.is_main_process:
        print(*(f"note: {note}\n" for note in clip.notes), sep="", end="")
    trained = tune(
        given.system, clip, data, regime=given.regime, images=given.images, epochs=given.epochs,
        batch_size=given.batch_size, seed=given.seed, precision=given.precision, cache=given.cache,
        progress=state.is_main_process, accumulate=given.accumulate, grad_checkpointing=given.checkpointing,
        checkpoint=checkpoint, tracker=None if given.tracker == "none" else given.tracker,
        tracker_folder=given.out.parent, **settings,
    )  # fmt: skip
    if state.is_main_process:
        save(trained, given.out)
        checkpoint.unlink(missing_ok=True)
        print(f"{given.out} is {trained.system}, {', '.join(f'{k} {v:.4f}' for k, v in trained.scores.items())}.")
        if len(steps := trained.history.table()):  # else nothing is trained
            table = write_whole(history, steps.to_csv(index=False))
            print(f"Its training, step by step: {table}")
    state.wait_for_everyone()
