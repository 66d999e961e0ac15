"""Fine-tune with tunesmith, in a process of its own, and write what it took and what it predicts: as trainer_peer.py does.

`--flags` names its engine. With `--collection`, a BEIR directory's training judgements, tunesmith trains on these and not on `--train`,
which has the same rows for the other programs. A cross-encoder then scores the rows of the test file, and a bi-encoder ranks the whole
collection for its queries.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import common  # before the heavy imports, whose time counts

import tunesmith


def arguments() -> argparse.Namespace:
    parser = common.parser(batch_size=32, max_length=256, flags=("auto", "packed", "padded"))
    parser.add_argument("--text", default="text")
    parser.add_argument("--text-pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--sep", default="|", help="between the labels of a cell, with --kind multi")
    parser.add_argument("--kind", choices=["single", "multi", "number"], default="single")
    parser.add_argument("--task", choices=["qa", "tagging", "ranking"], help="a task that does not follow from the columns")
    parser.add_argument("--last-layers", type=int, help="train only so many of the last layers, and the head")
    parser.add_argument("--stride", type=int, default=32)
    parser.add_argument("--max-answer-tokens", type=int, default=30)
    parser.add_argument("--collection", help="the training judgements of a BEIR directory")
    parser.add_argument("--ranker", choices=["cross-encoder", "bi-encoder"], default="cross-encoder")
    parser.add_argument("--candidates", type=int, default=100, help="passages of BM25 that a cross-encoder ranks again")
    return parser.parse_args()


def plain(prediction: Any, args: argparse.Namespace) -> Any:
    """Return a prediction as JSON has it: a number, an answer, a tag for each word, or a list of labels."""
    if args.task == "qa":
        return prediction.answer
    if args.task == "tagging":
        return prediction.tags
    if args.task == "ranking" or args.kind == "number":
        return prediction.score
    return [prediction.label] if isinstance(prediction.label, str) else list(prediction.label)


def texts_of(args: argparse.Namespace) -> list[Any]:
    """Return what is predicted: a text, two, or a list of words of each test row."""
    rows = common.rows_of(args.test)
    if args.task == "tagging":
        return [{"tokens": json.loads(row[args.text])} for row in rows]
    return [row[args.text] if args.text_pair is None else (row[args.text], row[args.text_pair]) for row in rows]


def data_and_task(args: argparse.Namespace) -> dict[str, Any]:
    """Return what to train on, and the task with the settings that other tasks would refuse."""
    task = args.task or ("regression" if args.kind == "number" else "classification" if args.text_pair is None else "pair")
    found: dict[str, Any] = {"data": args.train, "task": task, "text": args.text, "text_pair": args.text_pair, "label": args.label}
    if args.collection is not None:
        found = {"data": args.collection, "task": task, "ranker": args.ranker, "candidates": args.candidates}
    elif task == "qa":
        found |= {"stride": args.stride, "max_answer_tokens": args.max_answer_tokens}
    elif task in ("classification", "pair"):
        found |= {"label_type": args.kind, "label_separator": args.sep if args.kind == "multi" else None}
    return found


def searched(directory: Path, args: argparse.Namespace) -> list[common.Hits]:
    """Return what the trained bi-encoder finds in the whole collection for each query of the test file."""
    from tunesmith.search.vectors import Embedder

    embedder = Embedder(str(directory))
    collection = common.collection_of(args.train)
    queries = common.queries_of(common.rows_of(args.test), args.text)
    return common.nearest(embedder.vectors(queries), embedder.vectors(list(collection.values())), list(collection))


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as directory:
        # Nothing of a former run may help: the cache of tokenised rows is this run's own.
        os.environ["TUNESMITH_CACHE"] = os.path.join(directory, "cache")
        out = Path(directory) / "model"
        run = tunesmith.train(
            **data_and_task(args),
            valid_size=0.0,
            test_size=0.0,  # the test rows are predicted below, by the saved model, as a user would
            model=args.model,
            epochs=args.epochs,
            lr=args.lr,
            tuning="full" if args.last_layers is None else f"last:{args.last_layers}",
            weight_decay=0.0,
            batch_size=args.batch_size,
            max_length=args.max_length,
            seed=args.seed,
            engine=args.flags,
            out=str(out),
        )
        if args.ranker == "bi-encoder":
            predictions, predict_s = common.timed(lambda: searched(out, args))
        else:
            model, texts = tunesmith.load(out), texts_of(args)
            predicted, predict_s = common.timed(lambda: model.predict(texts))
            predictions = [plain(prediction, args) for prediction in predicted]
    training = run.result["training"]
    common.write_result(
        args.json,
        tunesmith,
        train_s=training["seconds"],
        train_tokens=training["tokens"],
        train_rows=run.result["data"]["splits"]["train"]["rows"],
        predict_s=predict_s,
        predictions=predictions,
    )


if __name__ == "__main__":
    main()
