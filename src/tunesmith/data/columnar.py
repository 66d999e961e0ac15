"""The columnar formats, Parquet and Arrow, read one record batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.data.delimited import check_columns
from tunesmith.data.files import file_fingerprint, file_stamp
from tunesmith.data.schema import Row, Source
from tunesmith.data.values import plain
from tunesmith.errors import DataError
from tunesmith.progress import QUIET, Progress

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024


def batch_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a record batch or table as dicts of plain Python values, converting BATCH_ROWS rows at a time."""
    import pyarrow as pa

    names = batch.schema.names
    # to_pylist gives exact Python values of these; the others may hold NaN, nested or not
    simple = [pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind) for kind in batch.schema.types]
    for start in range(0, batch.num_rows, BATCH_ROWS):
        part = batch.slice(start, BATCH_ROWS)
        columns = []
        for column, easy in zip(part.columns, simple, strict=True):
            values = column.to_pylist()
            if pa.types.is_map(column.type):  # given as lists of pairs
                values = [None if value is None else dict(value) for value in values]
            columns.append(values if easy else [plain(value) for value in values])
        for cells in zip(*columns, strict=True):
            yield dict(zip(names, cells, strict=True))


def parquet_batches(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    """Yield an empty batch with the schema, then the record batches of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _damage(name, "Parquet"), pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        yield pa.RecordBatch.from_pylist([], schema=file.schema_arrow)
        yield from file.iter_batches(batch_size=BATCH_ROWS)


def arrow_batches(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    """Yield an empty batch with the schema, then the record batches of an Arrow file (Feather version 2) or stream."""
    import pyarrow as pa

    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"FEA1"):
        raise DataError(f"{name}: Feather version 1 is not supported. Write the table again with a newer library, or as Parquet.")
    with _damage(name, "Arrow"), pa.memory_map(str(path)) as mapped:
        if magic == b"ARROW1":
            file = pa.ipc.open_file(mapped)
            yield pa.RecordBatch.from_pylist([], schema=file.schema)
            for index in range(file.num_record_batches):
                yield file.get_batch(index)
        else:
            stream = pa.ipc.open_stream(mapped)
            yield pa.RecordBatch.from_pylist([], schema=stream.schema)
            yield from stream


@contextlib.contextmanager
def _damage(name: str, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise DataError(
            f"{name}: this is no readable {kind} file ({reason}). It is damaged, cut short, or of another format: "
            "write or download it again."
        ) from error


class BatchSource:
    """A `RowSource` over a Parquet or Arrow file; a row's line is its number, counted from 1."""

    def __init__(self, path: Path, name: str, file_format: str) -> None:
        self.path, self.name, self.file_format = path, name, file_format
        batches = self._batches()
        self.columns: tuple[str, ...] = tuple(next(batches).schema.names)
        batches.close()
        check_columns(self.columns, name)

    def _batches(self) -> Any:
        read = parquet_batches if self.file_format == "parquet" else arrow_batches
        return read(self.path, self.name)

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        number = 0
        for batch in self._batches():
            for row in batch_rows(batch):
                number += 1
                yield row, Source(self.name, number)

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the last change of the file."""
        return file_stamp(self.path, self.name)

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of the file's bytes and of how they are read."""
        return file_fingerprint(self.path, self.name, (self.file_format,), progress)
