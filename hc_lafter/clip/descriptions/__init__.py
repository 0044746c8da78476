"""What a photograph that evokes an emotion looks like, in words: LaFTer's text data (NeurIPS 2023) and its loader.

Three sets are ours: ``mikels`` (Mikels' eight) and ``ekman`` (Ekman's six and neutral) for real CLIPs, and ``world``
(Mikels' eight, in the few words that the embedded CLIP knows). PROVENANCE.md beside them says who wrote them and how.
LaFTer's own files have the same form and load as they are.
"""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

BUNDLED = ("mikels", "ekman", "world")
SHOWN = 10  # class names in an error; ImageNet has a thousand


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
        TypeError: ``classes`` is one text instead of several, or one of them is no text.
        ValueError: the file is not of LaFTer's form, or a class is unknown, ambiguous or asked for twice.
    """
    place, content = _read(source)
    table = _parse(place, content)
    if classes is None:
        return table
    if isinstance(classes, str):
        raise TypeError(f"classes is the text {classes!r}: give a list of class names, e.g. [{classes!r}].")
    names = list(classes)
    if not names:
        raise ValueError(f"classes is empty: name classes of {place}, or leave the argument out to have them all.")
    found: dict[str, str] = {}  # the file's name -> yours
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"class {name!r} is no name: give class names, since their order differs between data sets."
            )
        key = _match(name, table, place)
        if key in found:
            raise ValueError(
                f"classes {found[key]!r} and {name!r} are both class {key!r} of {place}: keep one of them."
            )
        found[key] = name
    extra = [key for key in table if key not in found]
    if extra:
        warnings.warn(f"{place}: left out, since not among the classes asked for: {_some(extra)}.", stacklevel=2)
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
            f"descriptions {str(path)!r} do not exist{_nearest(path.stem, BUNDLED)}: "
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
        raise ValueError(f"{place} is not JSON in UTF-8 ({error}): mend it there, or give another file.") from error
    if not isinstance(pairs, tuple) or not pairs:
        what = "an empty object" if pairs == () else "no object"
        raise ValueError(f"{place} holds {what}: write class names with lists of sentences between {{ and }}.")
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{place} holds class {twice[0]!r} more than once: join its lists under one key.")
    for name, sentences in pairs:
        if not isinstance(sentences, list):
            raise ValueError(f"{place}: class {name!r} holds no list: put its sentences between [ and ].")
        if not sentences:
            raise ValueError(f"{place}: class {name!r} has an empty list: give it a sentence, or take the class out.")
        for number, sentence in enumerate(sentences, start=1):
            if not isinstance(sentence, str):
                shown = json.dumps(sentence)[:40]
                raise ValueError(f"{place}: class {name!r}, sentence {number} is {shown}: write text between quotes.")
            if not sentence.strip():
                raise ValueError(f"{place}: class {name!r}, sentence {number} is blank: fill it in or take it out.")
    return {name: tuple(sentences) for name, sentences in pairs}


def _match(name: str, table: dict[str, tuple[str, ...]], place: str) -> str:
    """The file's name of a class."""
    if name in table:
        return name
    alike = [key for key in table if _fold(key) == _fold(name)]
    if not alike:
        raise ValueError(
            f"{place} has no class {name!r}{_nearest(name, table)}: correct the name, or add the class to the file, "
            f"which holds {_some(table)}."
        )
    if len(alike) > 1:
        raise ValueError(f"class {name!r} may be any of {_some(alike)} in {place}: name one exactly as the file does.")
    return alike[0]


def _fold(name: str) -> str:
    return name.replace("_", " ").casefold()


def _nearest(name: str, known: Iterable[str]) -> str:
    folded = {_fold(key): key for key in known}
    # 0.7, since at 0.6 'happiness' would be told to be 'sadness'.
    match = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.7)
    return f" (did you mean {folded[match[0]]!r}?)" if match else ""


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
