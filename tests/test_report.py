"""The report: what it says follows from results, and a real browser shows it whole, on a desk and on a phone."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.lines import Line2D
from PIL import Image

from hc_lafter.suite import claims, comparing, ledger, plots, readme, report, reporting, words
from hc_lafter.suite.claims import VERDICTS, Results
from hc_lafter.suite.records import REFERENCE
from hc_lafter.suite.study import metric

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "results" / "default"
FULL = "04-full-training"


# --- what it says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bounds", "interval", "half_widths"),
    [
        ("above", [0.0], (0.5, 0.25, 1.0), 2),  # the end toward the bound counts, not the other
        ("above", [0.0], (-0.5, -0.75, -0.25), -2),
        ("at_least", [0.5], (0.25, 0.0, 0.5), -1),  # its end is the bound
        ("below", [1.0], (0.5, 0.25, 1.0), 1),
        ("at_most", [1.0], (2.0, 1.5, 4.0), -2),
        ("between", [0.0, 1.0], (0.25, 0.125, 0.5), 2),
        ("between", [0.0, 1.0], (1.5, 1.25, 2.0), -2),
        ("above", [0.5], (0.5, 0.25, 0.75), 0),
        ("above", [0.0], (0.5, 0.5, 0.5), math.inf),  # exact
        ("below", [0.0], (0.5, 0.5, 0.5), -math.inf),
        ("equals", [3.0], (3.0, 3.0, 3.0), math.inf),
        ("equals", [3.0], (4.0, 4.0, 4.0), -math.inf),
    ],
)
def test_distance_from_the_bound(kind, bounds, interval, half_widths):
    row = dict(zip(("value", "low", "high"), interval, strict=True))
    assert ledger.margin({**row, "check": {"kind": kind, "bounds": bounds}}) == half_widths


def test_the_bars_agree_with_the_verdicts():
    """A supported claim points to the right and a contradicted one to the left, beyond one half-width."""
    records = claims.judge(COMMITTED)
    seen = 0
    for record in records:
        row = ledger.deciding(record)
        if record["verdict"] in ("supported", "contradicted"):
            side = 1 if record["verdict"] == "supported" else -1
            assert side * ledger.margin(row) >= 1, record["id"]
            assert row["value"] == record["value"]
            seen += 1
    assert seen >= 8


def test_the_deciding_check_is_read_from_the_record(tmp_path):
    """Two parts whose reasons are the same sentence, under a rule file of one's own."""
    same = {"notebook": FULL, "split": "test", "metric": "top-1 accuracy", "unit": "fraction"}
    rows = [accuracy("a", 0.5), accuracy("b", 0.5), accuracy("b", 0.5, "again")]
    parts = [{"kind": "above", "bounds": [0.2], "row": same | {"system": system}} for system in "ab"]
    claim = {"id": "C01", "statement": "s", "source": "s", "reading": "r", "takes": "t", "domain": "count"}
    rules = tmp_path / "claims.yaml"
    keep(tmp_path / "x", FULL, rows)
    for kind, requires, decides in (("all", {}, 0), ("any", {}, 0), ("all", {"n": 501}, 0)):
        rule = {"kind": kind, "of": parts}
        rules.write_text(yaml.safe_dump({"claims": [claim | {"rule": rule, "requires": requires}]}), encoding="utf-8")
        (record,) = json.loads(json.dumps(claims.judge(tmp_path / "x", rules)))
        assert record["evidence"]["decides"] == decides
        assert ledger.deciding(record) == record["evidence"]["read"][decides]
        record["evidence"]["decides"] = 1
        assert ledger.deciding(record)["system"] == "b"
    assert ledger.required(ledger.deciding(record)) == "above 20" and ledger.measured(record) == "50.0 [49.0, 51.0] %"
    record["evidence"]["read"][1]["value"] = None  # what no run gave
    assert ledger.measured(record) == ""


def test_of_several_numbers_the_deciding_one_says_against_what_and_how_far_all_reach(tmp_path):
    same = {"notebook": FULL, "split": "test", "metric": "top-1 accuracy", "unit": "fraction", "system": "a"}
    rows = [accuracy("a", x, minus=rival, n_train=32) for rival, x in (("b", 0.05), ("c", -0.075), ("d", 0.01))]
    parts = [{"kind": "above", "bounds": [0.2], "row": same | {"minus": rival}} for rival in "bcd"]
    claim = {"id": "C01", "statement": "s", "source": "s", "reading": "r", "takes": "t", "domain": "count"}
    rules = tmp_path / "claims.yaml"
    rules.write_text(yaml.safe_dump({"claims": [claim | {"rule": {"kind": "all", "of": parts}}]}), encoding="utf-8")
    (record,) = claims.judge(keep(tmp_path / "x", FULL, rows).folder, rules)
    record["evidence"]["decides"] = 1
    assert ledger.measured(record) == "−7.5 [−8.5, −6.5] points (against c at 32 images; one of 3, −7.5 to +5.0)"
    for at in (0, 2):
        record["evidence"]["read"][at]["value"] = None  # what no run gave
    assert ledger.measured(record) == "−7.5 [−8.5, −6.5] points"


def test_numbers_as_one_reads_them():
    row = metric("a", "world", "test", "top-1 accuracy", -0.0415, -0.0625, -0.022, 2000, 3, "fraction", minus="b")
    assert words.span(row) == "−4.2 [−6.2, −2.2] points" and words.label(row) == "a minus b, top-1 accuracy"
    row.pop("minus")
    assert words.span(row | {"value": 0.597, "low": 0.575, "high": 0.618}) == "59.7 [57.5, 61.8] %"
    count = metric("a", "world", "none", "parameters", 1572870, unit="count")
    assert words.span(count) == "1,572,870" and ledger.sample(count) == "counted"
    assert ledger.sample(count | {"value": None}) == ""  # nobody counted anything
    assert ledger.sample(row) == "2,000 × 3 seeds"
    ratio = metric("a", "world", "timing", "time / b", 0.9, 0.85, 1.0, 8, None, "ratio")
    assert words.span(ratio) == "0.900 [0.850, 1.00] ratio" and ledger.sample(ratio) == "8 rounds"
    told = {"value": 0.186, "low": 0.162, "high": 0.186, "unit": "fraction", "source": "several tables"}
    assert words.measured(told) == "published 16.2 to 18.6 %"
    assert words.measured(told | {"low": 0.186}) == "published 18.6 %" and words.measured(ratio) == words.span(ratio)
    asked = {"why": "18.6 [16.2, 18.6] %", "check": {"kind": "above", "bounds": [0.2]}}
    assert words.because(told | asked) == "published 16.2 to 18.6 %, to be above 20 (several tables)"
    assert words.because(ratio | asked) == asked["why"]
    assert words.required("at_least", [-0.02], "fraction") == "at least −2"
    assert words.required("between", [0.5205, 0.5215], "fraction") == "between 52.05 and 52.15"
    assert words.name({"system": "a", "regime": "transductive"}) == "a, transductive"
    assert words.name({"system": "a", "regime": "inductive"}) == words.name({"system": "a"}) == "a"


def test_the_ledger_table_holds_every_claim_and_no_markup_of_its_texts():
    records = claims.judge(COMMITTED)
    records[0]["statement"] = "<script>alert(1)</script> & more"
    figures = sorted({r["evidence"]["figure"] for r in records} - {None})
    whole = reporting.ledger_table(records, figures[:1])
    assert "<script>" not in whole and "&lt;script&gt;" in whole
    findings, counted = claims.counted(records).values()
    ids = [record["id"] for record in (*findings, *counted)]  # findings first
    assert re.findall(r'<tr id="(C\d\d)"', whole) == ids and len(ids) == 30 and len(findings) == 19
    linked = sum(record["evidence"]["figure"] == figures[0] for record in records)
    assert whole.count('<a href="#figure-') == linked > 0  # only to what is on the page
    assert sum(claims.counts(records).values()) == 30 and tuple(claims.counts(records)) == VERDICTS
    (published,) = (r for r in records if r["id"] == "C29")
    assert ledger.measured(published) == "published 16.2 to 18.6 %"
    assert "published 16.2 to 18.6 %, to be between 52.05 and 52.15 (CLIP ViT-B/16 on VOC21" in claims.summary(
        [published]
    )
    cells = {r["id"]: re.search(f'id="{r["id"]}".*?</tr>', whole, re.DOTALL)[0] for r in records}
    assert "[16.2, 18.6]" not in cells["C29"] and "CLIP&#39;s own patches" in cells["C29"].split("</th>")[1]
    assert "<small>SC-CLIP, time / encode_image</small>" in cells["C23"] and "6 rounds" in cells["C23"]
    towers = {key: re.findall(r"\(ViT-./\d+\)", cells[key]) for key in ("C01", "C03", "C16", "C23", "C06")}
    assert towers == {
        "C01": ["(ViT-B/32)"],
        "C03": ["(ViT-B/16)"],
        "C16": ["(ViT-B/32)"],
        "C23": ["(ViT-B/16)"],
        "C06": [],
    }
    assert whole.count("<caption") == 1 and whole.count('<th scope="row"') == 30 and whole.count('scope="col"') == 6


def test_names_from_data_are_inert():
    """A class, a system or a data set may be called anything."""
    name = "<script>alert(1)</script>"
    frame = pd.DataFrame({"system": [name], name: ["<b>"]})
    made = reporting.table(frame, name, cards=True)
    assert "<script>" not in made and "<b>" not in made and made.count("&lt;script&gt;") == 4
    assert '<th scope="row"' in made and '<th scope="col"' in made and "<caption" in made
    assert all(
        "text-align: left" in cell for cell in re.findall("<(?:td|th|caption)[ >][^>]*", made)
    )  # in JupyterLab, too
    assert reporting.table(frame[:0]) == ""


@pytest.mark.parametrize("width", plots.WIDTHS)
def test_the_ledger_figure_shows_every_claim_and_its_verdict(width):
    records = claims.judge(COMMITTED)
    with plots.at_width(width):
        figure = ledger.draw_ledger(records)
    (ax,) = figure.axes
    assert figure.get_figwidth() == plots.WIDTHS[width]
    assert sorted(text.get_text()[:3] for text in ax.get_yticklabels()) == [r["id"] for r in records]
    signs = [t.get_text()[0] for t in ax.texts if t.get_text()[1:2] == " " and t.get_text()[0] in "✓✗?–"]
    assert sorted(signs) == sorted(ledger.SIGNS[r["verdict"]][0] for r in records)
    above, below = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert above == [f"{n} {verdict}" for verdict, n in claims.counts(records).items()]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    handles = {key.get_linestyle() if isinstance(key, Line2D) else "area" for key in figure.legends[1].legend_handles}
    assert dotted and handles == {"-", ":", "area"} and any("no interval" in text for text in below)
    assert all(abs(x) <= 6 for line in ax.lines for x in line.get_xdata())


def accuracy(system, value, what="top-1 accuracy", unit="fraction", half=0.01, split="test", n=500, **more):
    return metric(system, "pets", split, what, value, value - half, value + half, n, 3, unit, **more)


def keep(folder, notebook, rows):
    """Results as notebooks leave them."""
    place = folder / notebook
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.json").write_text(json.dumps(rows), encoding="utf-8")
    return Results(folder)


def test_advice_follows_the_verdicts_not_the_highest_number(tmp_path):
    free, taught = {"regime": "label-free"}, {"regime": "supervised"}
    rows = [accuracy("zero-shot", 0.5), accuracy("LaFTer", 0.55, **free)]
    rows += [accuracy("LaFTer", 0.6, **taught), accuracy("linear probe", 0.9, **taught)]
    rows += [accuracy("LaFTer, best epoch on test", 0.95, **free)]  # chosen on test images: no advice
    rows += [accuracy("LaFTer", 0.05, minus="zero-shot", verdict="no difference", **free)]
    rows += [accuracy("LaFTer", 0.1, minus="zero-shot", verdict="better", **taught)]
    rows += [
        accuracy("LaFTer", 0.4, "kl, tempered", "nats", **taught),
        accuracy("zero-shot", 0.3, "kl, tempered", "nats"),
    ]
    rows += [accuracy("LaFTer", -0.2, "kl, tempered", "nats", minus="zero-shot", **taught)]
    cost = metric("LaFTer", "pets", "none", "trainable parameters here, classifier aside", 8704, unit="count")
    results = keep(tmp_path, FULL, [*rows, cost])
    masks = [accuracy(n, v, "unseen mIoU") for n, v in (("SC-CLIP", 0.4), ("Cascade-CLIP", 0.395))]
    keep(tmp_path, "05-cascade-vs-hybrid", masks)
    advice = comparing.advice(results).set_index("task")
    assert advice.loc["Name an image, no labels", "use"] == "zero-shot"
    assert (
        advice.loc["Name an image, no labels", "why"] == "of 1 tuned systems none better than zero-shot, 1 no different"
    )
    few = advice.loc["Name an image, a few labels"]
    assert few["use"] == "LaFTer, supervised"  # the probe was compared with nothing
    assert few["why"] == "of 3 tuned systems 1 better than zero-shot, 1 no different"
    assert few["reaches"] == "60.0 [59.0, 61.0] %"
    assert few["costs"].startswith("8,704 parameters trained")
    assert advice.loc["Tell the mix of emotions", "use"] == "zero-shot"  # lower is better
    assert advice.loc["Masks, of other classes", "use"] == "SC-CLIP"
    assert advice.loc["Masks, of other classes", "why"].endswith("the two intervals overlap")
    table = comparing.classification(results)
    assert len(table) == 4 and list(table["verdict"]) == ["", "no difference", "better", ""]
    assert list(table["learns from"]) == ["no training", "label-free", "supervised", "supervised"]
    others = comparing.against_others(results, "LaFTer")
    assert list(others["points"]) == ["+5.0 [+4.0, +6.0]", "+10.0 [+9.0, +11.0]"]


def test_advice_and_tables_say_what_few_seeds_and_many_comparisons_leave_open(tmp_path):
    taught, free, few = {"regime": "supervised"}, {"regime": "label-free"}, "undecided with 3 seeds"
    wide = {"verdict": "no difference", "low_all": -0.01, "high_all": 0.05}
    rows = [accuracy("zero-shot", 0.5), accuracy("LaFTer", 0.6, **taught), accuracy("LaFTer", 0.52, **free)]
    rows += [accuracy("LaFTer", 0.1, minus="zero-shot", verdict=few, **taught)]
    rows += [accuracy("LaFTer", 0.02, minus="zero-shot", **wide, **free)]
    results = keep(tmp_path, FULL, rows)
    advice = comparing.advice(results).set_index("task").loc["Name an image, a few labels"]
    assert advice["use"] == "zero-shot"
    assert advice["why"] == f"of 2 tuned systems none better than zero-shot, 1 no different, 1 {few}"
    table = comparing.classification(results).set_index("learns from")
    assert table.loc["label-free", "minus zero-shot, points"] == "+2.0 [+1.0, +3.0], all together [−1.0, +5.0]"
    assert table.loc["supervised", "minus zero-shot, points"] == "+10.0 [+9.0, +11.0]"


def test_each_number_of_labels_has_a_row_of_its_own(tmp_path):
    rows = [accuracy("zero-shot", 0.5)]
    for n, gain in ((32, 0.1), (2000, 0.3)):
        alike = {"regime": "supervised", "n_train": n, "converged": n > 32}
        rows += [accuracy("LaFTer", 0.5 + gain, **alike)]
        rows += [accuracy("LaFTer", gain, minus="zero-shot", verdict="better", **alike)]
    table = comparing.classification(keep(tmp_path, FULL, rows))
    assert table[["system", "labels", "minus zero-shot, points"]].values.tolist() == [
        ["zero-shot", "", ""],
        ["LaFTer", "32", "+10.0 [+9.0, +11.0]"],
        ["LaFTer", "2,000", "+30.0 [+29.0, +31.0]"],
    ]


@pytest.mark.parametrize("clip", ["embedded", "ViT-B-16/openai", "mine.safetensors"])
def test_what_cascade_clip_trains_is_found_with_any_clip(tmp_path, clip):
    masks = [accuracy("Cascade-CLIP", 0.4, "seen mIoU", regime="inductive"), accuracy("SC-CLIP", 0.3, "seen mIoU")]
    counts = {clip: 1428742, "ViT-B-32/random": 22804230}
    masks += [metric("Cascade-CLIP", "none", "none", f"trained, {c}", n, unit="count") for c, n in counts.items()]
    masks += [metric("SC-CLIP", "none", "none", f"trained, {clip}", 0, unit="count")]
    results = keep(tmp_path, "05-cascade-vs-hybrid", masks)
    assert comparing.advice(results)["costs"].tolist() == ["1,428,742 parameters trained"]
    assert comparing.costs(results).loc[0, f"trained, {clip}"] == "1,428,742"
    keep(tmp_path, "05-cascade-vs-hybrid", [masks[1] | {"seeds": None}])  # nothing counted, no seeds
    assert comparing.advice(Results(tmp_path))["costs"].tolist() == ["nothing to train"]
    keep(tmp_path, "05-cascade-vs-hybrid", masks[1:2] + masks[4:])
    assert comparing.advice(Results(tmp_path))["costs"].tolist() == ["nothing to train"]


def of_reference(row, converged=None, **more):
    """The row as notebook 05 keeps it of a committed run: on more pictures and seeds, with its flag."""
    return row | {"dataset": REFERENCE, "n": 2000} | ({} if converged is None else {"converged": converged}) | more


def test_masks_that_were_trained_to_the_end_stand_before_brief_ones(tmp_path):
    alike = {"regime": "inductive"}
    brief = [accuracy("Cascade-CLIP", 0.01, "seen mIoU", **alike), accuracy("SC-CLIP", 0.4, "seen mIoU")]
    brief = [row | {"dataset": "world"} for row in brief]
    long = [of_reference(accuracy("Cascade-CLIP", 0.6, "seen mIoU", **alike), converged=False)]
    long += [of_reference(accuracy("SC-CLIP, recalibrated", 0.5, "seen mIoU"))]
    steps = {"metric": "training steps", "value": 6400, "low": None, "high": None, "unit": "count"}
    long += [long[0] | steps]
    less = of_reference(accuracy("Cascade-CLIP, mean", -0.1, "seen mIoU", minus="Cascade-CLIP"), converged=False)
    counts = [metric("SC-CLIP", "none", "none", "trained, embedded", 0, unit="count")]
    results = keep(tmp_path, "05-cascade-vs-hybrid", [*brief, *long, less, *counts])
    assert comparing.masks(results).to_dict("list") == {
        "system": ["Cascade-CLIP", "SC-CLIP, recalibrated"],
        "seen classes": ["60.0 [59.0, 61.0]", "50.0 [49.0, 51.0]"],
        "training steps": ["6,400", ""],
        "still gained at the end": ["yes", ""],
    }
    assert comparing.masks(results, brief=True)["seen classes"].tolist() == ["1.0 [0.0, 2.0]", "40.0 [39.0, 41.0]"]
    (line,) = comparing.advice(results).to_dict("records")
    assert line["use"] == "Cascade-CLIP" and line["reaches"].endswith("seen mIoU, and still gained when training ended")
    assert "2,000 test images of the world" in comparing.sample(results, "05-cascade-vs-hybrid", "seen mIoU")
    only = keep(tmp_path, "05-cascade-vs-hybrid", [*brief, *long[1:2], *counts])  # the better one needs no training
    assert comparing.advice(only)["costs"].tolist() == ["nothing to train"]


def test_runs_on_the_world_do_not_stand_for_masks_of_ones_own(tmp_path):
    mine = accuracy("SC-CLIP", 0.2, "seen mIoU") | {"dataset": "voc"}
    results = keep(tmp_path, "05-cascade-vs-hybrid", [mine, of_reference(accuracy("SC-CLIP", 0.5, "seen mIoU"))])
    assert comparing.masks(results)["seen classes"].tolist() == ["20.0 [19.0, 21.0]"]
    assert comparing.advice(results)["reaches"].tolist() == ["20.0 [19.0, 21.0] % seen mIoU"]


def test_tables_of_a_run_without_a_notebook_are_empty_and_say_nothing(tmp_path):
    results = keep(tmp_path, "01-feature-tapping", [accuracy("zero-shot, layer 12", 0.5)])
    for made in (
        comparing.advice,
        comparing.classification,
        comparing.masks,
        comparing.costs,
        comparing.tuning_costs,
        comparing.time_ratios,
    ):
        assert made(results).empty
    assert all("Measured here" not in section for section in reporting.published(results))


def test_a_number_changed_by_hand_stops_the_report(tmp_path):
    results = shutil.copytree(COMMITTED, tmp_path / "results")
    path = results / FULL / "metrics.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    changed = next(r for r in rows if r["metric"] == "top-1 accuracy" and r.get("regime") == "supervised")
    changed["value"] = 0.999
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(ValueError, match=r"04-full-training.metrics\.json is not what 04-full-training wrote: run it"):
        comparing.advice(Results(results))


def test_published_numbers_are_whole_and_stand_apart():
    tables = yaml.safe_load(reporting.PUBLISHED.read_text(encoding="utf-8"))["tables"]
    sections = reporting.published(Results(COMMITTED))
    assert len(sections) == len(tables) == 5
    for table, section in zip(tables, sections, strict=True):
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values())
        assert table["source"] in html.unescape(section)
        theirs, ours = section.split("Measured here")  # every one has its counterpart in the reference run
        for row in table["rows"].values():
            assert all(f">{number}</td>" in theirs for number in row)
        measured = table["measured"]["rows"]
        if table["measured"]["notebook"] == comparing.MASKS:  # of which those that the reference has trained so far
            measured = [name for name in measured if name in set(comparing.masked(Results(COMMITTED))["name"])]
        assert measured and all(f">{html.escape(name)}</th>" in ours for name in measured)
    cascade = next(t for t in tables if "harmonic mean" in t["columns"])
    for seen, unseen, mean in cascade["rows"].values():
        assert abs(2 * seen * unseen / (seen + unseen) - mean) < 0.06


def test_pictures_become_small_and_stay_what_they_are(tmp_path):
    shades = np.zeros((60, 90, 3), np.uint8)
    shades[:, 40:] = (0, 114, 178)
    (tmp_path / "04-x").mkdir()
    Image.fromarray(shades).save(tmp_path / "04-x" / "one.png")
    made = reporting.picture(tmp_path / "04-x" / "one.png", 'a "caption" <b>')
    assert 'id="figure-04-x-one"' in made and "<b>" not in made
    assert "<source" not in reporting.picture(tmp_path / "04-x" / "one.png", narrow=True)  # there is no narrow one
    Image.fromarray(shades[:, 20:60]).save(tmp_path / "04-x" / "one-single.png")
    both = reporting.picture(tmp_path / "04-x" / "one.png", narrow=True)
    wide, narrow = (Image.open(io.BytesIO(base64.b64decode(x))).width for x in re.findall('base64,([^"]+)', both)[::-1])
    assert (wide, narrow) == (90, 40) and 'media="(max-width: 600px)"' in both
    with pytest.raises(FileNotFoundError, match="run notebook 04 first"):
        reporting.pictures(tmp_path, ["04-x/one", "04-x/two"], strict=True)
    made = reporting.pictures(tmp_path, ["04-x/one", "04-x/two"])
    assert made.count("<figure") == 1 and "04-x/two was not drawn in this run" in made


def test_what_the_reference_judges_is_shown_as_it_drew_it():
    results, records = Results(COMMITTED), claims.judge(COMMITTED)
    shown = reporting.trained_figures(results, records)
    judged = {r["evidence"]["figure"] for r in records if "reference" in str(ledger.deciding(r)["file"])}
    own = {r["evidence"]["figure"] for r in records if "reference" not in str(ledger.deciding(r)["file"])}
    assert set(shown) >= judged - {None} >= {"02-nga-weights/sigma-sweep"} and not set(shown) & own
    assert {"04-full-training/accuracy", "08-ablations/ablations"} <= set(shown)
    assert {path.relative_to(ROOT).parts[:2] for path in shown.values()} == {("figures", "reference")}
    names = ["02-nga-weights/sigma-sweep", "01-feature-tapping/layers"]
    made = reporting.pictures(ROOT / "figures" / "default", names, strict=True, instead=shown)
    assert made.count("<figure ") == 2 and made.count("which trains until nothing more is gained") == 1
    assert 'alt="Above, accuracy against the width sigma of NGA' in made
    results.trained = None
    assert reporting.trained_figures(results, records) == {}


def test_what_each_figure_shows_is_said_to_those_who_cannot_see_it():
    shown = [name for names in reporting.figures_shown(claims.judge(COMMITTED)).values() for name in names]
    texts = yaml.safe_load(reporting.ALT_TEXTS.read_text(encoding="utf-8"))
    assert {*shown, "04-full-training/labels", "08-ablations/prompts", "09-report/ledger"} == set(texts)
    assert len(set(texts.values())) == len(texts) and all(text.endswith(".") for text in texts.values())


def test_notebooks_that_did_not_run_are_named(tmp_path):
    def verdict():
        results = Results(tmp_path)
        return reporting.verdict(results, claims.judge(tmp_path))

    assert "Run me" in verdict() and "18 not testable here" in verdict()  # of 19 findings one rests on published tables
    keep(tmp_path, "01-feature-tapping", [accuracy("zero-shot, layer 12", 0.5)])
    assert "Not run: 02-nga-weights, 03-text-adapter, 04-full-training" in verdict() and "01-f" not in verdict()
    names = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))]
    assert [*reporting.FIGURES, report.REPORT] == names
    whole = reporting.verdict(Results(COMMITTED), claims.judge(COMMITTED))
    assert "Not run" not in whole and "Run me" not in whole


def test_a_page_fetches_and_runs_nothing():
    shown = {"text/html": "<p>fine</p><img src='data:image/png;base64,AA'>"}
    cell = nbformat.v4.new_code_cell("print('src=')", outputs=[nbformat.v4.new_output("display_data", data=shown)])
    page = report.page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A <title>"), cell]))
    assert (
        "<title>A &lt;title&gt;</title>" in page and "<p>fine</p>" in page and "http" not in page.split("</style>")[1]
    )
    head = page.split("</head>")[0]
    assert "Content-Security-Policy" in head and "default-src 'none'" in head.split("<title>")[0]


# --- what a browser shows ----------------------------------------------------------------------------------------

PROBE = """() => {
  const wide = document.documentElement.scrollWidth, seen = e => e.checkVisibility();
  const all = what => [...document.querySelectorAll(what)];
  return {
    width: innerWidth, overflow: wide - innerWidth,
    images: document.images.length, broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.alt),
    rows: all("#ledger tbody tr").filter(seen).length, tables: all("table").length,
    loose: all("table").filter(t => !t.closest(".box")).length,
    code: all("div.highlight").filter(seen).length, folded: all("details.code").length,
    fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    dead: all("a[href^='#']").filter(a => !document.getElementById(a.hash.slice(1))).map(a => a.hash),
    away: all("a[href^='http']").length, small: all("td, p, li").filter(e => seen(e) &&
      parseFloat(getComputedStyle(e).fontSize) < 11).length,
  };
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The page of the committed notebook 09, as today's code makes it."""
    out = tmp_path_factory.mktemp("report")
    shutil.copytree(ROOT / "results" / "default", out / "results" / "default")
    page = out / "results" / "default" / "report.html"
    page.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HC_LAFTER_OUTPUT", str(out))
        assert report.main([]) == 0
    return page


def opened(browser: Any, page: Path, width: int = 1200) -> tuple[Any, list[str]]:
    """A page in a tab of this width, and what it says on its console."""
    tab, said = browser.new_page(viewport={"width": width, "height": 900}), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(page.as_uri())
    return tab, said


@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(made, browser, width):
    tab, console = opened(browser, made, width)
    found = tab.evaluate(PROBE)
    assert console == []
    assert found["width"] == width and found["overflow"] <= 0, found
    assert found["images"] > 20 and found["broken"] == []
    assert found["rows"] == 30 and found["tables"] >= 15 and found["loose"] == 0
    assert found["code"] == 0 and found["folded"] > 10  # folded away
    assert found["fetched"] == [] and found["dead"] == [] and found["away"] == 0
    assert found["small"] == 0


def test_the_probe_finds_what_is_wrong(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("""<!DOCTYPE html><html><body><img alt="gone" src="http://127.0.0.1:9/gone.png"><table><tr><td>1</td></tr></table>
    <div style="width: 2000px">wide</div><a href="#nowhere">x</a><script>nothing.at.all</script></body></html>""")
    tab, console = opened(browser, page, 390)
    found = tab.evaluate(PROBE)
    assert found["broken"] == ["gone"] and found["overflow"] > 1000 and found["loose"] == 1
    assert found["dead"] == ["#nowhere"] and found["fetched"][0].endswith("gone.png")
    assert any("nothing is not defined" in line for line in console)


def test_a_browser_obeys_the_policy(browser, tmp_path):
    head = reporting.environment().get_template("page.html.j2").render(title="x", style="", body="BODY")
    bad = (
        "<script>document.title = 'ran'</script><img src='http://127.0.0.1:9/x.png' onerror=\"document.title = 'ran'\">"
    )
    (tmp_path / "bad.html").write_text(head.replace("BODY", bad), encoding="utf-8")
    tab, console = opened(browser, tmp_path / "bad.html")
    assert tab.title() == "x" and any("Content Security Policy" in line for line in console)


def test_on_paper(made, browser):
    paper = opened(browser, made)[0].pdf()
    assert paper.startswith(b"%PDF") and 8 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 60


def test_the_file_is_small_and_repeats(made, tmp_path):
    assert made.stat().st_size < 6e6
    executed = made.parent / "09-report" / "09-report.ipynb"
    assert report.write(executed, tmp_path / "again.html").read_bytes() == made.read_bytes()
    records = json.loads((made.parent / "claims.json").read_text(encoding="utf-8"))
    assert [record["id"] for record in records] == [f"C{i:02d}" for i in range(1, 31)]
    counted = json.loads((executed.parent / "metrics.json").read_text(encoding="utf-8"))
    timed = sum(ledger.rests_on_time(record) for record in records)
    assert sum(row["value"] for row in counted) == 30 - timed and 0 < timed < 10


@pytest.mark.parametrize("field", ["profile", "code", "clip", "data"])
def test_readme_report_and_ledger_refuse_mixed_results(tmp_path, field):
    results = shutil.copytree(COMMITTED, tmp_path / "default")
    path = results / "provenance.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    entry = kept["notebooks"]["02-nga-weights"]
    other = {"profile": entry["profile"] | {"n_test": 60}, "code": "0", "clip": entry["clip"] | {"weight_hash": "0"}}
    entry[field] = (other | {"data": entry["data"] | {"fingerprint": "0"}})[field]
    path.write_text(json.dumps(kept), encoding="utf-8")
    what = {"profile": r"parameters \(n_test 60 and 1000\)", "clip": "weights"}.get(field, field)
    for refuses in (readme.headline, claims.judge, lambda folder: comparing.advice(Results(folder))):
        with pytest.raises(
            ValueError, match=f"02-nga-weights and 01-feature-tapping ran with different {what}: run both"
        ):
            refuses(results)


def test_the_headline_is_markdown_that_follows_the_results(tmp_path):
    results = shutil.copytree(COMMITTED, tmp_path / "default")
    claims.write(results)
    before = readme.headline(results)
    # heads; five of the choices; all choices and the layers, systems, those with masks (long and brief), claims
    assert before.count("\n| ") == 9 + 5 + 13 + 16 + 9 + 13 + 31
    with pytest.raises(ValueError, match=r"README.md has 0 lines '<!-- /headline -->' in the place of one"):
        readme.updated(f"a {readme.START} b", "x")
    assert readme.updated(f"a {readme.START} b {readme.END} c", "x") == f"a {readme.START}\nx\n{readme.END} c"
    records = json.loads((results / "claims.json").read_text(encoding="utf-8"))
    assert records[0]["verdict"] == "supported"
    records[0]["verdict"] = "contradicted"
    (results / "claims.json").write_text(json.dumps(records), encoding="utf-8")
    assert len(set(before.splitlines()) - set(readme.headline(results).splitlines())) == 2  # its line, and the counts
    shutil.rmtree(results / FULL)
    with pytest.raises(FileNotFoundError, match="run the notebooks first"):
        readme.headline(results)
