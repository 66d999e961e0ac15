"""AdamW by rows equals `torch.optim.AdamW`, over many steps, in every row."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tunesmith.training.rows import RowwiseAdamW

SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


class Table(nn.Module):
    def __init__(self, rows: int = 200, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Embedding(rows, width, sparse=True, _weight=torch.randn(rows, width, generator=generator))
        self.out = nn.Linear(width, 1)

    def loss(self, ids: torch.Tensor, scale: float, seed: int = 0) -> torch.Tensor:
        """A loss whose gradient does not depend on the weights, so that a difference of rounding does not grow."""
        slopes = torch.randn(len(ids), self.words.embedding_dim, generator=torch.Generator().manual_seed(seed))
        return scale * (self.words(ids) * (slopes + ids[:, None] % 3).to(self.words.weight.dtype)).sum() + self.out.bias.sum()


def drawn(step: int, rows: int) -> np.ndarray:
    """Ids as words come: few often, many seldom, some after hundreds of steps, some never."""
    rng = np.random.default_rng(step)
    return np.minimum((rng.pareto(0.7, 20) * 3).astype(np.int64), rows - 10)


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("schedule", ["constant", "falling", "rising"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_every_row_that_is_read_equals_dense_adamw(decay: float, scale: float, schedule: str, dtype: torch.dtype) -> None:
    ours, plain = Table().to(dtype), Table().to(dtype)
    plain.load_state_dict(ours.state_dict())
    plain.words.sparse = False
    settings = {**SETTINGS, "weight_decay": decay}
    mine = RowwiseAdamW([{"params": list(ours.parameters())}], ours.words.weight, lr=1e-2, **settings)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, **settings)
    total, worst = 800, 0.0
    for step in range(total):
        lr = 1e-2 * {"constant": 1, "falling": 1 - step / total, "rising": (step + 1) / total}[schedule]
        ids = drawn(step, 200)
        mine.bring_up(ids)
        worst = max(worst, float((ours.words.weight[ids] - plain.words.weight[ids]).detach().abs().max()))
        for model, optimizer in ((ours, mine), (plain, theirs)):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            model.loss(torch.from_numpy(ids), scale, step).backward()
            optimizer.step()
    mine.settle()
    # of steps of 1e-2, 800 of them; in float32 dense AdamW's own rounding is greater than what the making up leaves out
    bound = 2e-4 if dtype == torch.float32 else 1e-5 if scale > 1e-6 else 1e-4
    assert worst < bound
    torch.testing.assert_close(ours.words.weight, plain.words.weight, atol=bound, rtol=0)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(mine.state[ours.words.weight][name], theirs.state[plain.words.weight][name], atol=1e-7, rtol=1e-4)


def test_rows_without_gradient_are_not_written() -> None:
    model = Table()
    optimizer = RowwiseAdamW([{"params": list(model.parameters())}], model.words.weight, lr=1e-2, **SETTINGS)
    before = model.words.weight.detach().clone()
    optimizer.bring_up(np.array([3, 5]))
    model.loss(torch.tensor([3, 5, 5]), 1.0).backward()
    optimizer.step()
    changed = (model.words.weight != before).any(1).nonzero().flatten().tolist()
    assert changed == [3, 5]
    optimizer.settle()  # one step later the others decay by 1e-4 of themselves
    torch.testing.assert_close(model.words.weight[7], before[7] * (1 - 1e-2 * 0.01))


def test_a_dense_gradient_is_a_gradient_of_all_rows() -> None:
    model, plain = Table(), Table()
    plain.load_state_dict(model.state_dict())
    model.words.sparse = plain.words.sparse = False
    optimizer = RowwiseAdamW([{"params": list(model.parameters())}], model.words.weight, lr=1e-2, **SETTINGS)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, **SETTINGS)
    for _ in range(30):
        for which, how in ((model, optimizer), (plain, theirs)):
            how.zero_grad()
            which.loss(torch.arange(200), 1.0).backward()
            how.step()
    torch.testing.assert_close(model.words.weight, plain.words.weight, atol=1e-6, rtol=1e-6)


def test_it_goes_on_from_its_state_to_the_bit_and_past_the_first_thousand_steps() -> None:
    model = Table()
    optimizer = RowwiseAdamW([{"params": list(model.parameters())}], model.words.weight, lr=1e-2, **SETTINGS)

    def walk(module: Table, by: RowwiseAdamW, steps: range) -> None:
        for step in steps:
            ids = drawn(step, 200)
            by.bring_up(ids)
            by.zero_grad()
            module.loss(torch.from_numpy(ids), 1.0).backward()
            by.step()

    walk(model, optimizer, range(1100))
    other = copy.deepcopy(model)
    second = RowwiseAdamW([{"params": list(other.parameters())}], other.words.weight, lr=1e-2, **SETTINGS)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        second.state[theirs] = {name: value.clone() for name, value in optimizer.state[mine].items()}
    for module, by in ((model, optimizer), (other, second)):
        walk(module, by, range(1100, 1200))
        by.settle()
    assert model.words.weight.equal(other.words.weight)
    assert math.isfinite(float(model.words.weight.detach().sum()))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells how much memory is in use")
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_moments_of_words_that_are_never_met_take_no_memory(decay: float) -> None:
    def in_use() -> int:
        """Return what the process itself holds, in bytes."""
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return 1024 * int(line.split()[1])

    table = nn.Parameter(torch.randn(100_000, 128))
    optimizer = RowwiseAdamW([{"params": [table], "weight_decay": decay, "lr": 1e-3}], table)
    before = in_use()
    for step in range(4):
        rows = torch.arange(10 * step, 10 * step + 100)
        optimizer.bring_up(rows.numpy())
        table.grad = torch.sparse_coo_tensor(rows[None], torch.randn(len(rows), 128), table.shape, check_invariants=True)
        optimizer.step()
    optimizer.settle()
    assert in_use() - before < table.numel() * 4, "the moments would take twice the table"
    state = optimizer.state[table]
    assert int((state["exp_avg_sq"] > 0).any(1).sum()) == 130 and (state["last"] == 4).all()
