"""Reading a store: candidates against a brute force, by an index, and while somebody writes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.footage.records import CLASSES, SOURCES, Drawn, made, segment
from trtkit.errors import TrtkitError
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import (
    Span,
    candidates,
    jpeg_of,
    pictures_of,
    sightings_of,
)
from trtkit.video.footage.writing import commit_chunk

ONE = Drawn(5, 10, 0, (2, 1, 0), (0.5, 0.25, 0.125))
TWO = Drawn(50, 900, 1, (1, 2, 3), (0.75, 0.25, 0.0))
TIMES = st.none() | st.integers(-10, 6000)


@settings(max_examples=40, deadline=None)
@given(
    sources=SOURCES, label=st.integers(0, CLASSES), top=st.integers(1, 4), start=TIMES, end=TIMES,
    least=st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32), which=st.integers(1, 2),
)  # fmt: skip
def test_candidates(
    tmp_path_factory: pytest.TempPathFactory,
    sources: list,
    label: int,
    top: int,
    start: int | None,
    end: int | None,
    least: float,
    which: int,
) -> None:
    database, filled = made(tmp_path_factory.mktemp("store"), sources)
    with database:
        found = candidates(database, label, Span(which, start, end), top, least)
        expected = []
        for at, each in enumerate(filled.objects):
            asked = filled.objects[each["begun_by"]]["drawn"]
            if each["source"] != which or label not in asked.labels[:top]:
                continue
            score = asked.scores[asked.labels.index(label)]
            inside = (start is None or each["times"][1] >= start) and (
                end is None or each["times"][0] <= end
            )
            if inside and score >= least:
                # Objects are numbered from 1 in the order in which they are written.
                row = (at + 1, which, *each["times"], each["begun_by"] + 1, score)
                expected.append(row)
        expected.sort(key=lambda row: (row[2], row[0]))
        assert [tuple(each) for each in found] == expected


def test_what_is_known_of_objects(tmp_path: Path) -> None:
    many = [Drawn(number % 900, 3, number % 7, (1,), (0.5,)) for number in range(1203)]
    database, filled = made(tmp_path, [{0: many}, {0: [ONE]}])
    with database:
        numbers = list(range(len(filled.objects), 0, -1))
        seen, pictures = sightings_of(database, numbers), pictures_of(database, numbers)
        assert len(seen) == len(pictures) == 1204
        for number in (1, 500, 501, 1203, 1204):
            wanted = filled.objects[number - 1]
            assert tuple(each.time_us for each in seen[number]) == wanted["times"]
            (picture,) = pictures[number]
            assert picture.source == wanted["source"] == (2 if number == 1204 else 1)
            assert picture.sighting == seen[number][0]
            assert jpeg_of(database, number) == wanted["crop"]
        assert jpeg_of(database, 1205) is None
        with pytest.raises(TrtkitError, match=r"is damaged \(1 rows are missing\)"):
            sightings_of(database, [1, 1205])
        with pytest.raises(TrtkitError, match="a picture of object 1205 is missing"):
            pictures_of(database, [1, 1205])


def test_an_empty_store(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        assert candidates(database, 1, Span(1), 3, 0.0) == []


def test_a_question_is_answered_by_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Drawn(number % 900, 3, number % 4, (1, 2, 3), (0.5, 0.3, 0.1)) for number in range(200)]
    database, _ = made(tmp_path, [dict.fromkeys(range(6), many)] * 2)
    with database:
        asked: list[tuple[str, tuple[Any, ...]]] = []
        rows = database.rows

        def noted(query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
            asked.append((query, parameters))
            return rows(query, parameters)

        monkeypatch.setattr(database, "rows", noted)
        for statistics in (False, True):
            if statistics:
                rows("ANALYZE")
            asked.clear()
            assert candidates(database, 2, Span(1, 2100, 2500), 3, 0.2)
            pictures_of(database, [1, 2])
            sightings_of(database, [1, 2])
            jpeg_of(database, 1)
            assert len(asked) == 9
            for query, parameters in asked:
                plan = [row[3] for row in rows(f"EXPLAIN QUERY PLAN {query}", parameters)]
                assert plan and not [step for step in plan if step.startswith("SCAN")], plan
                if "BETWEEN" in query:
                    assert any("COVERING INDEX objects_by_cluster" in step for step in plan)
                    # One stretch of one table: a class of a source from a segment to another.
                    assert any(
                        "class=? AND source=? AND segment>? AND segment<?" in s for s in plan
                    )
                    # The segments that the span touches, and no others.
                    assert parameters[2:4] == (2, 2)


def test_readers_do_not_wait_for_a_writer_and_see_what_was_before(tmp_path: Path) -> None:
    database, filled = made(tmp_path, [{0: [ONE]}])
    with database, Database.open(tmp_path) as reader:
        before = candidates(reader, 2, Span(1), 3, 0.0)
        assert len(before) == 1
        from trtkit.video.footage import writing

        record = segment(1, [TWO, ONE], {}, filled, 1)
        with database.transaction() as sql:
            for each in record.objects:
                writing._write_object(sql, 1, 1, each)
            writing._write_ranks(sql, 1, record)
            begun = time.perf_counter()
            assert candidates(reader, 2, Span(1), 3, 0.0) == before
            assert time.perf_counter() - begun < 5
            sql.execute("ROLLBACK")
            sql.execute("BEGIN")
        for each in record.objects:
            each.cluster.id = None
        commit_chunk(database, 1, record)
        assert len(candidates(reader, 2, Span(1), 3, 0.0)) == 3


def test_an_object_longer_than_its_segment_is_found_by_any_of_its_times(tmp_path: Path) -> None:
    # What is seen on is of the segment that it began in, whose end is then as late.
    database, _ = made(tmp_path, [{0: [Drawn(900, 299, 0, (1,), (0.5,))], 1: [TWO]}])
    with database:
        for start, end, count in (
            (1150, 1160, 2),
            (1200, 1300, 1),
            (0, 899, 0),
            (900, 900, 1),
            (1199, None, 2),
            (1950, 1960, 1),
            (1951, None, 0),
            (None, 899, 0),
        ):
            assert len(candidates(database, 1, Span(1, start, end), 3, 0.0)) == count
        # With at least that score, and among that many classes.
        for label, top, least, count in (
            (2, 3, 0.25, 1), (2, 2, 0.25, 1), (2, 1, 0.0, 0), (2, 2, 0.26, 0), (3, 3, 0.0, 1),
        ):  # fmt: skip
            assert len(candidates(database, label, Span(1), top, least)) == count
