"""Profiles, places, and what a notebook saves: refusals, bytes that repeat, files that are whole."""

import json
import math
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info

from hc_lafter.files import code_hash, write_whole
from hc_lafter.suite import paths, profiles, provenance, study
from hc_lafter.suite.paths import find_root
from hc_lafter.suite.profiles import Profile, load_profile, parse_overrides, profile_names
from hc_lafter.suite.records import metric
from hc_lafter.suite.study import Study

NAME = "01-feature-tapping"
ROW = {"system": "layer 1", "dataset": "world", "split": "test", "metric": "top-1 accuracy", "unit": "fraction"}
SAME = {key: ROW[key] for key in ROW if key != "system"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An output folder; the style and the random state that a study sets are put back."""
    monkeypatch.setenv("HC_LAFTER_OUTPUT", str(tmp_path))
    monkeypatch.delenv("HC_LAFTER_CACHE", raising=False)
    with plt.rc_context():
        yield tmp_path
    plt.close("all")
    torch.set_deterministic_debug_mode("default")


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


def test_profiles_change_sizes_only():
    smoke, default, full = (load_profile(name) for name in ("smoke", "default", "full"))
    assert set(profile_names()) == {"smoke", "default", "reference", "full"}
    sizes = ("n_train", "n_val", "n_test", "seeds", "bootstrap", "random_images")
    for size in sizes:
        assert getattr(smoke, size) < getattr(default, size) < getattr(full, size), size
    assert (smoke.clip, smoke.data) == (default.clip, default.data) == ("embedded", "world")
    assert load_profile("default", {"layers": None}) == default
    assert load_profile("reference", {"rates": None}).rates is None is not load_profile("reference").rates
    assert load_profile("default", {"seeds": 7}).seeds == 7
    assert load_profile("default", {"layers": range(5, 8)}).layers == [5, 6, 7]
    assert load_profile("default", {"data": Path("photos")}).data == "photos"


def test_profile_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_profile().seeds = 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sedes": None}, ["'sedes' is unknown"]),
        ({"formats": "svg,png,gif"}, ["formats='svg,png,gif'", "give the files of each figure: 'svg,png', without"]),
        ({"formats": "pdf"}, ["formats='pdf' is not usable", "or 'svg,png,pdf'"]),
        ({"name": "x"}, ["'name' is unknown"]),
        ({"seeds": "3"}, ["seeds='3' is not usable (it takes a whole number): give the number of seeds, 2 or more"]),
        ({"seeds": True}, ["seeds=True"]),
        ({"seeds": 1}, ["seeds=1", "an interval needs them"]),
        ({"n_train": 0}, ["n_train=0"]),
        ({"layers": [5, 0]}, ["layers=0, item 2"]),
        ({"layers": []}, ["layers=[]"]),
        ({"probe_c": [1.0, -1.0]}, ["probe_c=-1.0, item 2"]),
        ({"probe_c": [math.inf]}, ["probe_c=inf"]),
        ({"device": "gpu"}, ["device='gpu'", "cuda:1"]),
        ({"precision": "fp8"}, ["precision='fp8'", "'bf16'"]),
        ({"clip": ""}, ["clip=''"]),
        ({"data": "  "}, ["data='  '"]),
        ({"seeds": None}, ["seeds=None says nothing"]),
    ],
)
def test_profile_refuses(overrides, words):
    with pytest.raises(ValueError) as caught:
        load_profile("default", overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seeds", "3", 3),
        ("n_train", "2_000", 2000),
        ("clip", "5", "5"),
        ("data", "C:\\photos", "C:\\photos"),
        ("layers", "5,6, 12", [5, 6, 12]),
        ("layers", "[5]", [5]),
        ("probe_c", "0.1,1,1e2", [0.1, 1.0, 100.0]),
        ("layers", "none", None),
        ("descriptions", "None", None),
        ("rates", "null", None),
        ("baselines", "none", "none"),
        ("data", "./none", "./none"),
    ],
)
def test_overrides_are_parsed(key, text, value):
    parsed = parse_overrides([f"{key}={text}", "batch_size=7"])
    assert parsed == {key: value, "batch_size": 7} and type(parsed[key]) is type(value)


def test_a_parameter_twice_and_overrides_that_are_none_are_refused():
    with pytest.raises(ValueError, match="--param seeds is given twice: keep one of the two"):
        parse_overrides(["seeds=3", "seeds=4"])
    for given in ("n_test=60", ["n_test"]):
        with pytest.raises(ValueError, match="names no parameter: write it like"):
            load_profile("smoke", given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds=three", r"parameter seeds='three' is not usable \(it takes a whole number\): give the number of seeds"),
        ("seeds=0", r"seeds='0' is not usable \(it takes 2 or more\): give"),
        ("sigmas=-1", r"sigmas='-1', item 1 is not usable \(it takes a number above 0\): give"),
        ("lambdas=nan", r"\(it takes a finite number\)"),
        ("seed=4_294_967_296", r"\(it takes a number below 2,147,483,648\)"),
        ("threads=1000000", r"\(it takes a number below 1,025\)"),
        ("mask_arms=perhaps", r"\(it takes true or false\)"),
        ("seeds=true", "seeds='true'"),
        ("layers=5,x", "layers='x', item 2 is not usable"),
        ("precision=bf6", r"did you mean 'bf16'\?"),
        ("sede=1", "'sede' is unknown"),
        *((f"{key}=", f"--param {key}= is empty: give .*, or leave it out") for key in Profile.model_fields),
        ("data=  ", "is empty"),
        ("clip=NULL", "--param clip=NULL says nothing"),
        ("n_train=none", "--param n_train=none says nothing"),
    ],
)
def test_overrides_are_refused(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_overrides([text])
    assert "\n" not in str(caught.value)
    assert not re.search("[Ii]nput should|unable to|[Ss]tring should|[Ll]ist should", str(caught.value))  # pydantic's


def test_every_field_is_described_and_set():
    unset = {
        "layers",
        "descriptions",
        "mask_split",
        "steps",
        "mask_steps",
        "rates",
        "doublings",
        "label_counts",
        "n_sweep",
    }
    assert set(profiles._tables()["default"]) | unset == set(Profile.model_fields)
    assert all(field.description for field in Profile.model_fields.values())


def test_root_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("HC_LAFTER_ROOT", raising=False)
    (tmp_path / "hc_lafter").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    assert find_root() == tmp_path.resolve()
    monkeypatch.setenv("HC_LAFTER_ROOT", str(tmp_path / "notebooks"))
    assert find_root() == (tmp_path / "notebooks").resolve()


def test_root_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("HC_LAFTER_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_root() == Path(paths.__file__).resolve().parents[2]  # imported from a checkout: that one
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "hc_lafter" / "suite" / "paths.py"))
    with pytest.raises(FileNotFoundError, match="outside the repository: start from inside it, or set HC_LAFTER_ROOT"):
        find_root()


def test_study_places_and_seeds(place, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    monkeypatch.setenv("HC_LAFTER_ROOT", str(tmp_path / "code"))
    one = Study(NAME, "smoke", {"seed": 5, "workers": 0})
    assert one.seeds == [5, 6] and one.seed == 5 and one.name == "smoke"
    folder = one.results.parent.name
    assert one.results == place.resolve() / "results" / folder / NAME
    assert one.figures == place.resolve() / "figures" / folder / NAME
    assert re.fullmatch(r"smoke\+[0-9a-f]{8}", folder)  # its first seed is not the profile's own
    assert one.cache == tmp_path.resolve() / "code" / ".hc_lafter" / "cache"
    drawn = torch.rand(3), np.random.rand(3)  # noqa: NPY002 - the global state is what is tested
    Study(NAME, "smoke", {"seed": 5})
    assert torch.equal(torch.rand(3), drawn[0]) and np.array_equal(np.random.rand(3), drawn[1])  # noqa: NPY002
    assert Study(NAME, "smoke", {"seed": 5, "n_test": 80}).results == one.results  # 80 is the profile's own
    assert Study(NAME, "smoke", {"seed": 0}).results.parent.name == "smoke"
    assert Study(NAME, "smoke", {"seed": 6}).results != one.results
    assert not torch.equal(torch.rand(3), drawn[0])


def test_relative_paths_count_from_the_repository_in_a_live_notebook(place, tmp_path, monkeypatch):
    root = tmp_path / "code"
    (root / "hc_lafter").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "pyproject.toml").touch()
    monkeypatch.chdir(root / "notebooks")
    monkeypatch.setenv("HC_LAFTER_ROOT", str(root))  # run_all.py: paths count from where it was started
    Study(NAME, "smoke")
    assert Path.cwd() == root / "notebooks"
    monkeypatch.delenv("HC_LAFTER_ROOT")
    Study(NAME, "smoke")
    assert Path.cwd() == root
    Study(NAME, "smoke")  # its cell once more
    assert Path.cwd() == root


def test_a_record_of_a_run_does_not_run_again(place, monkeypatch):
    """Whatever its parameters say: the kernel of JupyterLab works in the notebook's folder."""
    one = Study(NAME, "smoke")
    one.add([{**SAME, "system": "a", "value": 0.5}])
    one.finish()
    before = (one.results / "metrics.json").read_bytes()
    (one.results / f"{NAME}.ipynb").touch()
    monkeypatch.chdir(one.results)
    for overrides in ({}, {"seed": 5}):
        with pytest.raises(ValueError, match=f"record of a run and stays as it is: open notebooks/{NAME}.ipynb"):
            Study(NAME, "smoke", overrides)
    assert (one.results / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ('profile = "smoke"\noverride = {"seeds": 3}', r"sets 'override', which .* \(did you mean 'overrides'\?\)"),
        ('profil = "smoke"\noverrides = {}', r"sets 'profil', which nothing reads \(did you mean 'profile'\?\)"),
        ('profile = "smoke"\noverrides = {}\nseeds = 3', r"sets seeds, .* write overrides = \{'seeds': \.\.\.\}"),
        ('profile = "smoke"\noverrides = {}', None),
    ],
)
def test_a_parameter_renamed_in_a_live_notebook_is_refused(place, monkeypatch, cell, sentence):
    """The kernel still has the old name, with the old value."""
    first = ["", 'profile = "smoke"\noverrides = {}', "%matplotlib inline", "study = Study()"]
    later = ["x = 3", "import os\nprofile_of = os.name", "study = Study()"]
    shell = SimpleNamespace(user_ns={"In": [*first, cell, *later]})
    monkeypatch.setattr(study, "get_ipython", lambda: shell)
    if sentence is None:
        Study(NAME, "smoke")
        return
    with pytest.raises(ValueError, match=sentence):
        Study(NAME, "smoke")


@pytest.mark.parametrize("name", ["feature-tapping", "1-x", "01-Feature", "01-x/../../y", "01"])
def test_study_refuses_notebook_names(place, name):
    with pytest.raises(ValueError, match="notebook name"):
        Study(name)


def test_study_refuses_what_the_machine_lacks(place, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert Study(NAME, "smoke", {"device": "cpu", "precision": "auto"}).precision == "fp32"
    with pytest.raises(ValueError, match="precision=bf16 is not in this cpu processor"):
        Study(NAME, "smoke", {"device": "cpu", "precision": "bf16"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert Study(NAME, "smoke", {"device": "cpu", "precision": "auto"}).precision == "bf16"
    assert Study(NAME, "smoke", {"device": "cpu", "precision": "fp32"}).precision == "fp32"
    # Without AMX tiles bf16 is there for who asks for it, but slower than fp32.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert Study(NAME, "smoke", {"device": "cpu", "precision": "auto"}).precision == "fp32"
    assert Study(NAME, "smoke", {"device": "cpu", "precision": "bf16"}).precision == "bf16"


def test_threads_are_the_profiles(place):
    """And those of numpy's products, too; 0 leaves what torch takes."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        Study("01-x", overrides={"threads": 0})
        assert torch.get_num_threads() == 3
        Study("01-x", overrides={"threads": 2})
        assert torch.get_num_threads() == 2
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
        Study("01-x")
        assert torch.get_num_threads() == 1  # the default profile's, so that its numbers do not depend on the machine
    finally:
        torch.set_num_threads(before)


def test_autocast_follows_the_precision(place, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Study(NAME, "smoke", {"device": "cpu", "precision": precision}).autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_metric_is_tidy_rounded_and_exact_for_counts():
    record = metric(**ROW, value=np.float32(1 / 3), low=0.25, high=np.float64(0.5), n=np.int64(80), seeds=2)
    assert record == {**ROW, "value": 0.333333, "low": 0.25, "high": 0.5, "n": 80, "seeds": 2}
    assert type(record["value"]) is float and type(record["n"]) is int
    assert metric(**{**ROW, "unit": "count"}, value=1_572_864)["value"] == 1_572_864
    assert metric(**ROW, value=torch.tensor(0.5))["value"] == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": math.nan}, "value=nan is not usable .*: give a finite number"),
        ({"value": math.inf, "unit": "nats"}, "value=inf"),
        ({"value": None}, "value=None"),
        ({"value": "0.5"}, "value='0.5'"),
        ({"value": True}, "value=True"),
        ({"value": 51.2}, "layer 1 / .*value 51.2 is not a fraction: divide per cent by 100"),
        ({"low": 0.6, "high": 0.7}, r"value 0.5 lies outside \[0.6, 0.7\]"),
        ({"low": 0.4}, "low is 0.4 and high is None"),
        ({"low": math.nan, "high": 0.7}, "low=nan"),
        ({"unit": "fractions"}, r"unit='fractions' is not usable .*\(did you mean 'fraction'\?\)"),
        ({"n": 0}, "n=0"),
        ({"n": 8.5}, "n=8.5"),
        ({"system": " "}, "system=' ' is not usable: give a name"),
        ({"split": None}, "split=None"),
    ],
)
def test_metric_refuses(changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        metric(**ROW | {"value": 0.5} | changes)
    assert "\n" not in str(caught.value)


def test_metrics_repeat_byte_for_byte(place):
    rows = [{**ROW, "system": f"layer {i}", "value": 0.1 * i, "low": 0.0, "high": 1.0, "n": 80} for i in range(1, 4)]
    rows.append({**ROW, "system": "tower", "metric": "parameters", "unit": "count", "value": 87_849_216})
    written = []
    for _ in range(2):
        one = Study(NAME, "smoke")
        one.add(rows)
        one.finish()
        written.append([(one.results / f"metrics.{form}").read_bytes() for form in ("json", "parquet")])
    assert written[0] == written[1]
    assert one.results == place.resolve() / "results" / "smoke" / NAME
    records = json.loads(written[0][0])
    assert [r["system"] for r in records] == ["layer 1", "layer 2", "layer 3", "tower"]
    assert records[2]["value"] == 0.3 and records[3]["value"] == 87_849_216 and written[0][0].endswith(b"\n")
    assert records[3] | {"n": None, "low": None, "seeds": None} == records[3] and "minus" not in records[3]
    table = pd.read_parquet(one.results / "metrics.parquet")
    assert table["value"].tolist() == [0.1, 0.2, 0.3, 87_849_216.0]
    assert table["n"].isna().tolist() == [False, False, False, True]
    assert not leftovers(one.results)


def test_rows_are_refused_or_replaced(place):
    one = Study(NAME, "smoke")
    with pytest.raises(ValueError, match="kept no numbers"):
        one.finish()
    with pytest.raises(ValueError, match="layer 1 / world / test / top-1 accuracy stands there twice"):
        one.add([{**ROW, "value": 0.5}, {**ROW, "value": 0.4}])
    with pytest.raises(ValueError, match="metric x: dataset is missing: give the name"):
        one.add([{"system": "x", "value": 0.5}])
    with pytest.raises(ValueError, match="value is missing: give a finite number"):
        one.add([{**ROW, "value": math.nan}])
    assert not one.results.exists()
    one.add([{"system": "layer 1", "value": 0.4}, {"system": "layer 2", "value": 0.3, "minus": "layer 1"}], **SAME)
    one.add([{"system": "layer 1", "value": 0.5, "p": 0.1, "seeds": 1, "n": pd.NA}], **SAME)  # the cell runs again
    one.finish()
    records = json.loads((one.results / "metrics.json").read_text())
    assert [(r["value"], r["seeds"], r.get("minus")) for r in records] == [(0.5, None, None), (0.3, None, "layer 1")]


def test_timings_stand_apart(place):
    one = Study(NAME, "smoke")
    one.add([{**ROW, "value": 0.5}])
    one.add([{**ROW, "metric": "tap", "unit": "seconds", "value": 1.23456789, "n": np.int64(80)}])
    one.add([{**ROW, "split": "timing", "unit": "ratio", "value": 2}])
    one.finish()
    timings = json.loads((one.results / "timings.json").read_text())
    assert [(t["value"], t["n"]) for t in timings] == [(1.23457, 80), (2, None)]
    assert len(json.loads((one.results / "metrics.json").read_text())) == 1


def test_written_whole_or_not_at_all(tmp_path):
    path = write_whole(tmp_path / "deep" / "file.txt", "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()

    def breaks(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, breaks)
    assert path.read_bytes() == "Größe\n".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["A figure", "../out", "", "a--b"])
def test_a_figures_name_is_that_of_files(place, name):
    with pytest.raises(ValueError, match="not usable for a file"):
        Study(NAME, "smoke").figure(name, plt.figure)


def test_table_both_ways(place):
    table = pd.DataFrame({"layer": [1, 2], "accuracy": [1 / 3, 0.5]})
    path = Study(NAME, "smoke").save_table(table, "per-layer")
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    assert path.with_suffix(".csv").read_bytes() == b"layer,accuracy\n1,0.333333\n2,0.5\n"


def finished(name, overrides=None, **inputs):
    one = Study(name, "smoke", overrides)
    one.add([{**ROW, "value": 0.5}])
    one.finish(**inputs)
    return json.loads((one.results.parent / "provenance.json").read_text(encoding="utf-8"))["notebooks"]


def test_provenance_gathers_and_keeps_places_to_itself(place):
    secret = place / "home" / "somebody"
    mine = {"data": str(secret / "photos"), "clip": f"ViT-B-32@{secret / 'mine.pt'}"}
    entry = finished(NAME, mine, clip="abc", data="def", text="123")[NAME]
    assert entry["profile"]["data"] == "photos" and entry["profile"]["clip"] == "ViT-B-32@mine.pt"
    assert entry["text"] == "123" and entry["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert entry["hardware"]["cores"] == os.cpu_count() and entry["precision"] == "fp32"
    both = finished("02-nga-weights", mine)
    assert list(both) == [NAME, "02-nga-weights"] and both[NAME] == entry
    assert set(entry["files"]) == {"metrics.json", "metrics.parquet"} and set(entry["rules"]) >= {"C01", "C30"}
    (path,) = (place / "results").glob("smoke+*/provenance.json")
    text = path.read_text(encoding="utf-8")
    for private in (str(place), "somebody", str(Path(study.__file__).parents[1])):
        assert private not in text, private
    for damage in ("{half", "[]", "{}"):
        path.write_text(damage)
        with pytest.raises(ValueError, match=r"provenance\.json is damaged .*: delete it"):
            finished(NAME, mine)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("emoset:/home/somebody/EmoSet-118K", "emoset:EmoSet-118K"),
        (r"flickr_ldl:C:\Users\somebody\Flickr_LDL", "flickr_ldl:Flickr_LDL"),
        ("fi:~/FI", "fi:FI"),
        ("fi:../somebody/FI", "fi:FI"),
        ("fi:/home/some@body/FI", "fi:FI"),
        ("/home/some@body/photos", "photos"),
        ("/home/some:body/photos", "photos"),
        ("ViT-B-32@/home/some:body/mine.pt", "ViT-B-32@mine.pt"),
        (r"C:\Users\somebody\photos", "photos"),
        ("local-dir:/home/somebody/clip", "local-dir:clip"),
        *((same, same) for same in ("world", "emoset:data/EmoSet", "data/photos", "ViT-B-32/openai", "hf-hub:a/b", 3)),
    ],
)
def test_no_folder_of_this_machine_stays_in_a_value(value, kept):
    assert provenance.placeless(value) == kept


def test_provenance_takes_a_clip_and_a_data_set(place):
    class Thing:
        name, fingerprint, weight_hash, transform_id = "embedded", "f" * 64, "a" * 64, "resize 64"
        activation, parameters = "GELU", 3_300_000

    entry = finished(NAME, clip=Thing(), data=Thing())[NAME]
    assert entry["clip"]["weight_hash"] == "a" * 64 and entry["data"] == {"name": "embedded", "fingerprint": "f" * 64}


def test_commit_and_dirt(tmp_path, monkeypatch):
    assert provenance.commit(tmp_path) is None  # no repository
    if shutil.which("git"):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
            provenance.subprocess.run(["git", "-C", tmp_path, *words], check=True)
        clean = provenance.commit(tmp_path)
        assert len(clean["commit"]) == 40 and clean["dirty"] is False
        write_whole(tmp_path / "results" / "x.json", "{}")
        assert provenance.commit(tmp_path) == clean  # what a run writes does not make it dirty
        write_whole(tmp_path / "code.py", "")
        assert provenance.commit(tmp_path)["dirty"] is True
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert provenance.commit(tmp_path) is None  # no git


def test_code_hash_sees_names_bytes_and_nothing_else(tmp_path):
    write_whole(tmp_path / "clip" / "a.py", "x = 1\n")
    before = code_hash(tmp_path)
    write_whole(tmp_path / "clip" / "__pycache__" / "a.pyc", b"x")
    assert code_hash(tmp_path) == before
    write_whole(tmp_path / "clip" / "weights.safetensors", b"x")
    more = code_hash(tmp_path)
    assert more != before
    (tmp_path / "clip" / "weights.safetensors").rename(tmp_path / "clip" / "other.safetensors")
    assert code_hash(tmp_path) not in (before, more)


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        ('def f(x):\n    """Another."""\n    return x + 1  # since\n\n\nname = "é"  # so\n', False),
        ('def f(x):\n    return x + 1\nname = "é"', False),
        ('def f(x):\n    """One."""\n    return x + 2\n\n\nname = "é"  # why\n', True),
        ('def f(x):\n    """One."""\n    return x + 1\n\n\nname = "# é"  # why\n', True),
    ],
)
def test_code_hash_is_of_code_alone(tmp_path, other, counts):
    """Docstrings, comments and blank lines change no number."""
    write_whole(tmp_path / "clip" / "x.py", 'def f(x):\n    """One."""\n    return x + 1\n\n\nname = "é"  # why\n')
    before = code_hash(tmp_path)
    write_whole(tmp_path / "clip" / "x.py", other)
    assert (code_hash(tmp_path) != before) == counts


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        *((f"{room}/x.py", True) for room in ("clip", "systems", "tuning", "data/world", "analysis")),
        ("embedded/model.safetensors", True),
        ("suite/reporting.py", False),  # a docstring in the report makes no result stale
        ("suite/report.css", False),
        ("embedded/MODEL_CARD.md", False),
        ("fidelity.py", False),
    ],
)
def test_code_hash_is_of_what_computes(tmp_path, file, counts):
    write_whole(tmp_path / file, "one")
    before = code_hash(tmp_path)
    write_whole(tmp_path / file, "two")
    assert (code_hash(tmp_path) != before) == counts


def test_the_verdict_is_that_of_the_last_run(place, capsys):
    one = Study(NAME, "smoke")
    one.verdict()
    one.say("Layer 12 is best.")
    one.say("Layer 12 is best.")  # a cell that runs twice says it once
    one.add([ROW | {"value": 0.5, "seeds": 1}])
    one.finish()
    assert (one.results / "verdict.md").read_text(encoding="utf-8") == "- Layer 12 is best.\n"
    assert json.loads((one.results / "metrics.json").read_text(encoding="utf-8"))[0]["seeds"] is None
    assert "Layer 12 is best." in capsys.readouterr().out


class Shell:
    """What IPython knows of the cells that were run."""

    def __init__(self, *cells):
        self.user_ns = {"In": ["", *cells]}


def test_what_a_cell_took_long_for_is_read_again(place, monkeypatch, capsys):
    monkeypatch.setenv("HC_LAFTER_CACHE", str(place / "cache"))  # not the checkout's
    made = []

    def make():
        made.append(1)
        return {"none": [], "b": np.arange(3), "a, of b": [0.5], "": torch.tensor([True]), "B": np.float64(2)}

    def kept(*cells, inputs=("val",), overrides=None, timed=False):
        monkeypatch.setattr(study, "get_ipython", lambda: Shell(*cells) if cells else None)
        found = Study(NAME, "smoke", overrides).kept(make, *inputs, timed=timed)
        assert list(found) == ["none", "b", "a, of b", "", "B"]  # in the order of make
        assert {name: (str(x.dtype), x.tolist()) for name, x in found.items()} == {
            "none": ("float64", []), "b": ("int64", [0, 1, 2]),
            "a, of b": ("float64", [0.5]), "": ("bool", [True]), "B": ("float64", 2.0)
        }  # fmt: skip
        return len(made)

    assert [kept("x = 1", "kept()"), kept("x = 1", "kept()")] == [1, 1]
    assert kept("x = 2", "kept()") == 2, "an earlier cell decides"
    assert kept("x = 1", "kept()", "kept()") == 3, "a cell that ran twice may have changed what it reads"
    assert kept("x = 1", "kept()", inputs=("test",)) == 4
    assert kept("x = 1", "kept()", overrides={"n_test": 70}) == 5
    monkeypatch.setattr(study, "own_code", lambda: "other code")
    assert [kept("x = 1", "kept()"), kept("x = 1", "kept()")] == [6, 6]
    assert [kept(), kept()] == [7, 8], "a script has no cells"
    assert not capsys.readouterr().out

    monkeypatch.setattr(study, "processor", lambda: "one")
    assert [kept("x = 1", "kept()", timed=True), kept("x = 1", "kept()", timed=True)] == [9, 9]
    assert capsys.readouterr().out.count("on one, and kept") == 2
    monkeypatch.setattr(study, "processor", lambda: "other")
    assert kept("x = 1", "kept()", timed=True) == 10, "another processor has other times"


def test_inputs_of_a_cell_count_by_their_content(place, monkeypatch):
    monkeypatch.setattr(study, "get_ipython", lambda: Shell("cell"))
    one, draws = Study(NAME, "smoke"), iter(range(9))

    def kept(**content):
        return one.kept(lambda: {"n": next(draws)}, SimpleNamespace(**content))["n"].item()

    found = [kept(weight_hash="a"), kept(weight_hash="b"), kept(fingerprint="a"), kept(fingerprint="c")]
    assert found == [0, 1, 0, 2] and kept(weight_hash="b") == 1


def test_a_row_in_words_carries_the_interval_of_all_comparisons_where_it_has_one():
    row = pd.Series({"value": 0.02, "low": 0.001, "high": 0.04, "verdict": "no difference", "low_all": float("nan")})
    assert Study.points(row) == "+2.0 [+0.1, +4.0] points, no difference"
    row = pd.concat([row.drop("low_all"), pd.Series({"low_all": -0.01, "high_all": 0.05})])
    assert Study.points(row) == "+2.0 [+0.1, +4.0], all together [-1.0, +5.0] points, no difference"
    assert Study.span(row) == "0.020 [0.001, 0.040], all together [-0.010, 0.050]"
