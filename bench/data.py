"""From a labelled file of the data folder to the two CSV files, of one text or two and a label, that all variants of a run read."""

from __future__ import annotations

import csv
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.questions import prepare_questions
from bench.retrieval import prepare_collection
from bench.settings import Row
from bench.tagged import prepare_tagged

ROOT = Path(__file__).resolve().parent.parent

csv.field_size_limit(2**31 - 1)


def data_folder() -> Path:
    """Return the folder with one directory for each data set; it may be absent."""
    return Path(os.environ.get("TUNESMITH_DATA", ROOT.parent / "shared" / "data"))


def read(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of `columns` of every row whose first one, the text, is not empty."""
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file) if row[columns[0]].strip()]


def prepare(row: Row, seed: int, folder: Path, target: Path) -> tuple[Path, Path]:
    """Write train and test of `row` below `target`, once, and return their paths."""
    if row.task == "qa":
        return prepare_questions(row, seed, folder, target)
    if row.task == "tagging":
        return prepare_tagged(row, folder, target)
    if row.ranker is not None:
        return prepare_collection(row, folder, target)
    stem = row.name
    if row.sample is not None:
        stem += f"-sample-{row.sample}-{seed}"
    elif row.first is not None:
        stem += f"-first-{row.first}"
    paths = (target / f"{stem}-train.csv", target / f"{stem}-test.csv")
    if all(path.exists() for path in paths):
        return paths
    for path, source in zip(paths, (row.train_file, row.test_file), strict=True):
        rows = read(folder / row.folder / source, [row.text, *([row.text_pair] if row.text_pair is not None else []), row.label])
        if row.sample is not None:
            rows = balanced_sample(rows, row.sample, random.Random(f"{row.name} {source} {seed}"))
        elif row.first is not None and source == row.train_file:
            rows = rows[: row.first]
        written(path, row.columns, rows)
    return paths


def written(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    partial.replace(path)


def balanced_sample(rows: list[tuple[str, ...]], size: int, draw: random.Random) -> list[tuple[str, ...]]:
    """Return `size` rows, the same number of each label, in random order."""
    of_label: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for item in rows:
        of_label[item[-1]].append(item)
    share, rest = divmod(size, len(of_label))
    chosen: list[tuple[str, ...]] = []
    for i, label in enumerate(sorted(of_label)):
        chosen += draw.sample(of_label[label], share + (i < rest))
    draw.shuffle(chosen)
    return chosen
