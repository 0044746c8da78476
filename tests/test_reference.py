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

from hc_lafter.regimes import LabelFree
from hc_lafter.systems.lafter import LaFTer, LaFTerConfig
from hc_lafter.text import text_loss
from hc_lafter.vit import Prompts, Walk, position_embedding, project, walk

FOLDER = Path(os.environ.get("HC_LAFTER_REFERENCE", Path(__file__).parent / "reference"))
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
