"""Draws a scene of the embedded world: an anti-aliased picture and a class mask of the same strokes.

Every shape is given in units of the picture's side, so one scene can be drawn at any size: 64 px for the tower, 512 px
for a front page. The shipped CLIP has learned from these very pixels: to change one is to train it anew.
"""

from __future__ import annotations

import cv2
import numpy as np

from hc_lafter.data.tables import read_table

from .pen import Pen, Stamp, blend, shade

# 32 classes; a mask holds positions. UNSEEN: named in captions, kept from whatever learns from masks.
MASK_CLASSES = (
    *("sky", "cloud", "sea", "sand", "grass", "snow", "road", "wall", "floor", "mountain"),
    *("sun", "moon", "balloon", "bird", "rainbow", "lightning", "window"),
    *("house", "tree", "castle", "grave"),
    *("dog", "cake", "skull", "spider", "flower", "boat", "car", "gift", "fire", "snake", "person"),
)
UNSEEN = ("sea", "wall", "dog", "cake", "skull", "moon", "house", "spider")
SEEN = tuple(name for name in MASK_CLASSES if name not in UNSEEN)
THINGS = MASK_CLASSES[MASK_CLASSES.index("sun") :]

_COLOURS = read_table(__file__, "colours.toml")
PALETTE, COLOURS, TONES = (_COLOURS[part] for part in ("palette", "choices", "tones"))


# --- places ---


def _indoors(pen: Pen, cellar: bool, wall, floor, horizon: float) -> None:
    if cellar:
        wall, floor = shade(blend(wall, (96, 90, 90), 0.45), 0.75), shade(floor, 0.7)
    else:
        wall = blend(wall, (250, 246, 236), 0.35)
    pen.gradient(0, horizon, shade(wall, 1.02), shade(wall, 0.92), "wall")
    pen.gradient(horizon, 1, shade(floor, 0.9), shade(floor, 1.1), "floor")
    if cellar:  # bricks
        for row in range(5):
            y = horizon * (row + 1) / 5
            pen.line([(0, y), (1, y)], shade(wall, 0.72), 0.008)
            for k in range(4):
                x = 0.25 * k + (0.125 if row % 2 else 0.02)
                pen.line([(x, y), (x, y - horizon / 5)], shade(wall, 0.72), 0.008)
    else:  # wallpaper stripes, a skirting board, floorboards
        for k in range(7):
            x = k / 7 + 0.05
            pen.line([(x, 0), (x, horizon)], shade(wall, 0.95), 0.02)
        pen.line([(0, horizon), (1, horizon)], (246, 244, 238), 0.022)
    for k in range(1, 4):
        y = horizon + (1 - horizon) * (k / 4) ** 1.3
        pen.line([(0, y), (1, y)], shade(floor, 0.84), 0.008)


def _sky(pen: Pen, a: dict[str, str], horizon: float) -> None:
    night = a["sky"] == "moon" or a["tone"] == "dark"
    upper, lower = ((30, 40, 92), (92, 98, 150)) if night else ((92, 158, 224), (196, 224, 242))
    if a["weather"] in _COLOURS["clouds"]:
        grey = (88, 94, 108) if a["weather"] == "storm" else (158, 166, 178)
        upper, lower = blend(upper, grey, 0.75), blend(lower, grey, 0.6)
    if a["tone"] in ("warm", "red") and not night:
        upper, lower = blend(upper, (242, 150, 110), 0.35), blend(lower, (252, 206, 140), 0.7)
    pen.gradient(0, horizon, upper, lower, "sky")


def _ground(pen: Pen, setting: str, horizon: float, rng: np.random.Generator) -> None:
    (name, colour), top = _COLOURS["ground"][setting], horizon
    if setting == "beach":
        top = horizon + rng.uniform(0.12, 0.18)
        pen.gradient(horizon, top, (36, 104, 164), (84, 172, 196), "sea")
        for _ in range(6):
            x, y = rng.uniform(0, 0.9), rng.uniform(horizon + 0.02, top - 0.01)
            pen.line([(x, y), (x + rng.uniform(0.05, 0.12), y)], (176, 220, 228), 0.008)
    pen.gradient(top, 1, colour, shade(colour, 0.82), name)
    if setting in ("meadow", "mountains"):
        for x, y in zip(rng.uniform(0, 1, 14), rng.uniform(top + 0.03, 1, 14), strict=True):
            pen.line([(x, y), (x + 0.008, y - 0.03)], shade(colour, 0.72), 0.008)
    elif setting == "street":
        pen.gradient(top, top + 0.05, (178, 174, 168), (160, 156, 152), name)
        for k in range(4):
            x = k * 0.28 + 0.04
            pen.poly([(x, 0.84), (x + 0.14, 0.84), (x + 0.13, 0.87), (x - 0.01, 0.87)], (232, 226, 200))
    elif setting in ("desert", "snowfield"):
        for _ in range(3):
            x, y, w = rng.uniform(0, 1), rng.uniform(top + 0.06, 0.95), rng.uniform(0.2, 0.4)
            pen.ellipse(x, y, w, 0.03, shade(colour, 0.94))


def _mountains(pen: Pen, horizon: float, rng: np.random.Generator) -> None:
    foot, cap = horizon + 0.01, 0.28
    for k, x in enumerate(rng.permutation([0.12, 0.5, 0.86]) + rng.uniform(-0.05, 0.05, 3)):
        h, w = rng.uniform(0.28, 0.44), rng.uniform(0.28, 0.38)
        colour, peak = shade((112, 116, 140), 0.86 + 0.12 * k), foot - h
        left, right = (x - w * cap, peak + h * cap), (x + w * cap, peak + h * cap)
        pen.poly([(x - w, foot), (x, peak), (x + w, foot)], colour, "mountain")
        pen.poly([(x, peak), (x + w, foot), (x + 0.1 * w, foot)], shade(colour, 0.86))
        snow = [left, (x, peak), right, (x + w * 0.1, peak + h * 0.2), (x - w * 0.06, peak + h * 0.3)]
        pen.poly(snow, (244, 247, 252))


def _clouds(pen: Pen, colour, rng: np.random.Generator) -> None:
    for _ in range(3):
        x, y, r = rng.uniform(0.05, 0.95), rng.uniform(0.06, 0.26), rng.uniform(0.055, 0.09)
        for dx, dy, k in ((-1.3, 0.3, 0.8), (0, 0, 1.1), (1.3, 0.25, 0.85), (0.5, 0.4, 0.9)):
            pen.ellipse(x + dx * r, y + dy * r, r * k * 1.1, r * k * 0.75, colour, "cloud")


def _rainbow(pen: Pen, horizon: float, rng: np.random.Generator) -> None:
    x, r = rng.uniform(0.35, 0.65), rng.uniform(0.36, 0.44)
    for k, colour in enumerate(_COLOURS["rainbow"]):
        pen.ellipse(x, horizon, r - 0.02 * k, r - 0.02 * k, colour, "rainbow", 0, 180, 360, 0.024)


def _lightning(pen: Pen, horizon: float, rng: np.random.Generator) -> None:
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.02, 0.08)
    h = horizon - y - 0.02
    p = [(0.02, 0), (0.14, 0), (0.06, 0.36), (0.17, 0.36), (-0.06, 1), (0, 0.52), (-0.10, 0.52)]
    pen.poly([(x + dx, y + dy * h) for dx, dy in p], (255, 246, 160), "lightning")


# --- things: p is the stamp, c the colour (None where a thing has none of its own) ---


def _sun(p: Stamp, c) -> None:
    for k in range(10):
        u, v = np.cos(k * np.pi / 5), -np.sin(k * np.pi / 5)
        p.line([(0.62 * u, 0.62 * v), (0.9 * u, 0.9 * v)], (255, 214, 92), 0, extra=0.014)
    p.ellipse(0, 0, 0.5, 0.5, (255, 206, 64))


def _moon(p: Stamp, c) -> None:
    p.ellipse(0, 0, 0.58, 0.58, c)
    for u, v, r in ((-0.2, 0.1, 0.12), (0.18, -0.2, 0.15), (0.12, 0.25, 0.08)):
        p.ellipse(u, v, r, r, shade(c, 0.86), mark=False)


def _balloon(p: Stamp, c) -> None:
    p.line([(0, -0.45), (0.05, -0.8), (-0.02, -1.1)], (90, 84, 84), 0, mark=False, extra=0.006)
    p.poly([(0, -0.4), (-0.1, -0.58), (0.1, -0.58)], shade(c, 0.8))
    p.ellipse(0, 0, 0.42, 0.5, c)
    p.ellipse(-0.15, 0.2, 0.09, 0.13, blend(c, (255, 255, 255), 0.6), mark=False)


def _bird(p: Stamp, c) -> None:
    for side in (-1, 1):
        wing = ((0.95, 0.5), (0.35, 0.3), (0.0, -0.02), (0.0, -0.2), (0.42, -0.08))
        p.poly([(side * u, v) for u, v in wing], shade(c, 0.92))
    p.ellipse(0, -0.12, 0.42, 0.24, c, angle=12)
    p.ellipse(0.4, 0, 0.19, 0.18, c)
    p.poly([(0.54, 0.06), (0.8, -0.04), (0.54, -0.1)], (236, 160, 50))


def _window(p: Stamp, c) -> None:
    w, h = 0.5, 0.6
    p.poly([(-w, h), (w, h), (w, -h), (-w, -h)], (246, 240, 226))
    for u in (-0.46 * w, 0.46 * w):
        for v, glass in ((0.47 * h, (150, 200, 236)), (-0.47 * h, (176, 218, 242))):
            left, right, low, high = u - 0.38 * w, u + 0.38 * w, v - 0.38 * h, v + 0.38 * h
            p.poly([(left, high), (right, high), (right, low), (left, low)], glass, mark=False)


def _house(p: Stamp, c) -> None:
    p.box(-0.42, 0, 0.42, 0.55, c)
    p.box(0.24, 0.6, 0.34, 0.98, (120, 84, 72))
    p.poly([(-0.4956, 0.55), (0, 1), (0.4956, 0.55)], blend(shade(c, 0.5), (120, 60, 50), 0.5))
    p.box(-0.08, 0, 0.08, 0.28, (104, 70, 48), mark=False)
    for u in (-0.25, 0.25):
        p.box(u - 0.08, 0.26, u + 0.08, 0.43, (252, 232, 150), mark=False)


def _tree(p: Stamp, c) -> None:
    p.poly([(-0.07, 0), (-0.05, 0.5), (0.05, 0.5), (0.07, 0)], (108, 74, 48))
    if c == PALETTE["black"]:  # a bare tree
        for u, v in ((-0.3, 0.8), (-0.16, 0.98), (0.04, 1.0), (0.2, 0.92), (0.32, 0.74)):
            p.line([(0, 0.42), (0.5 * u, 0.62), (u, v)], (74, 58, 50), 0.03, extra=0.006)
        return
    for u, v, r in ((-0.2, 0.52, 0.22), (0.2, 0.52, 0.22), (0, 0.72, 0.27)):
        p.ellipse(u, v, r, r, shade(c, 0.88 + 0.3 * (v - 0.5)))
    for u, v in ((-0.12, 0.78), (0.1, 0.66), (-0.2, 0.55)):
        p.ellipse(u, v, 0.07, 0.06, shade(c, 1.15), mark=False)


def _castle(p: Stamp, c) -> None:
    for u, w, h in ((0, 0.34, 0.56), (-0.36, 0.13, 0.86), (0.36, 0.13, 0.86)):
        stone = shade(c, 0.94 if u else 0.84)
        p.box(u - w, 0, u + w, h, stone)
        for k in range(3):
            notch = u - w + (k + 0.5) * 2 * w / 3
            p.box(notch - 0.22 * w, h, notch + 0.22 * w, h + 0.1, stone)
    p.poly([(-0.1, 0), (-0.1, 0.2), (0, 0.3), (0.1, 0.2), (0.1, 0)], (84, 62, 52), mark=False)
    for u in (-0.36, 0.36):
        p.ellipse(u, 0.62, 0.035, 0.07, (60, 56, 66), mark=False)


def _grave(p: Stamp, c) -> None:
    for u, k in ((-0.34, 0.75), (0.3, 1.0)):
        w, h = 0.2 * k, 0.62 * k
        p.box(u - w, 0, u + w, h, (150, 150, 156))
        p.ellipse(u, h, w, w, (150, 150, 156))
        p.line([(u, h + 0.3 * w), (u, 0.45 * h)], (94, 94, 102), 0.05 * k, mark=False)
        p.line([(u - 0.45 * w, 0.85 * h), (u + 0.45 * w, 0.85 * h)], (94, 94, 102), 0.05 * k, mark=False)


def _dog(p: Stamp, c) -> None:
    for u in (-0.3, -0.16, 0.14, 0.28):
        p.box(u - 0.055, 0, u + 0.055, 0.34, shade(c, 0.9))
    p.ellipse(0, 0.42, 0.4, 0.2, c)
    p.line([(-0.36, 0.5), (-0.5, 0.76)], c, 0.08)
    p.ellipse(0.36, 0.7, 0.2, 0.19, c)
    p.ellipse(0.52, 0.64, 0.12, 0.09, shade(c, 1.08))
    p.ellipse(0.25, 0.72, 0.075, 0.19, shade(c, 0.72) if c != PALETTE["black"] else (84, 80, 84), angle=15)
    p.ellipse(0.62, 0.67, 0.04, 0.035, (30, 26, 26), mark=False)
    p.ellipse(0.42, 0.76, 0.03, 0.03, (30, 26, 26), mark=False)


def _cake(p: Stamp, c) -> None:
    crust = blend(c, (214, 166, 110), 0.35)
    p.box(-0.44, 0.05, 0.44, 0.42, crust)
    p.ellipse(0, 0.06, 0.44, 0.07, crust)
    p.ellipse(0, 0.42, 0.44, 0.1, c)
    for k in range(5):
        p.ellipse((k - 2) * 0.18, 0.36, 0.07, 0.11, c)
    for u in (-0.2, 0.0, 0.2):
        p.box(u - 0.03, 0.44, u + 0.03, 0.74, (120, 170, 222))
        p.ellipse(u, 0.81, 0.045, 0.085, (255, 190, 60))


def _skull(p: Stamp, c) -> None:
    bone, dark = (232, 226, 206), (38, 32, 34)
    p.poly([(-0.22, 0), (-0.26, 0.4), (0.26, 0.4), (0.22, 0)], shade(bone, 0.94))
    p.ellipse(0, 0.58, 0.42, 0.38, bone)
    for u in (-0.17, 0.17):
        p.ellipse(u, 0.54, 0.115, 0.125, dark, mark=False)
    p.poly([(0, 0.42), (-0.06, 0.28), (0.06, 0.28)], dark, mark=False)
    for u in (-0.13, -0.04, 0.05, 0.14):
        p.line([(u, 0.2), (u, 0.02)], (60, 52, 50), 0.02, mark=False)


def _spider(p: Stamp, c) -> None:
    for side in (-1, 1):
        for k, (up, down) in enumerate(((0.95, 0.62), (0.84, 0.36), (0.62, 0.12), (0.5, 0.0))):
            knee, foot = (side * (0.28 + 0.03 * k), up), (side * (0.58 - 0.04 * k), down)
            p.line([(0, 0.44), knee, foot], c, 0.06, extra=0.006)
    p.ellipse(0, 0.46, 0.32, 0.29, c)
    p.ellipse(0, 0.2, 0.16, 0.14, shade(c, 1.25))
    for u in (-0.06, 0.06):
        p.ellipse(u, 0.17, 0.03, 0.03, (226, 60, 50), mark=False)


def _flower(p: Stamp, c) -> None:
    heart, green = (250, 206, 70) if c != PALETTE["yellow"] else (150, 92, 40), (66, 128, 60)
    for u, k in ((-0.3, 0.7), (0.28, 0.8), (0, 1.0)):
        top = 0.72 * k
        p.line([(u, 0), (u, top)], green, 0.07)
        p.ellipse(u + 0.1, 0.2, 0.13, 0.055, green, angle=-30)
        for t in np.arange(5) * (2 * np.pi / 5):
            p.ellipse(u + 0.15 * np.cos(t), top - 0.15 * np.sin(t), 0.13, 0.13, c)
        p.ellipse(u, top, 0.1, 0.1, heart)


def _boat(p: Stamp, c) -> None:
    sail = (250, 246, 236)
    p.poly([(-0.48, 0.26), (0.48, 0.26), (0.3, 0), (-0.32, 0)], c)
    p.line([(-0.02, 0.26), (-0.02, 1)], (110, 78, 52), 0.04)
    p.poly([(0.03, 0.96), (0.4, 0.34), (0.03, 0.34)], sail)
    p.poly([(-0.07, 0.86), (-0.36, 0.34), (-0.07, 0.34)], shade(sail, 0.9))


def _car(p: Stamp, c) -> None:
    glass = (176, 212, 232)
    p.poly([(-0.34, 0.36), (-0.2, 0.66), (0.2, 0.66), (0.36, 0.36)], c)
    p.poly([(-0.25, 0.38), (-0.16, 0.59), (-0.02, 0.59), (-0.02, 0.38)], glass)
    p.poly([(0.04, 0.38), (0.04, 0.59), (0.17, 0.59), (0.28, 0.38)], glass)
    p.poly([(-0.6, 0.1), (-0.58, 0.36), (0.5, 0.38), (0.6, 0.26), (0.6, 0.1)], c)
    for u in (-0.34, 0.34):
        p.ellipse(u, 0.1, 0.13, 0.13, (36, 34, 38))
        p.ellipse(u, 0.1, 0.06, 0.06, (186, 186, 192))
    p.ellipse(0.56, 0.26, 0.04, 0.05, (255, 240, 170), mark=False)


def _gift(p: Stamp, c) -> None:
    ribbon = (250, 236, 190) if c != PALETTE["yellow"] else (206, 60, 60)
    p.box(-0.4, 0, 0.4, 0.62, c)
    p.box(-0.45, 0.56, 0.45, 0.74, shade(c, 1.12))
    p.box(-0.08, 0, 0.08, 0.74, ribbon, mark=False)
    for u, angle in ((-0.16, 32), (0.16, -32)):
        p.ellipse(u, 0.83, 0.17, 0.08, ribbon, angle=angle)


def _fire(p: Stamp, c) -> None:
    for angle in (-14, 14):
        p.ellipse(0, 0.06, 0.4, 0.06, (104, 70, 46), angle=angle)
    for k, flame in ((1.0, (226, 70, 36)), (0.72, (248, 150, 44)), (0.42, (255, 228, 120))):
        w, h = 0.36 * k, 0.95 * k
        tongues = [(-0.62 * w, 0.62 * h), (-0.3 * w, 0.45 * h), (0.05 * w, h), (0.4 * w, 0.5 * h), (0.72 * w, 0.68 * h)]
        foot = [(w, 0.1 + 0.16 * h), (0.5 * w, 0.06), (-0.5 * w, 0.06)]
        p.poly([(-w, 0.1 + 0.18 * h), *tongues, *foot], flame)


def _snake(p: Stamp, c) -> None:
    mark = shade(c, 1.6 if c == PALETTE["black"] else 0.6)
    for k, w in enumerate((0.46, 0.36, 0.25)):  # coiled up, head raised
        v = 0.12 + 0.17 * k
        p.ellipse(-0.06, v, w, 0.14, shade(c, 0.88 + 0.08 * k))
        p.ellipse(-0.06, v, w, 0.14, mark, False, 0, 20, 160, 0.02)
    p.line([(0.08, 0.5), (0.2, 0.66), (0.16, 0.84)], c, 0.16)
    p.ellipse(0.24, 0.88, 0.21, 0.13, c)
    p.ellipse(0.3, 0.92, 0.035, 0.035, (250, 236, 120), mark=False)
    p.line([(0.44, 0.86), (0.6, 0.82)], (214, 50, 60), 0.03, mark=False)


_THINGS = {
    "sun": _sun, "moon": _moon, "balloon": _balloon, "bird": _bird, "window": _window, "house": _house, "tree": _tree,
    "castle": _castle, "grave": _grave, "dog": _dog, "cake": _cake, "skull": _skull, "spider": _spider,
    "flower": _flower, "boat": _boat, "car": _car, "gift": _gift, "fire": _fire, "snake": _snake,
}  # fmt: skip


def _person(p: Stamp, expression: str, shirt, rng: np.random.Generator) -> None:
    """Head and shoulders; eyes, brows and mouth carry the expression."""
    skin, hair = (_COLOURS[kind][rng.integers(len(_COLOURS[kind]))] for kind in ("skin", "hair"))
    ink, white = (40, 30, 30), (255, 255, 255)
    p.poly([(-0.44, 0), (-0.34, 0.22), (0.34, 0.22), (0.44, 0)], shirt)
    p.ellipse(0, 0.2, 0.34, 0.09, shirt)
    p.poly([(-0.09, 0.34), (0.09, 0.34), (0.1, 0.18), (-0.1, 0.18)], shade(skin, 0.9))
    r = 0.36
    p.ellipse(0, 0.66, r * 1.06, r * 1.06, hair)
    p.ellipse(0, 0.57, r * 0.94, r, skin)
    p.ellipse(0, 0.88, r * 0.8, r * 0.3, hair)
    eye, wide = 0.62, expression in ("scared", "surprised")
    slope = {"angry": 0.09, "disgusted": 0.06, "sad": -0.08, "scared": -0.07}.get(expression, 0.0)
    for side in (-1, 1):
        u, brow, tilt = side * 0.15, eye + (0.19 if wide else 0.13), side * slope
        if expression in ("calm", "happy"):
            start = 180 if expression == "happy" else 0
            p.ellipse(u, 0.6, 0.065, 0.05, ink, False, 0, start, start + 180, 0.032)
        else:
            p.ellipse(u, eye, 0.085 if wide else 0.07, 0.1 if wide else 0.05, white, mark=False)
            p.ellipse(u, eye, 0.04, 0.045, ink, mark=False)
        p.line([(u - 0.09, brow - tilt), (u + 0.09, brow + tilt)], shade(hair, 0.8), 0.036, mark=False)
    _mouth(p, expression)


def _mouth(p: Stamp, expression: str) -> None:
    red, v = (176, 56, 56), 0.4
    if expression == "happy":
        p.ellipse(0, v + 0.04, 0.17, 0.13, red, False, 0, 0, 180)
    elif expression == "sad":
        p.ellipse(0, v - 0.1, 0.13, 0.1, red, False, 0, 200, 340, 0.04)
        p.ellipse(-0.2, 0.48, 0.032, 0.06, (120, 186, 240), mark=False)
    elif expression == "angry":
        p.poly([(-0.15, v - 0.06), (-0.12, v + 0.04), (0.12, v + 0.04), (0.15, v - 0.06)], (250, 246, 240), mark=False)
        p.line([(-0.15, v - 0.01), (0.15, v - 0.01)], red, 0.028, mark=False)
    elif expression == "scared":
        p.line([(k * 0.055, v - (0.03 if k % 2 else -0.03)) for k in range(-3, 4)], red, 0.036, mark=False)
    elif expression == "disgusted":
        p.ellipse(-0.02, v - 0.07, 0.12, 0.07, red, False, 0, 190, 350, 0.036)
        p.ellipse(0.06, v - 0.06, 0.06, 0.09, (96, 168, 84), mark=False)
    elif expression == "surprised":
        p.ellipse(0, v - 0.02, 0.075, 0.1, (110, 34, 40), mark=False)
    else:
        p.ellipse(0, v + 0.06, 0.12, 0.07, red, False, 0, 30, 150, 0.032)


# --- the whole picture ---


def draw_colours(rng: np.random.Generator) -> dict[str, str]:
    """A colour name for each class that has one; colours are drawn without looking at the emotion."""
    chances = zip(COLOURS.items(), rng.random(len(COLOURS)), strict=True)
    return {name: choices[int(u * len(choices))] for (name, choices), u in chances}


def paint(
    attributes: dict[str, str], colours: dict[str, str], rng: np.random.Generator, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        attributes: one value per factor of `scene.FACTORS`.
        colours: a colour name per coloured class, as `draw_colours` gives.
        rng: decides positions, sizes and the nuisance of skin and hair.
        side: height and width in pixels.

    Returns:
        picture [side, side, 3] uint8 RGB, mask [side, side] uint8 with indices into `MASK_CLASSES`.
    """
    a, pen = attributes, Pen(2 * side, MASK_CLASSES)  # drawn twice as large, then averaged: smooth edges at any size
    colour = {name: PALETTE[c] for name, c in colours.items()}

    def draw(name: str, x: float, y: float, s: float) -> None:
        _THINGS[name](Stamp(pen, name, x, y, s), colour.get(name))

    horizon = rng.uniform(0.50, 0.62)
    if a["weather"] == "indoors":
        _indoors(pen, a["setting"] == "cellar", colour["wall"], colour["floor"], horizon)
    else:
        _sky(pen, a, horizon)
    slots = rng.permutation([0.20, 0.50, 0.80])
    back_x, sky_x = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.85)
    jitter, sizes = rng.uniform(-0.04, 0.04, (4, 2)), rng.uniform(0.85, 1.15, 5)
    sky = a["sky"]
    if a["weather"] != "indoors":
        if sky == "rainbow":
            _rainbow(pen, horizon, rng)
        elif sky in ("sun", "moon"):
            draw(sky, sky_x, rng.uniform(0.14, 0.24), 0.26 * sizes[0])
        if a["weather"] in _COLOURS["clouds"]:
            _clouds(pen, _COLOURS["clouds"][a["weather"]], rng)
        if sky == "lightning":
            _lightning(pen, horizon, rng)
        if a["setting"] == "mountains":
            _mountains(pen, horizon, rng)
        _ground(pen, a["setting"], horizon, rng)
    if sky == "window":
        draw(sky, sky_x, horizon * 0.45, 0.38 * sizes[0])
    if a["back"] != "none":
        draw(a["back"], back_x, horizon + 0.06, 0.48 * sizes[1])
    if sky in ("balloon", "bird"):
        for k in range(2 if sky == "bird" else 3):
            x, y = sky_x + (k - 1) * 0.19 + jitter[k, 0], rng.uniform(0.14, 0.3)
            draw(sky, x, y, (0.16 if sky == "bird" else 0.23) * sizes[0])
    for k, factor in enumerate(("front", "front2")):
        if a[factor] != "none":
            s = (0.42 if k == 0 else 0.38) * sizes[2 + k]
            draw(a[factor], slots[k] + jitter[k, 0], 0.93 + 0.4 * jitter[k, 1], s)
    if a["face"] != "none":
        stamp = Stamp(pen, "person", slots[2] + jitter[3, 0], 1.0, 0.48 * sizes[4])
        _person(stamp, a["face"], colour["person"], rng)
    _weather(pen, a["weather"], rng)
    picture = cv2.resize(pen.rgb, (side, side), interpolation=cv2.INTER_AREA)
    return _grade(picture, a, rng), np.ascontiguousarray(pen.mask[1::2, 1::2])


def _weather(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    """Rain and fog lie over everything and belong to no class."""
    if weather in ("rain", "storm"):
        count, slant = (34, 0.03) if weather == "rain" else (46, 0.07)
        start, fall = rng.uniform(-0.05, 1, (count, 2)), np.array([-slant, 0.09])
        pen.line(np.stack([start, start + fall], axis=1), (206, 218, 232), 0.008)
    elif weather == "fog":
        y = np.linspace(0, 1, pen.side, dtype=np.float32)
        veil = (0.30 + 0.38 * np.exp(-(((y - 0.5) / 0.2) ** 2)))[:, None, None]
        pen.rgb = (pen.rgb * (1 - veil) + np.float32(208) * veil).astype(np.uint8)


def _grade(picture: np.ndarray, a: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Tone (a curve per channel; the grey one also loses saturation) and film grain."""
    gain, tint, gamma = TONES[a["tone"]]
    level = np.arange(256, dtype=np.float32)[:, None] / 255
    table = np.clip(255 * level**gamma * np.asarray(gain, np.float32) + np.asarray(tint, np.float32), 0, 255)
    picture = cv2.LUT(picture, table.astype(np.uint8).reshape(1, 256, 3))
    if a["tone"] == "grey":
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        picture = cv2.addWeighted(picture, 0.45, grey, 0.55, 0)
    if a["grain"] == "grainy":
        noise = rng.standard_normal(picture.shape[:2], dtype=np.float32)[..., None] * 10
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return picture
