"""Images of one's own as a listing: one folder per class, or a csv of paths and labels. No image is opened."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pandas as pd

from hc_lafter.data.listing import (
    SPLIT_WORDS,
    Item,
    Listing,
    existing,
    is_image,
    nfc,
    once,
    one_spelling,
    read_text,
    split_hint,
    split_of,
)
from hc_lafter.data.record import SPLITS
from hc_lafter.refusals import nearest

TABLES = (".csv", ".tsv", ".txt")
_JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}  # what file managers leave


def list_images(path: str | Path) -> Listing:
    """`list_table` for a file, `list_folder` for a folder.

    Raises:
        ValueError: as they do, or where there is neither.
    """
    path = existing(path, ", or give a csv with the columns path and label")
    return (list_table if path.is_file() else list_folder)(path)


def list_folder(root: Path) -> Listing:
    """``root/<class>/**/*.jpg``, or ``root/{train,val,test}/<class>/**/*.jpg``, or ``root/<class>/{train,val,test}``.

    Splits go by `listing.split_of`; a folder around the whole is passed through. Only directory entries are read.

    Raises:
        ValueError: the folder has no class folders, mixes class folders with split folders, has two folders for one
            split, or two classes whose names differ only in case; it is PASCAL VOC.
    """
    root = Path(os.path.abspath(root))
    if all((root / name).is_dir() for name in ("JPEGImages", "ImageSets")):
        raise ValueError(f"{root} is PASCAL VOC, whose images have masks: write voc:{root}, in a run as mask_data.")
    below, loose = _entries(root)
    splits = _splits(below)
    names = ", ".join(f.name for f in splits)
    others = [f for f in below if f not in splits]
    if "train" not in splits.values():
        if splits and not others:
            raise ValueError(f"{root} has only {names} and no train folder: add root/train/<class>/ folders.")
        splits = {}  # a class may well be called "test"
    elif other := next((f.name for f in others if any(image for _, image in _walk(f))), None):
        raise ValueError(
            f"{root} mixes split folders ({names}) with others ({other}): move {other} out, or rename the split "
            "folders if they are classes."
        )
    for split, n in Counter(splits.values()).items():
        if n > 1:
            both = ", ".join(f.name for f in splits if splits[f] == split)
            raise ValueError(f"{root} has two folders for the split {split!r} ({both}): merge them.")
    held = {f: _entries(f) for f in below}
    within = [_alone(*of) for of in held.values()]
    if not splits and len(within) == 1 and (len(within[0]) > 1 or any(map(split_of, within[0]))):
        inner = list_folder(below[0])  # an archive's own folder around the whole
        return replace(inner, notes=(*inner.notes, f"{root} holds the folder {below[0].name} alone: that was read."))
    nested = not splits and _nested(root, held)
    notes = ["the splits are folders in the class folders."] if nested else []
    if read_as := [f"{f.name} as {split}" for f, split in splits.items() if split_of(f.name) is None]:
        notes.append(f"split folders were read by a word in their names: {', '.join(read_as)}.")
    if not (splits or nested) and len(below) > 1 and len(same := set.intersection(*map(set, within))) > 1:
        notes.append(
            f"every class folder holds the same folders ({', '.join(sorted(same)[:4])}): if those are the classes, "
            "name the outer ones train, val and test."
        )
    ignored = [*loose, *(path for f in others for path, _ in _walk(f))] if splits else []
    items, labels = [], []
    for holder, split in [(_through(f), split) for f, split in splits.items()] or [(root, None)]:
        classes, loose = _entries(holder)
        ignored += loose
        if not classes:
            images = sum(is_image(path.name) for path in loose)
            raise ValueError(
                f"{holder} has no class folders ({images} images lie directly in it): sort the images into one folder "
                "per class, or write a csv with the columns path and label."
            )
        for folder in classes:
            labels.append(folder.name)
            for path, image in _walk(folder):
                if image:
                    part = split_hint(path.relative_to(folder).parts[0]) if nested else split
                    items.append(Item(path.relative_to(root).as_posix(), path, nfc(folder.name), part))
                else:
                    ignored.append(path)
    others = tuple(sorted(p.relative_to(root).as_posix() for p in ignored))
    items.sort(key=lambda item: item.id)
    return Listing(root, tuple(items), one_spelling(root, labels), others, notes=tuple(notes))


def _splits(below: Sequence[Path]) -> dict[Path, str]:
    """The folders that are splits by their names; a word in it is enough where they hold the same class folders."""
    splits = {f: split for f in below if (split := split_of(f.name))}
    hinted = {f: split for f in below if (split := split_hint(f.name))}
    if {"train"} < set(hinted.values()):
        classes = [{c.name for c in _entries(_through(f))[0]} for f in hinted]
        trained = set().union(*(c for c, split in zip(classes, hinted.values(), strict=True) if split == "train"))
        if all(c & trained for c in classes):
            return hinted
    return splits


def _nested(root: Path, held: Mapping[Path, tuple[list[Path], list[Path]]]) -> bool:
    """Whether each class folder holds split folders.

    Args:
        held: class folder -> what `_entries` finds in it.

    Raises:
        ValueError: some do and others do not, or what seems to be a class is a data set of its own.
    """
    alone = {f: _alone(*of) for f, of in held.items()}
    if held and all(w and all(map(split_of, w)) for w in alone.values()):
        divided = list(held)
    else:
        divided = [f for f, (below, _) in held.items() if {"train"} < {split_hint(d.name) for d in below} - {None}]
        whole = [f for f, w in alone.items() if w and all(map(split_hint, w))]
        if bare := [f for f in held if f not in divided or f not in whole] if divided else []:
            raise ValueError(
                f"{root} has class folders with split folders in them ({divided[0].name}) and one that is not divided "
                f"so throughout ({bare[0].name}): sort the images of {bare[0].name} into the same split folders."
            )
    for f in divided:
        inside = [set(_only_folders(d)) for d in held[f][0]]
        if len(inside) > 1 and (classes := set.intersection(*inside)):
            raise ValueError(
                f"{root} has no class folders: {f.name} holds split folders with the same folders in them "
                f"({', '.join(sorted(classes)[:4])}). Give {f} in its place."
            )
    return bool(divided)


def _through(folder: Path) -> Path:
    """A split's folder, past levels that hold nothing but the folder around its class folders."""
    below, loose = _entries(folder)
    around = len(below) == 1 and not any(is_image(path.name) for path in loose) and len(_only_folders(below[0])) > 1
    return _through(below[0]) if around else folder


def _only_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder that has no image beside them, else none."""
    return _alone(*_entries(folder))


def _alone(below: Sequence[Path], loose: Sequence[Path]) -> list[str]:
    return [] if any(is_image(path.name) for path in loose) else [f.name for f in below]


def list_table(path: Path) -> Listing:
    """A csv with the columns ``path``, ``label`` and perhaps ``split``; paths are relative to the csv's folder.

    UTF-8 with or without a byte-order mark; comma, semicolon or tab, whichever the header has. Labels are names: "01"
    and "NA" are classes like any other.

    Raises:
        ValueError: not a csv, not UTF-8, empty, a column missing, or a row with an empty path, an empty label, an
            unknown split or a path that an earlier row has; names file, row (the header is row 1) and column.
    """
    path = Path(os.path.abspath(path))
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path} is a file but no csv: give a csv with the columns path and label, or a folder.")
    items = []
    for row in _table(path).itertuples():
        split = split_of(row.split)
        if row.split and split is None:
            raise ValueError(
                f"row {row.Index}, column 'split' of {path} is {row.split!r}{nearest(row.split.lower(), SPLIT_WORDS)}: "
                f"write one of {', '.join(SPLITS)}."
            )
        if re.match(r"\w+://", row.path):
            raise ValueError(
                f"row {row.Index} of {path} names {row.path}: download the pictures and write where they lie, since "
                "nothing is fetched here."
            )
        file, name = _locate(path.parent, row.path)
        items.append(Item(name, file, nfc(row.label), split, f"row {row.Index}, column 'path'"))
    return Listing(path, once(items, path), one_spelling(path, (item.label for item in items)))


def _table(path: Path) -> pd.DataFrame:
    """The columns path, label and split of the rows that are not blank, as text, by row number."""
    text = read_text(path)
    header = text.partition("\n")[0].lower()
    separator = max(
        ",;\t", key=lambda s: (len({"path", "label"} & {h.strip(' "\r') for h in header.split(s)}), s in header)
    )
    try:
        names = [name.strip().lower() for name in next(csv.reader(io.StringIO(text), delimiter=separator), ())]
        for column in ("path", "label", "split"):
            if names.count(column) > 1:
                raise ValueError(f"the header of {path} has {column!r} twice: keep the column that is meant.")
        width = len(names)
        for number, cells in enumerate(csv.reader(io.StringIO(text), delimiter=separator), 1):
            if any(cell.strip() for cell in cells[width:]):  # pandas would drop them
                raise ValueError(
                    f"row {number} of {path} has {len(cells)} cells and its header {width}: write a text that holds "
                    f"{separator!r} in quotes."
                )
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            index_col=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a well-formed csv ({reason}): save it again from a spreadsheet.") from None
    frame = frame.rename(columns=lambda name: name.strip().lower()).fillna("").apply(lambda column: column.str.strip())
    for column in ("path", "label"):
        if column not in frame:
            raise ValueError(
                f"{path} has no column {column!r} in its header ({', '.join(frame)}){nearest(column, frame)}: name its "
                "columns path,label or path,label,split."
            )
    frame.index += 2  # the header is row 1
    frame = frame[(frame != "").any(axis=1)]
    if frame.empty:
        raise ValueError(f"{path} has a header and no rows: add one row per image.")
    for column in frame.columns.intersection(["path", "label", "split"]):
        for row in frame.index[frame[column] == ""]:
            raise ValueError(f"row {row}, column {column!r} of {path} is empty: fill it in, or remove the row.")
    return frame.reindex(columns=["path", "label", "split"], fill_value="")


def _locate(folder: Path, written: str) -> tuple[Path, str]:
    """The file that a cell of a table means, and its id: relative to the table's folder wherever it can be."""
    file = Path(os.path.normpath(folder / written))
    if "\\" in written and not file.exists():  # a table that was written on Windows
        written = written.replace("\\", "/")
        file = Path(os.path.normpath(folder / written))
    if file.is_relative_to(folder):
        return file, file.relative_to(folder).as_posix()
    return file, file.as_posix() if Path(written).is_absolute() else posixpath.normpath(written.replace(os.sep, "/"))


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder."""
    try:
        entries = sorted(p for p in folder.iterdir() if not _junk(p.name))
    except OSError as error:
        _stop(error)
    for path in entries:
        _check_name(path)
    return [p for p in entries if p.is_dir()], [p for p in entries if not p.is_dir()]


def _walk(folder: Path) -> Iterable[tuple[Path, bool]]:
    """Every file below a class folder, and whether its name is an image's; linked folders are followed once, and not
    upwards."""
    seen, home = set(), os.path.realpath(folder)
    for place, below, files in os.walk(folder, onerror=_stop, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or home.startswith(real.rstrip(os.sep) + os.sep):  # a link to what the folder lies in
            below.clear()
            continue
        seen.add(real)
        for name in [*below, *files]:
            if not _junk(name) and (is_image(name) or name in files):
                _check_name(Path(place, name))
                yield Path(place, name), is_image(name)
        below[:] = [f for f in below if not _junk(f) and not is_image(f)]


def _stop(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename} cannot be listed ({error.strerror}): check its permissions.") from error


def _check_name(path: Path) -> None:
    """Refuse what no table and no json can hold: a name of another encoding, as old archives unpack to."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path.parent} holds {os.fsencode(path.name)!r}, which is not UTF-8: rename it.") from None


def _junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK
