"""Makes the embedded CLIP again: ``hc-lafter pretrain [--size smoke|cpu|gpu] [--out DIR]``.

A small CLIP (Radford et al., ICML 2021) on the embedded world, from captions alone. Beside the contrastive loss the
whole picture is held against short phrases, each one fact of its captions (a sigmoid per pair, several of them true:
Zhai et al., ICCV 2023), and two losses act on the value path of the last block (MaskCLIP: Zhou, Loy, Dai, ECCV 2022):
coverage (each class that the captions name is shown by some patches) and partial label (a patch shows one of those
classes). No loss sees a pixel label, an emotion's label or a distribution. Patch dropout is FLIP's (Li et al., CVPR
2023).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from hc_lafter import commands, store
from hc_lafter.clip.load import Clip, WordTokenizer, build_embedded, load_clip, save_clip
from hc_lafter.clip.text import encode_tokens
from hc_lafter.clip.vit import project, value_path, walk
from hc_lafter.clip.weights import weight_hash
from hc_lafter.data.world import grammar, painter, scene
from hc_lafter.data.world.dataset import visible_classes
from hc_lafter.embedded.cards import write_model_card
from hc_lafter.embedded.measure import HEADLINE, HELD_OUT, evaluate
from hc_lafter.files import file_hash, processor, versions, write_whole
from hc_lafter.suite.study import precision
from hc_lafter.tuning.training import load_checkpoint

DATA_SEED = 1000  # the shipped CLIP's own world; notebooks draw theirs from seed 0


@dataclass(frozen=True)
class Recipe:
    """What decides the weights. Rates and shares are fractions; `steps` are optimiser steps."""

    scenes: int = 60_000
    canvas: int = 128  # px; views are cut from it
    steps: int = 2100
    batch: int = 256
    lr: float = 2.5e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 100
    horizon: int = 2800  # steps of the cosine that the rate follows until it cools down; more than `steps`
    cooldown: int = 500  # last steps, in which the rate also falls linearly to zero
    clip_norm: float = 1.0
    patch_dropout: float = 0.5
    whole_steps: int = 300  # last steps, which see every patch
    close_ups: float = 0.6  # share of views around one object, so that contrast cannot live on the whole scene alone
    portraits: float = 0.4  # share of the close-ups that look for a person first: faces are small in whole scenes
    word_dropout: float = 0.6  # each caption leaves facts out with a chance between 0 and this
    fact_dropout: float = 0.1  # chance that no caption of the picture tells a fact, so that phrases do not ask for it
    emotion_clause: float = 0.08  # of captions of whole scenes; close-ups name none
    # From this step on captions are shorter, and an impression weighs more in them. Of all captions of a training (40%
    # are of whole scenes) less than 4% name an emotion.
    short_from: int = 1200
    short_word_dropout: float = 0.9
    short_emotion_clause: float = 0.125
    phrases: float = 30.0
    coverage: float = 1.0
    partial: float = 0.5
    seed: int = 0


SIZES = {
    # smoke: what learns visibly within a minute on one thread, many small steps on few patches
    "smoke": Recipe(
        scenes=600,
        canvas=64,
        steps=240,
        batch=32,
        warmup=10,
        horizon=320,
        cooldown=60,
        patch_dropout=0.75,
        whole_steps=48,
        short_from=140,
    ),
    "cpu": Recipe(),
    "gpu": Recipe(
        scenes=200_000,
        steps=16_000,
        batch=512,
        warmup=400,
        horizon=20_000,
        cooldown=4_000,
        whole_steps=2_000,
        short_from=9_000,
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
    pool = Pool(np.empty((n, canvas, canvas, 3), np.uint8), np.empty((n, canvas, canvas), np.uint8), [], [])
    with _painters(workers) if workers > 1 else nullcontext() as executor:
        ranges = (executor.map if executor else map)(_paint_range, *arguments)
        for part in tqdm(ranges, total=len(edges) - 1, desc=f"painting {n} scenes", unit="x500"):
            at = slice(len(pool.scenes), len(pool.scenes) + len(part.scenes))
            pool.pictures[at], pool.masks[at] = part.pictures, part.masks
            pool.scenes += part.scenes
            pool.colours += part.colours
    return pool


def emotion_share(recipe: Recipe) -> float:
    """The share of a training's captions that is expected to name an emotion."""
    short = max(0, recipe.steps - recipe.short_from) / recipe.steps
    clauses = (1 - short) * recipe.emotion_clause + short * recipe.short_emotion_clause
    return (1 - recipe.close_ups) * clauses


@dataclass
class Batch:
    """images [B, 3, S, S] uint8, texts [B], facts [B, F] bool and known [B, F] bool over `FACTS`.

    A fact is true where a caption of the picture tells it; where it is not known (the setting of a close-up, the face
    of a person seen from too near) no loss asks for it.
    """

    images: Tensor
    texts: list[str]
    facts: Tensor
    known: Tensor


# Everything a phrase can say, as (kind, value); the mask classes come first, in mask order.
FACTS = tuple((kind, value) for kind, values in grammar.PHRASES.items() for value in values)
_CLASSES = len(painter.MASK_CLASSES)
_AT = {fact: i for i, fact in enumerate(FACTS)}
_KIND = {kind: np.array([k == kind for k, _ in FACTS]) for kind in grammar.PHRASES}
_PERSON = painter.MASK_CLASSES.index("person")
_THINGS = np.array([painter.MASK_CLASSES.index(name) for name in (*painter.THINGS, "cloud", "mountain")])


def _window(mask: np.ndarray, close: bool, portrait: bool, rng: np.random.Generator) -> tuple[int, int, int]:
    """Left, top and side of the square view: nearly the whole scene, or a close-up around one object."""
    side = mask.shape[0]
    if close:
        share = np.bincount(mask.ravel(), minlength=_CLASSES)[_THINGS] / mask.size
        present = _THINGS[share >= 0.004]
        if len(present):
            wanted = _PERSON if portrait and _PERSON in present else present[int(rng.random() * len(present))]
            rows, columns = np.nonzero(mask == wanted)
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            size = int(np.clip(extent * rng.uniform(1.0, 2.2), 0.25 * side, 0.85 * side))
            centre = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
            x, y = np.clip(centre - size / 2 + rng.uniform(-0.2, 0.2, 2) * size, 0, side - size).astype(int)
            return int(x), int(y), size
    size = int(side * rng.uniform(0.85, 1.0))
    x, y = (rng.random(2) * (side - size + 1)).astype(int)
    return int(x), int(y), size


def draw_batch(pool: Pool, recipe: Recipe, step: int, size: int) -> Batch:
    """Views with their captions, freshly cut, flipped and worded; a function of recipe and step alone."""
    rng = np.random.default_rng([DATA_SEED, 9, recipe.seed, step])
    short = step >= recipe.short_from
    word_dropout = recipe.short_word_dropout if short else recipe.word_dropout
    emotion_clause = recipe.short_emotion_clause if short else recipe.emotion_clause
    images = np.empty((recipe.batch, size, size, 3), np.uint8)
    facts, known = np.zeros((2, recipe.batch, len(FACTS)), bool)
    texts = []
    for b, i in enumerate(rng.integers(len(pool.scenes), size=recipe.batch)):
        drawn, colours, attributes = pool.scenes[i], pool.colours[i], pool.scenes[i].attributes
        close = rng.random() < recipe.close_ups
        x, y, side = _window(pool.masks[i], close, rng.random() < recipe.portraits, rng)
        view = pool.pictures[i, y : y + side, x : x + side]
        view = cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR)
        images[b] = view[:, ::-1] if rng.random() < 0.5 else view
        mask = pool.masks[i, y : y + side, x : x + side]
        visible = visible_classes(mask)
        face = np.count_nonzero(mask == _PERSON) >= 0.7 * np.count_nonzero(pool.masks[i] == _PERSON)
        impression = not close and rng.random() < emotion_clause
        text, _ = grammar.caption(
            visible,
            attributes,
            colours,
            rng,
            drop=rng.uniform(0, word_dropout),
            whole=not close,
            face=face,
            emotion=scene.EMOTIONS[rng.choice(len(scene.EMOTIONS), p=drawn.posterior)] if impression else None,
        )
        texts.append(text)
        known[b] = _KIND["class"] | _KIND["tone"]
        true = [("class", name) for name in visible] + [("tone", attributes["tone"])]
        if "person" not in visible or face:
            known[b] |= _KIND["face"]
            true += [("face", attributes["face"])] if "person" in visible else []
        if not close:
            known[b] |= _KIND["weather"] | _KIND["setting"]
            true += [("weather", attributes["weather"]), ("setting", attributes["setting"])]
        facts[b, [_AT[fact] for fact in true if rng.random() >= recipe.fact_dropout]] = True
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), texts, torch.from_numpy(facts), torch.from_numpy(known))


# --- losses ---


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of unit features [B, D]."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def phrase_loss(logits: Tensor, facts: Tensor, known: Tensor) -> Tensor:
    """Mean sigmoid cross-entropy of whole pictures against phrases, [B, F] each, over the facts that are known."""
    return F.binary_cross_entropy_with_logits(logits[known], facts[known].to(logits.dtype))


def patch_losses(logits: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage and partial label.

    Args:
        logits: [B, N, K] of each patch over the K mask classes.
        named: [B, K] bool, the classes that captions name. Pictures of which none is named have no part in it.
    """
    p = logits.softmax(-1)
    top = p.topk(min(4, p.shape[1]), dim=1).values.mean(1)
    coverage = -torch.log(top[named] + 0.01).mean()
    share = (p * named[:, None]).sum(-1)[named.any(-1)]
    return coverage, -torch.log(share + 0.02).mean()


# --- the loop ---


class _Heads(nn.Module):
    """What training learns beside the CLIP and does not ship: the scales of its patch and its phrase logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.phrase_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.phrase_bias = nn.Parameter(torch.tensor(-2.0))  # a fact holds of about an eighth of the pictures


def _optimisers(model: nn.Module, heads: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else, at one rate.

    Jordan et al. (2024) orthogonalise the momentum of hidden matrices; with the update scaled to AdamW's size (Liu et
    al., arXiv 2502.16982) both take the same rate and weight decay.
    """
    inner = [p for name, p in model.named_parameters() if "resblocks" in name and p.ndim == 2]
    hidden = {id(p) for p in inner}
    others = [p for p in model.parameters() if id(p) not in hidden]
    decay, rest = [p for p in others if p.ndim >= 2], [p for p in others if p.ndim < 2] + list(heads.parameters())
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(inner, lr=recipe.lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas),
    ]


class Float32(TorchFunctionMode):
    """Within it what asks for bfloat16 gets float32.

    `torch.optim.Muon` orthogonalises in bfloat16 on every device; a processor without it takes ten times as long.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        asked = kwargs or {}
        return func(*args, **{name: torch.float32 if x is torch.bfloat16 else x for name, x in asked.items()})


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of a step in units of ``recipe.lr``: warm-up, a cosine, and a last part that falls to zero."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.horizon))
    return min((step + 1) / recipe.warmup, cosine) * min(1.0, (recipe.steps - step) / recipe.cooldown)


def train(
    recipe: Recipe,
    *,
    device: str = "cpu",
    workers: int = 2,
    checkpoint_at: Path | None = None,
    every: int = 200,
) -> tuple[Clip, dict]:
    """Train the embedded CLIP from nothing, or from where a stopped training left off.

    Precision is bfloat16 where that is faster (CUDA, processors with amx_bf16), else float32, Muon's too. The same
    recipe gives the same weights on the same machine with the same number of threads, stopped in between or not.

    Args:
        recipe: what decides the weights.
        device: where to train.
        workers: processes that paint the scenes.
        checkpoint_at: a safetensors file, written every `every` steps and taken up if it is there; None keeps nothing.
        every: steps between two checkpoints.

    Returns:
        the CLIP (frozen) and what is known of its making: ``history``, the losses every 20 steps, in nats, with the
        images per second, ``precision``, and ``patch_scale``, the learned scale of the patch logits.

    Raises:
        FloatingPointError: the loss is not finite any more.
        ValueError: the checkpoint is damaged or of another recipe.
    """
    clip = build_embedded(recipe.seed)
    model = clip.model.to(device).train().requires_grad_(True)
    heads = _Heads().to(device)
    optimisers = _optimisers(model, heads, recipe)
    history: list[dict] = []
    definition = {"recipe": asdict(recipe), "data_seed": DATA_SEED}
    start = _resume(checkpoint_at, definition, model, heads, optimisers, history) if checkpoint_at else 0
    pool = paint_pool(recipe.scenes, recipe.canvas, workers)
    for step, row in _steps(clip, heads, optimisers, pool, recipe, device, start):
        if row is not None:
            history.append(row)
        if checkpoint_at and (step + 1) % every == 0:
            tensors = _tensors(model, heads, optimisers)
            store.write(checkpoint_at, tensors, run=definition, state={"step": step + 1, "history": history})
    clip.model.eval().requires_grad_(False)
    trained = replace(
        clip,
        name="embedded, trained here",
        source=__name__,
        weight_hash=weight_hash(clip.model.state_dict()),
        notes=(),
    )
    made = {
        "history": history,
        "precision": precision("auto", torch.device(device)),
        "patch_scale": heads.patch_scale.exp().item(),
    }
    return trained, made


def _tensors(model: nn.Module, heads: nn.Module, optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Everything that training changes, by name; the tensors themselves, not copies."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"heads.{k}": v for k, v in heads.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        for j, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{j}.{k}": v for k, v in state.items()}
    return tensors


def _resume(path, definition, model, heads, optimisers, history) -> int:
    """Load a checkpoint into what is trained; returns the step to go on with, 0 where there is no checkpoint."""
    found = load_checkpoint(path, definition)
    if found is None:
        return 0
    tensors, state = found
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    heads.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("heads.")})
    for i, optimiser in enumerate(optimisers):
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimiser.{i}."):
                j, key = name.split(".")[2:]
                states.setdefault(int(j), {})[key] = tensor
        optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    history += state["history"]
    return state["step"]


def _steps(
    clip: Clip,
    heads: _Heads,
    optimisers: list[torch.optim.Optimizer],
    pool: Pool,
    recipe: Recipe,
    device: str,
    start: int,
) -> Iterator[tuple[int, dict | None]]:
    """The steps from `start` on; yields each with a row of the history every 20 steps, else None."""
    model, visual, tokenizer, kind = clip.model, clip.visual, clip.tokenizer, torch.device(device).type
    mean, std = (
        torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (clip.preprocess["mean"], clip.preprocess["std"])
    )
    trained = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    patches, begun = (clip.image_size // clip.patch_size) ** 2, time.perf_counter()
    bf16 = precision("auto", torch.device(device)) == "bf16"
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc="pretraining", unit="step")
    with ThreadPoolExecutor(1) as drawer:  # the next batch is drawn while this one is learned from
        ahead = drawer.submit(draw_batch, pool, recipe, start, clip.image_size)
        for step in bar:
            batch = ahead.result()
            if step + 1 < recipe.steps:
                ahead = drawer.submit(draw_batch, pool, recipe, step + 1, clip.image_size)
            rate = recipe.lr * learning_rate(recipe, step)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate
            rng = np.random.default_rng([DATA_SEED, 10, recipe.seed, step])
            keep = None
            if step < recipe.steps - recipe.whole_steps:
                kept = int(patches * (1 - recipe.patch_dropout))
                order = rng.permuted(np.tile(np.arange(patches), (recipe.batch, 1)), axis=1)[:, :kept]
                keep = torch.from_numpy(np.sort(order, axis=1)).to(device)
            images = (batch.images.to(device).float() / 255 - mean) / std
            facts, known = batch.facts.to(device), batch.known.to(device)
            phrases = [grammar.phrase(*fact, rng) for fact in FACTS]
            with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                seen_through = walk(visual, images, layers=(clip.layers - 1,), patches=True, keep=keep)
                values = project(visual, value_path(visual, seen_through.patch_taps[0]))
                text = encode_tokens(model, tokenizer(batch.texts).to(device))
                words = encode_tokens(model, tokenizer(phrases).to(device))
            image = F.normalize(seen_through.final.float(), dim=-1)
            logits = heads.patch_scale.exp().clamp(max=100) * F.normalize(values.float(), dim=-1) @ words[:_CLASSES].T
            coverage, partial = patch_losses(logits, facts[:, :_CLASSES])
            losses = {
                "contrast": contrastive(image, text, model.logit_scale.exp()),
                "phrases": phrase_loss(heads.phrase_scale.exp() * image @ words.T + heads.phrase_bias, facts, known),
                "coverage": coverage,
                "partial": partial,
            }
            loss = sum(getattr(recipe, name, 1.0) * value for name, value in losses.items())  # contrast: weight 1
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss became {loss.item()} at step {step}: lower lr ({recipe.lr}).")
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
            with nullcontext() if bf16 else Float32():
                for optimiser in optimisers:
                    optimiser.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            row = None
            if step % 20 == 0 or step == recipe.steps - 1:
                row = {"step": step} | {name: round(v.item(), 4) for name, v in {"loss": loss, **losses}.items()}
                bar.set_postfix(row)
                row["images_per_s"] = round((step + 1 - start) * recipe.batch / (time.perf_counter() - begun), 1)
            yield step, row


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

    What is measured is the file as written, loaded again.

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
        "samples": recipe.steps * recipe.batch,
        "facts": len(FACTS),
        "emotion_share": emotion_share(recipe),
        "made": made,
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "weight_hash": shipped.weight_hash,
        "known_answer": known_answer(shipped),
        "measured_64px": evaluate(shipped, HELD_OUT["scenes"]),
        "measured_96px": evaluate(shipped, HELD_OUT["scenes"], side=96),
        "versions": versions(),
    }
    facts = json.loads(json.dumps(facts))  # as a reader of the file will see it
    write_whole(out / "model.json", json.dumps(facts, indent=1) + "\n")
    write_model_card(out)
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: train, measure, write."""
    parser = commands.pretrain()
    a = parser.parse_args(arguments)
    a.device = a.device or ("cuda" if torch.cuda.is_available() else "cpu")
    recipe, stopped = replace(SIZES[a.size], seed=a.seed), a.out / "checkpoint.safetensors"
    begun = time.perf_counter()
    try:
        if a.card:
            write_model_card(a.card)
            return 0
        if any((a.out / name).exists() for name in ("model.safetensors", "model.json")) and not a.force:
            raise ValueError(f"{a.out} already holds a model: choose another folder with --out, or add --force.")
        commands.find_device(a.device)
        a.out.mkdir(parents=True, exist_ok=True)  # now, and not after an hour
        clip, making = train(recipe, device=a.device, workers=a.workers, checkpoint_at=stopped)
    except OSError as error:
        parser.exit(2, f"{a.out} cannot be written to ({error.strerror}): choose another folder with --out.\n")
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    seconds = round(time.perf_counter() - begun)
    making = {"seconds": seconds, "device": a.device, "hardware": hardware(a.device), **making}
    facts = ship(clip.to("cpu"), recipe, making, a.out)
    stopped.unlink(missing_ok=True)
    for name in HEADLINE:
        print(f"{name:18s} {facts['measured_64px'][name]:.3f}")
    print(f"{a.out} holds the weights, model.json and MODEL_CARD.md: load_clip({str(a.out / 'model.safetensors')!r})")
    print(f"Does it stand in for a real CLIP? hc-lafter fidelity made={a.out / 'model.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
