"""What a system costs: parameters, the memory that training it adds, time. Modules and functions in, numbers out."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

MIB = 2**20


class Parameters(NamedTuple):
    """How many numbers a module has; one that several of its parts share is counted once.

    Attributes:
        total: all of them.
        trained: those that tuning trains: of ``parameter_groups()`` where the module has them, else those that ask for
            a gradient.
        beside: all but those of the vision tower, which is the part called ``visual`` (all where there is none).
        added: the trained ones without the group ``classifier``, which is there before tuning.
    """

    total: int
    trained: int
    beside: int
    added: int


def parameters(module: nn.Module) -> Parameters:
    """See `Parameters`."""
    whole = list(module.parameters())
    groups = [{"name": "", "params": [p for p in whole if p.requires_grad]}]
    if hasattr(module, "parameter_groups"):
        groups = module.parameter_groups()
    towers = [part for name, part in module.named_modules() if name.rpartition(".")[2] == "visual"]
    tower = {id(p) for part in towers for p in part.parameters()}
    parts = (
        whole,
        [p for group in groups for p in group["params"]],
        [p for p in whole if id(p) not in tower],
        [p for group in groups for p in group["params"] if group["name"] != "classifier"],
    )
    return Parameters(*(sum({id(p): p.numel() for p in part}.values()) for part in parts))


def training_memory(step: Callable[[], Tensor], module: nn.Module) -> float:
    """MiB that one training step adds to the model and its batch: what must be held at once to learn from a batch.

    The sum of (a) what the forward pass keeps for the backward pass, (b) one gradient and (c) AdamW's two moments per
    trainable parameter. Frozen parameters add nothing, but what lies between a trainable one and the loss does.

    On CUDA (a) and (b) are measured: the allocator's peak (``torch.cuda.max_memory_allocated``) during loss and
    gradients over what was allocated before, passing workspaces included. Elsewhere they are counted, and the count is
    the same on every run: (a) is the sum of the storages that autograd saves, each once and whole, however many views
    of it were saved; parameters and buffers are left out, a batch that autograd saves is not. No allocator's rounding
    and no workspace is in the count, so the two ways must not be mixed in one comparison.

    Neither parameters nor ``.grad`` are changed. Random numbers are drawn and running statistics updated as in any
    forward pass.

    Args:
        step: makes the scalar loss of one batch, the forward pass of ``module`` included; does not call ``backward``.
        module: whose trainable parameters (``requires_grad``) are learned.

    Raises:
        ValueError: nothing is trainable, or the loss does not depend on anything trainable.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(f"{type(module).__name__} has no trainable parameter: set requires_grad before measuring.")
    of_trained = sum(p.numel() * p.element_size() for p in trained)
    if trained[0].is_cuda:
        return (_measured(step, trained) + 2 * of_trained) / MIB
    return (_saved(step, module) + 3 * of_trained) / MIB


def _measured(step: Callable[[], Tensor], trained: list[nn.Parameter]) -> int:
    device = trained[0].device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    # Gradients as values, not in .grad: a second call finds the model as the first one did.
    torch.autograd.grad(_differentiable(step()), trained, allow_unused=True)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _saved(step: Callable[[], Tensor], module: nn.Module) -> int:
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holds them, too: a freed address would be given out again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # the tensor itself would hold its own graph, in a circle that is never freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _differentiable(step())
    return sum(storage.nbytes() for storage in kept.values())


def _differentiable(loss: Tensor) -> Tensor:
    if not loss.requires_grad:
        raise ValueError("the loss depends on no trainable parameter: was the step run under no_grad, or detached?")
    return loss


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of one call, two for each multiply-add, attention included.

    `torch.utils.flop_counter` counts matrix products and convolutions. It sees neither the fused encoder layer, which
    PyTorch takes for attention in inference, nor some fused attention kernels: a ViT-B/32 at 224 px comes out at 5.89
    GFLOP for its 8.82. Both are switched off here while counting. Norms, activations, softmax and interpolation are
    not counted, as is the custom.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds per call, measured in turn (A B A B ...) in one process, so that a busy machine slows all alike.

    One round before the first warms up; each round starts with another function; an accelerator is waited for.
    Times differ from run to run, ratios of them less: they belong into ``timings.json``.

    Args:
        functions: name -> what is timed; called without arguments, rounds + 1 times.
        rounds: from 1.
    """
    return {name: statistics.median(taken) for name, taken in _in_turn(functions, rounds).items()}


def ratios(functions: Mapping[str, Callable[[], object]], base: str, rounds: int = 6) -> dict[str, dict[str, float]]:
    """`ratios_to` one base: name -> {value, low, high, n}."""
    return ratios_to(functions, [base], rounds)[base]


def ratios_to(
    functions: Mapping[str, Callable[[], object]], bases: Sequence[str], rounds: int = 6
) -> dict[str, dict[str, dict[str, float]]]:
    """How many times as long as each base each function takes, by round: base -> name -> {value, low, high, n}.

    The median of the rounds' ratios, with the least and the greatest of them: that range of n rounds holds the true
    median with a probability of 1 - 2 ** (1 - n), whatever the times' distribution (sign test): 97% for six.

    Args:
        functions: name -> what is timed, as for `interleaved`; once for all bases, which are among them.
        rounds: from 6, below which that range is no 95% interval.

    Raises:
        ValueError: fewer than 6 rounds.
        KeyError: no function of that name.
    """
    if rounds < 6:
        raise ValueError(f"rounds is {rounds}, but a 95% interval of their median takes at least six.")
    seconds = _in_turn(functions, rounds)
    found: dict[str, dict[str, dict[str, float]]] = {base: {} for base in bases}
    for base, (name, taken) in itertools.product(bases, seconds.items()):
        each = [mine / other for mine, other in zip(taken, seconds[base], strict=True)]
        found[base][name] = {"value": statistics.median(each), "low": min(each), "high": max(each), "n": rounds}
    return found


def _in_turn(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 1):
        first = index % max(1, len(names))
        for name in names[first:] + names[:first]:
            _wait()
            begun = time.perf_counter()
            functions[name]()
            _wait()
            seconds[name].append(time.perf_counter() - begun)
    return {name: taken[1:] for name, taken in seconds.items()}


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
