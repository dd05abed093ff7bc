"""Turns on a clock that the contestants move: every time here is exact."""

from __future__ import annotations

import doctest
import gc
import math
from collections.abc import Callable, Sequence
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.reports import RecordingReporter, recorded
from trtkit.benchmark import protocol
from trtkit.benchmark.protocol import (
    ContestantFailed,
    ProtocolSettings,
    Turns,
    repeats_for,
    take_turns,
    timed,
)
from trtkit.benchmark.statistics import median_interval, ratio_interval
from trtkit.errors import TrtkitError
from trtkit.reporting import reporting

Cost = Callable[[int], float]


class Machine:
    """A clock, and what ran on it in which order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def contestant(self, name: str, cost: float | Cost = 1.0) -> Fake:
        return Fake(self, name, cost if callable(cost) else lambda number: cost)


class Fake:
    """Its `number`-th round, the warm-up's included, takes `cost(number)` seconds, or raises."""

    def __init__(self, machine: Machine, name: str, cost: Cost) -> None:
        self.name = name
        self.closed = 0
        self._machine, self._cost, self._numbers = machine, cost, count()

    def round(self) -> float:
        self._machine.log.append(self.name)
        taken = self._cost(next(self._numbers))
        self._machine.now += taken
        return taken

    def close(self) -> None:
        self.closed += 1


def failing(at: int, cost: float = 1.0, error: BaseException | None = None) -> Cost:
    def taken(number: int) -> float:
        if number == at:
            raise error or ContestantFailed(f"It failed in round {number}.")
        return cost

    return taken


def noisy(low: float, high: float) -> Cost:
    """Never narrow: one time, then the other, three times each."""
    return lambda number: low if number // 3 % 2 else high


def turns(machine: Machine, contestants: Sequence[Fake], baseline: str = "A", **options) -> Turns:
    return take_turns(
        contestants,
        ProtocolSettings(**options),
        baseline=baseline,
        keep_interrupted=True,
        clock=machine.clock,
    )


def rounds_of(log: Sequence[str], size: int) -> list[str]:
    assert len(log) % size == 0
    return ["".join(log[at : at + size]) for at in range(0, len(log), size)]


def test_each_round_starts_with_the_next_one():
    machine = Machine()
    measured = turns(machine, [machine.contestant(name) for name in "ABC"], least_rounds=6)
    # The warm-up is the round before the first.
    assert rounds_of(machine.log, 3) == ["CAB", "ABC", "BCA", "CAB", "ABC", "BCA", "CAB"]
    assert measured.rounds == 6
    assert measured.samples == {name: [1.0] * 6 for name in "ABC"}


@hypothesis_settings(deadline=None, max_examples=30)
@given(contestants=st.integers(2, 5), cycles=st.integers(2, 4))
def test_everybody_is_in_every_place_equally_often(contestants, cycles):
    machine = Machine()
    names = "ABCDE"[:contestants]
    rounds = max(contestants * cycles, 6)
    rounds += -rounds % contestants
    turns(machine, [machine.contestant(name) for name in names], least_rounds=rounds, warmup=0)
    places = list(zip(*rounds_of(machine.log, contestants), strict=True))
    for place in places:
        assert {place.count(name) for name in names} == {rounds // contestants}
    # Nor does anybody come twice in a row with another one after it.
    assert all(sorted(turn) == list(names) for turn in rounds_of(machine.log, contestants))


@pytest.mark.parametrize("warmup", (0, 1, 3))
def test_warm_up_rounds_are_not_counted(warmup):
    machine = Machine()
    slow_first = machine.contestant("B", lambda number: 100.0 if number < warmup else 1.0)
    measured = turns(machine, [machine.contestant("A"), slow_first], warmup=warmup, seconds=50)
    assert measured.samples["B"] == [1.0] * 7
    assert len(machine.log) == 2 * (warmup + 7)
    # Nor is their time.
    assert measured.stopped == "narrow enough"


def test_it_stops_when_the_ratios_are_narrow():
    machine = Machine()
    # Of 9 rounds the interval leaves out the least and the greatest: the outlier is gone then.
    outlier = machine.contestant("B", lambda number: 9.0 if number == 2 else 2.0)
    measured = turns(machine, [machine.contestant("A"), outlier])
    assert (measured.stopped, measured.rounds, measured.interrupted) == ("narrow enough", 9, False)
    assert measured.ratios()["B"] == median_interval([2.0])


def test_all_of_them_have_to_be_narrow():
    machine = Machine()
    contestants = [
        machine.contestant("A"),
        machine.contestant("B"),
        machine.contestant("C", noisy(1, 2)),
    ]
    measured = turns(machine, contestants, most_rounds=12)
    assert (measured.stopped, measured.rounds) == ("most rounds", 12)


def test_the_width_that_was_asked_for_counts():
    for width, stopped in ((0.11, "narrow enough"), (0.09, "most rounds")):
        machine = Machine()
        contestants = [machine.contestant("A"), machine.contestant("B", noisy(1, 1.1))]
        assert turns(machine, contestants, width=width, most_rounds=30).stopped == stopped


@pytest.mark.parametrize(("least", "rounds"), ((1, 6), (6, 6), (20, 20)))
def test_narrow_takes_the_least_rounds_and_as_many_as_an_interval_needs(least, rounds):
    machine = Machine()
    contestants = [machine.contestant("A"), machine.contestant("B")]
    measured = turns(machine, contestants, least_rounds=least)
    assert (measured.stopped, measured.rounds) == ("narrow enough", rounds)


def test_fewer_rounds_than_an_interval_needs_are_measured_when_asked_for():
    machine = Machine()
    contestants = [machine.contestant("A"), machine.contestant("B")]
    measured = turns(machine, contestants, least_rounds=2, most_rounds=2)
    assert (measured.stopped, measured.rounds) == ("most rounds", 2)


def test_out_of_time_ends_after_the_round():
    machine = Machine()
    contestants = [machine.contestant("A", 3.0), machine.contestant("B", noisy(3, 9))]
    measured = turns(machine, contestants, seconds=20, warmup=3)
    # 6 s, 6 s and 6 s, and the round that has begun at 18 s is finished, before the least rounds.
    assert (measured.stopped, measured.rounds) == ("out of time", 4)
    assert {len(taken) for taken in measured.samples.values()} == {4}


def test_the_time_is_up_to_the_second():
    machine = Machine()
    contestants = [machine.contestant("A"), machine.contestant("B", noisy(1, 3))]
    assert turns(machine, contestants, warmup=3, seconds=6).rounds == 3


def test_the_baseline_alone_is_measured_until_its_time_is_known():
    machine = Machine()
    steady = turns(machine, [machine.contestant("A", lambda n: 9.0 if n == 2 else 2.0)])
    assert (steady.stopped, steady.rounds, steady.ratios()) == ("narrow enough", 9, {})
    machine = Machine()
    assert turns(machine, [machine.contestant("A", noisy(1, 2))]).stopped == "out of time"


def test_one_that_fails_in_the_warm_up_is_dropped():
    machine = Machine()
    contestants = [
        machine.contestant("A"),
        machine.contestant("B", failing(at=0)),
        machine.contestant("C", 2.0),
    ]
    measured = turns(machine, contestants)
    assert measured.failures == {"B": "It failed in round 0."}
    assert measured.samples == {"A": [1.0] * 7, "B": [], "C": [2.0] * 7}
    assert list(measured.ratios()) == ["C"]
    assert measured.stopped == "narrow enough"
    assert [contestant.closed for contestant in contestants] == [0, 1, 0]
    assert rounds_of(machine.log[3:], 2)[:3] == ["AC", "CA", "AC"]


def test_one_that_fails_later_keeps_its_samples_out_of_the_ratios():
    machine = Machine()
    contestants = [
        machine.contestant("A"),
        machine.contestant("B", failing(at=4, cost=5.0)),
        machine.contestant("C", 2.0),
    ]
    measured = turns(machine, contestants)
    # The round in which it failed is complete for the others.
    assert measured.samples == {"A": [1.0] * 7, "B": [5.0] * 3, "C": [2.0] * 7}
    assert measured.failures == {"B": "It failed in round 4."}
    assert list(measured.ratios()) == ["C"]
    assert measured.ratios()["C"].median == 2.0


def test_one_that_was_not_narrow_is_no_hindrance_once_it_failed():
    machine = Machine()
    wild = noisy(1, 5)
    failing_wild = machine.contestant("B", lambda n: failing(at=10)(n) and wild(n))
    measured = turns(machine, [machine.contestant("A"), failing_wild, machine.contestant("C")])
    assert (measured.stopped, measured.rounds) == ("narrow enough", 10)


def test_when_all_others_failed_the_baseline_goes_on_alone():
    machine = Machine()
    contestants = [machine.contestant("A"), machine.contestant("B", failing(at=3))]
    measured = turns(machine, contestants)
    assert (measured.rounds, measured.stopped, measured.ratios()) == (7, "narrow enough", {})


@pytest.mark.parametrize(("at", "rounds"), ((0, 0), (1, 0), (5, 4)))
def test_without_the_baseline_it_ends_at_once(at, rounds):
    machine = Machine()
    contestants = [machine.contestant("B", 2.0), machine.contestant("A", failing(at=at))]
    measured = turns(machine, contestants)
    assert (measured.stopped, measured.rounds) == ("the baseline failed", rounds)
    assert measured.failures == {"A": f"It failed in round {at}."}
    assert measured.samples == {"B": [2.0] * rounds, "A": [1.0] * rounds}
    assert measured.ratios() == {}
    assert not measured.interrupted
    assert machine.log[-1] == "A"


@pytest.mark.parametrize("name", "AB")
@pytest.mark.parametrize(("at", "rounds"), ((0, 0), (1, 0), (5, 4)))
def test_ctrl_c_ends_it_with_the_complete_rounds(name, at, rounds):
    machine = Machine()
    costs = {"A": 1.0, "B": 2.0}
    contestants = [
        machine.contestant(
            key, failing(at=at, cost=cost, error=KeyboardInterrupt()) if key == name else cost
        )
        for key, cost in costs.items()
    ]
    measured = turns(machine, contestants)
    assert (measured.stopped, measured.rounds) == ("interrupted", rounds)
    assert measured.interrupted
    assert measured.samples == {"A": [1.0] * rounds, "B": [2.0] * rounds}
    assert list(measured.ratios()) == (["B"] if rounds else [])
    assert machine.log[-1] == name


def test_ctrl_c_between_the_rounds_keeps_them():
    machine = Machine()
    reporter = RecordingReporter()

    def advance(phase: str, share: float) -> None:
        if len(reporter.events) == 10:
            raise KeyboardInterrupt
        reporter.events.append((phase, share))

    reporter.advance = advance
    contestants = [machine.contestant("A"), machine.contestant("B")]
    with reporting(reporter):
        measured = turns(machine, contestants)
    assert (measured.stopped, measured.rounds) == ("interrupted", 4)


def test_another_exception_is_a_mistake_and_comes_through():
    machine = Machine()
    wrong = machine.contestant("B", failing(at=2, error=ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        turns(machine, [machine.contestant("A"), wrong])
    assert gc.isenabled()


def test_garbage_is_collected_between_and_not_inside():
    seen: list[bool] = []
    collected: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collected.append(len(seen))

    def cost(number: int) -> float:
        seen.append(gc.isenabled())
        return 1.0

    machine = Machine()
    gc.callbacks.append(note)
    try:
        turns(machine, [machine.contestant("A", cost), machine.contestant("B", cost)], warmup=0)
    finally:
        gc.callbacks.remove(note)
    assert seen == [False] * 14
    assert sorted(set(collected)) == list(range(14))
    assert gc.isenabled()


def test_what_was_there_before_is_not_scanned_between():
    scanned: list[bool] = []
    before = [object()]

    def cost(number: int) -> float:
        gc.collect()
        scanned.append(any(item is before for item in gc.get_objects()))
        return 1.0

    machine = Machine()
    turns(machine, [machine.contestant("A", cost)], warmup=0)
    assert scanned and not any(scanned)
    assert any(item is before for item in gc.get_objects())


def test_garbage_collection_that_was_off_stays_off():
    machine = Machine()
    gc.disable()
    try:
        turns(machine, [machine.contestant("A")])
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_progress_is_reported_and_never_goes_back():
    machine = Machine()
    contestants = [machine.contestant("A"), machine.contestant("B", noisy(1, 2))]
    with recorded() as reports:
        turns(machine, contestants, most_rounds=10, seconds=1000)
    assert reports.phases[:4] == [
        ("warming up B", 0.0), ("warming up A", 0.0), ("measuring A", 0.0), ("measuring B", 0.0),
    ]  # fmt: skip
    assert reports.phases[4] == ("measuring B", 0.1)
    shares = [share for _, share in reports.phases]
    assert all(earlier <= later <= 1 for earlier, later in pairwise(shares))
    assert shares[-1] == 0.9


class Drifting(Machine):
    """A machine that gets slower with every second, as one that heats up or that others come to."""

    per_second = 0.01

    def contestant(self, name: str, cost: float | Cost = 1.0) -> Fake:
        return Fake(self, name, lambda number: cost * (1 + self.per_second * self.now))


def test_ratios_by_round_see_through_a_drift_that_misleads_medians():
    machine = Drifting()
    contestants = [machine.contestant("A", 1.0), machine.contestant("B", 0.9)]
    measured = turns(machine, contestants, least_rounds=40, seconds=1e9)
    ratio = measured.ratios()["B"]
    assert measured.stopped == "narrow enough"
    assert ratio.low <= 0.9 <= ratio.high
    assert ratio.median == pytest.approx(0.9, rel=0.01)
    assert ratio.high < 1

    # Each on its own cannot be told from the other: the drift is most of the spread.
    assert median_interval(measured.samples["A"]).overlaps(median_interval(measured.samples["B"]))
    # One after the other even turns it round.
    machine = Drifting()
    after = {
        name: turns(
            machine, [machine.contestant(name, cost)], name, least_rounds=40, most_rounds=40
        )
        for name, cost in (("A", 1.0), ("B", 0.9))
    }
    medians = {name: median_interval(alone.samples[name]).median for name, alone in after.items()}
    assert medians["B"] > 1.2 * medians["A"]


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"warmup": -1}, "The number of warm-up rounds is -1; give 0 or more."),
        ({"least_rounds": 0}, "The least number of rounds is 0; give 1 or more."),
        (
            {"least_rounds": 9, "most_rounds": 8},
            "The greatest number of rounds is 8; give 9 or more.",
        ),
        ({"width": 0.0}, "The relative width is 0; give a finite one above 0."),
        ({"width": math.nan}, "The relative width is nan; give"),
        ({"seconds": 0.0}, "The number of seconds is 0; give"),
        ({"seconds": -1.0}, "The number of seconds is -1; give"),
        ({"seconds": math.inf}, "The number of seconds is inf; give"),
    ),
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(TrtkitError, match=message):
        ProtocolSettings(**options)


@pytest.mark.parametrize(
    ("names", "baseline", "message"),
    (
        ("", "A", "Baseline `A` not found; available: none."),
        ("BC", "A", "Baseline `A` not found; available: B, C."),
        ("ABA", "A", "names of their own, but these are A, B, A"),
    ),
)
def test_contestants_that_cannot_be_compared_are_refused(names, baseline, message):
    machine = Machine()
    with pytest.raises(TrtkitError, match=message):
        turns(machine, [machine.contestant(name) for name in names], baseline)
    assert not machine.log


def test_ratios_are_paired():
    measured = Turns(
        samples={"A": [1.0, 2.0, 4.0], "B": [2.0, 2.0, 2.0]},
        failures={},
        interrupted=False,
        baseline="A",
        rounds=3,
        stopped="most rounds",
    )
    assert measured.ratios() == {"B": ratio_interval([2.0, 2.0, 2.0], [1.0, 2.0, 4.0])}
    assert measured.ratios()["B"].low == 0.5


def test_ctrl_c_comes_through_unless_the_rounds_are_to_be_kept():
    machine = Machine()
    contestants = [machine.contestant("A", failing(at=2, error=KeyboardInterrupt()))]
    with pytest.raises(KeyboardInterrupt):
        take_turns(contestants, clock=machine.clock)


def test_functions_are_timed_or_measure_themselves():
    machine = Machine()
    readings = iter((9.0, 1.0, 2.0, 4.0))
    measured = take_turns(
        {"clock": lambda: None, "own": lambda: next(readings)},
        ProtocolSettings.fixed(3),
        baseline="own",
        clock=machine.clock,
    )
    assert measured.samples["own"] == [1.0, 2.0, 4.0]
    assert all(0 < seconds < 1 for seconds in measured.samples["clock"])
    assert (measured.rounds, measured.stopped, measured.baseline) == (3, "most rounds", "own")
    assert measured.medians["own"] == measured.summary("own").median == 2.0


def test_fixed_rounds_need_no_ratio():
    measured = take_turns({"A": lambda: 0.0, "B": lambda: 1.0}, ProtocolSettings.fixed(8))
    assert measured.rounds == 8


def test_an_exception_of_a_function_comes_through():
    with pytest.raises(ZeroDivisionError):
        take_turns({"A": lambda: 1 / 0})


def test_the_title_is_in_the_phases():
    with recorded() as reports:
        take_turns({"A": lambda: 1.0}, ProtocolSettings.fixed(1, warmup=0), title="latency")
    assert reports.phases == [("latency: measuring A", 0.0)]


def test_the_examples():
    assert doctest.testmod(protocol).failed == 0


@pytest.mark.parametrize(
    ("once", "repeats"), ((0.0, 50), (1e-3, 30), (7e-3, 5), (0.03, 1), (9.0, 1))
)
def test_repeats_fill_a_sample(once, repeats):
    assert repeats_for(once, 0.03, 50) == repeats


def test_a_single_call_is_timed_without_garbage_collection():
    enabled = []
    assert 0 < timed(lambda: enabled.append(gc.isenabled())) < 1
    assert enabled == [False]
