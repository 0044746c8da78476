"""Where everything is, which code it is, and the one way to write a file: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

NOTEBOOK = re.compile(r"\d\d-[a-z0-9]+(-[a-z0-9]+)*")
NOT_CODE = {"__pycache__", ".ipynb_checkpoints"}


def find_root() -> Path:
    """The repository's folder.

    It is the environment variable ``HC_LAFTER_ROOT`` if that is set, else the first folder upwards from the working
    folder that holds ``pyproject.toml`` and ``hc_lafter``, else the checkout that this package was imported from.

    Raises:
        FileNotFoundError: none of the three is there.
    """
    named = os.environ.get("HC_LAFTER_ROOT")
    if named:
        if not Path(named).is_dir():
            raise FileNotFoundError(f"HC_LAFTER_ROOT={named} is no folder: set it to the repository's, or unset it.")
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "pyproject.toml").is_file() and (folder / "hc_lafter").is_dir():
            return folder
    raise FileNotFoundError(
        f"{here} lies outside the repository: start from inside it, or set HC_LAFTER_ROOT to the repository's folder."
    )


@dataclass(frozen=True)
class Places:
    """Where one notebook under one profile reads and writes.

    Attributes:
        root: the repository: notebooks and package code.
        output: what holds ``results`` and ``figures``: ``HC_LAFTER_OUTPUT``, by default ``root``.
        profile: the profile's name.
        notebook: the notebook's name without suffix, e.g. ``01-feature-tapping``.
    """

    root: Path
    output: Path
    profile: str
    notebook: str

    @classmethod
    def find(cls, notebook: str, profile: str, root: str | Path | None = None) -> Places:
        """The places of a notebook, with root and output found as the attributes say.

        Raises:
            ValueError: the notebook's name is not two digits and lowercase words joined by hyphens.
            FileNotFoundError: there is no repository, see `find_root`.
        """
        if not NOTEBOOK.fullmatch(notebook):
            raise ValueError(
                f"notebook name {notebook!r} is not usable: give digits and lowercase words, e.g. '01-feature-tapping'."
            )
        home = find_root() if root is None else Path(root).resolve()
        output = os.environ.get("HC_LAFTER_OUTPUT")
        return cls(home, Path(output).resolve() if output else home, profile, notebook)

    @property
    def results(self) -> Path:
        return self.output / "results" / self.profile / self.notebook

    @property
    def figures(self) -> Path:
        return self.output / "figures" / self.profile / self.notebook

    @property
    def metrics(self) -> Path:
        return self.results / "metrics.json"

    @property
    def executed(self) -> Path:
        """The executed notebook, beside its metrics."""
        return self.results / f"{self.notebook}.ipynb"

    @property
    def provenance(self) -> Path:
        return self.output / "results" / self.profile / "provenance.json"

    @property
    def state(self) -> Path:
        """Working state that git does not see: stamps, locks, half-run notebooks."""
        return self.output / ".hc_lafter"

    @property
    def cache(self) -> Path:
        """Features that can be made again; ``HC_LAFTER_CACHE`` moves them."""
        named = os.environ.get("HC_LAFTER_CACHE")
        return Path(named).resolve() if named else self.root / ".hc_lafter" / "cache"


def code_hash(folder: Path) -> str:
    """Hex sha256 over every file of a package: names and bytes of code, profiles and embedded weights."""
    digest = hashlib.sha256()
    files = (p for p in folder.rglob("*") if p.is_file() and not NOT_CODE & set(p.relative_to(folder).parts))
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()


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
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
    return path
