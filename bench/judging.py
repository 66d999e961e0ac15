"""What the programs predicted, made comparable: gold and predictions of every test unit as numbers, the same way for all variants.

The variants hand over predictions, not figures, so nobody is measured by his own yardstick, and no row of the data is in the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.data import read as read_rows
from bench.lists import judged_lists
from bench.questions import judged_answers
from bench.retrieval import judged_collection
from bench.settings import SEPARATOR, Row
from bench.tagged import judged_tags


def judged(row: Row, train: Path, test: Path, predictions: list[Any], untrained: list[Any] | None = None) -> dict[str, Any]:
    """Return `gold` and `predictions` of a record; for labels their numbers, and `labels`, how many there are; for a collection
    `yardsticks`, the predictions of simple methods, and of the encoder before training where the program gives them."""
    if row.task == "regression":
        gold = [float(value) for *_, value in read_rows(test, row.columns)]
        return {"gold": gold, "predictions": [float(value) for value in predictions]}
    if row.task == "qa":
        return judged_answers(test, predictions)
    if row.task == "tagging":
        return judged_tags(train, test, predictions)
    if row.ranker is not None:
        return judged_collection(test, predictions, untrained)
    if row.task == "ranking":
        return judged_lists(read_rows(test, row.columns), predictions)
    of_test, of_train = labels_of(test, row), labels_of(train, row)
    names = sorted({name for labels in [*of_test, *of_train] for name in labels})
    place = {name: i for i, name in enumerate(names)}
    return {
        "labels": len(names),
        "gold": [[place[name] for name in labels] for labels in of_test],
        "predictions": [[place[name] for name in labels] for labels in predictions],
    }


def units_of(row: Row, test: Path) -> int:
    """Return how many predictions there must be: one for each row, or for each query that a collection is searched for."""
    rows = read_rows(test, row.columns)
    return len({query for query, *_ in rows}) if row.ranker == "bi-encoder" else len(rows)


def labels_of(path: Path, row: Row) -> list[list[str]]:
    """Return the labels of every row of a prepared file."""
    cells = [label for *_, label in read_rows(path, row.columns)]
    return [[name for name in cell.split(SEPARATOR) if name] if row.kind == "multi" else [cell] for cell in cells]
