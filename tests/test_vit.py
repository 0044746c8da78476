"""The walk against open_clip's own forward passes (to the bit) and against a slow tower written out by hand."""

import copy
import gc
import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import convert_weights_to_lp, resize_pos_embed
from open_clip.transformer import QuickGELU, VisionTransformer

from hc_lafter.clip import vit
from hc_lafter.clip.vit import (
    POSITIONS,
    Prompts,
    check_tower,
    embed,
    position_embedding,
    project,
    through,
    value_path,
    walk,
)

SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 12, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 10, "width": 32, "heads": 1, "layers": 1},
}
ARCHITECTURES = ["small", "ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16"]


def build(arch: str = "small", **vision) -> open_clip.CLIP:
    """A CLIP with random weights and next to no text tower; position and class embeddings large enough to matter."""
    config = SMALL if arch == "small" else {**open_clip.get_model_config(arch), "text_cfg": SMALL["text_cfg"]}
    torch.manual_seed(0)
    model = open_clip.CLIP(**{**config, "vision_cfg": {**config["vision_cfg"], **vision}}).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if "embedding" in name:
                parameter.normal_(std=0.5)
            elif parameter.ndim == 1:  # biases and norms start at 0 and 1, where a forgotten one would not show
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> open_clip.CLIP:
    """Of 2 x 2 patches, because bfloat16 is slow on processors without instructions for it."""
    return build(request.param, image_size={"small": 16, "ViT-B-16": 32}.get(request.param, 64))


@pytest.fixture(scope="module")
def small() -> VisionTransformer:
    return build().visual


def pictures(visual: VisionTransformer, count: int = 2, size: tuple[int, int] | None = None) -> torch.Tensor:
    return torch.randn(count, 3, *(size or visual.image_size), generator=torch.Generator().manual_seed(1))


# --- a tower written out, one image and one head at a time ---


def slow_tokens(visual: VisionTransformer, image: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """[3, H, W] -> [1 + N, W], patch by patch."""
    patch, kernel = visual.patch_size[0], visual.conv1.weight
    rows = [visual.class_embedding + table[0]]
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            pixels = image[:, top : top + patch, left : left + patch]
            rows.append((kernel * pixels).sum(dim=(1, 2, 3)) + table[len(rows)])
    return visual.ln_pre(torch.stack(rows))


def slow_block(block, x: torch.Tensor) -> torch.Tensor:
    width, heads = x.shape[1], block.attn.num_heads
    y = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    mixed, size = [], width // heads
    for head in range(heads):
        q, k, v = (y[:, part * width + head * size : part * width + (head + 1) * size] for part in range(3))
        mixed.append(torch.softmax(q @ k.T / math.sqrt(size), dim=-1) @ v)
    x = x + block.attn.out_proj(torch.cat(mixed, dim=1))
    return x + block.mlp(block.ln_2(x))


def slow_walk(visual, images, schedule=None, table=None, keep=None):
    """[B, layers, 1 + N, W] of CLS and patches, and [B, D]."""
    layers, features = [], []
    for number, image in enumerate(images):
        x = slow_tokens(visual, image, visual.positional_embedding if table is None else table)
        cls, patches, prompts = x[:1], x[1:], x[:0]
        if keep is not None:
            patches = patches[keep[number]]
        outputs = []
        for index, block in enumerate(visual.transformer.resblocks):
            if schedule and index in schedule:
                prompts = schedule[index] if schedule[index].ndim == 2 else schedule[index][number]
            x = slow_block(block, torch.cat([cls, prompts, patches]))
            cls, prompts, patches = x[:1], x[1 : 1 + len(prompts)], x[1 + len(prompts) :]
            outputs.append(torch.cat([cls, patches]))
        layers.append(torch.stack(outputs))
        features.append(visual.ln_post(cls[0]) @ visual.proj)
    return torch.stack(layers), torch.stack(features)


def agree(walked, slow) -> None:
    layers, final = slow
    ours = torch.cat([walked.cls[:, :, None], walked.patches], dim=2)
    torch.testing.assert_close(ours, layers, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(walked.final, final, rtol=1e-4, atol=1e-4)


# --- to the bit ---


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("autocast", [False, True])
def test_final_is_encode_image_to_the_bit(model, mode, autocast, monkeypatch):
    """Under autocast as well, but on a CPU with AMX, which has tests of its own."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    images = pictures(model.visual)
    with mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = model.encode_image(images)
        walked = walk(model.visual, images, layers=range(1, 13), patches=True)
    assert walked.final.dtype == expected.dtype
    assert torch.equal(walked.final, expected)


@pytest.mark.parametrize("arch", ARCHITECTURES[1:])
def test_final_is_encode_image_to_the_bit_at_full_size(arch):
    model = build(arch)
    images = pictures(model.visual)
    assert images.shape == (2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(walk(model.visual, images, layers=range(5, 13)).final, model.encode_image(images))


@pytest.mark.parametrize("arch", ["small", "ViT-B-32"])
@pytest.mark.parametrize("cast", [torch.nn.Module.bfloat16, lambda model: convert_weights_to_lp(model, torch.bfloat16)])
def test_final_is_encode_image_to_the_bit_with_bf16_weights(arch, cast):
    model = build(arch, image_size=64)
    cast(model)
    images = pictures(model.visual).bfloat16()
    with torch.inference_mode():
        expected = model.encode_image(images)
        assert expected.dtype == torch.bfloat16
        assert torch.equal(walk(model.visual, images, layers=[5, 12]).final, expected)
        assert torch.equal(walk(model.visual, images.float(), layers=[5, 12]).final, expected), "images follow weights"


@pytest.mark.parametrize("autocast", [False, True])
def test_taps_are_forward_intermediates(model, autocast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    images, layers = pictures(model.visual), range(1, 13)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs = model.visual.forward_intermediates(images, output_fmt="NLC", output_extra_tokens=True)
        walked = walk(model.visual, images, layers=layers, patches=True)
    assert walked.cls.shape == (2, 12, model.visual.conv1.out_channels)
    assert torch.equal(walked.cls, torch.cat(theirs["image_intermediates_prefix"], dim=1))
    assert torch.equal(walked.patches, torch.stack(theirs["image_intermediates"], dim=1))


@pytest.mark.parametrize("size", [(96, 96), (64, 104), (40, 64), (32, 32)])
def test_another_size_is_open_clips_tower_of_that_size(small, size):
    other = VisionTransformer(size, 8, 128, 12, 4, 4.0, output_dim=128).eval()
    state = {f"visual.{name}": tensor.clone() for name, tensor in small.state_dict().items()}
    resize_pos_embed(state, torch.nn.ModuleDict({"visual": other}))
    other.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in state.items()})
    images = pictures(small, size=size)
    with torch.inference_mode():
        walked = walk(small, images, layers=[12], patches=True)
        assert walked.grid == (size[0] // 8, size[1] // 8)
        assert walked.patches.shape == (2, 1, size[0] * size[1] // 64, 128)
        assert torch.equal(walked.final, other(images))


# --- bfloat16 on a CPU with AMX (the same form and the same roundings run on any other, just slowly) ---

# bfloat16 keeps 8 bits, so that one rounding is off by 2^-9 = .002 of a number at most. 12 blocks round the residual
# stream 24 times; independent errors add up to .002 sqrt(24) = .01 of its length, and a cosine loses half of the square
# of that, .00005. (Seen on four towers: .010 and .00006.)
RELATIVE, COSINE = 0.02, 0.9995


@pytest.fixture
def amx(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


def half(visual: VisionTransformer, images: torch.Tensor, **options) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return walk(visual, images, **options).final


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.detach().float(), theirs.detach().float()
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_bf16_features_are_near_those_of_float32(model, amx, mode):
    images = pictures(model.visual, 4)
    with mode():
        full, ours = walk(model.visual, images).final, half(model.visual, images)
    assert ours.dtype == torch.bfloat16
    assert distance(ours, full) < RELATIVE
    assert torch.cosine_similarity(ours.float(), full).min() > COSINE


@pytest.mark.parametrize("weights", [False, True])
def test_written_out_attention_learns_as_the_fused_kernel_does(monkeypatch, weights):
    """Under autocast and with bfloat16 weights; the gradients of both are as near to float32's."""
    visual, images, grads = build().visual.requires_grad_(True), pictures(build().visual, 4), {}
    for form in ("float32", "fused", "written out"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda form=form: {"amx_bf16": form == "written out"})
        tower = copy.deepcopy(visual)
        if form != "float32" and weights:
            tower.bfloat16()
        calls = []
        fused = F.scaled_dot_product_attention
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, f=fused, c=calls: c.append(1) or f(*a))
        with torch.autocast("cpu", torch.bfloat16, enabled=form != "float32" and not weights):
            final = walk(tower, images).final
        monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
        assert bool(calls) == (form != "written out")
        F.normalize(final.float(), dim=-1).square().mul(torch.linspace(0, 1, 128)).sum().backward()
        blocks = tower.transformer.resblocks.parameters()
        grads[form] = torch.cat([parameter.grad.float().flatten() for parameter in blocks])
    off = {form: distance(grad, grads["float32"]) for form, grad in grads.items()}
    assert off["written out"] < 1.25 * off["fused"] < 0.25, off


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_block_with_a_mask(small, amx, learns, precision):
    """As in a text tower: its causal mask holds in every form."""
    block, x = small.transformer.resblocks[3], torch.randn(3, 9, 128, requires_grad=learns)
    mask = torch.full((9, 9), -torch.inf).triu(1)
    expected = block(x, attn_mask=mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = through(block, x, mask)
    assert distance(found, expected) < (1e-6 if precision == torch.float32 else RELATIVE)
    if learns:
        (grad,) = torch.autograd.grad(found[:, 4].float().sum(), x)
        assert not grad[:, 5:].any() and grad[:, :5].abs().amin(dim=(0, 2)).min() > 0


def test_frozen_weights_are_cast_once_and_freed_with_the_tower(amx):
    visual = build().visual
    images, before = pictures(visual), len(vit._COPIES)
    with torch.inference_mode():
        first = half(visual, images)
    copies = {id(copy) for _, copy in vit._COPIES.values()}
    assert len(vit._COPIES) == before + 12 * 7  # the input projection; weight and bias of the three other layers
    assert torch.equal(half(visual, images), first)
    assert {id(copy) for _, copy in vit._COPIES.values()} == copies
    prompts = torch.zeros(2, 128, requires_grad=True)
    half(visual, images, prompts=Prompts({0: prompts})).sum().backward()  # copies made in inference mode serve here
    assert prompts.grad.abs().sum() > 0
    del visual
    gc.collect()
    assert len(vit._COPIES) == before


@torch.no_grad()
def by_data(weight):
    weight.data.mul_(1.5)


@torch.no_grad()
def in_one_place(weight):
    weight[5, 6] += 3


@torch.no_grad()
def another(weight):
    weight.data = weight * 1.5


@torch.inference_mode()
def in_inference(weight):
    weight.mul_(1.5)


def by_a_fused_optimiser(weight):
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1, fused=True).step()
    weight.grad = None


@pytest.mark.parametrize("change", [by_data, in_one_place, another, in_inference, by_a_fused_optimiser])
def test_a_copy_is_never_stale(amx, change):
    visual = build().visual
    images = pictures(visual)
    with torch.inference_mode():
        before = half(visual, images)
    for weight in (visual.transformer.resblocks[2].attn.in_proj_weight, visual.transformer.resblocks[9].mlp[0].weight):
        change(weight)
    with torch.inference_mode():
        after = half(visual, images)
        assert not torch.equal(after, before)
        assert torch.equal(after, half(copy.deepcopy(visual), images))


@pytest.mark.parametrize("learns", [False, True])
def test_float32_knows_no_processor(small, monkeypatch, learns):
    finals = []
    for has in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has})
        prompts = torch.ones(2, 128, requires_grad=learns)
        finals.append(walk(small, pictures(small), prompts=Prompts({0: prompts})).final)
    assert torch.equal(*finals)


# --- against the slow tower ---


def test_plain_and_non_square_walks(small):
    images = pictures(small)
    agree(walk(small, images, layers=range(1, 13), patches=True), slow_walk(small, images))
    images = pictures(small, size=(40, 72))
    table = position_embedding(small, (5, 9))
    agree(walk(small, images, layers=range(1, 13), patches=True), slow_walk(small, images, table=table))


def prompts_of(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, 128, generator=generator) for shape in shapes]


SCHEDULES = {
    "at the input, and stay": dict(zip([0], prompts_of((6,)), strict=True)),
    "segments": dict(zip([0, 4, 8, 11], prompts_of((4,), (4,), (4,), (4,)), strict=True)),
    "first blocks without": dict(zip([5, 8], prompts_of((4,), (4,)), strict=True)),
    "before every block": dict(enumerate(prompts_of(*[(3,)] * 12))),
    "numbers that change": dict(zip([0, 3, 7], prompts_of((5,), (2,), (7,)), strict=True)),
    "one set per image": dict(zip([0, 6], prompts_of((2, 4), (2, 4)), strict=True)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_prompt_schedules(small, name):
    images, schedule = pictures(small, size=(64, 40)), SCHEDULES[name]
    walked = walk(small, images, layers=range(1, 13), patches=True, prompts=Prompts(schedule))
    slow = slow_walk(small, images, schedule, table=position_embedding(small, (8, 5)))
    agree(walked, slow)
    first = min(schedule)
    plain = walk(small, images, layers=range(1, 13), patches=True)
    assert torch.equal(walked.cls[:, :first], plain.cls[:, :first])
    assert not torch.allclose(walked.cls[:, first:], plain.cls[:, first:], atol=1e-3)


def test_kept_patches(small):
    images, keep = pictures(small), torch.tensor([[3, 7, 8, 60], [0, 1, 31, 62]])
    walked = walk(small, images, layers=range(1, 13), patches=True, keep=keep)
    agree(walked, slow_walk(small, images, keep=keep))
    everything = torch.arange(64).expand(2, -1)
    assert torch.equal(walk(small, images, keep=everything).final, walk(small, images).final)


def test_patch_dropout_of_the_tower_is_left_out():
    visual = build(patch_dropout=0.5).visual
    images = pictures(visual)
    plain = visual(images)
    torch.testing.assert_close(walk(visual.train(), images).final, plain, rtol=1e-4, atol=1e-4)


def slow_bilinear(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[g, g, W] -> [h, w, W]: pixel centres at half, edges repeated."""
    rows, columns, out = table.shape[0], table.shape[1], torch.zeros(*grid, table.shape[2])
    for i in range(grid[0]):
        for j in range(grid[1]):
            y = min(max((i + 0.5) * rows / grid[0] - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / grid[1] - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = table[top, left] * (1 - x + left) + table[top, right] * (x - left)
            lower = table[low, left] * (1 - x + left) + table[low, right] * (x - left)
            out[i, j] = upper * (1 - y + top) + lower * (y - top)
    return out


@pytest.mark.parametrize("grid", [(8, 8), (5, 11), (12, 12)])
def test_cascade_position(small, grid):
    ours = position_embedding(small, grid, "cascade")
    table = small.positional_embedding
    assert torch.equal(ours[0], table[0] + small.class_embedding)
    theirs = slow_bilinear(table[1:].reshape(8, 8, -1), grid).flatten(0, 1)
    torch.testing.assert_close(ours[1:], theirs, rtol=0, atol=1e-5)


def test_positions_on_and_off_the_native_grid(small):
    for position in POSITIONS[:2]:
        assert position_embedding(small, (8, 8), position) is small.positional_embedding
    several = [position_embedding(small, (6, 10), position) for position in POSITIONS]
    assert all(table.shape == (61, 128) for table in several)
    assert not torch.allclose(several[0], several[1], atol=1e-3)
    constant = build().visual
    constant.positional_embedding.fill_(0.25)  # a constant stays itself under any interpolation
    for position in POSITIONS[:2]:
        torch.testing.assert_close(position_embedding(constant, (6, 10), position), torch.full((61, 128), 0.25))


# --- what comes back ---


def test_layers_in_the_order_asked_for(small):
    images = pictures(small)
    every = walk(small, images, layers=range(13), patches=True)
    some = walk(small, images, layers=[12, 3, 0], patches=True)
    assert torch.equal(some.cls, every.cls[:, [12, 3, 0]])
    assert torch.equal(some.patches, every.patches[:, [12, 3, 0]])
    tokens, grid = embed(small, images)
    assert grid == (8, 8)
    assert torch.equal(every.patches[:, 0], tokens[:, 1:])


def test_nothing_is_copied_that_was_not_asked_for(small):
    walked = walk(small, pictures(small))
    assert walked.cls.shape == (2, 0, 128)
    assert walked.patches is None
    taps = walk(small, pictures(small), layers=[5, 6], patches=True)
    assert all(tap._base is not None and tap._base.shape == (2, 65, 128) for tap in taps.patch_taps), (
        "views of the blocks"
    )
    assert taps.cls.untyped_storage().nbytes() == 2 * 2 * 128 * 4, "CLS does not hold a block's whole output"


def test_project_takes_the_last_cls_to_the_final_feature(small):
    walked = walk(small, pictures(small), layers=[12])
    torch.testing.assert_close(project(small, walked.cls)[:, 0], walked.final, rtol=1e-5, atol=1e-5)


def test_value_path_is_attention_among_equal_tokens(small):
    """Where all tokens are the same, attention gives each its own value, whatever its weights are."""
    token = torch.randn(3, 1, 128).expand(3, 9, 128)
    block = small.transformer.resblocks[-1]
    attended = block.attn(*[block.ln_1(token)] * 3, need_weights=False)[0]
    torch.testing.assert_close(value_path(small, token), attended, rtol=1e-4, atol=1e-5)
    tokens = torch.randn(2, 9, 128)
    alone = torch.cat([value_path(small, tokens[:, i : i + 1]) for i in range(9)], dim=1)
    torch.testing.assert_close(value_path(small, tokens), alone, rtol=1e-4, atol=1e-5)


# --- gradient ---


def test_gradient_reaches_prompts_and_not_the_frozen_tower(small):
    schedule = {index: tokens.clone().requires_grad_() for index, tokens in SCHEDULES["segments"].items()}
    walked = walk(small, pictures(small), layers=[2, 12], prompts=Prompts(schedule))
    walked.cls[:, 0].square().sum().backward(retain_graph=True)
    assert schedule[0].grad.abs().sum() > 0
    assert schedule[4].grad is None or not schedule[4].grad.any(), "tokens that enter later cannot touch layer 2"
    walked.final.square().sum().backward()
    assert all(tokens.grad.abs().sum() > 0 for index, tokens in schedule.items() if index == 11)
    assert all(parameter.grad is None for parameter in small.parameters())


def test_gradient_agrees_with_the_slow_tower(small):
    images, grads = pictures(small), []
    for run in (lambda s: walk(small, images, prompts=Prompts(s)).final, lambda s: slow_walk(small, images, s)[1]):
        schedule = {index: tokens.clone().requires_grad_() for index, tokens in SCHEDULES["segments"].items()}
        F.normalize(run(schedule), dim=-1).sum().backward()
        grads.append(torch.cat([tokens.grad for tokens in schedule.values()]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-6)
    assert grads[0].abs().max() > 1e-4


def test_gradient_reaches_the_tower_through_the_value_path():
    visual = build().visual.requires_grad_(True)
    walked = walk(visual, pictures(visual), layers=[11], patches=True)
    tokens = torch.cat([walked.cls, walked.patch_taps[0]], dim=1)
    project(visual, value_path(visual, tokens)).square().mean().backward()
    grad = visual.transformer.resblocks[-1].attn.in_proj_weight.grad
    assert not grad[:256].any(), "neither queries nor keys take part"
    assert grad[256:].abs().sum() > 0
    assert visual.conv1.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_number():
    visual, grads, finals = build().visual, [], []
    for enabled in (False, True):
        visual.set_grad_checkpointing(enabled)
        tokens = SCHEDULES["at the input, and stay"][0].clone().requires_grad_()
        final = walk(visual, pictures(visual), prompts=Prompts({0: tokens})).final
        final.square().sum().backward()
        finals.append(final.detach())
        grads.append(tokens.grad)
    assert torch.equal(*finals)
    assert torch.equal(*grads)


# --- refusals ---


def resnet():
    return open_clip.CLIP(128, {**SMALL["vision_cfg"], "layers": [1, 1, 1, 1], "width": 16}, SMALL["text_cfg"]).visual


def timm_tower():
    vision = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 32, "timm_pool": "", "timm_proj": "linear"}
    return open_clip.CLIP(128, vision, SMALL["text_cfg"]).visual


def pruned():
    visual = build().visual
    visual.prune_intermediate_layers(3)
    return visual


UNWALKABLE = {
    "ResNet": (resnet, TypeError, "cannot take ModifiedResNet"),
    "timm": (timm_tower, TypeError, "cannot take TimmModel: choose a CLIP with a plain"),
    "whole model": (build, TypeError, "cannot take CLIP: .* give its .visual"),
    "not a tower": (torch.nn.Identity, TypeError, "cannot take Identity"),
    "CoCa": (lambda: build(attentional_pool=True).visual, ValueError, "VisionTransformer: it pools by attention"),
    "CoCa, two poolers": (lambda: build(attentional_pool="cascade").visual, ValueError, "pools by attention"),
    "average pool": (lambda: build(pool_type="avg").visual, ValueError, "its pool type is 'avg'"),
    "no pool": (lambda: build(pool_type="none").visual, ValueError, "its pool type is 'none'"),
    "pruned": (pruned, ValueError, "its projection is gone"),
}


@pytest.mark.parametrize("name", UNWALKABLE)
def test_towers_that_cannot_be_walked_are_refused_by_name(name):
    make, error, words = UNWALKABLE[name]
    tower = make()
    with pytest.raises(error, match=words) as caught:
        walk(tower, torch.zeros(1, 3, 64, 64))
    assert str(caught.value).count("\n") == 0
    with pytest.raises(error, match=words):
        check_tower(tower)


@pytest.mark.parametrize("vision", [{"no_ln_pre": True}, {"final_ln_after_pool": True}, {"ls_init_value": 0.1}])
def test_variants_of_the_plain_tower_are_walked(vision):
    visual = build(**vision).visual
    images = pictures(visual)
    with torch.inference_mode():
        assert torch.equal(walk(visual, images).final, visual(images))


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.1}])
def test_with_gradients_the_blocks_are_open_clips(vision):
    """Their attention is written out there: the values, the gradient of the input and that of every parameter."""
    model = build(**vision)
    images = pictures(model.visual).requires_grad_(True)
    model.requires_grad_(True)
    found = []
    for final in (lambda: walk(model.visual, images).final, lambda: model.encode_image(images)):
        model.zero_grad()
        images.grad = None
        value = final()
        value.square().sum().backward()
        grads = [leaf.grad for leaf in (images, *model.visual.parameters()) if leaf.grad is not None]
        found.append([value.detach(), *grads])
    assert len(found[0]) == len(found[1]) > 20
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_another_attention_is_walked():
    visual = build(qk_norm=True).visual
    assert torch.equal(walk(visual, pictures(visual)).final, visual(pictures(visual)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 60, 64), "height of 60 px is not a multiple of the patch side of 8 px"),
        ((1, 3, 64, 65), "width of 65 px is not a multiple of the patch side of 8 px"),
        ((1, 3, 64, 0), "width of 0 px"),
        ((3, 64, 64), r"\(3, 64, 64\): the walk takes \[B, 3, height, width\]"),
        ((1, 1, 64, 64), r"\(1, 1, 64, 64\)"),
    ],
)
def test_impossible_images(small, shape, words):
    with pytest.raises(ValueError, match=words):
        walk(small, torch.zeros(shape))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layers": [13]}, "layer 13 does not exist: this walk has the layers 1 to 12"),
        ({"layers": [3], "until": 2}, "layer 3 does not exist: this walk has the layers 1 to 2"),
        ({"until": 13}, "layer 13 does not exist: this walk has the layers 1 to 12"),
        ({"layers": [-1]}, "layer -1 does not exist"),
        ({"position": "nearest"}, "position 'nearest' is unknown: choose one of bicubic, bicubic_offset, cascade"),
    ],
)
def test_impossible_requests(small, wrong, words):
    with pytest.raises(ValueError, match=words):
        walk(small, pictures(small, size=(32, 32)), **wrong)


def test_quick_gelu_is_the_towers_own():
    quick, plain = (build(arch, image_size=64).visual for arch in ("ViT-B-32-quickgelu", "ViT-B-32"))
    assert isinstance(quick.transformer.resblocks[0].mlp.gelu, QuickGELU)
    images = pictures(quick)
    assert not torch.allclose(walk(quick, images).final, walk(plain, images).final, atol=1e-3)
