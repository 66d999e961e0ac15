"""Audit a data file before any training: labels, duplicates, conflicts, leakage, lengths and damaged text.

Two passes over the rows: the first measures every row, the second fetches the texts of the examples and of the candidates for
near duplicates. About 200 bytes a row are kept.
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from tunesmith.data.audit_labels import LabelsInTexts, audit_labels, cell_of, recognise, shown, split
from tunesmith.data.audit_types import SHOWN, Audit, Example, Finding, Issue, Leakage, Lengths, Loss
from tunesmith.data.duplicates import Deduplicator, Link
from tunesmith.data.findings import findings
from tunesmith.data.likeness import text_key
from tunesmith.data.schema import Row, RowSource, Schema, Source, joined
from tunesmith.data.text_faults import fault_position, faults, script, snippet
from tunesmith.data.tokens import Truncation
from tunesmith.errors import DataError, did_you_mean, listing
from tunesmith.progress import Progress

__all__ = ["Audit", "Finding", "audit", "findings"]

_ROWS = 1024  # rows measured at once
_CHARACTERS = 1 << 22  # or fewer, when their texts are long
_POLICIES = ("head", "tail", "head-tail", "windows")
_PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
_FAULTS = ("undecoded", "mojibake", "control", "html", "huge")


class _Places:
    """`file:line` of every row, in 16 bytes each."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.file = array("q")
        self.line = array("q")

    def add(self, source: Source) -> None:
        self.file.append(self.files.setdefault(source.file, len(self.files)))
        self.line.append(source.line)

    def __getitem__(self, row: int) -> str:
        return str(Source(list(self.files)[self.file[row]], self.line[row]))


class _Scan:
    """What the first pass keeps of one source: per row place, key, code of the label cell (-1: none), tokens of each text."""

    def __init__(self, source: RowSource, schema: Schema) -> None:
        self.source, self.schema = source, schema
        self.rows = 0
        self.places = _Places()
        self.cells: dict[str, int] = {}
        self.from_lists = False
        self._codes, self._tokens = array("i"), array("q")
        self._keys: list[np.ndarray] = []
        self.issues: dict[str, tuple[int, list[Example]]] = {}
        self.scripts: Counter[str] = Counter()

    def run(self, finder: Deduplicator, count_tokens: Callable[[list[str]], list[int]] | None, progress: Progress) -> None:
        """Read the source once. Without `count_tokens` texts are only compared and labels read."""
        with progress.track(f"reading {self.source.name}") as tracker:
            for part in self._parts():
                self._keys.append(finder.add([joined(texts) for texts in part], reference=count_tokens is not None))
                if count_tokens is not None:
                    self._tokens.extend(count_tokens([text for texts in part for text in texts]))
                tracker.advance(len(part))
        self.keys = np.concatenate(self._keys or [np.zeros(0, np.uint64)])
        self.codes = np.array(self._codes, np.int64)
        self.tokens = np.array(self._tokens, np.int64).reshape(-1, len(self.schema.texts))
        self.blank = self.keys == np.uint64(text_key(""))

    def _parts(self) -> Iterator[list[tuple[str, ...]]]:
        part: list[tuple[str, ...]] = []
        size = 0
        for row, place in self.source:
            texts = self._measure(row, place)
            part.append(texts)
            size += sum(map(len, texts))
            if len(part) == _ROWS or size > _CHARACTERS:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _measure(self, row: Row, place: Source) -> tuple[str, ...]:
        example = self.schema.parse(row, place)
        text = joined(example.texts)
        self.places.add(place)
        self.rows += 1
        code = -1
        if self.schema.target is not None:
            self.from_lists |= example.target_is_list
            if example.target is None:
                if text.strip():  # empty lines of a spreadsheet need no label
                    self._count("missing", place, text)
            else:
                code = self.cells.setdefault(cell_of(example.target, example.target_is_list), len(self.cells))
        self._codes.append(code)
        if text == "" or text.isspace():
            self._count("empty", place, text)
        else:
            self.scripts[script(text)] += 1
            for fault in faults(text):
                self._count(fault, place, text)
        return example.texts

    def _count(self, issue: str, place: Source, text: str) -> None:
        rows, examples = self.issues.get(issue, (0, []))
        if len(examples) < SHOWN:
            examples.append(Example((str(place),), (snippet(text, fault_position(text, issue)),)))
        self.issues[issue] = (rows + 1, examples)

    def issue(self, name: str) -> Issue:
        rows, examples = self.issues.get(name, (0, []))
        return Issue(rows, 0, tuple(examples))

    def label_of(self, row: int) -> str:
        code = int(self.codes[row])
        return "no label" if code < 0 else shown(next(itertools.islice(self.cells, code, None)))


def audit(
    source: RowSource,
    schema: Schema,
    *,
    other: RowSource | None,
    count_tokens: Callable[[list[str]], list[int]],
    truncation: Truncation,
    budget: int,
    label_separator: str | None,
    label_type: str = "auto",
    progress: Progress,
) -> Audit:
    """Read `source` twice and return what is to be known about it before training.

    schema: its columns; without a `target` nothing is said about labels
    other: a test file, to look for texts that stand in both
    count_tokens: gives the tokens of each text, special tokens not counted
    truncation: length of sequences and windows; what each of the four policies would lose with them is told
    budget: tokens of text in a sequence; the policy `windows` is left out when windows of this size cannot overlap by the stride
    label_separator, label_type: what joins the labels of one cell, and whether there are any (`single`, `multi`); None, `auto`: recognised;
        `value`: they are numbers; `tags`: one for each word of a row; `text`: texts of their own, of which nothing is said

    Raises `DataError` for a column that is not there or holds what cannot be read as text.
    """
    for column in (*schema.texts, *([schema.target] if schema.target is not None else [])):
        _check_column(source, column)
    with Deduplicator() as finder:
        scan = _Scan(source, schema)
        scan.run(finder, count_tokens, progress)
        test = None
        if other is not None:
            for column in schema.texts:
                _check_column(other, column)
            test = _Scan(other, replace(schema, target=schema.target if schema.target in other.columns else None))
            test.run(finder, None, progress)
        return _Comparison(scan, test, finder, (label_separator, label_type), progress).result(_lengths(scan, truncation, budget))


def _check_column(source: RowSource, column: str) -> None:
    if column not in source.columns:
        raise DataError(
            f"{source.name}: there is no column {column!r}.{did_you_mean(column, source.columns)} Columns: {listing(source.columns, 40)}."
        )


def _lengths(scan: _Scan, truncation: Truncation, budget: int) -> Lengths | None:
    tokens = scan.tokens.sum(1)
    if not len(tokens):
        return None
    marks = np.percentile(tokens, _PERCENTILES, method="inverted_cdf").tolist()
    names = ("min", *map(str, _PERCENTILES[1:-1]), "max")
    total = int(tokens.sum())
    sizes, rows = np.unique(scan.tokens, axis=0, return_counts=True)
    pair = scan.schema.pair
    policies = {}
    # a task that always takes windows has no other choice
    for name in _POLICIES if truncation.policy != "windows" else ("windows",):
        if name == "windows" and truncation.stride >= budget // (1 + pair):
            continue
        policy = replace(truncation, policy=name)
        lost_of: Callable[..., int] = policy.pair_lost if pair else policy.lost
        spans_of: Callable[..., list[Any]] = policy.pair_spans if pair else policy.spans
        lost = np.array([lost_of(*size, budget) for size in sizes.tolist()], np.int64)
        made = np.array([len(spans_of(*size, budget)) for size in sizes.tolist()], np.int64)
        cut, gone = int(rows[lost > 0].sum()), int((lost * rows).sum())
        policies[name] = Loss(cut, cut / len(tokens), gone, gone / max(total, 1), int((made * rows).sum()))
    percentiles = dict(zip(names, marks, strict=True))
    return Lengths(
        truncation.max_length, budget, truncation.stride, truncation.max_windows, total, total / len(tokens), percentiles, policies
    )


class _Comparison:
    """The second half of the audit: rows against one another and against the test rows, then the texts of the examples."""

    def __init__(self, scan: _Scan, test: _Scan | None, finder: Deduplicator, told: tuple[str | None, str], progress: Progress) -> None:
        self.scan, self.test, self.finder, self.progress = scan, test, finder, progress
        rows = np.bincount(scan.codes[scan.codes >= 0], minlength=len(scan.cells)).tolist()
        self.cells = dict(zip(scan.cells, rows, strict=True))
        self.repeat = told[1] != "text"
        self.kind, self.separator = recognise(self.cells, told[0], scan.from_lists, told[1])
        known: dict[tuple[str, ...], int] = {}
        self.sets = self._sets(scan, known)
        self.test_sets = self._sets(test, known) if test is not None else self.sets[:0]
        self.texts: dict[int, str] = {}  # of the rows that examples show; those of the test file come after all others

    def _sets(self, scan: _Scan, known: dict[tuple[str, ...], int]) -> np.ndarray:
        """Return for each row a number that equal sets of labels share, whatever their order in the cell; -1 without label."""
        numbers = [known.setdefault(tuple(sorted(set(split(cell, self.kind, self.separator)))), len(known)) for cell in scan.cells]
        return np.array([*numbers, -1], np.int64)[scan.codes]

    def result(self, lengths: Lengths | None) -> Audit:
        """Return the audit; reads the sources once more."""
        scan = self.scan
        groups = self._same_text()
        conflicts = [group for group in groups if len(np.unique(self.sets[group[self.sets[group] >= 0]])) > 1]
        leaked, train_row = self._leaked()
        shown = [int(group[0]) for group in (*groups[:SHOWN], *conflicts[:SHOWN])] + (scan.rows + leaked[:SHOWN]).tolist()
        in_text = self._second_pass(shown)
        self.finder.verify()
        issues = {name: scan.issue(name) for name in ("empty", *_FAULTS)}
        written = max(scan.scripts.total(), 1)
        labels = None
        if scan.schema.target is not None and self.repeat:
            labels = audit_labels(scan.schema.target, self.cells, scan.issue("missing"), self.kind, self.separator, in_text)
        return Audit(
            name=scan.source.name,
            rows=scan.rows,
            columns=tuple(scan.source.columns),
            text=" and ".join(scan.schema.texts),
            repeats=Issue(sum(map(len, groups)) - len(groups), len(groups), tuple(map(self._repeat, groups[:SHOWN]))),
            near=self._near() if self.repeat else Issue(0, 0, ()),  # questions on one passage are alike, and a split keeps them together
            conflicts=Issue(sum(map(len, conflicts)), len(conflicts), tuple(map(self._conflict, conflicts[:SHOWN]))),
            scripts={name: rows / written for name, rows in scan.scripts.most_common()},
            labels=labels,
            lengths=lengths,
            leakage=self._leakage(self.test, leaked, train_row) if self.test is not None else None,
            remarks=(),
            **issues,
        )

    def _same_text(self) -> list[np.ndarray]:
        """Return the rows of every text that stands more than once, the most frequent first."""
        order = np.argsort(self.scan.keys, kind="stable")
        order = order[~self.scan.blank[order]]
        keys = self.scan.keys[order]
        begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
        ends = np.append(begins[1:], len(keys))
        many = ends - begins > 1
        groups = [order[begin:end] for begin, end in zip(begins[many], ends[many], strict=True)]
        return sorted(groups, key=lambda group: (-len(group), group[0]))

    def _leaked(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the test rows whose text stands in the audited file, and for each the first row there."""
        if self.test is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        keys, first = np.unique(self.scan.keys, return_index=True)
        place = np.minimum(np.searchsorted(keys, self.test.keys), max(len(keys) - 1, 0))
        same = keys[place] == self.test.keys if len(keys) else np.zeros(len(place), bool)
        rows = np.flatnonzero(same & ~self.test.blank)
        return rows, first[place[rows]] if len(keys) else rows

    def _second_pass(self, shown: list[int]) -> LabelsInTexts:
        """Fetch the texts of rows that examples show, hand the candidates to the finder, look for labels in texts."""
        in_text = LabelsInTexts(self.kind, self.separator)
        wanted, keep = set(shown), set(self.finder.wanted().tolist())
        begin = 0
        for scan in (self.scan, self.test):
            if scan is None or (scan is self.test and not wanted | keep):
                continue
            with self.progress.track(f"comparing {scan.source.name}", total=scan.rows) as tracker:
                for row, (values, place) in enumerate(scan.source, begin):
                    if row - begin >= scan.rows:
                        break  # the file grows
                    if scan is self.scan or row in keep or row in wanted:
                        example = scan.schema.parse(values, place)
                        text = joined(example.texts)
                        if row in keep:
                            self.finder.keep(row, text)
                        if row in wanted:
                            self.texts[row] = text
                        if scan is self.scan and example.target is not None:
                            in_text.add(text, cell_of(example.target, example.target_is_list))
                    tracker.advance()
            begin += scan.rows
        return in_text

    def _place(self, row: int) -> str:
        return self.scan.places[row] if row < self.scan.rows else cast(_Scan, self.test).places[row - self.scan.rows]

    def _label(self, row: int) -> str:
        scan = self.scan if row < self.scan.rows else cast(_Scan, self.test)
        return scan.label_of(row if row < self.scan.rows else row - self.scan.rows)

    def _repeat(self, group: np.ndarray) -> Example:
        rows = group.tolist()
        return Example(tuple(map(self._place, rows[:SHOWN])), (snippet(self.texts[rows[0]]),), f"{len(rows):,} times")

    def _conflict(self, group: np.ndarray) -> Example:
        rows = [row for row in group.tolist() if self.sets[row] >= 0]
        rows = [rows[i] for i in np.sort(np.unique(self.sets[rows], return_index=True)[1])]  # one row of each label
        note = " / ".join(map(self._label, rows[:SHOWN]))
        return Example(tuple(map(self._place, rows[:SHOWN])), (snippet(self.texts[int(group[0])]),), note)

    def _near(self) -> Issue:
        groups = self.finder.groups(exact=False)
        examples = tuple(self._pair(group.links[0]) for group in groups[:SHOWN])
        return Issue(sum(len(group.rows) for group in groups), len(groups), examples)

    def _pair(self, link: Link) -> Example:
        one, two = self.finder.text(link.first), self.finder.text(link.second)
        differ = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a.casefold() != b.casefold()), min(len(one), len(two)))
        note = f"similarity {min(link.similarity, 0.99):.2f}"  # 1.00 would read as the same text
        labels = self._label(link.first), self._label(link.second)
        if self.scan.schema.target is not None and labels[0] != labels[1]:
            note += f", labels {labels[0]} / {labels[1]}"
        return Example((self._place(link.first), self._place(link.second)), (snippet(one, differ), snippet(two, differ)), note)

    def _leakage(self, test: _Scan, leaked: np.ndarray, train_row: np.ndarray) -> Leakage:
        matches = self.finder.matches()
        examples = tuple(
            Example((test.places[row], self.scan.places[first]), (snippet(self.texts[self.scan.rows + row]),))
            for row, first in zip(leaked[:SHOWN].tolist(), train_row[:SHOWN].tolist(), strict=True)
        )
        known = test.schema.target is not None
        given: set[tuple[int, int]] = set()
        if known:
            asked = np.isin(self.scan.keys, test.keys[leaked])
            given = set(zip(self.scan.keys[asked].tolist(), self.sets[asked].tolist(), strict=True))
        pairs = zip(test.keys[leaked].tolist(), self.test_sets[leaked].tolist(), strict=True)
        here = {label for cell in self.cells for label in split(cell, self.kind, self.separator)}
        unseen: Counter[str] = Counter()
        for cell, rows in zip(test.cells, np.bincount(test.codes[test.codes >= 0], minlength=len(test.cells)).tolist(), strict=True):
            for label in split(cell, self.kind, self.separator):
                if label not in here:
                    unseen[label] += rows
        return Leakage(
            name=test.source.name,
            rows=test.rows,
            exact=Issue(len(leaked), len(np.unique(test.keys[leaked])), examples),
            near=Issue(len(matches), 0, tuple(map(self._pair, matches[:SHOWN]))),
            contradicted=sum(known and number >= 0 and (key, number) not in given for key, number in pairs),
            unseen=dict(unseen.most_common()),
        )
