"""How alike two texts are: normalised keys, sets of character shingles, and sketches of those.

Jaccard similarity of shingles: Broder 1997, "On the resemblance and containment of documents". The sketch's cost hardly depends on its
size: Dahlgaard, Knudsen, Thorup 2017, "Fast Similarity Sketching".
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

Array = np.ndarray

_SHINGLE = 5  # characters, alphabetic scripts
_SHINGLE_DENSE = 2  # characters, scripts in which a character carries a syllable or a word
_DENSE = ((0x2E80, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # Han, kana, bopomofo; Hangul; Han again

WORDS = 4  # 64-bit words that hold two bits of each of the first 128 values of a sketch
_EMPTY = np.uint32(0xFFFFFFFF)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def normalise(text: str) -> str:
    """Return `text` with case, compatibility forms (full width, ligatures) and white space folded: equal means the same text."""
    if text.isascii():
        return " ".join(text.lower().split())
    # Folding case can undo the normal form and the other way round (Unicode Standard, section 3.13, definition D146).
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", text).split())


def text_key(text: str) -> int:
    """Return a 64-bit BLAKE2b hash of the normalised text, the same in every process and on every machine."""
    return key_of(normalise(text))


def key_of(normalised: str) -> int:
    return int.from_bytes(hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def shingles(text: str) -> frozenset[str]:
    """Return the set of character shingles of the normalised text: 5 characters, or 2 when most are Han, kana or Hangul.

    A text shorter than that is its own only shingle, so that it resembles nothing but itself; the empty text has none.
    """
    text = normalise(text)
    size = _shingle_size(text)
    return frozenset(text[i : i + size] for i in range(len(text) - size + 1)) if text else frozenset()


def jaccard(left: str, right: str) -> float:
    """Return the size of the intersection over the size of the union of two texts' shingles; 0 when both are empty."""
    return similarity_of(shingles(left), shingles(right))


def similarity_of(left: frozenset[str], right: frozenset[str]) -> float:
    common = len(left & right)
    return common / max(len(left) + len(right) - common, 1)


def _shingle_size(normalised: str) -> int:
    if normalised.isascii():
        dense = 0
    else:
        codes = _codes(normalised)
        dense = sum(int(np.count_nonzero((codes >= first) & (codes <= last))) for first, last in _DENSE)
    return min(_SHINGLE_DENSE if 2 * dense > len(normalised) else _SHINGLE, len(normalised))


def _codes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def mix(values: Array) -> Array:
    """Spread 64-bit values over all their bits (the finalizer of SplitMix64: Steele, Lea, Flood 2014)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hashes(texts: Sequence[str]) -> tuple[Array, Array]:
    """Return the hash (uint64) of every shingle of the non-empty normalised `texts`, and the text it belongs to."""
    codes = _codes("".join(texts)).astype(np.uint64) + np.uint64(1)
    lengths = np.array([len(text) for text in texts], np.int64)
    sizes = np.array([_shingle_size(text) for text in texts], np.int64)
    starts = np.cumsum(lengths) - lengths
    found, owners = [], []
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        counts = lengths[chosen] - size + 1
        owner = np.repeat(chosen, counts)
        position = np.arange(len(owner)) + np.repeat(starts[chosen] - (np.cumsum(counts) - counts), counts)
        value = np.full(len(codes) - size + 1, size, np.uint64)
        for shift in range(size):
            value = value * MULTIPLIER + codes[shift : shift + len(value)]
        found.append(mix(value[position]))
        owners.append(owner)
    return np.concatenate(found), np.concatenate(owners)


def sketch_of(texts: Sequence[str], bins: int) -> Array:
    """Return uint32[len(texts), bins]: two texts agree in one place with a probability equal to their Jaccard similarity.

    In each round every shingle falls into one bin; a bin keeps the smallest value of the first round that reaches it. Long
    texts need one round, short ones a few more; after `bins` rounds each further round fills one bin from all shingles.
    """
    hashes, owner = _hashes(texts)
    sketch = np.full((len(texts), bins), _EMPTY)
    flat = sketch.reshape(-1)
    for turn in range(2 * bins):
        value = mix(hashes ^ np.uint64((turn + 1) * 0xD1342543DE82EF95 & 0xFFFFFFFFFFFFFFFF))
        bin_ = ((value >> np.uint64(32)) * np.uint64(bins) >> np.uint64(32)).astype(np.int64) if turn < bins else np.int64(turn - bins)
        place = owner * bins + bin_
        reached = flat[place] == _EMPTY
        small = np.minimum(value[reached].astype(np.uint32), _EMPTY - np.uint32(1))
        np.minimum.at(flat, place[reached], small)
        unfinished = (sketch == _EMPTY).any(axis=1)
        if not unfinished.any():
            break
        keep = unfinished[owner]
        hashes, owner = hashes[keep], owner[keep]
    return sketch


def two_bits(sketch: Array) -> Array:
    values = (sketch[:, : 32 * WORDS] & np.uint32(3)).astype(np.uint64)
    words = np.zeros((len(sketch), WORDS), np.uint64)
    for i in range(values.shape[1]):
        words[:, i // 32] |= values[:, i] << np.uint64(2 * (i % 32))
    return words
