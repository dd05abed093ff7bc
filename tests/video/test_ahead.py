"""Reading ahead: the same items, an error in its place, and no thread that stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.video.frames import read_ahead


def decoders() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "trtkit-prefetch"]


def eventually(condition: object) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.005)
    return False


@given(st.lists(st.one_of(st.none(), st.integers())), st.integers(1, 5))
@settings(max_examples=50)
def test_the_same_items_in_the_same_order(items: list[int | None], limit: int) -> None:
    assert list(read_ahead(iter(items), limit)) == items
    assert not decoders()


@given(st.integers(0, 10), st.integers(1, 4))
@settings(max_examples=30)
def test_an_error_comes_after_the_items_before_it(count: int, limit: int) -> None:
    def items() -> Iterator[int]:
        yield from range(count)
        raise ValueError("the file ends here")

    got = []
    with pytest.raises(ValueError, match="the file ends here"):
        for item in read_ahead(items(), limit):
            got.append(item)
    assert got == list(range(count))
    assert not decoders()


@pytest.mark.parametrize("limit", [1, 3])
def test_only_so_many_are_taken_before_they_are_asked_for(limit: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    running = read_ahead(items(), limit)
    for asked in range(1, 6):
        next(running)
        # Those asked for, those that wait, one at hand; and it does read ahead so far.
        assert eventually(lambda asked=asked: len(taken) == asked + limit + 1)
        time.sleep(0.02)
        assert len(taken) == asked + limit + 1
    running.close()


def test_closed_early_it_stops_taking_and_closes_what_it_took_from() -> None:
    taken, closed = [], []

    def items() -> Iterator[int]:
        try:
            for number in range(10**9):
                taken.append(number)
                yield number
        finally:
            closed.append(threading.current_thread().name)

    running = read_ahead(items(), 2)
    assert next(running) == 0
    running.close()
    # All over when close returns.
    assert closed == [threading.current_thread().name]
    assert len(taken) <= 4
    assert not decoders()


def test_an_error_of_who_listens_stops_it_as_well() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="listener"):
        for item in (running := read_ahead(items(), 2)):
            if item == 3:
                running.throw(RuntimeError("listener"))
    assert closed
    assert not decoders()


def test_closing_that_goes_wrong_is_an_error_at_the_end_and_no_standstill() -> None:
    class Items:
        def __init__(self) -> None:
            self.left = [1, 2]

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            if not self.left:
                raise StopIteration
            return self.left.pop(0)

        def close(self) -> None:
            raise OSError("cannot be closed")

    running = read_ahead(Items(), 4)
    got: list[object] = []

    def listen() -> None:
        try:
            got.extend(running)
        except OSError as error:
            got.append(str(error))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    listener.join(5)
    assert not listener.is_alive()
    assert got[-1] == "cannot be closed"
