"""A query and a passage as token sequences: one sequence of both for a cross-encoder, one of each for a bi-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.tokens import Encoded, TextEncoder, Truncation

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.data.schema import Example


class JointEncoder:
    """An `ExampleEncoder` for a cross-encoder: `TextEncoder` of pairs, with one point: where the passage begins in the first sequence."""

    has_points, keeps_text = True, False
    pairs = True

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None) -> None:
        self._inner = TextEncoder(tokenizer, truncation, fallback_token, pairs=True)
        self.tokenizer, self.truncation, self.budget = self._inner.tokenizer, truncation, self._inner.budget

    def settings(self) -> list[Any]:
        """Return every setting that changes what is encoded, but for the tokenizer, as plain values."""
        return self._inner.settings()

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens not counted."""
        return self._inner.count(texts)

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode query and passage of each example as one pair."""
        found = self._inner.encode_examples(examples, offsets)
        queries = {example.texts[0] for example in examples}
        tokens = dict(zip(queries, self._inner.count(list(queries)), strict=True))
        return [self._pointed(one, tokens[example.texts[0]]) for one, example in zip(found, examples, strict=True)]

    def _pointed(self, encoded: Encoded, query: int) -> Encoded:
        frame = self._inner.frame
        assert frame is not None
        if encoded.tokens + frame.special == 0:  # the token that stands for a pair without any
            return replace(encoded, points=np.zeros(1, np.int32))
        kept = sum(end - start for start, end in self.truncation.pair_spans(query, encoded.tokens - query, self.budget)[0][0])
        return replace(encoded, points=np.array([len(frame.prefix) + kept + len(frame.middle)], np.int32))

    def passage_of(self, encoded: Encoded) -> np.ndarray:
        """Return the passage's tokens in an example's first sequence, int32[n]."""
        frame = self._inner.frame
        assert frame is not None
        sequence = encoded.sequences[0]
        return sequence[int(encoded.points[0]) : len(sequence) - len(frame.suffix)]

    def combined(self, query: Encoded, passage: np.ndarray) -> Encoded:
        """Return one sequence of the query of `query` and of passage tokens int32[n], which give way where both do not fit."""
        frame = self._inner.frame
        assert frame is not None
        words = query.sequences[0][len(frame.prefix) : int(query.points[0]) - len(frame.middle)]
        passage = passage[: max(self.budget - len(words), 0)]
        sequence = np.concatenate([frame.prefix, words, frame.middle, passage, frame.suffix])
        if not len(sequence):
            sequence = query.sequences[0]
        return Encoded([sequence], [], len(words) + len(passage), 0, [frame.border(len(words), len(sequence))])


class TwinEncoder:
    """An `ExampleEncoder` for a bi-encoder: query and passage are a sequence each, as any text by itself would be."""

    has_points, keeps_text = False, False
    pairs = False

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None) -> None:
        # windows would be several vectors where one is wanted
        truncation = replace(truncation, policy="head") if truncation.policy == "windows" else truncation
        self._inner = TextEncoder(tokenizer, truncation, fallback_token)
        self.tokenizer, self.truncation, self.budget = self._inner.tokenizer, truncation, self._inner.budget

    def settings(self) -> list[Any]:
        """Return every setting that changes what is encoded, but for the tokenizer, as plain values."""
        return self._inner.settings()

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens not counted."""
        return self._inner.count(texts)

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode the texts of each example one by one."""
        sides = [self._inner.encode(list(column), offsets) for column in zip(*(example.texts for example in examples), strict=True)]
        return [
            Encoded(
                [sequence for side in parts for sequence in side.sequences],
                [ranges for side in parts for ranges in side.offsets],
                sum(side.tokens for side in parts),
                sum(side.lost for side in parts),
            )
            for parts in zip(*sides, strict=True)
        ]

    def passage_of(self, encoded: Encoded) -> np.ndarray:
        """Return the passage's tokens, int32[n]."""
        return encoded.sequences[-1]
