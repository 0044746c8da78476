"""What the systems cost: the parameters that they add, the memory of a training step, on this tower or another."""

from __future__ import annotations

import torch
from torch import nn

from hc_lafter.analysis.costs import training_memory
from hc_lafter.clip.load import Clip
from hc_lafter.systems import find
from hc_lafter.systems.base import Start
from hc_lafter.systems.regimes import Supervised
from hc_lafter.tuning.material import gather
from hc_lafter.tuning.run import Run
from hc_lafter.tuning.start import start_of


def built(run: Run) -> nn.Module:
    """The run's system, not yet tuned."""
    return run.entry.build(start_of(run), run.settings, run.seed)


def on_tower(name: str, clip: Clip, classes: int, images: int = 0) -> nn.Module:
    """A system with its own settings on another CLIP's tower: for counting and timing, so its classifier is zero.

    Args:
        images: of training, for a system that keeps them; 0: 16 per class.

    Raises:
        ValueError: no system of that name, or its stages and segments do not fit the tower.
    """
    empty = torch.zeros(classes, clip.embed_dim, device=next(clip.visual.parameters()).device)
    entry = find(name)
    config, images = entry.configure(clip.name, depth=clip.layers), images or 16 * classes

    def support() -> tuple[torch.Tensor, torch.Tensor]:
        return empty.new_zeros(images, len(config.layers), clip.embed_dim), torch.arange(images) % classes

    names = tuple(f"class {i}" for i in range(1, classes + 1))
    start = Start(clip.visual, clip.name, empty, 100.0, empty, clip=clip, classes=names, support=support)
    return entry.build(start, config, 0)


def added(system: nn.Module) -> int:
    """Trainable numbers, the classifier left out: it is there before tuning."""
    groups = (group for group in system.parameter_groups() if group["name"] != "classifier")
    return sum(parameter.numel() for group in groups for parameter in group["params"])


def trained(name: str, clip: Clip, classes: int) -> int:
    """What of a system with its own settings is trained, as `added`; 0 where that is the classifier alone, or nothing.

    Raises:
        ValueError: as `on_tower`.
    """
    entry = find(name)
    return 0 if entry.fit or entry.regimes == ("no training",) else added(on_tower(name, clip, classes))


def step_memory(run: Run) -> float:
    """MiB that a supervised step of a run needs beyond model and batch, with all that it ever trains in training."""
    material, device = gather(run.setting), torch.device(run.setting.device)
    system, at = built(run).to(device), material.draw(run.n_train, run.seed)[: run.batch_size]
    if run.layers is None:
        student = torch.stack([material.pixels[int(i)]["student"] for i in at])
    else:
        student = material.taps(run.layers, at)
    batch = {"student": student, "label": material.labels[at], "distribution": material.soft[at]}
    batch = {key: value.to(device) for key, value in batch.items()}
    for group in system.parameter_groups():
        for parameter in group["params"]:
            parameter.requires_grad_(True)

    def loss() -> torch.Tensor:
        with run.setting.autocast():
            terms = Supervised()(system, batch)
        return terms["task"] + 0.1 * terms.get("consistency", 0.0)

    return training_memory(loss, system)
