"""Images with their masks as batches, and masks scored.

B images, C classes, h x w patches; masks are [H, W] uint8 with 255 = ignore, as in `hc_lafter.data.record`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hc_lafter.analysis.segmentation import MaskScore
from hc_lafter.clip.load import Clip, resized_transform
from hc_lafter.data import stratified
from hc_lafter.data.masks.names import BACKGROUND
from hc_lafter.data.record import Dataset
from hc_lafter.systems.masks import PROTOCOLS, Protocol, decide, sliding
from hc_lafter.tuning.batches import read
from hc_lafter.tuning.features import decoded

Scores = Callable[[Tensor], Tensor]  # images [B, 3, H, W] -> scores [B, C, H', W']


def draw(dataset: Dataset, split: str, n: int, seed: int) -> np.ndarray:
    """[at most n] indices of a split, sorted; the same for the same seed."""
    indices = np.flatnonzero(dataset.splits == split)
    return stratified(indices, dataset.labels, n, np.random.default_rng(seed))


class MaskViews(torch.utils.data.Dataset):
    """Images through the tower's transform beside their masks, as dicts: student [3, H, W], mask [H, W], index.

    Args:
        dataset: with masks.
        clip: whose transform it is; images are resized, never cropped. Only that goes to worker processes.
        size: (height, width) of image AND mask, for training in batches: the mask takes its nearest pixel.
        short: pixels of the image's shorter side, both sides rounded to whole patches; the mask stays as it is. One of
            the two has to be given.

    Raises:
        ValueError: later, sides that are not multiples of the patch, or an image or a mask that cannot be read.
    """

    def __init__(self, dataset: Dataset, clip: Clip, *, size: tuple[int, int] | None = None, short: int | None = None):
        self.dataset, self.size, self.short = dataset, size, short
        self.clip = SimpleNamespace(name=clip.name, transform=clip.transform, patch_size=clip.patch_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        record = decoded(self.dataset, index)
        mask = torch.from_numpy(np.asarray(record.mask, dtype=np.uint8).copy())
        size = self.size or self._size(record.image.height, record.image.width)
        if self.size:
            mask = F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]
        return {"student": resized_transform(self.clip, size)(record.image), "mask": mask, "index": int(index)}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        patch, scale = self.clip.patch_size, self.short / min(height, width)
        return tuple(max(1, round(side * scale / patch)) * patch for side in (height, width))

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of what decides the items."""
        parts = [self.dataset.fingerprint, str(self.clip.transform), str(self.size), str(self.short)]
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


def protocol_of(dataset: Dataset) -> Protocol | None:
    """How releases score this data set; None where background is no class, so that no pixel is in doubt."""
    return PROTOCOLS.get(dataset.name) if BACKGROUND in dataset.mask_classes else None


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
) -> MaskScore:
    """Every image's mask by argmax over the classes' scores, enlarged to the true mask's size, and counted.

    Args:
        scores: images -> a score per class and pixel; all classes compete (generalised zero-shot).
        unseen: names of the classes without pixel labels in training.
        protocol: of a data set whose background is a class, see `protocol_of`: scores are averaged over windows of two
            thirds of ``views.short``, half a window apart (the releases' 224 of 336 pixels, 112 apart), and pixels
            below the thresholds are background.

    Raises:
        ValueError: as `MaskViews` and `MaskScore`.
    """
    found = MaskScore(views.dataset.mask_classes, unseen)
    score, classify = scores, partial(torch.argmax, dim=1)
    if protocol is not None:
        score = partial(sliding, scores, crop=2 * views.short // 3, stride=views.short // 3)
        background = views.dataset.mask_classes.index(BACKGROUND)
        classify = partial(decide, background=background, probability=protocol.probability, area=protocol.area)
    with tqdm(total=len(views), desc=name or "masks", unit="image", disable=not progress, leave=False) as bar:
        for images, mask in batches(views, batch_size, workers):
            maps = score(images.to(device)).float()
            if maps.shape[-2:] != mask.shape[-2:]:
                maps = F.interpolate(maps, size=mask.shape[-2:], mode="bilinear", align_corners=False)
            found.update(classify(maps).cpu(), mask)
            bar.update(len(images))
    return found
