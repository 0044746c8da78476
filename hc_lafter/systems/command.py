"""``hc-lafter predict``: what a system that `hc_lafter.systems.save` wrote says of images, as a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from hc_lafter import commands
from hc_lafter.files import check_place, write_whole
from hc_lafter.systems.trained import load


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table as csv, or write it; 0, or 2 where the user is to correct something."""
    given = commands.predict().parse_args(argv)
    try:
        if given.out:
            commands.keep_inputs(given.out, given.system, given.images, given.clip)
            if given.out.is_dir():
                raise ValueError(f"{given.out} is a folder: give --out the name of a file.")
            check_place(given.out.absolute().parent)
        commands.find_device(given.device)
        trained = load(given.system, given.clip, device=given.device)
        with warnings.catch_warnings():  # of files that cannot be read, without Python's lines around it
            warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
            table = trained.predict(given.images, masks=given.masks)
        text = table.to_csv(index=False, lineterminator="\n")
        if given.out:
            write_whole(given.out, text)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.out} has a row for each of {len(table)} images.\n" if given.out else text, end="")
    return 0
