"""Scores of tagged words and of the entities that tags write, with intervals over sentences.

E sentences. Entities are sets of (start, end, label) for each sentence; precision, recall and F1 are micro averages, as those of seqeval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 100

Entities = Sequence[Sequence[tuple[int, int, str]]]


def entity_counts(gold: Entities, predicted: Entities) -> NDArray[np.int64]:
    """Return int64[E, 3]: for each sentence how many entities are right, predicted and gold."""
    sets = ((set(one), set(two)) for one, two in zip(gold, predicted, strict=True))
    return np.array([(len(one & two), len(two), len(one)) for one, two in sets], np.int64).reshape(-1, 3)


def span_scores(counts: NDArray[Any], mode: str) -> dict[str, float]:
    """Return f1, precision and recall with `mode` (strict or default) behind their names, from int[E, 3]; 0 where undefined."""
    return {name: float(values[0]) for name, values in span_rates(counts.sum(0)[None], mode).items()}


def span_rates(sums: NDArray[Any], mode: str) -> dict[str, NDArray[np.float64]]:
    """Return F1, precision and recall, float[R], by names that end in `mode`, from sums int[R, 3] of `entity_counts`."""
    right, guessed, known = sums.T.astype(np.float64)
    return {
        f"f1_{mode}": 2 * right / np.maximum(guessed + known, 1),
        f"precision_{mode}": right / np.maximum(guessed, 1),
        f"recall_{mode}": right / np.maximum(known, 1),
    }


def per_type(gold: Entities, predicted: Entities) -> list[dict[str, Any]]:
    """Return label, precision, recall, f1 and support (gold entities) of each type of entity that is in gold or was predicted."""
    rows = []
    for label in sorted({entity[2] for sentences in (gold, predicted) for sentence in sentences for entity in sentence}):
        mine = [[[entity for entity in sentence if entity[2] == label] for sentence in sentences] for sentences in (gold, predicted)]
        sums = entity_counts(*mine).sum(0)
        scores = span_rates(sums[None], "x")
        values = {name: float(scores[f"{name}_x"][0]) for name in ("precision", "recall", "f1")}
        rows.append({"label": label, **values, "support": int(sums[2])})
    return rows


def word_counts(gold: Sequence[Sequence[Hashable]], predicted: Sequence[Sequence[Hashable]]) -> NDArray[np.int64]:
    """Return int64[E, 2]: for each sentence how many words have the right tag, and how many it has."""
    pairs = zip(gold, predicted, strict=True)
    return np.array([(sum(a == b for a, b in zip(one, two, strict=True)), len(one)) for one, two in pairs], np.int64).reshape(-1, 2)


def accuracy(counts: NDArray[Any]) -> float:
    """Return the share of words with the right tag, from int[E, 2]; 0 without words."""
    right, words = counts.sum(0)
    return float(right / max(words, 1))


def per_tag(gold: NDArray[Any], predicted: NDArray[Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return label, precision, recall, f1 and support of each tag that is in gold or was predicted, from int[W] and int[W]."""
    rows = []
    for code, name in enumerate(names):
        known, guessed = int((gold == code).sum()), int((predicted == code).sum())
        right = int(((gold == code) & (predicted == code)).sum())
        if known or guessed:
            precision, recall, f1 = right / max(guessed, 1), right / max(known, 1), 2 * right / max(guessed + known, 1)
            rows.append({"label": name, "precision": precision, "recall": recall, "f1": f1, "support": known})
    return rows


def f1_macro(gold: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Return the mean F1 over the tags that are in gold or were predicted, from int[W] and int[W]; scikit-learn's macro average."""
    counts = _tag_counts(gold, predicted, np.zeros(len(gold), np.int64), 1)
    return float(_macro(counts.sum(0)[None])[0])


def _tag_counts(gold: NDArray[Any], predicted: NDArray[Any], sentence: NDArray[Any], sentences: int) -> NDArray[np.int64]:
    """Return int64[E, C, 3]: right, predicted and gold words of each tag in each sentence."""
    tags = int(max(gold.max(initial=-1), predicted.max(initial=-1))) + 1
    found = np.zeros((sentences, tags, 3), np.int64)
    for i, (codes, which) in enumerate(((gold, gold == predicted), (predicted, None), (gold, None))):
        rows = sentence if which is None else sentence[which]
        np.add.at(found[:, :, i], (rows, codes if which is None else codes[which]), 1)
    return found


def _macro(sums: NDArray[Any]) -> NDArray[np.float64]:
    """Return float[R] from int[R, C, 3]."""
    both = sums[:, :, 1] + sums[:, :, 2]
    f1 = 2 * sums[:, :, 0] / np.maximum(both, 1)
    return f1.sum(1) / np.maximum((both > 0).sum(1), 1)


def intervals(
    modes: dict[str, NDArray[Any]],
    words: NDArray[Any],
    tags: tuple[NDArray[Any], NDArray[Any]] | None,
    *,
    seed: int,
) -> dict[str, list[float]]:
    """Return [low, high] of each metric by percentile bootstrap over sentences (Efron and Tibshirani 1993, section 13.3).

    Args:
        modes: int[E, 3] of `entity_counts` by the name of the mode.
        words: int[E, 2] of `word_counts`.
        tags: gold and predicted tags of all words, int[W] each, for the interval of `f1_macro`; None leaves it out.
        seed: any int; equal arguments give equal intervals.

    A metric whose resamples are all alike has none: a width of 0 would be false certainty.
    """
    sentences = len(words)
    rng = np.random.default_rng(seed)
    counts = None
    if tags is not None:
        counts = _tag_counts(*tags, np.repeat(np.arange(sentences), words[:, 1]), sentences).astype(np.float64)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, RESAMPLES, _CHUNK):
        draws = np.stack(
            [np.bincount(rng.integers(0, sentences, sentences), minlength=sentences) for _ in range(min(_CHUNK, RESAMPLES - start))]
        ).astype(np.float64)  # whole numbers, which floats multiply faster
        values: dict[str, NDArray[np.float64]] = {}
        for mode, one in modes.items():
            values |= span_rates(draws @ one, mode)
        right, all_words = (draws @ words).T
        values["accuracy"] = right / np.maximum(all_words, 1)
        if counts is not None:
            values["f1_macro"] = _macro(np.tensordot(draws, counts, 1))
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: pair for name, values in found.items() if (pair := bounds(np.concatenate(values))) is not None}
