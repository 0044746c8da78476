"""Writes the README's headline tables from ``results/default``, so that no number there is typed.

Use: ``python -m hc_lafter.suite.readme``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hc_lafter.files import write_whole
from hc_lafter.suite import ledger
from hc_lafter.suite.paths import find_root

START, END = "<!-- headline: python -m hc_lafter.suite.readme -->", "<!-- /headline -->"


def headline(results: Path) -> str:
    """Markdown tables: classification systems (notebook 04), masks (notebook 05), claims (09), layers (notebook 01).

    Args:
        results: the folder ``results/<profile>``.

    Raises:
        FileNotFoundError: one of the four notebooks has left nothing there.
    """
    layers = f"<details><summary>Layer by layer</summary>\n\n{_layers(results)}\n\n</details>"
    return "\n\n".join([_systems(results), _masks(results), _claims(results), layers])


def _systems(results: Path) -> str:
    rows = {r["system"]: r for r in _rows(results, "04-full-training") if r["metric"] == "top-1 accuracy"}
    compared = pd.read_parquet(results / "04-full-training" / "comparisons.parquet")
    compared = compared[compared["b"] == "zero-shot, no training"].set_index("a")
    seen = next(iter(rows.values()))
    lines = ["| system | training | top-1 accuracy | minus zero-shot | verdict |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        system, _, regime = name.rpartition(", ")
        if " - " in name or regime not in ("no training", "label-free", "supervised"):
            continue
        paired = ("", "")
        if name in compared.index:
            c = compared.loc[name]
            paired = (f"{c['value']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]", c["verdict"])
        lines.append(f"| {system} | {regime} | {_cell(row)} | {paired[0]} | {paired[1]} |")
    seeds = max(r["seeds"] or 1 for r in rows.values())
    told = (
        f"Top-1 accuracy on {seen['n']} test images of the {seen['dataset']}, {seeds} seeds, 95% intervals; "
        "differences paired on images and seeds, verdicts after Holm's correction."
    )
    return "\n".join([told, "", *lines])


def _masks(results: Path) -> str:
    metrics = ("seen mIoU", "unseen mIoU", "harmonic mean of seen and unseen")
    rows = [r for r in _rows(results, "05-cascade-vs-hybrid") if r["metric"] in metrics and r["low"] is not None]
    cells = {(r["system"], r["metric"]): r for r in rows}
    names = list(dict.fromkeys(r["system"] for r in rows))
    first = rows[0]
    told = (
        f"Masks of {first['n']} test images of the {first['dataset']}, {max(r['seeds'] for r in rows)} seeds, 95% "
        "intervals. Cascade-CLIP, its one-decoder baseline and the dense hybrid learned from pixels of seen classes."
    )
    lines = ["| system | mIoU, seen classes | mIoU, unseen classes | harmonic mean |", "|---|---|---|---|"]
    lines += [f"| {name} | " + " | ".join(_cell(cells[name, metric]) for metric in metrics) + " |" for name in names]
    return "\n".join([told, "", *lines])


def _claims(results: Path) -> str:
    path = results / "claims.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run run_all.py first.")
    records = json.loads(path.read_text(encoding="utf-8"))
    of_each = ", ".join(f"{count} {verdict}" for verdict, count in ledger.counts(records).items() if count)
    lines = ["| | claim | verdict | measured |", "|---|---|---|---|"]
    for record in records:
        said = f"{ledger.SIGNS[record['verdict']][0]} {record['verdict']}"
        lines.append(f"| {record['id']} | {record['statement']} | {said} | {ledger.measured(record)} |")
    told = f"Of {len(records)} claims of the design documents: **{of_each}**, each by a rule fixed beforehand."
    return "\n".join([told, "", "<details><summary>Claim by claim</summary>", "", *lines, "", "</details>"])


def _layers(results: Path) -> str:
    rows = [r for r in _rows(results, "01-feature-tapping") if r["metric"] == "top-1 accuracy"]
    cells = {r["system"]: _cell(r) for r in rows}
    layers = sorted({int(name.rsplit(" ", 1)[1]) for name in cells if name.startswith("zero-shot")})
    lines = ["| layer | zero-shot | linear probe | probe minus last layer's |", "|---|---|---|---|"]
    lines += [
        f"| {k} | {cells[f'zero-shot, layer {k}']} | {cells[f'linear probe, layer {k}']} "
        f"| {cells.get(f'linear probe, layer {k} - layer {layers[-1]}', '')} |"
        for k in layers
    ]
    return "\n".join(lines)


def _rows(results: Path, notebook: str) -> list[dict]:
    path = results / notebook / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run run_all.py first.")
    return json.loads(path.read_text(encoding="utf-8"))


def _cell(row: dict) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def updated(readme: str, table: str) -> str:
    """The README's text with the tables between its two marks."""
    head, rest = readme.split(START)
    return f"{head}{START}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    root = find_root()
    path = root / "README.md"
    write_whole(path, updated(path.read_text(encoding="utf-8"), headline(root / "results" / "default")))
