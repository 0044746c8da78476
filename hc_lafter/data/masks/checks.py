"""What `hc_lafter.data.doctor` asks of masks alone: areas per class, and what their numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hc_lafter.data.decode import BadImage
from hc_lafter.data.masks import formats, names
from hc_lafter.data.masks.sets import MaskFiles
from hc_lafter.data.record import IGNORE, SPLITS, Dataset


def area_tables(data: Dataset, areas: Sequence[np.ndarray | None]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Images per split, and images and shares of pixels per class; see `hc_lafter.data.doctor.Report`.

    Args:
        areas: for each record [256] pixels per mask index, None where it cannot be read.
    """
    sound = np.array([area is not None for area in areas])
    pixels = np.array([np.zeros(256, np.int32) if area is None else area for area in areas])  # [B, 256]
    own = np.array(data.mask_classes)
    classes = pd.DataFrame({"index": np.arange(len(own)), "class": own})
    for split, (known, unseen) in names.MASK_SPLITS.items():
        if set(known) == set(own):
            classes[split] = np.where(np.isin(own, unseen), "unseen", "seen")
    rows = []
    for split in SPLITS:
        inside = np.asarray(data.splits) == split
        area = pixels[inside].sum(axis=0, dtype=np.int64)
        counted, ignored = area[: len(own)], int(area[IGNORE])
        classes[f"{split} images"] = (pixels[inside, : len(own)] > 0).sum(axis=0)
        classes[f"{split} share"] = counted / max(1, counted.sum())
        rows.append((split, int(inside.sum()), int((inside & sound).sum()), ignored / max(1, ignored + counted.sum())))
    return pd.DataFrame(rows, columns=["split", "images", "sound", "ignored share"]), classes


def about_order(data: MaskFiles) -> tuple[list[str], list[str]]:
    """Problems and remarks on PASCAL Context's order of ids, held against VOC's own masks of the same images."""
    if data.listing.title != "PASCAL Context":
        return [], []
    votes, voters = context_order(data.listing)
    if not voters:
        folder = data.listing.source / "SegmentationClass"
        return [], [
            f"whether the masks follow this order cannot be told: {folder} has no mask of VOC's own to hold against "
            "them."
        ]
    opened = next(o for o, c in names.CONTEXT_ORDERS.items() if data.listing.numbers[2] == c[1])
    counts = " and ".join(f"{n} of {voters} lie where the order {order!r} has them" for order, n in votes.items())
    sentence = f"of the classes that VOC's own masks show, {counts}"
    if 2 * votes[opened] > voters:
        return [], [f"{sentence}."]
    return [f"{sentence}, but the set is opened in the order {opened!r}: open it in the order of its ids."], []


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
        except BadImage:  # one of the set's own is among the unusable masks
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
