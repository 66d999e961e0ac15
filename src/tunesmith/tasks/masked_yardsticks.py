"""What hidden words can be guessed by without training: how frequent tokens are, and the encoder as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tunesmith.data.batches import PackedBatch, plan_batches
from tunesmith.masked_metrics import masked_intervals, masked_scores
from tunesmith.model.heads import build_model
from tunesmith.progress import Progress
from tunesmith.seeds import seed_for
from tunesmith.tasks.rows import Rows

if TYPE_CHECKING:
    from tunesmith.model.pretrained import Pretrained
    from tunesmith.tasks.masked_lm import MaskedLM

_TOKENS = 4096  # in memory at once


def yardsticks(task: MaskedLM, train: Rows, test: Rows, pretrained: Pretrained, seed: int, progress: Progress) -> list[dict[str, Any]]:
    """Return name, note, metrics and intervals; `train` and `test` are packed."""
    vocabulary = len(task.tokenizer)
    seen = np.zeros(vocabulary, np.int64)
    with progress.track("token frequencies", len(train), "sequences") as tracker:
        for row in train.index.tolist():
            seen += np.bincount(train.table.example(row).sequences[0], minlength=vocabulary)[:vocabulary]
            tracker.advance(1)
    # add-one smoothing, so that a token that training lacks has a probability
    shares = np.where(task.masking.special, 0, seen + 1)
    logs = np.log(np.maximum(shares, 1) / shares.sum())
    encoder = pretrained.load(task.head, seed=seed_for(seed, "weights"))
    model = build_model(encoder, task.head, pooling="cls", dropout=None, seed=0).eval()
    surprise: dict[str, list[np.ndarray]] = {"frequency": [], "before": []}
    hits: dict[str, list[np.ndarray]] = {"frequency": [], "before": []}
    sequences: list[np.ndarray] = []
    size = max(1, _TOKENS // max(int(test.table.longest.max(initial=1)), 1))
    with progress.track("the encoder before training", len(test), "sequences") as tracker, torch.inference_mode():
        for step in plan_batches(test.table.longest[test.index], batch_size=size, seed=0, epoch=0, shuffle=False):
            batch: PackedBatch = task.gather([test.table.example(row) for row in test.index[step].tolist()], judged=True)
            assert batch.targets is not None
            found = task.combine(model(batch), batch).cpu().numpy()
            surprise["before"].append(-found[:, 0])
            hits["before"].append(found[:, 1])
            surprise["frequency"].append(-logs[batch.targets])
            hits["frequency"].append(batch.targets == int(shares.argmax()))
            sequences.append(np.repeat(step, task.sizes(batch)))
            tracker.advance(len(step))
    notes = {
        "frequency": ("token frequencies", "each token as probable as it is frequent in the training texts"),
        "before": (
            "encoder before training",
            "the same hidden words; its head was freshly drawn, as the checkpoint has none"
            if encoder.fresh_head
            else "the same hidden words",
        ),
    }
    result = []
    for key, (name, note) in notes.items():
        one, two, number = np.concatenate(surprise[key]), np.concatenate(hits[key]).astype(np.float64), np.concatenate(sequences)
        intervals = masked_intervals(one, two, number, seed=seed_for(0, "bootstrap"))
        result.append({"name": name, "note": note, "metrics": masked_scores(one, two), "intervals": intervals})
    return result
