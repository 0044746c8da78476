"""The doctor: what it calls a problem, what it only remarks, and what a healthy folder looks like."""

import io
import shutil
import subprocess
import sys

import imagehash
import numpy as np
import pytest
from PIL import Image

from hc_lafter.data import doctor
from hc_lafter.data.decode import BadImage
from hc_lafter.data.doctor import FEW, Report, examine, main
from hc_lafter.data.own.images import ImageFiles
from hc_lafter.data.record import Dataset, Record


def picture(seed, side=64):
    """A smooth picture, so that its perceptual hash survives a re-encoding."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def fill(folder, count, start):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        picture(i).save(folder / f"{i}.png")


@pytest.fixture
def pets(tmp_path):
    """A healthy folder with splits: two classes, ten different images each in every split."""
    root = tmp_path / "pets"
    for k, split in enumerate(("train", "val", "test")):
        fill(root / split / "cat", 10, 1000 * k)
        fill(root / split / "dog", 10, 1000 * k + 100)
    return root


def look(data, **options):
    report = examine(data, progress=False, **options)
    assert isinstance(report, Report) and report.ok == (not report.problems)
    for sentence in (*report.problems, *report.remarks):
        assert "\n" not in sentence and sentence.endswith(".")
    return report


def test_a_healthy_folder(pets):
    report = look(pets)
    assert report.ok and report.remarks == () and report.broken.empty and report.duplicates.empty
    assert report.counts.to_dict("list") == {
        "class": ["cat", "dog"], "train": [10, 10], "val": [10, 10], "test": [10, 10], "all": [30, 30]
    }  # fmt: skip
    assert report.classes["class"].tolist() == ["cat", "dog"]
    lines = report.lines()
    assert lines[0] == "pets: 60 readable images in 2 classes, no problems" and "class order: 0 cat, 1 dog" in lines
    again = look(ImageFiles(pets, progress=False))
    assert again.lines() == lines


def test_a_picture_in_two_splits_is_the_first_problem(pets):
    shutil.copy(pets / "train" / "cat" / "3.png", pets / "test" / "cat" / "leak.png")
    picture(104).save(pets / "val" / "dog" / "leak.bmp")  # other bytes, equal pixels
    (pets / "train" / "cat" / "a.jpg").write_bytes(b"")
    report = look(pets)
    assert report.problems[0] == (
        "the same picture lies in two splits, test/cat/leak.png (test) and train/cat/3.png (train), and 1 more such "
        "groups: delete one of the two, or take it from its list; else test accuracy measures memory."
    )
    assert report.duplicates[["group", "kind", "id", "split", "label"]].values.tolist() == [
        [0, "exact", "test/cat/leak.png", "test", "cat"],
        [0, "exact", "train/cat/3.png", "train", "cat"],
        [1, "exact", "train/dog/104.png", "train", "dog"],
        [1, "exact", "val/dog/leak.bmp", "val", "dog"],
    ]
    assert "  exact: train/dog/104.png (train, dog) = val/dog/leak.bmp (val, dog)" in report.lines()
    assert report.lines()[1].startswith("PROBLEM: the same picture lies in two splits")


def test_unreadable_files_are_a_problem_unless_skipped(pets):
    (pets / "train" / "cat" / "a.jpg").write_bytes(b"")
    (pets / "val" / "dog" / "b.jpg").write_bytes(b"<html>404</html>")
    report = look(pets)
    assert report.problems == (
        "2 of 62 files cannot be used, the first is train/cat/a.jpg, which is empty (0 bytes): fetch it again or "
        "delete it, or skip them (--skip, on_error='skip').",
    )
    assert report.broken[["id", "label"]].values.tolist() == [["train/cat/a.jpg", "cat"], ["val/dog/b.jpg", "dog"]]
    assert "HTML" in report.broken.found[1] and int(report.counts["all"].sum()) == 60
    skipped = look(pets, skip=True)
    assert skipped.ok and skipped.remarks[0].endswith("(they are skipped).") and len(skipped.broken) == 2
    opened = look(ImageFiles(pets, on_error="skip", progress=False))
    assert opened.ok and opened.remarks == skipped.remarks and opened.broken.equals(skipped.broken)


def test_one_picture_with_two_labels(pets):
    shutil.copy(pets / "train" / "cat" / "3.png", pets / "train" / "dog" / "torn.png")
    assert look(pets).problems == (
        "the same picture has two labels, train/cat/3.png (cat) and train/dog/torn.png (dog): keep it in one class.",
    )


def test_repeats_within_class_and_split_are_a_remark(pets):
    for i in range(2):
        shutil.copy(pets / "train" / "cat" / "3.png", pets / "train" / "cat" / f"again{i}.png")
    report = look(pets)
    assert report.ok and len(report.duplicates) == 3
    (remark,) = report.remarks
    assert remark.startswith("images repeat another of their class and split (2, first train/cat/again0.png = ")


def test_a_divided_folder_never_leaks(tmp_path):
    fill(tmp_path / "cat", 20, 0)
    fill(tmp_path / "dog", 20, 100)
    for i in range(10):
        shutil.copy(tmp_path / "cat" / f"{i}.png", tmp_path / "cat" / f"again{i}.png")
    report = look(tmp_path, seed=5)
    assert report.ok and len(report.duplicates) == 20 and "with seed 5" in report.remarks[0]
    assert report.counts[["train", "val", "test"]].values.tolist()[1] == [12, 4, 4]
    assert (report.duplicates.groupby("group").split.nunique() == 1).all()


def test_a_test_split_too_small_for_an_interval(tmp_path):
    for n, name in enumerate(("cat", "dog")):
        fill(tmp_path / name, 20, 100 * n)
    said = "the test split has 8 readable images, too few for the notebooks, whose intervals take 10: add some."
    assert said in look(tmp_path).remarks
    fill(tmp_path / "emu", 20, 200)
    assert not any("the test split has" in remark for remark in look(tmp_path).remarks)


def test_small_classes(tmp_path):
    fill(tmp_path / "cat", 20, 0)
    fill(tmp_path / "dog", FEW - 1, 100)
    fill(tmp_path / "emu", 2, 200)
    report = look(tmp_path)
    assert any(
        "class 'emu'" in p and "2 different readable images, too few for train, val and test" in p
        for p in report.problems
    )
    assert f"fewer than {FEW} readable images in class dog (9), emu (2): add some." in report.remarks
    assert report.counts.set_index("class")["no split"].to_dict() == {"cat": 20, "dog": 9, "emu": 2}
    assert not any("the test split has" in remark for remark in report.remarks)  # nothing is divided yet
    (tmp_path / "fox").mkdir()
    assert any("class 'fox'" in p and "has no images: add some" in p for p in look(tmp_path).problems)
    assert look(tmp_path).counts.set_index("class")["all"]["fox"] == 0


def test_a_path_that_cannot_be_opened_is_a_problem_and_no_exception(tmp_path):
    report = look(tmp_path / "nowhere")
    assert not report.ok and "does not exist: correct the path" in report.problems[0]
    assert report.lines()[0].endswith("0 readable images in 0 classes, 1 problem")
    bad = tmp_path / "list.csv"
    bad.write_text("path,label\na.png,\n", encoding="utf-8")
    assert "row 2, column 'label'" in look(bad).problems[0]


def test_class_order(pets, tmp_path):
    assert look(pets, classes=["cat", "dog"]).remarks == (
        "the class list given is in sorted order, as the folder names are.",
    )
    turned = look(pets, classes=["dog", "cat"])
    assert turned.ok and turned.classes.values.tolist() == [[0, "dog", "cat"], [1, "cat", "dog"]]
    assert "not in sorted order (index 0 is 'dog', sorted 'cat')" in turned.remarks[0]
    assert "class order: 0 dog, 1 cat" in turned.lines()
    wrong = look(pets, classes=["cat", "dgo"])
    assert "classes names 'dgo'" in wrong.problems[0] and "(did you mean 'dog'?)" in wrong.problems[0]
    opened = ImageFiles(pets, progress=False)
    assert "opened with 'cat' at index 0, the class list has 'dog'" in look(opened, classes=["dog", "cat"]).remarks[1]
    assert "class 'dgo' is named by only one" in look(opened, classes=["cat", "dog", "dgo"]).problems[0]
    for i in range(11):
        fill(tmp_path / "numbers" / str(i), 10, 100 * i)
    remarks = look(tmp_path / "numbers").remarks
    assert any("are numbers and sort as text (0, 1, 10, 2 ...): give classes" in r for r in remarks)


@pytest.mark.parametrize(
    ("names", "coded"),
    [(("1", "2"), True), (("0.0", "1.0"), True), (("n01440764", "n01443537"), True), (("class_1", "class_2"), True),
     (("c0", "c1"), True), (("emotion 1", "emotion 2"), True), (("ID_1", "ID_7"), True),
     (("boeing 747", "airbus 320"), False),
     (("A", "B"), True), (("class A", "class B"), True), (("I", "we"), False), (("no", "na"), False),
     (("100", "dog"), False), (("2000s", "1990s"), False), (("cat", "dog"), False)],
)  # fmt: skip
def test_class_names_that_are_codes_are_remarked_upon(tmp_path, names, coded):
    for k, name in enumerate(names):
        fill(tmp_path / name, 10, 100 * k)
    remarks = [r for r in look(tmp_path).remarks if "mean nothing to a text tower: name the folders" in r]
    assert len(remarks) == coded == sum(f"numbers or codes ({', '.join(sorted(names))})" in r for r in remarks)


@pytest.mark.parametrize(
    ("names", "bare"),
    [(("01_cat", "02_dog"), "cat, dog"), (("1. Katze", "2. Hund"), "Katze, Hund"), (("003-猫", "004-犬"), "猫, 犬"),
     (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), "Chihuahua, Japanese_spaniel"),
     (("1_cat", "dog"), None), (("1990s", "2000s"), None), (("3D_print", "2D_print"), None),
     (("50 euros", "100 euros"), None)],
)  # fmt: skip
def test_numbers_before_class_names_are_remarked_upon(tmp_path, names, bare):
    for k, name in enumerate(names):
        fill(tmp_path / name, 10, 100 * k)
    remarks = [r for r in look(tmp_path).remarks if "begin with numbers" in r]
    assert len(remarks) == (bare is not None)
    assert all(f"({', '.join(names)})" in r and r.endswith(f"by the words alone ({bare}).") for r in remarks)


def test_ignored_files_and_thin_images(pets):
    (pets / "train" / "cat" / "notes.txt").write_text("a note")
    Image.new("RGB", (300, 10), "red").save(pets / "train" / "cat" / "line.png")
    report = look(pets)
    assert report.ok and report.ignored == ("train/cat/notes.txt",)
    assert "(1, first train/cat/line.png, 300 x 10 pixels)" in report.remarks[0]
    assert "ignored (1, first train/cat/notes.txt)" in report.remarks[1]
    assert "files that are not images (1)" in report.lines()


def test_near_duplicates_only_when_asked(pets):
    buffer = io.BytesIO()
    picture(3).save(buffer, "JPEG", quality=60)
    (pets / "test" / "cat" / "resaved.jpg").write_bytes(buffer.getvalue())
    picture(3, side=48).save(pets / "train" / "cat" / "smaller.png")
    assert look(pets).duplicates.empty
    report = look(pets, near=True)
    assert report.ok and report.duplicates.id.tolist() == [
        "test/cat/resaved.jpg", "train/cat/3.png", "train/cat/smaller.png"
    ]  # fmt: skip
    assert set(report.duplicates.kind) == {"near"} and set(report.duplicates.group) == {0}
    assert "look alike, test/cat/resaved.jpg (test) and train/cat/3.png (train)" in report.remarks[0]
    assert look(ImageFiles(pets, progress=False), near=True).duplicates.equals(report.duplicates)


def test_near_groups_equal_the_slow_and_obvious_ones(tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
    base = [rng.random((8, 8)) for _ in range(6)]
    for i in range(40):  # blends of few patterns: hashes at all distances
        grid = (base[i % 6] + 0.15 * rng.random((8, 8))) / 1.15
        image = Image.fromarray((255 * grid).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(tmp_path / "ab"[i % 2] / f"{i}.png")
    report = look(tmp_path, near=True, near_bits=8)
    files = sorted(tmp_path.rglob("*.png"))
    codes = {f.relative_to(tmp_path).as_posix(): imagehash.phash(Image.open(f).convert("RGB")) for f in files}
    groups = [{n} for n in codes]
    for a in codes:
        for b in codes:
            if codes[a] - codes[b] <= 8:
                one, two = (next(g for g in groups if n in g) for n in (a, b))
                if one is not two:
                    groups.remove(two)
                    one |= two
    expected = {frozenset(g) for g in groups if len(g) > 1}
    assert {frozenset(rows.id) for _, rows in report.duplicates.groupby("group")} == expected and len(expected) > 1


def test_near_groups_are_joined_by_a_picture_in_between(tmp_path, monkeypatch):
    codes = {10: 0b0, 20: 0b1111_1111, 30: 0b1111}  # the first two are 8 bits apart, the third 4 from both
    for value in codes:
        (tmp_path / f"c{value}").mkdir()
        Image.new("L", (8, 8), value).save(tmp_path / f"c{value}" / "a.png")

    def phash(image):
        bits = [int(b) for b in f"{codes[image.getpixel((0, 0))[0]]:064b}"]
        return imagehash.ImageHash(np.array(bits, dtype=bool).reshape(8, 8))

    monkeypatch.setattr(doctor.imagehash, "phash", phash)
    assert look(tmp_path, near=True, near_bits=4).duplicates.group.tolist() == [0, 0, 0]
    assert look(tmp_path, near=True, near_bits=3).duplicates.empty


class Memory(Dataset):
    """A data set that is not a folder."""

    name, classes = "memory", ("a", "b")

    def __init__(self, seeds, splits):
        self.ids = [f"m{i}" for i in range(len(seeds))]
        self.labels, self.splits, self.seeds = np.arange(len(seeds)) % 2, np.array(splits), seeds

    def __getitem__(self, index):
        if self.seeds[index] is None:
            raise BadImage(self.ids[index], "is empty (0 bytes)", "fetch it again")
        label = int(self.labels[index])
        return Record(self.ids[index], str(self.splits[index]), picture(self.seeds[index]), label, self.classes[label])

    @property
    def fingerprint(self):
        return "0"


def test_any_data_set_can_be_examined():
    report = look(Memory([1, 2, 1, 4, None], ["train", "train", "test", "test", "test"]))
    assert "m0 (train) and m2 (test)" in report.problems[0] and "the first is m4, which is empty" in report.problems[1]
    assert report.counts[["train", "val", "test"]].values.tolist() == [[1, 0, 1], [1, 0, 1]]


def test_long_lists_are_cut_in_the_lines_and_whole_in_the_tables(pets):
    for i in range(15):
        (pets / "train" / "cat" / f"bad{i:02}.jpg").write_bytes(b"")
    report = look(pets)
    assert len(report.broken) == 15 and "  ... and 5 more" in report.lines()
    assert sum("is empty (0 bytes)" in line for line in report.lines()) == 11  # the problem and ten of the list


def test_the_command(pets, capsys, tmp_path):
    assert main([str(pets), "--cache", str(tmp_path / "cache")]) == 0
    assert "no problems" in capsys.readouterr().out and len(list((tmp_path / "cache").iterdir())) == 1
    (pets / "train" / "cat" / "a.jpg").write_bytes(b"")
    assert main([str(pets)]) == 1
    assert "PROBLEM: 1 of 61 files cannot be used" in capsys.readouterr().out
    assert main([str(pets), "--skip", "--near"]) == 0
    assert main([str(pets), "--skip", "--classes", "dog,cat"]) == 0
    assert "class order: 0 dog, 1 cat" in capsys.readouterr().out
    assert main([str(pets), "--skip", "--classes", "dog,emu"]) == 1
    capsys.readouterr()
    (tmp_path / "taken").write_text("a file")
    assert main([str(pets), "--cache", str(tmp_path / "taken")]) == 2
    assert f"{tmp_path / 'taken'} cannot be written (" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 1
    with pytest.raises(SystemExit) as caught:
        main([str(pets), "--sikp"])
    assert caught.value.code == 2


@pytest.mark.slow
def test_the_command_as_a_module(pets):
    done = subprocess.run(
        [sys.executable, "-m", doctor.__name__, str(pets)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "pets: 60 readable images" in done.stdout


def test_the_world_has_no_files(capsys):
    with pytest.raises(SystemExit):
        main(["world"])
    assert "the world is drawn by the package and has no files to examine" in capsys.readouterr().err
