"""One walk through a CLIP vision tower: prompts in, taps out. Every system takes it; nobody else touches a block.

The tower is open_clip's own ``VisionTransformer`` and its blocks are called as they are: a walk without prompts ends in
the very bits of ``encode_image``. (Only where a gradient is recorded, or under bfloat16 autocast on a CPU with AMX, is
their attention written out, see `through`.)
B images, L tapped layers, W tower width, D embedding size, N = h x w patches and P prompts. The public argument counts
layers from 1: layer 12 is what block 12 puts out (0: what enters block 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakTensorKeyDictionary

POSITIONS = ("bicubic", "bicubic_offset", "cascade")
_COPIES = WeakTensorKeyDictionary()  # frozen weight -> (stamp, its copy in bfloat16), see `_kept`


@dataclass(frozen=True)
class Prompts:
    """When which learnable tokens enter the tower.

    Attributes:
        tokens: block index, counted from 0 -> [P, W] or [B, P, W], the tokens that enter before that block. The lowest
            entry goes in between CLS and the patches, behind ``ln_pre`` and without a position; each later one takes
            the place of the tokens before it, which stay until then. P may differ between entries.

    ``{0: t}`` is LaFTer's schedule (at the input, and stay); one entry per segment is multi-layer LaFTer's; one per
    block is the deep prompting of VPT (Jia et al., ECCV 2022) that Cascade-CLIP uses.
    """

    tokens: Mapping[int, Tensor]


@dataclass(frozen=True)
class Walk:
    """What one walk brings back. Row i of ``cls`` and of ``patches`` belongs to ``layers[i]`` of the call.

    Attributes:
        final: [B, D], the tower's image feature, not normalised.
        cls: [B, L, W], the CLS token behind each tapped layer, before ``ln_post``.
        grid: (h, w), rows and columns of patches.
        patch_taps: L tensors [B, N, W], row by row and without prompt tokens: views of the block outputs, not copies;
            None where patches were not asked for.
    """

    final: Tensor
    cls: Tensor
    grid: tuple[int, int]
    patch_taps: tuple[Tensor, ...] | None = field(default=None, repr=False)

    @property
    def patches(self) -> Tensor | None:
        """[B, L, N, W], the patch taps in one tensor (a copy, made at each access); None where not asked for."""
        return torch.stack(self.patch_taps, dim=1) if self.patch_taps else None


def check_tower(visual: nn.Module) -> None:
    """Refuse a tower whose feature is not LN_post(CLS) @ P.

    Raises:
        TypeError: not an open_clip VisionTransformer.
        ValueError: a VisionTransformer that pools otherwise, or has lost its projection.
    """
    kind = type(visual).__name__
    if not isinstance(visual, VisionTransformer):
        raise TypeError(
            f"the walk goes through open_clip's VisionTransformer and cannot take {kind}: choose a CLIP with a plain "
            "vision transformer such as ViT-B-16, and give its .visual."
        )
    reasons = {
        "it pools by attention (as CoCa does), not from its CLS token": visual.attn_pool is not None,
        f"its pool type is {visual.pool_type!r} and has to be 'tok'": visual.pool_type != "tok",
        "its projection is gone, so that it ends in no shared space": visual.proj is None,
        "its blocks want the sequence before the batch": not visual.transformer.batch_first,
    }
    for why, holds in reasons.items():
        if holds:
            raise ValueError(f"the walk cannot take this {kind}: {why}.")


def position_embedding(visual: VisionTransformer, grid: tuple[int, int], position: str = "bicubic") -> Tensor:
    """[1 + N, W], the tower's position embedding for a grid of (h, w) patches.

    - ``bicubic``: to the target size with antialiasing, which is how open_clip resizes a checkpoint: another
      resolution here and ``force_image_size`` there agree to the bit.
    - ``bicubic_offset``: SC-CLIP's release (from DINO): bicubic without antialiasing by the factors (h + 0.1) / g and
      (w + 0.1) / g, which move the sampling points. The release leaves the embedding alone whenever the number of
      patches happens to match; here the grid itself has to match.
    - ``cascade``: Cascade-CLIP's release: bilinear, and the class embedding is added to the CLS entry, so that it
      enters the tower twice. Its published numbers depend on that, on the native grid too.

    On the native grid the first two return the parameter itself.

    Raises:
        ValueError: ``position`` is none of the three.
    """
    if position not in POSITIONS:
        raise ValueError(f"position {position!r} is unknown: choose one of {', '.join(POSITIONS)}.")
    table = visual.positional_embedding
    if tuple(grid) == tuple(visual.grid_size) and position != "cascade":
        return table
    (h, w), (native_h, native_w) = grid, visual.grid_size
    cls = table[:1].float()  # half precision has no business in an interpolation
    patches = table[1:].float().reshape(1, native_h, native_w, -1).permute(0, 3, 1, 2)
    if position == "bicubic":
        patches = F.interpolate(patches, size=(h, w), mode="bicubic", antialias=True)
    elif position == "bicubic_offset":
        factors = ((h + 0.1) / native_h, (w + 0.1) / native_w)
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
    else:
        cls = cls + visual.class_embedding.float()
        patches = F.interpolate(patches, size=(h, w), mode="bilinear")
    return torch.cat([cls, patches.flatten(2).transpose(1, 2)[0]])


def embed(
    visual: VisionTransformer, images: Tensor, position: str = "bicubic", keep: Tensor | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """[B, 3, H, W] normalised pixels -> ([B, 1 + N, W] tokens behind ``ln_pre``, the grid (h, w)).

    The tower's own random patch dropout is never applied: a tap needs to know which patches it sees, see ``keep``.

    Raises:
        ValueError: not a batch of RGB images, or a side that is not a multiple of the patch.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have the shape {tuple(images.shape)}: the walk takes [B, 3, height, width].")
    for side, pixels, patch in zip(("height", "width"), images.shape[2:], visual.patch_size, strict=True):
        if pixels == 0 or pixels % patch:
            raise ValueError(
                f"the image {side} of {pixels} px is not a multiple of the patch side of {patch} px: resize it."
            )
    x = visual.conv1(images.to(visual.conv1.weight.dtype))
    batch, width, h, w = x.shape
    x = x.reshape(batch, width, h * w).permute(0, 2, 1)
    cls = visual.class_embedding.expand(batch, 1, -1).to(x.dtype)
    x = torch.cat([cls, x], dim=1) + position_embedding(visual, (h, w), position).to(x.dtype)
    if keep is not None:
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, keep[..., None].expand(-1, -1, width))], dim=1)
    return visual.ln_pre(x), (h, w)


def walk(
    visual: VisionTransformer,
    images: Tensor,
    *,
    layers: Sequence[int] = (),
    patches: bool = False,
    prompts: Prompts | None = None,
    position: str = "bicubic",
    keep: Tensor | None = None,
    until: int | None = None,
) -> Walk:
    """Embed -> blocks, with prompts put in where the schedule says -> taps -> final feature.

    Gradient flows and nothing is cast; whether to record it, and autocast, are the caller's to decide.

    Args:
        visual: an open_clip VisionTransformer.
        images: [B, 3, H, W], normalised as the tower's transform does; any multiples of the patch side.
        layers: which layers to tap, from 1 (0: the tokens that enter block 1, prompts left out).
        patches: tap the patch tokens too, not only CLS.
        prompts: the schedule; None for the plain tower.
        position: how the position embedding meets the grid, see ``position_embedding``.
        keep: [B, K] int64, the patches that go through the tower, the same number for each image; None for all of them.
            It is the patch dropout of FLIP (Li et al., CVPR 2023, section 3) with the choice left to the caller; patch
            taps then have K tokens in that order.
        until: the last layer to compute; ``final`` is then read off that layer. None: all of them.

    Raises:
        TypeError, ValueError: a tower, a geometry or a layer that cannot be; one sentence each.
    """
    check_tower(visual)
    blocks = visual.transformer.resblocks
    end = len(blocks) if until is None else until
    for layer, last in (*((layer, end) for layer in layers), (end, len(blocks))):
        if not 0 <= layer <= last:
            raise ValueError(f"layer {layer} does not exist: this walk has the layers 1 to {last} (0 is its input).")
    schedule = prompts.tokens if prompts else {}

    x, grid = embed(visual, images, position, keep)
    cls, patch_taps, held = {}, {}, 0  # held: prompt tokens now between CLS and the patches

    def tap(layer: int) -> None:
        if layer in layers:
            cls[layer] = x[:, 0].clone()  # a view would keep the whole block output alive
            if patches:
                patch_taps[layer] = x[:, 1 + held :]

    for index, block in enumerate(islice(blocks, end)):
        tap(index)
        if index in schedule:
            tokens = schedule[index].to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], tokens, x[:, 1 + held :]], dim=1)
            held = tokens.shape[1]
        if visual.transformer.grad_checkpointing and torch.is_grad_enabled():
            x = checkpoint(through, block, x, use_reentrant=False)
        else:
            x = through(block, x)
    tap(end)

    # The tower's own last step, so that its order of operations stays its own.
    final = visual._pool(x)[0] @ visual.proj if end == len(blocks) else project(visual, x[:, 0])
    return Walk(
        final=final,
        cls=torch.stack([cls[layer] for layer in layers], dim=1) if layers else x.new_empty(len(x), 0, x.shape[-1]),
        grid=grid,
        patch_taps=tuple(patch_taps[layer] for layer in layers) if patches else None,
    )


def project(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """[..., W] -> [..., D]: LN_post(tokens) @ P, the way any layer's token enters the shared space."""
    return visual.ln_post(tokens) @ visual.proj


def through(block: nn.Module, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """What a block makes of its tokens, in the form that is fastest for device, processor, precision and gradient.

    A block is called as it is, but for two cases. In both ``nn.MultiheadAttention`` would turn batch and tokens around
    before its input projection and multiply token by token:

    - A gradient is recorded (its products are near half of a training step on a CPU).
    - bfloat16 autocast on a CPU with amx_bf16, under which the module takes no fast path; frozen weights are cast
      once and kept (`_kept`).

    Written out, attention is torch's fused kernel, but for bfloat16 with a gradient on such a CPU: the kernel's
    backward pass makes no use of AMX, and softmax(q k^T / sqrt(d)) v takes half of the step. In float32 and on other
    devices nothing depends on the processor.

    Args:
        block: any block; only open_clip's plain ``ResidualAttentionBlock`` is ever written out.
        x: [B, T, W].
        attn_mask: [T, T], added to the scores, such as a text tower's causal one; None: all tokens see each other.

    Returns:
        [B, T, W].
    """
    attn = getattr(block, "attn", None)
    plain = (
        type(block) is ResidualAttentionBlock
        and type_before_parametrizations(attn) is nn.MultiheadAttention  # LoRA changes the class
        and not attn.dropout
    )
    learns = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in block.parameters()))
    half = plain and x.device.type == "cpu" and (_half(x) or (learns and attn.in_proj_weight.dtype == torch.bfloat16))
    amx = half and torch.cpu.get_capabilities().get("amx_bf16", False)
    if not (plain and (learns or amx)):
        return block(x) if attn_mask is None else block(x, attn_mask=attn_mask)
    q, k, v = _heads(block, x, "qkv")
    mask = None if attn_mask is None else attn_mask.to(q.dtype)
    if amx and learns:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        heads = (scores if mask is None else scores + mask).softmax(dim=-1) @ v
    else:
        heads = F.scaled_dot_product_attention(q, k, v, mask)
    x = x + _out(block, heads)
    return x + block.ls_2(_called(block.mlp, block.ln_2(x)))


def value_path(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """The last block's values, each token for itself: W_o (W_v LN_1(x) + b_v) + b_o, without attention or residual.

    MaskCLIP's dense features (Zhou, Loy, Dai, ECCV 2022, section 3.2) are ``project`` of this. Gradient flows.

    Args:
        visual: the tower; its blocks must be the plain ones (``nn.MultiheadAttention``).
        tokens: [B, 1 + N, W], what enters the last block.
    """
    block = visual.transformer.resblocks[-1]
    weight, bias = block.attn.in_proj_weight.chunk(3)[2], block.attn.in_proj_bias.chunk(3)[2]
    return block.ls_1(block.attn.out_proj(F.linear(block.ln_1(tokens), weight, bias)))


def last_block(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """[B, 1 + N, W] -> [B, 1 + N, W]: the last block as it is, with its attention, residuals and MLP."""
    return through(visual.transformer.resblocks[-1], tokens)


def last_heads(visual: VisionTransformer, tokens: Tensor, which: str = "qkv") -> tuple[Tensor, ...]:
    """Queries, keys and values of the last block's heads, or some of them; what is not asked for is not computed.

    Args:
        tokens: [B, T, W], in the block's input space: its ``ln_1`` is applied here.
        which: ``qkv`` or a part of it, such as ``kv`` or ``v``.

    Returns:
        [B, heads, T, W / heads] each, in that order.
    """
    return _heads(visual.transformer.resblocks[-1], tokens, which)


def last_out(visual: VisionTransformer, heads: Tensor) -> Tensor:
    """[B, heads, T, W / heads] -> [B, T, W]: what the last block makes of its heads, without residual and MLP."""
    return _out(visual.transformer.resblocks[-1], heads)


def last_mlp(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """[B, T, W] -> [B, T, W]: the second half of the last block, its MLP with the residual."""
    block = visual.transformer.resblocks[-1]
    return tokens + block.ls_2(_called(block.mlp, block.ln_2(tokens)))


def _heads(block: nn.Module, tokens: Tensor, which: str) -> tuple[Tensor, ...]:
    attn, width = block.attn, tokens.shape[-1]
    rows = slice("qkv".index(which) * width, ("qkv".index(which) + len(which)) * width)
    weight = _kept(attn.in_proj_weight) if _half(tokens) else attn.in_proj_weight
    parts = F.linear(block.ln_1(tokens), weight[rows], attn.in_proj_bias[rows])
    return tuple(part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts.chunk(len(which), dim=-1))


def _out(block: nn.Module, heads: Tensor) -> Tensor:
    return block.ls_1(_called(block.attn.out_proj, heads.transpose(1, 2).flatten(2)))


def _half(x: Tensor) -> bool:
    """Whether bfloat16 autocast is on, on a CPU."""
    cpu = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return cpu and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _called(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` to the bit; under autocast on a CPU without casting frozen weights each time."""
    if not _half(x):
        return layer(x)
    return functional_call(layer, {name: _kept(p) for name, p in layer.named_parameters()}, (x,))


def _kept(weight: Tensor) -> Tensor:
    """A frozen weight in bfloat16: cast once, freed with the weight, cast again where that has changed.

    A change in place shows in the weight's version, another storage in its address; a write behind autograd's back
    (through ``.data``, or by a fused optimiser) in neither, which is why every 997th number is compared as well. What
    learns, or has no version, comes back as it is, for autocast to cast.
    """
    if weight.requires_grad or weight.is_inference() or weight.dtype != torch.float32:
        return weight
    stamp, sample = (weight._version, weight.data_ptr()), weight.flatten()[::997].bfloat16()
    before, half = _COPIES.get(weight, (None, None))
    if before != stamp or not torch.equal(half.flatten()[::997], sample):
        with torch.inference_mode(False):  # or a later step could not record a gradient through it
            half = weight.detach().bfloat16()
        _COPIES[weight] = stamp, half
    return half
