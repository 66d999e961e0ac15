"""Tagging schemes: entities as seqeval finds them, and the way from one scheme to another and back."""

from __future__ import annotations

import itertools
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from tunesmith.data.schemes import (
    LETTERS,
    Entity,
    allowed,
    convert,
    default_entities,
    faults,
    openings,
    recognise,
    split_tag,
    strangers,
    strict_entities,
    types,
    write,
    written_otherwise,
)

SCHEMES = sorted(LETTERS)


def any_tags(letters: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(["O", *(f"{letter}-{label}" for letter in letters for label in ("PER", "LOC-x"))]), max_size=9)


@st.composite
def spans(draw: st.DrawFn) -> tuple[list[Entity], int]:
    """Entities that do not overlap, and a number of words that holds them."""
    found, at = [], 0
    for size, gap, label in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.sampled_from(["PER", "LOC"])), max_size=5)):
        found.append(Entity(at + gap, at + gap + size, label))
        at += gap + size
    return found, at + draw(st.integers(0, 2))


@given(any_tags("BIES"))
def test_default_entities_are_seqevals(tags: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = [(start, end + 1, label) for label, start, end in get_entities(tags)]
    assert default_entities(tags) == theirs
    assert default_entities([tag.replace("I-", "M-") for tag in tags]) == theirs
    assert default_entities([tag.replace("E-", "L-").replace("S-", "U-") for tag in tags]) == theirs


@given(any_tags("BI"))
def test_strict_entities_of_bio_are_seqevals(tags: list[str]) -> None:
    theirs = [(one.start, one.end, one.tag) for one in Entities([tags], IOB2).entities[0]]
    assert strict_entities(tags, "bio") == theirs


@given(any_tags("BIES"))
def test_strict_entities_of_bioes_and_bmes_are_seqevals(tags: list[str]) -> None:
    theirs = [(one.start, one.end, one.tag) for one in Entities([tags], IOBES).entities[0]]
    assert strict_entities(tags, "bioes") == theirs
    assert strict_entities([tag.replace("I-", "M-") for tag in tags], "bmes") == theirs


@given(any_tags("BILU"))
def test_strict_entities_of_bilou_are_seqevals(tags: list[str]) -> None:
    theirs = [(one.start, one.end, one.tag) for one in Entities([tags], BILOU).entities[0]]
    assert strict_entities(tags, "bilou") == theirs


@given(spans())
def test_iob1_is_told_from_bio_and_read_as_seqeval_reads_it(given_spans: tuple[list[Entity], int]) -> None:
    entities, length = given_spans
    bio = write(entities, length, "bio")
    behind = {one.start for two, one in itertools.pairwise(entities) if two.end == one.start and two.label == one.label}
    iob1 = [tag.replace("B-", "I-") if i not in behind else tag for i, tag in enumerate(bio)]
    assert [(one.start, one.end, one.tag) for one in Entities([iob1], IOB1).entities[0]] == entities
    assert faults(iob1, "iob1") == [] and convert(iob1, "iob1", "bio") == bio
    assert recognise(bio, openings(bio)) == ("bio" if entities else None)
    if behind:
        assert recognise(iob1, openings(iob1)) == "iob1" and faults(iob1, "bio")


@pytest.mark.parametrize("scheme", ["bio", "bioes", "bmes", "bilou"])
@given(spans())
def test_what_is_written_is_read_again_and_has_no_fault(scheme: str, given_spans: tuple[list[Entity], int]) -> None:
    entities, length = given_spans
    tags = write(entities, length, scheme)
    assert strict_entities(tags, scheme) == default_entities(tags) == entities
    assert faults(tags, scheme) == []
    for other in ("bio", "bioes", "bmes", "bilou"):
        assert convert(convert(tags, scheme, other), other, scheme) == tags
        assert default_entities(convert(tags, scheme, other)) == entities


@given(spans())
def test_io_keeps_the_words_of_entities_and_joins_neighbours_of_one_type(given_spans: tuple[list[Entity], int]) -> None:
    entities, length = given_spans
    tags = write(entities, length, "io")
    assert [split_tag(tag)[1] for tag in tags] == [split_tag(tag)[1] for tag in write(entities, length, "bio")]
    apart = all(one.end < two.start or one.label != two.label for one, two in itertools.pairwise(entities))
    assert not apart or default_entities(tags) == entities
    assert default_entities(convert(tags, "io", "bioes")) == default_entities(tags)


@pytest.mark.parametrize("scheme", ["bio", "bioes", "bmes", "bilou"])
@given(st.data())
def test_faultless_is_where_strict_and_default_agree_and_every_step_is_allowed(scheme: str, data: st.DataObject) -> None:
    tags = data.draw(any_tags(LETTERS[scheme]))
    steps = zip([None, *tags], [*tags, None], strict=True)
    fine = all(allowed(one, two, scheme) for one, two in steps)
    assert fine == (faults(tags, scheme) == [])
    if fine:
        assert strict_entities(tags, scheme) == default_entities(tags)
        assert write(default_entities(tags), len(tags), scheme) == tags


def test_recognition() -> None:
    assert recognise(["O", "B-PER", "I-PER"]) == "bio"
    assert recognise(["O", "B-PER"]) == "bio"
    assert recognise(["O", "I-PER"]) == "io"
    assert recognise(["O", "S-PER"]) == "bioes"
    assert recognise(["O", "B-PER", "E-PER"]) == "bioes"
    assert recognise(["O", "B-PER", "M-PER", "E-PER"]) == "bmes"
    assert recognise(["O", "U-PER"]) == recognise(["B-PER", "I-PER", "L-PER"]) == "bilou"
    assert recognise(["O", "B-PER", "I-PER"], {"B": 2, "I": 1}) == "bio"
    assert recognise(["O", "B-PER", "I-PER"], {"B": 1, "I": 2}) == "iob1"
    assert recognise(["NOUN", "-LRB-", "PRP$", "O"]) is None
    assert recognise(["O"]) is None and recognise([]) is None
    assert strangers(["O", "0", "B-PER", "B-"]) == ["0", "B-"]
    assert types(["B-PER", "I-LOC", "O"]) == ["LOC", "PER"]


@pytest.mark.parametrize(
    ("tags", "way"),
    [
        (["O", "B_PER", "I_PER"], "an underscore for the hyphen"),
        (["O", "b-per", "i-per"], "small letters"),
        (["O", "PER-B", "PER-I"], "the letter behind the type"),
        (["O", "B", "I"], "no type"),
        (["0", "1", "12"], "numbers for tags"),
        (["O", "NOUN", "X"], None),
        (["O", "B-PER"], None),
        (["O"], None),
        ([], None),
    ],
)
def test_tags_that_seem_to_mean_a_scheme(tags: list[str], way: str | None) -> None:
    assert written_otherwise(tags) == way


def test_faults_name_the_word_and_what_is_wrong() -> None:
    assert faults(["O", "I-PER"], "bio") == [(1, "I-PER after O")]
    assert faults(["I-PER"], "bio") == [(0, "I-PER at the beginning of the sentence")]
    assert faults(["B-PER", "I-LOC"], "bio") == [(1, "I-LOC after B-PER")]
    assert faults(["O", "B-PER"], "bioes") == [(1, "the sentence ends after B-PER")]
    assert faults(["B-PER", "O"], "bmes") == [(1, "O after B-PER")]
    assert faults(["B-PER", "I-PER", "O"], "bilou") == [(2, "O after I-PER")]
    assert faults(["I-PER", "B-PER", "O", "B-LOC"], "iob1") == [(3, "B-LOC after O")]
    assert faults(["I-PER", "I-LOC"], "io") == []
