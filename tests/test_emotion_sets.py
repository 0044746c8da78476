"""The published emotion sets: each exact layout, good and broken, and one sentence for whatever is wrong with it."""

import csv
import json
import os
import pickle
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from hc_lafter.clip.descriptions import load_descriptions
from hc_lafter.data import open_data
from hc_lafter.data.decode import BadImage
from hc_lafter.data.doctor import examine, main
from hc_lafter.data.emotion.names import EKMAN, EKMAN_WORDS, MIKELS_WORDS
from hc_lafter.data.emotion.sets import SETS, list_data, recognise
from hc_lafter.data.emotion.wheels import MIKELS, distribution_metrics, places
from hc_lafter.data.listing import split_spec
from hc_lafter.data.own.images import ImageFiles
from hc_lafter.data.record import SPLITS
from hc_lafter.suite.runner import fingerprint

ALL = {"n_train": 10_000, "n_val": 10_000, "n_test": 10_000}


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def paint(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, quality=95) if path.suffix == ".jpg" else picture(seed).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def opened(spec, **options):
    return ImageFiles(list_data(spec), progress=False, **options)


def refuses(message, spec, error=ValueError, **options):
    """Opening fails with one sentence that matches and that says what to do; the doctor says the same."""
    with pytest.raises(error, match=message) as caught:
        opened(spec, **options)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text
    if error is ValueError:
        assert text in examine(spec, progress=False).problems
    return text


def by_split(data):
    return {s: {i for i, split in zip(data.ids, data.splits, strict=True) if split == s} for s in SPLITS}


def per_class(data):
    return Counter(data.classes[i] for i in data.labels)


# ---------------------------------------------------------------- small trees in the exact formats


def emoset(root, rows=3, counts=(6, 2, 3), info="new"):
    seed = 0
    for split, count in zip(SPLITS, counts, strict=True):
        lines = []
        for label in sorted(MIKELS):
            for _ in range(count):
                seed += 1
                stem = f"{label}_{seed:05d}"
                paint(root / "image" / label / f"{stem}.jpg", seed)
                cells = [label, stem, f"image/{label}/{stem}.jpg", f"annotation/{label}/{stem}.json"]
                lines.append(cells if rows == 4 or (rows == "mixed" and split == "val") else [cells[0], *cells[2:]])
        write(root / f"{split}.json", json.dumps(lines))
    table = {"label2idx": {n: i for i, n in enumerate(MIKELS)}, "idx2label": {str(i): n for i, n in enumerate(MIKELS)}}
    if info:
        write(root / "info.json", json.dumps({"emotion": table, "brightness": {}} if info == "new" else table))
    return root


def fi(root, layout, count=20):
    """About 20 images per emotion: (a) class folders, (b) split folders, (c) a csv of three columns, (d) of two."""
    rows, seed = [], 0
    for label in sorted(MIKELS):
        for i in range(count):
            seed += 1
            name = f"{label}_{i:04d}.jpg"
            split = "train" if i < 16 else "val" if i < 17 else "test"
            if layout == "a":
                paint(root / "emotion_dataset" / label / name, seed)
            elif layout == "b":
                paint(root / "FI" / split / label.capitalize() / name, seed)
            else:
                paint(root / "FI" / "image" / name, seed)
                rows.append([name, label, int(label in MIKELS[:4])][: 3 if layout == "c" else 2])
    if rows:
        head = [] if layout == "c" else ["image_name,emotion"]
        name = "fi_list.csv" if layout == "c" else "annotations.txt"
        write(root / "FI" / name, "\n".join([*head, *(",".join(map(str, r)) for r in rows)]))
    return root


PROBABILITIES = "\t".join(f"[prob. {name}]" for name in EKMAN)


def emotion6(root, variant="text", per=12):
    """Every seventh image is mostly what it was searched for, the others are mostly neutral or another emotion."""
    rng, lines, table, seed = np.random.default_rng(0), [], {}, 0
    for folder in EKMAN[:6]:
        for n in range(1, per + 1):
            seed += 1
            top = (EKMAN.index(folder) + (n % 3 == 0) * n) % 7 if n % 4 else 6
            votes = rng.integers(0, 4, 7)
            votes[top] += 8
            p = votes / votes.sum()
            paint(root / "images" / folder / f"{n}.jpg", seed)
            lines.append("\t".join([f"{folder}/{n}.jpg", "2.5", "3.8", *(f"{v:.6g}" for v in p)]))
            table[f"{folder}/{n}.jpg"] = {
                "true_emotion": folder,
                "dominant_emotion": EKMAN[top],
                "emotions": {c: float(f"{v:.6g}") for c, v in zip(EKMAN, p, strict=True)},
            }
    if variant == "text":
        write(
            root / "ground_truth.txt", f"[image_filename]\t[valence]\t[arousal]\t{PROBABILITIES}\n" + "\n".join(lines)
        )
    else:
        write(root / "Emotion6.json", json.dumps(table))
    return root


HEADER = "images-name Amusement Awe Contentment Excitement Anger Disgust Fear Sadness"


def ldl(root, annotators=11, trailing=False, per=10, ending="\n"):
    """Votes with a clear winner per image, ``per`` images for each emotion; returns the votes [N, 8]."""
    rng, votes = np.random.default_rng(1), []
    for n in range(8 * per):
        row = np.bincount(rng.integers(0, 8, annotators // 3), minlength=8)
        row[n % 8] += annotators - row.sum()
        votes.append(row)
        paint(root / "images" / f"{n + 1}.jpg", n)
    lines = [" ".join(map(str, [f"{n + 1}.jpg", *row, *([0] if trailing else [])])) for n, row in enumerate(votes)]
    write(root / "ground_truth.txt", ending.join([HEADER, *lines, ""]))
    return np.array(votes)


def mat(path, votes, **more):
    names = np.array([f"{n + 1}.jpg" for n in range(len(votes))], dtype=object)
    scipy.io.savemat(path, {"imgname": names, "vote": votes.T.astype(float), **more})
    return path


def artphoto(root, per=5):
    for i, (word, _) in enumerate((w, n) for w, n in MIKELS_WORDS.items() if w not in ("contentment", "sadness")):
        for n in range(per):
            paint(root / f"{word}_{n:04d}.jpg", 10 * i + n)
    write(root / "ReadMe.rtf", "read me")
    return root


ABSTRACT = ("Amusement", "Anger", "Awe", "Content", "Disgust", "Excitement", "Fear", "Sad")


def abstract(root, per=5):
    lines = [",".join(["''", *(f"'{c}'" for c in ABSTRACT)])]
    for n in range(8 * per + 3):
        votes = [1] * 8
        votes[n % 8] += 4
        if n >= 8 * per:
            votes[(n + 1) % 8] += 4  # a tie
        paint(root / f"abstract_{n:04d}.jpg", n)
        lines.append(",".join([f"'abstract_{n:04d}.jpg'", *map(str, votes)]))
    write(root / "ABSTRACT_groundTruth.csv", "\r\n".join(lines))
    return root


def faces(count):
    return np.random.default_rng(3).integers(0, 256, (count, 48, 48), dtype=np.uint8)


def fer2013(root, header="emotion,pixels,Usage", ending="\n"):
    lines = [header]
    for n, face in enumerate(faces(7 * 6)):
        use = ("Training", "Training", "Training", "Training", "PublicTest", "PrivateTest")[n // 7]
        cells = {"emotion": str(n % 7), "pixels": " ".join(map(str, face.ravel())), "usage": use}
        lines.append(",".join(cells[c.strip().lower()] for c in header.split(",")))
    write(root / "fer2013.csv", ending.join([*lines, ""]))
    return root


def rafdb(root):
    lines, n = [], 0
    for split, count in (("train", 8), ("test", 3)):
        for code in range(1, 8):
            for _ in range(count):
                n += 1
                name = f"{split}_{n:05d}"
                paint(root / "Image" / "aligned" / f"{name}_aligned.jpg", n)
                lines.append(f"{name}.jpg {code}")
    write(root / "EmoLabel" / "list_patition_label.txt", "\n".join(lines))
    return root


BUILD = {
    "emoset": lambda p: emoset(p / "EmoSet-118K-7"),
    "fi": lambda p: fi(p, "b") / "FI",
    "emotion6": lambda p: emotion6(p / "Emotion6"),
    "flickr_ldl": lambda p: ldl(p / "Flickr_LDL") is not None and p / "Flickr_LDL",
    "twitter_ldl": lambda p: ldl(p / "Twitter_LDL", 8, trailing=True) is not None and p / "Twitter_LDL",
    "artphoto": lambda p: artphoto(p / "testImages_artphoto"),
    "abstract": lambda p: abstract(p / "testImages_abstract"),
    "fer2013": lambda p: fer2013(p / "fer2013"),
    "rafdb": lambda p: rafdb(p / "basic"),
}


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", SETS)
def test_every_set_opens_by_itself_by_name_and_from_above(name, tmp_path):
    assert set(BUILD) == set(SETS)
    root = BUILD[name](tmp_path)
    data = open_data(str(root), **ALL)
    assert data.name == SETS[name].title and data.broken == ()
    assert data.notes[0] == f"this is {data.name}, recognised by {SETS[name].marks}."
    for spec in (f"{name}:{root}", f"{name.replace('_', '-').upper()}:{root.parent}", str(root.parent)):
        again = open_data(spec, **ALL)
        assert again.fingerprint == data.fingerprint and again.ids == data.ids and again.name == data.name
    canonical = MIKELS if set(data.classes) <= set(MIKELS) else EKMAN
    assert data.classes == canonical
    assert set(data.splits) == set(SPLITS) and all(set(data.split(s).labels) <= set(range(8)) for s in SPLITS)
    record = data[3]
    assert record.image.mode == "RGB" and record.label_name == data.classes[record.label] and record.id == data.ids[3]
    kind = "mikels" if canonical is MIKELS else "ekman"
    assert list(load_descriptions(kind, data.classes)) == list(canonical)
    if canonical is MIKELS:
        assert len(set(places(data.classes))) == 8
    if data.distributions is not None:
        assert data.distributions.shape == (len(data), len(data.classes))
        np.testing.assert_allclose(data.distributions.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_array_equal(data.distributions.argmax(axis=1), data.labels)
        np.testing.assert_array_equal(record.distribution, data.distributions[3])
        distribution_metrics(data.distributions, data.distributions)
    else:
        assert record.distribution is None
    counted = {
        "flickr_ldl": "votes of 11 annotators",
        "twitter_ldl": "votes of 8 annotators",
        "abstract": "votes of 12 annotators",
    }
    if name in counted:
        assert data.votes.shape == data.distributions.shape and data.votes.dtype == np.int64
        np.testing.assert_array_equal(data.distributions, data.votes / data.votes.sum(axis=1, keepdims=True))
        np.testing.assert_array_equal(data.votes.argmax(axis=1), data.labels)
        np.testing.assert_array_equal(record.votes, data.votes[3])
    else:
        assert data.votes is None and record.votes is None and data.targets is data.distributions
    told = counted.get(name, None if data.distributions is None else "annotators' frequencies")
    assert (data.aimed_at, data.scored_by) == (told, told)
    assert data.describe().startswith(
        f"{data.name}: training aims at the {told}, and they score." if told else f"{data.name}: neither votes nor"
    )
    clone = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(np.asarray(clone[3].image), np.asarray(record.image))
    other = open_data(str(root), **ALL, seed=7)
    assert set(other.ids) == set(data.ids) and (by_split(other)["test"] == by_split(data)["test"]) == (
        name in ("emoset", "fi", "fer2013", "rafdb")
    )


@pytest.mark.parametrize("name", SETS)
def test_the_doctor_examines_every_set(name, tmp_path, capsys):
    root = BUILD[name](tmp_path)
    report = examine(f"{name}:{root}", progress=False)
    data = opened(root)
    assert report.ok and report.name == data.name and report.classes["class"].tolist() == list(data.classes)
    for split in SPLITS:
        want = [int(((data.splits == split) & (data.labels == i)).sum()) for i in range(len(data.classes))]
        assert report.counts[split].tolist() == want
    assert set(data.notes[1:]) <= set(report.remarks)
    assert examine(data, progress=False).counts.equals(report.counts)
    assert main([f"{name}:{root}"]) == 0
    assert f"{data.name}: {len(data)} readable images in {len(data.classes)} classes, no problems" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["emoset", "emotion6", "flickr_ldl"])
def test_limits_take_a_sample_and_its_distributions(name, tmp_path):
    root = BUILD[name](tmp_path)
    whole = opened(root)
    part = open_data(str(root), n_train=16, n_val=4, n_test=7)
    assert [int((part.splits == s).sum()) for s in SPLITS] == [min(16, 10**9), 4, 7]
    at = [whole.ids.index(i) for i in part.ids]
    np.testing.assert_array_equal(part.labels, whole.labels[at])
    if whole.distributions is not None:
        np.testing.assert_array_equal(part.distributions, whole.distributions[at])
        np.testing.assert_array_equal(part.targets, whole.targets[at])
    if whole.votes is not None:
        np.testing.assert_array_equal(part.votes, whole.votes[at])


@pytest.mark.parametrize("name", ["emoset", "emotion6", "flickr_ldl", "abstract", "rafdb"])
def test_a_missing_image_is_named_with_its_row(name, tmp_path):
    root = BUILD[name](tmp_path)
    data = opened(root)
    lost, position = data.ids[5], 5
    data.listing.items[data.kept[position]].path.unlink()
    text = refuses("has 1 unreadable file of", root, error=BadImage)
    assert f"{lost} (" in text and "row" in text and "which does not exist: correct the path or fetch the file" in text
    rest = opened(root, on_error="skip")
    assert [b[0] for b in rest.broken] == [lost] and len(rest) == len(data) - 1
    if data.distributions is not None:
        np.testing.assert_array_equal(rest.distributions, np.delete(data.distributions, position, axis=0))
    assert lost in examine(root, progress=False).broken.id.tolist()


def test_a_class_list_in_another_order_turns_labels_and_distributions(tmp_path):
    root = BUILD["flickr_ldl"](tmp_path)
    plain, turned = opened(root), opened(root, classes=sorted(MIKELS))
    assert turned.classes == tuple(sorted(MIKELS)) and turned.fingerprint != plain.fingerprint
    back = [turned.classes.index(c) for c in plain.classes]
    np.testing.assert_array_equal(turned.distributions[:, back], plain.distributions)
    np.testing.assert_array_equal(turned.votes[:, back], plain.votes)
    assert [turned.classes[i] for i in turned.labels] == [plain.classes[i] for i in plain.labels]


def test_counts_are_the_files_own_and_shares_in_their_place_are_no_counts(tmp_path):
    root = tmp_path / "Flickr_LDL"
    votes = ldl(root)
    data = opened(root)
    at = [int(i.removesuffix(".jpg")) - 1 for i in data.ids]
    columns = [HEADER.lower().split().index(c) - 1 for c in data.classes]
    np.testing.assert_array_equal(data.votes, votes[at][:, columns])
    path = root / "ground_truth.txt"
    header, *lines = path.read_text().splitlines()
    rows = [line.split() for line in lines]
    shared = [" ".join([name, *(repr(int(v) / 11) for v in cells)]) for name, *cells in rows]
    path.write_text("\n".join([header, *shared]))
    other = opened(root)
    assert other.votes is None and other.aimed_at == "annotators' frequencies"
    np.testing.assert_allclose(other.targets, data.targets, atol=1e-12)


def test_votes_are_part_of_the_fingerprint(tmp_path):
    root = BUILD["flickr_ldl"](tmp_path)
    before = opened(root)
    text = (root / "ground_truth.txt").read_text()
    first = text.splitlines()[1]
    cells = first.split()
    top = max(range(1, 9), key=lambda i: int(cells[i]))
    low = min(i for i in range(1, 9) if i != top)
    cells[top], cells[low] = str(int(cells[top]) - 1), str(int(cells[low]) + 1)
    (root / "ground_truth.txt").write_text(text.replace(first, " ".join(cells)))
    after = opened(root)
    assert (after.labels == before.labels).all() and after.fingerprint != before.fingerprint


# ---------------------------------------------------------------- specs


def test_specs_and_drives_of_windows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_spec(r"C:\photos\pets", SETS) == (None, type(tmp_path)(r"C:\photos\pets"))
    assert split_spec(r"emoset:C:\photos\EmoSet", SETS) == ("emoset", type(tmp_path)(r"C:\photos\EmoSet"))
    assert split_spec("fi:~/FI", SETS)[1] == type(tmp_path)("~/FI").expanduser()
    assert split_spec("photos/a:b", SETS) == (None, type(tmp_path)("photos/a:b"))
    for spec, sentence in {
        "https://example.org/x": "starts with 'https', no data set that is known: choose one of emoset, fi,",
        f"rafdb:{tmp_path}": "is no RAF-DB, nor holds it one folder below .*list_patition_label.txt.*: correct",
    }.items():
        refuses(sentence, spec)
    (tmp_path / "fi-gone").mkdir()
    with pytest.raises(ValueError, match=r"did you mean 'fi-gone'"):
        open_data("fi:fi-gon", **ALL)
    if os.name != "nt":
        for label in ("cat", "dog"):
            for n in range(5):
                paint(tmp_path / "my:pets" / label / f"{n}.png", hash(label) % 1000 + n)
        assert open_data("my:pets", **ALL).name == "my:pets"  # a path that exists is a path


def test_folders_of_ones_own_stay_what_they_are(tmp_path):
    """Class folders named after emotions are anybody's: only FI's own names make them FI."""
    for n in range(40):
        paint(tmp_path / "mine" / MIKELS[n % 8] / f"{n}.png", n)
    assert recognise(tmp_path / "mine") is None
    data = open_data(str(tmp_path / "mine"), **ALL)
    assert data.name == "mine" and data.classes == tuple(sorted(MIKELS))
    assert data.fingerprint == ImageFiles(tmp_path / "mine", progress=False).fingerprint
    assert opened(f"fi:{tmp_path / 'mine'}").classes == MIKELS
    (tmp_path / "list.csv").write_text("path,label\nmine/awe/1.png,a\n")
    assert recognise(tmp_path / "list.csv") is None
    with pytest.raises(ValueError, match=r"gone does not exist .*: correct the path"):
        open_data(str(tmp_path / "gone"), **ALL)


def test_a_folder_of_several_sets_is_refused(tmp_path):
    BUILD["emoset"](tmp_path)
    BUILD["rafdb"](tmp_path)
    refuses("holds more than one data set: name the one that you mean", tmp_path)
    assert opened(f"rafdb:{tmp_path}").name == "RAF-DB"
    assert list_data(tmp_path / "basic").name == "RAF-DB"
    emoset(tmp_path / "other")
    refuses(r"more than one data set: .*emoset:.*EmoSet-118K-7, emoset:.*other\)", f"emoset:{tmp_path}")


def test_the_runner_watches_what_a_prefix_points_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = BUILD["rafdb"](tmp_path)
    before = fingerprint("data", "rafdb:basic")
    assert before == fingerprint("data", "basic") == fingerprint("data", f"rafdb:{root}")
    os.utime(root / "EmoLabel" / "list_patition_label.txt", ns=(1, 1))
    assert fingerprint("data", "rafdb:basic") != before
    with pytest.raises(ValueError, match="data=rafdb:gone is neither 'world' nor a folder"):
        fingerprint("data", "rafdb:gone")
    with pytest.raises(ValueError, match=r"'rafbd', no data set that is known \(did you mean 'rafdb'\?\)"):
        fingerprint("data", "rafbd:basic")


# ---------------------------------------------------------------- EmoSet-118K


@pytest.mark.parametrize("rows", [3, 4, "mixed"])
def test_emoset_takes_rows_of_three_and_of_four(rows, tmp_path):
    data = opened(emoset(tmp_path / "EmoSet-118K", rows))
    assert [int((data.splits == s).sum()) for s in SPLITS] == [48, 16, 24]
    assert all(f"/{data.classes[i]}/" in name for i, name in zip(data.labels, data.ids, strict=True))
    told = {
        3: "have 3 elements (train.json, val.json, test.json).",
        4: "have 4 elements (train.json, val.json, test.json).",
        "mixed": "have 3 elements (train.json, test.json) and 4 elements (val.json).",
    }[rows]
    assert f"the rows of the split lists {told}" in data.notes
    other = opened(emoset(tmp_path / "other", 3))
    assert other.fingerprint == data.fingerprint


def test_emoset_order_comes_from_info_json_in_both_forms(tmp_path):
    root = emoset(tmp_path / "EmoSet")
    new = opened(root)
    old = opened(emoset(tmp_path / "old", info="old"))
    assert new.classes == old.classes == MIKELS != tuple(sorted(MIKELS))
    table = {"label2idx": {n: str(i) for i, n in enumerate(sorted(MIKELS))}}
    write(root / "info.json", json.dumps({"emotion": table}))
    assert opened(root).classes == tuple(sorted(MIKELS))
    (root / "info.json").unlink()
    data = opened(root)
    assert data.classes == MIKELS and any(n.startswith("info.json is missing") for n in data.notes)


def test_emoset_without_val_takes_it_from_train(tmp_path):
    root = emoset(tmp_path / "EmoSet")
    whole = by_split(opened(root))
    (root / "val.json").unlink()
    data = by_split(opened(root))
    assert data["test"] == whole["test"] and data["train"] | data["val"] == whole["train"] and len(data["val"]) == 8


def change(root, name, row, cells):
    lines = json.loads((root / name).read_text())
    lines[row - 1] = cells(lines[row - 1]) if callable(cells) else cells
    write(root / name, json.dumps(lines))


@pytest.mark.parametrize(
    ("name", "row", "cells", "sentence"),
    [
        ("val.json", 2, ["amusement", "x.jpg"], r"row 2 of val\.json in .*EmoSet is \[.*: EmoSet's rows have 3"),
        ("val.json", 2, lambda r: [*r, "a", "b"], "row 2 of val.json in .*fetch the list again"),
        ("val.json", 2, {"a": 1}, "row 2 of val.json in"),
        ("train.json", 1, lambda r: [0, *r[1:]], "row 1 of train.json in .*: EmoSet's rows"),
        ("train.json", 1, lambda r: ["awe", *r[1:]], r"row 1 of train\.json .* says 'awe', but its image is image/amu"),
        ("train.json", 1, lambda r: [r[0], r[2], r[2]], "row 1 of train.json in .* names 0 images instead of one"),
    ],
)  # fmt: skip
def test_broken_rows_of_emoset(name, row, cells, sentence, tmp_path):
    root = emoset(tmp_path / "EmoSet")
    change(root, name, row, cells)
    refuses(sentence, root)


def test_broken_lists_of_emoset(tmp_path):
    root = emoset(tmp_path / "EmoSet")
    train = json.loads((root / "train.json").read_text())
    change(root, "test.json", 1, train[0])
    image = train[0][1]
    refuses(
        rf"EmoSet names {image} twice, in the splits train and test, row 1 of train\.json \(amusement\) and row 1 of "
        r"test\.json \(amusement\): remove one of the two rows",
        root,
    )
    write(root / "test.json", "[]")
    refuses(r"test\.json is not a list of rows: fetch it again", root)
    (root / "test.json").write_bytes(b"")
    refuses(r"test\.json is empty: fetch it again", root)
    (root / "test.json").write_bytes(b"\xff\xfe[")
    refuses(r"test\.json is encoded in UTF-16 \(row 1, byte 0\): save it as UTF-8", root)
    (root / "test.json").unlink()
    write(root / "train.json", json.dumps([r for r in train if r[0] != "fear"]))
    (root / "val.json").unlink()
    refuses("has no image of 'fear' in its split lists, but info.json names it", root)
    shutil.copy(root / "train.json", root / "val.json")
    (root / "train.json").unlink()
    refuses(r"train\.json does not exist: fetch it", root)


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        (
            {"label2idx": {n: i for i, n in enumerate(MIKELS)}, "idx2label": {"0": "awe"}},
            "contradicts itself: .* 0 is 'awe', label2idx says 'amusement'",
        ),
        ({"emotion": {"label2idx": {"amusement": 0, "awe": 0}}}, "has no label2idx that numbers emotions from 0"),
        ({"emotion": {}}, "has no label2idx"),
        ([], "has no label2idx"),
        ({"label2idx": {"joy": 0}}, "a label of .*info.json is 'joy', no emotion of this set"),
    ],
)
def test_broken_info_of_emoset(info, sentence, tmp_path):
    root = emoset(tmp_path / "EmoSet")
    write(root / "info.json", json.dumps(info))
    refuses(sentence, root)


def test_a_picture_in_two_splits_is_found_by_its_pixels(tmp_path):
    root = emoset(tmp_path / "EmoSet")
    data = opened(root)
    train, test = (sorted(by_split(data)[s])[0] for s in ("train", "test"))
    shutil.copy(root / train, root / test)
    report = examine(root, progress=False)
    assert "the same picture lies in two splits" in report.problems[0] and train in report.problems[0]


# ---------------------------------------------------------------- FI


@pytest.mark.parametrize("layout", "abcd")
def test_fi_in_its_four_layouts(layout, tmp_path):
    data = opened(fi(tmp_path, layout))
    assert data.name == "FI" and data.classes == MIKELS and data.placeholders == ()
    assert per_class(data) == dict.fromkeys(MIKELS, 20)
    assert all(data.classes[i] in name.lower() for i, name in zip(data.labels, data.ids, strict=True))
    assert [int((data.splits == s).sum()) for s in SPLITS] == [128, 8, 24]
    assert any("no splits were given" in n for n in data.notes) == (layout != "b")


def test_fi_lists_with_splits_in_their_names(tmp_path):
    root = fi(tmp_path, "d") / "FI"
    rows = (root / "annotations.txt").read_text().splitlines()[1:]
    (root / "annotations.txt").unlink()
    parts = {"train": rows[:100], "val": rows[100:120], "test": rows[120:]}
    parts = {
        s: [r for i, r in enumerate(rows) if i % 5 == k or (s == "train" and i % 5 > 2)] for k, s in enumerate(parts)
    }
    for split, lines in parts.items():
        write(root / "annotations" / f"fi_{split}.txt", "\n".join(r.replace(",", " ") for r in lines))
    data = opened(root)
    assert {s: len(v) for s, v in by_split(data).items()} == {s: len(v) for s, v in parts.items()}
    assert by_split(data)["val"] == {"image/" + r.split(",")[0] for r in parts["val"]}
    write(root / "annotations" / "train_2.csv", "\n".join(parts["train"]))
    refuses(r"has several lists for train \(fi_train\.txt, train_2\.csv\): keep one", root)


def test_fi_leaves_placeholders_out_and_says_so(tmp_path):
    root = fi(tmp_path, "b") / "FI"
    lost = [
        root / "train" / label.capitalize() / f"{label}_{n:04d}.jpg"
        for label in ("awe", "fear", "anger")
        for n in (1, 2)
    ]
    for path in lost:
        paint(path, 99_999)
    twins = [root / "train" / "Disgust" / f"disgust_{n:04d}.jpg" for n in (1, 2, 3, 4, 5, 6)]
    for path in twins:
        paint(path, 88_888)  # as many, but of one label: nothing says that they are not images
    data = opened(root)
    gone = {p.relative_to(root).as_posix() for p in lost}
    assert set(data.placeholders) == gone and not gone & set(data.ids) and len(data) == 154 and data.broken == ()
    assert {p.relative_to(root).as_posix() for p in twins} <= set(data.ids)
    assert (
        data.notes[0].startswith("6 of 160 files show one of 1 pictures that come 5 times or more")
        and "left out" in data.notes[0]
    )
    report = examine(root, progress=False)
    assert report.ok and data.notes[0] in report.remarks and int(report.counts["all"].sum()) == 154
    assert not gone & set(report.duplicates.id)
    assert examine(data, progress=False).counts.equals(report.counts)
    for path in lost[:2]:
        paint(path, int(path.stem[-4:]))
    few = opened(root)
    assert few.placeholders == () and len(few) == 160  # four copies may be honest repeats
    assert "the same picture has two labels" in examine(root, progress=False).problems[0]


def test_numbers_of_fi_mean_what_the_file_names_say_or_nothing(tmp_path):
    root = fi(tmp_path, "c") / "FI"
    rows = list(csv.reader((root / "fi_list.csv").open()))
    order = ["Amusement", "Contentment", "Awe", "Excitement", "Fear", "Sadness", "Disgust", "Anger"]
    code = {name.lower(): i for i, name in enumerate(order)}
    write(root / "fi_list.csv", "\n".join(f"{name},{code[label]},{senti}" for name, label, senti in rows))
    data = opened(root)
    assert data.classes == MIKELS and per_class(data) == dict.fromkeys(MIKELS, 20)
    assert any("0 amusement, 1 contentment, 2 awe" in n for n in data.notes)
    wrong = [[name, str(code[label]), s] for name, label, s in rows]
    wrong[30][1] = str(code["fear"])
    write(root / "fi_list.csv", "\n".join(",".join(r) for r in wrong))
    refuses(
        r"row \d+ of .*fi_list\.csv gives \w+_\d+\.jpg the emotion \d, and numbers name nothing .*: write names", root
    )
    for n, (name, *_) in enumerate(rows):
        (root / "image" / name).rename(root / "image" / f"{n}.jpg")
    write(root / "fi_list.csv", "\n".join(f"{n},{code[label]},{s}" for n, (_, label, s) in enumerate(rows)))
    refuses(r"row 1 of .*fi_list\.csv gives 0\.jpg the emotion \d, and numbers name nothing", root)


def test_broken_trees_of_fi(tmp_path):
    root = fi(tmp_path / "a", "b") / "FI"
    (root / "train" / "Awe").rename(root / "train" / "Aww")
    refuses(r"a class folder of .*FI is 'Aww', no emotion of this set \(did you mean 'awe'\?\): correct it", root)
    (root / "train" / "Aww").rename(root / "train" / "Content")
    refuses("has the class folders Content and Contentment, which are one emotion: merge them", root)
    root = fi(tmp_path / "d", "d") / "FI"
    table = root / "annotations.txt"
    text = table.read_text()
    write(table, text.replace("amusement_0003.jpg,amusement", "amusement_0003.jpg,amusemant"))
    refuses(r"emotion of row 5 of .*annotations\.txt is 'amusemant', no emotion .*'amusement'", root)
    write(table, text.replace("amusement_0003.jpg,amusement", "amusement_0003.jpg"))
    refuses(r"row 5 of .*annotations\.txt has 1 columns instead of 2: correct it", root)
    write(table, text.replace("amusement_0003.jpg,amusement", "amusement_0002.jpg,awe"))
    refuses(r"FI names image/amusement_0002\.jpg twice, row 4 of .* \(amusement\) and row 5 of .* \(awe\)", root)
    write(table, text)
    for folder in ("flickr", "instagram"):
        paint(root / "images" / folder / "1.jpg", 5)
    write(table, text.replace("amusement_0003.jpg,amusement", "1.jpg,amusement"))
    refuses(r"row 5 of .* names 1\.jpg, which lies below .*FI 2 times: write its whole path", root)
    write(table, text.replace("amusement_0003.jpg,amusement", "flickr/1.jpg,amusement"))
    assert "images/flickr/1.jpg" in opened(root).ids
    write(table, text.replace("amusement_0003.jpg,amusement", "gone,amusement"))
    refuses(r"gone\.jpg \(row 5 of .*annotations\.txt\), which does not exist", root, error=BadImage)


def test_a_set_without_one_emotion_says_so(tmp_path):
    root = fi(tmp_path, "a") / "emotion_dataset"
    shutil.rmtree(root / "awe")
    data = opened(root)
    assert len(data.classes) == 7 and "no image is labelled awe: 7 of 8 emotions." in data.notes


# ---------------------------------------------------------------- Emotion6


def test_emotion6_keeps_probabilities_and_labels_by_them(tmp_path):
    text, variant = opened(emotion6(tmp_path / "a")), opened(emotion6(tmp_path / "b", "json"))
    assert text.classes == variant.classes == EKMAN and text.ids == variant.ids
    np.testing.assert_array_equal(text.distributions, variant.distributions)
    assert (text.labels == variant.labels).all() and per_class(text)["neutral"] >= 18
    folders = [EKMAN.index(i.split("/")[0]) for i in text.ids]
    other = int((text.labels != folders).sum())
    assert 18 <= other < 72
    assert f"which for {other} of 72 images is not their folder's." in text.notes[1]
    for name, row in zip(text.ids, text.distributions, strict=True):
        line = next(
            t for t in (tmp_path / "a" / "ground_truth.txt").read_text().splitlines() if t.startswith(name + "\t")
        )
        np.testing.assert_allclose(row, np.array(line.split("\t")[3:], dtype=float), atol=2e-6)
    share = {s: len(v) / 72 for s, v in by_split(text).items()}
    assert 0.6 < share["train"] < 0.76 and 0.15 < share["test"] < 0.25


def test_emotion6_columns_go_by_name(tmp_path):
    root = emotion6(tmp_path)
    before = opened(root)
    lines = (root / "ground_truth.txt").read_text().splitlines()
    turn = [0, 1, 2, 9, 8, 7, 6, 5, 4, 3]
    write(root / "ground_truth.txt", "\r\n".join("\t".join(line.split("\t")[i] for i in turn) for line in lines))
    after = opened(root)
    assert after.classes == EKMAN and after.fingerprint == before.fingerprint


def test_ties_of_emotion6_are_counted(tmp_path):
    root = emotion6(tmp_path)
    text = (root / "ground_truth.txt").read_text().splitlines()
    text[1] = "\t".join([*text[1].split("\t")[:3], "0", "0.4", "0", "0.4", "0.2", "0", "0"])
    write(root / "ground_truth.txt", "\n".join(text))
    data = opened(root)
    assert data.classes[data.labels[data.ids.index("anger/1.jpg")]] == "disgust"
    assert "1 of 72 images have no single winner: the first in class order is their label." in data.notes


def test_broken_tables_of_emotion6(tmp_path):
    root = emotion6(tmp_path / "a")
    path = root / "ground_truth.txt"
    text = path.read_text()
    lines = text.splitlines()
    for sentence, broken in {
        r"ground_truth\.txt has the columns .* votes for 0 emotions: fetch": text.replace("\t", " "),
        r"row 3 of .* has probabilities that sum to 1\.\d+ and not to 1": text.replace(lines[2], lines[2] + "5"),
        r"a column of .*ground_truth\.txt is 'fright', no emotion of this set": text.replace(
            "[prob. fear]", "[prob. fright]"
        ),
        r"names anger/2\.jpg twice, row 3 of .* and row 4": text.replace(lines[3], lines[2]),
    }.items():
        write(path, broken)
        refuses(sentence, f"emotion6:{root}")
    root = emotion6(tmp_path / "b", "json")
    path = root / "Emotion6.json"
    table = json.loads(path.read_text())
    first = table["anger/1.jpg"]["emotions"]
    del table["anger/2.jpg"]["emotions"]["neutral"]
    write(path, json.dumps(table))
    refuses(
        r"entry 'anger/2\.jpg' of .*Emotion6\.json and the first one do not have the same emotions \('neutral'\)", root
    )
    table["anger/2.jpg"]["emotions"] = {**first, "neutral": None}
    write(path, json.dumps(table))
    refuses(r"entry 'anger/2\.jpg' of .*Emotion6\.json holds a vote that is not a number", root)
    write(path, json.dumps({"anger/1.jpg": {"true_emotion": "anger"}}))
    refuses(r"Emotion6\.json is not like \{image: ", root)
    table["anger/2.jpg"] = {"dominant_emotion": "fear", "emotions": first}
    write(path, json.dumps({"images/" + k: v for k, v in table.items()}))  # the other way of writing the paths
    data = opened(root)
    assert "in 1 entries dominant_emotion is not the most probable one: it was not used." in data.notes


# ---------------------------------------------------------------- Flickr_LDL, Twitter_LDL


@pytest.mark.parametrize(("annotators", "trailing"), [(11, False), (8, False), (8, True)])
def test_ldl_sets_are_votes_by_the_name_of_the_column(annotators, trailing, tmp_path):
    votes = ldl(tmp_path / "set", annotators, trailing)
    data = opened(tmp_path / "set")  # told apart by the number of votes
    assert data.name == ("Flickr_LDL" if annotators == 11 else "Twitter_LDL") and data.classes == MIKELS
    at = [int(name.partition(".")[0]) - 1 for name in data.ids]
    np.testing.assert_allclose(data.distributions, votes[at] / annotators, atol=1e-15)
    assert (data.labels == np.array(at) % 8).all()
    assert any("have a column without an emotion: dropped" in n for n in data.notes) == trailing
    assert not any("votes (first" in n for n in data.notes)
    lines = (tmp_path / "set" / "ground_truth.txt").read_text().splitlines()
    turn = [0, 8, 7, 6, 5, 4, 3, 2, 1]
    write(tmp_path / "set" / "ground_truth.txt", "\r\n".join(" ".join(t.split()[i] for i in turn) for t in lines))
    assert opened(tmp_path / "set").fingerprint == data.fingerprint


def test_ldl_without_a_sign_of_which_it_is(tmp_path):
    root = tmp_path / "votes"
    ldl(root, 9)
    refuses(r"votes may be Flickr_LDL or Twitter_LDL: write flickr_ldl:.*votes or twitter_ldl:", root)
    data = opened(f"flickr_ldl:{root}")
    assert any(n.startswith("80 of 80 images do not have 11 votes (first 1.jpg: 9)") for n in data.notes)


@pytest.mark.parametrize("how", ["numbers", "mask", "fold"])
def test_ldl_takes_the_division_of_its_mat(how, tmp_path):
    root = tmp_path / "Flickr_LDL"
    votes = ldl(root)
    test = np.sort(np.random.default_rng(5).permutation(80)[:24])
    train = np.setdiff1d(np.arange(80), test)
    more = {
        "numbers": {"train_ind": train + 1, "test_ind": (test + 1)[:, None]},
        "mask": {"train_ind": np.isin(np.arange(80), train), "test_ind": np.isin(np.arange(80), test).astype(float)},
        "fold": {"split_index": np.where(np.isin(np.arange(80), test), 1, 2 + np.arange(80) % 4)},
    }[how]
    mat(root / "flickrldl_config.mat", votes, **more)
    data = opened(root)
    assert by_split(data)["test"] == {f"{i + 1}.jpg" for i in test}
    assert by_split(data)["train"] | by_split(data)["val"] == {f"{i + 1}.jpg" for i in train} and by_split(data)["val"]
    note = next(n for n in data.notes if "flickrldl_config.mat" in n)
    assert note.startswith("the votes of flickrldl_config.mat are those of ground_truth.txt in all 80 rows; ")
    assert note.endswith("fold 1 of its split_index." if how == "fold" else "its train_ind and test_ind.")
    shuffled = np.random.default_rng(6).permutation(80)  # rows of the .mat in another order: images go by name
    names = np.array([f"images/{i + 1}.jpg" for i in shuffled], dtype=object)
    whole = {"imgname": names, "vote": votes[shuffled] / 11, "split_index": np.where(np.isin(shuffled, test), 1, 3)}
    scipy.io.savemat(root / "flickrldl_config.mat", whole)
    assert by_split(opened(root))["test"] == by_split(data)["test"]
    mat(root / "flickrldl_config.mat", votes)
    assert any(n.endswith("it has no split.") for n in opened(root).notes)


def test_ldl_refuses_a_mat_in_another_order_of_columns_and_names_it(tmp_path):
    root = tmp_path / "Twitter_LDL"
    votes = ldl(root, 8)
    other = ("anger", "amusement", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
    mat(root / "twitterldl_config.mat", votes[:, [MIKELS.index(c) for c in other]])
    text = refuses(
        r"twitterldl_config\.mat disagrees with .*ground_truth\.txt on \d+ of 80 images, first \d+\.jpg", root
    )
    assert f"(its columns are the text's in the order {', '.join(other)})" in text and "move the .mat away" in text
    votes[6] = np.roll(votes[6], 1)
    mat(root / "twitterldl_config.mat", votes)
    text = refuses(r"disagrees with .*ground_truth\.txt on 1 of 80 images, first 7\.jpg", root)
    assert "(and no order of columns makes them agree)" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"imgname": [f"{n}.jpg" for n in range(80)]}, r"do not name the same images once each \(first 0\.jpg\)"),
        ({"imgname": ["1.jpg", *(f"{n}.jpg" for n in range(1, 81))]}, r"once each \(first 1\.jpg\)"),
        ({"vote": np.ones((8, 79))}, r"has votes of shape \(8, 79\) for 80 images"),
        ({"vote": None}, "has no variable 'vote'"),
        ({"train_ind": np.arange(1, 60), "test_ind": np.arange(58, 81)}, r"puts 58\.jpg into both train and test"),
        ({"train_ind": np.arange(1, 60), "test_ind": np.arange(61, 81)}, r"puts 60\.jpg into neither"),
        ({"train_ind": np.arange(0, 60), "test_ind": np.arange(60, 80)}, "has a train_ind that is neither a mask"),
        ({"train_ind": "all", "test_ind": np.arange(60, 80)}, "has a train_ind that is neither"),
        ({"split_index": np.ones(80)}, r"has a split_index of shape \(80,\) for 80 images"),
    ],
)  # fmt: skip
def test_broken_mats(change, sentence, tmp_path):
    root = tmp_path / "Flickr_LDL"
    votes = ldl(root)
    names = np.array([f"{n + 1}.jpg" for n in range(80)], dtype=object)
    whole = {"imgname": names, "vote": votes.T, **change}
    whole["imgname"] = np.array(whole["imgname"], dtype=object)
    scipy.io.savemat(root / "flickrldl_config.mat", {k: v for k, v in whole.items() if v is not None})
    assert "move the .mat away" in refuses(f"flickrldl_config.mat .*{sentence}", root)


def test_mats_that_cannot_be_read(tmp_path):
    root = tmp_path / "Flickr_LDL"
    ldl(root)
    path = root / "flickrldl_config.mat"
    path.write_bytes(b"no mat" * 50)
    refuses(
        r"flickrldl_config\.mat cannot be read as a \.mat file \(.*\): fetch it again, or move the \.mat away", root
    )
    mat(root / "other_config.mat", np.ones((80, 8)))
    refuses(r"has several divisions \(flickrldl_config\.mat, other_config\.mat\): keep one of the files", root)


@pytest.mark.parametrize("text", ["cell", "characters"])
def test_a_mat_of_matlab_7_3(text, tmp_path):
    root = tmp_path / "Flickr_LDL"
    votes = ldl(root)
    with h5py.File(root / "flickrldl_config.mat", "w", userblock_size=512) as file:
        names = [f"{n + 1}.jpg" for n in range(80)]
        if text == "cell":
            letters = [np.array([[ord(c)] for c in name], dtype=np.uint16) for name in names]
            cells = [file.create_dataset(f"#refs#/{n}", data=data) for n, data in enumerate(letters)]
            file.create_dataset("imgname", data=np.array([[c.ref for c in cells]], dtype=h5py.ref_dtype))
        else:
            file["imgname"] = np.array([[ord(c) for c in s.ljust(8)] for s in names], dtype=np.uint16).T
        file["vote"] = votes.T.astype(float)
        file["split_index"] = np.where(np.arange(80) < 16, 1.0, 2.0)[None]
    head = b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(124) + b"\x00\x02IM"
    with (root / "flickrldl_config.mat").open("r+b") as file:
        file.write(head)
    data = opened(root)
    assert by_split(data)["test"] == {f"{n + 1}.jpg" for n in range(16)}
    content = (root / "flickrldl_config.mat").read_bytes()
    (root / "flickrldl_config.mat").write_bytes(content[:700])
    refuses("cannot be read as a .mat file", root)


def test_broken_texts_of_ldl(tmp_path):
    root = tmp_path / "Flickr_LDL"
    ldl(root)
    path = root / "ground_truth.txt"
    text = path.read_text()
    lines = text.splitlines()
    third = lines[2]
    for sentence, broken in {
        r"names 2\.jpg twice, row 3 of .* and row 4": text.replace(lines[3], third),
        r"has no image whose most votes go to 'sadness', so no classifier can learn it": "\n".join(lines[:8]),
    }.items():
        write(path, broken)
        refuses(sentence, root)
    write(path, text.replace("Awe", "Aww"))
    refuses(r"is no Flickr_LDL, nor holds it one folder below \(ground_truth\.txt with a column", f"flickr_ldl:{root}")


# ---------------------------------------------------------------- ArtPhoto, Abstract


def test_artphoto_by_the_start_of_its_names(tmp_path):
    root = artphoto(tmp_path / "testImages_artphoto")
    data = opened(root)
    assert per_class(data) == dict.fromkeys(MIKELS, 5) and data.ignored == ("ReadMe.rtf",)
    for name, i in zip(data.ids, data.labels, strict=True):
        assert MIKELS_WORDS[name.split("_")[0]] == data.classes[i]
    paint(root / "happy_0001.jpg", 1)
    refuses(r"the start of .*happy_0001\.jpg is 'happy', no emotion of this set", root)


def test_abstract_leaves_ties_out(tmp_path):
    root = abstract(tmp_path / "abstract")
    data = opened(root)
    assert len(data) == 40 and per_class(data) == dict.fromkeys(MIKELS, 5)
    assert "3 of 43 images have no single winner and are left out." in data.notes
    row = data.distributions[data.ids.index("abstract_0003.jpg")]
    assert data.classes[row.argmax()] == "contentment"  # the column 'Content'
    np.testing.assert_allclose(sorted(row), [*[1 / 12] * 7, 5 / 12])
    path = root / "ABSTRACT_groundTruth.csv"
    text = path.read_text()
    write(path, text.replace("'Sad'", "'Fear'"))
    refuses("has two columns for fear .*: fetch it again", root)
    write(path, text.replace("'Sad'", "'Sorrow'"))
    refuses(r"a column of .*ABSTRACT_groundTruth\.csv is 'Sorrow', no emotion of this set", root)
    line = text.splitlines()[4]
    write(path, text.replace(line, line + ",1"))
    refuses(r"row 5 of .*ABSTRACT_groundTruth\.csv has 10 columns instead of 9", root)


# ---------------------------------------------------------------- faces


@pytest.mark.parametrize(
    ("header", "ending"), [("emotion,pixels,Usage", "\n"), ("emotion, Usage, pixels", "\r\n"), ("emotion,pixels", "\n")]
)
def test_fer2013_paints_its_pixels(header, ending, tmp_path):
    root = fer2013(tmp_path / "fer2013", header, ending)
    data = opened(root)
    assert tuple(load_descriptions("ekman")) == EKMAN  # one order per wheel, one spelling in the package
    order = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")  # the numbers of the column emotion
    assert data.classes == EKMAN and per_class(data) == dict.fromkeys(EKMAN, 6)
    for n in (0, 17, 41):
        at = data.ids.index(f"fer2013.csv/{n + 2:05d}")
        np.testing.assert_array_equal(np.asarray(data[at].image)[..., 1], faces(42)[n])
        assert data[at].label_name == order[n % 7] and data[at].image.size == (48, 48)
    if "Usage" in header:
        assert [int((data.splits == s).sum()) for s in SPLITS] == [28, 7, 7]
    assert opened(root / "fer2013.csv").fingerprint == opened(f"fer2013:{root / 'fer2013.csv'}").fingerprint


def test_fer2013_notices_a_change_and_remembers_its_check(tmp_path):
    root = fer2013(tmp_path / "fer2013")
    path, cache = root / "fer2013.csv", tmp_path / "cache"
    data = opened(root, cache=cache)
    assert opened(root, cache=cache).fingerprint == data.fingerprint and len(list(cache.iterdir())) == 1
    text = path.read_text()
    lines = text.splitlines()
    cells = lines[3].split(",")
    cells[1] = cells[1].rpartition(" ")[0]
    write(path, text.replace(lines[3], ",".join(cells)))
    with pytest.raises(
        BadImage, match=r"fer2013\.csv has changed since the data set was opened: open the data set again"
    ):
        data[2].image  # noqa: B018 - reading is the test
    refuses(
        r"fer2013\.csv/00004 \(row 4\), which has 2303 pixels instead of 48 x 48 from 0 to 255", root, error=BadImage
    )
    assert [b[0] for b in opened(root, on_error="skip", cache=cache).broken] == ["fer2013.csv/00004"]
    path.unlink()
    with pytest.raises(BadImage, match="cannot be read"):
        data[2]


def test_broken_tables_of_fer2013(tmp_path):
    root = fer2013(tmp_path / "fer2013")
    path = root / "fer2013.csv"
    text = path.read_text()
    row = text.splitlines()[1]
    for sentence, broken in {
        r"row 2, column 'emotion' of .*fer2013\.csv is '7', none of 0 to 6": "7" + row[1:],
        r"row 2, column 'Usage' of .*fer2013\.csv is 'Trainin' \(did you mean 'training'\?\): write": row[:-1],
        r"row 2 of .*fer2013\.csv has 2 columns, its header 3": row.rpartition(",")[0],
        r"row 2 of .*fer2013\.csv has 1 columns": '"' + "1" * 200_000,
    }.items():
        write(path, text.replace(row, broken))
        refuses(sentence, root)
    write(path, text.replace(row, row.replace(",", ",x ", 1)))
    refuses(r"00002 \(row 2\), which has pixels that are not numbers", root, error=BadImage)
    write(path, "emotion,pixels,Usage\n")
    refuses("fer2013.csv names no image of FER2013: fetch its files again", path)
    write(path, "path,label\n")
    refuses("is no FER2013, nor holds it", f"fer2013:{root}")


def test_fer2013_in_folders(tmp_path):
    root = tmp_path / "fer2013"
    for n, word in enumerate(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")):
        for i in range(13):
            paint(root / ("train" if i < 9 else "test") / word / f"{i}.png", 20 * n + i)
    data = opened(root)
    assert data.classes == EKMAN and {len(v) for v in (by_split(data)["test"], by_split(data)["val"])} == {28, 7}
    assert EKMAN_WORDS["happy"] == "joy" == data.classes[data.labels[data.ids.index("train/happy/1.png")]]
    shutil.move(root, tmp_path / "faces")
    assert recognise(tmp_path / "faces") is None and opened(f"fer2013:{tmp_path / 'faces'}").fingerprint


def test_rafdb_counts_from_one(tmp_path):
    root = rafdb(tmp_path / "basic")
    data = opened(root)
    order = ("surprise", "fear", "disgust", "joy", "sadness", "anger", "neutral")
    lines = (root / "EmoLabel" / "list_patition_label.txt").read_text().splitlines()
    code = {f"Image/aligned/{n[:-4]}_aligned.jpg": int(c) for n, c in (line.split() for line in lines)}
    assert [data.classes[i] for i in data.labels] == [order[code[name] - 1] for name in data.ids]
    assert by_split(data)["test"] == {n for n in code if "test_" in n} and len(by_split(data)["val"]) == 7
    shutil.copytree(root, tmp_path / "compound")
    assert opened(tmp_path).fingerprint == data.fingerprint  # the compound set beside it is another
    path = root / "EmoLabel" / "list_patition_label.txt"
    for sentence, broken in {
        r"row 1 of .*list_patition_label\.txt has the emotion '0', none of 1 to 7": "train_00001.jpg 0",
        r"row 1 of .* has the emotion '9', none of 1 to 7: correct it, or give the folder": "train_00001.jpg 9",
        r"row 1 of .* has 1 columns instead of 2: correct it": "train_00001.jpg",
        r"row 1 of .* is 'valid_00001\.jpg' and not like": "valid_00001.jpg 5",
        r"names Image/aligned/train_00002_aligned\.jpg twice, row 1 of .* and row 2": "train_00002.jpg 5",
    }.items():
        write(path, "\n".join([broken, *lines[1:]]))
        refuses(sentence, root)
    write(path, "\n".join(lines))
    shutil.move(root / "Image" / "aligned", root / "aligned")
    assert opened(root).ids[0].startswith("aligned/")


@pytest.mark.parametrize("splits", [("train", "valid", "test"), ("Training", "test"), (".",)])
def test_rafdb_in_numbered_folders(splits, tmp_path):
    """As it is passed on: the emotions are the folders 1 to 7, in the numbers of the release."""
    order, root = ("surprise", "fear", "disgust", "joy", "sadness", "anger", "neutral"), tmp_path / "faces"
    for k, split in enumerate(splits):
        for code in range(1, 8):
            for i in range(5):
                paint(root / split / str(code) / f"{i}.png", 100 * k + 10 * code + i)
    data = opened(f"rafdb:{tmp_path}")
    assert data.name == "RAF-DB" and data.classes == EKMAN and set(data.splits) == set(SPLITS)
    codes = [int(name.split("/")[-2]) for name in data.ids]
    assert [data.classes[i] for i in data.labels] == [order[c - 1] for c in codes]
    assert any("1 surprise, 2 fear, 3 disgust, 4 joy" in note for note in data.notes)
    assert recognise(root) is None  # seven numbered folders are anybody's without the prefix
