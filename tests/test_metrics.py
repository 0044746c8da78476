"""Known answers, an independent library, and the refusals."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torchmetrics.functional.classification import multiclass_calibration_error

from hc_lafter.analysis.metrics import (
    TEMPERATURES,
    calibration,
    collapse,
    confusion,
    effective_number,
    per_class,
    softmax64,
    temperature,
    tempered,
)

TRUTH = np.array([0, 0, 0, 1, 1, 2])
PREDICTION = np.array([0, 0, 1, 1, 1, 1])


def draws(n=4000, scale=1.0, seed=0):
    """Logits [n, 5] and labels drawn from softmax(logits / scale)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, 5))
    p = softmax64(z / scale)
    return z, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def test_per_class_by_hand():
    got = per_class(PREDICTION, TRUTH, 4)
    np.testing.assert_array_equal(got["precision"], [1, 0.5, np.nan, np.nan])  # nothing was called 2 or 3
    np.testing.assert_array_equal(got["recall"], [2 / 3, 1, 0, np.nan])  # and there is no 3
    np.testing.assert_array_equal(got["support"], [3, 2, 1, 0])
    assert np.nansum(got["recall"] * got["support"]) / 6 == pytest.approx((PREDICTION == TRUTH).mean())


def test_confusion_has_the_truth_in_rows():
    want = [[2, 1, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(confusion(torch.tensor(PREDICTION), torch.tensor(TRUTH), 4), want)


def test_softmax64_is_float64_from_any_dtype():
    z = torch.tensor([[0.0, 200.0], [3.0, 3.0]], dtype=torch.float16)
    p = softmax64(z)
    assert p.dtype == np.float64 and 0 < p[0, 0] < 1e-80  # fp32 says 0 there
    np.testing.assert_array_equal(p[1], [0.5, 0.5])


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_against_torchmetrics(bins):
    z, y = draws()
    p = softmax64(z)
    y = np.where(p.max(axis=1) > 0.7, y[::-1], p.argmax(axis=1))  # too sure above, too unsure below
    want = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), num_classes=5, n_bins=bins)
    got = calibration(p, y, bins=bins)
    assert got.ece == pytest.approx(want.item(), abs=1e-5)  # torchmetrics sums 4,000 values in fp32
    seen = got.share > 0
    gap = np.abs(got.accuracy - got.confidence)[seen]
    assert got.ece == pytest.approx((gap * got.share[seen]).sum()) and got.share.sum() == pytest.approx(1)
    assert np.isnan(got.accuracy[~seen]).all() and np.isnan(got.confidence[~seen]).all()
    edges = np.linspace(0, 1, bins + 1)
    assert (edges[:-1][seen] <= got.confidence[seen]).all() and (got.confidence[seen] <= edges[1:][seen]).all()


def test_full_confidence_stays_in_the_last_bin():
    """Two bins, three images: 0.6 right, 1 right, 1 wrong. All lie in the upper bin: |2/3 - 2.6/3|."""
    p = np.array([[0.6, 0.4], [1, 0], [1, 0]])
    got = calibration(p, np.array([0, 0, 1]), bins=2)
    assert got.ece == pytest.approx(0.2) and list(got.share) == [0, 1]


def test_honest_probabilities_are_calibrated():
    z, y = draws(n=20000)
    assert calibration(softmax64(z), y).ece < 0.015 < 0.1 < calibration(softmax64(3 * z), y).ece


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_temperature_finds_what_made_the_labels(scale):
    assert temperature(*draws(n=20000, scale=scale)) == pytest.approx(scale, rel=0.04)


def test_temperature_is_the_least_of_the_likelihoods_on_a_grid():
    """The slow and obvious way, and the optimum that LBFGS finds in the authors' parametrisation."""
    z, y = draws(n=300, scale=1.7)
    grid = np.geomspace(0.5, 5, 4000)
    nll = [np.mean(logsumexp(z / t, axis=1) - z[np.arange(len(y)), y] / t) for t in grid]
    got = temperature(z, y)
    assert got == pytest.approx(grid[np.argmin(nll)], rel=1e-3)
    t = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([t], lr=0.5, max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.tensor(z) / t, torch.tensor(y))
        loss.backward()
        return loss

    optimiser.step(closure)
    assert got == pytest.approx(t.item(), rel=1e-6)


def test_temperature_without_an_optimum_says_so_by_its_end():
    z, _ = draws(n=50)
    assert temperature(z, z.argmax(1)) == TEMPERATURES[0]  # all right: never sure enough
    assert temperature(z, z.argmin(1)) == TEMPERATURES[1]  # all wrong: never unsure enough


def test_cooling_repairs_calibration_on_other_images():
    z, y = draws(n=8000, scale=2.5)
    t = temperature(z[:4000], y[:4000])
    before, after = calibration(softmax64(z[4000:]), y[4000:]), calibration(softmax64(z[4000:] / t), y[4000:])
    assert after.ece < 0.03 < 0.1 < before.ece


def test_collapse_names_class_and_share():
    truth = np.repeat(np.arange(4), 25)
    prediction = truth.copy()
    assert collapse(prediction, truth, list("abcd")) is None
    prediction[:63] = 2  # rows 50-62 are c anyhow, and 63-74 too: 75 in all
    assert collapse(prediction, truth, list("abcd")).startswith("75% of 100 predictions are 'c', the class of 25% of")


@pytest.mark.parametrize(("named", "alarm"), [(100, False), (101, True)])
def test_collapse_at_its_threshold(named, alarm):
    """Half of the predictions are not yet over half."""
    truth = np.repeat(np.arange(4), 50)
    prediction = np.where(np.arange(200) < named, 0, 3)
    assert (collapse(prediction, truth, list("abcd")) is not None) == alarm


def test_collapse_spares_a_class_that_is_that_common():
    truth = np.repeat([0, 1], [80, 20])
    common, rare = np.repeat([0, 1], [85, 15]), np.repeat([0, 1], [35, 65])
    assert collapse(common, truth, ["a", "b"]) is None
    assert "'b'" in collapse(rare, truth, ["a", "b"])  # its own share counts, not that of the commonest class


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([], [], "B > 0 images"),
        ([0, 1], [0], "one label for each"),
        ([0, 3], [0, 1], "0..2, but runs from 0 to 3"),
        ([0, -1], [0, 1], "from -1 to 0"),
        ([0.0, 1.0], [0, 1], "float64"),
    ],
)
def test_refuses_what_are_no_labels(prediction, truth, message):
    for measure in (per_class, confusion):
        with pytest.raises(ValueError, match=message):
            measure(np.array(prediction), np.array(truth), 3)
    with pytest.raises(ValueError, match=message):
        collapse(np.array(prediction), np.array(truth), list("abc"))


def test_refuses_what_are_no_probabilities_or_logits():
    z, y = draws(n=20)
    with pytest.raises(ValueError, match="row 0 is not a distribution"):
        calibration(z, y)
    with pytest.raises(ValueError, match="not finite"):
        temperature(np.where(z > 3, np.inf, z), y)


def test_each_run_is_tempered_by_itself():
    (a, truth), (b, _) = draws(500, scale=2.0), draws(500, scale=0.5)
    both = tempered(np.stack([a, b]), np.stack([a, b]), truth)
    np.testing.assert_array_equal(both[0], softmax64(a / temperature(a, truth)))
    np.testing.assert_array_equal(both[1], tempered(b, b, truth))


def test_effective_number_of_equal_shares_is_their_number():
    assert effective_number([3, 3, 3, 3]) == pytest.approx(4) and effective_number([0, 7, 0]) == pytest.approx(1)
    assert effective_number([1, 3]) == pytest.approx(4 / 3**0.75)  # exp of the entropy of 1/4 and 3/4


def test_collapse_is_silent_just_at_its_threshold():
    """Half of the images are of the class: beyond 0.5 + 0.5 / 2 of the predictions, and 70% are not."""
    assert collapse(np.repeat([0, 1], [70, 30]), np.repeat([0, 1], 50), ("a", "b")) is None
