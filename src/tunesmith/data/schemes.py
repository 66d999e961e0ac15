"""Tagging schemes: how tags of words say where entities begin and end, and the way from one scheme to another.

BIO (IOB2 of Ramshaw and Marcus 1995 and Sang and Veenstra 1999), BIOES (IOBES), BMES (BIOES with M for I), IO. A tag is `O` or a letter, a
hyphen and a type: `B-PER`. In IO two neighbouring entities of one type cannot be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

LETTERS = {"bio": "BI", "bioes": "BIES", "bmes": "BMES", "io": "I"}
_TAG = re.compile(r"[BIESM]-.+", re.DOTALL)


class Entity(NamedTuple):
    """A run of words [start, end) of one type."""

    start: int
    end: int
    label: str


def split_tag(tag: str) -> tuple[str, str]:
    """Return letter and type of a tag; `O` and no type for what has no letter of any scheme."""
    return (tag[0], tag[2:]) if _TAG.fullmatch(tag) else ("O", "")


def recognise(tags: Iterable[str]) -> str | None:
    """Return the scheme of these different tags by their letters; None when none has one, so that they are plain tags such as NOUN.

    M tells BMES; E or S BIOES, of which every file with an entity has one; B BIO; I alone IO.
    """
    found = {split_tag(tag)[0] for tag in tags} - {"O"}
    if not found:
        return None
    return "bmes" if "M" in found else "bioes" if found & {"E", "S"} else "bio" if "B" in found else "io"


def strangers(tags: Iterable[str]) -> list[str]:
    """Return the tags that belong to no scheme: neither `O` nor a letter with a type."""
    return [tag for tag in tags if tag != "O" and not _TAG.fullmatch(tag)]


def default_entities(tags: Sequence[str]) -> list[Entity]:
    """Return entities as seqeval's default mode and conlleval read them, which makes an entity of any run whatever its letters.

    Equal to `seqeval.metrics.sequence_labeling.get_entities`, with M read as I.
    """
    found = []
    begin, last, kind = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        letter, label = split_tag(tag)
        letter = "I" if letter == "M" else letter
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

    Equal to seqeval's strict mode with IOB2 for bio, and with IOBES for bioes and (M read as I) bmes. IO, which seqeval does not have,
    knows no wrong way to write an entity: a run of one type is one.
    """
    if scheme == "io":
        return default_entities(tags)
    ends = scheme != "bio"
    read = [split_tag(tag) for tag in tags]
    middle = "M" if scheme == "bmes" else "I"
    found: list[Entity] = []
    i = 0
    while i < len(read):
        letter, label = read[i]
        begin, i = i, i + 1
        if ends and letter == "S":
            found.append(Entity(begin, i, label))
        if letter != "B":
            continue
        while i < len(read) and read[i] == (middle, label):
            i += 1
        if not ends:
            found.append(Entity(begin, i, label))
        elif i < len(read) and read[i] == ("E", label):
            i += 1
            found.append(Entity(begin, i, label))
    return found


def write(entities: Iterable[Entity], length: int, scheme: str) -> list[str]:
    """Return the tags of `length` words with these entities, which do not overlap."""
    tags = ["O"] * length
    middle = "M" if scheme == "bmes" else "I"
    for start, end, label in entities:
        letters = [middle] * (end - start)
        if scheme != "io":
            letters[0] = "B"
        if scheme in ("bioes", "bmes"):
            letters[-1] = "E"
            if end - start == 1:
                letters[0] = "S"
        tags[start:end] = [f"{letter}-{label}" for letter in letters]
    return tags


def convert(tags: Sequence[str], source: str, target: str) -> list[str]:
    """Return `tags` of scheme `source` in scheme `target`. What breaks its scheme is read as `default_entities` does."""
    return list(tags) if source == target else write(default_entities(tags), len(tags), target)


def allowed(before: str | None, after: str | None, scheme: str) -> bool:
    """Return whether tag `after` may follow tag `before`; None stands for the sentence's border."""
    letters = LETTERS[scheme]
    one, kind = split_tag(before) if before is not None else ("O", "")
    two, label = split_tag(after) if after is not None else ("O", "")
    if (one != "O" and one not in letters) or (two != "O" and two not in letters):
        return False
    if scheme == "io":
        return True
    inside = two in "IME"
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
