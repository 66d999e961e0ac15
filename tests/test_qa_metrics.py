"""Scores of answers: equal to independent implementations on random strings; thresholds and intervals against brute force."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.qa_metrics import averages, best_threshold, by_characters, by_words, mixed_pieces, normalised, score_intervals, scores

WORDS = [
    *("the", "a", "an", "The", "cat", "Cat.", "cat's", "dog", "1,000", "U.S.", "-", "...", "north-west", "éclair", "Ünder", "\t"),
    *("  ", "anthem"),
]
CHINESE = [*"北京上海的人在一二三", "abc", "de", "3.5", "12", " ", "，", "。", "《", "》", "-", "_", "a", "B"]


def drawn(generator: random.Random, words: Sequence[str], most: int = 6, joint: str = " ") -> str:
    return joint.join(generator.choice(words) for _ in range(generator.randint(0, most)))


def test_squad_1_1_equals_torchmetrics_on_random_strings() -> None:
    from torchmetrics.text import SQuAD

    generator = random.Random(0)

    def text() -> str:
        # of answers without any word torchmetrics says what evaluate-v2.0.py does, not evaluate-v1.1.py
        while not normalised(found := drawn(generator, WORDS)):
            pass
        return found

    for _ in range(40):
        rows = [(text(), [text() for _ in range(generator.randint(1, 4))]) for _ in range(20)]
        theirs = SQuAD()(
            [{"id": str(i), "prediction_text": one} for i, (one, _) in enumerate(rows)],
            [{"id": str(i), "answers": {"text": golds, "answer_start": [0] * len(golds)}} for i, (_, golds) in enumerate(rows)],
        )
        each = np.array([by_words(one, golds) for one, golds in rows])
        assert each.mean(0) * 100 == pytest.approx([float(theirs["exact_match"]), float(theirs["f1"])], abs=1e-3)


def official_2_0(prediction: str, golds: list[str]) -> tuple[int, float]:
    """Per question as evaluate-v2.0.py says it: written anew, from lists instead of counters and with another normaliser."""

    def tokens(text: str) -> list[str]:
        bare = "".join(character for character in text.lower() if character not in string.punctuation)
        return re.sub(r"(?<!\w)(?:a|an|the)(?!\w)", " ", bare).split()

    def f1(gold: list[str], found: list[str]) -> float:
        if not gold or not found:
            return float(gold == found)
        left, same = list(gold), 0
        for word in found:
            if word in left:
                left.remove(word)
                same += 1
        if not same:
            return 0.0
        precision, recall = same / len(found), same / len(gold)
        return 2 * precision * recall / (precision + recall)

    wanted = [found for gold in golds if (found := tokens(gold))] or [[]]
    return max(int(gold == tokens(prediction)) for gold in wanted), max(f1(gold, tokens(prediction)) for gold in wanted)


def test_squad_2_0_equals_the_rule_written_anew_on_random_strings() -> None:
    generator = random.Random(1)
    for _ in range(3000):
        one, golds = drawn(generator, WORDS, 4), [drawn(generator, WORDS, 4) for _ in range(generator.randint(0, 3))]
        assert by_words(one, golds, unanswerable=True) == pytest.approx(official_2_0(one, golds)), (one, golds)


def official_cmrc(prediction: str, golds: list[str]) -> tuple[float, float]:
    """Per question as cmrc2018_evaluate.py says it: written anew, with all runs compared instead of a table of lengths."""
    marks = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"

    def bare(text: str) -> str:
        return "".join(character for character in text.lower().strip() if character not in marks)

    def pieces(text: str) -> list[str]:
        found: list[str] = []
        for run in re.findall("[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", bare(text)):
            found += run.split()
        return found

    def f1(gold: list[str], found: list[str]) -> float:
        runs = {tuple(gold[i:j]) for i in range(len(gold)) for j in range(i + 1, len(gold) + 1)}
        shared = max((j - i for i in range(len(found)) for j in range(i + 1, len(found) + 1) if tuple(found[i:j]) in runs), default=0)
        if not shared:
            return 0.0
        precision, recall = shared / len(found), shared / len(gold)
        return 2 * precision * recall / (precision + recall)

    return max(float(bare(prediction) == bare(gold)) for gold in golds), max(f1(pieces(gold), pieces(prediction)) for gold in golds)


def test_cmrc_equals_the_rule_written_anew_on_random_strings() -> None:
    generator = random.Random(2)
    for _ in range(3000):
        one, golds = drawn(generator, CHINESE, 8, ""), [drawn(generator, CHINESE, 8, "") or "人" for _ in range(generator.randint(1, 3))]
        if one:
            assert by_characters(one, golds) == pytest.approx(official_cmrc(one, golds)), (one, golds)


def test_examples_that_can_be_checked_by_eye() -> None:
    assert normalised("The  U.S. (an ally)") == "us ally"
    assert by_words("in October 1973", ["October 1973", "1973"]) == (0.0, pytest.approx(0.8))
    assert by_words("", []) == (0.0, 0.0) and by_words("", [], unanswerable=True) == (1.0, 1.0)
    assert by_words("x", [], unanswerable=True) == (0.0, 0.0)
    assert mixed_pieces("《ABC》第3.5版, ok") == ["abc", "第", "3.5", "版", ",", "ok"]
    assert by_characters("北京大学", ["北京"]) == (0.0, pytest.approx(2 / 3))
    assert by_characters("《红楼梦》", ["红楼梦"]) == (1.0, 1.0)
    assert by_characters("", []) == (1.0, 1.0) and by_characters("人", []) == (0.0, 0.0) and by_characters("", ["人"]) == (0.0, 0.0)


def test_one_unanswerable_question_makes_it_squad_2_0() -> None:
    assert scores(["the"], [["the"]], "words").tolist() == [[1.0, 0.0]]
    assert scores(["the", ""], [["the"], []], "words").tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_best_threshold_equals_brute_force_and_is_reached() -> None:
    generator = np.random.default_rng(3)
    for size in (1, 2, 7, 40):
        for _ in range(30):
            has = generator.random(size) < 0.5
            values = np.where(has, generator.choice([0, 0.4, 1], size), 0)
            margin = generator.choice([-2.0, -1.0, 0.0, 1.5, np.inf], size)

            def reached(limit: float, has: np.ndarray = has, values: np.ndarray = values, margin: np.ndarray = margin) -> float:
                return float(np.where(margin > limit, ~has, values).mean())

            best, limit = best_threshold(values, margin, has)
            assert best == pytest.approx(max(map(reached, (-3, -2, -1, 0, 1.5)))) and reached(limit) == pytest.approx(best)
            assert np.isfinite(limit)


def test_averages_tell_both_kinds_of_questions_apart() -> None:
    each = np.array([[1, 1], [0, 0.5], [1, 1], [0, 0]])
    assert averages(each, np.ones(4, bool)) == {"exact_match": 0.5, "f1": 0.625}
    found = averages(each, np.array([True, True, False, False]))
    assert found["has_answer_f1"] == 0.75 and found["no_answer_accuracy"] == 0.5 and found["has_answer_exact_match"] == 0.5
    with pytest.raises(DataError, match="no questions"):
        averages(each[:0], np.ones(0, bool))


def test_intervals_hold_the_value_and_shares_of_one_get_a_binomial_one() -> None:
    generator = np.random.default_rng(4)
    each = np.stack([generator.random(200) < 0.6, generator.random(200)], 1).astype(float)
    has = np.arange(200) % 3 > 0
    bounds = score_intervals(each, has, seed=1)
    for name, value in averages(each, has).items():
        assert bounds[name][0] < value < bounds[name][1]
    assert score_intervals(each, has, seed=1) == bounds
    right = score_intervals(np.ones((50, 2)), np.ones(50, bool), seed=1)
    assert right["exact_match"][0] == pytest.approx(0.025 ** (1 / 50)) and right["exact_match"][1] == 1 and "f1" not in right
