"""Small modules to train, and runs that `test_training.py` starts in processes of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from hc_lafter import store
from hc_lafter.clip.load import load_clip
from hc_lafter.clip.text import EMOTION_TEMPLATES, class_embeddings
from hc_lafter.clip.vit import Prompts, walk
from hc_lafter.data.world.dataset import World
from hc_lafter.systems import Output, System
from hc_lafter.tuning.training import History, Phase, Rows, fit
from hc_lafter.tuning.views import Views, strong_view


class Prompted(nn.Module):
    """The embedded tower with 4 prompt tokens at its input, its LayerNorms and a linear classifier: LaFTer in small."""

    def __init__(self, classes):
        super().__init__()
        clip = load_clip("embedded")
        self.visual = clip.visual
        torch.manual_seed(0)
        self.prompts = nn.Parameter(0.02 * torch.randn(1, 4, clip.width))
        self.classifier = nn.Linear(clip.embed_dim, len(classes), bias=False)
        self.classifier.weight.data = class_embeddings(clip, classes, EMOTION_TEMPLATES)

    def forward(self, images):
        return self.classifier(walk(self.visual, images, prompts=Prompts({0: self.prompts})).final)

    def parameter_groups(self):
        norms = [p for m in self.visual.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()]
        groups = {"prompts": [self.prompts], "classifier": [self.classifier.weight], "norms": norms}
        rates = {"prompts": 1e-2, "classifier": 1e-2, "norms": 1e-3}
        return [{"name": k, "params": v, "lr": rates[k], "weight_decay": 0.01} for k, v in groups.items()]


def noisy(module, batch):
    """Cross-entropy with noise on the images: the global generator takes part in every step."""
    images = batch["strong"] + 0.05 * torch.randn_like(batch["strong"])
    return {"task": F.cross_entropy(module(images), batch["label"], label_smoothing=0.1)}


def train_prompts(path: Path | None, pipe=None) -> tuple[History, dict[str, torch.Tensor]]:
    """32 steps on 36 augmented pictures in two phases; ``pipe`` is asked for leave before every step."""
    torch.set_num_threads(1)
    world, clip = World(36, 24, 0), load_clip("embedded")
    train, val = world.split("train"), world.split("val")
    data = Views(
        train, {"strong": strong_view(clip)}, seed=3, extra={"label": torch.from_numpy(train.labels)}, keep=True
    )
    pictures = torch.stack([clip.transform(val[i].image) for i in range(len(val))])

    def terms(module, batch):
        if pipe is not None:
            pipe.send("step")
            pipe.recv()
        return noisy(module, batch)

    def validate(module):
        return {"accuracy": (module(pictures).argmax(1).numpy() == val.labels).mean()}

    module = Prompted(world.classes)
    phases = [Phase("head", 2, ("classifier",)), Phase("all", 2, ("classifier", "prompts", "norms"))]
    history = fit(
        module, data, terms, phases, batch_size=5, seed=7, validate=validate, checkpoint=path, every=3, progress=False
    )
    return history, {name: p.detach() for name, p in module.named_parameters()}


def killed_run(path: Path, pipe) -> None:
    train_prompts(path, pipe)


class Line(nn.Module):
    """Two linear layers, and a third that no loss asks for."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last, self.spare = nn.Linear(6, 5), nn.Linear(5, 3, bias=False), nn.Linear(2, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))

    def parameter_groups(self):
        return [
            {"name": "first", "params": list(self.first.parameters()), "lr": 1e-2, "weight_decay": 0.1},
            {"name": "last", "params": list(self.last.parameters()), "lr": 3e-2, "weight_decay": 0.0},
            {"name": "spare", "params": list(self.spare.parameters()), "lr": 1e-2, "weight_decay": 0.1},
        ]


def clusters(n: int = 33, seed: int = 0) -> Rows:
    """Three noisy directions in six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 3
    return Rows(x=2 * F.one_hot(label, 6) + 0.5 * torch.randn(n, 6, generator=generator), label=label)


def cross_entropy(module, batch):
    return {"task": F.cross_entropy(module(batch["x"]), batch["label"])}


def train_line(path: Path | None, **options) -> tuple[History, dict[str, torch.Tensor]]:
    """33 rows by 8: the last batch of an epoch has one, fewer than there are processes."""
    module, rows = Line(), clusters()

    def validate(module):
        return {"accuracy": (module(rows.tensors["x"]).argmax(1) == rows.tensors["label"]).float().mean()}

    def terms(module, batch):
        return cross_entropy(module, batch) | {"twice": (module(batch["x"]) + module(-batch["x"])).square().mean()}

    both = {"task": 1.0, "twice": 0.1}
    phases = [Phase("last", 1, ("last",)), Phase("all", 2, ("first", "last", "spare"), both)]
    options = {"batch_size": 8, "seed": 1, "validate": validate, "every": 4, "progress": False} | options
    history = fit(module, rows, terms, phases, checkpoint=path, **options)
    return history, {name: p.detach() for name, p in module.named_parameters()}


def one_of_two(rank: int, port: int, folder: Path, pipe) -> None:
    """A process of two: sends what it measured, what it learnt and how often it wrote a checkpoint."""
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    written, write = [], store.write
    store.write = lambda path, *rest, **metadata: (written.append(path), write(path, *rest, **metadata))
    history, parameters = train_line(folder / "both.safetensors")
    again, _ = train_line(folder / "both.safetensors")
    opinions = iter([0.5, 0.4, 0.3] if rank == 0 else [0.1, 0.2, 0.3])  # they differ; the first process's counts
    best = train_line(None, validate=lambda module: {"accuracy": next(opinions)})[0].best_epoch
    refused = ""
    try:
        train_line(None, seed=rank)
    except ValueError as error:
        refused = str(error)
    learnt = {name: value.numpy() for name, value in parameters.items()}
    pipe.send((vars(history), learnt, len(written), again == history, best, refused))
    torch.distributed.destroy_process_group()


class Dial(nn.Module):
    """One number, and the class that it is nearest to is the answer for every image."""

    def __init__(self, lr: float = 0.25):
        super().__init__()
        self.lr, self.at = lr, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return Output(-((torch.arange(8.0) - self.at) ** 2).expand(len(x), 8))

    def parameter_groups(self):
        return [{"name": "dial", "params": [self.at], "lr": self.lr, "weight_decay": 0.0}]

    def schedule(self, epochs):
        return [Phase("turn", epochs, ("dial",))]


def up(system, batch):
    """AdamW then goes up by its rate at each step."""
    return {"task": -system.at}


@dataclass(frozen=True)
class DialConfig:
    layers: tuple[int, ...] = (12,)
    lr: float = 0.25


DIAL = System(
    "dial", "#000000", "taps", ("supervised",), DialConfig, lambda start, config, seed: Dial(config.lr), ()
)  # fmt: skip
