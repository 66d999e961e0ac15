"""Copies of parameters in the number format of the matrix products, all at once. P parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Copies(torch.autograd.Function):
    """Copies of parameters, some of them stacked into one; the gradients of the copies are the parameters', in their own format.

    One node of the graph for all: casting each weight by itself costs a small encoder a tenth of a step in calls.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, counts: Sequence[int], *parameters: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor for each of `counts`: so many of the parameters, taken in order and stacked along their first axis."""
        copies, parts = [], []
        ctx.counts, ctx.lengths = counts, [len(parameter) for parameter in parameters]
        for of_one in _runs(counts, parameters):
            copies.append(of_one[0].new_empty((sum(map(len, of_one)), *of_one[0].shape[1:]), dtype=dtype))
            parts += copies[-1].split([len(parameter) for parameter in of_one])
        torch._foreach_copy_(parts, list(parameters))
        wanted = _runs(counts, ctx.needs_input_grad[2:])
        ctx.mark_non_differentiable(*(copy for copy, needs in zip(copies, wanted, strict=True) if not any(needs)))
        ctx.set_materialize_grads(False)
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        results: list[Tensor | None] = []
        into: list[Tensor] = []
        of: list[Tensor] = []
        needs = iter(ctx.needs_input_grad[2:])
        for gradient, lengths in zip(gradients, _runs(ctx.counts, ctx.lengths), strict=True):
            for part in [None] * len(lengths) if gradient is None else gradient.split(lengths):
                if next(needs) and part is not None:
                    into.append(torch.empty_like(part, dtype=torch.float32, memory_format=torch.contiguous_format))
                    of.append(part)
                    results.append(into[-1])
                else:
                    results.append(None)
        if into:
            torch._foreach_copy_(into, of)
        return None, None, *results


def _runs(counts: Sequence[int], values: Sequence[Any]) -> list[Sequence[Any]]:
    """Cut `values` into runs of lengths `counts`."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [values[end - count : end] for end, count in zip(ends, counts, strict=True)]
