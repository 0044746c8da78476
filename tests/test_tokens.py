"""Norms, colours and likeness of patch tokens, on inputs with known answers."""

import numpy as np
import pytest
import torch

from hc_lafter.analysis.tokens import patch_pca, similarity_to, summarise_norms, token_norms


def with_norms(norms: np.ndarray, width: int = 5) -> np.ndarray:
    """Tokens of random direction that have just these norms."""
    x = np.random.default_rng(0).normal(size=(*norms.shape, width))
    return x / np.linalg.norm(x, axis=-1, keepdims=True) * norms[..., None]


def test_norms_and_outliers_are_those_put_in():
    norms = np.full((2, 3, 10), 2.0)
    norms[0, 1, 4] = 20.0  # layer entry 1: one token of 20 at ten times the median
    norms[:, 2, :3] = 6.0  # layer entry 2: six tokens at exactly three times the median
    measured = token_norms(with_norms(norms))
    np.testing.assert_allclose(measured, norms, rtol=1e-12)
    got = summarise_norms(norms, multiple=3.0)
    np.testing.assert_array_equal(got.median, [2, 2, 2])
    np.testing.assert_allclose(got.largest_over_median, [1, 10, 3])
    np.testing.assert_allclose(got.outlier_share, [0, 1 / 20, 0])
    np.testing.assert_allclose(summarise_norms(norms, multiple=2.9).outlier_share, [0, 1 / 20, 6 / 20])
    assert got.tokens == 20 and got.quantiles.shape == (3, 5) and got.multiple == 3.0


def test_quantiles_are_per_layer():
    norms = np.stack([np.arange(1.0, 101.0), np.arange(1.0, 101.0) * 7])[None]
    got = summarise_norms(norms, multiple=2.0, levels=(0.0, 0.5, 1.0))
    np.testing.assert_allclose(got.quantiles, [[1, 50.5, 100], [7, 353.5, 700]])


def test_norms_stream():
    """Batches joined give what the whole gives, for float32 tensors as well."""
    tokens = torch.randn(7, 2, 9, 16, generator=torch.Generator().manual_seed(0))
    whole = token_norms(tokens)
    parts = np.concatenate([token_norms(tokens[i : i + 3]) for i in range(0, 7, 3)])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_allclose(whole, tokens.double().norm(dim=-1), rtol=1e-12)


def test_pca_recovers_planted_axes():
    """Three orthogonal directions of falling variance become red, green and blue, each stretched to 0..1."""
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(2, 30, 3)) * (9.0, 3.0, 1.0)
    basis = np.linalg.qr(rng.normal(size=(16, 3)))[0]
    got = patch_pca(planted @ basis.T + 5.0)
    assert got.shape == (2, 30, 3) and got.min() == 0 and got.max() == 1
    np.testing.assert_allclose(got.min(axis=(0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(got.max(axis=(0, 1)), 1, atol=1e-12)
    for axis in range(3):
        r = np.corrcoef(got[..., axis].ravel(), planted[..., axis].ravel())[0, 1]
        assert abs(r) > 0.97, "60 samples mix the axes a little"


def test_pca_sign_follows_the_largest_loading():
    line = np.linspace(-1, 1, 12)[:, None]
    rng = np.random.default_rng(0)
    tokens = line * np.array([0.2, -5.0, 0.1, 0.0]) + 0.01 * rng.normal(size=(12, 4))
    red = patch_pca(tokens[None])[0, :, 0]
    # channel 1 carries the component and falls along the line; its loading is made positive, so red falls as well
    assert red[0] > 0.99 and red[-1] < 0.01
    np.testing.assert_allclose(patch_pca(-tokens[None])[0, :, 0], 1 - red, atol=1e-9)


def test_pca_is_joint_and_deterministic():
    """The same token has the same colour in every image of the call."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 10, 8))
    x[1, 3] = x[0, 7]
    got = patch_pca(x)
    np.testing.assert_allclose(got[1, 3], got[0, 7], atol=1e-12)
    np.testing.assert_array_equal(got, patch_pca(x.copy()))
    assert not np.allclose(got[0], patch_pca(x[:1])[0])


def test_pca_without_variance_is_grey():
    tokens = np.zeros((1, 9, 6)) + 3.0
    np.testing.assert_array_equal(patch_pca(tokens), 0.5)
    tokens[0, :, 2] += np.arange(9)
    got = patch_pca(tokens)
    np.testing.assert_allclose(got[0, :, 0], np.arange(9) / 8, atol=1e-12)
    np.testing.assert_array_equal(got[..., 1:], 0.5)


def test_similarity_is_cosine():
    tokens = np.array([[2.0, 0], [1, 1], [0, 5], [-3, 0]])
    np.testing.assert_allclose(similarity_to(tokens, 0), [1, np.sqrt(0.5), 0, -1], atol=1e-12)
    want = torch.cosine_similarity(torch.tensor(tokens), torch.tensor(tokens[1:2]))
    np.testing.assert_allclose(similarity_to(torch.tensor(tokens), 1), want, atol=1e-12)


def test_an_outlier_lies_above_the_median():
    with pytest.raises(ValueError, match="multiple is 1"):
        summarise_norms(np.ones((1, 2, 4)), multiple=1)
