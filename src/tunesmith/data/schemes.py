"""Tagging schemes: how tags of words say where entities begin and end, and the way from one scheme to another.

BIO (IOB2 of Ramshaw and Marcus 1995 and Sang and Veenstra 1999), BIOES (IOBES), BMES (BIOES with M for I), BILOU (BIOES with L for E and U
for S), IO. A tag is `O` or a letter, a hyphen and a type: `B-PER`. In IO two neighbouring entities of one type cannot be told apart.

IOB1, of the files of CoNLL-2003, has the letters of BIO, but B only for an entity right behind another one of its type. It is read, and
never written: its B is too rare to be learned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

LETTERS = {"bio": "BI", "bioes": "BIES", "bmes": "BMES", "bilou": "BILU", "io": "I"}
"""The letters of each scheme that can be learned: for the first word of an entity, those inside, its last one, and an only one."""
_TAG = re.compile(r"[BIESMLU]-.+", re.DOTALL)
_AS_BIOES = {"M": "I", "L": "E", "U": "S"}
_OTHER_WAYS = (  # of writing tags of a scheme, and what shows them
    ("an underscore for the hyphen", re.compile(r"[BIESMLU]_.+", re.DOTALL)),
    ("small letters", re.compile(r"[bi]-.+", re.DOTALL)),
    ("the letter behind the type", re.compile(r".+-[BI]", re.DOTALL)),
    ("no type", re.compile(r"[BI]")),
    ("numbers for tags", re.compile(r"[0-9]+")),
)


class Entity(NamedTuple):
    """A run of words [start, end) of one type."""

    start: int
    end: int
    label: str


def split_tag(tag: str) -> tuple[str, str]:
    """Return letter and type of a tag; `O` and no type for what has no letter of any scheme."""
    return (tag[0], tag[2:]) if _TAG.fullmatch(tag) else ("O", "")


def recognise(tags: Iterable[str], openings: Mapping[str, int] | None = None) -> str | None:
    """Return the scheme of these different tags by their letters; None when none has one, so that they are plain tags such as NOUN.

    M tells BMES; E or S BIOES, and L or U BILOU, of which every file with an entity has one; B BIO; I alone IO.
    openings: how often `opening` is B and I in the sentences; where I is ahead, tags with the letters of BIO are IOB1
    """
    found = {split_tag(tag)[0] for tag in tags} - {"O"}
    if not found:
        return None
    if found <= {"B", "I"} and openings is not None and "B" in found and openings.get("I", 0) > openings.get("B", 0):
        return "iob1"
    for scheme, letters in (("bmes", "M"), ("bioes", "ES"), ("bilou", "LU"), ("bio", "B")):
        if found & set(letters):
            return scheme
    return "io"


def opening(before: str | None, tag: str) -> str:
    """Return the letter of `tag` where it begins an entity that is not right behind one of its type, else an empty string.

    It is B in BIO and I in IOB1. before: the tag of the word before; None at the beginning of a sentence
    """
    letter, label = split_tag(tag)
    return letter if letter != "O" and (before is None or split_tag(before)[1] != label) else ""


def openings(tags: Sequence[str]) -> Counter[str]:
    """Return how often each letter is the `opening` of an entity in a sentence, for `recognise`."""
    return Counter(letter for before, tag in pairwise([None, *tags]) if tag is not None and (letter := opening(before, tag)))


def written_otherwise(tags: Collection[str]) -> str | None:
    """Return how tags of no scheme are written that seem to mean one (`B_PER`, `b-per`, `PER-B`, `B`, numbers), else None."""
    others = set(tags) - {"O"}
    for way, pattern in _OTHER_WAYS:
        if others and all(pattern.fullmatch(tag) for tag in others):
            return way
    return None


def strangers(tags: Iterable[str]) -> list[str]:
    """Return the tags that belong to no scheme: neither `O` nor a letter with a type."""
    return [tag for tag in tags if tag != "O" and not _TAG.fullmatch(tag)]


def default_entities(tags: Sequence[str]) -> list[Entity]:
    """Return entities as seqeval's default mode and conlleval read them, which makes an entity of any run whatever its letters.

    Equal to `seqeval.metrics.sequence_labeling.get_entities`, with M read as I, L as E and U as S.
    """
    found = []
    begin, last, kind = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        letter, label = split_tag(tag)
        letter = _AS_BIOES.get(letter, letter)
        inside = last != "O"
        if inside and (last in "ES" or letter in "BSO" or label != kind):
            found.append(Entity(begin, i, kind))
            inside = False
        if letter != "O" and not inside:
            begin = i
        last, kind = letter, label
    return found


def strict_entities(tags: Sequence[str], scheme: str) -> list[Entity]:
    """Return the entities that are written exactly as the scheme says, and no others.

    Equal to seqeval's strict mode with IOB2 for bio, IOBES for bioes and (M read as I) bmes, BILOU for bilou. IO, which seqeval does not
    have, knows no wrong way to write an entity: a run of one type is one.
    """
    if scheme == "io":
        return default_entities(tags)
    ends = scheme != "bio"
    _, middle, last, single = tuple(LETTERS[scheme] if ends else "BIIB")
    read = [split_tag(tag) for tag in tags]
    found: list[Entity] = []
    i = 0
    while i < len(read):
        letter, label = read[i]
        begin, i = i, i + 1
        if ends and letter == single:
            found.append(Entity(begin, i, label))
        if letter != "B":
            continue
        while i < len(read) and read[i] == (middle, label):
            i += 1
        if not ends:
            found.append(Entity(begin, i, label))
        elif i < len(read) and read[i] == (last, label):
            i += 1
            found.append(Entity(begin, i, label))
    return found


def write(entities: Iterable[Entity], length: int, scheme: str) -> list[str]:
    """Return the tags of `length` words with these entities, which do not overlap."""
    tags = ["O"] * length
    first, middle, last, single = tuple({"bio": "BIIB", "io": "IIII"}.get(scheme, LETTERS[scheme]))
    for start, end, label in entities:
        letters = [first, *[middle] * (end - start - 2), last] if end - start > 1 else [single]
        tags[start:end] = [f"{letter}-{label}" for letter in letters]
    return tags


def convert(tags: Sequence[str], source: str, target: str) -> list[str]:
    """Return `tags` of scheme `source` in scheme `target`. What breaks its scheme is read as `default_entities` does."""
    return list(tags) if source == target else write(default_entities(tags), len(tags), target)


def allowed(before: str | None, after: str | None, scheme: str) -> bool:
    """Return whether tag `after` may follow tag `before`; None stands for the sentence's border."""
    letters = LETTERS["bio" if scheme == "iob1" else scheme]
    one, kind = split_tag(before) if before is not None else ("O", "")
    two, label = split_tag(after) if after is not None else ("O", "")
    if (one != "O" and one not in letters) or (two != "O" and two not in letters):
        return False
    if scheme == "io":
        return True
    if scheme == "iob1":
        return two != "B" or kind == label
    inside = two in "IMEL"
    if scheme == "bio":
        return not inside or (one in "BI" and kind == label)
    opened = one in "BIM"
    return opened == inside and (not inside or kind == label)


def faults(tags: Sequence[str], scheme: str) -> list[tuple[int, str]]:
    """Return each place that breaks the scheme, as the number of the word and what is wrong there."""
    if scheme == "io":
        return []
    found = []
    last: str | None = None
    for i, tag in enumerate([*tags, None]):
        if not allowed(last, tag, scheme):
            after = "at the beginning of the sentence" if last is None else f"after {last}"
            found.append((min(i, len(tags) - 1), f"{tag} {after}" if tag is not None else f"the sentence ends after {last}"))
        last = tag
    return found


def types(tags: Collection[str]) -> list[str]:
    """Return the types of entities in tags, sorted."""
    return sorted({label for letter, label in map(split_tag, tags) if letter != "O"})
