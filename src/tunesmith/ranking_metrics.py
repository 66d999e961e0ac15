"""Scores of ranked lists by the rules of trec_eval, which ir-measures computes, too; their intervals, and the test of a difference.

Q queries, n passages of one query. Equal scores are ranked with the less relevant passage first, so that no tie flatters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKING = {"ndcg@10": True, "mrr@10": True, "map": True, "recall@10": True, "recall@100": True}
"""Metric names, and that greater is better."""

_CHUNK = 4_000_000


@dataclass
class Ranking:
    """The lists of Q queries, scored one by one with `add`.

    names: what each judged query is called; values: by metric, a value for each of them
    first: rank of the first relevant passage, 0 where none was found
    left_out: queries without any relevant passage: nothing can be found for them, and trec_eval leaves them out, too
    """

    names: list[Any] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in RANKING})
    first: list[int] = field(default_factory=list)
    left_out: int = 0

    def add(self, name: Any, gains: NDArray[Any], relevant: NDArray[Any] | None = None) -> None:
        """Score one query.

        gains: float[n], the grades of its passages in the order of their ranks
        relevant: the grades of all its relevant passages where some are not in the list
        """
        ideal = gains[gains > 0] if relevant is None else relevant[relevant > 0]
        if not len(ideal):
            self.left_out += 1
            return
        self.names.append(name)
        for metric, value in scores_of(np.asarray(gains, np.float64), np.asarray(ideal, np.float64)).items():
            self.values[metric].append(value)
        hits = np.flatnonzero(gains > 0)
        self.first.append(int(hits[0]) + 1 if len(hits) else 0)

    def __len__(self) -> int:
        return len(self.names)

    def means(self) -> dict[str, float]:
        """Return the mean of each metric over queries; 0 where there is none."""
        return {name: float(np.mean(values)) if values else 0.0 for name, values in self.values.items()}


def order_of(scores: NDArray[Any], grades: NDArray[Any]) -> NDArray[np.int64]:
    """Return the places, int64[n], of passages with these scores and grades from first to last rank."""
    return np.lexsort((grades, -np.asarray(scores, np.float64)))


def scores_of(gains: NDArray[np.float64], ideal: NDArray[np.float64]) -> dict[str, float]:
    """Return the metrics of one list.

    gains: float[n], grades in order of rank; ideal: the grades above 0 of all that is relevant, at least one

    nDCG@10 with the grade as gain and log2(rank + 1) as discount (Järvelin and Kekäläinen 2002, section 2.2; trec_eval's ndcg_cut), MRR@10
    the reciprocal rank of the first relevant passage among ten, MAP average precision (Buckley and Voorhees 2000), Recall@k the share of
    the relevant passages among the first k. A passage is relevant when its grade is above 0.
    """
    hits = gains > 0
    ranks = np.flatnonzero(hits) + 1
    best = np.sort(ideal)[::-1][:10]
    top = gains[:10]
    discounted = float((top / np.log2(np.arange(2, len(top) + 2))).sum())
    wanted = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
    return {
        "ndcg@10": discounted / wanted,
        "mrr@10": 1.0 / float(ranks[0]) if len(ranks) and ranks[0] <= 10 else 0.0,
        "map": float((np.arange(1, len(ranks) + 1) / ranks).sum()) / len(ideal),
        "recall@10": float(hits[:10].sum()) / len(ideal),
        "recall@100": float(hits[:100].sum()) / len(ideal),
    }


def ranking_intervals(values: Mapping[str, Iterable[float]], *, seed: int, resamples: int = RESAMPLES) -> dict[str, list[float]]:
    """Return 95% intervals [low, high] of the means by percentile bootstrap over queries; none for fewer than two queries.

    values: by metric, a value for each query, in one order
    """
    table = np.array(list(map(list, values.values())))
    if table.size == 0 or table.shape[1] < 2:
        return {}
    rng = np.random.default_rng(seed)
    queries, found = table.shape[1], []
    for done in range(0, resamples, max(1, _CHUNK // queries)):
        size = min(max(1, _CHUNK // queries), resamples - done)
        found.append(table[:, rng.integers(0, queries, (size, queries))].mean(2))
    return {name: pair for name, drawn in zip(values, np.concatenate(found, 1), strict=True) if (pair := bounds(drawn)) is not None}


def difference(one: Iterable[float], two: Iterable[float], *, seed: int, rounds: int = 10_000) -> dict[str, float]:
    """Return by how much the mean of `one` is above that of `two`, and how probable a difference as large is by chance.

    one, two: values of the same queries in the same order. `p` is that of the two-sided paired randomisation test, which flips the sign of
    each query's difference (Smucker, Allan and Carterette 2007, section 3.4), from `rounds` random flips.
    """
    gaps = np.array(list(one), np.float64) - np.array(list(two), np.float64)
    if not len(gaps):
        return {"difference": 0.0, "p": 1.0, "better": 0, "worse": 0, "queries": 0}
    rng = np.random.default_rng(seed)
    seen, reached, step = abs(gaps.mean()), 0, max(1, _CHUNK // len(gaps))
    for done in range(0, rounds, step):
        flips = rng.integers(0, 2, (min(step, rounds - done), len(gaps))) * 2.0 - 1.0
        reached += int((np.abs(flips @ gaps) / len(gaps) >= seen - 1e-12).sum())
    return {
        "difference": float(gaps.mean()),
        "p": (reached + 1) / (rounds + 1),
        "better": int((gaps > 0).sum()),
        "worse": int((gaps < 0).sum()),
        "queries": len(gaps),
    }
