"""How sure a number is: intervals over test images and over seeds, and paired comparisons. Arrays in, numbers out.

Two sources of chance stand behind every accuracy of the suite: which test images there happen to be, and which seed
trained the system. With one row of values only the first can be seen; with a row per seed both are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

MIN_IMAGES = 10  # below this the bootstrap's own approximation fails, whatever the data
MIN_SEEDS = 2
_BCA_LIMIT = 2000  # BCa's jackknife costs n^2; above this size it and the plain percentiles agree
_CHUNK = 4_000_000  # resampled values held at once (32 MB)


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval, in the unit of the values given (0/1 correctness gives a fraction).

    Attributes:
        value: the mean over all images and seeds.
        low, high: the confidence interval.
        n: test images.
        seeds: rows the mean was taken over; 1 where the interval is over images alone.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int


@dataclass(frozen=True)
class Comparison(Estimate):
    """The mean of a - b and its interval.

    Attributes:
        verdict: ``better`` (a above b), ``worse`` or ``no difference`` (none shown).
        p: two-sided p value of "a - b is 0 on average", see ``paired``; never 0.
        p_holm: p corrected for all comparisons of one table (``compare_all``), where the verdict then rests on it.
    """

    verdict: str
    p: float
    p_holm: float | None = None


def interval(values, *, resamples: int, confidence: float = 0.95, rng_seed: int) -> Estimate:
    """The mean of per-image values (correct or not, a divergence, ...) with its confidence interval.

    [n] 0/1 values: Wilson's score interval, which stays open where all images are right or all wrong and a bootstrap
    would collapse to a point (Wilson, JASA 22, 1927). Other [n] values: bias-corrected accelerated bootstrap (Efron,
    JASA 82, 1987), plain percentiles above 2,000 images. [seeds, n] values: the two-level percentile bootstrap of
    ``_crossed``; where every one of them is 0, or every one 1, Wilson's interval over the n images.

    With few seeds the seeds' part of the interval cannot be trusted to its nominal level: three seeds whose spread
    outweighs that of the images are covered in about 75% of cases, not 95%.

    Args:
        values: [n] or [seeds, n], real or boolean; column i of every row is the same image.
        resamples: bootstrap resamples.
        confidence: 0.95 means a 95% interval.
        rng_seed: decides the resamples, and so the result to the last bit.

    Raises:
        ValueError: fewer than 10 images, fewer than 2 seeds in a 2-d array, a value that is not finite, or an
            argument out of range.
    """
    values = _checked("values", values, resamples, confidence)
    n = values.shape[-1]
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    if binary and (values.ndim == 1 or values.min() == values.max()):
        low, high = stats.binomtest(round(values.mean() * n), n).proportion_ci(confidence, method="wilson")
    else:
        low, high, _ = _bootstrap(values, resamples, confidence, rng_seed, "BCa")
    return Estimate(float(values.mean()), float(low), float(high), n, len(np.atleast_2d(values)))


def paired(a, b, *, resamples: int, confidence: float = 0.95, rng_seed: int) -> Comparison:
    """System a against system b on the same images (and the same seeds): the mean of a - b and its verdict.

    The interval is the percentile bootstrap of the differences, over images ([n]) or over seeds and images
    ([seeds, n]); larger values are taken as better. The verdict is ``better`` or ``worse`` where the interval leaves
    out zero AND so many images differ that the exact two-sided sign test could decide at all (6 images at 95%): the
    percentiles of a handful of differences that happen to agree in sign would decide earlier.

    p belongs to the same resamples: twice the share of their means on the rarer side of zero (Efron & Tibshirani, "An
    Introduction to the Bootstrap", 1993, section 15.4), each count raised by one since the data are a resample, too
    (Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 4.2), and not below the least p that
    the sign test could give. What is said of few seeds under ``interval`` goes for p as well.

    Args:
        a, b: [n] or [seeds, n] each, of one shape; entry by entry the same image and seed.
        resamples, confidence, rng_seed: as in ``interval``.

    Raises:
        ValueError: as in ``interval``, or the shapes differ.
    """
    a, b = (_checked(name, x, resamples, confidence) for name, x in (("a", a), ("b", b)))
    if a.shape != b.shape:
        raise ValueError(
            f"a paired comparison needs the same images and seeds on both sides, but a is {a.shape} and b is {b.shape}."
        )
    difference = a - b
    low, high, means = _bootstrap(difference, resamples, confidence, rng_seed, "percentile")
    if not difference.any() and np.isin(a, (0.0, 1.0)).all():
        # No image differs: that still leaves room for a share that n images would miss with 5% chance (rule of three).
        high = 1 - (1 - confidence) ** (1 / difference.shape[-1])
        low = -high
    differing = np.count_nonzero(np.atleast_2d(difference).any(axis=0))
    least_p = min(1.0, 2 * 0.5**differing)  # of the sign test, had all differing images the same sign
    decidable = least_p < 1 - confidence
    verdict = "better" if decidable and low > 0 else "worse" if decidable and high < 0 else "no difference"
    n, seeds = difference.shape[-1], len(np.atleast_2d(difference))
    means = np.where(np.abs(means) > 1e-12 * np.abs(difference).max(), means, 0.0)  # a tie but for its rounding
    rarer = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = max(least_p, min(1.0, 2 * (rarer + 1) / (len(means) + 1)))
    return Comparison(float(difference.mean()), float(low), float(high), n, seeds, verdict, float(p))


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
    resamples: int,
    confidence: float = 0.95,
    rng_seed: int,
    compare: Callable[..., Comparison] = paired,
) -> dict[str, Comparison]:
    """All comparisons of one table or figure, with verdicts that hold for all of them together.

    Of twenty comparisons in which nothing differs one comes out at 95% by chance. A verdict here is that of ``paired``
    where its Holm-corrected p is at most 1 - confidence, too, and ``no difference`` elsewhere: the chance of any wrong
    verdict in the whole table is then about 1 - confidence. The intervals are ``paired``'s own, each for itself, so one
    may leave out zero where the corrected verdict is ``no difference``.

    Args:
        pairs: name -> (a, b), each as in ``paired``; the images may differ from pair to pair.
        resamples: as in ``interval``; where so few could not carry a verdict through the correction of this many
            comparisons, 4 * len(pairs) / (1 - confidence) are drawn.
        confidence, rng_seed: as in ``interval``.
        compare: takes the place of ``paired``, with its arguments, for what is no mean over images.

    Raises:
        ValueError: there are no pairs, or as in ``paired``, with the pair's name.
    """
    if not pairs:
        raise ValueError("there is nothing to compare: give at least one pair.")
    if resamples >= 100 and 0 < confidence < 1:  # else ``paired`` refuses them
        resamples = max(resamples, math.ceil(4 * len(pairs) / (1 - confidence)))
    found = {}
    for name, (a, b) in pairs.items():
        try:
            found[name] = compare(a, b, resamples=resamples, confidence=confidence, rng_seed=rng_seed)
        except ValueError as error:
            raise ValueError(f"comparison {name!r}: {error}") from None
    corrected = holm([c.p for c in found.values()])
    return {
        name: replace(c, p_holm=float(p), verdict=c.verdict if p <= 1 - confidence else "no difference")
        for (name, c), p in zip(found.items(), corrected, strict=True)
    }


def estimates(values: Mapping[str, np.ndarray], *, resamples: int, rng_seed: int) -> pd.DataFrame:
    """A row per system: system, value, low, high, n, seeds (`interval`).

    Args:
        values: system -> per-image values [n], or [S, n] with a row per seed.
    """
    found = {name: interval(v, resamples=resamples, rng_seed=rng_seed) for name, v in values.items()}
    return pd.DataFrame([{"system": name, **vars(e)} for name, e in found.items()])


def differences(
    values: Mapping[str, np.ndarray], pairs: str | Iterable[tuple[str, str]], *, resamples: int, rng_seed: int
) -> pd.DataFrame:
    """A row per comparison: system, minus, value, low, high, n, seeds, verdict, p, p_holm (`compare_all`).

    Args:
        values: system -> per-image values; a row [n] without seeds stands beside [S, n] as often as it is asked to.
        pairs: (a, b) for a - b; or a name: every other system minus that one.
    """
    pairs = [(name, pairs) for name in values if name != pairs] if isinstance(pairs, str) else list(pairs)
    both = {pair: np.broadcast_arrays(*(values[name] for name in pair)) for pair in pairs}
    found = compare_all(both, resamples=resamples, rng_seed=rng_seed)
    return pd.DataFrame([{"system": a, "minus": b, **vars(c)} for (a, b), c in found.items()])


def flipped(table: pd.DataFrame) -> pd.DataFrame:
    """`differences` of -x as those of x, for what is better when it is smaller; verdicts and p values stay."""
    return table.assign(value=-table["value"], low=-table["high"], high=-table["low"])


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


def _bootstrap(values: np.ndarray, resamples: int, confidence: float, rng_seed: int, method: str) -> tuple:
    """(low, high, [resamples] means) of the mean of [n] or [seeds, n] values."""
    if values.min() == values.max():
        return values.flat[0], values.flat[0], np.full(resamples, values.flat[0])
    if values.ndim == 2:
        tail = (1 - confidence) / 2
        means = _crossed(values, resamples, rng_seed)
        return *np.quantile(means, (tail, 1 - tail)), means
    n = len(values)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _CHUNK // n),
        vectorized=True,
        confidence_level=confidence,
        method=method if n <= _BCA_LIMIT else "percentile",
        rng=np.random.default_rng(rng_seed),
    )
    return *found.confidence_interval, found.bootstrap_distribution


def _crossed(values: np.ndarray, resamples: int, rng_seed: int) -> np.ndarray:
    """Means of [resamples] resamples of [S, n] values: rows and columns drawn independently, with replacement.

    Every seed saw the same images, so images are not nested in seeds; drawing single entries would treat S looks at
    one image as S images and give intervals too narrow by up to sqrt(S) (Owen, "The pigeonhole bootstrap", Annals of
    Applied Statistics 1, 2007). S - 1 rows are drawn, not S: the resampled variance of the seeds' mean is then unbiased
    (McCarthy & Snowden, "The bootstrap and finite population sampling", 1985), which counts where S is 3.
    """
    seeds, n = values.shape
    step = max(1, _CHUNK // n)
    draw = _drawn if resamples <= step else _drawn.__wrapped__  # one that fits at once is kept for the next table row
    means, start = [], 0
    rng = np.random.default_rng(rng_seed)
    while start < resamples:
        count = min(step, resamples - start)
        rows, columns = draw(seeds, n, count, rng_seed if draw is _drawn else rng)
        # In BLAS: the sum of an image's value times how often it was drawn, per seed, then the seeds' shares.
        means.append((columns.astype(np.float64) @ values.T * rows).sum(axis=1) / n)
        start += count
    return np.concatenate(means)


@lru_cache(maxsize=8)
def _drawn(seeds: int, n: int, resamples: int, rng: int | np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """[resamples, S] shares of each seed, and [resamples, n] how often each image was drawn."""
    rng = np.random.default_rng(rng)
    rows = rng.integers(seeds, size=(resamples, seeds - 1))
    columns = rng.integers(n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
    counts = np.bincount(columns.ravel(), minlength=resamples * n).reshape(resamples, n)
    return (rows[:, :, None] == np.arange(seeds)).mean(axis=1), counts.astype(np.uint16)


def _checked(name: str, values, resamples: int, confidence: float) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2):
        raise ValueError(f"{name} must be [images] or [seeds, images], but its shape is {values.shape}.")
    if values.shape[-1] < MIN_IMAGES:
        raise ValueError(
            f"{name} holds {values.shape[-1]} images, too few for an interval: give at least {MIN_IMAGES}."
        )
    if values.ndim == 2 and len(values) < MIN_SEEDS:
        raise ValueError(
            f"{name} holds {len(values)} seed, too few for an interval over seeds: give at least {MIN_SEEDS}, "
            "or one row [images] for an interval over images alone."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are not finite.")
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}, too few for the ends of an interval: give at least 100.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")
    return values
