"""Tensors on the disk: what was written comes back, or a sentence says why not."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import warnings

import psutil
import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hc_lafter import store

TENSORS = {"a": torch.arange(500.0).reshape(20, 25).T, "b": torch.tensor([1, 2]), "c": torch.ones(3).half()}
METADATA = {"run": {"seed": 3, "layers": [1, 2]}, "state": [math.inf, None, "ü"], "name": "text"}
INPUTS = {"weights": "abc", "layers": (1, 2)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def never():
    raise AssertionError("made once more")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(offset):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[offset] ^= 0x10
        path.write_bytes(bytes(data))

    return damage


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    save_file({"x": torch.zeros(3)}, path)


def other_metadata(path):
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors, _ = store.read(path)
    store.save(path, tensors, {name: text.replace("1", "7") for name, text in header.items()})


DAMAGES = {f.__name__ + str(i): f for i, f in enumerate((truncate, flip(-5), flip(3), empty, foreign, other_metadata))}


def test_what_is_written_is_read(tmp_path):
    path = store.write(tmp_path / "new folder" / "x.safetensors", TENSORS, **METADATA)
    tensors, metadata = store.read(path)
    assert same(tensors, TENSORS) and metadata == METADATA
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_and_a_damaged_entry_made_again(tmp_path, damage):
    path = store.write(tmp_path / "x.safetensors", TENSORS, **METADATA)
    damage(path)
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged \(.+\): delete it, and run again what wrote"):
        store.read(path)
    key, _ = store.cached(tmp_path, INPUTS, lambda: TENSORS)
    damage(tmp_path / f"{key}.safetensors")
    with pytest.warns(UserWarning, match=f"{key}.safetensors is damaged .*made again"):
        assert same(store.cached(tmp_path, INPUTS, lambda: TENSORS)[1], TENSORS)
    assert store.cached(tmp_path, INPUTS, never)[0] == key


def test_no_flipped_bit_goes_unseen(tmp_path):
    """Header, description and payload, every 1/80 of the file."""
    path = store.write(tmp_path / "x.safetensors", TENSORS, **METADATA)
    whole = path.read_bytes()
    for offset in range(0, len(whole), len(whole) // 80):
        path.write_bytes(whole)
        flip(offset)(path)
        with pytest.raises(ValueError, match="is damaged"):
            store.read(path)


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = store.write(tmp_path / "x.safetensors", TENSORS)
    before = path.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written .*No space left.*: make room"):
        store.write(path, {"a": torch.zeros(2)})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_entry_is_made_once_and_every_input_counts(tmp_path):
    key, tensors = store.cached(tmp_path, INPUTS, lambda: TENSORS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, read = store.cached(tmp_path, dict(reversed(INPUTS.items())), never)
    assert again == key and same(read, tensors)
    others = [INPUTS | change for change in ({"weights": "abd"}, {"layers": [2, 1]}, {"more": None})]
    keys = [store.cached(None, inputs, dict)[0] for inputs in others]
    assert len({key, *keys}) == 4
    assert store.cached(None, INPUTS, dict) == (key, {})


def test_an_entry_under_another_key_is_refused(tmp_path):
    """A sound checksum and the wrong name: a file that somebody copied."""
    first, second = (store.cached(tmp_path, {"seed": s}, lambda s=s: {"x": torch.full((3,), s)})[0] for s in (0, 1))
    shutil.copy(tmp_path / f"{first}.safetensors", tmp_path / f"{second}.safetensors")
    with pytest.warns(UserWarning, match="it is another entry"):
        _, tensors = store.cached(tmp_path, {"seed": 1}, lambda: {"x": torch.full((3,), 1)})
    assert tensors["x"].tolist() == [1, 1, 1]


OTHER_PROCESS = """
import shutil, sys, time
from filelock import FileLock
entry, made = sys.argv[1:]
with FileLock(entry.replace(".safetensors", ".lock")):
    print("locked", flush=True)
    time.sleep(0.5)  # its work
    shutil.copy(made, entry)
"""


def test_the_second_process_waits_and_reads(tmp_path):
    key, _ = store.cached(tmp_path / "a", INPUTS, lambda: TENSORS)
    (tmp_path / "b").mkdir()
    made, entry = (tmp_path / folder / f"{key}.safetensors" for folder in "ab")
    arguments = [sys.executable, "-c", OTHER_PROCESS, str(entry), str(made)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n" and not entry.exists()
        assert same(store.cached(tmp_path / "b", INPUTS, never)[1], TENSORS)
    assert other.returncode == 0


def test_the_lock_is_given_back_after_a_failure(tmp_path):
    with pytest.raises(AssertionError, match="made once more"):
        store.cached(tmp_path, INPUTS, never)
    key, _ = store.cached(None, INPUTS, dict)
    with FileLock(tmp_path / f"{key}.lock", timeout=0):
        pass


def test_an_unwritable_folder_and_a_disk_without_room_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot be written .*another folder by HC_LAFTER_CACHE\.$"):
        store.cached(tmp_path / "file", INPUTS, never)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs 1\.0 GiB for this entry and has 0\.0 GiB: make room"):
        store.cached(tmp_path, INPUTS, never, size=2**30)  # known before the work, not after it


def test_metadata_can_be_read_without_the_package(tmp_path):
    path = store.write(tmp_path / "x.safetensors", TENSORS, **METADATA)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["run"]) == METADATA["run"]


# --- more than the memory ---


def rows(n: int = 7, size: int = 3):
    """Tensors of 7 rows, one of them empty, and the same in pieces of 1, 3 and 3."""
    whole = {"b": torch.randn(n, size, 2), "a": torch.arange(float(n)), "none": torch.zeros(n, 0, 4)}
    cuts = (0, 1, 4, n)
    pieces = [{k: v[a:b] for k, v in whole.items()} for a, b in itertools.pairwise(cuts)]
    return whole, {k: tuple(v.shape) for k, v in whole.items()}, pieces


def test_what_is_streamed_is_an_entry_as_any_other(tmp_path):
    whole, shapes, pieces = rows()
    key, inside = store.streamed(None, {"x": 1}, shapes, lambda: iter(pieces))
    again, outside = store.streamed(tmp_path, {"x": 1}, shapes, lambda: iter(pieces))
    assert key == again and not isinstance(inside, store.Windows) and isinstance(outside, store.Windows)
    assert same(inside, whole) and same(dict(outside), whole)
    path = tmp_path / f"{key}.safetensors"
    assert same(store.read(path)[0], whole)  # its checksum is that of `write`
    assert outside["b"].data_ptr() % 64 == 0 and "c" not in outside and outside.get("c") is None
    outside["b"].zero_()
    assert same(dict(store.streamed(tmp_path, {"x": 1}, shapes, never)[1]), whole)


@pytest.mark.parametrize("damage", [truncate, flip(-1), empty, foreign])
def test_a_damaged_stream_is_made_again(tmp_path, damage):
    whole, shapes, pieces = rows()
    key, _ = store.streamed(tmp_path, {"x": 1}, shapes, lambda: iter(pieces))
    damage(tmp_path / f"{key}.safetensors")
    with pytest.warns(UserWarning, match="is damaged .*: it is made again"):
        _, found = store.streamed(tmp_path, {"x": 1}, shapes, lambda: iter(pieces))
    assert same(dict(found), whole)


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path):
    _, shapes, pieces = rows()

    def broken():
        yield pieces[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.streamed(tmp_path, {"x": 1}, shapes, broken)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere allocated and mapped memory cannot be told apart")
def test_a_stream_takes_the_memory_of_a_piece(tmp_path):
    """96 MiB in pieces of one: written, found again and summed up without being allocated."""
    process, most = psutil.Process(), []

    def allocated() -> int:
        memory = process.memory_info()
        return memory.rss - memory.shared

    def pieces():
        for value in range(96):
            most.append(allocated())
            yield {"x": torch.full((1, 2**18), float(value))}

    store.streamed(tmp_path / "first", {"x": 1}, {"x": (96, 2**18)}, pieces)[1]["x"].sum()  # allocator and threads warm
    most.clear()
    before = allocated()
    for _ in range(2):
        _, found = store.streamed(tmp_path, {"x": 1}, {"x": (96, 2**18)}, pieces)
        window = found["x"]
        assert window.sum() == 2**18 * 95 * 48
        most.append(allocated())
        del window
    assert len(most) == 96 + 2 and max(most) - before < 24 * 2**20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path):
    from hc_lafter.files import write_whole

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is not a file: give the name of one"):
        write_whole(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
