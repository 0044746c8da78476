"""Files are written whole or not at all, and known by their hashes; what they were made with. Belongs to no room."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import secrets
import subprocess
import tokenize
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

NOT_CODE = {"__pycache__", ".ipynb_checkpoints"}
# What computes, and the weights and words of the embedded CLIP.
ROOMS = ("clip", "systems", "tuning", "data", "analysis")
ROOMS += ("embedded/model.safetensors", "embedded/config.json", "embedded/vocabulary.txt")
# What decides no run's numbers: doors, words, files, the registry (a run needs its own system), intervals.
NO_NUMBERS = ("", "commands", "files", "refusals", "systems", "systems.trained", "analysis.statistics")


@cache
def own_code() -> str:
    """`code_hash` of this package, as it was when first asked for in this process."""
    return code_hash(Path(__file__).parent)


def code_hash(package: Path, parts: Iterable[str] = ROOMS) -> str:
    """Hex sha256 over the files of a package that its numbers follow from: their names, and what they say.

    Of Python that is the code alone: a better docstring or comment makes no result stale.

    Args:
        package: the folder ``hc_lafter``.
        parts: folders and files in it. By default what computes: neither the report nor a card's words change a number.
    """
    digest, folder = hashlib.sha256(), Path(package)
    inside = [p for part in parts for p in (folder / part, *(folder / part).rglob("*"))]
    files = {p for p in inside if p.is_file() and not NOT_CODE & set(p.relative_to(folder).parts)}
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        content = bare_code(path.read_text(encoding="utf-8")).encode() if path.suffix == ".py" else path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


@cache
def code_behind(*modules: str) -> str:
    """Hex sha256 of what some modules of this package compute with: their code, and that of all they import.

    The package's data files of `ROOMS` count as well. What is in `NO_NUMBERS` does not, and the readers of data are not
    walked through, since data are known by their content (`Dataset.fingerprint`). So another system, another reader, an
    option of a command or a better docstring makes no result stale.

    Args:
        modules: full names, such as ``hc_lafter.tuning.computing``.
    """
    package = Path(__file__).parent
    found, ahead = {}, list(modules)
    while ahead:
        name = ahead.pop()
        if name.split(".")[0] != package.name:
            continue  # of another package
        path = package.parent / Path(*name.split("."))
        path = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
        if path is None or name in found or name.removeprefix("hc_lafter").lstrip(".") in NO_NUMBERS:
            continue  # a name that is imported from a module, or one of those
        source = path.read_text(encoding="utf-8")
        found[name] = bare_code(source)
        if name == "hc_lafter.data":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                ahead += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = ".".join([*name.split(".")[: -node.level], node.module or ""]) if node.level else node.module
                ahead += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode())
    for path in package_data(package):
        digest.update(f"{path.relative_to(package).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def package_data(package: Path) -> list[Path]:
    """The files of `ROOMS` that are no code, and that numbers follow from: weights, words, colours."""
    inside = {p for part in ROOMS for p in (package / part, *(package / part).rglob("*"))}
    return sorted(p for p in inside if p.is_file() and p.suffix not in (".py", ".pyc"))


@lru_cache(256)  # every run's key asks for its system's module
def bare_code(source: str) -> str:
    """Python without docstrings, comments and blank lines; the same text in every version of Python."""
    lines = source.splitlines()
    spans = [
        (t.start[0], t.start[1], t.end[0], t.end[1])
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            # ast counts columns in bytes; a docstring begins and ends its lines, so that whole lines go
            spans.append((first.lineno, 0, first.end_lineno, None))
    for first, left, last, right in spans:
        kept = lines[first - 1][:left], "" if right is None else lines[last - 1][right:]
        lines[first - 1 : last] = ["".join(kept), *[""] * (last - first)]
    return "\n".join(line.rstrip() for line in lines if line.strip())


COMPUTING = ("accelerate", "numpy", "open_clip_torch", "opencv-python-headless", "pillow", "scikit-learn", "scipy")
COMPUTING += ("torch", "torchvision")


@cache
def computing_versions() -> dict[str, str]:
    """The versions of the libraries that numbers come from: a plotting library makes no result stale."""
    return {name: metadata.version(name) for name in COMPUTING}


@cache
def versions() -> dict[str, str]:
    """Python's version, ours, and that of every library which we ask for by name."""
    asked = (re.match(r"[\w.-]+", line)[0] for line in metadata.requires("hc-lafter") or () if "extra ==" not in line)
    found = {"python": platform.python_version()}
    for name in ("hc-lafter", *sorted(asked)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # asked for on another platform only, or uninstalled since
            found[name] = "absent"
    return found


def processor() -> str:
    """What the processor calls itself."""
    if platform.system() == "Linux":
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1]
    if platform.system() == "Darwin":
        run = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if run.stdout.strip():
            return run.stdout.strip()
    return platform.processor() or platform.machine()


def file_hash(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tidy_up(folder: Path) -> None:
    """Delete what processes that were killed in the middle of `write_whole` have left in a folder and below it.

    Whoever calls it is the only one to write there.
    """
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+-[0-9a-f]{8}(\.\w+)?", path.name):
            path.unlink(missing_ok=True)


def check_place(folder: Path) -> None:
    """Find out now, and not after hours, whether results have a place.

    Raises:
        OSError: nothing can be written into the folder; one sentence.
    """
    try:
        write_whole(folder / ".can-be-written", b"").unlink()
    except OSError as error:
        why = getattr(error.__cause__, "strerror", None) or "no access"
        raise OSError(
            f"{folder} cannot be written ({why}): make room, give write access, or choose another folder."
        ) from None


def write_whole(path: str | Path, content: bytes | str | Callable[[Path], object]) -> Path:
    """Write a file so that others see the old one or the whole new one, never a part.

    Args:
        path: the file; its folder is made if need be.
        content: bytes; or text, written as UTF-8 with its line ends left alone; or a function that writes the file
            at the path that it is given (a temporary name with the same suffix, in the same folder).

    Raises:
        OSError: the file cannot be written; one sentence with the reason.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device or a pipe, which no file may replace
        raise OSError(f"{path} is not a file: give the name of one.")
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb+") as file:  # on the disk before it gets its name, or a power cut leaves an empty file
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} cannot be written ({reason}): make room or give write access to its folder.") from error
    finally:
        with contextlib.suppress(OSError):  # no folder, or one that cannot be written, which was said
            temporary.unlink(missing_ok=True)
    return path
