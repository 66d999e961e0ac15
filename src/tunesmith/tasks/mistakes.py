"""The mistakes that a report shows: where, the text, what is right and what was predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tunesmith.data.schema import joined
from tunesmith.progress import QUIET, Progress
from tunesmith.tasks.rows import Part

_SHOWN = 20
_CHARACTERS = 500


def worst(
    part: Part, badness: np.ndarray, gold: Callable[[int], str], predicted: Callable[[int], str], progress: Progress = QUIET
) -> list[dict[str, Any]]:
    """Return the rows of `part` with the greatest `badness`, float[E], worst first; those with 0 are right and left out.

    gold, predicted: what to print of a row, by its number among the chosen ones
    """
    rows = [int(row) for row in np.argsort(-badness, kind="stable")[:_SHOWN] if badness[row] > 0]
    if not rows:
        return []
    chosen = part.with_index(part.rows.index[rows])
    examples = chosen.examples(progress)
    texts = [example.texts for example in examples] if examples is not None else None
    unknown = ("(not shown: the file has changed since it was read)",)
    return [
        {
            "source": chosen.place(i),
            "text": joined([text[:_CHARACTERS] for text in (texts[i] if texts is not None else unknown)]),
            "gold": gold(row),
            "predicted": predicted(row),
            "probability": float(badness[row]),
        }
        for i, row in enumerate(rows)
    ]
