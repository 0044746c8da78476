"""What long runs said, as files small enough to be committed, and back into the store of another machine.

One Parquet file per system in ``results/<profile>/runs``, a row per run: its key, what it is, how it was trained, and its
logits in half precision. The tuned tensors stay out. A run whose key is the one that is asked for is not computed again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hc_lafter import store
from hc_lafter.files import write_whole
from hc_lafter.tuning.runs import Result, Run

FIELDS = ("system", "regime", "n_train", "seed", "batch_size", "view", "classifier", "target", "lam")
_LOGITS = ("val", "test", "train", "val before", "test before")


def write(found: Iterable[Result], folder: Path) -> list[Path]:
    """Write results, one file per system.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = [_row(result) for result in found]
    paths = []
    for system, table in pd.DataFrame(rows).groupby("system"):
        path = folder / f"{re.sub('[^a-z0-9]+', '-', system.lower()).strip('-')}.parquet"
        order = table.sort_values(["regime", "n_train", "seed", "key"])
        paths.append(
            write_whole(path, lambda temporary, t=order: t.to_parquet(temporary, index=False, compression="zstd"))
        )
    return paths


def _row(result: Result) -> dict[str, object]:
    run, history = result.run, vars(result.history)
    row = {name: getattr(run, name) for name in FIELDS} | {"key": run.key, "run": repr(run)}
    row |= {"rate": result.rate, "steps": result.steps, "converged": result.converged, "seconds": result.seconds}
    row |= {"history": json.dumps(history)}
    for name, values in result.arrays.items():
        row[name] = values.astype(np.float16 if name in _LOGITS else values.dtype).ravel()
        row[f"{name}, shape"] = list(values.shape)
    return row


def read(folder: Path) -> pd.DataFrame:
    """Every committed run, a row each; empty where none is.

    Raises:
        ValueError: a file is damaged.
    """
    tables = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            tables.append(pd.read_parquet(path))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): check it out again.") from error
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def adopt(runs: Sequence[Run], folder: Path) -> int:
    """Put the committed results of runs into the store where it lacks them; the number of those that were.

    Raises:
        ValueError: a committed file is damaged.
        OSError: the store cannot be written.
    """
    lacking = {run.key: run for run in runs if run.setting.cache is not None}
    places = {key: run.setting.cache / "runs" / f"{key}.safetensors" for key, run in lacking.items()}
    places = {key: path for key, path in places.items() if not path.is_file()}
    table = read(folder) if places else pd.DataFrame()
    rows = table[table["key"].isin(list(places))] if len(table) else table
    for row in rows.to_dict("records"):
        arrays = {
            f"array.{name.removesuffix(', shape')}": torch.from_numpy(
                np.asarray(row[name.removesuffix(", shape")]).reshape([int(n) for n in shape])
            )
            for name, shape in row.items()
            if name.endswith(", shape") and isinstance(shape, np.ndarray)
        }
        more = {"rate": None if pd.isna(row["rate"]) else row["rate"], "converged": row["converged"]}
        history = json.loads(row["history"])
        store.write(places[row["key"]], arrays, run=row["run"], history=history, seconds=row["seconds"], **more)
    return len(rows)
