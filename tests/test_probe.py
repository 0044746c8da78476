"""The linear probe and the zero-shot classifier on inputs with known answers."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hc_lafter.analysis import probe
from hc_lafter.analysis.probe import linear_probe, zero_shot_logits

CS = (0.001, 0.01, 0.1, 1.0)


def blobs(n: int, seed: int, noise: float = 1.0, classes: int = 4, width: int = 12):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = np.arange(n) % classes
    return (centres[labels] + noise * rng.normal(size=(n, width))).astype(np.float32), labels


def test_separable_classes_are_found():
    train, val, test = blobs(80, 0, 0.05), blobs(40, 1, 0.05), blobs(40, 2, 0.05)
    got = linear_probe(*train, *val, test[0], cs=CS)
    assert (got.prediction == test[1]).all()
    assert got.probabilities.shape == (40, 4)
    np.testing.assert_allclose(got.probabilities.sum(axis=1), 1, atol=1e-12)
    assert got.unconverged == ()


def test_ties_go_to_the_smaller_c_whatever_the_order():
    train, val, test = blobs(80, 0, 0.05), blobs(40, 1, 0.05), blobs(40, 2, 0.05)
    got = linear_probe(*train, *val, test[0], cs=CS[::-1])
    assert set(got.val_accuracy.values()) == {1.0} and list(got.val_accuracy) == list(CS)
    assert got.c == CS[0]


def test_warm_path_finds_the_cold_optimum():
    """The oracle: each C fitted alone from zero; the probabilities are those of the chosen one, not of the last."""
    train, val, test = blobs(60, 0, 1.5), blobs(40, 1, 1.5), blobs(40, 2, 1.5)
    got = linear_probe(*train, *val, test[0], cs=CS)
    assert len(set(got.val_accuracy.values())) > 1 and got.c < CS[-1], "this data must make C matter"
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0)
    accuracy = {}
    for c in CS:
        cold = LogisticRegression(C=c, max_iter=5000).fit((train[0] - mean) / scale, train[1])
        accuracy[c] = cold.score((val[0] - mean) / scale, val[1])
        if c == got.c:
            # both stop at a gradient of 1e-4, not at the optimum itself
            np.testing.assert_allclose(got.probabilities, cold.predict_proba((test[0] - mean) / scale), atol=2e-3)
    assert got.val_accuracy == pytest.approx(accuracy)
    assert got.c == max(CS, key=lambda c: (accuracy[c], -c))


def test_scale_of_a_feature_does_not_matter_and_a_constant_one_is_harmless():
    train, val, test = blobs(60, 0), blobs(40, 1), blobs(40, 2)
    stretch = np.geomspace(1e-2, 1e3, 12)
    pad = lambda x: np.hstack([x * stretch, np.full((len(x), 1), 7.0)])  # noqa: E731
    plain = linear_probe(*train, *val, test[0], cs=CS)
    padded = linear_probe(pad(train[0]), train[1], pad(val[0]), val[1], pad(test[0]), cs=CS)
    np.testing.assert_allclose(padded.probabilities, plain.probabilities, atol=1e-3)


def test_the_test_images_decide_nothing():
    train, val, test = blobs(60, 0), blobs(40, 1), blobs(40, 2)
    whole = linear_probe(*train, *val, test[0], cs=CS)
    part = linear_probe(*train, *val, test[0][:3] * 1.0, cs=CS)
    assert part.c == whole.c and part.val_accuracy == whole.val_accuracy
    np.testing.assert_allclose(part.probabilities, whole.probabilities[:3], atol=1e-12)


def test_absent_classes_keep_their_column():
    x, y = blobs(60, 0)
    keep = y != 1
    got = linear_probe(x[keep], y[keep], x, y, x, cs=(1.0,), classes=6)
    assert got.probabilities.shape == (60, 6)
    assert (got.probabilities[:, [1, 4, 5]] == 0).all() and not np.isin(got.prediction, (1, 4, 5)).any()
    assert got.val_accuracy[1.0] == (got.prediction == y).mean() <= 0.75


def test_two_classes_and_tensors():
    (x, y), (v, w) = blobs(60, 0, 0.05, classes=2), blobs(20, 1, 0.05, classes=2)
    arrays = linear_probe(x, y, v, w, v, cs=CS)
    tensors = linear_probe(*(torch.as_tensor(a) for a in (x, y, v, w, v)), cs=CS)
    assert arrays.probabilities.shape == (20, 2)
    np.testing.assert_array_equal(arrays.probabilities, tensors.probabilities)
    np.testing.assert_array_equal(arrays.prediction, w)


def test_a_stopped_optimiser_is_told(monkeypatch):
    monkeypatch.setattr(probe, "_MAX_ITER", 2)
    train, val = blobs(60, 0), blobs(40, 1)
    with pytest.warns(ConvergenceWarning):
        got = linear_probe(*train, *val, val[0], cs=(0.01, 100.0))
    assert 100.0 in got.unconverged


def test_a_sound_fit_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_probe(*blobs(60, 0), *blobs(40, 1), blobs(40, 2)[0], cs=CS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cs": ()}, "at least one C"),
        ({"cs": (1.0, -1.0)}, "every C above 0"),
        ({"train_y": np.zeros(60, int)}, "all 60 training labels are 0"),
    ],
)
def test_refusals(change, message):
    (x, y), (v, w) = blobs(60, 0), blobs(40, 1)
    arguments = {"train_x": x, "train_y": y, "val_x": v, "val_y": w, "test_x": v, "cs": CS} | change
    with pytest.raises(ValueError, match=message):
        linear_probe(**arguments)


def test_zero_shot_is_scaled_cosine():
    features = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    text = np.array([[10.0, 0.0], [0.0, 0.1]])
    half = np.sqrt(0.5)
    want = 100 * np.array([[1, 0], [half, half], [0, -1]])
    np.testing.assert_allclose(zero_shot_logits(features, text, 100.0), want, atol=1e-12)
    np.testing.assert_allclose(zero_shot_logits(torch.tensor(features), torch.tensor(text), 100.0), want, atol=1e-12)
