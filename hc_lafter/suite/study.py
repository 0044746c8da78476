"""What a notebook starts with: profile, seeds, device, places; and what it ends with: metrics, figures.

It knows neither systems nor training. Metrics are tidy records, one per number, rounded so that a second run under the
same profile and seed on the same machine writes the same bytes; timings, which never repeat, have a file of their own.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import numbers
import os
import platform
import random
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import filelock
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
import torch
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from hc_lafter.analysis import statistics
from hc_lafter.files import own_code, processor, versions, write_whole
from hc_lafter.refusals import nearest
from hc_lafter.suite import figures, plots
from hc_lafter.suite.paths import Places
from hc_lafter.suite.profiles import Profile, load_profile
from hc_lafter.tuning.setting import Setting

UNITS = ("fraction", "nats", "bits", "ratio", "count", "pixels", "logit", "cosine", "degrees", "unitless")
TIME_UNITS = ("seconds", "milliseconds", "images/second", "MiB")  # differ from run to run: timings.json only
DIGITS = 6  # significant digits on file: far below what any interval resolves, far above float32's last-bit noise
KEY = ("system", "minus", "regime", "dataset", "split", "metric")  # what names a number; one record each


def metric(
    system: str,
    dataset: str,
    split: str,
    metric: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    n: int | None = None,
    seeds: int | None = None,
    unit: str = "unitless",
    *,
    minus: str | None = None,
    regime: str | None = None,
    p_holm: float | None = None,
    verdict: str | None = None,
) -> dict[str, Any]:
    """One tidy record: a number, its interval, and what it was measured on.

    Args:
        system: what was measured, e.g. ``layer 5``.
        dataset, split: on what; the split is ``train``, ``val``, ``test``, or says in a word why it is none of them.
        metric: the quantity, e.g. ``top-1 accuracy``.
        value: finite. Whole numbers stay exact; others are rounded to `DIGITS` significant digits.
        low, high: the interval around ``value``, both or neither.
        n: images (or whatever was counted) behind the number.
        seeds: how many seeds it is the mean of.
        unit: one of `UNITS`, or of `TIME_UNITS` for timings. A fraction lies within -1 and 1 (differences have a sign).
        minus: the system that was subtracted, where the number is a difference.
        regime: how the system was tuned: ``supervised``, ``label-free``, ``inductive``, ``transductive``.
        p_holm: the p value, corrected for all comparisons of its table. verdict: ``better``, ``worse`` or
            ``no difference``, after that correction.

    Fields from ``minus`` on are left out of the record where they are None.

    Raises:
        ValueError: a name is empty, a number is not finite, the value lies outside its interval, the unit is unknown.
    """
    names = {"system": system, "dataset": dataset, "split": split, "metric": metric}
    what = "metric " + " / ".join(str(name) for name in names.values())
    for key, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{what}: {key} is {name!r}: give a name.")
    if unit not in UNITS + TIME_UNITS:
        raise ValueError(f"{what}: unit {unit!r} is unknown{nearest(unit, UNITS)}: choose one of {', '.join(UNITS)}.")
    value = _rounded(what, "value", value)
    if unit == "fraction" and abs(value) > 1:
        raise ValueError(f"{what}: value {value} is no fraction: divide per cent by 100, or give another unit.")
    if (low is None) != (high is None):
        raise ValueError(f"{what}: low is {low} and high is {high}: give both ends of the interval, or neither.")
    if low is not None:
        low, high = _rounded(what, "low", low), _rounded(what, "high", high)
        if not low <= value <= high:
            raise ValueError(f"{what}: value {value} lies outside [{low}, {high}]: give its own interval.")
    for key, count in (("n", n), ("seeds", seeds)):
        if count is not None and (not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1):
            raise ValueError(f"{what}: {key} is {count!r}: give a whole number from 1, or none.")
    n, seeds = None if n is None else int(n), None if seeds is None else int(seeds)
    record = {**names, "value": value, "low": low, "high": high, "n": n, "seeds": seeds, "unit": unit}
    p_holm = None if p_holm is None else _rounded(what, "p_holm", p_holm)
    more = {"minus": minus, "regime": regime, "p_holm": p_holm, "verdict": verdict}
    return record | {key: found for key, found in more.items() if found is not None}


_FIELDS = frozenset(inspect.signature(metric).parameters)


class Study:
    """Seeds everything, finds device and places, and keeps what the notebook measured.

    Args:
        notebook: the notebook's name, e.g. ``01-feature-tapping``.
        profile: ``smoke``, ``default`` or ``full``.
        root: the repository; by default found as `hc_lafter.suite.paths.find_root` says.
        overrides: fields of `Profile` given anew, by name.

    Attributes:
        notebook: as given.
        name: the profile's name.
        profile: `Profile`, overrides applied.
        seed: the first seed. seeds: all of them, ``[seed, seed + 1, ...]``.
        device: `torch.device`; for ``auto`` CUDA, then Apple's MPS, then the CPU.
        precision: ``fp32`` or ``bf16``. ``auto`` takes bf16 on a CPU with amx_bf16 and on a GPU that computes
            it, else fp32. With AMX tiles a walk takes about .3 of fp32's time and a training step .45; avx512_bf16
            without them computes bf16, too, but at half the speed of fp32 (`benchmarks/run.py precision` tells for a
            machine). Numbers differ between the two in the third digit; `provenance` keeps which it was.
        results, figures, cache: folders (`pathlib.Path`), see `hc_lafter.suite.paths.Places`.

    Raises:
        ValueError: profile, field, value, notebook name, device or precision is not usable here.
        FileNotFoundError: there is no repository around.
    """

    def __init__(
        self,
        notebook: str,
        profile: str = "default",
        overrides: Mapping[str, Any] | None = None,
        *,
        root: str | Path | None = None,
    ):
        self.notebook, self.name = notebook, profile
        self._kept: list[dict[str, Any]] = []
        self._said: list[str] = []
        self._shown: Any = None
        self.profile: Profile = load_profile(profile, overrides)
        self._places = Places.find(notebook, profile, root)
        self.results, self.figures, self.cache = self._places.results, self._places.figures, self._places.cache
        self.seed = self.profile.seed
        self.seeds = [self.seed + i for i in range(self.profile.seeds)]
        self.device = _device(self.profile.device)
        self.precision = _precision(self.profile.precision, self.device)
        _compute_with(self.profile.threads)
        _seed_everything(self.seed)
        mpl.rcParams.update(plots.STYLE)

    def __repr__(self) -> str:
        place = f"{self.device}, {self.precision}, {torch.get_num_threads()} threads"
        return f"Study({self.notebook}, profile {self.name}, seeds {self.seeds}, {place})"

    metric = staticmethod(metric)

    @property
    def setting(self) -> Setting:
        """What decides the material of this notebook's runs: for `hc_lafter.tuning.material.gather`."""
        p = self.profile.model_dump()
        same = {f.name: p[f.name] for f in dataclasses.fields(Setting) if f.name in p}
        same |= {"seeds": tuple(self.seeds), "text_noise": tuple(p["text_noise"])}
        return Setting(**same | {"precision": self.precision, "device": str(self.device), "cache": self.cache})

    def autocast(self) -> torch.autocast:
        """The context in which a tower runs in this study's precision (nothing changes under fp32)."""
        return self.setting.autocast()

    @property
    def resampling(self) -> dict[str, int]:
        """What every interval of this notebook is made with: ``resamples`` and ``rng_seed``."""
        return {"resamples": self.profile.bootstrap, "rng_seed": self.seed}

    def estimates(self, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """See `hc_lafter.analysis.statistics.estimates`."""
        return statistics.estimates(values, **self.resampling)

    def differences(self, values: Mapping[str, np.ndarray], pairs: str | Iterable[tuple[str, str]]) -> pd.DataFrame:
        """See `hc_lafter.analysis.statistics.differences`."""
        return statistics.differences(values, pairs, **self.resampling)

    def add(self, table: pd.DataFrame | Iterable[Mapping[str, Any]], **same: Any) -> None:
        """Keep the rows of a tidy table for `finish` to write; a second execution of a cell replaces its rows.

        Args:
            table: a row per number, its columns arguments of `metric`; what is NaN or None there counts as not given.
                Columns of another name (``p``, or what only the notebook's own table shows) are left out.
            same: values that all rows share, e.g. ``dataset="world", split="test", unit="fraction"``.

        Raises:
            ValueError: as `metric`; two rows of one call share a name.
        """
        rows = table.to_dict("records") if isinstance(table, pd.DataFrame) else [dict(row) for row in table]
        fresh: dict[tuple, dict[str, Any]] = {}
        for row in rows:
            given = {key: found for key, found in {**same, **row}.items() if key in _FIELDS and not _missing(found)}
            absent = [key for key in ("system", "dataset", "split", "metric", "value") if key not in given]
            if absent:
                raise ValueError(f"{self.notebook} adds a row without {absent[0]} ({given}): give it.")
            if given.get("seeds") == 1:  # a number without a seed of its own is no mean over seeds
                del given["seeds"]
            record = metric(**given)
            key = tuple(record.get(k) for k in KEY)
            if key in fresh:
                raise ValueError(f"metric {' / '.join(map(str, key))} stands there twice: name the two rows apart.")
            fresh[key] = record
        self._kept = [r for r in self._kept if tuple(r.get(k) for k in KEY) not in fresh] + list(fresh.values())

    def finish(self, clip: Any = None, data: Any = None, **hashes: str) -> None:
        """Write what `add` kept into ``metrics.json`` and ``timings.json``, and where it comes from (`provenance`).

        Rows with a time unit, or of the split ``timing`` (ratios of times), are timings. What was said goes to
        ``verdict.md`` and takes the place of what `verdict` shows.
        """
        timed = [record["unit"] in TIME_UNITS or record["split"] == "timing" for record in self._kept]
        self.save_metrics([record for record, is_timing in zip(self._kept, timed, strict=True) if not is_timing])
        if any(timed):
            self.save_timings([record for record, is_timing in zip(self._kept, timed, strict=True) if is_timing])
        self.provenance(clip=clip, data=data, **hashes)
        if self._said:
            text = "".join(f"- {line}\n" for line in self._said)
            write_whole(self.results / "verdict.md", text)
            if self._shown is not None:
                self._shown.update(Markdown(text))
        print(f"{len(self._kept)} numbers are in results/{self.name}/{self.notebook}.")

    def say(self, *lines: str) -> None:
        """Print an answer and keep it, as an item of the verdict."""
        print(*lines, sep="\n")
        self._said += [line for line in lines if line not in self._said]

    def verdict(self) -> None:
        """Show what the last run of this notebook under this profile said; `finish` puts this run's in its place."""
        path = self.results / "verdict.md"
        there = path.read_text(encoding="utf-8") if path.is_file() else "No verdict yet: run all cells."
        self._shown = display(Markdown(there), display_id=True)

    @staticmethod
    def span(row: Any, digits: int = 3) -> str:
        """``0.512 [0.490, 0.534]``: value, low and high of a table's row, of an estimate or of a comparison."""
        return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"

    @staticmethod
    def points(row: Any) -> str:
        """``+1.2 [+0.4, +2.0] points, better``: a comparison of fractions, and its verdict where it has one."""
        verdict = f", {row.verdict}" if hasattr(row, "verdict") else ""
        return f"{100 * row.value:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}] points{verdict}"

    def figure(self, name: str, draw: Callable[..., Figure], *args: Any, **kwargs: Any) -> Figure:
        """Draw a figure once per width and keep each as SVG, PNG and PDF.

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
                stem = name if width == "double" else f"{name}-{width}"
                for form in figures.FORMATS:
                    write_whole(path.with_name(f"{stem}.{form}"), figures.saved(figure, form))
            plt.close(figure)
        return figure

    def save_metrics(self, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write ``metrics.json`` and, with the same rows, ``metrics.parquet``.

        Args:
            rows: records as `metric` makes them, in the order in which they are kept.

        Raises:
            ValueError: there are none, one does not hold what `metric` wants, two share a name, or one is a timing.
            OSError: the folder cannot be written.
        """
        try:
            records = [metric(**row) for row in rows]
        except TypeError as error:  # a field is missing or unknown
            raise ValueError(f"{self.notebook} saves a record that is none ({error}): make it with metric().") from None
        if not records:
            raise ValueError(f"{self.notebook} saved no metrics: give at least one record.")
        seen = set()
        for record in records:
            key = tuple(record[k] for k in KEY if k in record)
            if key in seen:
                raise ValueError(f"metric {' / '.join(key)} stands there twice: name the two records apart.")
            if record["unit"] in TIME_UNITS:
                raise ValueError(f"metric {' / '.join(key)} is in {record['unit']}: save it with save_timings.")
            seen.add(key)
        types = {"value": "float64", "low": "float64", "high": "float64", "n": "Int64", "seeds": "Int64"}
        table = pd.DataFrame(records).astype(types)
        write_whole(self.results / "metrics.parquet", lambda path: table.to_parquet(path, index=False))
        return write_whole(self._places.metrics, _json(records))

    def save_timings(self, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write ``timings.json``: flat records, from `metric` (with one of `TIME_UNITS`) or of the caller's own shape.

        Raises:
            ValueError: a number is NaN or infinite, or a value is no number, text or none.
            OSError: the folder cannot be written.
        """
        records = [{key: _plain(f"timing {key}", value) for key, value in row.items()} for row in rows]
        return write_whole(self.results / "timings.json", _json(records))

    def save_figure(self, figure: Figure, name: str) -> Path:
        """Write ``<name>.svg`` and ``<name>.png``; the figure stays open, so that the notebook shows it, too.

        Raises:
            ValueError: the name has other signs than lowercase letters, digits and hyphens.
            OSError: the folder cannot be written.
        """
        path = self.figures / f"{_checked(name)}.svg"
        for form in ("png", "svg"):
            write_whole(path.with_suffix(f".{form}"), figures.saved(figure, form))
        return path

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

    def provenance(self, clip: Any = None, data: Any = None, **hashes: str) -> dict[str, Any]:
        """Write where this notebook's numbers come from into ``results/<profile>/provenance.json``, beside the others'.

        Args:
            clip: a `hc_lafter.clip.load.Clip`, or a hash.
            data: a `hc_lafter.data.record.Dataset`, or a hash.
            hashes: further inputs, name -> hash.

        Returns:
            This notebook's entry. It names no folder, user or host: absolute paths lose all but their last part.

        Raises:
            ValueError: the file there is no JSON.
            OSError: the folder cannot be written.
        """
        entry = {
            "profile": {key: _placeless(value) for key, value in self.profile.model_dump().items()},
            "clip": _described(clip, ("name", "weight_hash", "transform_id", "activation", "parameters")),
            "data": _described(data, ("name", "fingerprint")),
            **{key: _placeless(value) for key, value in hashes.items()},
            "device": str(self.device),
            "precision": self.precision,
            "code": own_code(),
            "git": _git(self._places.root),
            "versions": versions(),
            "hardware": _hardware(self.device),
        }
        path = self._places.provenance
        path.parent.mkdir(parents=True, exist_ok=True)
        self._places.state.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._places.state / f"provenance-{self.name}.lock"):  # two notebooks may end together
            try:
                whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                others = dict(whole.get("notebooks", {}))
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{path} is damaged ({error}): delete it and run the notebooks again.") from None
            notebooks = dict(sorted({**others, self.notebook: entry}.items()))
            write_whole(path, _json({"notebooks": notebooks}))
        return entry


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    there["mps"] = int(torch.backends.mps.is_available())
    if (device.index or 0) >= there[device.type]:
        raise ValueError(f"device={wanted} is not on this machine: choose 'auto' or 'cpu', or install its driver.")
    return device


def _precision(wanted: str, device: torch.device) -> str:
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


def _rounded(what: str, key: str, value: Any) -> float | int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: {key} is {value!r}: give a number.") from None
    if isinstance(value, bool | str) or not math.isfinite(number):
        raise ValueError(f"{what}: {key} is {value!r}: give a finite number, or leave the record out.")
    return float(f"{number:.{DIGITS}g}")


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _plain(what: str, value: Any) -> Any:
    return value if value is None or isinstance(value, str | bool) else _rounded(what, "value", value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _checked(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name {name!r} is not usable for a file: give lowercase letters, digits and single hyphens.")
    return name


def _placeless(value: Any) -> Any:
    """A value without the folders of this machine: only the last part of an absolute path stays."""
    if not isinstance(value, str):
        return value
    # A path may come behind a name: <arch>@<path>, emoset:<path>. One letter before a colon is a drive.
    for cut in (0, *(match.end() for match in re.finditer(r"@|(?<=\w\w):", value))):
        for flavour in (PurePosixPath, PureWindowsPath):
            parts = flavour(value[cut:])
            if parts.is_absolute() or parts.anchor or parts.parts[:1] in (("~",), ("..",)):
                return value[:cut] + parts.name
    return value


def _described(thing: Any, names: tuple[str, ...]) -> Any:
    if thing is None or isinstance(thing, str):
        return _placeless(thing)
    return {name: _placeless(getattr(thing, name)) for name in names}


def _git(root: Path) -> dict[str, Any] | None:
    """Commit, and whether anything but results and figures differs from it; None without git or a repository."""

    def ask(*words: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "--no-optional-locks", "-C", root, *words],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return run.stdout.strip()

    commit = ask("rev-parse", "--verify", "HEAD")
    changes = ask("status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)figures")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _hardware(device: torch.device) -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device.type == "cuda" else []
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpus or None,
    }
