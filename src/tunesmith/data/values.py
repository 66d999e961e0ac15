"""Values as they come out of tables of any kind, turned into plain Python ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_PLAIN = frozenset((str, int, bool, type(None)))
_MISSING = frozenset(("NAType", "NaTType"))  # pandas' own markers; comparing them with themselves is no test


def plain(value: Any) -> Any:
    """Return `value` with NaN, NaT and NA as None, and numpy scalars and arrays as Python scalars and lists, at any depth."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if value == value else None
    if kind is list or kind is tuple:
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if kind.__name__ in _MISSING:
        return None
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return plain(value.tolist())
        if isinstance(value, numpy.datetime64 | numpy.timedelta64) and numpy.isnat(value):
            return None
        if isinstance(value, numpy.generic):
            return plain(value.item())
    return value


def half_character(value: Any) -> str | None:
    """Return the escape of a lone surrogate (half of an emoji, say) that `value` holds somewhere, else None.

    No tokenizer and no file accepts such text, and it would fail far from the row it stands in.
    """
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return f"\\u{ord(value[error.start]):04x}"
    elif isinstance(value, Mapping):
        return next((found for pair in value.items() for item in pair if (found := half_character(item))), None)
    elif isinstance(value, list | tuple):
        return next((found for item in value if (found := half_character(item))), None)
    return None
