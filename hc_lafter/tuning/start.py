"""What a run's system is built from, and the settings that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import class_embeddings, encode_texts
from hc_lafter.clip.vit import check_tower
from hc_lafter.data.masks.sets import mask_split, names_of, split_or_all, templates_of
from hc_lafter.data.record import Dataset
from hc_lafter.systems.base import Start, System
from hc_lafter.tuning.material import Material, gather, opened, opened_masks
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.texts import classifier_for

if TYPE_CHECKING:
    from hc_lafter.tuning.run import Run


def settings_for(entry: System, setting: Setting) -> Any:
    """A system's own settings for the depth of the setting's CLIP, its preset's for CLIP and data where it has any."""
    clip, data = opened(setting)
    if entry.preset is None:
        return entry.configure(depth=clip.layers)
    data = opened_masks(setting) if entry.reads == "masks" else data
    return entry.configure(clip.name, data.name, clip.layers)


def start_of(
    run: Run, *, clip: Clip | None = None, material: Material | None = None, scenes: Dataset | None = None
) -> Start:
    """What the run's system is built from; ``clip``, ``material`` and ``scenes`` as in `compute`."""
    setting = run.setting
    clip = clip or (opened(setting)[0] if material is None else material.clip)
    check_tower(clip.visual)
    scale = clip.model.logit_scale.exp().item()
    if run.entry.reads == "masks":
        scenes = opened_masks(setting) if scenes is None else scenes
        first = [names[0] for names in names_of(scenes).values()]
        text = class_embeddings(clip, first, templates_of(scenes), cache=setting.cache)
        seen = ~np.isin(scenes.mask_classes, unseen_of(run, scenes))
        return Start(clip.visual, clip.name, text.to(setting.device), scale, seen=torch.from_numpy(seen))
    material = gather(setting) if material is None else material
    text = encode_texts(clip, material.classes, "templates", cache=setting.cache).means()

    def support() -> tuple[Tensor, Tensor]:
        at = material.draw(run.n_train, run.seed)
        return material.taps(run.layers, at), material.labels[at]

    return Start(
        clip.visual, clip.name, text, scale, classifier_for(material, run.classifier, run.seed), clip=clip,
        classes=material.classes, support=support if run.regime == "supervised" and run.layers else None,
    )  # fmt: skip


def unseen_of(run: Run, scenes: Dataset) -> tuple[str, ...]:
    """Names of the classes without pixel labels in training.

    No split covers background as a class, and a system that is not trained needs none.
    """
    split = split_or_all if run.regime == "no training" else mask_split
    return split(run.setting.mask_split, scenes).unseen
