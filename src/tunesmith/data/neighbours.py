"""Sentences with the text around them in the same document, which is read along but not predicted.

Schweter and Akbik 2020, "FLERT: Document-Level Features for Named Entity Recognition", section 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tunesmith.data.schema import Example
from tunesmith.data.words import unspaced, words_of


def with_neighbours(examples: Iterable[tuple[str | None, Example]], limit: int) -> Iterator[Example]:
    """Yield examples, given with the names of their documents, with up to `limit` words of the text before and after.

    Those of a document stand one behind the other. One without a document has no neighbours. No more is read ahead than is needed.
    """
    left: deque[Example] = deque()
    pending: deque[Example] = deque()
    ahead = 0  # words of all pending examples but the first
    current: str | None = None
    for document, example in examples:
        if pending and (document in (None, "") or document != current):
            yield from _drained(left, pending, limit)
            left.clear()
            ahead = 0
        current = document
        ahead += len(words_of(example)[0]) if pending else 0
        pending.append(example)
        while len(pending) > 1 and ahead >= limit:
            yield _next(left, pending, limit)
            ahead -= len(words_of(pending[0])[0])
    yield from _drained(left, pending, limit)


def _drained(left: deque[Example], pending: deque[Example], limit: int) -> Iterator[Example]:
    while pending:
        yield _next(left, pending, limit)


def _next(left: deque[Example], pending: deque[Example], limit: int) -> Example:
    example = pending.popleft()
    found = replace(example, before=_text(reversed(left), limit, last=True), after=_text(pending, limit, last=False))
    left.append(example)
    while sum(len(words_of(one)[0]) for one in left) - len(words_of(left[0])[0]) >= limit:
        left.popleft()
    return found


def _text(examples: Iterable[Example], limit: int, *, last: bool) -> str:
    """Return the text of examples up to `limit` words of it: the first ones, or the last ones where the examples come backwards."""
    pieces: list[str] = []
    for example in examples:
        if limit <= 0:
            break
        text, ranges = example.texts[-1], words_of(example)[1]
        if len(ranges) > limit:
            text = text[ranges[-limit][0] :] if last else text[: ranges[limit - 1][1]]
        limit -= len(ranges)
        if text.strip():
            pieces.append(text.strip())
    if last:
        pieces.reverse()
    joined = ""
    for piece in pieces:
        joined += piece if not joined or unspaced(joined[-1]) else f" {piece}"
    return joined
