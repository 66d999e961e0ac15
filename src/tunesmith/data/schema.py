"""Which column plays which role, and rows turned into examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tunesmith import registry
from tunesmith.config import Config
from tunesmith.errors import DataError, UsageError, did_you_mean, listing, setting
from tunesmith.progress import QUIET, Progress
from tunesmith.registry import Family

if TYPE_CHECKING:
    import numpy as np


class Source(NamedTuple):
    """Where a row stands: the file (or a name for a table in memory) and the line, counted from 1, on which it begins."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Row = Mapping[str, Any]

DEFAULT = replace(registry.TASKS["classification"], two_texts=None)
_BETWEEN = " ‖ "
_NUMBERS = frozenset({"id", "idx", "index", "uid", "uuid", "guid", "row", "no", "nr", "#", "column_1"})
"""Names of columns that number the rows, which are no text unless somebody says so, and no label where another column may be it."""


def joined(texts: Sequence[str]) -> str:
    """Return the text, or the two texts of a pair, as one, for people to read and for comparisons; empty when all are blank."""
    return _BETWEEN.join(texts) if any(map(str.strip, texts)) else ""


class RowSource(Protocol):
    """Rows that can be read again and again, one at a time, in constant memory.

    `name` is shown to the user; `columns` are the column names in order; iterating yields `(row, source)` pairs, each
    row a mapping from every column to its value (text for CSV; numbers, lists and None where the format has them);
    `fingerprint()` changes whenever the content does, and `stamp()`, which reads nothing, whenever a file was written to.
    """

    name: str
    columns: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[Row, Source]]: ...

    def fingerprint(self, progress: Progress = QUIET) -> str: ...

    def stamp(self) -> tuple[int, int] | None: ...


@dataclass(frozen=True, slots=True)
class Example:
    """One row, its columns read by role.

    texts: the text, or the two texts of a pair
    target: what is to be learned of the row, as text: its labels, surrounding space removed; None where the row has none
    target_is_list: the value was a list in the file, so the row may have any number of labels
    group: value of the group column as text, None without one
    spans: ranges [start, end) of characters of the last text that the task is about, such as its words
    words: what stands at the spans, where the row gives words; the text may spell them otherwise
    before, after: text around the last text that is read along
    mended: what was wrong in the row and put right, a few words each
    """

    texts: tuple[str, ...]
    target: list[str] | None
    target_is_list: bool
    group: str | None
    source: Source
    spans: tuple[tuple[int, int], ...] = ()
    words: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    mended: tuple[str, ...] = ()

    @property
    def group_key(self) -> int:
        """64-bit digest of the group, equal for rows of one group."""
        if self.group is None:
            return 0
        return int.from_bytes(hashlib.blake2b(self.group.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table by role: `texts`, and optionally `target` and `group`, which `needs_group` wants in every row.

    read: "module:function" that makes an `Example` of a row, by the task's `registry.Family`
    context, document: how many words of its neighbours each row gets, and the column whose value neighbours share
    """

    texts: tuple[str, ...]
    target: str | None = None
    group: str | None = None
    needs_group: bool = True
    read: str = Family.read
    context: int = 0
    document: str | None = None

    def examples(self, rows: Iterable[tuple[Row, Source]]) -> Iterator[Example]:
        """Read all rows, each with its neighbours where there is a `context`. Raises as `parse`."""
        if self.context == 0 or self.document is None:
            read = registry.load(self.read)
            return (read(row, self, place) for row, place in rows)
        from tunesmith.data.neighbours import with_neighbours

        column = self.document
        named = ((None if row.get(column) is None else str(row[column]), self.parse(row, place)) for row, place in rows)
        return with_neighbours(named, self.context)

    def parse(self, row: Row, source: Source) -> Example:
        """Read one row. Raises `DataError` for a text or target that is of no usable type."""
        example: Example = registry.load(self.read)(row, self, source)
        return example

    def group_of(self, row: Row, source: Source) -> str | None:
        """Return the value of the group column. Raises `DataError` where one is needed and there is none."""
        group = row.get(self.group) if self.group is not None else None
        group = None if group == "" else group
        if self.group is not None and group is None and self.needs_group:
            raise DataError(
                f"{source}: column {self.group!r} is empty, but rows are grouped by it. Fill it in, or leave {setting('group')} out."
            )
        return None if group is None else str(group)

    @property
    def pair(self) -> bool:
        """Whether an example has two texts."""
        return len(self.texts) == 2

    @property
    def roles(self) -> dict[str, str | None]:
        """Return the columns of texts and label by the names of the settings that name them."""
        return {**dict(zip(("text", "text_pair"), self.texts, strict=False)), "label": self.target}

    def __str__(self) -> str:
        texts = " and ".join(map(repr, self.texts))
        return f"text{'s' * self.pair} {texts}" + (f", label {self.target!r}" if self.target is not None else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as plain values for `tunesmith.json`."""
        kept = {"texts": list(self.texts), "target": self.target, "group": self.group}
        return {**kept, "context": self.context, "document": self.document} if self.context else kept


def read_labelled(row: Row, schema: Schema, source: Source) -> Example:
    """Read a row of one text or two, and labels: a text, a number, or a list of them."""
    texts = tuple(text_in(row.get(name), name, source) for name in schema.texts)
    target, is_list = _labels(row.get(schema.target), schema.target, source) if schema.target is not None else (None, False)
    return Example(texts, target, is_list, schema.group_of(row, source), source)


def text_in(value: Any, column: str, source: Source) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # lone surrogates cannot be written as UTF-8 and no tokenizer takes them
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "" if value != value else str(value)
    raise DataError(f"{source}: column {column!r} holds {type(value).__name__} {value!r:.60}; a text is expected.")


def _labels(value: Any, column: str, source: Source) -> tuple[list[str] | None, bool]:
    if isinstance(value, (list, tuple)):
        named = [label for item in value if (label := _label(item, column, source)) is not None]
        return list(dict.fromkeys(named)), True  # a label named twice is there once
    label = _label(value, column, source)
    return (None if label is None else [label]), False


def _label(value: Any, column: str, source: Source) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        # spreadsheets and pandas turn whole numbers into floats as soon as one cell is empty
        return str(int(value))
    if isinstance(value, (str, int, float)):
        return str(value).strip() or None
    raise DataError(
        f"{source}: column {column!r} holds {type(value).__name__} {value!r:.60}; a label is a text, a number or a list of them."
    )


def choose_task(source: RowSource, config: Config) -> str:
    """Return the name of the task of `source`: the one told, or the one that settings, columns or values can only mean.

    Raises `UsageError` for settings that mean nothing to this task.
    """
    families = registry.usable()
    told = {name for family in families.values() for name in family.settings if config.is_told(name)}
    name = config.task if config.task != "auto" else _recognised(source, config, told)
    for other in sorted(told - registry.family(name).settings):
        owners = listing([task for task, family in families.items() if other in family.settings])
        how = "was recognised from the data" if config.task == "auto" else "was told"
        raise UsageError(
            f"{setting(other)} means nothing for {name}, which {how}; it belongs to {owners}. Leave it out, or name the {setting('task')}."
        )
    return name


def _recognised(source: RowSource, config: Config, told: set[str]) -> str:
    """Return the task that can only be meant; told: the settings of single tasks that were told."""
    families = registry.usable()
    for name, family in families.items():
        if family.implied and family.settings & told:
            return name
    found = registry.by_signs(source.columns, config.label)
    if found is not None:
        return found
    for name, family in families.items():
        if family.values is None or (family.implied and told):
            continue  # settings of labels say that there are labels
        if registry.load(family.values)(source, _target_of(source, family, config)):
            return name
    text_pair = config.text_pair
    if text_pair is None and config.text is None:
        text_pair = _pair_by_name([name for name in source.columns if name != config.label], None, None, DEFAULT)[1]
    return "classification" if text_pair is None else "pair"


def _target_of(source: RowSource, family: Family, config: Config) -> str | None:
    """Return the column that would be the target: the one named, the one that classification would take, else one of the family's names."""
    for kind in (DEFAULT, family):
        try:
            return guess_schema(source, **config.columns, group=config.group, family=kind).target
        except DataError:
            continue
    return None


def guess_schema(
    source: RowSource,
    *,
    text: str | None,
    label: str | None,
    group: str | None,
    text_pair: str | None = None,
    family: Family = DEFAULT,
    need_label: bool = True,
) -> Schema:
    """Return the schema for the named columns, and for those not named the ones that can only be meant.

    A column is taken by its name (`text`, `label` and their usual synonyms), else when no other column is left. Two texts are
    taken when `text_pair` names the second, or when two columns have the names of a usual pair (`premise` and `hypothesis`).
    A column that numbers the rows (`id`, `index`) is not taken for a text that is left, nor for the label beside another column.
    family: of the task, whose `two_texts` is True when two texts are needed, False when only one may be taken, None when the
        columns decide

    Raises `DataError` that lists the columns when one is missing or more than one could be meant.
    """
    pairs, need_label = family.two_texts, need_label and family.needs_target
    for role, name in (("text", text), ("second text", text_pair), ("label", label if need_label else None), ("group", group)):
        if name is not None and name not in source.columns:
            raise DataError(
                f"{source.name}: there is no {role} column {name!r}.{did_you_mean(name, source.columns)} "
                f"Columns: {listing(source.columns, 40)}."
            )
    if pairs or (pairs is None and text is None):
        free = [name for name in source.columns if name not in (label, group)]
        text, text_pair = _pair_by_name(free, text, text_pair, family)
    free = [name for name in source.columns if name not in (text, text_pair, label, group)]
    passed = [name for name in free if name.strip().casefold() in _NUMBERS]
    free = [name for name in free if name not in passed]
    if pairs and text_pair is None and text is not None and label is not None and len(free) == 1:
        text_pair = free.pop()
    if text is None:
        text = _by_name(free, family.texts)
    if label is None and need_label:
        label = _by_name([name for name in free if name != text], family.targets)
    free = [name for name in free if name not in (text, label)]
    if text is None and len(free) == 1 and (label is not None or not need_label):
        text = free[0]
    elif label is None and need_label and text is not None and len(free or passed) == 1 and (free or passed)[0] not in family.texts:
        label = (free or passed)[0]
    elif text is None and label is None and len(free) == 2 and not pairs:
        text, label = _by_length(source, free)
    half = bool(pairs) and text_pair is None
    if text is None or half or (label is None and need_label):
        name, role = ("text", "text") if text is None else ("text_pair", "second text of the pair") if half else ("label", "label")
        taken = f" Column {group!r} cannot be it: {setting('group')} names it, whose rows are kept together." if group is not None else ""
        if text is None and text_pair is not None:
            taken += f" Column {text_pair!r} is the second text already."
        if passed:
            were = "was" if len(passed) == 1 else "were"
            taken += f" {listing(map(repr, passed))} {were} passed over, as the name is that of a row's number."
        raise DataError(
            f"{source.name}: cannot tell which column is the {role}. Say it with {setting(name)}.{taken} "
            f"Columns: {listing(source.columns, 40)}."
        )
    texts = (text,) if text_pair is None else (text, text_pair)
    if family.grouped and group is None:
        return Schema(texts, label if need_label else None, text, needs_group=False, read=family.read)
    return Schema(texts, label if need_label else None, group, read=family.read)


def rows_of(source: RowSource, family: Family, **settings: Any) -> RowSource:
    """Return the rows that the task takes from `source`; settings: those of its `encoding`."""
    found: RowSource = source if family.rows is None else registry.load(family.rows)(source, **settings)
    return found


def for_test(source: RowSource) -> RowSource:
    """Return the rows to test on: those of `source`, or of the test part that a collection with parts of its own comes with."""
    found: RowSource = getattr(source, "companions", {}).get("test", source)
    return found


def _pair_by_name(columns: list[str], text: str | None, text_pair: str | None, family: Family) -> tuple[str | None, str | None]:
    """Return the columns of the one usual pair of names that is there, and agrees with what has been named already."""
    folded = {column.strip().casefold(): column for column in columns}
    found = [(folded[one], folded[two]) for one, two in family.pairs if one in folded and two in folded]
    fitting = [(one, two) for one, two in found if text in (None, one) and text_pair in (None, two)]
    return fitting[0] if len(fitting) == 1 else (text, text_pair)


def _by_name(columns: list[str], names: tuple[str, ...]) -> str | None:
    for name in names:
        found = [column for column in columns if column.strip().casefold() == name]
        if len(found) == 1:
            return found[0]
    return None


def _by_length(source: RowSource, columns: list[str]) -> tuple[str | None, str | None]:
    """Of two columns the text is the one whose values are mostly different and clearly longer, over the first 200 rows."""
    values: dict[str, list[str]] = {column: [] for column in columns}
    for row, _ in islice(source, 200):
        for column in columns:
            values[column].append(str(row.get(column, "")))
    lengths = {column: sum(map(len, found)) / max(len(found), 1) for column, found in values.items()}
    longer, shorter = sorted(columns, key=lambda column: -lengths[column])
    if lengths[longer] >= 3 * lengths[shorter] and len(set(values[shorter])) <= len(set(values[longer])):
        return longer, shorter
    return None, None


def examples_of(source: RowSource, schema: Schema, rows: np.ndarray, progress: Progress = QUIET) -> list[Example]:
    """Return the examples of the rows with numbers `rows` (int[E], counted from 0), in that order, by one pass over `source`."""
    wanted = {int(row): place for place, row in enumerate(rows)}
    found: dict[int, Example] = {}
    left = len(wanted)
    with progress.track(f"reading {source.name}", max(wanted, default=-1) + 1, "rows") as tracker:
        for number, (row, place) in enumerate(source):
            tracker.advance()
            if number in wanted:
                found[wanted[number]] = schema.parse(row, place)
                left -= 1
                if left == 0:
                    break
    if left:
        raise DataError(f"{source.name}: the file changed while it was in use: it has fewer rows now. Start again.")
    return [found[place] for place in range(len(rows))]
