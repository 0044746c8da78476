"""Two pens that draw a picture and its class mask at once: one for places, one for things.

OpenCV draws each shape twice, smooth into the picture and hard-edged into the mask, so that the two never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, ...]  # red, green, blue, 0 to 255


def shade(colour: Colour, factor: float) -> Colour:
    """A colour, darker or brighter."""
    return tuple(int(min(255, c * factor)) for c in colour)


def blend(a: Colour, b: Colour, t: float) -> Colour:
    """From `a` (t = 0) to `b` (t = 1)."""
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b, strict=True))


class Pen:
    """A picture and its mask, both `side` pixels square; shapes in units of the side, y downwards.

    A shape with a class name goes into the mask too, as the name's position in `classes`.
    """

    def __init__(self, side: int, classes: Sequence[str]):
        self.side, self._index = side, {name: i for i, name in enumerate(classes)}
        self.rgb = np.zeros((side, side, 3), np.uint8)
        self.mask = np.zeros((side, side), np.uint8)

    def _fixed(self, values) -> np.ndarray:  # OpenCV's fixed point with four fractional bits
        return np.rint(np.asarray(values, np.float64) * (self.side * 16)).astype(np.int32)

    def _pixels(self, width: float) -> int:
        return max(1, round(width * self.side))

    def poly(self, points, colour: Colour, name: str | None = None) -> None:
        """A filled polygon, points [n, 2]."""
        p = self._fixed(points)
        cv2.fillPoly(self.rgb, [p], colour, cv2.LINE_AA, 4)
        if name is not None:
            cv2.fillPoly(self.mask, [p], self._index[name], cv2.LINE_8, 4)

    def line(self, points, colour: Colour, width: float, name: str | None = None) -> None:
        """An open line through points [n, 2], or many of them [m, n, 2]."""
        p = self._fixed(points)
        p, thick = list(p) if p.ndim == 3 else [p], self._pixels(width)
        cv2.polylines(self.rgb, p, False, colour, thick, cv2.LINE_AA, 4)
        if name is not None:
            cv2.polylines(self.mask, p, False, self._index[name], thick, cv2.LINE_8, 4)

    def ellipse(self, x, y, a, b, colour, name=None, angle=0.0, start=0.0, end=360.0, width=None) -> None:
        """An ellipse with half axes a and b, turned by `angle` degrees; with `width` its outline from start to end."""
        centre = tuple(round(v * self.side * 16) for v in (x, y))
        axes = tuple(max(1, round(v * self.side * 16)) for v in (a, b))
        thick = -1 if width is None else self._pixels(width)
        cv2.ellipse(self.rgb, centre, axes, angle, start, end, colour, thick, cv2.LINE_AA, 4)
        if name is not None:
            cv2.ellipse(self.mask, centre, axes, angle, start, end, self._index[name], thick, cv2.LINE_8, 4)

    def gradient(self, top: float, bottom: float, upper, lower, name: str) -> None:
        """A horizontal band whose colour runs from `upper` to `lower`."""
        i, j = round(top * self.side), round(bottom * self.side)
        ramp = np.linspace(0, 1, max(1, j - i), dtype=np.float32)[:, None]
        rows = np.asarray(upper, np.float32) * (1 - ramp) + np.asarray(lower, np.float32) * ramp
        self.rgb[i:j] = rows[:, None].astype(np.uint8)
        self.mask[i:j] = self._index[name]


@dataclass(frozen=True)
class Stamp:
    """A pen for one thing of the class `name`: lengths in units of its height `s`, counted from (x, y), v upwards.

    (x, y) is the middle of what hangs in the sky and the foot of what stands on the ground. With ``mark=False`` a
    stroke goes into the picture alone.
    """

    pen: Pen
    name: str
    x: float
    y: float
    s: float

    def _at(self, points):
        return [(self.x + u * self.s, self.y - v * self.s) for u, v in points]

    def poly(self, points, colour, mark=True) -> None:
        self.pen.poly(self._at(points), colour, self.name if mark else None)

    def box(self, left, bottom, right, top, colour, mark=True) -> None:
        self.poly([(left, bottom), (left, top), (right, top), (right, bottom)], colour, mark)

    def line(self, points, colour, width, mark=True, extra=0.0) -> None:
        """`extra` is in units of the picture's side: it keeps a thin line in a small thing."""
        self.pen.line(self._at(points), colour, width * self.s + extra, self.name if mark else None)

    def ellipse(self, u, v, a, b, colour, mark=True, angle=0.0, start=0.0, end=360.0, width=None) -> None:
        ((x, y),) = self._at([(u, v)])
        name, width = self.name if mark else None, None if width is None else width * self.s
        self.pen.ellipse(x, y, a * self.s, b * self.s, colour, name, angle, start, end, width)
