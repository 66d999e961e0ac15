"""Splitting rows off for validation and test: stratified, whole groups, never the same text on both sides.

A row with several labels counts for its rarest one: that label's share is kept close to even, and its last unit stays in training.
The shares of its other labels are left to chance, and a label whose every row has a rarer label beside it may be spread unevenly or,
in very small data, be missing from a part; the training says so when it is missing from training.
"""

from __future__ import annotations

import numpy as np

from tunesmith.seeds import seed_for


def units_of(text_key: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """Return int64[N]: rows with the same number must stay together, as they share a text or a group (in any chain of both).

    text_key: uint64[N]; group: uint64[N] or None
    """
    by_text = np.unique(text_key, return_inverse=True)[1]
    if group is None:
        return by_text
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    by_group = np.unique(group, return_inverse=True)[1]
    texts, groups = by_text.max(initial=-1) + 1, by_group.max(initial=-1) + 1
    edges = coo_array((np.ones(len(by_text), np.int8), (by_text, texts + by_group)), shape=(texts + groups,) * 2)
    return connected_components(edges, directed=False)[1][by_text]


def split_off(stratum: np.ndarray, unit: np.ndarray, share: float, *, seed: int, purpose: str) -> np.ndarray:
    """Return bool[N], True for the rows split off: close to `share` of each stratum, in whole units.

    stratum: int[N], what should be spread evenly (the label); unit: int[N] from `units_of`; share in (0, 1).
    A unit counts for the stratum of most of its rows (the lowest such). A stratum of a single unit stays whole
    on the training side.
    """
    if len(stratum) == 0 or share <= 0:
        return np.zeros(len(stratum), bool)
    names, unit = np.unique(unit, return_inverse=True)
    rows = np.bincount(unit)
    stratum_of = _majority(stratum, unit, len(names))
    order = np.random.default_rng(seed_for(seed, f"split {purpose}")).permutation(len(names))
    order = order[np.argsort(stratum_of[order], kind="stable")]
    strata, first, count = np.unique(stratum_of[order], return_index=True, return_counts=True)
    totals = np.bincount(stratum_of, weights=rows)[strata]
    quotas = _round_to_sum(totals * share)
    before = np.cumsum(rows[order]) - rows[order]
    before -= np.repeat(before[first], count)
    # a unit is taken while at least half of it fits into what its stratum still has to give
    taken = before + rows[order] / 2 <= np.repeat(quotas, count)
    taken &= np.repeat(quotas, count) > 0
    # the last unit of a stratum always stays in training, so no label vanishes from it
    taken[first + count - 1] = False
    chosen = np.zeros(len(names), bool)
    chosen[order[taken]] = True
    return chosen[unit]


def folds_of(stratum: np.ndarray, unit: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return int64[N], the fold in [0, count) of each row: whole units, each stratum spread evenly, and folds of like size.

    stratum: int[N]; unit: int[N] from `units_of`, at least `count` different ones.
    The units of a stratum, in random order but the largest first, go each to the fold that has the fewest rows of the stratum
    so far, and of these to the one with the fewest rows at all. No fold is empty.
    """
    names, unit = np.unique(unit, return_inverse=True)
    rows = np.bincount(unit)
    stratum_of = _majority(stratum, unit, len(names))
    order = np.random.default_rng(seed_for(seed, "folds")).permutation(len(names))
    order = order[np.lexsort((-rows[order], stratum_of[order]))]
    sizes, fold = [0] * count, np.zeros(len(names), np.int64)
    inside, current = [0] * count, None
    for name, size, of in zip(order.tolist(), rows[order].tolist(), stratum_of[order].tolist(), strict=True):
        if of != current:
            inside, current = [0] * count, of
        chosen = min(range(count), key=lambda i: (inside[i], sizes[i], i))
        fold[name] = chosen
        inside[chosen] += size
        sizes[chosen] += size
    return fold[unit]


def _majority(stratum: np.ndarray, unit: np.ndarray, units: int) -> np.ndarray:
    order = np.lexsort((stratum, unit))
    pairs, counts = np.unique(np.stack([unit[order], stratum[order]]), axis=1, return_counts=True)
    result = np.zeros(units, np.int64)
    best = np.lexsort((-pairs[1], counts))  # written last: most rows, then the lowest stratum
    result[pairs[0][best]] = pairs[1][best]
    return result


def _round_to_sum(values: np.ndarray) -> np.ndarray:
    """Round to whole numbers whose sum is the rounded sum, by largest remainder."""
    down = np.floor(values)
    missing = round(float(values.sum() - down.sum()))
    down[np.argsort(-(values - down), kind="stable")[:missing]] += 1
    return down
