"""Data sets of one record type (`record.Record`): the embedded world, images of your own, published sets.

Each kind has a folder of its own (`world`, `own`, `emotion`, `masks`); `record` is what they all give, `listing` what
the readers of files share, `decode` reads one image, `doctor` says what is wrong with a set. What is a table (words,
colours, class names, kinds of files) is a TOML or CSV file beside the module that reads it (`tables`). A new published
set is a row of `emotion.sets.SETS` or `masks.sets.SETS`, and its reader a function beside the others. Nothing that
knows a CLIP, a system, tuning or the suite belongs in this room.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .record import SPLITS, Dataset

WORLD = (2000, 1000, 2000)  # images per split where nobody says how many


def open_data(
    spec: str,
    *,
    n_train: int | None = None,
    n_val: int | None = None,
    n_test: int | None = None,
    side: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: Path | None = None,
) -> Dataset:
    """The data set that a profile names.

    Args:
        spec: ``world``, a folder of class folders, a csv with the columns path, label and perhaps split, or a published
            emotion set: its folder, or ``emoset:FOLDER`` and the like (`emotion.sets.SETS`); or a published
            segmentation set, ``voc:FOLDER`` and the like (`masks.sets.SETS`).
        n_train, n_val, n_test: images per split; for images of your own an upper limit, above which a seeded sample is
            taken that keeps the shares of the classes. None: no limit; of the world 2,000, 1,000 and 2,000.
        side: pixels at which the world is drawn.
        seed: of the world, or of the division and the sample.
        on_error: ``raise`` or ``skip`` for a file that cannot be read; a segmentation set always raises, for its
            numbers are compared with published ones.
        cache: a folder that remembers which files were checked.

    Raises:
        ValueError: the data cannot be used; one sentence with the path and what to do about it.
    """
    # here, so that `python -m hc_lafter.data.world.dataset` and `.doctor` start clean
    from .emotion.sets import list_data
    from .masks.sets import MaskFiles, is_mask_spec
    from .own.images import ImageFiles
    from .world.dataset import World

    limits = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
    if below := [f"n_{split}={n}" for split, n in limits.items() if n is not None and n < 0]:
        raise ValueError(f"{below[0]} is not usable: give a number of images from 0, or none.")
    if spec == "world":
        sizes = (size if (n := limits[split]) is None else n for split, size in zip(SPLITS, WORLD, strict=True))
        return World(*sizes, side=side, seed=seed)
    if is_mask_spec(spec):
        data = MaskFiles(spec, seed=seed)
    else:
        data = ImageFiles(list_data(spec), seed=seed, on_error=on_error, cache=cache)
    rng = np.random.default_rng(seed)
    indices = {split: np.flatnonzero(data.splits == split) for split in SPLITS}
    limits = {split: len(indices[split]) if n is None else n for split, n in limits.items()}
    if all(len(indices[split]) <= limit for split, limit in limits.items()):
        return data
    return data.subset(np.concatenate([stratified(indices[s], data.labels, limits[s], rng) for s in SPLITS]))


def stratified(indices: np.ndarray, labels: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``limit`` of the indices, sorted, drawn so that the classes keep their shares; ``labels`` are all [B]."""
    shuffled = rng.permutation(indices)
    # The k-th of n images of a class comes at (k + 1/2) / n: the first ones of the line-up are a stratified sample.
    place = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        of_class = np.flatnonzero(labels[shuffled] == label)
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:limit]])
