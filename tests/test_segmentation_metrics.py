"""Scores of masks: against known answers, a slow oracle and torchmetrics; their intervals against ``statistics``."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from hc_lafter.analysis import segmentation as seg
from hc_lafter.analysis import statistics
from hc_lafter.analysis.segmentation import MaskScore, compare_all_of, counts, interval_of, iou, measure, paired_of
from hc_lafter.data.record import IGNORE

UNSEEN = np.array([False, False, False, True, True])


def masks(n=12, classes=5, size=(6, 7), right=0.6, ignored=0.1, seed=0):
    """([n, H, W] predicted, [n, H, W] truth); each image has a hit rate of its own and its own mix of classes."""
    rng = np.random.default_rng(seed)
    mix = rng.dirichlet(np.ones(classes), n)
    truth = np.stack([rng.choice(classes, size, p=p) for p in mix])
    rate = rng.beta(8 * right, 8 * (1 - right), (n, 1, 1))
    predicted = np.where(rng.random(truth.shape) < rate, truth, rng.integers(0, classes, truth.shape))
    truth = np.where(rng.random(truth.shape) < ignored, IGNORE, truth)
    return predicted, truth.astype(np.uint8)


def slow_counts(predicted, truth, classes):
    out = np.zeros((len(truth), classes, 3), dtype=np.int64)
    for i in range(len(truth)):
        for p, t in zip(predicted[i].ravel(), truth[i].ravel(), strict=True):
            if t == IGNORE:
                continue
            out[i, t, 2] += 1
            out[i, p, 1] += 1
            out[i, t, 0] += p == t
    return out


# ---------------------------------------------------------------- counts and scores


def test_the_ignored_value_is_that_of_the_records():
    assert seg.IGNORE == IGNORE


def test_a_worked_example():
    truth = np.array([[[0, 0, 1], [1, 2, 255]]])
    predicted = np.array([[[0, 1, 1], [1, 0, 2]]])  # the last pixel is ignored, so this 2 counts nowhere
    found = counts(predicted, truth, 4)
    assert found.tolist() == [[[1, 2, 2], [2, 3, 2], [0, 0, 1], [0, 0, 0]]] and found.dtype == np.int64
    np.testing.assert_allclose(iou(found[0]), [1 / 3, 2 / 3, 0, np.nan])
    scores = seg.scores(found[0], np.array([False, False, True, True]))
    assert scores["miou"] == pytest.approx(1 / 3)  # of three classes: the fourth is in neither
    assert scores["seen"] == pytest.approx(1 / 2) and scores["unseen"] == 0 and scores["harmonic"] == 0
    assert scores["pixel_accuracy"] == pytest.approx(3 / 5)
    assert list(scores) == [*seg.SCORES, "iou"] and all(isinstance(scores[name], float) for name in seg.SCORES)


def test_the_harmonic_mean_of_the_published_row():
    scores = seg.scores(np.array([[925, 1000, 925], [830, 1000, 830]]), np.array([False, True]))
    assert scores["seen"] == pytest.approx(0.925) and scores["unseen"] == pytest.approx(0.830)
    assert scores["harmonic"] == pytest.approx(0.875, abs=5e-4)  # Cascade-CLIP on VOC, inductive: 92.5, 83.0, 87.5


def test_a_class_that_is_only_predicted_counts_as_zero():
    truth, predicted = np.zeros((1, 2, 2), int), np.array([[[0, 0], [0, 1]]])
    found = seg.scores(counts(predicted, truth, 3)[0])
    np.testing.assert_allclose(found["iou"], [0.75, 0, np.nan])
    assert found["miou"] == pytest.approx(0.375)
    assert np.isnan(found["unseen"]) and np.isnan(found["harmonic"]) and found["seen"] == found["miou"]


def test_nothing_to_score_is_not_a_number():
    found = seg.scores(counts(np.zeros((2, 3, 3), int), np.full((2, 3, 3), IGNORE), 3).sum(0))
    assert np.isnan([found[name] for name in seg.SCORES]).all()


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_the_slow_way(seed):
    predicted, truth = masks(4, seed=seed)
    np.testing.assert_array_equal(counts(predicted, truth, 5), slow_counts(predicted, truth, 5))
    assert counts(torch.from_numpy(predicted), torch.from_numpy(truth), 5).sum() == counts(predicted, truth, 5).sum()


def test_scores_keep_leading_axes():
    found = counts(*masks(6), 5).reshape(2, 3, 5, 3)
    together = seg.scores(found, UNSEEN)
    for i, j in np.ndindex(2, 3):
        one = seg.scores(found[i, j], UNSEEN)
        for name in (*seg.SCORES, "iou"):
            np.testing.assert_array_equal(together[name][i, j], one[name])


@pytest.mark.parametrize("absent", [(), (4,), (1, 3)])
def test_equal_to_torchmetrics(absent):
    """``absent`` classes are in neither: torchmetrics calls their IoU 0 and leaves them out of its macro average."""
    predicted, truth = masks(20, seed=3)
    for c in absent:
        predicted[predicted == c], truth[truth == c] = 0, 0
    score, options = MaskScore("abcde", "de"), {"num_classes": 5, "ignore_index": IGNORE}
    theirs = {a: MulticlassJaccardIndex(average=a, **options) for a in ("none", "macro")}
    accuracy = MulticlassAccuracy(average="micro", **options)
    for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
        score.update(predicted[part], truth[part])
        for metric in (*theirs.values(), accuracy):
            metric.update(torch.from_numpy(predicted[part]), torch.from_numpy(truth[part]).long())
    found = score.compute()
    np.testing.assert_allclose(np.nan_to_num(found["iou"]), theirs["none"].compute(), atol=1e-6)  # theirs is float32
    assert np.flatnonzero(np.isnan(found["iou"])).tolist() == list(absent)
    assert found["miou"] == pytest.approx(float(theirs["macro"].compute()), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(float(accuracy.compute()), abs=1e-6)


def test_the_running_score_keeps_images_apart_and_takes_any_size():
    a, b = masks(3, size=(4, 9), seed=1), masks(2, size=(8, 3), seed=2)
    score = MaskScore([f"c{i}" for i in range(5)], ["c4", "c3"])
    with pytest.raises(ValueError, match=r"no masks have been counted: call update first\.$"):
        score.compute()
    score.update(*a)
    score.update(*b)
    assert score.unseen.tolist() == UNSEEN.tolist() and score.counts.shape == (5, 5, 3)
    np.testing.assert_array_equal(score.counts, np.concatenate([counts(*a, 5), counts(*b, 5)]))
    whole, found = seg.scores(score.counts.sum(0), UNSEEN), score.compute()
    assert all(found[name] == whole[name] > 0 for name in ("seen", "unseen", "harmonic"))
    assert found["seen"] != found["unseen"]
    assert not MaskScore("abc").unseen.any()
    with pytest.raises(ValueError, match=r"unseen names 'cow', which is none of the 2 classes"):
        MaskScore(("cat", "dog"), ("cow",))


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((2, 3, 3), int), np.zeros((2, 3, 4), int), r"both be \[B, H, W\] .* \(2, 3, 3\) and \(2, 3, 4\)\.$"),
        (np.zeros((3, 3), int), np.zeros((3, 3), int), r"both be \[B, H, W\]"),
        (np.zeros((0, 3, 3), int), np.zeros((0, 3, 3), int), r"B > 0"),
        (np.zeros((1, 3, 3)), np.zeros((1, 3, 3), int), r"predicted must hold class indices, but its type is float64"),
        (np.full((1, 3, 3), 5), np.zeros((1, 3, 3), int), r"predicted must hold class indices 0\.\.4 .* from 5 to 5"),
        (np.zeros((1, 3, 3), int), np.full((1, 3, 3), 254), r"mask must hold class indices 0\.\.4 .*254 to 254"),
        (np.full((1, 3, 3), -1), np.zeros((1, 3, 3), int), r"from -1 to -1"),
    ],
)
def test_counts_refuse(predicted, truth, message):
    with pytest.raises(ValueError, match=message):
        counts(predicted, truth, 5)


def test_scores_refuse():
    with pytest.raises(ValueError, match=r"must be \[\.\.\., classes, 3\], but their shape is \(5,\)"):
        seg.scores(np.zeros(5))
    with pytest.raises(ValueError, match=r"one truth value for each of 5 classes, but is int64 of shape \(2,\)"):
        seg.scores(np.zeros((5, 3)), np.array([3, 4]))
    with pytest.raises(ValueError, match=r"score 'mIoU' is unknown: choose one of miou, seen"):
        measure("mIoU")
    for unseen in (None, np.ones(5, bool), np.zeros(5, bool)):
        with pytest.raises(ValueError, match=r"score 'harmonic' needs seen and unseen classes"):
            measure("harmonic", unseen)


# ---------------------------------------------------------------- intervals and comparisons


def systems(n=40, seeds=3, gap=0.05, seed=0, **options):
    """Counts [seeds, n, 5, 3] of two systems and their per-image accuracies [seeds, n]; no pixel is ignored."""
    found = []
    for shift, start in ((gap, 100), (0.0, 200)):
        each = []
        for s in range(seeds):
            truth = masks(n, right=0.6, ignored=0, seed=seed)[1]
            rng = np.random.default_rng([start, s, seed])
            keep = rng.random(truth.shape) < rng.beta(6, 4, (n, 1, 1)) + shift
            each.append((np.where(keep, truth, rng.integers(0, 5, truth.shape)), truth))
        found.append((
            np.stack([counts(*pair, 5) for pair in each]), np.stack([(p == t).mean((1, 2)) for p, t in each])
        ))  # fmt: skip
    return found


OPTIONS = {"resamples": 400, "rng_seed": 7}
SEEDS = 5e-3  # a tenth of an interval's width: the error of a standard deviation from 400 draws
BCA = 1e-3  # it asks how many draws lie below the value, and of those that equal it the rounding of a mean decides


def close(found, expected, tolerance=1e-12):
    for name in ("value", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=tolerance)
    assert (found.n, found.seeds) == (expected.n, expected.seeds)


def test_pixel_accuracy_on_images_of_one_size_is_what_statistics_says():
    """There the ratio of sums is a mean over images, so both bootstraps must agree, draw for draw.

    Over seeds a mean's variance needs no draws: a score's differs from it by their error.
    """
    (a, right_a), (b, right_b) = systems()
    close(interval_of(a[0], "pixel_accuracy", **OPTIONS), statistics.interval(right_a[0], **OPTIONS), BCA)
    close(interval_of(a, "pixel_accuracy", **OPTIONS), statistics.interval(right_a, **OPTIONS), SEEDS)
    for ours, theirs in (
        ((a[0], b[0]), (right_a[0], right_b[0])),
        ((a, b), (right_a, right_b)),
        ((b, a), (right_b, right_a)),
    ):
        found, expected = paired_of(*ours, "pixel_accuracy", **OPTIONS), statistics.paired(*theirs, **OPTIONS)
        close(found, expected, 1e-12 if found.seeds == 1 else SEEDS)
        assert found.verdict == expected.verdict and (found.p == expected.p or found.seeds > 1)
    found = compare_all_of({"x": (a, b), "y": (b, b)}, "pixel_accuracy", **OPTIONS)
    expected = statistics.compare_all({"x": (right_a, right_b), "y": (right_b, right_b)}, **OPTIONS)
    for name, c in expected.items():
        assert found[name].verdict == c.verdict and found[name].p == pytest.approx(c.p, abs=0.03)


@pytest.mark.parametrize("seeds", [1, 3])
def test_draws_equal_the_slow_way(seeds, monkeypatch):
    """Draw by draw, image by image, and the same whatever the chunks."""
    (a, _), (b, _) = systems(n=15, seeds=max(2, seeds))
    a, b = (a, b) if seeds > 1 else (a[0], b[0])
    score = measure("harmonic", UNSEEN)
    found = paired_of(a, b, score, resamples=100, rng_seed=5)
    images = np.random.default_rng(5).integers(15, size=(100, 15))
    means = [
        [np.mean([float(score(sum(one[i] for i in at))) for one in (x if seeds > 1 else [x])]) for at in images]
        for x in (a, b)
    ]
    draws = np.subtract(*means)
    if seeds == 1:
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), abs=1e-12)
        monkeypatch.setattr(statistics, "_CHUNK", 15 * 7)
        assert paired_of(a, b, score, resamples=100, rng_seed=5) == found
    else:
        apart = [float(score(x.sum(0)) - score(y.sum(0))) for x, y in zip(a, b, strict=True)]
        parts = np.array([np.var(apart, ddof=1) / seeds, np.var(draws, ddof=1)])
        half = parts @ stats.t.ppf(0.975, [seeds - 1, 14]) / np.sqrt(parts.sum())
        assert (found.low, found.high) == pytest.approx((np.mean(apart) - half, np.mean(apart) + half), abs=1e-12)


def test_the_value_is_that_of_the_whole_split_and_of_the_mean_seed():
    (a, _), (b, _) = systems()
    for name in seg.SCORES:
        score = measure(name, UNSEEN)
        each = [seg.scores(a[s].sum(0), UNSEEN)[name] for s in range(3)]
        one, all_ = interval_of(a[0], score, **OPTIONS), interval_of(a, score, **OPTIONS)
        assert one.value == pytest.approx(each[0]) and all_.value == pytest.approx(np.mean(each))
        assert one.low < one.value < one.high and all_.low < all_.value < all_.high
        assert (one.n, one.seeds, all_.n, all_.seeds) == (40, 1, 40, 3)
        other = np.mean([seg.scores(b[s].sum(0), UNSEEN)[name] for s in range(3)])
        assert paired_of(a, b, score, **OPTIONS).value == pytest.approx(all_.value - other)
    assert interval_of(a, "miou", **OPTIONS) == interval_of(a, measure("miou"), **OPTIONS)
    assert interval_of(a, "miou", **OPTIONS) != interval_of(a, "miou", resamples=400, rng_seed=8)


def simulated(n, rng, classes=4):
    """Counts [n, C, 3] of 100-pixel images: each shows 2 of the classes and has a hit rate of its own."""
    present = rng.random((n, classes)).argsort(1)[:, :2]
    share = rng.binomial(100, rng.beta(2, 2, n))
    out = np.zeros((n, classes, 3), dtype=np.int64)
    row = np.arange(n)
    out[row, present[:, 0], 2], out[row, present[:, 1], 2] = share, 100 - share
    hits = rng.binomial(out[..., 2], rng.beta(4, 2, (n, 1)))
    out[..., 0], out[..., 1] = hits, hits
    wrong = (out[..., 2] - hits).sum(1)
    np.add.at(out, (row, rng.integers(0, classes, n), 1), wrong)
    return out


@pytest.mark.parametrize("kind", ["interval", "paired"])
def test_intervals_cover(kind):
    """95% intervals hold the truth in about 95% of 150 studies of 60 images: 88% would be 4 standard errors away."""
    rng = np.random.default_rng(2)
    score = measure("harmonic", np.array([False, False, True, True]))
    truth = float(score(simulated(100_000, rng).sum(0)))
    held = 0
    for study in range(150):
        a, b = simulated(60, rng), simulated(60, rng)
        if kind == "interval":
            found, expected = interval_of(a, score, resamples=300, rng_seed=study), truth
        else:
            b[..., 2] = a[..., 2]  # the same images; b finds its share of them in its own way
            b[..., 0] = np.minimum(b[..., 0], b[..., 2])
            b[..., 0] = rng.binomial(b[..., 2], rng.beta(4, 2, (60, 1)))
            b[..., 1] = b[..., 0]
            np.add.at(b, (np.arange(60), rng.integers(0, 4, 60), 1), (b[..., 2] - b[..., 0]).sum(1))
            found, expected = paired_of(a, b, score, resamples=300, rng_seed=study), 0.0
        held += found.low <= expected <= found.high
    assert 0.88 <= held / 150 < 1


def test_verdicts_follow_the_rules():
    (a, _), (b, _) = systems(gap=0.25)
    worse, better = paired_of(b[0], a[0], "miou", **OPTIONS), paired_of(a[0], b[0], "miou", **OPTIONS)
    assert (better.verdict, worse.verdict) == ("better", "worse") and better.low > 0 > worse.high
    assert better.p == worse.p == pytest.approx(2 / 401)
    assert paired_of(a, b, "miou", **OPTIONS).verdict == "undecided with 3 seeds"
    tie = paired_of(a[0], a[0], "miou", **OPTIONS)
    assert (tie.value, tie.verdict, tie.p) == (0, "no difference", 1) and tie.high == -tie.low == 1 - 0.05 ** (1 / 40)


def test_too_few_differing_images_decide_nothing():
    """Five images that agree in sign: the sign test cannot decide, so neither may the percentiles."""
    base = np.tile(np.array([[[50, 60, 60], [30, 40, 40]]]), (12, 1, 1))
    for differing, verdict in ((5, "no difference"), (8, "better")):
        other = base.copy()
        other[:differing, 0, 0] += 5
        found = paired_of(other, base, "miou", resamples=4000, rng_seed=0)
        assert found.value > 0 and found.low > 0 and found.verdict == verdict
        assert found.p >= 2 * 0.5**differing


def test_an_image_that_leaves_the_score_alone_does_not_count_as_differing():
    """The unseen score cannot see what changes among seen classes."""
    (a, _), _ = systems()
    b = a[0].copy()
    b[:, 0, 0] = 0  # class 0 is seen
    found = paired_of(a[0], b, measure("unseen", UNSEEN), **OPTIONS)
    assert (found.value, found.verdict, found.p) == (0, "no difference", 1)
    assert paired_of(a[0], b, measure("seen", UNSEEN), **OPTIONS).verdict == "better"


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [(), (2,)])
def test_a_perfect_or_void_score_keeps_an_open_interval(value, seeds):
    one = np.array([[10, 10, 10], [5, 5, 5]]) if value else np.array([[0, 5, 10], [0, 10, 5]])
    found = interval_of(np.broadcast_to(one, (*seeds, 20, 2, 3)), "miou", **OPTIONS)
    assert found.value == value
    expected = statistics.interval(np.full(20, value), **OPTIONS)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_equal_images_have_no_spread():
    found = interval_of(np.tile(np.array([[[5, 10, 10]]]), (20, 1, 1)), "miou", **OPTIONS)
    assert found.low == found.high == pytest.approx(found.value) == pytest.approx(1 / 3)


def test_a_score_that_is_not_there_is_refused():
    (a, _), (b, _) = systems(n=12)
    a = a.copy()
    a[:, :, 3:] = 0
    score = measure("unseen", UNSEEN)
    with pytest.raises(ValueError, match=r"the score is not defined for these images, which hold none of its classes"):
        interval_of(a[0], score, **OPTIONS)
    a[:, 0, 3] = b[:, 0, 3] = 4, 5, 6
    with pytest.raises(ValueError, match=r"the score is not defined in \d+ draws of 12 images.*: give more images\.$"):
        interval_of(a[0], score, **OPTIONS)


def test_few_images_few_seeds_and_other_mistakes_are_refused():
    (a, _), (b, _) = systems(n=12)
    low = a.copy()
    low[0, 0, 0] = 0, 3, 1
    for call, message in (
        (lambda: interval_of(a[0, :9], "miou", **OPTIONS), r"values holds 9 images, too few .*at least 10\.$"),
        (lambda: interval_of(a[:1], "miou", **OPTIONS), r"values holds 1 seed, too few for an interval over seeds"),
        (lambda: interval_of(a[0, :, 0], "miou", **OPTIONS), r"must be \[images, classes, 3\]"),
        (lambda: interval_of(a / 2, "miou", **OPTIONS), r"counts \(float64\) must hold numbers of pixels"),
        (lambda: interval_of(-a, "miou", **OPTIONS), r"must hold numbers of pixels"),
        (lambda: interval_of(a[..., ::-1], "miou", **OPTIONS), r"no intersection above its prediction or its truth"),
        (lambda: interval_of(low, "miou", **OPTIONS), r"counts another truth for another seed"),
        (lambda: interval_of(a, "miou", resamples=99, rng_seed=0), r"resamples is 99, too few"),
        (lambda: interval_of(a, "miou", confidence=95, **OPTIONS), r"confidence is 95, but must lie between 0 and 1"),
        (lambda: paired_of(a, b[0], "miou", **OPTIONS), r"the same images and seeds on both sides"),
        (lambda: paired_of(a, b[:, ::-1], "miou", **OPTIONS), r"a and b count different truths"),
        (lambda: paired_of(a[0, :5], b[0, :5], "miou", **OPTIONS), r"a holds 5 images, too few"),
        (lambda: compare_all_of({}, "miou", **OPTIONS), r"nothing to compare"),
        (lambda: compare_all_of({"x": (a, b[0])}, "miou", **OPTIONS), r"comparison 'x': a paired comparison needs"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_holm_draws_enough_for_its_verdicts():
    (a, _), (b, _) = systems(gap=0.25)
    pairs = {f"pair {i}": (a[0], b[0]) for i in range(5)}
    found = compare_all_of(pairs, "miou", resamples=100, rng_seed=0)
    assert {c.verdict for c in found.values()} == {"better"} and len(found) == 5
    one = found["pair 0"]
    assert one.p == pytest.approx(2 / 401) and one.p_holm == pytest.approx(5 * one.p)


def test_tables_of_estimates_and_differences():
    """The rows are those of ``interval_of`` and ``compare_all_of``; a system without seeds stands beside one with."""
    (a, _), (b, _) = systems(gap=0.25)
    counted, score, scores = {"a": a, "b": b, "c": b[0]}, measure("harmonic", UNSEEN), {"h": "harmonic", "m": "miou"}
    table = seg.estimates(counted, scores, UNSEEN, **OPTIONS)
    assert list(table.columns) == ["metric", "system", "value", "low", "high", "n", "seeds"] and len(table) == 6
    assert table.iloc[2].to_dict() == {"metric": "h", "system": "c", **vars(interval_of(b[0], score, **OPTIONS))}
    table = seg.differences(counted, [("a", "c"), ("b", "c")], scores, UNSEEN, **OPTIONS)
    assert list(zip(table["metric"], table["system"], table["minus"], strict=True))[1:3] == [
        ("h", "b", "c"),
        ("m", "a", "c"),
    ]
    alone = np.broadcast_to(b[0], b.shape)
    expected = compare_all_of({"a": (a, alone), "b": (b, alone)}, score, **OPTIONS)
    columns = ["value", "low", "high", "n", "seeds", "verdict", "p", "p_holm", "low_all", "high_all"]
    assert list(table.columns) == ["metric", "system", "minus", *columns]
    assert table[:2][columns[:-2]].to_dict("records") == [
        {name: getattr(c, name) for name in columns[:-2]} for c in expected.values()
    ]
