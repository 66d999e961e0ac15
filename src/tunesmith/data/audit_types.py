"""What an audit of a data file holds. Everything is plain values, so `dataclasses.asdict` gives JSON."""

from __future__ import annotations

from dataclasses import dataclass

SHOWN = 5  # examples kept of each kind


@dataclass(frozen=True, slots=True)
class Example:
    """Where something was found (`file:line` each), the text there cut to a line, and what there is to say about it."""

    places: tuple[str, ...]
    texts: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Issue:
    """How many rows are concerned, in how many groups where they come in groups, and the first few examples."""

    rows: int = 0
    groups: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """Two labels that may be meant to be one: `label` is the rarer spelling."""

    label: str
    rows: int
    like: str
    like_rows: int
    why: str


@dataclass(frozen=True, slots=True)
class LabelInText:
    """A label whose own name stands in most of its texts: in so many rows, of all rows with the label."""

    label: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Labels:
    """The label column.

    kind: `single`, `multi` (any number per row), `tags` (one for each word), `value` (a number, as regression wants), or `number`
        (a measured value where labels are wanted)
    separator: what joins the labels of a cell, given or recognised; None for single labels and lists
    counts: rows of each label, most frequent first; of numbers only the most frequent ones
    distinct: how many different ones there are
    missing: rows without a label
    variants: pairs that may be one label spelled in two ways
    placeholders: labels that read like a missing value (`nan`, `null`), or where numbers are wanted what is none, with their rows
    single: labels with one row; few: labels with 2 to 9 rows
    imbalance: rows of the most frequent label over rows of the rarest; None with fewer than two labels
    values: least, mean, greatest value and standard deviation of numbers
    """

    column: str
    kind: str
    separator: str | None
    counts: dict[str, int]
    distinct: int
    missing: Issue
    variants: tuple[Variant, ...]
    placeholders: dict[str, int]
    single: tuple[str, ...]
    few: dict[str, int]
    imbalance: float | None
    in_text: tuple[LabelInText, ...]
    values: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """What one truncation policy cuts off, and how many sequences it makes of the rows."""

    rows: int
    share_of_rows: float
    tokens: int
    share_of_tokens: float
    sequences: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens per text without special tokens, and what the policies lose with `budget` tokens of text in a sequence."""

    max_length: int
    budget: int
    stride: int
    max_windows: int
    total: int
    mean: float
    percentiles: dict[str, int]  # min, 5, 25, 50, 75, 95, 99, max
    policies: dict[str, Loss]


@dataclass(frozen=True, slots=True)
class Leakage:
    """Rows of another file (the test file) that the audited file gives away.

    exact: its rows whose normalised text stands in the audited file; near: of the others, those with a near duplicate there
    contradicted: of the exact ones, those whose labels the audited file never gives to that text
    unseen: labels that the audited file does not have, with their rows
    """

    name: str
    rows: int
    exact: Issue
    near: Issue
    contradicted: int
    unseen: dict[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to act upon. severity: `error` (training would fail or its figures be false), `warning` or `note`."""

    severity: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The state of a data file before any training.

    repeats: rows that repeat the text of an earlier one are `repeats.rows`; `repeats.groups` texts are repeated
    near: rows in groups of near duplicates, each of two or more different texts
    conflicts: rows whose normalised text also stands under another label, or set of labels
    undecoded: rows with U+FFFD; mojibake: UTF-8 read as Latin-1 or Windows-1252; control: control characters; html: tags or
    entities; huge: more than a million characters
    scripts: share of the texts, by the script of most of their letters
    remarks: what the task adds
    """

    name: str
    rows: int
    columns: tuple[str, ...]
    text: str
    empty: Issue
    repeats: Issue
    near: Issue
    conflicts: Issue
    undecoded: Issue
    mojibake: Issue
    control: Issue
    html: Issue
    huge: Issue
    scripts: dict[str, float]
    labels: Labels | None
    lengths: Lengths | None
    leakage: Leakage | None
    remarks: tuple[Finding, ...] = ()
