"""How far two outputs for the same input lie apart: what R-Drop makes small.

R rows of outputs, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def of_choices(one: Tensor, other: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return float[R], the mean of both Kullback-Leibler divergences of softmax over float[R, C]; 0 for two that are the same.

    counted: bool[R, C], the outputs that there is a choice of; None: all
    Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", equation 2.
    """
    if counted is not None:
        one, other = (values.masked_fill(~counted, -torch.inf) for values in (one, other))
    first, second = torch.log_softmax(one, -1), torch.log_softmax(other, -1)
    gap = first - second
    if counted is not None:
        gap = gap.masked_fill(~counted, 0.0)
    return ((first.exp() - second.exp()) * gap).sum(-1) / 2


def of_flags(one: Tensor, other: Tensor) -> Tensor:
    """Return float[R, C], the same of the two outcomes that each output is the log-odds of."""
    return (torch.sigmoid(one) - torch.sigmoid(other)) * (one - other) / 2
