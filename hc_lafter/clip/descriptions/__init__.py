"""What a photograph that evokes an emotion looks like, in words: LaFTer's text data (NeurIPS 2023) and its loader.

Three sets are ours: ``mikels`` (Mikels' eight) and ``ekman`` (Ekman's six and neutral) for real CLIPs, and ``world``
(Mikels' eight, in the few words that the embedded CLIP knows). PROVENANCE.md beside them says who wrote them and how.
LaFTer's own files have the same form and load as they are.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from hc_lafter.refusals import fold, nearest, some

BUNDLED = ("mikels", "ekman", "world")


def load_descriptions(
    source: str | os.PathLike[str], classes: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """The sentences that describe each class, in LaFTer's form: one JSON object, class name -> list of sentences.

    A class of yours is the file's class of exactly that name, else the one that differs only in case or in ``_`` for a
    space (LaFTer's UCF101 says ``Apply_Eye_Makeup``). Sentences stay as the file has them, repeated ones included:
    LaFTer's have some, and they count twice in training.

    Args:
        source: ``"mikels"``, ``"ekman"``, ``"world"``, or the path of a JSON file (``Path("mikels")`` always is one).
        classes: the class names you want, in the order you want; by default all of the file's, in its order. Classes
            of the file that are not among them are left out, with a warning that names them.

    Returns:
        Your name of the class -> its sentences, one or more, none blank.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        TypeError: ``classes`` is one text instead of several.
        ValueError: the file is not of LaFTer's form, or a class is unknown, ambiguous or asked for twice.
    """
    place, content = _read(source)
    table = _parse(place, content)
    if classes is None:
        return table
    if isinstance(classes, str):
        raise TypeError(f"classes is the text {classes!r}: give a list of class names, e.g. [{classes!r}].")
    found: dict[str, str] = {}  # the file's name -> yours
    for name in classes:
        key = _match(name, table, place)
        if key in found:
            raise ValueError(
                f"classes {found[key]!r} and {name!r} are both class {key!r} of {place}: keep one of them."
            )
        found[key] = name
    extra = [key for key in table if key not in found]
    if extra:
        warnings.warn(f"{place}: left out, since not among the classes asked for: {some(extra)}.", stacklevel=2)
    return {name: table[key] for key, name in found.items()}


def _read(source: str | os.PathLike[str]) -> tuple[str, bytes]:
    """What errors call the file, and its bytes."""
    if isinstance(source, str) and source in BUNDLED:
        return f"{source}.json", (files(__name__) / f"{source}.json").read_bytes()
    path = Path(source)
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"descriptions {str(path)!r} do not exist{nearest(path.stem, BUNDLED, 0.7)}: "
            f"give {', '.join(map(repr, BUNDLED))} or the path of a JSON file."
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"descriptions {str(path)!r} cannot be read ({reason}): give a JSON file you may read."
        ) from error


def _parse(place: str, content: bytes) -> dict[str, tuple[str, ...]]:
    try:
        # A tuple of pairs keeps duplicate keys, and tells an object from a list, which JSON never makes a tuple.
        pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON in UTF-8 ({error}): correct it, or give another file.") from error
    if not isinstance(pairs, tuple) or not pairs:
        found = "an empty object" if pairs == () else "no object"
        raise ValueError(f"{place} holds {found}: write class names with lists of sentences between {{ and }}.")
    table: dict[str, tuple[str, ...]] = {}
    for name, sentences in pairs:
        if name in table:
            raise ValueError(f"{place} holds class {name!r} more than once: join its lists under one key.")
        if not isinstance(sentences, list) or not sentences:
            raise ValueError(f"{place}: class {name!r} holds no list of sentences: put one or more between [ and ].")
        for number, sentence in enumerate(sentences, start=1):
            if not isinstance(sentence, str) or not sentence.strip():
                shown = json.dumps(sentence)[:40]
                raise ValueError(f"{place}: class {name!r}, sentence {number} is {shown}: write text between quotes.")
        table[name] = tuple(sentences)
    return table


def _match(name: str, table: dict[str, tuple[str, ...]], place: str) -> str:
    """The file's name of a class."""
    alike = [name] if name in table else [key for key in table if fold(key) == fold(name)]
    if not alike:  # 0.7, since at 0.6 'happiness' would be taken for 'sadness'
        raise ValueError(
            f"{place} has no class {name!r}{nearest(name, table, 0.7)}: correct the name, or add the class to the "
            f"file, which holds {some(table)}."
        )
    if len(alike) > 1:
        raise ValueError(f"class {name!r} may be any of {some(alike)} in {place}: name one exactly as the file does.")
    return alike[0]
