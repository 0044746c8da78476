"""The command line: ``hc-lafter COMMAND``, or ``python -m hc_lafter COMMAND``. Belongs to no room.

A command is the ``main(argv)`` of a module, imported only when it is asked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from hc_lafter import __version__
from hc_lafter.commands import PARSERS, print_anything, unheard
from hc_lafter.refusals import nearest

# name -> module with a main(argv), help
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("hc_lafter.suite.chain", "run the notebooks, all of them or some"),
    "check": ("hc_lafter.suite.check", "check a machine: same numbers as open_clip, fast enough, runs as on a CPU"),
    "runs": ("hc_lafter.suite.plans", "compute, or list, the training that a profile's notebooks read"),
    "tune": ("hc_lafter.tuning.command", "tune one system, in one process or data-parallel in several"),
    "predict": ("hc_lafter.systems.command", "name images by a system that was tuned"),
    "doctor": ("hc_lafter.data.doctor", "say what is wrong with a folder of images, or a published set"),
    "figures": ("hc_lafter.suite.figures", "collect figures for a paper: format, width, folder"),
    "claims": ("hc_lafter.suite.claims", "judge the claims from a profile's results"),
    "report": ("hc_lafter.suite.report", "make one page of the executed notebook 09"),
    "pretrain": ("hc_lafter.embedded.pretrain", "make the embedded CLIP again (hours)"),
    "fidelity": ("hc_lafter.embedded.fidelity", "measure in what a small CLIP resembles a real one"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the words after a command's name to it and return its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    print_anything()
    parser = argparse.ArgumentParser("hc-lafter", description="What are the layers of CLIP good for?")
    parser.epilog = "hc-lafter COMMAND --help prints what a command takes; it changes nothing."
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        parser.error(f"command {words[0]!r} is unknown{near}: choose one of {', '.join(COMMANDS)}.")
    parser.parse_args(words[:1])  # ends here on --help, --version and where there is no command
    if words[0] in PARSERS:
        PARSERS[words[0]]().parse_args(words[1:])  # ends here, too, on --help or a slip, before torch is imported
    try:
        status = import_module(COMMANDS[words[0]][0]).main(words[1:]) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return unheard()
    return status


if __name__ == "__main__":
    sys.exit(main())
