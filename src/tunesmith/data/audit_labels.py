"""The label column of an audited file: counts, spellings, rare labels, labels that stand in their texts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from tunesmith.data.audit_types import Issue, LabelInText, Labels, Variant
from tunesmith.data.joined import parts, separator_of
from tunesmith.data.likeness import normalise
from tunesmith.data.measured import number_in

_LIST = "\x1f"  # between the labels of a list, which may hold any printable separator
PLACEHOLDERS = {"nan", "null", "none", "n/a", "na", "#n/a", "nil", "?", "-", "unknown", "undefined"}
_MANY_LABELS = 2000  # beyond this spellings are not compared: it is a column of identifiers or of numbers
_SCALE = 20  # so many different numbers can still be a scale of marks
_NUMBERS = 0.9  # of the different cells; a column of measured values may have a few `n/a` and slips of the keyboard among them
_COMES_BACK = 5  # rows per number, on average, from which on whole numbers are classes
_KEPT_NUMBERS = 20
_RARE_SHARE = 0.05  # a label is taken for a misspelling only when it has at most this share of the other's rows
FEW_ROWS = 10


def cell_of(labels: list[str], is_list: bool) -> str:
    """Return one string for the labels of a row, which `split` takes apart."""
    return _LIST.join(labels) + _LIST if is_list else labels[0]


def shown(cell: str) -> str:
    """Return the labels of a cell for a message, in quotes; those of a list joined by commas."""
    if _LIST not in cell:
        return repr(cell)
    return repr(", ".join(cell.removesuffix(_LIST).split(_LIST))) if cell != _LIST else "(none)"


def split(cell: str, kind: str, separator: str | None) -> list[str]:
    """Return the labels of a cell, each once, in their order."""
    return parts(cell, _LIST if _LIST in cell else separator if kind == "multi" else None)


def recognise(cells: Mapping[str, int], separator: str | None, from_lists: bool, label_type: str = "auto") -> tuple[str, str | None]:
    """Return (`single`, `multi`, `number`, `value` or `tags`, separator) for the different cells of a label column and their rows.

    Numbers are measured values when hardly any comes back, or when there are many with decimals; whole numbers that do come
    back are numbered classes.
    label_type: `single`, `multi`, `value` for regression, or `tags` for tagging, where that is known, else `auto`
    """
    if label_type in ("value", "single", "tags"):
        return label_type, None
    if from_lists or separator is not None:
        return "multi", separator
    if label_type == "multi":
        return "multi", separator_of(cells, certain=True)
    values = [number for cell in cells if (number := number_in(cell)) is not None]
    if len(values) > _SCALE and len(values) >= _NUMBERS * len(cells):
        decimals = any(not value.is_integer() for value in values)
        if decimals or sum(cells.values()) < _COMES_BACK * len(cells):
            return "number", None
    found = separator_of(cells)
    return ("multi", found) if found is not None else ("single", None)


class LabelsInTexts:
    """Counts, label by label, the texts that name their own label as a word."""

    def __init__(self, kind: str, separator: str | None) -> None:
        self.kind, self.separator = kind, separator
        self.rows: Counter[str] = Counter()
        self._patterns: dict[str, tuple[tuple[str, re.Pattern[str]], ...]] = {}

    def add(self, text: str, cell: str) -> None:
        """Look for the labels of `cell` in `text`."""
        patterns = self._patterns.get(cell)
        if patterns is None:
            labels = split(cell, self.kind, self.separator) if self.kind != "number" else []
            patterns = tuple((label, pattern) for label in labels if (pattern := _as_words(label)) is not None)
            self._patterns[cell] = patterns
        for label, pattern in patterns:
            if pattern.search(text):
                self.rows[label] += 1


def _as_words(label: str) -> re.Pattern[str] | None:
    """Return what finds the label as words of a text; None for labels too short or bare of letters to tell anything."""
    words = re.split(r"[\s_\-]+", label.strip())
    letters = sum(character.isalpha() for character in label)
    if letters < (3 if label.isascii() else 2):
        return None
    body = r"[\s_\-]+".join(map(re.escape, words))
    # Chinese and Japanese have no word borders
    return re.compile(rf"(?<![^\W_]){body}(?![^\W_])" if label.isascii() else body, re.IGNORECASE)


def audit_labels(column: str, cells: Mapping[str, int], missing: Issue, kind: str, separator: str | None, in_text: LabelsInTexts) -> Labels:
    """Return what is to be said about a label column whose different cells have so many rows."""
    counter: Counter[str] = Counter()
    for cell, rows in cells.items():
        for label in split(cell, kind, separator):
            counter[label] += rows
    counts = dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
    if kind in ("number", "value"):
        known = {cell: number for cell in counts if (number := number_in(cell)) is not None}
        wrong = {cell: rows for cell, rows in counts.items() if cell not in known}
        kept = dict(itertools.islice(counts.items(), _KEPT_NUMBERS))
        values = _summary(np.repeat(list(known.values()), [counts[cell] for cell in known])) if known else None
        return Labels(column, kind, None, kept, len(counts), missing, (), wrong, (), {}, None, (), values)
    named = [LabelInText(label, rows, rows / counts[label]) for label, rows in in_text.rows.items()]
    return Labels(
        column=column,
        kind=kind,
        separator=separator,
        counts=counts,
        distinct=len(counts),
        missing=missing,
        variants=tuple(_variants(counts)) if len(counts) <= _MANY_LABELS else (),
        placeholders={label: rows for label, rows in counts.items() if label.casefold() in PLACEHOLDERS},
        single=tuple(sorted(label for label, rows in counts.items() if rows == 1)),
        few={label: rows for label, rows in counts.items() if 1 < rows < FEW_ROWS},
        imbalance=max(counts.values()) / min(counts.values()) if len(counts) > 1 else None,
        in_text=tuple(sorted((n for n in named if n.share > 0.5 and counts[n.label] >= FEW_ROWS), key=lambda n: (-n.share, n.label))),
    )


def _summary(values: np.ndarray) -> dict[str, float]:
    figures = {"least": values.min(), "mean": values.mean(), "greatest": values.max(), "standard deviation": values.std()}
    return {name: float(value) for name, value in figures.items()}


def _folded(label: str) -> str:
    return re.sub(r"[\s_\-]+", " ", normalise(label)).strip()


def spellings(counts: Mapping[str, int]) -> list[Variant]:
    """Return pairs of labels that are the same but for case, space, hyphens or width; `counts` has the most frequent first."""
    found = []
    folded: dict[str, str] = {}
    for label, rows in counts.items():
        like = folded.setdefault(_folded(label), label)
        if like != label:
            found.append(Variant(label, rows, like, counts[like], "the same but for case, space, hyphens or width"))
    return found


def _variants(counts: Mapping[str, int]) -> list[Variant]:
    """Return pairs of labels that may be one: two spellings of it, or a rare one a slip away from a frequent one.

    `counts` has the most frequent first. Labels that differ in digits only are different labels.
    """
    found = spellings(counts)
    told = {variant.label for variant in found}
    names = [(_folded(label), label) for label in counts if label not in told]  # by falling frequency
    for at, (short, label) in enumerate(names):
        for other, like in names[:at]:
            if counts[label] > _RARE_SHARE * counts[like]:
                break  # the further labels have fewer rows still
            if _slip(short, other):
                found.append(Variant(label, counts[label], like, counts[like], "a slip of the keyboard apart, and rare"))
                break
    return found


def _slip(one: str, two: str) -> bool:
    """Tell whether two labels are one edit (insert, delete, replace, swap) apart, or two when both are long.

    Both must begin alike: `typical` and `atypical`, `relevant` and `irrelevant` are opposites.
    """
    shortest = min(len(one), len(two))
    if shortest < 4 or one[0] != two[0] or abs(len(one) - len(two)) > 2 or re.sub(r"\d", "", one) == re.sub(r"\d", "", two):
        return False
    return _edits(one, two) <= (1 if shortest < 8 else 2)


def _edits(one: str, two: str) -> int:
    """Return the optimal string alignment distance: the fewest inserts, deletes, replacements and swaps of neighbours."""
    before: list[int] = []
    above = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == two[j - 2] and b == one[i - 2]:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, above = above, row
    return above[-1]
