"""Images of one's own: layouts, divisions, tables, and one sentence for each thing that can be wrong with them."""

import csv
import json
import os
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hc_lafter.data.decode import BadImage
from hc_lafter.data.own import images as module
from hc_lafter.data.own.folder import list_images
from hc_lafter.data.own.images import ImageFiles
from hc_lafter.data.record import SPLITS, Dataset, Record


def picture(seed, size=(8, 6)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def fill(folder, count, start=0):
    """``count`` different pictures, told apart by their seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        picture(i).save(folder / f"{i}.png")


def table(path, rows, header=("path", "label"), encoding="utf-8", delimiter=","):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def by_split(data):
    return {s: {i for i, split in zip(data.ids, data.splits, strict=True) if split == s} for s in SPLITS}


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    fill(root / "dog", 10)
    fill(root / "cat", 10, start=100)
    return root


def open_quietly(root, **options):
    return ImageFiles(root, progress=False, **options)


def refuses(message, source, error=ValueError, **options):
    """Opening fails with one sentence that matches and that names the source."""
    with pytest.raises(error, match=message) as caught:
        ImageFiles(source, progress=False, **options)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text
    return text


# ---------------------------------------------------------------- records


def test_class_folders_become_records(pets):
    data = open_quietly(pets)
    assert isinstance(data, Dataset) and data.name == "pets"
    assert data.classes == ("cat", "dog") and len(data) == 20 and data.ids[0] == "cat/100.png"
    assert data.labels.dtype == np.int64 and Counter(data.labels.tolist()) == {0: 10, 1: 10}
    assert Counter(data.splits.tolist()) == {"train": 12, "val": 4, "test": 4}
    record = data[data.ids.index("dog/3.png")]
    assert isinstance(record, Record) and (record.label, record.label_name) == (1, "dog")
    np.testing.assert_array_equal(np.asarray(record.image), np.asarray(picture(3)))
    assert data[np.int64(0)].id == "cat/100.png" and data[-1].id == data.ids[-1]
    assert {r.split for r in (data.split("val")[i] for i in range(4))} == {"val"}
    assert data.broken == () and data.ignored == () and "no splits were given" in data.notes[0]


def test_ids_are_posix_paths_and_nested_folders_count_into_their_class(pets):
    fill(pets / "dog" / "2024" / "may", 2, start=50)
    data = open_quietly(pets)
    assert "dog/2024/may/50.png" in data.ids and Counter(data.labels.tolist()) == {0: 10, 1: 12}


def test_extensions_in_any_case_junk_and_files_that_are_no_images(pets):
    shutil.move(pets / "cat" / "100.png", pets / "cat" / "100.PNG")
    for junk in (".DS_Store", "Thumbs.db", "desktop.ini", "._100.png"):
        (pets / "cat" / junk).write_bytes(b"junk")
    (pets / ".git").mkdir()
    (pets / "__MACOSX").mkdir()
    (pets / "cat" / "notes.txt").write_text("a note")
    (pets / "LICENSE").write_text("a licence")
    data = open_quietly(pets)
    assert len(data) == 20 and "cat/100.PNG" in data.ids and data.classes == ("cat", "dog")
    assert data.ignored == ("LICENSE", "cat/notes.txt")


def test_a_linked_class_folder_is_followed_and_a_loop_ends(pets, tmp_path):
    fill(tmp_path / "elsewhere", 5, start=300)
    try:
        (pets / "fox").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (pets / "dog" / "again").symlink_to(pets / "dog", target_is_directory=True)
    except OSError:
        pytest.skip("this account may not make symbolic links")
    data = open_quietly(pets)
    assert data.classes == ("cat", "dog", "fox") and len(data) == 25


def test_data_set_and_subset_survive_a_pickle(pets):
    data = open_quietly(pets).split("test")
    again = pickle.loads(pickle.dumps(data))
    assert again.ids == data.ids and again.fingerprint == data.fingerprint
    np.testing.assert_array_equal(np.asarray(again[0].image), np.asarray(data[0].image))


@pytest.mark.slow
def test_a_spawned_worker_reads_records(pets):
    data = open_quietly(pets)
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=1, multiprocessing_context="spawn", sampler=[0, 19]
    )
    assert [record.id for record in loader] == [data.ids[0], data.ids[19]]


# ---------------------------------------------------------------- class order


def test_class_order_is_sorted_or_given_by_name(pets):
    plain, turned = open_quietly(pets), open_quietly(pets, classes=["dog", "cat"])
    assert turned.classes == ("dog", "cat") and (turned.labels == 1 - plain.labels).all()
    assert (turned.splits == plain.splits).all() and turned.ids == plain.ids
    assert turned[0].label_name == plain[0].label_name == "cat"
    assert turned.fingerprint != plain.fingerprint


def test_wrong_class_lists(pets):
    refuses(r"classes names 'dgo', but .*pets has no such class \(did you mean 'dog'\?\)", pets, classes=["cat", "dgo"])
    refuses(r"classes names 'Cat', .*did you mean 'cat'", pets, classes=["Cat", "dog"])
    refuses("pets has the class 'dog', which classes does not name: add it", pets, classes=["cat"])
    refuses("classes names 'cat' twice: name every class once", pets, classes=["cat", "dog", "cat"])
    refuses("classes is the string 'cat,dog': give a list", pets, classes="cat,dog")


def test_names_that_differ_in_unicode_form_only_are_one_class(tmp_path):
    composed, split = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train" / composed, 4)
    fill(tmp_path / "test" / split, 2, start=20)
    fill(tmp_path / "train" / "bar", 4, start=40)
    fill(tmp_path / "test" / "bar", 2, start=60)
    assert open_quietly(tmp_path, classes=[split, "bar"]).classes == (composed, "bar")


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("training", "validation", "testing"),
        ("Train", "valid", "TEST"),
        ("training_set", "dev-set", "Test Images"),
        ("train2017", "val_split", "testset"),
    ],
)
def test_split_folders_are_used_as_they_are(tmp_path, names):
    for k, name in enumerate(names):
        fill(tmp_path / name / "ant", 3 - k, start=10 * k)
        fill(tmp_path / name / "bee", 2, start=100 + 10 * k)
    data = open_quietly(tmp_path)
    assert data.classes == ("ant", "bee") and data.notes == ()
    for id, split in zip(data.ids, data.splits, strict=True):
        assert id.split("/")[0] == names[SPLITS.index(split)]


@pytest.mark.parametrize("given", [("train", "test"), ("train", "val"), ("train",)])
def test_missing_splits_are_taken_from_train_and_never_from_another(tmp_path, given):
    for k, name in enumerate(given):
        for c, label in enumerate(("ant", "bee")):
            fill(tmp_path / name / label, 20, start=1000 * k + 100 * c)
    data = open_quietly(tmp_path)
    missing = [s for s in SPLITS if s not in given]
    for split in missing:
        assert {i.split("/")[0] for i in by_split(data)[split]} == {"train"}
    for split in given[1:]:
        assert by_split(data)[split] == {i for i in data.ids if i.startswith(f"{split}/")}
    counts = Counter(zip(data.splits.tolist(), data.labels.tolist(), strict=True))
    for split in missing:
        assert counts[split, 0] == counts[split, 1] == (5 if len(missing) == 1 else 4)  # .2/.8 or .2/1 of 20
    assert f"the splits {' and '.join(missing)} were missing and taken from train" in data.notes[0]


def test_division_follows_content_and_seed_and_neither_names_nor_order(pets, tmp_path):
    data = open_quietly(pets, seed=3)
    digest = {item.id: s.sha256 for item, s in zip(data.listing.items, data.scans, strict=True)}
    before = {digest[i]: s for i, s in zip(data.ids, data.splits, strict=True)}
    other = tmp_path / "moved"
    for k, path in enumerate(sorted(pets.rglob("*.png"), key=lambda p: digest[p.relative_to(pets).as_posix()])):
        target = other / {"cat": "zebra", "dog": "ant"}[path.parent.name] / f"{999 - k}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    moved = open_quietly(other, seed=3)
    digest = {item.id: s.sha256 for item, s in zip(moved.listing.items, moved.scans, strict=True)}
    assert {digest[i]: s for i, s in zip(moved.ids, moved.splits, strict=True)} == before
    assert (open_quietly(pets, seed=3).splits == data.splits).all()
    assert len({tuple(open_quietly(pets, seed=s).splits) for s in range(5)}) == 5


@pytest.mark.parametrize("count, fractions, expected", [
    (3, (0.6, 0.2, 0.2), (1, 1, 1)),
    (4, (0.6, 0.2, 0.2), (2, 1, 1)),
    (10, (0.6, 0.2, 0.2), (6, 2, 2)),
    (10, (0.5, 0.25, 0.25), (4, 3, 3)),
    (10, (0.8, 0.0, 0.2), (8, 0, 2)),
    (10, (1, 0, 0), (10, 0, 0)),
    (37, (0.7, 0.1, 0.2), (26, 4, 7)),
])  # fmt: skip
def test_division_is_stratified(tmp_path, count, fractions, expected):
    fill(tmp_path / "a", count)
    fill(tmp_path / "b", count, start=100)
    data = open_quietly(replace(list_images(tmp_path), fractions=fractions))
    for label in (0, 1):
        assert tuple(int((data.splits[data.labels == label] == s).sum()) for s in SPLITS) == expected
    for split, n in zip(SPLITS, expected, strict=True):
        assert (f"there is no {split!r} split." in data.notes) == (n == 0)


@pytest.mark.parametrize("seed", range(6))
def test_equal_pictures_stay_in_one_split_even_across_classes_and_formats(tmp_path, seed):
    fill(tmp_path / "a", 10)
    fill(tmp_path / "b", 10, start=100)
    for i in range(4):
        shutil.copy(tmp_path / "a" / f"{i}.png", tmp_path / "a" / f"copy{i}.png")
        picture(i).save(tmp_path / "a" / f"other{i}.bmp")  # other bytes, equal pixels
        shutil.copy(tmp_path / "a" / f"{i}.png", tmp_path / "b" / f"torn{i}.png")
    data = open_quietly(tmp_path, seed=seed)
    split = dict(zip(data.ids, data.splits, strict=True))
    for i in range(4):
        assert len({split[n] for n in (f"a/{i}.png", f"a/copy{i}.png", f"a/other{i}.bmp", f"b/torn{i}.png")}) == 1
    assert {(s, n) for s in SPLITS for n in (0, 1)} == set(zip(data.splits, data.labels.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_pictures_that_another_class_has_too_count_into_the_quota(tmp_path, seed):
    fill(tmp_path / "a", 10)
    fill(tmp_path / "b", 5, start=100)
    for i in range(5):
        shutil.copy(tmp_path / "a" / f"{i}.png", tmp_path / "b" / f"torn{i}.png")
    found = by_split(open_quietly(tmp_path, seed=seed))
    for split in ("val", "test"):
        of_b = [i for i in found[split] if i.startswith("b/")]
        assert len(of_b) == max(2, sum("torn" in i for i in of_b))


def test_split_table(pets):
    data = open_quietly(pets)
    frame = data.split_table()
    assert list(frame.columns) == ["id", "split", "label"] and len(frame) == 20
    assert frame.loc[frame.id == "cat/100.png", "label"].item() == "cat"
    assert frame.split.tolist() == data.splits.tolist()


# ---------------------------------------------------------------- fingerprint


def test_fingerprint_holds_content_names_labels_splits_and_nothing_else(pets, tmp_path):
    first = open_quietly(pets).fingerprint
    copy = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(pets, copy)
    assert open_quietly(copy).fingerprint == first and len(first) == 64
    kept = tmp_path / "kept"
    for k, split in enumerate(SPLITS):
        fill(kept / split / "a", 1, start=k)
        fill(kept / split / "b", 1, start=10 + k)
    before = open_quietly(kept).fingerprint  # the splits are fixed, so only the pixels change
    picture(999).save(kept / "val" / "a" / "1.png")
    assert open_quietly(kept).fingerprint != before
    seen = {first, open_quietly(pets, seed=1).fingerprint}
    picture(999).save(copy / "cat" / "100.png")
    seen.add(open_quietly(copy).fingerprint)
    shutil.move(copy / "cat" / "101.png", copy / "dog" / "101.png")
    seen.add(open_quietly(copy).fingerprint)
    assert len(seen) == 4


# ---------------------------------------------------------------- unreadable files


def spoil(root):
    """One file of each kind that does not decode; returns their ids."""
    whole = (root / "cat" / "100.png").read_bytes()
    rng = np.random.default_rng(0)
    kinds = {
        "empty": b"",
        "html": b"<!doctype html><title>404</title>",
        "noise": bytes(rng.integers(128, 256, 300, dtype=np.uint8)),
        "text": b"not found",
        "truncated": whole[: len(whole) // 2],
    }
    for name, data in kinds.items():
        (root / "cat" / f"{name}.jpg").write_bytes(data)
    (root / "cat" / "folder.jpg").mkdir()
    fill(root / "cat" / "folder.jpg", 1, start=700)
    return sorted(f"cat/{n}.jpg" for n in (*kinds, "folder"))


def test_unreadable_files_refuse_the_data_set_in_one_sentence(pets):
    bad = spoil(pets)
    text = refuses(
        r"has 6 unreadable files of 26, the first cat/empty\.jpg, which is empty \(0 bytes\): fetch it again or delete "
        r"it, or pass on_error='skip'",
        pets,
        error=BadImage,
    )
    assert str(pets) in text
    for name in bad[1:]:
        path = pets / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    refuses(r"has 1 unreadable file of 21, cat/empty\.jpg, which", pets, error=BadImage)


def test_skipping_leaves_them_out_and_lists_them(pets):
    clean = open_quietly(pets)
    bad = spoil(pets)
    data = open_quietly(pets, on_error="skip")
    assert [b[0] for b in data.broken] == sorted(bad)
    assert data.ids == clean.ids and (data.splits == clean.splits).all() and (data.labels == clean.labels).all()
    assert data.notes[0] == "6 of 26 files were unreadable and left out, see .broken."
    found = {id: what for id, what, _ in data.broken}
    assert (
        "is empty" in found["cat/empty.jpg"] and "HTML" in found["cat/html.jpg"] and "folder" in found["cat/folder.jpg"]
    )
    assert "cut short" in found["cat/truncated.jpg"] and "text" in found["cat/text.jpg"]
    assert "no known image format" in found["cat/noise.jpg"]


def test_a_file_that_is_spoilt_after_opening_is_named_when_it_is_asked_for(pets):
    data = open_quietly(pets)
    (pets / "cat" / "100.png").write_bytes(b"")
    with pytest.raises(BadImage, match=r"100\.png is empty"):
        data[0]


def test_options_are_checked(pets):
    refuses("on_error is 'ignore': choose 'raise' or 'skip'", pets, on_error="ignore")


# ---------------------------------------------------------------- layouts that are refused


def test_no_class_folders(tmp_path):
    fill(tmp_path / "train", 2)
    refuses(r"train has no class folders \(2 images lie directly in it\)", tmp_path)


def test_too_few_images_for_the_splits(pets):
    fill(pets / "emu", 2, start=500)
    refuses("class 'emu' of .* has 2 different readable images, too few for train, val and test: add images", pets)
    shutil.copy(pets / "emu" / "500.png", pets / "emu" / "copy.png")  # a copy is not a third picture
    refuses("class 'emu' of .* has 2 different readable images", pets)
    assert (
        Counter(open_quietly(replace(list_images(pets), fractions=(0.8, 0, 0.2))).split("test").labels.tolist())[2] == 1
    )


def test_a_class_whose_files_are_all_unreadable(pets):
    (pets / "emu").mkdir()
    (pets / "emu" / "1.jpg").write_bytes(b"")
    refuses("class 'emu' of .* has 0 different readable images", pets, on_error="skip")


def test_classes_missing_from_a_split(tmp_path):
    for split in SPLITS:
        fill(tmp_path / split / "ant", 2, start=10 * len(split))
        fill(tmp_path / split / "bee", 2, start=100 * len(split) + 7 * (split == "test"))
    fill(tmp_path / "test" / "cow", 2, start=900)
    refuses("class 'cow' of .* has no readable images in the split 'train'", tmp_path)
    shutil.move(tmp_path / "test" / "cow", tmp_path / "train" / "cow")
    assert open_quietly(tmp_path).notes == (
        "class 'cow' has no images in 'val'.",
        "class 'cow' has no images in 'test'.",
    )


def test_names_that_differ_only_in_case(tmp_path):
    fill(tmp_path / "train" / "Cat", 3)
    fill(tmp_path / "train" / "dog", 3, start=10)
    fill(tmp_path / "test" / "cat", 3, start=20)
    refuses("has the classes 'Cat' and 'cat', which differ only in case: rename one, or merge them", tmp_path)


def test_split_folders_that_do_not_add_up(tmp_path):
    fill(tmp_path / "test" / "a", 3)
    refuses("has only test and no train folder", tmp_path)
    fill(tmp_path / "train" / "a", 3)
    fill(tmp_path / "extra", 3)
    refuses(r"mixes split folders \(test, train\) with others \(extra\): move extra out", tmp_path)
    shutil.rmtree(tmp_path / "extra")
    fill(tmp_path / "val" / "a", 3)
    fill(tmp_path / "valid" / "a", 3)
    refuses(r"has two folders for the split 'val' \(val, valid\): merge them", tmp_path)


def test_splits_within_the_classes(tmp_path):
    for k, label in enumerate(("ant", "bee")):
        for j, split in enumerate(("train", "Test_set")):
            fill(tmp_path / label / split, 5, start=100 * k + 10 * j)
    data = open_quietly(tmp_path)
    assert data.classes == ("ant", "bee") and len(by_split(data)["test"]) == 10 and by_split(data)["val"]
    assert all("/Test_set/" in i for i in by_split(data)["test"]) and "folders in the class folders" in data.notes[0]


@pytest.mark.parametrize("inside", [".", "train"])
def test_one_folder_around_the_whole_is_passed_through(tmp_path, inside):
    fill(tmp_path / "archive" / "photos" / inside / "a", 5)
    fill(tmp_path / "archive" / "photos" / inside / "b", 5, start=10)
    data = open_quietly(tmp_path / "archive")
    assert data.classes == ("a", "b") and len(data) == 10
    assert any("holds the folder photos alone" in note for note in data.notes)


@pytest.mark.parametrize("names", [
    ("seg_train/seg_train", "seg_test/seg_test"),
    ("trainval", "test"),
    ("train_val", "PublicTest"),
    ("tr", "te"),
    ("fer_train", "fer_test"),
    ("training-photos", "test-photos"),
    ("训练集", "测试集"),
    ("train", "holdout"),
    ("train/train", "test/test"),
    ("train/images", "test/images"),
])  # fmt: skip
def test_a_word_in_a_name_is_enough_where_folders_hold_the_same_classes(tmp_path, names):
    for k, name in enumerate(names):
        fill(tmp_path / name / "ant", 6, start=100 * k)
        fill(tmp_path / name / "bee", 6, start=100 * k + 10)
    data = open_quietly(tmp_path)
    assert data.classes == ("ant", "bee") and by_split(data)["val"]
    assert by_split(data)["test"] == {i for i in data.ids if i.startswith(f"{names[1].split('/')[0]}/")}
    read = [n for name in names if (n := name.split("/")[0]) not in ("train", "test")]
    assert all(any(f"{n} as t" in note for note in data.notes) for n in read)


def test_the_same_folders_in_every_class_are_remarked_on(tmp_path):
    for k, (outer, inner) in enumerate((o, i) for o in ("xunlian", "ceshi") for i in ("ant", "bee")):
        fill(tmp_path / outer / inner, 5, start=10 * k)
    data = open_quietly(tmp_path)
    assert data.classes == ("ceshi", "xunlian")
    assert any("holds the same folders (ant, bee): if those are the classes" in note for note in data.notes)


def test_classes_that_are_divided_by_half_and_trees_beside_each_other_are_refused(tmp_path):
    for k, (label, split) in enumerate((c, s) for c in ("ant", "bee") for s in ("trainval", "test")):
        fill(tmp_path / "a" / label / split, 5, start=10 * k)
    assert len(by_split(open_quietly(tmp_path / "a"))["test"]) == 10
    fill(tmp_path / "a" / "cow", 5, start=90)
    refuses(r"split folders in them \(ant\) and one that is not divided so throughout \(cow\)", tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "cow")
    picture(7).save(tmp_path / "a" / "bee" / "7.png")
    refuses(r"not divided so throughout \(bee\)", tmp_path / "a")
    for k, place in enumerate(("images/train/ant", "images/train/bee", "images/test/ant", "labels/train/ant")):
        fill(tmp_path / "b" / place, 5, start=10 * k)
    refuses(r"b has no class folders: images holds split folders with the same folders in them \(ant\)", tmp_path / "b")


def test_a_folder_in_a_class_may_be_called_train(tmp_path):
    for k, place in enumerate(("railway/train", "railway/tram", "road/bus", "road/car")):
        fill(tmp_path / place, 5, start=10 * k)
    data = open_quietly(tmp_path)
    assert data.classes == ("railway", "road") and len(data) == 20


def test_folders_without_images_beside_splits_are_left_alone(tmp_path):
    for k, (split, label) in enumerate((s, c) for s in ("train", "test") for c in ("ant", "bee")):
        fill(tmp_path / split / label, 6, start=10 * k)
    (tmp_path / "models").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text("{}")
    assert open_quietly(tmp_path).classes == ("ant", "bee")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")
def test_a_link_to_what_a_class_lies_in_is_not_followed(pets):
    (pets / "cat" / "all").symlink_to(pets, target_is_directory=True)
    assert not any(i.startswith("cat/all/") for i in open_quietly(pets).ids)


def test_a_class_may_be_called_test(tmp_path):
    fill(tmp_path / "test", 5)
    fill(tmp_path / "control", 5, start=10)
    assert open_quietly(tmp_path).classes == ("control", "test")


# ---------------------------------------------------------------- tables


@pytest.fixture
def rows(pets):
    return [[p.relative_to(pets).as_posix(), p.parent.name] for p in sorted(pets.rglob("*.png"))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_gives_what_the_folder_gives(pets, rows, delimiter, encoding):
    path = table(pets / "list.csv", rows[::-1], encoding=encoding, delimiter=delimiter)
    data, same = ImageFiles(path, progress=False), open_quietly(pets)
    assert data.ids == same.ids and data.classes == same.classes and data.name == "list"
    assert (data.splits == same.splits).all() and data.fingerprint == same.fingerprint
    np.testing.assert_array_equal(np.asarray(data[5].image), np.asarray(same[5].image))


def test_splits_extra_columns_blank_lines_and_quotes(pets, rows):
    words = ["training", "Train", "valid", "val", "TEST"]
    path = pets / "list.csv"
    lines = [f'"a, b",{label},{words[i % 5]},"{p}"' for i, (p, label) in enumerate(rows)]
    path.write_text("Note, LABEL ,split,Path\n\n" + "\n\n".join(lines) + "\n\n,,,\n", encoding="utf-8")
    data = ImageFiles(path, progress=False)
    expected = {p: ["train", "train", "val", "val", "test"][i % 5] for i, (p, _) in enumerate(rows)}
    assert dict(zip(data.ids, data.splits, strict=True)) == expected and data.notes == ()


def test_a_cell_too_many_is_refused(pets, rows):
    (pets / "list.csv").write_text("path,label\n" + "".join(f"{p},{label}, small\n" for p, label in rows))
    refuses(
        r"row 2 of .*list.csv has 3 cells and its header 2: write a text that holds ',' in quotes", pets / "list.csv"
    )


def test_labels_stay_text(pets, rows):
    path = table(pets / "list.csv", [[p, {"cat": "01", "dog": "NA"}[label]] for p, label in rows])
    assert ImageFiles(path, progress=False).classes == ("01", "NA")


def test_paths_from_windows_outside_and_absolute(pets, rows):
    (pets / "lists").mkdir()
    moved = [[f"..\\{p}".replace("/", "\\"), label] for p, label in rows[:-1]]
    path = table(pets / "lists" / "list.csv", [*moved, [str(pets / rows[-1][0]), rows[-1][1]]])
    data = ImageFiles(path, progress=False)
    assert sorted(data.ids) == sorted([f"../{p}" for p, _ in rows[:-1]] + [(pets / rows[-1][0]).as_posix()])
    assert data[0].image.size == (6, 8)
    inside = table(pets / "list.csv", [[str(pets / p), label] for p, label in rows])
    assert ImageFiles(inside, progress=False).ids == [p for p, _ in rows]


def test_a_missing_column(pets, rows):
    refuses("has no column 'path'", table(pets / "list.csv", rows, header=("file", "label"), delimiter=";"))


@pytest.mark.parametrize("cells, message", [
    (["dog/0.png"], "row 22, column 'label' of .*list.csv is empty"),
    (["  ", "dog"], "row 22, column 'path' of .*list.csv is empty"),
    (["./dog/../dog/3.png", "cat"], r"twice, row 15, .*dog.* and row 22, .*cat.: remove one"),
    (["dog/0.png", "Dog"], "has the classes 'Dog' and 'dog', which differ only in case|twice"),
])  # fmt: skip
def test_bad_rows_are_named(pets, rows, cells, message):
    refuses(message, table(pets / "list.csv", [*rows, cells]))


def test_an_unknown_split_word(pets, rows):
    with_split = [[p, label, "train"] for p, label in rows]
    header = ("path", "label", "split")
    with_split[7][2] = ""
    refuses("row 9, column 'split' of .*list.csv is empty", table(pets / "list.csv", with_split, header=header))
    nothing = [[p, label, "test"] for p, label in rows]
    refuses("has no images in the split 'train': add some", table(pets / "list.csv", nothing, header=header))


def test_empty_tables_and_other_encodings(pets, rows):
    path = pets / "list.csv"
    path.write_bytes(b"")
    refuses("list.csv is empty: fetch it again, or write it", path)
    path.write_bytes(b"\xef\xbb\xbf \n")
    refuses("list.csv is empty", path)
    refuses(
        r"list\.csv is not UTF-8 \(row 3, byte \d+\): save it as UTF-8 \('CSV UTF-8'",
        table(path, [rows[0], [rows[1][0], "süß"]], encoding="latin-1"),
    )


# ---------------------------------------------------------------- the memory of checks


def test_the_check_is_remembered_by_size_and_time(pets, tmp_path, monkeypatch):
    cache, looked = tmp_path / "cache", []
    honest = module._scan_one
    monkeypatch.setattr(module, "_scan_one", lambda item: looked.append(item.path.name) or honest(item))
    (pets / "cat" / "bad.jpg").write_bytes(b"")
    first = open_quietly(pets, cache=cache, on_error="skip")
    assert len(looked) == 21 and len(list(cache.iterdir())) == 1
    again = open_quietly(pets, cache=cache, on_error="skip")
    assert len(looked) == 21 and again.fingerprint == first.fingerprint and again.broken == first.broken
    picture(999).save(pets / "cat" / "100.png")
    os.utime(pets / "cat" / "100.png", ns=(1, 1))
    fill(pets / "dog", 1, start=11)
    third = open_quietly(pets, cache=cache, on_error="skip")
    assert sorted(looked[21:]) == ["100.png", "11.png"]
    assert third.fingerprint == open_quietly(pets, on_error="skip").fingerprint != first.fingerprint
    looked.clear()
    monkeypatch.setattr(module, "RULES", -1)  # other rules, other memory
    open_quietly(pets, cache=cache, on_error="skip")
    assert len(looked) == 22 and len(list(cache.iterdir())) == 2


def test_a_damaged_memory_is_named(pets, tmp_path):
    open_quietly(pets, cache=tmp_path / "cache")
    (memory,) = (tmp_path / "cache").iterdir()
    assert set(json.loads(memory.read_text())) == {str(p) for p in pets.rglob("*.png")}
    whole = memory.read_text()
    for damage in ("{", "[1]", '{"a": 1}', '{"a": {"stamp": [1]}}', whole.replace('"scan"', '"scam"')):
        memory.write_text(damage)
        with pytest.warns(UserWarning, match="scan-.*json is damaged"):
            again = open_quietly(pets, cache=tmp_path / "cache")
        assert len(again) == len(list(pets.rglob("*.png"))) and memory.read_text() == whole


def test_a_file_that_changes_behind_the_data_set_is_named(pets):
    data = open_quietly(pets)
    path = next(p for p in sorted(pets.rglob("*.png")) if p.relative_to(pets).as_posix() == data.ids[0])
    path.write_bytes(sorted(pets.rglob("*.png"))[-1].read_bytes())
    with pytest.raises(BadImage, match="has changed since the data set was opened: open the data set again"):
        data[0]


def test_sources_may_be_relative(pets, monkeypatch):
    monkeypatch.chdir(pets)
    data = open_quietly(Path("."))
    assert data.name == "pets" and data.ids[0] == "cat/100.png"
    monkeypatch.chdir(pets.parent)
    assert data[0].id == "cat/100.png"


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "cat").mkdir()
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(ValueError, match=r"cannot be listed \(Permission denied\): check its permissions"):
        list_images(tmp_path)
