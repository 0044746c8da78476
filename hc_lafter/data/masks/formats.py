"""The layouts of the segmentation sets, as mmsegmentation has them: which image goes with which mask, and index images.

Only directory entries and lists are read here, and single masks when they are asked for.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hc_lafter.data.decode import BadImage, read
from hc_lafter.data.listing import existing, read_rows
from hc_lafter.data.masks import names

_COCO_PARTS = ("images/val2017", "annotations/val2017")


@dataclass(frozen=True)
class Pair:
    """An image and its mask, neither of them read. ``split``: "train" or "test"; ``where``: what names it; ``finely``:
    whether the mask was drawn for the set itself, so that validation may use it."""

    id: str
    split: str
    image: Path
    mask: Path
    where: str
    finely: bool = True


@dataclass(frozen=True)
class MaskListing:
    """What a folder holds. ``numbers``: value in a mask -> class, in the order of mask indices, background included
    where the set has it; every other value but 255 is an error."""

    source: Path
    title: str
    pairs: tuple[Pair, ...]
    numbers: dict[int, str]
    notes: tuple[str, ...] = ()


def list_voc(path: Path, aug: bool = False) -> MaskListing:
    """PASCAL VOC 2012; with ``aug`` its 10,582 training images, of which SBD (Hariharan et al., ICCV 2011) has 9,118.

    As in mmsegmentation, train.txt takes its masks from SegmentationClass and only the added images from
    SegmentationClassAug; the additions are those of trainaug.txt, or of aug.txt where that is missing.
    """
    title = "PASCAL VOC 2012, augmented" if aug else "PASCAL VOC 2012"
    more = ("SegmentationClassAug",) if aug else ()
    root, pairs = _from_lists(path, "PASCAL VOC 2012", "VOC2012", "SegmentationClass", "ImageSets/Segmentation", more)
    if aug:
        lists, known = root / "ImageSets/Segmentation", {pair.id for pair in pairs if pair.split == "train"}
        added = next((lists / n for n in ("trainaug.txt", "aug.txt") if (lists / n).is_file()), lists / "trainaug.txt")
        masks = root / "SegmentationClassAug"
        pairs += [p for p in _listed(added, "train", root / "JPEGImages", masks, finely=False) if p.id not in known]
    return MaskListing(root, title, once(pairs), dict(enumerate((names.BACKGROUND, *names.VOC))))


def list_context(path: Path, order: str = "alphabetical") -> MaskListing:
    """PASCAL Context with 59 classes, on the images of VOC 2010; ``order``: what its PNGs number, see `names`."""
    folders = ("SegmentationClassContext", "ImageSets/SegmentationContext")
    root, pairs = _from_lists(path, "PASCAL Context", "VOC2010", *folders)
    numbers = dict(enumerate((names.BACKGROUND, *names.CONTEXT_ORDERS[order])))
    note = f"the values 1 to 59 of the masks are read in the order {order!r}, so that 2 is {numbers[2]!r}."
    return MaskListing(root, "PASCAL Context", once(pairs), numbers, (note,))


def list_coco_stuff(path: Path) -> MaskListing:
    """COCO-Stuff 164k: ``*_labelTrainIds.png`` with 0 to 170 where there are any, else the raw maps with 0 to 181."""
    root = locate(path, "COCO-Stuff 164k", ("coco_stuff164k",), _COCO_PARTS)
    converted = _has(root, "_labelTrainIds.png")
    pairs, notes = _coco_pairs(root, "_labelTrainIds.png" if converted else ".png")
    ids = range(171) if converted else names.COCO_RAW_IDS
    form = "converted (*_labelTrainIds.png, 0 to 170)" if converted else "raw (0 to 181, of which 11 mean nothing)"
    numbers = dict(zip(ids, names.COCO_STUFF, strict=True))
    return MaskListing(root, "COCO-Stuff 164k", pairs, numbers, (f"the masks are {form}.", *notes))


def list_coco_object(path: Path) -> MaskListing:
    """COCO-Object: ``*_instanceTrainIds.png`` with background 0 and COCO's 80 things."""
    root = locate(path, "COCO-Object", ("coco_object",), _COCO_PARTS)
    if not _has(root, "_instanceTrainIds.png"):
        raise ValueError(
            f"{root / 'annotations'} has no *_instanceTrainIds.png below it: convert COCO's instances to masks first."
        )
    pairs, notes = _coco_pairs(root, "_instanceTrainIds.png")
    return MaskListing(root, "COCO-Object", pairs, dict(enumerate((names.BACKGROUND, *names.COCO_THINGS))), notes)


def locate(path: Path, title: str, below: Sequence[str], parts: Sequence[str]) -> Path:
    """The folder that holds all ``parts``: ``path`` itself or one of those ``below`` it.

    Raises:
        ValueError: there is none; where a folder above is the one, it is named.
    """
    path = existing(path, f" of {title}")
    places = [path, *(path / name for name in below)]
    lacking = {place: [part for part in parts if not (place / part).is_dir()] for place in places}
    best = min(places, key=lambda place: len(lacking[place]))
    if not lacking[best]:
        return best
    for above in list(path.parents)[:3]:
        if all((above / part).is_dir() for part in parts):
            raise ValueError(f"{path} is a part of {title}, not its folder: give {above}.")
    raise ValueError(
        f"{best} has no folder {lacking[best][0]}: give the folder of {title} that holds {', '.join(parts)}."
    )


def _from_lists(
    path: Path, title: str, year: str, masks: str, lists: str, more: Sequence[str] = ()
) -> tuple[Path, list[Pair]]:
    """The folder of a set in the layout of PASCAL VOC, and the pairs of its train.txt and val.txt.

    ``masks`` and ``lists`` are its folders of those, ``more`` others that it must have.
    """
    root = locate(path, title, (year, f"VOCdevkit/{year}"), ("JPEGImages", masks, lists, *more))
    places = root / "JPEGImages", root / masks
    train, val = (root / lists / f"{name}.txt" for name in ("train", "val"))
    return root, [*_listed(train, "train", *places), *_listed(val, "test", *places)]


def _listed(path: Path, split: str, images: Path, masks: Path, finely: bool = True) -> list[Pair]:
    """The pairs of a list with one image name per line.

    Raises:
        ValueError: the list is missing, empty or no text, has more than a name in a line, or a name twice.
    """
    stems = [cells[0] for _, cells in read_rows(path, width=1)]
    for stem, count in Counter(stems).items():
        if count > 1:
            raise ValueError(f"{path} names {stem!r} twice: remove one of the two lines.")
    return [Pair(s, split, images / f"{s}.jpg", masks / f"{s}.png", str(path), finely) for s in stems]


def once(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The pairs in order of split and id.

    Raises:
        ValueError: the same image is in train and in the official val, our test.
    """
    pairs = tuple(sorted(pairs, key=lambda pair: (pair.split != "train", pair.id)))
    train = {pair.image.name: pair for pair in pairs if pair.split == "train"}
    for pair in pairs:
        if pair.split == "test" and pair.image.name in train:
            raise ValueError(
                f"{pair.image.name} is named by {train[pair.image.name].where} and by {pair.where}: remove it from the "
                "former, or the test measures memory."
            )
    return pairs


def read_indices(path: Path) -> np.ndarray:
    """[height, width] uint8: the values of an index image, as they stand in the file.

    The indices of a palette image are its values; its colours only serve to look at it.

    Raises:
        BadImage: missing, damaged, no PNG, or an image of colours or grey shades instead of indices.
    """
    data = read(path)
    # Pillow meets bytes of any origin and raises nearly any exception over them: it is the file that is to be replaced.
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
    except Exception as error:
        found = f"is not a whole PNG ({' '.join(str(error).split())[:80]})"
        raise BadImage(str(path), found, "fetch or convert it again") from error
    if image.mode not in ("P", "L") or (image.mode == "L" and data[24] != 8):  # byte 24: bits per value; Pillow
        bits = "" if image.mode != "L" else f" of {data[24]} bits"  # stretches fewer bits of grey over 0..255
        found = f"is an image of mode {image.mode}{bits}, but a mask holds indices (mode P, or L of 8 bits)"
        raise BadImage(str(path), found, "take the set's own PNG, before anything turned its indices into colours")
    return np.asarray(image)


def _files(folder: Path, suffix: str) -> set[str]:
    """Names without the suffix; converted masks lie beside the raw ones, whose names have no underscore."""
    if not folder.is_dir():
        return set()
    found = {entry.name[: -len(suffix)] for entry in os.scandir(folder) if entry.name.endswith(suffix)}
    return {name for name in found if not name.startswith(".") and "_" not in name}


def _has(root: Path, suffix: str) -> bool:
    return any(_files(root / "annotations" / folder, suffix) for folder in ("train2017", "val2017"))


def _coco_pairs(root: Path, suffix: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    pairs, notes = [], []
    for folder, split in (("train2017", "train"), ("val2017", "test")):
        images, masks = root / "images" / folder, root / "annotations" / folder
        found = sorted(_files(images, ".jpg") | _files(masks, suffix))  # one that lacks its other half is missed later
        where = f"its other half below {root}"
        pairs += [
            Pair(f"{folder}/{name}", split, images / f"{name}.jpg", masks / f"{name}{suffix}", where) for name in found
        ]
        if not found and split == "test":
            raise ValueError(f"{images} and {masks} hold no images and masks: fetch the set again.")
        if not found:
            notes.append("there is no train2017, so there is no val either, on which anything might be chosen.")
    return once(pairs), tuple(notes)
