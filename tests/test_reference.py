"""Our walk against tensors that the released code of SC-CLIP, LaFTer and Cascade-CLIP computed.

The folder is the one in ``HC_LAFTER_REFERENCE``, else the copies beside this file; every size comes from the files.
One fixture per file and one test per group of arrays: a later system adds its tests behind those of its file.
"""

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer

from hc_lafter.analysis.lof import lof, outliers
from hc_lafter.clip.text import text_loss
from hc_lafter.clip.vit import Prompts, Walk, position_embedding, project, walk
from hc_lafter.systems.cascade_clip import CascadeCLIP, CascadeCLIPConfig
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.systems.losses import focal_dice
from hc_lafter.systems.regimes import LabelFree
from hc_lafter.systems.sc_clip import SCClip, SCClipConfig, Segmented, repair

FOLDER = Path(os.environ.get("HC_LAFTER_REFERENCE", Path(__file__).parent / "reference"))
NEAR_TIE = 1e-3  # absolute; what one neighbour in place of another of equal distance does to a LOF score
TOLERANCE = 1e-5  # absolute; the released code itself differs from float64 by up to 1.4e-6


class Reference:
    """The arrays of one file, and the tower that they belong to."""

    def __init__(self, file: str):
        with np.load(FOLDER / file) as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.config = self.arrays["config"].tolist()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.arrays[name]

    def names(self, prefix: str) -> dict[str, int]:
        """The arrays ``prefix.<number>``, with their number; a file without any is not the file that was meant."""
        found = {name: int(name.removeprefix(prefix)) for name in self.arrays if name.startswith(prefix)}
        assert found, f"no array {prefix}*"
        return found

    @cached_property
    def visual(self) -> VisionTransformer:
        image_size, patch_size, width, layers, heads, output_dim = self.config[:6]
        visual = VisionTransformer(
            image_size, patch_size, width, layers, heads, mlp_ratio=4.0, output_dim=output_dim, act_layer=QuickGELU
        )
        state = {name.removeprefix("visual."): a for name, a in self.arrays.items() if name.startswith("visual.")}
        visual.load_state_dict(state, strict=True)
        return visual.eval().requires_grad_(False)

    @property
    def layers(self) -> range:
        """0 (the embedding) to the last layer: row i of a walk is layer i."""
        return range(self.config[3] + 1)

    def meets(self, name: str, ours: torch.Tensor) -> None:
        close(name, ours, self.arrays[name])


def close(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE, msg=lambda text: f"{name}: {text}")


def tokens(walked: Walk, row: int) -> torch.Tensor:
    """[B, 1 + N, W] behind the tapped layer in this row."""
    return torch.cat([walked.cls[:, row, None], walked.patch_taps[row]], dim=1)


def without_prompts(theirs: torch.Tensor, count: int) -> torch.Tensor:
    """[B, 1 + P + N, W] -> [B, 1 + N, W]: a tap gives CLS and patches."""
    return torch.cat([theirs[:, :1], theirs[:, 1 + count :]], dim=1)


# --- LaFTer ---


@pytest.fixture(scope="module")
def lafter() -> Reference:
    return Reference("lafter.npz")


@pytest.fixture(scope="module")
def plain(lafter) -> Walk:
    return walk(lafter.visual, lafter["image"], layers=lafter.layers, patches=True)


@pytest.fixture(scope="module")
def prompted(lafter) -> Walk:
    prompts = Prompts({0: lafter["prompt_embeddings"]})
    return walk(lafter.visual, lafter["image"], layers=lafter.layers, patches=True, prompts=prompts)


def test_lafter_tokens(lafter, plain):
    lafter.meets("tokens_plain", tokens(plain, 0))


def test_lafter_prompts_enter_as_they_are(lafter):
    seen = []
    hook = lafter.visual.transformer.resblocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    walk(lafter.visual, lafter["image"], prompts=Prompts({0: lafter["prompt_embeddings"]}))
    hook.remove()
    lafter.meets("tokens_prompted", seen[0])


def test_lafter_blocks(lafter, plain, prompted):
    count = lafter["prompt_embeddings"].shape[1]
    for layer in lafter.layers[1:]:
        close("block_out_plain", tokens(plain, layer), lafter["block_out_plain"][layer - 1])
        theirs = without_prompts(lafter["block_out_prompted"][layer - 1], count)
        close("block_out_prompted", tokens(prompted, layer), theirs)


def test_lafter_features(lafter, plain, prompted):
    lafter.meets("feat_plain", plain.final)
    lafter.meets("feat_plain", project(lafter.visual, plain.cls[:, -1]))
    lafter.meets("feat_plain_normalised", F.normalize(plain.final, dim=-1))
    lafter.meets("feat_prompted", prompted.final)


def test_lafter_logits(lafter, plain, prompted):
    unit = F.normalize(plain.final, dim=-1)
    lafter.meets("logits_prompted", prompted.final @ lafter["adapter.0.weight"].T)
    lafter.meets("logits_teacher", unit @ lafter["adapter_pl.0.weight"].T)
    lafter.meets("logits_zero_shot", unit @ lafter["text_features"].T)


@pytest.fixture
def student(lafter) -> LaFTer:
    """The shipped system with the file's own start."""
    config = LaFTerConfig(tokens=lafter["prompt_embeddings"].shape[1], smoothing=lafter["step.hyper"][5].item())
    lr, decay = lafter["step.hyper"][0].item(), lafter["step.hyper"][4].item()
    system = LaFTer(lafter.visual, lafter["adapter.0.weight"], replace(config, lr=lr, weight_decay=decay))
    with torch.no_grad():
        system.prompts.copy_(lafter["prompt_embeddings"][0])
        system.teacher_classifier.copy_(lafter["adapter_pl.0.weight"])
    return system


def test_lafter_text_step(lafter):
    weight = lafter["adapter.0.weight"].clone().requires_grad_()
    parts = (lafter[f"text_cls.{name}"] for name in ("features", "labels", "noise"))
    loss = text_loss(weight, *parts, lafter["step.hyper"][5].item())
    loss.backward()
    lafter.meets("text_cls.loss", loss.detach().reshape(lafter["text_cls.loss"].shape))
    lafter.meets("text_cls.grad.adapter.0.weight", weight.grad)


def test_lafter_system(lafter, student):
    lafter.meets("logits_prompted", student(lafter["image"]).logits)
    torch.testing.assert_close(student.teach(lafter["image"]), lafter["step.pseudo_label"])


def test_lafter_step(lafter, student):
    """One step of the released loop: pseudo-labels, loss, every gradient, every value after AdamW."""
    groups = student.parameter_groups()
    for parameter in (p for group in groups for p in group["params"]):
        parameter.requires_grad_(True)
    beta1, beta2, eps = lafter["step.hyper"][1:4].tolist()
    optimiser = torch.optim.AdamW(groups, betas=(beta1, beta2), eps=eps)
    batch = {"student": lafter["image_view2"], "teacher": lafter["image"]}
    loss = LabelFree(student.config.smoothing, student.teach)(student, batch)["task"]
    loss.backward()
    lafter.meets("step.logits_student", student(lafter["image_view2"]).logits)
    lafter.meets("step.loss", loss.detach().reshape(lafter["step.loss"].shape))
    ours = {f"visual.{name}": p for name, p in student.visual.named_parameters() if p.requires_grad}
    ours |= {"prompt_embeddings": student.prompts, "adapter.0.weight": student.classifier}

    def meet(stage: str, values: dict[str, torch.Tensor]) -> set[str]:
        theirs = {name.removeprefix(stage) for name in lafter.arrays if name.startswith(stage)}
        assert theirs and theirs <= set(values), f"{stage}: {theirs - set(values)}"
        for name in theirs:
            lafter.meets(stage + name, values[name].reshape(lafter[stage + name].shape))
        return theirs

    assert meet("step.grad.", {name: p.grad for name, p in ours.items()}) == set(ours)
    optimiser.step()
    meet("step.after.", {name: p.detach() for name, p in ours.items()})


# --- SC-CLIP ---


@pytest.fixture(scope="module")
def sc_clip() -> Reference:
    return Reference("sc_clip.npz")


def test_sc_clip_blocks(sc_clip):
    walked = walk(sc_clip.visual, sc_clip["image"], layers=sc_clip.layers, patches=True)
    sc_clip.meets("ln_pre_out", tokens(walked, 0))
    for name, block in sc_clip.names("block_out.").items():
        sc_clip.meets(name, tokens(walked, block + 1))


def test_sc_clip_non_square(sc_clip):
    images, patch, seen = sc_clip["ns_image"], sc_clip.config[1], []
    hook = sc_clip.visual.ln_pre.register_forward_pre_hook(lambda norm, args: seen.append(args[0]))
    walked = walk(sc_clip.visual, images, layers=sc_clip.layers, patches=True, position="bicubic_offset")
    hook.remove()
    assert walked.grid == (images.shape[2] // patch, images.shape[3] // patch)
    sc_clip.meets("ns_pos_embed", position_embedding(sc_clip.visual, walked.grid, "bicubic_offset")[None])
    sc_clip.meets("ns_tokens_before_ln_pre", seen[0])
    for name, block in sc_clip.names("ns_block_out.").items():
        sc_clip.meets(name, tokens(walked, block + 1))


def sc_clip_system(reference: Reference, **changes) -> SCClip:
    """The shipped system with the file's settings, whose list positions become layers."""
    k, contamination, beta, pre, post, start, end, cls_residual = reference["hyper"].tolist()
    config = SCClipConfig(
        k=int(k),
        contamination=contamination,
        beta=beta,
        pre=int(pre) + 1,
        post=int(post) + 1,
        fusion=(int(start) + 1, int(end)),
        cls_residual=cls_residual,
    )
    texts = torch.eye(reference.config[5])[:3]
    return SCClip(reference.visual, texts, replace(config, **changes))


@pytest.fixture(scope="module")
def segmented(sc_clip) -> Segmented:
    """Both images as one batch, where the release took one at a time."""
    return sc_clip_system(sc_clip)(sc_clip["image"], keep=True)


def meets_scores(name: str, ours: torch.Tensor, theirs: torch.Tensor, patches: torch.Tensor, k: int) -> None:
    """To the tolerance, and a score with a near tie at rank k, its own or a neighbour's, to `NEAR_TIE`."""
    x = patches.double().flatten(end_dim=-3) if patches.ndim > 2 else patches.double()[None]
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    ranked = distances.sort(dim=2).values  # rank 0 is the patch itself
    tied = ((ranked[..., k + 1] - ranked[..., k]) < 1e-5 * ranked[..., k]).reshape(theirs.shape)
    assert tied.float().mean() < 0.1
    close(name, ours[~tied], theirs[~tied])
    torch.testing.assert_close(ours[tied], theirs[tied], rtol=0, atol=NEAR_TIE)


def test_sc_clip_outliers(sc_clip, segmented):
    k, contamination = int(sc_clip["hyper"][0]), float(sc_clip["hyper"][1])
    last = sc_clip["block_out.10"][:, 1:]
    meets_scores("lof_scores", segmented.steps["lof_scores"], sc_clip["lof_scores"], last, k)
    theirs = torch.zeros(sc_clip["lof_scores"].shape, dtype=torch.bool).scatter_(1, sc_clip["outlier_idx"], True)
    assert torch.equal(segmented.steps["outliers"], theirs)
    assert torch.equal(outliers(sc_clip["lof_scores"], contamination), theirs)


@pytest.mark.parametrize("name", ["repaired_last", "repaired_pre"])
def test_sc_clip_repair(sc_clip, segmented, name):
    h, w = segmented.grid
    sc_clip.meets(name, segmented.steps[name].mT.unflatten(2, (h, w)))


@pytest.mark.parametrize(
    "name", ["simi_mid", "simi_after", "agg_before", "attn_last", "agg_after", "attn_multi", "agg_multi"]
)
def test_sc_clip_steps(sc_clip, segmented, name):
    sc_clip.meets(name, segmented.steps[name])


def test_sc_clip_output(sc_clip, segmented):
    sc_clip.meets("out", segmented.features)
    sc_clip.meets("out_return_all_false", segmented.features[:, 0])
    texts = F.normalize(segmented.features, dim=-1)[..., :3]  # cosines with the first three unit vectors
    maps = F.interpolate(texts.mT.unflatten(2, segmented.grid), size=sc_clip["image"].shape[2:], mode="bilinear")
    close("masks", segmented.logits, 40 * maps)


def test_sc_clip_on_a_grid_that_is_not_square(sc_clip):
    """The release's functions with index // W and index % W. As released they repair other patches, and with those
    patches in the place of ours the released output comes out: the index is all that differs.
    """
    system = sc_clip_system(sc_clip)
    ours = system(sc_clip["ns_image"], keep=True)
    h, w = ours.grid
    assert h != w
    k, last = int(sc_clip["hyper"][0]), sc_clip["ns_block_out.10"][:, 1:]
    meets_scores("ns_lof_scores", ours.steps["lof_scores"][0], sc_clip["ns_lof_scores"], last, k)
    places = ours.steps["outliers"][0].nonzero()[:, 0]
    assert torch.equal(places, sc_clip["ns_outlier_idx"])
    assert torch.equal(torch.stack([places // w, places % w], dim=1), sc_clip["ns_fixed_rc"])
    sc_clip.meets("ns_out_fixed_index", ours.features)
    moved = torch.zeros(1, h * w, dtype=torch.bool)
    moved[0, sc_clip["ns_released_rc"] @ torch.tensor([w, 1])] = True
    assert not torch.equal(moved, ours.steps["outliers"])
    sc_clip.meets("ns_out_released", system.head(system.taps(sc_clip["ns_image"]), anomalous=moved).features)


def test_sc_clip_unit_repair(sc_clip):
    image = sc_clip["unit_interp.map"]
    h, w = image.shape[2:]
    found = torch.zeros(1, h * w, dtype=torch.bool)
    found[0, sc_clip["unit_interp.rc"] @ torch.tensor([w, 1])] = True
    sc_clip.meets("unit_interp.out", repair(image.flatten(2).mT, found, (h, w)).mT.unflatten(2, (h, w)))


def test_sc_clip_unit_lof(sc_clip):
    x = sc_clip["unit_lof.x"]
    for name in sc_clip.names("unit_lof.scores_k"):
        k = int(name.rpartition("k")[2])
        scores = lof(x[None], k)[0]
        meets_scores(name, scores, sc_clip[name], x, k)
        idx = [other for other in sc_clip.arrays if other.startswith(f"unit_lof.idx_k{k}_c")]
        assert idx
        for other in idx:
            contamination = int(other.rpartition("_c")[2]) / 100
            found = outliers(scores[None], contamination)[0].nonzero()[:, 0]
            np.testing.assert_array_equal(found, sc_clip[other])


# --- Cascade-CLIP ---


@pytest.fixture(scope="module")
def cascade_clip() -> Reference:
    return Reference("cascade_clip.npz")


def test_cascade_clip_blocks(cascade_clip):
    entering = [cascade_clip["vpt.prompt_embeddings"][0], *cascade_clip["vpt.deep_prompt_embeddings"]]
    weight, bias = cascade_clip["vpt.prompt_proj.weight"], cascade_clip["vpt.prompt_proj.bias"]
    prompts = Prompts({index: F.linear(embeddings, weight, bias) for index, embeddings in enumerate(entering)})
    walked = walk(
        cascade_clip.visual,
        cascade_clip["image"],
        layers=cascade_clip.layers,
        patches=True,
        prompts=prompts,
        position="cascade",
    )
    for name, block in cascade_clip.names("block_out.").items():
        close(name, tokens(walked, block + 1), without_prompts(cascade_clip[name], len(entering[0])))


def released_name(name: str) -> str:
    """Where an array of the release lies in our module."""
    replaced = {
        "vpt.prompt_proj.": "prompt_proj.",
        "vpt.prompt_norm.": "prompt_norm.",
        "head.q_projs.": "queries.",
        "head.cascade_decoders.": "decoders.",
        ".multihead_attn.": ".",
    }
    for theirs, ours in replaced.items():
        name = name.replace(theirs, ours)
    return name


@pytest.fixture(scope="module")
def cascade(cascade_clip) -> CascadeCLIP:
    """The shipped system, every parameter of the file in its place: none is left over on either side."""
    tokens, heads, decoder_layers = cascade_clip.config[6:9]
    seen = torch.zeros(len(cascade_clip["text"]), dtype=torch.bool)
    seen[cascade_clip["seen_idx"]] = True
    config = CascadeCLIPConfig(tokens=tokens, heads=heads, decoder_layers=decoder_layers)
    system = CascadeCLIP(cascade_clip.visual, cascade_clip["text"], seen, config)
    early = [layer for layer in config.layers if layer != system.depth]
    state = {"text": system.text, "seen": seen}
    state |= {f"visual.{name}": value for name, value in cascade_clip.visual.state_dict().items()}
    last = f".layers.{decoder_layers - 1}."
    for name, value in cascade_clip.arrays.items():
        if name.startswith("vpt.ln_layers."):
            index, kind = name.removeprefix("vpt.ln_layers.").split(".")
            state[f"norms.{early[int(index)]}.{kind}"] = value
        elif name.startswith(("vpt.prompt_proj", "vpt.prompt_norm", "head.q_projs", "head.cascade_decoders")):
            ours = released_name(name)
            if last not in name or name.split(".")[-2] in ("q", "k"):  # the rest of that layer is read by nobody
                state[ours] = value
    entering = [cascade_clip["vpt.prompt_embeddings"][0], *cascade_clip["vpt.deep_prompt_embeddings"]]
    state |= {f"prompts.{index}": value for index, value in enumerate(entering)}
    state |= {f"projections.{layer}": cascade_clip["vpt.proj_layers"][i] for i, layer in enumerate(early)}
    state |= {f"nga.{i}.vector": cascade_clip[f"head.weights_s{i + 1}"] for i in range(2)}
    system.load_state_dict(state, strict=True)
    return system.eval()


def as_grid(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[B, N, D] -> [B, D, h, w]."""
    return tokens.transpose(1, 2).unflatten(-1, grid)


def test_cascade_clip_weights_start_as_released(cascade_clip):
    text = cascade_clip["text"]
    start = CascadeCLIP(cascade_clip.visual, text, torch.ones(len(text), dtype=torch.bool), CascadeCLIPConfig(heads=1))
    for nga in start.nga[:2]:
        cascade_clip.meets("nga_init", nga.weights().detach())


@torch.no_grad()
def test_cascade_clip_features_and_queries(cascade_clip, cascade):
    for prefix, images in (("", cascade_clip["image"]), ("big.", cascade_clip["big.image"])):
        patches, cls, grid = cascade.features(images)
        for name, index in cascade_clip.names(f"{prefix}feature.").items():
            cascade_clip.meets(name, as_grid(patches[index], grid))
        cascade_clip.meets(f"{prefix}cls_embedding", cls)
    cls = cascade.features(cascade_clip["image"])[1]
    for name, level in cascade_clip.names("query.").items():
        cascade_clip.meets(name, cascade.query(level, cls))


@torch.no_grad()
def test_cascade_clip_masks(cascade_clip, cascade):
    maps, met = cascade.maps(cascade_clip["image"]), 0
    for level, layers in enumerate(maps):
        for layer, ours in enumerate(layers):
            cascade_clip.meets(f"attn_map.{level}.{layer}", ours)
            met += 1
    assert met == sum(name.startswith("attn_map.") for name in cascade_clip.arrays)
    logits = cascade(cascade_clip["image"]).logits
    cascade_clip.meets("pred_masks", logits)
    cascade_clip.meets("pred", cascade.decide(logits))
    cascade_clip.meets("pred_self_training.image0", cascade.decide(logits, margin=0.0)[:1])
    side = cascade_clip.config[0]  # the release enlarges to its own side whatever comes in
    cascade_clip.meets("big.pred_masks", cascade(cascade_clip["big.image"], size=(side, side)).logits)


def test_cascade_clip_losses_and_gradients(cascade_clip, cascade):
    names = {
        "weights_s1": cascade.nga[0].vector,
        "weights_s2": cascade.nga[1].vector,
        "q_projs.0.weight": cascade.queries[0].weight,
        "prompt_embeddings": cascade.prompts[0],
    }
    theirs = {name.removeprefix("loss.grad.") for name in cascade_clip.arrays if name.startswith("loss.grad.")}
    assert theirs == {*names, "deep_prompt_embeddings"}
    focal, dice = focal_dice(cascade(cascade_clip["image"]).logits, cascade_clip["label"])
    cascade_clip.meets("loss.loss_mask", focal.detach().reshape(cascade_clip["loss.loss_mask"].shape))
    cascade_clip.meets("loss.loss_dice", dice.detach().reshape(cascade_clip["loss.loss_dice"].shape))
    deep = list(cascade.prompts)[1:]
    found = torch.autograd.grad(focal + dice, [*names.values(), *deep])
    for name, gradient in zip(names, found, strict=False):
        cascade_clip.meets(f"loss.grad.{name}", gradient.reshape(cascade_clip[f"loss.grad.{name}"].shape))
    cascade_clip.meets("loss.grad.deep_prompt_embeddings", torch.stack(found[len(names) :]))
