"""Tensors on the disk: safetensors files, written whole or not at all, that know whether they are intact.

`write` and `read` are for files with a path of their own, such as checkpoints and what one notebook leaves for the
next; `cached` is for what was costly to compute, kept under a key of everything that decides it; `streamed` likewise,
for what may be larger than the memory. Belongs to no room.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hc_lafter.files import write_whole

_ALIGNED = 64  # bytes, as torch aligns a tensor of its own
_CHUNK = 2**24  # bytes of a file that are hashed at once
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
    return save(path, tensors, header | {"checksum": _checksum(weight_hash(tensors), header)})


def save(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Path:
    """`write` without the checksum, the header's texts as they are: for a file that other programs read, too."""

    def content(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(header))
            _sort_metadata(temporary)
        except SafetensorError as error:  # safetensors wraps a full disk in an error of its own
            raise OSError(str(error)) from error

    return write_whole(path, content)


def _sort_metadata(path: Path) -> None:
    """Sort what safetensors writes in an order that changes from process to process: equal files are equal bytes.

    A file is the length of its header in 8 bytes, the header as JSON, and the tensors.
    """
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(size))  # the same text in another order, as long as before


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the metadata that `write` was given (tuples have become lists).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or was not written by `write`.
    """
    with _intact(path):
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # copies: the tensors are windows into the file, which must not change under them
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        return tensors, _metadata(header, weight_hash(tensors))


@contextmanager
def _intact(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}: run first what writes it.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and run again what wrote it.") from error


def _metadata(header: dict[str, str], tensors: str) -> dict[str, Any]:
    """What `write` was given, of a file whose tensors have this `weight_hash`."""
    checksum = header.pop("checksum", None)
    if checksum is None:
        raise ValueError("it was not written by hc_lafter")
    if checksum != _checksum(tensors, header):
        raise ValueError("its checksum does not match")
    return {name: json.loads(text) for name, text in header.items()}


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

    def put(path: Path, inputs: Any) -> dict[str, Tensor]:
        tensors = make()
        write(path, tensors, inputs=inputs)
        return tensors

    inputs, key = _keyed(inputs)
    return key, make() if folder is None else _entry(Path(folder) / f"{key}.safetensors", inputs, size, read, put)


def streamed(
    folder: Path | None,
    inputs: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    pieces: Callable[[], Iterator[Mapping[str, Tensor]]],
) -> tuple[str, Mapping[str, Tensor]]:
    """As `cached`, for float32 tensors that may be larger than the memory.

    Args:
        shapes: name -> [n, ...].
        pieces: gives all rows of all tensors, in their order, some at a time: name -> [some, ...].

    Returns:
        The key, and the tensors: `Windows` into the entry, in memory where there is no folder.
    """

    def put(path: Path, inputs: Any) -> Windows:
        header = {"inputs": json.dumps(inputs)}
        write_whole(path, lambda temporary: _write_rows(temporary, shapes, pieces(), header))
        return Windows(path)

    inputs, key = _keyed(inputs)
    if folder is not None:
        size = 4 * sum(map(math.prod, shapes.values()))
        return key, _entry(Path(folder) / f"{key}.safetensors", inputs, size, _windows, put)
    tensors, done = {name: torch.empty(shape, dtype=torch.float32) for name, shape in shapes.items()}, 0
    for piece in pieces():
        for name, rows in piece.items():
            tensors[name][done : done + len(rows)] = rows
        done += len(rows)
    return key, tensors


class Windows(Mapping[str, Tensor]):
    """The tensors of a file, each a window into it, mapped anew at every access.

    The system reads a page when it is first looked at, shares it between processes and may drop it at any time; what
    has been looked at counts as resident until the tensor is let go. A change to a tensor never reaches the file.
    """

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, framework="pt") as file:
            self.names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _windows(path: Path) -> tuple[Windows, dict[str, Any]]:
    """As `read`, of a file of `_write_rows`."""
    with _intact(path):
        found = Windows(path)
        with path.open("rb") as file:
            header, hashed = _hash_rows(file)
        return found, _metadata(header, hashed)


def _write_rows(
    path: Path, shapes: Mapping[str, tuple[int, ...]], pieces: Iterator[Mapping[str, Tensor]], header: dict[str, str]
) -> None:
    """Safetensors' format (github.com/safetensors/safetensors, *Format*), whose own writer wants all in memory."""
    blank, places, entries, end = "0" * 64, {}, {}, 0
    for name, shape in shapes.items():
        places[name], end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [places[name], end]}
    text = json.dumps({"__metadata__": header | {"checksum": blank}, **entries}).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    with path.open("wb+") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            for name, rows in piece.items():
                file.seek(8 + len(text) + places[name])
                places[name] += file.write(rows.contiguous().reshape(-1).view(torch.uint8).numpy())
        file.truncate(8 + len(text) + end)
        checksum = _checksum(_hash_rows(file)[1], header)
        file.seek(8 + text.index(blank.encode()))
        file.write(checksum.encode())


def _hash_rows(file: BinaryIO) -> tuple[dict[str, str], str]:
    """The header's texts, and `weight_hash` of the tensors, without mapping them: hashed pages would be resident."""
    file.seek(0)
    start = 8 + int.from_bytes(file.read(8), "little")
    entries, digest = json.loads(file.read(start - 8)), hashlib.sha256()
    header = entries.pop("__metadata__", {})
    for name, entry in sorted(entries.items()):
        digest.update(f"{name} {torch.float32} {tuple(entry['shape'])}\n".encode())
        begin, end = (start + offset for offset in entry["data_offsets"])
        file.seek(begin)
        for at in range(begin, end, _CHUNK):
            digest.update(file.read(min(_CHUNK, end - at)))
    return header, digest.hexdigest()


def _keyed(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    inputs = json.loads(json.dumps({"format": _FORMAT, **inputs}, sort_keys=True))
    return inputs, hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _entry(path: Path, inputs: Any, size: int, get: Callable, put: Callable) -> Any:
    """What ``get`` finds in an entry; where it is missing or damaged, what ``put`` leaves there."""
    with locked(path):
        if path.exists():
            try:
                tensors, metadata = get(path)
                if metadata == {"inputs": inputs}:
                    return tensors
                reason = "it is another entry"
            except ValueError as error:
                reason = error.__cause__
            warnings.warn(f"the cache entry {path} is damaged ({reason}): it is made again.", stacklevel=4)
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(
                f"the cache {path.parent} needs {size / 2**30:.1f} GiB for this entry and has {free / 2**30:.1f} GiB: "
                "make room, or choose another folder by HC_LAFTER_CACHE."
            )
        return put(path, inputs)


def weight_hash(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over the names, dtypes, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():  # an empty one from NumPy has a stride of 0, and is no bytes anyhow
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(tensors: str, header: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{tensors}\n{json.dumps(header, sort_keys=True)}".encode()).hexdigest()


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Alone with a file among processes, for as long as the context lasts.

    What a process that was killed had half written of the file is deleted. The lock's own file stays behind; whoever
    holds the lock may delete it, too: those who wait for it notice.

    Args:
        timeout: seconds to wait for another process; negative: for as long as it takes.

    Raises:
        filelock.Timeout: another process was alone with it for all that time.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    lock = FileLock(path.with_suffix(".lock"), timeout=timeout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:  # the latter: a network file system without locks
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"the cache {path.parent} cannot be written ({reason}): give write access, or another folder by "
            "HC_LAFTER_CACHE."
        ) from error
    try:
        for left in path.parent.glob(f".{path.stem}[-.]*"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
