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
LONG = 1_024  # tokens; weights of 12 heads over more than these take tens of MB a layer
_LARGE = 32_768  # cells of scores, of each head, above which they leave the cache between the steps; a sequence longer than 181 is a group
_LARGE_ON_GPU = 2**20  # where the cache counts less than the number of calls


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


def plan(cu_seqlens: np.ndarray, device: torch.device, longest: int | None = None) -> list[Group]:
    """Group the sequences that begin at `cu_seqlens`, int32[S+1], by length, for tensors on `device`.

    Each is in one group, but for those of more than `longest` tokens, which are in none.
    """
    starts, lengths = cu_seqlens[:-1].astype(np.int64), np.diff(cu_seqlens).astype(np.int64)
    order = np.argsort(lengths, kind="stable")
    order = order if longest is None else order[lengths[order] <= longest]
    if not len(order):
        return []
    large = _LARGE if device.type == "cpu" else _LARGE_ON_GPU
    cuts, first = [], 0
    for i in range(1, len(order)):
        width, shortest, cells = int(lengths[order[i]]), int(lengths[order[first]]), (i - first) * int(lengths[order[i]]) ** 2
        if cells + width * width > large or (width > _WASTE * shortest and cells > _SMALL):
            cuts.append(i)
            first = i
    return [_group(chosen, starts[chosen], lengths[chosen], device) for chosen in np.split(order, cuts)]


class Long:
    """The sequences of more than LONG tokens: of these no weights [L, L] are kept, but computed again block by block.

    Dao 2024, "FlashAttention-2", as torch's `scaled_dot_product_attention` has it for processors, too.
    """

    def __init__(self, cu_seqlens: np.ndarray, device: torch.device) -> None:
        self._device = device
        lengths = np.diff(cu_seqlens)
        self._spans = [(int(i), int(cu_seqlens[i]), int(cu_seqlens[i + 1])) for i in np.flatnonzero(lengths > LONG)]

    def put(self, found: Tensor, qkv: Tensor, heads: int, kept: Tensor | None, only_first: bool) -> Tensor:
        """Return `found`, as `Attention` gives it, with the rows of these sequences."""
        for number, start, stop in self._spans:
            query, key, value = qkv[start:stop].view(stop - start, 3, heads, -1).permute(1, 2, 0, 3).unbind(0)
            if kept is not None:
                value = value * kept[start:stop].T[:, :, None]
            asking = query[:, :1] if only_first else query
            given = F.scaled_dot_product_attention(asking[None], key[None], value[None])[0]
            rows = torch.arange(number, number + 1) if only_first else torch.arange(start, stop)
            found = found.index_copy(0, rows.to(self._device), given.transpose(0, 1).flatten(1))
        return found


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
    def forward(
        ctx: Any, qkv: Tensor, heads: int, groups: list[Group], kept: Tensor | None, only_first: int | None, *biases: Tensor
    ) -> Tensor:
        """Return float[T, H], the heads side by side, of queries, keys and values float[T, 3H]; 0 for a token of no group.

        only_first: S where only what the first token of each sequence asks for is wanted, float[S, H]; else None

        kept: float[T, N], a factor of each value vector: 0 drops a key for all queries of a head (Zehui et al. 2019, "DropAttention",
        section 3.2, columns); biases: float[1 or G, N or 1, L, L] for each group, or none
        """
        width = qkv.shape[1] // 3
        found = qkv.new_zeros(len(qkv) if only_first is None else only_first, width)
        scale = 1 / math.sqrt(width // heads)
        of_each = []
        for at, group in enumerate(groups):
            query, key, value = group.take(qkv, 3, heads).unbind(0)
            asking = query if only_first is None else query[:, :1]
            scores = torch.bmm(asking * scale, key.transpose(1, 2))
            if biases:
                scores.view(group.count, -1, *scores.shape[1:]).add_(biases[at][:, :, : scores.shape[1]])
            group.shut(scores)
            weights = torch.softmax(scores, -1)
            if kept is not None:
                value = value * group.take(kept, 1, heads)[0]
            if only_first is not None:
                found[group.sequences] = torch.bmm(weights, value).view(group.count, width)
            else:
                group.put(found, [torch.bmm(weights, value)])
            if any(ctx.needs_input_grad):
                of_each.append(weights)
        ctx.save_for_backward(qkv, kept, *of_each, *biases)
        ctx.heads, ctx.groups, ctx.scale, ctx.only_first = heads, groups, scale, only_first is not None
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        qkv, kept, *others = ctx.saved_tensors
        of_each, biases = others[: len(ctx.groups)], others[len(ctx.groups) :]
        found = torch.zeros_like(qkv)
        of_biases: list[Tensor | None] = []
        for at, group in enumerate(ctx.groups):
            query, key, value = group.take(qkv, 3, ctx.heads).unbind(0)
            weights = of_each[at]
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
        return found, None, None, None, None, *(of_biases or biases)
