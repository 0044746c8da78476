"""CKA against Song et al.'s sum over quadruples, on data whose alignment is known, and what it refuses."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch

from hc_lafter.analysis.cka import CKA, KERNELS, Alignment, batch_for, cka, diagonal, hsic

FP32 = 1e-6  # the agreement asked for; seen: 2e-8 from float32 features, 1e-14 from float64 ones


def layers(n: int, widths=(8, 20, 5), seed: int = 0, noise: float = 0.7) -> list[np.ndarray]:
    """Layers that share a core of 5 dimensions, far from the origin, as a tower's tokens are."""
    rng = np.random.default_rng(seed)
    core = rng.normal(size=(n, 5))
    return [
        10 + core @ rng.normal(size=(5, width)) + noise * (i + 1) * rng.normal(size=(n, width))
        for i, width in enumerate(widths)
    ]


def gram(x: np.ndarray, kernel: str = "linear") -> torch.Tensor:
    x = torch.from_numpy(np.asarray(x, dtype=np.float64))
    if kernel == "linear":
        return x @ x.T
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    median = torch.from_numpy(distance.numpy()[np.triu_indices(len(x), 1)]).median()
    return (-(distance**2) / (2 * median**2)).exp()


def oracle(xs, ys, kernel: str = "linear") -> np.ndarray:
    k, m = ([gram(x, kernel) for x in side] for side in (xs, ys))
    return np.array([[hsic(a, b) / (hsic(a, a) * hsic(b, b)) ** 0.5 for b in m] for a in k])


def test_the_oracle_is_the_mean_over_quadruples():
    """HSIC_1 is the average of k_ij (l_ij + l_qr - 2 l_iq) over distinct i, j, q, r (Song et al., section 2.4)."""
    x, y = layers(7, (3, 4))
    k, m = gram(x), gram(y)
    found = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    assert hsic(k, m) == pytest.approx(float(torch.stack(found).mean()), rel=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_full_batch_agrees_with_the_oracle(kernel, dtype):
    xs, ys = ([x.astype(dtype) for x in layers(150, widths, seed)] for widths, seed in (((8, 20, 5), 0), ((6, 30), 1)))
    for theirs, found in ((ys, cka(xs, ys, kernel=kernel)), (xs, cka(xs, kernel=kernel))):
        np.testing.assert_allclose(found.value, oracle(xs, theirs, kernel), atol=FP32, rtol=0)
        assert found.value.dtype == np.float64 and found.n == 150 and found.biased is None


def test_the_biased_value_is_that_of_centred_features():
    """||X'Y||^2 / (||X'X|| ||Y'Y||), Kornblith et al., section 3, equation 4."""
    x, y = ([layer - layer.mean(0) for layer in layers(40, widths)] for widths in ((8, 20), (6,)))
    expected = [[np.sum((b.T @ a) ** 2) / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b) for b in y] for a in x]
    np.testing.assert_allclose(cka(x, y, biased=True).biased, expected, atol=1e-12)


def test_independent_features_of_few_images():
    """8 dimensions, 32 images: the biased value is 8 / (32 + 8) however unrelated they are, the debiased one is 0."""
    biased, values, inside = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = cka([rng.normal(size=(32, 8))], [rng.normal(size=(32, 8))], biased=True, permutations=200)
        low, high = np.quantile(found.permuted[:, 0, 0], (0.025, 0.975))
        assert low < 0 < high
        inside.append(low <= found.value[0, 0] <= high)
        values.append(found.value[0, 0])
        biased.append(found.biased[0, 0])
    assert 0.85 <= np.mean(inside) <= 1  # 95% meant
    assert np.mean(values) == pytest.approx(0, abs=0.02)
    assert np.mean(biased) == pytest.approx(0.2, abs=0.02)


def test_what_is_unbiased_stays_so_in_batches_and_its_intervals_hold():
    """z + noise beside z + other noise: the population's CKA is 1 / (1 + s^2)^2, and batches of 16 find it."""
    rng, spread = np.random.default_rng(0), 0.6
    truth, values, covered, whole = 1 / (1 + spread**2) ** 2, [], [], []
    for seed in range(80):
        z = rng.normal(size=(320, 6))
        x, y = (z + spread * rng.normal(size=z.shape) for _ in range(2))
        found = cka([x], [y], batch_size=16, rng_seed=seed)
        low, high = np.quantile(found.resampled(200, seed)[:, 0, 0], (0.025, 0.975))
        assert low < found.value[0, 0] < high
        values.append(found.value[0, 0])
        covered.append(low <= truth <= high)
        whole.append(cka([x], [y]).value[0, 0])
    assert np.mean(values) == pytest.approx(truth, abs=0.02)
    assert 0.85 <= np.mean(covered) <= 1  # 95% meant; with 20 batches and 80 trials
    assert np.abs(np.subtract(values, whole)).max() < 0.06


def test_self_cka_is_one_and_a_shuffled_loader_is_found_out():
    xs = layers(64)
    for found in (cka(xs, batch_size=16), cka(xs, xs, batch_size=16), cka(xs, [x * 3 for x in xs])):
        np.testing.assert_allclose(np.diagonal(found.value), 1, atol=1e-12)
        found.check_self()
    order = np.random.default_rng(0).permutation(64)
    with pytest.raises(ValueError, match=r"entry . has a CKA of .* with itself, not 1: give both sides the same"):
        cka(xs, [x[order] for x in xs], batch_size=16).check_self()


def test_what_cka_does_not_see_and_what_it_sees():
    x = layers(60, (8,))[0]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert cka([x], [5 * x @ turn - 3]).value[0, 0] == pytest.approx(1, abs=1e-12)
    assert cka([x], [x * np.geomspace(1, 100, 8)]).value[0, 0] < 0.9  # an invertible map that stretches


def test_what_all_images_share_costs_no_digits():
    """Tokens have a common part far longer than their differences; here its square is a million times as large."""
    far = [layer.astype(np.float32) + np.float32(1000) for layer in layers(64, (16, 16))]
    shifted = [layer.astype(np.float64) - 1000 for layer in far]  # exact; the printed formula itself needs it
    np.testing.assert_allclose(cka(far[:1], far[1:]).value, oracle(shifted[:1], shifted[1:]), atol=FP32)


def test_arrays_tensors_and_tokens_are_one():
    x = np.random.default_rng(0).normal(size=(20, 3, 4)).astype(np.float32)
    value = cka([x[:, 0], x]).value
    for kind in (torch.from_numpy(x), torch.nn.Parameter(torch.from_numpy(x)), x.reshape(20, 12)):
        np.testing.assert_array_equal(cka([x[:, 0], kind]).value, value)
    with torch.inference_mode():
        np.testing.assert_array_equal(cka([x[:, 0], torch.from_numpy(x)]).value, value)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(cka([x[:, 0], torch.from_numpy(x)]).value, value)
    assert cka([x[:, 0, 0]], [x]).value.shape == (1, 1)  # [n]: one number per image
    half = cka([torch.from_numpy(x).bfloat16()], [x]).value[0, 0]
    assert half == pytest.approx(1, abs=1e-3)


def test_a_stream_is_the_mean_of_its_batches():
    """Weighted by images; the last batch is smaller. The same through `update` and by hand."""
    xs, ys = layers(50), layers(50, (4, 9), seed=3)
    stream, parts = CKA(), [slice(0, 20), slice(20, 40), slice(40, 50)]
    for part in parts:
        stream.update([x[part] for x in xs], [y[part] for y in ys])
    found = stream.compute()
    sizes = [20, 20, 10]
    assert found.sizes.tolist() == sizes and found.cross.shape == (3, 3, 2)

    def mean(a, b):
        return sum(n * hsic(gram(a[part]), gram(b[part])) for n, part in zip(sizes, parts, strict=True))

    expected = [[mean(x, y) / (mean(x, x) * mean(y, y)) ** 0.5 for y in ys] for x in xs]
    np.testing.assert_allclose(found.value, expected, atol=1e-10)


def test_images_are_dealt_and_none_is_left_out():
    assert cka(layers(50), batch_size=16).sizes.tolist() == [17, 17, 16]
    assert cka(layers(50), batch_size=64).sizes.tolist() == [50]
    by_class = np.sort(np.random.default_rng(0).integers(4, size=400))  # a folder's order: class after class
    x = [np.eye(4)[by_class] + 0.1 * np.random.default_rng(s).normal(size=(400, 4)) for s in range(2)]
    whole, dealt = cka(x[:1], x[1:]).value, cka(x[:1], x[1:], batch_size=40).value
    np.testing.assert_allclose(dealt, whole, atol=0.01)
    again = cka(x[:1], x[1:], batch_size=40, permutations=5)
    np.testing.assert_array_equal(again.value, dealt)
    np.testing.assert_array_equal(again.permuted, cka(x[:1], x[1:], batch_size=40, permutations=5).permuted)


def test_the_rbf_width_is_that_of_the_first_batch():
    xs = layers(40, (6,))
    stream = CKA("rbf")
    stream.update([x[:20] for x in xs])
    stream.update([100 * x[20:] for x in xs])  # at its own median it would look like any other batch
    assert stream.compute().own_x[1, 0] < 0.02 * stream.compute().own_x[0, 0]


def test_nothing_of_the_features_is_kept():
    stream, features = CKA(permutations=3), [torch.randn(16, 8)]
    kept = weakref.ref(features[0])
    for _ in range(3):
        stream.update(features)
    size = sum(array.nbytes for part in stream._parts for array in part)
    assert size == 3 * 3 * 8  # a number each for cross and own, both sides, of three batches
    del features
    gc.collect()
    assert kept() is None


def test_the_permuted_are_those_of_unrelated_images():
    xs = layers(200, (8, 8))
    found = cka(xs[:1], xs[1:], batch_size=20, permutations=100)
    assert abs(found.permuted.mean()) < 0.02
    assert found.floor(0.5)[0, 0] < found.floor()[0, 0] < 0.1 < found.value[0, 0]
    assert found.permuted.shape == (100, 1, 1)


@pytest.mark.parametrize("x, y, how, said", [
    ([np.ones((3, 2))], None, {}, "needs 4 images in a batch: give larger ones, and leave out a last one"),
    ([np.arange(3.0)], None, {}, r"entry 0 of x has the shape \(3,\)"),
    (layers(9), layers(8), {}, r"the layers hold \[8, 9\] images"),
    ([np.full((8, 3), 0.1, np.float32), layers(8)[0]], None, {}, "entry 0 of x says the same of all images"),
    (layers(8), [np.zeros((8, 2))], {}, "entry 0 of y says the same of all images of each batch"),
    ([np.full((8, 2), np.nan)], None, {}, "entry 0 of x has values that are not finite"),
    ([np.eye(8, dtype=np.float32) * 1e30], None, {}, "not finite, or too large"),
    (layers(8), None, {"kernel": "cosine"}, "kernel 'cosine' is unknown: choose one of linear, rbf"),
    ([np.repeat(np.eye(2), [11, 1], axis=0)], None, {"kernel": "rbf"}, "the same for half of the pairs"),
])  # fmt: skip
def test_refuses(x, y, how, said):
    with pytest.raises(ValueError, match=said):
        cka(x, y, **how)


def test_refuses_sides_of_different_images():
    with pytest.raises(ValueError, match="x holds 8 images and y 9"):
        CKA().update(layers(8), layers(9))


def test_refuses_to_say_more_than_it_knows():
    found = cka(layers(36), batch_size=4)
    with pytest.raises(ValueError, match="9 batches are too few to draw from"):
        found.resampled(100, 0)
    with pytest.raises(ValueError, match="of 0 permutations: ask for some"):
        found.floor()
    with pytest.raises(ValueError, match="no floor at level 95"):
        cka(layers(36), permutations=3).floor(95)


def test_draws_pair_up_between_alignments_of_the_same_batches():
    xs = layers(120)
    first, second = (cka(xs, y, batch_size=12) for y in (None, [x + 1 for x in xs]))
    assert isinstance(first, Alignment)
    np.testing.assert_allclose(first.resampled(50, 7), second.resampled(50, 7), atol=1e-10)
    assert np.ptp(first.resampled(50, 7)[:, 0, 1]) > 0.001


def test_spans_of_a_diagonal_are_quantiles_of_its_draws():
    xs = [np.random.default_rng(i).normal(size=(120, 4)) for i in range(3)]
    found = cka(xs, batch_size=batch_for(120))
    t = found.spans(lambda values: diagonal(values, 1), resamples=100, rng_seed=0)
    draws = found.resampled(100, 0)
    for i, row in t.iterrows():
        assert row["value"] == found.value[i, i + 1]
        ends = np.quantile(draws[:, i, i + 1], (0.025, 0.975))
        assert (row["low"], row["high"]) == (min(row["value"], ends[0]), max(row["value"], ends[1]))


def test_batches_are_enough_for_intervals():
    assert [batch_for(n) for n in (40, 99, 320, 5000)] == [4, 9, 32, 32]
    with pytest.raises(ValueError, match="val has 39 images, too few for intervals of CKA: give 40 or more"):
        batch_for(39, "val")
