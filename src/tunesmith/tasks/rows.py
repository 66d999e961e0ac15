"""Chosen rows of the data, and the parts that a run divides them into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tunesmith.data.schema import Example, RowSource, Schema
from tunesmith.data.table import TokenTable, examples_in
from tunesmith.errors import Diverged, counted
from tunesmith.progress import QUIET, Progress


class Targets(Protocol):
    """The targets of N examples."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets of examples `rows`, int[E], as the task's loss wants them."""
        ...

    def stratum(self) -> np.ndarray:
        """Return int64[N], by which a split spreads the examples evenly."""
        ...

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for examples with equal targets."""
        ...

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return what the report says of the targets of `rows`, int[E]: how many rows have each label, or figures by name."""
        ...


@dataclass(frozen=True)
class Rows:
    """Chosen examples of a table: `index` int64[E] are their numbers in it, `targets` the targets of all of its examples."""

    table: TokenTable
    index: np.ndarray
    targets: Targets

    def __len__(self) -> int:
        return len(self.index)

    def fingerprint(self) -> str:
        """Return a digest of the table and of which of its rows are chosen, in what order."""
        return f"{self.table.key}-{hashlib.blake2b(self.index.astype('<i8').tobytes(), digest_size=8).hexdigest()}"

    def gold(self) -> np.ndarray:
        """Return the targets of the chosen rows, as the task's loss wants them."""
        return self.targets.take(self.index)


@dataclass(frozen=True)
class Part:
    """One part of the data: its rows, where they are from, and how it came to be.

    aside: rows of the table that are there for other rows' sake only, which no account counts as read or lost
    """

    rows: Rows
    source: RowSource
    schema: Schema
    how: str = "given"
    aside: int = 0

    def with_index(self, index: np.ndarray) -> Part:
        """Return the same part with other rows of its table."""
        return replace(self, rows=replace(self.rows, index=index))

    def examples(self, progress: Progress = QUIET) -> list[Example] | None:
        """Return the part's examples, read again from their source; None when that is gone or has changed."""
        return examples_in(self.rows.table, self.source, self.schema, self.rows.index, progress)

    def place(self, row: int) -> str:
        """Return where the row with number `row` among the chosen ones stands: file and line."""
        return f"{self.source.name}:{self.rows.table.line[self.rows.index[row]]}"


def without_text(rows: Rows) -> list[str]:
    """Return a note on rows without a text, which training leaves out and a test does not; nothing where there are none."""
    blank = rows.index[rows.table.blank[rows.index]]
    if not len(blank):
        return []
    have, them = ("has", "it") if len(blank) == 1 else ("have", "them")
    return [
        f"{counted(len(blank), 'row')} of {rows.table.name} {have} no text (first: line {rows.table.line[blank[0]]}); what is predicted "
        f"for {them} says nothing and counts in the figures all the same."
    ]


@dataclass(frozen=True)
class Ragged:
    """What a model put out for E examples, or what is kept of it: that of example i is `values[starts[i]:starts[i+1]]`, float32[R, C]."""

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def joined(cls, parts: list[Ragged], outputs: int) -> Ragged:
        """Put parts one behind the other, and empty their list meanwhile, so that no more than one is in memory twice."""
        before = np.cumsum([0, *(len(part.values) for part in parts)])
        starts = np.concatenate([[0], *(part.starts[1:] + rows for part, rows in zip(parts, before, strict=False))]).astype(np.int64)
        values = np.empty((int(before[-1]), outputs), np.float32)
        for rows in before[:-1].tolist():
            part = parts.pop(0).values
            values[rows : rows + len(part)] = part
        return cls(values, starts)

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], outputs: int) -> Ragged:
        """Put float32[R_i, C] of each example one behind the other; `outputs` is C."""
        starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
        values = np.concatenate(pieces) if len(pieces) else np.zeros((0, outputs), np.float32)
        return cls(values, starts)

    def finite(self) -> np.ndarray:
        """Return the values. Raises `Diverged` where some are no finite numbers."""
        if not np.isfinite(self.values).all():
            raise Diverged("some scores of the model are not finite numbers, so training diverged. Use a lower learning rate.")
        return self.values

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, example: int) -> np.ndarray:
        return self.values[self.starts[example] : self.starts[example + 1]]
