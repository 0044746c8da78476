"""A run: what it is, and where its result is kept.

A `Run` is a value that says everything that decides its numbers. Its result lies in the store under a key of the run,
the content of data and weights, and the code that computes; `hc_lafter.tuning.computing` makes it, and
`hc_lafter.tuning.runs` says who does.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor, nn

from hc_lafter import store
from hc_lafter.files import bare_code, code_behind, computing_versions, write_whole
from hc_lafter.systems import find
from hc_lafter.systems.base import System
from hc_lafter.tuning.convergence import RATES, Convergence, at_rate, best_score
from hc_lafter.tuning.material import opened, opened_masks
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.start import settings_for, start_of
from hc_lafter.tuning.texts import sentences_key
from hc_lafter.tuning.training import History


@dataclass(frozen=True)
class Run:
    """One system, tuned once.

    Attributes:
        system: by name, see `hc_lafter.systems.registry`.
        regime: one of the system's.
        seed: of the training images' draw, their order, augmentation, and whatever is drawn at the start.
        setting: CLIP and data.
        config: the system's settings; None: its own.
        n_train: training images, drawn with the classes' shares. n_val: validation images that choose the epoch.
        n_test: test images, drawn by the setting's seed; None: all.
        epochs, batch_size: of training.
        view: of training images, for systems that read images: ``plain`` or ``strong``.
        classifier: where the text classifier comes from, see `hc_lafter.tuning.texts.classifier_for`.
        target: the distribution to aim at, see `Material.targets`. lam: its share; 0 is plain cross-entropy.
        moving_teacher: the label-free teacher is the system's own tower, where it has one, as it is at each step.
        until: how it is trained to convergence; None: for ``epochs`` epochs at the configuration's own rate. Logits of
            such a run are kept in half precision.
        brief: only what it says of validation and test images is kept, no logits from before or of training images, and
            no history by step: for points of a curve, of which there are many.
        n_watched: test images on which accuracy is measured after each epoch, too, as ``test accuracy``: for showing
            what choosing on the test split would have reported. It chooses nothing.
    """

    system: str
    regime: str
    seed: int
    setting: Setting
    config: Any = None
    n_train: int = 0
    n_val: int = 0
    n_test: int | None = None
    epochs: int = 0
    batch_size: int = 0
    view: str = "plain"
    classifier: str = "chosen"
    target: str = ""
    lam: float = 0.8
    moving_teacher: bool = True
    n_watched: int = 0
    until: Convergence | None = None
    brief: bool = False

    @property
    def entry(self) -> System:
        return find(self.system)

    @property
    def settings(self) -> Any:
        """The system's configuration."""
        return settings_for(self.entry, self.setting) if self.config is None else self.config

    @property
    def layers(self) -> list[int] | None:
        """Layers of the cached taps that the system reads; None: it reads images."""
        return list(self.settings.layers) if self.entry.reads == "taps" else None

    @property
    def key(self) -> str:
        """Hex sha256 of everything that decides the result."""
        clip = opened(self.setting)[0]
        value = asdict(replace(self, config=None)) | {"config": repr(self.settings)}
        value["setting"] = {k: v for k, v in value["setting"].items() if k not in ("cache", "workers")}
        module = inspect.getmodule(self.entry.build)
        code = code_behind("hc_lafter.tuning.computing", "hc_lafter.data.decode", module.__name__)
        value |= {"weights": clip.weight_hash, "activation": clip.activation, "code": code}
        value |= {"transform": clip.transform_id, "model": json.dumps(dict(clip.config), sort_keys=True, default=str)}
        value["sentences"] = sentences_key(self.setting)
        value["data"] = _fingerprint(self.setting, self.entry.reads == "masks")
        source = bare_code(inspect.getsource(module))  # of another package, perhaps
        value["module"] = hashlib.sha256(source.encode()).hexdigest()
        return hashlib.sha256(json.dumps([value, computing_versions()], sort_keys=True).encode()).hexdigest()

    @property
    def cost(self) -> float:
        """A rough number of seconds on one core, for the order of work."""
        trained, judged = self.epochs * self.n_train, self.epochs * self.n_val
        if self.until is not None:
            trained, judged = self.until.steps * self.batch_size, self.until.checks * self.n_val
        if self.entry.reads == "taps":
            return 0.5 + 2e-5 * trained
        return 5 + 0.01 * (2 * trained + judged)

    def __str__(self) -> str:
        return f"{self.system}, {self.regime}, {self.n_train} images, seed {self.seed}"

    def trial(self, rate: float | None, steps: int) -> Run:
        """A run whose validation helps to choose rate and steps: the same one for every seed. It reads no test image.

        Args:
            rate: None is the configuration's own.
        """
        until = replace(self.until, rates=() if rate is None else (rate,), steps=steps, doublings=0)
        return replace(self, seed=self.until.seed, n_test=0, n_watched=0, until=until, brief=True)

    @property
    def trained(self) -> bool:
        """Whether the fit loop trains it."""
        return self.regime != "no training" and self.entry.fit is None

    @property
    def select(self) -> str:
        """The validation metric that chooses; of masks that of the seen classes, as others have no labels."""
        return "seen" if self.entry.reads == "masks" else "accuracy"

    @property
    def to_choose(self) -> Convergence | None:
        """Rates and steps between which validation chooses; None: it is not trained until it no longer gains."""
        if self.until is None or not self.trained:
            return None
        return self.until if any(hasattr(self.settings, name) for name in RATES) else replace(self.until, rates=())


@dataclass(frozen=True, eq=False)
class Result:
    """What a run left.

    Attributes:
        run: itself.
        arrays: ``val`` and ``test`` [n, C] float32 logits of the epoch that validation chose; for taps also ``train``,
            and ``val before`` and ``test before`` of the untrained system. For masks ``counts`` [n, C, 3] of the test
            images instead, see `hc_lafter.analysis.segmentation.counts`.
        history: of training; empty where nothing is trained.
        tensors: the tuned parameters.
        seconds: wall time.
        steps: that were taken; 0 where nothing is trained.
        rate: the learning rate that validation chose; None where there was no choice.
        converged: whether more steps would not have helped: the kept seed gained at most half a standard error by
            twice as many, and this one ended as `hc_lafter.tuning.convergence.converged` says; None where nothing is
            trained, or not until then.
        error: the standard error of the best validation score; None as above.
    """

    run: Run
    arrays: dict[str, np.ndarray]
    history: History
    tensors: dict[str, Tensor] = field(repr=False)
    seconds: float
    steps: int = 0
    rate: float | None = None
    converged: bool | None = None
    error: float | None = None

    @property
    def settings(self) -> Any:
        """The configuration, at the rate that was chosen."""
        return self.run.settings if self.rate is None else at_rate(self.run.settings, self.rate)

    @property
    def score(self) -> float:
        """The best validation score; -1 where training diverged."""
        return -1.0 if self.history.diverged else best_score(self.history, self.run.select)

    @property
    def test(self) -> np.ndarray:
        return self.arrays["test"]

    @property
    def val(self) -> np.ndarray:
        return self.arrays["val"]

    def module(self) -> nn.Module:
        """The tuned system, in eval mode on the setting's device."""
        run = self.run
        if run.regime != "no training" and not self.tensors:
            raise ValueError(
                f"{run}: only its logits were committed, not what was tuned. To train it again here move the folder "
                f"results/reference/runs aside and delete {path_of(run)}."
            )
        module = run.entry.build(start_of(run), self.settings, run.seed)
        module.load_state_dict(self.tensors, strict=False)
        return module.to(run.setting.device).eval()


def missing(runs: Sequence[Run]) -> list[Run]:
    """Those that the store lacks."""
    return [run for run in dict.fromkeys(runs) if not ((path := path_of(run)) and is_kept(path))]


def failure(run: Run) -> str:
    """Why the last attempt at a run failed; "" where none did, or it has succeeded since."""
    note = (path := path_of(run)) and path.with_suffix(".failed")
    return note.read_text(encoding="utf-8").strip() if note and note.is_file() else ""


def surplus(folder: Path, runs: Sequence[Run]) -> dict[str, list[Path]]:
    """What lies in a store and none of these runs asks for, under today's code, data and libraries.

    Args:
        folder: a setting's ``cache``.

    Returns:
        Key of a run -> its files: result, times, checkpoint, reason of a failure, lock, and what a process that was
        killed had half written.
    """
    asked, found = {run.key for run in runs}, {}
    for path in sorted((folder / "runs").glob("*")):
        key = re.match(r"\.?([0-9a-f]{64})\b", path.name)
        if key and key[1] not in asked:
            found.setdefault(key[1], []).append(path)
    return found


def discard(folder: Path, key: str) -> bool:
    """Delete a run's files, by its key in `surplus`; False, and nothing is, where another process is at work on it."""
    kept = folder / "runs" / f"{key}.safetensors"
    try:
        with store.locked(kept, timeout=0):
            for path in kept.parent.glob(f"*{key}*"):
                with suppress(PermissionError):  # Windows keeps a lock's file for as long as it is held
                    path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


@lru_cache(maxsize=8)
def _fingerprint(setting: Setting, of_masks: bool) -> str:
    return (opened_masks(setting) if of_masks else opened(setting)[1]).fingerprint


def path_of(run: Run) -> Path | None:
    return None if run.setting.cache is None else run.setting.cache / "runs" / f"{run.key}.safetensors"


def is_kept(path: Path) -> bool:
    """Whether a result lies there. With a checkpoint beside it a process was killed before it had tidied up: see
    `compute`, which does that."""
    return path.is_file() and not checkpoint_of(path).exists()


def checkpoint_of(kept: Path) -> Path:
    """Of a run under way, beside the place of its result."""
    return kept.with_suffix(".checkpoint")


def read_kept(run: Run, path: Path) -> Result:
    tensors, kept = store.read(path)
    times = path.with_suffix(".json")
    if not times.is_file():
        raise ValueError(f"{times} is gone, which says how long the run took: delete {path}, and run it again.")
    seconds = json.loads(times.read_text(encoding="utf-8"))
    arrays = {k.removeprefix("array."): v.numpy() for k, v in tensors.items() if k.startswith("array.")}
    tuned = {k.removeprefix("tuned."): v for k, v in tensors.items() if k.startswith("tuned.")}
    chosen = {name: kept[name] for name in ("steps", "rate", "converged", "error")}
    history = History(**kept["history"], seconds=seconds["epochs"])
    return Result(run, in_single(arrays), history, tuned, seconds["run"], **chosen)


def keep(result: Result) -> None:
    """Write a result into the store.

    Times, which never repeat, have a file of their own, so that a result is the same bytes whoever computes it, and
    where.

    Raises:
        OSError: the store cannot be written.
    """
    run, path, history = result.run, path_of(result.run), result.history
    arrays = result.arrays if run.until is None else in_half(result.arrays)
    tensors = {f"array.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    tensors |= {f"tuned.{k}": v for k, v in result.tensors.items()}
    lasting = {name: value for name, value in vars(history).items() if name != "seconds"}
    times = {"name": str(run), "run": result.seconds, "epochs": history.seconds}
    write_whole(path.with_suffix(".json"), json.dumps(times))
    anywhere = replace(run, config=run.settings, setting=replace(run.setting, cache=None, workers=0))
    chosen = {"steps": result.steps, "rate": result.rate, "converged": result.converged}
    chosen |= {"error": result.error}
    store.write(path, tensors, run=repr(anywhere), history=lasting, **chosen)


def in_single(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is kept in half precision, in single."""
    return {name: v.astype(np.float32) if v.dtype == np.float16 else v for name, v in arrays.items()}


def in_half(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits in half precision, those beyond it at its end; counts stay."""
    end = np.finfo(np.float16).max
    return {k: v.clip(-end, end).astype(np.float16) if v.dtype == np.float32 else v for k, v in arrays.items()}
