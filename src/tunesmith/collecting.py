"""How often Python looks for unreachable cycles among its objects, and among which."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def seldom() -> None:
    """Have the whole process look for cycles every 20,000 new objects, not every 700 (2,000 in newer Pythons).

    torch and transformers make over a million objects when they are imported, all of which stay: looking through them again and again
    takes half a second of a command. For a program that owns its process; a library must leave this setting to its user.
    """
    gc.set_threshold(20_000, 20, 20)


@contextmanager
def sparing_what_exists() -> Iterator[None]:
    """Look for cycles among the objects that are made inside only: what exists already is left out until the end.

    For work that makes many objects which live for a while: as they grow in number, Python looks through all objects of the process.
    """
    ours = gc.get_freeze_count() == 0  # else somebody else's choice, which stays
    gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
