"""Words of a text that is given as text, texts of words that are given as a list, and rows of tagged words."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

from tunesmith.data.schema import Example, Row, RowSource, Schema, Source, text_in
from tunesmith.data.schemes import Entity, write
from tunesmith.data.scripts import RANGES
from tunesmith.errors import DataError, counted, listing

Ranges = tuple[tuple[int, int], ...]

_UNSPACED = (*RANGES, (0x3000, 0x303F), (0xFF00, 0xFFEF))  # and the marks of Chinese and Japanese
_JOINER = "\u200d"
_SHOWN = 40
_TAGS = ("tags", "ner_tags", "pos_tags", "upos", "xpos")  # columns whose name says that every word has one
_SPANS = ("spans", "entities")  # columns in which an empty list means that there are none


def unspaced(char: str) -> bool:
    """Whether the character is of a script written without spaces between words."""
    code = ord(char)
    return code >= 0x0E00 and any(low <= code <= high for low, high in _UNSPACED)


def words_in(text: str) -> Ranges:
    """Return the words of a text as ranges of characters.

    A word is a run of letters, digits and underscores with their combining marks. In scripts written without spaces every character with
    its marks is a word. Any other character that is no white space is a word of its own, an emoji with what is joined to it.
    """
    found: list[tuple[int, int]] = []
    start, running, joined = 0, False, False
    for i, char in enumerate(text):
        kind = unicodedata.category(char)
        if kind[0] == "M" or char == _JOINER or 0x1F3FB <= ord(char) <= 0x1F3FF or joined:
            joined = char == _JOINER
            if found and found[-1][1] == i:
                found[-1] = (found[-1][0], i + 1)
            elif not char.isspace():
                found.append((i, i + 1))
                running = False
            continue
        letter = kind[0] in "LN" or char == "_"
        if char.isspace() or kind == "Cc":
            running = False
        elif letter and not unspaced(char):
            if running and found[-1][1] == i:
                found[-1] = (start, i + 1)
            else:
                found.append((i, i + 1))
                start, running = i, True
        else:
            found.append((i, i + 1))
            running = False
    return tuple(found)


ELSEWHERE = "words that do not stand in the text beside them"
"""What is said of an example whose words are not those of the text beside them, so that they have no characters there."""

_TREEBANK = {
    "-LRB-": ("(",), "-RRB-": (")",), "-LSB-": ("[",), "-RSB-": ("]",), "-LCB-": ("{",), "-RCB-": ("}",),
    "``": ('"', "“"), "''": ('"', "”"),
}  # fmt: skip


def joined_words(words: Sequence[str]) -> tuple[str, Ranges]:
    """Return the text that words make, and the characters of each.

    Single spaces stand between them. Where most words begin with a character of a script written without spaces, nothing does, but for two
    neighbours of more than one character that are both of other scripts.
    """
    tight = 2 * sum(bool(word) and unspaced(word[0]) for word in words) > len(words)
    pieces: list[str] = []
    ranges: list[tuple[int, int]] = []
    at, last = 0, ""
    for word in words:
        spaced = not tight or (len(last) > 1 and len(word) > 1 and not unspaced(last[-1]) and not unspaced(word[0]))
        if ranges and spaced:
            pieces.append(" ")
            at += 1
        pieces.append(word)
        ranges.append((at, at + len(word)))
        at += len(word)
        last = word
    return "".join(pieces), tuple(ranges)


def aligned(words: Sequence[str], text: str) -> Ranges | None:
    """Return where words stand in a text, one behind the other with nothing but white space between; None when they do not.

    Brackets and quotation marks may be written as in the Penn Treebank: -LRB- for (, two backticks for ".
    """
    ranges = []
    at = 0
    for word in words:
        forms = (word, *_TREEBANK.get(word, ()))
        while at < len(text) and text[at].isspace() and not text.startswith(forms, at):
            at += 1
        form = next((form for form in forms if text.startswith(form, at)), None)
        if form is None:
            return None
        ranges.append((at, at + len(form)))
        at += len(form)
    return tuple(ranges) if not text[at:].strip() else None


def words_of(example: Example) -> tuple[tuple[str, ...], Ranges]:
    """Return the words of an example and their characters in its text: those it was given, else those of `words_in`."""
    if example.words:
        return example.words, example.spans
    text = example.texts[-1]
    ranges = words_in(text)
    return tuple(text[a:b] for a, b in ranges), ranges


def read_tagged(row: Row, schema: Schema, source: Source) -> Example:
    """Read a row of words and tags, or of a text and spans of characters.

    The text column holds a list of words, or a text; words that the row gives in `tokens` or `words` beside a text are its words. A list
    may be written as JSON in a cell, or, where the tags are, too, as words separated by spaces. Tags are a list with one for each word.
    Spans are a list of {"start", "end", "label"}, or of [start, end, label], characters [start, end) of the text; they must begin and end
    with a word and become tags of the scheme BIO.
    Raises `DataError`.
    """
    column = schema.texts[0]
    value, target = row.get(column), row.get(schema.target) if schema.target is not None else None
    words = _list_in(value)
    if words is None and (told := next((name for name in ("tokens", "words") if _list_in(row.get(name)) is not None), None)) is not None:
        # a file may have both, whichever column the model was trained on: words that are given are the words
        column, words = told, _list_in(row[told])
    given = _list_in(target)
    spans = given is not None and any(isinstance(item, (dict, list, tuple)) for item in given)
    if words is None and isinstance(target, str) and given is None and isinstance(value, str) and target.strip():
        words, given = value.split(), target.split()
    mended: tuple[str, ...] = ()
    if words is not None:
        texts = [text_in(word, column, source) for word in words]
        text, ranges = _text_of(texts, row, column, source)
        if isinstance(row.get("text"), str) and column != "text" and text != row["text"]:
            mended = (ELSEWHERE,)
    else:
        text = text_in(value, column, source)
        ranges = words_in(text)
        texts = [text[a:b] for a, b in ranges]
    if target is None:
        tags = None
    elif spans or (given == [] and texts and (words is None or str(schema.target).casefold() in _SPANS)):
        tags = _tags_of(given or [], ranges, text, source)
    elif given is None:
        raise DataError(
            f"{source}: column {schema.target!r} holds {type(target).__name__} {target!r:.60}; a list is expected, of one tag a word, or "
            'of spans {"start": 0, "end": 4, "label": "PER"}.'
        )
    else:
        tags = [str(tag).strip() if tag is not None else "" for tag in given]
        if len(tags) != len(texts):
            how = "" if words is not None else f" ({listing(map(repr, texts), 8)}); words of your own go into a list, the column tokens"
            raise DataError(f"{source}: {counted(len(tags), 'tag')} for {counted(len(texts), 'word')}{how}. Every word needs one tag.")
        if "" in tags:
            at = tags.index("")
            raise DataError(f"{source}: word {at + 1} ({texts[at]!r:.40}) has no tag. Write one, such as O for words outside all entities.")
    return Example((text,), tags, True, schema.group_of(row, source), source, ranges, tuple(texts), mended=mended)


def _list_in(value: Any) -> list[Any] | None:
    """Return a list that is one or is written as JSON; None for anything else."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError:
            return None
        return found if isinstance(found, list) else None
    return None


def _text_of(words: list[str], row: Row, column: str, source: Source) -> tuple[str, Ranges]:
    """Return the text of the words and where each stands in it: the row's own `text` where they stand in it, else the words joined."""
    text = row.get("text") if column != "text" else None
    if not isinstance(text, str):
        return joined_words(words)
    text = text_in(text, "text", source)
    offsets = row.get("offsets")
    if isinstance(offsets, list):
        if len(offsets) != len(words) or not all(_is_range(one, len(text)) for one in offsets):
            raise DataError(
                f"{source}: column 'offsets' must have the characters [start, end) of each of {counted(len(words), 'word')} in the text."
            )
        return text, tuple((int(a), int(b)) for a, b in offsets)
    ranges = aligned(words, text)
    return (text, ranges) if ranges is not None else joined_words(words)


def _is_range(value: Any, length: int) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) == 2 and all(type(i) is int for i in value) and 0 <= value[0] <= value[1] <= length
    )


def _tags_of(spans: list[Any], ranges: Ranges, text: str, source: Source) -> list[str]:
    """Return BIO tags of the words with these ranges for spans of characters. Raises `DataError` for one that fits no words."""
    begins = {a: i for i, (a, _) in enumerate(ranges)}
    ends = {b: i + 1 for i, (_, b) in enumerate(ranges)}
    found = []
    for span in spans:
        try:
            begin, behind, kind = (span["start"], span["end"], span["label"]) if isinstance(span, dict) else span
            start, end, label = int(begin), int(behind), str(kind).strip()
        except (TypeError, KeyError, ValueError):
            raise DataError(f'{source}: span {span!r:.80} is not like {{"start": 0, "end": 4, "label": "PER"}} or [0, 4, "PER"].') from None
        if not 0 <= start < end <= len(text):
            raise DataError(f"{source}: span {start} to {end} lies outside the text, which has {counted(len(text), 'character')}.")
        while text[start].isspace() and start + 1 < end:
            start += 1
        while text[end - 1].isspace() and end - 1 > start:
            end -= 1
        if not label:
            raise DataError(f"{source}: the span {text[start:end]!r:.40} has no label.")
        if start not in begins or end not in ends:
            words = [text[a:b] for a, b in ranges if a < end and b > start]
            raise DataError(
                f"{source}: the span {text[start:end]!r:.40} begins or ends inside a word ({listing(map(repr, words), 8)}). "
                "Correct it, or give the words yourself, as lists in the columns tokens and tags."
            )
        found.append(Entity(begins[start], ends[end], label))
    found.sort()
    for one, two in pairwise(found):
        if two.start < one.end:
            both = [text[ranges[span.start][0] : ranges[span.end - 1][1]] for span in (one, two)]
            raise DataError(f"{source}: the spans {both[0]!r:.40} and {both[1]!r:.40} overlap. A word has one tag: keep one of them.")
    return write(found, len(ranges), "bio")


def looks_tagged(source: RowSource, target: str | None) -> bool:
    """Whether a source can only be tagged words: a column of words in lists, or of words between spaces with as many in the column tags."""
    names = ("tokens", "words")
    text = next((column for column in source.columns if column.strip().casefold() in names), None)
    if text is None or (target is not None and target not in source.columns):
        return False
    rows = [row for row, _ in islice(source, _SHOWN)]
    lists = [words for row in rows if (words := _list_in(row.get(text))) is not None]
    if lists or target is None or target.strip().casefold() not in _TAGS:
        return bool(lists) and len(lists) == len(rows)
    sizes = [[len((value if isinstance(value := row.get(column), str) else "").split()) for column in (text, target)] for row in rows]
    return all(words == tags for words, tags in sizes) and any(words > 1 for words, _ in sizes)
