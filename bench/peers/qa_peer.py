"""Fine-tune for extractive question answering with transformers.Trainer as its example script does, and write what it took and answers.

    python qa_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

What transformers' examples/pytorch/question-answering (run_qa.py, utils_qa.py) do, in one file: overlapping windows of the passage as
features, the first answer's start and end or the CLS token as their targets, and of the n best starts and ends of every feature the
span with the highest sum. The files have the columns question, context and answers (JSON: a list of {"text", "answer_start"}).
`--flags` as in trainer_peer.py, whose results this one's look like. This file needs `common.py` beside it
and nothing else of the repository.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import common  # before the heavy imports, whose time counts
import numpy as np
import torch
import transformers
from datasets import Dataset

COLUMNS = ["question", "context", "answers"]

N_BEST = 20  # starts, and ends, of a feature that are looked at: the script's default


def arguments() -> argparse.Namespace:
    parser = common.parser(batch_size=32, max_length=384)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--max-answer-tokens", type=int, default=30)
    return parser.parse_args()


def read(path: str) -> dict[str, list]:
    rows = common.rows_of(path)
    return {
        "question": [row["question"].lstrip() for row in rows],
        "context": [row["context"] for row in rows],
        "answers": [json.loads(row["answers"]) for row in rows],
    }


def features(rows: dict[str, list], tokenizer: Any, args: argparse.Namespace) -> Any:
    """Return the windows of questions and their passages."""
    return tokenizer(
        rows["question"],
        rows["context"],
        truncation="only_second",
        max_length=args.max_length,
        stride=args.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def span_in(answers: list[dict[str, Any]], places: list[tuple[int, int]], sides: list[int | None]) -> tuple[int, int] | None:
    """Return the first and the last token of the first answer in a window; None where it is not whole in it."""
    first, last = sides.index(1), len(sides) - 1 - sides[::-1].index(1)
    begin = answers[0]["answer_start"] if answers else -1
    end = begin + len(answers[0]["text"]) if answers else -1
    if not answers or places[first][0] > begin or places[last][1] < end:
        return None
    while first < len(places) and places[first][0] <= begin:
        first += 1
    while places[last][1] >= end:
        last -= 1
    return first - 1, last + 1


def for_training(rows: dict[str, list], tokenizer: Any, args: argparse.Namespace) -> dict[str, list]:
    found = features(rows, tokenizer, args)
    of, offsets = found.pop("overflow_to_sample_mapping"), found.pop("offset_mapping")
    found["start_positions"], found["end_positions"] = [], []
    for i, places in enumerate(offsets):
        span = span_in(rows["answers"][of[i]], places, found.sequence_ids(i))
        nothing = found["input_ids"][i].index(tokenizer.cls_token_id)
        start, end = span if span is not None else (nothing, nothing)
        found["start_positions"].append(start)
        found["end_positions"].append(end)
    return {**found, "length": [len(ids) for ids in found["input_ids"]]}


def for_testing(rows: dict[str, list], numbers: list[int], tokenizer: Any, args: argparse.Namespace) -> dict[str, list]:
    found = features(rows, tokenizer, args)
    of = found.pop("overflow_to_sample_mapping")
    found["offset_mapping"] = [
        [place if side == 1 else None for place, side in zip(places, found.sequence_ids(i), strict=True)]
        for i, places in enumerate(found["offset_mapping"])
    ]
    found["example"] = [numbers[example] for example in of]
    return {**found, "length": [len(ids) for ids in found["input_ids"]]}


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
    train_rows, test_rows = read(args.train), read(args.test)
    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(args.model, dtype=torch.float32)
    how = {"batched": True, "remove_columns": COLUMNS, "fn_kwargs": {"tokenizer": tokenizer, "args": args}}
    train = Dataset.from_dict(train_rows).map(for_training, **how)
    test = Dataset.from_dict(test_rows).map(for_testing, with_indices=True, **how)
    test = test.select(common.longest_first(test["length"], args.flags))
    predictions, took = common.trained_and_predicted(
        args,
        test.remove_columns(["offset_mapping", "example"]),
        lambda logits: answers_of(test_rows, test, (logits[0], logits[1]), args.max_answer_tokens),
        model=model,
        train_dataset=train,
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    common.write_result(args.json, **took, train_rows=len(train_rows["question"]), predictions=predictions)


if __name__ == "__main__":
    main()
