"""Class names of the segmentation sets in the order of their mask indices, and the named splits, out of `names.toml`.

Splits are lists of names, never of indices: the same ten numbers name other classes in each of PASCAL Context's two
orders, which is how a published split came to differ from the one that it quotes (`MASK_SPLITS`).
"""

from __future__ import annotations

from hc_lafter.data.tables import read_table
from hc_lafter.data.world import painter

_NAMES = read_table(__file__, "names.toml")
BACKGROUND = "background"
VOC, CONTEXT_ALPHABETICAL, CONTEXT_VOC_FIRST, COCO_THINGS = (
    _NAMES[key] for key in ("voc", "context_alphabetical", "context_voc_first", "coco_things")
)
CONTEXT_ORDERS = {"alphabetical": CONTEXT_ALPHABETICAL, "voc_first": CONTEXT_VOC_FIRST}
COCO_STUFF = COCO_THINGS + _NAMES["coco_stuff"]
COCO_RAW_IDS = tuple(i for i in range(182) if i not in _NAMES["coco_gaps"])  # the raw id of each class of `COCO_STUFF`

_SETS = {"voc": VOC, "context_alphabetical": CONTEXT_ALPHABETICAL, "coco_stuff": COCO_STUFF}
# name -> (classes of the set, those without pixel labels in training)
MASK_SPLITS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "world24-8": (painter.MASK_CLASSES, painter.UNSEEN),
    **{name: (_SETS[split["set"]], split["unseen"]) for name, split in _NAMES["splits"].items()},
}
# SCLIP's words for some classes of a set; a class that is not named is its own word
SCLIP_NAMES: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    VOC: _NAMES["sclip"]["voc"],
    CONTEXT_ALPHABETICAL: {},
    COCO_THINGS: _NAMES["sclip"]["coco_things"],
    COCO_STUFF: {name: (name.replace(" ", ""),) for name in COCO_THINGS if " " in name},
}
# The words of ClearCLIP (Lan et al., ECCV 2024), one for each class, that differ from the class's own name.
CLEARCLIP_NAMES: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    VOC: {"boat": ("ship",), "diningtable": ("table",)},
}
