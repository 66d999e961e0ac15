"""Hard negatives: passages that a search finds for a query although they are not known to be relevant. Q queries, N passages."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.config import Config
from tunesmith.data.lexical import Lexical
from tunesmith.data.table import cache_directory, evict, note_use
from tunesmith.errors import DataError, counted
from tunesmith.model.heads import embed
from tunesmith.progress import Progress
from tunesmith.storage import new_file
from tunesmith.tasks.ranking_candidates import Known
from tunesmith.tasks.rows import Part

if TYPE_CHECKING:
    from tunesmith.model.pretrained import Pretrained

_DEPTH = 200
_FORMAT = 2
_CACHE_LIMIT_BYTES = 2**30

_MINED = 4
"""Mined passages to draw from, as a multiple of the negatives that a query gets in a step."""


def mine(
    queries: Sequence[tuple[Known, str]], pool: np.ndarray, keys: np.ndarray, scores: Callable[[int], np.ndarray], count: int, margin: float
) -> list[np.ndarray]:
    """Return, for each query, up to `count` rows int64[n] of the pool that score best for it and are not among its relevant passages.

    pool: int64[N], rows of different passages; scores: from the number of a query to float[N]
    margin: a passage that scores above (1 - margin) times the query's best relevant passage is left out, as it may be relevant though
        nobody judged it: de Souza P. Moreira et al. 2024, "NV-Retriever", section 3.2, positive-aware mining by a share of the positive
    """
    place = {int(keys[row]): number for number, row in enumerate(pool.tolist())}
    found = []
    for number, (known, _) in enumerate(queries):
        values = scores(number)
        best = max((float(values[place[key]]) for key in known.relevant if key in place), default=0.0)
        limit = (1 - margin) * best if best > 0 else np.inf
        top = np.argsort(-values, kind="stable")[: _DEPTH + len(known.relevant)]
        chosen = [pool[at] for at in top.tolist() if 0 < values[at] <= limit and int(keys[pool[at]]) not in known.relevant]
        found.append(np.array(chosen[:count], np.int64))
    return found


def lexical_scores(queries: Sequence[str], passages: Sequence[str], progress: Progress) -> Callable[[int], np.ndarray]:
    """Return a function from the number of a query to the BM25 scores of all passages."""
    index = Lexical.of(passages, progress)
    return lambda number: index.scores(queries[number])


def vector_scores(
    queries: Sequence[str], passages: Sequence[str], pretrained: Pretrained, progress: Progress
) -> Callable[[int], np.ndarray]:
    """Return a function from the number of a query to the cosines of all passages: mean-pooled states of the encoder before training."""
    encoder, model = pretrained.reader(), pretrained.load().eval()
    with progress.track("vectors for mining", len(queries) + len(passages), "texts") as tracker:
        sides = [embed(model, encoder.encode(list(texts)), tracker.advance) for texts in (queries, passages)]
    asked, known = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in sides)
    return lambda number: known @ asked[number]


def remembered(key: Sequence[object], compute: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """Return what `compute` returns, from the cache when it was computed under the same `key` before."""
    digest = hashlib.blake2b(repr((_FORMAT, *key)).encode(), digest_size=16).hexdigest()
    path = cache_directory() / "mined" / f"{digest}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as stored:
        note_use(path)
        return list(np.split(stored["rows"], stored["starts"][1:-1]))
    found = compute()
    starts = np.cumsum([0, *map(len, found)])
    with new_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, rows=np.concatenate(found) if found else np.zeros(0, np.int64), starts=starts)
    evict(path.parent, keep=path, limit=_CACHE_LIMIT_BYTES)
    return found


def weights_stamp(place: str) -> tuple[int, int]:
    """Return size and time of the weights in a model directory, zeros where they are elsewhere."""
    with contextlib.suppress(OSError):
        state = (Path(place) / "model.safetensors").stat()
        return state.st_size, state.st_mtime_ns
    return 0, 0


def with_mined(
    queries: dict[int, Known], part: Part, pool: np.ndarray, keys: np.ndarray, pretrained: Pretrained, config: Config, progress: Progress
) -> dict[int, Known]:
    """Return the queries with hard negatives among their negatives."""

    def compute() -> list[np.ndarray]:
        wanted, place = np.unique(np.concatenate([np.array(list(queries), np.int64), pool]), return_inverse=True)
        examples = part.with_index(wanted).examples(progress)
        if examples is None:
            raise DataError(f"{part.source.name}: the data changed while they were in use. Start again.")
        asked = [examples[at].texts[0] for at in place[: len(queries)].tolist()]
        passages = [examples[at].texts[1] for at in place[len(queries) :].tolist()]
        scores = (
            lexical_scores(asked, passages, progress) if config.miner == "bm25" else vector_scores(asked, passages, pretrained, progress)
        )
        pairs = list(zip(queries.values(), asked, strict=True))
        return mine(pairs, pool, keys, scores, _MINED * config.negatives_per_query, config.false_negative_margin)

    model = (pretrained.located.place, weights_stamp(str(pretrained.located.place))) if config.miner == "encoder" else ()
    asked_for = hashlib.blake2b(repr([(row, known.positives.tolist()) for row, known in queries.items()]).encode()).hexdigest()
    key = (part.rows.fingerprint(), asked_for, config.miner, model, config.negatives_per_query, config.false_negative_margin)
    found = remembered(key, compute)
    progress.say(f"hard negatives: {counted(sum(map(len, found)), 'passage')} mined by {config.miner} for {len(queries):,} queries")
    return {
        row: replace(known, negatives=np.unique(np.concatenate([known.negatives, more])))
        for (row, known), more in zip(queries.items(), found, strict=True)
    }
