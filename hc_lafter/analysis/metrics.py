"""How good predictions are: per class, as a confusion matrix, as probabilities; and an alarm. Arrays in, numbers out.

B images, C classes. NumPy arrays or CPU tensors of labels [B] (indices 0..C-1), logits or probabilities [B, C].
How far label distributions lie apart is measured by ``hc_lafter.data.emotion.wheels.distribution_metrics``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

TEMPERATURES = (0.01, 100.0)  # what ``temperature`` searches


@dataclass(frozen=True)
class Calibration:
    """How far stated confidence is true, in M bins of equal width over 0..1.

    Attributes:
        ece: expected calibration error: mean of |accuracy - confidence| over the bins, weighted by ``share``.
        confidence: [M] mean probability of the predicted class; NaN in an empty bin.
        accuracy: [M] fraction of right predictions; NaN in an empty bin.
        share: [M] fraction of the images in each bin; sums to one.
    """

    ece: float
    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray


def softmax64(logits) -> np.ndarray:
    """[..., C] float64 probabilities of logits of any float type, summing to one along the last axis.

    Distribution metrics want float64: a probability that fp32 rounds to 0 makes KL infinite.
    """
    return softmax(np.asarray(logits, dtype=np.float64), axis=-1)


def per_class(prediction, truth, classes: int) -> dict[str, np.ndarray]:
    """``precision``, ``recall`` and ``support``, [C] each.

    Recall, the fraction of a class's images that are named rightly, is what is also called the per-class accuracy;
    weighted by ``support`` (images of each class, int64) its mean is the accuracy. NaN where there is nothing to judge:
    the precision of a class that was never predicted, the recall of a class without images.

    Args:
        prediction, truth: [B] class indices.
        classes: C.

    Raises:
        ValueError: no images, lengths that do not agree, or an index outside 0..C-1.
    """
    prediction, truth = _labels(classes, prediction=prediction, truth=truth)
    precision, recall, _, support = precision_recall_fscore_support(
        truth, prediction, labels=np.arange(classes), zero_division=np.nan
    )
    return {"precision": precision, "recall": recall, "support": support.astype(np.int64)}


def confusion(prediction, truth, classes: int) -> np.ndarray:
    """[C, C] int64 counts: row the true class, column the predicted one.

    Args and errors: as ``per_class``.
    """
    prediction, truth = _labels(classes, prediction=prediction, truth=truth)
    return confusion_matrix(truth, prediction, labels=np.arange(classes)).astype(np.int64)


def calibration(probabilities, truth, *, bins: int = 15) -> Calibration:
    """Top-label calibration (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2).

    Bins as torchmetrics has them, [m / M, (m + 1) / M), except that a confidence of exactly 1 stays in the last bin:
    torchmetrics opens one more for it.

    Args:
        probabilities: [B, C], rows sum to one.
        truth: [B] class indices.
        bins: M.

    Raises:
        ValueError: labels as ``per_class``, or rows that are not distributions.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    (truth,) = _labels(p.shape[1], truth=truth)
    wrong = ~((p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"probabilities row {row} is not a distribution (it sums to {p[row].sum():.4g}): take a softmax."
        )
    top, right = p.max(axis=1), p.argmax(axis=1) == truth
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, top, side="right") - 1, 0, bins - 1)
    count, confidence, accuracy = (np.bincount(which, weights=w, minlength=bins) for w in (None, top, right))
    ece = np.abs(accuracy - confidence).sum() / len(p)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return Calibration(float(ece), confidence / count, accuracy / count, count / len(p))


def temperature(val_logits, val_truth) -> float:
    """T > 0 that makes softmax(logits / T) likeliest on VALIDATION images (Guo et al., ICML 2017, section 4.2).

    One number for all classes: no prediction changes, only how sure it is. Found as the root of the likelihood's
    derivative in 1 / T, in which it is concave, so there is one at most; searched in `TEMPERATURES`. An end of that
    range means that there is none: with every validation image right the likelihood grows for ever as T falls.

    Args:
        val_logits: [B, C].
        val_truth: [B] class indices.

    Raises:
        ValueError: labels as ``per_class``, or logits that are not finite.
    """
    z = np.asarray(val_logits, dtype=np.float64)
    (truth,) = _labels(z.shape[1], truth=val_truth)
    if not np.isfinite(z).all():
        raise ValueError("the logits hold values that are not finite: look at the run that they come from.")
    z = z - z.max(axis=1, keepdims=True)
    named = z[np.arange(len(z)), truth].mean()

    def slope(log_t: float) -> float:
        """Of the mean log likelihood in 1 / T: positive where a smaller T is likelier."""
        return named - (softmax(z / np.exp(log_t), axis=1) * z).sum(axis=1).mean()

    low, high = np.log(TEMPERATURES)
    if slope(low) >= 0:
        return TEMPERATURES[0]
    if slope(high) <= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-12)))


def tempered(logits, val_logits, val_truth) -> np.ndarray:
    """[..., B, C] float64 probabilities, at the `temperature` of each run's own validation images.

    Args:
        logits: [B, C], or [S, B, C] with a row per run.
        val_logits: [V, C] or [S, V, C]. val_truth: [V] class indices.
    """
    if np.ndim(logits) == 2:
        return softmax64(np.asarray(logits) / temperature(val_logits, val_truth))
    return np.stack([tempered(z, v, val_truth) for z, v in zip(logits, val_logits, strict=True)])


def collapse(prediction, truth, classes: Sequence[str]) -> str | None:
    """The alarm of a classifier that names one class nearly always: a sentence, or None.

    A text-trained classifier can meet images that all lie nearer to one of its texts. The alarm sounds where one class
    takes over half of the predictions; where that class truly makes up t, half of the images or more, it takes over
    0.5 + t / 2: more than every second image of the other classes would have to be drawn to it.

    Args:
        prediction, truth: [B] class indices.
        classes: C names.

    Raises:
        ValueError: no images, lengths that do not agree, or an index outside 0..C-1.
    """
    prediction, truth = _labels(len(classes), prediction=prediction, truth=truth)
    named = np.bincount(prediction, minlength=len(classes))
    top = int(named.argmax())
    share, true_share = named[top] / len(truth), float((truth == top).mean())
    if share <= (0.5 + true_share / 2 if true_share >= 0.5 else 0.5):
        return None
    return (
        f"{share:.0%} of {len(truth)} predictions are {classes[top]!r}, the class of {true_share:.0%} of the images: "
        "the classifier has collapsed, read its accuracy as such."
    )


def effective_number(weights) -> float:
    """exp(entropy) of weights [K] >= 0, scaled to sum to one: how many equal weights would be spread as widely.

    1 where one weight has all, K where all are equal; ecology's Hill number of order 1 (Hill, Ecology 54, 1973).
    """
    shares = np.asarray(weights, dtype=np.float64)
    return float(np.exp(entr(shares / shares.sum()).sum()))


def _labels(classes: int, **arrays) -> list[np.ndarray]:
    """The label arrays as int64 [B], after a look at their lengths and range."""
    out = []
    for name, array in arrays.items():
        y = np.asarray(array)
        if y.ndim != 1 or len(y) == 0 or (out and len(y) != len(out[0])):
            raise ValueError(f"{name} must be one label for each of B > 0 images, but its shape is {y.shape}.")
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"{name} must hold class indices 0..{classes - 1}, but runs from {y.min()} to {y.max()} ({y.dtype})."
            )
        out.append(y.astype(np.int64))
    return out
