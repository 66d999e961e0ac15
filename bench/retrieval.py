"""Retrieval in the benchmark: a BEIR directory with a split of its queries, BM25's candidates, and lists judged query by query.

All that is written lies below the folder of prepared data. Programs that read no BEIR directory find the same rows in CSV files there.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.lists import figures
from bench.settings import Row

DEPTH = 100
"""Passages of BM25 that are written for the queries of a row that searches the whole collection: as many as the programs return."""

COLUMNS = ["query_id", "text", "passage_id", "text_pair", "label", "bm25"]

Judgements = dict[str, dict[str, int]]  # grades by query and passage


def texts_in(path: Path) -> dict[str, str]:
    """Return the texts of a JSONL file by their ids, each behind its title unless it begins with that."""
    found = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            one = json.loads(line)
            title, text = one.get("title", "").strip(), one["text"].strip()
            found[one["_id"]] = text if text.startswith(title) else f"{title} {text}".strip()
    return found


def judgements_in(path: Path) -> Judgements:
    """Return the grades of a file with a header and the columns query, passage and grade."""
    found: Judgements = defaultdict(dict)
    with path.open(encoding="utf-8", newline="") as file:
        for query, passage, grade in list(csv.reader(file, delimiter="\t"))[1:]:
            found[query][passage] = int(grade)
    return found


def split_of(queries: Iterable[str], name: str) -> tuple[list[str], list[str]]:
    """Return one half of the queries to train with and the other, the larger if they differ, as test: the same halves for equal names."""
    drawn = sorted(queries)
    random.Random(f"{name} queries").shuffle(drawn)
    half = len(drawn) // 2
    return drawn[:half], drawn[half:]


def prepare_collection(row: Row, folder: Path, target: Path) -> tuple[Path, Path]:
    """Write the BEIR directory of `row` below `target`, once, and return the CSV files of its training and test rows.

    The directory has corpus.jsonl (titles are part of the text), queries.jsonl, qrels/train.tsv and qrels/test.tsv. Queries
    without a relevant passage are in neither half, as nothing can be found for them. The split depends on the collection only: it is the
    same for every row, model and seed. train.csv has the rows that tunesmith reads from the directory: for a bi-encoder all that is
    judged relevant; for a cross-encoder all that is judged, and BM25's first `row.candidates` passages of each query, with label 0 unless
    judged. test.csv has BM25's candidates, and their scores.
    """
    of = f"{row.ranker}-{row.candidates}" if row.candidates is not None else row.ranker
    place = target / f"{row.folder}-{of}{'' if row.first is None else f'-first-{row.first}'}"
    if not place.exists():
        partial = place.with_name(f"{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_collection(row, folder / row.folder, partial)
        partial.replace(place)
    return place / "train.csv", place / "test.csv"


def _write_collection(row: Row, source: Path, target: Path) -> None:
    passages, queries = texts_in(source / "corpus.jsonl"), texts_in(source / "queries.jsonl")
    for name, texts in (("corpus.jsonl", passages), ("queries.jsonl", queries)):
        lines = [json.dumps({"_id": key, "text": text}, ensure_ascii=False) + "\n" for key, text in texts.items()]
        (target / name).write_text("".join(lines), encoding="utf-8")
    judged = judgements_in(source / row.train_file)
    learned, tested = split_of([query for query, grades in judged.items() if max(grades.values()) > 0], row.folder)
    (target / "qrels").mkdir()
    for part, chosen in (("train", learned[: row.first]), ("test", tested)):
        depth = row.candidates if row.candidates is not None else DEPTH if part == "test" else 0
        found = first_stage({query: queries[query] for query in chosen}, passages, depth)
        judgements, rows = [], []
        for query in chosen:
            grades, ranked = judged[query], found[query]
            # the bi-encoders' other program learns from relevant passages alone
            kept = {passage: grade for passage, grade in grades.items() if grade > 0 or row.ranker != "bi-encoder" or part == "test"}
            judgements += [(query, passage, grade) for passage, grade in kept.items()]
            unranked = [passage for passage in kept if part == "train" and passage not in ranked]
            rows += [
                (query, queries[query], passage, passages[passage], grades.get(passage, 0), ranked.get(passage, 0.0))
                for passage in [*ranked, *unranked]
            ]
        _write_table(target / "qrels" / f"{part}.tsv", ["query-id", "corpus-id", "score"], judgements, "\t")
        _write_table(target / f"{part}.csv", COLUMNS, rows, ",")


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[tuple[Any, ...]], separator: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(rows)


def first_stage(queries: dict[str, str], passages: dict[str, str], count: int) -> dict[str, dict[str, float]]:
    """Return the scores of the first `count` passages of BM25 for each query, best first, by tunesmith's own form of it."""
    from tunesmith.data.lexical import Lexical

    ids, engine = list(passages), Lexical.of(list(passages.values()))
    found = {}
    for key, query in queries.items():
        best, scores = engine.top(query, count)
        found[key] = dict(zip([ids[place] for place in best.tolist()], scores.tolist(), strict=True))
    return found


def judged_collection(test: Path, predictions: Sequence[Any], untrained: Sequence[Any] | None = None) -> dict[str, Any]:
    """Return `gold`, ones, `predictions`, the figures of each query, and `yardsticks`, those of BM25 and of the encoder before training.

    predictions: the scores of the rows of test.csv, or of each query, in the order of test.csv, passages and scores of a search
    untrained: such a search by the encoder as it was, if it is known

    Of both the whole list counts: what is relevant and not in it is not found. Equal scores rank the less relevant passage first.
    """
    with test.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    judged = judgements_in(test.parent / "qrels" / "test.tsv")
    lexical: dict[str, list[tuple[str, float]]] = {query: [] for query in judged}
    for row in rows:
        lexical[row["query_id"]].append((row["passage_id"], float(row["bm25"])))
    queries = list(dict.fromkeys(row["query_id"] for row in rows))
    if predictions and not isinstance(predictions[0], (int, float)):
        lists = dict(zip(queries, predictions, strict=True))
    else:
        lists = defaultdict(list)
        for row, score in zip(rows, predictions, strict=True):
            lists[row["query_id"]].append((row["passage_id"], score))
    yardsticks = {"BM25": lexical}
    if untrained is not None:
        yardsticks["the encoder before training"] = dict(zip(queries, untrained, strict=True))
    return {
        "gold": [[1.0] * len(figures([True], 1)) for _ in judged],
        "predictions": [_figures(lists.get(query, []), grades) for query, grades in judged.items()],
        "yardsticks": {
            name: [_figures(found.get(query, []), grades) for query, grades in judged.items()] for name, found in yardsticks.items()
        },
    }


def _figures(found: Sequence[tuple[str, float]], grades: dict[str, int]) -> list[float]:
    hits = [(float(score), grades.get(passage, 0) > 0) for passage, score in found]
    ranked = [relevant for _, relevant in sorted(hits, key=lambda one: (-one[0], one[1]))]
    return figures(ranked, sum(grade > 0 for grade in grades.values()))
