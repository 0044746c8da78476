"""Runs one notebook of the chain: what went into it, whether it is up to date, its kernel, its failure in one sentence.

papermill (https://papermill.readthedocs.io) does the running. Around it stands what its users miss: work that is up to
date is skipped, the kernel is this very Python, a lost kernel or a cell left out is a failure, and the executed copy is
saved whole and free of times and paths, so that a second run writes the same bytes. `run_all.py` is the face of it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat

from hc_lafter.files import code_hash, file_hash, versions, write_whole
from hc_lafter.refusals import nearest
from hc_lafter.suite.paths import NOTEBOOK, Places
from hc_lafter.suite.profiles import load_profile

KERNEL_START = 180  # seconds: a cold disk or a loaded machine takes far more than papermill's 60
OUTPUT_WAIT = 60  # seconds until missing cell output counts as lost, and the run as failed (nbclient's own: 4)
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
POINTERS = ("data", "mask_data", "clip", "random_clip", "descriptions")  # parameters that may name files
WIDGET = "application/vnd.jupyter.widget-view+json"

# How far a fresh run may lie from the committed one: |fresh - committed| <= absolute + relative * |committed|.
TOLERANCES = {
    # Another processor adds in another order, and a prediction on the border flips: 0.02 is 20 images of 1,000.
    "fraction": (0.02, 0.0),
    # Counts of parameters, images, layers: nothing rounds them.
    "count": (0.0, 0.0),
    # Everything else (nats, cosines, ratios, deviations near zero): float32 through a few hundred optimiser steps.
    "": (1e-3, 0.05),
}
EXACT = ("n", "seeds", "unit")  # decided by the profile, not by arithmetic


class NotebookFailed(Exception):
    """A notebook did not run to its end; the message says in one sentence where and why."""


@dataclass(frozen=True)
class Notebook:
    """A notebook on disk.

    Attributes:
        path: the source, without outputs.
        needs: numbers of the notebooks whose artifacts it reads.
        title: its first heading.
        parameters: what its cell tagged ``parameters`` assigns: name -> number, text or None (for all else).
        code: its cells' kinds, sources and tags, which is all that decides what it does.
    """

    path: Path
    needs: tuple[str, ...]
    title: str
    parameters: Mapping[str, Any]
    code: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.name[:2]


def find_chain(folder: Path, needs: Mapping[str, Sequence[str]]) -> list[Notebook]:
    """The notebooks ``NN-name.ipynb`` of a folder in order of their numbers; other files are no part of the chain.

    Args:
        needs: number -> numbers of earlier notebooks; those that are not on disk are left out.

    Raises:
        ValueError: there are none, two share a number, or one cannot be read or has no parameters cell.
    """
    paths = sorted(path for path in folder.glob("*.ipynb") if NOTEBOOK.fullmatch(path.stem))
    if not paths:
        raise ValueError(
            f"{folder} holds no notebook named like 01-feature-tapping.ipynb: run from a complete checkout."
        )
    there = [path.stem[:2] for path in paths]
    for first, second in itertools.pairwise(paths):
        if first.stem[:2] == second.stem[:2]:
            raise ValueError(f"{first.name} and {second.name} share a number: rename one of them.")
    return [_read(path, tuple(n for n in needs.get(path.stem[:2], ()) if n in there)) for path in paths]


def _read(path: Path, needs: tuple[str, ...]) -> Notebook:
    try:
        source = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat passes on whatever its parsers raise
        raise ValueError(f"{path.name} is no notebook ({_last_line(error)}): restore it from git.") from None
    language = source.metadata.get("kernelspec", {}).get("language", "python")
    if language.lower() != "python":
        raise ValueError(
            f"{path.name} wants a kernel for {language}: choose a Python kernel in JupyterLab and save it."
        )
    cell = next((cell for cell in source.cells if "parameters" in cell.metadata.get("tags", [])), None)
    if cell is None:
        raise ValueError(f"{path.name} has no cell tagged 'parameters': tag the cell that assigns them in JupyterLab.")
    try:
        body = ast.parse(cell.source).body
    except SyntaxError as error:
        raise ValueError(
            f"{path.name} has a parameters cell that is no Python ({error.msg}): keep it to literals."
        ) from None
    parameters = {name: value for node in body for name, value in _assigned(node)}
    lines = (line for cell in source.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    title = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
    code = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in source.cells]
    return Notebook(path, needs, title, parameters, json.dumps(code))


def _assigned(node: ast.stmt) -> list[tuple[str, Any]]:
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    value = node.value.value if isinstance(node.value, ast.Constant) else None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [(target.id, value) for target in targets if isinstance(target, ast.Name)]


def find_one(chain: Sequence[Notebook], wanted: str) -> Notebook:
    """The notebook that ``1``, ``01``, its name or its file name means.

    Raises:
        ValueError: there is none such.
    """
    stem = Path(wanted).name.removesuffix(".ipynb")
    for notebook in chain:
        if notebook.name == stem or notebook.number == stem.zfill(2):
            return notebook
    names = [notebook.name for notebook in chain]
    raise ValueError(f"notebook {wanted!r} is not there{nearest(stem, names)}: choose one of {', '.join(names)}.")


@dataclass(frozen=True)
class Run:
    """One run of the chain: everything that a notebook's result depends on, beside the notebook.

    Attributes:
        root: the repository (``notebooks``, ``hc_lafter``).
        output: what holds ``results``, ``figures`` and the stamps.
        profile: the profile's name.
        overrides: fields of `hc_lafter.suite.profiles.Profile` given anew; a relative path among them counts from the
            working folder, in the kernel, too, since kernels start in it.
        chain: all notebooks, also those that are not to run: the inputs of one are inputs of those that need it.
        cache: where kernels keep features; None = the repository's own place.
    """

    root: Path
    output: Path
    profile: str
    overrides: Mapping[str, Any]
    chain: Sequence[Notebook]
    cache: Path | None = None
    _keys: dict[str, str] = field(default_factory=dict, repr=False)
    _contents: dict[tuple[str, str], str | None] = field(default_factory=dict, repr=False)

    def places(self, notebook: Notebook) -> Places:
        return Places(self.root, self.output, self.profile, notebook.name)

    def parameters(self, notebook: Notebook) -> dict[str, Any]:
        """What papermill injects: the profile, and those overrides that the parameters cell declares."""
        given = {key: value for key, value in self.overrides.items() if key in notebook.parameters}
        return {"profile": self.profile, **given}

    @cached_property
    def surroundings(self) -> str:
        """Hash of the package's code and data, and the versions of Python and libraries."""
        return code_hash() + json.dumps(versions())

    def content(self, key: str, spec: str) -> str | None:
        """Fingerprint of what a parameter of `POINTERS` points at, taken once.

        Raises:
            ValueError: it is not there.
        """
        if (key, spec) not in self._contents:
            of_data = {"data": data_fingerprint, "mask_data": data_fingerprint, "descriptions": text_fingerprint}
            fingerprint = of_data.get(key, clip_fingerprint)
            self._contents[key, spec] = fingerprint(spec)
        return self._contents[key, spec]

    def key(self, notebook: Notebook) -> str:
        """Hex sha256 over all inputs: source, parameters, what they point at, code, versions, and its needs' keys.

        Raises:
            ValueError: data or a checkpoint that it names is not there.
        """
        if notebook.name not in self._keys:
            given = self.parameters(notebook)
            needs = [self.key(other) for other in self.chain if other.number in notebook.needs]
            # Data may be named by the parameters cell itself, too.
            effective = {**notebook.parameters, **given}
            specs = {key: effective[key] for key in POINTERS if isinstance(effective.get(key), str)}
            contents = {key: self.content(key, spec) for key, spec in specs.items()}
            whole = [notebook.code, given, contents, self.surroundings, needs]
            self._keys[notebook.name] = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        return self._keys[notebook.name]

    def stamp(self, notebook: Notebook) -> Path:
        return self.places(notebook).state / "stamps" / self.profile / f"{notebook.name}.json"

    def up_to_date(self, notebook: Notebook) -> bool:
        """Whether it ran on the same inputs before, and every file that it wrote is still as it wrote it."""
        try:
            stamp = json.loads(self.stamp(notebook).read_text(encoding="utf-8"))
            key, outputs = stamp["key"], dict(stamp["outputs"])
        except (OSError, ValueError, KeyError, TypeError):
            return False  # no stamp, or a damaged one: running again is always right
        files = {name: self.output / name for name in outputs}
        metrics = self.places(notebook).metrics.relative_to(self.output).as_posix()
        return (
            key == self.key(notebook)
            and metrics in outputs
            and all(path.is_file() and file_hash(path) == outputs[name] for name, path in files.items())
        )

    def check_writable(self, notebook: Notebook) -> None:
        """Find out before the run, not after it, that its results have no place.

        Raises:
            OSError: results, figures or working state cannot be written.
        """
        places = self.places(notebook)
        for folder in (places.results, places.figures, places.state / "running"):
            write_whole(folder / ".can-be-written", b"").unlink()

    @property
    def threads(self) -> int:
        """How many threads each kernel computes with; 0 = as many as torch takes, all cores as a rule."""
        return load_profile(self.profile, self.overrides).threads

    def execute(self, notebook: Notebook, *, timeout: int | None = None, bar: bool = False, row: int = 0) -> None:
        """Run a notebook in a fresh kernel and save its executed copy, also where it fails.

        Args:
            timeout: limit in seconds for one cell; None = none.
            bar: show the progress over cells on stderr, on the terminal's line ``row`` from here.

        Raises:
            NotebookFailed: it did not run to its end, or wrote no metrics.
            OSError: something cannot be written.
        """
        places = self.places(notebook)
        half = places.state / "running" / f"{self.profile}-{notebook.name}.ipynb"
        key = self.key(notebook)
        self.stamp(notebook).unlink(missing_ok=True)  # from here on the outputs are nobody's until the end is reached
        before = _mark(places.metrics)
        try:
            with _environment(self._variables()):
                shown = {"desc": notebook.name, "leave": False, "position": row} if bar else False
                _papermill(notebook, half, self.parameters(notebook), timeout, shown)
        finally:
            # Interrupted, the last whole copy stays; failed or finished, this one takes its place.
            if half.exists() and not isinstance(sys.exception(), KeyboardInterrupt):
                executed = tidy(nbformat.read(half, as_version=4), self.root)
                write_whole(places.executed, nbformat.writes(executed) + "\n")
            half.unlink(missing_ok=True)
        if _mark(places.metrics) in (None, before):
            raise NotebookFailed("it ran, but wrote no metrics.json: let its last cells call study.save_metrics")
        files = sorted(
            path for folder in (places.results, places.figures) for path in folder.rglob("*") if path.is_file()
        )
        outputs = {path.relative_to(self.output).as_posix(): file_hash(path) for path in files}
        write_whole(self.stamp(notebook), json.dumps({"key": key, "outputs": outputs}, indent=1) + "\n")

    def _variables(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH"))))
        return {
            "HC_LAFTER_ROOT": str(self.root),
            "HC_LAFTER_OUTPUT": str(self.output),
            "PYTHONPATH": path,  # the package beside the notebooks, whichever one is installed
            "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),  # or the order of a set differs from run to run
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures land in the notebook whatever is set
            # How long a thread spins before it sleeps, while it waits for the others (GNU OpenMP, Linux). On an idle
            # machine this is as fast as its own 300,000; where another program keeps a core busy, ten times as fast.
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "5000"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning on every kernel start
            **({"HC_LAFTER_CACHE": str(self.cache)} if self.cache else {}),
        }


def data_fingerprint(spec: str) -> str | None:
    """A cheap fingerprint of a user's images: names, sizes and times of the files; for a csv also its bytes.

    Returns:
        Hex sha256, or None for the embedded world, which is part of the package's code.

    Raises:
        ValueError: there is no such folder or file, or no data set of the name before the colon.
    """
    path = Path(spec).expanduser()
    if spec == "world":
        return None
    if ":" in spec and not path.exists():  # a published set, as emoset:FOLDER
        from hc_lafter.data.emotion import sets as emotion_sets
        from hc_lafter.data.masks import sets as segmentation_sets  # here, since they bring torch along

        known = segmentation_sets if segmentation_sets.is_mask_spec(spec) else emotion_sets
        path = known.split_spec(spec)[1]
    if path.is_dir():
        files, seen = [], set()
        for folder, below, names in os.walk(path, followlinks=True):  # as the loader does, links that loop left out
            below[:] = [name for name in below if os.path.realpath(Path(folder, name)) not in seen]
            seen |= {os.path.realpath(Path(folder, name)) for name in below}
            files += [Path(folder, name) for name in names]
        return _listing(sorted(files), path)
    if path.is_file():
        table = path.read_bytes()
        # Whatever separates the columns, and with the slashes of either system.
        cells = set(re.split(r"""[,;\t\r\n"]+""", table.decode("utf-8", "replace").replace("\\", "/")))
        files = [path.parent / cell for cell in sorted(cells) if "." in cell and os.path.isfile(path.parent / cell)]
        return hashlib.sha256(table + _listing(files, path.parent).encode()).hexdigest()
    raise ValueError(
        f"data={spec} is neither 'world' nor a folder or file here: check the path, it counts from {Path.cwd()}."
    )


def _listing(files: Sequence[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        status = file.stat() if file.exists() else file.lstat()  # a link that leads nowhere
        digest.update(
            f"{os.path.relpath(file, base)} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "replace")
        )
    return digest.hexdigest()


def clip_fingerprint(spec: str) -> str | None:
    """Hex sha256 of a checkpoint file, or None for a tag or the embedded CLIP.

    Raises:
        ValueError: the spec looks like a file, and there is none.
    """
    path = Path(spec).expanduser()
    if not path.exists() and "@" in spec:
        path = Path(spec.partition("@")[2]).expanduser()
    if path.is_file():
        beside = path.with_name("open_clip_config.json")  # decides activation and preprocessing where it is there
        return file_hash(path) + (file_hash(beside) if beside.is_file() else "")
    if path.suffix in WEIGHTS or "@" in spec:
        raise ValueError(f"checkpoint {spec} is no file here: check the path, it counts from {Path.cwd()}.")
    return None


def text_fingerprint(spec: str) -> str | None:
    """Hex sha256 of a file of sentences, or None for those of the package.

    Raises:
        ValueError: there is no such file.
    """
    if Path(spec).is_file():
        return file_hash(Path(spec))
    if spec in ("mikels", "ekman"):
        return None
    raise ValueError(
        f"descriptions={spec} is neither 'mikels', 'ekman' nor a file here: check the path, which counts from "
        f"{Path.cwd()}."
    )


def _mark(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file is written anew, with the same bytes too."""
    status = path.stat() if path.exists() else None
    return status and (status.st_mtime_ns, status.st_ino)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _kernel_manager(log: Path) -> type:
    """A kernel manager that starts this very Python, whatever kernels a user has installed under whatever name.

    Args:
        log: where the kernel process says what no cell shows, e.g. why it died.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            if self._kernel_spec is None:
                self._kernel_spec = KernelSpec(**get_kernel_dict())  # its command starts with sys.executable
            return self._kernel_spec

        async def start_kernel(self, **options: Any) -> None:
            with log.open("wb") as file:
                await super().start_kernel(stdout=file, stderr=file, **options)

    return ThisPython


def _papermill(notebook: Notebook, half: Path, parameters: dict[str, Any], timeout: int | None, bar: Any) -> None:
    if importlib.util.find_spec("ipykernel") is None:
        raise NotebookFailed(f"{sys.executable} has no Jupyter kernel: install ipykernel into it")
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.execute import raise_for_execution_errors

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would log, we say in one sentence
    # papermill fills braces in paths with parameters.
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook.path, half))
    try:
        try:
            executed = papermill.execute_notebook(
                source,
                target,
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=bar,
                start_timeout=KERNEL_START,
                execution_timeout=timeout,
                iopub_timeout=OUTPUT_WAIT,
                record_timing=False,
                kernel_manager_class=_kernel_manager(half.with_suffix(".log")),
            )
        except papermill.PapermillExecutionError:
            raise
        except Exception as error:
            # The kernel or its messages failed, not a statement: mark the cell that was running, as papermill would.
            if isinstance(error, DeadKernelError):
                reason = (
                    "the kernel died, most often for want of memory: "
                    "lower batch_size or n_train, or close other programs"
                )
            elif isinstance(error, CellTimeoutError) and timeout and "IOPub" not in str(error):
                reason = f"the cell ran longer than {timeout} s: give a higher --timeout"
            else:
                reason = _last_line(error)
            copy = nbformat.read(half, as_version=4) if half.exists() else nbformat.v4.new_notebook()
            cells = (cell for cell in copy.cells if cell.cell_type == "code")
            begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
            if not begun:
                raise NotebookFailed(f"before its first cell: {reason}") from error
            output = nbformat.v4.new_output("error", ename=type(error).__name__, evalue=reason, traceback=[reason])
            kept = [other for other in begun[-1].outputs if other.output_type != "error"]  # what stopping it left
            begun[-1].outputs = [*kept, output]
            # A dying kernel may or may not have said which number the cell has.
            begun[-1].execution_count = 1 + max((cell.execution_count or 0 for cell in begun[:-1]), default=0)
            raise_for_execution_errors(copy, str(half))
            raise
    except papermill.PapermillExecutionError as error:
        copy = nbformat.read(half, as_version=4)
        ours = [c for c in copy.cells if not any("papermill-error" in tag for tag in c.metadata.get("tags", []))]
        injected = next(i for i, c in enumerate(ours) if "injected-parameters" in c.metadata.get("tags", []))
        # Counted from 1 in the source, which has no such cell.
        number = error.cell_index + (error.cell_index < injected)
        lines = [line for line in str(error.evalue).strip().splitlines() if line.strip()] or [""]
        cause = f"{error.ename}: {lines[-1].strip()}"
        raise NotebookFailed(f"in cell {number} (In [{error.exec_count}]): {cause}") from error
    # A cell that calls sys.exit() ends the run, and papermill calls it a success.
    for number, cell in enumerate(executed.cells):
        skipped = "skip-execution" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and cell.source.strip() and not skipped and cell.execution_count is None:
            raise NotebookFailed(f"in cell {number}: it was never reached, the cell before left the notebook")


def tidy(notebook: Any, root: Path) -> Any:
    """An executed notebook without what differs from run to run and machine to machine.

    Times, random cell ids and papermill's paths go; progress bars and sliders, which are dead without their kernel, go;
    folders of this machine in texts become ``<repository>``, ``<python>`` and ``~``.
    """
    folders = {str(root): "<repository>", sys.prefix: "<python>", str(Path.home()): "~"}
    folders = {folder: folders[folder] for folder in sorted(folders, key=len, reverse=True) if len(folder) > 3}
    notebook.metadata["papermill"] = {"parameters": notebook.metadata.get("papermill", {}).get("parameters", {})}
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        added = next((tag for tag in cell.metadata.get("tags", []) if tag.startswith(("injected", "papermill"))), None)
        if added:
            cell["id"] = f"{added}-{number}"
        if cell.cell_type == "code":
            kept = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
            cell.outputs = [nbformat.from_dict(_replaced(output, folders)) for output in kept]
    return notebook


def _replaced(value: Any, folders: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: v if key.startswith("image/") else _replaced(v, folders) for key, v in value.items()}
    if isinstance(value, list):
        return [_replaced(item, folders) for item in value]
    if isinstance(value, str):
        for folder, name in folders.items():
            value = value.replace(folder, name)
    return value


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def compare(committed: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """What two runs' metrics do not agree on, within `TOLERANCES`.

    Args:
        committed, fresh: tidy records as `hc_lafter.suite.study.metric` makes them.

    Returns:
        One line per difference, and the number of records that are equal to the last digit.
    """
    old, new = ({(r["system"], r["dataset"], r["split"], r["metric"]): r for r in rows} for rows in (committed, fresh))
    lines, equal = [], 0
    for key in dict.fromkeys([*old, *new]):
        name = " / ".join(key)
        if key not in old or key not in new:
            lines.append(f"{name}: only in the {'fresh' if key in new else 'committed'} run")
            continue
        equal += old[key] == new[key]
        absolute, relative = TOLERANCES.get(old[key]["unit"], TOLERANCES[""])
        for part in ("value", "low", "high", *EXACT):
            a, b = old[key][part], new[key][part]
            if part in EXACT or a is None or b is None:
                if a != b:
                    lines.append(f"{name}: {part} {b}, committed {a}")
            elif abs(b - a) > absolute + relative * abs(a):
                lines.append(f"{name}: {part} {b}, committed {a}, allowed {absolute + relative * abs(a):.3g} off")
    return lines, equal
