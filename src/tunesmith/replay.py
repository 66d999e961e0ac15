"""Which rows stay in a model directory for later updates: a sample of those trained on, and the test rows, both limited.

The sample holds the rows whose texts have the smallest of 64-bit hashes: a bottom-k sketch (Cohen and Kaplan 2007, "Summarizing Data using
Bottom-k Sketches", section 2). It is as good as drawn at random, rows with one text, or of one query, are in it together, and the sample
of two bodies of rows follows from the samples of both, so that after any number of updates it stands for all rows ever trained on.
The first rows of each label come before all others, or a sample would have none of a rare one, which an update would then unlearn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import registry
from tunesmith.config import Config
from tunesmith.data.kept import REPLAY, TEST, line_of
from tunesmith.data.likeness import mix, text_key
from tunesmith.data.schema import Example, Schema, joined
from tunesmith.errors import UsageError, setting
from tunesmith.progress import Progress
from tunesmith.storage import write_text
from tunesmith.strategies import is_updated
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part

TEST_ROWS = 5000
"""Most test rows that are kept."""
LIMIT_MB = 50
"""Most megabytes of each of both files."""
A_LABEL = 10
"""So many rows of each label come first."""
_SALT = np.uint64(0x7DE6F10C5A3B9E21)  # another order than that of the keys, by which other samples are drawn


@dataclass(frozen=True)
class Kept:
    """What is kept: the rows of both files; `of` how many rows replay stands for, `test_of` how many test rows there were."""

    schema: Schema
    replay: list[Example]
    test: list[Example]
    of: int
    test_of: int

    def write(self, directory: Path) -> dict[str, Any]:
        """Write the files into `directory` and return what the description of the model says of them. Raises `StorageError`."""
        size = 0
        for name, examples in ((REPLAY, self.replay), (TEST, self.test)):
            if examples:
                (directory / name).parent.mkdir(exist_ok=True)
                text = "".join(line_of(example, self.schema) for example in examples)
                write_text(directory / name, text)
                size += len(text.encode())
        return {"replay": len(self.replay), "of": self.of, "test": len(self.test), "test_of": self.test_of, "bytes": size}


def check_keeping(task: Task, config: Config) -> None:
    """Raise `UsageError` for a number of rows to keep where none are kept."""
    if config.is_told("replay_rows") and config.replay_rows and not _keeps(task, config):
        updatable = registry.family(task.name).updatable
        where = f"with {setting('tuning', config.tuning)}" if updatable else f"for {task.name}"
        if updatable and not config.merge:
            where += f" and {setting('merge', False)}"
        raise UsageError(f"{setting('replay_rows')} changes nothing {where}, whose models are not updated and keep no rows. Leave it out.")


def _keeps(task: Task, config: Config) -> bool:
    """Whether models of a task and a way to tune can be updated, and so keep rows."""
    return registry.family(task.name).updatable and is_updated(config.tuning, merge=config.merge)


def keep_rows(parts: dict[str, Part], task: Task, config: Config, notes: list[str], progress: Progress) -> Kept | None:
    """Return the rows of a training's parts that are to be kept, read again from their source; None for none.

    What cannot be kept, as its source has changed or is a whole collection, is noted.
    """
    if not config.replay_rows or not _keeps(task, config):
        return None
    grouped = registry.family(task.name).grouped
    schema = parts["train"].schema
    found: dict[str, list[Example]] = {}
    for name, most in (("train", config.replay_rows), ("test", TEST_ROWS)):
        part = parts.get(name)
        found[name] = []
        if part is None or not most or not len(part.rows):
            continue
        if name == "test" and getattr(part.source, "whole", False):
            notes.append(
                "the test is a collection that is searched whole, which is too large to be kept: an update must be told of it with "
                f"{setting('test')}."
            )
            continue
        table, index = part.rows.table, part.rows.index
        units = table.group[index] if grouped and table.group is not None else table.text_key[index]
        strata = part.rows.targets.stratum()[index] if has_labels(task) else None
        chosen = part.with_index(index[bottom(units, most, strata)])
        examples = chosen.examples(progress)
        if examples is None:
            notes.append(f"{part.source.name} has changed since the training began, so no rows of it are kept for updates.")
            continue
        rows = chosen.rows.index.tolist()
        known = [task.kept(example, part.rows.targets, row) for example, row in zip(examples, rows, strict=True)]
        found[name] = within(known, schema, grouped=grouped, labelled=has_labels(task))
    tests = len(parts["test"].rows) if "test" in parts else 0
    return Kept(schema, found["train"], found["test"], len(parts["train"].rows), tests)


def has_labels(task: Task) -> bool:
    """Whether the rows of a task have labels that a sample should have all of."""
    return bool(task.labels) and not task.head.per_token


def bottom(units: np.ndarray, most: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Return the places, int64[n] ascending, of the at most `most` rows that come first by `_order`; whole units, uint64[E]."""
    order = _order(units, strata)
    if len(order) > most:
        # the unit that would go over the limit stays out
        border = units[order[most]]
        order = order[:most][units[order[:most]] != border]
    return np.sort(order)


def _order(units: np.ndarray, strata: np.ndarray | None) -> np.ndarray:
    """Return the places of all rows, int64[E], by the hashes of their units; strata: int64[E], of each of which some rows come first."""
    hashes = mix(units ^ _SALT)
    order = np.argsort(hashes, kind="stable")
    if strata is None or not len(order):
        return order
    label = strata[order]
    by_label = np.argsort(label, kind="stable")  # each label's rows by their hashes
    starts = np.flatnonzero(np.diff(label[by_label], prepend=label[by_label[0]] - 1))
    first = np.empty(len(order), np.bool_)
    first[by_label] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order))) < A_LABEL
    # rows of one text, which may have several labels, stay together
    texts = np.flatnonzero(np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]]))
    first = np.repeat(np.logical_or.reduceat(first, texts), np.diff(texts, append=len(order)))
    return order[np.argsort(~first, kind="stable")]


def _strata(examples: Sequence[Example], labelled: bool) -> np.ndarray | None:
    """Return int64[E], equal for examples with the same labels; None where they have none to go by."""
    if not labelled:
        return None
    names = ["\x1f".join(sorted(example.target or ())) for example in examples]
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def merged(examples: Sequence[Example], most: int, schema: Schema, *, grouped: bool, labelled: bool = False) -> list[Example]:
    """Return the sample of at most `most` rows of the samples of several bodies of rows; labelled: see `has_labels`."""
    if not examples or not most:
        return []
    places = bottom(units_of(examples, grouped=grouped), most, _strata(examples, labelled))
    return within([examples[place] for place in places], schema, grouped=grouped, labelled=labelled)


def within(examples: list[Example], schema: Schema, *, grouped: bool, labelled: bool = False) -> list[Example]:
    """Return of the examples the sample that takes no more than the limit in megabytes."""
    sizes = np.array([len(line_of(example, schema).encode("utf-8", "surrogatepass")) for example in examples], np.int64)
    if sizes.sum() <= LIMIT_MB * 1_000_000:
        return examples
    order = _order(units_of(examples, grouped=grouped), _strata(examples, labelled))
    fits = order[np.cumsum(sizes[order]) <= LIMIT_MB * 1_000_000]
    return [examples[place] for place in np.sort(fits)]


def units_of(examples: Sequence[Example], *, grouped: bool) -> np.ndarray:
    """Return uint64[E], equal for examples that are kept together: of one query where rows are `grouped`, else with one text."""
    keys = [example.group_key if grouped else text_key(joined(example.texts)) for example in examples]
    return np.array(keys, np.uint64)
