"""Cells that hold several labels: taking one apart, and recognising by what a column's labels are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

_SEPARATORS = ("|", ";", ",")


def parts(cell: str, separator: str | None) -> list[str]:
    """Return the labels of a cell, each once, in their order; without a separator the cell is one label."""
    if separator is None:
        return [cell]
    return list(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))


def separator_of(cells: Collection[str], *, certain: bool = False) -> str | None:
    """Return what joins the labels in these different cells of a column, None when each seems to be one label.

    Joined labels show in that splitting at |, ; or , gives fewer different labels than there were different cells, and in
    that most parts are seen in more than one combination; so `Food, drinks` beside `Cars, bikes` stays one label each.
    certain: that cells may hold several labels is known, so the first of these characters that occurs joins them
    """
    for candidate in _SEPARATORS:
        joined = [cell for cell in cells if candidate in cell]
        if not joined:
            continue
        seen = Counter(part for cell in cells for part in parts(cell, candidate))
        inside = {part for cell in joined for part in parts(cell, candidate)}
        if certain or (len(seen) < len(cells) and 2 * sum(seen[part] > 1 for part in inside) > len(inside)):
            return candidate
    return None
