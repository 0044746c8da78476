"""The options of commands that bring torch along, apart from them, so that ``--help`` and a slip answer at once.

Belongs to no room.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# What `hc-lafter fidelity` measures with, see `hc_lafter.embedded.fidelity.Sizes`.
FIDELITY = {"train": 8000, "val": 1000, "test": 4000, "masks": 1000, "pixels": 1000, "attributes": 3000}
FIDELITY |= {"layers": 250, "captions": 500, "draws": 10, "resamples": 1000}

# Accelerate's, by the names of their packages.
TRACKERS = ("tensorboard", "wandb", "mlflow")


def at_least(least: int, below: float = math.inf) -> Callable[[str], int]:
    """What argparse reads a count with.

    Args:
        least: the smallest that is taken. below: the smallest above it that is not.
    """

    def count(text: str) -> int:
        if not text.strip().isdecimal() or not least <= int(text) < below:
            beyond = f", below {below:,}" if below < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text} is not usable: give a whole number from {least}{beyond}.")
        return int(text)

    return count


seed = at_least(0, 2**31)  # as profiles take them


def answers(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """A command that says what the user is to correct in one sentence, and ends with 2."""

    @functools.wraps(main)
    def answered(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except BrokenPipeError:  # whoever read it has enough
            raise
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 2

    return answered


def print_anything() -> None:
    """A console that lacks the signs of a text or the letters of a path gets the rest of it, and their codes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unheard() -> int:
    """The exit status where whoever read the output has gone, as ``head`` does: that of a program which a closed pipe
    ends. Nothing more is written there, at the exit neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def keep_inputs(out: Path, *inputs: str | Path | None) -> None:
    """Refuse to write over what is read.

    Args:
        inputs: paths, or words with one behind a name: ``emoset:<path>``, ``<arch>@<path>``.

    Raises:
        ValueError: a path is that of `out`.
    """
    given = [str(word) for word in inputs if word is not None]
    named = [part for word in given for part in (word, word.partition(":")[2], word.partition("@")[2])]
    for word in filter(None, named):
        if out.exists() and Path(word).exists() and os.path.samefile(out, word):
            raise ValueError(f"{out} would be written over, and {word} is read from it: choose another --out.")


def find_device(name: str) -> torch.device:
    """A device by torch's name for it.

    Raises:
        ValueError: this machine has none such.
    """
    import torch  # here: it takes seconds that --help should not wait for

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise ValueError(f"device {name} is not on this machine ({why}): choose another, such as cpu.") from None
    return device


class Parser(argparse.ArgumentParser):
    """argparse's, which refuses an empty value, as an unset variable of a shell leaves it: ``Path("")`` is ``.``."""

    def error(self, message):
        """The sentence alone; argparse puts the whole usage before it, which --help prints."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        for before, word in itertools.pairwise(["", *words]):
            option, equals, value = word.partition("=")
            if not word.strip() or (option.startswith("--") and equals and not value.strip()):
                name = option if equals else before if before.startswith("--") else "a word of the command"
                self.error(f"{name} is empty: give a value, or leave it out.")
        return super().parse_args(words, namespace)


def check() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter check", description="Check a machine: numbers, speed, runs.")
    parser.add_argument("--device", default="cuda", help="what to check: cuda (the default), cuda:1, mps, cpu")
    parser.add_argument("--quick", action="store_true", help="few images, two rounds: all works, however fast")
    return parser


def doctor() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter doctor", description="What is wrong with a data set.")
    parser.add_argument(
        "data",
        metavar="SPEC",
        help="a folder of class folders, a csv with the columns path and label, a published emotion set (its folder, "
        "or emoset:FOLDER, fi:FOLDER and so on) or a published segmentation set (voc:FOLDER and so on)",
    )
    parser.add_argument("--skip", action="store_true", help="unreadable files are listed and no problem")
    parser.add_argument("--near", action="store_true", help="look for near-duplicates too")
    parser.add_argument("--classes", type=lambda s: s.split(","), help="a,b,c: class names in label order")
    parser.add_argument("--seed", type=seed, default=0, help="of the division, where no splits are given")
    parser.add_argument("--cache", type=Path, help="a folder that remembers the check of each file")
    return parser


def runs() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter runs", description="Compute a profile's runs without a notebook.")
    parser.add_argument(
        "--profile", nargs="+", default=["default"], metavar="P", help="default, smoke, reference, full"
    )
    parser.add_argument(
        "--param", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="fields of the profile"
    )
    parser.add_argument("--only", nargs="+", metavar="NN", help="the runs of these notebooks alone")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster; 'none' computes in this process")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="the runs of these systems alone")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="print what is there, what is missing and what failed")
    instead.add_argument("--export", type=Path, metavar="DIR", help="write what is there as Parquet tables")
    instead.add_argument(
        "--prune", action="store_true", help="print what lies in the store and no run of the profiles asks for"
    )
    parser.add_argument("--yes", action="store_true", help="with --prune: delete it")
    parser.add_argument("--commit", action="store_true", help="leave logits and histories in results/P/runs, for git")
    return parser


def tune() -> argparse.ArgumentParser:
    parser = Parser(
        "hc-lafter tune",
        description="Tune one system; on several GPUs with accelerate launch -m hc_lafter tune, on several CPU cores "
        "with torchrun --nproc-per-node 2 -m hc_lafter tune.",
        epilog="A run that was stopped goes on from its checkpoint beside FILE, with any number of processes.",
    )
    parser.add_argument("--system", required=True, metavar="NAME", help="such as LaFTer or HybridCascade-LaFTer")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="for hc-lafter predict")
    parser.add_argument("--regime", help="such as label-free or supervised (default: the system's first)")
    parser.add_argument("--clip", default="embedded", help="as load_clip takes it (default: %(default)s)")
    parser.add_argument("--data", default="world", metavar="SPEC", help="as open_data takes it (default: %(default)s)")
    for split in ("train", "val", "test"):
        parser.add_argument(f"--n-{split}", type=at_least(1), metavar="N", help=f"at most so many images in {split}")
    parser.add_argument(
        "--images", type=at_least(1), metavar="N", help="training images, drawn by class (default: all)"
    )
    parser.add_argument("--epochs", type=at_least(1), default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        default=50,
        metavar="N",
        help="examples per step, over all processes (default: 50)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="(default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings of the system: tokens=16"
    )
    parser.add_argument(
        "--accumulate", type=at_least(1), default=1, metavar="N", help="take each batch in N parts, for less memory"
    )
    parser.add_argument("--checkpointing", action="store_true", help="compute activations twice, for less memory")
    parser.add_argument("--tracker", choices=("none", *TRACKERS), default="none", help="(default: %(default)s)")
    cache = os.environ.get("HC_LAFTER_CACHE")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=cache and Path(cache),
                        help="keeps the tower's features (default: HC_LAFTER_CACHE, else nothing is kept)")  # fmt: skip
    return parser


def predict() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter predict", description="What a tuned system says of images: a row each, as csv.")
    parser.add_argument("system", type=Path, metavar="FILE", help="as hc-lafter tune wrote it")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder, searched at any depth, or one image")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of the csv (default: it is printed)")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="for the masks of a system that segments")
    parser.add_argument("--clip", help="the CLIP that it was tuned on (default: where it was then)")
    parser.add_argument("--device", default="cpu", help="as torch names it (default: %(default)s)")
    return parser


def figures() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter figures", description="The figures of a run for print, in one folder.")
    parser.add_argument("names", nargs="*", metavar="NN", help="04, 04/accuracy or accuracy (default: all)")
    parser.add_argument("--profile", default="default", help="whose figures (default: %(default)s)")
    parser.add_argument("--width", default="double", choices=("single", "double"), help="(default: %(default)s)")
    parser.add_argument("--format", default="pdf", choices=("pdf", "svg", "png"), help="(default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder for the copies")
    return parser


def pretrain() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter pretrain", description="Make the embedded CLIP again.")
    sizes = ("smoke", "cpu", "gpu")
    parser.add_argument("--size", choices=sizes, default="cpu", help="cpu: one to three hours on two cores")
    parser.add_argument("--out", type=Path, default=Path("embedded-clip"), help="folder for the weights and their card")
    parser.add_argument("--device", help="as torch names it (default: cuda where it is available, else cpu)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that paint the scenes")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--force", action="store_true", help="overwrite the model in the folder")
    parser.add_argument("--card", type=Path, metavar="DIR", help="only write DIR's MODEL_CARD.md from its model.json")
    return parser


def fidelity() -> argparse.ArgumentParser:
    parser = Parser("hc-lafter fidelity", description="How like a real CLIP the embedded one is.")
    parser.add_argument(
        "models", nargs="*", metavar="NAME=MODEL", help="a file or anything load_clip takes (default: embedded)"
    )
    parser.add_argument("--out", type=Path, default=Path("fidelity"), help="folder (default: %(default)s)")
    parser.add_argument("--descriptions", help='"world", "mikels" or a JSON file in LaFTer\'s form')
    parser.add_argument("--seed", type=seed, default=3000, help="of the world; decide on 2000 (default: 3000)")
    parser.add_argument("--card", action="store_true", help="only write card and figure of --out's fidelity.json again")
    for name, default in FIDELITY.items():
        parser.add_argument(f"--n-{name}", type=int, default=default, metavar="N", help=f"(default: {default})")
    return parser


PARSERS = {each.__name__: each for each in (check, doctor, runs, tune, predict, figures, pretrain, fidelity)}
