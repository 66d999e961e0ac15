"""Which column plays which role, and rows turned into examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Source(NamedTuple):
    """Where a row stands: the file (or a name for a table in memory) and the line, counted from 1, on which it begins."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Row = Mapping[str, Any]


class RowSource(Protocol):
    """Rows that can be read again and again, one at a time, in constant memory.

    `name` is shown to the user; `columns` are the column names in order; iterating yields `(row, source)` pairs, each
    row a mapping from every column to its value (text for CSV; numbers, lists and None where the format has them);
    `fingerprint()` changes whenever the content does.
    """

    name: str
    columns: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[Row, Source]]: ...

    def fingerprint(self) -> str: ...
