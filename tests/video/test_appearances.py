"""Objects become appearances: cut where none is for longer than the gap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtkit.video.footage.reading import Candidate
from trtkit.video.query import grouped, merged


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Objects of one source in the order that a store gives them in."""
    times = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
    found = [
        Candidate(number, 1, start, start + length, number, 0.5)
        for number, (start, length) in enumerate(times)
    ]
    return sorted(found, key=lambda each: (each.start_us, each.object))


GAPS = st.integers(0, 8)


def apart(one: Candidate, other: Candidate) -> int:
    """How long there is neither, where they are not at once."""
    return max(one.start_us, other.start_us) - min(one.end_us, other.end_us)


def linked(found: list[Candidate], gap: int) -> set[frozenset[int]]:
    """Objects that are one appearance: each within the gap of another, by trying all pairs."""
    sets = {each.object: {each.object} for each in found}
    for one in found:
        for other in found:
            if apart(one, other) <= gap and sets[one.object] is not sets[other.object]:
                both = sets[one.object] | sets[other.object]
                sets.update(dict.fromkeys(both, both))
    return {frozenset(each) for each in sets.values()}


@given(candidates(), GAPS)
def test_groups_are_all_candidates_in_their_order_and_never_within_the_gap(
    found: list[Candidate], gap: int
) -> None:
    groups = grouped(found, gap)
    assert [each for group in groups for each in group] == found
    assert all(groups)
    for place, group in enumerate(groups):
        for later in groups[place + 1 :]:
            assert all(apart(one, other) > gap for one in group for other in later)
    assert {frozenset(each.object for each in group) for group in groups} == linked(found, gap)


@given(candidates(), GAPS, st.data())
def test_appearances_are_what_is_linked_of_those_confirmed(
    found: list[Candidate], gap: int, data: st.DataObject
) -> None:
    confirmed = [each for each in found if data.draw(st.booleans())]
    lists = list(merged(((each, each.object / 10) for each in confirmed), gap))
    assert [each for some in lists for each, _ in some] == confirmed
    assert all(score == each.object / 10 for some in lists for each, score in some)
    assert {frozenset(each.object for each, _ in some) for some in lists} == linked(confirmed, gap)


@given(candidates(), GAPS, st.data())
def test_what_is_confirmed_of_two_groups_is_never_one_appearance(
    found: list[Candidate], gap: int, data: st.DataObject
) -> None:
    groups = grouped(found, gap)
    kept = {each.object for each in found if data.draw(st.booleans())}
    by_group = [
        [each for each, _ in some]
        for group in groups
        for some in merged(((each, 1.0) for each in group if each.object in kept), gap)
    ]
    at_once = [
        [each for each, _ in some]
        for some in merged(((each, 1.0) for each in found if each.object in kept), gap)
    ]
    assert by_group == at_once


def test_a_gap_that_long_still_is_one_appearance() -> None:
    first, second = Candidate(1, 1, 0, 10, 1, 0.5), Candidate(2, 1, 15, 20, 2, 0.5)
    assert len(grouped([first, second], 5)) == 1
    assert len(grouped([first, second], 4)) == 2
    assert len(list(merged([(first, 1.0), (second, 1.0)], 5))) == 1
    assert len(list(merged([(first, 1.0), (second, 1.0)], 4))) == 2


def test_a_short_object_does_not_end_a_long_one() -> None:
    found = [Candidate(1, 1, 0, 100, 1, 0.5), Candidate(2, 1, 5, 6, 2, 0.5)]
    found.append(Candidate(3, 1, 99, 120, 3, 0.5))
    assert len(grouped(found, 0)) == 1
    assert len(list(merged([(each, 1.0) for each in found], 0))) == 1


def test_an_appearance_is_given_as_soon_as_it_is_over() -> None:
    asked = []

    def confirmed():  # type: ignore[no-untyped-def]
        for number in range(4):
            asked.append(number)
            yield Candidate(number, 1, 100 * number, 100 * number, number, 0.5), 1.0

    running = merged(confirmed(), 5)
    assert [each.object for each, _ in next(running)] == [0]
    assert asked == [0, 1]


def test_nothing_is_no_appearance() -> None:
    assert grouped([], 5) == []
    assert list(merged([], 5)) == []
