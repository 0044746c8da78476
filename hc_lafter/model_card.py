"""The card of an embedded CLIP as text, made from its ``model.json`` alone so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown of one model.

    Args:
        facts: what `pretrain.ship` writes as ``model.json``. An optional key ``controls`` holds a list of
            ``{"name", "what", "measured"}``, further trainings that tell what a part of the recipe buys; ``measured``
            is what `pretrain.evaluate` returns.
    """
    c, r, made = facts["config"], facts["recipe"], facts["made"]
    vision, text, held = c["vision_cfg"], c["text_cfg"], facts["held_out"]
    labels, hard = facts["pixel_labels"], made.get("hardware", {})
    seen, unseen = labels["seen"], labels["unseen"]
    pixels = r["seen"] > 0
    machine = ", ".join(f"{key} {value}" for key, value in hard.items() if value is not None) or "not recorded"
    minutes = f"{made['seconds'] / 60:.0f} minutes" if "seconds" in made else "time not recorded"
    last = made["history"][-1] if made.get("history") else {}
    losses = ", ".join(
        f"{name} {last[name]:.2f}" for name in ("contrast", "partial", "coverage", "seen") if name in last
    )
    parts = [
        "# Model card: the embedded CLIP",
        "Generated from `model.json` by `python -m hc_lafter.pretrain --card <folder>`; do not edit.",
        "A small CLIP (Radford et al., ICML 2021) trained from nothing on drawn scenes of the embedded world (see "
        "`DATA_CARD.md`), so that every notebook runs without a download. It stands in for a real CLIP to show how the "
        "methods work; it is no model of photographs.",
        "## Architecture",
        f"open_clip's own `CLIP` class. Vision: {vision['layers']} blocks of width {vision['width']} (heads "
        f"{vision['head_width']} wide), patch {vision['patch_size']} px, image {vision['image_size']} px. Text: "
        f"{text['layers']} causal blocks of width {text['width']}, {text['heads']} heads, {text['context_length']} "
        f"ids, a vocabulary of {facts['words']} whole words (unknown words are skipped). Shared space of "
        f"{c['embed_dim']} dimensions, activation {c['activation']}, {facts['parameters']:,} parameters, stored in "
        f"half precision ({facts['bytes'] / 1e6:.1f} MB) and loaded as float32.",
        "## Training",
        _bullets(
            f"Data: {r['scenes']:,} scenes of the world with seed {facts['data_seed']}, painted at {r['canvas']} px; "
            f"the notebooks' worlds have other seeds. {r['close_ups']:.0%} of the views are close-ups around one "
            "object, the others nearly whole scenes; half of all are flipped.",
            f"Captions name what is visible in the view (each class left out with chance {r['word_dropout']}), in "
            f"{r['emotion_clause']:.0%} of the cases the scene's label too; in {r['short_steps']:.0%} of the steps the "
            "contrastive loss sees short emotion captions instead.",
            f"Losses: 1.0 x contrastive + {r['partial']} x partial label + {r['coverage']} x coverage + {r['seen']} x "
            "cross-entropy on the patches of the seen classes (inverse square root of the count as weight). The last "
            "three act on the value path of the last block." + (f" At the end, in nats: {losses}." if losses else ""),
            f"Optimiser: AdamW, rate {r['lr']}, betas {r['betas'][0]} and {r['betas'][1]}, weight decay "
            f"{r['weight_decay']} on matrices, {r['warmup']} warm-up steps, cosine to zero, gradients clipped at "
            f"{r['clip_norm']}; {r['steps']:,} steps of {r['batch']} views ({facts['samples']:,} "
            f"views with all phases); patch dropout "
            f"{r['patch_dropout']} in the first {r['dropout_steps']:.0%} of the steps; training seed {r['seed']}.",
            *_further(r),
            f"Made in {minutes} on {made.get('device', 'a device that was not recorded')} ({machine}).",
        ),
        "## Which classes had pixel labels",
        f"The cross-entropy uses the masks of {len(seen)} classes, so every segmentation number of this CLIP rests on "
        f"pixel labels: {', '.join(seen)}."
        if pixels
        else "None: the weight of the cross-entropy was zero, only captions told what is where.",
        f"{len(unseen)} classes were fixed before training as unseen BY NAME: captions name them, and no loss was ever "
        f"told where they are: {', '.join(unseen)}. Their pixels are in the pictures, and the labels around them say "
        "where they are not.",
        "## Measured",
        f"On the {held['split']} split of the world with seed {held['seed']} ({held['scenes']:,} scenes that training "
        "never saw), with phrases and prompts written before training. The gates hold at 64 px and were set before "
        "training; at 96 px positions are interpolated. Fractions.",
        _table(
            ("", "64 px", "gate", "", "96 px"),
            [
                (
                    name,
                    f"{facts['measured_64px'][name]:.3f}",
                    f"{gate:.2f}",
                    "met" if facts["measured_64px"][name] >= gate else "NOT met",
                    f"{facts['measured_96px'][name]:.3f}",
                )
                for name, gate in facts["gates"].items()
            ]
            + [
                (name, f"{facts['measured_64px'][name]:.3f}", "", "", f"{facts['measured_96px'][name]:.3f}")
                for name in ("mIoU seen", "oracle mIoU")
            ],
        ),
        "mIoU is that of the value path (MaskCLIP: Zhou, Loy, Dai, ECCV 2022), argmax over all classes, logits "
        "bilinear to the picture. The oracle is what the same patches reach when each tells what share of its "
        "pixels each class has.",
        "IoU per class:",
        _table(
            ("class", "pixel labels", "64 px", "96 px"),
            [
                (
                    name,
                    "yes" if pixels and name in seen else "no",
                    *(_number(facts[key], f"IoU {name}") for key in _SIZES),
                )
                for name in (*seen, *unseen)
            ],
        ),
    ]
    if facts.get("controls"):
        parts += ["## Controls", *_controls(facts)]
    parts += [
        "## Is it the right file?",
        _bullets(
            f"sha256 of `model.safetensors`: `{facts['sha256']}`",
            f"hash of the loaded weights: `{facts['weight_hash']}`",
            f"first eight numbers of `pretrain.known_answer`: {', '.join(f'{v:.4f}' for v in facts['known_answer'])}",
            "made with " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        ),
        "## Limits",
        _bullets(
            "One training run with one seed: how far another seed would move these numbers was not measured. In a "
            "feasibility study with a similar recipe unseen mIoU moved between .41 and .49 between checkpoints.",
            "It knows drawings of one painter and the words of one grammar. Its numbers say nothing about photographs, "
            "about people's feelings, or about the size of an effect with a CLIP trained on the web.",
            "Emotions enter the captions as words, so zero-shot accuracy shows that a link was learned which the "
            "world's author had put into its tables. The templates of the zero-shot prompts occur in those captions.",
            "The unseen classes are unseen by pixel label only, and the world is small: their IoU is no measure of "
            "open vocabulary.",
        ),
        "## Licence",
        "Apache-2.0, the weights as well as the code. No third party's data went into them.",
    ]
    return "\n\n".join(parts) + "\n"


_SIZES = ("measured_64px", "measured_96px")


def _controls(facts: Mapping[str, Any]) -> list[str]:
    names = list(facts["gates"])
    rows = [("this model", *(_number(facts["measured_64px"], name) for name in names))]
    rows += [(one["name"], *(_number(one["measured"], name) for name in names)) for one in facts["controls"]]
    what = _bullets(*(f"{one['name']}: {one['what']}" for one in facts["controls"]))
    return ["Trained and measured in the same way (64 px), with one thing changed:", what, _table(("", *names), rows)]


def _further(recipe: Mapping[str, Any]) -> list[str]:
    """What each further phase of the recipe does, a sentence each."""
    then = recipe.get("then")
    if not then:
        return []
    told = (
        f"Then {then['steps']:,} further steps from these weights with a fresh optimiser: rate {then['lr']}, "
        f"{then['warmup']} warm-up steps, cosine to zero, patch dropout in the first {then['dropout_steps']:.0%}, "
        f"short emotion captions in {then['short_steps']:.0%} of the steps, and {then['tags']} x a tag loss: whole "
        "pictures against the class phrases, present or not by what the caption names (binary cross-entropy, summed "
        "over the classes)."
    )
    return [told, *_further(then)]


def _number(measured: Mapping[str, float], name: str) -> str:
    return f"{measured[name]:.3f}" if name in measured else "-"


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
