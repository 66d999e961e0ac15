"""Averages of the weights over the steps of training, which are evaluated, chosen and saved in place of the last ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.errors import UsageError, counted, setting
from tunesmith.model.heads import TextModel
from tunesmith.training.optim import settle
from tunesmith.training.rows import RowwiseAdamW
from tunesmith.training.state import Checkpoints, TrainState


class Averaging:
    """The weights as they are; `MovingAverage` and `MeanOfEvaluated` put averages in their place.

    Only parameters of the optimizer are averaged; what is not trained stays to the bit.
    """

    _averages: ClassVar[bool] = False

    def __init__(self, model: TextModel, optimizer: torch.optim.Optimizer) -> None:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._parameters: dict[str, nn.Parameter] = {name: p for name, p in model.named_parameters() if id(p) in trained}

    def follow(self) -> None:
        """Take in the weights after an optimizer step."""

    def note(self) -> None:
        """Take in the weights that are to be evaluated now."""

    def put(self) -> None:
        """Put the average in the place of the weights, for good. The optimizer must have been settled."""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the average, behind it the very weights that it had."""
        if not self._averages:
            yield
            return
        kept = [parameter.detach().clone() for parameter in self._parameters.values()]
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                # copies, not other tensors: who keeps something made of the weights knows them by their version
                torch._foreach_copy_(list(self._parameters.values()), kept)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs besides weights and optimizer."""
        return {}


class MovingAverage(Averaging):
    """An exponential moving average: (1 - d) sum of d^(t-j) w_j over the steps j up to t, divided by 1 - d^t.

    Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; in this form Kingma and Ba 2015, "Adam", section
    7.2. The division takes the start out, so that the pretrained weights have no share in it, and a short run is averaged evenly.
    """

    _averages = True

    def __init__(
        self, model: TextModel, optimizer: torch.optim.Optimizer, decay: float, state: TrainState, kept: dict[str, Tensor]
    ) -> None:
        super().__init__(model, optimizer)
        self._decay, self._state = decay, state
        self._by_rows = optimizer if isinstance(optimizer, RowwiseAdamW) else None
        if self._by_rows is not None:
            self._by_rows.follow(decay)
        table = None if self._by_rows is None else self._by_rows.table
        dense = {name: parameter for name, parameter in self._parameters.items() if parameter is not table}
        self._sums = {
            name: kept[name].to(parameter.device) if name in kept else torch.zeros_like(parameter) for name, parameter in dense.items()
        }
        self._dense = [parameter.detach() for parameter in dense.values()]
        self._note_idle_steps()

    def follow(self) -> None:
        """Take in the weights after an optimizer step; the table of words, which is updated by rows, is followed by its optimizer."""
        torch._foreach_lerp_(list(self._sums.values()), self._dense, 1 - self._decay)
        self._note_idle_steps()

    def _note_idle_steps(self) -> None:
        # where layers join the training one after the other the table is the last
        if self._by_rows is not None and self._by_rows.table not in self._by_rows.state:
            self._by_rows.idle = self._state.step

    def put(self) -> None:
        """Put the average in the place of the weights."""
        if not self._state.step:
            return
        with torch.no_grad():
            sums: dict[Tensor, Tensor] = {self._parameters[name]: total for name, total in self._sums.items()}
            if self._by_rows is not None and self._by_rows.table in self._by_rows.state:
                sums[self._by_rows.table] = self._by_rows.average()
            for parameter, total in sums.items():
                torch.div(total, 1 - self._decay**self._state.step, out=parameter.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums; that of the table is with its optimizer."""
        return self._sums


class MeanOfEvaluated(Averaging):
    """The mean of the weights at the last `count` evaluations, each kept on disk.

    Vaswani et al. 2017, "Attention Is All You Need", section 6.1 (the last 5 checkpoints); Izmailov et al. 2018, "Averaging Weights Leads
    to Wider Optima and Better Generalization" (weights at the ends of the last epochs).
    """

    _averages = True

    def __init__(self, model: TextModel, optimizer: torch.optim.Optimizer, count: int, state: TrainState, checkpoints: Checkpoints) -> None:
        super().__init__(model, optimizer)
        self._optimizer, self._count, self._state, self._checkpoints = optimizer, count, state, checkpoints

    def note(self) -> None:
        """Keep the weights of this step."""
        settle(self._optimizer)
        self._checkpoints.save_weights("weights", self._state.step, self._parameters)
        self._state.averaged = [*self._state.averaged, self._state.step][-self._count :]

    def put(self) -> None:
        """Put the mean in the place of the weights."""
        if not self._state.averaged:
            return
        with torch.no_grad(), contextlib.ExitStack() as stack:
            files = [stack.enter_context(self._checkpoints.weights(step)) for step in self._state.averaged]
            for name, parameter in self._parameters.items():
                total = files[0].get_tensor(name)
                for file in files[1:]:
                    total.add_(file.get_tensor(name))
                parameter.copy_(total.div_(len(files)))


def check_evaluations(config: Config, per_epoch: int) -> str:
    """Return a note where an average is of fewer evaluations than wanted; empty else. Raises `UsageError` when there is only one.

    per_epoch: optimizer steps of an epoch
    """
    if config.average == 1:
        return ""
    count = config.epochs
    if config.eval_steps is not None:
        count += per_epoch * config.epochs // config.eval_steps - per_epoch * config.epochs // math.lcm(per_epoch, config.eval_steps)
    if count == 1:
        raise UsageError(
            f"{setting('average')} {config.average} needs weights of several evaluations, and there is one evaluation: the run has "
            f"{counted(per_epoch * config.epochs, 'step')}. Evaluate more often with {setting('eval_steps')}, or leave "
            f"{setting('average')} out."
        )
    if count >= config.average:
        return ""
    return f"the weights of all {count} evaluations are averaged; for {setting('average')} {config.average} there are too few."


def averaging_of(
    model: TextModel, optimizer: torch.optim.Optimizer, config: Config, state: TrainState, checkpoints: Checkpoints
) -> Averaging:
    """Return the averaging that `config` says, where the run stands that `state` tells."""
    if config.ema > 0:
        return MovingAverage(model, optimizer, config.ema, state, checkpoints.averages(state.step))
    if config.average > 1:
        return MeanOfEvaluated(model, optimizer, config.average, state, checkpoints)
    return Averaging(model, optimizer)
