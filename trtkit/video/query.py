"""Answering a question: candidates from the index, verdicts of the expensive tail, appearances."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trtkit.errors import TrtkitError, listed, nearest
from trtkit.video.appearances import Appearance, grouped, merged
from trtkit.video.judging import Judge, Judged
from trtkit.video.store.database import Database
from trtkit.video.store.identity import Identity
from trtkit.video.store.reading import Candidate, Span, candidates, sightings_of
from trtkit.video.store.verdicts import Verdict

# How many verdicts are looked up at once, and how many objects are asked about in the first batch, which
# is small so that the first answer comes soon.
LOOKED_UP = 500
FIRST_BATCH = 4


@dataclass(frozen=True)
class Question:
    """`label`: the class asked for. `spans`: where; `limit`: of appearances.

    `top` and `least`: an object is a candidate when the class is among so many best classes of the one
    that began its cluster, with at least that score of the cheap tail. `confidence`: the least score of
    the expensive tail. `gap_us`: for how long an appearance may be interrupted. `seconds`: after which
    no more objects are asked about.
    """

    label: str
    spans: tuple[Span, ...]
    top: int
    least: float = 0.0
    confidence: float = 0.0
    limit: int | None = None
    gap_us: int = 1_000_000
    seconds: float | None = None


@dataclass
class Explanation:
    """What answering took: counts of objects, seconds of each step."""

    candidates: int = 0
    clusters: int = 0
    confirmed: int = 0
    appearances: int = 0
    finding_seconds: float = 0.0
    first_seconds: float | None = None
    seconds: float = 0.0
    out_of_time: bool = False
    judged: Judged = field(default_factory=Judged)


class Search:
    """One question to one store. `judge` answers for objects; `classes` are the expensive tail's."""

    def __init__(
        self,
        database: Database,
        known: Identity,
        judge: Judge,
        classes: Sequence[str],
        asked: Question,
    ) -> None:
        self._database = database
        self._judge = judge
        self._asked = asked
        self._cheap = _class_index(known.classes, asked.label, known.tail)
        self._wanted = _class_index(classes, asked.label, "the tail that answers")
        self.explanation = Explanation(judged=judge.judged)

    def appearances(self) -> Iterator[Appearance]:
        """The appearances as they are confirmed, those that look most like the class first."""
        begun = time.perf_counter()
        explanation = self.explanation
        groups = self._groups()
        explanation.finding_seconds = time.perf_counter() - begun
        order = list(dict.fromkeys(each.asked for group in groups for each in group))
        explanation.clusters = len(order)
        deadline = None if self._asked.seconds is None else begun + self._asked.seconds
        verdicts = _Verdicts(self._judge, order, deadline)
        try:
            for group in groups:
                for found in merged(self._confirmed(group, verdicts), self._asked.gap_us):
                    if explanation.first_seconds is None:
                        explanation.first_seconds = time.perf_counter() - begun
                    explanation.appearances += 1
                    explanation.seconds = time.perf_counter() - begun
                    yield self._appearance(found)
                    if explanation.appearances == self._asked.limit:
                        return
                if verdicts.out_of_time:
                    return
        finally:
            explanation.out_of_time = verdicts.out_of_time
            explanation.seconds = time.perf_counter() - begun

    def _groups(self) -> list[list[Candidate]]:
        """Candidates in groups that cannot be in one appearance, the best first.

        Of groups that look as good the smaller come first: there is nothing to show of one before all of
        it was asked about.
        """
        groups: list[list[Candidate]] = []
        for span in self._asked.spans:
            found = candidates(
                self._database, self._cheap, span, self._asked.top, self._asked.least
            )
            self.explanation.candidates += len(found)
            groups += grouped(found, self._asked.gap_us)
        groups.sort(key=lambda group: (-round(max(each.score for each in group), 2), len(group)))
        return groups

    def _confirmed(
        self, group: Sequence[Candidate], verdicts: _Verdicts
    ) -> Iterator[tuple[Candidate, float]]:
        for each in group:
            said = verdicts.of(each.asked)
            if said is None:
                return
            if said.label == self._wanted and said.score >= self._asked.confidence:
                self.explanation.confirmed += 1
                yield each, said.score

    def _appearance(self, found: Sequence[tuple[Candidate, float]]) -> Appearance:
        objects = tuple(each.object for each, _ in found)
        seen = sightings_of(self._database, objects)
        sightings = sorted(
            (sighting for number in objects for sighting in seen.get(number, ())),
            key=lambda sighting: (sighting.time_us, sighting.box),
        )
        return Appearance(
            source=found[0][0].source,
            start_us=min(each.start_us for each, _ in found),
            end_us=max(each.end_us for each, _ in found),
            confidence=max(score for _, score in found),
            objects=objects,
            sightings=tuple(sightings),
        )


class _Verdicts:
    """Verdicts in the order in which they will be wanted, asked for in batches a little ahead."""

    def __init__(self, judge: Judge, order: Sequence[int], deadline: float | None) -> None:
        self._judge = judge
        self._order = order
        self._deadline = deadline
        self._looked_up = 0
        self._unknown: list[int] = []
        self._found: dict[int, Verdict] = {}
        self._batch = FIRST_BATCH
        self.out_of_time = False

    def of(self, number: int) -> Verdict | None:
        """The verdict on an object, None when time was up before."""
        while number not in self._found:
            if self._unknown and (number in self._unknown or self._looked_up == len(self._order)):
                if self._deadline is not None and time.perf_counter() >= self._deadline:
                    self.out_of_time = True
                    return None
                self._ask()
            elif self._looked_up < len(self._order):
                self._look_up()
            else:
                raise TrtkitError(
                    f"The object {number} was asked for, and no verdict on it came; `trtkit store verify` "
                    "says whether the store is whole."
                )
        return self._found[number]

    def _look_up(self) -> None:
        part = self._order[self._looked_up : self._looked_up + LOOKED_UP]
        self._looked_up += len(part)
        known = self._judge.known(part)
        self._judge.judged.remembered += len(known)
        self._found.update(known)
        self._unknown += [number for number in part if number not in known]

    def _ask(self) -> None:
        part, self._unknown = self._unknown[: self._batch], self._unknown[self._batch :]
        self._found.update(self._judge.compute(part))
        self._batch = min(2 * self._batch, self._judge.batch)


def _class_index(classes: Sequence[str], label: str, of: str) -> int:
    if label in classes:
        return list(classes).index(label)
    hint = nearest(label, classes) or classes
    raise TrtkitError(
        f"The class {label!r} was asked for, which {of} does not know; it knows {listed(hint)}."
    )
