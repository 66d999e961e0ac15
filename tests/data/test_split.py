"""Splits: shares kept in each stratum, nothing that belongs together on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunesmith.data.split import split_off, units_of

columns = st.integers(1, 120).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 5), min_size=n, max_size=n),  # stratum
        st.lists(st.integers(0, 40), min_size=n, max_size=n),  # text
        st.lists(st.integers(0, 25), min_size=n, max_size=n),  # group
    )
)


def as_keys(values: list[int]) -> np.ndarray:
    """As the table has them: digests in no particular order."""
    return np.random.default_rng(9).integers(0, 2**64, 64, np.uint64)[values]


@settings(deadline=None)
@given(columns, st.floats(0.01, 0.9), st.integers(0, 2**40), st.booleans())
def test_groups_and_equal_texts_never_stand_on_both_sides(
    values: tuple[list[int], list[int], list[int]], share: float, seed: int, grouped: bool
) -> None:
    stratum, text, group = (np.array(column) for column in values)
    unit = units_of(as_keys(values[1]), as_keys(values[2]) if grouped else None)
    away = split_off(stratum, unit, share, seed=seed, purpose="test")
    assert away.dtype == np.bool_ and away.shape == stratum.shape
    assert not set(text[away]) & set(text[~away])
    if grouped:
        assert not set(group[away]) & set(group[~away])
    assert (~away).any()


def connected(text: list[int], group: list[int]) -> set[frozenset[int]]:
    """Rows that hang together, by merging until nothing changes."""
    parts = [{i} for i in range(len(text))]
    for column in (text, group):
        for value in set(column):
            rows = {i for i, other in enumerate(column) if other == value}
            hit = [part for part in parts if part & rows]
            parts = [part for part in parts if not part & rows] + [set().union(*hit)]
    return {frozenset(part) for part in parts}


@settings(deadline=None)
@given(columns)
def test_units_are_the_connected_rows(values: tuple[list[int], list[int], list[int]]) -> None:
    _, text, group = values
    unit = units_of(as_keys(text), as_keys(group))
    assert {frozenset(np.flatnonzero(unit == number).tolist()) for number in set(unit.tolist())} == connected(text, group)
    alone = units_of(as_keys(text), None)
    assert all((alone[i] == alone[j]) == (text[i] == text[j]) for i in range(len(text)) for j in range(i))


def test_a_chain_of_texts_and_groups_stays_together() -> None:
    # rows 0 and 3 share neither text nor group, but each a link with what lies between
    unit = units_of(np.array([1, 1, 2, 2, 3], np.uint64), np.array([7, 8, 8, 9, 10], np.uint64))
    assert len(set(unit[:4].tolist())) == 1 and unit[4] != unit[0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=400), st.floats(0.01, 0.95), st.integers(0, 1000))
@example([0] * 50 + [1] * 50, 0.1, 0)
def test_share_of_each_stratum(stratum: list[int], share: float, seed: int) -> None:
    """With rows that all stand alone each stratum gives its share to the row, but keeps at least one."""
    strata = np.array(stratum)
    away = split_off(strata, np.arange(len(strata)), share, seed=seed, purpose="valid")
    wanted = 0
    for name in set(stratum):
        count, taken = int((strata == name).sum()), int(away[strata == name].sum())
        assert taken < count
        assert abs(taken - share * count) < 1 or taken == count - 1
        wanted += min(share * count, count - 1)
    kept_back = sum(share * (strata == name).sum() > (strata == name).sum() - 1 for name in set(stratum))
    assert abs(away.sum() - wanted) <= 1 + kept_back


def test_exact_shares_of_round_numbers() -> None:
    strata = np.repeat([0, 1, 2], [500, 300, 20])
    away = split_off(strata, np.arange(820), 0.1, seed=3, purpose="test")
    assert [int(away[strata == name].sum()) for name in range(3)] == [50, 30, 2]


def test_share_with_units_of_several_rows() -> None:
    generator = np.random.default_rng(0)
    unit = np.repeat(np.arange(600), generator.integers(1, 9, 600))
    stratum = unit % 3
    away = split_off(stratum, unit, 0.2, seed=1, purpose="test")
    for name in range(3):
        # never further off than half of the largest unit
        assert abs(away[stratum == name].sum() - 0.2 * (stratum == name).sum()) <= 4.5


def test_rare_labels_stay_in_training() -> None:
    strata = np.repeat([0, 1, 2, 3], [97, 1, 2, 3])
    for seed in range(20):
        away = split_off(strata, np.arange(len(strata)), 0.5, seed=seed, purpose="test")
        assert not away[strata == 1].any()
        assert all((~away[strata == name]).any() for name in range(4))
    # a label whose rows are all one text cannot be divided
    assert not split_off(np.array([0] * 9 + [1] * 9), np.array([*range(9), *[9] * 9]), 0.5, seed=0, purpose="test")[9:].any()


def test_deterministic_and_by_purpose_and_seed() -> None:
    strata, unit = np.arange(300) % 4, np.arange(300)

    def split(seed: int, purpose: str) -> list[bool]:
        return split_off(strata, unit, 0.3, seed=seed, purpose=purpose).tolist()

    assert split(1, "test") == split(1, "test")
    assert len({tuple(split(seed, purpose)) for seed in range(3) for purpose in ("valid", "test")}) == 6


def test_unit_numbers_do_not_matter() -> None:
    """Only which rows belong together does, so a split does not depend on how units are numbered within one order."""
    strata = np.arange(100) % 2
    one = split_off(strata, np.arange(100), 0.2, seed=0, purpose="test")
    two = split_off(strata, np.arange(100) * 10 + 7, 0.2, seed=0, purpose="test")
    assert one.tolist() == two.tolist()


def test_a_unit_counts_for_the_stratum_of_most_of_its_rows() -> None:
    # units of three rows: two of stratum 1, one of stratum 0; ties go to the lowest
    unit = np.repeat(np.arange(100), 3)
    stratum = np.tile([1, 0, 1], 100)
    assert split_off(stratum, unit, 0.25, seed=0, purpose="test").sum() == 75
    tie = split_off(np.tile([1, 0], 50), np.repeat(np.arange(50), 2), 0.5, seed=0, purpose="test")
    assert tie.sum() == 50


def test_nothing_to_split() -> None:
    assert split_off(np.zeros(0, np.int64), np.zeros(0, np.int64), 0.5, seed=0, purpose="test").tolist() == []
    assert split_off(np.zeros(3, np.int64), np.arange(3), 0.0, seed=0, purpose="test").tolist() == [False] * 3
    assert split_off(np.zeros(1, np.int64), np.arange(1), 0.9, seed=0, purpose="test").tolist() == [False]
    assert units_of(np.zeros(0, np.uint64), None).tolist() == []
    assert units_of(np.zeros(0, np.uint64), np.zeros(0, np.uint64)).tolist() == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_every_row_can_be_chosen(share: float) -> None:
    """No row is bound to one side by where it stands."""
    away = np.stack([split_off(np.arange(60) % 2, np.arange(60), share, seed=seed, purpose="test") for seed in range(300)])
    assert away.any(0).all() and (~away).any(0).all()
