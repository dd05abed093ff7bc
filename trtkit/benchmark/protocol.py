"""The one protocol for measuring in turns: whatever the machine does, it does to all contestants.

After a warm-up that is not counted, every round measures each contestant once and starts with the next
one (A B C, B C A, ...), so that none is always the first or always behind the same one. Ratios are
taken round by round. A contestant is a function, or an object with a process of its own (`Contestant`):

    >>> from trtkit.benchmark.protocol import ProtocolSettings, take_turns
    >>> turns = take_turns(
    ...     {"small": lambda: sum(range(10_000)), "large": lambda: sum(range(100_000))},
    ...     ProtocolSettings.fixed(rounds=9),
    ... )
    >>> turns.rounds, len(turns.samples["large"]), turns.baseline
    (9, 9, 'small')
    >>> turns.ratios()["large"].median > 2
    True
    >>> turns.summary("large").p90 >= turns.summary("large").median
    True
    >>> turns.paired("large").of_medians > 2
    True

`turns.ratios()` holds confidence intervals of paired ratios (`statistics.ratio_interval`), `paired` the
ratio of the medians with the p10, median and p90 of the rounds' ratios. A function that returns a number
has measured itself: its number is the sample, in seconds or any other unit above 0.

    >>> take_turns({"A": lambda: 2.0, "B": lambda: 3.0}, ProtocolSettings.fixed(6)).medians
    {'A': 2.0, 'B': 3.0}
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from trtkit.benchmark.statistics import (
    Interval,
    PairedRatio,
    Summary,
    fewest_values,
    median_interval,
    ratio_interval,
)
from trtkit.errors import TrtkitError, listed
from trtkit.reporting import advance

NARROW = "narrow enough"
OUT_OF_TIME = "out of time"
MOST_ROUNDS = "most rounds"
INTERRUPTED = "interrupted"
BASELINE_FAILED = "the baseline failed"

# A clock without resolution measures 0, to which there is no ratio.
LEAST_SECONDS = 1e-9


class ContestantFailed(TrtkitError):
    """A contestant that cannot go on; the message is one sentence that names it and says why."""


class Contestant(Protocol):
    """One of those that are compared. All do the same work in a round."""

    @property
    def name(self) -> str:
        """What it is called in results and messages, unlike all others."""
        ...

    def round(self) -> float:
        """Do the work once: the seconds it took. Raises ContestantFailed."""
        ...

    def close(self) -> None:
        """Give back what it holds. May be called again, and after a failure."""
        ...


@dataclass(frozen=True)
class Action:
    """A function of this process as a contestant: timed here, unless it returns a number itself."""

    name: str
    run: Callable[[], object]

    def round(self) -> float:
        started = time.perf_counter()
        value = self.run()
        seconds = time.perf_counter() - started
        measured = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if measured else seconds  # type: ignore[arg-type]

    def close(self) -> None:
        return None


@dataclass(frozen=True)
class ProtocolSettings:
    """How long to measure. Raises TrtkitError when a value makes no sense."""

    warmup: int = 1  # rounds that are not counted
    least_rounds: int = 7
    most_rounds: int = 200
    width: float = 0.03  # relative width of a ratio's interval that is narrow enough: 0.03 is 3 %
    seconds: float = 120.0  # after the warm-up; a round that has begun is finished

    def __post_init__(self) -> None:
        for what, value, least in (
            ("number of warm-up rounds", self.warmup, 0),
            ("least number of rounds", self.least_rounds, 1),
            ("greatest number of rounds", self.most_rounds, self.least_rounds),
        ):
            if value < least:
                raise TrtkitError(f"The {what} is {value}; give {least} or more.")
        for what, share in (("relative width", self.width), ("number of seconds", self.seconds)):
            if not (math.isfinite(share) and share > 0):
                raise TrtkitError(f"The {what} is {share:g}; give a finite one above 0.")

    @classmethod
    def fixed(cls, rounds: int, warmup: int = 1) -> ProtocolSettings:
        """Exactly `rounds` rounds, however long they take. Raises TrtkitError below 1."""
        return cls(warmup=warmup, least_rounds=rounds, most_rounds=rounds, seconds=1e9)


@dataclass(frozen=True)
class Turns:
    """What was measured.

    `samples`: seconds of every contestant in the complete rounds, in their order: the i-th samples of
    two are of the same round. One that failed has those of the rounds before its failure, so fewer
    than the others, or none. `failures`: its sentence, by name. `rounds`: the complete ones.
    `stopped`: "narrow enough", "out of time", "most rounds", "interrupted" or "the baseline failed".
    """

    samples: dict[str, list[float]]
    failures: dict[str, str]
    interrupted: bool
    baseline: str
    rounds: int
    stopped: str

    @property
    def medians(self) -> dict[str, float]:
        """The median of every contestant that has samples, by name; seconds."""
        return {name: self.summary(name).median for name in self.samples if self.samples[name]}

    def summary(self, name: str) -> Summary:
        """Median, mean and percentiles of one contestant. Raises TrtkitError without samples."""
        return Summary.of(self.samples[name])

    def paired(self, name: str, baseline: str | None = None) -> PairedRatio:
        """A contestant's time to another one's, by default the baseline's; below 1 is faster.

        Raises TrtkitError when one of the two failed or there are no rounds.
        """
        return PairedRatio.of(self.samples[name], self.samples[baseline or self.baseline])

    def ratios(self) -> dict[str, Interval]:
        """Times the baseline's time, by name, of those that did not fail; the baseline is left out.

        Empty when there is no complete round or the baseline failed.
        """
        if not self.rounds or self.baseline in self.failures:
            return {}
        return {
            name: ratio_interval(samples, self.samples[self.baseline])
            for name, samples in self.samples.items()
            if name != self.baseline and name not in self.failures
        }


def take_turns(
    contestants: Mapping[str, Callable[[], object]] | Sequence[Contestant],
    settings: ProtocolSettings | None = None,
    *,
    baseline: str | None = None,
    title: str = "",
    keep_interrupted: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Turns:
    """Measure `contestants` in turns until the ratios to `baseline` (a name) are narrow enough.

    `contestants`: functions by name, or objects. `baseline`: the first contestant by default.
    `settings`: the defaults of `ProtocolSettings`; `ProtocolSettings.fixed(9)` for nine rounds.

    It ends when the interval of every remaining ratio is at most `settings.width` wide, but not
    before `settings.least_rounds`, nor before there are as many as such an interval needs (6). The
    baseline alone is measured until the interval of its own time is as narrow. It also ends after
    the round in which `settings.seconds` have passed since the warm-up, and at
    `settings.most_rounds`. Stopping because the interval is narrow makes its actual confidence a
    little lower than the nominal one, and so do rounds that depend on those before them.

    A contestant that raises ContestantFailed, in the warm-up or later, is closed and dropped, and the
    others go on; without the baseline there is nothing to compare with, and it ends at once. Other
    exceptions come through. So does Ctrl-C, unless `keep_interrupted`: then it ends the measuring and
    the complete rounds are returned. Rounds that are not complete are dropped. The contestants are
    left open for the caller to close.

    Reports `TITLE: measuring NAME` and the share done, from 0 to 1, to `trtkit.reporting`. No garbage is
    collected while a contestant works. `clock` counts seconds.

    Raises TrtkitError when there are no contestants, two have the same name, or `baseline` is not one
    of them.
    """
    if isinstance(contestants, Mapping):
        contestants = [Action(name, run) for name, run in contestants.items()]
    names = [contestant.name for contestant in contestants]
    if len(set(names)) < len(names):
        raise TrtkitError(f"Contestants need names of their own, but these are {listed(names)}.")
    if baseline is None and names:
        baseline = names[0]
    if baseline is None or baseline not in names:
        raise TrtkitError(f"Baseline `{baseline}` not found; available: {listed(names)}.")
    course = _Course(
        names,
        list(contestants),
        baseline,
        f"{title}: " if title else "",
        settings or ProtocolSettings(),
    )
    try:
        with unscanned():
            stopped = course.run(clock)
    except _BaselineFailed:
        stopped = BASELINE_FAILED
    except KeyboardInterrupt:
        if not keep_interrupted:
            raise
        stopped = INTERRUPTED
    return course.turns(stopped)


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call, without garbage being collected meanwhile."""
    with uncollected():
        started = time.perf_counter()
        action()
        return time.perf_counter() - started


def repeats_for(once: float, seconds: float, most: int) -> int:
    """How often to do what takes `once` seconds so that a sample lasts `seconds`; 1 to `most`."""
    return max(1, min(most, math.ceil(seconds / max(LEAST_SECONDS, once))))


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected inside; what others left is collected before."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def unscanned() -> Iterator[None]:
    """The objects that exist now are not scanned for garbage inside.

    With torch loaded such a scan takes a third of a second, before each sample.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _BaselineFailed(Exception):
    """Nothing is left to compare with."""


@dataclass
class _Course:
    """Who is left, and the seconds of each by complete round.

    A round is added when it is complete, in one step: Ctrl-C may come anywhere.
    """

    names: list[str]
    remaining: list[Contestant]
    baseline: str
    prefix: str
    settings: ProtocolSettings
    failures: dict[str, str] = field(default_factory=dict)
    complete: list[dict[str, float]] = field(default_factory=list)

    def run(self, clock: Callable[[], float]) -> str:
        """Warm up and measure; why it ended."""
        settings = self.settings
        for number in range(-settings.warmup, 0):
            self._turn(number, "warming up", 0.0)
        start = clock()
        share, stopped = 0.0, None
        while stopped is None:
            self.complete.append(self._turn(len(self.complete), "measuring", share))
            seconds = clock() - start
            stopped = self._ended(seconds)
            share = max(len(self.complete) / settings.most_rounds, seconds / settings.seconds)
        return stopped

    def turns(self, stopped: str) -> Turns:
        """What was measured so far."""
        samples = {
            name: [times[name] for times in self.complete if name in times] for name in self.names
        }
        rounds, interrupted = len(self.complete), stopped == INTERRUPTED
        return Turns(samples, self.failures, interrupted, self.baseline, rounds, stopped)

    def _turn(self, number: int, phase: str, share: float) -> dict[str, float]:
        """Round `number`, which says who is the first: the seconds of those that did not fail."""
        first = number % len(self.remaining)
        times = {}
        for contestant in (*self.remaining[first:], *self.remaining[:first]):
            advance(f"{self.prefix}{phase} {contestant.name}", share)
            try:
                with uncollected():
                    times[contestant.name] = contestant.round()
            except ContestantFailed as error:
                self.failures[contestant.name] = str(error)
                self.remaining.remove(contestant)
                contestant.close()
                if contestant.name == self.baseline:
                    raise _BaselineFailed from error
        return times

    def _ended(self, seconds: float) -> str | None:
        """Why it ends after this round, `seconds` after the warm-up; None when it goes on."""
        settings, rounds = self.settings, len(self.complete)
        # The interval of fewer is their range, which is narrow when two happen to agree.
        enough = max(settings.least_rounds, fewest_values())
        open_end = settings.least_rounds < settings.most_rounds
        if open_end and rounds >= enough and self._widest() <= settings.width:
            return NARROW
        if seconds >= settings.seconds:
            return OUT_OF_TIME
        return MOST_ROUNDS if rounds >= settings.most_rounds else None

    def _widest(self) -> float:
        """The relative width of the least certain ratio; of the baseline's time if it is alone."""
        turns = self.turns("")
        alone = median_interval(turns.samples[self.baseline])
        return max(
            (ratio.relative_width for ratio in turns.ratios().values()),
            default=alone.relative_width,
        )
