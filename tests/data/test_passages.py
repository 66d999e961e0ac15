"""Questions and windows of passages as tokens: frames, places, what is lost, and answers at every place that is hard to hit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import tiny
from tunesmith.data.passages import PassageEncoder, tokens_of, whole_characters
from tunesmith.data.schema import Example, Source
from tunesmith.data.tokens import Encoded, Truncation


def example(question: str, passage: str, *answers: str) -> Example:
    spans = tuple((passage.index(answer), passage.index(answer) + len(answer)) for answer in answers)
    return Example((question, passage), list(answers), True, None, Source("t", 1), spans)


def encode(encoder: PassageEncoder, *given: Any) -> Encoded:
    return encoder.encode_examples([example(*given)], offsets=True)[0]


def read(found: Encoded, passage: str) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """(null token, text of the window) for each window, and (window, text) of each answer."""
    count = len(found.sequences)
    ids, offsets = np.concatenate(found.sequences), np.concatenate(found.offsets)
    begins = np.cumsum([0, *map(len, found.sequences)])
    windows = [
        (int(ids[null]), passage[offsets[a, 0] : offsets[b - 1, 1]] if a < b else "")
        for null, a, b in found.points[: 3 * count].reshape(-1, 3).tolist()
    ]
    answers = [
        (int(np.searchsorted(begins, a, side="right")) - 1, passage[offsets[a, 0] : offsets[b, 1]])
        for a, b in found.points[3 * count :].reshape(-1, 2).tolist()
    ]
    return windows, answers


def short(max_length: int = 24, stride: int = 4, tokenizer: Tokenizer | None = None, **more: Any) -> PassageEncoder:
    return PassageEncoder(tiny.tokenizer() if tokenizer is None else tokenizer, Truncation("head", max_length, stride, **more), 1)


def test_one_window_is_the_pair_as_the_tokenizer_frames_it() -> None:
    found = encode(short(48), "the cat ?", "a red dog and a blue bird", "blue bird")
    whole = tiny.tokenizer().encode("the cat ?", "a red dog and a blue bird")
    assert found.sequences[0].tolist() == whole.ids
    assert found.offsets[0].tolist() == [list(pair) for pair in whole.offsets]
    assert found.borders == [whole.type_ids.index(1)]
    assert read(found, "a red dog and a blue bird") == ([(2, "a red dog and a blue bird")], [(0, "blue bird")])
    assert found.lost == 0 and found.tokens == 10


def test_windows_overlap_hold_the_whole_passage_and_every_answer_that_fits() -> None:
    words = [f"{tiny.FILLER[i % 16]}" for i in range(60)]
    words[17], words[30], words[59] = "red", "blue", "green"
    passage = " ".join(words)
    found = encode(short(), "who ?", passage, "red", "blue", "green", " ".join(words[10:40]))
    windows, answers = read(found, passage)
    assert len(windows) > 3 and all(null == 2 for null, _ in windows) and all(len(ids) <= 24 for ids in found.sequences)
    seen = [text.split() for _, text in windows]
    assert seen[0][-4:] == seen[1][:4] and [*seen[0], *(word for part in seen[1:] for word in part[4:])] == words
    assert {text for _, text in answers} == {"red", "blue", "green"}  # the longest one is in no window
    assert all(text in windows[number][1].split() for number, text in answers)
    assert sum("red" in part for part in seen) == sum(text == "red" for _, text in answers)
    assert found.lost == 0


def test_an_answer_at_the_very_first_and_very_last_character() -> None:
    passage = "red " + "the " * 40 + "dog"
    windows, answers = read(encode(short(), "who", passage, "red", "dog"), passage)
    assert answers == [(0, "red"), (len(windows) - 1, "dog")]


def test_an_empty_passage_and_an_empty_question() -> None:
    for question, passage in (("who ?", ""), ("", "red dog"), ("", ""), ("who", "  ")):
        found = encode(short(), question, passage)
        windows, answers = read(found, passage)
        assert [text.strip() for _, text in windows] == [passage.strip()] and not answers and windows[0][0] == 2


def test_a_question_longer_than_the_limit_leaves_half_of_the_room() -> None:
    passage = " ".join(["red", *["the"] * 30, "dog"])
    found = encode(short(), "who " * 100, passage, "red", "dog")
    windows, answers = read(found, passage)
    assert all(len(ids) <= 24 for ids in found.sequences) and found.lost == 100 * 3 - 10  # "who" has three tokens
    assert " ".join(windows[0][1].split()) in passage and {text for _, text in answers} == {"red", "dog"}
    short_one = encode(short(), "the " * 30, "red dog", "dog")  # a short passage leaves more room for the question
    assert len(short_one.sequences) == 1 and short_one.lost == 30 - 19


def test_what_lies_behind_the_most_windows_is_lost_and_counted() -> None:
    passage = " ".join(["the"] * 90 + ["dog"])
    found = encode(short(max_windows=2), "red", passage, "dog")
    assert len(found.sequences) == 2 and found.lost == 91 - (20 + 16) and not read(found, passage)[1]


def test_a_stride_that_does_not_fit_is_lowered() -> None:
    encoder = short(24, 32)
    assert encoder.truncation.stride == 5 and encoder.truncation.policy == "windows"


def test_the_null_position_is_where_the_special_token_is() -> None:
    for template, special, expected in (
        ("$A [SEP] $B:1 [SEP]:1 [CLS]:1", "[CLS]", 2),  # at the end
        ("[SEP] $A [CLS] $B:1 [SEP]:1", "[CLS]", 2),  # between the texts
        ("$A [SEP] $B [SEP]", "[CLS]", tiny.tokenizer().token_to_id("red")),  # none: the first token
    ):
        tokenizer = tiny.tokenizer(special=False)
        tokenizer.post_processor = processors.TemplateProcessing("$A [SEP]", template, [("[CLS]", 2), ("[SEP]", 3)])
        passage = "a " * 40 + "dog"
        found = encode(short(tokenizer=tokenizer), "red", passage, "dog")
        windows, answers = read(found, passage)
        assert len(windows) > 1 and all(null == expected for null, _ in windows), (template, special)
        assert answers == [(len(windows) - 1, "dog")]


def test_a_tokenizer_without_special_tokens() -> None:
    encoder = short(tokenizer=tiny.tokenizer(special=False))
    passage = "a red dog " * 12
    windows, answers = read(encode(encoder, "the bird", passage, "red dog"), passage)
    assert len(windows) > 1 and windows[0][0] == tiny.tokenizer().token_to_id("the") and answers[0] == (0, "red dog")
    nothing = encode(encoder, "", "")
    assert nothing.sequences[0].tolist() == [1] and nothing.points.tolist() == [0, 1, 1]


def test_several_answers_on_the_same_tokens_are_one() -> None:
    given = Example(("q", "a red-dog"), ["red", "d"], True, None, Source("t", 1), ((2, 5), (2, 4), (6, 9), (6, 7)))
    found = short().encode_examples([given], offsets=True)[0]
    assert read(found, "a red-dog")[1] == [(0, "red"), (0, "dog")]


@pytest.mark.parametrize(("passage", "answer"), tiny.ANSWERED)
def test_scripts_and_marks_come_back_exactly(passage: str, answer: str) -> None:
    """Through a tokenizer of bytes, and through one that strips accents: the tokens of an answer give its own characters."""
    letters = sorted({*passage.lower(), *tiny.SPECIAL} - {" "})
    strips = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*tiny.SPECIAL, *letters])}, unk_token="[UNK]"))
    strips.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    strips.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")])
    strips.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)])
    for tokenizer in (tiny.byte_level(), strips):
        for length in (200, 30):
            found = encode(short(length, 8, tokenizer), "q", passage, answer)
            offsets = np.concatenate(found.offsets)
            places = found.points[3 * len(found.sequences) :].reshape(-1, 2).tolist()
            for a, b in places:
                start, end = whole_characters(passage, int(offsets[a, 0]), int(offsets[b, 1]))
                assert passage[start:end] == answer
            assert places or length == 30


def test_whole_characters() -> None:
    assert whole_characters(" a b ", 0, 5) == (1, 4) and whole_characters("   ", 0, 3) == (3, 3)
    assert whole_characters("cafe\u0301s", 0, 4) == (0, 5)
    assert whole_characters("e\u0301s", 1, 3) == (0, 3)
    assert whole_characters("\u0301s", 0, 2) == (0, 2) and whole_characters("", 0, 0) == (0, 0)
    assert whole_characters("שָׁלוֹם", 0, 1) == (0, 3)
    assert whole_characters("❤\ufe0f ok", 0, 1) == (0, 2)


def test_tokens_of_a_span() -> None:
    ranges = np.array([[0, 3], [3, 3], [4, 6], [6, 9]], np.int32)
    assert tokens_of((0, 1), ranges) == (0, 0) and tokens_of((2, 5), ranges) == (0, 2) and tokens_of((8, 20), ranges) == (3, 3)
    assert tokens_of((3, 4), ranges) is None and tokens_of((0, 3), ranges[:0]) is None
