"""Texts as words: each word's tokens as the tokenizer makes them in the running text, in windows that lose none of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.schema import Example
from tunesmith.data.tokens import Encoded, Int32, TextEncoder, Truncation
from tunesmith.data.words import words_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NO_LIMIT = 1 << 30
_SPACES = ("▁", "Ġ", "Ċ")  # pieces that are a space and nothing else

Piece = tuple[tuple[int, tuple[int, int]], ...]
"""The tokens of a word: id and characters [start, end) in it."""
Chunk = tuple[bool, tuple[str, ...]]
"""Words with nothing between them, and whether a space stands before the first."""


class WordEncoder:
    """Turns words into `Encoded`, whose `points` are the place of each word's first sub-word: an `ExampleEncoder` for tagging.

    Words with nothing between them are tokenised together, as in the running text, a space before them where the text has one. Where a
    token would run over the border of two words each of these words is tokenised by itself, so that every word has a token of its own; what
    gives no token, such as a zero-width space, gets the unknown one. Texts too long for one sequence go through windows that overlap by
    `stride` tokens, whatever the policy of truncation is: each word is read in the window where it stands furthest from a cut.
    A text that leaves room has up to `context` tokens of what stands before and after it around it.
    """

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None = None, context: int = 0) -> None:
        plain = TextEncoder(tokenizer, replace(truncation, policy="head"), fallback_token)
        self.tokenizer, self.prefix, self.suffix, self.budget = tokenizer, plain.prefix, plain.suffix, plain.budget
        self.truncation = replace(truncation, policy="windows", stride=min(truncation.stride, plain.budget // 2), max_windows=_NO_LIMIT)
        self.fallback_token, self.context = fallback_token, context
        self.pairs, self.has_points, self.keeps_text = False, True, False
        self._empty = plain.encode([""], offsets=True)[0]
        self._space = _space_before(tokenizer)
        self._blank = {token for piece in _SPACES if (token := tokenizer.token_to_id(piece)) is not None}
        self._unknown = _unknown(tokenizer, fallback_token)

    def settings(self) -> list[Any]:
        """Return every setting that changes what is encoded, but for the tokenizer, as plain values."""
        return ["words", asdict(self.truncation), self.fallback_token, self.context]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens not counted."""
        return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode the words of examples; equal chunks of words are tokenised once."""
        read = [words_of(example) for example in examples]
        chunked = [list(_chunks(words, ranges, bool(one.before))) for one, (words, ranges) in zip(examples, read, strict=True)]
        known = self._pieces(dict.fromkeys(chunk for chunks in chunked for chunk in chunks))
        around = self._around(examples)
        return [
            self._assemble([piece for chunk in chunks for piece in known[chunk]], ranges, offsets, beside)
            for chunks, (_, ranges), beside in zip(chunked, read, around, strict=True)
        ]

    def _around(self, examples: Sequence[Example]) -> list[tuple[Int32, Int32]]:
        """Return the tokens before and after each example, at most `context` of each."""
        nothing = np.zeros(0, np.int32)
        if not self.context:
            return [(nothing, nothing)] * len(examples)
        before = self.tokenizer.encode_batch_fast([one.before for one in examples], add_special_tokens=False)
        after = self.tokenizer.encode_batch_fast([one.after and self._space + one.after for one in examples], add_special_tokens=False)
        return [
            (np.array(left.ids[-self.context :], np.int32), np.array(right.ids[: self.context], np.int32))
            for left, right in zip(before, after, strict=True)
        ]

    def _pieces(self, chunks: dict[Chunk, None]) -> dict[Chunk, list[Piece]]:
        """Return the tokens of each word of each chunk."""
        found: dict[Chunk, list[Piece]] = {}
        alone: dict[Chunk, None] = {}
        for chunk, encoding in zip(chunks, self._encode(chunks), strict=True):
            words = chunk[1]
            pieces = _by_word(encoding, words, self._lead(chunk))
            if pieces is not None and (all(pieces) or len(words) == 1):
                found[chunk] = [piece if piece else self._unknown for piece in pieces]
            else:
                alone |= dict.fromkeys((chunk[0] and i == 0, (word,)) for i, word in enumerate(words))
        single: dict[Chunk, Piece] = {}
        for chunk, encoding in zip(alone, self._encode(alone), strict=True):
            piece = (_by_word(encoding, chunk[1], self._lead(chunk)) or [()])[0]
            single[chunk] = piece if piece else self._unknown
        for chunk in chunks:
            if chunk not in found:
                first, *others = chunk[1]
                found[chunk] = [single[chunk[0], (first,)], *(self._glued(single[False, (word,)]) for word in others)]
        return found

    def _encode(self, chunks: dict[Chunk, None]) -> list[Any]:
        texts = [self._space * chunk[0] + "".join(chunk[1]) for chunk in chunks]
        return self.tokenizer.encode_batch(texts, add_special_tokens=False) if texts else []

    def _lead(self, chunk: Chunk) -> int:
        return len(self._space) if chunk[0] else 0

    def _glued(self, piece: Piece) -> Piece:
        """Take the space away that sentencepiece puts before a word, which has none before it in the text."""
        if len(piece) > 1 and piece[0][0] in self._blank:
            return piece[1:]
        text = self.tokenizer.id_to_token(piece[0][0])
        if text is not None and len(text) > 1 and text.startswith("▁"):
            bare = self.tokenizer.token_to_id(text[1:])
            if bare is not None:
                return ((bare, piece[0][1]), *piece[1:])
        return piece

    def _assemble(self, pieces: list[Piece], ranges: Sequence[tuple[int, int]], with_offsets: bool, around: tuple[Int32, Int32]) -> Encoded:
        if not pieces:
            return replace(self._empty, offsets=self._empty.offsets if with_offsets else [])
        ids = np.array([token for piece in pieces for token, _ in piece], np.int32)
        sizes = np.array([len(piece) for piece in pieces])
        # a piece that is a space and nothing else says nothing of its word
        first = np.cumsum(sizes) - sizes + np.array([len(piece) > 1 and piece[0][0] in self._blank for piece in pieces])
        spans = [parts[0] for parts in self.truncation.spans(len(ids), self.budget)]
        prefix, suffix = self._frame(self.budget - len(ids), *around)
        points = _most_context(first, spans, len(ids), len(prefix), len(suffix))
        sequences = [np.concatenate([prefix, ids[a:b], suffix]) for a, b in spans]
        offsets = []
        if with_offsets:
            own = zip(pieces, ranges, strict=True)
            places = np.array([(min(start + a, end), min(start + b, end)) for piece, (start, end) in own for _, (a, b) in piece], np.int32)
            blank = [np.zeros((len(part), 2), np.int32) for part in (prefix, suffix)]
            offsets = [np.concatenate([blank[0], places[a:b], blank[1]]) for a, b in spans]
        return Encoded(sequences, offsets, len(ids), 0, points=points)

    def _frame(self, room: int, before: Int32, after: Int32) -> tuple[Int32, Int32]:
        """Return what stands before and after a text that leaves so much room: the special tokens, and within them the context."""
        if room <= 0:
            return self.prefix, self.suffix
        left = min(len(before), max(room // 2, room - len(after)))
        right = min(len(after), room - left)
        return np.concatenate([self.prefix, before[len(before) - left :]]), np.concatenate([after[:right], self.suffix])


def _most_context(first: np.ndarray, spans: list[tuple[int, int]], tokens: int, prefix: int, suffix: int) -> Int32:
    """Return for tokens `first` their places in the windows `spans`, special tokens counted: each in the window that cuts furthest from it.

    The text's own begin and end are no cuts.
    """
    best = np.full(len(first), -1)
    result = np.zeros(len(first), np.int32)
    begin = 0
    for a, b in spans:
        left = first - a if a > 0 else np.full(len(first), tokens)
        right = b - 1 - first if b < tokens else np.full(len(first), tokens)
        margin = np.minimum(left, right)
        better = (first >= a) & (first < b) & (margin > best)
        best[better] = margin[better]
        result[better] = (first - a + begin + prefix)[better]
        begin += prefix + b - a + suffix
    assert (best >= 0).all()
    return result


def _chunks(words: Sequence[str], ranges: Sequence[tuple[int, int]], led: bool) -> Iterator[Chunk]:
    """Yield the words with nothing between them; words that share their characters stand apart. led: something stands before the first."""
    begin = 0
    for i in range(1, len(words) + 1):
        if i == len(words) or ranges[i][0] != ranges[i - 1][1]:
            yield led or begin > 0, tuple(words[begin:i])
            begin = i


def _by_word(encoding: Any, words: Sequence[str], lead: int) -> list[Piece] | None:
    """Return the tokens of each word, `lead` characters standing before the first; None where a token runs over a border of words."""
    if len(words) == 1:
        return [tuple((token, (max(a - lead, 0), max(b - lead, 0))) for token, (a, b) in zip(encoding.ids, encoding.offsets, strict=True))]
    ends = lead + np.cumsum([len(word) for word in words])
    starts = ends - [len(word) for word in words]
    pieces: list[list[tuple[int, tuple[int, int]]]] = [[] for _ in words]
    at = 0
    for token, (a, b) in zip(encoding.ids, encoding.offsets, strict=True):
        word = min(int(np.searchsorted(ends, a, side="right")), len(words) - 1)
        if word < at or b > ends[word]:
            return None
        at = word
        start = int(starts[word])
        pieces[word].append((token, (max(a - start, 0), max(b - start, 0))))
    return [tuple(piece) for piece in pieces]


def _space_before(tokenizer: Tokenizer) -> str:
    """Return what must stand before a word so that the tokenizer takes it for one behind a space: a space, or nothing."""
    for one, two in (("a", "b"), ("1", "2"), (".", ".")):
        whole, first, bare, spaced = (
            tokenizer.encode(text, add_special_tokens=False).ids for text in (f"{one} {two}", one, two, f" {two}")
        )
        if whole and whole[len(first) :] == bare:
            return ""
        if whole and whole[len(first) :] == spaced:
            return " "
    return ""


def _unknown(tokenizer: Tokenizer, fallback_token: int | None) -> Piece:
    """Return the token of a word that the tokenizer makes nothing of."""
    names = [getattr(tokenizer.model, "unk_token", None), "[UNK]", "<unk>"]
    tokens = [token for name in names if name and (token := tokenizer.token_to_id(name)) is not None]
    token = tokens[0] if tokens else fallback_token if fallback_token is not None else 0
    return ((token, (0, 0)),)
