"""What a second process brings: ``python benchmarks/scaling.py [--processes 2] [--device cuda]``.

A LaFTer run of the embedded CLIP's tower, or another, by one process and by several that share its batches; on a CPU
each has one thread, on GPUs one each. Prints a JSON line per round: seconds per step of both, and the efficiency, which
is 1 where n processes take an n-th of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.state import PartialState

from hc_lafter.clip.load import load_clip
from hc_lafter.files import processor
from hc_lafter.systems.base import Phase
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.regimes import Supervised
from hc_lafter.tuning.training import Rows, fit

CLASSES = 8


def train(tower: str, batch: int, steps: int, device: str) -> float:
    """Seconds per step of an epoch, after one that warms up; this process takes its share of every batch."""
    clip, images = load_clip(tower), batch * steps
    generator = torch.Generator().manual_seed(0)
    classifier = F.normalize(torch.randn(CLASSES, clip.embed_dim, generator=generator), dim=-1)
    system = LaFTer(clip.visual, classifier, LaFTerConfig())
    rows = Rows(
        student=torch.randn(images, 3, clip.image_size, clip.image_size, generator=generator),
        label=torch.arange(images) % CLASSES,
        distribution=torch.full((images, CLASSES), 1 / CLASSES),
    )
    phases = [Phase("all", 2, system.schedule(1)[0].trains)]
    history = fit(system, rows, Supervised(), phases, batch_size=batch, seed=0, device=device, progress=False)
    return history.seconds[1] / steps


def measured(processes: int, given: argparse.Namespace) -> float:
    """`train` by so many processes, as the first of them measured it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sizes = [f"--{name}={getattr(given, name)}" for name in ("tower", "batch", "steps", "device")]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    done = subprocess.run(
        [*command, __file__, "--worker", *sizes], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--tower", default="embedded", help="as load_clip takes it: ViT-B-32/random (default: embedded)"
    )
    parser.add_argument("--batch", type=int, default=48, help="images per step, over all processes (default: 48)")
    parser.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.worker:
        torch.set_num_threads(1)
        seconds = train(given.tower, given.batch, given.steps, given.device)
        if PartialState().is_main_process:
            print(seconds)
        PartialState().destroy_process_group()
        return
    card = processor() if given.device == "cpu" else torch.cuda.get_device_name()
    for _ in range(given.rounds):
        one, several = measured(1, given), measured(given.processes, given)
        line = {
            "benchmark": "scaling",
            "device": given.device,
            "card": card,
            "tower": given.tower,
            "batch": given.batch,
        }
        line |= {"processes": given.processes, "one_s": round(one, 5), "several_s": round(several, 5)}
        print(json.dumps(line | {"efficiency": round(one / several / given.processes, 4)}), flush=True)


if __name__ == "__main__":
    main()
