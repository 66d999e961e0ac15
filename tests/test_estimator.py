"""The scikit-learn estimator: scikit-learn's own tools and checks, kinds of y, errors."""

from __future__ import annotations

import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted, validate_data

import tiny
import tunesmith
from tunesmith import TextClassifier
from tunesmith.errors import DataError, UsageError

ROWS = tiny.rows(40, seed=2)
X = [row["text"] for row in ROWS]
Y = [row["label"] for row in ROWS]
NEW, GOLD = X[3:13], Y[3:13]  # seen in training: what is tested is which answer is whose, not how well a tiny model learns


@pytest.fixture
def classifier(tiny_bert: Path) -> TextClassifier:
    """One that learns the tiny task in a second."""
    return TextClassifier(
        str(tiny_bert),
        epochs=8,
        lr=5e-3,
        batch_size=8,
        max_length=32,
        settings={"precision": "fp32", "dropout": 0.0, "attention_dropout": 0.0},
    )


@pytest.fixture
def quick(tiny_bert: Path) -> TextClassifier:
    """One that learns nothing, fast."""
    return TextClassifier(str(tiny_bert), epochs=1, batch_size=16, max_length=16, settings={"precision": "fp32"})


# what scikit-learn's tools need


def test_fit_predict_score(classifier: TextClassifier) -> None:
    assert classifier.fit(X, Y) is classifier
    assert classifier.classes_.tolist() == ["animal", "colour"]
    probabilities = classifier.predict_proba(NEW)
    assert probabilities.shape == (10, 2) and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    predicted = classifier.predict(NEW)
    assert predicted.tolist() == [classifier.classes_[i] for i in probabilities.argmax(1)] == GOLD
    assert classifier.score(NEW, GOLD) == accuracy_score(GOLD, predicted) == 1.0
    assert classifier.score(NEW, GOLD[::-1], sample_weight=[1] * 10) == accuracy_score(GOLD[::-1], predicted)
    # the same as the model underneath
    assert [p.label for p in classifier.bundle_.predict(NEW)] == predicted.tolist()
    assert [list(p.probabilities.values()) for p in classifier.bundle_.predict(NEW)] == probabilities.tolist()


def test_clone_and_parameters(classifier: TextClassifier) -> None:
    settings = {"dropout": 0.0}
    classifier.set_params(settings=settings, lr=1e-3)
    copy = clone(classifier)
    assert copy is not classifier and copy.get_params() == classifier.get_params()
    assert classifier.get_params()["settings"] is settings  # the constructor stores, and copies nothing
    assert set(classifier.get_params()) == {
        *("model", "epochs", "lr", "batch_size", "max_length", "truncation", "pooling", "seed", "out", "settings", "progress")
    }
    with pytest.raises(ValueError, match="Invalid parameter 'learning_rate'"):
        classifier.set_params(learning_rate=1)
    assert is_classifier(classifier)


def test_parameters_reach_the_recipe(tiny_bert: Path) -> None:
    values = {"epochs": 2, "lr": 1e-3, "batch_size": 7, "max_length": 12, "truncation": "tail", "pooling": "mean", "seed": 5}
    model = TextClassifier(tiny_bert, **values, settings={"weight_decay": 0.5, "valid_size": 0.25}).fit(X, Y)  # model as a Path
    recipe = model.result_["recipe"]
    assert {key: recipe[key] for key in values} == values
    assert (recipe["weight_decay"], recipe["valid_size"], recipe["test_size"]) == (0.5, 0.25, 0.0)
    assert model.result_["data"]["splits"]["valid"]["rows"] == 10


def test_all_rows_train(quick: TextClassifier) -> None:
    splits = quick.fit(X, Y).result_["data"]["splits"]
    assert splits["train"]["rows"] == 40 and splits["valid"] is None and splits["test"] is None


def test_pipeline_and_grid_search(classifier: TextClassifier) -> None:
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    pipeline = Pipeline([("upper", upper), ("classifier", classifier)])
    search = GridSearchCV(pipeline, {"classifier__lr": [5e-3, 1e-9]}, cv=2, error_score="raise")
    search.fit(X + X, Y + Y)
    assert search.best_params_ == {"classifier__lr": 5e-3}
    assert search.best_score_ > 0.9 > search.cv_results_["mean_test_score"][1]
    assert search.predict(NEW).tolist() == GOLD and search.classes_.tolist() == ["animal", "colour"]


def test_cross_val_score(classifier: TextClassifier) -> None:
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    scores = cross_val_score(classifier, np.array(X), np.array(Y), cv=folds, scoring="roc_auc")
    assert scores.shape == (2,) and scores.min() > 0.75


def test_same_seed_same_model_and_fitting_again(quick: TextClassifier) -> None:
    first = quick.fit(X, Y).predict_proba(NEW)
    assert np.array_equal(quick.fit(X, Y).predict_proba(NEW), first)
    assert np.array_equal(clone(quick).fit(X, Y).predict_proba(NEW), first)
    assert not np.array_equal(clone(quick).set_params(seed=1).fit(X, Y).predict_proba(NEW), first)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pickle_and_joblib(quick: TextClassifier, tmp_path: Path, pooling: str) -> None:
    quick.set_params(pooling=pooling).fit(X, Y)
    joblib.dump(quick, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(quick)), joblib.load(tmp_path / "model.joblib")):
        assert np.array_equal(copy.predict_proba(NEW), quick.predict_proba(NEW))
        assert copy.classes_.tolist() == quick.classes_.tolist() and copy.get_params() == quick.get_params()
    assert clone(pickle.loads(pickle.dumps(TextClassifier()))).get_params() == TextClassifier().get_params()


def test_out_keeps_the_model_directory(quick: TextClassifier, tmp_path: Path) -> None:
    quick.set_params(out=str(tmp_path / "m")).fit(X, Y)
    expected = quick.predict_proba(NEW)
    assert np.array_equal(tunesmith.load(tmp_path / "m").probabilities(NEW).astype(float), expected)
    quick.fit(X[:20], Y[:20])  # in place of the former one


def test_nothing_is_left_behind(quick: TextClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    quick.fit(X, Y)
    assert list(tmp_path.iterdir()) == []


def test_not_fitted(classifier: TextClassifier) -> None:
    for call in (lambda: classifier.predict(NEW), lambda: classifier.predict_proba(NEW), lambda: classifier.score(NEW, GOLD)):
        with pytest.raises(NotFittedError):
            call()


# kinds of labels


@pytest.mark.parametrize(
    "names",
    [
        {"animal": 10, "colour": 9},  # by value, as scikit-learn orders them, and not by text
        {"animal": -1, "colour": 1},
        {"animal": True, "colour": False},
        {"animal": 2.0, "colour": 0.0},
        {"animal": "猫", "colour": "синий"},
        {"animal": np.int8(3), "colour": np.int8(-3)},
        {"animal": " spaced ", "colour": "x"},
    ],
    ids=str,
)
def test_types_of_labels(classifier: TextClassifier, names: dict[str, Any]) -> None:
    make: Any = {2: np.array, 10: pd.Series, True: np.array}.get(names["animal"], list)
    y = make([names[label] for label in Y])
    classifier.fit(X, y)
    assert classifier.classes_.tolist() == np.unique(np.array(y)).tolist()
    assert classifier.classes_.dtype == np.array(y).dtype
    predicted = classifier.predict(NEW)
    assert predicted.tolist() == [names[label] for label in GOLD]
    assert classifier.score(X, y) == 1.0
    assert classifier.score(NEW, make([names[label] for label in GOLD])) == 1.0


def test_columns_follow_classes(classifier: TextClassifier) -> None:
    """Strings sort by code point in scikit-learn: '10' before '9'. The model's own order is by value."""
    classifier.fit(X, [{"animal": "9", "colour": "10"}[label] for label in Y])
    assert classifier.classes_.tolist() == ["10", "9"] and classifier.bundle_.labels == ["9", "10"]
    assert classifier.predict_proba(NEW)[:, 0].tolist() == [p.probabilities["10"] for p in classifier.bundle_.predict(NEW)]
    assert classifier.predict(NEW).tolist() == [{"animal": "9", "colour": "10"}[label] for label in GOLD]


MATRIX = np.array([[label == "animal", label == "colour", label == "animal"] for label in Y], int)


def test_matrix_of_labels(classifier: TextClassifier) -> None:
    classifier.fit(X, MATRIX)
    assert classifier.classes_.tolist() == [0, 1, 2] and classifier.multilabel_
    predicted = classifier.predict(NEW)
    assert predicted.shape == (10, 3) and set(np.unique(predicted)) <= {0, 1}
    assert np.array_equal(predicted, MATRIX[3:13])
    assert classifier.predict_proba(NEW).shape == (10, 3)
    assert classifier.score(X, MATRIX) == accuracy_score(MATRIX, classifier.predict(X))
    nested = clone(classifier).fit(X, MATRIX.tolist())
    assert nested.classes_.tolist() == [0, 1, 2] and np.array_equal(nested.predict(NEW), predicted)


def test_a_column_without_any_row(quick: TextClassifier) -> None:
    """As happens to rare labels in a fold: nothing is known of it, and it is never predicted."""
    y = MATRIX.copy()
    y[:, 1] = 0
    quick.fit(X, y)
    assert quick.predict(NEW).shape == quick.predict_proba(NEW).shape == (10, 3)
    assert not quick.predict(NEW)[:, 1].any() and not quick.predict_proba(NEW)[:, 1].any()
    assert (quick.predict_proba(NEW)[:, [0, 2]] > 0).all()


@pytest.mark.parametrize("make", [list, pd.Series, tuple], ids=["list", "series", "tuple"])
def test_lists_of_labels(quick: TextClassifier, make: Any) -> None:
    y = make([["animal", "x"] if label == "animal" else [] if i % 3 else ["colour"] for i, label in enumerate(Y)])
    quick.fit(X, y)
    assert quick.classes_.tolist() == ["animal", "colour", "x"] and quick.bundle_.labels == ["animal", "colour", "x"]
    predicted = quick.predict(X)
    expected = [[name in labels for name in quick.classes_] for labels in y]
    assert quick.score(X, y) == accuracy_score(np.array(expected, int), predicted)


def test_thresholds_of_validation_decide(classifier: TextClassifier) -> None:
    classifier.set_params(settings={"precision": "fp32", "valid_size": 0.25}).fit(X, MATRIX)
    limits = classifier.bundle_.task.thresholds
    assert limits is not None
    assert np.array_equal(classifier.predict(NEW), (classifier.predict_proba(NEW) >= limits).astype(int))
    chosen = [[classifier.bundle_.labels.index(label) for label in p.label] for p in classifier.bundle_.predict(NEW)]
    assert [np.flatnonzero(row).tolist() for row in classifier.predict(NEW)] == chosen


# kinds of texts


def test_containers_of_texts(quick: TextClassifier) -> None:
    quick.fit(X, Y)
    expected = quick.predict_proba(NEW)
    series = pd.Series(NEW, index=range(50, 60))
    for texts in (tuple(NEW), np.array(NEW), np.array(NEW, object), np.array(NEW)[:, None], series, pd.DataFrame({"anything": series})):
        assert np.array_equal(quick.predict_proba(texts), expected), type(texts)
    assert np.array_equal(clone(quick).fit(pd.Series(X), pd.Series(Y)).predict_proba(NEW), expected)
    assert quick.predict_proba(["", "a"]).shape == (2, 2)


def test_many_texts_as_in_one_stream(quick: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    quick.fit(X, Y)
    texts = [f"{text} {i}" for i, text in enumerate(X)]
    monkeypatch.setattr("tunesmith.estimator.CHUNK", 7)
    streamed = [list(p.probabilities.values()) for p in quick.bundle_.stream(texts, chunk=7)]
    assert quick.predict_proba(texts).tolist() == streamed


# errors


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (X, Y[:-1], "X has 40 texts but y has 39 labels"),
        (X[:3], Y, "X has 3 texts but y has 40 labels"),
        (X, ["a"] * 40, "y has only one class, .*'a'.*; at least 2"),
        (X, None, "requires y to be passed, but the target y is None"),
        ("one text", ["a"], "a single text; pass a list"),
        ([], [], "X cannot be used"),
        (3, [1], "X cannot be used"),
        ([1, 2], ["a", "b"], "X cannot be used"),
        (["a", 2], ["a", "b"], "X cannot be used: .*:2"),
        (pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]}), ["a"], "it has 3 columns"),
        (X[:2], np.array([[0, 2], [1, 3]]), "not a matrix of 0 and 1"),
        (X, np.linspace(0, 1, 40), "Unknown label type: continuous"),
        (X[:3], ["a", None, "b"], r"y\[1\] is None \(1 such\)"),
        *(
            (make(["a", missing, "b"]), ["a", "b", "a"], "X cannot be used: .*:2: there is no text .*Leave the row out")
            for missing in (None, np.nan, pd.NA)
            for make in (list, tuple, pd.Series, lambda values: np.array(values, object), lambda values: pd.DataFrame({"x": values}))
        ),
    ],
)
def test_input_that_cannot_be_used(quick: TextClassifier, texts: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        quick.fit(texts, labels)
    if caught.value.__class__.__module__.startswith("tunesmith"):
        assert isinstance(caught.value, DataError)


def test_predicting_what_cannot_be_used(quick: TextClassifier) -> None:
    quick.fit(X, Y)
    for texts in ("one text", [], [1], ["a", None], [float("nan")], pd.DataFrame({"a": ["x"], "b": ["y"]})):
        with pytest.raises(ValueError, match="X cannot be used"):
            quick.predict(texts)


def test_wrong_parameters_are_told_by_fit_all_at_once() -> None:
    classifier = TextClassifier(epochs=0, lr=-1.0, settings={"pooling": "sum"})
    with pytest.raises(UsageError) as caught:
        classifier.fit(X, Y)
    assert len(caught.value.faults) == 3


# scikit-learn's own checks

# Feeding rows of numbers is what most of them do. `OnNumbers` writes each row as a text, so that what they check (that fitting twice is
# the same, that parameters and inputs stay untouched, which errors are raised, ...) is checked of this class all the same.


class OnNumbers(TextClassifier):
    """A TextClassifier of texts that list a row's numbers."""

    def __init__(
        self,
        model: str = "",
        *,
        epochs: int = 1,
        lr: float = 5e-3,
        batch_size: int = 32,
        max_length: int = 32,
        truncation: str = "head",
        pooling: str = "cls",
        seed: int = 0,
        out: str | None = None,
        settings: dict[str, Any] | None = None,
        progress: str = "quiet",
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.max_length = max_length
        self.truncation = truncation
        self.pooling = pooling
        self.seed = seed
        self.out = out
        self.settings = settings
        self.progress = progress

    def fit(self, X: Any, y: Any) -> OnNumbers:
        if y is None:
            return super().fit(["a"], y)
        X, y = validate_data(self, X, y, multi_output=True)
        return super().fit(written(X), y)

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().predict_proba(written(validate_data(self, X, reset=False)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


def written(numbers: np.ndarray) -> list[str]:
    return [" ".join(f"{chr(97 + i % 26)} {round(float(value) * 10)}" for i, value in enumerate(row)) for row in numbers]


NOT_OURS = {
    "check_classifiers_train": "wants 83% on clouds of points, which a random network does not read out of written numbers; "
    "the tests above ask for as much on texts",
    "check_array_api_input": "only with SCIPY_ARRAY_API set: texts have no array API",
}


CHECKS = [check for _, check in estimator_checks.estimator_checks_generator(OnNumbers())]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_scikit_learns_checks_on_written_numbers(check: partial, tiny_bert: Path) -> None:
    if check.func.__name__ in NOT_OURS:
        pytest.skip(NOT_OURS[check.func.__name__])
    check(OnNumbers(str(tiny_bert)))


@pytest.mark.parametrize(
    "name",
    [
        "check_estimator_cloneable",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_mixin_order",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimators_partial_fit_n_features",
    ],
)
def test_scikit_learns_checks_without_data(name: str) -> None:
    getattr(estimator_checks, name)("TextClassifier", TextClassifier())


def test_tags_say_texts() -> None:
    tags = TextClassifier().__sklearn_tags__()
    assert tags.input_tags.string and tags.input_tags.one_d_array and not tags.input_tags.two_d_array
    assert tags.classifier_tags.multi_label and tags.target_tags.required
    assert re.match(r"TextClassifier\(", repr(TextClassifier()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "elsewhere"}, "settings: out has no use here: it is a parameter of its own"),
        ({"train": "rows.csv"}, "settings: train has no use here: the rows are X and y"),
        ({"label": "team", "text": "message"}, "settings: label has no use here"),
        ({"replay_rows": 7}, "settings: replay_rows has no use here: nothing is kept without the parameter out"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(quick: TextClassifier, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        quick.set_params(settings=settings).fit(X, Y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a", 1], ["b"]], "y has labels of several types, int, str"),
        ([["a", None], ["b"]], "y has 10 labels of None or NaN"),
        (np.array([1, "b"], object), "y has labels of several types, int, str"),
        (["a", "a "], "y has the labels"),
        ([["a"], ["a ", "b"]], "differ in spaces alone"),
    ],
)
def test_labels_that_are_no_classes(quick: TextClassifier, labels: Any, message: str) -> None:
    values = np.tile(labels, 10) if isinstance(labels, np.ndarray) else labels * 10
    with pytest.raises(ValueError, match=message):
        quick.fit(X[:20], values)
