"""Gold tags beside predicted ones: the worst sentences, and scores of resampled sentences. E sentences, R resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tunesmith.data.schemes import default_entities, strict_entities
from tunesmith.data.words import words_of
from tunesmith.errors import listing
from tunesmith.progress import Progress
from tunesmith.tagging_metrics import entity_counts, span_rates, word_counts
from tunesmith.tasks.mistakes import worst
from tunesmith.tasks.rows import Part

_SHOWN = 20


def worst_sentences(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], part: Part, scheme: str | None, progress: Progress
) -> list[dict[str, Any]]:
    """Return the sentences with the most wrong tags: what they should have, and what they got; scheme: None for plain tags."""
    wrong = np.array([sum(a != b for a, b in zip(one, two, strict=True)) for one, two in zip(gold, predicted, strict=True)], np.float64)
    rows = np.argsort(-wrong, kind="stable")[:_SHOWN]
    examples = part.with_index(part.rows.index[rows]).examples(progress) if wrong.any() else None
    words = {int(row): words_of(example)[0] for row, example in zip(rows, examples, strict=True)} if examples is not None else {}

    def told(row: int, mine: Sequence[str], other: Sequence[str]) -> str:
        named = words.get(row, [f"word {i + 1}" for i in range(len(mine))])
        if scheme is None:
            return listing([f"{named[i]}/{tag}" for i, tag in enumerate(mine) if tag != other[i]], 12)
        known = set(default_entities(other))
        spans = [span for span in default_entities(mine) if span not in known]
        return listing([f"{' '.join(named[span.start : span.end])}/{span.label}" for span in spans], 12) or "nothing"

    return worst(part, wrong, lambda row: told(row, gold[row], predicted[row]), lambda row: told(row, predicted[row], gold[row]), progress)


def resampled(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str | None, metric: str
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what makes of float64[R, E], how often each sentence is drawn, the metric float64[R]; None for one without a quick way."""
    mode = metric.rpartition("_")[2]
    if metric == "accuracy":
        words = word_counts(gold, predicted).astype(np.float64)
        return lambda drawn: (drawn @ words[:, 0]) / np.maximum(drawn @ words[:, 1], 1)
    if scheme is None or mode not in ("strict", "default"):
        return None
    found = [[strict_entities(tags, scheme) if mode == "strict" else default_entities(tags) for tags in part] for part in (gold, predicted)]
    counts = entity_counts(*found).astype(np.float64)
    return lambda drawn: span_rates(drawn @ counts, mode)[metric]
