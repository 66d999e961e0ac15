"""SQuAD's JSON and rows of questions: what is read, what is put right, what is refused and where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import Config
from tunesmith.data.readers import open_file
from tunesmith.data.schema import Example, Schema, Source, choose_task, guess_schema
from tunesmith.data.squad import COLUMNS
from tunesmith.errors import DataError, TunesmithError
from tunesmith.registry import family

PASSAGE = "Ada met Ada in Paris. 🦊 fox"
READ = family("qa").read


def nested(*questions: dict[str, Any], context: str = PASSAGE) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def write(path: Path, content: Any, **how: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, **how), encoding="utf-8")
    return path


def parse(row: dict[str, Any], target: str | None = "answers") -> Example:
    row = {"question": "Who?", "context": PASSAGE, **row}
    return Schema(("question", "context"), target, read=READ).parse(row, Source("f", 7))


def pieces(example: Example) -> list[tuple[int, str]]:
    return [(start, example.texts[1][start:end]) for start, end in example.spans]


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_json_becomes_flat_rows(tmp_path: Path, indent: int | None) -> None:
    one = {"id": "a", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 15}]}
    two = {"id": "b", "question": "When?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "Ada", "answer_start": 0}]}
    three = {"id": "c", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}], "start_ambiguous": True}
    content = nested(one, two, three)
    content["data"].append({"title": "U", "paragraphs": [{"context": "x", "qas": [{"id": "d", "question": "No answers yet?"}]}]})
    source = open_file(write(tmp_path / "s.json", content, indent=indent))
    assert source.columns == COLUMNS
    rows = list(source)
    assert [place.line for _, place in rows] == [1, 2, 3, 4]
    assert rows == list(source)  # again from the start
    assert choose_task(source, Config()) == "qa"
    schema = guess_schema(source, text=None, label=None, group=None, family=family("qa"))
    assert schema.texts == ("question", "context") and schema.target == "answers"
    examples = [schema.parse(row, place) for row, place in rows]
    assert [example.target for example in examples] == [["Paris"], [], ["Ada"], None]
    assert [pieces(example) for example in examples] == [[(15, "Paris")], [], [(0, "Ada"), (8, "Ada")], []]
    assert rows[3][0]["title"] == "U" and rows[0][0]["id"] == "a"


def test_other_json_is_recognised_by_its_content(tmp_path: Path) -> None:
    rows = [{"question": "q", "context": PASSAGE, "answers": ["Paris"]}, {"question": "r", "context": "c"}]
    for content in (rows, {"version": 1, "data": rows}):
        source = open_file(write(tmp_path / "r.json", content))
        assert source.columns == ("question", "context", "answers")
        assert [row for row, _ in source] == [rows[0], {**rows[1], "answers": None}]
    assert [row for row, _ in open_file(write(tmp_path / "t.json", [{"text": "a", "label": "b"}]))] == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\n{"text": "b"}', "named .jsonl"),
        ('{"data": [{"a": 1}, ', "x.json"),
        ('{"data": [1]}', "int 1 where an object is expected"),
        ('{"data": {"a": 1}}', "no list"),
        ('{"data": []}', "no rows"),
        ("[]", "no rows"),
        ("  ", "no list"),
        ('{"a" 1}', "x.json:1"),
        ("{'a': 1}", "x.json:1"),
        ('[{"a": 1} {"a": 2}]', "cut short or damaged"),
        ('[{"a": 1}', "cut short or damaged"),
        ('{"data": [\n{"paragraphs": 3}]}', "'paragraphs' must be a list"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [1]}]}]}', "'qas' must be a list"),
        ("[" * 20000, "nested too deeply"),
        ('[{"": 1}]', "has no name"),
    ],
)
def test_damaged_json_is_refused_with_its_place(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        list(open_file(write(tmp_path / "x.json", content)))
    assert says in str(caught.value) and "x.json" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        [{"text": "Paris", "answer_start": 15}],
        {"text": ["Paris"], "answer_start": [15]},
        {"text": "Paris", "answer_start": 15},
        ["Paris"],
        "Paris",
        '{"text": ["Paris"], "answer_start": [15]}',
        '["Paris"]',
        [{"text": " Paris ", "answer_start": 14}],
        [{"text": "Paris", "start": 15.0}],
        [{"text": "Paris", "answer_start": "15"}],
    ],
)
def test_every_form_of_answers(value: Any) -> None:
    example = parse({"answers": value})
    assert example.target == ["Paris"] and pieces(example) == [(15, "Paris")] and example.target_is_list and not example.mended


def test_an_answer_with_its_start_in_a_column_and_characters_count_not_bytes() -> None:
    example = parse({"answer": "fox", "answer_start": "24"}, "answer")
    assert pieces(example) == [(24, "fox")]
    assert pieces(parse({"answer": "🦊 fox", "answer_start": ""}, "answer")) == [(22, "🦊 fox")]


def test_an_answer_in_brackets_is_a_text() -> None:
    example = parse({"answer": "[42]", "answer_start": "4", "context": "see [42] and 42"}, "answer")
    assert pieces(example) == [(4, "[42]")]
    assert parse({"answer": '["Paris", null]'}, "answer").target == ["Paris"]
    assert pieces(parse({"answer": "[sic]", "context": "he sayed [sic] it"}, "answer")) == [(9, "[sic]")]


def test_an_answer_without_a_start_may_be_at_every_place() -> None:
    assert pieces(parse({"answers": ["Ada"]})) == [(0, "Ada"), (8, "Ada")]
    assert pieces(parse({"answers": [{"text": "Ada", "answer_start": 8}]})) == [(8, "Ada")]
    assert pieces(parse({"answers": [{"text": "Ada", "answer_start": 8}], "start_ambiguous": "true"})) == [(0, "Ada"), (8, "Ada")]
    assert pieces(parse({"answers": ["aa"], "context": "aaa"})) == [(0, "aa"), (1, "aa")]  # places may overlap


def test_answers_at_the_wrong_place_are_put_right_and_said() -> None:
    moved = parse({"answers": [{"text": "Ada", "answer_start": 7}]})
    assert pieces(moved) == [(8, "Ada")] and moved.mended == ("answer moved to where its text is",)
    assert pieces(parse({"answers": [{"text": "Ada", "answer_start": -5}]})) == [(0, "Ada")]
    other = parse({"answers": [{"text": "London", "answer_start": 3}, "Paris"]})
    assert other.target == ["London", "Paris"] and pieces(other) == [(15, "Paris")] and other.mended == ("answer not in the passage",)


@pytest.mark.parametrize(
    "row", [{"answers": []}, {"answers": ["Ada"], "is_impossible": True}, {"answers": "[]"}, {"is_impossible": "True"}]
)
def test_questions_without_an_answer(row: dict[str, Any]) -> None:
    assert parse(row).target == [] and parse(row).spans == ()


@pytest.mark.parametrize("row", [{}, {"answers": None}, {"answers": ""}, {"answers": "  ", "is_impossible": False}])
def test_what_says_nothing_is_missing(row: dict[str, Any]) -> None:
    assert parse(row).target is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"answers": ["London"]}, "f:7: the answer 'London' is not in the passage"),
        ({"answers": [" "]}, "have no text"),
        ({"answers": [{"answer_start": 3}]}, "have no text"),
        ({"answers": {"text": ["a", "b"], "answer_start": [1]}}, "2 answers, but 1 values"),
        ({"answers": [{"text": "Ada", "answer_start": "x"}]}, "answer_start is 'x'"),
        ({"answers": [{"text": "Ada", "answer_start": 1.5}]}, "answer_start is 1.5"),
        ({"answers": [{"text": "Ada", "answer_start": True}]}, "answer_start is True"),
        ({"answers": [{"text": "Ada", "answer_start": 10**400}]}, "answer_start is"),
        ({"answers": [{"text": ["x"]}]}, "a text is expected"),
        ({"answers": "Ada", "context": ["x"]}, "a text is expected"),
        ({"answers": "Ada", "context": ""}, "is not in the passage (column 'context'), which is empty"),
        ({"answers": "LONDON  town", "context": "A London town."}, "it has 'London town'"),
    ],
)
def test_wrong_rows_are_refused_with_their_place(row: dict[str, Any], says: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        parse(row)
    assert says in str(caught.value) and str(caught.value).startswith("f:7")


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "questions", "none", "mended"),
    [
        ("squad/dev-v1.1.json", 10_570, 0, 0),
        ("squad/dev-v2.0.json", 11_873, 5_945, 0),
        ("cmrc2018/cmrc2018_trial.json", 1_002, 0, 5),
        ("cmrc2018/cmrc2018_dev.json", 3_219, 0, 200),
    ],
)
def test_real_files_are_read_whole(file: str, questions: int, none: int, mended: int) -> None:
    source = open_file(Path(os.environ["TUNESMITH_DATA"]) / file)
    schema = guess_schema(source, text=None, label=None, group=None, family=family("qa"))
    found = [schema.parse(row, place) for row, place in source]
    assert len(found) == questions and sum(example.target == [] for example in found) == none
    assert all(example.texts[1][start:end] in (example.target or ()) for example in found for start, end in example.spans)
    assert all(bool(example.spans) == bool(example.target) for example in found)
    assert sum(len(example.mended) for example in found) <= mended
