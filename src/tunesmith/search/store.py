"""The passages of an index on disk: immutable segments of texts and of their words, mapped into memory. N passages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.beir import with_title
from tunesmith.data.lexical import Vocabulary
from tunesmith.data.schema import Row, RowSource, text_in
from tunesmith.errors import DataError, did_you_mean, listing

_IDS = ("_id", "id", "passage_id", "doc_id", "docid", "document_id")
_TEXTS = ("text", "passage", "body", "content", "article", "document", "sentence", "review", "description")
_TITLES = ("title", "headline", "heading")


@dataclass(frozen=True)
class Passage:
    """One passage: its id, its title (empty without one) and its text."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text, as they are searched."""
        return with_title(self.title, self.text)


def passages_of(source: RowSource, text: str | None = None) -> Iterator[Passage]:
    """Yield the passages of a corpus's rows; without a column of ids a passage's id is the number of its row.

    text: the column of the text where it has no usual name
    Raises `DataError` when no column can be the text, and for a row without an id.
    """
    folded = {column.strip().casefold(): column for column in source.columns}
    if text is not None and text not in source.columns:
        hint = did_you_mean(text, source.columns)
        raise DataError(f"{source.name}: there is no column {text!r}.{hint} Columns: {listing(source.columns, 40)}.")
    chosen = text if text is not None else next((folded[name] for name in _TEXTS if name in folded), None)
    if chosen is None and len(source.columns) == 1:
        chosen = source.columns[0]
    if chosen is None:
        raise DataError(
            f"{source.name}: cannot tell which column is the text. Name it {' or '.join(_TEXTS[:2])}, or say it with --text. "
            f"Columns: {listing(source.columns, 40)}."
        )
    key = next((folded[name] for name in _IDS if name in folded), None)
    title = next((folded[name] for name in _TITLES if name in folded and folded[name] != chosen), None)
    for number, (row, place) in enumerate(source, 1):
        name = _id_in(row, key, str(place)) if key is not None else str(number)
        yield Passage(name, text_in(row.get(title), title, place) if title is not None else "", text_in(row.get(chosen), chosen, place))


def with_text(passages: Iterable[Passage], bare: list[str]) -> Iterator[Passage]:
    """Yield the passages that have a text or a title, which alone can be found; the ids of others go to `bare`."""
    for passage in passages:
        if passage.whole.strip():
            yield passage
        else:
            bare.append(passage.id)


def _id_in(row: Row, column: str, place: str) -> str:
    value = row.get(column)
    if value is None or isinstance(value, list | tuple | dict) or not str(value).strip():
        raise DataError(f"{place}: column {column!r} holds {value!r:.60}; a passage needs an id there.")
    return str(value).strip()


class Segment:
    """Passages that were added together, in files `texts-G.bin`, `texts-G.npy` (where each begins) and `words-G.bin`, `words-G.npy`."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self._starts = np.load(directory / f"texts-{number}.npy", mmap_mode="r")
        self._texts = _mapped(directory / f"texts-{number}.bin", np.uint8)
        self._word_starts = np.load(directory / f"words-{number}.npy", mmap_mode="r")
        self._words = _mapped(directory / f"words-{number}.bin", np.int32)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def passage(self, place: int) -> Passage:
        """Return the passage at `place`."""
        raw = self._texts[self._starts[place] : self._starts[place + 1]].tobytes()
        return Passage(*json.loads(raw))

    def words(self) -> list[np.ndarray]:
        """Return the words of each passage by number, int32[n]."""
        return [self._words[a:b] for a, b in zip(self._word_starts[:-1].tolist(), self._word_starts[1:].tolist(), strict=True)]


def write_segment(directory: Path, number: int, passages: Iterable[Passage], vocabulary: Vocabulary, advance: Any) -> list[str]:
    """Write a segment, learning new words; returns the ids of its passages."""
    starts, word_starts, ids = [0], [0], []
    with (directory / f"texts-{number}.bin").open("wb") as texts, (directory / f"words-{number}.bin").open("wb") as words:
        for passage in passages:
            raw = json.dumps([passage.id, passage.title, passage.text], ensure_ascii=False).encode("utf-8", "replace")
            texts.write(raw)
            starts.append(starts[-1] + len(raw))
            known = vocabulary.learn(passage.whole)
            words.write(known.tobytes())
            word_starts.append(word_starts[-1] + len(known))
            ids.append(passage.id)
            advance(1)
    np.save(directory / f"texts-{number}.npy", np.array(starts, np.int64))
    np.save(directory / f"words-{number}.npy", np.array(word_starts, np.int64))
    return ids


def _mapped(path: Path, kind: Any) -> np.ndarray:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def check_ids(ids: list[str], known: dict[str, int], name: str) -> None:
    """Raise `DataError` when an id is there twice, or is `known` already."""
    seen: set[str] = set()
    twice = [key for key in ids if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    if twice:
        stand = "1 id stands" if len(twice) == 1 else f"{len(twice):,} ids stand"
        raise DataError(f"{name}: {stand} there more than once: {listing(twice, 5)}. Give each passage its own.")
    there = [key for key in ids if key in known]
    if there:
        are = "a passage with this id is" if len(there) == 1 else f"{len(there):,} passages with these ids are"
        raise DataError(
            f"{name}: {are} in the index already: {listing(there, 5)}. Delete them first (--delete), or give the new ones other ids."
        )
