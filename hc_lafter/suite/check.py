"""One command checks a machine: ``hc-lafter check --device cuda``, minutes, no data and no network.

Three questions. Does the walk give there what open_clip gives? Are the package's own ways faster there than those
they replace? Do runs, computed by Dask's workers, come to what they come to on a CPU? The peers are those of
``benchmarks/run.py``, in a checkout of the repository; their towers have random weights.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from hc_lafter import commands
from hc_lafter.suite import plans
from hc_lafter.suite.paths import find_root
from hc_lafter.suite.study import Study
from hc_lafter.tuning.material import gather
from hc_lafter.tuning.runs import Result, get

ACCURACY = 0.05  # how far a run's may be from the CPU's; four of the 80 test images
RUNS = (
    ("text classifier", "no training"),
    ("linear probe", "supervised"),
    ("HybridCascade-LaFTer", "supervised"),
    ("LaFTer", "label-free"),
    ("SC-CLIP", "no training"),
)


class Part(NamedTuple):
    """A benchmark as it is checked.

    Attributes:
        batch, rounds: images per call and rounds; ``quick`` is the batch of a quick check, of two rounds.
        goals: words of a line's ``peer`` -> the largest ratio; a line without any of them is printed and not judged.
    """

    batch: int
    rounds: int
    quick: int
    goals: dict[str, float]


PARTS = {
    "walk": Part(64, 15, 1, {"(ours: no taps)": 1.05, "(ours: CLS of all 12 layers)": 1.1}),
    "lafter_step": Part(50, 15, 8, {"(ours: bfloat16 autocast, labels of a frozen teacher": 0.3}),
    "sc_clip": Part(32, 9, 1, {"SC-CLIP's released way": 1.0, "encode_image": 1.0}),
    "cka": Part(512, 9, 16, {"stored tokens": 1.0, "two towers": 1.1}),  # towers take most of the time of the latter
}


def check(device: torch.device, bench: ModuleType, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """The lines, one after another.

    Args:
        bench: ``benchmarks/run.py``.
        quick: few images and two rounds, which show that all works; no ratio is judged.

    Yields:
        What ``compare`` of ``benchmarks/run.py`` does, with ``goal`` and ``met`` (None where nothing is judged; False,
        too, where the sides do not agree). A line of ``runs`` has ``accuracy`` and ``peer_accuracy``, its ``goal``
        is their largest difference, and ``difference`` is that of the logits (of masks: of the shares of pixels).
    """
    for name, part in PARTS.items():
        try:
            sizes = {"batch": part.quick if quick else part.batch, "rounds": 2 if quick else part.rounds}
            for line in bench.lines(name, device, refuse=False, **sizes):
                goal = next((goal for words, goal in part.goals.items() if words in line["peer"]), None)
                fast = None if goal is None or quick else line["ratio"] <= goal
                yield line | {"goal": goal, "met": False if "apart" in line else fast}
        except (ValueError, RuntimeError) as error:  # one part that fails leaves the others to be checked
            yield _failed(name, device, bench, error)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    precisions = ["fp32"]
    if not quick and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        precisions.append("bf16")
    with tempfile.TemporaryDirectory(prefix="hc-lafter-check-") as folder:
        try:
            ours = [(name, _computed(Path(folder) / name, str(device), name, "local")) for name in precisions]
            peers = _computed(Path(folder) / "peer", "cpu", "fp32", "none")
            for precision, found in ours:
                for mine, other in zip(found, peers, strict=True):
                    yield _compared(mine, other, precision, device, bench)
        except (ValueError, RuntimeError) as error:
            yield _failed("runs", device, bench, error)


def _computed(cache: Path, device: str, precision: str, scheduler: str) -> list[Result]:
    """A handful of the ``smoke`` profile's runs, computed from nothing."""
    study = Study("04-full-training", "smoke", {"device": device, "precision": precision})
    setting = replace(study.setting, cache=cache)
    planned = plans.benchmark(study) | plans.mask_systems(study)
    runs = [replace(planned[job][0], setting=setting, n_watched=0) for job in RUNS]
    return get(runs, scheduler=scheduler, progress=False)


def _compared(mine: Result, other: Result, precision: str, device: torch.device, bench: ModuleType) -> dict[str, Any]:
    accuracies = [_accuracy(result) for result in (mine, other)]
    tables = [_numbers(result) for result in (mine, other)]
    return {
        "benchmark": "runs",
        "device": str(device),
        "card": bench.card(device),
        "ours_s": round(mine.seconds, 3),
        "peer": f"{other.run}, {precision} there, on the CPU in fp32",
        "peer_s": round(other.seconds, 3),
        "ratio": round(mine.seconds / other.seconds, 4),
        "low": None,
        "high": None,
        "rounds": 1,
        "difference": float(np.abs(tables[0] - tables[1]).max()),
        "accuracy": round(accuracies[0], 4),
        "peer_accuracy": round(accuracies[1], 4),
        "goal": ACCURACY,
        "met": abs(accuracies[0] - accuracies[1]) <= ACCURACY,
    }


def _accuracy(result: Result) -> float:
    """Share of test images, of pixels for masks, whose class is right."""
    if "counts" in result.arrays:
        right, _, truth = result.arrays["counts"].sum(axis=(0, 1))
        return float(right / truth)
    return float(plans.hits(gather(result.run.setting), [result]).mean())


def _numbers(result: Result) -> np.ndarray:
    counts = result.arrays.get("counts")
    return result.test if counts is None else counts / counts[..., 2].sum(axis=1)[:, None, None]


def _failed(name: str, device: torch.device, bench: ModuleType, error: Exception) -> dict[str, Any]:
    why = f"{type(error).__name__}: {error}"
    return {"benchmark": name, "device": str(device), "card": bench.card(device), "error": why, "met": False}


def peers(root: Path) -> ModuleType:
    """``benchmarks/run.py`` of a checkout.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = root / "benchmarks" / "run.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, and it holds what is compared with: start from a checkout.")
    spec = importlib.util.spec_from_file_location("hc_lafter_benchmarks", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(lines: Sequence[dict[str, Any]], where: str) -> str:
    """One sentence on all lines."""
    judged = [line for line in lines if line["met"] is not None]
    missed = [f"{line['benchmark']} ({line.get('peer') or line['error']})" for line in judged if not line["met"]]
    if not missed:
        return f"{where}: all of the {len(judged)} goals are met."
    return f"{where}: {len(missed)} of {len(judged)} goals are not met: {'; '.join(missed)}."


@commands.answers
def main(argv: Sequence[str] | None = None) -> int:
    """``hc-lafter check``: check a machine, print a JSON line per comparison and a verdict."""
    given = commands.check().parse_args(argv)
    bench, lines = peers(find_root()), []
    device = commands.find_device(given.device)
    for line in check(device, bench, quick=given.quick):
        lines.append(line)
        print(json.dumps(line), flush=True)
    print(verdict(lines, f"{device}, {bench.card(device)}"))
    return 0 if all(line["met"] is not False for line in lines) else 1
