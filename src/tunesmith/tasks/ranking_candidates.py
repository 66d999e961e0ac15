"""A query with its candidates, drawn afresh for each step of training: judged passages, and sampled or mined negatives.

N rows of the table, each a query and a passage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.data.batches import PackedBatch, pack, split_by_tokens
from tunesmith.data.ranked import JointEncoder, TwinEncoder
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded

MOST_POSITIVES = 8
"""Relevant passages of a query in one step; of more, so many are drawn afresh each time."""

_TRIES = 4


@dataclass(frozen=True)
class Known:
    """What is known of one query: the rows, int64, of its relevant passages and of its negatives, by grade and row.

    relevant: keys of its relevant passages; row: the row that stands for the query in the plan of steps
    """

    row: int
    positives: np.ndarray
    negatives: np.ndarray
    relevant: frozenset[int]


@dataclass(frozen=True)
class Candidates:
    """Draws the candidates of the queries of a step.

    queries: by the row that stands for each; grades: float32[N]; group: uint64[N]; keys: uint64[N], equal for equal passages
    pool: rows of different passages, int64, of which random negatives are drawn
    negatives: how many a query gets; positives: how many relevant passages at most
    fill: none, random or in-batch: where negatives come from when a query has too few of its own
    """

    table: TokenTable
    encoder: JointEncoder | TwinEncoder
    queries: dict[int, Known]
    grades: np.ndarray
    group: np.ndarray
    keys: np.ndarray
    pool: np.ndarray
    negatives: int
    positives: int = MOST_POSITIVES
    fill: str = "none"

    def drawn(self, chosen: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return, for each query of the step, the rows int64[n] of its candidates, relevant ones first."""
        return [self._drawn(self.queries[row], chosen, np.random.default_rng((seed, row))) for row in chosen.tolist()]

    def _drawn(self, query: Known, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        positives = _some(query.positives, self.positives, generator)
        negatives = _some(query.negatives, self.negatives, generator)
        lacking = self.negatives - len(negatives)
        if lacking <= 0 or self.fill == "none":
            return np.concatenate([positives, negatives])
        if self.fill == "in-batch":
            others = [self.queries[row].positives for row in chosen.tolist() if row != query.row]
            offered = np.concatenate(others) if others else self.pool[:0]
            offered = generator.permutation(offered)
        else:
            offered = self.pool[generator.integers(0, len(self.pool), _TRIES * lacking + 8)]
        taken = {int(self.keys[row]) for row in negatives.tolist()} | query.relevant
        more = []
        for row in offered.tolist():
            key = int(self.keys[row])
            if key not in taken:
                taken.add(key)
                more.append(row)
                if len(more) == lacking:
                    break
        return np.concatenate([positives, negatives, np.array(more, np.int64)])

    def pair(self, query: int, row: int) -> Encoded:
        """Return the example of the query of row `query` with the passage of row `row`."""
        encoded = self.table.example(row)
        if self.group[query] == self.group[row]:
            return encoded
        assert isinstance(self.encoder, JointEncoder)
        return self.encoder.combined(self.table.example(query), self.encoder.passage_of(encoded))

    def joint_batches(self, chosen: np.ndarray, seed: int, max_tokens: int) -> list[PackedBatch]:
        """Return a step for a cross-encoder: an example is a candidate, targets float32[E, 2] its grade and its query's number."""
        drawn = self.drawn(chosen, seed)
        pairs = [[self.pair(row, candidate) for candidate in rows.tolist()] for row, rows in zip(chosen.tolist(), drawn, strict=True)]
        batches = []
        for part in _parts(pairs, max_tokens):
            grades = [
                [(self.grades[row] if self.group[row] == self.group[query] else 0.0, number) for row in rows.tolist()]
                for number, (query, rows) in enumerate(zip(chosen[part].tolist(), drawn[part], strict=True))
            ]
            targets = np.array([item for query in grades for item in query], np.float32)
            batch = pack([pair for query in pairs[part] for pair in query], targets)
            batches.append(PackedBatch(batch.ids, batch.cu_seqlens, batch.example, batch.size, targets, batch.borders, units=len(grades)))
        return batches

    def twin_batches(self, chosen: np.ndarray, seed: int, max_tokens: int) -> list[PackedBatch]:
        """Return a step for a bi-encoder: an example is a query, then its candidates, a sequence each.

        targets: float32[E, P] for the P passages of the whole step, as `ranking_losses.contrastive` wants their relation to the queries
        """
        drawn = self.drawn(chosen, seed)
        passages = np.concatenate(drawn)
        keys = self.keys[passages]
        owner = np.repeat(np.arange(len(drawn)), list(map(len, drawn)))
        relation = np.zeros((len(drawn), len(passages)), np.float32)
        for number, row in enumerate(chosen.tolist()):
            known = self.queries[row]
            relation[number, np.isin(keys, np.array(sorted(known.relevant), np.uint64))] = -1
            own = (owner == number) & (self.group[passages] == self.group[row]) & (self.grades[passages] > 0)
            relation[number, own] = 1
        examples = []
        for row, rows in zip(chosen.tolist(), drawn, strict=True):
            sequences = [self.encoder.passage_of(self.table.example(candidate)) for candidate in rows.tolist()]
            examples.append([Encoded([self.table.example(row).sequences[0], *sequences], [], 0, 0)])
        return [pack([one[0] for one in examples[part]], relation[part]) for part in _parts(examples, max_tokens)]


def _some(rows: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= count else np.sort(generator.choice(rows, count, replace=False))


def _parts(examples: list[list[Encoded]], max_tokens: int) -> list[slice]:
    longest = np.array([max(len(sequence) for one in query for sequence in one.sequences) for query in examples])
    sequences = np.array([sum(len(one.sequences) for one in query) for query in examples])
    return split_by_tokens(longest, sequences, max_tokens)


def queries_of(group: np.ndarray, grades: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> dict[int, Known]:
    """Return what the rows with numbers `rows`, int64[E], say of each query, by its first row; rows without a query are left out.

    A passage counts once for a query, with the highest grade that it has there.
    """
    rows = rows[group[rows] != 0]
    order = rows[np.argsort(group[rows], kind="stable")]
    found = {}
    for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []:
        best = part[np.argsort(-grades[part], kind="stable")]
        once = np.sort(best[np.unique(keys[best], return_index=True)[1]])
        good, bad = once[grades[once] > 0], once[grades[once] <= 0]
        found[int(part[0])] = Known(int(part[0]), good, bad, frozenset(keys[good].tolist()))
    return dict(sorted(found.items()))
