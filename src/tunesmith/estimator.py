"""The scikit-learn estimator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d

from tunesmith.automatic import kind_of_run
from tunesmith.bundle import Bundle
from tunesmith.config import Config
from tunesmith.data.given import Given
from tunesmith.data.memory import from_memory
from tunesmith.errors import DataError, UsageError, counted, listing
from tunesmith.evaluate import CHUNK
from tunesmith.progress import Progress
from tunesmith.resolve import resolve


class InvalidInput(DataError, ValueError):
    """X or y cannot be used: a `DataError` like any other, and a `ValueError` as scikit-learn's tools expect."""


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
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int = 32,
        max_length: int = 256,
        truncation: str = "head",
        pooling: str = "auto",
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
        """Train on texts X [E] (list, array, Series, one-column frame) with labels y [E]. Raises `InvalidInput`, `UsageError`.

        Pairs of texts are a list of `(first, second)` or a table of two columns.
        """
        texts = _texts(X)
        labels, self.classes_, multi = _labels(y)
        if len(texts) != len(labels):
            raise InvalidInput(
                f"X has {counted(len(texts), 'text')} but y has {counted(len(labels), 'label')}. Pass one label for each text."
            )
        if not multi and len(self.classes_) == 1:
            raise InvalidInput(f"y has only one class, {self.classes_[0]!r}; at least 2 different ones are needed.")
        self.multilabel_ = multi
        self.pairs_ = len(texts[0]) == 2
        config = self._config(multi, self.pairs_)
        data = {**dict(zip(("text", "text_pair"), map(list, zip(*texts, strict=True)), strict=False)), "label": labels}
        progress = Progress(self.progress)  # type: ignore[arg-type]
        run = kind_of_run(config, resume=False)
        if self.out is not None:
            trained = run(config, Given(data), overwrite=True, progress=progress)
        else:
            with tempfile.TemporaryDirectory(prefix="tunesmith-") as directory:
                own = config.model_copy(update={"out": str(Path(directory) / "model"), "replay_rows": 0})
                trained = run(own, Given(data), progress=progress)
        self.bundle_: Bundle = trained.bundle
        self.result_ = trained.result
        # the model orders labels by their text; scikit-learn orders classes_ by their own type
        position = {label: i for i, label in enumerate(self.bundle_.labels)}
        # -1: a column of the 0/1 matrix without a single 1 (in one fold of a cross-validation, for instance)
        self.columns_ = np.array([position.get(_name(label), -1) for label in self.classes_])
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return float[E, C], every label's probability, columns in the order of `classes_`; 0 for a label without training rows."""
        check_is_fitted(self)
        texts = _texts(X)
        if (len(texts[0]) == 2) != self.pairs_:
            raise InvalidInput(f"X cannot be used: it has {len(texts[0])} text columns, but fit was given {1 + self.pairs_}.")
        parts = [self.bundle_.probabilities(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
        return np.where(self.columns_ >= 0, np.concatenate(parts).astype(np.float64)[:, self.columns_], 0.0)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each text, [E]; with several labels a row a 0/1 matrix int[E, C]."""
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            limits = getattr(self.bundle_.task, "thresholds", None)
            chosen = np.asarray(limits)[self.columns_] if limits is not None else 0.5
            return ((probabilities >= chosen) & (self.columns_ >= 0)).astype(int)
        return self.classes_[probabilities.argmax(1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of `predict` on texts X [E]: the share of rows with exactly the labels of y."""
        check_is_fitted(self)
        if self.multilabel_ and _holds_lists(y):
            y = MultiLabelBinarizer(classes=self.classes_).fit_transform(y)
        return super().score(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.classifier_tags.multi_label = True
        tags.non_deterministic = False
        return tags

    def _config(self, multi: bool, pairs: bool) -> Config:
        own = {
            "model": str(self.model),
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "pooling": self.pooling,
            "seed": self.seed,
        }
        # what suits the way of tuning unless told
        own |= {name: value for name, value in (("epochs", self.epochs), ("lr", self.lr)) if value is not None}
        base = {"valid_size": 0.0, "test_size": 0.0, "text": "text", "label": "label", "label_type": "multi" if multi else "single"}
        base["task"] = "pair" if pairs else "classification"
        if pairs:
            base["text_pair"] = "text_pair"
        if self.out is not None:
            base["out"] = self.out
        settings = self.settings if self.settings is not None else {}
        if settings.get("folds") is not None:
            raise UsageError("folds is no setting of an estimator: sklearn.model_selection.cross_val_score makes folds from outside.")
        own_place = {"train": "the rows are X and y", "out": "it is a parameter of its own: TextClassifier(out=...)"}
        own_place |= dict.fromkeys(("text", "text_pair"), "the texts are X") | {"label": "the labels are y"}
        if self.out is None:
            own_place["replay_rows"] = "nothing is kept without the parameter out"
        faults = [f"settings: {name} has no use here: {why}. Leave it out." for name, why in own_place.items() if name in settings]
        if faults:
            raise UsageError(*faults)
        return resolve(base, own, settings, told={*settings, *({"epochs", "lr"} & own.keys())})


def _texts(X: Any) -> list[tuple[str, ...]]:
    """Return X as a list of single texts or pairs of texts, each a tuple. Raises `InvalidInput`."""
    try:
        return _columns(X)
    except DataError as error:
        raise InvalidInput(f"X cannot be used: {error}") from error


def _columns(X: Any) -> list[tuple[str, ...]]:
    if isinstance(X, str):
        raise DataError("it is a single text; pass a list of texts.")
    source = from_memory(X)
    if len(source.columns) > 2:
        raise DataError(
            f"it has {len(source.columns)} columns; texts are one column, pairs of texts two. Select them first, X['text'] for instance."
        )
    texts: list[tuple[str, ...]] = []
    for row, place in source:
        values = [row[column] for column in source.columns]
        for value in values:
            if value is None:
                raise DataError(f"{place}: there is no text (None or NaN). Leave the row out, or put '' in its place.")
            if not isinstance(value, str):
                raise DataError(f"{place}: found {type(value).__name__} {value!r:.40}; a text is expected.")
        texts.append(tuple(values))
    if not texts:
        raise DataError("it has no texts.")
    return texts


def _labels(y: Any) -> tuple[list[Any], np.ndarray, bool]:
    """Return labels for training (text, or lists of texts), classes_ and whether rows have several labels."""
    if y is None:
        raise InvalidInput("fit requires y to be passed, but the target y is None. Pass one label for each text.")
    if _holds_lists(y):
        rows = [list(item) if isinstance(item, list | tuple | set) else [item] for item in y]
        return [[_name(label) for label in row] for row in rows], _classes([label for row in rows for label in row]), True
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = column_or_1d(values, warn=True)
    if values.ndim == 2:
        if type_of_target(values) != "multilabel-indicator":
            raise InvalidInput("y has two dimensions but is not a matrix of 0 and 1.")
        classes = np.arange(values.shape[1])
        return [[_name(label) for label in np.flatnonzero(row)] for row in values], classes, True
    if values.dtype == object and (missing := [i for i, label in enumerate(values) if label is None or label != label]):
        raise InvalidInput(f"y[{missing[0]}] is {values[missing[0]]} ({len(missing):,} such). Leave rows without a label out.")
    if values.dtype == object:
        _classes(list(values))  # before scikit-learn sorts them
    check_classification_targets(values)
    _check_names(classes := np.unique(values))
    return [_name(label) for label in values], classes, False


def _classes(labels: list[Any]) -> np.ndarray:
    """Return the different labels, sorted. Raises `InvalidInput` where they have no order or are told apart by spaces alone."""
    missing = sum(label is None or label != label for label in labels)
    if missing:
        raise InvalidInput(f"y has {counted(missing, 'label')} of None or NaN. Leave them out.")
    try:
        found = sorted(set(labels))
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels})
        raise InvalidInput(f"y has labels of several types, {listing(kinds)}; a label is text or a number, and all are the same.") from None
    _check_names(found)
    return np.array(found)


def _check_names(classes: Any) -> None:
    """Raise `InvalidInput` where two labels are one to the model, which knows them by their text without spaces around it."""
    names: dict[str, Any] = {}
    for label in classes:
        if (other := names.setdefault(_name(label), label)) is not label:
            raise InvalidInput(f"y has the labels {other!r} and {label!r}, which differ in spaces alone or in type. Make them one.")


def _holds_lists(y: Any) -> bool:
    """Whether y is lists of labels, which nested lists of 0 and 1 of equal length are not: to scikit-learn they are a matrix."""
    if getattr(y, "ndim", 1) != 1 or not any(isinstance(item, (list, tuple, set)) for item in y):
        return False
    rows = [list(item) for item in y if isinstance(item, (list, tuple))]
    width = len(rows[0]) if rows else 0
    return not (len(rows) == len(y) and width > 1 and all(len(row) == width and set(row) <= {0, 1} for row in rows))


def _name(label: Any) -> str:
    """The label's text, as `tunesmith.json` and transformers' configuration keep it."""
    return str(label.item() if isinstance(label, np.generic) else label).strip()
