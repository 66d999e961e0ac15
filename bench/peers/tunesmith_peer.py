"""Fine-tune with tunesmith, in a process of its own, and write what it took and what it predicts: as trainer_peer.py does."""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tunesmith  # noqa: E402

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
    parser.add_argument("--kind", choices=["single", "multi", "number"], default="single")
    parser.add_argument("--task", choices=["qa", "tagging", "ranking"], help="a task that does not follow from the columns")
    parser.add_argument("--stride", type=int, default=32)
    parser.add_argument("--max-answer-tokens", type=int, default=30)
    parser.add_argument("--flags", default="auto", choices=["auto", "packed", "padded"], help="the engine")
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def plain(prediction: Any, kind: str, task: str | None) -> Any:
    """Return a prediction as JSON has it: a number, an answer, a tag for each word, or a list of labels."""
    if task == "qa":
        return prediction.answer
    if task == "tagging":
        return prediction.tags
    if task == "ranking" or kind == "number":
        return prediction.score
    return [prediction.label] if isinstance(prediction.label, str) else list(prediction.label)


def main() -> None:
    args = arguments()
    with open(args.test, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
        texts: list[Any] = [row[args.text] if args.text_pair is None else (row[args.text], row[args.text_pair]) for row in rows]
    if args.task == "tagging":
        texts = [{"tokens": json.loads(text)} for text in texts]
    task = args.task or ("regression" if args.kind == "number" else "classification" if args.text_pair is None else "pair")
    own: dict[str, Any] = {}  # settings that other tasks would refuse
    if task == "qa":
        own = {"stride": args.stride, "max_answer_tokens": args.max_answer_tokens}
    elif task in ("classification", "pair"):
        own = {"label_type": args.kind, "label_separator": args.sep if args.kind == "multi" else None}
    with tempfile.TemporaryDirectory() as directory:
        # Nothing of a former run may help: the cache of tokenised rows is this run's own.
        os.environ["TUNESMITH_CACHE"] = os.path.join(directory, "cache")
        out = Path(directory) / "model"
        run = tunesmith.train(
            args.train,
            text=args.text,
            label=args.label,
            text_pair=args.text_pair,
            task=task,
            **own,
            valid_size=0.0,
            test_size=0.0,  # the test rows are predicted below, by the saved model, as a user would
            model=args.model,
            epochs=args.epochs,
            lr=args.lr,
            weight_decay=0.0,
            batch_size=args.batch_size,
            max_length=args.max_length,
            seed=args.seed,
            engine=args.flags,
            out=str(out),
        )
        model = tunesmith.load(out)
        began = time.perf_counter()
        predicted = model.predict(texts)
        predict_s = time.perf_counter() - began
    training = run.result["training"]

    import torch
    import transformers

    result = {
        "train_s": training["seconds"],
        "train_tokens": training["tokens"],
        "tokens_per_s": training["tokens_per_s"],
        "train_rows": run.result["data"]["splits"]["train"]["rows"],
        "predict_s": predict_s,
        "wall_s": time.perf_counter() - STARTED,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_child_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "peak_device_mb": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "tunesmith": tunesmith.__version__},
        "predictions": [plain(prediction, args.kind, args.task) for prediction in predicted],
    }
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
