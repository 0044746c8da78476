"""Tensors on the disk: safetensors files, written whole or not at all, that know whether they are intact.

`write` and `read` are for files with a path of their own, such as checkpoints and what one notebook leaves for the
next; `cached` is for what was costly to compute, kept under a key of everything that decides it. Belongs to no room.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hc_lafter.files import write_whole

_FORMAT = "hc_lafter.store 1"  # part of every key: entries of another format are not found, instead of damaged


def write(path: str | Path, tensors: Mapping[str, Tensor], **metadata: Any) -> Path:
    """Write tensors and what is to be known of them, for `read`.

    Args:
        path: the file; its folder is made if need be.
        tensors: name -> tensor, no two sharing memory.
        metadata: each value as JSON takes it (NaN and infinity too).

    Raises:
        OSError: the file cannot be written, as on a full disk; one sentence with the reason.
    """
    header = {name: json.dumps(value) for name, value in metadata.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(path, tensors, header | {"checksum": _checksum(tensors, header)})


def save(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Path:
    """`write` without the checksum, the header's texts as they are: for a file that other programs read, too."""

    def content(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(header))
        except SafetensorError as error:  # safetensors wraps a full disk in an error of its own
            raise OSError(str(error)) from error

    return write_whole(path, content)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the metadata that `write` was given (tuples have become lists).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or was not written by `write`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # copies: the tensors are windows into the file, which must not change under them
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        checksum = header.pop("checksum", None)
        if checksum is None:
            raise ValueError("it was not written by hc_lafter")
        if checksum != _checksum(tensors, header):
            raise ValueError("its checksum does not match")
        return tensors, {name: json.loads(text) for name, text in header.items()}
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}: run first what writes it.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and run again what wrote it.") from error


def cached(
    folder: Path | None, inputs: Mapping[str, Any], make: Callable[[], dict[str, Tensor]], size: int = 0
) -> tuple[str, dict[str, Tensor]]:
    """The key of these inputs, and what ``make`` gives for them: read from the folder, or made now and left there.

    An entry is ``<folder>/<key>.safetensors``. Of two processes that want one entry the second waits and reads; a
    damaged entry is named in a warning and made again.

    Args:
        folder: where entries lie; None makes without storing.
        inputs: everything that decides the tensors, as JSON takes it: contents and versions, never bare names.
        size: bytes that the tensors will take, for which there must be room on the disk before they are made.

    Raises:
        OSError: the folder cannot be written, or its disk has no room for the entry.
    """
    inputs = json.loads(json.dumps({"format": _FORMAT, **inputs}, sort_keys=True))
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    if folder is None:
        return key, make()
    path = Path(folder) / f"{key}.safetensors"
    with locked(path):
        if path.exists():
            try:
                tensors, metadata = read(path)
                if metadata == {"inputs": inputs}:
                    return key, tensors
                reason = "it is another entry"
            except ValueError as error:
                reason = error.__cause__
            warnings.warn(f"the cache entry {path} is damaged ({reason}): it is made again.", stacklevel=3)
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(
                f"the cache {path.parent} needs {size / 2**30:.1f} GiB for this entry and has {free / 2**30:.1f} GiB: "
                "make room, or choose another cache folder."
            )
        tensors = make()
        write(path, tensors, inputs=inputs)
    return key, tensors


def weight_hash(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over the names, dtypes, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():  # an empty one from NumPy has a stride of 0, and is no bytes anyhow
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{weight_hash(tensors)}\n{json.dumps(header, sort_keys=True)}".encode()).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with a file among processes, for as long as the context lasts.

    The lock's own file may stay behind: deleting it under another process would make two locks.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a network file system without locks
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"the cache {path.parent} cannot be written ({reason}): give write access or another cache folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
