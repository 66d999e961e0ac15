"""Freed memory is kept for the next step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from transformers import BertConfig

from tunesmith.model.allocator import token_budget

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


def test_a_step_holds_as_many_tokens_as_fit() -> None:
    small = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    large = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    assert token_budget(small, 256, "bf16", "cpu") > 4096 > token_budget(large, 512, "bf16", "cpu") > 512
    assert token_budget(small, 256, "bf16", "cpu") > 1.5 * token_budget(small, 256, "fp32", "cpu")
    assert token_budget(large, 100_000, "fp32", "cpu") == 100_000
    assert token_budget(small, 256, "fp32", "cuda") > 3 * token_budget(small, 256, "fp32", "cpu")
