"""What the programs of the benchmark share: arguments, the settings of a Trainer, timing, and the file that says what a run took.

Imported before anything heavy, so that the imports count in `wall_s`: they are part of what a user waits for.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

os.environ.setdefault("HF_HUB_OFFLINE", "1")
csv.field_size_limit(2**31 - 1)

Hits = list[tuple[str, float]]
"""Passages found for a query, best first: their ids and scores."""

DEPTH = 100  # passages that a search returns


def parser(*, batch_size: int, max_length: int, flags: tuple[str, ...] = ("best", "default")) -> argparse.ArgumentParser:
    """Return a parser of what every program is told; flags: the ways in which it can be set up, the usual one first."""
    found = argparse.ArgumentParser()
    found.add_argument("--train", required=True)
    found.add_argument("--test", required=True)
    found.add_argument("--model", required=True)
    found.add_argument("--epochs", type=int, default=3)
    found.add_argument("--lr", type=float, default=5e-5)
    found.add_argument("--batch-size", type=int, default=batch_size)
    found.add_argument("--max-length", type=int, default=max_length)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--flags", choices=flags, default=flags[0])
    found.add_argument("--json", required=True)
    return found


def rows_of(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def queries_of(rows: list[dict[str, str]], column: str) -> list[str]:
    """Return the queries of a file's rows, each once, in the order of the file."""
    return list(dict.fromkeys(row[column] for row in rows))


def collection_of(train: str) -> dict[str, str]:
    """Return the passages of the collection beside a training file by their ids."""
    with (Path(train).parent / "corpus.jsonl").open(encoding="utf-8") as file:
        return {one["_id"]: one["text"] for one in map(json.loads, file)}


def nearest(queries: Any, passages: Any, ids: list[str]) -> list[Hits]:
    """Return the `DEPTH` passages nearest to each query, by the cosine of their vectors, float32[Q, H] and float32[P, H] of length 1."""
    import numpy as np

    found = []
    for scores in np.asarray(queries) @ np.asarray(passages).T:
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        found.append([(ids[place], float(scores[place])) for place in best.tolist()])
    return found


def bf16_is_faster() -> bool:
    """Whether this hardware multiplies bf16 itself, and faster than float32, which a processor without its matrix unit may not."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

    def taken(precision: torch.dtype) -> float:
        left, right = (torch.ones(size, 768, dtype=precision) for size in (128, 3072))
        return min(timed(lambda: torch.nn.functional.linear(left, right))[1] for _ in range(8))

    return native and taken(torch.float32) > 1.2 * taken(torch.bfloat16)


def training_settings(args: argparse.Namespace, directory: str, *, grouped: bool = True) -> dict[str, Any]:
    """Return what TrainingArguments are told. `grouped`: the best settings group batches by length."""
    import torch

    settings: dict[str, Any] = {
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
    if args.flags == "best":
        # the rows are tokenised already: a worker process gains something only beside an accelerator
        settings |= {"bf16": bf16_is_faster(), "dataloader_num_workers": 2 if torch.cuda.is_available() else 0}
        if grouped:
            settings |= {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 64}
    return settings


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns, and the seconds that it took."""
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


def longest_first(lengths: list[int], flags: str) -> list[int]:
    """Return the order in which the test rows are predicted: with the best settings by length, else as in the file."""
    import numpy as np

    return np.argsort(lengths, kind="stable")[::-1].tolist() if flags == "best" else list(range(len(lengths)))


def trained_and_predicted(args: argparse.Namespace, test: Any, decode: Callable[[Any], list], **parts: Any) -> tuple[list, dict[str, Any]]:
    """Train with transformers.Trainer; return what `decode` makes of the outputs for the rows of `test`, and what both took.

    parts: what Trainer is told besides its arguments: model, train_dataset (with a column `length`), processing_class and data_collator
    """
    import transformers

    with tempfile.TemporaryDirectory() as directory:
        settings = transformers.TrainingArguments(**training_settings(args, directory))
        trainer = transformers.Trainer(args=settings, **parts)
        _, train_s = timed(trainer.train)
        # Trainer groups the test set by length, too, and hands the predictions back in that order: sequential again, ours is sorted.
        trainer.args.train_sampling_strategy = "sequential"
        found, predict_s = timed(lambda: decode(trainer.predict(test).predictions))
    train_tokens = int(sum(parts["train_dataset"]["length"])) * args.epochs
    return found, {"train_s": train_s, "train_tokens": train_tokens, "predict_s": predict_s}


def write_result(
    path: str, *packages: Any, train_s: float, train_tokens: int, train_rows: int, predict_s: float, predictions: list, **more: Any
) -> None:
    """Write a run's record: the given figures, those of the process and its accelerator, and the versions of torch, transformers and
    `packages`."""
    import torch
    import transformers

    on_gpu = torch.cuda.is_available()
    result = {
        "train_s": train_s,
        "train_tokens": train_tokens,
        "tokens_per_s": train_tokens / train_s,
        "train_rows": train_rows,
        "predict_s": predict_s,
        "wall_s": time.perf_counter() - STARTED,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_child_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "peak_device_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "versions": {package.__name__: package.__version__ for package in (torch, transformers, *packages)},
        **more,
        "predictions": predictions,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)
