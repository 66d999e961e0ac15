"""Judging ranked lists: grades of a table's rows, lists put in order, BM25 beside them. Q queries, N rows of the table, H width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.data.lexical import Lexical
from tunesmith.data.relevance import grade_in, only_grades
from tunesmith.data.table import TokenTable
from tunesmith.errors import counted, listing
from tunesmith.progress import QUIET, Progress
from tunesmith.ranking_metrics import RANKING, Ranking, difference, order_of, ranking_intervals
from tunesmith.seeds import seed_for
from tunesmith.tasks.mistakes import worst
from tunesmith.tasks.rows import Part, Ragged, Rows

SEARCHED = 1000
"""Passages of a searched collection that count: the depth of TREC's runs."""
_DRAWS = 5000
"""Random orders to judge, of lists or of collections: their mean is that of all orders but for some hundredths."""


@dataclass(frozen=True)
class JudgedTargets:
    """The grades of N rows, float32[N], NaN for a row without; 0 means not relevant.

    rank: int32[N], the rank of the passage in the first stage of search, 0 where it was not found; None without a first stage
    group: uint64[N], equal for rows of one query, 0 for a row without
    """

    grades: np.ndarray
    rank: np.ndarray | None
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.grades)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return float32[E], the grades."""
        return self.grades[rows]

    def stratum(self) -> np.ndarray:
        """Return int64[N]: whether the row's query has a relevant passage, or 2 for a row without a query."""
        _, place = np.unique(self.group, return_inverse=True)
        good = np.zeros(place.max(initial=-1) + 1, np.int64)
        np.maximum.at(good, place, (self.grades > 0).astype(np.int64))
        return np.where(self.group == 0, 2, good[place])

    def digests(self) -> np.ndarray:
        """Return uint64[N], equal for equal grades."""
        return self.grades.astype(np.float64).view(np.uint64)

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """Return the number of queries, of rows with a relevant passage, and of rows without."""
        group, grades = self.group[rows], self.grades[rows]
        asked = group != 0
        return {
            "queries": len(np.unique(group[asked])),
            "relevant": int((grades[asked] > 0).sum()),
            "not relevant": int((grades[asked] <= 0).sum()),
        }


def targets_of(table: TokenTable) -> JudgedTargets:
    """Return the grades of a table's rows. Raises `DataError` for a row whose label is none."""
    labels = table.labels()
    known = np.array([np.nan if (grade := grade_in(name)) is None else grade for name in labels.names], np.float32)
    sizes = np.diff(labels.starts)
    grades, rank = np.full(len(table), np.nan, np.float32), np.zeros(len(table), np.int32)
    ranked = np.array([int(name[1:]) if name[:1] == "#" and name[1:].isdigit() else -1 for name in labels.names], np.int32)
    first = labels.starts[:-1][sizes > 0]
    grades[sizes > 0] = known[labels.codes[first]] if len(first) else 0
    staged = sizes == 2
    bad = (sizes > 0) & np.isnan(grades)
    if staged.any():
        rank[staged] = ranked[labels.codes[labels.starts[:-1][staged] + 1]]
        bad |= rank < 0
    bad |= sizes > 2
    if bad.any():
        row = int(np.argmax(bad))
        found = [labels.names[code] for code in labels.codes[labels.starts[row] : labels.starts[row + 1]]]
        raise only_grades(found, f"{table.name}:{table.line[row]}")
    group = table.group if table.group is not None else np.zeros(len(table), np.uint64)
    return JudgedTargets(grades, rank if staged.any() else None, group)


@dataclass(frozen=True)
class Counted:
    """How many queries there are, and how many of them have no relevant passage."""

    queries: int
    none: int


def without_relevant(rows: Rows) -> Counted:
    """Count the queries of `rows`, and those without a relevant passage."""
    lists = [grades for _, grades in _lists(rows)]
    return Counted(len(lists), sum(not (grades > 0).any() for grades in lists))


def without_query(rows: Rows) -> list[str]:
    """Return a note on rows that have no query, if there are any."""
    targets = rows.targets
    assert isinstance(targets, JudgedTargets)
    found = rows.index[targets.group[rows.index] == 0]
    if not len(found):
        return []
    places = listing([f"{rows.table.name}:{rows.table.line[row]}" for row in found[:5]]) + (", ..." if len(found) > 5 else "")
    have = "has" if len(found) == 1 else "have"
    return [f"{counted(len(found), 'row')} {have} no query ({places}): what is relevant there is neither learned nor judged."]


def _lists(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each query the places of its rows among the chosen ones, int64[n], and their grades."""
    targets = rows.targets
    assert isinstance(targets, JudgedTargets)
    group, grades = targets.group[rows.index], targets.grades[rows.index]
    places = np.flatnonzero(group != 0)
    order = places[np.argsort(group[places], kind="stable")]
    lists = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
    for part in sorted(lists, key=lambda part: int(part[0])):
        yield part, grades[part]


def is_whole(part: Part) -> bool:
    """Whether the rows of the part are of a collection that is to be searched as a whole."""
    return bool(getattr(part.source, "whole", False))


def without_collection(part: Part) -> Part:
    """Return the part without the passages of a collection that have no query of their own."""
    targets = part.rows.targets
    assert isinstance(targets, JudgedTargets)
    own = part.rows.index[targets.group[part.rows.index] != 0]
    return replace(part.with_index(own), aside=len(part.rows) - len(own)) if is_whole(part) else part


def with_collection(part: Part) -> Part:
    """Return the part with all rows of its table that are passages without a query, behind its own."""
    if not is_whole(part):
        return part
    targets = part.rows.targets
    assert isinstance(targets, JudgedTargets)
    asked = part.rows.index[targets.group[part.rows.index] != 0]
    return part.with_index(np.concatenate([asked, np.flatnonzero(targets.group == 0)]))


@dataclass(frozen=True)
class Judged:
    """The lists of a part: their scores, and where each query's first passage stands and its first relevant one is ranked.

    tops: by query, the place among the part's rows of the passage ranked first where it is not relevant, else -1
    how: what was ranked, in words; trivial: how many queries have relevant passages only, which any order ranks right
    """

    ranking: Ranking
    tops: list[int]
    how: str
    trivial: int = 0


def judge_scores(scores: np.ndarray, part: Part) -> Judged:
    """Put the given passages of each query in order by `scores`, float[E]; what the first stage did not find stays unfound."""
    targets = part.rows.targets
    assert isinstance(targets, JudgedTargets)
    ranks = targets.rank[part.rows.index] if targets.rank is not None else None
    ranking, tops, trivial = Ranking(), [], 0
    for given, marks in _lists(part.rows):
        places, grades = _once(given, marks, part.rows)
        trivial += bool((grades > 0).all())
        listed = places if ranks is None else places[ranks[places] > 0]
        here = grades if ranks is None else grades[ranks[places] > 0]
        order = order_of(scores[listed], here)
        before = len(ranking)
        ranking.add(int(part.rows.table.line[part.rows.index[places[0]]]), here[order], grades)
        if len(ranking) > before:
            tops.append(int(listed[order[0]]) if len(order) and here[order[0]] <= 0 else -1)
    depth = f"the {int(ranks.max(initial=0)):,} first passages of BM25" if ranks is not None else "the passages given for it"
    return Judged(ranking, tops, f"for each query {depth}, ranked{' again' if ranks is not None else ''}", trivial)


def judge_vectors(outputs: Ragged, part: Part) -> Judged:
    """Rank by the cosine of query and passage: outputs have two vectors float[2, H] for each row."""
    vectors = outputs.values.reshape(len(outputs), 2, -1)
    if not is_whole(part):
        return judge_scores(np.einsum("eh,eh->e", vectors[:, 0].astype(np.float64), vectors[:, 1].astype(np.float64)), part)
    return _searched(part, lambda row, known: vectors[known, 1] @ vectors[row, 0])


def _searched(part: Part, scores: Callable[[int, np.ndarray], np.ndarray]) -> Judged:
    """Rank all passages of the collection for each query; scores: from the place of a query and those of P passages to float[P]."""
    targets = part.rows.targets
    assert isinstance(targets, JudgedTargets)
    keys = part.rows.table.last_key[part.rows.index]
    bare = np.flatnonzero(targets.group[part.rows.index] == 0)
    known = bare[np.unique(keys[bare], return_index=True)[1]]
    place = {int(keys[row]): number for number, row in enumerate(known.tolist())}
    ranking, tops = Ranking(), []
    for places, grades in _lists(part.rows):
        gains = np.zeros(len(known))
        for row, grade in zip(places.tolist(), grades.tolist(), strict=True):
            if int(keys[row]) in place:
                number = place[int(keys[row])]
                gains[number] = max(gains[number], grade)
        values = scores(int(places[0]), known)
        order = order_of(values, gains)[:SEARCHED]
        before = len(ranking)
        ranking.add(int(part.rows.table.line[part.rows.index[places[0]]]), gains[order], gains)
        if len(ranking) > before:
            tops.append(int(known[order[0]]) if len(order) and gains[order[0]] <= 0 else -1)
    return Judged(ranking, tops, f"for each query all {len(known):,} passages of the collection, searched; the first {SEARCHED:,} count")


def _once(places: np.ndarray, grades: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return a query's rows with each passage once, where it has its highest grade there: triples repeat the relevant one."""
    best = np.argsort(-grades, kind="stable")
    chosen = np.sort(best[np.unique(rows.table.last_key[rows.index[places[best]]], return_index=True)[1]])
    return places[chosen], grades[chosen]


def bm25(part: Part, progress: Progress = QUIET) -> Judged | None:
    """Judge BM25 on the same lists, or the same collection; None when the texts are gone."""
    targets = part.rows.targets
    assert isinstance(targets, JudgedTargets)
    if targets.rank is not None:
        return judge_scores(-targets.rank[part.rows.index].astype(np.float64), part)
    examples = part.examples(progress)
    if examples is None:
        return None
    numbers: dict[str, int] = {}
    passage = np.array([numbers.setdefault(example.texts[1], len(numbers)) for example in examples], np.int64)
    index = Lexical.of(list(numbers), progress)
    if is_whole(part):
        return _searched(part, lambda row, known: index.scores(examples[row].texts[0])[passage[known]])
    scores = np.zeros(len(examples))
    with progress.track("BM25", len(examples), "rows") as tracker:
        for places, _ in _lists(part.rows):
            scores[places] = index.scores(examples[int(places[0])].texts[0])[passage[places]]
            tracker.advance(len(places))
    return judge_scores(scores, part)


def evaluation(judged: Judged, part: Part, progress: Progress) -> dict[str, Any]:
    """Return what the report says of ranked lists; `per_query` has the values of each, `versus` the test against BM25."""
    ranking = judged.ranking
    rivals = bm25(part, progress)
    versus = {}
    if rivals is not None and len(ranking) > 1:
        pairs = zip(RANKING, ranking.values.values(), rivals.ranking.values.values(), strict=True)
        versus = {name: difference(ours, theirs, seed=seed_for(0, "randomization")) for name, ours, theirs in pairs}
    badness = np.zeros(len(part.rows))
    for top, first in zip(judged.tops, ranking.first, strict=True):
        if top >= 0:
            badness[top] = 1 - (1 / first if first else 0)
    rank_of = {top: first for top, first in zip(judged.tops, ranking.first, strict=True) if top >= 0}
    return {
        "rows": len(ranking),
        "unit": "query",
        "metrics": ranking.means(),
        "intervals": ranking_intervals(ranking.values, seed=seed_for(0, "bootstrap")),
        "per_label": [],
        "confusion": None,
        "calibration": [],
        "badness": "1 - reciprocal rank",
        "mistakes": worst(
            part,
            badness,
            lambda row: f"first relevant passage at rank {rank_of[row]:,}" if rank_of[row] else "no relevant passage was found",
            lambda row: "this passage first",
            progress,
        ),
        "per_query": {"line": ranking.names, **ranking.values},
        "versus": versus,
        "remarks": remarks(judged, versus),
    }


def remarks(judged: Judged, versus: dict[str, dict[str, float]]) -> list[str]:
    """Return sentences on what was ranked, what was left out, and whether BM25 is beaten beyond chance."""
    said = [f"Ranked: {judged.how}. Equal scores are ranked with the less relevant passage first."]
    if judged.ranking.left_out:
        left = judged.ranking.left_out
        said.append(
            f"{left:,} {'query has' if left == 1 else 'queries have'} no relevant passage and {'is' if left == 1 else 'are'} left out, "
            "as trec_eval does."
        )
    if judged.trivial:
        have = "has" if judged.trivial == 1 else "have"
        said.append(f"{counted(judged.trivial, 'query')} of these {have} relevant passages only, so any order is right.")
    found = versus.get("ndcg@10")
    if found:
        said.append(
            f"Against BM25: nDCG@10 {found['difference']:+.3f}, better on {found['better']:,} and worse on {found['worse']:,} of "
            f"{found['queries']:,} queries; paired randomization test p = {found['p']:.4f}."
        )
    return said


def yardsticks(part: Part, progress: Progress) -> list[dict[str, Any]]:
    """Return name, note, metrics and intervals of random order and of BM25; never raises."""
    generator = np.random.default_rng(seed_for(0, "random order"))

    def drawn() -> Judged:
        if is_whole(part):
            return _searched(part, lambda row, known: generator.random(len(known)))
        return judge_scores(generator.random(len(part.rows)), part)

    def chance() -> Judged:
        judged = drawn()
        # a collection is read anew for each order
        orders = _DRAWS if not is_whole(part) else min(_DRAWS, 1_000_000 // max(len(part.rows), 1))
        more = [drawn().ranking for _ in range(orders // max(len(judged.ranking), 1) - 1)]
        for metric, values in judged.ranking.values.items():
            judged.ranking.values[metric] = np.mean([values, *(one.values[metric] for one in more)], 0).tolist()
        return judged

    found: list[dict[str, Any]] = []
    for name, note, compute in (
        ("random order", "passages in random order, on average", chance),
        ("BM25", "words in common, Lucene's BM25 with k1 1.5 and b 0.75, no stemming", lambda: bm25(part, progress)),
    ):
        result: dict[str, Any] = {"name": name, "note": note, "metrics": {}, "intervals": {}}
        try:
            judged = compute()
            if judged is None:
                result["note"] = "skipped: the data have changed since the training began"
            else:
                result["metrics"] = judged.ranking.means() if len(judged.ranking) else {}
                result["intervals"] = ranking_intervals(judged.ranking.values, seed=seed_for(0, "bootstrap"))
        except Exception as error:  # whatever goes wrong here, the trained model must still be saved
            result["note"] = f"skipped: {type(error).__name__}: {error}"
        found.append(result)
    return found
