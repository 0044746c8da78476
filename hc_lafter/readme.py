"""Writes the README's headline tables from ``results/default``, so that no number there is typed.

Use: ``python -m hc_lafter.readme``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hc_lafter.paths import find_root, write_whole

START, END = "<!-- headline: python -m hc_lafter.readme -->", "<!-- /headline -->"


def headline(results: Path) -> str:
    """Markdown tables: every classification system (notebook 04), then every layer (notebook 01).

    Args:
        results: the folder ``results/<profile>``.

    Raises:
        FileNotFoundError: one of the two notebooks has left no metrics there.
    """
    return f"{_systems(results)}\n\n<details><summary>Layer by layer</summary>\n\n{_layers(results)}\n\n</details>"


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
