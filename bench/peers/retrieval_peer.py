"""Fine-tune a bi-encoder with sentence-transformers as its documentation does, and write what it took and what it finds.

    python retrieval_peer.py --train DIR/train.csv --test DIR/test.csv --model DIRECTORY --flags best --json result.json

Multiple negatives ranking loss over pairs of a query and a relevant passage, by SentenceTransformerTrainer, without a passage twice in a
batch (the documentation's advice for this loss). The files have the columns text (the query) and text_pair (the passage); of the
training file those rows count whose label is above 0, and beside it lies the collection, corpus.jsonl. `--batch-size` counts pairs, and
`--epochs` the steps: as many as an epoch over the queries has, each with one passage, as the files' other reader means it. `--flags` as
in ranking_peer.py. What the encoder finds before it is trained is written as well, under `untrained`. This file needs `common.py` beside
it and nothing else of the repository.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any

import common  # before the heavy imports, whose time counts
import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss


def steps_of(queries: int, batch_size: int, epochs: int) -> int:
    """Return how many steps there are when every query comes once an epoch."""
    return math.ceil(queries / batch_size) * epochs


def trained(model: SentenceTransformer, train: Dataset, steps: int, args: Any) -> float:
    """Train `model` and return the seconds that took."""
    with tempfile.TemporaryDirectory() as directory:
        settings = common.training_settings(args, directory, grouped=False) | {"max_steps": steps, "batch_sampler": "no_duplicates"}
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(**settings),
            train_dataset=train,
            loss=MultipleNegativesRankingLoss(model),
        )
        return common.timed(trainer.train)[1]


def main() -> None:
    args = common.parser(batch_size=16, max_length=256).parse_args()
    train_rows, test_rows = common.rows_of(args.train), common.rows_of(args.test)
    relevant = [row for row in train_rows if float(row["label"]) > 0]
    queries = [row["text"] for row in relevant]
    pairs = {"query": queries, "passage": [row["text_pair"] for row in relevant]}
    steps = steps_of(len(set(queries)), args.batch_size, args.epochs)

    transformers.set_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SentenceTransformer(args.model, device=device, model_kwargs={"dtype": torch.float32})
    model.max_seq_length = args.max_length

    def found() -> list[common.Hits]:
        collection = common.collection_of(args.train)
        texts = common.queries_of(test_rows, "text")
        how: dict[str, Any] = {"batch_size": 64 if args.flags == "best" else 32, "normalize_embeddings": True}
        return common.nearest(model.encode(texts, **how), model.encode(list(collection.values()), **how), list(collection))

    untrained = found()
    train_s = trained(model, Dataset.from_dict(pairs), steps, args)
    predictions, predict_s = common.timed(found)
    lengths = [model.tokenizer(pairs[part], truncation=True, max_length=args.max_length)["input_ids"] for part in pairs]
    mean = sum(len(ids) for part in lengths for ids in part) / len(relevant)  # tokens of a pair
    common.write_result(
        args.json,
        sentence_transformers,
        train_s=train_s,
        train_tokens=round(mean * steps * args.batch_size),
        train_rows=len(train_rows),
        steps=steps,
        predict_s=predict_s,
        predictions=predictions,
        untrained=untrained,
    )


if __name__ == "__main__":
    main()
