"""Classification of a text: one label a row, or any number of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.data.batches import PackedBatch
from tunesmith.data.joined import parts, separator_of
from tunesmith.data.table import Labels, TokenTable
from tunesmith.errors import DataError, UsageError, did_you_mean, listing, setting
from tunesmith.metrics import Kind
from tunesmith.tasks.base import Prediction

EMPTY_LIST = " A row that has none of the labels is written in JSONL, with an empty list [] of them: an empty cell says nothing of them."
"""For messages on missing labels where a row may have any number of them."""


@dataclass(frozen=True)
class ClassTargets:
    """Ragged label numbers of N examples: those of example i are `codes[starts[i]:starts[i+1]]`."""

    codes: np.ndarray
    starts: np.ndarray
    labels: int
    multi: bool

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[E] label numbers, or with several labels a row float32[E, C] of zeros and ones."""
        if not self.multi:
            return self.codes[self.starts[rows]].astype(np.int64)
        result = np.zeros((len(rows), self.labels), np.float32)
        sizes = self.starts[rows + 1] - self.starts[rows]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        result[np.repeat(np.arange(len(rows)), sizes), self.codes[np.repeat(self.starts[rows], sizes) + within]] = 1
        return result

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[C], how many of the examples `rows` have each label."""
        wanted = np.zeros(len(self), bool)
        wanted[rows] = True
        return np.bincount(self.codes[np.repeat(wanted, np.diff(self.starts))], minlength=self.labels)

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for examples with the same labels (and, but for one chance in 2**64, only for those)."""
        mixed = np.random.default_rng(0).integers(0, 2**64, self.labels, np.uint64)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed[self.codes], dtype=np.uint64)])
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def stratum(self) -> np.ndarray:
        """Return int64[N], the label by which each example is spread over a split: its rarest one; C for none."""
        counts = np.bincount(self.codes, minlength=self.labels)
        result = np.full(len(self), self.labels, np.int64)
        owner = np.repeat(np.arange(len(self)), np.diff(self.starts))
        order = np.argsort(-counts[self.codes], kind="stable")  # the rarest is written last
        result[owner[order]] = self.codes[order]
        return result


@dataclass(frozen=True)
class Classification:
    """Classification with `labels`, fitted by `Classification.fit`.

    kind: `single` (softmax and cross-entropy) or `multi` (sigmoid and binary cross-entropy)
    thresholds: for multi, float per label: predicted when the probability is at or above
    separator: what joins labels in one cell, None for lists
    aggregation: mean or max of the outputs over a text's windows
    loss_name, focal_gamma, label_smoothing, weights: the training loss; weights has one factor per label
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
    name: str = field(default="classification", init=False)

    @property
    def outputs(self) -> int:
        """C, the number of labels."""
        return len(self.labels)

    @property
    def multi(self) -> bool:
        """Whether a row may have any number of labels."""
        return self.kind == "multi"

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
        return cls(sorted(names, key=_label_order), kind, separator=separator if kind == "multi" else None, **settings)

    def targets(self, labels: Labels, table: TokenTable) -> ClassTargets:
        """Translate a table's labels into numbers.

        Raises `DataError` for a label that the training rows do not have, with its place, and for several labels in a row
        where one is expected.
        """
        number = {label: i for i, label in enumerate(self.labels)}
        split = [[number.get(part, -1) for part in parts(name, self.separator)] for name in labels.names]
        for code, numbers in enumerate(split):
            if -1 in numbers:
                part = parts(labels.names[code], self.separator)[numbers.index(-1)]
                row = int(np.searchsorted(labels.starts, np.argmax(labels.codes == code), side="right")) - 1
                raise DataError(
                    f"{table.name}:{table.line[row]}: label {part!r} is not one of the training labels: {listing(self.labels)}."
                    f"{did_you_mean(part, self.labels)} Correct it, leave the row out, or add training rows with it."
                )
        sizes = np.diff(labels.starts)
        wrong = ((sizes != 1) & ~labels.missing) if not self.multi else np.zeros(len(sizes), np.bool_)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{table.name}:{table.line[row]}: the row has {sizes[row]} labels where one is expected. "
                f"Try {setting('label_type', 'multi')}."
            )
        per_code = np.array([len(numbers) for numbers in split], np.int64)
        flat = np.array([n for numbers in split for n in numbers], np.int32)
        first = np.concatenate([[0], np.cumsum(per_code)])
        repeat = per_code[labels.codes] if len(labels.codes) else np.zeros(0, np.int64)
        within = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
        codes = flat[np.repeat(first[labels.codes], repeat) + within] if len(labels.codes) else flat
        before = np.concatenate([[0], np.cumsum(repeat)])
        return ClassTargets(codes, before[labels.starts], len(self.labels), self.multi)

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Merge outputs float[S, C] over each example's windows into float[E, C] (mean or max)."""
        if outputs.shape[0] == batch.size:
            return outputs
        windows = torch.from_numpy(np.bincount(batch.example, minlength=batch.size))
        return torch.segment_reduce(outputs, self.aggregation, lengths=windows, axis=0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return float[E]: cross-entropy; with several labels a row the mean of the labels' binary cross-entropies.

        Label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7. Focal: Lin et al. 2017,
        "Focal Loss for Dense Object Detection", section 3.2: each term is scaled by (1 - p)**gamma of its true class.
        """
        weights = None if self.weights is None else torch.tensor(self.weights)
        smoothing = self.label_smoothing
        if self.multi:
            smooth = targets * (1 - smoothing) + smoothing / 2
            terms = F.binary_cross_entropy_with_logits(outputs, smooth, reduction="none")
            if self.loss_name == "focal":
                p = torch.sigmoid(outputs)
                terms = terms * _focus(torch.where(targets > 0, p, 1 - p), self.focal_gamma)
            return (terms if weights is None else terms * weights).mean(1)
        terms = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
        if self.loss_name == "focal":
            p = F.softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
            terms = terms * _focus(p, self.focal_gamma)
        return terms if weights is None else terms * weights[targets]

    def first_bias(self, counts: np.ndarray, rows: int) -> np.ndarray | None:
        """Return float32[C], what the last layer's bias should begin with; None to leave it at 0.

        With several labels a row most labels are absent from most rows. Beginning at 0, a network spends its first steps on
        learning just that with all of its weights, and small encoders do not find out of it again. So the bias begins at the
        log-odds of each label's share of the training rows, `counts` int64[C] of `rows` (Lin et al. 2017, "Focal Loss for
        Dense Object Detection", section 3.3). One label a row has no such start: cross-entropy is learned well from 0.
        """
        if not self.multi:
            return None
        share = (counts + 0.5) / (rows + 1)
        return np.log(share / (1 - share)).astype(np.float32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return float32[E, C]: softmax over labels, or each label's sigmoid for multi."""
        logits = torch.from_numpy(outputs)
        return (torch.sigmoid(logits) if self.multi else torch.softmax(logits, 1)).numpy()

    def decode(self, probabilities: np.ndarray) -> Iterator[Prediction]:
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

    def to_dict(self) -> dict[str, Any]:
        """Return what prediction and evaluation need: name, kind, labels, thresholds, separator, aggregation."""
        keys = ("name", "kind", "labels", "thresholds", "separator", "aggregation")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Classification:
        """Build the task that `to_dict` described."""
        keys = ("kind", "labels", "thresholds", "separator", "aggregation")
        return cls(**{key: values[key] for key in keys})


def class_weights(wanted: str | dict[str, float], labels: Sequence[str], counts: np.ndarray, multi: bool) -> list[float] | None:
    """Return one factor per label, or None for none.

    `balanced` is n / (C x count), scikit-learn's rule, scaled so that the mean over the training rows is 1; a mapping gives
    factors by name, 1 for labels it does not name. Raises `UsageError` for a name that is no label.
    """
    if wanted == "none":
        return None
    if isinstance(wanted, dict):
        for name in wanted:
            if name not in labels:
                raise UsageError(
                    f"{setting('class_weights')} names {name!r}, which is not a label.{did_you_mean(name, labels)} "
                    f"Labels: {listing(labels)}."
                )
        return [float(wanted.get(label, 1.0)) for label in labels]
    weights = 1 / np.maximum(counts, 1)
    weights *= counts.sum() / (weights * counts).sum() if not multi else len(labels) / weights.sum()
    return weights.tolist()


def recognise(labels: Labels, label_type: str, separator: str | None) -> tuple[Kind, str | None]:
    """Decide whether rows have one label or several, and what separates them: (`single` or `multi`, separator or None)."""
    if label_type == "single":
        return "single", None
    if separator is not None:
        return "multi", separator
    if labels.from_list:
        return "multi", None
    found = separator_of(labels.names, certain=label_type == "multi")
    return ("multi", found) if found is not None or label_type == "multi" else ("single", None)


def _focus(p: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)**gamma, the factor of the focal loss; kept off 0, where the slope of a root (gamma < 1) has no bound."""
    return (1 - p).clamp_min(1e-7) ** gamma


def _label_order(label: str) -> tuple[int, float, str]:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    # words that Python takes for numbers are words here: nan has no place in any order
    return (0, value, label) if math.isfinite(value) else (1, 0.0, label)
