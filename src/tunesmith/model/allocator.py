"""How the C library hands out memory while a network computes."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

_KEPT_UP_TO = (2**26, 2**25)  # bytes; glibc before 2.35 takes no more than the second
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Have the process keep the memory that it frees, for its own next use; return whether that could be set.

    A training step allocates and frees the same large arrays as the step before. glibc gives each back to the system at once and
    gets it anew, page by page zeroed: a fifth of the time of a step of a small encoder. What was once used is held until the process
    ends, but for single arrays of more than 64 MB: kept, these left holes that nothing else fitted into, and took three times the memory.
    glibc alone is told so; `TUNESMITH_KEEP_MEMORY=0` leaves it as it is.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("TUNESMITH_KEEP_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(any(mallopt(_M_MMAP_THRESHOLD, most) for most in _KEPT_UP_TO) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
