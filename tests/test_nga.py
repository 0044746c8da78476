"""NGA against the formula spelled out, its two limits, its parametrisations, and what training may do to it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hc_lafter.systems.nga import KINDS, NGA, gaussian_weights

FP32, BF16 = 1e-6, 2**-8  # relative: a few roundings of fp32; one of bf16's 8 bits
EXTREMES = (1e-30, 1e-10, 1e-3, 0.03, 0.069, 0.3, 1.0, 3.0, 1e3, 1e10, 1e30)


def slowly(layers: np.ndarray, sigmas: list[float]) -> np.ndarray:
    """NGA term by term, l counted from 1, one sigma per layer."""
    d = layers.shape[1]
    numerator, denominator = np.zeros_like(layers[:, 0]), 0.0
    for l in range(1, d + 1):  # noqa: E741
        w = np.exp(-((d - l + 1) ** 2) / (2 * sigmas[l - 1] ** 2))
        numerator += w * layers[:, l - 1]
        denominator += w
    return numerator / denominator


def stage(depth: int, dtype=torch.float32, width: int = 5) -> torch.Tensor:
    return torch.randn(4, depth, width, dtype=torch.float64, generator=torch.Generator().manual_seed(depth)).to(dtype)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.7, 40.0])
def test_gaussian_is_the_formula(depth, sigma):
    x = stage(depth, torch.float64)
    got = NGA(depth, sigma=sigma).double()(x)
    # log and exp of sigma in fp32 at construction: relative 1e-7 in sigma, amplified by up to d^2 / sigma^2 at 0.3
    np.testing.assert_allclose(got.detach(), slowly(x.numpy(), [sigma] * depth), atol=1e-4 if sigma < 1 else 1e-5)
    weights = gaussian_weights(depth, sigma)
    np.testing.assert_allclose((weights[:, None] * x).sum(1), slowly(x.numpy(), [sigma] * depth), atol=1e-13)
    assert weights.sum().item() == pytest.approx(1, abs=1e-15)
    assert (weights.diff() >= 0).all()  # deeper never weighs less


def test_weights_known_by_hand():
    e = np.exp([-4.5, -2.0, -0.5])
    np.testing.assert_allclose(gaussian_weights(3, 1.0), e / e.sum(), rtol=1e-14)
    np.testing.assert_allclose(NGA(3).weights().detach(), e / e.sum(), rtol=FP32)


def test_weights_of_many_sigmas_at_once():
    many = gaussian_weights(4, [0.5, 1.0, 2.0])
    assert many.shape == (3, 4)
    for row, sigma in zip(many, (0.5, 1.0, 2.0), strict=True):
        assert torch.equal(row, gaussian_weights(4, sigma))


def test_one_sigma_per_layer_is_the_formula():
    sigmas = [0.7, 2.5, 1.2]
    nga = NGA(3, "gaussian_per_layer").double()
    with torch.no_grad():
        nga.log_sigma.copy_(torch.tensor(sigmas, dtype=torch.float64).log())
    x = stage(3, torch.float64)
    np.testing.assert_allclose(nga(x).detach(), slowly(x.numpy(), sigmas), atol=1e-13)
    np.testing.assert_allclose(nga.sigma, sigmas, rtol=1e-14)
    equal = NGA(3, "gaussian_per_layer", sigma=1.4)
    torch.testing.assert_close(equal.weights(), NGA(3, "gaussian", sigma=1.4).weights(), rtol=FP32, atol=0)


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_per_layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("depth", [2, 3, 8, 64])
def test_limits_are_last_and_mean(kind, dtype, depth):
    x = stage(depth, dtype)
    for sigma in (1e-30, 1e-10, 1e-3):
        nga = NGA(depth, kind, sigma=sigma)
        assert torch.equal(nga.weights(), torch.eye(depth)[-1])
        assert torch.equal(nga(x), NGA(depth, "last")(x)) and torch.equal(nga(x), x[:, -1])
    for sigma in (1e10, 1e30):
        nga = NGA(depth, kind, sigma=sigma)
        assert torch.equal(nga.weights(), torch.full((depth,), 1 / depth))
        tolerance = BF16 if dtype == torch.bfloat16 else FP32
        torch.testing.assert_close(nga(x), NGA(depth, "mean")(x), rtol=tolerance, atol=tolerance)
    assert torch.equal(gaussian_weights(depth, 1e-300), torch.eye(depth, dtype=torch.float64)[-1])
    assert torch.equal(gaussian_weights(depth, 1e300), torch.full((depth,), 1 / depth, dtype=torch.float64))


def test_the_formula_as_written_underflows_where_ours_does_not():
    """The reason for the softmax: otherwise this file guards against nothing."""
    naive = torch.exp(-torch.tensor([9.0, 4.0, 1.0]) / (2 * 0.06**2))
    assert (naive / naive.sum()).isnan().all()
    assert NGA(3, sigma=0.06).weights().tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_per_layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_at_any_sigma(kind, dtype):
    for sigma in EXTREMES:
        nga, x = NGA(8, kind, sigma=sigma), stage(8, dtype).requires_grad_()
        nga(x).float().square().sum().backward()
        assert nga.log_sigma.grad.isfinite().all() and x.grad.isfinite().all(), sigma
        if 1 <= sigma <= 3:  # below, the gradient of far layers falls under the smallest fp32
            assert (nga.log_sigma.grad != 0).all(), sigma


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_per_layer", "free"])
def test_gradient_is_the_numerical_one(kind):
    nga = NGA(3, kind).double()
    name, parameter = next(iter(nga.named_parameters()))
    x = stage(3, torch.float64).requires_grad_()

    def run(value, layers):
        return torch.func.functional_call(nga, {name: value}, (layers,))

    assert torch.autograd.gradcheck(run, (parameter.detach().clone().requires_grad_(), x))


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_per_layer"])
def test_sigma_stays_positive_under_a_wild_optimiser(kind):
    """Steps of 5 in the parameter, in both directions: a bare sigma would have been negative after the first."""
    for towards in (0, 2):
        nga, x = NGA(3, kind), stage(3)
        optimiser = torch.optim.SGD(nga.parameters(), lr=1.0)
        for _ in range(20):
            optimiser.zero_grad()
            (nga(x) - x[:, towards]).square().sum().backward()
            nga.log_sigma.grad.sign_().mul_(5)
            optimiser.step()
            assert (nga.sigma > 0).all() and nga.weights().isfinite().all() and nga(x).isfinite().all()


def test_training_finds_the_sigma_that_made_the_data():
    x = torch.randn(64, 3, 8, generator=torch.Generator().manual_seed(0))
    wanted = NGA(3, sigma=2.0)(x).detach()
    nga = NGA(3)
    optimiser = torch.optim.Adam(nga.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (nga(x) - wanted).square().mean().backward()
        optimiser.step()
    assert nga.sigma.item() == pytest.approx(2.0, rel=1e-3)


def test_free_starts_as_the_release_does():
    folder = Path(os.environ.get("HC_LAFTER_REFERENCE", Path(__file__).parent / "reference"))
    with np.load(folder / "cascade_clip.npz") as arrays:
        released, trained = arrays["nga_init"], torch.from_numpy(arrays["head.weights_s1"])
    nga = NGA(len(released), "free")
    np.testing.assert_allclose(nga.weights().detach(), released, rtol=FP32)
    np.testing.assert_allclose(NGA(3, "free").weights().detach(), [np.exp(-2), np.exp(-0.5), 1], rtol=FP32)
    nga.load_state_dict({"vector": trained})
    x = stage(len(released))
    want = sum(w * x[:, i] for i, w in enumerate(trained))  # not divided by anything
    torch.testing.assert_close(nga(x), want, rtol=1e-5, atol=FP32)


@pytest.mark.parametrize(
    ("kind", "parameters"), [("gaussian", 1), ("gaussian_per_layer", 5), ("free", 5), ("mean", 0), ("last", 0)]
)
def test_parameter_counts_and_shapes(kind, parameters):
    nga = NGA(5, kind)
    assert sum(p.numel() for p in nga.parameters()) == parameters
    x = stage(5)
    assert nga(x).shape == (4, 5) and nga.weights().shape == (5,)
    torch.testing.assert_close(nga(x), (nga.weights()[:, None] * x).sum(1))
    assert (nga.sigma is None) == (not kind.startswith("gaussian"))
    patches = torch.randn(2, 5, 7, 3)
    assert nga(patches).shape == (2, 7, 3)
    torch.testing.assert_close(nga(patches)[:, 4], nga(patches[:, :, 4]))
    assert kind in repr(nga)


def test_all_kinds_are_known_to_the_tests():
    assert set(KINDS) == {"gaussian", "gaussian_per_layer", "free", "mean", "last"}


def test_a_stage_of_one_layer_is_that_layer():
    x = stage(1)
    for kind in KINDS:
        assert torch.equal(NGA(1, kind)(x), x[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_summed_in_fp32_even_under_autocast(kind):
    """Eight equal layers must come back as they are: bf16 weights would sum to something else than one."""
    nga = NGA(8, kind, **({"sigma": 2.3} if kind.startswith("gaussian") else {}))
    x = stage(8, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = nga(x)
    assert got.dtype == torch.bfloat16
    want = (nga.weights()[:, None].double() * x.double()).sum(1)
    torch.testing.assert_close(got.double(), want, rtol=BF16, atol=FP32)
    if kind != "free":
        same = x[:, :1].expand(-1, 8, -1)
        assert torch.equal(nga(same), x[:, 0])


def test_checkpoint_round_trip():
    trained = NGA(3, "gaussian", sigma=0.4)
    fresh = NGA(3)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.weights(), trained.weights())
    with pytest.raises(RuntimeError, match="log_sigma"):  # a parameter that would be ignored must not load silently
        NGA(3, "mean").load_state_dict(trained.state_dict())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: NGA(3, "gauss"), "'gauss' is unknown: choose one of gaussian"),
        (lambda: NGA(3, sigma=0.0), "sigma is 0.0"),
        (lambda: NGA(3, sigma=-1.0), "sigma is -1.0"),
        (lambda: NGA(3, sigma=float("nan")), "sigma is nan"),
        (lambda: NGA(3, sigma=float("inf")), "sigma is inf"),
        (lambda: NGA(3, "mean", sigma=2.0), "'mean' has no sigma, but sigma is 2.0"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
