"""The same text twice, and nearly the same: normalised keys, and near duplicates by sketches that are then verified.

Near means a Jaccard similarity of the texts' sets of character shingles (Broder 1997, "On the resemblance and containment
of documents"). Candidates come from banded locality-sensitive hashing (Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", chapter 3) of a sketch whose cost hardly depends on its size (Dahlgaard, Knudsen, Thorup 2017, "Fast Similarity
Sketching"); every candidate is then compared exactly. Memory is about 130 bytes a text, peaking near 200.
"""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from tunesmith.data.likeness import MULTIPLIER, WORDS, key_of, mix, normalise, shingles, similarity_of, sketch_of, two_bits
from tunesmith.storage import writing

Array = np.ndarray

NEAR = 0.8  # the similarity from which two texts count as near duplicates


_BANDS = 20
_MISS = 0.005  # largest chance that a pair exactly at the threshold shares no band
_NEIGHBOURS = 8  # a text is compared with so many others of its bucket, or the buckets of a template would cost their square
_BATCH = 1 << 18  # characters sketched at once: the arrays of one round then stay in the cache
_PART = 1 << 16  # texts of one band paired at once
_FAILURES = 16  # after so many comparisons in vain a text is compared no more with others in the same case
_SPOOL_BYTES = 64 << 20  # texts of candidates above this size wait on disk
_CACHED_SETS = 512
_NONE = np.zeros(0, np.uint32)


@dataclass(frozen=True, slots=True)
class Link:
    """Two rows with different texts and the Jaccard similarity, measured exactly, that makes them near duplicates."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that hang together: each text is the same as, or a near duplicate of, at least one other.

    rows: row numbers, ascending; texts: how many different ones; links: the verified pairs, one fewer than texts, that hold
    the group together, each text named by the first row it stands in
    """

    rows: tuple[int, ...]
    texts: int
    links: tuple[Link, ...]


class Deduplicator:
    """Finds near duplicates in two passes: `add` all texts, then `keep` those that `wanted` names, then ask.

    Rows are numbered in the order of `add`. Rows added as `reference=False` (a test file) are looked up among the others
    (`matches`) but form no groups. Results do not depend on the order of the rows. Use it in a `with` block: it holds a file.
    """

    def __init__(self, threshold: float = NEAR) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
        self.threshold = threshold
        least = 1 - _MISS ** (1 / _BANDS)
        # As many values to a band as still find a pair at the threshold; more would only save candidates, so 16 are enough.
        self._width = 16 if threshold == 1 else max(1, min(16, int(math.log(least) / math.log(threshold))))
        # Two bits of two different values agree by chance in one case of four (Li, König 2010, "b-Bit Minwise Hashing").
        values, agree = min(32 * WORDS, _BANDS * self._width), threshold + (1 - threshold) / 4
        self._allowed = math.ceil(values * (1 - agree) + 4 * math.sqrt(values * agree * (1 - agree)))
        self._keys: list[Array] = []
        self._bands: list[Array] = []
        self._bits: list[Array] = []
        self._reference: list[Array] = []
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 closed by __exit__
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, texts: Sequence[str], reference: bool = True) -> Array:
        """Take in the next rows' texts; return their keys, uint64[len(texts)], as `text_key` gives them."""
        normal = [normalise(text) for text in texts]
        keys = np.array([key_of(text) for text in normal], np.uint64)
        bands, bits = np.zeros((len(texts), _BANDS), np.uint32), np.zeros((len(texts), WORDS), np.uint64)
        filled = [row for row, text in enumerate(normal) if text]
        part_of = np.cumsum([len(normal[row]) for row in filled]) // _BATCH
        for part in np.split(np.array(filled, np.int64), np.flatnonzero(np.diff(part_of)) + 1):
            if len(part):
                sketch = sketch_of([normal[row] for row in part], _BANDS * self._width)
                bands[part], bits[part] = self._band_keys(sketch), two_bits(sketch)
        self._keys.append(keys)
        self._bands.append(bands)
        self._bits.append(bits)
        self._reference.append(np.full(len(texts), reference))
        return keys

    def _band_keys(self, sketch: Array) -> Array:
        values = sketch.reshape(len(sketch), _BANDS, self._width)
        key = np.zeros((len(sketch), _BANDS), np.uint64)
        for i in range(self._width):
            key = mix(key * MULTIPLIER + values[:, :, i])
        return (key >> np.uint64(32)).astype(np.uint32)

    def wanted(self) -> Array:
        """Return the rows, ascending, whose texts `keep` must be given: first rows of the texts that resemble another."""
        keys = np.concatenate(self._keys or [np.zeros(0, np.uint64)])
        # Distinct texts in the order of their keys: all that follows sees this order only, never that of the rows.
        distinct, self._first, self._text_of = np.unique(keys, return_index=True, return_inverse=True)
        reference = np.concatenate(self._reference or [np.zeros(0, bool)])
        self._is_reference = np.zeros(len(distinct), bool)
        self._is_reference[self._text_of[reference]] = True
        bits = np.concatenate(self._bits or [np.zeros((0, WORDS), np.uint64)])[self._first]
        self._bits, self._distinct_bits = [], bits
        self._parent = np.arange(len(distinct))
        self._links: list[tuple[int, int, float]] = []
        self._matches: dict[int, tuple[int, float]] = {}
        blank = np.flatnonzero(distinct == np.uint64(key_of("")))
        self._blank = int(blank[0]) if len(blank) else -1
        candidates = np.zeros(len(distinct), bool)
        for left, right in self._candidates():
            candidates[left] = candidates[right] = True
        self._kept: dict[int, tuple[int, int]] = {}
        return np.sort(self._first[candidates])

    def _candidates(self) -> Iterator[tuple[Array, Array]]:
        """Yield, part by part, pairs of distinct texts that share a band and could be similar enough, most similar first.

        Pairs that one group holds already are left out. In a large bucket only neighbours and the first few are paired.
        """
        for band in range(_BANDS):
            # One column at a time: all of them in one array, beside the parts they came in, would double the memory.
            column, following = self._column(band), self._column((band + 1) % _BANDS)
            # The next band as second key puts the most similar texts of a large bucket side by side.
            order = np.lexsort((following, column))
            order = order[order != self._blank]
            value = column[order]
            begins = np.flatnonzero(np.append(True, value[1:] != value[:-1])) if len(order) else np.zeros(0, np.int64)
            sizes = np.diff(np.append(begins, len(order)))
            for first in range(0, len(begins), _PART):
                begin = begins[first : first + _PART]
                size = sizes[first : first + _PART]
                yield from self._pairs(order, np.repeat(begin, size), np.repeat(size, size), int(begin[0]))

    def _column(self, band: int) -> Array:
        return np.concatenate([part[:, band] for part in self._bands] or [_NONE])[self._first]

    def _pairs(self, order: Array, start: Array, size: Array, offset: int) -> Iterator[tuple[Array, Array]]:
        """Yield pairs among the texts `order[offset:]`, whose buckets begin at `start` and have so many texts (`size`)."""
        for low in range(0, len(start), _PART):
            begin, many = start[low : low + _PART], size[low : low + _PART] > _NEIGHBOURS
            place = np.arange(offset + low, offset + low + len(begin))
            left, right = [], []
            for step in range(1, _NEIGHBOURS + 1):
                near = place[place - begin >= step]
                left.append(near - step)
                right.append(near)
                far = many & (place - begin >= _NEIGHBOURS + step)
                left.append(begin[far] + step - 1)
                right.append(place[far])
            one, two = order[np.concatenate(left)], order[np.concatenate(right)]
            both = self._is_reference[one] & self._is_reference[two]
            open_ = both & (self._parent[one] != self._parent[two])
            open_ |= ~both & (self._is_reference[one] | self._is_reference[two])
            one, two = one[open_], two[open_]
            apart = self._apart(one, two)
            closest = np.lexsort((np.maximum(one, two), np.minimum(one, two), apart))
            closest = closest[apart[closest] <= self._allowed]
            yield one[closest], two[closest]

    def _apart(self, one: Array, two: Array) -> Array:
        """Return in how many two-bit values the sketches of the texts differ."""
        differ = self._distinct_bits[one] ^ self._distinct_bits[two]
        return np.bitwise_count((differ | (differ >> np.uint64(1))) & np.uint64(0x5555555555555555)).sum(axis=1, dtype=np.int64)

    def keep(self, row: int, text: str) -> None:
        """Take the text of one row that `wanted` named; texts wait on disk when they are many."""
        data = text.encode("utf-8", "surrogatepass")
        with writing(tempfile.gettempdir()):
            self._spool.seek(self._end)
            self._spool.write(data)
        self._kept[row] = (self._end, len(data))
        self._end += len(data)

    def text(self, row: int) -> str:
        """Return the text of a row that `keep` was given, or of another row with the same normalised text."""
        begin, size = self._kept[int(self._first[self._text_of[row]])]
        self._spool.seek(begin)
        return self._spool.read(size).decode("utf-8", "surrogatepass")

    def verify(self) -> None:
        """Compare the candidates exactly; afterwards `groups` and `matches` can be asked."""
        of = functools.lru_cache(_CACHED_SETS)(lambda distinct: shingles(self.text(int(self._first[distinct]))))
        failures = np.zeros(len(self._first), np.uint8)
        failed: set[int] = set()
        for left, right in self._candidates():
            for one, two in zip(left.tolist(), right.tolist(), strict=True):
                pair = min(one, two) << 32 | max(one, two)
                # A family of texts just below the threshold (one template, many numbers) must not cost its square.
                if (failures[one] < _FAILURES or failures[two] < _FAILURES) and pair not in failed and not self._link(one, two, of):
                    failed.add(pair)
                    failures[one] = min(failures[one] + 1, _FAILURES)
                    failures[two] = min(failures[two] + 1, _FAILURES)
            while not np.array_equal(above := self._parent[self._parent], self._parent):  # every text points to its root
                self._parent = above

    def _link(self, one: int, two: int, of: Callable[[int], frozenset[str]]) -> bool:
        """Compare two texts unless that is settled; record the link; return False when they are not similar enough."""
        both = self._is_reference[one] and self._is_reference[two]
        test, train = (two, one) if self._is_reference[one] else (one, two)
        if self._root(one) == self._root(two) if both else test in self._matches:
            return True
        similarity = similarity_of(of(one), of(two))
        if similarity < self.threshold:
            return False
        if both:
            roots = sorted((self._root(one), self._root(two)))
            self._parent[roots[1]] = roots[0]
            self._links.append((one, two, similarity))
        else:
            self._matches[test] = (train, similarity)
        return True

    def _root(self, distinct: int) -> int:
        while self._parent[distinct] != distinct:
            distinct = int(self._parent[distinct])
        return distinct

    def groups(self, exact: bool = True) -> list[Group]:
        """Return the groups of reference rows, by first row; without `exact` only those with two different texts."""
        rows = np.flatnonzero(np.concatenate(self._reference or [_NONE]))
        rows = rows[self._text_of[rows] != self._blank]
        root = self._parent
        links: dict[int, list[Link]] = {}
        for one, two, similarity in self._links:
            first, second = sorted((int(self._first[one]), int(self._first[two])))
            links.setdefault(int(root[one]), []).append(Link(first, second, similarity))
        of_row = root[self._text_of[rows]]
        order = np.argsort(of_row, kind="stable")
        borders = np.flatnonzero(np.diff(of_row[order])) + 1
        found = []
        for part in np.split(rows[order], borders):
            if len(part) > 1:
                held = links.get(int(root[self._text_of[part[0]]]), [])
                if exact or held:
                    found.append(Group(tuple(part.tolist()), len(held) + 1, tuple(sorted(held, key=lambda x: (x.first, x.second)))))
        return sorted(found, key=lambda group: group.rows)

    def matches(self) -> list[Link]:
        """Return, for every row that is no reference and whose text is no reference's, a near duplicate among the references.

        `first` is the row asked for, `second` the reference row; in the order of the rows.
        """
        asked = np.flatnonzero(np.concatenate(self._reference or [_NONE]) == 0).tolist()
        pairs = ((row, self._matches.get(int(self._text_of[row]))) for row in asked)
        return [Link(row, int(self._first[match[0]]), match[1]) for row, match in pairs if match is not None]


def near_duplicates(texts: Iterable[str], threshold: float = NEAR) -> list[Group]:
    """Return groups of rows with the same or nearly the same text, by first row. Empty texts belong to no group.

    texts: read twice, so not an iterator that is used up after one pass
    threshold: smallest Jaccard similarity of two texts' `shingles`, above 0, at most 1

    Every link of a group is verified. A pair is missed with a probability below 0.5% when its similarity is just at 0.8,
    and practically never at 0.95. Two texts of one group may be less similar than `threshold` when others lie between them.
    """
    if iter(texts) is texts:
        raise TypeError("texts are read twice; give a list or another iterable that can start again, not an iterator")
    with Deduplicator(threshold) as finder:
        again = iter(texts)
        while part := list(itertools.islice(again, 4096)):
            finder.add(part)
        wanted = set(finder.wanted().tolist())
        for row, text in enumerate(texts):
            if row in wanted:
                finder.keep(row, text)
        finder.verify()
        return finder.groups()
