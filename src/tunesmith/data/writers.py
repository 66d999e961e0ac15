"""Rows into CSV, TSV, JSONL, CoNLL or Parquet, streaming, and to a path all or nothing."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tunesmith.data.conll_writer import ConllSink
from tunesmith.data.values import plain
from tunesmith.errors import DataError, StorageError, UsageError, did_you_mean
from tunesmith.storage import new_file, writing

if TYPE_CHECKING:
    import pyarrow as pa

WRITTEN = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".conll": "conll"}
_FORMATS = tuple(dict.fromkeys(WRITTEN.values()))
_PARQUET_ROWS = 10_000


def open_writer(
    target: Path | str | TextIO,
    columns: Sequence[str],
    file_format: str | None = None,
    *,
    other_keys: bool = False,
    dialect: tuple[str, bool] = (",", False),
) -> RowWriter:
    """Return a context manager whose `write(row)` adds a row to `target`.

    To a path the rows go into a temporary file beside it, which takes the place of `target` when the block ends well;
    when it does not, a former file stays as it was. To a text stream each row goes out at once, and the stream is left
    open; a closed pipe raises BrokenPipeError. `file_format` (csv, tsv, jsonl, parquet, conll) None means what the extension
    says, and CSV for a stream. `other_keys`: JSON lines keep keys of a row that are no columns, too.
    `dialect`: what separates the cells of CSV, and whether a file of it begins with a byte order mark.
    Raises UsageError for another extension or format, StorageError for what cannot be written.
    """
    if isinstance(target, str | os.PathLike):
        path = Path(target)
        if file_format is None:
            file_format = WRITTEN.get(path.suffix.lower())
            if file_format is None:
                found = f"extension {path.suffix!r}" if path.suffix else "a name without extension"
                raise UsageError(
                    f"cannot write {path}: {found} says no format. Allowed are {', '.join(WRITTEN)}.{did_you_mean(path.suffix, WRITTEN)}"
                )
        _check(file_format)
        return RowWriter(path, columns, file_format, other_keys, dialect)
    file_format = "csv" if file_format is None else file_format
    if file_format == "parquet":
        raise UsageError("Parquet cannot be written to standard output: name a file, or take csv, tsv or jsonl.")
    _check(file_format)
    return RowWriter(target, columns, file_format, other_keys, dialect)


def _check(file_format: str) -> None:
    if file_format not in _FORMATS:
        raise UsageError(f"cannot write format {file_format!r}. Allowed are {', '.join(_FORMATS)}.{did_you_mean(file_format, _FORMATS)}")


class _Sink(Protocol):
    def write(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class RowWriter:
    """What `open_writer` returns; `rows` counts what was written."""

    def __init__(
        self,
        target: Path | TextIO,
        columns: Sequence[str],
        file_format: str,
        other_keys: bool = False,
        dialect: tuple[str, bool] = (",", False),
    ) -> None:
        self.target, self.columns, self.file_format, self.other_keys = target, tuple(columns), file_format, other_keys
        self.delimiter, self.marked = ("\t", False) if file_format == "tsv" else dialect
        self.rows = 0
        self._stack = contextlib.ExitStack()
        self._sink: _Sink

    def __enter__(self) -> RowWriter:
        if not isinstance(self.target, Path):
            self._sink = self._text_sink(self.target, flush=True)
            return self
        path = self.target
        if path.is_dir():
            raise StorageError(f"cannot write {path}: it is a directory. Name a file in it.")
        if path.exists() and not path.is_file():
            destination = path  # a device or pipe must be written to, not be replaced by a file
        else:
            # behind a link: the file it leads to is replaced, not the link
            destination = self._stack.enter_context(new_file(Path(os.path.realpath(path))))
        try:
            with writing(path):
                if self.file_format == "parquet":
                    self._sink = _ParquetSink(destination, self.columns, str(path))
                else:
                    marked = self.marked and self.file_format == "csv"
                    file = open(destination, "w", encoding="utf-8-sig" if marked else "utf-8", errors="replace", newline="")
                    self._stack.callback(file.close)
                    self._sink = self._text_sink(file, flush=False)
        except BaseException:
            self._discard()
            raise
        return self

    def _text_sink(self, file: TextIO, *, flush: bool) -> _Sink:
        if self.file_format == "jsonl":
            return _JsonSink(file, self.columns, flush, self.other_keys)
        if self.file_format == "conll":
            return ConllSink(file, self.columns, flush)
        return _CsvSink(file, self.columns, self.delimiter, flush)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add `row`; a column it lacks is written as missing, and keys that are no columns are left out, unless `other_keys`."""
        if isinstance(self.target, Path):
            with writing(self.target):
                self._sink.write(row)
        else:
            self._sink.write(row)
        self.rows += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self._discard()
            return
        try:
            if isinstance(self.target, Path):
                with writing(self.target):
                    self._sink.close()
            else:
                self._sink.close()
        except BaseException:
            self._discard()
            raise
        self._stack.close()

    def _discard(self) -> None:
        # not the error itself: storage would take any OSError of the block, whatever file it concerns, for one of this file
        abandoned = _Abandoned()
        with contextlib.suppress(_Abandoned, OSError, StorageError):
            if hasattr(self, "_sink") and isinstance(self._sink, _ParquetSink):
                self._sink.abandon()
        with contextlib.suppress(_Abandoned, OSError, StorageError):
            self._stack.__exit__(_Abandoned, abandoned, None)


class _Abandoned(Exception):
    """Tells storage to forget a file."""


def to_json(value: Any) -> str:
    """Return `value` as JSON text on one line; NaN is null, and what JSON has no form for is its str."""
    return json.dumps(plain(value), ensure_ascii=False, default=str)


class _UnixLines:
    """Takes whole CSV lines that end in CRLF and writes them ending in LF.

    Asked for LF itself, the csv module of older Pythons leaves a lone CR in a cell unquoted.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(line[:-2] + "\n")


class _CsvSink:
    def __init__(self, file: TextIO, columns: tuple[str, ...], delimiter: str, flush: bool) -> None:
        self.file, self.columns, self.flush = file, columns, flush
        self.writer = csv.writer(_UnixLines(file), delimiter=delimiter, lineterminator="\r\n")
        # who reads it again finds the separator by what stands outside quotes
        ambiguous = any(mark in column for column in columns for mark in ",;\t|")
        header = csv.writer(_UnixLines(file), delimiter=delimiter, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
        (header if ambiguous else self.writer).writerow(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        cells = [plain(row.get(column)) for column in self.columns]
        self.writer.writerow([to_json(cell) if isinstance(cell, dict | list) else cell for cell in cells])
        if self.flush:
            self.file.flush()

    def close(self) -> None:
        self.file.flush()


class _JsonSink:
    def __init__(self, file: TextIO, columns: tuple[str, ...], flush: bool, other_keys: bool) -> None:
        self.file, self.columns, self.flush, self.other_keys = file, columns, flush, other_keys

    def write(self, row: Mapping[str, Any]) -> None:
        others = row if self.other_keys else {}
        self.file.write(to_json({**{column: row.get(column) for column in self.columns}, **others}) + "\n")
        if self.flush:
            self.file.flush()

    def close(self) -> None:
        self.file.flush()


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Return False where Arrow would lose something without a word: a fraction cut off, True made 1, a key dropped."""
    import pyarrow as pa

    if value is None:
        return True
    if pa.types.is_integer(kind):
        return type(value) is int
    if pa.types.is_list(kind) and isinstance(value, list):
        return all(_fits(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind) and isinstance(value, dict):
        fields = {field.name: field.type for field in kind}
        return value.keys() <= fields.keys() and all(_fits(item, fields[key]) for key, item in value.items())
    return True


class _ParquetSink:
    """Writes row groups of _PARQUET_ROWS rows; the first one decides the types."""

    def __init__(self, path: Path, columns: tuple[str, ...], name: str) -> None:
        self.path, self.columns, self.name = path, columns, name
        self.pending: dict[str, list[Any]] = {column: [] for column in columns}
        self.count = 0
        self.done = 0
        self.schema: pa.Schema | None = None
        self.file: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        for column, values in self.pending.items():
            values.append(plain(row.get(column)))
        self.count += 1
        if self.count == _PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self.schema
        if schema is None:
            schema = self.schema = pa.schema([(column, self._kind(column, values)) for column, values in self.pending.items()])
            self.file = pq.ParquetWriter(self.path, schema)
        arrays = [self._array(schema.field(column), values) for column, values in self.pending.items()]
        self.file.write_batch(pa.record_batch(arrays, schema=schema))
        self.done += self.count
        self.count = 0
        for values in self.pending.values():
            values.clear()

    def _kind(self, column: str, values: list[Any]) -> pa.DataType:
        import pyarrow as pa

        present = [value for value in values if value is not None]
        if not present:
            return pa.string()
        if all(isinstance(value, dict) for value in present):
            numbers = (item for value in present for item in value.values())
            if all(item is None or type(item) in (int, float) for item in numbers):
                return pa.map_(pa.string(), pa.float64())
            return pa.string()  # as JSON text: rows may have different keys
        try:
            kind = pa.infer_type(present)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            if {type(value) for value in present} <= {int, float}:
                return pa.float64()
            raise self._conflict(column, error) from None
        return pa.list_(pa.string()) if kind == pa.list_(pa.null()) else kind

    def _array(self, field: pa.Field, values: list[Any]) -> pa.Array:
        import pyarrow as pa

        if pa.types.is_map(field.type):
            values = [list(value.items()) if isinstance(value, dict) else value for value in values]
        elif pa.types.is_string(field.type):
            values = [to_json(value) if isinstance(value, dict) else value for value in values]
        elif not all(_fits(value, field.type) for value in values):
            raise self._conflict(field.name, f"not all are {field.type}, as those before")
        try:
            return pa.array(values, field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise self._conflict(field.name, error) from None

    def _conflict(self, column: str, why: object) -> DataError:
        return DataError(
            f"{self.name}: column {column!r} holds values of different types in rows {self.done + 1:,} to {self.done + self.count:,} "
            f"or before ({why}), and a Parquet column has one type. Write JSONL instead (.jsonl)."
        )

    def close(self) -> None:
        if self.count or self.schema is None:
            self._flush()
        self.file.close()

    def abandon(self) -> None:
        if self.file is not None:
            self.file.close()
