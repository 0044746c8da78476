"""The wheel by name, the published numbers, equal entropies, and the metrics against slow twins."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy

from hc_lafter.data.emotion.wheels import (
    HIGHER_IS_BETTER,
    MIKELS,
    MIKELS_WHEEL,
    TARGETS,
    Wheel,
    distribution_metrics,
    places,
    polarity,
    shuffled,
    sigma_sweep,
    smoothing,
    steps,
    targets,
    wheel_distributions,
)

EMOSET_STEPS = [
    [0, 2, 1, 3, 1, 2, 4, 3],
    [2, 0, 1, 1, 3, 4, 2, 3],
    [1, 1, 0, 2, 2, 3, 3, 4],
    [3, 1, 2, 0, 4, 3, 1, 2],
    [1, 3, 2, 4, 0, 1, 3, 2],
    [2, 4, 3, 3, 1, 0, 2, 1],
    [4, 2, 3, 1, 3, 2, 0, 1],
    [3, 3, 4, 2, 2, 1, 1, 0],
]
ALPHABETICAL_STEPS = [
    [0, 1, 2, 1, 2, 3, 4, 3],
    [1, 0, 3, 2, 1, 4, 3, 2],
    [2, 3, 0, 1, 4, 1, 2, 3],
    [1, 2, 1, 0, 3, 2, 3, 4],
    [2, 1, 4, 3, 0, 3, 2, 1],
    [3, 4, 1, 2, 3, 0, 1, 2],
    [4, 3, 2, 3, 2, 1, 0, 1],
    [3, 2, 3, 4, 1, 2, 1, 0],
]
ANGER = MIKELS.index("anger")
EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
INVENTED = Wheel("six (invented)", ("a", "b", "c", "d", "e", "f"), frozenset("abc"), invented=True)


def test_steps_in_both_orders():
    assert steps(MIKELS).tolist() == EMOSET_STEPS
    assert steps(sorted(MIKELS)).tolist() == ALPHABETICAL_STEPS


def test_steps_follow_the_names_in_any_order():
    known = {(a, b): EMOSET_STEPS[i][j] for i, a in enumerate(MIKELS) for j, b in enumerate(MIKELS)}
    rng = np.random.default_rng(0)
    for size in (8, 8, 5, 2):
        order = rng.permutation(MIKELS)[:size].tolist()
        assert steps(order).tolist() == [[known[a, b] for b in order] for a in order]
    assert steps(["Amusement", "sad", "content"]).tolist() == [[0, 3, 1], [3, 0, 4], [1, 4, 0]]


def test_a_turned_or_mirrored_ring_is_the_same_wheel():
    ring = MIKELS_WHEEL.ring
    for same in (ring[3:] + ring[:3], ring[::-1]):
        assert steps(MIKELS, Wheel("turned", same)).tolist() == EMOSET_STEPS


def test_polarity():
    assert polarity(MIKELS).tolist() == [1, 1, 1, 1, -1, -1, -1, -1]
    assert polarity(sorted(MIKELS)).tolist() == [1, -1, 1, 1, -1, 1, -1, -1]


@pytest.mark.parametrize(
    ("sigma", "peak", "neighbour"),
    [(0.45, 0.791, 0.077), (0.5, 0.727, 0.108), (1.0, 0.374, 0.231), (1.5, 0.255, None), (2.0, 0.202, None)],
)
def test_strategy_one_gives_the_known_numbers(sigma, peak, neighbour):
    row = wheel_distributions(MIKELS, sigma=sigma)[ANGER]
    assert round(row[ANGER], 3) == peak
    if neighbour is not None:
        for name in ("amusement", "disgust"):
            assert round(row[MIKELS.index(name)], 3) == neighbour


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.45, 0.0), (1.0, 0.1), (3.0, 2.0)])
def test_strategies_against_the_formula_spelled_out(sigma, epsilon):
    classes = sorted(MIKELS)
    one, two = (wheel_distributions(classes, sigma=sigma, epsilon=epsilon, same_polarity=same) for same in (0, 1))
    for mu, label in enumerate(classes):
        f = [
            np.exp(-(d**2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma) + epsilon / 8
            for d in ALPHABETICAL_STEPS[mu]
        ]
        np.testing.assert_allclose(one[mu], np.divide(f, sum(f)), rtol=1e-12)
        same = [x if (name in MIKELS[:4]) == (label in MIKELS[:4]) else 0.0 for x, name in zip(f, classes, strict=True)]
        np.testing.assert_allclose(two[mu], np.divide(same, sum(same)), rtol=1e-12)
        assert np.count_nonzero(two[mu]) == 4


@pytest.mark.parametrize("sigma", [1e-308, 1e-160, 0.01, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("same_polarity", [False, True])
def test_every_row_is_a_distribution_with_its_label_on_top(sigma, epsilon, same_polarity):
    table = wheel_distributions(MIKELS, sigma=sigma, epsilon=epsilon, same_polarity=same_polarity)
    assert (table >= 0).all() and (table.argmax(axis=1) == np.arange(8)).all()
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-14)


def test_a_sigma_that_drowns_the_label_is_refused():
    for sigma, epsilon in ((1e9, 0.0), (1e12, 0.1), (1.0, 1e17)):
        with pytest.raises(ValueError, match="leaves the label no lead"):
            wheel_distributions(MIKELS, sigma=sigma, epsilon=epsilon)


def test_a_small_sigma_is_the_hard_label():
    np.testing.assert_allclose(wheel_distributions(MIKELS, sigma=1e-6, epsilon=0.0), targets("hard", MIKELS))


@pytest.mark.parametrize("kind", TARGETS)
def test_tables_follow_the_names(kind):
    """The same label means the same distribution, whatever the order of the classes: the field's silent error."""
    ours, alphabetical = targets(kind, MIKELS, seed=3), targets(kind, sorted(MIKELS), seed=3)
    order = [MIKELS.index(name) for name in sorted(MIKELS)]
    np.testing.assert_allclose(alphabetical, ours[np.ix_(order, order)], atol=1e-12)
    assert (ours.argmax(axis=1) == np.arange(8)).all()


def test_controls_have_the_entropy_of_the_wheel():
    wanted = entropy(targets("wheel", MIKELS), axis=1)
    assert np.ptp(wanted) < 1e-12  # a ring looks the same from each of its places
    for kind in ("smoothing", "shuffled"):
        got = targets(kind, MIKELS)
        np.testing.assert_allclose(entropy(got, axis=1), wanted, atol=1e-9)
        assert not np.allclose(got, targets("wheel", MIKELS))


def test_smoothing_hits_any_entropy_row_by_row():
    wanted = np.array([0.0, 1e-9, 1e-3, 0.5, 1.0, 1.5, 1.9, np.log(8)])
    table = smoothing(wanted, 8)
    np.testing.assert_allclose(entropy(table, axis=1), wanted, atol=1e-12)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-14)
    for i, row in enumerate(table):
        assert np.ptp(np.delete(row, i)) == 0  # all others alike
    for classes in range(2, 40):  # ln C and the entropy of a uniform row may differ by a rounding
        np.testing.assert_allclose(smoothing(np.log(classes), classes), 1 / classes, atol=1e-6)


def test_smoothing_is_torchs():
    table = targets("smoothing", MIKELS)
    a = 8 * table[0, 1]
    z, y = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 3, 3, 7, 4])
    ours = F.cross_entropy(z, torch.from_numpy(table)[y])
    torch.testing.assert_close(ours, F.cross_entropy(z, y, label_smoothing=a))


def test_strategy_two_may_be_smoothed_alike():
    table = targets("polarity", MIKELS)
    wanted = entropy(table, axis=1)
    assert np.ptp(wanted) > 0.1  # the middle of a half sees neighbours on both sides
    np.testing.assert_allclose(entropy(smoothing(wanted, 8), axis=1), wanted, atol=1e-12)


@pytest.mark.parametrize("wheel", [MIKELS_WHEEL, INVENTED])
def test_shuffling_parts_all_neighbours(wheel):
    rings = [shuffled(wheel, seed=seed) for seed in range(20)]
    for seed, other in enumerate(rings):
        assert other == shuffled(wheel, seed=seed)
        assert sorted(other.ring) == sorted(wheel.ring) and other.positive == wheel.positive
        assert all(a != b for a, b in zip(other.ring, wheel.ring, strict=True))
        before, after = steps(wheel.ring, wheel), steps(wheel.ring, other)
        assert not ((before == 1) & (after == 1)).any() and (before != after).any()
        assert other.invented and "invented" in other.name and str(seed) in other.name
    assert len({r.ring for r in rings}) > 5


def test_ekman_has_hard_labels_only():
    assert (targets("hard", EKMAN) == np.eye(6)).all()
    for kind in ("smoothing", "wheel", "polarity", "shuffled"):
        with pytest.raises(ValueError, match="'joy' is not on the wheel 'Mikels'"):
            targets(kind, EKMAN)


def test_an_invented_wheel_says_so():
    with pytest.raises(ValueError, match="mark it invented=True"):
        Wheel("Ekman", EKMAN)
    with pytest.raises(ValueError, match="mark it invented=True"):  # the ring of another public repository
        Wheel("w", ("amusement", "excitement", "anger", "disgust", "fear", "sadness", "awe", "contentment"))
    with pytest.raises(ValueError, match=r"'Ekman \(invented\)'"):
        Wheel("Ekman", EKMAN, invented=True)
    wheel = Wheel("Ekman (invented)", EKMAN, invented=True)
    assert wheel_distributions(EKMAN, wheel=wheel).shape == (6, 6)
    with pytest.raises(ValueError, match="knows no polarity"):
        wheel_distributions(EKMAN, same_polarity=True, wheel=wheel)


def test_sigma_sweep():
    sweep = sigma_sweep(MIKELS, "anger", [0.45, 1.0, 2.0])
    assert sweep.shape == (3, 8)
    np.testing.assert_allclose(sweep[:, ANGER].round(3), [0.791, 0.374, 0.202])
    assert (np.diff(entropy(sweep, axis=1)) > 0).all()


def distributions(seed: int) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.full(6, 0.5), size=10)
    p[3], p[4, :2] = np.eye(6)[1], 0.0
    return p / p.sum(axis=1, keepdims=True)


def test_metrics_against_loops():
    truth, predicted = distributions(0), np.random.default_rng(1).dirichlet(np.ones(6), size=10)
    got = distribution_metrics(truth, predicted)
    for b, (p, q) in enumerate(zip(truth, predicted, strict=True)):
        want = {
            "kl": entropy(p, q),
            "chebyshev": max(abs(x - y) for x, y in zip(p, q, strict=True)),
            "clark": sum((x - y) ** 2 / (x + y) ** 2 for x, y in zip(p, q, strict=True)) ** 0.5,
            "canberra": sum(abs(x - y) / (x + y) for x, y in zip(p, q, strict=True)),
            "cosine": p @ q / np.sqrt(p @ p * (q @ q)),
            "intersection": sum(min(x, y) for x, y in zip(p, q, strict=True)),
        }
        want |= {"clark_scaled": want["clark"] / 6**0.5, "canberra_scaled": want["canberra"] / 6}
        assert set(want) == set(got)
        for name, value in want.items():
            assert got[name][b] == pytest.approx(value, abs=1e-12), name


def test_metrics_of_equal_and_of_disjoint_distributions():
    p = distributions(0)
    for name, values in distribution_metrics(p, p).items():
        np.testing.assert_allclose(values, 1.0 if name in HIGHER_IS_BETTER else 0.0, atol=1e-12)
    far = {name: v.item() for name, v in distribution_metrics([[1.0, 0.0]], [[0.0, 1.0]]).items()}
    assert far == {
        "kl": np.inf, "chebyshev": 1, "clark": pytest.approx(2**0.5), "clark_scaled": pytest.approx(1),
        "canberra": 2, "canberra_scaled": 1, "cosine": 0, "intersection": 0,
    }  # fmt: skip


def test_an_emotion_that_neither_has_adds_nothing():
    p, q = [[0.7, 0.3]], [[0.4, 0.6]]
    short, long = distribution_metrics(p, q), distribution_metrics([[0.7, 0.3, 0.0]], [[0.4, 0.6, 0.0]])
    for name in set(short) - {"clark_scaled", "canberra_scaled"}:
        assert short[name] == pytest.approx(long[name], abs=1e-15)
    assert long["canberra_scaled"] == pytest.approx(short["canberra_scaled"] * 2 / 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: steps(["awe", "joy"]), "class 'joy' is not on the wheel"),
        (lambda: steps(["awe"]), "two classes or more"),
        (lambda: steps(["sad", "sadness"]), "each once"),
        (lambda: places([]), "two classes or more"),
        (lambda: targets("wheeel", MIKELS), "'wheeel' is unknown: choose one of hard"),
        (lambda: targets("shuffled", MIKELS[:5]), "there are 5 classes"),
        (lambda: distribution_metrics([[0.5, 0.5]], [[0.5, 0.4]]), "prediction row 0 is not a distribution"),
        (lambda: distribution_metrics([[1.5, -0.5]], [[0.5, 0.5]]), "truth row 0 is not a distribution"),
        (lambda: distribution_metrics([[np.nan, 0.5]], [[0.5, 0.5]]), "truth row 0 is not a distribution"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert "\n" not in str(error.value)
