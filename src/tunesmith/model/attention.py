"""Attention over packed sequences for any device and precision: by groups of sequences of like length, each by plain matrix products.

S sequences, T tokens, H width, N heads, D width of a head (H = N D), L padded length of a group, G sequences of a group, B = G N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.model.devices import to_device

_WASTE = 1.3  # a group is cut where its longest sequence is so many times as long as its shortest
_SMALL = 8_192  # cells of scores below which a further group costs more than the padding that it saves
_LARGE = 32_768  # cells of scores, of each head, above which they leave the cache between the steps; a sequence longer than 181 is a group


@dataclass(frozen=True)
class Group:
    """Sequences that are computed together, padded to the longest of them.

    count, length: G and L
    sequences: int64[G], their numbers in the batch
    rows: the G L tokens at its places, a slice where there is one sequence; a padded place holds the last token of its sequence
    tokens, places: the tokens, int64[sum of lengths], and where they stand among the G L places; None: at all places
    inside: bool[G, L], True at tokens; None without padding
    """

    count: int
    length: int
    sequences: Tensor
    rows: slice | Tensor
    tokens: slice | Tensor
    places: Tensor | None
    inside: Tensor | None

    def take(self, values: Tensor, parts: int, heads: int) -> Tensor:
        """Return float[parts, B, L, D] of packed values float[T, parts H]; padded places repeat a token."""
        found = values[self.rows] if isinstance(self.rows, slice) else values.index_select(0, self.rows)
        return found.view(self.count, self.length, parts, heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)

    def put(self, into: Tensor, values: list[Tensor]) -> None:
        """Write values, float[B, L, D] each, side by side into their tokens' rows of `into`, float[T, parts H]."""
        parts, size = len(values), values[0].shape[-1]
        if isinstance(self.tokens, slice):
            views = into[self.tokens].view(self.length, parts, -1, size)
            for part, given in enumerate(values):
                views[:, part].copy_(given.transpose(0, 1))
            return
        given = torch.stack(values).view(parts, self.count, -1, self.length, size).permute(1, 3, 0, 2, 4)
        rows = given.reshape(self.count * self.length, -1)
        into.index_copy_(0, self.tokens, rows if self.places is None else rows.index_select(0, self.places))

    def shut(self, scores: Tensor) -> None:
        """Take the padded keys out of scores float[B, L or 1, L], in place."""
        if self.inside is not None:
            of_each = scores.view(self.count, -1, scores.shape[1], self.length)
            of_each.masked_fill_(~self.inside[:, None, None, :], torch.finfo(scores.dtype).min)


def plan(cu_seqlens: np.ndarray, device: torch.device) -> list[Group]:
    """Group the sequences that begin at `cu_seqlens`, int32[S+1], by length, for tensors on `device`; each is in one group."""
    starts, lengths = cu_seqlens[:-1].astype(np.int64), np.diff(cu_seqlens).astype(np.int64)
    order = np.argsort(lengths, kind="stable")
    cuts, first = [], 0
    for i in range(1, len(order)):
        longest, shortest, cells = int(lengths[order[i]]), int(lengths[order[first]]), (i - first) * int(lengths[order[i]]) ** 2
        if cells + longest * longest > _LARGE or (longest > _WASTE * shortest and cells > _SMALL):
            cuts.append(i)
            first = i
    return [_group(chosen, starts[chosen], lengths[chosen], device) for chosen in np.split(order, cuts)]


def _group(chosen: np.ndarray, starts: np.ndarray, lengths: np.ndarray, device: torch.device) -> Group:
    sequences = to_device(chosen, device)
    if len(starts) == 1:
        rows = slice(int(starts[0]), int(starts[0] + lengths[0]))
        return Group(1, int(lengths[0]), sequences, rows, rows, None, None)
    width = int(lengths.max())
    places = np.arange(width)[None, :]
    rows = (starts[:, None] + np.minimum(places, lengths[:, None] - 1)).ravel()
    index = to_device(rows, device)
    inside = places < lengths[:, None]
    if inside.all():
        return Group(len(starts), width, sequences, index, index, None, None)
    at = np.flatnonzero(inside.ravel())
    return Group(len(starts), width, sequences, index, to_device(rows[at], device), to_device(at, device), to_device(inside, device))


class Attention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(D) + bias) V of each sequence: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.

    Written out, as the products need neither copies nor padding for a sequence alone, and what is between them stays in the cache.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, groups: list[Group], kept: Tensor | None, only_first: bool, *biases: Tensor) -> Tensor:
        """Return float[T, H], the heads side by side, of queries, keys and values float[T, 3H]; 0 for a token of no group.

        only_first: only what the first token of each sequence asks for, float[S, H]

        kept: float[T, N], a factor of each value vector: 0 drops a key for all queries of a head (Zehui et al. 2019, "DropAttention",
        section 3.2, columns); biases: float[1 or G, N or 1, L, L] for each group, or none
        """
        width = qkv.shape[1] // 3
        found = qkv.new_zeros(sum(group.count for group in groups) if only_first else len(qkv), width)
        scale = 1 / math.sqrt(width // heads)
        ctx.weights = []
        for at, group in enumerate(groups):
            query, key, value = group.take(qkv, 3, heads).unbind(0)
            asking = query[:, :1] if only_first else query
            scores = torch.bmm(asking * scale, key.transpose(1, 2))
            if biases:
                scores.view(group.count, -1, *scores.shape[1:]).add_(biases[at][:, :, : scores.shape[1]])
            group.shut(scores)
            weights = torch.softmax(scores, -1)
            if kept is not None:
                value = value * group.take(kept, 1, heads)[0]
            if only_first:
                found[group.sequences] = torch.bmm(weights, value).view(group.count, width)
            else:
                group.put(found, [torch.bmm(weights, value)])
            if qkv.requires_grad:
                ctx.weights.append(weights)
        ctx.save_for_backward(qkv, kept, *biases)
        ctx.heads, ctx.groups, ctx.scale, ctx.only_first = heads, groups, scale, only_first
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        qkv, kept, *biases = ctx.saved_tensors
        found = torch.zeros_like(qkv)
        of_biases: list[Tensor | None] = []
        for at, group in enumerate(ctx.groups):
            query, key, value = group.take(qkv, 3, ctx.heads).unbind(0)
            weights = ctx.weights[at]
            asking = query[:, :1] if ctx.only_first else query
            if ctx.only_first:
                gradient = gradients[0][group.sequences].view(-1, 1, query.shape[2])
            else:
                gradient = group.take(gradients[0].contiguous(), 1, ctx.heads)[0]
            if group.inside is not None and not ctx.only_first:  # a padded place repeats a token, whose gradient must count once
                gradient = gradient.view(group.count, -1, group.length, gradient.shape[-1]) * group.inside[:, None, :, None]
                gradient = gradient.flatten(0, 1)
            of_value = torch.bmm(weights.transpose(1, 2), gradient)
            if kept is not None:
                factor = group.take(kept, 1, ctx.heads)[0]
                value, of_value = value * factor, of_value * factor
            of_weights = torch.bmm(gradient, value.transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_query = torch.bmm(of_scores, key).mul_(ctx.scale)
            if ctx.only_first:
                of_query = F.pad(of_query, (0, 0, 0, group.length - 1))
            of_key = torch.bmm(of_scores.transpose(1, 2), asking).mul_(ctx.scale)
            group.put(found, [of_query, of_key, of_value])
            if biases:
                of_all = of_scores.view(group.count, -1, *of_scores.shape[1:])
                if ctx.only_first:
                    of_all = F.pad(of_all, (0, 0, 0, group.length - 1))
                of_biases.append(of_all.sum_to_size(biases[at].shape) if biases[at].requires_grad else None)
        ctx.weights = []
        return found, None, None, None, None, *(of_biases or biases)
