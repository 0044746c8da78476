"""Records in words: numbers, intervals and names as one reads them."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

RECALIBRATED = ", recalibrated"  # ends a system's name where its settings were chosen for this CLIP


def number(value: float, unit: str, *, sign: bool = False) -> str:
    """A number as one reads it: fractions as per cent (or points), counts whole, others to three digits."""
    plus = "+" if sign else ""
    if unit == "fraction":
        text = f"{100 * value:{plus}.1f}"
    elif abs(value) >= 1000 or (unit == "count" and float(value).is_integer()):
        text = f"{value:{plus},.0f}"
    else:
        text = f"{value:{plus}#.3g}".rstrip(".")
    return text.replace("-", "−", 1) if text[:1] == "-" else text


def plain(text: str) -> str:
    """A line of Markdown that says a text as it stands: HTML, links, formulas and emphasis in the name of a class are
    shown and do nothing. ``**bold**`` is left, since notebooks write it."""
    escaped = html.escape(" ".join(text.split()), quote=False).replace("\\", "\\\\")
    escaped = re.sub(r"(?<!\*)\*(?!\*)|(?<!\w)_|_(?!\w)|[`~]|\[(?![-+−\d])|\](?=[(\[:])|^[#+-]", r"\\\g<0>", escaped)
    # a formula does not reach from one element into another; a backslash would not keep MathJax from it
    return escaped.replace("$", "<span>&#36;</span>")


def spanned(value: str, ends: Sequence[str]) -> str:
    """``0.8 [0.2, 1.4]`` of a value and two ends; of two more ``0.8 [0.2, 1.4], all together [-0.1, 1.7]``."""
    intervals = [f"[{low}, {high}]" for low, high in zip(ends[::2], ends[1::2], strict=True)]
    return ", all together ".join([" ".join([value, *intervals[:1]]), *intervals[1:]])


def span(row: Mapping[str, Any], *, unit: bool = True) -> str:
    """A record's value with its interval and unit: ``55.5 [53.2, 57.8] %``; of a difference ``+4.2 [...] points``.

    A difference whose interval leaves out zero without a verdict carries the interval of all comparisons together.
    """
    if row["value"] is None:  # what a rule asks for and no run gave
        return ""
    sign = bool(row.get("minus")) and row["unit"] == "fraction"
    ends = [] if row["low"] is None or row["low"] == row["high"] else [row["low"], row["high"]]
    together = [row[name] for name in ("low_all", "high_all") if row.get(name) is not None]
    value, *ends = (number(x, row["unit"], sign=sign) for x in (row["value"], *ends, *together))
    text = spanned(value, ends)
    word = {"fraction": "points" if sign else "%", "count": "", "unitless": ""}.get(row["unit"], row["unit"])
    return f"{text} {word}".rstrip() if unit else text


def measured(row: Mapping[str, Any]) -> str:
    """`span`, but of a number out of published tables, which is said: ``published 16.2 to 18.6 %``."""
    if not row.get("source"):
        return span(row)
    ends = {end: span({**row, "value": row[end], "low": None, "high": None}) for end in ("low", "high")}
    least = "" if row["low"] == row["high"] else f"{ends['low'].split()[0]} to "
    return f"published {least}{ends['high']}"


def because(row: Mapping[str, Any]) -> str:
    """Why a row of the ledger has its verdict; of a published number also out of which tables it is."""
    if not row.get("source"):
        return row["why"]
    return f"{measured(row)}, to be {required(**row['check'], unit=row['unit'])} ({row['source']})"


def name(row: Mapping[str, Any]) -> str:
    """A system with its regime and labels, as tables name it; that masks were learned inductively is not said."""
    labels = f"{int(row['n_train']):,} labels" if row.get("n_train") and row["n_train"] == row["n_train"] else ""
    return ", ".join(filter(None, (row["system"], (row.get("regime") or "").replace("inductive", ""), labels)))


def label(row: Mapping[str, Any]) -> str:
    """What was measured: ``LaFTer, supervised minus zero-shot, top-1 accuracy``; of a quotient also what divides."""
    divided = f" / {row['over']['metric']}" if row.get("over") else ""
    return ", ".join((f"{name(row)} minus {row['minus']}" if row.get("minus") else name(row), row["metric"])) + divided


def required(kind: str, bounds: list[float], unit: str) -> str:
    """What a check asks for, in the unit of `span`: ``at least 2``."""
    scale = 100 if unit == "fraction" else 1
    words = [f"{scale * b:,.0f}" if abs(b) >= 1000 else f"{scale * b:.4g}" for b in bounds]
    return f"{kind.replace('equals', 'exactly').replace('_', ' ')} {' and '.join(words)}".replace("-", "−")
