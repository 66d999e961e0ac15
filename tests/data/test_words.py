"""Words of texts, texts of words, rows of tags and spans, and words as tokens of any tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tiny
from tunesmith.data.neighbours import with_neighbours
from tunesmith.data.schema import Example, Schema, Source
from tunesmith.data.tokens import Truncation
from tunesmith.data.word_tokens import WordEncoder
from tunesmith.data.words import ELSEWHERE, aligned, joined_words, read_tagged, words_in, words_of
from tunesmith.errors import DataError

CORPUS = [
    "the red cat and the old dog don't like Paris, Rome or Oslo",
    "a big house near the river, 15-year-old trees",
    "cafe 北京 红色 的 猫",
] * 3
ODD = [
    "a",
    "cat",
    "cafe\u0301",
    "\u0301",
    "שָׁלוֹם",
    "😀",
    "👩‍👩‍👧",
    "北",
    "京",
    "\u200b",
    "n't",
    "don",
    ",",
    "don't",
    "Ａ",
    "½",
    "gonna",
    "x" * 30,
]


def byte_level(add_prefix_space: bool = False) -> Tokenizer:
    """As RoBERTa's and GPT-2's: a space belongs to the word behind it."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    result.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    result.train_from_iterator(CORPUS, trainer)
    result.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 0), ("</s>", 1)])
    return result


def sentencepiece() -> Tokenizer:
    """As XLM-R's and DeBERTa's: a mark for the space before each word."""
    result = Tokenizer(models.Unigram())
    result.normalizer = normalizers.NFKC()
    result.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    result.train_from_iterator(CORPUS, trainer)
    result.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 0), ("</s>", 1)])
    return result


TOKENIZERS: dict[str, Any] = {
    "wordpiece": tiny.tokenizer,
    "byte-level": byte_level,
    "byte-level, prefixed": lambda: byte_level(True),
    "sentencepiece": sentencepiece,
    "no special tokens": lambda: tiny.tokenizer(special=False),
}


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def encoder(request: pytest.FixtureRequest) -> WordEncoder:
    return WordEncoder(TOKENIZERS[request.param](), Truncation("head", 24, 8), fallback_token=1)


def example(words: list[str], text: str | None = None) -> Example:
    found, ranges = joined_words(words)
    if text is not None:
        aligned_ranges = aligned(words, text)
        assert aligned_ranges is not None
        found, ranges = text, aligned_ranges
    return Example((found,), None, True, None, Source("x", 1), ranges, tuple(words))


def test_words_of_a_text() -> None:
    def words(text: str) -> list[str]:
        return [text[a:b] for a, b in words_in(text)]

    assert words("Don't pay $5.") == ["Don", "'", "t", "pay", "$", "5", "."]
    assert words("北京2015年Paris") == ["北", "京", "2015", "年", "Paris"]
    assert words("cafe\u0301 שָׁלוֹם हिन्दी") == ["cafe\u0301", "שָׁלוֹם", "हिन्दी"]
    assert words("👩‍👩‍👧😀👍🏽!") == ["👩‍👩‍👧", "😀", "👍🏽", "!"]
    assert words(" \t\n ") == [] and words("") == [] and words("\u0301a") == ["\u0301", "a"]


@given(st.text(max_size=40))
def test_words_in_cover_all_that_is_no_space_once_and_in_order(text: str) -> None:
    ranges = words_in(text)
    flat = [i for pair in ranges for i in pair]
    assert flat == sorted(flat) and all(a < b for a, b in ranges)
    outside = set(range(len(text))) - {i for a, b in ranges for i in range(a, b)}
    import unicodedata

    assert all(text[i].isspace() or unicodedata.category(text[i]) == "Cc" for i in outside)


@given(st.lists(st.sampled_from([*ODD, "New York", ""]), max_size=8))
def test_joined_words_slice_their_text(words: list[str]) -> None:
    text, ranges = joined_words(words)
    assert [text[a:b] for a, b in ranges] == words
    if all(words) and all(not word.startswith((" ", "\u200b")) for word in words):
        assert aligned(words, text) is not None


def test_texts_of_words() -> None:
    assert joined_words(["the", "cat"])[0] == "the cat"
    assert joined_words(["我", "爱", "我", "的", "i", "P", "hone"])[0] == "我爱我的iPhone"
    assert joined_words(["北京", "的", "Hello", "World", "很", "好"])[0] == "北京的Hello World很好"


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.sampled_from(ODD), max_size=30), glued=st.booleans())
def test_every_word_has_exactly_one_point_whatever_it_is(encoder: WordEncoder, words: list[str], glued: bool) -> None:
    one = example(words, "".join(words) if glued else None)
    found = encoder.encode_examples([one], offsets=True)[0]
    assert len(found.points) == len(words) and found.lost == 0
    assert all(len(sequence) <= 24 for sequence in found.sequences)
    assert [len(ids) for ids in found.sequences] == [len(ranges) for ranges in found.offsets]
    flat, places = np.concatenate(found.sequences), np.concatenate(found.offsets)
    assert len(set(found.points.tolist())) == len(words) and all(0 <= point < len(flat) for point in found.points)
    for point, (start, end) in zip(found.points.tolist(), one.spans, strict=True):
        assert start <= places[point][0] <= places[point][1] <= end
    plain = encoder.encode_examples([one])[0]
    assert all((a == b).all() for a, b in zip(plain.sequences, found.sequences, strict=True)) and plain.offsets == []


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_words_are_tokenised_as_in_the_running_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    encoder = WordEncoder(tokenizer, Truncation("head", 64, 8), 1)
    for text in ("the red cat, and a dog", "a big house near Paris, Rome", "Oslo"):
        found = encoder.encode_examples([Example((text,), None, False, None, Source("x", 1))])[0]
        assert found.sequences[0].tolist() == tokenizer.encode(text).ids
        tokens = tokenizer.encode(text)
        for point, (start, _) in zip(found.points.tolist(), words_in(text), strict=True):
            token = text[slice(*tokens.offsets[point])].lstrip()
            assert token and text.startswith(token, start)


def test_a_space_before_a_word_reaches_tokenizers_that_care() -> None:
    tokenizer = byte_level()
    encoder = WordEncoder(tokenizer, Truncation("head", 64, 8), 1)
    ids = encoder.encode_examples([example(["the", "cat"])])[0].sequences[0].tolist()
    assert ids == tokenizer.encode("the cat").ids != [*tokenizer.encode("the").ids[:-1], *tokenizer.encode("cat").ids[1:]]


def test_chinese_characters_keep_apart_where_the_tokenizer_would_join_them() -> None:
    pieces = ["<unk>", "a", "▁a", "▁", "红色", "▁红", "红", "色", "猫"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert "红色" in tokenizer.encode("红色猫").tokens
    encoder = WordEncoder(tokenizer, Truncation("head", 64, 8), 0)
    found = encoder.encode_examples([example(["红", "色", "猫", "不"])])[0]
    # no space stands before them in the text, so none of them has the mark of one but for the first
    assert [pieces[token] for token in found.sequences[0]] == ["▁红", "色", "猫", "<unk>"]
    assert found.points.tolist() == [0, 1, 2, 3]


def test_words_take_their_window_with_most_context() -> None:
    encoder = WordEncoder(tiny.tokenizer(), Truncation("head", 12, 4), 1)
    words = (tiny.ANIMALS * 5)[:25]
    found = encoder.encode_examples([example(words)])[0]
    # windows of 10 tokens, a step of 6: 0-10, 6-16, 12-22, 18-25
    assert [len(sequence) for sequence in found.sequences] == [12, 12, 12, 9]
    window = np.searchsorted(np.cumsum([12, 12, 12, 9]), found.points, side="right")
    assert window.tolist() == [0] * 8 + [1] * 6 + [2] * 6 + [3] * 5
    assert np.concatenate(found.sequences)[found.points].tolist() == [encoder.tokenizer.token_to_id(word) for word in words]


def test_three_thousand_words_in_windows() -> None:
    encoder = WordEncoder(tiny.tokenizer(), Truncation("head", 64, 32, max_windows=2), 1)
    words = (tiny.FILLER * 200)[:3000]
    found = encoder.encode_examples([example(words)])[0]
    assert found.lost == 0 and len(found.points) == len(set(found.points.tolist())) == 3000
    assert np.concatenate(found.sequences)[found.points].tolist() == [encoder.tokenizer.token_to_id(word) for word in words]


def test_no_words_and_one_word() -> None:
    encoder = WordEncoder(tiny.tokenizer(), Truncation("head", 12, 4), 1)
    empty, one = encoder.encode_examples([example([]), example(["cat"])])
    assert len(empty.points) == 0 and empty.sequences[0].tolist() == [2, 3]
    assert one.points.tolist() == [1]


def test_encoding_does_not_depend_on_what_is_encoded_together(encoder: WordEncoder) -> None:
    examples = [example(ODD[i : i + 5], "".join(ODD[i : i + 5])) for i in range(10)]
    together = encoder.encode_examples(examples)
    for one, found in zip(examples, together, strict=True):
        alone = encoder.encode_examples([one])[0]
        assert [ids.tolist() for ids in alone.sequences] == [ids.tolist() for ids in found.sequences]
        assert alone.points.tolist() == found.points.tolist()


# --- rows ------------------------------------------------------------------------------------------------------------------


def read(row: dict[str, Any], text: str = "tokens", target: str | None = "tags") -> Example:
    return read_tagged(row, Schema((text,), target), Source("f.jsonl", 7))


def test_spans_as_triples() -> None:
    row = {"text": "Anna went to Lisbon.", "entities": [[0, 4, "PER"], (13, 19, "LOC")]}
    assert read_tagged(row, Schema(("text",), "entities"), Source("f.jsonl", 7)).target == ["B-PER", "O", "O", "B-LOC", "O"]
    for wrong in ([0, 4], [0, 4, "PER", 1], ["PER", 0, 4]):
        with pytest.raises(DataError, match=r"f.jsonl:7: span .* is not like .* or \[0, 4, \"PER\"\]"):
            read_tagged({**row, "entities": [wrong]}, Schema(("text",), "entities"), Source("f.jsonl", 7))


def test_rows_of_words_and_tags() -> None:
    found = read({"tokens": ["Bo", "ran"], "tags": ["B-PER", "O"]})
    assert found.words == ("Bo", "ran") and found.target == ["B-PER", "O"] and found.texts == ("Bo ran",)
    assert read({"tokens": '["Bo", "ran"]', "tags": '["B-PER", "O"]'}).words == ("Bo", "ran")
    assert read({"tokens": "Bo ran", "tags": "B-PER O"}).words == ("Bo", "ran")
    assert read({"tokens": ["Bo", "ran"], "tags": None, "text": "Bo  ran"}).spans == ((0, 2), (4, 7))
    assert read({"tokens": [], "tags": []}).target == []
    assert read({"text": "Bo ran.", "tokens": ["Bo", "ran."], "tags": ["B-PER", "O"]}, "text").spans == ((0, 2), (3, 7))
    assert words_of(read({"tokens": ["Bo"]}, target=None)) == (("Bo",), ((0, 2),))


def test_rows_of_texts_and_spans() -> None:
    row = {"text": "我爱北京 😀 and Bo.", "spans": [{"start": 2, "end": 4, "label": "LOC"}, {"start": 11, "end": 13, "label": "PER"}]}
    found = read(row, "text", "spans")
    assert found.target == ["O", "O", "B-LOC", "I-LOC", "O", "O", "B-PER", "O"]
    assert read({"text": "no one", "spans": []}, "text", "spans").target == ["O", "O"]
    assert read({"text": "Bo ran", "spans": [{"start": 0, "end": 3, "label": "PER"}]}, "text", "spans").target == ["B-PER", "O"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "f.jsonl:7: 2 tags for 1 word"),
        ({"tokens": ["a"], "tags": []}, "f.jsonl:7: 0 tags for 1 word"),
        ({"tokens": ["a", "b"], "tags": ["O", ""]}, r"f.jsonl:7: word 2 \('b'\) has no tag"),
        ({"tokens": ["a"], "tags": 3}, "f.jsonl:7: column 'tags' holds int"),
        ({"tokens": ["ab"], "tags": [{"start": 1, "end": 2, "label": "X"}]}, "begins or ends inside a word"),
        ({"tokens": ["ab"], "tags": [{"start": 0, "end": 9, "label": "X"}]}, "lies outside the text"),
        ({"tokens": ["ab"], "tags": [{"start": 0, "end": 2}]}, "is not like"),
        ({"tokens": ["ab"], "tags": [{"start": 0, "end": 2, "label": " "}]}, "has no label"),
        ({"tokens": ["a", "b"], "tags": [{"start": 0, "end": 3, "label": "X"}, {"start": 2, "end": 3, "label": "Y"}]}, "overlap"),
        ({"tokens": ["a"], "tags": ["O"], "text": "a", "offsets": [[0, 5]]}, "'offsets' must have"),
        ({"tokens": [{"x": 1}], "tags": ["O"]}, "a text is expected"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(row)


# --- context ---------------------------------------------------------------------------------------------------------------


def neighbours(texts: list[tuple[str | None, str]], limit: int) -> list[tuple[str, str]]:
    examples = [(document, Example((text,), None, False, None, Source("x", i))) for i, (document, text) in enumerate(texts)]
    return [(one.before, one.after) for one in with_neighbours(examples, limit)]


def test_neighbours_are_those_of_the_same_document() -> None:
    texts = [("1", "a b c"), ("1", "d."), ("1", ""), ("1", "e f g"), ("2", "h"), (None, "i"), (None, "j"), ("2", "k")]
    assert neighbours(texts, 3) == [
        ("", "d. e"),
        ("a b c", "e f g"),
        ("c d.", "e f g"),
        ("c d.", ""),
        ("", ""),
        ("", ""),
        ("", ""),
        ("", ""),
    ]
    assert neighbours([("1", "我爱"), ("1", "北京"), ("1", "猫")], 9) == [("", "北京猫"), ("我爱", "猫"), ("我爱北京", "")]


@given(st.lists(st.tuples(st.sampled_from(["1", "2", None]), st.sampled_from(["a", "b c d", "", "e f"])), max_size=12), st.integers(1, 5))
def test_neighbours_by_the_plain_rule(texts: list[tuple[str | None, str]], limit: int) -> None:
    for i, (before, after) in enumerate(neighbours(texts, limit)):
        document = texts[i][0]
        begin, end = i, i + 1
        while document and begin > 0 and texts[begin - 1][0] == document:
            begin -= 1
        while document and end < len(texts) and texts[end][0] == document:
            end += 1
        assert before.split() == " ".join(text for _, text in texts[begin:i]).split()[-limit:]
        assert after.split() == " ".join(text for _, text in texts[i + 1 : end]).split()[:limit]


def test_context_fills_what_a_sentence_leaves_and_has_no_points() -> None:
    tokenizer = tiny.tokenizer()
    encoder = WordEncoder(tokenizer, Truncation("head", 12, 4), 1, context=6)
    plain = Example(("cat dog",), None, False, None, Source("x", 1))
    around = replace(plain, before="red blue green yellow white black", after="a the a the a")

    def words(one: Example) -> tuple[list[str], list[str]]:
        found = encoder.encode_examples([one], offsets=True)[0]
        assert found.tokens == len(one.texts[0].split()) and len(found.sequences) == 1 == len(found.offsets)
        tokens = [tokenizer.id_to_token(token) for token in found.sequences[0]]
        return tokens, [tokens[point] for point in found.points]

    assert words(plain) == (["[CLS]", "cat", "dog", "[SEP]"], ["cat", "dog"])
    assert words(around) == (["[CLS]", "green", "yellow", "white", "black", "cat", "dog", "a", "the", "a", "the", "[SEP]"], ["cat", "dog"])
    assert words(replace(around, after=""))[0] == ["[CLS]", "red", "blue", "green", "yellow", "white", "black", "cat", "dog", "[SEP]"]
    assert words(replace(around, before="red"))[0][:3] == ["[CLS]", "red", "cat"]
    full = replace(around, texts=("cat " * 30,))
    assert len(encoder.encode_examples([full])[0].points) == 30


def test_words_that_do_not_stand_in_their_text_are_said() -> None:
    rows = [
        {"text": "He said (hi)", "tokens": ["He", "said", "-LRB-", "hi", "-RRB-"], "tags": ["O"] * 5},
        {"text": "quite another text", "tokens": ["He", "said"], "tags": ["O", "O"]},
    ]
    schema = Schema(("tokens",), "tags", read="tunesmith.data.words:read_tagged")
    one, other = (schema.parse(row, Source("x", line)) for line, row in enumerate(rows, 1))
    assert not one.mended and [one.texts[0][a:b] for a, b in one.spans] == ["He", "said", "(", "hi", ")"]
    assert other.mended == (ELSEWHERE,) and other.texts == ("He said",)
