"""One safetensors file per training run: tensors, the run's own definition, and its state as JSON.

The definition is everything that decides the run; a file with another one is refused, with what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hc_lafter.clip.weights import weight_hash
from hc_lafter.files import write_whole

_FORMAT = "hc_lafter.checkpoint"


def save(path: Path, tensors: Mapping[str, Tensor], run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        tensors: name -> tensor; copied to the CPU.
        run: what defines the run, as JSON takes it.
        state: how far the run is, as JSON takes it (NaN and infinity too).

    Raises:
        OSError: the file cannot be written; one sentence with the reason.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT, "run": json.dumps(run, sort_keys=True), "state": json.dumps(state)}
    metadata["checksum"] = _checksum(tensors, metadata)

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # safetensors wraps a full disk in an error of its own
            raise OSError(str(error)) from error

    write_whole(path, write)


def load(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors (on the CPU) and the state of a checkpoint of this very run; None where there is no file.

    Raises:
        ValueError: the file is damaged, is no checkpoint, or belongs to another run (named: what differs).
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # copies: on Windows a file that is mapped into memory cannot be replaced
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata.get("format") != _FORMAT:
            raise ValueError("it was not written here")
        if metadata.get("checksum") != _checksum(tensors, metadata):
            raise ValueError("its checksum does not match")
        theirs, state = json.loads(metadata["run"]), json.loads(metadata["state"])
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({error}): delete it, and training starts anew."
        ) from error
    ours = json.loads(json.dumps(run))  # tuples become lists, as they did in the file
    different = [_difference(key, theirs.get(key), ours.get(key)) for key in sorted({*theirs, *ours})]
    if any(different):
        raise ValueError(
            f"{path} is the checkpoint of another run ({'; '.join(filter(None, different))}): delete it, or give "
            "another path."
        )
    return tensors, state


def _difference(key: str, there: Any, here: Any) -> str | None:
    if there == here:
        return None
    name, plain = key.replace("_", " "), (int, float, str, type(None))
    if isinstance(there, plain) and isinstance(here, plain) and max(len(str(there)), len(str(here))) < 40:
        return f"{name} {there} there, {here} here"
    return f"other {name}"


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    text = f"{weight_hash(tensors)}\n{metadata.get('run')}\n{metadata.get('state')}"
    return hashlib.sha256(text.encode()).hexdigest()
