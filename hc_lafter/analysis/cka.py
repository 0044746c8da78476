"""Centred kernel alignment: how alike two layers, or a layer and texts, arrange the same images. 1 alike, 0 unrelated.

CKA is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of two Gram matrices (Kornblith et al., "Similarity of Neural Network
Representations Revisited", ICML 2019); here with the unbiased HSIC_1 (Song et al., "Feature Selection via Dependence
Maximization", JMLR 13, 2012, equation 5), averaged over minibatches before the quotient is taken (Nguyen, Raghu,
Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, section 3): memory is decided by the batch,
not by the data set. The biased estimator calls independent features of few images alike: .2 for 8 dimensions and 32
images. Each Gram matrix is made once per batch and U-centred (Székely and Rizzo, "Partial distance correlation",
Annals of Statistics 42, 2014, section 2), after which HSIC_1 is an inner product, and those of L layers with M others
are one matrix product. Features in, numbers out; no hook, no model. n images, L and M layers, T batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hc_lafter.analysis import statistics

KERNELS = ("linear", "rbf")
MIN_IMAGES = 4  # HSIC_1 divides by n - 3
MIN_BATCHES = 10  # below this the bootstrap's own approximation fails
_BLOCK = 128  # rows; smaller blocks spare more and run slower
_ROUNDINGS = 16  # times epsilon times the features' length: a spread below that is rounding


@dataclass(frozen=True, eq=False)
class Alignment:
    """The CKA of L layers with M others, and what is needed to say how sure it is.

    Attributes:
        value: [L, M] float64 in -1..1, debiased: about 0, on either side of it, where nothing is shared.
        biased: [L, M], from the biased HSIC_0; None where it was not asked for.
        permuted: [R, L, M], ``value`` with the images of the other side permuted within each batch; R may be 0.
        cross, own_x, own_y: HSIC_1 of each batch, [T, L, M], [T, L] and [T, M].
        sizes: [T], images in each batch.
    """

    value: np.ndarray
    biased: np.ndarray | None
    permuted: np.ndarray
    cross: np.ndarray
    own_x: np.ndarray
    own_y: np.ndarray
    sizes: np.ndarray

    @property
    def n(self) -> int:
        """Images, of all batches together."""
        return int(self.sizes.sum())

    def floor(self, level: float = 0.95) -> np.ndarray:
        """[L, M]: what unrelated images stay below in a share ``level`` of the permutations.

        Raises:
            ValueError: no permutations were asked for, or a level that is none.
        """
        if not len(self.permuted) or not 0 < level < 1:
            raise ValueError(
                f"there is no floor at level {level} of {len(self.permuted)} permutations: ask for some, such as 200, "
                "and for a level between 0 and 1."
            )
        return np.quantile(self.permuted, level, axis=0)

    def resampled(self, resamples: int, rng_seed: int) -> np.ndarray:
        """[resamples, L, M]: ``value`` of batches drawn with replacement, for intervals of it and of what follows.

        Batches are drawn and not images, since an image drawn twice is a pair with itself, which HSIC_1 leaves out; and
        T - 1 of them, which makes a mean's variance unbiased (McCarthy and Snowden, "The bootstrap and finite
        population sampling", 1985). Of alignments over the same batches, resampled under the same seed, row i is the
        same draw: they may be subtracted.

        Raises:
            ValueError: fewer than 10 batches.
        """
        batches = len(self.sizes)
        if batches < MIN_BATCHES:
            raise ValueError(
                f"{batches} batches are too few to draw from: make them smaller, for {MIN_BATCHES} or more."
            )
        drawn = np.random.default_rng(rng_seed).integers(batches, size=(resamples, batches - 1))
        counts = np.stack([np.bincount(row, minlength=batches) for row in drawn])
        return _quotient(counts * self.sizes, self.cross, self.own_x, self.own_y)

    def spans(self, take: Callable[[np.ndarray], np.ndarray], *, resamples: int, rng_seed: int) -> pd.DataFrame:
        """value, low, high (95%, over batches): a row for each of the K numbers that ``take`` reads from the map.

        Args:
            take: [..., L, M] -> [..., K], such as `diagonal`.
            resamples, rng_seed: as for `resampled`.

        Raises:
            ValueError: as `resampled`.
        """
        return statistics.spans(take(self.value), take(self.resampled(resamples, rng_seed)))

    def check_self(self, tolerance: float = 1e-4) -> None:
        """Refuse what is meant as features against themselves and is not: a shuffled loader beside itself, for one.

        Raises:
            ValueError: a layer whose CKA with itself is not 1.
        """
        own = np.diagonal(self.value)
        worst = int(np.abs(own - 1).argmax())
        if self.value.shape[0] != self.value.shape[1] or not abs(own[worst] - 1) <= tolerance:
            raise ValueError(
                f"entry {worst} has a CKA of {own[worst]:.4f} with itself, not 1: give both sides the same layers of "
                "the same images in the same order."
            )


class CKA:
    """CKA over a stream of batches: `update` with each, then `compute`.

    Args:
        kernel: ``linear``, or ``rbf``: exp(-d^2 / (2 s^2)), where s is the median distance between two images of the
            first batch, for each layer its own, kept for the batches that follow.
        biased: the biased value, too.
        permutations: R, for the baseline, drawn for every batch. rng_seed: of them.

    Raises:
        ValueError: an unknown kernel.
    """

    def __init__(self, kernel: str = "linear", *, biased: bool = False, permutations: int = 0, rng_seed: int = 0):
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r} is unknown: choose one of {', '.join(KERNELS)}.")
        self.kernel, self.biased, self.permutations = kernel, biased, permutations
        self._rng = np.random.default_rng(rng_seed)
        self._bandwidths: dict[tuple[str, int], float] = {}  # side and layer -> s^2
        self._parts: list[tuple[np.ndarray, ...]] = []  # of each batch: cross, own_x, own_y
        self._biased_parts: list[tuple[np.ndarray, ...]] = []
        self._permuted: np.ndarray | float = 0.0
        self._sizes: list[int] = []

    def update(self, x: Sequence, y: Sequence | None = None) -> None:
        """Take one batch of images, drawn at random: a batch of one class has nothing to say of the others.

        A batch counts by its images. The last one of a data set may be smaller than the others; one below 4 images has
        no HSIC_1 and is refused, so the caller leaves it out (`cka` deals the images such that none is left over).

        Args:
            x: L arrays or tensors [n, ...], one per layer, of any widths, on any device; what is behind n is flattened.
            y: M of them, of the same images in the same order: another model's layers, texts. None: ``x`` itself.

        Raises:
            ValueError: fewer than 4 images, other images than on the other side, or values that are not finite.
        """
        ours = self._grams("x", x)
        theirs = ours if y is None else self._grams("y", y)
        n = ours.shape[1]
        if theirs.shape[1] != n:
            raise ValueError(f"x holds {n} images and y {theirs.shape[1]}: give the same images on both sides.")
        self._sizes.append(n)
        if self.biased:
            u = _double_centred(ours)
            self._biased_parts.append(_products(u, u if y is None else _double_centred(theirs), (n - 1) ** 2))
        u = _u_centred(ours)
        v = u if y is None else _u_centred(theirs)
        self._parts.append(_products(u, v, n * (n - 3)))
        if self.permutations:
            orders = [torch.from_numpy(self._rng.permutation(n)) for _ in range(self.permutations)]
            shuffled = (v[:, order[:, None], order].flatten(1) for order in orders)
            cross = torch.stack([u.flatten(1) @ other.T for other in shuffled]) / (n * (n - 3))
            self._permuted = self._permuted + n * cross.numpy()

    def compute(self) -> Alignment:
        """The CKA of all batches so far.

        Raises:
            ValueError: a layer says the same of all images.
        """
        cross, own_x, own_y = (np.stack(parts) for parts in zip(*self._parts, strict=True))
        for side, own in (("x", own_x.sum(0)), ("y", own_y.sum(0))):
            if not own.all():
                raise ValueError(
                    f"entry {int((own == 0).argmax())} of {side} says the same of all images of each batch, so its CKA "
                    "is not defined: leave it out."
                )
        sizes = np.array(self._sizes)
        biased = _quotient(sizes, *map(np.stack, zip(*self._biased_parts, strict=True))) if self.biased else None
        permuted = np.empty((0, *cross.shape[1:]))
        if self.permutations:
            permuted = self._permuted / np.sqrt(np.outer(sizes @ own_x, sizes @ own_y))
        value = _quotient(sizes, cross, own_x, own_y)
        return Alignment(value, biased, permuted, cross, own_x, own_y, sizes)

    @torch.no_grad()
    def _grams(self, side: str, layers: Sequence) -> Tensor:
        """[L, n, n] float64 on the CPU."""
        return torch.stack([self._gram(side, index, layer) for index, layer in enumerate(layers)])

    def _gram(self, side: str, index: int, layer) -> Tensor:
        x = layer.detach() if isinstance(layer, Tensor) else torch.tensor(np.asarray(layer))
        if len(x) < MIN_IMAGES:
            raise ValueError(
                f"entry {index} of {side} has the shape {tuple(x.shape)}, and the unbiased HSIC needs {MIN_IMAGES} "
                "images in a batch: give larger ones, and leave out a last one that is smaller."
            )
        x = (x if x.dtype == torch.float64 else x.float()).reshape(len(x), -1)
        # What all images share cancels in the end; taken off here, it costs float32 no digits.
        centred = x - x.mean(dim=0)
        with torch.autocast(x.device.type, enabled=False):
            gram = _with_itself(centred).cpu().double()
        if not gram.isfinite().all():
            raise ValueError(f"entry {index} of {side} has values that are not finite, or too large to be multiplied.")
        if centred.norm() <= _ROUNDINGS * torch.finfo(x.dtype).eps * x.norm():
            gram.zero_()
        if self.kernel == "linear":
            return gram
        lengths = gram.diagonal()
        squared = (lengths[:, None] + lengths - 2 * gram).clamp_min(0)
        if (side, index) not in self._bandwidths:
            median = squared[tuple(torch.triu_indices(len(x), len(x), offset=1))].median().item()
            if not median:
                raise ValueError(f"entry {index} of {side} is the same for half of the pairs: take the linear kernel.")
            self._bandwidths[side, index] = median
        return (-squared / (2 * self._bandwidths[side, index])).exp()


def cka(
    x: Sequence, y: Sequence | None = None, *, batch_size: int | None = None, rng_seed: int = 0, **settings
) -> Alignment:
    """The CKA of features in memory, see `CKA`.

    Args:
        x, y: as for `CKA.update`, of all images.
        batch_size: the images are dealt at random to n // batch_size batches, whose sizes differ by one at most, so
            that none is small and no image is left out. None: one batch of all, and L + M matrices of n x n numbers.
        rng_seed: of the dealing, and of the permutations.
        settings: those of `CKA`.

    Raises:
        ValueError: as `CKA`, or layers of different images.
    """
    found, sides = CKA(rng_seed=rng_seed, **settings), [list(side) for side in (x, y) if side is not None]
    counts = {len(layer) for side in sides for layer in side}
    if len(counts) != 1:
        raise ValueError(f"the layers hold {sorted(counts)} images: give the same images in each.")
    (n,) = counts
    parts = [np.arange(n)]
    if batch_size is not None:
        parts = np.array_split(np.random.default_rng(rng_seed).permutation(n), max(1, n // batch_size))
    for part in parts:
        found.update(*[[layer[part] for layer in side] for side in sides])
    return found.compute()


def batch_for(images: int, name: str = "x", most: int = 32) -> int:
    """The largest batch, of ``most`` images at most, of which there are enough for intervals.

    Args:
        name: of the images, for the refusal.

    Raises:
        ValueError: fewer than 40 images, which make no ten batches of four.
    """
    least = MIN_BATCHES * MIN_IMAGES
    if images < least:
        raise ValueError(f"{name} has {images} images, too few for intervals of CKA: give {least} or more.")
    return min(most, images // MIN_BATCHES)


def diagonal(values: np.ndarray, offset: int = 0) -> np.ndarray:
    """[..., K]: the diagonal of maps [..., L, M], or one that lies ``offset`` columns to its right."""
    return np.diagonal(values, offset, axis1=-2, axis2=-1)


def hsic(first: Tensor, second: Tensor) -> float:
    """HSIC_1 of two Gram matrices [n, n] as Song et al.'s equation 5 has it: the slow way, to check the fast one by.

    ( tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1 ) / (n (n - 3)), K and L without their diagonals.
    """
    n, one = len(first), torch.ones(len(first), dtype=torch.float64)
    a, b = (gram.double() - gram.double().diagonal().diag() for gram in (first, second))
    total = (a * b).sum() + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ a @ b @ one)
    return float(total / (n * (n - 3)))


def _with_itself(x: Tensor) -> Tensor:
    """x x', [n, n], each block once: torch has no product that knows its result to be symmetric."""
    gram = x.new_empty(len(x), len(x))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        gram[rows, : rows.stop] = x[rows] @ x[: rows.stop].T
        gram[:start, rows] = gram[rows, :start].T
    return gram


def _u_centred(grams: Tensor) -> Tensor:
    """[L, n, n]: rows and columns sum to zero, and so does the diagonal, entry by entry."""
    n = grams.shape[1]
    grams = grams.clone()
    grams.diagonal(dim1=1, dim2=2).zero_()
    rows = grams.sum(dim=2) / (n - 2)
    grams += (rows.sum(dim=1) / (n - 1))[:, None, None] - rows[:, :, None] - rows[:, None, :]
    grams.diagonal(dim1=1, dim2=2).zero_()
    return grams


def _double_centred(grams: Tensor) -> Tensor:
    rows = grams.mean(dim=2)
    return grams - rows[:, :, None] - rows[:, None, :] + rows.mean(dim=1)[:, None, None]


def _products(u: Tensor, v: Tensor, scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[L, M] inner products of centred Gram matrices, [L] and [M] of each with itself."""
    a, b = u.flatten(1), v.flatten(1)
    return tuple((part / scale).numpy() for part in (a @ b.T, a.square().sum(dim=1), b.square().sum(dim=1)))


def _quotient(weights: np.ndarray, cross: np.ndarray, own_x: np.ndarray, own_y: np.ndarray) -> np.ndarray:
    """[..., L, M] from weights [..., T] of the batches."""
    x, y = weights @ own_x, weights @ own_y
    return np.tensordot(weights, cross, axes=1) / np.sqrt(x[..., :, None] * y[..., None, :])
