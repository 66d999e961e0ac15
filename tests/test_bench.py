"""The benchmark's own figures: quality against scikit-learn, seqeval and ir-measures, intervals, and the table from hand-made results."""

import csv
import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2, IOBES
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bench import domain, fewshot, run, speed, table, textbook, ways
from bench.data import balanced_sample, prepare, read, written
from bench.judging import judged
from bench.lists import judged_lists
from bench.peers import common
from bench.quality import paired_difference, scores
from bench.retrieval import judgements_in, split_of
from bench.settings import ROWS
from bench.tagged import judged_tags, tags_of
from tunesmith.data.beir import open_beir
from tunesmith.metrics import METRICS


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def noisy(draw: np.random.Generator, gold: np.ndarray, right: float) -> np.ndarray:
    return np.where(draw.random(len(gold)) < right, gold, draw.integers(0, gold.max() + 1, len(gold)))


def test_quality_equals_scikit_learn_on_every_resample(draw):
    gold = draw.integers(0, 5, 200)
    predicted = noisy(draw, gold, 0.6)
    resamples = draw.integers(0, 200, (3, 200))
    weights = np.stack([np.bincount(rows, minlength=200) for rows in resamples]).astype(float)
    for metric, reference in {
        "accuracy": accuracy_score,
        "matthews": matthews_corrcoef,
        "f1_macro": lambda a, b: f1_score(a, b, average="macro"),
        "f1_micro": lambda a, b: f1_score(a, b, average="micro"),
    }.items():
        ours = scores(np.eye(5)[gold], np.eye(5)[predicted], metric, weights)
        np.testing.assert_allclose(ours, [reference(gold[rows], predicted[rows]) for rows in resamples], rtol=1e-12)


def test_multi_label_quality_equals_scikit_learn(draw):
    gold = (draw.random((150, 6)) < 0.3).astype(float)
    predicted = np.where(draw.random((150, 6)) < 0.8, gold, 1 - gold)
    assert scores(gold, predicted, "f1_micro")[0] == pytest.approx(f1_score(gold, predicted, average="micro"))
    assert scores(gold, predicted, "f1_macro")[0] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert scores(gold, predicted, "accuracy")[0] == pytest.approx(accuracy_score(gold, predicted))


def test_interval_of_a_difference_is_paired(draw):
    gold = draw.integers(0, 4, 400)
    ours = noisy(draw, gold, 0.8)
    one_better = ours.copy()
    wrong = np.flatnonzero(ours != gold)[:8]
    one_better[wrong] = gold[wrong]
    eye = np.eye(4)
    mean, low, high = paired_difference([(eye[gold], eye[one_better], eye[ours])], "accuracy")
    assert mean == pytest.approx(8 / 400)
    assert 0 < low < mean < high < 0.04  # unpaired it would reach far below zero
    assert paired_difference([(eye[gold], eye[ours], eye[ours])], "accuracy") == (0, 0, 0)


def test_balanced_sample_takes_as_many_of_each_label():
    import random

    rows = [(str(i), "a" if i % 3 else "b") for i in range(90)]
    chosen = balanced_sample(rows, 41, random.Random(0))
    assert len(set(chosen)) == 41
    assert sorted(label for _, label in chosen).count("a") in (20, 21)


def record(variant: str, seed: int, train_s: float, predictions: list[int]) -> table.Record:
    return {
        "key": f"{variant}{seed}", "row": "trec", "title": "TREC", "metric": "accuracy", "seed": seed, "variant": variant,
        "train_s": train_s, "tokens_per_s": 1000 / train_s, "predict_s": 1.0, "process_s": 2 * train_s, "cpu_s": train_s,
        "peak_rss_mb": 500.0, "peak_device_mb": None, "device": "cpu", "machine": "m", "commit": "c", "date": "d", "labels": 2,
        "versions": {"torch": "2"}, "gold": [[0], [1], [1], [0]], "predictions": [[i] for i in predictions],
    }  # fmt: skip


def test_table_pairs_variants_by_seed_and_is_written_between_its_markers(tmp_path):
    records = [record("tunesmith", seed, 10, [0, 1, 1, 0]) for seed in (0, 1)]
    records += [record("trainer-best", seed, time, [0, 1, 1, 1]) for seed, time in ((0, 20), (1, 80))]
    text = table.render(records)
    line = next(line for line in text.splitlines() if "trainer-best" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "TREC, 2 seeds"
    assert cells[8].startswith("+0.2500")
    assert cells[9:] == ["4.00", "4.00", "1.00"]  # geometric mean of 2 and 8
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(page, text)
    table.write(page, text)
    assert page.read_text() == f"before\n{table.BEGIN}\n\n{text}\n\n{table.END}\nafter\n"


def test_a_torn_line_of_the_results_does_not_count(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"key": "a", "n": 1}\n{"key": "a", "n": 2}\n{"key": "b", "n"')
    assert table.read(path) == [{"key": "a", "n": 2}]


def test_the_domain_table_compares_both_encoders_over_seeds():
    one = {"gold": ["a", "b", "a", "b"], "without": ["a", "a", "a", "a"], "after": ["a", "b", "a", "c"]}
    two = {**one, "without": ["a", "a", "b", "a"]}
    before = {"perplexity": {"before": 30000.0, "after": 12.34}, "texts": 2000, "epochs": 3, "tokens": 1234}
    text = domain.render(domain.DOMAINS["financial"].row, before, [{**one, "seed": 0}, {**two, "seed": 1}])
    assert "| without pretraining | 30,000.0 | 0.3750 ± 0.1768 | 0.5000, 0.2500 |  |" in text
    assert "| after pretraining | 12.3 | 0.7500 ± 0.0000 | 0.7500, 0.7500 | +0.3750 (" in text
    assert "3 epochs over 2,000 raw texts of the training file, 1,234 tokens; test: 4 rows, seen by neither." in text


ROW = {row.name: row for row in ROWS}


def test_earlier_results_keep_their_keys():
    known = {
        "trec": "29c9ce6c9ac93e11", "goemotions": "c4a1a70a17839b80", "imdb": "93c74d76a300785f", "chnsenticorp": "443563bb215f93c6",
        "mrpc": "08cc8cda71a30365", "stsb": "dd1759afa65eb637", "squad": "3cc83140444589cc", "squad-to-cmrc": "566262fb60468449",
    }  # fmt: skip
    assert {name: run.key_of(ROW[name], 0, "tunesmith") for name in known} == known
    assert len({run.key_of(row, 0, "tunesmith") for row in ROWS}) == len(ROWS)


def tagged_file(path: Path, sentences: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [[json.dumps(["w"] * len(tags)), json.dumps(tags)] for tags in sentences]
        csv.writer(file).writerows([["tokens", "tags"], *rows])
    return path


@pytest.mark.parametrize(("letters", "scheme"), [("BI", IOB2), ("BMES", IOBES)])
def test_entities_of_any_tags_are_judged_as_seqeval_does(draw, tmp_path, letters, scheme):
    tags = ["O", "O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC.NAM"))]
    gold = [[tags[i] for i in draw.integers(0, len(tags), draw.integers(1, 12))] for _ in range(60)]
    predicted = [[tag if draw.random() < 0.8 else tags[draw.integers(0, len(tags))] for tag in one] for one in gold]
    test = tagged_file(tmp_path / "test.csv", gold)
    assert tags_of(test) == gold
    counts = judged_tags(test, test, predicted)
    one, two = np.array(counts["gold"], float), np.array(counts["predictions"], float)
    resamples = draw.integers(0, 60, (3, 60))
    weights = np.stack([np.bincount(rows, minlength=60) for rows in resamples]).astype(float)

    def reference(rows: np.ndarray, **settings) -> float:
        parts = [[[tag.replace("M-", "I-") for tag in part[i]] for i in rows] for part in (gold, predicted)]
        return seqeval_f1(*parts, **settings)

    strict = [reference(rows, mode="strict", scheme=scheme) for rows in resamples]
    assert min(strict) > 0.2
    np.testing.assert_allclose(scores(one, two, "entity_f1", weights), strict, rtol=1e-12)
    np.testing.assert_allclose(scores(one, two, "entity_f1_default", weights), [reference(rows) for rows in resamples], rtol=1e-12)
    flat = [[[tag for i in rows for tag in part[i]] for part in (gold, predicted)] for rows in resamples]
    np.testing.assert_allclose(scores(one, two, "word_accuracy", weights), [accuracy_score(*parts) for parts in flat], rtol=1e-12)


def test_the_table_says_how_many_words_have_no_tag():
    tagged = {"words_without_tag": 1234, "also": ["entity_f1_default"], "metric": "entity_f1", "gold": [[3, 1, 1]]}
    one = {**record("trainer-best", 0, 10, []), **tagged, "predictions": [[2, 1, 1, 1, 1]]}
    one.pop("labels")
    assert table.summary(one).endswith("entity_f1 1.0000, entity_f1_default 1.0000, 1,234 words without a tag")
    assert table.also([{**one, "words_without_tag": 0}]) == ["entity_f1_default 1.0000"]


def test_words_without_a_tag_count_as_wrong_and_every_word_must_be_answered_for(tmp_path):
    test = tagged_file(tmp_path / "test.csv", [["B-PER", "I-PER", "O", "O"], ["B-PER"]])
    counts = judged_tags(test, test, [["B-PER", None, "O", None], ["B-PER"]])
    assert counts == {"gold": [[4, 1, 1], [1, 1, 1]], "predictions": [[2, 0, 1, 0, 1], [1, 1, 1, 1, 1]]}
    assert judged(ROW["weibo"], test, test, [["B-PER", None, "O", None], ["B-PER"]]) == counts
    with pytest.raises(ValueError, match="sentence 2: 2 tags for 1 words"):
        judged_tags(test, test, [["O"] * 4, ["O", "O"]])


def test_plain_tags_have_no_entities(tmp_path):
    test = tagged_file(tmp_path / "test.csv", [["NOUN", "VERB"]])
    assert judged_tags(test, test, [["NOUN", "B-PER"]]) == {"gold": [[2, 0, 0]], "predictions": [[1, 0, 0, 0, 0]]}


def test_tagged_files_are_prepared_word_by_word(tmp_path):
    for folder in ("ud_en_ewt", "weibo_ner", "resume_ner"):
        (tmp_path / folder).mkdir()
    word = "{}\t{}\tx\t{}\t{}\t_\t_\t_\t_\t_\n".format
    conllu = "# text = don't\n" + word("1-2", "don't", "_", "_") + word(1, "do", "AUX", "VBP") + word(2, "n't", "PART", "RB")
    conllu += word("2.1", "gone", "VERB", "VBN") + "\n" + "# text = Go\n" + word(1, "Go", "VERB", "VB")
    tagged = {"ewt-xpos": conllu, "weibo": "科0\tB-ORG.NAM\n30\tO\n\u20280\tO\n\n你0\tO\n", "resume": "中 B-CONT\n国 E-CONT\n\n1 O\n\n"}
    expected = {
        "ewt-xpos": [(["do", "n't"], ["VBP", "RB"]), (["Go"], ["VB"])],
        "weibo": [(["科", "3", "\u2028"], ["B-ORG.NAM", "O", "O"]), (["你"], ["O"])],
        "resume": [(["中", "国"], ["B-CONT", "E-CONT"]), (["1"], ["O"])],
    }
    for name, text in tagged.items():
        row = ROW[name]
        for file in (row.train_file, row.test_file):
            (tmp_path / row.folder / file).write_text(text, encoding="utf-8")
        paths = prepare(row, 0, tmp_path, tmp_path / "prepared")
        for path in paths:
            assert [(json.loads(words), json.loads(tags)) for words, tags in read(path, row.columns)] == expected[name]


def test_lists_are_judged_as_ir_measures_does(draw):
    queries = [f"q{i}" for i in draw.integers(0, 20, 300)]
    labels = (draw.random(300) < 0.2).astype(int)
    labels[[query == "q3" for query in queries]] = 0
    values = np.round(draw.normal(size=300) + labels, 1)  # with ties
    counts = judged_lists([(query, f"d{i}", str(label)) for i, (query, label) in enumerate(zip(queries, labels, strict=True))], values)
    # trec_eval ranks equal scores by the document's name, the last one first: these names put the relevant ones behind
    names = [f"{'a' if label else 'b'}{i}" for i, label in enumerate(labels)]
    qrels = [ir_measures.Qrel(query, name, int(label)) for query, name, label in zip(queries, names, labels, strict=True)]
    ran = [ir_measures.ScoredDoc(query, name, float(value)) for query, name, value in zip(queries, names, values, strict=True)]
    relevant = {query for query, label in zip(queries, labels, strict=True) if label}
    assert "q3" not in relevant
    wanted = {str(measure): [] for measure in (ir_measures.RR, ir_measures.AP)}
    for one in ir_measures.iter_calc([ir_measures.RR, ir_measures.AP], qrels, ran):
        if one.query_id in relevant:
            wanted[str(one.measure)].append(one.value)
    gold, predicted = np.array(counts["gold"]), np.array(counts["predictions"])
    assert len(gold) == len(relevant)
    for metric, reference in (("mrr", "RR"), ("map", "AP")):
        assert sorted(predicted[:, ("mrr", "map").index(metric)]) == pytest.approx(sorted(wanted[reference]))
        assert scores(gold, predicted, metric)[0] == pytest.approx(np.mean(wanted[reference]))


@pytest.mark.parametrize("name", ["trec", "mrpc", "stsb", "squad", "weibo", "wikiqa"])
def test_every_task_runs_its_own_peer_with_columns_that_its_files_have(name):
    row, path = ROW[name], Path("x")
    peers = {"tagging": "tagging_peer.py", "ranking": "ranking_peer.py", "qa": "qa_peer.py"}
    line = run.command(row, 0, "trainer-best", path, path, path, path)
    assert Path(line[1]).name == peers.get(row.task, "trainer_peer.py") and Path(line[1]).exists()
    given = dict(flag[2:].split("=", 1) for flag in run.command(row, 0, "tunesmith", path, path, path, path)[2:])
    usual = {"text": "text", "label": "label"} | given
    assert {usual["text"], usual["label"], usual.get("text-pair", usual["text"])} == set(row.columns)


def collection(folder: Path, queries: int = 12) -> Path:
    """Write a collection of passages about coloured animals; the last query has no relevant passage."""
    from tiny import ANIMALS, COLOURS

    folder.mkdir(parents=True)
    kinds = [(colour, animal) for colour in COLOURS for animal in ANIMALS]
    passages = [{"_id": f"d{i}", "title": f"the {a} {b}", "text": f"the {a} {b} near the river"} for i, (a, b) in enumerate(kinds)]
    passages[1] |= {"title": "old", "text": passages[1]["text"]}
    passages += [{"_id": "nothing", "title": "", "text": ""}, {"_id": "far", "title": "", "text": "a very big house"}]
    asked = [{"_id": f"q{i}", "text": f"{a} {b}"} for i, (a, b) in enumerate(kinds[:queries])]
    lines = [f"q{i}\td{i}\t1\nq{i}\td{(i + 7) % 36}\t0\n" + (f"q{i}\tfar\t1\n" if i % 3 == 0 else "") for i in range(queries - 1)]
    for name, rows in (("corpus", passages), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines) + f"q{queries - 1}\td0\t0\n", encoding="utf-8")
    return folder


def test_the_queries_of_a_collection_are_halved_the_same_way_always():
    queries = [f"q{i}" for i in range(9)]
    one, two = split_of(queries, "cisi")
    assert (len(one), len(two)) == (4, 5) and sorted(one + two) == queries
    assert split_of(reversed(queries), "cisi") == (one, two) != split_of(queries, "cranfield")


@pytest.mark.parametrize("name", ["cranfield-cross", "cisi-bi"])
def test_both_programs_train_on_the_same_rows_of_a_collection(tmp_path, name):
    row = dataclasses.replace(ROW[name], candidates=5 if ROW[name].candidates is not None else None)
    source = collection(tmp_path / "data" / row.folder)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    train, test = prepare(row, 0, tmp_path / "data", tmp_path / "prepared")
    assert prepare(row, 1, tmp_path / "data", tmp_path / "prepared") == (train, test)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before

    qrels = train.parent / "qrels" / "train.tsv"
    ours = open_beir(qrels, "train.tsv")
    if row.candidates is not None:
        ours = ours.prepared(whole=False, candidates=row.candidates)
    grade = (lambda label: label[0]) if row.candidates is not None else str
    columns = ["query_id", "text", "passage_id", "text_pair", "label"]
    read_by_tunesmith = [(*(one[name] for name in ours.columns[:4]), grade(one["label"])) for one, _ in ours]
    assert sorted(read(train, columns)) == sorted(read_by_tunesmith)

    learned, tested = ({query for (query,) in read(path, ["query_id"])} for path in (train, test))
    assert len(learned) == 5 and len(tested) == 6 and not learned & tested and "q11" not in learned | tested
    assert set(judgements_in(qrels.with_name("test.tsv"))) == tested
    sizes = [len([1 for (one,) in read(test, ["query_id"]) if one == query]) for query in tested]
    assert set(sizes) == {5} if row.candidates is not None else min(sizes) > 5
    assert common.collection_of(str(train))["d1"] == "old the red dog near the river"


def test_searches_are_judged_as_ir_measures_does_with_what_was_not_found(draw, tmp_path):
    row = dataclasses.replace(ROW["cranfield-cross"], candidates=5)
    collection(tmp_path / "data" / row.folder)
    _, test = prepare(row, 0, tmp_path / "data", tmp_path / "prepared")
    rows = read(test, ["query_id", "passage_id", "bm25"])
    values = draw.normal(size=len(rows)).tolist()
    found = judged(row, test, test, values)
    queries = list(dict.fromkeys(query for query, *_ in rows))
    lists = [[(b, value) for (a, b, _), value in zip(rows, values, strict=True) if a == query] for query in queries]
    assert judged(dataclasses.replace(row, ranker="bi-encoder"), test, test, lists) == found
    qrels = [ir_measures.Qrel(*one) for one in relevant_in(test.parent / "qrels" / "test.tsv")]
    for given, figures in ((values, found["predictions"]), ([float(score) for *_, score in rows], found["yardsticks"]["BM25"])):
        # ties, which BM25 has here, are broken against the program: trec_eval ranks by the names, the last one first
        hits = {(one.query_id, one.doc_id) for one in qrels if one.relevance}
        names = {passage: passage for _, passage, _ in rows}
        ran = [ir_measures.ScoredDoc(a, names[b], value - 1e-6 * ((a, b) in hits)) for (a, b, _), value in zip(rows, given, strict=True)]
        wanted = [ir_measures.RR, ir_measures.AP, ir_measures.nDCG @ 10]
        measured = ir_measures.calc_aggregate(wanted, qrels, ran)
        np.testing.assert_allclose(np.mean(figures, axis=0), [measured[one] for one in wanted], rtol=1e-9)
    assert np.mean(found["yardsticks"]["BM25"], axis=0)[1] < 1  # what shares no word with its query was not found
    assert found["gold"] == [[1.0] * 3] * 6
    assert [scores(np.array(found["gold"]), np.array(found["predictions"]), name)[0] for name in ("mrr", "map", "ndcg@10")] == (
        pytest.approx(np.mean(found["predictions"], axis=0))
    )


def relevant_in(path: Path) -> list[tuple[str, str, int]]:
    return [(query, passage, grade) for query, grades in judgements_in(path).items() for passage, grade in grades.items()]


def test_the_table_has_simple_methods_beside_the_programs():
    beside = {"yardsticks": {"BM25": [[0], [1], [0], [1]]}}
    text = table.render([{**record("tunesmith", seed, 10, [0, 1, 1, 0]), **beside} for seed in (0, 1)])
    cells = [cell.strip() for cell in text.splitlines()[3].strip("|").split("|")]
    assert cells[:3] == ["TREC", "BM25", ""] and cells[7] == "accuracy 0.5000" and cells[8].startswith("+0.5000 (")


@pytest.mark.parametrize(("name", "peer"), [("cranfield-cross", "ranking_peer.py"), ("cisi-bi", "retrieval_peer.py")])
def test_a_collection_is_read_as_a_beir_directory_by_tunesmith_and_as_rows_by_its_peer(name, peer):
    row, path = ROW[name], Path("place") / "train.csv"
    line = run.command(row, 0, "trainer-best", path, path, path, path)
    assert Path(line[1]).name == peer and Path(line[1]).exists() and not any("collection" in flag for flag in line)
    ours = run.command(row, 0, "tunesmith", path, path, path, path)
    assert f"--collection={Path('place') / 'qrels' / 'train.tsv'}" in ours and f"--ranker={row.ranker}" in ours
    assert (f"--candidates={row.candidates}" in ours) == (row.candidates is not None)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tunesmith", "trainer-best"])
@pytest.mark.parametrize("name", ["cisi-cross", "cisi-bi"])
def test_a_collection_goes_through_the_programs(tmp_path, name, variant):
    from tiny import save_encoder

    row = dataclasses.replace(ROW[name], candidates=5 if ROW[name].candidates is not None else None, epochs=1, batch_size=2, max_length=32)
    collection(tmp_path / "data" / row.folder)
    train, test = prepare(row, 0, tmp_path / "data", tmp_path / "prepared")
    found = run.execute(row, 0, variant, train, test, save_encoder(tmp_path / "encoder"))
    assert found is not None
    assert found["train_rows"] == len(read(train, ["text"])) and len(found["predictions"]) == 6 and len(found["yardsticks"]["BM25"]) == 6


def test_a_search_returns_the_nearest_passages_best_first(draw):
    passages = draw.normal(size=(120, 4)).astype(np.float32)
    found = common.nearest(passages[[7]], passages, [f"d{i}" for i in range(120)])
    values = passages @ passages[7]
    assert [key for key, _ in found[0]] == [f"d{i}" for i in np.argsort(-values)[:100]]
    assert found[0][0][1] == pytest.approx(values.max())


def test_the_domain_is_pretrained_on_no_text_of_the_test_file(tmp_path):
    row = domain.DOMAINS["financial"].row
    (tmp_path / row.folder).mkdir()
    for file, texts in ((row.train_file, ["profit rose", "profit fell", "sales grew"]), (row.test_file, ["profit fell "])):
        (tmp_path / row.folder / file).write_text("text,label\n" + "".join(f"{text},x\n" for text in texts))
    raw = domain.raw_texts(row, tmp_path, tmp_path / "prepared", None)
    assert read(raw, ["text"]) == [("profit rose",), ("sales grew",)]


def test_what_was_done_is_not_done_again(tmp_path):
    assert domain.kept(tmp_path / "new" / "x.json", lambda: {"n": 1}) == {"n": 1}
    assert domain.kept(tmp_path / "new" / "x.json", lambda: {"n": 2}) == {"n": 1}


def test_ingredients_are_chosen_by_reviews_that_are_in_neither_other_part(tmp_path, monkeypatch):
    monkeypatch.setattr(textbook, "TRIAL_ROWS", 10)
    monkeypatch.setattr(textbook, "JUDGED_ROWS", 12)
    rows = [(f"review {i % 45}", ("neg", "pos")[i % 45 % 2]) for i in range(60)]
    source = tmp_path / "train.csv"
    written(source, ["text", "label"], rows)
    train, valid = (read(path, ["text", "label"]) for path in textbook.trial_files(source, tmp_path / "data"))
    assert (len(train), len(valid)) == (10, 12) and not {text for text, _ in train} & {text for text, _ in valid}
    assert sum(label == "pos" for _, label in [*train, *valid]) == 11


def test_the_textbook_tables_compare_with_the_plain_run():
    trials = {name: np.arange(200) < count for name, count in (("plain", 174), ("mean", 177), ("rate+mean", 180))}
    runs = {"plain": {"test": {"accuracy": 0.91}, "training": {"tokens": 123456, "tokens_per_s": 6543.2}, "share": 0.512}}
    timed, busy = (textbook.render(trials, runs, timed=timed) for timed in (True, False))
    assert "| mean | `--pooling=mean` | 0.8850 | +0.0150 (+0.0000 to +0.0350) |" in timed and "| plain | | 0.8700 |  |" in timed
    assert "| rate+mean | `--lr=1e-4 --pooling=mean` | 0.9000 |" in timed
    assert "| plain | 0.9100 | 123,456 | 6,543 | 0.51 |" in timed and "| plain | 0.9100 | 123,456 |  |  |" in busy


@pytest.mark.parametrize("flag", ["--trials", "--whole"])
def test_an_unknown_ingredient_ends_before_anything_is_trained(flag, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.textbook", "--trials=", f"{flag}=mean,rate+meen"])
    with pytest.raises(SystemExit, match="2"):
        textbook.main()
    assert "'meen' is not one of plain, rate, mean" in capsys.readouterr().err


def test_the_page_of_benchmarks_has_the_markers_of_both_tables():
    page = (Path(__file__).parent.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for marker in (table.BEGIN, table.END, domain.BEGIN, domain.END, textbook.BEGIN, textbook.END):
        assert page.count(marker) == 1


def test_the_page_of_benchmarks_has_a_command_for_every_row():
    page = (Path(__file__).parent.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert table.render_rows() in page, "python -m bench.table --write docs/benchmarks.md"


def test_the_figures_of_the_ways_are_metrics_that_a_training_prints():
    assert {data.metric for data in ways.DATA.values()} <= {name for metrics in METRICS.values() for name in metrics}


def test_ways_compare_with_full_on_the_same_machine_and_the_same_rows() -> None:
    def record(way: str, host: str, whole: float) -> dict[str, Any]:
        figures = {"quality": 0.5, "trained": 7, "train_s": 1.0, "whole_s": whole, "memory_mb": 9.0, "disk_mb": 1.0}
        told = {"data": "trec", "way": way, "machine": host, "timed": True, "date": "2020-01-01", "commit": "c", "chosen": "last:2"}
        return {**figures, **told}

    records = [record("full", "one", 100), record("auto", "one", 200), record("none", "one", 5), record("head", "two", 10)]
    lines = ways.render(records).splitlines()
    assert [line.split("|")[7].strip() for line in lines[2:6]] == ["1.00", "0.50", "", ""]
    assert "`auto`, which took `last:2`" in lines[3] and "`none`, descriptions alone" in lines[4]
    assert [("one" in line, "two" in line) for line in lines[2:6]] == [(True, False)] * 3 + [(False, True)]


def test_few_rows_and_descriptions_are_what_two_ways_are_given(tmp_path: Path) -> None:
    train = tmp_path / "train.csv"
    written(train, ["text", "label"], [(f"{label} {i}", label) for label in "ab" for i in range(40)])
    first, *flags = ways.flags_of(ways.DATA["trec"], "fewshot", train, 0, tmp_path)
    rows = read(Path(first), ["text", "label"])
    assert [sum(label == name for _, label in rows) for name in "ab"] == [ways.SHOTS] * 2 and len(set(rows)) == len(rows)
    assert not any(flag.startswith("--batch-size") for flag in flags)
    prompts, *_ = ways.flags_of(ways.DATA["trec"], "none", train, 0, tmp_path)
    assert set(tomllib.loads(Path(prompts.removeprefix("--prompts=")).read_text(encoding="utf-8"))) == set(ways.DESCRIPTIONS["trec"])
    assert ways.flags_of(ways.DATA["trec"], "auto", train, 0, tmp_path)[-1] == f"--budget={ways.BUDGET}"


def test_a_table_without_results_leaves_that_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    page.write_text("\n".join([*table.ROWS_MARKERS, table.BEGIN, "| kept |", table.END]), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["table", "--results", str(tmp_path / "none.jsonl"), "--write", str(page)])
    table.main()
    assert "| kept |" in page.read_text(encoding="utf-8") and "bench.run --rows trec" in page.read_text(encoding="utf-8")


def test_the_speed_table_gives_medians_of_ratios_and_says_what_is_missed():
    def figures(speed: float, memory: float) -> dict[str, float]:
        return {"tokens_per_s": speed, "peak_rss_mb": memory, "train_tokens": 1000, "train_rows": 50, "labels": 6}

    work = speed.Work("trec", "TREC", "tokens_per_s", True, {"slow": 6.0, "quick": 2.5}, lambda variant, folder: None)
    rounds = {
        "tunesmith": [figures(4000, 900), figures(2000, 900), figures(3000, 1200)],
        "slow": [figures(500, 1000), figures(250, 1000), figures(500, 1000)],
        "quick": [figures(2000, 1000), figures(1000, 1000), figures(1000, 1000)],
    }
    ours, slow, quick, share = speed.report(work, rounds, [(rate, "bfloat16") for rate in (900.0, 450.0, 900.0)])
    assert "| 3,000 |" in ours and "900 MB" in ours
    assert slow.endswith("| 8.00 (6.00 to 8.00) | >= 6 | ours is 0.90 of its (aim 0.6, missed) |")
    assert quick.endswith("| 2.00 (2.00 to 3.00) | >= 2.5, missed | ours is 0.90 of its (aim 0.6, missed) |")
    # 20 tokens a text: 6 operations a weight of the layers, and the attention's, by 3,000 tokens/s and 900 GFLOP/s
    told = 6 * 6 * (4 * 384**2 + 2 * 384 * 1536 + 2 * 20 * 384) * 4000 / 900e9
    assert f"| 900 GFLOP/s, bfloat16 | {told:.2f}, " in share
    answers = speed.Work("predict", "texts", "predict_s", False, {"other": 2.0}, lambda variant, folder: None)
    found = [
        {"predict_s": s, "peak_rss_mb": 10, "labels": labels} for s, labels in ((1.0, ["a", "b", "c", "d"]), (3.0, ["a", "b", "c", "x"]))
    ]
    _, other = speed.report(answers, {"tunesmith": [found[0]], "other": [found[1]]}, [(900.0, "bfloat16")])
    assert "| other, 75.0% of the labels as ours | 3.00 s | 3.00 (3.00 to 3.00) | >= 2 | ours is 1.00 of its |" in other
    less_is_better = speed.Work("predict", "texts", "predict_s", False, {"slow": 2.0}, lambda variant, folder: None)
    assert less_is_better.ratio({"predict_s": 2.0}, {"predict_s": 6.0}) == 3.0


def test_work_counted_for_a_token_is_six_operations_a_weight_and_the_attention():
    whole, done = speed.work_per_token(0.0)
    assert whole == 6 * 6 * (4 * 384**2 + 2 * 384 * 1536) and 0.87 * whole < done < 0.88 * whole
    assert speed.work_per_token(250.0)[0] - whole == 6 * 6 * 2 * 250 * 384


def test_the_few_shot_table_compares_seeds_that_both_programs_ran():
    runs = [("fewshot", 0, 0.8, 10), ("fewshot", 1, 0.6, 20), ("fewshot", 2, 0.1, 99), ("setfit", 0, 0.7, 90), ("setfit", 1, 0.5, 110)]
    records = [
        {"row": "trec", "shots": 8, "program": program, "seed": seed, "accuracy": accuracy, "cpu_s": seconds}
        for program, seed, accuracy, seconds in runs
    ]
    lines = fewshot.rendered(records).splitlines()
    assert lines[2] == "| trec | 8 | 2 | 0.700 ± 0.141 | 0.600 ± 0.141 | +0.100 ± 0.000 | 15 | 100 | 6.7 |"
    assert lines[3] == "| mean of all draws, sum of times | | | 0.700 | 0.600 | +0.100 | 15 | 100 | 6.7 |"
