"""The descriptions are what their card says, LaFTer's files load as they are, a wrong file is named with what to do."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest

from hc_lafter.clip.descriptions import BUNDLED, load_descriptions
from hc_lafter.clip.load import build_embedded
from hc_lafter.clip.text import EMOTION_TEMPLATES

FOLDER = files("hc_lafter.clip.descriptions")
CLASSES = {
    "mikels": ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness"),
    "ekman": ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral"),
}
CLASSES["world"] = CLASSES["mikels"]
# The emotion's name and the words nearest to it.
NAMED = {
    "amusement": r"amus",
    "awe": r"awe",
    "contentment": r"content(ed|ment|ment's)?\b",
    "excitement": r"excit",
    "anger": r"ang(er|r)",
    "disgust": r"disgust",
    "fear": r"fear|afraid",
    "sadness": r"sad(ly|ness|dened)?\b",
    "joy": r"joy",
    "surprise": r"surpris",
    "neutral": r"neutral",
}


def words(sentence: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", sentence.lower()))


def write(folder: Path, content: object, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# --- the two files ---


def test_every_bundled_file_is_known_here():
    assert (
        set(BUNDLED) == set(CLASSES) == {p.name.removesuffix(".json") for p in FOLDER.iterdir() if p.suffix == ".json"}
    )


@pytest.mark.parametrize("source", BUNDLED)
def test_classes_and_counts(source):
    texts = load_descriptions(source)
    assert (
        tuple(texts) == CLASSES[source]
    )  # EmoSet's order, Emotion6's columns: names all the same, order is a courtesy
    assert all(len(sentences) >= 50 for sentences in texts.values())


@pytest.mark.parametrize("source", BUNDLED)
def test_sentences_keep_the_rules_of_the_prompt(source):
    for name, sentences in load_descriptions(source).items():
        for sentence in sentences:
            assert 8 <= len(sentence.split()) <= 30, sentence
            assert sentence == sentence.strip() and sentence.endswith(".") and sentence[0].isupper(), sentence
            assert sentence.isascii(), sentence
        own = name if source == "world" else NAMED[name]  # six hundred words have few others for an angry face
        naming = [s for s in sentences if re.search(rf"\b({own})", s, re.IGNORECASE)]
        assert len(naming) * 5 <= len(sentences), (name, naming)
        openings = {tuple(s.split()[:2]) for s in sentences}
        assert len(openings) >= 0.9 * len(sentences), f"{name}: too many sentences begin alike"


def test_sentences_for_the_world_use_its_words_and_no_template():
    tokenizer = build_embedded().tokenizer
    every = [s for sentences in load_descriptions("world").values() for s in sentences]
    assert tokenizer.coverage(every) > 0.97
    beginnings = tuple(template.split("{}")[0] for template in EMOTION_TEMPLATES if not template.startswith("{}"))
    assert [s for s in every if s.lower().startswith(beginnings)] == []
    assert tokenizer.coverage([s for sentences in load_descriptions("mikels").values() for s in sentences]) < 0.75


def test_no_two_sentences_are_alike_and_the_card_names_the_nearest_pair():
    every = [words(s) for source in BUNDLED for sentences in load_descriptions(source).values() for s in sentences]
    largest = max(len(a & b) / len(a | b) for a, b in combinations(every, 2))
    assert largest < 0.6
    assert f"of the {len(every)} sentences" in card() and f"the largest is {largest:.2f})" in card()


def card() -> str:
    return (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", BUNDLED)
def test_card_gives_the_hash_classes_and_count(source):
    texts = load_descriptions(source)
    (row,) = (line for line in card().splitlines() if line.startswith(f"| `{source}.json`"))
    _, _, classes, count, digest, _ = (cell.strip() for cell in row.split("|"))
    content = (FOLDER / f"{source}.json").read_bytes().replace(b"\r\n", b"\n")  # git may check out CRLF on Windows
    assert digest == f"`{hashlib.sha256(content).hexdigest()}`"
    assert classes == ", ".join(texts)
    sizes = {len(sentences) for sentences in texts.values()}
    assert count == f"{len(texts)} x {sizes.pop()} = {sum(map(len, texts.values()))}" and not sizes


# --- choosing classes ---


def test_your_names_and_your_order_come_back():
    everything = load_descriptions("ekman")
    with pytest.warns(UserWarning, match="left out") as notes:
        chosen = load_descriptions("ekman", ["Surprise", "joy"])
    assert list(chosen) == ["Surprise", "joy"]
    assert chosen["Surprise"] == everything["surprise"] and chosen["joy"] == everything["joy"]
    text = str(notes[0].message)
    assert text.startswith("ekman.json") and "'anger'" in text and "'joy'" not in text and len(notes) == 1


def test_all_classes_by_name_give_no_note():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_descriptions("mikels", CLASSES["mikels"]) == load_descriptions("mikels")
        assert list(load_descriptions("mikels", sorted(CLASSES["mikels"]))) == sorted(CLASSES["mikels"])


def test_lafters_form_loads_as_it_is(tmp_path):
    # UCF101.json has underscores and repeated sentences, others leading blanks, quotes that never close and escapes.
    table = {
        "Apply_Eye_Makeup": ["1.", "1.", ' personThis image shows "eyes.', "Apply primer \u2014 then shadow."],
        "Archery": ["A bow."],
    }
    path = write(tmp_path, table)
    assert load_descriptions(path) == {key: tuple(value) for key, value in table.items()}
    chosen = load_descriptions(str(path), ["archery", "apply eye makeup"])
    assert chosen == {"archery": ("A bow.",), "apply eye makeup": tuple(table["Apply_Eye_Makeup"])}


def test_spaces_in_the_file_and_underscores_in_the_request(tmp_path):
    path = write(tmp_path, {"Annual Crop Land": ["A field."]})
    assert load_descriptions(path, ["annual_crop_land"]) == {"annual_crop_land": ("A field.",)}


def test_exact_name_wins_over_one_that_is_merely_alike(tmp_path):
    path = write(tmp_path, {"Joy": ["upper"], "joy": ["lower"]})
    assert load_descriptions(path, ["joy", "Joy"]) == {"joy": ("lower",), "Joy": ("upper",)}
    with pytest.raises(ValueError, match=r"'JOY' may be any of 'Joy', 'joy' in .*mine\.json: name one exactly"):
        load_descriptions(path, ["JOY"])


def test_file_with_byte_order_mark(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"café": ["Tables outside."]}'.encode())
    assert load_descriptions(path) == {"café": ("Tables outside.",)}


def test_bundled_name_wins_as_text_but_not_as_path(tmp_path, monkeypatch):
    write(tmp_path, {"joy": ["mine"]}, name="ekman")
    monkeypatch.chdir(tmp_path)
    assert "neutral" in load_descriptions("ekman")
    assert load_descriptions(Path("ekman")) == {"joy": ("mine",)}


# --- errors: one sentence that names file, class and what to do ---


@pytest.mark.parametrize(
    ("classes", "error", "pattern"),
    [
        (["Angry"], ValueError, r"ekman\.json has no class 'Angry' \(did you mean 'anger'\?\): .*holds 'anger', 'disg"),
        (["happiness"], ValueError, r"ekman\.json has no class 'happiness': .*'joy', .*'neutral'\.$"),
        (["joy", "Joy"], ValueError, r"'joy' and 'Joy' are both class 'joy' of ekman\.json: keep one"),
        (["fear", "fear"], ValueError, r"keep one of them"),
        ("joy", TypeError, r"classes is the text 'joy': give a list"),
    ],
)
def test_wrong_classes(classes, error, pattern):
    with pytest.raises(error, match=pattern):
        load_descriptions("ekman", classes)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("[" * 100_000, r"is not JSON in UTF-8 \("),
        ("", r"is not JSON in UTF-8"),
        ('"joy"', r"holds no object"),
        ("null", r"holds no object"),
        ("[]", r"holds no object"),
        ("{}", r"holds an empty object"),
        ('{"joy": "a smile"}', r"class 'joy' holds no list of sentences"),
        ('{"joy": {"a": "b"}}', r"class 'joy' holds no list of sentences"),
        ('{"fear": ["b"], "joy": []}', r"class 'joy' holds no list of sentences: put one"),
        ('{"joy": ["a", null]}', r"class 'joy', sentence 2 is null: write text"),
        ('{"joy": ["a", "b", " \\n"]}', r"class 'joy', sentence 3 is \" \\n\": write text"),
    ],
)
def test_wrong_file_is_named_with_what_to_do(tmp_path, content, pattern):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=pattern) as caught:
        load_descriptions(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_long_list_of_classes_is_cut_short(tmp_path):
    path = write(tmp_path, {f"class {number}": ["x"] for number in range(1000)})
    with pytest.raises(ValueError, match=r"'class 9' and 990 more\.$"):
        load_descriptions(path, ["zebra"])


def test_missing_file_names_the_nearest_bundled_set(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'Mikel' do not exist \(did you mean 'mikels'\?\): give 'mikels', 'ek"
    ):
        load_descriptions("Mikel")
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.json' do not exist: give 'mikels', 'ekman', 'world' or the path"
    ):
        load_descriptions(tmp_path / "nothing.json")


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(OSError, match=r"cannot be read \(.+\): give a JSON file"):
        load_descriptions(tmp_path)
