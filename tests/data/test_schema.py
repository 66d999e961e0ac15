"""Which column is the text and which the label; what a row's cells become."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunesmith import registry
from tunesmith.data.memory import open_data
from tunesmith.data.schema import Schema, Source, examples_of, guess_schema
from tunesmith.errors import DataError

PLACE = Source("rows.csv", 7)


def guess(columns: dict[str, list], text=None, label=None, group=None, need_label=True) -> tuple:
    schema = guess_schema(open_data(columns), text=text, label=label, group=group, need_label=need_label)
    return schema.texts[0], schema.target


LONG, SHORT = ["a long text of many words", "another long text, quite as long"], ["x", "y"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("text", "label"), ("text", "label")),
        (("label", "text"), ("text", "label")),
        (("id", "text", "label", "date"), ("text", "label")),
        (("id", "Kommentar", "label"), ("Kommentar", "label")),
        (("text", "index"), ("text", "index")),
        (("ID", "text", "Thema"), ("text", "Thema")),
        (("Text", " LABEL "), ("Text", " LABEL ")),
        (("review", "sentiment"), ("review", "sentiment")),
        (("sentence", "y"), ("sentence", "y")),
        (("title", "text", "topic"), ("text", "topic")),  # the earlier name of the list wins
        (("tags", "category", "question"), ("question", "category")),
        (("label", "what"), ("what", "label")),  # one known, one left
        (("what", "text"), ("text", "what")),
        (("文本", "label"), ("文本", "label")),
    ],
)
def test_by_name(names: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert guess(dict.fromkeys(names, SHORT)) == expected


def test_two_columns_without_known_names_by_length() -> None:
    assert guess({"q": LONG, "z": SHORT}) == ("q", "z")
    assert guess({"z": SHORT, "q": LONG}) == ("q", "z")
    assert guess({"отзыв": LONG, "оценка": SHORT}) == ("отзыв", "оценка")


@pytest.mark.parametrize(
    ("columns", "role"),
    [
        ({"a": SHORT, "b": SHORT}, "text"),
        ({"a": LONG, "b": LONG}, "text"),
        ({"a": LONG, "b": LONG, "c": SHORT}, "text"),
        ({"text": LONG, "b": SHORT, "c": SHORT}, "label"),
        ({"text": LONG}, "label"),
        ({"label": SHORT}, "text"),
        ({"a": LONG, "b": SHORT, "label": SHORT}, "text"),
        ({"a": ["the same long text"] * 2, "b": ["x", "y"]}, "text"),  # the longer is the one that repeats
    ],
)
def test_what_could_mean_more_than_one_is_asked_for(columns: dict[str, list], role: str) -> None:
    with pytest.raises(DataError, match=f"cannot tell which column is the {role}. Say it with {role}.") as caught:
        guess(columns)
    assert f"Columns: {', '.join(columns)}." in str(caught.value)


def test_named_columns() -> None:
    columns = {"text": LONG, "label": SHORT, "body2": LONG, "other": SHORT, "who": SHORT}
    assert guess(columns) == ("text", "label")
    assert guess(columns, text="body2") == ("body2", "label")
    assert guess(columns, label="other") == ("text", "other")
    assert guess(columns, text="other", label="who") == ("other", "who")
    assert guess(columns, text="label", label="text") == ("label", "text")
    assert guess_schema(open_data(columns), text=None, label=None, group="who", need_label=True) == Schema(("text",), "label", "who")
    # the group is no candidate
    assert guess({"a": LONG, "label": SHORT, "who": SHORT}, group="who") == ("a", "label")


@pytest.mark.parametrize("role", ["text", "label", "group"])
def test_a_named_column_that_is_not_there(role: str) -> None:
    with pytest.raises(DataError, match=f"there is no {role} column 'labl'. Did you mean 'label'. Columns: text, label."):
        guess({"text": LONG, "label": SHORT}, **{role: "labl"})


def test_without_a_label() -> None:
    assert guess({"what": LONG}, need_label=False) == ("what", None)
    assert guess({"id": SHORT, "text": LONG}, need_label=False) == ("text", None)
    assert guess({"id": SHORT, "text": LONG}, label="nowhere", need_label=False) == ("text", None)
    assert guess({"id": SHORT, "what": LONG}, need_label=False) == ("what", None)
    assert guess({"id": SHORT, "what": SHORT}, need_label=False) == ("what", None)
    with pytest.raises(DataError, match="cannot tell which column is the text"):
        guess({"where": SHORT, "what": SHORT}, need_label=False)
    with pytest.raises(DataError, match="'id' was passed over, as the name is that of a row's number"):
        guess({"id": LONG, "label": SHORT}, label="label")


def test_a_number_is_no_second_text() -> None:
    pair = registry.family("pair")
    columns = {"id": SHORT, "premise": LONG, "claim": LONG, "label": SHORT}
    told = {"text": "premise", "label": "label", "group": None, "family": pair}
    assert guess_schema(open_data(columns), **told).texts == ("premise", "claim")
    with pytest.raises(DataError, match="cannot tell which column is the second text"):
        guess_schema(open_data({name: values for name, values in columns.items() if name != "claim"}), **told)
    with pytest.raises(DataError, match="cannot tell which column is the text"):
        guess_schema(open_data({"id": SHORT, "claim": LONG, "label": SHORT}), text=None, text_pair="claim", label="label", group=None)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("a b", "a b"),
        (None, ""),
        ("", ""),
        (" x ", " x "),
        (3, "3"),
        (2.5, "2.5"),
        (math.nan, ""),
        ("猫 кот 🐈", "猫 кот 🐈"),
        ("a\ud83d", "a?"),
    ],
)
def test_cells_of_text(cell: object, text: str) -> None:
    assert Schema(("t",)).parse({"t": cell}, PLACE).texts == (text,)


@pytest.mark.parametrize("cell", [["a"], {"a": 1}, True, b"bytes"])
def test_cells_that_are_no_text(cell: object) -> None:
    with pytest.raises(DataError, match=r"rows\.csv:7: column 't' holds .*a text is expected"):
        Schema(("t",)).parse({"t": cell}, PLACE)


@pytest.mark.parametrize(
    ("cell", "target", "is_list"),
    [
        ("a", ["a"], False),
        (" a b ", ["a b"], False),
        ("", None, False),
        ("  ", None, False),
        (None, None, False),
        (math.nan, None, False),
        (0, ["0"], False),
        (3.0, ["3"], False),
        (3.5, ["3.5"], False),
        (True, ["True"], False),
        (["a", " b", None, "", "a "], ["a", "b"], True),
        ([], [], True),
        ([1.0, 2], ["1", "2"], True),
        (("a",), ["a"], True),
        ("猫", ["猫"], False),
    ],
)
def test_cells_of_labels(cell: object, target: list[str] | None, is_list: bool) -> None:
    example = Schema(("t",), "y").parse({"t": "x", "y": cell}, PLACE)
    assert (example.target, example.target_is_list) == (target, is_list)


@pytest.mark.parametrize("cell", [{"a": 1}, b"x", [["a"]]])
def test_cells_that_are_no_label(cell: object) -> None:
    with pytest.raises(DataError, match=r"rows\.csv:7: column 'y' holds .*a label is"):
        Schema(("t",), "y").parse({"t": "x", "y": cell}, PLACE)


def test_a_group_that_may_be_missing() -> None:
    schema = Schema(("t",), None, "g", needs_group=False)
    for missing in (None, ""):
        assert schema.parse({"t": "", "g": missing}, PLACE).group_key == 0
    assert schema.parse({"t": "", "g": 0}, PLACE).group_key != 0


def test_groups() -> None:
    schema = Schema(("t",), None, "g")
    one, same, other = (schema.parse({"t": "", "g": group}, PLACE) for group in (1, "1", "2"))
    assert one.group_key == same.group_key != other.group_key
    assert schema.parse({"t": "", "g": 0}, PLACE).group == "0"
    for empty in (None, ""):
        with pytest.raises(DataError, match=r"rows\.csv:7: column 'g' is empty, but rows are grouped by it"):
            schema.parse({"t": "", "g": empty}, PLACE)


def test_examples_of_chosen_rows_in_the_order_asked_for() -> None:
    source = open_data(list("abcdef"))
    assert [example.texts for example in examples_of(source, Schema(("text",)), np.array([4, 0, 2]))] == [("e",), ("a",), ("c",)]
    assert examples_of(source, Schema(("text",)), np.array([], int)) == []
    with pytest.raises(DataError, match="the file changed while it was in use: it has fewer rows now"):
        examples_of(source, Schema(("text",)), np.array([9]))


def test_schema_to_dict() -> None:
    assert Schema(("t",), "y", "g").to_dict() == {"texts": ["t"], "target": "y", "group": "g"}
