"""Text classifiers for a data set's classes: every recipe that may be chosen, trained with every seed and kept.

Text source, noise and label smoothing are chosen by accuracy on validation images, the mean over seeds; the classifiers
have seen texts alone. C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hc_lafter import store
from hc_lafter.clip import text
from hc_lafter.files import file_hash, own_code, versions
from hc_lafter.tuning.material import Material, gather
from hc_lafter.tuning.setting import Setting

SMOOTHINGS = (0.0, 0.1)
Recipe = tuple[str, float, float]  # source, noise, smoothing


@dataclass(frozen=True, eq=False)
class TextClassifiers:
    """Classifiers by recipe.

    Attributes:
        texts: source -> its texts, through the text tower.
        weights: recipe -> [seeds, C, D].
        on_val: recipe -> [seeds], accuracy on validation images (fraction).
        chosen: the recipe with the highest mean of these, the first of equals.
    """

    texts: Mapping[str, text.Texts]
    weights: Mapping[Recipe, Tensor]
    on_val: Mapping[Recipe, np.ndarray]
    chosen: Recipe


def text_sources(material: Material) -> dict[str, text.Texts]:
    """Source -> texts of the data set's classes; sources of prose are left out where no sentences are at hand."""
    setting = material.setting
    prose = text.descriptions_for(material.clip, material.classes, setting.descriptions)
    sources = [s for s in text.SOURCES if prose is not None or not s.startswith("descriptions")]
    given = {"descriptions": prose, "cache": setting.cache}
    return {s: text.encode_texts(material.clip, material.classes, s, **given) for s in sources}


def sentences_key(setting: Setting) -> str | None:
    """The hash of the file of sentences, or what else names them."""
    given = setting.descriptions
    return file_hash(Path(given)) if given and Path(given).is_file() else given


def text_classifiers(setting: Setting, material: Material | None = None) -> TextClassifiers:
    """All recipes with all seeds of a setting, from the cache or trained now (a fraction of a second each).

    Args:
        material: in the place of what the setting names.
    """
    return _text_classifiers(setting, material, sentences_key(setting))


@lru_cache(maxsize=4)
def _text_classifiers(setting: Setting, material: Material | None, sentences: str | None) -> TextClassifiers:
    material = gather(setting) if material is None else material
    texts = text_sources(material)
    weights: dict[Recipe, Tensor] = {}
    by_seed = [_of_seed(setting, texts, seed) for seed in setting.seeds]
    for recipe in by_seed[0]:
        weights[recipe] = torch.stack([found[recipe] for found in by_seed])
    at = material.part["val"]
    images, labels = F.normalize(material.shared[at, -1], dim=-1), material.labels[at]
    on_val = {
        recipe: np.array([((images @ w.T).argmax(1) == labels).numpy().mean() for w in found])
        for recipe, found in weights.items()
    }
    return TextClassifiers(texts, weights, on_val, max(on_val, key=lambda recipe: on_val[recipe].mean()))


def train_of_seed(setting: Setting, seed: int) -> None:
    """Leave the classifiers of one seed in the cache: a piece of work for a worker."""
    _of_seed(setting, text_sources(gather(setting)), seed)


def _of_seed(setting: Setting, texts: Mapping[str, text.Texts], seed: int) -> dict[Recipe, Tensor]:
    recipes = list(product(texts, setting.text_noise, SMOOTHINGS))

    def make() -> dict[str, Tensor]:
        found = {}
        for recipe in recipes:
            source, noise, smoothing = recipe
            config = text.TextClassifierConfig(noise=noise, smoothing=smoothing, steps=setting.text_steps)
            found[str(recipe)] = text.train_text_classifier(texts[source], config, seed=seed).weight
        return found

    inputs = {"texts": {s: t.key for s, t in texts.items()}, "recipes": recipes, "steps": setting.text_steps}
    inputs |= {"seed": seed, "code": own_code(), "versions": versions()}
    folder = None if setting.cache is None else setting.cache / "classifiers"
    _, tensors = store.cached(folder, inputs, make)
    return {recipe: tensors[str(recipe)] for recipe in recipes}


def classifier_for(material: Material, kind: str, seed: int) -> Tensor:
    """[C, D], where the classifier of a run starts.

    Args:
        kind: ``chosen`` on validation; ``templates``, trained on the filled templates by the published recipe; or a
            random one: ``random, a fresh layer's size``, ``random, the text-trained one's size``.
        seed: one of the setting's.

    Raises:
        ValueError: an unknown kind.
    """
    setting = material.setting
    if kind == "templates":
        texts = text.encode_texts(material.clip, material.classes, "templates", cache=setting.cache)
        return text.train_text_classifier(texts, seed=seed).weight
    setting = setting if seed in setting.seeds else replace(setting, seeds=(seed,))
    found = text_classifiers(setting, material)
    weight = found.weights[found.chosen][setting.seeds.index(seed)]
    sizes = {
        "chosen": None,
        "random, a fresh layer's size": weight.shape[1] ** -0.5,
        "random, the text-trained one's size": weight.std(),
    }
    if kind not in sizes:
        raise ValueError(f"classifier {kind!r} is unknown: choose one of templates, {', '.join(sizes)}.")
    if sizes[kind] is None:
        return weight
    return sizes[kind] * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
