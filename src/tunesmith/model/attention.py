"""Attention over packed sequences on the processor: groups of sequences of like length, each by plain matrix products.

S sequences, T tokens, H width, N heads, D width of a head (H = N D), L padded length of a group, G sequences of a group.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WASTE = 1.3  # a group is cut where its longest sequence is so many times as long as its shortest
_SMALL = 512  # cells of scores below which a further group costs more than the padding that it saves

Bias = Callable[["Group"], Tensor | None]
"""Gives what is added to the scores of a group, float[1 or G, N, L, L], or None."""


@dataclass(frozen=True)
class Group:
    """Sequences that are computed together, padded to the longest of them.

    index: int64[G, L], the token at each place; padded places hold one of the sequence's own, which is masked
    lengths: int64[G]; padded: whether any place is
    """

    index: Tensor
    lengths: Tensor
    padded: bool

    @functools.cached_property
    def mask(self) -> Tensor:
        """bool[G, 1, 1, L], True at tokens."""
        return (torch.arange(self.index.shape[1])[None, :] < self.lengths[:, None])[:, None, None, :]


@dataclass(frozen=True)
class Plan:
    """How the sequences of a batch are grouped.

    groups: together they hold each sequence once; inverse: int64[T], the place of each token among the padded places of all groups
    straight: there is one group without padding, in the order of the stream, so that nothing needs to be moved
    """

    groups: list[Group]
    inverse: Tensor
    straight: bool
    cached: dict[str, Any] = field(default_factory=dict)


def plan(cu_seqlens: np.ndarray) -> Plan:
    """Group the sequences that begin at `cu_seqlens`, int32[S+1], by length."""
    starts, lengths = cu_seqlens[:-1].astype(np.int64), np.diff(cu_seqlens).astype(np.int64)
    order = np.argsort(lengths, kind="stable")
    cuts, first = [], 0
    for i in range(1, len(order)):
        longest, shortest = int(lengths[order[i]]), int(lengths[order[first]])
        if longest > _WASTE * shortest and (i - first) * longest * longest > _SMALL * 16:
            cuts.append(i)
            first = i
    groups, inverse, base = [], np.empty(int(cu_seqlens[-1]), np.int64), 0
    for chosen in np.split(order, cuts):
        chosen = np.sort(chosen)
        width = int(lengths[chosen].max())
        places = np.arange(width)[None, :]
        index = starts[chosen, None] + np.minimum(places, lengths[chosen, None] - 1)
        inside = places < lengths[chosen, None]
        inverse[index[inside]] = base + np.flatnonzero(inside.ravel())
        base += index.size
        groups.append(Group(torch.from_numpy(index), torch.from_numpy(lengths[chosen]), bool((~inside).any())))
    straight = len(groups) == 1 and not groups[0].padded
    return Plan(groups, torch.from_numpy(inverse), straight)


class _Pad(torch.autograd.Function):
    """float[T, X] -> float[P, X], rows `index`; each of the T rows stands at `inverse` once, and other places get no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """float[P, X] -> float[T, X], the rows `inverse`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.places = len(rows)
        return rows.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        padded = gradient.new_zeros(ctx.places, gradient.shape[1])
        return padded.index_copy_(0, ctx.saved_tensors[0], gradient), None


def attend(
    qkv: Tensor, heads: int, grouping: Plan, *, drop: Callable[[Tensor], Tensor], bias: Bias | None = None, rotate: Any = None
) -> Tensor:
    """Return float[T, H], the heads' outputs side by side, of queries, keys and values float[T, 3H].

    drop: applied to the attention weights (Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1)
    rotate: applied to queries and keys float[G, N, L, D] of a group, as rotary positions want it
    """
    width = qkv.shape[1] // 3
    if grouping.straight:
        padded = qkv
    else:
        flat = grouping.cached.get("flat")
        if flat is None:
            flat = grouping.cached["flat"] = torch.cat([group.index.reshape(-1) for group in grouping.groups])
        padded = _Pad.apply(qkv, flat, grouping.inverse)
    outputs, first = [], 0
    for group in grouping.groups:
        count, length = group.index.shape
        part = padded[first : first + count * length]
        first += count * length
        outputs.append(_group(part.view(count, length, 3, heads, width // heads), group, drop, bias, rotate).view(count * length, width))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined if grouping.straight else _Unpad.apply(joined, grouping.inverse)


def _group(qkv: Tensor, group: Group, drop: Callable[[Tensor], Tensor], bias: Bias | None, rotate: Any) -> Tensor:
    """qkv: float[G, L, 3, N, D] -> float[G, L, N, D]"""
    count, length, _, heads, size = qkv.shape
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # float[G, N, L, D] each
    if rotate is not None:
        query, key = rotate(query, key, group)
    query = (query * (1 / math.sqrt(size))).reshape(count * heads, length, size)
    scores = torch.bmm(query, key.reshape(count * heads, length, size).transpose(1, 2)).view(count, heads, length, length)
    added = bias(group) if bias is not None else None
    if added is not None:
        scores = scores + added
    if group.padded:
        scores = scores.masked_fill(~group.mask, torch.finfo(scores.dtype).min)
    weights = drop(torch.softmax(scores, -1)).view(count * heads, length, length)
    found = torch.bmm(weights, value.reshape(count * heads, length, size))
    return found.view(count, heads, length, size).transpose(1, 2).contiguous()
