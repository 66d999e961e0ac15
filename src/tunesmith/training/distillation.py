"""Keeping what a model knows without the rows that it learned it from: its former outputs on the new rows are targets, too.

Li and Hoiem 2017, "Learning without Forgetting", section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.data.batches import PackedBatch
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.heads import TextModel
from tunesmith.tasks.base import Task

TEMPERATURE = 2.0
"""By which outputs are divided before they are compared: that of Li and Hoiem, section 3."""


class Distilling:
    """A task whose loss has a second term: how far the outputs have moved from those of the model before.

    Everything but the loss is that of `task`. Outputs that the former model did not have are free.
    former: that model, frozen, with C_old <= C outputs; weight: of the term, 1 in the paper
    """

    def __init__(self, task: Task, former: TextModel, weight: float, precision: str) -> None:
        self.task, self.weight, self.precision = task, weight, precision
        self.former = former.eval().requires_grad_(False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:
        """Return the loss of the task, float[n], and as one more value the weighted term, as large a part of the mean as of n values."""
        terms: Tensor = self.task.loss(outputs, batch)
        with torch.no_grad(), arithmetic(self.precision, outputs.device):
            wanted = self.task.combine(self.former(batch), batch).float()
        moved = drift(self.task, outputs[:, : wanted.shape[1]], wanted)
        return torch.cat([terms, (self.weight * moved.mean() * batch.parts).reshape(1)])


def drift(task: Task, outputs: Tensor, wanted: Tensor) -> Tensor:
    """Return float[R], how far each row of outputs float[R, C] is from those that are wanted.

    One label a row: the Kullback-Leibler divergence of the distributions over the outputs divided by the temperature, whose gradient is
    that of Li and Hoiem's cross-entropy, equation 2. Several labels: the same for each label's yes and no, averaged. Without labels: half
    of the squared difference of the divided outputs, which the former tends to for high temperatures (Hinton et al. 2015, "Distilling the
    Knowledge in a Neural Network", section 2.1).
    """
    if not task.labels:
        return torch.square((outputs - wanted) / TEMPERATURE).mean(1) / 2
    if task.head.problem_type == "multi_label_classification":
        soft = torch.sigmoid(wanted / TEMPERATURE)
        terms = F.binary_cross_entropy_with_logits(outputs / TEMPERATURE, soft, reduction="none")
        least = F.binary_cross_entropy_with_logits(wanted / TEMPERATURE, soft, reduction="none")
        return (terms - least).mean(1)
    log_soft = F.log_softmax(wanted / TEMPERATURE, 1)
    return F.kl_div(F.log_softmax(outputs / TEMPERATURE, 1), log_soft, reduction="none", log_target=True).sum(1)
