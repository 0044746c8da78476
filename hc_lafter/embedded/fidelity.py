"""How like a real CLIP the embedded one is: ``hc-lafter fidelity [NAME=MODEL.safetensors ...] --out DIR``.

A stand-in has to have the shape of what it stands for: describe a picture well, hear of emotions seldom, be lifted by
labels. `fidelity.yaml` holds the facts, their bands and what was published of real CLIPs; here they are measured, for
one training seed or several, on a world that neither training nor any choice has touched. ``fidelity.json`` keeps the
numbers; card and figure are made of it alone.

n images, L layers, C emotions, K mask classes, N patches, W tower width, D embedding size, R resamples, S label draws.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from hc_lafter import commands
from hc_lafter.analysis import segmentation, statistics
from hc_lafter.analysis.probe import linear_probe
from hc_lafter.analysis.tokens import summarise_norms, token_norms
from hc_lafter.clip.descriptions import load_descriptions
from hc_lafter.clip.load import Clip, load_clip
from hc_lafter.clip.text import encode_texts
from hc_lafter.clip.vit import project
from hc_lafter.data.record import SPLITS
from hc_lafter.data.world import grammar, painter, scene
from hc_lafter.data.world.dataset import World, visible_classes
from hc_lafter.embedded.cards import read, verdict, write_card
from hc_lafter.embedded.figure import write_figure
from hc_lafter.embedded.measure import (
    CHUNK,
    CLASSES,
    average_precision,
    emotion_text,
    found,
    maps,
    named,
    object_text,
    visible,
)
from hc_lafter.files import processor, versions, write_whole
from hc_lafter.systems.masks import enlarge, mask_logits
from hc_lafter.systems.sc_clip import PRESETS, SCClip, SCClipConfig, Taps
from hc_lafter.tuning.features import tap
from hc_lafter.tuning.masks import patch_shares

# Notebooks draw their world from seed 0, pretraining from 1000, and decisions of its development were made on 2000.
WORLD_SEED = 3000
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PATCH_CS = (1e-3, 1e-2, 1e-1, 1.0)
SHOTS = (1, 2, 4, 8, 16, 32, 64, 250)  # labels per class; the whole pool comes last
ATTRIBUTES = ("setting", "tone", "sky", "back", "weather")
FOREGROUND = tuple(name for name in scene.TABLES["front"] if name != "none")


@dataclass(frozen=True)
class Sizes:
    """How much is measured with.

    Attributes:
        train, val, test: images of each split; C is chosen on ``val``, nothing on ``test``.
        masks: test images whose masks are scored.
        pixels: training images whose patches the patch probe learns from; a quarter as many of ``val`` choose for it.
        attributes: labels of each attribute's probe. layers: labels per class of the probe at each layer.
        captions: test images, and captions, of the retrieval.
        draws: draws of the labelled images at each point of the label curve.
        resamples: of the bootstrap.
    """

    train: int = 8000
    val: int = 1000
    test: int = 4000
    masks: int = 1000
    pixels: int = 1000
    attributes: int = 3000
    layers: int = 250
    captions: int = 500
    draws: int = 10
    resamples: int = 1000


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval over what it ``covers``; infinite where the probe never overtakes, NaN for none."""

    value: float
    low: float
    high: float
    n: int
    covers: str = "test images"


class Held:
    """The held-out world: what every CLIP is measured on, drawn once.

    Attributes:
        world: all three splits. part: split -> positions in it.
        masks: [B, H, W] uint8 of all B images. visible: [B, K] bool, the classes that can be seen.
        captions: a full caption of each of the first test images.
    """

    def __init__(self, sizes: Sizes, seed: int = WORLD_SEED, side: int = 64):
        self.sizes = sizes
        self.world = World(sizes.train, sizes.val, sizes.test, side=side, seed=seed)
        self.labels = self.world.labels
        self.part = {split: np.flatnonzero(self.world.splits == split) for split in SPLITS}
        bar = tqdm(range(len(self.world)), desc="drawing the held-out world", unit="image")
        self.masks = np.stack([self.world[i].mask for i in bar])
        self.visible = visible(self.masks)
        self.captions = [self._caption(i) for i in self.part["test"][: sizes.captions]]

    def _caption(self, index: int) -> str:
        """All that can be seen in one sentence, whatever the captions of training leave out."""
        rng = np.random.default_rng(self.world._keys[index])
        drawn, colours = scene.draw_scene(rng), painter.draw_colours(rng)
        wording = np.random.default_rng((self.world.seed, 9, index))
        shown = visible_classes(self.masks[index])
        return grammar.caption(shown, drawn.attributes, colours, wording, drop=0.0, whole=True)[0]

    @cached_property
    def dense(self) -> dict[str, np.ndarray]:
        """Positions of the images whose patches are wanted."""
        wanted = {"train": self.sizes.pixels, "val": max(1, self.sizes.pixels // 4), "test": self.sizes.masks}
        return {split: self.part[split][:n] for split, n in wanted.items()}

    def ceiling(self) -> Estimate:
        """Top-1 of the best reader of the scenes: the exact posterior's argmax."""
        test = self.part["test"]
        return _mean(self.world.distributions[test].argmax(1) == self.labels[test], self.sizes)


@dataclass(frozen=True)
class Encoded:
    """One CLIP's features of the held-out world: cls [B, L, W], final [B, D]; patches of `Held.dense` by split.

    ``patches`` are [b, L, N, W] for test and [b, 2, N, W], those of the last two layers, for train and val.
    """

    cls: Tensor
    final: Tensor
    patches: Mapping[str, Tensor]
    grid: tuple[int, int]


def encode(clip: Clip, held: Held) -> Encoded:
    """Every image through the tower once."""
    world, every = held.world, range(1, clip.layers + 1)
    cls, final = torch.empty(len(world), clip.layers, clip.width), torch.empty(len(world), clip.embed_dim)
    plain = np.setdiff1d(np.arange(len(world)), np.concatenate(list(held.dense.values())))
    patches, grid = {}, None
    for split, at in [*held.dense.items(), (None, plain)]:
        if not len(at):
            continue
        tapped = tap(clip, world.subset(at), layers=every, patches=split is not None, batch_size=32)
        cls[at], final[at] = tapped.cls, tapped.final
        if split is not None:
            patches[split] = tapped.patches if split == "test" else tapped.patches[:, -2:].clone()
            grid = tapped.grid
    return Encoded(cls, final, patches, grid)


@torch.inference_mode()
def measure(clip: Clip, held: Held, *, descriptions: str) -> dict[str, Any]:
    """All that `fidelity.yaml` asks for.

    Args:
        clip: on the CPU, with the embedded tower's geometry.
        held: the images.
        descriptions: source of the prose, see `hc_lafter.clip.descriptions.load_descriptions`.

    Returns:
        ``measured``: measure -> `Estimate`; ``curve``: a row of labels per class, value, low and high per point;
        ``layers``: zero-shot and probe per layer; ``iou``: value path, per class; ``chosen``: what validation chose.

    Raises:
        ValueError: sizes too small for an interval or a probe, or descriptions that cannot be read.
    """
    seen, sizes, test = encode(clip, held), held.sizes, held.part["test"]
    shared = project(clip.visual, seen.cls).numpy()
    out: dict[str, Any] = {"measured": {}, "chosen": {}}
    zero_shot = _by_names(clip, held, shared, descriptions, out)
    _by_labels(held, shared, zero_shot, out)
    _attributes(held, seen.cls[:, -1].numpy(), out)
    out["measured"]["retrieval"] = _mean(found(clip, seen.final[test], held.captions), sizes)  # F5
    _masks(clip, held, seen, out)
    return out


# --- emotions, asked by name and read with labels ---


def _by_names(clip: Clip, held: Held, shared: np.ndarray, descriptions: str, out: dict) -> np.ndarray:
    """F1, F7 and the zero-shot half of F6; shared is [B, L, D]. Returns where the last layer was right, [n] bool."""
    test, classes, sizes = held.part["test"], held.world.classes, held.sizes
    truth, last, by_name = held.labels[test], shared[test, -1], emotion_text(clip)
    layers = np.stack([named(shared[test, i], by_name, truth) for i in range(clip.layers)])
    prose = encode_texts(clip, classes, "descriptions", descriptions=load_descriptions(descriptions, classes))
    by_prose = named(last, prose.means(), truth)
    bare = named(last, encode_texts(clip, classes, "names").means(), truth)
    out["measured"] |= {
        "zero-shot": _mean(layers[-1], sizes),
        "descriptions": _mean(by_prose, sizes),
        "names": _mean(bare, sizes),
        "descriptions - names": _difference(by_prose, bare, sizes),
        **_by_depth("zero-shot", layers, sizes),
    }
    out["layers"] = {"zero-shot": [asdict(_mean(row, sizes)) for row in layers]}
    return layers[-1]


def _by_labels(held: Held, shared: np.ndarray, zero: np.ndarray, out: dict) -> None:
    """F2, F3 and the probe half of F6; shared is [B, L, D], zero [n] bool of `_by_names`."""
    sizes, labels, classes = held.sizes, held.labels, len(held.world.classes)
    train, val, test = (held.part[split] for split in SPLITS)

    def right(at: np.ndarray, layer: int = -1) -> np.ndarray:
        x = shared[:, layer]
        probe = linear_probe(x[at], labels[at], x[val], labels[val], x[test], cs=CS, classes=classes)
        return probe.prediction == labels[test]

    draws = [_in_turn(labels[train], np.random.default_rng((WORLD_SEED, 8, d))) for d in range(sizes.draws)]
    least = min(np.bincount(labels[train], minlength=classes))
    shots = [k for k in SHOTS if k <= least]
    if not shots:
        raise ValueError(f"{len(train)} training images leave a class without a label: give more, 8,000 say.")
    jobs = tqdm([(k, d) for k in shots for d in range(sizes.draws)], desc="label curve", unit="probe", leave=False)
    fits = [right(train[draws[d] < k]) for k, d in jobs]
    whole = right(train)
    curve = np.concatenate([np.reshape(fits, (len(shots), sizes.draws, -1)), np.tile(whole, (1, sizes.draws, 1))])
    at = [*map(float, shots), len(train) / classes]
    weights = _resample(len(test), sizes.draws, sizes.resamples)
    means = np.stack([_means(rows, weights) for rows in curve], axis=1)  # [R, points]
    zeros = _means(zero[None], (np.ones((sizes.resamples, 1)), weights[1]))
    crossings = [crossing(at, *row) for row in zip(means, zeros, strict=True)]
    value = crossing(at, curve.mean(axis=(1, 2)), zero.mean())
    covers = "test images and draws of the labelled images"
    out["measured"] |= {
        "probe": _mean(whole, sizes),
        "probe - zero-shot": _difference(whole, zero, sizes),
        "crossing": _percentiles(value, crossings, len(test), covers),
    }
    points = [_percentiles(rows.mean(), m, len(test), covers) for rows, m in zip(curve, means.T, strict=True)]
    points[-1] = out["measured"]["probe"]  # one draw: the whole pool
    out["curve"] = [{"labels per class": k, **asdict(point)} for k, point in zip(at, points, strict=True)]

    few = train[draws[0] < min(sizes.layers, least)]
    depth = tqdm(range(shared.shape[1]), desc="probe by layer", unit="layer", leave=False)
    layers = np.stack([right(few, layer) for layer in depth])
    out["measured"] |= _by_depth("probe", layers, sizes)
    out["layers"] |= {"probe": [asdict(_mean(row, sizes)) for row in layers], "labels": len(few)}


def crossing(shots: Sequence[float], accuracy: Sequence[float], level: float) -> float:
    """Labels per class from which on a curve stays above a level, between two points linear in the logarithm.

    The first number of labels where the curve is never below (the true one may be smaller), infinity where it ends
    below.
    """
    below = np.flatnonzero(np.asarray(accuracy) <= level)
    if not len(below):
        return float(shots[0])
    i = int(below[-1])
    if i == len(shots) - 1:
        return math.inf
    share = (level - accuracy[i]) / (accuracy[i + 1] - accuracy[i])
    return float(shots[i] * (shots[i + 1] / shots[i]) ** share)


def _in_turn(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n] how many of its class come before each image in a random order: below k are k of each class, nested in k."""
    turn = np.empty(len(labels), np.int64)
    for c in np.unique(labels):
        at = np.flatnonzero(labels == c)
        turn[rng.permutation(at)] = np.arange(len(at))
    return turn


def _by_depth(reader: str, right: np.ndarray, sizes: Sizes) -> dict[str, Estimate]:
    """Rank correlation with the layer, and what the best layer has over the last; right is [L, n] bool."""
    n = right.shape[1]
    _, images = _resample(n, 1, sizes.resamples)
    means = np.concatenate([right.mean(axis=1)[None], images @ right.T.astype(np.float64) / n])  # the first: as it is
    rho = statistics.rank_correlation(means, np.arange(len(right)))
    lead = means.max(axis=1) - means[:, -1]
    return {
        f"{reader} by depth": _percentiles(rho[0], rho[1:], n),
        f"{reader}, best - last": _percentiles(lead[0], lead[1:], n),
    }


# --- what is in the picture ---


def _attributes(held: Held, cls: np.ndarray, out: dict) -> None:
    """F4 on the last layer's CLS [B, W]. An expression is asked of pictures with a person that can be seen."""
    sizes = held.sizes
    person = held.visible[:, CLASSES.index("person")]

    def fit(y: np.ndarray, among: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        train, val, test = (at[among[at]] for at in (held.part[split] for split in SPLITS))
        train = train[: sizes.attributes]
        probe = linear_probe(cls[train], y[train], cls[val], y[val], cls[test], cs=CS, classes=classes)
        return probe.probabilities, y[test]

    for name in tqdm((*ATTRIBUTES, "face"), desc="attributes", unit="probe", leave=False):
        values = [attributes[name] for attributes in held.world.attributes]
        known, y = np.unique(values, return_inverse=True)
        among = person & (np.array(values) != "none") if name == "face" else np.ones(len(y), bool)
        probabilities, truth = fit(y, among, len(known))
        key = "expression" if name == "face" else name
        out["measured"][key] = _mean(probabilities.argmax(1) == truth, sizes)

    _, images = _resample(len(held.part["test"]), 1, sizes.resamples)
    whole, drawn = [], []
    for name in tqdm(FOREGROUND, desc="foreground objects", unit="probe", leave=False):
        present = held.visible[:, CLASSES.index(name)]
        if any(len(np.unique(present[at])) < 2 for at in (held.part["train"][: sizes.attributes], held.part["test"])):
            continue  # never seen, or always: no precision
        probabilities, truth = fit(present.astype(np.int64), np.ones(len(present), bool), 2)
        whole.append(average_precision(probabilities[:, 1], truth, np.ones((1, len(truth))))[0])
        drawn.append(average_precision(probabilities[:, 1], truth, images))
    if not whole:
        raise ValueError("no foreground object is in some of the pictures and not in others: give more images.")
    out["measured"]["foreground"] = _percentiles(np.mean(whole), np.nanmean(drawn, axis=0), images.shape[1])


# --- masks ---


def _masks(clip: Clip, held: Held, seen: Encoded, out: dict) -> None:
    """F8 to F11."""
    sizes, objects, grid, at = held.sizes, object_text(clip), seen.grid, held.dense["test"]
    known = torch.tensor([CLASSES.index(name) for name in painter.SEEN])
    layer, weight, bias = _patch_probe(clip, held, seen, out)
    released = SCClipConfig(**{**asdict(PRESETS["ViT-B-16"]), "k": 30 / 196})  # its 30 of 196 as a share, for any grid
    settings = {"SC-CLIP, released": released, "SC-CLIP, recalibrated": PRESETS["embedded"]}
    systems = {name: SCClip(clip.visual, objects, config) for name, config in settings.items()}
    kinds = ("value path", "plain", "oracle", *systems, "value path among seen", "patch probe")
    score = {name: segmentation.MaskScore(CLASSES, painter.UNSEEN) for name in kinds}
    for start in tqdm(range(0, len(at), CHUNK), desc="masks", unit=f"x{CHUNK}", leave=False):
        patches, where = seen.patches["test"][start : start + CHUNK], at[start : start + CHUNK]
        mask = torch.from_numpy(held.masks[where])
        size = tuple(mask.shape[1:])
        cls, tokens = (dict(enumerate(x.unbind(1), start=1)) for x in (seen.cls[where], patches))  # by layer
        logits = maps(clip, patches[:, -2], mask, objects, grid) | {
            "plain": mask_logits(project(clip.visual, patches[:, -1]), objects, grid, size),
            **{name: system.head(Taps(cls, tokens, grid, size)).logits for name, system in systems.items()},
        }
        for name, scores in logits.items():
            score[name].update(scores.argmax(1), mask)
        # On the same footing: pixels of seen classes, each named by one of them.
        hidden = torch.where(torch.isin(mask, known.to(mask.dtype)), mask, segmentation.IGNORE)
        labelled = (patches[:, layer].double() @ weight.T + bias).mT.unflatten(2, grid)
        score["value path among seen"].update(known[logits["value path"][:, known].argmax(1)], hidden)
        score["patch probe"].update(known[enlarge(labelled, size).argmax(1)], hidden)

    unseen = score["value path"].unseen
    bootstrap = {"resamples": sizes.resamples, "rng_seed": WORLD_SEED}
    on_seen = segmentation.measure("seen", unseen)

    def of(name: str, kind="miou") -> Estimate:
        return _plain(segmentation.interval_of(score[name].counts, kind, **bootstrap))

    def less(a: str, b: str, kind="miou") -> Estimate:
        return _plain(segmentation.paired_of(score[a].counts, score[b].counts, kind, **bootstrap))

    out["measured"] |= {
        **{name: of(name) for name in ("value path", "plain", "oracle", *systems)},
        "value path, seen": of("value path", on_seen),
        "value path, unseen": of("value path", segmentation.measure("unseen", unseen)),
        "value path - plain": less("value path", "plain"),
        "patch probe": of("patch probe", on_seen),
        "value path among seen": of("value path among seen", on_seen),
        "patch probe - value path": less("patch probe", "value path among seen", on_seen),
        "released - value path": less("SC-CLIP, released", "value path"),
        "recalibrated - value path": less("SC-CLIP, recalibrated", "value path"),
    }
    iou = score["value path"].compute()["iou"]
    out["iou"] = {name: None if math.isnan(v) else float(v) for name, v in zip(CLASSES, iou, strict=True)}

    norms = token_norms(seen.patches["test"][:, -1:])  # [n, 1, N]
    largest = float(summarise_norms(norms, multiple=3.0).largest_over_median[0])
    within = norms[:, 0].max(axis=1) / np.median(norms[:, 0], axis=1)
    out["measured"]["largest norm"] = Estimate(largest, math.nan, math.nan, len(norms), "nothing")
    out["measured"]["largest norm in a picture"] = _mean(within, sizes)


def _patch_probe(clip: Clip, held: Held, seen: Encoded, out: dict) -> tuple[int, Tensor, Tensor]:
    """Logistic regression on single patches of the seen classes, each labelled by most of its pixels.

    Returns:
        the layer (-1 the last, -2 the one before it) and C that validation patches chose: weight [24, W], bias [24].
    """
    known = {CLASSES.index(name): i for i, name in enumerate(painter.SEEN)}

    def labelled(split: str) -> tuple[Tensor, np.ndarray, np.ndarray]:
        mask = torch.from_numpy(held.masks[held.dense[split]])
        most = patch_shares(mask, seen.grid, len(CLASSES)).argmax(1).flatten(1).numpy()
        keep = np.isin(most, list(known))
        return seen.patches[split], keep, np.array([known[c] for c in most[keep]])

    (train, keep, y), (val, val_keep, val_y) = labelled("train"), labelled("val")
    best = None
    for layer in (-1, -2):
        x, v = train[:, layer][keep].numpy(), val[:, layer][val_keep].numpy()
        probe = linear_probe(x, y, v, val_y, v[:1], cs=PATCH_CS, classes=len(known))
        accuracy = probe.val_accuracy[probe.c]
        if best is None or accuracy > best[0]:
            best = accuracy, layer, probe
    accuracy, layer, probe = best
    # A class without a patch has bias -inf, which an enlargement would turn into NaN.
    bias = np.where(np.isfinite(probe.bias), probe.bias, -1e6)
    out["chosen"]["patch probe"] = {
        "layer": clip.layers + 1 + layer,
        "C": probe.c,
        "patches": len(y),
        "accuracy on validation patches": accuracy,
    }
    return layer, torch.from_numpy(probe.weight), torch.from_numpy(bias)


# --- intervals ---


def _plain(e: statistics.Estimate) -> Estimate:
    return Estimate(e.value, e.low, e.high, e.n)


def _mean(values, sizes: Sizes) -> Estimate:
    return _plain(statistics.interval(values, resamples=sizes.resamples, rng_seed=WORLD_SEED))


def _difference(a, b, sizes: Sizes) -> Estimate:
    return _plain(statistics.paired(a, b, resamples=sizes.resamples, rng_seed=WORLD_SEED))


def _resample(n: int, draws: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """[R, S] shares of each draw and [R, n] how often each image comes, both drawn with replacement.

    Of S draws S - 1 are taken, as `hc_lafter.analysis.statistics.crossed_draws` does for seeds and for its reason.
    """
    rng = np.random.default_rng(WORLD_SEED)
    images = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    shares = rng.multinomial(max(draws - 1, 1), np.full(draws, 1 / draws), size=resamples) / max(draws - 1, 1)
    return shares, images


def _means(values: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[R] means of [S, n] values under `_resample`'s weights."""
    shares, images = weights
    return ((images @ values.T.astype(np.float64)) * shares).sum(axis=1) / values.shape[1]


def _percentiles(value: float, drawn: Sequence[float], n: int, covers: str = "test images") -> Estimate:
    if n < statistics.MIN_IMAGES:
        raise ValueError(f"{n} test images are too few for an interval: give at least {statistics.MIN_IMAGES}.")
    # Not interpolated: one of the draws may be infinite.
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return Estimate(float(value), float(low), float(high), n, covers)


# --- the command ---


def fidelity(
    clips: Mapping[str, Clip], sizes: Sizes = Sizes(), *, seed: int = WORLD_SEED, descriptions: str = "world"
) -> dict[str, Any]:
    """The facts, their bands and what every CLIP shows: what ``fidelity.json`` holds, ready for it.

    Args:
        clips: name (of a training seed, say) -> CLIP.
        seed: of the world. Decisions belong on another one than the default, such as 2000.
        descriptions: source of the prose.

    Raises:
        ValueError: as `measure`.
    """
    spec = yaml.safe_load(Path(__file__).with_name("fidelity.yaml").read_text(encoding="utf-8"))
    bands = {key: m["band"] for fact in spec["facts"] for key, m in fact["measures"].items()}
    held, models = Held(sizes, seed), {}
    for name, clip in clips.items():
        shown = measure(clip, held, descriptions=descriptions)
        measured = {key: asdict(e) for key, e in shown.pop("measured").items()}
        judged = {key: verdict(measured[key]["value"], band) for key, band in bands.items()}
        models[name] = {"weight_hash": clip.weight_hash, "measured": measured, "verdicts": judged, **shown}
    kept = {
        "world_seed": seed,
        "held_out": seed == WORLD_SEED,
        "sizes": asdict(sizes),
        "descriptions": descriptions,
        "cs": CS,
        "patch_cs": PATCH_CS,
        "ceiling": asdict(held.ceiling()),
        **spec,
        "models": models,
        "versions": versions(),
        "processor": processor(),
    }
    return json.loads(json.dumps(_finite(kept)))  # as a reader of the file will see it


def _finite(value: Any) -> Any:
    """Infinity becomes null: JSON has none."""
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@commands.answers
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: measure, write, print the verdicts."""
    given = commands.fidelity().parse_args(arguments)
    if not given.card:
        clips, begun = _clips(given.models or ["embedded=embedded"]), time.perf_counter()
        sizes = Sizes(**{name: getattr(given, f"n_{name}") for name in asdict(Sizes())})
        facts = fidelity(clips, sizes, seed=given.seed, descriptions=given.descriptions or "world")
        facts["seconds"] = round(time.perf_counter() - begun)
        write_whole(given.out / "fidelity.json", json.dumps(facts, indent=1) + "\n")
    write_card(given.out)
    write_figure(given.out)
    for name, model in read(given.out)["models"].items():
        missed = [key for key, verdict in model["verdicts"].items() if verdict == "missed"]
        print(f"{name}: {'every band met' if not missed else 'missed: ' + '; '.join(missed)}")
    print(f"{given.out} holds fidelity.json, FIDELITY_CARD.md and fidelity.png")
    return 0


def _clips(words: Sequence[str]) -> dict[str, Clip]:
    clips: dict[str, Clip] = {}
    for word in words:
        name, _, model = word.partition("=")
        if not name or not model or name in clips:
            raise ValueError(f"{word!r} is not NAME=MODEL with a name of its own: write seed0=model.safetensors.")
        clips[name] = load_clip(model)
    return clips


if __name__ == "__main__":
    sys.exit(main())
