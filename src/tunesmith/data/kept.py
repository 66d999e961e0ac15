"""Rows kept in a model directory, to update the model with later: lines of JSON that are read again as the examples they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.data.files import file_fingerprint, file_stamp, reading
from tunesmith.data.schema import Example, Row, RowSource, Schema, Source
from tunesmith.errors import DataError
from tunesmith.progress import QUIET, Progress

REPLAY, TEST = "kept/replay.jsonl", "kept/test.jsonl"
KEPT_FILES = (REPLAY, TEST)
_MORE = "tunesmith"  # what is not the value of a column
_EXAMPLE = "example"


@dataclass(frozen=True, slots=True)
class KeptSchema(Schema):
    """The columns of rows that have been read already: each row holds its `Example`, read by the schema that this one is made of."""

    @classmethod
    def of(cls, schema: Schema) -> KeptSchema:
        """Return the schema for rows that `schema` has read."""
        return cls(schema.texts, schema.target, schema.group, False, schema.read, schema.context, schema.document)

    def examples(self, rows: Iterable[tuple[Row, Source]]) -> Iterator[Example]:
        """Yield the examples."""
        return (row[_EXAMPLE] for row, _ in rows)

    def parse(self, row: Row, source: Source) -> Example:
        """Return the example of one row."""
        example: Example = row[_EXAMPLE]
        return example


def line_of(example: Example, schema: Schema) -> str:
    """Return an example as a line of JSON: texts and target under the names of their columns, and what else it has."""
    row: dict[str, Any] = dict(zip(schema.texts, example.texts, strict=True))
    target = example.target
    scalar = target is not None and len(target) == 1 and not example.target_is_list
    if schema.target is not None:
        row[schema.target] = target[0] if target is not None and scalar else target
    more: dict[str, Any] = {"list": True} if example.target_is_list else {}
    for name in ("group", "spans", "words", "before", "after"):
        value = getattr(example, name)
        if value not in (None, (), ""):
            more[name] = value
    if more:
        row[_MORE] = more
    return json.dumps(row, ensure_ascii=False) + "\n"


class KeptSource:
    """A `RowSource` over a file of kept rows."""

    def __init__(self, path: Path, schema: Schema, name: str | None = None) -> None:
        self.path, self.schema, self.name = path, schema, str(path) if name is None else name
        self.columns = tuple(name for name in (*schema.texts, schema.target) if name is not None)

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        with reading(self.path, self.name), open(self.path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                place = Source(self.name, number)
                yield {_EXAMPLE: self._example(line, place)}, place

    def _example(self, line: str, place: Source) -> Example:
        try:
            row = json.loads(line)
            more = row.get(_MORE, {})
            value = row[self.schema.target] if self.schema.target is not None else None
            texts = tuple(row[name] for name in self.schema.texts)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a text is expected")
            return Example(
                texts,
                value if value is None or isinstance(value, list) else [value],
                bool(more.get("list", False)),
                more.get("group"),
                place,
                tuple((int(start), int(end)) for start, end in more.get("spans", ())),
                tuple(more.get("words", ())),
                more.get("before", ""),
                more.get("after", ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{place}: this row, kept for updates, is damaged ({type(error).__name__}: {error}). Restore the file from a copy, or "
                "delete it: an update then goes on without it."
            ) from None

    def examples(self) -> list[Example]:
        """Return all rows. Raises `DataError` for one that is damaged."""
        return [row[_EXAMPLE] for row, _ in self]

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the last change of the file."""
        return file_stamp(self.path, self.name)

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of the file's bytes."""
        return file_fingerprint(self.path, self.name, ("kept", self.columns), progress)


class ReadSource:
    """A `RowSource` of examples: those of a source, as `change` makes them, and others behind them.

    change: from an example and its number in the source; how: words that differ when it makes other examples; others: in memory
    """

    def __init__(
        self, name: str, source: RowSource, schema: Schema, change: Callable[[Example, int], Example], how: str, others: list[Example]
    ) -> None:
        self.name, self.columns, self._how = name, source.columns, how
        self._source, self._schema, self._change, self._others = source, schema, change, others

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        for number, example in enumerate(self._schema.examples(self._source)):
            yield {_EXAMPLE: self._change(example, number)}, example.source
        for example in self._others:
            yield {_EXAMPLE: example}, example.source

    def stamp(self) -> tuple[int, int] | None:
        """Return the stamp of the source."""
        return self._source.stamp()

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of the source and of the others."""
        digest = hashlib.blake2b(f"read {self._how} {self._schema} {self._source.fingerprint(progress)}".encode(), digest_size=32)
        for example in self._others:
            digest.update(repr(replace(example, source=Source("", 0))).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
