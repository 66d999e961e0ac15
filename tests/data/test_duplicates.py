import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.duplicates import Deduplicator, near_duplicates
from tunesmith.data.likeness import jaccard, normalise, shingles, text_key

LONG_EN = "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm afternoon sun near the window"
LONG_RU = "Быстрая лисица прыгает через ленивую собаку, пока кошка спит на тёплом солнце возле открытого окна дома"
LONG_ZH = "这家酒店的地理位置非常好，离地铁站只有五分钟，房间干净整洁，服务员也很热情，下次还会再来住的，推荐给大家"
LONG_JA = "このホテルは駅から歩いて五分でとても便利です。部屋はきれいでスタッフも親切でした。また泊まりたいと思います"
LONG_TH = "โรงแรมนี้อยู่ใกล้สถานีรถไฟฟ้ามากห้องพักสะอาดและพนักงานบริการดีมากครั้งหน้าจะกลับมาพักอีกแน่นอนค่ะ"

words = st.text(alphabet="abcdefgh яжш中文字语 ", max_size=60)


def names(groups, texts):
    return sorted(sorted(texts[row] for row in group.rows) for group in groups)


def test_normalise_folds_what_does_not_change_the_text():
    assert normalise("  Hello\t\nWORLD ") == "hello world"
    assert normalise("ＡＢＣ\u3000１２") == "abc 12"
    assert normalise("Straße") == normalise("STRASSE")
    assert normalise("ПРИВЕТ  мир") == "привет мир"
    assert normalise("e\u0301") == normalise("\u00e9")
    assert normalise("\u00a0") == ""


@given(st.text())
def test_normalise_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


def test_key_is_the_documented_hash_and_the_same_in_every_process():
    digest = hashlib.blake2b(b"hello world", digest_size=8).digest()
    assert text_key("Hello  World") == int.from_bytes(digest, "little") == text_key("hello world")
    assert text_key("hello worlds") != text_key("hello world")
    assert 0 <= text_key("\ud800") < 2**64  # half a surrogate pair is no reason to stop


def test_shingle_length_follows_the_script():
    assert shingles("abcdef") == {"abcde", "bcdef"}
    assert shingles("привет") == {"приве", "ривет"}
    assert shingles("中文字") == {"中文", "文字"}
    assert shingles("abc") == {"abc"}
    assert shingles("中") == {"中"}
    assert shingles(" ") == frozenset()


@pytest.mark.parametrize("text", [LONG_EN, LONG_RU, LONG_ZH, LONG_JA, LONG_TH])
def test_finds_a_small_change_in_every_script(text):
    texts = ["x", text, "entirely different words stand here", text + "!", text[:-1], "", text]
    groups = near_duplicates(texts)
    assert [group.rows for group in groups] == [(1, 3, 4, 6)]
    assert groups[0].texts == 3
    assert len(groups[0].links) == 2


def test_short_texts_match_only_themselves():
    texts = ["abc", "abcd", "abd", "ab", "a", "ABC ", "好", "好的", "不好", "", "", " "]
    assert [group.rows for group in near_duplicates(texts)] == [(0, 5)]


def test_reports_the_exact_similarity():
    one, two = LONG_EN, LONG_EN.replace("lazy", "hazy")
    (link,) = near_duplicates([one, two])[0].links
    assert link.similarity == jaccard(one, two) >= 0.8
    assert near_duplicates([one, two], threshold=jaccard(one, two) + 1e-6) == []


def test_many_copies_make_one_group():
    groups = near_duplicates([LONG_EN] * 5000)
    assert len(groups) == 1
    assert groups[0].rows == tuple(range(5000))
    assert groups[0].texts == 1


def test_many_variants_of_one_template_make_one_group_in_linear_time():
    start = time.perf_counter()
    texts = [f"{LONG_EN} {LONG_EN[::-1]} number {i}" for i in range(3000)]
    assert [group.texts for group in near_duplicates(texts)] == [3000]
    assert time.perf_counter() - start < 10


def test_a_template_below_the_threshold_does_not_cost_its_square():
    rng = np.random.default_rng(0)
    texts = [f"your order {a} was sent to the warehouse {b} and arrives soon" for a, b in rng.integers(10**9, 10**10, (5000, 2))]
    start = time.perf_counter()
    assert all(len(group.rows) == 2 for group in near_duplicates(texts))
    assert time.perf_counter() - start < 10


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=8), st.integers(0, 7), st.integers(0, 60), st.randoms())
def test_finds_every_close_pair_and_links_none_under_the_threshold(texts, which, cut, random):
    if texts:  # makes close pairs likely
        base = texts[which % len(texts)] * 3
        texts += [base, base[:cut] + base[cut + 1 :]]
    groups = near_duplicates(texts)
    of = {row: group for group in groups for row in group.rows}
    assert sum(len(group.rows) for group in groups) == len(of)
    for i, one in enumerate(texts):
        for j in range(i):
            if jaccard(one, texts[j]) >= 0.95:
                assert of[i] is of[j]
    for group in groups:
        assert len(group.rows) > 1
        assert len(group.links) == group.texts - 1 == len({normalise(texts[row]) for row in group.rows}) - 1
        for link in group.links:
            assert {link.first, link.second} <= set(group.rows)
            assert link.similarity == jaccard(texts[link.first], texts[link.second]) == jaccard(texts[link.second], texts[link.first])
            assert link.similarity >= 0.8
    assert near_duplicates(texts) == groups
    shuffled = list(texts)
    random.shuffle(shuffled)
    assert names(near_duplicates(shuffled), shuffled) == names(groups, texts)


def test_the_parts_in_which_texts_come_do_not_matter():
    texts = [LONG_EN, LONG_RU, LONG_EN + " again", "x", LONG_RU[1:], LONG_EN]
    results = []
    for sizes in ([6], [1] * 6, [0, 4, 0, 2]):
        with Deduplicator() as finder:
            begin = 0
            for size in sizes:
                finder.add(texts[begin : begin + size])
                begin += size
            for row in finder.wanted().tolist():
                finder.keep(row, texts[row])
            finder.verify()
            results.append(finder.groups())
    assert results[0] == results[1] == results[2]
    assert [group.rows for group in results[0]] == [(0, 2, 5), (1, 4)]


def test_looks_up_other_rows_among_the_references():
    train, test = [LONG_EN, LONG_ZH, "x"], [LONG_EN, LONG_EN + "!", LONG_RU, LONG_RU + "!", LONG_ZH[:-1], ""]
    with Deduplicator() as finder:
        finder.add(train)
        keys = finder.add(test, reference=False)
        assert keys.tolist() == [text_key(text) for text in test]
        for row in finder.wanted().tolist():
            finder.keep(row, (train + test)[row])
        finder.verify()
        assert finder.groups() == []  # near duplicates within the test rows are not asked for
        assert [(link.first, link.second) for link in finder.matches()] == [(4, 0), (7, 1)]
        assert finder.text(4) == test[1]


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["one"]])
def test_nothing_to_find(texts):
    assert near_duplicates(texts) == []


def test_refuses_what_cannot_be_read_twice_and_thresholds_out_of_range():
    with pytest.raises(TypeError, match="read twice"):
        near_duplicates(iter(["a"]))
    for threshold in (0, 1.1, -1):
        with pytest.raises(ValueError, match="threshold"):
            near_duplicates(["a"], threshold)


def test_ten_thousand_rows_take_seconds():
    rng = np.random.default_rng(1)
    vocabulary = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(5000)]
    texts = [" ".join(vocabulary[i] for i in row) for row in rng.integers(0, 5000, (10_000, 60))]
    texts[77] = texts[5000] + " more"
    start = time.perf_counter()
    assert [group.rows for group in near_duplicates(texts)] == [(77, 5000)]
    assert time.perf_counter() - start < 5
