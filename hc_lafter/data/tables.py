"""Data that is written down and not computed: TOML files beside the modules that say what they mean."""

from __future__ import annotations

import tomllib
from pathlib import Path


def read_table(module: str, name: str) -> dict:
    """The TOML file ``name`` beside a module's ``__file__``, lists as tuples: nobody changes a table by accident."""
    return _frozen(tomllib.loads(Path(module).with_name(name).read_text(encoding="utf-8")))


def _frozen(value: object) -> object:
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
