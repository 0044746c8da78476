"""Runs: what a run is, where its result is kept, who computes it.

A `Run` is a value that says everything that decides its numbers. `get` takes many and returns their results: from the
store where they lie, under a key of the run, the content of data and weights, and the code of the rooms that compute;
otherwise computed, here or by the workers of a Dask cluster. Notebooks share runs, and a run that was cut off goes on
from its checkpoint.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm.auto import tqdm

from hc_lafter import store
from hc_lafter.clip.load import Clip
from hc_lafter.clip.text import class_embeddings, encode_texts
from hc_lafter.clip.vit import check_tower
from hc_lafter.data.masks.names import BACKGROUND
from hc_lafter.data.masks.sets import mask_split, names_of, templates_of
from hc_lafter.data.record import SPLITS, Dataset
from hc_lafter.files import bare_code, file_hash, own_code, versions
from hc_lafter.refusals import nearest
from hc_lafter.systems import find
from hc_lafter.systems.base import Start, System
from hc_lafter.systems.regimes import regime_terms
from hc_lafter.systems.trained import Trained
from hc_lafter.tuning import masks
from hc_lafter.tuning.material import Material, check_depth, gather, material_of, opened, opened_masks, pseudo_labels
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.texts import classifier_for, text_classifiers, train_of_seed
from hc_lafter.tuning.training import History, Rows, fit
from hc_lafter.tuning.views import Views, strong_view, weak_view

_WORTH_WORKERS = 60.0  # estimated seconds of work below which starting processes takes longer than it saves


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
        value |= {"weights": clip.weight_hash, "activation": clip.activation, "code": own_code()}
        value |= {"transform": clip.transform_id, "model": json.dumps(dict(clip.config), sort_keys=True, default=str)}
        sentences = self.setting.descriptions
        value["sentences"] = file_hash(Path(sentences)) if sentences and Path(sentences).is_file() else sentences
        value["data"] = _fingerprint(self.setting, self.entry.reads == "masks")
        source = bare_code(inspect.getsource(inspect.getmodule(self.entry.build)))  # of another package, perhaps
        value["module"] = hashlib.sha256(source.encode()).hexdigest()
        return hashlib.sha256(json.dumps([value, versions()], sort_keys=True).encode()).hexdigest()

    @property
    def cost(self) -> float:
        """A rough number of seconds on one core, for the order of work."""
        if self.entry.reads == "taps":
            return 0.5 + 2e-5 * self.n_train * self.epochs
        return 5 + 0.01 * self.epochs * (2 * self.n_train + self.n_val)

    def __str__(self) -> str:
        return f"{self.system}, {self.regime}, {self.n_train} images, seed {self.seed}"


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
    """

    run: Run
    arrays: dict[str, np.ndarray]
    history: History
    tensors: dict[str, Tensor] = field(repr=False)
    seconds: float

    @property
    def test(self) -> np.ndarray:
        return self.arrays["test"]

    @property
    def val(self) -> np.ndarray:
        return self.arrays["val"]

    def module(self) -> nn.Module:
        """The tuned system, in eval mode on the setting's device."""
        run = self.run
        module = run.entry.build(start_of(run), run.settings, run.seed)
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
    """
    paths = {run: _path(run) for run in dict.fromkeys(runs)}
    missing = [run for run, path in paths.items() if path is None or not path.is_file()]
    made = _compute_all(missing, scheduler, progress)
    return [made[run] if paths[run] is None else _read(run, paths[run]) for run in runs]


def missing(runs: Sequence[Run]) -> list[Run]:
    """Those that the store lacks."""
    return [run for run in dict.fromkeys(runs) if not ((path := _path(run)) and path.is_file())]


@lru_cache(maxsize=8)
def _fingerprint(setting: Setting, of_masks: bool) -> str:
    return (opened_masks(setting) if of_masks else opened(setting)[1]).fingerprint


def _path(run: Run) -> Path | None:
    return None if run.setting.cache is None else run.setting.cache / "runs" / f"{run.key}.safetensors"


def _read(run: Run, path: Path) -> Result:
    tensors, kept = store.read(path)
    arrays = {k.removeprefix("array."): v.numpy() for k, v in tensors.items() if k.startswith("array.")}
    tuned = {k.removeprefix("tuned."): v for k, v in tensors.items() if k.startswith("tuned.")}
    return Result(run, arrays, History(**kept["history"]), tuned, kept["seconds"])


# --- who computes ---


def _compute_all(runs: Sequence[Run], scheduler: str | None, progress: bool) -> dict[Run, Result]:
    """Every run computed, the longest first, so that no worker ends on one; those without a store are returned."""
    made, failed = {}, {}
    runs = sorted(runs, key=lambda run: -run.cost)
    wanted = scheduler or os.environ.get("HC_LAFTER_SCHEDULER")
    if any(run.setting.cache is None for run in runs):
        wanted = "none"  # workers answer through the store
    few = sum(run.cost for run in runs) < _WORTH_WORKERS or len(runs) < 2
    pace = 0.1 if sys.stderr.isatty() else 30  # seconds: a log gets a line now and then
    bar = tqdm(total=len(runs), desc="runs", unit="run", leave=False, mininterval=pace, disable=not (progress and runs))
    with bar:
        if wanted == "none" or (few and not wanted):
            for run in runs:
                bar.set_postfix_str(str(run))
                try:
                    made[run] = compute(run, progress=progress and len(runs) < 3)  # of many one bar is enough
                except (ValueError, OSError, RuntimeError) as error:  # the others go on
                    failed[run] = f"{type(error).__name__}: {error}"
                bar.update()
        else:
            with _client(None if wanted == "local" else wanted, len(runs)) as client:
                for run, error in _spread(client, runs):
                    failed |= {run: error} if error else {}
                    bar.update()
    if failed:
        run, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed, first {run}: {error.removeprefix('ValueError: ')}")
    return made


@contextmanager
def _client(address: str | None, most: int) -> Iterator[Any]:
    import dask  # seconds to import, and most calls find all they need
    from dask.distributed import Client, LocalCluster

    if address:
        with Client(address) as client:
            yield client
        return
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(most, gpus or cores)
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)
    dask.config.set({
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
    from dask.distributed import as_completed, wait

    texted = (run for run in runs if run.classifier != "templates" and run.entry.reads != "masks")
    settings = dict.fromkeys(run.setting for run in texted)
    shared = [(setting, seed) for setting in settings for seed in setting.seeds]
    # what fails here fails again, and by name, in the runs that need it
    wait([client.submit(_gathered, setting, pure=False) for setting in settings])
    wait([client.submit(train_of_seed, *one, pure=False) for one in shared])
    of = {client.submit(_kept, run, run.key, key=f"run-{run.key}"): run for run in runs}
    for future in as_completed(of):
        error = future.exception()
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
    """A system's own settings, those of its preset for the setting's CLIP and data where it has presets."""
    if entry.preset is None:
        return entry.configure()
    data = opened_masks(setting) if entry.reads == "masks" else opened(setting)[1]
    return entry.configure(opened(setting)[0].name, data.name)


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
) -> Result:
    """Tune one system on some training images, choose its epoch on validation, and read the test images once.

    Args:
        clip, material, scenes: in the place of what the run's setting names: the CLIP; what the tower says, for a
            system that reads whole images; a data set with masks. Where one is given nothing is kept.

    Raises:
        ValueError: a regime that the system does not have; as `fit`.
    """
    if run.regime not in run.entry.regimes:
        raise ValueError(f"{run.system} has no regime {run.regime!r}: choose one of {', '.join(run.entry.regimes)}.")
    given = {"clip": clip, "material": material, "scenes": scenes}
    kept = None if any(thing is not None for thing in given.values()) else _path(run)
    if kept is None:
        return _computed(run, None, progress, **given)
    with store.locked(kept):  # whoever wants the same run waits, and reads
        return _read(run, kept) if kept.is_file() else _computed(run, kept, progress, **given)


def _computed(run: Run, kept: Path | None, progress: bool, *, clip, material, scenes) -> Result:
    _threads(run.setting)
    began = time.perf_counter()
    clip = clip or (opened(run.setting)[0] if material is None else material.clip)
    if any(hasattr(run.settings, name) for name in ("layers", "segments")):
        check_depth(clip)
    if run.entry.reads == "masks":
        scenes = opened_masks(run.setting) if scenes is None else scenes
        start = start_of(run, clip=clip, scenes=scenes)
        system, arrays, history = _masks(run, clip, scenes, start, kept, progress)
    else:
        material = gather(run.setting) if material is None else material
        system, arrays, history = _classes(run, material, start_of(run, material=material), kept, progress)
    held = {id(p) for group in system.parameter_groups() for p in group["params"]}
    tuned = {n: p.detach().cpu() for n, p in system.named_parameters() if id(p) in held}
    if run.entry.fit is not None or hasattr(system, "settle"):
        tuned |= {n: b.detach().cpu() for n, b in system.named_buffers() if not n.startswith("visual.")}
    result = Result(run, arrays, history, tuned, time.perf_counter() - began)
    if kept is not None:
        tensors = {f"array.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        tensors |= {f"tuned.{k}": v for k, v in tuned.items()}
        store.write(kept, tensors, run=repr(run), history=vars(history), seconds=result.seconds)
        _checkpoint(kept).unlink(missing_ok=True)
    return result


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
        settings: of the system's configuration, such as ``tokens=16``.

    Returns:
        The tuned system; `hc_lafter.systems.save` writes it, its ``predict`` names pictures.

    Raises:
        ValueError: an unknown system, regime or setting, or as `hc_lafter.tuning.training.fit`.
    """
    entry = find(system)
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
        system, regime or entry.regimes[0], seed, setting, entry.configure(clip.name, data.name, **settings),
        n_train=images or everything, n_val=everything, epochs=epochs, batch_size=batch_size,
    )  # fmt: skip
    if run.regime == "label-free" and entry.reads == "images":
        run = replace(run, view="strong")
    given: dict[str, Any] = {"clip": clip}
    given |= {"scenes": data} if entry.reads == "masks" else {"material": material_of(setting, clip, data)}
    start = start_of(run, **given)
    result = compute(run, progress=progress, **given)
    if result.history.diverged:
        warnings.warn(result.history.diverged, stacklevel=2)
    module = entry.build(start, run.settings, seed)
    module.load_state_dict(result.tensors, strict=False)
    if entry.reads == "masks":
        return Trained(system, run.settings, module.to(device).eval(), clip, data.mask_classes, start.text, start.seen)
    recipe = ", ".join(str(part) for part in text_classifiers(setting, given["material"]).chosen)
    return Trained(system, run.settings, module.to(device).eval(), clip, data.classes, start.text, source=recipe)


def _checkpoint(kept: Path | None) -> Path | None:
    return None if kept is None else kept.with_suffix(".checkpoint")


def _classes(
    run: Run, material: Material, start: Start, kept: Path | None, progress: bool
) -> tuple[nn.Module, dict[str, np.ndarray], History]:
    setting, layers = run.setting, run.layers
    images = material.draw(run.n_train, run.seed) if run.n_train else np.array([], dtype=int)
    chosen = material.draw(run.n_val, 0, "val") if run.n_val else material.part["val"]
    test = material.part["test"] if run.n_test is None else material.draw(run.n_test, setting.seed, "test")
    history = History()
    if run.entry.fit is not None:
        pairs = ((material.taps(layers, at), material.labels[at]) for at in (images, chosen))
        system = run.entry.fit(start, run.settings, *pairs)
    else:
        system = run.entry.build(start, run.settings, run.seed)
    arrays = {}
    trained = run.entry.fit is None and run.regime != "no training"
    if trained and layers is not None:
        arrays = {f"{split} before": material.logits(system, at, layers).numpy() for split, at in
                  (("val", chosen), ("test", test))}  # fmt: skip
    if trained:
        history = _fit_classes(run, material, system, start, images, chosen, kept, progress)
    if trained and hasattr(system, "settle"):
        device = run.setting.device
        system.settle(material.taps(layers, chosen).to(device), material.labels[chosen].to(device))
    arrays |= {split: material.logits(system, at, layers).numpy() for split, at in (("val", chosen), ("test", test))}
    if trained and layers is not None:
        arrays["train"] = material.logits(system, images, layers).numpy()
    return system, arrays, history


def _fit_classes(
    run: Run,
    material: Material,
    system: nn.Module,
    start: Start,
    images: np.ndarray,
    chosen: np.ndarray,
    kept: Path | None,
    progress: bool,
) -> History:
    terms = regime_terms(run.regime, system, lam=run.lam, moving_teacher=run.moving_teacher)
    rows = {"label": material.labels, "distribution": material.targets(run.target, run.seed)}
    if run.regime == "label-free" and terms.teach is None:
        rows["pseudo"] = pseudo_labels(material, start.classifier, terms.threshold)
    if getattr(run.settings, "distillation", 0):
        rows["frozen"] = material.shared[:, -1]
    rows = {name: values[images] for name, values in rows.items()}
    if run.layers is not None:
        data: torch.utils.data.Dataset = Rows(student=material.taps(run.layers, images), **rows)
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

    phases, dropout = system.schedule(run.epochs), getattr(run.settings, "dropout", 0) > 0
    return _fit(run, system, data, terms, phases, validate, "accuracy", kept, progress, train_mode=dropout)


def _fit(run, system, data, terms, phases, validate, select, kept, progress, train_mode: bool = False) -> History:
    setting = run.setting
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a divergence stands in the history, and whoever reads it says so
        return fit(
            system, data, terms, phases,
            batch_size=run.batch_size, seed=run.seed, validate=validate, select=select, precision=setting.precision,
            device=setting.device, workers=0 if run.layers is not None else setting.workers,
            checkpoint=_checkpoint(kept), progress=progress, name=str(run), train_mode=train_mode,
        )  # fmt: skip


def _unseen(run: Run, scenes: Dataset) -> tuple[str, ...]:
    """Names of the classes without pixel labels in training.

    No split covers background as a class, and a system that is not trained needs none.
    """
    if run.regime == "no training" and run.setting.mask_split is None and BACKGROUND in scenes.mask_classes:
        return ()
    return mask_split(run.setting.mask_split, scenes).unseen


def _masks(
    run: Run, clip: Clip, scenes: Dataset, start: Start, kept: Path | None, progress: bool
) -> tuple[nn.Module, dict[str, np.ndarray], History]:
    setting = run.setting
    system = run.entry.build(start, run.settings, run.seed).to(setting.device)
    unseen, side = _unseen(run, scenes), clip.image_size
    protocol = masks.protocol_of(scenes) if run.regime == "no training" else None
    short = side if protocol is None else 3 * side // 2
    judge, exam = (
        masks.MaskViews(scenes.subset(masks.draw(scenes, split, n, 0)), clip, short=short)
        for split, n in (("val", run.n_val), ("test", run.n_test or len(scenes)))
    )

    def score(module: nn.Module, views: masks.MaskViews) -> Any:
        decide = getattr(module, "decide", lambda logits: logits)
        with setting.autocast():
            return masks.score_masks(
                lambda x: decide(module(x).logits), views, unseen=unseen, batch_size=setting.batch_size,
                device=setting.device, workers=setting.workers, progress=progress, protocol=protocol,
            )  # fmt: skip

    def validate(module: nn.Module) -> dict[str, float]:
        found = score(module, judge).compute()
        return {key: found[key] for key in ("seen", "unseen") if np.isfinite(found[key])}

    history = History()
    if run.regime != "no training":
        how = {"transductive": True} if run.regime == "transductive" else {}
        phases = system.schedule(run.epochs, **how)
        at = masks.draw(scenes, "train", run.n_train, run.seed)
        data = masks.MaskViews(scenes.subset(at), clip, size=(side, side))
        terms = regime_terms(run.regime, system)
        # who trains without labels of the unseen classes has none to choose an epoch with either
        history = _fit(run, system, data, terms, phases, validate, "seen", kept, progress, train_mode=True)
    return system, {"counts": np.asarray(score(system.eval(), exam).counts)}, history
