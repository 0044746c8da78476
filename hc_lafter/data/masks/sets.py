"""The published segmentation sets as one data set type: PASCAL VOC 2012, PASCAL Context, COCO-Stuff and COCO-Object.

``voc:FOLDER``, ``coco_stuff:FOLDER`` and so on (`SETS`) name them, in the layout of mmsegmentation. Masks are index
images; a record's mask holds positions in ``mask_classes``, 255 where no loss and no metric looks. None of the sets has
image-level labels (``classes`` is empty, labels are -1) and none a public test split with masks. So the official val is
our TEST, and our val, on which things may be chosen, is a seeded tenth of the official train.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from hc_lafter.data.decode import MAX_PIXELS, RULES, BadImage, decode
from hc_lafter.data.listing import prefix_of, split_spec, stamp
from hc_lafter.data.masks import formats, names
from hc_lafter.data.record import IGNORE, SPLITS, Dataset, Record
from hc_lafter.data.world import grammar, painter
from hc_lafter.refusals import nearest

VAL_SHARE = 0.1  # of the official train: 146 of VOC's 1,464 images
_INVALID = -1  # in a lookup table: a value that means nothing


# What a prefix names: its reader, and how its published numbers treat background (None: the set has no such class).
# Background is ignored by default: no zero-shot split has it, and "background" says nothing that a picture shows, so a
# class of that name measures a threshold as well as the method. The published numbers called VOC21, Context 60 and
# COCO-Object count it all the same, and the prefixes of those names do so, too.
_AUG, _VOC_FIRST = partial(formats.list_voc, aug=True), partial(formats.list_context, order="voc_first")
SETS: dict[str, tuple[Callable[[Path], formats.MaskListing], str | None]] = {
    "voc": (formats.list_voc, "ignore"),
    "voc21": (formats.list_voc, "class"),
    "voc_aug": (_AUG, "ignore"),
    "voc21_aug": (_AUG, "class"),
    "context59": (formats.list_context, "ignore"),
    "context60": (formats.list_context, "class"),
    "context59_voc_first": (_VOC_FIRST, "ignore"),
    "context60_voc_first": (_VOC_FIRST, "class"),
    "coco_stuff": (formats.list_coco_stuff, None),
    "coco_object": (formats.list_coco_object, "class"),
    "coco_object80": (formats.list_coco_object, "ignore"),
}
_TREATMENT = {
    "ignore": "background pixels are ignored.",
    "class": "background is a class (index 0).",
    None: "the set has no background.",
}


@dataclass(frozen=True)
class MaskSplit:
    """Which mask classes have pixel labels in training: names, in the order of the data set's ``mask_classes``."""

    name: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def is_unseen(self, mask_classes: Sequence[str]) -> np.ndarray:
        """[C] bool, as `hc_lafter.analysis.segmentation.scores` takes it."""
        return np.isin(list(mask_classes), self.unseen)


def mask_split(name: str | None, dataset: Dataset) -> MaskSplit:
    """A named zero-shot split of a data set's mask classes; with None the only one that the set has.

    ``world24-8``, ``voc15-5``, ``coco156-15``; PASCAL Context has two, ``zs3net10`` (ZS3Net's ten unseen classes) and
    ``cascade_released10`` (what Cascade-CLIP's released list of indices names in the order of its own loader).

    Raises:
        ValueError: the name is none, is not of this set, or is missing where there are several; a list of indices;
            background is a class, for the published splits have none.
    """
    own = tuple(dataset.mask_classes or ())
    if name is not None and not isinstance(name, str):
        raise ValueError(
            f"split {name!r} is not a name, and indices mean other classes in another order: choose one of "
            f"{', '.join(names.MASK_SPLITS)}."
        )
    fitting = [split for split, (classes, _) in names.MASK_SPLITS.items() if set(classes) == set(own)]
    if names.BACKGROUND in own and any({names.BACKGROUND, *c} == set(own) for c, _ in names.MASK_SPLITS.values()):
        raise ValueError(
            f"data set {dataset.name!r} has background as a class, which no published zero-shot split has: open it by "
            "a prefix that ignores background, such as voc or context59."
        )
    if name is None and len(fitting) == 1:
        name = fitting[0]
    if name not in fitting:
        cause = f"split {name!r} is not of this set" if name else "no split is given"
        offer = f"choose one of {', '.join(fitting)}" if fitting else "it has no named split, so score all its classes"
        near = nearest(name or "", fitting)
        raise ValueError(f"{cause} for the {len(own)} mask classes of {dataset.name!r}{near}: {offer}.")
    unseen = names.MASK_SPLITS[name][1]
    return MaskSplit(name, tuple(c for c in own if c not in unseen), tuple(c for c in own if c in unseen))


def split_or_all(name: str | None, dataset: Dataset) -> MaskSplit:
    """`mask_split` for what is not trained: where background is a class and no split is named, no class is unseen."""
    if name is None and names.BACKGROUND in (dataset.mask_classes or ()):
        return MaskSplit("none", tuple(dataset.mask_classes), ())
    return mask_split(name, dataset)


def names_of(dataset: Dataset, style: str = "class") -> dict[str, tuple[str, ...]]:
    """The names to encode for each mask class, in the order of ``mask_classes``.

    Args:
        style: "class": the class's own name (of the world its first synonym, as captions say it). "sclip": the words
            of SCLIP, from which later training-free releases start, among them 26 words for VOC's background.
            "clearclip": one word each, those of ClearCLIP.

    Raises:
        ValueError: the style is unknown, the set has no such words, or it has no masks.
    """
    own = tuple(dataset.mask_classes or ())
    if style not in ("class", "sclip", "clearclip"):
        raise ValueError(f"names {style!r} are unknown: choose 'class', 'sclip' or 'clearclip'.")
    if not own:
        raise ValueError(f"data set {dataset.name!r} has no masks: give one of {', '.join(SETS)}, or the world.")
    if style == "class":
        world = own == painter.MASK_CLASSES
        return {name: grammar.SYNONYMS[name][:1] if world else (name,) for name in own}
    bare = set(own) - {names.BACKGROUND}
    for classes, words in names.SCLIP_NAMES.items():
        if set(classes) == bare:
            words = words if style == "sclip" else names.CLEARCLIP_NAMES.get(classes, {})
            return {name: words.get(name, (name,)) for name in own}
    raise ValueError(f"{style!r} has no words for the mask classes of {dataset.name!r}: take names 'class'.")


def templates_of(dataset: Dataset) -> tuple[str, ...]:
    """Sentences to put a class's name into: the world's own, else CLIP's 80 of ImageNet (Radford et al., 2021)."""
    if tuple(dataset.mask_classes or ()) == painter.MASK_CLASSES:
        return grammar.CLASS_TEMPLATES
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # not above: it brings all of open_clip along

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


class MaskFiles(Dataset):
    """A published segmentation set.

    Opening it reads the lists and asks every file for its size and time of change; images and masks are decoded when a
    record is asked for, each time with a look whether the file is still the one of the opening.

    Args:
        spec: ``voc:FOLDER`` and so on, see `SETS`; the folder may also be the one above, such as VOCdevkit.
        seed: of the division of the official train into our train and val, which is `VAL_SHARE` of the masks that the
            set's own makers have drawn, so that ``voc`` and ``voc_aug`` have the same val.
        complete: refuse the set where a listed file is missing; False: meet it when it is asked for.

    Attributes:
        listing: which files belong together.
        notes: what was decided on the user's behalf, one sentence each.

    Raises:
        ValueError: one sentence with the file, what is wrong and what to do; of a missing file its subclass `BadImage`.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, spec: str | Path, *, seed: int = 0, complete: bool = True):
        self.name, path = split_spec(spec, SETS)
        if self.name is None:
            raise ValueError(f"{spec} names no segmentation set: write voc:{spec} or another of {', '.join(SETS)}.")
        reader, background = SETS[self.name]
        self.listing = listing = reader(path)
        pairs, numbers = listing.pairs, listing.numbers
        self.mask_classes = tuple(n for n in numbers.values() if n != names.BACKGROUND or background == "class")
        self._lookup = np.full(256, _INVALID, dtype=np.int16)  # value in the file -> mask index
        for value, name in numbers.items():
            self._lookup[value] = self.mask_classes.index(name) if name in self.mask_classes else IGNORE
        self._lookup[IGNORE] = IGNORE
        self.ids = [pair.id for pair in pairs]
        self.labels = np.full(len(pairs), -1, dtype=np.int64)
        fine = [i for i, pair in enumerate(pairs) if pair.split == "train" and pair.finely]
        ranked = sorted(fine, key=lambda i: hashlib.sha256(f"{seed} {self.ids[i]}".encode()).digest())
        held = max(1, round(VAL_SHARE * len(fine))) if fine else 0
        splits = [pair.split for pair in pairs]
        if held and held == splits.count("train"):
            raise ValueError(
                f"{listing.source} lists {len(fine)} image for train, too few to hold some out for val: fetch the "
                "lists again."
            )
        self.splits = np.array(splits, dtype=f"<U{max(map(len, SPLITS))}")
        self.splits[ranked[:held]] = "val"
        self.notes = (
            *listing.notes,
            _TREATMENT[background],
            f"val, to choose on, is {held} of the {len(fine)} images of the official train (seed {seed}); test is "
            "the official val, since the set has no public test masks.",
        )
        self._stamps = [(stamp(pair.image), stamp(pair.mask)) for pair in pairs]
        files = [(path, pair.where) for pair in pairs for path in (pair.image, pair.mask)]
        stamps = [known for both in self._stamps for known in both]
        gone = [file for file, known in zip(files, stamps, strict=True) if known is None]
        if complete and gone:
            more = f" (and {len(gone) - 1} more files)" if len(gone) > 1 else ""
            path, where = gone[0]
            raise BadImage(str(path), f"does not exist{more}, but {where} names it", "fetch or convert it")

    def __getitem__(self, index: int) -> Record:
        """Raises `BadImage`: a file is missing, damaged or changed since the opening; a mask that fits no image."""
        index = int(index)
        pair = self.listing.pairs[index]
        for path, known in zip((pair.image, pair.mask), self._stamps[index], strict=True):
            if known is not None and known != stamp(path):
                raise BadImage(str(path), "has changed since the data set was opened", "open the data set again")
        image, values = decode(pair.image), formats.read_indices(pair.mask)
        if values.shape != (image.height, image.width):
            height, width = values.shape
            found = f"is {width} x {height} pixels, but its image {pair.image.name} {image.width} x {image.height}"
            raise BadImage(str(pair.mask), found, "fetch or convert both again, no resizing of one of them")
        mask = self._lookup[values]
        if (mask == _INVALID).any():
            row, column = np.argwhere(mask == _INVALID)[0]
            known = self.listing.numbers
            found = (
                f"has the value {values[row, column]} in row {row}, column {column}, which none of the {len(known)} "
                f"classes of {self.listing.title} has ({min(known)} to {max(known)}, or 255)"
            )
            raise BadImage(str(pair.mask), found, "convert it again with the converter of this set")
        return Record(pair.id, str(self.splits[index]), image, -1, "", mask=mask.astype(np.uint8))

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over mask classes, the values that mean them and, per record, id, split, and size and time of
        change of both files: reading 118,287 images over for it would take longer than many an experiment."""
        digest = hashlib.sha256(json.dumps(["masks", RULES, MAX_PIXELS, self.mask_classes]).encode())
        digest.update(json.dumps(self._lookup.tolist()).encode())
        for row in zip(self.ids, self.splits.tolist(), self._stamps, strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def is_mask_spec(spec: str | Path) -> bool:
    """Whether a spec starts with one of the prefixes in `SETS`; a path that exists is a path, colon or not."""
    return prefix_of(spec) in SETS and not Path(spec).exists()
