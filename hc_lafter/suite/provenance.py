"""Where a notebook's numbers come from: inputs, code, libraries, machine. It names no folder, user or host."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import psutil
import yaml

from hc_lafter.files import file_hash, own_code, processor, versions, write_whole
from hc_lafter.suite.paths import Places, find_root
from hc_lafter.suite.profiles import load_profile

if TYPE_CHECKING:
    import torch

RULES = Path(__file__).with_name("claims.yaml")
TEXTS = (".json", ".csv", ".md", ".ipynb")


def describe(root: Path, device: torch.device, clip: Any = None, data: Any = None, **more: Any) -> dict[str, Any]:
    """The entry of one notebook.

    Args:
        root: the repository, whose commit counts.
        clip: a `hc_lafter.clip.load.Clip`, or a hash.
        data: a `hc_lafter.data.record.Dataset`, or a hash.
        more: the profile, the precision and further inputs by name; absolute paths lose all but their last part.
    """
    import torch  # here: it takes seconds that a command's --help should not wait for

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

    With it go ``files``, the hash of each file that it has written, and ``rules``, those by which it will be judged.

    Raises:
        ValueError: the file there is damaged.
        OSError: the folder cannot be written.
    """
    folder = places.provenance.parent
    places.state.mkdir(parents=True, exist_ok=True)
    entry = {**entry, "files": {p.name: text_hash(p) for p in _written(places.results)}, "rules": rules()}
    with filelock.FileLock(places.state / f"provenance-{places.profile}.lock"):  # two notebooks may end together
        text = {"notebooks": {**read(folder), places.notebook: entry}}
        write_whole(places.provenance, json.dumps(text, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Notebook -> its entry, of ``results/<profile>``; none where nothing ran.

    Raises:
        ValueError: the file there is damaged.
    """
    path = folder / "provenance.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["notebooks"]) if path.is_file() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run the notebooks again.") from None


def mixed(made: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Notebooks of one folder that ran with different parameters, code, weights or data, a sentence each pair."""
    first: dict[tuple, tuple[str, Any]] = {}
    for notebook, entry in made.items():
        if entry.get("clip") is None and entry.get("data") is None:  # it measured nothing
            continue
        said = {("parameters",): entry["profile"], ("code",): entry.get("code")}
        for kind, of, digest in (("weights", "clip", "weight_hash"), ("data", "data", "fingerprint")):
            if isinstance(entry.get(of), Mapping):
                said[kind, entry[of]["name"]] = entry[of].get(digest)
        for key, value in said.items():
            other, before = first.setdefault(key, (notebook, value))
            if before != value:
                what = key[0]
                if what == "parameters":
                    names = {name for name in {**before, **value} if before.get(name) != value.get(name)}
                    what += f" ({', '.join(f'{n} {value.get(n)} and {before.get(n)}' for n in sorted(names))})"
                yield f"{notebook} and {other} ran with different {what}"


def changed(folder: Path) -> list[str]:
    """What is no longer as the notebooks of ``results/<profile>`` left or found it, a line each that names the file."""
    made, lines = read(folder), []
    lines += [f"provenance.json: {line}" for line in mixed(made)]
    for place in sorted({*made, *(p.parent.name for p in folder.glob("*/metrics.json"))}):
        known = made.get(place, {}).get("files", {})
        there = {path.name: path for path in _written(folder / place)}
        lines += [f"{place}/{name} is missing" for name in known if name not in there]
        lines += [
            f"{place}/{name} is not what its run wrote" for name, p in there.items() if known.get(name) != text_hash(p)
        ]
    root = find_root()
    for name, entry in made.items():
        gone = {file: (root / file).is_file() for file in entry.get("reads", {})}
        lines += [f"{file}, which {name} read, is missing" for file, there in gone.items() if not there]
        other = (f for f, there in gone.items() if there and text_hash(root / f) != entry["reads"][f])
        lines += [f"{file} is not what {name} read" for file in other]
    measured = {name: entry for name, entry in made.items() if isinstance(entry.get("clip"), Mapping)}
    if "+" not in folder.name:  # else the values are this folder's own
        own = json.loads(load_profile(folder.name).model_dump_json())
        for name, entry in made.items():
            other = [key for key, value in entry["profile"].items() if placeless(own.get(key)) != value]
            lines += [f"profiles.toml: {k} is {own.get(k)} and {name} ran with {entry['profile'][k]}" for k in other]
    if any(entry["clip"]["name"] == "embedded" for entry in measured.values()):
        from hc_lafter.clip.load import load_clip  # here, since it takes a second

        try:
            clip = load_clip("embedded")
            now = [clip.weight_hash, clip.transform_id, clip.activation]
        except (ValueError, OSError):
            now = []
        of = {name: entry["clip"] for name, entry in measured.items() if entry["clip"]["name"] == "embedded"}
        ran = sorted(n for n, e in of.items() if [e[k] for k in ("weight_hash", "transform_id", "activation")] != now)
        lines += [f"embedded/model.safetensors is not what {', '.join(ran)} ran with"] if ran else []
    return lines


def rules(path: Path = RULES) -> dict[str, str]:
    """Claim -> hash of what judges it: domain, requirements, rule. A better wording changes none."""
    claims = yaml.safe_load(path.read_text(encoding="utf-8"))["claims"]
    judging = {c["id"]: json.dumps([c.get("domain"), c.get("requires"), c["rule"]], sort_keys=True) for c in claims}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in judging.items()}


def text_hash(path: Path) -> str:
    """Hex sha256 of a file, of a text with its line ends as git keeps them, wherever it was checked out."""
    if path.suffix not in (*TEXTS, ".yaml"):
        return file_hash(path)
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _written(folder: Path) -> list[Path]:
    """What a notebook writes, its executed copy included."""
    return sorted(p for p in folder.glob("*") if p.is_file() and p.suffix in (*TEXTS, ".parquet"))


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
