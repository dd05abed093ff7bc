"""Two bench reports side by side: what got slower or faster beyond the noise.

Whole machines are slower on some days, so what is compared is each competitor's ratio to the baseline
of its own run, by the intervals of the two medians: apart from each other, something has changed. Two
95 % intervals that do not overlap happen by chance far less often than in one comparison of twenty
(with equal normal errors in one of 180; N. Schenker and J. F. Gentleman, The American Statistician 55,
2001, pages 182 to 186), which leaves room for the many comparisons of a report.

The intervals know the noise within a run only. A process that is started again has other addresses and
other neighbours, and is a little faster or slower for all its rounds (T. Kalibera and R. Jones, Rigorous
Benchmarking in Reasonable Time, ISMM 2013), so a change below `LEAST_CHANGE` is none either.

Where the two runs have no ratio in common, as for the baseline itself, images/s are compared by the
spread of their rounds, p10 to p90, which must be apart; but on the same machine only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from trtkit.benchmark.results import BenchReport, Contest, Figure
from trtkit.benchmark.statistics import Interval
from trtkit.errors import listed

# A smaller change, as a share, may be the luck of a start. It is also the default width at which
# measuring stops.
LEAST_CHANGE = 0.03
# With four rounds each all of one run are below all of the other by chance in 2 of 70 cases; with
# three in 2 of 20, which is no sign.
LEAST_ROUNDS = 4

RATIO, RATE = "times the baseline", "images/s"
SLOWER, FASTER, SAME, UNCLEAR = "slower", "faster", "same", "unclear"
MISSING, NEW, WRONG = "missing", "new", "wrong"
COMPARED = (SLOWER, FASTER, SAME)

# What makes a machine another one.
_MACHINE = ("processor", "cores", "gpus")

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Change:
    """One competitor of one contest, then and now.

    `unit`: `times the baseline` or `images/s`, that of the medians `old` and `new`, which are None where
    it was not measured. `change`: new / old - 1, so below 0 is slower; None for the last three verdicts.
    `verdict`: `slower`, `faster`, `same`, `unclear` (too few rounds, or another machine and no ratio),
    `missing` (measured then, not now), `new` (the other way round), `wrong` (other best classes than
    the reference now). `problem`: whether it counts against the new report; only trtkit's own
    competitors do. `why`: for the reader.
    """

    bundle: str
    tail: str
    measure: str
    batch: int
    competitor: str
    unit: str
    old: float | None
    new: float | None
    change: float | None
    verdict: str
    problem: bool
    why: str = ""


@dataclass(frozen=True)
class _Pair:
    """A contest of the new report and its counterpart in the old one; one of them may be None."""

    key: Key
    new: Contest | None
    old: Contest | None


def compare(new: BenchReport, old: BenchReport) -> tuple[Change, ...]:
    """How the figures of `new` differ from those of `old`, in the order of `new`, then what is missing.

    Contests are matched by bundle, tail, measure and batch, or, as the bundle built last comes first, by
    another bundle that both have; figures by competitor. A competitor that was measured in neither is
    left out.
    """
    # What one of the reports leaves out counts as equal.
    same = not _differences(_machine(new), _machine(old))
    return tuple(change for pair in _pairs(new, old) for change in _changes(pair, same))


def slower(changes: Iterable[Change]) -> bool:
    """Whether the new report is worse: something of trtkit is slower, missing or wrong.

    Also when there are changes and nothing could be compared: such a check has not been passed.
    """
    changes = tuple(changes)
    compared = any(change.verdict in COMPARED for change in changes)
    return any(change.problem for change in changes) or (bool(changes) and not compared)


def warnings(new: BenchReport, old: BenchReport) -> tuple[str, ...]:
    """Sentences to read the changes with: another machine, other versions, threads or photos."""
    sentences = []
    machine = _differences(_machine(new), _machine(old))
    if machine:
        sentences.append(
            f"The old report is of another machine ({'; '.join(machine)}): ratios may differ for that "
            "reason, and images/s are not compared."
        )
    versions = _differences(_versions(new), _versions(old))
    if versions:
        sentences.append(
            f"Other versions were measured then ({listed(versions)}): where a baseline is another one, "
            "so is what a ratio is a ratio to."
        )
    if new.threads and old.threads and new.threads != old.threads:
        sentences.append(
            "The competitors had another number of threads then "
            f"(threads: {old.threads} then, {new.threads} now)."
        )
    pairs = _pairs(new, old)
    if any(pair.new and pair.old and pair.new.photos != pair.old.photos for pair in pairs):
        sentences.append("Another number of photos made a round then.")
    absent = ["{}, {}: {}, batch {}".format(*pair.key) for pair in pairs if pair.new is None]
    if absent:
        sentences.append(f"Not measured now, but then: {listed(absent, limit=4)}.")
    changes = compare(new, old)
    if changes and all(change.verdict not in COMPARED for change in changes):
        sentences.append(
            "Nothing could be compared, so nothing says that all is as fast as before."
        )
    return tuple(sentences)


def _changes(pair: _Pair, same_machine: bool) -> Iterator[Change]:
    figures, old_figures = _figures(pair.new), _figures(pair.old)
    for name in dict.fromkeys([*figures, *old_figures]):
        figure, old = figures.get(name, Figure(name)), old_figures.get(name, Figure(name))
        if figure.measured and old.measured and not figure.wrong and not old.wrong:
            yield _compared(pair, figure, old, same_machine)
        elif figure.measured or old.measured:
            yield _unmatched(pair, figure, old)


def _unmatched(pair: _Pair, figure: Figure, old: Figure) -> Change:
    """A change without a comparison. A contest that was not measured this time is no problem."""
    why = ""
    if not figure.measured:
        verdict = MISSING
        absent = "is no competitor any more" if pair.new else "the contest was not measured"
        why = figure.problem or absent
    elif figure.wrong:
        verdict = WRONG
        why = f"{figure.agreement:.1%} of its best classes are the reference's"
    else:
        verdict = NEW
        if old.measured:
            why = "it was wrong then"
        elif old.problem:
            why = f"then: {old.problem}"
    was_right = old.measured and not old.wrong
    return Change(
        *pair.key,
        competitor=figure.competitor,
        unit=RATE,
        old=old.images_per_second,
        new=figure.images_per_second,
        change=None,
        verdict=verdict,
        problem=verdict != NEW and was_right and pair.new is not None and _is_trtkit(figure),
        why=why,
    )


def _compared(pair: _Pair, figure: Figure, old: Figure, same_machine: bool) -> Change:
    ratio, old_ratio = _ratio(pair.new, figure), _ratio(pair.old, old)
    unit, now, then = RATE, figure.rates, old.rates
    if ratio and old_ratio and _baseline(pair.new) == _baseline(pair.old):
        unit, now, then = RATIO, ratio, old_ratio
    rounds = min(summary.count for summary in (figure.seconds, old.seconds) if summary)
    why = ""
    if unit == RATE and not same_machine:
        verdict, why = UNCLEAR, "another machine, and no ratio to the same baseline"
    elif rounds < LEAST_ROUNDS:
        verdict, why = UNCLEAR, f"{rounds} rounds; {LEAST_ROUNDS} are needed"
    elif now.overlaps(then) or _near(now.median, then.median):
        verdict = SAME
    elif now.median > then.median:
        verdict = FASTER
    else:
        verdict = SLOWER
        why = "" if _is_trtkit(figure) else "a baseline, which does not count"
    return Change(
        *pair.key,
        competitor=figure.competitor,
        unit=unit,
        old=then.median,
        new=now.median,
        change=now.median / then.median - 1,
        verdict=verdict,
        problem=verdict == SLOWER and _is_trtkit(figure),
        why=why,
    )


def _near(one: float, other: float) -> bool:
    """The same whichever of the two is the older."""
    return max(one, other) < min(one, other) * (1 + LEAST_CHANGE)


def _is_trtkit(figure: Figure) -> bool:
    """Whether it is trtkit; baselines are other programs, which may come and go."""
    return figure.competitor.split(maxsplit=1)[:1] == ["trtkit"]


def _baseline(contest: Contest | None) -> str | None:
    return None if contest is None else contest.baseline


def _ratio(contest: Contest | None, figure: Figure) -> Interval | None:
    return None if figure.competitor == _baseline(contest) else figure.ratio


def _figures(contest: Contest | None) -> dict[str, Figure]:
    return {} if contest is None else {figure.competitor: figure for figure in contest.figures}


def _pairs(new: BenchReport, old: BenchReport) -> list[_Pair]:
    """The contests of both: those of `new` first, then those that only `old` has."""
    now, then = _contests(new), _contests(old)
    unmatched = {key: contest for key, contest in then.items() if key not in now}
    pairs = []
    for key, contest in now.items():
        other = then.get(key)
        if other is None:
            alike = (
                name
                for name, candidate in unmatched.items()
                if name[1:] == key[1:] and _bundles(candidate) & _bundles(contest)
            )
            other = unmatched.pop(next(alike, key), None)
        pairs.append(_Pair(key, contest, other))
    return [*pairs, *(_Pair(key, None, contest) for key, contest in unmatched.items())]


def _contests(report: BenchReport) -> dict[Key, Contest]:
    return {(c.bundle, c.tail, c.measure, c.batch): c for c in report.contests}


def _bundles(contest: Contest) -> set[str]:
    return {contest.bundle, *contest.bundles}


def _machine(report: BenchReport) -> dict[str, str]:
    machine = report.machine
    facts = {name: str(machine[name]) for name in _MACHINE if name in machine}
    if "gpus" in facts:
        # A new driver makes no new machine.
        facts["gpus"] = listed(str(gpu.get("name")) for gpu in machine["gpus"])
    return facts


def _versions(report: BenchReport) -> dict[str, str]:
    """Of the backends and the packages. Not trtkit's own: to compare those is what this is for."""
    backends = report.machine.get("backends", ())
    versions = {backend.get("name"): backend.get("version") for backend in backends}
    for feature in report.machine.get("features", ()):
        versions.update(feature.get("packages") or {})
    return {str(name): str(version) for name, version in versions.items() if version}


def _differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """`NAME: OLD then, NEW now`, for the names that both have."""
    return [
        f"{name}: {then[name]} then, {value} now"
        for name, value in now.items()
        if name in then and then[name] != value
    ]
