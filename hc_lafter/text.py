"""The text side: templates filled with class names, and the class embeddings of zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hc_lafter.clip import Clip, WordTokenizer

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
    mend = "rename the class, or take a CLIP with a full vocabulary"
    for name in classes:
        ids = tuple(clip.tokenizer([_words(name)])[0].tolist())
        if sum(i > 0 for i in ids) <= 2:  # start and end
            return f"the vocabulary of {clip.name} ({len(clip.tokenizer.words)} words) has no word of {name!r}: {mend}."
        if ids in seen:
            return f"to the vocabulary of {clip.name} {seen[ids]!r} and {name!r} are the same words: {mend}."
        seen[ids] = name
    return None


def class_embeddings(clip: Clip, classes: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """[C, D] unit rows on the CPU: the mean of a class's normalised template embeddings, normalised again.

    Radford et al., ICML 2021, section 3.1.4 (prompt ensembling in embedding space).

    Raises:
        ValueError: a template without its place, or classes that `untold_classes` names.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} has {template.count('{}')} places for the class: write one {{}}.")
    if problem := untold_classes(clip, classes):
        raise ValueError(problem)
    texts = [template.format(_words(name)) for name in classes for template in templates]
    features = clip.encode_text(texts).cpu().reshape(len(classes), len(templates), -1)
    return F.normalize(features.mean(dim=1), dim=-1)


def _words(name: str) -> str:
    return name.replace("_", " ")
