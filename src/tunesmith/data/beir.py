"""A retrieval collection in the layout of BEIR: corpus.jsonl, queries.jsonl, and judgements in qrels/*.tsv or qrels.tsv.

Thakur et al. 2021, "BEIR", and github.com/beir-cellar/beir. A collection becomes rows of query, passage and grade.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.files import file_fingerprint, file_stamp, reading
from tunesmith.data.measured import number_in
from tunesmith.data.schema import Row, Source, text_in
from tunesmith.errors import DataError, listing
from tunesmith.progress import QUIET, Progress

if TYPE_CHECKING:
    from tunesmith.data.readers import TextSource

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one line of a qrels file says, and its line."""

    query: str
    passage: str
    grade: str
    line: int


def collection_of(path: Path) -> Path | None:
    """Return the BEIR directory that `path` is, or whose qrels file it is; None when it is neither."""
    with contextlib.suppress(OSError, ValueError):  # what is no path at all is told by who opens it as a file
        if path.is_dir():
            return path if (path / CORPUS).is_file() or (path / QUERIES).is_file() else None
        if path.suffix.lower() == ".tsv":
            places = [path.parent] if path.name == "qrels.tsv" else [path.parent.parent] if path.parent.name == QRELS else []
            return next((place for place in places if (place / CORPUS).is_file()), None)
    return None


def open_beir(path: Path, name: str) -> BeirSource:
    """Return the rows of a BEIR directory (its training judgements, where there are several files of them), or of one of its qrels files.

    Raises `DataError` when a file is missing.
    """
    directory = collection_of(path)
    assert directory is not None
    for file in (CORPUS, QUERIES):
        if not (directory / file).is_file():
            raise DataError(f"{directory}: it has no {file}. A retrieval collection has {CORPUS}, {QUERIES} and {QRELS}/*.tsv.")
    if not path.is_dir():
        return BeirSource(directory, path, name)
    found = {file.stem: file for file in sorted((directory / QRELS).glob("*.tsv"))} if (directory / QRELS).is_dir() else {}
    if (directory / f"{QRELS}.tsv").is_file():
        found.setdefault("qrels", directory / f"{QRELS}.tsv")
    if not found:
        raise DataError(f"{directory}: it has no judgements. Put them into {QRELS}.tsv, or into {QRELS}/train.tsv, dev.tsv and test.tsv.")
    main = next((found[stem] for stem in ("train", "qrels", "test", "dev") if stem in found), None)
    if main is None:
        raise DataError(
            f"{directory}: it has {listing([file.name for file in found.values()])}; name one of them in place of the directory."
        )
    others = {part: found[stem] for part, stem in _SPLITS.items() if stem in found and found[stem] != main}
    return BeirSource(directory, main, str(main), others)


class BeirSource:
    """A `RowSource` of judgements over a BEIR directory.

    companions: the source of its judgements for `valid` and `test` by that name, where it has them
    """

    columns: tuple[str, ...] = ("query_id", "query", "passage_id", "passage", "label")

    def __init__(
        self,
        directory: Path,
        qrels: Path,
        name: str,
        others: dict[str, Path] | None = None,
        *,
        whole: bool = False,
        candidates: int | None = None,
    ) -> None:
        self.directory, self.qrels, self.name = directory, qrels, name
        self._others = others if others is not None else {}
        self._whole, self._candidates = whole, candidates

    @property
    def whole(self) -> bool:
        """Whether its rows hold every passage of the collection, to be searched, not only candidates of each query."""
        return self._whole

    @property
    def companions(self) -> dict[str, BeirSource]:
        """The directory's other judgements, by the part of the data that they are for."""
        return {part: BeirSource(self.directory, path, str(path)) for part, path in self._others.items()}

    def prepared(self, *, whole: bool, candidates: int) -> BeirSource:
        """Return the source with rows for a bi-encoder (`whole`: the judged rows, and every passage once with an empty query),
        or for a cross-encoder (the BM25 `candidates` of each query, and what else is judged)."""
        return BeirSource(self.directory, self.qrels, self.name, self._others, whole=whole, candidates=None if whole else candidates)

    @property
    def candidates(self) -> int | None:
        """How many passages of BM25 stand beside the judged ones of each query; None without any."""
        return self._candidates

    def judged(self) -> BeirSource:
        """Return the source with the rows that somebody judged, and no others."""
        return BeirSource(self.directory, self.qrels, self.name, self._others)

    def __iter__(self) -> Iterator[tuple[Row, Source]]:
        judged: dict[str, list[Judgement]] = {}
        for judgement in self._judgements():
            judged.setdefault(judgement.query, []).append(judgement)
        queries = {key: text for key, text, _ in texts_of(self._open(QUERIES))}
        ids, passages = [], []
        for key, text, _ in texts_of(self._open(CORPUS)):
            ids.append(key)
            passages.append(text)
        number = {key: place for place, key in enumerate(ids)}
        if len(number) < len(ids):
            twice = next(key for place, key in enumerate(ids) if number[key] != place)
            raise DataError(f"{self.directory / CORPUS}: the _id {twice!r} is there more than once. Give each passage its own.")
        from tunesmith.data.lexical import Lexical  # numpy is not needed to open a table

        stage = Lexical.of(passages) if self._candidates is not None else None
        for query, found in judged.items():
            if query not in queries:
                raise DataError(f"{self.name}:{found[0].line}: there is no query {query!r} in {self.directory / QUERIES}.")
            grades: dict[str, Judgement] = {}
            for one in found:
                if one.passage not in number:
                    raise DataError(f"{self.name}:{one.line}: there is no passage {one.passage!r} in {self.directory / CORPUS}.")
                grades[one.passage] = one
            ranks: dict[str, int] = {}
            if stage is not None and self._candidates is not None:
                top = stage.top(queries[query], self._candidates)[0]
                ranks = {ids[place]: rank for rank, place in enumerate(top.tolist(), 1)}
            for key in [*ranks, *(key for key in grades if key not in ranks)]:
                label = grades[key].grade if key in grades else "0"
                row = {"query_id": query, "query": queries[query], "passage_id": key, "passage": passages[number[key]]}
                line = grades[key].line if key in grades else found[0].line
                yield {**row, "label": [label, f"#{ranks.get(key, 0)}"] if stage is not None else label}, Source(self.name, line)
        if self._whole:
            for key, passage in zip(ids, passages, strict=True):
                yield (
                    {"query_id": "", "query": "", "passage_id": key, "passage": passage, "label": "0"},
                    Source(str(self.directory / CORPUS), number[key] + 1),
                )

    def _open(self, file: str) -> TextSource:
        from tunesmith.data.readers import TextSource

        return TextSource(self.directory / file, str(self.directory / file), "jsonl", None)

    def _judgements(self) -> Iterator[Judgement]:
        from tunesmith.data.readers import TextSource

        self._refuse_without_header()
        source = TextSource(self.qrels, self.name, "tsv", None)
        columns = source.columns
        if len(columns) not in (3, 4):
            raise DataError(f"{self.name}: a qrels file has the columns query-id, corpus-id and score; found {listing(columns)}.")
        # BEIR's three columns, or TREC's four with the unused second one, both with a header
        query, passage, grade = (columns[0], columns[-2], columns[-1])
        for row, place in source:
            values = [text_in(row.get(name), name, place).strip() for name in (query, passage, grade)]
            if not all(values):
                raise DataError(f"{place}: a judgement needs a query, a passage and a score; found {row}.")
            yield Judgement(values[0], values[1], values[2], place.line)

    def _refuse_without_header(self) -> None:
        """TREC's own files have no names of columns; their first judgement would be lost as such."""
        with reading(self.qrels, self.name), open(self.qrels, encoding="utf-8-sig", errors="replace") as file:
            cells = file.readline().split()
        if len(cells) in (3, 4) and number_in(cells[-1]) is not None:
            names = "query-id, corpus-id, score" if len(cells) == 3 else "query-id, iteration, corpus-id, score"
            raise DataError(
                f"{self.name}:1: a judgement ({listing(cells)}) stands where the names of the columns must. Put a line before it, "
                f"with tabs between: {names}."
            )

    def fingerprint(self, progress: Progress = QUIET) -> str:
        """Return a hash of the collection's files and of how they are read."""
        digest = hashlib.blake2b(repr((self._whole, self._candidates, "bm25 1")).encode(), digest_size=32)
        for path in (self.directory / CORPUS, self.directory / QUERIES, self.qrels):
            digest.update(file_fingerprint(path, str(path), (), progress).encode())
        return digest.hexdigest()

    def stamp(self) -> tuple[int, int] | None:
        """Return size of all files together, and time of the last change of any."""
        stamps = [file_stamp(path, str(path)) for path in (self.directory / CORPUS, self.directory / QUERIES, self.qrels)]
        return sum(size for size, _ in stamps), max(time for _, time in stamps)


def texts_of(source: TextSource) -> Iterator[tuple[str, str, Source]]:
    """Yield id, text (title first, unless the text begins with it) and place of each line. Raises `DataError` for a line without `_id`."""
    for row, place in source:
        key = row.get("_id")
        if key is None:
            raise DataError(f"{place}: it has no _id. Each line is an object with _id and text, and title where there is one.")
        yield str(key), with_title(text_in(row.get("title"), "title", place), text_in(row.get("text"), "text", place)), place


def with_title(title: str, text: str) -> str:
    """Return the text with its title before it, unless it begins with that."""
    title, text = title.strip(), text.strip()
    return text if not title or text.startswith(title) else f"{title} {text}".strip()
