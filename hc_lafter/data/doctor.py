"""What is wrong with a data set, before it is trained on: ``python -m hc_lafter.data.doctor SPEC``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from hc_lafter.data.decode import MAX_PIXELS, BadImage, pixel_hash
from hc_lafter.data.emotion.sets import list_data
from hc_lafter.data.masks.doctor import MaskReport, examine_masks
from hc_lafter.data.masks.sets import is_mask_spec
from hc_lafter.data.own.folder import ImageFiles, Listing, Scan, class_order, divide, placeholders, scan
from hc_lafter.data.record import SPLITS, Dataset

FEW = 10  # images per class below which one image moves its accuracy by ten points or more
THIN = (
    20  # long side / short side; CLIP's transform scales the short side to 224 and so makes a huge picture of it first
)
SHOWN = 10  # lines per list; the tables hold all


@dataclass(frozen=True)
class Report:
    """What `examine` found.

    Attributes:
        name: the data set's.
        problems: what makes its numbers wrong or keeps it from opening, one sentence each, the worst first.
        remarks: what one should know, one sentence each.
        counts: one row per class in label order; readable images in train, val, test, without a split, and in all.
        broken: unreadable files: id, label, found, mend.
        duplicates: id, split, label of images that have an equal, by ``group``; ``kind`` is "exact" (equal pixels once
            decoded) or "near" (perceptual hashes within a few bits: look at them before you believe it).
        classes: index, class, and the class that sorted order has at that index.
        ignored: files that are no images.
    """

    name: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    counts: pd.DataFrame
    broken: pd.DataFrame
    duplicates: pd.DataFrame
    classes: pd.DataFrame
    ignored: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems; remarks are allowed."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report for people, one line each, the verdict first."""
        total = 0 if self.counts.empty else int(self.counts["all"].sum())
        verdict = "no problems" if self.ok else f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        out = [f"{self.name}: {total} readable images in {len(self.counts)} classes, {verdict}"]
        out += [f"PROBLEM: {p}" for p in self.problems] + [f"note: {r}" for r in self.remarks]
        if not self.counts.empty:
            out += ["", "images per class and split", *self.counts.to_string(index=False).splitlines()]
        if len(self.classes):
            out += ["", "class order: " + ", ".join(f"{i} {c}" for i, c in self.classes[["index", "class"]].values)]
        out += _listed("unreadable files", [f"{r.id} {r.found}: {r.mend}" for r in self.broken.itertuples()])
        groups = [
            f"{kind}: " + " = ".join(f"{r.id} ({r.split}, {r.label})" for r in rows.itertuples())
            for (kind, _), rows in self.duplicates.groupby(["kind", "group"], sort=False)
        ]
        return out + _listed("duplicates", groups) + _listed("files that are no images", list(self.ignored))


def examine(
    data: Dataset | str | Path,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] | None = None,
    skip: bool = False,
    near: bool = False,
    near_bits: int = 4,
    max_pixels: int = MAX_PIXELS,
    cache: Path | None = None,
    progress: bool = True,
) -> Report | MaskReport:
    """Examine a data set: any `Dataset`, or a spec as `open_data` takes it, which need not be fit to be opened.

    Args:
        data: the path of a folder, a csv or a published emotion set, ``fi:PATH`` and the like, or a data set (whose own
            classes, splits and skipped files count; ``seed``, ``fractions``, ``max_pixels`` and ``cache`` then have no
            effect).
        classes: names in the order that the user means; compared with the data's.
        skip: unreadable files are listed as a remark and no problem, as ``on_error="skip"`` opens them.
        near: look for near-duplicates too (perceptual hash `imagehash.phash`, 64 bits; decodes everything once more).
        near_bits: how many of the 64 bits may differ.

    Returns:
        The report. What would keep a path from opening is a problem in it, not an exception. A segmentation set has one
        of its own kind, and of the options only ``seed`` and ``progress`` mean anything to it.
    """
    if not data.classes if isinstance(data, Dataset) else is_mask_spec(data):
        return examine_masks(data, seed=seed, progress=progress)
    seen = (
        _see_dataset(data, classes, progress)
        if isinstance(data, Dataset)
        else _see_path(data, classes, seed, fractions, max_pixels, cache, progress)
    )
    table = seen.table
    good, bad = table[table.found.isna()], table[table.found.notna()]
    exact = _exact(good)
    problems, remarks = [], []
    if leak := _first_pair(exact, "split"):
        a, b, more = leak
        problems.append(
            f"the same picture lies in two splits, {a.id} ({a.split}) and {b.id} ({b.split}){more}: delete one of the "
            "two, or test accuracy measures memory."
        )
    problems += seen.problems
    if len(bad):
        first = bad.iloc[0]
        text = f"{len(bad)} of {len(table)} files cannot be read, the first is {first.id}, which {first.found}"
        if skip or isinstance(data, ImageFiles):  # a data set that is open has been allowed to skip them
            remarks.append(f"{text}: {first.mend} (they are skipped).")
        else:
            problems.append(f"{text}: {first.mend}, or skip them (--skip, on_error='skip').")
    if torn := _first_pair(exact, "label"):
        a, b, more = torn
        problems.append(
            f"the same picture has two labels, {a.id} ({a.label}) and {b.id} ({b.label}){more}: keep it in one class."
        )
    remarks += seen.notes
    same = exact[exact.duplicated(["group", "split", "label"], keep=False)]
    if spare := int(same.duplicated(["group", "split", "label"]).sum()):
        a, b = same.iloc[0], same[same.group == same.iloc[0].group].iloc[1]
        remarks.append(f"images repeat another of their class and split ({spare}, first {b.id} = {a.id}): delete them.")
    counts = _counts(good, seen.classes)
    if few := [f"{name} ({n})" for name, n in zip(counts["class"], counts["all"], strict=True) if n < FEW]:
        remarks.append(f"fewer than {FEW} readable images in class {', '.join(few)}: add some.")
    thin = good[good[["width", "height"]].max(axis=1) > THIN * good[["width", "height"]].min(axis=1)]
    if len(thin):
        r = thin.iloc[0]
        remarks.append(
            f"images are more than {THIN} times as long as wide ({len(thin)}, first {r.id}, {r.width} x {r.height} "
            "pixels): crop them, for the square that CLIP sees holds little of them."
        )
    remarks += _about_order(seen.classes, classes)
    duplicates = [exact]
    if near:
        duplicates.append(_near(good, seen.image, near_bits, progress))
        if across := _first_pair(duplicates[-1], "split"):
            a, b, more = across
            remarks.append(
                f"two pictures in two splits look alike, {a.id} ({a.split}) and {b.id} ({b.split}){more}: look at "
                "them, and delete one if they show the same."
            )
    if seen.ignored:
        remarks.append(
            f"files without an image's extension are ignored ({len(seen.ignored)}, first {seen.ignored[0]})."
        )
    order = {"index": range(len(seen.classes)), "class": list(seen.classes), "sorted": sorted(seen.classes)}
    return Report(
        name=seen.name,
        problems=tuple(problems),
        remarks=tuple(remarks),
        counts=counts,
        broken=bad[["id", "label", "found", "mend"]].reset_index(drop=True),
        duplicates=pd.concat(duplicates, ignore_index=True),
        classes=pd.DataFrame(order),
        ignored=tuple(seen.ignored),
    )


@dataclass(frozen=True)
class _Seen:
    """``table`` has one row per file; its column ``at`` is what ``image`` takes, label and split are names."""

    name: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    image: Callable[[int], Image.Image]
    problems: list[str]
    notes: list[str]
    ignored: Sequence[str]


def _table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "split", "label", "pixels", "width", "height", "found", "mend", "at"])


def _see_path(spec, classes, seed, fractions, max_pixels, cache, progress) -> _Seen:
    problems: list[str] = []
    try:
        listing = list_data(spec)
    except ValueError as error:
        return _Seen(str(spec), _table([]), (), None, [str(error)], [], ())
    try:
        names = class_order(listing, classes)
    except ValueError as error:
        problems.append(str(error))
        names = listing.classes
    scans = scan(listing, max_pixels=max_pixels, cache=cache, progress=progress)
    spare, told = placeholders(listing, scans)
    good = [i for i, s in enumerate(scans) if not s.found and i not in spare]
    splits = [item.split for item in listing.items]
    notes: list[str] = []
    try:
        dealt, notes = divide(
            listing, [listing.items[i] for i in good], [scans[i] for i in good], seed=seed, fractions=fractions
        )
        for i, split in zip(good, dealt, strict=True):
            splits[i] = split
    except ValueError as error:
        if not problems:  # an empty class has been told already
            problems.append(str(error))
    table = _table([_row(listing, i, splits[i], s) for i, s in enumerate(scans) if i not in spare])
    source = listing.source
    name = listing.name or (source.stem if source.is_file() else source.name)

    def image(i: int) -> Image.Image:
        return listing.items[i].decode(listing.items[i].read(), max_pixels)

    return _Seen(name, table, tuple(names), image, problems, [*told, *listing.notes, *notes], listing.ignored)


def _row(listing: Listing, i: int, split: str | None, s: Scan) -> tuple:
    item = listing.items[i]
    where = f"({item.where}) " if item.where and s.found else ""
    found = f"{where}{s.found}" if s.found else None
    return item.id, split or "no split", item.label, s.pixels, s.width, s.height, found, s.mend, i


def _see_dataset(data: Dataset, classes: Sequence[str] | None, progress: bool) -> _Seen:
    skipped, notes, ignored = [], (), ()
    if isinstance(data, ImageFiles):
        scans = [data.scans[i] for i in data.kept]
        skipped = [_row(data.listing, i, None, s) for i, s in enumerate(data.scans) if s.found]
        notes, ignored = data.notes[1:] if skipped else data.notes, data.ignored  # the first counts the skipped files
    else:
        scans = [_look(data, i) for i in tqdm(range(len(data)), "checking images", leave=False, disable=not progress)]
    rows = []
    for i, s in enumerate(scans):
        label = data.classes[int(data.labels[i])]
        rows.append((str(data.ids[i]), str(data.splits[i]), label, s.pixels, s.width, s.height, s.found, s.mend, i))
    problems = []
    if classes is not None and set(classes) != set(data.classes):
        odd = min(set(classes) ^ set(data.classes))
        problems.append(f"class {odd!r} is named by only one of classes and {data.name!r}: make the two lists agree.")

    def image(i: int) -> Image.Image:
        return data[i].image

    return _Seen(data.name, _table(rows + skipped), tuple(data.classes), image, problems, list(notes), ignored)


def _look(data: Dataset, i: int) -> Scan:
    try:
        image = data[i].image
    except BadImage as error:
        return Scan("", found=error.found, mend=error.mend)
    return Scan("", pixel_hash(image), image.width, image.height)


def _first_pair(duplicates: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series, str] | None:
    """Two rows of the first group that disagrees in ``column``, and words for how many more groups do."""
    groups = [rows for _, rows in duplicates.groupby("group", sort=False) if rows[column].nunique() > 1]
    if not groups:
        return None
    a = groups[0].iloc[0]
    b = groups[0][groups[0][column] != a[column]].iloc[0]
    return a, b, f", and {len(groups) - 1} more such groups" if len(groups) > 1 else ""


def _exact(good: pd.DataFrame) -> pd.DataFrame:
    rows = good[good.duplicated("pixels", keep=False)]
    rows = rows.assign(group=pd.factorize(rows.pixels)[0], kind="exact").sort_values(["group", "id"], kind="stable")
    return rows[["group", "kind", "id", "split", "label"]]


def _near(good: pd.DataFrame, image: Callable[[int], Image.Image], bits: int, progress: bool) -> pd.DataFrame:
    """Groups of distinct pictures linked by perceptual hashes at most ``bits`` of 64 apart."""
    one = good.drop_duplicates("pixels")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(lambda i: np.packbits(imagehash.phash(image(i)).hash), one["at"])
        codes = list(tqdm(hashes, "comparing images", len(one), False, disable=not progress))
    code = np.array(codes, dtype=np.uint8).reshape(-1, 8).view(np.uint64).ravel()  # [B]
    root = np.arange(len(code))
    for i in range(len(code)):
        close = np.flatnonzero(np.bitwise_count(code[i + 1 :] ^ code[i]) <= bits) + i + 1
        if len(close):
            roots = np.unique(root[[i, *close]])
            root[np.isin(root, roots)] = roots[0]
    rows = one.assign(group=root, kind="near")
    rows = rows[rows.duplicated("group", keep=False)]
    return rows.assign(group=pd.factorize(rows.group)[0])[["group", "kind", "id", "split", "label"]].sort_values(
        ["group", "id"], kind="stable"
    )


def _counts(good: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    counts = pd.crosstab(good.label, good.split).reindex(index=list(classes), fill_value=0)
    columns = [*SPLITS, *(["no split"] if "no split" in counts else [])]
    counts = counts.reindex(columns=columns, fill_value=0).astype(int)
    counts["all"] = counts.sum(axis=1)
    return counts.rename_axis(index="class", columns=None).reset_index()


def _about_order(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """What there is to say about ``names`` (the data's order), its sorted order, and the order that the user gave."""
    order, out = sorted(names), []
    if wanted is None:
        if names and all(n.isdecimal() for n in names) and order != sorted(names, key=int):
            first = ", ".join(order[:4])
            out.append(
                f"the class names are numbers and sort as text ({first} ...): give classes in the order you mean."
            )
        return out
    if set(wanted) != set(names):
        return out  # a problem, and told as such
    if list(wanted) == order:
        out.append("the class list given is in sorted order, as the folder names are.")
    else:
        i = next(i for i, (a, b) in enumerate(zip(wanted, order, strict=True)) if a != b)
        out.append(
            f"the class list given is not in sorted order (index {i} is {wanted[i]!r}, sorted {order[i]!r}): give it "
            "wherever the data are opened, or labels will mean something else."
        )
    if list(wanted) != list(names):
        i = next(i for i, (a, b) in enumerate(zip(wanted, names, strict=True)) if a != b)
        out.append(
            f"the data set was opened with {names[i]!r} at index {i}, the class list has {wanted[i]!r}: reopen it."
        )
    return out


def _listed(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return ["", f"{title} ({len(lines)})", *(f"  {line}" for line in lines[:SHOWN]), *more]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of a data spec; returns 0 without problems, else 1."""
    parser = argparse.ArgumentParser("python -m hc_lafter.data.doctor", description=__doc__)
    parser.add_argument(
        "data",
        metavar="SPEC",
        help="a folder of class folders, a csv with the columns path and label, a published emotion set (its folder, "
        "or emoset:FOLDER, fi:FOLDER and so on) or a published segmentation set (voc:FOLDER and so on)",
    )
    parser.add_argument("--skip", action="store_true", help="unreadable files are listed and no problem")
    parser.add_argument("--near", action="store_true", help="look for near-duplicates too")
    parser.add_argument("--classes", type=lambda s: s.split(","), help="a,b,c: class names in label order")
    parser.add_argument("--seed", type=int, default=0, help="of the division, where no splits are given")
    parser.add_argument("--cache", type=Path, help="a folder that remembers the check of each file")
    args = parser.parse_args(argv)
    if is_mask_spec(args.data) and (args.skip or args.near or args.classes or args.cache):
        parser.error("a segmentation set takes --seed only: leave the other options out")
    report = examine(args.data, classes=args.classes, seed=args.seed, skip=args.skip, near=args.near, cache=args.cache)
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(
        errors="backslashreplace"
    )  # a console that lacks a file name's letters still gets the report
    raise SystemExit(main())
