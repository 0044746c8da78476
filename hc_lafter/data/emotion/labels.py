"""Published emotion sets with one label per image, in the layouts in which they are handed out.

EmoSet-118K (Yang et al., ICCV 2023), FI (You et al., AAAI 2016), ArtPhoto (Machajdik and Hanbury, ACM MM 2010), FER2013
(Goodfellow et al., ICONIP 2013) and RAF-DB (Li, Deng and Du, CVPR 2017). The last two number their emotions, each in
its own way.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from hc_lafter.data.decode import BadImage
from hc_lafter.data.emotion.names import EIGHTY, EKMAN, EKMAN_WORDS, MIKELS_WORDS, emotion, listed, renamed
from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.listing import (
    SPLIT_WORDS,
    Item,
    Listing,
    folders,
    is_image,
    read_json,
    read_rows,
    split_of,
    subfolder,
)
from hc_lafter.data.own.folder import list_folder
from hc_lafter.data.record import SPLITS
from hc_lafter.refusals import nearest

FER_CODES = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")  # 0 to 6 in the column emotion
RAF_CODES = ("surprise", "fear", "disgust", "joy", "sadness", "anger", "neutral")  # 1 to 7 in the list


# ---------------------------------------------------------------- EmoSet-118K


def is_emoset(root: Path) -> bool:
    return (root / "image").is_dir() and any((root / f"{split}.json").is_file() for split in SPLITS)


def list_emoset(root: Path) -> Listing:
    """EmoSet-118K: ``{train,val,test}.json`` of 3 elements (as handed out) or 4 (as its README says), ``info.json``."""
    order, notes = _emoset_order(root / "info.json")
    items: list[Item] = []
    lengths: dict[int, dict[str, None]] = defaultdict(dict)  # elements of a row -> files that have such rows
    for split in SPLITS:
        path = root / f"{split}.json"
        if split != "train" and not path.is_file():
            continue
        rows = read_json(path)
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{path} is not a list of rows: fetch it again, EmoSet's lists are lists of lists.")
        for number, row in enumerate(rows, 1):
            items.append(_emoset_item(root, f"row {number} of {path.name}", row, split, order))
            lengths[len(row)][path.name] = None
    if missing := set(order) - {item.label for item in items}:
        raise ValueError(
            f"{root} has no image of {min(missing)!r} in its split lists, but info.json names it: fetch both."
        )
    rows = " and ".join(f"{n} elements ({', '.join(names)})" for n, names in sorted(lengths.items()))
    notes = (*notes, f"the rows of the split lists have {rows}.")
    return listed(root, items, order, name="EmoSet-118K", notes=notes, fractions=(0.8, 0.05, 0.15))


def _emoset_item(root: Path, where: str, row: object, split: str, order: Sequence[str]) -> Item:
    if not isinstance(row, list) or len(row) not in (3, 4) or not all(isinstance(cell, str) for cell in row):
        raise ValueError(
            f"{where} in {root} is {json.dumps(row)[:80]}: EmoSet's rows have 3 elements (emotion, image, annotation) "
            "or 4 (emotion, image id, image, annotation), fetch the list again."
        )
    images = [cell.replace("\\", "/") for cell in row if is_image(cell)]  # by suffix: 3 elements or 4
    if len(images) != 1:
        raise ValueError(f"{where} in {root} names {len(images)} images instead of one ({row}): correct the row.")
    label = emotion(row[0], {name: name for name in order}, f"the emotion of {where} in {root}")
    if (folder := PurePosixPath(images[0]).parent.name) in order and folder != label:
        raise ValueError(f"{where} in {root} says {label!r}, but its image is {images[0]}: correct the row.")
    return Item(images[0], root / images[0], label, split, where)


def _emoset_order(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names in the order of info.json, in its new form or its old one; and a note where there is none."""
    if not path.is_file():
        return MIKELS, ("info.json is missing: classes are in the order that the published one has.",)
    info = read_json(path)
    table = info.get("emotion", info) if isinstance(info, dict) else {}
    index = table.get("label2idx") if isinstance(table, dict) else None
    by_number = {str(number): name for name, number in index.items()} if isinstance(index, dict) else {}
    numbers = [str(i) for i in range(len(index or ()))]
    if not numbers or sorted(by_number) != sorted(numbers):
        raise ValueError(f"{path} has no label2idx that numbers emotions from 0: fetch it again, or delete it.")
    for number, name in (table.get("idx2label") or {}).items():
        if by_number.get(str(number)) != name:
            raise ValueError(
                f"{path} contradicts itself: idx2label says that {number} is {name!r}, label2idx says "
                f"{by_number.get(str(number))!r}: fetch it again."
            )
    return tuple(emotion(by_number[i], MIKELS_WORDS, f"a label of {path}") for i in numbers), ()


# ---------------------------------------------------------------- FI


def is_fi(root: Path) -> bool:
    return any(_emotions_in(f) for f in (root, *_split_folders(root))) or bool(_fi_lists(root))


def list_fi(root: Path) -> Listing:
    """FI: class folders, with split folders or without, or lists ``name,emotion`` (a third column is not used).

    Pictures that stand in for lost ones are left out once they have been read; splits that are not given are 80/5/15,
    as in Yang, She and Sun (IJCAI 2017), who published no list.
    """
    fields = {"name": "FI", "fractions": (0.8, 0.05, 0.15), "placeholders": True}
    lists = _fi_lists(root)
    if _split_folders(root) or not lists:
        return renamed(list_folder(root), MIKELS_WORDS, MIKELS, **fields)
    find = _finder(root)
    rows = [(split, where, *cells[:2]) for split, path in lists for where, cells in _fi_rows(path)]
    found = [(split, where, word, find(name, word, where)) for split, where, name, word in rows]
    words, notes = MIKELS_WORDS, ()
    if any(word.isdecimal() for _, _, word, _ in found):
        words, notes = _meaning_of_numbers((word, path, where) for _, where, word, path in found)
    items = [
        Item(path.relative_to(root).as_posix(), path, emotion(word, words, f"the emotion of {where}"), split, where)
        for split, where, word, path in found
    ]
    return listed(root, items, MIKELS, notes=notes, **fields)


def _emotions_in(folder: Path) -> bool:
    return any(f.name.lower() in MIKELS_WORDS for f in folders(folder))


def _split_folders(root: Path) -> list[Path]:
    return [f for f in folders(root) if split_of(f.name) and _emotions_in(f)]


def _fi_lists(root: Path) -> list[tuple[str | None, Path]]:
    """(split or None, path) of the lists: those whose names hold a split's, else the only one."""
    places = [root, *(f for f in folders(root) if f.name.lower() in ("annotations", "annotation", "labels"))]
    by_split = defaultdict(list)
    for path in sorted(p for place in places for suffix in ("csv", "txt", "tsv") for p in place.glob(f"*.{suffix}")):
        if any(map(_names_emotion, map(_cells, _head(path)))):
            words = re.split("[^a-z]+", path.stem.lower())
            by_split[next((SPLIT_WORDS[w] for w in words if w in SPLIT_WORDS), None)].append(path)
    if len(by_split) > 1:
        by_split.pop(None, None)
    for split, paths in by_split.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise ValueError(f"{root} has several lists for {split or 'its images'} ({names}): keep one.")
    return [(split, paths[0]) for split, paths in by_split.items()]


def _head(path: Path) -> list[str]:
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8-sig", "replace").splitlines()[:2]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split("[,;\t]", line)] if re.search("[,;\t]", line) else line.split()


def _names_emotion(cells: Sequence[str]) -> bool:
    return len(cells) in (2, 3) and (cells[1].lower() in MIKELS_WORDS or cells[1].isdecimal())


def _fi_rows(path: Path) -> list[tuple[str, list[str]]]:
    rows = read_rows(path, next((s for s in ",;\t" if s in _head(path)[0]), None))
    if not _names_emotion(rows[0][1]) and not is_image(rows[0][1][0]):
        del rows[0]  # the header
    return [(where, [name if is_image(name) else f"{name}.jpg", *rest]) for where, (name, *rest) in rows]


def _finder(root: Path) -> Callable[[str, str, str], Path]:
    """What finds the file of a row: by its path, else by its name anywhere below, its emotion's folder first."""
    below = defaultdict(list)
    for path in root.rglob("*.*"):
        below[path.name].append(path)

    def find(name: str, word: str, where: str) -> Path:
        name = name.replace("\\", "/")
        for place in (root, *(root / known for known in ("image", "images", "emotion_dataset"))):
            if (place / name).is_file():
                return place / name
        found = below[PurePosixPath(name).name]
        found = [p for p in found if p.parent.name.lower() == word.lower()] or found
        if len(found) > 1:
            raise ValueError(f"{where} names {name}, which lies below {root} {len(found)} times: write its whole path.")
        return found[0] if found else subfolder(root, "images", "image") / name

    return find


def _meaning_of_numbers(rows: Iterable[tuple[str, Path, str]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the numbers of a list mean, where the images' folders or file names say it without exception."""
    words: dict[str, str] = {}
    for word, path, where in rows:
        hints = (path.parent.name.lower(), path.stem.split("_")[0].lower())
        hint = next((MIKELS_WORDS[w] for w in hints if w in MIKELS_WORDS), None)
        if hint is None or words.setdefault(word, hint) != hint or list(words.values()).count(hint) > 1:
            raise ValueError(
                f"{where} gives {path.name} the emotion {word}, and numbers name nothing (FI is numbered by the "
                "alphabet and as Amusement, Contentment, Awe, Excitement, Fear, Sadness, Disgust, Anger): write names "
                "in it."
            )
    table = ", ".join(f"{number} {name}" for number, name in sorted(words.items()))
    return words, (f"the list's numbers are named by the images' folders or file names: {table}.",)


# ---------------------------------------------------------------- ArtPhoto


def _art_word(name: str) -> str:
    return name.partition("_")[0].lower()


def is_artphoto(root: Path) -> bool:
    files = root.iterdir() if root.is_dir() else ()
    return any(is_image(p.name) and "_" in p.name and _art_word(p.name) in MIKELS_WORDS for p in files)


def list_artphoto(root: Path) -> Listing:
    """ArtPhoto: ``<emotion>_NNNN.jpg`` in one folder, where contentment is called content and sadness sad."""
    items, ignored = [], []
    for p in sorted(p for p in root.iterdir() if not p.name.startswith(".")):
        if is_image(p.name):
            label = emotion(_art_word(p.name), MIKELS_WORDS, f"the start of {p}")
            items.append(Item(p.name, p, label, None))
        else:
            ignored.append(p.name)
    return listed(root, items, MIKELS, name="ArtPhoto", ignored=tuple(ignored), fractions=EIGHTY)


# ---------------------------------------------------------------- FER2013


@dataclass(frozen=True)
class PixelRow(Item):
    """A row of FER2013's csv: ``length`` bytes from ``start``, with 48 x 48 grey values in the cell ``column``."""

    start: int = 0
    length: int = 0
    column: int = 1

    @property
    def key(self) -> str:
        return f"{self.path}:{self.start}"

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return file.read(self.length)
        except OSError as error:
            found = f"cannot be read ({error.strerror or error})"
            raise BadImage(str(self.path), found, "check that it is still there") from error

    def decode(self, content: bytes) -> Image.Image:
        name = f"{self.where} of {self.path}"
        try:
            values = np.array(_row(content)[self.column].split(), dtype=np.int64)
        except ValueError:
            raise BadImage(name, "has pixels that are not numbers", "fetch it again") from None
        if len(values) != 48 * 48 or values.min() < 0 or values.max() > 255:
            found = f"has {len(values)} pixels instead of 48 x 48 from 0 to 255"
            raise BadImage(name, found, "fetch the csv again or remove the row")
        return Image.fromarray(values.reshape(48, 48).astype(np.uint8)).convert("RGB")


def _row(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8-sig", "replace").replace("\r", "").strip("\n")]), [])
    except csv.Error:  # a cell beyond all measure: no row of this csv
        return [""]


def _header(line: bytes) -> list[str]:
    return [cell.strip().lower() for cell in _row(line)]


def fer_table(path: Path) -> Path | None:
    """The csv with pixels that a path is or holds; the one with a column Usage before one without."""
    found = {}
    for file in [path] if path.is_file() else sorted(path.glob("*.csv")):
        with file.open("rb") as opened:
            header = _header(opened.readline(4096))
        if {"emotion", "pixels"} <= set(header):
            found.setdefault("usage" in header, file)
    return found.get(True, found.get(False))


def is_fer2013(root: Path) -> bool:
    inside = [f for s in folders(root) if split_of(s.name) for f in folders(s)]
    return fer_table(root) is not None or any(f.name.lower() in EKMAN_WORDS for f in inside)


def list_fer2013(root: Path) -> Listing:
    """FER2013: the csv ``emotion,pixels,Usage``, columns in any order, or ``{train,test}/<class>`` folders."""
    fields = {"name": "FER2013", "fractions": (0.8, 0.1, 0.1)}
    path = fer_table(root)
    if path is None:
        return renamed(list_folder(root), EKMAN_WORDS, EKMAN, **fields)
    uses = {"training": "train", "publictest": "val", "privatetest": "test"}
    items = []
    with path.open("rb") as file:
        start = len(line := file.readline())
        header = _header(line)
        for number, line in enumerate(file, 2):
            where, begin, start, cells = f"row {number}", start, start + len(line), _row(line)
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{where} of {path} has {len(cells)} columns, its header {len(header)}: fetch it again."
                )
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            code, use = row["emotion"], row.get("usage")
            if not code.isdecimal() or int(code) >= len(FER_CODES):
                raise ValueError(f"{where}, column 'emotion' of {path} is {code!r}, none of 0 to 6: correct it.")
            if use is not None and use.lower() not in uses:
                raise ValueError(
                    f"{where}, column 'Usage' of {path} is {use!r}{nearest(use.lower(), uses)}: write Training, "
                    "PublicTest or PrivateTest."
                )
            split = None if use is None else uses[use.lower()]
            place = {"start": begin, "length": len(line), "column": header.index("pixels")}
            items.append(PixelRow(f"{path.name}/{number:05d}", path, FER_CODES[int(code)], split, where, **place))
    return listed(path, items, EKMAN, **fields)


# ---------------------------------------------------------------- RAF-DB

_RAF_LISTS = ("EmoLabel/list_patition_label.txt", "list_patition_label.txt")  # patition: as it is published
_RAF_NUMBERS = {str(code): name for code, name in enumerate(RAF_CODES, 1)}


def is_rafdb(root: Path) -> bool:
    """Its list, or folders 1 to 7, in split folders or without."""
    splits = (f for f in folders(root) if split_of(f.name))
    return root.name.lower() != "compound" and (has_raf_list(root) or any(map(_numbered, (root, *splits))))


def has_raf_list(root: Path) -> bool:
    return any((root / name).is_file() for name in _RAF_LISTS)


def _numbered(folder: Path) -> bool:
    return {f.name for f in folders(folder)} == set(_RAF_NUMBERS)


def list_rafdb(root: Path) -> Listing:
    """RAF-DB, basic: ``train_00001.jpg 5``, numbered from 1, of the aligned faces ``train_00001_aligned.jpg``; or, as
    it is passed on, ``{train,test}/{1..7}`` folders of the same numbers."""
    fields = {"name": "RAF-DB", "fractions": EIGHTY}
    path = next((root / name for name in _RAF_LISTS if (root / name).is_file()), None)
    if path is None:
        note = f"the folders are RAF-DB's numbers: {', '.join(map(' '.join, _RAF_NUMBERS.items()))}."
        return renamed(list_folder(root), _RAF_NUMBERS, EKMAN, notes=(note,), **fields)
    images = subfolder(root, "Image/aligned", "aligned")
    items = []
    for where, (name, code) in read_rows(path, width=2):
        split = name.partition("_")[0]
        if split not in ("train", "test"):
            raise ValueError(f"{where} is {name!r} and not like 'train_00001.jpg': fetch the list again.")
        if code not in _RAF_NUMBERS:
            raise ValueError(
                f"{where} has the emotion {code!r}, none of 1 to 7: correct it, or give the folder of the basic set "
                "(the compound one has eleven)."
            )
        face = images / f"{Path(name).stem}_aligned{Path(name).suffix}"
        items.append(Item(face.relative_to(root).as_posix(), face, _RAF_NUMBERS[code], split, where))
    return listed(root, items, EKMAN, **fields)
