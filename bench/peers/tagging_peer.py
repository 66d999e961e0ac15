"""Fine-tune for tagging with transformers.Trainer as its example script does, and write what it took and its tags.

    python tagging_peer.py --train train.csv --test test.csv --model DIRECTORY --flags best --json result.json

What transformers' examples/pytorch/token-classification (run_ner.py) does, in one file: words tokenised with is_split_into_words, the tag
of a word at its first sub-word and -100 at all other tokens, sequences cut at the maximum length. The files have the columns tokens and
tags, each a JSON list. `--flags` as in trainer_peer.py, whose results this one's look like. This file needs
`common.py` beside it and nothing else of the repository.
"""

from __future__ import annotations

import json
from typing import Any

import common  # before the heavy imports, whose time counts
import numpy as np
import torch
import transformers
from datasets import Dataset


def read(path: str) -> dict[str, list[list[str]]]:
    rows = common.rows_of(path)
    return {name: [json.loads(row[name]) for row in rows] for name in ("tokens", "tags")}


def first_tokens(words: list[int | None]) -> dict[int, int]:
    """Return the place of each word's first token, by the number of the word; words that were cut off or have no token are not in it."""
    places: dict[int, int] = {}
    for place, word in enumerate(words):
        if word is not None:
            places.setdefault(word, place)
    return places


def tokenized(rows: dict[str, list[list[str]]], tokenizer: Any, max_length: int, number: dict[str, int] | None = None) -> Dataset:
    """Return the tokens of sentences, with `number`, of the tags, labelled for training; without, with the places of their words."""

    def tokenize(rows: dict[str, list]) -> dict[str, list]:
        found = tokenizer(rows["tokens"], is_split_into_words=True, truncation=True, max_length=max_length)
        columns: dict[str, list] = {**found, "length": [len(ids) for ids in found["input_ids"]]}
        places = [first_tokens(found.word_ids(i)) for i in range(len(rows["tokens"]))]
        if number is None:
            return {**columns, "places": [list(one.items()) for one in places]}
        columns["labels"] = []
        for ids, one, tags in zip(found["input_ids"], places, rows["tags"], strict=True):
            labels = [-100] * len(ids)
            for word, place in one.items():
                labels[place] = number[tags[word]]
            columns["labels"].append(labels)
        return columns

    return Dataset.from_dict(rows).map(tokenize, batched=True, remove_columns=["tokens", "tags"])


def decoded(codes: np.ndarray, test: Dataset, order: list[int], sentences: list[list[str]], names: list[str]) -> list[list[str | None]]:
    """Return the tags of each sentence, of codes int[N, T] in the order of `order`.

    A word that the maximum length cuts off, or of which the tokenizer leaves nothing, gets no tag here, and counts as wrong: that is
    what users of this script get.
    """
    predictions: list[list[str | None]] = [[None] * len(words) for words in sentences]
    for row, found, places in zip(order, codes, test["places"], strict=True):
        for word, place in places:
            predictions[row][word] = names[found[place]]
    return predictions


def main() -> None:
    args = common.parser(batch_size=16, max_length=128).parse_args()
    train_rows, test_rows = read(args.train), read(args.test)
    names = sorted({tag for tags in train_rows["tags"] for tag in tags})
    number = {name: i for i, name in enumerate(names)}

    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        args.model, dtype=torch.float32, num_labels=len(names), id2label=dict(enumerate(names)), label2id=number
    )
    test = tokenized(test_rows, tokenizer, args.max_length)
    order = common.longest_first(test["length"], args.flags)
    test = test.select(order)
    predictions, took = common.trained_and_predicted(
        args,
        test.remove_columns(["places"]),
        lambda logits: decoded(logits.argmax(axis=-1), test, order, test_rows["tokens"], names),
        model=model,
        train_dataset=tokenized(train_rows, tokenizer, args.max_length, number),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
    )
    untagged = sum(tag is None for tags in predictions for tag in tags)
    common.write_result(args.json, **took, train_rows=len(train_rows["tokens"]), words_without_tag=untagged, predictions=predictions)


if __name__ == "__main__":
    main()
