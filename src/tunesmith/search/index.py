"""A search index in a directory: passages, BM25, vectors; built, added to, deleted from, searched. N passages.

`index.json` names the files of the current state with size and checksum. A change writes new files beside the old ones, then `index.json`,
and only then removes what is no longer named: a crash leaves the former state whole.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.bundle import DESCRIPTION, Bundle
from tunesmith.data.lexical import Lexical, Vocabulary
from tunesmith.errors import ModelError, StorageError, TunesmithError, UsageError, counted, did_you_mean, listing
from tunesmith.model.names import BUNDLED
from tunesmith.progress import QUIET, Progress
from tunesmith.search.manifest import FORMAT, MANIFEST, check_place, generation_of, read_manifest
from tunesmith.search.store import Passage, Segment, check_ids, with_text, write_segment
from tunesmith.search.unfinished import UNFINISHED, Unfinished
from tunesmith.search.vectors import Embedder, Nearest, chunked
from tunesmith.storage import checksum, locked, remove, sync, write_json, writing

_RRF = 60
_DEPTH = 100
_OF_AN_INDEX = re.compile(r"(?:texts|words|vectors|state)-\d+(?:\.[a-z]+)?")


@dataclass(frozen=True)
class Found:
    """One hit: rank from 1, the passage's id, title and text, its score, and its rank by words, by vectors and before re-ranking."""

    rank: int
    id: str
    score: float
    title: str
    text: str
    by_words: int | None
    by_vectors: int | None


class SearchIndex:
    """An opened index; `SearchIndex.build` makes one, `SearchIndex(directory)` opens it. Raises `ModelError` for a torn or damaged one.

    Verified on opening are the sizes of all files and the checksums of those up to 16 MiB; the checksums of greater ones, which are mapped
    into memory and read in part, when the index is changed or cannot be read.
    """

    def __init__(self, directory: Path | str, device: str = "auto") -> None:
        self.directory, self.device = Path(directory), device
        self.manifest = read_manifest(self.directory)
        with self._damage_told():
            self._open()

    def _open(self) -> None:
        names = self.manifest
        self.segments = [Segment(self.directory, number) for number in names["segments"]]
        self._before = np.cumsum([0, *map(len, self.segments)])
        state = self.directory / f"state-{names['generation']}"
        # one id a line: an id is a JSON string, which has no line break in it
        self.ids: list[str] = [json.loads(line) for line in (state / "ids.jsonl").read_text(encoding="utf-8").splitlines()]
        self.alive: np.ndarray = np.load(state / "alive.npy")
        words = [json.loads(line) for line in (state / "vocabulary.jsonl").read_text(encoding="utf-8").splitlines()]
        self.vocabulary = Vocabulary(words)
        self.lexical = Lexical.load(state / "bm25", self.vocabulary, len(self.ids))
        vectors = self.directory / f"vectors-{names['generation']}.usearch"
        self._nearest = Nearest.load(vectors, view=True) if names["model"] is not None else None
        self._embedder: Embedder | None = None
        self._reranker: Bundle | None = None

    def __len__(self) -> int:
        return int(self.alive.sum())

    # --- making and changing -----------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        passages: Iterable[Passage],
        directory: Path | str,
        *,
        name: str = "corpus",
        model: str | None = None,
        reranker: str | None = None,
        overwrite: bool = False,
        device: str = "auto",
        progress: Progress = QUIET,
    ) -> SearchIndex:
        """Index `passages` into `directory`.

        name: of the corpus, for messages; model: gives the vectors, None for words only; reranker: a cross-encoder's directory
        overwrite: replace the index that is there; device: what computes the vectors
        Raises `UsageError` when something else, or without `overwrite` an index, is in the way.
        """
        directory = Path(directory)
        check_place(directory, overwrite)
        model, reranker = _from_anywhere(model), _from_anywhere(reranker)
        embedder = Embedder(model, device) if model is not None else None
        if reranker is not None:
            _cross_encoder(reranker, "cpu")
        former = generation_of(directory)
        with locked(directory):
            change = _Change(directory, former + 1, progress)
            with change.undone_on_failure():
                change.begin([], [], np.zeros(0, np.bool_), Vocabulary(), name)
                change.add(passages)
                stamp = embedder.stamp if embedder is not None else None
                change.finish({"model": model, "reranker": reranker, "stamp": stamp}, embedder, None)
        return cls(directory, device)

    def add(self, passages: Iterable[Passage], *, name: str = "corpus", progress: Progress = QUIET) -> SearchIndex:
        """Add passages, whose ids must be new, and return the index as it is then. Only they are tokenised and get vectors."""
        return self._changed(lambda change: change.add(passages), name, progress)

    def delete(self, ids: Sequence[str], *, progress: Progress = QUIET) -> SearchIndex:
        """Delete the passages with these ids, and return the index as it is then. Raises `UsageError` for an id that is not there."""
        numbers = self._numbers_of(ids)
        return self._changed(lambda change: change.delete(numbers), "", progress)

    def replace(self, ids: Sequence[str], passages: Iterable[Passage], *, name: str = "corpus", progress: Progress = QUIET) -> SearchIndex:
        """Delete the passages with these ids and add others, which may have their ids: both, or nothing. Errors as of both."""
        numbers = self._numbers_of(ids)

        def alter(change: _Change) -> None:
            change.delete(numbers)
            change.add(passages)

        return self._changed(alter, name, progress)

    def _numbers_of(self, ids: Sequence[str]) -> list[int]:
        known = self._numbers()
        missing = [key for key in ids if key not in known]
        if missing:
            hint = did_you_mean(missing[0], list(known)[:10_000])
            raise UsageError(f"{self.directory}: there is no passage with the id {listing(list(map(repr, missing)), 5)}.{hint}")
        return sorted({known[key] for key in ids})

    def _changed(self, alter: Callable[[_Change], None], name: str, progress: Progress) -> SearchIndex:
        with locked(self.directory):
            # what is damaged would get a new checksum
            if read_manifest(self.directory, whole=True) != self.manifest:
                raise StorageError(f"{self.directory} was changed by another process in the meantime. Do the same again.")
            change = _Change(self.directory, self.manifest["generation"] + 1, progress, self.manifest["files"])
            with change.undone_on_failure():
                change.begin(self.manifest["segments"], self.ids, self.alive, self.vocabulary, name)
                alter(change)
                embedder = self._the_embedder() if self.manifest["model"] is not None and change.added else None
                kept = {key: self.manifest[key] for key in ("model", "reranker", "stamp")}
                vectors = self.directory / f"vectors-{self.manifest['generation']}.usearch" if self.manifest["model"] is not None else None
                change.finish(kept, embedder, vectors)
        return SearchIndex(self.directory, self.device)

    # --- searching ---------------------------------------------------------------------------------------------------------

    def search(self, query: str, count: int = 10, *, rerank: bool = True) -> list[Found]:
        """Return the `count` best passages for `query`, best first; fewer where no more share a word or there are no vectors.

        Ranks by words and by vectors are fused by the sum of 1 / (60 + rank) (Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion",
        section 2); with a cross-encoder the first 100, or `count` where that is more, are put in order by it, and `score` is its score.
        """
        if not query.strip():
            raise UsageError("the query is empty. Say what to search for.")
        with self._damage_told():
            return self._search(query, count, rerank)

    def _search(self, query: str, count: int, rerank: bool) -> list[Found]:
        depth = max(_DEPTH, count)
        lists = {"words": self.lexical.top(query, depth, self.alive)[0]}
        if self._nearest is not None:
            lists["vectors"] = self._nearest.top(self._the_embedder().vectors([query])[0], depth)[0]
        ranks = {kind: {number: rank for rank, number in enumerate(found.tolist(), 1)} for kind, found in lists.items()}
        fused: dict[int, float] = {}
        for found in ranks.values():
            for number, rank in found.items():
                fused[number] = fused.get(number, 0.0) + 1 / (_RRF + rank)
        # the one that shares words goes first where the fused scores are equal
        best = sorted(fused, key=lambda number: (-fused[number], ranks["words"].get(number, depth + 1), number))[:depth]
        scores = fused
        if rerank and self.manifest["reranker"] is not None and best:
            if self._reranker is None:
                self._reranker = _cross_encoder(self.manifest["reranker"], self.device)
            judged = self._reranker.predict([(query, self.passage(number).whole) for number in best])
            scores = {number: one.score for number, one in zip(best, judged, strict=True)}
            best.sort(key=lambda number: -scores[number])
        result = []
        for rank, number in enumerate(best[:count], 1):
            passage = self.passage(number)
            by = [ranks.get(kind, {}).get(number) for kind in ("words", "vectors")]
            result.append(Found(rank, passage.id, scores[number], passage.title, passage.text, *by))
        return result

    def passage(self, number: int) -> Passage:
        """Return the passage with a number of its own."""
        segment = int(np.searchsorted(self._before, number, side="right")) - 1
        return self.segments[segment].passage(number - int(self._before[segment]))

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Within the block, turn a failure into the `ModelError` that names the damaged file, if there is one."""
        try:
            yield
        except TunesmithError:
            raise
        except Exception:
            if read_manifest(self.directory, whole=True) != self.manifest:
                raise StorageError(f"{self.directory} was changed by another process meanwhile. Open it again.") from None
            raise

    def _numbers(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.ids) if self.alive[number]}

    def _the_embedder(self) -> Embedder:
        if self._embedder is None:
            found = Embedder(self.manifest["model"], self.device)
            if found.stamp != self.manifest["stamp"]:
                raise ModelError(
                    f"the model {self.manifest['model']} is another one than that of the vectors in {self.directory}. Put the former model "
                    "back, or build the index again."
                )
            self._embedder = found
        return self._embedder


class _Change:
    """One change of an index: files of the new state, and what becomes of the passages' numbers."""

    def __init__(self, directory: Path, generation: int, progress: Progress, former: dict[str, Any] | None = None) -> None:
        self.directory, self.generation, self.progress = directory, generation, progress
        self.former = former if former is not None else {}
        self.added: list[int] = []
        self.deleted: list[int] = []

    @contextlib.contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Within the block, remove the files of the new state when it fails before that is named."""
        try:
            yield
        except BaseException:
            if not (self.directory / MANIFEST).is_file() or generation_of(self.directory) < self.generation:
                self._remove(lambda path: path.name.partition("-")[2].partition(".")[0] == str(self.generation))
            raise

    def _remove(self, useless: Callable[[Path], bool]) -> None:
        """Remove those files of an index that are `useless`; what else lies in its directory is somebody's."""
        for path in self.directory.iterdir():
            if _OF_AN_INDEX.fullmatch(path.name) and useless(path):
                remove(path)

    def begin(self, segments: list[int], ids: list[str], alive: np.ndarray, vocabulary: Vocabulary, name: str) -> None:
        self.segments, self.ids, self.alive, self.name = list(segments), list(ids), alive.copy(), name
        self.vocabulary = Vocabulary(vocabulary.numbers)  # which learns, while searches go by the former one

    def add(self, passages: Iterable[Passage]) -> None:
        bare: list[str] = []
        with writing(self.directory), self.progress.track(f"reading {self.name}", None, "passages") as tracker:
            new = write_segment(self.directory, self.generation, with_text(passages, bare), self.vocabulary, tracker.advance)
        check_ids(new, {key: number for number, key in enumerate(self.ids) if self.alive[number]}, self.name)
        if bare:
            are = "is" if len(bare) == 1 else "are"
            self.progress.say(f"note: {counted(len(bare), 'passage')} of {self.name} without text {are} left out: {listing(bare, 5)}.")
        if not new:
            raise UsageError(f"{self.name} has no passages{' with text' if bare else ''}.")
        self.added = list(range(len(self.ids), len(self.ids) + len(new)))
        self.segments.append(self.generation)
        self.ids += new
        self.alive = np.concatenate([self.alive, np.ones(len(new), np.bool_)])

    def delete(self, numbers: list[int]) -> None:
        self.deleted = numbers
        self.alive[numbers] = False

    def finish(self, kept: dict[str, Any], embedder: Embedder | None, vectors: Path | None) -> None:
        """Write the new state and name it; then remove what no state names."""
        opened = [Segment(self.directory, number) for number in self.segments]
        with writing(self.directory):
            state = self.directory / f"state-{self.generation}"
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            _write_lines(state / "ids.jsonl", self.ids)
            _write_lines(state / "vocabulary.jsonl", self.vocabulary.numbers)
            np.save(state / "alive.npy", self.alive)
            # what is deleted counts no more in the statistics of words
            words = [found for segment in opened for found in segment.words()]
            for number in np.flatnonzero(~self.alive).tolist():
                words[number] = words[number][:0]
            Lexical.of_numbers(words, self.vocabulary).save(state / "bm25")
            if kept["model"] is not None:
                self._write_vectors(opened, embedder, vectors)
            files = sorted(path for path in self.directory.rglob("*") if path.is_file() and self._is_of_this(path))
            for file in files:
                sync(file)
            sync(self.directory)
        write_json(
            self.directory / MANIFEST,
            {
                "format": FORMAT,
                "generation": self.generation,
                "segments": self.segments,
                "passages": int(self.alive.sum()),
                **kept,
                "files": dict(map(self._stamp, files)),
            },
        )
        self._remove(lambda path: not self._is_of_this(path))
        (self.directory / UNFINISHED).unlink(missing_ok=True)

    def _stamp(self, file: Path) -> tuple[str, Any]:
        """Return name, size and checksum; of a file of the former state those it had, since it never changes."""
        name = str(file.relative_to(self.directory))
        return name, self.former[name] if name in self.former else [file.stat().st_size, checksum(file)]

    def _is_of_this(self, path: Path) -> bool:
        first = path.relative_to(self.directory).parts[0]
        kind, _, number = first.partition("-")
        stem = number.partition(".")[0]
        if kind in ("texts", "words"):
            return stem.isdigit() and int(stem) in self.segments
        return kind in ("state", "vectors") and stem == str(self.generation)

    def _write_vectors(self, opened: list[Segment], embedder: Embedder | None, former: Path | None) -> None:
        if former is not None:
            nearest = Nearest.load(former, view=False)
        else:
            assert embedder is not None
            nearest = Nearest.new(embedder.width)
        nearest.remove(self.deleted)
        if self.added:
            assert embedder is not None
            self._add_vectors(nearest, opened[-1], embedder)
        nearest.save(self.directory / f"vectors-{self.generation}.usearch")

    def _add_vectors(self, nearest: Nearest, segment: Segment, embedder: Embedder) -> None:
        texts: Iterator[str] = (segment.passage(place).whole for place in range(len(segment)))
        number, unfinished = self.added[0], Unfinished(self.directory / UNFINISHED, embedder.key, embedder.width)
        try:
            with self.progress.track("vectors", len(segment), "passages") as tracker:
                for part in chunked(texts):
                    known = unfinished.taken
                    vectors = unfinished.part(part, lambda texts: embedder.vectors(texts, tracker.advance))
                    tracker.advance(unfinished.taken - known)
                    nearest.add(np.arange(number, number + len(part)), vectors)
                    number += len(part)
        except BaseException:
            if unfinished.kept:
                self.progress.say(f"vectors of {counted(unfinished.kept, 'passage')} are kept: the same command goes on with them.")
            raise
        finally:
            unfinished.close()
        if unfinished.taken:
            self.progress.say(f"vectors of {counted(unfinished.taken, 'passage')} are those of the run that was cut off.")


def _write_lines(path: Path, values: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value) + "\n" for value in values)


def _from_anywhere(name: str | None) -> str | None:
    """Return a model's name so that it is found from other working directories, too."""
    if name is None or not Path(name).is_dir() or (name in BUNDLED and not (Path(name) / DESCRIPTION).is_file()):
        return name
    return str(Path(name).absolute())


def _cross_encoder(directory: str, device: str) -> Bundle:
    bundle = Bundle.load(directory, device=device)
    if getattr(bundle.task, "ranker", None) != "cross-encoder":
        raise UsageError(
            f"the model in {directory} is for {bundle.task.sentence()}; a re-ranker is a cross-encoder: train one with --task ranking."
        )
    return bundle
