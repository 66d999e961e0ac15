"""Yardsticks: they learn, they are fair, and nothing in the data makes them fail."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tunesmith import metrics, yardsticks
from tunesmith.yardsticks import scored, unspaced


def rows(count, seed):
    rng = np.random.default_rng(seed)
    words = [["good", "fine", "great"], ["bad", "poor", "awful"], ["plain", "so so", "average"]]
    targets = rng.integers(0, 3, count)
    texts = [f"the film was {words[t][rng.integers(3)]} number {rng.integers(50)}" for t in targets]
    return texts, targets


LABELS = ["negative", "neutral", "positive"]


def both(*arguments, **options):
    train, targets, test, *rest = arguments
    majority, tfidf = yardsticks.yardsticks([(text,) for text in train], targets, [(text,) for text in test], *rest, **options)
    assert (majority["name"], tfidf["name"]) == ("majority class", "TF-IDF + logistic regression")
    return majority, tfidf


def test_single_label():
    train, targets = rows(120, 0)
    test, gold = rows(60, 1)
    majority, tfidf = both(train, targets, test, LABELS, "single", 0)
    share = np.bincount(targets, minlength=3) / 120
    assert majority["probabilities"] == pytest.approx(np.tile(share, (60, 1)))
    assert f"always “{LABELS[share.argmax()]}”, the label of" in majority["note"]
    assert tfidf["probabilities"].shape == (60, 3)
    assert tfidf["probabilities"].sum(1) == pytest.approx(np.ones(60))
    assert (tfidf["probabilities"].argmax(1) == gold).all()
    assert "words and word pairs" in tfidf["note"]
    again = both(train, targets, test, LABELS, "single", 0)[1]
    assert (again["probabilities"] == tfidf["probabilities"]).all()


def test_two_classes_give_probabilities_of_both():
    train, targets = rows(90, 0)
    keep = targets < 2
    texts = [text for text, kept in zip(train, keep, strict=True) if kept]
    tfidf = both(texts, targets[keep], texts, LABELS[:2], "single", 0)[1]
    assert (tfidf["probabilities"].argmax(1) == targets[keep]).all()


def test_a_class_without_training_rows_has_probability_zero():
    train, targets = rows(60, 0)
    majority, tfidf = both(train, targets, ["the film was good"], [*LABELS, "unseen"], "single", 0)
    assert tfidf["probabilities"].shape == (1, 4) and tfidf["probabilities"][0, 3] == 0
    assert majority["probabilities"][0, 3] == 0


@pytest.mark.parametrize("tune", [False, True])
def test_multi_label(tune):
    train, targets = rows(120, 0)
    test, gold = rows(60, 1)
    always = np.ones((120, 1), bool)
    truth = np.hstack([np.eye(3, dtype=bool)[targets], always, ~always])
    majority, tfidf = both(train, truth, test, [*LABELS, "always", "never"], "multi", 0, tune=tune)
    assert majority["probabilities"][0] == pytest.approx(truth.mean(0))
    assert "predicts always" in majority["note"]
    assert (tfidf["probabilities"][:, 3] == 1).all() and (tfidf["probabilities"][:, 4] == 0).all()
    predicted = metrics.predicted_labels(tfidf["probabilities"], "multi", tfidf["thresholds"])
    assert (predicted[:, :3] == np.eye(3, dtype=bool)[gold]).all()
    assert (tfidf["thresholds"] is not None) == tune == ("held-out fifth" in tfidf["note"])
    results = scored(
        [majority, tfidf], np.hstack([np.eye(3, dtype=bool)[gold], always[:60], ~always[:60]]), [*LABELS, "a", "n"], "multi", 0
    )
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results[1]["metrics"]["f1_macro"] == pytest.approx(0.8)  # the label that nobody has counts as 0


def test_texts_without_spaces_are_cut_into_characters():
    texts, targets = ["房间很干净，服务好", "房间太差，服务不好"] * 10, np.array([1, 0] * 10)
    tfidf = both(texts, targets, ["真干净", "太差了"], ["差", "好"], "single", 0)[1]
    assert "characters" in tfidf["note"]
    assert tfidf["probabilities"].argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这家酒店的 iPhone 充电器坏了", True),
        ("とても良いホテルでした", True),
        ("โรงแรมนี้ดีมาก", True),
        ("បន្ទប់ស្អាតណាស់", True),
        ("방이 아주 깨끗했어요", False),
        ("номер очень чистый", False),
        ("الغرفة نظيفة جدا", False),
        ("कमरा बहुत साफ था", False),
        ("The hotel 北京 was clean and quiet all week", False),
        ("", False),
        ("123 !!!", False),
    ],
)
def test_script_decides(text, expected):
    assert unspaced([text] * 3) == expected
    assert unspaced([]) is False


def test_words_of_indic_scripts_stay_whole():
    import re

    assert re.findall(yardsticks._WORD, "कमरा बहुत साफ था। don't (stop)، نعم") == ["कमरा", "बहुत", "साफ", "था", "don", "t", "stop", "نعم"]


@pytest.mark.parametrize(
    ("texts", "targets", "kind", "reason"),
    [
        (["a b", "c d"], np.array([1, 1]), "single", "no label occurs in some"),
        (["...", "!"], np.array([0, 1]), "single", "no words"),
        (["", ""], np.array([0, 1]), "single", "no words"),
        ([], np.zeros(0, int), "single", "no label"),
        (["a", "b"], np.ones((2, 2), bool), "multi", "no label occurs in some"),
        ([None, 3], np.array([0, 1]), "single", "TypeError"),
    ],
)
def test_what_cannot_be_computed_is_skipped_with_a_note(texts, targets, kind, reason):
    found = both(texts, targets, ["a", ""], ["x", "y"], kind, 0)
    assert found[1]["probabilities"] is None
    assert "skipped" in found[1]["note"] and reason in found[1]["note"]
    gold = np.array([0, 1]) if kind == "single" else np.ones((2, 2), bool)
    results = scored(found, gold, ["x", "y"], kind, 0)
    assert results[1]["metrics"] == {} and results[1]["intervals"] == {}
    assert json.dumps(results, allow_nan=False)


def test_much_text_is_sampled(monkeypatch):
    train, targets = rows(200, 0)
    monkeypatch.setattr(yardsticks, "_MAX_CHARACTERS", 3000)
    tfidf = both(train, targets, train, LABELS, "single", 0)[1]
    assert "of the 200 training rows, drawn at random" in tfidf["note"]
    assert (tfidf["probabilities"].argmax(1) == targets).mean() > 0.9
