"""The claims ledger, its numbers and its figure. Verdicts are `hc_lafter.suite.claims`' own."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hc_lafter.suite import plots, words
from hc_lafter.suite.claims import CONTRADICTED, INCONCLUSIVE, NOT_TESTABLE, SUPPORTED, counts

# Sign, colour and marker of a verdict: told apart without colour, too.
SIGNS = {
    SUPPORTED: ("✓", *plots.VERDICTS["better"]),
    CONTRADICTED: ("✗", *plots.VERDICTS["worse"]),
    INCONCLUSIVE: ("?", "#555555", "o"),
    NOT_TESTABLE: ("–", "#555555", "_"),
}
REACH = 6.0  # half-widths at which the figure's axis ends; what lies beyond, and exact counts, stand at its ends
# Which way a kind of check points from its bounds.
DIRECTIONS = {"above": (1,), "at_least": (1,), "below": (-1,), "at_most": (-1,), "between": (1, -1)}


def deciding(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row that decides a claim, with its ``check``; without a value where no run gave one."""
    return record["evidence"]["read"][record["evidence"]["decides"]]


def measured(record: Mapping[str, Any]) -> str:
    """A claim's deciding number with interval, unit and the tower that was counted or timed, where that is named; or
    that of each part which is judged by itself.

    Where one of several numbers decides, what it was held against is named, and how far all of them reach.
    """
    read, parts, row = record["evidence"]["read"], record["evidence"]["parts"], deciding(record)
    spans = [(part["name"], words.span(read[part["decides"]])) for part in parts]
    text = "; ".join(f"{name} {span}" for name, span in spans if span) or words.measured(row)
    same = [r for r in read if r["value"] is not None and (r["metric"], r["unit"]) == (row["metric"], row["unit"])]
    same = [r for r in same if r["verdict"] != NOT_TESTABLE] or same  # what may not judge is no range of what does
    if not parts and row.get("minus") and len(same) > 1:
        labels = f" at {row['n_train']:,.0f} images" if row.get("n_train") else ""
        ends = (words.number(end(r["value"] for r in same), row["unit"], sign=True) for end in (min, max))
        text += f" (against {row['minus']}{labels}; one of {len(same)}, {' to '.join(ends)})"
    tower = re.search(r"ViT-(\w)[-/](\d+)", f"{row['dataset']} {row['metric']}")
    return f"{text} (ViT-{tower[1]}/{tower[2]})" if text and tower else text


def verdict(record: Mapping[str, Any]) -> str:
    """A claim's verdict in words: that of each part where they differ, and whether it is an illustration."""
    parts = record["evidence"]["parts"]
    apart = "; ".join(f"{part['name']}: {part['verdict']}" for part in parts)
    text = f"{record['verdict']} ({apart})" if len({part["verdict"] for part in parts}) > 1 else record["verdict"]
    return f"{text}, as an illustration" if record["evidence"]["illustration"] else text


def required(row: Mapping[str, Any]) -> str:
    """What a rule asks of a row that it read, in the unit of `measured`."""
    return words.required(**row["check"], unit=row["unit"])


def sample(row: Mapping[str, Any]) -> str:
    """What a number rests on: images (or rounds) and seeds; nothing where there is no number."""
    if row["value"] is None:
        return ""
    if row.get("source"):
        return "published"
    rounds = " rounds" if row["split"] == "timing" else ""
    parts = [f"{row['n']:,}{rounds}" if row["n"] else "", f"{row['seeds']} seeds" if (row["seeds"] or 0) > 1 else ""]
    return " × ".join(filter(None, parts)) or "counted"


def rests_on_time(record: Mapping[str, Any]) -> bool:
    """Whether a rule reads times, which differ from machine to machine."""
    return '"split": "timing"' in json.dumps(record["rule"]["test"])


def margin(row: Mapping[str, Any]) -> float:
    """How far a number lies from the nearest bound, in half-widths of its interval; above zero: for the claim.

    Beyond 1 the interval excludes the bound. An exact number is infinitely far, or 0 at the bound.
    """
    kind, bounds = row["check"]["kind"], row["check"]["bounds"]
    if kind == "equals":
        return np.inf if row["value"] == bounds[0] else -np.inf

    def beyond(bound: float, direction: int) -> float:
        gap = direction * (row["value"] - bound)
        width = abs(row["value"] - (row["low"] if row["value"] > bound else row["high"]))
        return gap / width if width else float(np.copysign(np.inf, gap)) if gap else 0.0

    return min(beyond(bound, direction) for bound, direction in zip(bounds, DIRECTIONS[kind], strict=True))


def draw_ledger(records: Sequence[Mapping[str, Any]]) -> Figure:
    """The ledger as one figure of the present width: each claim's distance from its bound, its verdict, its number.

    At single width the claims go by their ids.
    """
    topics = {
        topic: [r for r in records if r["source"] == topic] for topic in dict.fromkeys(r["source"] for r in records)
    }
    said = {r["id"]: textwrap.fill(f"{r['id']}  {r['statement']}", 60) for r in records}
    wide = plots.is_wide()
    room = {r["id"]: 1 + 0.6 * (said[r["id"]] if wide else _number(r)).count("\n") for r in records}  # rows of a claim
    figure, (ax,) = plots.panels(1, height=0.19 * (sum(room.values()) + 1.25 * len(topics)) + 1.2)
    ax.axvspan(-1, 1, color=plots.NEUTRAL, alpha=0.14, linewidth=0)
    ax.axvline(0, color="black", linewidth=0.8)
    clear = {"facecolor": "white", "linewidth": 0, "pad": 0.5}  # of the line at 0, which short headings lie on
    beside, y, ticks = ax.get_yaxis_transform(), 0.0, {}
    for topic, of_topic in topics.items():
        at = {"x": -0.005, "ha": "right"} if wide else {"x": 0.01, "ha": "left"}
        heading = topic.removeprefix("docs/designs.md, ")
        ax.text(y=y, s=heading, transform=beside, va="center", weight="bold", fontsize=7, bbox=clear, **at)
        before = 1.0
        for record in of_topic:
            y -= (before + room[record["id"]]) / 2
            before = room[record["id"]]
            ticks[y] = said[record["id"]] if wide else record["id"]
            _draw_claim(ax, y, record)
        y -= 1.25 + (before - 1) / 2
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
    ax.set_ylim(y + 0.6, 0.7)
    ax.set_xlim(-REACH - 0.4, REACH + 0.4)
    says = "against the claim  ←  half-widths of the interval  →  for it" if wide else "half-widths,\n← against  for →"
    ax.set_xlabel(says, fontsize=7)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    handles = [
        Line2D([], [], linestyle="", **_marker(verdict), label=f"{count} {verdict}")
        for verdict, count in counts(records).items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncol=4 if wide else 2, fontsize=8)
    bar, grey = {"color": "#555555"}, {"color": plots.NEUTRAL, "alpha": 0.14, "linewidth": 0}
    plots.legend_below(
        figure,
        [
            Line2D([], [], linewidth=2.2, label=f"number with an interval, drawn to {REACH:g} at most", **bar),
            Line2D(
                [],
                [],
                linewidth=1.2,
                linestyle=":",
                label="no interval (counted or published), drawn to the end",
                **bar,
            ),
            Patch(label="the interval reaches over the bound", **grey),
        ],
    )
    return figure


def _number(record: Mapping[str, Any]) -> str:
    text = words.measured(deciding(record)) or record["verdict"]
    return text if plots.is_wide() else text.replace(", all together", ",\n   all together")


def _marker(verdict: str) -> dict[str, Any]:
    _, colour, marker = SIGNS[verdict]
    return {"marker": marker, "color": colour, "markerfacecolor": "white" if verdict == INCONCLUSIVE else colour}


def _draw_claim(ax: Axes, y: float, record: Mapping[str, Any]) -> None:
    row, (sign, colour, _) = deciding(record), SIGNS[record["verdict"]]
    if row["low"] is not None and record["verdict"] != NOT_TESTABLE:
        distance = margin(row)
        x, exact = float(np.clip(distance, -REACH, REACH)), not np.isfinite(distance)
        ax.plot([0, x], [y, y], color=colour, linewidth=1.2 if exact else 2.2, linestyle=":" if exact else "-")
        ax.plot([x], [y], markersize=6, clip_on=False, **_marker(record["verdict"]))
    ax.text(
        1.03, y, f"{sign} {_number(record)}", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=colour
    )
