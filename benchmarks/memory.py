"""Memory of a sweep over the features of many images: ``python benchmarks/memory.py [--images 118000]``.

A process of its own taps a synthetic data set into a cache, opens that again and computes a sweep of runs on cached
features, of which it draws five sixths for training. Another one asks the system every 20 ms for its memory and prints
a JSON line per stage. ``anonymous_gib`` is what it allocated, and has to be there. ``resident_gib`` counts the pages of
the cache's files that it has looked at, too, which the system takes back when it needs the room. Linux only.

The tower is one of 12 layers of width 512 whose blocks only scale and shift: what is measured is all around it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import open_clip
import psutil
import torch
from PIL import Image
from torch import Tensor, nn

from hc_lafter.clip.load import Clip, load_clip
from hc_lafter.data.record import Dataset, Record
from hc_lafter.systems import find
from hc_lafter.tuning.computing import compute
from hc_lafter.tuning.material import material_of
from hc_lafter.tuning.run import Run
from hc_lafter.tuning.setting import Setting

LAYERS, WIDTH, SIDE = 12, 512, 32
VISION = {"image_size": SIDE, "patch_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": 64}
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
SYSTEMS = ("mean of layers", "HybridCascade-LaFTer")
GIB = 2**30


class Noise(Dataset):
    """Images of noise in the layout of any data set: two thirds of the rest after training for the test."""

    name, classes = "noise", tuple("abcdefgh")

    def __init__(self, images: int):
        self.ids, self.labels = [str(i) for i in range(images)], np.arange(images) % len(self.classes)
        self.splits = np.repeat(
            ["train", "val", "test"], [images * 5 // 6, images // 18, images - images * 5 // 6 - images // 18]
        )

    def __getitem__(self, index: int) -> Record:
        pixels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        label = int(self.labels[index])
        return Record(self.ids[index], str(self.splits[index]), Image.fromarray(pixels), label, self.classes[label])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"noise {len(self)}".encode()).hexdigest()


class Scale(nn.Module):
    """In the place of a block."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.randn(WIDTH), requires_grad=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def tower(folder: Path) -> Clip:
    path = folder / "scaled.json"
    path.write_text(json.dumps({"embed_dim": WIDTH, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(path)
    clip = load_clip("scaled/random")
    torch.manual_seed(0)
    for index in range(LAYERS):
        clip.visual.transformer.resblocks[index] = Scale()
    return clip


def sweep(images: int, epochs: int, folder: Path, pipe: Connection) -> None:
    """Say which stage begins, and do it."""
    torch.set_num_threads(1)
    clip, data = tower(folder), Noise(images)
    setting = Setting(clip="scaled/random", data="noise", batch_size=512, cache=folder)
    pipe.send("tap and project")
    material_of(setting, clip, data)
    pipe.send("open the cache")
    material = material_of(setting, clip, data)
    pipe.send(f"sweep of {len(SYSTEMS)} systems, 2 seeds")
    for seed in (0, 1):
        for name in SYSTEMS:
            sizes = {"n_train": images, "n_val": images, "epochs": epochs, "batch_size": 512}
            config = find(name).configure(depth=LAYERS)
            run = Run(name, "supervised", seed, setting, config, classifier="templates", **sizes)
            compute(run, material=material)
    pipe.send("")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=118_000, help="(default: as many as EmoSet-118K has)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the cache goes for the time (default: the system's)")
    given = parser.parse_args(argv)
    if sys.platform != "linux":
        parser.error(f"on {sys.platform} the system does not tell allocated from mapped memory: run it on Linux.")
    with tempfile.TemporaryDirectory(prefix="hc-lafter-memory-", dir=given.folder) as folder:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        start = multiprocessing.get_context("spawn")
        child = start.Process(target=sweep, args=(given.images, given.epochs, Path(folder), theirs))
        child.start()
        theirs.close()
        watched, stage = psutil.Process(child.pid), ours.recv()
        while stage:
            began, anonymous, resident = time.perf_counter(), 0, 0
            ended = False
            while not ended:  # looked at once at least, however short a stage is
                memory = watched.memory_info()
                anonymous, resident = max(anonymous, memory.rss - memory.shared), max(resident, memory.rss)
                ended = ours.poll(0.02)
            files = sum(path.stat().st_size for path in Path(folder, "features").glob("*.safetensors"))
            line = {"benchmark": "memory", "images": given.images, "features_gib": files / GIB, "stage": stage}
            line |= {"anonymous_gib": anonymous / GIB, "resident_gib": resident / GIB}
            line |= {"seconds": time.perf_counter() - began}
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
            stage = ours.recv()  # EOFError where it has failed, and said why
        child.join()


if __name__ == "__main__":
    main()
