import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.audit import audit, findings
from tunesmith.data.audit_labels import recognise
from tunesmith.data.schema import Schema, Source
from tunesmith.data.text_faults import faults, script, snippet
from tunesmith.data.tokens import Truncation
from tunesmith.errors import DataError
from tunesmith.progress import QUIET
from tunesmith.report.audit_text import render_audit

LONG_EN = "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm afternoon sun near the window"
LONG_RU = "Быстрая лисица прыгает через ленивую собаку, пока кошка спит на тёплом солнце возле открытого окна дома"
LONG_ZH = "这家酒店的地理位置非常好，离地铁站只有五分钟，房间干净整洁，服务员也很热情，下次还会再来住的，推荐给大家"


class Rows:
    """A `RowSource` over tuples, with the first row on line 2 as in a CSV file."""

    def __init__(self, rows, name="train.csv", columns=("text", "label")):
        self.name, self.columns, self.rows = name, columns, list(rows)

    def __iter__(self):
        for line, row in enumerate(self.rows, 2):
            yield dict(zip(self.columns, row, strict=True)), Source(self.name, line)

    def fingerprint(self, progress=QUIET):
        return str(self.rows)


def words(texts):
    return [len(text.split()) for text in texts]


def check(rows, test=None, *, text="text", label="label", max_length=10, special_tokens=2, stride=2, max_windows=3, **settings):
    given = {"count_tokens": words, "label_separator": None, "progress": QUIET, **settings}
    truncation = Truncation("head", max_length, stride, max_windows)
    other = None if test is None else Rows(test, "test.csv")
    return audit(Rows(rows), Schema((text,), label), other=other, truncation=truncation, budget=max_length - special_tokens, **given)


def said(result, severity=None):
    return [finding.text for finding in findings(result) if severity in (None, finding.severity)]


def fine(count=40):
    """Rows without fault, all texts different."""
    subjects = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]
    return [(f"{subjects[i % 8]} {i * 7919 % 1000:03d} {subjects[i // 8 % 8]} {i * 104729 % 9973}", "pn"[i % 2]) for i in range(count)]


def test_a_clean_file_has_counts_and_nothing_to_correct():
    result = check(fine(), max_length=8)
    assert (result.rows, result.columns, result.labels.counts) == (40, ("text", "label"), {"n": 20, "p": 20})
    assert result.labels.imbalance == 1
    assert result.scripts == {"Latin": 1.0}
    assert findings(result) == []
    assert "Nothing to correct" in render_audit(result)


def test_is_json():
    result = check([*fine(), ("", None), (LONG_ZH, "p"), (LONG_ZH, "n")], [(LONG_ZH, "q")])
    back = json.loads(json.dumps(dataclasses.asdict(result), ensure_ascii=False))
    assert back["rows"] == 43
    assert back["leakage"]["exact"]["examples"][0]["places"] == ["test.csv:2", "train.csv:43"]


def test_counts_empty_texts_and_missing_labels_with_their_lines():
    rows = [
        ("a b", "x"),
        ("", "x"),
        (" \t", "y"),
        (None, "y"),
        (float("nan"), "y"),
        ("c d", None),
        ("e f", ""),
        ("g h", " "),
        ("i", float("nan")),
    ]
    result = check(rows)
    assert result.empty.rows == 4
    assert [example.places[0] for example in result.empty.examples] == ["train.csv:3", "train.csv:4", "train.csv:5", "train.csv:6"]
    assert result.labels.missing.rows == 4
    assert [example.places for example in result.labels.missing.examples] == [(f"train.csv:{line}",) for line in (7, 8, 9, 10)]
    assert result.repeats.rows == 0  # empty texts are not copies of one another
    assert any("4 rows of 9 have no label (train.csv:7, train.csv:8, train.csv:9, …)" in text for text in said(result, "error"))


def test_repeats_conflicts_and_near_duplicates():
    rows = [
        (LONG_EN, "a"),
        ("Привет,  МИР", "a"),
        ("x y", "a"),
        ("привет, мир", "b"),
        (LONG_EN.upper(), "a"),
        (LONG_EN + "!", "b"),
        ("X Y", None),
    ]
    result = check(rows)
    assert (result.repeats.groups, result.repeats.rows) == (3, 3)
    assert [example.places for example in result.repeats.examples] == [
        ("train.csv:2", "train.csv:6"), ("train.csv:3", "train.csv:5"), ("train.csv:4", "train.csv:8"),
    ]  # fmt: skip
    assert (result.conflicts.groups, result.conflicts.rows) == (1, 2)
    assert result.conflicts.examples[0].places == ("train.csv:3", "train.csv:5")
    assert result.conflicts.examples[0].note == "'a' / 'b'"
    assert (result.near.groups, result.near.rows) == (1, 3)
    assert result.near.examples[0].places == ("train.csv:2", "train.csv:7")
    assert "labels 'a' / 'b'" in result.near.examples[0].note


def test_five_thousand_copies_are_one_group_with_few_examples():
    result = check([(LONG_RU, "a")] * 5000)
    assert (result.repeats.rows, result.repeats.groups, result.near.rows) == (4999, 1, 0)
    assert len(result.repeats.examples[0].places) == 5
    assert result.repeats.examples[0].note == "5,000 times"


def test_labels_in_another_order_are_no_conflict():
    result = check([("one two", "a|b"), ("one two", "b|a"), ("three", "a|c"), ("three", "a"), ("four", "b|c")], label_separator="|")
    assert result.labels.kind == "multi"
    assert result.labels.counts == {"a": 4, "b": 3, "c": 2}
    assert (result.conflicts.groups, result.conflicts.examples[0].places) == (1, ("train.csv:4", "train.csv:5"))


def test_lists_of_labels_and_the_empty_list():
    result = check([("one", ["a", "b, c"]), ("two", ["a"]), ("three", []), ("one", ["b, c", "a"])])
    assert (result.labels.kind, result.labels.separator) == ("multi", None)
    assert result.labels.counts == {"a": 3, "b, c": 2}
    assert (result.labels.missing.rows, result.conflicts.rows) == (0, 0)
    result = check([("one", []), ("one", ["tech", "life"]), ("two", ["tech"]), ("two", ["life"])])
    assert [example.note for example in result.conflicts.examples] == ["(none) / 'tech, life'", "'tech' / 'life'"]
    assert "\x1f" not in render_audit(result) and "x1f" not in render_audit(result)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"a|b": 3, "a": 2, "b|c": 2, "c": 1, "a|c": 1}, ("multi", "|")),
        ({"Food, drinks": 5, "Cars, bikes": 5}, ("single", None)),
        ({"1": 10, "2": 10, "3.5": 4}, ("single", None)),
        ({str(i): 50 for i in range(150)}, ("single", None)),
        ({str(i): 1 for i in range(150)}, ("number", None)),
        ({f"{i / 8}": 9 for i in range(150)}, ("number", None)),
        ({}, ("single", None)),
    ],
)
def test_recognises_what_kind_of_labels_there_are(cells, expected):
    assert recognise(cells, None, False) == expected


def test_leakage_exact_near_contradicted_and_unseen():
    train = [*fine(), (LONG_EN, "p"), (LONG_ZH, "n"), (LONG_RU, "n"), (LONG_RU.upper(), "p")]
    test = [
        ("  " + LONG_EN.upper(), "p"),
        (LONG_ZH, "p"),
        (LONG_RU, "p"),
        (LONG_EN + "!", "p"),
        (LONG_ZH[:-1], "new"),
        ("unlike", "n"),
        ("", "n"),
    ]
    leak = check(train, test).leakage
    assert (leak.rows, leak.exact.rows, leak.near.rows, leak.contradicted, leak.unseen) == (7, 3, 2, 1, {"new": 1})
    assert [example.places for example in leak.exact.examples] == [
        ("test.csv:2", "train.csv:42"), ("test.csv:3", "train.csv:43"), ("test.csv:4", "train.csv:44"),
    ]  # fmt: skip
    assert [example.places for example in leak.near.examples] == [("test.csv:5", "train.csv:42"), ("test.csv:6", "train.csv:43")]
    errors = said(check(train, test), "error")
    assert any("3 test rows of 7 (42.9%) repeat a text of train.csv (first: test.csv:2 = train.csv:42)" in text for text in errors)
    assert any("'new' (1)" in text for text in errors)


def test_the_test_file_changes_nothing_in_what_is_said_about_the_training_file():
    train = [*fine(), (LONG_EN, "p"), (LONG_EN + " and so on to the end", "p")]
    bridge = [(LONG_EN + " and so", "p"), (LONG_EN, "q")]
    assert dataclasses.replace(check(train, bridge), leakage=None) == check(train)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "A ", "b", "ｂ", "中", "", "c d", "C  D"]), max_size=12),
    st.lists(st.sampled_from(["a", "B", "中", "", "z"]), max_size=8),
)
def test_exact_leakage_equals_brute_force(train, test):
    def fold(text):
        return " ".join(text.lower().replace("ｂ", "b").split())

    known = {fold(text) for text in train} - {""}
    result = check([(text, "x") for text in train], [(text, "x") for text in test])
    assert result.leakage.exact.rows == sum(fold(text) in known for text in test)
    assert result.repeats.rows == sum(fold(text) != "" for text in train) - len(known)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=15), st.integers(1, 12), st.integers(0, 3), st.integers(0, 11), st.integers(1, 4))
def test_lengths_and_losses_equal_brute_force(lengths, budget, special, stride, max_windows):
    rows = [(" ".join(["w"] * n), "x") for n in lengths]
    result = check(rows, max_length=budget + special, special_tokens=special, stride=stride, max_windows=max_windows).lengths
    total = sum(lengths)
    assert (result.budget, result.total, result.mean) == (budget, total, total / len(lengths))
    assert (result.percentiles["min"], result.percentiles["max"]) == (min(lengths), max(lengths))
    assert sum(n <= result.percentiles["50"] for n in lengths) * 2 >= len(lengths)

    def covered(policy, n):
        if policy == "head":
            return set(range(min(n, budget)))
        if policy == "tail":
            return set(range(max(n - budget, 0), n))
        if policy == "head-tail":
            return set(range(n)) if n <= budget else set(range(budget // 4)) | set(range(n - (budget - budget // 4), n))
        starts = range(0, max(n, 1), budget - stride)
        return {i for start in list(starts)[:max_windows] for i in range(start, min(start + budget, n))}

    assert ("windows" in result.policies) == (stride < budget)
    for policy, loss in result.policies.items():
        lost = [n - len(covered(policy, n)) for n in lengths]
        assert (loss.tokens, loss.rows) == (sum(lost), sum(n > 0 for n in lost))
        assert loss.share_of_rows == loss.rows / len(lengths)
        assert loss.share_of_tokens == (loss.tokens / total if total else 0)


def test_labels_that_may_be_one():
    rows = [(f"text number {i}", "neutral") for i in range(300)]
    rows += [(f"other words {i}", "Very good") for i in range(100)] + [(f"more of it {i}", "atypical") for i in range(100)]
    rows += [("q1", "neutal"), ("q2", "netural"), ("q3", "very_good"), ("q4", "typical"), ("q5", "NEUTRAL"), ("q6", "class 1")]
    rows += [(f"numbered {i}", "class 2") for i in range(100)]
    labels = check(rows).labels
    assert {(variant.label, variant.like) for variant in labels.variants} == {
        ("neutal", "neutral"), ("netural", "neutral"), ("NEUTRAL", "neutral"), ("very_good", "Very good"),
    }  # fmt: skip
    assert labels.single == ("NEUTRAL", "class 1", "netural", "neutal", "typical", "very_good")
    assert labels.imbalance == 300
    assert any("'neutal' (1 row) may be 'neutral' (300 rows)" in text for text in said(check(rows), "warning"))


def test_rare_labels_placeholders_and_only_one_label():
    result = check([*fine(), ("some words", "nan"), ("other ones", "rare"), ("and more", "rare")])
    assert result.labels.placeholders == {"nan": 1}
    assert (result.labels.single, result.labels.few) == (("nan",), {"rare": 2})
    assert any("only the label 'x'" in text for text in said(check([("a", "x"), ("b", "x")]), "error"))
    assert any("no label at all" in text for text in said(check([("a", "")]), "error"))


def test_identifiers_and_measured_values_are_no_labels():
    assert any("identifier" in text for text in said(check([(f"some text {i}", f"id-{i}") for i in range(50)]), "error"))
    result = check([(f"some text {i}", i / 7) for i in range(50)])
    assert (result.labels.kind, result.labels.distinct) == ("number", 50)
    assert any("measured value" in text for text in said(result, "error"))


def test_a_label_that_stands_in_its_texts():
    rows = [(f"I felt JOY {i}", "joy") for i in range(20)] + [(f"nothing of the kind, possibly {i}", "poss") for i in range(20)]
    rows += [(f"这是体育新闻{i}", "体育") for i in range(20)]
    assert [(found.label, found.rows, found.share) for found in check(rows).labels.in_text] == [("joy", 20, 1.0), ("体育", 20, 1.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words, 1 < 2 & 3 > 2", []),
        ("caf\ufffd", ["undecoded"]),
        ("cafÃ©", ["mojibake"]),
        ("itâ€™s", ["mojibake"]),
        ("привет".encode().decode("latin-1"), ["mojibake", "control"]),
        ("中文字".encode().decode("latin-1"), ["mojibake", "control"]),
        ("Grüße".encode().decode("cp1252"), ["mojibake"]),
        ("« CAFÉ» et café…” où ça, MENÜ“, señor, ÀÉÂ Ã", []),
        ("Привет, мир — это «текст» № 5", []),
        ("酒店很好，下次还来！", []),
        ("tab\tand\nnew line", []),
        ("bell\x07", ["control"]),
        ("a\x96b", ["control"]),
        ("one<br />two", ["html"]),
        ("Tom &amp; Jerry", ["html"]),
        ("a" * 1_000_001, ["huge"]),
    ],
)
def test_faults_of_a_text(text, expected):
    assert faults(text) == expected


def test_faults_are_counted_with_places():
    result = check([("ok", "a"), ("cafÃ© crème", "a"), ("<b>x</b>", "b"), ("\x1b[31mred", "b"), ("caf\ufffd", "a")])
    assert [getattr(result, name).rows for name in ("undecoded", "mojibake", "control", "html", "huge")] == [1, 1, 1, 1, 0]
    assert result.mojibake.examples[0].places == ("train.csv:3",)
    assert result.control.examples[0].texts == ("\\x1b[31mred",)
    assert "\x1b" not in render_audit(result)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG_EN, "Latin"),
        (LONG_RU, "Cyrillic"),
        (LONG_ZH, "Han"),
        ("これは日本語です", "Japanese"),
        ("안녕하세요", "Hangul"),
        ("สวัสดี", "Thai"),
        ("مرحبا", "Arabic"),
        ("12 :)", "none"),
        ("ｆｕｌｌ", "Latin"),
        ("grün", "Latin"),
    ],
)
def test_script(text, expected):
    assert script(text) == expected


def test_snippet_shows_the_place_on_one_line():
    assert snippet("short\ntext") == "short text"
    assert len(snippet("x" * 500)) == 91
    around = snippet("a" * 300 + "HERE" + "b" * 300, 300)
    assert "HERE" in around and around.startswith("…") and around.endswith("…")


def test_an_empty_file_and_a_file_of_empty_rows():
    result = check([])
    assert said(result) == ["train.csv has no rows."]
    assert (result.lengths, result.labels.imbalance) == (None, None)
    assert "0 rows" in render_audit(result)
    result = check([("", "")], [])
    assert "1 row has no text" in said(result, "error")[0]
    assert render_audit(result)


def test_without_labels_and_with_a_test_file_without_them():
    assert check(fine(), label=None).labels is None
    test = Rows([(LONG_EN,)], "test.csv", ("text",))
    result = audit(
        Rows([*fine(), (LONG_EN, "p")]), Schema(("text",), "label"), other=test, count_tokens=words, truncation=Truncation("head", 10),
        budget=8, label_separator=None, progress=QUIET,
    )  # fmt: skip
    assert (result.leakage.exact.rows, result.leakage.contradicted, result.leakage.unseen) == (1, 0, {})


def test_errors_name_the_place_and_the_way_out():
    with pytest.raises(DataError, match=r"train\.csv: there is no column 'txt'\. Did you mean 'text'\?"):
        check(fine(), text="txt")
    with pytest.raises(DataError, match="no column 'lable'"):
        check(fine(), label="lable")
    with pytest.raises(DataError, match=r"test\.csv: there is no column 'text'"):
        audit(
            Rows(fine()), Schema(("text",), "label"), other=Rows(fine(), "test.csv", ("body", "label")), count_tokens=words,
            truncation=Truncation("head", 10), budget=8, label_separator=None, progress=QUIET,
        )  # fmt: skip


def test_pairs_are_repeated_when_both_texts_are_and_lose_what_the_longer_side_loses():
    pairs = [(f"alpha {i} bravo", f"charlie delta echo {i * 7} foxtrot golf hotel", "yes" if i % 2 else "no") for i in range(40)]
    rows = Rows([*pairs, pairs[0], (pairs[0][0], "something else here", "no")], columns=("premise", "hypothesis", "label"))
    result = audit(
        rows, Schema(("premise", "hypothesis"), "label"), other=None, count_tokens=words, truncation=Truncation("head", 11, 1, 9), budget=8,
        label_separator=None, progress=QUIET,
    )  # fmt: skip
    assert result.text == "premise and hypothesis"
    assert result.repeats.rows == 1 and result.repeats.examples[0].texts[0].startswith("alpha 0 bravo ‖ charlie delta")
    assert (result.lengths.percentiles["max"], result.lengths.percentiles["min"]) == (10, 6)
    losses = {policy: (loss.rows, loss.tokens, loss.sequences) for policy, loss in result.lengths.policies.items()}
    assert losses["head"] == losses["tail"] == losses["head-tail"] == (41, 82, 42)
    assert losses["windows"] == (0, 0, 83)


@pytest.mark.parametrize(
    ("longest", "max_length", "advised"), [(12, 256, 16), (15, 256, 32), (51, 256, 64), (52, 256, 80), (7, 16, None), (100, 128, None)]
)
def test_a_shorter_max_length_leaves_headroom(longest, max_length, advised):
    rows = [*fine(), (" ".join(f"w{i}" for i in range(longest - 2)), "p")]
    advice = [finding.advice for finding in findings(check(rows, max_length=max_length)) if "no text needs more" in finding.text]
    right = [f"--max-length {advised} leaves headroom" in text and "new texts may be longer" in text for text in advice]
    assert right == ([True] if advised else [])


def test_advice_on_windows_and_copies():
    long = " ".join(f"w{i}" for i in range(200))
    for max_windows, words in ((3, "--max-windows, now 3"), (100, None)):
        advice = " ".join(finding.advice for finding in findings(check([*fine(), (long, "p")], max_windows=max_windows)))
        assert "--truncation windows loses" in advice and (words in advice if words else "--max-windows" not in advice)
    advice = " ".join(finding.advice for finding in findings(check([*fine(), *fine()[:3]])))
    assert "own splits keep copies on one side, a random split made elsewhere would not" in advice


def test_findings_come_most_severe_first_and_stand_at_the_end():
    result = check([*fine(), (LONG_EN, ""), (LONG_EN, "p"), ("cafÃ©", "n"), ("<br>", "n")])
    order = [finding.severity for finding in findings(result)]
    assert order == sorted(order, key=["error", "warning", "note"].index) and set(order) == {"error", "warning", "note"}
    assert all(finding.text.endswith(".") and finding.advice.endswith((".", "?")) for finding in findings(result))
    text = render_audit(result)
    assert text.index("What to act upon: ") > text.index("Tokens per text")
    assert text.index("What to act upon: ") < text.index("have no label" if "have no label" in text else "has no label")


def test_rendering_keeps_columns_aligned_and_lines_short():
    rows = [(f"{LONG_ZH}{i}", "非常好的评价") for i in range(30)] + [(f"{LONG_EN * 3} {i}", "a very long label " * 5) for i in range(10)]
    rows += [(f"{LONG_RU} {i}", f"метка {i % 30}") for i in range(60)]
    text = render_audit(check(rows))
    labels = [line for line in text.splitlines() if line.startswith("  ") and "%" in line and ("█" in line or "▏" in line)]
    assert len(labels) == 20 and "… 12 more labels …" in text

    def wide(part):
        return sum(2 if "\u2e80" <= c <= "\u9fff" else 1 for c in part)

    assert len({wide(line[: line.index("%")]) for line in labels}) == 1
    assert max(wide(line) for line in text.splitlines()) <= 110


def test_twenty_thousand_rows_take_seconds():
    rng = np.random.default_rng(0)
    vocabulary = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(3000)]
    rows = [(" ".join(vocabulary[i] for i in row), "ab"[row[0] % 2]) for row in rng.integers(0, 3000, (20_000, 20))]
    start = time.perf_counter()
    assert check(rows).rows == 20_000
    assert time.perf_counter() - start < 8


@pytest.mark.real
def test_known_leakage_of_imdb():
    from tunesmith.data.readers import open_file

    folder = Path(os.environ["TUNESMITH_DATA"]) / "imdb"
    result = audit(
        open_file(folder / "train.csv"), Schema(("text",), "label"), other=open_file(folder / "test.csv"), count_tokens=words,
        truncation=Truncation(), budget=254, label_separator=None, progress=QUIET,
    )  # fmt: skip
    assert result.leakage.exact.rows == 123
