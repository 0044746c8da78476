"""Runs: what a run is, where its result is kept, who computes it.

A `Run` is a value that says everything that decides its numbers. `get` takes many and returns their results: from the
store where they lie, under a key of the run, the content of data and weights, and the code of the rooms that compute;
otherwise computed, here or by the workers of a Dask cluster. Notebooks share runs, and a run that was cut off goes on
from its checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.tracking import GeneralTracker
from filelock import Timeout
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm.auto import tqdm

from hc_lafter import store
from hc_lafter.analysis import segmentation
from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import class_embeddings, encode_texts
from hc_lafter.clip.vit import check_tower
from hc_lafter.data.masks.sets import mask_split, names_of, split_or_all, templates_of
from hc_lafter.data.record import SPLITS, Dataset
from hc_lafter.files import bare_code, code_behind, computing_versions, write_whole
from hc_lafter.refusals import nearest
from hc_lafter.systems import find
from hc_lafter.systems.base import Start, System
from hc_lafter.systems.regimes import regime_terms
from hc_lafter.systems.trained import Trained
from hc_lafter.tuning import masks
from hc_lafter.tuning.convergence import RATES, Convergence, at_rate, best_score, converged
from hc_lafter.tuning.material import Material, check_depth, gather, material_of, opened, opened_masks, pseudo_labels
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.texts import classifier_for, sentences_key, text_classifiers, train_of_seed
from hc_lafter.tuning.training import History, Rows, fit
from hc_lafter.tuning.views import Views, strong_view, weak_view

_WORTH_WORKERS = 60.0  # estimated seconds of work below which starting processes takes longer than it saves
_HEARTBEAT = 60.0  # seconds between two lines of a log
_KILLS = 10  # of workers that were at one run, after which the run is what kills them


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
        code = code_behind("hc_lafter.tuning.runs", "hc_lafter.data.decode", module.__name__)
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

    @property
    def trials(self) -> list[Run]:
        """The runs whose validation chooses this one's rate: the same ones for every seed. They read no test image."""
        if self.until is None or len(self.until.rates) < 2 or self.entry.fit is not None or not self.trained:
            return []
        if not any(hasattr(self.settings, name) for name in RATES):
            return []
        only = {"doublings": 0, "seed": self.until.seed}
        return [
            replace(self, seed=self.until.seed, n_test=0, n_watched=0, until=replace(self.until, rates=(rate,), **only))
            for rate in self.until.rates
        ]

    @property
    def trained(self) -> bool:
        """Whether the fit loop trains it."""
        return self.regime != "no training" and self.entry.fit is None


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
        rate: the learning rate that validation chose; None where there was no choice.
        steps: that were taken; 0 where nothing is trained.
        converged: whether more steps would not have helped, see `hc_lafter.tuning.convergence.converged`; None where
            nothing is trained, or not until then.
    """

    run: Run
    arrays: dict[str, np.ndarray]
    history: History
    tensors: dict[str, Tensor] = field(repr=False)
    seconds: float
    steps: int = 0
    rate: float | None = None
    converged: bool | None = None

    @property
    def settings(self) -> Any:
        """The configuration, at the rate that was chosen."""
        return self.run.settings if self.rate is None else at_rate(self.run.settings, self.rate)

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
                f"results/reference/runs aside and delete {_path(run)}."
            )
        module = run.entry.build(start_of(run), self.settings, run.seed)
        module.load_state_dict(self.tensors, strict=False)
        return module.to(run.setting.device).eval()


def get(runs: Sequence[Run], *, scheduler: str | None = None, progress: bool = True) -> list[Result]:
    """The results of runs, in their order; what is missing is computed and kept.

    Args:
        scheduler: the address of a Dask scheduler; ``none`` computes in this process, ``local`` in processes of this
            machine, one per GPU or core; None: as the environment variable ``HC_LAFTER_SCHEDULER`` says, else as
            ``local`` where there is enough to do, else as ``none``.
        progress: show a bar.

    Raises:
        ValueError: a run failed; the sentence names it, and the others have been computed and kept.
        ConnectionError: the scheduler does not answer, or no longer; what was finished is kept.
    """
    paths = {run: _path(run) for run in dict.fromkeys(runs)}
    missing = [run for run, path in paths.items() if path is None or not _there(path)]
    made = _compute_all(missing, scheduler, progress)
    return [made[run] if paths[run] is None else _read(run, paths[run]) for run in runs]


def missing(runs: Sequence[Run]) -> list[Run]:
    """Those that the store lacks."""
    return [run for run in dict.fromkeys(runs) if not ((path := _path(run)) and _there(path))]


def failure(run: Run) -> str:
    """Why the last attempt at a run failed; "" where none did, or it has succeeded since."""
    note = (path := _path(run)) and path.with_suffix(".failed")
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


def _path(run: Run) -> Path | None:
    return None if run.setting.cache is None else run.setting.cache / "runs" / f"{run.key}.safetensors"


def _there(path: Path) -> bool:
    """Whether a result lies there. With a checkpoint beside it a process was killed before it had tidied up: see
    `compute`, which does that."""
    return path.is_file() and not _checkpoint(path).exists()


def _read(run: Run, path: Path) -> Result:
    tensors, kept = store.read(path)
    times = path.with_suffix(".json")
    if not times.is_file():
        raise ValueError(f"{times} is gone, which says how long the run took: delete {path}, and run it again.")
    seconds = json.loads(times.read_text(encoding="utf-8"))
    arrays = {k.removeprefix("array."): v.numpy() for k, v in tensors.items() if k.startswith("array.")}
    tuned = {k.removeprefix("tuned."): v for k, v in tensors.items() if k.startswith("tuned.")}
    chosen = {name: kept[name] for name in ("steps", "rate", "converged")}
    history = History(**kept["history"], seconds=seconds["epochs"])
    return Result(run, _single(arrays), history, tuned, seconds["run"], **chosen)


def keep(result: Result) -> None:
    """Write a result into the store.

    Times, which never repeat, have a file of their own, so that a result is the same bytes whoever computes it, and
    where.

    Raises:
        OSError: the store cannot be written.
    """
    run, path, history = result.run, _path(result.run), result.history
    arrays = result.arrays if run.until is None else _halved(result.arrays)
    tensors = {f"array.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    tensors |= {f"tuned.{k}": v for k, v in result.tensors.items()}
    lasting = {name: value for name, value in vars(history).items() if name != "seconds"}
    times = {"name": str(run), "run": result.seconds, "epochs": history.seconds}
    write_whole(path.with_suffix(".json"), json.dumps(times))
    anywhere = replace(run, config=run.settings, setting=replace(run.setting, cache=None, workers=0))
    chosen = {"steps": result.steps, "rate": result.rate, "converged": result.converged}
    store.write(path, tensors, run=repr(anywhere), history=lasting, **chosen)


# --- who computes ---


def _compute_all(runs: Sequence[Run], scheduler: str | None, progress: bool) -> dict[Run, Result]:
    """Every run computed, the longest first, so that no worker ends on one; those without a store are returned."""
    made, failed = {}, {}
    runs = sorted(runs, key=lambda run: -run.cost)
    wanted = scheduler or os.environ.get("HC_LAFTER_SCHEDULER")
    if any(run.setting.cache is None for run in runs):
        wanted = "none"  # workers answer through the store
    few = sum(run.cost for run in runs) < _WORTH_WORKERS or len(runs) < 2
    with _Count(runs, progress) as count:
        if wanted == "none" or (few and not wanted):
            for run in runs:
                count.show(str(run))
                try:
                    made[run] = compute(run, progress=count.watched and len(runs) < 3)  # of many one bar is enough
                except (ValueError, OSError, RuntimeError) as error:  # the others go on
                    failed[run] = _noted(run, f"{type(error).__name__}: {error}")
                count.add(run)
        elif runs:
            with _client(None if wanted == "local" else wanted, len(runs), progress) as client:
                for run, error in _spread(client, runs):
                    failed |= {run: _noted(run, error)} if error else {}
                    count.add(run)
    if failed:
        run, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed, first {run}: {error.removeprefix('ValueError: ')}")
    return made


def _noted(run: Run, error: str) -> str:
    """The reason why a run failed, which is kept beside the store until the run succeeds."""
    path = _path(run)
    if path is not None:
        with suppress(OSError):  # a full disk, which may well be the reason; `get` raises it in any case
            write_whole(path.with_suffix(".failed"), f"{error}\n")
    return error


class _Count:
    """How many runs are done and how many minutes the others take: a bar, or a line a minute where none can be drawn.

    Args:
        shown: False shows nothing.
    """

    def __init__(self, runs: Sequence[Run], shown: bool):
        self.runs, self.done, self.began = runs, [], time.monotonic()
        layout = "{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"
        disable = None if shown and runs else True  # None: as the stream is a terminal or not
        self.bar = tqdm(total=len(runs), desc="runs", leave=False, bar_format=layout, disable=disable)
        self.watched, self.ended = not self.bar.disable, threading.Event()
        self.lines = threading.Thread(target=self._write, daemon=True) if shown and not self.watched and runs else None

    def __enter__(self) -> _Count:
        if self.lines:
            self.lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.bar.close()
        if self.lines:
            self.lines.join()

    def add(self, run: Run) -> None:
        self.done.append(run)
        self.bar.update()
        self.show()

    def show(self, name: str = "") -> None:
        self.bar.set_postfix_str(", ".join(filter(None, (self.left(), name))))

    def left(self) -> str:
        """From the time that the finished runs took, by what a run costs: the longest come first."""
        done, everything = (sum(run.cost for run in some) for some in (self.done, self.runs))
        if not done:
            return ""
        minutes = (time.monotonic() - self.began) * (everything / done - 1) / 60
        return f"about {minutes:.0f} min left" if minutes >= 1 else "less than 1 min left"

    def _write(self) -> None:
        while not self.ended.wait(_HEARTBEAT):
            line = ", ".join(filter(None, (f"runs {len(self.done)}/{len(self.runs)}", self.left())))
            print(line, file=sys.stderr, flush=True)


@contextmanager
def _client(address: str | None, most: int, progress: bool) -> Iterator[Any]:
    import dask  # seconds to import, and most calls find all they need
    from dask.distributed import Client, LocalCluster

    if address:
        try:
            with Client(address) as client:
                yield client
        except (OSError, CancelledError) as error:  # a run that fails raises nothing here
            raise ConnectionError(
                f"the scheduler {address} does not answer: finished runs are kept, and the others go on from their "
                "checkpoints when it runs again and they are asked for once more."
            ) from error
        return
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(most, gpus or cores)
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)
    dask.config.set({
        "distributed.scheduler.allowed-failures": _KILLS,
        "distributed.worker.daemon": False,  # a daemon could not start processes that load images
        # without MALLOC_TRIM_THRESHOLD_, under which glibc gives every large tensor's memory back at once: page faults
        # then take a third of the time
        "distributed.nanny.pre-spawn-environ": one,
    })  # fmt: skip
    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        if gpus > 1:
            client.register_plugin(_own_gpu(gpus))
        if progress:
            drawn = importlib.util.find_spec("bokeh")  # without it Dask serves no dashboard, whatever link it gives
            where = f"dashboard {cluster.dashboard_link}" if drawn else f"scheduler {cluster.scheduler_address}"
            tqdm.write(f"Runs are computed by {count} worker{'s' * (count > 1)}: {where}")
        yield client


def _own_gpu(gpus: int) -> Any:
    """What gives each worker, a restarted one too, a GPU of its own: before its first use of CUDA it sees no other."""
    from dask.distributed import WorkerPlugin

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")

    class OwnGPU(WorkerPlugin):
        name = "own-gpu"

        def setup(self, worker: Any) -> None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(worker.name)]

    return OwnGPU()


def _spread(client: Any, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    """(run, "" or why it failed) as they are done; first whatever several of them share."""
    from dask.distributed import KilledWorker, as_completed, wait

    texted = (run for run in runs if run.classifier != "templates" and run.entry.reads != "masks")
    settings = dict.fromkeys(run.setting for run in texted)
    shared = [(setting, seed) for setting in settings for seed in setting.seeds]
    # what fails here fails again, and by name, in the runs that need it
    wait([client.submit(_gathered, setting, pure=False) for setting in settings])
    wait([client.submit(train_of_seed, *one, pure=False) for one in shared])
    trials = dict.fromkeys(trial for run in runs for trial in run.trials)
    wait([client.submit(_kept, trial, trial.key, key=f"run-{trial.key}") for trial in trials])
    of = {client.submit(_kept, run, run.key, key=f"run-{run.key}"): run for run in runs}
    for future in as_completed(of):
        if future.cancelled():  # as all are when the scheduler is gone
            raise CancelledError
        error = future.exception()
        if isinstance(error, KilledWorker):
            error = RuntimeError("every worker that was at it was killed, perhaps for want of memory")
        yield of[future], "" if error is None else f"{type(error).__name__}: {error}"


def _gathered(setting: Setting) -> None:
    _threads(setting)
    gather(setting)


def _kept(run: Run, key: str) -> None:
    if run.key != key:
        raise ValueError("this worker has other code, data or libraries than who asked: restart the workers.")
    compute(run)


def _threads(setting: Setting) -> None:
    if setting.threads:
        torch.set_num_threads(setting.threads)
        threadpool_limits(setting.threads)


# --- what is computed ---


def settings_for(entry: System, setting: Setting) -> Any:
    """A system's own settings for the depth of the setting's CLIP, its preset's for CLIP and data where it has any."""
    clip, data = opened(setting)
    if entry.preset is None:
        return entry.configure(depth=clip.layers)
    data = opened_masks(setting) if entry.reads == "masks" else data
    return entry.configure(clip.name, data.name, clip.layers)


def start_of(
    run: Run, *, clip: Clip | None = None, material: Material | None = None, scenes: Dataset | None = None
) -> Start:
    """What the run's system is built from; ``clip``, ``material`` and ``scenes`` as in `compute`."""
    setting = run.setting
    clip = clip or (opened(setting)[0] if material is None else material.clip)
    check_tower(clip.visual)
    scale = clip.model.logit_scale.exp().item()
    if run.entry.reads == "masks":
        scenes = opened_masks(setting) if scenes is None else scenes
        first = [names[0] for names in names_of(scenes).values()]
        text = class_embeddings(clip, first, templates_of(scenes), cache=setting.cache)
        seen = ~np.isin(scenes.mask_classes, _unseen(run, scenes))
        return Start(clip.visual, clip.name, text.to(setting.device), scale, seen=torch.from_numpy(seen))
    material = gather(setting) if material is None else material
    text = encode_texts(clip, material.classes, "templates", cache=setting.cache).means()

    def support() -> tuple[Tensor, Tensor]:
        at = material.draw(run.n_train, run.seed)
        return material.taps(run.layers, at), material.labels[at]

    return Start(
        clip.visual, clip.name, text, scale, classifier_for(material, run.classifier, run.seed), clip=clip,
        classes=material.classes, support=support if run.regime == "supervised" and run.layers else None,
    )  # fmt: skip


def compute(
    run: Run,
    *,
    clip: Clip | None = None,
    material: Material | None = None,
    scenes: Dataset | None = None,
    progress: bool = False,
    training: Mapping[str, Any] | None = None,
) -> Result:
    """Tune one system on some training images, choose its epoch on validation, and read the test images once.

    Args:
        clip, material, scenes: in the place of what the run's setting names: the CLIP; what the tower says, for a
            system that reads whole images; a data set with masks. Where one is given nothing is kept.
        training: options of `hc_lafter.tuning.training.fit` that change no number beyond roundings, by name.

    Raises:
        ValueError: a regime that the system does not have; as `fit`.
    """
    _check_regime(run.entry, run.regime)
    given = {"clip": clip, "material": material, "scenes": scenes}
    kept = None if any(thing is not None for thing in given.values()) else _path(run)
    if kept is None:
        return _computed(run, None, {"progress": progress, **(training or {})}, **given)
    with store.locked(kept):  # whoever wants the same run waits, and reads
        if kept.is_file():
            result = _read(run, kept)
        else:
            result = _computed(run, kept, {"progress": progress, **(training or {})}, **given)
        attempts = range(1 + (run.until.doublings if run.until else 0))  # the first one's checkpoint goes last
        for left in (kept.with_suffix(".failed"), *(_checkpoint(kept, number) for number in reversed(attempts))):
            left.unlink(missing_ok=True)
    return result


def _check_regime(entry: System, regime: str) -> None:
    if regime not in entry.regimes:
        near = nearest(regime, entry.regimes)
        raise ValueError(f"{entry.name} has no regime {regime!r}{near}: choose one of {', '.join(entry.regimes)}.")


def _computed(run: Run, kept: Path | None, training: Mapping[str, Any], *, clip, material, scenes) -> Result:
    _threads(run.setting)
    began = time.perf_counter()
    rate = _chosen_rate(run, training["progress"], {"clip": clip, "material": material, "scenes": scenes})
    clip = clip or (opened(run.setting)[0] if material is None else material.clip)
    if any(hasattr(run.settings, name) for name in ("layers", "segments")):
        check_depth(clip)
    done = run if rate is None else replace(run, config=at_rate(run.settings, rate))
    if run.entry.reads == "masks":
        scenes = opened_masks(run.setting) if scenes is None else scenes
        start = start_of(run, clip=clip, scenes=scenes)
        make = partial(_masks, clip=clip, scenes=scenes, start=start)
    else:
        material = gather(run.setting) if material is None else material
        make = partial(_classes, material=material, start=start_of(run, material=material))
    attempts, enough = [done], None
    if run.until is not None and run.trained:
        attempts = [replace(done, until=run.until.attempt(number)) for number in range(1 + run.until.doublings)]
    checkpoints = [] if kept is None else [_checkpoint(kept, number) for number in range(len(attempts))]
    for number, attempt in enumerate(attempts):
        place = {"checkpoint": checkpoints[number]} if kept else {}
        system, arrays, history = make(attempt, training={**training, **place})
        if attempt.until is not None and run.trained:
            enough = not history.diverged and converged(
                history.start[_select(run)], [row[_select(run)] for row in history.epochs],
                None if run.entry.reads == "masks" else run.n_val,
            )  # fmt: skip
            if enough or history.diverged:
                break
    held = {id(p) for group in system.parameter_groups() for p in group["params"]}
    tuned = {n: p.detach().cpu() for n, p in system.named_parameters() if id(p) in held}
    if run.entry.fit is not None or hasattr(system, "settle"):
        tuned |= {n: b.detach().cpu() for n, b in system.named_buffers() if not n.startswith("visual.")}
    if run.until is not None:
        arrays = _halved(arrays)
    chosen = {"steps": len(history.steps), "rate": rate, "converged": enough}
    if run.brief:
        arrays = {name: values for name, values in arrays.items() if name in ("val", "test", "counts")}
        history = replace(history, steps=[])
    result = Result(run, _single(arrays), history, tuned, time.perf_counter() - began, **chosen)
    if kept is not None:
        keep(result)
    return result


def _single(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is kept in half precision, in single."""
    return {name: v.astype(np.float32) if v.dtype == np.float16 else v for name, v in arrays.items()}


def _halved(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits in half precision; counts stay."""
    return {name: v.astype(np.float16) if v.dtype == np.float32 else v for name, v in arrays.items()}


def _chosen_rate(run: Run, progress: bool, given: Mapping[str, Any]) -> float | None:
    """The rate of the trial with the highest validation score, the first of equals."""
    if run.until is None or not run.trained:
        return None
    scores = {}
    for trial in run.trials:
        found = compute(trial, progress=progress, **given)
        scores[trial.until.rates[0]] = -1.0 if found.history.diverged else best_score(found.history, _select(run))
    if scores:
        return max(scores, key=scores.get)
    return run.until.rates[0] if len(run.until.rates) == 1 else None


def _select(run: Run) -> str:
    """The validation metric that chooses."""
    return "seen" if run.entry.reads == "masks" else "accuracy"


def tune(
    system: str,
    clip: Clip,
    data: Dataset,
    *,
    regime: str | None = None,
    images: int | None = None,
    epochs: int = 8,
    batch_size: int = 50,
    seed: int = 0,
    precision: str = "fp32",
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
    accumulate: int = 1,
    grad_checkpointing: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    tracker: str | GeneralTracker | None = None,
    tracker_folder: str | os.PathLike[str] = ".",
    **settings: Any,
) -> Trained:
    """Tune a system on a data set, its epoch chosen on the validation split.

    Args:
        system: by name, see `hc_lafter.systems.registry`.
        clip: as `hc_lafter.load_clip` gives it, on the device where to train.
        data: as `hc_lafter.open_data` gives it, with train, val and test.
        regime: one of the system's; None: the first of them.
        images: training images, drawn with the classes' shares; None: all.
        epochs, batch_size: of training.
        seed: of everything that is drawn.
        precision: ``fp32`` or ``bf16``.
        cache: a folder that keeps the tower's features and the texts'; None: nothing is kept.
        progress: show bars.
        accumulate, grad_checkpointing, checkpoint, tracker, tracker_folder: of `hc_lafter.tuning.training.fit`. A
            checkpoint is the caller's to delete, and does not know the system's settings.
        settings: of the system's configuration, such as ``tokens=16``.

    Returns:
        The tuned system; `hc_lafter.systems.save` writes it, its ``predict`` names pictures, its
        ``history.table()`` is the training, step by step.

    Raises:
        ValueError: an unknown system, regime or setting, or as `hc_lafter.tuning.training.fit`.
    """
    entry = find(system)
    regime = regime or entry.regimes[0]
    _check_regime(entry, regime)
    empty = [split for split in SPLITS if not (data.splits == split).any()]
    if empty:
        raise ValueError(f"data set {data.name!r} has no images in the split {empty[0]!r}: add some.")
    unknown = [name for name in settings if name not in {f.name for f in fields(entry.config)}]
    if unknown:
        names = [f.name for f in fields(entry.config)]
        raise ValueError(
            f"{system} has no setting {unknown[0]!r}{nearest(unknown[0], names)}: choose of {', '.join(names)}."
        )
    device = str(next(clip.visual.parameters()).device)
    setting = Setting(
        clip=clip.name, data=data.name, seeds=(seed,), precision=precision, device=device,
        cache=None if cache is None else Path(cache), threads=0,
    )  # fmt: skip
    everything = len(data)
    run = Run(
        system, regime, seed, setting, entry.configure(clip.name, data.name, clip.layers, **settings),
        n_train=images or everything, n_val=everything, epochs=epochs, batch_size=batch_size,
    )  # fmt: skip
    if run.regime == "label-free" and entry.reads == "images":
        run = replace(run, view="strong")
    given: dict[str, Any] = {"clip": clip}
    given |= {"scenes": data} if entry.reads == "masks" else {"material": material_of(setting, clip, data)}
    start = start_of(run, **given)
    training = {
        "accumulate": accumulate, "grad_checkpointing": grad_checkpointing, "tracker": tracker,
        "tracker_folder": tracker_folder, "checkpoint": None if checkpoint is None else Path(checkpoint),
    }  # fmt: skip
    result = compute(run, progress=progress, training=training, **given)
    if result.history.diverged:
        warnings.warn(result.history.diverged, stacklevel=2)
    module = entry.build(start, run.settings, seed)
    module.load_state_dict(result.tensors, strict=False)
    module = module.to(device).eval()
    if entry.reads == "masks":
        scores = {"test mIoU": float(segmentation.scores(result.arrays["counts"].sum(axis=0))["miou"])}
        return Trained(
            system, run.settings, module, clip, data.mask_classes, start.text, start.seen, scores=scores,
            history=result.history,
        )  # fmt: skip
    recipe = ", ".join(str(part) for part in text_classifiers(setting, given["material"]).chosen)
    scores = _scores(result, data.labels, given["material"].part)
    return Trained(
        system, run.settings, module, clip, data.classes, start.text, source=recipe, scores=scores,
        history=result.history,
    )  # fmt: skip


def _checkpoint(kept: Path, number: int = 0) -> Path:
    """Of an attempt. The earlier ones stay until the run is done: a run that was killed in a later one needs them."""
    return kept.with_suffix(f".{number}.checkpoint" if number else ".checkpoint")


def _scores(result: Result, labels: np.ndarray, part: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy on all validation and test images."""
    right = {split: result.arrays[split].argmax(axis=1) == labels[part[split]] for split in ("val", "test")}
    return {f"{split} accuracy": float(hits.mean()) for split, hits in right.items()}


def _classes(
    run: Run, material: Material, start: Start, training: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, np.ndarray], History]:
    setting, layers = run.setting, run.layers
    images = material.draw(run.n_train, run.seed) if run.n_train else np.array([], dtype=int)
    chosen = material.draw(run.n_val, 0, "val") if run.n_val else material.part["val"]
    test = material.part["test"] if run.n_test is None else material.draw(run.n_test, setting.seed, "test")
    judged = {split: at for split, at in (("val", chosen), ("test", test)) if len(at)}  # a trial reads no test image
    history = History()
    if run.entry.fit is not None:
        pairs = ((material.taps(layers, at), material.labels[at]) for at in (images, chosen))
        system = run.entry.fit(start, run.settings, *pairs)
    else:
        system = run.entry.build(start, run.settings, run.seed)
    arrays = {}
    if run.trained and layers is not None:
        arrays = {f"{split} before": material.logits(system, at, layers).numpy() for split, at in judged.items()}
    if run.trained:
        history = _fit_classes(run, material, system, start, images, chosen, training)
    if run.trained and hasattr(system, "settle"):
        device = run.setting.device
        system.settle(material.taps(layers, chosen).to(device), material.labels[chosen].to(device))
    arrays |= {split: material.logits(system, at, layers).numpy() for split, at in judged.items()}
    if run.trained and layers is not None:
        arrays["train"] = material.logits(system, images, layers).numpy()
    return system, arrays, history


def _fit_classes(
    run: Run,
    material: Material,
    system: nn.Module,
    start: Start,
    images: np.ndarray,
    chosen: np.ndarray,
    training: Mapping[str, Any],
) -> History:
    terms = regime_terms(run.regime, system, lam=run.lam, moving_teacher=run.moving_teacher)
    rows = {"label": material.labels, "distribution": material.targets(run.target, run.seed)}
    if run.regime == "label-free" and terms.teach is None:
        rows["pseudo"] = pseudo_labels(material, start.classifier, terms.threshold)
    if getattr(run.settings, "distillation", 0):
        rows["frozen"] = material.shared[:, -1]
    rows = {name: values[images] for name, values in rows.items()}
    if run.layers is not None:
        data: torch.utils.data.Dataset = Rows(student=material.picked(run.layers, images), **rows)
    else:
        student = strong_view(material.clip) if run.view == "strong" else material.clip.transform
        views = {"student": student}
        if getattr(terms, "teach", None) is not None:
            views["teacher"] = weak_view(material.clip)
        keep = run.setting.workers == 0
        data = Views(material.dataset.subset(images), views, seed=run.seed, extra=rows, keep=keep)
    watched = material.draw(run.n_watched, 0, "test") if run.n_watched else None

    def accuracy(module: nn.Module, at: np.ndarray) -> float:
        said = material.logits(module, at, run.layers).argmax(dim=1)
        return float((said == material.labels[at]).float().mean())

    def validate(module: nn.Module) -> dict[str, float]:
        found = {"accuracy": accuracy(module, chosen)}
        return found if watched is None else found | {"test accuracy": accuracy(module, watched)}

    phases, dropout = system.schedule(_epochs(run)), getattr(run.settings, "dropout", 0) > 0
    return _fit(run, system, data, terms, phases, validate, training, train_mode=dropout)


def _epochs(run: Run) -> int:
    """Stretches of training that end in a validation."""
    return run.epochs if run.until is None else run.until.checks


def _fit(run, system, data, terms, phases, validate, training, train_mode: bool = False) -> History:
    setting, until = run.setting, run.until
    given = {} if until is None else {
        "warmup": until.warmup, "decay": until.decay, "from_start": True, "stretch": until.stretch,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a divergence stands in the history, and whoever reads it says so
        return fit(
            system, data, terms, phases,
            batch_size=min(run.batch_size, len(data)), seed=run.seed, validate=validate, select=_select(run), **given,
            precision=setting.precision,
            device=setting.device, workers=0 if run.layers is not None else setting.workers,
            name=str(run), train_mode=train_mode, **training,
        )  # fmt: skip


def _unseen(run: Run, scenes: Dataset) -> tuple[str, ...]:
    """Names of the classes without pixel labels in training.

    No split covers background as a class, and a system that is not trained needs none.
    """
    split = split_or_all if run.regime == "no training" else mask_split
    return split(run.setting.mask_split, scenes).unseen


def _masks(
    run: Run, clip: Clip, scenes: Dataset, start: Start, training: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, np.ndarray], History]:
    setting = run.setting
    unseen, side, short, owner = _unseen(run, scenes), clip.image_size, clip.image_size, None
    protocol = masks.protocol_of(scenes, run.entry) if run.regime == "no training" else None
    if protocol is not None:  # a text, and a map, for each of a class's names
        names, short = names_of(scenes, protocol.words), round(protocol.short * side)
        text = class_embeddings(clip, list(chain(*names.values())), templates_of(scenes), cache=setting.cache)
        start, owner = replace(start, text=text.to(setting.device)), masks.owner_of(names).to(setting.device)
    system = run.entry.build(start, run.settings, run.seed).to(setting.device)
    judge, exam = (
        masks.MaskViews(scenes.subset(masks.draw(scenes, split, n, 0)), clip, short=short, whole=protocol is None)
        for split, n in (("val", run.n_val), ("test", len(scenes) if run.n_test is None else run.n_test))
    )

    def score(module: nn.Module, views: masks.MaskViews) -> Any:
        decide = getattr(module, "decide", lambda logits: logits)
        with setting.autocast():
            return masks.score_masks(
                lambda x: decide(module(x).logits), views, unseen=unseen, batch_size=setting.batch_size,
                device=setting.device, workers=setting.workers, progress=training["progress"], protocol=protocol,
                owner=owner,
            )  # fmt: skip

    def validate(module: nn.Module) -> dict[str, float]:
        found = score(module, judge).compute()
        return {key: found[key] for key in ("seen", "unseen") if np.isfinite(found[key])}

    history = History()
    if run.regime != "no training":
        how = {"transductive": True} if run.regime == "transductive" else {}
        phases = system.schedule(_epochs(run), **how)
        at = masks.draw(scenes, "train", run.n_train, run.seed)
        augment = getattr(run.settings, "augment", False)
        data = masks.MaskViews(scenes.subset(at), clip, size=(side, side), augment=augment, seed=run.seed)
        terms = regime_terms(run.regime, system)
        # who trains without labels of the unseen classes has none to choose an epoch with either
        history = _fit(run, system, data, terms, phases, validate, training, train_mode=True)
    if not len(exam):  # a trial reads no test image
        return system, {}, history
    return system, {"counts": np.asarray(score(system.eval(), exam).counts)}, history
