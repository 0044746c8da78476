"""Makes the embedded CLIP again: ``python -m hc_lafter.pretrain [--size smoke|cpu|gpu] [--out DIR]``.

A small CLIP (Radford et al., ICML 2021) on the embedded world. Beside the contrastive loss it learns from its captions
which patches show what: the patch probabilities come from the value path of the last block (MaskCLIP: Zhou, Loy, Dai,
ECCV 2022), and three losses act on them: partial label (a patch shows one of the classes that its caption names),
coverage (each named class is shown by some patches), and cross-entropy on the patches of the 24 SEEN classes. The last
one uses pixel labels: every segmentation number of this CLIP has to say so. Patch dropout is FLIP's (Li et al., CVPR
2023).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch.func import functional_call
from tqdm.auto import tqdm

from .clip import Clip, WordTokenizer, build_embedded, load_clip, save_clip
from .data import grammar, painter, scene
from .data.world import World, visible_classes
from .features import resized_transform
from .model_card import model_card
from .paths import file_hash, processor, versions, write_whole
from .text import class_embeddings
from .vit import project, value_path, walk
from .weights import weight_hash

DATA_SEED = 1000  # the shipped CLIP's own world; notebooks draw theirs from seed 0
# What the gates are measured on: a world of its own, so that no choice made by them touches a notebook's test split.
HELD_OUT = {"seed": 2000, "split": "test", "scenes": 2000}
GATES = {"zero-shot top-1": 0.60, "R@1 of 500": 0.90, "object mAP": 0.65, "mIoU": 0.52, "mIoU unseen": 0.38}


@dataclass(frozen=True)
class Recipe:
    """What decides the weights. Rates and shares are fractions; `steps` are optimiser steps.

    ``then`` is a further phase: from the weights of this one, with a fresh optimiser and schedule, on the same scenes.
    """

    scenes: int = 60_000
    canvas: int = 128  # px; views are cut from it
    steps: int = 1500
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 60
    clip_norm: float = 1.0
    patch_dropout: float = 0.5
    dropout_steps: float = 0.80  # share of the steps that drop patches
    close_ups: float = 0.5  # share of views around one object, so that contrast cannot live on the whole scene alone
    word_dropout: float = 0.12  # chance that a visible class goes unmentioned
    emotion_clause: float = 0.5
    short_steps: float = 0.30  # share of the steps whose contrastive captions are short emotion captions
    partial: float = 1.0
    coverage: float = 2.0
    seen: float = 0.5  # 0 gives the caption-only model of the model card
    tags: float = 0.0  # whole pictures against class phrases: present or not, by what the caption names
    seed: int = 0
    then: Recipe | None = None

    def phases(self) -> Iterator[Recipe]:
        """This phase and those after it."""
        yield self
        if self.then is not None:
            yield from self.then.phases()

    def altered(self, **changes: Any) -> Recipe:
        """All phases with some fields given anew."""
        return replace(self, then=self.then and self.then.altered(**changes), **changes)


_FINISH = {"lr": 5e-4, "warmup": 20, "dropout_steps": 0.5, "short_steps": 0.45, "tags": 0.5}
SIZES = {
    # smoke: what learns visibly within a minute on one thread, many small steps on few patches
    "smoke": Recipe(scenes=600, canvas=64, steps=240, batch=32, warmup=10, patch_dropout=0.75, emotion_clause=1.0),
    "cpu": Recipe(then=Recipe(steps=400, **_FINISH)),
    "gpu": Recipe(
        scenes=200_000,
        steps=12_000,
        batch=512,
        warmup=200,
        then=Recipe(steps=2_000, batch=512, **_FINISH),
    ),
}


# --- views of the world ---


@dataclass
class Pool:
    """Scenes painted once: pictures [n, canvas, canvas, 3] and masks [n, canvas, canvas], both uint8."""

    pictures: np.ndarray
    masks: np.ndarray
    scenes: list[scene.Scene]
    colours: list[dict[str, str]]


def _paint_range(start: int, stop: int, canvas: int) -> Pool:
    pictures = np.empty((stop - start, canvas, canvas, 3), np.uint8)
    masks = np.empty((stop - start, canvas, canvas), np.uint8)
    scenes, colours = [], []
    for k in range(stop - start):
        rng = np.random.default_rng((DATA_SEED, 0, start + k))
        scenes.append(scene.draw_scene(rng))
        colours.append(painter.draw_colours(rng))
        pictures[k], masks[k] = painter.paint(scenes[-1].attributes, colours[-1], rng, canvas)
    return Pool(pictures, masks, scenes, colours)


def _painters(workers: int) -> ProcessPoolExecutor:
    # spawned, not forked: a fork of a process that has run torch or OpenCV in threads may hang
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))


def paint_pool(n: int, canvas: int, workers: int) -> Pool:
    """Paint `n` training scenes at `canvas` px in `workers` processes; one worker paints in this process."""
    edges = [*range(0, n, 500), n]
    arguments = (edges[:-1], edges[1:], [canvas] * (len(edges) - 1))
    with _painters(workers) if workers > 1 else nullcontext() as executor:
        ranges = (executor.map if executor else map)(_paint_range, *arguments)
        parts = list(tqdm(ranges, total=len(edges) - 1, desc=f"painting {n} scenes", unit="x500"))
    return Pool(
        np.concatenate([p.pictures for p in parts]),
        np.concatenate([p.masks for p in parts]),
        [s for p in parts for s in p.scenes],
        [c for p in parts for c in p.colours],
    )


@dataclass
class Batch:
    """images [B, 3, S, S] in 0..1, texts [B], named [B, K] bool (mask classes the caption names), majority [B, N]."""

    images: torch.Tensor
    texts: list[str]
    named: torch.Tensor
    majority: torch.Tensor


_THINGS = np.array([painter.MASK_CLASSES.index(name) for name in (*painter.THINGS, "cloud", "mountain")])


def _window(mask: np.ndarray, close: bool, rng: np.random.Generator) -> tuple[int, int, int]:
    """Left, top and side of the square view: nearly the whole scene, or a close-up around one object."""
    side = mask.shape[0]
    if close:
        share = np.bincount(mask.ravel(), minlength=len(painter.MASK_CLASSES))[_THINGS] / mask.size
        present = _THINGS[share >= 0.004]
        if len(present):
            rows, columns = np.nonzero(mask == present[int(rng.random() * len(present))])
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            size = int(np.clip(extent * rng.uniform(1.0, 2.2), 0.25 * side, 0.85 * side))
            centre = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
            x, y = np.clip(centre - size / 2 + rng.uniform(-0.2, 0.2, 2) * size, 0, side - size).astype(int)
            return int(x), int(y), size
    size = int(side * rng.uniform(0.85, 1.0))
    x, y = (rng.random(2) * (side - size + 1)).astype(int)
    return int(x), int(y), size


def draw_batch(pool: Pool, recipe: Recipe, rng: np.random.Generator, size: int, patch: int) -> Batch:
    """Views with their captions, freshly cut, flipped and worded."""
    short = rng.random() < recipe.short_steps
    images = np.empty((recipe.batch, size, size, 3), np.uint8)
    points = 4 * (size // patch)  # masks are looked at in 4 x 4 points per patch
    masks = np.empty((recipe.batch, points, points), np.int64)
    named = np.zeros((recipe.batch, len(painter.MASK_CLASSES)), bool)
    texts = []
    for b, i in enumerate(rng.integers(len(pool.scenes), size=recipe.batch)):
        drawn, colours = pool.scenes[i], pool.colours[i]
        close = rng.random() < recipe.close_ups
        x, y, side = _window(pool.masks[i], close, rng)
        view = pool.pictures[i, y : y + side, x : x + side]
        view = cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR)
        at = ((np.arange(points) + 0.5) * side / points).astype(int)
        mask = pool.masks[i, y : y + side, x : x + side][at[:, None], at]
        flip = slice(None, None, -1) if rng.random() < 0.5 else slice(None)
        images[b], masks[b] = view[:, flip], mask[:, flip]
        emotion = scene.EMOTIONS[drawn.label]
        text, names = grammar.caption(
            visible_classes(mask),
            drawn.attributes,
            colours,
            rng,
            drop=recipe.word_dropout,
            whole=not close,
            emotion=emotion if rng.random() < recipe.emotion_clause else None,
        )
        named[b, [painter.MASK_CLASSES.index(n) for n in names]] = True
        texts.append(grammar.short_caption(emotion, drawn.attributes, rng) if short else text)
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        texts,
        torch.from_numpy(named),
        torch.from_numpy(_majority(masks, size // patch)),
    )


def _majority(masks: np.ndarray, grid: int) -> np.ndarray:
    """The commonest class of each patch: [B, 4 grid, 4 grid] -> [B, grid * grid]."""
    b, k = len(masks), len(painter.MASK_CLASSES)
    blocks = masks.reshape(b, grid, 4, grid, 4).transpose(0, 1, 3, 2, 4).reshape(b * grid * grid, 16)
    counts = np.bincount((np.arange(len(blocks))[:, None] * k + blocks).ravel(), minlength=len(blocks) * k)
    return counts.reshape(b, grid * grid, k).argmax(-1)


# --- losses ---

_SEEN = torch.tensor([painter.MASK_CLASSES.index(name) for name in painter.SEEN])
_TO_SEEN = torch.full((len(painter.MASK_CLASSES),), -1).scatter(0, _SEEN, torch.arange(len(_SEEN)))


def contrastive(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross-entropy over a batch of unit features [B, D]."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def patch_losses(logits: torch.Tensor, named: torch.Tensor, majority: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Partial label, coverage and seen-class cross-entropy.

    Args:
        logits: [B, N, K] of each patch over the K mask classes.
        named: [B, K] bool, the classes that the caption names.
        majority: [B, N] the class that most of a patch's pixels have.
    """
    p = logits.softmax(-1)
    partial = -torch.log((p * named[:, None]).sum(-1) + 0.02).mean()
    top = p.topk(min(4, p.shape[1]), dim=1).values.mean(1)
    coverage = -torch.log(top[named] + 0.01).mean()
    target = _TO_SEEN.to(majority.device)[majority]
    known = target >= 0
    count = torch.bincount(target[known], minlength=len(_SEEN)).clamp(min=1)
    seen = F.cross_entropy(
        logits[..., _SEEN.to(logits.device)][known], target[known], weight=count.to(logits.dtype).rsqrt()
    )
    return partial, coverage, seen


# --- the loop ---


def _encode_text(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Unit text features [B, D].

    Columns of padding alone are cut off: a causal tower that pools at the end-of-text token cannot notice, and half of
    its work is saved.
    """
    length = int((tokens != 0).sum(1).max())
    shorter = {
        "positional_embedding": model.positional_embedding[:length],
        "attn_mask": model.attn_mask[:length, :length],
    }
    return functional_call(model, shorter, kwargs={"text": tokens[:, :length]})[1]


def train(
    recipe: Recipe,
    *,
    device: str = "cpu",
    workers: int = 2,
    log: Callable[[dict, Clip], None] | None = None,
) -> tuple[Clip, dict]:
    """Train the embedded CLIP from nothing.

    Precision is float32 on a CPU, where bfloat16 loses at this width (measured: 65 against 120 images/s on one core;
    the backward pass of bf16 attention is the reason), and bfloat16 autocast on CUDA. The same recipe gives the same
    weights on the same machine with the same number of threads.

    Args:
        recipe: what decides the weights.
        device: where to train.
        workers: processes that paint the scenes.
        log: called with each new row of the history and the CLIP as it stands.

    Returns:
        the CLIP (frozen) and what is known of its making: ``history``, the losses every 20 steps of each phase, in
        nats, with the images per second, and ``patch_scale``, the learned scale of the patch logits.

    Raises:
        FloatingPointError: the loss is not finite any more.
    """
    clip = build_embedded(recipe.seed)
    clip.model.to(device).train().requires_grad_(True)
    pool = paint_pool(recipe.scenes, recipe.canvas, workers)
    heads = _Heads().to(device)
    history: list[dict] = []
    for phase, part in enumerate(recipe.phases()):
        rng = np.random.default_rng([DATA_SEED, 9 + phase, part.seed])
        for row in _phase(clip, heads, pool, part, rng, device):
            history.append({"phase": phase, **row})
            if log is not None:
                log(history[-1], clip)
    clip.model.eval().requires_grad_(False)
    trained = replace(
        clip,
        name="embedded, trained here",
        source=__name__,
        weight_hash=weight_hash(clip.model.state_dict()),
        notes=(),
    )
    return trained, {"history": history, "patch_scale": heads.patch_scale.exp().item()}


class _Heads(torch.nn.Module):
    """What training learns beside the CLIP and does not ship: the scales of its dense and its tag logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_scale = torch.nn.Parameter(torch.tensor(math.log(10.0)))
        self.tag_scale = torch.nn.Parameter(torch.tensor(math.log(10.0)))
        self.tag_bias = torch.nn.Parameter(torch.tensor(-2.0))  # a class is in about an eighth of the captions


def _phase(
    clip: Clip, heads: _Heads, pool: Pool, recipe: Recipe, rng: np.random.Generator, device: str
) -> Iterator[dict]:
    """One phase, with an optimiser of its own; yields a row of its history every 20 steps."""
    model, visual, tokenizer = clip.model, clip.visual, clip.tokenizer
    mean, std = (
        torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (clip.preprocess["mean"], clip.preprocess["std"])
    )
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2] + list(heads.parameters())
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda t: min((t + 1) / recipe.warmup, 0.5 * (1 + math.cos(math.pi * t / recipe.steps))),
    )
    grid, begun = clip.image_size // clip.patch_size, time.perf_counter()
    bar = tqdm(range(recipe.steps), desc="pretraining", unit="step")
    for step in bar:
        batch = draw_batch(pool, recipe, rng, clip.image_size, clip.patch_size)
        images = (batch.images.to(device) - mean) / std
        named, majority, keep = batch.named.to(device), batch.majority.to(device), None
        if step < recipe.dropout_steps * recipe.steps:
            kept = int(grid * grid * (1 - recipe.patch_dropout))
            order = rng.permuted(np.tile(np.arange(grid * grid), (recipe.batch, 1)), axis=1)[:, :kept]
            keep = torch.from_numpy(np.sort(order, axis=1)).to(device)
            majority = majority.gather(1, keep)
        phrases = [grammar.class_phrase(name, rng) for name in painter.MASK_CLASSES]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=torch.device(device).type == "cuda"):
            seen_through = walk(visual, images, layers=(clip.layers - 1,), patches=True, keep=keep)
            values = project(visual, value_path(visual, seen_through.patch_taps[0]))
            text = _encode_text(model, tokenizer(batch.texts).to(device)).float()
            classes = _encode_text(model, tokenizer(phrases).to(device)).float()
        image = F.normalize(seen_through.final.float(), dim=-1)
        logits = heads.patch_scale.exp().clamp(max=100) * F.normalize(values.float(), dim=-1) @ classes.T
        contrast = contrastive(image, text, model.logit_scale.exp())
        partial, coverage, seen = patch_losses(logits, named, majority)
        loss = contrast + recipe.partial * partial + recipe.coverage * coverage + recipe.seen * seen
        losses = {"loss": loss, "contrast": contrast, "partial": partial, "coverage": coverage, "seen": seen}
        if recipe.tags:
            tag_logits = heads.tag_scale.exp() * image @ classes.T + heads.tag_bias
            losses["tags"] = F.binary_cross_entropy_with_logits(tag_logits, named.float())
            losses["loss"] = loss = loss + recipe.tags * len(phrases) * losses["tags"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss.item()} at step {step}: lower lr ({recipe.lr}).")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in (*decay, *rest) if p.grad is not None], recipe.clip_norm)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 20 == 0 or step == recipe.steps - 1:
            row = {name: round(value.item(), 4) for name, value in losses.items()}
            speed = (step + 1) * recipe.batch / (time.perf_counter() - begun)
            bar.set_postfix(row)
            yield {"step": step, **row, "images_per_s": round(speed, 1)}


# --- measuring ---


@torch.inference_mode()
def evaluate(
    clip: Clip,
    n: int = HELD_OUT["scenes"],
    *,
    seed: int = HELD_OUT["seed"],
    side: int | None = None,
    batch: int = 32,
) -> dict[str, float]:
    """The numbers of the model card, on the test split of a world that training never saw. All are fractions.

    Args:
        clip: what to measure.
        n: test scenes; retrieval takes the first 500 of them.
        seed: of the world.
        side: pixels of the pictures; None for the tower's own. Positions are interpolated to another one.

    Returns:
        ``zero-shot top-1`` (the votes' label; class names in `grammar.EMOTION_TEMPLATES`), ``R@1 of 500`` (picture to
        caption, full views), ``object mAP`` (presence of each thing, by the picture's cosine with its phrase), and of
        the value path ``mIoU``, ``mIoU seen``, ``mIoU unseen``, ``IoU <class>`` (argmax over all mask classes, logits
        bilinear to the picture; the seen classes had pixel labels in training); ``oracle mIoU``, if each patch told
        what share of its pixels each class has. A class that is neither there nor predicted does not count.
    """
    side = side or clip.image_size
    world = World(0, 0, n, side=side, seed=seed)
    visual, device = clip.visual, clip.model.logit_scale.device
    names, k = painter.MASK_CLASSES, len(painter.MASK_CLASSES)
    emotions = class_embeddings(clip, world.classes, grammar.EMOTION_TEMPLATES)
    objects = class_embeddings(clip, [grammar.SYNONYMS[name][0] for name in names], grammar.CLASS_TEMPLATES)
    images, captions, presence = [], [], np.zeros((n, k), bool)
    confusion, oracle = np.zeros((k, k), np.int64), np.zeros((k, k), np.int64)
    transform = resized_transform(clip, (side, side))
    for start in tqdm(range(0, n, batch), desc=f"measuring at {side} px", unit="batch"):
        records = [world[i] for i in range(start, min(n, start + batch))]
        masks = torch.from_numpy(np.stack([r.mask for r in records]))
        seen_through = walk(
            visual,
            torch.stack([transform(r.image) for r in records]).to(device),
            layers=(clip.layers - 1,),
            patches=True,
        )
        images.append(F.normalize(seen_through.final.float(), dim=-1).cpu())
        values = project(visual, value_path(visual, seen_through.patch_taps[0])).float().cpu()
        logits = F.normalize(values, dim=-1) @ objects.T
        for kind, scores in ((confusion, logits), (oracle, _patch_shares(masks, seen_through.grid, k))):
            maps = scores.transpose(1, 2).reshape(len(records), k, *seen_through.grid)
            predicted = F.interpolate(maps, size=(side, side), mode="bilinear").argmax(1)
            kind += np.bincount((masks.long() * k + predicted).ravel().numpy(), minlength=k * k).reshape(k, k)
        captions += [r.captions[0] for r in records[: max(0, 500 - start)]]
        presence[start : start + len(records)] = [[name in visible_classes(r.mask) for name in names] for r in records]
    image = torch.cat(images)
    found = (image @ emotions.T).argmax(1).numpy() == world.labels
    ranks = (image[: len(captions)] @ clip.encode_text(captions).cpu().T).argmax(1).numpy()
    scores = (image @ objects.T).numpy()
    things = [i for i in map(names.index, painter.THINGS) if presence[:, i].any()]
    iou, best = _iou(confusion), _iou(oracle)
    unseen = np.isin(names, painter.UNSEEN)
    return {
        "zero-shot top-1": float(found.mean()),
        "R@1 of 500": float((ranks == np.arange(len(ranks))).mean()),
        "object mAP": float(np.mean([average_precision_score(presence[:, i], scores[:, i]) for i in things])),
        "mIoU": float(np.nanmean(iou)),
        "mIoU seen": float(np.nanmean(iou[~unseen])),
        "mIoU unseen": float(np.nanmean(iou[unseen])),
        "oracle mIoU": float(np.nanmean(best)),
        **{f"IoU {name}": float(value) for name, value in zip(names, iou, strict=True) if np.isfinite(value)},
    }


def _patch_shares(masks: torch.Tensor, grid: tuple[int, int], k: int) -> torch.Tensor:
    """[B, N, K] what share of each patch's pixels each class has: what a perfect patch classifier would say."""
    one_hot = F.one_hot(masks.long(), k).permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(one_hot, grid).flatten(2).transpose(1, 2)


def _iou(confusion: np.ndarray) -> np.ndarray:
    """[K] intersection over union from a confusion matrix [truth, prediction]; NaN for a class that is in neither."""
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.where(union, hit / np.maximum(union, 1), np.nan)


# --- shipping ---


def known_answer(clip: Clip) -> list[float]:
    """Eight numbers that a rightly loaded embedded CLIP gives: the head of the unit feature of a fixed grey ramp."""
    side = clip.image_size
    ramp = torch.linspace(-1, 1, side).expand(1, 3, side, side)
    with torch.inference_mode():
        feature = F.normalize(walk(clip.visual, ramp.to(clip.model.logit_scale.device)).final.float(), dim=-1)
    return [round(v, 4) for v in feature[0, :8].tolist()]


def hardware(device: str) -> dict[str, str | int | None]:
    """The machine, for a model's card: processor, its vector instructions, cores, threads in use, GPU."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
    }


def ship(clip: Clip, recipe: Recipe, made: dict, out: Path) -> dict:
    """Write ``model.safetensors`` (half precision), ``model.json`` and ``MODEL_CARD.md`` into `out`; returns the json.

    What is measured is the file as written, loaded anew.

    Args:
        clip: what `train` returns, on the CPU.
        recipe: what it was trained with.
        made: how it was made: what `train` tells, ``seconds``, ``device``, ``hardware``.
        out: folder; made if need be.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "model.safetensors"
    save_clip(clip, path, dtype=torch.float16)
    shipped = load_clip(path)
    facts = {
        "config": {**shipped.config, "activation": shipped.activation},
        "words": len(shipped.tokenizer.words) if isinstance(shipped.tokenizer, WordTokenizer) else None,
        "parameters": shipped.parameters,
        "recipe": asdict(recipe),
        "data_seed": DATA_SEED,
        "held_out": HELD_OUT,
        "samples": sum(part.steps * part.batch for part in recipe.phases()),
        "pixel_labels": {"seen": painter.SEEN, "unseen": painter.UNSEEN},
        "made": made,
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "weight_hash": shipped.weight_hash,
        "known_answer": known_answer(shipped),
        "gates": GATES,
        "measured_64px": evaluate(shipped, HELD_OUT["scenes"]),
        "measured_96px": evaluate(shipped, HELD_OUT["scenes"], side=96),
        "versions": versions(),
    }
    facts = json.loads(json.dumps(facts))  # as a reader of the file will see it
    write_whole(out / "model.json", json.dumps(facts, indent=1) + "\n")
    write_card(out)
    return facts


def write_card(folder: Path) -> None:
    """Write a model's ``MODEL_CARD.md`` from its ``model.json`` alone.

    Raises:
        ValueError: there is no ``model.json`` in the folder, or it is not one of `ship`'s.
    """
    source = folder / "model.json"
    try:
        text = model_card(json.loads(source.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source} is no description of a model ({type(error).__name__}: {error}): name the folder of one "
            "that this command has made."
        ) from error
    write_whole(folder / "MODEL_CARD.md", text)


def main() -> None:
    """Command line: train, measure, write."""
    parser = argparse.ArgumentParser(description="Make the embedded CLIP again.")
    parser.add_argument("--size", choices=SIZES, default="cpu", help="cpu: an hour on two cores")
    parser.add_argument("--out", type=Path, default=Path("embedded-clip"), help="folder for the weights and their card")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that paint the scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captions-only", action="store_true", help="without pixel labels: a control")
    parser.add_argument("--force", action="store_true", help="overwrite the model in the folder")
    parser.add_argument("--card", type=Path, metavar="DIR", help="only write DIR's MODEL_CARD.md from its model.json")
    a = parser.parse_args()
    if a.card:
        try:
            return write_card(a.card)
        except ValueError as error:
            raise SystemExit(str(error)) from None
    if any((a.out / name).exists() for name in ("model.safetensors", "model.json")) and not a.force:
        raise SystemExit(f"{a.out} already holds a model: choose another folder with --out, or overwrite with --force.")
    try:
        a.out.mkdir(parents=True, exist_ok=True)  # now, and not after an hour
    except OSError as error:
        raise SystemExit(f"{a.out} cannot be a folder ({error.strerror}): choose another one with --out.") from None
    recipe = SIZES[a.size].altered(seed=a.seed, **({"seen": 0.0} if a.captions_only else {}))
    begun = time.perf_counter()
    clip, told = train(recipe, device=a.device, workers=a.workers)
    seconds = round(time.perf_counter() - begun)
    made = {"seconds": seconds, "device": a.device, "hardware": hardware(a.device), **told}
    facts = ship(clip.to("cpu"), recipe, made, a.out)
    for name, gate in GATES.items():
        value = facts["measured_64px"][name]
        print(f"{name:18s} {value:.3f}  (gate {gate:.2f}: {'met' if value >= gate else 'NOT met'})")
    print(f"{a.out} holds the weights, model.json and MODEL_CARD.md: load_clip({str(a.out / 'model.safetensors')!r})")


if __name__ == "__main__":
    main()
