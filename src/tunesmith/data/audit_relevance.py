"""What an audit says of judgements of relevance: how many queries and passages there are, and which queries teach or tell nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from tunesmith.data.audit_types import SHOWN, Finding
from tunesmith.data.beir import BeirSource
from tunesmith.data.lexical import Lexical
from tunesmith.data.relevance import grade_in
from tunesmith.data.schema import RowSource, Schema
from tunesmith.errors import counted, listing, setting

_SAMPLE, _CHARACTERS, _LEAST = 5_000, 2_000, 20
"""Rows whose words are compared, how much of a passage is read for it, and the fewest queries of which something can be said."""


class _Judged(NamedTuple):
    query: str
    passage: str
    relevant: bool
    place: str


@dataclass(slots=True)
class _Query:
    place: str
    rows: int = 0
    relevant: int = 0


@dataclass
class _Counts:
    """queries: by text; grades: rows of each; odd, missing, lone: places of rows whose label is none, without a label, without a query"""

    queries: dict[str, _Query] = field(default_factory=dict)
    passages: set[int] = field(default_factory=set)
    grades: Counter[float] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    lone: list[str] = field(default_factory=list)


def examine_relevance(source: RowSource, schema: Schema) -> list[Finding]:
    """Return a note on queries, passages and grades of `source`, and findings on what cannot be learned or judged."""
    # of a collection the passages that somebody judged, without those that a search put beside them
    judged = source.judged() if isinstance(source, BeirSource) else source
    found = list(_findings(_count(judged, schema)))
    if isinstance(source, BeirSource) and source.candidates is not None:
        found.append(
            Finding(
                "note",
                f"each query gets {source.candidates} passages of BM25 beside its judged ones, with grade 0 where nobody judged them.",
                "A cross-encoder learns from them as not relevant and ranks them, as it would re-rank a search.",
            )
        )
    return [*found, *_upside_down(_sample(judged, schema))]


def _count(source: RowSource, schema: Schema) -> _Counts:
    counts = _Counts()
    for row, place in source:
        example = schema.parse(row, place)
        counts.passages.add(hash(example.texts[1].strip()))
        if example.group is None:
            counts.lone.append(str(place))
            continue
        query = counts.queries.setdefault(example.group, _Query(str(place)))
        if example.target is None:
            counts.missing.append(str(place))
            continue
        grade = grade_in(example.target[0])
        if grade is None:
            counts.odd.append(f"{place}: {example.target[0]!r}")
            continue
        counts.grades[grade] += 1
        query.rows += 1
        query.relevant += grade > 0
    return counts


def _findings(found: _Counts) -> Iterator[Finding]:
    judged = found.grades.total()
    grades = listing([f"{grade:g} ({rows:,})" for grade, rows in sorted(found.grades.items())], 8)
    if found.queries:
        said = (
            f"{_queries(len(found.queries))} with {counted(judged, 'row')}, {len(found.passages):,} different passages; grades: {grades}."
        )
        yield Finding("note", said, "A grade above 0 means relevant. The rows of one query stay together in a split.")
    for places, what, advice in (
        (found.odd, "says not how relevant a passage is", "Write 0 for not relevant and 1 for relevant, or higher grades."),
        (found.missing, "has no label", f"Label such rows, or leave them out with {setting('drop_unlabelled', True)}."),
        (found.lone, "has no query", "Such rows are learned from as passages at most. Fill the query in, or delete them."),
    ):
        if places:
            plural = {"says": "say", "has": "have"}[what.split()[0]] + what[len(what.split()[0]) :]
            text = f"{counted(len(places), 'row')} {what if len(places) == 1 else plural}: {listing(places, SHOWN)}."
            yield Finding("warning" if places is found.lone else "error", text, advice)
    asked = [query for query in found.queries.values() if query.rows]
    none = [query for query in asked if not query.relevant]
    if none:
        advice = f"No metric counts them, and only {setting('ranking_loss', 'pointwise')} learns from them."
        if len(none) == len(asked):
            text, advice = "no query has a relevant passage.", f"There is nothing to learn. Is {setting('label')} the right column?"
        else:
            have = "has" if len(none) == 1 else "have"
            text = f"{len(none):,} of {_queries(len(asked))} {have} no relevant passage ({_at(none)})."
        yield Finding("error" if len(none) == len(asked) else "warning", text, advice)
    alone = [query for query in asked if query.relevant == query.rows]
    if alone:
        have = "has" if len(alone) == 1 else "have"
        yield Finding(
            "warning" if len(alone) == len(asked) else "note",
            f"{len(alone):,} of {_queries(len(asked))} {have} relevant passages only ({_at(alone)}).",
            f"Any order of them is right, so that they are no test. To learn from, {setting('negatives', 'random')} draws others.",
        )


def _sample(source: RowSource, schema: Schema) -> Iterator[_Judged]:
    """Yield those of the first rows that have a query and a grade."""
    for row, place in islice(source, _SAMPLE):
        example = schema.parse(row, place)
        grade = grade_in(example.target[0]) if example.target is not None else None
        if example.group is not None and grade is not None:
            yield _Judged(example.texts[0], example.texts[1][:_CHARACTERS], grade > 0, str(place))


def _upside_down(sample: Iterable[_Judged]) -> Iterator[Finding]:
    """Yield a warning when passages that are not relevant share more words with their query, by BM25, than relevant ones.

    For each query the share of its pairs of a relevant passage and one that is not in which the first has the higher score (equal ones
    count half); the warning comes when the mean of these shares is below a half by more than two standard errors.
    """
    queries: dict[str, list[_Judged]] = defaultdict(list)
    for row in sample:
        queries[row.query].append(row)
    both = [rows for rows in queries.values() if len({row.relevant for row in rows}) == 2]
    if len(both) < _LEAST:
        return
    place = {text: i for i, text in enumerate(dict.fromkeys(row.passage for rows in both for row in rows))}
    engine = Lexical.of(list(place))
    shares, worst = [], []
    for rows in both:
        scores = engine.scores(rows[0].query)
        found = np.array([scores[place[row.passage]] for row in rows])
        relevant = np.array([row.relevant for row in rows])
        ahead = np.subtract.outer(found[relevant], found[~relevant])
        shares.append(float(np.mean((ahead > 0) + 0.5 * (ahead == 0))))
        worst.append(rows[int(np.argmax(np.where(relevant, -1, found)))].place)
    mean, error = float(np.mean(shares)), float(np.std(shares)) / len(shares) ** 0.5
    if mean + 2 * error >= 0.5:
        return
    shown = listing([worst[i] for i in np.argsort(shares, kind="stable")[:SHOWN]], SHOWN)
    yield Finding(
        "warning",
        f"passages that are not relevant share more words with their query than relevant ones, in {1 - mean:.0%} of pairs ({shown}).",
        "Right where they were chosen for their words, as hard negatives are. Else look at them: the grades may be the wrong way round.",
    )


def _queries(count: int) -> str:
    return f"{count:,} {'query' if count == 1 else 'queries'}"


def _at(queries: list[_Query]) -> str:
    return listing([query.place for query in queries], 3)
