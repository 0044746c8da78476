"""What is wrong with a data set, before it is trained on: ``python -m hc_lafter.data.doctor SPEC``.

One `Report` for all: class folders, tables, published emotion and segmentation sets, any other `Dataset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd

from hc_lafter import commands
from hc_lafter.data.decode import BadImage, pixel_hash
from hc_lafter.data.emotion.sets import list_data
from hc_lafter.data.masks.checks import about_order, area_tables
from hc_lafter.data.masks.sets import MaskFiles, is_mask_spec
from hc_lafter.data.own.images import ImageFiles, Scan, threaded
from hc_lafter.data.record import IGNORE, SPLITS, Dataset
from hc_lafter.files import check_place
from hc_lafter.refusals import some

FEW = 10  # images per class below which one image moves its accuracy by ten points or more, and per test split
THIN = 20  # long side / short side; CLIP's transform scales the short side to 224, and so makes it a huge picture first
SHOWN = 10  # lines per list; the tables hold all
BROKEN = ["id", "split", "label", "file", "found", "remedy"]
DUPLICATES = ["group", "kind", "id", "split", "label"]


@dataclass(frozen=True)
class Report:
    """What `examine` found.

    Attributes:
        name: the data set's.
        content: how many images of what are readable, in words.
        problems: what makes its numbers wrong or keeps it from opening, one sentence each, the worst first.
        remarks: what one should know, one sentence each.
        counts: one row per class in label order; readable images in train, val, test, without a split, and in all. Of a
            segmentation set one row per split: images listed, those whose pair is sound, and the share of their pixels
            that is ignored.
        classes: index, class, and the class that sorted order has at that index. Of a segmentation set index, class,
            for each named split of the set whether the class is seen or unseen, and per data split the images that show
            it and its share of the pixels that are not ignored.
        broken: unreadable files: id, split, label, file, found, remedy.
        duplicates: id, split, label of images that have an equal, by ``group``; ``kind`` is "exact" (equal pixels once
            decoded) or "near" (perceptual hashes within a few bits: look at them before you believe it).
        ignored: files that are not images.
    """

    name: str
    content: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    counts: pd.DataFrame
    classes: pd.DataFrame
    broken: pd.DataFrame
    duplicates: pd.DataFrame
    ignored: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems; remarks are allowed."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report for people, one line each, the verdict first."""
        verdict = "no problems" if self.ok else f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        out = [f"{self.name}: {self.content}, {verdict}"]
        out += [f"PROBLEM: {p}" for p in self.problems] + [f"note: {r}" for r in self.remarks]
        if "sound" in self.counts:
            out += _printed("images per split", self.counts)
            out += _printed("images and share of pixels per class", self.classes)
        elif not self.counts.empty:
            out += _printed("images per class and split", self.counts)
            out += ["", "class order: " + ", ".join(f"{i} {c}" for i, c in self.classes[["index", "class"]].values)]
        out += _listed("unusable files", [f"{r.file} {r.found}: {r.remedy}" for r in self.broken.itertuples()])
        groups = [
            f"{kind}: "
            + " = ".join(f"{r.id} ({', '.join(filter(None, (r.split, r.label)))})" for r in rows.itertuples())
            for (kind, _), rows in self.duplicates.groupby(["kind", "group"], sort=False)
        ]
        return out + _listed("duplicates", groups) + _listed("files that are not images", list(self.ignored))


def _printed(title: str, table: pd.DataFrame) -> list[str]:
    return ["", title, *table.to_string(index=False, float_format="{:.4f}".format).split("\n")]


def _listed(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return ["", f"{title} ({len(lines)})", *(f"  {line}" for line in lines[:SHOWN]), *more]


def examine(
    data: Dataset | str | Path,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    skip: bool = False,
    near: bool = False,
    near_bits: int = 4,
    cache: Path | None = None,
    progress: bool = True,
) -> Report:
    """Examine a data set: any `Dataset`, or a spec as `open_data` takes it, which need not be fit to be opened.

    Args:
        data: the path of a folder, a csv or a published set, ``fi:PATH`` or ``voc:PATH`` and the like, or a data set
            (whose own classes, splits and skipped files count; ``seed`` and ``cache`` then have no effect). For a
            segmentation set only ``seed`` and ``progress`` of the options mean anything.
        classes: names in the order that the user means; compared with the data's.
        skip: unreadable files are listed as a remark and no problem, as ``on_error="skip"`` opens them.
        near: look for near-duplicates too (perceptual hash `imagehash.phash`, 64 bits; decodes everything once more).
        near_bits: how many of the 64 bits may differ.

    Returns:
        The report. What would keep a spec from opening is a problem in it, not an exception.
    """
    opened = isinstance(data, Dataset)
    try:
        if not opened and is_mask_spec(data):
            data = MaskFiles(data, seed=seed, complete=False)
        elif not opened:
            options = {"classes": classes, "seed": seed, "cache": cache, "progress": progress}
            data = ImageFiles(list_data(data), on_error="report", **options)
    except ValueError as error:  # there is nothing to look at
        nothing, broken, duplicates = (pd.DataFrame(columns=c) for c in ([], BROKEN, DUPLICATES))
        content = "0 readable images in 0 classes"
        return Report(str(data), content, (str(error),), (), nothing, nothing, broken, duplicates, ())
    table, areas = _see(data, progress)
    good, bad = table[table.found.isna()], table[table.found.notna()]
    exact = _exact(good)
    problems = _pair(
        exact,
        "split",
        "the same picture lies in two splits, {a.id} ({a.split}) and {b.id} ({b.split}){more}: delete one of the two, "
        "or take it from its list; else test accuracy measures memory.",
    )
    problems += getattr(data, "problems", [])
    notes, remarks = list(getattr(data, "notes", ())), []
    if getattr(data, "broken", ()):
        del notes[0]  # it counts the unreadable files, which follow
    if isinstance(data, MaskFiles):
        more, about_numbers = about_order(data)
        problems, notes = problems + more, notes + about_numbers
    if opened and classes is not None and set(classes) != set(data.classes):
        odd = min(set(classes) ^ set(data.classes))
        problems.append(f"class {odd!r} is named by only one of classes and {data.name!r}: make the two lists agree.")
    if len(bad):
        first = bad.iloc[0]
        text = f"{len(bad)} of {len(table)} files cannot be used, the first is {first.file}, which {first.found}"
        if skip or (opened and isinstance(data, ImageFiles)):  # a data set that is open has been allowed to skip them
            remarks.append(f"{text}: {first.remedy} (they are skipped).")
        else:
            offer = ", or skip them (--skip, on_error='skip')" if areas is None else ""
            problems.append(f"{text}: {first.remedy}{offer}.")
    problems += _pair(
        exact,
        "label",
        "the same picture has two labels, {a.id} ({a.label}) and {b.id} ({b.label}){more}: keep it in one class.",
    )
    remarks += notes
    duplicates = [exact]
    if areas is None:
        counts, order = _counts(good, data.classes), sorted(data.classes)
        columns = {"index": range(len(order)), "class": list(data.classes), "sorted": order}
        class_table, number = pd.DataFrame(columns), int(counts["all"].sum())
        content = f"{number} readable images in {len(class_table)} classes"
        remarks += _about_images(good, exact, counts) + _about_names(data.classes, classes)
    else:
        counts, class_table = area_tables(data, areas)
        content = f"{counts['sound'].sum()} images with masks of {len(class_table)} classes"
        shown = class_table[[f"{s} images" for s in SPLITS]].sum(axis=1) > 0
        if not shown.all():
            unseen = class_table["class"][~shown]
            remarks.append(f"no mask shows {', '.join(unseen)} ({len(unseen)} of {len(class_table)} classes).")
    if near:
        duplicates.append(_near(good, data, near_bits, progress))
        remarks += _pair(
            duplicates[-1],
            "split",
            "two pictures in two splits look alike, {a.id} ({a.split}) and {b.id} ({b.split}){more}: look at them, and "
            "delete one if they show the same.",
        )
    ignored = getattr(data, "ignored", ())
    if ignored:
        remarks.append(f"files without an image's extension are ignored ({len(ignored)}, first {ignored[0]}).")
    return Report(
        name=data.name,
        content=content,
        problems=tuple(problems),
        remarks=tuple(remarks),
        counts=counts,
        classes=class_table,
        broken=bad[BROKEN].reset_index(drop=True),
        duplicates=pd.concat(duplicates, ignore_index=True),
        ignored=tuple(ignored),
    )


# ---------------------------------------------------------------- one row per file, whatever the data set


def _see(data: Dataset, progress: bool) -> tuple[pd.DataFrame, list[np.ndarray | None] | None]:
    """One row per file, those that the data set has left out as unreadable included, and the areas of masks.

    ``at`` is the record's index, -1 of a file that has none.
    """
    skipped, areas = [], None
    if isinstance(data, ImageFiles):
        scans, files = [data.scans[i] for i in data.kept], data.ids
        skipped = [(item, s) for item, s in zip(data.listing.items, data.scans, strict=True) if s.found]
    else:
        looks = threaded(lambda i: _look(data, i), range(len(data)), progress=progress)
        files, scans = [file for file, _, _ in looks], [s for _, s, _ in looks]
        areas = None if data.classes else [area for _, _, area in looks]
    table = data.split_table().assign(file=files, at=range(len(data)))
    rest = [
        (item.id, item.split or "no split", item.label, f"{item.id} ({item.where})" if item.where else item.id, -1)
        for item, _ in skipped
    ]
    table = pd.concat([table, pd.DataFrame(rest, columns=table.columns)], ignore_index=True)
    found = pd.DataFrame(
        [asdict(s) for s in [*scans, *(s for _, s in skipped)]], columns=[f.name for f in fields(Scan)]
    )
    return table.join(found), areas


def _look(data: Dataset, i: int) -> tuple[str, Scan, np.ndarray | None]:
    """What errors call a record, what its picture is, and the pixels per mask index."""
    try:
        record = data[i]
    except BadImage as error:
        return error.name, Scan("", found=error.found, remedy=error.remedy), None
    area = None if record.mask is None else np.bincount(record.mask.ravel(), minlength=IGNORE + 1).astype(np.int32)
    return record.id, Scan("", pixel_hash(record.image), record.image.width, record.image.height), area


# ---------------------------------------------------------------- checks


def _pair(duplicates: pd.DataFrame, column: str, sentence: str) -> list[str]:
    """The sentence on two rows of the first group that disagrees in ``column``, if there is one.

    ``{a...}`` and ``{b...}`` in it are the rows, ``{more}`` says how many more groups disagree.
    """
    groups = [rows for _, rows in duplicates.groupby("group", sort=False) if rows[column].nunique() > 1]
    if not groups:
        return []
    a = groups[0].iloc[0]
    b = groups[0][groups[0][column] != a[column]].iloc[0]
    return [sentence.format(a=a, b=b, more=f", and {len(groups) - 1} more such groups" if len(groups) > 1 else "")]


def _exact(good: pd.DataFrame) -> pd.DataFrame:
    rows = good[good.duplicated("pixels", keep=False)]
    rows = rows.assign(group=pd.factorize(rows.pixels)[0], kind="exact").sort_values(["group", "id"], kind="stable")
    return rows[DUPLICATES]


def _near(good: pd.DataFrame, data: Dataset, bits: int, progress: bool) -> pd.DataFrame:
    """Groups of distinct pictures linked by perceptual hashes at most ``bits`` of 64 apart."""
    one = good.drop_duplicates("pixels")
    codes = threaded(
        lambda i: np.packbits(imagehash.phash(data[i].image).hash),
        one["at"],
        progress=progress,
        title="comparing images",
    )
    code = np.array(codes, dtype=np.uint8).reshape(-1, 8).view(np.uint64).ravel()  # [B]
    root = np.arange(len(code))
    for i in range(len(code)):
        close = np.flatnonzero(np.bitwise_count(code[i + 1 :] ^ code[i]) <= bits) + i + 1
        if len(close):
            roots = np.unique(root[[i, *close]])
            root[np.isin(root, roots)] = roots[0]
    rows = one.assign(group=root, kind="near")
    rows = rows[rows.duplicated("group", keep=False)]
    return rows.assign(group=pd.factorize(rows.group)[0])[DUPLICATES].sort_values(["group", "id"], kind="stable")


def _counts(good: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    counts = pd.crosstab(good.label, good.split).reindex(index=list(classes), fill_value=0)
    columns = [*SPLITS, *(["no split"] if "no split" in counts else [])]
    counts = counts.reindex(columns=columns, fill_value=0).astype(int)
    counts["all"] = counts.sum(axis=1)
    return counts.rename_axis(index="class", columns=None).reset_index()


def _about_images(good: pd.DataFrame, exact: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """Remarks on repeats, small classes and pictures of odd shapes."""
    out = []
    same = exact[exact.duplicated(["group", "split", "label"], keep=False)]
    if spare := int(same.duplicated(["group", "split", "label"]).sum()):
        a, b = same.iloc[0], same[same.group == same.iloc[0].group].iloc[1]
        out.append(f"images repeat another of their class and split ({spare}, first {b.id} = {a.id}): delete them.")
    if few := [f"{name} ({n})" for name, n in zip(counts["class"], counts["all"], strict=True) if n < FEW]:
        out.append(f"fewer than {FEW} readable images in class {', '.join(few)}: add some.")
    if 0 < (n := counts["test"].sum()) < FEW:
        out.append(
            f"the test split has {n} readable images, too few for the notebooks, whose intervals take {FEW}: add some."
        )
    lone = counts["class"][counts["train"] == 1]
    if len(lone):
        out.append(f"a single training image in class {some(lone)}: what takes two of a class is left out; add some.")
    thin = good[good[["width", "height"]].max(axis=1) > THIN * good[["width", "height"]].min(axis=1)]
    if len(thin):
        r = thin.iloc[0]
        out.append(
            f"images are more than {THIN} times as long as wide ({len(thin)}, first {r.id}, {r.width} x {r.height} "
            "pixels): crop them, for the square that CLIP sees holds little of them."
        )
    return out


_UNSORTED = (
    "the class list given is not in sorted order (index {0} is {1!r}, sorted {2!r}): give it wherever the data are "
    "opened, or labels will mean something else."
)
_REOPEN = "the data set was opened with {2!r} at index {0}, the class list has {1!r}: reopen it."


def _about_names(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Remarks on ``names`` (the data's order), its sorted order, and the order ``wanted`` that the user gave."""
    order, out = sorted(names), []
    if wanted is None and names and all(n.isdecimal() for n in names) and order != sorted(names, key=int):
        first = ", ".join(order[:4])
        out.append(f"the class names are numbers and sort as text ({first} ...): give classes in the order you mean.")
    if wanted is None or set(wanted) != set(names):  # the latter is a problem, not a remark
        return out
    out += ["the class list given is in sorted order, as the folder names are."] if list(wanted) == order else []
    for others, sentence in ((order, _UNSORTED), (names, _REOPEN)):
        differ = [(i, a, b) for i, (a, b) in enumerate(zip(wanted, others, strict=True)) if a != b]
        out += [sentence.format(*differ[0])] if differ else []
    return out


@commands.answers
def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of a data spec; returns 0 without problems, else 1, or 2 where the request cannot be met."""
    parser = commands.doctor()
    args = parser.parse_args(argv)
    if args.data == "world" and not Path(args.data).exists():
        parser.error("the world is drawn by the package and has no files to examine: name a folder, a csv or a set")
    if is_mask_spec(args.data) and (args.skip or args.near or args.classes or args.cache):
        parser.error("a segmentation set takes --seed only: leave the other options out")
    if args.cache:
        check_place(args.cache.absolute())
    report = examine(args.data, classes=args.classes, seed=args.seed, skip=args.skip, near=args.near, cache=args.cache)
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    commands.print_anything()
    raise SystemExit(main())
