"""Virtual tokens before each sequence: their vectors, or their keys and values, are trained, and the encoder is not.

They are put in here, for both engines and every architecture that takes tokens by number; PEFT holds their parameters and writes their
file. S sequences, T tokens, V virtual tokens, E size of a word's vector, H width, N layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.data.batches import PackedBatch
from tunesmith.errors import ModelError, setting
from tunesmith.model.devices import indices
from tunesmith.model.encoder import Encoder
from tunesmith.model.packed import LAYERS
from tunesmith.model.places import KEYS, VALUES, found, put


class VirtualTokens:
    """Runs an encoder on sequences with V virtual tokens before them, and gives the hidden states of the texts' own tokens.

    ids: int32[V]; leads: the first virtual token speaks for a sequence where its first token is asked for, as in PEFT
    """

    def __init__(self, ids: np.ndarray, leads: bool) -> None:
        self.ids, self.leads = ids, leads
        self.rows: Tensor | None = None
        """int64[S * V], where the virtual tokens are among the packed ones; for prefixes."""

    def run(self, encoder: Callable[[PackedBatch, Any], Tensor], batch: PackedBatch, tokens: str, device: torch.device) -> Tensor:
        """Return what `encoder` would for `batch`: float[T, H], or float[S, H] for the `first` or `last` tokens."""
        longer, own = self._before(batch, device)
        if tokens == "last" or (tokens == "first" and self.leads):
            return encoder(longer, tokens)
        hidden = encoder(longer, "all")
        return hidden[own if tokens == "all" else own[indices(batch.cu_seqlens[:-1], device)]]

    def _before(self, batch: PackedBatch, device: torch.device) -> tuple[PackedBatch, Tensor]:
        """Return `batch` with the virtual tokens, and int64[T], where its own tokens are in it."""
        count, sequences = len(self.ids), len(batch.lengths)
        ends = batch.cu_seqlens + count * np.arange(sequences + 1, dtype=batch.cu_seqlens.dtype)
        own = np.arange(len(batch.ids)) + count * np.repeat(np.arange(1, sequences + 1), batch.lengths)
        virtual = (ends[:-1, None] + np.arange(count)).reshape(-1)
        ids = np.empty(int(ends[-1]), batch.ids.dtype)
        ids[own], ids[virtual] = batch.ids, np.tile(self.ids, sequences)
        self.rows = indices(virtual, device)
        borders = None if batch.borders is None else batch.borders + count
        return replace(batch, ids=ids, cu_seqlens=ends, borders=borders), indices(own, device)


class Learned:
    """Gives what is learned for the virtual tokens, float[V, ...]; no module itself, so that those who call it do not hold its parameters.

    module: PEFT's; computed: a network makes the vectors from its own, as while p-tuning is trained; shape: of the result
    """

    def __init__(self, module: Any, shape: tuple[int, ...], computed: bool) -> None:
        self.module, self.shape, self.computed = module, shape, computed

    def __call__(self) -> Tensor:
        weight: Tensor = self.module.embedding.weight
        found = self.module(torch.arange(self.shape[0], device=weight.device)[None])[0] if self.computed else weight
        return found.view(self.shape)


class Words(nn.Module):
    """A table of words with virtual ones behind its end."""

    def __init__(self, words: nn.Module, vectors: Learned, size: int) -> None:
        super().__init__()
        self.words, self.size, self.vectors = words, size, vectors

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64[...] -> float[..., E]"""
        virtual = ids >= self.size
        places = (ids - self.size).clamp(min=0)
        return torch.where(virtual[..., None], self.vectors()[places], self.words(ids.masked_fill(virtual, 0)))


class Prefixed(nn.Module):
    """The product that gives a layer's keys, or its values, with those of the virtual tokens in their places."""

    def __init__(self, linear: nn.Module, tokens: VirtualTokens, of_layers: Learned, place: int) -> None:
        super().__init__()
        self.linear, self.tokens, self.of_layers, self.place = linear, tokens, of_layers, place

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: float[T, H] packed, float[S, L, H] padded -> of the same shape"""
        found: Tensor = self.linear(hidden)
        own = self.of_layers()[:, self.place].to(found.dtype)
        if found.ndim == 3:
            return torch.cat([own.expand(len(found), *own.shape), found[:, len(own) :]], 1)
        rows = self.tokens.rows
        assert rows is not None
        return found.index_copy(0, rows, own.repeat(len(rows) // len(own), 1))


def put_before(encoder: Encoder, learned: nn.Module, *, count: int, computed: bool) -> None:
    """Put `count` virtual tokens before each sequence (Lester et al. 2021; Liu et al. 2021, P-tuning, section 3).

    learned: PEFT's module with their vectors; computed: a network makes these from its own, as while p-tuning is trained
    """
    words, size = encoder.hf.get_input_embeddings(), int(encoder.config.vocab_size)
    vectors = Learned(learned, (count, words.weight.shape[1]), computed)
    encoder.learned = learned
    encoder.virtual = VirtualTokens(np.arange(size, size + count, dtype=np.int32), leads=True)
    encoder.hf.set_input_embeddings(Words(words, vectors, size))
    encoder.changed()


def put_prefix(encoder: Encoder, learned: nn.Module, *, count: int, computed: bool, way: str) -> None:
    """Put the keys and values of `count` virtual tokens into every layer (Li and Liang 2021, section 4).

    Raises `ModelError` for an architecture whose layers do not have products of their own for keys and for values.
    """
    keys, values = found(encoder.base, KEYS), found(encoder.base, VALUES)
    kind = encoder.config.model_type
    if kind not in LAYERS or not len(keys) == len(values) == encoder.layers:
        raise ModelError(
            f"{setting('tuning', way)} cannot be used on a model of type {kind!r}: it puts keys and values into each layer, which is known "
            f"for {', '.join(sorted(LAYERS))}. Take {setting('tuning', 'prompt')} or {setting('tuning', 'lora')}."
        )
    encoder.learned = learned
    # what the encoder makes of a virtual token is never read: its keys and values are replaced, its output left out
    encoder.virtual = VirtualTokens(np.full(count, encoder.probe_tokens(1)[0], np.int32), leads=False)
    of_layers = Learned(learned, (count, 2 * encoder.layers, encoder.width), computed)
    for layer, names in enumerate(zip(keys, values, strict=True)):
        for half, name in enumerate(names):
            linear = encoder.base.get_submodule(name)
            put(encoder.base, name, Prefixed(linear, encoder.virtual, of_layers, 2 * layer + half))
    encoder.changed()
