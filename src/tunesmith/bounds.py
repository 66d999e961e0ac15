"""Between which bounds a figure would lie on other rows of the kind that it was taken from."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)
_NO_WIDTH = 1e-9  # of the bounds themselves; rounding can differ between resamples


def bounds(values: Any) -> list[float] | None:
    """Return the 95% interval [low, high] of a figure from its values on resamples, float[R], by the percentile bootstrap.

    None where the resamples are all alike: a width of 0 would be false certainty.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    low, high = (float(bound) for bound in np.percentile(values, _PERCENTILES))
    return [low, high] if high - low > _NO_WIDTH * max(abs(low), abs(high)) else None


def bounds_of_share(right: int, rows: int) -> list[float]:
    """Return the exact 95% interval of the probability behind `right` of `rows` (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    tail = _PERCENTILES[0] / 100
    low = float(beta.ppf(tail, right, rows - right + 1)) if right else 0.0
    high = float(beta.ppf(1 - tail, right + 1, rows - right)) if right < rows else 1.0
    return [low, high]
