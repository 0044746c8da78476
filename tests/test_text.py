"""Templates, text sources, class embeddings and the text-trained classifier, against loops and autograd."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from hc_lafter.clip.descriptions import load_descriptions
from hc_lafter.clip.load import build_embedded, load_clip
from hc_lafter.clip.text import (
    EMOTION_TEMPLATES,
    OBJECT_TEMPLATES,
    SOURCES,
    TextClassifierConfig,
    Texts,
    class_embeddings,
    descriptions_for,
    encode_texts,
    known_words,
    modality_gap,
    templates_for,
    text_loss,
    train_text_classifier,
    untold_classes,
)
from hc_lafter.data.emotion.wheels import MIKELS
from hc_lafter.data.world import grammar, scene


@pytest.fixture(scope="module")
def clip():
    return build_embedded()


def test_emotions_are_known_by_their_names():
    assert templates_for(scene.EMOTIONS) == EMOTION_TEMPLATES
    assert templates_for(["Joy", "ANGER", "neutral"]) == EMOTION_TEMPLATES
    assert templates_for(["anger", "dog"]) == OBJECT_TEMPLATES
    assert templates_for(["dog", "cake"]) == OBJECT_TEMPLATES


def test_each_template_has_one_gap():
    for template in EMOTION_TEMPLATES + OBJECT_TEMPLATES + grammar.CLASS_TEMPLATES:
        assert template.count("{}") == 1


def test_embedding_is_the_mean_over_templates(clip):
    classes, templates = ("awe", "sadness", "rain cloud"), ("a scene of {}", "{}", "the mood is {}")
    got = class_embeddings(clip, classes, templates)
    assert got.shape == (3, clip.embed_dim) and got.device.type == "cpu"
    for row, name in zip(got, classes, strict=True):
        total = torch.zeros(clip.embed_dim)
        for template in templates:
            tokens = clip.tokenizer([template.replace("{}", name)])
            with torch.no_grad():
                feature = clip.model.encode_text(tokens)[0]
            total += feature / feature.norm()
        torch.testing.assert_close(row, total / total.norm(), rtol=1e-5, atol=1e-6)


def test_underscores_are_spaces(clip):
    torch.testing.assert_close(
        class_embeddings(clip, ["birthday_cake"], ["a picture of {}"]),
        class_embeddings(clip, ["birthday cake"], ["a picture of {}"]),
    )


@pytest.mark.parametrize("template", ["a scene", "{} and {}"])
def test_template_without_its_one_place_is_refused(clip, template):
    with pytest.raises(ValueError, match=r"write one \{\}"):
        class_embeddings(clip, ["awe"], [template])


def test_class_that_the_vocabulary_does_not_know_is_refused(clip):
    with pytest.raises(ValueError, match=r"no word of 'zeppelin': rename the class"):
        class_embeddings(clip, ["awe", "zeppelin"], ["{}"])


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (["dog", "tabby"], "no word of 'tabby'"),
        (["1", "2"], "no word of '1'"),
        (["dog", "tabby dog"], "'dog' and 'tabby dog' are the same words"),
    ],
)
def test_classes_that_the_vocabulary_cannot_tell_apart(clip, classes, problem):
    assert problem in untold_classes(clip, classes)
    with pytest.raises(ValueError, match="rename the class, or take a CLIP with a full vocabulary"):
        class_embeddings(clip, classes, ["{}"])


def test_a_full_vocabulary_tells_all_classes(clip):
    assert untold_classes(clip, ["dog", "big_tree", "tree"]) is None
    assert untold_classes(load_clip("ViT-B-32/random"), ["tabby", "1", "2"]) is None


# --- sources ---

TWO = {"awe": ("wide sky over a mountain", "a small person under stars"), "sadness": ("rain on a grey window",)}


def test_every_source_says_what_it_says(clip):
    said = {
        "names": ["awe", "sadness"],
        "single template": ["a photo of awe", "a photo of sadness"],
        "templates": [t.format(c) for c in TWO for t in EMOTION_TEMPLATES],
        "descriptions": [*TWO["awe"], *TWO["sadness"]],
        "descriptions + templates": [
            *TWO["awe"],
            *(t.format("awe") for t in EMOTION_TEMPLATES),
            *TWO["sadness"],
            *(t.format("sadness") for t in EMOTION_TEMPLATES),
        ],
    }
    assert set(said) == set(SOURCES)
    for source, texts in said.items():
        got = encode_texts(clip, list(TWO), source, descriptions=TWO)
        assert list(got.texts) == texts
        first = next(i for i, text in enumerate(texts) if "sadness" in text or text in TWO["sadness"])
        assert got.labels.tolist() == [0] * first + [1] * (len(texts) - first)
        torch.testing.assert_close(got.features, clip.encode_text(texts))


def test_texts_come_from_the_cache_and_its_key_holds_the_inputs(clip, tmp_path, monkeypatch):
    first = encode_texts(clip, list(TWO), "templates", cache=tmp_path)
    monkeypatch.setattr(type(clip), "encode_text", lambda *_: pytest.fail("encoded again"))
    again = encode_texts(clip, list(TWO), "templates", cache=tmp_path)
    assert torch.equal(first.features, again.features) and first.key == again.key
    monkeypatch.undo()
    others = [
        encode_texts(clip, list(TWO), "names", cache=tmp_path),
        encode_texts(clip, list(TWO), "templates", templates=["an {}"], cache=tmp_path),
        encode_texts(build_embedded(seed=1), list(TWO), "templates", cache=tmp_path),
    ]
    assert len({first.key, *(o.key for o in others)}) == 4
    assert len(list((tmp_path / "texts").glob("*.safetensors"))) == 4


@pytest.mark.parametrize(
    ("source", "given", "words"),
    [
        ("prose", TWO, "text source 'prose' is unknown: choose one of names"),
        ("descriptions", None, "there are none of 'awe'.*LaFTer's JSON form"),
        ("descriptions + templates", {"awe": ("a sky",)}, "there are none of 'sadness'"),
    ],
)
def test_sources_that_cannot_be_made(clip, source, given, words):
    with pytest.raises(ValueError, match=words):
        encode_texts(clip, list(TWO), source, descriptions=given)


def test_descriptions_are_found_by_the_classes_and_the_words_of_the_clip(clip, tmp_path):
    real = load_clip("ViT-B-32/random")
    assert descriptions_for(real, MIKELS) == load_descriptions("mikels")
    assert descriptions_for(clip, MIKELS) == load_descriptions("world")
    assert set(descriptions_for(real, ["Anger", "happiness", "neutral"])) == {"Anger", "happiness", "neutral"}
    assert descriptions_for(clip, ["Anger", "happiness", "neutral"]) is None
    assert descriptions_for(real, ["dog", "cake"]) is None
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"dog": ["a wet nose"], "cake": ["sweet"]}), encoding="utf-8")
    assert descriptions_for(clip, ["cake", "dog"], own) == {"cake": ("sweet",), "dog": ("a wet nose",)}
    with pytest.raises(ValueError, match="no class 'cat'"):
        descriptions_for(clip, ["cat"], own)


def test_known_words(clip):
    assert known_words(clip, ["the dog, zeppelin"]) == 2 / 3
    assert known_words(load_clip("ViT-B-32/random"), ["zeppelin"]) is None


# --- the classifier ---


def made_up(per_class: int = 30, classes: int = 4, width: int = 16, seed: int = 1) -> Texts:
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    features = F.normalize(centres[labels] + 0.6 * torch.randn(len(labels), width, generator=generator), dim=-1)
    names = tuple("abcdef"[:classes])
    return Texts(names, "descriptions", tuple(map(str, range(len(labels)))), labels, features, "key")


def test_text_loss_is_the_formula():
    texts, noise = made_up(), torch.full((120, 16), 0.05)
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = text_loss(weight, texts.features, texts.labels, noise, 0.1)
    log_p = torch.log_softmax((texts.features + noise) @ weight.T, dim=-1)
    wanted = -(0.9 * log_p[torch.arange(120), texts.labels] + 0.1 * log_p.mean(dim=1)).mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(loss, weight)[0],
        (log_p.exp() - 0.9 * F.one_hot(texts.labels, 4) - 0.1 / 4).T @ (texts.features + noise) / 120,
    )


def test_training_is_adamw_on_fresh_noise():
    """Against a plain loop with the same draws."""
    texts, config = made_up(), TextClassifierConfig(noise=0.2, smoothing=0.05, lr=3e-3, weight_decay=0.1, steps=7)
    generator = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        layer.weight.uniform_(-1 / math.sqrt(16), 1 / math.sqrt(16), generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(7):
        x = texts.features + 0.2 * torch.randn(120, 16, generator=generator)
        optimiser.zero_grad()
        F.cross_entropy(layer(x), texts.labels, label_smoothing=0.05).backward()
        optimiser.step()
    trained = train_text_classifier(texts, config, seed=5)
    torch.testing.assert_close(trained.weight, layer.weight.detach())
    assert torch.equal(trained.weight, train_text_classifier(texts, config, seed=5).weight)
    assert not torch.equal(trained.weight, train_text_classifier(texts, config, seed=6).weight)


def test_it_learns_as_well_as_logistic_regression():
    texts, held_out = made_up(), made_up(per_class=200, seed=2)
    state = torch.random.get_rng_state()
    trained = train_text_classifier(texts, seed=0, watch=lambda weight: {"size": weight.norm().item()}, every=100)
    assert torch.equal(state, torch.random.get_rng_state())
    ours = (trained.logits(held_out.features).argmax(1) == held_out.labels).float().mean()
    rival = LogisticRegression().fit(texts.features.numpy(), texts.labels.numpy())
    assert ours > rival.score(held_out.features.numpy(), held_out.labels.numpy()) - 0.02
    assert [row["step"] for row in trained.curve] == [0, 100, 200, 300, 399]
    assert trained.curve[-1]["loss"] < 0.8 * trained.curve[0]["loss"]
    assert trained.curve[-1]["size"] > trained.curve[0]["size"]
    scaled = trained.logits(100 * held_out.features)
    torch.testing.assert_close(scaled, held_out.features @ trained.weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"smoothing": 1.0}, {"lr": 0.0}, {"steps": 0}])
def test_unusable_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="is not usable: noise from 0"):
        train_text_classifier(made_up(), TextClassifierConfig(**wrong), seed=0)


def test_modality_gap():
    images, texts = torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert modality_gap(images, texts) == pytest.approx(math.sqrt(2))
    assert modality_gap(images, images) == 0
