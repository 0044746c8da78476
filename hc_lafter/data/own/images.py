"""Listed image files as a data set: every file checked once, divided into splits, decoded when asked for.

What decides a record is fixed when the data set is opened: every file is read once, hashed and decoded (`scan`), so
that an unreadable file is met before training and not in its third hour.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import PIL
from tqdm.auto import tqdm

from hc_lafter.data.decode import MAX_PIXELS, RULES, BadImage, pixel_hash
from hc_lafter.data.listing import Item, Listing, nfc, stamp
from hc_lafter.data.own.folder import list_images
from hc_lafter.data.record import SPLITS, Dataset, Record
from hc_lafter.files import write_whole
from hc_lafter.refusals import nearest

PLACEHOLDER = 5  # files with equal pixels and more than one label from which a picture stands in for lost ones


_REFUSALS = 2  # raise when other files are refused than before, though all others decode to the same pixels
# 1, 0.0, class_3, n01440764, A, class B
_CODE = re.compile(r"[\W_]*((class|label|n)?[\W_]*\d+([.,]\d+)?|((class|label)[\W_]+)?[a-z])", re.IGNORECASE)
_COUNTED = re.compile(r"(\D*)\d+([.,]\d+)?")  # one word for all and a number: cls_0, emotion 1, s0001
_NUMBERED = re.compile(r"(?:n(?=\d{8}[\W_]))?\d+[\W_]+(?=[^\W\d_])")  # what stands before the name in 01_happy, 2. sad


def _coded(names: Sequence[str]) -> bool:
    """Whether names are numbers, letters, or numbers after one and the same word."""
    counted = list(map(_COUNTED.fullmatch, names))
    return all(map(_CODE.fullmatch, names)) or (len(names) > 1 and all(counted) and len({m[1] for m in counted}) == 1)


def _counted(names: Sequence[str]) -> bool:
    """Whether names are words behind numbers that count them, as in 01_happy and 02_sad."""
    found = list(map(_NUMBERED.match, names))
    if all(match and match[0].startswith("n") for match in found):  # WordNet's, as in n02085620-Chihuahua
        return True
    numbers = sorted(int(re.match(r"\d+", match[0])[0]) for match in found if match)
    return all(found) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@dataclass(frozen=True)
class Scan:
    """What reading one file showed.

    sha256: of its bytes ("" if they cannot be read); pixels: `decode.pixel_hash`; width and height: upright, in pixels;
    found and remedy: None, or why the file does not decode and what to do about it.
    """

    sha256: str
    pixels: str = ""
    width: int = 0
    height: int = 0
    found: str | None = None
    remedy: str | None = None


class ImageFiles(Dataset):
    """Images in class folders, in a csv with the columns path, label and perhaps split, or in any other listing.

    Splits that are given are used as they are; a missing ``val`` or ``test`` is a seeded, stratified piece of ``train``
    (never of ``test``), and ``notes`` says so. Where none are given the whole is divided so. The division depends on
    the content of the files and the seed, not on names or order, and files with equal pixels stay together.

    Args:
        source: the folder or csv, or what a reader made of a published set (`emotion.sets.list_data`).
        classes: C class names in label order, exactly those of the data; default their sorted order.
        seed: of the division.
        on_error: "raise" refuses the data set over an unreadable file; "skip" leaves such files out, see ``broken``;
            "report" does so, too, and opens even a data set that is not fit for training, see ``problems``.
        cache: a folder that remembers the check of each file by path, size and time of change; default no memory.
        progress: show a bar while checking.

    Attributes:
        listing: what was found, broken files included.
        scans: one `Scan` per listed item.
        broken: (id, what was found, remedy) of each file that was left out; empty unless ``on_error="skip"``.
        problems: what makes the data set unfit for training; empty unless ``on_error="report"``.
        kept: the positions in ``listing`` and ``scans`` of the records.
        placeholders: ids that were left out because their picture says "not available" (`placeholders`).
        ignored: files that are not images, by id.
        notes: what was decided on the user's behalf, one sentence each.

    Raises:
        ValueError: one sentence with the source, what is wrong and the remedy. Unreadable files: its subclass
            `BadImage`.
    """

    def __init__(
        self,
        source: Listing | str | Path,
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        on_error: str = "raise",
        cache: Path | None = None,
        progress: bool = True,
    ):
        if on_error not in ("raise", "skip", "report"):
            raise ValueError(f"on_error is {on_error!r}: choose 'raise' or 'skip'.")
        self.problems: list[str] = []

        def unless_reported(check: Callable, fallback: object, *args: object) -> object:
            try:
                return check(*args)
            except ValueError as error:
                if on_error != "report":
                    raise
                self.problems = self.problems or [str(error)]  # an empty class need not be named twice
                return fallback

        self.listing = listing = source if isinstance(source, Listing) else list_images(source)
        self.ignored, self.name = listing.ignored, listing.title
        self.classes = unless_reported(class_order, listing.classes, listing, classes)
        self.scans = scan(listing, cache=cache, progress=progress)
        bad = [(item, s) for item, s in zip(listing.items, self.scans, strict=True) if s.found]
        if bad and on_error == "raise":
            raise _refusal(listing, bad)
        self.broken = tuple((item.id, s.found, s.remedy) for item, s in bad)
        spare, notes = placeholders(listing, self.scans)
        self.placeholders = tuple(listing.items[i].id for i in sorted(spare))
        self.kept = [i for i, s in enumerate(self.scans) if not s.found and i not in spare]
        self._items, scans = [listing.items[i] for i in self.kept], [self.scans[i] for i in self.kept]
        given = [item.split or "no split" for item in self._items]
        splits, decided = unless_reported(divide, (given, []), listing, self._items, scans, seed)
        if bad:
            notes = [f"{len(bad)} of {len(listing.items)} files were unreadable and left out, see .broken.", *notes]
        if _coded(self.classes):
            notes.append(
                f"the class names are numbers or codes ({', '.join(self.classes[:4])}), which mean nothing to a text "
                "tower: name the folders or labels after what they show, for zero-shot and all trained texts read them."
            )
        elif _counted(self.classes):
            bare = ", ".join(_NUMBERED.sub("", name, count=1) for name in self.classes[:4])
            notes.append(
                f"the class names begin with numbers ({', '.join(self.classes[:4])}), which a text tower reads, too: "
                f"name the folders or labels by the words alone ({bare})."
            )
        self.notes = (*notes, *listing.notes, *decided)
        self.ids = [item.id for item in self._items]
        self.labels = np.array([self.classes.index(item.label) for item in self._items], dtype=np.int64)
        self.splits = np.array(splits, dtype=str)
        self._hashes = [s.sha256 for s in scans]
        digest = hashlib.sha256(json.dumps(["images", RULES, MAX_PIXELS, self.classes]).encode())
        for item, s, split in zip(self._items, scans, splits, strict=True):
            digest.update(json.dumps([item.id, item.label, split, s.sha256]).encode())
        if listing.shares and self._items:
            columns = [listing.classes.index(c) for c in self.classes]
            self.distributions = np.array([item.distribution for item in self._items])[:, columns]  # [B, C]
            digest.update(json.dumps(self.distributions.tolist()).encode())
            self.aimed_at = self.scored_by = listing.shares
            if self._items[0].votes is not None:
                self.votes = np.array([item.votes for item in self._items], dtype=np.int64)[:, columns]
                digest.update(json.dumps(self.votes.tolist()).encode())
        self._fingerprint = digest.hexdigest()

    def __getitem__(self, index: int) -> Record:
        """Raises `BadImage` if the file has changed since the data set was opened: the fingerprint would tell a lie."""
        index, label = int(index), int(self.labels[index])
        item = self._items[index]
        content = item.read()
        if hashlib.sha256(content).hexdigest() != self._hashes[index]:
            raise BadImage(str(item.path), "has changed since the data set was opened", "open the data set again")
        image = item.decode(content)
        distribution = None if self.distributions is None else self.distributions[index]
        votes = None if self.votes is None else self.votes[index]
        return Record(item.id, str(self.splits[index]), image, label, self.classes[label], distribution, votes=votes)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over class names in order and, per record, id, label, split, votes and sha256 of the file."""
        return self._fingerprint


def class_order(listing: Listing, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """The C class names in label order: ``classes``, once it names exactly the listed classes, else the listing's.

    Raises:
        ValueError: a name too many, too few, or twice; a class without images; fewer than two classes.
    """
    known, source = listing.classes, listing.source
    if isinstance(classes, str):
        raise ValueError(f"classes is the string {classes!r}: give a list of names.")
    wanted = known if classes is None else tuple(map(nfc, classes))
    for name in wanted:
        if wanted.count(name) > 1:
            raise ValueError(f"classes names {name!r} twice: name every class once.")
        if name not in known:
            raise ValueError(
                f"classes names {name!r}, but {source} has no such class{nearest(name, known)}: correct the name."
            )
    for name in known:
        if name not in wanted:
            raise ValueError(f"{source} has the class {name!r}, which classes does not name: add it.")
        if all(item.label != name for item in listing.items):
            raise ValueError(
                f"class {name!r} of {source} has no images: add some (extensions such as .jpg and .png count), or "
                "remove its folder."
            )
    if len(known) < 2:
        raise ValueError(f"{source} has the single class {known[0]!r}: a classifier needs two, add another.")
    return wanted


def scan(listing: Listing, *, cache: Path | None = None, progress: bool = True) -> list[Scan]:
    """Read, hash and decode every file once, in threads (Pillow decodes outside the interpreter's lock).

    Args:
        cache: a folder; results are remembered there by path, size and time of change, for these rules of decoding.

    Returns:
        One `Scan` per item, in their order; why a file does not decode stands in it.
    """
    rules = [str(listing.source), RULES, _REFUSALS, MAX_PIXELS, PIL.__version__, [field.name for field in fields(Scan)]]
    memory = None if cache is None else Path(cache) / f"scan-{_digest(rules)[:16]}.json"
    stamps = {item.key: stamp(item.path) for item in listing.items}
    known = {key: s for key, (old, s) in _recall(memory).items() if stamps.get(key) and old == list(stamps[key])}
    todo = [item for item in listing.items if item.key not in known]
    known |= zip((item.key for item in todo), threaded(_scan_one, todo, progress), strict=True)
    if memory is not None and todo:
        entries = {key: {"stamp": stamps[key], "scan": asdict(s)} for key, s in known.items() if stamps[key]}
        write_whole(memory, json.dumps(entries))
    return [known[item.key] for item in listing.items]


def threaded(function: Callable, values: Sequence, progress: bool = True, title: str = "checking images") -> list:
    """``function`` of each value, in order, computed in threads and shown by a bar."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        return list(tqdm(pool.map(function, values), title, len(values), leave=False, disable=not progress))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the files that are still in line


def placeholders(listing: Listing, scans: Sequence[Scan]) -> tuple[set[int], list[str]]:
    """Positions of pictures that stand in for lost ones ("image not available"), and a note where there are any.

    A site that has lost a picture hands out one and the same in its place, whatever the label: `PLACEHOLDER` files or
    more with equal pixels and more than one label. Empty where the listing does not ask for it.
    """
    places = defaultdict(list)  # pixels -> positions
    for i, s in enumerate(scans if listing.placeholders else ()):
        if not s.found:
            places[s.pixels].append(i)
    same = [at for at in places.values() if len(at) >= PLACEHOLDER and len({listing.items[i].label for i in at}) > 1]
    found = {i for at in same for i in at}
    notes = [
        f"{len(found)} of {len(listing.items)} files show one of {len(same)} pictures that come {PLACEHOLDER} times or "
        f"more under different labels (first {listing.items[at[0]].id}): they stand in for images that are no longer "
        "available, and are left out."
        for at in same[:1]
    ]
    return found, notes


def divide(
    listing: Listing, items: Sequence[Item], scans: Sequence[Scan], seed: int = 0
) -> tuple[list[str], list[str]]:
    """The split of every item, and notes on what was decided.

    Items that come with a split keep it. Where ``val`` or ``test`` is missing, train gives a piece; where nothing is
    given, all is divided. Within a class, pictures are ordered by the hash of seed and content and cut by the
    listing's ``fractions``, so neither name nor order nor ``classes`` matters; equal pixels count as one picture and
    stay together, across classes too. Every class has a picture in each split: folds of scikit-learn's
    StratifiedGroupKFold promise neither that nor independence of the order.

    Raises:
        ValueError: no train; a class with fewer pictures than splits to fill.
    """
    splits = [item.split for item in items]
    given = {s for s in splits if s}
    if given and "train" not in given:
        raise ValueError(f"{listing.source} has no images in the split 'train': add some.")
    missing = [s for s, share in zip(SPLITS, listing.fractions, strict=True) if s not in given and share > 0]
    notes = []
    if missing:
        shares = {s: f for s, f in zip(SPLITS, listing.fractions, strict=True) if s in missing or s == "train"}
        shares = {s: f / sum(shares.values()) for s, f in shares.items()}
        pool = [i for i, s in enumerate(splits) if s in (None, "train")]
        dealt = _deal(listing, [items[i] for i in pool], [scans[i] for i in pool], shares, seed)
        for i, split in zip(pool, dealt, strict=True):
            splits[i] = split
        percent = ", ".join(f"{s} {100 * p:.0f} %" for s, p in shares.items())
        cause = f"the splits {_and(missing)} were missing and taken from train" if given else "no splits were given"
        notes.append(f"{cause}: a stratified division by content with seed {seed} ({percent}).")
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
    listing: Listing, items: Sequence[Item], scans: Sequence[Scan], shares: dict[str, float], seed: int
) -> list[str]:
    """The split of every item. ``shares`` sum to one, train among them."""
    files = defaultdict(list)  # of equal pixels
    for s in scans:
        files[s.pixels].append(s.sha256)
    # Files order the groups, not pixels: another JPEG decoder may differ by a level, which must not change the order.
    rank = {pixels: _digest([seed, min(hashes)]) for pixels, hashes in files.items()}
    dealt: dict[str, str] = {}
    for name in listing.classes:
        groups = sorted({s.pixels for s, i in zip(scans, items, strict=True) if i.label == name}, key=rank.__getitem__)
        quota = {s: max(1, math.floor(p * len(groups) + 0.5)) for s, p in shares.items() if s != "train"}
        if sum(quota.values()) >= len(groups):
            raise ValueError(
                f"class {name!r} of {listing.source} has {len(groups)} different readable images, too few for "
                f"{_and(shares)}: add images to it, or make split folders by hand."
            )
        have = Counter(dealt[g] for g in groups if g in dealt)  # a picture that another class has too
        places = [s for s, n in quota.items() for _ in range(n - have[s])]
        free = [g for g in groups if g not in dealt]
        dealt |= {g: places[k] if k < len(places) else "train" for k, g in enumerate(free)}
    return [dealt[s.pixels] for s in scans]


def _refusal(listing: Listing, bad: Sequence[tuple[Item, Scan]]) -> BadImage:
    (item, first), total = bad[0], len(listing.items)
    count = f"1 unreadable file of {total}," if len(bad) == 1 else f"{len(bad)} unreadable files of {total}, the first"
    row = f" ({item.where})" if item.where else ""
    remedy = f"{first.remedy}, or pass on_error='skip' to leave such files out and find them listed in .broken"
    return BadImage(str(listing.source), f"has {count} {item.id}{row}, which {first.found}", remedy)


def _scan_one(item: Item) -> Scan:
    sha256 = ""
    try:
        data = item.read()
        sha256 = hashlib.sha256(data).hexdigest()
        image = item.decode(data)
    except BadImage as error:
        return Scan(sha256, found=error.found, remedy=error.remedy)
    return Scan(sha256, pixel_hash(image), image.width, image.height)


def _recall(memory: Path | None) -> dict[str, tuple[list[int], Scan]]:
    """What earlier scans remember; nothing, with a warning that names the file, where it is damaged."""
    if memory is None or not memory.is_file():
        return {}
    try:
        remembered = json.loads(memory.read_text("utf-8"))
        return {key: (entry["stamp"], Scan(**entry["scan"])) for key, entry in remembered.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{memory} is damaged ({error}): the files are checked again.", stacklevel=2)
        return {}


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
