"""The gradient of one optimizer step: of its mean loss, however many parts it is worked off in, and of what is added to that loss.

R rows of combined outputs, C outputs, K samples of the head.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch, cut, merged, split_by_tokens
from tunesmith.model.arithmetic import arithmetic, float32_products
from tunesmith.model.devices import random_state, set_random_state
from tunesmith.model.heads import TextModel
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Rows
from tunesmith.training.regularise import AdversarialNoise, masks_before_the_last_layer


class Objective(Protocol):
    """What the steps of a run lower. A `Task` is one."""

    @property
    def joint(self) -> bool: ...

    def batches(self, rows: Rows, chosen: np.ndarray, seed: int, max_tokens: int) -> list[PackedBatch]: ...

    def combine(self, outputs: Tensor, batch: PackedBatch) -> Tensor: ...

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor: ...

    def tokens_an_example(self, rows: Rows) -> float: ...


class Gradients:
    """Adds the gradient of a step's mean loss to those of the parameters.

    R-Drop (Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", equation 4): the batch goes through the network twice,
    with other dropout masks, and alpha times the divergence of both outputs joins the sum of both losses. Here all of it is halved, so that
    learning rate and the limit of the gradient mean what they mean without.

    Multi-sample dropout (Inoue 2019, "Multi-Sample Dropout for Accelerated Training and Better Generalization"): the head runs K times
    on the same hidden states, each time with another mask; the loss is the mean.

    Adversarial noise: see `AdversarialNoise`. The loss is the mean of that without and with noise, under the same dropout masks.
    """

    def __init__(self, model: TextModel, task: Objective, config: Config, precision: str) -> None:
        self._model, self._task, self._precision = model, task, precision
        self._alpha, self._samples = config.r_drop, config.multi_sample_dropout
        self._passes = 2 if config.r_drop > 0 else 1
        self._noise = AdversarialNoise(model, config.fgm) if config.fgm > 0 else None
        self.max_tokens = max(config.tokens_at_once // self._passes, 1)
        """Most tokens of a part: those of all passes over it are in memory at once."""

    def add(self, batches: list[PackedBatch], units: int) -> float:
        """Add the gradient of the step that `batches` are the parts of; units: in how many parts its loss is averaged.

        Returns the sum of the task's own loss, without noise.
        """
        masks = masks_before_the_last_layer(self._model) if self._samples > 1 else contextlib.nullcontext()
        with float32_products(self._precision, self._model.encoder.device), masks:
            if self._noise is None:
                return self._add(batches, units)
            state = random_state(self._model.encoder.device)
            with self._noise.measured():
                loss = self._add(batches, 2 * units)
            set_random_state(state, self._model.encoder.device)  # the noise is the worst for the network with these masks, and no other
            with self._noise.added():
                self._add(batches, 2 * units)
            return loss

    def _add(self, batches: list[PackedBatch], units: int) -> float:
        if self._task.joint and len(batches) > 1:
            return self._add_in_two_passes(batches, merged(batches), 0, units)
        loss_sum = 0.0
        for number, batch in enumerate(batches):
            pieces = self._pieces(batch)
            if len(pieces) > 1:
                loss_sum += self._add_in_two_passes(pieces, batch, number, units)
                continue
            outputs = [self._outputs(batch, (number, 0, turn)) for turn in range(self._passes)]
            loss, whole = self._loss(outputs, batch)
            (whole / units).backward()
            loss_sum += float(loss.detach())
        return loss_sum

    def _pieces(self, batch: PackedBatch) -> list[PackedBatch]:
        """Cut a part that is too large, as one example of many windows or candidates may be, between its sequences."""
        lengths = batch.lengths
        if int(lengths.max()) * len(lengths) <= self.max_tokens:
            return [batch]
        return [cut(batch, part) for part in split_by_tokens(lengths, np.ones(len(lengths), np.int64), self.max_tokens)]

    def _outputs(self, batch: PackedBatch, key: tuple[int, int, int]) -> list[Tensor]:
        """Return the head's outputs, one for each sample."""
        noise = self._noise.at(key, batch) if self._noise is not None else contextlib.nullcontext()
        with arithmetic(self._precision, self._model.encoder.device), noise:
            if self._samples == 1:
                return [self._model(batch)]
            hidden = self._model.states(batch)
            return [self._model.outputs(hidden, batch) for _ in range(self._samples)]

    def _loss(self, outputs: list[list[Tensor]], batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return the sum of the task's own loss, and that with what is added to it; outputs: of the head, for each pass and sample."""
        losses = [self._task.loss(self._task.combine(sample, batch), batch).sum() for samples in outputs for sample in samples]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        if self._passes == 1:
            return loss, loss
        task = cast(Task, self._task)  # or one that is distilled, which has all that a task has; contrast in pairs refuses R-Drop
        apart = [task.divergence(one, other, batch).sum() for one, other in zip(*outputs, strict=True)]
        return loss, loss + self._alpha / 2 * torch.stack(apart).mean()

    def _add_in_two_passes(self, pieces: list[PackedBatch], batch: PackedBatch, number: int, units: int) -> float:
        """Add the gradient of the loss of `batch`, whose sequences are those of `pieces`; no more than one piece's graph is in memory.

        All pieces run without a graph first; the loss gives the gradient of their outputs, with which each runs again: Gao et al. 2021,
        "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2.
        number: of the batch among those of the step
        """
        device = self._model.encoder.device
        states: dict[tuple[int, int], Any] = {}

        def run(piece: int, turn: int) -> Tensor:
            """Return float[K, R, C]."""
            return torch.stack([sample.float() for sample in self._outputs(pieces[piece], (number, piece, turn))])

        found = []
        for turn in range(self._passes):
            parts = []
            for piece in range(len(pieces)):
                states[piece, turn] = random_state(device)  # the second run must drop the same units
                with torch.no_grad():
                    parts.append(run(piece, turn))
            found.append(torch.cat(parts, dim=1).requires_grad_())
        sizes = [part.shape[1] for part in parts]
        loss, whole = self._loss([list(outputs.unbind(0)) for outputs in found], batch)
        (whole / units).backward()
        for turn, outputs in enumerate(found):
            assert outputs.grad is not None
            for piece, gradient in enumerate(outputs.grad.split(sizes, dim=1)):
                set_random_state(states[piece, turn], device)
                run(piece, turn).backward(gradient)
        return float(loss.detach())
