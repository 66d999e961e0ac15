"""Batches: a pure plan, every example once, and a gradient that does not depend on the memory budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import tiny
import tunesmith
from tunesmith.data.batches import PackedBatch, collate, plan_batches, split_by_tokens
from tunesmith.training.gradients import Gradients

lengths_lists = st.lists(st.integers(1, 300), min_size=1, max_size=300)


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 40), st.integers(0, 2**63 - 1), st.integers(0, 50), st.booleans())
@example([5] * 64, 32, 0, 0, True)
def test_each_example_once_in_steps_of_the_right_size(lengths: list[int], batch_size: int, seed: int, epoch: int, shuffle: bool) -> None:
    tokens = np.array(lengths, np.int32)
    before = tokens.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    plan = plan_batches(tokens, batch_size=batch_size, seed=seed, epoch=epoch, shuffle=shuffle)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    sizes = sorted((len(step) for step in plan), reverse=True)
    full, rest = divmod(len(lengths), batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)
    again = plan_batches(tokens, batch_size=batch_size, seed=seed, epoch=epoch, shuffle=shuffle)
    assert [step.tolist() for step in again] == [step.tolist() for step in plan]
    assert np.array_equal(tokens, before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002  # no hidden generator is drawn from
    assert all(step.dtype == np.int64 for step in plan)


def test_epochs_and_seeds_differ() -> None:
    tokens = np.arange(1, 401)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [step.tolist() for step in plan_batches(tokens, batch_size=8, seed=seed, epoch=epoch)]

    plans = [plan(seed, epoch) for seed in (0, 1) for epoch in range(3)]
    assert all(one != two for i, one in enumerate(plans) for two in plans[:i])
    # the steps hold other examples too, rather than the same in another order
    tokens = np.arange(1, 4001)
    first, second = ({frozenset(step) for step in plan(0, epoch)} for epoch in (0, 1))
    assert len(first & second) < len(first) / 10


def test_steps_hold_examples_of_like_length() -> None:
    tokens = np.random.default_rng(0).integers(1, 500, 3200)
    plan = plan_batches(tokens, batch_size=32, seed=0, epoch=0)
    padded = sum(int(tokens[step].max()) * len(step) for step in plan)
    shuffled = np.random.default_rng(1).permutation(3200).reshape(-1, 32)
    assert padded < 1.1 * tokens.sum() < 1.6 * tokens.sum() < sum(int(tokens[step].max()) * 32 for step in shuffled)
    # and yet long steps do not all come first
    plans = [plan_batches(tokens, batch_size=32, seed=seed, epoch=0) for seed in range(20)]
    trends = [np.corrcoef([tokens[step].mean() for step in plan], np.arange(len(plan)))[0, 1] for plan in plans]
    assert abs(np.mean(trends)) < 0.1


def test_without_shuffling_the_longest_come_first() -> None:
    plan = plan_batches(np.array([3, 9, 3, 7, 9]), batch_size=2, seed=5, epoch=5, shuffle=False)
    assert [step.tolist() for step in plan] == [[1, 4], [3, 0], [2]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 9)), min_size=1, max_size=60), st.integers(1, 800))
@example([(10, 1)], 1)
def test_parts_never_cut_an_example_and_keep_to_the_budget(shapes: list[tuple[int, int]], max_tokens: int) -> None:
    longest, sequences = (np.array(column, np.int32) for column in zip(*shapes, strict=True))
    parts = split_by_tokens(longest, sequences, max_tokens)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(shapes)))

    def size(a: int, b: int) -> int:
        return int(longest[a:b].max() * sequences[a:b].sum())

    for part in parts:
        assert part.stop > part.start
        assert size(part.start, part.stop) <= max_tokens or part.stop == part.start + 1
        if part.stop < len(shapes):  # no smaller than need be
            assert size(part.start, part.stop + 1) > max_tokens


def test_collate() -> None:
    sequences = [np.array(ids, np.int32) for ids in ([5, 6], [7], [8, 9, 10], [11])]
    batch = collate(sequences, np.array([4, 4, 9, 9]), np.array([1, 0]))
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 10, 11] and batch.ids.dtype == np.int32
    assert batch.cu_seqlens.tolist() == [0, 2, 3, 6, 7] and batch.cu_seqlens.dtype == np.int32
    assert batch.lengths.tolist() == [2, 1, 3, 1]
    assert (batch.example.tolist(), batch.size) == ([0, 0, 1, 1], 2)
    assert batch.targets.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_the_gradient_does_not_depend_on_the_memory_budget(
    tmp_path: Path, tiny_bert: Path, kind: str, truncation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One training step with room for everything, and one in many parts, windows of a text apart, with class weights and smoothing."""
    longest = [0]
    outputs = Gradients._outputs

    def noting(gradients: Gradients, batch: PackedBatch, key: Any) -> Any:
        longest[0] = max(longest[0], len(batch.ids))
        return outputs(gradients, batch, key)

    monkeypatch.setattr(Gradients, "_outputs", noting)
    rows = tiny.rows(24, seed=4, labels=("animal", "colour", "neither"))
    if kind == "multi":
        rows = [{**row, "label": [row["label"], "x"][: 1 + i % 2]} for i, row in enumerate(rows)]

    def weights(max_tokens: int) -> dict[str, torch.Tensor]:
        out = tmp_path / str(max_tokens)
        trained = tunesmith.train(
            rows,
            model=tiny_bert,
            out=out,
            max_tokens=max_tokens,
            truncation=truncation,
            max_length=8,
            stride=2,
            epochs=1,
            batch_size=24,
            optimizer="sgd",
            lr=0.5,
            dropout=0.0,
            attention_dropout=0.0,
            class_weights="balanced",
            label_smoothing=0.1,
            valid_size=0.0,
            test_size=0.0,
            precision="fp32",
            progress="quiet",
        )
        assert trained.result["training"]["steps"] == 1
        return load_file(out / "model.safetensors")

    whole = weights(100_000)
    assert longest[0] > 100
    longest[0] = 0
    parts, before = weights(20), load_file(tiny_bert / "model.safetensors")
    assert longest[0] <= 20
    moved = 0.0
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=0)
        if name.removeprefix("bert.") in before:
            moved = max(moved, float((value - before[name.removeprefix("bert.")]).abs().max()))
    assert moved > 1e-4  # far more than the tolerance
