"""Files and standard input as rows: CSV, TSV, JSONL, plain text, CoNLL, CoNLL-U (each also gzip-packed), Parquet and Arrow.

All of them stream: no more than a batch of rows is in memory at any time.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, cast

from tunesmith.data.beir import collection_of, open_beir
from tunesmith.data.columnar import BatchSource
from tunesmith.data.conll import parse_conll, parse_conllu
from tunesmith.data.decoding import check_encoding, lines_of_text, text_lines
from tunesmith.data.delimited import MAX_CELL_CHARS, STDIN, Parser, csv_parser, find_delimiter, parse_jsonl, parse_txt
from tunesmith.data.files import (
    BINARY_FORMATS,
    TEXT_FORMATS,
    check_format,
    check_readable,
    file_fingerprint,
    file_stamp,
    format_of,
    open_bytes,
    reading,
)
from tunesmith.data.schema import Row, RowSource, Source
from tunesmith.data.squad import parse_json
from tunesmith.errors import DataError, UsageError
from tunesmith.progress import QUIET, Progress

__all__ = ["MAX_CELL_CHARS", "StreamSource", "TextSource", "open_file", "open_stdin"]

_PARSERS: dict[str, Parser] = {
    "csv": csv_parser(None),
    "tsv": csv_parser("\t"),
    "jsonl": parse_jsonl,
    "json": parse_json,
    "txt": parse_txt,
    "conll": parse_conll,
    "conllu": parse_conllu,
}


def open_file(
    path: Path | str, *, encoding: str | None = None, file_format: str | None = None, source_name: str | None = None
) -> RowSource:
    """Return the rows of a file, or of a retrieval collection in a directory, which every iteration reads anew.

    `encoding` is a Python codec name; None means what a byte order mark says, else UTF-8 (Parquet and Arrow do without).
    `file_format` (csv, tsv, jsonl, txt, conll, conllu, parquet, arrow) overrides the extension; `source_name` stands in messages in place
    of the path. Raises DataError for a file that cannot be used, here or while iterating, and UsageError for an unknown
    encoding or format.
    """
    path = Path(path)
    name = str(path) if source_name is None else source_name
    if encoding is not None:
        encoding = check_encoding(encoding)
    if file_format is not None:
        check_format(file_format)
    elif collection_of(path) is not None:
        return open_beir(path, name)
    check_readable(path, name)
    file_format = format_of(path, name) if file_format is None else file_format
    if file_format in BINARY_FORMATS:
        return BatchSource(path, name, file_format)
    return TextSource(path, name, file_format, encoding)


class TextSource:
    """A `RowSource` over a text file; `source.line` is the line on which a row begins."""

    def __init__(self, path: Path, name: str, file_format: str, encoding: str | None) -> None:
        self.path, self.name, self.file_format, self.encoding = path, name, file_format, encoding
        with contextlib.closing(self._lines()) as lines:
            self.columns = _PARSERS[file_format](lines, name)[0]

    def _lines(self) -> Generator[str, None, None]:
        with reading(self.path, self.name), open_bytes(self.path) as file:
            yield from text_lines(file, self.name, self.encoding)

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        with contextlib.closing(self._lines()) as lines:
            columns, rows = _PARSERS[self.file_format](lines, self.name)
            if columns != self.columns:
                raise DataError(f"{self.name}: the file changed while it was in use: its columns are others now. Start again.")
            yield from rows

    def dialect(self) -> tuple[str, bool]:
        """Return what separates the cells of a CSV file, and whether it begins with a byte order mark, by which Excel knows Unicode."""
        with contextlib.closing(self._lines()) as lines:
            header = next((line for line in lines if not line.isspace()), "")
        with reading(self.path, self.name), open_bytes(self.path) as file:
            begin = file.readline(3)
        return find_delimiter(header), begin.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the last change of the file."""
        return file_stamp(self.path, self.name)

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of the file's bytes and of how they are read."""
        return file_fingerprint(self.path, self.name, (self.file_format, self.encoding), progress)


def open_stdin(stream: IO[bytes] | IO[str], file_format: str | None = None, *, encoding: str | None = None) -> StreamSource:
    """Return the rows of a stream such as sys.stdin; each comes out as soon as its last line came in.

    `file_format` is csv, tsv, jsonl, txt, conll or conllu; None takes the stream for JSONL when its first character that is no space is
    `{`, else for CSV. Waits for the first line, which names the columns. Bytes are decoded as `open_file` does. The rows
    can be read once: a second iteration, and `fingerprint()`, raise DataError.
    """
    if file_format in BINARY_FORMATS:
        raise UsageError(f"{file_format} cannot be read from standard input: it needs a file. Allowed are {', '.join(TEXT_FORMATS)}.")
    if file_format is not None:
        check_format(file_format, TEXT_FORMATS)
    return StreamSource(stream, file_format, None if encoding is None else check_encoding(encoding))


class StreamSource:
    """A `RowSource` that can be read once."""

    def __init__(self, stream: IO[bytes] | IO[str], file_format: str | None, encoding: str | None) -> None:
        self.name = STDIN
        # the bytes below a text stream: decoded here, they give places for wrong ones
        binary = getattr(stream, "buffer", None) if isinstance(stream, io.TextIOBase) else stream
        if binary is None:
            lines = lines_of_text(cast(IO[str], stream), self.name)
        else:
            lines = text_lines(cast(IO[bytes], binary), self.name, encoding)
        if file_format is None:
            head = []
            for line in lines:
                head.append(line)
                if not line.isspace():
                    break
            file_format = "jsonl" if head and head[-1].lstrip().startswith("{") else "csv"
            lines = itertools.chain(head, lines)
        self.file_format = file_format
        self.columns, self._rows = _PARSERS[file_format](lines, self.name)
        self._used = False

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        if self._used:
            raise DataError(f"{self.name}: standard input can be read only once. Save it to a file and name that.")
        self._used = True
        return iter(self._rows)

    def stamp(self) -> None:
        """Return None: it is no file."""

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Raise DataError: what is still to come has no hash."""
        raise DataError(f"{self.name}: standard input can be read only once, and this needs to read it again. Save it to a file first.")
