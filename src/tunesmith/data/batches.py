"""Which sequences go into which optimizer step, and the packed batch that the model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tunesmith.data.tokens import Encoded
from tunesmith.seeds import seed_for


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences one behind the other, without padding. S sequences, T tokens, E examples.

    ids: int32[T]
    cu_seqlens: int32[S+1], where each sequence begins; the last entry is T
    example: int32[S], the example of each sequence, in [0, E), not decreasing
    size: E
    targets: int64[E], float32[E, C] or another shape by task; None at prediction
    borders: int32[S], where segment 1 of each sequence begins, as in a pair of texts; None where all tokens are of segment 0
    points: int32[P], the places in [0, T) that matter to the task, by example; None in a batch that `pack` did not make
    point_counts: int32[E], how many of them each example has
    units: in how many equal parts the loss of the batch is averaged: E unless the task says otherwise
    """

    ids: np.ndarray
    cu_seqlens: np.ndarray
    example: np.ndarray
    size: int
    targets: np.ndarray | None = field(default=None)
    borders: np.ndarray | None = field(default=None)
    points: np.ndarray | None = field(default=None)
    point_counts: np.ndarray | None = field(default=None)
    units: int | None = field(default=None)

    @property
    def parts(self) -> int:
        """Return in how many parts the loss is averaged: `units`, else E."""
        return self.size if self.units is None else self.units

    @property
    def count(self) -> int:
        """S."""
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int32[S], tokens of each sequence."""
        return np.diff(self.cu_seqlens)


def collate(
    sequences: Sequence[np.ndarray], example: np.ndarray, targets: np.ndarray | None = None, borders: np.ndarray | None = None
) -> PackedBatch:
    """Pack `sequences` (each int32[n]) whose example numbers `example` are in ascending runs; see `PackedBatch`."""
    cu_seqlens = np.zeros(len(sequences) + 1, np.int32)
    np.cumsum([len(sequence) for sequence in sequences], out=cu_seqlens[1:])
    changes = np.concatenate([[0], np.cumsum(np.diff(example) != 0)]).astype(np.int32)
    ids = np.concatenate(sequences).astype(np.int32, copy=False)
    return PackedBatch(ids, cu_seqlens, changes, int(changes[-1]) + 1, targets, borders)


def pack(examples: Sequence[Encoded], targets: np.ndarray | None = None) -> PackedBatch:
    """Pack whole examples, in their order; targets: one for each, as `PackedBatch` says."""
    sequences = [sequence for example in examples for sequence in example.sequences]
    number = np.repeat(np.arange(len(examples)), [len(example.sequences) for example in examples])
    borders = np.array([border for example in examples for border in example.borders], np.int32)
    batch = collate(sequences, number, targets, borders if len(borders) else None)
    counts = np.array([len(example.points) for example in examples], np.int32)
    # an example's points count from its first token
    first = np.searchsorted(number, np.arange(len(examples)))
    points = np.concatenate([example.points for example in examples]) + np.repeat(batch.cu_seqlens[first], counts)
    return replace(batch, points=points.astype(np.int32), point_counts=counts)


def merged(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Return the parts of a step as one batch; of targets with one row for each example, and without points."""
    before = np.cumsum([0, *(batch.size for batch in batches)])
    tokens = np.cumsum([0, *(len(batch.ids) for batch in batches)])
    return PackedBatch(
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([[0], *(batch.cu_seqlens[1:] + start for batch, start in zip(batches, tokens, strict=False))]).astype(np.int32),
        np.concatenate([batch.example + start for batch, start in zip(batches, before, strict=False)]),
        int(before[-1]),
        np.concatenate([batch.targets for batch in batches if batch.targets is not None]),
    )


def cut(batch: PackedBatch, part: slice) -> PackedBatch:
    """Return the sequences `part` of a batch as one of their own, without targets and points, which are of whole examples."""
    first = int(batch.cu_seqlens[part.start])
    example = batch.example[part] - batch.example[part.start]
    return PackedBatch(
        batch.ids[first : int(batch.cu_seqlens[part.stop])],
        batch.cu_seqlens[part.start : part.stop + 1] - first,
        example,
        int(example[-1]) + 1,
        borders=None if batch.borders is None else batch.borders[part],
    )


def plan_batches(tokens: np.ndarray, *, batch_size: int, seed: int, epoch: int, shuffle: bool = True) -> list[np.ndarray]:
    """Return the steps of an epoch, each an int64 array of example numbers; a pure function of its arguments.

    tokens: int[E], the tokens of each example in all its sequences
    batch_size: examples per step; the last step may have fewer

    Training order: a uniform shuffle is cut into pools of 50 steps, each pool is sorted by length, so that a step holds
    examples of like length, and the steps of the epoch are shuffled again. Without `shuffle` examples are sorted by length
    throughout, longest first, so that memory's peak comes first.
    """
    count = len(tokens)
    if not shuffle:
        order = np.argsort(-np.asarray(tokens, np.int64), kind="stable")
        return [order[i : i + batch_size] for i in range(0, count, batch_size)]
    generator = np.random.default_rng(seed_for(seed, "order", epoch))
    order = generator.permutation(count)
    pool = 50 * batch_size
    steps: list[np.ndarray] = []
    for start in range(0, count, pool):
        part = order[start : start + pool]
        part = part[np.argsort(-tokens[part], kind="stable")]
        steps.extend(part[i : i + batch_size] for i in range(0, len(part), batch_size))
    return [steps[i] for i in generator.permutation(len(steps))]


def by_length(longest: np.ndarray, sequences: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield the numbers of E examples, int64[n] each, in the batches in which they are computed without training: the longest first.

    longest, sequences, max_tokens: as `split_by_tokens` takes them
    """
    for step in plan_batches(longest, batch_size=64, seed=0, epoch=0, shuffle=False):
        for part in split_by_tokens(longest[step], sequences[step], max_tokens):
            yield step[part]


def split_by_tokens(longest: np.ndarray, sequences: np.ndarray, max_tokens: int) -> list[slice]:
    """Cut a step's examples into runs whose padded size stays within `max_tokens`; an example is never cut.

    longest: int[E], the longest sequence of each example; sequences: int[E], how many it has.
    One example that is larger than `max_tokens` by itself gets a run of its own.
    """
    runs, start = [], 0
    while start < len(longest):
        padded = np.maximum.accumulate(longest[start:]) * np.cumsum(sequences[start:], dtype=np.int64)
        end = start + max(int(np.searchsorted(padded, max_tokens, side="right")), 1)
        runs.append(slice(start, end))
        start = end
    return runs
