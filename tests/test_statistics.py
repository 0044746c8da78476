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
        values = np.stack([values, np.ones_like(values)], axis=-1)  # as a score: a mean over seeds needs no resamples
        assert interval(values, score=mean, **QUICK) == interval(values, score=mean, **QUICK)
        assert interval(values, score=mean, resamples=500, rng_seed=1) != interval(values, score=mean, **QUICK)


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


def test_few_seeds_give_students_interval_on_them():
    """Where images add nothing it is the t test's over the seeds; where seeds add nothing, over the images."""
    rng = np.random.default_rng(0)
    effects, pictures = rng.normal(2, 3, 7), rng.normal(0.4, 1.0, 50)
    for x, sample in ((np.repeat(effects[:, None], 50, axis=1), effects), (np.stack([pictures] * 7), pictures)):
        want = stats.ttest_1samp(sample, 0)
        ends = want.confidence_interval(0.95)
        got, one = paired(x, np.zeros_like(x), **QUICK), interval(x, **QUICK)
        assert (got.low, got.high) == pytest.approx((ends.low, ends.high)) == (one.low, one.high)
        assert got.p_bare == pytest.approx(want.pvalue) and got.p == max(got.p_bare, 2.0**-6)


def test_seeds_and_images_are_both_seen():
    """Their variances add up; the quantiles of 3 and of 29 degrees of freedom are weighted with them."""
    x = np.random.default_rng(0).normal(size=(4, 30)) + np.arange(4)[:, None] / 9
    seeds, images = np.var([row.mean() for row in x], ddof=1) / 4, np.var([c.mean() for c in x.T], ddof=1) / 30
    half = (seeds * stats.t.ppf(0.975, 3) + images * stats.t.ppf(0.975, 29)) / np.sqrt(seeds + images)
    got = paired(x, np.zeros_like(x), **QUICK)
    assert (got.value - got.low, got.high - got.value) == pytest.approx((half, half))
    edge = paired(x, np.zeros_like(x), resamples=500, rng_seed=0, confidence=1 - got.p_bare)
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)  # p is where the interval meets zero


def test_an_interval_over_seeds_stays_within_its_fractions():
    x = np.zeros((3, 100))
    x[0, :6] = 1
    got = interval(x, **QUICK)
    assert 0 < got.low < got.value == 0.02 < got.high < 1
    assert paired(x, np.zeros((3, 100)), **QUICK).low < 0  # a difference may lie on either side


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
    b = difficulty + rng.normal(0, 0.1, (6, 200))
    a = difficulty + 0.2 + rng.normal(0, 0.1, (6, 200))
    up, down, same = paired(a, b, **QUICK), paired(b, a, **QUICK), paired(b, b, **QUICK)
    assert (up.verdict, down.verdict, same.verdict) == ("better", "worse", "no difference")
    assert up.low < 0.2 < up.high and up.seeds == 6 and up.n == 200
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
    """Asked for as a quotient of sums it has the same draws, and so the same interval, verdict and p.

    Over seeds a mean needs no draws: the two agree but for the draws' own error, some 2% of 2,000.
    """
    a, b = np.random.default_rng(0).normal(size=(2, *seeds, 60))
    b, many = b - 0.3, {"resamples": 2000, "rng_seed": 0}
    pair = [np.stack([x, np.ones_like(x)], axis=-1) for x in (a, b)]
    for score, plain in (
        (interval(pair[0], score=mean, **many), interval(a, **many)),
        (paired(*pair, score=mean, **many), paired(a, b, **many)),
    ):
        near = {"abs": 0.05 * (plain.high - plain.low)} if seeds else {"rel": 1e-12}
        assert (score.low, score.high) == pytest.approx((plain.low, plain.high), **near)
        assert (score.value, score.n, score.seeds) == (pytest.approx(plain.value), plain.n, plain.seeds)
    assert score.verdict == plain.verdict and (seeds or score.p == plain.p)


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
    """By hand from the resampled means themselves."""
    x = np.random.default_rng(0).normal(0.25, 1.0, 60)
    got = paired(x, np.zeros(60), **QUICK)
    means = statistics._bootstrap((x,), None, 500, 0.95, 0, "percentile")[2]
    assert len(means) == 500 and got.p == got.p_bare == 2 * (1 + (means <= 0).sum()) / 501
    mirrored = paired(np.zeros(60), x, **QUICK)
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
        for values in (x, x[0]):
            one, tenths = (paired(v, np.zeros_like(v), resamples=500, rng_seed=trial) for v in (values, 0.1 * values))
            assert one.p_bare == pytest.approx(tenths.p_bare)


def test_p_and_interval_agree():
    """p < 0.05 where the 95% interval leaves out zero; they may part only within the resampling's own resolution."""
    rng, found = np.random.default_rng(0), []
    for trial in range(100):
        a = rng.normal(0.2, 1, (6, 100) if trial % 2 else 100)
        found.append(paired(a, np.zeros_like(a), resamples=400, rng_seed=trial))
    assert 20 < sum(c.verdict == "better" for c in found) < 90
    for c in found:
        assert (c.p <= 0.05) == (c.verdict != "no difference") or (c.seeds == 1 and abs(c.p - 0.05) < 0.02)


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
    base = rng.normal(size=(8, 200))
    pairs = {f"null {i}": (base + rng.normal(size=base.shape), base) for i in range(9)}
    pairs["gain"] = (base + 0.5 + rng.normal(size=base.shape), base)
    noise = rng.normal(size=200)
    pairs["slight"] = (0.155 + (noise - noise.mean()) / noise.std(), np.zeros(200))  # 2.2 standard errors above zero
    got = compare_all(pairs, resamples=2000, rng_seed=0)
    single = {name: paired(*pair, resamples=2000, rng_seed=0) for name, pair in pairs.items()}
    assert list(got) == list(pairs)
    want = np.maximum(holm([c.p_bare for c in single.values()]), [statistics.floor(c.seeds) for c in single.values()])
    np.testing.assert_array_equal([c.p_holm for c in got.values()], want)
    for name, c in got.items():
        assert (c.value, c.low, c.high, c.p) == tuple(getattr(single[name], k) for k in ("value", "low", "high", "p"))
        assert c.verdict == (single[name].verdict if c.p_holm <= 0.05 else "no difference")
    assert got["gain"].verdict == "better" and single["gain"].p_holm is None
    assert single["slight"].verdict == "better" and got["slight"].verdict == "no difference"  # the correction bites


def test_what_is_called_no_difference_has_an_interval_with_zero_inside():
    """Its own, or beside it the one of the level at which Holm stopped; here by hand."""
    rng = np.random.default_rng(0)
    unit = rng.normal(size=400)
    unit = (unit - unit.mean()) / unit.std(ddof=1) * 20  # standard error of its mean: 1
    shifts = {"clear": 9.0, "clear, below": -9.0, "slight": 2.3, "slight, below": -2.3, "none": 0.4}
    pairs = {name: (np.stack([unit + shift] * 7), np.zeros((7, 400))) for name, shift in shifts.items()}
    got = compare_all(pairs, tables=2, resamples=500, rng_seed=0)
    assert [c.verdict for c in got.values()] == ["better", "worse", *["no difference"] * 3]
    assert [c.low_all is None for c in got.values()] == [True, True, False, False, True]
    half = stats.t.ppf(1 - 0.05 / (2 * 3) / 2, 399)  # two tables, in this one three that are undecided
    assert (got["slight"].low_all, got["slight"].high_all) == pytest.approx((2.3 - half, 2.3 + half))
    assert got["slight"].low > 0 > got["slight"].low_all
    for c in got.values():
        low, high = (c.low, c.high) if c.low_all is None else (c.low_all, c.high_all)
        assert (low <= 0 <= high) == (c.verdict == "no difference")
    five = compare_all({"five images": (np.arange(100.0) < 5, np.zeros(100))}, resamples=2000, rng_seed=0)[
        "five images"
    ]
    assert five.low > 0 == five.low_all and five.verdict == "no difference"  # whatever the resamples say
    table = statistics.differences({"a": unit + 2.3, "b": np.zeros(400)}, "b", tables=3, **QUICK).iloc[0]
    back = statistics.flipped(table.to_frame().T).iloc[0]
    assert (back.low_all, back.high_all) == (-table.high_all, -table.low_all) and table.low_all < 0 < table.low


def test_few_seeds_can_show_nothing():
    """The sign test over S seeds has no p below 2^(1 - S): .25 for three, .0625 for five; six are the fewest."""
    rng = np.random.default_rng(0)
    for seeds, verdict in ((2, None), (3, None), (5, None), (6, "better"), (10, "better")):
        gain = 0.5 + rng.normal(0, 0.01, (seeds, 1)) + rng.normal(0, 0.1, (seeds, 200))
        got = compare_all({"gain": (gain, np.zeros_like(gain)), "loss": (np.zeros_like(gain), gain)}, **QUICK)
        signs = stats.binomtest(seeds, seeds).pvalue
        assert got["gain"].p == got["gain"].p_holm == pytest.approx(signs)
        for c, said in zip(got.values(), (verdict, verdict and "worse"), strict=True):
            assert c.verdict == (said or f"undecided with {seeds} seeds") and c.low_all is None
    still = compare_all({"fixed": (gain[0], np.zeros(200)), "seeds": (gain[:3], np.zeros((3, 200)))}, **QUICK)
    assert [c.verdict for c in still.values()] == ["better", "undecided with 3 seeds"]  # images are enough for it


def test_tables_of_one_family_share_its_chance():
    rng = np.random.default_rng(0)
    pairs = {str(i): (rng.normal(0.2, 1, 100), np.zeros(100)) for i in range(4)}
    one, three = (compare_all(pairs, tables=tables, resamples=3000, rng_seed=0) for tables in (1, 3))
    assert [c.p_holm for c in three.values()] == pytest.approx([min(1, 3 * c.p_holm) for c in one.values()])


N, PAIRS = 2000, 35


def of_equals(seeds, spread, rng):
    """[35, 2, S, 2000] hits of pairs of systems that are right in 60% of all images, on average over all seeds.

    A system gives half of the images the same answer whatever its seed, 70% of them rightly; of the others a seed has
    50% right and its own effect, so that its accuracy varies with the standard deviation ``spread``.
    """
    settled = np.where(rng.random((PAIRS, 2, 1, N)) < 0.7, 1.0, 0.0)
    open_ = 0.5 + rng.normal(0, 2 * spread, (PAIRS, 2, seeds, 1))
    chance = np.where(rng.random((PAIRS, 2, 1, N)) < 0.5, settled, open_).astype(np.float32)
    return rng.random(chance.shape, dtype=np.float32) < chance


@pytest.mark.parametrize("spread", [0, 0.025, 0.035])
@pytest.mark.parametrize(("seeds", "tables"), [(10, 24), (5, 12)])
def test_family_wise_error_and_coverage_at_the_seeds_that_are_used(seeds, tables, spread):
    """Of two systems that are the same but for seeds and images: wrong verdicts in 5% of tables, intervals that cover.

    A count above the 99% quantile of what the rate asked for would give fails: 4 of 24 tables, 1 of 12.
    """
    rng, wrong, held, alone = np.random.default_rng(seeds), 0, [], []
    for trial in range(tables):
        right = of_equals(seeds, spread, rng)
        found = compare_all({i: (a, b) for i, (a, b) in enumerate(right)}, resamples=100, rng_seed=trial)
        wrong += any(c.verdict in ("better", "worse") for c in found.values())
        held += [c.low <= 0 <= c.high for c in found.values()]
        singles = [interval(a, resamples=100, rng_seed=trial) for a in right[:, 0]]
        alone += [c.low <= 0.6 <= c.high for c in singles]
    assert wrong <= stats.binom.ppf(0.99, tables, 0.05)
    for covered in (held, alone):
        assert sum(covered) >= stats.binom.ppf(0.01, len(covered), 0.93), np.mean(covered)


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


def test_ratio_of_spreads_ends_where_pitmans_test_does():
    """Two spreads are alike where sum and difference are uncorrelated; p of that is 5% at either end."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 10))
    a = 2 * a + b
    found = statistics.ratio_of_spreads(a, b)
    assert found["value"] == pytest.approx(a.std(ddof=1) / b.std(ddof=1)) and found["seeds"] == 10
    for end in ("low", "high"):
        x = a / found[end]
        assert stats.pearsonr(x + b, x - b).pvalue == pytest.approx(0.05)
    other = statistics.ratio_of_spreads(b, a)  # turned over, it is the inverse
    assert other["low"] == pytest.approx(1 / found["high"]) and other["value"] == pytest.approx(1 / found["value"])
    two = statistics.ratio_of_spreads(a[:2], b[:2])
    assert two["value"] > 0 and np.isnan([two["low"], two["high"]]).all()
    for wrong in (a[:1], a[:9], np.ones(10), np.full(10, np.nan)):
        with pytest.raises(ValueError, match="a ratio of spreads"):
            statistics.ratio_of_spreads(wrong, b)


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


def test_crossed_draws_see_both_sources():
    """Pure seed effects and pure image effects: the resampled variance of the mean is the textbook one."""
    rng = np.random.default_rng(0)
    seeds = np.repeat(rng.normal(size=(4, 1)), 50, axis=1)
    images = np.repeat(rng.normal(size=(1, 50)), 4, axis=0)
    draws = statistics.crossed_draws(np.stack([seeds, images]), resamples=10_000, rng_seed=1)
    assert draws[:, 0].var() == pytest.approx(seeds[:, 0].var(ddof=1) / 4, rel=0.05)
    assert draws[:, 1].var() == pytest.approx(images[0].var(ddof=0) / 50, rel=0.05)


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


def test_a_gap_of_lopsided_intervals():
    """Square and add: the lower end has the lower arm of the first and the upper one of the second."""
    got = statistics.gap(statistics.Estimate(0.8, 0.77, 0.84, 100, 3), statistics.Estimate(0.5, 0.38, 0.53, 50, 3))
    assert got["low"] == pytest.approx(0.3 - np.hypot(0.03, 0.03))
    assert got["high"] == pytest.approx(0.3 + np.hypot(0.04, 0.12))


def test_images_count_that_differ_for_any_seed():
    """Each seed gains on nine images of its own: none differs for all of them."""
    a = np.zeros((6, 100))
    for seed in range(6):
        a[seed, 9 * seed : 9 * seed + 9] = 1
    found = paired(a, np.zeros((6, 100)), resamples=200, rng_seed=0)
    assert found.verdict == "better" and found.p_bare < 0.05


def test_more_confidence_makes_a_wider_interval():
    x = np.random.default_rng(0).random((6, 80)) < 0.7
    wide, narrow = (interval(x, resamples=200, rng_seed=0, confidence=c) for c in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_the_first_seeds_are_those_that_two_have_in_common():
    a, b = np.arange(30.0).reshape(3, 10), np.zeros((2, 10))
    assert np.array_equal(statistics.alike(a, b)[0], a[:2]) and np.array_equal(statistics.alike(b, a)[1], a[:2])
