"""Rows of tagged words as CoNLL: a word a line, its columns separated by tabs, a blank line between sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from tunesmith.data.values import plain
from tunesmith.errors import UsageError, listing

_COMMENTS = ("sent_id", "text")


class ConllSink:
    """Writes what `data.conll` reads again: `# global.columns` names the columns, first the words, last what was predicted.

    Columns of the first row that are lists with one value a word become columns of the file; of the others `document`, `sent_id` and `text`
    are written as comments, and the rest is left out. A row without words has no line of its own and is left out, too.
    """

    def __init__(self, file: TextIO, columns: tuple[str, ...], flush: bool) -> None:
        self.file, self.flush = file, flush
        self.words = next((name for name in ("tokens", "words") if name in columns), None)
        if self.words is None:
            raise UsageError(f"CoNLL holds tagged words, and there is no column of words among {listing(columns, 8)}. Write JSONL instead.")
        self.columns = columns
        self.written: list[str] = []
        self.document: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        assert self.words is not None
        words = row.get(self.words)
        if not isinstance(words, list) or not words:
            return
        values = {column: plain(row.get(column)) for column in self.columns}
        if not self.written:
            fitting = [column for column, value in values.items() if column != self.words and _fits(value, len(words))]
            self.written = [self.words, *(column for column in fitting if column not in ("words", "tokens"))]
            names = ["tokens", *self.written[1:]]
            self.file.write(f"# global.columns = {' '.join(name.replace(' ', '_') for name in names)}\n")
        if values.get("document") not in (None, "", self.document):
            self.document = values["document"]
            self.file.write(f"# newdoc id = {_line(self.document)}\n")
        for column in _COMMENTS:
            if values.get(column) not in (None, ""):
                self.file.write(f"# {column} = {_line(values[column])}\n")
        cells = [values[column] if _fits(values[column], len(words)) else ["_"] * len(words) for column in self.written]
        for line in zip(*cells, strict=True):
            self.file.write("\t".join(_line(cell) or "_" for cell in line) + "\n")
        self.file.write("\n")
        if self.flush:
            self.file.flush()

    def close(self) -> None:
        self.file.flush()


def _fits(value: Any, words: int) -> bool:
    return isinstance(value, list) and len(value) == words and all(isinstance(item, str | int | float) for item in value)


def _line(value: Any) -> str:
    return " ".join(str(value).split()) if value is not None else ""
