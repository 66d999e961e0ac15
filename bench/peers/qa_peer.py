"""Fine-tune for extractive question answering with transformers.Trainer as its example script does, and write what it took and answers.

    python qa_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

What transformers' examples/pytorch/question-answering (run_qa.py, utils_qa.py) do, in one file: overlapping windows of the passage as
features, the first answer's start and end or the CLS token as their targets, and of the n best starts and ends of every feature the
span with the highest sum. The files have the columns question, context and answers (JSON: a list of {"text", "answer_start"}).
`--flags` as in trainer_peer.py, whose results this one's look like. This file needs nothing else of the repository.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import tempfile
import time
from typing import Any

STARTED = time.perf_counter()  # before the heavy imports: they are part of what a user waits for

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402

csv.field_size_limit(2**31 - 1)

N_BEST = 20  # starts, and ends, of a feature that are looked at: the script's default


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--max-answer-tokens", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", choices=["default", "best"], default="best")
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def read(path: str) -> dict[str, list]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "question": [row["question"].lstrip() for row in rows],
        "context": [row["context"] for row in rows],
        "answers": [json.loads(row["answers"]) for row in rows],
    }


def bf16_is_native() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def answers_of(examples: dict[str, list], features: Dataset, logits: tuple[np.ndarray, np.ndarray], longest: int) -> list[str]:
    """Return the best answer to each question: utils_qa.postprocess_qa_predictions, for questions that have one."""
    of_example: list[list[int]] = [[] for _ in examples["question"]]
    for number, example in enumerate(features["example"]):
        of_example[example].append(number)
    offsets = features["offset_mapping"]
    found = []
    for example, numbers in enumerate(of_example):
        best, answer = -np.inf, (0, 0)
        for number in numbers:
            starts, ends = logits[0][number], logits[1][number]
            places = offsets[number]
            for start in np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist():
                for end in np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist():
                    if start >= len(places) or end >= len(places) or places[start] is None or places[end] is None:
                        continue
                    if end < start or end - start + 1 > longest:
                        continue
                    if starts[start] + ends[end] > best:
                        best, answer = starts[start] + ends[end], (places[start][0], places[end][1])
        found.append(examples["context"][example][answer[0] : answer[1]])
    return found


def main() -> None:
    args = arguments()
    best = args.flags == "best"
    train_rows, test_rows = read(args.train), read(args.test)
    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(args.model, dtype=torch.float32)

    def features(rows: dict[str, list]) -> Any:
        return tokenizer(
            rows["question"],
            rows["context"],
            truncation="only_second",
            max_length=args.max_length,
            stride=args.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def for_training(rows: dict[str, list]) -> dict[str, list]:
        found = features(rows)
        of, offsets = found.pop("overflow_to_sample_mapping"), found.pop("offset_mapping")
        found["start_positions"], found["end_positions"] = [], []
        for i, places in enumerate(offsets):
            ids, sides = found["input_ids"][i], found.sequence_ids(i)
            nothing = ids.index(tokenizer.cls_token_id)
            answers = rows["answers"][of[i]]
            first, last = sides.index(1), len(ids) - 1 - sides[::-1].index(1)
            begin = answers[0]["answer_start"] if answers else -1
            end = begin + len(answers[0]["text"]) if answers else -1
            if not answers or places[first][0] > begin or places[last][1] < end:
                found["start_positions"].append(nothing)
                found["end_positions"].append(nothing)
                continue
            while first < len(places) and places[first][0] <= begin:
                first += 1
            while places[last][1] >= end:
                last -= 1
            found["start_positions"].append(first - 1)
            found["end_positions"].append(last + 1)
        return {**found, "length": [len(ids) for ids in found["input_ids"]]}

    def for_testing(rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        found = features(rows)
        of = found.pop("overflow_to_sample_mapping")
        found["offset_mapping"] = [
            [place if side == 1 else None for place, side in zip(places, found.sequence_ids(i), strict=True)]
            for i, places in enumerate(found["offset_mapping"])
        ]
        found["example"] = [numbers[example] for example in of]
        return {**found, "length": [len(ids) for ids in found["input_ids"]]}

    columns = ["question", "context", "answers"]
    train = Dataset.from_dict(train_rows).map(for_training, batched=True, remove_columns=columns)
    test = Dataset.from_dict(test_rows).map(for_testing, batched=True, with_indices=True, remove_columns=columns)
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
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        began = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - began

        trainer.args.train_sampling_strategy = "sequential"
        began = time.perf_counter()
        logits = trainer.predict(test.remove_columns(["offset_mapping", "example"])).predictions
        predictions = answers_of(test_rows, test, (logits[0], logits[1]), args.max_answer_tokens)
        predict_s = time.perf_counter() - began

    train_tokens = int(sum(train["length"])) * args.epochs
    result = {
        "train_s": train_s,
        "train_tokens": train_tokens,
        "tokens_per_s": train_tokens / train_s,
        "train_rows": len(train_rows["question"]),
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
