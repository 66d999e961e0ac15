"""BM25 over texts of any language: the first stage of a search, the miner of hard negatives, and the yardstick. N texts, Q queries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.scripts import UNSPACED
from tunesmith.progress import QUIET, Progress

# scripts written without spaces go character by character, as Lucene's StandardTokenizer has Chinese characters; all others by words,
# to which marks belong that Python does not count as letters
_TOKEN = re.compile(rf"[{UNSPACED}]|(?:[^\W_{UNSPACED}]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff])+")


def words_of(text: str) -> list[str]:
    """Return the words of a text, case folded; each character by itself in scripts without spaces."""
    return _TOKEN.findall(text.casefold())


class Vocabulary:
    """Words by number, in the order in which they were met."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.numbers: dict[str, int] = {word: number for number, word in enumerate(words)}

    def learn(self, text: str) -> np.ndarray:
        """Return the numbers of a text's words, int32[n]; new words get the next ones."""
        numbers = self.numbers
        return np.array([numbers.setdefault(word, len(numbers)) for word in words_of(text)], np.int32)

    def known(self, text: str) -> np.ndarray:
        """Return the numbers of those words of a text that are known, int32[n]."""
        return np.array([self.numbers[word] for word in words_of(text) if word in self.numbers], np.int32)


class _Lists(Sequence[list[int]]):
    """Arrays of numbers as lists, which are far greater and of which no more than one is needed at a time."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, place: Any) -> Any:
        found = self._arrays[place]
        return [one.tolist() for one in found] if isinstance(place, slice) else found.tolist()


class Lexical:
    """BM25 (Robertson and Zaragoza 2009, section 3.4) in Lucene's form as bm25s computes it: k1 1.5, b 0.75, no stemming, no stop words."""

    def __init__(self, engine: Any, vocabulary: Vocabulary, size: int) -> None:
        self._engine, self.vocabulary, self.size = engine, vocabulary, size

    @classmethod
    def of(cls, texts: Sequence[str], progress: Progress = QUIET) -> Lexical:
        """Index `texts`."""
        vocabulary = Vocabulary()
        with progress.track("indexing words", len(texts), "texts") as tracker:

            def learned() -> Iterator[np.ndarray]:
                for text in texts:
                    yield vocabulary.learn(text)
                    tracker.advance()

            return cls.of_numbers(list(learned()), vocabulary)

    @classmethod
    def of_numbers(cls, texts: Sequence[np.ndarray], vocabulary: Vocabulary) -> Lexical:
        """Index texts that are numbers of words already, each int32[n]."""
        import bm25s
        from bm25s.tokenization import Tokenized

        if not any(map(len, texts)):
            return cls(None, vocabulary, len(texts))
        engine = bm25s.BM25()
        # a text without words still has its place
        engine.index(Tokenized(ids=_Lists(texts), vocab=dict(vocabulary.numbers)), show_progress=False)
        return cls(engine, vocabulary, len(texts))

    def scores(self, query: str) -> np.ndarray:
        """Return float32[N], the score of every text; 0 for those that share no word with `query`."""
        found = self.vocabulary.known(query)
        if self._engine is None or not len(found):
            return np.zeros(self.size, np.float32)
        return np.asarray(self._engine.get_scores_from_ids(found.tolist()), np.float32)

    def top(self, query: str, count: int, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the `count` best texts, int64[k], and their scores, best first, equals in their order; none that scores 0.

        keep: bool[N], the texts that may be found; None for all
        """
        scores = self.scores(query)
        if keep is not None:
            scores = np.where(keep, scores, 0)
        count = min(count, int(np.count_nonzero(scores > 0)))
        if not count:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        least = np.partition(scores, self.size - count)[self.size - count]
        near = np.flatnonzero(scores >= least)
        best = near[np.argsort(-scores[near], kind="stable")][:count]
        return best, scores[best]

    def save(self, directory: Path) -> None:
        """Write the index, without its vocabulary, into a new directory."""
        directory.mkdir()
        if self._engine is not None:
            self._engine.vocab_dict = {}
            self._engine.save(str(directory), show_progress=False)

    @classmethod
    def load(cls, directory: Path, vocabulary: Vocabulary, size: int) -> Lexical:
        """Open what `save` wrote, mapped into memory, for `size` texts."""
        import bm25s

        if not any(directory.iterdir()):
            return cls(None, vocabulary, size)
        return cls(bm25s.BM25.load(str(directory), mmap=True, load_vocab=False), vocabulary, size)
