"""What notebook 09 shows, as HTML: tables, pictures, published numbers beside measured ones, provenance.

The HTML lies in ``templates/``; whatever is put into it is escaped there.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from IPython.display import HTML
from PIL import Image

from hc_lafter.suite import claims, comparing, ledger, words
from hc_lafter.suite import provenance as kept
from hc_lafter.suite.claims import CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE, SUPPORTED, Results

TEMPLATES = Path(__file__).with_name("templates")
PUBLISHED, ALT_TEXTS = (Path(__file__).with_name(f"{name}.yaml") for name in ("published", "alt_texts"))
FIGURES = {  # notebook -> figures of it that the report shows, in order
    "01-feature-tapping": ["layers", "patch-pca"],
    "02-nga-weights": ["sigma-sweep", "learned-weights"],
    "03-text-adapter": ["transfer", "sources"],
    "04-full-training": ["accuracy", "comparisons", "distributions", "wheel", "curves-supervised", "cost"],
    "05-cascade-vs-hybrid": ["trained", "masks", "predictions", "differences", "arms", "cost"],
    "06-cka-alignment": ["frozen", "tuned", "moved", "text-alignment", "sigma-and-gap"],
    "07-sc-clip-diagnostics": ["ablation", "differences", "lof-maps", "links", "sweeps"],
    "08-ablations": ["ablations", "labels", "training"],
}


@cache
def environment() -> jinja2.Environment:
    """Where templates come from; text that is put into them is escaped unless it is markup of theirs."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    made.globals |= {"signs": ledger.SIGNS, "label": words.label, "because": words.because}
    return made


def _part(name: str, *args: Any) -> str:
    return getattr(environment().get_template("parts.html.j2").module, name)(*args)


def show(*parts: str) -> HTML:
    """Parts of the report as the output of a cell."""
    return HTML("\n".join(part for part in parts if part))


def table(frame: pd.DataFrame, caption: str = "", *, cards: bool = False) -> str:
    """A frame as an HTML table that scrolls inside its own box; nothing for an empty one.

    Args:
        cards: on a phone each row becomes a card, for rows of words.
    """
    if frame.empty:
        return ""
    rows = list(frame.itertuples(index=False))
    return _part("grid", [str(head) for head in frame.columns], rows, caption, "cards" if cards else "numbers")


def ledger_table(records: Iterable[Mapping[str, Any]], figures: Iterable[str] = ()) -> str:
    """The ledger as HTML, findings first: verdict, claim, number, what was asked, n, figure; the reasons unfold.

    Args:
        records: as `claims.judge` gives them.
        figures: ``notebook/figure`` of those on the same page, which are linked to.
    """
    figures, rows = set(figures), []
    for record in chain.from_iterable(claims.counted(records).values()):
        row, figure = ledger.deciding(record), record["evidence"]["figure"]
        said = {"measured": ledger.measured(record), "anchor": anchor(figure) if figure in figures else ""}
        said |= {"of": words.label(row)} if said["measured"] else {"of": ""}
        said |= {"required": ledger.required(row), "sample": ledger.sample(row), "said": ledger.verdict(record)}
        rows.append({**record, **said})
    return _part("ledger", rows)


def verdict_list(records: Iterable[Mapping[str, Any]]) -> str:
    """Findings, and what was counted, each verdict with its claims, linked into the ledger."""
    order = (CONTRADICTED, SUPPORTED, INCONCLUSIVE, NOT_TESTABLE)
    groups = {
        group: [(verdict, alike) for verdict in order if (alike := [r for r in of_it if r["verdict"] == verdict])]
        for group, of_it in claims.counted(records).items()
    }
    return _part("verdicts", groups)


def absent(results: Results) -> list[str]:
    """The notebooks that have left no metrics."""
    return [name for name in FIGURES if not (results.folder / name / "metrics.json").is_file()]


def verdict(results: Results, records: Sequence[Mapping[str, Any]]) -> str:
    """In two lines which notebooks did not run, by name, and how the claims came out."""
    return _part("verdict", absent(results), len(FIGURES), claims.tally(records))


def published(results: Results) -> list[str]:
    """Each published table with, in a table of its own, what is of the same kind in this run."""
    sections = []
    for given in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["tables"]:
        theirs = pd.DataFrame.from_dict(given["rows"], "index", columns=given["columns"]).rename_axis("system")
        caption = f"Published. {given['setting']} Numbers: {given['metric']}."
        theirs = table(theirs.reset_index(), caption)
        ours = _ours(results, **given["measured"])
        sections.append(_part("published", given["title"], theirs, given["source"], ours))
    return sections


def _ours(results: Results, notebook: str, rows: Sequence[str], metrics: Mapping[str, str]) -> str:
    found = comparing.masked(results) if notebook == comparing.MASKS else comparing.rows(results, notebook)
    found = found[(found["minus"] == "") & found["name"].isin(rows) & found["metric"].isin(metrics)]
    if found.empty:
        return ""
    wide = found.pivot(index="name", columns="metric", values="text").dropna()
    wide = wide.loc[[name for name in rows if name in wide.index], list(metrics)].rename(columns=metrics)
    first = found.iloc[0]
    share = "per cent, " if first["unit"] == "fraction" else ""
    caption = (
        f"Measured here: {share}{first['n']:,} test images of {place(first['dataset'])}, notebook {notebook[:2]}. "
    )
    caption += "Other images, classes and tower: not comparable number by number."
    return table(wide.rename_axis("system").reset_index(), caption)


def place(dataset: str) -> str:
    """A data set in words."""
    return "the embedded toy world" if dataset in claims.WORLD else dataset


def anchor(figure: str) -> str:
    """The id of a figure within the page, from ``notebook/figure``."""
    return "figure-" + figure.replace("/", "-")


def picture(path: Path, caption: str = "", *, narrow: bool = False) -> str:
    """A figure as HTML with the picture inside, its colours reduced to 256, so that a page of them stays small.

    Args:
        narrow: on a phone show its version for one column, where that lies beside it.

    Raises:
        FileNotFoundError: there is no such picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run notebook {path.parent.name[:2]} first.")
    name, single = f"{path.parent.name}/{path.stem}", path.with_name(f"{path.stem}-single.png")
    beside = _encoded(single) if narrow and single.is_file() else ""
    shows = yaml.safe_load(ALT_TEXTS.read_text(encoding="utf-8")).get(name, name)
    return _part("figure", anchor(name), name, _encoded(path), beside, caption, shows)


def _encoded(path: Path) -> str:
    """A picture in 256 colours, in base64."""
    small = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def pictures(
    figures: Path,
    names: Iterable[str],
    *,
    strict: bool = False,
    narrow: bool = False,
    instead: Mapping[str, Path] | None = None,
) -> str:
    """`picture` of each ``notebook/figure`` under the folder ``figures/<profile>``.

    Args:
        strict: a figure that was not drawn is an error; otherwise a line says so. narrow: as in `picture`.
        instead: as `trained_figures` gives them; a caption says so.
    """
    made = []
    for name in names:
        path, caption = figures / f"{name}.png", ""
        if name in (instead or {}):
            path, caption = instead[name], f"Profile {claims.TRAINED}, which trains until nothing more is gained."
        found = path.is_file() or strict
        made.append(picture(path, caption, narrow=narrow) if found else _part("undrawn", name))
    return "\n".join(made)


def trained_figures(results: Results, records: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
    """``notebook/figure`` -> the picture that ``results.trained`` has of what the report shows; but for those of claims
    that rest on ``results`` itself."""
    if results.trained is None:
        return {}
    folder, beside = results.trained.folder.parents[1] / "figures" / claims.TRAINED, results.trained.beside
    own = {r["evidence"]["figure"] for r in records if not str(ledger.deciding(r)["file"]).startswith(beside)}
    names = chain.from_iterable(figures_shown(records).values())
    paths = {name: folder / f"{name}.png" for name in names if name not in own}
    return {name: path for name, path in paths.items() if path.is_file()}


def figures_shown(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Notebook -> ``notebook/figure`` of what the report shows of it: `FIGURES`, and what a claim's number rests on."""
    shown = {notebook: [f"{notebook}/{name}" for name in names] for notebook, names in FIGURES.items()}
    for figure in sorted({r["evidence"]["figure"] for r in records if r["value"] is not None} - {None}):
        of_notebook = shown.setdefault(figure.split("/")[0], [])
        of_notebook += [figure] * (figure not in of_notebook)
    return shown


def provenance(folder: Path) -> pd.DataFrame:
    """Notebooks x what their numbers come from; hashes by their first eight digits."""
    lines = []
    for name, entry in kept.read(folder).items():  # a CLIP or data set may be given by its hash or name alone
        words = {key: {"name": entry[key]} for key in ("clip", "data") if isinstance(entry[key], str)}
        lines.append({"notebook": name, **entry, **words})
    found = pd.json_normalize(lines)
    found = found.reindex(columns=found.columns.union(["notebook", "data.name"], sort=False))  # where nothing ran, too
    heads = {
        "notebook": "notebook",
        "clip.name": "CLIP",
        "clip.weight_hash": "weights",
        "data.name": "data",
        "data.fingerprint": "fingerprint",
        "code": "code",
        "git.commit": "commit",
        "git.dirty": "changed since",
        "profile.seeds": "seeds",
        "device": "device",
        "precision": "precision",
        "hardware.processor": "processor",
        "hardware.threads": "threads",
        "hardware.memory_gib": "memory, GiB",
        "versions.python": "Python",
        "versions.torch": "torch",
    }
    found = found[[key for key in heads if key in found]].rename(columns=heads).astype(object).fillna("").astype(str)
    for digest in found.columns.intersection(["weights", "fingerprint", "code", "commit"]):
        found[digest] = found[digest].str[:8]
    return found
