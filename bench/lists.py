"""Ranking in the benchmark: the scores of rows judged query by query, by the rules of trec_eval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

FIGURES = ("mrr", "map")


def judged_lists(rows: Sequence[tuple[str, ...]], scores: Sequence[float]) -> dict[str, list[list[float]]]:
    """Return `gold`, ones, and `predictions`, reciprocal rank and average precision (trec_eval's recip_rank and map) of each query.

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
        ranks = np.flatnonzero(hits) + 1
        if len(ranks):
            found.append([1 / float(ranks[0]), float((np.arange(1, len(ranks) + 1) / ranks).mean())])
    return {"gold": [[1.0, 1.0] for _ in found], "predictions": found}
