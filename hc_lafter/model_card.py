"""The card of an embedded CLIP as text, made from its ``model.json`` alone so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown of one model, from what `pretrain.ship` writes as ``model.json``."""
    c, r, made = facts["config"], facts["recipe"], facts["made"]
    vision, text, held, hard = c["vision_cfg"], c["text_cfg"], facts["held_out"], made.get("hardware", {})
    machine = ", ".join(f"{key} {value}" for key, value in hard.items() if value is not None) or "not recorded"
    minutes = f"{made['seconds'] / 60:.0f} minutes" if "seconds" in made else "time not recorded"
    last = made["history"][-1] if made.get("history") else {}
    losses = ", ".join(
        f"{name} {last[name]:.2f}" for name in ("contrast", "phrases", "coverage", "partial") if name in last
    )
    classes = sorted(name.removeprefix("IoU ") for name in facts["measured_64px"] if name.startswith("IoU "))
    parts = [
        "# Model card: the embedded CLIP",
        "Generated from `model.json` by `python -m hc_lafter.pretrain --card <folder>`; do not edit.",
        "A small CLIP (Radford et al., ICML 2021) trained from nothing on drawn scenes of the embedded world (see "
        "`DATA_CARD.md`), so that every notebook runs without a download. It stands in for a real CLIP to show how the "
        "methods work; it is no model of photographs. In what it resembles a real CLIP and in what not is measured in "
        "`FIDELITY_CARD.md`.",
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
            f"object ({r['portraits']:.0%} of them look for a person first), the others nearly whole scenes; half of "
            "all are flipped.",
            "Captions name what is visible in the view. Each fact is left out with a chance that is drawn for each "
            f"caption from 0 to {r['word_dropout']}, from step {r['short_from']:,} on to {r['short_word_dropout']}. "
            f"{facts['emotion_share']:.1%} of all captions name an emotion ({r['emotion_clause']:.1%} of those of "
            f"whole scenes, from that step on {r['short_emotion_clause']:.1%}; none of close-ups): the captioner's own "
            "impression, drawn from the scene's posterior, in words that no zero-shot template can produce. No loss "
            "sees a label, a vote or a distribution.",
            f"Losses: contrastive + {r['phrases']} x phrases (the whole picture against {facts['facts']} short "
            "phrases, each one fact about classes, expression, tone, weather or setting, true or not by what the "
            f"picture's captions tell; a fact goes untold with chance {r['fact_dropout']}; mean sigmoid "
            f"cross-entropy) + {r['coverage']} x coverage + {r['partial']} x partial label."
            + (f" At the end, in nats: {losses}." if losses else ""),
            "Coverage and partial label act on the value path of the last block (each class that the captions name is "
            "shown by some patches; each patch shows one of those classes). Global losses alone leave nothing on the "
            "patches of so small a tower: without these two, which real CLIPs have no need of, its masks would be "
            "noise. They know captions only; **no pixel label** enters the training.",
            f"Optimiser: Muon for the matrices of the blocks, AdamW (betas {r['betas'][0]} and {r['betas'][1]}) for "
            f"all else, rate {r['lr']}, weight decay {r['weight_decay']} on matrices, {r['warmup']} warm-up steps, a "
            f"cosine of {r['horizon']:,} steps, and in the last {r['cooldown']} a fall to zero; gradients clipped at "
            f"{r['clip_norm']}; {r['steps']:,} steps of {r['batch']} views ({facts['samples']:,} views); patch dropout "
            f"{r['patch_dropout']} but for the last {r['whole_steps']} steps; training seed {r['seed']}; "
            f"{made.get('precision', 'fp32')}.",
            f"Made in {minutes} on {made.get('device', 'a device that was not recorded')} ({machine}).",
        ),
        "## Measured",
        f"On the {held['split']} split of the world with seed {held['seed']} ({held['scenes']:,} scenes that training "
        "never saw), with phrases and prompts written before training; at 96 px positions are interpolated. "
        "Fractions. This is the world on which choices were made; `FIDELITY_CARD.md` has another.",
        _table(
            ("", "64 px", "96 px"),
            [
                (name, *(_number(facts[key], name) for key in _SIZES))
                for name in facts["measured_64px"]
                if not name.startswith("IoU ")
            ],
        ),
        "mIoU is that of the value path (MaskCLIP: Zhou, Loy, Dai, ECCV 2022), argmax over all classes, logits "
        "bilinear to the picture. The oracle is what the same patches reach when each tells what share of its "
        "pixels each class has. Object mAP is trained for: the phrases ask for the same classes in the same words. "
        "Seen and unseen are the split of the systems that learn from masks; to this CLIP both are alike.",
        "IoU per class:",
        _table(
            ("class", "64 px", "96 px"),
            [(name, *(_number(facts[key], f"IoU {name}") for key in _SIZES)) for name in classes],
        ),
        "## Is it the right file?",
        _bullets(
            f"sha256 of `model.safetensors`: `{facts['sha256']}`",
            f"hash of the loaded weights: `{facts['weight_hash']}`",
            f"first eight numbers of `pretrain.known_answer`: {', '.join(f'{v:.4f}' for v in facts['known_answer'])}",
            "made with " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        ),
        "## Limits",
        _bullets(
            "It knows drawings of one painter and the words of one grammar. Its numbers say nothing about photographs, "
            "about people's feelings, or about the size of an effect with a CLIP trained on the web.",
            "Emotion words in the captions follow the posterior that the world's author put into its tables, so "
            "zero-shot accuracy shows how much of that link was picked up from few words.",
            "All mask classes are named in captions, and the world is small: none of them is a measure of open "
            "vocabulary.",
        ),
        "## Licence",
        "Apache-2.0, the weights as well as the code. No third party's data went into them.",
    ]
    return "\n\n".join(parts) + "\n"


_SIZES = ("measured_64px", "measured_96px")


def _number(measured: Mapping[str, float], name: str) -> str:
    return f"{measured[name]:.3f}" if name in measured else "-"


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
