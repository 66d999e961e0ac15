"""What became of the rows and tokens of a file, told wherever they were lost: in training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.data.schema import Example
from tunesmith.data.tokens import Encoded, ExampleEncoder
from tunesmith.errors import counted, listing
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Rows

_SKETCH = 2000


@dataclass
class Tally:
    """What became of the texts that were predicted: how many, how many were cut, tokens in all and lost, and where texts were empty.

    blank: rows without any text; halved: rows with one of two
    """

    rows: int = 0
    cut: int = 0
    tokens: int = 0
    lost: int = 0
    blank: list[str] = field(default_factory=list)
    halved: list[str] = field(default_factory=list)

    def add(self, examples: Sequence[Example], encoded: Sequence[Encoded]) -> None:
        """Count these examples."""
        self.rows += len(encoded)
        self.cut += sum(one.lost > 0 for one in encoded)
        self.tokens += sum(one.tokens for one in encoded)
        self.lost += sum(one.lost for one in encoded)
        for example in examples:
            full = sum(bool(text.strip()) for text in example.texts)
            if full < len(example.texts):
                (self.halved if full else self.blank).append(str(example.source))

    def sentences(self) -> list[str]:
        """Return what the user should know, nothing when nothing was lost."""
        said = []
        if self.cut:
            share = self.lost / self.tokens
            was = "was" if self.cut == 1 else "were"
            said.append(
                f"{self.cut:,} of {counted(self.rows, 'text')} {was} longer than the model reads; {share:.1%} of all tokens were cut off."
            )
        for found, what in ((self.blank, "no text"), (self.halved, "only one of the two texts")):
            if found:
                have, them = ("has", "it") if len(found) == 1 else ("have", "them")
                where = listing(found, 5)
                said.append(f"{counted(len(found), 'row')} {have} {what}; what is predicted for {them} says nothing ({where}).")
        return said


def account(rows: Rows, encoder: ExampleEncoder, task: Task) -> dict[str, Any]:
    """Return how many rows and tokens of `rows` were cut, and the sequences that `task` arranges them in, as plain values."""
    table, index, arranged = rows.table, rows.index, task.arrange(rows)
    words = getattr(rows.targets, "words", None)
    return {
        **({"words": words(index)} if words is not None else {}),
        "rows_read": len(table),
        "rows_used": len(index),
        "dropped_empty": 0,
        "dropped_duplicates": 0,
        "dropped_unlabelled": 0,
        "duplicates_found": int(len(index) - len(np.unique(table.text_key[index]))),
        "rows_truncated": int((table.lost[index] > 0).sum()),
        "tokens_read": int(table.tokens[index].sum()),
        "tokens_lost": int(table.lost[index].sum()),
        "max_length": encoder.truncation.max_length,
        "truncation": encoder.truncation.policy,
        "windows": int(arranged.table.sequences[arranged.index].sum()),
    }


def sketch_of(keys: np.ndarray, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the smallest keys of the training texts (uint64), by which `seen_before` finds them again.

    before: the sketch of texts that were trained on earlier; more than it holds are counted as others than these
    Bottom-k sketch: Cohen and Kaplan 2007, "Summarizing Data using Bottom-k Sketches", section 2.
    """
    different = np.unique(keys)
    if before is None:
        return {"texts": len(different), "keys": different[:_SKETCH].tolist()}
    known = np.array(before["keys"], np.uint64)
    both = np.unique(np.concatenate([known, different]))
    return {"texts": int(before["texts"]) + len(both) - len(known), "keys": both[:_SKETCH].tolist()}


def seen_before(sketch: dict[str, Any] | None, keys: np.ndarray) -> str:
    """Return a sentence on how many rows with text keys `keys` were trained on; empty when none were.

    Exact when the sketch holds all training texts, else an estimate from those rows whose key is in the sketch's range.
    """
    if sketch is None or not len(keys) or not sketch["keys"]:
        return ""
    kept = np.array(sketch["keys"], np.uint64)
    whole = len(kept) == sketch["texts"]
    judged = keys if whole else keys[keys <= kept.max()]
    found = int(np.isin(judged, kept).sum())
    if not found:
        return ""
    rows, have = counted(len(keys), "row"), "has" if found == 1 and whole else "have"
    count = f"{found:,} of {rows}" if whole else f"about {found / len(judged):.0%} of the {rows}"
    return f"{count} {have} a text that the model was trained on; the figures are flattered."
