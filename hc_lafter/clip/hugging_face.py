"""A CLIP in the layout of Hugging Face transformers: its tensors under open_clip's names, its settings in open_clip's.

transformers' ``CLIPModel`` (https://github.com/huggingface/transformers, ``models/clip/modeling_clip.py``) is the same
network: it keeps queries, keys and values in three matrices, and its projections the other way round. What its tensors
cannot tell (heads, activation) stands in the ``config.json`` that ``save_pretrained`` writes beside them, and what is
done to an image in ``preprocessor_config.json``. Both leave out what is transformers' own default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hc_lafter.refusals import some

TOWERS = re.compile(r"(vision_model|text_model|visual_projection|text_projection)\.|logit_scale$")
CONFIG, PREPROCESS = "config.json", "preprocessor_config.json"
_ACTIVATIONS = {"quick_gelu": "QuickGELU", "gelu": "GELU"}
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers

# open_clip's name -> transformers', outside the blocks and inside one
_WHOLE = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
}
for _ours, _theirs in (
    ("visual.ln_pre", "vision_model.pre_layrnorm"),  # spelled so there
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("ln_final", "text_model.final_layer_norm"),
):
    _WHOLE |= {f"{_ours}.{part}": f"{_theirs}.{part}" for part in ("weight", "bias")}
_BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
_BLOCK |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_TURNED = ("visual.proj", "text_projection")


def translated(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a ``CLIPModel`` under open_clip's names, queries, keys and values joined, projections transposed.

    Raises:
        ValueError: some are missing, or are of no CLIP; one sentence with the path.
    """
    state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _WHOLE.items()}
    for ours, theirs in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        numbers = {int(m[1]) for m in (re.match(rf"{theirs}\.encoder\.layers\.(\d+)\.", name) for name in state) if m}
        for i in range(max(numbers, default=0) + 1):
            one, other = f"{ours}.resblocks.{i}", f"{theirs}.encoder.layers.{i}"
            for part in ("weight", "bias"):
                names |= {f"{one}.{a}.{part}": (f"{other}.{b}.{part}",) for a, b in _BLOCK.items()}
                joined = tuple(f"{other}.self_attn.{x}_proj.{part}" for x in "qkv")
                names[f"{one}.attn.in_proj_{part}"] = joined
    wanted = {theirs for several in names.values() for theirs in several}
    missing, strange = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
    if missing or strange:
        what = (
            f"lacks {len(missing)} of its tensors ({some(missing, 1)})" if missing else f"holds {some(strange, 1)}, too"
        )
        raise ValueError(
            f"{path} has the layout of Hugging Face transformers and is no whole CLIPModel: it {what}; save one, "
            "both towers and both projections, with save_pretrained."
        )
    whole = {ours: torch.cat([state[name] for name in several]) for ours, several in names.items() if len(several) > 1}
    whole |= {ours: state[several[0]] for ours, several in names.items() if len(several) == 1}
    return {name: value.T.contiguous() if name in _TURNED else value for name, value in whole.items()}


def settings(config: Mapping[str, Any], widths: Mapping[str, int], where: str) -> tuple[dict[str, Any], str]:
    """What a ``config.json`` tells and tensors do not: part of an open_clip configuration, and the activation.

    Args:
        config: as read.
        widths: W of the ``vision`` and of the ``text`` tower.
        where: the file, for sentences.

    Raises:
        ValueError: it asks for what open_clip's CLIP has not, or for heads that do not divide a width.
    """
    towers = {name: config.get(f"{name}_config") or config.get(f"{name}_config_dict") or {} for name in widths}
    acts = {str(tower.get("hidden_act", "quick_gelu")) for tower in towers.values()}
    odd = sorted(acts - _ACTIVATIONS.keys()) if acts - _ACTIVATIONS.keys() else sorted(acts) if len(acts) > 1 else []
    if odd:
        raise ValueError(
            f"{where} has the activation {' and '.join(odd)}: only gelu or quick_gelu, in both towers, is read."
        )
    if any(tower.get("layer_norm_eps", 1e-5) != 1e-5 for tower in towers.values()):
        raise ValueError(
            f"{where} has another layer_norm_eps than 1e-05, which open_clip's CLIP has: it cannot be read."
        )
    heads = {"vision": 12, "text": 8} | {
        n: t["num_attention_heads"] for n, t in towers.items() if "num_attention_heads" in t
    }
    for name, number in heads.items():
        default = "" if "num_attention_heads" in towers[name] else ", transformers' default"
        check_heads(number, widths[name], f"num_attention_heads {number!r} in its {name}_config{default}", where)
    model = {"vision_cfg": {"head_width": widths["vision"] // heads["vision"]}, "text_cfg": {"heads": heads["text"]}}
    return model, _ACTIVATIONS[acts.pop()]


def check_heads(number: Any, width: int, what: str, where: str, *, of_one: bool = False) -> None:
    """Refuse a number of heads (``of_one``: the width of one, which open_clip rounds down to heads) that does not fit.

    Raises:
        ValueError: the heads do not divide the width; one sentence with the file and a number that does.
    """
    heads = type(number) is int and number > 0 and (width // number if of_one else number)
    if not heads or width % heads:
        fits = next(n for n in range(min(width, 64) if of_one else max(1, width // 64), 0, -1) if width % n == 0)
        raise ValueError(
            f"{where} has {what}, which does not fit a width of {width}: give the number that the weights were trained "
            f"with, a whole one that divides {width}, such as {fits}."
        )


def preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """A ``preprocessor_config.json`` in open_clip's words; what it leaves out is left out."""
    found = {
        ours: config[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in config
    }
    if config.get("resample") in _INTERPOLATION:
        found["interpolation"] = _INTERPOLATION[config["resample"]]
    size = config.get("size")
    if isinstance(size, Mapping) and "height" in size and not config.get("do_center_crop", True):
        found["resize_mode"] = "squash"
    return found
