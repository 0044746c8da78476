"""Emotion wheels, label -> distribution, and how far two distributions lie apart. Arrays, no model.

Everything goes by NAME: data sets order Mikels' eight differently (EmoSet by polarity, FI by the alphabet), and a
distance looked up by index in another order is a silent error that published code has made. C emotions, B images;
distributions sum to one, entropies and KL are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import rel_entr, xlogy
from scipy.stats import entropy

# Mikels et al., "Emotional category data on images from the IAPS" (2005), in the order of EmoSet-118K's info.json.
MIKELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
_ALIASES = {"content": "contentment", "sad": "sadness"}  # ArtPhoto's file names
_RING = ("sadness", "fear", "excitement", "awe", "contentment", "amusement", "anger", "disgust")


@dataclass(frozen=True)
class Wheel:
    """Emotions on a ring, each a step from the next and the last a step from the first.

    Attributes:
        name: what figures call it; says "invented" where the ring is.
        ring: the names in order; where it starts and which way it turns does not matter.
        positive: the names of positive polarity; all others are negative. Empty: the wheel knows no polarity.
        invented: the ring is nobody's published one. Only Mikels' is published: an Ekman wheel, say, is invented.

    Raises:
        ValueError: an invention that is not marked.
    """

    name: str
    ring: tuple[str, ...]
    positive: frozenset[str] = frozenset()
    invented: bool = False

    def __post_init__(self) -> None:
        if not self.invented and _neighbours(self.ring) != _neighbours(_RING):
            raise ValueError(f"wheel {self.name!r} is not Mikels' ring, the only one published: mark it invented=True.")
        if self.invented and "invented" not in self.name:
            raise ValueError(f"the name of the invented wheel {self.name!r} must say so: '{self.name} (invented)'.")


def _neighbours(ring: Sequence[str]) -> set[frozenset[str]]:
    return {frozenset((ring[i - 1], ring[i])) for i in range(len(ring))}


# The order in which two independent public codes agree: the authors of "A Circular-Structured
# Representation for Visual Emotion Distribution Learning" (Yang et al., CVPR 2021), and EmoLoss.
MIKELS_WHEEL = Wheel("Mikels", _RING, frozenset(MIKELS[:4]))


def places(classes: Sequence[str], wheel: Wheel = MIKELS_WHEEL) -> np.ndarray:
    """[C] int64: each class's place on the ring. Case aside; ArtPhoto's "content" and "sad" are understood.

    Raises:
        ValueError: fewer than two classes, one twice, or one that is not on the ring.
    """
    names = [_ALIASES.get(name.lower(), name.lower()) for name in classes]
    ring = [name.lower() for name in wheel.ring]
    unknown = [given for given, name in zip(classes, names, strict=True) if name not in ring]
    if unknown:
        raise ValueError(
            f"class {unknown[0]!r} is not on the wheel {wheel.name!r} ({', '.join(wheel.ring)}): use the data set's "
            "own distributions, hard labels or label smoothing, for no wheel is published beyond Mikels' eight."
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a wheel needs two classes or more, each once, but they are {tuple(classes)}.")
    return np.array([ring.index(name) for name in names], dtype=np.int64)


def steps(classes: Sequence[str], wheel: Wheel = MIKELS_WHEEL) -> np.ndarray:
    """[C, C] int64: steps along the ring, the shorter way, in the order of ``classes`` (any part of the ring).

    "Mikels' distance" of Zhao et al. (ACM Multimedia 2016) is one more.

    Raises:
        ValueError: as ``places``.
    """
    place = places(classes, wheel)
    apart = np.abs(place[:, None] - place)
    return np.minimum(apart, len(wheel.ring) - apart)


def polarity(classes: Sequence[str], wheel: Wheel = MIKELS_WHEEL) -> np.ndarray:
    """[C] int64: 1 for a positive emotion, -1 for a negative one.

    Raises:
        ValueError: as ``places``, or the wheel knows no polarity.
    """
    if not wheel.positive:
        raise ValueError(f"wheel {wheel.name!r} knows no polarity: name its positive emotions.")
    return np.array([1 if wheel.ring[p] in wheel.positive else -1 for p in places(classes, wheel)])


def shuffled(wheel: Wheel = MIKELS_WHEEL, *, seed: int) -> Wheel:
    """The control that asks whether the ring's order matters: the same ring with its emotions elsewhere.

    None keeps its place and no neighbours stay neighbours (a turned ring, say, would be the same wheel). Every row of
    its strategy-1 table has the same entropy as before, for all emotions of the ring. Polarity is a fact about the
    emotions and stays with them. The ring has six emotions or more: no order of five parts all neighbours.
    """
    rng, n = np.random.default_rng(seed), len(wheel.ring)
    while True:  # one draw in 48 will do on a ring of eight, one in 60 on a ring of six
        order = rng.permutation(n)
        ring = tuple(wheel.ring[i] for i in order)
        if (order != np.arange(n)).all() and not _neighbours(ring) & _neighbours(wheel.ring):
            return Wheel(f"{wheel.name} shuffled by seed {seed} (invented)", ring, wheel.positive, invented=True)


def wheel_distributions(
    classes: Sequence[str],
    *,
    sigma: float = 1.0,
    epsilon: float = 0.1,
    same_polarity: bool = False,
    wheel: Wheel = MIKELS_WHEEL,
) -> np.ndarray:
    """[C, C] float64: row c is the distribution that stands for the label ``classes[c]``.

    Strategy 1 of Yang, She and Sun (IJCAI 2017): exp(-steps^2 / (2 sigma^2)) / (sqrt(2 pi) sigma) + epsilon / C,
    normalised. The factor before the exponential matters: it decides how much epsilon weighs at this sigma.
    Strategy 2 (``same_polarity``) keeps of this only the emotions of the label's polarity, normalised again.

    Args:
        classes: C names in label order.
        sigma: width in steps, above 0 (the paper's sigma_conf).
        epsilon: mass spread evenly before the normalisation, from 0.

    Raises:
        ValueError: as ``steps`` and ``polarity``, or a sigma so large that the label is no longer the likeliest emotion
            in float64.
    """
    with np.errstate(over="ignore"):  # a sigma near 0: exp(-inf) is the 0 that is meant
        gaussian = np.exp(-0.5 * np.square(steps(classes, wheel) / sigma))
    # both terms times sqrt(2 pi) sigma, which cancels in the normalisation and would overflow for a sigma near 0
    table = gaussian + np.sqrt(2 * np.pi) * sigma * epsilon / len(classes)
    if same_polarity:
        sign = polarity(classes, wheel)
        table = np.where(sign[:, None] == sign, table, 0.0)
    table = table / table.sum(axis=1, keepdims=True)
    rest = table - 2 * np.diag(np.diag(table))  # the diagonal turned negative: out of the contest
    if not (np.diag(table) > rest.max(axis=1)).all():
        raise ValueError(
            f"sigma {sigma} with epsilon {epsilon} leaves the label no lead over its neighbours: lower it."
        )
    return table


def smoothing(entropies, classes: int) -> np.ndarray:
    """[C, C] float64: label smoothing, (1 - a) onehot + a / C, with a per row such that row c has ``entropies[c]``.

    The control for a wheel: as unsure as its distributions, but of all other emotions alike. a is torch's
    ``label_smoothing``.

    Args:
        entropies: nats from 0 to ln C, one number or [C].
        classes: C, from 2.
    """

    def excess(a: float, target: float) -> float:
        rest = a / classes
        return -xlogy(1 - a + rest, 1 - a + rest) - (classes - 1) * xlogy(rest, rest) - target

    table = np.empty((classes, classes))
    for row, target in enumerate(np.broadcast_to(np.asarray(entropies, dtype=np.float64), classes)):
        # ln C itself may lie a rounding above what a = 1 reaches, and brentq wants a change of sign
        a = 1.0 if excess(1.0, target) <= 0 else brentq(excess, 0.0, 1.0, args=(target,), xtol=1e-15)
        table[row] = a / classes
        table[row, row] += 1 - a
    return table


TARGETS = ("hard", "smoothing", "wheel", "polarity", "shuffled")


def targets(kind: str, classes: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """[C, C] float64: one of the label -> distribution tables that claim C30 compares; ``table[labels]`` is [B, C].

    Args:
        kind: ``hard`` (one-hot), ``wheel`` (strategy 1), ``polarity`` (strategy 2), ``shuffled`` (strategy 1 on
            ``shuffled(seed=seed)``) or ``smoothing`` of the entropy of ``wheel``.
        classes: C names in label order. Off Mikels' wheel (Ekman's six) only ``hard``.
        seed: of ``shuffled`` alone.

    Raises:
        ValueError: an unknown kind, or as the functions of the tables; ``shuffled`` needs all emotions of the ring.
    """
    if kind not in TARGETS:
        raise ValueError(f"target {kind!r} is unknown: choose one of {', '.join(TARGETS)}.")
    if kind == "hard":
        return np.eye(len(classes))
    if kind == "shuffled" and len(places(classes)) < len(_RING):
        raise ValueError(
            f"the shuffled wheel keeps the entropies only for all {len(_RING)} emotions of 'Mikels', but there are "
            f"{len(classes)} classes: leave this control out."
        )
    wheel = shuffled(seed=seed) if kind == "shuffled" else MIKELS_WHEEL
    table = wheel_distributions(classes, same_polarity=kind == "polarity", wheel=wheel)
    return smoothing(entropy(table, axis=1), len(classes)) if kind == "smoothing" else table


def sigma_sweep(
    classes: Sequence[str], label: str, sigmas: Sequence[float], *, epsilon: float = 0.1, wheel: Wheel = MIKELS_WHEEL
) -> np.ndarray:
    """[S, C] float64: the strategy-1 distribution of one label at every sigma (the figure of notebook 04)."""
    row = list(classes).index(label)
    return np.stack([wheel_distributions(classes, sigma=s, epsilon=epsilon, wheel=wheel)[row] for s in sigmas])


HIGHER_IS_BETTER = frozenset({"cosine", "intersection"})  # of the metrics below; the others are distances


def distribution_metrics(truth, predicted) -> dict[str, np.ndarray]:
    """The six measures of label distribution learning (Geng, IEEE TKDE 2016), each [B] float64 ([S, B] for S runs).

    kl, chebyshev, clark, clark_scaled, canberra, canberra_scaled, cosine, intersection. The scaled ones are divided by
    sqrt(C) and C, their largest values: published tables mix the two scales. An emotion with 0 on both sides adds
    nothing to Clark and Canberra. kl is KL(truth || predicted) in nats, and infinite where the prediction excludes what
    the truth contains: softmax in float64 does not, in fp32 it may.

    Args:
        truth: [B, C], not negative, rows sum to one. predicted: the same, or [S, B, C].

    Raises:
        ValueError: rows that are not distributions.
    """
    if np.ndim(predicted) == 3:
        each = [distribution_metrics(truth, p) for p in predicted]
        return {name: np.stack([found[name] for found in each]) for name in each[0]}
    truth, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    for name, p in (("truth", truth), ("prediction", predicted)):
        wrong = ~((p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 1e-3))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{name} row {row} is not a distribution (it sums to {p[row].sum():.4g}): {p[row].tolist()}."
            )
    classes = truth.shape[1]
    gap, total = np.abs(truth - predicted), truth + predicted
    share = np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)
    clark, canberra = np.sqrt(np.square(share).sum(axis=1)), share.sum(axis=1)
    lengths = np.linalg.norm(truth, axis=1) * np.linalg.norm(predicted, axis=1)
    return {
        "kl": rel_entr(truth, predicted).sum(axis=1),
        "chebyshev": gap.max(axis=1),
        "clark": clark,
        "clark_scaled": clark / np.sqrt(classes),
        "canberra": canberra,
        "canberra_scaled": canberra / classes,
        "cosine": (truth * predicted).sum(axis=1) / lengths,
        "intersection": np.minimum(truth, predicted).sum(axis=1),
    }
