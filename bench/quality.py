"""One definition of every quality figure for all variants, computed from their predictions; and paired bootstrap intervals.

The variants hand over labels, not figures, so nobody is measured by his own yardstick. Legend: N test rows, C labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats

from bench import lists, tagged


def scores(gold: np.ndarray, predicted: np.ndarray, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Return float64[R]: `metric` of predictions float64[N, C] against gold float64[N, C].

    weights: float64[R, N], how often each row counts in each resample; without it one sample with every row once. A label that a
    sample has neither in gold nor among the predictions stays out of the macro mean. `matthews` is for one label a row. For the
    correlations gold and predictions are numbers, float64[N, 1]. Figures of answers, of ranked lists and of tags come from what `judging`
    made of each question, query and sentence: see `questions.judged_answers`, `lists.judged_lists` and `tagged.judged_tags`.
    """
    if weights is None:
        weights = np.ones((1, len(gold)))
    if metric in ("exact_match", "answer_f1"):  # judged question by question before: the predictions are the figures of each
        return weights @ predicted[:, int(metric == "answer_f1")] / weights.sum(axis=1)
    if metric in lists.FIGURES:
        return weights @ predicted[:, lists.FIGURES.index(metric)] / weights.sum(axis=1)
    if metric in tagged.FIGURES:
        return of_tags(gold, predicted, metric, weights)
    if metric in ("pearson", "spearman"):
        return correlation(gold[:, 0], predicted[:, 0], weights, ranked=metric == "spearman")
    if metric == "accuracy":  # with several labels a row: subset accuracy
        return weights @ (gold == predicted).all(axis=1) / weights.sum(axis=1)
    hits = weights @ (gold * predicted)
    of_gold, of_predicted = weights @ gold, weights @ predicted
    if metric == "f1_micro":
        return 2 * hits.sum(axis=1) / np.maximum(of_gold.sum(axis=1) + of_predicted.sum(axis=1), 1e-300)
    if metric == "f1_macro":
        total = of_gold + of_predicted
        present = total > 0
        return np.where(present, 2 * hits / np.where(present, total, 1), 0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    if metric == "matthews":  # Gorodkin 2004, as in scikit-learn
        rows = weights.sum(axis=1)
        covariance = hits.sum(axis=1) * rows - (of_gold * of_predicted).sum(axis=1)
        spread = (rows**2 - (of_predicted**2).sum(axis=1)) * (rows**2 - (of_gold**2).sum(axis=1))
        return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0)
    if metric == "f1_positive":  # of the label that sorts last, the positive one of two
        return 2 * hits[:, -1] / np.maximum(of_gold[:, -1] + of_predicted[:, -1], 1e-300)
    raise ValueError(f"unknown metric {metric!r}")


def of_tags(gold: np.ndarray, predicted: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
    """Return float64[R], a figure of tags from the counts of each sentence, gold float64[N, 3] and predicted float64[N, 5]."""
    if metric == "word_accuracy":
        return weights @ predicted[:, 0] / np.maximum(weights @ gold[:, 0], 1)
    rule = tagged.FIGURES.index(metric)  # 1 strict, 2 default
    right, guessed, known = weights @ predicted[:, 2 * rule - 1], weights @ predicted[:, 2 * rule], weights @ gold[:, rule]
    return 2 * right / np.maximum(guessed + known, 1)


def correlation(gold: np.ndarray, predicted: np.ndarray, weights: np.ndarray, *, ranked: bool) -> np.ndarray:
    """Return float64[R], Pearson's correlation of two float64[N]; `ranked`: Spearman's, by the ranks in the whole sample."""
    if ranked:
        gold, predicted = (scipy.stats.rankdata(values) for values in (gold, predicted))
    total = weights.sum(axis=1)
    one, two = (values[None, :] - (weights @ values / total)[:, None] for values in (gold, predicted))
    spread = np.sqrt((weights * one * one).sum(axis=1) * (weights * two * two).sum(axis=1))
    return np.where(spread > 0, (weights * one * two).sum(axis=1) / np.where(spread > 0, spread, 1), 0)


def paired_difference(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], metric: str, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference of `metric`, ours minus theirs, and its bootstrap interval at `level`.

    pairs: (gold, ours, theirs) of each seed, each float64[N, C]. Where all seeds share one test set, a resample draws the same rows for
    all of them, as rows that are hard for one run are hard for the others. The interval covers the choice of test rows only;
    what another seed would have given shows in the spread over seeds.
    """
    shared = all(np.array_equal(pairs[0][0], gold) for gold, _, _ in pairs)
    draws = np.zeros(resamples)
    mean = 0.0
    for i, (gold, ours, theirs) in enumerate(pairs):
        generator = np.random.default_rng(seed if shared else (seed, i))
        rows = len(gold)
        mean += float((scores(gold, ours, metric) - scores(gold, theirs, metric))[0]) / len(pairs)
        for start in range(0, resamples, 200):  # in parts: R x N weights can be large
            part = slice(start, min(start + 200, resamples))
            weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=part.stop - part.start).astype(float)
            draws[part] += (scores(gold, ours, metric, weights) - scores(gold, theirs, metric, weights)) / len(pairs)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)
