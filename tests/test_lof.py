"""The local outlier factor against scikit-learn and against the released formula written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_score, recall_score
from sklearn.neighbors import LocalOutlierFactor

from hc_lafter.analysis import planting
from hc_lafter.analysis.lof import detection, detections, lof, neighbourhood, outliers, rankings

TOLERANCE = 1e-5  # absolute; scores are about 1, those far above 1 are compared relatively


def tokens(kind: str, batch: int = 3, patches: int = 60, width: int = 24) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(batch, patches, width)
    if kind == "offset":  # what all patches share is a thousand times what tells them apart
        x = x + 1000 * torch.randn(width)
    elif kind == "large norms":
        x[:, ::9] *= 100
    elif kind == "tight clusters":  # each far from the image's centre, seen from which its patches are one point
        x = 0.01 * x + 100 * torch.randn(2, width)[torch.arange(patches) % 2]
    elif kind == "patches alike":  # cosines of .999, as in a sky
        x = 0.03 * x + torch.randn(width)
    elif kind == "a line":
        x = torch.rand(batch, patches, 1)
    elif kind == "some copies":
        x[:, 3:8] = x[:, :1]
    return x


KINDS = ["random", "offset", "large norms", "tight clusters", "patches alike", "a line", "some copies"]


def theirs(x: torch.Tensor, k: int) -> np.ndarray:
    return np.stack([-LocalOutlierFactor(n_neighbors=k).fit(image.numpy()).negative_outlier_factor_ for image in x])


def released(x: torch.Tensor, k: int) -> np.ndarray:
    """SC-CLIP's formula, patch by patch: score_i = r_i * mean of 1 / r_j over the k nearest j."""
    scores = np.empty(x.shape[:2])
    for b, image in enumerate(x.double().numpy()):
        near, r = [], []
        for i, patch in enumerate(image):
            squared = ((image - patch) ** 2).sum(axis=1)
            squared[i] = np.inf
            near.append(np.argsort(squared, kind="stable")[:k])
            r.append(squared[near[i][-1]])
        for i, places in enumerate(near):
            scores[b, i] = r[i] * np.mean([1 / r[j] for j in places])
    return scores


def with_k(*ks: int):
    """Kinds with ks; not six copies with five neighbours or fewer, see the test of copies."""
    return pytest.mark.parametrize("kind, k", [(kind, k) for kind in KINDS for k in ks if kind != KINDS[-1] or k > 5])


@with_k(1, 2, 7, 20, 58, 59)
def test_exact_is_scikit_learns(kind, k):
    x = tokens(kind)
    np.testing.assert_allclose(lof(x, k, "exact").numpy(), theirs(x, k), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("k", [5, 30])
def test_exact_is_scikit_learns_at_full_size(k):
    """196 tokens of 768 channels: enough that float32 alone takes a wrong k-th neighbour now and then."""
    x = tokens("random", batch=12, patches=196, width=768)
    np.testing.assert_allclose(lof(x, k, "exact").numpy(), theirs(x, k), rtol=TOLERANCE, atol=TOLERANCE)


@with_k(1, 7, 20, 59)
def test_released_is_the_formula(kind, k):
    x = tokens(kind)
    np.testing.assert_allclose(lof(x, k, "released").numpy(), released(x, k), rtol=TOLERANCE, atol=TOLERANCE)


def test_the_two_differ():
    x = tokens("random")
    assert (lof(x, 7, "exact") - lof(x, 7, "released")).abs().max() > 0.05


@pytest.mark.parametrize("method", ["released", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_alone_gives_what_it_gives_in_a_batch(method, kind):
    """Also where one image of the batch needs float64 and the others do not."""
    x = torch.cat([tokens("random")[..., : tokens(kind).shape[2]], tokens(kind)])
    alone = torch.cat([lof(image[None], 7, method) for image in x])
    torch.testing.assert_close(lof(x, 7, method), alone, rtol=0, atol=1e-6)
    assert torch.equal(outliers(lof(x, 7, method)), outliers(alone))


@pytest.mark.parametrize("method", ["released", "exact"])
def test_place_and_scale_do_not_matter(method):
    x = tokens("random").double()
    expected = lof(x, 7, method)
    torch.testing.assert_close(lof(1000 * x + 5, 7, method), expected, rtol=0, atol=1e-7)
    order = torch.randperm(x.shape[1])
    torch.testing.assert_close(lof(x[:, order], 7, method), expected[:, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["released", "exact"])
@pytest.mark.parametrize("width", [3, 768])
def test_copies(method, width):
    """An image of one colour, and k + 1 copies of a patch: 1 among themselves, finite all around."""
    torch.manual_seed(1)
    flat = torch.randn(1, 1, width).expand(2, 30, -1)
    torch.testing.assert_close(lof(flat, 7, method), torch.ones(2, 30))
    assert not outliers(lof(flat, 7, method)).any()
    torch.testing.assert_close(lof(torch.zeros(1, 30, width), 7, method), torch.ones(1, 30))

    x = torch.randn(1, 30, width)
    x[0, 10:20] = x[0, 0] / 3
    scores = lof(x, 7, method)[0]
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[10:20], torch.ones(10))
    rest = torch.cat([scores[:10], scores[20:]])
    assert (rest > 0.5).all() and rest.max() > 100  # whoever has a copy among its neighbours
    if method == "exact" and width == 3:  # in 768 channels scikit-learn's copies are a rounding apart
        with pytest.warns(UserWarning, match="Duplicate"):
            np.testing.assert_allclose(scores[None].numpy(), theirs(x, 7), rtol=1e-4)


@pytest.mark.parametrize("method", ["released", "exact"])
def test_it_finds_what_was_planted(method):
    torch.manual_seed(2)
    x = torch.randn(4, 100, 16) + 3 * torch.randn(1, 2, 16)[:, torch.arange(100) % 2]
    planted = torch.zeros(4, 100, dtype=torch.bool)
    for image, places in enumerate([(0, 9), (50, 51), (99, 1), (33, 66)]):
        planted[image, list(places)] = True
    x[planted] = 12 * torch.randn(8, 16)
    assert torch.equal(outliers(lof(x, 20, method), 0.02), planted)


def test_bfloat16_autocast_changes_nothing():
    x = tokens("random")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lof(x, 7), lof(x, 7))
        inside = lof(x, 7)
    assert torch.equal(inside, lof(x, 7)) and inside.dtype == torch.float32


@pytest.mark.parametrize("contamination", [0.0, 0.01, 0.05, 0.1, 0.5])
def test_outliers_are_above_the_quantile(contamination):
    torch.manual_seed(0)
    scores = torch.rand(5, 196)
    found = outliers(scores, contamination)
    limit = np.quantile(scores.double().numpy(), 1 - contamination, axis=1, keepdims=True)
    np.testing.assert_array_equal(found, scores.double().numpy() > limit)
    assert (found.sum(dim=1) == {0.0: 0, 0.01: 2, 0.05: 10, 0.1: 20, 0.5: 98}[contamination]).all()


@pytest.mark.parametrize(
    "k, patches, count", [(30, 196, 30), (1, 2, 1), (0.15, 49, 7), (0.15, 196, 29), (0.001, 49, 1)]
)
def test_a_share_of_the_patches(k, patches, count):
    assert neighbourhood(k, patches) == count
    if patches < 100:
        x = torch.randn(1, patches, 4)
        assert torch.equal(lof(x, k), lof(x, count))


@pytest.mark.parametrize("k", [49, 50, 0.999, 1.0, 0, 0.0, -3, -0.2, 1.5, True, "30"])
def test_a_k_that_leaves_no_neighbourhood(k):
    with pytest.raises(ValueError, match=r"^k (=|is) .*: give "):
        lof(torch.randn(1, 49, 4), k)


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="method 'fast' is unknown: choose one of released, exact"):
        lof(torch.randn(1, 9, 4), 3, "fast")
    with pytest.raises(ValueError, match=r"\[images, places, width\], but their shape is \(9, 4\)"):
        lof(torch.randn(9, 4), 3)
    with pytest.raises(ValueError, match=r"but their shape is \(9,\)"):
        outliers(torch.randn(9))
    for contamination in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"contamination is {contamination}"):
            outliers(torch.randn(1, 9), contamination)


def test_detection_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    scores, planted = torch.rand(3, 40, generator=generator), torch.rand(3, 40, generator=generator) < 0.2
    found = detection(scores, planted, 0.1)
    for i in range(3):
        flagged = scores[i] > scores[i].quantile(0.9)
        assert found["average precision"][i] == pytest.approx(average_precision_score(planted[i], scores[i]))
        assert found["precision"][i] == pytest.approx(precision_score(planted[i], flagged))
        assert found["recall"][i] == pytest.approx(recall_score(planted[i], flagged))


def test_planted_damage_is_where_it_was_asked_for():
    (at,) = planting.places([(2, 16)], 0.2, seed=1)
    assert at.sum(1).tolist() == [3, 3] and torch.equal(at, planting.places([(2, 16)], 0.2, seed=1)[0])
    tokens, images = torch.ones(2, 16, 8), torch.zeros(2, 3, 8, 8)
    assert torch.equal((planting.moved(tokens, at, 1.0, seed=0) != tokens).any(2), at)
    changed = planting.blended(images, at, 2, 1.0, seed=0) != images
    assert torch.equal(changed[:, 0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).all(3).flatten(1), at)


def test_detections_are_those_of_each_ranking():
    """A patch of a hundred times the norm is found by all of them, at the head of the ranking."""
    x, planted = tokens("random"), torch.zeros(3, 60, dtype=torch.bool)
    planted[:, 7] = True
    x[planted] *= 100
    found = detections(x, planted, 10, 1 / 60)
    assert list(rankings(x, 10)) == ["released LOF", "exact LOF", "norm"]
    assert len(found) == 9 and all(values.tolist() == [1.0] * 3 for values in found.values())
    assert torch.equal(rankings(x, 10)["exact LOF"], lof(x, 10, "exact"))
