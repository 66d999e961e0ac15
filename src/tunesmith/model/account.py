"""Which road a training takes through the machine, and why: for `--verbose` and for the report."""

from __future__ import annotations

import torch

from tunesmith.errors import counted
from tunesmith.model import varlen
from tunesmith.model.arithmetic import is_from_amd
from tunesmith.model.attention import LONG
from tunesmith.model.encoder import Encoder


def account(encoder: Encoder, precision: str, max_length: int, max_tokens: int, *, table: str, keeps_memory: bool) -> dict[str, str]:
    """Return in words, each by its name, what computes the hidden states of `encoder` where it is now.

    max_tokens: of a step, or a part of one; table: how that of words is updated; keeps_memory: whether the C library keeps what is freed
    """
    device = encoder.device
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    told = {"attention": _attention(encoder, dtype, max_length)}
    if encoder.runs_in_parts:
        assert encoder.packed is not None
        total, apart = encoder.packed.products_apart()
        told["matrix products"] = (
            f"all {total:,} on packed tokens"
            if not apart
            else f"{total - apart:,} on packed tokens, {apart:,} by modules of their own, such as an adapter's"
        )
    told["table of words"] = table
    told["in memory at once"] = f"{max_tokens:,} tokens of a step, or one sequence; more are worked off in parts"
    if encoder.most_kept is not None and max_length > encoder.most_kept:
        told["in memory at once"] += (
            f"; layers of a sequence beyond {encoder.most_kept:,} tokens are computed twice"
            if encoder.can_compute_again
            else f"; a sequence beyond {encoder.most_kept:,} tokens takes more, as transformers cannot compute this model's layers twice"
        )
    if device.type == "cpu":
        memory = "kept" if keeps_memory else "given back to the system"
        kernels = f"; float32 products by {'oneDNN' if is_from_amd() else 'torch'}'s kernels" if precision == "fp32" else ""
        told["processor"] = f"{counted(torch.get_num_threads(), 'thread')}{kernels}; freed memory is {memory}"
    return told


def _attention(encoder: Encoder, dtype: torch.dtype, max_length: int) -> str:
    if not encoder.runs_in_parts:
        usual = getattr(encoder.config, "_attn_implementation", None) or "its own"
        if usual == "sdpa" and max_length <= 256 and encoder.device.type == "cpu":
            return "eager, the fastest in training up to 256 tokens on a processor"
        return f"{usual}, as transformers takes it for this model"
    size = int(encoder.config.hidden_size) // int(encoder.config.num_attention_heads)
    if encoder.packed is not None and encoder.packed.learns_distances:
        return "sequences of like length together, as this model adds a learned number for the distance of each pair of tokens"
    why = varlen.why_not(encoder.device, dtype, size)
    if why is None:
        return "torch's kernel for sequences of any lengths"
    long = f", those of more than {LONG:,} tokens block by block" if max_length > LONG else ""
    return f"sequences of like length together{long}, as torch's kernel for sequences of any lengths {why}"
