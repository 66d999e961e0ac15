"""Scripts that put no spaces between words."""

from __future__ import annotations

RANGES = (
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
"""Code points of Thai, Lao and Tibetan, Burmese, Khmer, kana and Chinese characters. Hangul has spaces."""
UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in RANGES)
"""The same, for the [ ] of a regular expression."""
