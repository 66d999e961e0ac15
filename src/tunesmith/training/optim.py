"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the parameters of `model` that require gradients.

    Vectors (biases, norms' gains) get no weight decay, matrices `config.weight_decay`.
    AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2, with bias correction
    (Mosbach et al. 2021, "On the Stability of Fine-tuning BERT", section 5: without it small data sets often fail to train).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def lr_at(step: int, total: int, config: Config) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0 of `total`; a pure function.

    It rises linearly over `config.warmup` of all steps, then stays (constant), falls to 0 in a line (linear) or as half a
    cosine wave (cosine).
    """
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return config.lr * (step + 1) / warm
    gone = (step - warm) / max(total - warm, 1)
    factor = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}[config.schedule]
    return config.lr * factor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a joint norm of at most `max_norm` (0: not at all) and return the norm that they had."""
    limit = max_norm if max_norm > 0 else math.inf
    return float(nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], limit))
