"""Captions for the embedded world, worded as on the web: short, partial, about what is visible, seldom about emotion.

A caption leaves out much of what can be seen. Few name an emotion, and then the captioner's own impression, drawn from
the scene's posterior, in a clause that no zero-shot template of `hc_lafter.clip.text` can produce. All words, in
`words.toml`, were fixed before the shipped CLIP was trained; they are its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from hc_lafter.data.tables import read_table

from .painter import MASK_CLASSES, PALETTE

_WORDS = read_table(__file__, "words.toml")
SYNONYMS, ADJECTIVES, VERBS = (_WORDS[name] for name in ("synonyms", "adjectives", "verbs"))  # by mask class
EXPRESSIONS, TONES, WEATHER, SETTINGS = (_WORDS[name] for name in ("expressions", "tones", "weather", "settings"))
EMOTION_WORDS = {name: (nouns, _WORDS["emotion_adjectives"][name]) for name, nouns in _WORDS["emotion_nouns"].items()}
CLASS_TEMPLATES = _WORDS["class_templates"]
_STUFF_FIRST = {"sky", "sea", "sand", "grass", "snow", "road", "wall", "floor"}


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _an(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


# --- phrases: one fact in a few words ---

# kind -> its values in a fixed order: every phrase that a picture may be asked about
PHRASES: dict[str, tuple[str, ...]] = {
    "class": MASK_CLASSES,
    "face": tuple(EXPRESSIONS),
    "tone": tuple(TONES),
    "weather": tuple(WEATHER),
    "setting": tuple(SETTINGS),
}


def class_phrase(name: str, rng: np.random.Generator) -> str:
    """A random synonym of a class in a random template."""
    return _pick(rng, CLASS_TEMPLATES).format(_pick(rng, SYNONYMS[name]))


def phrase(kind: str, value: str, rng: np.random.Generator) -> str:
    """One fact, such as ("weather", "rain"), in random words; `kind` and `value` are of `PHRASES`."""
    if kind == "class":
        return class_phrase(value, rng)
    if kind == "face":
        return _pick(rng, _WORDS["expression_templates"]).format(_pick(rng, EXPRESSIONS[value]))
    words = _pick(rng, {"tone": TONES, "weather": WEATHER, "setting": SETTINGS}[kind][value])
    return _pick(rng, ("{}", "a picture {}", "a scene {}", "a photo {}", "{} view")).format(words)


# --- captions ---


def noun_phrase(
    name: str, attributes: Mapping[str, str], colours: Mapping[str, str], rng: np.random.Generator, *, face: bool = True
) -> str:
    """One visible class in words, with its colour or, for the person, expression (if the `face` shows) and shirt."""
    noun, tail = _pick(rng, SYNONYMS[name]), ""
    if rng.random() < 0.25:
        tail = " " + _pick(rng, VERBS[name])
    if name == "person":
        text = _an(f"{_pick(rng, EXPRESSIONS[attributes['face']])} {noun}") if face else _an(noun)
        return f"{text} in a {colours[name]} shirt" if rng.random() < 0.4 else text + tail
    if name in colours and rng.random() < 0.7:
        noun = f"{colours[name]} {noun}"
    if rng.random() < 0.3:
        noun = f"{_pick(rng, ADJECTIVES[name])} {noun}"
    return (noun if noun.endswith("s") or name in _STUFF_FIRST else _an(noun)) + tail


def emotion_clause(emotion: str, rng: np.random.Generator) -> str:
    """A captioner's own impression in one short clause, worded otherwise than any zero-shot template."""
    nouns, adjectives = EMOTION_WORDS[emotion]
    if rng.random() < 0.5:
        return _pick(rng, _WORDS["noun_clauses"]).format(_pick(rng, nouns))
    return _pick(rng, _WORDS["adjective_clauses"]).format(_pick(rng, adjectives))


def caption(
    visible: Sequence[str],
    attributes: Mapping[str, str],
    colours: Mapping[str, str],
    rng: np.random.Generator,
    *,
    drop: float = 0.0,
    whole: bool = True,
    face: bool = True,
    emotion: str | None = None,
) -> tuple[str, list[str]]:
    """A sentence about what can be seen.

    Args:
        visible: mask classes that can be seen in the view, one at least.
        attributes, colours: of the scene.
        rng: chooses words and order.
        drop: the chance with which each class, and setting, weather and tone, go unmentioned (one class is always
            named).
        whole: the view shows the whole scene, so that setting and weather may be named too.
        face: where a person is visible the view shows the face, so that its expression may be named.
        emotion: named in a clause of its own if given.

    Returns:
        the sentence and the classes that it names.
    """
    named = [name for name in visible if rng.random() >= drop] or [_pick(rng, visible)]
    things = [name for name in named if name not in _STUFF_FIRST]
    stuff = [name for name in named if name in _STUFF_FIRST]
    things = [things[i] for i in rng.permutation(len(things))]
    phrases = [noun_phrase(name, attributes, colours, rng, face=face) for name in things]
    if stuff:
        ground = [noun_phrase(name, attributes, colours, rng) for name in stuff]
        phrases.insert(int(rng.random() * (len(phrases) + 1)), " and ".join(ground))
    text = _pick(rng, _WORDS["leads"]) + phrases[0]
    for part in phrases[1:]:
        text += _pick(rng, _WORDS["joins"]) + part
    extras = []
    if whole:
        extras += [_pick(rng, SETTINGS[attributes["setting"]])] if rng.random() >= drop else []
        extras += [_pick(rng, WEATHER[attributes["weather"]])] if rng.random() >= drop else []
    extras += [_pick(rng, TONES[attributes["tone"]])] if rng.random() >= drop else []
    text = " ".join([text, *extras])
    if emotion is not None:
        clause = emotion_clause(emotion, rng)
        text = f"{clause}, {text}" if rng.random() < 0.5 else f"{text}, {clause}"
    return text, named


def vocabulary() -> tuple[str, ...]:
    """Every word that the grammar can say, sorted."""
    texts = ["a picture a scene a photo view in a shirt"]
    for part in _WORDS.values():
        texts += part if isinstance(part, tuple) else [words for options in part.values() for words in options]
    texts += [*PALETTE, *MASK_CLASSES, *EMOTION_WORDS]
    return tuple(sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())}))
