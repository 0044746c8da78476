"""The probabilistic model of the embedded world: emotion -> attributes of a scene, and back again by Bayes' rule.

A scene is drawn in three steps: an emotion from a uniform prior; each attribute from a table P(value | emotion), over
the values that those before it allow; then eleven simulated viewers vote by the posterior P(emotion | attributes). The
emotion that started the scene is forgotten: training aims at the votes' shares, and their majority is the hard label:
two scenes with the same attributes may carry different labels, as two photographs in EmoSet do. The posterior, which no
panel of annotators could tell, only scores.

The tables (`cues.csv`) were written down once, by hand, before any model was trained on them: no cue was put in to make
a method win. `SHARPNESS` is their one common exponent; it sets the mean entropy of the posterior near 0.95 nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

_CUES = pd.read_csv(Path(__file__).with_name("cues.csv")).set_index(["factor", "value"])
# EmoSet-118K's own order (Yang et al., ICCV 2023, info.json): Mikels' eight, positive ones first.
EMOTIONS = tuple(_CUES.columns)
# Factor -> value -> its weight for the eight emotions; a column is normalised over the values allowed.
TABLES: dict[str, dict[str, tuple[float, ...]]] = {
    factor: dict(zip(rows.index.get_level_values("value"), rows.itertuples(index=False, name=None), strict=True))
    for factor, rows in _CUES.groupby("factor", sort=False)
}
# Two draws from one table: the second leaves out what the first drew.
FACTORS = ("setting", "tone", "weather", "sky", "back", "front", "front2", "face", "grain")
INDOORS = ("room", "cellar")
SHARPNESS = 0.9
VIEWERS = 11


def allowed(factor: str, chosen: dict[str, str]) -> tuple[str, ...]:
    """Values that a factor may take, given those chosen before it in the order of `FACTORS`."""
    values = tuple(TABLES["front" if factor == "front2" else factor])
    indoors = chosen.get("setting") in INDOORS
    if factor == "weather":
        return ("indoors",) if indoors else tuple(v for v in values if v != "indoors")
    if factor == "sky":
        return ("none", "balloon", "window") if indoors else tuple(v for v in values if v != "window")
    if factor == "back":
        return ("none",) if indoors else values
    if factor in ("front", "front2"):
        barred = {"car"} if indoors else set()
        if chosen["setting"] != "beach":
            barred.add("boat")
        if factor == "front2" and chosen["front"] != "none":
            barred.add(chosen["front"])
        return tuple(v for v in values if v not in barred)
    return values


@cache
def _conditional(factor: str, values: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """log P(value | emotion) over the allowed values, and P summed up to and with each value; both [values, 8]."""
    table = TABLES["front" if factor == "front2" else factor]
    logits = SHARPNESS * np.log(np.array([table[v] for v in values], dtype=np.float64))
    log = logits - np.log(np.exp(logits).sum(axis=0))
    return log, np.exp(log).cumsum(axis=0)


@dataclass(frozen=True)
class Scene:
    """Attributes of one scene, its posterior [8] over the emotions, and the viewers' votes [8] (counts, 11 in all)."""

    attributes: dict[str, str]
    posterior: np.ndarray
    votes: np.ndarray

    @property
    def label(self) -> int:
        """The emotion most viewers named; a tie goes to the more probable one."""
        return int(np.lexsort((self.posterior, self.votes))[-1])


def posterior(attributes: dict[str, str], without: tuple[str, ...] = ()) -> np.ndarray:
    """P(emotion | attributes) by Bayes' rule, exact, [8].

    Args:
        attributes: one value per factor of `FACTORS`.
        without: factors whose evidence is left out (for the ceiling with a factor dropped; what a factor allows later
            ones is still known, because it can be seen).
    """
    log = np.zeros(len(EMOTIONS))
    for factor in FACTORS:
        if factor not in without:
            values = allowed(factor, attributes)
            log += _conditional(factor, values)[0][values.index(attributes[factor])]
    p = np.exp(log - log.max())
    return p / p.sum()


def draw_scene(rng: np.random.Generator) -> Scene:
    """One scene: emotion, attributes, posterior, votes."""
    emotion = int(rng.integers(len(EMOTIONS)))
    attributes: dict[str, str] = {}
    for factor, u in zip(FACTORS, rng.random(len(FACTORS)), strict=True):
        values = allowed(factor, attributes)
        cumulative = _conditional(factor, values)[1][:, emotion]
        attributes[factor] = values[min(int(np.searchsorted(cumulative, u)), len(values) - 1)]
    p = posterior(attributes)
    return Scene(attributes, p, rng.multinomial(VIEWERS, p))
