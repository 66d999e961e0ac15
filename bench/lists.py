"""Ranking in the benchmark: the scores of rows judged query by query, by the rules of trec_eval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

FIGURES = ("mrr", "map", "ndcg@10")


def figures(hits: Sequence[bool], relevant: int) -> list[float]:
    """Return reciprocal rank, average precision and nDCG@10 (trec_eval's recip_rank, map and ndcg_cut_10) of one ranked list.

    hits: whether each passage is relevant, best first; relevant: how many there are, found or not, at least one
    """
    ranks = np.flatnonzero(hits) + 1
    precisions = np.arange(1, len(ranks) + 1) / ranks
    gained, ideal = (float((1 / np.log2(places + 1)).sum()) for places in (ranks[ranks <= 10], np.arange(1, min(relevant, 10) + 1)))
    return [1 / float(ranks[0]) if len(ranks) else 0.0, float(precisions.sum()) / relevant, gained / ideal]


def judged_lists(rows: Sequence[tuple[str, ...]], scores: Sequence[float]) -> dict[str, list[list[float]]]:
    """Return `gold`, ones, and `predictions`, the figures of each query.

    rows: query, passage and label, 0 or above, of every row of the test file; scores: one for each, the higher the more relevant

    A query without a relevant passage is left out: nothing can be found for it. Equal scores are ranked with the less relevant passage
    first, for all programs alike, so that no tie flatters.
    """
    lists: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for (query, _, label), score in zip(rows, scores, strict=True):
        lists[query].append((float(score), float(label) > 0))
    found = []
    for candidates in lists.values():
        hits = [relevant for _, relevant in sorted(candidates, key=lambda one: (-one[0], one[1]))]
        if any(hits):
            found.append(figures(hits, sum(hits)))
    return {"gold": [[1.0] * len(FIGURES) for _ in found], "predictions": found}
