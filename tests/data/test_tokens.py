"""Truncation policies, windows, special tokens and offsets, against brute force and the tokenizer's own encoding."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import tiny
from tunesmith.data.tokens import Encoded, TextEncoder, Truncation, by_size
from tunesmith.errors import ModelError, UsageError

POLICIES = ["head", "tail", "head-tail", "windows"]
CHINESE = "这家酒店的服务非常好，房间干净。"
RUSSIAN = "Ёлка стоит в лесу, и это чудесно!"
EMOJI = "I 💙 it 👩‍👩‍👧‍👦 👍🏽 🇫🇷!"
COMBINING = "cafe\u0301 a\u030a\u0323 e\u0301\u0302 न\u092e\u0938\u094d\u0924\u0947"
TEXTS = [
    "the little red cat",
    CHINESE,
    RUSSIAN,
    EMOJI,
    COMBINING,
    "",
    "   \t\n ",
    "§§§ ¤¤¤",
    "a\u0000b\ufffd\u200b\ufeff",
    "mixed 红猫 и кошка 🐈",
]


def byte_level() -> Tokenizer:
    """A tokenizer over bytes without any special tokens, as GPT-2's, in which one character may be several tokens."""
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    result = Tokenizer(models.BPE(alphabet, []))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    return result


def characters() -> Tokenizer:
    """A tokenizer of single characters, so that a text of n letters has n tokens."""
    result = Tokenizer(models.WordLevel({"?": 0, "[CLS]": 1, "[SEP]": 2, **{chr(97 + i): 3 + i for i in range(26)}}, unk_token="?"))
    result.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    result.post_processor = processors.TemplateProcessing("[CLS] $A [SEP] [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return result


def roberta_style() -> Tokenizer:
    result = byte_level()
    result.add_special_tokens(["<s>", "</s>"])
    result.post_processor = processors.RobertaProcessing(("</s>", 257), ("<s>", 256), trim_offsets=False, add_prefix_space=False)
    return result


def kept_by_brute_force(policy: str, tokens: int, budget: int, stride: int, max_windows: int) -> list[list[int]]:
    """Which of a text's tokens each sequence keeps, by walking along it."""
    every = list(range(tokens))
    if tokens <= budget:
        return [every]
    if policy == "head":
        return [every[:budget]]
    if policy == "tail":
        return [every[-budget:]]
    if policy == "head-tail":
        return [every[: budget // 4] + every[-(budget - budget // 4) :]]
    windows, start = [], 0
    while len(windows) < max_windows:
        windows.append(every[start : start + budget])
        if start + budget >= tokens:
            break
        start += budget - stride
    return windows


@settings(deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.integers(0, 200),
    st.integers(1, 30).flatmap(lambda budget: st.tuples(st.just(budget), st.integers(0, budget - 1))),
    st.integers(1, 12),
)
@example("windows", 10, (4, 0), 2)
@example("windows", 11, (4, 3), 8)
@example("windows", 12, (4, 3), 8)
@example("head-tail", 4, (3, 0), 1)
@example("head-tail", 3, (3, 0), 1)
def test_spans_equal_brute_force(policy: str, tokens: int, sizes: tuple[int, int], max_windows: int) -> None:
    budget, stride = sizes
    truncation = Truncation(policy, budget + 2, stride, max_windows)
    found = [[token for a, b in spans for token in range(a, b)] for spans in truncation.spans(tokens, budget)]
    assert found == kept_by_brute_force(policy, tokens, budget, stride, max_windows)
    kept = {token for sequence in found for token in sequence}
    assert truncation.lost(tokens, budget) == tokens - len(kept)
    if policy == "windows":
        # nothing but what lies behind the last window is lost
        assert kept == set(range(len(kept)))
        assert len(kept) == tokens or len(found) == max_windows
        assert all(len(set(one) & set(two)) >= stride for one, two in itertools.pairwise(found))


@settings(deadline=None)
@given(
    st.text("abcxyz", max_size=60),
    st.sampled_from(POLICIES),
    st.integers(4, 20).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length - 4))),
    st.integers(1, 5),
)
def test_encoded_equals_brute_force(text: str, policy: str, sizes: tuple[int, int], max_windows: int) -> None:
    length, stride = sizes
    encoder = TextEncoder(characters(), Truncation(policy, length, stride, max_windows))
    assert encoder.budget == length - 3
    (encoded,) = encoder.encode([text], offsets=True)
    expected = kept_by_brute_force(policy, len(text), length - 3, stride, max_windows)
    numbers = [3 + ord(letter) - 97 for letter in text]
    assert [sequence.tolist() for sequence in encoded.sequences] == [[1, *(numbers[i] for i in kept), 2, 2] for kept in expected]
    assert [ranges.tolist() for ranges in encoded.offsets] == [[[0, 0], *([i, i + 1] for i in kept), [0, 0], [0, 0]] for kept in expected]
    assert encoded.tokens == len(text)
    assert encoded.lost == len(text) - len({i for kept in expected for i in kept})
    assert all(len(sequence) <= length and sequence.dtype == np.int32 for sequence in encoded.sequences)


@pytest.mark.parametrize("make", [tiny.tokenizer, roberta_style, byte_level, characters], ids=lambda make: make.__name__)
def test_special_tokens_are_the_tokenizers_own(make) -> None:
    reference = make()
    encoder = TextEncoder(make(), Truncation("head", 512), fallback_token=1)
    for text, encoded in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        expected = reference.encode(text, add_special_tokens=True).ids
        assert encoded.sequences[0].tolist() == (expected if expected else [1]), text
        assert len(encoded.sequences) == 1 and encoded.lost == 0
        assert encoded.tokens == len(reference.encode(text, add_special_tokens=False).ids)
    assert encoder.count(TEXTS) == [encoded.tokens for encoded in encoder.encode(TEXTS)]


@pytest.mark.parametrize("make", [tiny.tokenizer, roberta_style, byte_level, characters], ids=lambda make: make.__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_truncation_agrees_with_the_tokenizers_own(make, policy: str) -> None:
    """Head truncation is what `tokenizers` does; every policy keeps the same special tokens around the text."""
    reference = make()
    text = " ".join(TEXTS)
    length = 12
    encoder = TextEncoder(make(), Truncation(policy, length, stride=2, max_windows=100))
    (encoded,) = encoder.encode([text])
    full = reference.encode(text, add_special_tokens=True).ids
    before, after = len(encoder.prefix), len(encoder.suffix)
    for sequence in encoded.sequences:
        assert sequence[:before].tolist() == full[:before]
        assert sequence[len(sequence) - after :].tolist() == full[len(full) - after :]
        assert len(sequence) <= length
    reference.enable_truncation(length, direction="left" if policy == "tail" else "right")
    if policy in ("head", "tail"):
        assert encoded.sequences[0].tolist() == reference.encode(text).ids
    elif policy == "windows":
        reference.enable_truncation(length, stride=2)
        whole = reference.encode(text)
        assert [sequence.tolist() for sequence in encoded.sequences] == [whole.ids, *(more.ids for more in whole.overflowing)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(TEXTS) | st.text(max_size=40), max_size=6), st.sampled_from(POLICIES))
def test_sequences_do_not_depend_on_the_batch_or_on_offsets(texts: list[str], policy: str) -> None:
    encoder = TextEncoder(tiny.tokenizer(), Truncation(policy, 8, 2, 3))
    together = encoder.encode(texts)
    for text, encoded, with_offsets in zip(texts, together, encoder.encode(texts, offsets=True), strict=True):
        (alone,) = encoder.encode([text])
        for other in (alone, with_offsets):
            assert [part.tolist() for part in other.sequences] == [part.tolist() for part in encoded.sequences]
            assert (other.tokens, other.lost) == (encoded.tokens, encoded.lost)
        assert encoded.offsets == [] and len(with_offsets.offsets) == len(with_offsets.sequences)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()], ids=ascii)
def test_offsets_slice_the_original_text(text: str, policy: str) -> None:
    """A token's range is the characters that it is made of, whatever the normalizer did to them."""
    tokenizer = tiny.tokenizer()
    (encoded,) = TextEncoder(tokenizer, Truncation(policy, 8, 2)).encode([text], offsets=True)
    for sequence, ranges in zip(encoded.sequences, encoded.offsets, strict=True):
        assert len(sequence) == len(ranges)
        assert ranges[0].tolist() == ranges[-1].tolist() == [0, 0]
        for token, (start, end) in zip(sequence[1:-1].tolist(), ranges[1:-1].tolist(), strict=True):
            assert 0 <= start < end <= len(text)
            piece = text[start:end]
            written = tokenizer.id_to_token(token)
            if written != "[UNK]":
                bare = "".join(c for c in unicodedata.normalize("NFD", piece.lower()) if not unicodedata.combining(c))
                assert bare == written.removeprefix("##")


@pytest.mark.parametrize("text", [CHINESE, RUSSIAN, EMOJI, COMBINING], ids=ascii)
def test_offsets_of_a_byte_level_tokenizer_never_cut_a_character(text: str) -> None:
    (encoded,) = TextEncoder(byte_level(), Truncation("head", 512)).encode([text], offsets=True)
    pieces = {}
    for start, end in encoded.offsets[0].tolist():
        pieces[start] = text[start:end]
        assert end == start + 1  # the bytes of one character share its range
    assert "".join(pieces[start] for start in sorted(pieces)) == text
    assert encoded.tokens == len(text.encode())


def test_every_word_keeps_its_place_in_the_text() -> None:
    text = "Big  RED\tcat, кошка 红 é"
    (encoded,) = TextEncoder(tiny.tokenizer(), Truncation("head", 64)).encode([text], offsets=True)
    assert [text[a:b] for a, b in encoded.offsets[0].tolist()] == ["", "Big", "RED", "cat", ",", "кошка", "红", "é", ""]


@pytest.mark.parametrize("text", ["", "   ", "\u200b"])
def test_text_without_any_token(text: str) -> None:
    (encoded,) = TextEncoder(tiny.tokenizer(), Truncation("windows", 8, 2)).encode([text], offsets=True)
    assert [sequence.tolist() for sequence in encoded.sequences] == [[2, 3]]
    assert encoded.offsets[0].tolist() == [[0, 0], [0, 0]]
    assert (encoded.tokens, encoded.lost) == (0, 0)


def test_text_without_any_token_and_no_special_tokens() -> None:
    encoder = TextEncoder(byte_level(), Truncation("windows", 8, 2), fallback_token=7)
    found = encoder.encode(["", "a", ""], offsets=True)
    assert [[sequence.tolist() for sequence in encoded.sequences] for encoded in found][::2] == [[[7]], [[7]]]
    assert found[0].offsets[0].tolist() == [[0, 0]] and (found[0].tokens, found[0].lost) == (0, 0)
    with pytest.raises(ModelError, match="no token that could stand for a text"):
        TextEncoder(byte_level(), Truncation("head", 8)).encode([""])


def test_text_of_unknown_characters_only() -> None:
    (encoded,) = TextEncoder(tiny.tokenizer(), Truncation("head", 8)).encode(["☃ ☂ ☁"])
    assert encoded.sequences[0].tolist() == [2, 1, 1, 1, 3] and encoded.tokens == 3
    # a tokenizer that drops what it does not know
    silent = Tokenizer(models.BPE({"a": 0}, []))
    found = TextEncoder(silent, Truncation("head", 8), fallback_token=0).encode(["☃☂", "a☃a"])
    assert [encoded.sequences[0].tolist() for encoded in found] == [[0], [0, 0]]


def test_no_texts() -> None:
    assert TextEncoder(tiny.tokenizer(), Truncation()).encode([]) == []


def test_truncation_and_padding_stored_with_the_tokenizer_are_off() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=20)
    (encoded,) = TextEncoder(tokenizer, Truncation("head", 64)).encode(["the little red cat and a dog"])
    assert len(encoded.sequences[0]) == 9


def test_no_room_for_text() -> None:
    with pytest.raises(UsageError, match="max_length 3 leaves no room for text beside 3 special tokens"):
        TextEncoder(characters(), Truncation("head", 3))
    assert TextEncoder(characters(), Truncation("head", 4)).budget == 1


def test_windows_that_do_not_move() -> None:
    with pytest.raises(UsageError, match="stride 6 must be below the 6 tokens of text"):
        TextEncoder(tiny.tokenizer(), Truncation("windows", 8, 6))
    encoded = TextEncoder(tiny.tokenizer(), Truncation("windows", 8, 5)).encode(["a b c d e f g h"])[0]
    assert len(encoded.sequences) == 3 and encoded.lost == 0
    TextEncoder(tiny.tokenizer(), Truncation("head", 8, 6))  # of no account for the other policies


def test_a_template_that_is_not_prefix_and_suffix() -> None:
    tokenizer = characters()
    tokenizer.post_processor = processors.TemplateProcessing("$A [SEP] $A", None, [("[SEP]", 2)])
    with pytest.raises(ModelError, match="not one prefix and one suffix"):
        TextEncoder(tokenizer, Truncation("head", 10))


def test_encoded_is_a_value() -> None:
    encoded = Encoded([], [], 0, 0)
    with pytest.raises(AttributeError):
        encoded.tokens = 1


def roberta_pairs() -> Tokenizer:
    """Single characters in the frame of RoBERTa, where segments are not told apart."""
    result = characters()
    result.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]", [("[CLS]", 1), ("[SEP]", 2)])
    return result


def bert_pairs() -> Tokenizer:
    result = characters()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    result.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, [("[CLS]", 1), ("[SEP]", 2)])
    return result


def types(encoded: Encoded) -> list[int]:
    (sequence,), (border,) = encoded.sequences, encoded.borders
    return [int(i >= border) for i in range(len(sequence))]


@settings(deadline=None)
@given(st.sampled_from([bert_pairs, roberta_pairs]), st.text("abc", max_size=30), st.text("xyz", max_size=30), st.integers(7, 40))
@example(bert_pairs, "aaaa", "bbbb", 10)
@example(bert_pairs, "aaaaa", "bbbb", 10)
def test_a_pair_is_what_transformers_makes_of_it(kind, first: str, second: str, max_length: int) -> None:
    (found,) = TextEncoder(kind(), Truncation("head", max_length), pairs=True).encode([(first, second)])
    tokenizer = kind()
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    expected = tokenizer.encode(first, second)
    assert found.sequences[0].tolist() == expected.ids
    assert types(found) == expected.type_ids
    assert (found.tokens, found.lost) == (len(first) + len(second), max(0, len(first) + len(second) + _special(kind) - max_length))


def _special(kind) -> int:
    return kind().num_special_tokens_to_add(True)


@settings(deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.text("abc", max_size=40),
    st.text("xyz", max_size=40),
    st.integers(7, 40),
    st.integers(0, 1),
    st.integers(1, 5),
)
@example("windows", "abc", "x" * 30, 12, 1, 9)
@example("windows", "a" * 30, "xyz", 12, 1, 9)
@example("windows", "a" * 12, "x", 7, 1, 5)
def test_what_a_pair_loses_is_what_stands_in_no_sequence(
    policy: str, first: str, second: str, max_length: int, stride: int, max_windows: int
) -> None:
    encoder = TextEncoder(bert_pairs(), Truncation(policy, max_length, stride, max_windows), pairs=True)
    (found,) = encoder.encode([(first, second)], offsets=True)
    kept: set[tuple[int, int]] = set()
    for ids, offsets, border in zip(found.sequences, found.offsets, found.borders, strict=True):
        assert len(ids) <= max_length and len(offsets) == len(ids)
        for place, (token, (a, b)) in enumerate(zip(ids.tolist(), offsets.tolist(), strict=True)):
            if a < b:
                side = int(place >= border)
                assert tiny_letter(token) == (first, second)[side][a:b]
                kept.add((side, a))
    assert found.lost == len(first) + len(second) - len(kept)
    if policy == "windows" and min(len(first), len(second)) <= 2:
        room = max_length - 3 - min(len(first), len(second))
        windows = 1 + -(-max(max(len(first), len(second)) - room, 0) // (room - stride))
        assert found.lost == 0 or windows > max_windows


def tiny_letter(token: int) -> str:
    return chr(97 + token - 3)


def test_a_pair_needs_room_for_both_texts() -> None:
    with pytest.raises(UsageError, match="max_length 4 leaves no room for text beside 3 special tokens"):
        TextEncoder(bert_pairs(), Truncation("head", 4), pairs=True)
    with pytest.raises(UsageError, match="stride 5 must be below the 4 tokens of text"):
        TextEncoder(bert_pairs(), Truncation("windows", 11, 5), pairs=True)


def test_a_pair_without_special_tokens_stands_one_behind_the_other() -> None:
    tokenizer = byte_level()
    (found,) = TextEncoder(tokenizer, Truncation("head", 20), fallback_token=7, pairs=True).encode([("ab", "c")])
    assert found.sequences[0].tolist() == byte_level().encode("ab", "c").ids
    (empty,) = TextEncoder(byte_level(), Truncation("head", 20), fallback_token=7, pairs=True).encode([("", "")])
    assert empty.sequences[0].tolist() == [7] and len(empty.borders) == 1


def test_long_texts_are_tokenised_few_at_a_time() -> None:
    texts = ["x" * 900_000, "y" * 900_000, "z" * 900_000, "", "w" * 5_000_000, *["v"] * 3]
    parts = list(by_size(texts, len, rows=2))
    assert [one for part in parts for one in part] == texts
    assert [len(part) for part in parts] == [2, 2, 1, 2, 1]
    assert list(by_size([], len)) == []


WORKERS = """
import hashlib
import tiny
from tunesmith.data.tokens import TextEncoder, Truncation
texts = [" ".join(tiny.WORDS[(i * j) % len(tiny.WORDS)] for j in range(1 + i % 70)) for i in range(900)]
found = TextEncoder(tiny.tokenizer(), Truncation("windows", 32, 8)).encode(texts)
print(hashlib.sha256(b"|".join(sequence.tobytes() for one in found for sequence in one.sequences)).hexdigest())
"""


def test_any_number_of_workers_makes_the_same_tokens() -> None:
    found = set()
    for workers in ("1", "2", "5"):
        told = {**os.environ, "RAYON_NUM_THREADS": workers, "TOKENIZERS_PARALLELISM": "true", "PYTHONPATH": str(Path(tiny.__file__).parent)}
        found.add(subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, check=True, env=told).stdout)
    assert len(found) == 1
