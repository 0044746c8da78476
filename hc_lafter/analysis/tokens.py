"""What patch tokens look like: their norms and outliers, their principal colours, their likeness to one of them.

High-norm outliers: Darcet, Oquab, Mairal, Bojanowski, "Vision Transformers Need Registers", ICLR 2024, section 2.1: in
trained towers a few patches of low information carry about ten times the norm of the others. They cut at a fixed norm
(150 for DINOv2), which no other tower shares; here the cut is a stated multiple of the layer's median norm.
Arrays or CPU tensors in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA


@dataclass(frozen=True)
class NormSummary:
    """Norms of the patch tokens of L layers, over all images and places.

    Attributes:
        median: [L].
        levels: Q quantile levels, 0..1.
        quantiles: [L, Q].
        largest_over_median: [L] the largest norm over the median norm.
        multiple: a token is an outlier where its norm exceeds this multiple of its layer's median.
        outlier_share: [L] fraction of tokens that are outliers.
        tokens: how many tokens each layer was judged on, B * N.
    """

    median: np.ndarray
    levels: tuple[float, ...]
    quantiles: np.ndarray
    largest_over_median: np.ndarray
    multiple: float
    outlier_share: np.ndarray
    tokens: int


def token_norms(patches) -> np.ndarray:
    """[B, L, N] float64 Euclidean norms of [B, L, N, W] tokens.

    W times smaller than its input: take it batch by batch, keep the norms, join them for ``summarise_norms``.
    """
    patches = np.asarray(patches)
    return np.sqrt(np.einsum("blnw,blnw->bln", patches, patches, dtype=np.float64))


def summarise_norms(norms, *, multiple: float, levels: Sequence[float] = (0.01, 0.25, 0.5, 0.75, 0.99)) -> NormSummary:
    """Median, quantiles and outliers per layer of the norms [B, L, N] that ``token_norms`` gives.

    Raises:
        ValueError: ``multiple`` is not above 1: an outlier lies above the median.
    """
    norms = np.asarray(norms, dtype=np.float64)
    if not multiple > 1:
        raise ValueError(f"multiple is {multiple}, but an outlier lies above the median: give more than 1.")
    median = np.median(norms, axis=(0, 2))
    return NormSummary(
        median=median,
        levels=tuple(levels),
        quantiles=np.quantile(norms, levels, axis=(0, 2)).T,
        largest_over_median=norms.max(axis=(0, 2)) / median,
        multiple=float(multiple),
        outlier_share=(norms > multiple * median[:, None]).mean(axis=(0, 2)),
        tokens=norms.shape[0] * norms.shape[2],
    )


def patch_pca(patches) -> np.ndarray:
    """[B, N, 3] in 0..1: the first three principal components of [B, N, W] tokens, to be shown as red, green and blue.

    One PCA over all images given, so that a colour means the same in each of them; every component is stretched to 0..1
    over all of them. The sign is fixed: the loading of largest magnitude is positive. A component without variance is
    0.5 everywhere.

    Raises:
        ValueError: fewer than 3 tokens or channels, or a value that is not finite (scikit-learn's).
    """
    patches = np.asarray(patches, dtype=np.float64)
    tokens = patches.reshape(-1, patches.shape[2])
    if not np.ptp(tokens, axis=0).any():
        return np.full((*patches.shape[:2], 3), 0.5)
    # The covariance is W x W however many patches there are, and its decomposition draws no random numbers;
    # scikit-learn fixes the sign as the docstring has it.
    pca = PCA(n_components=3, svd_solver="covariance_eigh").fit(tokens)
    scores = pca.transform(tokens)
    low, span = scores.min(axis=0), np.ptp(scores, axis=0)
    # No variance, up to the rounding of the covariance: an eigenvalue error of some eps * W times the largest.
    flat = pca.explained_variance_ <= tokens.shape[1] * np.finfo(np.float64).eps * pca.explained_variance_.max()
    colours = np.where(flat, 0.5, (scores - low) / np.where(flat, 1.0, span))
    return colours.reshape(*patches.shape[:2], 3)


def similarity_to(patches, index: int) -> np.ndarray:
    """[N] float64 cosine of every token [N, W] of one image with token ``index`` (row * grid width + column)."""
    patches = np.asarray(patches, dtype=np.float64)
    unit = patches / np.linalg.norm(patches, axis=1)[:, None]
    return unit @ unit[index]
