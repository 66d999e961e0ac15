"""Scores of a classifier, their confidence intervals, and the thresholds of a multi-label one.

Shapes: E examples, C classes (labels), R resamples. What follows from the predicted labels alone is computed in `counting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds, bounds_of_share
from tunesmith.counting import count_cells, label_scores, point_scores, precision_recall_f1
from tunesmith.errors import DataError, Diverged, UsageError, did_you_mean, setting
from tunesmith.ranking_metrics import RANKING
from tunesmith.seeds import seed_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["single", "multi"]
Advance = Callable[[int], None]
"""Told how many more of the `scoring_steps` are done."""

_LRAP_ROWS = 2000  # in one step

_AVERAGES = ("macro", "micro", "weighted")
_AVERAGED = {f"{score}_{average}": True for score in ("f1", "precision", "recall") for average in _AVERAGES}

METRICS: dict[str, dict[str, bool]] = {
    "single": {"accuracy": True, **_AVERAGED, "matthews": True, "roc_auc": True, "ece": False, "log_loss": False},
    "multi": {**_AVERAGED, "subset_accuracy": True, "lrap": True, "roc_auc": True, "ece": False},
    "masked-lm": {"perplexity": False, "loss": False, "masked_accuracy": True},
    "regression": {"pearson": True, "spearman": True, "mse": False, "mae": False},
    "spans": {f"{score}_{mode}": True for mode in ("strict", "default") for score in ("f1", "precision", "recall")} | {"accuracy": True},
    "tags": {"accuracy": True, "f1_macro": True},
    "qa": dict.fromkeys(
        ("exact_match", "f1", "has_answer_exact_match", "has_answer_f1", "no_answer_accuracy", "best_exact_match", "best_f1"), True
    ),
    "ranking": RANKING,
}
"""Per kind, every metric name and whether greater is better."""


def greater_is_better(name: str, kind: str) -> bool:
    """Return whether a greater value of metric `name` is better; raise `UsageError` when `kind` has no such metric."""
    known = METRICS[kind]
    if name not in known:
        what = {"single": "single-label classification", "multi": "multi-label classification", "qa": "question answering"}.get(kind, kind)
        raise UsageError(f"{setting('metric')} {name!r} is not one of those for {what}: {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]


def scoring_steps(gold: NDArray[Any], n_labels: int) -> int:
    """Return in how many steps `single_label` or `multi_label` score this gold, int[E] or bool[E, C]: some take milliseconds each."""
    if gold.ndim == 1:
        return len(_judged_columns(gold, n_labels))
    return n_labels + -(-len(gold) // _LRAP_ROWS)


# --- metrics ---------------------------------------------------------------------------------------------------------------


def single_label(gold: NDArray[Any], probabilities: NDArray[Any], advance: Advance | None = None) -> dict[str, float]:
    """Score predictions of exactly one label per example; the predicted label is the most probable, the first of equals.

    Args:
        gold: int[E] in [0, C).
        probabilities: float[E, C], rows summing to 1.

    Returns:
        Values by the names in ``METRICS["single"]``. Macro averages run over the classes that are in gold or were
        predicted. `roc_auc` is that of class 1 when C is 2, else one class against the rest, averaged over the classes
        present in gold (Hand and Till 2001, section 1 has the binary case); left out where undefined. `ece` and `log_loss`:
        see `calibration_bins`; natural logarithm, probabilities clipped to float64's epsilon.

    Raises:
        DataError: no rows.
        Diverged: a probability is not a finite number.
    """
    gold, probabilities = _checked(gold, probabilities)
    scores = point_scores(gold, probabilities.argmax(1), probabilities.shape[1])
    columns = _judged_columns(gold, probabilities.shape[1])
    _add_auc(scores, ((gold == column, probabilities[:, column]) for column in columns), advance)
    scores["ece"] = expected_calibration_error(calibration_bins(gold, probabilities))
    epsilon = np.finfo(np.float64).eps
    chosen = probabilities[np.arange(len(gold)), gold]
    scores["log_loss"] = float(-np.log(np.clip(chosen, epsilon, 1 - epsilon)).mean())
    return scores


def multi_label(
    gold: NDArray[Any], probabilities: NDArray[Any], thresholds: NDArray[Any], advance: Advance | None = None
) -> dict[str, float]:
    """Score predictions of any number of labels per example; a label is predicted from its threshold upward.

    Args:
        gold: bool[E, C].
        probabilities: float[E, C], each in [0, 1].
        thresholds: float[C].

    Returns:
        Values by the names in ``METRICS["multi"]``. Macro averages run over all C labels. `roc_auc` is the mean over the
        labels that have both positive and negative examples, left out where there are none. `lrap` is the label ranking
        average precision (Tsoumakas, Katakis and Vlahavas 2010, section 7). `ece` runs over all E x C yes-no decisions.

    Raises:
        DataError: no rows.
        Diverged: a probability is not a finite number.
    """
    from sklearn.metrics import label_ranking_average_precision_score

    gold, probabilities = _checked(gold, probabilities)
    scores = point_scores(gold, probabilities >= thresholds, probabilities.shape[1])
    total = 0.0
    for start in range(0, len(gold), _LRAP_ROWS):
        rows = slice(start, start + _LRAP_ROWS)
        total += float(label_ranking_average_precision_score(gold[rows], probabilities[rows])) * len(gold[rows])
        if advance is not None:
            advance(1)
    scores["lrap"] = total / len(gold)
    _add_auc(scores, zip(gold.T, probabilities.T, strict=True), advance)
    scores["ece"] = expected_calibration_error(calibration_bins(gold, probabilities))
    return scores


def per_label(gold: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return label, precision, recall, f1, support, and how often it was predicted, of each label.

    Args:
        gold, predicted: int[E], or bool[E, C] for multi-label.
        labels: the C names.
    """
    cells = count_cells(gold, predicted, len(labels))
    hit, guessed, support = (counts[0] for counts in cells.tally(cells.counts[None])[:3])
    precision, recall, f1 = precision_recall_f1(hit, guessed, support)
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s), "predicted": int(g)}
        for label, p, r, f, s, g in zip(labels, precision, recall, f1, support, guessed, strict=True)
    ]


def confusion(gold: NDArray[Any], predicted: NDArray[Any], n: int) -> list[list[int]]:
    """Return how often gold class i (row) was predicted as class j (column), from int[E] and int[E] in [0, n)."""
    cell = np.asarray(gold, np.int64) * n + np.asarray(predicted, np.int64)
    return np.bincount(cell, minlength=n * n).reshape(n, n).tolist()


def calibration_bins(gold: NDArray[Any], probabilities: NDArray[Any], bins: int = 15) -> list[dict[str, Any]]:
    """Group predictions by stated probability into equal-width bins (low, high], leaving out empty ones.

    Single-label (gold int[E]): one prediction per example, its top probability and whether that class is right. Multi-label
    (gold bool[E, C]): one per example and label, the probability of the label and whether the example has it.

    Returns:
        Per bin: low, high, confidence (mean probability), accuracy (share that came true), count.
        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    gold, probabilities = np.asarray(gold), np.asarray(probabilities, np.float64)
    if gold.ndim == 1:
        confidence, right = probabilities.max(1), probabilities.argmax(1) == gold
    else:
        confidence, right = probabilities.ravel(), gold.ravel()
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(index, minlength=bins)
    mean = np.bincount(index, weights=confidence, minlength=bins)
    true = np.bincount(index, weights=right, minlength=bins)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "confidence": float(mean[b] / count[b]),
            "accuracy": float(true[b] / count[b]),
            "count": int(count[b]),
        }
        for b in np.flatnonzero(count)
    ]


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Return the mean gap between confidence and accuracy over `calibration_bins`, weighted by count (Guo et al. 2017, eq. 3)."""
    total = sum(b["count"] for b in bins)
    return float(sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / total)


# --- thresholds ------------------------------------------------------------------------------------------------------------


def tune_thresholds(gold: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return, for each label, the threshold with the best F1 on these examples.

    The search is exact: F1 only changes where the threshold passes a probability that occurs, so the midpoint of each pair of
    neighbouring probabilities, and half of the lowest one, stand for all thresholds. Among equally good ones the closest to
    0.5 is taken, the lower of two equally close. A label without a positive example keeps 0.5.

    Args:
        gold: bool[E, C].
        probabilities: float[E, C]; a label counts as predicted from its threshold upward.

    Returns:
        float[C] in [0, 1].
    """
    gold, probabilities = np.asarray(gold, bool), np.asarray(probabilities, np.float64)
    thresholds = np.full(gold.shape[1], 0.5)
    for c in np.flatnonzero(gold.any(0)):
        order = np.argsort(probabilities[:, c], kind="stable")
        values, first = np.unique(probabilities[order, c], return_index=True)
        positives = gold[order, c]
        missed = np.concatenate([[0], np.cumsum(positives)])[first]
        total = int(positives.sum())
        f1 = 2 * (total - missed) / (total + len(positives) - first)
        below = np.concatenate([[0.0], values[:-1]])
        middle = (below + values) / 2
        # between two neighbouring floats the midpoint rounds to one of them, and the lower one would be predicted too
        middle = np.where(middle > below, middle, values)
        best = middle[f1 == f1.max()]
        thresholds[c] = best[np.abs(best - 0.5).argmin()]
    return thresholds


# --- confidence intervals --------------------------------------------------------------------------------------------------


def intervals(
    gold: NDArray[Any], predicted: NDArray[Any], n_labels: int, *, seed: int, resamples: int = RESAMPLES
) -> dict[str, list[float]]:
    """Return [low, high] of the metrics that depend on the predicted labels only, by percentile bootstrap over rows.

    Where the resamples are all alike (every row is right, say), the bootstrap has no width, which is false certainty. A share of
    right rows, which accuracy, subset accuracy and the scores equal to accuracy are, then gets its exact binomial interval
    (Clopper and Pearson 1934); other metrics are left out.

    Args:
        gold, predicted: int[E], or bool[E, C] for multi-label.
        n_labels: C.
        seed: any int; equal arguments give equal intervals.
    """
    cells = count_cells(np.asarray(gold), np.asarray(predicted), n_labels)
    rng = np.random.default_rng(seed)
    parts = [label_scores(cells, counts) for counts in _resampled(cells.counts, rng, resamples)]
    right, rows = round(float(cells.counts @ cells.exact)), int(cells.counts.sum())
    found = {}
    for name in parts[0]:
        pair = bounds(np.concatenate([part[name] for part in parts]))
        if pair is not None:
            found[name] = pair
        elif name in (_SHARES_OF_ROWS_SINGLE if cells.single else ("subset_accuracy",)):
            found[name] = bounds_of_share(right, rows)
    return found


# with one label per row these are all the share of right rows
_SHARES_OF_ROWS_SINGLE = ("accuracy", "f1_micro", "precision_micro", "recall_micro", "recall_weighted")


def _resampled(counts: NDArray[np.int64], rng: np.random.Generator, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Yield int[r, K] with r summing to `resamples`: how often each distinct row occurs in as many draws of E rows with replacement."""
    rows, chunk = int(counts.sum()), max(1, 2_000_000 // len(counts))
    cell_of_row = np.repeat(np.arange(len(counts)), counts)
    for done in range(0, resamples, chunk):
        size = min(chunk, resamples - done)
        if rows > 25 * len(counts):
            # the counts of E draws are multinomial; sampling them costs K, not E. Near K = E / 25 drawing rows becomes cheaper
            yield rng.multinomial(rows, counts / rows, size)
        else:
            draws = (cell_of_row[rng.integers(0, rows, rows)] for _ in range(size))
            yield np.stack([np.bincount(draw, minlength=len(counts)) for draw in draws])


def _judged_columns(gold: NDArray[Any], n_labels: int) -> list[int]:
    """Return the classes whose ROC AUC counts, for gold int[E]."""
    return [1] if n_labels == 2 else np.unique(gold).tolist()


def _add_auc(scores: dict[str, float], columns: Iterable[tuple[NDArray[Any], NDArray[Any]]], advance: Advance | None) -> None:
    from scipy.stats import rankdata

    values = []
    for truth, score in columns:
        positive = int(truth.sum())
        negative = len(truth) - positive
        if positive and negative:  # by the sum of ranks (Hanley and McNeil 1982), which is quick where there are many labels
            above = rankdata(score)[truth].sum() - positive * (positive + 1) / 2
            values.append(above / (positive * negative))
        if advance is not None:
            advance(1)
    if values:
        scores["roc_auc"] = float(np.mean(values))


def _checked(gold: NDArray[Any], probabilities: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    gold, probabilities = np.asarray(gold), np.asarray(probabilities, np.float64)
    assert len(gold) == len(probabilities) and probabilities.ndim == 2, (gold.shape, probabilities.shape)
    if not len(gold):
        raise DataError("there are no labelled rows to evaluate on.")
    wrong = int((~np.isfinite(probabilities)).any(1).sum())
    if wrong:
        raise Diverged(
            f"the model's probabilities for {wrong:,} of {len(gold):,} rows are not finite numbers, so training diverged. "
            "Use a lower learning rate."
        )
    return gold, probabilities


# --- everything at once ----------------------------------------------------------------------------------------------------


def predicted_labels(probabilities: NDArray[Any], kind: Kind, thresholds: Sequence[float] | NDArray[Any] | None = None) -> NDArray[Any]:
    """Return int[E] (the most probable label) or, for multi-label, bool[E, C] (labels from their threshold upward; 0.5 when None)."""
    probabilities = np.asarray(probabilities, np.float64)
    if kind == "single":
        return probabilities.argmax(1)
    return probabilities >= (0.5 if thresholds is None else np.asarray(thresholds, np.float64))


def evaluation(
    gold: NDArray[Any],
    probabilities: NDArray[Any],
    labels: Sequence[str],
    kind: Kind,
    thresholds: Sequence[float] | NDArray[Any] | None = None,
    seed: int = 0,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Return the evaluation part of a result, JSON-able: rows, metrics, intervals, per_label, confusion, calibration.

    Args:
        gold: int[E], or bool[E, C] for multi-label.
        probabilities: float[E, C].
        labels: the C names.
        thresholds: float[C] for multi-label, 0.5 for each when None.
        seed: the bootstrap derives its own from it. By default the same for every run, so that a test repeated later has equal intervals.
        advance: told of each of the `scoring_steps`.

    Raises:
        DataError: no rows.
        Diverged: a probability is not a finite number.
    """
    if kind == "single":
        metrics = single_label(gold, probabilities, advance)
    else:
        limits = np.full(len(labels), 0.5) if thresholds is None else np.asarray(thresholds, np.float64)
        metrics = multi_label(gold, probabilities, limits, advance)
    predicted = predicted_labels(probabilities, kind, thresholds)
    return {
        "rows": len(gold),
        "metrics": metrics,
        "intervals": intervals(gold, predicted, len(labels), seed=seed_for(seed, "bootstrap")),
        "per_label": per_label(gold, predicted, labels),
        "confusion": confusion(gold, predicted, len(labels)) if kind == "single" else None,
        "calibration": calibration_bins(gold, probabilities),
    }
