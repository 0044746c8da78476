"""Two workers share the cores (addopts in pyproject.toml): one thread each, in the processes that they start, too.

The files that take long begin, so that no worker is left alone with one at the end; beside the chain of notebooks,
which keeps more than one core busy, those that mostly wait for processes.
"""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; more threads than cores are slower than one

LONG = """
notebooks workers browser benchmarks faults runs training full_profile pretrain embedded_clip report tune figures
run_all masks_full registry repository features baselines world fidelity clip claims cli masks views mask_views
"""
LONG = [f"test_{name}.py" for name in LONG.split()]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache for all workers: of features, and of text classifiers, which `tune` takes seconds to train."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A small material of the embedded world, and a cache of its own."""
    from hc_lafter.tuning.setting import Setting

    sizes = {"n_train": 40, "n_val": 24, "n_test": 24, "batch_size": 20}
    return Setting(**sizes, seeds=(0, 1), text_steps=20, text_noise=(0.0,), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def forked_workers():
    """Dask forks its workers off a process that has imported everything, as in its own tests: importing is most of a
    start. The chain of `test_notebooks.py` and the tests of killed workers start them as users do."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        yield
        return
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "hc_lafter.suite.plans"])
        yield


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright; the system's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
