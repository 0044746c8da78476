"""Where a notebook's numbers come from: inputs, code, libraries, machine. It names no folder, user or host."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import psutil
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from hc_lafter.files import file_hash, own_code, package_data, processor, versions, write_whole
from hc_lafter.suite.paths import REPORT, Places, find_root
from hc_lafter.suite.profiles import load_profile

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parents[1]
RULES = PACKAGE / "suite" / "claims.yaml"
TEXTS = (".json", ".csv", ".md", ".ipynb", ".html", ".svg")
FIGURES, PAGE = "figures/", "report.html"  # how an entry names a notebook's figures, and the page of notebook 09


class _Known(BaseModel):
    """A CLIP or a data set, as an entry names it."""

    name: str


class _Entry(BaseModel):
    """What every reader of an entry relies on."""

    profile: dict[str, Any]
    clip: _Known | str | None = None
    data: _Known | str | None = None
    files: dict[str, str] = {}
    reads: dict[str, str] = {}
    rules: dict[str, str] = {}


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
    reads = {**hashes(package_data(PACKAGE), root), **more.get("reads", {})}
    return {**placeless(inputs), "reads": reads, "device": str(device), **made_with}


def write(places: Places, entry: Mapping[str, Any]) -> None:
    """Put a notebook's entry into ``results/<profile>/provenance.json``, beside the others'.

    With it go ``files``, the hash of each file that it has written, and ``rules``, those by which it will be judged.

    Raises:
        ValueError: the file there is damaged.
        OSError: the folder cannot be written.
    """
    files = {name: text_hash(path) for name, path in _written(places).items()}
    _put(places, {**entry, "files": files, "rules": rules()})


def renew(places: Places, path: Path) -> None:
    """Take a file that was made of a notebook after its last cell into its entry: the executed copy, the report."""
    if entry := read(places.provenance.parent).get(places.notebook):
        _put(places, {**entry, "files": {**entry.get("files", {}), path.name: text_hash(path)}})


def _put(places: Places, entry: Mapping[str, Any]) -> None:
    folder = places.provenance.parent
    places.state.mkdir(parents=True, exist_ok=True)
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
        entries = json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.is_file() else {}
        TypeAdapter(dict[str, _Entry]).validate_python(entries, strict=True)
        return entries
    except (ValueError, KeyError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else error
        raise ValueError(f"{path} is damaged ({why}): delete it and run the notebooks again.") from None


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
    root = find_root()
    for place in sorted({*made, *(p.parent.name for p in folder.glob("*/metrics.json"))}):
        known = made.get(place, {}).get("files", {})
        there = _written(Places(root, folder.parents[1], folder.name, place))
        for name in dict.fromkeys([*known, *there]):
            if name not in there and name.startswith(FIGURES):
                continue  # not every format of a figure is committed
            inside = f"figures/{folder.name}/{place}" if name.startswith(FIGURES) else place
            shown = name if name == PAGE else f"{inside}/{name.removeprefix(FIGURES)}"
            if name not in there:
                lines.append(f"{shown} is missing")
            elif known.get(name) != text_hash(there[name]):
                lines.append(f"{shown} is not what its run wrote")
    readers: dict[tuple[str, str], list[str]] = {}
    for name, entry in made.items():
        for file_then in entry.get("reads", {}).items():
            readers.setdefault(file_then, []).append(name)
    for (file, digest), names in readers.items():
        if not (root / file).is_file():
            lines.append(f"{file}, which {', '.join(names)} read, is missing")
        elif text_hash(root / file) != digest:
            lines.append(f"{file} is not what {', '.join(names)} read")
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
        ran = sorted(
            n for n, e in of.items() if [e.get(k) for k in ("weight_hash", "transform_id", "activation")] != now
        )
        lines += [f"embedded/model.safetensors is not what {', '.join(ran)} ran with"] if ran else []
    return lines


def outdated(folder: Path) -> list[str]:
    """Notebooks whose code is no longer what ``results/<profile>`` was made by, a line each: their lines, whatever
    their cells, comments and the parameters that they were given.

    Raises:
        ValueError: a notebook is damaged.
    """
    lines, root = [], find_root()
    for executed in sorted(folder.glob("*/*.ipynb")):
        notebook = root / "notebooks" / executed.name
        if executed.stem == executed.parent.name and notebook.is_file() and _code(executed) != _code(notebook):
            lines.append(f"notebooks/{notebook.name} is not the code that {executed.stem} ran: run it again")
    return lines


def _code(notebook: Path) -> list[str]:
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook} is no notebook ({error}): check it out again.") from None
    own = [c for c in cells if c["cell_type"] == "code" and "injected-parameters" not in c["metadata"].get("tags", ())]
    lines = "\n".join("".join(cell["source"]) for cell in own).splitlines()
    return [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


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


def hashes(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """Place in the repository -> `text_hash` of its files, the package's own included, wherever that is installed."""
    homes = {path: root if path.is_relative_to(root) else PACKAGE.parent for path in paths}
    return {path.relative_to(home).as_posix(): text_hash(path) for path, home in homes.items()}


def _written(places: Places) -> dict[str, Path]:
    """Name -> file of what a notebook writes: numbers, executed copy, figures; of notebook 09 the report, too."""
    inside = (p for p in sorted(places.results.glob("*")) if p.is_file() and p != places.failed)
    found = {p.name: p for p in inside if p.suffix in (*TEXTS, ".parquet")}
    found |= {f"{FIGURES}{p.name}": p for p in sorted(places.figures.glob("*")) if p.is_file()}
    page = places.provenance.with_name(PAGE)
    return found | ({PAGE: page} if places.notebook == REPORT and page.is_file() else {})


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
