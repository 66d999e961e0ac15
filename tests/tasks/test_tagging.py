"""Tagging from end to end: tiny encoders that learn which words are animals and colours."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
import tunesmith
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Source
from tunesmith.data.schemes import LETTERS, convert, faults
from tunesmith.data.table import open_table
from tunesmith.errors import DataError, Diverged, UsageError
from tunesmith.evaluate import outputs_for, outputs_of
from tunesmith.tasks.rows import Part, Ragged, Rows
from tunesmith.tasks.tagging import Span, Tagging
from tunesmith.tasks.viterbi import best_path, transitions

SETTINGS: dict[str, Any] = {"epochs": 12, "lr": 5e-3, "batch_size": 8, "max_length": 48, "precision": "fp32", "progress": "quiet"}
QUICK: dict[str, Any] = {**SETTINGS, "epochs": 1}


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Words with BIO tags: a colour and an animal make an entity of two words, an animal alone one of one word."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        tokens, tags = [], []
        for _ in range(generator.randint(1, 4)):
            kind = generator.choice(["two", "one", "none"])
            if kind == "two":
                tokens += [generator.choice(tiny.COLOURS), generator.choice(tiny.ANIMALS)]
                tags += ["B-PET", "I-PET"]
            elif kind == "one":
                tokens.append(generator.choice(tiny.ANIMALS))
                tags.append("B-PET")
            tokens.append(generator.choice(tiny.FILLER))
            tags.append("O")
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def write_conll(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = ["\n".join(f"{word}\t{tag}" for word, tag in zip(row["tokens"], row["tags"], strict=True)) for row in rows]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conll(tmp_path_factory.mktemp("tagged") / "pets.conll", sentences(150))


@pytest.fixture(scope="module")
def trained(data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    return tunesmith.train(data, out=tmp_path_factory.mktemp("tagger") / "m", model=tiny_bert, **SETTINGS)


def test_learns_and_tells(trained: tunesmith.TrainResult) -> None:
    assert trained.metrics["f1_strict"] == trained.metrics["f1_default"] == trained.metrics["accuracy"] == 1.0
    assert trained.result["task"] == "tagging" and trained.result["kind"] == "spans"
    found = trained.bundle.predict("the red cat and a dog!")
    assert found.words == ["the", "red", "cat", "and", "a", "dog", "!"]
    assert found.tags[:6] == ["O", "B-PET", "I-PET", "O", "O", "B-PET"]
    assert found.spans[0] == Span(4, 11, "PET", "red cat") and found.spans[1].text.startswith("dog")
    evaluation = trained.result["evaluations"]["test"]
    assert [row["label"] for row in evaluation["per_label"]] == ["PET"] and len(evaluation["confusion"]) == 3
    assert evaluation["yardsticks"][0]["name"] == "most frequent tag" and evaluation["yardsticks"][0]["metrics"]["f1_strict"] < 1
    account = trained.result["data"]["splits"]["train"]
    assert account["account"]["words"] == sum(account["targets"][tag] for tag in ("O", "B-PET", "I-PET"))
    page = (trained.directory / "report.html").read_text()
    assert "Training entities" in page and 'id="tags"' in page and "F1, strict" in page
    assert "token-classification" in (trained.directory / "README.md").read_text()


def test_the_directory_says_the_same_in_transformers(trained: tunesmith.TrainResult) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    rows = sentences(5, seed=8)
    tokenizer = AutoTokenizer.from_pretrained(trained.directory)
    model = AutoModelForTokenClassification.from_pretrained(trained.directory).eval()
    assert [model.config.id2label[i] for i in range(3)] == trained.bundle.labels
    examples = [trained.bundle.schema.parse(row, tunesmith.data.schema.Source("x", 1)) for row in rows]
    ours = outputs_of(trained.bundle.model, trained.bundle.task, trained.bundle.encoder.encode_examples(examples))
    for i, row in enumerate(rows):
        inputs = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            theirs = model(**inputs).logits[0]
        words = inputs.word_ids()
        first = [words.index(word) for word in range(len(row["tokens"]))]
        np.testing.assert_allclose(ours[i], theirs[first].numpy(), atol=1e-5)
    tag = pipeline("token-classification", str(trained.directory), aggregation_strategy="first")
    text = "the red cat and the old dog"
    spans = [(one["start"], one["end"], one["entity_group"]) for one in tag(text)]
    assert spans == [(span.start, span.end, span.label) for span in trained.bundle.predict(text).spans]


def test_of_a_word_its_tag_is_kept_for_judging(trained: tunesmith.TrainResult, data: Path) -> None:
    """One number a word, whatever the number of tags, and the very tags that prediction gives."""
    bundle, task = trained.bundle, trained.bundle.task
    source = open_data(data)
    table = open_table(source, bundle.schema, bundle.encoder)
    rows = Rows(table, np.arange(len(table)), task.targets(table))
    kept = outputs_for(bundle.model, task, rows)
    predicted = [one.tags for one in bundle.predict(data)]
    assert kept.values.shape == (sum(map(len, predicted)), 1)
    assert [[task.labels[int(code)] for code in kept[i][:, 0]] for i in range(len(kept))] == predicted
    broken = Ragged(np.array([[0, 1, 2], [0, np.nan, 2]], np.float32), np.array([0, 2]))
    assert np.isnan(task.reduced(broken, rows).values[:, 0]).tolist() == [False, True]
    with pytest.raises(Diverged, match="not finite"):
        task.score(task.reduced(broken, rows), Part(rows, source, bundle.schema))


def test_progress_is_told_batch_by_batch(trained: tunesmith.TrainResult) -> None:
    """A chunk of long texts takes minutes; who waits sees more of it than its end."""
    bundle, told = trained.bundle, list[int]()
    examples = bundle.encoder.encode_examples([bundle.schema.parse(row, Source("x", 1)) for row in sentences(40, seed=8)])
    outputs_of(bundle.model, bundle.task, examples, max_tokens=64, advance=told.append)
    assert len(told) > 4 and sum(told) == 40
    told.clear()
    assert len(list(bundle.stream(["a red cat", "the dog", "a cow"], chunk=2, advance=told.append))) == sum(told) == 3


def test_the_loss_of_a_step_is_transformers(trained: tunesmith.TrainResult, data: Path, tiny_bert: Path) -> None:
    """One step's loss and gradient are those of transformers' own model with -100 on all but first sub-words."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from tunesmith.data.memory import open_data
    from tunesmith.prepare import prepare
    from tunesmith.progress import QUIET
    from tunesmith.resolve import resolve

    rows = [row | {"tokens": [word if i % 3 else word + "s" for i, word in enumerate(row["tokens"])]} for row in sentences(6, seed=3)]
    config = resolve({"model": str(trained.directory), "valid_size": 0.0, "test_size": 0.0, "max_length": 48})
    prepared = prepare(config, {"train": open_data(rows)}, QUIET)
    task, part = prepared.task, prepared.parts["train"].rows
    batch = task.batch(part, part.index, 0)
    model = trained.bundle.model.eval()
    ours = task.loss(task.combine(model(batch), batch), batch).sum() / batch.parts
    theirs = AutoModelForTokenClassification.from_pretrained(trained.directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.directory)
    inputs = tokenizer([row["tokens"] for row in rows], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full(inputs["input_ids"].shape, -100)
    for i, row in enumerate(rows):
        words = inputs.word_ids(i)
        assert len(words) > len(row["tokens"]) + 2  # some words have several sub-words
        for word, tag in enumerate(row["tags"]):
            labels[i, words.index(word)] = theirs.config.label2id[tag]
    assert float(ours.detach()) == pytest.approx(float(theirs(**inputs, labels=labels).loss.detach()), abs=1e-5)
    assert batch.parts == int((labels != -100).sum())


def test_every_way_of_asking_gives_the_same(trained: tunesmith.TrainResult, tmp_path: Path, run) -> None:
    rows = sentences(9, seed=5)
    model = tunesmith.load(trained.directory)
    wanted = model.predict(rows)
    assert [one.tags for one in wanted] == [one.tags for one in model.predict([{"tokens": row["tokens"]} for row in rows])]
    texts = [" ".join(row["tokens"]) for row in rows]
    assert model.predict(texts) == wanted and [model.predict(text) for text in texts] == wanted
    jsonl = tmp_path / "new.jsonl"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    conll = write_conll(tmp_path / "new.conll", rows)
    csv = tiny.write_csv(tmp_path / "new.csv", [{"tokens": json.dumps(row["tokens"])} for row in rows])
    assert model.predict(jsonl) == model.predict(conll) == model.predict(csv) == wanted
    for name in ("out.jsonl", "out.csv", "out.parquet", "out.conll"):
        ended = run("predict", trained.directory, jsonl, "-o", name, "-q")
        assert ended.code == 0, ended.err
        table = [row for row, _ in tunesmith.data.readers.open_file(tmp_path / name)]
        tags = [json.loads(row["predicted_tags"]) if name.endswith("csv") else row["predicted_tags"] for row in table]
        assert tags == [one.tags for one in wanted], name
    spans = [json.loads(line)["spans"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert spans[0] == [{"start": s.start, "end": s.end, "label": s.label, "text": s.text} for s in wanted[0].spans]
    ended = run("predict", trained.directory, "--format", "txt", stdin="\n".join(texts).encode())
    assert [json.loads(line)["tags"] for line in ended.out.splitlines()] == [one.tags for one in wanted]
    ended = run("predict", trained.directory, "--format", "conll", stdin=conll.read_bytes())
    assert [json.loads(line)["predicted_tags"] for line in ended.out.splitlines()] == [one.tags for one in wanted]


def test_commands(data: Path, trained: tunesmith.TrainResult, tiny_bert: Path, run) -> None:
    ended = run("train", data, "--model", tiny_bert, "--epochs", 1, "--max-length", 48, "--no-constrain", "--out", "m")
    assert ended.code == 0, ended.err
    assert "task: tagging, one of 3 tags a word, scheme BIO" in ended.err
    assert json.loads(Path("m/tunesmith.json").read_text())["task"]["constrain"] is False
    ended = run("evaluate", trained.directory, data, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0 and found["rows"] == 150 and found["metrics"]["f1_strict"] == 1.0
    assert found["account"]["words"] == sum(len(row["tokens"]) for row in sentences(150))
    ended = run("walk", data, "--row", 2, "--model", trained.directory)
    assert ended.code == 0 and "scheme" not in ended.err and "spans:" in ended.out, ended.err
    ended = run("check", data, "--model", tiny_bert)
    assert ended.code == 0 and "scheme BIO, entities: PET" in ended.out, ended.err


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "electra", "modernbert", "deberta-v2", "gpt2", "albert"])
def test_other_encoders(architecture: str, tmp_path: Path) -> None:
    encoder = tiny.save_encoder(tmp_path / "encoder", architecture)
    rows = sentences(24, seed=3)
    trained = tunesmith.train(rows, out=tmp_path / "m", model=encoder, **{**QUICK, "valid_size": 0.0, "test_size": 0.0})
    found = tunesmith.load(tmp_path / "m").predict(rows)
    assert found == trained.bundle.predict(rows) and all(len(one.tags) == len(row["tokens"]) for one, row in zip(found, rows, strict=True))


# --- decoding --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LETTERS)), st.integers(1, 5), st.integers(0, 10**6))
def test_viterbi_finds_the_best_of_all_allowed_sequences(scheme: str, words: int, seed: int) -> None:
    labels = ["O", *(f"{letter}-X" for letter in LETTERS[scheme])]
    scores = np.random.default_rng(seed).normal(size=(words, len(labels))).astype(np.float32)
    path = best_path(scores, transitions(labels, scheme))
    assert not faults([labels[i] for i in path], scheme)
    possible = [p for p in itertools.product(range(len(labels)), repeat=words) if not faults([labels[i] for i in p], scheme)]
    best = max(sum(scores[i, tag] for i, tag in enumerate(p)) for p in possible)
    assert sum(scores[i, tag] for i, tag in enumerate(path.tolist())) == pytest.approx(best, abs=1e-5)


def test_where_nothing_is_allowed_each_word_has_its_best_tag() -> None:
    assert best_path(np.eye(2, dtype=np.float32), transitions(["I-X", "I-Y"], "bio")).tolist() == [0, 1]


def test_constrain_holds_in_training_and_can_be_changed_at_prediction(tiny_bert: Path, tmp_path: Path, run) -> None:
    trained = tunesmith.train(sentences(60), out=tmp_path / "m", model=tiny_bert, **{**QUICK, "lr": 3e-4})
    texts = [" ".join(random.Random(i).choices(tiny.WORDS[:28], k=12)) for i in range(60)]
    kept = [one.tags for one in tunesmith.load(trained.directory).predict(texts)]
    free = [one.tags for one in tunesmith.load(trained.directory, constrain=False).predict(texts)]
    assert not any(faults(tags, "bio") for tags in kept) and any(faults(tags, "bio") for tags in free)
    (tmp_path / "new.txt").write_text("\n".join(texts))
    ended = run("predict", "m", "new.txt", "--no-constrain", "-o", "out.jsonl", "-q")
    assert ended.code == 0, ended.err
    assert [json.loads(line)["tags"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == free


def test_constrain_is_refused_where_it_means_nothing(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    tunesmith.train(reviews, out=tmp_path / "m", model=tiny_bert, epochs=1, progress="quiet")
    with pytest.raises(UsageError, match="constrain changes nothing in a model for classification"):
        tunesmith.load(tmp_path / "m", constrain=False)


# --- schemes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["bioes", "bmes", "bilou", "io"])
def test_other_schemes_are_recognised_and_converted(scheme: str, trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path) -> None:
    rows = [row | {"tags": convert(row["tags"], "bio", scheme)} for row in sentences(60)]
    native = tunesmith.train(rows, out=tmp_path / "a", model=tiny_bert, **QUICK)
    # entities of one and two words have no M and no I, which is all that tells BMES from BIOES
    assert native.bundle.task.scheme == {"bmes": "bioes"}.get(scheme, scheme)
    assert native.bundle.labels == sorted({tag for row in rows for tag in row["tags"]})
    changed = tunesmith.train(sentences(60), out=tmp_path / "b", model=tiny_bert, scheme=scheme, **QUICK)
    assert changed.bundle.labels == native.bundle.labels and changed.metrics == native.metrics
    if scheme != "io":  # a tagger of one scheme is tested on data in another
        assert trained.bundle.evaluate(rows)["metrics"] == trained.bundle.evaluate(sentences(60))["metrics"]


def test_iob1_is_converted_and_said(trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path, run) -> None:
    apart = [{"tokens": ["the", "cat", "dog"], "tags": ["O", "B-PET", "B-PET"]}]
    rows = [row | {"tags": convert(row["tags"], "bio", "io")} for row in sentences(60)] + [{**apart[0], "tags": ["O", "I-PET", "B-PET"]}]
    assert all(faults(row["tags"], "iob1") == [] for row in rows)
    path = write_conll(tmp_path / "old.conll", rows)
    learned = tunesmith.train(path, test=sentences(9, seed=1), out=tmp_path / "m", model=tiny_bert, **QUICK)
    assert learned.bundle.task.scheme == "bio" and any("old.conll are IOB1" in note for note in learned.result["data"]["notes"])
    same = [row | {"tags": convert(row["tags"], "io", "bio")} for row in rows[:-1]] + apart
    told, known = trained.bundle.evaluate(path), trained.bundle.evaluate(same)
    assert told["metrics"] == known["metrics"] and any("converted to BIO" in note for note in told["notes"])
    ended = run("check", path, "--model", tiny_bert)
    assert "scheme IOB1, entities: PET" in " ".join(ended.out.split()) and "break the scheme" not in ended.out


def test_tags_that_only_look_like_a_scheme_are_told(trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path, run) -> None:
    rows = [row | {"tags": [tag.replace("-", "_") for tag in row["tags"]]} for row in sentences(40)]
    path = write_conll(tmp_path / "odd.conll", rows)
    learned = tunesmith.train(path, out=tmp_path / "m", model=tiny_bert, **QUICK)
    assert learned.result["kind"] == "tags" and any("no entities are counted" in note for note in learned.result["data"]["notes"])
    ended = run("check", path, "--model", tiny_bert)
    assert "an underscore for the hyphen" in " ".join(ended.out.split())
    with pytest.raises(DataError, match="have an underscore for the hyphen, and the model knows those of the scheme BIO"):
        trained.bundle.evaluate(path)


def test_a_file_without_blank_lines_is_told(tiny_bert: Path, tmp_path: Path, run) -> None:
    path = tmp_path / "run.conll"
    path.write_text("cat B-PET\nthe O\n" * 600)
    ended = run("check", path, "--model", tiny_bert)
    assert "all 1,200 words are one sentence" in ended.out and "a blank line" in ended.out


def test_words_between_spaces_are_recognised_by_their_tags(tiny_bert: Path, tmp_path: Path, run) -> None:
    (tmp_path / "w.csv").write_text("tokens,tags\nthe cat,O B-PET\nthe dog ran,O B-PET O\n")
    assert "5 words in 2 tagged sentences; scheme BIO" in run("check", "w.csv", "--model", tiny_bert).out
    (tmp_path / "w.csv").write_text("tokens,tags\nthe cat,animal\nthe dog ran,animal\n")
    assert "tagged" not in run("check", "w.csv", "--model", tiny_bert).out


def test_a_check_tells_comments_and_other_texts(tiny_bert: Path, tmp_path: Path, run) -> None:
    sentence = "the\tO\ncat\tB-PET\n"
    (tmp_path / "c.conll").write_text(f"{sentence}\n#\tsent2\n{sentence}\n{sentence}")
    ended = run("check", "c.conll", "--model", tiny_bert)
    assert "'sent2'" in ended.out and "they are comments of two words" in ended.out
    rows = [{"text": f"quite another text {n}", "tokens": ["the", "cat"], "tags": ["O", "B-PET"]} for n in range(3)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = run("check", "t.jsonl", "--model", tiny_bert)
    assert "3 rows have words that do not stand in the text beside them" in ended.out, ended.out


def test_a_check_says_that_tags_are_of_words(tiny_bert: Path, tmp_path: Path, run) -> None:
    path = write_conll(tmp_path / "t.conll", sentences(30))
    assert "Labels: 3 in column 'tags', one for each word; rows that have each" in run("check", path, "--model", tiny_bert).out


def test_a_file_without_tags_is_told(tiny_bert: Path, tmp_path: Path, run) -> None:
    (tmp_path / "bare.conll").write_text("the\ncat\n\nran\n")
    assert "cannot tell which column is the label" in run("check", "bare.conll", "--model", tiny_bert).err


def test_a_walk_of_a_long_sentence_is_cut(trained: tunesmith.TrainResult, tmp_path: Path, run) -> None:
    (tmp_path / "long.conll").write_text("cat B-PET\nthe O\n" * 500)
    ended = run("walk", "long.conll", "--row", 1, "--model", trained.directory)
    assert ended.code == 0 and "'O' and 940 more" in ended.out and max(map(len, ended.out.splitlines())) < 1000, ended.err


def test_the_report_counts_words_and_entities(tiny_bert: Path, tmp_path: Path) -> None:
    trained = tunesmith.train(sentences(40), out=tmp_path / "m", model=tiny_bert, **QUICK)
    card, page = ((trained.directory / name).read_text(encoding="utf-8") for name in ("README.md", "report.html"))
    assert "| Label | Precision | Recall | F1 | Entities |" in card
    assert card.split("---")[1].count("- token-classification\n") == 1
    assert 'id="pairs"' in page and '<th scope="col" class="n">Words</th>' in page


def test_plain_tags(tiny_bert: Path, tmp_path: Path) -> None:
    names = {"B-PET": "X", "I-PET": "NOUN", "O": "-LRB-"}
    rows = [{"tokens": row["tokens"], "upos": [names[tag] for tag in row["tags"]]} for row in sentences(150)]
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, **SETTINGS)
    assert trained.result["kind"] == "tags" and set(trained.metrics) == {"accuracy", "f1_macro"} and trained.metrics["accuracy"] > 0.9
    assert trained.result["metric"] == "accuracy"
    found = trained.bundle.predict("the cat!")
    assert [(span.start, span.end, span.text) for span in found.spans] == [(0, 3, "the"), (4, 7, "cat"), (7, 8, "!")]
    plain = tunesmith.train(sentences(40), out=tmp_path / "n", model=tiny_bert, scheme="none", **QUICK)
    assert plain.result["kind"] == "tags" and plain.bundle.task.scheme is None


def test_texts_with_spans(tiny_bert: Path, tmp_path: Path) -> None:
    rows = []
    for row in sentences(60):
        text, spans, at = "", [], 0
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            if tag == "B-PET":
                spans.append({"start": at, "end": at + len(word), "label": "PET"})
            elif tag == "I-PET":
                spans[-1]["end"] = at + len(word)
            text += word + " "
            at = len(text)
        rows.append({"text": text, "spans": spans})
    assert any(not row["spans"] for row in rows)
    given = tunesmith.train(rows, out=tmp_path / "a", model=tiny_bert, **QUICK)
    lists = tunesmith.train(sentences(60), out=tmp_path / "b", model=tiny_bert, **QUICK)
    assert given.metrics == lists.metrics
    with pytest.raises(DataError, match=r"tagged.jsonl:2: the span 'at' begins or ends inside a word \('cat'\)"):
        path = tmp_path / "tagged.jsonl"
        path.write_text(json.dumps(rows[0]) + '\n{"text": "a cat", "spans": [{"start": 3, "end": 5, "label": "PET"}]}\n')
        tunesmith.train(path, out=tmp_path / "c", model=tiny_bert, **QUICK)


def test_what_breaks_the_scheme_is_named_with_its_place(tiny_bert: Path, tmp_path: Path, run) -> None:
    rows = sentences(40)
    rows[3] = {"tokens": ["the", "cat", "and"], "tags": ["O", "I-PET", "O"]}
    path = write_conll(tmp_path / "odd.conll", rows)
    line = path.read_text().splitlines().index("the\tO", sum(len(row["tokens"]) + 1 for row in rows[:3])) + 1
    trained = tunesmith.train(path, test=sentences(9, seed=1), out=tmp_path / "m", model=tiny_bert, **QUICK)
    place = f"odd.conll:{line}: word 2 (I-PET after O)"
    assert any("1 tag in 1 sentence" in note and place in note for note in trained.result["data"]["notes"])
    ended = run("check", path, "--model", tiny_bert)
    assert ended.code == 0 and f"odd.conll:{line}: word 2" in " ".join(ended.out.split())
    found = trained.bundle.evaluate(path)
    assert any(place in note and "strict metrics" in note for note in found["notes"])


def test_a_tag_that_no_training_row_has_counts_as_wrong_and_is_told(trained: tunesmith.TrainResult) -> None:
    rows = sentences(20, seed=11)
    before = trained.bundle.evaluate(rows)
    rows[4] = {"tokens": ["the", "mouse"], "tags": ["O", "B-MICE"]}
    rows[5] = {"tokens": ["the", "tree"], "tags": ["O", "X"]}
    found = trained.bundle.evaluate(rows[:5] + rows[6:])
    assert before["metrics"]["accuracy"] == 1.0 > found["metrics"]["accuracy"]
    assert found["metrics"]["recall_strict"] < 1 and {row["label"]: row["recall"] for row in found["per_label"]}["MICE"] == 0.0
    assert any("1 word of" in note and "'B-MICE'" in note and ":5: word 2" in note for note in found["notes"])
    told = trained.bundle.evaluate(rows)["notes"]
    assert any("'X'" in note for note in told)
    with pytest.raises(DataError, match=r"none of the tags .* is one that was learned"):
        trained.bundle.evaluate([{"tokens": ["a"], "tags": ["NOUN"]}])


def test_bad_data_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    options = {**QUICK, "model": tiny_bert, "out": tmp_path / "m"}
    rows = sentences(20)
    with pytest.raises(DataError, match=r"1 tag for 2 words"):
        tunesmith.train([*rows, {"tokens": ["a", "b"], "tags": ["O"]}], **options)
    with pytest.raises(DataError, match="tag '0' is neither O nor like B-PER"):
        tunesmith.train([*rows, {"tokens": ["a"], "tags": ["0"]}], **options)
    with pytest.raises(DataError, match="too few tags: 'O'"):
        tunesmith.train([{"tokens": ["a"], "tags": ["O"]}] * 9, **options)
    with pytest.raises(DataError, match="no tag is like B-PER"):
        tunesmith.train([{"tokens": ["a", "b"], "tags": ["X", "Y"]}] * 9, scheme="bio", **options)
    with pytest.raises(UsageError, match="truncation tail drops words"):
        tunesmith.train(rows, truncation="tail", **options)
    with pytest.raises(UsageError, match="loss means nothing for tagging"):
        tunesmith.train(rows, loss="focal", **options)
    with pytest.raises(UsageError, match="f1_strict"):
        tunesmith.train(rows, metric="f1_micro", **options)
    with pytest.raises(DataError, match="no label"):
        tunesmith.train([*rows, {"tokens": ["a"], "tags": None}], **options)


def test_sentence_context_of_the_same_document(tiny_bert: Path, tmp_path: Path, run) -> None:
    """A word whose tag only the sentence before it tells."""
    lines = []
    generator = random.Random(0)
    for i in range(80):
        colour = i % 2 == 0
        first = generator.choice(tiny.COLOURS if colour else tiny.ANIMALS)
        lines += ["# newdoc", f"{first}\tO", "", f"x\t{'B-A' if colour else 'B-B'}", ""]
    path = tmp_path / "documents.conll"
    path.write_text("\n".join(lines) + "\n")
    options = {
        **SETTINGS,
        "epochs": 30,
        "lr": 3e-3,
        "model": tiny_bert,
        "test": path,
        "valid_size": 0.0,
    }  # few texts, all alike, do not split
    blind = tunesmith.train(path, out=tmp_path / "blind", **options)
    seeing = tunesmith.train(path, out=tmp_path / "seeing", context=8, **options)
    assert blind.metrics["f1_strict"] < 0.8 < seeing.metrics["f1_strict"] == 1.0
    model = tunesmith.load(seeing.directory)
    rows = [
        {"document": "a", "tokens": ["red"]}, {"document": "a", "tokens": ["x"]}, {"document": "b", "tokens": ["cat"]},
        {"document": "b", "tokens": ["x"]},
    ]  # fmt: skip
    found = model.predict(rows)
    assert [one.tags for one in found] == [["O"], ["B-A"], ["O"], ["B-B"]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = run("predict", "seeing", "rows.jsonl")
    assert [json.loads(line)["tags"] for line in ended.out.splitlines()] == [one.tags for one in found]
    assert model.evaluate(path)["metrics"]["f1_strict"] == 1.0 and len(model.predict("x").tags) == 1
    ended = run("walk", path, "--row", 2, "--model", "seeing")
    assert ended.code == 0 and "x: B-A" in ended.out
    with pytest.raises(DataError, match="nothing says where one begins"):
        tunesmith.train(sentences(9), out=tmp_path / "n", context=8, **QUICK)
    with pytest.raises(UsageError, match="context means nothing for classification"):
        tunesmith.train(tiny.rows(20), out=tmp_path / "n", context=8, **QUICK)


# --- edge cases ------------------------------------------------------------------------------------------------------------


def test_three_thousand_words_one_word_and_none(trained: tunesmith.TrainResult, tiny_bert: Path, tmp_path: Path) -> None:
    long = sentences(900, seed=2)
    words = [word for row in long for word in row["tokens"]][:3000]
    tags = [tag for row in long for tag in row["tags"]][:3000]
    rows = [{"tokens": words, "tags": tags}, {"tokens": ["cat"], "tags": ["B-PET"]}, {"tokens": [], "tags": []}]
    found = trained.bundle.predict(rows)
    assert [len(one.tags) for one in found] == [3000, 1, 0] and found[1].tags == ["B-PET"] and found[2].spans == []
    assert np.mean([a == b for a, b in zip(found[0].tags, tags, strict=True)]) > 0.99
    assert trained.bundle.evaluate(rows[:2])["account"]["words"] == 3001
    assert trained.bundle.evaluate(rows)["rows"] == 3
    again = tunesmith.train([*sentences(30), *rows], out=tmp_path / "m", model=tiny_bert, **QUICK)
    assert all(again.result["data"]["splits"][name]["account"]["tokens_lost"] == 0 for name in ("train", "valid", "test"))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
def test_odd_texts_slice_exactly(architecture: str, trained: tunesmith.TrainResult, tmp_path: Path) -> None:
    model = trained.bundle
    if architecture != "bert":
        encoder = tiny.save_encoder(tmp_path / "encoder", architecture)
        model = tunesmith.train(sentences(24), out=tmp_path / "m", model=encoder, **QUICK).bundle
    texts = [
        "red cat 👩‍👩‍👧 dog 😀",
        "我爱北京天安门",
        "قطة حمراء red cat",
        "cafe\u0301 e\u0301 cat",
        "שָׁלוֹם",
        "\u200b",
        "",
        " \n ",
        "x" * 500,
        "a\u0301" * 99,
    ]
    for text, found in zip(texts, model.predict(texts), strict=True):
        assert len(found.tags) == len(found.words)
        assert all(text[span.start : span.end] == span.text != "" for span in found.spans)
    assert model.predict(texts[1]).words == list(texts[1])
    given = model.predict([{"tokens": ["我", "爱", "北", "京"]}, {"tokens": ["a", "", "\u0301", "b"]}])
    assert [len(one.tags) for one in given] == [4, 4]


def test_the_task_is_kept_whole() -> None:
    task = Tagging(["B-X", "O"], "bio", False)
    assert Tagging.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_other_tables_are_not_taken_for_tagged_ones(tmp_path: Path) -> None:
    from tunesmith.config import Config
    from tunesmith.data.memory import open_data
    from tunesmith.data.schema import choose_task

    def chosen(rows: Any, label: str | None = None) -> str:
        return choose_task(open_data(rows), Config(label=label))

    assert chosen([{"text": "a", "tags": ["x", "y"]}]) == "classification"
    assert chosen([{"text": "a", "label": "x"}]) == "classification"
    assert chosen([{"tokens": 12, "label": "x"}]) == "classification"
    assert chosen(sentences(3)) == "tagging" and chosen([{"words": ["a"], "ner": ["O"]}], "ner") == "tagging"
    assert chosen([{"text": "a", "spans": []}]) == "tagging"
