"""What simple methods answer without any training of an encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tunesmith.data.schema import Example
from tunesmith.qa_metrics import Match, averages, score_intervals, scores
from tunesmith.seeds import seed_for

_SENTENCE = re.compile(r"[^.!?。！？؟\n]*[.!?。！？؟\n]*[\"'”’»」』)]*\s*")


def simple_answers(train: list[Example], test: list[Example], golds: list[list[str]], match: Match) -> list[dict[str, Any]]:
    """Return name, note, metrics and intervals of two methods: the nearest sentence, and for data like SQuAD 2.0 never an answer."""
    found = [_measured("nearest sentence", lambda: nearest_sentences(train, test, match), golds, match)]
    if not all(golds):
        found.append(_measured("never an answer", lambda: [""] * len(golds), golds, match, "says that no passage has an answer"))
    return found


def nearest_sentences(train: Sequence[Example], test: Sequence[Example], match: Match) -> list[str]:
    """Return the sentence of each passage whose TF-IDF vector is nearest to the question's, the first of equals."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    how: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 2)} if match == "characters" else {"token_pattern": r"(?u)\b\w+\b"}
    vectors = TfidfVectorizer(sublinear_tf=True, **how).fit([text for example in (*train, *test) for text in example.texts])
    answers = []
    cut: dict[str, tuple[list[str], Any]] = {}
    for example in test:
        question, passage = example.texts
        if passage not in cut:
            cut.clear()  # questions on one passage stand together
            sentences = [sentence for piece in _SENTENCE.findall(passage) if (sentence := piece.strip())] or [passage]
            cut[passage] = sentences, vectors.transform(sentences)
        sentences, known = cut[passage]
        nearness = (known @ vectors.transform([question]).T).toarray()[:, 0]
        answers.append(sentences[int(np.argmax(nearness))])
    return answers


def _measured(name: str, compute: Callable[[], list[str]], golds: list[list[str]], match: Match, note: str = "") -> dict[str, Any]:
    """Return name, note, metrics and intervals; never raises."""
    result: dict[str, Any] = {"name": name, "note": note, "metrics": {}, "intervals": {}}
    try:
        each, has = scores(compute(), golds, match), np.array([bool(gold) for gold in golds])
        result["metrics"] = averages(each, has)
        result["intervals"] = score_intervals(each, has, seed=seed_for(0, "bootstrap"))
        result["note"] = note or "the sentence of the passage whose TF-IDF vector is nearest to the question's; nothing is trained"
    except Exception as error:  # whatever goes wrong here, the trained model must still be saved
        result["note"] = f"skipped: {type(error).__name__}: {error}"
    return result
