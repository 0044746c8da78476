"""The probabilistic model of the embedded world: emotion -> attributes of a scene, and back again by Bayes' rule.

A scene is drawn in three steps: an emotion from a uniform prior; each attribute from a table P(value | emotion), over
the values that those before it allow; then eleven simulated viewers vote by the posterior P(emotion | attributes). The
emotion that started the scene is forgotten: training aims at the votes' shares, and their majority is the hard label:
two scenes with the same attributes may carry different labels, as two photographs in EmoSet do. The posterior, which no
panel of annotators could tell, only scores.

The tables were written down once, by hand, before any model was trained on them: no cue was put in to make a method
win. `SHARPNESS` is their one common exponent; it sets the mean entropy of the posterior near 0.95 nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

# EmoSet-118K's own order (Yang et al., ICCV 2023, info.json): Mikels' eight, positive ones first.
EMOTIONS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")

# Weight of each value for the eight emotions, in the order above; a column is normalised over the values allowed.
TABLES: dict[str, dict[str, tuple[float, ...]]] = {
    "setting": {
        "beach": (3, 2, 4, 3, 0.6, 0.6, 0.6, 1.5),
        "meadow": (3, 2, 5, 2, 1, 1, 0.8, 1.5),
        "mountains": (0.6, 7, 3, 2, 0.6, 0.4, 1.5, 1.2),
        "snowfield": (1.5, 3, 1.5, 2, 0.6, 0.4, 1.2, 2.5),
        "desert": (0.6, 2, 0.6, 1, 1.5, 0.8, 1.5, 1.5),
        "street": (2, 0.8, 0.8, 3, 4, 2, 2, 2),
        "room": (3, 0.4, 4, 1.5, 2.5, 2, 1.5, 3),
        "cellar": (0.4, 0.3, 0.3, 0.5, 2.5, 4, 4.5, 2.5),
    },
    "tone": {
        "warm": (4, 2, 4, 3, 0.8, 0.5, 0.4, 0.6),
        "bright": (4, 4, 3, 4, 0.8, 0.6, 0.5, 0.8),
        "plain": (2, 2, 2, 2, 2, 2, 2, 2),
        "grey": (0.6, 1, 1, 0.6, 1.5, 2.5, 2, 5),
        "dark": (0.4, 2, 0.6, 0.8, 2, 1.5, 5, 3),
        "red": (0.6, 0.8, 0.4, 1.8, 5, 0.6, 1.2, 0.4),
        "green": (0.5, 0.6, 0.8, 0.4, 0.6, 5, 1.5, 0.6),
    },
    "weather": {
        "clear": (4, 3, 4, 4, 1.5, 1.5, 1, 1),
        "cloudy": (2, 2, 2, 2, 2, 2, 2, 2.5),
        "rain": (0.5, 0.6, 0.6, 0.5, 1.5, 1.5, 1.5, 4),
        "fog": (0.3, 1.5, 0.6, 0.3, 0.6, 1.2, 3, 2),
        "storm": (0.2, 1.5, 0.1, 0.8, 3, 0.6, 3, 1),
        "indoors": (1, 1, 1, 1, 1, 1, 1, 1),
    },
    "sky": {
        "none": (2, 2, 2, 2, 2, 2, 2, 2),
        "sun": (3, 2, 4, 3, 1, 1, 0.4, 0.5),
        "moon": (0.4, 3, 1.2, 0.5, 0.6, 0.6, 4, 2),
        "balloon": (5, 1, 2, 5, 0.3, 0.3, 0.3, 0.3),
        "bird": (1.5, 2, 2.5, 1.5, 0.8, 0.8, 0.8, 1),
        "rainbow": (2, 4, 2.5, 2, 0.2, 0.2, 0.2, 0.5),
        "lightning": (0.2, 2, 0.1, 1, 3.5, 0.5, 3.5, 0.6),
        "window": (1.5, 1, 3, 1, 1, 0.8, 1, 2.5),
    },
    "back": {
        "none": (2, 2, 2, 2, 2, 2, 2, 2),
        "house": (1.5, 0.6, 3, 1, 1.5, 1, 1.5, 1.5),
        "tree": (1.5, 2, 3, 1, 1, 1, 1.5, 2),
        "castle": (1, 4, 0.8, 2, 0.8, 0.4, 1.5, 0.6),
        "grave": (0.1, 0.4, 0.1, 0.1, 0.6, 1.2, 4, 4),
    },
    "front": {
        "none": (1, 1, 1, 1, 1, 1, 1, 1),
        "dog": (4, 0.4, 3, 2, 1, 0.6, 0.5, 1),
        "cake": (4, 0.3, 3, 3, 0.2, 0.5, 0.1, 0.3),
        "skull": (0.2, 0.3, 0.1, 0.2, 1.5, 3, 4, 1),
        "spider": (0.3, 0.3, 0.1, 0.2, 0.8, 4, 4, 0.3),
        "flower": (1.5, 1.5, 4, 1, 0.2, 0.2, 0.2, 1.5),
        "boat": (1.5, 3, 4, 2, 0.3, 0.3, 0.8, 1.2),
        "car": (1.5, 0.5, 0.6, 4, 2.5, 0.8, 0.8, 0.6),
        "gift": (4, 0.4, 2, 4, 0.2, 0.2, 0.2, 0.4),
        "fire": (0.4, 1.2, 1, 1.5, 4.5, 0.6, 2, 0.4),
        "snake": (0.4, 0.3, 0.1, 0.6, 1, 3.5, 4, 0.3),
    },
    "face": {
        "none": (2, 2, 2, 2, 2, 2, 2, 2),
        "happy": (5, 1.5, 4, 4, 0.3, 0.2, 0.2, 0.2),
        "sad": (0.3, 0.4, 0.3, 0.2, 1, 1, 1, 5.5),
        "angry": (0.2, 0.2, 0.2, 0.3, 6, 1.5, 0.6, 0.6),
        "scared": (0.2, 0.6, 0.1, 0.4, 0.6, 1, 5, 0.8),
        "disgusted": (0.3, 0.1, 0.2, 0.1, 1.2, 5.5, 0.6, 0.6),
        "surprised": (1.2, 4, 0.3, 3, 0.6, 0.5, 1.8, 0.3),
        "calm": (0.6, 2, 4, 0.4, 0.3, 0.5, 0.3, 1),
    },
    "grain": {"clean": (3, 3, 3, 3, 2, 2, 2, 2), "grainy": (1, 1, 1, 1, 2, 2, 2, 2)},
}
# Two draws from one table: the second leaves out what the first drew.
FACTORS = ("setting", "tone", "weather", "sky", "back", "front", "front2", "face", "grain")
INDOORS = ("room", "cellar")
SHARPNESS = 0.9
VIEWERS = 11

_VALUES = {name: tuple(table) for name, table in TABLES.items()}


def allowed(factor: str, chosen: dict[str, str]) -> tuple[str, ...]:
    """Values that a factor may take, given those chosen before it in the order of `FACTORS`."""
    values = _VALUES["front" if factor == "front2" else factor]
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
