"""Where a notebook's numbers come from: inputs, code, libraries, machine. It names no folder, user or host."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import psutil
import torch

from hc_lafter.files import own_code, processor, versions, write_whole
from hc_lafter.suite.paths import Places


def describe(root: Path, device: torch.device, clip: Any = None, data: Any = None, **more: Any) -> dict[str, Any]:
    """The entry of one notebook.

    Args:
        root: the repository, whose commit counts.
        clip: a `hc_lafter.clip.load.Clip`, or a hash.
        data: a `hc_lafter.data.record.Dataset`, or a hash.
        more: the profile, the precision and further inputs by name; absolute paths lose all but their last part.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device.type == "cuda" else []
    hardware = {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpus or None,
    }
    inputs = {
        "clip": _named(clip, ("name", "weight_hash", "transform_id", "activation", "parameters")),
        "data": _named(data, ("name", "fingerprint")),
        **more,
    }
    made_with = {"code": own_code(), "git": commit(root), "versions": versions(), "hardware": hardware}
    return {**placeless(inputs), "device": str(device), **made_with}


def write(places: Places, entry: Mapping[str, Any]) -> None:
    """Put a notebook's entry into ``results/<profile>/provenance.json``, beside the others'.

    Raises:
        ValueError: the file there is damaged.
        OSError: the folder cannot be written.
    """
    path = places.provenance
    places.state.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(places.state / f"provenance-{places.profile}.lock"):  # two notebooks may end together
        try:
            others = json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.exists() else {}
            notebooks = {**others, places.notebook: entry}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run the notebooks again.") from None
        write_whole(path, json.dumps({"notebooks": notebooks}, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _named(thing: Any, names: tuple[str, ...]) -> Any:
    return thing if thing is None or isinstance(thing, str) else {name: getattr(thing, name) for name in names}


def placeless(value: Any) -> Any:
    """A value without the folders of this machine: only the last part of an absolute path stays."""
    if isinstance(value, Mapping):
        return {key: placeless(item) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    # A path may come behind a name: <arch>@<path>, emoset:<path>. One letter before a colon is a drive.
    path = r"(?:~|\.\.[\\/]|[A-Za-z]:[\\/]|[\\/]).*?([^\\/]*)[\\/]*$"
    return re.sub(rf"(^|@|(?<=\w\w):){path}", r"\1\2", value, count=1, flags=re.DOTALL)


def commit(root: Path) -> dict[str, Any] | None:
    """Commit, and whether anything but results and figures differs from it; None without git or a repository."""
    words = ["status", "--porcelain=v2", "--branch", "--", ".", ":(exclude)results", ":(exclude)figures"]
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    first, *lines = run.stdout.splitlines()
    return {
        "commit": first.removeprefix("# branch.oid "),
        "dirty": any(not line.startswith("#") for line in lines),
    }
