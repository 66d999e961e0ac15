"""CoNLL and CoNLL-U: a word a line with its tags in columns, a blank line between sentences; read as one row a sentence.

CoNLL-U as universaldependencies.org/format.html says. A row has `text`, `tokens` (a list), and for each further column of the file a list
as long: those of CoNLL-U by their names, in other files `tags` for the last one, and `column2`, `column3`, ... for those between.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tunesmith.data.delimited import Parsed, check_columns
from tunesmith.data.schema import Row, Source
from tunesmith.data.words import joined_words
from tunesmith.errors import DataError, counted

_FIELDS = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_KEPT = {"upos": 3, "xpos": 4, "feats": 5}
_ID = re.compile(r"[1-9][0-9]*|[0-9]+\.[1-9][0-9]*|[1-9][0-9]*-[1-9][0-9]*")
_KNOWN_COMMENT = re.compile(r"#\s*(?:(?:text|sent_id|global\.columns)\b[^\t]*=|new(?:doc|par)(?:\s+id\b.*)?\s*$)")
_NO_WORDS = ("#", "-DOCSTART-")
_PAIR = re.compile(r"#\s*([\w.]+)(?:\s+id)?\s*(?:= ?(.*))?$")


@dataclass
class _Sentence:
    """The lines of one sentence: cells of each word, the comments before it, and whether a document begins with it."""

    line: int = 0
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    document: str | None = None


def parse_conll(lines: Iterator[str], name: str) -> Parsed:
    """Parse words with their tags in columns, separated by tabs or spaces; ten columns that begin with a number are read as CoNLL-U.

    -DOCSTART- and `# newdoc` begin a document, whose name or number is in the column `document` of a file that begins with one. A line with
    # is a comment where a sentence begins, unless it has as many columns as the words of the file. `# global.columns = ...` names columns.
    Raises `DataError` for a line with another number of columns.
    """
    sentences = _sentences(lines, name)
    first = next(sentences, None)
    if first is None:
        raise DataError(f"{name}: there is no word in it. It must hold one word and its tag a line, and a blank line between sentences.")
    whole = itertools.chain([first], sentences)
    if len(first.rows[0]) == len(_FIELDS) and _ID.fullmatch(first.rows[0][0]):
        return _parse_conllu(whole, first, name)
    names = _names(first)
    check_columns(names, f"{name}:{first.line}")
    documents = first.document is not None
    columns = ("document",) * documents + (() if "text" in names else ("text",)) + names

    def rows() -> Iterator[tuple[Row, Source]]:
        document = ""
        for sentence in whole:
            document = sentence.document if sentence.document is not None else document
            cells = dict(zip(names, map(list, zip(*sentence.rows, strict=True)), strict=True))
            words = cells.get("tokens", [row[0] for row in sentence.rows])
            text = sentence.comments.get("text", joined_words(words)[0])
            row = {"text": text, **cells}
            yield {"document": document, **row} if documents else row, Source(name, sentence.line)

    return columns, rows()


def parse_conllu(lines: Iterator[str], name: str) -> Parsed:
    """Parse CoNLL-U: `tokens`, `upos`, `xpos` and `feats` of the syntactic words, `offsets` of each in `text`.

    A multi-word token (1-2) stands in the text, its words in the other columns: each has its own characters where their forms make up the
    token, else those of the whole token. Empty nodes (1.1) are left out, as they stand for no word of the text. `text` is that of `# text`
    where the tokens and SpaceAfter=No give it, else what they give. A column without any value is None.
    Raises `DataError` for a line that is not as the format says.
    """
    sentences = _sentences(lines, name)
    first = next(sentences, None)
    if first is None:
        raise DataError(f"{name}: there is no word in it. It must be CoNLL-U: ten columns separated by tabs, a word a line.")
    return _parse_conllu(itertools.chain([first], sentences), first, name)


def _parse_conllu(sentences: Iterator[_Sentence], first: _Sentence, name: str) -> Parsed:
    documents = first.document is not None
    columns = ("document",) * documents + ("sent_id", "text", "tokens", "offsets", *_KEPT)

    def rows() -> Iterator[tuple[Row, Source]]:
        document = ""
        for sentence in sentences:
            document = sentence.document if sentence.document is not None else document
            row = _conllu_row(sentence, name)
            yield {"document": document, **row} if documents else row, Source(name, sentence.line)

    return columns, rows()


def _conllu_row(sentence: _Sentence, name: str) -> dict[str, object]:
    words: list[list[str]] = []
    offsets: list[list[int]] = []
    text = ""
    group: tuple[int, int, list[str], int] | None = None  # last word of a multi-word token, where it begins, its line, words before it
    for cells, line in zip(sentence.rows, sentence.lines, strict=True):
        place = f"{name}:{line}"
        if len(cells) != len(_FIELDS) or not _ID.fullmatch(cells[0]):
            raise DataError(
                f"{place}: found {counted(len(cells), 'column')}, the first {cells[0]!r:.20}; a line of CoNLL-U has ten, separated by "
                "tabs, and begins with the word's number (7, 7-8 or 7.1). Other layouts are read as .conll."
            )
        number = cells[0]
        if "." in number:
            continue
        if "-" in number:
            begin, end = map(int, number.split("-"))
            if begin != len(words) + 1 or end <= begin or group is not None:
                raise DataError(f"{place}: the range {number} does not stand before its words; word {len(words) + 1} comes next.")
            group = (end, len(text), cells, len(words))
            text += cells[1]
            continue
        if int(number) != len(words) + 1:
            raise DataError(f"{place}: word {number} where word {len(words) + 1} comes next. Correct the numbers, or the blank lines.")
        words.append(cells)
        if group is None:
            offsets.append([len(text), len(text) + len(cells[1])])
            text += cells[1] + _space_after(cells)
        elif int(number) == group[0]:
            offsets += _shares([row[1] for row in words[group[3] :]], group[1], group[2][1])
            text += _space_after(group[2])
            group = None
    if group is not None:
        raise DataError(f"{name}:{sentence.line}: the range {group[2][0]} is not followed by all of its words.")
    text = text.rstrip(" ")
    given = sentence.comments.get("text")
    row: dict[str, object] = {"sent_id": sentence.comments.get("sent_id"), "text": text}
    if given is not None and given != text and "".join(given.split()) == "".join(text.split()):
        row["text"], offsets = given, _moved(text, given, offsets)
    row |= {"tokens": [cells[1] for cells in words], "offsets": offsets}
    for column, place_in_line in _KEPT.items():
        values = [cells[place_in_line] for cells in words]
        row[column] = None if all(value == "_" for value in values) and column != "feats" else values
    return row


def _space_after(cells: Sequence[str]) -> str:
    return "" if "SpaceAfter=No" in cells[9].split("|") else " "


def _shares(forms: list[str], start: int, token: str) -> list[list[int]]:
    """Return the characters of each word of a multi-word token: its own where the forms make up the token, else all of them."""
    if "".join(forms).casefold() != token.casefold() or sum(map(len, forms)) != len(token):
        return [[start, start + len(token)]] * len(forms)
    ends = list(itertools.accumulate(map(len, forms), initial=start))
    return [[a, b] for a, b in itertools.pairwise(ends)]


def _moved(text: str, given: str, offsets: list[list[int]]) -> list[list[int]]:
    """Return offsets in `given`, which differs from `text` in white space only."""
    here = [i for i, char in enumerate(text) if not char.isspace()]
    there = [i for i, char in enumerate(given) if not char.isspace()]
    place = dict(zip(here, there, strict=True))
    return [[place[a], place[b - 1] + 1] for a, b in offsets] if all(a in place and b - 1 in place for a, b in offsets) else offsets


def _names(sentence: _Sentence) -> tuple[str, ...]:
    width = len(sentence.rows[0])
    named = sentence.comments.get("global.columns", "").split()
    if len(named) == width:
        names = {"FORM": "tokens", "UPOS": "upos", "XPOS": "xpos", "FEATS": "feats"}
        return tuple(names.get(one, one) for one in named)
    between = tuple(f"column{i}" for i in range(2, width))
    return ("tokens", *between, "tags")[:width] if width > 1 else ("tokens",)


def _sentences(lines: Iterator[str], name: str) -> Iterator[_Sentence]:
    """Yield the sentences. Raises `DataError` for a line with another number of columns than the first one of the file."""
    beginning = []
    for line in lines:
        beginning.append(line)
        if line.strip() and not line.startswith(_NO_WORDS):
            break
    # the first words tell how many columns there are; where every line begins with #, tabs tell words from comments
    word = next((line for line in reversed(beginning) if line.strip() and not line.startswith(_NO_WORDS)), None)
    word = word or next((line for line in beginning if "\t" in line and not _KNOWN_COMMENT.match(line)), "")
    separator = "\t" if "\t" in word else None
    width = len(word.rstrip("\r\n").split(separator)) if word else 0
    first, documents = 0, 0
    header: dict[str, str] = {}
    sentence = _Sentence()
    for number, line in enumerate(itertools.chain(beginning, lines), 1):
        line = line.rstrip("\r\n")
        if not line.strip():
            if sentence.rows:
                yield sentence
                sentence = _Sentence()
            continue
        cells = line.split(separator)
        remark = _KNOWN_COMMENT.match(line) or len(cells) != width or (not first and separator is None and cells[0] == "#" and width > 1)
        if line.startswith("#") and not sentence.rows and remark:
            _comment(line, sentence, header)
            if line.startswith(("# newdoc", "#newdoc")):
                documents += 1
                sentence.document = sentence.comments.get("newdoc") or str(documents)
            continue
        if line.startswith("-DOCSTART-"):
            if sentence.rows:
                yield sentence
                sentence = _Sentence()
            documents += 1
            sentence.document = str(documents)
            continue
        first = first or number
        width = width or len(cells)
        if len(cells) != width:
            found = f"{counted(len(cells), 'column')} in {line!r:.60}"
            raise DataError(
                f"{name}:{number}: {found}, where line {first} has {width}. Every word stands on a line of its own with all of its "
                f"columns, separated by {'tabs' if separator else 'spaces'}; between sentences is a blank line."
            )
        if not sentence.rows:
            sentence.line = number
            sentence.comments = header | sentence.comments
        sentence.rows.append(cells)
        sentence.lines.append(number)
    if sentence.rows:
        yield sentence


def _comment(line: str, sentence: _Sentence, header: dict[str, str]) -> None:
    found = _PAIR.match(line)
    if found is not None:
        key, value = found.group(1), found.group(2) if found.group(2) is not None else ""
        sentence.comments[key] = value if key == "text" else value.strip()
        if key == "global.columns":
            header[key] = value
