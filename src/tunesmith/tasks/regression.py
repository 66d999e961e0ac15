"""Regression: one number for a text, or for a pair of texts as in semantic similarity. E examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tunesmith import yardsticks
from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch
from tunesmith.data.measured import ambiguous, number_in
from tunesmith.data.schema import Example, Schema
from tunesmith.data.table import TokenTable
from tunesmith.data.tokens import Encoded
from tunesmith.errors import DataError, counted, setting
from tunesmith.metrics import METRICS
from tunesmith.model.devices import to_device
from tunesmith.model.heads import TextModel, embed, rescale_outputs
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.regression_metrics import agreement_bins, regression, regression_intervals, resampled, varies
from tunesmith.seeds import seed_for
from tunesmith.tasks.base import Hub, Measured, Task, merge_windows
from tunesmith.tasks.mistakes import worst
from tunesmith.tasks.rows import Part, Ragged, Rows, Targets

if TYPE_CHECKING:
    from tunesmith.model.pretrained import Pretrained

_STRATA = 10
_FOLDED = 1000  # means of so many deviations leave four digits of a prediction at least


@dataclass(frozen=True, slots=True)
class Score:
    """The predicted number for one text or pair, in the units of the training values."""

    score: float


@dataclass(frozen=True)
class NumberTargets:
    """The values of N examples, float64[N]; NaN for a row without."""

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return float64[E], in the units of the file."""
        return self.values[rows]

    def stratum(self) -> np.ndarray:
        """Return int64[N], the tenth of all values that each is in, equal values together."""
        known = self.values[~np.isnan(self.values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _STRATA + 1)[1:-1])) if len(known) else np.zeros(0)
        return np.digitize(self.values, edges)

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for equal values."""
        return self.values.view(np.uint64)

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return mean, standard deviation, least and greatest value."""
        values = self.values[rows]
        if not len(values):
            return {}
        found = {"mean": values.mean(), "standard deviation": values.std(), "least": values.min(), "greatest": values.max()}
        return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class Regression(Task):
    """Prediction of a number.

    mean, scale: of the training values; the head learns (value - mean) / scale, and `finish` puts them into its weights
    clip: least and greatest value that is predicted, None for any
    aggregation: mean or max of the outputs over a text's windows
    """

    mean: float = 0.0
    scale: float = 1.0
    clip: tuple[float, float] | None = None
    aggregation: str = "mean"
    name: str = field(default="regression", init=False)
    kind: str = field(default="regression", init=False)
    labels: list[str] = field(default_factory=list, init=False)

    added: ClassVar[tuple[str, ...]] = ("score",)
    target_word: ClassVar[str] = "value"

    @property
    def default_metric(self) -> str:
        """Pearson correlation, as the benchmarks of similarity use it."""
        return "pearson"

    @classmethod
    def learn(cls, table: TokenTable, config: Config) -> Regression:
        """Check the values of the training file. Raises `DataError` for one that is no number, or when all are the same."""
        values = _values(table, f"Correct it, or take {setting('task', 'classification')} if these are labels.")
        if np.isnan(values).all():
            raise DataError(f"{table.name}: none of its rows has a value. Is {setting('label')} the right column?")
        if not varies(values[~np.isnan(values)]):
            raise DataError(
                f"{table.name}: all training values are the same, so there is nothing to learn. Is {setting('label')} the right column?"
            )
        return cls(clip=config.clip, aggregation=config.aggregation)

    def settle(self, rows: Rows, config: Config) -> Regression:
        """Take mean and deviation of the training rows' values."""
        values = rows.gold()
        return Regression(float(values.mean()), float(values.std()) or 1.0, self.clip, self.aggregation)

    def remarks(self, rows: Rows) -> list[str]:
        """Return a note on training values outside the stated range."""
        if self.clip is None:
            return []
        values = rows.gold()
        outside = int(((values < self.clip[0]) | (values > self.clip[1])).sum())
        if not outside:
            return []
        lie, they = ("lies", "it") if outside == 1 else ("lie", "they")
        bounds = f"{setting('clip')} {self.clip[0]:g},{self.clip[1]:g}"
        return [f"{counted(outside, 'training value')} {lie} outside {bounds}; {they} can never be predicted."]

    def targets(self, table: TokenTable) -> NumberTargets:
        """Return the values of a table's rows."""
        return NumberTargets(_values(table, f"The model predicts numbers. Correct it, or name their column with {setting('label')}."))

    @property
    def head(self) -> HeadSpec:
        """Transformers' head for whole sequences, with one output."""
        return HeadSpec("sequence-classification", 1, ("score",), "regression")

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Merge outputs float[S, 1] over each example's windows into float[E, 1]."""
        return merge_windows(outputs, batch, self.aggregation)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[E], the squared error of the standardised value."""
        assert batch.targets is not None
        # in float64 up to here: of 20,000,000 float32 keeps no decimals
        wanted = to_device(((batch.targets - self.mean) / self.scale).astype(np.float32), outputs.device)
        return torch.square(outputs[:, 0] - wanted)

    def divergence(self, one: Tensor, other: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[E], the squared difference, on the scale of the loss: a number has no distribution to compare."""
        return torch.square(self.combine(one, batch) - self.combine(other, batch))[:, 0]

    def finish(self, model: TextModel) -> Regression:
        """Put mean and scale into the last layer, so that transformers, too, gives values in the file's units.

        They stay beside it where the layer has no bias, and where float32 would round the sum.
        """
        if abs(self.mean) > _FOLDED * self.scale or not rescale_outputs(model, self.scale, self.mean):
            return self
        return Regression(0.0, 1.0, self.clip, self.aggregation)

    def kept(self, example: Example, targets: Targets, row: int) -> Example:
        """Write the value as Python does: the other values of its file may have told what its marks mean."""
        value = float(targets.take(np.array([row]))[0])
        return example if np.isnan(value) else replace(example, target=[repr(value)], target_is_list=False)

    def go_on(self, model: TextModel, before: Regression) -> Regression:
        """Standardise outputs by the new rows' mean and deviation, or keep to the old ones where the last layer has no bias."""
        if not rescale_outputs(model, before.scale / self.scale, (before.mean - self.mean) / self.scale):
            return Regression(before.mean, before.scale, self.clip, self.aggregation)
        return self

    def measured(self, outputs: Ragged, part: Part, metric: str) -> Measured | None:
        """Return Pearson's correlation and the errors; Spearman's would have to be ranked anew for each resample."""
        gold, found = part.rows.gold(), self.values(outputs)
        return (len(gold), lambda drawn: resampled(gold, found, drawn)[metric]) if metric in ("pearson", "mse", "mae") else None

    def values(self, outputs: Ragged) -> np.ndarray:
        """Return the predicted values float64[E]."""
        found = outputs.values[:, 0].astype(np.float64) * self.scale + self.mean
        return found if self.clip is None else np.clip(found, *self.clip)

    def computable(self, rows: Rows) -> Collection[str]:
        """Return the metrics; without correlations where all values are the same."""
        return METRICS["regression"] if varies(rows.gold()) else ["mse", "mae"]

    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return correlations and errors. A correlation with predictions that are all the same counts as 0."""
        found = regression(part.rows.gold(), self.values(outputs))
        if varies(part.rows.gold()):
            found = {"pearson": 0.0, "spearman": 0.0} | found
        return found

    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return metrics with intervals, the agreement along the range of predictions, and the greatest errors."""
        gold, predicted = part.rows.gold(), self.values(outputs)
        constant = "" if varies(gold) else f"All true values are {shown(gold[0])}, so that a correlation with them does not exist."
        return {
            "rows": len(gold),
            "remarks": [constant] if constant else [],
            "metrics": self.score(outputs, part),
            "intervals": regression_intervals(gold, predicted, seed=seed_for(0, "bootstrap")),
            "per_label": [],
            "confusion": None,
            "calibration": [],
            "agreement": agreement_bins(gold, predicted),
            "badness": "error",
            "mistakes": worst(part, np.abs(predicted - gold), lambda row: shown(gold[row]), lambda row: shown(predicted[row]), progress),
        }

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return what the mean, ridge regression on TF-IDF, and for pairs the cosine of the untrained encoder's vectors reach."""
        gold, known = test.rows.gold(), train.rows.gold()

        def bounded(compute: Callable[[], tuple[np.ndarray, str]]) -> tuple[np.ndarray, str]:
            values, note = compute()
            return (values if self.clip is None else np.clip(values, *self.clip)), note

        texts, test_texts = ([example.texts for example in examples] for examples in (train_examples, test_examples))
        found = [
            yardsticks.measured("mean", lambda: (np.full(len(gold), known.mean()), f"always {known.mean():.4g}"), gold),
            yardsticks.measured(
                "TF-IDF + ridge regression", lambda: bounded(lambda: yardsticks.ridge(texts, known, test_texts, seed, progress)), gold
            ),
        ]
        if test.schema.pair:
            found.append(
                yardsticks.measured(
                    "cosine, untrained", lambda: _cosine(pretrained, test_texts, progress), gold, of=("pearson", "spearman")
                )
            )
        return found

    def decode(self, outputs: Ragged, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[Score]:
        """Yield a `Score` for each example."""
        return map(Score, self.values(outputs).tolist())

    def columns(self, prediction: Score, *, flat: bool) -> dict[str, Any]:
        """Return the score."""
        return {"score": prediction.score}

    def shown(self, prediction: Score, example: Example) -> list[str]:
        """Return the score, and what the row says."""
        said = ""
        if example.target:
            value = number_in(example.target[0])
            read = "" if value is None or shown(value) == example.target[0] else f", which is {shown(value)}"
            said = f" (the row says {example.target[0]}{read})"
        return [f"score: {shown(prediction.score)}{said}"]

    def hub(self, schema: Schema) -> Hub:
        """Text classification with one output, as the Hub counts it."""
        given, piped = '"A text to judge"', '"A text to judge", truncation=True'
        if schema.pair:
            given, piped = (
                '("The first text", "The second text")',
                '{"text": "The first text", "text_pair": "The second text"}, truncation=True',
            )
        does = f"regression: one number per {'pair of texts' if schema.pair else 'text'}"
        if self.clip is not None:
            does += f", kept within {self.clip[0]:g} and {self.clip[1]:g} by tunesmith alone"
        if (self.mean, self.scale) != (0.0, 1.0):
            piped = ""  # its outputs are not in the units of the file
        options = ', function_to_apply="none"'
        return Hub("text-classification", "Regression", does, given, "prediction.score", piped, options, ["regression"])

    def sentence(self) -> str:
        """Return what is learned."""
        return "regression, a number a row"

    def to_dict(self) -> dict[str, Any]:
        """Return name, mean, scale, clip and aggregation."""
        clip = list(self.clip) if self.clip is not None else None
        return {"name": self.name, "mean": self.mean, "scale": self.scale, "clip": clip, "aggregation": self.aggregation}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Regression:
        """Build the task that `to_dict` described."""
        clip = (float(values["clip"][0]), float(values["clip"][1])) if values["clip"] is not None else None
        return cls(float(values["mean"]), float(values["scale"]), clip, values["aggregation"])


def shown(value: float) -> str:
    """Return a number for people: six significant digits."""
    return f"{value:.6g}"


def _values(table: TokenTable, advice: str) -> np.ndarray:
    """Return the values of a table's rows, float64[N], NaN for rows without. Raises `DataError` for one that is no number."""
    labels = table.labels()
    numbers = [number_in(name) for name in labels.names]
    sizes = np.diff(labels.starts)
    several = (sizes > 1) | ((sizes == 0) & ~labels.missing)
    wrong = np.array([number is None for number in numbers], bool)
    bad = several.copy()
    rows = np.repeat(np.arange(len(sizes)), sizes)
    if len(labels.codes):
        bad[rows[wrong[labels.codes]]] = True
    if bad.any():
        row = int(np.argmax(bad))
        found = [labels.names[code] for code in labels.codes[labels.starts[row] : labels.starts[row + 1]]]
        what = (
            f"{found[0]!r} is not a number{' up to 1e37' if any(map(str.isdigit, found[0])) else ''}"
            if len(found) == 1
            else f"there are {len(found)} values where one is expected"
        )
        raise DataError(f"{table.name}:{table.line[row]}: {what}. {advice}")
    doubtful = ambiguous(labels.names)
    if doubtful is not None:
        row = int(np.searchsorted(labels.starts, np.argmax(labels.codes == labels.names.index(doubtful)), side="right")) - 1
        raise DataError(
            f"{table.name}:{table.line[row]}: in {doubtful!r} the mark may stand before decimals or before thousands, and the other values "
            "of the column do not tell which. Write decimals with a point, and thousands without a mark."
        )
    result = np.full(len(sizes), np.nan)
    known = np.array([number if number is not None else np.nan for number in numbers])
    result[rows] = known[labels.codes]
    return result


def _cosine(pretrained: Pretrained, texts: Sequence[tuple[str, ...]], progress: Progress) -> tuple[np.ndarray, str]:
    """Return the cosine of both texts' vectors, float64[E]: means of the pretrained encoder's last hidden states."""
    encoder, model = pretrained.reader(), pretrained.load().eval()
    with progress.track("cosine, untrained", 2 * len(texts), "texts") as tracker:
        first, second = (embed(model, encoder.encode(list(column)), tracker.advance) for column in zip(*texts, strict=True))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(norms, 1e-12), "mean of the token vectors of the encoder as it was before training"
