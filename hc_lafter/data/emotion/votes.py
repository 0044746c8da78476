"""Published emotion sets that keep what their annotators said: a listing with one distribution per image.

Emotion6 (Peng et al., CVPR 2015) and Abstract (Machajdik and Hanbury, ACM MM 2010), and what `emotion.ldl` shares with
them. C emotions; columns go by the name in the header.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from hc_lafter.data.emotion.formats import (
    EIGHTY,
    EKMAN,
    EKMAN_WORDS,
    MIKELS_WORDS,
    emotion,
    once,
    read_json,
    read_text,
    subfolder,
)
from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.own.folder import Item, Listing


@dataclass(frozen=True)
class VoteRow:
    """``votes``: [C] counts or probabilities, by the data set's classes; ``where``: what errors call the row."""

    name: str
    path: Path
    votes: Sequence[float]
    where: str
    split: str | None = None


def vote_listing(
    source: Path, rows: Iterable[VoteRow], classes: Sequence[str], *, notes: Iterable[str], name: str, ties: bool = True
) -> Listing:
    """Rows as items: the distribution is the votes' shares, the label the emotion with the most, the first of equals.

    The counts stay beside the shares where the release has them: numbers that are not whole, or all sum to one, are
    frequencies.

    Args:
        ties: whether images without one winner stay.

    Raises:
        ValueError: an emotion that wins no image; an image that is named twice.
    """
    rows = list(rows)
    items, equal, total, notes = [], 0, len(rows), list(notes)
    whole = all(float(vote).is_integer() for row in rows for vote in row.votes)
    counted = whole and any(sum(row.votes) > 1 for row in rows)
    for row in rows:
        votes = np.asarray(row.votes, dtype=np.float64)
        tied = int((votes == votes.max()).sum()) > 1
        equal += tied
        if ties or not tied:
            label, shares = classes[int(votes.argmax())], tuple((votes / votes.sum()).tolist())
            counts = tuple(map(int, row.votes)) if counted else None
            items.append(Item(row.name, row.path, label, row.split, row.where, shares, counts))
    if equal and ties:
        notes.append(f"{equal} of {total} images have no single winner: the first in class order is their label.")
    elif equal:
        notes.append(f"{equal} of {total} images have no single winner and are left out.")
    for c in classes:
        if c not in {item.label for item in items}:
            raise ValueError(
                f"{source} has no image whose most votes go to {c!r}, so no classifier can learn it: complete the file."
            )
    shares = "annotators' frequencies"
    if counted:
        voters = sorted({sum(item.votes) for item in items})
        shares = f"votes of {' to '.join(map(str, dict.fromkeys((voters[0], voters[-1]))))} annotators"
    notes.append(f"training aims at the {shares}, and they score.")
    how = {"name": name, "notes": tuple(notes), "fractions": EIGHTY, "shares": shares}
    return Listing(source.parent, once(items, source), tuple(classes), **how)


def numbers_of(cells: Sequence[str], where: str) -> list[float]:
    """[C] votes, counts or probabilities.

    Raises:
        ValueError: one is no number, not finite or negative, or there is none at all.
    """
    try:
        votes = [float(cell) for cell in cells]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds a vote that is no number ({error}): correct it, or remove the row.") from None
    if not all(0 <= v < np.inf for v in votes) or not sum(votes):
        raise ValueError(f"{where} holds {votes}, which are no votes: correct them, or remove the row.")
    return votes


# ---------------------------------------------------------------- Emotion6

_PROBABILITY = re.compile(r"\[?\s*prob\.?\s*([a-z]+)\s*]?", re.IGNORECASE)


def is_emotion6(root: Path) -> bool:
    return (root / "Emotion6.json").is_file() or "[prob." in first_line(root / "ground_truth.txt")


def first_line(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.readline(4096).decode("utf-8-sig", "replace")


def list_emotion6(root: Path) -> Listing:
    """Emotion6: ``ground_truth.txt``, separated by tabs, or the variant ``Emotion6.json``; pictures below ``images``.

    The label is the most probable emotion, neutral among them. The folder is none: it says what was searched for.
    """
    path = root / "ground_truth.txt"
    if "[prob." in first_line(path):
        classes, rows, notes = _emotion6_text(root, path)
    else:
        path = root / "Emotion6.json"
        classes, rows, notes = _emotion6_json(root, path)
    sums = [sum(row.votes) for row in rows]
    off = next((i for i, s in enumerate(sums) if abs(s - 1) > 0.02), None)  # they are rounded to some digits
    if off is not None:
        raise ValueError(f"{rows[off].where} has probabilities that sum to {sums[off]:.3g} and not to 1: correct it.")
    listing = vote_listing(path, rows, classes, notes=notes, name="Emotion6")
    folder = {item.id: EKMAN_WORDS.get(PurePosixPath(item.id).parent.name.lower()) for item in listing.items}
    other = sum(folder[item.id] not in (None, item.label) for item in listing.items)
    told = f"the label is the most probable emotion, which for {other} of {len(rows)} images is not their folder's."
    return replace(listing, notes=(told, *listing.notes))


def _emotion6_text(root: Path, path: Path) -> tuple[tuple[str, ...], list[VoteRow], list[str]]:
    header, *lines = read_text(path).splitlines()
    columns = header.split("\t")
    found = [(i, m[1]) for i, cell in enumerate(columns) if (m := _PROBABILITY.fullmatch(cell.strip()))]
    if len(found) < 2:
        raise ValueError(f"{path} is not separated by tabs ({header[:60]!r}): fetch it again.")
    at = {emotion(word, EKMAN_WORDS, f"a column of {path}"): i for i, word in found}
    classes, rows = tuple(c for c in EKMAN if c in at), []
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        cells, where = line.split("\t"), f"row {number} of {path}"
        if len(cells) != len(columns):
            raise ValueError(f"{where} has {len(cells)} columns, its header {len(columns)}: fetch it again.")
        name = cells[0].strip().replace("\\", "/")
        votes = numbers_of([cells[at[c]] for c in classes], where)
        rows.append(VoteRow(name, subfolder(root, ("images", "image")) / name, votes, where))
    return classes, rows, []


def _emotion6_json(root: Path, path: Path) -> tuple[tuple[str, ...], list[VoteRow], list[str]]:
    table = read_json(path)
    entries = table.values() if isinstance(table, dict) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("emotions"), dict) for entry in entries):
        raise ValueError(f"{path} is not like {{image: {{'emotions': {{emotion: probability}}}}}}: fetch it again.")
    rows, other, classes = [], 0, ()
    for name, entry in table.items():
        where = f"entry {name!r} of {path}"
        votes = {emotion(word, EKMAN_WORDS, f"an emotion of {where}"): v for word, v in entry["emotions"].items()}
        classes = classes or tuple(c for c in EKMAN if c in votes)
        if set(votes) != set(classes):
            odd = min(set(votes) ^ set(classes))
            raise ValueError(f"{where} and the first one do not have the same emotions ({odd!r}): complete them.")
        numbers = numbers_of([votes[c] for c in classes], where)
        dominant = EKMAN_WORDS.get(str(entry.get("dominant_emotion")).lower())
        other += dominant is not None and dict(zip(classes, numbers, strict=True)).get(dominant, 0) < max(numbers)
        name = name.replace("\\", "/")
        place = root / name if (root / name).is_file() else subfolder(root, ("images", "image")) / name
        rows.append(VoteRow(name, place, numbers, where))
    notes = [f"in {other} entries dominant_emotion is not the most probable one: it was not used."] if other else []
    return classes, rows, notes


# ---------------------------------------------------------------- Abstract

_TABLE = "ABSTRACT_groundTruth.csv"


def is_abstract(root: Path) -> bool:
    return (root / _TABLE).is_file()


def list_abstract(root: Path) -> Listing:
    """Abstract: votes per image, names in single quotes. Images without one winner are left out: 228 of 280 stay."""
    path = root / _TABLE
    heads, *lines = ([cell.strip().strip("'") for cell in row] for row in csv.reader(read_text(path).splitlines()))
    columns = [emotion(word, MIKELS_WORDS, f"a column of {path}") for word in heads[1:]]
    if sorted(columns) != sorted(MIKELS):
        raise ValueError(f"{path} has the columns {heads[1:]}, not Mikels' eight emotions once each: fetch it again.")
    order, rows = [columns.index(c) + 1 for c in MIKELS], []
    for number, cells in enumerate(lines, 2):
        where = f"row {number} of {path}"
        if not any(cells):
            continue
        if len(cells) != len(heads):
            raise ValueError(f"{where} has {len(cells)} columns, its header {len(heads)}: fetch it again.")
        rows.append(VoteRow(cells[0], root / cells[0], numbers_of([cells[i] for i in order], where), where))
    return vote_listing(path, rows, MIKELS, notes=(), name="Abstract", ties=False)
