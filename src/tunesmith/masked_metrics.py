"""Scores of guessed words: perplexity, loss and accuracy, and their confidence intervals. P hidden tokens, N sequences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds
from tunesmith.errors import DataError, Diverged

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW = 5  # sequences, of which resamples say nothing about others


def masked_scores(surprise: NDArray[Any], hit: NDArray[Any]) -> dict[str, float]:
    """Return the values of `metrics.METRICS["masked-lm"]`.

    surprise: float[P], minus the natural logarithm of the probability that the hidden token was given; hit: float[P], 1 where it was
    the most probable one. Perplexity is the exponential of the mean surprise: of the hidden tokens, not of all, as in Devlin et al. 2019,
    "BERT", appendix A.2; it compares with that of another encoder only when both have the same vocabulary.

    Raises `DataError` without a hidden token, `Diverged` when a surprise is not a finite number.
    """
    surprise = np.asarray(surprise, np.float64)
    if not len(surprise):
        raise DataError("there is no word to guess in these rows: they hold no text.")
    if not np.isfinite(surprise).all():
        raise Diverged(
            f"{(~np.isfinite(surprise)).sum():,} of {len(surprise):,} guesses are not finite numbers. Use a lower learning rate."
        )
    loss = float(surprise.mean())
    return {"perplexity": _exp(loss), "loss": loss, "masked_accuracy": float(np.mean(hit))}


def masked_intervals(surprise: NDArray[Any], hit: NDArray[Any], sequence: NDArray[Any], *, seed: int) -> dict[str, list[float]]:
    """Return [low, high] of each score by percentile bootstrap over sequences, whose words are not independent of one another.

    sequence: int[P], which of the N sequences each token stands in (Efron and Tibshirani 1993, section 13.3). Empty for fewer than five.
    """
    number = np.unique(sequence, return_inverse=True)[1]
    count = int(number.max(initial=-1)) + 1
    if count < _FEW:
        return {}
    sums = np.stack([np.bincount(number, weights, count) for weights in (np.ones(len(number)), surprise, hit)])
    generator = np.random.default_rng(seed)
    found = np.empty((3, RESAMPLES))
    for i in range(RESAMPLES):
        found[:, i] = sums[:, generator.integers(0, count, count)].sum(1)
    loss, accuracy = bounds(found[1] / found[0]), bounds(found[2] / found[0])
    told = {"loss": loss, "masked_accuracy": accuracy, "perplexity": [_exp(bound) for bound in loss] if loss is not None else None}
    return {name: pair for name, pair in told.items() if pair is not None}


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))
