"""Tables in memory: every kind gives the same plain rows, and what cannot be used is named."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.memory import from_memory, open_data
from tunesmith.errors import DataError, UsageError

TEXTS = ["good film", "bad film", "so so"]
LABELS = ["pos", "neg", "pos"]


class Capsule:
    """What polars and others offer: an Arrow stream, made anew at every request."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.columns = table, table.column_names

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class ColumnCapsule:
    """A single column of the same kind."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __arrow_c_stream__(self, requested_schema=None):
        return self.column.__arrow_c_stream__(requested_schema)

    def __len__(self):
        return len(self.column)


COLUMNS = {"text": TEXTS, "label": LABELS}
FRAME = pd.DataFrame(COLUMNS, index=[7, 7, 9])
TABLE = pa.table(COLUMNS)
TABLES = {
    "list of dicts": [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],
    "tuple of dicts": tuple({"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)),
    "dict of lists": COLUMNS,
    "dict of arrays": {"text": np.array(TEXTS), "label": pd.Series(LABELS)},
    "dict of arrow": {"text": pa.array(TEXTS), "label": pa.chunked_array([LABELS[:1], LABELS[1:]])},
    "DataFrame": FRAME,
    "categorical": FRAME.astype({"label": "category"}),
    "object frame": FRAME.astype(object),
    "Table": TABLE,
    "RecordBatch": TABLE.to_batches()[0],
    "Dataset": datasets.Dataset.from_dict(COLUMNS),
    "Dataset as numpy": datasets.Dataset.from_dict(COLUMNS).with_format("numpy"),
    "selected Dataset": datasets.Dataset.from_dict({key: ["x", *values] for key, values in COLUMNS.items()}).select([1, 2, 3]),
    "capsule": Capsule(TABLE),
}
SERIES = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "array": np.array(TEXTS),
    "object array": np.array(TEXTS, dtype=object),
    "StringDType": np.array(TEXTS, dtype=np.dtypes.StringDType()),
    "column vector": np.array(TEXTS).reshape(-1, 1),
    "Series": pd.Series(TEXTS, index=[3, 3, 3], name="whatever"),
    "Array": pa.array(TEXTS),
    "ChunkedArray": pa.chunked_array([TEXTS[:2], TEXTS[2:]]),
    "Column": datasets.Dataset.from_dict(COLUMNS)["text"],
    "capsule": ColumnCapsule(pa.chunked_array([TEXTS])),
}
LABEL_KINDS = {
    "list": LABELS,
    "array": np.array(LABELS),
    "Series": pd.Series(LABELS, index=[5, 5, 5]),
    "arrow": pa.array(LABELS),
    "categorical": pd.Categorical(LABELS),
}


def rows(data, labels=None):
    return [row for row, _ in from_memory(data, labels)]


def fault(data, labels=None) -> str:
    with pytest.raises(DataError) as caught:
        list(from_memory(data, labels))
    return str(caught.value)


@pytest.mark.parametrize("data", TABLES.values(), ids=TABLES)
def test_tables(data):
    source = from_memory(data)
    assert source.columns == ("text", "label")
    assert source.name == f"<{type(data).__name__}>"
    found = list(source)
    assert [row for row, _ in found] == TABLES["list of dicts"]
    assert [type(value) for row, _ in found for value in row.values()] == [str] * 6
    assert [where.line for _, where in found] == [1, 2, 3]
    assert list(source) == found
    assert source.fingerprint() == from_memory(COLUMNS).fingerprint()


@pytest.mark.parametrize("data", SERIES.values(), ids=SERIES)
def test_texts(data):
    source = from_memory(data)
    assert source.columns == ("text",)
    assert [row for row, _ in source] == [{"text": text} for text in TEXTS] == [row for row, _ in source]
    assert {type(row["text"]) for row, _ in source} == {str}
    assert rows(data, LABELS) == TABLES["list of dicts"]


@pytest.mark.parametrize("labels", LABEL_KINDS.values(), ids=LABEL_KINDS)
def test_labels(labels):
    source = from_memory(TEXTS, labels)
    assert source.columns == ("text", "label")
    assert rows(TEXTS, labels) == TABLES["list of dicts"]
    assert source.fingerprint() == from_memory(COLUMNS).fingerprint()


def test_labels_that_are_lists_or_numbers():
    assert [row["label"] for row in rows(TEXTS, [["a", "b"], [], None])] == [["a", "b"], [], None]
    assert [row["label"] for row in rows(TEXTS, np.eye(3, dtype=int))] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    found = [row["label"] for row in rows(TEXTS, np.array([0.5, np.nan, 2], dtype=np.float32))]
    assert found == [0.5, None, 2.0] and type(found[0]) is float


def test_labels_beside_a_table():
    assert rows(FRAME[["text"]], LABELS) == TABLES["list of dicts"]
    assert rows(Capsule(TABLE.select(["text"])), LABELS) == TABLES["list of dicts"]


def test_missing_values_become_none():
    frame = pd.DataFrame(
        {
            "text": ["a", None, np.nan],
            "number": [1.5, np.nan, 2],
            "nullable": pd.array([1, pd.NA, 3], dtype="Int64"),
            "when": pd.to_datetime(["2024-05-06", None, None]),
        }
    )
    found = rows(frame)
    assert [row["text"] for row in found] == ["a", None, None]
    assert [row["number"] for row in found] == [1.5, None, 2.0]
    assert [row["nullable"] for row in found] == [1, None, 3]
    assert [row["when"] for row in found] == [datetime.datetime(2024, 5, 6), None, None]
    assert rows([None, "a", float("nan")]) == [{"text": None}, {"text": "a"}, {"text": None}]
    assert rows(pa.table({"x": [1.0, float("nan"), None]})) == [{"x": 1.0}, {"x": None}, {"x": None}]
    assert rows({"x": np.array(["NaT", "2024-05-06"], dtype="datetime64[s]")})[0] == {"x": None}


def test_numpy_scalars_become_python_scalars():
    found = rows(
        [{"text": np.str_("a"), "label": np.int64(3), "weight": np.float32(0.5), "flag": np.bool_(True), "tags": np.array([1, 2])}]
    )
    assert found == [{"text": "a", "label": 3, "weight": 0.5, "flag": True, "tags": [1, 2]}]
    assert [type(value) for value in found[0].values()] == [str, int, float, bool, list]


def test_dicts_with_other_keys():
    assert rows([{"text": "a", "label": 1}, {"text": "b"}, {"text": "c", "label": 2, "more": 3}]) == [
        {"text": "a", "label": 1},
        {"text": "b", "label": None},
        {"text": "c", "label": 2, "more": 3},
    ]


def test_class_labels_are_read_by_name():
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B"])),
        }
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}, features=features)
    assert rows(data) == [{"text": "a", "label": "pos", "tags": ["O", "B"]}, {"text": "b", "label": None, "tags": []}]


def test_more_rows_than_a_part():
    count = 2500
    texts = [str(number) for number in range(count)]
    for data in (pd.DataFrame({"text": texts}), pa.table({"text": texts}), pa.array(texts), datasets.Dataset.from_dict({"text": texts})):
        assert [row["text"] for row in rows(data)] == texts


def test_half_a_character_is_replaced():
    assert rows(["cut \ud83d", "whole 👋"]) == [{"text": "cut \ufffd"}, {"text": "whole 👋"}]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_any_texts(texts):
    # numpy's own strings cannot end in NUL
    for data in (texts, pd.Series(texts), pa.array(texts), np.array(texts, dtype=object)):
        assert [row["text"] for row in rows(data)] == texts


def test_fingerprint_follows_content():
    first = from_memory(TEXTS).fingerprint()
    assert first == from_memory(pd.Series(TEXTS)).fingerprint()
    others = [TEXTS[::-1], TEXTS[:2], [{"other": text} for text in TEXTS], [*TEXTS[:2], "so  so"]]
    assert len({first, *(from_memory(other).fingerprint() for other in others)}) == 5
    assert from_memory(["1"]).fingerprint() != from_memory({"text": [1]}).fingerprint()
    assert from_memory([{"when": datetime.date(2024, 5, 6), "map": {(1, 2): 3}}]).fingerprint()


# ---- faults


@pytest.mark.parametrize(
    ("data", "labels", "parts"),
    [
        (TEXTS, ["pos"], ["<list>: found 3 rows but 1 label"]),
        (Capsule(TABLE.select(["text"])), ["pos"], ["found 1 label but at least one row more"]),
        (Capsule(TABLE.select(["text"])), ["pos"] * 5, ["found 5 labels but only 3 rows"]),
        (TEXTS, iter(LABELS), ["labels must be a sequence", "list(labels)"]),
        (TEXTS, "abc", ["labels must be a sequence", "found a str"]),
        (FRAME, LABELS, ["has a column 'label' already"]),
        ([], None, ["<list>: it is empty"]),
        ({}, None, ["<dict>: it is empty"]),
        ((text for text in TEXTS), None, ["a generator", "pass list(...)", "Supported are a path"]),
        (set(TEXTS), None, ["data cannot be a set", "Pass list(...) of it"]),
        (None, None, ["data cannot be a NoneType", "Supported are"]),
        (42, None, ["data cannot be a int"]),
        (b"text", None, ["data cannot be a bytes", "data.decode()"]),
        (["a", 3], None, ["<list>:2: found a int (3) where a text is needed", "str(...)"]),
        ([b"a"], None, ["a list must hold texts or dicts; found a bytes"]),
        (["a", b"b"], None, ["<list>:2:", "decode('utf-8')"]),
        ([["a", 1]], None, ["found a list", "labels="]),
        ([("a", "b"), "c"], None, [":2: found 'c' where a pair of texts is needed"]),
        ([{"text": "a"}, "b"], None, ["<list>:2: found a str where a dict with text is needed"]),
        ([{3: "a"}], None, ["column 1 is named 3, which is not text"]),
        ({"text": TEXTS, "label": ["pos"]}, None, ["same length; text has 3, label has 1"]),
        ({"text": "a film"}, None, ["column 'text' is a str, where a list", "[row]"]),
        ({"text": iter(TEXTS)}, None, ["column 'text' is", "where a list"]),
        (np.zeros(3), None, ["array of float64, where texts are needed"]),
        (np.array([["a", "b"]]), None, ["shape (1, 2)", "dict of columns"]),
        (np.array("a"), None, ["shape ()"]),
        (pd.DataFrame([["a", "b"]]), None, ["column 1 is named 0, which is not text"]),
        (pd.DataFrame([["a", "b"]], columns=["x", "x"]), None, ["more than one column is named 'x'"]),
        (pd.Series([1, 2]), None, ["<Series>:1: found a int (1)"]),
        (pa.array([1, 2]), None, [":1: found a int (1)"]),
        (pa.Table.from_arrays([pa.array(["a"])] * 2, names=["x", "x"]), None, ["more than one column is named 'x'"]),
        (TABLE.to_reader(), None, ["RecordBatchReader", ".read_all()"]),
        (datasets.DatasetDict(train=TABLES["Dataset"]), None, ["DatasetDict", "data[...] with 'train'"]),
        (TABLES["Dataset"].to_iterable_dataset(), None, ["IterableDataset", "streaming=False"]),
    ],
)
def test_faults(data, labels, parts):
    message = fault(data, labels)
    for part in parts:
        assert part in message


def test_open_data(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text;label\ncafé;pos\n", encoding="cp1252")
    for given_path in (path, str(path)):
        assert [row for row, _ in open_data(given_path, encoding="cp1252")] == [{"text": "café", "label": "pos"}]
    assert [row for row, _ in open_data(path, encoding="cp1252", file_format="txt")] == [{"text": "text;label"}, {"text": "café;pos"}]
    assert [row for row, _ in open_data(TEXTS, labels=LABELS)] == TABLES["list of dicts"]
    with pytest.raises(UsageError, match="name the column"):
        open_data(path, labels=LABELS)


def test_plain_lists_load_no_library():
    code = (
        "import sys; from tunesmith.data.memory import open_data; from tunesmith.data.writers import open_writer; "
        "list(open_data(['a', 'b'], labels=[1, 2])); "
        "print(sorted({'pandas', 'datasets', 'pyarrow', 'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    src = Path(__file__).parents[2] / "src"
    out = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(src)}, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
