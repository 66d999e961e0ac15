"""Averages of weights, R-Drop, adversarial noise, several dropout masks, label smoothing: what each does, for every task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from test_rowwise_adamw import SETTINGS, Table, drawn
from tunesmith.training.rows import RowwiseAdamW


@pytest.mark.parametrize("fading", [0.9, 0.99, 0.999])
def test_the_average_of_a_table_that_is_updated_by_rows_equals_that_of_every_step(fading: float) -> None:
    ours, plain = Table().double(), Table().double()
    plain.load_state_dict(ours.state_dict())
    plain.words.sparse = False
    settings = {**SETTINGS, "weight_decay": 0.3}
    mine = RowwiseAdamW([{"params": list(ours.parameters())}], ours.words.weight, lr=1e-2, **settings)
    mine.follow(fading)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, **settings)
    expected = torch.zeros_like(plain.words.weight)
    total, worst = 1200, 0.0
    for step in range(total):
        ids = drawn(step, 200)
        mine.bring_up(ids)
        for model, optimizer in ((ours, mine), (plain, theirs)):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / total)
            optimizer.zero_grad()
            model.loss(torch.from_numpy(ids), 1.0, step).backward()
            optimizer.step()
        expected = fading * expected + (1 - fading) * plain.words.weight.detach()
        if step % 400 == 399:
            mine.settle()
        rows = np.unique(ids)
        worst = max(worst, float((mine.average()[rows] - expected[rows]).abs().max()))
    mine.settle()
    assert worst < 1e-5
    torch.testing.assert_close(mine.average(), expected, atol=1e-5, rtol=0)
