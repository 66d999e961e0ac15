"""Texts to token sequences: special tokens, truncation policies, windows, and an account of what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import ModelError, UsageError, setting

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Int32 = np.ndarray


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as token sequences.

    sequences: k >= 1 arrays int32[n], special tokens included, each at most `max_length` long
    offsets: for each sequence int32[n, 2], the character range [start, end) of each token in the text; (0, 0) for special tokens
    tokens: how many tokens the whole text has, special tokens not counted
    lost: how many of them are in no sequence
    """

    sequences: list[Int32]
    offsets: list[Int32]
    tokens: int
    lost: int


@dataclass(frozen=True, slots=True)
class Truncation:
    """What becomes of a text whose tokens do not fit: see `spans`.

    policy: head, tail, head-tail or windows
    max_length: longest sequence in tokens, special tokens included
    stride: tokens shared by neighbouring windows
    max_windows: most windows of one text
    """

    policy: str = "head"
    max_length: int = 256
    stride: int = 32
    max_windows: int = 32

    def spans(self, tokens: int, budget: int) -> list[list[tuple[int, int]]]:
        """Return, for each sequence, the ranges [start, end) of the text's tokens that it keeps.

        `budget` is the sequence's room in tokens beside the special ones. head-tail keeps the first quarter and the last
        three quarters of the budget (Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1:
        128 and 382 of 510 tokens).
        """
        if tokens <= budget:
            return [[(0, tokens)]]
        if self.policy == "head":
            return [[(0, budget)]]
        if self.policy == "tail":
            return [[(tokens - budget, tokens)]]
        if self.policy == "head-tail":
            head = budget // 4
            return [[(0, head), (tokens - (budget - head), tokens)]]
        step = budget - self.stride
        count = min(1 + -(-(tokens - budget) // step), self.max_windows)
        return [[(i * step, min(i * step + budget, tokens))] for i in range(count)]

    def lost(self, tokens: int, budget: int) -> int:
        """Return how many of a text's `tokens` are in no sequence."""
        if tokens <= budget:
            return 0
        if self.policy == "windows":
            return tokens - self.spans(tokens, budget)[-1][0][1]
        return tokens - budget


class TextEncoder:
    """Turns texts into `Encoded` with a `tokenizers.Tokenizer`; the one way for training, evaluation and prediction.

    Special tokens stand where the tokenizer's own template for a single text puts them. A tokenizer without any (GPT-2)
    gets `fallback_token` for a text that would otherwise have no token at all.
    """

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.truncation = truncation
        self.fallback_token = fallback_token
        self.prefix, self.suffix = _template(tokenizer)
        self.budget = truncation.max_length - len(self.prefix) - len(self.suffix)
        if self.budget < 1:
            raise UsageError(
                f"{setting('max_length')} {truncation.max_length} leaves no room for text beside "
                f"{len(self.prefix) + len(self.suffix)} special tokens."
            )
        if truncation.policy == "windows" and truncation.stride >= self.budget:
            raise UsageError(
                f"{setting('stride')} {truncation.stride} must be below the {self.budget} tokens of text that one window holds."
            )

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens not counted."""
        return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode(self, texts: Sequence[str], offsets: bool = False) -> list[Encoded]:
        """Encode texts on all cores. Without `offsets` those are left empty, which is a quarter faster."""
        encode = self.tokenizer.encode_batch if offsets else self.tokenizer.encode_batch_fast
        return [self._assemble(encoding, offsets) for encoding in encode(list(texts), add_special_tokens=False)]

    def _assemble(self, encoding: Any, with_offsets: bool) -> Encoded:
        ids = np.asarray(encoding.ids, dtype=np.int32)
        ranges = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2) if with_offsets else None
        if len(ids) + len(self.prefix) + len(self.suffix) == 0:
            if self.fallback_token is None:
                raise ModelError("the tokenizer of this model has no token that could stand for a text without any.")
            return Encoded([np.array([self.fallback_token], np.int32)], [np.zeros((1, 2), np.int32)] if with_offsets else [], 0, 0)
        sequences, offsets = [], []
        for spans in self.truncation.spans(len(ids), self.budget):
            sequences.append(np.concatenate([self.prefix, *(ids[a:b] for a, b in spans), self.suffix]))
            if ranges is not None:
                blank = [np.zeros((len(part), 2), np.int32) for part in (self.prefix, self.suffix)]
                offsets.append(np.concatenate([blank[0], *(ranges[a:b] for a, b in spans), blank[1]]))
        return Encoded(sequences, offsets, len(ids), self.truncation.lost(len(ids), self.budget))


def _template(tokenizer: Tokenizer) -> tuple[Int32, Int32]:
    """Return the special tokens that the tokenizer puts before and after a single text."""
    for probe in ("a", "1", "."):
        plain = tokenizer.encode(probe, add_special_tokens=False).ids
        full = tokenizer.encode(probe, add_special_tokens=True).ids
        if plain:
            starts = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
            if starts:
                return np.array(full[: starts[0]], np.int32), np.array(full[starts[0] + len(plain) :], np.int32)
    raise ModelError("the tokenizer of this model adds special tokens in a way that is not one prefix and one suffix; it cannot be used.")
