"""The token table: what is read back is what was encoded, and the cache is used exactly when it may be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from tunesmith.data import table as table_module
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Schema
from tunesmith.data.table import TokenTable, open_table
from tunesmith.data.tokens import TextEncoder, Truncation
from tunesmith.errors import DataError, StorageError
from tunesmith.progress import QUIET, Progress

SCHEMA = Schema(("text",), "label")
WINDOWS = Truncation("windows", 8, 2, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tables"


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of texts whenever texts are encoded."""
    counts: list[int] = []
    encode = TextEncoder.encode

    def counting(self: TextEncoder, texts: Any, offsets: bool = False) -> Any:
        counts.append(len(texts))
        return encode(self, texts, offsets)

    monkeypatch.setattr(TextEncoder, "encode", counting)
    return counts


def encoder(truncation: Truncation = WINDOWS, **arguments: Any) -> TextEncoder:
    return TextEncoder(tiny.tokenizer(), truncation, **arguments)


def table_of(data: Any, schema: Schema = SCHEMA, **arguments: Any) -> TokenTable:
    return open_table(open_data(data), schema, encoder(**arguments))


def all_labels(table: TokenTable) -> list[list[str] | None]:
    labels = table.labels()
    found = [[labels.names[code] for code in labels.codes[a:b]] for a, b in zip(labels.starts, labels.starts[1:], strict=False)]
    assert not any(row for row, missing in zip(found, labels.missing, strict=True) if missing)
    return [None if missing else row for row, missing in zip(found, labels.missing, strict=True)]


cells = st.none() | st.text(max_size=30) | st.sampled_from(["the red cat", "红猫", "кошка", " ", "x " * 40])
labels = st.none() | st.sampled_from(["a", "b", "猫", " c "]) | st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, labels), min_size=1, max_size=40), st.integers(1, 50))
def test_what_is_read_equals_direct_encoding(rows: list[tuple[Any, Any]], batch_rows: int) -> None:
    """Across any number of record batches."""
    data = [{"text": text, "label": label} for text, label in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_BATCH_ROWS", batch_rows)
        patch.setattr(table_module, "_CHUNK_ROWS", 7)
        patch.setattr(table_module, "_FORMAT", ("test", batch_rows))
        table = table_of(data)
    source = open_data(data)
    examples = [SCHEMA.parse(row, place) for row, place in source]
    direct = encoder().encode([example.texts[0] for example in examples])
    assert len(table) == len(rows)
    for i, encoded in enumerate(direct):
        assert [sequence.tolist() for sequence in table.example(i).sequences] == [sequence.tolist() for sequence in encoded.sequences]
    assert table.tokens.tolist() == [encoded.tokens for encoded in direct]
    assert table.lost.tolist() == [encoded.lost for encoded in direct]
    assert table.kept.tolist() == [sum(map(len, encoded.sequences)) for encoded in direct]
    assert table.longest.tolist() == [max(map(len, encoded.sequences)) for encoded in direct]
    assert table.sequences.tolist() == [len(encoded.sequences) for encoded in direct]
    assert table.line.tolist() == list(range(1, len(rows) + 1))
    assert table.blank.tolist() == [not example.texts[0].strip() for example in examples]
    assert all_labels(table) == [example.target for example in examples]
    assert table.labels().from_list == any(isinstance(label, list) for _, label in rows)
    assert table.group is None


def test_labels_round_trip() -> None:
    data = {"text": list("abcdefg"), "label": ["x", None, ["y", "x"], [], " ", 3, "猫 "]}
    table = table_of(data)
    assert all_labels(table) == [["x"], None, ["y", "x"], [], None, ["3"], ["猫"]]
    assert table.labels().names == ["x", "y", "3", "猫"]  # in order of first appearance
    assert table.labels().from_list


def test_keys_of_texts_and_groups() -> None:
    data = {"text": ["a b", "c", "a b", "C"], "label": ["x"] * 4, "group": ["1", "2", "2", "3"]}
    table = table_of(data, Schema(("text",), "label", "group"))
    assert table.text_key[0] == table.text_key[2] and len(set(table.text_key.tolist())) >= 2
    assert table.group[1] == table.group[2] and len(set(table.group.tolist())) == 3


def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines",x\n\none,y\n')
    assert table_of(tmp_path / "a.csv").line.tolist() == [2, 5]


def test_second_opening_does_not_tokenise(encodings: list[int], cache: Path) -> None:
    rows = tiny.rows(50)
    first = table_of(rows)
    assert sum(encodings) == 50
    second = table_of(rows)
    assert sum(encodings) == 50
    assert second.key == first.key and [path.name for path in cache.iterdir()] == [first.key]
    assert [part.tolist() for i in range(50) for part in first.example(i).sequences] == [
        part.tolist() for i in range(50) for part in second.example(i).sequences
    ]
    assert all_labels(first) == all_labels(second)


def test_the_key_changes_with_whatever_changes_the_table(tmp_path: Path, encodings: list[int]) -> None:
    rows = tiny.rows(6)
    keys = [table_of(rows).key]
    keys.append(table_of([*rows[:-1], {**rows[-1], "text": "another"}]).key)
    keys.append(table_of([*rows[:-1], {**rows[-1], "label": "another"}]).key)
    keys.append(table_of(rows[:-1]).key)
    keys.append(table_of(rows[::-1]).key)
    keys.append(table_of([{**row, "text2": row["text"]} for row in rows], Schema(("text2",), "label")).key)
    keys.append(table_of(rows, Schema(("text",))).key)
    keys.append(table_of(rows, Schema(("text",), "label", "label")).key)
    keys.append(table_of(rows, Schema(("text",), "label", "label", needs_group=False)).key)
    for truncation in (
        Truncation("head", 8, 2, 3),
        Truncation("windows", 9, 2, 3),
        Truncation("windows", 8, 3, 3),
        Truncation("windows", 8, 2, 4),
    ):
        keys.append(table_of(rows, truncation=truncation).key)
    keys.append(table_of(rows, fallback_token=3).key)
    bare = TextEncoder(tiny.tokenizer(special=False), WINDOWS)
    keys.append(open_table(open_data(rows), SCHEMA, bare).key)
    changed = tiny.tokenizer()
    changed.normalizer = None
    keys.append(open_table(open_data(rows), SCHEMA, TextEncoder(changed, WINDOWS)).key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenizers.__version__", "0.0")
        keys.append(table_of(rows).key)
    assert len(set(keys)) == len(keys) == len(encodings)
    # and a file by its content, not by its name or age
    one, two = (tiny.write_csv(tmp_path / name, rows) for name in ("one.csv", "two.csv"))
    os.utime(two, (1, 1))
    assert table_of(one).key == table_of(two).key
    tiny.write_csv(two, rows[:-1])
    assert table_of(one).key != table_of(two).key


def test_torn_tables_are_built_again(encodings: list[int], cache: Path) -> None:
    rows = tiny.rows(40)
    first = table_of(rows)
    expected = [part.tolist() for i in range(40) for part in first.example(i).sequences]
    file = first.path / "table.arrow"
    whole = file.read_bytes()

    def damaged() -> Iterator[None]:
        for size in (0, 5, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:size])
            yield
        file.unlink()
        yield

    for count, _ in enumerate(damaged(), 2):
        again = table_of(rows)
        assert sum(encodings) == 40 * count
        assert [part.tolist() for i in range(40) for part in again.example(i).sequences] == expected
    assert file.read_bytes() == whole


def test_a_run_that_dies_leaves_nothing_that_passes_for_a_table(encodings: list[int], cache: Path) -> None:
    rows = tiny.rows(30)

    class Dies:
        name, columns = "dies", ("text", "label")

        def __iter__(self) -> Iterator[Any]:
            yield from list(open_data(rows))[:20]
            raise KeyboardInterrupt

        def fingerprint(self, progress: Progress = QUIET) -> str:
            return open_data(rows).fingerprint()

        def stamp(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        open_table(Dies(), SCHEMA, encoder())
    assert list(cache.iterdir()) == []
    assert len(table_of(rows)) == 30


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_that_changes_while_it_is_read_leaves_nothing(suffix: str, cache: Path, tmp_path: Path) -> None:
    rows = tiny.rows(30)
    path = tmp_path / f"d.{suffix}"
    if suffix == "csv":
        tiny.write_csv(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    source = open_data(path)
    key = source.fingerprint()

    def fingerprint(progress: Progress) -> str:
        with open(path, "ab") as file:
            file.write(b"one more,animal\n" if suffix == "csv" else b"")
        os.utime(path, (1, 1))
        return key

    source.fingerprint = fingerprint  # type: ignore[method-assign]
    with pytest.raises(DataError, match=rf"d\.{suffix}: the file changed while it was read. Start again"):
        open_table(source, SCHEMA, encoder())
    assert list(cache.iterdir()) == []


def test_rows_that_cannot_be_read_leave_nothing(cache: Path) -> None:
    with pytest.raises(Exception, match="<list>:2: column 'text' holds"):
        table_of([{"text": "a", "label": "x"}, {"text": {"b": 1}, "label": "y"}])
    assert list(cache.iterdir()) == []


def test_an_open_table_outlives_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = table_of(tiny.rows(5))
    expected = [part.tolist() for part in first.example(3).sequences]
    os.utime(first.path, (1, 1))
    monkeypatch.setattr(table_module, "_CACHE_LIMIT_BYTES", 1)
    second = table_of(tiny.rows(6))
    assert [path.name for path in cache.iterdir()] == [second.key]  # the newest stays, however large
    assert [part.tolist() for part in first.example(3).sequences] == expected


def test_what_was_used_longest_ago_is_evicted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [table_of(tiny.rows(n)) for n in (3, 4, 5)]
    for table, age in zip(tables, (100, 200, 300), strict=True):
        os.utime(table.path, (age, age))
    table_of(tiny.rows(3))  # used again
    sizes = [(table.path / "table.arrow").stat().st_size for table in tables]
    monkeypatch.setattr(table_module, "_CACHE_LIMIT_BYTES", sum(sizes) + 2000)
    newest = table_of(tiny.rows(6))
    assert {path.name for path in cache.iterdir()} == {tables[0].key, tables[2].key, newest.key}


def test_empty_table() -> None:
    source = open_data({"text": [], "label": []})
    table = open_table(source, SCHEMA, encoder())
    assert len(table) == 0 and table.labels().names == [] and table.labels().starts.tolist() == [0]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write"):
        table_of(tiny.rows(3))


def test_several_at_once(cache: Path) -> None:
    """As a grid search with several workers does with the rows of one fold."""
    rows = tiny.rows(2000)
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: table_of(rows), range(4)))
    assert len({table.key for table in tables}) == 1
    assert [path.name for path in cache.iterdir()] == [tables[0].key]
    assert len({b"".join(part.tobytes() for i in range(2000) for part in table.example(i).sequences) for table in tables}) == 1


MEASURE = """
import json, sys
from pathlib import Path
from tokenizers import Tokenizer
from tunesmith.data import table as module
from tunesmith.data.schema import Schema, Source
from tunesmith.data.table import open_table
from tunesmith.data.tokens import TextEncoder, Truncation

module._BATCH_ROWS = 2048

class Rows:
    columns = ("text", "label")
    def __init__(self, count):
        self.count, self.name = count, str(count)
    def __iter__(self):
        for i in range(self.count):
            yield {"text": f"{'cat dog bird ' * 12}{i}", "label": "ab"[i % 2]}, Source("memory", i)
    def fingerprint(self, progress):
        return self.name
    def stamp(self):
        return None

peaks = []
for count in (2_000, 5_000, 50_000):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here
    table = open_table(Rows(count), Schema(("text",), "label"), TextEncoder(Tokenizer.from_file(sys.argv[1]), Truncation("head", 64)))
    assert len(table) == count
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peaks.append(int(status["VmHWM"].split()[0]) / 1024)
print(json.dumps([*peaks, (table.path / "table.arrow").stat().st_size / 2**20]))
"""


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Ten times the rows, and the peak grows by less than the size of the table: nothing of it is held."""
    tiny.tokenizer().save(str(tmp_path / "tokenizer.json"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "tokenizer.json")], capture_output=True, text=True, env=environment, check=True
    )
    _, small, large, size = json.loads(done.stdout)
    assert size > 7
    assert large - small < 7, f"{small:.0f} MiB for 5,000 rows, {large:.0f} MiB for 50,000; the table has {size:.0f} MiB"


def test_views_into_the_file_are_not_copies() -> None:
    table = table_of(tiny.rows(5))
    assert not table.example(0).sequences[0].flags.owndata and not table.example(0).sequences[0].flags.writeable
    assert table.example(0).sequences[0].dtype == np.int32
