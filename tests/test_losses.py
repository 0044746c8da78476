"""The losses against float64 loops, scipy and torch's own, their gradients, and logits that break a naive softmax."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from scipy.stats import entropy

from hc_lafter.data.emotion.wheels import MIKELS, wheel_distributions
from hc_lafter.systems.losses import consistency, distillation, dual_task, dual_task_targets

FLOAT64 = {"rtol": 1e-12, "atol": 1e-13}


def batch(b: int = 6, c: int = 8, seed: int = 0, scale: float = 2.0):
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(b, c, dtype=torch.float64, generator=rng)
    labels = torch.randint(c, (b,), generator=rng)
    distributions = torch.rand(b, c, dtype=torch.float64, generator=rng)
    return logits, labels, distributions / distributions.sum(1, keepdim=True)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_dual_task_against_scipy(lam, temperature):
    z, y, q = batch()
    want = []
    for b in range(len(z)):
        t = lam * q[b].numpy()
        t[y[b]] += 1 - lam
        want.append(temperature**2 * entropy(t, softmax(z[b].numpy() / temperature)))
    np.testing.assert_allclose(dual_task(z, y, q, lam=lam, temperature=temperature), np.mean(want), **FLOAT64)


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_dual_task_gradient_is_prediction_minus_target(lam):
    """Claim C12, by autograd; at other temperatures it is T times that of the softened prediction."""
    z, y, q = batch()
    z.requires_grad_()
    t = (1 - lam) * F.one_hot(y, 8).double() + lam * q
    for temperature in (1.0, 3.0):
        (gradient,) = torch.autograd.grad(dual_task(z, y, q, lam=lam, temperature=temperature), z)
        want = temperature * (torch.softmax(z / temperature, 1) - t) / len(z)
        torch.testing.assert_close(gradient, want, **FLOAT64)
    assert torch.autograd.gradcheck(lambda z: dual_task(z, y, q, lam=lam, temperature=2.0), (z,))


def test_dual_task_at_its_ends():
    """lam 0 is cross-entropy; lam e with the uniform distribution torch's label smoothing less the target's entropy."""
    z, y, q = batch()
    torch.testing.assert_close(dual_task(z, y, q, lam=0.0), F.cross_entropy(z, y), **FLOAT64)
    uniform = torch.full_like(z, 1 / 8)
    t = dual_task_targets(y, uniform, 0.1)
    smoothed = F.cross_entropy(z, y, label_smoothing=0.1) - entropy(t.numpy(), axis=1).mean()
    torch.testing.assert_close(dual_task(z, y, uniform, lam=0.1), smoothed, **FLOAT64)
    # the paper's two losses on one softmax, less the constant that their sum has too much
    t = dual_task_targets(y, q, 0.8)
    two = 0.2 * F.cross_entropy(z, y) - 0.8 * (q * F.log_softmax(z, 1)).sum(1).mean()
    torch.testing.assert_close(dual_task(z, y, q), two - entropy(t.numpy(), axis=1).mean(), **FLOAT64)


def test_dual_task_is_zero_where_the_prediction_is_the_target():
    table = torch.from_numpy(wheel_distributions(MIKELS))
    y = torch.tensor([4, 0, 7])
    t = dual_task_targets(y, table[y])
    z = t.log().requires_grad_()
    loss = dual_task(z, y, table[y])
    loss.backward()
    assert abs(loss.item()) < 1e-15 and z.grad.abs().max() < 1e-15
    assert dual_task(z + torch.randn_like(z), y, table[y]) > 0


def test_dual_task_targets_by_hand():
    t = dual_task_targets(torch.tensor([1]), torch.tensor([[0.5, 0.25, 0.25]]), lam=0.8)
    torch.testing.assert_close(t, torch.tensor([[0.4, 0.4, 0.2]]))


def pairs_slowly(stages: list[np.ndarray]) -> float:
    divergences = []
    for i, j in itertools.combinations(range(len(stages)), 2):
        for b in range(len(stages[0])):
            divergences.append(entropy(softmax(stages[j][b]), softmax(stages[i][b])))  # KL(p_j || p_i)
    return float(np.mean(divergences))


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_consistency_against_scipy(stages):
    z = [batch(seed=s)[0] for s in range(stages)]
    want = pairs_slowly([x.numpy() for x in z])
    np.testing.assert_allclose(consistency(z), want, **FLOAT64)
    np.testing.assert_allclose(consistency(torch.stack(z)), want, **FLOAT64)


def test_consistency_has_a_direction():
    """KL(deep || shallow): a shallow stage that excludes what the deep one finds likely costs more than the reverse."""
    certain, uncertain = torch.tensor([[9.0, 0.0, 0.0]]), torch.zeros(1, 3)
    assert consistency([certain, uncertain]) > 2 * consistency([uncertain, certain]) > 0


def test_consistency_gradient_enters_both_stages():
    z = [batch(b=2, c=4, seed=s)[0].requires_grad_() for s in range(3)]
    assert torch.autograd.gradcheck(lambda *z: consistency(z), tuple(z))
    consistency(z).backward()
    assert all((x.grad != 0).any() for x in z)


def test_consistency_of_equal_stages_or_of_one_is_zero():
    z = batch()[0].requires_grad_()
    assert consistency([z, z.detach() + 3.0]).item() == pytest.approx(0, abs=1e-15)  # a shift is not a difference
    assert consistency([z]).item() == 0
    (F.cross_entropy(z, batch()[1]) + consistency([z])).backward()  # an ablation with one stage trains on
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_ten_thousand(dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]]).to(dtype)
    y, q = torch.tensor([1, 2]), torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    stages = [z.clone().requires_grad_(), (-z).requires_grad_(), torch.zeros_like(z).requires_grad_()]
    big = float(z[0, 0])  # 1e4, or the bf16 next to it
    loss = consistency(stages)
    # KL(p_2 || p_1) = 2 big; both KL(uniform || .) = big - ln 3
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((2 * big + 2 * (big - np.log(3))) / 3, rel=1e-6)
    loss.backward()
    assert all(s.grad.isfinite().all() for s in stages)
    single = z.clone().requires_grad_()
    dual = dual_task(single, y, q, lam=0.8)
    t = np.array([0.0, 0.6, 0.4])  # (1 - 0.8) + 0.8 * 0.5 on the label
    want = (entropy(t) * -1 + 0.6 * 2 * big + 0.4 * big) / 2
    assert dual.dtype == torch.float32 and dual.item() == pytest.approx(want, rel=1e-6)
    dual.backward()
    assert single.grad.isfinite().all()


def test_half_precision_is_computed_in_fp32_even_under_autocast():
    z, y, q = batch(b=64)
    rounded = z.bfloat16()
    for loss in (
        lambda z: dual_task(z, y, q.float()),
        lambda z: consistency([z, z.flip(1)]),
        lambda z: distillation(z.unsqueeze(1), z.flip(1)),
    ):
        want = loss(rounded.double())
        with torch.autocast("cpu", torch.bfloat16):
            got = loss(rounded)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-5, atol=1e-6)


def test_distillation_against_a_loop():
    rng = np.random.default_rng(0)
    stages, frozen = rng.normal(size=(5, 3, 7)), rng.normal(size=(5, 7))
    want = np.mean(
        [
            1 - stages[b, s] @ frozen[b] / np.linalg.norm(stages[b, s]) / np.linalg.norm(frozen[b])
            for b in range(5)
            for s in range(3)
        ]
    )
    x, f = torch.from_numpy(stages).requires_grad_(), torch.from_numpy(frozen).requires_grad_()
    loss = distillation(x, f)
    np.testing.assert_allclose(loss.item(), want, **FLOAT64)
    loss.backward()
    assert f.grad is None and (x.grad != 0).any()
    assert torch.autograd.gradcheck(lambda x: distillation(x, f), (x,))


def test_distillation_ends_and_a_feature_of_length_zero():
    f = torch.randn(2, 4)
    assert distillation((3 * f).unsqueeze(1), f).item() == pytest.approx(0, abs=1e-6)
    assert distillation((-f).unsqueeze(1), f).item() == pytest.approx(2, abs=1e-6)
    zero = torch.zeros(2, 1, 4, requires_grad=True)
    distillation(zero, f).backward()
    assert zero.grad.isfinite().all()
