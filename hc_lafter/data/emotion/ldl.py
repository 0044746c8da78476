"""Flickr_LDL and Twitter_LDL (Yang, Sun and Sun, AAAI 2017): votes for Mikels' eight emotions, in a text and a .mat.

N images, C emotions. The text names its columns, the .mat does not, and public code reads it in several orders: it is
believed as far as it agrees with the text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io
from scipy.optimize import linear_sum_assignment

from hc_lafter.data.emotion.formats import MIKELS_WORDS, read_text, subfolder
from hc_lafter.data.emotion.votes import VoteRow, first_line, numbers_of, vote_listing
from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.own.folder import Listing

ANNOTATORS = {"Flickr_LDL": 11, "Twitter_LDL": 8}


def is_ldl(root: Path) -> bool:
    words = first_line(root / "ground_truth.txt").lower().split()
    return len(words) > 8 and sum(w in MIKELS_WORDS for w in words) == 8


def annotators(root: Path) -> int:
    """How many voted, which tells the two apart: by the names of folder and .mat, else by the first image's votes."""
    names = " ".join((root.name, *(p.name for p in root.glob("*.mat")))).lower()
    known = [n for title, n in ANNOTATORS.items() if title.partition("_")[0].lower() in names]
    if len(known) == 1:
        return known[0]
    _, rows, _ = _ldl_text(root, root / "ground_truth.txt")
    return round(sum(rows[0].votes)) if rows else 0


def list_flickr_ldl(root: Path) -> Listing:
    """Flickr_LDL, 11 annotators: see `_list_ldl`."""
    return _list_ldl(root, "Flickr_LDL")


def list_twitter_ldl(root: Path) -> Listing:
    """Twitter_LDL, 8 annotators: see `_list_ldl`."""
    return _list_ldl(root, "Twitter_LDL")


def _list_ldl(root: Path, title: str) -> Listing:
    """``ground_truth.txt`` with the votes, ``images``, and perhaps ``*_config.mat``.

    The .mat gives the division into train and test, provided that its votes are those of the text.

    Raises:
        ValueError: a row that is none; votes on which the two files disagree; a division that is none.
    """
    path = root / "ground_truth.txt"
    columns, rows, notes = _ldl_text(root, path)
    odd = [row for row in rows if sum(row.votes) != ANNOTATORS[title]]
    if odd:
        notes.append(
            f"{len(odd)} of {len(rows)} images do not have {ANNOTATORS[title]} votes (first {odd[0].name}: "
            f"{sum(odd[0].votes):g})."
        )
    files = sorted(root.glob("*_config.mat"))
    if len(files) > 1:
        raise ValueError(f"{root} has several divisions ({', '.join(f.name for f in files)}): keep one of the files.")
    if files:
        splits, told = _agree(files[0], path, columns, rows)
        rows = [VoteRow(r.name, r.path, r.votes, r.where, splits and splits[PurePosixPath(r.name).name]) for r in rows]
        notes += told
    order = [columns.index(c) for c in MIKELS]
    rows = [VoteRow(r.name, r.path, [r.votes[i] for i in order], r.where, r.split) for r in rows]
    return vote_listing(path, rows, MIKELS, notes=notes, name=title)


def _ldl_text(root: Path, path: Path) -> tuple[list[str], list[VoteRow], list[str]]:
    """The emotions in the order of the columns, the rows, and whether a column was dropped."""
    header, *lines = read_text(path).splitlines()
    heads = header.split()
    at = [i for i, word in enumerate(heads) if i and word.lower() in MIKELS_WORDS]
    columns = [MIKELS_WORDS[heads[i].lower()] for i in at]
    if sorted(columns) != sorted(MIKELS):
        raise ValueError(f"{path} has the columns {heads[1:]}, not Mikels' eight emotions once each: fetch it again.")
    images, rows, wider = subfolder(root, ("images", "image")), [], 0
    for number, line in enumerate(lines, 2):
        cells, where = line.split(), f"row {number} of {path}"
        if not cells:
            continue
        if len(cells) not in (len(heads), len(heads) + 1):
            raise ValueError(f"{where} has {len(cells)} columns, its header {len(heads)}: fetch it again.")
        wider += len(cells) > len(at) + 1
        rows.append(VoteRow(cells[0], images / cells[0], numbers_of([cells[i] for i in at], where), where))
    return columns, rows, [f"{wider} rows of {path.name} have a column without an emotion: dropped."] if wider else []


def _agree(
    mat: Path, text: Path, columns: Sequence[str], rows: Sequence[VoteRow]
) -> tuple[dict[str, str] | None, list[str]]:
    """The split of every image by name, once the .mat's votes are those of the text; None where it has no split."""
    away = "move the .mat away, which leaves the division to a seed"
    found = _read_mat(mat, away)
    for key in ("imgname", "vote"):
        if key not in found:
            raise ValueError(f"{mat} has no variable {key!r}: fetch it again, or {away}.")
    names = [PurePosixPath(str(n).strip().replace("\\", "/")).name for n in np.ravel(found["imgname"])]
    place = {name: i for i, name in enumerate(names)}
    mine = [PurePosixPath(row.name).name for row in rows]
    odd = next(iter(sorted(set(mine) ^ set(names))), None)
    if odd is not None or len(place) < len(names):
        odd = odd or next(n for n in names if names.count(n) > 1)
        raise ValueError(
            f"{mat} and {text} do not name the same images once each (first {odd}): fetch both, or {away}."
        )
    votes = np.asarray(found["vote"], dtype=np.float64)  # [C, N] or [N, C]: releases differ
    if votes.ndim == 2 and votes.shape[0] != len(names):
        votes = votes.T
    if votes.ndim != 2 or votes.shape[0] != len(names) or votes.shape[1] < len(columns):
        raise ValueError(f"{mat} has votes of shape {np.shape(found['vote'])} for {len(names)} images: {away}.")
    theirs = votes[[place[n] for n in mine], : len(columns)]  # [N, C], in the text's order
    ours = np.array([row.votes for row in rows])
    with np.errstate(invalid="ignore"):
        theirs = theirs / theirs.sum(axis=1, keepdims=True)
    ours = ours / ours.sum(axis=1, keepdims=True)
    wrong = ~(np.abs(theirs - ours) < 1e-6)  # also where theirs is NaN
    if wrong.any():
        i = int(wrong.any(axis=1).argmax())
        raise ValueError(
            f"{mat} disagrees with {text} on {int(wrong.any(axis=1).sum())} of {len(rows)} images, first {mine[i]} "
            f"({rows[i].where.split(' of ')[0]}), {np.round(theirs[i], 3).tolist()} against "
            f"{np.round(ours[i], 3).tolist()}{_permutation(theirs, ours, columns)}: {away} and keeps the votes of the "
            "text, whose columns have names."
        )
    splits, how = _mat_splits(mat, found, names, away)
    return splits, [f"the votes of {mat.name} are those of {text.name} in all {len(rows)} rows; {how}"]


def _permutation(theirs: np.ndarray, ours: np.ndarray, columns: Sequence[str]) -> str:
    """Words for the order of columns that would make the two agree, if there is one."""
    apart = (~(np.abs(theirs[:, :, None] - ours[:, None, :]) < 1e-6)).sum(axis=0)  # [theirs, ours] rows that differ
    left, right = linear_sum_assignment(apart)
    if apart[left, right].sum():
        return " (and no order of columns makes them agree)"
    return f" (its columns are the text's in the order {', '.join(columns[j] for j in right)})"


def _mat_splits(mat: Path, found: dict, names: Sequence[str], away: str) -> tuple[dict[str, str] | None, str]:
    if "train_ind" in found and "test_ind" in found:
        parts = {"train": _positions(mat, found, "train_ind", len(names), away)}
        parts["test"] = _positions(mat, found, "test_ind", len(names), away)
        how = "train and test are its train_ind and test_ind."
    elif "split_index" in found:
        fold = np.ravel(found["split_index"])
        if len(fold) != len(names) or not (fold == 1).any() or (fold == 1).all():
            raise ValueError(f"{mat} has a split_index of shape {np.shape(fold)} for {len(names)} images: {away}.")
        parts = {"train": set(np.flatnonzero(fold != 1)), "test": set(np.flatnonzero(fold == 1))}
        how = "test is fold 1 of its split_index."
    else:
        return None, "it has no split."
    if parts["train"] & parts["test"] or len(parts["train"] | parts["test"]) < len(names):
        both = parts["train"] & parts["test"]
        odd = min(both or set(range(len(names))) - parts["train"] - parts["test"])
        raise ValueError(f"{mat} puts {names[odd]} into {'both train and test' if both else 'neither'}: {away}.")
    return {names[i]: split for split, at in parts.items() for i in at}, how


def _positions(mat: Path, found: dict, key: str, n: int, away: str) -> set[int]:
    """Positions from 0 that a mask of n, or MATLAB's numbers from 1, mean."""
    values = np.ravel(found[key])
    if values.dtype.kind in "biuf":
        if len(values) == n and np.isin(values, (0, 1)).all():
            return set(np.flatnonzero(values).tolist())
        if len(values) and values.min() >= 1 and values.max() <= n and (values == np.rint(values)).all():
            return set((values.astype(np.int64) - 1).tolist())
    raise ValueError(f"{mat} has a {key} that is neither a mask of {n} images nor numbers from 1 to {n}: {away}.")


_WANTED = ("imgname", "vote", "train_ind", "test_ind", "split_index")


def _read_mat(path: Path, away: str) -> dict:
    """The variables that are wanted and there; a classic .mat, or MATLAB 7.3, which is HDF5."""
    try:
        return scipy.io.loadmat(os.fspath(path), variable_names=_WANTED, squeeze_me=True)
    except NotImplementedError:  # what scipy says to 7.3
        pass
    except Exception as error:  # the parser meets bytes of any origin
        raise ValueError(f"{path} is no .mat file ({error}): fetch it again, or {away}.") from error
    try:
        import h5py
    except ImportError:
        raise ValueError(
            f"{path} is MATLAB 7.3 (HDF5): install h5py to read it (pip install h5py), or {away}."
        ) from None
    try:
        with h5py.File(path) as file:
            return {key: _hdf5(file, key) for key in _WANTED if key in file}
    except Exception as error:
        raise ValueError(f"{path} is a damaged MATLAB 7.3 file ({error}): fetch it again, or {away}.") from error


def _hdf5(file, key: str) -> np.ndarray:
    """One variable; text is a cell of references to characters, or one character matrix with an image per column."""
    values = file[key][()]
    if key != "imgname":
        return np.squeeze(values)
    if values.dtype == object:
        return np.array(["".join(map(chr, np.ravel(file[ref][()]))) for ref in np.ravel(values)])
    return np.array(["".join(map(chr, column)) for column in values.T])
