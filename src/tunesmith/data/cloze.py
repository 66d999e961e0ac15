"""Texts put into a template with a gap, as token sequences: a long text gives way, the template never does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.tokens import Encoded, Int32, TextEncoder, Texts, Truncation
from tunesmith.errors import ModelError, UsageError, setting
from tunesmith.prompts import MASK

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MASKS = ("[MASK]", "<mask>")


class ClozeEncoder(TextEncoder):
    """A `TextEncoder` whose sequences are `template` round the text, its gap a mask token.

    mask: the mask token as the tokenizer writes it
    gap: where the mask token stands in every sequence: from its start, or if below 0 from its end
    """

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, template: str, fallback_token: int | None = None) -> None:
        super().__init__(tokenizer, truncation, fallback_token)
        self.template = template
        known = {name: found for name in _MASKS if (found := tokenizer.token_to_id(name)) is not None}
        if not known:
            raise ModelError(
                f"the tokenizer of this model has no mask token, so there is no gap to fill. Take {setting('method', 'labels')}, or a "
                "masked language model such as BERT."
            )
        self.mask, mask = next(iter(known.items()))
        before, after = template.split("{}")
        self._space = " " if before.strip() else ""  # the text begins a new word
        self.prefix = np.concatenate([self.prefix, self._tokens(before.rstrip(), mask)])
        self.suffix = np.concatenate([self._tokens(after, mask), self.suffix])
        places = [int(place) for place in np.flatnonzero(self.prefix == mask)] + [
            int(place) - len(self.suffix) for place in np.flatnonzero(self.suffix == mask)
        ]
        self.gap = places[0]
        self.budget = truncation.max_length - len(self.prefix) - len(self.suffix)
        if self.budget < 1:
            raise UsageError(
                f"{setting('max_length')} {truncation.max_length} leaves no room for text beside the {len(self.prefix) + len(self.suffix)} "
                f"tokens of the {setting('template')}. Raise it, or shorten the template."
            )
        if truncation.policy == "windows" and truncation.stride >= self.budget:
            raise UsageError(
                f"{setting('stride')} {truncation.stride} must be below the {self.budget} tokens of text that one window holds."
            )

    def settings(self) -> list[Any]:
        """Return every setting that changes what is encoded, but for the tokenizer, as plain values."""
        return [asdict(self.truncation), self.fallback_token, self.template]

    def encode(self, texts: Sequence[Texts], offsets: bool = False) -> list[Encoded]:
        """Encode texts, each in the template."""
        return super().encode([self._space + (text if isinstance(text, str) else text[0]) for text in texts], offsets)

    def word(self, word: str) -> list[int]:
        """Return the tokens of a word that fills the gap, as it is written behind a space, else at the begin of a text."""
        tokens = [self.tokenizer.encode(form, add_special_tokens=False).ids for form in (f" {word}", word)]
        return min(tokens, key=len)

    def _tokens(self, text: str, mask: int) -> Int32:
        """Return the tokens of a part of the template; a space before the gap belongs to it."""
        parts = text.split(MASK)
        found = self.tokenizer.encode_batch([part.rstrip() for part in parts[:-1]] + parts[-1:], add_special_tokens=False)
        ids = found[0].ids
        for part in found[1:]:
            ids = [*ids, mask, *part.ids]
        return np.array(ids, np.int32)
