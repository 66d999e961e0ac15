"""Targets that are measured values: recognising them, and reading them as numbers."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

from tunesmith.data.schema import RowSource
from tunesmith.registry import family

_ROWS = 500


def number_in(text: str) -> float | None:
    """Return the finite number that `text` is, with a point or a comma before its decimals; None when it is none."""
    plain = text.strip()
    if plain.count(",") == 1 and "." not in plain:
        plain = plain.replace(",", ".")
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def looks_measured(source: RowSource, target: str | None) -> bool:
    """Whether the values of the target column can only be measured ones: numbers all, more than ten different, half with decimals."""
    if target is None:
        known = family("regression").targets
        folded = {column.strip().casefold(): column for column in source.columns}
        target = next((folded[name] for name in known if name in folded), None)
    if target is None or target not in source.columns:
        return False
    values = [_text(row.get(target)) for row, _ in islice(source, _ROWS)]
    numbers = {value: number_in(value) for value in values if value}
    if len(numbers) <= 10 or None in numbers.values():
        return False
    return 2 * sum(not float(number or 0).is_integer() for number in numbers.values()) >= len(numbers)


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, list | tuple | dict) else str(value).strip()
