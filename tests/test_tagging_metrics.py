"""Metrics of tagging equal seqeval's and scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2, IOBES
from sklearn.metrics import accuracy_score, classification_report, f1_score

from tunesmith import tagging_metrics as ours
from tunesmith.data.schemes import default_entities, strict_entities

Corpus = tuple[list[list[str]], list[list[str]]]


def corpora(letters: str) -> st.SearchStrategy[Corpus]:
    tag = st.sampled_from(["O", *(f"{letter}-{label}" for letter in letters for label in ("PER", "LOC"))])
    sentence = st.integers(0, 6).flatmap(lambda n: st.tuples(st.lists(tag, min_size=n, max_size=n), st.lists(tag, min_size=n, max_size=n)))
    return st.lists(sentence, min_size=1, max_size=5).map(lambda rows: ([one for one, _ in rows], [two for _, two in rows]))


@pytest.mark.parametrize(("scheme", "letters", "theirs"), [("bio", "BI", IOB2), ("bioes", "BIES", IOBES)])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_strict_and_default_are_seqevals(scheme: str, letters: str, theirs: type, data: st.DataObject) -> None:
    gold, predicted = data.draw(corpora(letters))
    readings = {
        "strict": ([strict_entities(tags, scheme) for tags in part] for part in (gold, predicted)),
        "default": ([default_entities(tags) for tags in part] for part in (gold, predicted)),
    }
    for mode, parts in readings.items():
        one, two = parts
        if not any(one) and not any(two):
            continue
        found = ours.span_scores(ours.entity_counts(one, two), mode)
        options = {"mode": "strict", "scheme": theirs} if mode == "strict" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, score in (("f1", seqeval.f1_score), ("precision", seqeval.precision_score), ("recall", seqeval.recall_score)):
                assert found[f"{name}_{mode}"] == pytest.approx(score(gold, predicted, zero_division=0, **options))
            report = seqeval.classification_report(gold, predicted, output_dict=True, zero_division=0, **options)
        for row in ours.per_type(one, two):
            their = report[row["label"]]
            assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(
                [their["precision"], their["recall"], their["f1-score"], their["support"]]
            )


def test_the_lenient_mode_is_not_the_strict_one() -> None:
    gold, predicted = [["B-PER", "I-PER"]], [["I-PER", "I-PER"]]
    default = ours.entity_counts([default_entities(gold[0])], [default_entities(predicted[0])])
    strict = ours.entity_counts([strict_entities(gold[0], "bio")], [strict_entities(predicted[0], "bio")])
    assert ours.span_scores(default, "default")["f1_default"] == 1.0 == seqeval.f1_score(gold, predicted)
    assert ours.span_scores(strict, "strict")["f1_strict"] == 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20))
def test_words_are_scored_as_scikit_learn_does(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.array(pairs).T
    counts = ours.word_counts([gold.tolist()], [predicted.tolist()])
    assert ours.accuracy(counts) == pytest.approx(accuracy_score(gold, predicted))
    assert ours.f1_macro(gold, predicted) == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0))
    report = classification_report(gold, predicted, output_dict=True, zero_division=0)
    for row in ours.per_tag(gold, predicted, [str(i) for i in range(5)]):
        their = report[row["label"]]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx([their["precision"], their["recall"], their["f1-score"]])


def test_intervals_hold_the_value_and_are_those_of_resampled_sentences() -> None:
    rng = np.random.default_rng(0)
    words = np.stack([rng.integers(0, 10, 80), np.full(80, 10)], 1)
    counts = rng.integers(0, 4, (80, 3))
    counts[:, 0] = np.minimum(counts[:, 1], counts[:, 2])
    tags = rng.integers(0, 3, 800), rng.integers(0, 3, 800)
    found = ours.intervals({"strict": counts}, words, tags, seed=1)
    assert found == ours.intervals({"strict": counts}, words, tags, seed=1)
    assert set(found) == {"f1_strict", "precision_strict", "recall_strict", "accuracy", "f1_macro"}
    assert found["accuracy"][0] < ours.accuracy(words) < found["accuracy"][1]
    drawn = [ours.span_scores(counts[rng.integers(0, 80, 80)], "strict")["f1_strict"] for _ in range(2000)]
    np.testing.assert_allclose(found["f1_strict"], np.percentile(drawn, [2.5, 97.5]), atol=0.01)
    macro = [
        ours.f1_macro(*(part.reshape(80, 10)[rows].ravel() for part in tags)) for rows in (rng.integers(0, 80, 80) for _ in range(600))
    ]
    np.testing.assert_allclose(found["f1_macro"], np.percentile(macro, [2.5, 97.5]), atol=0.01)
    assert ours.intervals({}, np.array([[3, 3], [2, 2]]), None, seed=0) == {}


def test_nothing_to_find_and_nothing_found() -> None:
    assert ours.span_scores(ours.entity_counts([[]], [[]]), "strict") == {"f1_strict": 0.0, "precision_strict": 0.0, "recall_strict": 0.0}
    assert ours.accuracy(ours.word_counts([[]], [[]])) == 0.0
    assert ours.f1_macro(np.zeros(0, int), np.zeros(0, int)) == 0.0
