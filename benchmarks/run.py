"""Our code and its peer in turn, A B A B, in one process: ``python benchmarks/run.py [NAME ...] [--rounds N]``.

Prints one JSON line per comparison: {benchmark, ours_s, peer, peer_s, ratio, rounds, threads}. Times are medians, and
the ratio is the median of the rounds' ratios, so that a passing load on the machine weighs on both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import open_clip
import torch

from hc_lafter.vit import walk


class Comparison(NamedTuple):
    """Two functions that do the same work; ``peer`` says what the other one is."""

    ours: Callable[[], object]
    peer: str
    theirs: Callable[[], object]


def tapping(batch: int) -> Iterator[Comparison]:
    """CLS taps of layers 5-12 of a ViT-B/32 at 224 px, against the plain forward pass, against hooks, and in bf16."""
    model, images = _vit_b_32(), torch.randn(batch, 3, 224, 224)
    blocks, layers = model.visual.transformer.resblocks, range(5, 13)

    def ours() -> object:
        return walk(model.visual, images, layers=layers)

    def hooks() -> object:
        outputs: list[torch.Tensor] = []
        handles = [blocks[i - 1].register_forward_hook(lambda _, __, out: outputs.append(out[:, 0])) for i in layers]
        final = model.encode_image(images)
        for handle in handles:
            handle.remove()
        return final, torch.stack(outputs, dim=1)

    yield Comparison(ours, "open_clip encode_image", lambda: model.encode_image(images))
    yield Comparison(ours, "forward hooks", hooks)
    yield Comparison(
        lambda: walk(model.visual, images, layers=layers, patches=True),
        "open_clip forward_intermediates, CLS and patches",
        lambda: model.visual.forward_intermediates(
            images, indices=[i - 1 for i in layers], output_fmt="NLC", output_extra_tokens=True
        ),
    )
    yield from precision(batch)


def precision(batch: int) -> Iterator[Comparison]:
    """The same walk under bfloat16 autocast, against float32: which one ``auto`` should choose on this processor."""
    model, images = _vit_b_32(), torch.randn(batch, 3, 224, 224)

    def fp32() -> object:
        return walk(model.visual, images, layers=range(5, 13))

    def bf16() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return fp32()

    yield Comparison(bf16, "float32 (ours: bfloat16 autocast)", fp32)


BENCHMARKS = {"tapping": tapping, "precision": precision}


def _vit_b_32() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).eval().requires_grad_(False)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, comparison: Comparison, rounds: int) -> dict[str, object]:
    """One round is both sides once, the first one in turn first; one round before them warms up."""
    sides = (comparison.ours, comparison.theirs)
    for side in sides:
        side()
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            times[which].append(_seconds(sides[which]))
    return {
        "benchmark": name,
        "ours_s": round(statistics.median(times[0]), 5),
        "peer": comparison.peer,
        "peer_s": round(statistics.median(times[1]), 5),
        "ratio": round(statistics.median(a / b for a, b in zip(*times, strict=True)), 4),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per comparison (default 15)")
    parser.add_argument("--batch", type=int, default=16, help="images per call (default 16)")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}.")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        for name in arguments.names or BENCHMARKS:
            for comparison in BENCHMARKS[name](arguments.batch):
                print(json.dumps(compare(name, comparison, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
