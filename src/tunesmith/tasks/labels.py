"""The labels of a classifier: how many a row has, their order and weights, and a table's rows as numbers.

E, N examples, C classes (labels).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tunesmith.data.joined import parts, separator_of
from tunesmith.data.table import Labels, TokenTable
from tunesmith.errors import DataError, UsageError, did_you_mean, listing, setting
from tunesmith.metrics import Kind
from tunesmith.tasks.rows import Rows

EMPTY_LIST = " A row that has none of the labels is written in JSONL, with an empty list [] of them: an empty cell says nothing of them."
"""For messages on missing labels where a row may have any number of them."""


@dataclass(frozen=True)
class ClassTargets:
    """Ragged label numbers of N examples: those of example i are `codes[starts[i]:starts[i+1]]`."""

    codes: np.ndarray
    starts: np.ndarray
    names: list[str]
    multi: bool

    @property
    def labels(self) -> int:
        """C, the number of labels."""
        return len(self.names)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[E] label numbers, or with several labels a row float32[E, C] of zeros and ones."""
        if not self.multi:
            return self.codes[self.starts[rows]].astype(np.int64)
        result = np.zeros((len(rows), self.labels), np.float32)
        sizes = self.starts[rows + 1] - self.starts[rows]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        result[np.repeat(np.arange(len(rows)), sizes), self.codes[np.repeat(self.starts[rows], sizes) + within]] = 1
        return result

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return how many of the examples `rows` have each label."""
        return dict(zip(self.names, self.counts(rows).tolist(), strict=True))

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[C], how many of the examples `rows` have each label."""
        wanted = np.zeros(len(self), bool)
        wanted[rows] = True
        return np.bincount(self.codes[np.repeat(wanted, np.diff(self.starts))], minlength=self.labels)

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for examples with the same labels (and, but for one chance in 2**64, only for those)."""
        mixed = np.random.default_rng(0).integers(0, 2**64, self.labels, np.uint64)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed[self.codes], dtype=np.uint64)])
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def stratum(self) -> np.ndarray:
        """Return int64[N], the label by which each example is spread over a split: its rarest one; C for none."""
        counts = np.bincount(self.codes, minlength=self.labels)
        result = np.full(len(self), self.labels, np.int64)
        owner = np.repeat(np.arange(len(self)), np.diff(self.starts))
        order = np.argsort(-counts[self.codes], kind="stable")  # the rarest is written last
        result[owner[order]] = self.codes[order]
        return result


def targets_of(table: TokenTable, names: list[str], multi: bool, separator: str | None) -> ClassTargets:
    """Translate a table's labels into their places among `names`.

    Raises `DataError` for a label that is not among them, with its place, and for several labels in a row where one is expected.
    """
    labels = table.labels()
    number = {label: i for i, label in enumerate(names)}
    split = [[number.get(part, -1) for part in parts(name, separator)] for name in labels.names]
    for code, numbers in enumerate(split):
        if -1 in numbers:
            part = parts(labels.names[code], separator)[numbers.index(-1)]
            row = int(np.searchsorted(labels.starts, np.argmax(labels.codes == code), side="right")) - 1
            raise DataError(
                f"{table.name}:{table.line[row]}: label {part!r} is not one of the training labels: {listing(names)}."
                f"{did_you_mean(part, names)} Correct it, leave the row out, or add training rows with it."
            )
    sizes = np.diff(labels.starts)
    wrong = ((sizes != 1) & ~labels.missing) if not multi else np.zeros(len(sizes), np.bool_)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{table.name}:{table.line[row]}: the row has {sizes[row]} labels where one is expected. Try {setting('label_type', 'multi')}."
        )
    per_code = np.array([len(numbers) for numbers in split], np.int64)
    flat = np.array([n for numbers in split for n in numbers], np.int32)
    first = np.concatenate([[0], np.cumsum(per_code)])
    repeat = per_code[labels.codes] if len(labels.codes) else np.zeros(0, np.int64)
    within = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    codes = flat[np.repeat(first[labels.codes], repeat) + within] if len(labels.codes) else flat
    before = np.concatenate([[0], np.cumsum(repeat)])
    return ClassTargets(codes, before[labels.starts], names, multi)


def new_labels(table: TokenTable, names: list[str], multi: bool, separator: str | None) -> list[str]:
    """Return the labels of a table that are not among `names`, in order. Raises `DataError` for one that joins known ones."""
    labels, known = table.labels(), set(names)
    found: set[str] = set()
    for code, cell in enumerate(labels.names):
        for name in parts(cell, separator if multi else None):
            if name in known:
                continue
            mark = next((mark for mark in "|;," if mark in name and all(part.strip() in known for part in name.split(mark))), None)
            if mark is not None:
                row = int(np.searchsorted(labels.starts, np.argmax(labels.codes == code), side="right")) - 1
                how = "this model gives one label a row" if not multi else f"labels of this model are {_written(separator)}"
                raise DataError(
                    f"{table.name}:{table.line[row]}: label {name!r} joins labels that the model knows by {mark!r}, but {how}. Correct it."
                )
            found.add(name)
    return sorted(found, key=label_order)


def _written(separator: str | None) -> str:
    return "written in lists, as in JSONL" if separator is None else f"joined by {separator!r}"


def recognise(labels: Labels, label_type: str, separator: str | None) -> tuple[Kind, str | None]:
    """Decide whether rows have one label or several, and what separates them: (`single` or `multi`, separator or None)."""
    if label_type == "single":
        return "single", None
    if separator is not None:
        return "multi", separator
    if labels.from_list:
        return "multi", None
    found = separator_of(labels.names, certain=label_type == "multi")
    return ("multi", found) if found is not None or label_type == "multi" else ("single", None)


def class_weights(wanted: str | dict[str, float], labels: Sequence[str], counts: np.ndarray, multi: bool) -> list[float] | None:
    """Return one factor per label, or None for none.

    `balanced` is n / (C x count), scikit-learn's rule, scaled so that the mean over the training rows is 1; a mapping gives
    factors by name, 1 for labels it does not name. Raises `UsageError` for a name that is no label.
    """
    if wanted == "none":
        return None
    if isinstance(wanted, dict):
        for name in wanted:
            if name not in labels:
                raise UsageError(
                    f"{setting('class_weights')} names {name!r}, which is not a label.{did_you_mean(name, labels)} "
                    f"Labels: {listing(labels)}."
                )
        return [float(wanted.get(label, 1.0)) for label in labels]
    weights = 1 / np.maximum(counts, 1)
    weights *= counts.sum() / (weights * counts).sum() if not multi else len(labels) / weights.sum()
    return weights.tolist()


def label_order(label: str) -> tuple[int, float, tuple[str | int, ...], str]:
    """Return the key by which labels are sorted: numbers by value, then words, in which digits count as numbers: `class 2`, `class 10`."""
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    # words that Python takes for numbers are words here: nan has no place in any order
    if math.isfinite(value):
        return 0, value, (), label
    return 1, 0.0, tuple(int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", label))), label


def counts_of(rows: Rows) -> np.ndarray:
    """Return int64[C], how many of the chosen rows have each label."""
    targets = rows.targets
    assert isinstance(targets, ClassTargets)
    return targets.counts(rows.index)


def focus(p: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)**gamma, the factor of the focal loss; kept off 0, where the slope of a root (gamma < 1) has no bound."""
    return (1 - p).clamp_min(1e-7) ** gamma
