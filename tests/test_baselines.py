"""The published methods that systems are compared with: each set to what it must equal, and its paper's sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import open_clip
import pytest
import torch
import torch.nn.functional as F

from hc_lafter import systems
from hc_lafter.clip.load import build_embedded, load_clip
from hc_lafter.clip.text import class_embeddings, encode_tokens, templates_for
from hc_lafter.clip.vit import walk
from hc_lafter.suite import plans
from hc_lafter.suite.study import Study
from hc_lafter.systems import lp_plus_plus, tip_adapter
from hc_lafter.systems.base import Start
from hc_lafter.systems.clip_adapter import ClipAdapter, ClipAdapterConfig
from hc_lafter.systems.clip_lora import ClipLora, ClipLoraConfig
from hc_lafter.systems.coop import CoOp, CoOpConfig
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.losses import pseudo_labels
from hc_lafter.systems.lp_plus_plus import LPPlusPlus, LPPlusPlusConfig
from hc_lafter.systems.mean_of_layers import MeanOfLayers, MeanOfLayersConfig
from hc_lafter.systems.regimes import LabelFree, regime_terms
from hc_lafter.systems.scalar_mix import ScalarMix
from hc_lafter.systems.tip_adapter import TipAdapterConfig, TipAdapterF
from hc_lafter.systems.zero_shot import ZeroShot
from hc_lafter.tuning import computing, runs, sizes
from hc_lafter.tuning.material import gather
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.start import start_of
from hc_lafter.tuning.tune import tune

CLASSES = ("awe", "fear", "anger")
C, D = 3, 128
BASELINES = [name for name, entry in systems.registry().items() if entry.baseline]


@pytest.fixture(scope="module")
def clip():
    """With random weights, and biases that are not zero."""
    clip = build_embedded(seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in clip.model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1, generator=generator)
    return clip


@pytest.fixture(scope="module")
def start(clip) -> Start:
    text = class_embeddings(clip, CLASSES, templates_for(CLASSES))
    return Start(clip.visual, clip.name, text, clip.model.logit_scale.exp().item(), text, clip=clip, classes=CLASSES)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def pair(images: int, seed: int, *, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """(taps [n, 1, D], labels [n]) of classes that a probe can tell apart."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(images) % C
    taps = noise * torch.randn(images, 1, D, generator=generator)
    taps[:, 0, :C] += 3 * F.one_hot(labels, C)
    return taps, labels


def zero_shot(start, x):
    return ZeroShot(start.visual, start.text, start.logit_scale)(x).logits


# --- scalar mix ---


@pytest.mark.parametrize("layer", [5, 12])
def test_scalar_mix_with_all_weight_on_one_layer_is_the_text_classifier_on_that_layer(start, images, layer):
    system = ScalarMix(start.visual, start.classifier)
    with torch.no_grad():
        system.mix[system.config.layers.index(layer)] = 200.0
    wanted = MeanOfLayers(start.visual, start.classifier, MeanOfLayersConfig(layers=(layer,)))(images).logits
    torch.testing.assert_close(system(images).logits, wanted)


def test_scalar_mix_starts_as_the_mean_and_its_gain_multiplies(start, images):
    system = ScalarMix(start.visual, start.classifier)
    mean = MeanOfLayers(start.visual, start.classifier)(images).logits
    torch.testing.assert_close(system(images).logits, mean)
    with torch.no_grad():
        system.gain.fill_(3.0)
    torch.testing.assert_close(system(images).logits, 3 * mean)
    groups = {g["name"]: sum(p.numel() for p in g["params"]) for g in system.parameter_groups()}
    assert groups == {"mix": 8 + 1, "classifier": C * D}


# --- Tip-Adapter ---


def tip(start, images=9, **settings) -> TipAdapterF:
    return TipAdapterF(replace(start, support=lambda: pair(images, 3)), TipAdapterConfig(**settings))


def test_tip_adapter_without_its_cache_is_zero_shot(start, images):
    assert torch.equal(tip(start, alpha=0.0)(images).logits, zero_shot(start, images))


def test_tip_adapter_is_its_formula(start):
    taps, labels = pair(9, 3)
    x = torch.randn(5, 1, D, generator=torch.Generator().manual_seed(4))
    got = tip(start, alpha=1.5, beta=4.0)(x).logits
    for row, image in zip(got, x[:, 0], strict=True):
        unit, wanted = image / image.norm(), zero_shot(start, image[None, None])[0].clone()
        for key, label in zip(taps[:, 0], labels, strict=True):
            wanted[label] += 1.5 * torch.exp(-4.0 * (1 - unit @ key / key.norm()))
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)


def test_tip_adapter_weighs_a_large_cache_as_sixteen_images(start):
    values = tip(start, images=3 * 40).values
    torch.testing.assert_close(values.sum(dim=0), torch.full((C,), 16.0))
    assert tip(start, images=12).values.sum(dim=0).tolist() == [4.0] * C


def test_tip_adapter_chooses_alpha_and_beta_on_validation(start):
    taps, labels = pair(60, 5, noise=1.0)
    system = tip(start, alpha=0.0).eval()

    def accuracy() -> float:
        return (system(taps).logits.argmax(dim=1) == labels).float().mean().item()

    before = accuracy()
    system.settle(taps, labels)
    assert system.alpha in torch.tensor(system.config.alphas) and accuracy() > before + 0.3
    trained = system.train()(taps).logits  # alpha is still 0 there
    assert torch.equal(trained, zero_shot(start, taps))
    stays = tip(start, alpha=13.0, beta=13.0, alphas=(0.1,), betas=(0.1,))
    stays.settle(taps, labels)
    assert (stays.alpha.item(), stays.beta.item()) == (13.0, 13.0)  # the cache alone is right


def test_tip_adapter_chooses_for_its_keys_whatever_it_chose_before_and_in_parts(start, monkeypatch):
    (taps, labels), other = pair(60, 5, noise=1.0), pair(60, 11, noise=3.0)
    choices = []
    for earlier, held in ((None, 2**22), (other, 2**22), (None, 7 * 9), (None, 1)):  # 1: less than one image's
        monkeypatch.setattr(tip_adapter, "_AFFINITIES", held)
        system = tip(start, alpha=0.3).eval()
        if earlier is not None:
            system.settle(*earlier)
        system.settle(taps, labels)
        choices.append((system.alpha.item(), system.beta.item()))
    assert len(set(choices)) == 1
    scores = {}
    for alpha, beta in ((0.3, 1.0), *product(system.config.alphas, system.config.betas)):
        one = tip(start, alpha=alpha, beta=beta)
        scores[alpha, beta] = (one(taps).logits.argmax(dim=1) == labels).sum().item()
    assert choices[0] == pytest.approx(max(scores, key=scores.get))


# --- CLIP-Adapter ---


def test_clip_adapter_without_its_adapter_is_zero_shot(start, images):
    system = ClipAdapter(start.visual, start.text, start.logit_scale, ClipAdapterConfig(ratio=0.0))
    torch.testing.assert_close(system(images).logits, zero_shot(start, images))


def test_clip_adapter_is_its_formula(start, images):
    system = ClipAdapter(start.visual, start.text, start.logit_scale, ClipAdapterConfig(ratio=0.3), seed=4)
    x = walk(start.visual, images).final
    adapted = torch.relu(torch.relu(x @ system.down.T) @ system.up.T)
    mixed = 0.3 * adapted + 0.7 * x
    wanted = start.logit_scale * mixed / mixed.norm(dim=1, keepdim=True) @ start.text.T
    torch.testing.assert_close(system(images).logits, wanted, rtol=1e-4, atol=1e-4)
    assert sizes.added(system) == 2 * D * D // 4


# --- LP++ ---


def test_lp_plus_plus_without_texts_starts_as_class_means(start):
    blind = replace(start, text=torch.zeros(C, D))
    (taps, labels), val = pair(30, 6), pair(30, 7)
    system = LPPlusPlus.fit(blind, (taps, labels), val, LPPlusPlusConfig(steps=0))
    unit = F.normalize(taps[:, 0], dim=-1)
    means = torch.stack([unit[labels == c].mean(dim=0) for c in range(C)])
    torch.testing.assert_close(system.weight, means)
    x = val[0]
    torch.testing.assert_close(system(x).logits, F.normalize(x[:, 0], dim=-1) @ means.T)


def test_lp_plus_plus_takes_the_steps_of_torchs_sgd(start):
    (taps, labels), steps = pair(30, 8, noise=2.0), 25
    unit, text = F.normalize(taps[:, 0], dim=-1), start.text
    own, cosines = F.one_hot(labels, C).float(), unit @ text.T
    weight = torch.stack([unit[labels == c].mean(dim=0) for c in range(C)]).requires_grad_()
    mean = torch.stack([cosines[labels == c, c].mean() for c in range(C)]).mean()
    alpha = (250 * mean * torch.ones(C)).requires_grad_()
    step = 4 * 30 / torch.linalg.matrix_norm(unit, 2).item() ** 2
    step_alpha = 30 / (4 * cosines.square().sum(dim=0).max().item())
    optimiser = torch.optim.SGD([weight], lr=step, momentum=0.9)
    iterates = []
    for count in range(steps + 1):
        logits = unit @ weight.T + alpha * cosines
        iterates.append((weight.detach().clone(), alpha.detach().clone()))
        loss = -(own * logits.log_softmax(dim=1)).sum(dim=1).mean()
        weight.grad = alpha.grad = None
        loss.backward()
        optimiser.step()
        if (count + 1) % 10 == 0:
            with torch.no_grad():
                alpha -= step_alpha * alpha.grad
    asked = F.normalize(torch.randn(500, D, generator=torch.Generator().manual_seed(9)), dim=-1)
    said = [(asked @ (w + a[:, None] * text).T).argmax(dim=1) for w, a in iterates]
    right = [(prediction == said[-1]).sum().item() for prediction in said]  # validation is on the last one's side
    best = right.index(max(right))
    assert best > 10, "alpha has not moved yet"
    system = LPPlusPlus.fit(
        start, (taps, labels), (asked[:, None], said[-1]), LPPlusPlusConfig(steps=steps, doublings=0)
    )
    torch.testing.assert_close(system.weight, iterates[best][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(system.alpha, iterates[best][1], rtol=1e-3, atol=1e-3)


def test_lp_plus_plus_goes_on_for_as_long_as_validation_gains(start, monkeypatch):
    """Its iterates are counted; a validation image more is right in each of the first 40, of 200."""
    (taps, labels), (val, _) = pair(30, 8, noise=2.0), pair(200, 7)
    said, truth = [], torch.zeros(200, dtype=torch.int64)

    def logits(unit, weight, alpha, text):
        if len(unit) == len(truth):
            said.append(min(len(said), 40))
            return F.one_hot((torch.arange(200) >= said[-1]).long(), C).float()
        return torch.zeros(len(unit), C)

    monkeypatch.setattr(lp_plus_plus, "_logits", logits)
    LPPlusPlus.fit(start, (taps, labels), (val, truth), LPPlusPlusConfig(steps=10, doublings=5))
    assert len(said) == 81, "40 steps gained as much as all before, 80 nothing more"


def test_lp_plus_plus_takes_classes_without_images(start):
    taps, labels = pair(30, 9)
    some = labels != 1
    system = LPPlusPlus.fit(start, (taps[some], labels[some]), pair(30, 10))
    assert all(t.isfinite().all() for t in (system.weight, system.alpha))


# --- CoOp ---


def test_coop_with_the_words_of_a_template_is_its_embedding(clip, images):
    system = CoOp(clip, ("awe", "fear_of_spiders"), CoOpConfig(words="a photo of a"))
    assert system.contexts.shape == (4, 128)
    wanted = clip.encode_text(["a photo of a awe", "a photo of a fear of spiders"])
    torch.testing.assert_close(system.encode_classes(), wanted)
    unit = F.normalize(walk(clip.visual, images).final, dim=-1)
    torch.testing.assert_close(system(images).logits, clip.model.logit_scale.exp() * unit @ wanted.T)


def test_coop_trains_contexts_alone_and_asks_the_text_tower_once(clip, images, monkeypatch):
    system = CoOp(clip, CLASSES, seed=3)
    assert system.contexts.shape == (16, 128) and 0.017 < system.contexts.std() < 0.023
    before = {name: p.clone() for name, p in system.named_parameters()}
    optimiser = torch.optim.AdamW(system.parameter_groups())
    F.cross_entropy(system(images).logits, torch.tensor([0, 1, 2, 0])).backward()
    optimiser.step()
    moved = [name for name, p in system.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["contexts"]
    calls, encode = [], CoOp.encode_classes
    monkeypatch.setattr(CoOp, "encode_classes", lambda self: calls.append(1) or encode(self))
    with torch.no_grad():
        first = system.eval()(images).logits
        assert torch.equal(first, system(images).logits) and len(calls) == 1
        system.contexts += 1
        assert not torch.equal(first, system.eval()(images).logits) and len(calls) == 2


def test_coop_refuses_what_the_context_does_not_hold(clip):
    with pytest.raises(ValueError, match=r"^39 contexts and the longest class name take 42 tokens, .* has 40: set"):
        CoOp(clip, CLASSES, CoOpConfig(contexts=39))


def test_texts_are_those_of_open_clip(clip):
    tokens = clip.tokenizer(["fear", "a photo of a bird", "awe and fear by the beach, a bright day"])
    torch.testing.assert_close(encode_tokens(clip.model, tokens), clip.model.encode_text(tokens, normalize=True))
    siglip = open_clip.create_model("ViT-B-16-SigLIP", pretrained=None, load_weights=False, device="meta")
    with pytest.raises(ValueError, match="this text tower pools by 'last' and cannot be tuned"):
        encode_tokens(siglip, tokens)


# --- CLIP-LoRA ---


def test_clip_lora_starts_as_the_frozen_towers(clip, start, images):
    for mode in (False, True):  # with dropout, too
        system = ClipLora(clip, CLASSES, seed=3).train(mode)
        torch.testing.assert_close(walk(system.visual, images).final, walk(clip.visual, images).final)
        torch.testing.assert_close(system.encode_classes(), start.text)
        torch.testing.assert_close(system(images).logits, zero_shot(start, images), rtol=1e-4, atol=1e-4)


def test_clip_lora_adds_its_product_to_queries_keys_and_values_of_both_towers(clip, images):
    config = ClipLoraConfig(rank=3, alpha=2.0)
    system = ClipLora(clip, CLASSES, config, seed=3).eval()
    by_hand = build_embedded(seed=0)
    by_hand.model.load_state_dict(clip.model.state_dict())
    generator, weights = torch.Generator().manual_seed(4), dict(by_hand.model.named_parameters())
    for name, part in system.clip_model.named_modules():
        if name.endswith("attn"):
            (addition,) = part.parametrizations.in_proj_weight
            addition.up.data.normal_(std=0.2, generator=generator)
            products = [up @ down for up, down in zip(addition.up.data, addition.down.data, strict=True)]
            weights[f"{name}.in_proj_weight"].data.add_(torch.cat(products), alpha=2.0 / 3**0.5)
    assert len(system._added) == 12 + 4
    with torch.no_grad():
        torch.testing.assert_close(walk(system.visual, images).final, walk(by_hand.visual, images).final)
        texts = class_embeddings(by_hand, CLASSES, templates_for(CLASSES))
        torch.testing.assert_close(system.encode_classes(), texts)
    with torch.enable_grad():  # attention written out
        torch.testing.assert_close(
            walk(system.visual, images).final, walk(by_hand.visual, images).final, rtol=1e-4, atol=1e-4
        )
    assert not torch.equal(texts, class_embeddings(clip, CLASSES, templates_for(CLASSES)))


def test_clip_lora_trains_its_additions_alone_with_dropout(clip, images):
    system = ClipLora(clip, CLASSES, seed=3).train()
    (group,) = system.parameter_groups()
    optimiser, before = torch.optim.AdamW([{**group, "lr": 0.01}]), {n: p.clone() for n, p in system.named_parameters()}
    for _ in range(2):  # the first step moves ``up`` alone, which is zero
        optimiser.zero_grad()
        F.cross_entropy(system(images).logits, torch.tensor([0, 1, 2, 0])).backward()
        optimiser.step()
    moved = {name for name, p in system.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.endswith((".down", ".up"))}
    assert not torch.equal(system(images).logits, system(images).logits)
    assert torch.equal(system.eval()(images).logits, system(images).logits)


def test_sizes_of_vit_b(clip):
    """184K trainable parameters of CLIP-LoRA on ViT-B/16 (its table 4), 16 contexts of 512 of CoOp."""
    wide = load_clip("ViT-B-16/random")
    counts = {name: sizes.added(sizes.on_tower(name, wide, 8, images=24)) for name in BASELINES}
    assert counts["CLIP-LoRA"] == 2 * 2 * 3 * (12 * 768 + 12 * 512) == 184_320
    assert counts["CoOp"] == 16 * 512 and counts["Tip-Adapter-F"] == 24 * 512
    assert counts["CLIP-Adapter"] == 2 * 512 * 128 and counts["scalar mix of layers"] == 9 and counts["LP++"] == 0


# --- LaFTer with a threshold ---


def test_lafter_without_a_threshold_is_lafter(start, images):
    system, plain = (LaFTer(start.visual, start.text, LaFTerConfig(tokens=2, **s)) for s in ({"threshold": 0.0}, {}))
    terms = regime_terms("label-free", system)
    batch = {"student": images, "teacher": images}
    assert torch.equal(terms(system, batch)["task"], LabelFree(0.1, plain.teach)(plain, batch)["task"])
    assert set(terms(system, batch)) == {"task"}


def test_only_sure_labels_count_and_the_others_as_zero(start, images):
    features, weight = F.normalize(torch.randn(6, D, generator=torch.Generator().manual_seed(1)), dim=-1), start.text
    p = (100 * features @ F.normalize(weight, dim=-1).T).softmax(dim=1)
    threshold = p.amax(dim=1).sort().values[3].item() - 1e-6
    got = pseudo_labels(features, 5 * weight, threshold)  # the rows' common length does not matter
    assert got.tolist() == [q.argmax().item() if q.max() >= threshold else -100 for q in p] and (got < 0).sum() == 3
    system = LaFTer(start.visual, start.text, LaFTerConfig(tokens=2, threshold=0.5))
    terms = LabelFree(0.0, threshold=0.5)(system, {"student": images, "pseudo": torch.tensor([2, -100, -100, 1])})
    log_p = system(images).logits.log_softmax(dim=1)
    torch.testing.assert_close(terms["task"], -(log_p[0, 2] + log_p[3, 1]) / 4)
    assert terms["confident"] == 0.5
    nobody = LabelFree(0.1, threshold=0.5)(system, {"student": images, "pseudo": torch.full((4,), -100)})
    assert nobody["task"] == 0 and nobody["confident"] == 0


# --- as runs, in files, in plans ---


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    sizes = {"n_train": 40, "n_val": 24, "n_test": 24, "batch_size": 20}
    return Setting(**sizes, seeds=(0,), text_steps=20, text_noise=(0.0,), cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_tuned_kept_saved_and_read_again(name, setting, shared_cache, tmp_path):
    material, entry = gather(setting), systems.find(name)
    settings = {"tokens": 2} if entry.name.startswith("LaFTer") else {}
    run = runs.Run(
        name, entry.regimes[-1], 0, setting, entry.configure(**settings), n_train=24, n_val=24, epochs=2, batch_size=12
    )
    result = computing.compute(run)
    at = material.part["test"]
    torch.testing.assert_close(
        material.logits(result.module(), at, run.layers), torch.from_numpy(result.test), rtol=1e-4, atol=1e-4
    )
    again = runs.get([run], progress=False)[0]
    assert (again.test == result.test).all()
    if entry.fit is None:
        assert len(result.history.steps) == 4 and not result.history.diverged
    trained = tune(
        name, material.clip, material.dataset, regime=run.regime, images=24, epochs=2, batch_size=12,
        cache=shared_cache, progress=False, **settings,
    )  # fmt: skip
    loaded = systems.load(systems.save(trained, tmp_path / "mine.safetensors"))
    images = torch.stack([material.pixels[int(i)]["student"] for i in at[:6]])
    with torch.no_grad():
        assert torch.equal(loaded.module(images).logits, trained.module(images).logits)
    size = sum(t.nbytes for t in material.clip.model.state_dict().values())
    assert (tmp_path / "mine.safetensors").stat().st_size < 0.2 * size  # the CLIP is not in it


def test_a_loaded_tip_adapter_has_the_cache_it_was_saved_with(setting, shared_cache, tmp_path):
    material = gather(setting)
    trained = tune(
        "Tip-Adapter-F", material.clip, material.dataset, images=16, epochs=1, progress=False, cache=shared_cache
    )
    loaded = systems.load(systems.save(trained, tmp_path / "tip.safetensors"), material.clip)
    assert loaded.module.keys.shape == (16, D) and torch.equal(loaded.module.values, trained.module.values)


def test_a_run_without_labels_is_given_none(setting):
    run = runs.Run("scalar mix of layers", "label-free", 0, setting, n_train=8, n_val=8, epochs=1, batch_size=8)
    assert start_of(run).support is None
    assert start_of(replace(run, regime="supervised")).support()[0].shape == (8, 8, D)


@pytest.mark.parametrize(
    ("kind", "lacking"), [("none", set(BASELINES)), ("cached", {"CLIP-LoRA", "LaFTer, confident"}), ("all", set())]
)
def test_a_profile_says_whether_baselines_run(kind, lacking):
    found = {name for name, _ in plans.benchmark(Study("04-full-training", "smoke", {"baselines": kind}))}
    assert len(BASELINES) == 7 and set(BASELINES) - found == lacking and "LaFTer" in found
