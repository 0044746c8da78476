"""How good predicted masks are, and how sure that is: intersection over union, its intervals, paired comparisons.

B or n images, S seeds, C classes, R resamples. Everything rests on per-image pixel counts (``counts``): an IoU is a
ratio of sums over a whole split, so it is images that are resampled, not their IoUs. All values are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from hc_lafter.analysis import statistics
from hc_lafter.analysis.statistics import Comparison, Estimate

IGNORE = 255  # as in `hc_lafter.data.record`, which nothing here imports
SCORES = ("miou", "seen", "unseen", "harmonic", "pixel_accuracy")
Score = Callable[[np.ndarray], np.ndarray]  # [..., C, 3] counts -> [...]


def counts(predicted, mask, classes: int, ignore: int = IGNORE) -> np.ndarray:
    """[B, C, 3] int64 pixel counts per image and class: intersection, predicted, truth.

    A pixel whose truth is ``ignore`` counts nowhere, whatever was predicted there.

    Args:
        predicted: [B, H, W] class indices, NumPy or a CPU tensor.
        mask: [B, H, W] class indices or ``ignore``.
        classes: C.

    Raises:
        ValueError: shapes that do not agree, no images, values that are not integers, or an index outside 0..C-1.
    """
    predicted, mask = np.asarray(predicted), np.asarray(mask)
    if predicted.ndim != 3 or predicted.shape != mask.shape or predicted.size == 0:
        raise ValueError(
            f"predicted and mask must both be [B, H, W] with B > 0, but are {predicted.shape} and {mask.shape}."
        )
    for name, values in (("predicted", predicted), ("mask", mask)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold class indices, but its type is {values.dtype}.")
    images, valid = len(mask), mask != ignore
    image = np.broadcast_to(np.arange(images)[:, None, None], mask.shape)[valid]
    predicted, mask = predicted[valid].astype(np.int64), mask[valid].astype(np.int64)
    for name, values in (("predicted", predicted), ("mask", mask)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"{name} must hold class indices 0..{classes - 1} where the mask is not {ignore}, but runs from "
                f"{values.min()} to {values.max()}."
            )
    hit = predicted == mask
    parts = ((image[hit], mask[hit]), (image, predicted), (image, mask))
    found = [np.bincount(i * classes + c, minlength=images * classes).reshape(images, classes) for i, c in parts]
    return np.stack(found, axis=-1).astype(np.int64)


def iou(count) -> np.ndarray:
    """[..., C] float64 intersection over union of [..., C, 3] counts; NaN where a class is in neither."""
    count = np.asarray(count, dtype=np.float64)
    both, predicted, truth = np.moveaxis(count, -1, 0)
    union = predicted + truth - both
    return np.divide(both, union, out=np.full_like(union, np.nan), where=union > 0)


def scores(count, unseen=None) -> dict:
    """The scores of counts that are summed over the images of a split.

    ``miou``, ``seen`` and ``unseen``: the mean IoU over all classes, those with and those without pixel labels in
    training; every class competes for every pixel (generalised zero-shot). ``harmonic``: 2 seen unseen / (seen +
    unseen), 0 where both are 0 (Xian et al., TPAMI 41, 2018). ``pixel_accuracy``: share of the pixels named rightly.
    ``iou``: per class. A class that is neither in the truth nor predicted has no IoU (NaN) and is left out of its mean;
    one that is only predicted has IoU 0 and counts. A mean without classes is NaN.

    Args:
        count: [..., C, 3]; leading axes (resamples) are kept.
        unseen: [C] bool; None where there is no split, which leaves ``unseen`` and ``harmonic`` NaN.

    Returns:
        each of `SCORES` -> [...] float64 (a float for [C, 3]), ``iou`` -> [..., C].

    Raises:
        ValueError: shapes that do not agree.
    """
    count = np.asarray(count, dtype=np.float64)
    if count.ndim < 2 or count.shape[-1] != 3:
        raise ValueError(f"counts must be [..., classes, 3], but their shape is {count.shape}.")
    unseen = np.zeros(count.shape[-2], dtype=bool) if unseen is None else np.asarray(unseen)
    if unseen.dtype != bool or unseen.shape != count.shape[-2:-1]:
        raise ValueError(
            f"unseen must be one truth value for each of {count.shape[-2]} classes, but is {unseen.dtype} of shape "
            f"{unseen.shape}."
        )
    per_class = iou(count)
    seen, novel = _mean(per_class[..., ~unseen]), _mean(per_class[..., unseen])
    total = seen + novel
    harmonic = np.divide(2 * seen * novel, total, out=np.where(total == 0, 0.0, np.nan), where=total > 0)
    truth = count[..., 2].sum(axis=-1)
    right = np.divide(count[..., 0].sum(axis=-1), truth, out=np.full_like(truth, np.nan), where=truth > 0)
    values = dict(zip(SCORES, (_mean(per_class), seen, novel, harmonic, right), strict=True))
    return {name: value if value.ndim else float(value) for name, value in values.items()} | {"iou": per_class}


def mean_iou(predicted, mask, classes: int, ignore: int = IGNORE) -> float:
    """The mean over classes of the intersection over union, its pixels summed over all images; a fraction.

    A class that is neither in the truth nor predicted is left out of the mean; one that is only predicted counts as 0.

    Args:
        predicted: [B, H, W] class indices, NumPy or a CPU tensor.
        mask: [B, H, W] class indices, or ``ignore`` where nothing is scored.
        classes: C.

    Raises:
        ValueError: as `counts`.
    """
    return scores(counts(predicted, mask, classes, ignore).sum(axis=0))["miou"]


def measure(name: str, unseen=None) -> Score:
    """The function of [..., C, 3] counts that ``interval_of`` takes: one of `SCORES`.

    Raises:
        ValueError: the name is unknown, or it needs ``unseen`` (bool [C] with both kinds in it) and has none.
    """
    if name not in SCORES:
        raise ValueError(f"score {name!r} is unknown: choose one of {', '.join(SCORES)}.")
    if name in ("seen", "unseen", "harmonic") and (unseen is None or np.all(unseen) or not np.any(unseen)):
        raise ValueError(f"score {name!r} needs seen and unseen classes: give unseen, one truth value per class.")
    return lambda count: np.asarray(scores(count, unseen)[name])


class MaskScore:
    """Masks scored batch by batch; images of different sizes may go in one after the other.

    Equal to torchmetrics' ``MulticlassJaccardIndex(C, average="none", ignore_index=255)`` per class, but for classes
    in neither (NaN here, 0 there), and to its macro average where there is no such class.

    Args:
        classes: C names, as a data set's ``mask_classes``.
        unseen: names of those without pixel labels in training.

    Attributes:
        unseen: [C] bool.
        counts: [n, C, 3] int64 of the n images so far, in their order: what ``interval_of`` resamples.

    Raises:
        ValueError: an unseen name that is none of the classes.
    """

    def __init__(self, classes: Sequence[str], unseen: Sequence[str] = ()):
        self.classes = tuple(classes)
        if odd := sorted(set(unseen) - set(self.classes)):
            raise ValueError(f"unseen names {odd[0]!r}, which is none of the {len(self.classes)} classes: correct it.")
        self.unseen = np.isin(self.classes, list(unseen))
        self._parts = [np.zeros((0, len(self.classes), 3), dtype=np.int64)]

    @property
    def counts(self) -> np.ndarray:
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def update(self, predicted, mask) -> None:
        """Count a batch: [B, H, W] each. Raises ValueError as ``counts``."""
        self._parts.append(counts(predicted, mask, len(self.classes)))

    def compute(self) -> dict:
        """`scores` of all images so far.

        Raises:
            ValueError: there are none.
        """
        if not len(self.counts):
            raise ValueError("no masks have been counted: call update first.")
        return scores(self.counts.sum(axis=0), self.unseen)


def interval_of(count, score: Score | str, **resampling) -> Estimate:
    """A score of whole splits with its confidence interval: `statistics.interval` of counts.

    The value is ``score`` of the counts summed over all images, with seeds the mean of the seeds' scores. A class that
    is in neither truth nor prediction of a draw is left out of that draw's mean, so what an interval over few images
    says of rare classes is rough. On images of one size pixel accuracy has the interval that `statistics.interval`
    gives their means, to rounding.

    Args:
        count: [n, C, 3] or [S, n, C, 3] of ``counts``; column i is the same image for every seed.
        score: of ``measure``, or "miou" or "pixel_accuracy"; larger is better.
        resampling: resamples, confidence, rng_seed, as in ``statistics.interval``.

    Raises:
        ValueError: as in ``statistics.interval``, or counts that are none.
    """
    return statistics.interval(_flat("counts", count), score=_of_flat(score), **resampling)


def paired_of(a, b, score: Score | str, **resampling) -> Comparison:
    """score(a) - score(b) on the same images (and the same seeds), and its verdict: `statistics.paired` of counts.

    Args:
        a, b: as ``count`` in ``interval_of``, of one shape; entry by entry the same image and seed, so that their
            truths agree.
        score, resampling: as in ``interval_of``.

    Raises:
        ValueError: as in ``interval_of``, the shapes differ, or a and b were counted on different masks.
    """
    a, b = _flat("a", a), _flat("b", b)
    if a.shape == b.shape and not np.array_equal(a[..., 2::3], b[..., 2::3]):
        raise ValueError("a and b count different truths: score both on the same masks, in the same order.")
    return statistics.paired(a, b, score=_of_flat(score), **resampling)


def compare_all_of(pairs: Mapping[str, tuple], score: Score | str, **resampling) -> dict[str, Comparison]:
    """`statistics.compare_all` for one score of all pairs (a, b), each as in ``paired_of``."""
    return statistics.compare_all(pairs, compare=partial(paired_of, score=score), **resampling)


def estimates(counts: Mapping[str, np.ndarray], scores: Mapping[str, str], unseen=None, **options) -> pd.DataFrame:
    """A row per score and system: metric, system, value, low, high, n, seeds (`interval_of`).

    Args:
        counts: system -> [n, C, 3] or [S, n, C, 3].
        scores: what a score is called in the table -> one of `SCORES`.
        unseen: as for `measure`. options: resamples and rng_seed.
    """
    return pd.DataFrame([
        {"metric": metric, "system": system, **vars(interval_of(count, measure(score, unseen), **options))}
        for metric, score in scores.items()
        for system, count in counts.items()
    ])  # fmt: skip


def differences(
    counts: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    scores: Mapping[str, str],
    unseen=None,
    **options,
) -> pd.DataFrame:
    """A row per score and pair (a, b), for a - b: metric, and the columns of `statistics.differences`.

    Each score is a table of its own: Holm's correction is over the pairs (`compare_all_of`).

    Args:
        counts, unseen: as for `estimates`. scores: what a score is called in the table -> one of `SCORES`.
        options: resamples, rng_seed and, where the scores are not the whole family, its number of tables.
    """
    both, found = {pair: statistics.alike(*(counts[name] for name in pair)) for pair in pairs}, []
    for metric, score in scores.items():
        table = statistics.tabled(compare_all_of(both, measure(score, unseen), **options))
        table.insert(0, "metric", metric)
        found.append(table)
    return pd.concat(found, ignore_index=True)


def _mean(values: np.ndarray) -> np.ndarray:
    """Means of [..., K] values without their NaNs; NaN where nothing is left."""
    known = ~np.isnan(values)
    number = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _of_flat(score: Score | str) -> Score:
    """The score as a function of [..., C * 3] counts."""
    score = measure(score) if isinstance(score, str) else score
    return lambda sums: score(sums.reshape(*sums.shape[:-1], -1, 3))


def _flat(name: str, count) -> np.ndarray:
    """[..., C, 3] -> [..., C * 3] float64, after a look at what they are."""
    count = np.asarray(count)
    if count.ndim not in (3, 4) or count.shape[-1] != 3 or count.shape[-2] == 0:
        raise ValueError(
            f"{name} must be [images, classes, 3] or [seeds, images, classes, 3], but its shape is {count.shape}."
        )
    if count.dtype.kind not in "iu" or (count < 0).any() or (count[..., :1] > count[..., 1:]).any():
        raise ValueError(
            f"{name} ({count.dtype}) must hold numbers of pixels, no intersection above its prediction or its truth: "
            "give what hc_lafter.analysis.segmentation.counts returns."
        )
    if count.ndim == 4 and (count[..., 2] != count[:1, ..., 2]).any():
        raise ValueError(f"{name} counts another truth for another seed: score every seed on the same masks, in order.")
    return count.reshape(*count.shape[:-2], -1).astype(np.float64)  # exact, and what a resample's sums are made of
