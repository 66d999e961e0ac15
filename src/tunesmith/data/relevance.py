"""Judgements of relevance as rows: a query, a passage, and how relevant the one is to the other; triples are made into such rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tunesmith.data.beir import BeirSource
from tunesmith.data.measured import number_in
from tunesmith.data.schema import Example, Row, RowSource, Schema, Source, text_in
from tunesmith.errors import DataError, listing
from tunesmith.progress import QUIET, Progress

QUERIES = ("query", "question", "anchor")
_POSITIVES = ("positive", "positives", "pos")
_NEGATIVES = ("negative", "negatives", "neg", "hard_negative", "hard_negatives")
_WORDS = {"true": 1.0, "yes": 1.0, "relevant": 1.0, "false": 0.0, "no": 0.0, "irrelevant": 0.0, "not relevant": 0.0}


def grade_in(label: str) -> float | None:
    """Return the grade that a label says, 0 for one below (TREC marks spam by -1); None where it says none."""
    grade = _WORDS.get(label.casefold())
    if grade is None:
        grade = number_in(label)
    return None if grade is None or grade != grade else max(grade, 0.0)


def read_judged(row: Row, schema: Schema, source: Source) -> Example:
    """Read a row of query, passage and grade; behind the grade may stand its rank in a first stage of search."""
    texts = tuple(text_in(row.get(name), name, source) for name in schema.texts)
    value = row.get(schema.target) if schema.target is not None else None
    parts = list(value) if isinstance(value, list | tuple) else [value]
    parts = [int(part) if isinstance(part, bool) else part for part in parts]
    target = [text_in(part, str(schema.target), source).strip() for part in parts]
    query = texts[0].strip()
    return Example(texts, target if target[0] else None, False, query if query else None, source)


def as_rows(source: RowSource, *, ranker: str = "cross-encoder", candidates: int = 100, **_: Any) -> RowSource:
    """Return `source` as rows of judgements: triples and BEIR directories are taken apart, other rows are as they are.

    candidates: of a BEIR directory, how many passages per query the first stage finds for a cross-encoder to rank again
    """
    if isinstance(source, BeirSource):
        return source.prepared(whole=ranker == "bi-encoder", candidates=candidates)
    if isinstance(source, TripleSource):
        return source
    folded = {column.strip().casefold(): column for column in source.columns}
    query = next((folded[name] for name in QUERIES if name in folded), None)
    positive = next((folded[name] for name in _POSITIVES if name in folded), None)
    negatives = [column for name, column in folded.items() if _is_negative(name)]
    if query is None or positive is None or "passage" in folded:
        return source
    return TripleSource(source, query, positive, negatives)


def _is_negative(name: str) -> bool:
    return name in _NEGATIVES or name.startswith("negative_")


class TripleSource:
    """A `RowSource` of judgements over one of triples: the positive has grade 1, each negative 0. Each may be one text or a list."""

    columns: tuple[str, ...] = ("query", "passage", "label")

    def __init__(self, source: RowSource, query: str, positive: str, negatives: list[str]) -> None:
        self.name = source.name
        self._source, self._query, self._positive, self._negatives = source, query, positive, negatives

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        for row, place in self._source:
            query = text_in(row.get(self._query), self._query, place)
            if not query.strip():
                raise DataError(f"{place}: column {self._query!r} is empty. A triple needs a query, a positive and a negative.")
            found = list(_passages(row.get(self._positive), self._positive, place))
            if not found:
                raise DataError(f"{place}: column {self._positive!r} is empty. A triple needs a passage that is relevant to its query.")
            for passage in found:
                yield {"query": query, "passage": passage, "label": "1"}, place
            # rows of JSON lines may have other ones than the first row has
            further = [column for column in row if _is_negative(column.strip().casefold()) and column not in self._negatives]
            for column in [*self._negatives, *further]:
                for passage in _passages(row.get(column), column, place):
                    yield {"query": query, "passage": passage, "label": "0"}, place

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of the triples and of how they are taken apart."""
        how = repr((self._query, self._positive, self._negatives))
        return hashlib.blake2b((self._source.fingerprint(progress) + how).encode(), digest_size=32).hexdigest()

    def stamp(self) -> tuple[int, int] | None:
        """Return the stamp of the triples."""
        return self._source.stamp()


def _passages(value: Any, column: str, place: Source) -> Iterator[str]:
    items = value if isinstance(value, list | tuple) else [value]
    for number, item in enumerate(items, 1):
        if item is not None and not isinstance(item, str):
            which = f"item {number} of column" if isinstance(value, list | tuple) else "column"
            raise DataError(
                f"{place}: {which} {column!r} holds {type(item).__name__} {item!r:.60}; a passage, or a list of passages, is expected."
            )
        text = text_in(item, column, place)
        if text.strip():
            yield text


def only_grades(labels: list[str], place: str) -> DataError:
    """Return the error for labels of a row that are no grade."""
    return DataError(
        f"{place}: {listing(list(map(repr, labels)), 3)} says not how relevant a passage is. Write 0 for not relevant and 1 for relevant, "
        "or higher grades for more relevant ones."
    )
