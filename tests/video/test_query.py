"""Questions to a real store, answered by a judge whose verdicts are known."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reports import recorded
from tests.video.footage.records import with_one_picture
from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing
from trtkit.video import query as module
from trtkit.video.clusters import Cluster
from trtkit.video.detections import Box, Sighting
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import Span
from trtkit.video.footage.settings import ALL, Identity
from trtkit.video.footage.writing import (
    ChunkRecord,
    IndexedObject,
    SourceRow,
    commit_chunk,
    register,
)
from trtkit.video.judging import Judge, Judged, Verdict
from trtkit.video.query import FIRST_BATCH, LOOKED_UP, Appearance, Question, Search

# The cheap tail's classes and the expensive one's, which are in another order.
CHEAP = ("bus", "car", "dog", "van")
EXPENSIVE = ("cat", "dog", "car", "bus", "van")
BUS, CAR, DOG, VAN = range(4)
LENGTH = 100
"""Microseconds of a segment."""


class Seen:
    """An object to be stored: when, its best classes with their scores, and in whose cluster it is."""

    def __init__(
        self,
        start: int,
        end: int,
        ranks: Sequence[tuple[int, float]] = ((CAR, 0.5),),
        joins: Seen | None = None,
    ) -> None:
        self.start, self.end = start, end
        self.ranks = ranks
        self.cluster = joins.cluster if joins else Cluster(np.zeros(0), ranks[0][0])
        self.leader: Seen = joins.leader if joins else self
        self.number = 0
        self.source = 0

    @property
    def sightings(self) -> list[Sighting]:
        times = [self.start] if self.start == self.end else [self.start, self.end]
        return [Sighting(when // 10, when, Box(when, 1, 2, 3)) for when in times]

    def indexed(self) -> IndexedObject:
        labels = np.array([label for label, _ in self.ranks], np.int64)
        scores = np.array([score for _, score in self.ranks], np.float32)
        return with_one_picture(
            key=b"key", jpeg=b"jpeg", sightings=self.sightings, labels=labels, scores=scores,
            vector=None, cluster=self.cluster,
        )  # fmt: skip


def fill(database: Database, *sources: Sequence[Seen]) -> list[Seen]:
    """Stores each source's objects, which are in the order they were found in, and numbers them."""
    stored = []
    for place, objects in enumerate(sources):
        row = register(database, f"camera{place}", f"{place}.mp4", "1", "{}")
        last = max((each.end for each in objects), default=0)
        for number in range(last // LENGTH + 1):
            mine = [each for each in objects if each.start // LENGTH == number]
            end = max([(number + 1) * LENGTH - 1, *(each.end for each in mine)])
            record = ChunkRecord(
                number=number, frames=10, start_us=number * LENGTH, end_us=end,
                objects=[each.indexed() for each in mine], gaps=(),
            )  # fmt: skip
            commit_chunk(database, row.id, record)
            for each in mine:
                stored.append(each)
                each.number, each.source = len(stored), row.id
    counted = database.rows("SELECT id, start_us FROM objects ORDER BY id")
    assert counted == [(each.number, each.start) for each in stored]
    return stored


class FakeJudge:
    """Knows the verdict on every object; what was computed once is remembered."""

    def __init__(self, verdicts: Mapping[int, Verdict], batch: int = 64) -> None:
        self.verdicts = verdicts
        self.batch = batch
        self.remembered: dict[int, Verdict] = {}
        self.asked: list[list[int]] = []
        self.looked_up: list[int] = []
        self.judged = Judged()

    def known(self, objects: Sequence[int]) -> dict[int, Verdict]:
        self.looked_up += objects
        return {each: self.remembered[each] for each in objects if each in self.remembered}

    def compute(self, objects: Sequence[int]) -> dict[int, Verdict]:
        self.asked.append(list(objects))
        found = {each: self.verdicts[each] for each in objects}
        self.remembered.update(found)
        return found


def say(label: str, score: float = 0.9) -> Verdict:
    return Verdict(EXPENSIVE.index(label), score)


IDENTITY = Identity(
    "prefix", Preprocessing(), Preprocessing().digest, "cheap", "tail", CHEAP, "bundle"
)


def search(database: Database, judge: FakeJudge, label: str = "car", **asked: object) -> Search:
    sources = [row[0] for row in database.rows("SELECT id FROM sources")]
    values = {"spans": tuple(Span(each) for each in sources), "top": ALL, "gap_us": 5, **asked}
    fake: Judge = judge  # type: ignore[assignment]
    return Search(database, IDENTITY, fake, EXPENSIVE, Question(label, **values))  # type: ignore[arg-type]


def found(
    database: Database, judge: FakeJudge, label: str = "car", **asked: object
) -> list[Appearance]:
    return list(search(database, judge, label, **asked).appearances())


def objects(appearances: Sequence[Appearance]) -> list[tuple[int, ...]]:
    return [each.objects for each in appearances]


@contextmanager
def store(folder: Path | None = None) -> Iterator[Database]:
    with TemporaryDirectory() as own, Database.create(folder or Path(own)) as database:
        yield database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with store(tmp_path) as opened:
        yield opened


def all_cars(count: int) -> dict[int, Verdict]:
    return {number: say("car") for number in range(1, count + 1)}


def test_an_appearance_is_its_objects_on_their_frames(database: Database) -> None:
    fill(database, [Seen(10, 30), Seen(20, 33), Seen(60, 60)])
    judge = FakeJudge({1: say("car", 0.7), 2: say("car", 0.8), 3: say("car", 0.6)})
    first, second = sorted(found(database, judge), key=lambda each: each.start_us)
    assert first == Appearance(
        source=1, start_us=10, end_us=33, confidence=0.8, objects=(1, 2), picture=2,
        sightings=tuple(Sighting(when // 10, when, Box(when, 1, 2, 3)) for when in (10, 20, 30, 33)),
    )  # fmt: skip
    assert (second.start_us, second.end_us, second.confidence) == (60, 60, 0.6)


def test_each_object_is_an_answer_unless_a_gap_joins_them(database: Database) -> None:
    fill(database, [Seen(10, 30, [(CAR, 0.3)]), Seen(20, 33), Seen(60, 60, [(CAR, 0.9)])])
    judge = FakeJudge({1: say("car", 0.7), 2: say("car", 0.8), 3: say("car", 0.6)})
    answers = found(database, judge, gap_us=None)
    assert [(each.objects, each.picture, each.start_us, each.end_us) for each in answers] == [
        ((3,), 3, 60, 60), ((2,), 2, 20, 33), ((1,), 1, 10, 30),
    ]  # fmt: skip
    assert Question("car", (), 1).gap_us is None
    assert objects(found(database, judge, gap_us=27)) == [(1, 2, 3)]


def test_an_object_waits_for_no_other(database: Database) -> None:
    fill(database, [Seen(10, 12, [(CAR, 0.9)]), *(Seen(11, 12) for _ in range(8))])
    judge = FakeJudge(all_cars(9))
    assert next(search(database, judge, gap_us=None).appearances()).objects == (1,)
    assert judge.asked == [[1, 2, 3, 4]]


@pytest.mark.parametrize("seconds", [-0.1, math.nan, math.inf])
def test_a_gap_that_is_no_length_of_time_is_refused(seconds: float) -> None:
    with pytest.raises(TrtkitError, match="^--gap .* is not a length of time; choose seconds"):
        module.gap_of(seconds)


def test_an_appearance_ends_with_the_object_that_is_seen_last(database: Database) -> None:
    fill(database, [Seen(10, 50), Seen(20, 22)])
    (only,) = found(database, FakeJudge(all_cars(2)))
    assert (only.start_us, only.end_us, only.objects) == (10, 50, (1, 2))


def test_the_expensive_tail_decides_by_its_own_numbering(database: Database) -> None:
    fill(database, [Seen(10, 10), Seen(30, 30), Seen(50, 50)])
    judge = FakeJudge({1: say("dog"), 2: say("car"), 3: say("cat")})
    assert objects(found(database, judge)) == [(2,)]
    # Number 1 is the cheap tail's car, and the expensive one's dog.
    assert objects(found(database, judge, "dog")) == []


def test_top_counts_the_best_classes(database: Database) -> None:
    ranks = [(VAN, 0.6), (CAR, 0.3), (DOG, 0.1)]
    fill(database, [Seen(10, 10, ranks), Seen(30, 30, ranks[1:]), Seen(50, 50, ranks[:1])])
    judge = FakeJudge(all_cars(3))
    assert objects(found(database, judge, top=1)) == [(2,)]
    assert objects(found(database, judge, top=2)) == [(1,), (2,)]
    assert sorted(judge.remembered) == [1, 2]


def test_least_is_the_cheap_tails_score(database: Database) -> None:
    fill(database, [Seen(n * 20, n * 20, [(CAR, score)]) for n, score in enumerate((0.25, 0.5))])
    judge = FakeJudge(all_cars(2))
    assert objects(found(database, judge, least=0.5)) == [(2,)]
    assert objects(found(database, judge, least=0.51)) == []
    assert judge.asked == [[2]]


def test_confidence_is_the_expensive_tails(database: Database) -> None:
    fill(database, [Seen(10, 10), Seen(30, 30)])
    judge = FakeJudge({1: say("car", 0.4), 2: say("car", 0.6)})
    assert objects(found(database, judge, confidence=0.6)) == [(2,)]
    assert len(found(database, judge, confidence=0.4)) == 2


def test_one_is_asked_for_all_of_its_cluster(database: Database) -> None:
    first = Seen(10, 10)
    other = Seen(50, 50, [(DOG, 0.9)])
    fill(database, [first, Seen(30, 30, [(DOG, 0.8)], joins=first), other])
    judge = FakeJudge({1: say("car"), 3: say("dog")})
    searched = search(database, judge)
    assert objects(list(searched.appearances())) == [(1,), (2,)]
    assert judge.asked == [[1]]
    assert (searched.explanation.candidates, searched.explanation.clusters) == (2, 1)


def test_of_groups_that_look_as_good_the_smaller_comes_first(database: Database) -> None:
    large = [Seen(10 + n, 10 + n, [(CAR, score)]) for n, score in enumerate((0.1, 0.998, 0.1))]
    small, worse = Seen(50, 50, [(CAR, 0.996)]), Seen(80, 80, [(CAR, 0.98)])
    fill(database, [*large, small, worse])
    judge = FakeJudge(all_cars(5))
    assert objects(found(database, judge)) == [(4,), (1, 2, 3), (5,)]
    assert [number for each in judge.asked for number in each] == [4, 1, 2, 3, 5]


def test_a_cluster_goes_on_in_later_segments(database: Database) -> None:
    first = Seen(10, 10)
    fill(database, [first, Seen(210, 210, joins=first), Seen(410, 410, joins=first)])
    judge = FakeJudge({1: say("car")})
    assert objects(found(database, judge)) == [(1,), (2,), (3,)]
    assert objects(found(database, judge, spans=(Span(1, 200, 300),))) == [(2,)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [1, 2, 3]),
        (31, None, [2, 3]),
        (30, None, [1, 2, 3]),
        (None, 149, [1]),
        (None, 150, [1, 2]),
        (180, 180, [2]),
        (201, 299, []),
        (1000, None, []),
    ],
)
def test_a_span_is_what_it_touches(
    database: Database, start: int | None, end: int | None, expected: list[int]
) -> None:
    # The second one is longer than its segment.
    fill(database, [Seen(10, 30), Seen(150, 200), Seen(300, 310)])
    answers = found(database, FakeJudge(all_cars(3)), spans=(Span(1, start, end),))
    assert [number for each in answers for number in each.objects] == expected


def test_sources_are_apart(database: Database) -> None:
    fill(database, [Seen(10, 10)], [Seen(12, 12)], [Seen(14, 14)])
    answers = found(database, FakeJudge(all_cars(3)), spans=(Span(1), Span(3)))
    assert [(each.source, each.objects) for each in answers] == [(1, (1,)), (3, (3,))]


def test_the_group_that_looks_most_like_it_comes_first(database: Database) -> None:
    seen = [Seen(n * 30, n * 30, [(CAR, score)]) for n, score in enumerate((0.3, 0.9, 0.6))]
    fill(database, seen, [Seen(0, 0, [(CAR, 0.8)])])
    judge = FakeJudge(all_cars(4))
    assert objects(found(database, judge)) == [(2,), (4,), (3,), (1,)]
    assert judge.asked[0] == [2, 4, 3, 1]


def test_a_group_is_as_good_as_its_best(database: Database) -> None:
    scores = ((0, 0.9), (2, 0.1), (50, 0.5))
    fill(database, [Seen(at, at, [(CAR, score)]) for at, score in scores])
    assert objects(found(database, FakeJudge(all_cars(3)))) == [(1, 2), (3,)]


def test_limit_ends_it_with_the_best(database: Database) -> None:
    fill(database, [Seen(n * 30, n * 30, [(CAR, n / 100)]) for n in range(1, 41)])
    judge = FakeJudge(all_cars(40))
    assert objects(found(database, judge, limit=2)) == [(40,), (39,)]
    assert judge.asked == [[40, 39, 38, 37]]
    again = FakeJudge({**all_cars(40), 40: say("dog")})
    assert objects(found(database, again, limit=2)) == [(39,), (38,)]


def test_the_first_batch_is_small_and_the_next_ones_grow_to_the_tails(database: Database) -> None:
    fill(database, [Seen(n * 30, n * 30) for n in range(40)])
    judge = FakeJudge(all_cars(40), batch=11)
    running = search(database, judge).appearances()
    next(running)
    assert [len(each) for each in judge.asked] == [FIRST_BATCH]
    list(running)
    assert [len(each) for each in judge.asked] == [4, 8, 11, 11, 6]
    assert sorted(number for each in judge.asked for number in each) == list(range(1, 41))


def test_what_is_remembered_is_not_asked_again(database: Database) -> None:
    fill(database, [Seen(n * 30, n * 30) for n in range(12)])
    judge = FakeJudge(all_cars(12))
    judge.remembered = {number: say("car") for number in (1, 5, 12)}
    answers = found(database, judge)
    asked = [number for each in judge.asked for number in each]
    assert sorted(asked) == [2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert judge.judged.remembered == 3
    judge.asked.clear()
    assert found(database, judge) == answers
    assert judge.asked == []
    assert judge.judged.remembered == 15


def test_each_is_looked_up_once_and_not_before_it_is_near(database: Database) -> None:
    count = LOOKED_UP + 5
    fill(database, [Seen(n * 30, n * 30) for n in range(count)])
    judge = FakeJudge(all_cars(count))
    running = search(database, judge).appearances()
    next(running)
    assert len(judge.looked_up) == LOOKED_UP
    assert len(list(running)) == count - 1
    assert sorted(judge.looked_up) == list(range(1, count + 1))


def test_no_time_asks_nothing_and_gives_what_is_remembered_before(database: Database) -> None:
    fill(database, [Seen(n * 30, n * 30) for n in range(4)])
    judge = FakeJudge(all_cars(4))
    judge.remembered = {1: say("car"), 2: say("car")}
    searched = search(database, judge, seconds=0.0)
    assert objects(list(searched.appearances())) == [(1,), (2,)]
    assert judge.asked == []
    assert searched.explanation.out_of_time


def test_what_comes_in_time_is_the_beginning_of_the_whole_answer(database: Database) -> None:
    fill(database, [Seen(n * 30, n * 30) for n in range(4)])
    judge = FakeJudge(all_cars(4))
    # Not the last one without the third, though it is known.
    judge.remembered = {1: say("car"), 2: say("dog"), 4: say("car")}
    assert objects(found(database, judge, seconds=0.0)) == [(1,)]


def test_time_that_is_up_ends_it_between_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(FakeJudge):
        def compute(self, objects: Sequence[int]) -> dict[int, Verdict]:
            clock[0] += 0.2
            return super().compute(objects)

    fill(database, [Seen(n * 30, n * 30) for n in range(12)])
    judge = Slow(all_cars(12))
    searched = search(database, judge, seconds=0.1)
    assert objects(list(searched.appearances())) == [(1,), (2,), (3,), (4,)]
    assert judge.asked == [[1, 2, 3, 4]]
    assert searched.explanation.out_of_time
    assert searched.explanation.seconds == pytest.approx(0.2)
    assert searched.explanation.first_seconds == pytest.approx(0.2)


def test_what_answering_took(database: Database) -> None:
    fill(database, [Seen(10, 10), Seen(12, 12), Seen(50, 50), Seen(90, 90, [(DOG, 1.0)])])
    judge = FakeJudge({1: say("car"), 2: say("car"), 3: say("dog")})
    searched = search(database, judge)
    list(searched.appearances())
    said = searched.explanation
    assert (said.candidates, said.clusters, said.confirmed, said.appearances) == (3, 3, 2, 1)
    assert said.first_seconds is not None
    assert 0 < said.finding_seconds <= said.first_seconds <= said.seconds
    assert not said.out_of_time
    assert said.judged is judge.judged


def test_a_store_without_objects_answers_nothing(database: Database) -> None:
    judge = FakeJudge({})
    assert found(database, judge) == []
    fill(database, [])
    searched = search(database, judge)
    assert list(searched.appearances()) == []
    assert searched.explanation.first_seconds is None
    assert searched.explanation.seconds > 0
    assert judge.asked == judge.looked_up == []


def test_a_class_that_a_tail_does_not_know_is_refused(database: Database) -> None:
    with pytest.raises(TrtkitError, match=r"^Class 'cart' not found in cheap; available: .*car"):
        search(database, FakeJudge({}), "cart")
    with pytest.raises(TrtkitError, match="^Class 'cat' not found in cheap; available: "):
        search(database, FakeJudge({}), "cat")
    fake: Judge = FakeJudge({})  # type: ignore[assignment]
    with pytest.raises(TrtkitError, match="not found in the tail that answers; available: "):
        Search(database, IDENTITY, fake, ("dog",), Question("car", (), 1))


RANKS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4).map(lambda n: n / 4)),
    min_size=1, max_size=3, unique_by=lambda rank: rank[0],
)  # fmt: skip


@st.composite
def filled(draw: st.DrawFn) -> list[list[Seen]]:
    sources = []
    for _ in range(draw(st.integers(1, 2))):
        mine: list[Seen] = []
        times = draw(
            st.lists(st.tuples(st.integers(0, 250), st.integers(0, 20)), min_size=1, max_size=8)
        )
        # As ingest finds them, by segments.
        for start, length in sorted(times):
            end = min(start + length, (start // LENGTH + 1) * LENGTH - 1)
            joins = draw(st.sampled_from([None, *mine]))
            mine.append(Seen(start, end, draw(RANKS), joins))
        sources.append(mine)
    return sources


@given(filled(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_answers_as_looking_at_every_object_would(
    sources: list[list[Seen]], data: st.DataObject
) -> None:
    with store() as database:
        stored = fill(database, *sources)
        scores = st.integers(0, 4).map(lambda n: n / 4)
        verdicts = {
            each.number: Verdict(data.draw(st.integers(0, 4)), data.draw(scores)) for each in stored
        }
        label = data.draw(st.sampled_from(["bus", "car", "dog"]))
        top, least = data.draw(st.integers(1, 4)), data.draw(scores)
        confidence, gap = data.draw(scores), data.draw(st.none() | st.integers(0, 30))
        low, high = (data.draw(st.none() | st.integers(0, 270)) for _ in range(2))
        judge = FakeJudge(verdicts, batch=data.draw(st.integers(1, 6)))
        for each in stored:
            if data.draw(st.booleans()):
                judge.remembered[each.number] = verdicts[each.number]
        remembered = set(judge.remembered)
        answers = found(
            database, judge, label, top=top, least=least, confidence=confidence, gap_us=gap,
            spans=tuple(Span(number + 1, low, high) for number in range(len(sources))),
        )  # fmt: skip

    def confirmed(each: Seen) -> bool:
        ranks = dict(list(each.leader.ranks)[:top])
        said = verdicts[each.leader.number]
        return (
            ranks.get(CHEAP.index(label), -1.0) >= least
            and EXPENSIVE[said.label] == label
            and said.score >= confidence
            and (low is None or each.end >= low)
            and (high is None or each.start <= high)
        )

    kept = [each for each in stored if confirmed(each)]
    assert sorted(n for each in answers for n in each.objects) == [each.number for each in kept]
    for answer in answers:
        mine = [each for each in kept if each.number in answer.objects]
        assert {each.source for each in mine} == {answer.source}
        assert answer.start_us == min(each.start for each in mine)
        assert answer.end_us == max(each.end for each in mine)
        assert answer.confidence == max(verdicts[each.leader.number].score for each in mine)
        seen = [sighting for each in mine for sighting in each.sightings]
        assert sorted(answer.sightings, key=str) == sorted(seen, key=str)
        times = [each.time_us for each in answer.sightings]
        assert times == sorted(times)
        if gap is None:
            assert answer.objects == (answer.picture,)
            continue
        # One stretch without a longer gap,
        reached = mine[0].start
        for each in sorted(mine, key=lambda each: each.start):
            assert each.start - reached <= gap
            reached = max(reached, each.end)
        # and nothing of it is within the gap of another one.
        for other in answers:
            if other is not answer and other.source == answer.source:
                assert other.start_us - answer.end_us > gap or answer.start_us - other.end_us > gap
    asked = [number for each in judge.asked for number in each]
    assert len(asked) == len(set(asked))
    assert not remembered & set(asked)
    # Nobody is asked in whose place another one stands.
    assert set(asked) <= {each.leader.number for each in stored}


@pytest.mark.parametrize(("since", "until"), [("10", "5"), ("0:01:00", "59.9")])
def test_a_time_that_ends_before_it_begins_is_refused(since: str, until: str) -> None:
    row = SourceRow(1, "gate", "gate.mp4", "f", "{}", None, 1, 10, 10, True)
    with pytest.raises(TrtkitError, match=f"from {since} to {until} ends before it begins"):
        module.spans_of([row], (), since, until)
    assert module.spans_of([row], (), until, since)[0].source == 1


def test_dates_without_a_zone_are_in_that_of_each_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        midnight = round(datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()) * 1_000_000
        row = SourceRow(1, "gate", "gate.mp4", "f", "{}", midnight, 1, 10, 10, True)
        berlin = replace(row, id=2, camera="yard", zone="Europe/Berlin")
        with recorded() as reports:
            spans = module.spans_of([row, berlin], (), "2026-03-01T09:30", "2026-03-01T09:30Z")
        hour = 3_600_000_000
        assert [span.start_us for span in spans] == [hour // 2, 8 * hour + hour // 2]
        assert [span.end_us for span in spans] == [9 * hour + hour // 2] * 2
        (sentence,) = reports.messages
        assert sentence.startswith(
            "2026-03-01T09:30 has no time zone and is taken as this machine's, JST (UTC+0900), for gate; "
        )
        with recorded() as reports:
            module.spans_of([row, berlin], ("yard",), "2026-03-01", "2026-03-02")
            module.spans_of([row, berlin], (), "90", "100")
        assert reports.messages == []
    finally:
        monkeypatch.undo()
        time.tzset()
