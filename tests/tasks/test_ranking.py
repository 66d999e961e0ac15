"""Ranking from rows, triples and collections: training, judging, predicting, and the same scores in sentence-transformers."""

from __future__ import annotations

import csv
import io
import json
import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiny
import tunesmith
from killer import Server
from tunesmith.data.memory import open_data
from tunesmith.data.relevance import as_rows
from tunesmith.errors import DataError, UsageError
from tunesmith.progress import QUIET as PROGRESS
from tunesmith.tasks import ranking_judging as judging
from tunesmith.tasks.ranking_candidates import Candidates, queries_of
from tunesmith.tasks.rows import Part, Rows

QUIET: dict[str, Any] = {"progress": "quiet", "precision": "fp32", "max_length": 48}


def judged(queries: int = 24, each: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Rows in which a passage is relevant when it is about the query's colour, with one or two such passages for each query."""
    generator = random.Random(seed)
    rows = []
    for number in range(queries):
        colour = tiny.COLOURS[number % len(tiny.COLOURS)]
        query = f"{colour} {generator.choice(tiny.FILLER)} {generator.choice('abcdefghijklmnop')} {number}"
        for place in range(each):
            other = generator.choice([name for name in tiny.COLOURS if name != colour])
            word = colour if place < 1 + number % 2 else other
            words = [generator.choice(tiny.FILLER) for _ in range(generator.randint(2, 6))]
            rows.append({"query": query, "passage": f"the {word} {' '.join(words)}", "label": int(word == colour)})
    return rows


def collection(directory: Path, splits: bool = False) -> Path:
    """A BEIR directory of 60 passages and 18 queries about colours."""
    generator = random.Random(3)
    directory.mkdir()
    passages = []
    for number in range(60):
        words = " ".join(generator.choice(tiny.FILLER) for _ in range(generator.randint(3, 9)))
        passages.append({"_id": f"d{number}", "title": tiny.COLOURS[number % 6], "text": f"{words} {tiny.ANIMALS[number % 5]}"})
    queries = [{"_id": f"q{n}", "text": f"{tiny.COLOURS[n % 6]} {tiny.ANIMALS[n % 5]} {n}"} for n in range(18)]
    with (directory / "corpus.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in passages)
    with (directory / "queries.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in queries)
    lines = [(f"q{n}", f"d{d}", 2 if n % 5 == d % 5 else 1) for n in range(18) for d in range(n % 6, 60, 6)]
    parts = {"train": range(10), "dev": range(10, 14), "test": range(14, 18)} if splits else {"": range(18)}
    for name, chosen in parts.items():
        path = directory / "qrels" / f"{name}.tsv" if name else directory / "qrels.tsv"
        path.parent.mkdir(exist_ok=True)
        kept = [line for line in lines if int(line[0][1:]) in chosen]
        path.write_text("query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, line)) + "\n" for line in kept))
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("ranking") / "rows.csv", judged())


@pytest.fixture(scope="module")
def cross(data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    settings = {"epochs": 60, "lr": 3e-3, "dropout": 0.0, "attention_dropout": 0.0, "batch_size": 6, "negatives_per_query": 4, **QUIET}
    return tunesmith.train(data, out=tmp_path_factory.mktemp("cross") / "m", model=tiny_bert, **settings)


@pytest.fixture(scope="module")
def bi(data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    settings = {"ranker": "bi-encoder", "epochs": 6, "lr": 1e-3, "batch_size": 6, **QUIET}
    return tunesmith.train(data, out=tmp_path_factory.mktemp("bi") / "m", model=tiny_bert, **settings)


def test_a_cross_encoder_learns_and_is_compared_with_bm25(cross: tunesmith.TrainResult) -> None:
    losses = [point["loss"] for point in cross.result["training"]["history"]]
    assert losses[-1] < 0.5 * losses[0]
    test = cross.result["evaluations"]["test"]
    assert set(test["metrics"]) == {"ndcg@10", "mrr@10", "map", "recall@10", "recall@100"}
    assert test["unit"] == "query" and len(test["per_query"]["ndcg@10"]) == test["rows"]
    names = [y["name"] for y in test["yardsticks"]]
    assert names == ["random order", "BM25"] and test["yardsticks"][1]["metrics"]["ndcg@10"] == 1.0
    assert test["versus"]["ndcg@10"]["queries"] == test["rows"]
    page = (cross.directory / "report.html").read_text()
    assert "nDCG@10" in page and "paired randomization test" in page and "test queries" in page


@pytest.mark.parametrize("shape", ["cross", "bi"])
def test_what_is_relevant_is_ranked_first_after_training(shape: str, data: Path, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(shape).bundle.evaluate(data)
    chance = found["yardsticks"][0]["metrics"]["ndcg@10"] if "yardsticks" in found else 0.62
    assert found["metrics"]["ndcg@10"] > chance + 0.15, found["metrics"]


def test_rows_of_a_query_are_never_parted(data: Path, tiny_bert: Path, tmp_path: Path, cross: tunesmith.TrainResult) -> None:
    splits = cross.result["data"]["splits"]
    assert sum(part["rows"] for part in splits.values()) == len(judged())
    assert all(part["rows"] % 6 == 0 for part in splits.values())
    with pytest.raises(UsageError, match="the rows of a query always stay together"):
        tunesmith.train(data, group="query", model=tiny_bert, out=tmp_path / "u", **QUIET)


@pytest.mark.parametrize("shape", ["cross", "bi"])
def test_every_form_of_rows_gives_the_same(shape: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trained = request.getfixturevalue(shape)
    rows = judged(3, seed=9)
    model = tunesmith.load(trained.directory)
    pairs = [(row["query"], row["passage"]) for row in rows]
    found = model.predict(pairs)
    assert model.predict(tiny.write_csv(tmp_path / "new.csv", rows)) == found == model.predict(rows)
    assert model.predict(pairs[0]).score == pytest.approx(found[0].score, abs=1e-6)
    low, high = (-1, 1) if shape == "bi" else (0, 1)
    assert all(low - 1e-6 <= one.score <= high + 1e-6 for one in found)
    odd = [("", ""), ("a cat", ""), ("", "a cat"), ("a cat", "a cat"), ("the " * 500, "dog " * 500), ("قطة", "cafe\u0301 🐈 猫")]
    assert np.isfinite([one.score for one in model.predict(odd)]).all()


def test_sentence_transformers_gives_the_same_scores(cross: tunesmith.TrainResult, bi: tunesmith.TrainResult) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        from sentence_transformers import CrossEncoder, SentenceTransformer

        pairs = [(row["query"], row["passage"]) for row in judged(2, seed=4)] + [("red " * 60, "blue " * 70)]
        theirs = CrossEncoder(str(cross.directory), device="cpu").predict(pairs)
        np.testing.assert_allclose([one.score for one in cross.bundle.predict(pairs)], theirs, atol=1e-5)
        model = SentenceTransformer(str(bi.directory), device="cpu")
        queries, passages = (model.encode([pair[side] for pair in pairs]) for side in (0, 1))
        np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
        theirs = model.similarity_pairwise(queries, passages).numpy()
    np.testing.assert_allclose([one.score for one in bi.bundle.predict(pairs)], theirs, atol=1e-5)


def test_transformers_gives_the_same_scores(cross: tunesmith.TrainResult) -> None:
    from transformers import pipeline

    rows = judged(2, seed=4)
    judge = pipeline("text-classification", str(cross.directory), device="cpu")
    theirs = [judge({"text": row["query"], "text_pair": row["passage"]})["score"] for row in rows]
    np.testing.assert_allclose([one.score for one in cross.bundle.predict(rows)], theirs, atol=1e-5)


@pytest.mark.parametrize("negatives", ["random", "in-batch"])
def test_a_relevant_passage_is_no_negative_however_much_of_it_fits(
    negatives: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a longer query less of a passage is left."""
    long, drawn = "red " * 60, []
    queries = ["a", "a b c d e", "a b c d e f g h"]
    rows = [{"query": query, "passage": long, "label": 1} for query in queries]
    rows += [{"query": f"b {number}", "passage": f"blue {number}", "label": 1} for number in range(5)]

    def noted(self: Candidates, chosen: np.ndarray, seed: int) -> list[np.ndarray]:
        found = original(self, chosen, seed)
        drawn.extend((row, candidate) for row, rows in zip(chosen.tolist(), found, strict=True) for candidate in rows.tolist())
        return found

    original = Candidates.drawn
    monkeypatch.setattr(Candidates, "drawn", noted)
    settings = {"epochs": 4, "batch_size": 8, "valid_size": 0, "test_size": 0, "negatives": negatives, "negatives_per_query": 4}
    tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, **settings, **QUIET)
    reds = set(range(3))
    assert any(row in reds and candidate not in reds for row, candidate in drawn), "negatives are drawn"
    assert all(candidate == row for row, candidate in drawn if row in reds and candidate in reds)


def test_negatives_of_every_name_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first, second = (
        {"query": "q", "positive": "p", "negative": "n"},
        {"query": "r", "positive": "o", "negative": "m", "negatives": ["x", "y"]},
    )
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    found = [(row["query"], row["passage"], row["label"]) for row, _ in as_rows(open_data(path))]
    assert found == [("q", "p", "1"), ("q", "n", "0"), ("r", "o", "1"), ("r", "m", "0"), ("r", "x", "0"), ("r", "y", "0")]


def test_mined_passages_are_kept_by_the_queries_they_were_mined_for(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [*judged(8), *({"query": "cat dog", "passage": f"the {word} {number}", "label": 0} for number, word in enumerate(tiny.COLOURS))]
    settings = {"epochs": 1, "valid_size": 0, "test_size": 0, "negatives": "hard", "model": tiny_bert, **QUIET}
    for number, loss in enumerate(("pairwise", "pointwise", "pairwise")):
        tunesmith.train(rows, out=tmp_path / f"m{number}", ranking_loss=loss, **settings)


@pytest.mark.parametrize("loss", ["pointwise", "listwise"])
def test_the_other_losses_fall(loss: str, tiny_bert: Path, tmp_path: Path) -> None:
    settings = {"ranking_loss": loss, "epochs": 20, "lr": 3e-3, "batch_size": 4, "valid_size": 0, "test_size": 0, **QUIET}
    trained = tunesmith.train(judged(8), out=tmp_path / "m", model=tiny_bert, negatives="given", **settings)
    losses = [point["loss"] for point in trained.result["training"]["history"]]
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives": "in-batch"},
        {"negatives": "hard"},
        {"negatives": "hard", "miner": "encoder", "ranker": "bi-encoder"},
        {"negatives": "random", "ranker": "bi-encoder"},
        {"negatives": "random", "truncation": "windows", "max_length": 24, "stride": 4},
    ],
    ids=str,
)
def test_negatives_of_every_kind(settings: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    rows = [row for row in judged(16) if row["label"]]  # nothing that is known not to be relevant
    settings = {**QUIET, "epochs": 2, "batch_size": 4, "negatives_per_query": 3, **settings}
    out = tmp_path / "m"
    trained = tunesmith.train(rows, out=out, model=tiny_bert, valid_size=0, test_size=0, **settings)
    assert np.isfinite([point["loss"] for point in trained.result["training"]["history"]]).all()
    again = tunesmith.train(rows, out=tmp_path / "n", model=tiny_bert, valid_size=0, test_size=0, **settings)
    assert trained.bundle.predict(rows) == again.bundle.predict(rows)


def test_triples_are_rows(tiny_bert: Path, tmp_path: Path, run) -> None:
    triples = []
    for number in range(12):
        part = judged(12)[6 * number : 6 * number + 6]
        triples.append({
            "query": part[0]["query"],
            "positive": next(row["passage"] for row in part if row["label"]),
            "negative": [row["passage"] for row in part if not row["label"]],
        })  # fmt: skip
    path = tmp_path / "triples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in triples))
    ended = run("train", path, "--model", tiny_bert, "--epochs", 1, "--max-length", 48, "--out", "m")
    assert ended.code == 0, ended.err
    assert "task: ranking" in ended.err
    ended = run("evaluate", "m", path, "--json")
    assert ended.code == 0 and json.loads(ended.out)["rows"] == 12, ended.err
    ended = run("predict", "m", path)
    assert ended.code == 3 and "taken apart in training and tests" in ended.err and "'query', 'passage'" in ended.err
    ended = run("walk", path, "--row", 2, "--model", "m")
    assert ended.code == 0 and "score:" in ended.out, ended.err
    ended = run("check", path, "--model", tiny_bert)
    assert ended.code == 0, ended.err
    path.write_text(path.read_text() + json.dumps({"query": "a", "positive": "b", "negative": [["c"]]}) + "\n")
    ended = run("train", path, "--model", tiny_bert, "--out", "n")
    assert ended.code == 3 and f"{path}:13: item 1 of column 'negative' holds list" in ended.err
    path.write_text(json.dumps({"query": "a", "positive": "", "negative": "c"}) + "\n")
    ended = run("train", path, "--model", tiny_bert, "--out", "n")
    assert ended.code == 3 and f"{path}:1: column 'positive' is empty" in ended.err


def test_from_the_command_line(data: Path, tiny_bert: Path, tmp_path: Path, run) -> None:
    ended = run("train", data, "--model", tiny_bert, "--epochs", 1, "--max-length", 48, "--out", "m")
    assert ended.code == 0, ended.err
    assert "task: ranking" in ended.err and "texts 'query' and 'passage', label 'label'" in ended.err
    ended = run("predict", "m", data, "-o", "out.jsonl")
    assert ended.code == 0, ended.err
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert list(first) == ["query", "passage", "label", "score"]
    ended = run("predict", "m", data, "-o", "out.parquet")
    assert ended.code == 0, ended.err
    ended = run("predict", "m", stdin=data.read_bytes())
    scores = [float(row["score"]) for row in csv.DictReader(io.StringIO(ended.out))]
    assert scores == pytest.approx([one.score for one in tunesmith.load(tmp_path / "m").predict(data)], abs=1e-6)
    ended = run("evaluate", "m", data, "--json")
    assert ended.code == 0 and json.loads(ended.out)["rows"] == 24
    ended = run("check", data, "--model", tiny_bert)
    assert ended.code == 0, ended.err
    ended = run("walk", data, "--row", 3, "--model", tiny_bert)
    assert ended.code == 0 and "score:" in ended.out, ended.err


def test_an_audit_speaks_of_queries_and_passages(tiny_bert: Path, tmp_path: Path, run) -> None:
    lines = ["qa,p one,1", "qa,p two,0", "qb,p three,0", "qc,p four,2", ",p five,0", "qd,p six,", "qe,p seven,maybe"]
    (tmp_path / "x.csv").write_text("\n".join(["query,passage,label", *lines]) + "\n")
    ended = run("check", "x.csv", "--model", tiny_bert)
    assert ended.code == 0 and "Labels" not in ended.out and "fewer than 10 rows" not in ended.out, ended.err
    said = " ".join(ended.out.split())
    for sentence in (
        "5 queries with 4 rows, 7 different passages; grades: 0 (2), 1 (1), 2 (1).",
        "error 1 row says not how relevant a passage is: x.csv:8: 'maybe'.",
        "error 1 row has no label: x.csv:7.",
        "warning 1 row has no query: x.csv:6.",
        "warning 1 of 3 queries has no relevant passage (x.csv:4).",
        "note 1 of 3 queries has relevant passages only (x.csv:5).",
    ):
        assert sentence in said, said
    (tmp_path / "x.csv").write_text("query,passage,label\nqa,p one,0\nqa,p two,0\n")
    assert "error no query has a relevant passage." in " ".join(run("check", "x.csv", "--model", tiny_bert).out.split())


def test_an_audit_tells_of_grades_that_seem_the_wrong_way_round(tiny_bert: Path, tmp_path: Path, run) -> None:
    for count, right, told in ((24, 0, True), (24, 1, False), (12, 0, False)):
        lines = [f"query w{i},it is w{i},{right}\nquery w{i},it is another,{1 - right}\n" for i in range(count)]
        (tmp_path / "x.csv").write_text("query,passage,label\n" + "".join(lines))
        ended = run("check", "x.csv", "--model", tiny_bert)
        sentence = "share more words with their query than relevant ones, in 100% of pairs (x.csv:2, x.csv:4,"
        assert ended.code == 0 and (sentence in " ".join(ended.out.split())) is told, ended.out


def test_an_audit_of_a_collection_compares_what_was_judged(tiny_bert: Path, tmp_path: Path, run) -> None:
    """The candidates of BM25, which nobody judged, stand beside them with grade 0."""
    passages = [{"_id": f"{mark}{i}", "text": text} for i in range(24) for mark, text in (("a", f"it is w{i}"), ("b", f"is query {i}"))]
    queries = [{"_id": f"q{i}", "text": f"query w{i}"} for i in range(24)]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\ta{i}\t0\nq{i}\tb{i}\t1\n" for i in range(24))
    (tmp_path / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    ended = run("check", tmp_path, "--model", tiny_bert)
    told = " ".join(ended.out.split())
    assert "24 queries with 48 rows" in told and "grades: 0 (24), 1 (24)" in told, ended.err
    assert "passages of BM25 beside its judged ones, with grade 0 where nobody judged them" in told
    assert "share more words with their query than relevant ones, in 100% of pairs" in told


@pytest.mark.parametrize("whole", [False, True])
def test_random_order_is_the_mean_of_all_orders(whole: bool) -> None:
    # one relevant passage of two is first in half of the orders
    group = np.array([1, 1, *([0, 0] if whole else [])], np.uint64)
    grades = np.array([1, 0, *([0, 0] if whole else [])], np.float32)
    part = Part(Rows(_table(group), np.arange(len(group)), judging.JudgedTargets(grades, None, group)), SimpleNamespace(whole=whole), None)
    chance = judging.yardsticks(part, PROGRESS)[0]
    assert chance["metrics"]["mrr@10"] == pytest.approx(0.75, abs=0.02), chance
    assert chance["metrics"]["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2, abs=0.02)


def test_a_passage_given_twice_for_a_query_is_one_passage() -> None:
    """As triples give the relevant one, each time with another that is not."""
    group, grades = np.ones(10, np.uint64), np.array([1, 0] * 5, np.float32)
    table = SimpleNamespace(line=np.arange(10), last_key=np.array([1, 2, 1, 3, 1, 4, 1, 5, 1, 6], np.uint64))
    part = Part(Rows(table, np.arange(10), judging.JudgedTargets(grades, None, group)), SimpleNamespace(whole=False), None)
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.5, 0.1, 0.5, 0.1, 0.5, 0.1])
    found = judging.judge_scores(scores, part).ranking.means()
    assert found["map"] == found["mrr@10"] == 0.5 and found["recall@10"] == 1.0
    assert found["ndcg@10"] == pytest.approx(1 / np.log2(3))
    known = queries_of(group, grades, table.last_key, np.arange(10))[0]
    assert known.positives.tolist() == [0] and known.negatives.tolist() == [1, 3, 5, 7, 9] and known.relevant == {1}
    # judged both ways it is relevant
    assert queries_of(group[:2], grades[:2], np.array([7, 7], np.uint64), np.arange(2))[0].negatives.tolist() == []


def _table(group: np.ndarray) -> Any:
    keys = 1 + np.arange(len(group), dtype=np.uint64) % 2
    return SimpleNamespace(line=np.arange(len(group)), group=group, last_key=keys)


@pytest.mark.parametrize("shape", ["cross-encoder", "bi-encoder"])
def test_a_collection_with_its_own_splits(shape: str, tiny_bert: Path, tmp_path: Path, run) -> None:
    place = collection(tmp_path / "colours", splits=True)
    settings = ["--model", tiny_bert, "--epochs", 2, "--max-length", 48, "--batch-size", 5, "--ranker", shape]
    ended = run("train", place, *settings, "--candidates", 20, "--out", "m")
    assert ended.code == 0, ended.err
    said = "20 first passages of BM25" if shape == "cross-encoder" else "all 60 passages of the collection"
    assert said in ended.out and "test, 4 queries" in ended.out and "flattered" not in ended.out + ended.err
    assert f"columns of {place}/qrels/train.tsv: " in ended.err
    used = [line.split(": ")[1].split(" rows used")[0] for line in ended.out.splitlines() if " rows used" in line]
    assert all(one.split(" of ")[0] == one.split(" of ")[1] for one in used) and len(used) == 3, ended.out
    ended = run("evaluate", "m", place, "--json")
    assert ended.code == 0 and json.loads(ended.out)["file"].endswith("test.tsv") and "trained on" not in ended.err, ended.err
    ended = run("evaluate", "m", place / "qrels" / "dev.tsv", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["rows"] == 4
    ended = run("check", place, "--model", tiny_bert)
    assert ended.code == 0, ended.err
    ended = run("walk", place, "--row", 1, "--model", "m")
    assert ended.code == 0, ended.err


def test_a_collection_is_split_by_queries(tiny_bert: Path, tmp_path: Path) -> None:
    place = collection(tmp_path / "colours")
    for shape in ("cross-encoder", "bi-encoder"):
        trained = tunesmith.train(place, out=tmp_path / shape, model=tiny_bert, ranker=shape, epochs=1, test_size=0.3, **QUIET)
        test = trained.result["evaluations"]["test"]
        assert 4 <= test["rows"] <= 6
        assert test["yardsticks"][1]["name"] == "BM25" and test["yardsticks"][1]["metrics"]["ndcg@10"] > 0.3
        assert trained.result["data"]["splits"]["train"]["targets"]["queries"] >= 10


def test_faults_of_a_collection_are_named(tmp_path: Path, tiny_bert: Path, run) -> None:
    place = collection(tmp_path / "c")
    with (place / "qrels.tsv").open("a") as file:
        file.write("q0\tnowhere\t1\n")
    ended = run("train", place, "--model", tiny_bert, "--out", "m")
    assert ended.code == 3 and "qrels.tsv:182: there is no passage 'nowhere'" in ended.err, ended.err
    (place / "qrels.tsv").unlink()
    ended = run("train", place, "--model", tiny_bert, "--out", "m")
    assert ended.code == 3 and "it has no judgements" in ended.err
    (place / "queries.jsonl").unlink()
    ended = run("train", place, "--model", tiny_bert, "--out", "m")
    assert ended.code == 3 and "it has no queries.jsonl" in ended.err


@pytest.mark.parametrize("line", ["q0\td3\t1", "q0\t0\td3\t1", "101\t0\t0\t1"])
def test_judgements_without_names_of_columns_are_refused(line: str, tmp_path: Path, tiny_bert: Path, run) -> None:
    place = collection(tmp_path / "c")
    judged = (place / "qrels.tsv").read_text().splitlines()[1:]
    (place / "qrels.tsv").write_text("\n".join([line, *judged]) + "\n")
    ended = run("train", place, "--model", tiny_bert, "--out", "m")
    assert ended.code == 3 and "qrels.tsv:1: a judgement" in ended.err and "query-id" in ended.err, ended.err


def test_grades_that_are_none_and_data_without_use(tiny_bert: Path, tmp_path: Path) -> None:
    rows = judged(8)
    with pytest.raises(DataError, match=r":7: 'maybe' says not how relevant a passage is"):
        tunesmith.train(
            [{**row, "label": "maybe" if n == 6 else row["label"]} for n, row in enumerate(rows)],
            model=tiny_bert,
            out=tmp_path / "u",
            **QUIET,
        )
    with pytest.raises(DataError, match="no passage is relevant to any query"):
        tunesmith.train([{**row, "label": 0} for row in rows], model=tiny_bert, out=tmp_path / "u", **QUIET)
    with pytest.raises(DataError, match="no training query has both"):
        only = [row for row in rows if row["label"]]
        tunesmith.train(only, model=tiny_bert, out=tmp_path / "u", negatives="given", valid_size=0, test_size=0, **QUIET)


def test_queries_without_a_relevant_passage(tiny_bert: Path, tmp_path: Path, cross: tunesmith.TrainResult) -> None:
    rows = judged(12)
    silent = rows[0]["query"]
    rows = [{**row, "label": 0} if row["query"] == silent else row for row in rows]
    found = cross.bundle.evaluate(rows)
    assert found["rows"] == 11 and "1 query has no relevant passage and is left out" in " ".join(found["remarks"])
    settings = {"epochs": 1, "valid_size": 0, "test_size": 0, **QUIET}
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, **settings)
    assert "1 of 12 queries has no relevant passage" in " ".join(trained.result["data"]["notes"])
    found = cross.bundle.evaluate([*rows, {"query": " ", "passage": "a cat", "label": 1}])
    assert found["rows"] == 11 and "1 row has no query" in " ".join(found["notes"])
    trained = tunesmith.train([*rows, {"query": "", "passage": "a", "label": 1}], out=tmp_path / "n", model=tiny_bert, **settings)
    assert "1 row has no query" in " ".join(trained.result["data"]["notes"])
    alone = cross.bundle.evaluate([{**row, "label": 0} for row in rows])
    assert alone["rows"] == 0 and set(alone["metrics"].values()) == {0.0}


def test_odd_rows(tiny_bert: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *judged(8),
        {"query": "red cat", "passage": "", "label": 0},
        {"query": "red cat", "passage": "red cat", "label": 1},
    ]
    for shape in ("cross-encoder", "bi-encoder"):
        settings = {"epochs": 1, "ranker": shape, "valid_size": 0, "test_size": 0, **QUIET}
        trained = tunesmith.train(rows, out=tmp_path / shape, model=tiny_bert, **settings)
        assert np.isfinite([one.score for one in trained.bundle.predict(rows)]).all()


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "gpt2"])
@pytest.mark.parametrize("shape", ["cross-encoder", "bi-encoder"])
def test_other_encoders(architecture: str, shape: str, tmp_path: Path) -> None:
    encoder = tiny.save_encoder(tmp_path / "encoder", architecture)
    rows = judged(6)
    settings = {**QUIET, "epochs": 1, "valid_size": 0.0, "test_size": 0.0, "ranker": shape}
    trained = tunesmith.train(rows, out=tmp_path / "m", model=encoder, **settings)
    assert tunesmith.load(tmp_path / "m").predict(rows) == trained.bundle.predict(rows)


def test_a_bi_encoder_learns_the_same_in_parts(tiny_bert: Path, tmp_path: Path) -> None:
    """The contrastive loss is of the whole step, however little of it fits into memory at once."""
    settings = {**QUIET, "ranker": "bi-encoder", "epochs": 2, "batch_size": 8, "valid_size": 0, "test_size": 0, "dropout": 0.0}
    settings["attention_dropout"] = 0.0
    rows = judged(16)
    whole = tunesmith.train(rows, out=tmp_path / "a", model=tiny_bert, **settings)
    parts = tunesmith.train(rows, out=tmp_path / "b", model=tiny_bert, max_tokens=60, **settings)
    ours, theirs = ([one.score for one in found.bundle.predict(rows)] for found in (whole, parts))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("shape", [["--negatives", "random"], ["--ranker", "bi-encoder", "--negatives", "hard"]], ids=["cross", "bi"])
def test_a_killed_run_goes_on_to_the_same_bits(shape: list[str], data: Path, tiny_bert: Path, server: Server, tmp_path: Path) -> None:
    flags = ["--model", tiny_bert, "--epochs", 3, "--batch-size", 5, "--max-length", 48, "--precision", "fp32", "--checkpoint-steps", 2]
    flags += ["--negatives-per-query", 3, "--lr", 0.003, *shape]
    whole = server.run("train", data, "--out", tmp_path / "whole", *flags)
    assert whole.code == 0, whole.err
    cut = server.run("train", data, "--out", tmp_path / "cut", *flags, traps=[("tunesmith.training.loop:clip", 8, "kill")])
    assert cut.code == -9
    again = server.run("train", "--resume", "--out", tmp_path / "cut")
    assert again.code == 0 and "resuming after step" in again.err, again.err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    results = [json.loads((tmp_path / name / "tunesmith.json").read_text())["result"] for name in ("whole", "cut")]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    assert results[0]["training"]["history"] == results[1]["training"]["history"]


def test_negatives_are_drawn_afresh_and_from_the_seed_alone(tiny_bert: Path, tmp_path: Path) -> None:
    from tunesmith.tasks.ranking_candidates import Candidates, Known

    keys = np.arange(40, dtype=np.uint64) % 30
    grades = np.zeros(40, np.float32)
    grades[[0, 20]] = 1
    group = np.repeat([1, 2], 20).astype(np.uint64)
    queries = {row: Known(row, np.array([row]), np.zeros(0, np.int64), frozenset({int(keys[row])})) for row in (0, 20)}
    known: Any = Candidates(None, None, queries, grades, group, keys, np.arange(30), 5, 8, "random")  # type: ignore[arg-type]
    chosen = np.array([0, 20])
    one, two, three = (known.drawn(chosen, seed) for seed in (1, 2, 1))
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in three] != [rows.tolist() for rows in two]
    assert known.drawn(np.array([20]), 1)[0].tolist() == one[1].tolist(), "a part of a step draws what the whole step does"
    for rows, row in zip(one, (0, 20), strict=True):
        assert len(rows) == 6 and len(set(keys[rows].tolist())) == 6 and rows[0] == row


def test_mining_leaves_out_what_may_be_relevant() -> None:
    from tunesmith.tasks.ranking_candidates import Known
    from tunesmith.tasks.ranking_mining import mine

    keys, pool = np.arange(6, dtype=np.uint64), np.arange(6)
    known = Known(0, np.array([0]), np.zeros(0, np.int64), frozenset({0}))
    scores = np.array([10.0, 12.0, 9.6, 9.4, 3.0, 0.0])
    assert mine([(known, "q")], pool, keys, lambda number: scores, 5, 0.05)[0].tolist() == [3, 4]
    assert mine([(known, "q")], pool, keys, lambda number: scores, 1, 0.05)[0].tolist() == [3]
    assert mine([(known, "q")], pool, keys, lambda number: scores, 5, 0.0)[0].tolist() == [2, 3, 4]


def test_what_has_no_sense_is_refused(data: Path, tiny_bert: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"ranker": "bi-encoder", "pooling": "max"}, "none that a bi-encoder has"),
        ({"negatives_per_query": 0}, "leaves a cross-encoder nothing to compare"),
        ({"metric": "accuracy"}, "is not one of those for ranking"),
    ):
        with pytest.raises(UsageError, match=said):
            tunesmith.train(data, model=tiny_bert, out=tmp_path / "u", **{**QUIET, **settings})


def test_the_card_and_the_verdict(cross: tunesmith.TrainResult, bi: tunesmith.TrainResult) -> None:
    from tunesmith.report.view import verdict

    card = (cross.directory / "README.md").read_text()
    assert 'pipeline("text-classification"' in card and "CrossEncoder(" in card and "pipeline_tag: text-ranking" in card
    card = (bi.directory / "README.md").read_text()
    assert "SentenceTransformer(" in card and "pipeline_tag: sentence-similarity" in card and bi.result["pooling"] == "mean"
    result = json.loads(json.dumps(cross.result))
    test = result["evaluations"]["test"]
    test["metrics"]["ndcg@10"], test["yardsticks"][1]["metrics"]["ndcg@10"] = 0.8, 0.7
    test["yardsticks"][0]["metrics"]["ndcg@10"] = 0.3
    for p, said in ((0.01, "It beats the best yardstick, BM25"), (0.3, "It cannot be told apart from the best yardstick, BM25")):
        test["versus"]["ndcg@10"]["p"] = p
        assert said in verdict(result)
    test["metrics"]["ndcg@10"], test["versus"]["ndcg@10"]["p"] = 0.5, 0.001
    assert "It is worse than the best yardstick, BM25" in verdict(result)


def test_a_query_without_a_relevant_passage_teaches_pointwise(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": 0} if number < 12 else row for number, row in enumerate(judged(6))]
    settings = {**QUIET, "ranking_loss": "pointwise", "epochs": 1, "valid_size": 0, "test_size": 0}
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, **settings)
    assert "2 of 6 queries have no relevant passage; they teach only what is not relevant" in " ".join(trained.result["data"]["notes"])
