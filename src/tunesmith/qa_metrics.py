"""Scores of answers to questions: exact match and F1 by the rules of SQuAD 1.1, SQuAD 2.0 and CMRC 2018, thresholds, intervals.

E questions. `golds` are the texts of a question's right answers, none for one that its passage does not answer; a predicted answer
of no text says that there is none.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunesmith.bounds import RESAMPLES, bounds, bounds_of_share
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Match = Literal["words", "characters"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# as cmrc2018_evaluate.py has them; its "……" is compared with single characters and so never matches
_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_HAN = re.compile("[\u4e00-\u9fa5]")
# the official script cuts what stands between Chinese characters with NLTK's Treebank tokenizer; this does the same but for
# contractions ("don't" stays one piece) and for telling opening from closing quotes
_LATIN = re.compile(r"""(?:[^\s;@#$%&?!()\[\]{}<>",.—]|,(?=\d)|\.(?!\s*$))+|\S""")


def normalised(text: str) -> str:
    """Return `text` as SQuAD compares answers: lower case, without ASCII punctuation and the articles, single spaces.

    Source: `normalize_answer` of the official evaluate-v1.1.py and evaluate-v2.0.py.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def by_words(predicted: str, golds: Sequence[str], *, unanswerable: bool = False) -> tuple[float, float]:
    """Return exact match and F1 of one predicted answer, the best over the gold ones.

    unanswerable: by the rule of SQuAD 2.0, where golds that are nothing but articles and punctuation count as no answer, and two
        answers of no word agree; by that of 1.1, which has no such questions, they share no word and F1 is 0
    """
    found = normalised(predicted)
    wanted = [normalised(gold) for gold in golds]
    if unanswerable:
        wanted = [gold for gold in wanted if gold]
        wanted = wanted if wanted else [""]
    words = found.split()
    best = 0.0
    for gold in set(wanted):
        theirs = gold.split()
        if unanswerable and not (words and theirs):
            best = max(best, float(words == theirs))
            continue
        same = (Counter(words) & Counter(theirs)).total()
        if same:
            best = max(best, 2 * same / (len(words) + len(theirs)))
    return float(found in wanted), best


def by_characters(predicted: str, golds: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 of one predicted answer by the rule of CMRC 2018, the best over the gold ones.

    Both are cut into Chinese characters and other words, punctuation is left out, and F1 is that of the longest run of pieces
    which they share (Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension", section 4.1, and
    its cmrc2018_evaluate.py). Two answers of no text agree, as in SQuAD 2.0.
    """
    if not golds or not predicted:
        return (float(not golds and not predicted),) * 2
    found, exact, best = mixed_pieces(predicted), 0.0, 0.0
    for gold in set(golds):
        exact = max(exact, float(_unmarked(predicted) == _unmarked(gold)))
        wanted = mixed_pieces(gold)
        shared = _longest_run(found, wanted)
        if shared:
            best = max(best, 2 * shared / (len(found) + len(wanted)))
    return exact, best


def mixed_pieces(text: str) -> list[str]:
    """Return the pieces of `text` that CMRC 2018 compares: each Chinese character, and the words between them."""
    pieces: list[str] = []
    other = ""
    for character in text.lower().strip():
        if character in _MARKS:
            continue  # without ending the word it stands in, as in the official script
        if _HAN.match(character):
            pieces += [*_LATIN.findall(other), character]
            other = ""
        else:
            other += character
    return pieces + _LATIN.findall(other)


def _unmarked(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _MARKS)


def _longest_run(one: Sequence[str], two: Sequence[str]) -> int:
    best, before = 0, [0] * (len(two) + 1)
    for piece in one:
        row = [0] * (len(two) + 1)
        for j, other in enumerate(two):
            if piece == other:
                row[j + 1] = before[j] + 1
                best = max(best, row[j + 1])
        before = row
    return best


def scores(predicted: Sequence[str], golds: Sequence[Sequence[str]], match: Match) -> NDArray[np.float64]:
    """Return float64[E, 2], exact match and F1 of each question; the rule of SQuAD 2.0 where any question has no answer."""
    if match == "characters":
        found = [by_characters(one, gold) for one, gold in zip(predicted, golds, strict=True)]
    else:
        unanswerable = not all(golds)
        found = [by_words(one, gold, unanswerable=unanswerable) for one, gold in zip(predicted, golds, strict=True)]
    return np.array(found, np.float64).reshape(-1, 2)


def averages(each: NDArray[Any], has_answer: NDArray[np.bool_]) -> dict[str, float]:
    """Return exact match and F1 over all questions, and, where there are questions with and without answer, over both kinds.

    each: float[E, 2] from `scores`; has_answer: bool[E]. Raises `DataError` without questions.
    """
    if not len(each):
        raise DataError("there are no questions with answers to evaluate on.")
    found = {"exact_match": float(each[:, 0].mean()), "f1": float(each[:, 1].mean())}
    if not has_answer.all():
        if has_answer.any():
            found |= {"has_answer_exact_match": float(each[has_answer, 0].mean()), "has_answer_f1": float(each[has_answer, 1].mean())}
        found["no_answer_accuracy"] = float(each[~has_answer, 0].mean())
    return found


def best_threshold(values: NDArray[Any], margin: NDArray[Any], has_answer: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the best mean value that a threshold on `margin` reaches, and the threshold: answers with a greater margin are withheld.

    values: float[E], exact match or F1 of the best answer, which counts where it is given
    margin: float[E], by how much "no answer" scores above the best answer; infinite where there is none to give

    Source: `find_best_thresh` of the official evaluate-v2.0.py. Questions of equal margin are given or withheld together.
    """
    order = np.argsort(margin, kind="stable")
    gain = np.where(has_answer, values, -1.0)[order]
    ordered = margin[order]
    last = np.append(ordered[1:] != ordered[:-1], True) & np.isfinite(ordered)
    withheld = float((~has_answer).sum())
    reached = np.concatenate([[withheld], (withheld + np.cumsum(gain))[last]])
    finite = ordered[np.isfinite(ordered)]
    limits = np.concatenate([[finite[0] - 1 if len(finite) else 0.0], ordered[last]])
    best = int(np.argmax(reached))
    return float(reached[best]) / len(values), float(limits[best])


def score_intervals(each: NDArray[Any], has_answer: NDArray[np.bool_], *, seed: int) -> dict[str, list[float]]:
    """Return [low, high] of the `averages`, by percentile bootstrap over questions (Efron and Tibshirani 1993, section 13.3).

    Where all questions are right or all are wrong, a share of right ones gets its exact binomial interval instead.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(each), len(each))
        for name, value in averages(each[rows], has_answer[rows]).items():
            drawn.setdefault(name, []).append(value)
    found = {}
    chosen = {"has_answer_exact_match": has_answer, "no_answer_accuracy": ~has_answer}
    for name in averages(each, has_answer):
        pair = bounds(drawn.get(name, [0.0]))
        if pair is not None:
            found[name] = pair
        elif not name.endswith("f1"):
            right = each[chosen.get(name, np.ones(len(each), np.bool_)), 0]
            found[name] = bounds_of_share(round(float(right.sum())), len(right))
    return found
