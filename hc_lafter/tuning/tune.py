"""One system, tuned on a data set in one call: what ``hc-lafter tune`` and five lines of Python do."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from accelerate.tracking import GeneralTracker
from pydantic import TypeAdapter, ValidationError

from hc_lafter.analysis import segmentation
from hc_lafter.clip.load import Clip, load_clip
from hc_lafter.data import open_data
from hc_lafter.data.record import SPLITS, Dataset
from hc_lafter.refusals import nearest
from hc_lafter.systems import System, find
from hc_lafter.systems.trained import Trained
from hc_lafter.tuning.computing import check_regime, compute
from hc_lafter.tuning.convergence import RATES
from hc_lafter.tuning.material import material_of
from hc_lafter.tuning.run import Result, Run
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.start import start_of
from hc_lafter.tuning.texts import text_classifiers


def tune(
    system: str,
    clip: Clip | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str],
    *,
    regime: str | None = None,
    images: int | None = None,
    epochs: int = 8,
    batch_size: int = 50,
    seed: int = 0,
    precision: str = "fp32",
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
    accumulate: int = 1,
    grad_checkpointing: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    tracker: str | GeneralTracker | None = None,
    tracker_folder: str | os.PathLike[str] = ".",
    **settings: Any,
) -> Trained:
    """Tune a system on a data set, its epoch chosen on the validation split.

    Args:
        system: by name, see `hc_lafter.systems.registry`.
        clip: as `hc_lafter.load_clip` gives it, on the device where to train; or what that takes.
        data: as `hc_lafter.open_data` gives it, with train, val and test; or what that takes.
        regime: one of the system's; None: the first of them.
        images: training images at most, drawn with the classes' shares; None: all.
        epochs, batch_size: of training.
        seed: of everything that is drawn.
        precision: ``fp32`` or ``bf16``.
        cache: a folder that keeps the tower's features and the texts'; None: nothing is kept.
        progress: show bars.
        accumulate, grad_checkpointing, checkpoint, tracker, tracker_folder: of `hc_lafter.tuning.training.fit`. A
            checkpoint is the caller's to delete, and does not know the system's settings.
        settings: of the system's configuration, such as ``tokens=16``.

    Returns:
        The tuned system; `hc_lafter.systems.save` writes it, its ``predict`` names pictures, its
        ``history.table()`` is the training, step by step.

    Raises:
        ValueError: an unknown system, regime or setting, a number below 1, or as `hc_lafter.load_clip`,
            `hc_lafter.open_data` and `hc_lafter.tuning.training.fit`.
    """
    entry = find(system)
    sizes = {"images": images, "epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "seed": seed}
    for name, number in sizes.items():
        least, below, words = (0, 2**31, f", below {2**31:,}") if name == "seed" else (1, math.inf, "")
        whole = isinstance(number, Integral) and not isinstance(number, bool) and least <= number < below
        if not whole and (name, number) != ("images", None):
            raise ValueError(f"{name}={number!r} is not usable: give a whole number from {least}{words}.")
    regime = entry.regimes[0] if regime is None else regime
    check_regime(entry, regime)
    settings = checked(entry, settings)
    for name, given, kind in (("clip", clip, Clip), ("data", data, Dataset)):
        if not isinstance(given, kind | str | os.PathLike):
            raise ValueError(
                f"{name} is of type {type(given).__name__}: give a name, a path, or what opening one gave."
            )
    clip = clip if isinstance(clip, Clip) else load_clip(os.fspath(clip))
    cache = None if cache is None else Path(cache)
    if not isinstance(data, Dataset):
        data = open_data(os.fspath(data), side=clip.image_size, seed=seed, cache=cache)
    empty = [split for split in SPLITS if not (data.splits == split).any()]
    if empty:
        raise ValueError(f"data set {data.name!r} has no images in the split {empty[0]!r}: add some.")
    device = str(next(clip.visual.parameters()).device)
    setting = Setting(
        clip=clip.name, data=data.name, seeds=(seed,), precision=precision, device=device,
        cache=cache, threads=0,
    )  # fmt: skip
    everything, here = len(data), int((data.splits == "train").sum())
    run = Run(
        system, regime, seed, setting, entry.configure(clip.name, data.name, clip.layers, **settings),
        n_train=min(images or here, here), n_val=everything, epochs=epochs, batch_size=batch_size,
    )  # fmt: skip
    if run.regime == "label-free" and entry.reads == "images":
        run = replace(run, view="strong")
    given: dict[str, Any] = {"clip": clip}
    given |= {"scenes": data} if entry.reads == "masks" else {"material": material_of(setting, clip, data)}
    start = start_of(run, **given)
    training = {
        "accumulate": accumulate, "grad_checkpointing": grad_checkpointing, "tracker": tracker,
        "tracker_folder": tracker_folder, "checkpoint": None if checkpoint is None else Path(checkpoint),
    }  # fmt: skip
    result = compute(run, progress=progress, training=training, **given)
    if result.history.diverged:
        warnings.warn(result.history.diverged, stacklevel=2)
    module = entry.build(start, run.settings, seed)
    module.load_state_dict(result.tensors, strict=False)
    module = module.to(device).eval()
    if entry.reads == "masks":
        scores = {"test mIoU": float(segmentation.scores(result.arrays["counts"].sum(axis=0))["miou"])}
        return Trained(
            system, run.settings, module, clip, data.mask_classes, start.text, start.seen, scores=scores,
            history=result.history,
        )  # fmt: skip
    recipe = ", ".join(str(part) for part in text_classifiers(setting, given["material"]).chosen)
    scores = _scores(result, data.labels, given["material"].part)
    return Trained(
        system, run.settings, module, clip, data.classes, start.text, source=recipe, scores=scores,
        history=result.history,
    )  # fmt: skip


def checked(entry: System, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a system as its configuration's types say, ``"16"`` as 16 and a list as a tuple.

    Raises:
        ValueError: an unknown name, a value of another type, a negative or infinite number, a rate of 0; one sentence.
    """
    names, hints, found = [f.name for f in fields(entry.config)], get_type_hints(entry.config), {}
    for name, value in settings.items():
        if name not in names:
            near = nearest(name, names)
            raise ValueError(f"{entry.name} has no setting {name!r}{near}: choose of {', '.join(names)}.")
        kind, rate = getattr(hints[name], "__name__", hints[name]), name in RATES
        try:
            found[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError:
            raise ValueError(f"{name}={value!r} is not usable for {entry.name}: give a value of type {kind}.") from None
        each = found[name] if isinstance(found[name], tuple) else (found[name],)
        numbers = [number for number in each if isinstance(number, int | float)]
        if not all(math.isfinite(number) and number >= 0 and (number or not rate) for number in numbers):
            least = "above 0" if rate else "from 0"
            raise ValueError(f"{name}={value!r} is not usable for {entry.name}: give finite numbers {least}.")
    return found


def _scores(result: Result, labels: np.ndarray, part: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy on all validation and test images."""
    right = {split: result.arrays[split].argmax(axis=1) == labels[part[split]] for split in ("val", "test")}
    return {f"{split} accuracy": float(hits.mean()) for split, hits in right.items()}
