"""The embedded CLIP as shipped: the right file, the right cards, and what they say of pictures it has never seen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hc_lafter.clip.load
from hc_lafter.clip.load import load_clip
from hc_lafter.data.world import grammar
from hc_lafter.embedded import cards, measure, pretrain
from hc_lafter.files import file_hash

FOLDER = Path(hc_lafter.clip.load.__file__).parents[1] / "embedded"


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


def test_file_is_the_one_of_the_card(facts, clip):
    path = FOLDER / "model.safetensors"
    assert file_hash(path) == facts["sha256"]
    assert path.stat().st_size == facts["bytes"] <= 20_000_000
    assert clip.weight_hash == facts["weight_hash"] and clip.parameters == facts["parameters"]


def test_card_is_made_from_the_json(facts):
    assert (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8") == cards.model_card(facts)


def test_known_answer(facts, clip):
    np.testing.assert_allclose(pretrain.known_answer(clip), facts["known_answer"], atol=1e-3)
    assert np.ptp(facts["known_answer"]) > 0.01


def test_architecture_and_vocabulary(facts, clip):
    assert clip.activation == facts["config"]["activation"] == "GELU"
    assert (clip.layers, clip.width, clip.patch_size, clip.image_size, clip.embed_dim) == (12, 128, 8, 64, 128)
    assert clip.tokenizer.words == grammar.vocabulary() and len(clip.tokenizer.words) == facts["words"]
    assert not clip.notes and not clip.model.training
    assert {p.dtype for p in clip.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_recipe_of_the_card_is_the_recipe_of_the_code(facts):
    assert facts["recipe"] == json.loads(json.dumps(pretrain.asdict(pretrain.SIZES["cpu"])))
    assert facts["data_seed"] == pretrain.DATA_SEED != facts["held_out"]["seed"]
    history = facts["made"]["history"]
    assert [row["step"] for row in history] == [*range(0, pretrain.SIZES["cpu"].steps, 20), 2099]
    assert history[-1]["loss"] < 0.4 * history[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 96])
def test_all_scenes_read_as_the_card_says(facts, clip, side):
    """All 2,000 held-out scenes, and every number of the card again."""
    held = facts["held_out"]
    measured = measure.evaluate(clip, held["scenes"], seed=held["seed"], side=side)
    stored = facts[f"measured_{side}px"]
    assert measured.keys() == stored.keys()
    for name, value in measured.items():
        assert value == pytest.approx(stored[name], abs=0.004 if name == "R@1 of 500" else 0.005), name
    assert measured["mIoU"] < measured["oracle mIoU"]


def test_fidelity_card_is_of_this_file_and_made_from_its_json(facts, tmp_path):
    found = cards.read(FOLDER)
    assert facts["weight_hash"] in json.dumps(found)
    (tmp_path / "fidelity.json").write_bytes((FOLDER / "fidelity.json").read_bytes())
    cards.write_card(tmp_path)
    assert (tmp_path / "FIDELITY_CARD.md").read_bytes() == (FOLDER / "FIDELITY_CARD.md").read_bytes()
