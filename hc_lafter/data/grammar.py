"""Sentences about the embedded world: what is VISIBLE in a picture, in varied words; the emotion only sometimes.

The class phrases and emotion prompts below were written before the shipped CLIP was trained; it is measured with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .painter import MASK_CLASSES, PALETTE

# The first word is the class's own name; the others are synonyms that captions use as well.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "heaven"),
    "cloud": ("clouds", "cloud"),
    "sea": ("sea", "ocean", "water"),
    "sand": ("sand", "sandy ground"),
    "grass": ("grass", "meadow", "lawn"),
    "snow": ("snow", "snowy ground"),
    "road": ("road", "street"),
    "wall": ("wall", "wallpaper"),
    "floor": ("floor", "floorboards"),
    "mountain": ("mountains", "peaks", "mountain"),
    "sun": ("sun", "sunshine"),
    "moon": ("moon", "full moon"),
    "balloon": ("balloons", "balloon"),
    "bird": ("birds", "bird"),
    "rainbow": ("rainbow", "coloured arc"),
    "lightning": ("lightning", "thunderbolt"),
    "window": ("window", "window frame"),
    "house": ("house", "home", "cottage"),
    "tree": ("tree", "big tree"),
    "castle": ("castle", "fortress"),
    "grave": ("grave", "tomb", "gravestones"),
    "dog": ("dog", "puppy"),
    "cake": ("cake", "birthday cake"),
    "skull": ("skull", "dead head"),
    "spider": ("spider", "tarantula"),
    "flower": ("flowers", "flower", "blossoms"),
    "boat": ("boat", "sailing boat", "ship"),
    "car": ("car", "automobile"),
    "gift": ("gift", "present"),
    "fire": ("fire", "flames", "bonfire"),
    "snake": ("snake", "serpent"),
    "person": ("person", "face", "human"),
}
EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "happy": ("laughing", "happy", "smiling", "joyful"),
    "sad": ("crying", "sad", "weeping", "unhappy"),
    "angry": ("angry", "furious", "shouting"),
    "scared": ("scared", "frightened", "trembling"),
    "disgusted": ("disgusted", "sick", "nauseous"),
    "surprised": ("surprised", "amazed", "astonished"),
    "calm": ("calm", "resting", "peaceful", "quiet"),
}
TONES: dict[str, tuple[str, ...]] = {
    "warm": ("in warm light", "in golden light", "with a warm glow"),
    "bright": ("in bright light", "in brilliant daylight", "very bright"),
    "plain": ("in plain light", "in ordinary light"),
    "grey": ("in dull light", "grey and pale", "gloomy and faded"),
    "dark": ("in the dark", "at night", "in deep shadow"),
    "red": ("in red light", "with a red glow", "burning red"),
    "green": ("in sickly green light", "with a green tint", "rotten green"),
}
WEATHER: dict[str, tuple[str, ...]] = {
    "clear": ("on a clear day", "in fine weather"),
    "cloudy": ("on a cloudy day", "under cloudy weather"),
    "rain": ("in the rain", "on a rainy day"),
    "fog": ("in the fog", "in thick mist"),
    "storm": ("in a storm", "in stormy weather"),
    "indoors": ("indoors", "inside"),
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "beach": ("at the beach", "on the shore", "at the coast"),
    "meadow": ("in a green field", "in the countryside"),
    "mountains": ("in the mountains", "among high peaks"),
    "snowfield": ("in a winter landscape", "in the cold white land"),
    "desert": ("in the desert", "in a dry empty land"),
    "street": ("in the city", "in a street", "in town"),
    "room": ("in a living room", "in a cosy room"),
    "cellar": ("in a cellar", "in a basement", "in a dungeon"),
}
EMOTION_WORDS: dict[str, tuple[str, ...]] = {
    "amusement": ("amusement", "amusing", "funny", "fun", "amused"),
    "awe": ("awe", "awesome", "wonder", "majestic", "sublime"),
    "contentment": ("contentment", "content", "satisfied", "comfort", "serene"),
    "excitement": ("excitement", "exciting", "thrilling", "excited", "adventure"),
    "anger": ("anger", "rage", "hostile", "mad", "fury"),
    "disgust": ("disgust", "disgusting", "revolting", "gross", "filthy"),
    "fear": ("fear", "fearful", "scary", "horror", "terror"),
    "sadness": ("sadness", "sorrow", "grief", "lonely", "melancholy"),
}
CLASS_TEMPLATES = ("a picture of {}", "a photo of {}", "{}", "there is {}", "an image with {}", "a drawing of {}")
EMOTION_TEMPLATES = (
    "a scene of {}",
    "a picture that evokes {}",
    "a feeling of {}",
    "an image full of {}",
    "the mood is {}",
    "{}",
)
_EMOTION_CLAUSES = ("it evokes {}", "a feeling of {}", "the mood is {}", "full of {}", "a scene of {}", "{}")
_STUFF_FIRST = {"sky", "sea", "sand", "grass", "snow", "road", "wall", "floor"}
_LEADS = ("", "", "a picture of ", "a photo of ", "an image with ", "there is ", "a drawing of ")
_JOINS = (" and ", ", ", " with ", " next to ")


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _an(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def class_phrase(name: str, rng: np.random.Generator) -> str:
    """A random synonym of a class in a random template."""
    return _pick(rng, CLASS_TEMPLATES).format(_pick(rng, SYNONYMS[name]))


def noun_phrase(name: str, attributes: dict[str, str], colours: dict[str, str], rng: np.random.Generator) -> str:
    """One visible class in words, with its colour or, for the person, expression and shirt."""
    noun = _pick(rng, SYNONYMS[name])
    if name == "person":
        text = _an(f"{_pick(rng, EXPRESSIONS[attributes['face']])} {noun}")
        return f"{text} in a {colours[name]} shirt" if rng.random() < 0.6 else text
    if name in colours and rng.random() < 0.85:
        noun = f"{colours[name]} {noun}"
    return noun if noun.endswith("s") or name in _STUFF_FIRST else _an(noun)


def caption(
    visible: list[str],
    attributes: dict[str, str],
    colours: dict[str, str],
    rng: np.random.Generator,
    *,
    drop: float = 0.0,
    whole: bool = True,
    emotion: str | None = None,
) -> tuple[str, list[str]]:
    """A sentence about what can be seen.

    Args:
        visible: mask classes that can be seen in the view.
        attributes, colours: of the scene.
        rng: chooses words and order.
        drop: the chance with which each class goes unmentioned (at least one is always named).
        whole: the view shows the whole scene, so that setting, weather and tone may be named too.
        emotion: named in a clause of its own if given.

    Returns:
        the sentence and the classes that it names.
    """
    named = [name for name in visible if rng.random() >= drop] or visible[:1]
    things = [name for name in named if name not in _STUFF_FIRST]
    stuff = [name for name in named if name in _STUFF_FIRST]
    things = [things[i] for i in rng.permutation(len(things))]
    phrases = [noun_phrase(name, attributes, colours, rng) for name in things]
    if stuff:
        ground = [noun_phrase(name, attributes, colours, rng) for name in stuff]
        phrases.insert(int(rng.random() * (len(phrases) + 1)), " and ".join(ground))
    text = _pick(rng, _LEADS) + phrases[0]
    for phrase in phrases[1:]:
        text += _pick(rng, _JOINS) + phrase
    extras = []
    if whole:
        extras += [_pick(rng, SETTINGS[attributes["setting"]])] if rng.random() >= drop else []
        extras += [_pick(rng, WEATHER[attributes["weather"]])] if rng.random() >= drop else []
    extras += [_pick(rng, TONES[attributes["tone"]])] if rng.random() >= drop else []
    text = " ".join([text, *extras])
    if emotion is not None:
        clause = _pick(rng, _EMOTION_CLAUSES).format(_pick(rng, EMOTION_WORDS[emotion]))
        text = f"{clause}, {text}" if rng.random() < 0.5 else f"{text}, {clause}"
    return text, named


def short_caption(emotion: str, attributes: dict[str, str], rng: np.random.Generator) -> str:
    """An emotion and one or two cues: what the contrastive loss sees in part of the steps."""
    text = _pick(rng, EMOTION_TEMPLATES).format(_pick(rng, EMOTION_WORDS[emotion]))
    cues = [_pick(rng, TONES[attributes["tone"]]), _pick(rng, SETTINGS[attributes["setting"]])]
    if attributes["face"] != "none":
        cues.append("with " + _an(f"{_pick(rng, EXPRESSIONS[attributes['face']])} person"))
    return text if rng.random() < 0.4 else f"{text} {_pick(rng, cues)}"


def vocabulary() -> tuple[str, ...]:
    """Every word that the grammar can say, sorted."""
    texts = [*CLASS_TEMPLATES, *EMOTION_TEMPLATES, *_EMOTION_CLAUSES, *_LEADS, *_JOINS, "a an in shirt with person"]
    for table in (SYNONYMS, EXPRESSIONS, TONES, WEATHER, SETTINGS, EMOTION_WORDS):
        texts += [word for words in table.values() for word in words]
    texts += [*PALETTE, *MASK_CLASSES, *EMOTION_WORDS]
    return tuple(sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())}))
