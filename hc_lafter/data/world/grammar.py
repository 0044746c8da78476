"""Captions for the embedded world, worded as on the web: short, partial, about what is visible, seldom about emotion.

A caption leaves out much of what can be seen. Few name an emotion, and then the captioner's own impression, drawn from
the scene's posterior, in a clause that no zero-shot template of `hc_lafter.clip.text` can produce. All words were fixed
before the shipped CLIP was trained; they are its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from .painter import MASK_CLASSES, PALETTE

# The first word is the class's own name; the others are synonyms that captions use as well.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "heaven", "skies", "open sky"),
    "cloud": ("clouds", "cloud", "cloud cover", "drifting clouds"),
    "sea": ("sea", "ocean", "water", "waves", "surf"),
    "sand": ("sand", "sandy ground", "dunes", "dusty ground"),
    "grass": ("grass", "meadow", "lawn", "pasture", "green ground"),
    "snow": ("snow", "snowy ground", "snow cover", "frozen ground"),
    "road": ("road", "street", "pavement", "asphalt", "roadway"),
    "wall": ("wall", "wallpaper", "back wall", "walls"),
    "floor": ("floor", "floorboards", "tiles", "parquet"),
    "mountain": ("mountains", "peaks", "mountain", "summit", "ridge", "cliffs"),
    "sun": ("sun", "sunshine", "sunlight", "sun disc"),
    "moon": ("moon", "full moon", "moonlight"),
    "balloon": ("balloons", "balloon", "party balloons", "air balloons"),
    "bird": ("birds", "bird", "gulls", "wings", "flock"),
    "rainbow": ("rainbow", "coloured arc", "spectrum", "rainbow arch"),
    "lightning": ("lightning", "thunderbolt", "bolt", "lightning flash"),
    "window": ("window", "window frame", "panes", "window glass"),
    "house": ("house", "home", "cottage", "building", "farmhouse"),
    "tree": ("tree", "big tree", "trunk", "branches", "oak"),
    "castle": ("castle", "fortress", "palace", "towers", "citadel"),
    "grave": ("grave", "tomb", "gravestones", "tombstones", "graveyard", "headstones"),
    "dog": ("dog", "puppy", "hound", "pet", "doggy"),
    "cake": ("cake", "birthday cake", "dessert", "candles", "pastry"),
    "skull": ("skull", "dead head", "bones", "cranium"),
    "spider": ("spider", "tarantula", "bug", "crawler"),
    "flower": ("flowers", "flower", "blossoms", "petals", "bouquet", "tulips"),
    "boat": ("boat", "sailing boat", "ship", "yacht", "sails"),
    "car": ("car", "automobile", "vehicle", "motorcar"),
    "gift": ("gift", "present", "parcel", "gift box", "ribbon"),
    "fire": ("fire", "flames", "bonfire", "blaze", "campfire"),
    "snake": ("snake", "serpent", "viper", "reptile"),
    "person": ("person", "face", "human", "someone", "portrait", "stranger", "figure"),
}
# What may stand before and behind a noun: words that fit each drawing of the class, so that no caption is untrue.
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "sky": ("wide", "high", "endless"),
    "cloud": ("soft", "rolling", "heavy", "puffy"),
    "sea": ("rippling", "deep", "salty"),
    "sand": ("loose", "bare", "fine"),
    "grass": ("fresh", "lush", "growing"),
    "snow": ("cold", "deep", "frosty", "icy"),
    "road": ("hard", "paved", "long"),
    "wall": ("plain", "painted", "solid"),
    "floor": ("flat", "polished", "wooden"),
    "mountain": ("tall", "rocky", "steep", "towering"),
    "sun": ("round", "radiant", "beaming"),
    "moon": ("round", "shimmering", "silvery"),
    "balloon": ("floating", "festive", "shiny", "inflated"),
    "bird": ("little", "feathered", "winged"),
    "rainbow": ("colourful", "striped", "curved"),
    "lightning": ("jagged", "sudden", "blinding", "electric"),
    "window": ("square", "framed", "closed"),
    "house": ("small", "roofed", "simple"),
    "tree": ("leafy", "rooted", "lone"),
    "castle": ("old", "stone", "ancient", "medieval"),
    "grave": ("mossy", "stone", "burial", "silent"),
    "dog": ("furry", "loyal", "playful", "cute"),
    "cake": ("sweet", "creamy", "tasty", "iced", "delicious"),
    "skull": ("hollow", "bony", "toothy", "bare"),
    "spider": ("hairy", "creeping", "huge", "legged"),
    "flower": ("blooming", "fragrant", "pretty", "delicate"),
    "boat": ("little", "wooden", "floating"),
    "car": ("fast", "shiny", "modern", "speedy"),
    "gift": ("wrapped", "festive", "tied"),
    "fire": ("hot", "blazing", "fierce", "glowing"),
    "snake": ("coiled", "slithering", "scaly", "venomous"),
    "person": ("lone", "young", "grown"),
}
VERBS: dict[str, tuple[str, ...]] = {
    "sky": ("above", "overhead"),
    "cloud": ("passing by", "overhead", "gathering"),
    "sea": ("on the horizon", "rolling in", "behind"),
    "sand": ("underfoot", "below", "everywhere"),
    "grass": ("underfoot", "below", "everywhere"),
    "snow": ("underfoot", "all around", "everywhere"),
    "road": ("ahead", "below", "leading away"),
    "wall": ("behind", "in the background"),
    "floor": ("below", "underfoot"),
    "mountain": ("rising behind", "in the distance", "in the background"),
    "sun": ("shining", "up high", "beaming down"),
    "moon": ("shining", "up high", "hanging above"),
    "balloon": ("floating", "flying up", "rising", "dancing above"),
    "bird": ("flying", "soaring", "gliding", "circling"),
    "rainbow": ("across the view", "stretching over", "arching above"),
    "lightning": ("striking", "flashing", "splitting the air"),
    "window": ("letting light through", "up there"),
    "house": ("standing there", "in the distance", "behind"),
    "tree": ("standing there", "growing", "behind"),
    "castle": ("rising behind", "standing guard", "in the distance"),
    "grave": ("standing there", "behind", "marked by a cross"),
    "dog": ("standing", "waiting", "wagging its tail", "barking"),
    "cake": ("on show", "ready to eat", "burning candles on top"),
    "skull": ("lying there", "staring", "with empty eyes"),
    "spider": ("crawling", "creeping closer", "waiting", "lurking"),
    "flower": ("blooming", "in blossom", "growing"),
    "boat": ("sailing", "with its sail up", "floating by"),
    "car": ("parked", "driving", "speeding", "on wheels"),
    "gift": ("ready to open", "with a bow", "waiting"),
    "fire": ("burning", "crackling", "spreading", "with smoke"),
    "snake": ("crawling", "hissing", "winding", "ready to bite"),
    "person": ("looking at us", "in front", "close up", "facing us"),
}
EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "happy": ("laughing", "happy", "smiling", "joyful", "grinning", "cheerful", "delighted"),
    "sad": ("crying", "sad", "weeping", "unhappy", "tearful", "sobbing", "heartbroken"),
    "angry": ("angry", "furious", "shouting", "yelling", "raging", "frowning"),
    "scared": ("scared", "frightened", "trembling", "afraid", "terrified", "panicked"),
    "disgusted": ("disgusted", "sick", "nauseous", "vomiting", "drooling", "queasy"),
    "surprised": ("surprised", "amazed", "astonished", "gasping", "stunned", "startled"),
    "calm": ("calm", "resting", "peaceful", "quiet", "relaxed", "dozing", "sleeping"),
}
# How a phrase says an expression of its own: {} is the word.
EXPRESSION_TEMPLATES = ("{} person", "a {} face", "someone {}", "a {} human", "{} expression", "somebody who looks {}")
TONES: dict[str, tuple[str, ...]] = {
    "warm": ("in warm light", "in golden light", "with a warm glow", "in amber tones", "at sunset", "golden hour"),
    "bright": ("in bright light", "in brilliant daylight", "very bright", "well lit", "vivid and light", "dazzling"),
    "plain": ("in plain light", "in ordinary light", "in neutral light", "in natural colours"),
    "grey": ("in dull light", "grey and pale", "gloomy and faded", "washed out", "colourless", "in bleak tones"),
    "dark": ("in the dark", "at night", "in deep shadow", "dimly lit", "after dusk", "in darkness", "at midnight"),
    "red": ("in red light", "with a red glow", "burning red", "in crimson tones", "in scarlet light", "bloody red"),
    "green": (
        "in sickly green light",
        "with a green tint",
        "rotten green",
        "in slimy tones",
        "in toxic light",
        "mouldy",
    ),
}
WEATHER: dict[str, tuple[str, ...]] = {
    "clear": ("on a clear day", "in fine weather", "on a cloudless day", "in good weather"),
    "cloudy": ("on a cloudy day", "under cloudy weather", "on an overcast day", "when it is overcast"),
    "rain": ("in the rain", "on a rainy day", "in a downpour", "wet with drizzle", "with raindrops falling"),
    "fog": ("in the fog", "in thick mist", "in haze", "on a misty day", "in foggy weather"),
    "storm": ("in a storm", "in stormy weather", "in a tempest", "with thunder", "in a thunderstorm"),
    "indoors": ("indoors", "inside", "under a roof", "in an interior"),
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "beach": (
        "at the beach",
        "on the shore",
        "at the coast",
        "at the seaside",
        "at the waterside",
        "on a holiday beach",
    ),
    "meadow": ("in a green field", "in the countryside", "in a park", "in a garden", "on a grassy plain"),
    "mountains": ("in the mountains", "among high peaks", "in an alpine valley", "in the highlands", "on a hike"),
    "snowfield": ("in a winter landscape", "in the cold white land", "in the arctic", "on ice", "in freezing cold"),
    "desert": ("in the desert", "in a dry empty land", "in a wasteland", "in barren land", "in the drought"),
    "street": ("in the city", "in a street", "in town", "downtown", "on an avenue", "in an urban place"),
    "room": ("in a living room", "in a cosy room", "in a bedroom", "in an apartment", "in a lounge", "in a parlour"),
    "cellar": ("in a cellar", "in a basement", "in a dungeon", "in a vault", "underground", "in a prison cell"),
}
# The class's own name first; nouns, then adjectives.
EMOTION_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "amusement": (("amusement", "fun", "hilarity"), ("amusing", "funny", "amused")),
    "awe": (("awe", "wonder", "reverence"), ("awesome", "majestic", "sublime")),
    "contentment": (("contentment", "comfort", "serenity"), ("content", "satisfied", "serene")),
    "excitement": (("excitement", "thrill", "adventure"), ("exciting", "thrilling", "excited")),
    "anger": (("anger", "rage", "fury"), ("hostile", "mad", "enraged")),
    "disgust": (("disgust", "revulsion", "filth"), ("disgusting", "revolting", "gross")),
    "fear": (("fear", "horror", "terror"), ("fearful", "scary", "creepy")),
    "sadness": (("sadness", "sorrow", "grief"), ("lonely", "melancholy", "mournful")),
}
_NOUN_CLAUSES = ("pure {}", "{} in the air", "what {}", "nothing but {} for me", "one feels {} here", "{} everywhere")
_ADJECTIVE_CLAUSES = ("so {}", "how {}", "it feels {} to me", "feeling {} now", "this looks {}", "in a {} mood")
CLASS_TEMPLATES = ("a picture of {}", "a photo of {}", "{}", "there is {}", "an image with {}", "a drawing of {}")
_STUFF_FIRST = {"sky", "sea", "sand", "grass", "snow", "road", "wall", "floor"}
_LEADS = (
    *("", "", "", "", "a picture of ", "a photo of ", "an image with ", "there is ", "a drawing of ", "here is "),
    *("a scene with ", "an image full of ", "look at ", "a view of ", "just ", "we see ", "this is "),
)
_JOINS = (" and ", ", ", " with ", " next to ", " near ", " beside ", " along with ", " plus ")


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
        return _pick(rng, EXPRESSION_TEMPLATES).format(_pick(rng, EXPRESSIONS[value]))
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
        return _pick(rng, _NOUN_CLAUSES).format(_pick(rng, nouns))
    return _pick(rng, _ADJECTIVE_CLAUSES).format(_pick(rng, adjectives))


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
    text = _pick(rng, _LEADS) + phrases[0]
    for part in phrases[1:]:
        text += _pick(rng, _JOINS) + part
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
    texts = [*CLASS_TEMPLATES, *EXPRESSION_TEMPLATES, *_NOUN_CLAUSES, *_ADJECTIVE_CLAUSES, *_LEADS, *_JOINS]
    texts += ["a picture a scene a photo view in a shirt"]
    for table in (SYNONYMS, ADJECTIVES, VERBS, EXPRESSIONS, TONES, WEATHER, SETTINGS):
        texts += [word for words in table.values() for word in words]
    texts += [word for parts in EMOTION_WORDS.values() for words in parts for word in words]
    texts += [*PALETTE, *MASK_CLASSES, *EMOTION_WORDS]
    return tuple(sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())}))
