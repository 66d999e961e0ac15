"""Memory while a network computes: how much a training step may take, and how the C library hands it out."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from typing import TYPE_CHECKING, Any

from tunesmith.model.attention import LONG

if TYPE_CHECKING:
    from tunesmith.model.encoder import Encoder

_STEP_BYTES = 2**30
_TWICE_BEYOND = 4  # a single sequence may take so many times the memory of a step before its layers are computed twice
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Have the process keep the memory that it frees, for its own next use; return whether that could be set.

    A training step allocates and frees the same large arrays as the step before. glibc gives each back to the system at once and
    gets it anew, page by page zeroed: a fifth of the time of a step of a small encoder. The peak of memory stays the same, but what
    was once used is held until the process ends. glibc alone is told so; `TUNESMITH_KEEP_MEMORY=0` leaves it as it is.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("TUNESMITH_KEEP_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(_M_MMAP_THRESHOLD, largest) and mallopt(_M_TRIM_THRESHOLD, largest))


def bound_memory(encoder: Encoder, max_length: int, precision: str, told: int | None) -> int:
    """Have `encoder` compute very long sequences within bounds, and return how many tokens a training step may hold at once.

    told: the setting `max_tokens`, which says so itself; else as many as fit, and at least one sequence
    """
    blockwise = encoder.runs_in_parts and encoder.packed is not None and not encoder.packed.learns_distances
    reach = min(max_length, LONG) if blockwise else max_length
    fitting = fitting_tokens(encoder.config, reach, precision, encoder.device.type)
    if encoder.packed is not None:
        # not more for a long `max_length`: its sequences are those that the bound is for
        encoder.packed.most_kept = max(_TWICE_BEYOND * fitting, told or 0)
    return told if told is not None else max(max_length, fitting)


def fitting_tokens(config: Any, reach: int, precision: str, device: str) -> int:
    """Return how many tokens a training step may hold at once so that what it keeps for its backward pass stays near 1 GB, on a GPU 4 GB.

    config: the encoder's transformers configuration; reach: how many weights of attention are kept for a token; device: its type
    A function of nothing but its arguments, so that a run resumed on another machine cuts its steps alike.
    """
    width = int(config.hidden_size)
    layers = int(getattr(config, "num_hidden_layers", 12))
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * width)
    heads = int(getattr(config, "num_attention_heads", width // 64))
    number = 2 if precision == "bf16" else 4
    # inputs of the products, the activation's both sides and dropout's masks; the two sums that the norms read, in float32
    a_token = layers * (number * (8 * width + 2 * inner + heads * reach) + 8 * width)
    return (_STEP_BYTES if device == "cpu" else 4 * _STEP_BYTES) // a_token
