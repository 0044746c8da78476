"""A CLIP in hand: open_clip by tag, a local file, an OpenAI archive, or the embedded one; its transform, its tokenizer.

Offline first: what lies on this machine is taken without asking the network, and what does not is one sentence, not
minutes of retries. Nothing that decides a number is silent: ``describe`` tells activation, preprocessing and weights.

Which activation has a file? QuickGELU weights run through GELU give wrong features without any error (open_clip's
issues 441 and 771), so the first that speaks decides: the file's own metadata (``save_clip``); an
``open_clip_config.json`` beside it (as in open_clip's hub repositories); of a file in the layout of Hugging Face
transformers the ``config.json`` beside it; a TorchScript archive or its state dict with ``input_resolution`` (OpenAI's:
QuickGELU); ``activation=``; matrices in half precision beside float32 LayerNorms (most
likely OpenAI's); the architecture that the caller named. A file that tells nothing is taken as GELU, with a warning.
The preprocessing (issue 1068) comes from the same sources and else is the one that all of open_clip's weights of that
architecture and activation share; where they differ it is OpenAI's, with a warning.

What the shapes of a file tell (image size, text length, width, depth) is taken from the file: weights that were tuned
at another resolution load, with a note. The number of heads leaves no trace: it comes from the configuration beside the
file, or from open_clip's architecture of the same shapes.
"""

from __future__ import annotations

import json
import os
import re
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import (
    CenterCropOrPad,
    PreprocessCfg,
    ResizeKeepRatio,
    image_transform_v2,
    merge_preprocess_dict,
)
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, Resize

from hc_lafter.clip import hugging_face
from hc_lafter.clip.weights import TOWERS, Weights, read_weights
from hc_lafter.refusals import nearest, some
from hc_lafter.store import save, weight_hash

ACTIVATIONS = ("GELU", "QuickGELU")
_EMBEDDED = Path(__file__).parents[1] / "embedded"
_CONFIG_BESIDE = "open_clip_config.json"
_IDS = 49408  # of CLIP's own tokenizer
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_WEIGHTS_NAMES = (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME, "model.safetensors", "pytorch_model.bin")
_FORMAT = "hc_lafter.clip"
_SHARDS = "weights in several files: save them as one, save_pretrained(..., max_shard_size='100GB')"
# transformers' names of OpenAI's weights, which open_clip has from elsewhere
_OPENAI = {
    "openai/clip-vit-base-patch32": "ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
}


_GEOMETRY = (Resize, ResizeKeepRatio, CenterCrop, CenterCropOrPad)  # the steps of a transform that decide the size


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP with all that is needed to feed it and to say what it is.

    Attributes:
        model: open_clip's CLIP, in eval mode, no parameter asking for a gradient, float32.
        transform: PIL image -> float32 [3, image_size, image_size], normalised. It can be pickled.
        tokenizer: list of B texts -> int64 [B, context length].
        name: short, what figures call it. ``source``: where the weights came from.
        activation: ``GELU`` or ``QuickGELU``.
        image_size, patch_size: px. ``layers``, ``width``, ``embed_dim``: blocks, W and D of the vision tower.
        weight_hash: hex sha256 over the weights in use, the same whatever file they came in.
        parameters: how many numbers the whole model has.
        transform_id: stable text that decides the pixels, for cache keys.
        notes: what had to be assumed or corrected.
        config, preprocess: open_clip's model and preprocessing configurations.
    """

    model: nn.Module = field(repr=False)
    transform: Callable = field(repr=False)
    tokenizer: Callable = field(repr=False)
    name: str
    source: str
    activation: str
    image_size: int
    patch_size: int
    layers: int
    width: int
    embed_dim: int
    weight_hash: str
    parameters: int
    transform_id: str = field(repr=False)
    notes: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)
    preprocess: Mapping[str, Any] = field(repr=False)

    @property
    def visual(self) -> nn.Module:
        """The vision tower, for ``vit.walk``."""
        return self.model.visual

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """B texts -> [B, D] float32 of unit length, on the model's device."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        device = self.model.logit_scale.device
        parts = [
            self.model.encode_text(self.tokenizer(texts[i : i + batch_size]).to(device)).float()
            for i in range(0, len(texts), batch_size)
        ]
        features = torch.cat(parts) if parts else torch.empty(0, self.embed_dim, device=device)
        return torch.nn.functional.normalize(features, dim=-1)

    def to(self, device: str | torch.device) -> Clip:
        """Move the model, in place, and return this Clip."""
        self.model.to(device)
        return self

    def describe(self) -> str:
        """What was loaded, for a person to read: sizes, activation, preprocessing, hash of the weights, notes."""
        p = self.preprocess
        side = {"shortest": "the shorter side", "longest": "the longer side", "squash": "both sides"}[p["resize_mode"]]
        mean, std = ([round(value, 4) for value in p[key]] for key in ("mean", "std"))
        lines = [
            f"{self.name}: vision transformer, {self.layers} blocks of width {self.width}, patch {self.patch_size} px, "
            f"image {self.image_size} px, embedding {self.embed_dim}, {self.parameters:,} parameters in all",
            f"activation: {self.activation}",
            f"preprocessing: {side} to {self.image_size} px ({p['interpolation']}), mean {mean}, std {std}",
            f"weights: sha256 {self.weight_hash[:16]} from {self.source}",
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


class WordTokenizer:
    """Whole words of a closed vocabulary: lower case, runs of a-z, unknown words skipped.

    Id 0 pads, 1 starts, 2.. are the words in their order, and the last id ends: open_clip's text tower reads its
    feature at the highest id.

    Args:
        words: the vocabulary, each word once.
        context_length: ids per text; a longer text loses its tail but keeps its end token.
    """

    def __init__(self, words: Sequence[str], context_length: int = 32):
        self.words, self.context_length = tuple(words), context_length
        self._ids = {word: i for i, word in enumerate(self.words, start=2)}
        self.vocab_size = len(self.words) + 3

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """One text or B texts -> int64 [B, context_length]."""
        texts, length = [texts] if isinstance(texts, str) else texts, context_length or self.context_length
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            words = [self._ids[word] for word in _words(text) if word in self._ids]
            sentence = [1, *words[: length - 2], self.vocab_size - 1]
            row[: len(sentence)] = torch.tensor(sentence)
        return ids

    def coverage(self, texts: str | Sequence[str]) -> float:
        """Share of the words in ``texts`` that the vocabulary knows, 0 to 1 (1 where there are no words)."""
        words = [word for text in ([texts] if isinstance(texts, str) else texts) for word in _words(text)]
        return sum(word in self._ids for word in words) / len(words) if words else 1.0


def load_clip(
    spec: str | Path = "embedded", *, activation: str | None = None, device: str | torch.device = "cpu"
) -> Clip:
    """A frozen CLIP with a vision transformer.

    Args:
        spec: one of
            ``embedded``;
            ``<arch>/<tag>``, such as ``ViT-B-32/laion2b_s34b_b79k``, or ``<arch>::<tag>``;
            ``<arch>/random`` or ``<arch>/random:SEED``;
            the path of a file: safetensors, a torch state dict (also in a training checkpoint, also behind a wrapper's
            prefix), OpenAI's archive; in open_clip's layout or that of Hugging Face transformers; or of the folder of
            such a file and its configuration;
            ``<arch>@<path>`` where the file cannot tell its architecture;
            ``hf-hub:<owner>/<name>``, a repository of the Hugging Face hub that lies in its cache on this machine.
        activation: ``GELU`` or ``QuickGELU`` for weights that do not tell their own; see the head of this module.
        device: where the model goes.

    Raises:
        FileNotFoundError: no such file, or weights that are neither on this machine nor to be had from the network.
        ValueError: anything else that cannot be loaded; one sentence with what to do.
    """
    if activation not in (None, *ACTIVATIONS):
        raise ValueError(f"activation {activation!r} is unknown: choose GELU or QuickGELU.")
    spec = resolve(spec)
    arch, _, weights = spec.partition("/")
    named, _, path = spec.partition("@")
    if spec == "embedded":
        clip = _from_file(_EMBEDDED / "model.safetensors", "embedded", activation)
    elif Path(spec).exists():
        clip = _from_file(Path(spec), None, activation)
    elif path:
        clip = _from_file(Path(path), named, activation)
    elif weights.startswith("random"):
        # random weights are asked for by that word, so there is nothing to warn of
        return _random(arch, int(weights.partition(":")[2] or 0), activation).to(device)
    else:
        clip = _from_tag(arch, weights, activation)
    for note in clip.notes:
        warnings.warn(f"{clip.name}: {note}", stacklevel=2)
    return clip.to(device)


def resolve(spec: str | Path) -> str:
    """What a spec of `load_clip` means, in the spelling that works; refused if it means nothing. No network is asked.

    Returns:
        ``embedded``, ``<arch>/<tag>``, ``<arch>/random``, the path of a file, or ``<arch>@<path>``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a name that is unknown, or another library's; one sentence with the one that works.
    """
    spec = str(spec).strip()
    if not spec:
        raise ValueError("clip is empty: give 'embedded', a tag such as ViT-B-32/laion2b_s34b_b79k, or a file.")
    known = {*open_clip.list_models(), "embedded"}
    if spec == "embedded":
        return spec
    place = Path(spec.removeprefix("local-dir:")).expanduser()  # open_clip's word for a folder
    if place.exists() or spec.startswith(("local-dir:", "/", "~", ".")):
        return str(_file_in(place))
    named, at, path = spec.partition("@")
    if at and named in known:
        if not path.strip():
            raise ValueError(f"{spec} names no file: give {named}@<path>.")
        return f"{named}@{_file_in(Path(path).expanduser())}"
    arch, tag = (*re.split(r"[/,\s]|::?", spec, maxsplit=1), "")[:2]
    if arch in known:
        _config(arch)
        tags = open_clip.list_pretrained_tags_by_model(arch)
        if tag not in tags and not re.fullmatch(r"random(:\d+)?", tag):
            what = f"has no weights {tag!r}{nearest(tag, tags)}" if tag else "is an architecture without its weights"
            raise ValueError(
                f"{arch} {what}: give {arch}@<file>, or {arch}/ and one of {', '.join([*tags, 'random'])}."
            )
        return f"{arch}/{tag}"
    theirs = spec.replace("/", "-", 1).replace("@", "-").removesuffix("px")  # OpenAI's ViT-L/14@336px
    if theirs in known:
        raise ValueError(f"{spec!r} is OpenAI's name of {theirs}/openai: say {theirs}/openai.")
    if Path(spec).suffix in _SUFFIXES and "://" not in spec and not at:
        raise FileNotFoundError(f"there is no file {spec}: check the path.")
    prefixed = re.sub(r"^(hf[-_]hub:|hf:(//)?|huggingface:|(https?://)?(www\.)?(huggingface|hf)\.co/)", "", spec)
    repository = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@\w+|/(tree|blob|resolve)/.*)?/?", prefixed)
    if repository and (prefixed != spec or repository[1].lower() in _hub() or not nearest(arch, known)):
        return _in_hub(repository[1])
    if "://" in spec:
        raise ValueError(f"{spec} is an address: download the file, and give its path.")
    if "/" in spec and not at and not nearest(arch, known):
        raise FileNotFoundError(f"there is no file {spec}, and {arch} is no architecture of open_clip: check the path.")
    _config(named if at else arch)
    raise AssertionError(f"{spec} is known after all")


def _file_in(path: Path) -> Path:
    """A file, or the file of weights in a folder. Raises FileNotFoundError or ValueError where there is none."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}: check the path.")
    inside = [path / name for name in _WEIGHTS_NAMES if (path / name).is_file()]
    if path.is_dir() and not inside:
        raise ValueError(f"{path} is a folder {_without_weights(path)}.")
    if path.name.endswith(".index.json"):
        raise ValueError(f"{path} is an index of {_SHARDS}.")
    return inside[0] if inside else path


def _without_weights(folder: Path) -> str:
    """Why a folder that has no file of weights under its usual name is no CLIP, and what to give instead."""
    if next(folder.glob("*.index.json"), None):
        return f"with {_SHARDS}"
    if (folder / "adapter_config.json").is_file():
        return "of an adapter and no CLIP: save the CLIP with it, merge_and_unload().save_pretrained(...)"
    found = sorted(f for f in folder.rglob("*") if f.suffix in _SUFFIXES and f.is_file())
    if found:
        return f"with weights below it ({some((str(f.relative_to(folder)) for f in found), 3)}): give the path of one"
    return f"without weights ({', '.join(_SUFFIXES)}): give the path of a file with some"


def _hub() -> dict[str, str]:
    """Repository of the hub, in lower case -> the architecture and tag of open_clip that have its weights."""
    found = dict(_OPENAI)
    for arch, tag in open_clip.list_pretrained():
        repository = os.path.split(open_clip.get_pretrained_cfg(arch, tag).get("hf_hub") or "")[0]
        found.setdefault(repository.lower(), f"{arch}/{tag}")
    return found


def _in_hub(repository: str) -> str:
    """As `resolve`, of a repository of the hub: its file in the cache, or else a sentence."""
    same = _hub().get(repository.lower())
    if same:
        _config(same.partition("/")[0])
    for name in _WEIGHTS_NAMES:
        if isinstance(cached := huggingface_hub.try_to_load_from_cache(repository, name), str):
            # open_clip downloads the weights alone, and has their configuration in its tables
            beside = Path(cached).with_name(hugging_face.CONFIG if name in _WEIGHTS_NAMES[2:] else _CONFIG_BESIDE)
            return cached if beside.is_file() or not same else same
    if same:
        raise ValueError(f"{repository} is not in the hub's cache on this machine: say {same}, which has its weights.")
    raise ValueError(
        f"{repository} is neither a file nor in the hub's cache on this machine: check the path, or download it once "
        f"(hf download {repository})."
    )


def resized_transform(clip: Clip, size: tuple[int, int]) -> Compose:
    """The tower's transform for another (height, width): its interpolation, mean and standard deviation, no crop.

    Raises:
        ValueError: a side that is not a multiple of the patch, or a transform without a step that resizes.
    """
    for side, pixels in zip(("height", "width"), size, strict=True):
        if pixels < clip.patch_size or pixels % clip.patch_size:
            raise ValueError(
                f"the {side} of {pixels} px is not a multiple of the patch side of {clip.patch_size} px: "
                f"choose {max(1, round(pixels / clip.patch_size)) * clip.patch_size}."
            )
    steps = getattr(clip.transform, "transforms", ())
    resizes = [step for step in steps if isinstance(step, (Resize, ResizeKeepRatio))]
    if not resizes:
        raise ValueError(f"the transform of {clip.name} has no step that resizes, so size={size} cannot be applied.")
    rest = [step for step in steps if not isinstance(step, _GEOMETRY)]
    return Compose([Resize(tuple(size), interpolation=resizes[0].interpolation), *rest])


def build_embedded(seed: int = 0) -> Clip:
    """The embedded CLIP before its training: its architecture, vocabulary and preprocessing with random weights."""
    return _random("embedded", seed, None)


def save_clip(clip: Clip, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a CLIP to one safetensors file that tells its own architecture, activation, preprocessing and vocabulary.

    The file appears whole or not at all.

    Args:
        clip: what to write.
        path: the file; its folder is made if need be.
        dtype: what the tensors are stored as, such as ``torch.float16`` for half the size; None keeps theirs. Whatever
            it is, ``load_clip`` gives float32.

    Raises:
        OSError: the file cannot be written.
    """
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(dict(clip.config), sort_keys=True),
        "preprocess": json.dumps(dict(clip.preprocess), sort_keys=True),
    }
    if isinstance(clip.tokenizer, WordTokenizer):
        metadata["vocabulary"] = "\n".join(clip.tokenizer.words)
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in clip.model.state_dict().items()}
    save(path, state, metadata)


# --- where the weights come from ---


def _random(arch: str, seed: int, asked: str | None) -> Clip:
    config = _config(arch)
    activation = asked or _activation(config)
    return _assemble(
        config,
        activation,
        _usual_preprocess(arch, activation)[0],
        name=f"{arch}/random" + (f":{seed}" if seed else ""),
        source="a random generator",
        notes=[f"the weights are random (seed {seed}): nothing here was trained"],
        words=_embedded_words() if arch == "embedded" else None,
        seed=seed,
    )


def _from_tag(arch: str, tag: str, asked: str | None) -> Clip:
    config, entry = _config(arch), open_clip.get_pretrained_cfg(arch, tag)
    activation, notes = _settle(_activation(entry), asked, config, f"{arch}/{tag}")
    return _assemble(
        config,
        activation,
        entry,
        weights=read_weights(_fetch(arch, tag, entry)),
        name=f"{arch}/{tag}",
        source=entry["hf_hub"].strip("/") or entry["url"],
        notes=notes,
        online=True,
    )


def _from_file(path: Path, arch: str | None, asked: str | None) -> Clip:
    """Asks the file, its neighbour and its caller in the order that the head of the module gives."""
    named = _config(arch) if arch else None
    weights, beside, theirs = read_weights(path), path.with_name(_CONFIG_BESIDE), path.with_name(hugging_face.CONFIG)
    preprocess, words = None, _embedded_words() if arch == "embedded" else None
    told = config = None
    if weights.metadata.get("format") == _FORMAT:
        config, preprocess = (json.loads(weights.metadata[key]) for key in ("config", "preprocess"))
        words = weights.metadata["vocabulary"].split() if "vocabulary" in weights.metadata else None
        told = config
    elif beside.is_file():
        content = _read_json(beside)
        told, preprocess = content.get("model_cfg", content), content.get("preprocess_cfg")
    elif weights.hugging_face and theirs.is_file():
        widths = {tower: _sizes(weights)[f"{tower}_cfg"]["width"] for tower in ("vision", "text")}
        told, known = hugging_face.settings(_read_json(theirs), widths, str(theirs))
        told["quick_gelu"] = known == "QuickGELU"
        if (processor := path.with_name(hugging_face.PREPROCESS)).is_file():
            preprocess = hugging_face.preprocessing(_read_json(processor))
    if told is None:
        known = weights.activation
        arch, config = (arch, named) if named else _recognise(weights)
    else:
        known = _activation(told)
        config = config or _filled(told, weights, str(beside if beside.is_file() else theirs))
    config, notes = _resized(config, weights, arch or "its configuration")
    if named and _architecture(_resized(named, weights, "")[0]) != _architecture(config):
        raise ValueError(f"{path} tells its own architecture, and it is not {arch}: load it by its path alone.")
    likely = None if known or asked else weights.likely
    by_default = weights.hugging_face and not (known or asked or named or likely)
    activation, about = _settle(known or likely or ("QuickGELU" if by_default else None), asked, named, path.name)
    notes += about
    if likely:
        notes.append("the file only looks like OpenAI's, by its half-precision matrices: say activation= to be sure")
    elif by_default:
        notes.append(
            f"the file does not tell its activation, so transformers' default, QuickGELU, is assumed: put the "
            f"{hugging_face.CONFIG} of its weights beside it, or say activation="
        )
    elif not (known or asked or named):
        quick = f"{arch}-quickgelu"
        quick = f"{quick}@{path}" if quick in open_clip.list_models() else "activation='QuickGELU'"
        notes.append(
            f"the file does not tell its activation, so {activation} is assumed: if it goes back to OpenAI's weights "
            f"say {quick}, otherwise name it {arch}@{path}"
        )
    if preprocess is None:
        preprocess, agreed = _usual_preprocess(arch or "", activation)
        if not agreed:
            notes.append(
                f"the file does not tell its preprocessing, open_clip's weights of {arch} differ in theirs, and "
                f"OpenAI's is assumed: put the {_CONFIG_BESIDE} of its weights beside it"
            )
    return _assemble(
        config,
        activation,
        preprocess,
        weights=weights,
        name="embedded" if arch == "embedded" else f"{arch}@{path.name}" if arch else path.name,
        source="hc_lafter/embedded" if arch == "embedded" else str(path),
        notes=notes,
        words=words,
    )


def _settle(known: str | None, asked: str | None, named: Mapping[str, Any] | None, name: str) -> tuple[str, list[str]]:
    """The activation to use, and a note where the name that the caller gave the architecture would have misled."""
    if known and asked and known != asked:
        raise ValueError(f"{name} was trained with {known}: leave out activation={asked!r}.")
    by_name = _activation(named or {})
    if known and named and known != by_name:
        return known, [
            f"the weights go with {known}, so that is used, and not the {by_name} of the architecture's name"
        ]
    return known or asked or by_name, []


def _assemble(
    config: Mapping[str, Any],
    activation: str,
    preprocess: Mapping[str, Any],
    *,
    name: str,
    source: str,
    notes: list[str],
    weights: Weights | None = None,
    words: Sequence[str] | None = None,
    seed: int = 0,
    online: bool = False,
) -> Clip:
    config = {**deepcopy(dict(config)), "quick_gelu": activation == "QuickGELU"}
    with torch.random.fork_rng(devices=[]):  # whoever loads a CLIP keeps the random numbers that were to come
        torch.manual_seed(seed)
        model = _build(config)
    if weights:
        notes = [*weights.notes, *_fill(model, weights), *notes]
    visual, text = model.visual, config["text_cfg"]
    preprocess = {**merge_preprocess_dict(PreprocessCfg(), preprocess), "size": visual.image_size[0]}
    preprocess = json.loads(json.dumps(preprocess))  # tuples become lists, as they would in a file
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    return Clip(
        model=model.eval().requires_grad_(False),
        transform=image_transform_v2(PreprocessCfg(**preprocess), is_train=False),
        tokenizer=_tokenizer(text, words, name, online),
        name=name,
        source=source,
        activation=activation,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        layers=len(visual.transformer.resblocks),
        width=visual.conv1.out_channels,
        embed_dim=visual.output_dim,
        weight_hash=weight_hash(model.state_dict()),
        parameters=sum(p.numel() for p in model.parameters()),
        transform_id=json.dumps(preprocess, sort_keys=True),
        notes=tuple(notes),
        config=config,
        preprocess=preprocess,
    )


# --- architectures ---


def _config(arch: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture, without what it would download by itself.

    Raises:
        ValueError: unknown (with the nearest known name), or without a plain vision transformer.
    """
    if arch == "embedded":
        return _read_json(_EMBEDDED / "config.json")
    config = open_clip.get_model_config(arch)
    if config is None:
        near = nearest(arch, [*open_clip.list_models(), "embedded"])
        raise ValueError(
            f"{arch!r} is neither a file nor an architecture that open_clip knows{near}: open_clip.list_models() names "
            "them all."
        )
    _check_config(config, arch)
    return config


def _check_config(config: Mapping[str, Any], name: str) -> None:
    why = _unusable(config)
    if why:
        raise ValueError(
            f"{name} cannot be walked layer by layer: {why}; choose a plain one such as ViT-B-32 or ViT-B-16."
        )


def _unusable(config: Mapping[str, Any]) -> str | None:
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    if not vision or not text:
        return "it is not an open_clip configuration with a vision_cfg and a text_cfg"
    if "timm_model_name" in vision:
        return f"its vision tower is timm's {vision['timm_model_name']}"
    if isinstance(vision.get("layers"), list | tuple):
        return "its vision tower is a ResNet"
    if "hf_model_name" in text:
        return f"its text tower is the Hugging Face model {text['hf_model_name']}"
    if "multimodal_cfg" in config:
        return "it is a CoCa, which pools by attention"
    try:
        CLIPVisionCfg(**vision), CLIPTextCfg(**text)
    except TypeError as error:
        return f"open_clip has no such setting ({str(error).partition(') ')[2] or error})"
    return None


def _build(config: Mapping[str, Any]) -> open_clip.CLIP:
    """A model with fresh weights. ``custom_text`` only moves the text tower to other names, so it is left out."""
    return open_clip.CLIP(**{key: value for key, value in deepcopy(dict(config)).items() if key != "custom_text"})


def _activation(config: Mapping[str, Any]) -> str:
    return "QuickGELU" if config.get("quick_gelu", False) else "GELU"


def _architecture(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides features beside weights and activation; two that differ in spelling alone are equal."""
    rest = {key: value for key, value in config.items() if key not in ("quick_gelu", "vision_cfg", "text_cfg")}
    return rest, CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])


def _filled(config: Mapping[str, Any], weights: Weights, where: str) -> dict[str, Any]:
    """A configuration in which the shapes of the file have filled in what it leaves out.

    Raises:
        ValueError: no model can be built from it, or one that has other tensors than the file; one sentence with the
            configuration's path.
    """
    sizes = _sizes(weights)
    towers = {name: {**sizes[name], **(config.get(name) or {})} for name in ("vision_cfg", "text_cfg")}
    config = {**sizes, **config, **towers}
    _check_config(config, where)
    for tower, key, number in (
        ("vision_cfg", "head_width", CLIPVisionCfg(**towers["vision_cfg"]).head_width),
        ("text_cfg", "heads", CLIPTextCfg(**towers["text_cfg"]).heads),
    ):
        what, width = f"{key} {number!r} in its {tower}", sizes[tower]["width"]
        hugging_face.check_heads(number, width, what, where, of_one=key == "head_width")
    try:
        with torch.device("meta"):  # names and shapes, no numbers
            wanted = _shapes(_build(_resized(config, weights, where)[0]).state_dict())
    except Exception as error:  # open_clip checks no setting, so a wrong one may break it anywhere
        why = f"{type(error).__name__}: {error}".partition("\n")[0]  # torch appends where in C++
        raise ValueError(
            f"{where} has a setting of which open_clip builds no CLIP ({why}): correct it or take another copy."
        ) from error
    given = _shapes(weights.state)
    different = sorted({name for name, _ in wanted.items() ^ given.items()} - ({"logit_bias"} - wanted.keys()))
    if not different:
        return config
    if wanted.keys() != given.keys():
        _check_names(weights)
    first = different[0]
    why = f"{len(different)} tensors differ, such as {first} of shape {given.get(first)} for {wanted.get(first)}"
    for name, part in (("", config), *towers.items()):
        for key, own in (sizes[name] if name else {"embed_dim": sizes["embed_dim"]}).items():
            fits = (own, [own, own])  # a patch may have both its sides
            if key not in ("image_size", "context_length") and part[key] not in fits:
                why = f"it has {key} {part[key]!r}{name and f' in its {name}'}, and the weights have {own}"
    raise ValueError(f"{where} does not belong to {weights.path}: {why}; correct it, or take the one of these weights.")


def _resized(config: Mapping[str, Any], weights: Weights, name: str) -> tuple[dict[str, Any], list[str]]:
    """A configuration with the image size and text length of the file, and notes where these are not its own."""
    sizes, config, notes = _sizes(weights), deepcopy(dict(config)), []
    for tower, key, usual, unit in (
        ("vision", "image_size", 224, "images, in px"),
        ("text", "context_length", 77, "texts, in ids"),
    ):
        own, here = config[f"{tower}_cfg"].get(key, usual), sizes[f"{tower}_cfg"][key]
        if own != here:
            config[f"{tower}_cfg"][key] = here
            notes.append(f"the size of its {unit}, is the file's {here} and not the {own} of {name}")
    return config, notes


def _usual_preprocess(arch: str, activation: str) -> tuple[dict[str, Any], bool]:
    """The preprocessing that open_clip's weights of this architecture and activation share, and whether they do."""
    entries = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    usual = asdict(PreprocessCfg())
    kinds = [merge_preprocess_dict(usual, entry) for entry in entries if _activation(entry) == activation]
    agreed = all(kind == kinds[0] for kind in kinds)
    return (kinds[0] if kinds and agreed else usual), agreed


def _sizes(weights: Weights) -> dict[str, Any]:
    """What the shapes of a state dict tell of its configuration (not the number of heads)."""
    shapes, names = _shapes(weights.state), " ".join(weights.state)
    try:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
        context, text_width = shapes["positional_embedding"]
        embed_dim, vocabulary = shapes["text_projection"][1], shapes["token_embedding.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        why = f"its first tensors are {', '.join(list(shapes)[:3])}"
        text = next((name for name in shapes if name.endswith("token_embedding.weight")), None)
        if "visual.trunk." in names or "visual.layer1." in names:
            why = "its vision tower is a timm model or a ResNet"
        elif text and not any(name.startswith("visual.") for name in shapes):
            prefix = text.removesuffix("token_embedding.weight")
            rest = (name for name in shapes if not TOWERS.match(name.removeprefix(prefix)))
            other = next((name for name in rest if not hugging_face.TOWERS.match(name)), None)
            why = "it has the text tower alone"
            if other:
                why = f"it has a text tower and {other!r}, but no vision tower whose names begin with visual"
        elif not text and ("class_embedding" in shapes or "visual.class_embedding" in shapes):
            why = "it has the vision tower alone"
        elif text and isinstance(error, KeyError):
            why = f"it has both towers, but not {error.args[0]!r}"
        raise ValueError(
            f"{weights.path} holds no CLIP with a vision transformer under open_clip's or transformers' names: {why}; "
            "give a whole CLIP of such a kind."
        ) from error
    blocks, text_blocks = (
        sum(name.startswith(tower) and name.endswith(".ln_1.weight") for name in shapes)
        for tower in ("visual.", "transformer.")
    )
    vision = {"image_size": side * patch, "layers": blocks, "width": width, "patch_size": patch}
    text = {"context_length": context, "vocab_size": vocabulary, "width": text_width, "layers": text_blocks}
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}


def _recognise(weights: Weights) -> tuple[str | None, dict[str, Any]]:
    """The one open_clip architecture, activation, image size and text length aside, that has just these tensors.

    OpenAI's files need none: in its release (``build_model``) the heads are 64 wide in both towers.
    """
    sizes, shapes = _sizes(weights), _shapes(weights.state)
    shapes.pop("logit_bias", None)
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    found: dict[str, dict[str, Any]] = {}
    for arch in open_clip.list_models():
        config = open_clip.get_model_config(arch)
        if _unusable(config) or config.get("quick_gelu") or sizes["embed_dim"] != config["embed_dim"]:
            continue
        fixed = (("vision_cfg", ("layers", "width", "patch_size")), ("text_cfg", ("vocab_size", "width", "layers")))
        if any(config[tower].get(key, sizes[tower][key]) != sizes[tower][key] for tower, keys in fixed for key in keys):
            continue  # a quick look at the numbers that both name, before any model is built
        with torch.device("meta"):  # names and shapes, no numbers
            if (
                _shapes(_build(_resized(config, weights, arch)[0]).state_dict()).items() - {("logit_bias", ())}
                == shapes.items()
            ):
                found[arch] = config
    own = {arch: config for arch, config in found.items() if not _resized(config, weights, arch)[1]}
    found = own or found
    kinds = [_architecture(_resized(config, weights, arch)[0]) for arch, config in found.items()]
    if found and all(kind == kinds[0] for kind in kinds):
        return next(iter(found.items()))
    if not found and "QuickGELU" in (weights.activation, weights.likely):
        text["heads"] = text["width"] // 64
        return None, sizes
    if not found:
        _check_names(weights)
    why, texts = "none of open_clip has its tensors", {"heads": max(1, text["width"] // 64)}
    if text["vocab_size"] < _IDS:
        texts["hf_tokenizer_name"] = "its tokenizer"
    example = json.dumps({"model_cfg": {"vision_cfg": {"head_width": 64}, "text_cfg": texts}})
    mend = f"put an {_CONFIG_BESIDE} with its own numbers of heads beside it, as in {example}"
    if found:
        why, mend = f"{some(found, 3)} share its shapes", f"name it, as in {next(iter(found))}@{weights.path}"
    elif weights.hugging_face:
        mend = f"put the {hugging_face.CONFIG} of its weights beside it"
    raise ValueError(
        f"{weights.path} ({vision['layers']} blocks of width {vision['width']}, patch {vision['patch_size']} and image "
        f"{vision['image_size']} px, embedding {sizes['embed_dim']}, text {text['layers']} x {text['width']}, "
        f"{text['vocab_size']} ids) does not tell its architecture and {why}: {mend}."
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_names(weights: Weights) -> None:
    """Refuse a file that has more tensors, or fewer, than any plain CLIP of its depth: no other name would help.

    Raises:
        ValueError: one sentence with the first of them.
    """
    sizes = _sizes(weights)
    sizes["vision_cfg"]["head_width"], sizes["text_cfg"]["heads"] = sizes["vision_cfg"]["width"], 1  # fit any width
    with torch.device("meta"):
        wanted = {*_build(sizes).state_dict()}
    given = {*weights.state} - {"logit_bias"}
    if missing := sorted(wanted - given):
        why = f"lacks {len(missing)} tensors of its CLIP ({missing[0]}): save the state dict of the whole model"
    elif more := sorted(given - wanted):
        why = f"holds {len(more)} tensors in its towers that no plain CLIP has ({more[0]}): merge them in, or drop them"
    else:
        return
    raise ValueError(f"{weights.path} {why}.")


def _fill(model: nn.Module, weights: Weights) -> list[str]:
    """Put a checkpoint into a model: every tensor, and each of the right shape. Returns notes on what was left out."""
    state, wanted, left = dict(weights.state), _shapes(model.state_dict()), []
    if "logit_bias" in state and "logit_bias" not in wanted:  # of SigLIP's loss: no feature depends on it
        del state["logit_bias"]
        left = ["left out, since no feature depends on it: 'logit_bias'"]
    given = _shapes(state)
    different = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if different:
        first = different[0]
        if wanted.keys() != given.keys():
            _check_names(weights)
        _recognise(weights)  # where this refuses, the path alone would be no help
        raise ValueError(
            f"{weights.path} is not of this architecture: {len(different)} tensors differ, such as {first} of shape "
            f"{given.get(first, 'none')} for {wanted.get(first, 'none')}; give its path alone."
        )
    model.load_state_dict(state)
    return left


# --- tokenizers ---


def _words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def _embedded_words() -> list[str]:
    return (_EMBEDDED / "vocabulary.txt").read_text(encoding="utf-8").split()


def _tokenizer(text: Mapping[str, Any], words: Sequence[str] | None, name: str, online: bool) -> Callable:
    length, extra = text.get("context_length", 77), text.get("tokenizer_kwargs", {})
    if words is not None:
        return WordTokenizer(words, length)
    if "hf_tokenizer_name" not in text:
        if text.get("vocab_size", _IDS) < _IDS:
            raise ValueError(
                f"{name} has a vocabulary of {text['vocab_size']} ids, and CLIP's tokenizer {_IDS}: name its own "
                f"as text_cfg's hf_tokenizer_name in an {_CONFIG_BESIDE} beside it."
            )
        return SimpleTokenizer(context_length=length, **extra)
    how = {"context_length": length, "tokenizer_mode": text.get("tokenizer_mode"), **extra}
    try:
        try:
            return HFTokenizer(text["hf_tokenizer_name"], local_files_only=True, **how)
        except OSError:
            if not online:
                raise
            _ask_hub()
            return HFTokenizer(text["hf_tokenizer_name"], **how)
    except Exception as error:  # as in `_fetch`
        raise ValueError(
            f"{name} needs the tokenizer {text['hf_tokenizer_name']}, which could not be had: install transformers "
            "and load a tag of this architecture once with a network."
        ) from error


# --- files ---


def _fetch(arch: str, tag: str, entry: Mapping[str, Any]) -> Path:
    """The file of a tag: from the cache without asking anybody, else from the network if one answers at once."""
    repository, file = os.path.split(entry["hf_hub"])
    for name in ([file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]) if repository else []:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    patience = socket.getdefaulttimeout()
    try:
        if repository:
            _ask_hub()
        socket.setdefaulttimeout(20)  # a download from a plain address would wait for ever
        return Path(download_pretrained(entry))
    except Exception as error:  # each client has its own errors, and all of them mean that the weights are not here
        raise FileNotFoundError(
            f"the weights {arch}/{tag} are neither in the cache nor to be had from the network "
            f"({type(error).__name__}): load them once where there is a network, or give a file as {arch}@<path>."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _ask_hub() -> None:
    """One question with little patience: the hub's own download retries for a minute."""
    huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)


def _read_json(path: Path) -> dict[str, Any]:
    """A configuration, in which whatever is named a configuration is an object, too.

    Raises:
        ValueError: it cannot be read, or is none; one sentence with the path.
    """
    wrong = []

    def look(found: dict[str, Any]) -> dict[str, Any]:
        parts = (key for key in found if key.endswith(("_cfg", "_config", "_config_dict")))
        wrong.extend(f" as its {key}" for key in parts if not isinstance(found[key], dict | None))
        return found

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=look)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({type(error).__name__}): correct it or take another copy."
        ) from error
    if wrong or not isinstance(content, dict):
        raise ValueError(
            f"{path} holds no JSON object of settings{next(iter(wrong), '')}: correct it or take another copy."
        )
    return content
