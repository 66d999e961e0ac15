"""Scores of predicted numbers, their confidence intervals, and how predictions agree with true values along their range.

E examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds
from tunesmith.errors import DataError, Diverged

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPEARMAN_CELLS = 4_000_000  # ranking every resample of more rows than this allows would take many seconds


def regression(gold: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    """Return the values of `metrics.METRICS["regression"]`: Pearson and Spearman correlation, mean squared and mean absolute error.

    gold, predicted: float[E]. A correlation with a constant is undefined and left out.
    Raises `DataError` without rows, `Diverged` when a prediction is not a finite number.
    """
    gold, predicted = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    if not len(gold):
        raise DataError("there are no rows with a value to evaluate on.")
    wrong = int((~np.isfinite(predicted)).sum())
    if wrong:
        raise Diverged(f"{wrong:,} of {len(gold):,} predictions are not finite numbers, so training diverged. Use a lower learning rate.")
    scores = {}
    if varies(gold) and varies(predicted):
        scores = {"pearson": float(_correlation(gold, predicted)), "spearman": float(_correlation(_ranks(gold), _ranks(predicted)))}
    error = predicted - gold
    return {**scores, "mse": float(np.square(error).mean()), "mae": float(np.abs(error).mean())}


def varies(values: NDArray[Any]) -> bool:
    """Whether the values are not all the same."""
    return bool(len(values) and (values != values[0]).any())


def regression_intervals(gold: NDArray[Any], predicted: NDArray[Any], *, seed: int) -> dict[str, list[float]]:
    """Return [low, high] of each metric that has a value, by percentile bootstrap over rows (Efron and Tibshirani 1993, section 13.3).

    Spearman's is left out for test sets so large that ranking every resample would take minutes.
    """
    gold, predicted = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"pearson": [], "spearman": [], "mse": [], "mae": []}
    ranked = len(gold) * RESAMPLES <= _SPEARMAN_CELLS
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(gold), len(gold))
        one, two = gold[rows], predicted[rows]
        if varies(one) and varies(two):
            found["pearson"].append(_correlation(one, two))
            if ranked:
                found["spearman"].append(_correlation(_ranks(one), _ranks(two)))
        found["mse"].append(np.square(two - one).mean())
        found["mae"].append(np.abs(two - one).mean())
    whole = regression(gold, predicted)
    return {name: pair for name, values in found.items() if values and name in whole and (pair := bounds(values)) is not None}


def resampled(gold: NDArray[Any], predicted: NDArray[Any], drawn: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return Pearson's correlation, mean squared and mean absolute error, float[R] each, where float[R, E] says how often a row is drawn.

    A correlation with a constant counts as 0.
    """
    weight = drawn / drawn.sum(1, keepdims=True)
    one, two = (values - values.mean() for values in (np.asarray(gold, np.float64), np.asarray(predicted, np.float64)))
    means = weight @ one, weight @ two
    spread = [np.maximum(weight @ np.square(values) - np.square(mean), 0) for values, mean in zip((one, two), means, strict=True)]
    below = np.sqrt(spread[0] * spread[1])
    shared = weight @ (one * two) - means[0] * means[1]
    error = np.asarray(predicted, np.float64) - gold
    return {
        "pearson": np.divide(shared, below, out=np.zeros(len(drawn)), where=below > 0),
        "mse": weight @ np.square(error),
        "mae": weight @ np.abs(error),
    }


def agreement_bins(gold: NDArray[Any], predicted: NDArray[Any], bins: int = 10) -> list[dict[str, Any]]:
    """Return mean prediction, and mean, deviation and count of the true values, of groups of rows that are alike in prediction."""
    order = np.argsort(predicted, kind="stable")
    groups = [rows for rows in np.array_split(order, min(bins, len(order))) if len(rows)]
    return [
        {
            "predicted": float(np.mean(predicted[rows])),
            "gold": float(np.mean(gold[rows])),
            "spread": float(np.std(gold[rows])),
            "count": len(rows),
        }
        for rows in groups
    ]


def _correlation(one: NDArray[Any], two: NDArray[Any]) -> float:
    one, two = _unit(one - one.mean()), _unit(two - two.mean())
    return one @ two


def _unit(values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` divided by their norm; the greatest one first, as squares of small ones are 0."""
    values = values / np.abs(values).max()
    return values / np.sqrt(values @ values)


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    from scipy.stats import rankdata

    return rankdata(values)
