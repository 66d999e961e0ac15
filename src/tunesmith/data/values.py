"""Values as they come out of tables of any kind, turned into plain Python ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_PLAIN = frozenset((int, bool, type(None)))
_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = frozenset(("NAType", "NaTType"))  # pandas' own markers; comparing them with themselves is no test


def plain(value: Any) -> Any:
    """Return `value` with NaN, NaT and NA as None, and numpy scalars and arrays as Python scalars and lists, at any depth.

    In text, a lone surrogate (half of an emoji cut in two) becomes U+FFFD.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _whole(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if value == value else None
    if kind is list or kind is tuple:
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {plain(key) if isinstance(key, str) else key: plain(item) for key, item in value.items()}
    if kind.__name__ in _MISSING:
        return None
    if kind is Decimal:
        return plain(float(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return plain(value.tolist())
        if isinstance(value, numpy.datetime64 | numpy.timedelta64) and numpy.isnat(value):
            return None
        if isinstance(value, numpy.generic):
            return plain(value.item())
    return value


def _whole(text: str) -> str:
    try:  # no file and no tokenizer takes half a character
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
