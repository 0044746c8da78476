"""The embedded world as a data set: drawn on the fly from a seed, nothing to download.

Each record is a function of (seed, split, index) alone. How it is made, its ceiling and what it cannot show stand in
`hc_lafter/embedded/DATA_CARD.md`; ``python -m hc_lafter.data.world.dataset`` measures the ceiling anew.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.stats import entropy

from hc_lafter.data.record import SPLITS, Dataset, Record

from . import grammar, painter, scene

VISIBLE = 0.006  # a class is named when it covers this share of the picture: 25 of 64 x 64 pixels
_FILES = ("scene.py", "cues.csv", "painter.py", "colours.toml", "pen.py", "grammar.py", "words.toml", "dataset.py")
_SOURCES = tuple(Path(__file__).with_name(name) for name in _FILES)


def visible_classes(mask: np.ndarray) -> list[str]:
    """Names of the classes that cover at least `VISIBLE` of a mask [height, width], in mask order."""
    share = np.bincount(mask.ravel(), minlength=len(painter.MASK_CLASSES)) / mask.size
    return [painter.MASK_CLASSES[i] for i in np.flatnonzero(share >= VISIBLE)]


class World(Dataset):
    """The embedded world: 8 emotions with votes and their exact posterior, 32 mask classes, captions.

    Args:
        n_train, n_val, n_test: records per split; a shorter split is the beginning of a longer one.
        side: height and width of the pictures in pixels.
        seed: another seed is another world of the same kind; the shipped CLIP was trained on a seed of its own.
    """

    classes = scene.EMOTIONS
    mask_classes = painter.MASK_CLASSES
    aimed_at = f"votes of {scene.VIEWERS} simulated viewers"
    scored_by = "exact posterior P(emotion | attributes)"

    def __init__(self, n_train: int, n_val: int, n_test: int, *, side: int = 64, seed: int = 0):
        sizes = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
        if min(sizes.values()) < 0 or sum(sizes.values()) == 0 or side < 16:
            raise ValueError(
                f"a world of {sizes} records at {side} px cannot be drawn: give sizes >= 0 and side >= 16."
            )
        self.name, self.side, self.seed = "world", side, seed
        self._keys = [(seed, s, i) for s, n in enumerate(sizes.values()) for i in range(n)]
        scenes = [scene.draw_scene(np.random.default_rng(key)) for key in self._keys]
        self.ids = [f"world-{seed}/{SPLITS[s]}/{i:06d}" for _, s, i in self._keys]
        self.splits = np.array([SPLITS[s] for _, s, _ in self._keys])
        self.labels = np.array([s.label for s in scenes], dtype=np.int64)
        self.votes = np.stack([s.votes for s in scenes])
        self.distributions = np.stack([s.posterior for s in scenes])
        self.attributes = [s.attributes for s in scenes]

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng(self._keys[index])
        drawn = scene.draw_scene(rng)
        colours = painter.draw_colours(rng)
        picture, mask = painter.paint(drawn.attributes, colours, rng, self.side)
        visible = visible_classes(mask)
        sentences = tuple(grammar.caption(visible, drawn.attributes, colours, rng)[0] for _ in range(2))
        return Record(
            id=self.ids[index],
            split=str(self.splits[index]),
            image=Image.fromarray(picture),
            label=int(self.labels[index]),
            label_name=self.classes[self.labels[index]],
            distribution=drawn.posterior,
            mask=mask,
            captions=sentences,
            votes=drawn.votes,
        )

    @cached_property
    def fingerprint(self) -> str:
        parts = [repr(self._keys), str(self.side), cv2.__version__, np.__version__]
        parts += [path.read_text(encoding="utf-8") for path in _SOURCES]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def ceiling(n: int = 20_000, seed: int = 1) -> dict[str, float]:
    """What the best possible reader of the attributes reaches, by simulation.

    Returns:
        shares of scenes: where the exact posterior's argmax is the votes' label (``all``), where 11 new viewers would
        name that label again (``viewers``), where the argmax finds it with a factor's evidence left out (``without
        <factor>``); the mean entropy of the posterior in nats (``entropy``) and the share of scenes above 0.9 nats.
    """
    rng = np.random.default_rng([seed, 77])
    scenes = [scene.draw_scene(rng) for _ in range(n)]
    labels = np.array([s.label for s in scenes])
    p = np.stack([s.posterior for s in scenes])
    nats = entropy(p, axis=1)
    again = np.array(
        [scene.Scene(s.attributes, s.posterior, rng.multinomial(scene.VIEWERS, s.posterior)).label for s in scenes]
    )
    out = {"all": float((p.argmax(1) == labels).mean()), "viewers": float((again == labels).mean())}
    for dropped in [(f,) for f in scene.FACTORS if f not in ("front", "front2")] + [("front", "front2")]:
        q = np.stack([scene.posterior(s.attributes, without=dropped) for s in scenes]).argmax(1)
        out["without " + "+".join(dropped)] = float((q == labels).mean())
    return out | {"entropy": float(nats.mean()), "entropy > 0.9": float((nats > 0.9).mean())}


def class_areas(n: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """How often and how large each mask class is in the first `n` test pictures of a world at 64 px.

    Returns:
        for each mask class the share of pictures in which it is visible, and the mean share of those pictures' pixels
        that it covers.
    """
    world = World(0, 0, n, seed=seed)
    k = len(painter.MASK_CLASSES)
    shares = np.stack([np.bincount(world[i].mask.ravel(), minlength=k) / world.side**2 for i in range(n)])
    seen = shares >= VISIBLE
    area = (shares * seen).sum(0) / np.maximum(seen.sum(0), 1)
    return {name: (float(seen[:, i].mean()), float(area[i])) for i, name in enumerate(painter.MASK_CLASSES)}


def main() -> None:
    """Print the two tables of the data card."""
    print("| measure | value |\n|---|---|")
    for name, value in ceiling().items():
        print(f"| {name} | {value:.3f} |")
    print("\n| class | split | visible in | mean area where visible |\n|---|---|---|---|")
    for name, (frequency, area) in class_areas().items():
        print(f"| {name} | {'unseen' if name in painter.UNSEEN else 'seen'} | {frequency:.3f} | {area:.3f} |")


if __name__ == "__main__":
    main()
