"""Tokenise a CSV of texts into a cache on disk, and write how long it took and how much memory.

    python tokens_peer.py --how tunesmith|datasets --model DIRECTORY --data texts.csv --json result.json

`datasets` reads the CSV and maps transformers' tokenizer over it, in batches, with two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def with_tunesmith(model: str, data: str, folder: str) -> Callable[[], int]:
    os.environ["TUNESMITH_CACHE"] = folder
    from tunesmith import registry
    from tunesmith.data.readers import open_file
    from tunesmith.data.schema import guess_schema
    from tunesmith.data.table import open_table
    from tunesmith.model.pretrained import open_pretrained
    from tunesmith.prepare import encoder_of
    from tunesmith.progress import QUIET
    from tunesmith.resolve import resolve

    config = resolve({"model": model, "text": "text", "label": "label", "max_length": 256})
    family = registry.family("classification")
    pretrained = open_pretrained(model)

    def work() -> int:
        source = open_file(data)
        schema = guess_schema(source, **config.columns, group=None, family=family)
        return len(open_table(source, schema, encoder_of(config, registry.load(family.task), pretrained, schema, QUIET)))

    return work


def with_datasets(model: str, data: str, folder: str) -> Callable[[], int]:
    import transformers
    from datasets import load_dataset

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as datasets asks for beside its own processes
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def work() -> int:
        rows = load_dataset("csv", data_files=data, cache_dir=folder, split="train")
        return len(rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=256), batched=True, num_proc=2))

    return work


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--how", required=True, choices=["tunesmith", "datasets"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (with_tunesmith if args.how == "tunesmith" else with_datasets)(args.model, args.data, folder)
        began = time.perf_counter()
        rows = work()
        seconds = time.perf_counter() - began
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result = {"seconds": seconds, "rows": rows, "peak_rss_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + children) / 1024}
    Path(args.json).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
