"""What a notebook starts with: profile, seeds, device, places; and what it ends with: metrics, figures.

It knows neither systems nor training. Metrics are tidy records, one per number, rounded so that a second run under the
same profile and seed on the same machine writes the same bytes; timings, which never repeat, have a file of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from hc_lafter import store
from hc_lafter.analysis import statistics
from hc_lafter.files import file_hash, own_code, processor, versions, write_whole
from hc_lafter.refusals import some
from hc_lafter.suite import figures, plots, profiles, provenance, words
from hc_lafter.suite.paths import Places
from hc_lafter.suite.profiles import Profile, folder_name, load_profile
from hc_lafter.suite.records import DIGITS, Metric, is_timing, key_of, metric
from hc_lafter.tuning.setting import Setting


class Study:
    """Seeds everything, finds device and places, and keeps what the notebook measured.

    In a live notebook of ``notebooks/`` the working folder becomes the repository, so that relative paths count from
    there, as on the command line.

    Args:
        notebook: the notebook's name, e.g. ``01-feature-tapping``.
        profile: ``smoke``, ``default``, ``reference`` or ``full``.
        overrides: fields of `Profile` given again, by name.
        tables: how many tables of comparisons the notebook makes: its comparisons are one family, in which a wrong
            verdict has a chance of 5%, and each table gets the same part of it.

    Attributes:
        notebook: as given.
        name: the profile's name.
        profile: `Profile`, overrides applied.
        seed: the first seed. seeds: all of them, ``[seed, seed + 1, ...]``.
        device: `torch.device`; for ``auto`` CUDA, then Apple's MPS, then the CPU.
        precision: ``fp32`` or ``bf16``. ``auto`` takes bf16 on a CPU with amx_bf16 and on a GPU that computes
            it, else fp32. With AMX tiles a walk takes about .3 of fp32's time and a training step .45; avx512_bf16
            without them computes bf16, too, but at half the speed of fp32 (`benchmarks/run.py precision` tells for a
            machine). Numbers differ between the two in the third digit; provenance.json keeps which it was.
        results, figures, cache: folders (`pathlib.Path`), see `hc_lafter.suite.paths.Places`.

    Raises:
        ValueError: profile, field, value, notebook name, device or precision is not usable here; the parameters cell
            sets another name; the notebook is the record of a run.
        FileNotFoundError: there is no repository around.
        OSError: results, figures or the cache cannot be written.
    """

    def __init__(
        self, notebook: str, profile: str = "default", overrides: Mapping[str, Any] | None = None, *, tables: int = 1
    ):
        self.notebook, self.name, self.tables = notebook, profile, tables
        self._kept: dict[tuple, dict[str, Any]] = {}
        self._said: list[str] = []
        self._reads: dict[str, str] = {}
        self._unwritten: set[str] = set()
        self._shown: Any = None
        _refuse_records(notebook)
        _refuse_other_parameters()
        self.profile: Profile = load_profile(profile, overrides)
        self._places = Places.find(notebook, folder_name(profile, self.profile))
        self._places.check()
        if "HC_LAFTER_ROOT" not in os.environ and Path.cwd() == self._places.root / "notebooks":  # else run_all's own
            os.chdir(self._places.root)
        self.results, self.figures, self.cache = self._places.results, self._places.figures, self._places.cache
        self.seed = self.profile.seed
        self.seeds = [self.seed + i for i in range(self.profile.seeds)]
        self.device, self.precision = computes_with(self.profile)
        _compute_with(self.profile.threads)
        _seed_everything(self.seed)
        plots.use_style()
        pd.set_option("display.max_colwidth", None)  # tables in a notebook wrap; pandas would cut a text at 50 signs
        pd.set_option("display.html.use_mathjax", False)  # a dollar in a name of a class is a dollar
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # `figure` says it in a sentence

    def __repr__(self) -> str:
        place = f"{self.device}, {self.precision}, {torch.get_num_threads()} threads"
        return f"Study({self.notebook}, profile {self.name}, seeds {self.seeds}, {place})"

    @property
    def setting(self) -> Setting:
        """What decides the material of this notebook's runs: for `hc_lafter.tuning.material.gather`."""
        p = self.profile.model_dump()
        same = {f.name: p[f.name] for f in dataclasses.fields(Setting) if f.name in p}
        same |= {"seeds": tuple(self.seeds), "text_noise": tuple(p["text_noise"])}
        return Setting(**same | {"precision": self.precision, "device": str(self.device), "cache": self.cache})

    @property
    def committed(self) -> Path:
        """Where the profile's long runs are committed, see `hc_lafter.suite.reference`."""
        return self._places.root / "results" / self.name / "runs"

    def under(self, profile: str) -> Study:
        """This study as another profile has it, nothing overridden: to find what is committed of that one."""
        other = copy(self)
        other.name, other.profile = profile, load_profile(profile)
        other.seed = other.profile.seed
        other.seeds = [other.seed + i for i in range(other.profile.seeds)]
        other.device, other.precision = computes_with(other.profile)
        return other

    def rests_on(self, paths: Iterable[Path]) -> None:
        """Keep the hashes of committed files that numbers of this notebook come from, for `claims --check`."""
        self._reads |= provenance.hashes(paths, self._places.root)

    def autocast(self) -> torch.autocast:
        """The context in which a tower runs in this study's precision (nothing changes under fp32)."""
        return self.setting.autocast()

    @property
    def resampling(self) -> dict[str, int]:
        """What every interval of this notebook is made with: ``resamples`` and ``rng_seed``."""
        return {"resamples": self.profile.bootstrap, "rng_seed": self.seed}

    @property
    def comparing(self) -> dict[str, int]:
        """What every table of comparisons of this notebook is made with: `resampling`, and ``tables``."""
        return {**self.resampling, "tables": self.tables}

    def estimates(self, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """See `hc_lafter.analysis.statistics.estimates`."""
        return statistics.estimates(values, **self.resampling)

    def differences(self, values: Mapping[str, np.ndarray], pairs: str | Iterable[tuple[str, str]]) -> pd.DataFrame:
        """See `hc_lafter.analysis.statistics.differences`."""
        return statistics.differences(values, pairs, **self.comparing)

    def add(self, table: pd.DataFrame | Iterable[Mapping[str, Any]], **same: Any) -> None:
        """Keep the rows of a tidy table for `finish` to write; a second execution of a cell replaces its rows.

        Args:
            table: a row per number, its columns fields of `hc_lafter.suite.records.Metric`; what is NaN or None there
                counts as not given. Columns of another name (``p``, or what only the notebook's table shows) are left
                out.
            same: values that all rows share, e.g. ``dataset="world", split="test", unit="fraction"``.

        Raises:
            ValueError: as `hc_lafter.suite.records.metric`; two rows of one call share a name.
        """
        fresh: dict[tuple, dict[str, Any]] = {}
        for row in table.to_dict("records") if isinstance(table, pd.DataFrame) else table:
            given = {k: v for k, v in {**same, **row}.items() if k in Metric.model_fields and not pd.isna(v)}
            if given.get("seeds") == 1:  # a number without a seed of its own is no mean over seeds
                del given["seeds"]
            record = metric(**given)
            if key_of(record) in fresh:
                name = " / ".join(filter(None, key_of(record)))
                raise ValueError(f"metric {name} stands there twice: name the two rows apart.")
            fresh[key_of(record)] = record
        self._kept |= fresh

    def kept(self, make: Callable[[], Mapping[str, Any]], *inputs: Any, timed: bool = False) -> dict[str, np.ndarray]:
        """What takes a cell long: read where the same cells have left it in the cache, else made and left there.

        For what is no run (`hc_lafter.tuning.runs`). The key is everything that decides the numbers of a notebook that
        is run from its top: the sources of all cells up to this one, the profile, the package, the libraries, the
        device, and the inputs. Any cell that is changed, added or run twice gives another key. In a script, where there
        are no cells, nothing is kept.

        Args:
            make: -> name -> array or tensor of numbers, which follow from the cells and the inputs alone.
            inputs: what the cells read: a `hc_lafter.clip.load.Clip`, a `hc_lafter.data.record.Dataset`, or a text.
            timed: the numbers are times: measured once on each kind of processor, which is printed.

        Raises:
            OSError: the cache cannot be written, or its disk is full.
        """
        shell = get_ipython()
        cells = [] if shell is None else shell.user_ns.get("In", [])
        of = [getattr(x, "weight_hash", None) or getattr(x, "fingerprint", x) for x in inputs]
        how = {"device": str(self.device), "precision": self.precision, "threads": torch.get_num_threads()}
        how |= {"processor": processor()} if timed else {}
        decides = {"cells": hashlib.sha256("\0".join(cells).encode()).hexdigest(), "inputs": of, **how}
        decides |= {"profile": self.profile.model_dump(), "versions": versions(), "code": own_code(), "suite": _suite()}

        def made() -> dict[str, torch.Tensor]:  # numbered: a file has no order of its own
            return {f"{i:05} {k}": torch.tensor(np.asarray(v)) for i, (k, v) in enumerate(make().items())}

        _, found = store.cached(self.cache / "cells" if any(cells) else None, decides, made)
        if timed:
            print(f"Times: measured once with this code on {processor()}, and kept.")
        return {name.partition(" ")[2]: found[name].numpy() for name in sorted(found)}

    def finish(self, clip: Any = None, data: Any = None, **hashes: str) -> None:
        """Write what was kept: numbers, timings, what was said, and where it all comes from.

        Numbers go to ``metrics.json`` and ``metrics.parquet``; `records.is_timing` says which go to ``timings.json``;
        what was said goes to ``verdict.md`` and takes the place of what `verdict` shows. The file
        ``results/<profile>/provenance.json`` gets an entry for this notebook.

        Args:
            clip: a `hc_lafter.clip.load.Clip`, or a hash.
            data: a `hc_lafter.data.record.Dataset`, or a hash.
            hashes: further inputs, name -> hash.

        Raises:
            ValueError: there are no numbers, or provenance.json is damaged.
            OSError: the folder cannot be written.
        """
        timings = [record for record in self._kept.values() if is_timing(record)]
        numbers = [record for record in self._kept.values() if not is_timing(record)]
        if not numbers:
            raise ValueError(f"{self.notebook} kept no numbers: give study.add at least one row.")
        types = {"value": "float64", "low": "float64", "high": "float64", "n": "Int64", "seeds": "Int64"}
        types |= {"low_all": "float64", "high_all": "float64", "n_train": "Int64", "converged": "boolean"}
        table = pd.DataFrame(numbers)
        table = table.astype({name: kind for name, kind in types.items() if name in table})
        write_whole(self.results / "metrics.parquet", lambda path: table.to_parquet(path, index=False))
        for name, found in {"metrics": numbers, "timings": timings}.items():
            if found:
                text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
                write_whole(self.results / f"{name}.json", text + "\n")
        if self._said:
            text = "".join(f"- {words.plain(line)}\n" for line in self._said)
            write_whole(self.results / "verdict.md", text)
            if self._shown is not None:
                self._shown.update(Markdown(text))
        inputs = {"profile": self.profile.model_dump(), "precision": self.precision, **hashes}
        inputs |= {"reads": self._reads} if self._reads else {}
        provenance.write(self._places, provenance.describe(self._places.root, self.device, clip, data, **inputs))
        print(f"{len(self._kept)} numbers are in results/{self._places.profile}/{self.notebook}.")

    def say(self, *lines: str) -> None:
        """Print an answer and keep it, as an item of the verdict, whose only markup is ``**bold**``."""
        print(*lines, sep="\n")
        self._said += [line for line in lines if line not in self._said]

    def verdict(self) -> None:
        """Show what the last run of this notebook under this profile said; `finish` puts this run's in its place."""
        path = self.results / "verdict.md"
        there = path.read_text(encoding="utf-8") if path.is_file() else "No verdict yet: run all cells."
        self._shown = display(Markdown(there), display_id=True)

    @staticmethod
    def span(row: Any, digits: int = 3) -> str:
        """``0.512 [0.490, 0.534]``: value, low and high of a table's row, of an estimate or of a comparison.

        A comparison whose interval leaves out zero without a verdict carries the one of all together.
        """
        value, *ends = (f"{x:.{digits}f}" for x in (row.value, row.low, row.high, *_together(row)))
        return words.spanned(value, ends)

    @staticmethod
    def points(row: Any) -> str:
        """``+1.2 [+0.4, +2.0] points, better``: a comparison as `span`, and its verdict where it has one."""
        verdict = f", {row.verdict}" if hasattr(row, "verdict") else ""
        value, *ends = (f"{100 * x:+.1f}" for x in (row.value, row.low, row.high, *_together(row)))
        return f"{words.spanned(value, ends)} points{verdict}"

    def figure(self, name: str, draw: Callable[..., Figure], *args: Any, **kwargs: Any) -> Figure:
        """Draw a figure once per width and keep each in the profile's formats (`hc_lafter.suite.figures.save`).

        ``<name>.svg`` and so on are as wide as two columns of a journal, ``<name>-single.svg`` as wide as one
        (`hc_lafter.suite.plots.WIDTHS`).

        Args:
            name: of the files: lowercase letters, digits and hyphens.
            draw: ``args`` and ``kwargs`` -> the figure; it asks `hc_lafter.suite.plots.panels` for its axes, which
                follow the width.

        Returns:
            The double one, closed: make it the last line of a cell, and the notebook shows it.

        Raises:
            ValueError: the name has other signs than those.
            OSError: the folder cannot be written.
        """
        path = self.figures / _checked(name)
        for width in plots.WIDTHS:  # the widest one last
            with plots.at_width(width):
                figure = plots.fit(draw(*args, **kwargs))
                self._tell_unwritten(plots.unwritten(figure))
                to = path if width == "double" else path.with_name(f"{name}-{width}")
                figures.save(figure, to, self.profile.formats.split(","))
            plt.close(figure)
        return figure

    def _tell_unwritten(self, texts: Mapping[str, str]) -> None:
        """One sentence on texts with signs that no font here has, each sign once in a notebook."""
        fresh = {text: signs for text, signs in texts.items() if set(signs) - self._unwritten}
        if fresh:
            signs = set("".join(fresh.values())) - self._unwritten
            self._unwritten |= signs
            print(
                f"Figures cannot write {some(fresh)}, since no font of this machine has the signs "
                f"{''.join(sorted(signs)[:20])}: install {plots.font_for(signs)}; no number is touched."
            )

    def save_table(self, table: pd.DataFrame, name: str) -> Path:
        """Write ``<name>.parquet`` and ``<name>.csv`` (floats with `DIGITS` digits) into the results folder.

        Raises:
            ValueError: the name has other signs than lowercase letters, digits and hyphens.
            OSError: the folder cannot be written.
        """
        path = self.results / f"{_checked(name)}.parquet"
        text = table.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
        write_whole(path.with_suffix(".csv"), text)
        return write_whole(path, lambda temporary: table.to_parquet(temporary, index=False))


def _together(row: Any) -> list[float]:
    """Both ends of a comparison's interval for its whole family, where it carries one."""
    ends = [getattr(row, name, None) for name in ("low_all", "high_all")]
    return [] if pd.isna(ends).any() else ends


def _refuse_records(notebook: str) -> None:
    """The executed copy in results/ is what its numbers come from; run from its own folder it would write over them."""
    if Path(f"{notebook}.ipynb").is_file() and Path("metrics.json").is_file():
        raise ValueError(
            f"{Path.cwd() / notebook}.ipynb is the record of a run and stays as it is: open "
            f"notebooks/{notebook}.ipynb and change the parameters there."
        )


def _refuse_other_parameters() -> None:
    """A name that is changed in a live notebook leaves the one it had before in the kernel, which would be used."""
    shell = get_ipython()
    cells = [] if shell is None else shell.user_ns.get("In", [])[:-1]  # the last one is at work
    for cell in reversed(cells):
        try:
            names = profiles.parameters(cell)
        except (SyntaxError, ValueError):  # a magic, or a cell that computes
            continue
        if {"profile", "overrides"} & set(names):
            return profiles.check_parameters(names, "the parameters cell")


@cache
def _suite() -> list[str]:
    return [file_hash(path) for path in sorted(Path(__file__).parent.glob("*.py"))]


def computes_with(profile: Profile) -> tuple[torch.device, str]:
    """The device and the precision that a profile asks for, here.

    Raises:
        ValueError: this machine lacks one of them.
    """
    device = _device(profile.device)
    return device, precision(profile.precision, device)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    there["mps"] = int(torch.backends.mps.is_available())
    if (device.index or 0) >= there[device.type]:
        raise ValueError(f"device={wanted} is not on this machine: choose 'auto' or 'cpu', or install its driver.")
    return device


def precision(wanted: str, device: torch.device) -> str:
    """``fp32`` or ``bf16``; ``auto`` takes what is fast on a device."""
    if device.type == "cuda":
        able = fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        has = torch.cpu.get_capabilities()
        fast = has.get("amx_bf16", False)
        able = fast or has.get("avx512_bf16", False) or has.get("sve_bf16", False)
    else:
        able = fast = False  # MPS and XPU were not tried: say bf16 only where it was
    if wanted == "bf16" and not able:
        raise ValueError(f"precision=bf16 is not in this {device.type} processor: choose 'auto' or 'fp32'.")
    return "bf16" if wanted == "bf16" or (wanted == "auto" and fast) else "fp32"


def _compute_with(threads: int) -> None:
    """Set the threads of torch and of the BLAS under numpy and scikit-learn; sums of many threads round otherwise."""
    if threads:
        torch.set_num_threads(threads)
        threadpool_limits(threads)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - scikit-learn and others draw from the global state
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has no deterministic products
    torch.backends.cudnn.benchmark = False
    # Where an operator has no deterministic form torch warns and names it; the run goes on.
    # (use_deterministic_algorithms(True, warn_only=True) does this, too, and imports the compiler first: seconds.)
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that fills every fresh buffer


def _checked(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name {name!r} is not usable for a file: give lowercase letters, digits and single hyphens.")
    return name
