"""Writes the README's headline table from ``results/default``, so that no number there is typed.

Use: ``python -m hc_lafter.readme``.
"""

from __future__ import annotations

import json
from pathlib import Path

from hc_lafter.paths import find_root, write_whole

START, END = "<!-- headline: python -m hc_lafter.readme -->", "<!-- /headline -->"


def headline(results: Path) -> str:
    """Markdown table of notebook 01's accuracies.

    Args:
        results: the folder ``results/<profile>``.

    Raises:
        FileNotFoundError: notebook 01 has left no metrics there.
    """
    path = results / "01-feature-tapping" / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run run_all.py first.")
    rows = [r for r in json.loads(path.read_text(encoding="utf-8")) if r["metric"] == "top-1 accuracy"]
    cells = {r["system"]: f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rows}
    layers = sorted({int(name.rsplit(" ", 1)[1]) for name in cells if name.startswith("zero-shot")})
    n = {r["n"] for r in rows}
    seeds = {r["seeds"] for r in rows if r["seeds"]}
    lines = ["| layer | zero-shot | linear probe | probe minus last layer's |", "|---|---|---|---|"]
    lines += [
        f"| {k} | {cells[f'zero-shot, layer {k}']} | {cells[f'linear probe, layer {k}']} "
        f"| {cells.get(f'linear probe, layer {k} - layer {layers[-1]}', '')} |"
        for k in layers
    ]
    where = f"{min(n)} test images of the {rows[0]['dataset']}"
    told = f"Top-1 accuracy on {where}, 95% intervals; probe over {min(seeds)} seeds."
    return "\n".join([told, "", *lines])


def updated(readme: str, table: str) -> str:
    """The README's text with the table between its two marks."""
    head, rest = readme.split(START)
    return f"{head}{START}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    root = find_root()
    path = root / "README.md"
    write_whole(path, updated(path.read_text(encoding="utf-8"), headline(root / "results" / "default")))
