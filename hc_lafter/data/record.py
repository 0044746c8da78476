"""One record type for every data set: the embedded world, images of your own, the published sets."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch.utils.data
from PIL import Image

SPLITS = ("train", "val", "test")
IGNORE = 255  # the mask value that no loss and no metric counts


@dataclass(frozen=True)
class Record:
    """One image and all that is known of it.

    Attributes:
        id: unique within its data set and stable between runs.
        split: one of ``train``, ``val``, ``test``.
        image: RGB, 8 bits.
        label: index into the data set's ``classes``; -1 where the set has none, as segmentation sets have.
        label_name: ``classes[label]``; loaders carry names because class order is the field's most common silent error.
        distribution: [C] float64, sums to one; or None where only a hard label is known.
        mask: [height, width] uint8, index into ``mask_classes``, 255 = ignore; or None.
        captions: sentences about the image; or None.
    """

    id: str
    split: str
    image: Image.Image
    label: int
    label_name: str
    distribution: np.ndarray | None = None
    mask: np.ndarray | None = None
    captions: tuple[str, ...] | None = None


class Dataset(torch.utils.data.Dataset, ABC):
    """A sequence of records whose labels, splits and fingerprint are known without decoding an image.

    Attributes:
        name: what figures and metrics call it.
        classes: C class names in label order.
        mask_classes: names in mask-index order, or None where there are no masks.
        ids: B record ids.
        labels: [B] int64.
        splits: [B] of ``train`` / ``val`` / ``test``.
        distributions: [B, C] float64, or None.
    """

    name: str
    classes: tuple[str, ...]
    mask_classes: tuple[str, ...] | None = None
    ids: Sequence[str]
    labels: np.ndarray
    splits: np.ndarray
    distributions: np.ndarray | None = None

    @abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex sha256 over everything that decides the records, pixels included: the data part of a cache key."""

    def __len__(self) -> int:
        return len(self.ids)

    def split_table(self) -> pd.DataFrame:
        """One row per record: id, split, label (the name; empty without one). It says what was trained on what."""
        labels = [self.classes[i] if i >= 0 else "" for i in self.labels]
        return pd.DataFrame({"id": list(self.ids), "split": self.splits, "label": labels})

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The records at ``indices``, in that order."""
        return _Subset(self, np.asarray(indices, dtype=np.int64))

    def split(self, name: str) -> Dataset:
        """The records of one split.

        Raises:
            ValueError: the split is unknown or has no records.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown: choose one of {', '.join(SPLITS)}.")
        indices = np.flatnonzero(np.asarray(self.splits) == name)
        if len(indices) == 0:
            raise ValueError(
                f"data set {self.name!r} has no records in the split {name!r}: add some, or split it anew."
            )
        return self.subset(indices)


class _Subset(Dataset):
    def __init__(self, parent: Dataset, indices: np.ndarray):
        self.parent, self.indices = parent, indices
        self.name, self.classes, self.mask_classes = parent.name, parent.classes, parent.mask_classes
        self.ids = [parent.ids[i] for i in indices]
        self.labels, self.splits = np.asarray(parent.labels)[indices], np.asarray(parent.splits)[indices]
        self.distributions = None if parent.distributions is None else parent.distributions[indices]

    def __getitem__(self, index: int) -> Record:
        return self.parent[int(self.indices[index])]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.parent.fingerprint} {self.indices.tolist()}".encode()).hexdigest()
