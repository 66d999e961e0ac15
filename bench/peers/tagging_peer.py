"""Fine-tune for tagging with transformers.Trainer as its example script does, and write what it took and its tags.

    python tagging_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

What transformers' examples/pytorch/token-classification (run_ner.py) does, in one file: words tokenised with is_split_into_words, the tag
of a word at its first sub-word and -100 at all other tokens, sequences cut at the maximum length. The files have the columns tokens and
tags, each a JSON list. `--flags` as in trainer_peer.py, whose results this one's look like. This file needs nothing else of the repository.
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
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", choices=["default", "best"], default="best")
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def read(path: str) -> dict[str, list[list[str]]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [json.loads(row[name]) for row in rows] for name in ("tokens", "tags")}


def bf16_is_native() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def first_tokens(words: list[int | None]) -> dict[int, int]:
    """Return the place of each word's first token, by the number of the word; words that were cut off or have no token are not in it."""
    places: dict[int, int] = {}
    for place, word in enumerate(words):
        if word is not None:
            places.setdefault(word, place)
    return places


def main() -> None:
    args = arguments()
    best = args.flags == "best"
    train_rows, test_rows = read(args.train), read(args.test)
    names = sorted({tag for tags in train_rows["tags"] for tag in tags})
    number = {name: i for i, name in enumerate(names)}

    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        args.model, dtype=torch.float32, num_labels=len(names), id2label=dict(enumerate(names)), label2id=number
    )

    def tokenize(rows: dict[str, list], *, labelled: bool) -> dict[str, list]:
        found = tokenizer(rows["tokens"], is_split_into_words=True, truncation=True, max_length=args.max_length)
        columns: dict[str, list] = {**found, "length": [len(ids) for ids in found["input_ids"]]}
        if labelled:
            columns["labels"] = []
            for i, tags in enumerate(rows["tags"]):
                labels = [-100] * len(found["input_ids"][i])
                for word, place in first_tokens(found.word_ids(i)).items():
                    labels[place] = number[tags[word]]
                columns["labels"].append(labels)
        else:
            columns["places"] = [list(first_tokens(found.word_ids(i)).items()) for i in range(len(rows["tokens"]))]
        return columns

    how = {"batched": True, "remove_columns": ["tokens", "tags"]}
    train = Dataset.from_dict(train_rows).map(tokenize, fn_kwargs={"labelled": True}, **how)
    test = Dataset.from_dict(test_rows).map(tokenize, fn_kwargs={"labelled": False}, **how)
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
            settings |= {"use_cpu": True, "dataloader_pin_memory": False}
        if best:
            settings |= {
                "bf16": bf16_is_native(),
                "train_sampling_strategy": "group_by_length",
                "per_device_eval_batch_size": 64,
                "dataloader_num_workers": 2 if torch.cuda.is_available() else 0,
            }
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(**settings),
            train_dataset=train,
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
        )
        began = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - began

        trainer.args.train_sampling_strategy = "sequential"
        began = time.perf_counter()
        logits = trainer.predict(test.remove_columns(["places"])).predictions
        chosen = logits.argmax(axis=-1)
        # A word that the maximum length cuts off, or of which the tokenizer leaves nothing, gets no tag here, and counts as wrong: that is
        # what users of this script get.
        predictions: list[list[str | None]] = [[None] * len(words) for words in test_rows["tokens"]]
        for row, codes, places in zip(order.tolist(), chosen, test["places"], strict=True):
            for word, place in places:
                predictions[row][word] = names[codes[place]]
        predict_s = time.perf_counter() - began

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
        "words_without_tag": sum(tag is None for tags in predictions for tag in tags),
        "predictions": predictions,
    }
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
