"""Bad inputs of every kind, each answered by one sentence that names the file or the value and what to do.

`ROWS` is the table: what makes the input, what is called with it, and words that the sentence has to say. A command
ends with status 2 (the doctor with 1, since a problem is what it was asked for), prints no traceback, leaves no
half-written file behind, and changes nothing that was there. README has the number of rows.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_clip import Wicked, build
from test_clip import tiny as tiny  # two small architectures among open_clip's own, in every test
from test_emotion_sets import change, emoset, ldl
from test_segmentation_sets import HEIGHT, WIDTH, voc, write_mask

import hc_lafter
from hc_lafter import predict, store, systems
from hc_lafter.__main__ import main
from hc_lafter.clip.descriptions import load_descriptions
from hc_lafter.clip.load import load_clip
from hc_lafter.suite.study import Study

ROOT = Path(__file__).parents[2]
Call = Sequence[str] | Callable[[], Any]
Row = tuple[Callable[[Path, pytest.MonkeyPatch], Call], tuple[str, ...]]
ROWS: dict[str, Row] = {}


def row(name: str, *says: str, of: Callable[..., Call]) -> None:
    """One more row.

    Args:
        says: patterns that the sentence has to have.
        of: (an empty folder, pytest's monkeypatch) -> the words of a command, or what to call.
    """
    assert name not in ROWS
    ROWS[name] = of, says


# --- what the inputs are made of ---


def photos(place: Path, *classes: str, count: int = 8) -> Path:
    """A sound folder of class folders; every picture is another one."""
    for k, name in enumerate(classes or ("cat", "dog")):
        (place / "photos" / name).mkdir(parents=True)
        for n in range(count):
            pixels = np.random.default_rng(100 * k + n).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{n}.png")
    return place / "photos"


def listed(place: Path, *lines: str, head: str = "path,label") -> Path:
    """A csv beside sound photos that names all of them, and some lines more."""
    folder = photos(place)
    rows = [f"{p.relative_to(place).as_posix()},{p.parent.name}" for p in sorted(folder.rglob("*.png"))]
    (place / "list.csv").write_text("\n".join([head, *rows, *lines]) + "\n", encoding="utf-8")
    return place / "list.csv"


def votes(place: Path, third: str) -> Path:
    """Flickr_LDL with another third row."""
    ldl(place / "Flickr_LDL")
    path = place / "Flickr_LDL" / "ground_truth.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], third, *lines[3:]]))
    return place / "Flickr_LDL"


def masks(place: Path, file: str, content: Callable[[Path], Any]) -> Path:
    """PASCAL VOC with one file that another takes the place of."""
    content(voc(place) / "VOCdevkit" / "VOC2012" / file)
    return place


def doctor(data: Any) -> list[str]:
    return ["doctor", str(data)]


def tune(place: Path, *words: str) -> list[str]:
    return ["tune", "--system", "LaFTer", "--device", "cpu", "--out", str(place / "mine.safetensors"), *words]


def runs(*words: str) -> list[str]:
    return ["runs", "--profile", "smoke", "--only", "04", "--systems", "mean of layers", *words]


def written(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


# --- CLIP files ---


def clip(name: str, *says: str, save: Callable[[Path], Any], file: str = "bad.pt") -> None:
    def make(place: Path, _: Any) -> Call:
        save(place / file)
        return tune(place, "--clip", str(place / file))

    row(f"CLIP: {name}", re.escape(file), *says, of=make)


def state(**changes: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in {**build().state_dict(), **changes}.items() if v is not None}


def not_finite(path: Path) -> None:
    broken = state()
    broken["ln_final.weight"][3] = float("nan")
    torch.save(broken, path)


def slip(path: Path) -> None:
    """An archive that would be unpacked outside its folder, if anything unpacked it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escaped.txt", "x")
        archive.writestr("../../model/code/x.py", "x")


def config_beside(text: str) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        save_file(build().state_dict(), path)
        path.with_name("open_clip_config.json").write_text(text)

    return save


HUGGING_FACE = {"vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2), "logit_scale": torch.tensor(1.0)}
DAMAGED = r"cannot be read as a checkpoint .*: it is damaged or not one, take another copy\.$"
CODE = r"may run code: save its state dict alone\.$"
NONE_INSIDE = r"holds no state dict of tensors: save model\.state_dict\(\) to it\.$"
LOST = "visual.transformer.resblocks.1.mlp.c_fc.bias"

clip("empty file", DAMAGED, save=lambda p: p.write_bytes(b""))
clip("text", DAMAGED, save=lambda p: p.write_text("none of it"))
for name in ("bad.pt", "bad.safetensors"):
    clip(
        f"git's pointer to {name}",
        r"is not the weights but a pointer to them, .*: fetch them with git lfs pull\.$",
        file=name,
        save=lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605157884\n"),
    )
clip(
    "web page",
    r"is a web page, saved in the place of the weights: download the file itself\.$",
    save=lambda p: p.write_text("\n<!DOCTYPE html><html>Please log in</html>"),
)
clip("noise", DAMAGED, save=lambda p: p.write_bytes(bytes(range(256)) * 40))
clip("cut torch file", DAMAGED, save=lambda p: (torch.save(state(), p), half(p)))
clip("cut safetensors", DAMAGED, file="bad.safetensors", save=lambda p: (save_file(state(), p), half(p)))
clip("archive that slips out", DAMAGED, save=slip)
clip("pickle with code", r"wants \w+\.mkdir", CODE, save=lambda p: p.write_bytes(pickle.dumps({"x": Wicked()}, 2)))
clip("torch file with code", r"wants \w+\.mkdir", CODE, save=lambda p: torch.save({"x": Wicked()}, p))
clip("whole model", r"wants open_clip\.model\.CLIP", CODE, save=lambda p: torch.save(build(), p))
clip("no tensors", NONE_INSIDE, save=lambda p: torch.save({"epoch": 3}, p))
clip("a list", NONE_INSIDE, save=lambda p: torch.save([torch.zeros(2)], p))
clip(
    "another model",
    "holds no CLIP .* tensors are fc.weight",
    save=lambda p: torch.save({"fc.weight": torch.zeros(2)}, p),
)
clip(
    "Lightning wrapper without a CLIP",
    "holds no CLIP .* tensors are net.fc.weight",
    file="last.ckpt",
    save=lambda p: torch.save({"pytorch-lightning_version": "2.5", "state_dict": {"net.fc.weight": torch.ones(2)}}, p),
)
clip(
    "part of transformers' layout",
    "is no whole CLIPModel: it lacks .* save one, both towers",
    save=lambda p: torch.save(HUGGING_FACE, p),
)
clip(
    "two of them",
    "holds 2 CLIPs, under 'student', 'teacher': save the state dict of one of them alone",
    save=lambda p: torch.save({f"{x}.{k}": v for x in ("student", "teacher") for k, v in state().items()}, p),
)
clip(
    "LoRA beside a layer",
    r"that no plain CLIP has \(visual.*lora_A\): merge them in, or drop them",
    save=lambda p: torch.save(state(**{"visual.transformer.resblocks.0.attn.lora_A": torch.ones(1)}), p),
)
clip("not finite", "ln_final.weight that are not finite: it is damaged, take another copy", save=not_finite)
clip(
    "a tensor missing",
    rf"lacks 1 tensors of its CLIP \({LOST}\): save the state dict",
    save=lambda p: torch.save(state(**{LOST: None}), p),
)
clip(
    "no text projection",
    "it has both towers, but not 'text_projection'; give a whole CLIP",
    save=lambda p: torch.save(state(text_projection=None), p),
)
clip(
    "no vision tower",
    "holds no CLIP with a vision transformer",
    save=lambda p: torch.save(state(**{"visual.conv1.weight": None}), p),
)
clip(
    "shapes of no architecture",
    r"\(2 blocks of width 64, patch 8 and image 32 px, embedding 24.*put an open_clip_config.json with its own",
    save=lambda p: torch.save(build(embed_dim=24).state_dict(), p),
)
clip(
    "folder without weights",
    r"is a folder without weights \(\.safetensors, .*\): give the path of a file with some",
    file="folder",
    save=Path.mkdir,
)
row(
    "CLIP: damaged configuration beside it",
    r"open_clip_config\.json cannot be read as JSON .*: correct it or take another copy",
    of=lambda p, _: (config_beside("{")(p / "x.safetensors"), tune(p, "--clip", str(p / "x.safetensors")))[1],
)
for word, says in {
    "nowhere/mine.pt": r"there is no file nowhere/mine\.pt: check the path",
    "ViT-B-32/laion3b": r"ViT-B-32 has no weights 'laion3b' \(did you mean 'laion2b_e16'\?\): give .*, or ViT-B-32",
    "ViT-B-23/openai": r"'ViT-B-23' is neither a file nor an architecture .* \(did you mean 'ViT-B-32'\?\)",
    "RN50/openai": "RN50",
    "https://example.org/clip.pt": "is an address: download the file, and give its path",
    "somebody/clip-of-theirs": "is neither a file nor in the hub's cache .*: check the path, or download it once",
    "Tiny-8@": r"Tiny-8@ names no file: give Tiny-8@<path>",
}.items():
    row(f"CLIP: {word}", says, of=lambda p, _, word=word: tune(p, "--clip", word))

# --- folders of images ---


def folder(name: str, *says: str, spoil: Callable[[Path], Any], by_tune: bool = False) -> None:
    def make(place: Path, _: Any) -> Call:
        spoil(photos(place))
        return tune(place, "--data", str(place / "photos")) if by_tune else doctor(place / "photos")

    row(f"folder: {name}", *says, of=make)


def remove(*paths: Path) -> None:
    for path in paths:
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()


def bomb(path: Path) -> None:
    """Seventy bytes that would be 5 GB of pixels."""
    Image.new("1", (1, 1)).save(path, "PNG")
    head = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    content = path.read_bytes()
    path.write_bytes(content[:12] + head + zlib.crc32(head).to_bytes(4, "big") + content[33:])


row(
    "folder: not there",
    r"photo does not exist \(did you mean 'photos'\?\): correct the path",
    of=lambda p, _: (photos(p), tune(p, "--data", str(p / "photo")))[1],
)
folder(
    "empty",
    r"no class folders \(0 images lie directly in it\): sort the images into one folder per class",
    spoil=lambda p: remove(p / "cat", p / "dog"),
    by_tune=True,
)
folder(
    "one class",
    "photos has the single class 'cat': a classifier needs two, add another",
    spoil=lambda p: remove(p / "dog"),
    by_tune=True,
)
folder(
    "images in no class",
    r"no class folders \(1 images lie directly in it\): sort the images",
    spoil=lambda p: (remove(p / "dog"), (p / "cat" / "0.png").rename(p / "0.png"), remove(p / "cat")),
)
folder("class without images", "class 'emu' of .*photos has no images: add some", spoil=lambda p: (p / "emu").mkdir())
folder(
    "no train split",
    "has only test and no train folder: add root/train/<class>/ folders",
    spoil=lambda p: (
        (p / "test").mkdir(),
        (p / "cat").rename(p / "test" / "cat"),
        (p / "dog").rename(p / "test" / "dog"),
    ),
)
folder(
    "splits beside classes",
    r"mixes split folders \(train\) with others \(cat, dog|cat\): move cat out",
    spoil=lambda p: (p / "train" / "a").mkdir(parents=True),
    by_tune=True,
)
folder(
    "too few images",
    "class 'dog' of .* too few for train, val and test: add images",
    spoil=lambda p: [(p / "dog" / f"{n}.png").unlink() for n in range(2, 8)],
)
folder(
    "names that differ in case",
    "classes 'Cat' and 'cat', which differ only in case: rename one, or merge them",
    spoil=lambda p: ((p / "Cat").mkdir(), (p / "cat" / "0.png").rename(p / "Cat" / "0.png")),
)
folder(
    "0 bytes",
    r"cat/x\.jpg, which is empty \(0 bytes\): fetch it again or delete",
    spoil=lambda p: written(p / "cat" / "x.jpg"),
    by_tune=True,
)
folder(
    "text named .jpg",
    r"cat/x\.jpg, which holds .*: fetch it again",
    spoil=lambda p: written(p / "cat" / "x.jpg", "this is no picture"),
    by_tune=True,
)
folder(
    "cut JPEG",
    r"cat/x\.jpg, which is a JPEG image that is cut short or damaged .*: fetch it again",
    spoil=lambda p: (Image.effect_noise((64, 64), 90).save(p / "cat" / "x.jpg"), half(p / "cat" / "x.jpg")),
)
folder(
    "picture bomb",
    r"cat/x\.png, which is too large to decode .*: make it smaller",
    spoil=lambda p: bomb(p / "cat" / "x.png"),
)
folder(
    "a name of another encoding",
    r"photos/cat holds b'.\\xfcbung\.png', which is not UTF-8: rename it",
    spoil=lambda p: os.rename(p / "cat" / "0.png", os.fsencode(p / "cat") + b"/1\xfcbung.png"),
)
folder(
    "link to nothing",
    r"cat/x\.png, which does not exist: correct the path or fetch the file",
    spoil=lambda p: (p / "cat" / "x.png").symlink_to("gone.png"),
)
row(
    "folder: classes that it lacks",
    "classes names 'emu', but .*photos has no such class: correct the name",
    of=lambda p, _: [*doctor(photos(p)), "--classes", "cat,dog,emu"],
)

# --- tables ---


def table(name: str, *says: str, lines: Sequence[str] = (), by_tune: bool = False, **how: Any) -> None:
    def make(place: Path, _: Any) -> Call:
        path = listed(place, *lines, **how)
        return tune(place, "--data", str(path)) if by_tune else doctor(path)

    row(f"csv: {name}", r"list\.csv", *says, of=make)


table(
    "missing column",
    r"no column 'label' in its header \(path, lable\) \(did you mean 'lable'\?\): name its columns",
    head="path,lable",
    by_tune=True,
)
table(
    "missing image",
    r"photos/gone\.png \(row 18, column 'path'\), which does not exist: correct the path",
    lines=["photos/gone.png,cat"],
    by_tune=True,
)
table(
    "path out of the folder",
    r"\.\./\.\./secret\.txt \(row 18, column 'path'\), which does not exist",
    lines=["../../secret.txt,cat"],
    by_tune=True,
)
table(
    "path of no image",
    r"/etc/passwd \(row 18, column 'path'\), which holds .*no image",
    lines=["/etc/passwd,cat"],
    by_tune=True,
)
table(
    "an image twice",
    r"names photos/cat/0\.png twice, row 2, .*and row 18, .*: remove one",
    lines=["photos/cat/0.png,cat"],
    by_tune=True,
)
table(
    "an image in two classes",
    r"photos/cat/0\.png twice, .*\(cat\) and .*\(dog\): remove one",
    lines=["photos/cat/0.png,dog"],
)
table(
    "a row without label",
    "row 18, column 'label' .* is empty: fill it in, or remove the row",
    lines=["photos/cat/0.png,"],
)
table("a NUL", "row 18 .* holds a NUL character: correct it", lines=["photos/\0.png,cat"])
table("not well formed", "is not a well-formed csv .*: save it again", lines=['"' + "x" * 200_000])
table(
    "a column twice",
    r"the header of .*list\.csv has 'label' twice: keep the column that is meant",
    head="path,label,Label",
)
table(
    "an address",
    r"row 18 of .*list\.csv names https://example\.org/1\.png: download the pictures and write where they lie",
    lines=["https://example.org/1.png,cat"],
)
row(
    "csv: unknown split",
    r"row 2, column 'split' of .*list\.csv is 'vall' \(did you mean 'val'\?\): write one of train, val, test",
    of=lambda p, _: tune(p, "--data", str(written(p / "list.csv", "path,label,split\na.png,cat,vall\n"))),
)
row(
    "csv: no rows",
    r"list\.csv has a header and no rows: add one row per image",
    of=lambda p, _: tune(p, "--data", str(written(p / "list.csv", "path,label\n"))),
)
row(
    "csv: UTF-16",
    r"list\.csv is encoded in UTF-16 .*: save it as UTF-8",
    of=lambda p, _: doctor(written(p / "list.csv", "path,label\n".encode("utf-16"))),
)
row(
    "csv: of another kind",
    r"list\.xlsx is a file but no csv: give a csv with the columns path and label",
    of=lambda p, _: doctor(written(p / "list.xlsx", b"PK\3\4")),
)

# --- published sets ---

THIRD = "2.jpg 0 11 0 0 0 0 0 "
row(
    "set: unknown",
    r"starts with 'emosett', no data set that is known \(did you mean 'emoset'\?\): choose one of",
    of=lambda p, _: tune(p, "--data", "emosett:x"),
)
row(
    "set: VOC without its name",
    r"VOC2012 is PASCAL VOC, whose images have masks: write voc:.*VOC2012, in a run as mask_data",
    of=lambda p, _: doctor(voc(p) / "VOCdevkit" / "VOC2012"),
)
row(
    "set: masks, misspelled",
    r"starts with 'voc_agu', no data set that is known \(did you mean 'voc_aug'\?\)",
    of=lambda *_: doctor("voc_agu:VOC"),
)
row("set: no folder given", r"data=fi: has no path: write fi:FOLDER", of=lambda p, _: tune(p, "--data", "fi:"))
row("set: not there", "gone does not exist: correct the path behind fi", of=lambda p, _: doctor("fi:gone"))
row(
    "set: unknown class in its list",
    r"row 1 of train\.json .* is 'amusment', .*'amusement'",
    of=lambda p, _: (
        change(emoset(p / "EmoSet"), "train.json", 1, lambda r: ["amusment", *r[1:]]),
        tune(p, "--data", str(p / "EmoSet")),
    )[1],
)
row(
    "set: list is no JSON",
    r"test\.json is not JSON .*: fetch it again",
    of=lambda p, _: (written(emoset(p / "EmoSet") / "test.json", "[["), doctor(p / "EmoSet"))[1],
)
row(
    "votes: NaN",
    r"row 3 of .*ground_truth\.txt holds .*nan.*, which are not votes: correct them, or remove the row",
    of=lambda p, _: tune(p, "--data", str(votes(p, THIRD + "nan"))),
)
row(
    "votes: negative",
    r"row 3 of .*ground_truth\.txt holds .*-1.*, which are not votes: correct them",
    of=lambda p, _: doctor(votes(p, THIRD + "-1")),
)
row(
    "votes: infinite",
    r"row 3 of .* holds .*inf.*, which are not votes",
    of=lambda p, _: doctor(votes(p, THIRD + "inf")),
)
row("votes: none", r"row 3 of .* holds .*, which are not votes", of=lambda p, _: doctor(votes(p, "2.jpg" + " 0" * 8)))
row(
    "votes: a word",
    r"row 3 of .* holds a vote that is not a number .*'x'.*: correct it, or remove the row",
    of=lambda p, _: doctor(votes(p, THIRD + "x")),
)
row(
    "votes: a column short",
    "row 3 of .* has 8 columns instead of 9: correct it",
    of=lambda p, _: doctor(votes(p, THIRD)),
)

MASK, LIST = "SegmentationClass/2007_000001.png", "ImageSets/Segmentation/train.txt"
row(
    "masks: a list that names ../../",
    r"passwd\.jpg does not exist .*, but .*train\.txt names it: fetch or convert it",
    of=lambda p, _: tune(
        masks(p, LIST, lambda f: f.write_text("2007_000000\n2007_000001\n../../../etc/passwd\n")), "--data", f"voc:{p}"
    ),
)
row(
    "masks: a name twice",
    r"train\.txt names '2007_000001' twice: remove one of the two lines",
    of=lambda p, _: doctor(f"voc:{masks(p, LIST, lambda f: f.write_text('2007_000001' + chr(10) + 'x/2007_000001'))}"),
)
row(
    "masks: a list that is empty",
    r"train\.txt is empty: fetch it again",
    of=lambda p, _: doctor(f"voc:{masks(p, LIST, lambda f: f.write_text(''))}"),
)
row(
    "masks: of another size",
    r"2007_000001\.png, which is 9 x 6 pixels, but its image .* 8 x 6: fetch or convert both",
    of=lambda p, _: doctor(f"voc:{masks(p, MASK, lambda f: write_mask(f, np.zeros((HEIGHT, WIDTH + 1))))}"),
)
row(
    "masks: colours for indices",
    r"2007_000001\.png, which is an image of mode RGB, but a mask holds indices",
    of=lambda p, _: doctor(f"voc:{masks(p, MASK, lambda f: Image.new('RGB', (WIDTH, HEIGHT)).save(f))}"),
)
row(
    "masks: value of no class",
    r"2007_000001\.png, which has the value 99 in row 0, column 0, which none of the 21",
    of=lambda p, _: doctor(f"voc:{masks(p, MASK, lambda f: write_mask(f, np.full((HEIGHT, WIDTH), 99)))}"),
)
row(
    "masks: missing",
    r"2007_000001\.png does not exist, but .*train\.txt names it: fetch or convert it",
    of=lambda p, _: tune(masks(p, MASK, Path.unlink), "--data", f"voc:{p}"),
)
row(
    "masks: a part of the set",
    r"JPEGImages is a part of PASCAL VOC 2012, not its folder: give",
    of=lambda p, _: doctor(f"voc:{voc(p) / 'VOCdevkit' / 'VOC2012' / 'JPEGImages'}"),
)

# --- profiles and their parameters ---

row(
    "profile: unknown",
    r"profile 'smok' is unknown \(did you mean 'smoke'\?\): choose one of default, smoke",
    of=lambda *_: ["run", "--profile", "smok", "--list"],
)
row(
    "notebook: unknown",
    r"notebook '01-frist' is not there.*: choose one of 01-feature-tapping",
    of=lambda *_: ["run", "--from", "01-frist", "--list"],
)
for word, says in {
    "sedes=3": r"parameter 'sedes' is unknown \(did you mean 'seeds'\?\): choose one of",
    "seeds": "--param seeds has no value: write it as key=value",
    "seeds=": "--param seeds= is empty: give the number of seeds, .*, or leave it out",
    "seeds=1": "parameter seeds='1' is not usable .*: give the number of seeds, 2 or more",
    "seeds=2.5": r"parameter seeds='2\.5' is not usable .*: give the number of seeds",
    "layers=5,0": "layers='0', item 2 is not usable .*: give the blocks to tap, counted from 1",
    "rate=nan": "rate='nan' is not usable .*: give a factor, above 0",
    "precision=fp8": "precision='fp8' is not usable .*: give 'fp32', 'bf16', or 'auto'",
    "device=gpu": r"device='gpu' is not usable: give 'auto', 'cpu', 'mps', 'cuda' or 'cuda:1'",
    "data=gone": "data=gone is neither 'world' nor a folder or file here: check the path, it counts from",
    "clip=gone.pt": r"clip=gone\.pt is neither 'embedded' nor a folder or file here: check the path",
    "data=none": "--param data=none says nothing: give 'world', .*, or leave it out",
    "clip=ViT-B-32@gone": "clip=ViT-B-32@gone is neither 'embedded' nor a folder or file here: check the path",
    "clip=hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "is not in the hub's cache .*: say ViT-B-32/laion2b_s34b_b79k",
    "random_clip=ViT-B/32": r"'ViT-B/32' is OpenAI's name of ViT-B-32/openai: say ViT-B-32/openai",
    "descriptions=gone.json": r"descriptions=gone\.json is neither 'mikels', 'ekman' nor a folder or file here",
}.items():
    row(f"--param {word}", says, of=lambda *_, word=word: ["run", "--list", "--param", word])
row(
    "device that is not here",
    "device=cuda:63 is not on this machine: choose 'auto' or 'cpu', or install its driver",
    of=lambda *_: runs("--list", "--param", "device=cuda:63"),
)
for name, given, says in (
    ("an unknown profile", ("smok", {}), r"profile 'smok' is unknown \(did you mean 'smoke'\?\)"),
    ("an unknown name", ("smoke", {"sedes": 3}), r"parameter 'sedes' is unknown \(did you mean 'seeds'\?\)"),
    ("another type", ("smoke", {"seeds": 2.0}), r"parameter seeds=2\.0 is not usable .*: give the number of seeds"),
    ("nothing", ("smoke", {"data": None}), "parameter data=None says nothing: give 'world', .*, or leave it out"),
):
    row(
        f"parameters of a notebook: {name}",
        says,
        of=lambda *_, given=given: lambda: Study("01-feature-tapping", *given),
    )

# --- tune ---

for words, says in {
    ("--system", "LaFtr"): r"system 'LaFtr' is unknown \(did you mean 'LaFTer'\?\): choose",
    ("--regime", "supervisd"): r"LaFTer has no regime 'supervisd' \(did you mean 'supervised'\?\): choose one of",
    (
        "--set",
        "token=3",
    ): r"--set token=3: LaFTer has the settings tokens, .* \(did you mean 'tokens'\?\); give KEY=VALUE",
    ("--set", "tokens="): "--set tokens= is empty: give tokens a value, or leave it out",
    ("--set", "tokens=few"): "tokens='few' is not usable for LaFTer: give a value of type int",
    ("--set", "tokens=-4"): "tokens=-4 is not usable for LaFTer: give finite numbers from 0",
    ("--set", "lr=0"): "lr=0 is not usable for LaFTer: give finite numbers above 0",
    ("--set", "smoothing=.nan"): "smoothing=nan is not usable for LaFTer: give finite numbers from 0",
    ("--images", "0"): "--images: 0 is not usable: give a whole number from 1",
    ("--epochs", "two"): "--epochs: two is not usable: give a whole number from 1",
    ("--batch-size", "-1"): "--batch-size: -1 is not usable: give a whole number from 1",
    ("--seed", "-1"): "--seed: -1 is not usable: give a whole number from 0",
    ("--seed", str(2**31)): "--seed: 2147483648 is not usable: give a whole number from 0, below 2,147,483,648",
    ("--accumulate", "0"): "--accumulate: 0 is not usable: give a whole number from 1",
    ("--data", ""): "--data is empty: give a value, or leave it out",
    ("--out", "."): r"--out \. names no file of a system: give one that ends in \.safetensors",
    ("--out", "mine.csv"): r"--out mine\.csv names no file of a system: give one that ends in \.safetensors",
}.items():
    row(f"tune {' '.join(words)}", says, of=lambda p, _, words=words: tune(p, *words))


def without_cuda(place: Path, patch: pytest.MonkeyPatch) -> Call:
    patch.setattr(torch.cuda, "is_available", lambda: False)
    return tune(place, "--device", "cuda")


for given, says in {
    ("tokens", "few"): "tokens='few' is not usable for LaFTer: give a value of type int",
    ("images", 0): "images=0 is not usable: give a whole number from 1",
    ("batch_size", -1): "batch_size=-1 is not usable: give a whole number from 1",
    ("epochs", "3"): "epochs='3' is not usable: give a whole number from 1",
    ("accumulate", True): "accumulate=True is not usable: give a whole number from 1",
    ("seed", 1.5): "seed=1.5 is not usable: give a whole number from 0",
    ("seed", 2**70): "seed=1180591620717411303424 is not usable: give a whole number from 0, below 2,147,483,648",
    ("regime", ""): "LaFTer has no regime '': choose one of",
}.items():
    row(
        f"tune of Python: {given[0]}={given[1]}",
        says,
        of=lambda *_, given=given: lambda: hc_lafter.tune("LaFTer", "embedded", "world", **dict([given])),
    )
row(
    "tune of Python: no data",
    "data is of type NoneType: give a name, a path, or what opening one gave",
    of=lambda *_: lambda: hc_lafter.tune("LaFTer", "embedded", None),
)
row(
    "data of a negative size",
    "n_val=-3 is not usable: give a number of images from 0, or none",
    of=lambda *_: lambda: hc_lafter.open_data("world", n_val=-3),
)
row("tune --device cuda", "--device cuda is not on this machine: leave it out, or install its driver", of=without_cuda)

# --- runs, claims, figures, report, run, the makers of the embedded CLIP ---


def at_scheduler(address: str) -> Callable[..., Call]:
    def make(_: Path, patch: pytest.MonkeyPatch) -> Call:
        import distributed  # noqa: F401  it brings its settings along

        patch.setitem(dask.config.config["distributed"]["comm"]["timeouts"], "connect", "200ms")
        return runs("--scheduler", address)

    return make


def results(place: Path, name: str, content: str) -> None:
    written(place / "results" / "smoke" / name, content)


row(
    "runs: unknown notebook",
    "notebook '42' needs no runs: choose of 02-nga-weights",
    of=lambda *_: [*runs(), "--only", "42"],
)
row(
    "runs: masks in a file",
    r"mask_data is .*list\.csv', a file: give the world or, say, voc:FOLDER",
    of=lambda p, _: runs("--only", "05", "--list", "--param", f"mask_data={written(p / 'list.csv', 'path,label')}"),
)
row(
    "runs: unknown system",
    r"system 'LaFtr' is unknown \(did you mean 'LaFTer'\?\)",
    of=lambda *_: [*runs(), "--systems", "LaFtr", "--list"],
)
row("runs: --yes alone", "--yes goes with --prune: it deletes what --prune alone prints", of=lambda *_: runs("--yes"))
row(
    "runs: --prune with --only",
    "take other notebooks' runs for surplus: leave --only out",
    of=lambda *_: runs("--prune"),
)
row(
    "runs: nothing to export",
    r"none of the \d+ runs is there to be exported: compute them without --export",
    of=lambda p, _: runs("--export", str(p / "tables")),
)
row(
    "runs: no such split of the masks",
    "split 'world24_8' is not of this set for the 32 mask classes of 'world' .*: choose one of world24-8",
    of=lambda *_: ["runs", "--profile", "smoke", "--only", "05", "--param", "mask_split=world24_8", "--list"],
)
row(
    "scheduler: nobody answers",
    "the scheduler tcp://127.0.0.1:9 does not answer: finished runs are kept",
    of=at_scheduler("tcp://127.0.0.1:9"),
)
row(
    "scheduler: no address",
    r"the scheduler 'localhost' is no address: give one such as tcp://host:8786, or 'local' or 'none'",
    of=at_scheduler("localhost"),
)
row(
    "scheduler: of no protocol",
    r"the scheduler 'http://localhost:1' is no address: give one such as tcp://host:8786",
    of=at_scheduler("http://localhost:1"),
)
row(
    "claims: unknown profile",
    r"profile 'smok' is unknown \(did you mean 'smoke'\?\)",
    of=lambda *_: ["claims", "--profile", "smok"],
)
row(
    "claims: nothing to check",
    r"results.smoke holds no results: run python run_all\.py --profile smoke first",
    of=lambda *_: ["claims", "--profile", "smoke", "--check"],
)
row(
    "claims: no folder of results",
    r"results.smoke\+x holds no results: run python run_all\.py --profile smoke first",
    of=lambda *_: ["claims", "--profile", "smoke+x"],
)
row(
    "claims: no ledger yet",
    r"claims\.json cannot be read .*: run python -m hc_lafter claims first",
    of=lambda p, _: (results(p, "provenance.json", "{}"), ["claims", "--profile", "smoke", "--check"])[1],
)
row(
    "claims: damaged numbers",
    r"04-full-training/metrics\.json is damaged .*: run 04-full-training again",
    of=lambda p, _: (results(p, "04-full-training/metrics.json", "[{"), ["claims", "--profile", "smoke"])[1],
)
row(
    "claims: damaged provenance",
    r"provenance\.json is damaged .*: delete it and run the notebooks again",
    of=lambda p, _: (results(p, "provenance.json", "[]"), ["claims", "--profile", "smoke"])[1],
)
row(
    "claims: provenance of another shape",
    r"provenance\.json is damaged \(01-x\.profile: Field required\): delete it and run the notebooks again",
    of=lambda p, _: (
        results(p, "provenance.json", '{"notebooks": {"01-x": {"clip": null}}}'),
        ["claims", "--profile", "smoke"],
    )[1],
)
row(
    "figures: none drawn",
    r"figures/smoke holds no figures: run `python run_all\.py --profile smoke` first",
    of=lambda p, _: ["figures", "--profile", "smoke", "--out", str(p / "paper")],
)
row(
    "figures: unknown",
    r"figure 'acuracy' is not in .*smoke \(did you mean 'accuracy'\?\): choose one of 04-full-training/accuracy",
    of=lambda p, _: (
        written(p / "figures" / "smoke" / "04-full-training" / "accuracy.png"),
        ["figures", "--profile", "smoke", "--out", str(p / "paper"), "acuracy"],
    )[1],
)
row(
    "figures: a format that was not saved",
    r"accuracy\.pdf is missing, since smoke saves no pdf: run `python .* --profile smoke --param formats=svg,png,pdf`",
    of=lambda p, _: (
        written(p / "figures" / "smoke" / "04-full-training" / "accuracy.png"),
        ["figures", "--profile", "smoke", "--out", str(p / "paper")],
    )[1],
)
row(
    "report: not run",
    r"09-report\.ipynb is missing: run notebook 09 first",
    of=lambda p, _: (results(p, "provenance.json", "{}"), ["report", "--profile", "smoke"])[1],
)
row(
    "report: unknown profile",
    r"profile 'smok' is unknown \(did you mean 'smoke'\?\)",
    of=lambda *_: ["report", "--profile", "smok"],
)
row(
    "report: damaged",
    r"09-report\.ipynb is not a notebook .*: run notebook 09 again",
    of=lambda p, _: (results(p, "09-report/09-report.ipynb", "{"), ["report", "--profile", "smoke"])[1],
)
row(
    "report: not executed",
    r"09-report\.ipynb has no outputs: run it|the notebook has no outputs: run it",
    of=lambda p, _: (
        results(p, "09-report/09-report.ipynb", nbformat.writes(nbformat.v4.new_notebook())),
        ["report", "--profile", "smoke"],
    )[1],
)
row(
    "run --timeout 0",
    "--timeout 0 leaves no time: give seconds from 1",
    of=lambda *_: ["run", "--timeout", "0", "--list"],
)
row("run --out of nothing", "--out is empty: give a value, or leave it out", of=lambda *_: ["run", "--out="])
row(
    "an unknown command",
    r"command 'docter' is unknown \(did you mean 'doctor'\?\): choose one of",
    of=lambda *_: ["docter", "x"],
)
row(
    "check of no device",
    "device gpu is not on this machine .*: choose another, such as cpu",
    of=lambda *_: ["check", "--device", "gpu"],
)
for command in (["predict", "tuned.safetensors", "photos"], ["pretrain", "--size", "smoke"]):
    row(
        f"{command[0]} on no device",
        r"device foo is not on this machine \(Expected one of cpu, .*\): choose another, such as cpu",
        of=lambda *_, command=command: [*command, "--device", "foo"],
    )
row(
    "fidelity of a word",
    r"'mine\.pt' is not NAME=MODEL with a name of its own: write seed0=model\.safetensors",
    of=lambda p, _: ["fidelity", "mine.pt", "--out", str(p / "made")],
)
row("a card of nothing", "", of=lambda p, _: ["pretrain", "--card", str(p / "gone")])
row(
    "a model that is there",
    "already holds a model: choose another folder with --out, or add --force",
    of=lambda p, _: (written(p / "made" / "model.json", "{}"), ["pretrain", "--out", str(p / "made")])[1],
)

# --- sentences about classes ---


def sentences(content: str | bytes) -> Callable[..., Call]:
    def make(place: Path, _: Any) -> Call:
        path = written(place / "mine.json", content)
        return lambda: load_descriptions(path, ["joy"])

    return make


row(
    "sentences: no JSON",
    r"mine\.json is not JSON in UTF-8 .*: correct it, or give another file",
    of=sentences('{"joy": ["a"'),
)
row("sentences: Latin-1", r"mine\.json is not JSON in UTF-8 .*0xe9", of=sentences('{"café": ["x"]}'.encode("latin-1")))
row(
    "sentences: a list",
    r"mine\.json holds no object: write class names with lists of sentences",
    of=sentences('["joy"]'),
)
row(
    "sentences: a class twice",
    r"mine\.json holds class 'joy' more than once: join its lists",
    of=sentences('{"joy": ["a"], "joy": ["b"]}'),
)
row(
    "sentences: a number",
    r"mine\.json: class 'joy', sentence 2 is 3: write text between quotes",
    of=sentences('{"joy": ["a", 3]}'),
)
row(
    "sentences: a class is missing",
    r"mine\.json has no class 'amusement'.*: correct the name, or add the class to the file",
    of=lambda p, _: runs("--param", "descriptions=" + str(written(p / "mine.json", '{"joy": ["a smile"]}'))),
)

# --- saved systems, and pictures to name ---


def saved(place: Path, clip: dict[str, str] | None = None, **changes: Any) -> Path:
    """A zero-shot system of two classes on the embedded CLIP, or what is no such thing."""
    embedded = load_clip("embedded")
    known = {"hash": embedded.weight_hash, "activation": embedded.activation, "transform": embedded.transform_id}
    facts = {"system": "zero-shot", "config": {}, "classes": ["cat", "dog"], "source": "templates"}
    facts |= {"clip": {"name": "embedded", "source": "embedded", **known, **(clip or {})}}
    text = torch.eye(2, embedded.embed_dim)
    return store.write(
        place / "mine.safetensors", {"text": text, "module.class_text": text.clone()}, **{**facts, **changes}
    )


def loaded(name: str, *says: str, make: Callable[[Path], Any]) -> None:
    def of(place: Path, _: Any) -> Call:
        make(place)
        return lambda: systems.load(place / "mine.safetensors")

    row(f"system: {name}", *says, of=of)


def asked(name: str, *says: str, make: Callable[[Path], Any], **options: Any) -> None:
    def of(place: Path, _: Any) -> Call:
        make(place)
        file = saved(place)
        return lambda: predict(file, place / "new", progress=False, **options)

    row(f"predict: {name}", *says, of=of)


loaded("not there", r"there is no file .*mine\.safetensors: run first what writes it", make=lambda p: None)
loaded(
    "cut", r"mine\.safetensors is no trained system, or a damaged one .*: give a file", make=lambda p: half(saved(p))
)
loaded(
    "one bit flipped",
    r"mine\.safetensors is no trained system, or a damaged one \(its checksum does not match\): give a file",
    make=lambda p: (f := saved(p)).write_bytes(f.read_bytes()[:-1] + b"\x40"),
)
loaded(
    "another file",
    r"mine\.safetensors holds no trained system: give a file that hc_lafter\.systems\.save has written",
    make=lambda p: store.write(p / "mine.safetensors", {"x": torch.zeros(1)}, run="a run"),
)
loaded(
    "a checkpoint of somebody",
    r"mine\.safetensors is no trained system, .* \(it was not written by hc_lafter\): .*; load_clip reads a CLIP",
    make=lambda p: save_file({"x": torch.zeros(1)}, p / "mine.safetensors"),
)
loaded(
    "on another CLIP",
    r"was tuned on the CLIP embedded \(0000.*\), and this one is .*their hash differ: load that one",
    make=lambda p: saved(p, clip={"hash": "0" * 64}),
)
loaded(
    "on a CLIP that is gone",
    r"was tuned on the CLIP gone\.pt \(from embedded\), which cannot be loaded .*: say where it is, load\(.*, clip=",
    make=lambda p: saved(p, clip={"name": "gone.pt"}),
)
loaded(
    "of an unknown design",
    r"system 'LaFtr' is unknown \(did you mean 'LaFTer'\?\)",
    make=lambda p: saved(p, system="LaFtr"),
)
loaded(
    "with a foreign setting",
    r"mine\.safetensors has the setting 'sigma', which zero-shot of this version lacks: tune it",
    make=lambda p: saved(p, config={"sigma": 1.0}),
)
row(
    "system: a folder",
    r"'new' is no file: give one that hc_lafter\.systems\.save has written",
    of=lambda p, _: (Path("new").mkdir(), lambda: systems.load("new"))[1],
)
row(
    "system: saved to nothing",
    r"'' is no file to save to: give one that ends in \.safetensors",
    of=lambda p, _: (lambda system: lambda: systems.save(system, ""))(systems.load(saved(p))),
)
row(
    "system: saved under another suffix",
    r"'mine\.pt' is no file to save to: give one that ends in \.safetensors",
    of=lambda p, _: (lambda system: lambda: systems.save(system, "mine.pt"))(systems.load(saved(p))),
)
row(
    "predict: no place for the table",
    r"taken cannot be written \(.*\): make room, give write access, or choose another folder",
    of=lambda p, _: ["predict", str(saved(p)), str(p), "--out", str(written(p / "taken", "a file") / "named.csv")],
)
row(
    "predict: a folder for the table",
    r"new is a folder: give --out the name of a file",
    of=lambda p, _: ((p / "new").mkdir(), ["predict", str(saved(p)), str(p), "--out", str(p / "new")])[1],
)
asked(
    "an empty folder",
    "new holds no images: give a folder with some, or a list of files",
    make=lambda p: (p / "new").mkdir(),
)
asked(
    "nothing there",
    r"1 of 1 images cannot be read .*new does not exist: correct the path or fetch the file",
    make=lambda p: None,
)
asked(
    "masks of a system that predicts none",
    "zero-shot names images and predicts no masks: leave masks='masks' out",
    make=lambda p: None,
    masks="masks",
)
asked(
    "no picture among them",
    r"2 of 2 images cannot be read .*a\.jpg is empty \(0 bytes\): fetch it again",
    make=lambda p: (written(p / "new" / "a.jpg"), written(p / "new" / "b.png", "text")),
)

for name, images, says in (
    (
        "an array",
        [np.zeros((8, 8, 3))],
        "images holds ndarray, no picture: give paths, or PIL images",
    ),
    ("none at all", [], "the list of images is empty: give a folder, or a list of files"),
    ("an empty path", "", "the path of images is empty: give a folder, or a list of files"),
    ("a number", 3, "images holds int, no picture: give paths, or PIL images"),
    ("bytes", b"x.jpg", "images holds bytes, no picture: give paths, or PIL images"),
):
    row(
        f"predict: {name}",
        says,
        of=lambda p, _, images=images: (lambda file: lambda: predict(file, images, progress=False))(saved(p)),
    )

# --- places ---


def place_of(variable: str, *words: str) -> Callable[..., Call]:
    def make(place: Path, patch: pytest.MonkeyPatch) -> Call:
        patch.setenv(variable, str(written(place / "taken", "a file in the place of the folder")))
        return words

    return make


def full(place: Path, patch: pytest.MonkeyPatch) -> Call:
    """A disk without room, when the table behind a result is written."""

    def no_room(self: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    written(place / "figures" / "smoke" / "01-x" / "one.png")
    (place / "figures" / "smoke" / "01-x" / "one.pdf").write_bytes(b"%PDF")
    patch.setattr(Path, "write_bytes", no_room)
    return ["figures", "--profile", "smoke", "--out", str(place / "paper")]


def read_only(place: Path, patch: pytest.MonkeyPatch) -> Call:
    patch.setattr(
        "hc_lafter.suite.paths.os.access", lambda folder, _: place not in (Path(folder), *Path(folder).parents)
    )
    return runs("--list")


row(
    "results: a file in their place",
    "results/smoke.*cannot be written: give write access, or choose another folder by --out",
    of=place_of("HC_LAFTER_OUTPUT", *runs("--list")),
)
row(
    "cache: a file in its place",
    "taken cannot be written: give write access, or choose another folder by HC_LAFTER_CACHE",
    of=place_of("HC_LAFTER_CACHE", *runs("--list")),
)
row(
    "results: read-only",
    "cannot be written: give write access, or choose another folder by --out DIR or HC_LAFTER_OUTPUT",
    of=read_only,
)
row(
    "root that is no folder",
    r"HC_LAFTER_ROOT=.*taken is not a folder: set it to the repository's, or unset it",
    of=place_of("HC_LAFTER_ROOT", "run", "--list"),
)
row(
    "tune: a file in the folder's place",
    r"taken cannot be written \(.*\): make room, give write access, or choose another folder",
    of=lambda p, _: tune(p, "--out", str(written(p / "taken") / "mine.safetensors")),
)
row(
    "tune: a file in the cache's place",
    r"the cache .*taken.* cannot be written .*: give write access, or another folder",
    of=lambda p, _: tune(p, "--n-train", "16", "--n-val", "16", "--n-test", "16", "--cache", str(written(p / "taken"))),
)
row("disk: full", r"one\.pdf cannot be written \(No space left on device\): make room or give write access", of=full)


# --- the test ---


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sentence_of(call: Call, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status, and what was said; 2 where a function was called and raised."""
    if callable(call):
        with pytest.raises((ValueError, OSError)) as caught:
            call()
        return 2, str(caught.value)
    try:
        status = main(call)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    if call[0] == "doctor":
        problems = [line for line in out.splitlines() if line.startswith("PROBLEM: ")]
        assert status == 1 and len(problems) == 1, out
        return 2, problems[0]
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip() and "it/s" not in line]
    if lines[0].startswith("usage: "):  # argparse prints it before the sentence
        lines = lines[-1:]
    assert len(lines) == 1 and not out, out + err
    return status, lines[0]


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_input_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("HC_LAFTER_ROOT", "HC_LAFTER_SCHEDULER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HC_LAFTER_OUTPUT", str(tmp_path))
    monkeypatch.setenv("HC_LAFTER_CACHE", str(tmp_path / "cache"))
    make, says = ROWS[name]
    call = make(tmp_path, monkeypatch)
    before = contents(tmp_path)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status, said = sentence_of(call, capsys)
    assert status == 2 and re.search(r"[.?]$", said) and "\n" not in said and "Traceback" not in said, said
    for words in says:
        assert re.search(words, said), said
    monkeypatch.undo()
    after = contents(tmp_path)
    assert {path: after.get(path) for path in before} == before  # what was there is there, byte by byte
    new = [path.relative_to(tmp_path) for path in after if path not in before]
    assert all(path.parts[0] == "cache" or path.suffix == ".lock" for path in new), new
    assert not [path for path in new if path.name.startswith(".")]
    assert not (tmp_path.parent / "escaped.txt").exists() and not (ROOT / "a-file-ran-its-code").exists()


def test_readme_counts_the_rows():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (count,) = re.findall(r"(\d+) bad inputs", text)
    assert int(count) == len(ROWS) >= 60
