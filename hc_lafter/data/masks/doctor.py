"""What is wrong with a segmentation set, before it is trained on: the doctor's part for ``voc:FOLDER`` and the like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from hc_lafter.data.decode import BadImage, pixel_hash
from hc_lafter.data.masks import formats, names
from hc_lafter.data.masks.sets import MaskFiles
from hc_lafter.data.record import IGNORE, SPLITS, Dataset

SHOWN = 10  # lines per list; the tables hold all


@dataclass(frozen=True)
class MaskReport:
    """What `examine_masks` found.

    Attributes:
        name: the data set's.
        problems: what makes its numbers wrong or keeps it from opening, one sentence each.
        remarks: what one should know, one sentence each.
        counts: per split: images listed, those whose pair is sound, and the share of their pixels that is ignored.
        classes: per mask class: index, class, for each named split of the set whether it is seen or unseen, and per
            data split the images that show it and its share of the pixels that are not ignored.
        broken: id, file and all, of each pair that cannot be used: id, split, found (a clause that begins with the
            file), mend.
    """

    name: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    counts: pd.DataFrame
    classes: pd.DataFrame
    broken: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether there are no problems; remarks are allowed."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report for people, one line each, the verdict first."""
        sound = 0 if self.counts.empty else int(self.counts["sound"].sum())
        verdict = "no problems" if self.ok else f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        out = [f"{self.name}: {sound} images with masks of {len(self.classes)} classes, {verdict}"]
        out += [f"PROBLEM: {p}" for p in self.problems] + [f"note: {r}" for r in self.remarks]
        if not self.counts.empty:
            out += [
                "",
                "images per split",
                *self.counts.to_string(index=False, float_format="{:.4f}".format).split("\n"),
            ]
            out += ["", "images and share of pixels per class"]
            out += self.classes.to_string(index=False, float_format="{:.4f}".format).split("\n")
        if len(self.broken):
            rows = [f"  {r.found}: {r.mend}" for r in self.broken.head(SHOWN).itertuples()]
            more = [f"  ... and {len(self.broken) - SHOWN} more"] if len(self.broken) > SHOWN else []
            out += ["", f"unusable images or masks ({len(self.broken)})", *rows, *more]
        return out


def examine_masks(data: Dataset | str | Path, *, seed: int = 0, progress: bool = True) -> MaskReport:
    """Read every image and mask of a segmentation set once.

    Args:
        data: a data set with masks and without image-level labels, or a spec such as ``voc:FOLDER``, which need not be
            fit to be opened.
        seed: of the division of train into train and val, where a spec is given.

    Returns:
        The report. What would keep a spec from opening is a problem in it, not an exception.
    """
    if not isinstance(data, Dataset):
        try:
            data = MaskFiles(data, seed=seed, complete=False)
        except ValueError as error:
            empty = pd.DataFrame()
            return MaskReport(str(data), (str(error),), (), empty, empty, empty)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(tqdm(pool.map(lambda i: _look(data, i), range(len(data))), "checking", len(data), False,
                         disable=not progress))  # fmt: skip
    problems, remarks = [], list(data.notes) if isinstance(data, MaskFiles) else []
    pixels = [s.pixels if isinstance(s, _Sound) else "" for s in seen]
    problems += _leak(data, pixels)
    bad = [(i, s) for i, s in enumerate(seen) if isinstance(s, BadImage)]
    broken = pd.DataFrame(
        [(data.ids[i], data.splits[i], f"{s.name} {s.found}", s.mend) for i, s in bad],
        columns=["id", "split", "found", "mend"],
    )
    if bad:
        first = bad[0][1]
        problems.append(
            f"{len(bad)} of {len(data)} images or masks cannot be used, the first is {first.name}, which "
            f"{first.found}: {first.mend}."
        )
    if isinstance(data, MaskFiles):
        problems += _about_order(data, remarks)
    areas = np.zeros((len(data), IGNORE + 1), dtype=np.int32)  # COCO has 123,287 images
    for i, s in enumerate(seen):
        if isinstance(s, _Sound):
            areas[i] = s.areas
    sound = np.array([isinstance(s, _Sound) for s in seen])
    counts, classes = _tables(data, sound, areas)
    if gone := [name for name, n in zip(classes["class"], classes[[f"{s} images" for s in SPLITS]].sum(axis=1),
                                        strict=True) if not n]:  # fmt: skip
        remarks.append(f"no mask shows {', '.join(gone)} ({len(gone)} of {len(classes)} classes).")
    return MaskReport(data.name, tuple(problems), tuple(remarks), counts, classes, broken)


@dataclass(frozen=True)
class _Sound:
    areas: np.ndarray  # [256] pixels per mask index
    pixels: str  # hash of the picture


def _look(data: Dataset, i: int) -> _Sound | BadImage:
    try:
        record = data[i]
    except BadImage as error:
        return error
    return _Sound(np.bincount(record.mask.ravel(), minlength=IGNORE + 1).astype(np.int32), pixel_hash(record.image))


def _leak(data: Dataset, pixels: Sequence[str]) -> list[str]:
    first: dict[str, int] = {}
    found = []
    for i, p in enumerate(pixels):
        j = first.setdefault(p, i) if p else i
        if data.splits[i] != data.splits[j]:
            found.append((j, i))
    if not found:
        return []
    a, b = found[0]
    more = f", and {len(found) - 1} more such pairs" if len(found) > 1 else ""
    return [
        f"the same picture lies in two splits, {data.ids[a]} ({data.splits[a]}) and {data.ids[b]} ({data.splits[b]})"
        f"{more}: take one of the two from its list, or the test measures memory."
    ]


def _about_order(data: MaskFiles, remarks: list[str]) -> list[str]:
    """Problems of PASCAL Context's order of ids, held against VOC's own masks of the same images, where they lie."""
    if data.listing.title != "PASCAL Context":
        return []
    votes, voters = context_order(data.listing)
    if not voters:
        remarks.append(
            f"whether the masks follow this order cannot be told: {data.listing.source / 'SegmentationClass'} has no "
            "mask of VOC's own to hold against them."
        )
        return []
    opened = next(o for o, c in names.CONTEXT_ORDERS.items() if data.listing.numbers[2] == c[1])
    counts = " and ".join(f"{n} of {voters} lie where the order {order!r} has them" for order, n in votes.items())
    told = f"of the classes that VOC's own masks show, {counts}"
    if 2 * votes[opened] > voters:
        remarks.append(f"{told}.")
        return []
    return [f"{told}, but the set is opened in the order {opened!r}: open it in the order of its ids."]


def context_order(listing: formats.MaskListing) -> tuple[dict[str, int], int]:
    """For each order of PASCAL Context how many of VOC's classes it puts where VOC's own masks have them, and of how
    many.

    Each class of VOC 2010's ``SegmentationClass`` votes for the id that covers most of its pixels; classes that the two
    orders number alike do not vote.
    """
    overlap = np.zeros((256, 256), dtype=np.int64)  # VOC's value, Context's value
    for pair in listing.pairs:
        own = listing.source / "SegmentationClass" / pair.mask.name
        if not own.is_file():
            continue
        try:
            voc, context = formats.read_indices(own), formats.read_indices(pair.mask)
        except BadImage:  # one of the set's own is told with the unusable masks
            continue
        if voc.shape == context.shape:
            both = voc.astype(np.int64) * 256 + context
            overlap += np.bincount(both.ravel(), minlength=overlap.size).reshape(overlap.shape)
    votes, voters = dict.fromkeys(names.CONTEXT_ORDERS, 0), 0
    for value, name in enumerate(names.VOC, 1):
        name = {"diningtable": "table"}.get(name, name)
        ids = {order: classes.index(name) + 1 for order, classes in names.CONTEXT_ORDERS.items()}
        if not overlap[value, 1:60].any() or len(set(ids.values())) == 1:
            continue
        voters += 1
        found = int(overlap[value, 1:60].argmax()) + 1
        for order, expected in ids.items():
            votes[order] += found == expected
    return votes, voters


def _tables(data: Dataset, sound: np.ndarray, areas: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    own = np.array(data.mask_classes)
    classes = pd.DataFrame({"index": np.arange(len(own)), "class": own})
    for split, (known, unseen) in names.MASK_SPLITS.items():
        if set(known) == set(own):
            classes[split] = np.where(np.isin(own, unseen), "unseen", "seen")
    rows = []
    for split in SPLITS:
        here = np.asarray(data.splits) == split
        area = areas[here].sum(axis=0, dtype=np.int64)
        counted, ignored = area[: len(own)], int(area[IGNORE])
        classes[f"{split} images"] = (areas[here, : len(own)] > 0).sum(axis=0)
        classes[f"{split} share"] = counted / max(1, counted.sum())
        rows.append((split, int(here.sum()), int((here & sound).sum()), ignored / max(1, ignored + counted.sum())))
    return pd.DataFrame(rows, columns=["split", "images", "sound", "ignored share"]), classes
