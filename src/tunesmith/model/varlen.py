"""Attention over packed sequences on a GPU: by the kernel that torch has for sequences of any lengths, one call for all.

S sequences, T tokens, H width, N heads, D width of a head (H = N D).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunesmith.model.devices import to_device

_WIDEST = 256
_CAPABILITY = (8, 0)  # FlashAttention-2 runs on Ampere cards and later ones


def runs_on(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Return whether the kernel runs on `device` in `dtype` for heads of width `size`: on GPUs in half precision."""
    return why_not(device, dtype, size) is None


def why_not(device: torch.device, dtype: torch.dtype, size: int) -> str | None:
    """Return why the kernel does not run there, as the rest of a sentence; None where it does."""
    if device.type != "cuda":
        return "runs on GPUs alone"
    if dtype not in (torch.bfloat16, torch.float16):
        return "has no float32"
    if size % 8 or size > _WIDEST:
        return f"takes no heads of {size} numbers"
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        return "does not run on a card as old as this"
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return "is not in this version of torch"
    return None


@dataclass(frozen=True)
class Sequences:
    """Where sequences begin and end, for the kernel.

    ends: int32[S+1], 0 and the end of each; each: int32[S+1], 0 to S; firsts: int64[S], the first token of each; longest: in tokens
    """

    ends: Tensor
    each: Tensor
    firsts: Tensor
    longest: int

    @classmethod
    def of(cls, cu_seqlens: np.ndarray, device: torch.device) -> Sequences:
        """Return those of a batch with `cu_seqlens`, int32[S+1]."""
        starts = cu_seqlens[:-1].astype(np.int64)
        each = np.arange(len(cu_seqlens), dtype=np.int32)
        ends = cu_seqlens.astype(np.int32, copy=False)
        return cls(to_device(ends, device), to_device(each, device), to_device(starts, device), int(np.diff(cu_seqlens).max()))


def attend(qkv: Tensor, kept: Tensor | None, only_first: bool, *, heads: int, sequences: Sequences) -> Tensor:
    """Return float[T, H] of queries, keys and values float[T, 3H]; float[S, H] with `only_first`. See `attention.Attention`.

    kept: float[T, N], a factor of each value vector, or None
    Dao 2024, "FlashAttention-2", section 3.1. Its backward pass adds up in no fixed order, so that two runs differ in their last digits.
    """
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    if kept is not None:
        value = value * kept[:, :, None]
    asking, most = (sequences.each, 1) if only_first else (sequences.ends, sequences.longest)
    query = query.index_select(0, sequences.firsts) if only_first else query
    found = varlen_attn(query, key, value, asking, sequences.ends, most, sequences.longest)
    assert isinstance(found, Tensor)
    return found.flatten(1)
