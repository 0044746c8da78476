"""The material of runs: a CLIP, a data set, and all that the frozen tower says of it. B images, L layers, C classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from hc_lafter.clip.load import Clip, load_clip
from hc_lafter.clip.vit import project
from hc_lafter.data import open_data, stratified
from hc_lafter.data.emotion import wheels as emotions
from hc_lafter.data.record import SPLITS, Dataset
from hc_lafter.store import streamed
from hc_lafter.systems import losses
from hc_lafter.systems.depth import check_fewest
from hc_lafter.tuning.batches import Picked
from hc_lafter.tuning.features import tap
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.views import Views

_PROJECTED_AT_ONCE = 4096  # images
_HEADS_AT_ONCE = 1024  # images whose cached features go through a head together: a head is too small for batches of 32


@dataclass(frozen=True, eq=False)
class Material:
    """A CLIP, a data set, and all that the frozen tower says of it.

    Attributes:
        setting: what decided it.
        clip, dataset: as the setting names them.
        shared: [B, L, D], CLS behind each of all L layers in the shared space (`vit.project`), not normalised. With a
            cache it is a window into a file there, which need not fit the memory; not to be written to.
        labels: [B] int64.
        soft: [B, C] float32, the distribution that training may aim at: the data set's ``targets``, which are the
            votes' shares; where it has none, the wheel's for the label (Mikels' eight), or one-hot. ``soft_from`` says
            which: ``votes of 11 simulated viewers``, ``annotators' frequencies``, ``wheel`` or ``labels``.
        truth: [B, C] float64, the data set's ``distributions``, which score; None where it has none, and then no
            distribution metric is worth printing. No training reads it.
        part: split -> indices of its images.
        pixels: every image through the tower's own transform, as ``student``; kept in memory as far as it goes.
    """

    setting: Setting
    clip: Clip
    dataset: Dataset
    shared: Tensor
    labels: Tensor
    soft: Tensor
    soft_from: str
    truth: np.ndarray | None
    part: Mapping[str, np.ndarray]
    pixels: Views = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def taps(self, layers: Sequence[int], indices: np.ndarray | None = None) -> Tensor:
        """[n, len(layers), D] of the images at ``indices`` (all by default)."""
        return self.picked(layers, indices)[:]

    def picked(self, layers: Sequence[int], indices: np.ndarray | None = None) -> Picked:
        """As `taps`, read when a part is asked for."""
        wrong = [layer for layer in layers if not 1 <= layer <= self.shared.shape[1]]
        if wrong:
            raise ValueError(f"layer {wrong[0]} is not one of this tower's: choose from 1 to {self.shared.shape[1]}.")
        rows = np.arange(len(self.shared)) if indices is None else np.asarray(indices)
        return Picked(self.shared, torch.from_numpy(rows), [layer - 1 for layer in layers])

    def draw(self, n: int, seed: int, split: str = "train") -> np.ndarray:
        """At most n indices of a split, drawn with the classes' shares."""
        return stratified(self.part[split], self.labels.numpy(), n, np.random.default_rng(seed))

    def targets(self, kind: str = "", seed: int = 0) -> Tensor:
        """[B, C] float32, what training aims at: "" is `soft`, ``posterior`` is `truth`, else a kind of the wheel's
        targets (`hc_lafter.data.emotion.wheels.TARGETS`), drawn from the seed where it is shuffled."""
        if kind == "":
            return self.soft
        if kind == "posterior":
            return torch.as_tensor(self.truth, dtype=torch.float32)
        table = emotions.targets(kind, self.classes, seed=seed)
        return torch.as_tensor(table[self.labels.numpy()], dtype=torch.float32)

    def logits(self, system: nn.Module, indices: np.ndarray, layers: Sequence[int] | None = None) -> Tensor:
        """[n, C] float32 on the CPU: what a system says of the images at ``indices``.

        Args:
            layers: of the cached taps that it reads; None: images, through its own tower.
        """
        device = torch.device(self.setting.device)
        system = system.to(device).eval()  # outside inference mode: what moves inside could never be trained again
        if layers is None:
            loader = DataLoader(
                Subset(self.pixels, indices),
                batch_size=self.setting.batch_size,
                num_workers=self.setting.workers,
                generator=torch.Generator(),  # without one the loader draws from the global stream
            )
            batches = (batch["student"] for batch in loader)
        else:
            picked, size = self.picked(layers, indices), max(_HEADS_AT_ONCE, self.setting.batch_size)
            batches = (picked[at : at + size] for at in range(0, len(picked), size))
        found = []
        # heads are cheap, and judged in full precision, whatever the context
        full = torch.autocast(device.type, enabled=False)
        with torch.inference_mode(), self.setting.autocast() if layers is None else full:
            for batch in batches:
                found.append(system(batch.to(device)).logits.float().cpu())
        return torch.cat(found)


@lru_cache(maxsize=2)
def opened(setting: Setting) -> tuple[Clip, Dataset]:
    """The CLIP and the data set that a setting names, opened once in each process.

    Raises:
        ValueError, TypeError, OSError: as `load_clip` and `open_data`; a split without images.
    """
    clip = load_clip(setting.clip, device=setting.device)
    dataset = _open(setting, setting.data, clip)
    empty = [split for split in SPLITS if not (dataset.splits == split).any()]
    if empty:
        raise ValueError(f"data set {dataset.name!r} has no images in the split {empty[0]!r}: add some.")
    return clip, dataset


@lru_cache(maxsize=2)
def opened_masks(setting: Setting) -> Dataset:
    """The data set with masks that a setting names.

    Raises:
        ValueError: as `open_data`, or the set has no masks.
    """
    data = _open(setting, setting.mask_data, load_clip(setting.clip, device=setting.device))
    if data.mask_classes is None:
        raise ValueError(
            f"mask_data is {setting.mask_data!r}, and that data set has no masks: give the world or, say, voc:FOLDER."
        )
    return data


def _open(setting: Setting, spec: str, clip: Clip) -> Dataset:
    return open_data(
        spec, n_train=setting.n_train, n_val=setting.n_val, n_test=setting.n_test, side=clip.image_size,
        seed=setting.seed, on_error=setting.on_error, cache=setting.cache,
    )  # fmt: skip


@lru_cache(maxsize=2)
def gather(setting: Setting) -> Material:
    """Open what the setting names and send every image through the frozen tower once (or find that in the cache).

    Raises:
        ValueError, TypeError, OSError: as `opened` and `tap`.
    """
    return material_of(setting, *opened(setting))


def material_of(setting: Setting, clip: Clip, dataset: Dataset) -> Material:
    """As `gather`, of a CLIP and a data set that are open already."""
    device = torch.device(setting.device)
    part = {split: np.flatnonzero(dataset.splits == split) for split in SPLITS}
    features = tap(
        clip, dataset, layers=range(1, clip.layers + 1), precision=setting.precision, batch_size=setting.batch_size,
        device=device, cache=setting.cache, workers=setting.workers,
    )  # fmt: skip
    shape = (len(dataset), clip.layers, clip.embed_dim)

    def projected() -> Iterator[dict[str, Tensor]]:
        for at in range(0, len(dataset), _PROJECTED_AT_ONCE):
            with torch.inference_mode():
                piece = project(clip.visual, features.cls[at : at + _PROJECTED_AT_ONCE].to(device)).cpu()
            yield {"shared": piece}

    folder = None if setting.cache is None else setting.cache / "features"
    _, tensors = streamed(folder, {"projected": features.key}, {"shared": shape}, projected)
    soft, soft_from = _soft(dataset)
    truth = None if dataset.distributions is None else np.asarray(dataset.distributions)
    # What a worker process keeps dies with it.
    pixels = Views(dataset, {"student": clip.transform}, seed=0, keep=setting.workers == 0)
    return Material(setting, clip, dataset, tensors["shared"], features.labels, soft, soft_from, truth, part, pixels)


def _soft(dataset: Dataset) -> tuple[Tensor, str]:
    targets = dataset.targets
    if targets is not None:
        return torch.as_tensor(targets, dtype=torch.float32), dataset.aimed_at
    on_wheel = {name.lower() for name in dataset.classes} <= set(emotions.MIKELS) and len(dataset.classes) > 1
    table = emotions.targets("wheel" if on_wheel else "hard", dataset.classes)
    return torch.as_tensor(table[dataset.labels], dtype=torch.float32), "wheel" if on_wheel else "labels"


def check_depth(clip: Clip) -> None:
    """Refuse a tower that the designs' stages and segments do not fit, see `hc_lafter.systems.depth`.

    Raises:
        ValueError: fewer than 5 blocks.
    """
    check_fewest(clip.name, clip.layers)


def pseudo_labels(material: Material, weight: Tensor, threshold: float = 0.0) -> Tensor:
    """[B] int64: what a text-trained classifier [C, D] says of the frozen tower's final feature, in the weak view.

    The weak view is fixed and this teacher does not move, so that one pass serves all epochs. ``threshold`` as in
    `hc_lafter.systems.losses.pseudo_labels`.
    """
    scale = material.clip.model.logit_scale.exp().item()
    return losses.pseudo_labels(F.normalize(material.shared[:, -1], dim=-1), weight, threshold, scale)
