"""Counts with known answers: parameters, and what training must hold."""

import gc
import time
import weakref

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hc_lafter.analysis.costs import MIB, flops, interleaved, parameters, ratios, ratios_to, training_memory

B, D, H = 32, 64, 128  # batch, width in, width inside
FLOAT = 4


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, D, bias=False))


def step_of(net, batch=B):
    x = torch.randn(batch, D)
    return lambda: net(x).sum()


def expected(saved, trained):
    """MiB of ``saved`` numbers, and of gradient and two moments for each of ``trained``; all fp32."""
    return FLOAT * (saved + 3 * trained) / MIB


def test_parameters_are_counted_once(net):
    whole = D * H + H + H * D
    assert parameters(net) == (whole, whole, whole, whole)
    net[0].requires_grad_(False)
    net.append(net[2])  # shared
    assert parameters(net) == (whole, H * D, whole, H * D)


def test_parameters_of_a_system_are_those_of_its_groups_and_those_beside_its_tower(net):
    class System(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = net.requires_grad_(False)
            self.prompts, self.classifier = (nn.Parameter(torch.ones(size)) for size in (7, 5))

        def parameter_groups(self):
            parts = {"norms": net[0].bias, "prompts": self.prompts, "classifier": self.classifier}
            return [{"name": name, "params": [part]} for name, part in parts.items()]

    assert parameters(System()) == (D * H + H + H * D + 12, H + 12, 12, H + 7)


def test_memory_of_a_small_net_by_hand(net):
    """The first Linear keeps its input, the ReLU its output, which the second Linear keeps, too: the same storage."""
    assert training_memory(step_of(net), net) == expected(B * D + B * H, D * H + H + H * D)


def test_what_lies_below_the_first_trainable_part_is_free(net):
    net[0].requires_grad_(False)
    assert training_memory(step_of(net), net) == expected(B * H, H * D)


def test_what_lies_between_a_trainable_part_and_the_loss_is_not(net):
    """Only the first bias learns: no input is needed, but the ReLU's output is, on the way through frozen parts."""
    net.requires_grad_(False)
    net[0].bias.requires_grad_(True)
    assert training_memory(step_of(net), net) == expected(B * H, H)


def test_views_are_one_storage_and_parameters_none():
    """x and x.t() are saved by the product of both; the weight that scales them is the model's own."""
    scale = nn.ParameterList([nn.Parameter(torch.ones(()))])
    x = torch.randn(D, D)

    def step():
        y = x * scale[0]  # keeps x, and the parameter (not counted)
        return (y @ y.t()).sum()  # keeps y, twice

    assert training_memory(step, scale) == expected(2 * D * D, 1)


def test_freed_storages_are_not_mistaken_for_each_other(net):
    """Losses thrown away within the step give their memory back to the allocator, which hands it out again."""
    x = torch.randn(B, D)

    def step():
        return sum(net(x).sum().detach() for _ in range(20)) + net(x).sum()

    kept = expected(B * D + 21 * B * H, D * H + H + H * D)  # the input is shared, each pass has its own ReLU output
    assert training_memory(step, net) == kept


def test_memory_is_that_of_a_real_adamw(net):
    """Gradients and moments against the tensors of an optimiser that has stepped."""
    step = step_of(net)
    counted = training_memory(step, net) - expected(B * D + B * H, 0)
    optimiser = torch.optim.AdamW(net.parameters())
    step().backward()
    optimiser.step()
    held = [p.grad for p in net.parameters()]
    held += [s[k] for s in optimiser.state.values() for k in ("exp_avg", "exp_avg_sq")]
    assert counted * MIB == pytest.approx(sum(t.numel() * t.element_size() for t in held))


def test_memory_repeats_grows_with_the_batch_and_leaves_no_trace(net):
    before = [p.detach().clone() for p in net.parameters()]
    one, again, double = (training_memory(step_of(net, b), net) for b in (B, B, 2 * B))
    assert one == again and double - one == pytest.approx(expected(B * D + B * H, 0))
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_measuring_frees_what_it_held(net):
    """A saved output that kept its own graph alive would stay in memory for ever."""
    outputs = []

    def step():
        inside = F.relu(net[0](torch.randn(B, D)))
        outputs.append(weakref.ref(inside))
        return net[2](inside).sum()

    training_memory(step, net)
    gc.collect()
    assert outputs[0]() is None


def test_checkpointing_is_seen(net):
    """Recomputing in the backward pass trades memory: of the inside only the input is kept."""
    x = torch.randn(B, D, requires_grad=True)
    whole = training_memory(lambda: net(x).sum(), net)
    spared = training_memory(lambda: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False).sum(), net)
    assert whole - spared == pytest.approx(expected(B * H, 0))


def test_refuses_a_step_that_learns_nothing(net):
    with pytest.raises(ValueError, match="depends on no trainable parameter"):
        training_memory(lambda: net(torch.randn(2, D)).sum().detach(), net)
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="Sequential has no trainable parameter"):
        training_memory(step_of(net), net)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the allocator's peak is measured on CUDA only")
def test_measured_on_cuda_is_what_is_counted_and_little_more(net):
    net, width = net.cuda(), 2048
    x = torch.randn(width, D, device="cuda")
    training_memory(lambda: F.relu(net(x)).sum(), net)  # the first product opens cuBLAS's workspace
    before = torch.cuda.memory_allocated()
    measured = training_memory(lambda: F.relu(net(x)).sum(), net)
    # x stood there before; both ReLUs' outputs are kept
    counted = expected(width * (H + D), D * H + H + H * D)
    assert counted <= measured < 4 * counted and torch.cuda.memory_allocated() == before
    assert all(p.grad is None for p in net.parameters())


def test_interleaved_runs_all_in_turn_and_drops_the_warm_up():
    calls = []

    def slow():
        time.sleep(0.2 if "a" not in calls else 0.01)  # the first call takes longer
        calls.append("a")

    got = interleaved({"a": slow, "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "abbaabba"  # in turn, each round another one first
    assert 0.01 <= got["a"] < 0.1 and 0 < got["b"] < got["a"]


def test_ratios_are_taken_round_by_round(monkeypatch):
    """A machine that slows down from round to round changes no ratio; the range is that of the rounds."""
    clock = {"now": 0.0, "round": 0}
    factor = {"a": [1] * 7, "b": [9, 2, 3, 2, 2.5, 2, 2]}  # the first round warms up

    def call(name):
        def run():
            at = calls.count(name)
            clock["now"] += (1 + at) * factor[name][at]
            calls.append(name)

        return run

    calls = []
    monkeypatch.setattr("hc_lafter.analysis.costs.time.perf_counter", lambda: clock["now"])
    got = ratios_to({name: call(name) for name in factor}, ["a", "b"])
    assert got["a"]["a"] == got["b"]["b"] == {"value": 1, "low": 1, "high": 1, "n": 6}
    assert got["a"]["b"] == pytest.approx({"value": 2, "low": 2, "high": 3, "n": 6})
    assert got["b"]["a"] == pytest.approx({"value": 1 / 2, "low": 1 / 3, "high": 1 / 2, "n": 6})
    assert len(calls) == 2 * 7  # timed once for both
    with pytest.raises(ValueError, match="rounds is 5"):
        ratios({"a": call("a")}, "a", rounds=5)


# --- operations ---


@pytest.mark.parametrize(("tower", "expected"), [("ViT-B-32", 8.82), ("ViT-B-16", 35.1)])
@pytest.mark.parametrize("training", [False, True])
def test_operations_of_a_tower_are_the_analytic_ones(tower, expected, training):
    """Two per multiply-add: patches, four matrices of attention and two of the MLP per token, two products of N x N."""
    visual = open_clip.create_model(tower, device="meta").visual.requires_grad_(training)
    patch, width, depth = visual.patch_size[0], 768, 12
    tokens = (224 // patch) ** 2 + 1
    blocks = depth * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    whole = 2 * (tokens - 1) * width * 3 * patch**2 + blocks + 2 * width * 512
    fast = torch.backends.mha.get_fastpath_enabled()
    found = flops(lambda: visual(torch.zeros(1, 3, 224, 224, device="meta")))
    assert found == whole and round(found / 1e9, 2 if expected < 10 else 1) == expected
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_operations_of_a_product_and_of_a_batch():
    assert flops(lambda: torch.zeros(3, 4) @ torch.zeros(4, 5)) == 2 * 3 * 4 * 5
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with torch.inference_mode():  # where PyTorch would take its fused layer
        assert flops(lambda: layer(torch.zeros(6, 9, 16))) == 6 * flops(lambda: layer(torch.zeros(1, 9, 16))) > 0
