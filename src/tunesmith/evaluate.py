"""Running a model over examples without training it. E examples, C outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from tunesmith.data.batches import by_length
from tunesmith.data.tokens import Encoded
from tunesmith.model.arithmetic import arithmetic
from tunesmith.model.chance import without_dropout
from tunesmith.model.heads import TextModel
from tunesmith.model.step_memory import most_judged
from tunesmith.progress import QUIET, Progress
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Ragged, Rows

CHUNK = 2048
"""Examples that are sorted by length together. Evaluation and prediction share it, so that they agree to the last bit."""
_NEVER = -1e9  # the output of a label that a model does not know


def outputs_of(
    model: TextModel,
    task: Task,
    examples: Sequence[Encoded],
    *,
    precision: str = "fp32",
    max_tokens: int = 16384,
    advance: Callable[[int], None] | None = None,
) -> Ragged:
    """Return the combined outputs of `examples`, in their order.

    max_tokens: most padded tokens in memory at once; a larger example runs alone
    advance: is told how many examples are done, after each batch
    """
    longest = np.array([max(map(len, example.sequences)) for example in examples])
    number = np.array([len(example.sequences) for example in examples])
    pieces = _pieces(model, task, examples, (longest, number), precision, max_tokens, advance, judged=False)
    return Ragged.of(pieces, task.head.outputs)


def _pieces(
    model: TextModel,
    task: Task,
    examples: Sequence[Encoded],
    sizes: tuple[np.ndarray, np.ndarray],
    precision: str,
    max_tokens: int,
    advance: Callable[[int], None] | None,
    *,
    judged: bool,
) -> list[np.ndarray]:
    """Return the combined outputs of each example; sizes: int[E], the longest sequence of each, and how many it has."""
    result: dict[int, np.ndarray] = {}
    with torch.inference_mode(), without_dropout(model), arithmetic(precision, model.encoder.device):
        for rows in by_length(*sizes, max_tokens):
            batch = task.gather([examples[row] for row in rows], judged=judged)
            values = task.combine(model(batch), batch).float().cpu().numpy()
            result.update(zip(rows.tolist(), np.split(values, np.cumsum(task.sizes(batch))[:-1]), strict=True))
            if advance is not None:
                advance(len(rows))
    return [result[row] for row in range(len(examples))]


def outputs_for(
    model: TextModel,
    task: Task,
    rows: Rows,
    *,
    precision: str = "fp32",
    max_tokens: int = 16384,
    what: str = "evaluating",
    progress: Progress = QUIET,
    grown: bool = False,
) -> Ragged:
    """Return what judging needs of the combined outputs for each of `rows`, as the task arranges them: see `Task.reduced`.

    max_tokens: as `outputs_of` takes it; fewer where the head's outputs for so many would take too much memory
    grown: the task may have labels behind those that the model has outputs for, which say no to them
    """
    max_tokens = most_judged(task.outputs_a_token, max_tokens)
    arranged = task.arrange(rows)
    unit, rows = "rows" if arranged is rows else "sequences", arranged
    parts: list[Ragged] = []
    with progress.track(what, len(rows), unit) as tracker:
        for chunk in chunks(rows.index):
            examples = [rows.table.example(row) for row in chunk.tolist()]
            sizes = rows.table.longest[chunk], rows.table.sequences[chunk]
            pieces = _pieces(model, task, examples, sizes, precision, max_tokens, tracker.advance, judged=True)
            outputs = Ragged.of(pieces, task.head.outputs)
            parts.append(task.reduced(_widened(outputs, task) if grown else outputs, replace(rows, index=chunk)))
    if not parts:
        parts.append(task.reduced(Ragged.of([], task.head.outputs), rows))
    return Ragged.joined(parts, parts[0].values.shape[1])


def _widened(outputs: Ragged, task: Task) -> Ragged:
    missing = len(task.labels) - outputs.values.shape[1]
    if missing <= 0:
        return outputs
    return Ragged(np.pad(outputs.values, ((0, 0), (0, missing)), constant_values=_NEVER), outputs.starts)


def chunks(index: np.ndarray) -> Iterator[np.ndarray]:
    """Cut `index` into the chunks that are sorted by length together."""
    for start in range(0, len(index), CHUNK):
        yield index[start : start + CHUNK]
