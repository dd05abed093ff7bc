"""Times of decoding, given to frames in the order of display."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtkit.video.order import DisplayOrder


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 5), st.data())
def test_times_grow_and_each_group_begins_at_its_keyframe(
    groups: list[int], later: int, data: st.DataObject
) -> None:
    order, number, times = DisplayOrder(), 0, []
    for size in groups:
        first = number
        # A keyframe, and frames that are shown in any order once all are decoded; some are lost.
        for _ in range(size):
            order.sent(number, 10 * number)
            number += 1
        shown = data.draw(st.permutations(range(first + 1, number)))
        kept = shown[: data.draw(st.integers(0, len(shown)))]
        assert order.time_of(first, key=True) == 10 * first
        times.append(10 * first)
        times += [order.time_of(own, key=False) for own in kept]
    assert times == sorted(set(times))


def test_a_frame_without_a_packet_has_no_time() -> None:
    order = DisplayOrder()
    order.sent(0, None)
    assert order.time_of(0, key=True) is None
