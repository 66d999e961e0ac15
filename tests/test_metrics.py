"""Every metric equals the direct scikit-learn call, on random data and at the edges."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sk

from tunesmith import metrics
from tunesmith.bounds import bounds, bounds_of_share
from tunesmith.errors import DataError, ModelError, UsageError

AVERAGES = ("macro", "micro", "weighted")


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def single_case(name):
    rng = np.random.default_rng(3)
    if name == "binary":
        return rng.integers(0, 2, 400), softmax(rng.normal(size=(400, 2)))
    if name == "seven classes":
        return rng.integers(0, 7, 500), softmax(2 * rng.normal(size=(500, 7)))
    if name == "class absent in gold":
        return rng.integers(0, 4, 300), softmax(rng.normal(size=(300, 6)))
    if name == "class on neither side":
        p = softmax(rng.normal(size=(300, 5)))
        p[:, 4] = 0
        return rng.integers(0, 4, 300), p / p.sum(1, keepdims=True)
    if name == "one class predicted":
        return rng.integers(0, 3, 200), softmax(rng.normal(size=(200, 3)) + np.array([0, 50, 0]))
    if name == "all right":
        gold = rng.integers(0, 4, 100)
        return gold, np.eye(4)[gold]
    if name == "float32":
        return rng.integers(0, 9, 500), softmax(rng.normal(size=(500, 9))).astype(np.float32)
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name", ["binary", "seven classes", "class absent in gold", "class on neither side", "one class predicted", "all right", "float32"]
)
def test_single_label_equals_scikit_learn(name):
    gold, probabilities = single_case(name)
    got = metrics.single_label(gold, probabilities)
    predicted = probabilities.argmax(1)
    classes = probabilities.shape[1]
    wide = probabilities.astype(np.float64)
    wide /= wide.sum(1, keepdims=True)
    want = {
        "accuracy": sk.accuracy_score(gold, predicted),
        "matthews": sk.matthews_corrcoef(gold, predicted),
        "log_loss": sk.log_loss(gold, wide, labels=range(classes)),
    }
    for average in AVERAGES:
        for score, function in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            want[f"{score}_{average}"] = function(gold, predicted, average=average, zero_division=0)
    if classes == 2:
        want["roc_auc"] = sk.roc_auc_score(gold, probabilities[:, 1])
    else:
        want["roc_auc"] = np.mean([sk.roc_auc_score(gold == c, probabilities[:, c]) for c in np.unique(gold)])
    want["ece"] = plain_ece(probabilities.max(1), predicted == gold)
    assert got.keys() == set(metrics.METRICS["single"])
    for key in want:
        assert got[key] == pytest.approx(want[key], abs=1e-6), key
    assert all(type(value) is float for value in got.values())


def plain_ece(confidence, right):
    total = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


def test_roc_auc_is_the_one_of_scikit_learn_when_all_classes_are_there():
    gold, probabilities = single_case("seven classes")
    assert metrics.single_label(gold, probabilities)["roc_auc"] == pytest.approx(sk.roc_auc_score(gold, probabilities, multi_class="ovr"))


def test_roc_auc_is_left_out_where_undefined():
    assert "roc_auc" not in metrics.single_label(np.zeros(5, int), np.full((5, 3), 1 / 3))
    assert "roc_auc" not in metrics.multi_label(np.zeros((4, 2), bool), np.full((4, 2), 0.3), np.full(2, 0.5))


def multi_case(name):
    rng = np.random.default_rng(5)
    probabilities = rng.random((300, 6))
    gold = rng.random((300, 6)) < 0.3 + 0.3 * probabilities
    if name == "label absent in gold":
        gold[:, 2] = False
    if name == "label on neither side":
        gold[:, 2] = False
        probabilities[:, 2] = 0
    if name == "label everywhere":
        gold[:, 1] = True
    if name == "nothing predicted":
        probabilities /= 10
    if name == "rows without labels":
        gold[:100] = False
    return gold, probabilities


@pytest.mark.parametrize(
    "name", ["random", "label absent in gold", "label on neither side", "label everywhere", "nothing predicted", "rows without labels"]
)
def test_multi_label_equals_scikit_learn(name):
    gold, probabilities = multi_case(name)
    thresholds = np.linspace(0.3, 0.6, 6)
    predicted = probabilities >= thresholds
    got = metrics.multi_label(gold, probabilities, thresholds)
    want = {
        "subset_accuracy": sk.accuracy_score(gold, predicted),
        "lrap": sk.label_ranking_average_precision_score(gold, probabilities),
        "ece": plain_ece(probabilities.ravel(), gold.ravel()),
        "roc_auc": np.mean([sk.roc_auc_score(gold[:, c], probabilities[:, c]) for c in range(6) if len(np.unique(gold[:, c])) == 2]),
    }
    if name == "label on neither side":
        want.pop("ece")  # probability 0 belongs to the first bin, which the plain version above leaves open at 0
    for average in AVERAGES:
        for score, function in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            want[f"{score}_{average}"] = function(gold, predicted, average=average, zero_division=0)
    assert got.keys() == set(metrics.METRICS["multi"])
    for key in want:
        assert got[key] == pytest.approx(want[key], abs=1e-9), key


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_per_label_equals_scikit_learn(kind):
    if kind == "single":
        gold, probabilities = single_case("class absent in gold")
        predicted = probabilities.argmax(1)
    else:
        gold, probabilities = multi_case("label absent in gold")
        predicted = probabilities > 0.5
    names = [f"label {i}" for i in range(6)]
    want = sk.precision_recall_fscore_support(gold, predicted, labels=range(6), zero_division=0)
    got = metrics.per_label(gold, predicted, names)
    assert [row["label"] for row in got] == names
    for key, values in zip(("precision", "recall", "f1", "support"), want, strict=True):
        assert [row[key] for row in got] == pytest.approx(list(values))


def test_confusion_equals_scikit_learn():
    gold, probabilities = single_case("class absent in gold")
    predicted = probabilities.argmax(1)
    assert metrics.confusion(gold, predicted, 6) == sk.confusion_matrix(gold, predicted, labels=range(6)).tolist()


def test_calibration_bins_leave_no_prediction_out():
    gold, probabilities = single_case("all right")
    assert metrics.calibration_bins(gold, probabilities) == [
        {"low": pytest.approx(14 / 15), "high": 1.0, "confidence": 1.0, "accuracy": 1.0, "count": 100}
    ]
    bins = metrics.calibration_bins(np.array([[True, False]]), np.array([[0.0, 1.0]]))
    assert [(b["low"], b["count"], b["accuracy"]) for b in bins] == [(0.0, 1, 1.0), (pytest.approx(14 / 15), 1, 0.0)]


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 12, (40, 4)) / 11  # many equal values
    gold = rng.random((40, 4)) < probabilities * 0.7
    got = metrics.tune_thresholds(gold, probabilities)
    for c in range(4):
        grid = np.linspace(0, 1, 12) - 0.5 / 11 + 1e-9
        best = max(sk.f1_score(gold[:, c], probabilities[:, c] >= t, zero_division=0) for t in grid)
        assert sk.f1_score(gold[:, c], probabilities[:, c] >= got[c], zero_division=0) == pytest.approx(best)


def test_thresholds_at_the_edges():
    column = np.array([[0.1], [0.2], [0.3], [0.9]])
    assert metrics.tune_thresholds(np.zeros((4, 1), bool), column).tolist() == [0.5]
    assert metrics.tune_thresholds(np.ones((4, 1), bool), column).tolist() == [0.05]
    assert metrics.tune_thresholds(np.array([[0], [0], [0], [1]]), column).tolist() == [pytest.approx(0.6)]
    low, high = 0.5, float(np.nextafter(0.5, 1))
    threshold = metrics.tune_thresholds(np.array([[False], [True]]), np.array([[low], [high]]))[0]
    assert low < threshold <= high


def test_ties_between_thresholds_go_to_the_one_closest_to_a_half():
    # the highest alone has precision 1 and recall 1/2, all four have precision 1/2 and recall 1: F1 2/3 both ways
    probabilities = np.array([[0.9], [0.7], [0.6], [0.2]])
    gold = np.array([[True], [False], [False], [True]])
    f1 = {t: sk.f1_score(gold, probabilities >= t) for t in (0.8, 0.65, 0.4, 0.1)}
    assert f1[0.8] == f1[0.1] == max(f1.values())
    assert metrics.tune_thresholds(gold, probabilities).tolist() == [pytest.approx(0.8)]


def bootstrap(metric: Callable[[np.ndarray], float], rows: int, *, seed: int, resamples: int) -> list[float] | None:
    """The interval by the book: a metric of rows drawn anew, again and again."""
    rng = np.random.default_rng(seed)
    return bounds([metric(rng.integers(0, rows, rows)) for _ in range(resamples)])


def test_intervals_equal_a_bootstrap_over_rows_with_scikit_learn():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 4, 250)
    predicted = np.where(rng.random(250) < 0.7, gold, rng.integers(0, 4, 250))
    fast = metrics.intervals(gold, predicted, 5, seed=1, resamples=4000)
    for name, function in {
        "accuracy": lambda i: sk.accuracy_score(gold[i], predicted[i]),
        "f1_macro": lambda i: sk.f1_score(gold[i], predicted[i], average="macro"),
        "matthews": lambda i: sk.matthews_corrcoef(gold[i], predicted[i]),
    }.items():
        slow = bootstrap(function, 250, seed=2, resamples=500)
        assert fast[name] == pytest.approx(slow, abs=0.015)
        assert fast[name][0] < function(np.arange(250)) < fast[name][1]


def test_multi_label_intervals_equal_a_bootstrap_over_rows():
    gold, probabilities = multi_case("random")
    predicted = probabilities > 0.5
    fast = metrics.intervals(gold, predicted, 6, seed=1, resamples=3000)
    slow = bootstrap(lambda i: sk.f1_score(gold[i], predicted[i], average="macro"), 300, seed=2, resamples=400)
    assert fast["f1_macro"] == pytest.approx(slow, abs=0.015)
    slow = bootstrap(lambda i: sk.accuracy_score(gold[i], predicted[i]), 300, seed=2, resamples=400)
    assert fast["subset_accuracy"] == pytest.approx(slow, abs=0.015)


def test_an_interval_without_width_is_exact_or_left_out():
    gold = np.array([0, 1, 2, 0, 1, 2, 0])
    share = {"accuracy", "f1_micro", "precision_micro", "recall_micro", "recall_weighted"}
    right = metrics.intervals(gold, gold, 3, seed=0)
    assert all(right[name] == pytest.approx([0.025 ** (1 / 7), 1.0]) for name in share)
    wrong = metrics.intervals(gold, (gold + 1) % 3, 3, seed=0)
    assert all(wrong[name] == pytest.approx([0.0, 1 - 0.025 ** (1 / 7)]) for name in share)
    rows = np.eye(3, dtype=bool)[gold]
    assert metrics.intervals(rows, rows, 3, seed=0)["subset_accuracy"] == pytest.approx([0.025 ** (1 / 7), 1.0])
    nothing = metrics.intervals(rows, np.zeros_like(rows), 3, seed=0)
    assert set(nothing) == {"subset_accuracy"} and nothing["subset_accuracy"] == pytest.approx([0.0, 1 - 0.025 ** (1 / 7)])
    # Clopper and Pearson, 8 of 10: the probabilities at which 8 or more, 8 or fewer have a chance of 2.5%
    assert bounds_of_share(8, 10) == pytest.approx([0.4439, 0.9748], abs=1e-4)
    for found in (right, wrong, nothing, metrics.intervals(gold, np.zeros(7, int), 3, seed=0)):
        assert all(low < high for low, high in found.values())
        assert set(found) == share or "matthews" not in found


def test_both_ways_of_resampling_agree():
    # 500 rows in 4 cells go through the multinomial, 90 rows in 4 cells through drawn rows; the width follows 1 / sqrt(rows)
    gold = np.arange(500) % 2
    predicted = np.where(np.arange(500) % 5 == 0, 1 - gold, gold)
    many = metrics.intervals(gold, predicted, 2, seed=0, resamples=4000)["accuracy"]
    few = metrics.intervals(gold[:90], predicted[:90], 2, seed=0, resamples=4000)["accuracy"]
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(np.sqrt(500 / 90), rel=0.08)
    assert many == metrics.intervals(gold, predicted, 2, seed=0, resamples=4000)["accuracy"]


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_intervals_are_fast(kind):
    rng = np.random.default_rng(0)
    if kind == "single":
        gold = rng.integers(0, 77, 10_000)
        predicted = np.where(rng.random(10_000) < 0.9, gold, rng.integers(0, 77, 10_000))
    else:
        gold, predicted = rng.random((2, 10_000, 77)) < 0.05
    metrics.intervals(gold[:10], predicted[:10], 77, seed=0, resamples=2)  # imports
    start = time.process_time()
    metrics.intervals(gold, predicted, 77, seed=0)
    assert time.process_time() - start < 3  # under 1 s on an idle core


def test_evaluation_is_json_without_nan():
    gold, probabilities = single_case("class on neither side")
    got = metrics.evaluation(gold, probabilities, list("abcde"), "single", seed=4)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert set(got) == {"rows", "metrics", "intervals", "per_label", "confusion", "calibration"}
    assert set(got["intervals"]) <= set(got["metrics"]) and "f1_macro" in got["intervals"]
    gold, probabilities = multi_case("label on neither side")
    got = metrics.evaluation(gold, probabilities, list("abcdef"), "multi", thresholds=[0.5] * 6)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["confusion"] is None and got == metrics.evaluation(gold, probabilities, list("abcdef"), "multi")


def test_faults_are_named():
    with pytest.raises(DataError, match="no labelled rows"):
        metrics.single_label(np.zeros(0, int), np.zeros((0, 2)))
    with pytest.raises(ModelError, match=r"1 of 2 rows .* lower learning rate"):
        metrics.single_label(np.zeros(2, int), np.array([[np.nan, 1], [0.5, 0.5]]))
    with pytest.raises(UsageError, match=r"'f1_marco' .* Did you mean 'f1_macro'"):
        metrics.greater_is_better("f1_marco", "single")
    with pytest.raises(UsageError, match="multi-label"):
        metrics.greater_is_better("accuracy", "multi")
    assert metrics.greater_is_better("accuracy", "single") and not metrics.greater_is_better("ece", "multi")
