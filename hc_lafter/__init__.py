"""HybridCascade-LaFTer and the systems it grew from, for finding out what the layers of CLIP are good for.

Rooms, one direction: ``clip`` (a CLIP in hand) -> ``vit`` (the one walk through its vision tower) -> ``features``
(taps of a whole data set, cached) -> the notebooks, which compose them with ``data``, ``analysis``, ``plots`` and
``study``. Axes have one letter everywhere: B images, L layers, W tower width, D shared embedding size, N = h x w
patches, C classes.
"""

from importlib.metadata import version

__version__ = version("hc-lafter")
