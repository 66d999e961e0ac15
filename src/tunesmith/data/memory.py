"""Tables that are in memory already: lists, dicts, numpy, pandas, Arrow, datasets, polars; and `open_data` for anything.

A library is imported only when the object at hand is its own. Nothing is copied as a whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tunesmith.data.columnar import BATCH_ROWS, batch_rows
from tunesmith.data.delimited import check_columns
from tunesmith.data.readers import open_file
from tunesmith.data.schema import Row, RowSource, Source
from tunesmith.data.values import plain
from tunesmith.errors import DataError, UsageError, counted, listing
from tunesmith.progress import QUIET, Progress

SUPPORTED = (
    "a path, a list of str, a list of pairs of str, a list of dicts, a dict of columns, a numpy array, a pandas Series or DataFrame, "
    "an Arrow Table, RecordBatch or Array, a datasets.Dataset, a polars DataFrame or Series"
)


def open_data(data: Any, *, labels: Any = None, encoding: str | None = None, file_format: str | None = None) -> RowSource:
    """Return the rows of `data`: a str or Path names a file (see `open_file`), all else is taken as a table (see `from_memory`).

    Rows that are open already are returned as they are.

    Raises DataError for data that cannot be used and UsageError for arguments that do not go together.
    """
    if isinstance(data, str | os.PathLike):
        if labels is not None:
            raise UsageError("labels go with texts in memory. A file holds its labels in a column: name the column instead.")
        return open_file(Path(data), encoding=encoding, file_format=file_format)
    if hasattr(data, "fingerprint") and hasattr(data, "columns") and type(data).__module__.startswith("tunesmith."):
        return data
    return from_memory(data, labels)


def from_memory(data: Any, labels: Any = None) -> RowSource:
    """Return the rows of a table in memory; a row's line is its number, counted from 1.

    Texts without a column name get the name `text`. `labels`, one per row, become the column `label`; an item may be a
    list (several labels, tags). None, NaN, NaT and NA become None; numpy scalars become Python scalars; the numbers of
    a ClassLabel feature become its names. Raises DataError for a type that is not supported, for columns of different
    length and for items that do not fit, here or while iterating.
    """
    table = _table(data)
    if labels is None:
        return table
    if "label" in table.columns:
        raise DataError(f"{table.name}: it has a column 'label' already. Leave labels= out, or drop that column.")
    count = _length(labels)
    if count is None or isinstance(labels, str | bytes | Mapping):
        raise DataError(f"labels must be a sequence with one item per row; found {_kind(labels)}. Pass list(labels).")
    if table.length is not None and count != table.length:
        raise DataError(f"{table.name}: found {counted(table.length, 'row')} but {counted(count, 'label')}. Pass one label for each row.")
    return _labelled(table, labels, count)


class MemorySource:
    """A `RowSource` over something in memory; `rows` starts a new pass, `length` is None where it is not known."""

    def __init__(self, name: str, columns: Sequence[str], length: int | None, rows: Callable[[], Iterator[Row]]) -> None:
        check_columns(columns, name)
        self.name, self.columns, self.length, self._rows = name, tuple(columns), length, rows

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        for number, row in enumerate(self._rows(), 1):
            yield row, Source(self.name, number)

    def stamp(self) -> None:
        """Return None: it is no file."""

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of column names and rows, the same for every container of the same content."""
        digest = hashlib.blake2b(digest_size=32)
        digest.update(json.dumps(self.columns).encode())
        with progress.track(f"checking {self.name}", self.length, "rows") as tracker:
            for row, _ in self:
                try:
                    text = json.dumps(row, default=repr)
                except (TypeError, ValueError):  # keys that JSON has no form for
                    text = repr(row)
                digest.update(text.encode() + b"\n")
                tracker.advance()
        return digest.hexdigest()


def _table(data: Any) -> MemorySource:
    package = type(data).__module__.split(".")[0]
    name = f"<{type(data).__name__}>"
    if package == "datasets":
        return _from_datasets(data, name)
    if package == "pandas":
        return _from_pandas(data, name)
    if package == "numpy" and hasattr(data, "ndim"):
        return _from_numpy(data, name)
    if package == "pyarrow":
        return _from_arrow(data, name)
    if isinstance(data, Mapping):
        return _from_columns(data, name)
    if isinstance(data, list | tuple):
        return _from_list(data, name)
    if hasattr(data, "__arrow_c_stream__"):
        return _from_capsule(data, name)
    raise _unsupported(data)


def _unsupported(data: Any, advice: str = "") -> DataError:
    if not advice and isinstance(data, Iterator):
        advice = " It can be gone through only once, and training does so many times: pass list(...) of it."
    elif not advice and isinstance(data, bytes | bytearray):
        advice = " Pass data.decode(), the text."
    elif not advice and isinstance(data, Iterable):
        advice = " Pass list(...) of it."
    return DataError(f"data cannot be {_kind(data)}.{advice} Supported are {SUPPORTED}.")


def _kind(value: Any) -> str:
    kind = type(value)
    return f"a {kind.__name__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__name__}"


def _length(values: Any) -> int | None:
    try:
        return len(values)
    except TypeError:
        return None


def _labelled(table: MemorySource, labels: Any, count: int) -> MemorySource:
    def rows() -> Iterator[Row]:
        end = object()
        for number, (row, label) in enumerate(itertools.zip_longest(table, _values(labels), fillvalue=end)):
            if row is end or label is end:  # a table without a length may differ only now
                what = "at least one row more" if label is end else f"only {counted(number, 'row')}"
                raise DataError(f"{table.name}: found {counted(count, 'label')} but {what}. Pass one label for each row.")
            yield {**cast(tuple[Row, Source], row)[0], "label": label}

    return MemorySource(table.name, (*table.columns, "label"), table.length, rows)


def _values(column: Any) -> Iterator[Any]:
    """Yield the values of any sequence as plain Python ones, converting a part at a time."""
    if hasattr(column, "to_pylist"):  # Arrow: its scalars are slow one by one
        for start in range(0, len(column), BATCH_ROWS):
            yield from map(plain, column.slice(start, BATCH_ROWS).to_pylist())
    else:
        yield from map(plain, column)


def _texts(data: Any, name: str) -> MemorySource:
    """One text per row, in the column `text`."""

    def rows() -> Iterator[Row]:
        for number, value in enumerate(_values(data), 1):
            if value is not None and not isinstance(value, str):
                advice = " Decode it first: text.decode('utf-8')." if isinstance(value, bytes) else " Convert it with str(...)."
                raise DataError(f"{name}:{number}: found {_kind(value)} ({value!r:.40}) where a text is needed.{advice}")
            yield {"text": value}

    return MemorySource(name, ("text",), _length(data), rows)


def is_pair(value: Any) -> bool:
    """Whether `value` is two texts in a tuple or list."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _pairs(data: Sequence[Any], name: str) -> MemorySource:
    """Two texts per row, in the columns `text` and `text_pair`."""

    def rows() -> Iterator[Row]:
        for number, value in enumerate(data, 1):
            if not is_pair(value):
                raise DataError(f"{name}:{number}: found {value!r:.40} where a pair of texts is needed, as in the first row.")
            yield {"text": value[0], "text_pair": value[1]}

    return MemorySource(name, ("text", "text_pair"), len(data), rows)


def _from_list(data: Sequence[Any], name: str) -> MemorySource:
    if not data:
        raise DataError(f"{name}: it is empty. Pass at least one row.")
    first = next((item for item in data if plain(item) is not None), None)
    if first is None or isinstance(first, str):
        return _texts(data, name)
    if is_pair(first):
        return _pairs(data, name)
    if not isinstance(first, Mapping):
        advice = (
            " For labels pass labels=, for pairs (first, second), for words {'tokens': [...]}." if isinstance(first, list | tuple) else ""
        )
        raise DataError(f"{name}:1: a list must hold texts or dicts; found {_kind(first)}.{advice}")
    columns = tuple(first)

    def rows() -> Iterator[Row]:
        blank = dict.fromkeys(columns)
        for number, row in enumerate(data, 1):
            if not isinstance(row, Mapping):
                raise DataError(f"{name}:{number}: found {_kind(row)} where a dict with {listing(columns)} is needed.")
            yield {**blank, **plain(row)}

    return MemorySource(name, columns, len(data), rows)


def _from_columns(data: Mapping[Any, Any], name: str) -> MemorySource:
    if not data:
        raise DataError(f"{name}: it is empty. Pass at least one column.")
    lengths = {}
    for column, values in data.items():
        count = None if isinstance(values, str | bytes | Mapping) else _length(values)
        if count is None:
            raise DataError(
                f"{name}: column {column!r} is {_kind(values)}, where a list of values is needed. A single row is passed as [row]."
            )
        lengths[column] = count
    if len(set(lengths.values())) > 1:
        found = listing(f"{column} has {count:,}" for column, count in lengths.items())
        raise DataError(f"{name}: columns must be of the same length; {found}.")
    columns = tuple(data)

    def rows() -> Iterator[Row]:
        for cells in zip(*(_values(data[column]) for column in columns), strict=True):
            yield dict(zip(columns, cells, strict=True))

    return MemorySource(name, columns, next(iter(lengths.values())), rows)


def _from_numpy(data: Any, name: str) -> MemorySource:
    if data.ndim == 2 and data.shape[1] == 1:
        data = data[:, 0]
    if data.ndim != 1 or data.dtype.names:
        raise DataError(
            f"{name}: found an array of shape {data.shape} and type {data.dtype}; texts come as shape (n,) or (n, 1). "
            "For several columns pass a dict of columns."
        )
    if data.dtype.kind not in "OUTS":
        raise DataError(f"{name}: found an array of {data.dtype}, where texts are needed. Pass an array of str.")
    if data.dtype.kind == "O" and len(data) and isinstance(data[0], Mapping):
        return _from_list(data.tolist(), name)
    return _texts(data, name)


def _from_pandas(data: Any, name: str) -> MemorySource:
    if type(data).__name__ == "DataFrame" or (hasattr(data, "iloc") and data.ndim == 2):
        frame = data

        def rows() -> Iterator[Row]:
            columns = tuple(frame.columns)
            for start in range(0, len(frame), BATCH_ROWS):
                part = frame.iloc[start : start + BATCH_ROWS]
                cells = [map(plain, part.iloc[:, index].tolist()) for index in range(len(columns))]
                for row in zip(*cells, strict=True):
                    yield dict(zip(columns, row, strict=True))

        return MemorySource(name, list(frame.columns), len(frame), rows)
    if getattr(data, "ndim", None) == 1:
        return _texts(data, name)
    raise _unsupported(data)


def _from_arrow(data: Any, name: str) -> MemorySource:
    if hasattr(data, "column_names") or (hasattr(data, "schema") and hasattr(data, "num_rows")):
        return MemorySource(name, data.schema.names, data.num_rows, lambda: batch_rows(data))
    if hasattr(data, "to_pylist"):
        return _texts(data, name)
    raise _unsupported(data, " Read it into a table first: .read_all().")


def _from_datasets(data: Any, name: str) -> MemorySource:
    if isinstance(data, Mapping):
        raise DataError(
            f"data cannot be {_kind(data)}, which holds several splits. Pass one of them: data[...] with {listing(map(repr, data))}."
        )
    if type(data).__name__ == "Column":
        return _texts(data, name)
    if not hasattr(data, "with_format") or _length(data) is None or data.column_names is None:
        raise _unsupported(data, " It streams: load it with streaming=False.")
    named = {column: _class_names(feature) for column, feature in data.features.items()}
    columns = tuple(data.column_names)

    def rows() -> Iterator[Row]:
        for part in data.with_format(None).iter(batch_size=BATCH_ROWS):
            cells = []
            for column in columns:
                names = named[column]
                values = map(plain, part[column])
                cells.append(values if names is None else [_name_of(value, names) for value in values])
            for row in zip(*cells, strict=True):
                yield dict(zip(columns, row, strict=True))

    return MemorySource(name, columns, len(data), rows)


def _class_names(feature: Any) -> list[str] | None:
    """Return the names of a ClassLabel feature, or of a list of such."""
    names = getattr(feature, "names", None)
    if names is None and getattr(feature, "feature", None) is not None:
        return _class_names(feature.feature)
    return names


def _name_of(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name_of(item, names) for item in value]
    # -1 is how datasets writes that there is no label
    return names[value] if value is not None and value >= 0 else None


def _from_capsule(data: Any, name: str) -> MemorySource:
    """Any table or column that offers the Arrow PyCapsule interface, polars among them."""
    import pyarrow as pa

    if not hasattr(data, "columns"):
        return _texts(pa.chunked_array(data), name)
    reader = pa.RecordBatchReader.from_stream(data)

    def rows() -> Iterator[Row]:
        for batch in pa.RecordBatchReader.from_stream(data):
            yield from batch_rows(batch)

    return MemorySource(name, reader.schema.names, _length(data), rows)
