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
        distribution: [C] float64, sums to one, what a prediction is scored by; or None where none is known.
        mask: [height, width] uint8, index into ``mask_classes``, 255 = ignore; or None.
        captions: sentences about the image; or None.
        votes: [C] int64, how many voters named each class; or None where counts are not known.
    """

    id: str
    split: str
    image: Image.Image
    label: int
    label_name: str
    distribution: np.ndarray | None = None
    mask: np.ndarray | None = None
    captions: tuple[str, ...] | None = None
    votes: np.ndarray | None = None


class Dataset(torch.utils.data.Dataset, ABC):
    """A sequence of records whose labels, splits and fingerprint are known without decoding an image.

    Attributes:
        name: what figures and metrics call it.
        classes: C class names in label order.
        mask_classes: names in mask-index order, or None where there are no masks.
        ids: B record ids.
        labels: [B] int64.
        splits: [B] of ``train`` / ``val`` / ``test``.
        distributions: [B, C] float64, what predictions are scored by: the exact posterior in the world, people's own
            distribution in sets of people; or None.
        votes: [B, C] int64, counts, at least one per record; or None.
        aimed_at, scored_by: what `targets` and ``distributions`` are, in words; None where there are none.
    """

    name: str
    classes: tuple[str, ...]
    mask_classes: tuple[str, ...] | None = None
    ids: Sequence[str]
    labels: np.ndarray
    splits: np.ndarray
    distributions: np.ndarray | None = None
    votes: np.ndarray | None = None
    aimed_at: str | None = None
    scored_by: str | None = None

    @abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex sha256 over everything that decides the records, pixels included: the data part of a cache key."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> np.ndarray | None:
        """[B, C] float64, what training may aim at: the votes' shares; without counts, the distributions; or None.

        Where there are votes the distributions are not read: in the world they are more than any annotator knows.
        """
        if self.votes is None:
            return self.distributions
        return self.votes / self.votes.sum(axis=1, keepdims=True)

    def describe(self) -> str:
        """One line that says which distribution training aims at and which one scores."""
        if self.aimed_at is None:
            return f"{self.name}: neither votes nor distributions are given."
        label = "" if self.votes is None else " A label is the votes' majority."
        scores = "they score" if self.scored_by == self.aimed_at else f"the {self.scored_by} only scores"
        between = ", and" if self.scored_by == self.aimed_at else ";"
        return f"{self.name}: training aims at the {self.aimed_at}{between} {scores}.{label}"

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
                f"data set {self.name!r} has no records in the split {name!r}: add some, or divide it again."
            )
        return self.subset(indices)


class _Subset(Dataset):
    def __init__(self, parent: Dataset, indices: np.ndarray):
        self.parent, self.indices = parent, indices
        self.name, self.classes, self.mask_classes = parent.name, parent.classes, parent.mask_classes
        self.aimed_at, self.scored_by = parent.aimed_at, parent.scored_by
        self.ids = [parent.ids[i] for i in indices]
        for name in ("labels", "splits", "distributions", "votes"):
            of_all = getattr(parent, name)
            setattr(self, name, None if of_all is None else np.asarray(of_all)[indices])

    def __getitem__(self, index: int) -> Record:
        return self.parent[int(self.indices[index])]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.parent.fingerprint} {self.indices.tolist()}".encode()).hexdigest()
