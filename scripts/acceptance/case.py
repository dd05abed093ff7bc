"""A case: what is built, what competes, and what the target is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.context import Context
from acceptance.journal import FAILED, LEFT_OUT
from acceptance.settings import AcceptanceSettings
from trtkit.benchmark.protocol import ProtocolSettings, Turns, take_turns


class Limit(NamedTuple):
    """What a figure must be: `text`, and whether one is."""

    text: str
    met: Callable[[float], bool]


class Goal(NamedTuple):
    """A figure that was measured (its text and value), and what it must be; None for no figure."""

    what: str
    limit: Limit
    figure: tuple[str, float] | None


# The goals of a case, by its result, which is None where there is none.
Goals = Callable[[Context, Any], Iterable[Goal]]


def no_goals(context: Context, result: Any) -> Iterable[Goal]:
    return ()


class Target(NamedTuple):
    """`measured` is empty and `met` None where nothing was measured; `verdict` then says why."""

    what: str
    must_be: str
    measured: str
    met: bool | None
    verdict: str


@dataclass(frozen=True)
class Case:
    """`run` measures and returns the result, which becomes JSON; `needs`: the cases to be done before.

    `makes`: the file that the case leaves behind for others; without it the case is run again.
    """

    name: str
    run: Callable[[Context], Any]
    needs: tuple[str, ...] = ()
    makes: Callable[[Context], Path] | None = None
    goals: Goals = no_goals

    def targets(self, context: Context) -> Iterator[Target]:
        """The goals with what was measured, or why nothing was."""
        state = context.journal.state(self.name)
        absent = {FAILED: "failed", LEFT_OUT: "left out"}.get(state, "not measured")
        result = context.journal.result(self.name)
        for what, limit, figure in self.goals(context, result):
            if figure is None:
                yield Target(what, limit.text, "", None, absent)
            else:
                met = limit.met(figure[1])
                yield Target(what, limit.text, figure[0], met, "met" if met else "NOT met")


def at_most(limit: float, unit: str = "", form: str = "g") -> Limit:
    return Limit(f"at most {limit:{form}}{unit}", lambda value: value <= limit)


def at_least(limit: float, form: str = "g") -> Limit:
    return Limit(f"at least {limit:{form}}", lambda value: value >= limit)


def by_batch(
    what: str,
    limit: Limit,
    figure: Callable[[Any], tuple[str, float] | None],
    batches: Callable[[AcceptanceSettings], Iterable[int]] = lambda settings: settings.batches,
    **values: Any,
) -> Goals:
    """A goal for each batch size, of the first row of the result that has it and `values`."""

    def goals(context: Context, result: Any) -> Iterator[Goal]:
        for batch in batches(context.settings):
            rows = rows_of(result, **{**values, "batch": batch})
            yield Goal(f"{what}, batch {batch}", limit, figure(rows[0]) if rows else None)

    return goals


def rows_of(result: Any, **values: Any) -> list[Any]:
    """The rows of a result that have these values; none without a result."""
    rows = [] if result is None else result["rows"]
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def ratio(row: Any) -> tuple[str, float]:
    """The ratio of medians in a row, with the spread of the rounds."""
    text = "{of_medians:.3f} ({p10:.3f} to {p90:.3f})".format(**row["ratio"])
    return text, row["ratio"]["of_medians"]


@dataclass(frozen=True)
class Timing:
    """Seconds of one batch or pass: the median of `samples` rounds, the 10th and the 90th percentile."""

    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    samples: int

    @classmethod
    def of(cls, turns: Turns, name: str) -> Timing:
        summary = turns.summary(name)
        return cls(summary.median, summary.p10, summary.p90, summary.count)


def rounds(count: int, **competitors: Callable[[], object]) -> Turns:
    """Let competitors take turns, `count` times after a warm-up."""
    return take_turns(competitors, ProtocolSettings.fixed(count))
