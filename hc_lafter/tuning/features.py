"""Taps of a whole data set, computed once and kept under a key of everything that decides them.

A cache keyed by too little is the field's quietest error: a second backbone loads the first one's features and nothing
complains. Here the key is taken from contents, never from names: the tower's tensors and settings, the pixels' recipe,
the data set's fingerprint, the code of the walk, the versions of the libraries. B images, L layers, W tower width, D
embedding size, N = h x w patches.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hc_lafter import __version__
from hc_lafter.clip import vit
from hc_lafter.clip.load import Clip, resized_transform
from hc_lafter.data.record import Dataset, Record
from hc_lafter.files import file_hash
from hc_lafter.store import streamed, weight_hash
from hc_lafter.tuning.batches import read

_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "pillow")  # what turns a picture into a feature
# What Pillow and the loaders raise on a broken image. Anything else is a fault of the program and keeps its traceback.
_UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class Features:
    """What a tower says of every image of a data set. All tensors are float32 on the CPU.

    From a cache they are windows into its file (`hc_lafter.store.Windows`), opened at each access of ``cls``,
    ``patches`` and ``final``: only what is looked at is read.

    Attributes:
        ids: B record ids, in the order of the data set.
        labels: [B] int64.
        splits: [B] of ``train`` / ``val`` / ``test``.
        layers: L layer numbers, from 1 (0 is what enters block 1).
        cls: [B, L, W], CLS behind each layer, before ``ln_post``; ``vit.project`` takes it into the shared space.
        patches: [B, L, N, W], the patch tokens likewise, row by row; None where they were not asked for.
        final: [B, D], the image feature, not normalised.
        grid: (h, w), rows and columns of patches.
        key: hex sha256 of everything that decides these values.
        tensors: cls, patches and final by name.
    """

    ids: tuple[str, ...]
    labels: Tensor
    splits: np.ndarray
    layers: tuple[int, ...]
    grid: tuple[int, int]
    key: str
    tensors: Mapping[str, Tensor] = field(repr=False)

    @property
    def cls(self) -> Tensor:
        return self.tensors["cls"]

    @property
    def patches(self) -> Tensor | None:
        return self.tensors.get("patches")

    @property
    def final(self) -> Tensor:
        return self.tensors["final"]

    def layer(self, layer: int) -> Tensor:
        """[B, W], CLS behind a layer. Raises ValueError where that layer was not tapped."""
        return self.cls[:, self.layers.index(layer)]

    def layer_patches(self, layer: int) -> Tensor:
        """[B, N, W], patch tokens behind a layer. Raises ValueError where that layer was not tapped."""
        return self.patches[:, self.layers.index(layer)]


def tap(
    clip: Clip,
    dataset: Dataset,
    *,
    layers: Sequence[int],
    patches: bool = False,
    precision: str = "fp32",
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    cache: Path | None = None,
    workers: int = 0,
    progress: bool = True,
    size: tuple[int, int] | None = None,
) -> Features:
    """Walk every image of a data set through the tower, or read what an equal call has left in the cache.

    The same call gives the same bits, from the cache or not. Another batch size, device or precision gives other
    roundings and so an entry of its own in ``<cache>/features``; a subset of the layers of an entry is not looked for
    in it. Features take 4 * B * L * N * W bytes with patches, 4 * B * (L * W + D) without: of the cache's disk, or of
    memory where there is no cache.

    Args:
        clip: the tower and its transform; it is moved to ``device``.
        dataset: the images; no two of one id.
        layers: layer numbers from 1 in ascending order; may be empty, then only ``final`` is filled.
        patches: tap patch tokens too.
        precision: ``fp32``, or ``bf16`` (autocast; the features are stored as float32 all the same). Those of a tower
            of 12 blocks are then about .01 of their length away from fp32's.
        batch_size: images per walk.
        device: where the tower runs.
        cache: folder of the cache; None computes without storing.
        workers: processes that decode images; 0 decodes in this one.
        progress: show a progress bar.
        size: (height, width) in pixels, multiples of the patch side: the whole image is stretched to it, so that a
            place in the grid is a place in the image. None takes the tower's own transform (as a rule: shorter side
            to the native size, then centre crop).

    Raises:
        ValueError: layers, a precision or a size that the tower cannot have, no records or two of one id, an image that
            cannot be decoded or a feature that is not finite (named by the record's id).
        TypeError: a tower that the walk cannot take.
        OSError: the cache cannot be written, or the disk has no room for the entry.
    """
    layers, device = tuple(map(int, layers)), torch.device(device)
    _check(clip, dataset, layers, precision)
    transform = clip.transform if size is None else resized_transform(clip, size)
    height, width = size or (clip.image_size, clip.image_size)
    grid = (height // clip.patch_size, width // clip.patch_size)
    labels = np.asarray(dataset.labels, dtype=np.int64)
    records = json.dumps([list(dataset.ids), labels.tolist(), np.asarray(dataset.splits).tolist()])
    inputs = {  # everything that decides a feature, as far as the bit
        "package": __version__,
        "code": [file_hash(Path(source)) for source in (__file__, vit.__file__)],
        "libraries": {name: version(name) for name in _LIBRARIES},
        "weights": weight_hash(clip.visual.state_dict()),  # clip.weight_hash is from loading: it outlives a fine-tuning
        "settings": hashlib.sha256(_settings(clip.visual).encode()).hexdigest(),
        "transform": clip.transform_id,
        "size": size,
        "data": dataset.fingerprint,
        "records": hashlib.sha256(records.encode()).hexdigest(),
        "layers": layers,
        "patches": patches,
        "precision": precision,
        "batch_size": batch_size,
        "device": device.type,
        "matmul": torch.get_float32_matmul_precision(),
    }
    shapes = {"cls": (len(dataset), len(layers), clip.width), "final": (len(dataset), clip.embed_dim)}
    if patches:
        shapes["patches"] = (len(dataset), len(layers), grid[0] * grid[1], clip.width)

    def encode() -> Iterator[dict[str, Tensor]]:
        loader = DataLoader(
            _Images(dataset, transform),
            batch_size=batch_size,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # without one the loader draws from the global stream, a cache hit would not
        )
        title = f"tap {clip.name} on {dataset.name}"
        with tqdm(total=len(dataset), desc=title, unit="image", disable=None if progress else True) as bar:
            yield from _encode(clip.to(device), loader, layers, patches, precision, bar)

    folder = None if cache is None else Path(cache) / "features"
    key, tensors = streamed(folder, inputs, shapes, encode)
    return Features(
        ids=tuple(dataset.ids),
        labels=torch.tensor(labels),
        splits=np.array(dataset.splits),
        layers=layers,
        grid=grid,
        key=key,
        tensors=tensors,
    )


def decoded(dataset: Dataset, index: int) -> Record:
    """A record whose pixels have been read.

    Raises:
        ValueError: they cannot be; one sentence that names the record and its data set.
    """
    try:
        record = dataset[index]
        record.image.load()
        return record
    except _UNDECODABLE as error:
        raise ValueError(
            f"the image of record {dataset.ids[index]!r} in data set {dataset.name!r} cannot be decoded "
            f"({type(error).__name__}: {error}): repair it or take it out."
        ) from error


class _Images(torch.utils.data.Dataset):
    """Pixels alone: [3, H, W]."""

    def __init__(self, dataset: Dataset, transform: Callable[[Image.Image], Tensor]):
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(decoded(self.dataset, index).image)


def _encode(clip: Clip, loader: DataLoader, layers, patches: bool, precision: str, bar: tqdm) -> Iterator[dict]:
    device, start = clip.model.logit_scale.device, 0
    for images in read(loader):
        # entered for each batch: around a yield, a mode would be the caller's, too
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            walked = vit.walk(clip.visual, images.to(device, non_blocking=True), layers=layers, patches=patches)
            found = {"cls": walked.cls, "final": walked.final, "patches": walked.patches}
            found = {name: tensor.float().cpu() for name, tensor in found.items() if tensor is not None}
        finite = found["final"].isfinite().all(1) & found["cls"].isfinite().all((1, 2))
        if not finite.all():
            record = loader.dataset.dataset.ids[start + int(finite.int().argmin())]
            raise ValueError(
                f"the features of record {record!r} are not finite in {precision}: look at its pixels and at the "
                f"weights of {clip.name}, or take precision fp32."
            )
        yield found
        bar.update(len(images))
        start += len(images)


def _check(clip: Clip, dataset: Dataset, layers: tuple[int, ...], precision: str) -> None:
    vit.check_tower(clip.visual)
    if list(layers) != sorted(set(layers)) or any(not 0 <= layer <= clip.layers for layer in layers):
        raise ValueError(
            f"layers {list(layers)} must ascend without repeats and lie in 1..{clip.layers} (0 is the tower's input)."
        )
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision {precision!r} is unknown: choose one of fp32, bf16.")
    if not len(dataset):
        raise ValueError(f"data set {dataset.name!r} has no records: there is nothing to tap.")
    name, count = Counter(dataset.ids).most_common(1)[0]
    if count > 1:
        raise ValueError(f"data set {dataset.name!r} holds the record {name!r} more than once: take the copies out.")


def _settings(module: nn.Module) -> str:
    """Structure and plain attributes of every submodule: activation, heads, epsilons, of which weights say nothing."""
    plain = [
        (path, name, value)
        for path, part in module.named_modules()
        for name, value in sorted(vars(part).items())
        if not name.startswith("_") and isinstance(value, (bool, int, float, str, tuple))
    ]
    return f"{module}\n{plain}"
