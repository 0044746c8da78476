"""How a run is computed: material gathered, system built, trained and judged."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from hc_lafter import store
from hc_lafter.analysis import segmentation
from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import class_embeddings
from hc_lafter.data.masks.sets import names_of, templates_of
from hc_lafter.data.record import Dataset
from hc_lafter.refusals import nearest
from hc_lafter.systems.base import Start, System
from hc_lafter.systems.regimes import regime_terms
from hc_lafter.tuning import masks
from hc_lafter.tuning.convergence import Choice, Score, Trial, at_rate, converged, search
from hc_lafter.tuning.material import Material, check_depth, gather, opened, opened_masks, pseudo_labels
from hc_lafter.tuning.run import Result, Run, checkpoint_of, in_half, in_single, keep, path_of, read_kept
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.start import start_of, unseen_of
from hc_lafter.tuning.training import History, Rows, fit
from hc_lafter.tuning.views import Views, strong_view, weak_view


def compute(
    run: Run,
    *,
    clip: Clip | None = None,
    material: Material | None = None,
    scenes: Dataset | None = None,
    progress: bool = False,
    training: Mapping[str, Any] | None = None,
) -> Result:
    """Tune one system on some training images, choose its epoch on validation, and read the test images once.

    Args:
        clip, material, scenes: in the place of what the run's setting names: the CLIP; what the tower says, for a
            system that reads whole images; a data set with masks. Where one is given nothing is kept.
        training: options of `hc_lafter.tuning.training.fit` that change no number beyond roundings, by name.

    Raises:
        ValueError: a regime that the system does not have; as `fit`.
    """
    check_regime(run.entry, run.regime)
    given = {"clip": clip, "material": material, "scenes": scenes}
    kept = None if any(thing is not None for thing in given.values()) else path_of(run)
    if kept is None:
        return _computed(run, None, {"progress": progress, **(training or {})}, **given)
    with store.locked(kept):  # whoever wants the same run waits, and reads
        if kept.is_file():
            result = read_kept(run, kept)
        else:
            result = _computed(run, kept, {"progress": progress, **(training or {})}, **given)
        for left in (kept.with_suffix(".failed"), checkpoint_of(kept)):
            left.unlink(missing_ok=True)
    return result


def check_regime(entry: System, regime: str) -> None:
    if regime not in entry.regimes:
        near = nearest(regime, entry.regimes)
        raise ValueError(f"{entry.name} has no regime {regime!r}{near}: choose one of {', '.join(entry.regimes)}.")


def set_threads(setting: Setting) -> None:
    if setting.threads:
        torch.set_num_threads(setting.threads)
        threadpool_limits(setting.threads)


def _computed(run: Run, kept: Path | None, training: Mapping[str, Any], *, clip, material, scenes) -> Result:
    set_threads(run.setting)
    began = time.perf_counter()
    choice = _choice(run, progress=training["progress"], clip=clip, material=material, scenes=scenes)
    clip = clip or (opened(run.setting)[0] if material is None else material.clip)
    if any(hasattr(run.settings, name) for name in ("layers", "segments")):
        check_depth(clip)
    chosen = run
    if choice is not None:
        config = run.settings if choice.rate is None else at_rate(run.settings, choice.rate)
        chosen = replace(run, config=config, until=replace(run.until, steps=choice.steps))
    if kept:
        training = {**training, "checkpoint": checkpoint_of(kept)}
    if run.entry.reads == "masks":
        scenes = opened_masks(run.setting) if scenes is None else scenes
        start = start_of(run, clip=clip, scenes=scenes)
        system, arrays, history = _masks(chosen, clip, scenes, start, training)
    else:
        material = gather(run.setting) if material is None else material
        start = start_of(run, material=material)
        system, arrays, history = _classes(chosen, material, start, training)
    held = {id(p) for group in system.parameter_groups() for p in group["params"]}
    tuned = {n: p.detach().cpu() for n, p in system.named_parameters() if id(p) in held}
    if run.entry.fit is not None or hasattr(system, "settle"):
        tuned |= {n: b.detach().cpu() for n, b in system.named_buffers() if not n.startswith("visual.")}
    result = Result(run, arrays, history, tuned, 0.0, len(history.steps))
    if choice is not None:
        error = _error(result, start)
        curve = history.start[run.select], [row[run.select] for row in history.epochs]
        enough = not history.diverged and choice.enough is not False and converged(*curve, error)
        result = replace(result, rate=choice.rate, converged=enough, error=error)
    if run.until is not None:
        arrays = in_half(arrays)
    if run.brief:
        arrays = {name: values for name, values in arrays.items() if name in ("val", "test", "counts")}
        history = replace(history, steps=[])
    result = replace(result, arrays=in_single(arrays), history=history, seconds=time.perf_counter() - began)
    if kept is not None:
        keep(result)
    return result


def _choice(run: Run, **given: Any) -> Choice | None:
    """The rate and the steps that the kept seed's trials choose; None where there is no choice."""
    if run.to_choose is None:
        return None
    scores: dict[Trial, Score] = {}
    while isinstance(found := search(run.to_choose, scores), list):
        for pair in found:
            trial = compute(run.trial(*pair), **given)
            scores[pair] = trial.score, trial.error, trial.converged
    return found


def _error(result: Result, start: Start) -> float:
    """The standard error of the best validation score: a share's, or for masks by the jackknife over images."""
    counts, score = result.val, result.score
    if result.run.entry.reads != "masks":
        return math.sqrt(max(0.0, score * (1 - score)) / len(counts))
    without = segmentation.scores(counts.sum(axis=0) - counts, ~start.seen.numpy())["seen"]
    return float(np.sqrt((len(counts) - 1) * np.var(without)))


def _classes(
    run: Run, material: Material, start: Start, training: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, np.ndarray], History]:
    setting, layers = run.setting, run.layers
    images = material.draw(run.n_train, run.seed) if run.n_train else np.array([], dtype=int)
    chosen = material.draw(run.n_val, 0, "val") if run.n_val else material.part["val"]
    test = material.part["test"] if run.n_test is None else material.draw(run.n_test, setting.seed, "test")
    judged = {split: at for split, at in (("val", chosen), ("test", test)) if len(at)}  # a trial reads no test image
    history = History()
    if run.entry.fit is not None:
        pairs = ((material.taps(layers, at), material.labels[at]) for at in (images, chosen))
        system = run.entry.fit(start, run.settings, *pairs)
    else:
        system = run.entry.build(start, run.settings, run.seed)
    arrays = {}
    if run.trained and layers is not None:
        arrays = {f"{split} before": material.logits(system, at, layers).numpy() for split, at in judged.items()}
    if run.trained:
        history = _fit_classes(run, material, system, start, images, chosen, training)
    if run.trained and hasattr(system, "settle"):
        device = run.setting.device
        system.settle(material.taps(layers, chosen).to(device), material.labels[chosen].to(device))
    arrays |= {split: material.logits(system, at, layers).numpy() for split, at in judged.items()}
    if run.trained and layers is not None:
        arrays["train"] = material.logits(system, images, layers).numpy()
    return system, arrays, history


def _fit_classes(
    run: Run,
    material: Material,
    system: nn.Module,
    start: Start,
    images: np.ndarray,
    chosen: np.ndarray,
    training: Mapping[str, Any],
) -> History:
    terms = regime_terms(run.regime, system, lam=run.lam, moving_teacher=run.moving_teacher)
    rows = {"label": material.labels, "distribution": material.targets(run.target, run.seed)}
    if run.regime == "label-free" and terms.teach is None:
        rows["pseudo"] = pseudo_labels(material, start.classifier, terms.threshold)
    if getattr(run.settings, "distillation", 0):
        rows["frozen"] = material.shared[:, -1]
    rows = {name: values[images] for name, values in rows.items()}
    if run.layers is not None:
        data: torch.utils.data.Dataset = Rows(student=material.picked(run.layers, images), **rows)
    else:
        student = strong_view(material.clip) if run.view == "strong" else material.clip.transform
        views = {"student": student}
        if getattr(terms, "teach", None) is not None:
            views["teacher"] = weak_view(material.clip)
        keep = run.setting.workers == 0
        data = Views(material.dataset.subset(images), views, seed=run.seed, extra=rows, keep=keep)
    watched = material.draw(run.n_watched, 0, "test") if run.n_watched else None

    def accuracy(module: nn.Module, at: np.ndarray) -> float:
        said = material.logits(module, at, run.layers).argmax(dim=1)
        return float((said == material.labels[at]).float().mean())

    settles, device = hasattr(system, "settle"), run.setting.device

    def validate(module: nn.Module) -> dict[str, float]:
        if settles:  # epochs and rates are judged as the system that comes of them
            module.settle(material.taps(run.layers, chosen).to(device), material.labels[chosen].to(device))
        found = {"accuracy": accuracy(module, chosen)}
        return found if watched is None else found | {"test accuracy": accuracy(module, watched)}

    train_mode = settles or getattr(run.settings, "dropout", 0) > 0  # what was settled takes no part in training
    return _fit(run, system, data, terms, system.schedule(_epochs(run)), validate, training, train_mode=train_mode)


def _epochs(run: Run) -> int:
    """Stretches of training that end in a validation."""
    return run.epochs if run.until is None else run.until.checks


def _fit(run, system, data, terms, phases, validate, training, train_mode: bool = False) -> History:
    setting, until = run.setting, run.until
    given = {} if until is None else {
        "warmup": until.warmup, "decay": until.decay, "from_start": True, "stretch": until.stretch,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a divergence stands in the history, and whoever reads it says so
        return fit(
            system, data, terms, phases,
            batch_size=min(run.batch_size, len(data)), seed=run.seed, validate=validate, select=run.select, **given,
            precision=setting.precision,
            device=setting.device, workers=0 if run.layers is not None else setting.workers,
            name=str(run), train_mode=train_mode, **training,
        )  # fmt: skip


def _masks(
    run: Run, clip: Clip, scenes: Dataset, start: Start, training: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, np.ndarray], History]:
    setting = run.setting
    unseen, side, short, owner = unseen_of(run, scenes), clip.image_size, clip.image_size, None
    protocol = masks.protocol_of(scenes, run.entry) if run.regime == "no training" else None
    if protocol is not None:  # a text, and a map, for each of a class's names
        names, short = names_of(scenes, protocol.words), round(protocol.short * side)
        text = class_embeddings(clip, list(chain(*names.values())), templates_of(scenes), cache=setting.cache)
        start, owner = replace(start, text=text.to(setting.device)), masks.owner_of(names).to(setting.device)
    system = run.entry.build(start, run.settings, run.seed).to(setting.device)
    judge, exam = (
        masks.MaskViews(
            scenes.subset(masks.draw(scenes, split, n, 0)), clip, short=short, whole=protocol is None, keep=keep
        )
        for split, n, keep in (
            ("val", run.n_val, setting.workers == 0),
            ("test", len(scenes) if run.n_test is None else run.n_test, False),
        )
    )

    def score(module: nn.Module, views: masks.MaskViews) -> Any:
        decide = getattr(module, "decide", lambda logits: logits)
        with setting.autocast():
            return masks.score_masks(
                lambda x: decide(module(x).logits), views, unseen=unseen, batch_size=setting.batch_size,
                device=setting.device, workers=setting.workers, progress=training["progress"], protocol=protocol,
                owner=owner,
            )  # fmt: skip

    def validate(module: nn.Module) -> dict[str, float]:
        found = score(module, judge).compute()
        return {key: found[key] for key in ("seen", "unseen") if np.isfinite(found[key])}

    history = History()
    if run.regime != "no training":
        how = {"transductive": True} if run.regime == "transductive" else {}
        phases = system.schedule(_epochs(run), **how)
        at = masks.draw(scenes, "train", run.n_train, run.seed)
        augment = getattr(run.settings, "augment", False)
        keep = setting.workers == 0
        data = masks.MaskViews(scenes.subset(at), clip, size=(side, side), augment=augment, seed=run.seed, keep=keep)
        terms = regime_terms(run.regime, system)
        # who trains without labels of the unseen classes has none to choose an epoch with either
        history = _fit(run, system, data, terms, phases, validate, training, train_mode=True)
    arrays = {}
    if run.to_choose is not None:
        arrays["val"] = np.asarray(score(system.eval(), judge).counts)
    if len(exam):  # a trial reads no test image
        arrays["counts"] = np.asarray(score(system.eval(), exam).counts)
    return system, arrays, history
