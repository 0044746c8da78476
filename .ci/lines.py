"""Counts lines: of the package by room, of the notebooks by cell. Use: ``python .ci/lines.py``."""

from __future__ import annotations

import ast
import io
import json
import statistics
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines that hold code: neither docstring nor comment alone nor blank."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for t in tokens if t.type not in NO_CODE for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def package() -> None:
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for path in sorted((ROOT / "hc_lafter").rglob("*.py")):
        parts, source = path.relative_to(ROOT / "hc_lafter").parts, path.read_text(encoding="utf-8")
        for room in (parts[0] if len(parts) > 1 else "(no room)", "all"):
            for i, n in enumerate((1, len(source.splitlines()), code_lines(source))):
                rooms[room][i] += n
    rooms["all"] = rooms.pop("all")  # last
    print(f"{'room':12} {'files':>5} {'lines':>6} {'code':>6}")
    for room, (files, lines, code) in rooms.items():
        print(f"{room:12} {files:5} {lines:6} {code:6}")


def notebooks() -> None:
    print(f"\n{'notebook':24} {'cells':>5} {'code':>6} {'median':>6} {'largest':>7}")
    every: list[int] = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        sizes = [sum(bool(line.strip()) for line in source.splitlines()) for source in sources]
        print(f"{path.stem:24} {len(sizes):5} {sum(sizes):6} {statistics.median(sizes):6g} {max(sizes):7}")
        every += sizes
    print(f"{'all':24} {len(every):5} {sum(every):6} {statistics.median(every):6g} {max(every):7}")


if __name__ == "__main__":
    package()
    notebooks()
