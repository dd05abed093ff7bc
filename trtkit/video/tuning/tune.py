"""Finding the cheapest way to query a store that meets targets of recall and precision.

One half of a sample ranks the options, the other half, which had no part in ranking them, proves one.
It begins with the surest option and goes on to cheaper ones as long as their bounds hold; the last one that
holds is chosen. In a sequence that is fixed before and ends at the first failure each test has the whole
confidence (Bauer 1991; Angelopoulos et al. 2021, "Learn then Test"), and so have the two bounds of an
option, which must both hold (Berger 1982).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from trtkit.confidence import fewest_to_prove, lower_bound
from trtkit.errors import TrtkitError, listed
from trtkit.identity import derived_seed
from trtkit.tensors import Array
from trtkit.video.judging import Verdict
from trtkit.video.tuning.objects import StoredObjects, clustered
from trtkit.video.tuning.options import (
    SampleCounts,
    TuningOption,
    all_options,
    count_returned,
    verdicts_per_question,
)

Goal = Literal["balance", "ingest", "query"]
DISTANCES: tuple[float | None, ...] = (None, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
LEAST = (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
# Every option before it can fail by chance and keep a cheaper one from being tried.
MOST_TRIED = 5


@dataclass(frozen=True)
class Targets:
    """Least `recall` and `precision` against the expensive tail, and with which `confidence`; 0 to 1."""

    recall: float = 0.99
    precision: float = 0.99
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("recall", "precision", "confidence"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise TrtkitError(
                    f"--{name} {value:g} is out of range; choose more than 0 and less than 1."
                )

    @property
    def fewest(self) -> int:
        """Objects that the proving half needs even without a mistake."""
        # Both are below 1.
        return fewest_to_prove(max(self.recall, self.precision), self.confidence) or 0

    def bounds(self, counts: SampleCounts) -> tuple[float, float]:
        """The lower bounds of recall and precision that `counts` prove."""
        return (
            lower_bound(counts.found, counts.objects, self.confidence),
            lower_bound(counts.found, counts.returned, self.confidence),
        )

    def hold(self, recall: float, precision: float) -> bool:
        return recall >= self.recall and precision >= self.precision


@dataclass(frozen=True)
class QueryCosts:
    """Seconds per object at ingest, without clustering, and per verdict of the expensive tail."""

    ingest: float
    verdict: float


@dataclass(frozen=True)
class OptionResult:
    """An option and its figures.

    `first` and `second`: counts of the two halves; `recall` and `precision`: lower bounds, None where
    they were not computed. `ingest_seconds`: per object; `query_seconds`: per question, for which the
    expensive tail classifies `asked` objects.
    """

    choice: TuningOption
    first: SampleCounts
    asked: float
    ingest_seconds: float
    query_seconds: float
    second: SampleCounts | None = None
    recall: float | None = None
    precision: float | None = None


@dataclass(frozen=True)
class Tuned:
    """`chosen`: None if no option could be proved; `options`: all, the cheapest question first."""

    chosen: OptionResult | None
    options: tuple[OptionResult, ...]
    sampled: int
    tried: int


def sample_rows(objects: StoredObjects, count: int, seed: int = 0) -> Array:
    """Rows of at most `count` objects, all equally likely, in random order."""
    drawn = np.random.default_rng(derived_seed("tune", seed)).permutation(len(objects))
    return np.asarray(drawn[:count])


def tune(
    objects: StoredObjects,
    rows: Array,
    ask: Callable[[Sequence[int]], Mapping[int, Verdict]],
    same: Mapping[int, int],
    classes: int,
    costs: QueryCosts,
    targets: Targets,
    goal: Goal = "balance",
) -> Tuned:
    """The cheapest option by `goal` that the objects in `rows` prove, half of them each way.

    `ask` gives the expensive tail's verdicts on rows; `same`: the index of its classes among the cheap
    tail's; `classes`: their number. Raises TrtkitError when there are too few objects.
    """
    if goal not in get_args(Goal):
        raise TrtkitError(f"Unknown goal {goal!r}; available: {listed(get_args(Goal))}.")
    if len(rows) // 2 < targets.fewest:
        raise TrtkitError(
            f"A recall of {targets.recall:g} and a precision of {targets.precision:g} with a confidence "
            f"of {targets.confidence:g} need {2 * targets.fewest} objects to be proved, and the sample has "
            f"{len(rows)}; ingest more footage, take a larger --sample, or lower the targets."
        )
    distances = DISTANCES if objects.vectors is not None else (None,)
    clusterings = {distance: clustered(objects, distance) for distance in distances}
    needed = {int(row) for row in rows}
    for clustering in clusterings.values():
        needed.update(int(row) for row in clustering.representatives[rows])
    verdicts = ask(sorted(needed))

    def count(option: TuningOption, half: Array) -> SampleCounts:
        return count_returned(option, half, objects, clusterings[option.distance], verdicts, same)

    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    results = []
    for option in all_options(objects, distances, LEAST):
        clustering = clusterings[option.distance]
        verdict_count = verdicts_per_question(option, objects, clustering, classes)
        results.append(
            OptionResult(
                choice=option,
                first=count(option, first),
                asked=verdict_count,
                ingest_seconds=costs.ingest + clustering.seconds,
                query_seconds=verdict_count * costs.verdict,
            )
        )
    results.sort(key=lambda result: (result.query_seconds, result.ingest_seconds))
    proved: dict[TuningOption, OptionResult] = {}
    chosen = None
    for result in reversed(_spread(_by_goal(results, goal, targets), targets)):
        counts = count(result.choice, second)
        recall, precision = targets.bounds(counts)
        result = replace(result, second=counts, recall=recall, precision=precision)
        proved[result.choice] = result
        if not targets.hold(recall, precision):
            break
        chosen = result
    results = [proved.get(result.choice, result) for result in results]
    return Tuned(chosen, tuple(results), len(rows), len(proved))


def _by_goal(results: Sequence[OptionResult], goal: Goal, targets: Targets) -> list[OptionResult]:
    """The results that meet the targets on the first half, the best by the goal first."""
    passing = [
        result for result in results if targets.hold(result.first.recall, result.first.precision)
    ]
    most_ingest = max((result.ingest_seconds for result in passing), default=1.0) or 1.0
    most_query = max((result.query_seconds for result in passing), default=1.0) or 1.0

    def cost(result: OptionResult) -> tuple[float, float]:
        ingest, query = result.ingest_seconds / most_ingest, result.query_seconds / most_query
        if goal == "ingest":
            return ingest, query
        return (query, ingest) if goal == "query" else (ingest + query, query)

    return sorted(passing, key=cost)


def _spread(results: Sequence[OptionResult], targets: Targets) -> list[OptionResult]:
    """At most `MOST_TRIED`, each better on the first half than all cheaper ones.

    The first is the cheapest whose bounds hold there: those of a cheaper one are unlikely to hold on the
    other half. The next ones are close to it, where more certainty costs least.
    """
    chosen: list[OptionResult] = []
    best = -1.0
    for result in results:
        score = min(result.first.recall, result.first.precision)
        if score > best:
            chosen.append(result)
            best = score
    holding = (n for n, result in enumerate(chosen) if targets.hold(*targets.bounds(result.first)))
    chosen = chosen[next(holding, max(0, len(chosen) - 1)) :]
    if len(chosen) > MOST_TRIED:
        steps = np.linspace(0, 1, MOST_TRIED) ** 2
        places = np.maximum((len(chosen) - 1) * steps, np.arange(MOST_TRIED)).round().astype(int)
        chosen = [chosen[place] for place in places]
    return chosen
