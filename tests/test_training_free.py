"""SCLIP, ClearCLIP and NACLIP: each last block against loops over tokens and heads, and where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer

from hc_lafter.clip.vit import last_block, last_mlp, project, value_path, walk
from hc_lafter.systems.clearclip import ClearCLIP, ClearCLIPConfig
from hc_lafter.systems.naclip import NACLIP, NACLIPConfig, window
from hc_lafter.systems.sc_clip import SCClip, SCClipConfig, released
from hc_lafter.systems.sclip import SCLIP, SCLIPConfig
from hc_lafter.systems.value_path import ValuePath, ValuePathConfig

GRID, WIDTH = (3, 5), 16
KINDS = {SCLIP: SCLIPConfig(), ClearCLIP: ClearCLIPConfig(), NACLIP: NACLIPConfig(sigma=1.2)}
CLOSE = {"rtol": 0, "atol": 1e-5}

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def build(heads: int = 2) -> VisionTransformer:
    torch.manual_seed(0)
    visual = VisionTransformer(32, 8, WIDTH, 3, heads, mlp_ratio=2.0, output_dim=12, act_layer=QuickGELU)
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.4)  # biases and norms, too, so that one forgotten shows
    visual.transformer.resblocks[-1].attn.in_proj_weight.data[: 2 * WIDTH] *= 3  # attention that chooses
    return visual.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def visual() -> VisionTransformer:
    return build()


@pytest.fixture(scope="module")
def texts() -> torch.Tensor:
    return torch.randn(4, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    """[2, 1 + 15, W], what enters the last block."""
    return torch.randn(2, 16, WIDTH, generator=torch.Generator().manual_seed(3))


def weighted(scores: list[float], values: list[torch.Tensor]) -> torch.Tensor:
    powers = [math.exp(score - max(scores)) for score in scores]
    return sum(p / sum(powers) * v for p, v in zip(powers, values, strict=True))


def slow(visual, kind: type, x: torch.Tensor, grid: tuple[int, int], sigma: float) -> torch.Tensor:
    """The last block on one image's tokens [1 + N, W], as the papers and releases say it."""
    block, w = visual.transformer.resblocks[-1], grid[1]
    heads, size = block.attn.num_heads, WIDTH // block.attn.num_heads
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    out = torch.zeros_like(x)
    for h in range(heads):
        q, k, v = (qkv[:, i * WIDTH + h * size : i * WIDTH + (h + 1) * size] for i in range(3))
        for i in range(len(x)):
            scores = {part: [float(a[i] @ b) / math.sqrt(size) for b in a] for part, a in (("q", q), ("k", k))}
            if kind is SCLIP:
                found = weighted(scores["q"], list(v)) + weighted(scores["k"], list(v))
            elif kind is ClearCLIP:
                found = weighted(scores["q"], list(v))
            else:
                for j in range(1, len(x)) if i else ():
                    down, across = (i - 1) // w - (j - 1) // w, (i - 1) % w - (j - 1) % w
                    scores["k"][j] += math.exp(-(down**2 + across**2) / (2 * sigma**2))
                found = weighted(scores["k"], list(v))
            out[i, h * size : (h + 1) * size] = found
    out = out @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    if kind is not SCLIP:
        return out  # the attention's output alone: no residual, no MLP
    x = x + out
    return x + block.mlp(block.ln_2(x))


@every
def test_the_last_block_meets_the_slow_oracle(visual, texts, tokens, kind):
    ours = kind(visual, texts, KINDS[kind]).replaced(tokens, GRID)
    for image, found in zip(tokens, ours, strict=True):
        torch.testing.assert_close(found, slow(visual, kind, image, GRID, 1.2), **CLOSE)


@every
@pytest.mark.parametrize("position", ["bicubic_offset", "bicubic"])
def test_images_become_scaled_cosines_of_the_patches(visual, texts, images, kind, position):
    config = type(KINDS[kind])(position=position, logit_scale=7.0)
    system = kind(visual, 3 * texts, config)
    walked = walk(visual, images, layers=[2], patches=True, position=position)
    entering = torch.cat([walked.cls, walked.patch_taps[0]], dim=1)
    features = project(visual, system.replaced(entering, GRID)[:, 1:])
    cosine = F.cosine_similarity(features[:, :, None], texts, dim=-1)
    maps = F.interpolate(7 * cosine.mT.unflatten(2, GRID), size=(24, 40), mode="bilinear")
    torch.testing.assert_close(system(images).logits, maps, rtol=0, atol=1e-4)
    assert not system.parameter_groups()


@every
def test_one_token_alone_is_the_value_path(visual, texts, tokens, kind):
    """It can attend to nothing but itself; SCLIP does so twice, and keeps residual and MLP."""
    one, block = tokens[:, :1], visual.transformer.resblocks[-1]
    found, value = kind(visual, texts, KINDS[kind]).replaced(one, (0, 0)), value_path(visual, one)
    if kind is SCLIP:
        value = last_mlp(visual, one + 2 * value - block.attn.out_proj.bias)
    torch.testing.assert_close(found, value, **CLOSE)


@every
def test_orthogonal_keys_and_queries_are_the_value_path(texts, kind):
    """Long and at right angles, a token's key meets no key but its own, and no window of height 1 changes that."""
    visual = build(heads=1)
    block = visual.transformer.resblocks[-1]
    block.ln_1.weight.fill_(1.0), block.ln_1.bias.zero_(), block.attn.in_proj_bias.zero_()
    block.attn.in_proj_weight[: 2 * WIDTH] = 10 * torch.eye(WIDTH).repeat(2, 1)
    hadamard = torch.ones(1, 1)
    for _ in range(4):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    x = hadamard[None, 1:14]  # mean 0 and variance 1, so that the norm leaves them
    found, value = kind(visual, texts, KINDS[kind]).replaced(x, (3, 4)), value_path(visual, x)
    if kind is SCLIP:
        value = last_mlp(visual, x + 2 * value - block.attn.out_proj.bias)
    torch.testing.assert_close(found, value, **CLOSE)


def test_the_window_between_its_limits(visual, texts, tokens):
    """Sigma without end raises the scores of all patches alike; towards 0 that of the patch itself, by one."""
    keys = SCClip(visual, texts, SCClipConfig(pre=1, post=1, fusion=(1, 2), likeness=False))
    plain = keys.attend(tokens[:, 1:], None)  # k-k among the patches, the release of SC-CLIP has the same
    assert torch.equal(window(GRID, math.inf), torch.ones(15, 15))
    assert torch.equal(window(GRID, 1e-3), torch.eye(15))
    assert torch.equal(window((2, 2), 1.0)[0], torch.tensor([0.0, -0.5, -0.5, -1.0]).exp())
    block = visual.transformer.resblocks[-1]
    k, v = (
        part.unflatten(-1, (2, -1)).transpose(1, 2)
        for part in (block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)[1:]
    )
    scores = k @ k.mT / math.sqrt(8)
    torch.testing.assert_close(scores[..., 1:, 1:].softmax(-1) @ v[..., 1:, :], plain, **CLOSE)
    for sigma, bonus in ((1e-3, torch.eye(15)), (math.inf, torch.ones(15, 15))):
        found = NACLIP(visual, texts, NACLIPConfig(sigma=sigma)).replaced(tokens, GRID)
        heads = (scores + F.pad(bonus, (1, 0, 1, 0))).softmax(-1) @ v
        expected = block.attn.out_proj(heads.transpose(1, 2).flatten(2))
        torch.testing.assert_close(found, expected, **CLOSE)


@every
def test_a_batch_is_its_images_one_by_one(visual, texts, images, kind):
    system = kind(visual, texts, KINDS[kind])
    alone = torch.cat([system(image[None]).logits for image in images])
    torch.testing.assert_close(system(images).logits, alone, rtol=0, atol=1e-4)


@every
def test_only_neighbourhoods_know_where_a_patch_is(visual, texts, tokens, kind):
    """Behind the last block but one, places matter to NACLIP alone: it keeps a flip of the grid, no shuffle."""
    system, places = kind(visual, texts, KINDS[kind]), torch.arange(15).reshape(GRID)
    found = system.replaced(tokens, GRID)
    for order, kept in (
        (places.flip(1), True),
        (torch.randperm(15, generator=torch.Generator().manual_seed(0)), False),
    ):
        at = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + order.flatten()])
        moved = system.replaced(tokens[:, at], GRID)
        assert torch.allclose(moved, found[:, at], atol=1e-5) == (kept or kind is not NACLIP)


def test_each_says_something_of_its_own(visual, texts, images, tokens):
    answers = [kind(visual, texts, config)(images).logits / config.logit_scale for kind, config in KINDS.items()]
    answers += [ValuePath(visual, texts, ValuePathConfig(values=v, position="bicubic_offset"))(images).logits
                for v in (True, False)]  # fmt: skip
    for i, one in enumerate(answers):
        assert all((one - other).abs().max() > 2e-3 for other in answers[:i])
    torch.testing.assert_close(last_block(visual, tokens)[:, :1], _whole(visual, tokens)[:, :1], **CLOSE)


def _whole(visual, tokens):
    """The plain last block out of the same parts: attention with its residual, then `last_mlp`."""
    block = visual.transformer.resblocks[-1]
    x = block.ln_1(tokens)
    return last_mlp(visual, tokens + block.attn(x, x, x, need_weights=False)[0])


def test_the_releases_settings():
    assert (SCLIPConfig().logit_scale, ClearCLIPConfig().logit_scale, NACLIPConfig().logit_scale) == (40, 50, 40)
    assert NACLIPConfig().sigma == 5 and released(12).k == released(24).k == 30 / 196
    assert released(12) == SCClipConfig(k=30 / 196) and released(24).fusion == (9, 19)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_a_window_without_width_is_refused(visual, texts, sigma):
    with pytest.raises(ValueError, match=f"NACLIP's sigma={sigma} makes no window: give a width"):
        NACLIP(visual, texts, NACLIPConfig(sigma=sigma))
