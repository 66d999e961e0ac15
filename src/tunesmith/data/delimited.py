"""The text formats: lines in, column names and rows out. Every parser streams and places its faults by line."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from tunesmith.data.decoding import count_line_ends
from tunesmith.data.schema import Row, Source
from tunesmith.data.values import plain
from tunesmith.errors import DataError, listing

MAX_CELL_CHARS = 4_194_304
STDIN = "<stdin>"
"""The name of standard input, which has no extension that could say its format."""
_TOO_LARGE = "field larger than field limit"  # how the csv module says it

Parsed = tuple[tuple[str, ...], Iterator[tuple[Row, Source]]]
Parser = Callable[[Iterator[str], str], Parsed]

_DELIMITERS = ",;\t|"
_SHOWN = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_QUOTED = re.compile(r'"(?:[^"]|"")*+"(?!")')
_QUOTED_OR_OPEN = re.compile(r'"(?:[^"]|"")*"?')


def _as_format(file_format: str, name: str) -> str:
    """Return how to have `name` read in another format."""
    return f"pass --format {file_format}" if name == STDIN else f"give it the extension .{file_format}"


def check_columns(columns: Sequence[str], place: str) -> None:
    """Raise DataError when there is no column, a column without name, or two of the same name."""
    if not columns:
        raise DataError(f"{place}: there are no columns. A table needs at least one, named.")
    for number, column in enumerate(columns, 1):
        if not isinstance(column, str):
            raise DataError(f"{place}: column {number} is named {column!r}, which is not text. Rename it.")
        if not column.strip():
            raise DataError(f"{place}: column {number} of {len(columns)} has no name; found {_header(columns)}. Name it or remove it.")
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(
            f"{place}: more than one column is named {listing(map(repr, twice))}; found {_header(columns)}. Names must differ: rename one."
        )


def _header(columns: Sequence[str]) -> str:
    return listing([repr(column) if column != column.strip() or not column else column for column in columns])


def csv_parser(delimiter: str | None) -> Parser:
    """Return a parser of CSV; `delimiter` None finds it in the header line among comma, semicolon, tab, vertical bar."""

    def parse(lines: Iterator[str], name: str) -> Parsed:
        return _parse_csv(lines, name, delimiter)

    return parse


def _parse_csv(lines: Iterator[str], name: str, delimiter: str | None) -> Parsed:
    blank = 0
    for first in lines:
        if not first.isspace():
            break
        blank += 1
    else:
        raise DataError(f"{name}: the file is empty. It must begin with a line of column names, such as text,label.")
    if delimiter is None:
        delimiter = find_delimiter(first)
    table = _CsvRows(itertools.chain([first], lines), name, blank, delimiter)
    names, source = table.header()
    columns = tuple(column.strip() for column in names)
    if len(columns) > 1 and not columns[0] and "column_1" not in columns:
        columns = ("column_1", *columns[1:])  # the index that pandas writes unless told otherwise
    if columns == ("sep=", "") or (len(columns) == 1 and columns[0].startswith("sep=")):
        raise DataError(f"{source}: the first line is {first.strip()!r}, which only Excel reads. Remove it: column names come first.")
    named = len(columns)
    while named > 1 and not columns[named - 1]:
        named -= 1  # separators that a spreadsheet writes behind the last column
    check_columns(columns[:named], str(source))
    return columns[:named], table.rows(columns[:named], len(columns))


def find_delimiter(header: str) -> str:
    """Return what separates the cells of a header line: comma, semicolon, tab or vertical bar, whichever it has most of."""
    bare = _QUOTED_OR_OPEN.sub("", header)
    return max(_DELIMITERS, key=bare.count)  # the first of equals, so a single column is read as comma-separated


class _CsvRows:
    """The csv module's reader, together with the lines of the row at hand, which say where a quote was opened."""

    def __init__(self, lines: Iterator[str], name: str, before: int, delimiter: str) -> None:
        self.name, self.before, self.delimiter = name, before, delimiter
        self.row_lines: list[str] = []
        self.row_chars = 0
        self.check_at = MAX_CELL_CHARS
        self.reader = csv.reader(self._recorded(lines), delimiter=delimiter, strict=True)

    def _recorded(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self.row_lines.append(line)
            self.row_chars += len(line)
            if self.row_chars > self.check_at:
                self.check_at = 2 * self.row_chars
                text = "".join(self.row_lines)
                opened = self._open_quote(text)
                if opened is not None and len(text) - opened > MAX_CELL_CHARS:
                    raise csv.Error(_TOO_LARGE)
            yield line

    def _next(self) -> tuple[list[str] | None, int]:
        self.row_lines.clear()
        self.row_chars, self.check_at = 0, MAX_CELL_CHARS
        begin = self.before + self.reader.line_num + 1
        try:
            cells = next(self.reader, None)
            if self.row_chars > MAX_CELL_CHARS and any(len(cell) > MAX_CELL_CHARS for cell in cells or ()):
                raise csv.Error(_TOO_LARGE)
            return cells, begin
        except csv.Error as error:
            self._explain(error, begin)

    def header(self) -> tuple[list[str], Source]:
        # This limit belongs to the whole process: it is only ever raised, and other libraries may have raised it further, so
        # that ours is checked apart from it.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARS))
        cells, begin = self._next()
        assert cells is not None
        return cells, Source(self.name, begin)

    def rows(self, columns: tuple[str, ...], width: int) -> Iterator[tuple[Row, Source]]:
        """Yield the rows of a table of `width` columns, of which those behind `columns` have no name and must be empty."""
        named = len(columns)
        while True:
            cells, begin = self._next()
            if cells is None:
                return
            if len(cells) == width:
                for number, cell in enumerate(cells[named:], named + 1):
                    if cell.strip():
                        raise DataError(
                            f"{self.name}:{begin}: found {cell!r:.40} in column {number} of {width}, which has no name in the header. "
                            "Name the column, or remove it."
                        )
                yield dict(zip(columns, cells[:named], strict=True)), Source(self.name, begin)
            elif len(cells) == named and (named > 1 or cells[0].strip()):
                yield dict(zip(columns, cells, strict=True)), Source(self.name, begin)
            elif cells and not (len(cells) == 1 and not cells[0].strip()):
                self._ragged(cells, columns, begin)

    def _ragged(self, cells: list[str], columns: tuple[str, ...], begin: int) -> NoReturn:
        width = len(columns)
        shown = "tab" if self.delimiter == "\t" else f"'{self.delimiter}'"
        found = listing([repr(cell if len(cell) <= 30 else cell[:29] + "…") for cell in cells], 6)
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            extra = len(cells) - width
            advice = f"The line ends in {extra} {shown} too many: remove {'it' if extra == 1 else 'them'}."
        elif len(cells) > width:
            advice = f"A cell that holds a {shown} must stand in double quotes."
        else:
            advice = f"Add what is missing (an empty cell still needs its {shown}), or look for a stray quote or line break above it."
            others = [other for other in _DELIMITERS if other != self.delimiter and self.row_lines[0].count(other) == width - 1]
            if len(cells) == 1 and others:
                advice = f"This line seems to use {_SHOWN[others[0]]}, the header {_SHOWN[self.delimiter]}: use one of them throughout."
        # nothing told that standard input is CSV: its first line may be a text like the others, whatever commas are in it
        if width == 1 or self.name == STDIN:
            advice += f" If this is one text per line and no table, {_as_format('txt', self.name)}."
        raise DataError(
            f"{self.name}:{begin}: {len(cells)} cell{'s' * (len(cells) != 1)} where the header names {width} "
            f"({listing(columns)}); found {found}. {advice}"
        )

    def _explain(self, error: csv.Error, begin: int) -> NoReturn:
        text = "".join(self.row_lines)
        last = self.before + self.reader.line_num
        opened = self._open_quote(text)
        quote = begin + count_line_ends(text[:opened]) if opened is not None else begin
        what = str(error)
        extra = " Where quotes are ordinary characters of a cell, quote the cell and write each of them twice."
        if what.startswith(_TOO_LARGE):
            if opened is None:
                raise DataError(
                    f"{self.name}:{begin}: a cell of this row is longer than {MAX_CELL_CHARS:,} characters, the most allowed. "
                    "Shorten it or split it over several rows."
                ) from None
            raise DataError(
                f"{self.name}:{quote}: the cell that begins here is longer than {MAX_CELL_CHARS:,} characters, the most that is "
                f"allowed; it goes on past line {last:,}. Usually its double quote is never closed: close it, or remove it.{extra}"
            ) from None
        if "unexpected end" in what:
            raise DataError(
                f"{self.name}:{quote}: the double quote opened in this line is never closed; everything down to the end of the file "
                f"(line {last:,}) would be one cell. Close it, or remove it.{extra}"
            ) from None
        if "expected after" in what:
            raise DataError(
                f"{self.name}:{last}: a quoted cell goes on behind its closing double quote. Inside a quoted cell every double quote "
                'is written twice: "she said ""yes"" twice".'
            ) from None
        raise DataError(f"{self.name}:{last}: this is not CSV ({what}). Check the quotes of this line.") from None

    def _open_quote(self, text: str) -> int | None:
        """Return the position of the quote in the text of a broken row that has no closing one."""
        stop = re.compile(rf"[{re.escape(self.delimiter)}\r\n]")
        place = 0
        while place < len(text):
            if text[place] == '"':
                closed = _QUOTED.match(text, place)
                if closed is None:
                    return place
                place = closed.end()
            end = stop.search(text, place)
            if end is None:
                return None
            place = end.end()
        return None


def parse_jsonl(lines: Iterator[str], name: str) -> Parsed:
    """Parse one JSON object a line. The first one names the columns; what a later one lacks reads as None."""
    rows = _json_objects(lines, name)
    first = next(rows, None)
    if first is None:
        raise DataError(f'{name}: the file is empty. It must hold one JSON object per line, such as {{"text": "...", "label": "..."}}.')
    columns = tuple(first[0])
    check_columns(columns, str(first[1]))
    return columns, _filled(itertools.chain([first], rows), columns)


def _filled(rows: Iterator[tuple[dict[str, Any], Source]], columns: tuple[str, ...]) -> Iterator[tuple[Row, Source]]:
    keys = set(columns)
    for row, source in rows:
        if row.keys() != keys:
            row = {**dict.fromkeys(columns), **row}
        yield row, source


def _json_objects(lines: Iterator[str], name: str) -> Iterator[tuple[dict[str, Any], Source]]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            advice = _json_advice(line, name)
            raise DataError(f"{name}:{number}: column {error.colno}: this is not JSON ({error.msg}). {advice}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise DataError(f"{name}:{number}: this JSON is beyond what can be read ({error}). Simplify or remove the line.") from None
        if not isinstance(value, dict):
            found = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
            raise DataError(f"{name}:{number}: found {found} where a JSON object is needed. {_json_advice(line, name)}")
        value = plain(value)
        if len(line) > MAX_CELL_CHARS:
            for key, cell in value.items():
                if isinstance(cell, str):
                    _check_size(cell, f"{name}:{number}: the value of {key!r}")
        yield value, Source(name, number)


def _json_advice(line: str, name: str) -> str:
    start = line.strip()[:1]
    if start == "[":
        return "An array is no JSONL: write each of its objects on a line of its own (`jq -c '.[]' old.json > new.jsonl`)."
    if line.strip() == "{":
        return "Each object must stand on one line (`jq -c . old.json > new.jsonl`)."
    if start != "{":
        others = f"If this is CSV, {_as_format('csv', name)}; if plain text, {_as_format('txt', name)}."
        return f"Every line must be one JSON object. {others}"
    return 'Every line must be one whole JSON object, such as {"text": "...", "label": "..."}.'


def _check_size(cell: str, what: str) -> None:
    if len(cell) > MAX_CELL_CHARS:
        raise DataError(
            f"{what} has {len(cell):,} characters, more than the {MAX_CELL_CHARS:,} allowed. Shorten it or split it over several rows."
        )


def parse_txt(lines: Iterator[str], name: str) -> Parsed:
    """Parse one text per line into the column `text`; blank lines are skipped."""
    first = next(lines, None)
    if first is None:
        raise DataError(f"{name}: the file is empty. It must hold one text per line.")

    def rows() -> Iterator[tuple[Row, Source]]:
        for number, line in enumerate(itertools.chain([first], lines), 1):
            if not line.isspace():
                text = line.rstrip("\r\n")
                _check_size(text, f"{name}:{number}: this line")
                yield {"text": text}, Source(name, number)

    return ("text",), rows()
