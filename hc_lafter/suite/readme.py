"""Writes the README's headline tables from ``results/default``, so that no number there is typed.

Use: ``python -m hc_lafter.suite.readme``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path

import pandas as pd

from hc_lafter import commands
from hc_lafter.files import write_whole
from hc_lafter.suite import claims, comparing, ledger
from hc_lafter.suite.paths import find_root
from hc_lafter.suite.profiles import load_profile
from hc_lafter.suite.records import CONVERGED

START, END = "<!-- headline: python -m hc_lafter.suite.readme -->", "<!-- /headline -->"
LAYERS, TEXT, ABLATIONS = "01-feature-tapping", "03-text-adapter", "08-ablations"
HYBRID, LAST, TOP1 = "HybridCascade-LaFTer", "text classifier, tuned", "top-1 accuracy"
ROWS = 5  # of the table that is not folded


def headline(folder: Path) -> str:
    """Markdown tables: classification systems (notebook 04), masks (notebook 05), claims (09), layers (notebook 01).

    Args:
        folder: ``results/<profile>``.

    Raises:
        FileNotFoundError: one of the four notebooks has left nothing there.
        ValueError: as `hc_lafter.suite.claims.Results.rows`.
    """
    for name in ("claims.json", *(f"{n}/metrics.json" for n in (LAYERS, comparing.FULL, comparing.MASKS))):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: run the notebooks first.")
    results = claims.Results(folder)
    systems = comparing.classification(results).loc[:, :"verdict"]
    masks = comparing.masks(results, brief=True).drop(columns="pixel accuracy")
    records = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    top = comparing.sample(results, comparing.FULL, TOP1)
    masks_of = comparing.sample(results, comparing.MASKS, "mIoU", brief=True)
    return f"""\
{_choices(results)}{_parts(folder.parent / claims.TRAINED)}{_masks(results)}\
<details><summary>System by system, trained briefly</summary>

Top-1 accuracy in per cent, {top}; differences paired on images and seeds, verdicts after
Holm's correction over all comparisons of the notebook; an interval for "all together" holds for all of them. With fewer
than six seeds no difference between trained systems can reach significance. Training is short: these verdicts judge no
design.

{_markdown(systems)}

</details>

<details><summary>Masks, trained briefly</summary>

mIoU in per cent, {masks_of}. Cascade-CLIP, its one-decoder baseline and the dense hybrid learned from pixels of
seen classes for {_mask_steps()} steps (the release takes 20,000), too few to judge any design.

{_markdown(masks)}

</details>

Claims about [the designs](docs/designs.md): **{claims.tally(records)}**.
The {len(records)} verdicts are not corrected for one another: each stands for itself, at 95%, and a finding is
judged only by a rule that is older than its run; one on trained systems by the committed runs of `reference`.
Where a larger tower than the embedded CLIP's was counted or timed, it is named behind the number.

<details><summary>Claim by claim</summary>

{_markdown(_claims(records))}

</details>

<details><summary>Layer by layer</summary>

{_markdown(comparing.layers(results))}

</details>"""


def _choices(results: claims.Results) -> str:
    """Which system with how many labels, as the reference runs say; "" where none is committed."""
    table = comparing.choices(results)
    if table.empty:
        return ""
    found = comparing.rows(results, comparing.FULL)
    chosen = found[found["metric"].str.startswith(comparing.CHOICE) & (found["minus"] == "")].iloc[-1]
    curve = found[found["metric"].str.endswith(CONVERGED)]
    flags, seeds = curve["converged"].dropna(), curve.loc[curve["converged"].notna(), "seeds"].astype(int)
    fewer = f" ({seeds.min()} where the tower is trained)" if seeds.min() < chosen["seeds"] else ""
    late = [f"{row.system} at {row.n_train:,.0f} labels" for row in curve[curve["converged"].eq(False)].itertuples()]
    hollow = f"{len(late)} ({'; '.join(late[:3])}{'; ...' * (len(late) > 3)})" if late else "none"
    p = load_profile(claims.TRAINED)
    told = f"""\
**Which system, with how many labels?** Each is trained until the mean validation curve of its seeds no longer gains (a
single seed's is less even). Systems on cached features may go on beyond
{p.steps * 2**p.doublings:,} steps for that; those whose tower runs at each step end there, and stand only at
{p.label_counts[1]} and {p.label_counts[-1]} labels per class, or without labels. Of {len(flags)} points of the curve
(a system at one number of labels), {hollow}
still gained when training ended; such a point is drawn
hollow and never chosen. Rate, steps and the system of a row are chosen on {p.n_select:,} labelled
validation images, with 0 labels
as well; the system is the one that trains the fewest parameters of those at most one standard error below the highest.
Accuracy is on {chosen["n"]:,} test images of the toy world that comes with the package, not of photographs,
{chosen["seeds"]} seeds{fewer}, 95% intervals; costs are those with the embedded CLIP. *Not distinguishable from it* are
the systems whose difference from it on test is too small for these seeds and images to show, once corrected for the
number of comparisons (Holm; notebook 04 has them). {_untrained(results)}"""
    return f"""\
{textwrap.fill(told, 120)}

{_markdown(pd.concat([table[: ROWS - 1], table[ROWS - 1 :][-1:]]))}

<details><summary>With every number of labels</summary>

{_markdown(table)}

</details>

"""


def _untrained(results: claims.Results) -> str:
    """What the text classifier owes to its training, and what to its texts; "" where nothing says so."""
    found = comparing.rows(comparing.longest(results), TEXT)
    found = found[(found["system"] == "text classifier") & (found["minus"] == "mean of all texts")]
    return "".join(
        f"With 0 labels most is due to the sentences: the text classifier minus the plain mean of all texts, for "
        f"which nothing is trained, is {row.text} points ({row.verdict.split(',')[0]}; notebook 03)."
        for row in found.itertuples()
    )


def _parts(folder: Path) -> str:
    """What the design is without its inner layers, and without what else it is made of; "" where nothing says so."""
    if not (folder / ABLATIONS / "metrics.json").is_file():
        return ""
    found = comparing.rows(claims.Results(folder), ABLATIONS)
    found = found[(found["minus"] == HYBRID) & (found["metric"] == TOP1)]
    told = {
        r"(layer \d+ alone)": r"the last layer alone (\1), tuned alike",
        r".*, (deepest layer of the stage)": r"the \1 in the place of NGA",
        r".*, (plain mean of the stage)": r"the \1's layers in the place of NGA",
        r".*, (hard labels) .*": r"and, though it has nothing to do with layers, \1 in the place of the votes' shares",
    }
    named = [(found[found["system"].str.fullmatch(kind)], kind, words) for kind, words in told.items()]
    lines = [
        f"- {re.sub(kind, words, row.system)}: {row.text} points, {row.verdict.split(',')[0]}"
        for rows, kind, words in named
        for row in rows.itertuples()
    ]
    curve = comparing.rows(claims.Results(folder), comparing.FULL)
    few = curve[(curve["system"] == HYBRID) & (curve["minus"] == LAST) & (curve["regime"] == "supervised")]
    few = few[few["metric"].eq(TOP1) & few["n_train"].notna()].sort_values("n_train")
    spread = "; ".join(f"{row.n_train:,.0f}: {row.text}" for row in few.itertuples())
    by_labels = "the whole minus the last layer alone on the curve of notebook 04, where one kept seed chose the rates"
    lines += [f"- {by_labels} (here all seeds do), by labels in all: {spread} points"] if spread else []
    p, first = load_profile(folder.name), named[0][0].iloc[0]
    head = f"""\
**Do the inner layers help?** {HYBRID} with one thing changed, minus the whole, with {p.n_tune:,} labels in all
({first["n"]:,} test images, {first["seeds"]} seeds; notebook 08 under `{folder.name}`):"""
    return f"{textwrap.fill(head, 120)}\n\n" + "\n".join(lines) + "\n\n"


def _masks(results: claims.Results) -> str:
    """Systems that give masks, as the reference runs say; "" where none is committed."""
    rest = comparing.sample(results, comparing.MASKS, "mIoU")
    if rest == comparing.sample(results, comparing.MASKS, "mIoU", brief=True):
        return ""
    images = load_profile(claims.TRAINED).n_masks
    told = f"""\
**Which system for masks?** mIoU in per cent, {rest}. Each is trained at the rate that validation chose
(profile `{claims.TRAINED}`, {images:,} training images with masks of the seen classes) and, where it
still gained, for twice the steps at a third of the rate, and again, as far as that has been computed; what still
gained then may do better yet, and judges no design. SC-CLIP, recalibrated, has settings that were chosen for the
embedded CLIP on validation masks; its rivals keep their releases' (SCLIP and ClearCLIP have nothing to set that moves a
mask; notebook 07 tries what NACLIP has on the same images). Systems that are not here have no such runs so far
and stand in the table of brief ones below."""
    table = comparing.masks(results).drop(columns="pixel accuracy")
    return f"{textwrap.fill(told, 120)}\n\n{_markdown(table)}\n\n"


def _mask_steps() -> int:
    p = load_profile("default")
    return p.mask_epochs * -(-p.n_masks // p.mask_batch)


def _markdown(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def _claims(records: list[dict]) -> pd.DataFrame:
    signed = [f"{ledger.SIGNS[record['verdict']][0]} {ledger.verdict(record)}" for record in records]
    asked = [ledger.required(ledger.deciding(record)) for record in records]
    found = pd.DataFrame(records)[["id", "statement"]].assign(
        verdict=signed, measured=list(map(ledger.measured, records)), **{"to be": asked}
    )
    return found.rename(columns={"id": "", "statement": "claim"})


def updated(readme: str, table: str) -> str:
    """The README's text with the tables between its two marks.

    Raises:
        ValueError: a mark is missing, or is there twice.
    """
    for mark in (START, END):
        if readme.count(mark) != 1:
            raise ValueError(
                f"README.md has {readme.count(mark)} lines {mark!r} in the place of one: check it out again."
            )
    head, rest = readme.split(START)
    return f"{head}{START}\n{table}\n{END}{rest.split(END)[1]}"


def stale(root: Path) -> list[str]:
    """A line if README.md of a checkout is not what its ``results/default`` say."""
    text = (root / "README.md").read_text(encoding="utf-8")
    same = updated(text, headline(root / "results" / "default")) == text
    return [] if same else ["README.md is not what results/default say"]


def wanted(root: Path) -> bool:
    """Whether a checkout's README.md has a place for the tables, which that of a fork may have given up."""
    path = root / "README.md"
    return path.is_file() and START in path.read_text(encoding="utf-8")


def renew(root: Path) -> Path:
    """Write the tables of a checkout's ``results/default`` into its README.md, whole or not at all.

    Raises:
        ValueError, FileNotFoundError: as `headline` and `updated`.
    """
    path = root / "README.md"
    return write_whole(path, updated(path.read_text(encoding="utf-8"), headline(root / "results" / "default")))


@commands.answers
def main(argv: list[str] | None = None) -> int:
    """Write the tables of results/default into README.md, as `run_all.py` does at its end."""
    argparse.ArgumentParser(prog="python -m hc_lafter.suite.readme", description=main.__doc__).parse_args(argv)
    renew(find_root())
    return 0


if __name__ == "__main__":
    sys.exit(main())
