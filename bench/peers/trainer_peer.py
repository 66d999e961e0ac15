"""Fine-tune with transformers.Trainer as a careful user would, in a process of its own, and write what it took and what it predicts.

    python trainer_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

`--flags default` leaves every setting of TrainingArguments that does not follow from the arguments as it is. `--flags best` adds
what its documentation recommends: bf16 where the hardware multiplies it, batches grouped by length, and a test set sorted by length.
Both ask for float32 weights, as from_pretrained would otherwise take the type of the checkpoint. This file needs nothing else of the
repository.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import tempfile
import time

STARTED = time.perf_counter()  # before the heavy imports: they are part of what a user waits for

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402

csv.field_size_limit(2**31 - 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--text-pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--sep", default="|", help="between the labels of a cell, with --kind multi")
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", choices=["default", "best"], default="best")
    parser.add_argument("--kind", choices=["single", "multi", "number"], default="single")
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def read(path: str, texts: list[str], label: str, kind: str, separator: str) -> tuple[dict[str, list[str]], list[list[str]]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [[name for name in row[label].split(separator) if name] if kind == "multi" else [row[label]] for row in rows]
    return {name: [row[column] for row in rows] for name, column in zip(("text", "text_pair"), texts, strict=False)}, labels


def bf16_is_native() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def main() -> None:
    args = arguments()
    best = args.flags == "best"
    columns = [args.text, *([args.text_pair] if args.text_pair else [])]
    train_texts, train_labels = read(args.train, columns, args.label, args.kind, args.sep)
    test_texts, _ = read(args.test, columns, args.label, args.kind, args.sep)
    names = ["score"] if args.kind == "number" else sorted({name for row in train_labels for name in row})
    place = {name: i for i, name in enumerate(names)}

    def target(row: list[str]) -> int | float | list[float]:
        if args.kind == "number":
            return float(row[0])
        if args.kind == "single":
            return place[row[0]]
        return [float(name in row) for name in names]

    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model,
        dtype=torch.float32,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id=place,
        problem_type={"multi": "multi_label_classification", "single": "single_label_classification", "number": "regression"}[args.kind],
    )

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(*(batch[name] for name in train_texts), truncation=True, max_length=args.max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    train = Dataset.from_dict({**train_texts, "labels": [target(row) for row in train_labels]})
    train = train.map(tokenize, batched=True, remove_columns=list(train_texts))
    test = Dataset.from_dict(test_texts).map(tokenize, batched=True, remove_columns=list(test_texts))
    order = np.argsort(test["length"], kind="stable")[::-1] if best else np.arange(len(test))
    test = test.select(order)

    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "output_dir": directory,
            "num_train_epochs": args.epochs,
            "learning_rate": args.lr,
            "per_device_train_batch_size": args.batch_size,
            "seed": args.seed,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0,
            "weight_decay": 0.0,
        }
        if not torch.cuda.is_available():
            # without the first, bf16 is refused; without the second, every loader warns that there is nothing to pin for
            settings |= {"use_cpu": True, "dataloader_pin_memory": False}
        if best:
            settings |= {
                "bf16": bf16_is_native(),
                "train_sampling_strategy": "group_by_length",
                "per_device_eval_batch_size": 64,
                # the rows are tokenised already: a worker process gains something only beside an accelerator
                "dataloader_num_workers": 2 if torch.cuda.is_available() else 0,
            }
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(**settings),
            train_dataset=train,
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        began = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - began

        # Trainer groups the test set by length, too, and hands the predictions back in that order: sequential again, ours is sorted.
        trainer.args.train_sampling_strategy = "sequential"
        began = time.perf_counter()
        logits = trainer.predict(test).predictions
        predict_s = time.perf_counter() - began

    in_file_order = np.empty_like(logits)
    in_file_order[order] = logits
    predictions: list
    if args.kind == "number":
        predictions = in_file_order[:, 0].tolist()
    elif args.kind == "single":
        predictions = [[names[i]] for i in in_file_order.argmax(axis=1)]
    else:
        predictions = [[names[i] for i in np.flatnonzero(row > 0)] for row in in_file_order]  # probability above 0.5
    train_tokens = int(sum(train["length"])) * args.epochs
    result = {
        "train_s": train_s,
        "train_tokens": train_tokens,
        "tokens_per_s": train_tokens / train_s,
        "train_rows": len(train),
        "predict_s": predict_s,
        "wall_s": time.perf_counter() - STARTED,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_child_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "peak_device_mb": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "predictions": predictions,
    }
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
