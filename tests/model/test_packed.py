"""The packed forward gives what transformers gives: hidden states and gradients, of every architecture and any lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from tunesmith.data.batches import PackedBatch, collate
from tunesmith.errors import ModelError
from tunesmith.model.attention import plan
from tunesmith.model.chance import Chance
from tunesmith.model.devices import CPU
from tunesmith.model.encoder import Encoder
from tunesmith.model.packed import Packed
from tunesmith.model.pretrained import open_pretrained

FAMILY = ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"]
LENGTHS = [[1], [7], [60], [5, 5, 5], [1, 2, 3, 4, 5], [3, 60, 1, 17, 17, 59, 2], [2] * 9 + [60]]


def batch_of(lengths: list[int], borders: bool = False, seed: int = 0) -> PackedBatch:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(5, 40, length).astype(np.int32) for length in lengths]
    halves = np.array([length // 2 for length in lengths], np.int32) if borders else None
    return collate(sequences, np.arange(len(lengths)), None, halves)


@pytest.fixture(scope="module", params=FAMILY)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path: Path = tiny.save_encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param)
    found = open_pretrained(str(path)).load()
    with torch.no_grad():  # norms and biases that are all alike would hide a mistake
        for name, parameter in found.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return found


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("borders", [False, True], ids=["", "pairs"])
@pytest.mark.parametrize("only_first", [False, True], ids=["", "first"])
def test_hidden_states_and_gradients_equal_transformers(encoder: Encoder, lengths: list[int], borders: bool, only_first: bool) -> None:
    encoder.eval()
    batch = batch_of(lengths, borders)
    packed = Packed.of(encoder.base)
    assert packed is not None
    weight = torch.randn(sum(lengths), encoder.width, generator=torch.Generator().manual_seed(1))
    results = []
    first = torch.from_numpy(batch.cu_seqlens[:-1].astype(np.int64)) if only_first else torch.arange(sum(lengths))
    for forward in (
        lambda given: encoder.padded(given)[first],
        lambda given: packed(given, encoder.token_segments(given), only_first=only_first),
    ):
        encoder.zero_grad()
        hidden = forward(batch)
        (hidden * weight[: len(hidden)]).sum().backward()
        results.append((hidden.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=1e-5)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_in_bf16_it_is_no_further_from_the_truth_than_transformers(encoder: Encoder) -> None:
    encoder.eval()
    batch = batch_of([3, 60, 1, 17, 17, 59, 2])
    packed = Packed.of(encoder.base)
    assert packed is not None
    with torch.no_grad():
        truth = encoder.padded(batch)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = encoder.padded(batch).float(), packed(batch, None).float()
    error, other = (ours - truth).square().mean().sqrt(), (theirs - truth).square().mean().sqrt()
    assert error < 1.5 * other + 1e-3 and error < 0.03


def test_dropout_is_reproducible_and_has_its_rate(encoder: Encoder) -> None:
    encoder.train()
    batch = batch_of([20, 30])
    packed = Packed.of(encoder.base)
    assert packed is not None
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(packed(batch, None).detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    encoder.eval()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.003, 0.9])
def test_the_share_of_dropped_values(rate: float) -> None:
    chance, ones = Chance(3, CPU), torch.ones(1000, 101)
    kept = [chance.drop(ones, rate) for _ in range(40)]
    shares = [float((mask == 0).float().mean()) for mask in kept]
    assert np.mean(shares) == pytest.approx(rate, abs=0.004)
    assert np.mean([float(mask.mean()) for mask in kept]) == pytest.approx(1, abs=0.01)
    assert Chance(5, CPU).drop(ones, rate).equal(Chance(5, CPU).drop(ones, rate))


@pytest.mark.parametrize("lengths", [*LENGTHS, [1] * 40, list(range(1, 61))], ids=str)
def test_a_plan_holds_each_token_once(lengths: list[int]) -> None:
    groups = plan(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), CPU)
    tokens = torch.arange(sum(lengths))
    assert sorted(torch.cat([tokens[group.tokens] for group in groups]).tolist()) == tokens.tolist()
    assert sum(group.count for group in groups) == len(lengths)
    cells = sum(group.count * group.length for group in groups)
    assert cells <= 2 * sum(lengths) + 600
    for group in groups:  # taking and putting back is the identity
        values = torch.randn(sum(lengths), 12)
        back = values.clone()
        back[group.tokens] = 0
        group.put(back, list(group.take(values, 3, 2)))
        assert back.equal(values)


def test_unknown_architectures_have_no_fast_forward_and_that_is_said(tmp_path: Path) -> None:
    for kind in ("albert", "deberta-v2", "gpt2"):
        encoder = open_pretrained(str(tiny.save_encoder(tmp_path / kind, kind))).load()
        assert Packed.of(encoder.base) is None
        assert encoder.choose_engine("auto") == f"padded batches: models of type {kind!r} have no packed forward here"
        with pytest.raises(ModelError, match=f"type {kind!r} have no packed forward here; they have one for bert, camembert"):
            encoder.choose_engine("packed")


def test_the_copies_of_weights_are_kept_while_nothing_is_trained_and_follow_the_weights(encoder: Encoder) -> None:
    encoder.eval()
    batch, packed = batch_of([5, 9]), Packed.of(encoder.base)
    assert packed is not None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first, again = packed(batch, None), packed(batch, None)
    kept = packed._kept
    weight = next(
        parameter
        for name, parameter in encoder.base.named_parameters()
        if parameter.ndim == 2 and any(part in name for part in ("value", "v_lin", ".v."))
    )
    with torch.no_grad():
        weight.neg_()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        changed = packed(batch, None)
    with torch.no_grad():
        weight.neg_()
    assert kept is not None and first.equal(again) and not first.equal(changed)
