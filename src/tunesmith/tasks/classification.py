"""Classification of a text: one label a row, or any number of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith import yardsticks
from tunesmith.config import Config
from tunesmith.counting import resampled
from tunesmith.data.audit_labels import PLACEHOLDERS, spellings
from tunesmith.data.batches import PackedBatch
from tunesmith.data.cloze import ClozeEncoder
from tunesmith.data.joined import parts
from tunesmith.data.schema import Example, Schema
from tunesmith.data.table import Labels, TokenTable
from tunesmith.data.text_faults import script
from tunesmith.data.tokens import Encoded, ExampleEncoder, TextEncoder, Truncation
from tunesmith.errors import DataError, counted, listing, setting
from tunesmith.metrics import Kind, evaluation, multi_label, predicted_labels, scoring_steps, single_label, tune_thresholds
from tunesmith.model.devices import to_device
from tunesmith.model.spec import HeadSpec
from tunesmith.progress import QUIET, Progress
from tunesmith.prompts import templates_of
from tunesmith.tasks.base import Hub, Measured, Task, merge_windows
from tunesmith.tasks.divergences import of_choices, of_flags
from tunesmith.tasks.labels import EMPTY_LIST, ClassTargets, class_weights, counts_of, focus, label_order, new_labels, recognise, targets_of
from tunesmith.tasks.mistakes import worst
from tunesmith.tasks.rows import Part, Ragged, Rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.model.pretrained import Pretrained


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one text.

    label: the most probable label; with several labels a row, the list of those at or above their thresholds
    probability: that label's probability in [0, 1]; with several labels, the list of theirs
    probabilities: every label's probability, in the model's label order
    """

    label: str | list[str]
    probability: float | list[float]
    probabilities: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class Classification(Task):
    """Classification with `labels`, fitted by `Classification.fit`.

    kind: `single` (softmax and cross-entropy) or `multi` (sigmoid and binary cross-entropy)
    thresholds: for multi, float per label: predicted when the probability is at or above
    separator: what joins labels in one cell, None for lists
    aggregation: mean or max of the outputs over a text's windows
    loss_name, focal_gamma, label_smoothing, weights: the loss, with one weight per label; settled: thresholds that `tune` leaves alone
    """

    labels: list[str]
    kind: Kind
    thresholds: list[float] | None = None
    separator: str | None = None
    aggregation: str = "mean"
    loss_name: str = "cross-entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    weights: list[float] | None = None
    settled: int = field(default=0, compare=False)
    name: str = field(default="classification", init=False)

    added: ClassVar[tuple[str, ...]] = ("label", "probability", "probabilities")
    bulky: ClassVar[frozenset[str]] = frozenset({"probabilities"})
    few_shot: ClassVar[bool] = True

    @property
    def tunes(self) -> bool:
        """Whether there are thresholds, which only several labels a row have."""
        return self.multi

    @property
    def outputs(self) -> int:
        """C, the number of labels."""
        return len(self.labels)

    @property
    def head(self) -> HeadSpec:
        """Transformers' head for whole sequences."""
        problem = "multi_label_classification" if self.multi else "single_label_classification"
        return HeadSpec("sequence-classification", self.outputs, tuple(self.labels), problem)

    @property
    def multi(self) -> bool:
        """Whether a row may have any number of labels."""
        return self.kind == "multi"

    @classmethod
    def encoding(cls, config: Config) -> dict[str, Any]:
        """Return the template that texts stand in, where a gap in it is filled."""
        if config.tuning != "none" or config.method != "cloze":
            return {}
        words = " ".join(word for several in (config.prompts or {}).values() for word in several)
        return {"template": templates_of(config.template, "cloze", script(words))[0]}

    @classmethod
    def encoder(
        cls, tokenizer: Tokenizer, truncation: Truncation, fallback_token: int | None, schema: Schema, **settings: Any
    ) -> ExampleEncoder:
        """Return what turns examples into token sequences, in the template of `encoding` where there is one."""
        if "template" in settings and not schema.pair:
            return ClozeEncoder(tokenizer, truncation, settings["template"], fallback_token)
        return TextEncoder(tokenizer, truncation, fallback_token, pairs=schema.pair)

    @classmethod
    def fit(cls, labels: Labels, *, label_type: str = "auto", separator: str | None = None, **settings: Any) -> Classification:
        """Learn kind and label list from the training file's labels.

        Labels are sorted, numbers by value, so that their order depends on nothing but their names.
        Raises `DataError` when fewer than two labels are found.
        """
        kind, separator = recognise(labels, label_type, separator)
        names = {part for name in labels.names for part in parts(name, separator if kind == "multi" else None)}
        if len(names) < 2:
            raise DataError(
                f"the training rows have too few labels: {listing(map(repr, sorted(names))) or 'none'}; "
                f"at least 2 different ones are needed. Is {setting('label')} the right column?"
            )
        return cls(sorted(names, key=label_order), kind, separator=separator if kind == "multi" else None, **settings)

    @classmethod
    def learn(cls, table: TokenTable, config: Config) -> Classification:
        """Fit the labels of a training file; see `fit`."""
        return cls.fit(
            table.labels(),
            label_type=config.label_type,
            separator=config.label_separator,
            aggregation=config.aggregation,
            loss_name=config.loss,
            focal_gamma=config.focal_gamma,
            label_smoothing=config.label_smoothing,
        )

    def settle(self, rows: Rows, config: Config) -> Classification:
        """Weigh the labels by their counts in the training rows."""
        return replace(self, weights=class_weights(config.class_weights, self.labels, counts_of(rows), self.multi))

    def remarks(self, rows: Rows) -> list[str]:
        """Return notes on labels that are spelled alike, and that look like measured values."""
        notes, counts = [], dict(zip(self.labels, counts_of(rows).tolist(), strict=True))
        twice = spellings(dict(sorted(counts.items(), key=lambda item: -item[1])))
        if twice:
            pairs = [f"{one.label!r} ({counted(one.rows, 'row')}) and {one.like!r} ({counted(one.like_rows, 'row')})" for one in twice]
            notes.append(f"labels that are {twice[0].why} are learned apart: {listing(pairs, 3)}. Spell them alike, if they are one.")
        if not self.multi and len(self.labels) > 20 and 2 * len(self.labels) > len(rows):
            notes.append(
                f"{len(self.labels)} different labels in {counted(len(rows), 'row')} read like an identifier or free text, which cannot be "
                f"learned. Is {setting('label')} the right column?"
            )
        blank = [label for label in self.labels if label.casefold() in PLACEHOLDERS]
        if blank:
            notes.append(
                f"{listing(map(repr, blank))} {'reads' if len(blank) == 1 else 'read'} like a missing value but is a label here; if it "
                f"means 'no label', empty these cells and use {setting('drop_unlabelled', True)}."
            )
        numbers = [label for label in self.labels if re.fullmatch(r"[+-]?\d*[.,]\d+", label)]
        if not self.multi and len(self.labels) > 10 and len(numbers) * 2 > len(self.labels):
            notes.append(
                f"the {len(self.labels)} labels ({listing(self.labels, 4)}) look like measured values; each is learned as a class of its "
                f"own. If they are, take {setting('task', 'regression')}."
            )
        return notes

    def gaps(self, rows: Rows) -> list[str]:
        """Return a note on labels that no training row has."""
        unseen = [label for label, count in zip(self.labels, counts_of(rows).tolist(), strict=True) if count == 0]
        if not unseen:
            return []
        named = listing(map(repr, unseen), 8)
        return [f"no training row has {named}, so the model cannot learn it: all its rows were split off or dropped."]

    @classmethod
    def advice_on_missing(cls, table: TokenTable, config: Config) -> str:
        """Return how rows without any label are written where a row may have any number."""
        return EMPTY_LIST if recognise(table.labels(), config.label_type, config.label_separator)[0] == "multi" else ""

    def targets(self, table: TokenTable) -> ClassTargets:
        """Translate a table's labels into numbers.

        Raises `DataError` for a label that the training rows do not have, with its place, and for several labels in a row
        where one is expected.
        """
        return targets_of(table, self.labels, self.multi, self.separator)

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Merge outputs float[S, C] over each example's windows into float[E, C] (mean or max)."""
        return merge_windows(outputs, batch, self.aggregation)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[E]: cross-entropy; with several labels a row the mean of the labels' binary cross-entropies.

        Label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7. Focal: Lin et al. 2017,
        "Focal Loss for Dense Object Detection", section 3.2: each term is scaled by (1 - p)**gamma of its true class.
        """
        assert batch.targets is not None
        targets = to_device(batch.targets, outputs.device)
        weights = None if self.weights is None else torch.tensor(self.weights, device=outputs.device)
        smoothing = self.label_smoothing
        if self.multi:
            smooth = targets * (1 - smoothing) + smoothing / 2
            terms = F.binary_cross_entropy_with_logits(outputs, smooth, reduction="none")
            if self.loss_name == "focal":
                p = torch.sigmoid(outputs)
                terms = terms * focus(torch.where(targets > 0, p, 1 - p), self.focal_gamma)
            return (terms if weights is None else terms * weights).mean(1)
        terms = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
        if self.loss_name == "focal":
            p = F.softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
            terms = terms * focus(p, self.focal_gamma)
        return terms if weights is None else terms * weights[targets]

    def divergence(self, one: Tensor, other: Tensor, batch: PackedBatch) -> Tensor:
        """Return float[E]: of the choice of a label; with several labels a row the mean over labels, each there or not."""
        one, other = self.combine(one, batch), self.combine(other, batch)
        return of_flags(one, other).mean(1) if self.multi else of_choices(one, other)

    def first_bias(self, rows: Rows) -> np.ndarray | None:
        """Return float32[C], what the last layer's bias should begin with; None to leave it at 0.

        With several labels a row most labels are absent from most rows. Beginning at 0, a network spends its first steps on
        learning just that with all of its weights, and small encoders do not find out of it again. So the bias begins at the
        log-odds of each label's share of the training rows (Lin et al. 2017, "Focal Loss for Dense Object Detection",
        section 3.3). One label a row has no such start: cross-entropy is learned well from 0.
        """
        if not self.multi:
            return None
        share = (counts_of(rows) + 0.5) / (len(rows) + 1)
        return np.log(share / (1 - share)).astype(np.float32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return float32[E, C]: softmax over labels, or each label's sigmoid for multi."""
        logits = torch.from_numpy(outputs)
        return (torch.sigmoid(logits) if self.multi else torch.softmax(logits, 1)).numpy()

    @property
    def default_metric(self) -> str:
        """Accuracy, or micro F1 with several labels a row."""
        return "f1_micro" if self.multi else "accuracy"

    def computable(self, rows: Rows) -> Collection[str]:
        """Return the metrics that have a value on `rows` whatever is predicted: some need rows with a label and rows without."""
        gold = self.gold(rows)
        even = np.full((len(gold), self.outputs), 1 / self.outputs)
        return self._scores(gold, even, tune_thresholds(gold, even) if self.multi else None, QUIET)

    def gold(self, rows: Rows) -> np.ndarray:
        """Return the true labels of `rows`: int64[E], or bool[E, C] with several labels a row."""
        return rows.gold().astype(bool) if self.multi else rows.gold()

    def tune(self, outputs: Ragged, part: Part) -> Classification:
        """Choose each label's threshold by its F1 on these rows, with several labels a row."""
        if not self.multi:
            return self
        found = tune_thresholds(self.gold(part.rows), self.probabilities(outputs.values)).tolist()
        return replace(self, thresholds=[*(self.thresholds or [])[: self.settled], *found[self.settled :]])

    def extended(self, table: TokenTable, config: Config) -> Classification:
        """Put new labels behind the known ones; thresholds that were chosen stay."""
        new, known = new_labels(table, self.labels, self.multi, self.separator), self.thresholds
        changes: dict[str, Any] = {"loss_name": config.loss, "focal_gamma": config.focal_gamma, "label_smoothing": config.label_smoothing}
        changes |= {"thresholds": None if known is None else [*known, *[0.5] * len(new)], "settled": len(known or [])}
        return replace(self, labels=[*self.labels, *new], **changes)

    def measured(self, outputs: Ragged, part: Part, metric: str) -> Measured | None:
        """Return the metrics that follow from the predicted labels alone."""
        predicted = predicted_labels(self.probabilities(outputs.values), self.kind, self.thresholds)
        return resampled(self.gold(part.rows), predicted, self.outputs, metric)

    def score(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, float]:
        """Return the metrics on validation rows; with several labels a row each threshold is the best one for these rows."""
        gold, probabilities = self.gold(part.rows), self.probabilities(outputs.values)
        return self._scores(gold, probabilities, tune_thresholds(gold, probabilities) if self.multi else None, progress)

    def _scores(self, gold: np.ndarray, probabilities: np.ndarray, limits: np.ndarray | None, progress: Progress) -> dict[str, float]:
        with progress.track("scoring", scoring_steps(gold, self.outputs), "steps") as tracker:
            if limits is None:
                return single_label(gold, probabilities, tracker.advance)
            return multi_label(gold, probabilities, limits, tracker.advance)

    def evaluation(self, outputs: Ragged, part: Part, progress: Progress = QUIET) -> dict[str, Any]:
        """Return metrics with intervals, per label, confusion, calibration, and the most confident mistakes."""
        gold, probabilities = self.gold(part.rows), self.probabilities(outputs.values)
        with progress.track("scoring", scoring_steps(gold, self.outputs), "steps") as tracker:
            result = evaluation(gold, probabilities, self.labels, self.kind, self.thresholds, advance=tracker.advance)
        predicted = predicted_labels(probabilities, self.kind, self.thresholds)
        if self.multi:
            wrong = predicted != gold
            sureness = np.where(wrong, np.where(predicted, probabilities, 1 - probabilities), 0).max(1, initial=0)
        else:
            sureness = np.where(predicted != gold, probabilities.max(1), 0)
        result["mistakes"] = worst(part, sureness, lambda row: self._names(gold[row]), lambda row: self._names(predicted[row]), progress)
        return result

    def _names(self, row: Any) -> str:
        return ", ".join(self.labels[i] for i in np.flatnonzero(row)) if self.multi else self.labels[int(row)]

    def yardsticks(
        self, train: Part, train_examples: list[Example], test: Part, test_examples: list[Example], pretrained: Pretrained, seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return what the majority class and TF-IDF with logistic regression reach."""
        texts = [[example.texts for example in examples] for examples in (train_examples, test_examples)]
        tune = self.thresholds is not None
        found = yardsticks.yardsticks(texts[0], self.gold(train.rows), texts[1], self.labels, self.kind, seed, tune=tune, progress=progress)
        return yardsticks.scored(found, self.gold(test.rows), self.labels, self.kind, progress=progress)

    def decode(self, outputs: Ragged, examples: Sequence[Example] = (), encoded: Sequence[Encoded] = ()) -> Iterator[Prediction]:
        """Yield a `Prediction` for each example."""
        return self.decided(self.probabilities(outputs.values))

    def decided(self, probabilities: np.ndarray) -> Iterator[Prediction]:
        """Yield a `Prediction` for each row of float[E, C]."""
        limits = np.asarray(self.thresholds if self.thresholds is not None else [0.5] * self.outputs)
        for row in probabilities:
            values = row.tolist()
            named = dict(zip(self.labels, values, strict=True))
            if self.multi:
                chosen = np.flatnonzero(row >= limits).tolist()
                yield Prediction([self.labels[i] for i in chosen], [values[i] for i in chosen], named)
            else:
                best = int(row.argmax())
                yield Prediction(self.labels[best], values[best], named)

    def columns(self, prediction: Prediction, *, flat: bool) -> dict[str, Any]:
        """Return label, probability and probabilities; in a flat file several labels are joined as they were in training."""
        label, probability = prediction.label, prediction.probability
        if flat and isinstance(label, list) and isinstance(probability, list):
            separator = self.separator if self.separator is not None else "|"
            values: tuple[Any, ...] = (separator.join(label), separator.join(f"{value:.6g}" for value in probability))
        else:
            values = label, probability
        return dict(zip(self.added, (*values, prediction.probabilities), strict=True))

    def shown(self, prediction: Prediction, example: Example) -> list[str]:
        """Return the ten most probable labels, and the verdict."""
        ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:10]
        lines = [f"{label}: {value:.4f}" for label, value in ranked]
        if len(self.labels) > len(ranked):
            lines.append(f"... and {len(self.labels) - len(ranked)} more labels")
        verdict = ""
        if example.target is not None:
            right = prediction.label == example.target[0] if isinstance(prediction.label, str) and len(example.target) == 1 else None
            verdict = {True: " (right)", False: f" (the row says {example.target[0]!r})", None: f" (the row says {example.target})"}[right]
        return [*lines, f"label: {prediction.label!r}{verdict}"]

    def hub(self, schema: Schema) -> Hub:
        """Text classification."""
        several = "any number of labels" if self.multi else "exactly one label"
        given, piped = '"A text to classify"', '"A text to classify", truncation=True'
        if schema.pair:
            given, piped = (
                '("The first text", "The second text")',
                '{"text": "The first text", "text_pair": "The second text"}, truncation=True',
            )
        return Hub(
            "text-classification",
            "Text classification",
            f"classification with {several} per {'pair of texts' if schema.pair else 'text'} ({len(self.labels)} labels)",
            given,
            "prediction.label, prediction.probability",
            piped,
            ', top_k=None, function_to_apply="sigmoid"' if self.multi else "",
            [f"{self.kind}-label-classification"],
        )

    def sentence(self) -> str:
        """Return kind and number of labels."""
        joined = f", joined by {self.separator!r}" if self.separator is not None else ""
        several = f"any number of {len(self.labels)} labels a row{joined}" if self.multi else f"one of {len(self.labels)} labels a row"
        return f"classification, {several}"

    def advice(self, config: Config) -> str:
        """Return how to force the other kind of labels."""
        return "" if config.label_type != "auto" else setting("label_type", "single" if self.multi else "multi")

    def to_dict(self) -> dict[str, Any]:
        """Return what prediction and evaluation need: name, kind, labels, thresholds, separator, aggregation."""
        keys = ("name", "kind", "labels", "thresholds", "separator", "aggregation")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Classification:
        """Build the task that `to_dict` described."""
        keys = ("kind", "labels", "thresholds", "separator", "aggregation")
        return cls(**{key: values[key] for key in keys})
