"""The tasks by name: which class learns each, and by which columns its data are known. Nothing is imported before it is used.

A task of a third party registers a `Family` as an entry point of the group `tunesmith.tasks`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelError, UsageError, did_you_mean, listing, setting

_TEXTS = (
    "text", "sentence", "review", "content", "comment", "body", "message", "document", "question", "title", "headline", "utterance"
)  # fmt: skip
_LABELS = ("label", "labels", "category", "class", "target", "sentiment", "intent", "topic", "tag", "tags", "y")
_GRADES = ("label", "relevance", "relevant", "grade", "score", "judgement", "judgment", "rating", "y")
_SCORES = ("score", "similarity", "similarity_score", "rating", "label", "target", "y")
_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
)
_QUESTIONS = (
    ("question", "context"),
    ("question", "passage"),
    ("question", "paragraph"),
    ("query", "context"),
    ("question", "text"),
    ("text", "text_pair"),
)
_ASKED = (
    frozenset({"question", "context", "answers"}),
    frozenset({"question", "context", "answer"}),
    frozenset({"question", "passage", "answers"}),
    frozenset({"question", "passage", "answer", "answer_start"}),
)

_RANKED = (
    ("query", "passage"),
    ("query", "document"),
    ("query", "doc"),
    ("query", "text"),
    ("query", "article"),
    ("query", "answer"),
    ("query", "sentence"),
    ("question", "passage"),
    ("question", "answer"),
    ("text", "text_pair"),
)


@dataclass(frozen=True)
class Family:
    """One line of the registry.

    task: "module:Class" of the `tasks.base.Task`
    two_texts: whether an example has two texts; None where the columns decide
    texts, pairs, targets: the usual names of the text column, of two text columns, and of the target's, best first
    read: "module:function" that makes an `Example` of a row
    needs_target: whether training rows without a target are of no use
    signs: columns that, all of one of these sets being there, can only mean this task
    rows: "module:function" that makes of a source, and the settings of the task's `encoding`, the rows that the task learns from, such as
        documents of lines; None: as they are
    values: "module:function" that tells by a source and its target column whether the values can only mean this task
    implied: whether its `settings` say that it is meant, and those of other tasks that it is not, whatever the values are
    grouped: whether rows with the same first text stay on one side of a split, as the passages of one query
    settings: those that mean something for this task and not for all others
    updatable: whether a trained model can be updated with new rows
    audited: as what `check` takes its targets, `value`, `text` or `tags`; None: as labels, of the `label_type` that is set
    """

    task: str
    two_texts: bool | None = False
    texts: tuple[str, ...] = _TEXTS
    pairs: tuple[tuple[str, str], ...] = _PAIRS
    targets: tuple[str, ...] = _LABELS
    read: str = "tunesmith.data.schema:read_labelled"
    needs_target: bool = True
    signs: tuple[frozenset[str], ...] = ()
    values: str | None = None
    implied: bool = False
    grouped: bool = False
    settings: frozenset[str] = frozenset()
    rows: str | None = None
    updatable: bool = True
    audited: str | None = None


_OF_LABELS = frozenset({"label_type", "label_separator", "loss", "focal_gamma", "label_smoothing", "class_weights"})

_OF_RANKING = frozenset({
    "label_smoothing",
    "ranker", "ranking_loss", "temperature", "negatives", "negatives_per_query", "miner", "false_negative_margin", "candidates",
})  # fmt: skip

TASKS: dict[str, Family] = {
    "classification": Family("tunesmith.tasks.classification:Classification", settings=_OF_LABELS),
    "pair": Family("tunesmith.tasks.classification:Classification", True, settings=_OF_LABELS),
    "regression": Family(
        "tunesmith.tasks.regression:Regression",
        None,
        targets=_SCORES,
        values="tunesmith.data.measured:looks_measured",
        implied=True,
        settings=frozenset({"clip"}),
        audited="value",
    ),
    "tagging": Family(
        "tunesmith.tasks.tagging:Tagging",
        texts=("tokens", "words", *_TEXTS),
        targets=("tags", "ner_tags", "upos", "xpos", "pos_tags", "spans", "entities", *_LABELS),
        read="tunesmith.data.words:read_tagged",
        signs=(frozenset({"text", "spans"}), frozenset({"text", "entities"})),
        values="tunesmith.data.words:looks_tagged",
        settings=frozenset({"scheme", "context", "constrain", "class_weights", "label_smoothing"}),
        audited="tags",
    ),
    "masked-lm": Family(
        "tunesmith.tasks.masked_lm:MaskedLM", needs_target=False, updatable=False, values="tunesmith.data.documents:is_raw_text",
        rows="tunesmith.data.documents:documents_of",
        settings=frozenset({"label_smoothing", "mask_share", "from_scratch", "vocab_size", "layers", "width", "heads"}),
    ),
    "qa": Family(
        "tunesmith.tasks.qa:QuestionAnswering", True, pairs=_QUESTIONS, targets=("answers", "answer"),
        read="tunesmith.data.squad:read_question", signs=_ASKED,
        settings=frozenset({"label_smoothing", "max_answer_tokens", "answer_match"}), audited="text",
    ),
    "ranking": Family(
        "tunesmith.tasks.ranking:Ranking", True, pairs=_RANKED, targets=_GRADES, read="tunesmith.data.relevance:read_judged",
        signs=(frozenset({"query", "passage"}), frozenset({"query", "document"}), frozenset({"query", "positive"})),
        rows="tunesmith.data.relevance:as_rows", grouped=True, settings=_OF_RANKING, audited="text",
    ),
}  # fmt: skip
"""Built-in tasks; `data.schema.choose_task` says which of them `auto` takes."""


@functools.cache
def _others() -> dict[str, Any]:
    from importlib.metadata import entry_points  # costs a tenth of what `tunesmith --help` may take

    return {point.name: point for point in entry_points(group="tunesmith.tasks")}


def names() -> list[str]:
    """Return the names of all tasks."""
    return [*TASKS, *(name for name in _others() if name not in TASKS)]


@functools.cache
def family(name: str) -> Family:
    """Return the family of task `name`. Raises `UsageError` for an unknown one, `ModelError` when a third party's cannot be loaded."""
    if name in TASKS:
        return TASKS[name]
    point = _others().get(name)
    if point is None:
        raise UsageError(f"{setting('task')} is {name!r}; it must be one of {listing(names(), 40)}.{did_you_mean(name, names())}")
    try:
        found = point.load()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    if not isinstance(found, Family):
        raise ModelError(
            f"task {name!r} is an extension ({point.value}) that cannot be used: {found!s:.200}. Update or remove its package."
        )
    return found


def usable() -> dict[str, Family]:
    """Return all tasks but extensions that are broken: these must not stop those who do not use them."""
    found = {}
    for name in names():
        with contextlib.suppress(ModelError):
            found[name] = family(name)
    return found


def by_signs(columns: Collection[str], target: str | None) -> str | None:
    """Return the first task whose signs are among `columns` and whose targets include the one named, None when there is none."""
    folded = {column.strip().casefold() for column in columns}
    for name, known in usable().items():
        if any(sign <= folded for sign in known.signs) and (target is None or target.strip().casefold() in known.targets):
            return name
    return None


@functools.cache  # asked for every row that is read
def load(path: str) -> Any:
    """Return what "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
