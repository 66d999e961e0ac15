"""Training walks the very path that the plain transformers module, `torch.optim.AdamW` and a few lines of loop would walk."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith import recipe
from tunesmith.resolve import resolve
from tunesmith.tasks.classification import Classification
from tunesmith.training import loop

LR = 1e-3


@pytest.mark.parametrize("max_tokens", [16384, 40], ids=["whole steps", "steps in parts"])
def test_losses_norms_and_weights_equal_those_of_a_plain_loop(
    tmp_path: Path, tiny_bert: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    batches, records, start, seeds = [], [], {}, []
    read, steps = Classification.batch, loop.train_steps

    def batch(task, rows, chosen, seed):
        found = read(task, rows, chosen, seed)
        seeds.append(seed)
        batches.append(found)
        return found

    def train_steps(model, *args, **kwargs):
        start["model"] = copy.deepcopy(model.encoder.hf)
        for record in steps(model, *args, **kwargs):
            records.append((record, batches.copy()))
            batches.clear()
            yield record

    monkeypatch.setattr(Classification, "batch", batch)
    monkeypatch.setattr(loop, "train_steps", train_steps)
    trained = recipe.train(
        resolve(
            {
                "train": str(reviews),
                "model": str(tiny_bert),
                "out": str(tmp_path / "m"),
                "valid_size": 0.0,
                "test_size": 0.0,
                "epochs": 2,
                "lr": LR,
                "batch_size": 16,
                "max_tokens": max_tokens,
                "dropout": 0.0,
                "attention_dropout": 0.0,
                "precision": "fp32",
            }
        )
    )

    assert len(set(seeds)) == len(records) > 2, "what a task draws, it draws anew in every step"
    model = start["model"].train()
    model.get_input_embeddings().sparse = False
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(records))
    assert len(records) == 16 and (max_tokens > 40 or any(len(parts) > 1 for _, parts in records))
    for record, parts in records:
        ids, mask, targets = padded(parts)
        loss = model(input_ids=ids, attention_mask=mask, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert record.loss == pytest.approx(float(loss.detach()), abs=1e-5)
        assert record.grad_norm == pytest.approx(float(norm), rel=1e-4)
        assert record.lr == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    for name, ours in trained.bundle.model.encoder.hf.named_parameters():
        torch.testing.assert_close(ours, dict(model.named_parameters())[name], rtol=1e-3, atol=2e-5)


def padded(parts):
    """Return ids, mask and targets of packed batches as one padded batch."""
    rows = [part.ids[a:b] for part in parts for a, b in zip(part.cu_seqlens[:-1], part.cu_seqlens[1:], strict=True)]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    targets = torch.from_numpy(np.concatenate([part.targets for part in parts]))
    return torch.from_numpy(ids), torch.from_numpy(mask), targets
