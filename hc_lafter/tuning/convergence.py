"""Training until it no longer gains: learning rate and number of steps chosen on validation, for every system alike.

What a comparison of trained systems needs: each gets the same grid of learning rates, the same schedule and the same
rule for how long to train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hc_lafter.tuning.training import History

RATES = ("lr", "nga_lr")  # fields of a configuration that are learning rates, the one that is chosen first
_ENOUGH = 0.5  # standard errors of the validation score: no larger gain is one
_BEYOND = 3  # rates that may be tried beyond either end of the grid, each half a decade from the last

Trial = tuple[float | None, int]  # a learning rate, None for the configuration's own, and a number of steps
Score = tuple[float, float, bool]  # the best validation score, its standard error, and whether the run had `converged`


@dataclass(frozen=True)
class Convergence:
    """How a run is trained to the end.

    Attributes:
        steps: the fewest optimiser steps to choose from.
        rates: learning rates to choose from, rising; one seed, `seed`, is kept for that and reports nothing. A
            configuration without a rate has nothing to choose.
        doublings: how often twice the steps are tried, each time from the start, while that still helps.
        checks: validations per run, evenly spaced.
        warmup: share of the steps over which the rate rises. decay: what it does then, ``constant``, ``cosine`` or
            ``poly``, see `hc_lafter.tuning.training.fit`.
        seed: the one that chooses.
    """

    steps: int = 400
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    doublings: int = 2
    checks: int = 20
    warmup: float = 0.05
    decay: str = "cosine"
    seed: int = 10_000

    @property
    def stretch(self) -> int:
        """Steps between two validations."""
        return max(1, round(self.steps / self.checks))

    @property
    def trials(self) -> list[Trial]:
        """Whatever `search` could ask for."""
        return [(rate, self.steps * 2**number) for number in range(1 + self.doublings) for rate in self.ladder]

    @property
    def ladder(self) -> list[float | None]:
        """The rates, and those beyond either end of a grid that could be tried as well; None: the configuration's."""
        if len(self.rates) < 2:
            return list(self.rates) or [None]
        below, above = (
            [float(f"{end * 10 ** (sign * n / 2):.3g}") for n in range(1, 1 + _BEYOND)]
            for end, sign in ((self.rates[0], -1), (self.rates[-1], 1))
        )
        return [*reversed(below), *self.rates, *above]


@dataclass(frozen=True)
class Choice:
    """What `search` found.

    Attributes:
        rate: None: the configuration's own. steps: of training.
        enough: whether validation has ceased to gain: twice the steps, or these on half as many, gained at most half a
            standard error; None: nobody tried.
    """

    rate: float | None
    steps: int
    enough: bool | None = None


def search(until: Convergence, scores: Mapping[Trial, Score]) -> Choice | list[Trial]:
    """The rate and the steps that validation chooses, or the trials that have to be made before it can.

    First every rate is tried with the fewest steps, and where the best one stands at an end of the grid those beyond
    it, for as long as each gains more than half a standard error; then with twice as many steps the best one and those
    beside it, since longer training may want a smaller one; and so on, until the best score gains at most half a
    standard error: then the steps before were enough, and of these the best rate, the first of equals, is the choice.
    Where that run still gained at its own end it is not: training goes on to twice the steps all the same.

    Args:
        scores: of the trials so far.
    """
    ladder, beyond = until.ladder, _BEYOND if len(until.rates) > 1 else 0
    if len(ladder) == 1 and not until.doublings:
        return Choice(ladder[0], until.steps)
    low, high, before, enough = beyond, len(ladder) - beyond, None, False

    def gains(pair: Trial, on: Trial) -> bool:
        return scores[pair][0] - scores[on][0] > _ENOUGH * scores[pair][1]

    for number in range(1 + until.doublings):
        steps = until.steps * 2**number
        pairs = [(rate, steps) for rate in ladder[low:high]]
        if lacking := [pair for pair in pairs if pair not in scores]:
            return lacking
        best = max(pairs, key=lambda pair: scores[pair][0])
        at = ladder.index(best[0])
        outward = {low: -1, high - 1: 1}.get(at, 0) if number == 0 else 0
        while outward and 0 <= at + outward < len(ladder):
            further = (ladder[at + outward], steps)
            if further not in scores:
                return [further]
            if not gains(further, best):
                break
            best, at = further, at + outward
        enough = before is not None and not gains(best, before)
        if enough and scores[before][2]:
            return Choice(*before, enough=True)
        before, low, high = best, max(0, at - 1), at + 2
    return Choice(*before, enough=enough if until.doublings else None)


def at_rate(config: Any, rate: float) -> Any:
    """A configuration at another learning rate; its other rates keep their ratio to the first."""
    names = [name for name in RATES if name in {f.name for f in fields(config)}]
    if not names:
        return config
    first = getattr(config, names[0])
    return replace(config, **{name: rate * getattr(config, name) / first for name in names})


def converged(start: float, scores: Sequence[float], error: float) -> bool:
    """Whether a run had ceased to gain before it ended, from its validation scores.

    It had where the best one is not among the last tenth, or where the last fifth gained at most half a standard
    error. A rate that decays to zero ends every run so, whence `search` asks for twice the steps as well.

    Args:
        start: the score before the first step.
        scores: after each stretch of training, evenly spaced.
        error: the standard error of the best one.
    """
    every = [start, *scores]
    best = max(range(len(every)), key=every.__getitem__)  # the first of equals
    if best <= 0.9 * len(scores):
        return True
    return every[best] - max(every[: 1 + math.floor(0.8 * len(scores))]) <= _ENOUGH * error


def best_score(history: History, select: str) -> float:
    """The highest validation score of a run, that before the first step included."""
    return max(row[select] for row in (history.start, *history.epochs) if select in row)
