"""Towers of other depths than 12: where the settings' layers go, and every system trained on 24 blocks and on 6."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import open_clip
import pytest
import torch

from hc_lafter import open_data, systems
from hc_lafter.clip.load import build_embedded, save_clip
from hc_lafter.systems import depth as depths
from hc_lafter.systems.cascade_clip import CascadeCLIPConfig
from hc_lafter.systems.hybrid_cascade import HybridCascadeConfig
from hc_lafter.systems.linear_probe import LinearProbeConfig
from hc_lafter.systems.mean_of_layers import MeanOfLayersConfig
from hc_lafter.systems.multilayer import SEGMENTS, MultiLayerConfig
from hc_lafter.systems.sc_clip import PRESETS, preset, released
from hc_lafter.tuning.computing import compute
from hc_lafter.tuning.material import opened
from hc_lafter.tuning.runs import Run
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.start import settings_for
from hc_lafter.tuning.tune import tune

ENTRIES = systems.registry()


def run(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def test_with_twelve_blocks_every_setting_is_as_it_is_written():
    for name, entry in ENTRIES.items():
        if entry.preset is None:
            assert entry.configure(depth=12) == entry.configure() == replace(entry.config(), **entry.settings), name
    assert HybridCascadeConfig().stages == ((5, 6, 7), (8, 9), (10, 11, 12))
    for name, config in PRESETS.items():
        assert preset(name, "", 24 if name == "ViT-L-14" else 12) == config


@pytest.mark.parametrize(
    "config, field, at_24, at_6",
    [
        (HybridCascadeConfig(), "stages", (run(9, 14), run(15, 18), run(19, 24)), ((3, 4), (5,), (6,))),
        (CascadeCLIPConfig(), "levels", (run(11, 16), run(17, 23), (24,)), ((4,), (5,), (6,))),
        (CascadeCLIPConfig(levels=((12,),)), "levels", ((24,),), ((6,),)),
        (MultiLayerConfig(), "segments", (run(1, 8), run(9, 16), run(17, 23), (24,)), ((1, 2), (3, 4), (5,), (6,))),
        (
            MultiLayerConfig(segments=SEGMENTS["ViT-B/16"]), "segments",
            (run(11, 16), run(17, 23), (24,)), ((4,), (5,), (6,)),
        ),
        (MeanOfLayersConfig(), "layers", run(9, 24), run(3, 6)),
        (LinearProbeConfig(), "layers", (24,), (6,)),
        (LinearProbeConfig(layers=(1, 4, 9, 12)), "layers", (2, 8, 18, 24), (1, 2, 5, 6)),
    ],
)  # fmt: skip
def test_where_layers_go(config, field, at_24, at_6):
    for blocks, wanted in ((24, at_24), (6, at_6)):
        scaled = depths.scaled(config, blocks)
        assert getattr(scaled, field) == wanted
        assert replace(scaled, **{field: getattr(config, field)}) == config  # nothing else has changed


@pytest.mark.parametrize("blocks", [*range(depths.FEWEST, 33), 40, 48])
def test_on_every_depth_groups_follow_one_another_up_to_the_last_layer(blocks):
    """As they do with 12; a last layer that is read alone is read alone."""
    for name, entry in ENTRIES.items():
        config = entry.configure("a tower", depth=blocks)
        for field in {f.name for f in fields(config)} & set(depths.GROUPED):
            groups, written = getattr(config, field), getattr(entry.configure(), field)
            assert len(groups) == len(written) and all(groups), name
            layers = [layer for group in groups for layer in group]
            assert layers == list(run(layers[0], blocks)), name
            assert (len(groups[-1]) == 1) or len(written[-1]) > 1, name
        if hasattr(config, "layers"):
            assert config.layers[-1] == blocks and len(set(config.layers)) == len(config.layers), name
    assert 1 <= released(blocks).post < released(blocks).pre < blocks
    assert 1 <= released(blocks).fusion[0] < released(blocks).fusion[1] < blocks


def test_sc_clip_on_other_depths_scales_the_nearest_published_settings():
    published, large = replace(PRESETS["ViT-B-16"], k=30 / 196), replace(PRESETS["ViT-L-14"], k=30 / 196)
    assert preset("ViT-S-16/mine", "", 12) == released(12) == published  # a ViT-S: as a ViT-B
    assert preset("ViT-L-16/mine", "", 24) == released(24) == large
    assert preset("ViT-L-14-336/openai", "", 24) == PRESETS["ViT-L-14"]
    assert preset("ViT-B-16-cut", "", 6) == released(6) == replace(published, pre=5, post=2, fusion=(2, 5))
    assert preset("ViT-H-14/x", "", 32) == replace(large, pre=23, post=9, fusion=(12, 25))
    assert preset("ViT-H-14/x", "voc21", 32).logit_scale == preset("ViT-B-16", "voc21").logit_scale


def test_what_does_not_fit_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"^4 blocks have no room for the levels .*, made for 12: take a deeper"):
        systems.find("Cascade-CLIP").configure("x", depth=4)
    with pytest.raises(ValueError, match=r"^stages: layer 7 is not one of this tower's, choose from 1 to 6"):
        systems.find("HybridCascade-LaFTer").configure("x", depth=6, stages=((5, 6), (7,)))
    with pytest.raises(
        ValueError, match=r"^this tower has 4 blocks, too few for the designs' .*: take a tower of 5 or"
    ):
        systems.find("SC-CLIP").configure("x", depth=4)
    assert systems.find("zero-shot").configure(depth=3).layers == (3,)


# --- every system, on towers of 24 and of 6 blocks ---


@pytest.fixture(scope="module", params=[24, 6])
def tower(request, tmp_path_factory):
    """A CLIP of tiny width with random weights, from a file, and a setting of it and a few scenes, with a cache."""
    place = tmp_path_factory.mktemp(f"depth-{request.param}")
    small = build_embedded(seed=0)
    sizes = {"width": 32, "head_width": 16, "layers": request.param, "image_size": 32}
    vision = {**small.config["vision_cfg"], **sizes}
    text = {**small.config["text_cfg"], "width": 32, "heads": 2, "layers": 2}
    config = {**small.config, "embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_clip(replace(small, model=model, config=config), place / "mine.safetensors")
    sizes = {"n_train": 24, "n_val": 10, "n_test": 10, "text_steps": 20, "text_noise": (0.0,)}
    setting = Setting(clip=str(place / "mine.safetensors"), cache=place / "cache", **sizes)
    clip = opened(setting)[0]
    assert clip.layers == request.param
    return clip, setting


@pytest.mark.parametrize("name", ENTRIES)
def test_every_system_is_trained_and_read(name, tower):
    clip, setting = tower
    entry = ENTRIES[name]
    trained = entry.regimes[-1] != "no training"
    config = settings_for(entry, setting)
    assert config == entry.configure(clip.name, "world", clip.layers)
    if hasattr(config, "layers"):
        assert config.layers[-1] == clip.layers
    if hasattr(config, "tokens"):
        config = replace(config, tokens=2)
    sizes = {"n_train": 16, "n_val": 10, "n_test": 10, "epochs": 3, "batch_size": 8} if trained else {"n_val": 10}
    result = compute(Run(name, entry.regimes[-1], 0, setting, config, **sizes))
    found = result.arrays["counts" if entry.reads == "masks" else "test"]
    assert len(found) == 10 and np.isfinite(found).all()
    assert len(result.history.steps) == (6 if trained and entry.fit is None else 0) and not result.history.diverged
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert result.module()(images).logits.isfinite().all()


@pytest.mark.parametrize("name", ["SC-CLIP", "dense hybrid"])
def test_tune_asks_the_tower_for_its_depth(name, tower, tmp_path):
    clip, setting = tower
    data = open_data("world", n_train=8, n_val=4, n_test=4, side=clip.image_size)
    tuned = tune(name, clip, data, regime="no training", progress=False)
    assert tuned.config == settings_for(ENTRIES[name], setting)
    loaded = systems.load(systems.save(tuned, tmp_path / "tuned.safetensors"), clip)
    assert loaded.config == tuned.config
