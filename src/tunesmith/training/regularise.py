"""Noise that makes training harder on purpose: adversarial embeddings, and several dropout masks before the last layer.

S sequences, T tokens, H width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.batches import PackedBatch
from tunesmith.errors import UsageError, setting
from tunesmith.model.devices import indices
from tunesmith.model.heads import TextModel, last_layer

_RATES = ("hidden_dropout_prob", "dropout", "resid_pdrop", "hidden_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout")


class AdversarialNoise:
    """Noise of length `size` on the word embeddings of each sequence, in the direction in which the loss grows fastest.

    r = size * g / |g|, with g float[n, H] the gradient of the loss by the embeddings of a sequence's n tokens: Miyato et al. 2017,
    "Adversarial Training Methods for Semi-Supervised Text Classification", equation 6. It is added to what the table of words gives,
    so that no weight is touched, and a table that is not trained, or that another module shares, is no exception.
    """

    def __init__(self, model: TextModel, size: float) -> None:
        self._encoder = model.encoder
        self._words: nn.Module = model.encoder.hf.get_input_embeddings()
        self._size = size
        self._seen: dict[Hashable, tuple[Tensor, PackedBatch]] = {}
        self._now: tuple[Hashable, PackedBatch] | None = None

    @contextlib.contextmanager
    def at(self, key: Hashable, batch: PackedBatch) -> Iterator[None]:
        """Within the block the encoder runs on `batch`; key: by which the same run is known again."""
        self._now = key, batch
        try:
            yield
        finally:
            self._now = None

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Within the block gradients are noted, with which `added` makes the noise."""

        def keep(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor | None:
            if self._now is None or not torch.is_grad_enabled():
                return None
            if not embedded.requires_grad:
                embedded.requires_grad_()
            embedded.retain_grad()
            self._seen[self._now[0]] = embedded, self._now[1]
            return None

        self._seen.clear()
        with _hook(self._words, keep):
            yield

    @contextlib.contextmanager
    def added(self) -> Iterator[None]:
        """Within the block the embeddings have the noise."""
        noise = {key: self._noise(embedded.grad, batch) for key, (embedded, batch) in self._seen.items() if embedded.grad is not None}
        self._seen.clear()

        def add(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor | None:
            return embedded + noise[self._now[0]] if self._now is not None and self._now[0] in noise else None

        with _hook(self._words, add):
            yield

    def _noise(self, gradient: Tensor, batch: PackedBatch) -> Tensor:
        """gradient: float[T, H] of packed tokens, virtual ones among them, or float[S, n, H] of padded ones"""
        tiny = torch.finfo(gradient.dtype).tiny
        # divided by the largest first, as squares of small numbers are 0
        if gradient.ndim == 3:
            gradient = gradient / gradient.abs().amax((1, 2), keepdim=True).clamp_min(tiny)
            norm = gradient.square().sum((1, 2), keepdim=True).sqrt()
        else:
            virtual = self._encoder.virtual
            lengths = indices(batch.lengths, gradient.device) + (0 if virtual is None else len(virtual.ids))
            largest = torch.segment_reduce(gradient.abs().amax(1), "max", lengths=lengths)
            gradient = gradient / largest.clamp_min(tiny).repeat_interleave(lengths)[:, None]
            squares = torch.segment_reduce(gradient.square().sum(1), "sum", lengths=lengths)
            norm = squares.sqrt().repeat_interleave(lengths)[:, None]
        return self._size * gradient / norm.clamp_min(tiny)


@contextlib.contextmanager
def masks_before_the_last_layer(model: TextModel) -> Iterator[None]:
    """Within the block a head without dropout of its own drops what its last layer reads, at the rate of the encoder."""
    rate = _encoder_rate(model)
    if _drops_in_the_head(model) or rate == 0:
        yield
        return

    def drop(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(inputs[0], rate), *inputs[1:])

    handle = last_layer(model).register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def refuse_without_dropout(model: TextModel, config: Config) -> None:
    """Raise `UsageError` for a setting that compares dropout masks where `model`, in the mode of training, drops nothing."""
    somewhere = any(isinstance(module, nn.Dropout) and module.p > 0 and module.training for module in model.modules())
    # ModernBERT has no module for it
    somewhere = somewhere or (model.encoder.base.training and bool(getattr(model.encoder.config, "attention_dropout", 0)))
    in_the_head = _drops_in_the_head(model) or _encoder_rate(model) > 0
    for name, used, drops in (
        ("r_drop", config.r_drop > 0, somewhere),
        ("multi_sample_dropout", config.multi_sample_dropout > 1, in_the_head),
    ):
        if used and not drops:
            raise UsageError(
                f"{setting(name)} sets dropout masks against each other, and what is trained of this model has no dropout. "
                f"Give it some with {setting('dropout', 0.1)}, or leave {setting(name)} out."
            )


def _drops_in_the_head(model: TextModel) -> bool:
    body = set(model.encoder.base.modules())
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules() if module not in body)


def _encoder_rate(model: TextModel) -> float:
    rates = [getattr(model.encoder.config, name, None) for name in _RATES]
    return next((float(rate) for rate in rates if isinstance(rate, int | float) and rate > 0), 0.0)


@contextlib.contextmanager
def _hook(module: nn.Module, function: Any) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()
