"""The two cards of the embedded CLIP as text, each made from its JSON alone so that the two cannot disagree.

The wording stands in the templates beside this file, ``MODEL_CARD.md.jinja`` and ``FIDELITY_CARD.md.jinja``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hc_lafter.files import write_whole

_FORMATS = {"labels": ".1f", "ratio": ".2f", "difference": "+.3f"}  # by unit; of all others three digits


# --- the model card ---


def write_model_card(folder: Path) -> Path:
    """Write a model's ``MODEL_CARD.md`` from its ``model.json`` alone.

    Raises:
        ValueError: there is no ``model.json`` in the folder, or `hc_lafter.embedded.pretrain.ship` did not write it.
    """
    source = folder / "model.json"
    try:
        text = model_card(json.loads(source.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, jinja2.UndefinedError) as error:
        raise ValueError(
            f"{source} does not describe a model ({type(error).__name__}: {error}): name the folder of one "
            "that this command has made."
        ) from error
    return write_whole(folder / "MODEL_CARD.md", text)


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown of one model, from what `hc_lafter.embedded.pretrain.ship` writes as ``model.json``."""
    last = facts["made"]["history"][-1]
    return _filled(
        "MODEL_CARD.md.jinja",
        facts,
        vision=facts["config"]["vision_cfg"],
        text=facts["config"]["text_cfg"],
        losses=", ".join(f"{name} {last[name]:.2f}" for name in ("contrast", "phrases", "coverage", "partial")),
        machine=", ".join(f"{key} {value}" for key, value in facts["made"]["hardware"].items() if value is not None),
    )


# --- the fidelity card ---


def verdict(value: float | None, band: Sequence[float | None] | None) -> str:
    """``met`` or ``missed`` by the value (not its interval), ends included; ``reported`` where there is no band.

    None is what was never reached: it misses every band.
    """
    if band is None:
        return "reported"
    low, high = band
    if value is None or not math.isfinite(value):
        return "missed"
    return "met" if (low is None or value >= low) and (high is None or value <= high) else "missed"


def measures(facts: Mapping[str, Any]) -> Iterator[tuple[Mapping, str, Mapping]]:
    """(fact, key, measure) of all that `fidelity.json` judges or reports, in order."""
    for fact in facts["facts"]:
        for key, measure in fact["measures"].items():
            yield fact, key, measure


def read(folder: Path) -> dict[str, Any]:
    """``fidelity.json``, checked: every measure is there, and every verdict is what its number and band give.

    Raises:
        ValueError: the file is not there, or was changed by hand, or `hc_lafter.embedded.fidelity` did not write it.
    """
    source = folder / "fidelity.json"
    try:
        facts = json.loads(source.read_text(encoding="utf-8"))
        for name, model in facts["models"].items():
            for _, key, measure in measures(facts):
                value = model["measured"][key]["value"]
                right, written = verdict(value, measure["band"]), model["verdicts"][key]
                if right != written:
                    raise ValueError(f"{name}, {key}: {value} in the band {measure['band']} is {right}, not {written}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source} holds no fidelity measurements ({type(error).__name__}: {error}): make it again with "
            "`hc-lafter fidelity`."
        ) from error
    return facts


def write_card(folder: Path) -> Path:
    """Write ``FIDELITY_CARD.md`` beside a ``fidelity.json``, from it alone. Raises ValueError as `read`."""
    return write_whole(folder / "FIDELITY_CARD.md", fidelity_card(read(folder)))


def fidelity_card(facts: Mapping[str, Any]) -> str:
    """Markdown of what `hc_lafter.embedded.fidelity.fidelity` returns."""
    judged = sum(measure["band"] is not None for _, _, measure in measures(facts))
    return _filled("FIDELITY_CARD.md.jinja", facts, judged=judged)


# --- numbers as the cards write them ---


def number(value: float | None, unit: str = "fraction") -> str:
    """Three digits, or what the unit asks for; "never" or "-" where there is no value."""
    if value is None:
        return "never" if unit == "labels" else "-"
    return format(value, _FORMATS.get(unit, ".3f"))


def interval(e: Mapping[str, Any], unit: str = "fraction") -> str:
    """``0.444 [0.422, 0.466]``; the value alone where there is no interval."""
    if e["low"] is None and e["value"] is not None:
        return number(e["value"], unit)
    return f"{number(e['value'], unit)} [{number(e['low'], unit)}, {number(e['high'], unit)}]"


def band_text(band: Sequence[float | None] | None) -> str:
    """``0.35 to 0.55``, ``>= 0.9``, ``<= 0.01`` or ``none``."""
    if band is None:
        return "none"
    low, high = band
    return f">= {low:g}" if high is None else f"<= {high:g}" if low is None else f"{low:g} to {high:g}"


def _filled(template: str, facts: Mapping[str, Any], **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,  # a fact that is not there is an error, not a gap in the text
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "f": format,
        "number": number,
        "interval": interval,
        "band": band_text,
        "missed": lambda verdicts: [key for key, word in verdicts.items() if word == "missed"],
    }
    return environment.get_template(template).render({**facts, **more})
