"""Spans of passages: right answers, the places of windows and answers in a batch, and the best spans by start and end scores.

E examples, W windows of one, R rows of combined outputs: of each window first the null position, then the passage's tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.data.batches import PackedBatch
from tunesmith.data.passages import PER_WINDOW, whole_characters
from tunesmith.data.table import Labels
from tunesmith.tasks.rows import Ragged

_CELLS = 4_000_000  # spans looked at together


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one passage.

    spans: (start, end, score), characters [start, end) of the passage, best first, each once
    null: the score of "no answer": the least over the windows of its start score plus its end score, as SQuAD 2.0's baseline has it
    """

    spans: list[tuple[int, int, float]]
    null: float

    @property
    def margin(self) -> float:
        """By how much "no answer" scores above the best span; infinite where there is none."""
        return self.null - self.spans[0][2] if self.spans else float("inf")


@dataclass(frozen=True)
class Best:
    """What judging needs of E `Found`.

    start, end: int64[E], characters of the best span, -1 where there is none; score, null: float64[E], its score and that of "no answer"
    total: float64[E], the logarithm of the sum of the exponentials of the scores of all spans that were found
    """

    start: np.ndarray
    end: np.ndarray
    score: np.ndarray
    null: np.ndarray
    total: np.ndarray

    @staticmethod
    def values(found: Iterable[Found]) -> np.ndarray:
        """Return float32[E, 5], which `of` reads. Places beyond 2^24 characters, behind 16 MB of one text, would be rounded."""
        rows = []
        for one in found:
            scores = np.array([score for *_, score in one.spans] or [0.0])
            best = one.spans[0] if one.spans else (-1, -1, 0.0)
            rows.append((*best, one.null, scores.max() + np.log(np.exp(scores - scores.max()).sum())))
        return np.array(rows, np.float32).reshape(-1, 5)

    @classmethod
    def of(cls, values: np.ndarray) -> Best:
        """Read float32[E, 5]."""
        start, end = values[:, :2].astype(np.int64).T
        return cls(start, end, *values[:, 2:].astype(np.float64).T)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def margin(self) -> np.ndarray:
        """float64[E], by how much "no answer" scores above the best span; infinite where there is none."""
        return np.where(self.start < 0, np.inf, self.null - self.score)

    def text(self, row: int, passage: str) -> str:
        """Return the best span in its passage, empty where there is none."""
        return passage[self.start[row] : self.end[row]] if self.start[row] >= 0 else ""


@dataclass(frozen=True)
class AnswerTargets:
    """The right answers of N questions, as texts."""

    labels: Labels

    def __len__(self) -> int:
        return len(self.labels.missing)

    def texts(self, row: int) -> list[str]:
        """Return the right answers of one question, none for one without."""
        starts = self.labels.starts
        return [self.labels.names[code] for code in self.labels.codes[starts[row] : starts[row + 1]]]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return bool[E], which questions have an answer."""
        return np.diff(self.labels.starts)[rows] > 0

    def stratum(self) -> np.ndarray:
        """Return int64[N], 1 for questions with an answer, 0 for those without."""
        return (np.diff(self.labels.starts) > 0).astype(np.int64)

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for questions with the same answers."""
        found = [
            hashlib.blake2b("\0".join(sorted(self.texts(row))).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for row in range(len(self))
        ]
        return np.frombuffer(b"".join(found), np.uint64)

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return how many questions have an answer, and how many have none."""
        has = self.take(rows)
        return {"with an answer": int(has.sum()), "without an answer": int((~has).sum())}


def windows_of(points: np.ndarray, count: int) -> np.ndarray:
    """Return int64[W, 3] of an example's `points` (see `PassageEncoder`); count: W."""
    return points[: PER_WINDOW * count].reshape(count, PER_WINDOW).astype(np.int64)


def places_of(windows: np.ndarray) -> np.ndarray:
    """Return int64[R]: of each window, int64[W, 3], the null position and then those of the passage's tokens."""
    sizes = windows[:, 2] - windows[:, 1] + 1
    first = np.cumsum(sizes) - sizes
    places = np.arange(sizes.sum()) + np.repeat(windows[:, 1] - first - 1, sizes)
    places[first] = windows[:, 0]
    return places


def best_spans(
    outputs: Ragged, windows: Sequence[np.ndarray], offsets: Sequence[np.ndarray], texts: Sequence[str], *, max_tokens: int, most: int
) -> Iterator[Found]:
    """Yield what is found in each passage: the best spans by start score i + end score j, i <= j, in one window.

    outputs: float32[R, 2] for each example; windows: int64[W, 3]; offsets: int32[T, 2], characters of all tokens of its sequences
    max_tokens: of a span; most: spans wanted for each passage

    All spans are looked at, not only those of the best starts and ends. A span found in two windows counts with its higher score.
    """
    start = 0
    while start < len(windows):
        stop = start + 1
        while stop < len(windows) and (outputs.starts[stop + 1] - outputs.starts[start]) * max_tokens <= _CELLS:
            stop += 1
        rows = slice(int(outputs.starts[start]), int(outputs.starts[stop]))
        table = _scored(outputs.values[rows], windows[start:stop], max_tokens)
        for i in range(start, stop):
            first, last = (int(outputs.starts[k]) - rows.start for k in (i, i + 1))
            yield _found(table[first:last], outputs[i], windows[i], offsets[i], texts[i], most)
        start = stop


def _scored(values: np.ndarray, windows: Sequence[np.ndarray], max_tokens: int) -> np.ndarray:
    """Return float32[R, max_tokens]: the score of the span that begins at each row and has so many tokens more; -inf where none can be."""
    sizes = np.concatenate([window[:, 2] - window[:, 1] + 1 for window in windows])
    ends = np.repeat(np.cumsum(sizes), sizes)
    rows = np.arange(len(values))
    null = np.zeros(len(values), np.bool_)
    null[np.cumsum(sizes) - sizes] = True
    table = np.full((len(values), max_tokens), -np.inf, np.float32)
    for more in range(min(max_tokens, int(sizes.max(initial=1)))):
        possible = np.flatnonzero(~null & (rows + more < ends))
        table[possible, more] = values[possible, 0] + values[possible + more, 1]
    return table


def _found(table: np.ndarray, values: np.ndarray, windows: np.ndarray, offsets: np.ndarray, text: str, most: int) -> Found:
    sizes = windows[:, 2] - windows[:, 1] + 1
    null = float(values[np.cumsum(sizes) - sizes].sum(1).min())
    flat = table.ravel()
    wanted = min(2 * most if len(windows) > 1 else most, len(flat))
    while True:
        spans = _read(flat, wanted, table.shape[1], places_of(windows), offsets, text)
        # spans of nothing but space, and the same ones of another window, leave room for more
        if len(spans) >= most or wanted == len(flat) or not np.isfinite(flat).sum() > wanted:
            return Found(spans[:most], null)
        wanted = min(4 * wanted, len(flat))


def _read(flat: np.ndarray, wanted: int, width: int, places: np.ndarray, offsets: np.ndarray, text: str) -> list[tuple[int, int, float]]:
    """Return the spans of the `wanted` highest scores in `flat` float32[R * width], best first, those of the same characters once."""
    best = np.argpartition(-flat, wanted - 1)[:wanted] if wanted < len(flat) else np.arange(len(flat))
    best = best[np.isfinite(flat[best])]
    best = best[np.lexsort((best, -flat[best]))]
    row, more = np.divmod(best, width)
    begins, ends = offsets[places[row], 0], offsets[places[row + more], 1]
    found: dict[tuple[int, int], float] = {}
    for begin, end, score in zip(begins.tolist(), ends.tolist(), flat[best].tolist(), strict=True):
        span = whole_characters(text, begin, end) if begin < end else (0, 0)
        if span[0] < span[1]:
            found.setdefault(span, score)
    return [(*span, score) for span, score in found.items()]


def batch_windows(batch: PackedBatch) -> np.ndarray:
    """Return int64[S, 3]: null position, first passage token and end of the passage of each window, in [0, T]."""
    assert batch.points is not None
    return batch.points[_mask(batch)].reshape(-1, PER_WINDOW).astype(np.int64)


def batch_answers(batch: PackedBatch) -> np.ndarray:
    """Return int64[A, 2]: first and last token of each place of an answer."""
    assert batch.points is not None
    return batch.points[~_mask(batch)].reshape(-1, 2).astype(np.int64)


def _mask(batch: PackedBatch) -> np.ndarray:
    """Return bool[P], which points are those of windows."""
    assert batch.point_counts is not None
    counts = batch.point_counts.astype(np.int64)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return within < np.repeat(PER_WINDOW * np.bincount(batch.example, minlength=batch.size), counts)
