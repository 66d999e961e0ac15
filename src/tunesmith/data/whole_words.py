"""Whole texts in consecutive sequences, and where their words begin: what masked-language-model pretraining reads.

T tokens, W words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.schema import Example
from tunesmith.data.scripts import UNSPACED
from tunesmith.data.tokens import Encoded, TextEncoder, Truncation, by_size

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNSPACED = re.compile(f"[{UNSPACED}]")


class WholeWordEncoder(TextEncoder):
    """Encodes the whole of a text in consecutive sequences without overlap; `Encoded.points` are the first tokens of its words, int32[W].

    A word is what the tokenizer's pre-tokenizer takes for one, or a piece that begins with the mark of a space (U+2581, U+0120). In scripts
    without spaces, of which a pre-tokenizer may take a whole sentence for a word, every token that begins a character is one.
    """

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None = None) -> None:
        super().__init__(tokenizer, replace(truncation, policy="windows", stride=0, max_windows=2**31 - 1), fallback_token)
        self.has_points = True
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self._leads = np.zeros(max(vocabulary.values(), default=0) + 1, np.bool_)
        self._leads[[number for piece, number in vocabulary.items() if piece.startswith(("▁", "Ġ"))]] = True

    def settings(self) -> list[Any]:
        """Return every setting that changes what is encoded, but for the tokenizer, as plain values."""
        return [*super().settings(), "words"]

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode the texts of examples, nothing of which is lost."""
        result = []
        for texts in by_size((example.texts[0] for example in examples), len):
            # the fast way of the library leaves the numbers of words out
            for text, encoding in zip(texts, self.tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
                starts = word_starts(encoding, text, self._leads)
                # each sequence before a token's own adds its special tokens to the token's place
                frame = len(self.prefix) + len(self.suffix)
                points = starts + starts // self.budget * frame + len(self.prefix)
                result.append(replace(self._assemble(encoding, offsets), points=points.astype(np.int32)))
        return result


def word_starts(encoding: Any, text: str, leads: np.ndarray) -> np.ndarray:
    """Return int64[W], which tokens of `encoding`, of `text` without special tokens, begin a word.

    leads: bool[V], the pieces that begin with the mark of a space
    """
    ids = np.asarray(encoding.ids, np.int64)
    if not len(ids):
        return np.zeros(0, np.int64)
    words = np.fromiter((-1 if word is None else word for word in encoding.word_ids), np.int64, len(ids))
    begins = leads[ids]
    begins[0] = True
    begins[1:] |= words[1:] != words[:-1]
    if not text.isascii() and _UNSPACED.search(text) is not None:
        before, unspaced = -1, False
        for token, (start, end) in enumerate(encoding.offsets):
            if start < end:
                here = _UNSPACED.match(text[start]) is not None
                # some tokenizers cut a character into several tokens, all of which come from it
                begins[token] |= start != before and (here or unspaced)
                before, unspaced = start, _UNSPACED.match(text[end - 1]) is not None
    return np.flatnonzero(begins)
