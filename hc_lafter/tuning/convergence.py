"""Training until it no longer gains: the rate chosen on validation, the steps doubled while they still help.

What a comparison of trained systems needs: each gets the same grid of learning rates, the same schedule and the same
rule for when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hc_lafter.tuning.training import History

RATES = ("lr", "nga_lr")  # fields of a configuration that are learning rates, the one that is chosen first


@dataclass(frozen=True)
class Convergence:
    """How a run is trained to the end.

    Attributes:
        steps: optimiser steps of the first attempt.
        rates: learning rates to choose from; one seed, `seed`, is kept for that and reports nothing. A configuration
            without a rate has nothing to choose.
        doublings: how often an attempt that has not converged is made again, from the start, with twice the steps.
        checks: validations per attempt, evenly spaced.
        warmup: share of the steps over which the rate rises. decay: what it does then, ``constant``, ``cosine`` or
            ``poly``, see `hc_lafter.tuning.training.fit`.
        seed: the one that chooses the rate.
    """

    steps: int = 400
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    doublings: int = 2
    checks: int = 20
    warmup: float = 0.05
    decay: str = "cosine"
    seed: int = 10_000

    def attempt(self, number: int) -> Convergence:
        """What the attempt with this number, from 0, does: so many steps and no more."""
        return replace(self, steps=self.steps * 2**number, doublings=0)

    @property
    def stretch(self) -> int:
        """Steps between two validations."""
        return max(1, round(self.steps / self.checks))


def at_rate(config: Any, rate: float) -> Any:
    """A configuration at another learning rate; its other rates keep their ratio to the first."""
    names = [name for name in RATES if name in {f.name for f in fields(config)}]
    if not names:
        return config
    first = getattr(config, names[0])
    return replace(config, **{name: rate * getattr(config, name) / first for name in names})


def converged(start: float, scores: Sequence[float], n: int | None = None) -> bool:
    """Whether more steps would not have helped, from the validation scores of a run.

    They would not where the best one is not among the last tenth, or where the last fifth gained less than half a
    standard error.

    Args:
        start: the score before the first step.
        scores: after each stretch of training, evenly spaced.
        n: validation images, where the score is a share of them, whose standard error is binomial; None: there is no
            standard error, and the first rule alone decides.
    """
    every = [start, *scores]
    best = max(range(len(every)), key=every.__getitem__)  # the first of equals
    if best <= 0.9 * len(scores):
        return True
    gain = every[best] - max(every[: 1 + math.floor(0.8 * len(scores))])
    return n is not None and gain < 0.5 * math.sqrt(every[best] * (1 - every[best]) / n)


def best_score(history: History, select: str) -> float:
    """The highest validation score of a run, that before the first step included."""
    return max(row[select] for row in (history.start, *history.epochs) if select in row)
