"""One file per training run: tensors, the run's own definition, and how far it is.

The definition is everything that decides the run; a file with another one is refused, with what differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hc_lafter import store


def save(path: Path, tensors: Mapping[str, Tensor], run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path, tensors: as `store.write` takes them.
        run: what defines the run, as JSON takes it.
        state: how far the run is, as JSON takes it (NaN and infinity too).

    Raises:
        OSError: the file cannot be written; one sentence with the reason.
    """
    store.write(path, tensors, run=run, state=state)


def load(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors (on the CPU) and the state of a checkpoint of this very run; None where there is no file.

    Raises:
        ValueError: the file is damaged, is no checkpoint, or belongs to another run (named: what differs).
    """
    if not Path(path).exists():
        return None
    tensors, metadata = store.read(path)
    theirs, ours = metadata.get("run", {}), json.loads(json.dumps(run))  # tuples become lists, as they did in the file
    different = [_difference(key, theirs.get(key), ours.get(key)) for key in sorted({*theirs, *ours})]
    if any(different):
        raise ValueError(
            f"{path} is the checkpoint of another run ({'; '.join(filter(None, different))}): delete it, or give "
            "another path."
        )
    return tensors, metadata["state"]


def _difference(key: str, theirs: Any, ours: Any) -> str | None:
    if theirs == ours:
        return None
    name, plain = key.replace("_", " "), (int, float, str, type(None))
    if isinstance(theirs, plain) and isinstance(ours, plain) and max(len(str(theirs)), len(str(ours))) < 40:
        return f"{name} {theirs} there, {ours} here"
    return f"other {name}"
