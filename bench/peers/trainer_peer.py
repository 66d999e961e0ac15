"""Fine-tune with transformers.Trainer as a careful user would, in a process of its own, and write what it took and what it predicts.

    python trainer_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

`--flags default` leaves every setting of TrainingArguments that does not follow from the arguments as it is. `--flags best` adds
what its documentation recommends: bf16 where the hardware is faster in it, batches grouped by length, and a test set sorted by length.
Both ask for float32 weights, as from_pretrained would otherwise take the type of the checkpoint. This file needs `common.py` beside it and
nothing else of the repository.
"""

from __future__ import annotations

import argparse
from typing import Any

import common  # before the heavy imports, whose time counts
import numpy as np
import torch
import transformers
from datasets import Dataset

PROBLEMS = {"multi": "multi_label_classification", "single": "single_label_classification", "number": "regression"}


def arguments() -> argparse.Namespace:
    parser = common.parser(batch_size=32, max_length=256)
    parser.add_argument("--text", default="text")
    parser.add_argument("--text-pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--last-layers", type=int, help="train only so many of the last layers, and the head with BERT's pooler")
    parser.add_argument("--sep", default="|", help="between the labels of a cell, with --kind multi")
    parser.add_argument("--kind", choices=list(PROBLEMS), default="single")
    return parser.parse_args()


def targets_of(labels: list[str], names: list[str], args: argparse.Namespace) -> list[Any]:
    """Return what the model learns of each cell: a number, the number of a label, or a one for each of its labels."""
    if args.kind == "number":
        return [float(label) for label in labels]
    if args.kind == "single":
        return [names.index(label) for label in labels]
    return [[float(name in label.split(args.sep)) for name in names] for label in labels]


def decoded(logits: np.ndarray, order: list[int], names: list[str], kind: str) -> list[Any]:
    """Return the predictions in the order of the file, of logits float[N, C] in the order of `order`."""
    in_file_order = np.empty_like(logits)
    in_file_order[order] = logits
    if kind == "number":
        return in_file_order[:, 0].tolist()
    if kind == "single":
        return [[names[i]] for i in in_file_order.argmax(axis=1)]
    return [[names[i] for i in np.flatnonzero(row > 0)] for row in in_file_order]  # probability above 0.5


def main() -> None:
    args = arguments()
    columns = [args.text, *([args.text_pair] if args.text_pair else [])]
    train_rows, test_rows = common.rows_of(args.train), common.rows_of(args.test)
    labels = [row[args.label] for row in train_rows]
    given = {name for label in labels for name in (label.split(args.sep) if args.kind == "multi" else [label]) if name}
    names = ["score"] if args.kind == "number" else sorted(given)

    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model,
        dtype=torch.float32,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type=PROBLEMS[args.kind],
    )

    if args.last_layers is not None:
        for part in (model.bert.embeddings, *model.bert.encoder.layer[: -args.last_layers]):
            part.requires_grad_(False)

    def tokenized(rows: list[dict[str, str]], **more: list[Any]) -> Dataset:
        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            encoded = tokenizer(*(batch[name] for name in columns), truncation=True, max_length=args.max_length)
            return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

        texts = {name: [row[name] for row in rows] for name in columns}
        return Dataset.from_dict({**texts, **more}).map(tokenize, batched=True, remove_columns=columns)

    test = tokenized(test_rows)
    order = common.longest_first(test["length"], args.flags)
    predictions, took = common.trained_and_predicted(
        args,
        test.select(order),
        lambda logits: decoded(logits, order, names, args.kind),
        model=model,
        train_dataset=tokenized(train_rows, labels=targets_of(labels, names, args)),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    common.write_result(args.json, **took, train_rows=len(train_rows), predictions=predictions)


if __name__ == "__main__":
    main()
