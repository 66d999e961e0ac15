"""Question answering in the benchmark: samples of SQuAD's JSON as CSV files, and answers judged question by question."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

from bench.settings import Row

COLUMNS = ["question", "context", "answers"]


def questions_in(path: Path) -> list[tuple[str, ...]]:
    """Return question, passage and answers (as JSON) of every question in a file of SQuAD's form.

    An empty question, of which CMRC has two, is written as a question mark, as some readers leave rows without a text out.
    """
    found: list[tuple[str, ...]] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph["qas"]:
                question = one["question"] if one["question"].strip() else "?"
                found.append((question, paragraph["context"], json.dumps(one["answers"], ensure_ascii=False)))
    return found


def prepare_questions(row: Row, seed: int, folder: Path, target: Path) -> tuple[Path, Path]:
    """Write samples of `row.sample` training and `row.test_sample` test questions below `target`, once, and return their paths."""
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    learned = row.sample if row.sample is not None else row.first
    for source, size, part in ((row.train_file, learned, "train"), (row.test_file, row.test_sample, "test")):
        path = target / f"{row.name}-{size if size is not None else 'all'}-{seed}-{part}.csv"
        paths.append(path)
        if path.exists():
            continue
        rows = questions_in(folder / row.folder / source)
        if size is not None and size < len(rows):
            rows = random.Random(f"{row.name} {part} {seed}").sample(rows, size)
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        partial.replace(path)
    return paths[0], paths[1]


def judged_answers(test: Path, predictions: Sequence[str]) -> dict[str, list[list[float]]]:
    """Return `gold`, ones, and `predictions`, exact match and F1 of each answer by the rule of its language: no text of the data."""
    from tunesmith.qa_metrics import scores
    from tunesmith.tasks.qa import match_of

    with test.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    golds = [[answer["text"] for answer in json.loads(row["answers"])] for row in rows]
    each = scores(predictions, golds, match_of([row["context"] for row in rows]))
    return {"gold": [[1.0, 1.0] for _ in golds], "predictions": each.tolist()}
