"""Pairs of texts: two columns in, one sequence with the encoder's own separators and segments, the same everywhere."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import tunesmith
from tunesmith.errors import DataError, UsageError

LABELS = ("animal", "colour")


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows whose label is what their second text is about; the first is about either."""
    first, second = tiny.rows(count, seed=seed, labels=LABELS), tiny.rows(count, seed=seed + 100, labels=LABELS)
    random.Random(seed).shuffle(first)
    return [{"premise": a["text"], "hypothesis": b["text"], "label": b["label"]} for a, b in zip(first, second, strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("pairs") / "pairs.csv", pairs(160))


@pytest.fixture(scope="module")
def trained(data: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.TrainResult:
    out = tmp_path_factory.mktemp("pair-model") / "m"
    settings = {"epochs": 10, "lr": 5e-3, "batch_size": 8, "max_length": 48, "precision": "fp32"}
    return tunesmith.train(data, out=out, model=tiny_bert, progress="quiet", **settings)


def test_learns_which_text_is_which(trained: tunesmith.TrainResult) -> None:
    assert trained.metrics["accuracy"] == 1.0
    assert trained.result["data"]["columns"] == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    texts = {row["label"]: row["text"] for row in tiny.rows(20, seed=7, labels=LABELS)}
    assert trained.bundle.predict((texts["animal"], texts["colour"])).label == "colour"
    assert trained.bundle.predict((texts["colour"], texts["animal"])).label == "animal"


def test_every_form_of_pairs_gives_the_same(trained: tunesmith.TrainResult, tmp_path: Path) -> None:
    rows = pairs(9, seed=5)
    model = tunesmith.load(trained.directory)
    tuples = model.predict([(row["premise"], row["hypothesis"]) for row in rows])
    path = tiny.write_csv(tmp_path / "new.csv", rows)
    for found in (
        model.predict(rows),
        model.predict(path),
        model.predict([[row["premise"], row["hypothesis"]] for row in rows]),
        model.predict({"a": [row["premise"] for row in rows], "b": [row["hypothesis"] for row in rows]}, text="a", text_pair="b"),
    ):
        assert found == tuples
    assert model.predict(tuple(rows[0][name] for name in ("premise", "hypothesis"))).label == tuples[0].label


def test_the_directory_says_the_same_in_transformers(trained: tunesmith.TrainResult) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    rows = pairs(6, seed=8)
    ours = np.array([list(p.probabilities.values()) for p in trained.bundle.predict(rows)])
    tokenizer = AutoTokenizer.from_pretrained(trained.directory)
    model = AutoModelForSequenceClassification.from_pretrained(trained.directory).eval()
    inputs = tokenizer([row["premise"] for row in rows], [row["hypothesis"] for row in rows], padding=True, return_tensors="pt")
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        theirs = torch.softmax(model(**inputs).logits, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    classify = pipeline("text-classification", str(trained.directory))
    found = classify([{"text": row["premise"], "text_pair": row["hypothesis"]} for row in rows])
    assert [one["label"] for one in found] == [one.label for one in trained.bundle.predict(rows)]


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "electra", "mpnet", "gpt2"])
def test_encoders_without_segments_take_pairs_too(architecture: str, tmp_path: Path) -> None:
    encoder = tiny.save_encoder(tmp_path / "encoder", architecture)
    rows = pairs(24, seed=3)
    settings = {"epochs": 1, "max_length": 48, "valid_size": 0.0, "test_size": 0.0}
    trained = tunesmith.train(rows, out=tmp_path / "m", model=encoder, progress="quiet", **settings)
    found = tunesmith.load(tmp_path / "m").predict(rows)
    assert [one.probability for one in found] == [one.probability for one in trained.bundle.predict(rows)]


def test_truncation_takes_from_the_longer_side_and_is_counted(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "hypothesis": row["hypothesis"] + " the red dog" * 20} for row in pairs(40)]
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, epochs=1, max_length=24, progress="quiet")
    account = trained.result["data"]["splits"]["train"]["account"]
    assert account["rows_truncated"] == account["rows_used"] and account["tokens_lost"] > 0
    encoded = trained.bundle.encoder.encode([(rows[0]["premise"], rows[0]["hypothesis"])], offsets=True)[0]
    whole = trained.bundle.encoder.count([rows[0]["premise"]])[0]
    assert len(encoded.sequences[0]) == 24 and encoded.borders[0] == whole + 2


def test_windows_go_through_the_longer_text(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "hypothesis": row["hypothesis"] + " the red dog" * 20} for row in pairs(40)]
    settings = {"epochs": 1, "max_length": 32, "truncation": "windows", "stride": 4}
    trained = tunesmith.train(rows, out=tmp_path / "m", model=tiny_bert, progress="quiet", **settings)
    account = trained.result["data"]["splits"]["test"]["account"]
    assert account["tokens_lost"] == 0 and account["windows"] > account["rows_used"]


def test_from_the_command_line(data: Path, tiny_bert: Path, tmp_path: Path, run) -> None:
    ended = run("train", data, "--model", tiny_bert, "--epochs", 1, "--max-length", 48, "--out", "m")
    assert ended.code == 0, ended.err
    assert "texts 'premise' and 'hypothesis', label 'label'" in ended.err
    ended = run("predict", "m", data, "-o", "out.jsonl")
    assert ended.code == 0, ended.err
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert list(first) == ["premise", "hypothesis", "label", "predicted_label", "probability", "probabilities"]
    ended = run("evaluate", "m", data, "--json")
    assert ended.code == 0 and json.loads(ended.out)["rows"] == 160
    ended = run("check", data, "--model", tiny_bert)
    assert ended.code == 0 and "premise and hypothesis" in ended.out
    ended = run("walk", data, "--row", 3, "--model", "m")
    assert ended.code == 0, ended.err
    assert ended.out.count("text:") == 2 and "segment" in ended.out


def test_an_odd_pair_of_columns_is_named_by_flags(tiny_bert: Path, tmp_path: Path, run) -> None:
    with (tmp_path / "odd.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["left", "right", "verdict"])
        writer.writerows([row["premise"], row["hypothesis"], row["label"]] for row in pairs(40))
    ended = run("train", "odd.csv", "--task", "pair", "--text", "left", "--label", "verdict", "--model", tiny_bert, "--epochs", 1)
    assert ended.code == 0 and "'left' and 'right'" in ended.err, ended.err
    ended = run("train", "odd.csv", "--task", "pair", "--label", "verdict", "--model", tiny_bert)
    assert ended.code == 3 and "cannot tell which column is the text" in ended.err
    ended = run("train", "odd.csv", "--task", "classification", "--text", "left", "--text-pair", "right", "--model", tiny_bert)
    assert ended.code == 2 and "--text-pair names a second text" in ended.err
    ended = run("train", "odd.csv", "--text", "left", "--text-pair", "left", "--label", "verdict", "--model", tiny_bert)
    assert ended.code == 2 and "name the same column 'left'" in ended.err


def test_task_classification_takes_one_text_of_a_pair(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    settings = {"out": tmp_path / "m", "model": tiny_bert, "epochs": 1, "progress": "quiet"}
    trained = tunesmith.train(data, task="classification", text="hypothesis", **settings)
    assert "text_pair" not in trained.result["data"]["columns"]


def test_pairs_where_single_texts_are_judged_and_the_other_way_round(
    trained: tunesmith.TrainResult, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="takes pairs of texts: pass"):
        trained.bundle.predict(["one", "two", "three"])
    with pytest.raises(DataError, match="second text of the pair"):
        trained.bundle.predict({"premise": ["a"], "other": ["b"], "third": ["c"]})
    single = tunesmith.train(reviews, out=tmp_path / "m", model=tiny_bert, epochs=1, progress="quiet").bundle
    with pytest.raises(DataError, match="takes single texts: pass"):
        single.predict([("a", "b")])
    with pytest.raises(UsageError, match="names a second text, but this model"):
        single.predict({"text": ["a"], "b": ["c"]}, text_pair="b")


def test_edge_cases_of_pairs(trained: tunesmith.TrainResult) -> None:
    odd = [("", ""), ("a cat", ""), ("", "a cat"), ("a cat", "a cat"), ("the " * 500, "dog"), ("قطة سوداء", "cafe\u0301 🐈")]
    found = trained.bundle.predict(odd)
    assert all(one.label in LABELS and 0 <= one.probability <= 1 for one in found)
    alone = [trained.bundle.predict(pair) for pair in odd]
    assert [one.label for one in found] == [one.label for one in alone]
    np.testing.assert_allclose([one.probability for one in found], [one.probability for one in alone], atol=1e-5)


def test_the_estimator_takes_pairs(tiny_bert: Path) -> None:
    import pandas as pd

    rows = pairs(48, seed=2)
    X, y = [(row["premise"], row["hypothesis"]) for row in rows], [row["label"] for row in rows]
    classifier = tunesmith.TextClassifier(str(tiny_bert), epochs=1, max_length=48).fit(X, y)
    frame = pd.DataFrame(rows)[["premise", "hypothesis"]]
    np.testing.assert_array_equal(classifier.predict_proba(X), classifier.predict_proba(frame))
    with pytest.raises(ValueError, match="it has 1 text columns, but fit was given 2"):
        classifier.predict(["one"])
