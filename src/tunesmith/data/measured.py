"""Targets that are measured values: recognising them, and reading them as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from tunesmith.data.schema import RowSource

ROWS = 500
"""So many rows decide what a column is."""

_LIMIT = 1e37  # training is in float32
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def number_in(text: str) -> float | None:
    """Return the number that `text` is, with a point or a comma before its decimals; None for none, and beyond 1e37."""
    plain = text.strip()
    if _COMMA.fullmatch(plain):
        plain = plain.replace(",", ".")
    if not _PLAIN.fullmatch(plain):
        return None
    value = float(plain)
    return value if abs(value) <= _LIMIT else None


def ambiguous(texts: Sequence[str]) -> str | None:
    """Return one of `texts` of which the others do not tell whether its comma or point stands before decimals or before thousands."""
    stripped = [text.strip() for text in texts]
    for mark, other in ((",", "."), (".", ",")):
        grouped = [text for text in stripped if _THOUSANDS.fullmatch(text.replace(mark, ",") if other not in text else "")]
        marked, others = sum(mark in text for text in stripped), any(other in text for text in stripped)
        # a column of points alone is decimals, as everywhere in data; 2,412 beside 0,5 is decimals, too, but not beside 0.5
        if grouped and (others or (mark == "," and len(grouped) == marked)):
            return grouped[0]
    return None


def looks_measured(source: RowSource, target: str | None) -> bool:
    """Whether the values of column `target` in the first rows can only be measured ones.

    They can when all are numbers with a decimal point, if any, more than ten differ, half of these have decimals, and none looks like a
    code: 3.1 beside 3.10, or a leading zero.
    """
    if target is None:
        return False
    values = {_text(row.get(target)) for row, _ in islice(source, ROWS)} - {""}
    numbers = {value: float(value) for value in values if _PLAIN.fullmatch(value)}
    if len(numbers) <= 10 or len(numbers) < len(values):
        return False
    if len(set(numbers.values())) < len(numbers) or any(re.match(r"[+-]?0\d", value) for value in numbers):
        return False
    return 2 * sum(not number.is_integer() for number in numbers.values()) >= len(numbers)


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, list | tuple | dict) else str(value).strip()
