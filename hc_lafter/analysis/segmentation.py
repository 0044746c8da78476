"""How good predicted masks are, and how sure that is: intersection over union, its intervals, paired comparisons.

B or n images, S seeds, C classes, R resamples. Everything rests on per-image pixel counts (``counts``): an IoU is a
ratio of sums over a whole split, so it is images that are resampled, not their IoUs. All values are fractions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from hc_lafter.analysis import statistics
from hc_lafter.analysis.statistics import MIN_IMAGES, MIN_SEEDS, Comparison, Estimate

IGNORE = 255  # as in `hc_lafter.data.record`, which nothing here imports
SCORES = ("miou", "seen", "unseen", "harmonic", "pixel_accuracy")
Score = Callable[[np.ndarray], np.ndarray]  # [..., C, 3] counts -> [...]
_BCA_LIMIT = 2000  # as in ``statistics``: BCa's jackknife costs n^2
_CHUNK = 4_000_000  # resampled positions held at once (32 MB)


def counts(predicted, mask, classes: int, ignore: int = IGNORE) -> np.ndarray:
    """[B, C, 3] int64 pixel counts per image and class: intersection, predicted, truth.

    A pixel whose truth is ``ignore`` counts nowhere, whatever was predicted there.

    Args:
        predicted: [B, H, W] class indices, NumPy or a CPU tensor.
        mask: [B, H, W] class indices or ``ignore``.
        classes: C.

    Raises:
        ValueError: shapes that do not agree, no images, values that are no integers, or an index outside 0..C-1.
    """
    predicted, mask = np.asarray(predicted), np.asarray(mask)
    if predicted.ndim != 3 or predicted.shape != mask.shape or predicted.size == 0:
        raise ValueError(
            f"predicted and mask must both be [B, H, W] with B > 0, but are {predicted.shape} and {mask.shape}."
        )
    for name, values in (("predicted", predicted), ("mask", mask)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold class indices, but its type is {values.dtype}.")
    images = len(mask)
    valid = mask != ignore
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


def interval_of(count, score: Score | str, *, resamples: int, confidence: float = 0.95, rng_seed: int) -> Estimate:
    """A score of whole splits with its confidence interval.

    The value is ``score`` of the counts summed over all images, with seeds the mean of the seeds' scores. A resample
    draws images with replacement, sums their counts and takes the score of the sum. [n, C, 3]: bias-corrected
    accelerated bootstrap (Efron, JASA 82, 1987), plain percentiles above 2,000 images and where that is undefined.
    [S, n, C, 3]: images and S - 1 seeds drawn independently, percentiles, exactly as ``statistics.interval`` does with
    [seeds, n] values, and with the same reserve about few seeds. A class that is in neither truth nor prediction of a
    draw is left out of that draw's mean, so what an interval over few images says of rare classes is rough.

    Where no draw differs from the value the bootstrap would collapse to a point: a score of exactly 0 or 1 then gets
    Wilson's interval over n images, as if each were wholly wrong or wholly right.

    Args:
        count: [n, C, 3] or [S, n, C, 3] of ``counts``; column i is the same image for every seed.
        score: of ``measure``, or "miou" or "pixel_accuracy".
        resamples, confidence, rng_seed: as in ``statistics.interval``.

    Raises:
        ValueError: fewer than 10 images, fewer than 2 seeds in a 4-d array, counts that are none, an argument out of
            range, or a score that is not defined for the whole or for a draw of it.
    """
    score = _score(score)
    count = _checked("counts", count, resamples, confidence)
    value, n = _value(count, score), count.shape[-3]
    low, high, draws = _bootstrap((count,), score, resamples, confidence, rng_seed, "BCa")
    if value in (0.0, 1.0) and (draws == value).all():
        low, high = stats.binomtest(round(value * n), n).proportion_ci(confidence, method="wilson")
    return Estimate(value, float(low), float(high), n, _seeds(count))


def paired_of(a, b, score: Score | str, *, resamples: int, confidence: float = 0.95, rng_seed: int) -> Comparison:
    """System a against system b on the same images (and the same seeds): score(a) - score(b) and its verdict.

    Every draw takes the same images and seeds for both. Interval, verdict and p follow ``statistics.paired`` (for pixel
    accuracy on images of one size the two agree to rounding): percentiles; ``better`` or ``worse`` where the interval
    leaves out zero AND enough images differ for the two-sided sign test to decide at all; p twice the share of draws on
    the rarer side of zero, each count raised by one, and not below the sign test's least. A ratio has no differences
    per image, so an image differs here where exchanging a's counts of it for b's changes the score. Where none does,
    the interval is that of ``statistics.paired`` for a tie: the share of images that n draws would miss.

    Args:
        a, b: [n, C, 3] or [S, n, C, 3] each, of one shape; entry by entry the same image and seed, so that their
            truths agree.
        score: larger is better; otherwise as in ``interval_of``.
        resamples, confidence, rng_seed: as in ``interval_of``.

    Raises:
        ValueError: as in ``interval_of``, the shapes differ, or a and b were counted on different masks.
    """
    score = _score(score)
    a, b = (_checked(name, x, resamples, confidence) for name, x in (("a", a), ("b", b)))
    if a.shape != b.shape:
        raise ValueError(
            f"a paired comparison needs the same images, seeds and classes on both sides, but a is {a.shape} and b is "
            f"{b.shape}."
        )
    if not np.array_equal(a[..., 2], b[..., 2]):
        raise ValueError("a and b count different truths: score both on the same masks, in the same order.")
    difference, n = _value(a, score) - _value(b, score), a.shape[-3]
    low, high, draws = _bootstrap((a, b), score, resamples, confidence, rng_seed, "percentile")
    differing = _differing(a, b, score)
    if not differing:
        high = 1 - (1 - confidence) ** (1 / n)
        low = -high
    least_p = min(1.0, 2 * 0.5**differing)
    decidable = least_p < 1 - confidence
    verdict = "better" if decidable and low > 0 else "worse" if decidable and high < 0 else "no difference"
    draws = np.where(np.abs(draws) > 1e-12, draws, 0.0)  # a tie but for its rounding: scores are fractions
    rarer = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    p = max(least_p, min(1.0, 2 * (rarer + 1) / (len(draws) + 1)))
    return Comparison(difference, float(low), float(high), n, _seeds(a), verdict, float(p))


def compare_all_of(
    pairs: Mapping[str, tuple], score: Score | str, *, resamples: int, confidence: float = 0.95, rng_seed: int
) -> dict[str, Comparison]:
    """All comparisons of one table, with Holm's correction: ``statistics.compare_all`` for scores of masks.

    Args:
        pairs: name -> (a, b), each as in ``paired_of``.
        score: one for all pairs.
        resamples, confidence, rng_seed: as in ``statistics.compare_all``.

    Raises:
        ValueError: there are no pairs, or as in ``paired_of``, with the pair's name.
    """
    compare = partial(paired_of, score=_score(score))
    return statistics.compare_all(pairs, resamples=resamples, confidence=confidence, rng_seed=rng_seed, compare=compare)


def estimates(counts: Mapping[str, np.ndarray], scores: Mapping[str, str], unseen=None, **how) -> pd.DataFrame:
    """A row per score and system: metric, system, value, low, high, n, seeds (`interval_of`).

    Args:
        counts: system -> [n, C, 3] or [S, n, C, 3].
        scores: what a score is called in the table -> one of `SCORES`.
        unseen: as for `measure`. how: resamples and rng_seed.
    """
    return pd.DataFrame([
        {"metric": metric, "system": system, **vars(interval_of(count, measure(score, unseen), **how))}
        for metric, score in scores.items()
        for system, count in counts.items()
    ])  # fmt: skip


def differences(
    counts: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    scores: Mapping[str, str],
    unseen=None,
    **how,
) -> pd.DataFrame:
    """A row per score and pair (a, b), for a - b: metric, system, minus, value, low, high, ..., verdict, p, p_holm.

    Each score is a table of its own: Holm's correction is over the pairs (`compare_all_of`).
    """
    both, found = {pair: tuple(counts[name] for name in pair) for pair in pairs}, []
    for metric, score in scores.items():
        compared = compare_all_of(both, measure(score, unseen), **how)
        found += [{"metric": metric, "system": a, "minus": b, **vars(c)} for (a, b), c in compared.items()]
    return pd.DataFrame(found)


def _mean(values: np.ndarray) -> np.ndarray:
    """Means of [..., K] values without their NaNs; NaN where nothing is left."""
    known = ~np.isnan(values)
    number = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _score(score: Score | str) -> Score:
    return measure(score) if isinstance(score, str) else score


def _seeds(count: np.ndarray) -> int:
    return len(count) if count.ndim == 4 else 1


def _value(count: np.ndarray, score: Score) -> float:
    value = float(np.mean(score(count.sum(axis=-3))))
    if not np.isfinite(value):
        raise ValueError("the score is not defined for these masks, which hold none of its classes: give more images.")
    return value


def _differing(a: np.ndarray, b: np.ndarray, score: Score) -> int:
    """Images, of any seed, in which exchanging a's counts for b's changes a's score."""
    total = a.sum(axis=-3, keepdims=True)
    changed = score(total - a + b) != score(total)  # [n] or [S, n]; sums of integers, so equal counts are equal scores
    return int(np.atleast_2d(changed).any(axis=0).sum())


def _bootstrap(
    systems: tuple[np.ndarray, ...], score: Score, resamples: int, confidence: float, rng_seed: int, method: str
) -> tuple:
    """(low, high, [resamples] draws) of the score of one system, or of the first's less the second's."""
    n, seeds = systems[0].shape[-3], _seeds(systems[0])

    def at(images: np.ndarray, axis: int = -1) -> np.ndarray:
        """[..., R] values of [R, m] positions of images (one value of [m]); the leading axis is of seeds."""
        values = [_drawn(count, np.atleast_2d(images), score) for count in systems]
        values = values[0] if len(values) == 1 else values[0] - values[1]
        return values if images.ndim == 2 else values[..., 0]

    rng, step = np.random.default_rng(rng_seed), max(1, _CHUNK // n)
    tail = (1 - confidence) / 2
    if systems[0].ndim == 4:
        draws = np.empty(resamples)
        for start in range(0, resamples, step):  # drawn as ``statistics._crossed`` draws, where the reasons stand
            number = min(step, resamples - start)
            rows = rng.integers(seeds, size=(number, seeds - 1))
            values = at(rng.integers(n, size=(number, n)))  # [S, R]
            draws[start : start + number] = np.take_along_axis(values.T, rows, axis=1).mean(axis=1)
        return *np.quantile(draws, (tail, 1 - tail)), draws
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # BCa of draws that are all equal: 0 / 0
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(n),),
            at,
            n_resamples=resamples,
            batch=step,
            vectorized=True,
            confidence_level=confidence,
            method=method if n <= _BCA_LIMIT else "percentile",
            rng=rng,
        )
    low, high = found.confidence_interval
    draws = found.bootstrap_distribution
    if np.isnan(low) or np.isnan(high):
        low, high = np.quantile(draws, (tail, 1 - tail))
    return low, high, draws


def _drawn(count: np.ndarray, images: np.ndarray, score: Score) -> np.ndarray:
    """[R] or [S, R] scores of the counts summed over [R, m] positions of images."""
    n, draws = count.shape[-3], len(images)
    row = np.arange(draws)[:, None] * n
    weights = np.bincount((images + row).ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
    total = weights @ count.reshape(*count.shape[:-2], -1)  # [(S,) R, C * 3]: how often each image was drawn
    values = score(total.reshape(*total.shape[:-1], *count.shape[-2:]))
    if lost := np.count_nonzero(np.isnan(values)):
        raise ValueError(
            f"the score is not defined in {lost} draws of {n} images, which hold none of its classes: give more images."
        )
    return values


def _checked(name: str, count, resamples: int, confidence: float) -> np.ndarray:
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
    if count.shape[-3] < MIN_IMAGES:
        raise ValueError(f"{name} holds {count.shape[-3]} images, too few for an interval: give at least {MIN_IMAGES}.")
    if count.ndim == 4 and len(count) < MIN_SEEDS:
        raise ValueError(
            f"{name} holds {len(count)} seed, too few for an interval over seeds: give at least {MIN_SEEDS}, "
            "or [images, classes, 3] for an interval over images alone."
        )
    if count.ndim == 4 and (count[..., 2] != count[:1, ..., 2]).any():
        raise ValueError(f"{name} counts another truth for another seed: score every seed on the same masks, in order.")
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}, too few for the ends of an interval: give at least 100.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")
    return count.astype(np.float64)  # exact, and what the sums of a resample are multiplied in
