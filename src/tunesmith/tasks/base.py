"""The interface of a task. S sequences, E examples, C outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from tunesmith.data.batches import PackedBatch
from tunesmith.metrics import Kind


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one text.

    label: the most probable label; with several labels a row, the list of those at or above their thresholds
    probability: that label's probability in [0, 1]; with several labels, the list of theirs
    probabilities: every label's probability, in the model's label order
    """

    label: str | list[str]
    probability: float | list[float]
    probabilities: dict[str, float] = field(repr=False)


class Targets(Protocol):
    """The targets of N examples."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets of examples `rows`, int[E], as the task's loss wants them."""
        ...

    def stratum(self) -> np.ndarray:
        """Return int64[N], by which a split spreads the examples evenly."""
        ...

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for examples with equal targets."""
        ...

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return int64[C], how many of the examples `rows` have each label."""
        ...


class Task(Protocol):
    """One kind of thing to learn, fitted to its labels."""

    @property
    def name(self) -> str:
        """What the task is called in recipes and reports."""
        ...

    @property
    def kind(self) -> Kind:
        """Which family of metrics applies."""
        ...

    @property
    def outputs(self) -> int:
        """C, how many outputs the head has."""
        ...

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Merge outputs float[S, C] of an example's sequences into float[E, C]; the same in training and prediction."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return float[E], one value per example, from combined outputs float[E, C]."""
        ...

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return float[E, C] in [0, 1] from combined outputs float[E, C]."""
        ...

    def decode(self, probabilities: np.ndarray) -> Iterator[Prediction]:
        """Yield one prediction per row of float[E, C]."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what `tunesmith.json` keeps to build the task again."""
        ...
