"""What the fit loop reads: tensors as a data set, whole batches, their order, and the random numbers of each step.

Everything here is a function of numbers that the caller gives: there is no generator whose state would have to be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from hc_lafter.clip.weights import weight_hash

_ORDER, _NOISE = 1, 2  # what a stream of random numbers is for


class Rows(Dataset):
    """Tensors of one length as a data set of dicts: ``Rows(taps=[B, L, D], label=[B])``. A batch is one indexing.

    Raises:
        ValueError: no tensors, or of several lengths.
    """

    def __init__(self, **tensors: Tensor):
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"rows need tensors of one length, but theirs are {lengths or 'missing'}.")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        at = torch.as_tensor(indices)
        return {name: tensor[at] for name, tensor in self.tensors.items()}

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the tensors."""
        return weight_hash(self.tensors)


class Batches(Dataset):
    """A data set by whole batches, each told its epoch: a worker that reads ahead is never in the wrong one.

    A batch is asked for by (epoch, indices) and is a dict; or ``{}`` for no indices; or, from a worker process, the
    sentence of a ValueError, which on its way out would turn into a page of traceback.
    """

    def __init__(self, data: Dataset):
        self.data, self.epoch = data, None

    def __getitems__(self, drawn: tuple[int, list[int]]) -> dict[str, Any] | str:
        epoch, indices = drawn
        if epoch != self.epoch and hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        self.epoch = epoch
        if not indices:
            return {}
        try:
            whole = hasattr(self.data, "__getitems__")
            rows = self.data.__getitems__(indices) if whole else [self.data[index] for index in indices]
        except ValueError as error:
            if get_worker_info() is None:
                raise
            return str(error)
        return rows if isinstance(rows, Mapping) else default_collate(rows)


def as_is(batch: Any) -> Any:
    """The collation of what is a batch already (a worker process needs it by name)."""
    return batch


def order(
    size: int, batch_size: int, epochs: int, *, seed: int, start: int = 0, process: int = 0, processes: int = 1
) -> Iterator[tuple[int, list[int]]]:
    """(epoch from 1, indices of this process) of every batch, from step ``start`` on, counted from 0.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches, the last of which may be smaller; a process
    takes every ``processes``-th example of a batch.
    """
    per_epoch = -(-size // batch_size)
    first, done = divmod(start, per_epoch)
    for epoch in range(first + 1, epochs + 1):
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(_number(seed, _ORDER, epoch)))
        for batch in drawn.split(batch_size)[done:]:
            yield epoch, batch[process::processes].tolist()
        done = 0


def seed_step(device: torch.device, seed: int, step: int, process: int = 0) -> None:
    """Torch's global generators, the CPU's and the device's, for one step of one process."""
    number = _number(seed, _NOISE, step, process)
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes 0.1 ms, for devices that are not in use
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)


def _number(*of: int) -> int:
    return int(np.random.SeedSequence(of).generate_state(1, np.uint64)[0])
