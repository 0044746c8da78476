"""The views of an image that training sees: plain, weakly and strongly augmented.

Random augmentation and repeatable runs meet in `Views`: what is drawn for a view of an image is a function of (seed,
epoch, index, name of the view) alone, whatever process draws it and in whatever order.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision import transforms as tv

from hc_lafter.clip.load import Clip, resized_transform
from hc_lafter.data.record import Dataset
from hc_lafter.store import weight_hash
from hc_lafter.tuning.features import decoded

ROOM = 2 * 2**30  # bytes that `keep` may fill in each process


def weak_view(clip: Clip, flip: float = 0.0) -> Callable[[Image.Image], Tensor]:
    """The teacher's view: the tower's own transform, behind a horizontal flip with the probability ``flip``.

    LaFTer's release calls a transform without anything random in it its weak augmentation, and that is the default: the
    teacher then sees the same picture in every epoch. FixMatch (Sohn et al., NeurIPS 2020, section 2.3) flips half of
    its weak views.

    Returns:
        PIL image -> float32 [3, image_size, image_size], normalised.
    """
    return tv.Compose([tv.RandomHorizontalFlip(flip), clip.transform]) if flip else clip.transform


def strong_view(clip: Clip, blur: float = 1.0) -> tv.Compose:
    """The student's view: random resized crop, flip, colour jitter, grey, blur, then the tower's own normalisation.

    The recipe of LaFTer's release, which is SimSiam's (Chen and He, CVPR 2021, appendix A) with every picture blurred
    and not just half of them: crop of 0.2 to 1 of the area, flip with p 0.5, jitter (brightness, contrast, saturation
    0.4, hue 0.1) with p 0.8, grey with p 0.2, Gaussian blur with a radius of 0.1 to 2 px. Two things differ: the crop
    is resampled as the tower resizes (bicubic as a rule; the release takes torchvision's bilinear), and the radius is
    meant at 224 px and goes with the side: 2 px would wipe out a picture of 64 px.

    Args:
        clip: whose image size, interpolation, mean and standard deviation are taken.
        blur: probability of the blur: 1 as released, 0.5 for SimSiam's and SimCLR's.

    Returns:
        PIL image -> float32 [3, image_size, image_size], normalised.
    """
    size = clip.image_size
    resize, *rest = resized_transform(clip, (size, size)).transforms
    return tv.Compose(
        [
            tv.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=resize.interpolation),
            tv.RandomHorizontalFlip(),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            tv.RandomGrayscale(0.2),
            tv.RandomApply([Blur(0.1 * size / 224, 2.0 * size / 224)], p=blur),
            *rest,
        ]
    )


class Blur(nn.Module):
    """Gaussian blur of a PIL image by Pillow's filter, its radius (standard deviation, px) drawn evenly from a range.

    torchvision's own has a kernel of a fixed width and takes 40 ms for a picture of 224 px; this takes one.
    """

    def __init__(self, least: float, most: float):
        super().__init__()
        self.least, self.most = least, most

    def forward(self, image: Image.Image) -> Image.Image:
        radius = torch.empty(()).uniform_(self.least, self.most).item()
        return image.filter(ImageFilter.GaussianBlur(radius))

    def extra_repr(self) -> str:
        return f"least={self.least:g}, most={self.most:g}"


class Views(torch.utils.data.Dataset):
    """Views of every image of a data set, as dicts.

    An item holds a tensor per view, ``index`` (its place in the data set) and that row of each of ``extra``. It depends
    on nothing but (seed, epoch, index), and drawing it leaves torch's, numpy's and Python's global random numbers as
    they were. A transform must draw from those three: a generator of its own would escape.

    Args:
        dataset: the images.
        transforms: name of the view -> PIL image -> tensor.
        seed: from 0.
        extra: name -> [B, ...]: labels, distributions, a teacher's logits.
        keep: hold decoded images in memory, and the views for which nothing random is drawn, up to `ROOM` bytes (in
            each worker process again). The items are the same.

    Raises:
        ValueError: later, an image that cannot be decoded (named by its record id).
    """

    def __init__(
        self,
        dataset: Dataset,
        transforms: Mapping[str, Callable[[Image.Image], Tensor]],
        *,
        seed: int,
        extra: Mapping[str, Tensor] | None = None,
        keep: bool = False,
    ):
        self.dataset, self.transforms, self.extra = dataset, dict(transforms), dict(extra or {})
        self.seed, self.keep, self.epoch = seed, keep, 0
        self._kept: dict[tuple[int, str], Tensor | Image.Image] = {}  # a view, or an image under the name ""
        self._held = 0  # bytes of them
        self._random: set[str] = set()  # views that have drawn something

    def __getstate__(self) -> dict:
        return vars(self) | {"_kept": {}, "_held": 0}  # on its way to a worker process

    def set_epoch(self, epoch: int) -> None:
        """What is drawn from now on is drawn for this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        index, views = int(index), {}
        image = self._kept.get((index, ""))
        with _globals_as_before():
            for name, transform in self.transforms.items():
                if (index, name) not in self._kept:
                    image = decoded(self.dataset, index).image if image is None else image
                    views[name] = self._draw(name, transform, image, index)
                else:
                    views[name] = self._kept[index, name]
        if self._random and image is not None:
            self._keep((index, ""), image, 4 * image.width * image.height)
        return views | {"index": index} | {name: rows[index] for name, rows in self.extra.items()}

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of what decides the items: images, transforms (as they print), seed, extra tensors."""
        transforms = {name: str(transform) for name, transform in self.transforms.items()}
        parts = [self.dataset.fingerprint, str(transforms), str(self.seed), weight_hash(self.extra)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _draw(self, name: str, transform: Callable[[Image.Image], Tensor], image: Image.Image, index: int) -> Tensor:
        of = (self.seed, self.epoch, index, zlib.crc32(name.encode()))
        _seed_globals(int(np.random.SeedSequence(of).generate_state(1, np.uint64)[0]))
        before = _globals() if self.keep and name not in self._random else None
        view = transform(image)
        if before is not None:
            # what was not drawn from under this seed is not drawn from under another: the view is the image's own
            if _globals() != before:
                self._random.add(name)
            else:
                self._keep((index, name), view, view.nbytes)
        return view

    def _keep(self, key: tuple[int, str], value: Tensor | Image.Image, size: int) -> None:
        if self.keep and key not in self._kept and self._held + size <= ROOM:
            self._kept[key] = value
            self._held += size


def _seed_globals(number: int) -> None:
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.set_bit_generator(np.random.PCG64(number))  # to set numpy's state, or to put it back, takes 0.1 ms


def _globals() -> tuple:
    """Something that differs as soon as one of the three has been drawn from."""
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_bit_generator().state)


@contextmanager
def _globals_as_before() -> Iterator[None]:
    python, numpys = random.getstate(), np.random.get_bit_generator()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_bit_generator(numpys)
