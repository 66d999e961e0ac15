"""What a model is told of labels instead of being trained: descriptions or words for each label, and templates they stand in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import did_you_mean, listing

MASK = "[MASK]"
"""Where a cloze template has its gap, however the encoder's tokenizer writes it."""

TEMPLATES = {
    "Latin": ("{}", "This text is about {}.", "This is {}."),
    "Han": ("{}", "这段文字是关于{}的。", "这是{}。"),
    "Cyrillic": ("{}", "Этот текст: {}.", "Тема текста: {}."),
}
"""Sentences in which a description of a label stands, by script; the vectors of the sentences are averaged."""

CLOZES = {"Latin": f"{{}} It was {MASK}.", "Han": f"{{}} 总之很{MASK}。", "Cyrillic": f"{{}} Это было {MASK}."}
"""A text and a gap, by the script of the words that may fill the gap."""


def parse(value: Any) -> dict[str, list[str]] | None:
    """Return descriptions or words by label, from a mapping, the path of a TOML file, or `label=words,label=words`.

    Raises `ValueError` that says what is allowed.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = _read(Path(value)) if "=" not in value else _inline(value)
    if not isinstance(value, Mapping) or not value:
        raise ValueError("it must say something of each label: the path of a TOML file, or 'label=words,label=words'")
    found = {}
    for label, said in value.items():
        words = [said] if isinstance(said, str) else said
        if not isinstance(words, Sequence) or not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"label {label!r} has no description: {said!r:.60} must be a text, or a list of texts")
        found[str(label)] = [word.strip() for word in words]
    return found


def _read(path: Path) -> Any:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f'there is no file {path}. Write a TOML file with a line `label = "description"` for each label') from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return values["labels"] if values.keys() == {"labels"} and isinstance(values["labels"], dict) else values


def _inline(value: str) -> dict[str, str]:
    """Read `label=words,label=words`; a comma that no `label=` follows belongs to the words."""
    found = {}
    for pair in re.split(r",(?=[^,=]+=)", value):
        label, sign, words = pair.partition("=")
        if not sign or not label.strip():
            raise ValueError(f"{pair!r} is not LABEL=WORDS. Example: 'HUM=a person,LOC=a place'")
        if label.strip() in found:
            raise ValueError(f"label {label.strip()!r} stands there twice; several descriptions of a label go into a TOML file, as a list")
        found[label.strip()] = words
    return found


def readable(label: str) -> str:
    """Return the name of a label as words: `card_arrival` and `cardArrival` give `card arrival`."""
    parted = re.sub(r"(?<=[a-zа-яё0-9])(?=[A-ZА-ЯЁ])", " ", label)
    words = re.sub(r"[\s_\-/.:]+", " ", parted).strip()
    if not words:
        return label
    return words if words.isupper() else words.lower()


def described(labels: Sequence[str], prompts: Mapping[str, Sequence[str]] | None) -> tuple[list[list[str]], list[str]]:
    """Return what is said of each label, its name where nothing is told, and the labels of which nothing is told.

    Raises `ValueError` for prompts of what is no label.
    """
    told = prompts if prompts is not None else {}
    for label in told:
        if label not in labels:
            raise ValueError(f"{label!r} is not a label.{did_you_mean(label, labels)} Labels: {listing(labels)}")
    return [list(told.get(label, [readable(label)])) for label in labels], [label for label in labels if label not in told]


def templates_of(template: str | None, method: str, script: str) -> list[str]:
    """Return the templates that are told, else those of the script. Raises `ValueError` for one that lacks its gaps."""
    if method == "cloze":
        found = [template if template is not None else CLOZES.get(script, CLOZES["Latin"])]
    else:
        found = list(TEMPLATES.get(script, TEMPLATES["Latin"])) if template is None else template.split("|")
    found = [one.replace("{text}", "{}").replace("{label}", "{}").strip() for one in found]
    for one in found:
        if one.count("{}") != 1:
            what = "the text" if method == "cloze" else "the description of a label"
            raise ValueError(f"{one!r} must have {{}} once, where {what} stands. Example: '{_example(method)}'")
        if method == "cloze" and one.count(MASK) != 1:
            raise ValueError(f"{one!r} must have {MASK} once, the gap that a word of a label fills. Example: '{_example(method)}'")
    return found


def _example(method: str) -> str:
    return CLOZES["Latin"] if method == "cloze" else "|".join(TEMPLATES["Latin"])
