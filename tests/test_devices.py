"""Where a network computes: which device is taken, what its kernels are given, and whether other devices than the processor work."""

from __future__ import annotations

import inspect
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen as torch_varlen

from running import Run
from tunesmith.errors import UsageError
from tunesmith.model import varlen
from tunesmith.model.attention import Attention, plan
from tunesmith.model.devices import CPU, choose_device

HERE = Path(__file__).parent


PARTS = ["packed", "padded", "every_way", "do_the_same"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", [*PARTS, f"not ({' or '.join(PARTS)})"])
def test_everything_works_elsewhere(part: str) -> None:
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", part, str(HERE / "elsewhere.py")]
    ended = subprocess.run(command, cwd=HERE.parent, env=told, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


def test_a_gpu_that_is_not_there_is_told(run: Run, reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    assert choose_device("auto")[0] == torch.device("cpu")
    with pytest.raises(UsageError, match="device='cuda:3': this build of torch has no CUDA"):
        choose_device("cuda:3")
    found = run("train", reviews, "--model", tiny_bert, "--out", tmp_path / "model", "--device", "cuda")
    assert found.code == 2 and "--device cuda: this build of torch has no CUDA" in found.err and not (tmp_path / "model").exists()
    found = run("train", reviews, "--model", tiny_bert, "--out", tmp_path / "model", "--device", "gpu")
    assert found.code == 2 and "--device" in found.err and "'gpu'" in found.err and "Did you mean 'cuda'?" in found.err
    found = run("predict", tmp_path / "model", reviews, "--device", "gpu")
    assert found.code == 2 and "it must be auto, cpu, cuda, or cuda:N" in found.err


def of_each_sequence(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, **more: Any
) -> Tensor:
    """What torch's kernel computes, a sequence at a time."""
    inspect.signature(torch_varlen.varlen_attn).bind(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **more)
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and not more
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert cu_seq_q[-1] == len(query) and cu_seq_k[-1] == len(key) == len(value)
    found = []
    for (a, b), (c, d) in zip(itertools.pairwise(cu_seq_q.cpu().tolist()), itertools.pairwise(cu_seq_k.cpu().tolist()), strict=True):
        q, k, v = query[a:b].transpose(0, 1), key[c:d].transpose(0, 1), value[c:d].transpose(0, 1)
        found.append((torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("only_first", [False, True])
@pytest.mark.parametrize("lengths", [[5], [3, 1, 7, 7], [16, 2]])
def test_the_kernel_of_a_gpu_is_given_what_the_groups_are(lengths: list[int], only_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_varlen, "varlen_attn", of_each_sequence)
    torch.manual_seed(0)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values, kept = torch.randn(sum(lengths), 3 * 32), (torch.rand(sum(lengths), 2) > 0.3) / 0.7
    results = []
    for way in (
        lambda qkv: Attention.apply(qkv, 2, plan(cu_seqlens, CPU), kept, len(cu_seqlens) - 1 if only_first else None),
        lambda qkv: varlen.attend(qkv, kept, only_first, heads=2, sequences=varlen.Sequences.of(cu_seqlens, CPU)),
    ):
        qkv = values.clone().requires_grad_()
        found = way(qkv)
        found.square().sum().backward()
        results.append((found.detach(), qkv.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_only_what_the_kernel_takes_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if device.index == 0 else (7, 5))
    card, older = torch.device("cuda", 0), torch.device("cuda", 1)
    assert varlen.runs_on(card, torch.bfloat16, 32) and varlen.runs_on(card, torch.float16, 256)
    assert not any(varlen.runs_on(card, torch.bfloat16, size) for size in (26, 50, 264))
    assert not varlen.runs_on(card, torch.float32, 32) and not varlen.runs_on(CPU, torch.bfloat16, 32)
    assert not varlen.runs_on(older, torch.bfloat16, 32)
