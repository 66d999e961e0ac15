"""The token table: a file of texts, tokenised once, kept as memory-mapped Arrow under a key made of its content.

One Arrow row per example. Nothing of a table's size is ever held in memory but a few numbers per example.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.collecting import sparing_what_exists
from tunesmith.data.likeness import text_key
from tunesmith.data.schema import Example, RowSource, Schema, examples_of, joined
from tunesmith.data.tokens import NO_POINTS, Encoded, by_size
from tunesmith.errors import DataError, StorageError
from tunesmith.progress import QUIET, Progress
from tunesmith.storage import new_directory, remove

if TYPE_CHECKING:
    from tunesmith.data.tokens import ExampleEncoder

_FORMAT = 1  # raised whenever the layout or the meaning of a column changes
_CHUNK_ROWS = 1024
_BATCH_ROWS = 65_536
_BATCH_TOKENS = 8_000_000
_CACHE_LIMIT_BYTES = 20 * 2**30


def cache_directory() -> Path:
    """Return where tables are kept: `$TUNESMITH_CACHE`, else `~/.cache/tunesmith`."""
    chosen = os.environ.get("TUNESMITH_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "tunesmith"


@dataclass(frozen=True)
class Labels:
    """The labels of N examples, ragged: those of example i are `names[j] for j in codes[starts[i]:starts[i+1]]`.

    missing: bool[N], no label was given (an empty list of labels in JSONL is not missing)
    """

    codes: np.ndarray
    starts: np.ndarray
    names: list[str]
    missing: np.ndarray
    from_list: bool


class TokenTable:
    """A tokenised file. N examples.

    name: shown to the user; key: digest of content, tokenizer and settings
    line: int64[N], where each example's row begins; text_key: uint64[N], equal for equal texts; last_key: the same of the last text alone
    tokens, lost: int32[N], tokens of the whole text, and how many are in no sequence
    kept, longest, sequences: int32[N], tokens in all sequences, in the longest, number of sequences
    group: uint64[N] or None, equal for rows of one group, 0 for a row without
    blank: bool[N], the text is empty or white space
    """

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow as pa

        self.path, self.name, self.key = path, name, path.name
        # the map must stay referenced: the arrays below are views into it
        self._map = pa.memory_map(str(path / "table.arrow"))
        reader = pa.ipc.open_file(self._map)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ids = [_ragged(batch.column("ids")) for batch in batches]
        self._lengths = [_ragged(batch.column("lengths")) for batch in batches]
        # of pairs only, as many as there are lengths
        self._borders = [_ragged(batch.column("borders"))[0] for batch in batches if "borders" in batch.schema.names]
        self._points = [_ragged(batch.column("points")) for batch in batches if "points" in batch.schema.names]
        self._offsets = [_ragged(batch.column("offsets")) for batch in batches if "offsets" in batch.schema.names]
        self._first: list[int] = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()
        self._batches = batches

        def column(name: str, kind: type) -> np.ndarray:
            parts = [batch.column(name).to_numpy(zero_copy_only=False) for batch in batches]
            return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)

        self.line = column("line", np.int64)
        self.text_key = column("text_key", np.uint64)
        self.last_key = column("last_key", np.uint64) if "last_key" in reader.schema.names else self.text_key
        self.tokens = column("tokens", np.int32)
        self.lost = column("lost", np.int32)
        self.blank = column("blank", np.bool_)
        self.kept = column("kept", np.int32)
        self.longest = column("longest", np.int32)
        self.sequences = column("sequences", np.int32)
        self.group = column("group", np.uint64) if reader.schema.metadata.get(b"group") == b"1" else None

    def __len__(self) -> int:
        return len(self.line)

    def example(self, index: int) -> Encoded:
        """Return one example without offsets; its sequences are views into the file."""
        batch, row = self._place(index)
        lengths, starts = self._lengths[batch]
        own = slice(int(starts[row]), int(starts[row + 1]))
        ids = self.ids(index)
        # most are of a single sequence, and cutting a batch of them in general takes as long as a whole step of a head
        sequences = [ids] if own.stop - own.start == 1 else np.split(ids, np.cumsum(lengths[own])[:-1])
        borders = self._borders[batch][own].tolist() if self._borders else []
        return Encoded(sequences, [], int(self.tokens[index]), int(self.lost[index]), borders, self.points(index))

    def ids(self, index: int) -> np.ndarray:
        """Return the tokens of all sequences of one example, int32[kept], a view into the file."""
        batch, row = self._place(index)
        ids, starts = self._ids[batch]
        return ids[starts[row] : starts[row + 1]]

    def points(self, index: int) -> np.ndarray:
        """Return the points of one example, int32[P], none for a task without."""
        if not self._points:
            return NO_POINTS
        batch, row = self._place(index)
        points, starts = self._points[batch]
        return points[starts[row] : starts[row + 1]]

    def offsets(self, index: int) -> np.ndarray:
        """Return int32[T, 2], the characters of all tokens of one example; only of a table whose encoder `keeps_text`."""
        batch, row = self._place(index)
        offsets, starts = self._offsets[batch]
        return offsets[starts[row] : starts[row + 1]].reshape(-1, 2)

    def text(self, index: int) -> str:
        """Return the last text of one example; only of a table whose encoder `keeps_text`."""
        batch, row = self._place(index)
        text: str = self._batches[batch].column("text")[row].as_py()
        return text

    def mended(self) -> dict[str, list[int]]:
        """Return what was put right when the rows were read, and in which rows; only of a table whose encoder `keeps_text`."""
        found: dict[str, list[int]] = {}
        for first, batch in zip(self._first, self._batches, strict=False):
            for row, sentences in enumerate(batch.column("mended").to_pylist(), first):
                for sentence in sentences:
                    found.setdefault(sentence, []).append(row)
        return found

    def _place(self, index: int) -> tuple[int, int]:
        """Return the batch that an example is in, and its row there."""
        batch = bisect_right(self._first, index) - 1
        return batch, index - self._first[batch]

    def labels(self) -> Labels:
        """Read all labels as codes into the list of distinct ones, in order of first appearance."""
        import pyarrow as pa

        chunks = [batch.column("labels") for batch in self._batches]
        column = pa.chunked_array(chunks, type=pa.list_(pa.string()))
        names: dict[str, int] = {}
        codes, sizes, missing = [], [], []
        for chunk in column.chunks:
            encoded = chunk.flatten().dictionary_encode()
            local = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int32)
            codes.append(local[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else np.zeros(0, np.int32))
            sizes.append(chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
            missing.append(chunk.is_null().to_numpy(zero_copy_only=False))
        starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]) if sizes else np.zeros(1, np.int64)
        return Labels(
            np.concatenate(codes) if codes else np.zeros(0, np.int32),
            starts.astype(np.int64),
            list(names),
            np.concatenate(missing) if missing else np.zeros(0, np.bool_),
            (self.path / "labels-are-lists").exists(),
        )


def examples_in(table: TokenTable, source: RowSource, schema: Schema, rows: np.ndarray, progress: Progress = QUIET) -> list[Example] | None:
    """Return the examples of the rows with numbers `rows` (int[E]), in that order, read again from the `source` of `table`.

    None when the source is gone or holds other texts there than those that were tokenised.
    """
    try:
        found = examples_of(source, schema, rows, progress)
    except DataError:
        return None
    keys = [_key_of(example.texts) for example in found]
    return found if np.array_equal(np.array(keys, np.uint64), table.text_key[rows]) else None


def _key_of(texts: Sequence[str]) -> int:
    return text_key(joined(texts))


def _ragged(column: Any) -> tuple[np.ndarray, np.ndarray]:
    return column.values.to_numpy(), column.offsets.to_numpy()


def open_table(source: RowSource, schema: Schema, encoder: ExampleEncoder, progress: Progress = QUIET) -> TokenTable:
    """Return the table of `source`, from the cache when its content, the tokenizer and the settings are those of an earlier run.

    Raises `DataError` for rows that cannot be read, `StorageError` when the cache cannot be written.
    """
    import tokenizers

    # a tokenizer's file means what the library of the day makes of it
    settings = [_FORMAT, tokenizers.__version__, type(encoder).__name__, *encoder.settings()]
    settings += ["last_key"] if len(schema.texts) > 1 else []
    settings += [schema.texts, schema.target, schema.group, schema.needs_group, schema.read, schema.context, schema.document]
    stamp = source.stamp()
    digest = hashlib.blake2b(digest_size=16)
    for part in (repr(settings), encoder.tokenizer.to_str(), source.fingerprint(progress)):
        digest.update(part.encode())
    path = cache_directory() / "tables" / digest.hexdigest()
    table = _open(path, source.name)
    if table is None:
        try:
            _build(path, source, schema, encoder, progress, stamp)
        except StorageError as error:
            raise StorageError(
                f"{error} This is the cache of tokenised texts; the environment variable TUNESMITH_CACHE names another directory for it."
            ) from error
        evict(path.parent, keep=path, limit=_CACHE_LIMIT_BYTES)
        table = TokenTable(path, source.name)
    return table


def _open(path: Path, name: str) -> TokenTable | None:
    """Return the table at `path`, None when there is none or a damaged one, which is removed."""
    import pyarrow as pa

    if not path.is_dir():
        return None
    try:
        table = TokenTable(path, name)
    except (pa.ArrowException, OSError):
        shutil.rmtree(path, ignore_errors=True)
        return None
    note_use(path)
    return table


def note_use(path: Path) -> None:
    """Tell `evict` that what is at `path` was used now."""
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(path)


def _build(
    path: Path, source: RowSource, schema: Schema, encoder: ExampleEncoder, progress: Progress, stamp: tuple[int, int] | None
) -> None:
    """Write the table of `source`, whose fingerprint was taken when it had this `stamp`."""
    import pyarrow as pa

    kinds = {
        "line": pa.int64(),
        "text_key": pa.uint64(),
        "group": pa.uint64(),
        "labels": pa.list_(pa.string()),
        "blank": pa.bool_(),
        "tokens": pa.int32(),
        "lost": pa.int32(),
        "kept": pa.int32(),
        "longest": pa.int32(),
        "sequences": pa.int32(),
        "lengths": pa.list_(pa.int32()),
        "ids": pa.list_(pa.int32()),
    }
    if len(schema.texts) > 1:
        kinds["last_key"] = pa.uint64()
    if encoder.pairs:
        kinds["borders"] = pa.list_(pa.int32())
    if encoder.has_points:
        kinds["points"] = pa.list_(pa.int32())
    if encoder.keeps_text:
        kinds |= {"offsets": pa.list_(pa.int32()), "text": pa.large_string(), "mended": pa.list_(pa.string())}
    fields = pa.schema(kinds.items(), metadata={"group": "1" if schema.group else "0"})
    lists = False
    with new_directory(path, replace=False) as directory, sparing_what_exists():
        with pa.OSFile(str(directory / "table.arrow"), "wb") as sink, pa.ipc.new_file(sink, fields) as writer:
            rows: dict[str, list[Any]] = {name: [] for name in kinds}
            size = 0
            with progress.track(f"tokenising {source.name}", None, "rows") as tracker:
                for examples, encoded in _encoded(encoder, schema.examples(source)):
                    lists = lists or any(example.target_is_list for example in examples)
                    for name, values in _columns(examples, encoded, encoder, len(schema.texts)).items():
                        rows[name] += values
                        size += sum(map(len, values)) if name == "ids" else 0
                    tracker.advance(len(examples))
                    if size >= _BATCH_TOKENS or len(rows["line"]) >= _BATCH_ROWS:
                        writer.write_batch(_record_batch(rows, fields))
                        rows, size = {name: [] for name in kinds}, 0
                if rows["line"]:
                    writer.write_batch(_record_batch(rows, fields))
        if source.stamp() != stamp:
            raise DataError(f"{source.name}: the file changed while it was read. Start again when nothing writes to it any more.")
        if lists:
            (directory / "labels-are-lists").touch()


def _columns(examples: Sequence[Example], encoded: Sequence[Encoded], encoder: ExampleEncoder, texts: int) -> dict[str, list[Any]]:
    """Return the values of examples, of so many texts each, and of what they were encoded to, by column."""
    lengths = [list(map(len, one.sequences)) for one in encoded]
    columns: dict[str, list[Any]] = {
        "line": [example.source.line for example in examples],
        "text_key": [_key_of(example.texts) for example in examples],
        "group": [example.group_key for example in examples],
        "labels": [example.target for example in examples],
        "blank": [not any(map(str.strip, example.texts)) for example in examples],
        "tokens": [one.tokens for one in encoded],
        "lost": [one.lost for one in encoded],
        "kept": list(map(sum, lengths)),
        "longest": list(map(max, lengths)),
        "sequences": list(map(len, lengths)),
        "lengths": lengths,
        "ids": [_joined(one.sequences) for one in encoded],
    }
    if texts > 1:
        columns["last_key"] = [text_key(example.texts[-1]) for example in examples]
    if encoder.pairs:
        columns["borders"] = [one.borders for one in encoded]
    if encoder.has_points:
        columns["points"] = [one.points for one in encoded]
    if encoder.keeps_text:
        columns["offsets"] = [_joined(one.offsets).ravel() for one in encoded]
        columns["text"] = [example.texts[-1] for example in examples]
        columns["mended"] = [list(example.mended) for example in examples]
    return columns


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _record_batch(rows: dict[str, list[Any]], fields: Any) -> Any:
    import pyarrow as pa

    columns = []
    for field in fields:
        values = rows[field.name]
        if field.name in ("ids", "lengths", "borders", "points", "offsets"):
            starts = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
            flat = np.concatenate(values).astype(np.int32)
            columns.append(pa.ListArray.from_arrays(pa.array(starts), pa.array(flat)))
        else:
            columns.append(pa.array(values, field.type))
    return pa.record_batch(columns, schema=fields)


def _encoded(encoder: ExampleEncoder, examples: Iterator[Example]) -> Iterator[tuple[list[Example], list[Encoded]]]:
    """Yield the examples in chunks, with what they are encoded to; a chunk is tokenised while the one before it is written."""
    with ThreadPoolExecutor(1) as worker:
        former: tuple[list[Example], Future[list[Encoded]]] | None = None
        for chunk in by_size(examples, lambda example: sum(map(len, example.texts)), _CHUNK_ROWS):
            after = chunk, worker.submit(encoder.encode_examples, chunk, offsets=encoder.keeps_text)
            if former is not None:
                yield former[0], former[1].result()
            former = after
        if former is not None:
            yield former[0], former[1].result()


def evict(cache: Path, keep: Path, limit: int) -> None:
    """Remove what a cache used longest ago until it takes `limit` bytes. Open maps of what is removed stay valid.

    Only directories and files named by a digest, and what a killed process left of them, are of the cache; all else is left alone.
    """
    sizes = {}
    for path in cache.iterdir():
        # another process may remove one at the same time, and where several users share a cache some are not ours to look into
        with contextlib.suppress(OSError):
            changed = path.stat().st_mtime
            if _ENTRY.fullmatch(path.stem):
                files = path.iterdir() if path.is_dir() else [path]
                sizes[path] = (changed, sum(file.stat().st_size for file in files))
            elif _LEFT.fullmatch(path.name) and changed < time.time() - 86_400:
                remove(path)
    total = sum(size for _, size in sizes.values())
    for path, (_, size) in sorted(sizes.items(), key=lambda item: item[1][0]):
        if total <= limit:
            break
        if path != keep:
            remove(path)
            total -= size


_ENTRY = re.compile(r"[0-9a-f]{32}")
_LEFT = re.compile(rf"\.{_ENTRY.pattern}\..*\.(tmp|old)")
