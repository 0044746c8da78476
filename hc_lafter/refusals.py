"""What sentences that refuse something share. Belongs to no room."""

from __future__ import annotations

import difflib
from typing import Any


def nearest(name: str, known: Any) -> str:
    """`` (did you mean 'seeds'?)`` where a known name is near, else nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
