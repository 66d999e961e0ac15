"""Questions on passages: SQuAD's nested JSON as flat rows, and a row of any of the usual forms read as an example.

SQuAD 1.1: Rajpurkar et al. 2016; SQuAD 2.0, with questions that the passage does not answer: Rajpurkar et al. 2018.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.data.delimited import Parsed, check_columns
from tunesmith.data.schema import Example, Row, Schema, Source, text_in
from tunesmith.data.values import plain
from tunesmith.errors import DataError, setting

COLUMNS = ("id", "title", "question", "context", "answers", "is_impossible")
"""The columns of SQuAD's nested format as rows."""
_SPACE = re.compile(r"[ \t\n\r]*")
_TRUE = ("true", "1", "yes")
_FORMS = (
    'a list of rows ([{"text": ..., "label": ...}, ...]), '
    'or questions in SQuAD\'s form ({"data": [{"paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": [...]}]}]}]})'
)


def parse_json(lines: Iterator[str], name: str) -> Parsed:
    """Parse a JSON file: SQuAD 1.1 or 2.0, or a list of rows, by itself or under `data`. A row's line is its number, from 1.

    The text of the file is held in memory, of what it says no more than one article.
    """
    items = _items("".join(lines), name)
    first = next(items, None)
    if first is None:
        raise DataError(f"{name}: there are no rows in this JSON file. It must have {_FORMS}.")
    items = itertools.chain([first], items)
    if "paragraphs" in first:
        return COLUMNS, _questions(items, name)
    columns = tuple(first)
    check_columns(columns, name)
    return columns, (
        ({**dict.fromkeys(columns), **plain(item)}, Source(name, number)) for number, item in enumerate(items, 1)
    )  # fmt: skip


def _items(text: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of the list that the file is, or has under `data`."""
    decoder = json.JSONDecoder()

    def skip(place: int) -> int:
        found = _SPACE.match(text, place)
        assert found is not None
        return found.end()

    def fault(place: int, what: str) -> DataError:
        line = text.count("\n", 0, place) + 1
        return DataError(f"{name}:{line}: {what} It must have {_FORMS}; one object a line is JSONL, which is named .jsonl.")

    def value(place: int) -> tuple[Any, int]:
        try:
            found, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise fault(error.pos, f"this is no JSON ({error.msg} at character {error.pos:,}).") from None
        except RecursionError:
            raise fault(place, "this JSON is nested too deeply.") from None
        except ValueError as error:  # a number of thousands of digits
            raise fault(place, f"this JSON cannot be read ({error}).") from None
        return found, skip(end)

    place = skip(0)
    if text[place : place + 1] == "{":
        place = skip(place + 1)
        while True:
            if text[place : place + 1] != '"':
                raise fault(place, "this JSON object has no list under 'data'.")
            key, place = value(place)
            if text[place : place + 1] != ":":
                raise fault(place, "this is no JSON (a colon is expected).")
            place = skip(place + 1)
            if key == "data":
                break
            _, place = value(place)
            place = skip(place + 1) if text[place : place + 1] == "," else place
    if text[place : place + 1] != "[":
        raise fault(place, "this JSON has no list of rows or articles.")
    place = skip(place + 1)
    while text[place : place + 1] != "]":
        item, end = value(place)
        if not isinstance(item, dict):
            raise fault(place, f"there is {type(item).__name__} {item!r:.60} where an object is expected.")
        yield item
        place = skip(end + 1) if text[end : end + 1] == "," else end
        if text[end : end + 1] not in (",", "]"):
            raise fault(end, "the list does not go on: the file is cut short or damaged.")


def _questions(articles: Iterator[dict[str, Any]], name: str) -> Iterator[tuple[Row, Source]]:
    number = 0
    for article in articles:
        for paragraph in _list(article, "paragraphs", f"{name}, article {article.get('title')!r:.60}"):
            for question in _list(paragraph, "qas", f"{name}, after question {number:,}"):
                number += 1
                answers = question.get("answers")
                if question.get("start_ambiguous") and isinstance(answers, list):
                    # the places of these are guesses
                    answers = [{"text": item.get("text")} if isinstance(item, dict) else item for item in answers]
                yield (
                    {
                        "id": question.get("id"),
                        "title": article.get("title"),
                        "question": plain(question.get("question")),
                        "context": plain(paragraph.get("context")),
                        "answers": plain(answers),
                        "is_impossible": bool(question.get("is_impossible", False)),
                    },
                    Source(name, number),
                )


def _list(parent: Any, key: str, place: str) -> list[dict[str, Any]]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(f"{place}: {key!r} must be a list of objects, as in SQuAD's form; it is {found!r:.60}.")
    return found


# --- rows to examples ------------------------------------------------------------------------------------------------------


def read_question(row: Row, schema: Schema, source: Source) -> Example:
    """Read a question, a passage and the answers, whose places `Example.spans` are characters of the passage.

    Answers come as a list of texts or of {"text", "answer_start"}, as {"text": [...], "answer_start": [...]}, as JSON of one of
    these in a cell, or as one text with `answer_start` in a column. An empty list, or `is_impossible`, is a question without
    answer in the passage. An answer without a start, or of a row that says `start_ambiguous`, may be at every place where its
    text is. One that is not where its start says is taken where it is nearest.

    Raises `DataError` for what cannot be read, and when none of a row's answers is in the passage.
    """
    question, passage = (text_in(row.get(name), name, source) for name in schema.texts)
    group = schema.group_of(row, source)
    stated = _stated(row, schema.target, source) if schema.target is not None else None
    if stated is None:
        return Example((question, passage), None, False, group, source)
    spans: list[tuple[int, int]] = []
    moved, nowhere = [], []
    for text, start in stated:
        if start is not None and start >= 0 and passage.startswith(text, start):
            spans.append((start, start + len(text)))
            continue
        places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", passage)]
        if not places:
            nowhere.append(text)
        elif start is None:
            spans += [(place, place + len(text)) for place in places]
        else:
            moved.append(text)
            place = min(places, key=lambda place: (abs(place - start), place))
            spans.append((place, place + len(text)))
    if nowhere and not spans:
        raise DataError(
            f"{source}: the answer {nowhere[0]!r:.200} is not in the passage (column {schema.texts[1]!r}), {_seen(nowhere[0], passage)}. "
            "Correct it or leave the row out; an empty list of answers, or is_impossible, says that the passage has none."
        )
    mended = tuple(
        f"answer {what}" for what, found in (("moved to where its text is", moved), ("not in the passage", nowhere)) for _ in found[:1]
    )
    target = list(dict.fromkeys(text for text, _ in stated))
    return Example((question, passage), target, True, group, source, tuple(dict.fromkeys(spans)), mended=mended)


def _seen(answer: str, passage: str) -> str:
    """Return what there is to say of a passage that has not got an answer: that it is empty, or has it spelled otherwise."""
    if not passage.strip():
        return "which is empty"
    loose = re.search(r"\s+".join(map(re.escape, answer.split())), passage, re.IGNORECASE)
    return f"where it must stand as it is written; it has {loose.group()!r:.200}" if loose else "where it must stand as it is written"


def _stated(row: Row, target: str, source: Source) -> list[tuple[str, int | None]] | None:
    """Return text and start of each answer, an empty list for a question without one, None where nothing is said."""
    if _flag(row.get("is_impossible")):
        return []
    value = row.get(target)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError):
            parsed = json.loads(value)
            # else an answer such as [42]
            if isinstance(parsed, Mapping) or not parsed or any(one is None or isinstance(one, str | Mapping) for one in parsed):
                value = parsed
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if isinstance(texts, list):
            places = starts if isinstance(starts, list) else [None] * len(texts)
            if len(places) != len(texts):
                raise DataError(f"{source}: column {target!r} has {len(texts)} answers, but {len(places)} values of answer_start.")
            items: list[Any] = [{"text": text, "answer_start": place} for text, place in zip(texts, places, strict=True)]
        else:
            items = [value]
    elif isinstance(value, list):
        items = value
    else:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        items = [{"text": value, "answer_start": row.get("answer_start")}]
    ambiguous = _flag(row.get("start_ambiguous"))
    found = []
    for item in items:
        if not isinstance(item, Mapping):
            item = {"text": item}
        text = text_in(item.get("text"), target, source)
        start = _start(item.get("answer_start", item.get("start")), source)
        lead = len(text) - len(text.lstrip())
        if text.strip():
            found.append((text.strip(), None if ambiguous or start is None else start + lead))
    if items and not found:
        raise DataError(
            f"{source}: the answers in column {target!r} have no text: {value!r:.80}. An answer is a text, or an object with 'text' and "
            f"'answer_start'; a question that the passage does not answer has an empty list, or is_impossible true."
        )
    return found


def _flag(value: Any) -> bool:
    return value in (True, 1) or (isinstance(value, str) and value.strip().casefold() in _TRUE)


def _start(value: Any, source: Source) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()) or value != value:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not number.is_integer():
        raise DataError(
            f"{source}: answer_start is {value!r:.60}; it must be the number of characters of the passage before the answer, or be left "
            f"out. If these columns mean another task, say it with {setting('task')}."
        )
    return int(number)
