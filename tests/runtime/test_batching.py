"""Calls of many threads share batches."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.runtime.batching import SharedBatches

WAIT = 30


class Doubling:
    """Doubles numbers, keeps its batches, and fails for a batch that holds a negative number."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches = []
        self.seconds = seconds
        self.running = 0

    def __call__(self, items):
        self.running += 1
        assert self.running == 1, "two batches at once"
        self.batches.append(list(items))
        time.sleep(self.seconds)
        self.running -= 1
        if min(items) < 0:
            raise ArithmeticError(min(items))
        return [2 * item for item in items]


class HeldRun(Doubling):
    """Stops in its first batch until it is let go, so that others wait meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, items):
        self.begun.set()
        assert self.go_on.wait(WAIT)
        return super().__call__(items)


def in_threads(shared, calls):
    """What each call gives or raises, all of them at once."""
    start = threading.Barrier(len(calls))

    def work(items):
        start.wait(WAIT)
        try:
            return shared(lambda: items)
        except ArithmeticError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(work, calls, timeout=WAIT))


@given(
    calls=st.lists(st.lists(st.integers(0, 99), max_size=9), min_size=1, max_size=8),
    limit=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_call_gets_its_own_outputs_in_its_order(calls, limit):
    run = Doubling()
    results = in_threads(SharedBatches(run, limit=limit), calls)
    assert results == [[2 * item for item in items] for items in calls]
    assert all(1 <= len(batch) <= limit for batch in run.batches)
    every = [item for batch in run.batches for item in batch]
    assert sorted(every) == sorted(item for items in calls for item in items)


def test_one_caller_waits_for_nobody_and_fills_batches_in_order():
    run = Doubling()
    assert SharedBatches(run, limit=3)(lambda: range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert run.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert SharedBatches(run, limit=3)(list) == []


def held(calls, limit):
    """Outcomes of `calls`, which come while a first batch of 1000 runs, and the batches after it."""
    run = HeldRun()
    shared = SharedBatches(run, limit=limit)

    def work(items):
        try:
            return shared(lambda: items)
        except ArithmeticError as error:
            return error

    with ThreadPoolExecutor(len(calls) + 1) as threads:
        first = threads.submit(shared, lambda: [1000])
        assert run.begun.wait(WAIT)
        futures = []
        for number, items in enumerate(calls, start=1):
            futures.append(threads.submit(work, items))
            waiting = sum(len(before) for before in calls[:number])
            until(lambda waiting=waiting: len(shared._waiting) == waiting)
        run.go_on.set()
        assert first.result(WAIT) == [2000]
        return [future.result(WAIT) for future in futures], run.batches[1:]


def until(condition) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_comes_while_a_batch_runs_goes_together():
    results, batches = held([[1], [2, 3], [4], [5, 6, 7]], limit=4)
    assert results == [[2], [4, 6], [8], [10, 12, 14]]
    assert batches == [[1, 2, 3, 4], [5, 6, 7]]


def test_an_error_reaches_every_caller_of_its_batch_and_nobody_else():
    results, batches = held([[1], [2, -3], [4], [5, 6], [7]], limit=4)
    assert batches == [[1, 2, -3, 4], [5, 6, 7]]
    assert [repr(result) for result in results[:3]] == ["ArithmeticError(-3)"] * 3
    assert results[3:] == [[10, 12], [14]]


def test_an_error_in_one_of_its_batches_reaches_a_caller():
    results, batches = held([[1, 2, 3, -4, 5, 6], [7]], limit=2)
    assert batches == [[1, 2], [3, -4], [5, 6], [7]]
    assert isinstance(results[0], ArithmeticError)
    assert results[1] == [14]


def test_it_goes_on_after_an_error():
    run = Doubling()
    shared = SharedBatches(run, limit=2)
    with pytest.raises(ArithmeticError):
        shared(lambda: [-1])
    assert shared(lambda: [3]) == [6]


def test_an_error_while_preparing_is_the_caller_s_alone():
    shared = SharedBatches(Doubling(), limit=4)

    def fail():
        raise ArithmeticError("prepare")

    with pytest.raises(ArithmeticError, match="prepare"):
        shared(fail)
    began = time.monotonic()
    assert shared(lambda: [1]) == [2]
    assert time.monotonic() - began < WAIT / 2, "it waits for nobody who is preparing"


@pytest.mark.parametrize("outputs", [[], [1]])
def test_too_few_outputs_are_an_error_and_no_endless_wait(outputs):
    shared = SharedBatches(lambda items: outputs, limit=2)
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match="shorter"):
        threads.submit(shared, lambda: [5, 6]).result(WAIT)


def test_a_batch_waits_for_callers_that_still_prepare():
    run = Doubling(seconds=0.5)
    shared = SharedBatches(run, limit=8)
    assert shared(lambda: [0]) == [0]
    preparing, prepared = threading.Event(), threading.Event()

    def slowly():
        preparing.set()
        assert prepared.wait(WAIT)
        return [1]

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(shared, slowly)
        assert preparing.wait(WAIT)
        quick = threads.submit(shared, lambda: [2])
        until(lambda: len(shared._waiting) == 1)
        prepared.set()
        assert (slow.result(WAIT), quick.result(WAIT)) == ([2], [4])
    assert sorted(run.batches[1]) == [1, 2]


def test_many_threads_many_times():
    run = Doubling(seconds=0.0002)
    shared = SharedBatches(run, limit=8)

    def work(number):
        return [shared(lambda turn=turn: [number, turn]) for turn in range(25)]

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(work, range(16), timeout=WAIT))
    assert results == [[[2 * number, 2 * turn] for turn in range(25)] for number in range(16)]
    assert max(map(len, run.batches)) <= 8
    assert len(run.batches) < 400, "calls share batches"


def test_ctrl_c_ends_the_caller_at_once():
    batches = []

    def run(items):
        batches.append(items)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SharedBatches(run, limit=1)(lambda: [1, 2])
    assert batches == [[1]], "the second batch is not run"
