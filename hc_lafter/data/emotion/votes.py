"""Published emotion sets that keep what their annotators said: a listing with one distribution per image.

Emotion6 (Peng et al., CVPR 2015), Abstract (Machajdik and Hanbury, ACM MM 2010), Flickr_LDL and Twitter_LDL (Yang, Sun
and Sun, AAAI 2017). C emotions; columns go by the name in the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from hc_lafter.data.emotion.ldl_mat import splits_of_mat
from hc_lafter.data.emotion.names import EIGHTY, EKMAN, EKMAN_WORDS, MIKELS_WORDS, emotion
from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.listing import Item, Listing, once, read_json, read_rows, subfolder

ANNOTATORS = {"Flickr_LDL": 11, "Twitter_LDL": 8}


def _voted(name: str, path: Path, cells: Iterable[object], where: str) -> Item:
    """An item with its votes as they stand in the file, counts or probabilities, and no label yet.

    Raises:
        ValueError: one is not a number, not finite or negative, or there is none at all.
    """
    try:
        votes = [float(cell) for cell in cells]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} holds a vote that is not a number ({error}): correct it, or remove the row."
        ) from None
    if not all(0 <= v < np.inf for v in votes) or not sum(votes):
        raise ValueError(f"{where} holds {votes}, which are not votes: correct them, or remove the row.")
    return Item(name, path, "", None, where, votes=votes)


def _read(
    path: Path, words: Mapping[str, str], order: Sequence[str], heads: str, separator: str | None, spare: int = 0
) -> tuple[tuple[str, ...], list[Item]]:
    """The emotions in the order of the table's columns, and its rows with votes in that of ``order``.

    Args:
        heads: a pattern of the columns with votes, whose group is the emotion.
        spare: columns that a row may have beyond those of the header.

    Raises:
        ValueError: a column of no emotion, or of one that another has too; a row with other columns or no votes.
    """
    (_, header), *rows = read_rows(path, separator, spare=spare)
    columns: dict[str, int] = {}
    for i, head in enumerate(header):
        if i and (match := re.fullmatch(heads, head, re.IGNORECASE)):
            name = emotion(match[1], words, f"a column of {path}")
            if name in columns:
                raise ValueError(f"{path} has two columns for {name} ({', '.join(header)}): fetch it again.")
            columns[name] = i
    if len(columns) < 2 or (order == MIKELS and len(columns) < len(MIKELS)):
        raise ValueError(
            f"{path} has the columns {', '.join(header)[:80]!r}, among them votes for {len(columns)} emotions: fetch "
            "it again."
        )
    at = [columns[name] for name in order if name in columns]
    images = subfolder(path.parent, "images", "image", ".")
    named = [(where, cells[0].replace("\\", "/"), cells) for where, cells in rows]
    return tuple(columns), [_voted(n, images / n, [cells[i] for i in at], where) for where, n, cells in named]


def _listing(
    source: Path, rows: Sequence[Item], classes: Sequence[str], notes: Sequence[str], name: str, ties: bool = True
) -> Listing:
    """Rows as items: the distribution is the votes' shares, the label the emotion with the most, the first of equals.

    The counts stay beside the shares where the release has them: numbers that are not whole, or all sum to one, are
    frequencies. ``ties``: whether images without one winner stay.

    Raises:
        ValueError: an emotion that wins no image; an image that is named twice.
    """
    votes = np.array([row.votes for row in rows])  # [B, C]
    counted = bool((votes == np.rint(votes)).all() and (votes.sum(axis=1) > 1).any())
    tied = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1
    items = []
    for row, v, t in zip(rows, votes, tied, strict=True):
        if ties or not t:
            counts = tuple(v.astype(int).tolist()) if counted else None
            shares = tuple((v / v.sum()).tolist())
            items.append(replace(row, label=classes[int(v.argmax())], distribution=shares, votes=counts))
    if missing := [c for c in classes if c not in {item.label for item in items}]:
        raise ValueError(
            f"{source} has no image whose most votes go to {missing[0]!r}, so no classifier can learn it: complete the "
            "file."
        )
    notes = list(notes)
    if tied.any():
        fate = ": the first in class order is their label." if ties else " and are left out."
        notes.append(f"{tied.sum()} of {len(rows)} images have no single winner{fate}")
    shares = "annotators' frequencies"
    if counted:
        voters = sorted({sum(item.votes) for item in items})
        shares = f"votes of {' to '.join(map(str, dict.fromkeys((voters[0], voters[-1]))))} annotators"
    notes.append(f"training aims at the {shares}, and they score.")
    fields = {"name": name, "notes": tuple(notes), "fractions": EIGHTY, "shares": shares}
    return Listing(source.parent, once(items, source), tuple(classes), **fields)


def first_line(path: Path) -> str:
    """Of a text file, "" where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.readline(4096).decode("utf-8-sig", "replace")


# ---------------------------------------------------------------- Emotion6


def is_emotion6(root: Path) -> bool:
    return (root / "Emotion6.json").is_file() or "[prob." in first_line(root / "ground_truth.txt")


def list_emotion6(root: Path) -> Listing:
    """Emotion6: ``ground_truth.txt``, separated by tabs, or the variant ``Emotion6.json``; pictures below ``images``.

    The label is the most probable emotion, neutral among them. The folder is none: it says what was searched for.
    """
    path, notes = root / "ground_truth.txt", []
    if "[prob." in first_line(path):
        columns, rows = _read(path, EKMAN_WORDS, EKMAN, r"\[?\s*prob\.?\s*([a-z]+)\s*]?", "\t")
    else:
        path = root / "Emotion6.json"
        columns, rows, notes = _emotion6_json(root, path)
    for row in rows:
        if abs((total := sum(row.votes)) - 1) > 0.02:  # they are rounded to some digits
            raise ValueError(f"{row.where} has probabilities that sum to {total:.3g} and not to 1: correct it.")
    listing = _listing(path, rows, [c for c in EKMAN if c in columns], notes, "Emotion6")
    folder = {item.id: EKMAN_WORDS.get(PurePosixPath(item.id).parent.name.lower()) for item in listing.items}
    other = sum(folder[item.id] not in (None, item.label) for item in listing.items)
    note = f"the label is the most probable emotion, which for {other} of {len(rows)} images is not their folder's."
    return replace(listing, notes=(note, *listing.notes))


def _emotion6_json(root: Path, path: Path) -> tuple[tuple[str, ...], list[Item], list[str]]:
    table, images = read_json(path), subfolder(root, "images", "image")
    entries = table.values() if isinstance(table, dict) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("emotions"), dict) for entry in entries):
        raise ValueError(f"{path} is not like {{image: {{'emotions': {{emotion: probability}}}}}}: fetch it again.")
    rows, other, classes = [], 0, ()
    for name, entry in table.items():
        where, file = f"entry {name!r} of {path}", name.replace("\\", "/")
        votes = {emotion(word, EKMAN_WORDS, f"an emotion of {where}"): v for word, v in entry["emotions"].items()}
        classes = classes or tuple(c for c in EKMAN if c in votes)
        if odd := set(votes) ^ set(classes):
            raise ValueError(f"{where} and the first one do not have the same emotions ({min(odd)!r}): complete them.")
        place = root / file if (root / file).is_file() else images / file
        rows.append(_voted(file, place, [votes[c] for c in classes], where))
        dominant = EKMAN_WORDS.get(str(entry.get("dominant_emotion")).lower())
        other += dominant is not None and float(votes.get(dominant, 0)) < max(rows[-1].votes)
    notes = [f"in {other} entries dominant_emotion is not the most probable one: it was not used."] if other else []
    return classes, rows, notes


# ---------------------------------------------------------------- Abstract


def is_abstract(root: Path) -> bool:
    return (root / "ABSTRACT_groundTruth.csv").is_file()


def list_abstract(root: Path) -> Listing:
    """Abstract: votes per image, names in single quotes. Images without one winner are left out: 228 of 280 stay."""
    path = root / "ABSTRACT_groundTruth.csv"
    _, rows = _read(path, MIKELS_WORDS, MIKELS, "(.*)", ",")
    return _listing(path, rows, MIKELS, (), "Abstract", ties=False)


# ---------------------------------------------------------------- Flickr_LDL, Twitter_LDL


def is_ldl(root: Path) -> bool:
    words = first_line(root / "ground_truth.txt").lower().split()
    return len(words) > 8 and sum(w in MIKELS_WORDS for w in words) == 8


def _read_ldl(root: Path) -> tuple[tuple[str, ...], list[Item]]:
    return _read(root / "ground_truth.txt", MIKELS_WORDS, MIKELS, f"({'|'.join(MIKELS_WORDS)})", None, spare=1)


def annotators(root: Path) -> int:
    """How many voted, which tells the two apart: by the names of folder and .mat, else by the first image's votes."""
    names = " ".join((root.name, *(p.name for p in root.glob("*.mat")))).lower()
    known = [n for title, n in ANNOTATORS.items() if title.partition("_")[0].lower() in names]
    if len(known) == 1:
        return known[0]
    _, rows = _read_ldl(root)
    return round(sum(rows[0].votes)) if rows else 0


def list_ldl(root: Path, title: str) -> Listing:
    """``ground_truth.txt`` with the votes, ``images``, and perhaps ``*_config.mat``.

    The .mat gives the division into train and test, provided that its votes are those of the text.

    Raises:
        ValueError: a row that is none; votes on which the two files disagree; a division that is none.
    """
    path = root / "ground_truth.txt"
    columns, rows = _read_ldl(root)
    wider = sum(len(cells) > len(MIKELS) + 1 for _, cells in read_rows(path, spare=1)[1:])
    notes = [f"{wider} rows of {path.name} have a column without an emotion: dropped."] if wider else []
    odd = [row for row in rows if sum(row.votes) != ANNOTATORS[title]]
    if odd:
        first = f"{odd[0].id}: {sum(odd[0].votes):g}"
        notes.append(f"{len(odd)} of {len(rows)} images do not have {ANNOTATORS[title]} votes (first {first}).")
    files = sorted(root.glob("*_config.mat"))
    if len(files) > 1:
        raise ValueError(f"{root} has several divisions ({', '.join(f.name for f in files)}): keep one of the files.")
    if files:
        names = [PurePosixPath(row.id).name for row in rows]
        votes = np.array([row.votes for row in rows])[:, [MIKELS.index(c) for c in columns]]
        splits, note = splits_of_mat(files[0], path, columns, names, votes)
        notes.append(note)
        if splits:
            rows = [replace(row, split=splits[name]) for row, name in zip(rows, names, strict=True)]
    return _listing(path, rows, MIKELS, notes, title)
