"""The packed forward gives what transformers gives: hidden states and gradients, of every architecture and any lengths."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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

FAMILY = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet"]
DRAWN = [np.random.default_rng(seed).integers(1, 65, 1 + 3 * seed).tolist() for seed in range(4)]
LENGTHS = [[1], [7], [64, 64], [5, 5, 5], [1, 2, 3, 4, 5], [3, 60, 1, 17, 17, 59, 2], [2] * 9 + [60], *DRAWN]


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
    most = 63 if encoder.config.model_type == "mpnet" else 64  # the greatest length of each
    lengths = [min(length, most) for length in lengths]
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
    greatest = max(float(gradient.abs().max()) for gradient in results[0][1].values())
    for name, gradient in results[0][1].items():
        assert float((results[1][1][name] - gradient).abs().max()) <= 1e-5 * greatest, name


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_positions_count_from_behind_the_padding_token_which_a_text_may_hold(kind: str) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 70}
    base = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=60, pad_token_id=1, **sizes)).eval()
    encoder = Encoder(base, SimpleNamespace(model_input_names=["input_ids", "attention_mask"]), False)
    batch = batch_of([9, 3, 60, 12])
    batch.ids[[4, 5, 20, 30]] = 1
    packed = Packed.of(base)
    assert packed is not None
    torch.testing.assert_close(packed(batch, None), encoder.padded(batch), atol=1e-5, rtol=1e-5)


def test_in_bf16_it_is_no_further_from_the_truth_than_transformers(encoder: Encoder) -> None:
    """Over eight batches, in the square mean: each forward rounds elsewhere, so that in a single batch either may be 10% nearer."""
    encoder.eval()
    packed = Packed.of(encoder.base)
    assert packed is not None
    with torch.no_grad():  # so that layers weigh beside the residual sums
        scaled = {name: p.mul_(5) for name, p in encoder.named_parameters() if p.ndim == 2 and "embeddings" not in name}

    def found(forward: Any, weight: torch.Tensor, bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            hidden = forward().float()
        (hidden * weight).sum().backward()
        return hidden.detach(), torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    errors = np.zeros((2, 2))  # ours and transformers', of hidden states and of the gradient
    try:
        for seed in range(8):
            batch = batch_of([3, 60, 1, 17, 17, 59, 2], seed=seed)
            weight = torch.randn(int(batch.lengths.sum()), encoder.width, generator=torch.Generator().manual_seed(seed))
            truth = found(lambda: encoder.padded(batch), weight, False)  # noqa: B023 - called at once
            for row, forward in enumerate((lambda: packed(batch, None), lambda: encoder.padded(batch))):  # noqa: B023
                for column, (given, right) in enumerate(zip(found(forward, weight, True), truth, strict=True)):
                    error, norm = float((given - right).norm()), float(right.norm())
                    assert row == 1 or error <= 0.03 * norm
                    errors[row, column] += (error / norm) ** 2
    finally:
        with torch.no_grad():
            for parameter in scaled.values():
                parameter.div_(5)
    ours, theirs = np.sqrt(errors)
    assert (ours <= 1.03 * theirs).all(), ours / theirs


def test_each_dropout_has_its_own_rate(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = encoder.config, []
    hidden, attention = (
        ("dropout", "attention_dropout") if config.model_type == "distilbert" else ("hidden_dropout_prob", "attention_probs_dropout_prob")
    )
    assert getattr(config, hidden) == getattr(config, attention) == 0.1
    for module in encoder.base.modules():  # as the settings dropout and attention_dropout would have it
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    for layer in Packed.of(encoder.base)._layers:
        assert layer.attention_rate == layer.rate == 0.3
    attentions = [
        module for name, module in encoder.base.named_modules() if name.endswith(("self.dropout", "attn.dropout", "attention.dropout"))
    ]
    for module in attentions:
        module.p = 0.05
    packed = Packed.of(encoder.base)
    factors = Chance.factors

    def noting(chance: Chance, shape: tuple[int, ...], rate: float, dtype: torch.dtype) -> torch.Tensor | None:
        seen.append((shape[1], rate))
        return factors(chance, shape, rate, dtype)

    monkeypatch.setattr(Chance, "factors", noting)
    encoder.train()
    packed(batch_of([20, 30]), None)
    encoder.eval()
    for module in encoder.base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    layers = len(packed._layers)
    assert seen.count((2, 0.05)) == layers, "of the keys of each head"
    assert seen.count((encoder.width, 0.3)) >= 2 * layers and {rate for _, rate in seen} == {0.05, 0.3}


def test_dropout_is_reproducible(encoder: Encoder) -> None:
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
        with pytest.raises(ModelError, match=f"type {kind!r} have no packed forward here; those of type bert, camembert"):
            encoder.choose_engine("packed")


def test_the_copies_of_weights_are_kept_while_nothing_is_trained_and_follow_the_weights(encoder: Encoder) -> None:
    encoder.eval()
    batch, packed = batch_of([5, 9]), Packed.of(encoder.base)
    assert packed is not None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = packed(batch, None)
        kept = {layer: copies for layer, (_, copies) in packed._kept.items()}
        again = packed(batch, None)
        assert len(kept) == len(packed._layers)
        for layer, (_, copies) in packed._kept.items():
            assert all(one is other for one, other in zip(copies, kept[layer], strict=True)), "no new copies"
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
    assert first.equal(again) and not first.equal(changed)


# --- what is long ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far_sighted() -> Encoder:
    """An encoder for texts of up to 3,000 tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    base = BertModel(BertConfig(vocab_size=60, max_position_embeddings=3000, **sizes))
    return Encoder(base, SimpleNamespace(model_input_names=["input_ids", "attention_mask"]), False)


def states_and_gradient(encoder: Encoder, batch: PackedBatch, only_first: bool, forward: Any) -> tuple[torch.Tensor, torch.Tensor]:
    encoder.zero_grad()
    torch.manual_seed(3)
    hidden = forward()
    hidden = hidden[torch.from_numpy(batch.cu_seqlens[:-1].astype(np.int64))] if only_first and len(hidden) > batch.count else hidden
    hidden.square().mean().backward()
    return hidden.detach(), torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


@pytest.mark.parametrize("only_first", [False, True], ids=["", "first"])
@pytest.mark.parametrize("again", [False, True], ids=["", "computed again"])
@pytest.mark.parametrize("lengths", [[200, 900, 30, 181, 182], [2000, 50, 1025, 1024]], ids=str)
def test_long_sequences_too(far_sighted: Encoder, lengths: list[int], again: bool, only_first: bool) -> None:
    batch, packed = batch_of(lengths), far_sighted.packed
    assert packed is not None
    far_sighted.eval()
    right = states_and_gradient(far_sighted, batch, only_first, lambda: far_sighted.padded(batch))
    found = states_and_gradient(far_sighted, batch, only_first, lambda: packed(batch, None, only_first=only_first, again=again))
    torch.testing.assert_close(found[0], right[0], atol=1e-5, rtol=1e-5)
    assert float((found[1] - right[1]).norm()) <= 1e-5 * float(right[1].norm())


def test_what_is_computed_again_has_the_same_dropout(far_sighted: Encoder) -> None:
    batch = batch_of([1100, 300])
    far_sighted.train()
    found = []
    for far_sighted.most_kept in (None, 100):
        found.append(states_and_gradient(far_sighted, batch, False, lambda: far_sighted(batch)))
    far_sighted.most_kept = None
    assert found[0][0].equal(found[1][0]) and found[0][1].equal(found[1][1])


def noted(kept: list[torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    kept.append(tensor)
    return tensor


def test_of_a_long_sequence_no_weights_of_all_pairs_are_kept(far_sighted: Encoder) -> None:
    batch = batch_of([2500])
    far_sighted.train()
    sizes: dict[int | None, int] = {}
    for far_sighted.most_kept in (None, 100):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(functools.partial(noted, kept), lambda tensor: tensor):
            far_sighted(batch)
        sizes[far_sighted.most_kept] = sum(tensor.numel() for tensor in kept)
        assert max(tensor.numel() for tensor in kept) < 2500 * 2500
    far_sighted.most_kept = None
    assert sizes[100] < sizes[None] / 3


# --- what transformers computes otherwise ------------------------------------------------------------------------------------


def test_where_transformers_computes_otherwise_its_own_forward_runs_and_that_is_said(tmp_path: Path) -> None:
    encoder = open_pretrained(str(tiny.save_encoder(tmp_path / "e", "bert"))).load()
    layer = encoder.base.encoder.layer[0].output
    plain = layer.forward
    layer.forward = lambda hidden, residual: plain(hidden, residual).cumsum(-1)  # as a later version might
    assert encoder.packed is None
    assert "does not give what the installed transformers computes" in encoder.choose_engine("auto")
    with pytest.raises(ModelError, match="does not give what the installed transformers computes"):
        encoder.choose_engine("packed")
    batch = batch_of([5, 9])
    encoder.eval()
    with torch.no_grad():
        assert encoder(batch).equal(encoder.padded(batch))


def test_a_look_at_the_outputs_leaves_modes_and_chance_alone(tmp_path: Path) -> None:
    encoder = open_pretrained(str(tiny.save_encoder(tmp_path / "e", "bert"))).load().train()
    encoder.base.embeddings.eval()
    before = torch.get_rng_state()
    assert encoder.packed is not None
    assert torch.get_rng_state().equal(before)
    assert encoder.training and not encoder.base.embeddings.training and encoder.base.encoder.training
