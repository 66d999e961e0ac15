"""Texts to token sequences: special tokens, truncation policies, windows, and an account of what was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from tunesmith.errors import ModelError, UsageError, setting

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.data.schema import Example

T = TypeVar("T")
Int32 = np.ndarray
_CHARACTERS = 1 << 21
NO_POINTS = np.zeros(0, np.int32)
Spans = list[tuple[int, int]]
Texts = str | tuple[str, ...]
"""What an example says: one text, or the two of a pair."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as token sequences.

    sequences: k >= 1 arrays int32[n], special tokens included, each at most `max_length` long
    offsets: for each sequence int32[n, 2], the character range [start, end) of each token in its text; (0, 0) for special tokens
    tokens: how many tokens the whole text, or both texts of a pair, have, special tokens not counted
    lost: how many of them are in no sequence
    borders: for each sequence of a pair the place of the first token of segment 1, its length where it has none; empty without a pair
    points: int32[P], places in the sequences one behind the other that matter to the task, such as the first token of each word
    """

    sequences: list[Int32]
    offsets: list[Int32]
    tokens: int
    lost: int
    borders: list[int] = field(default_factory=list)
    points: Int32 = field(default_factory=lambda: NO_POINTS)


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

    def pair_spans(self, first: int, second: int, budget: int) -> list[tuple[Spans, Spans]]:
        """Return, for each sequence, the ranges [start, end) of both texts' tokens that it keeps.

        The longer text gives way first, until both are equally long (as `longest_first` in transformers); what each keeps of
        its share, the policy says. With windows the shorter text is in all of them, the longer one goes through them.
        """
        room = _shares(first, second, budget)
        if self.policy != "windows":
            return [(self.spans(first, room[0])[0], self.spans(second, room[1])[0])]
        if first > second:
            return [(spans, [(0, room[1])]) for spans in self.spans(first, room[0])]
        return [([(0, room[0])], spans) for spans in self.spans(second, room[1])]

    def lost(self, tokens: int, budget: int) -> int:
        """Return how many of a text's `tokens` are in no sequence."""
        if tokens <= budget:
            return 0
        if self.policy == "windows":
            return tokens - self.spans(tokens, budget)[-1][0][1]
        return tokens - budget

    def pair_lost(self, first: int, second: int, budget: int) -> int:
        """Return how many tokens of a pair of texts are in no sequence."""
        room = _shares(first, second, budget)
        if self.policy == "windows":
            longer, shorter = (0, 1) if first > second else (1, 0)
            return self.lost((first, second)[longer], room[longer]) + (first, second)[shorter] - room[shorter]
        return first + second - sum(room)


def _shares(first: int, second: int, budget: int) -> tuple[int, int]:
    """Return how many tokens of two texts fit in `budget` when the longer one gives way first, and the second of equal ones."""
    if first + second <= budget:
        return first, second
    shorter = min(first, second)
    if shorter <= budget // 2:
        shares = shorter, budget - shorter
    else:
        shares = budget // 2, budget - budget // 2
    return (shares[1], shares[0]) if first > second else shares


def by_size(items: Iterable[T], characters: Callable[[T], int], rows: int | None = None) -> Iterator[list[T]]:
    """Cut `items` into lists of at most `rows`, and of 2 M characters or one item, as a tokenizer takes some 100 bytes a character."""
    part: list[T] = []
    size = 0
    for item in items:
        length = characters(item)
        if part and (size + length > _CHARACTERS or len(part) == rows):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part


class ExampleEncoder(Protocol):
    """Turns examples into token sequences: the one way for training, evaluation and prediction of a task.

    has_points: its examples have `Encoded.points`; budget: room for tokens of text in a sequence, beside the special ones
    keeps_text: the table keeps the last text and the tokens' offsets, too, for a task whose results are pieces of it
    """

    tokenizer: Tokenizer
    truncation: Truncation
    budget: int
    pairs: bool
    has_points: bool
    keeps_text: bool

    def settings(self) -> list[Any]:
        """Return every setting that changes what `encode_examples` returns, but for the tokenizer, as plain values."""
        ...

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode examples on all cores, in order; with `offsets` the characters that each token comes from, too."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens not counted."""
        ...


class TextEncoder:
    """Turns texts, or pairs of texts, into `Encoded` with a `tokenizers.Tokenizer`: the one way for training, evaluation, prediction.

    Special tokens stand where the tokenizer's own template for a single text, or with `pairs` for two, puts them. A tokenizer
    without any (GPT-2) gets `fallback_token` for a text that would otherwise have no token at all.
    """

    keeps_text: bool = False

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None = None, *, pairs: bool = False) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.truncation = truncation
        self.fallback_token = fallback_token
        self.pairs = pairs
        self.has_points = False
        self.prefix, self.suffix = _template(tokenizer)
        self.frame = _pair_frame(tokenizer) if pairs else None
        special = self.frame.special if self.frame is not None else len(self.prefix) + len(self.suffix)
        self.budget = truncation.max_length - special
        if self.budget < 1 + pairs:
            raise UsageError(f"{setting('max_length')} {truncation.max_length} leaves no room for text beside {special} special tokens.")
        window = self.budget // (1 + pairs)  # what windows of the longer text of a pair hold at least
        if truncation.policy == "windows" and truncation.stride >= window:
            raise UsageError(f"{setting('stride')} {truncation.stride} must be below the {window} tokens of text that one window holds.")

    def settings(self) -> list[Any]:
        """Return every setting that changes what is encoded, but for the tokenizer, as plain values."""
        return [asdict(self.truncation), self.fallback_token, self.pairs]

    def encode_examples(self, examples: Sequence[Example], offsets: bool = False) -> list[Encoded]:
        """Encode the texts of examples; see `encode`."""
        return self.encode([example.texts for example in examples], offsets)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens not counted."""
        parts = by_size(texts, len)
        return [len(encoding) for part in parts for encoding in self.tokenizer.encode_batch_fast(part, add_special_tokens=False)]

    def encode(self, texts: Sequence[Texts], offsets: bool = False) -> list[Encoded]:
        """Encode texts, or with `pairs` pairs of texts, on all cores. Without `offsets` those are left empty: a quarter faster."""
        columns = [(text,) if isinstance(text, str) else text for text in texts]
        return [one for part in by_size(columns, lambda column: sum(map(len, column))) for one in self._encode_part(part, offsets)]

    def _encode_part(self, texts: Sequence[tuple[str, ...]], offsets: bool) -> list[Encoded]:
        encode = self.tokenizer.encode_batch if offsets else self.tokenizer.encode_batch_fast
        encoded = [encode(list(column), add_special_tokens=False) for column in zip(*texts, strict=True)]
        if self.frame is not None:
            return [self._assemble_pair(first, second, offsets) for first, second in zip(*encoded, strict=True)]
        return [self._assemble(encoding, offsets) for encoding in encoded[0]]

    def _assemble_pair(self, first: Any, second: Any, with_offsets: bool) -> Encoded:
        frame = self.frame
        assert frame is not None
        sides = [np.asarray(encoding.ids, np.int32) for encoding in (first, second)]
        ranges = [np.asarray(encoding.offsets, np.int32).reshape(-1, 2) for encoding in (first, second)] if with_offsets else []
        sizes = len(sides[0]), len(sides[1])
        if sum(sizes) + frame.special == 0:
            return replace(self._assemble(first, with_offsets), borders=[1])
        sequences, offsets, borders = [], [], []
        for spans in self.truncation.pair_spans(*sizes, self.budget):
            kept = [np.concatenate([side[a:b] for a, b in part]) for side, part in zip(sides, spans, strict=True)]
            sequences.append(np.concatenate([frame.prefix, kept[0], frame.middle, kept[1], frame.suffix]))
            borders.append(frame.border(len(kept[0]), len(sequences[-1])))
            if with_offsets:
                shown = [np.concatenate([side[a:b] for a, b in part]) for side, part in zip(ranges, spans, strict=True)]
                blank = [np.zeros((len(part), 2), np.int32) for part in (frame.prefix, frame.middle, frame.suffix)]
                offsets.append(np.concatenate([blank[0], shown[0], blank[1], shown[1], blank[2]]))
        return Encoded(sequences, offsets, sum(sizes), self.truncation.pair_lost(*sizes, self.budget), borders)

    def _assemble(self, encoding: Any, with_offsets: bool) -> Encoded:
        if not with_offsets and 0 < len(encoding) <= self.budget:  # most texts; what is below takes twice as long
            whole = np.concatenate([self.prefix, np.array(encoding.ids, np.int32), self.suffix])
            return Encoded([whole], [], len(encoding), 0)
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


@dataclass(frozen=True)
class _PairFrame:
    """The special tokens round two texts; `segment_1`: of prefix, first text, middle, second text, suffix the first one in segment 1."""

    prefix: Int32
    middle: Int32
    suffix: Int32
    segment_1: int

    @property
    def special(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def border(self, first: int, length: int) -> int:
        """Return where segment 1 begins in a sequence of `length` tokens, `first` of them of the first text."""
        before = [0, len(self.prefix), len(self.prefix) + first, len(self.prefix) + first + len(self.middle), length - len(self.suffix)]
        return before[self.segment_1] if self.segment_1 < len(before) else length


def _pair_frame(tokenizer: Tokenizer) -> _PairFrame:
    """Return what the tokenizer puts round a pair of texts."""
    for probe in ("a", "1", "."):
        full = tokenizer.encode(probe, probe, add_special_tokens=True)
        text_of = full.sequence_ids
        if 0 not in text_of or 1 not in text_of:
            continue
        begin, end = text_of.index(0), len(text_of) - text_of[::-1].index(0)
        second, last = text_of.index(1), len(text_of) - text_of[::-1].index(1)
        ids, segments = np.array(full.ids, np.int32), full.type_ids
        starts = (0, begin, end, second, last, len(ids))
        kinds = [segments[a] if a < b else None for a, b in pairwise(starts)]
        first_1 = kinds.index(1) if 1 in kinds else len(kinds)
        if end <= second and all(kind in (None, int(i >= first_1)) for i, kind in enumerate(kinds)):
            return _PairFrame(ids[:begin], ids[end:second], ids[last:], first_1)
        break
    raise ModelError("the tokenizer of this model frames two texts in a way that is not understood here; it cannot be used for pairs.")


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
