"""How training went: numbers from the histories that runs leave, a dict per step or epoch. S seeds, a history each.

And the images that a seed learns from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

Table = Sequence[Mapping[str, Any]]  # of a history: ``steps`` or ``epochs``


def curves(tables: Sequence[Table], column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column over several runs: where [n], from 1, and values [S, n]; a run that broke off is filled up with NaN."""
    length = max(len(table) for table in tables)
    values = np.full((len(tables), length), np.nan)
    for row, table in zip(values, tables, strict=True):
        row[: len(table)] = [entry[column] for entry in table]
    return np.arange(1, length + 1), values


def halves(labels: np.ndarray, seeds: Sequence[int]) -> tuple[list[np.ndarray], list[int]]:
    """For each seed a random half of the images, the classes in their shares.

    A class of a single image cannot be halved: it is in every half.

    Args:
        labels: [B] class indices.

    Returns:
        For each seed the positions of its half, and the classes of a single image.
    """
    lone = np.isin(labels, np.flatnonzero(np.bincount(labels) == 1))
    single, several = np.flatnonzero(lone), np.flatnonzero(~lone)
    found = [several] * len(seeds)
    if len(several):
        how = {"train_size": 0.5, "stratify": labels[several]}
        found = [train_test_split(several, random_state=seed, **how)[0] for seed in seeds]
    return [np.concatenate([half, single]) for half in found], sorted(labels[single].tolist())


def by_epoch(steps: Sequence[Table], column: str) -> np.ndarray:
    """[S, E]: the mean of a column over the steps of each epoch; NaN behind the epoch in which a run broke off."""
    means = [pd.DataFrame(table).groupby("epoch")[column].mean() for table in steps]
    return pd.DataFrame(means).to_numpy()


def late_scatter(steps: Sequence[Table], column: str = "task") -> np.ndarray:
    """[S]: the standard deviation of a loss over the steps of each run's last phase; NaN for a single step."""
    frames = [pd.DataFrame(table) for table in steps]
    return np.array([frame[column][frame["phase"] == frame["phase"].iloc[-1]].std() for frame in frames])


def late_mean(steps: Sequence[Table], column: str = "task", share: float = 0.2) -> np.ndarray:
    """[S]: where a loss ends, smoothed: its mean over the last ``share`` of each run's steps, at least one."""
    frames = [pd.DataFrame(table)[column] for table in steps]
    return np.array([frame.tail(max(1, round(share * len(frame)))).mean() for frame in frames])


def passes_of_last_phase(
    steps: Sequence[Table], epochs: Sequence[Table], per_pass: int, share: float = 0.99
) -> tuple[np.ndarray, int]:
    """In which pass through the data of its last phase each run reaches ``share`` of the accuracy that it ends with.

    Validations need not be a pass apart: one that comes within the third pass counts as the third.

    Args:
        epochs: a row per validation, with its ``accuracy``.
        per_pass: optimiser steps of a pass through the training images.

    Returns:
        [S] passes, from 1, and how many the phase has, the shortest run's.
    """
    reached, long = [], []
    for table, rows in zip(steps, epochs, strict=True):
        phase = table[-1]["phase"]
        scores = np.array([row["accuracy"] for row in rows if row["phase"] == phase])
        taken = sum(row["phase"] == phase for row in table)
        first = 1 + int((scores >= share * scores[-1]).argmax())
        reached.append(-(-first * taken // (len(scores) * per_pass)))  # rounded up
        long.append(-(-taken // per_pass))
    return np.array(reached), min(long)


def first_reaching(scores: np.ndarray, share: float = 0.99) -> np.ndarray:
    """[S]: the first column of scores [S, 1 + E] that has ``share`` of the last one's."""
    return (scores >= share * scores[:, -1:]).argmax(axis=1)


def phase_spans(table: Table, column: str) -> dict[str, tuple[float, float]]:
    """Phase -> (first, last) of ``step`` or ``epoch``, half a step before and behind, in the order of training."""
    grouped = pd.DataFrame(table).groupby("phase", sort=False)[column]
    return {phase: (at.min() - 0.5, at.max() + 0.5) for phase, at in grouped}
