"""The claims ledger to look at: as an HTML table and as one figure. Verdicts are `hc_lafter.suite.claims`' own."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hc_lafter.suite import claims
from hc_lafter.suite.claims import CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE, SUPPORTED, VERDICTS
from hc_lafter.suite.plots import NEUTRAL
from hc_lafter.suite.plots import VERDICTS as SHADES

# Sign, colour and marker of a verdict: told apart without colour, too.
SIGNS = {
    SUPPORTED: ("✓", SHADES["better"][0], "^"),
    CONTRADICTED: ("✗", SHADES["worse"][0], "v"),
    INCONCLUSIVE: ("?", "#555555", "o"),
    NOT_TESTABLE: ("–", "#555555", "_"),
}


def told(number: float, unit: str, *, sign: bool = False, digits: int = 1) -> str:
    """A number as one reads it: fractions as per cent (or points), counts whole, others to three digits."""
    plus = "+" if sign else ""
    if unit == "fraction":
        text = f"{100 * number:{plus}.{digits}f}"
    elif abs(number) >= 1000 or (unit == "count" and float(number).is_integer()):
        text = f"{number:{plus},.0f}"
    else:
        text = f"{number:{plus}#.3g}".rstrip(".")
    return text.replace("-", "−", 1) if text[:1] == "-" else text


def span(row: Mapping[str, Any], *, sign: bool = False, unit: bool = True) -> str:
    """A record's value with its interval and unit: ``55.5 [53.2, 57.8] %``."""
    text = told(row["value"], row["unit"], sign=sign)
    if row["low"] is not None and row["low"] != row["high"]:
        text += f" [{told(row['low'], row['unit'], sign=sign)}, {told(row['high'], row['unit'], sign=sign)}]"
    named = {"fraction": "points" if sign else "%", "count": "", "unitless": ""}.get(row["unit"], row["unit"])
    return f"{text} {named}".rstrip() if unit else text


def anchor(figure: str) -> str:
    """The id of a figure within the page, from ``notebook/figure``."""
    return "figure-" + figure.replace("/", "-")


@cache
def _rules() -> dict[str, claims.Claim]:
    return {claim.id: claim for claim in claims.load().claims}


def checks(claim: str) -> list[claims.Check]:
    """The tests of a claim, in the order in which its evidence is read."""

    def flat(rule: claims.Check | claims.Parts) -> list[claims.Check]:
        return [rule] if isinstance(rule, claims.Check) else [check for part in rule.of for check in flat(part)]

    return flat(_rules()[claim].rule)


def deciding(record: Mapping[str, Any]) -> tuple[claims.Check, dict[str, Any]] | None:
    """The test that decides a claim and the row that it read; None where nothing could be read."""
    for check, row in zip(checks(record["id"]), record["evidence"]["read"], strict=False):
        if row["why"] == record["evidence"]["why"]:
            return check, row
    return None


def _is_difference(row: Mapping[str, Any]) -> bool:
    return row["unit"] == "fraction" and (" - " in row["system"] or row["metric"].startswith("difference"))


def measured(record: Mapping[str, Any]) -> str:
    """A claim's deciding number with interval and unit."""
    found = deciding(record)
    if found is None:
        return ""
    row = found[1] | ({"unit": "ratio"} if "over" in found[1] else {})
    return span(row, sign=_is_difference(row))


def asked(check: claims.Check, row: Mapping[str, Any]) -> str:
    """What a test asks for, in the unit of `measured`."""
    scale = 100 if row["unit"] == "fraction" and "over" not in row else 1
    bounds = [f"{scale * b:,.0f}" if abs(b) >= 1000 else f"{scale * b:.4g}" for b in check.bounds]
    return f"{check.kind.replace('_', ' ')} {' and '.join(bounds)}".replace("-", "−")


def sample(row: Mapping[str, Any]) -> str:
    """What a number rests on: images (or rounds) and seeds."""
    if row.get("source"):
        return "published"
    parts = [f"{row['n']:,}" if row["n"] else "", f"{row['seeds']} seeds" if (row["seeds"] or 0) > 1 else ""]
    return " × ".join(filter(None, parts)) or "counted"


def ledger_table(records: Iterable[Mapping[str, Any]], figures: Iterable[str] = ()) -> str:
    """The ledger as HTML: verdict, claim, number, what was asked, n, figure; the reasons unfold.

    Args:
        records: as `claims.judge` gives them.
        figures: ``notebook/figure`` of those on the same page, which are linked to.
    """
    figures = set(figures)
    heads = ("verdict", "claim", "measured", "asked for", "n", "figure")
    lines = []
    for r in records:
        found, evidence = deciding(r), r["evidence"]
        sign, word = SIGNS[r["verdict"]][0], r["verdict"].replace("not testable here", "not testable")
        name = evidence["figure"]
        link = f'<a href="#{anchor(name)}">{escape(name[:2])}</a>' if name in figures else ""
        parts = "".join(
            f"<li>{SIGNS[e['verdict']][0]} {escape(e['system'])}, {escape(e['metric'])}: {escape(e['why'])}</li>"
            for e in evidence["read"]
        )
        why = f"<ul>{parts}</ul>" if parts else f"<p>{escape(evidence['why'])}</p>"
        cells = (
            f'<b class="sign">{sign}</b> {word}',
            f"<b>{r['id']}</b> {escape(r['statement'])}<details><summary>why</summary>"
            f"<p>The rule: {escape(r['rule']['reading'])}.</p>{why}</details>",
            escape(measured(r)),
            escape(asked(*found)) if found else "",
            escape(sample(found[1])) if found else "",
            link,
        )
        kind = r["verdict"].split()[0]
        body = "".join(f'<td data-head="{head}">{cell}</td>' for head, cell in zip(heads, cells, strict=True))
        lines.append(f'<tr id="{r["id"]}" class="{kind}">{body}</tr>')
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="box"><table id="ledger" class="ledger cards">{body}</table></div>'


def counts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Verdict -> how many claims, all four verdicts."""
    count = Counter(record["verdict"] for record in records)
    return {verdict: count[verdict] for verdict in VERDICTS}


def rests_on_time(record: Mapping[str, Any]) -> bool:
    """Whether a rule reads timings, which differ from machine to machine."""
    return any(check.row.file == "timings.json" for check in checks(record["id"]))


def margin(check: claims.Check, row: Mapping[str, Any]) -> float:
    """How far a number lies from the nearest bound, in half-widths of its 95% interval; above zero: for the claim.

    Beyond 1 the interval excludes the bound. An exact number is infinitely far, or 0 at the bound.
    """

    def beyond(bound: float, direction: int) -> float:
        gap = direction * (row["value"] - bound)
        toward = row["low"] if row["value"] > bound else row["high"]
        width = abs(row["value"] - toward)
        return gap / width if width else float(np.copysign(np.inf, gap)) if gap else 0.0

    if check.kind == "equals":
        return np.inf if row["value"] == check.bounds[0] else -np.inf
    up = {"above": (1,), "at_least": (1,), "below": (-1,), "at_most": (-1,), "between": (1, -1)}[check.kind]
    return min(beyond(bound, direction) for bound, direction in zip(check.bounds, up, strict=True))


def draw_ledger(records: Sequence[Mapping[str, Any]], *, width: float = 9.5, reach: float = 6.0) -> Figure:
    """The ledger as one figure: each claim's distance from its bound, its verdict, its number.

    Args:
        width: of the figure, inches.
        reach: half-widths at which the axis ends; what lies beyond, and exact counts, stand at its ends.
    """
    rows, y, ticks = [], 0.0, {}
    for source in dict.fromkeys(r["source"] for r in records):
        rows.append((y, source.rpartition(", on ")[2], None))
        for record in (r for r in records if r["source"] == source):
            y -= 1
            rows.append((y, "", record))
            ticks[y] = textwrap.shorten(f"{record['id']}  {record['statement']}", 74, placeholder=" …")
        y -= 1.25
    figure = Figure(figsize=(width, 0.21 * -y + 1.2))
    ax = figure.subplots()
    ax.axvspan(-1, 1, color=NEUTRAL, alpha=0.14, linewidth=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for at, heading, record in rows:
        if record is None:
            ax.text(
                -0.005,
                at,
                heading,
                transform=ax.get_yaxis_transform(),
                ha="right",
                va="center",
                weight="bold",
                fontsize=8,
            )
            continue
        sign, colour, marker = SIGNS[record["verdict"]]
        found = deciding(record)
        if found is not None and found[1]["low"] is not None:
            m = margin(*found)
            exact = not np.isfinite(m)
            x = float(np.clip(m, -reach, reach)) if np.isfinite(m) else reach * np.sign(m)
            hollow = "white" if record["verdict"] == INCONCLUSIVE else colour
            ax.plot([0, x], [at, at], color=colour, linewidth=1.2 if exact else 2.2, linestyle=":" if exact else "-")
            ax.plot([x], [at], marker, color=colour, markersize=7, markerfacecolor=hollow, clip_on=False)
        said = f"{sign} {measured(record) or record['verdict']}"
        ax.text(1.03, at, said, transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=colour)
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    ax.set_ylim(y + 0.6, 0.7)
    ax.set_xlim(-reach - 0.4, reach + 0.4)
    ax.set_xlabel(
        "against the claim  ←  distance from the bound, in half-widths of the 95% interval  →  for it", fontsize=8
    )
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    found = counts(records)
    handles = [
        Line2D(
            [],
            [],
            marker=m,
            color=c,
            linestyle="",
            markerfacecolor="white" if v == INCONCLUSIVE else c,
            label=f"{found[v]} {v}",
        )
        for v, (_, c, m) in SIGNS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncol=4, fontsize=9)
    return figure
