"""Every way to get a CLIP in hand, and every file that cannot be one."""

import argparse
import json
import os
import pickle
import re
import socket
import time
import warnings
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_lp
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file

from hc_lafter.clip import load as clip_module
from hc_lafter.clip.load import WordTokenizer, load_clip, save_clip, weight_hash

VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
TINY = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
WORDS = ["a", "photo", "of", "the", "sea", "happy"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two small architectures among open_clip's own."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", TINY)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8-quickgelu", {**TINY, "quick_gelu": True})


def build(activation: str = "GELU", seed: int = 5, **config) -> open_clip.CLIP:
    torch.manual_seed(seed)
    return open_clip.CLIP(**{**TINY, **config}, quick_gelu=activation == "QuickGELU").eval().requires_grad_(False)


def quiet(spec, **options):
    """Load and demand that nothing was warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_clip(spec, **options)


def same(clip, model) -> bool:
    images, text = torch.randn(2, 3, 32, 32), torch.randint(1, 9, (2, clip.model.context_length))
    with torch.inference_mode():
        return torch.equal(clip.model.encode_image(images), model.encode_image(images)) and torch.equal(
            clip.model.encode_text(text), model.encode_text(text)
        )


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    assert text.endswith((".", "?"))
    return text


# --- what comes back ---


def test_random_weights_follow_the_seed_and_say_so():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    clip, again, other = quiet("Tiny-8/random"), quiet("Tiny-8/random:0"), quiet("Tiny-8/random:7")
    assert torch.equal(torch.rand(3), expected), "loading draws from no generator of the caller's"
    assert clip.weight_hash == again.weight_hash != other.weight_hash
    assert (clip.name, other.name) == ("Tiny-8/random", "Tiny-8/random:7")
    assert "random" in clip.notes[0]
    assert "random" in clip.describe()


def test_facts_of_a_clip():
    clip = quiet("Tiny-8/random")
    assert (clip.image_size, clip.patch_size, clip.layers, clip.width, clip.embed_dim) == (32, 8, 2, 64, 32)
    assert clip.activation == "GELU"
    assert clip.parameters == sum(p.numel() for p in clip.model.parameters())
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert clip.visual is clip.model.visual
    text = clip.describe()
    assert all(
        word in text for word in ("2 blocks of width 64", "GELU", "bicubic", "32 px", "0.4815", clip.weight_hash[:16])
    )
    assert json.loads(clip.transform_id)["size"] == 32


def test_transform_is_open_clips_and_can_be_sent_to_a_worker():
    clip = quiet("Tiny-8/random")
    theirs = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    for transform in (clip.transform, pickle.loads(pickle.dumps(clip.transform))):
        assert torch.equal(transform(picture), theirs(picture))


def test_encode_text():
    clip = quiet("Tiny-8/random")
    texts = [f"a photo of {n} things" for n in range(7)]
    features = clip.encode_text(texts, batch_size=3)
    assert features.shape == (7, 32)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, clip.encode_text(texts))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(7))
    theirs = open_clip.SimpleTokenizer()(texts)
    torch.testing.assert_close(features, clip.model.encode_text(theirs, normalize=True))
    assert clip.encode_text("one text").shape == (1, 32)
    assert clip.encode_text([]).shape == (0, 32)
    assert clip.to("cpu") is clip


def test_weight_hash_sees_name_dtype_shape_and_bytes():
    base = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    variants = [
        base,
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"].half(), "b": base["b"]},
        {"a": base["a"] + 1e-6, "b": base["b"]},
    ]
    assert len({weight_hash(state) for state in variants}) == len(variants)
    assert weight_hash(base) == weight_hash(dict(reversed(base.items())))
    weight_hash({"a": torch.ones(3, dtype=torch.bfloat16), "scalar": torch.tensor(1.0)})


# --- files that are good ---


def wrapped(state):
    return {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {}}


def custom_text(state):
    text = ("positional_embedding", "token_embedding", "transformer", "ln_final", "text_projection")
    return {f"text.{k}" if k.startswith(text) else k: v for k, v in state.items()}


CONTAINERS = {
    "state dict": (torch.save, lambda state: state, "x.pt"),
    "training checkpoint": (torch.save, wrapped, "epoch_3.pt"),
    "compiled-and-parallel": (
        torch.save,
        lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
        "x.pth",
    ),
    "compiled": (torch.save, lambda state: {f"_orig_mod.{k}": v for k, v in state.items()}, "x.pth"),
    "custom text": (torch.save, custom_text, "x.bin"),
    "legacy torch": (lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False), lambda state: state, "x.pt"),
    "safetensors": (save_file, lambda state: state, "x.safetensors"),
    "safetensors by another name": (save_file, lambda state: state, "x.bin"),
    "scale with an axis": (torch.save, lambda s: {**s, "logit_scale": s["logit_scale"].reshape(1)}, "x.pt"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("activation", ["GELU", "QuickGELU"])
def test_containers_of_a_state_dict(tmp_path, container, activation):
    save, shape, name = CONTAINERS[container]
    model = build(activation)
    save(shape({key: value.clone() for key, value in model.state_dict().items()}), tmp_path / name)
    clip = quiet(tmp_path / name, activation=activation)
    assert same(clip, model)
    assert clip.activation == activation
    assert clip.weight_hash == weight_hash(model.state_dict())
    assert clip.name == f"Tiny-8@{name}"
    arch = "Tiny-8" if activation == "GELU" else "Tiny-8-quickgelu"
    assert same(quiet(f"{arch}@{tmp_path / name}"), model)


def test_a_file_that_does_not_tell_its_activation_warns(tmp_path):
    torch.save(build().state_dict(), tmp_path / "x.pt")
    with pytest.warns(UserWarning, match="does not tell its activation, so GELU is assumed"):
        clip = load_clip(tmp_path / "x.pt")
    assert clip.activation == "GELU"
    assert f"goes back to OpenAI's weights say Tiny-8-quickgelu@{tmp_path / 'x.pt'}, otherwise" in clip.describe()


@pytest.mark.parametrize("activation", ["GELU", "QuickGELU"])
def test_our_own_file_tells_everything(tmp_path, activation, monkeypatch):
    config = {"vision_cfg": {**VISION, "head_width": 32}, "text_cfg": {**TEXT, "vocab_size": 9, "context_length": 12}}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "interpolation": "bilinear", "resize_mode": "squash"}
    clip = clip_module._assemble(
        {**TINY, **config}, activation, preprocess, name="x", source="here", notes=[], words=WORDS, seed=3
    )
    save_clip(clip, tmp_path / "mine.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"], "no part of a file stays behind"
    again = quiet(tmp_path / "mine.safetensors")
    assert same(again, clip.model)
    assert (again.activation, again.weight_hash) == (activation, clip.weight_hash)
    assert again.transform_id == clip.transform_id
    assert json.loads(again.transform_id)["interpolation"] == "bilinear"
    assert again.tokenizer.words == tuple(WORDS)
    assert torch.equal(again.encode_text(["the happy sea"]), clip.encode_text(["the happy sea"]))
    with pytest.raises(ValueError, match="leave out activation="):
        load_clip(tmp_path / "mine.safetensors", activation="GELU" if activation == "QuickGELU" else "QuickGELU")
    with pytest.raises(ValueError, match="it is not ViT-B-32: load it by its path alone"):
        load_clip(f"ViT-B-32@{tmp_path / 'mine.safetensors'}")
    monkeypatch.setattr(clip_module.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_clip(clip, tmp_path / "other.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_config_beside_the_file_tells_what_the_file_cannot(tmp_path):
    model = build("QuickGELU")
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    beside = {"model_cfg": {**TINY, "quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    clip = quiet(tmp_path / "open_clip_model.safetensors")
    assert same(clip, model)
    assert clip.activation == "QuickGELU"
    assert clip.preprocess["mean"] == [0.5] * 3


def test_preprocessing_that_open_clips_weights_do_not_share_warns(tmp_path, monkeypatch):
    torch.save(build().state_dict(), tmp_path / "x.pt")
    entries = {
        "one": {"mean": (0.5,) * 3},
        "two": {"mean": (0.4,) * 3},
        "three": {"mean": (0.1,) * 3, "quick_gelu": True},
    }
    monkeypatch.setattr(clip_module.open_clip, "list_pretrained_tags_by_model", lambda arch: list(entries))
    monkeypatch.setattr(clip_module.open_clip, "get_pretrained_cfg", lambda arch, tag: entries[tag])
    with pytest.warns(UserWarning, match="differ in theirs, and OpenAI's is assumed"):
        clip = load_clip(f"Tiny-8@{tmp_path / 'x.pt'}")
    assert clip.preprocess["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    clip = quiet(f"Tiny-8-quickgelu@{tmp_path / 'x.pt'}")
    assert clip.preprocess["mean"] == [0.1] * 3, "the weights of this activation agree"


# --- OpenAI's formats ---


def openai_buffers(model):
    for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)  # a plain number in open_clip, a stored tensor in OpenAI's archives
        model.register_buffer(name, torch.tensor(value))
    return model


def save_traced(model, path):
    images, text = torch.zeros(1, 3, 32, 32), torch.ones(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out; OpenAI's files will stay
        torch.jit.save(torch.jit.trace(model, (images, text), check_trace=False), path)


@pytest.mark.parametrize("activation", ["GELU", "QuickGELU"])
def test_torchscript_archive_is_read_without_running_it(tmp_path, activation, monkeypatch):
    model = build(activation)
    save_traced(openai_buffers(build(activation)), tmp_path / "x.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the archive was run"))
    clip = quiet(tmp_path / "x.pt")
    assert clip.activation == activation
    assert same(clip, model)
    assert clip.weight_hash == weight_hash(model.state_dict())
    with pytest.raises(ValueError, match="leave out activation="):
        load_clip(tmp_path / "x.pt", activation="GELU" if activation == "QuickGELU" else "QuickGELU")


def test_openai_archive_of_no_registered_size(tmp_path):
    config = {"vision_cfg": {**VISION, "width": 128, "layers": 3}, "text_cfg": {**TEXT, "width": 128, "heads": 2}}
    save_traced(openai_buffers(build("QuickGELU", **config)), tmp_path / "x.pt")
    clip = quiet(tmp_path / "x.pt")
    assert same(clip, build("QuickGELU", **config))
    assert clip.name == "x.pt"


def test_openai_archive_corrects_the_architecture_that_was_named(tmp_path):
    save_traced(openai_buffers(build("QuickGELU")), tmp_path / "x.pt")
    with pytest.warns(UserWarning, match="go with QuickGELU, so that is used, and not the GELU"):
        clip = load_clip(f"Tiny-8@{tmp_path / 'x.pt'}")
    assert same(clip, build("QuickGELU"))
    assert quiet(f"Tiny-8-quickgelu@{tmp_path / 'x.pt'}").activation == "QuickGELU"


def halved(model):
    convert_weights_to_lp(model, torch.float16)
    return model


def test_openai_state_dicts(tmp_path):
    torch.save(openai_buffers(halved(build("QuickGELU"))).state_dict(), tmp_path / "marked.pt")
    torch.save(halved(build("QuickGELU")).state_dict(), tmp_path / "plain.pt")
    model = halved(build("QuickGELU")).float()
    clip = quiet(tmp_path / "marked.pt")
    assert clip.activation == "QuickGELU"
    assert all(p.dtype == torch.float32 for p in clip.model.parameters())
    assert same(clip, model)
    with pytest.warns(UserWarning, match="only looks like OpenAI's"):
        clip = load_clip(tmp_path / "plain.pt")
    assert same(clip, model)
    assert quiet(tmp_path / "plain.pt", activation="GELU").activation == "GELU", "a guess gives way"


# --- files that are bad ---


class Wicked:
    def __reduce__(self):
        return (os.mkdir, ("a-file-ran-its-code",))


def damaged_archive(path):
    save_traced(build(), path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


BAD = {  # `faults/test_inputs.py` has the other kinds
    "damaged archive": (damaged_archive, "cannot be read as a checkpoint"),
    "a tensor": (lambda p: torch.save(torch.zeros(2), p), "holds no state dict of tensors"),
    "nothing": (lambda p: torch.save({}, p), "holds no state dict of tensors"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_one_sentence_with_the_path(tmp_path, kind):
    path, (save, words) = tmp_path / "bad.pt", BAD[kind]
    save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=words) as caught:
            load_clip(path)
    assert str(path) in one_sentence(caught.value)


def test_a_file_of_another_architecture_than_named(tmp_path, monkeypatch):
    """Where the path alone loads it says so; where it would not, what would is said at once."""
    deeper = {**TINY, "vision_cfg": {**VISION, "layers": 3}}
    torch.save(build(vision_cfg=deeper["vision_cfg"]).state_dict(), tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"\(3 blocks of width 64, .*\) does not tell its architecture") as caught:
        load_clip(f"Tiny-8@{tmp_path / 'bad.pt'}")
    one_sentence(caught.value)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Deeper-8", deeper)
    words = r"is not of this architecture: 12 tensors differ, such as visual.* for none; give its path"
    with pytest.raises(ValueError, match=words) as caught:
        load_clip(f"Tiny-8@{tmp_path / 'bad.pt'}")
    one_sentence(caught.value)
    assert quiet(tmp_path / "bad.pt", activation="GELU").layers == 3


def test_shapes_that_two_architectures_share(tmp_path, monkeypatch):
    twin = {**TINY, "vision_cfg": {**VISION, "head_width": 16}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Twin-8", twin)
    torch.save(build().state_dict(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"'Tiny-8', 'Twin-8' share its shapes: name it, as in Tiny-8@.*x.pt"):
        load_clip(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["below/epoch_3.pt", "b.txt"],
            r"folder with weights below it .'below.epoch_3.pt'.: give the path of one",
        ),
        (
            ["model-1.safetensors", "model.safetensors.index.json"],
            "is a folder with weights in several files: save",
        ),
        (
            ["adapter_model.safetensors", "adapter_config.json"],
            "is a folder of an adapter and no CLIP: save",
        ),
    ],
)
def test_folders_that_are_no_clip(tmp_path, files, words):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for spec in (tmp_path, f"Tiny-8@{tmp_path}"):
        with pytest.raises(ValueError, match=words) as caught:
            load_clip(spec)
        one_sentence(caught.value)


def test_configurations_given_for_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config.json is a configuration: give the file of weights"):
        load_clip(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"index.json is an index of weights in several files: save them as one"):
        load_clip(tmp_path / "model.safetensors.index.json")


def test_advice_holds_when_it_is_followed(tmp_path, monkeypatch):
    """A note's spec loads from any folder; a wrong name is not answered with a path that is refused in its turn."""
    torch.save(build().state_dict(), tmp_path / "x.pt")
    with pytest.warns(UserWarning, match="otherwise name it (.*)") as caught:
        first = load_clip(tmp_path / "x.pt")
    advice = re.search("otherwise name it (.*)", str(caught[0].message))[1]
    monkeypatch.chdir("/")
    assert quiet(advice).weight_hash == first.weight_hash
    odd = build(vision_cfg={**VISION, "width": 96, "head_width": 32})
    torch.save(odd.state_dict(), tmp_path / "odd.pt")
    mends = []
    for spec in (tmp_path / "odd.pt", f"Tiny-8@{tmp_path / 'odd.pt'}"):
        with pytest.raises(ValueError, match="does not tell its architecture") as refused:
            load_clip(spec)
        mends.append(str(refused.value).partition("does not tell")[2])
    assert mends[0] == mends[1]


def test_missing_file(tmp_path):
    for spec in (
        tmp_path / "none.safetensors",
        f"Tiny-8@{tmp_path / 'none.pt'}",
        "none.pt",
        "runs/none.pt",
        "a/b/none",
    ):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*none") as caught:
            load_clip(spec)
        one_sentence(caught.value)


# --- wrappers, and what stands beside the weights ---


def behind(prefix):
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


WRAPPERS = {  # what is saved, and what the notes have to name
    "Lightning, with a head": (
        lambda s: {"state_dict": behind("clipmodel.")(s) | {"ff_head.bias": torch.ones(2)}, "epoch": 1},
        ("'state_dict.clipmodel'", "'ff_head.bias'"),
    ),
    "two deep": (behind("net.backbone."), ("'net.backbone'",)),
    "DeepSpeed": (lambda s: {"module": s}, ()),
    "EMA alone": (lambda s: {"ema_state_dict": s}, ("'ema_state_dict'",)),
    "EMA beside": (
        lambda s: {"state_dict": s, "state_dict_ema": {name: value * 0 for name, value in s.items()}},
        ("left out", "'state_dict_ema'"),
    ),
    "EMA by prefix": (
        lambda s: behind("online_model.")(s) | behind("ema_model.")({n: v * 0 for n, v in s.items()}),
        ("'online_model'", "left out"),
    ),
    "AveragedModel": (lambda s: {"n_averaged": torch.tensor(3), **behind("module.")(s)}, ("'n_averaged'",)),
    "head and bias": (
        lambda s: s | {"head.weight": torch.ones(2, 32), "logit_bias": torch.tensor(-10.0)},
        ("'head.weight', 'logit_bias'",),
    ),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_whole_clip_in_a_wrapper_loads_and_says_so(tmp_path, kind):
    wrap, named = WRAPPERS[kind]
    torch.save(wrap(build().state_dict()), tmp_path / "x.ckpt")
    for spec in (tmp_path / "x.ckpt", f"Tiny-8@{tmp_path / 'x.ckpt'}"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clip = load_clip(spec, activation="GELU")
        assert same(clip, build())
        assert all(word in " ".join(clip.notes) for word in named) and bool(named) == bool(clip.notes)


def numpy_beside(state):
    generator = np.random.default_rng(0)
    return {
        "state_dict": state,
        "best": np.float64(0.5),
        "step": np.int64(3),
        "kinds": [np.dtype("float32"), np.float32, np.dtype("<U3")],
        "curve": np.linspace(0, 1, 5),
        "names": np.array(["a", None], dtype=object),
        "random": [np.random.get_state(), generator, generator.bit_generator.state, np.random.RandomState(1)],  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "options": argparse.Namespace(lr=1e-4, out=Path("runs")),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_arrays_and_random_states_beside_the_weights_are_data(tmp_path, zipped):
    torch.save(numpy_beside(build().state_dict()), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert same(quiet(tmp_path / "x.pt", activation="GELU"), build())
    torch.save({"state_dict": build().state_dict(), "hook": Wicked()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"mkdir, which is not among the plain data types that are read, since any"):
        load_clip(tmp_path / "x.pt")


@pytest.mark.parametrize("value", [datetime.now(), Decimal("0.5"), UUID(int=1)])
def test_other_values_beside_the_weights_are_no_accusation(tmp_path, value):
    torch.save({"state_dict": build().state_dict(), "x": value}, tmp_path / "x.pt")
    words = rf"wants {type(value).__module__}.{type(value).__name__}, which is not among the plain data types"
    with pytest.raises(ValueError, match=words) as caught:
        load_clip(tmp_path / "x.pt")
    one_sentence(caught.value)


class Objects:
    """A pickle that hands NumPy bytes as an object, which once were unpickled in their turn."""

    def __reduce__(self):
        return np._core.multiarray.scalar, (np.dtype("O"), pickle.dumps(Wicked(), 2))


def test_an_object_of_numpy_is_no_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": build().state_dict(), "x": Objects()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"wants numpy.object_, which is not among the plain"):
        load_clip(tmp_path / "x.pt")
    assert not Path("a-file-ran-its-code").exists()


# --- sizes of one's own ---


@pytest.mark.parametrize(
    "sizes", [{"image_size": 48}, {"context_length": 40}, {"image_size": 64, "context_length": 16}]
)
def test_another_resolution_or_text_length_loads_with_a_note(tmp_path, sizes):
    vision = VISION | {k: v for k, v in sizes.items() if k == "image_size"}
    text = TEXT | {k: v for k, v in sizes.items() if k == "context_length"}
    model = build(vision_cfg=vision, text_cfg=text)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    for spec in (tmp_path / "x.pt", f"Tiny-8@{tmp_path / 'x.pt'}"):
        with pytest.warns(UserWarning, match="is the file's"):
            clip = load_clip(spec, activation="GELU")
        images, texts = torch.randn(2, 3, *model.visual.image_size), ["a photo", "of the sea"]
        assert torch.equal(clip.model.encode_image(images), model.encode_image(images))
        assert clip.tokenizer(texts).shape == (2, text["context_length"])
        assert torch.equal(clip.model.encode_text(clip.tokenizer(texts)), model.encode_text(clip.tokenizer(texts)))
        assert clip.image_size == vision["image_size"] and sum("is the file's" in n for n in clip.notes) == len(sizes)


@pytest.mark.parametrize("layers", [5, 24])
def test_the_advice_on_an_unknown_size_works_as_given(tmp_path, layers):
    model = build(vision_cfg={**VISION, "width": 128, "layers": layers})
    torch.save(model.state_dict(), tmp_path / "x.pt")
    for spec in (f"Tiny-8@{tmp_path / 'x.pt'}", tmp_path / "x.pt"):
        with pytest.raises(ValueError, match=f"{layers} blocks of width 128") as caught:
            load_clip(spec)
    advice = one_sentence(caught.value).partition("as in ")[2].removesuffix(".")
    (tmp_path / "open_clip_config.json").write_text(advice)
    clip = quiet(tmp_path / "x.pt")
    assert clip.layers == layers and same(clip, model)


# --- the layout of Hugging Face transformers ---


def hugging_face(model):
    """What transformers' CLIPModel would have as its state dict, written down from its module tree."""
    out = {"logit_scale": model.logit_scale}
    vision, text = model.visual, model
    for tower, theirs, blocks in ((vision, "vision_model", vision.transformer), (text, "text_model", text.transformer)):
        for i, block in enumerate(blocks.resblocks):
            layer = f"{theirs}.encoder.layers.{i}."
            for kind in ("weight", "bias"):
                joined = getattr(block.attn, f"in_proj_{kind}")
                for which, part in zip("qkv", joined.chunk(3), strict=True):
                    out[f"{layer}self_attn.{which}_proj.{kind}"] = part
                out[f"{layer}self_attn.out_proj.{kind}"] = getattr(block.attn.out_proj, kind)
                out[f"{layer}layer_norm1.{kind}"] = getattr(block.ln_1, kind)
                out[f"{layer}layer_norm2.{kind}"] = getattr(block.ln_2, kind)
                out[f"{layer}mlp.fc1.{kind}"] = getattr(block.mlp.c_fc, kind)
                out[f"{layer}mlp.fc2.{kind}"] = getattr(block.mlp.c_proj, kind)
        positions = tower.positional_embedding
        out[f"{theirs}.embeddings.position_embedding.weight"] = positions
        out[f"{theirs}.embeddings.position_ids"] = torch.arange(len(positions))[None]
    norms = {"vision_model.pre_layrnorm": vision.ln_pre, "vision_model.post_layernorm": vision.ln_post}
    for name, norm in (norms | {"text_model.final_layer_norm": text.ln_final}).items():
        out |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    out["vision_model.embeddings.class_embedding"] = vision.class_embedding
    out["vision_model.embeddings.patch_embedding.weight"] = vision.conv1.weight
    out["text_model.embeddings.token_embedding.weight"] = text.token_embedding.weight
    out |= {"visual_projection.weight": vision.proj.T, "text_projection.weight": text.text_projection.T}
    return {name: tensor.detach().clone().contiguous() for name, tensor in out.items()}


def test_hugging_face_layout_has_the_same_features(tmp_path):
    model = build("QuickGELU")
    save_file(hugging_face(model), tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="transformers' default, QuickGELU, is assumed: put the config.json"):
        assert same(load_clip(tmp_path / "model.safetensors"), model)
    assert same(quiet(tmp_path / "model.safetensors", activation="QuickGELU"), model)
    assert same(quiet(f"Tiny-8-quickgelu@{tmp_path / 'model.safetensors'}"), model)
    torch.save({"state_dict": behind("model.clip.")(hugging_face(model))}, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=r"stands under 'state_dict.model.clip'"):
        assert same(load_clip(tmp_path / "last.ckpt", activation="QuickGELU"), model)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", None])
def test_hugging_face_folder_tells_heads_activation_and_preprocessing(tmp_path, act):
    vision, text = {**VISION, "width": 128, "head_width": 32, "layers": 3}, {**TEXT, "width": 64, "heads": 2}
    model = build("GELU" if act == "gelu" else "QuickGELU", vision_cfg=vision, text_cfg=text)
    save_file(hugging_face(model), tmp_path / "model.safetensors")
    tower = {"hidden_act": act} if act else {}  # save_pretrained leaves out its defaults
    heads = {"vision_config": tower | {"num_attention_heads": 4}, "text_config": tower | {"num_attention_heads": 2}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **heads}))
    look = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(look | {"do_center_crop": False}))
    for spec in (tmp_path, tmp_path / "model.safetensors"):
        clip = quiet(spec)
        assert same(clip, model)
        assert clip.preprocess["mean"] == [0.5] * 3 and clip.preprocess["interpolation"] == "bilinear"
        assert clip.preprocess["resize_mode"] == "squash"
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"hidden_act": "relu"}}))
    with pytest.raises(ValueError, match=r"config.json has the activation relu: only gelu or quick_gelu"):
        load_clip(tmp_path)


def test_part_of_a_hugging_face_clip_is_the_same_sentence_either_way(tmp_path):
    state = hugging_face(build())
    del state["text_model.encoder.layers.0.self_attn.k_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    for spec in (tmp_path / "model.safetensors", f"Tiny-8@{tmp_path / 'model.safetensors'}", tmp_path):
        with pytest.raises(
            ValueError, match=r"lacks 1 of its tensors \('text_model.*k_proj.weight'\); save one"
        ) as caught:
            load_clip(spec)
        one_sentence(caught.value)


# --- configurations that do not fit, and files without a tower ---


def config_beside(vision, text=None, **rest):
    return "open_clip_config.json", {"model_cfg": {"vision_cfg": vision, "text_cfg": text or {"heads": 1}, **rest}}


def theirs_beside(vision, text=1):
    towers = {"vision_config": {"num_attention_heads": vision}, "text_config": {"num_attention_heads": text}}
    return "config.json", towers


MISFITS = {  # the configuration beside the file, and what of it is said
    "their vision heads": (theirs_beside(5), "num_attention_heads 5 in its vision_config, which .* 64: give .* as 1"),
    "their heads that open_clip would round": (theirs_beside(50), "num_attention_heads 50 in its vision_config"),
    "their text heads": (theirs_beside(1, 0), "num_attention_heads 0 in its text_config, which does not fit"),
    "their heads as a word": (theirs_beside("1"), "num_attention_heads '1' in its vision_config"),
    "their heads left out": (("config.json", {}), "num_attention_heads 12 in its vision_config, transformers' default"),
    "their list": (("config.json", [1]), "holds no JSON object of settings: correct it"),
    "their list inside": (("config.json", {"text_config": [1]}), "holds no JSON object of settings as its text_config"),
    "text heads": (config_beside({}, {"heads": 5}), "heads 5 in its text_cfg, which .* 64: give .* as 1"),
    "head width": (config_beside({"head_width": 0}), "head_width 0 in its vision_cfg, which .* 64: give .* as 64"),
    "head width as a word": (config_beside({"head_width": "64"}), "head_width '64' in its vision_cfg"),
    "list": (("open_clip_config.json", []), "holds no JSON object of settings: correct it"),
    "list inside": (("open_clip_config.json", {"model_cfg": []}), "no JSON object of settings as its model_cfg"),
    "no number": (config_beside({"mlp_ratio": "4"}), r"a setting of which open_clip builds no CLIP \(\w+: "),
    "depth as a word": (config_beside({"layers": "2"}), r"a setting of which open_clip builds no CLIP \(\w+: "),
    "depth": (config_beside({"layers": 1}), "x.safetensors: it has layers 1 in its vision_cfg, and the weights have 2"),
    "embedding": (config_beside({}, embed_dim=16), "x.safetensors: it has embed_dim 16, and the weights have 32"),
    "no size": (
        config_beside({"mlp_ratio": 2}),
        r"x.safetensors: \d+ tensors differ, such as visual.* of shape",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_configuration_that_does_not_fit_is_named_with_its_value(tmp_path, kind):
    (name, content), words = MISFITS[kind]
    state = build().state_dict() if name.startswith("open_clip") else hugging_face(build())
    save_file(state, tmp_path / "x.safetensors")
    (tmp_path / name).write_text(json.dumps(content))
    for spec in (tmp_path / "x.safetensors", f"Tiny-8@{tmp_path / 'x.safetensors'}"):
        with pytest.raises(ValueError, match=f"{tmp_path / name} .*{words}") as caught:
            load_clip(spec)
        assert "\n" not in str(caught.value) and "path alone" not in str(caught.value)


@pytest.mark.parametrize(
    "config", [config_beside({"patch_size": [8, 8], "head_width": 40}), config_beside({}, {"width": 64})]
)
def test_a_configuration_that_fits_in_another_spelling_loads(tmp_path, config):
    model = build(text_cfg={**TEXT, "heads": config[1]["model_cfg"]["text_cfg"].get("heads", 8)})
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    (tmp_path / config[0]).write_text(json.dumps(config[1]))
    assert same(quiet(tmp_path / "x.safetensors"), model)


PARTS = {
    "text": (lambda s: {k: v for k, v in s.items() if not k.startswith("visual.")}, "it has the text tower alone"),
    "text of theirs": (
        lambda s: {k: v for k, v in hugging_face(build()).items() if k.startswith("text")},
        "it has the text tower alone",
    ),
    "renamed": (
        lambda s: {k.replace("visual.", "image_encoder."): v for k, v in s.items()},
        "it has a text tower and 'image_encoder.*', but no vision tower whose names begin with visual",
    ),
    "vision": (lambda s: {k: v for k, v in s.items() if k.startswith("visual.")}, "it has the vision tower alone"),
    "bare vision": (lambda s: build().visual.state_dict(), "it has the vision tower alone"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_file_with_one_tower_is_told_which(tmp_path, kind):
    part, words = PARTS[kind]
    torch.save(part(build().state_dict()), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=words) as caught:
        load_clip(tmp_path / "x.pt")
    one_sentence(caught.value)


# --- names ---


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ViT-B32/openai", "'ViT-B32' is neither a file nor an architecture .*did you mean 'ViT-B-32'"),
        ("ViT-B32@x.pt", "did you mean 'ViT-B-32'"),
        ("vit-b-16/openai", "did you mean 'ViT-B-16'"),
        ("embeded", "did you mean 'embedded'"),
        ("", "clip is empty: give 'embedded'"),
        ("ViT-B-16/laion", "ViT-B-16 has no weights 'laion'.*: give ViT-B-16@<file>, or ViT-B-16/ and one of .*random"),
        ("Tiny-8", "Tiny-8 is an architecture without its weights: give Tiny-8@<file>, or Tiny-8/ and one of random"),
        ("Tiny-8/random:x", "has no weights 'random:x'"),
        ("ViT-B-16-SigLIP/webli", "its vision tower is timm's vit_base_patch16_siglip_224"),
        ("roberta-ViT-B-32/random", "its text tower is the Hugging Face model roberta-base"),
        ("coca_ViT-B-32/random", "it is a CoCa, which pools by attention"),
    ],
)
def test_unknown_names(spec, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_clip(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "say ViT-B-32/laion2b_s34b_b79k, which has its weights"),
        ("laion/clip-vit-b-32-laion2b-s34b-b79k", "say ViT-B-32/laion2b_s34b_b79k, which has its weights"),
        ("https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/tree/main", "say ViT-B-32/laion2b_s34b_b79k"),
        ("openai/clip-vit-base-patch32", "say ViT-B-32/openai, which has its weights"),
        ("hf-hub:somebody/a-clip", r"neither a file nor in the hub's cache .*\(hf download somebody/a-clip\)"),
        ("google/siglip-base-patch16-224", "check the path, or download it once"),
        ("hf-hub:timm/ViT-B-16-SigLIP", "its vision tower is timm's"),
        ("ViT-L/14@336px", "is OpenAI's name of ViT-L-14-336/openai: say ViT-L-14-336/openai"),
        ("ViT-B/32", "say ViT-B-32/openai"),
        ("ViT-B-32::nothing", "ViT-B-32 has no weights 'nothing'.*: give"),
    ],
)
def test_names_of_other_libraries_are_answered_at_once_and_without_the_network(spec, words, no_network, monkeypatch):
    monkeypatch.setattr(clip_module.huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=words) as caught:
        load_clip(spec)
    assert time.perf_counter() - start < 1 and "\n" not in str(caught.value)


def test_names_of_other_libraries_that_are_read(tag, no_network, tmp_path, monkeypatch):
    model = build("QuickGELU")
    assert same(quiet("Tiny-8-quickgelu::sometag"), model) and quiet("Tiny-8::random:3").name == "Tiny-8/random:3"
    hub = tmp_path / "snapshots"
    hub.mkdir()
    save_file(hugging_face(model), hub / "model.safetensors")
    (hub / "config.json").write_text(
        json.dumps({"vision_config": {"num_attention_heads": 1}, "text_config": {"num_attention_heads": 1}})
    )
    cached = {"model.safetensors": str(hub / "model.safetensors")}
    monkeypatch.setattr(clip_module.huggingface_hub, "try_to_load_from_cache", lambda repo, name: cached.get(name))
    for spec in ("hf-hub:somebody/a-clip", "somebody/a-clip", f"local-dir:{hub}"):
        assert same(quiet(spec), model)


def test_nothing_but_a_tag_asks_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    save_file(build().state_dict(), tmp_path / "x.safetensors")
    quiet(tmp_path / "x.safetensors", activation="GELU"), quiet("embedded"), quiet("Tiny-8/random")
    with pytest.raises(ValueError, match="needs the tokenizer"):
        load_clip("ViT-L-14-CLIPA/random")


def test_unknown_activation():
    with pytest.raises(ValueError, match="activation 'relu' is unknown: choose GELU or QuickGELU"):
        load_clip("Tiny-8/random", activation="relu")
    assert isinstance(
        quiet("Tiny-8/random", activation="QuickGELU").visual.transformer.resblocks[0].mlp.gelu, QuickGELU
    )


# --- tags ---


@pytest.fixture
def tag(tmp_path, monkeypatch):
    """A tag of Tiny-8 whose weights lie in the hub's cache."""
    torch.save(build("QuickGELU").state_dict(), tmp_path / "cached.pt")
    entry = {"hf_hub": "somebody/tiny/", "url": "", "mean": (0.5,) * 3, "std": (0.25,) * 3, "quick_gelu": True}
    monkeypatch.setattr(clip_module.open_clip, "list_pretrained_tags_by_model", lambda arch: ["sometag"])
    monkeypatch.setattr(clip_module.open_clip, "get_pretrained_cfg", lambda arch, tag: entry)
    cache = {"open_clip_pytorch_model.bin": str(tmp_path / "cached.pt")}
    monkeypatch.setattr(clip_module.huggingface_hub, "try_to_load_from_cache", lambda repo, name: cache.get(name))
    return cache


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_cached_tag_needs_no_network_and_brings_its_own_activation(tag, no_network):
    with pytest.warns(
        UserWarning, match="Tiny-8/sometag: the weights go with QuickGELU, so that is used, and not the GELU"
    ):
        clip = load_clip("Tiny-8/sometag")
    assert same(clip, build("QuickGELU"))
    assert clip.preprocess["mean"] == [0.5] * 3
    assert (clip.name, clip.source) == ("Tiny-8/sometag", "somebody/tiny")
    assert quiet("Tiny-8-quickgelu/sometag").activation == "QuickGELU"
    with pytest.raises(ValueError, match="Tiny-8/sometag was trained with QuickGELU: leave out activation='GELU'"):
        load_clip("Tiny-8/sometag", activation="GELU")


def test_tag_without_network_fails_fast_in_one_sentence(tag, no_network):
    tag.clear()
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="neither in the cache nor to be had from the network") as caught:
        load_clip("Tiny-8-quickgelu/sometag")
    assert time.perf_counter() - start < 10
    assert "Tiny-8-quickgelu@<path>" in one_sentence(caught.value)
    assert caught.value.__cause__ is not None
    assert socket.getdefaulttimeout() is None


def test_a_tag_of_open_clip_offline(no_network, monkeypatch):
    monkeypatch.setattr(clip_module.huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    with pytest.raises(FileNotFoundError, match="the weights ViT-B-32/laion2b_s34b_b79k are neither"):
        load_clip("ViT-B-32/laion2b_s34b_b79k")


# --- the embedded CLIP ---


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    config = {**TINY, "text_cfg": {**TEXT, "vocab_size": len(WORDS) + 3, "context_length": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocabulary.txt").write_text("\n".join(WORDS) + "\n")
    monkeypatch.setattr(clip_module, "_EMBEDDED", tmp_path)
    return tmp_path


def test_embedded(embedded):
    fresh = clip_module.build_embedded(seed=4)
    assert fresh.name == "embedded/random:4"
    save_clip(fresh, embedded / "model.safetensors")
    clip = quiet("embedded")
    assert (clip.name, clip.source) == ("embedded", "hc_lafter/embedded")
    assert same(clip, fresh.model)
    assert clip.tokenizer.words == tuple(WORDS)
    assert quiet("embedded/random:4").weight_hash == clip.weight_hash
    with pytest.raises(ValueError, match="leave out activation='QuickGELU'"):
        load_clip("embedded", activation="QuickGELU")


# --- words ---


def test_word_tokenizer():
    tokenizer = WordTokenizer(WORDS, context_length=6)
    assert tokenizer.vocab_size == 9
    ids = tokenizer(["A photo, of THE sea!", "unknown happy-ish", ""])
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[1, 2, 3, 4, 5, 8], [1, 7, 8, 0, 0, 0], [1, 8, 0, 0, 0, 0]]
    assert tokenizer("sea").tolist() == [[1, 6, 8, 0, 0, 0]]
    assert tokenizer("a photo of the sea", context_length=4).tolist() == [[1, 2, 3, 8]], "the end stays"
    assert tokenizer([]).shape == (0, 6)
    assert (ids.argmax(dim=-1) == torch.tensor([5, 2, 1])).all(), "open_clip pools at the highest id"
    assert pickle.loads(pickle.dumps(tokenizer))("sea").tolist() == tokenizer("sea").tolist()
    assert tokenizer.coverage(["a happy sea", "quantum sea"]) == 0.8
    assert tokenizer.coverage("") == 1.0


def test_a_real_architecture_is_recognised_by_its_shapes(tmp_path):
    clip = quiet("ViT-B-32/random")
    assert (clip.layers, clip.width, clip.patch_size, clip.image_size, clip.embed_dim) == (12, 768, 32, 224, 512)
    torch.save(clip.model.state_dict(), tmp_path / "x.pt")
    again = quiet(tmp_path / "x.pt", activation="GELU")
    (tmp_path / "x.pt").unlink()  # 600 MB
    assert again.name == "ViT-B-32@x.pt"
    assert again.weight_hash == clip.weight_hash
