"""Writers: what is written reads back the same, and nothing is ever left half written."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data import writers
from tunesmith.data.readers import open_file, open_stdin
from tunesmith.data.writers import open_writer
from tunesmith.errors import DataError, StorageError, UsageError

COLUMNS = ("text", "label", "probabilities")
ROWS = [
    {"text": "good, very good", "label": "pos", "probabilities": {"pos": 0.75, "neg": 0.25}},
    {"text": 'a "quoted"\nline', "label": None, "probabilities": {"pos": 0.5, "neg": 0.5}},
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.text(
    'a",;\t|\n\r \u2028é👋', max_size=8
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\ufeff"), min_size=1, max_size=8)


def write(target, rows, columns=COLUMNS, file_format=None):
    with open_writer(target, columns, file_format) as writer:
        for row in rows:
            writer.write(row)
    return writer


def read(path):
    return [dict(row) for row, _ in open_file(path)]


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.parquet"]))
def test_any_text_is_read_back(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("any") / name
    columns = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, TEXT)), min_size=1, max_size=5))
    if name == "x.csv" and len(columns) == 1:
        columns, rows = [*columns, "end"], [{**row, "end": ""} for row in rows]  # alone, 'a|b' reads as two names
    elif name == "x.csv":
        # names full of other delimiters hide the comma from whoever has to find it
        columns = [column.translate(str.maketrans(";|", "__")) + str(number) for number, column in enumerate(columns)]
        rows = [dict(zip(columns, row.values(), strict=True)) for row in rows]
    assert write(path, rows, columns).rows == len(rows)
    source = open_file(path)
    assert source.columns == tuple(columns)
    found = list(source)
    assert [row for row, _ in found] == rows
    if name in ("x.jsonl", "x.parquet"):
        assert [where.line for _, where in found] == list(range(1, len(rows) + 1))
    assert list(source) == found


def test_csv(tmp_path):
    write(tmp_path / "x.csv", [*ROWS, {"label": ["a", "é"], "text": 1.5, "other": "left out"}])
    assert (tmp_path / "x.csv").read_bytes().decode() == (
        "text,label,probabilities\n"
        '"good, very good",pos,"{""pos"": 0.75, ""neg"": 0.25}"\n'
        '"a ""quoted""\nline",,"{""pos"": 0.5, ""neg"": 0.5}"\n'
        '1.5,"[""a"", ""é""]",\n'
    )


def test_jsonl(tmp_path):
    write(tmp_path / "x.jsonl", [*ROWS, {"label": float("nan"), "text": "é👋", "other": 1, "probabilities": np.float32(0.5)}])
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text("utf-8").splitlines()]
    assert found == [*ROWS, {"text": "é👋", "label": None, "probabilities": 0.5}]
    assert "é👋" in (tmp_path / "x.jsonl").read_text("utf-8")


def test_parquet(tmp_path):
    rows = [{**row, "count": number, "score": number if number else 0.5, "tags": ["a"] * number} for number, row in enumerate(ROWS)]
    write(tmp_path / "x.parquet", rows, (*COLUMNS, "count", "score", "tags", "nothing"))
    assert read(tmp_path / "x.parquet") == [{**row, "nothing": None} for row in rows]
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.field("probabilities").type == pa.map_(pa.string(), pa.float64())
    assert [schema.field(name).type for name in ("text", "count", "score", "nothing")] == [
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.string(),
    ]
    assert schema.field("tags").type == pa.list_(pa.string())


def test_parquet_of_other_mappings_and_of_spans(tmp_path):
    rows = [{"entities": [{"start": 0, "label": "x"}], "answer": {"text": "a", "start": 1}}, {"entities": [], "answer": {"none": True}}]
    write(tmp_path / "x.parquet", rows, ("entities", "answer"))
    found = read(tmp_path / "x.parquet")
    assert [row["entities"] for row in found] == [rows[0]["entities"], []]
    assert [json.loads(row["answer"]) for row in found] == [row["answer"] for row in rows]


def test_parquet_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_PARQUET_ROWS", 10)
    rows = [{"text": str(number), "score": number / 2} for number in range(35)]
    write(tmp_path / "x.parquet", rows, ("text", "score"))
    assert read(tmp_path / "x.parquet") == rows
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 4


CONFLICTS_ANYWHERE = [(1, "a"), ("a", 1), (1, True), ([1], ["a"]), ({"a": 1.0}, "b"), ("a", b"\xff"), (1, 2**70)]


@pytest.mark.parametrize(
    ("first", "second"), [*CONFLICTS_ANYWHERE, (1, 1.5), ([1], [1.5]), ([{"a": 1}], [{"b": 1}]), ([{"a": 1}], [{"a": 1.5}])]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_parquet_with_values_of_two_types(tmp_path, monkeypatch, batch, first, second):
    monkeypatch.setattr(writers, "_PARQUET_ROWS", batch)
    if batch == 2 and (first, second) not in CONFLICTS_ANYWHERE:
        write(tmp_path / "x.parquet", [{"value": first}, {"value": second}], ["value"])  # within a batch one type fits both
        return
    with pytest.raises(DataError) as caught:
        write(tmp_path / "x.parquet", [{"value": first}, {"value": second}], ["value"])
    assert "column 'value' holds values of different types" in str(caught.value)
    assert "JSONL" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.parquet"])
def test_no_rows(tmp_path, name):
    write(tmp_path / name, [])
    if name == "x.jsonl":
        assert (tmp_path / name).read_bytes() == b""
    else:
        assert open_file(tmp_path / name).columns == COLUMNS
        assert read(tmp_path / name) == []


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, FileNotFoundError])
def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, name, error):
    monkeypatch.setattr(writers, "_PARQUET_ROWS", 1)
    (tmp_path / name).write_text("former")
    with pytest.raises(error), open_writer(tmp_path / name, COLUMNS) as writer:  # the very error, though storage deals in OSErrors
        writer.write(ROWS[0])
        raise error("midway")
    assert (tmp_path / name).read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_seen_before_the_end(tmp_path):
    with open_writer(tmp_path / "x.csv", ["text"]) as writer:
        writer.write({"text": "a"})
        assert not (tmp_path / "x.csv").exists()
    assert (tmp_path / "x.csv").read_text() == "text\na\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet"])
def test_full_disk(name):
    with pytest.raises(StorageError, match="disk is full"):
        write(Path("/dev/full"), ROWS * 1000, file_format=name)


def test_full_disk_leaves_the_former_file(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("former")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tunesmith.storage.sync", full)
    with pytest.raises(StorageError, match="disk is full"):
        write(tmp_path / "x.csv", ROWS)
    assert (tmp_path / "x.csv").read_text() == "former"
    assert len(list(tmp_path.iterdir())) == 1


def test_directories_links_and_devices(tmp_path):
    with pytest.raises(StorageError, match="it is a directory"):
        write(tmp_path, ROWS, file_format="csv")
    write(tmp_path / "new" / "x.csv", ROWS)
    (tmp_path / "link.csv").symlink_to(tmp_path / "new" / "x.csv")
    write(tmp_path / "link.csv", [], ["other"])
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "new" / "x.csv").read_text() == "other\n"
    write(Path(os.devnull), ROWS, file_format="csv")
    assert Path(os.devnull).is_char_device()


def test_stream():
    stream = io.StringIO(newline="")
    with open_writer(stream, COLUMNS) as writer:
        writer.write(ROWS[0])
        assert len(stream.getvalue().splitlines()) == 2
    assert not stream.closed
    for file_format in ("csv", "tsv", "jsonl"):
        stream = io.StringIO(newline="")
        write(stream, ROWS, ["text"], file_format)
        stream.seek(0)
        assert [row for row, _ in open_stdin(stream, file_format)] == [{"text": row["text"]} for row in ROWS]


def test_rows_leave_at_once(monkeypatch):
    read_end, write_end = os.pipe()
    with (
        open(read_end, "rb") as incoming,
        open(write_end, "w", encoding="utf-8") as stream,
        open_writer(stream, ["text"], "jsonl") as writer,
    ):
        writer.write({"text": "a"})
        assert incoming.readline() == b'{"text": "a"}\n'


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_closed_pipe(file_format):
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = open(write_end, "w", encoding="utf-8")  # noqa: SIM115 - closing it fails, and that is looked at
    with pytest.raises(BrokenPipeError):
        write(stream, ROWS, file_format=file_format)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_usage(tmp_path):
    with pytest.raises(UsageError) as caught:
        open_writer(tmp_path / "x.xlsx", COLUMNS)
    assert "extension '.xlsx'" in str(caught.value) and ".csv, .tsv, .jsonl, .ndjson, .parquet" in str(caught.value)
    with pytest.raises(UsageError, match=r"Did you mean '\.jsonl'"):
        open_writer(tmp_path / "x.json", COLUMNS)
    with pytest.raises(UsageError, match="without extension"):
        open_writer(tmp_path / "x", COLUMNS)
    with pytest.raises(UsageError, match=r"'jsnl'.*Did you mean 'jsonl'"):
        open_writer(tmp_path / "x", COLUMNS, "jsnl")
    with pytest.raises(UsageError, match="name a file"):
        open_writer(sys.stdout, COLUMNS, "parquet")
    write(tmp_path / "x", ROWS, file_format="jsonl")
    assert len(read_jsonl(tmp_path / "x")) == 2


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
