"""A trained system as a file: with its classes, its settings, its text source and the name of its CLIP."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from hc_lafter import store
from hc_lafter.clip.load import Clip, load_clip, resized_transform
from hc_lafter.data.decode import BadImage, decode
from hc_lafter.data.listing import EXTENSIONS
from hc_lafter.files import write_whole
from hc_lafter.refusals import some
from hc_lafter.systems.base import Start

Picture = str | os.PathLike | Image.Image


@dataclass(frozen=True, eq=False)
class Trained:
    """A tuned system, ready for images.

    Attributes:
        system: its name. config: its settings.
        module: the system itself, in eval mode.
        clip: the CLIP that it was tuned on.
        classes: C names in the order of its logits.
        text: [C, D], one unit vector per class. seen: [C] bool for masks, else None.
        source: what its text classifier was trained on.
        scores: on validation and test images, as fractions, by name; history: of the training, a
            `hc_lafter.tuning.training.History`. Of a system that was loaded: none.
    """

    system: str
    config: Any
    module: nn.Module
    clip: Clip
    classes: tuple[str, ...]
    text: Tensor
    seen: Tensor | None = None
    source: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    history: Any = None

    @torch.inference_mode()
    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        masks: str | os.PathLike[str] | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Classes, or masks, of images.

        Args:
            images: a folder, searched at any depth; a path or PIL image, or a list of them.
            masks: the folder for a segmentation system's masks, one PNG of class indices per image, in the same
                subfolders as the images; required for such a system.
            batch_size: images that go through the tower at once.
            progress: show a bar.

        Returns:
            A row per image: ``path``, ``class``, and a column per class with its probability, the softmax of the
            logits. For masks: each class's share of the pixels, the most frequent as ``class``, and ``mask``, its file,
            as large as the image.
            Files that cannot be read have no row; one warning names them.

        Raises:
            ValueError: there are no images, something is none, none can be read, or ``masks`` is missing or given to a
                system that predicts none.
        """
        dense = self.seen is not None
        if dense and masks is None:
            raise ValueError(f"{self.system} predicts masks: give a folder for them, masks='masks'.")
        if masks is not None and not dense:
            raise ValueError(f"{self.system} names images and predicts no masks: leave masks={str(masks)!r} out.")
        named, top = _named(images)
        files = _mask_files(Path(masks), named, top) if dense else [None] * len(named)
        self.module.eval()
        device = next(self.module.parameters()).device
        done, shares, unreadable = [], [], []
        for at in tqdm(range(0, len(named), batch_size), desc="predict", unit="batch", disable=not progress):
            indices, pixels, sizes = [], [], []
            for index, (name, image) in enumerate(named[at : at + batch_size], start=at):
                try:
                    image = _shown(name, image) if isinstance(image, Image.Image) else decode(Path(image))
                    pixels.append(self._view(image) if dense else self.clip.transform(image))
                    sizes.append((image.height, image.width))
                    indices.append(index)
                except BadImage as error:
                    unreadable.append(error)
            if dense:  # each has a shape of its own
                each = zip(pixels, sizes, (files[i] for i in indices), strict=True)
                shares += [self._mask(x[None].to(device), size, file) for x, size, file in each]
            elif pixels:
                shares.append(self.module(torch.stack(pixels).to(device)).logits.float().softmax(dim=-1).cpu())
            done += indices
        if unreadable:
            names = some(error.name for error in unreadable)
            message = f"{len(unreadable)} of {len(named)} images cannot be read ({names}): {unreadable[0]}"
            if not done:
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)
        table = torch.cat(shares).numpy()
        columns = {"path": [named[i][0] for i in done], "class": [self.classes[i] for i in table.argmax(axis=1)]}
        columns |= {"mask": [str(files[i]) for i in done]} if dense else {}
        return pd.DataFrame({**columns, **dict(zip(self.classes, table.T, strict=True))})

    def _view(self, image: Image.Image) -> Tensor:
        """[3, h, w]: the whole image, nothing cropped, its shorter side the tower's, both in whole patches."""
        patch, scale = self.clip.patch_size, self.clip.image_size / min(image.size)
        sides = (max(1, round(side * scale / patch)) * patch for side in (image.height, image.width))
        return resized_transform(self.clip, tuple(sides))(image)

    def _mask(self, pixels: Tensor, size: tuple[int, int], path: Path) -> Tensor:
        """[1, C] shares of the pixels of one image; its mask is written at the image's own size (height, width)."""
        maps = F.interpolate(self.module(pixels).logits.float(), size=size, mode="bilinear", align_corners=False)
        decide = getattr(self.module, "decide", lambda logits: logits)
        mask = decide(maps).argmax(dim=1)[0].cpu()
        image = Image.fromarray(mask.numpy().astype(np.uint8))
        write_whole(path, lambda temporary: image.save(temporary, format="PNG"))
        return torch.bincount(mask.flatten(), minlength=len(self.classes))[None] / mask.numel()


def predict(trained: Trained | str | os.PathLike[str], images: Any, **options: Any) -> pd.DataFrame:
    """What a trained system says of images: a DataFrame with a row per image, see `Trained.predict`.

    Args:
        trained: the system, or the file that `save` wrote.
        images: a folder, a path or PIL image, or a list of them.
        options: of `Trained.predict`.
    """
    trained = trained if isinstance(trained, Trained) else load(trained)
    return trained.predict(images, **options)


def save(trained: Trained, path: str | os.PathLike[str]) -> Path:
    """Write a trained system into one safetensors file, for `load`: its own tensors, not the CLIP's.

    Of a system that tunes the tower (LaFTer's LayerNorms) the file has the tensors that differ from the CLIP's.
    ``scores`` and ``history``, which tell how it was trained, are not in it: write ``history.table()`` beside it.

    Raises:
        ValueError: the path is a folder's, or does not end in .safetensors.
        OSError: the file cannot be written.
    """
    if os.path.isdir(path) or Path(path).suffix != ".safetensors":
        raise ValueError(f"{str(path)!r} is no file to save to: give one that ends in .safetensors.")
    theirs = trained.clip.model.state_dict()
    tensors = {"text": trained.text} | ({} if trained.seen is None else {"seen": trained.seen})
    for name, value in trained.module.state_dict().items():
        other = theirs.get(_in_clip(name))
        if other is None or value.shape != other.shape or not torch.equal(value, other.to(value.device)):
            tensors[f"module.{name}"] = value
    tensors = {name: value.detach().cpu().clone() for name, value in tensors.items()}
    source = trained.clip.source
    source = os.path.abspath(source) if os.path.isfile(source) else source  # it is read from anywhere
    clip = {"name": trained.clip.name, "source": source, **_identity(trained.clip)}
    settings = asdict(trained.config)
    return store.write(
        Path(path), tensors, system=trained.system, config=settings, classes=list(trained.classes), clip=clip,
        source=trained.source,
    )  # fmt: skip


def load(path: str | os.PathLike[str], clip: Clip | str | None = None, *, device: str | None = None) -> Trained:
    """Read a file of `save`.

    Args:
        clip: the CLIP, or what `hc_lafter.load_clip` takes; None: the one that the file names, a file where it lay.
        device: where it computes; None: where the given CLIP lies, else the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another kind, or the system was tuned on another CLIP.
    """
    from hc_lafter.systems import find

    if not str(path).strip() or os.path.isdir(path):
        raise ValueError(f"{str(path)!r} is no file: give one that hc_lafter.systems.save has written.")
    try:
        tensors, kept = store.read(path)
    except ValueError as error:  # a CLIP's own weights, a picture: nothing that should be deleted
        raise ValueError(
            f"{path} is no trained system, or a damaged one ({error.__cause__}): give a file that "
            "hc_lafter.systems.save has written; load_clip reads a CLIP."
        ) from error
    if not {"system", "config", "classes", "clip"} <= set(kept):
        raise ValueError(f"{path} holds no trained system: give a file that hc_lafter.systems.save has written.")
    theirs = kept["clip"]
    if not isinstance(clip, Clip):
        clip = _its_clip(path, theirs, device or "cpu") if clip is None else load_clip(clip, device=device or "cpu")
    differing = [key for key, value in _identity(clip).items() if theirs[key] != value]
    if differing:
        raise ValueError(
            f"{path} was tuned on the CLIP {theirs['name']} ({theirs['hash'][:12]}, {theirs['activation']}), and this "
            f"one is {clip.name} ({clip.weight_hash[:12]}, {clip.activation}); their {' and '.join(differing)} differ: "
            "load that one."
        )
    entry = find(kept["system"])
    known = {f.name for f in fields(entry.config)}
    foreign = [name for name in kept["config"] if name not in known]
    if foreign:
        raise ValueError(
            f"{path} has the setting {foreign[0]!r}, which {entry.name} of this version lacks: tune it again."
        )
    config = entry.config(**{name: _tuples(value) for name, value in kept["config"].items()})
    text, seen = tensors.pop("text"), tensors.pop("seen", None)
    scale = clip.model.logit_scale.exp().item()
    classes = tuple(kept["classes"])
    start = Start(clip.visual, clip.name, text, scale, classifier=text, seen=seen, clip=clip, classes=classes)
    module = entry.build(start, config, 0)
    state = {name.removeprefix("module."): value for name, value in tensors.items()}
    absent, left = module.load_state_dict(state, strict=False)
    theirs = clip.model.state_dict()
    absent = [name for name in absent if _in_clip(name) not in theirs]
    if absent or left:
        raise ValueError(f"{path} does not fit {entry.name} of this version ({[*absent, *left][0]}): tune it again.")
    place = device or next(clip.visual.parameters()).device
    return Trained(kept["system"], config, module.to(place).eval(), clip, classes, text, seen, kept["source"])


def _in_clip(name: str) -> str:
    """A system's tensor by the name that it would have in the CLIP: its tower is ``visual``, a whole model
    ``clip_model``, and the original of a weight with additions is the weight."""
    name = re.sub(r"parametrizations\.(\w+)\.original$", r"\1", name)
    _, whole, inside = name.partition("clip_model.")
    return inside if whole else name[name.find("visual.") :] if "visual." in name else ""


def _identity(clip: Clip) -> dict[str, str]:
    """What must agree for a system to read what it was tuned on."""
    return {"hash": clip.weight_hash, "activation": clip.activation, "transform": clip.transform_id}


def _its_clip(path: Any, theirs: Mapping[str, str], device: str) -> Clip:
    """The CLIP that a file of `save` names: by its own spec, or from the file that it came from."""
    spec, activation = theirs["name"], None
    arch, named, _ = spec.rpartition("@")
    if spec != "embedded" and (os.path.isfile(theirs["source"]) or os.path.isabs(theirs["source"])):
        spec, activation = f"{arch}{named}{theirs['source']}", theirs["activation"]
    try:
        return load_clip(spec, activation=activation, device=device)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} was tuned on the CLIP {theirs['name']} (from {theirs['source']}), which cannot be loaded "
            f"({str(error).rstrip('.')}): say where it is, load({str(path)!r}, clip=...)."
        ) from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _named(images: Picture | Iterable[Picture]) -> tuple[list[tuple[str, Picture]], Path]:
    """(name, image) of each, and the folder that all of them are in."""
    if isinstance(images, str) and not images.strip():  # before it is a path: Path("") is the working folder
        raise ValueError("the path of images is empty: give a folder, or a list of files.")
    if isinstance(images, str | os.PathLike) and Path(images).is_dir():
        top = Path(images)
        found = (p for p in top.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
        named = [(str(path), path) for path in sorted(found)]
        if not named:
            raise ValueError(f"{top} holds no images: give a folder with some, or a list of files.")
        return named, top.absolute()
    several = isinstance(images, Iterable) and not isinstance(images, Picture | bytes)
    images = list(images) if several else [images]
    wrong = next((type(image).__name__ for image in images if not isinstance(image, Picture)), None)
    if wrong:
        raise ValueError(f"images holds {wrong}, no picture: give paths, or PIL images (Image.fromarray makes one).")
    named = [(f"image {n}" if isinstance(i, Image.Image) else str(i), i) for n, i in enumerate(images)]
    if not named:
        raise ValueError("the list of images is empty: give a folder, or a list of files.")
    return named, Path(os.path.commonpath([Path(name).absolute().parent for name, _ in named]))


def _shown(name: str, image: Image.Image) -> Image.Image:
    """A PIL image whose brightness is known; Pillow takes floats and long integers for values up to 255."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        remedy = "convert it to 8 bits, or give the file"
        raise BadImage(name, f"has Pillow's mode {image.mode}, which does not say how bright it is", remedy)
    return image


def _mask_files(folder: Path, named: Sequence[tuple[str, Picture]], top: Path) -> list[Path]:
    """A PNG for each image, in the image's subfolder; of ``a.jpg`` and ``a.png``, ``a.jpg.png`` and ``a.png.png``."""
    places = [Path(name).absolute().relative_to(top) for name, _ in named]
    alike = Counter(place.with_suffix("") for place in set(places))
    files = [
        folder / (place.with_suffix(".png") if alike[place.with_suffix("")] == 1 else f"{place}.png")
        for place in places
    ]
    pictures = {Path(name).resolve() for name, _ in named}
    if taken := next((file for file in files if file.resolve() in pictures), None):
        raise ValueError(f"the mask {taken} would take the place of a picture: give masks another folder.")
    return files
