"""Data made ready for training: columns found, texts tokenised, labels fitted, rows split and accounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from tunesmith import registry, strategies
from tunesmith.accounting import account
from tunesmith.config import Config
from tunesmith.data.schema import RowSource, Schema, choose_task, guess_schema, rows_of
from tunesmith.data.split import folds_of, split_off, units_of
from tunesmith.data.table import TokenTable, open_table
from tunesmith.data.text_faults import faults, script
from tunesmith.data.tokens import ExampleEncoder, Truncation
from tunesmith.errors import DataError, UsageError, counted, listing, setting
from tunesmith.metrics import greater_is_better
from tunesmith.model.pretrained import Pretrained, open_pretrained
from tunesmith.model.scratch import new_pretrained
from tunesmith.progress import Progress
from tunesmith.registry import Family
from tunesmith.tasks.base import Task
from tunesmith.tasks.rows import Part, Rows, without_text

_DOCUMENTS = ("document", "doc", "document_id", "doc_id")
_WORDS = {"valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Prepared:
    """Data made ready: the fitted task, its parts (`train`, and `valid` and `test` where there are any), what is to be said."""

    pretrained: Pretrained
    encoder: ExampleEncoder
    task: Task
    parts: dict[str, Part]
    dropped: dict[str, int]
    notes: list[str]


def prepare(config: Config, sources: dict[str, RowSource], progress: Progress, *, fold: tuple[int, int] | None = None) -> Prepared:
    """Find columns, tokenise, fit the labels, and split.

    sources: `train`, and `valid` and `test` where files were given for them
    fold: (i, K) takes the i-th (from 1) of K folds of the training rows as the test
    Raises `DataError` and `UsageError`.
    """
    if fold is not None:
        sources = {name: source for name, source in sources.items() if name != "test"}
    chosen = choose_task(sources["train"], config)
    strategies.check_task(config.tuning, chosen)
    family = registry.family(chosen)
    if config.from_scratch and family.needs_target:
        raise UsageError(
            f"{sources['train'].name} has data for {chosen}, but {setting('from_scratch')} makes an encoder that knows nothing yet. Take "
            f"{setting('task', 'masked-lm')} first, and name the directory of what comes out with {setting('model')}."
        )
    kind: type[Task] = registry.load(family.task)
    if family.grouped and config.group is not None:
        raise UsageError(f"{setting('group')} has no use here: the rows of a query always stay together.")
    sources = {name: rows_of(source, family, **kind.encoding(config)) for name, source in sources.items()}
    schema = guess_schema(sources["train"], **config.columns, group=config.group, family=family)
    schema = _with_context(schema, kind, sources["train"], config)
    if config.text is None or (config.label is None and family.needs_target) or (schema.pair and config.text_pair is None):
        progress.say(f"columns of {sources['train'].name}: {schema}")
    pretrained = pretrained_of(config, sources["train"], schema, progress)
    encoder = encoder_of(config, kind, pretrained, schema, progress)
    schemas = {name: _fitting(schema, family, source, name) for name, source in sources.items()}
    tables = {name: open_table(source, schemas[name], encoder, progress) for name, source in sources.items()}
    missing = {name: missing_targets(table, kind, config, needed=family.needs_target) for name, table in tables.items()}
    task = _learn(kind, tables["train"], config, progress, told=config.task != "auto", pair=schema.pair)
    task = task.bind(pretrained.tokenizer, encoder)
    parts = {
        name: task.own(Part(Rows(table, np.flatnonzero(~missing[name]), task.targets(table)), sources[name], schemas[name]))
        for name, table in tables.items()
    }
    train = parts["train"]
    blank, unlabelled = train.rows.table.blank, missing["train"]
    dropped = {"dropped_empty": int(blank.sum()), "dropped_unlabelled": int((unlabelled & ~blank).sum()), "dropped_duplicates": 0}
    parts["train"] = train.with_index(train.rows.index[~blank[train.rows.index]])
    notes = task.remarks(parts["train"].rows) + remarks(pretrained, sources["train"], schema, config)
    split_parts(parts, config, task, notes, fold)
    _dedupe(parts, config, dropped, notes)
    _note_shared_groups(parts, config, notes)
    _check_parts(parts, dropped)
    notes += [
        note
        for name in ("valid", "test")
        if name in parts and parts[name].how == "given"
        for note in [*without_text(parts[name].rows), *task.cautions(parts[name].rows)]
    ]
    notes += contradictions(parts["train"].rows) + task.gaps(parts["train"].rows)
    if "valid" not in parts and (config.patience is not None or config.metric is not None):
        chosen = f"{setting('metric')} and {setting('patience')}"
        notes.append(f"there are no validation rows, so {chosen} choose nothing: the last weights are kept.")
    task = task.settle(parts["train"].rows, config)
    prepared = Prepared(pretrained, encoder, task, parts, dropped, notes)
    say_data(prepared, progress)
    return prepared


def _check_parts(parts: dict[str, Part], dropped: dict[str, int]) -> None:
    """Raise `DataError` for a part without rows."""
    if len(parts["train"].rows) == 0:
        reasons = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in dropped.items() if count)
        raise DataError(f"{parts['train'].source.name}: no training rows are left ({reasons or 'all were split off'}).")
    for name in ("valid", "test"):
        if name in parts and len(parts[name].rows) == 0:
            raise DataError(
                f"{parts[name].source.name}: none of its {counted(len(parts[name].rows.table), 'row')} has a label. "
                f"Name another {_WORDS[name]} file, or leave it out."
            )


def remarks(pretrained: Pretrained, source: RowSource, schema: Schema, config: Config) -> list[str]:
    """What settings and the first rows show to make a good model unlikely, whatever the task; `tunesmith check` says much more."""
    sample = [" ".join(schema.parse(row, place).texts) for row, place in islice(source, 200)]
    notes = lowered(pretrained, config)
    if any("control" in faults(text) for text in sample):
        notes.append(
            f"some texts hold control characters; if the file is of Windows, read it with {setting('encoding', 'cp1252')}. "
            "tunesmith check shows them."
        )
    foreign = [name for name in map(script, sample) if name not in ("Latin", "none", "")]
    if pretrained.located.kind == "bundled" and len(foreign) * 10 > len(sample):
        scripts = " and ".join(name for name, _ in Counter(foreign).most_common(2))
        notes.append(
            f"{100 * len(foreign) / len(sample):.0f}% of the first {counted(len(sample), 'text')} are in {scripts} script, but "
            f"{pretrained.located.name} knows English; take a model of their language, or a multilingual one, with {setting('model')}."
        )
    return notes


def lowered(pretrained: Pretrained, config: Config) -> list[str]:
    """Note that the longest length was told and is more than the encoder takes."""
    limit = pretrained.max_length
    if limit is None or not config.is_told("max_length") or config.max_length <= limit:
        return []
    return [f"{setting('max_length')} {config.max_length} was lowered to {limit}, the longest sequence that the encoder takes."]


def contradictions(rows: Rows) -> list[str]:
    """Note texts that stand under more than one target."""
    keys, digests = rows.table.text_key[rows.index], rows.targets.digests()[rows.index]
    pairs = np.unique(np.stack([keys, digests], axis=1), axis=0)
    _, several = np.unique(pairs[:, 0], return_counts=True)
    count = int((several > 1).sum())
    if not count:
        return []
    return [f"{counted(count, 'text')} {'stands' if count == 1 else 'stand'} in training rows that disagree; tunesmith check shows them."]


def split_parts(parts: dict[str, Part], config: Config, task: Task, notes: list[str], fold: tuple[int, int] | None = None) -> None:
    """Split test and validation rows off the training rows where no file was given for them."""
    train, word = parts["train"], task.target_word
    rows = train.rows
    stratum = rows.targets.stratum()
    index, total = rows.index, len(rows)
    # of the rows in use only: through the empty text of dropped rows all of their groups would hang together
    own = task.groups(rows) if rows.table.group is None else None
    group = rows.table.group[index] if rows.table.group is not None else own
    units = np.zeros(len(rows.table), np.int64)
    units[index] = units_of(rows.table.text_key[index], group)
    by_column = train.schema.group is not None
    kept = f"groups of {train.schema.group!r}" if by_column else task.together if own is not None else ""
    evenly = (f", stratified by {word}" if word else "") + (f", {kept} kept together" if kept else "")
    if fold is not None:
        number, count = fold
        inside = _fold_of(stratum[index], units[index], count, config, train) == number - 1
        parts["test"] = replace(train.with_index(index[inside]), how=f"fold {number} of {count} of {train.source.name}{evenly}")
        index = index[~inside]
    # in a cross-validation the folds are the test
    for name, size in (("test", config.test_size if config.folds is None else 0), ("valid", config.valid_size)):
        if name in parts or size == 0:
            continue
        away = split_off(stratum[index], units[index], size * total / max(len(index), 1), seed=config.seed, purpose=name)
        if not away.any():
            different = len(np.unique(units[index]))
            notes.append(
                f"{counted(total, 'training row')} with {different:,} different texts or groups are too few to split {size:.0%} of them "
                f"off for {_WORDS[name]}, evenly over the {word}s: there is no {_WORDS[name]}. "
                f"A greater {setting(f'{name}_size')} or a file for it gives one."
            )
            continue
        how = f"split off {size:.0%} of {train.source.name}{evenly}"
        parts[name] = replace(train.with_index(index[away]), how=how)
        index = index[~away]
    parts["train"] = train.with_index(index)


def _fold_of(stratum: np.ndarray, units: np.ndarray, count: int, config: Config, train: Part) -> np.ndarray:
    """Return int64[N], the fold from 0 of each row. Raises `DataError` when there are fewer texts or groups than folds."""
    different = len(np.unique(units))
    if different < count:
        raise DataError(
            f"{train.source.name}: {counted(count, 'fold')} cannot be made of {different:,} texts or groups that may be parted. "
            f"Lower {setting('folds')} to at most {different:,}, or add rows."
        )
    return folds_of(stratum, units, count, seed=config.seed)


def _dedupe(parts: dict[str, Part], config: Config, dropped: dict[str, int], notes: list[str]) -> None:
    """Note training rows whose text is in validation or test, and with `dedupe` drop them and repeated rows."""
    train = parts["train"].rows
    keys = train.table.text_key[train.index]
    leaked = np.zeros(len(train), np.bool_)
    for name in ("valid", "test"):
        if name not in parts:
            continue
        others = parts[name].rows.table.text_key[parts[name].rows.index]
        inside = int(np.isin(others, keys).sum())
        if inside:
            cure = f"the training rows with them are dropped ({setting('dedupe', True)})"
            if not config.dedupe:
                cure = f"the score on them is flattered; {setting('dedupe', True)} drops them from training"
            have = "has" if inside == 1 else "have"
            notes.append(f"{inside:,} of {counted(len(others), f'{_WORDS[name]} row')} {have} a text that is also in training: {cure}.")
            leaked |= np.isin(keys, others)
    if "valid" in parts and "test" in parts:
        chosen, judged = (parts[name].rows.table.text_key[parts[name].rows.index] for name in ("valid", "test"))
        both = int(np.isin(judged, chosen).sum())
        if both:
            have = "has" if both == 1 else "have"
            notes.append(
                f"{both:,} of {counted(len(judged), 'test row')} {have} a text that is also in validation, which chooses the checkpoint: "
                "the score on them may be flattered. Take the test's texts out of the other files."
            )
    if config.dedupe:
        content = np.stack([keys, train.targets.digests()[train.index]], axis=1)
        first = np.zeros(len(train), np.bool_)
        first[np.unique(content, axis=0, return_index=True)[1]] = True
        dropped["dropped_duplicates"] = int((leaked | ~first).sum())
        parts["train"] = parts["train"].with_index(train.index[first & ~leaked])


def _note_shared_groups(parts: dict[str, Part], config: Config, notes: list[str]) -> None:
    """Note rows of validation and test files whose group is in training, too; parts that were split off share none."""
    known = _groups(parts["train"].rows)
    for name in ("valid", "test"):
        groups = _groups(parts[name].rows) if name in parts and parts[name].how == "given" else known[:0]
        inside = int((np.isin(groups, known) & (groups != 0)).sum())
        if inside:
            have = "has" if inside == 1 else "have"
            notes.append(
                f"{inside:,} of {counted(len(groups), f'{_WORDS[name]} row')} {have} a {parts['train'].schema.group!r} that is also in "
                f"training: the score on them may be flattered. Part the files by it, or leave {setting(name)} out to have rows "
                "split off by it."
            )


def _groups(rows: Rows) -> np.ndarray:
    """The groups of the rows in use, uint64[E]; empty when there are none."""
    return rows.table.group[rows.index] if rows.table.group is not None else np.zeros(0, np.uint64)


def pretrained_of(config: Config, source: RowSource, schema: Schema, progress: Progress) -> Pretrained:
    """Return the encoder that `config` names, or with `from_scratch` a new one whose vocabulary is learned from the texts of `source`."""
    if not config.from_scratch:
        return open_pretrained(config.model)
    texts = (text for row, place in source for text in schema.parse(row, place).texts)
    return new_pretrained(config, texts, repr((source.fingerprint(progress), schema.texts)), progress)


def encoder_of(config: Config, kind: type[Task], pretrained: Pretrained, schema: Schema, progress: Progress) -> ExampleEncoder:
    """Return what turns the examples of `schema` into tokens of the encoder, as tasks of this kind want them."""
    truncation = truncation_of(config, pretrained, progress)
    return kind.encoder(pretrained.backend_tokenizer(), truncation, pretrained.fallback_token, schema, **kind.encoding(config))


def truncation_of(config: Config, pretrained: Pretrained, progress: Progress) -> Truncation:
    """Return the truncation of `config`, its length lowered to what the encoder can take (and said)."""
    limit, length = pretrained.max_length, config.max_length
    if limit is not None and length > limit:
        if not config.is_told("max_length"):  # which is a note of the report
            progress.say(f"{setting('max_length')} {length} is lowered to {limit}, the longest sequence this encoder takes.")
        length = limit
    return Truncation(config.truncation, length, config.stride, config.max_windows)


def _with_context(schema: Schema, kind: type[Task], source: RowSource, config: Config) -> Schema:
    """Return the schema with the context that is wanted, and the column that names documents."""
    if config.context == 0:
        return schema
    if not kind.reads_context:
        raise UsageError(f"{setting('context')} is of use to tagging only. Leave it out.")
    found = [column for column in source.columns if column.strip().casefold() in _DOCUMENTS]
    if not found:
        raise DataError(
            f"{source.name}: {setting('context')} reads sentences of the same document along, and nothing says where one begins. Give the "
            "file a column `document`; in CoNLL begin it with -DOCSTART- or `# newdoc`. "
            f"Columns: {listing(source.columns, 40)}."
        )
    return replace(schema, context=config.context, document=found[0])


def _fitting(schema: Schema, family: Family, source: RowSource, name: str) -> Schema:
    """The training columns must be in every file, but for the group, by which only training rows are split."""
    group = schema.group if name == "train" or schema.group in source.columns else None
    second = schema.texts[1] if schema.pair else None
    family = replace(family, two_texts=schema.pair)
    fitting = guess_schema(source, text=schema.texts[0], text_pair=second, label=schema.target, group=group, family=family)
    if schema.context and schema.document in source.columns:
        fitting = replace(fitting, context=schema.context, document=schema.document)
    return replace(fitting, needs_group=False) if group is not None and name != "train" else fitting


def _learn(kind: type[Task], table: TokenTable, config: Config, progress: Progress, *, told: bool, pair: bool) -> Task:
    """Fit the task, and say what it is, and how to say that another one is meant."""
    task = kind.learn(table, config)
    advice = task.advice(config)
    if not told and task.name != "classification":
        advice = listing([*([advice] if advice else []), setting("task", "pair" if pair else "classification")])
    progress.say(f"task: {task.sentence()}{f' ({advice} if that is wrong)' if advice else ''}")
    if config.metric is not None:
        greater_is_better(config.metric, task.kind)  # raises for a metric of the other kind
    return task


def missing_targets(table: TokenTable, kind: type[Task], config: Config, *, needed: bool) -> np.ndarray:
    """Return bool[N], which rows have no target, after a check that there are rows and that those may be left out."""
    if len(table) == 0:
        raise DataError(f"{table.name} has no rows. It needs a header line and one labelled text per line.")
    if not needed:
        return np.zeros(len(table), np.bool_)
    missing = table.labels().missing
    # rows without text are dropped anyhow: empty lines of a spreadsheet need no label
    wanting = missing & ~table.blank
    if wanting.any() and not config.drop_unlabelled:
        rows = np.flatnonzero(wanting)
        places = listing([f"{table.name}:{table.line[row]}" for row in rows[:5]])
        raise DataError(
            f"{places}: no label ({counted(len(rows), 'such row')} of {len(table):,}). "
            f"Fill them in, or pass {setting('drop_unlabelled', True)} to leave them out.{kind.advice_on_missing(table, config)}"
        )
    return missing


def part_account(prepared: Prepared, name: str) -> dict[str, Any]:
    """Return what became of the rows and tokens of one part, as plain values."""
    part = prepared.parts[name]
    values = account(part.rows, prepared.encoder, prepared.task)
    values["rows_read"] = values["rows_read"] - part.aside if part.how == "given" else len(part.rows)
    if name == "train":
        values.update(prepared.dropped)
    return values


def say_data(prepared: Prepared, progress: Progress) -> None:
    """Print the split and what was lost, one line a part."""
    for name, part in prepared.parts.items():
        values = part_account(prepared, name)
        lost = values["tokens_lost"] / max(values["tokens_read"], 1)
        drops = "".join(f", {values[key]:,} {key.replace('_', ' ')}" for key in prepared.dropped if values[key])
        cut = f"{values['rows_truncated']:,} truncated ({lost:.1%} of tokens lost)" if values["rows_truncated"] else "none truncated"
        how = part.source.name if part.how == "given" else part.how
        progress.say(f"{name}: {counted(len(part.rows), 'row')} ({how}); {cut}{drops}")
    for note in prepared.notes:
        progress.say(f"note: {note}")
