"""HybridCascade-LaFTer and the systems it grew from, for finding out what the layers of CLIP are good for.

Seven rooms, imports one way: ``suite`` (what notebooks and the report need) -> ``tuning`` (features, views, the fit
loop) -> ``systems`` (one file each) -> ``clip`` (a CLIP in hand); ``data`` and ``analysis`` know none of them.
``embedded`` holds the shipped weights, ``pretrain`` beside it makes them again. ``files``, ``store`` and ``refusals``
belong to no room and are used by all. Axes have one letter everywhere: B images, L layers, W tower width, D shared
embedding size, N = h x w patches, C classes.
"""

from importlib.metadata import version

__version__ = version("hc-lafter")
