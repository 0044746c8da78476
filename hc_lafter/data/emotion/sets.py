"""The published emotion sets: what a spec names, by its prefix or by its files.

``emoset:FOLDER``, ``fi:FOLDER`` and so on say what a folder is; without the prefix a folder is recognised where its
files leave no doubt. The folder may also be the one above. A new set is a row of `SETS`.

Classes are canonical names in one order per wheel (Mikels' as in EmoSet-118K's info.json, Ekman's as in Emotion6's
header, with joy for happiness), whatever the release calls and numbers them. Published splits are used where there are
any; a missing one is a seeded, stratified piece of train, never of test. Where the release has counts, a data set's
``votes`` holds them and ``distributions`` their shares; where it has frequencies, there are no ``votes``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hc_lafter.data.emotion import labels, votes
from hc_lafter.data.listing import Listing, existing, folders, split_spec
from hc_lafter.data.masks.sets import SETS as MASK_SETS
from hc_lafter.data.own.folder import list_images


@dataclass(frozen=True)
class _Format:
    """``marks``: what it is recognised by, in words; ``fits``: whether a path has them; ``certain``: whether they are
    enough without a prefix, for class folders named after emotions may be anybody's."""

    title: str
    marks: str
    fits: Callable[[Path], bool]
    listing: Callable[[Path], Listing]
    certain: Callable[[Path], bool] = lambda path: True


def _called(*stems: str) -> Callable[[Path], bool]:
    """Whether a folder's name, letters and digits alone, starts with one of the stems, or is it where it is short."""

    def test(path: Path) -> bool:
        name = re.sub("[^a-z0-9]", "", path.name.lower())
        return any(name == stem or (len(stem) > 4 and name.startswith(stem)) for stem in stems)

    return test


def _ldl(title: str) -> _Format:
    return _Format(
        title,
        "ground_truth.txt with a column for each of Mikels' eight emotions",
        votes.is_ldl,
        partial(votes.list_ldl, title=title),
        lambda path: votes.is_ldl(path) and votes.annotators(path) == votes.ANNOTATORS[title],
    )


SETS = {
    "emoset": _Format("EmoSet-118K", "image/ beside train.json", labels.is_emoset, labels.list_emoset),
    "fi": _Format(
        "FI",
        "folders named after Mikels' eight emotions, or lists of name and emotion",
        labels.is_fi,
        labels.list_fi,
        _called("fi", "fi8", "fidataset", "emotiondataset", "flickrinstagram"),
    ),
    "emotion6": _Format(
        "Emotion6",
        "ground_truth.txt with columns [prob. ...], or Emotion6.json",
        votes.is_emotion6,
        votes.list_emotion6,
    ),
    "flickr_ldl": _ldl("Flickr_LDL"),
    "twitter_ldl": _ldl("Twitter_LDL"),
    "artphoto": _Format(
        "ArtPhoto",
        "images named like amusement_0001.jpg",
        labels.is_artphoto,
        labels.list_artphoto,
        _called("testimagesartphoto", "artphoto"),
    ),
    "abstract": _Format("Abstract", "ABSTRACT_groundTruth.csv", votes.is_abstract, votes.list_abstract),
    "fer2013": _Format(
        "FER2013",
        "a csv with the columns emotion and pixels, or train/angry and the like",
        labels.is_fer2013,
        labels.list_fer2013,
        lambda path: labels.fer_table(path) is not None or _called("fer2013")(path),
    ),
    "rafdb": _Format(
        "RAF-DB",
        "EmoLabel/list_patition_label.txt, or folders 1 to 7",
        labels.is_rafdb,
        labels.list_rafdb,
        labels.has_raf_list,
    ),
}


def recognise(spec: str | Path) -> tuple[str, Path] | None:
    """The set's name in `SETS` and its folder (FER2013: or csv); None for a path that is none of them.

    Raises:
        ValueError: as `listing.split_spec`; a prefix whose set is not there; a folder that holds two sets.
    """
    name, path = split_spec(spec, [*SETS, *MASK_SETS])  # a spec of the latter comes here where it is misspelled
    if name is None and not path.exists():
        return None  # whoever opens it says so
    path = existing(path, f" behind {name}")
    sets = SETS if name is None else {name: SETS[name]}
    for places in ([path], folders(path)):
        found = [(n, p) for p in places for n, f in sets.items() if (name or f.certain(p)) and f.fits(p)]
        if len(found) > 1:
            both = ", ".join(f"{n}:{p}" for n, p in found)
            raise ValueError(f"{path} holds more than one data set: name the one that you mean ({both}).")
        if found:
            return found[0]
        doubtful = next((p for p in places if name is None and votes.is_ldl(p)), None)
        if doubtful is not None:
            raise ValueError(
                f"{doubtful} may be Flickr_LDL or Twitter_LDL: write flickr_ldl:{doubtful} or twitter_ldl:{doubtful}."
            )
    if name:
        fmt = SETS[name]
        raise ValueError(f"{path} is no {fmt.title}, nor holds it one folder below ({fmt.marks}): correct the path.")
    return None


def list_data(spec: str | Path) -> Listing:
    """What any spec of files names: a published emotion set, else a folder of class folders or a csv. Reads no image.

    Raises:
        ValueError: as `recognise` and `own.folder.list_images`; a file of the set is not as it was published.
    """
    found, (prefix, path) = recognise(spec), split_spec(spec, SETS)
    if found is None:
        return list_images(path)
    name, path = found
    listing = SETS[name].listing(path)
    if not listing.items:
        raise ValueError(f"{path} names no image of {SETS[name].title}: fetch its files again.")
    if prefix is None:
        note = f"this is {listing.name}, recognised by {SETS[name].marks}."
        listing = replace(listing, notes=(note, *listing.notes))
    return listing
