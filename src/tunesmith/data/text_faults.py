"""Faults of single texts that can be seen in their characters, and the script a text is written in."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

HUGE = 1_000_000  # characters
_SCRIPT_SAMPLE = 256  # characters looked at to tell the script

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HTML = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d{1,6}|#x[0-9a-fA-F]{1,5});")


def _continuation() -> str:
    """Return, as a character class, what the bytes 0x80 to 0xBF of UTF-8 become in Latin-1 and Windows-1252."""
    characters = {chr(byte) for byte in range(0x80, 0xC0)}
    characters |= {bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0)}
    return "[" + re.escape("".join(sorted(characters))) + "]"


# Lead bytes and how often the pattern must come: `É»` and `é…”` are good French, and happen to be the bytes of a character.
_MOJIBAKE = re.compile("[ÂÃ]{0}|â[€\x80]{0}|(?:[ÐÑ]{0}){{2}}|(?:[ä-éã]{0}{0}){{2}}|ðŸ{0}{0}|ï»¿".format(_continuation()))


def faults(text: str) -> list[str]:
    """Return which of `undecoded`, `mojibake`, `control`, `html`, `huge` (fields of `Audit`) apply to a text."""
    found = []
    if not text.isascii():
        if "\ufffd" in text:
            found.append("undecoded")
        if _MOJIBAKE.search(text):
            found.append("mojibake")
    if not text.isprintable() and _CONTROL.search(text):
        found.append("control")
    if ("<" in text or "&" in text) and _HTML.search(text):
        found.append("html")
    if len(text) > HUGE:
        found.append("huge")
    return found


def fault_position(text: str, fault: str) -> int:
    """Return the character position at which a fault of `faults` begins."""
    pattern = {"mojibake": _MOJIBAKE, "control": _CONTROL, "html": _HTML}.get(fault)
    match = pattern.search(text) if pattern is not None else None
    return match.start() if match is not None else max(text.find("\ufffd"), 0)


@functools.lru_cache(1 << 16)
def _script_of(character: str) -> str:
    if not character.isalpha():
        return ""
    word = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split(" ")[0].split("-")[0]
    return {"CJK": "Han", "HIRAGANA": "kana", "KATAKANA": "kana"}.get(word, word.capitalize())


def script(text: str) -> str:
    """Return the script of most letters among the first ones (Latin, Cyrillic, Han, Japanese, ...), `none` without letters."""
    sample = text[:_SCRIPT_SAMPLE]
    if sample.isascii():
        return "Latin" if any(map(str.isalpha, sample)) else "none"
    counts = Counter(map(_script_of, sample))
    del counts[""]
    letters = counts.total()
    if 10 * counts["kana"] >= letters > 0 and 2 * (counts["kana"] + counts["Han"]) > letters:
        return "Japanese"
    return max(counts, key=lambda name: (counts[name], name)) if letters else "none"


def snippet(text: str, around: int = 0, width: int = 90) -> str:
    """Return a piece of `text` on one line, at most about `width` characters, that shows the position `around`.

    Characters that a terminal would act upon stand as escapes.
    """
    begin = around - width // 3 if around > width // 3 + 10 else 0  # wide characters fill a line sooner
    piece = " ".join(text[begin : begin + width + 1].split())
    cut = len(text) > begin + width
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in piece[:width])
    return ("…" if begin else "") + shown + ("…" if cut else "")
