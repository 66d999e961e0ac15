"""The scikit-learn estimator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from tunesmith.bundle import Bundle
from tunesmith.config import Config, resolve
from tunesmith.data.memory import from_memory
from tunesmith.errors import DataError
from tunesmith.progress import Progress
from tunesmith.recipe import train


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Fine-tunes an encoder as a scikit-learn classifier of texts.

    The parameters are settings of the recipe (see `tunesmith.config.Config`); more of them can be given as a mapping in
    `settings`. All training rows are used: nothing is split off for validation or test unless `settings` says so, since
    scikit-learn's own tools do that from outside.

    Learned by `fit`: `classes_` (the labels, sorted), `bundle_` (the trained model), `result_` (the report's content).
    For several labels a row `y` is a 0/1 matrix [E, C] or lists of labels; `predict` then gives such a matrix.
    """

    def __init__(
        self,
        model: str = "all-minilm-l6-v2",
        *,
        epochs: int = 3,
        lr: float = 5e-5,
        batch_size: int = 32,
        max_length: int = 256,
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

    def fit(self, X: Any, y: Any) -> TextClassifier:
        """Train on texts X [E] (list, array, Series, one-column frame) with labels y [E]. Raises `DataError`, `UsageError`."""
        texts = _texts(X)
        labels, self.classes_, multi = _labels(y)
        if len(texts) != len(labels):
            raise DataError(f"X has {len(texts):,} texts but y has {len(labels):,} labels. Pass one label for each text.")
        self.multilabel_ = multi
        config = self._config(multi)
        data = {"text": texts, "label": labels}
        progress = Progress(self.progress)  # type: ignore[arg-type]
        if self.out is not None:
            trained = train(config, train_data=data, overwrite=True, progress=progress)
        else:
            with tempfile.TemporaryDirectory(prefix="tunesmith-") as directory:
                trained = train(config.model_copy(update={"out": str(Path(directory) / "model")}), train_data=data, progress=progress)
        self.bundle_: Bundle = trained.bundle
        self.result_ = trained.result
        # the model orders labels by their text; scikit-learn orders classes_ by their own type
        position = {label: i for i, label in enumerate(self.bundle_.labels)}
        self.columns_ = np.array([position[_name(label)] for label in self.classes_])
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return float[E, C], every label's probability, columns in the order of `classes_`."""
        check_is_fitted(self)
        texts = _texts(X)
        return self.bundle_.probabilities(texts).astype(np.float64)[:, self.columns_]

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each text, [E]; with several labels a row a 0/1 matrix int[E, C]."""
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            limits = self.bundle_.task.thresholds
            chosen = np.asarray(limits)[self.columns_] if limits is not None else 0.5
            return (probabilities >= chosen).astype(int)
        return self.classes_[probabilities.argmax(1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.classifier_tags.multi_label = True
        tags.non_deterministic = False
        return tags

    def _config(self, multi: bool) -> Config:
        own = {
            "model": self.model,
            "epochs": self.epochs,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "pooling": self.pooling,
            "seed": self.seed,
        }
        base = {"valid_size": 0.0, "test_size": 0.0, "text": "text", "label": "label", "label_type": "multi" if multi else "single"}
        if self.out is not None:
            base["out"] = self.out
        return resolve(base, own, self.settings if self.settings is not None else {})


def _texts(X: Any) -> list[str]:
    if isinstance(X, str):
        raise DataError("X is a single text; pass a list of texts.")
    source = from_memory(X)
    if len(source.columns) != 1:
        raise DataError(f"X has {len(source.columns)} columns; texts are one column. Select it first, X['text'] for instance.")
    column = source.columns[0]
    texts = []
    for row, place in source:
        value = row[column]
        if value is not None and not isinstance(value, str):
            raise DataError(f"{place}: X holds {type(value).__name__} {value!r:.40}; a text is expected.")
        texts.append("" if value is None else value)
    if not texts:
        raise DataError("X has no texts.")
    return texts


def _labels(y: Any) -> tuple[list[Any], np.ndarray, bool]:
    """Return labels for training (text, or lists of texts), classes_ and whether rows have several labels."""
    if isinstance(y, Sequence) and not isinstance(y, str) and any(isinstance(item, (list, tuple, set)) for item in y):
        classes = np.array(sorted({label for item in y for label in item}))
        return [[_name(label) for label in item] for item in y], classes, True
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        if type_of_target(values) != "multilabel-indicator":
            raise DataError("y has two dimensions but is not a matrix of 0 and 1.")
        classes = np.arange(values.shape[1])
        return [[_name(label) for label in np.flatnonzero(row)] for row in values], classes, True
    check_classification_targets(values)
    return [_name(label) for label in values], np.unique(values), False


def _name(label: Any) -> str:
    """The label's text, as `tunesmith.json` and transformers' configuration keep it."""
    return str(label.item() if isinstance(label, np.generic) else label)
