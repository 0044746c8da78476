"""The fidelity card: verdicts and counts against known answers and slow oracles, and one tiny run from end to end."""

import copy
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from hc_lafter.__main__ import main
from hc_lafter.clip.load import build_embedded, save_clip
from hc_lafter.data.world import grammar, painter
from hc_lafter.data.world.dataset import visible_classes
from hc_lafter.embedded import fidelity
from hc_lafter.embedded.cards import fidelity_card, read, verdict, write_card
from hc_lafter.embedded.fidelity import Sizes, crossing
from hc_lafter.embedded.measure import average_precision

TINY = Sizes(
    train=120, val=60, test=60, masks=12, pixels=12, attributes=100, layers=8, captions=20, draws=2, resamples=100
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two untrained CLIPs through the command line."""
    out = tmp_path_factory.mktemp("fidelity")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = []
    for seed in (0, 1):
        save_clip(build_embedded(seed), out / f"{seed}.safetensors")
        models.append(f"seed{seed}={out / f'{seed}.safetensors'}")
    sizes = [word for name, n in vars(TINY).items() for word in (f"--n-{name}", str(n))]
    assert main(["fidelity", *models, "--out", str(out), "--descriptions", "mikels", *sizes]) == 0
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def facts(folder):
    return json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))


# --- verdicts ---


@pytest.mark.parametrize(
    "value, band, said",
    [
        (0.35, [0.35, 0.55], "met"),
        (0.55, [0.35, 0.55], "met"),
        (0.3499, [0.35, 0.55], "missed"),
        (0.5501, [0.35, 0.55], "missed"),
        (0.8, [0.72, None], "met"),
        (0.71, [0.72, None], "missed"),
        (0.0, [None, 0.01], "met"),
        (0.011, [None, 0.01], "missed"),
        (None, [4, 64], "missed"),  # never overtaken
        (float("inf"), [4, None], "missed"),
        (float("nan"), [0, None], "missed"),
        (0.2, None, "reported"),
        (None, None, "reported"),
    ],
)
def test_a_verdict_is_where_the_value_lies(value, band, said):
    assert verdict(value, band) == said


def test_bands_are_those_fixed_before_training(facts):
    bands = {key: m["band"] for fact in facts["facts"] for key, m in fact["measures"].items() if m["band"]}
    probes = {key: [0.9, None] for key in ("setting", "tone", "sky", "back", "weather")}
    assert bands == probes | {
        "zero-shot": [0.35, 0.55],
        "probe": [0.72, None],
        "probe - zero-shot": [0.2, None],
        "crossing": [4, 64],
        "expression": [0.85, None],
        "foreground": [0.85, None],
        "retrieval": [0.85, None],
        "zero-shot by depth": [0.8, None],
        "probe by depth": [0.8, None],
        "zero-shot, best - last": [None, 0.01],
        "probe, best - last": [None, 0.01],
        "descriptions - names": [0, None],
        "value path": [0.45, None],
        "value path - plain": [0.1, None],
        "patch probe - value path": [0.05, None],
    }


def test_where_a_curve_overtakes():
    shots = [1, 4, 16]
    assert crossing(shots, [0.2, 0.4, 0.6], 0.5) == pytest.approx(8)  # half way in the logarithm
    assert crossing(shots, [0.2, 0.4, 0.6], 0.1) == 1
    assert crossing(shots, [0.2, 0.4, 0.6], 0.6) == float("inf")  # a tie is no overtaking
    assert crossing(shots, [0.6, 0.4, 0.6], 0.5) == pytest.approx(8)  # it has to stay above


# --- counts against slow oracles ---


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    score, truth = rng.random(50), rng.integers(2, size=50)
    weight = rng.integers(0, 3, size=(4, 50))
    found = average_precision(score, truth, weight)
    slow = [average_precision_score(np.repeat(truth, w), np.repeat(score, w)) for w in weight]
    np.testing.assert_allclose(found, slow, rtol=1e-12)
    assert np.isnan(average_precision(score, np.zeros(50), weight)).all()


def test_rank_correlation_is_scipys():
    right = np.random.default_rng(1).random((12, 200)) < np.linspace(0.2, 0.5, 12)[:, None]
    found = fidelity._by_depth("probe", right, TINY)
    accuracy = right.mean(axis=1)
    assert found["probe by depth"].value == pytest.approx(spearmanr(np.arange(12), accuracy).statistic)
    assert found["probe, best - last"].value == accuracy.max() - accuracy[-1]
    assert fidelity._by_depth("probe", np.ones((12, 20), bool), TINY)["probe by depth"].value == 0  # all layers alike


def test_draws_are_nested_and_balanced():
    labels = np.array([0, 1, 1, 0, 1, 0, 1, 1])
    turn = fidelity._in_turn(labels, np.random.default_rng(0))
    for k in (1, 2, 3):
        assert np.bincount(labels[turn < k]).tolist() == [k, k]
    other = fidelity._in_turn(labels, np.random.default_rng(1))
    assert not np.array_equal(turn, other)


def test_resamples_take_every_image_as_often_as_any():
    shares, images = fidelity._resample(30, 5, 400)
    assert (images.sum(axis=1) == 30).all() and np.allclose(shares.sum(axis=1), 1)
    values = np.random.default_rng(0).random((5, 30))
    slow = [sum(shares[0, s] * images[0] @ values[s] / 30 for s in range(5))]
    np.testing.assert_allclose(fidelity._means(values, (shares[:1], images[:1])), slow)


def test_held_out_captions_leave_nothing_out():
    held = fidelity.Held(TINY)

    for i, caption in zip(held.part["test"], held.captions, strict=False):
        for name in visible_classes(held.masks[i]):
            assert any(word in caption for word in grammar.SYNONYMS[name]), (name, caption)
    assert held.visible.shape == (len(held.world), len(painter.MASK_CLASSES))


# --- from end to end ---


def test_two_seeds_from_end_to_end(folder, facts):
    for name in ("fidelity.png", "FIDELITY_CARD.md"):
        assert (folder / name).stat().st_size > 2000
    assert list(facts["models"]) == ["seed0", "seed1"]
    assert str(folder) not in json.dumps(facts), "a path of this machine is in the file"
    for model in facts["models"].values():
        assert set(model["verdicts"]) == {key for fact in facts["facts"] for key in fact["measures"]}
        for key, e in model["measured"].items():
            if e["low"] is not None and e["high"] is not None:
                assert e["low"] <= e["high"], key
        assert model["measured"]["value path"]["value"] < 0.2  # untrained
        assert model["verdicts"]["retrieval"] == "missed"
        assert 0.5 < model["measured"]["oracle"]["value"] < 1
        assert len(model["layers"]["probe"]) == 12
    assert 0.7 < facts["ceiling"]["value"] <= 1
    assert "**MISSED**" in (folder / "FIDELITY_CARD.md").read_text(encoding="utf-8")


def test_the_card_is_made_of_the_json_alone(folder, facts, tmp_path):
    (tmp_path / "fidelity.json").write_bytes((folder / "fidelity.json").read_bytes())
    card = write_card(tmp_path)
    assert card.read_bytes() == (folder / "FIDELITY_CARD.md").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["FIDELITY_CARD.md", "fidelity.json"]


def test_a_missed_band_is_called_missed(facts):
    model = facts["models"]["seed0"]
    model["measured"]["zero-shot"] |= {"value": 0.6, "low": 0.58, "high": 0.62}
    model["verdicts"]["zero-shot"] = "missed"
    card = fidelity_card(facts)
    line = next(line for line in card.splitlines() if line.startswith("| zero-shot top-1"))
    assert "0.600 [0.580, 0.620], n 60, **MISSED**" in line
    assert "zero-shot" in next(line for line in card.splitlines() if line.startswith("- **seed0**"))
    facts["held_out"] = False
    assert "seed 3000, NOT the held-out one" in fidelity_card(facts)
    for key in model["verdicts"]:
        model["verdicts"][key] = "met" if model["verdicts"][key] != "reported" else "reported"
    assert "20 of 20 bands met." in fidelity_card(facts)


def _wrong_verdict(facts):
    facts["models"]["seed0"]["verdicts"]["retrieval"] = "met"


def _moved_band(facts):
    next(f for f in facts["facts"] if f["id"] == "F5")["measures"]["retrieval"]["band"] = [0, None]


def _no_measure(facts):
    del facts["models"]["seed1"]["measured"]["probe"]


@pytest.mark.parametrize("damage", [_wrong_verdict, _moved_band, _no_measure])
def test_broken_copies_are_refused(facts, tmp_path, damage):
    broken = copy.deepcopy(facts)
    damage(broken)
    (tmp_path / "fidelity.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ValueError, match="make it again with"):
        read(tmp_path)
    (tmp_path / "fidelity.json").write_text(json.dumps(facts), encoding="utf-8")
    read(tmp_path)


def test_refusals_name_what_to_correct(tmp_path, capsys):
    assert main(["fidelity", "--card", "--out", str(tmp_path)]) == 2
    assert "fidelity.json" in capsys.readouterr().err
    assert main(["fidelity", "a=nowhere.safetensors", "--out", str(tmp_path)]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
