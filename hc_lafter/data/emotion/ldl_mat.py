"""The division of Flickr_LDL and Twitter_LDL into train and test: a .mat, believed as far as it agrees with the text.

N images, C emotions. The text names its columns, the .mat does not, and public code reads it in several orders.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import scipy.io
from scipy.optimize import linear_sum_assignment

_WANTED = ("imgname", "vote", "train_ind", "test_ind", "split_index")
_AWAY = "move the .mat away, which leaves the division to a seed"


def splits_of_mat(
    mat: Path, text: Path, columns: Sequence[str], images: Sequence[str], votes: np.ndarray
) -> tuple[dict[str, str] | None, str]:
    """The split of every image by name, or None where the .mat has no division; and a note.

    Args:
        columns: C emotions in the order of the text's columns.
        images: N file names in the order of the text.
        votes: [N, C] of the text.

    Raises:
        ValueError: the file cannot be read, names other images, has other votes, or no proper division.
    """
    found, count = _read(mat), len(images)
    for key in ("imgname", "vote"):
        if key not in found:
            raise ValueError(f"{mat} has no variable {key!r}: fetch it again, or {_AWAY}.")
    names = [PurePosixPath(str(n).strip().replace("\\", "/")).name for n in np.ravel(found["imgname"])]
    if odd := sorted(set(images) ^ set(names)) or [n for n, k in Counter(names).items() if k > 1]:
        raise ValueError(
            f"{mat} and {text} do not name the same images once each (first {odd[0]}): fetch both, or {_AWAY}."
        )
    theirs = np.asarray(found["vote"], dtype=np.float64)  # [C, N] or [N, C]: releases differ
    if theirs.ndim == 2 and theirs.shape[0] != count:
        theirs = theirs.T
    if theirs.ndim != 2 or theirs.shape[0] != count or theirs.shape[1] < len(columns):
        raise ValueError(f"{mat} has votes of shape {np.shape(found['vote'])} for {count} images: {_AWAY}.")
    place = {name: i for i, name in enumerate(names)}
    order = [place[name] for name in images]  # the text's
    theirs = theirs[order, : len(columns)]
    with np.errstate(invalid="ignore"):
        theirs, ours = (each / each.sum(axis=1, keepdims=True) for each in (theirs, votes))
    wrong = (~(np.abs(theirs - ours) < 1e-6)).any(axis=1)  # also where theirs is NaN
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"{mat} disagrees with {text} on {wrong.sum()} of {count} images, first {images[i]}, "
            f"{np.round(theirs[i], 3).tolist()} against {np.round(ours[i], 3).tolist()}"
            f"{_permutation(theirs, ours, columns)}: {_AWAY} and keeps the votes of the text, whose columns have names."
        )
    note = f"the votes of {mat.name} are those of {text.name} in all {count} rows; "
    if "train_ind" in found and "test_ind" in found:
        train, test = (_mask(mat, found, key, count) for key in ("train_ind", "test_ind"))
        note += "train and test are its train_ind and test_ind."
    elif "split_index" in found:
        test = np.ravel(found["split_index"]) == 1
        if len(test) != count or not test.any() or test.all():
            raise ValueError(f"{mat} has a split_index of shape {test.shape} for {count} images: {_AWAY}.")
        train, note = ~test, f"{note}test is fold 1 of its split_index."
    else:
        return None, f"{note}it has no split."
    if (wrong := train == test).any():
        i = int(wrong.argmax())
        raise ValueError(f"{mat} puts {names[i]} into {'both train and test' if test[i] else 'neither'}: {_AWAY}.")
    return {name: "test" if of_test else "train" for name, of_test in zip(names, test, strict=True)}, note


def _permutation(theirs: np.ndarray, ours: np.ndarray, columns: Sequence[str]) -> str:
    """Words for the order of columns that would make the two agree, if there is one."""
    apart = (~(np.abs(theirs[:, :, None] - ours[:, None, :]) < 1e-6)).sum(axis=0)  # [theirs, ours] rows that differ
    left, right = linear_sum_assignment(apart)
    if apart[left, right].sum():
        return " (and no order of columns makes them agree)"
    return f" (its columns are the text's in the order {', '.join(columns[j] for j in right)})"


def _mask(mat: Path, found: dict, key: str, n: int) -> np.ndarray:
    """[N] bool, from a mask of N or from MATLAB's numbers, which start at 1."""
    values, numbers = np.ravel(found[key]), np.arange(1, n + 1)
    if values.dtype.kind in "biuf":
        if len(values) == n and np.isin(values, (0, 1)).all():
            return values.astype(bool)
        if len(values) and np.isin(values, numbers).all():
            return np.isin(numbers, values)
    raise ValueError(f"{mat} has a {key} that is neither a mask of {n} images nor numbers from 1 to {n}: {_AWAY}.")


def _read(path: Path) -> dict:
    """The variables that are wanted and there; a classic .mat, or MATLAB 7.3, which is HDF5."""
    try:
        with contextlib.suppress(NotImplementedError):  # what scipy says to 7.3
            return scipy.io.loadmat(str(path), variable_names=_WANTED, squeeze_me=True)
        with h5py.File(path) as file:
            return {key: _hdf5(file, key) for key in _WANTED if key in file}
    except Exception as error:  # the parsers meet bytes of any origin
        raise ValueError(f"{path} cannot be read as a .mat file ({error}): fetch it again, or {_AWAY}.") from error


def _hdf5(file: h5py.File, key: str) -> np.ndarray:
    """One variable; text is a cell of references to characters, or one character matrix with an image per column."""
    values = file[key][()]
    if key != "imgname":
        return np.squeeze(values)
    rows = [np.ravel(file[ref][()]) for ref in np.ravel(values)] if values.dtype == object else values.T
    return np.array(["".join(map(chr, row)) for row in rows])
