"""Reads the tensors of a CLIP checkpoint out of any container they come in, and runs no code of it.

Containers are told apart by content, not by name: safetensors; a torch file (a state dict, or a training checkpoint
with one inside), read with ``weights_only``; a TorchScript archive such as OpenAI's, which is not run.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from hc_lafter.store import weight_hash as weight_hash  # callers know it by this module, too

_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's archives hold these beside the weights
_TEXT_PART = r"^text\.(?=positional_embedding|token_embedding|transformer|ln_final|text_projection)"


@dataclass(frozen=True)
class Weights:
    """A checkpoint as read.

    Attributes:
        path: where it was.
        state: tensors under the names of open_clip's ``CLIP`` (without prefixes of wrappers and ``CustomTextCLIP``).
        metadata: of a safetensors file; else empty.
        activation: ``GELU`` or ``QuickGELU`` where the container leaves no doubt, else None.
        likely: the same where it only looks so, else None.
    """

    path: Path
    state: dict[str, Tensor]
    metadata: Mapping[str, str]
    activation: str | None
    likely: str | None


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
            head = file.read(9)
        if head[8:] == b"{":
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        elif zipfile.is_zipfile(path) and _has_code(path):
            content, activation = _read_torchscript(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may break its reader anywhere
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        why = f"cannot be read as a checkpoint ({type(error).__name__}): it is damaged or not one, take another copy"
        if wanted:
            why = f"is a pickle that wants {wanted[1]}, which may run code: save its state dict alone"
        raise ValueError(f"{path} {why}.") from error
    state = _unwrap(content)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors: save model.state_dict() to it.")
    if "input_resolution" in state:
        activation = activation or "QuickGELU"
    parts = [state[name].dtype for name in ("visual.conv1.weight", "visual.ln_post.weight") if name in state]
    likely = "QuickGELU" if parts == [torch.float16, torch.float32] else None  # OpenAI stores only the matrices in half
    state = {name: value for name, value in state.items() if name not in _EXTRAS and not name.endswith("attn_mask")}
    broken = next((name for name in sorted(state) if not state[name].isfinite().all()), None)
    if broken:
        raise ValueError(f"{path} holds values in {broken} that are not finite: it is damaged, take another copy.")
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(())  # some checkpoints give it an axis
    return Weights(path, state, metadata, activation, likely)


def _unwrap(content: Any) -> dict[str, Any] | None:
    """The state dict in a training checkpoint, without the prefixes of wrappers."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return None
    state = {str(name): value for name, value in content.items()}
    # DistributedDataParallel and torch.compile each put a prefix of their own before every name, in either order.
    while state and (prefix := min(state).partition(".")[0]) in ("module", "_orig_mod"):
        if not all(name.startswith(f"{prefix}.") for name in state):
            break
        state = {name.removeprefix(f"{prefix}."): value for name, value in state.items()}
    return {re.sub(_TEXT_PART, "", name): value for name, value in state.items()}


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
