"""What a layer already knows: the linear probe and the zero-shot classifier. Arrays in, arrays out.

The probe asks what can be read off a feature with labels (Alain & Bengio, "Understanding intermediate layers using
linear classifier probes", ICLR workshop 2017; protocol after Radford et al., ICML 2021, section 3.2); zero-shot asks
what the text encoder's words can read off it without any. Every function takes NumPy arrays or CPU tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

_MAX_ITER = 2000  # the embedded CLIP's layers need some 20 to 300 iterations; a stop here is reported


@dataclass(frozen=True)
class ProbeResult:
    """A linear probe, chosen on validation, applied to the test images.

    Attributes:
        prediction: [B] int64, the likeliest class of each test image.
        probabilities: [B, C] float64, rows sum to one; a class that the training labels lack has probability 0.
        c: the inverse regularisation strength that did best on validation, the smallest of equals.
        val_accuracy: validation accuracy (fraction) of every C that was tried.
        unconverged: the Cs whose optimiser stopped before it converged: empty in a sound result.
        weight, bias: [C, D] and [C] float64, the chosen probe as a linear map of features as they came in; a class that
            the training labels lack has bias -inf.
    """

    prediction: np.ndarray
    probabilities: np.ndarray
    c: float
    val_accuracy: dict[float, float]
    unconverged: tuple[float, ...]
    weight: np.ndarray
    bias: np.ndarray


def linear_probe(
    train_x, train_y, val_x, val_y, test_x, *, cs: Sequence[float], classes: int | None = None
) -> ProbeResult:
    """Multinomial logistic regression with L2 penalty on standardised features.

    Mean and scale come from the training images alone, C from validation accuracy alone; the test images take part in
    nothing. Cs are fitted in ascending order, each from the solution before it (the optimum does not depend on the
    start, the time does). A C that does not converge raises scikit-learn's ``ConvergenceWarning`` and is listed in the
    result.

    Args:
        train_x, val_x, test_x: [B, D] features, each with its own B.
        train_y, val_y: [B] class indices.
        cs: inverse regularisation strengths to choose from, each above 0.
        classes: C; default one more than the largest label.

    Raises:
        ValueError: no or non-positive Cs, training labels of one class only, or what scikit-learn refuses: features
            that are not finite, lengths or widths that do not agree.
    """
    cs = sorted({float(c) for c in cs})
    if not cs or cs[0] <= 0 or not np.isfinite(cs).all():
        raise ValueError(f"cs is {cs}, but the probe needs at least one C and every C above 0, such as 0.01.")
    train_x, val_x, test_x = (np.asarray(x, dtype=np.float64) for x in (train_x, val_x, test_x))
    train_y, val_y = np.asarray(train_y), np.asarray(val_y)
    classes = int(max(train_y.max(), val_y.max())) + 1 if classes is None else classes
    if (train_y == train_y[0]).all():
        raise ValueError(f"all {len(train_y)} training labels are {train_y[0]}: a probe needs two classes or more.")

    scaler = StandardScaler().fit(train_x)
    train_x, val_x, test_x = (scaler.transform(x) for x in (train_x, val_x, test_x))
    model = LogisticRegression(max_iter=_MAX_ITER, warm_start=True)
    accuracy, unconverged, best = {}, [], None
    for c in cs:
        with threadpool_limits(1):  # products this small are ten times slower on two BLAS threads (measured)
            model.set_params(C=c).fit(train_x, train_y)
        accuracy[c] = float((model.predict(val_x) == val_y).mean())
        if model.n_iter_.max() >= _MAX_ITER:
            unconverged.append(c)
        if best is None or accuracy[c] > accuracy[best]:
            best, found = c, model.predict_proba(test_x)
            coefficients, intercepts = model.coef_.copy(), model.intercept_.copy()
    probabilities = np.zeros((len(test_x), classes))
    probabilities[:, model.classes_] = found
    if len(coefficients) == 1:  # two classes: scikit-learn keeps the second one's half alone
        coefficients = np.vstack([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight, bias = np.zeros((classes, train_x.shape[1])), np.full(classes, -np.inf)
    weight[model.classes_] = coefficients / scaler.scale_  # the standardisation, folded in
    bias[model.classes_] = intercepts - weight[model.classes_] @ scaler.mean_
    return ProbeResult(probabilities.argmax(axis=1), probabilities, best, accuracy, tuple(unconverged), weight, bias)


def zero_shot_logits(features, class_text, logit_scale: float) -> np.ndarray:
    """[B, C] float64: cosine of every feature with every class text, times the logit scale.

    Args:
        features: [B, D] image features in the shared space (a layer's CLS first goes through ``vit.project``).
        class_text: [C, D] one embedding per class: the mean of its normalised text features. Both are normalised here.
        logit_scale: the multiplier itself (100 for CLIP), not its logarithm.
    """
    features, class_text = (np.asarray(x, dtype=np.float64) for x in (features, class_text))
    unit, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, class_text))
    return logit_scale * unit @ text.T
