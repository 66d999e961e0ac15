"""The best sequence of tags that a scheme allows. W words, C tags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.data.schemes import allowed


def transitions(labels: Sequence[str], scheme: str) -> np.ndarray:
    """Return bool[C + 1, C + 1]: whether tag j may follow tag i; the last row and column are the sentence's borders."""
    names = [*labels, None]
    return np.array([[allowed(one, two, scheme) for two in names] for one in names])


def best_path(scores: np.ndarray, may_follow: np.ndarray) -> np.ndarray:
    """Return int[W], the tags with the greatest sum of scores float[W, C] among the sequences that are allowed, the first of equals.

    may_follow: of `transitions`; where no sequence at all is allowed each word gets its best tag.
    Viterbi 1967, "Error bounds for convolutional codes"; Rabiner 1989, "A tutorial on hidden Markov models", section III.B, with
    transitions that cost nothing or are impossible.
    """
    free = scores.argmax(1)
    border = scores.shape[1]
    steps = np.concatenate([[border], free, [border]])
    if may_follow[steps[:-1], steps[1:]].all():  # what is best without any rule is best under it
        return free
    cost = np.where(may_follow, 0.0, -np.inf)
    best = scores[0].astype(np.float64) + cost[border, :-1]
    back = np.zeros(scores.shape, np.int64)
    inner = cost[:-1, :-1]
    for word in range(1, len(scores)):
        through = best[:, None] + inner
        back[word] = through.argmax(0)
        best = through.max(0) + scores[word]
    best = best + cost[:-1, border]
    if not np.isfinite(best.max()):
        return free
    path = np.empty(len(scores), np.int64)
    path[-1] = best.argmax()
    for word in range(len(scores) - 1, 0, -1):
        path[word - 1] = back[word, path[word]]
    return path
