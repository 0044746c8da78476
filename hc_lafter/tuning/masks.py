"""Images with their masks as batches, and masks scored.

B images, C classes, h x w patches; masks are [H, W] uint8 with 255 = ignore, as in `hc_lafter.data.record`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask
from tqdm.auto import tqdm

from hc_lafter.analysis.segmentation import MaskScore
from hc_lafter.clip.load import Clip, resized_transform
from hc_lafter.data import stratified
from hc_lafter.data.masks.names import BACKGROUND
from hc_lafter.data.record import IGNORE, Dataset
from hc_lafter.systems.base import System
from hc_lafter.systems.masks import Protocol, decide, sliding
from hc_lafter.tuning.batches import read
from hc_lafter.tuning.features import decoded
from hc_lafter.tuning.views import ROOM

Scores = Callable[[Tensor], Tensor]  # images [B, 3, H, W] -> scores [B, C, H', W']


def draw(dataset: Dataset, split: str, n: int, seed: int) -> np.ndarray:
    """[at most n] indices of a split, sorted; the same for the same seed."""
    indices = np.flatnonzero(dataset.splits == split)
    return stratified(indices, dataset.labels, n, np.random.default_rng(seed))


class CropAndJitter:
    """Random scale, crop, flip and colours of an image and its mask, as segmentation papers train (mmsegmentation).

    The training pipeline of Cascade-CLIP's release: the shorter side drawn from half to twice the crop's, a crop of
    which no class may fill more than three quarters (at most ten are drawn for that), a flip, and the photometric
    distortion of SSD (Liu et al., ECCV 2016), each of its parts with p .5: brightness by 32 levels, contrast and
    saturation by .5 to 1.5, hue by a tenth of the circle, contrast before or after the latter two. What lies outside
    the image is the tower's mean colour, and ignored. Two things differ: the image is resampled as the tower resizes
    (the release's is bilinear) and brightness is a factor, 1 -+ 32 / 255 (there a sum).

    Args:
        clip: whose interpolation, mean and standard deviation are taken.
        size: (height, width) of the crop; multiples of the patch.
    """

    def __init__(self, clip: Clip, size: tuple[int, int]):
        resize, *self.rest = resized_transform(clip, size).transforms
        short = min(size)
        self.size = size
        self.scale = v2.RandomShortestSize(list(range(short // 2, 2 * short + 1)), interpolation=resize.interpolation)
        contrast, saturation, hue = (
            v2.RandomApply([v2.ColorJitter(**part)])
            for part in ({"contrast": (0.5, 1.5)}, {"saturation": (0.5, 1.5)}, {"hue": 0.1})
        )
        orders = v2.Compose([contrast, saturation, hue]), v2.Compose([saturation, hue, contrast])
        self.colours = v2.Compose([v2.RandomApply([v2.ColorJitter(brightness=32 / 255)]), v2.RandomChoice(orders)])
        self.flip = v2.RandomHorizontalFlip()

    def __call__(self, image: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A PIL image and its mask [H, W] -> [3, h, w], normalised, and [h, w]; drawn from torch's global generator."""
        image, mask = self.scale(image, Mask(mask))
        for _ in range(11):
            at = [torch.randint(max(n - side, 0) + 1, ()).item() for n, side in zip(mask.shape, self.size, strict=True)]
            cropped = mask[at[0] : at[0] + self.size[0], at[1] : at[1] + self.size[1]]
            areas = torch.bincount(cropped.flatten().long(), minlength=IGNORE + 1)[:IGNORE]
            if areas.max() < 0.75 * areas.sum():
                break
        image = v2.functional.crop(image, *at, *cropped.shape)
        image, cropped = self.colours(*self.flip(image, Mask(cropped)))
        for step in self.rest:
            image = step(image)
        beyond = [0, 0, self.size[1] - cropped.shape[1], self.size[0] - cropped.shape[0]]
        image, cropped = v2.functional.pad(image, beyond), v2.functional.pad(cropped, beyond, fill=IGNORE)
        return image, cropped.as_subclass(Tensor)


class MaskViews(torch.utils.data.Dataset):
    """Images through the tower's transform beside their masks, as dicts: student [3, H, W], mask [H, W], index.

    Args:
        dataset: with masks.
        clip: whose transform it is; images are resized, never cropped. Only that goes to worker processes.
        size: (height, width) of image AND mask, for training in batches: the mask takes its nearest pixel.
        short: pixels of the image's shorter side, both sides rounded to whole patches; the mask stays as it is. One of
            the two has to be given.
        whole: False, beside ``short``: the sides as they come, to the nearest pixel, and bilinear, as mmsegmentation
            resizes; for images that pass in windows.
        augment: beside ``size``: through `CropAndJitter`. What is drawn is a function of (seed, epoch, index) alone.
        seed: from 0.
        keep: hold items for which nothing is drawn in memory, up to `hc_lafter.tuning.views.ROOM` bytes.

    Raises:
        ValueError: later, sides that are not multiples of the patch, or an image or a mask that cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        clip: Clip,
        *,
        size: tuple[int, int] | None = None,
        short: int | None = None,
        whole: bool = True,
        augment: bool = False,
        seed: int = 0,
        keep: bool = False,
    ):
        self.dataset, self.size, self.short, self.whole = dataset, size, short, whole
        self.clip = SimpleNamespace(name=clip.name, transform=clip.transform, patch_size=clip.patch_size)
        self.augment, self.seed, self.epoch = CropAndJitter(self.clip, size) if augment else None, seed, 0
        self.keep, self._kept, self._held = keep and not augment, {}, 0

    def set_epoch(self, epoch: int) -> None:
        """What is drawn from now on is drawn for this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        if (item := self._kept.get(int(index))) is None:
            item = self._read(index)
            size = sum(item[name].nbytes for name in ("student", "mask"))
            if self.keep and self._held + size <= ROOM:
                self._kept[int(index)], self._held = item, self._held + size
        return dict(item)

    def _read(self, index: int) -> dict[str, Tensor | int]:
        record = decoded(self.dataset, index)
        mask = torch.from_numpy(np.asarray(record.mask, dtype=np.uint8).copy())
        if self.augment:
            of = np.random.SeedSequence((self.seed, self.epoch, int(index))).generate_state(1, np.uint64)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(of[0]))
                image, mask = self.augment(record.image, mask)
        elif self.size:
            mask = F.interpolate(mask[None, None], size=self.size, mode="nearest-exact")[0, 0]
            image = resized_transform(self.clip, self.size)(record.image)
        else:
            image = self._resized(record.image)
        return {"student": image, "mask": mask, "index": int(index)}

    def _resized(self, image: Any) -> Tensor:
        patch, scale = self.clip.patch_size, self.short / min(image.size)
        sides = [side * scale for side in (image.height, image.width)]
        if self.whole:
            return resized_transform(self.clip, tuple(max(1, round(s / patch)) * patch for s in sides))(image)
        for step in resized_transform(self.clip, (patch, patch)).transforms[1:]:
            image = step(image)
        return F.interpolate(image[None], [math.floor(side + 0.5) for side in sides], mode="bilinear")[0]

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of what decides the items."""
        parts = [self.dataset.fingerprint, str(self.clip.transform), str(self.size), str(self.short), str(self.whole)]
        parts += [f"augmented, {self.seed}"] if self.augment else []
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def patch_shares(mask: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """[B, C, h, w]: what share of each patch's pixels each class has in masks [B, H, W].

    As scores it is the grid oracle, what a perfect classifier of whole patches would say.
    """
    one_hot = torch.stack([(mask == c) for c in range(classes)], dim=1)
    return F.adaptive_avg_pool2d(one_hot.float(), grid)


def batches(views: MaskViews, batch_size: int, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """(images [B, 3, H, W], masks [B, H, W]) in order; a batch ends where an image or a mask has another size."""
    items = read(DataLoader(views, batch_size=None, num_workers=workers, generator=torch.Generator()))
    for _, alike in groupby(items, lambda item: (item["student"].shape, item["mask"].shape)):
        while held := list(islice(alike, batch_size)):
            yield tuple(torch.stack([item[name] for item in held]) for name in ("student", "mask"))


def protocol_of(dataset: Dataset, entry: System) -> Protocol | None:
    """How a system's release scores this data set; None where background is no class, and no pixel is in doubt."""
    return entry.protocols.get(dataset.name) if BACKGROUND in dataset.mask_classes else None


def owner_of(names: Mapping[str, Sequence[str]]) -> Tensor:
    """[K] int64: the class of each name, where all names of all classes stand in a row; see `names_of`."""
    return torch.tensor([c for c, of in enumerate(names.values()) for _ in of])


@torch.inference_mode()
def score_masks(
    scores: Scores,
    views: MaskViews,
    *,
    unseen: Sequence[str],
    batch_size: int,
    device: torch.device | str = "cpu",
    workers: int = 0,
    name: str = "",
    progress: bool = True,
    protocol: Protocol | None = None,
    owner: Tensor | None = None,
) -> MaskScore:
    """Every image's mask by argmax over the classes' scores, enlarged to the true mask's size, and counted.

    Args:
        scores: images -> a score per class and pixel; all classes compete (generalised zero-shot).
        owner: [K], where the scores are of names and not of classes: see `hc_lafter.systems.masks.decide`.
        unseen: names of the classes without pixel labels in training.
        protocol: of a data set whose background is a class, see `protocol_of`: scores are averaged over its windows,
            and pixels below its thresholds are background.

    Raises:
        ValueError: as `MaskViews` and `MaskScore`.
    """
    found = MaskScore(views.dataset.mask_classes, unseen)
    score, classify = scores, partial(torch.argmax, dim=1)
    if protocol is not None:
        crop, stride = (round(views.short * part / protocol.short) for part in (protocol.window, protocol.stride))
        score = partial(sliding, scores, crop=crop, stride=stride)
        thresholds = {"probability": protocol.probability, "area": protocol.area}
        background = views.dataset.mask_classes.index(BACKGROUND)
        classify = partial(decide, background=background, owner=owner, **thresholds)
    with tqdm(total=len(views), desc=name or "masks", unit="image", disable=not progress, leave=False) as bar:
        for images, mask in batches(views, batch_size, workers):
            maps = score(images.to(device)).float()
            if maps.shape[-2:] != mask.shape[-2:]:
                maps = F.interpolate(maps, size=mask.shape[-2:], mode="bilinear", align_corners=False)
            found.update(classify(maps).cpu(), mask)
            bar.update(len(images))
    return found
