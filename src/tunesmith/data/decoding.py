"""Bytes to lines of text, with every fault of the encoding placed by line and byte."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from typing import Protocol

from tunesmith.errors import DataError, UsageError, did_you_mean, setting

MAX_LINE_CHARS = 64 * 2**20
_PIECE_BYTES = 2**20

_BOMS = (  # UTF-32 first: its mark begins with the one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_CONTAINERS = (
    (b"PK\x03\x04", "a ZIP archive (an Excel workbook is one too). Unpack it, or export the sheet as CSV"),
    (b"PAR1", "a Parquet file. Give it the extension .parquet"),
    (b"ARROW1", "an Arrow file. Give it the extension .arrow"),
    (b"\x1f\x8b", "compressed with gzip. Unpack it first (gunzip)"),
    (b"BZh", "compressed with bzip2. Unpack it first (bunzip2)"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard. Unpack it first (unzstd)"),
    (b"\xfd7zXZ", "compressed with xz. Unpack it first (unxz)"),
    (b"%PDF", "a PDF document. Export its text"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document. Export it as CSV"),
)
_USUAL = ("utf-8", "utf-16", "latin-1", "cp1252", "cp1250", "cp1251", "koi8-r", "gb18030", "gbk", "big5", "shift_jis", "euc_jp", "euc_kr")
_MARKS = "…•·¿¡§„°©®™、。，！？：；（）《》「」『』"  # not the low quote and the per mille sign, frequent in Japanese taken for cp1252
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_WORD = re.compile(r"[^\W\d_]+")


class ByteStream(Protocol):
    """What is asked of a binary file."""

    def readline(self, size: int = -1, /) -> bytes: ...


class TextStream(Protocol):
    """What is asked of a text file."""

    def readline(self) -> str: ...


def check_encoding(encoding: str) -> str:
    """Return the standard name of a text encoding; raises UsageError when there is none of this name."""
    try:
        info = codecs.lookup(encoding)
    except (LookupError, ValueError):
        info = None
    if info is None or not getattr(info, "_is_text_encoding", True) or info.incrementaldecoder is None:
        raise UsageError(f"encoding {encoding!r} is not known.{did_you_mean(encoding, _USUAL)} Usual ones are {', '.join(_USUAL)}.")
    return info.name


def count_line_ends(text: str) -> int:
    """Return how many line ends (LF, CRLF, lone CR) `text` holds."""
    if "\r" not in text:
        return text.count("\n")
    return sum(1 for _ in _LINE_END.finditer(text))


def text_lines(stream: ByteStream, name: str, encoding: str | None) -> Iterator[str]:
    """Yield the lines of `stream` with their ends, each as soon as its last byte came in.

    Lines end at LF, CRLF or a lone CR, as editors count them. `encoding` None means what a byte order mark says, else
    UTF-8; a byte order mark is dropped. Raises DataError naming `name` and the line for bytes that are not of the encoding,
    NUL characters and lines over MAX_LINE_CHARS.
    """
    piece = stream.readline(_PIECE_BYTES)
    for magic, what in _CONTAINERS:
        if piece.startswith(magic):
            raise DataError(f"{name}: this is not text but {what}.")
    if encoding is None:
        encoding = next((known for mark, known in _BOMS if piece.startswith(mark)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0  # bytes handed to the decoder
    count = 0  # lines yielded
    carry = ""
    fresh = True
    while True:
        done += len(piece)
        try:
            text = decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            raise _bad_bytes(error, name, encoding, done, count, carry) from None
        except UnicodeError as error:  # UTF-16 without its mark
            raise DataError(
                f"{name}:{count + 1}: the text is not {encoding} ({error}). Leave {setting('encoding')} out, or name the right one."
            ) from None
        if fresh and text:
            text = text.removeprefix("\ufeff")
            fresh = False
        if carry:
            text = carry + text
            carry = ""
        if not piece:
            for line in _LINE.findall(text):
                count += 1
                yield _checked(line, name, count, encoding)
            return
        body = len(text) - (2 if text.endswith("\r\n") else 1)
        if text.endswith("\n") and text.find("\n") >= body and text.find("\r", 0, body) < 0:
            lines = [text]
        else:
            # several lines (lone CR, UTF-16) or a part of one; what has no LF at its end may go on in the next piece
            lines = _LINE.findall(text)
            if lines and not lines[-1].endswith("\n"):
                carry = lines.pop()
        for line in lines:
            count += 1
            yield _checked(line, name, count, encoding)
        if len(carry) > MAX_LINE_CHARS:
            raise DataError(
                f"{name}:{count + 1}: this line is longer than {MAX_LINE_CHARS:,} characters, the most that is allowed. "
                "Check that the file is text with one row a line."
            )
        piece = stream.readline(_PIECE_BYTES)


def lines_of_text(stream: TextStream, name: str) -> Iterator[str]:
    """Yield lines as `text_lines` does, from a stream that gives text already (io.StringIO, say)."""
    count = 0
    while text := stream.readline():
        if not count:
            text = text.removeprefix("\ufeff")
        for line in _LINE.findall(text):
            count += 1
            yield _checked(line, name, count, "utf-8")


def _checked(line: str, name: str, number: int, encoding: str) -> str:
    place = line.find("\0")
    if place < 0:
        return line
    # every other byte NUL is how UTF-16 looks to those who take it for single bytes
    if encoding == "utf-8" and line.count("\0") * 3 > len(line):
        known = setting("encoding", "utf-16-be" if place % 2 == 0 else "utf-16-le")
        advice = f"This looks like UTF-16 without a byte order mark: pass {known}."
    else:
        advice = "Text files hold none: the file is damaged or binary. Remove them, with `tr -d '\\000' < old > new` for instance."
    raise DataError(f"{name}:{number}: a NUL character stands at column {place + 1}. {advice}")


def _bad_bytes(error: UnicodeDecodeError, name: str, encoding: str, done: int, count: int, carry: str) -> DataError:
    raw = error.object
    offset = done - len(raw) + error.start
    before = carry + raw[: error.start].decode(encoding, "replace")
    line = count + count_line_ends(before) + 1
    byte = raw[error.start]
    found = f"{name}:{line}: byte 0x{byte:02x} at offset {offset:,} of the file is not valid {encoding}"
    if offset == 0 and (mark := next((known for bom, known in _BOMS if raw.startswith(bom)), None)):
        return DataError(
            f"{found}. The file begins with a byte order mark of {mark}: leave {setting('encoding')} out, "
            f"or pass {setting('encoding', mark)}."
        )
    begin = raw.rfind(b"\n", 0, error.start) + 1
    if error.start - begin > 2000:
        begin = error.start
    sample = raw[begin : error.start + 2000]
    likely = _likely_encodings(sample)
    if not likely:
        return DataError(
            f"{found}. Say how the file is encoded, for instance {setting('encoding', 'cp1252')}, cp1251 or gb18030, or save it as UTF-8."
        )
    readings = " or ".join(f"{_reading(sample, error.start - begin, known)!r} in {known}" for known in likely)
    advice = " or ".join(setting("encoding", known) for known in likely)
    return DataError(f"{found}. Here it would read {readings}: if that is right, pass {advice}; else save the file as UTF-8.")


def _likely_encodings(sample: bytes) -> list[str]:
    """Return at most two encodings in which `sample` reads like text, the likelier first."""
    # what programs call Latin-1 is Windows-1252 in most files: the same letters, and the euro, quotes and dashes besides
    scores = {known: _plausibility(sample, known) for known in ("cp1252", "cp1251", "gb18030", "shift_jis")}
    ranked = sorted(scores, key=lambda known: -scores[known])
    return [known for known in ranked if scores[known] >= max(0.5, scores[ranked[0]] - 0.2)][:2]


def _decode(sample: bytes, encoding: str) -> str:
    # not final: the sample may be cut in the middle of a character
    return codecs.getincrementaldecoder(encoding)().decode(sample)


def _reading(sample: bytes, place: int, encoding: str) -> str:
    """Return the words around the byte at `place`."""
    text = _decode(sample, encoding).rstrip("\r\n")
    middle = len(sample[:place].decode(encoding, "ignore"))
    return text[max(0, middle - 15) : middle + 15].strip()


def _plausibility(sample: bytes, encoding: str) -> float:
    """Return the share, 0 to 1, of the characters beyond ASCII that look at home in `encoding`."""
    try:
        text = _decode(sample, encoding)
    except UnicodeDecodeError:
        return 0.0
    beyond = [char for char in text if char > "\x7f"]
    if not beyond or any(unicodedata.category(char) in ("Cc", "Co", "Cn") for char in beyond):
        return 0.0
    good = sum(sum(char > "\x7f" for char in word) for word in _WORD.findall(text) if _fits(word, encoding))
    good += sum(unicodedata.category(char) in ("Pi", "Pf", "Pd", "Sc", "Zs") or char in _MARKS for char in beyond)
    return good / len(beyond)


def _fits(word: str, encoding: str) -> bool:
    if encoding in ("gb18030", "shift_jis"):
        # bytes of other encodings fall anywhere in the plane; real text keeps to the common characters
        foreign = [char for char in word if char > "\x7f"]
        # one ideograph within a word of Latin letters is a letter with an accent, misread
        return 2 * len(foreign) >= len(word) and sum(_common(char, encoding) for char in foreign) >= 0.7 * len(foreign)
    if not (word.islower() or word.isupper() or word.istitle()):
        return False
    beyond = sum(char > "\x7f" for char in word)
    if encoding == "cp1251":
        return beyond == len(word) and all("\u0400" <= char <= "\u04ff" for char in word)
    latin = all(char <= "\x7f" or "LATIN" in unicodedata.name(char, "") for char in word)
    return latin and (len(word) == 1 or beyond <= 0.6 * len(word))


def _common(char: str, encoding: str) -> bool:
    if encoding == "shift_jis":
        return "\u3040" <= char <= "\u30ff" or "\u4e00" <= char <= "\u9fff"
    try:
        return 0xB0 <= char.encode("gb2312")[0] <= 0xD7  # the 3,755 everyday characters
    except UnicodeEncodeError:
        return False
