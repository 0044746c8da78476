"""Reads the tensors of a CLIP checkpoint out of any container they come in, and runs no code of it.

Containers are told apart by content, not by name: safetensors; a torch file (a state dict, or a training checkpoint
with one inside), read with ``weights_only``; a TorchScript archive such as OpenAI's, which is not run. In a container
the CLIP is found by the names of its tensors, under whatever key and behind whatever prefix a wrapper has put it.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
import re
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from hc_lafter.clip import hugging_face
from hc_lafter.refusals import some
from hc_lafter.store import weight_hash as weight_hash  # callers know it by this module, too

_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's archives hold these beside the weights
_TEXT_PART = r"^text\.(?=positional_embedding|token_embedding|transformer|ln_final|text_projection)"
_CLIP = re.compile(r"((?:.*?\.)?)(visual\.(?:conv1\.weight|class_embedding)|vision_model\.(?:embeddings|encoder)\..*)")
# What wrappers put before every name without meaning anything by it: DistributedDataParallel, torch.compile.
_PLAIN = re.compile(r"((module|_orig_mod)\.)*")
_PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "module")
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|averaged|shadow)(?![a-z])")  # copies beside the weights that were trained
# The tensors of a CLIP under open_clip's names; what stands elsewhere is of a head, a loss or another model.
TOWERS = re.compile(
    r"(visual|transformer|token_embedding|ln_final|text)\.|(positional_embedding|text_projection|logit_scale)$"
)


@dataclass(frozen=True)
class Weights:
    """A checkpoint as read.

    Attributes:
        path: where it was.
        state: tensors under the names of open_clip's ``CLIP`` (without prefixes of wrappers and ``CustomTextCLIP``).
        metadata: of a safetensors file; else empty.
        activation: ``GELU`` or ``QuickGELU`` where the container leaves no doubt, else None.
        likely: the same where it only looks so, else None.
        notes: where in the file the CLIP was found, and what beside it was left out.
        hugging_face: the file has the layout of Hugging Face transformers; ``state`` is translated.
    """

    path: Path
    state: dict[str, Tensor]
    metadata: Mapping[str, str]
    activation: str | None
    likely: str | None
    notes: tuple[str, ...] = ()
    hugging_face: bool = False


def read_weights(path: Path) -> Weights:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, a damaged file, a pickle that wants more than tensors, no state dict, values that are not
            finite; one sentence with the path.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of the weights file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: check the path.")
    metadata, activation = {}, None
    try:
        with path.open("rb") as file:
            head = file.read(99)
        if head[8:9] == b"{":
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        elif zipfile.is_zipfile(path) and _has_code(path):
            content, activation = _read_torchscript(path)
        else:
            content = _read_torch(path)
    except Exception as error:  # a damaged file may break its reader anywhere
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        why = f"cannot be read as a checkpoint ({type(error).__name__}): it is damaged or not one, take another copy"
        if head.startswith(b"version https://git-lfs"):
            why = "is not the weights but a pointer to them, as git leaves it without LFS: fetch them with git lfs pull"
        elif head.lstrip().startswith(b"<"):
            why = "is a web page, saved in the place of the weights: download the file itself"
        elif path.suffix == ".json":
            why = "is a configuration: give the file of weights that it belongs to, or its folder"
        if wanted:
            why = f"is a pickle that wants {wanted[1]}, which is not among the plain data types that are read, "
            why += "since any other may run code: save its state dict alone"
        raise ValueError(f"{path} {why}.") from error
    state, notes = _whole_clip(content, path)
    if "input_resolution" in state:
        activation = activation or "QuickGELU"
    parts = [state[name].dtype for name in ("visual.conv1.weight", "visual.ln_post.weight") if name in state]
    likely = "QuickGELU" if parts == [torch.float16, torch.float32] else None  # OpenAI stores only the matrices in half
    state = {name: value for name, value in state.items() if name not in _EXTRAS and not name.endswith("attn_mask")}
    broken = next((name for name in sorted(state) if not state[name].isfinite().all()), None)
    if broken:
        raise ValueError(f"{path} holds values in {broken} that are not finite: it is damaged, take another copy.")
    translated = any(name.startswith("vision_model.") for name in state)
    if translated:
        state = hugging_face.translated(state, path)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(())  # some checkpoints give it an axis
    return Weights(path, state, metadata, activation, likely, tuple(notes), translated)


def _tables(content: Any, place: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tables of tensors in a checkpoint, and the keys that lead to each, as in ``model.``."""
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from _tables(value, f"{place}{key}.", depth - 1)


def _whole_clip(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the one CLIP in a checkpoint, without the prefix of its wrapper, and notes on both.

    Raises:
        ValueError: there are no tensors, or several CLIPs of which none is the one that was trained.
    """
    tables = list(_tables(content))
    if not tables:
        raise ValueError(f"{path} holds no state dict of tensors: save model.state_dict() to it.")
    found = {}  # key in the checkpoint + prefix -> key, prefix, table
    for place, table in tables:
        for match in filter(None, map(_CLIP.match, table)):
            found.setdefault(place + match[1], (place, match[1], table))
    if not found:
        return max((table for _, table in tables), key=len), []
    trained = [name for name in found if not _AVERAGED.search(name.lower())] or list(found)
    if len(trained) > 1:
        names = some((name.rstrip(".") for name in trained), 3)
        raise ValueError(f"{path} holds {len(trained)} CLIPs, under {names}: save the state dict of one of them alone.")
    name = trained[0]
    place, prefix, table = found[name]
    named = {key: re.sub(_TEXT_PART, "", key.removeprefix(prefix)) for key in table if key.startswith(prefix)}
    theirs = any(ours.startswith("vision_model.") for ours in named.values())
    part = (hugging_face.TOWERS if theirs else TOWERS).match
    named = {key: ours for key, ours in named.items() if part(ours) or ours in _EXTRAS}
    left = [key for key in table if key not in named and not key.endswith("attn_mask")]
    left += [other.rstrip(".") for other in found if other != name]
    notes = []
    if not _PLAIN.fullmatch(prefix) or place.rstrip(".") not in ("", *_PLAIN_KEYS):
        notes.append(f"its CLIP stands under {name.rstrip('.')!r} in the file")
    if left:
        notes.append(f"left out, since no part of the CLIP: {some(sorted(left), 3)}")
    return {ours: table[key] for key, ours in named.items()}, notes


# --- torch files ---


def _number(dtype: np.dtype, content: bytes | str = b"") -> Any:
    """A NumPy number out of a pickle; an object's bytes would be a pickle of their own, and are not read."""
    if np.dtype(dtype).hasobject:
        raise pickle.UnpicklingError("GLOBAL numpy.object_ is not a number")
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype, 1)[0]


class _Generator:
    """Stands for any of NumPy's random generators: has its state and draws nothing."""

    def __init__(self, *_: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _plain() -> list[Any]:
    """What stands beside the weights in training checkpoints and is data: NumPy's numbers, arrays and states of random
    generators, options, paths. NumPy 1 and 2 have other names for the same things."""
    kinds = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type) and issubclass(kind, np.dtype)]
    inside = [(np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype"), *kinds]
    for core in ("numpy.core", "numpy._core"):
        inside.append((_number, f"{core}.multiarray.scalar"))
        inside.append((np._core.multiarray._reconstruct, f"{core}.multiarray._reconstruct"))
        inside.append((np._core.numeric._frombuffer, f"{core}.numeric._frombuffer"))
    paths = [(pathlib.PurePath, f"pathlib.{name}") for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")]
    paths += [(pathlib.PurePath, name.replace("pathlib.", "pathlib._local.")) for _, name in paths]
    names = ["bit_generator.SeedSequence", "bit_generator.__pyx_unpickle_SeedSequence"]
    names += [f"_pickle.__{kind}_ctor" for kind in ("generator", "bit_generator", "randomstate")]
    names += ["_mt19937.MT19937", "_pcg64.PCG64", "_pcg64.PCG64DXSM", "_philox.Philox", "_sfc64.SFC64"]
    inside += [(_Generator, f"numpy.random.{name}") for name in names]
    inside += {kind for kind in np.sctypeDict.values() if kind is not np.object_}
    return [*inside, *paths, argparse.Namespace, types.SimpleNamespace]


def _read_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(_plain()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a layout of arrays that NumPy no longer writes
        return torch.load(path, map_location="cpu", weights_only=True)


# --- TorchScript ---

_STORAGES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}


def _has_code(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read_torchscript(path: Path) -> tuple[dict[str, Tensor], str]:
    """State dict and activation of an archive; its code is looked at, never run."""
    with zipfile.ZipFile(path) as archive:
        code = [archive.read(name) for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        top = _ArchiveReader(archive).load()
    return dict(_tensors(top)), "GELU" if any(b"torch.gelu(" in text for text in code) else "QuickGELU"


def _tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


class _Module:
    """Stands for any class of an archive: has its attributes and none of its code."""


class _ArchiveReader(pickle.Unpickler):
    """Reads the attributes stored in a TorchScript archive; knows tensors and plain containers and refuses all else."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive, self._root = archive, archive.namelist()[0].split("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self._root}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # build_intlist and its kind: typed lists
            return lambda values, *_: values
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not among what an archive of weights needs")

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, *_ = pid
        content = self._archive.read(f"{self._root}/data/{key}")
        return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
