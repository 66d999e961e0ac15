"""Freed memory is kept for the next step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig

import tiny
from tunesmith.model import allocator
from tunesmith.model.account import account
from tunesmith.model.allocator import bound_memory, fitting_tokens
from tunesmith.model.pretrained import open_pretrained

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
    assert fitting_tokens(small, 256, "bf16", "cpu") > 4096 > fitting_tokens(large, 512, "bf16", "cpu") > 512
    assert fitting_tokens(small, 256, "bf16", "cpu") > 1.5 * fitting_tokens(small, 256, "fp32", "cpu")
    assert fitting_tokens(small, 256, "fp32", "cuda") > 3 * fitting_tokens(small, 256, "fp32", "cpu")


@pytest.mark.parametrize(("told", "budget", "kept"), [(None, 32, 4), (7, 7, 7), (3, 3, 4)])
def test_a_sequence_that_takes_four_times_the_memory_of_a_step_is_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int | None, budget: int, kept: int
) -> None:
    encoder = open_pretrained(str(tiny.save_encoder(tmp_path / "e", "bert"))).load()
    monkeypatch.setattr(allocator, "_STEP_BYTES", allocator._STEP_BYTES // fitting_tokens(encoder.config, 32, "fp32", "cpu"))
    assert bound_memory(encoder, 32, "fp32", told) == budget
    assert encoder.packed is not None and encoder.packed.most_kept == kept
    road = account(encoder, "fp32", 32, budget, table="", keeps_memory=True)
    assert road["in memory at once"].endswith(f"layers of a sequence beyond {kept} tokens are computed twice")


def test_all_weights_of_attention_count_where_they_are_kept(tmp_path: Path) -> None:
    bounds = []
    for kind in ("bert", "mpnet", "modernbert"):
        encoder = open_pretrained(str(tiny.save_encoder(tmp_path / kind, kind))).load()
        bounds.append([bound_memory(encoder, length, "fp32", None) for length in (1024, 2048)])
    blockwise, *others = bounds
    assert blockwise[0] == blockwise[1] and all(found[0] > 1.5 * found[1] for found in others)
