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
from dataclasses import asdict, dataclass
from typing import Any

from trtkit.benchmark.saved import SavedReport, measured, read_report, spread, wrong
from trtkit.benchmark.statistics import Interval
from trtkit.errors import listed

__all__ = ["Change", "compare", "read_report", "same_machine", "slower", "warnings"]

# A smaller one, as a share, is not told from the luck of a start. It is also the default width at
# which measuring stops.
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
Figures = dict[str, dict[str, Any]]


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(new: SavedReport, old: SavedReport) -> tuple[Change, ...]:
    """How the figures of `new` differ from those of `old`, in the order of `new`, then what is missing.

    Both are the JSON form of a report. Contests are matched by bundle, tail, measure and batch, or, as
    the bundle built last comes first, by another bundle that both have; figures by competitor. A
    competitor that was measured in neither is left out.
    """
    same = same_machine(new, old)
    found: list[Change] = []
    for key, now, then in _pairs(new, old):
        found += _contest(key, now, then, same)
    return tuple(found)


def slower(changes: Iterable[Change]) -> bool:
    """Whether the new report is worse: something of trtkit is slower, missing or wrong.

    Also when there are changes and nothing could be compared: such a check has not been passed.
    """
    changes = tuple(changes)
    compared = any(change.verdict in COMPARED for change in changes)
    return any(change.problem for change in changes) or (bool(changes) and not compared)


def same_machine(new: SavedReport, old: SavedReport) -> bool:
    """Whether processor, cores and GPUs are the same; what a report does not say is taken as equal."""
    return not _differing_machine(new, old)


def warnings(new: SavedReport, old: SavedReport) -> tuple[str, ...]:
    """Sentences to read the changes with: another machine, other versions, threads or photos."""
    found = []
    machine = _differing_machine(new, old)
    if machine:
        found.append(
            f"The old report is of another machine ({'; '.join(machine)}): ratios may differ for that "
            "reason, and images/s are not compared."
        )
    versions = _differences(_versions(new), _versions(old))
    if versions:
        found.append(
            f"Other versions were measured then ({listed(versions)}): where a baseline is another one, "
            "so is what a ratio is a ratio to."
        )
    threads = _differences(_given(new, "threads"), _given(old, "threads"))
    if threads:
        found.append(f"The competitors had another number of threads then ({threads[0]}).")
    pairs = _pairs(new, old)
    if any(now and then and now["photos"] != then["photos"] for _, now, then in pairs):
        found.append("Another number of photos made a round then.")
    absent = [f"{b}, {t}: {m}, batch {n}" for (b, t, m, n), now, _ in pairs if now is None]
    if absent:
        found.append(f"Not measured now, but then: {listed(absent, limit=4)}.")
    changes = compare(new, old)
    if changes and all(change.verdict not in COMPARED for change in changes):
        found.append("Nothing could be compared, so nothing says that all is as fast as before.")
    return tuple(found)


def _contest(
    key: Key, new: dict[str, Any] | None, old: dict[str, Any] | None, same: bool
) -> Iterator[Change]:
    now, then = _figures(new), _figures(old)
    for competitor in dict.fromkeys([*now, *then]):
        figure, before = now.get(competitor, {}), then.get(competitor, {})
        if not measured(figure) and not measured(before):
            continue
        verdict = _unmatched(figure, before)
        if verdict is not None:
            yield _gone(key, competitor, figure, before, verdict, asked=new is not None)
        elif _ratio(new, figure) and _ratio(old, before) and _baseline(new) == _baseline(old):
            yield _judged(key, competitor, RATIO, figure, before, comparable=True)
        else:
            yield _judged(key, competitor, RATE, figure, before, comparable=same)


def _unmatched(figure: dict[str, Any], before: dict[str, Any]) -> str | None:
    """The verdict on a figure that has no other to be compared with; a wrong one is none."""
    if measured(figure) and wrong(figure):
        return WRONG
    if not measured(figure):
        return MISSING
    return NEW if not measured(before) or wrong(before) else None


def _gone(
    key: Key,
    competitor: str,
    figure: dict[str, Any],
    before: dict[str, Any],
    verdict: str,
    asked: bool,
) -> Change:
    """A change without a comparison. What was not asked for this time is no problem."""
    was_right = measured(before) and not wrong(before)
    why = ""
    if verdict == WRONG:
        why = f"{figure['agreement']:.1%} of its best classes are the reference's"
    elif verdict == MISSING:
        absent = "is no competitor any more" if asked else "the contest was not measured"
        why = str(figure.get("problem") or absent)
    elif measured(before):
        why = "it was wrong then"
    elif before.get("problem"):
        why = f"then: {before['problem']}"
    return Change(
        *key,
        competitor=competitor,
        unit=RATE,
        old=before.get("images_per_second"),
        new=figure.get("images_per_second"),
        change=None,
        verdict=verdict,
        problem=verdict != NEW and was_right and asked and _own(competitor),
        why=why,
    )


def _judged(
    key: Key,
    competitor: str,
    unit: str,
    figure: dict[str, Any],
    before: dict[str, Any],
    comparable: bool,
) -> Change:
    now, then = _interval(unit, figure), _interval(unit, before)
    rounds = min(figure["seconds"]["count"], before["seconds"]["count"])
    why = ""
    if not comparable:
        verdict, why = UNCLEAR, "another machine, and no ratio to the same baseline"
    elif rounds < LEAST_ROUNDS:
        verdict, why = UNCLEAR, f"{rounds} rounds; {LEAST_ROUNDS} are needed"
    elif now.overlaps(then) or _near(now.median, then.median):
        verdict = SAME
    else:
        verdict = FASTER if now.median > then.median else SLOWER
        why = "" if verdict == FASTER or _own(competitor) else "a baseline, which does not count"
    return Change(
        *key,
        competitor=competitor,
        unit=unit,
        old=then.median,
        new=now.median,
        change=now.median / then.median - 1,
        verdict=verdict,
        problem=verdict == SLOWER and _own(competitor),
        why=why,
    )


def _interval(unit: str, figure: dict[str, Any]) -> Interval:
    if unit == RATIO:
        ratio = figure["ratio"]
        return Interval(ratio["low"], ratio["median"], ratio["high"])
    low, high = spread(figure)
    rate = figure["images_per_second"]
    # Rounding may put a bound on the wrong side of a median that equals it.
    return Interval(min(low, rate), rate, max(high, rate))


def _near(one: float, other: float) -> bool:
    """The same whichever of the two is the older."""
    return max(one, other) < min(one, other) * (1 + LEAST_CHANGE)


def _own(competitor: str) -> bool:
    """Whether it is trtkit, and no baseline: those are others' programs, and may come and go."""
    return competitor.split(maxsplit=1)[:1] == ["trtkit"]


def _ratio(contest: Mapping[str, Any] | None, figure: dict[str, Any]) -> bool:
    return figure.get("ratio") is not None and figure["competitor"] != _baseline(contest)


def _baseline(contest: Mapping[str, Any] | None) -> str | None:
    return None if contest is None else contest["baseline"]


def _contests(report: SavedReport) -> dict[Key, dict[str, Any]]:
    return {(c["bundle"], c["tail"], c["measure"], c["batch"]): c for c in report["contests"]}


def _pairs(
    new: SavedReport, old: SavedReport
) -> list[tuple[Key, dict[str, Any] | None, dict[str, Any] | None]]:
    """The contests of both, those of `new` first, each with its counterpart or None."""
    now, then = _contests(new), _contests(old)
    left = {key: contest for key, contest in then.items() if key not in now}
    pairs: list[tuple[Key, dict[str, Any] | None, dict[str, Any] | None]] = []
    for key, contest in now.items():
        other = then.get(key)
        if other is None:
            alike = (k for k in left if k[1:] == key[1:] and _bundles(left[k]) & _bundles(contest))
            found = next(alike, None)
            other = None if found is None else left.pop(found)
        pairs.append((key, contest, other))
    return [*pairs, *((key, None, contest) for key, contest in left.items())]


def _bundles(contest: Mapping[str, Any]) -> set[str]:
    return {contest["bundle"], *contest.get("bundles", ())}


def _figures(contest: Mapping[str, Any] | None) -> Figures:
    return {} if contest is None else {f["competitor"]: f for f in contest["figures"]}


def _differing_machine(new: SavedReport, old: SavedReport) -> list[str]:
    now, then = (_machine(report) for report in (new, old))
    return _differences(now, then)


def _machine(report: SavedReport) -> dict[str, str]:
    machine = report.get("machine", {})
    found = {name: str(machine[name]) for name in _MACHINE if name in machine}
    if "gpus" in found:
        # A new driver makes no new machine.
        found["gpus"] = listed(str(gpu.get("name")) for gpu in machine["gpus"])
    return found


def _versions(report: SavedReport) -> dict[str, str]:
    """Of the backends and the packages. Not trtkit's own: to compare those is what this is for."""
    machine = report.get("machine", {})
    found = {b.get("name"): b.get("version") for b in machine.get("backends", ())}
    for feature in machine.get("features", ()):
        found.update(feature.get("packages") or {})
    return {str(name): str(version) for name, version in found.items() if version}


def _given(report: SavedReport, name: str) -> dict[str, str]:
    return {name: str(report[name])} if name in report else {}


def _differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """Of what both say. `NAME: OLD then, NEW now`."""
    return [
        f"{name}: {then[name]} then, {value} now"
        for name, value in now.items()
        if name in then and then[name] != value
    ]
