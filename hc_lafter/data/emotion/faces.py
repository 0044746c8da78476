"""Published sets of faces: FER2013 (Goodfellow et al., ICONIP 2013) and RAF-DB (Li, Deng and Du, CVPR 2017).

Both number their emotions, each in its own way; the numbers become the names of Emotion6's header, joy for happiness.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hc_lafter.data.decode import BadImage
from hc_lafter.data.emotion.formats import (
    EIGHTY,
    EKMAN,
    EKMAN_WORDS,
    folders,
    once,
    present,
    read_text,
    renamed,
    subfolder,
)
from hc_lafter.data.own.folder import SPLIT_WORDS, Item, Listing, list_folder
from hc_lafter.refusals import nearest

FER_CODES = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")  # 0 to 6 in the column emotion
RAF_CODES = ("surprise", "fear", "disgust", "joy", "sadness", "anger", "neutral")  # 1 to 7 in the list

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

    def decode(self, content: bytes, max_pixels: int) -> Image.Image:
        text = _row(content)[self.column]
        try:
            values = np.array(text.split(), dtype=np.int64)
        except ValueError:
            raise BadImage(f"{self.where} of {self.path}", "has pixels that are no numbers", "fetch it again") from None
        if len(values) != 48 * 48 or values.min() < 0 or values.max() > 255:
            found = f"has {len(values)} pixels instead of 48 x 48 from 0 to 255"
            raise BadImage(f"{self.where} of {self.path}", found, "fetch the csv again or remove the row")
        return Image.fromarray(values.reshape(48, 48).astype(np.uint8)).convert("RGB")


def _row(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8-sig", "replace").replace("\r", "").strip("\n")]), [])
    except csv.Error:  # a cell beyond all measure: no row of this csv
        return [""]


def fer_table(path: Path) -> Path | None:
    """The csv with pixels that a path is or holds; the one with a column Usage before one without."""
    found = {}
    for file in [path] if path.is_file() else sorted(path.glob("*.csv")):
        with file.open("rb") as opened:
            header = [cell.strip().lower() for cell in _row(opened.readline(4096))]
        if {"emotion", "pixels"} <= set(header):
            found.setdefault("usage" in header, file)
    return found.get(True, found.get(False))


def is_fer2013(root: Path) -> bool:
    inside = [f for s in folders(root) if s.name.lower() in SPLIT_WORDS for f in folders(s)]
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
        line = file.readline()
        header = [cell.strip().lower() for cell in _row(line)]
        at = {name: header.index(name) for name in ("emotion", "pixels", "usage") if name in header}
        start = len(line)
        for number, line in enumerate(file, 2):
            where, begin, start = f"row {number}", start, start + len(line)
            cells = _row(line)
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{where} of {path} has {len(cells)} columns, its header {len(header)}: fetch it again."
                )
            code, use = cells[at["emotion"]].strip(), None
            if not code.isdecimal() or int(code) >= len(FER_CODES):
                raise ValueError(f"{where}, column 'emotion' of {path} is {code!r}, none of 0 to 6: correct it.")
            if "usage" in at:
                use = uses.get(cells[at["usage"]].strip().lower())
                if use is None:
                    word = cells[at["usage"]]
                    raise ValueError(
                        f"{where}, column 'Usage' of {path} is {word!r}{nearest(word.lower(), uses)}: write Training, "
                        "PublicTest or PrivateTest."
                    )
            label = FER_CODES[int(code)]
            name = f"{path.name}/{number:05d}"
            items.append(PixelRow(name, path, label, use, where, start=begin, length=len(line), column=at["pixels"]))
    classes, notes = present(EKMAN, items)
    return Listing(path, tuple(items), classes, notes=notes, **fields)


# ---------------------------------------------------------------- RAF-DB

_RAF_LISTS = ("EmoLabel/list_patition_label.txt", "list_patition_label.txt")  # patition: as it is published


def is_rafdb(root: Path) -> bool:
    return root.name.lower() != "compound" and any((root / name).is_file() for name in _RAF_LISTS)


def list_rafdb(root: Path) -> Listing:
    """RAF-DB, basic: ``train_00001.jpg 5``, numbered from 1, of the aligned faces ``train_00001_aligned.jpg``."""
    path = next(root / name for name in _RAF_LISTS if (root / name).is_file())
    images = subfolder(root, ("Image/aligned", "aligned"))
    items = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        where = f"row {number} of {path}"
        split = cells[0].partition("_")[0]
        if len(cells) != 2 or split not in ("train", "test"):
            raise ValueError(f"{where} is {line!r} and not like 'train_00001.jpg 5': fetch the list again.")
        if not cells[1].isdecimal() or not 1 <= int(cells[1]) <= len(RAF_CODES):
            raise ValueError(
                f"{where} has the emotion {cells[1]!r}, none of 1 to 7: correct it, or give the folder of the basic "
                "set (the compound one has eleven)."
            )
        name = f"{Path(cells[0]).stem}_aligned{Path(cells[0]).suffix}"
        label = RAF_CODES[int(cells[1]) - 1]
        items.append(Item((images / name).relative_to(root).as_posix(), images / name, label, split, where))
    classes, notes = present(EKMAN, items)
    return Listing(root, once(items, path), classes, name="RAF-DB", notes=notes, fractions=EIGHTY)
