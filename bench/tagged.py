"""Tagging in the benchmark: words and tags as CSV files that all programs read, and tags judged sentence by sentence.

The readers are the benchmark's own, so that a reader of tunesmith's cannot favour tunesmith.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.settings import Row

COLUMNS = ["tokens", "tags"]

FIGURES = ("word_accuracy", "entity_f1", "entity_f1_default")

Sentence = tuple[list[str], list[str]]


def sentences_in(path: Path, label: str, *, strip_digit: bool = False) -> Iterator[Sentence]:
    """Yield words and tags of every sentence of a CoNLL file.

    label: `upos` or `xpos` of CoNLL-U, whose syntactic words are read (neither ranges such as 1-2 nor empty nodes such as 1.1); else the
        file has a word and its tag on each line
    strip_digit: drop the last character of each word, a digit that Weibo's files put behind it
    """
    column = {"upos": 3, "xpos": 4}.get(label)
    words: list[str] = []
    tags: list[str] = []
    for line in [*path.read_text(encoding="utf-8").split("\n"), ""]:  # splitlines would break at rare characters that are words here
        line = line.rstrip("\r")
        if not line.strip():
            if words:
                yield words, tags
            words, tags = [], []
        elif column is None:
            word, _, tag = line.replace("\t", " ").rpartition(" ")
            words.append(word[:-1] if strip_digit and word[-1:].isdigit() else word)
            tags.append(tag)
        elif not line.startswith("#"):
            cells = line.split("\t")
            if cells[0].isdigit():
                words.append(cells[1])
                tags.append(cells[column])


def prepare_tagged(row: Row, folder: Path, target: Path) -> tuple[Path, Path]:
    """Write train, its first `row.first` sentences where that is set, and test below `target`, once, and return their paths."""
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for source, size, part in ((row.train_file, row.first, "train"), (row.test_file, None, "test")):
        path = target / f"{row.name}-{size if size is not None else 'all'}-{part}.csv"
        paths.append(path)
        if path.exists():
            continue
        sentences = list(sentences_in(folder / row.folder / source, row.label, strip_digit=row.strip_digit is True))
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            cells = ([json.dumps(values, ensure_ascii=False) for values in sentence] for sentence in sentences[:size])
            csv.writer(file).writerows([COLUMNS, *cells])
        partial.replace(path)
    return paths[0], paths[1]


def tags_of(path: Path) -> list[list[str]]:
    """Return the tags of each sentence of a prepared file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [json.loads(row["tags"]) for row in csv.DictReader(file)]


def judged_tags(train: Path, test: Path, predictions: Sequence[Sequence[str | None]]) -> dict[str, list[list[int]]]:
    """Return counts of each sentence: no word of the data.

    predictions: a tag for each word, None for a word that was not predicted, which counts as wrong and as in no entity

    gold: words, entities (strict), entities (default); predictions: right words, right and predicted entities (strict), the same (default).
    Strict and default are seqeval's modes, with BMES read as IOBES. The scheme is that of the tags of both files; tags of none have no
    entities.
    """
    from tunesmith.data.schemes import default_entities, recognise, strict_entities

    golds = tags_of(test)
    scheme = recognise({tag for tags in [*golds, *tags_of(train)] for tag in tags})
    counts: dict[str, list[list[int]]] = {"gold": [], "predictions": []}
    for number, (gold, given) in enumerate(zip(golds, predictions, strict=True), 1):
        if len(gold) != len(given):
            raise ValueError(f"{test.name}, sentence {number}: {len(given)} tags for {len(gold)} words")
        known, found = [len(gold)], [sum(a == b for a, b in zip(gold, given, strict=True))]
        told = ["O" if tag is None else tag for tag in given]
        for rule in ("strict", "default"):
            one, two = (
                set() if scheme is None else set(default_entities(tags) if rule == "default" else strict_entities(tags, scheme))
                for tags in (gold, told)
            )
            known.append(len(one))
            found += [len(one & two), len(two)]
        counts["gold"].append(known)
        counts["predictions"].append(found)
    return counts
