"""Two workers share the cores (addopts in pyproject.toml): one thread each, in the processes that they start, too.

The files that take minutes begin, so that no worker is left alone with one at the end.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; more threads than cores are slower than one

LONG = ["test_full_profile.py", "test_notebooks.py", "test_pretrain.py", "test_embedded_clip.py"]


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
