"""Where notebooks read and write."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hc_lafter.suite.profiles import load_profile

NOTEBOOK = re.compile(r"\d\d-[a-z0-9]+(-[a-z0-9]+)*")
REPORT = "09-report"  # the notebook that report.html is made of


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
            raise FileNotFoundError(f"HC_LAFTER_ROOT={named} is not a folder: set it to the repository's, or unset it.")
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
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
        profile: the profile's name, with a hash where values are not its own (`profiles.folder_name`).
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

    @classmethod
    def reported(cls, folder: str) -> Places:
        """The places of notebook 09, where results are at hand.

        Args:
            folder: their folder in ``results``: a profile's name, or that with a hash (`profiles.folder_name`).

        Raises:
            ValueError: there is no such profile.
            FileNotFoundError: nothing ran under it here; or no repository, see `find_root`.
        """
        name, plus, digest = folder.partition("+")
        load_profile(name)
        found = cls.find(REPORT, folder)
        if (plus and not re.fullmatch("[0-9a-f]{8}", digest)) or not found.provenance.parent.is_dir():
            place = found.provenance.parent
            raise FileNotFoundError(f"{place} holds no results: run python run_all.py --profile {name} first.")
        return found

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
    def failed(self) -> Path:
        """The notebook as far as it got, where it failed; the executed one stays."""
        return self.executed.with_suffix(".failed.ipynb")

    @property
    def provenance(self) -> Path:
        return self.output / "results" / self.profile / "provenance.json"

    @property
    def state(self) -> Path:
        """Working state that git does not see: stamps, locks, half-run notebooks."""
        return self.output / ".hc_lafter"

    @property
    def cache(self) -> Path:
        """Features that can be made again; ``HC_LAFTER_CACHE`` moves them.

        Of a repository that cannot be written they lie beside the results.
        """
        named = os.environ.get("HC_LAFTER_CACHE")
        usual = self.root / ".hc_lafter" / "cache"
        return Path(named).resolve() if named else usual if _writable(usual) else self.state / "cache"

    def check(self) -> None:
        """Refuse places that cannot be written, before anything is computed.

        Raises:
            OSError: one sentence with the folder and what gives another one.
        """
        output = "--out DIR or HC_LAFTER_OUTPUT"
        ways = {self.results: output, self.figures: output, self.state: output, self.cache: "HC_LAFTER_CACHE"}
        for folder, way in ways.items():
            if not _writable(folder):
                raise OSError(f"{folder} cannot be written: give write access, or choose another folder by {way}.")


def _writable(folder: Path) -> bool:
    """Whether a folder is there and may be written, or may be made."""
    there = next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
