"""Readers of files and of standard input: what they yield, and what they say about data that cannot be used."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.decoding import text_lines
from tunesmith.data.readers import MAX_CELL_CHARS, open_file, open_stdin
from tunesmith.errors import DataError, UsageError

TABLE = "text,label\ngood film,pos\nbad film,neg\n"
ROWS = [{"text": "good film", "label": "pos"}, {"text": "bad film", "label": "neg"}]


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "train.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(path, **options):
    return [dict(row) for row, _ in open_file(path, **options)]


def lines(path, **options):
    return [source.line for _, source in open_file(path, **options)]


def fault(path, kind=DataError, **options) -> str:
    """What is said when the file is opened and read to the end."""
    with pytest.raises(kind) as caught:
        list(open_file(path, **options))
    return str(caught.value)


def contains(message: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in message


# ---- what is read


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_delimiters_and_line_ends(write, delimiter, end):
    path = write(TABLE.replace(",", delimiter).replace("\n", end))
    assert rows(path) == ROWS
    assert lines(path) == [2, 3]


def test_delimiters_inside_quotes_of_the_header_do_not_count(write):
    path = write('"text, as it came; whole";label\na;b\n')
    assert open_file(path).columns == ("text, as it came; whole", "label")


def test_tsv_has_tabs_whatever_its_header(write):
    assert rows(write("a,b\nc,d\n", "x.tsv")) == [{"a,b": "c,d"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(write, encoding):
    path = write("text,label\nпривет 👋,да\n\nx,y\n".encode(encoding))
    assert rows(path) == [{"text": "привет 👋", "label": "да"}, {"text": "x", "label": "y"}]
    assert lines(path) == [2, 4]


def test_utf16_without_mark_by_name(write):
    path = write(TABLE.replace("film", "ਊ਀").encode("utf-16-le"))  # characters with the byte of LF in them
    assert [row["text"] for row in rows(path, encoding="utf-16-le")] == ["good ਊ਀", "bad ਊ਀"]
    assert lines(path, encoding="utf-16-le") == [2, 3]


def test_mark_is_dropped_with_an_explicit_encoding_too(write):
    assert open_file(write(TABLE.encode("utf-8-sig")), encoding="utf-8").columns == ("text", "label")


def test_line_is_where_the_row_begins(write):
    path = write('\n\ntext,label\n"a\nb\r\nc",1\n\n"d",2\n   \ne,3')
    assert lines(path) == [4, 8, 10]
    assert [source.file for _, source in open_file(path, source_name="given.csv")] == ["given.csv"] * 3
    assert str(next(iter(open_file(path)))[1]) == f"{path}:4"


def test_no_line_end_at_the_end_of_the_file_and_empty_cells(write):
    assert rows(write('text,label\n,""\na,')) == [{"text": "", "label": ""}, {"text": "a", "label": ""}]


def test_space_around_column_names_is_dropped(write):
    assert open_file(write("text , label\na,b\n")).columns == ("text", "label")


def test_header_only_yields_nothing(write):
    source = open_file(write("text,label\n"))
    assert source.columns == ("text", "label")
    assert list(source) == []


@pytest.mark.parametrize("name", ["x.jsonl", "x.NDJSON", "x.jsonl.gz"])
def test_jsonl(write, name):
    content = '{"text": "a", "label": 1}\n\n{"text": "b"}\n{"label": [1.5, NaN], "text": "c", "more": {"k": null}}'
    path = write(gzip.compress(content.encode()) if name.endswith("gz") else content, name)
    source = open_file(path)
    assert source.columns == ("text", "label")
    assert [row for row, _ in source] == [
        {"text": "a", "label": 1},
        {"text": "b", "label": None},
        {"text": "c", "label": [1.5, None], "more": {"k": None}},
    ]
    assert lines(path) == [1, 3, 4]


def test_half_a_character_is_replaced(write):
    assert rows(write('{"text": "cut \\ud83d"}\n{"text": "whole \\ud83d\\udc4b"}', "x.jsonl")) == [
        {"text": "cut \ufffd"},
        {"text": "whole 👋"},
    ]


def test_txt(write):
    path = write("one, two\n\n  three \r\nfour", "x.txt")
    assert rows(path) == [{"text": "one, two"}, {"text": "  three "}, {"text": "four"}]
    assert lines(path) == [1, 3, 4]


def test_gzip(write):
    assert rows(write(gzip.compress(TABLE.encode()), "x.csv.gz")) == ROWS


def test_format_overrides_the_extension(write):
    assert rows(write(TABLE, "download"), file_format="csv") == ROWS


def test_parquet(tmp_path):
    table = pa.table(
        {
            "text": ["a", None, "c"],
            "score": [1.5, float("nan"), None],
            "tags": [["x"], [], None],
            "probabilities": pa.array([[("pos", 0.5)], [], None], pa.map_(pa.string(), pa.float64())),
            "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    source = open_file(tmp_path / "x.parquet")
    assert source.columns == ("text", "score", "tags", "probabilities", "kind")
    assert [row for row, _ in source] == [
        {"text": "a", "score": 1.5, "tags": ["x"], "probabilities": {"pos": 0.5}, "kind": "u"},
        {"text": None, "score": None, "tags": [], "probabilities": {}, "kind": "v"},
        {"text": "c", "score": None, "tags": None, "probabilities": None, "kind": "u"},
    ]
    assert [where.line for _, where in source] == [1, 2, 3]
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    assert list(open_file(tmp_path / "none.parquet")) == []


@pytest.mark.parametrize("kind", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_file_and_stream(tmp_path, kind):
    table = pa.table({"text": [f"t{number}" for number in range(3000)]})
    with kind(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2000)
    assert rows(tmp_path / "x.arrow") == table.to_pylist()
    assert lines(tmp_path / "x.arrow") == list(range(1, 3001))


# ---- the properties that hold for any file

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.text(
    'a",;\t|\n\r \u2028é👋', max_size=8
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_csv_of_any_text_is_read_back_with_its_lines(tmp_path_factory, table, delimiter, encoding):
    path = tmp_path_factory.mktemp("any") / "x.csv"
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    begins = []
    for row in [("text", "label"), *table]:
        begins.append(len(re.findall("\r\n|\r|\n", buffer.getvalue())) + 1)
        writer.writerow(row)
    path.write_bytes(buffer.getvalue().encode(encoding))
    source = open_file(path)
    found = list(source)
    assert [tuple(row.values()) for row, _ in found] == table
    assert [where.line for _, where in found] == begins[1:]
    assert list(source) == found
    assert source.fingerprint() == open_file(path).fingerprint()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fixed_dictionaries({"text": TEXT, "label": TEXT}), min_size=1, max_size=6), st.booleans())
def test_jsonl_of_any_text_is_read_back_with_its_lines(tmp_path_factory, table, ascii_only):
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_bytes("\n\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in table).encode())
    assert [(row, where.line) for row, where in open_file(path)] == [(row, 2 * number + 1) for number, row in enumerate(table)]


@settings(max_examples=100, deadline=None)
@given(st.text("ab\n\ré👋ਊ", max_size=40), st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32", "gb18030"]))
def test_lines_are_those_of_universal_newlines(text, encoding):
    found = list(text_lines(io.BytesIO(text.encode(encoding)), "x", encoding))
    assert found == re.findall("[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


def test_fingerprint_follows_content_and_reading(write):
    path = write(TABLE)
    first = open_file(path).fingerprint()
    assert first == open_file(path).fingerprint()
    assert first != open_file(path, encoding="latin-1").fingerprint()
    assert first != open_file(path, file_format="txt").fingerprint()
    assert first != open_file(write(TABLE + "c,d\n")).fingerprint()


def test_large_csv_is_read_in_constant_memory(tmp_path):
    path = tmp_path / "x.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,label\n")
        file.writelines(f"this is row number {number} of many,{number % 3}\n" for number in range(200_000))
    source = open_file(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in source) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


# ---- faults of the file as a whole


def test_missing_file_suggests_its_neighbours(write, tmp_path):
    write(TABLE)
    contains(fault(tmp_path / "trian.csv"), "trian.csv: there is no such file", f"Did you mean {tmp_path / 'train.csv'}?")
    contains(fault(tmp_path / "train.tsv"), f"Did you mean {tmp_path / 'train.csv'}?")
    contains(fault(tmp_path / "no" / "x.csv"), f"Nor is there a directory {tmp_path / 'no'}")


def test_vanished_file(write):
    path = write(TABLE)
    source = open_file(path)
    path.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        list(source)


def test_changed_file(write):
    source = open_file(write(TABLE))
    write("other,label\na,b\n")
    with pytest.raises(DataError, match="changed while it was in use"):
        list(source)


def test_directory_pipe_and_no_path_at_all(write, tmp_path):
    write(TABLE)
    contains(fault(tmp_path), "this is a directory", "It holds train.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    contains(fault(tmp_path / "pipe.csv"), "pipe or device", "Save its content to a file")
    contains(fault("a text, not a path. " * 300), "texts themselves are passed as a list")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(write):
    path = write(TABLE)
    path.chmod(0)
    contains(fault(path), "permission denied", "Change the permissions")


def test_unreadable_file_for_any_user(write, monkeypatch):
    path = write(TABLE)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    contains(fault(path), f"{path}: permission denied", "Change the permissions")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("x.foo", ["extension .foo", ".csv, .tsv", ".parquet", "rename the file"]),
        ("x", ["without extension"]),
        ("x.xlsx", ["extension .xlsx", "export the sheet as CSV"]),
        ("x.json", ["no list of rows", "named .jsonl"]),
        ("x.zip", ["unpack it first"]),
        ("x.parquet.gz", ["extension .parquet.gz"]),
    ],
)
def test_unknown_extension(write, name, parts):
    contains(fault(write(TABLE, name)), *parts)


def test_unknown_format_and_encoding(write):
    contains(fault(write(TABLE), UsageError, file_format="jsnl"), "'jsnl' is not one of csv, tsv", "Did you mean 'jsonl'?")
    contains(fault(write(TABLE), UsageError, encoding="uft-8"), "'uft-8' is not known", "Did you mean 'utf-8'?")
    for no_text in ("base64", "a\0b"):
        contains(fault(write(TABLE), UsageError, encoding=no_text), "is not known")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.txt", "x.parquet", "x.arrow"])
def test_empty_file(write, name):
    contains(fault(write("", name)), f"{name}: the file is empty")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_blank_file(write, name):
    contains(fault(write("\n\n  \n", name)), "the file is empty. It must")


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz", "x.txt.gz"])
def test_damaged_and_empty_gzip(write, name):
    packed = gzip.compress(TABLE.encode() * 50)
    contains(fault(write(packed[:-20], name), file_format="txt"), "damaged or cut short")
    contains(fault(write(packed[:12] + b"\xff\xff\xff" + packed[15:], name), file_format="txt"), "damaged or cut short")
    contains(fault(write(gzip.compress(b""), name)), "the file is empty")


@pytest.mark.parametrize(
    ("start", "what"),
    [(b"PK\x03\x04", "Excel"), (b"PAR1", ".parquet"), (b"%PDF", "PDF"), (b"BZh", "bunzip2"), (b"\x28\xb5\x2f\xfd", "unzstd")],
)
def test_other_formats_named_csv(write, start, what):
    contains(fault(write(start + b"\x00\x01\xff\n")), "this is not text but", what)


@pytest.mark.parametrize(("name", "kind"), [("x.parquet", "Parquet"), ("x.arrow", "Arrow"), ("x.feather", "Arrow")])
def test_damaged_columnar_file(write, name, kind):
    contains(fault(write(TABLE, name)), f"{name}: this is no readable {kind} file", "damaged, cut short, or of another format")


def test_parquet_cut_short_and_with_broken_pages(tmp_path):
    table = pa.table({"text": [f"row {number} of the table" for number in range(5000)]})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False, write_page_checksum=True)
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-100])
    (tmp_path / "page.parquet").write_bytes(whole[:200] + b"\xff" * 300 + whole[500:])
    contains(fault(tmp_path / "cut.parquet"), "no readable Parquet file")
    contains(fault(tmp_path / "page.parquet"), "no readable Parquet file")


def test_old_feather(write):
    contains(fault(write(b"FEA1" + bytes(20), "x.feather")), "Feather version 1")


def test_parquet_with_two_columns_of_a_name(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "x.parquet")
    contains(fault(tmp_path / "x.parquet"), "more than one column is named 'text'")


@pytest.mark.parametrize("rows", ["a,b,,\nc,d,,\n", "a,b\nc,d\n", "a,b,, \nc,d\n"])
def test_separators_behind_the_last_column_are_no_columns(write, rows):
    source = open_file(write("text,label,,\n" + rows))
    assert source.columns == ("text", "label")
    assert [row for row, _ in source] == [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]


# ---- faults of lines


@pytest.mark.parametrize(
    ("content", "place", "parts"),
    [
        ("text,text,a\n", 1, ["more than one column is named 'text'", "text, text, a", "rename one"]),
        ("\ntext,,label\n", 2, ["column 2 of 3 has no name", "Name it or remove it"]),
        ("sep=;\ntext;label\n", 1, ["'sep=;', which only Excel reads", "column names come first"]),
        ("text,label,\na,b,\na,b,c\n", 3, ["'c' in column 3 of 3, which has no name in the header", "Name the column, or remove it"]),
        ("text,label\na,b\nc, d,e\n", 3, ["3 cells", "header names 2 (text, label)", "found 'c', ' d', 'e'", "in double quotes"]),
        ("text,label\na,b\nc,d,\n", 3, ["3 cells", "found 'c', 'd', ''", "ends in 1 ',' too many: remove it."]),
        ("text,label\na,b\n,,,\n", 3, ["4 cells", "ends in 2 ',' too many: remove them."]),
        ("text,label\na\n", 2, ["1 cell where the header names 2", "Add what is missing"]),
        ("text,label\na;b\n", 2, ["1 cell where", "semicolons", "commas"]),
        ("text\na, b\n", 2, ["2 cells where the header names 1", ".txt"]),
        ('text,label\n"a\nb",c\n"d" e,f\n', 4, ["behind its closing double quote", '""yes""']),
        ('text,label\na,b\n"c\nd","e\nf\ng\n', 4, ["double quote opened in this line is never closed", "line 6", "Close it"]),
        ('text,label\na,b\nc,"', 3, ["never closed"]),
        ('"text,label\na,b\n', 1, ["never closed"]),
        ("text,label\na,b\nc,d\0e\n", 3, ["NUL character", "column 4", "damaged or binary"]),
    ],
)
def test_csv_faults(write, content, place, parts):
    path = write(content)
    contains(fault(path), f"{path}:{place}: ", *parts)


def test_rows_above_a_fault_are_read(write):
    found = []
    with pytest.raises(DataError, match=r"train\.csv:4"):
        found.extend(row for row, _ in open_file(write(TABLE + "a,b,c\n")))
    rows_before = []
    with pytest.raises(DataError):
        for row, _ in open_file(write(TABLE + "a,b,c\n")):
            rows_before.append(row)
    assert rows_before == ROWS


@pytest.mark.parametrize("process_limit", [MAX_CELL_CHARS, 2**40])
def test_oversized_cells(write, process_limit):
    before = csv.field_size_limit(process_limit)  # scipy, for one, raises it for the whole process
    try:
        check_oversized_cells(write)
    finally:
        csv.field_size_limit(before)


def check_oversized_cells(write):
    many = "a,b\n" * (MAX_CELL_CHARS // 4 + 1)
    path = write(f'text,label\nx,y\nz,"{many}')
    contains(fault(path), f"{path}:3: ", "the cell that begins here is longer than 4,194,304 characters", "never closed")
    path = write(f"text,label\n{'a' * (MAX_CELL_CHARS + 1)},y\n")
    contains(fault(path), f"{path}:2: ", "longer than 4,194,304 characters", "Shorten it")
    assert len(rows(write(f'text,label\n"{"a" * MAX_CELL_CHARS}",y\n'))[0]["text"]) == MAX_CELL_CHARS
    path = write('{"text": "a"}\n' + json.dumps({"text": "a" * (MAX_CELL_CHARS + 1)}), "x.jsonl")
    contains(fault(path), f"{path}:2: ", "'text' has 4,194,305 characters")
    path = write("a\n" + "a" * (MAX_CELL_CHARS + 1), "x.txt")
    contains(fault(path), f"{path}:2: ", "4,194,305 characters")


def test_endless_line(write, monkeypatch):
    monkeypatch.setattr("tunesmith.data.decoding.MAX_LINE_CHARS", 2**20)
    path = write("text,label\n" + "a," * 2**20)
    contains(fault(path), f"{path}:2: ", "this line is longer than")


@pytest.mark.parametrize(
    ("text", "encoding", "byte"),
    [
        ("un café, s'il vous plaît", "cp1252", "0xe9"),
        ("Das schöne „Mädchen“ grüßt", "cp1252", "0xf6"),
        ("Плохой фильм, не советую", "cp1251", "0xcf"),
        ("这个电影很好看，非常喜欢", "gb18030", "0xd5"),
        ("この映画はとてもよかった", "shift_jis", "0x82"),
    ],
)
def test_wrong_encoding_names_place_and_the_right_one(write, text, encoding, byte):
    head = "text,label\nfine,1\n"
    raw = f"{head}{text};,1\n".encode(encoding)
    path = write(raw.replace(b",", b";").replace(b";1", b",1").replace(b"text;label", b"text,label"))
    message = fault(path)
    offset = next(index for index, value in enumerate(raw) if value > 127)
    contains(message, f"{path}:3: byte {byte} at offset {offset} ", "not valid utf-8", f"pass encoding={encoding!r};")
    found = rows(path, encoding=encoding)
    assert found[0] == {"text": "fine", "label": "1"} and len(found) == 2


def test_wrong_encoding_without_a_guess(write):
    contains(fault(write(b"text\n\x81\xff\x81\n")), ":2: byte 0x81 at offset 5 ", "encoding='cp1252', cp1251 or gb18030")


def test_wrong_bytes_far_into_a_file(write):
    head = "text\n" + "".join(f"row {number} — fine\n" for number in range(20_000))
    path = write(head.encode() + b"caf\xe9\n")
    contains(fault(path), f"{path}:20002: byte 0xe9 at offset {len(head.encode()) + 3:,} ")


def test_bytes_cut_off_at_the_end(write):
    contains(fault(write("text\nprêt à".encode()[:-1])), ":2: byte 0xc3 at offset 11 ")


def test_utf16_faults(write):
    contains(fault(write(TABLE.encode("utf-16")), encoding="utf-8"), ":1: byte 0xff at offset 0 ", "mark of utf-16: leave encoding out")
    contains(fault(write(TABLE.encode("utf-16-le"))), ":1: a NUL", "pass encoding='utf-16-le'")
    contains(fault(write(TABLE.encode("utf-16-be"))), ":1: a NUL", "pass encoding='utf-16-be'")
    contains(fault(write(TABLE), encoding="utf-16"), "not utf-16", "Leave encoding out")
    contains(fault(write(TABLE.encode("utf-16")[:-1])), ":3: ", "not valid utf-16")


@pytest.mark.parametrize(
    ("content", "place", "parts"),
    [
        ('{"text": "a"}\n{"text" "b"}\n', 2, ["column 9", "not JSON", "one whole JSON object"]),
        ('{"text": "a"}\n\n[1]\n', 3, ["found an array", "jq -c '.[]'"]),
        ('[{"text": "a"},\n{"text": "b"}]\n', 1, ["jq -c '.[]'"]),
        ('{\n"text": "a"}\n', 1, ["Each object must stand on one line"]),
        ("text,label\na,b\n", 1, ["not JSON", "extension .csv;", "extension .txt."]),
        ('"a"\n', 1, ["found a string"]),
        ("null\n", 1, ["found null"]),
        ('{"text": "a"}\n3', 2, ["found a number"]),
        ('{"a": ' + "9" * 5000 + "}\n", 1, ["beyond what can be read"]),
        ('{"a": ' + "[" * 100_000 + "}\n", 1, ["beyond what can be read"]),
        ("{}\n", 1, ["no columns"]),
        ('{"": 1}\n', 1, ["has no name"]),
        ('{"text": "a\0"}\n', 1, ["NUL character"]),
    ],
)
def test_jsonl_faults(write, content, place, parts):
    path = write(content, "x.jsonl")
    contains(fault(path), f"{path}:{place}: ", *parts)


# ---- standard input


@pytest.mark.parametrize(
    ("content", "file_format", "expected"),
    [
        (TABLE, None, ROWS),
        (TABLE.replace(",", "\t"), None, ROWS),
        ('\n  {"text": "a"}\n{"text": "b"}', None, [{"text": "a"}, {"text": "b"}]),
        ("a,b\n{c\n", "txt", [{"text": "a,b"}, {"text": "{c"}]),
        ("{a,b\nc,d\n", "csv", [{"{a": "c", "b": "d"}]),
        ("a\tb\nc\td,e\n", "tsv", [{"a": "c", "b": "d,e"}]),
    ],
)
def test_stdin(content, file_format, expected):
    wrapped = io.TextIOWrapper(io.BytesIO(content.encode("utf-8-sig")), encoding="ascii")
    for stream in (io.BytesIO(content.encode()), io.StringIO(content), wrapped):
        source = open_stdin(stream, file_format)
        assert [row for row, _ in source] == expected
        assert source.columns == tuple(expected[0])


def test_stdin_lines():
    assert [str(where) for _, where in open_stdin(io.StringIO('\ntext,label\n"a\nb",1\nc,2\n'))] == ["<stdin>:3", "<stdin>:5"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_stdin_rows_come_out_as_soon_as_they_came_in(kind, end):
    read, write = os.pipe()
    with open(read, "rb") as incoming, open(write, "wb", buffering=0) as outgoing:
        if kind == "csv":
            outgoing.write(f"text{end}".encode())
        shape = {"csv": "{}", "txt": "{}", "jsonl": '{{"text": "{}"}}'}[kind]
        outgoing.write((shape.format("a") + end).encode())
        found = iter(open_stdin(incoming, None if kind != "txt" else "txt"))
        assert next(found)[0] == {"text": "a"}
        for number in range(3):  # would wait for ever if the reader wanted more than this line
            outgoing.write((shape.format(number) + end).encode())
            assert next(found)[0] == {"text": str(number)}
        outgoing.close()
        assert list(found) == []


def test_stdin_faults():
    with pytest.raises(DataError, match="<stdin>: the file is empty"):
        open_stdin(io.BytesIO(b""))
    with pytest.raises(DataError, match=r"<stdin>:2: byte 0xe9 at offset 8 .*encoding='cp1252'"):
        list(open_stdin(io.BytesIO(b"text\ncaf\xe9 noir\n")))
    with pytest.raises(UsageError, match="parquet cannot be read from standard input"):
        open_stdin(io.BytesIO(b""), "parquet")
    with pytest.raises(UsageError, match="Did you mean 'jsonl'"):
        open_stdin(io.BytesIO(b""), "jsonll")
    with pytest.raises(DataError, match="gunzip"):
        open_stdin(io.BytesIO(gzip.compress(TABLE.encode())))
    for texts in (b"text\nwell, yes\n", b"where is it\nwell, yes\n", b"a, b\nyes\n", b"a, b\nc, d, e\n"):
        with pytest.raises(DataError, match="If this is one text per line and no table, pass --format txt") as caught:
            list(open_stdin(io.BytesIO(texts)))
        assert "extension" not in str(caught.value)
    with pytest.raises(DataError, match="If this is CSV, pass --format csv; if plain text, pass --format txt"):
        list(open_stdin(io.BytesIO(b'{"text": "a"}\nplain\n')))
    source = open_stdin(io.StringIO(TABLE))
    list(source)
    with pytest.raises(DataError, match="only once"):
        list(source)
    with pytest.raises(DataError, match="only once"):
        source.fingerprint()


def test_the_index_of_pandas_gets_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",text,label\n0,a,b\n", encoding="utf-8")
    assert [dict(row) for row, _ in open_file(tmp_path / "x.csv")] == [{"column_1": "0", "text": "a", "label": "b"}]


def test_german_text_with_a_euro_is_not_taken_for_japanese(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("text\nDas gefällt mir für 3,50 €, „gut“\n".encode("cp1252"))
    with pytest.raises(DataError, match="pass encoding='cp1252';"):
        list(open_file(tmp_path / "x.csv"))
