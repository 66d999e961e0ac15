"""Freed memory is kept for the next step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy as np
from tunesmith.model.allocator import keep_freed_memory
print(keep_freed_memory())
for _ in range(2):
    np.ones(32_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(32_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize("setting", ["1", "0"])
def test_an_array_as_large_as_one_freed_before_takes_its_pages(setting: str) -> None:
    environment = {**os.environ, "TUNESMITH_KEEP_MEMORY": setting}
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment)
    told, faults = run.stdout.split()
    assert (told == "True") == (setting == "1")
    assert setting == "0" or int(faults) < 100
