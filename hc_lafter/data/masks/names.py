"""Class names of the segmentation sets in the order of their mask indices, and the named zero-shot splits.

Splits are lists of names, never of indices: the same ten numbers name other classes in each of PASCAL Context's two
orders, which is how a published split came to differ from the one that it quotes (`MASK_SPLITS`).
"""

from __future__ import annotations

from hc_lafter.data.world import painter

BACKGROUND = "background"


def _words(text: str, between: str = " ") -> tuple[str, ...]:
    return tuple(text.split(between))


VOC = _words(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
)

# As mmsegmentation's converter writes the ids 1 to 59, and as Cascade-CLIP and SC-CLIP list the classes.
CONTEXT_ALPHABETICAL = _words(
    "aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair cloth "
    "computer cow cup curtain dog door fence floor flower food grass ground horse keyboard light motorbike mountain "
    "mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table track train "
    "tree truck tvmonitor wall water window wood"
)
# As the set's own list of 59 labels and ZS3Net number them: VOC's 20 classes first.
CONTEXT_VOC_FIRST = _words(
    "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep sofa "
    "train tvmonitor bag bed bench book building cabinet ceiling cloth computer cup door fence floor flower food grass "
    "ground keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedclothes "
    "track tree truck wall water window wood"
)
CONTEXT_ORDERS = {"alphabetical": CONTEXT_ALPHABETICAL, "voc_first": CONTEXT_VOC_FIRST}

COCO_THINGS = _words(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush",
    ",",
)
COCO_STUFF = COCO_THINGS + _words(
    "banner,blanket,branch,bridge,building-other,bush,cabinet,cage,cardboard,carpet,ceiling-other,ceiling-tile,cloth,"
    "clothes,clouds,counter,cupboard,curtain,desk-stuff,dirt,door-stuff,fence,floor-marble,floor-other,floor-stone,"
    "floor-tile,floor-wood,flower,fog,food-other,fruit,furniture-other,grass,gravel,ground-other,hill,house,leaves,"
    "light,mat,metal,mirror-stuff,moss,mountain,mud,napkin,net,paper,pavement,pillow,plant-other,plastic,platform,"
    "playingfield,railing,railroad,river,road,rock,roof,rug,salad,sand,sea,shelf,sky-other,skyscraper,snow,solid-other,"
    "stairs,stone,straw,structural-other,table,tent,textile-other,towel,tree,vegetable,wall-brick,wall-concrete,"
    "wall-other,wall-panel,wall-stone,wall-tile,wall-wood,water-other,waterdrops,window-blind,window-other,wood",
    ",",
)
# Ids of the raw stuffthingmaps (COCO's category ids less one) that no class has.
COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
COCO_RAW_IDS = tuple(i for i in range(182) if i not in COCO_GAPS)  # the raw id of each class of `COCO_STUFF`

# name -> (classes of the set, those without pixel labels in training)
MASK_SPLITS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "world24-8": (painter.MASK_CLASSES, painter.UNSEEN),
    # ZegCLIP (CVPR 2023) and Cascade-CLIP: background is ignored
    "voc15-5": (VOC, ("pottedplant", "sheep", "sofa", "train", "tvmonitor")),
    # ZS3Net (NeurIPS 2019): the ten that the literature means by "Context, 10 unseen"
    "zs3net10": (
        CONTEXT_ALPHABETICAL,
        (
            *("aeroplane", "bird", "boat", "cat", "cow"),
            *("fence", "keyboard", "motorbike", "sofa", "tvmonitor"),
        ),
    ),
    # What Cascade-CLIP's released index list names in the order of its own loader; the same list read in the other
    # order is zs3net10.
    "cascade_released10": (
        CONTEXT_ALPHABETICAL,
        ("aeroplane", "bed", "bedclothes", "boat", "bottle", "car", "cloth", "cow", "keyboard", "plate"),
    ),
    # ZegCLIP and Cascade-CLIP, after SPNet (CVPR 2019)
    "coco156-15": (
        COCO_STUFF,
        (
            *("cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds"),
            *("grass", "playingfield", "river", "road", "tree", "wall-concrete"),
        ),
    ),
}

# The words that SCLIP (Wang, Mei and Yuille, ECCV 2024) says for some classes; the training-free releases after it
# start from its lists. A class's score is the highest of its words'.
_PERSON = ("person", *(f"person in {worn}" for worn in ("shirt", "jeans", "dress", "sweater", "skirt", "jacket")))
_BEHIND = _words(
    "sky wall tree wood grass road sea river mountain sands desk bed building cloud lamp door window wardrobe ceiling "
    "shelf curtain stair floor hill rail fence"
)
SCLIP_NAMES: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    VOC: {
        BACKGROUND: _BEHIND,
        "boat": ("ship",),
        "diningtable": ("table",),
        "person": _PERSON,
        "tvmonitor": ("television monitor", "tv monitor", "monitor", "television", "screen"),
    },
    CONTEXT_ALPHABETICAL: {},
    COCO_THINGS: {BACKGROUND: _BEHIND, "person": (*_PERSON, "body")},
    COCO_STUFF: {name: (name.replace(" ", ""),) for name in COCO_THINGS if " " in name},
}
# The words of ClearCLIP (Lan et al., ECCV 2024), one for each class, that differ from the class's own name.
CLEARCLIP_NAMES: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    VOC: {"boat": ("ship",), "diningtable": ("table",)},
}
