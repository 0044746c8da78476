"""Which runs each notebook needs under a profile: what `runs --profile P` computes without any notebook.

A plan is a function of a study alone. Rows of a table are named; each row is a list of runs, one per seed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from hc_lafter import commands
from hc_lafter.analysis import learning, statistics
from hc_lafter.analysis.metrics import softmax64
from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.masks.names import BACKGROUND
from hc_lafter.data.masks.sets import split_or_all
from hc_lafter.files import write_whole
from hc_lafter.refusals import some
from hc_lafter.suite.profiles import parse_overrides
from hc_lafter.suite.reference import (
    adopt,
    at_best_rates,
    file_of,
    gained_no_more,
    may_go_on,
    read,
    stages,
    to_the_end,
    write,
)
from hc_lafter.suite.study import Study
from hc_lafter.suite.words import RECALIBRATED
from hc_lafter.systems import System, find, registry, sc_clip
from hc_lafter.systems.cascade_clip import SCHEDULE
from hc_lafter.systems.hybrid_cascade import HybridCascadeConfig
from hc_lafter.systems.nga import KINDS
from hc_lafter.systems.sc_clip import SCClipConfig
from hc_lafter.tuning import masks
from hc_lafter.tuning.convergence import Convergence
from hc_lafter.tuning.material import Material, gather, opened, opened_masks
from hc_lafter.tuning.runs import Result, Run, discard, failure, get, missing, surplus
from hc_lafter.tuning.start import settings_for

Rows = dict[str, list[Run]]
Key = TypeVar("Key", bound=Hashable)
HYBRID = "HybridCascade-LaFTer"
TOWER_SEEDS = 6  # the fewest of which a sign test can show a difference at 5%


def settings_of(study: Study, entry: System, **changes: Any) -> Any:
    """A system's settings under a profile: rates times ``rate`` unless they are a release's own, tokens, grids of C."""
    p, config = study.profile, settings_for(entry, study.setting)
    names = {f.name for f in fields(config)}
    follow: dict[str, Any] = {}
    for name in ("lr", "nga_lr"):
        if name in names and not entry.released_rate:
            follow[name] = getattr(config, name) * p.rate
    for name in ("tokens", "prompts"):
        if getattr(config, name, 0):
            follow[name] = p.prompt_tokens
    if "cs" in names:
        follow["cs"] = tuple(p.probe_c)
    return replace(config, **{**follow, **changes})


def layers_of(config: Any) -> str:
    """Which layers of the tower settings name, in words: ``stages 5-7, 8-9, 10-12``; "" where they name none."""

    def ends(layers: Sequence[int]) -> str:
        first, last = layers[0], layers[-1]
        return f"{first}-{last}" if last > first else f"{first}"

    for name in ("stages", "levels"):
        if groups := getattr(config, name, ()):
            return f"{name} {', '.join(map(ends, groups))}"
    if fusion := getattr(config, "fusion", ()) if hasattr(config, "pre") else ():
        return f"layers {ends(fusion)}, by the likeness of {config.pre} and {config.post}"
    return f"layers {ends(config.layers)}" if getattr(config, "layers", ()) else ""


def row(study: Study, name: str, regime: str, config: Any = None, **changes: Any) -> list[Run]:
    """One system under one regime, with every seed, sized as the profile says.

    Where a tower runs at each step of training to convergence it is the first `TOWER_SEEDS` of them.

    Raises:
        ValueError: as `check_images`.
    """
    p, entry = study.profile, find(name)
    if entry.reads != "masks":
        check_images(study)
    config = settings_of(study, entry) if config is None else config
    if entry.reads == "masks":
        chosen_on = max(10, p.n_select // 2)
        if p.mask_steps is not None:  # twenty validations a run, of which each image costs a third of a step's
            chosen_on = min(chosen_on, 300)
        sizes = {"n_train": p.n_masks, "n_val": chosen_on, "n_test": p.n_masks}
        sizes |= {"epochs": p.mask_epochs, "batch_size": p.mask_batch}
    else:
        sizes = {"n_train": p.n_tune, "n_val": p.n_select, "epochs": p.epochs, "batch_size": p.tune_batch}
    sizes["until"] = until(study, entry)
    if regime == "no training":
        sizes |= {"n_train": 0, "n_val": 0, "epochs": 0, "batch_size": 0}
    view = "strong" if regime == "label-free" and entry.reads == "images" else "plain"
    run = Run(name, regime, 0, study.setting, config, **{**sizes, "view": view, **changes})
    if run.until is not None:  # which says how long: a profile's epochs, for others, make no result stale
        run = replace(run, epochs=0)
    few = TOWER_SEEDS if entry.reads != "taps" and run.until is not None else None
    return [replace(run, seed=seed) for seed in study.seeds[:few]]


def check_images(study: Study) -> None:
    """Refuse data whose images no notebook could judge, which would else be found out after training.

    Raises:
        ValueError: masks in the place of classes, or too few test images for an interval.
    """
    dataset = opened(study.setting)[1]
    if not dataset.classes:
        raise ValueError(f"data={study.profile.data} is a set with masks: give it as mask_data, and classes as data.")
    if (n := int((dataset.splits == "test").sum())) < statistics.MIN_IMAGES:
        raise ValueError(
            f"data set {dataset.name!r} has {n} test images, too few for an interval: add some, or give it a split "
            f"with {statistics.MIN_IMAGES} or more."
        )


def check_masks(study: Study) -> None:
    """Refuse masks that no notebook could judge.

    Raises:
        ValueError: the data set cannot be opened, has no masks, or no such split.
    """
    if Path(study.setting.mask_data).is_file():  # before it is read as a table of images
        raise ValueError(f"mask_data is {study.setting.mask_data!r}, a file: give the world or, say, voc:FOLDER.")
    split_or_all(study.setting.mask_split, opened_masks(study.setting))


def untrained_classes(study: Study, material: Material) -> str:
    """A sentence on classes of which the first seed's training images have none; "" where there are no such."""
    drawn = material.draw(study.profile.n_tune, study.seed)
    there = set(material.labels[drawn].tolist())
    names = [name for index, name in enumerate(material.classes) if index not in there]
    if not names:
        return ""
    more = ": give n_tune more" if len(drawn) < len(material.part["train"]) else ""
    return f"None of the {len(drawn)} training images of seed {study.seed} is of {some(names)}{more}."


def until(study: Study, entry: System) -> Convergence | None:
    """How the profile trains a system to convergence; None: it does not, and judges no trained system."""
    p = study.profile
    steps = p.mask_steps if entry.reads == "masks" else p.steps
    if steps is None:
        return None
    more = SCHEDULE if entry.reads == "masks" else {}
    return Convergence(steps, tuple(p.rates or ()), p.doublings, seed=study.seed + 10_000, **more)


def curve(study: Study) -> dict[tuple[str, str, int], list[Run]]:
    """Accuracy against labels: (system, regime, training images) -> runs; without labels, or images, it is 0.

    Systems on cached features stand at each of the profile's ``label_counts`` and at all images; those whose tower runs
    at each step at the second and the last of these counts, with `TOWER_SEEDS`; label-free ones have 2,000 images.
    """
    p, dataset = study.profile, opened(study.setting)[1]
    here = int((dataset.splits == "train").sum())
    counts = [n * len(dataset.classes) for n in p.label_counts or ()]
    found = {}
    for name, entry in registry().items():
        for regime in entry.regimes if entry.reads != "masks" and counts else ():
            cached = entry.reads == "taps"
            if regime == "supervised":
                sizes = sorted({*counts, here}) if cached else sorted({counts[min(1, len(counts) - 1)], counts[-1]})
            else:
                sizes = [0 if regime == "no training" else min(2000, here)]
            for n in (n for n in sizes if n <= here):
                found[name, regime, n] = row(study, name, regime, n_train=n, brief=n != study.profile.n_tune)
    return found


def benchmark(study: Study) -> dict[tuple[str, str], list[Run]]:
    """04: every system for whole images under each of its regimes, (name, regime) -> runs; baselines as wanted."""
    found, wanted = {}, {"none": (), "cached": ("taps",), "all": ("taps", "images")}[study.profile.baselines]
    for name, entry in registry().items():
        for regime in entry.regimes if entry.reads != "masks" and (not entry.baseline or entry.reads in wanted) else ():
            found[name, regime] = row(study, name, regime)
    for job in (("LaFTer", "label-free"),):  # what choosing on the test split, as its release does, would have reported
        found[job][0] = replace(found[job][0], n_watched=300)
    return found


def consistency(study: Study) -> Rows:
    """04: the design with its consistency loss ``on`` and ``off``, at six validations, of whose time it has a third."""
    entry = find(HYBRID)
    sixth = {"epochs": 6, "until": (end := until(study, entry)) and replace(end, checks=6)}
    weights = {"on": HybridCascadeConfig.consistency, "off": 0.0}
    configs = {name: settings_of(study, entry, consistency=weight) for name, weight in weights.items()}
    return {name: row(study, HYBRID, "supervised", config, **sixth) for name, config in configs.items()}


def mask_systems(study: Study) -> dict[tuple[str, str], list[Run]]:
    """05: every system for masks under each of its regimes; where nothing is trained, one run stands for all seeds.

    Raises:
        ValueError: as `check_masks`.
    """
    check_masks(study)
    found = {}
    for name, entry in registry().items():
        for regime in entry.regimes if entry.reads == "masks" else ():
            config = settings_of(study, entry)
            if name in ("Cascade-CLIP", "one decoder, last layer"):
                # 20,000 steps from 0.02 on crops are the release's; a few hundred need matrices that keep a vector's
                # length, and see each image too rarely for another crop of it: after 800 under `reference` Cascade-CLIP
                # reads .51 of the seen classes' validation mIoU, .45 on crops, .07 from 0.02 and .09 from it on crops
                # (.24 at a third of the rate)
                config = replace(config, start=opened(study.setting)[0].embed_dim ** -0.5, augment=False)
            if regime == "transductive" and hasattr(config, "margin"):
                config = replace(config, margin=0.0)
            found[name, regime] = row(study, name, regime, config)[: None if regime != "no training" else 1]
    return found


def mask_arms(study: Study) -> Rows:
    """05: Cascade-CLIP in parts, where the profile wants it: decoders x how the layers that one reads are summed, and
    the released way with the tower's projections in the place of random ones. One decoder that is left the last of its
    layers is the system `one decoder, last layer`, and trained once."""
    if not study.profile.mask_arms:
        return {}
    systems = mask_systems(study)
    whole = systems["Cascade-CLIP", "inductive"][0].config
    levels = {"one decoder": (tuple(whole.layers),), "three decoders": whole.levels}
    configs = {
        f"{decoders}, {kind}": replace(whole, levels=of, nga=kind)
        for decoders, of in levels.items()
        for kind in ("mean", "last", "free")
    }
    configs["the tower's own projections"] = replace(whole, projections="tower")
    arms = {name: row(study, "Cascade-CLIP", "inductive", config) for name, config in configs.items()}
    arms["one decoder, last"] = systems["one decoder, last layer", "inductive"]
    return {f"Cascade-CLIP, {name}": runs for name, runs in arms.items()}


def results_of_arms(study: Study) -> list[dict[str, list[Result]]]:
    """05: what came of `mask_arms`, and behind it of the rows that went on with twice the steps (`reference.stages`).

    Where the profile trains none it is what is committed of the profile ``reference``, of the rows that are complete.
    """
    if study.profile.mask_arms:
        return stages(mask_arms(study), study.committed)
    trained = study.under("reference")
    study.rests_on(sorted(trained.committed.glob("cascade-clip.parquet")))
    return stages(mask_arms(trained), trained.committed, compute=False)


def trained_masks(study: Study) -> dict[tuple[str, str], list[list[Result]]]:
    """05: `mask_systems` as the profile ``reference`` has them, of the rows that are committed: the results at each
    length of training, the longest last; nothing under a profile that trains masks to convergence by itself."""
    if study.profile.mask_steps is not None:
        return {}
    trained = study.under("reference")
    found: dict[tuple[str, str], list[list[Result]]] = {}
    for stage in stages(mask_systems(trained), trained.committed, compute=False):
        for key, row in stage.items():
            found.setdefault(key, []).append(row)
    study.rests_on(sorted({file_of(trained.committed, system) for system, _ in found}))
    return found


def called(run: Run) -> str:
    """A run's system as tables name it: SC-CLIP is *recalibrated* where its settings are not its release's for a tower
    of this depth; the number of neighbours, which follows the patches, and the logit scale, the data's, may differ."""
    config = run.settings
    if not isinstance(config, SCClipConfig):
        return run.system
    release = sc_clip.released(opened(run.setting)[0].layers)
    same = config == replace(release, k=config.k, logit_scale=config.logit_scale)
    return run.system if same else run.system + RECALIBRATED


def released_masks(study: Study) -> Rows:
    """07: what is not trained, each scored as its release scores a data set whose background is a class; else nothing.

    SC-CLIP has the release's settings, whatever the tower's preset says.
    """
    if BACKGROUND not in opened_masks(study.setting).mask_classes:
        return {}
    found, layers = {}, opened(study.setting)[0].layers
    for name in untrained():
        config = settings_of(study, find(name))
        if isinstance(config, SCClipConfig):
            config = replace(sc_clip.released(layers), logit_scale=config.logit_scale)
        found[name] = row(study, name, "no training", config)[:1]
    return found


def untrained() -> list[str]:
    """The systems for masks of which nothing can be trained."""
    return [n for n, entry in registry().items() if entry.reads == "masks" and entry.regimes == ("no training",)]


def whole_images(study: Study) -> dict[tuple[str, str], list[Run]]:
    """05: rows of 04, beside which the mask systems name whole images; one run where nothing is trained."""
    keys = (HYBRID, "supervised"), ("linear probe", "supervised"), ("zero-shot", "no training")
    return {key: row(study, *key)[: None if key[1] != "no training" else 1] for key in keys}


def nga(study: Study) -> dict[str, Rows]:
    """02: the kinds of NGA, and sigma held at several widths, from a classifier that was trained on templates."""
    entry = find(HYBRID)

    def of(**changes: Any) -> list[Run]:
        return row(study, HYBRID, "supervised", settings_of(study, entry, **changes), classifier="templates")

    kinds = {kind: of(nga=kind) for kind in KINDS}
    kinds["gaussian, tenfold rate"] = of(nga_lr=settings_of(study, entry).lr)
    sigmas = {f"{s:g}": of(sigma=s, nga_lr=0.0) for s in sorted({*study.profile.sigmas, 1.0})}
    return {"kinds": kinds, "sigmas": sigmas}


def prompts(study: Study) -> Rows:
    """08: LaFTer with the 50 tokens and the batches of 50 of its release, beside other numbers of tokens and starts.

    One of the starts is the release's, whose bound is that of patches of 16 pixels at any tower. Multi-layer LaFTer's
    prompts start at random, and at zero as in the design. The student's view is plain with labels and strong without
    them, and the other one beside it; the label-free teacher moves with the LayerNorms, and stays. Trained until
    nothing more is gained where the profile does that, else on few images for three epochs; nothing without `n_sweep`.
    """
    p = study.profile
    if p.n_sweep is None:
        return {}
    few = {"n_train": p.n_sweep, "n_val": max(1, p.n_sweep // 2), "n_test": 3 * p.n_sweep, "epochs": 3}
    sizes = few if p.steps is None else {}

    def of(name: str, batch: int = 50, regime: str = "supervised", how: Any = None, **changes: Any) -> list[Run]:
        config = settings_of(study, find(name), **changes)
        return row(study, name, regime, config, batch_size=batch, **sizes, **(how or {}))

    width, _, patch, _ = opened(study.setting)[0].visual.conv1.weight.shape
    starts = {"prompts from zeros": 0.0}
    if patch != 16:
        starts["start for patches of 16 px"] = math.sqrt((3 * patch**2 + width) / (3 * 16**2 + width))
    rows = {f"LaFTer, {t} tokens": of("LaFTer", tokens=t) for t in sorted({*p.token_grid, 50})}
    rows |= {f"LaFTer, 50 tokens, {s}": of("LaFTer", tokens=50, prompt_start=x) for s, x in starts.items()}
    rows["LaFTer, 50 tokens, strong view"] = of("LaFTer", tokens=50, how={"view": "strong"})
    free = {"": {}, ", plain view": {"view": "plain"}, ", frozen teacher": {"moving_teacher": False}}
    rows |= {f"LaFTer, label-free{s}": of("LaFTer", 50, "label-free", how, tokens=50) for s, how in free.items()}
    rows["multi-layer LaFTer"] = of("multi-layer LaFTer", p.tune_batch)
    rows["multi-layer LaFTer, prompts from zeros"] = of("multi-layer LaFTer", p.tune_batch, prompt_start=0.0)
    return rows


def hybrid(study: Study, *, starts: str = "chosen", target: str = "", lam: float = 0.8, **changes: Any) -> list[Run]:
    """The design with some of its settings changed, supervised.

    Args:
        starts, target, lam: the run's ``classifier``, ``target`` and ``lam``.
    """
    config = settings_of(study, find(HYBRID), **changes)
    return row(study, HYBRID, "supervised", config, classifier=starts, target=target, lam=lam)


def ablations(study: Study) -> dict[str, Rows]:
    """08: groups of departures from the design, each row with every seed; ``reference`` is the design itself."""
    p, design = study.profile, settings_of(study, find(HYBRID))
    layers, first, last = design.layers, design.layers[0], design.layers[-1]
    one = f"one stage, {first}-{last}"
    every = range(1, last + 1)

    def parts(of: Sequence[int], count: int) -> list[list[int]]:
        return [part.tolist() for part in np.array_split(np.asarray(of), count)]

    def stages(*of: Sequence[int], **changes: Any) -> list[Run]:
        return hybrid(study, stages=tuple(map(tuple, of)), **changes)

    table = {
        "reference": {"reference": hybrid(study)},
        "NGA (reference: Gaussian, sigma starts at 1)": {
            "plain mean of the stage": hybrid(study, nga="mean"),
            "deepest layer of the stage": hybrid(study, nga="last"),
            "a sigma per layer": hybrid(study, nga="gaussian_per_layer"),
            "free, as Cascade-CLIP's release": hybrid(study, nga="free"),
            **{f"sigma starts at {s:g}": hybrid(study, sigma=s) for s in p.sigmas if s != 1},
        },
        "Adapters, losses (reference: adapters, consistency 0.1)": {
            "no stage adapters": hybrid(study, stage_adapters=False),
            "no adapters, NGA mean": hybrid(study, stage_adapters=False, nga="mean"),
            "no consistency loss": hybrid(study, consistency=0.0),
            "consistency weight 1": hybrid(study, consistency=1.0),
            "distillation weight 0.1": hybrid(study, distillation=0.1),
        },
        "Classifier (reference: shared, fusion learned, unit length)": {
            "a classifier per stage": hybrid(study, classifier="independent"),
            "equal fusion weights": hybrid(study, fusion="equal"),
            "features not normalised": hybrid(study, normalise=False),
        },
        f"Stages (reference: {' | '.join(f'{s[0]}-{s[-1]}' if len(s) > 1 else f'{s[0]}' for s in design.stages)})": {
            one: stages(layers),
            f"{one}, NGA mean": stages(layers, nga="mean"),
            f"four stages of {'two' if len(layers) == 8 else len(layers) // 4}": stages(*parts(layers, 4)),
            "each layer its own stage": stages(*([layer] for layer in layers)),
            f"three stages of 1-{last}": stages(*parts(every, 3)),
            f"layer {last} alone, adapter": stages([last]),
        },
        "No stages: the classifier on one feature": {
            f"mean of layers {first}-{last}": row(study, "mean of layers", "supervised"),
            f"layer {last} alone": row(study, "text classifier, tuned", "supervised"),
        },
        "Start of the classifier (reference: trained on texts)": {
            start: hybrid(study, starts=start)
            for start in ("random, a fresh layer's size", "random, the text-trained one's size")
        },
    }
    table |= targets(study)
    if p.rate != 1:
        own = hybrid(study, lr=HybridCascadeConfig.lr, nga_lr=HybridCascadeConfig.nga_lr)
        table[f"Learning rate (reference: {p.rate:g} times the designs')"] = {"the designs' own": own}
    return table


def targets(study: Study) -> dict[str, Rows]:
    """08: what is aimed at. A wheel needs classes on it, and the posterior a data set that has one beside its votes."""
    dataset = opened(study.setting)[1]
    names = {name.lower() for name in dataset.classes}
    on_wheel = len(names) > 1 and names <= set(MIKELS)
    if not on_wheel and dataset.targets is None:
        return {}  # no distributions: every share gives the same target
    counted = "votes" if dataset.votes is not None else "frequencies" if dataset.targets is not None else "wheel"
    rows = {"hard labels (lambda 0)": hybrid(study, lam=0.0)}
    kinds = {
        "smoothing": "label smoothing, the wheel's entropy", "wheel": "the wheel",
        "polarity": "the wheel, own polarity alone", "shuffled": "the wheel, shuffled",
    }  # fmt: skip
    for kind, name in kinds.items() if on_wheel else ():
        whole = len(names) == len(MIKELS)  # a part of the ring cannot be shuffled
        if kind != counted and (whole or kind != "shuffled"):
            rows[name] = hybrid(study, target=kind)
    shares = (x for x in study.profile.lambdas if x not in (0.0, 0.8))
    rows |= {f"{counted}, lambda {x:g}": hybrid(study, lam=x) for x in shares}
    if dataset.scored_by != dataset.aimed_at:
        rows["posterior, lambda 0.8 (privileged)"] = hybrid(study, target="posterior")
    return {f"Target (reference: {counted}, lambda 0.8)": rows}


def few_labels(study: Study) -> Rows:
    """08: where overfitting shows: 16 images per class, 150 at most, with one classifier, one per stage, and no
    consistency loss."""
    dataset = opened(study.setting)[1]
    n = min(16 * len(dataset.classes), 150, int((dataset.splits == "train").sum()))
    kinds = {"classifier shared": {}, "classifier independent": {"classifier": "independent"}}
    kinds["no consistency loss"] = {"consistency": 0.0}
    return {f"{HYBRID}, {k}": [replace(r, n_train=n) for r in hybrid(study, **c)] for k, c in kinds.items()}


def labels(study: Study) -> dict[tuple[str, int], list[Run]]:
    """08: the design and its rivals with a quarter of the labels, with those of the other tables, and with all.

    With none stands the text classifier as it comes.
    """
    here = int((opened(study.setting)[1].splits == "train").sum())
    sizes = sorted({n for n in (study.profile.n_tune // 4, min(study.profile.n_tune, here), here) if n > 0})
    names = (HYBRID, "text classifier, tuned", "linear probe")
    untuned = {("text classifier", 0): row(study, "text classifier", "no training")}
    return {(name, n): row(study, name, "supervised", n_train=n) for name in names for n in sizes} | untuned


def alignment(study: Study) -> dict[tuple[int, float], list[Run]]:
    """06: a stage of a middle layer and the deepest, sigma held at 1 and at 2: (middle layer, sigma) -> runs."""
    *middle, deepest = settings_of(study, find(HYBRID)).layers
    held = {"starts": "templates", "nga_lr": 0.0}
    return {(m, s): hybrid(study, stages=((m, deepest),), sigma=s, **held) for m in middle for s in (1.0, 2.0)}


def distilled(study: Study) -> dict[int, list[Run]]:
    """06: the stages of `alignment`, sigma held at 1, drawn towards the frozen tower: middle layer -> runs."""
    *middle, deepest = settings_of(study, find(HYBRID)).layers
    held = {"starts": "templates", "nga_lr": 0.0, "distillation": 0.1}
    return {m: hybrid(study, stages=((m, deepest),), **held) for m in middle}


# Where variants of one system are compared, which differ by less than what a rate chosen by a single seed may cost, all
# seeds choose: `results_of_variants`.
VARIANTS: dict[str, Callable[[Study], list[Run]]] = {
    "02-nga-weights": lambda study: _flat(*nga(study).values()),
    "04-full-training": lambda study: _flat(consistency(study)),
    "06-cka-alignment": lambda study: _flat(alignment(study), distilled(study)),
    "08-ablations": lambda study: _flat(*ablations(study).values(), few_labels(study), labels(study)),
}
NOTEBOOKS: dict[str, Callable[[Study], list[Run]]] = {
    "02-nga-weights": VARIANTS["02-nga-weights"],
    "04-full-training": lambda study: [*_flat(benchmark(study), curve(study)), *VARIANTS["04-full-training"](study)],
    "05-cascade-vs-hybrid": lambda study: _flat(mask_systems(study), mask_arms(study), whole_images(study)),
    "06-cka-alignment": VARIANTS["06-cka-alignment"],
    "07-sc-clip-diagnostics": lambda study: _flat(released_masks(study)),
    "08-ablations": lambda study: [*VARIANTS["08-ablations"](study), *_flat(prompts(study))],
}


def _flat(*tables: Mapping[Any, Sequence[Run]]) -> list[Run]:
    return [run for table in tables for row in table.values() for run in row]


def compute(profile: str, overrides: Mapping[str, Any], notebooks: Sequence[str], progress: bool = True) -> None:
    """Compute every run that these notebooks need and the store lacks; the notebooks then only read.

    What cannot be planned or computed is printed, and left to the notebook that needs it: it fails by itself, where it
    can be seen, and the others run.

    Raises:
        ValueError: as `check_images` and `check_masks`, of what the notebooks read.
    """
    if reads := [name for name in notebooks if name not in ("07-sc-clip-diagnostics", "09-report")]:
        check_images(Study(reads[0], profile, overrides))
    if reads := [name for name in notebooks if name in ("05-cascade-vs-hybrid", "07-sc-clip-diagnostics")]:
        check_masks(Study(reads[0], profile, overrides))
    asked: dict[Study, list[Run]] = {}
    for name in (name for name in notebooks if name in NOTEBOOKS):
        try:
            study = Study(name, profile, overrides)
            asked[study] = NOTEBOOKS[name](study)
        except ValueError as error:
            print(f"{name}: {error}")
    try:
        runs = [run for of in asked.values() for run in of]
        for folder in {study.committed for study in asked}:
            adopt(_with_trials(runs), folder)
        get(missing(runs), progress=progress)  # what is there is left to its notebook to read
        for study, of in asked.items():
            _later(study, of, progress=progress)
    except ValueError as error:
        print(error)


def _rows(runs: Iterable[Run]) -> dict[Run, list[Run]]:
    """Runs that may go on (`reference.further`), those alike but for their seeds together."""
    rows: dict[Run, list[Run]] = {}
    for run in filter(may_go_on, dict.fromkeys(runs)):
        rows.setdefault(replace(run, seed=0), []).append(run)
    return rows


def _later(study: Study, runs: Iterable[Run], **how: Any) -> list[Run]:
    """Runs that come after a notebook's: of `VARIANTS` those at other rates, see `reference.at_best_rates`, and of all
    rows those with which they go on, see `reference.stages`."""
    rows, at = _rows(runs), study.notebook
    variants = {key: rows.pop(key) for key in (_rows(VARIANTS[at](study)) if at in VARIANTS else ()) if key in rows}
    chosen, tried = at_best_rates(variants, study.committed, **how)
    found = stages(rows | chosen, study.committed, **how)
    return [*tried, *(result.run for stage in found for row in stage.values() for result in row)]


def _at_the_end(runs: Iterable[Run]) -> list[Run]:
    """Runs, and in the place of those of a row that went on the ones that it came to."""
    runs = list(runs)
    ended = to_the_end(rows := _rows(runs), compute=False)
    went = {run for key in ended for run in rows[key]}
    return [*(run for run in runs if run not in went), *(r.run for row in ended.values() for r in row)]


def _with_trials(runs: Sequence[Run]) -> list[Run]:
    trials = (run.trial(*pair) for run in runs if run.to_choose for pair in run.to_choose.trials)
    return list(dict.fromkeys([*runs, *trials]))


@commands.answers
def main(argv: Sequence[str] | None = None) -> int:
    """``python -m hc_lafter runs``: compute a profile's runs without a notebook, or list them."""
    given = commands.runs().parse_args(argv)
    try:
        return _main(given)
    except KeyboardInterrupt:
        print("Stopped: what was done is kept, and the rest goes on from its checkpoints.", file=sys.stderr)
        return 130


def _main(given: argparse.Namespace) -> int:
    overrides = parse_overrides(given.param)
    known = {name[:2]: name for name in NOTEBOOKS} | {name: name for name in NOTEBOOKS}
    foreign = [name for name in given.only or () if name not in known]
    if foreign:
        raise ValueError(f"notebook {foreign[0]!r} needs no runs: choose of {', '.join(NOTEBOOKS)}.")
    if given.yes and not given.prune:
        raise ValueError("--yes goes with --prune: it deletes what --prune alone prints.")
    if given.commit and overrides:
        raise ValueError("--commit keeps what a profile says by itself: leave --param out.")
    if given.only and given.prune:
        raise ValueError("--prune with --only would take other notebooks' runs for surplus: leave --only out.")
    names = dict.fromkeys(known[name] for name in given.only or NOTEBOOKS)
    studies = [Study(name, profile, overrides) for profile in given.profile for name in names]
    planned = {study: NOTEBOOKS[study.notebook](study) for study in studies}
    if given.systems:
        wanted = {find(name).name for name in given.systems}
        planned = {study: [run for run in of if run.system in wanted] for study, of in planned.items()}
    rows = [{"notebook": study.notebook, "run": run, "study": study} for study, of in planned.items() for run in of]
    table = pd.DataFrame(rows, columns=["notebook", "run", "study"]).drop_duplicates("run")
    if given.prune:
        asked = [run for study, of in planned.items() for run in _later(study, of, compute=False)]
        return _prune(studies[0].cache, _with_trials([*table["run"], *asked]), given.yes)
    adopted = sum(adopt(_with_trials(table["run"]), folder) for folder in {study.committed for study in studies})
    lacking = set(missing(list(table["run"])))
    if given.export:
        there = [run for run in table["run"] if run not in lacking]
        if not there:
            raise ValueError(f"none of the {len(table)} runs is there to be exported: compute them without --export.")
        export(_at_the_end(there), given.export)
        print(f"{len(there)} of {len(table)} runs are in {given.export}.")
        return 0
    if given.list:
        failed = {run: why for run in lacking if (why := failure(run))}
        states = {run: f"failed: {failed[run]}" if run in failed else "no" for run in lacking}
        table["there"] = [states.get(run, "yes") for run in table["run"]]
        print(table.drop(columns="study").to_string(index=False))
        names, columns = {run.system for run in lacking}, ["system", "n_train", "device", "seconds"]
        done = pd.concat([read(folder, names, columns) for folder in {study.committed for study in studies}])
        hours = sum(_seconds(run, done) for run in lacking) / 3600
        print(
            f"{len(table) - len(lacking)} of {len(table)} runs are there; the rest takes about {hours:.1f} core hours, "
            "and more where learning rates are tried or a system still gains at the end."
        )
    else:
        get(list(table["run"]), scheduler=given.scheduler)
        for study, of in planned.items():
            _later(study, of, scheduler=given.scheduler)
        print(f"{len(table)} runs are there, {adopted} of them read from the repository, {len(lacking)} computed now.")
    for folder in {study.committed for study in studies} if given.commit else ():
        here = {study: of for study, of in planned.items() if study.committed == folder}
        kept = _to_commit(here)
        points = set(_at_the_end(run for study in here for run in _flat(curve(study))))
        absent = set(missing(kept))
        files = write(get([run for run in kept if run not in absent]), folder, points)
        print(f"{len(files)} files are in {folder}.")
    return 0


def _seconds(run: Run, done: pd.DataFrame) -> float:
    """About how long a run takes on a core: as long as those did that are committed of its system, of as many images
    where there are any, and `Run.cost` where none has run on a CPU."""
    if done.empty:
        return run.cost
    alike = done[done["system"].eq(run.system) & done["device"].eq("cpu")]
    same = alike[alike["n_train"] == run.n_train]
    return run.cost if alike.empty else (alike if same.empty else same)["seconds"].mean()


def _to_commit(planned: Mapping[Study, Sequence[Run]]) -> list[Run]:
    """Every run of these, those that came after them and all their trials; of 02, 06 and 08 the trials alone: from
    these half an hour computes their hundreds of rows, whose logits are a hundred megabytes."""
    every = {study: [*of, *_later(study, of, compute=False)] for study, of in planned.items()}
    whole = {run for study, of in every.items() if study.notebook[:2] not in ("02", "06", "08") for run in of}
    runs = _with_trials([run for of in every.values() for run in of])
    return [run for run in runs if run in whole or run.n_test == 0]


def _prune(cache: Path, asked: Sequence[Run], delete: bool) -> int:
    found, rows = surplus(cache, asked), []
    for key, files in found.items():
        times = cache / "runs" / f"{key}.json"
        name = json.loads(times.read_text(encoding="utf-8"))["name"] if times.is_file() else "unfinished"
        rows.append({"run": name, "files": len(files), "MB": sum(path.stat().st_size for path in files) / 1e6})
    table = pd.DataFrame(rows, columns=["run", "files", "MB"])
    if found:
        print(table.to_string(index=False, float_format="%.2f"))
    size = f"{len(found)} runs, {table['files'].sum()} files, {table['MB'].sum():.1f} MB"
    print(f"{size} in {cache / 'runs'} are asked for by no run of the profiles given.")
    if delete:
        busy = sum(not discard(cache, key) for key in found)
        print(f"{len(found) - busy} deleted{f', {busy} left alone: another process is at work on them' * (busy > 0)}.")
    elif found:
        print("Nothing was deleted: add --yes for that.")
    return 0


# --- what came of them ---


def export(runs: Sequence[Run], folder: Path) -> None:
    """Write what runs that are there have left as Parquet tables (zstd), for other programs.

    ``predictions/SYSTEM.parquet`` has what `save_predictions` does, a row per run and test image, and
    ``masks/SYSTEM.parquet`` pixel counts per run, test image and class, see `hc_lafter.analysis.segmentation.counts`.
    ``runs.parquet`` has a row per run, with all that it is, and ``history.parquet`` one per optimiser step and one per
    epoch. The column ``run``, the first digits of a run's key, joins them: runs of one system may differ in settings.

    Raises:
        OSError: the folder cannot be written.
    """

    def write(name: str, table: pd.DataFrame) -> None:
        write_whole(folder / name, lambda path: table.to_parquet(path, index=False, compression="zstd"))

    files: dict[str, list[Run]] = {}
    for run in runs:
        kind = "masks" if run.entry.reads == "masks" else "predictions"
        files.setdefault(f"{kind}/{re.sub(r'[^a-z0-9]+', '-', run.system.lower()).strip('-')}.parquet", []).append(run)
    described, histories = [], []
    for name, same_file in files.items():
        tables = []
        for run in same_file:
            (result,), key = get([run], scheduler="none", progress=False), {"run": run.key[:12]}
            same = key | {f: getattr(run, f) for f in ("system", "regime", "seed", "n_train")}
            tables.append((_pixels if name.startswith("masks") else _predictions)(result).assign(**same))
            plain = {f.name: getattr(run, f.name) for f in fields(run) if f.name not in ("config", "setting")}
            history = result.history
            plain |= {"config": repr(run.settings), "setting": repr(run.setting), "seconds": result.seconds}
            described.append(key | plain | {"best_epoch": history.best_epoch, "diverged": history.diverged})
            for kind, rows in (("step", history.steps), ("epoch", history.epochs)):
                histories += [same | {"kind": kind} | row for row in rows]
        table = pd.concat(tables)
        write(name, table[[*same, *table.columns[: -len(same)]]])
    write("runs.parquet", pd.DataFrame(described))
    write("history.parquet", pd.DataFrame(histories))


def _predictions(result: Result, material: Material | None = None) -> pd.DataFrame:
    """A row per test image: its id, its label, and a probability for each class (softmax of the logits)."""
    material = gather(result.run.setting) if material is None else material
    at, classes = images(material, result.run, "test"), np.asarray(material.classes)
    table = pd.DataFrame(softmax64(result.test).astype("float32"), columns=classes)
    table.insert(0, "id", np.asarray(material.dataset.ids)[at])
    table.insert(1, "label", classes[material.labels[at]])
    return table


def _pixels(result: Result) -> pd.DataFrame:
    """A row per test image and class."""
    run, counts = result.run, result.arrays["counts"]
    scenes = opened_masks(run.setting)
    ids = np.asarray(scenes.ids)[masks.draw(scenes, "test", run.n_test or len(scenes), 0)]
    index = pd.MultiIndex.from_product([ids, scenes.mask_classes], names=["id", "class"])
    columns = ["intersection", "predicted", "truth"]
    return pd.DataFrame(counts.reshape(-1, 3), index=index, columns=columns).reset_index()


def results(plan: Mapping[Key, Sequence[Run]]) -> dict[Key, list[Result]]:
    """The results of a plan's rows, trained to the end where the profile does that (`reference.to_the_end`)."""
    return to_the_end(plan)


def results_of_variants(plan: Mapping[Key, Sequence[Run]]) -> dict[Key, list[Result]]:
    """`results` of variants of a system, at rates that all seeds have chosen where the profile chooses any
    (`reference.at_best_rates`)."""
    return to_the_end(at_best_rates(plan)[0])


def images(material: Material, run: Run, split: str) -> np.ndarray:
    """Indices of a run's images: ``train``, which it was tuned on; ``val``, which chose its epoch; ``test``."""
    if split == "train":
        return material.draw(run.n_train, run.seed)
    if split == "val":
        return material.draw(run.n_val, 0, "val") if run.n_val else material.part["val"]
    return material.part["test"] if run.n_test is None else material.draw(run.n_test, run.setting.seed, "test")


def outputs(found: Sequence[Result], name: str = "test") -> np.ndarray:
    """Logits [S, n, C] of the runs of a row; [n, C] of one run, or of several between which no seed makes a difference.

    Args:
        name: of `Result.arrays`.
    """
    logits = np.stack([result.arrays[name] for result in found])
    untrained = found[0].run.regime == "no training"
    return logits[0] if len(found) == 1 or (untrained and (logits == logits[0]).all()) else logits


def hits(material: Material, found: Sequence[Result], name: str = "test") -> np.ndarray:
    """Which images each run of a row names correctly, [S, n] or [n] as `outputs`; ``train`` is each seed's own."""
    labels, split = material.labels.numpy(), name.split()[0]
    if split == "train":
        right = [r.arrays[name].argmax(-1) == labels[images(material, r.run, split)] for r in found]
        return np.stack(right) if len(right) > 1 else right[0]
    return outputs(found, name).argmax(-1) == labels[images(material, found[0].run, split)]


def settled(*rows: Sequence[Result]) -> bool | None:
    """Whether each of some rows of runs had ceased to gain (`reference.gained_no_more`); None where one was not trained
    until then."""
    each = [gained_no_more(row) for row in rows]
    return None if None in each else all(each)


def judged(table: pd.DataFrame, behind: Iterable[Iterable[Sequence[Result]]]) -> pd.DataFrame:
    """A table with ``converged`` of the rows of runs behind each of its rows, those that are trained until they no
    longer gain; a difference of one that still gained has no verdict but that."""
    trained = [[row for row in rows if gained_no_more(row) is not None] for rows in behind]
    table = table.assign(converged=[settled(*rows) if rows else None for rows in trained])
    if "verdict" in table:
        table["verdict"] = table["verdict"].mask(table["converged"].eq(False), "not converged")
    return table


def with_runs(table: pd.DataFrame, found: Mapping[Key, Sequence[Result]]) -> pd.DataFrame:
    """A table of estimates or differences with ``n_train`` and ``converged`` of the runs behind each row.

    ``converged`` as `settled`: of a difference, the runs of both systems.
    """
    sides = [table[side] for side in ("system", "minus") if side in table]
    behind = [[found[side[i]] for side in sides] for i in table.index]
    n_train = [rows[0][0].run.n_train for rows in behind]
    return table.assign(n_train=n_train, converged=[settled(*rows) for rows in behind])


def steadier(material: Material, ours: Sequence[Result], theirs: Sequence[Result]) -> list[dict[str, Any]]:
    """Records of how many times as much as another row of runs one varies over the same seeds, in standard deviations.

    Of the smoothed task loss (`learning.late_mean`) and of test accuracy; none of what does not vary, nor where a run
    diverged.
    """
    few, found = min(len(ours), len(theirs)), []
    both = ours[:few], theirs[:few]
    if any(result.history.diverged for row in both for result in row):
        return found
    loss = [learning.late_mean([r.history.steps for r in row]) for row in both]
    right = [hits(material, row).mean(axis=-1) for row in both]
    for split, of, values in (("train", "the smoothed task loss", loss), ("test", "test accuracy", right)):
        if all(np.ptp(x) > 0 for x in values):
            about = {"metric": f"sd over seeds of {of}", "split": split, "converged": settled(*both)}
            found.append({**about, **statistics.ratio_of_spreads(*values)})
    return found


def save_predictions(study: Study, material: Material, found: Mapping[Any, Sequence[Result]]) -> Path:
    """``predictions.parquet`` beside ``metrics.json``: what every run says of every test image.

    A row per system, regime, seed and image: its id, its label, and a probability for each class (softmax of the
    logits), as `hc_lafter.systems.Trained.predict` gives them.
    """
    named = ("system", "regime", "seed")
    each = [result for row in found.values() for result in row]
    table = pd.concat([_predictions(r, material).assign(**{n: getattr(r.run, n) for n in named}) for r in each])
    table = table[[*named, *table.columns[: -len(named)]]]
    path = study.results / "predictions.parquet"
    return write_whole(path, lambda temporary: table.to_parquet(temporary, index=False, compression="zstd"))


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A table over (name, regime) as `Study.add` takes it, the regime in a column of its own.

    What is not trained, or stands for any regime (``""``), has none. An opponent keeps its regime in its name where
    the two differ.
    """
    names, regimes = zip(*table["system"], strict=True)
    found = table.assign(system=names, regime=[None if regime in ("", "no training") else regime for regime in regimes])
    if "minus" in table:
        against = zip(table["minus"], regimes, strict=True)
        found["minus"] = [b if other in (mine, "", "no training") else f"{b}, {other}" for (b, other), mine in against]
    return found
