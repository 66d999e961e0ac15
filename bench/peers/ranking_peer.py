"""Fine-tune a cross-encoder with sentence-transformers as its documentation does, and write what it took and how it scores.

    python ranking_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

Binary cross-entropy over pairs of a query and a passage (the documentation's loss for labelled pairs), by CrossEncoderTrainer. The files
have the columns text (the query), text_pair (the passage) and label (0 or 1). `--batch-size` counts queries, as the files' other reader
means it: the pairs of a step are so many that an epoch over all rows has as many steps as one over all queries. `--flags` as in
trainer_peer.py, whose results this one's look like; its training batches are not grouped by length, as this trainer draws batches by
samplers of its own, and its predictions are sorted by length always. This file needs nothing else of the repository.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import tempfile
import time

STARTED = time.perf_counter()  # before the heavy imports: they are part of what a user waits for

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sentence_transformers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments  # noqa: E402
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss  # noqa: E402

csv.field_size_limit(2**31 - 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--text-pair", default="text_pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=8, help="queries")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", choices=["default", "best"], default="best")
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def bf16_is_native() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def main() -> None:
    args = arguments()
    best = args.flags == "best"
    rows = {}
    for part, path in (("train", args.train), ("test", args.test)):
        with open(path, encoding="utf-8", newline="") as file:
            rows[part] = [(row[args.text], row[args.text_pair], float(row[args.label])) for row in csv.DictReader(file)]
    queries = len({query for query, _, _ in rows["train"]})
    batch = math.ceil(len(rows["train"]) / math.ceil(queries / args.batch_size))

    transformers.set_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = CrossEncoder(args.model, num_labels=1, max_length=args.max_length, device=device, model_kwargs={"dtype": torch.float32})
    train = Dataset.from_list([{"query": query, "passage": passage, "label": label} for query, passage, label in rows["train"]])

    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "output_dir": directory,
            "num_train_epochs": args.epochs,
            "learning_rate": args.lr,
            "per_device_train_batch_size": batch,
            "seed": args.seed,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0,
            "weight_decay": 0.0,
        }
        if not torch.cuda.is_available():
            settings |= {"use_cpu": True, "dataloader_pin_memory": False}
        if best:
            settings |= {"bf16": bf16_is_native(), "dataloader_num_workers": 2 if torch.cuda.is_available() else 0}
        trainer = CrossEncoderTrainer(
            model=model, args=CrossEncoderTrainingArguments(**settings), train_dataset=train, loss=BinaryCrossEntropyLoss(model)
        )
        began = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - began

        began = time.perf_counter()
        scores = model.predict(
            [(query, passage) for query, passage, _ in rows["test"]],
            batch_size=64 if best else 32,  # 32: its default
            activation_fn=torch.nn.Identity(),  # the same order as by its sigmoid, without the ties of a sigmoid in float32
            show_progress_bar=False,
        )
        predict_s = time.perf_counter() - began

    pairs = model.tokenizer(
        [query for query, _, _ in rows["train"]],
        [passage for _, passage, _ in rows["train"]],
        truncation=True,
        max_length=args.max_length,
    )
    train_tokens = sum(map(len, pairs["input_ids"])) * args.epochs
    versions = {package.__name__: package.__version__ for package in (torch, transformers, sentence_transformers)}
    result = {
        "train_s": train_s,
        "train_tokens": train_tokens,
        "tokens_per_s": train_tokens / train_s,
        "train_rows": len(rows["train"]),
        "batch_pairs": batch,
        "steps": trainer.state.global_step,
        "predict_s": predict_s,
        "wall_s": time.perf_counter() - STARTED,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_child_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "peak_device_mb": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions,
        "predictions": [float(score) for score in scores],
    }
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
