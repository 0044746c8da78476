"""The published segmentation sets: each exact layout, good and broken, and one sentence for whatever is wrong."""

import os
import pickle
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hc_lafter.data import open_data
from hc_lafter.data.decode import BadImage
from hc_lafter.data.doctor import examine, main
from hc_lafter.data.masks import names
from hc_lafter.data.masks.checks import context_order
from hc_lafter.data.masks.formats import list_context, read_indices
from hc_lafter.data.masks.sets import SETS, MaskFiles, is_mask_spec, mask_split, names_of, split_or_all, templates_of
from hc_lafter.data.record import IGNORE, SPLITS
from hc_lafter.data.world.dataset import World
from hc_lafter.suite.runner import fingerprint

ALL = {"n_train": 10_000, "n_val": 10_000, "n_test": 10_000}
WIDTH, HEIGHT = 8, 6
PALETTE = [(37 * i) % 256 for i in range(768)]  # colours that are not the indices


# ---------------------------------------------------------------- small trees in the exact formats


def paint(path, seed, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def write_mask(path, values, palette=True):
    """A palette PNG, as VOC has them, or one of grey values, as converters write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if palette:
        image.putpalette(PALETTE)  # turns it into mode P
    image.save(path)
    with Image.open(path) as image:
        assert image.mode == ("P" if palette else "L")


def values_of(seed, allowed):
    """[HEIGHT, WIDTH] of a few of the allowed values, the border (255) included."""
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.choice(list(allowed), 3), (HEIGHT, WIDTH)).astype(np.uint8)
    values[0] = IGNORE
    return values


def write_list(path, stems):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def voc(root, train=20, val=5, aug=10):
    """Like the release: VOCdevkit/VOC2012; ``trainaug.txt`` holds the added images and those of train.txt."""
    home = root / "VOCdevkit" / "VOC2012"
    stems = {
        "train": [f"2007_{i:06d}" for i in range(train)],
        "val": [f"2008_{i:06d}" for i in range(val)],
        "aug": [f"2009_{i:06d}" for i in range(aug)],
    }
    for k, (part, group) in enumerate(stems.items()):
        for i, stem in enumerate(group):
            paint(home / "JPEGImages" / f"{stem}.jpg", 1000 * k + i)
            values = values_of(1000 * k + i, range(21))
            if part != "aug":
                write_mask(home / "SegmentationClass" / f"{stem}.png", values)
            if part != "val":  # for images of train.txt another drawing, which must not be read
                drawn = values if part == "aug" else np.zeros_like(values)
                write_mask(home / "SegmentationClassAug" / f"{stem}.png", drawn, palette=False)
    lists = home / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", stems["train"])
    write_list(lists / "val.txt", stems["val"])
    write_list(lists / "aug.txt", stems["aug"])
    write_list(lists / "trainaug.txt", stems["train"] + stems["aug"])
    return root


def context(root, order="alphabetical", train=20, val=5, own=()):
    """VOC2010 with masks in one of the two orders; ``own``: stems that also have VOC's own mask."""
    home, classes = root / "VOCdevkit" / "VOC2010", names.CONTEXT_ORDERS[order]
    for split, prefix, count in (("train", "2008", train), ("val", "2010", val)):
        stems = [f"{prefix}_{i:06d}" for i in range(count)]
        write_list(home / "ImageSets" / "SegmentationContext" / f"{split}.txt", stems)
        for i, stem in enumerate(stems):
            paint(home / "JPEGImages" / f"{stem}.jpg", 100 * len(split) + i)
            shown = [(7 * i + k) % 20 for k in (0, 3)]  # of VOC's twenty
            words = [{"diningtable": "table"}.get(names.VOC[v], names.VOC[v]) for v in shown]
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            values[:3], values[3:5] = classes.index(words[0]) + 1, classes.index(words[1]) + 1
            write_mask(home / "SegmentationClassContext" / f"{stem}.png", values, palette=False)
            if own and i in own:
                drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
                drawn[:2], drawn[3:4] = shown[0] + 1, shown[1] + 1
                write_mask(home / "SegmentationClass" / f"{stem}.png", drawn)
    return root


def coco(root, kind="converted", train=20, val=5):
    """coco_stuff164k with raw or converted masks (the raw ones stay beside these), or coco_object."""
    home = root / ("coco_object" if kind == "object" else "coco_stuff164k")
    for folder, count, start in (("train2017", train, 0), ("val2017", val, 500)):
        for i in range(start, start + count):
            stem = f"{i:012d}"
            paint(home / "images" / folder / f"{stem}.jpg", i)
            masks = home / "annotations" / folder
            if kind == "object":
                write_mask(masks / f"{stem}_instanceTrainIds.png", values_of(i, range(81)), palette=False)
                continue
            raw = values_of(i, names.COCO_RAW_IDS)
            write_mask(masks / f"{stem}.png", raw, palette=False)
            if kind == "converted":
                values = [[IGNORE if v == IGNORE else names.COCO_RAW_IDS.index(v) for v in row] for row in raw]
                write_mask(masks / f"{stem}_labelTrainIds.png", values, palette=False)
    return root


BUILD = {
    "voc": voc,
    "voc_aug": voc,
    "context59": context,
    "coco_stuff": coco,
    "coco_object": lambda root: coco(root, "object"),
}


def home_of(root):
    return next(p.parent for p in root.rglob("*") if p.name in ("JPEGImages", "annotations"))


def refuses(message, spec, error=ValueError, **options):
    """Opening fails with one sentence that matches and that says what to do."""
    with pytest.raises(error, match=message) as caught:
        MaskFiles(spec, **options)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text
    return text


def fake(mask_classes, name="fake"):
    return SimpleNamespace(name=name, mask_classes=mask_classes)


# ---------------------------------------------------------------- class names and named splits


def indices(classes, chosen):
    return sorted(classes.index(name) for name in chosen)


def test_class_lists():
    assert len(names.VOC) == len(set(names.VOC)) == 20 and names.VOC[14:16] == ("person", "pottedplant")
    a, b = names.CONTEXT_ALPHABETICAL, names.CONTEXT_VOC_FIRST
    assert len(a) == len(set(a)) == 59 and set(a) == set(b) and list(a) == sorted(a)
    assert [{"diningtable": "table"}.get(n, n) for n in names.VOC] == list(b[:20])
    assert len(names.COCO_STUFF) == len(set(names.COCO_STUFF)) == 171 and len(names.COCO_THINGS) == 80
    assert list(names.COCO_STUFF[80:]) == sorted(names.COCO_STUFF[80:])
    # COCO's category ids are the raw ids plus one: 1 person, 13 stop sign (12 is a gap), 90 toothbrush, 92 banner
    raw = dict(zip(names.COCO_STUFF, names.COCO_RAW_IDS, strict=True))
    assert (raw["person"], raw["stop sign"], raw["toothbrush"], raw["banner"], raw["wood"]) == (0, 12, 89, 91, 181)


def test_named_splits_are_the_published_indices():
    def of(split, classes):
        found = mask_split(split, fake(classes))
        assert set(found.seen) | set(found.unseen) == set(classes) and not set(found.seen) & set(found.unseen)
        assert found.is_unseen(classes).sum() == len(found.unseen)
        return indices(classes, found.unseen), [classes[i] for i in np.flatnonzero(found.is_unseen(classes))]

    a, b = names.CONTEXT_ALPHABETICAL, names.CONTEXT_VOC_FIRST
    released = [0, 2, 3, 7, 9, 13, 17, 19, 31, 37]  # Cascade-CLIP's novel_class
    assert of("cascade_released10", a)[0] == released
    assert of("zs3net10", b)[0] == released
    assert of("zs3net10", a)[0] == [0, 6, 7, 14, 19, 24, 31, 33, 48, 54]
    assert of("voc15-5", names.VOC)[0] == [15, 16, 17, 18, 19]
    assert of("coco156-15", names.COCO_STUFF)[0] == [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]
    assert of("world24-8", World.mask_classes)[1] == ["sea", "wall", "moon", "house", "dog", "cake", "skull", "spider"]


def test_the_only_split_is_the_default():
    for classes, expected in ((names.VOC, "voc15-5"), (names.COCO_STUFF, "coco156-15")):
        assert mask_split(None, fake(classes)).name == expected
    assert mask_split(None, World(1, 0, 0)).name == "world24-8"
    assert mask_split(None, World(2, 0, 1).subset([0])).unseen == mask_split("world24-8", World(1, 0, 0)).unseen


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        (None, names.CONTEXT_ALPHABETICAL, r"no split is given .*: choose one of zs3net10, cascade_released10\.$"),
        ([0, 2, 3], names.CONTEXT_ALPHABETICAL, r"split \[0, 2, 3\] is not a name, and indices mean other classes"),
        (15, names.VOC, r"split 15 is not a name"),
        ("voc15_5", names.VOC, r"'voc15_5' is not of this set .*did you mean 'voc15-5'\?\): choose one of voc15-5"),
        ("zs3net10", names.VOC, r"split 'zs3net10' is not of this set for the 20 mask classes of 'fake'"),
        (None, names.COCO_THINGS, r"it has no named split, so score all its classes\.$"),
        ("voc15-5", (names.BACKGROUND, *names.VOC), r"has background as a class, .*: open it by a prefix"),
        (None, None, r"no split is given for the 0 mask classes"),
    ],
)  # fmt: skip
def test_other_splits_are_refused(name, classes, message):
    with pytest.raises(ValueError, match=message):
        mask_split(name, fake(classes))


def test_names_and_templates():
    world = World(1, 0, 0)
    own = names_of(world)
    assert list(own) == list(world.mask_classes) and own["cloud"] == ("clouds",) and own["tree"] == ("tree",)
    assert "a picture of {}" in templates_of(world)
    with_background = fake((names.BACKGROUND, *names.VOC))
    assert names_of(with_background)["tvmonitor"] == ("tvmonitor",)
    sclip = names_of(with_background, "sclip")
    assert list(sclip) == list(with_background.mask_classes) and sclip["boat"] == ("ship",) and sclip["dog"] == ("dog",)
    assert len(sclip["background"]) == 26 and sclip["person"][0] == "person" and len(sclip["person"]) == 7
    single = names_of(with_background, "clearclip")
    assert {len(words) for words in single.values()} == {1}
    assert (single["background"], single["boat"], single["tvmonitor"]) == (("background",), ("ship",), ("tvmonitor",))
    assert split_or_all(None, with_background).unseen == () and split_or_all(None, world) == mask_split(None, world)
    assert names.BACKGROUND not in names_of(fake(names.VOC), "sclip")
    assert names_of(fake(names.COCO_STUFF), "sclip")["traffic light"] == ("trafficlight",)
    templates = templates_of(with_background)
    assert len(templates) == 80 and "a photo of a {}." in templates and all(t.count("{}") == 1 for t in templates)
    for style, data, message in (
        ("cls", world, "names 'cls' are unknown: choose 'class', 'sclip' or 'clearclip'"),
        ("sclip", world, "'sclip' has no words for the mask classes of 'world'"),
        ("class", fake(None), "data set 'fake' has no masks"),
    ):
        with pytest.raises(ValueError, match=message):
            names_of(data, style)


# ---------------------------------------------------------------- sound sets


@pytest.mark.parametrize("prefix", BUILD)
def test_a_sound_set(prefix, tmp_path):
    BUILD[prefix](tmp_path)
    data = open_data(f"{prefix}:{home_of(tmp_path)}", **ALL)
    assert isinstance(data, MaskFiles) and data.classes == () and data.name == prefix
    train = 28 if prefix == "voc_aug" else 18
    assert [(data.splits == s).sum() for s in SPLITS] == [train, 2, 5]
    assert len(set(data.ids)) == len(data) == train + 7 and (data.labels == -1).all()
    for split in SPLITS:
        part = data.split(split)
        record = part[0]
        assert (record.id, record.split) == (part.ids[0], split) and record.image.size == (WIDTH, HEIGHT)
        assert (record.label, record.label_name, record.distribution) == (-1, "", None)
        assert record.mask.shape == (HEIGHT, WIDTH) and record.mask.dtype == np.uint8
        assert (record.mask[record.mask != IGNORE] < len(data.mask_classes)).all()
    table = data.split_table()
    assert table["id"].tolist() == data.ids and table["split"].tolist() == data.splits.tolist()
    report = examine(data, progress=False)
    assert report.ok and report.counts["images"].tolist() == [train, 2, 5] == report.counts["sound"].tolist()


def test_masks_are_indices_and_never_colours(tmp_path):
    voc(tmp_path)
    ignored, counted = (MaskFiles(f"{prefix}:{tmp_path}") for prefix in ("voc", "voc21"))
    assert ignored.mask_classes == names.VOC and counted.mask_classes == ("background", *names.VOC)
    seen = set()
    for i in range(len(ignored)):
        stem, split = ignored.ids[i], ignored.splits[i]
        values = values_of(int(stem[5:]) + (1000 if split == "test" else 0), range(21))  # what ``voc`` wrote
        np.testing.assert_array_equal(counted[i].mask, values)
        np.testing.assert_array_equal(ignored[i].mask, np.where((values == 0) | (values == IGNORE), IGNORE, values - 1))
        seen |= set(values.ravel().tolist())
    assert {0, 20, IGNORE} <= seen
    assert (ignored.name, counted.name) == ("voc", "voc21")
    assert "background pixels are ignored." in ignored.notes and "background is a class (index 0)." in counted.notes


def test_aug_masks_only_where_the_set_has_none_of_its_own(tmp_path):
    voc(tmp_path)
    plain, aug = MaskFiles(f"voc:{tmp_path}"), MaskFiles(f"voc_aug:{tmp_path}")
    assert set(plain.ids) < set(aug.ids) and sum(i.startswith("2009") for i in aug.ids) == 10
    for split in ("val", "test"):  # val is the same for both, and none of SBD's coarser masks is in it
        assert plain.split(split).ids == aug.split(split).ids
    for i, stem in enumerate(aug.ids):
        where = "SegmentationClassAug" if stem.startswith("2009") else "SegmentationClass"
        assert aug.listing.pairs[i].mask.parent.name == where
    (home_of(tmp_path) / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    assert MaskFiles(f"voc_aug:{tmp_path}").ids == aug.ids  # from train.txt and aug.txt


@pytest.mark.parametrize("name", ["train_aug.txt", "trainAug.txt", "trainaug.txt"])
def test_lists_of_the_augmented_set_as_they_are_passed_on(name, tmp_path):
    """Other spellings of the name, and lines of two paths in the place of a name."""
    voc(tmp_path)
    lists = home_of(tmp_path) / "ImageSets" / "Segmentation"
    expected = MaskFiles(f"voc_aug:{tmp_path}").ids
    stems = (lists / "trainaug.txt").read_text().split()
    for old in ("trainaug.txt", "aug.txt"):
        (lists / old).unlink()
    write_list(lists / name, [f"/JPEGImages/{s}.jpg /SegmentationClassAug/{s}.png" for s in stems])
    assert MaskFiles(f"voc_aug:{tmp_path}").ids == expected
    (lists / name).write_text("\r\n".join([*stems, "", ""]))
    assert MaskFiles(f"voc_aug:{tmp_path}").ids == expected
    (lists / name).unlink()
    (lists / "train.txt").rename(lists / "Train_.txt")
    refuses(r"train\.txt does not exist \(did you mean 'Train_.txt'\?\): fetch it", f"voc:{tmp_path}")


def test_val_is_a_seeded_piece_of_train_and_never_of_test(tmp_path):
    voc(tmp_path)
    spec = f"voc:{tmp_path}"
    first, again, other = MaskFiles(spec), MaskFiles(spec), MaskFiles(spec, seed=1)
    assert first.splits.tolist() == again.splits.tolist() != other.splits.tolist()
    for data in (first, other):
        assert all(i.startswith("2008") == (s == "test") for i, s in zip(data.ids, data.splits, strict=True))
    assert any(
        n == "val, to choose on, is 2 of the 20 images of the official train (seed 0); test is the official val, since "
        "the set has no public test masks." for n in first.notes
    )  # fmt: skip
    assert open_data(spec, **ALL, seed=1).splits.tolist() == other.splits.tolist()
    assert len(open_data(spec, n_train=4, n_val=1, n_test=3)) == 8


@pytest.mark.parametrize("order", names.CONTEXT_ORDERS)
@pytest.mark.parametrize("background", ["ignore", "class"])
def test_context_in_either_order(order, background, tmp_path):
    context(tmp_path, order)
    prefix = f"context{59 if background == 'ignore' else 60}{'_voc_first' if order == 'voc_first' else ''}"
    data = MaskFiles(f"{prefix}:{tmp_path}")
    assert len(data.mask_classes) == (59 if background == "ignore" else 60)
    record = data.split("test")[0]
    found = {data.mask_classes[v] for v in np.unique(record.mask) if v != IGNORE} - {"background"}
    assert found == {"aeroplane", "boat"}  # whatever the numbers, the names are right


def test_raw_and_converted_coco_are_one(tmp_path):
    raw = MaskFiles(f"coco_stuff:{coco(tmp_path / 'a', 'raw')}")
    converted = MaskFiles(f"coco_stuff:{coco(tmp_path / 'b', 'converted')}")
    assert raw.mask_classes == converted.mask_classes == names.COCO_STUFF and raw.ids == converted.ids
    for i in range(len(raw)):
        np.testing.assert_array_equal(raw[i].mask, converted[i].mask)
    assert "the masks are raw (0 to 181, of which 11 mean nothing)." in raw.notes
    assert raw.fingerprint != converted.fingerprint


def test_coco_object_counts_background_unless_told(tmp_path):
    coco(tmp_path, "object")
    counted, ignored = (MaskFiles(f"{prefix}:{tmp_path}") for prefix in ("coco_object", "coco_object80"))
    assert counted.mask_classes == ("background", *names.COCO_THINGS) and ignored.mask_classes == names.COCO_THINGS
    for i in range(len(counted)):
        values = counted[i].mask
        np.testing.assert_array_equal(ignored[i].mask, np.where((values == 0) | (values == IGNORE), IGNORE, values - 1))


def test_coco_without_train_has_nothing_to_choose_on(tmp_path):
    coco(tmp_path, train=0)
    data = MaskFiles(f"coco_stuff:{tmp_path}")
    assert set(data.splits) == {"test"} and any("nothing" in n or "no train2017" in n for n in data.notes)
    with pytest.raises(ValueError, match="has no records in the split 'val'"):
        data.split("val")


@pytest.mark.parametrize("place", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_folder_may_be_one_above(place, tmp_path, monkeypatch):
    voc(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(MaskFiles(f"voc:{place}")) == 25
    assert len(MaskFiles(f"VOC:{tmp_path / place}")) == 25


def test_the_set_survives_pickling_as_spawned_workers_need(tmp_path):
    voc(tmp_path)
    data = pickle.loads(pickle.dumps(MaskFiles(f"voc:{tmp_path}")))
    loader = torch.utils.data.DataLoader(data, batch_size=None, sampler=[0, 24], num_workers=0)
    assert [record.id for record in loader] == [data.ids[0], data.ids[24]]


def test_the_fingerprint_knows_files_classes_and_division(tmp_path):
    voc(tmp_path)
    spec = f"voc:{tmp_path}"
    variants = [(spec, 0), (f"voc21:{tmp_path}", 0), (spec, 1)]
    prints = [MaskFiles(s, seed=seed).fingerprint for s, seed in variants]
    assert len(set(prints)) == 3 and prints == [MaskFiles(s, seed=seed).fingerprint for s, seed in variants]
    data = MaskFiles(spec)
    assert data.subset([1, 0]).fingerprint != data.subset([0, 1]).fingerprint
    mask = home_of(tmp_path) / "SegmentationClass" / "2007_000000.png"
    write_mask(mask, np.full((HEIGHT, WIDTH), 3))
    os.utime(mask, ns=(0, 0))
    assert MaskFiles(spec).fingerprint != prints[0]
    with pytest.raises(BadImage, match=r"2007_000000\.png has changed since the data set was opened: open .* again\.$"):
        data[data.ids.index("2007_000000")]


# ---------------------------------------------------------------- broken sets


def test_the_runner_sees_a_changed_mask_and_a_set_that_is_gone(tmp_path):
    root = voc(tmp_path)
    before = fingerprint("data", f"voc:{root}")
    assert before == fingerprint("data", str(root)) == fingerprint("data", f"VOC-aug:{root}")
    write_mask(root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000003.png", values_of(99, range(21)))
    assert fingerprint("data", f"voc:{root}") != before
    with pytest.raises(ValueError, match="neither 'world' nor a folder or file here"):
        fingerprint("data", "voc:gone")


def test_subsets_tell_their_split_without_labels(tmp_path):
    data = MaskFiles(f"voc:{voc(tmp_path)}")
    table = data.subset([0, 3]).split_table()
    assert table["label"].tolist() == ["", ""] and table["id"].tolist() == [data.ids[0], data.ids[3]]


def test_folders_that_are_not_the_set(tmp_path):
    voc(tmp_path)
    home = home_of(tmp_path)
    refuses(r"Segmentation is a part of .*VOC2012\.$", f"voc:{home / 'ImageSets' / 'Segmentation'}")
    refuses(r"VOC201 does not exist \(did you mean 'VOC2012'\?\)", f"voc:{home.parent / 'VOC201'}")
    refuses(r"VOC2012 has no folder SegmentationClassContext: give the folder of PASCAL Context that holds JPEGImages",
            f"context59:{home}")  # fmt: skip
    (home / "SegmentationClass").rename(home / "Masks")
    refuses(r"VOC2012 has no folder SegmentationClass: give", f"voc:{tmp_path}")
    refuses(r"voc: has no path: write voc:FOLDER, the folder of the set\.$", "voc:")
    refuses(r"pets names no segmentation set: write voc:pets or another of voc, voc21", "pets")
    (tmp_path / "images").mkdir()
    refuses(r"has no folder annotations/val2017|has no folder images/val2017", f"coco_stuff:{tmp_path}")


def test_lists_that_cannot_be_used(tmp_path):
    lists = home_of(voc(tmp_path)) / "ImageSets" / "Segmentation"
    good = (lists / "train.txt").read_text()
    for text, message in (
        ("2007_000000 1\n", r"row 1 of .*train\.txt has 2 columns instead of 1"),
        (good + "2008_000001\n", r"2008_000001\.jpg is named by .*train\.txt and by .*val\.txt: remove it from"),
        ("2007_000000\n", r"lists 1 image for train, too few to hold some out for val"),
    ):  # fmt: skip
        (lists / "train.txt").write_text(text)
        refuses(message, f"voc:{tmp_path}")
    (lists / "train.txt").write_bytes(b"\xff\xfe2\x00")
    refuses(r"train\.txt is encoded in UTF-16", f"voc:{tmp_path}")
    (lists / "train.txt").unlink()
    assert refuses(r"train\.txt does not exist: fetch it", f"voc:{tmp_path}") in examine(f"voc:{tmp_path}").problems
    (lists / "train.txt").write_text(good)
    for name in ("trainaug.txt", "aug.txt"):
        (lists / name).unlink()
    refuses(r"trainaug\.txt does not exist", f"voc_aug:{tmp_path}")
    assert len(MaskFiles(f"voc:{tmp_path}")) == 25


@pytest.mark.parametrize("part", ["JPEGImages/2007_000001.jpg", "SegmentationClass/2008_000002.png"])
def test_a_listed_file_that_is_missing(part, tmp_path):
    file = home_of(voc(tmp_path)) / part
    file.unlink()
    refuses(
        rf"{file.name} does not exist, but .*(train|val)\.txt names it: fetch or convert it\.$",
        f"voc:{tmp_path}",
        BadImage,
    )
    report = examine(f"voc:{tmp_path}", progress=False)
    assert (
        not report.ok
        and len(report.broken) == 1
        and report.broken.loc[0, ["file", "found"]].tolist() == [str(file), "does not exist"]
    )
    assert report.counts["sound"].sum() == 24 and report.counts["images"].sum() == 25
    assert "unusable files (1)" in report.lines()
    open_but_for_it = MaskFiles(f"voc:{tmp_path}", complete=False)
    with pytest.raises(BadImage, match=rf"{file.name} does not exist"):
        open_but_for_it[open_but_for_it.ids.index(file.stem)]


def test_coco_halves_that_are_missing(tmp_path):
    home = home_of(coco(tmp_path))
    (home / "images" / "val2017" / "000000000502.jpg").unlink()
    (home / "annotations" / "train2017" / "000000000003_labelTrainIds.png").unlink()
    refuses(
        r"000000000003_labelTrainIds\.png does not exist \(and 1 more files\), but its other half below .* names it",
        f"coco_stuff:{tmp_path}", BadImage,
    )  # fmt: skip
    assert len(examine(f"coco_stuff:{tmp_path}", progress=False).broken) == 2
    refuses(
        r"annotations has no \*_instanceTrainIds\.png below it: convert", f"coco_object:{tmp_path / 'coco_stuff164k'}"
    )
    for file in (home / "images" / "val2017").iterdir():
        file.unlink()
    for file in (home / "annotations" / "val2017").iterdir():
        file.unlink()
    refuses(r"val2017 and .*val2017 hold no images and masks: fetch", f"coco_stuff:{tmp_path}")


def grey4(path):
    """A grey PNG of 4 bits: Pillow would stretch its 3 to 51."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 4, 0, 0, 0, 0)
    rows = b"".join(b"\0" + b"\x33" * (WIDTH // 2) for _ in range(HEIGHT))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with Image.open(path) as image:
        assert np.asarray(image).max() == 51


def value21(path):
    values = np.zeros((HEIGHT, WIDTH))
    values[4, 5] = 21
    write_mask(path, values)


BROKEN = {
    "16 bits": (
        lambda p: Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(p), r"is an image of mode I;16, but a mask"
    ),
    "4 bits": (grey4, r"is an image of mode L of 4 bits, but a mask holds indices"),
    "1 bit": (lambda p: Image.new("1", (WIDTH, HEIGHT)).save(p), r"is an image of mode 1, but a mask"),
    "turned": (lambda p: write_mask(p, np.zeros((WIDTH, HEIGHT))), r"is 6 x 8 pixels, but its image 2007_000001\.jpg"),
    "range": (
        value21,
        r"has the value 21 in row 4, column 5, which none of the 21 classes of PASCAL VOC 2012 has \(0 to 20, or 255\)",
    ),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:60]), r"is not a whole PNG"),
    "jpeg": (lambda p: Image.new("L", (WIDTH, HEIGHT)).save(p, "JPEG"), r"is not a whole PNG"),
    "empty": (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_masks_that_cannot_be_used(kind, tmp_path):
    """The set opens, for nothing is decoded then; the record is refused, and the doctor finds it."""
    file = home_of(voc(tmp_path)) / "SegmentationClass" / "2007_000001.png"
    broke, message = BROKEN[kind]
    broke(file)
    data = MaskFiles(f"voc:{tmp_path}")
    with pytest.raises(BadImage, match=rf"2007_000001\.png {message}") as caught:
        data[data.ids.index("2007_000001")]
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    report = examine(f"voc:{tmp_path}", progress=False)
    assert report.broken.id.tolist() == ["2007_000001"]
    assert f"1 of 25 files cannot be used, the first is {file}, which " in report.problems[0]
    assert report.lines()[0] == "voc: 24 images with masks of 20 classes, 1 problem"


def test_an_image_that_is_damaged(tmp_path):
    file = home_of(voc(tmp_path)) / "JPEGImages" / "2008_000001.jpg"
    file.write_bytes(file.read_bytes()[:200])
    data = MaskFiles(f"voc:{tmp_path}")
    with pytest.raises(BadImage, match=r"2008_000001\.jpg cannot be opened as an image .*: fetch it again"):
        data[data.ids.index("2008_000001")]


def test_raw_ids_that_mean_nothing(tmp_path):
    home = home_of(coco(tmp_path, "raw"))
    write_mask(home / "annotations" / "val2017" / "000000000500.png", np.full((HEIGHT, WIDTH), 11), palette=False)
    data = MaskFiles(f"coco_stuff:{tmp_path}")
    with pytest.raises(BadImage, match=r"has the value 11 in row 0, column 0, which none of the 171 classes"):
        data.split("test")[0]


def test_what_is_a_spec_of_masks(tmp_path, monkeypatch):
    assert all(is_mask_spec(f"{prefix}:folder") for prefix in SETS) and is_mask_spec("coco-stuff:x")
    assert not any(is_mask_spec(s) for s in ("world", "emoset:x", "folder", "C:\\data", tmp_path))
    if os.name != "nt":
        monkeypatch.chdir(tmp_path)
        (tmp_path / "voc:photos").mkdir()
        assert not is_mask_spec("voc:photos")  # a path that exists


def test_indices_of_a_palette_image_of_few_bits(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    image.putpalette(PALETTE)
    image.save(tmp_path / "a.png", bits=2)
    assert (tmp_path / "a.png").read_bytes()[24] == 2
    assert read_indices(tmp_path / "a.png").tolist() == [[0, 1], [2, 3]]


# ---------------------------------------------------------------- the doctor


def test_the_report_counts_what_is_there(tmp_path):
    voc(tmp_path, train=12, val=2)
    spec = f"voc:{tmp_path}"
    data, report = MaskFiles(spec), examine(spec, progress=False)
    assert report.ok and report.broken.empty
    table = report.classes.set_index("class")
    assert (
        table["voc15-5"].value_counts().to_dict() == {"seen": 15, "unseen": 5} and table["voc15-5"]["sofa"] == "unseen"
    )
    for split in SPLITS:
        part = data.split(split)
        masks = np.stack([part[i].mask for i in range(len(part))])
        area = np.bincount(masks.ravel(), minlength=256)
        np.testing.assert_allclose(table[f"{split} share"], area[:20] / area[:20].sum())
        assert table[f"{split} images"].tolist() == [int((masks == c).any((1, 2)).sum()) for c in range(20)]
        row = report.counts.set_index("split").loc[split]
        assert row["images"] == len(part) and row["ignored share"] == pytest.approx(area[IGNORE] / masks.size)
    text = "\n".join(report.lines())
    assert report.lines()[0] == "voc: 14 images with masks of 20 classes, no problems"
    assert "note: val, to choose on, is 1 of the 12 images" in text and "pottedplant  unseen " in text
    gone = [n for n in names.VOC if table.loc[n, [f"{s} images" for s in SPLITS]].sum() == 0]
    assert gone and f"no mask shows {', '.join(gone)} ({len(gone)} of 20 classes)." in report.remarks


def test_a_picture_in_two_splits_is_a_problem(tmp_path):
    home = home_of(voc(tmp_path))
    images, lists = home / "JPEGImages", home / "ImageSets" / "Segmentation"
    (images / "2008_000003.jpg").write_bytes((images / "2007_000004.jpg").read_bytes())
    assert (lists / "val.txt").is_file()
    report = examine(f"voc:{tmp_path}", progress=False)
    assert "2007_000004 (" in report.problems[0] and "2008_000003 (test): delete one of the two" in report.problems[0]


def test_the_order_of_context_is_held_against_vocs_own_masks(tmp_path):
    context(tmp_path / "a", own=range(20))
    context(tmp_path / "b", "voc_first", own=range(20))
    context(tmp_path / "c")
    votes, voters = context_order(list_context(tmp_path / "a"))
    assert votes == {"alphabetical": voters, "voc_first": 0} and voters == 19  # both put aeroplane first
    votes, voters = context_order(list_context(tmp_path / "b", "voc_first"))
    assert votes == {"alphabetical": 0, "voc_first": voters}
    for folder, prefix, told in (
        ("a", "context59", True),
        ("b", "context59_voc_first", True),
        ("a", "context60_voc_first", False),
        ("b", "context59", False),
    ):
        report = examine(f"{prefix}:{tmp_path / folder}", progress=False)
        sentence = next(
            s for s in (*report.remarks, *report.problems) if "of the classes that VOC's own masks show" in s
        )
        assert report.ok == told and (sentence in report.remarks) == told
        assert told or "open it in the order of its ids" in sentence
    report = examine(f"context59:{tmp_path / 'c'}", progress=False)
    assert report.ok and any("cannot be told" in r for r in report.remarks)
    assert {"zs3net10", "cascade_released10"} <= set(report.classes)


def test_a_subset_is_examined_too(tmp_path):
    voc(tmp_path)
    report = examine(open_data(f"voc:{tmp_path}", n_train=3, n_val=1, n_test=2), progress=False)
    assert report.ok and report.counts["images"].tolist() == [3, 1, 2]


def test_the_doctor_of_masks_takes_a_seed_alone(capsys):
    with pytest.raises(SystemExit):
        main(["voc:folder", "--near"])
    assert "a segmentation set takes --seed only: leave the other options out" in capsys.readouterr().err
