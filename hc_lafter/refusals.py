"""What sentences that refuse something share. Belongs to no room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def fold(name: str) -> str:
    """A name with case and underscores aside: two that fold alike are taken for one."""
    return name.replace("_", " ").casefold()


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`` (did you mean 'seeds'?)`` where a known name is near (likeness from ``cutoff`` to 1), else nothing."""
    folded = {fold(other): other for other in known}
    match = difflib.get_close_matches(fold(name), folded, n=1, cutoff=cutoff)
    return f" (did you mean {folded[match[0]]!r}?)" if match else ""


def some(names: Iterable[str], most: int = 10) -> str:
    """The first names, quoted, and how many more there are; ImageNet has a thousand."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


# What pydantic calls an error -> what was wanted, "" where the field's description says it; others keep its words.
WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_too_short", "string_pattern_mismatch", "literal_error"), ""),
    **dict.fromkeys(("list_type", "too_short"), "one value or more, with commas between them"),
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:,}",
}


def unusable(error: ValidationError, model: type[BaseModel], subject: str) -> str:
    """One sentence on the first field that pydantic refused: its value, the reason, and what to give instead.

    Args:
        model: its fields' descriptions say what to give.
        subject: what the sentence begins with, e.g. ``parameter ``.
    """
    problem = error.errors()[0]
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # a check of the whole model, which says itself what to give
        return subject + reason
    key, *place = problem["loc"]
    field = model.model_fields[key]
    if problem["type"] == "missing":
        return f"{subject}{key} is missing: give {field.description}."
    item = next((f", item {part + 1}" for part in place if isinstance(part, int)), "")
    near = nearest(str(problem["input"]), get_args(field.annotation)) if problem["type"] == "literal_error" else ""
    if problem["type"] in WANTED:
        wanted = WANTED[problem["type"]].format(**problem.get("ctx", {}))
        reason = wanted and f" (it takes {wanted})"
    else:
        reason = f" ({reason[0].lower()}{reason[1:]})"
    return f"{subject}{key}={problem['input']!r}{item} is not usable{reason}{near}: give {field.description}."
