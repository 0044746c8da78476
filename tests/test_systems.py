"""The classification systems: sizes as the design says, against slow re-computations, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hc_lafter.clip.load import build_embedded, load_clip, save_clip
from hc_lafter.clip.vit import Prompts, walk
from hc_lafter.systems import find
from hc_lafter.systems.base import Masks, Output, Start, split_epochs
from hc_lafter.systems.hybrid_cascade import HybridCascade, HybridCascadeConfig
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.linear_probe import LinearProbe, LinearProbeConfig
from hc_lafter.systems.losses import consistency, distillation
from hc_lafter.systems.mean_of_layers import MeanOfLayers, MeanOfLayersConfig
from hc_lafter.systems.multilayer import SEGMENTS, MultiLayerConfig, MultiLayerLaFTer
from hc_lafter.systems.regimes import LabelFree, Supervised
from hc_lafter.systems.trained import Trained, load, save
from hc_lafter.systems.zero_shot import ZeroShot

C, W, D, S = 5, 24, 16, 32


@pytest.fixture(scope="module")
def visual() -> VisionTransformer:
    torch.manual_seed(0)
    tower = VisionTransformer(image_size=S, patch_size=8, width=W, layers=12, heads=3, mlp_ratio=2.0, output_dim=D)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower.eval()


@pytest.fixture(scope="module")
def classifier() -> torch.Tensor:
    return torch.randn(C, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, S, S, generator=torch.Generator().manual_seed(2))


def trained(system: torch.nn.Module) -> int:
    return sum(p.numel() for group in system.parameter_groups() for p in group["params"])


def projected(visual, images, layers, prompts=None) -> torch.Tensor:
    """[B, L, D], block after block by hand."""
    taps = walk(visual, images, layers=layers, prompts=prompts).cls
    return torch.stack([visual.ln_post(taps[:, i]) @ visual.proj for i in range(len(layers))], dim=1)


def gaussian(parts: torch.Tensor, sigma: float = 1.0) -> torch.Tensor:
    """NGA, written as the formula."""
    depth = parts.shape[1]
    w = torch.tensor([torch.exp(torch.tensor(-((depth - k + 1) ** 2) / (2 * sigma**2))) for k in range(1, depth + 1)])
    return sum(w[i] * parts[:, i] for i in range(depth)) / w.sum()


# --- sizes ---


@pytest.mark.parametrize("name, patch", [("ViT-B-32", 32), ("ViT-B-16", 16)])
def test_parameter_counts_of_vit_b(name, patch):
    tower = open_clip.create_model(name, pretrained=None, load_weights=False).visual
    text = torch.zeros(8, 512)
    hybrid = HybridCascade(tower, text)
    groups = {g["name"]: sum(p.numel() for p in g["params"]) for g in hybrid.parameter_groups()}
    assert groups == {"adapters": 1_572_864, "fusion": 3, "classifier": 8 * 512, "nga": 3}
    multi = MultiLayerLaFTer(tower, text)
    groups = {g["name"]: sum(p.numel() for p in g["params"]) for g in multi.parameter_groups()}
    assert sum(groups[f"segment {i}"] for i in range(1, 5)) == 49_152
    assert (groups["nga"], groups["fusion"]) == (4, 4) and len(groups) == 7
    lafter = {g["name"]: sum(p.numel() for p in g["params"]) for g in LaFTer(tower, text).parameter_groups()}
    assert lafter["prompts"] == 50 * 768 and lafter["norm weights"] == lafter["norm biases"] == 26 * 768
    bound = (6 / (3 * patch * patch + 768)) ** 0.5
    prompts = LaFTer(tower, text).prompts
    assert prompts.abs().max() <= bound and prompts.abs().max() > 0.99 * bound


def test_where_prompts_start(visual, classifier, images):
    """At a part of the bound of the tower's own patches, or at zero, whence a segment's tokens stay one vector."""
    half = 0.5 * LaFTer(visual, classifier, LaFTerConfig(tokens=5), seed=3).prompts
    assert torch.equal(LaFTer(visual, classifier, LaFTerConfig(tokens=5, prompt_start=0.5), seed=3).prompts, half)
    segments = SEGMENTS["ViT-B/16"]
    randomly, multi = (
        MultiLayerLaFTer(visual, classifier, MultiLayerConfig(segments, tokens=4, prompt_start=start, lr=0.1), seed=3)
        for start in (1.0, 0.0)
    )
    optimiser = torch.optim.AdamW(multi.parameter_groups())
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(multi(images).logits, torch.arange(3) % C).backward()
        optimiser.step()
    for moved, drawn in zip(multi.prompts, randomly.prompts, strict=True):
        assert moved.abs().max() > 0.01 and not torch.allclose(drawn, drawn[:1].expand_as(drawn))
        torch.testing.assert_close(moved, moved[:1].expand_as(moved), rtol=1e-3, atol=1e-4)


def test_the_tower_is_a_frozen_copy(visual, classifier, images):
    """Training a system leaves the CLIP that it was made of as it was, and counts nothing of the tower as trainable."""
    before = {k: v.clone() for k, v in visual.state_dict().items()}
    system = LaFTer(visual, classifier, LaFTerConfig(tokens=3))
    assert not any(p.requires_grad for p in system.visual.parameters())
    assert sum(p.numel() for p in system.parameters() if p.requires_grad) == 3 * W + C * D
    optimiser = torch.optim.AdamW(system.parameter_groups(), lr=1.0)
    for group in system.parameter_groups():
        for p in group["params"]:
            p.requires_grad_(True)
    system(images).logits.sum().backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in visual.state_dict().items())
    assert not torch.equal(system.visual.ln_post.weight, visual.ln_post.weight)


# --- forward passes against plain arithmetic ---


def test_zero_shot(visual, classifier, images):
    final = walk(visual, images).final
    system = ZeroShot(visual, classifier, 10.0)
    wanted = torch.stack([10 * F.cosine_similarity(f, classifier, dim=-1) for f in final])
    torch.testing.assert_close(system(images).logits, wanted)
    torch.testing.assert_close(system(final[:, None]).logits, wanted)
    assert system.parameter_groups() == []


def test_lafter_reads_the_raw_feature_and_teaches_with_the_unit_one(visual, classifier, images):
    system = LaFTer(visual, classifier, LaFTerConfig(tokens=4), seed=3)
    final = walk(visual, images, prompts=Prompts({0: system.prompts})).final
    torch.testing.assert_close(system(images).logits, final @ classifier.T)
    plain = walk(visual, images).final
    assert torch.equal(system.teach(images), (plain @ classifier.T).argmax(dim=1))
    with torch.no_grad():  # the head that teaches stays; the tower that teaches moves
        system.classifier.add_(1.0)
        assert torch.equal(system.teach(images), (plain @ classifier.T).argmax(dim=1))
        system.visual.ln_post.weight.mul_(torch.linspace(-2, 2, W))
        moved = walk(system.visual, images).final
    assert torch.equal(system.teach(images), (moved @ classifier.T).argmax(dim=1))
    assert not torch.allclose(moved, plain)


@pytest.mark.parametrize("pooled", ["cls", "patches"])
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
def test_multilayer(visual, classifier, images, segments, pooled):
    system = MultiLayerLaFTer(visual, classifier, MultiLayerConfig(segments=segments, tokens=2, pooled=pooled), seed=4)
    with torch.no_grad():
        system.segment_weights.copy_(torch.linspace(-1, 1, len(segments)))
    out = system(images)
    prompts = Prompts({s[0] - 1: system.prompts[i] for i, s in enumerate(segments)})
    fused, weights = 0, torch.linspace(-1, 1, len(segments)).exp()
    weights = weights / weights.sum()
    for i, segment in enumerate(segments):
        walked = walk(visual, images, layers=segment, patches=True, prompts=prompts)
        tokens = walked.cls if pooled == "cls" else walked.patches.mean(dim=2)
        z = gaussian(torch.stack([visual.ln_post(tokens[:, j]) @ visual.proj for j in range(len(segment))], dim=1))
        z = z / z.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(out.features[:, i], z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.stage_logits[:, i], z @ classifier.T, rtol=1e-4, atol=1e-4)
        fused = fused + weights[i] * z
    torch.testing.assert_close(out.logits, fused @ classifier.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.weights, weights)


@pytest.mark.parametrize("classifiers", ["shared", "independent"])
@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("prompts", [0, 3])
@pytest.mark.parametrize("normalise", [True, False])
def test_hybrid(visual, classifier, images, classifiers, adapters, prompts, normalise):
    config = HybridCascadeConfig(
        classifier=classifiers, stage_adapters=adapters, prompts=prompts, normalise=normalise, sigma=1.7
    )
    system = HybridCascade(visual, classifier, config, seed=5)
    with torch.no_grad():
        system.fusion.copy_(torch.tensor([0.3, -1.0, 0.5]))
        for adapter in system.adapters:
            adapter.last.normal_(generator=torch.Generator().manual_seed(6))
        for k in range(len(system.classifier)):
            system.classifier[k].add_(k)
    out = system(images)
    entering = Prompts({0: system.prompts}) if prompts else None
    weights = torch.softmax(torch.tensor([0.3, -1.0, 0.5]), 0)
    total = 0
    for i, stage in enumerate(config.stages):
        z = gaussian(projected(visual, images, stage, entering), 1.7)
        z = z / z.norm(dim=-1, keepdim=True) if normalise else z
        if adapters:
            z = z + F.linear(F.relu(F.linear(z, system.adapters[i].first)), system.adapters[i].last)
        logits = z @ system.classifier[i if classifiers == "independent" else 0].T
        torch.testing.assert_close(out.stage_logits[:, i], logits, rtol=1e-4, atol=1e-4)
        total = total + weights[i] * logits
    torch.testing.assert_close(out.logits, total, rtol=1e-4, atol=1e-4)
    if prompts:
        with pytest.raises(ValueError, match="give images"):
            system(projected(visual, images, config.layers))
    else:
        taps = projected(visual, images, config.layers)
        torch.testing.assert_close(system(taps).logits, out.logits, rtol=1e-4, atol=1e-4)


def test_hybrid_starts_as_the_text_classifier_on_every_stage(visual, classifier, images):
    """Adapters at zero and independent copies change nothing before the first step."""
    a = HybridCascade(visual, classifier)(images).logits
    b = HybridCascade(visual, classifier, HybridCascadeConfig(stage_adapters=False, classifier="independent"))(images)
    assert torch.equal(a, b.logits)


def test_fusion_equal_and_one_stage(visual, classifier, images):
    equal = HybridCascade(visual, classifier, HybridCascadeConfig(fusion="equal"))
    out = equal(images)
    torch.testing.assert_close(out.logits, out.stage_logits.mean(dim=1))
    assert "fusion" not in {g["name"] for g in equal.parameter_groups()}
    single = HybridCascade(visual, classifier, HybridCascadeConfig(stages=((12,),), nga="last", stage_adapters=False))
    final = F.normalize(walk(visual, images).final, dim=-1)
    torch.testing.assert_close(single(images).logits, final @ classifier.T, rtol=1e-5, atol=1e-5)
    assert {g["name"] for g in single.parameter_groups()} == {"fusion", "classifier"}


def test_mean_of_layers(visual, classifier, images):
    system = MeanOfLayers(visual, classifier, MeanOfLayersConfig(layers=(9, 12)))
    mean = projected(visual, images, (9, 12)).mean(dim=1)
    wanted = mean / mean.norm(dim=-1, keepdim=True) @ classifier.T
    torch.testing.assert_close(system(images).logits, wanted)
    torch.testing.assert_close(system(projected(visual, images, (9, 12))).logits, wanted)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_is_scikit_learns(visual, classes):
    """The folded linear map gives the probabilities of the pipeline that was fitted."""
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(120, 2, D, generator=generator), torch.arange(120) % classes
    x[:, 0, :classes] += 2 * F.one_hot(y, classes)
    config = LinearProbeConfig(layers=(11, 12), cs=(0.1,))
    system = LinearProbe.fit(visual, (x[:80], y[:80]), (x[80:], y[80:]), config, classes=classes)
    scaler = StandardScaler().fit(x[:80].flatten(1))
    model = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(x[:80].flatten(1)), y[:80])
    wanted = model.predict_proba(scaler.transform(x[80:].flatten(1)))
    got = system(x[80:]).logits.softmax(dim=-1).numpy()
    assert abs(got - wanted).max() < 1e-3
    assert (got.argmax(1) == y[80:].numpy()).mean() > 1.5 / classes
    pixels = torch.randn(2, 3, S, S)
    torch.testing.assert_close(system(pixels).logits, system(projected(visual, pixels, (11, 12))).logits)


# --- training: groups, phases, terms ---

ALL = {
    "lafter": lambda v, c: LaFTer(v, c, LaFTerConfig(tokens=2)),
    "multilayer": lambda v, c: MultiLayerLaFTer(v, c, MultiLayerConfig(tokens=2)),
    "multilayer b16": lambda v, c: MultiLayerLaFTer(v, c, MultiLayerConfig(segments=SEGMENTS["ViT-B/16"], tokens=2)),
    "hybrid": lambda v, c: HybridCascade(v, c),
    "hybrid, prompts": lambda v, c: HybridCascade(v, c, HybridCascadeConfig(prompts=2)),
    "mean of layers": MeanOfLayers,
}


@pytest.mark.parametrize("name", ALL)
def test_groups_are_torchs_and_phases_name_them(visual, classifier, name):
    system = ALL[name](visual, classifier)
    groups = {g["name"]: g for g in system.parameter_groups()}
    torch.optim.AdamW(system.parameter_groups())
    own = {id(p) for p in system.parameters()}
    members = [id(p) for g in groups.values() for p in g["params"]]
    assert set(members) <= own and len(set(members)) == len(members)
    for epochs in (3, 8, 20):
        phases = system.schedule(epochs)
        assert sum(phase.epochs for phase in phases) == epochs and all(phase.epochs > 0 for phase in phases)
        assert all(set(p.trains) <= set(groups) and p.weights["task"] == 1.0 for p in phases)
        assert set(phases[-1].trains) == set(groups)


def test_multilayer_unfreezes_from_deep_to_shallow(visual, classifier):
    phases = ALL["multilayer"](visual, classifier).schedule(8)
    assert [(p.epochs, sorted(p.trains)) for p in phases[:4]] == [
        (2, ["classifier", "segment 4"]),
        (1, ["classifier", "segment 3", "segment 4"]),
        (1, ["classifier", "segment 2", "segment 3", "segment 4"]),
        (1, ["classifier", "segment 1", "segment 2", "segment 3", "segment 4"]),
    ]
    assert phases[4].epochs == 3 and {"nga", "fusion"} <= set(phases[4].trains)
    epochs = [phase.epochs for phase in ALL["multilayer b16"](visual, classifier).schedule(8)]
    assert epochs in ([2, 2, 1, 3], [2, 1, 2, 3])


def test_hybrid_phases(visual, classifier):
    phases = ALL["hybrid, prompts"](visual, classifier).schedule()
    assert [p.epochs for p in phases] == [3, 3, 2]
    assert [set(p.trains) for p in phases] == [
        {"adapters", "fusion", "classifier"},
        {"adapters", "fusion", "classifier", "nga"},
        {"adapters", "fusion", "classifier", "nga", "prompts"},
    ]
    assert [p.weights.get("consistency", 0) for p in phases] == [0, 0, 0.1]


def test_split_epochs():
    assert split_epochs(8, (3, 3, 2)) == [3, 3, 2] and split_epochs(3, (3, 3, 2)) == [1, 1, 1]
    assert all(sum(split_epochs(n, (2, 3, 3))) == n for n in range(3, 60))
    with pytest.raises(ValueError, match="2 epochs do not hold the 3 phases"):
        split_epochs(2, (2, 3, 3))


def test_terms(visual, classifier, images):
    system = ALL["hybrid"](visual, classifier)
    label = torch.tensor([0, 3, 1])
    distribution = F.softmax(torch.randn(3, C, generator=torch.Generator().manual_seed(8)), dim=-1)
    frozen_feature = torch.randn(3, D, generator=torch.Generator().manual_seed(9))
    batch = {"student": images, "label": label, "distribution": distribution, "frozen": frozen_feature}
    out, got = system(images), Supervised(0.8)(system, batch)
    target = 0.2 * F.one_hot(label, C) + 0.8 * distribution
    kl = (target * (target.log() - F.log_softmax(out.logits, dim=-1))).sum(dim=-1).mean()
    torch.testing.assert_close(got["task"], kl)
    torch.testing.assert_close(got["consistency"], consistency(list(out.stage_logits.unbind(1))))
    torch.testing.assert_close(got["distillation"], distillation(out.features, frozen_feature))
    lafter = ALL["lafter"](visual, classifier)
    once = LabelFree(0.1)(lafter, {"student": images, "pseudo": lafter.teach(images)})
    each = LabelFree(0.1, lafter.teach)(lafter, {"student": images, "teacher": images})
    assert set(once) == {"task"} and torch.equal(once["task"], each["task"])


# --- refusals ---


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda v, c: HybridCascade(v, c, HybridCascadeConfig(stages=((5, 6), (6, 7)))), "no layer twice"),
        (lambda v, c: HybridCascade(v, c, HybridCascadeConfig(stages=((5, 6), (13,)))), "stages .* from 1 to 12"),
        (lambda v, c: HybridCascade(v, c, HybridCascadeConfig(stages=())), "each hold layers"),
        (lambda v, c: HybridCascade(v, c, HybridCascadeConfig(classifier="own")), "classifier 'own' is unknown"),
        (lambda v, c: HybridCascade(v, c, HybridCascadeConfig(fusion="max")), "fusion 'max' is unknown"),
        (lambda v, c: HybridCascade(v, c, HybridCascadeConfig(nga="box")), "NGA kind 'box' is unknown"),
        (lambda v, c: MultiLayerLaFTer(v, c, MultiLayerConfig(segments=((1, 2), (4,)))), "leave no layer out"),
        (lambda v, c: MultiLayerLaFTer(v, c, MultiLayerConfig(segments=((11, 12, 13),))), "segments .* from 1 to 12"),
        (lambda v, c: MultiLayerLaFTer(v, c, MultiLayerConfig(pooled="max")), "pooled 'max' is unknown"),
        (lambda v, c: Supervised(1.1), "lam is 1.1, but the distribution's share"),
    ],
)
def test_refusals(visual, classifier, make, words):
    with pytest.raises(ValueError, match=words):
        make(visual, classifier)


# --- a trained system that is used ---


class Brightness(torch.nn.Module):
    """Two classes, dark and bright, by the mean of an image or by its pixels."""

    def __init__(self, dense: bool):
        super().__init__()
        self.dense, self.factor = dense, torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        light = x.mean(dim=1) * self.factor
        logits = torch.stack([-light, light], dim=1)
        return Masks(logits) if self.dense else Output(logits.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def clip():
    return build_embedded(seed=0)


def brightness(clip, dense: bool) -> Trained:
    seen = torch.ones(2, dtype=torch.bool) if dense else None
    return Trained("brightness", None, Brightness(dense), clip, ("dark", "bright"), torch.eye(2), seen)


def paint(path, light: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (light,) * 3).save(path)


def test_masks_of_images_that_share_a_stem_are_kept_apart(clip, tmp_path):
    lights = {"a/x.png": 255, "b/x.png": 0, "b/x.jpg": 255, "y.png": 0}
    for name, light in lights.items():
        paint(tmp_path / "images" / name, light)
    trained = brightness(clip, dense=True)
    table = trained.predict(tmp_path / "images", masks=tmp_path / "masks", batch_size=3, progress=False)
    names = [str(Path(path).relative_to(tmp_path / "images")) for path in table["path"]]
    files = dict(zip(names, map(Path, table["mask"]), strict=True))
    assert {name: str(file.relative_to(tmp_path / "masks")) for name, file in files.items()} == {
        "a/x.png": "a/x.png", "b/x.png": "b/x.png.png", "b/x.jpg": "b/x.jpg.png", "y.png": "y.png",
    }  # fmt: skip
    for name, light in lights.items():
        assert np.asarray(Image.open(files[name])).mean() == (light > 0), name
    several = [tmp_path / "images" / name for name in ("a/x.png", "b/x.png")]
    with pytest.raises(ValueError, match="would take the place of a picture: give masks another folder"):
        trained.predict(tmp_path / "images", masks=tmp_path / "images", progress=False)
    table = trained.predict(several, masks=tmp_path / "again", progress=False)
    assert [Path(mask).parent.name for mask in table["mask"]] == ["a", "b"]
    table = trained.predict([Image.new("RGB", (9, 9))], masks=tmp_path / "again", progress=False)
    assert Path(table["mask"][0]) == tmp_path / "again" / "image 0.png"


def test_images_that_cannot_be_read_are_named_and_the_others_predicted(clip, tmp_path):
    for name, light in {"1.png": 255, "deep/er/3.png": 0}.items():
        paint(tmp_path / name, light)
    (tmp_path / "deep" / "2.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.warns(UserWarning, match=r"^1 of 3 images cannot be read \('.*2.png'\): .*2.png is empty"):
        table = brightness(clip, dense=False).predict(tmp_path, batch_size=1, progress=False)
    assert [Path(path).name for path in table["path"]] == ["1.png", "3.png"]
    assert list(table["class"]) == ["bright", "dark"]
    with pytest.raises(ValueError, match=r"^1 of 1 images cannot be read"):
        brightness(clip, dense=False).predict(tmp_path / "deep" / "2.png", progress=False)


def test_the_clip_of_a_file_is_found_where_it_lay(clip, tmp_path, monkeypatch):
    """By the file's path, whatever folder one is in."""
    entry, place, saved = find("zero-shot"), tmp_path / "weights" / "mine.safetensors", tmp_path / "system.safetensors"
    place.parent.mkdir()
    save_clip(clip, place)
    mine = load_clip(place)
    text = torch.nn.functional.normalize(torch.randn(2, mine.embed_dim), dim=-1)
    config = entry.configure(mine.name, "pets", mine.layers)
    start = Start(mine.visual, mine.name, text, 1.0, classifier=text)
    save(
        Trained(entry.name, config, entry.build(start, config, 0), mine, ("cat", "dog"), text),
        saved,
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load(saved)
    assert again.clip.weight_hash == mine.weight_hash and again.clip.source == str(place)
    place.rename(moved := tmp_path / "moved.safetensors")
    with pytest.raises(ValueError, match=r"the CLIP mine.safetensors \(from .*weights.*say where it is, load\("):
        load(saved)
    assert load(saved, clip=str(moved)).classes == ("cat", "dog")
