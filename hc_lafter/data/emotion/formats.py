"""Published emotion sets with one label per image, in the layouts in which they are handed out: a listing each.

EmoSet-118K (Yang et al., ICCV 2023), FI (You et al., AAAI 2016) and ArtPhoto (Machajdik and Hanbury, ACM MM 2010); and
what all such listings share. Class order goes by name, one order per wheel: the releases and their users number the
same emotions in different ways, and a number alone names nothing.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.own.folder import EXTENSIONS, SPLIT_WORDS, Item, Listing, list_folder
from hc_lafter.refusals import nearest

# Ekman's six and neutral in the order and the words of Emotion6's header, which are those of descriptions/ekman.json.
EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
MIKELS_WORDS = {**{name: name for name in MIKELS}, "content": "contentment", "sad": "sadness"}
EKMAN_WORDS = {
    **{name: name for name in EKMAN},
    **{"angry": "anger", "happy": "joy", "happiness": "joy", "sad": "sadness"},
}
EIGHTY = (0.7, 0.1, 0.2)  # the usual 80/20, with a piece of train to choose by


# ---------------------------------------------------------------- what the formats share


def emotion(word: str, words: Mapping[str, str], where: str) -> str:
    """The canonical name that a word of a data set means, case and quotes aside.

    Raises:
        ValueError: it is none of them; the sentence starts with ``where``.
    """
    name = words.get(word.strip().strip("'\"").lower())
    if name is None:
        raise ValueError(f"{where} is {word!r}, no emotion of this set{nearest(word.lower(), words)}: correct it.")
    return name


def read_text(path: Path) -> str:
    """A small text file of a data set.

    Raises:
        ValueError: it is missing, empty, not readable or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: fetch it, it belongs to the data set.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): fetch it again, or save it as UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions and its disk.") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: fetch it again.")
    return text


def read_json(path: Path) -> object:
    """Raises ValueError as `read_text`, or where the file is no JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it again.") from None


def once(items: Iterable[Item], source: Path) -> tuple[Item, ...]:
    """The items by id.

    Raises:
        ValueError: two name the same file.
    """
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(os.path.normcase(item.key), item)
        if other is not item:
            what = f"in the splits {other.split} and {item.split}, " if other.split != item.split else ""
            raise ValueError(
                f"{source} names {item.id} twice, {what}{other.where} ({other.label}) and {item.where} ({item.label}): "
                "remove one of the two rows."
            )
    return tuple(sorted(first.values(), key=lambda item: item.id))


def subfolder(root: Path, names: Sequence[str]) -> Path:
    """The first of these folders that is there, else the first."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def present(order: Sequence[str], items: Iterable[Item]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes that occur, in the order of the wheel, and a note on those that do not."""
    seen = {item.label for item in items}
    gone = [name for name in order if name not in seen]
    notes = (f"no image is labelled {', '.join(gone)}: {len(seen)} of {len(order)} emotions.",) if gone else ()
    return tuple(name for name in order if name in seen), notes


def renamed(listing: Listing, words: Mapping[str, str], order: Sequence[str], **fields: object) -> Listing:
    """A listing of class folders with canonical class names in the wheel's order."""
    names = {c: emotion(c, words, f"a class folder of {listing.source}") for c in listing.classes}
    both = [n for n, count in Counter(names.values()).items() if count > 1]
    if both:
        pair = " and ".join(c for c in listing.classes if names[c] == both[0])
        raise ValueError(f"{listing.source} has the class folders {pair}, which are one emotion: merge them.")
    items = tuple(replace(item, label=names[item.label]) for item in listing.items)
    classes, notes = present(order, items)
    return replace(listing, items=items, classes=classes, notes=notes, **fields)


# ---------------------------------------------------------------- EmoSet-118K


def is_emoset(root: Path) -> bool:
    lists = ("train.json", "val.json", "test.json")
    return (root / "image").is_dir() and any((root / name).is_file() for name in lists)


def list_emoset(root: Path) -> Listing:
    """EmoSet-118K: ``{train,val,test}.json`` of 3 elements (as handed out) or 4 (as its README says), ``info.json``."""
    if not (root / "train.json").is_file():
        raise ValueError(f"{root} has no train.json: fetch EmoSet's split lists, they lie beside its folder image.")
    order, notes = _emoset_order(root / "info.json")
    items: list[Item] = []
    lengths: dict[int, list[str]] = {}
    for split in ("train", "val", "test"):
        path = root / f"{split}.json"
        if not path.is_file():
            continue
        rows = read_json(path)
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{path} is no list of rows: fetch it again, EmoSet's lists are lists of lists.")
        for number, row in enumerate(rows, 1):
            where = f"row {number} of {path.name}"
            items.append(_emoset_item(root, path, where, row, split, order))
            lengths.setdefault(len(row), []).append(path.name)
    told = " and ".join(f"{n} elements ({', '.join(dict.fromkeys(names))})" for n, names in sorted(lengths.items()))
    gone = [name for name in order if name not in {item.label for item in items}]
    if gone:
        raise ValueError(f"{root} has no image of {gone[0]!r} in its split lists, but info.json names it: fetch both.")
    notes = (*notes, f"the rows of the split lists have {told}.")
    return Listing(root, once(items, root), order, name="EmoSet-118K", notes=notes, fractions=(0.8, 0.05, 0.15))


def _emoset_item(root: Path, path: Path, where: str, row: object, split: str, order: Sequence[str]) -> Item:
    if not isinstance(row, list) or len(row) not in (3, 4) or not all(isinstance(cell, str) for cell in row):
        raise ValueError(
            f"{where} in {path.parent} is {json.dumps(row)[:80]}: EmoSet's rows have 3 elements (emotion, image, "
            "annotation) or 4 (emotion, image id, image, annotation), fetch the list again."
        )
    # 3 or 4 elements: told by suffix and not by place.
    images = [cell.replace("\\", "/") for cell in row if PurePosixPath(cell).suffix.lower() in EXTENSIONS]
    if len(images) != 1:
        raise ValueError(f"{where} in {path.parent} names {len(images)} images instead of one ({row}): mend the row.")
    label = emotion(row[0], {name: name for name in order}, f"the emotion of {where} in {path.parent}")
    folder = PurePosixPath(images[0]).parent.name
    if folder in order and folder != label:
        raise ValueError(f"{where} in {path.parent} says {label!r}, but its image is {images[0]}: correct the row.")
    return Item(images[0], root / images[0], label, split, where)


def _emoset_order(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names in the order of info.json, new form or old."""
    if not path.is_file():
        return MIKELS, ("info.json is missing: classes are in the order that the published one has.",)
    info = read_json(path)
    table = info.get("emotion", info) if isinstance(info, dict) else {}
    index = table.get("label2idx") if isinstance(table, dict) else None
    if not isinstance(index, dict) or sorted(map(str, index.values())) != sorted(map(str, range(len(index)))):
        raise ValueError(f"{path} has no label2idx that numbers emotions from 0: fetch it again, or delete it.")
    order = tuple(
        emotion(name, MIKELS_WORDS, f"a label of {path}") for name in sorted(index, key=lambda n: int(index[n]))
    )
    back = table.get("idx2label")
    for number, name in back.items() if isinstance(back, dict) else ():
        if not str(number).isdecimal() or int(number) >= len(order) or order[int(number)] != name:
            raise ValueError(
                f"{path} contradicts itself: idx2label says that {number} is {name!r}, label2idx says "
                f"{dict(enumerate(order)).get(int(number) if str(number).isdecimal() else -1)!r}: fetch it again."
            )
    return order, ()


# ---------------------------------------------------------------- FI


def is_fi(root: Path) -> bool:
    return any(_emotions_in(f) for f in (root, *_split_folders(root))) or bool(_fi_tables(root))


def list_fi(root: Path) -> Listing:
    """FI: class folders, with split folders or without, or lists ``name,emotion`` (a third column is not used).

    Pictures that stand in for lost ones are left out once they have been read; splits that are not given are 80/5/15,
    as in Yang, She and Sun (IJCAI 2017), who published no list.
    """
    fields = {"name": "FI", "fractions": (0.8, 0.05, 0.15), "placeholders": True}
    tables = _fi_tables(root)
    if _split_folders(root) or not tables:
        return renamed(list_folder(root), MIKELS_WORDS, MIKELS, **fields)
    find = _finder(root)
    rows = [row for split, path in tables for row in _fi_rows(path, split)]
    named = [(name, word, split, where, find(name, word, where)) for name, word, split, where in rows]
    words, notes = dict(MIKELS_WORDS), ()
    if any(word.isdecimal() for _, word, *_ in named):
        words, notes = _numbers((name, word, path, where) for name, word, _, where, path in named)
    items = [
        Item(path.relative_to(root).as_posix(), path, emotion(word, words, f"the emotion of {where}"), split, where)
        for _, word, split, where, path in named
    ]
    classes, gone = present(MIKELS, items)
    return Listing(root, once(items, root), classes, notes=(*notes, *gone), **fields)


def _emotions_in(folder: Path) -> bool:
    return any(f.name.lower() in MIKELS_WORDS for f in folders(folder))


def _split_folders(root: Path) -> list[Path]:
    return [f for f in folders(root) if f.name.lower() in SPLIT_WORDS and _emotions_in(f)]


def _fi_tables(root: Path) -> list[tuple[str | None, Path]]:
    """(split or None, path) of the lists: those whose names hold a split's, else the only one."""
    places = [root, *(f for f in folders(root) if f.name.lower() in ("annotations", "annotation", "labels"))]
    files = [
        f for p in places if p.is_dir() for f in sorted(p.iterdir()) if f.suffix.lower() in (".csv", ".txt", ".tsv")
    ]
    files = [f for f in files if f.is_file() and _is_fi_table(f)]
    split = {
        f: next((SPLIT_WORDS[w] for w in re.split("[^a-z]+", f.stem.lower()) if w in SPLIT_WORDS), None) for f in files
    }
    named = [(s, f) for f, s in split.items() if s]
    twice = [s for s, n in Counter(s for s, _ in named).items() if n > 1]
    if twice or (not named and len(files) > 1):
        names = ", ".join(f.name for f in files if not twice or split[f] == twice[0])
        raise ValueError(f"{root} has several lists for {twice[0] if twice else 'its images'} ({names}): keep one.")
    return named or [(None, f) for f in files]


def _cells(line: str) -> list[str]:
    for separator in (",", ";", "\t"):
        if separator in line:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    return line.split()


def _is_fi_table(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8-sig", "replace").splitlines()[:2]
    rows = [_cells(line) for line in head if line.strip()]
    return any(len(row) in (2, 3) and (row[1].lower() in MIKELS_WORDS or row[1].isdecimal()) for row in rows)


def _fi_rows(path: Path, split: str | None) -> list[tuple[str, str, str | None, str]]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = _cells(line)
        is_header = number == 1 and len(cells) > 1 and not cells[1].isdecimal() and cells[1].lower() not in MIKELS_WORDS
        if not cells or (is_header and Path(cells[0]).suffix.lower() not in EXTENSIONS):
            continue
        where = f"row {number} of {path}"
        if len(cells) not in (2, 3) or not cells[0] or not cells[1]:
            raise ValueError(f"{where} has {len(cells)} columns ({line[:60]!r}): write image name and emotion.")
        name = cells[0].replace("\\", "/")
        rows.append((name if Path(name).suffix.lower() in EXTENSIONS else f"{name}.jpg", cells[1], split, where))
    return rows


def _finder(root: Path) -> Callable[[str, str, str], Path]:
    """What finds the file of a row: by its path, else by its name anywhere below, its emotion's folder first."""
    places = [root, *(root / name for name in ("image", "images", "emotion_dataset"))]
    below: dict[str, list[Path]] = {}
    for here, _, files in os.walk(root):
        for name in files:
            below.setdefault(name, []).append(Path(here, name))

    def find(name: str, word: str, where: str) -> Path:
        for place in places:
            if (place / name).is_file():
                return place / name
        found = below.get(PurePosixPath(name).name, [])
        mine = [p for p in found if p.parent.name.lower() == word.lower()] or found
        if len(mine) > 1:
            raise ValueError(f"{where} names {name}, which lies below {root} {len(mine)} times: write its whole path.")
        return mine[0] if mine else subfolder(root, ("images", "image")) / name

    return find


def _numbers(rows: Iterable[tuple[str, str, Path, str]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the numbers of a list mean, where the images' folders or file names say it without exception."""
    words: dict[str, str] = {}
    for name, word, path, where in rows:
        hint = next((w.lower() for w in (path.parent.name, path.stem.split("_")[0]) if w.lower() in MIKELS_WORDS), None)
        if hint is None or words.setdefault(word, MIKELS_WORDS[hint]) != MIKELS_WORDS[hint]:
            raise ValueError(
                f"{where} gives {name} the emotion {word}, and numbers name nothing (FI is numbered by the alphabet "
                "and as Amusement, Contentment, Awe, Excitement, Fear, Sadness, Disgust, Anger): write names there."
            )
    if len(set(words.values())) < len(words):
        raise ValueError(f"the numbers of FI's list do not stand for one emotion each ({words}): write names in it.")
    table = ", ".join(f"{number} {name}" for number, name in sorted(words.items()))
    return words, (f"the list's numbers are named by the images' folders or file names: {table}.",)


# ---------------------------------------------------------------- ArtPhoto

_ART = re.compile(r"([a-z]+)_", re.IGNORECASE)


def is_artphoto(root: Path) -> bool:
    names = (p.name for p in root.iterdir()) if root.is_dir() else ()
    return any(
        (m := _ART.match(n)) and m[1].lower() in MIKELS_WORDS and Path(n).suffix.lower() in EXTENSIONS for n in names
    )


def list_artphoto(root: Path) -> Listing:
    """ArtPhoto: ``<emotion>_NNNN.jpg`` in one folder, where contentment is called content and sadness sad."""
    items, ignored = [], []
    for path in sorted(p for p in root.iterdir() if not p.name.startswith(".")):
        if path.suffix.lower() not in EXTENSIONS:
            ignored.append(path.name)
            continue
        match = _ART.match(path.name)
        label = emotion(match[1] if match else path.stem, MIKELS_WORDS, f"the start of {path}")
        items.append(Item(path.name, path, label, None))
    classes, notes = present(MIKELS, items)
    return Listing(root, tuple(items), classes, tuple(ignored), name="ArtPhoto", notes=notes, fractions=EIGHTY)
