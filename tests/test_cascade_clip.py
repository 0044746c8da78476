"""Cascade-CLIP: settings, parameter account, geometry, losses and regimes; its arithmetic is held in test_reference."""

from dataclasses import replace
from itertools import chain

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer
from torchvision.ops import sigmoid_focal_loss

from hc_lafter.systems.cascade_clip import CascadeCLIP, CascadeCLIPConfig, account
from hc_lafter.systems.losses import focal_dice
from hc_lafter.systems.regimes import SeenMasks
from hc_lafter.tuning.training import Rows, fit

SEEN = torch.tensor([True, True, True, False, False])
SMALL = CascadeCLIPConfig(levels=((1, 2), (3,), (4,)), tokens=3, heads=2, decoder_layers=2)


@pytest.fixture(scope="module")
def visual() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, 4, 2, mlp_ratio=2.0, output_dim=16, act_layer=QuickGELU).eval()


def build(visual, config=SMALL, seed=0) -> CascadeCLIP:
    text = torch.randn(len(SEEN), 16, generator=torch.Generator().manual_seed(1))
    return CascadeCLIP(visual, text, SEEN, config, seed=seed).eval()


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


# --- the account ---


@pytest.mark.parametrize(("tokens", "millions"), [(10, 40.09), (35, 40.33), (50, 40.46)])
def test_parameters_are_those_of_the_release(tokens, millions):
    """VOC, Context and COCO as counted from the released code; the paper says 40.5 M."""
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(512, {"image_size": 512, "patch_size": 16})
    text, seen = torch.zeros(20, 512), torch.arange(20) < 15
    found = account(CascadeCLIP(visual, text, seen, CascadeCLIPConfig(tokens=tokens)))
    assert round(found["released trainable"] / 1e6, 2) == millions
    assert found["projections"] == 6 * (768 * 512 + 2 * 768)
    assert found["never called"] == 9 * (4 * (512 * 512 + 512) + 2 * 512)
    assert found["total"] == sum(found[k] for k in ("tower", "projections", "released trainable"))


def test_account_counts_what_torch_would_build(visual):
    """The never-called and silent parts, against torch's own decoder layer."""
    system, dim = build(visual), 16
    layer = torch.nn.TransformerDecoderLayer(dim, 2, 4 * dim)
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in layer.named_children()}
    levels, layers = len(SMALL.levels), SMALL.decoder_layers
    found = account(system)
    assert found["never called"] == levels * layers * (size["self_attn"] + size["norm1"])
    cross = size["multihead_attn"] // 4 * 2  # v and the projection; q and k make the map
    silent = cross + sum(size[name] for name in ("linear1", "linear2", "norm2", "norm3"))
    assert found["without gradient"] == levels * silent


def test_every_trainable_parameter_is_in_one_group_and_gets_a_gradient(visual):
    for config in (SMALL, replace(SMALL, train_projections=True), replace(SMALL, double_norm=False)):
        system = build(visual, config)
        grouped = [p for group in system.parameter_groups() for p in group["params"]]
        assert len({id(p) for p in grouped}) == len(grouped)
        for p in grouped:
            p.requires_grad_(True)
        system(pictures(2, 3, 32, 32)).logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in grouped)
        own = {id(p) for p in system.parameters()} - {id(p) for p in system.visual.parameters()}
        held = {id(p) for part in (system.norms, system.projections) for p in part.parameters()}
        assert {id(p) for p in grouped} == own - (set() if config.train_projections else held)
        assert not any(p.requires_grad for p in system.visual.parameters())


def test_other_words_are_asked_of_the_same_features(visual):
    """As a system built with those words says it, whatever their number."""
    system, words = build(visual), torch.eye(16)[:7]
    other = CascadeCLIP(visual, words, torch.ones(7, dtype=torch.bool), SMALL, seed=0).eval()
    x = pictures(2, 3, 32, 32)
    with torch.inference_mode():
        features = system.features(x)
        for found, want in ((system.decode(*features, text=words), other), (system.decode(*features), system)):
            for a, b in zip(chain(*found), chain(*want.maps(x)), strict=True):
                torch.testing.assert_close(a, b)


def test_everything_is_decayed_as_in_the_release(visual):
    """mmcv takes the longest of these keys that is in a name, of two alike the first by the alphabet."""
    keys = sorted(sorted(["backbone", "text_encoder", "norm", "ln", "head"]), key=len, reverse=True)
    names = "backbone.prompt_norm.weight", "decode_head.weights_s1", "decode_head.layers.0.norm2.bias"
    assert [next(key for key in keys if key in name) for name in names] == ["backbone", "head", "head"]
    groups = {g["name"]: g for g in build(visual, replace(SMALL, train_projections=True)).parameter_groups()}
    assert {name: g["weight_decay"] for name, g in groups.items()} == {
        "prompts": 0.01, "head": 0.01, "norms": 0.01, "projections": 0.01, "projection norms": 0.01,
    }  # fmt: skip
    assert all(p.ndim == 1 for name in ("norms", "projection norms") for p in groups[name]["params"])


# --- geometry and settings ---


@pytest.mark.parametrize("side", [(32, 32), (24, 40), (56, 8), (8, 8)])
def test_any_grid_odd_or_not_square(visual, side):
    """The release fails on odd numbers of patches and on grids that are not square."""
    logits = build(visual)(pictures(2, 3, *side)).logits
    assert logits.shape == (2, len(SEEN), *side) and logits.isfinite().all()


@torch.no_grad()
def test_a_picture_turned_on_its_side_keeps_rows_and_columns_apart(visual):
    maps = build(visual).maps(pictures(1, 3, 24, 40))
    assert {m.shape for level in maps for m in level} == {(1, len(SEEN), 3, 5)}


@torch.no_grad()
def test_a_batch_says_what_its_images_say_alone(visual):
    system, images = build(visual), pictures(3, 3, 32, 32)
    alone = torch.cat([system(image[None]).logits for image in images])
    torch.testing.assert_close(system(images).logits, alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_every_setting_changes_the_masks(visual):
    images = pictures(1, 3, 32, 32)
    reference = build(visual)(images).logits
    for change in (
        {"position": "bicubic"}, {"projections": "tower"}, {"nga": "mean"}, {"tokens": 4},
        {"levels": ((4,),)}, {"levels": ((1, 2), (4,))}, {"decoder_layers": 3}, {"heads": 4},
    ):  # fmt: skip
        other = build(visual, replace(SMALL, **change))(images).logits
        assert not torch.allclose(other, reference, atol=1e-5), change
    assert torch.equal(build(visual)(images).logits, reference)
    assert not torch.equal(build(visual, seed=1)(images).logits, reference)


@torch.no_grad()
def test_two_norms_in_a_row_start_as_one(visual):
    """The second norm undoes the first but for its affine part, which starts as the identity."""
    images, one, two = pictures(1, 3, 32, 32), build(visual, replace(SMALL, double_norm=False)), build(visual)
    torch.testing.assert_close(two(images).logits, one(images).logits, rtol=0, atol=1e-5)
    two.prompt_norm.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(two(images).logits, one(images).logits, atol=1e-5)


@torch.no_grad()
def test_one_decoder_is_the_last_level_alone(visual):
    """The ZegCLIP-like baseline has no random projection and reads the last layer through LN_post and P."""
    system = build(visual, replace(SMALL, levels=((4,),)))
    assert not list(system.projections.parameters()) and len(system.decoders) == 1
    patches, cls, _ = system.features(pictures(1, 3, 32, 32))
    assert len(patches) == 1
    torch.testing.assert_close(patches[0].norm(dim=-1), torch.ones(1, 16))
    torch.testing.assert_close(cls.norm(dim=-1), torch.ones(1))


def test_dropout_acts_in_training_alone_and_leaves_the_tower_be(visual):
    system, images = build(visual), pictures(1, 3, 32, 32)
    assert torch.equal(system(images).logits, system(images).logits)
    system.train()
    assert system.training and not system.visual.training
    assert not torch.equal(system(images).logits, system(images).logits)
    still = build(visual, replace(SMALL, dropout=0.0)).train()
    assert torch.equal(still(images).logits, still(images).logits)


@torch.no_grad()
def test_margin_is_taken_off_the_seen_classes(visual):
    system = build(visual)
    logits = system(pictures(1, 3, 32, 32)).logits
    plain, stacked = system.decide(logits, margin=0.0), system.decide(logits)
    torch.testing.assert_close(plain, logits.sigmoid())
    torch.testing.assert_close(plain[:, SEEN] - stacked[:, SEEN], torch.full_like(plain[:, SEEN], 0.1))
    torch.testing.assert_close(plain[:, ~SEEN], stacked[:, ~SEEN])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": ((1, 2), (5,))}, r"levels .*must each hold layers of this tower, from 1 to 4"),
        ({"levels": ((1,), ())}, "must each hold layers"),
        ({"levels": ()}, "must each hold layers"),
        ({"projections": "trained"}, "'trained' is unknown: choose one of random, tower"),
        ({"heads": 3}, "3 heads do not divide the embedding size 16"),
        ({"nga": "wide"}, "'wide' is unknown"),
        ({"position": "linear"}, "'linear' is unknown"),
    ],
)
def test_settings_that_cannot_be_are_refused(visual, change, words):
    with pytest.raises(ValueError, match=words):
        build(visual, replace(SMALL, **change))(pictures(1, 3, 32, 32))


# --- losses ---


def slow_focal_dice(logits, mask, present_only=True, ignored_negative=True):
    """Pixel by pixel and class by class, in float64."""
    logits, (b, c, h, w) = logits.double().numpy(), logits.shape
    mask, focal, dice, pairs = mask.numpy(), 0.0, 0.0, 0
    for image in range(b):
        for k in range(c):
            count, terms, overlap, sum_p, sum_y = 0, 0.0, 0.0, 0.0, 0.0
            for y in range(h):
                for x in range(w):
                    label = mask[image, y, x]
                    if label >= c and not ignored_negative:
                        continue
                    p, true = 1 / (1 + np.exp(-logits[image, k, y, x])), label == k
                    right = p if true else 1 - p
                    terms += (0.25 if true else 0.75) * (1 - right) ** 2 * -np.log(right)
                    count, overlap, sum_p, sum_y = count + 1, overlap + p * true, sum_p + p, sum_y + true
            focal += terms / max(count, 1)
            if sum_y:
                pairs += 1
                dice += 1 - (2 * overlap + 1) / (sum_p + sum_y + 1)
    pairs = max(pairs, 1)
    return 100 * focal / (pairs if present_only else b * c), dice / pairs


@pytest.mark.parametrize("present_only", [True, False])
@pytest.mark.parametrize("ignored_negative", [True, False])
def test_losses_meet_the_slow_oracle(present_only, ignored_negative):
    logits = 3 * pictures(2, 4, 5, 3)
    mask = torch.randint(0, 4, (2, 5, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    mask[0, :2] = 255
    mask[1][mask[1] == 2] = 0  # a class that is not there
    options = {"present_only": present_only, "ignored_negative": ignored_negative}
    ours = torch.stack(focal_dice(logits, mask, **options)).double()
    torch.testing.assert_close(ours, torch.tensor(slow_focal_dice(logits, mask, **options)), rtol=1e-6, atol=0)


def test_focal_is_torchvisions():
    logits, mask = pictures(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(3))
    target = F.one_hot(mask, 3).permute(0, 3, 1, 2).float()
    theirs = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2, reduction="mean")
    ours, _ = focal_dice(logits, mask, focal_weight=1.0, present_only=False)
    torch.testing.assert_close(ours, theirs)


def test_losses_without_a_labelled_pixel_and_with_extreme_logits_are_finite():
    for size in (1.0, 1e4):
        for dtype in (torch.float32, torch.bfloat16):
            logits = (size * pictures(1, 3, 4, 4)).to(dtype).requires_grad_()
            for mask in (torch.full((1, 4, 4), 255), torch.zeros(1, 4, 4, dtype=torch.long)):
                for options in ({}, {"ignored_negative": False}):
                    focal, dice = focal_dice(logits, mask, **options)
                    (gradient,) = torch.autograd.grad(focal + dice, logits)
                    assert focal.isfinite() and dice.isfinite() and gradient.isfinite().all()
                    assert focal.dtype == torch.float32


# --- regimes ---


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    mask = torch.randint(0, 5, (4, 32, 32), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    mask[:, :4] = 255
    return {"student": pictures(4, 3, 32, 32), "mask": mask}


def test_inductive_training_never_reads_an_unseen_label(visual, batch):
    system, regime = build(visual), SeenMasks()
    terms = regime(system, batch)
    assert set(terms) == {"focal", "dice"}
    swapped = batch["mask"].clone()
    swapped[batch["mask"] == 3], swapped[batch["mask"] == 4] = 4, 255
    for name, value in regime(system, {**batch, "mask": swapped}).items():
        assert torch.equal(value, terms[name])


def test_transductive_training_knows_that_a_pixel_is_unseen_and_not_which(visual, batch):
    system, regime = build(visual), SeenMasks(transductive=True)
    terms = regime(system, batch)
    assert set(terms) == {"focal", "dice", "focal, own labels", "dice, own labels"}
    swapped = batch["mask"].clone()
    swapped[batch["mask"] == 3], swapped[batch["mask"] == 4] = 4, 3
    for name, value in regime(system, {**batch, "mask": swapped}).items():
        assert torch.equal(value, terms[name])
    logits = system(batch["student"]).logits.detach()
    own = logits[:, 3:].argmax(dim=1) + 3
    aim = torch.where((batch["mask"] == 3) | (batch["mask"] == 4), own, batch["mask"].long())
    for name, value in zip(("focal", "dice"), focal_dice(logits, aim), strict=True):
        torch.testing.assert_close(terms[f"{name}, own labels"].detach(), value)


def test_unseen_classes_may_lie_anywhere(visual):
    """Seen labels are moved to the places of the seen queries by name, not by order."""
    seen = torch.tensor([False, True, False, True, True])
    system = CascadeCLIP(visual, torch.randn(5, 16), seen, SMALL).eval()
    mask = torch.tensor([0, 1, 2, 3, 4, 255], dtype=torch.uint8).repeat(1, 32 * 32 // 6 + 1)[:, : 32 * 32]
    batch = {"student": pictures(1, 3, 32, 32), "mask": mask.reshape(1, 32, 32)}
    moved = torch.tensor([255, 0, 255, 1, 2] + [255] * 251)[batch["mask"].long()]
    logits = system(batch["student"]).logits[:, [1, 3, 4]]
    theirs = focal_dice(logits, moved)
    for value, expected in zip(SeenMasks()(system, batch).values(), theirs, strict=True):
        torch.testing.assert_close(value, expected)


def test_schedules(visual):
    system = build(visual)
    assert [(p.name, p.epochs) for p in system.schedule(6)] == [("seen pixels", 6)]
    phases = system.schedule(6, transductive=True)
    assert [p.epochs for p in phases] == [3, 3] and set(phases[1].weights) == {"focal, own labels", "dice, own labels"}
    with pytest.raises(ValueError, match="1 epochs do not hold the 2 phases"):
        system.schedule(1, transductive=True)


def test_it_learns_masks_that_can_be_learned(visual):
    """Left and right halves of two colours: the seen classes are found, by the loop that notebooks use."""
    images = torch.zeros(8, 3, 32, 32)
    mask = torch.zeros(8, 32, 32, dtype=torch.uint8)
    for i in range(8):
        left, right = i % 3, (i + 1) % 3
        images[i, left, :, :16], images[i, right, :, 16:] = 2.0, 2.0
        mask[i, :, :16], mask[i, :, 16:] = left, right
    system = build(visual, replace(SMALL, lr=5e-3))
    start = float((system.decide(system(images).logits)[:, :3].argmax(1) == mask).float().mean())
    history = fit(
        system, Rows(student=images, mask=mask), SeenMasks(), system.schedule(40),
        batch_size=8, seed=0, progress=False, train_mode=True,
    )  # fmt: skip
    assert history.diverged is None and not system.training
    with torch.no_grad():
        end = float((system.decide(system(images).logits)[:, :3].argmax(1) == mask).float().mean())
    assert end > 0.9 > start
