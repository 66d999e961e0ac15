"""A question and windows of a passage as token sequences, and the places of answers among their tokens.

W windows of an example, T tokens of all of them, A places of answers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.schema import Example
from tunesmith.data.tokens import Encoded, Int32, Spans, TextEncoder, Truncation

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PER_WINDOW = 3
"""How many points each window has; see `PassageEncoder`."""
_FIRST_TOKENS = ("[CLS]", "<cls>", "<s>", "<|cls|>", "[cls]")
_JOINERS = "\u200d\ufe0e\ufe0f"  # what joins emoji, and says how the character before is drawn


class QuestionFirst(Truncation):
    """Windows of a passage that each hold its question, which is cut to half of the room only where the passage needs the rest."""

    def pair_spans(self, first: int, second: int, budget: int) -> list[tuple[Spans, Spans]]:
        """Return, for each sequence, the ranges [start, end) of the question's and the passage's tokens that it keeps."""
        kept = min(first, max(budget // 2, budget - second))
        return [([(0, kept)], spans) for spans in self.spans(second, budget - kept)]

    def pair_lost(self, first: int, second: int, budget: int) -> int:
        """Return how many tokens of question and passage are in no sequence."""
        question, passage = self.pair_spans(first, second, budget)[-1]
        return first - question[0][1] + second - passage[0][1]


class PassageEncoder(TextEncoder):
    """Turns (question, passage) into sequences that each hold the question and a window of the passage, in the tokenizer's own frame.

    The question comes first, cut to half of the room if it is longer (what is cut is counted as lost). Windows of the passage share
    `stride` tokens, or a quarter of the room where it is too small for that, and all of it is in one unless there are more than
    `max_windows`.

    `Encoded.points` are places in the example's sequences, one behind the other. First three for each of the W windows: the null
    position, which stands for "no answer here"; the first token of the passage; and the place behind its last one. Behind these come
    two for each place of an answer that lies within one window: its first and its last token. So int32[3 W + 2 A].

    The null position is the special token that stands for the whole sequence ([CLS], <s>, ...) wherever the frame has it, else the
    first token.
    """

    keeps_text = True

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None = None) -> None:
        super().__init__(tokenizer, replace(truncation, policy="head"), fallback_token, pairs=True)
        window = self.budget // 2
        stride = truncation.stride if truncation.stride < window else window // 2
        self.truncation = QuestionFirst("windows", truncation.max_length, stride, truncation.max_windows)
        self.has_points = True
        assert self.frame is not None
        whole = {tokenizer.token_to_id(token) for token in _FIRST_TOKENS} - {None}
        parts = (self.frame.prefix, self.frame.middle, self.frame.suffix)
        self.null = next(((part, i) for part, ids in enumerate(parts) for i, token in enumerate(ids.tolist()) if token in whole), (0, 0))

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode questions with their passages, and mark the places of the answers that the examples have."""
        questions = self.tokenizer.encode_batch([example.texts[0] for example in examples], add_special_tokens=False)
        # rows of one passage often come together
        passages = list(dict.fromkeys(example.texts[1] for example in examples))
        found = self.tokenizer.encode_batch(passages, add_special_tokens=False)
        sides = {
            text: (np.asarray(one.ids, np.int32), np.asarray(one.offsets, np.int32).reshape(-1, 2))
            for text, one in zip(passages, found, strict=True)
        }
        return [
            self._windows(example, question, *sides[example.texts[1]], offsets)
            for example, question in zip(examples, questions, strict=True)
        ]

    def _windows(self, example: Example, question: Any, passage: Int32, ranges: Int32, with_offsets: bool) -> Encoded:
        frame = self.frame
        assert frame is not None
        asked = np.asarray(question.ids, np.int32)
        total = len(asked) + len(passage)
        if total + frame.special == 0:
            empty = self._assemble(question, with_offsets)
            return replace(empty, borders=[1], points=np.array([0, 1, 1], np.int32))
        spans = self.truncation.pair_spans(len(asked), len(passage), self.budget)
        kept = asked[: spans[0][0][0][1]]
        answers = dict.fromkeys(tokens for span in example.spans if (tokens := tokens_of(span, ranges)) is not None)
        sequences, offsets, borders, points, places = [], [], [], [], []
        begin = 0
        for _, [(start, end)] in spans:
            first = len(frame.prefix) + len(kept) + len(frame.middle)
            sequences.append(np.concatenate([frame.prefix, kept, frame.middle, passage[start:end], frame.suffix]))
            length = len(sequences[-1])
            borders.append(frame.border(len(kept), length))
            part, null = self.null
            null += (0, len(frame.prefix) + len(kept), length - len(frame.suffix))[part]
            points += [begin + null, begin + first, begin + first + end - start]
            for a, b in answers:
                if start <= a and b < end:
                    places += [begin + first + a - start, begin + first + b - start]
            if with_offsets:
                shown = np.zeros((length, 2), np.int32)
                shown[len(frame.prefix) :][: len(kept)] = np.asarray(question.offsets, np.int32).reshape(-1, 2)[: len(kept)]
                shown[first : first + end - start] = ranges[start:end]
                offsets.append(shown)
            begin += length
        lost = self.truncation.pair_lost(len(asked), len(passage), self.budget)
        return Encoded(sequences, offsets, total, lost, borders, np.array(points + places, np.int32))


def tokens_of(span: tuple[int, int], ranges: np.ndarray) -> tuple[int, int] | None:
    """Return first and last of the tokens that have a character of `span` [start, end); None when none has.

    ranges: int32[n, 2], the characters of each token
    """
    inside = np.flatnonzero((ranges[:, 1] > span[0]) & (ranges[:, 0] < span[1]) & (ranges[:, 1] > ranges[:, 0]))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the range [start, end) of `text` without white space at its ends, and with the combining marks of its last character.

    Tokenizers that strip accents leave marks out of a token's range, and some count the space before a word to it.
    """
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        return start, start
    while start > 0 and _joins(text[start]) and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and _joins(text[end]):
        end += 1
    return start, end


def _joins(character: str) -> bool:
    return character in _JOINERS or (not character.isascii() and unicodedata.category(character)[0] == "M")
