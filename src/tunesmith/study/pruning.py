"""Which trials are not worth their last epochs: those behind the median of others that had done the same share of their schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FEWEST = 4
"""The median of fewer others is no measure."""
Scores = Mapping[int, float]
"""The value after each epoch, counted from 1."""


def is_behind(scores: Scores, epochs: int, others: Sequence[tuple[Scores, int]], *, greater: bool) -> bool:
    """Whether the best of a trial's scores so far is worse than the median of the others' scores after the same share of their epochs.

    scores: of the trial that goes on, at least one; epochs: those that it is to have; others: scores and epochs of trials that ended
    greater: whether more is better

    The rate falls along the schedule, so that a trial of 2 epochs stands after its first where one of 8 stands after its fourth; that
    one stood there after its last epoch that was not beyond this share. Others without such an epoch say nothing, nor do fewer than
    `FEWEST` with one.
    The rule is that of Golovin et al. 2017, "Google Vizier", section 3.2.2, with shares in the place of steps.
    """
    now, sign = max(scores), 1 if greater else -1
    there = []
    for values, of in others:
        done = [epoch for epoch in values if epoch * epochs <= now * of]
        if done:
            there.append(sign * values[max(done)])
    return len(there) >= FEWEST and max(sign * value for value in scores.values()) < float(np.median(there))
