"""Finding the cheapest way to ask a store that finds enough and returns little that is wrong.

One half of a sample ranks the choices, the other half proves: from the cheapest one on whose bounds hold
on the first half, the first is taken whose bounds hold on the second too, which had no part in choosing
it. The confidence is shared out among the bounds that are looked at (Bonferroni), so that it is that of
all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from trtkit.errors import TrtkitError, listed
from trtkit.identity import derived_seed
from trtkit.tensors import Array
from trtkit.video.store.verdicts import Verdict
from trtkit.video.tuning.bounds import lower_bound
from trtkit.video.tuning.choices import Choice, Tally, asked_per_question, grid, tally
from trtkit.video.tuning.objects import Clustering, StoredObjects, clustered

Goal = Literal["balance", "ingest", "query"]
DISTANCES: tuple[float | None, ...] = (None, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
LEAST = (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
# Each one more that is tried takes from the confidence of all.
MOST_TRIED = 5


@dataclass(frozen=True)
class Targets:
    """`recall` and `precision`, 0 to 1, that hold with that `confidence` against the expensive tail."""

    recall: float = 0.99
    precision: float = 0.99
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("recall", "precision", "confidence"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise TrtkitError(
                    f"--{name} {value:g} was asked for; choose more than 0, less than 1."
                )

    @property
    def sure(self) -> float:
        """The confidence of a single bound: two each, and as many choices as may be tried, share it."""
        return 1 - (1 - self.confidence) / (2 * MOST_TRIED)

    @property
    def fewest(self) -> int:
        """Objects that the proving half needs even when it has no mistake."""
        return int(np.ceil(np.log(1 - self.sure) / np.log(max(self.recall, self.precision))))

    def bounds(self, counted: Tally) -> tuple[float, float]:
        """What `counted` proves of recall and precision at least."""
        return (
            lower_bound(counted.found, counted.objects, self.sure),
            lower_bound(counted.found, counted.returned, self.sure),
        )

    def hold(self, recall: float, precision: float) -> bool:
        return recall >= self.recall and precision >= self.precision


@dataclass(frozen=True)
class Costs:
    """Seconds: of an object at ingest, without clustering, and of a verdict of the expensive tail."""

    ingest: float
    verdict: float


@dataclass(frozen=True)
class Option:
    """A choice and what it gives.

    `first` and `second`: tallies of the two halves; `recall` and `precision`: lower bounds, None where
    they were not looked at. `ingest_seconds` of an object, `query_seconds` of a question, which has
    `asked` objects looked at.
    """

    choice: Choice
    first: Tally
    asked: float
    ingest_seconds: float
    query_seconds: float
    second: Tally | None = None
    recall: float | None = None
    precision: float | None = None


@dataclass(frozen=True)
class Tuned:
    """`chosen`: None where no choice could be proved; `options`: all, the cheapest question first."""

    chosen: Option | None
    options: tuple[Option, ...]
    sampled: int
    tried: int


def sample_rows(objects: StoredObjects, count: int, seed: int = 0) -> Array:
    """Rows of `count` objects, all equally likely, in random order; all of them where there are fewer."""
    drawn = np.random.default_rng(derived_seed("tune", seed)).permutation(len(objects))
    return np.asarray(drawn[:count])


def tune(
    objects: StoredObjects,
    rows: Array,
    ask: Callable[[Sequence[int]], Mapping[int, Verdict]],
    same: Mapping[int, int],
    classes: int,
    costs: Costs,
    targets: Targets,
    goal: Goal = "balance",
) -> Tuned:
    """The cheapest choice by `goal` that is proved by the objects in `rows`, half of them each way.

    `ask` gives the expensive tail's verdicts on rows. `same` and `classes`: of its classes the index in
    the cheap tail's, and how many there are. Raises TrtkitError when there are too few objects.
    """
    if goal not in get_args(Goal):
        raise TrtkitError(f"The goal {goal!r} was asked for; choose {listed(get_args(Goal))}.")
    if len(rows) // 2 < targets.fewest:
        raise TrtkitError(
            f"A recall of {targets.recall:g} and a precision of {targets.precision:g} with a confidence "
            f"of {targets.confidence:g} need {2 * targets.fewest} objects to be proved, and there are "
            f"{len(rows)} in the sample; ingest more footage, take a larger --sample, or ask for less."
        )
    distances = DISTANCES if objects.vectors is not None else (None,)
    clusterings = {distance: clustered(objects, distance) for distance in distances}
    wanted = {int(row) for row in rows}
    for clustering in clusterings.values():
        wanted.update(int(row) for row in clustering.asked[rows])
    verdicts = ask(sorted(wanted))
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    options = []
    for choice in grid(objects, distances, LEAST):
        clustering = clusterings[choice.distance]
        asked = asked_per_question(choice, objects, clustering, classes)
        options.append(
            Option(
                choice=choice,
                first=tally(choice, first, objects, clustering, verdicts, same),
                asked=asked,
                ingest_seconds=costs.ingest + clustering.seconds,
                query_seconds=asked * costs.verdict,
            )
        )
    options.sort(key=lambda each: (each.query_seconds, each.ingest_seconds))
    proved, chosen, tried = _prove(
        _by_goal(options, goal, targets), second, objects, clusterings, verdicts, same, targets
    )
    options = [proved.get(each.choice, each) for each in options]
    return Tuned(chosen, tuple(options), len(rows), tried)


def _by_goal(options: Sequence[Option], goal: Goal, targets: Targets) -> list[Option]:
    """Those that meet the targets on the first half, the best by the goal first."""
    passing = [each for each in options if targets.hold(each.first.recall, each.first.precision)]
    most_ingest = max((each.ingest_seconds for each in passing), default=1.0) or 1.0
    most_query = max((each.query_seconds for each in passing), default=1.0) or 1.0

    def cost(each: Option) -> tuple[float, float]:
        ingest, query = each.ingest_seconds / most_ingest, each.query_seconds / most_query
        if goal == "ingest":
            return ingest, query
        return (query, ingest) if goal == "query" else (ingest + query, query)

    return sorted(passing, key=cost)


def _prove(
    candidates: Sequence[Option],
    rows: Array,
    objects: StoredObjects,
    clusterings: Mapping[float | None, Clustering],
    verdicts: Mapping[int, Verdict],
    same: Mapping[int, int],
    targets: Targets,
) -> tuple[dict[Choice, Option], Option | None, int]:
    """Bounds of the best candidates until one holds: those looked at, the one that holds, how many."""
    looked_at: dict[Choice, Option] = {}
    for each in _spread(candidates, targets):
        counted = tally(
            each.choice, rows, objects, clusterings[each.choice.distance], verdicts, same
        )
        recall, precision = targets.bounds(counted)
        option = replace(each, second=counted, recall=recall, precision=precision)
        looked_at[each.choice] = option
        if targets.hold(recall, precision):
            return looked_at, option, len(looked_at)
    return looked_at, None, len(looked_at)


def _spread(candidates: Sequence[Option], targets: Targets) -> list[Option]:
    """At most `MOST_TRIED`, each of which did better on the first half than all that are cheaper.

    The first is the cheapest whose bounds hold there: of one that is cheaper it is not likely that they
    hold on the other half. The next ones are close to it, where more care costs least.
    """
    chosen: list[Option] = []
    best = -1.0
    for each in candidates:
        score = min(each.first.recall, each.first.precision)
        if score > best:
            chosen.append(each)
            best = score
    holding = (n for n, each in enumerate(chosen) if targets.hold(*targets.bounds(each.first)))
    chosen = chosen[next(holding, max(0, len(chosen) - 1)) :]
    if len(chosen) > MOST_TRIED:
        steps = np.linspace(0, 1, MOST_TRIED) ** 2
        places = np.maximum((len(chosen) - 1) * steps, np.arange(MOST_TRIED)).round().astype(int)
        chosen = [chosen[place] for place in places]
    return chosen
