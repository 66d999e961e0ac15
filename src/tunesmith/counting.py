"""Scores of predicted labels from counts: one function for a test set and for all of its bootstrap resamples.

Accuracy, precision, recall, F1 and Matthews correlation of both kinds are functions of three counts per label: true positives,
times predicted, times gold. So an interval always belongs to exactly the number it stands beside. The definitions are
scikit-learn's with `zero_division=0`; the tests compare each with the scikit-learn call.

Shapes: E examples, C classes (labels), K distinct (gold, predicted) rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Cells(NamedTuple):
    """The distinct (gold, predicted) rows of a test set and how often each occurs: all that label metrics depend on."""

    counts: NDArray[np.int64]  # [K]
    gold: Any  # sparse [K, C] of 0 and 1, as are the next two
    predicted: Any
    hit: Any
    exact: NDArray[np.float64]  # [K], 1 where the whole row is right
    single: bool

    def tally(self, counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return true positives, predicted and gold, each [R, C], and rows that are right [R], for int[R, K] counts."""
        hit, predicted, gold = ((cells.T @ counts.T).T for cells in (self.hit, self.predicted, self.gold))
        return hit, predicted, gold, counts @ self.exact


def count_cells(gold: NDArray[Any], predicted: NDArray[Any], n_labels: int) -> Cells:
    """Count the distinct rows of gold and predicted labels, both int[E] or bool[E, C]."""
    from scipy.sparse import csr_array

    gold, predicted = np.asarray(gold), np.asarray(predicted)
    single = gold.ndim == 1
    if single:
        cell, counts = np.unique(gold.astype(np.int64) * n_labels + predicted, return_counts=True)
        rows, ones = np.arange(len(cell)), np.ones(len(cell))
        gold_cells = csr_array((ones, (rows, cell // n_labels)), shape=(len(cell), n_labels))
        predicted_cells = csr_array((ones, (rows, cell % n_labels)), shape=(len(cell), n_labels))
    else:
        packed = np.ascontiguousarray(np.packbits(np.hstack([gold, predicted]).astype(bool), axis=1))
        whole_rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
        _, index, counts = np.unique(whole_rows, return_index=True, return_counts=True)
        gold_cells = csr_array(gold[index].astype(np.float64))
        predicted_cells = csr_array(predicted[index].astype(np.float64))
    hit = gold_cells * predicted_cells
    in_gold, in_predicted, in_both = (np.asarray(part.sum(1)).ravel() for part in (gold_cells, predicted_cells, hit))
    exact = ((in_gold == in_both) & (in_predicted == in_both)).astype(np.float64)
    return Cells(counts, gold_cells, predicted_cells, hit, exact, single)


def row_cells(gold: NDArray[Any], predicted: NDArray[Any], n_labels: int) -> Cells:
    """Return a cell for each row, in order, as `count_cells` gives distinct ones: K is E."""
    from scipy.sparse import csr_array

    gold, predicted = np.asarray(gold), np.asarray(predicted)
    rows, single = np.arange(len(gold)), gold.ndim == 1
    sides = [
        csr_array((np.ones(len(side)), (rows, side)), shape=(len(side), n_labels)) if single else csr_array(side.astype(np.float64))
        for side in (gold, predicted)
    ]
    exact = (gold == predicted) if single else (gold == predicted).all(1)
    return Cells(np.ones(len(gold), np.int64), sides[0], sides[1], sides[0] * sides[1], exact.astype(np.float64), single)


def resampled(
    gold: NDArray[Any], predicted: NDArray[Any], n_labels: int, metric: str
) -> tuple[int, Callable[[NDArray[Any]], NDArray[np.float64]]] | None:
    """Return E, and what makes of float64[R, E], how often each row is drawn, the metric float64[R]; None for one of probabilities."""
    cells = row_cells(gold, predicted, n_labels)
    if metric not in label_scores(cells, cells.counts[None]):
        return None
    return len(gold), lambda drawn: label_scores(cells, drawn)[metric]


def label_scores(cells: Cells, counts: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return float[R] for every metric of the predicted labels, from int[R, K] counts that each sum to E."""
    hit, predicted, gold, exact = cells.tally(counts)
    rows = counts.sum(1)
    per_class = precision_recall_f1(hit, predicted, gold)
    # scikit-learn averages a single-label score over the classes that occur on either side, a multi-label one over all labels
    counted = (gold + predicted > 0) if cells.single else np.ones_like(gold)
    micro = precision_recall_f1(hit.sum(1), predicted.sum(1), gold.sum(1))
    scores = {"accuracy" if cells.single else "subset_accuracy": exact / rows}
    for i, name in ((2, "f1"), (0, "precision"), (1, "recall")):
        scores[f"{name}_macro"] = ratio((per_class[i] * counted).sum(1), counted.sum(1))
        scores[f"{name}_micro"] = micro[i]
        scores[f"{name}_weighted"] = ratio((per_class[i] * gold).sum(1), gold.sum(1))
    if cells.single:
        # Gorodkin 2004, equation 8, in the counts of each class
        rows = rows.astype(np.float64)
        covariance = hit.sum(1) * rows - (gold * predicted).sum(1)
        spread = (rows**2 - (gold**2).sum(1)) * (rows**2 - (predicted**2).sum(1))
        scores["matthews"] = ratio(covariance, np.sqrt(spread))
    return scores


def point_scores(gold: NDArray[Any], predicted: NDArray[Any], n_labels: int) -> dict[str, float]:
    """Return every metric of the predicted labels, both int[E] or bool[E, C]."""
    cells = count_cells(gold, predicted, n_labels)
    return {name: float(values[0]) for name, values in label_scores(cells, cells.counts[None]).items()}


def precision_recall_f1(hit: NDArray[Any], predicted: NDArray[Any], gold: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the three, each in the shape of the counts: true positives, predicted, gold."""
    return ratio(hit, predicted), ratio(hit, gold), ratio(2 * hit, predicted + gold)


def ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """Divide, with 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) != 0)
