"""What designs and releases set, number by number, and what a system does with what it is given.

Each of these could be changed by a slip of the pen without any other test noticing.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer

from hc_lafter import systems
from hc_lafter.clip.text import TextClassifierConfig
from hc_lafter.clip.vit import walk
from hc_lafter.systems.cascade_clip import SCHEDULE, CascadeCLIP, CascadeCLIPConfig
from hc_lafter.systems.dense_hybrid import DenseHybridCascade
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.masks import PROTOCOLS
from hc_lafter.systems.multilayer import MultiLayerConfig, MultiLayerLaFTer
from hc_lafter.systems.regimes import LabelFree, SeenPixels, Supervised, regime_terms
from hc_lafter.systems.sc_clip import PRESETS, SCClipConfig
from hc_lafter.systems.scalar_mix import ScalarMix, ScalarMixConfig


@pytest.fixture
def tower() -> VisionTransformer:
    torch.manual_seed(0)
    size = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 12, "heads": 3, "mlp_ratio": 2.0}
    return VisionTransformer(**size, output_dim=16).eval()


@pytest.fixture
def cascade(tower) -> CascadeCLIP:
    config = CascadeCLIPConfig(levels=((6, 7), (12,)), tokens=2, heads=4, dropout=0.5)
    text = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    return CascadeCLIP(tower, text, torch.arange(5) < 3, config)


def rates(system) -> dict[str, tuple[float, float]]:
    """Group of parameters -> its learning rate and its weight decay."""
    return {group["name"]: (group["lr"], group["weight_decay"]) for group in system.parameter_groups()}


def test_a_regime_has_the_weights_that_it_is_given_and_else_the_designs():
    bare = SimpleNamespace(config=SimpleNamespace())
    assert regime_terms("supervised", bare, lam=0.3).lam == 0.3 and Supervised().lam == 0.8
    assert regime_terms("label-free", bare).smoothing == LabelFree().smoothing == 0.1


def test_every_group_has_its_own_rate_and_decay(tower):
    """NGA has a rate of its own, and what is no matrix does not decay: sigma, fusion, the weights of a mix."""
    text = torch.zeros(5, 16)
    hybrid = HybridCascade(tower, text, HybridCascadeConfig(prompts=2, lr=3.0, nga_lr=0.5, weight_decay=0.2))
    decayed = dict.fromkeys(("adapters", "classifier", "prompts"), (3, 0.2))
    assert rates(hybrid) == decayed | {"fusion": (3, 0), "nga": (0.5, 0)}
    multi = rates(MultiLayerLaFTer(tower, text, MultiLayerConfig(tokens=2, lr=3.0, nga_lr=0.5, weight_decay=0.2)))
    assert (multi["nga"], multi["fusion"], multi["segment 1"]) == ((0.5, 0), (3, 0), (3, 0.2))
    mix = ScalarMix(tower, text, ScalarMixConfig(lr=3.0, weight_decay=0.2))
    assert rates(mix) == {"mix": (3, 0), "classifier": (3, 0.2)}


def test_settings_that_the_designs_write_down():
    c = HybridCascadeConfig()
    found = c.lr, c.nga_lr, c.weight_decay, c.consistency, c.distillation, c.sigma
    assert found == (1e-4, 1e-5, 0.01, 0.1, 0, 1)
    text = TextClassifierConfig()
    assert (text.noise, text.smoothing) == (0.1, 0.1)
    assert SCHEDULE == {"warmup": 0.075, "decay": "poly"}
    assert PRESETS["ViT-B-32"] == SCClipConfig(k=0.15)
    assert (PRESETS["embedded"].beta, PRESETS["embedded"].sharpness) == (0.9, 100)
    thresholds = [(PROTOCOLS[name].probability, PROTOCOLS[name].area) for name in ("context60", "coco_object")]
    assert thresholds == [(0.15, 0), (0.35, 0)]


def test_distillation_has_its_weight_in_every_phase(tower):
    phases = HybridCascade(tower, torch.zeros(5, 16), HybridCascadeConfig(distillation=0.3)).schedule()
    assert [phase.weights.get("distillation") for phase in phases] == [0.3] * 3


def test_lafter_leaves_out_what_its_teacher_is_not_sure_of(tower):
    """Its confidence is that of cosines: features of another length are as sure."""
    text = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        tower.ln_post.weight.mul_(20)
        cosines = F.normalize(walk(tower, images).final, dim=-1) @ text.T
        sure = (10 * cosines).softmax(dim=1).amax(dim=1)
    threshold = float(sure.sort().values[4]) - 1e-5
    system = LaFTer(tower, text, LaFTerConfig(tokens=2, threshold=threshold), logit_scale=10.0)
    taught = system.teach(images)
    assert ((taught >= 0) == (sure >= threshold)).all() and (taught < 0).sum() == 4


def test_confident_lafter_has_fixmatchs_threshold_and_the_clips_scale(tower):
    start = systems.Start(tower, "t", torch.zeros(5, 16), 17.0, classifier=torch.zeros(5, 16))
    entry = systems.find("LaFTer, confident")
    system = entry.build(start, entry.configure(tokens=2), 0)
    assert (system.config.threshold, system.logit_scale) == (0.95, 17.0)


def test_cascade_clip_weighs_focal_and_dice_alike(cascade):
    first, second = cascade.schedule(4, transductive=True)
    assert first.weights == {"focal": 1, "dice": 1} == cascade.schedule(4)[0].weights
    assert second.weights == {"focal, own labels": 1, "dice, own labels": 1} and first.trains == second.trains


def test_cascade_clip_drops_prompts_and_attention(cascade):
    system, images = cascade.train(), torch.randn(1, 3, 32, 32)
    assert not torch.equal(system.features(images)[1], system.features(images)[1])
    queries, memory, layer, seen = torch.randn(1, 5, 16), torch.randn(1, 9, 16), system.decoders[0].layers[0], []
    layer.proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    layer(queries, memory), layer(queries, memory)
    assert not torch.equal(*seen)


def test_the_dense_hybrid_learns_by_cross_entropy_and_sigma_last(tower):
    system = DenseHybridCascade(tower, torch.randn(5, 16), torch.arange(5) < 3, 20.0, HybridCascadeConfig())
    first, second = system.schedule(4)
    assert {*first.trains} == {"adapters", "fusion"} and {*second.trains} == {"adapters", "fusion", "nga"}
    assert isinstance(regime_terms("inductive", system), SeenPixels)
