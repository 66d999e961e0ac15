"""Fine-tune a cross-encoder with sentence-transformers as its documentation does, and write what it took and how it scores.

    python ranking_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

Binary cross-entropy over pairs of a query and a passage (the documentation's loss for labelled pairs), by CrossEncoderTrainer. The files
have the columns text (the query), text_pair (the passage) and label (0 or 1). `--batch-size` counts queries, as the files' other reader
means it: the pairs of a step are so many that an epoch over all rows has as many steps as one over all queries. `--flags` as in
trainer_peer.py, whose results this one's look like; its training batches are not grouped by length, as this trainer draws batches by
samplers of its own, and its predictions are sorted by length always. This file needs `common.py`
beside it and nothing else of the repository.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from typing import Any

import common  # before the heavy imports, whose time counts
import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss


def arguments() -> argparse.Namespace:
    parser = common.parser(batch_size=8, max_length=128)
    parser.add_argument("--text", default="text")
    parser.add_argument("--text-pair", default="text_pair")
    parser.add_argument("--label", default="label")
    return parser.parse_args()


def batch_of_pairs(pairs: int, queries: int, batch_size: int) -> int:
    """Return how many pairs a step has, so that an epoch has as many steps as one of `batch_size` queries."""
    return math.ceil(pairs / math.ceil(queries / batch_size))


def trained(model: CrossEncoder, train: Dataset, args: argparse.Namespace) -> tuple[float, int]:
    """Train `model` and return seconds and optimizer steps; `args.batch_size` counts pairs."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**common.training_settings(args, directory, grouped=False)),
            train_dataset=train,
            loss=BinaryCrossEntropyLoss(model),
        )
        _, seconds = common.timed(trainer.train)
    return seconds, trainer.state.global_step


def tokens_of(pairs: dict[str, list[Any]], model: CrossEncoder, max_length: int) -> int:
    """Return how many tokens the pairs have, special ones included."""
    found = model.tokenizer(pairs["query"], pairs["passage"], truncation=True, max_length=max_length)
    return sum(map(len, found["input_ids"]))


def main() -> None:
    args = arguments()
    train_rows, test_rows = common.rows_of(args.train), common.rows_of(args.test)
    pairs: dict[str, list[Any]] = {
        "query": [row[args.text] for row in train_rows],
        "passage": [row[args.text_pair] for row in train_rows],
        "label": [float(row[args.label]) for row in train_rows],
    }
    args.batch_size = batch_of_pairs(len(train_rows), len(set(pairs["query"])), args.batch_size)

    transformers.set_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = CrossEncoder(args.model, num_labels=1, max_length=args.max_length, device=device, model_kwargs={"dtype": torch.float32})
    train_s, steps = trained(model, Dataset.from_dict(pairs), args)
    scores, predict_s = common.timed(
        lambda: model.predict(
            [(row[args.text], row[args.text_pair]) for row in test_rows],
            batch_size=64 if args.flags == "best" else 32,  # 32: its default
            activation_fn=torch.nn.Identity(),  # the same order as by its sigmoid, without the ties of a sigmoid in float32
            show_progress_bar=False,
        )
    )
    common.write_result(
        args.json,
        sentence_transformers,
        train_s=train_s,
        train_tokens=tokens_of(pairs, model, args.max_length) * args.epochs,
        train_rows=len(train_rows),
        batch_pairs=args.batch_size,
        steps=steps,
        predict_s=predict_s,
        predictions=[float(score) for score in scores],
    )


if __name__ == "__main__":
    main()
