"""What a reader of image files gives before it has opened one: items in a listing; and the text files it reads.

Shared by `own`, `emotion` and `masks`, whose readers know the layouts.
"""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from PIL import Image

from hc_lafter.data.decode import decode, read
from hc_lafter.refusals import nearest

EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"} | {
    *(".ppm", ".pgm", ".pbm", ".avif", ".jp2", ".ico", ".qoi"),
    *(".heic", ".heif"),  # Pillow does not read these two: listed, so that they are refused by name and not overlooked
}
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_HINTS = {
    **dict.fromkeys(("trainval", "tr", "trn", "训练", "训练集"), "train"),
    **dict.fromkeys(("development", "validate", "验证", "验证集"), "val"),
    **dict.fromkeys(("te", "tst", "eval", "evaluation", "holdout", "测试", "测试集"), "test"),
}


def split_of(name: str) -> str | None:
    """The split that a name means, as training_set, Test-Images and val2017 do; None where it means none."""
    word = re.sub("(data)?set|images?|imgs?|data|split", "", name.lower())
    return SPLIT_WORDS.get(re.sub("[^a-z]", "", word))


def split_hint(name: str) -> str | None:
    """The split of which a word in a name speaks, as in seg_train, trainval and PublicTest; None of none, or of two.

    A class may have such a word, too, so that it takes more than the name to go by it.
    """
    words = re.findall(r"[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name))
    found = {split for word in words if (split := split_of(word) or _HINTS.get(word.lower()))}
    exact = split_of(name) or ("train" if found == {"train", "val"} else None)
    return exact or (found.pop() if len(found) == 1 else None)


@dataclass(frozen=True)
class Item:
    """One listed image, before anything of it is read. ``split`` is None where the layout does not give it; ``where``
    says which row of a table named it; ``distribution`` goes by the listing's classes and sums to one, or is None;
    ``votes`` are the counts behind it, or None."""

    id: str
    path: Path
    label: str
    split: str | None
    where: str = ""
    distribution: tuple[float, ...] | None = None
    votes: tuple[int, ...] | None = None

    @property
    def key(self) -> str:
        """What a scan is remembered by."""
        return str(self.path)

    def read(self) -> bytes:
        """Raises `BadImage`, as `decode.read`."""
        return read(self.path)

    def decode(self, content: bytes) -> Image.Image:
        """Raises `BadImage`, as `decode.decode`."""
        return decode(content, name=str(self.path))


@dataclass(frozen=True)
class Listing:
    """What a folder or a table names: items by id, class names in label order (classes without images included), and
    the files that are not images.

    name: what figures call it, "" for the name of ``source``; notes: what the reader decided; fractions: of train, val
    and test where splits are missing; placeholders: whether pictures that stand in for lost ones are to be left out;
    shares: what the items' distributions are, in words, "" where they have none.
    """

    source: Path
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    name: str = ""
    notes: tuple[str, ...] = ()
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    placeholders: bool = False
    shares: str = ""

    @property
    def title(self) -> str:
        """``name``, or that of the folder or table."""
        return self.name or (self.source.stem if self.source.is_file() else self.source.name)


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def once(items: Iterable[Item], source: Path) -> tuple[Item, ...]:
    """The items by id.

    Raises:
        ValueError: two name the same file.
    """
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(os.path.normcase(item.key), item)
        if other is not item:
            splits = f"in the splits {other.split} and {item.split}, " if other.split != item.split else ""
            raise ValueError(
                f"{source} names {item.id} twice, {splits}{other.where} ({other.label}) and {item.where} "
                f"({item.label}): remove one of the two rows."
            )
    return tuple(sorted(first.values(), key=lambda item: item.id))


def one_spelling(source: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The class names in sorted order.

    Raises:
        ValueError: two of them differ only in case.
    """
    spelled: dict[str, str] = {}
    for name in sorted({nfc(n) for n in names}):
        other = spelled.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"{source} has the classes {other!r} and {name!r}, which differ only in case: rename one, or merge "
                "them."
            )
    return tuple(sorted(spelled.values()))


def nfc(name: str) -> str:
    """macOS may spell é with two characters, and labels are compared by name."""
    return unicodedata.normalize("NFC", name)


def existing(path: str | Path, of: str = "") -> Path:
    """The absolute path.

    Raises:
        ValueError: there is no such file or folder; a similar name beside it is offered. ``of`` ends the sentence.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise ValueError(f"{path} does not exist{near}: correct the path{of}.")
    return path


def prefix_of(spec: str | Path) -> str | None:
    """What stands before a spec's colon, as `SETS` spell it; a single letter there is a drive of Windows."""
    match = re.match(r"([A-Za-z][\w-]+):", str(spec))
    return match and match[1].lower().replace("-", "_")


def split_spec(spec: str | Path, sets: Iterable[str]) -> tuple[str | None, Path]:
    """Which of ``sets`` is named before the colon, or None, and the path, with ``~`` resolved.

    A path that exists is a path, colon or not.

    Raises:
        ValueError: the name is unknown, or there is no path behind it.
    """
    if not str(spec).strip():
        raise ValueError("data is empty: give 'world', a folder of images, a csv, or a published set as emoset:FOLDER.")
    name = prefix_of(spec)
    if name is None or (name not in sets and Path(spec).exists()):
        return None, Path(spec).expanduser()
    written, _, path = str(spec).partition(":")
    if name not in sets:
        raise ValueError(
            f"data={spec} starts with {written!r}, no data set that is known{nearest(name, sets)}: choose one of "
            f"{', '.join(sets)}, or give a path alone."
        )
    if not path.strip():
        raise ValueError(f"data={spec} has no path: write {name}:FOLDER, the folder of the set.")
    return name, Path(path).expanduser()


def stamp(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns, or None where the file cannot be asked."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def folders(root: Path) -> list[Path]:
    """The folders in a folder, by name; none where there is no such folder."""
    return sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def subfolder(root: Path, *names: str) -> Path:
    """The first of these folders that is there, else the first."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def read_text(path: Path) -> str:
    """A text file of a data set.

    Raises:
        ValueError: it is missing, empty, not readable or not UTF-8.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.*")], cutoff=0.9)
        raise ValueError(f"{path} does not exist{near}: fetch it, it belongs to the data set.") from None
    except UnicodeDecodeError as error:
        encoding = "encoded in UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "not UTF-8"
        row = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is {encoding} (row {row}, byte {error.start}): save it as UTF-8 ('CSV UTF-8' in a spreadsheet), "
            "or fetch it again."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions and its disk.") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: fetch it again, or write it.")
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"row {row} of {path} holds a NUL character: correct it, or fetch the file again.")
    return text


def read_json(path: Path) -> object:
    """Raises ValueError as `read_text`, or where the file is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again.") from None


def read_rows(
    path: Path, separator: str | None = None, *, width: int | None = None, spare: int = 0
) -> list[tuple[str, list[str]]]:
    """Where each row that is not blank stands, in words ("row 3 of ..."), and its cells without blanks and quotes.

    Args:
        separator: of columns; None: any white space.
        width: how many columns a row has; default as many as the first one.
        spare: how many more it may have.

    Raises:
        ValueError: as `read_text`, or a row with another number of columns.
    """
    lines = read_text(path).splitlines()
    split = [line.split() for line in lines] if separator is None else csv.reader(lines, delimiter=separator)
    rows = [(f"row {n} of {path}", [cell.strip().strip("'") for cell in cells]) for n, cells in enumerate(split, 1)]
    rows = [(where, cells) for where, cells in rows if any(cells)]
    width = width or len(rows[0][1])
    for where, cells in rows:
        if not width <= len(cells) <= width + spare:
            raise ValueError(f"{where} has {len(cells)} columns instead of {width}: correct it, or fetch it again.")
    return rows
