"""Full sequences made of many texts, and words hidden in them. T tokens, W words, P places, N sequences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded
from tunesmith.data.whole_words import WholeWordEncoder


class PackedTable(TokenTable):
    """The chosen rows of a table, one behind the other and a separator between them, cut into sequences as long as may be.

    Nothing is lost and nothing repeated; the last sequence may be shorter. As in Liu et al. 2019, "RoBERTa", section 4.2
    (FULL-SENTENCES), a sequence may hold the end of one text and the beginning of the next. Nothing is copied: what a sequence holds is
    read from the table's file when it is asked for.
    """

    def __init__(self, table: TokenTable, rows: np.ndarray, encoder: WholeWordEncoder) -> None:
        """rows: int[E], in the order in which they are put together; encoder: that of the table"""
        rows = np.asarray(rows, np.int64)
        self.base, self.rows, self.encoder = table, rows[table.tokens[rows] > 0], encoder
        # what ends a sequence divides texts, too; a tokenizer without such a token puts them together without
        self.separator = int(encoder.suffix[-1]) if len(encoder.suffix) else None
        digest = hashlib.blake2b(self.rows.astype("<i8").tobytes(), digest_size=8).hexdigest()
        self.name, self.key = table.name, f"{table.key}-packed-{digest}"
        sizes = table.tokens[self.rows].astype(np.int64)
        if self.separator is not None and len(sizes):
            sizes[:-1] += 1
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        total, budget = int(self._starts[-1]), encoder.budget
        begins = np.arange(0, total, budget)
        kept = np.minimum(begins + budget, total) - begins
        first = self.rows[np.searchsorted(self._starts, begins, side="right") - 1]
        self.line, self.text_key, self.blank = table.line[first], table.text_key[first], table.blank[first]
        self.group = table.group[first] if table.group is not None else None
        self.tokens = kept.astype(np.int32)
        self.kept = self.longest = (kept + encoder.truncation.max_length - budget).astype(np.int32)
        self.lost, self.sequences = np.zeros(len(kept), np.int32), np.ones(len(kept), np.int32)

    def example(self, index: int) -> Encoded:
        """Return sequence `index` as an example; its points are the first tokens of words, of which the first may be the rest of one."""
        ids, points = self._read(index)
        return Encoded([ids], [], int(self.tokens[index]), 0, points=points)

    def points(self, index: int) -> np.ndarray:
        """Return the points of one example, int32[W]."""
        return self._read(index)[1]

    def row(self, index: int) -> int:
        """Return the number, in the table that was packed, of the row with which sequence `index` begins."""
        return int(self.rows[np.searchsorted(self._starts, index * self.encoder.budget, side="right") - 1])

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        prefix, suffix, budget = self.encoder.prefix, self.encoder.suffix, self.encoder.budget
        begin, end = index * budget, min((index + 1) * budget, int(self._starts[-1]))
        pieces, words, place = [prefix], [len(prefix)], begin
        number = int(np.searchsorted(self._starts, begin, side="right")) - 1
        while place < end:
            row, start = int(self.rows[number]), int(self._starts[number])
            size = int(self.base.tokens[row])
            first, last = place - start, min(end - start, size)
            if first < last:
                text = np.arange(first, last)
                # the table keeps the row with special tokens round each of its sequences
                stored = text + text // budget * (len(prefix) + len(suffix)) + len(prefix)
                pieces.append(self.base.ids(row)[stored])
                points = self.base.points(row).astype(np.int64)
                points = points - len(prefix) - points // (budget + len(prefix) + len(suffix)) * (len(prefix) + len(suffix))
                inside = points[np.searchsorted(points, first) : np.searchsorted(points, last)]
                words.extend((inside - first + place - begin + len(prefix)).tolist())
                place += last - first
            if place < end and place == start + size and self.separator is not None:
                pieces.append(np.array([self.separator], np.int32))
                words.append(place - begin + len(prefix))
                place += 1
            number += 1
        pieces.append(suffix)
        return np.concatenate(pieces).astype(np.int32), np.unique(words).astype(np.int32)


@dataclass(frozen=True)
class Masking:
    """How words are hidden: `share` of them, of these 80 % by the mask, 10 % by random tokens, 10 % left as they are.

    Devlin et al. 2019, "BERT", section 3.1; whole words as in BERT's release of May 2019. What becomes of a word is drawn once for all of
    its tokens, as Joshi et al. 2020, "SpanBERT", section 3.1, do it for spans.
    mask: the token that hides; special: bool[V], tokens that are never hidden nor drawn
    """

    share: float
    mask: int
    special: np.ndarray

    def hide(self, example: Encoded, seed: int) -> tuple[Encoded, np.ndarray]:
        """Return the example, of one sequence and points that begin words, with words hidden, and the tokens that stood there, int32[P].

        Its points become the P places of these tokens. At least one word is hidden where there is any.
        """
        ids = example.sequences[0]
        generator = np.random.default_rng(seed)
        number = np.zeros(len(ids), np.int64)
        number[example.points] = 1
        number = np.cumsum(number) - 1
        # special tokens behind the last word would count for it; they are never hidden
        hidden = ~self.special[ids] & (number >= 0)
        words = np.unique(number[hidden])
        count = min(max(round(self.share * len(words)), 1), len(words))
        chosen = np.sort(generator.choice(words, count, replace=False)) if count else words
        how = generator.random(count)
        places = np.flatnonzero(hidden & np.isin(number, chosen))
        drawn = how[np.searchsorted(chosen, number[places])] if count else np.zeros(0)
        others = np.flatnonzero(~self.special)
        replaced = np.where(drawn < 0.8, self.mask, ids[places])
        random = drawn >= 0.9
        replaced[random] = others[generator.integers(0, len(others), int(random.sum()))]
        shown = ids.copy()
        shown[places] = replaced
        return replace(example, sequences=[shown], points=places.astype(np.int32)), ids[places]


def seed_of(ids: np.ndarray) -> int:
    """Return a seed that is the same for equal sequences of tokens."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=8).digest(), "little") >> 1
