"""What the fit loop reads: tensors as a data set, whole batches, their order, and the random numbers of each step.

Everything is a function of numbers that the caller gives: there is no generator whose state would have to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from hc_lafter.store import weight_hash

_ORDER, _NOISE = 1, 2  # what a stream of random numbers is for
_HASHED = 4096  # rows that are hashed together


class Picked:
    """Some rows and columns of a tensor, read when they are asked for: like [n, len(columns), ...], and no copy.

    Args:
        of: [B, L, ...]. rows: [n] indices. columns: indices.
    """

    def __init__(self, of: Tensor, rows: Tensor, columns: Sequence[int]):
        self.of, self.rows, self.columns = of, rows, torch.tensor(columns)
        first = int(columns[0])
        if list(columns) == list(range(first, first + len(columns))):  # neighbours: a row is copied in one piece
            self.of, self.columns = of[:, first : first + len(columns)], None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        rows = self.rows[index]
        return self.of[rows] if self.columns is None else self.of[rows[..., None], self.columns]


class Rows(Dataset):
    """Tensors of one length as a data set of dicts: ``Rows(taps=[B, L, D], label=[B])``. A batch is one indexing."""

    def __init__(self, **tensors: Tensor | Picked):
        self.tensors = tensors

    def __len__(self) -> int:
        (length,) = {len(tensor) for tensor in self.tensors.values()}
        return length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self[torch.as_tensor(indices)]

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the tensors."""
        parts = range(0, len(self), _HASHED)  # what is picked need not fit the memory
        hashes = [weight_hash({name: t[at : at + _HASHED] for name, t in self.tensors.items()}) for at in parts]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


class Batches(Dataset):
    """A data set by whole batches, asked for by (epoch, indices): a worker that reads ahead knows into which epoch."""

    def __init__(self, data: Dataset):
        self.data, self.epoch = data, None

    def __getitem__(self, drawn: tuple[int, list[int]]) -> Mapping[str, Any]:
        epoch, indices = drawn
        if epoch != self.epoch and hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        self.epoch = epoch
        whole = hasattr(self.data, "__getitems__")
        rows = self.data.__getitems__(indices) if whole else [self.data[index] for index in indices]
        return rows if isinstance(rows, Mapping) else default_collate(rows)


def read(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives. A worker's ValueError is a sentence again: the loader makes a page of traceback of it."""
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).strip().rpartition("\nValueError: ")[2]) from error


def order(
    size: int,
    batch_size: int,
    epochs: int,
    *,
    seed: int,
    start: int = 0,
    parts: Sequence[int] = (0,),
    of: int = 1,
) -> Iterator[tuple[int, list[int]]]:
    """(epoch from 1, indices) of every part of every batch that falls to this process, from step ``start`` on.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches, the last of which may be smaller. A batch
    is dealt out ``of`` ways, and a part is every ``of``-th of its examples; where none is left, the first, which must
    count for nothing.

    Args:
        start: steps that were taken, from 0.
        parts: those of this process, from 0, in the order in which it takes them. of: parts of a batch.
    """
    first, done = divmod(start, -(-size // batch_size))
    for epoch in range(first + 1, epochs + 1):
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(_number(seed, _ORDER, epoch)))
        for batch in drawn.split(batch_size)[done:]:
            for part in parts:
                yield epoch, batch[part::of].tolist() or batch[:1].tolist()
        done = 0


def seed_step(device: torch.device, seed: int, step: int, part: int = 0) -> None:
    """Torch's global generators, the CPU's and the device's, for one part of one step."""
    number = _number(seed, _NOISE, step, part)
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes 0.1 ms, for devices that are not in use
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)


def _number(*of: int) -> int:
    return int(np.random.SeedSequence(of).generate_state(1, np.uint64)[0])
