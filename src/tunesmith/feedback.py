"""The rows of an update made ready: new ones beside a sample of the old, corrections in place of what they correct, test rows kept out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.accounting import seen_before
from tunesmith.bundle import Bundle
from tunesmith.config import Config
from tunesmith.data.kept import REPLAY, TEST, KeptSchema, KeptSource, ReadSource
from tunesmith.data.likeness import text_key
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Example, RowSource, Schema, for_test, joined, rows_of
from tunesmith.data.split import split_off, units_of
from tunesmith.data.table import TokenTable, open_table
from tunesmith.errors import DataError, UsageError, counted, did_you_mean, listing, setting
from tunesmith.prepare import contradictions, missing_targets, split_parts
from tunesmith.progress import Progress
from tunesmith.replay import TEST_ROWS, Kept, has_labels, keep_rows, merged
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part, Rows


@dataclass(frozen=True)
class Feedback:
    """What an update learns from and is judged by.

    name, fingerprint: of the new rows; task: with the labels of the new rows behind the known ones, `new_labels`
    parts: train (new rows and replayed ones), valid (of both), test (the gate's, else those held out)
    test: rows whose score may not fall; None where there are none; held_out: new rows that are not trained on; None where they are too few
    kept: the rows to be kept for the next update
    replayed: old rows that are trained on again; rows, held: new rows in all and held out
    corrected, repeated: old rows that left the replay, as the new rows have their texts with other labels, or with the same
    leaked, disputed: new rows left out, as their text is in the test, and how many of them have another label there
    withheld: old rows that left the replay, as their text is in the test, or their query or group among the rows held out
    """

    name: str
    fingerprint: str
    task: Task
    new_labels: list[str]
    parts: dict[str, Part]
    test: Part | None
    held_out: Part | None
    kept: Kept | None
    dropped: dict[str, int]
    notes: list[str]
    replayed: int
    rows: int
    held: int
    corrected: int
    repeated: int
    leaked: int
    disputed: int
    withheld: int


def feedback_of(bundle: Bundle, config: Config, data: Any, test: Any, progress: Progress) -> Feedback:
    """Read the new rows and those that were kept, and part them. test: rows in place of the kept test rows.

    Raises `DataError` as training does, and when no new row is left to learn from.
    """
    family, told = bundle.family, bundle.description["tokens"]["settings"]
    source = rows_of(open_data(data, encoding=config.encoding if isinstance(data, str | Path) else None), family, **told)
    notes: list[str] = []
    schema = _schema(bundle, source, config, notes)
    progress.say(f"columns of {source.name}: {schema}")
    table = open_table(source, schema, bundle.encoder, progress)
    missing = missing_targets(table, type(bundle.task), config, needed=True)
    task = bundle.task.extended(table, config)
    targets = task.targets(table)
    notes += _on_new_labels(bundle.task, task)
    index = np.flatnonzero(~missing & ~table.blank)
    gate, tests = _test_part(bundle, task, test, config, progress)
    sketch = bundle.description.get("seen")
    if gate is not None and test is not None:
        met_before = seen_before(sketch, gate.rows.table.text_key[gate.rows.index])
        notes += [*([f"{gate.source.name}: {met_before}"] if met_before else []), *task.cautions(gate.rows)]
    grouped = family.grouped
    leaks = _inside(table, index, gate, grouped)
    leaked, index = index[leaks], index[~leaks]
    if not len(index):
        why = f", {len(leaked):,} of them with a text of the test rows" if len(leaked) else ""
        raise DataError(f"{source.name}: none of its {counted(len(table), 'row')} is left to learn from{why}. Name other rows.")
    part = Part(Rows(table, index, targets), source, schema)
    kept_rows = KeptSource(bundle.directory / REPLAY, bundle.schema).examples() if (bundle.directory / REPLAY).is_file() else []
    together = task.groups(part.rows) if table.group is None else None
    if together is not None:
        notes += _on_tested(task, together, gate)
    held = _hold_out(part, config, sketch, notes, together, kept_rows)
    held_groups = table.group[index[held]] if table.group is not None else np.zeros(0, np.uint64)
    held_together = together[held] if together is not None else np.zeros(0, np.uint64)
    replay, met = _replay(kept_rows, config, task, part, gate, (held_groups, held_together), grouped, progress)
    whole = _together(bundle, task, part, replay, progress)
    rows = len(whole.rows.table)
    old = np.arange(rows - len(replay), rows)
    parts = {"train": whole.with_index(np.concatenate([index[~held], old]))}
    split_parts(parts, config.model_copy(update={"test_size": 0.0}), task, notes)
    parts["train"] = replace(parts["train"], how="given")
    held_out = (
        replace(whole.with_index(index[held]), how=f"split off {config.test_size:.0%} of the rows not trained on before")
        if held.any()
        else None
    )
    judged = gate if gate is not None else held_out
    if judged is not None:
        parts["test"] = judged
    notes += contradictions(parts["train"].rows)
    dropped = {
        "dropped_empty": int(table.blank.sum()),
        "dropped_unlabelled": int((missing & ~table.blank).sum()),
        "dropped_duplicates": len(leaked),
    }
    disputed = _disputed(part.with_index(leaked), gate, task, progress)
    notes += _on_rows(len(leaked), disputed, met)
    kept = _kept_next(bundle, task, config, replay, whole.with_index(index[~held]), tests, held_out, gate, progress)
    return Feedback(
        name=source.name,
        fingerprint=source.fingerprint(progress),
        task=task,
        new_labels=task.labels[len(bundle.task.labels) :],
        parts=parts,
        test=gate,
        held_out=held_out,
        kept=kept,
        dropped=dropped,
        notes=notes,
        replayed=len(replay),
        rows=len(index),
        held=int(held.sum()),
        leaked=len(leaked),
        disputed=disputed,
        **met,
    )


def _together(bundle: Bundle, task: Task, part: Part, replay: list[Example], progress: Progress) -> Part:
    """Return the new rows with the replayed ones behind them, in the columns in which rows are kept; its index is that of the new ones."""
    stored = bundle.schema.texts[0] if bundle.family.grouped else bundle.description["schema"].get("group")
    told = part.schema.group
    columns = KeptSchema.of(replace(bundle.schema, group=stored if bundle.family.grouped or told is None else told))

    def canonical(example: Example, row: int) -> Example:
        return task.kept(example, part.rows.targets, row)

    name = part.source.name if not replay else f"{part.source.name} and {counted(len(replay), 'replayed row')}"
    both = ReadSource(name, part.source, part.schema, canonical, repr(task.to_dict()), replay)
    table = open_table(both, columns, bundle.encoder, progress)
    if table.group is not None:  # a row without a group is one for itself
        table.group = np.where(table.group == 0, table.text_key, table.group)
    return Part(Rows(table, part.rows.index, task.targets(table)), both, columns)


def _schema(bundle: Bundle, source: RowSource, config: Config, notes: list[str]) -> Schema:
    schema = bundle.schema_for(source, config.text, config.label, text_pair=config.text_pair, need_label=True)
    if bundle.family.grouped:
        if config.group is not None:
            raise UsageError(f"{setting('group')} has no use here: the rows of a query always stay together.")
        return schema
    if config.group is None:
        stored = bundle.description["schema"].get("group")
        if stored is None:
            return schema
        if stored in source.columns:
            return replace(schema, group=stored, needs_group=False)
        notes.append(
            f"the model was trained with groups of {stored!r}, a column that {source.name} does not have: each of its texts is a group."
        )
        return schema
    if config.group not in source.columns:
        raise DataError(
            f"{source.name}: there is no group column {config.group!r}.{did_you_mean(config.group, source.columns)} "
            f"Columns: {listing(source.columns, 40)}."
        )
    return replace(schema, group=config.group, needs_group=True)


def _on_new_labels(before: Task, task: Task) -> list[str]:
    """Note labels that the model does not know yet: each may be a slip."""
    new = task.labels[len(before.labels) :]
    if not new:
        return []
    near = [f"{label!r} is close to {hint.strip().removeprefix('Did you mean ').rstrip('?')}" for label in new
            if (hint := did_you_mean(label, before.labels))]  # fmt: skip
    slips = f" {listing(near, 5)}: if that is a slip, correct it and start again." if near else ""
    word = before.target_word
    return [f"{counted(len(new), f'new {word}')}: {listing(map(repr, new), 8)}, behind the {len(before.labels)} known ones.{slips}"]


def _test_part(bundle: Bundle, task: Task, test: Any, config: Config, progress: Progress) -> tuple[Part | None, list[Example] | None]:
    """Return the rows that the gate scores, and as examples where they are the kept ones."""
    if test is None:
        path = bundle.directory / TEST
        if not path.is_file():
            return None, None
        columns = KeptSchema.of(replace(bundle.schema, group=bundle.schema.texts[0] if bundle.family.grouped else None))
        kept = KeptSource(path, columns)
        table = open_table(kept, columns, bundle.encoder, progress)
        if not len(table):
            return None, None
        found = Part(Rows(table, np.arange(len(table)), task.targets(table)), kept, columns)
        return found, kept.examples()
    encoding = config.encoding if isinstance(test, str | Path) else None
    source = rows_of(for_test(open_data(test, encoding=encoding)), bundle.family, **bundle.description["tokens"]["settings"])
    schema = bundle.schema_for(source, need_label=True)
    table = open_table(source, schema, bundle.encoder, progress)
    missing = missing_targets(table, type(task), config, needed=True)
    found = task.own(Part(Rows(table, np.flatnonzero(~missing), task.targets(table)), source, schema))
    if not len(found.rows):
        raise DataError(
            f"{source.name}: none of its {counted(len(table), 'row')} has a label, so nothing says whether the update forgets. Name "
            f"labelled rows with {setting('test')}."
        )
    return found, None


def _last_keys(examples: list[Example]) -> np.ndarray:
    """Return uint64[E], the keys of the examples' last texts, as `TokenTable.last_key` has them."""
    return np.array([text_key(example.texts[-1]) for example in examples], np.uint64)


def _keys(table: TokenTable, index: np.ndarray, grouped: bool) -> np.ndarray:
    return table.group[index] if grouped and table.group is not None else table.text_key[index]


def _inside(table: TokenTable, index: np.ndarray, gate: Part | None, grouped: bool) -> np.ndarray:
    """Return bool[E]: which rows `index` have a text (or a query) of the test rows."""
    if gate is None:
        return np.zeros(len(index), np.bool_)
    return np.isin(_keys(table, index, grouped), _keys(gate.rows.table, gate.rows.index, grouped))


def _canonical(task: Task, example: Example) -> list[str] | None:
    """Return the target of an example, equal where it says the same: several labels have no order."""
    several = task.kind == "multi" and example.target is not None
    return sorted(set(example.target or ())) if several else example.target


def _by_key(part: Part, keys: np.ndarray, task: Task, progress: Progress) -> dict[int, list[str] | None]:
    """Return the targets of those rows whose text has one of `keys`."""
    rows = part.rows.index[np.isin(part.rows.table.text_key[part.rows.index], keys)]
    examples = part.with_index(rows).examples(progress)
    if examples is None:
        raise DataError(f"{part.source.name}: the data changed while they were in use. Start again.")
    known = [_canonical(task, task.kept(example, part.rows.targets, row)) for example, row in zip(examples, rows.tolist(), strict=True)]
    return dict(zip(part.rows.table.text_key[rows].tolist(), known, strict=True))


def _disputed(leaked: Part, gate: Part | None, task: Task, progress: Progress) -> int:
    """Return how many of the rows that are in the test have another target there."""
    if gate is None or not len(leaked.rows):
        return 0
    keys = leaked.rows.table.text_key[leaked.rows.index]
    tested = _by_key(gate, keys, task, progress)
    return sum(key in tested and tested[key] != target for key, target in _by_key(leaked, keys, task, progress).items())


def _on_tested(task: Task, together: np.ndarray, gate: Part | None) -> list[str]:
    """Note new rows that share with test rows what a split would keep together, such as a passage."""
    theirs = task.groups(gate.rows) if gate is not None else None
    shared = int(np.isin(together, theirs).sum()) if theirs is not None else 0
    if not shared:
        return []
    goes, them = ("goes", "it") if shared == 1 else ("go", "them")
    return [
        f"{counted(shared, 'new row')} {goes} with test rows ({task.together}): trained on {them}, the model scores better on those for "
        "another reason than that it forgets nothing."
    ]


def _replay(
    examples: list[Example], config: Config, task: Task, part: Part, gate: Part | None, held: tuple[np.ndarray, np.ndarray],
    grouped: bool, progress: Progress,
) -> tuple[list[Example], dict[str, int]]:  # fmt: skip
    """Return those of the kept `examples` to train on again, and by their names in `Feedback` how many others left.

    held: the groups of new rows that are held out, uint64[G], and the keys of what the task keeps together with them
    """
    met = {"corrected": 0, "repeated": 0, "withheld": 0}
    if not examples or not config.replay_rows:
        return [], met
    keys = np.array([text_key(joined(example.texts)) for example in examples], np.uint64)
    groups = np.array([example.group_key for example in examples], np.uint64)
    tested = _keys(gate.rows.table, gate.rows.index, grouped) if gate is not None else np.zeros(0, np.uint64)
    away = np.isin(groups if grouped else keys, tested) | (np.isin(groups, held[0]) & (groups != 0))
    away |= np.isin(_last_keys(examples), held[1])
    new = _by_key(part, keys, task, progress)
    left = []
    for example, key, out in zip(examples, keys.tolist(), away.tolist(), strict=True):
        if out:
            met["withheld"] += 1
        elif key not in new:
            left.append(example)
        else:
            met["repeated" if new[key] == _canonical(task, example) else "corrected"] += 1
    return left, met


def _hold_out(
    part: Part, config: Config, sketch: dict[str, Any] | None, notes: list[str], together: np.ndarray | None, kept: list[Example]
) -> np.ndarray:
    """Return bool[E]: which of the new rows are kept from training, to be tested on: none that the model was trained on.

    sketch: of the texts trained on, see `accounting.sketch_of`; together: uint64[E], equal for rows that the task keeps together
    kept: rows trained on, with which none that is held out may go
    """
    rows = part.rows
    index, group = rows.index, rows.table.group
    away = np.zeros(len(index), np.bool_)
    if config.test_size == 0:
        return away
    keys = rows.table.text_key[index]
    if group is not None:
        group = np.where(group[index] == 0, keys, group[index])
    units = units_of(keys, group if group is not None else together)
    known = np.isin(keys, np.array(sketch["keys"] if sketch is not None else [], np.uint64))
    if together is not None:
        known |= np.isin(together, _last_keys(kept))
    fresh = ~np.isin(units, units[known])
    away[fresh] = split_off(rows.targets.stratum()[index[fresh]], units[fresh], config.test_size, seed=config.seed, purpose="held out")
    if known.any():
        have, are = ("has", "is") if known.sum() == 1 else ("have", "are")
        notes.append(f"{counted(int(known.sum()), 'new row')} {have} a text that the model was trained on and {are} not held out.")
    if away.any() and sketch is not None and sketch["texts"] > len(sketch["keys"]):
        notes.append(
            f"the model knows {len(sketch['keys']):,} of the {sketch['texts']:,} texts that it was trained on again: if others are among "
            "the new rows that are held out, the scores on those are flattered."
        )
    if not away.any():
        are = "is" if fresh.sum() == 1 else "are"
        notes.append(
            f"{counted(int(fresh.sum()), 'new row')} that the model was not trained on {are} too few to hold {config.test_size:.0%} of "
            f"them out, so nothing is measured on new rows. A greater {setting('test_size')} holds some out."
        )
    return away


def _on_rows(leaked: int, disputed: int, met: dict[str, int]) -> list[str]:
    """Note new rows that meet old ones."""
    notes = []
    if leaked:
        have, are = ("has", "is") if leaked == 1 else ("have", "are")
        other = f"; {disputed:,} of them with another target than the test has: correct the test where it is wrong" if disputed else ""
        notes.append(f"{counted(leaked, 'new row')} {have} a text of the test rows and {are} not trained on{other}.")
    for name, one, several in (
        ("corrected", "is corrected by a new row and is", "are corrected by new rows and are"),
        ("repeated", "is repeated by a new row and is", "are repeated by new rows and are"),
        ("withheld", "is tested on, or goes with rows that are, and is", "are tested on, or go with rows that are, and are"),
    ):
        if met[name]:
            notes.append(f"{counted(met[name], 'kept training row')} {one if met[name] == 1 else several} not replayed.")
    return notes


def _kept_next(
    bundle: Bundle,
    task: Task,
    config: Config,
    replay: Sequence[Example],
    new: Part,
    tests: list[Example] | None,
    held_out: Part | None,
    gate: Part | None,
    progress: Progress,
) -> Kept | None:
    """Return what the updated model keeps: the sample of all rows trained on so far, and the test rows with those held out."""
    grouped, before = bundle.family.grouped, bundle.description["result"].get("kept") or {}
    if not config.replay_rows:
        return None
    # of the new rows no more than could enter the sample are read
    told = keep_rows({"train": new, **({"test": held_out} if held_out is not None else {})}, task, config, [], progress)
    assert told is not None
    same = tests is not None or gate is None  # the test rows are those of before
    if not same and gate is not None:
        tests = (keep_rows({"train": new, "test": gate}, task, config, [], progress) or told).test
    tests = tests if tests is not None else []
    known = int(before.get("test_of", 0)) if same or gate is None else len(gate.rows)
    return Kept(
        new.schema,
        merged([*replay, *told.replay], config.replay_rows, new.schema, grouped=grouped, labelled=has_labels(task)),
        merged([*tests, *told.test], TEST_ROWS, new.schema, grouped=grouped, labelled=has_labels(task)),
        int(before.get("of", len(replay))) + len(new.rows),
        known + (len(held_out.rows) if held_out is not None else 0),
    )
