"""Intervals: known answers, slow oracles, nominal coverage, and refusals."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from hc_lafter.analysis import statistics
from hc_lafter.analysis.statistics import compare_all, holm, interval, paired

QUICK = {"resamples": 500, "rng_seed": 0}


def test_mean_and_normal_theory_interval():
    """Of 400 normal values the bootstrap must find what the t interval finds."""
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    got = interval(x, resamples=4000, rng_seed=1)
    low, high = stats.t.interval(0.95, 399, loc=x.mean(), scale=stats.sem(x))
    assert got.value == x.mean() and (got.n, got.seeds) == (400, 1)
    # Monte-Carlo error of an end from 4,000 resamples is some 4% of the width
    np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.05 * (high - low))


def test_same_seed_same_bits_and_another_seed_other_bits():
    x = np.random.default_rng(0).random((3, 50))
    for values in (x, x[0]):
        assert interval(values, **QUICK) == interval(values, **QUICK)
        assert interval(values, resamples=500, rng_seed=1) != interval(values, **QUICK)


@pytest.mark.parametrize(("right", "n"), [(0, 40), (40, 40), (31, 40), (1, 10)])
def test_correctness_gives_wilsons_interval(right, n):
    """Against the formula as Wilson wrote it."""
    values = np.arange(n) < right
    p, z = right / n, stats.norm.ppf(0.975)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    got = interval(values, **QUICK)
    np.testing.assert_allclose([got.value, got.low, got.high], [p, centre - half, centre + half], atol=1e-12)


def test_perfect_over_all_seeds_does_not_collapse():
    got = interval(np.ones((3, 40)), **QUICK)
    assert got.low == interval(np.ones(40), **QUICK).low < 1 == got.high
    assert got.seeds == 3


def test_constant_values_have_a_point_interval():
    got = interval(np.full(20, 0.3), **QUICK)
    assert (got.low, got.high) == (0.3, 0.3)


def test_large_samples_use_percentiles_and_agree_with_bca(monkeypatch):
    x = np.random.default_rng(0).exponential(size=600)
    bca = interval(x, resamples=3000, rng_seed=0)
    monkeypatch.setattr(statistics, "_BCA_LIMIT", 0)
    plain = interval(x, resamples=3000, rng_seed=0)
    assert plain != bca
    np.testing.assert_allclose([plain.low, plain.high], [bca.low, bca.high], rtol=0.03)


@pytest.mark.parametrize("chunk", [7, 20])
def test_crossed_resampling_against_a_loop(monkeypatch, chunk):
    """The obvious loops on the same draws: pick seeds, pick images, average every pair."""
    monkeypatch.setattr(statistics, "_CHUNK", 12 * chunk)  # 7 resamples at once: 20 take three chunks
    x = np.random.default_rng(0).normal(size=(3, 12))
    got = statistics._crossed((x,), None, 20, 5)
    rng, want = np.random.default_rng(5), []
    for count in (7, 7, 6) if chunk == 7 else (20,):
        rows, columns = rng.integers(3, size=(count, 2)), rng.integers(12, size=(count, 12))
        for r in range(count):
            want.append(np.mean([x[s, i] for s in rows[r] for i in columns[r]]))
    np.testing.assert_allclose(got, want, atol=1e-14)


def test_crossed_resampling_sees_both_sources():
    """Pure seed effects and pure image effects: the resampled variance of the mean is the textbook one."""
    rng = np.random.default_rng(0)
    seeds = np.repeat(rng.normal(size=(4, 1)), 50, axis=1)
    images = np.repeat(rng.normal(size=(1, 50)), 4, axis=0)
    for x, variance in ((seeds, seeds[:, 0].var(ddof=1) / 4), (images, images[0].var(ddof=0) / 50)):
        means = statistics._crossed((x,), None, 20000, 1)
        assert means.var() == pytest.approx(variance, rel=0.05)


def test_seeds_do_not_multiply_images():
    """Three seeds that agree on every image know no more than one of them."""
    x = np.random.default_rng(0).random(200)
    one, three = interval(x, **QUICK), interval(np.stack([x] * 3), **QUICK)
    assert (three.high - three.low) == pytest.approx(one.high - one.low, rel=0.1)


@pytest.mark.parametrize("kind", ["correctness", "skewed", "two-level"])
def test_coverage_is_nominal(kind):
    """A 95% interval holds the truth in about 95 of 100 samples: 300 samples have a standard error of 1.3 points."""
    rng, hits = np.random.default_rng(0), 0
    for trial in range(300):
        if kind == "correctness":
            x, truth = rng.random(60) < 0.8, 0.8
        elif kind == "skewed":
            x, truth = rng.exponential(size=80), 1.0
        else:
            x, truth = rng.normal(0, 0.1, (5, 1)) + rng.normal(0, 1, 80) + rng.normal(0, 0.5, (5, 80)), 0.0
        got = interval(x, resamples=300, rng_seed=trial)
        hits += got.low <= truth <= got.high
    assert 0.91 <= hits / 300 <= 0.99


def test_paired_takes_out_what_both_share():
    """Images of widely varying difficulty, a small constant gain: seen only because the comparison is paired."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 5, 200)
    b = difficulty + rng.normal(0, 0.1, (3, 200))
    a = difficulty + 0.2 + rng.normal(0, 0.1, (3, 200))
    up, down, same = paired(a, b, **QUICK), paired(b, a, **QUICK), paired(b, b, **QUICK)
    assert (up.verdict, down.verdict, same.verdict) == ("better", "worse", "no difference")
    assert up.low < 0.2 < up.high and up.seeds == 3 and up.n == 200
    np.testing.assert_allclose([down.value, down.low, down.high], [-up.value, -up.high, -up.low], atol=0.01)
    separate = interval(a, **QUICK)
    assert up.high - up.low < 0.1 * (separate.high - separate.low)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_handful_of_agreeing_differences_decides_nothing():
    """5 of 100 images gained, none lost: the exact sign test says p = 0.0625; 6 of them, p = 0.03."""
    base = np.zeros(100)
    five, six = (paired(np.arange(100) < k, base, resamples=2000, rng_seed=0) for k in (5, 6))
    assert five.low > 0 and five.verdict == "no difference"
    assert six.low > 0 and six.verdict == "better"


def test_no_difference_is_rarely_called_one():
    """Two systems of the same true accuracy: 95% of verdicts must say so."""
    rng, wrong = np.random.default_rng(0), 0
    for trial in range(300):
        a, b = rng.random((2, 100)) < 0.7
        wrong += paired(a, b, resamples=300, rng_seed=trial).verdict != "no difference"
    assert wrong / 300 < 0.09


def mean(sums):
    """[..., 2] sums of values and of ones -> their quotient."""
    return sums[..., 0] / sums[..., 1]


@pytest.mark.parametrize("seeds", [(), (3,)])
def test_a_mean_is_a_score(seeds):
    """Asked for as a quotient of sums it has the same draws, and so the same interval, verdict and p."""
    a, b = np.random.default_rng(0).normal(size=(2, *seeds, 60))
    b = b - 0.3
    pair = [np.stack([x, np.ones_like(x)], axis=-1) for x in (a, b)]
    as_score, plain = interval(pair[0], score=mean, **QUICK), interval(a, **QUICK)
    np.testing.assert_allclose(list(vars(as_score).values()), list(vars(plain).values()), rtol=1e-12)
    as_score, plain = paired(*pair, score=mean, **QUICK), paired(a, b, **QUICK)
    assert (as_score.p, as_score.verdict) == (plain.p, plain.verdict)
    np.testing.assert_allclose([as_score.low, as_score.high], [plain.low, plain.high], rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(9), "9 images, too few"),
        (np.zeros((1, 50)), "1 seed, too few"),
        (np.array([np.nan] + [0.0] * 20), "1 values that are not finite"),
        (np.zeros((2, 3, 20)), r"\(2, 3, 20\)"),
    ],
)
def test_refuses_to_answer_on_too_little(values, message):
    with pytest.raises(ValueError, match=message):
        interval(values, **QUICK)
    with pytest.raises(ValueError, match=message):
        paired(values, values, **QUICK)


def test_refuses_impossible_arguments():
    x = np.zeros(20)
    with pytest.raises(ValueError, match="resamples is 10"):
        interval(x, resamples=10, rng_seed=0)
    with pytest.raises(ValueError, match="confidence is 95"):
        interval(x, resamples=100, confidence=95, rng_seed=0)
    with pytest.raises(ValueError, match=r"a is \(20,\) and b is \(2, 20\)"):
        paired(x, np.zeros((2, 20)), **QUICK)


def test_paired_where_nothing_differs_is_not_certain():
    same = np.tile([0.0, 1.0], 30)
    result = paired(same, same, resamples=200, rng_seed=0)
    assert result.value == 0 and result.verdict == "no difference"
    assert result.high == -result.low == pytest.approx(1 - 0.05 ** (1 / 60))  # the rule of three: about 3 / n
    over_seeds = paired(np.stack([same, same]), np.stack([same, same]), resamples=200, rng_seed=0)
    assert (over_seeds.low, over_seeds.high) == (result.low, result.high)


def test_p_counts_resamples_on_the_rarer_side_of_zero():
    """By hand from the resampled means themselves, for one row and for seeds."""
    x = np.random.default_rng(0).normal(0.25, 1.0, (3, 60))
    for difference in (x[0], x):
        got = paired(difference, np.zeros_like(difference), **QUICK)
        means = statistics._bootstrap((difference,), None, 500, 0.95, 0, "percentile")[2]
        assert len(means) == 500 and got.p == 2 * (1 + (means <= 0).sum()) / 501
        mirrored = paired(np.zeros_like(difference), difference, **QUICK)
        assert mirrored.p == got.p and 2 / 501 < got.p < 0.5


def test_p_is_never_zero_and_one_where_nothing_differs():
    """The least is 2 / (resamples + 1), or what so few differing images allow an exact sign test."""
    clear, none = np.arange(40.0) + 50, np.zeros(40)
    assert paired(clear, none, **QUICK).p == paired(none + 1, none, **QUICK).p == 2 / 501
    assert paired(none, none, **QUICK).p == 1
    assert paired(np.arange(100) < 5, np.zeros(100), resamples=2000, rng_seed=0).p == 2 * 0.5**5


def test_p_does_not_depend_on_the_unit():
    """In whole numbers many resampled means are exactly 0, in tenths only but for rounding: both are ties."""
    for trial in range(20):
        x = np.random.default_rng(trial).integers(-1, 2, (3, 10))
        whole, tenths = (paired(v, np.zeros_like(v), resamples=500, rng_seed=trial) for v in (x, 0.1 * x))
        assert whole.p == tenths.p


def test_p_and_interval_agree():
    """p < 0.05 where the 95% interval leaves out zero; they may part only within the resampling's own resolution."""
    rng, found = np.random.default_rng(0), []
    for trial in range(100):
        a = rng.normal(0.2, 1, (3, 100) if trial % 2 else 100)
        found.append(paired(a, np.zeros_like(a), resamples=400, rng_seed=trial))
    assert 20 < sum(c.verdict == "better" for c in found) < 90
    for c in found:
        assert (c.p <= 0.05) == (c.verdict != "no difference") or abs(c.p - 0.05) < 0.02


def test_holm_against_the_closed_test():
    """What Holm proved: it rejects H where every set of hypotheses with H in it is rejected by Bonferroni."""
    rng = np.random.default_rng(0)
    for m in (1, 2, 5, 7):
        p = rng.choice([0.0, 0.004, 0.01, 0.03, 0.3, 1.0], m) if m == 7 else rng.random(m) ** 3
        sets = [s for size in range(1, m + 1) for s in combinations(range(m), size)]
        want = [min(1.0, max(len(s) * min(p[list(s)]) for s in sets if i in s)) for i in range(m)]
        np.testing.assert_allclose(holm(p), want, rtol=1e-14)


def test_holm_known_answer_in_the_given_order():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("p", [[], [0.1, 1.2], [np.nan], [[0.1]], [-0.1]])
def test_holm_refuses_what_is_no_p(p):
    with pytest.raises(ValueError, match="numbers from 0 to 1"):
        holm(p)


def test_compare_all_is_paired_with_a_stricter_verdict():
    rng = np.random.default_rng(3)
    base = rng.normal(size=(3, 200))
    pairs = {f"null {i}": (base + rng.normal(size=base.shape), base) for i in range(9)}
    pairs["gain"] = (base + 0.5 + rng.normal(size=base.shape), base)
    noise = rng.normal(size=200)
    pairs["slight"] = (0.155 + (noise - noise.mean()) / noise.std(), np.zeros(200))  # 2.2 standard errors above zero
    got = compare_all(pairs, resamples=2000, rng_seed=0)
    single = {name: paired(*pair, resamples=2000, rng_seed=0) for name, pair in pairs.items()}
    assert list(got) == list(pairs)
    np.testing.assert_array_equal([c.p_holm for c in got.values()], holm([c.p for c in single.values()]))
    for name, c in got.items():
        assert (c.value, c.low, c.high, c.p) == tuple(getattr(single[name], k) for k in ("value", "low", "high", "p"))
        assert c.verdict == (single[name].verdict if c.p_holm <= 0.05 else "no difference")
    assert got["gain"].verdict == "better" and single["gain"].p_holm is None
    assert single["slight"].verdict == "better" and got["slight"].verdict == "no difference"  # the correction bites


def test_many_comparisons_can_still_decide():
    """200 resamples know no p below 2 / 201; times 20 comparisons that could reject nothing, so more are drawn."""
    a = np.random.default_rng(0).normal(1, 1, 50)
    got = compare_all({str(i): (a, np.zeros(50)) for i in range(20)}, resamples=200, rng_seed=0)
    assert {c.verdict for c in got.values()} == {"better"}
    assert got["0"].p_holm == pytest.approx(20 * 2 / 1601)


def test_a_whole_table_of_nothing_is_rarely_given_a_verdict():
    """Eight systems of the same true accuracy: some verdict in 5% of tables, in far more without the correction."""
    rng, corrected, plain = np.random.default_rng(0), 0, 0
    for trial in range(150):
        right = rng.random((9, 150)) < 0.7
        got = compare_all({str(i): (right[i], right[0]) for i in range(1, 9)}, resamples=400, rng_seed=trial)
        corrected += any(c.verdict != "no difference" for c in got.values())
        plain += any(c.p <= 0.05 for c in got.values())
    assert corrected / 150 < 0.09 < 0.15 < plain / 150


def test_compare_all_refuses_and_names_the_pair():
    ok = np.zeros((2, 20)), np.ones((2, 20))
    with pytest.raises(ValueError, match="'alone': a holds 1 seed, too few"):
        compare_all({"fine": ok, "alone": (np.zeros((1, 20)), np.zeros((1, 20)))}, **QUICK)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_all({}, **QUICK)
    with pytest.raises(ValueError, match="resamples is 10"):
        compare_all({"fine": ok}, resamples=10, rng_seed=0)


def test_ratio_over_seeds_is_a_paired_t_interval_on_logarithms():
    a, b = np.array([2.0, 3.0, 5.0]), np.array([1.0, 2.0, 2.0])
    found = statistics.ratio_over_seeds(a, b)
    expected = stats.ttest_1samp(np.log(a / b), 0).confidence_interval(0.95)
    assert found["value"] == pytest.approx(stats.gmean(a / b)) and found["seeds"] == 3
    assert (found["low"], found["high"]) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    other = statistics.ratio_over_seeds(b, a)  # turned over, it is the inverse
    assert other["low"] == pytest.approx(1 / found["high"]) and other["value"] == pytest.approx(1 / found["value"])
    for wrong in ([1.0], [1.0, 2.0], [1.0, 0.0, 2.0], [1.0, float("nan"), 2.0]):
        with pytest.raises(ValueError, match="a ratio over seeds"):
            statistics.ratio_over_seeds(a, wrong)


def test_rank_correlation_is_spearmans_and_nothing_where_nothing_varies():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 9)).round(1)  # ties
    want = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert statistics.rank_correlation(a, b) == pytest.approx(want)
    assert statistics.rank_correlation(np.ones(4), np.arange(4.0)) == 0


def test_spans_hold_their_values():
    draws = np.random.default_rng(1).normal(size=(4000, 2))
    table = statistics.spans([0.0, 9.0], draws)
    assert table.high[1] == 9.0 and table.low[0] == pytest.approx(-1.96, abs=0.1)
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_crossed_draws_of_one_quantity_are_those_of_the_interval():
    values = np.random.default_rng(2).integers(0, 2, size=(1, 3, 60)).astype(float)
    draws = statistics.crossed_draws(values, resamples=4000, rng_seed=0)[:, 0]
    one = statistics.interval(values[0], resamples=4000, rng_seed=0)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([one.low, one.high], abs=0.02)


def test_gap_of_independent_estimates_is_the_normal_theory_one():
    """For symmetric intervals the square-and-add rule is the root of the sum of squares."""
    a, b = statistics.Estimate(0.8, 0.77, 0.83, 100, 3), statistics.Estimate(0.5, 0.46, 0.54, 50, 3)
    got = statistics.gap(a, b)
    np.testing.assert_allclose([got["value"], got["low"], got["high"]], [0.3, 0.25, 0.35])
    assert (got["n"], got["seeds"]) == (50, 3)


def test_flipped_keeps_the_verdict():
    falls = {"a": -np.arange(20.0), "b": -np.arange(20.0) - 1}
    table = statistics.differences(falls, [("a", "b")], **QUICK)
    back = statistics.flipped(table).iloc[0]
    assert (back["value"], back.low, back.high, back.verdict) == (-1, -1, -1, "better")
