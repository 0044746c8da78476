"""Tensors that were costly to compute, kept under a key of everything that decides them.

One file per key, ``<folder>/<key>.safetensors``, written whole or not at all. Of two processes that want one entry the
second waits and reads; a damaged entry is named in a warning and made again.
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

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hc_lafter.clip.weights import weight_hash
from hc_lafter.files import write_whole


def stored(
    folder: Path | None,
    inputs: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[], dict[str, Tensor]],
) -> tuple[str, dict[str, Tensor]]:
    """The key of these inputs, and what ``make`` gives for them, from the folder or made now.

    Args:
        folder: where entries lie; None makes without storing.
        inputs: everything that decides the tensors, as JSON takes it: contents and versions, never bare names.
        shapes: name -> shape of the float32 tensors that ``make`` returns.

    Raises:
        OSError: the folder cannot be written, or its disk has no room for the entry.
    """
    text = json.dumps(inputs, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    if folder is None:
        return key, make()
    path = Path(folder) / f"{key}.safetensors"
    with _locked(path):
        tensors = _read(path, key, shapes)
        if tensors is None:
            _check_room(path, shapes)
            tensors = make()
            _write(path, tensors, text)
    return key, tensors


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with an entry. The lock's file may stay behind: deleting it under another process would make two locks."""
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


def _check_room(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    need = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise OSError(
            f"the cache {path.parent} needs {need / 2**30:.1f} GiB for this entry and has "
            f"{free / 2**30:.1f} GiB: make room, choose another cache folder."
        )


def _read(path: Path, key: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
    """An entry's tensors, checked; None where there is none, and, with a warning, where it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
            # copies: the tensors are windows into the file, which must not change under them
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        wrong = (
            "it is another entry"
            if hashlib.sha256(stored.get("inputs", "").encode()).hexdigest() != key
            else "its shapes are wrong"
            if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != dict(shapes)
            else "its checksum does not match"
            if stored.get("checksum") != weight_hash(tensors)
            else None
        )
    except (SafetensorError, OSError, ValueError) as error:
        wrong = str(error)
    if wrong is None:
        return tensors
    warnings.warn(f"the cache entry {path} is damaged ({wrong}): it is made again.", stacklevel=4)
    return None


def _write(path: Path, tensors: dict[str, Tensor], inputs: str) -> None:
    metadata = {"inputs": inputs, "checksum": weight_hash(tensors)}  # the key is the hash of the inputs

    def save(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # safetensors wraps a full disk in an error of its own
            raise OSError(str(error)) from error

    write_whole(path, save)
