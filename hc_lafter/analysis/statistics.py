"""How sure a number is: intervals over test images and over seeds, and paired comparisons. Arrays in, numbers out.

Two sources of chance stand behind every accuracy of the suite: which test images there happen to be, and which seed
trained the system. With one row of values only the first can be seen, and images are resampled; with a row per seed
both are, and intervals are Student's, since few seeds say little of how much seeds differ (``_Spread``). What is no
mean over images, such as an intersection over union, comes in as ``score``: a function of sums over the images.
S seeds, n images, K numbers per image, R resamples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

Score = Callable[[np.ndarray], np.ndarray]  # [..., K] sums over images -> [...]

NO_DIFFERENCE = "no difference"
MIN_IMAGES = 10  # below this the bootstrap's own approximation fails, whatever the data
MIN_SEEDS = 2
_BCA_LIMIT = 2000  # BCa's jackknife costs n^2; above this size it and the plain percentiles agree
_CHUNK = 4_000_000  # resampled positions held at once (32 MB)


@dataclass(frozen=True)
class Estimate:
    """A mean or a score and its interval, in the unit of the values given (0/1 correctness gives a fraction).

    Attributes:
        value: the mean over all images and seeds; of a score, the mean of the seeds' scores.
        low, high: the confidence interval.
        n: test images.
        seeds: rows that it was taken over; 1 where the interval is over images alone.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int


@dataclass(frozen=True)
class Comparison(Estimate):
    """The mean (or score) of a less that of b, and its interval.

    Attributes:
        verdict: ``better`` (a above b), ``worse``, ``no difference`` (none shown), or ``undecided with S seeds``:
            so few that no numbers could have shown one.
        p: two-sided p value of "a - b is 0 on average", see ``paired``; never 0.
        p_holm: p corrected for all comparisons of one family (``compare_all``), where the verdict then rests on it.
        low_all, high_all: the interval that holds for all comparisons of the family together; given where low and high
            leave out zero, and the family's verdict is ``no difference``.
        p_bare: p without the floor that the number of seeds sets, for corrections.
    """

    verdict: str
    p: float
    p_holm: float | None = None
    low_all: float | None = None
    high_all: float | None = None
    p_bare: float = 1.0


def floor(seeds: int) -> float:
    """The least two-sided p value that a sign test over so many seeds can give; 0 for one, which is no test of seeds.

    Two to the 1 - S: the chance that S fair coins agree.
    """
    return 2.0 ** (1 - seeds) if seeds > 1 else 0.0


def undecided(seeds: int, alpha: float) -> str | None:
    """The verdict where so few seeds can show nothing at the level alpha, whatever the numbers; else None."""
    return f"undecided with {seeds} seeds" if floor(seeds) > alpha else None


def interval(
    values, *, score: Score | None = None, resamples: int, confidence: float = 0.95, rng_seed: int
) -> Estimate:
    """The mean of per-image values (correct or not, a divergence, ...), or a score of their sums, with its interval.

    [n] 0/1 values: Wilson's score interval, which stays open where all images are right or all wrong and a bootstrap
    would collapse to a point (Wilson, JASA 22, 1927). Other [n] values: bias-corrected accelerated bootstrap (Efron,
    JASA 82, 1987), plain percentiles above 2,000 images. [S, n] values: Student's interval over seeds and images, see
    ``_Spread``; where all values (all draws of a score) lie in 0..1, on the logit scale, so that it stays inside. Where
    every value is 0, or every one 1 (or the score is, in every draw), it is Wilson's interval over the n images. A
    resample of a score draws images with replacement and takes the score of their sums.

    Args:
        values: [n] or [S, n], real or boolean; column i of every row is the same image. With a score one axis more, K.
        score: None for the mean.
        resamples: bootstrap resamples, R.
        confidence: 0.95 means a 95% interval.
        rng_seed: decides the resamples, and so the result to the last bit.

    Raises:
        ValueError: fewer than 10 images, fewer than 2 seeds, a value that is not finite, an argument out of range, or a
            score that is not defined (NaN) for the whole or for a draw of it.
    """
    values = _checked("values", values, score, resamples, confidence)
    (n, seeds), value = _sizes(values, score), _value(values, score)
    certain = values.min() == values.max() and value in (0.0, 1.0)
    if score is None and (certain or (values.ndim == 1 and np.isin(values, (0.0, 1.0)).all())):
        low, high = _wilson(value, n, confidence)
    elif _has_seeds(values, score):
        spread = _spread((values,), score, resamples, rng_seed)
        if score is not None and value in (0.0, 1.0) and not spread.error:
            low, high = _wilson(value, n, confidence)
        elif spread.inside and 0 < value < 1:
            error = spread.error / (value * (1 - value))
            low, high = special.expit(spread.interval(special.logit(value), confidence, error))
        else:
            low, high = spread.interval(value, confidence)
    else:
        low, high, draws = _bootstrap((values,), score, resamples, confidence, rng_seed, "BCa")
        if score is not None and value in (0.0, 1.0) and (draws == value).all():
            low, high = _wilson(value, n, confidence)
    return Estimate(value, float(low), float(high), n, seeds)


def paired(a, b, *, score: Score | None = None, resamples: int, confidence: float = 0.95, rng_seed: int) -> Comparison:
    """System a against system b on the same images (and the same seeds): the mean of a - b and its verdict.

    Larger values are taken as better. Of [n] values the interval is the percentile bootstrap of the differences over
    images, every draw taking the same images for both. Its p belongs to the same resamples: twice the share of their
    means on the rarer side of zero (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, section 15.4), each
    count raised by one since the data are a resample, too (Davison & Hinkley, "Bootstrap Methods and their
    Application", 1997, section 4.2). Of [S, n] values interval and p are Student's over seeds and images (``_Spread``).

    p is not below the least one that exact two-sided sign tests could give, over the images that differ and over the
    seeds; for 5% either takes six. The verdict is ``better`` or ``worse`` where the interval leaves out zero AND these
    tests could decide at all: a handful of differences that happen to agree in sign would decide earlier. Where it is
    the seeds that are too few, it says so. A score has no differences per image, so an image differs there where
    exchanging a's numbers of it for b's changes the score.

    Args:
        a, b: as ``values`` in ``interval``, of one shape; entry by entry the same image and seed.
        score, resamples, confidence, rng_seed: as in ``interval``.

    Raises:
        ValueError: as in ``interval``, or the shapes differ.
    """
    a, b = (_checked(name, x, score, resamples, confidence) for name, x in (("a", a), ("b", b)))
    if a.shape != b.shape:
        raise ValueError(
            f"a paired comparison needs the same images and seeds on both sides, but a is {a.shape} and b is {b.shape}."
        )
    n, seeds = _sizes(a, score)
    if score is None:
        systems, value = (a - b,), float((a - b).mean())
        differing, scale, fraction = a != b, np.abs(a - b).max(), np.isin(a, (0.0, 1.0)).all()
    else:
        systems, value = (a, b), _value(a, score) - _value(b, score)
        total = a.sum(axis=-2, keepdims=True)
        differing, scale, fraction = score(total - a + b) != score(total), 1.0, True
    differing = int(np.atleast_2d(differing).any(axis=0).sum())
    if _has_seeds(a, score):
        spread = _spread(systems, score, resamples, rng_seed)
        (low, high), p = spread.interval(value, confidence), spread.p(value)
    else:
        low, high, draws = _bootstrap(systems, score, resamples, confidence, rng_seed, "percentile")
        draws = np.where(np.abs(draws) > 1e-12 * scale, draws, 0.0)  # a tie but for its rounding
        rarer = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p = min(1.0, 2 * (rarer + 1) / (len(draws) + 1))
    if not differing and fraction:
        # No image differs: that still leaves room for a share that n images would miss with 5% chance (rule of three).
        high = 1 - (1 - confidence) ** (1 / n)
        low = -high
    least_p = min(1.0, 2 * 0.5**differing)  # of the sign test, had all differing images the same sign
    p_bare = float(max(least_p, p))
    shown = least_p < 1 - confidence and (low > 0 or high < 0)
    verdict = undecided(seeds, 1 - confidence) or (NO_DIFFERENCE if not shown else "better" if low > 0 else "worse")
    p = max(p_bare, floor(seeds))
    return Comparison(value, float(low), float(high), n, seeds, verdict, p, p_bare=p_bare)


def ratio_over_seeds(a, b, *, confidence: float = 0.95) -> dict[str, float]:
    """How many times as large as b a is, paired by seed: {value, low, high, seeds}, for what each run has one of.

    The geometric mean of a / b with Student's interval on its logarithm, which is where a ratio is symmetric.

    Args:
        a, b: [S] above zero, entry i of both from seed i.

    Raises:
        ValueError: fewer than 2 seeds, unequal lengths, or a value that is not above zero and finite.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if a.shape != b.shape or a.ndim != 1 or len(a) < MIN_SEEDS:
        raise ValueError(
            f"a ratio over seeds takes two equally long rows of {MIN_SEEDS} or more: {a.shape}, {b.shape}."
        )
    if not (np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)).all():
        raise ValueError("a ratio over seeds takes values above zero that are finite.")
    logs = np.log(a / b)
    half = stats.t.ppf((1 + confidence) / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    value, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]).tolist()
    return {"value": value, "low": low, "high": high, "seeds": len(logs)}


def ratio_of_spreads(a, b, *, confidence: float = 0.95) -> dict[str, float]:
    """How many times as much as b a varies over seeds: {value, low, high, seeds}, the ratio of standard deviations.

    The interval is Pitman's for two variances of one sample, whose entries may go together ("A note on normal
    correlation", Biometrika 31, 1939): exact where both are normal. Two seeds give none, and low and high are NaN.

    Args:
        a, b: [S], entry i of both from seed i.

    Raises:
        ValueError: fewer than 2 seeds, unequal lengths, a value that is not finite, or one of both does not vary.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if a.shape != b.shape or a.ndim != 1 or len(a) < MIN_SEEDS:
        raise ValueError(
            f"a ratio of spreads takes two equally long rows of {MIN_SEEDS} or more: {a.shape}, {b.shape}."
        )
    spreads = a.std(ddof=1), b.std(ddof=1)
    if not (np.isfinite(spreads).all() and min(spreads) > 0):
        raise ValueError("a ratio of spreads takes finite values that vary.")
    value, df, low, high = spreads[0] / spreads[1], len(a) - 2, math.nan, math.nan
    if df:
        alone = 1 - np.corrcoef(a, b)[0, 1] ** 2
        k = 1 + 2 * alone * stats.t.ppf((1 + confidence) / 2, df) ** 2 / df
        wide = math.sqrt(k + math.sqrt(max(0.0, k**2 - 1)))
        low, high = value / wide, value * wide
    return {"value": float(value), "low": float(low), "high": float(high), "seeds": len(a)}


def gap(a: Estimate, b: Estimate) -> dict[str, float]:
    """a - b of two independent estimates: {value, low, high, n, seeds}, by the square-and-add rule.

    Each end is as far from the difference as the two ends that make it, squared and added (Zou and Donner, Statistics
    in Medicine 27, 2008). Where the two depend on each other the interval is wider than it need be.
    """
    value = a.value - b.value
    low, high = math.hypot(a.value - a.low, b.high - b.value), math.hypot(a.high - a.value, b.value - b.low)
    return {"value": value, "low": value - low, "high": value + high, "n": b.n, "seeds": b.seeds}


def compare_all(
    pairs: Mapping[str, tuple],
    *,
    tables: int = 1,
    resamples: int,
    confidence: float = 0.95,
    rng_seed: int,
    compare: Callable[..., Comparison] = paired,
) -> dict[str, Comparison]:
    """All comparisons of one table or figure, with verdicts that hold for all of them together.

    Of twenty comparisons in which nothing differs one comes out at 95% by chance. A verdict here is that of ``paired``
    where its Holm-corrected p is at most 1 - confidence, too, and ``no difference`` elsewhere: the chance of any wrong
    verdict in the whole family is then about 1 - confidence. A family that is spread over several tables is all of
    them: each gets the same part of that chance (Bonferroni over the tables, Holm within each).

    p_holm, too, is not below the least p that a sign test over the seeds could give. That floor is not multiplied: all
    comparisons share their seeds, and a test that turns the signs of whole seeds in all comparisons at once can give
    corrected p values down to just this floor (Westfall & Young, "Resampling-Based Multiple Testing", 1993).

    ``paired``'s own intervals hold each for itself, so one may leave out zero where the corrected verdict is ``no
    difference``. It then carries the interval that belongs to this verdict: of the level at which Holm stopped, which
    holds for all undecided comparisons together, and with zero inside, which no test has ruled out (Strassburger &
    Bretz, "Compatible simultaneous lower confidence bounds for the Holm procedure", Statistics in Medicine 27, 2008).

    Args:
        pairs: name -> (a, b), each as in ``paired``; the images may differ from pair to pair.
        tables: of how many tables the family consists; this is one of them.
        resamples: as in ``interval``; where so few could not carry a verdict through the correction of this many
            comparisons, 4 * tables * len(pairs) / (1 - confidence) are drawn.
        confidence, rng_seed: as in ``interval``.
        compare: takes the place of ``paired``, with its arguments, for what is not a mean over images.

    Raises:
        ValueError: there are no pairs, or as in ``paired``, with the pair's name.
    """
    if not pairs:
        raise ValueError("there is nothing to compare: give at least one pair.")
    alpha = 1 - confidence
    if resamples >= 100 and 0 < confidence < 1:  # else ``paired`` refuses them
        resamples = max(resamples, math.ceil(4 * tables * len(pairs) / alpha))
    found = {}
    for name, (a, b) in pairs.items():
        try:
            found[name] = compare(a, b, resamples=resamples, confidence=confidence, rng_seed=rng_seed)
        except ValueError as error:
            raise ValueError(f"comparison {name!r}: {error}") from None
    corrected = dict(zip(found, np.minimum(1.0, tables * holm([c.p_bare for c in found.values()])), strict=True))
    together = 1 - alpha / (tables * max(1, sum(p > alpha for p in corrected.values())))
    for name, one in found.items():
        p = float(max(corrected[name], floor(one.seeds)))
        found[name] = replace(one, p_holm=p)
        if p > alpha and not undecided(one.seeds, alpha):
            found[name] = replace(found[name], verdict=NO_DIFFERENCE)
            if one.low > 0 or one.high < 0:
                a, b = pairs[name]
                wide = compare(a, b, resamples=resamples, confidence=together, rng_seed=rng_seed)
                found[name] = replace(found[name], low_all=min(wide.low, 0.0), high_all=max(wide.high, 0.0))
    return found


def estimates(
    values: Mapping[str, np.ndarray], *, resamples: int, rng_seed: int, estimate: Callable[..., Estimate] = interval
) -> pd.DataFrame:
    """A row per system: system, value, low, high, n, seeds (`interval`).

    Args:
        values: system -> per-image values [n], or [S, n] with a row per seed.
        estimate: takes the place of ``interval``, with its arguments.
    """
    found = {name: estimate(v, resamples=resamples, rng_seed=rng_seed) for name, v in values.items()}
    return pd.DataFrame([{"system": name, **vars(e)} for name, e in found.items()])


def differences(
    values: Mapping[str, np.ndarray],
    pairs: str | Iterable[tuple[str, str]],
    *,
    tables: int = 1,
    resamples: int,
    rng_seed: int,
    compare: Callable[..., Comparison] = paired,
) -> pd.DataFrame:
    """A row per comparison: system, minus, value, low, high, n, seeds, verdict, p, p_holm, low_all, high_all.

    Of `compare_all`; the last two are NaN where the interval needs no correction beside its verdict.

    Args:
        values: system -> per-image values, of which each pair has those that `alike` gives.
        pairs: (a, b) for a - b; or a name: every other system minus that one.
        tables, compare: as in `compare_all`.
    """
    pairs = [(name, pairs) for name in values if name != pairs] if isinstance(pairs, str) else list(pairs)
    both = {pair: alike(*(values[name] for name in pair)) for pair in pairs}
    return tabled(compare_all(both, tables=tables, resamples=resamples, rng_seed=rng_seed, compare=compare))


def alike(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two systems' values with the seeds of both: where one has more, they begin with the other's.

    Args:
        a, b: [S, n, ...] and [S', n, ...]; without seeds [n, ...], which stands beside any.
    """
    if a.ndim == b.ndim and a.shape[1:] == b.shape[1:] and a.ndim % 2 == 0:
        few = min(len(a), len(b)) if 1 not in (len(a), len(b)) else None
        a, b = a[:few], b[:few]
    return tuple(np.broadcast_arrays(a, b))


def tabled(found: Mapping[tuple[str, str], Comparison]) -> pd.DataFrame:
    """What `compare_all` found of pairs of names, as the rows of `differences`."""
    table = pd.DataFrame([{"system": a, "minus": b, **vars(c)} for (a, b), c in found.items()])
    return table.drop(columns="p_bare").astype({"low_all": float, "high_all": float})


def flipped(table: pd.DataFrame) -> pd.DataFrame:
    """`differences` of -x as those of x, for what is better when it is smaller; verdicts and p values stay."""
    ends = {"low": -table["high"], "high": -table["low"], "low_all": -table["high_all"], "high_all": -table["low_all"]}
    return table.assign(value=-table["value"], **ends)


def spans(value, draws) -> pd.DataFrame:
    """value, low, high: the 2.5% and 97.5% quantiles of resampled values around the values themselves.

    For what is no mean over images (a CKA, a correlation) and was resampled by its owner. An interval that leaves out
    its own value is widened to it.

    Args:
        value: one number, or [K]. draws: [R] or [R, K].
    """
    value = np.atleast_1d(value)
    low, high = np.quantile(np.reshape(draws, (len(draws), -1)), (0.025, 0.975), axis=0)
    return pd.DataFrame({"value": value, "low": np.minimum(low, value), "high": np.maximum(high, value)})


def crossed_draws(values: np.ndarray, *, resamples: int, rng_seed: int) -> np.ndarray:
    """[resamples, K] means of K quantities [K, S, n]: S - 1 seeds and n images drawn, crossed, the same for all K.

    For what follows of several at once. Every seed saw the same images, so images are not nested in seeds; drawing
    single entries would treat S looks at one image as S images (Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1, 2007). S - 1 rows are drawn, not S: the resampled variance of the seeds' mean is then unbiased
    (McCarthy & Snowden, "The bootstrap and finite population sampling", 1985), which counts where S is 3.
    """
    _, seeds, n = values.shape
    rng, found = np.random.default_rng(rng_seed), []
    for _ in range(resamples):
        some = values[:, rng.integers(seeds, size=seeds - 1)]
        found.append(some[..., rng.integers(n, size=n)].mean(axis=(1, 2)))
    return np.stack(found)


def rank_correlation(a, b) -> np.ndarray:
    """Spearman's rho over the last axis of [..., K] and [..., K]; 0 where one side is the same throughout."""
    a, b = (stats.rankdata(v, axis=-1) - (np.shape(v)[-1] + 1) / 2 for v in (a, b))
    whole = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), whole, out=np.zeros(whole.shape), where=whole > 0)


def holm(p_values) -> np.ndarray:
    """[m] p values corrected for there being m of them, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure" (Scandinavian Journal of Statistics 6, 1979):
    rejecting where the corrected p is at most alpha rejects any true hypothesis with a chance of alpha at most, however
    the tests depend on each other. The k-th smallest is multiplied by m - k + 1, and is no less than the one before it.

    Raises:
        ValueError: not one-dimensional, empty, or a p outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values are a list of numbers from 0 to 1, at least one, but these are {p.tolist()}.")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return corrected


def _wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    return stats.binomtest(round(share * n), n).proportion_ci(confidence, method="wilson")


def _sizes(values: np.ndarray, score: Score | None) -> tuple[int, int]:
    """(images, seeds); 1 seed where there is no axis of them."""
    shape = values.shape if score is None else values.shape[:-1]
    return shape[-1], shape[0] if len(shape) == 2 else 1


def _has_seeds(values: np.ndarray, score: Score | None) -> bool:
    return values.ndim == (2 if score is None else 3)


def _value(values: np.ndarray, score: Score | None) -> float:
    value = float(values.mean() if score is None else np.mean(score(values.sum(axis=-2))))
    if not np.isfinite(value):
        raise ValueError("the score is not defined for these images, which hold none of its classes: give more images.")
    return value


def _bootstrap(
    systems: Sequence[np.ndarray],
    score: Score | None,
    resamples: int,
    confidence: float,
    rng_seed: int,
    method: str,
) -> tuple:
    """(low, high, [R] draws) over images of one system's mean or score, or of the first's score less the second's."""
    first, tail = systems[0], (1 - confidence) / 2
    n = _sizes(first, score)[0]
    if score is None and first.min() == first.max():
        return first.flat[0], first.flat[0], np.full(resamples, first.flat[0])

    def at(images: np.ndarray, axis: int = -1) -> np.ndarray:
        """[R] values of [R, m] positions of images (one value of [m])."""
        if score is None:
            return first[images].mean(axis=-1)
        values = _scored(systems, score, _counted(np.atleast_2d(images), n))
        return values if images.ndim == 2 else values[0]

    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # BCa of draws that are all equal: 0 / 0
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(n),),
            at,
            n_resamples=resamples,
            batch=max(1, _CHUNK // n),
            vectorized=True,
            confidence_level=confidence,
            method=method if n <= _BCA_LIMIT else "percentile",
            rng=np.random.default_rng(rng_seed),
        )
    (low, high), draws = found.confidence_interval, found.bootstrap_distribution
    if np.isnan(low) or np.isnan(high):
        low, high = np.quantile(draws, (tail, 1 - tail))
    return low, high, draws


@dataclass(frozen=True)
class _Spread:
    """The variance of a mean over S seeds and n images: what either adds; ``inside`` where all values lie in 0..1.

    Every seed saw the same images: rows and columns of [S, n] values are crossed, and the variance of their mean is
    what the seeds add, var(means of the seeds) / S, and what the images add, var(means of the images) / n. What belongs
    to neither alone is in both, so that the sum errs on the side of width (Owen, "The pigeonhole bootstrap", Annals of
    Applied Statistics 1, 2007, has the same bias). Few seeds know their variance badly, which a normal or percentile
    interval leaves out, and Satterthwaite's degrees of freedom do so in the tails that many comparisons ask for.
    """

    of_seeds: float
    of_images: float
    seeds: int
    n: int
    inside: bool

    @property
    def error(self) -> float:
        return math.sqrt(self.of_seeds + self.of_images)

    def critical(self, alpha: float) -> float:
        """How many standard errors from zero leaves alpha outside, on both sides together.

        The mean of Student's quantiles for S - 1 and n - 1 degrees of freedom, weighted with the two variances (Cochran
        & Cox, "Experimental Designs", 1950, for two means of unequal variance): exact where one of them is all there
        is, and on the side of width between.
        """
        parts, df = [self.of_seeds, self.of_images], np.array([self.seeds - 1, self.n - 1])
        return float(np.average(-special.stdtrit(df, alpha / 2), weights=parts)) if self.error else 0.0

    def interval(self, value: float, confidence: float, error: float | None = None) -> np.ndarray:
        """[2]: both ends; ``error`` where it is not that of the value's own scale."""
        error = self.error if error is None else error
        return value + self.critical(1 - confidence) * error * np.array([-1.0, 1.0])

    def p(self, value: float) -> float:
        """The alpha at which the interval begins to hold zero, not below 1e-15."""
        if not self.error:
            return float(value == 0)
        least, away = 1e-15, abs(value) / self.error
        if self.critical(least) <= away:
            return least
        return optimize.brentq(lambda alpha: self.critical(alpha) - away, least, 1.0)


def _spread(systems: Sequence[np.ndarray], score: Score | None, resamples: int, rng_seed: int) -> _Spread:
    """Of the mean of one system, or of its score, or the first's less the second's; a score's images are resampled."""
    first = systems[0]
    n, seeds = _sizes(first, score)
    if score is None:
        of_seeds, of_images = first.mean(axis=1), first.mean(axis=0).var(ddof=1) / n
        least, most = first.min(), first.max()
    else:
        of_seeds, step = _scored(systems, score, np.ones((1, n)))[:, 0], max(1, _CHUNK // n)
        draw = _drawn if resamples <= step else _drawn.__wrapped__  # what fits at once is kept for the next table row
        rng = np.random.default_rng(rng_seed)
        sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
        draws = [_scored(systems, score, draw(n, size, rng_seed if draw is _drawn else rng)) for size in sizes]
        draws = np.concatenate(draws, axis=1)
        of_images, least, most = draws.mean(axis=0).var(ddof=1), draws.min(), draws.max()
    inside = bool(least >= 0 and most <= 1)
    return _Spread(float(of_seeds.var(ddof=1) / seeds), float(of_images), seeds, n, inside)


@lru_cache(maxsize=8)
def _drawn(n: int, resamples: int, rng: int | np.random.Generator) -> np.ndarray:
    """[R, n]: how often each image was drawn."""
    return _counted(np.random.default_rng(rng).integers(n, size=(resamples, n)), n).astype(np.uint16)


def _counted(images: np.ndarray, n: int) -> np.ndarray:
    """[R, n]: how often each image stands among the positions [R, m]."""
    place = images + np.arange(len(images))[:, None] * n
    return np.bincount(place.ravel(), minlength=len(images) * n).reshape(len(images), n)


def _scored(systems: Sequence[np.ndarray], score: Score, counts: np.ndarray) -> np.ndarray:
    """[(S,) R]: the score of the sums over resamples, or of two systems the first's less the second's."""
    values = [score(counts.astype(np.float64) @ system) for system in systems]
    if lost := max(np.count_nonzero(np.isnan(v)) for v in values):
        raise ValueError(
            f"the score is not defined in {lost} draws of {counts.shape[1]} images, which hold none of its classes: "
            "give more images."
        )
    return values[0] if len(values) == 1 else values[0] - values[1]


def _checked(name: str, values, score: Score | None, resamples: int, confidence: float) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in ((1, 2) if score is None else (2, 3)):
        numbers = "" if score is None else ", numbers"
        raise ValueError(
            f"{name} must be [images{numbers}] or [seeds, images{numbers}], but its shape is {values.shape}."
        )
    n, seeds = _sizes(values, score)
    if n < MIN_IMAGES:
        raise ValueError(f"{name} holds {n} images, too few for an interval: give at least {MIN_IMAGES}.")
    if _has_seeds(values, score) and seeds < MIN_SEEDS:
        raise ValueError(
            f"{name} holds {seeds} seed, too few for an interval over seeds: give at least {MIN_SEEDS}, "
            "or leave out the axis of seeds for an interval over images alone."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are not finite.")
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}, too few for the ends of an interval: give at least 100.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")
    return values
