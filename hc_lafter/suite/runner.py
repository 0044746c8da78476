"""Runs one notebook: what went into it, whether it is up to date, its kernel, its failure in one sentence.

papermill (https://papermill.readthedocs.io) puts the parameters in, nbclient runs the cells. Around them stands what
their users miss: work that is up to date is skipped, the kernel is this very Python, a lost kernel or a cell left out
is a failure, and the executed copy is saved whole and free of times and paths, so that a second run writes the same
bytes. `chain` is the face of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import psutil

from hc_lafter.files import code_hash, file_hash, tidy_up, versions, write_whole
from hc_lafter.refusals import nearest
from hc_lafter.suite import provenance
from hc_lafter.suite.paths import NOTEBOOK, Places
from hc_lafter.suite.profiles import check_parameters, folder_name, load_profile, parameters

KERNEL_START = 180  # seconds: a cold disk or a loaded machine takes far more than nbclient's 60
# what a kernel does before its first cell: the imports that take seconds, without a name left behind
IMPORTS = "--IPKernelApp.exec_lines=exec('import hc_lafter.suite.plans', {})"
OUTPUT_WAIT = 60  # seconds until missing cell output counts as lost, and the run as failed (nbclient's own: 4)
WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
BESIDE = ("open_clip_config.json", "config.json", "preprocessor_config.json")  # what else decides what a checkpoint is
# fields of the profile that may name files -> what they may say else
POINTERS = {
    "data": ("world",),
    "mask_data": ("world",),
    "clip": ("embedded",),
    "random_clip": ("embedded",),
    "descriptions": ("mikels", "ekman"),
}
OURS = ("hc_lafter", "run_all", "tests", "benchmarks", "docs", "notebooks")  # what a checkout has beside it
RECORD = "record"  # the tag of the cell that says what an executed copy is
WIDGET = "application/vnd.jupyter.widget-view+json"


class NotebookFailed(Exception):
    """A notebook did not run to its end; the message says in one sentence where and why."""


@dataclass(frozen=True)
class Notebook:
    """A notebook on disk.

    Attributes:
        path: the source, without outputs.
        title: its first heading.
        overrides: what its parameters cell says already; the command line's overrides go before them.
        code: its cells' kinds, sources and tags, which is all that decides what it does.
    """

    path: Path
    title: str
    overrides: Mapping[str, Any]
    code: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.name[:2]


def find_chain(folder: Path) -> list[Notebook]:
    """The notebooks ``NN-name.ipynb`` of a folder, by number.

    Raises:
        ValueError: there are none, two share a number, or one cannot be read or lacks its parameters.
    """
    chain = [_read(path) for path in sorted(folder.glob("*.ipynb")) if NOTEBOOK.fullmatch(path.stem)]
    if not chain:
        raise ValueError(f"{folder} holds no notebook named like 01-feature-tapping.ipynb: run from a checkout.")
    for one, other in itertools.pairwise(chain):
        if one.number == other.number:
            raise ValueError(f"{one.path.name} and {other.path.name} share a number: rename one of them.")
    return chain


def _read(path: Path) -> Notebook:
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
        cells = [(c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", [])) for c in source["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a notebook ({_last_line(error)}): restore it from git.") from None
    try:
        given = parameters("\n".join(text for _, text, tags in cells if "parameters" in tags))
    except (SyntaxError, ValueError):
        raise ValueError(f"{path.name} computes in its parameters cell: keep it to literals.") from None
    if "profile" not in given or not isinstance(given.get("overrides"), dict):
        raise ValueError(
            f"{path.name} lacks its parameters: let a cell tagged 'parameters' say "
            "profile = 'default' and overrides = {}."
        )
    check_parameters(given, f"the parameters cell of {path.name}")
    lines = (line for kind, text, _ in cells if kind == "markdown" for line in text.splitlines())
    title = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
    return Notebook(path, title, given["overrides"], json.dumps(cells))


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
class Kernel:
    """A notebook's kernel, which may start ahead: it imports while another notebook runs.

    Attributes:
        client: nbclient's; ``client.nb`` is the notebook.
        log: the file of what no cell shows.
    """

    client: Any
    log: Path

    def start(self) -> None:
        """Start it, unless it is started, and do not wait for it."""
        if not self.client.km.has_kernel:
            with self.log.open("wb") as file:
                self.client.start_new_kernel(stdout=file, stderr=file)

    def end(self) -> None:
        """Kill it at once, if it is there."""
        if self.client.km is None or not self.client.km.has_kernel:  # nbclient lets go of its manager at the end
            return
        with contextlib.suppress(psutil.NoSuchProcess):  # gone by itself
            kernel = psutil.Process(self.client.km.provisioner.pid)
            processes = [*kernel.children(recursive=True), kernel]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=5)  # no zombie stays behind


@dataclass(frozen=True)
class Run:
    """What the notebooks are run with.

    Attributes:
        root: the repository.
        output: what holds ``results`` and ``figures``.
        profile: the profile's name.
        overrides: values given on the command line; they reach every notebook.
        chain: the notebooks of the repository.
        needs: number of a notebook -> numbers of lower ones whose files it reads.
        cache: where kernels keep features; None = the repository's own place.
        scheduler: address of the Dask scheduler that training is sent to; None = as the environment says.
    """

    root: Path
    output: Path
    profile: str
    overrides: Mapping[str, Any]
    chain: Sequence[Notebook]
    needs: Mapping[str, Sequence[str]]
    cache: Path | None = None
    scheduler: str | None = None

    def places(self, notebook: Notebook) -> Places:
        folder = folder_name(self.profile, load_profile(*self.given(notebook).values()))
        return Places(self.root, self.output, folder, notebook.name)

    def needed(self, notebook: Notebook) -> list[Notebook]:
        """The notebooks whose files a notebook reads."""
        return [other for other in self.chain if other.number in self.needs.get(notebook.number, ())]

    def given(self, notebook: Notebook) -> dict[str, Any]:
        """What papermill puts into the parameters cell."""
        return {"profile": self.profile, "overrides": {**notebook.overrides, **self.overrides}}

    @cached_property
    def keys(self) -> dict[str, str]:
        """Number of a notebook -> hex sha256 over all its inputs.

        They are its source, the profile, what the profile's values point at, the package's code and data, committed
        runs, the versions of Python and libraries, and the keys of those that it needs; of one that needs others also
        what `hc_lafter.suite.claims.trained` finds.

        Raises:
            ValueError: a value does not fit, or data or a checkpoint that one names is not there.
        """
        package = self.root / "hc_lafter"  # plots and weights included: whatever shows in a notebook
        code = code_hash(package if package.is_dir() else Path(__file__).parents[1], ("",))
        long = [file_hash(p) for p in sorted(self.root.glob("results/*/runs/*.parquet"))]
        beside = sorted(self.root.glob("results/reference/*/metrics.json")) if self.profile == "default" else []
        listed = functools.cache(fingerprint)  # once, since a folder may hold 100,000 images
        keys: dict[str, str] = {}
        for notebook in self.chain:
            values = load_profile(*self.given(notebook).values()).model_dump()
            contents = [values[name] and listed(name, values[name]) for name in POINTERS]
            needs = [keys[other.number] for other in self.needed(notebook)]
            also = [file_hash(path) for path in beside] if needs else []
            whole = [notebook.code, values, contents, code, long, also, versions(), needs]
            whole = json.dumps(whole, sort_keys=True)
            keys[notebook.number] = hashlib.sha256(whole.encode()).hexdigest()
        return keys

    def check(self) -> None:
        """Refuse names of a CLIP that are none, files beside the package that would hide a library, and a device or a
        precision that this machine lacks.

        Raises:
            ValueError, FileNotFoundError: one sentence with the value or the file.
        """
        for path in sorted(self.root.iterdir()):
            module = path.suffix == ".py" or (path / "__init__.py").is_file()
            if module and path.stem not in OURS and (library := _elsewhere(path.stem, self.root)):
                raise ValueError(f"{path} would be imported instead of the library {path.stem} ({library}): rename it.")
        specs = {self.given(n)["overrides"].get(name) for n in self.chain for name in ("clip", "random_clip")}
        for spec in filter(None, specs):
            if spec != "embedded" and not Path(spec).expanduser().exists():
                from hc_lafter.clip.load import resolve  # here, since it brings torch along

                resolve(spec)
        if scheduler := self.scheduler or os.environ.get("HC_LAFTER_SCHEDULER"):
            from hc_lafter.tuning.runs import check_address  # here, likewise

            check_address(scheduler)
        for profile in (load_profile(self.profile, self.given(n)["overrides"]) for n in self.chain):
            if profile.device not in ("auto", "cpu") or profile.precision == "bf16":
                from hc_lafter.suite.study import computes_with  # here, likewise

                computes_with(profile)

    def stamp(self, notebook: Notebook) -> Path:
        """The key with which it last ran to its end, and the hashes of what it wrote."""
        places = self.places(notebook)
        return places.state / "stamps" / places.profile / f"{notebook.name}.json"

    def up_to_date(self, notebook: Notebook) -> bool:
        """Whether it ran on the same inputs before, and every file that it wrote is still as it wrote it."""
        try:
            stamp = json.loads(self.stamp(notebook).read_text(encoding="utf-8"))
            outputs = {self.output / name: digest for name, digest in stamp["outputs"].items()}
            whole = all(file_hash(path) == digest for path, digest in outputs.items())
            return whole and stamp["key"] == self.keys[notebook.number] and self.places(notebook).metrics in outputs
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False  # no stamp, a damaged one, or an output gone: running again is always right

    def variables(self) -> dict[str, str]:
        """The environment of the kernels."""
        own = str(self.output / ".hc_lafter" / "ipython")
        given = {
            "HC_LAFTER_ROOT": str(self.root),
            "HC_LAFTER_OUTPUT": str(self.output),
            # The package beside the notebooks, whichever one is installed; not first, since ipykernel takes the first
            # place for the working folder, which it leaves out.
            "PYTHONPATH": os.pathsep.join([own, str(self.root), *filter(None, _python_path())]),
            # What lies in the working folder is no code of the run, nor is what the user's IPython starts with.
            "PYTHONSAFEPATH": "1",
            "IPYTHONDIR": own,
            "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),  # or the order of a set differs from run to run
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures land in the notebook whatever is set
            # How long a thread spins before it sleeps, while it waits for the others (GNU OpenMP, Linux). On an idle
            # machine this is as fast as its own 300,000; where another program keeps a core busy, ten times as fast.
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "5000"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning on every kernel start
            "HC_LAFTER_CACHE": self.cache and str(self.cache),
            "HC_LAFTER_SCHEDULER": self.scheduler,
        }
        return {name: value for name, value in given.items() if value is not None}

    def kernel(self, notebook: Notebook, *, timeout: int | None) -> Kernel:
        """A fresh kernel for `execute`, not yet started.

        Args:
            timeout: limit in seconds for one cell; None = none.
        """
        from papermill.iorw import load_notebook_node
        from papermill.parameterize import parameterize_notebook

        book = load_notebook_node(str(notebook.path))
        for cell in book.cells:
            if cell.cell_type == "code":  # what a run in Jupyter left behind
                cell.update(outputs=[], execution_count=None)
        book = parameterize_notebook(book, self.given(notebook), kernel_name="python3", language="python")
        client = _client(book, timeout)
        client.extra_arguments = [IMPORTS] if "hc_lafter.suite.study" in notebook.code else []
        return Kernel(client, self.places(notebook).state / f"kernel-{self.profile}-{notebook.number}.log")

    def execute(self, notebook: Notebook, kernel: Kernel, *, on_cell: Callable[[str], object]) -> None:
        """Run a notebook in a fresh kernel and save its executed copy; where it fails, beside the last whole one.

        Args:
            kernel: of `kernel`; it has ended afterwards.
            on_cell: called with ``cell 3 of 20`` and the like.

        Raises:
            NotebookFailed: it did not run to its end, or wrote no metrics.
            OSError: something cannot be written.
            KeyboardInterrupt: Ctrl-C.
        """
        import nbformat

        places, key = self.places(notebook), self.keys[notebook.number]  # of what it starts from
        for folder in (places.provenance.parent, places.figures, self.stamp(notebook).parent):
            tidy_up(folder)
        self.stamp(notebook).unlink(missing_ok=True)  # from here on the outputs are nobody's until the end is reached
        before = _written(places.metrics)
        book = kernel.client.nb
        failure = _run_cells(kernel, on_cell)
        tidied = tidy(book, self.root)
        place = 1 if failure else 0  # what failed stands first
        tidied.cells.insert(place, _record(notebook, places.profile))
        if not failure and _written(places.metrics) in (None, before):
            failure = "it wrote no metrics.json: let its last cell call study.finish()"
        write_whole(places.failed if failure else places.executed, nbformat.writes(tidied) + "\n")
        if failure:
            raise NotebookFailed(failure)
        places.failed.unlink(missing_ok=True)
        provenance.renew(places, places.executed)
        files = [*places.results.rglob("*"), *places.figures.rglob("*")]
        outputs = {p.relative_to(self.output).as_posix(): file_hash(p) for p in sorted(files) if p.is_file()}
        write_whole(self.stamp(notebook), json.dumps({"key": key, "outputs": outputs}, indent=1) + "\n")


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


def _elsewhere(name: str, root: Path) -> str | None:
    """Where Python finds a library of this name outside a folder; None where it is none."""
    if name in sys.stdlib_module_names:
        return "Python's own"
    found = PathFinder.find_spec(name, [p for p in sys.path if p and Path(p).resolve() != root.resolve()])
    return found.origin if found else None


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _client(book: Any, timeout: int | None) -> Any:
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(AsyncKernelManager):
        """Starts this very Python, whatever kernels a user has installed under whatever name."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())  # its command starts with sys.executable

    limits = {"timeout": timeout, "startup_timeout": KERNEL_START, "iopub_timeout": OUTPUT_WAIT}
    keeps = {"raise_on_iopub_timeout": True, "record_timing": False, "store_widget_state": False}
    client = NotebookClient(book, kernel_manager_class=ThisPython, **limits, **keeps)
    client.create_kernel_manager()
    return client


def _run_cells(kernel: Kernel, on_cell: Callable[[str], object]) -> str | None:
    """Run a notebook's cells in place, each after the other; what stopped it, or None.

    The cell that failed then has an error among its outputs, and a mark before it as papermill makes it.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat.v4 import new_markdown_cell, new_output
    from papermill import execute as papermill

    client, book = kernel.client, kernel.client.nb
    index, cell = 0, None
    try:
        kernel.start()
        with client.setup_kernel():  # not client.execute(), which takes Ctrl-C and SIGTERM for itself
            try:
                for index, cell in enumerate(book.cells):
                    on_cell(f"cell {index + 1} of {len(book.cells)}")
                    client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
            except KeyboardInterrupt:  # nbclient's way out would wait for the answer of a kernel that is busy
                kernel.end()
                raise
        return None
    except CellExecutionError as error:
        name, reason = error.ename, _last_line(error.evalue)
    except Exception as error:  # the kernel or its messages failed, not a statement: the cell that was running says so
        name, reason = type(error).__name__, _last_line(error)
        if isinstance(error, DeadKernelError):
            reason = "the kernel died, most often for want of memory: lower batch_size or n_train"
        elif isinstance(error, CellTimeoutError) and "IOPub" not in str(error):
            reason = f"the cell ran longer than {client.timeout} s: give a higher --timeout"
        if cell is None:
            return f"before its first cell: {reason}"
        kept = [output for output in cell.outputs if output.output_type != "error"]
        cell.outputs = [*kept, new_output("error", ename=name, evalue=reason)]
    cell.execution_count = client.code_cells_executed  # a dying kernel may or may not have said it
    tags = {"tags": [papermill.ERROR_MARKER_TAG]}
    book.cells.insert(index, new_markdown_cell(papermill.ERROR_ANCHOR_MSG, metadata=tags))
    book.cells.insert(0, new_markdown_cell(papermill.ERROR_MESSAGE_TEMPLATE % cell.execution_count, metadata=tags))
    return f"at In [{cell.execution_count}], {name}: {reason}"


def tidy(notebook: Any, root: Path) -> Any:
    """An executed notebook without what differs from run to run and machine to machine.

    Random cell ids and papermill's notes go; progress bars and sliders, which are dead without their kernel, go;
    folders of this machine in texts become ``<repository>``, ``<python>`` and ``~``.
    """
    folders = {str(root): "<repository>", sys.prefix: "<python>", str(Path.home()): "~"}
    folders = {folder: folders[folder] for folder in sorted(folders, key=len, reverse=True) if len(folder) > 3}
    # whole paths alone, coloured ones too: a picture in a page, in base64, may have the letters of a short one (/root)
    paths = re.compile(rf"(?:(?<![\w+])|(?<=\dm))({'|'.join(map(re.escape, folders))})(?![\w+=-])")

    def clean(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return type(value)((k, clean(v, k)) for k, v in value.items())
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, str) and not key.startswith("image/"):
            return paths.sub(lambda found: folders[found[1]], value)
        return value

    notebook.metadata["papermill"] = {"parameters": notebook.metadata.get("papermill", {}).get("parameters", {})}
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("papermill", None)
        added = [tag for tag in cell.metadata.get("tags", []) if tag.startswith(("injected", "papermill"))]
        if added:
            cell["id"] = f"{added[0]}-{number}"
        if cell.cell_type == "code":
            cell.outputs = clean([output for output in cell.outputs if WIDGET not in output.get("data", {})])
    return notebook


def _record(notebook: Notebook, profile: str) -> Any:
    """The cell that says what an executed copy is and which notebook to open; `Study` holds it to that."""
    from nbformat.v4 import new_markdown_cell

    text = f"> **The record of a run** (`{profile}`): it refuses to run again, so that it stays one. "
    text += f"To change or run it, open `notebooks/{notebook.path.name}`."
    return new_markdown_cell(text, id=RECORD, metadata={"tags": [RECORD]})


def _last_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def fingerprint(parameter: str, spec: str) -> str | None:
    """Hex sha256 over names, sizes and times of the files that a value of `POINTERS` names; None where it names none.

    Those are a folder's files, links followed; a table and the images that it names, whatever separates its columns; a
    checkpoint and the configurations beside it, which decide its activation; a file of sentences.

    Raises:
        ValueError: there is no such folder or file, or no data set of the name before the colon.
    """
    path = Path(spec).expanduser()
    if spec in POINTERS[parameter]:
        return None
    if parameter.endswith("clip") and not path.exists():
        path = Path(spec.partition("@")[2] or spec).expanduser()
        if path.suffix not in WEIGHTS and "@" not in spec:
            return None  # a tag of open_clip
    elif ":" in spec and not path.exists():  # a published set, as emoset:FOLDER
        from hc_lafter.data.emotion.sets import SETS
        from hc_lafter.data.listing import split_spec
        from hc_lafter.data.masks.sets import SETS as MASK_SETS  # here, since they bring torch along

        path = split_spec(spec, (*SETS, *MASK_SETS))[1]
    if not path.exists():
        known = ", ".join(map(repr, POINTERS[parameter]))
        raise ValueError(
            f"{parameter}={spec} is neither {known} nor a folder or file here: check the path, it counts from "
            f"{Path.cwd()}."
        )
    base = path if path.is_dir() else path.parent
    files, seen = [path, *(base / name for name in BESIDE if parameter.endswith("clip"))], set()
    for folder, below, names in os.walk(path, followlinks=True):  # as the loader does, links that loop left out
        below[:] = [name for name in below if os.path.realpath(Path(folder, name)) not in seen]
        seen |= {os.path.realpath(Path(folder, name)) for name in below}
        files += [Path(folder, name) for name in names]
    if path.is_file() and parameter.endswith("data"):
        cells = set(re.split(r"""[,;\t\r\n"]+""", path.read_text("utf-8", "replace").replace("\\", "/")))
        files += [base / cell for cell in cells if "." in cell]
    found = {os.path.relpath(file, base): file.stat() for file in files if os.path.isfile(file)}
    lines = [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in sorted(found.items())]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()
