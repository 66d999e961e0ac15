"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch
from tunesmith.model.heads import TextModel
from tunesmith.training.rows import RowwiseAdamW

BY_ROWS = "updated by the rows that a step used"


def build_optimizer(model: TextModel, config: Config, share: Callable[[str], float] = lambda name: 1.0) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the parameters of `model` that require gradients.

    share: of the learning rate, for the parameter of a name

    On the processor AdamW updates the table of words by rows, and so has it give its gradient by rows, where nothing else reads that
    parameter.

    Vectors (biases, norms' gains) get no weight decay, matrices `config.weight_decay`.
    AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2, with bias correction
    (Mosbach et al. 2021, "On the Stability of Fine-tuning BERT", section 5: without it small data sets often fail to train).
    """
    parts: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts.setdefault((share(name), parameter.ndim >= 2), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": params, "weight_decay": config.weight_decay if matrices else 0.0, "share": share}
        for (share, matrices), params in parts.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum)
    settings: dict[str, Any] = {"lr": config.peak_lr, "betas": (0.9, 0.999), "eps": 1e-8}
    if update_of_table(model, config) != BY_ROWS:
        return torch.optim.AdamW(groups, fused=True, **settings)
    words = model.encoder.words
    assert words is not None
    words.sparse = True
    return RowwiseAdamW(groups, words.weight, **settings)


def update_of_table(model: TextModel, config: Config) -> str:
    """Return in words how the table of words is updated, and why it is not by rows."""
    words = model.encoder.words
    if words is None:
        return "updated whole, as another module shares its weights or it is no plain table"
    if not words.weight.requires_grad:
        return "not updated"
    if config.optimizer == "sgd":
        return "updated whole, as sgd has it"
    if words.weight.device.type != "cpu":
        return "updated whole, which a GPU does as fast"
    return BY_ROWS


def bring_up(optimizer: torch.optim.Optimizer, batches: Iterable[PackedBatch]) -> None:
    """Make the words of `batches` current in the table, which the optimizer updates by rows; see `RowwiseAdamW`."""
    if isinstance(optimizer, RowwiseAdamW):
        optimizer.bring_up(np.concatenate([batch.ids for batch in batches]))


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Make all parameters current, before they are read for something else than a step."""
    if isinstance(optimizer, RowwiseAdamW):
        optimizer.settle()


def lr_at(step: int, total: int, config: Config) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0 of `total`; a pure function.

    It rises linearly over `config.warmup` of all steps, then stays (constant), falls to 0 in a line (linear) or as half a
    cosine wave (cosine).
    """
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return config.peak_lr * (step + 1) / warm
    gone = (step - warm) / max(total - warm, 1)
    factor = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}[config.schedule]
    return config.peak_lr * factor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]


def clip(optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Have the step of `optimizer` take the gradients scaled to a joint norm of at most `max_norm` (0: as they are); return their norm."""
    gradients = []
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    norm = nn.utils.get_total_norm(gradients)
    divisor = (norm + 1e-6) / max_norm if 0 < max_norm < norm else None
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]  # the fused step divides by it as it reads
    elif divisor is not None:
        torch._foreach_div_(gradients, divisor)
    return float(norm)
