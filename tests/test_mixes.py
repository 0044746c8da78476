"""The temperature of mixes: known answers, and what one for labels does to them."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import entropy

from hc_lafter.analysis import metrics
from hc_lafter.analysis.metrics import TEMPERATURES, softmax64
from hc_lafter.suite.mixes import temperature, tempered


def logits(n=200, scale=2.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(n, 4))


def test_shares_are_fitted_as_so_many_labels_are():
    """Votes of ten people an image, as shares and, the slow way, as a label of its own for each vote."""
    z = logits()
    votes = np.random.default_rng(1).multinomial(10, softmax64(z / 3))
    each = np.concatenate([np.repeat(range(4), row) for row in votes])
    assert temperature(z, votes / 10) == pytest.approx(metrics.temperature(np.repeat(z, 10, axis=0), each), rel=1e-9)
    one_hot = np.eye(4)[each[::10]]
    assert temperature(z, one_hot) == pytest.approx(metrics.temperature(z, each[::10]), rel=1e-9)


def test_it_is_the_least_of_the_cross_entropies_on_a_grid():
    z = logits(seed=2)
    shares = np.random.default_rng(3).dirichlet(np.ones(4), size=len(z))
    grid = np.geomspace(*TEMPERATURES, 20_000)
    loss = [np.mean(logsumexp(z / t, axis=1) - (shares * z / t).sum(axis=1)) for t in grid]
    assert temperature(z, shares) == pytest.approx(grid[np.argmin(loss)], rel=1e-3)


def test_who_says_what_people_say_is_left_alone_and_a_temperature_for_labels_spoils_it():
    z = logits(4000)
    shares = softmax64(z)
    votes = np.array([np.random.default_rng(i).multinomial(11, p) for i, p in enumerate(shares)])
    assert temperature(z, shares) == pytest.approx(1, abs=1e-6)
    assert temperature(z, votes / 11) == pytest.approx(1, abs=0.05)
    for_labels = metrics.temperature(z, votes.argmax(axis=1))
    assert for_labels < 0.6
    assert entropy(shares, tempered(z, z, votes / 11), axis=1).mean() < 1e-3
    assert entropy(shares, softmax64(z / for_labels), axis=1).mean() > 0.05


def test_each_run_has_its_own():
    a, b = logits(scale=1.0), logits(scale=4.0)
    shares = softmax64(a)
    both = tempered(np.stack([a, b]), np.stack([a, b]), shares)
    np.testing.assert_array_equal(both[0], tempered(a, a, shares))
    np.testing.assert_allclose(both[0], both[1], atol=1e-9)  # b is four times a


def test_an_end_of_the_range_says_that_there_is_none():
    z = logits()
    assert temperature(z, np.eye(4)[z.argmax(1)]) == pytest.approx(TEMPERATURES[0])
    assert temperature(z, np.eye(4)[z.argmin(1)]) == pytest.approx(TEMPERATURES[1])


@pytest.mark.parametrize(
    ("z", "shares", "message"),
    [
        (np.zeros((3, 2)), np.full((3, 2), 0.4), "give a distribution for each row"),
        (np.zeros((3, 2)), np.full((2, 3), 1 / 3), r"shares \[2, 3\] of logits \[3, 2\]"),
        (np.full((3, 2), np.inf), np.full((3, 2), 0.5), "not finite"),
    ],
)
def test_refuses_what_are_no_shares_or_logits(z, shares, message):
    with pytest.raises(ValueError, match=message):
        temperature(z, shares)
