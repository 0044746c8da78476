"""Two workers share the cores (addopts in pyproject.toml): one thread each, in the processes that they start, too."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; more threads than cores are slower than one
