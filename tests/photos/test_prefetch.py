from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.errors import TrtkitError
from trtkit.photos.prefetch import ordered_map


def _prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("trtkit-prefetch")]


@settings(deadline=None, max_examples=40)
@given(
    delays=st.lists(st.integers(0, 3), max_size=30),
    workers=st.integers(1, 5),
    ahead=st.integers(1, 9),
    group=st.integers(1, 12),
)
def test_results_come_in_the_order_of_the_inputs(
    delays: list[int], workers: int, ahead: int, group: int
) -> None:
    def slow(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 2000)
        return item[0]

    results = ordered_map(slow, enumerate(delays), workers=workers, ahead=ahead, group=group)
    assert list(results) == list(range(len(delays)))
    assert not _prefetch_threads()


@settings(deadline=None, max_examples=20)
@given(
    workers=st.integers(1, 4),
    ahead=st.integers(1, 8),
    eaten=st.integers(1, 20),
    group=st.integers(1, 9),
)
def test_no_more_than_ahead_items_are_taken(
    workers: int, ahead: int, eaten: int, group: int
) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken - 1

    results = ordered_map(lambda item: item, items(), workers=workers, ahead=ahead, group=group)
    assert taken == 0
    for index in range(eaten):
        assert next(results) == index
        assert taken <= index + ahead
    # As many as allowed, or the work would not be ahead.
    assert taken == eaten - 1 + ahead
    results.close()


def test_results_of_a_group_come_once_all_of_it_are_there() -> None:
    done: list[int] = []

    def function(item: int) -> int:
        time.sleep(0.001)
        done.append(item)
        return item

    results = ordered_map(function, range(9), workers=1, ahead=6, group=4)
    for index in (0, 4):
        assert next(results) == index
        assert done[: index + 4] == list(range(index + 4))
        assert [next(results) for _ in range(3)] == [index + 1, index + 2, index + 3]
    assert list(results) == [8]


def test_the_workers_run_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=10)
    assert len(list(ordered_map(lambda _: together.wait(), range(8), workers=4, ahead=4))) == 8


def test_an_exception_comes_at_its_position_and_stops_the_rest() -> None:
    started = []

    def function(item: int) -> int:
        started.append(item)
        if item == 5:
            raise KeyError(item)
        return item

    results = ordered_map(function, itertools.count(), workers=2, ahead=3)
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        next(results)
    assert max(started) <= 7
    assert not _prefetch_threads()
    assert list(results) == []


def test_an_exception_of_the_items_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    results = ordered_map(lambda item: item * 10, items(), workers=2, ahead=8)
    assert [next(results), next(results), next(results)] == [0, 10, 20]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert not _prefetch_threads()


def test_closing_early_drops_what_has_not_started_and_joins_the_threads() -> None:
    started, ended = [], []
    release = threading.Event()

    def function(item: int) -> int:
        started.append(item)
        if item:
            release.wait(10)
        ended.append(item)
        return item

    results = ordered_map(function, range(100), workers=2, ahead=50)
    assert next(results) == 0
    threading.Timer(0.1, release.set).start()
    results.close()
    assert not _prefetch_threads()
    # One more may have slipped in between the release and the shutdown's sight of it.
    assert len(started) <= 4
    assert sorted(started) == sorted(ended)


def test_ctrl_c_in_the_items_ends_at_once() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(ordered_map(lambda item: item, items(), workers=2, ahead=8))
    assert not _prefetch_threads()


def test_an_unstarted_or_abandoned_iteration_leaves_no_threads() -> None:
    ordered_map(str, range(3), workers=2, ahead=2).close()
    results = ordered_map(str, itertools.count(), workers=2, ahead=4)
    next(results)
    del results
    assert not _prefetch_threads()


def test_a_program_ends_while_an_iteration_is_suspended() -> None:
    program = (
        "from trtkit.photos.prefetch import ordered_map\n"
        "results = ordered_map(str, range(9), workers=2, ahead=4)\n"
        "print(next(results))"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_memory_does_not_grow_with_the_number_of_items() -> None:
    results = ordered_map(lambda item: bytes(20_000), range(3000), workers=2, ahead=16)
    next(results)
    tracemalloc.start()
    try:
        for _ in results:
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000  # all the results together: 60 MB


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, 0), (-1, 4)])
def test_senseless_numbers_are_refused_at_once(workers: int, ahead: int) -> None:
    with pytest.raises(TrtkitError, match="1 or more"):
        ordered_map(str, [], workers=workers, ahead=ahead)


def test_a_result_is_held_by_nobody_once_it_is_handed_on() -> None:
    class Output:
        pass

    results = ordered_map(lambda item: Output(), range(2), workers=1, ahead=1)
    output = weakref.ref(next(results))
    # The thread may be about to let go of it.
    end = time.monotonic() + 10
    while output() is not None and time.monotonic() < end:
        time.sleep(0.001)
    assert output() is None
    results.close()
