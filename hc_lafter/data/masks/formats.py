"""The layouts of the segmentation sets, as mmsegmentation has them: which image goes with which mask, and index images.

Only directory entries and lists are read here, and single masks when they are asked for.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
    SegmentationClassAug; the additions are those of trainaug.txt (or train_aug.txt), or of aug.txt where that is
    missing.
    """
    more = ("SegmentationClassAug",) if aug else ()
    root, lists, pairs = _from_lists(path, "PASCAL VOC 2012", "VOC2012", "SegmentationClass", "Segmentation", more)
    if aug:
        known = {pair.id for pair in pairs if pair.split == "train"}
        spelled = {re.sub("[^a-z]", "", p.stem.lower()): p for p in sorted(lists.glob("*.txt"))}
        added = spelled.get("trainaug", spelled.get("aug", lists / "trainaug.txt"))
        extra = _listed(added, "train", root / "JPEGImages", root / "SegmentationClassAug", finely=False)
        pairs += [pair for pair in extra if pair.id not in known]
    title = "PASCAL VOC 2012, augmented" if aug else "PASCAL VOC 2012"
    return MaskListing(root, title, once(pairs), dict(enumerate((names.BACKGROUND, *names.VOC))))


def list_context(path: Path, order: str = "alphabetical") -> MaskListing:
    """PASCAL Context with 59 classes, on the images of VOC 2010; ``order``: what its PNGs number, see `names`."""
    root, _, pairs = _from_lists(path, "PASCAL Context", "VOC2010", "SegmentationClassContext", "SegmentationContext")
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
    root, suffix = locate(path, "COCO-Object", ("coco_object",), _COCO_PARTS), "_instanceTrainIds.png"
    if not _has(root, suffix):
        raise ValueError(f"{root / 'annotations'} has no *{suffix} below it: convert COCO's instances to masks first.")
    pairs, notes = _coco_pairs(root, suffix)
    return MaskListing(root, "COCO-Object", pairs, dict(enumerate((names.BACKGROUND, *names.COCO_THINGS))), notes)


def locate(path: Path, title: str, below: Sequence[str], parts: Sequence[str]) -> Path:
    """The folder that holds all ``parts``: ``path`` itself or one of those ``below`` it.

    Raises:
        ValueError: there is none; where a folder above is the one, it is named.
    """
    path = existing(path, f" of {title}")
    lacking = {p: [part for part in parts if not (p / part).is_dir()] for p in (path, *(path / b for b in below))}
    best = min(lacking, key=lambda place: len(lacking[place]))
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
) -> tuple[Path, Path, list[Pair]]:
    """The folder of a set laid out as PASCAL VOC, that of its lists, and the pairs of its train.txt and val.txt."""
    root = locate(path, title, (year, f"VOCdevkit/{year}"), ("JPEGImages", masks, f"ImageSets/{lists}", *more))
    home, places = root / "ImageSets" / lists, (root / "JPEGImages", root / masks)
    return root, home, _listed(home / "train.txt", "train", *places) + _listed(home / "val.txt", "test", *places)


def _listed(path: Path, split: str, images: Path, masks: Path, finely: bool = True) -> list[Pair]:
    """The pairs of a list with an image's name per line, or the paths of image and mask.

    Raises:
        ValueError: the list is missing, empty or no text, has more in a line, or a name twice.
    """
    rows = read_rows(path, width=1, spare=1)
    if not all("/" in cell for _, cells in rows for cell in cells):
        rows = read_rows(path, width=1)
    stems = [PurePosixPath(cells[0]).stem for _, cells in rows]
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
    return {n for p in folder.glob(f"*{suffix}") if "_" not in (n := p.name[: -len(suffix)])}


def _has(root: Path, suffix: str) -> bool:
    return any(_files(root / "annotations" / folder, suffix) for folder in ("train2017", "val2017"))


def _coco_pairs(root: Path, suffix: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    pairs, notes, where = [], [], f"its other half below {root}"
    for folder, split in (("train2017", "train"), ("val2017", "test")):
        images, masks = root / "images" / folder, root / "annotations" / folder
        found = sorted(_files(images, ".jpg") | _files(masks, suffix))  # one that lacks its other half is missed later
        pairs += [Pair(f"{folder}/{n}", split, images / f"{n}.jpg", masks / f"{n}{suffix}", where) for n in found]
        if not found and split == "test":
            raise ValueError(f"{images} and {masks} hold no images and masks: fetch the set again.")
        if not found:
            notes.append("there is no train2017, so there is no val either, on which anything might be chosen.")
    return once(pairs), tuple(notes)
