"""SC-CLIP (Bai et al., "Self-calibrated CLIP for training-free open-vocabulary segmentation", TIP 2025). No training.

After the paper and the released behaviour (commit 0417ba9); tests compare it with tensors of the released code. Five
steps, each of which can be switched off alone:

1. ``repair``: anomalous patches behind the last block but one, found by their local outlier factor, become the mean of
   their sound neighbours;
2. ``aggregate``: each patch becomes a mean over the patches that are alike in a middle layer;
3. ``attention``: the last block attends by keys and by that likeness, without residual and MLP, plus some CLS;
4. ``aggregate_again``: as 2, by the likeness in an early layer;
5. ``fuse``: the sum of the early and middle layers goes through steps 3 and 4 as well and is added.

With all five off, CLIP's own dense output remains: the patches behind its last block, projected. (Without step 3 alone
the whole last block runs on the result of steps 1 and 2, CLS included.) Unlike the release, which takes one image at a
time, this takes batches; and an outlier's place is (index // w, index % w) of a grid (h, w), where the release divides
by h and is wrong on every grid that is not square.

B images, C classes, K class names, N = h x w patches, W tower width, D embedding size. Layers count from 1: position i
in the release's list of block outputs is layer i + 1 here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter.analysis.lof import lof, outliers
from hc_lafter.clip.vit import last_block, last_heads, last_out, project, walk
from hc_lafter.systems.base import Group, Masks, System, choose, frozen
from hc_lafter.systems.depth import BLOCKS, check_fewest, share
from hc_lafter.systems.last_block import Taps
from hc_lafter.systems.masks import PROTOCOLS, mask_logits

STEPS = ("repair", "aggregate", "attention", "aggregate_again", "fuse")
SCORES = ("kk", "qk")
_HIDDEN_BYTES = 24 << 20  # of a block's hidden layer; glibc keeps blocks of up to 32 MiB for the next use


@dataclass(frozen=True)
class SCClipConfig:
    """The release's settings, which were made for ViT-B/16; see `preset` for other towers.

    Attributes:
        repair, aggregate, attention, aggregate_again, fuse: the five steps.
        pre: layer of the likeness of steps 2 and 3 (the release's list position 8), repaired where the last one is.
        post: layer of the likeness of step 4 (position 3), never repaired.
        fusion: first and last layer of step 5's sum, both included (positions 3 to 9).
        lof: ``released`` or ``exact``, see `hc_lafter.analysis.lof.lof`.
        k: its neighbours, a number or a share of the patches.
        contamination: the share of patches that count as anomalous.
        beta: cosines below it are not links in steps 2 and 4.
        scores: ``kk``, keys with keys, as released; ``qk``, queries with keys.
        likeness: take half of step 3's weights from the likeness; False leaves it out.
        sharpness: factor on likeness - its mean over the image, before the softmax.
        cls_residual: share of CLS that step 3 adds to every patch.
        logit_scale: factor on the cosine with a class.
        position: see `hc_lafter.clip.vit.position_embedding`.
    """

    repair: bool = True
    aggregate: bool = True
    attention: bool = True
    aggregate_again: bool = True
    fuse: bool = True
    pre: int = 9
    post: int = 4
    fusion: tuple[int, int] = (4, 10)
    lof: str = "released"
    k: int | float = 30
    contamination: float = 0.05
    beta: float = 0.4
    scores: str = "kk"
    likeness: bool = True
    sharpness: float = 3.0
    cls_residual: float = 0.3
    logit_scale: float = 40.0
    position: str = "bicubic_offset"


# ViT-L/14: the first author's answer to a user who could not reach the paper's number; it is in no release, and its
# positions 8 to 18 (the end is excluded there) are layers 9 to 19. ViT-B/32: the release's layers, and its 30 of 196
# as a share of the 49, since no settings for it are published. embedded: notebook 07's choice on validation images.
PRESETS: dict[str, SCClipConfig] = {
    "ViT-B-16": SCClipConfig(),
    "ViT-L-14": SCClipConfig(pre=17, post=7, fusion=(9, 19), cls_residual=0.1),
    "ViT-B-32": SCClipConfig(k=0.15),
    "embedded": SCClipConfig(
        repair=False,
        pre=11,
        post=11,
        k=0.05,
        contamination=0.0,
        beta=0.9,
        sharpness=100.0,
        cls_residual=0.0,
    ),
}


def preset(tower: str, data: str = "", depth: int | None = None) -> SCClipConfig:
    """The settings for a tower, ``ViT-B-16/laion2b_s34b_b88k`` say, with the release's logit scale for a data set.

    Args:
        depth: the tower's blocks. A tower that has no preset, or a preset's name and another depth, gets the settings
            that `released` has for so many.

    Raises:
        ValueError: there is no preset for such a tower, and its depth is not given.
    """
    named = [config for name, config in PRESETS.items() if tower.startswith(name) and depth in (None, _blocks(name))]
    if not named and depth is None:
        raise ValueError(
            f"SC-CLIP has no preset for the tower {tower!r}, only for {', '.join(PRESETS)}: give its depth, or an "
            f"SCClipConfig with layers of its own."
        )
    config = named[0] if named else released(depth)
    return replace(config, logit_scale=PROTOCOLS[data].scale) if data in PROTOCOLS else config


def released(layers: int) -> SCClipConfig:
    """The published settings for a tower of so many layers, whatever it is, k as a share of its patches.

    They are ViT-B/16's, from 24 layers on ViT-L/14's, whose layers stand for their share of the depth (see
    `hc_lafter.systems.depth`); none is the last one, at which the method has nothing to read.

    Raises:
        ValueError: fewer layers than `hc_lafter.systems.depth.FEWEST`.
    """
    check_fewest("this tower", layers)
    name = "ViT-L-14" if layers >= _blocks("ViT-L-14") else "ViT-B-16"
    config = PRESETS[name]
    pre, post, first, end = (
        min(share(layer, layers, _blocks(name)), layers - 1) for layer in (config.pre, config.post, *config.fusion)
    )
    return replace(config, pre=pre, post=post, fusion=(first, end), k=30 / 196)


def _blocks(name: str) -> int:
    """Of the tower that a preset is for."""
    return 24 if name == "ViT-L-14" else BLOCKS


@dataclass(frozen=True)
class Segmented(Masks):
    """Mask logits [B, C, H, W], ``logit_scale`` times cosine, and their intermediates.

    Attributes:
        features: [B, N, D], patches in the shared space, not normalised.
        grid: (h, w).
        steps: intermediates by name, of the steps that are on; empty unless asked for with ``keep``.
            ``lof_scores`` [B, N], ``outliers`` [B, N] bool, ``repaired_last`` and ``repaired_pre`` [B, N, W];
            ``simi_mid`` [B, N, N] cosines, ``simi_after`` [B, N, N] links; ``agg_before``, ``attn_last`` (without the
            CLS term), ``agg_after``, ``attn_multi``, ``agg_multi`` [B, N, W].
    """

    features: Tensor
    grid: tuple[int, int]
    steps: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


class SCClip(nn.Module):
    """Frozen tower and class names -> mask logits.

    Args:
        visual: the vision tower, never trained.
        class_text: [K, D], one row per class name.
        owner: [K] int64, the class of each name, 0 .. C - 1; a class is as likely as its likeliest name. None: one
            name per class.

    Raises:
        ValueError: settings that do not fit the tower. (In ``forward``: ``k``, ``lof`` or ``contamination``.)
    """

    def __init__(
        self,
        visual: nn.Module,
        class_text: Tensor,
        config: SCClipConfig = SCClipConfig(),
        *,
        owner: Tensor | None = None,
    ):
        super().__init__()
        self.config, self.visual = config, frozen(visual)
        self.last = len(visual.transformer.resblocks) - 1  # the layer whose output enters the last block
        for name in ("pre", "post", "fusion"):
            value = getattr(config, name)
            if any(not 1 <= layer <= self.last for layer in (value if name == "fusion" else (value,))):
                raise ValueError(
                    f"SC-CLIP's layer {name}={value} is not in this tower, which has {self.last + 1}: give layers from "
                    f"1 to {self.last}, the one before its last."
                )
        if config.fusion[0] > config.fusion[1]:
            raise ValueError(f"SC-CLIP's fusion={config.fusion} ends before it begins: give the lower layer first.")
        if not -1 <= config.beta < 1:
            raise ValueError(f"SC-CLIP's beta={config.beta} leaves no link or is not a cosine: give -1 <= beta < 1.")
        choose("scores", config.scores, SCORES)
        self.register_buffer("class_text", F.normalize(class_text, dim=-1))
        self.register_buffer("owner", None if owner is None else torch.as_tensor(owner))

    @property
    def layers(self) -> list[int]:
        """The layers to tap, in ascending order."""
        first, end = self.config.fusion
        return sorted({self.config.pre, self.config.post, *range(first, end + 1), self.last})

    def forward(self, images: Tensor, keep: bool = False) -> Segmented:
        """Images [B, 3, H, W], normalised; ``keep`` the intermediates.

        On a CPU a few images at a time: blocks of memory above 32 MiB, such as the hidden layers of a large batch, are
        returned to the operating system after each use, and paging them in again takes a tenth of the time.
        """
        parts = [self.head(self.taps(group), keep) for group in images.split(self._group_size(images))]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _group_size(self, images: Tensor) -> int:
        """Images per group, the groups as even as possible."""
        count, visual = max(len(images), 1), self.visual
        if images.device.type != "cpu":
            return count
        tokens = 1 + images.shape[2] * images.shape[3] // (visual.patch_size[0] * visual.patch_size[1])
        hidden = 4 * visual.conv1.out_channels * images.element_size()  # bytes per token
        most = max(1, _HIDDEN_BYTES // (tokens * hidden))
        return math.ceil(count / math.ceil(count / most))

    def taps(self, images: Tensor) -> Taps:
        """Images [B, 3, H, W] through the tower, up to the block before the last."""
        walked = walk(
            self.visual, images, layers=self.layers, patches=True, position=self.config.position, until=self.last
        )
        cls = dict(zip(self.layers, walked.cls.unbind(1), strict=True))
        patches = dict(zip(self.layers, walked.patch_taps, strict=True))
        return Taps(cls, patches, walked.grid, tuple(images.shape[2:]))

    def head(self, taps: Taps, keep: bool = False, anomalous: Tensor | None = None) -> Segmented:
        """All that follows the tower, so that many settings can share taps.

        Args:
            taps: of all `layers`.
            keep: the intermediates, too.
            anomalous: [B, N] bool, the patches to repair; None: those that LOF finds.
        """
        c, steps = self.config, {}
        x, middle = taps.patches[self.last], taps.patches[c.pre]
        if c.repair:
            if anomalous is None:
                steps["lof_scores"] = lof(x, c.k, c.lof)
                anomalous = outliers(steps["lof_scores"], c.contamination)
            steps["outliers"] = anomalous
            x, middle = (repair(patches, anomalous, taps.grid) for patches in (x, middle))
            steps |= {"repaired_last": x, "repaired_pre": middle}
        steps["simi_mid"] = cosines(middle)
        if c.aggregate:
            x = steps["agg_before"] = aggregate(links(steps["simi_mid"], c.beta), x)
        weights = likeness_weights(steps["simi_mid"], c.sharpness) if c.attention and c.likeness else None
        alike = links(cosines(taps.patches[c.post]), c.beta) if c.aggregate_again else None
        steps |= {} if alike is None else {"simi_after": alike}
        entering = [(x, taps.cls[self.last])]
        if c.fuse:
            summed = range(c.fusion[0], c.fusion[1] + 1)
            entering.append(tuple(_sum([of[layer] for layer in summed]) for of in (taps.patches, taps.cls)))
        x = self._finish(entering, weights, alike, steps if keep else None)
        features = project(self.visual, x)
        logits = mask_logits(features, self.class_text, taps.grid, taps.size, scale=c.logit_scale, owner=self.owner)
        return Segmented(logits, features, taps.grid, steps if keep else {})

    def attend(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """The last block's attention by keys (or queries) and by ``weights`` [B, N, N], half and half.

        [B, N, W] -> [B, heads, N, W / heads], the input of the block's output projection (`vit.last_out`).
        """
        *q, k, v = last_heads(self.visual, x, "kv" if self.config.scores == "kk" else "qkv")
        mixed = F.scaled_dot_product_attention(q[0] if q else k, k, v)
        if weights is not None:
            alike = weights @ v.transpose(1, 2).flatten(2)  # the same for all heads
            mixed = (mixed + alike.unflatten(2, (v.shape[1], -1)).transpose(1, 2)) / 2
        return mixed

    def attention_maps(self, x: Tensor, simi: Tensor) -> dict[str, Tensor]:
        """Attention of the patches [B, N, W] in step 3: [B, N, N] each, mean over heads, rows sum to 1.

        ``q k`` is CLIP's own (over patches alone), ``k k`` the release's first half, ``likeness`` its second, from the
        cosines [B, N, N], ``used`` their mixture under these settings.
        """
        q, k = last_heads(self.visual, x, "qk")
        maps = {
            name: (a @ k.mT / a.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1) for name, a in (("q k", q), ("k k", k))
        }
        maps["likeness"] = likeness_weights(simi, self.config.sharpness)
        own = maps["k k" if self.config.scores == "kk" else "q k"]
        maps["used"] = (own + maps["likeness"]) / 2 if self.config.likeness else own
        return maps

    def parameter_groups(self) -> list[Group]:
        return []

    def _finish(
        self,
        entering: list[tuple[Tensor, Tensor]],
        weights: Tensor | None,
        alike: Tensor | None,
        steps: dict[str, Tensor] | None,
    ) -> Tensor:
        """Steps 3 and 4 on each of (patches [B, N, W], CLS [B, W]), summed; their intermediates into ``steps``.

        Everything behind the attention is linear, so output projection and aggregation run once, on the sum.
        """
        c, count = self.config, len(entering)
        cls = [c.cls_residual * token[:, None] for _, token in entering]
        if c.attention:
            heads = [self.attend(x, weights) for x, _ in entering]
            total = count * last_out(self.visual, _sum(heads) / count) + _sum(cls)
        else:
            outs = [last_block(self.visual, torch.cat([token[:, None], x], dim=1))[:, 1:] for x, token in entering]
            total = _sum(outs)
        if steps is not None:
            for i, (attn, agg) in enumerate((("last", "after"), ("multi", "multi"))[:count]):
                if c.attention:
                    steps[f"attn_{attn}"] = last_out(self.visual, heads[i])
                if alike is not None:
                    out = steps[f"attn_{attn}"] + cls[i] if c.attention else outs[i]
                    steps[f"agg_{agg}"] = aggregate(alike, out)
        return total if alike is None else aggregate(alike, total)


def repair(patches: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, N, W] with each outlier [B, N] replaced by the mean of those of its 8 neighbours that are no outliers.

    An outlier without such a neighbour is kept.
    """
    h, w = grid
    image, place = outliers.nonzero(as_tuple=True)  # M outliers of all images together
    around = torch.tensor([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c], device=patches.device)
    rows, columns = (place // w)[:, None] + around[:, 0], (place % w)[:, None] + around[:, 1]
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    at = rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1)  # [M, 8]
    sound = inside & ~outliers[image[:, None], at]
    total = patches[image[:, None], at].mul(sound[..., None]).sum(dim=1)
    count = sound.sum(dim=1, keepdim=True)
    repaired = patches.clone()
    mean = (total / count.clamp_min(1)).to(patches.dtype)  # under autocast the sum is in single precision
    repaired[image, place] = torch.where(count > 0, mean, patches[image, place])
    return repaired


def cosines(patches: Tensor) -> Tensor:
    """[B, N, W] -> [B, N, N], of all pairs of patches."""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.mT


def links(simi: Tensor, beta: float) -> Tensor:
    """Cosines below ``beta`` become 0: no link."""
    return simi.masked_fill(simi < beta, 0.0)


def aggregate(links: Tensor, x: Tensor) -> Tensor:
    """[B, N, W]: rows of links [B, N, N] normalised to sum to one, times x. The 1e-6 is the release's."""
    return (links / (links.sum(dim=-1, keepdim=True) + 1e-6)) @ x


def likeness_weights(simi: Tensor, sharpness: float) -> Tensor:
    """[B, N, N], rows sum to 1: softmax of ``sharpness`` * (simi - its mean over the image) without negative entries.

    A patch always keeps itself; rounding could exclude it where all patches are alike.
    """
    scores = sharpness * (simi - simi.mean(dim=(1, 2), keepdim=True))
    below = scores < 0
    below.diagonal(dim1=1, dim2=2).fill_(False)
    return scores.masked_fill(below, -torch.inf).softmax(dim=-1)


def _joined(parts: list[Segmented]) -> Segmented:
    """The images of several batches as one."""
    steps = {name: torch.cat([part.steps[name] for part in parts]) for name in parts[0].steps}
    logits, features = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "features"))
    return Segmented(logits, features, parts[0].grid, steps)


def _sum(parts: list[Tensor]) -> Tensor:
    """The sum, in place from the second part on: a new tensor for each takes five times as long as the addition."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


SPEC = System(
    name="SC-CLIP",
    colour="#CC79A7",
    reads="masks",
    regimes=("no training",),
    config=SCClipConfig,
    preset=preset,
    build=lambda start, config, seed: SCClip(start.visual, start.text, config),
    sources=("Bai et al., TIP 2025", "github.com/SuleBai/SC-CLIP, commit 0417ba9"),
    order=78,
)
