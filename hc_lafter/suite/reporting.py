"""What notebook 09 shows, as HTML: tables, pictures, published numbers beside measured ones, provenance."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image

from hc_lafter.suite.claims import CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE, SUPPORTED, Results
from hc_lafter.suite.comparing import of
from hc_lafter.suite.ledger import SIGNS, anchor, counts, span

PUBLISHED = Path(__file__).with_name("published.yaml")


def table(frame: pd.DataFrame, caption: str = "", *, cards: bool = False) -> str:
    """A frame as an HTML table that scrolls inside its own box.

    Args:
        cards: on a phone each row becomes a card, for rows of words.
    """
    heads = [escape(str(name)) for name in frame.columns]
    body = ""
    for row in frame.astype(str).itertuples(index=False):
        cells = (f'<td data-head="{head}">{escape(cell)}</td>' for head, cell in zip(heads, row, strict=True))
        body += f"<tr>{''.join(cells)}</tr>"
    head = "".join(f"<th>{name}</th>" for name in heads)
    above = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    kind = "cards" if cards else "numbers"
    whole = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{above}<div class="box">{whole}</div>'


def published(results: Results) -> list[str]:
    """Each published table with, in a table of its own, what is of the same kind in this run."""
    sections = []
    for told_of in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["tables"]:
        columns, rows = told_of["columns"], told_of["rows"]
        theirs = pd.DataFrame([{"system": name, **dict(zip(columns, row, strict=True))} for name, row in rows.items()])
        kind, found = told_of["measured"], of(results, told_of["measured"]["notebook"])
        wanted = kind["metrics"].items()
        names = [name for name in kind["rows"] if all((name, metric) in found for metric, _ in wanted)]
        caption = f"Published. {told_of['setting']} Numbers: {told_of['metric']}."
        parts = [f"<h4>{escape(told_of['title'])}</h4>", table(theirs, caption)]
        parts.append(f"<p class='source'>Source: {escape(told_of['source'])}.</p>")
        if names:
            first = found[names[0], next(iter(kind["metrics"]))]
            share = "per cent, " if first["unit"] == "fraction" else ""
            caption = f"Measured here: {share}{first['n']:,} test images of {place(first['dataset'])}, notebook "
            caption += f"{kind['notebook'][:2]}. Other images, classes and tower: not comparable number by number."
            ours = [{"system": n} | {head: span(found[n, m], unit=False) for m, head in wanted} for n in names]
            parts.append(table(pd.DataFrame(ours), caption))
        sections.append("\n".join(parts))
    return sections


def place(dataset: str) -> str:
    """A data set in words."""
    return "the embedded toy world" if dataset == "world" else dataset


def verdict_list(records: Iterable[Mapping[str, Any]]) -> str:
    """Each verdict with its claims, linked into the ledger."""
    records, parts = list(records), []
    found = counts(records)
    for verdict in (CONTRADICTED, SUPPORTED, INCONCLUSIVE, NOT_TESTABLE):
        said = (r for r in records if r["verdict"] == verdict)
        names = [f'<li><a href="#{r["id"]}">{r["id"]}</a> {escape(r["statement"])}</li>' for r in said]
        if names:
            kind, sign = verdict.split()[0], SIGNS[verdict][0]
            parts.append(f'<div class="{kind}"><b>{sign} {found[verdict]} {verdict}</b><ul>{"".join(names)}</ul></div>')
    return f'<div class="verdicts">{"".join(parts)}</div>'


def picture(path: Path, caption: str = "") -> str:
    """A figure as HTML with the picture inside, its colours reduced to 256, so that a page of them stays small.

    Raises:
        FileNotFoundError: there is no such picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run notebook {path.parent.name[:2]} first.")
    small, name = io.BytesIO(), f"{path.parent.name}/{path.stem}"
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    shown = f'<img alt="{escape(caption or name)}" src="data:image/png;base64,{data}">'
    return f'<figure id="{anchor(name)}">{shown}<figcaption>{escape(caption)} <code>{name}</code></figcaption></figure>'


def figures_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """``notebook/figure`` of every figure that a claim names, once, in the order of the notebooks."""
    return sorted({r["evidence"]["figure"] for r in records if r["evidence"]["figure"]})


def as_shipped(path: Path, profile: Mapping[str, Any]) -> bool:
    """Whether every notebook in ``provenance.json`` ran under the very profile, nothing given anew."""
    whole, asked = json.loads(path.read_text(encoding="utf-8"))["notebooks"], json.loads(json.dumps(profile))
    return all(entry["profile"] == asked for entry in whole.values())


def provenance(path: Path) -> pd.DataFrame:
    """Notebooks x what their numbers come from; hashes by their first eight digits."""
    whole = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
    lines = []
    for name, entry in whole.items():
        clip, data, git, hardware = (entry.get(key) or {} for key in ("clip", "data", "git", "hardware"))
        clip, data = ({"name": v} if isinstance(v, str) else v for v in (clip, data))
        lines.append(
            {
                "notebook": name,
                "CLIP": f"{clip.get('name', '')} {clip.get('weight_hash', '')[:8]}".strip(),
                "data": f"{data.get('name', '')} {data.get('fingerprint', '')[:8]}".strip(),
                "code": entry["code"][:8],
                "commit": f"{git['commit'][:8]}{' + changes' if git['dirty'] else ''}" if git else "",
                "seeds": entry["profile"]["seeds"],
                "device": f"{entry['device']}, {entry['precision']}",
                "hardware": f"{hardware['processor']}, {hardware['threads']} of {hardware['cores']} cores",
                "memory, GiB": hardware["memory_gib"],
                "Python, torch": f"{entry['versions']['python']}, {entry['versions'].get('torch', '')}",
            }
        )
    return pd.DataFrame(lines)
