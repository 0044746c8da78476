"""Our code and its peer in turn, A B A B, in one process: ``python benchmarks/run.py [NAME ...] [--device cuda]``.

Prints one JSON line per comparison, see `compare`. Times are medians, and the ratio is the median of the rounds'
ratios, so that a passing load on the machine weighs on both sides. On a GPU a clock is read only when it has nothing
left to do.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from scipy.stats import quantile_test
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn

from hc_lafter import commands
from hc_lafter.analysis.cka import CKA, hsic
from hc_lafter.analysis.lof import lof
from hc_lafter.clip.vit import walk
from hc_lafter.files import processor
from hc_lafter.systems.hybrid_cascade import HybridCascade
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.masks import mask_logits
from hc_lafter.systems.regimes import LabelFree, Supervised
from hc_lafter.systems.sc_clip import SCClip, SCClipConfig
from hc_lafter.tuning.runs import Run, get
from hc_lafter.tuning.setting import Setting
from hc_lafter.tuning.training import Rows, fit

CLASSES, EPOCHS = 8, 8
# How far the loss and each parameter group's gradient may be off, as shares of their lengths. Seen in float32: 1e-6; in
# bfloat16: 1e-3, and .02 for prompts and classifier, .2 for LayerNorm weights and .35 for their biases, whose gradients
# are long sums that nearly cancel.
FP32, BF16 = (1e-4,) * 5, (0.02, 0.05, 0.05, 0.4, 0.6)
ON_A_GPU = (1e-3,) * 5  # float32 there: another batch is another order of summation
HALF = (0.03, 0.1)  # features or the loss; all gradients in one, of a step of `precision` (seen: .01 and .03)
ANY = (math.inf,)  # looked at, and only nan is refused: one patch more or less among the outliers moves mask logits
DTYPES = {"float32": torch.float32, "bfloat16 autocast": torch.bfloat16}
SMALL_BATCH = 16  # images of its small tower, for each of ViT-B/32
SIDES, PATCHES = (224, 336), (196, 441)  # of images in pixels; of patches per image, those of ViT-B/16 on such images
NEIGHBOURS = 30  # SC-CLIP's
SWEEP = 6  # seeds of each of two systems
NAMES = 21  # class names, as many as VOC has classes with background


class Comparison(NamedTuple):
    """Functions that do the same work.

    Attributes:
        ours: our forms of it by name, each of which gives a line; ``""`` where there is one.
        peer: what the other side is.
        theirs: the other side; its time in a round serves all of our forms.
        limits: form -> how far each tensor that it returns may be from theirs (``same``). Looked at once, in the round
            before the timed ones; a form that is not named is not looked at.
        calls: how many calls of theirs one call of ours stands for: its time is divided by that.
    """

    ours: Mapping[str, Callable[[], object]]
    peer: str
    theirs: Callable[[], object]
    limits: Mapping[str, Sequence[float]] = {}
    calls: int = 1


def plain_walk(batch: int, device: torch.device) -> Iterator[Comparison]:
    """The walk through a ViT-B/16 at 224 px, and what tapping all of its layers adds, against encode_image."""
    model = _vit_b_16(SIDES[0]).to(device)
    images = torch.randn(batch, 3, *model.visual.image_size, device=device)
    for name, dtype in DTYPES.items():

        def encoded(dtype: torch.dtype = dtype) -> list[Tensor]:
            with _autocast(device, dtype):
                return [model.encode_image(images).float()]

        def walked(layers: Sequence[int], dtype: torch.dtype = dtype) -> list[Tensor]:
            with _autocast(device, dtype):
                return [walk(model.visual, images, layers=layers).final.float()]

        ours = {"no taps": partial(walked, ()), "CLS of all 12 layers": partial(walked, range(1, 13))}
        limits = dict.fromkeys(ours, _float32(device)[:1] if dtype == torch.float32 else HALF[:1])
        yield Comparison(ours, f"open_clip encode_image, {name}, batch {batch}", encoded, limits)


def tapping(batch: int, device: torch.device) -> Iterator[Comparison]:
    """CLS taps of layers 5-12 of a ViT-B/32 at 224 px, against the plain forward pass and against hooks."""
    model = _vit_b_32().to(device)
    images = torch.randn(batch, 3, *model.visual.image_size, device=device)
    blocks, layers = model.visual.transformer.resblocks, range(5, 13)

    def ours() -> object:
        return walk(model.visual, images, layers=layers)

    def hooks() -> object:
        outputs: list[Tensor] = []
        handles = [blocks[i - 1].register_forward_hook(lambda _, __, out: outputs.append(out[:, 0])) for i in layers]
        final = model.encode_image(images)
        for handle in handles:
            handle.remove()
        return final, torch.stack(outputs, dim=1)

    yield Comparison({"": ours}, "open_clip encode_image", lambda: model.encode_image(images))
    yield Comparison({"": ours}, "forward hooks", hooks)
    yield Comparison(
        {"": lambda: walk(model.visual, images, layers=layers, patches=True)},
        "open_clip forward_intermediates, CLS and patches",
        lambda: model.visual.forward_intermediates(
            images, indices=[i - 1 for i in layers], output_fmt="NLC", output_extra_tokens=True
        ),
    )


def precision(batch: int, device: torch.device) -> Iterator[Comparison]:
    """What ``auto`` goes by: bfloat16 against float32, without gradient and in a training step of a small tower."""
    visual = _vit_b_32().visual.to(device)
    images = torch.randn(batch, 3, *visual.image_size, device=device)

    @torch.inference_mode()
    def features(dtype: torch.dtype) -> list[Tensor]:
        with _autocast(device, dtype):
            return [walk(visual, images, layers=range(5, 13)).final.float()]

    yield _halved(features, "float32, ViT-B/32 without gradient", HALF[:1])
    torch.manual_seed(0)
    small = VisionTransformer((32, 64), 8, 128, 12, 2, 4.0, output_dim=128)  # 33 tokens, as the embedded CLIP is wide
    small.to(device)
    pictures = torch.randn(SMALL_BATCH * batch, 3, *small.image_size, device=device)

    def step(dtype: torch.dtype) -> list[Tensor]:
        small.zero_grad()
        with _autocast(device, dtype):
            final = walk(small, pictures).final
        loss = F.cross_entropy(final.float(), torch.arange(len(final), device=device) % final.shape[1])
        loss.backward()
        return [loss.detach(), *_gradients([list(small.parameters())])]

    yield _halved(step, f"float32, a training step of width 128 and 33 tokens, batch {len(pictures)}", HALF)


def _halved(work: Callable[[torch.dtype], list[Tensor]], peer: str, limits: Sequence[float]) -> Comparison:
    ours, theirs = partial(work, torch.bfloat16), partial(work, torch.float32)
    return Comparison({"bfloat16 autocast": ours}, peer, theirs, {"bfloat16 autocast": limits})


def lafter_step(batch: int, device: torch.device) -> Iterator[Comparison]:
    """One LaFTer step (50 prompts, ViT-B/32 at 224 px) in four forms, against the released way in float32.

    The cached forms have the frozen teacher, whose labels for a fixed view are computed once and outside the time;
    what they learn is the release's first step and parts from it afterwards, as the release's teacher moves.
    """
    visual = _vit_b_32().visual.to(device)
    student, prototypes = _pictures(visual, batch), _pictures(visual, CLASSES)
    # Each class is the feature of an image, and the teacher sees images near those: every label occurs, and none hangs
    # on a rounding. Short rows, since this tower's features are long and a saturated softmax magnifies roundings.
    teacher = prototypes[torch.arange(batch) % CLASSES] + 0.1 * torch.randn_like(student)
    with torch.no_grad():
        classifier = 0.1 * F.normalize(walk(visual, prototypes).final, dim=-1)
    ours = {}
    for cached in (False, True):
        for kind, dtype in DTYPES.items():
            system = LaFTer(visual, classifier, LaFTerConfig()).to(device)
            views = {"student": student, **({"pseudo": system.teach(teacher)} if cached else {"teacher": teacher})}
            regime = LabelFree(teach=None if cached else system.teach)
            form = f"{kind}, {'labels of a frozen teacher computed once' if cached else 'moving teacher'}"
            ours[form] = _step(system, regime, views, dtype)
    theirs = _released_step(visual, system.prompts, classifier, classifier, student, teacher)
    limits = {form: BF16 if form.startswith("bf") else _float32(device) for form in ours}
    yield Comparison(ours, f"LaFTer's released step, float32, batch {batch}", theirs, limits)


def _step(
    system: LaFTer, regime: LabelFree, views: Mapping[str, Tensor], dtype: torch.dtype
) -> Callable[[], list[Tensor]]:
    """A step as `fit` takes it, by the system's parameter groups."""
    groups = [group["params"] for group in system.parameter_groups()]
    for parameter in itertools.chain(*groups):
        parameter.requires_grad_(True)
    optimiser, device = torch.optim.AdamW(system.parameter_groups()), system.prompts.device

    def step() -> list[Tensor]:
        optimiser.zero_grad()
        with _autocast(device, dtype):
            loss = regime(system, views)["task"]
        loss.backward()
        optimiser.step()
        return [loss.detach(), *_gradients(groups)]

    return step


def _released_step(
    visual: nn.Module, prompts: Tensor, adapter: Tensor, teacher_adapter: Tensor, student: Tensor, teacher: Tensor
) -> Callable[[], list[Tensor]]:
    """The arithmetic of LaFTer's released step, written plainly around open_clip's blocks.

    Assumed, each in the release's favour: gradients are asked for by what it trains and by nothing else (it marks its
    parameters; the text tower's LayerNorms, marked too, are in no graph and cost nothing: left out here); the teacher
    records no graph; tokens are kept sequence before batch, as in OpenAI's CLIP, on which the release builds: with
    frozen weights torch multiplies them faster than open_clip's batch before sequence.
    """
    tower = copy.deepcopy(visual)
    for block in tower.transformer.resblocks:
        block.attn.batch_first = False
    norms = [module for module in tower.modules() if isinstance(module, nn.LayerNorm)]
    prompts, adapter = (nn.Parameter(start.detach().clone()) for start in (prompts, adapter))
    weights, biases = [norm.weight for norm in norms], [norm.bias for norm in norms]
    for parameter in weights + biases:
        parameter.requires_grad_(True)
    decayed = {"params": [prompts, adapter, *weights], "weight_decay": 0.01}
    optimiser = torch.optim.AdamW([decayed, {"params": biases, "weight_decay": 0.0}], lr=5e-4)

    def encode(images: Tensor, tokens: Tensor | None = None) -> Tensor:
        x = tower.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = tower.ln_pre(x + tower.positional_embedding)
        if tokens is not None:
            x = torch.cat([x[:, :1], tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        x = x.transpose(0, 1)
        for block in tower.transformer.resblocks:
            x = block(x)
        return tower.ln_post(x[0]) @ tower.proj

    def step() -> list[Tensor]:
        with torch.no_grad():
            labels = (F.normalize(encode(teacher), dim=-1) @ teacher_adapter.T).argmax(dim=1)
        log_p = (encode(student, prompts) @ adapter.T).log_softmax(dim=1)
        loss = -0.9 * log_p.gather(1, labels[:, None]).mean() - 0.1 * log_p.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return [loss.detach(), *_gradients([[prompts], [adapter], weights, biases])]

    return step


def hybrid_head(batch: int, device: torch.device) -> Iterator[Comparison]:
    """HybridCascade's head for an epoch of 4 batches of images, from cached taps, against encoding them each epoch."""
    visual = _vit_b_32().visual.to(device)
    images, classifier = _pictures(visual, 4 * batch), F.normalize(torch.randn(CLASSES, visual.output_dim), dim=-1)
    system, regime = HybridCascade(visual, classifier.to(device)).to(device), Supervised()
    with torch.no_grad():  # a gradient for the adapters' first matrices, too, which have none at the start
        for adapter in system.adapters:
            adapter.last.normal_(std=0.02)
    rows = {"label": torch.randint(CLASSES, (len(images),))}
    rows["distribution"] = torch.rand(len(images), CLASSES).softmax(dim=1)

    @torch.no_grad()
    def tap() -> Tensor:
        return torch.cat([system.taps(part) for part in images.split(batch)])

    def training(epochs: int, given: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
        """Each call trains on from where the one before ended; it returns the losses of its first epoch's steps."""
        head = copy.deepcopy(system)
        phase = replace(head.schedule()[-1], epochs=epochs)

        def run() -> list[Tensor]:
            data = Rows(student=given().cpu(), **rows)  # where a data set has its examples
            history = fit(head, data, regime, [phase], batch_size=batch, seed=0, device=device, progress=False)
            return [torch.tensor([row["loss"] for row in history.steps if row["epoch"] == 1])]

        return run

    def first_batch(student: Tensor) -> list[Tensor]:
        head = copy.deepcopy(system)
        given = {"student": student, **rows}
        loss = regime(head, {name: values[:batch].to(device) for name, values in given.items()})["task"]
        loss.backward()
        return [loss.detach(), *_gradients([group["params"] for group in head.parameter_groups()])]

    taps = tap()
    same("hybrid_head, the first batch", first_batch(taps), first_batch(images), _float32(device))
    peer = f"the same epoch, {len(images)} images encoded again"
    limits = {"taps computed before": _float32(device)[:1]}
    yield Comparison({"taps computed before": training(1, lambda: taps)}, peer, training(1, lambda: images), limits)
    amortised = f"per epoch of {EPOCHS}, taps computed in the first"
    limits = {amortised: _float32(device)[:1]}
    yield Comparison({amortised: training(EPOCHS, tap)}, peer, training(1, lambda: images), limits, calls=EPOCHS)


def sc_clip(batch: int, device: torch.device) -> Iterator[Comparison]:
    """SC-CLIP from images to mask logits, ViT-B/16 at 224 and at 336 px, against the released way and encode_image.

    Both sides in the same precision.
    """
    for side, (name, dtype) in itertools.product(SIDES, DTYPES.items()):
        model = _vit_b_16(side).to(device)
        images = _pictures(model.visual, batch)
        texts = F.normalize(torch.randn(NAMES, model.visual.output_dim), dim=-1).to(device)
        system = SCClip(model.visual, texts, SCClipConfig(k=NEIGHBOURS))

        def autocast(work: Callable[[], object], dtype: torch.dtype = dtype) -> object:
            with _autocast(device, dtype):
                return work()

        ours = {name: partial(autocast, lambda system=system, images=images: [system(images).logits])}
        released = partial(autocast, _released_segmentation(model.visual, texts, system.config, images))
        limits = {name: _float32(device)[:1] if dtype == torch.float32 else ANY}
        yield Comparison(ours, f"SC-CLIP's released way, image by image, {side} px", released, limits)
        encode = partial(autocast, partial(model.encode_image, images))
        yield Comparison(ours, f"open_clip encode_image, {side} px", encode)


def _released_segmentation(
    visual: nn.Module, texts: Tensor, c: SCClipConfig, images: Tensor
) -> Callable[[], list[Tensor]]:
    """The arithmetic of SC-CLIP's release, written plainly: one image at a time, every difference of two patches held
    in memory, neighbours summed by a convolution over all patches, queries computed though nothing reads them, one
    matrix of weights per head. Its blocks are open_clip's and its layers list positions, as there. On square images.
    """
    *blocks, last = visual.transformer.resblocks
    heads = last.attn.num_heads

    def cosines(patches: Tensor) -> Tensor:
        unit = patches / patches.norm(dim=1, keepdim=True)
        return unit @ unit.T

    def mended(patches: Tensor, bad: Tensor, h: int, w: int) -> Tensor:
        ring = torch.ones(patches.shape[1], 1, 3, 3, device=patches.device)
        ring[:, :, 1, 1] = 0
        sound = (~bad).float().reshape(1, 1, h, w)
        image = patches.T.reshape(1, -1, h, w)
        count = F.conv2d(sound, ring[:1], padding=1)
        mean = F.conv2d(image * sound, ring, padding=1, groups=image.shape[1]) / count.clamp_min(1)
        return torch.where((sound == 0) & (count > 0), mean, image)[0].flatten(1).T

    def gathered(simi: Tensor, patches: Tensor) -> Tensor:
        kept = torch.where(simi < c.beta, 0.0, simi)
        return (kept / (kept.sum(dim=1, keepdim=True) + 1e-6)) @ patches

    def attended(patches: Tensor, simi: Tensor) -> Tensor:
        projected = F.linear(last.ln_1(patches), last.attn.in_proj_weight, last.attn.in_proj_bias)
        _, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in projected.chunk(3, dim=1))
        alike = 3.0 * (simi - simi.mean())
        weights = alike.masked_fill(alike < 0, -torch.inf).expand(heads, -1, -1).softmax(dim=2)
        weights = (weights + (k @ k.mT / k.shape[2] ** 0.5).softmax(dim=2)) / 2
        return last.attn.out_proj((weights @ v).transpose(0, 1).flatten(1))

    def one(image: Tensor) -> Tensor:
        x = visual.conv1(image[None])
        h, w = x.shape[2:]
        x = torch.cat([visual.class_embedding.expand(1, 1, -1).to(x.dtype), x.flatten(2).mT], dim=1)
        x, outs = visual.ln_pre(x + visual.positional_embedding.to(x.dtype)), []
        for block in blocks:
            x = block(x)
            outs.append(x[0])
        bad = _released_outliers(x[0, 1:], c)
        simi = cosines(mended(outs[c.pre - 1][1:], bad, h, w))
        alike = cosines(outs[c.post - 1][1:])
        x = gathered(simi, mended(x[0, 1:], bad, h, w))
        x = gathered(alike, attended(x, simi) + c.cls_residual * outs[-1][0])
        fused = sum(outs[c.fusion[0] - 1 : c.fusion[1]])
        x = x + gathered(alike, attended(fused[1:], simi) + c.cls_residual * fused[0])
        features = (visual.ln_post(x) @ visual.proj)[None]
        return mask_logits(features, texts, (h, w), image.shape[1:], scale=c.logit_scale)

    return lambda: [torch.cat([one(image) for image in images])]


def _released_outliers(patches: Tensor, c: SCClipConfig) -> Tensor:
    scores = _released_scores(patches, c.k)
    return scores > torch.quantile(scores, 1 - c.contamination)


def _released_scores(patches: Tensor, k: int) -> Tensor:
    """[N] of one image [N, W], from all differences [N, N, W]."""
    squared = (patches[:, None] - patches).norm(dim=2).square()
    nearest, index = squared.topk(k + 1, largest=False)
    density = 1 / nearest[:, -1]  # the release's reachability is a patch's own k-distance
    return (density[index[:, 1:]] / density[:, None]).mean(dim=1)


def outlier_scores(batch: int, device: torch.device) -> Iterator[Comparison]:
    """Local outlier factors of patches of 768 channels: released against the release's loop, exact against sklearn."""
    for count in PATCHES:
        patches = torch.randn(batch, count, 768, device=device)

        def loop(patches: Tensor = patches) -> list[Tensor]:
            return [torch.stack([_released_scores(image, NEIGHBOURS) for image in patches])]

        def peer(patches: Tensor = patches) -> list[Tensor]:
            fitted = (LocalOutlierFactor(n_neighbors=NEIGHBOURS).fit(image) for image in patches.cpu().numpy())
            return [torch.from_numpy(-np.stack([lof.negative_outlier_factor_ for lof in fitted]))]

        for method, name, theirs in (("released", "released loop over images", loop), ("exact", "scikit-learn", peer)):
            ours = {method: lambda patches=patches, method=method: [lof(patches, NEIGHBOURS, method)]}
            limits = {method: _float32(device)[:1]}
            yield Comparison(ours, f"{name}, {batch} images of {count} patches", theirs, limits)


def alignment(batch: int, device: torch.device) -> Iterator[Comparison]:
    """CKA of all tokens, 12 layers with 12 of ViT-B/32, against torch_cka's double loop: stored, and from images on.

    Stored tokens come in one batch and in batches of an eighth; of the first the full-batch value is known, and ours
    has to be as near to it as theirs. From images on, two towers are tapped, or hooked, on an eighth of them.
    """
    towers, small = [_vit_b_32().to(device), _vit_b_32().to(device)], max(4, batch // 8)
    with torch.no_grad():
        for parameter in towers[1].visual.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    images = _pictures(towers[0].visual, batch)
    parts = [_all_tokens(towers[0].visual, part) for part in images.split(32)]
    stored = [torch.cat(layer) for layer in zip(*parts, strict=True)]
    del parts

    def ours(size: int) -> list[Tensor]:
        return _streamed_cka((part, None) for part in zip(*(layer.split(size) for layer in stored), strict=True))

    def theirs(size: int) -> list[Tensor]:
        return _torch_cka((part, part) for part in zip(*(layer.split(size) for layer in stored), strict=True))

    _as_exact(stored, ours(batch)[0], theirs(batch)[0])
    for size in (batch, small):
        peer = f"torch_cka, stored tokens of {batch} images in batches of {size}"
        yield Comparison({"": partial(ours, size)}, peer, partial(theirs, size), {"": (1e-3,)})
    few = images[:small].split(max(4, small // 2))

    def tapped() -> list[Tensor]:
        return _streamed_cka([_all_tokens(tower.visual, part) for tower in towers] for part in few)

    def hooked() -> list[Tensor]:
        return _torch_cka([_hooked_tokens(tower, part) for tower in towers] for part in few)

    yield Comparison({"": tapped}, f"torch_cka, two towers on {small} images", hooked, {"": (1e-3,)})


def _all_tokens(visual: nn.Module, images: Tensor) -> list[Tensor]:
    """12 layers [n, (1 + N) * W]."""
    walked = walk(visual, images, layers=range(1, 13), patches=True)
    return [
        torch.cat([cls[:, None], patches], dim=1).flatten(1)
        for cls, patches in zip(walked.cls.unbind(1), walked.patch_taps, strict=True)
    ]


def _hooked_tokens(model: open_clip.CLIP, images: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []
    blocks = model.visual.transformer.resblocks
    handles = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in blocks]
    model.encode_image(images)
    for handle in handles:
        handle.remove()
    return outputs


def _streamed_cka(batches: Iterable[tuple[Sequence[Tensor], Sequence[Tensor] | None]]) -> list[Tensor]:
    stream = CKA()
    for x, y in batches:
        stream.update(x, y)
    return [torch.from_numpy(stream.compute().value)]


def _torch_cka(batches: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> list[Tensor]:
    """The arithmetic of torch_cka's comparison, written plainly: Gram matrices anew for every pair of layers, and each
    HSIC by a product of the two."""

    def hsic_1(k: Tensor, m: Tensor) -> float:
        n, ones = len(k), torch.ones(len(k), 1, device=k.device)
        found = torch.trace(k @ m)
        found += ((ones.T @ k @ ones @ ones.T @ m @ ones) / ((n - 1) * (n - 2))).item()
        found -= ((ones.T @ k @ m @ ones) * 2 / (n - 2)).item()
        return (found / (n * (n - 3))).item()

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        return (flat @ flat.T).fill_diagonal_(0.0)

    sums = torch.zeros(12, 12, 3)
    for xs, ys in batches:
        for i, x in enumerate(xs):
            k = gram(x)
            sums[i, :, 0] += hsic_1(k, k)
            for j, y in enumerate(ys):
                m = gram(y)
                sums[i, j, 1] += hsic_1(k, m)
                sums[i, j, 2] += hsic_1(m, m)
    return [sums[..., 1] / (sums[..., 0].sqrt() * sums[..., 2].sqrt())]


def _as_exact(features: Sequence[Tensor], ours: Tensor, theirs: Tensor) -> None:
    """Refuse to time an alignment that is farther from the full-batch value than the peer's (and than 1e-6).

    Raises:
        ValueError: it is.
    """
    grams = [(x @ x.T).cpu() for x in (layer.double() - layer.double().mean(dim=0) for layer in features)]
    cross = torch.tensor([[hsic(k, m) for m in grams] for k in grams])
    exact = cross / (cross.diagonal()[:, None] * cross.diagonal()).sqrt()
    mine, other = (float((found - exact).abs().max()) for found in (ours, theirs))
    if not mine <= max(other, 1e-6):
        raise ValueError(f"cka: ours is {mine:.2g} away from the full-batch value, and the peer's {other:.2g}.")


def sweep(batch: int, device: torch.device) -> Iterator[Comparison]:
    """Runs of the embedded CLIP with ``batch`` training images each, from an empty store: by Dask's own workers, whose
    start counts, and in this process."""
    sizes = {"n_train": 2 * batch, "n_val": batch, "n_test": batch, "text_steps": 20, "text_noise": (0.0,)}
    setting = Setting(**sizes, seeds=tuple(range(SWEEP)), device=str(device))
    lafter = Run("LaFTer", "label-free", 0, setting, LaFTerConfig(tokens=4), n_train=batch, n_val=batch, epochs=5,
                 batch_size=16, view="strong")  # fmt: skip
    hybrid = replace(lafter, system="HybridCascade-LaFTer", regime="supervised", config=None, view="plain")
    runs = [replace(run, seed=seed) for run in (lafter, hybrid) for seed in setting.seeds]

    def computed(scheduler: str) -> list[Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            here = replace(setting, cache=Path(folder))
            found = get([replace(run, setting=here) for run in runs], scheduler=scheduler, progress=False)
        return [torch.from_numpy(np.stack([result.test for result in found]))]

    peer = f"{len(runs)} runs in one process (ours: one per core, of which there are {os.cpu_count()})"
    yield Comparison({"": partial(computed, "local")}, peer, partial(computed, "none"), {"": (0.0,)})


def _gradients(groups: Iterable[Sequence[nn.Parameter]]) -> list[Tensor]:
    """One vector per group."""
    return [torch.cat([parameter.grad.flatten() for parameter in group]) for group in groups]


class Benchmark(NamedTuple):
    """``comparisons`` takes images per call and a device; the rest are defaults; ``trains``: gradients are wanted."""

    comparisons: Callable[[int, torch.device], Iterator[Comparison]]
    batch: int = 16
    rounds: int = 15
    trains: bool = False


BENCHMARKS = {
    "walk": Benchmark(plain_walk, batch=64, rounds=5),
    "tapping": Benchmark(tapping),
    "precision": Benchmark(precision, trains=True),
    "lafter_step": Benchmark(lafter_step, batch=50, rounds=2, trains=True),
    "hybrid_head": Benchmark(hybrid_head, batch=50, rounds=3, trains=True),
    "sc_clip": Benchmark(sc_clip, batch=8, rounds=5),
    "lof": Benchmark(outlier_scores, batch=32, rounds=5),
    "cka": Benchmark(alignment, batch=512, rounds=3),
    "sweep": Benchmark(sweep, batch=160, rounds=1, trains=True),
}


def _vit_b_32() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).eval().requires_grad_(False)


def _vit_b_16(side: int) -> open_clip.CLIP:
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-16")
    config["vision_cfg"]["image_size"] = side
    return open_clip.CLIP(**config).eval().requires_grad_(False)


def _pictures(visual: nn.Module, count: int) -> Tensor:
    """[count, 3, H, W], noise around a colour: a random tower tells colours apart, and pure noise hardly."""
    device = visual.proj.device
    return torch.randn(count, 3, 1, 1, device=device) + 0.5 * torch.randn(count, 3, *visual.image_size, device=device)


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _float32(device: torch.device) -> tuple[float, ...]:
    """How far float32 may be off there: loss or output, and four groups of gradients."""
    return FP32 if device.type == "cpu" else ON_A_GPU


def same(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], limits: Sequence[float]) -> None:
    """Refuse to time two sides that do not come to the same.

    Raises:
        ValueError: a tensor whose distance to theirs is over its limit, a share of the length of theirs.
    """
    for index, (mine, other, limit) in enumerate(zip(ours, theirs, limits, strict=True)):
        distance = float((mine.to(other.device) - other).norm() / other.norm().clamp_min(torch.finfo(other.dtype).tiny))
        if not distance <= limit:
            raise ValueError(
                f"{what}: output {index} is {distance:.2g} of its length away from the peer's, and {limit:g} is "
                f"allowed: the two do not do the same work."
            )


def _seconds(function: Callable[[], object]) -> float:
    """Wall time. A GPU works on while Python goes ahead, so it is waited for before and after."""
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def compare(
    name: str, comparison: Comparison, rounds: int, device: torch.device, *, refuse: bool = True
) -> Iterator[dict[str, object]]:
    """A line per form. One round is every side once, to and fro; the round before them warms up and is checked.

    Args:
        refuse: do not time sides that do not come to the same (`same`); False: time them, and say so in the line.

    Yields:
        ``benchmark``; ``device``, ``card`` (on a CPU its name); ``ours_s``, ``peer``, ``peer_s``, ``ratio``; ``low``
        and ``high`` of the ratio, the median's 95% interval by the sign test, which fewer than six rounds do not have;
        ``rounds``, ``threads``; ``difference``, the largest between two numbers of the outputs, where those are looked
        at; ``apart`` only where they do not agree: the sentence that would have refused them.
    """
    sides = [*comparison.ours.values(), comparison.theirs]
    *first, expected = [side() for side in sides]
    apart: dict[str, str] = {}
    differences: dict[str, float] = {}
    for form, found in zip(comparison.ours, first, strict=True):
        if form in comparison.limits:
            try:
                same(f"{name}, {form}", found, expected, comparison.limits[form])
            except ValueError as error:
                if refuse:
                    raise
                apart[form] = str(error)
            pairs = zip(found, expected, strict=True)
            differences[form] = max(float((mine.to(other.device) - other).abs().max()) for mine, other in pairs)
    del first, expected
    times: list[list[float]] = [[] for _ in sides]
    for index in range(rounds):
        for which in range(len(sides))[:: 1 if index % 2 == 0 else -1]:
            times[which].append(_seconds(sides[which]))
    for form, mine in zip(comparison.ours, times[:-1], strict=True):
        mine = [seconds / comparison.calls for seconds in mine]
        ratios = [a / b for a, b in zip(mine, times[-1], strict=True)]
        interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
        none = math.isnan(interval.low + interval.high)
        yield {
            "benchmark": name,
            "device": str(device),
            "card": card(device),
            "ours_s": round(statistics.median(mine), 5),
            "peer": f"{comparison.peer} (ours: {form})" if form else comparison.peer,
            "peer_s": round(statistics.median(times[-1]), 5),
            "ratio": round(statistics.median(ratios), 4),
            "low": None if none else round(interval.low, 4),
            "high": None if none else round(interval.high, 4),
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "difference": differences.get(form),
            **({"apart": apart[form]} if form in apart else {}),
        }


def card(device: torch.device) -> str:
    """The name of what computes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def lines(
    name: str, device: torch.device, *, batch: int | None = None, rounds: int | None = None, refuse: bool = True
) -> Iterator[dict[str, object]]:
    """Those of one benchmark, by its own number of images and rounds where none is given.

    Raises:
        ValueError: two sides do not do the same work.
    """
    benchmark = BENCHMARKS[name]
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions as in torch's matrix products
    with torch.inference_mode(not benchmark.trains):
        for comparison in benchmark.comparisons(batch or benchmark.batch, device):
            yield from compare(name, comparison, rounds or benchmark.rounds, device, refuse=refuse)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    rounds, batches = ({n: getattr(b, field) for n, b in BENCHMARKS.items()} for field in ("rounds", "batch"))
    parser.add_argument("--rounds", type=int, help=f"rounds per comparison; by default {_listed(rounds)}")
    parser.add_argument("--batch", type=int, help=f"images per call, or per step; by default {_listed(batches)}")
    parser.add_argument("--device", default="cpu", help="where both sides compute, cpu by default: cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}.")
    for option in ("rounds", "batch", "threads"):
        given = getattr(arguments, option)
        if given is not None and given < 1:
            parser.error(f"--{option} is {given} and has to be 1 at least.")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        device = commands.find_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    for name in arguments.names or BENCHMARKS:
        for line in lines(name, device, batch=arguments.batch, rounds=arguments.rounds):
            print(json.dumps(line), flush=True)


def _listed(defaults: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in defaults.items())


if __name__ == "__main__":
    main()
