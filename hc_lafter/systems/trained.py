"""A trained system as a file that one can use: it knows its classes, its settings, its CLIP and its text source."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from hc_lafter import store
from hc_lafter.clip.load import Clip, load_clip
from hc_lafter.data.decode import decode
from hc_lafter.files import write_whole
from hc_lafter.systems.base import Masks, Start

IMAGES = frozenset(Image.registered_extensions())


@dataclass(frozen=True, eq=False)
class Trained:
    """A system that can be asked about pictures.

    Attributes:
        system: its name. config: its settings.
        module: the system itself, in eval mode.
        clip: the CLIP that it was tuned on.
        classes: C names in the order of its logits.
        text: [C, D], one unit vector per class. seen: [C] bool for masks, else None.
        source: what its text classifier was trained on.
    """

    system: str
    config: Any
    module: nn.Module
    clip: Clip
    classes: tuple[str, ...]
    text: Tensor
    seen: Tensor | None = None
    source: str = ""

    @torch.inference_mode()
    def predict(
        self,
        images: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | Image.Image],
        *,
        masks: str | os.PathLike[str] | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> pd.DataFrame:
        """What the system says of pictures.

        Args:
            images: a folder, whose pictures are found at any depth; or paths, or PIL images.
            masks: the folder for a segmentation system's masks, one PNG of class indices per picture; for such a system
                it must be given.
            batch_size: pictures that go through the tower at once.
            progress: show a bar.

        Returns:
            A row per picture: ``path``, ``class``, and a column per class with its probability, the softmax of the
            logits; the rows sum to one. For masks: the share of the pixels of each class, and ``mask``, its file.

        Raises:
            ValueError: there are no pictures, one cannot be read (named), or ``masks`` is missing.
        """
        named = _named(images)
        dense = self.seen is not None
        if dense and masks is None:
            raise ValueError(f"{self.system} answers with masks: give a folder for them, masks='masks'.")
        self.module.eval()
        device, found, files = next(self.module.parameters()).device, [], []
        for at in tqdm(range(0, len(named), batch_size), desc="predict", unit="batch", disable=not progress):
            some = named[at : at + batch_size]
            pixels = torch.stack([self.clip.transform(_opened(picture)) for _, picture in some])
            out = self.module(pixels.to(device))
            if isinstance(out, Masks):
                decide = getattr(self.module, "decide", lambda logits: logits)
                indices = decide(out.logits).argmax(dim=1).cpu()
                files += [_mask(Path(masks), name, index) for (name, _), index in zip(some, indices, strict=True)]
                found += [torch.bincount(m.flatten(), minlength=len(self.classes)) / m.numel() for m in indices]
            else:
                found += list(out.logits.float().softmax(dim=-1).cpu())
        table = np.stack([row.numpy() for row in found])
        columns = {"path": [name for name, _ in named], "class": [self.classes[i] for i in table.argmax(axis=1)]}
        shares = dict(zip(self.classes, table.T, strict=True))
        return pd.DataFrame({**columns, **({"mask": files} if dense else {}), **shares})


def save(trained: Trained, path: str | os.PathLike[str]) -> Path:
    """Write a trained system into one safetensors file, for `load`: its own tensors, not the CLIP's.

    A system that tunes the tower (LaFTer's LayerNorms) keeps the tensors that differ from the CLIP's.

    Raises:
        OSError: the file cannot be written.
    """
    tower = {f"visual.{name}": value for name, value in trained.clip.visual.state_dict().items()}
    tensors = {
        f"module.{name}": value
        for name, value in trained.module.state_dict().items()
        if not _same(value, tower.get(name[name.find("visual.") :] if "visual." in name else name))
    }
    tensors |= {"text": trained.text} | ({} if trained.seen is None else {"seen": trained.seen})
    tensors = {name: value.detach().cpu().clone() for name, value in tensors.items()}
    clip = {"name": trained.clip.name, "hash": trained.clip.weight_hash, "activation": trained.clip.activation}
    settings = asdict(trained.config)
    return store.write(
        Path(path), tensors, system=trained.system, config=settings, classes=list(trained.classes), clip=clip,
        source=trained.source,
    )  # fmt: skip


def load(path: str | os.PathLike[str], clip: Clip | str | None = None, *, device: str = "cpu") -> Trained:
    """Read what `save` wrote.

    Args:
        clip: the CLIP, or what `hc_lafter.load_clip` takes; None: the one that the file names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or the CLIP is another than that which the system was tuned on.
    """
    from hc_lafter.systems import find

    tensors, kept = store.read(path)
    clip = kept["clip"]["name"] if clip is None else clip
    clip = clip if isinstance(clip, Clip) else load_clip(clip, device=device)
    if (clip.weight_hash, clip.activation) != (kept["clip"]["hash"], kept["clip"]["activation"]):
        raise ValueError(
            f"{path} was tuned on the CLIP {kept['clip']['name']} ({kept['clip']['hash'][:12]}, "
            f"{kept['clip']['activation']}), and this one is {clip.name} ({clip.weight_hash[:12]}, {clip.activation}): "
            f"load that one."
        )
    entry = find(kept["system"])
    known = {f.name for f in fields(entry.config)}
    config = entry.config(**{k: _tuples(v) for k, v in kept["config"].items() if k in known})
    text, seen = tensors.pop("text"), tensors.pop("seen", None)
    scale = clip.model.logit_scale.exp().item()
    start = Start(clip.visual, clip.name, text, scale, classifier=text, seen=seen)
    module = entry.build(start, config, 0)
    module.load_state_dict({k.removeprefix("module."): v for k, v in tensors.items()}, strict=False)
    classes = tuple(kept["classes"])
    return Trained(kept["system"], config, module.to(device).eval(), clip, classes, text, seen, kept["source"])


def _same(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and value.shape == other.shape and torch.equal(value.cpu(), other.cpu())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _named(images: Any) -> list[tuple[str, Any]]:
    if isinstance(images, str | os.PathLike):
        folder = Path(images)
        if folder.is_dir():
            images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and not p.name.startswith("."))
        else:
            images = [folder]
    named = [(str(i) if isinstance(i, str | os.PathLike) else f"image {n}", i) for n, i in enumerate(images)]
    if not named:
        raise ValueError("there are no pictures to ask about: give a folder with some, or a list of files.")
    return named


def _opened(picture: Any) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else decode(Path(picture))


def _mask(folder: Path, name: str, indices: Tensor) -> str:
    path = folder / f"{Path(name).stem}.png"
    image = Image.fromarray(indices.numpy().astype(np.uint8))
    return str(write_whole(path, lambda temporary: image.save(temporary, format="PNG")))
