"""What sentences that refuse something share. Belongs to no room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
