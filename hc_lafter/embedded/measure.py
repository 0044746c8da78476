"""What both cards read out of the embedded CLIP's features of a drawn world, each reading written once.

n images, K mask classes, N = h x w patches, W tower width, D embedding size, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hc_lafter.analysis.probe import zero_shot_logits
from hc_lafter.analysis.segmentation import MaskScore
from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import EMOTION_TEMPLATES, class_embeddings
from hc_lafter.clip.vit import project, value_path
from hc_lafter.data.world import grammar, painter, scene
from hc_lafter.data.world.dataset import World, visible_classes
from hc_lafter.systems.masks import enlarge, mask_logits
from hc_lafter.tuning.features import tap
from hc_lafter.tuning.masks import patch_shares

CLASSES = painter.MASK_CLASSES
# What `evaluate` looks at by default: a world of its own, so that no choice made by it touches a notebook's test split.
HELD_OUT = {"seed": 2000, "split": "test", "scenes": 2000}
HEADLINE = ("zero-shot top-1", "R@1 of 500", "object mAP", "mIoU", "mIoU seen", "mIoU unseen")
CHUNK = 100  # images whose masks are held at full size at once


def emotion_text(clip: Clip) -> Tensor:
    """[8, D] one embedding per emotion, its name in templates."""
    return class_embeddings(clip, scene.EMOTIONS, EMOTION_TEMPLATES)


def object_text(clip: Clip) -> Tensor:
    """[K, D] one embedding per mask class, its usual word in templates."""
    return class_embeddings(clip, [grammar.SYNONYMS[name][0] for name in CLASSES], grammar.CLASS_TEMPLATES)


def named(features, text, truth: np.ndarray) -> np.ndarray:
    """[n] bool: is the class text [C, D] nearest to a feature [n, D] that of its true class [n]?"""
    return zero_shot_logits(features, text, 1.0).argmax(1) == truth


def found(clip: Clip, features: Tensor, captions: Sequence[str]) -> np.ndarray:
    """[n] bool: is a picture's own caption the nearest of all? Where pictures share a sentence either is right."""
    image = torch.nn.functional.normalize(features[: len(captions)], dim=-1)
    nearest = (image @ clip.encode_text(captions).T).argmax(1)
    return np.array([captions[i] == captions[j] for i, j in enumerate(nearest)])


def visible(masks: np.ndarray) -> np.ndarray:
    """[n, K] bool: the classes that can be seen in masks [n, H, W], as captions count them."""
    return np.array([np.isin(CLASSES, visible_classes(mask)) for mask in masks])


def maps(clip: Clip, before: Tensor, masks: Tensor, objects: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Scores [n, K, H, W] of the value path, and of an oracle that knows each patch's share of every class.

    Args:
        before: [n, N, W], patches behind the last block but one.
        masks: [n, H, W], the truth: the oracle's knowledge, and the size that is wanted.
        objects: `object_text`.
        grid: (h, w).
    """
    size = tuple(masks.shape[1:])
    values = project(clip.visual, value_path(clip.visual, before))
    return {
        "value path": mask_logits(values, objects, grid, size),
        "oracle": enlarge(patch_shares(masks, grid, len(CLASSES)), size),
    }


def average_precision(score: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[R] average precision of scores [n] for truths [n] in {0, 1}, image i counted weight[r, i] times.

    scikit-learn's ``average_precision_score`` with sample weights, for many weights at once; NaN without positives.
    Two images of one score are taken in their order, which scikit-learn takes together.
    """
    order = np.argsort(-score, kind="stable")
    w, hit = weight[:, order].astype(np.float64), truth[order].astype(np.float64)
    hits = w * hit
    precision = np.cumsum(hits, axis=1) / np.maximum(np.cumsum(w, axis=1), 1e-12)
    total = hits.sum(axis=1)
    return np.divide((hits * precision).sum(axis=1), total, out=np.full(len(w), np.nan), where=total > 0)


@torch.inference_mode()
def evaluate(
    clip: Clip, n: int = HELD_OUT["scenes"], *, seed: int = HELD_OUT["seed"], side: int | None = None, batch: int = 32
) -> dict[str, float]:
    """The numbers of the model card, on the test split of a world that training never saw. All are fractions.

    Args:
        clip: the CLIP to measure, on the CPU.
        n: test scenes; retrieval takes the first 500 of them.
        seed: of the world.
        side: pixels of the pictures; None for the tower's own. Positions are interpolated to another one.
        batch: pictures per walk through the tower.

    Returns:
        ``zero-shot top-1`` (the votes' label; class names in `hc_lafter.clip.text.EMOTION_TEMPLATES`), ``R@1 of 500``
        (picture to caption, whole views), ``object mAP`` (presence of each thing, by the picture's cosine with its
        phrase), and of the value path ``mIoU``, ``mIoU seen``, ``mIoU unseen``, ``IoU <class>`` (argmax over all mask
        classes; seen and unseen as `hc_lafter.data.world.painter` splits them for the systems that learn from masks:
        this training saw no mask of either); ``oracle mIoU``. A class that is neither there nor predicted does not
        count.
    """
    side = side or clip.image_size
    world = World(0, 0, n, side=side, seed=seed)
    seen = tap(clip, world, layers=(clip.layers - 1,), patches=True, batch_size=batch, size=(side, side))
    records = [world[i] for i in range(n)]
    masks, objects = np.stack([record.mask for record in records]), object_text(clip)
    score = {name: MaskScore(CLASSES, painter.UNSEEN) for name in ("value path", "oracle")}
    for start in range(0, n, CHUNK):
        some = slice(start, start + CHUNK)
        truth = torch.from_numpy(masks[some])
        for name, scores in maps(clip, seen.patches[some, 0], truth, objects, seen.grid).items():
            score[name].update(scores.argmax(1), truth)
    dense = score["value path"].compute()
    present, likeness, once = visible(masks), zero_shot_logits(seen.final, objects, 1.0), np.ones((1, n))
    things = [i for i in map(CLASSES.index, painter.THINGS) if present[:, i].any()]
    return {
        "zero-shot top-1": float(named(seen.final, emotion_text(clip), world.labels).mean()),
        "R@1 of 500": float(found(clip, seen.final, [record.captions[0] for record in records[:500]]).mean()),
        "object mAP": float(np.mean([average_precision(likeness[:, i], present[:, i], once) for i in things])),
        "mIoU": dense["miou"],
        "mIoU seen": dense["seen"],
        "mIoU unseen": dense["unseen"],
        "oracle mIoU": score["oracle"].compute()["miou"],
        **{f"IoU {c}": float(value) for c, value in zip(CLASSES, dense["iou"], strict=True) if np.isfinite(value)},
    }
