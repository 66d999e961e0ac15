"""A training step's memory stays under a limit, whatever the encoder and however long the texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

import growing
import tiny
from tunesmith.data.batches import collate
from tunesmith.model import step_memory
from tunesmith.model.account import account
from tunesmith.model.encoder import Encoder
from tunesmith.model.heads import TextModel, build_model
from tunesmith.model.names import Located
from tunesmith.model.pretrained import open_pretrained
from tunesmith.model.spec import HeadSpec
from tunesmith.model.step_memory import bound_memory, kept_when_packed, kept_when_padded, most_judged
from tunesmith.model.tuning import choose_strategy
from tunesmith.resolve import resolve


def model_of(directory: Path, kind: str) -> TextModel:
    return TextModel(open_pretrained(str(tiny.save_encoder(directory / kind, kind))).load(), torch.nn.Identity()).train()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.timeout(300)
def test_a_process_grows_by_no_more_than_was_said() -> None:
    line = [sys.executable, growing.__file__, "128"]
    run = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "TUNESMITH_KEEP_MEMORY": "1"})
    assert run.returncode == 0, run.stderr
    cases: dict[str, dict[str, Any]] = {found["name"]: found for found in map(json.loads, run.stdout.splitlines())}
    assert cases.keys() == growing.CASES.keys()
    for name, found in cases.items():
        if "long" in name:  # larger than a step by itself
            assert found["length"] > found["most_kept"] and found["grown"] < 4 * found["limit"], found
        else:  # beside what grows with the tokens: gradients of all weights, and a kernel for each size of a product
            assert 0.35 * found["limit"] < found["grown"] < 1.67 * found["limit"] + 2**25, found


def test_a_step_holds_as_many_tokens_as_fit() -> None:
    small = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    large = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    limit = step_memory.STEP_BYTES
    assert limit / kept_when_packed(small, 256, "bf16") > 4096 > limit / kept_when_packed(large, 512, "bf16") > 512
    assert kept_when_packed(small, 256, "fp32") > 1.5 * kept_when_packed(small, 256, "bf16")


@pytest.mark.parametrize(("told", "budget", "kept"), [(None, 4, 4), (7, 7, 7), (3, 3, 4)])
def test_a_sequence_that_takes_four_times_the_memory_of_a_step_is_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int | None, budget: int, kept: int
) -> None:
    model = model_of(tmp_path, "bert")
    encoder = model.encoder
    monkeypatch.setattr(step_memory, "STEP_BYTES", kept_when_packed(encoder.config, 32, "fp32"))
    assert bound_memory(model, 0, 32, "fp32", told) == budget
    assert encoder.most_kept == kept
    road = account(encoder, "fp32", 32, budget, table="", keeps_memory=True)
    assert road["in memory at once"].endswith(f"layers of a sequence beyond {kept} tokens are computed twice")


def test_a_gpu_may_keep_four_times_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, "bert")
    monkeypatch.setattr(step_memory, "STEP_BYTES", 2**20)
    found = [bound_memory(model, 0, 32, "fp32", None)]
    monkeypatch.setattr(Encoder, "device", torch.device("cuda"))
    found.append(bound_memory(model, 0, 32, "fp32", None))
    assert 3.9 * found[0] < found[1] < 4.1 * found[0]


def test_no_more_tokens_at_once_than_without_training_where_nothing_is_kept(tmp_path: Path) -> None:
    model = model_of(tmp_path, "deberta-v2")
    model.requires_grad_(False)
    model.frozen = frozenset(name for name, _ in model.named_parameters())
    assert bound_memory(model, 0, 60, "fp32", None) == 16_384


def test_copies_of_weights_that_fill_the_limit_leave_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_memory, "_kept", lambda model, length, sequences, precision: 2**31 + 2**20 * sequences * length)
    assert bound_memory(model_of(tmp_path, "albert"), 0, 60, "bf16", None) == 512


def test_models_that_pad_to_a_window_are_tried_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, "albert")
    tried: list[int] = []

    def kept(model: TextModel, length: int, sequences: int, precision: str) -> int:
        tried.append(length)
        return 7000 + sequences * 1000 * -(-length // 512) * 512

    monkeypatch.setattr(step_memory, "_kept", kept)
    assert kept_when_padded(model, 4096, "fp32") == (7000, 1000)
    assert tried == [16, 32, 64, 64, 512]


def test_outputs_of_tokens_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, "bert")
    monkeypatch.setattr(step_memory, "STEP_BYTES", 2**24)
    without, many = (bound_memory(model, outputs, 32, "fp32", None) for outputs in (0, 1000))
    assert without > 1.3 * many
    monkeypatch.undo()
    assert most_judged(0, 16384) == most_judged(4500, 16384) == 16384
    assert 3000 < most_judged(37_500, 16384) < 4000  # a sixth of the tokens of a vocabulary of 250,000


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2"])
def test_all_weights_of_attention_count_where_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(step_memory, "STEP_BYTES", 2**26)
    model, blockwise = model_of(tmp_path, kind), model_of(tmp_path, "bert")
    found = []
    for one in (model, blockwise):
        found.append([])
        for length in (1024, 2048):
            bound_memory(one, 0, length, "fp32", None)
            found[-1].append(one.encoder.most_kept)
    assert found[0][0] > 1.5 * found[0][1]
    assert found[1][0] == found[1][1]


def test_trying_what_is_kept_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = model_of(tmp_path, "albert")
    waiting = next(iter(model.parameters())).requires_grad_(False)
    attention = model.encoder.config._attn_implementation
    before, state = [mode.training for mode in model.modules()], torch.random.get_rng_state()
    bound_memory(model, 0, 60, "fp32", None)
    assert not waiting.requires_grad and [mode.training for mode in model.modules()] == before
    assert torch.random.get_rng_state().equal(state) and sum(p.requires_grad for p in model.parameters()) == len([*model.parameters()]) - 1
    assert model.encoder.config._attn_implementation == attention


def gradients(encoder: Encoder, most_kept: int | None) -> tuple[torch.Tensor, int]:
    """Return the gradient for a text of 44 tokens and one of 20 under dropout, and how many numbers were kept for it."""
    encoder.zero_grad()
    encoder.most_kept, kept = most_kept, 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    torch.manual_seed(3)
    batch = collate([np.resize(np.arange(5, 40, dtype=np.int32), 44), np.arange(5, 25, dtype=np.int32)], np.arange(2))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = encoder(batch)
    hidden.square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None]), kept


@pytest.mark.parametrize("kind", ["deberta-v2", "modernbert", "gpt2"])
def test_layers_that_run_padded_are_computed_twice_too(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = model_of(tmp_path, kind).encoder
    capfd.readouterr()
    (right, kept), (found, fewer) = (gradients(encoder, most) for most in (None, 43))
    assert found.equal(right) and right.abs().max() > 0
    assert fewer < kept / 2
    assert gradients(encoder, 44)[1] == kept
    assert not any(module._forward_hooks for module in encoder.modules())
    assert not capfd.readouterr().err


def test_layers_with_virtual_tokens_are_computed_twice_too(tmp_path: Path) -> None:
    spec = HeadSpec("sequence-classification", 3)
    path = tiny.save_encoder(tmp_path / "e", "gpt2")
    encoder = open_pretrained(str(path)).load(spec)
    encoder.tokenizer.model_max_length = 44
    model = build_model(encoder, spec, pooling="cls", dropout=None, seed=0)
    model.base = Located(str(path), str(path), "directory")
    choose_strategy(resolve({"model": str(path), "tuning": "prompt"})).prepare(model)
    model.train()
    (right, kept), (found, fewer) = (gradients(model.encoder, most) for most in (None, 40))
    assert found.equal(right) and right.abs().max() > 0 and fewer < kept


def test_an_architecture_whose_layers_cannot_be_computed_twice_says_so(tmp_path: Path) -> None:
    encoder = model_of(tmp_path, "albert").encoder
    encoder.most_kept = 20
    if encoder.can_compute_again:
        pytest.skip("this transformers can")
    road = account(encoder, "fp32", 32, 32, table="", keeps_memory=True)
    assert "takes more, as transformers cannot compute this model's layers twice" in road["in memory at once"]
