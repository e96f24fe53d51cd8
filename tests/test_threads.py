"""Threads of arithmetic: torch's, and those of libraries that are loaded already or later."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SCRIPT = """
import json, os
import numpy
from rtl_continual.threads import use_threads
use_threads(1)
import scipy.linalg, torch
from threadpoolctl import threadpool_info
print(json.dumps([torch.get_num_threads(), [i["num_threads"] for i in threadpool_info()]]))
"""


def test_torch_and_libraries_loaded_before_and_after_keep_to_the_count() -> None:
    # More than the count, whatever the machine has: otherwise one core would pass without it.
    free = os.environ | {f"{library}_NUM_THREADS": "2" for library in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=free, capture_output=True, text=True, check=True
    )
    torch_threads, libraries = json.loads(done.stdout)
    assert torch_threads == 1
    assert len(libraries) >= 2, "NumPy's linear algebra and torch's OpenMP at least"
    assert set(libraries) == {1}
