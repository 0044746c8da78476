"""The emotions' canonical names, the words that data sets have for them, and listings in terms of the names.

Class order goes by name, one order per wheel: the releases and their users number the same emotions in different ways,
and a number alone names nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.listing import Item, Listing, once
from hc_lafter.refusals import nearest

# Ekman's six and neutral in the order and the words of Emotion6's header, which are those of descriptions/ekman.json.
EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
MIKELS_WORDS = {**{name: name for name in MIKELS}, "content": "contentment", "sad": "sadness"}
EKMAN_WORDS = {
    **{name: name for name in EKMAN},
    **{"angry": "anger", "happy": "joy", "happiness": "joy", "sad": "sadness"},
}
EIGHTY = (0.7, 0.1, 0.2)  # the usual 80/20, with a piece of train to choose by


def emotion(word: str, words: Mapping[str, str], where: str) -> str:
    """The canonical name that a word of a data set means, case and quotes aside.

    Raises:
        ValueError: it is none of them; the sentence starts with ``where``.
    """
    name = words.get(word.strip().strip("'\"").lower())
    if name is None:
        raise ValueError(f"{where} is {word!r}, no emotion of this set{nearest(word.lower(), words)}: correct it.")
    return name


def listed(source: Path, items: Iterable[Item], order: Sequence[str], **fields: object) -> Listing:
    """A listing whose classes are the emotions that occur, in the given order; a note names those that do not.

    Raises:
        ValueError: two items name the same file.
    """
    items = once(items, source)
    seen = {item.label for item in items}
    gone = [name for name in order if name not in seen]
    note = f"no image is labelled {', '.join(gone)}: {len(seen)} of {len(order)} emotions."
    notes = (*fields.pop("notes", ()), *([note] if gone else []))
    return Listing(source, items, tuple(name for name in order if name in seen), notes=notes, **fields)


def renamed(listing: Listing, words: Mapping[str, str], order: Sequence[str], **fields: object) -> Listing:
    """A listing of class folders with canonical class names in the given order.

    Raises:
        ValueError: a folder that is named after no emotion, or two that mean the same one.
    """
    names: dict[str, str] = {}
    for folder in listing.classes:
        name = emotion(folder, words, f"a class folder of {listing.source}")
        if name in names.values():
            other = next(c for c, n in names.items() if n == name)
            raise ValueError(
                f"{listing.source} has the class folders {other} and {folder}, which are one emotion: merge them."
            )
        names[folder] = name
    items = [replace(item, label=names[item.label]) for item in listing.items]
    return listed(listing.source, items, order, ignored=listing.ignored, **fields)
