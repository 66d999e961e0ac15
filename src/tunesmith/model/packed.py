"""A faster forward for the BERT family, over the very modules that transformers built: no padding, few casts, cheap dropout.

The parameters stay those of the transformers model. What is faster is the road: linear layers, norms and activations run on the packed
tokens [T, H]; queries, keys and values come from one matrix product; attention runs by groups of sequences of like length.

T tokens, H width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.data.batches import PackedBatch
from tunesmith.model import varlen
from tunesmith.model.attention import LONG, Attention, Group, Long, plan
from tunesmith.model.casting import Copies
from tunesmith.model.chance import Certainty, Chance, chance
from tunesmith.model.devices import indices

Product = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor, Tensor | None, bool], Tensor]
"""float[T, 3H] queries, keys and values, float[T, N] factors of the values or None, whether only first tokens ask -> float[T or S, H]"""

_ROWS = 32
"""Idle rows fill the tokens up to a multiple: oneDNN keeps a kernel for every size of a product, half a megabyte each."""


_ALL = slice(None)


@dataclass(frozen=True)
class Layer:
    """The modules of a layer of the kind that BERT has: the norm stands behind the residual sum."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    attention_norm: nn.Module
    up: nn.Module
    activation: Callable[[Tensor], Tensor]
    down: nn.Module
    norm: nn.Module
    attention_rate: float
    rate: float


def _bert_layer(layer: Any) -> Layer:
    attention = layer.attention
    return Layer(
        attention.self.query, attention.self.key, attention.self.value, attention.output.dense, attention.output.LayerNorm,
        layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense, layer.output.LayerNorm,
        attention.self.dropout.p, layer.output.dropout.p,
    )  # fmt: skip


def _mpnet_layer(layer: Any) -> Layer:
    attention = layer.attention
    return Layer(
        attention.attn.q, attention.attn.k, attention.attn.v, attention.attn.o, attention.LayerNorm,
        layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense, layer.output.LayerNorm,
        attention.attn.dropout.p, layer.output.dropout.p,
    )  # fmt: skip


def _distilbert_layer(layer: Any) -> Layer:
    attention, ffn = layer.attention, layer.ffn
    return Layer(
        attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, layer.sa_layer_norm,
        ffn.lin1, ffn.activation, ffn.lin2, layer.output_layer_norm, attention.dropout.p, ffn.dropout.p,
    )  # fmt: skip


LAYERS: dict[str, Callable[[Any], Layer]] = {
    "bert": _bert_layer,
    "roberta": _bert_layer,
    "xlm-roberta": _bert_layer,
    "camembert": _bert_layer,
    "electra": _bert_layer,
    "mpnet": _mpnet_layer,
    "distilbert": _distilbert_layer,
}
_FIRST_POSITION_BEHIND_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}


class Packed:
    """The fast forward of one encoder. `Packed.of` makes it where the architecture is known."""

    def __init__(self, base: Any, layers: list[Layer]) -> None:
        self._base, self._layers = base, layers
        self._heads = int(base.config.num_attention_heads)
        self._kept: dict[int, tuple[Any, tuple[Tensor, ...]]] = {}

    @classmethod
    def of(cls, base: Any) -> Packed | None:
        """Return the fast forward of a transformers encoder, None for an architecture or configuration that it does not know."""
        config = base.config
        kind = LAYERS.get(config.model_type)
        if kind is None or getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            return None
        try:
            modules = base.transformer.layer if config.model_type == "distilbert" else base.encoder.layer
            return cls(base, [kind(layer) for layer in modules])
        except AttributeError:  # modules of other names than today's
            return None

    def __call__(
        self,
        batch: PackedBatch,
        segments: Tensor | None,
        only_first: bool = False,
        *,
        start: Tensor | None = None,
        layers: slice = _ALL,
        again: bool = False,
    ) -> Tensor:
        """Return hidden states float32[T, H]; float32[S, H] with `only_first`, those of the first token of each sequence.

        Matrix products and activations run in the precision of the surrounding autocast; residual sums and norms in float32.
        segments: int64[T], the segment of each token; None where all are 0
        start: float32[T, H], what goes into the first of `layers`; None: the embeddings
        layers: those that run
        again: a layer's inner values are not kept, and computed again in the backward pass
        """
        run = self._layers[layers]
        device = self._device
        drop = chance(any(layer.out.training for layer in run) or (start is None and self._base.embeddings.training), device)
        bf16 = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if bf16 else torch.float32
        with torch.autocast(device.type, enabled=False):
            hidden = self._embed(batch, segments, drop) if start is None else start
            attend = self._attention(batch, device, dtype)
            first = indices(batch.cu_seqlens[:-1], device) if only_first else None
            tokens = len(hidden)
            hidden = F.pad(hidden, (0, 0, 0, -tokens % _ROWS)) if device.type == "cpu" else hidden
            for layer in run:
                only = first if layer is self._layers[-1] else None
                step = functools.partial(self._layer, layer, self._products(dtype, layer), dtype, attend, drop, only)
                hidden = _computed_again(step, drop, hidden) if again else step(hidden)
        return hidden if only_first else hidden[:tokens]

    def _embed(self, batch: PackedBatch, segments: Tensor | None, drop: Chance | Certainty) -> Tensor:
        parts, config = self._base.embeddings, self._base.config
        ids = indices(batch.ids, self._device)
        lengths = np.diff(batch.cu_seqlens)
        places = np.arange(len(batch.ids)) - np.repeat(batch.cu_seqlens[:-1], lengths)
        if config.model_type in _FIRST_POSITION_BEHIND_PADDING:
            places = self._behind_padding(batch.ids, places, batch.cu_seqlens, parts.padding_idx)
        hidden = parts.word_embeddings(ids)
        kinds = getattr(parts, "token_type_embeddings", None)
        if kinds is not None:
            hidden = hidden + (kinds.weight[0] if segments is None else kinds(segments))
        hidden = hidden + parts.position_embeddings(indices(places, ids.device))
        hidden = _while_training(drop, parts).drop(parts.LayerNorm(hidden), parts.dropout.p)
        project = getattr(self._base, "embeddings_project", None)  # ELECTRA
        return hidden if project is None else project(hidden)

    @staticmethod
    def _behind_padding(ids: np.ndarray, places: np.ndarray, cu_seqlens: np.ndarray, padding: int) -> np.ndarray:
        """Positions as RoBERTa counts them: from behind the padding index; a padding token in the text is not counted."""
        if not (ids == padding).any():
            return places + padding + 1
        counted = ids != padding
        total = np.cumsum(counted)
        before = np.repeat(np.concatenate([[0], total])[cu_seqlens[:-1]], np.diff(cu_seqlens))
        return np.where(counted, total - before + padding, padding)

    @property
    def _device(self) -> torch.device:
        return next(self._base.parameters()).device

    def attention(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return in words which attention runs on `device` in `dtype`."""
        return "torch's kernel for sequences of any lengths" if self._has_kernel(device, dtype) else "sequences of like length"

    @property
    def learns_distances(self) -> bool:
        """Whether a learned number for the distance of each pair of tokens is added to their score, as MPNet does."""
        return hasattr(getattr(self._base, "encoder", None), "relative_attention_bias")

    def _has_kernel(self, device: torch.device, dtype: torch.dtype) -> bool:
        return not self.learns_distances and varlen.runs_on(device, dtype, int(self._base.config.hidden_size) // self._heads)

    def _attention(self, batch: PackedBatch, device: torch.device, dtype: torch.dtype) -> Attend:
        """Return the attention over the sequences of `batch`."""
        if self._has_kernel(device, dtype):
            return functools.partial(varlen.attend, heads=self._heads, sequences=varlen.Sequences.of(batch.cu_seqlens, device))
        if self.learns_distances:
            groups = plan(batch.cu_seqlens, device)
            biases = self._biases(groups, dtype)
            return lambda qkv, kept, only: Attention.apply(qkv, self._heads, groups, kept, batch.count if only else None, *biases)
        groups, long = plan(batch.cu_seqlens, device, LONG), Long(batch.cu_seqlens, device)

        def attend(qkv: Tensor, kept: Tensor | None, only_first: bool) -> Tensor:
            found = Attention.apply(qkv, self._heads, groups, kept, batch.count if only_first else None)
            return long.put(found, qkv, self._heads, kept, only_first)

        return attend

    def _biases(self, groups: list[Group], dtype: torch.dtype) -> list[Tensor]:
        """MPNet adds a learned bias for the distance of each pair of tokens (Raffel et al. 2020, T5, section 2.1), one for all layers."""
        encoder = getattr(self._base, "encoder", None)
        table = getattr(encoder, "relative_attention_bias", None)
        if encoder is None or table is None:
            return []

        @functools.cache
        def of_length(length: int) -> Tensor:
            places = torch.arange(length, device=self._device)
            buckets = encoder.relative_position_bucket(places[None, :] - places[:, None], num_buckets=32)
            return table(buckets).permute(2, 0, 1)[None].to(dtype)

        return [of_length(group.length) for group in groups]

    def products_apart(self) -> tuple[int, int]:
        """Return how many matrix products the layers have, and how many of them modules do by themselves that are no linear layers."""
        of_each = [part for layer in self._layers for part in _parts(layer)]
        return len(of_each), sum(not all(type(module) is nn.Linear for module in part) for part in of_each)

    def _products(self, dtype: torch.dtype, layer: Layer) -> list[Product]:
        """Return the matrix products of `layer`: of queries, keys and values at once, of the output, and the two behind it."""
        modules = _parts(layer)
        copied = [
            all(type(module) is nn.Linear and module.bias is not None for module in of_one)
            and (len(of_one) > 1 or of_one[0].weight.dtype != dtype)
            for of_one in modules
        ]
        chosen = [of_one for of_one, wanted in zip(modules, copied, strict=True) if wanted]
        copies = iter(self._copies(dtype, layer, chosen))
        found: list[Product] = []
        for of_one, wanted in zip(modules, copied, strict=True):
            if wanted:
                found.append(functools.partial(F.linear, weight=next(copies), bias=next(copies)))
            elif type(of_one[0]) is nn.Linear and len(of_one) == 1 and of_one[0].weight.dtype == dtype:
                found.append(of_one[0])
            else:
                found.append(functools.partial(_by_modules, of_one))
        return found

    def _copies(self, dtype: torch.dtype, layer: Layer, chosen: list[list[Any]]) -> tuple[Tensor, ...]:
        """Return weight and bias of each of `chosen`, stacked; those of the call before while none of them is trained."""
        parameters = [getattr(module, name) for of_one in chosen for name in ("weight", "bias") for module in of_one]
        kept = self._kept.pop(id(layer), None)  # whatever runs next: PEFT merges into weights without their version telling
        if not parameters:
            return ()
        counts = [len(of_one) for of_one in chosen for _ in range(2)]
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            return Copies.apply(dtype, counts, *parameters)
        state = (dtype, torch.is_inference_mode_enabled(), [(id(one), one.device, one._version) for one in parameters])
        if kept is None or kept[0] != state:
            kept = state, Copies.apply(dtype, counts, *parameters)
        self._kept[id(layer)] = kept
        return kept[1]

    def _layer(
        self,
        layer: Layer,
        products: list[Product],
        dtype: torch.dtype,
        attend: Attend,
        drop: Chance | Certainty,
        first: Tensor | None,
        hidden: Tensor,
    ) -> Tensor:
        """first: int64[S], the only tokens whose states are wanted; None: all"""
        joint, out, up, down = products
        drop = _while_training(drop, layer.out)
        qkv = joint(hidden.to(dtype))
        kept = drop.factors((len(qkv), self._heads), layer.attention_rate, dtype)
        found = attend(qkv, kept, first is not None)
        if first is not None:
            hidden = hidden.index_select(0, first)
        rate = layer.rate
        hidden = _norm(layer.attention_norm, hidden + drop.drop(out(found), rate))
        inner = down(layer.activation(up(hidden.to(dtype))))
        return _norm(layer.norm, hidden + drop.drop(inner, rate))


def _computed_again(step: Callable[[Tensor], Tensor], drop: Chance | Certainty, hidden: Tensor) -> Tensor:
    """Return `step(hidden)`, of which nothing but `hidden` is kept: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"."""
    remember = drop.remembered()

    def run(values: Tensor) -> Tensor:
        remember()
        return step(values)

    found: Tensor = checkpoint(run, hidden, use_reentrant=False)
    return found


def _parts(layer: Layer) -> list[list[Any]]:
    """Return the modules of each matrix product of a layer."""
    return [[layer.query, layer.key, layer.value], [layer.out], [layer.up], [layer.down]]


def _while_training(drop: Chance | Certainty, module: nn.Module) -> Chance | Certainty:
    """Return `drop` for a module in training mode, no dropout for one that is frozen."""
    return drop if module.training else Certainty()


def _by_modules(modules: list[Any], values: Tensor) -> Tensor:
    """Apply modules that stand in the place of linear layers, as an adapter's, by themselves, and put their outputs side by side."""
    if values.dtype == torch.float32:
        return torch.cat([module(values) for module in modules], dim=1)
    with torch.autocast(values.device.type, values.dtype):
        return torch.cat([module(values).to(values.dtype) for module in modules], dim=1)


def _norm(module: Any, values: Tensor) -> Tensor:
    """Apply a layer norm."""
    return F.layer_norm(values, module.normalized_shape, module.weight, module.bias, module.eps)
