"""Our code and its peer in turn, A B A B, in one process: ``python benchmarks/run.py [NAME ...] [--rounds N]``.

Prints one JSON line per comparison: {benchmark, ours_s, peer, peer_s, ratio, rounds, threads}. Times are medians, and
the ratio is the median of the rounds' ratios, so that a passing load on the machine weighs on both sides.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.regimes import LabelFree, Supervised
from hc_lafter.systems.hybrid_cascade import HybridCascade
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.training import Phase, Rows, fit
from hc_lafter.vit import walk

CLASSES, EPOCHS = 8, 8
# How far the loss and each parameter group's gradient may be off, as shares of their lengths. Seen in float32: 1e-6; in
# bfloat16: 1e-3, and .02 for prompts and classifier, .2 for LayerNorm weights and .35 for their biases, whose gradients
# are long sums that nearly cancel.
FP32, BF16 = (1e-4,) * 5, (0.02, 0.05, 0.05, 0.4, 0.6)


class Comparison(NamedTuple):
    """Functions that do the same work.

    Attributes:
        ours: our forms of it by name, each of which gives a line; ``""`` where there is one.
        peer: what the other side is.
        theirs: the other side; its time in a round serves all of our forms.
        limits: form -> how far each tensor that it returns may be from theirs (``same``). Looked at once, in the round
            before the timed ones; a form that is not named is not looked at.
        calls: how many calls of theirs one call of ours stands for: its time is divided by that.
    """

    ours: Mapping[str, Callable[[], object]]
    peer: str
    theirs: Callable[[], object]
    limits: Mapping[str, Sequence[float]] = {}
    calls: int = 1


def tapping(batch: int) -> Iterator[Comparison]:
    """CLS taps of layers 5-12 of a ViT-B/32 at 224 px, against the plain forward pass, against hooks, and in bf16."""
    model = _vit_b_32()
    images = torch.randn(batch, 3, *model.visual.image_size)
    blocks, layers = model.visual.transformer.resblocks, range(5, 13)

    def ours() -> object:
        return walk(model.visual, images, layers=layers)

    def hooks() -> object:
        outputs: list[Tensor] = []
        handles = [blocks[i - 1].register_forward_hook(lambda _, __, out: outputs.append(out[:, 0])) for i in layers]
        final = model.encode_image(images)
        for handle in handles:
            handle.remove()
        return final, torch.stack(outputs, dim=1)

    yield Comparison({"": ours}, "open_clip encode_image", lambda: model.encode_image(images))
    yield Comparison({"": ours}, "forward hooks", hooks)
    yield Comparison(
        {"": lambda: walk(model.visual, images, layers=layers, patches=True)},
        "open_clip forward_intermediates, CLS and patches",
        lambda: model.visual.forward_intermediates(
            images, indices=[i - 1 for i in layers], output_fmt="NLC", output_extra_tokens=True
        ),
    )
    yield from precision(batch)


def precision(batch: int) -> Iterator[Comparison]:
    """The same walk under bfloat16 autocast, against float32: which one ``auto`` should choose on this processor."""
    model = _vit_b_32()
    images = torch.randn(batch, 3, *model.visual.image_size)

    def fp32() -> object:
        return walk(model.visual, images, layers=range(5, 13))

    def bf16() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return fp32()

    yield Comparison({"bfloat16 autocast": bf16}, "float32", fp32)


def lafter_step(batch: int) -> Iterator[Comparison]:
    """One LaFTer step (50 prompts, ViT-B/32 at 224 px) in four forms, against the released way in float32.

    The cached forms have the frozen teacher, whose labels for a fixed view are computed once and outside the time;
    what they learn is the release's first step and parts from it afterwards, as the release's teacher moves.
    """
    visual = _vit_b_32().visual
    student, prototypes = _pictures(visual, batch), _pictures(visual, CLASSES)
    # Each class is the feature of an image, and the teacher sees images near those: every label occurs, and none hangs
    # on a rounding. Short rows, since this tower's features are long and a saturated softmax magnifies roundings.
    teacher = prototypes[torch.arange(batch) % CLASSES] + 0.1 * torch.randn_like(student)
    with torch.no_grad():
        classifier = 0.1 * F.normalize(walk(visual, prototypes).final, dim=-1)
    ours = {}
    for cached in (False, True):
        for kind, dtype in (("float32", torch.float32), ("bfloat16 autocast", torch.bfloat16)):
            system = LaFTer(visual, classifier, LaFTerConfig())
            views = {"student": student, **({"pseudo": system.teach(teacher)} if cached else {"teacher": teacher})}
            regime = LabelFree(teach=None if cached else system.teach)
            form = f"{kind}, {'labels of a frozen teacher computed once' if cached else 'moving teacher'}"
            ours[form] = _step(system, regime, views, dtype)
    theirs = _released_step(visual, system.prompts, classifier, classifier, student, teacher)
    limits = {form: BF16 if form.startswith("bf") else FP32 for form in ours}
    yield Comparison(ours, f"LaFTer's released step, float32, batch {batch}", theirs, limits)


def _step(
    system: LaFTer, regime: LabelFree, views: Mapping[str, Tensor], dtype: torch.dtype
) -> Callable[[], list[Tensor]]:
    """A step as `fit` takes it, by the system's parameter groups."""
    groups = [group["params"] for group in system.parameter_groups()]
    for parameter in itertools.chain(*groups):
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(system.parameter_groups())

    def step() -> list[Tensor]:
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = regime(system, views)["task"]
        loss.backward()
        optimiser.step()
        return [loss.detach(), *_gradients(groups)]

    return step


def _released_step(
    visual: nn.Module, prompts: Tensor, adapter: Tensor, teacher_adapter: Tensor, student: Tensor, teacher: Tensor
) -> Callable[[], list[Tensor]]:
    """The arithmetic of LaFTer's released step, written plainly around open_clip's blocks.

    Assumed, each in the release's favour: gradients are asked for by what it trains and by nothing else (it marks its
    parameters; the text tower's LayerNorms, marked too, are in no graph and cost nothing: left out here); the teacher
    records no graph; tokens are kept sequence before batch, as in OpenAI's CLIP, on which the release builds: with
    frozen weights torch multiplies them faster than open_clip's batch before sequence.
    """
    tower = copy.deepcopy(visual)
    for block in tower.transformer.resblocks:
        block.attn.batch_first = False
    norms = [module for module in tower.modules() if isinstance(module, nn.LayerNorm)]
    prompts, adapter = (nn.Parameter(start.detach().clone()) for start in (prompts, adapter))
    weights, biases = [norm.weight for norm in norms], [norm.bias for norm in norms]
    for parameter in weights + biases:
        parameter.requires_grad_(True)
    decayed = {"params": [prompts, adapter, *weights], "weight_decay": 0.01}
    optimiser = torch.optim.AdamW([decayed, {"params": biases, "weight_decay": 0.0}], lr=5e-4)

    def encode(images: Tensor, tokens: Tensor | None = None) -> Tensor:
        x = tower.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = tower.ln_pre(x + tower.positional_embedding)
        if tokens is not None:
            x = torch.cat([x[:, :1], tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        x = x.transpose(0, 1)
        for block in tower.transformer.resblocks:
            x = block(x)
        return tower.ln_post(x[0]) @ tower.proj

    def step() -> list[Tensor]:
        with torch.no_grad():
            labels = (F.normalize(encode(teacher), dim=-1) @ teacher_adapter.T).argmax(dim=1)
        log_p = (encode(student, prompts) @ adapter.T).log_softmax(dim=1)
        loss = -0.9 * log_p.gather(1, labels[:, None]).mean() - 0.1 * log_p.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return [loss.detach(), *_gradients([[prompts], [adapter], weights, biases])]

    return step


def hybrid_head(batch: int) -> Iterator[Comparison]:
    """HybridCascade's head for an epoch of 4 batches of images, from cached taps, against encoding them each epoch."""
    visual = _vit_b_32().visual
    images, classifier = _pictures(visual, 4 * batch), F.normalize(torch.randn(CLASSES, visual.output_dim), dim=-1)
    system, regime = HybridCascade(visual, classifier), Supervised()
    with torch.no_grad():  # a gradient for the adapters' first matrices, too, which have none at the start
        for adapter in system.adapters:
            adapter.last.normal_(std=0.02)
    rows = {"label": torch.randint(CLASSES, (len(images),))}
    rows["distribution"] = torch.rand(len(images), CLASSES).softmax(dim=1)

    @torch.no_grad()
    def tap() -> Tensor:
        return torch.cat([system.taps(part) for part in images.split(batch)])

    def training(epochs: int, given: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
        """Each call trains on from where the one before ended; it returns the losses of its first epoch's steps."""
        head = copy.deepcopy(system)
        phase = replace(Phase(*head.schedule()[-1]), epochs=epochs)

        def run() -> list[Tensor]:
            data = Rows(student=given(), **rows)
            history = fit(head, data, regime, [phase], batch_size=batch, seed=0, progress=False)
            return [torch.tensor([row["loss"] for row in history.steps if row["epoch"] == 1])]

        return run

    def first_batch(student: Tensor) -> list[Tensor]:
        head = copy.deepcopy(system)
        loss = regime(head, {name: values[:batch] for name, values in {"student": student, **rows}.items()})["task"]
        loss.backward()
        return [loss.detach(), *_gradients([group["params"] for group in head.parameter_groups()])]

    taps = tap()
    same("hybrid_head, the first batch", first_batch(taps), first_batch(images), FP32)
    peer = f"the same epoch, {len(images)} images encoded again"
    limits = {"taps computed before": FP32[:1]}
    yield Comparison({"taps computed before": training(1, lambda: taps)}, peer, training(1, lambda: images), limits)
    amortised = f"per epoch of {EPOCHS}, taps computed in the first"
    limits = {amortised: FP32[:1]}
    yield Comparison({amortised: training(EPOCHS, tap)}, peer, training(1, lambda: images), limits, calls=EPOCHS)


def _gradients(groups: Iterable[Sequence[nn.Parameter]]) -> list[Tensor]:
    """One vector per group."""
    return [torch.cat([parameter.grad.flatten() for parameter in group]) for group in groups]


class Benchmark(NamedTuple):
    """``comparisons`` takes the images per call; batch and rounds are defaults; ``trains``: gradients are wanted."""

    comparisons: Callable[[int], Iterator[Comparison]]
    batch: int = 16
    rounds: int = 15
    trains: bool = False


BENCHMARKS = {
    "tapping": Benchmark(tapping),
    "precision": Benchmark(precision),
    "lafter_step": Benchmark(lafter_step, batch=50, rounds=2, trains=True),
    "hybrid_head": Benchmark(hybrid_head, batch=50, rounds=3, trains=True),
}


def _vit_b_32() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).eval().requires_grad_(False)


def _pictures(visual: nn.Module, count: int) -> Tensor:
    """[count, 3, H, W], noise around a colour: a random tower tells colours apart, and pure noise hardly."""
    return torch.randn(count, 3, 1, 1) + 0.5 * torch.randn(count, 3, *visual.image_size)


def same(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Sequence[float]) -> None:
    """Refuse to time two sides that do not come to the same.

    Raises:
        ValueError: a tensor whose distance to theirs is over its limit, a share of the length of theirs.
    """
    for index, (mine, other, limit) in enumerate(zip(ours, theirs, limits, strict=True)):
        distance = float((mine - other).norm() / other.norm().clamp_min(torch.finfo(other.dtype).tiny))
        if not distance <= limit:
            part = f"gradient {index}" if index else "the loss"
            raise ValueError(
                f"{what}: {part} is {distance:.2g} of its length away from the peer's, and {limit:g} is allowed: the "
                f"two do not do the same work."
            )


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, comparison: Comparison, rounds: int) -> Iterator[dict[str, object]]:
    """A line per form. One round is every side once, to and fro; the round before them warms up and is checked."""
    sides = [*comparison.ours.values(), comparison.theirs]
    *first, expected = [side() for side in sides]
    for form, found in zip(comparison.ours, first, strict=True):
        if form in comparison.limits:
            same(f"{name}, {form}", found, expected, comparison.limits[form])
    del first, expected
    times: list[list[float]] = [[] for _ in sides]
    for index in range(rounds):
        for which in range(len(sides))[:: 1 if index % 2 == 0 else -1]:
            times[which].append(_seconds(sides[which]))
    for form, mine in zip(comparison.ours, times[:-1], strict=True):
        mine = [seconds / comparison.calls for seconds in mine]
        yield {
            "benchmark": name,
            "ours_s": round(statistics.median(mine), 5),
            "peer": f"{comparison.peer} (ours: {form})" if form else comparison.peer,
            "peer_s": round(statistics.median(times[-1]), 5),
            "ratio": round(statistics.median(a / b for a, b in zip(mine, times[-1], strict=True)), 4),
            "rounds": rounds,
            "threads": torch.get_num_threads(),
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    rounds, batches = ({n: getattr(b, field) for n, b in BENCHMARKS.items()} for field in ("rounds", "batch"))
    parser.add_argument("--rounds", type=int, help=f"rounds per comparison; by default {_listed(rounds)}")
    parser.add_argument("--batch", type=int, help=f"images per call, or per step; by default {_listed(batches)}")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}.")
    for option in ("rounds", "batch", "threads"):
        given = getattr(arguments, option)
        if given is not None and given < 1:
            parser.error(f"--{option} is {given} and has to be 1 at least.")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in arguments.names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        with torch.inference_mode(not benchmark.trains):
            for comparison in benchmark.comparisons(arguments.batch or benchmark.batch):
                for line in compare(name, comparison, arguments.rounds or benchmark.rounds):
                    print(json.dumps(line), flush=True)


def _listed(defaults: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in defaults.items())


if __name__ == "__main__":
    main()
