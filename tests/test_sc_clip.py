"""SC-CLIP against the method written out image by image and patch by patch, and against its own no-ops."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer

from hc_lafter import systems
from hc_lafter.analysis.lof import lof, outliers
from hc_lafter.clip.load import build_embedded, resized_transform
from hc_lafter.clip.vit import last_block, last_heads, last_out, project, value_path, walk
from hc_lafter.data.world.dataset import World
from hc_lafter.systems import sc_clip
from hc_lafter.systems.sc_clip import (
    PRESETS,
    STEPS,
    SCClip,
    SCClipConfig,
    Taps,
    likeness_weights,
    preset,
    repair,
)
from hc_lafter.tuning.features import tap

SMALL = SCClipConfig(pre=4, post=2, fusion=(2, 4), k=7)  # for the tower below, of 6 layers and 6 x 5 patches
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 through another order of operations


def build(heads: int = 4) -> VisionTransformer:
    torch.manual_seed(0)
    visual = VisionTransformer(24, 4, 32, 6, heads, 4.0, output_dim=20, act_layer=QuickGELU)
    with torch.no_grad():
        for name, parameter in visual.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "embedding" in name or "proj" in name:
                parameter.mul_(2)
    return visual.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def visual() -> VisionTransformer:
    return build()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Three of 24 x 20 pixels, 6 x 5 patches: more rows than columns."""
    torch.manual_seed(1)
    return torch.randn(3, 3, 1, 1) + torch.randn(3, 3, 24, 20)


@pytest.fixture(scope="module")
def texts() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(5, 20)


# --- the method written out: one image, one head, one patch at a time ---


def slow(visual: VisionTransformer, image: torch.Tensor, c: SCClipConfig) -> torch.Tensor:
    """[N, D] of one image [3, H, W]."""
    layers = range(1, len(visual.transformer.resblocks))
    walked = walk(visual, image[None], layers=layers, patches=True, position=c.position)
    out = {layer: walked.patch_taps[layer - 1][0] for layer in layers}
    cls = {layer: walked.cls[0, layer - 1] for layer in layers}
    (h, w), last, block = walked.grid, layers[-1], visual.transformer.resblocks[-1]

    def mean_of_neighbours(x, bad):
        repaired = x.clone()
        for i in bad:
            row, column = i // w, i % w
            near = [
                r * w + s
                for r in range(row - 1, row + 2)
                for s in range(column - 1, column + 2)
                if 0 <= r < h and 0 <= s < w and r * w + s not in bad
            ]
            if near:
                repaired[i] = torch.stack([x[j] for j in near]).mean(dim=0)
        return repaired

    def cosine(x):
        return torch.stack([F.cosine_similarity(patch[None], x) for patch in x])

    def gather(simi, x):
        rows = []
        for row in simi:
            kept = torch.where(row >= c.beta, row, 0.0)
            rows.append((kept[:, None] * x).sum(dim=0) / (kept.sum() + 1e-6))
        return torch.stack(rows)

    def attend(x, simi):
        y, width, heads = block.ln_1(x), x.shape[1], block.attn.num_heads
        q, k, v = (y @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(width, dim=1)
        alike = c.sharpness * (simi - simi.mean())
        alike = torch.where(alike >= 0, alike, -math.inf).softmax(dim=1)
        mixed, size = [], width // heads
        for part in (slice(head * size, (head + 1) * size) for head in range(heads)):
            asking = k[:, part] if c.scores == "kk" else q[:, part]
            weights = (asking @ k[:, part].T / math.sqrt(size)).softmax(dim=1)
            mixed.append(((weights + alike) / 2 if c.likeness else weights) @ v[:, part])
        return block.attn.out_proj(torch.cat(mixed, dim=1))

    def finish(x, token, simi):
        whole = block(torch.cat([token[None], x])[None])[0, 1:]
        x = attend(x, simi) + c.cls_residual * token if c.attention else whole
        return gather(cosine(out[c.post]), x) if c.aggregate_again else x

    x, middle = out[last], out[c.pre]
    if c.repair:
        bad = outliers(lof(x[None], c.k, c.lof), c.contamination)[0].nonzero()[:, 0].tolist()
        x, middle = mean_of_neighbours(x, bad), mean_of_neighbours(middle, bad)
    simi = cosine(middle)
    if c.aggregate:
        x = gather(simi, x)
    x = finish(x, cls[last], simi)
    if c.fuse:
        summed = range(c.fusion[0], c.fusion[1] + 1)
        x = x + finish(sum(out[i] for i in summed), sum(cls[i] for i in summed), simi)
    return visual.ln_post(x) @ visual.proj


CHANGES = [
    {},
    *[{step: False} for step in STEPS],
    dict.fromkeys(STEPS, False),
    *[{other: other == step for other in STEPS} for step in STEPS],
    {"lof": "exact", "contamination": 0.2, "k": 0.3},
    {"scores": "qk"},
    {"likeness": False},
    {"scores": "qk", "likeness": False, "cls_residual": 0.0},
    {"beta": 0.7, "sharpness": 10.0, "pre": 5, "post": 1, "fusion": (1, 5)},
    {"beta": -1.0, "fusion": (3, 3), "position": "bicubic"},
]


def named(change: dict) -> str:
    return ",".join(f"{key}={value}" for key, value in change.items()) or "release"


@pytest.mark.parametrize("change", CHANGES, ids=named)
def test_a_batch_gives_what_each_image_gives_written_out(visual, images, texts, change):
    config = replace(SMALL, **change)
    ours = SCClip(visual, texts, config)(images)
    expected = torch.stack([slow(visual, image, config) for image in images])
    torch.testing.assert_close(ours.features, expected, **TOLERANCE)


def test_every_change_changes_something(visual, images, texts):
    outcomes = [SCClip(visual, texts, replace(SMALL, **change))(images).features for change in CHANGES]
    for i, one in enumerate(outcomes):
        for j in range(i):
            assert not torch.allclose(one, outcomes[j], atol=1e-3), f"{named(CHANGES[i])} is {named(CHANGES[j])}"


def test_a_batch_is_its_images_one_by_one(visual, images, texts):
    system = SCClip(visual, texts, SMALL)
    together, alone = system(images, keep=True), [system(image[None], keep=True) for image in images]
    torch.testing.assert_close(together.logits, torch.cat([a.logits for a in alone]), rtol=0, atol=1e-4)
    for name, values in together.steps.items():
        values, single = values.float(), torch.cat([a.steps[name].float() for a in alone])
        torch.testing.assert_close(values, single, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("hidden", "groups"), [(10**9, [3]), (31 * 128 * 4 * 2, [2, 1]), (1, [1, 1, 1])])
def test_a_large_batch_goes_through_in_groups_and_comes_out_whole(visual, images, texts, monkeypatch, hidden, groups):
    """A block's hidden layer has 31 places of 128 numbers for each image here."""
    system = SCClip(visual, texts, SMALL)
    whole, sizes, taps = system.head(system.taps(images), keep=True), [], SCClip.taps
    monkeypatch.setattr(sc_clip, "_HIDDEN_BYTES", hidden)
    monkeypatch.setattr(SCClip, "taps", lambda self, some: sizes.append(len(some)) or taps(self, some))
    found = system(images, keep=True)
    assert sizes == groups and found.grid == whole.grid and found.steps.keys() == whole.steps.keys()
    pairs = {name: (found.steps[name], whole.steps[name]) for name in whole.steps}
    pairs |= {name: (getattr(found, name), getattr(whole, name)) for name in ("logits", "features")}
    for name, (one, other) in pairs.items():
        one, other = one.float(), other.float()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_without_its_steps_it_is_clip(visual, images, texts):
    """CLIP's own patches behind its last block, which is not the value path."""
    off = SCClip(visual, texts, replace(SMALL, **dict.fromkeys(STEPS, False)))(images, keep=True)
    walked = walk(visual, images, layers=[5, 6], patches=True, position=SMALL.position)
    torch.testing.assert_close(off.features, project(visual, walked.patch_taps[1]), rtol=0, atol=1e-5)
    value = project(visual, value_path(visual, walked.patch_taps[0]))
    assert (off.features - value).abs().max() > 0.1
    assert set(off.steps) == {"simi_mid"}


def test_only_the_value_path_is_left_when_every_patch_attends_to_itself(visual, images, texts):
    """Sharpened without end, the likeness half is the identity; the other half is taken out."""
    one = {**dict.fromkeys(STEPS, False), "attention": True, "sharpness": 1e6, "cls_residual": 0.0}
    system = SCClip(visual, texts, replace(SMALL, **one))
    taps = system.taps(images)
    x = taps.patches[system.last]
    weights = likeness_weights(system(images, keep=True).steps["simi_mid"], 1e6)
    torch.testing.assert_close(weights, torch.eye(30).expand(3, -1, -1), rtol=0, atol=1e-3)
    both, without = (last_out(visual, system.attend(x, by)) for by in (weights, None))
    torch.testing.assert_close(2 * both - without, value_path(visual, x), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "off, gone",
    [
        (None, set()),
        ("repair", {"lof_scores", "outliers", "repaired_last", "repaired_pre"}),
        ("aggregate", {"agg_before"}),
        ("attention", {"attn_last", "attn_multi"}),
        ("aggregate_again", {"simi_after", "agg_after", "agg_multi"}),
        ("fuse", {"attn_multi", "agg_multi"}),
    ],
)
def test_what_is_kept(visual, images, texts, off, gone):
    every = {"lof_scores", "outliers", "repaired_last", "repaired_pre", "simi_mid", "agg_before", "simi_after"}
    every |= {"attn_last", "agg_after", "attn_multi", "agg_multi"}
    system = SCClip(visual, texts, replace(SMALL, **({off: False} if off else {})))
    assert set(system(images, keep=True).steps) == every - gone
    assert not system(images).steps


def test_the_head_works_from_features_that_were_computed_before(texts):
    """Taps of `hc_lafter.tuning.features`, other settings on the same taps, and another size of the logits."""
    clip = build_embedded(seed=0)
    world = World(3, 0, 0, side=96, seed=1)
    config = replace(preset("embedded"), pre=8, post=3, position="bicubic")  # as `tap` has it
    system = SCClip(clip.visual, torch.randn(4, clip.embed_dim), config)
    features = tap(clip, world, layers=system.layers, patches=True, size=(96, 64), progress=False)
    cls = {layer: features.layer(layer) for layer in system.layers}
    patches = {layer: features.layer_patches(layer) for layer in system.layers}
    given = Taps(cls, patches, features.grid, (96, 64))
    pixels = torch.stack([resized_transform(clip, (96, 64))(world[i].image) for i in range(3)])
    torch.testing.assert_close(system.head(given).logits, system(pixels).logits, rtol=0, atol=1e-4)
    small = system.head(replace(given, size=(12, 8)))
    assert small.logits.shape == (3, 4, 12, 8) and small.grid == (12, 8)


def test_the_patches_to_repair_may_be_given(visual, images, texts):
    system = SCClip(visual, texts, SMALL)
    taps = system.taps(images)
    found = system.head(taps, keep=True)
    given = system.head(taps, keep=True, anomalous=found.steps["outliers"])
    assert torch.equal(given.features, found.features) and "lof_scores" not in given.steps
    none = system.head(taps, anomalous=torch.zeros(3, 30, dtype=torch.bool))
    torch.testing.assert_close(none.features, SCClip(visual, texts, replace(SMALL, repair=False))(images).features)
    assert not torch.allclose(none.features, found.features, atol=1e-3)


def test_logits_are_scaled_cosines_at_the_size_of_the_input(visual, images, texts):
    segmented = SCClip(visual, 7 * texts, replace(SMALL, logit_scale=11.0))(images)
    assert segmented.logits.shape == (3, 5, 24, 20) and segmented.grid == (6, 5)
    cosine = F.cosine_similarity(segmented.features[:, :, None], texts, dim=-1)
    small = F.interpolate(11 * cosine.mT.unflatten(2, (6, 5)), size=(24, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(segmented.logits, small, rtol=0, atol=1e-4)


def test_a_class_is_as_likely_as_its_likeliest_name(visual, images, texts):
    each = SCClip(visual, texts, SMALL)(images).logits
    ours = SCClip(visual, texts, SMALL, owner=torch.tensor([2, 0, 2, 1, 0]))(images).logits
    expected = torch.stack([each[:, [1, 4]].amax(1), each[:, 3], each[:, [0, 2]].amax(1)], dim=1)
    assert torch.equal(ours, expected)


# --- the parts ---


def test_an_outlier_without_sound_neighbours_stays():
    x = torch.arange(12.0).reshape(1, 12, 1)  # 3 rows, 4 columns
    bad = torch.zeros(2, 12, dtype=torch.bool)
    bad[0, [0, 1, 4, 5]] = True  # the corner's three neighbours are outliers, too
    bad[1, 11] = True
    fixed = repair(x.expand(2, -1, -1), bad, (3, 4))[..., 0]
    assert fixed[0, 0] == 0  # stays
    assert fixed[0, 1] == (2 + 6) / 2
    assert fixed[0, 4] == (8 + 9) / 2
    assert fixed[0, 5] == (2 + 6 + 8 + 9 + 10) / 5
    assert fixed[1, 11] == (6 + 7 + 10) / 3
    untouched = torch.ones(2, 12, dtype=torch.bool)
    untouched[bad] = False
    assert torch.equal(fixed[untouched], x[..., 0].expand(2, -1)[untouched])
    assert torch.equal(repair(x, torch.zeros(1, 12, dtype=torch.bool), (3, 4)), x)
    assert torch.equal(x, torch.arange(12.0).reshape(1, 12, 1))  # in place would spoil taps that others read


def test_patches_all_alike_attend_to_themselves_at_least():
    x = F.normalize(torch.ones(1, 9, 7) / 3, dim=-1)
    weights = likeness_weights(x @ x.mT, 3.0)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(1, 9))


@pytest.mark.parametrize("scores, likeness", [("kk", True), ("qk", True), ("kk", False)])
def test_the_maps_are_what_attention_does(images, texts, scores, likeness):
    """On a tower of one head, where the mean over heads is the weight itself."""
    system = SCClip(build(heads=1), texts, replace(SMALL, scores=scores, likeness=likeness))
    kept = system(images, keep=True).steps
    maps = system.attention_maps(kept["agg_before"], kept["simi_mid"])
    assert list(maps) == ["q k", "k k", "likeness", "used"]
    for name, weights in maps.items():
        torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 30), msg=name)
    (v,) = last_heads(system.visual, kept["agg_before"], "v")
    attended = last_out(system.visual, maps["used"][:, None] @ v)
    torch.testing.assert_close(attended, kept["attn_last"], **TOLERANCE)


# --- settings ---


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_towers(name):
    layers = 12 if name == "embedded" else open_clip.get_model_config(name)["vision_cfg"]["layers"]
    c = PRESETS[name]
    assert 1 <= c.post <= c.pre < layers and 1 <= c.fusion[0] < c.fusion[1] < layers
    assert preset(f"{name}/openai") == preset(name) == c


def test_presets_are_the_published_ones_in_layers():
    """List positions count from 0, and the release excludes the end of its fusion range."""
    b16, l14 = PRESETS["ViT-B-16"], PRESETS["ViT-L-14"]
    assert b16 == SCClipConfig()
    assert (b16.pre, b16.post, b16.fusion) == (8 + 1, 3 + 1, (3 + 1, 10))
    assert (b16.k, b16.contamination, b16.beta, b16.cls_residual, b16.logit_scale) == (30, 0.05, 0.4, 0.3, 40)
    assert (b16.lof, b16.scores, b16.position) == ("released", "kk", "bicubic_offset")
    assert (l14.pre, l14.post, l14.fusion, l14.cls_residual) == (16 + 1, 6 + 1, (8 + 1, 19), 0.1)
    same = {f.name for f in fields(SCClipConfig)} - {"pre", "post", "fusion", "cls_residual"}
    assert all(getattr(b16, name) == getattr(l14, name) for name in same)


def test_presets_have_the_releases_scale_for_sets_with_a_background():
    assert [preset("ViT-B-16/openai", data).logit_scale for data in ("voc21", "coco_object", "voc")] == [50, 55, 40]
    assert preset("ViT-L-14", "voc21") == replace(PRESETS["ViT-L-14"], logit_scale=50.0)


def test_the_entry_takes_the_preset_and_a_config_given_is_kept(visual, texts):
    """Explicit default settings are what they say, whatever the tower."""
    entry = systems.find("SC-CLIP")
    assert entry.configure("embedded") == PRESETS["embedded"] and entry.configure() == SCClipConfig()
    assert entry.configure("embedded", beta=0.3) == replace(PRESETS["embedded"], beta=0.3)
    start = systems.Start(build_embedded(seed=0).visual, "embedded", torch.randn(3, 512), 100.0)
    assert entry.build(start, SCClipConfig(), 0).config == SCClipConfig()


def test_a_tower_without_preset():
    with pytest.raises(ValueError, match="no preset for the tower 'RN50', only for ViT-B-16, ViT-L-14, ViT-B-32, emb"):
        preset("RN50")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"pre": 6}, "layer pre=6 is not in this tower, which has 6: give layers from 1 to 5"),
        ({"post": 0}, "layer post=0 is not"),
        ({"fusion": (0, 3)}, r"layer fusion=\(0, 3\) is not"),
        ({"fusion": (3, 6)}, r"layer fusion=\(3, 6\) is not"),
        ({"fusion": (4, 3)}, r"fusion=\(4, 3\) ends before it begins"),
        ({"beta": 1.0}, "beta=1.0 leaves no link or is not a cosine"),
        ({"beta": -1.1}, "beta=-1.1 leaves no link or is not a cosine"),
        ({"scores": "vv"}, "scores 'vv' is unknown: choose one of kk, qk"),
    ],
)
def test_settings_that_cannot_be(visual, texts, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        SCClip(visual, texts, replace(SMALL, **change))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"k": 30}, "k = 30 leaves no neighbourhood among 30 patches: give less than 30"),
        ({"lof": "fast"}, "method 'fast' is unknown"),
        ({"contamination": 1.0}, "contamination is 1.0"),
    ],
)
def test_what_only_an_image_shows_to_be_wrong(visual, images, texts, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        SCClip(visual, texts, replace(SMALL, **change))(images)


# --- what it asks of the walk ---


def test_a_walk_may_end_early(visual, images):
    whole = walk(visual, images, layers=[0, 2, 4], patches=True)
    calls = []
    hooks = [b.register_forward_hook(lambda *_: calls.append(1)) for b in visual.transformer.resblocks]
    part = walk(visual, images, layers=[0, 2, 4], patches=True, until=4)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 4
    assert torch.equal(part.cls, whole.cls) and torch.equal(part.patches, whole.patches)
    torch.testing.assert_close(part.final, project(visual, whole.cls[:, 2]))
    assert torch.equal(walk(visual, images, until=6).final, walk(visual, images).final)
    with pytest.raises(ValueError, match="layer 5 does not exist: this walk has the layers 1 to 4"):
        walk(visual, images, layers=[5], until=4)
    with pytest.raises(ValueError, match="layer 7 does not exist: this walk has the layers 1 to 6"):
        walk(visual, images, until=7)


def test_the_parts_of_the_last_block_make_it_up(visual, images):
    walked = walk(visual, images, layers=[5, 6], patches=True)
    entering = torch.cat([walked.cls[:, :1], walked.patch_taps[0]], dim=1)
    q, k, v = last_heads(visual, entering)
    assert q.shape == (3, 4, 31, 8)
    assert all(
        torch.equal(one, last_heads(visual, entering, name)[0]) for name, one in zip("qkv", (q, k, v), strict=True)
    )
    x = entering + last_out(visual, (q @ k.mT / math.sqrt(8)).softmax(dim=-1) @ v)
    block = visual.transformer.resblocks[-1]
    x = x + block.mlp(block.ln_2(x))
    torch.testing.assert_close(x, last_block(visual, entering), **TOLERANCE)
    torch.testing.assert_close(x[:, 1:], walked.patch_taps[1], **TOLERANCE)
    torch.testing.assert_close(last_out(visual, v), value_path(visual, entering))
