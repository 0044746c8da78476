"""Images of one's own: a folder with one folder per class, or a csv of path and label, as a data set.

What decides a record is fixed when the data set is opened: every file is read once, hashed and decoded (`scan`), so
that an unreadable file is met before training and not in its third hour. Images are decoded again, when asked for. The
published emotion sets (`emotion.sets`) are listed by rules of their own and go the same way from there on.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import math
import os
import posixpath
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from tqdm.auto import tqdm

from hc_lafter.data.decode import MAX_PIXELS, RULES, BadImage, decode, pixel_hash, read
from hc_lafter.data.record import SPLITS, Dataset, Record
from hc_lafter.files import write_whole

EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"} | {
    *(".ppm", ".pgm", ".pbm", ".avif", ".jp2", ".ico", ".qoi"),
    *(".heic", ".heif"),  # Pillow does not read these two: listed, so that they are refused by name and not overlooked
}
TABLES = (".csv", ".tsv", ".txt")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_JUNK = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
)  # what file managers leave


PLACEHOLDER = 5  # files with equal pixels and more than one label from which a picture stands in for lost ones


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

    def decode(self, content: bytes, max_pixels: int) -> Image.Image:
        """Raises `BadImage`, as `decode.decode`."""
        return decode(content, max_pixels=max_pixels, name=str(self.path))


@dataclass(frozen=True)
class Listing:
    """What a folder or a table names: items by id, class names in label order (classes without images included), and
    the files that are no images.

    name: what figures call it, "" for the name of ``source``; notes: what the lister decided; fractions: of train, val
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


@dataclass(frozen=True)
class Scan:
    """What reading one file told.

    sha256: of its bytes ("" if they cannot be read); pixels: `decode.pixel_hash`; width and height: upright, in pixels;
    found and mend: None, or why the file does not decode and what to do about it.
    """

    sha256: str
    pixels: str = ""
    width: int = 0
    height: int = 0
    found: str | None = None
    mend: str | None = None


class ImageFiles(Dataset):
    """A folder or a csv, whichever ``source`` is; what `ImageFolder` and `ImageTable` share.

    Attributes:
        listing: what was found, broken files included.
        scans: one `Scan` per listed item.
        broken: (id, what was found, mend) of each file that was left out; empty unless ``on_error="skip"``.
        kept: the positions in ``listing`` and ``scans`` of the records.
        placeholders: ids that were left out because their picture says "not available" (`placeholders`).
        ignored: files that are no images, by id.
        notes: what was decided on the user's behalf, one sentence each.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        fractions: tuple[float, float, float] | None = None,
        on_error: str = "raise",
        name: str | None = None,
        max_pixels: int = MAX_PIXELS,
        cache: Path | None = None,
        workers: int | None = None,
        progress: bool = True,
    ):
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}: choose 'raise' or 'skip'.")
        listing = self._list(source)
        self.listing, self.ignored, self.max_pixels = listing, listing.ignored, max_pixels
        self.name = name or listing.name or (listing.source.stem if listing.source.is_file() else listing.source.name)
        self.classes = class_order(listing, classes)
        self.scans = scan(listing, max_pixels=max_pixels, cache=cache, workers=workers, progress=progress)
        bad = [(item, s) for item, s in zip(listing.items, self.scans, strict=True) if s.found]
        if bad and on_error == "raise":
            raise BadImage(str(listing.source), *_refusal(bad, len(listing.items)))
        self.broken = tuple((item.id, s.found, s.mend) for item, s in bad)
        spare, told = placeholders(listing, self.scans)
        self.placeholders = tuple(listing.items[i].id for i in sorted(spare))
        self.kept = [i for i, s in enumerate(self.scans) if not s.found and i not in spare]
        self._items = [listing.items[i] for i in self.kept]
        scans = [self.scans[i] for i in self.kept]
        splits, notes = divide(listing, self._items, scans, seed=seed, fractions=fractions)
        if bad:
            told.insert(0, f"{len(bad)} of {len(listing.items)} files were unreadable and left out, see .broken.")
        self.notes = (*told, *listing.notes, *notes)
        self.ids = [item.id for item in self._items]
        self.labels = np.array([self.classes.index(item.label) for item in self._items], dtype=np.int64)
        self.splits = np.array(splits)
        self._hashes = [s.sha256 for s in scans]
        digest = hashlib.sha256(json.dumps(["images", RULES, max_pixels, self.classes]).encode())
        for item, s, split in zip(self._items, scans, splits, strict=True):
            digest.update(json.dumps([item.id, item.label, split, s.sha256]).encode())
        if self._items and self._items[0].distribution is not None:
            columns = [listing.classes.index(c) for c in self.classes]
            self.distributions = np.array([item.distribution for item in self._items])[:, columns]  # [B, C]
            digest.update(json.dumps(self.distributions.tolist()).encode())
            self.aimed_at = self.scored_by = listing.shares
            if self._items[0].votes is not None:
                self.votes = np.array([item.votes for item in self._items], dtype=np.int64)[:, columns]
                digest.update(json.dumps(self.votes.tolist()).encode())
        self._fingerprint = digest.hexdigest()

    def _list(self, source: str | Path) -> Listing:
        return list_images(source)

    def __getitem__(self, index: int) -> Record:
        """Raises `BadImage` if the file has changed since the data set was opened: the fingerprint would tell a lie."""
        index, label = int(index), int(self.labels[index])
        item = self._items[index]
        content = item.read()
        if hashlib.sha256(content).hexdigest() != self._hashes[index]:
            raise BadImage(str(item.path), "has changed since the data set was opened", "open the data set anew")
        image = item.decode(content, self.max_pixels)
        distribution = None if self.distributions is None else self.distributions[index]
        votes = None if self.votes is None else self.votes[index]
        return Record(item.id, str(self.splits[index]), image, label, self.classes[label], distribution, votes=votes)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over class names in order and, per record, id, label, split, votes and sha256 of the file."""
        return self._fingerprint


class ImageFolder(ImageFiles):
    """Class folders: ``root/<class>/**/*.jpg`` or ``root/{train,val,test}/<class>/**/*.jpg``.

    Split folders are used as they are; a missing ``val`` or ``test`` is a seeded, stratified piece of ``train`` (never
    of ``test``), and ``notes`` says so. Without split folders the whole is divided so. The division depends on the
    content of the files and the seed, not on names or order, and files with equal pixels stay together.

    Args:
        source: the folder.
        classes: C class names in label order, exactly the folders' names; default their sorted order.
        seed: of the division.
        fractions: of train, val and test; they sum to one. Default .6, .2, .2.
        on_error: "raise" refuses the data set over an unreadable file; "skip" leaves such files out, see ``broken``.
        name: what figures call the data set; default the folder's name.
        max_pixels: see `decode.decode`.
        cache: a folder that remembers the check of each file by path, size and time of change; default no memory.
        workers: threads that check; default one per core, at most 8.
        progress: show a bar while checking.

    Raises:
        ValueError: one sentence with the folder, what is wrong and the mend. Unreadable files: its subclass `BadImage`.
    """

    def _list(self, source: str | Path) -> Listing:
        return list_folder(source)


class ImageTable(ImageFiles):
    """A csv with the columns ``path``, ``label`` and perhaps ``split``; paths are relative to the csv's folder.

    UTF-8 with or without a byte-order mark; comma, semicolon or tab, told from the header. Labels are names: "01" and
    "NA" are classes like any other. The rest, options included, is as in `ImageFolder`.
    """

    def _list(self, source: str | Path) -> Listing:
        return list_table(source)


def list_images(path: str | Path) -> Listing:
    """`list_table` for a file, `list_folder` for anything else."""
    return (list_table if Path(path).is_file() else list_folder)(path)


def list_folder(root: str | Path) -> Listing:
    """The images below class folders; nothing is read but directory entries.

    Raises:
        ValueError: the folder is missing or a file, has no class folders, mixes class folders with split folders, has
            two folders for one split, or two classes whose names differ only in case.
    """
    root = Path(root)
    if root.is_file():
        hint = "open it with ImageTable" if root.suffix.lower() in TABLES else "give the folder that holds the classes"
        raise ValueError(f"{root} is a file, not a folder of class folders: {hint}.")
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        raise ValueError(f"{root} does not exist: correct the path{_nearest(root.name, siblings)}.")
    root = Path(os.path.abspath(root))
    folders, ignored = _class_folders(root, root)
    split_of = {f: SPLIT_WORDS[f.name.lower()] for f in folders if f.name.lower() in SPLIT_WORDS}
    if "train" not in split_of.values():
        if split_of and len(split_of) == len(folders):
            raise ValueError(
                f"{root} has only {_names(split_of)} and no train folder: add root/train/<class>/ folders."
            )
        split_of = {}  # a class may well be called "test"
    elif len(split_of) < len(folders):
        other = next(f for f in folders if f not in split_of)
        raise ValueError(
            f"{root} mixes split folders ({_names(split_of)}) with others ({other.name}): move {other.name} out, or "
            "rename the split folders if they are classes."
        )
    twice = [s for s, n in Counter(split_of.values()).items() if n > 1]
    if twice:
        both = _names(f for f, s in split_of.items() if s == twice[0])
        raise ValueError(f"{root} has two folders for the split {twice[0]!r} ({both}): merge them.")
    found = {None: folders} if not split_of else {}
    for folder, split in split_of.items():
        found[split], extra = _class_folders(folder, root)
        ignored += extra
        if not found[split]:
            loose = sum(Path(f).suffix.lower() in EXTENSIONS for f in extra)
            raise ValueError(
                f"{folder} has no class folders ({loose} images lie directly in it): sort its images into one folder "
                "per class."
            )
    if not split_of and not folders:
        loose = sum(Path(f).suffix.lower() in EXTENSIONS for f in ignored)
        raise ValueError(
            f"{root} has no class folders ({loose} images lie directly in it): sort the images into one folder per "
            "class, or write a csv with the columns path and label."
        )
    classes = _one_spelling(root, (f.name for group in found.values() for f in group))
    items: list[Item] = []
    for split, group in found.items():
        for folder in group:
            for path, is_image in _walk(folder):
                name = path.relative_to(root).as_posix()
                if is_image:
                    items.append(Item(name, path, _nfc(folder.name), split))
                else:
                    ignored.append(name)
    return Listing(root, tuple(sorted(items, key=lambda i: i.id)), classes, tuple(sorted(ignored)))


def list_table(path: str | Path) -> Listing:
    """The rows of a csv as items, by id; no image is read.

    Raises:
        ValueError: not a csv, not UTF-8, empty, a column missing, or a row with an empty path, an empty label, an
            unknown split or a path that an earlier row has; names file, row (the header is row 1) and column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a csv with the columns path and label.")
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path} is a file but no csv: give a csv with the columns path and label, or a folder.")
    path = Path(os.path.abspath(path))
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is encoded in UTF-16: save it as 'CSV UTF-8'.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} is not UTF-8 (row {row}, byte {error.start}): save it as 'CSV UTF-8'.") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: write a header path,label and one row per image.")
    rows, at = _rows(path, text)
    if not rows:
        raise ValueError(f"{path} has a header and no rows: add one row per image.")
    items: list[Item] = []
    first: dict[str, int] = {}
    for number, row in rows:

        def cell(column: str, number: int = number, row: list[str] = row) -> str:
            value = row[at[column]].strip() if at[column] < len(row) else ""
            if not value or "\0" in value:
                what = "holds a NUL character" if value else "is empty"
                raise ValueError(f"row {number}, column {column!r} of {path} {what}: fill it in, or remove the row.")
            return value

        written, label, split = cell("path"), _nfc(cell("label")), None
        if "split" in at:
            word = cell("split")
            split = SPLIT_WORDS.get(word.lower())
            if split is None:
                raise ValueError(
                    f"row {number}, column 'split' of {path} is {word!r}: write one of {', '.join(SPLITS)}"
                    f"{_nearest(word.lower(), SPLIT_WORDS)}."
                )
        file, name = _locate(path.parent, written)
        key = os.path.normcase(file)
        if key in first:
            other = next(i for i in items if i.where.startswith(f"row {first[key]},"))
            clash = f" with the label {other.label!r} instead of {label!r}" if other.label != label else ""
            raise ValueError(
                f"row {number}, column 'path' of {path} is {written!r}, which row {first[key]} has too{clash}: "
                "remove one of the two rows."
            )
        first[key] = number
        items.append(Item(name, file, label, split, f"row {number}, column 'path'"))
    classes = _one_spelling(path, (i.label for i in items))
    return Listing(path, tuple(sorted(items, key=lambda i: i.id)), classes)


def class_order(listing: Listing, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """The C class names in label order: ``classes``, once it names exactly the listed classes, else their sorted order.

    Raises:
        ValueError: a name too many, too few, or twice; a class without images; fewer than two classes.
    """
    known = listing.classes
    if classes is not None:
        if isinstance(classes, str):
            raise ValueError(f"classes is the string {classes!r}: give a list of names.")
        classes = tuple(_nfc(c) for c in classes)
        twice = [c for c, n in Counter(classes).items() if n > 1]
        if twice:
            raise ValueError(f"classes names {twice[0]!r} twice: name every class once.")
        for name in classes:
            if name not in known:
                raise ValueError(
                    f"classes names {name!r}, but {listing.source} has no such class{_nearest(name, known)}."
                )
        for name in known:
            if name not in classes:
                raise ValueError(
                    f"{listing.source} has the class {name!r}, which classes does not name: add it"
                    f"{_nearest(name, classes)}."
                )
    count = Counter(item.label for item in listing.items)
    for name in known:
        if not count[name]:
            raise ValueError(
                f"class {name!r} of {listing.source} has no images: add some (extensions such as .jpg and .png count), "
                "or remove its folder."
            )
    if len(known) < 2:
        raise ValueError(f"{listing.source} has the single class {known[0]!r}: a classifier needs two, add another.")
    return classes or known


def scan(
    listing: Listing,
    *,
    max_pixels: int = MAX_PIXELS,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[Scan]:
    """Read, hash and decode every file once, in threads (Pillow decodes outside the interpreter's lock).

    Args:
        cache: a folder; results are remembered there by path, size and time of change, for these rules of decoding.

    Returns:
        One `Scan` per item, in their order; a file that does not decode is told there, not raised.
    """
    items = listing.items
    rules = [str(listing.source), RULES, max_pixels, PIL.__version__]
    memory = None if cache is None else Path(cache) / f"scan-{_digest(rules)[:16]}.json"
    known = _recall(memory) if memory is not None and memory.is_file() else {}
    stamps = [_stamp(item.path) for item in items]
    results: list[Scan | None] = [None] * len(items)
    todo = []
    for i, (item, stamp) in enumerate(zip(items, stamps, strict=True)):
        old = known.get(item.key)
        if old is not None and old[0] == stamp:
            results[i] = old[1]
        else:
            todo.append(i)
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        found = pool.map(lambda i: _scan_one(items[i], max_pixels), todo)
        for i, result in zip(todo, tqdm(found, "checking images", len(todo), False, disable=not progress), strict=True):
            results[i] = result
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the files that are still in line
    if memory is not None and todo:
        kept = {i.key: {"stamp": s, "scan": asdict(r)} for i, s, r in zip(items, stamps, results, strict=True) if s}
        write_whole(memory, json.dumps(kept))
    return results


def placeholders(listing: Listing, scans: Sequence[Scan]) -> tuple[set[int], list[str]]:
    """Positions of pictures that stand in for lost ones ("image not available"), and a note where there are any.

    A site that has lost a picture hands out one and the same in its place, whatever the label: `PLACEHOLDER` files or
    more with equal pixels and more than one label. Empty where the listing does not ask for it.
    """
    where = defaultdict(list)  # pixels -> positions
    for i, s in enumerate(scans if listing.placeholders else ()):
        if not s.found:
            where[s.pixels].append(i)
    same = [at for at in where.values() if len(at) >= PLACEHOLDER and len({listing.items[i].label for i in at}) > 1]
    if not same:
        return set(), []
    found = {i for at in same for i in at}
    return found, [
        f"{len(found)} of {len(listing.items)} files show one of {len(same)} pictures that come {PLACEHOLDER} times or "
        f"more under different labels (first {listing.items[same[0][0]].id}): they stand in for images that are no "
        "longer available, and are left out."
    ]


def divide(
    listing: Listing,
    items: Sequence[Item],
    scans: Sequence[Scan],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] | None = None,
) -> tuple[list[str], list[str]]:
    """The split of every item, and notes on what was decided.

    Items that come with a split keep it. Where ``val`` or ``test`` is missing, train gives a piece; where nothing is
    given, all is divided. Within a class, pictures are ordered by the hash of seed and content and cut by
    ``fractions`` (default the listing's), so neither name nor order nor ``classes`` matters; equal pixels count as one
    picture and stay together, across classes too.

    Raises:
        ValueError: fractions that are no division; no train; a class with fewer pictures than splits to fill.
    """
    fractions = listing.fractions if fractions is None else fractions
    if (
        len(fractions) != 3
        or min(fractions) < 0
        or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
        or not fractions[0]
    ):
        raise ValueError(
            f"fractions is {fractions}: give three shares for {', '.join(SPLITS)} that sum to 1, train above 0."
        )
    share = dict(zip(SPLITS, fractions, strict=True))
    splits = [item.split for item in items]
    given = {s for s in splits if s}
    if given and "train" not in given:
        raise ValueError(f"{listing.source} has no images in the split 'train': add some.")
    wanted = [s for s in SPLITS if s not in given and share[s] > 0]
    notes = []
    pool = [i for i, s in enumerate(splits) if s in (None, "train")]
    if wanted:
        if given:
            wanted = ["train", *wanted]
        total = sum(share[s] for s in wanted)
        parts = {s: share[s] / total for s in wanted}
        for i, split in _deal(listing, [items[i] for i in pool], [scans[i] for i in pool], parts, seed).items():
            splits[pool[i]] = split
        percent = ", ".join(f"{s} {100 * p:.0f} %" for s, p in parts.items())
        what = f"the splits {_and(wanted[1:])} were missing and taken from train" if given else "no splits were given"
        notes.append(f"{what}: a stratified division by content with seed {seed} ({percent}).")
    notes += [f"there is no {s!r} split." for s in SPLITS if s not in splits]
    count = Counter((item.label, s) for item, s in zip(items, splits, strict=True))
    for name in listing.classes:
        if not count[name, "train"]:
            raise ValueError(
                f"class {name!r} of {listing.source} has no readable images in the split 'train': add some, or remove "
                "the class."
            )
        notes += [f"class {name!r} has no images in {s!r}." for s in SPLITS if s in splits and not count[name, s]]
    return splits, notes


def _deal(
    listing: Listing, items: Sequence[Item], scans: Sequence[Scan], parts: dict[str, float], seed: int
) -> dict[int, str]:
    """Position -> split. ``parts``: shares that sum to one, train first."""
    members = defaultdict(list)  # equal pixels -> positions
    for i, s in enumerate(scans):
        members[s.pixels].append(i)
    # Files order the groups, not pixels: another version of a JPEG decoder may differ by a level and would deal anew.
    rank = {p: _digest([seed, min(scans[i].sha256 for i in where)]) for p, where in members.items()}
    dealt: dict[str, str] = {}
    for name in listing.classes:
        groups = sorted({scans[i].pixels for i, item in enumerate(items) if item.label == name}, key=rank.__getitem__)
        quota = {s: max(1, math.floor(p * len(groups) + 0.5)) for s, p in parts.items()}
        quota["train"] = len(groups) - sum(n for s, n in quota.items() if s != "train")
        if quota["train"] < 1:
            raise ValueError(
                f"class {name!r} of {listing.source} has {len(groups)} different readable images, too few for "
                f"{_and(parts)}: add images to it, or make split folders by hand."
            )
        have = Counter(dealt[g] for g in groups if g in dealt)  # a picture that another class has too
        free = iter([g for g in groups if g not in dealt])
        for split in [*(s for s in parts if s != "train"), "train"]:
            for _ in range(quota[split] - have[split]):
                group = next(free, None)
                if group is not None:
                    dealt[group] = split
        for group in free:
            dealt[group] = "train"
    return {i: dealt[s.pixels] for i, s in enumerate(scans)}


def _refusal(bad: Sequence[tuple[Item, Scan]], total: int) -> tuple[str, str]:
    item, first = bad[0]
    where = f" ({item.where})" if item.where else ""
    count = f"1 unreadable file of {total}," if len(bad) == 1 else f"{len(bad)} unreadable files of {total}, the first"
    return (
        f"has {count} {item.id}{where}, which {first.found}",
        f"{first.mend}, or pass on_error='skip' to leave such files out and find them listed in .broken",
    )


def _scan_one(item: Item, max_pixels: int) -> Scan:
    sha256 = ""
    try:
        data = item.read()
        sha256 = hashlib.sha256(data).hexdigest()
        image = item.decode(data, max_pixels)
    except BadImage as error:
        return Scan(sha256, found=error.found, mend=error.mend)
    return Scan(sha256, pixel_hash(image), image.width, image.height)


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:  # a file that cannot be asked has no stamp, is never remembered, and scanning it says why
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _recall(memory: Path) -> dict[str, tuple[list[int], Scan]]:
    """What earlier scans remember; nothing, with a warning that names the file, where it is damaged."""
    try:
        remembered = json.loads(memory.read_text("utf-8"))
        return {key: (entry["stamp"], Scan(**entry["scan"])) for key, entry in remembered.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{memory} is damaged ({error}): the files are checked anew.", stacklevel=2)
        return {}


def _class_folders(folder: Path, root: Path) -> tuple[list[Path], list[str]]:
    entries = sorted(p for p in folder.iterdir() if not _junk(p.name))
    return [p for p in entries if p.is_dir()], [p.relative_to(root).as_posix() for p in entries if not p.is_dir()]


def _walk(folder: Path) -> Iterable[tuple[Path, bool]]:
    """Every file below a class folder, and whether its name is an image's; linked folders are followed once."""

    def stop(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be listed ({error.strerror}): check its permissions.") from error

    seen = set()
    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in [*folders, *files]:
            is_image = Path(name).suffix.lower() in EXTENSIONS
            if not _junk(name) and (is_image or name in files):
                yield Path(here, name), is_image
        folders[:] = [f for f in folders if not _junk(f) and Path(f).suffix.lower() not in EXTENSIONS]


def _rows(path: Path, text: str) -> tuple[list[tuple[int, list[str]]], dict[str, int]]:
    """The rows below the header with their numbers, and the position of each known column."""
    best: tuple[int, list[str], str] | None = None
    try:
        for separator in (",", ";", "\t"):
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
            header = [h.strip().lower() for h in header]
            score = len({"path", "label"} & set(header))
            if best is None or (score, len(header)) > (best[0], len(best[1])):
                best = score, header, separator
        score, header, separator = best
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise ValueError(f"{path} is not a well-formed csv ({error}): save it anew from a spreadsheet.") from None
    for column in ("path", "label"):
        if column not in header:
            raise ValueError(
                f"{path} has no column {column!r} in its header ({', '.join(header)}): name its columns path,label or "
                f"path,label,split{_nearest(column, header)}."
            )
    at = {column: header.index(column) for column in ("path", "label", "split") if column in header}
    return [(n, row) for n, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)], at


def _locate(folder: Path, written: str) -> tuple[Path, str]:
    """The file that a cell of a table means, and its id: relative to the table's folder wherever it can be."""
    file = Path(os.path.normpath(folder / written))
    if "\\" in written and not file.exists():  # a table that was written on Windows
        written = written.replace("\\", "/")
        file = Path(os.path.normpath(folder / written))
    if file.is_relative_to(folder):
        return file, file.relative_to(folder).as_posix()
    return file, file.as_posix() if Path(written).is_absolute() else posixpath.normpath(written.replace(os.sep, "/"))


def _one_spelling(source: Path, names: Iterable[str]) -> tuple[str, ...]:
    spelled: dict[str, str] = {}
    for name in sorted({_nfc(n) for n in names}):
        other = spelled.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"{source} has the classes {other!r} and {name!r}, which differ only in case: rename one, or merge "
                "them."
            )
    return tuple(sorted(spelled.values()))


def _junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS may spell é with two characters, and labels are compared by name


def _nearest(name: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (nearest: {match[0]!r})" if match else ""


def _names(folders: Iterable[Path]) -> str:
    return ", ".join(f.name for f in folders)


def _and(words: Iterable[str]) -> str:
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
