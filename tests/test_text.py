"""Templates and class embeddings, against a loop."""

import pytest
import torch

from hc_lafter.clip import build_embedded, load_clip
from hc_lafter.data import grammar, scene
from hc_lafter.text import EMOTION_TEMPLATES, OBJECT_TEMPLATES, class_embeddings, templates_for, untold_classes


@pytest.fixture(scope="module")
def clip():
    return build_embedded()


def test_emotions_are_known_by_their_names():
    assert templates_for(scene.EMOTIONS) == EMOTION_TEMPLATES
    assert templates_for(["Joy", "ANGER", "neutral"]) == EMOTION_TEMPLATES
    assert templates_for(["anger", "dog"]) == OBJECT_TEMPLATES
    assert templates_for(["dog", "cake"]) == OBJECT_TEMPLATES


def test_each_template_has_one_place():
    for template in EMOTION_TEMPLATES + OBJECT_TEMPLATES + grammar.CLASS_TEMPLATES:
        assert template.count("{}") == 1
    assert EMOTION_TEMPLATES == grammar.EMOTION_TEMPLATES  # what the embedded CLIP was trained and measured with


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
    ("classes", "told"),
    [
        (["dog", "tabby"], "no word of 'tabby'"),
        (["1", "2"], "no word of '1'"),
        (["dog", "striped dog"], "'dog' and 'striped dog' are the same words"),
    ],
)
def test_classes_that_the_vocabulary_cannot_tell_apart(clip, classes, told):
    assert told in untold_classes(clip, classes)
    with pytest.raises(ValueError, match="rename the class, or take a CLIP with a full vocabulary"):
        class_embeddings(clip, classes, ["{}"])


def test_a_full_vocabulary_tells_all_classes(clip):
    assert untold_classes(clip, ["dog", "big_tree", "tree"]) is None
    assert untold_classes(load_clip("ViT-B-32/random"), ["tabby", "1", "2"]) is None
