"""The text side: what is said of each class, and the classifiers that are made of nothing but that.

LaFTer's central claim (Mirza et al., NeurIPS 2023, section 3.1) is that a linear classifier trained on sentences reads
images. Its rivals cost no training: zero-shot CLIP, the mean of a class's text embeddings, with one prompt set or
another. T texts, C classes, D embedding size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hc_lafter import __version__, store
from hc_lafter.clip.descriptions import load_descriptions
from hc_lafter.clip.load import Clip, WordTokenizer
from hc_lafter.clip.vit import through

EMOTION_TEMPLATES = (
    "a scene of {}",
    "a picture that evokes {}",
    "a feeling of {}",
    "an image full of {}",
    "the mood is {}",
    "{}",
)
OBJECT_TEMPLATES = (
    "a picture of a {}",
    "a photo of a {}",
    "{}",
    "there is a {}",
    "an image with a {}",
    "a drawing of a {}",
)
# Mikels' eight and Ekman's six, in the words that the public emotion sets use for them.
EMOTION_NAMES = frozenset({
    "amusement", "awe", "contentment", "content", "excitement", "anger", "angry", "disgust", "disgusted", "fear",
    "sadness", "sad", "joy", "happiness", "happy", "surprise", "surprised", "neutral",
})  # fmt: skip


def templates_for(classes: Sequence[str]) -> tuple[str, ...]:
    """Emotion templates if every class is named like an emotion (case aside), else object templates."""
    return EMOTION_TEMPLATES if {name.lower() for name in classes} <= EMOTION_NAMES else OBJECT_TEMPLATES


def untold_classes(clip: Clip, classes: Sequence[str]) -> str | None:
    """Why the text tower cannot tell the classes apart by their names, in one sentence; None where it can.

    A closed vocabulary skips words that it does not know: a class of unknown words alone would be no text at all, and
    two classes that differ only in unknown words one and the same.
    """
    if not isinstance(clip.tokenizer, WordTokenizer):
        return None
    seen: dict[tuple[int, ...], str] = {}
    advice = "rename the class, or take a CLIP with a full vocabulary"
    for name in classes:
        ids = tuple(clip.tokenizer(name.replace("_", " "))[0].tolist())
        if sum(i > 0 for i in ids) <= 2:  # start and end
            size = len(clip.tokenizer.words)
            return f"the vocabulary of {clip.name} ({size} words) has no word of {name!r}: {advice}."
        if ids in seen:
            return f"to the vocabulary of {clip.name} {seen[ids]!r} and {name!r} are the same words: {advice}."
        seen[ids] = name
    return None


# What a class's texts are: its bare name; one template, as users write it; the template ensemble; prose alone; both.
SOURCES = ("names", "single template", "templates", "descriptions", "descriptions + templates")
SINGLE_TEMPLATE = "a photo of {}"


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of every class and what the text tower says of them.

    Attributes:
        classes: C names. source: one of `SOURCES`.
        texts: T texts, class after class.
        labels: [T] int64, the class of each text.
        features: [T, D] float32 of unit length, on the CPU.
        key: hex sha256 of everything that decides the features.
    """

    classes: tuple[str, ...]
    source: str
    texts: tuple[str, ...]
    labels: Tensor
    features: Tensor
    key: str

    def means(self) -> Tensor:
        """[C, D] unit rows: the mean of a class's normalised embeddings, normalised again: zero-shot CLIP's classes.

        Radford et al., ICML 2021, section 3.1.4 (prompt ensembling in embedding space).
        """
        parts = [self.features[self.labels == c].mean(dim=0) for c in range(len(self.classes))]
        return F.normalize(torch.stack(parts), dim=-1)


def descriptions_for(
    clip: Clip, classes: Sequence[str], given: str | os.PathLike[str] | None = None
) -> Mapping[str, tuple[str, ...]] | None:
    """Sentences for these classes: from ``given``, else ours where all of them are Mikels' or Ekman's; None else.

    A CLIP of a closed vocabulary, as the embedded one is, gets those written in its words (``world``): it would skip
    most words of the others.

    Raises:
        ValueError, OSError, TypeError: as `load_descriptions`.
    """
    if given is not None:
        return load_descriptions(given, classes)
    wanted = {name: {"happiness": "joy"}.get(name.lower(), name.lower()) for name in classes}
    for bundled in ("world",) if isinstance(clip.tokenizer, WordTokenizer) else ("mikels", "ekman"):
        ours = load_descriptions(bundled)
        if set(wanted.values()) <= set(ours):  # that a data set lacks some of our classes need not be said
            return {name: ours[key] for name, key in wanted.items()}
    return None


def encode_texts(
    clip: Clip,
    classes: Sequence[str],
    source: str,
    *,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
    cache: Path | None = None,
) -> Texts:
    """What is said of the classes, through the text tower; kept in ``<cache>/texts`` under a key of its inputs.

    Args:
        clip: its text tower and tokenizer.
        classes: C names in label order; ``_`` counts as a space.
        source: one of `SOURCES`.
        descriptions: class name -> sentences, for the two sources that hold prose (`descriptions_for`).
        templates: each with one ``{}``; by default `templates_for` the classes. Other sources leave them aside.
        cache: folder of the cache; None stores nothing.

    Raises:
        ValueError: an unknown source, a template without its place, classes that `untold_classes` names, no sentences
            for a source that needs them, or a class that they lack.
    """
    if source not in SOURCES:
        raise ValueError(f"text source {source!r} is unknown: choose one of {', '.join(SOURCES)}.")
    templates = templates_for(classes) if templates is None else tuple(templates)
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} has {template.count('{}')} places for the class: write one {{}}.")
    if source != "descriptions" and (problem := untold_classes(clip, classes)):
        raise ValueError(problem)
    if source in ("names", "single template"):
        templates = ["{}" if source == "names" else SINGLE_TEMPLATE]
    by_class = []
    for name in classes:
        prose = (descriptions or {}).get(name, ()) if source.startswith("descriptions") else ()
        if source.startswith("descriptions") and not prose:
            raise ValueError(
                f"text source {source!r} needs sentences and there are none of {name!r}: give descriptions in LaFTer's "
                "JSON form, or take 'templates'."
            )
        filled = [] if source == "descriptions" else [t.format(name.replace("_", " ")) for t in templates]
        by_class.append([*prose, *filled])
    texts = tuple(text for group in by_class for text in group)
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(group) for group in by_class]))
    inputs = {
        "package": __version__,
        "weights": clip.weight_hash,
        "tokens": hashlib.sha256(clip.tokenizer(list(texts)).numpy().tobytes()).hexdigest(),
        "activation": clip.activation,
        "config": json.dumps(dict(clip.config), sort_keys=True, default=str),
        "device": clip.model.logit_scale.device.type,
        "versions": [torch.__version__, version("open_clip_torch")],
    }
    folder = None if cache is None else Path(cache) / "texts"
    key, tensors = store.cached(folder, inputs, lambda: {"features": clip.encode_text(texts)})
    return Texts(tuple(classes), source, texts, labels, tensors["features"].cpu(), key)


def class_embeddings(
    clip: Clip, classes: Sequence[str], templates: Sequence[str], *, cache: Path | None = None
) -> Tensor:
    """[C, D] unit rows on the CPU: `Texts.means` of the filled templates; ``cache`` as for `encode_texts`.

    Raises:
        ValueError: a template without its place, or classes that `untold_classes` names.
    """
    return encode_texts(clip, classes, "templates", templates=templates, cache=cache).means()


def encode_tokens(model: nn.Module, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
    """[T, D] unit features of T tokenised texts, as open_clip's ``encode_text`` gives them; gradient flows.

    Columns behind the last end token are cut off: a causal tower that reads its feature there cannot notice.

    Args:
        model: open_clip's CLIP.
        tokens: [T, length] int64.
        contexts: [M, text width], in the place of the embeddings of tokens 1 to M of every text; None: of none.

    Raises:
        ValueError: a text tower that is not causal, or reads its feature elsewhere than at the end token.
    """
    tower = getattr(model, "text", model)
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", "argmax"))
    if pool != "argmax" or tower.attn_mask is None or not isinstance(tower.text_projection, Tensor):
        raise ValueError(
            f"this text tower pools by {pool!r} and cannot be tuned: choose OpenAI's kind, as ViT-B-32 has."
        )
    length = int(tokens.argmax(dim=-1).max()) + 1
    tokens = tokens[:, :length]
    x = tower.token_embedding(tokens)
    if contexts is not None:
        x = torch.cat([x[:, :1], contexts.to(x.dtype).expand(len(x), -1, -1), x[:, 1 + len(contexts) :]], dim=1)
    x = x + tower.positional_embedding[:length]
    for block in tower.transformer.resblocks:
        x = through(block, x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
    return F.normalize((x @ tower.text_projection).float(), dim=-1)


def known_words(clip: Clip, texts: Sequence[str]) -> float | None:
    """Share of the words of these texts that a closed vocabulary holds; None for a tokenizer that knows all words."""
    return clip.tokenizer.coverage(texts) if isinstance(clip.tokenizer, WordTokenizer) else None


@dataclass(frozen=True)
class TextClassifierConfig:
    """How the classifier is trained on texts (the paper gives no rate or step count for it).

    Attributes:
        noise: standard deviation of the Gaussian noise on the unit text features, drawn at each step.
        smoothing: of the labels.
        lr, weight_decay: AdamW's.
        steps: each over all texts at once.
    """

    noise: float = 0.1
    smoothing: float = 0.1
    lr: float = 5e-3
    weight_decay: float = 0.01
    steps: int = 400


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """A bias-free linear classifier that has seen texts alone.

    Attributes:
        weight: [C, D] float32.
        classes: C names in the order of its rows.
        curve: one dict per recorded step: step, loss (nats, over the texts with this step's noise), and what the
            caller's ``watch`` measured.
    """

    weight: Tensor
    classes: tuple[str, ...]
    curve: tuple[dict[str, float], ...] = field(default=(), repr=False)

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]; features are normalised first, as the texts were."""
        return F.normalize(features, dim=-1) @ self.weight.T


def text_loss(weight: Tensor, features: Tensor, labels: Tensor, noise: Tensor, smoothing: float) -> Tensor:
    """Label-smoothed cross-entropy (nats) of a linear classifier [C, D] on noisy text features [T, D]."""
    return F.cross_entropy((features + noise) @ weight.T, labels, label_smoothing=smoothing)


def train_text_classifier(
    texts: Texts,
    config: TextClassifierConfig = TextClassifierConfig(),
    *,
    seed: int,
    watch: Callable[[Tensor], Mapping[str, float]] | None = None,
    every: int = 20,
) -> TextClassifier:
    """LaFTer's text-only training (Mirza et al., NeurIPS 2023, section 3.1).

    Start: uniform within 1 / sqrt(D), ``nn.Linear``'s. Start and noise are drawn on the CPU from ``seed`` alone.

    Args:
        texts: the training texts; a class with more texts counts for more, as in the release.
        watch: [C, D] -> named numbers to keep in the curve beside the loss, at every ``every``-th step and the last.

    Raises:
        ValueError: noise, smoothing, rate or steps out of range.
    """
    if config.noise < 0 or not 0 <= config.smoothing < 1 or config.lr <= 0 or config.steps < 1:
        raise ValueError(f"{config} is not usable: noise from 0, smoothing in [0, 1), lr above 0 and steps from 1.")
    generator = torch.Generator().manual_seed(seed)
    classes, width = len(texts.classes), texts.features.shape[1]
    weight = torch.empty(classes, width).uniform_(-(width**-0.5), width**-0.5, generator=generator).requires_grad_()
    optimiser = torch.optim.AdamW([weight], lr=config.lr, weight_decay=config.weight_decay)
    curve = []
    for step in range(config.steps):
        noise = config.noise * torch.randn(texts.features.shape, generator=generator)
        loss = text_loss(weight, texts.features, texts.labels, noise, config.smoothing)
        if step % every == 0 or step == config.steps - 1:
            watched = {} if watch is None else watch(weight.detach())
            curve.append({"step": step, "loss": loss.item(), **watched})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return TextClassifier(weight.detach().clone(), texts.classes, tuple(curve))


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """Distance between the centres of unit image features [B, D] and unit text features [T, D], from 0 to 2.

    Liang et al., "Mind the gap", NeurIPS 2022, section 2.
    """
    images, texts = (F.normalize(x.double(), dim=-1).mean(dim=0) for x in (images, texts))
    return float(np.linalg.norm((images - texts).numpy()))
