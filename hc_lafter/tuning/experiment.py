"""What the tuning notebooks share: the material of a study, one tuning run, and the predictions that come of it.

Here rooms meet that do not know each other: a study, a CLIP, a data set, a system, the fit loop. Nothing here looks at
the test split but `predict`, and nothing is chosen there. B images, L layers, C classes, D embedding size.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from hc_lafter.clip.load import Clip, load_clip
from hc_lafter.clip.text import TextClassifier, load_text_classifier
from hc_lafter.clip.vit import project
from hc_lafter.clip.weights import weight_hash
from hc_lafter.data import open_data, stratified
from hc_lafter.data.emotion import wheels as emotions
from hc_lafter.data.record import SPLITS
from hc_lafter.data.record import Dataset as Records
from hc_lafter.files import code_hash, versions, write_whole
from hc_lafter.tuning.features import tap
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.training import History, Phase, Rows, fit
from hc_lafter.tuning.views import Views, strong_view, weak_view

VIEWS = ("strong", "plain")
_HEADS_AT_ONCE = 1024  # images whose cached features go through a head together: a head is too small for batches of 32


@dataclass(frozen=True, eq=False)
class Material:
    """A CLIP, a data set, and all that the frozen tower says of it.

    Attributes:
        clip, dataset: as the profile names them.
        shared: [B, L, D], CLS behind each of all L layers in the shared space (`vit.project`), not normalised.
        labels: [B] int64.
        soft: [B, C] float32, the distribution that training may aim at: the data set's ``targets``, which are the
            votes' shares; where it has none, the wheel's for the label (Mikels' eight), or one-hot. ``soft_from`` says
            which: ``votes of 11 simulated viewers``, ``annotators' frequencies``, ``wheel`` or ``labels``.
        truth: [B, C] float64, the data set's ``distributions``, which score; None where it has none, and then no
            distribution metric is worth printing. No training reads it.
        part: split -> indices of its images.
        pixels: every image through the tower's own transform, as ``student``; kept in memory as far as it goes.
    """

    clip: Clip
    dataset: Records
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
        rows = np.arange(len(self.shared)) if indices is None else np.asarray(indices)
        return self.shared[torch.from_numpy(rows)[:, None], torch.tensor([layer - 1 for layer in layers])]

    def draw(self, n: int, seed: int, split: str = "train") -> np.ndarray:
        """At most n indices of a split, drawn with the classes' shares."""
        return stratified(self.part[split], self.labels.numpy(), n, np.random.default_rng(seed))


def gather(study: Setting) -> Material:
    """Open what the profile names and send every image through the frozen tower once (or find that in the cache).

    Raises:
        ValueError, TypeError, OSError: as `load_clip`, `open_data` and `tap`; a split without images.
    """
    p = study.profile
    clip = load_clip(p.clip, device=study.device)
    sizes = {"n_train": p.n_train, "n_val": p.n_val, "n_test": p.n_test}
    dataset = open_data(p.data, **sizes, side=clip.image_size, seed=study.seed, on_error=p.on_error, cache=study.cache)
    part = {split: np.flatnonzero(dataset.splits == split) for split in SPLITS}
    empty = [split for split in SPLITS if len(part[split]) == 0]
    if empty:
        raise ValueError(f"data set {dataset.name!r} has no images in the split {empty[0]!r}: add some.")
    features = tap(
        clip, dataset, layers=range(1, clip.layers + 1), precision=study.precision, batch_size=p.batch_size,
        device=study.device, cache=study.cache, workers=p.workers,
    )  # fmt: skip
    with torch.inference_mode():  # in pieces: a hundred thousand images are gigabytes
        shared = torch.cat([project(clip.visual, x.to(study.device)).cpu() for x in features.cls.split(4096)])
    soft, soft_from = _soft(dataset)
    truth = None if dataset.distributions is None else np.asarray(dataset.distributions)
    # What a worker process keeps dies with it.
    pixels = Views(dataset, {"student": clip.transform}, seed=0, keep=p.workers == 0)
    return Material(clip, dataset, shared.clone(), features.labels, soft, soft_from, truth, part, pixels)


def _soft(dataset: Records) -> tuple[Tensor, str]:
    targets = dataset.targets
    if targets is not None:
        return torch.as_tensor(targets, dtype=torch.float32), dataset.aimed_at
    on_wheel = {name.lower() for name in dataset.classes} <= set(emotions.MIKELS) and len(dataset.classes) > 1
    table = emotions.targets("wheel" if on_wheel else "hard", dataset.classes)
    return torch.as_tensor(table[dataset.labels], dtype=torch.float32), "wheel" if on_wheel else "labels"


def text_classifier(study: Setting, material: Material, seed: int) -> TextClassifier:
    """The classifier that notebook 03 chose and trained on texts under this profile, for this seed.

    Raises:
        FileNotFoundError, ValueError: as `load_text_classifier`.
    """
    path = study.results.parent / "03-text-adapter" / f"classifier-{seed}.safetensors"
    return load_text_classifier(path, material.classes, material.clip)


def check_depth(clip: Clip) -> None:
    """Refuse a tower for which the designs' stages and segments are not meant.

    Raises:
        ValueError: other than 12 blocks.
    """
    if clip.layers != 12:
        raise ValueError(
            f"{clip.name} has {clip.layers} blocks, and the designs' stages and segments are made of 12: take a ViT-B."
        )


def curves(histories: Sequence[History], of: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of ``steps`` or ``epochs`` over several runs: where [n], and values [runs, n].

    A run that diverged is filled up with NaN.
    """
    tables = [getattr(history, of) for history in histories]
    length = max(len(table) for table in tables)
    values = np.full((len(tables), length), np.nan)
    for row, table in zip(values, tables, strict=True):
        row[: len(table)] = [entry[column] for entry in table]
    return np.arange(1, length + 1), values


@dataclass(frozen=True, eq=False)
class Run:
    """A tuned system, in the state of its best epoch on validation, and what it says.

    Attributes:
        system: on the study's device; LaFTer's holds a tower of its own, so keep few of them.
        history: how it came about.
        chosen: indices of the validation images that chose the epoch. val: [n, C] float32 logits for them.
        test: [n, C] float32 logits, in the order of ``material.part["test"]``.
    """

    system: nn.Module | None
    history: History
    chosen: np.ndarray
    val: Tensor
    test: Tensor


def tune(
    study: Setting,
    material: Material,
    system: nn.Module,
    regime: Callable,
    *,
    name: str,
    seed: int,
    images: np.ndarray,
    taps: Sequence[int] | None = None,
    view: str = "strong",
    soft: Tensor | None = None,
    pseudo: Tensor | None = None,
    frozen: bool = False,
    epochs: int | None = None,
    batch_size: int | None = None,
    on_test: np.ndarray | None = None,
    progress: bool = True,
) -> Run:
    """Tune a system on some training images, choose its epoch on validation, and read the test images once.

    A run that was killed goes on where its checkpoint under ``<cache>/runs`` stands; what names the checkpoint is all
    that decides the run, the package's code included.

    Args:
        regime: one of `hc_lafter.tuning.regimes`.
        name: of the run within the notebook, e.g. ``LaFTer, supervised``.
        seed: of order and augmentation.
        images: indices of training images.
        taps: layers of the cached taps that the system reads; None: it reads images, and its tower runs at each step.
        view: ``strong`` or ``plain``, for a system that reads images.
        soft: [B, C] distributions in the place of ``material.soft``.
        pseudo: [B] pseudo-labels of all images, for a label-free regime without a moving teacher.
        frozen: give the batches the frozen tower's own final feature, which the distillation loss asks for.
        epochs, batch_size: in the place of the profile's.
        on_test: indices of test images on which accuracy is measured after each epoch, too, as ``test accuracy`` in the
            history: for showing what choosing on the test split would have reported. It chooses nothing.

    Raises:
        ValueError: an unknown view, or as `fit`.
    """
    p = study.profile
    if view not in VIEWS:
        raise ValueError(f"view {view!r} is unknown: choose one of {', '.join(VIEWS)}.")
    rows = {"label": material.labels, "distribution": material.soft if soft is None else soft}
    rows |= {} if pseudo is None else {"pseudo": pseudo}
    rows |= {"frozen": material.shared[:, -1]} if frozen else {}
    rows = {key: values[images] for key, values in rows.items()}
    if taps is not None:
        data: Dataset = Rows(student=material.taps(taps, images), **rows)
    else:
        student = strong_view(material.clip) if view == "strong" else material.clip.transform
        transforms = {"student": student, "teacher": weak_view(material.clip)}
        if getattr(regime, "teach", None) is None:
            del transforms["teacher"]
        data = Views(material.dataset.subset(images), transforms, seed=seed, extra=rows, keep=p.workers == 0)
    chosen = material.draw(p.n_select, 0, "val")

    def validate(module: nn.Module) -> dict[str, float]:
        found = {"accuracy": _accuracy(module, chosen)}
        return found | ({} if on_test is None else {"test accuracy": _accuracy(module, on_test)})

    def _accuracy(module: nn.Module, indices: np.ndarray) -> float:
        logits = predict(study, material, module, indices, taps=taps)
        return float((logits.argmax(dim=1) == material.labels[indices]).float().mean())

    phases = [Phase(*row) for row in system.schedule(epochs or p.epochs)]
    batch_size = batch_size or p.tune_batch
    shown = None if on_test is None else on_test.tolist()
    told = [name, seed, view, shown, chosen.tolist(), batch_size, data.fingerprint, [vars(phase) for phase in phases]]
    told += [material.dataset.fingerprint, material.clip.weight_hash, material.clip.activation]
    history = fit(
        system,
        data,
        regime,
        phases,
        batch_size=batch_size,
        seed=seed,
        validate=validate,
        precision=study.precision,
        device=study.device,
        workers=0 if taps is not None else p.workers,
        checkpoint=checkpoint_path(study, system, regime, told),
        progress=progress,
        name=f"{name}, seed {seed}",
    )
    val, test = (predict(study, material, system, at, taps=taps) for at in (chosen, material.part["test"]))
    return Run(system, history, chosen, val, test)


def checkpoint_path(study: Setting, system: nn.Module, regime: Callable, told: Sequence) -> Path:
    """Where a run's checkpoint lies: a name made of all that decides the run and that `fit` cannot see.

    That is settings without tensors, code, libraries and the parameters' start. Whatever `fit` would refuse to go on
    with has to be in the name, too, or another n_tune or rate would end in its refusal.

    Args:
        told: what else decides the run, as JSON takes it: its name and seed, the data, the phases, the batch size.
    """
    key = [study.notebook, type(system).__qualname__, repr(getattr(system, "config", None)), repr(regime), *told]
    key += [getattr(regime, "teach", None) is not None, inspect.getsource(type(regime).__call__)]
    key += [code_hash(Path(__file__).parents[1]), versions(), study.precision, str(study.device)]
    for group in system.parameter_groups():
        start = {str(i): parameter for i, parameter in enumerate(group["params"])}
        key += [group["name"], group["lr"], group["weight_decay"], weight_hash(start)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return study.cache / "runs" / f"{digest[:32]}.safetensors"


@torch.inference_mode()
def predict(
    study: Setting, material: Material, system: nn.Module, indices: np.ndarray, *, taps: Sequence[int] | None = None
) -> Tensor:
    """[n, C] float32 logits on the CPU, from cached taps or from images through the system's own tower."""
    system = system.to(study.device)
    if taps is None:
        loader = DataLoader(
            Subset(material.pixels, indices),
            batch_size=study.profile.batch_size,
            num_workers=study.profile.workers,
            generator=torch.Generator(),  # without one the loader draws from the global stream
        )
        batches = (batch["student"] for batch in loader)
    else:
        batches = material.taps(taps, indices).split(max(_HEADS_AT_ONCE, study.profile.batch_size))
    found = []
    for batch in batches:
        with study.autocast() if taps is None else nullcontext():  # heads are cheap, and judged in full precision
            found.append(system(batch.to(study.device)).logits.float().cpu())
    return torch.cat(found)


def save_tuned(system: nn.Module, path: Path, /, **told: str) -> Path:
    """The parameters that were trained, as safetensors, with what is ``told`` of them (texts): for a later notebook."""
    trained = {id(p) for group in system.parameter_groups() for p in group["params"]}
    tensors = {n: p.detach().cpu().contiguous() for n, p in system.named_parameters() if id(p) in trained}
    return write_whole(path, save(tensors, metadata=told))


def pseudo_labels(material: Material, classifier: TextClassifier) -> Tensor:
    """[B] int64: what the text-trained classifier says of the frozen tower's final feature, in the weak view.

    The weak view is fixed and this teacher does not move, so that one pass serves all epochs.
    """
    return (F.normalize(material.shared[:, -1], dim=-1) @ classifier.weight.T).argmax(dim=1)
