"""Committing segments: everything of them or nothing, and what is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from tests.video.footage.records import SOURCES, Drawn, fill, made, row, segment
from trtkit.errors import TrtkitError
from trtkit.video.clusters import Cluster
from trtkit.video.footage import writing
from trtkit.video.footage.database import Database, unpack_sightings, unpack_top, unpack_vector
from trtkit.video.footage.writing import (
    ChunkRecord,
    commit_chunk,
    complete,
    known_clusters,
    register,
    source_row,
    source_rows,
)
from trtkit.video.frames import Gap
from trtkit.video.options import IngestOptions

ONE = Drawn(5, 10, 0, (2, 1, 0), (0.5, 0.25, 0.125))
TWO = Drawn(50, 0, 1, (1, 2, 3), (0.75, 0.25, 0.0))
OPTIONS = IngestOptions().to_json()


@settings(max_examples=25, deadline=None)
@given(sources=SOURCES)
def test_what_was_committed_is_there(
    tmp_path_factory: pytest.TempPathFactory, sources: list
) -> None:
    database, filled = made(tmp_path_factory.mktemp("store"), sources)
    with database:
        rows = database.rows(
            "SELECT o.id, o.source, o.segment, o.start_us, o.end_us, c.representative, o.top, "
            "s.packed, p.jpeg, v.packed, c.label FROM objects o JOIN clusters c ON c.id = o.cluster "
            "JOIN sightings s ON s.object = o.id JOIN pictures p ON p.object = o.id AND place = 0 "
            "JOIN vectors v ON v.object = o.id ORDER BY o.id"
        )
        ids = [number for number, *_ in rows]
        assert len(rows) == len(filled.objects)
        for at, (found, wanted) in enumerate(zip(rows, filled.objects, strict=True)):
            drawn = wanted["drawn"]
            assert found[1:5] == (wanted["source"], wanted["segment"], *wanted["times"])
            assert found[5] == ids[wanted["begun_by"]]
            labels, scores = unpack_top(found[6])
            assert (tuple(labels), tuple(scores)) == (drawn.labels, drawn.scores)
            assert [each.time_us for each in unpack_sightings(found[7])] == list(wanted["times"])
            assert found[8] == wanted["crop"]
            np.testing.assert_array_equal(unpack_vector(found[9]), [0.5, at])
            assert found[10] == filled.objects[wanted["begun_by"]]["drawn"].labels[0]
        # For each cluster in each segment the classes of what began it.
        expected = {
            (label, each["source"], each["segment"], ids[each["begun_by"]], rank, score)
            for each in filled.objects
            for rank, (label, score) in enumerate(
                zip(
                    filled.objects[each["begun_by"]]["drawn"].labels,
                    filled.objects[each["begun_by"]]["drawn"].scores,
                    strict=True,
                )
            )
        }
        ranks = database.rows(
            "SELECT r.class, r.source, r.segment, c.representative, r.rank, r.score "
            "FROM ranks r JOIN clusters c ON c.id = r.cluster"
        )
        assert set(ranks) == expected and len(ranks) == len(expected)
        for source, segments in zip(source_rows(database), sources, strict=True):
            last = max(segments, default=-1)
            assert (source.next_segment, source.frames) == (last + 1, 1000 * len(segments))
            assert not source.complete
            for limit in (1, 2, 9):
                clusters = known_clusters(database, source.id, limit)
                mine = [each for each in filled.objects if each["source"] == source.id]
                uses = {each["begun_by"]: each["used"] for each in mine}
                assert [each.used for each in clusters] == sorted(uses.values())[-limit:]


def test_an_error_within_leaves_the_commit_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, filled = made(tmp_path, [{0: [ONE]}])
    with database:
        before = list(database._sql.iterdump())
        cluster = known_clusters(database, 1, 9)[0]
        clusters = {0: (cluster, 0)}
        record = segment(1, [ONE, TWO], clusters, filled, 1)
        new = record.objects[1].cluster
        for name in ("_write_object", "_write_ranks", "_write_gaps"):
            original = getattr(writing, name)
            calls = []

            def broken(*given: object, original=original, calls=calls, name=name) -> None:
                original(*given)
                calls.append(given)
                if len(calls) == (2 if name == "_write_object" else 1):
                    raise KeyboardInterrupt

            with monkeypatch.context() as patched:
                patched.setattr(writing, name, broken)
                with pytest.raises(KeyboardInterrupt):
                    commit_chunk(database, 1, record)
            assert list(database._sql.iterdump()) == before
            # New clusters have no id again, known ones keep theirs.
            assert (new.id, cluster.id) == (None, 1)
        commit_chunk(database, 1, record)
        assert new.id is not None
        assert source_row(database, 1).next_segment == 2
        with pytest.raises(TrtkitError):
            commit_chunk(database, 1, record)


def test_the_first_of_a_cluster_began_it(tmp_path: Path) -> None:
    """Whichever object it is: one that was interrupted after it joined is looked at again."""
    with Database.create(tmp_path) as database:
        source = row(database, "a")
        cluster = Cluster(np.ones(2, np.float32), 2, 1)
        from tests.video.footage.records import Filled

        record = segment(0, [ONE, ONE], {0: (cluster, 0)}, Filled(), source)
        commit_chunk(database, source, record)
        assert database.rows("SELECT representative FROM clusters") == [(1,)]
        assert database.rows("SELECT cluster FROM objects") == [(1,), (1,)]


def test_start_and_end(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        source = row(database, "a")
        empty = ChunkRecord(0, 3, 0, 2, [], [])
        commit_chunk(database, source, empty)
        assert source_row(database, source).start_us is None
        commit_chunk(database, source, ChunkRecord(1, 3, 3, 5, [], []), start_us=70)
        commit_chunk(database, source, ChunkRecord(2, 3, 6, 8, [], []), start_us=90, last=True)
        found = source_row(database, source)
        assert (found.start_us, found.frames, found.end_us, found.complete) == (70, 9, 8, True)
        other = row(database, "b")
        complete(database, other, [Gap(1, 2, "damaged")])
        assert [each.complete for each in source_rows(database)] == [True, True]
        assert database.rows("SELECT source, start_us, end_us, reason FROM gaps") == [
            (other, 1, 2, "damaged")
        ]


def test_registering(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        first = register(database, "gate", "a.mp4", "f1", OPTIONS)
        assert register(database, "gate", "a.mp4", "f1", OPTIONS) == first
        assert register(database, "yard", "a.mp4", "f1", OPTIONS).id != first.id
        assert register(database, "gate", "b.mp4", "f1", OPTIONS).id != first.id
        other = IngestOptions(top=9).to_json()
        # Until something is committed, who holds it decides.
        assert register(database, "gate", "a.mp4", "f2", other).options == OPTIONS
        changed = register(database, "gate", "a.mp4", "f2", other, locked=True)
        assert (changed.fingerprint, changed.options) == ("f2", other)
        commit_chunk(database, first.id, ChunkRecord(0, 1, 0, 0, [], []))
        for locked in (False, True):
            assert register(database, "gate", "a.mp4", "f2", other, locked=locked).frames == 1
            with pytest.raises(TrtkitError, match=r"with other options \(top 9\); use those"):
                register(database, "gate", "a.mp4", "f2", OPTIONS, locked=locked)
            with pytest.raises(TrtkitError, match="held other footage when"):
                register(database, "gate", "a.mp4", "f1", other, locked=locked)
        assert source_row(database, first.id).options == other


def test_no_source_gets_what_is_another_ones(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        filled = fill(database, [{0: [ONE, TWO]}, {0: [TWO], 1: [ONE]}])
        assert len(filled.objects) == 4
        assert [len(known_clusters(database, source, 9)) for source in (1, 2)] == [2, 2]
        ids = [{each.id for each in known_clusters(database, source, 9)} for source in (1, 2)]
        assert not ids[0] & ids[1]


def test_what_an_earlier_version_took_for_the_footage_is_replaced(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        first = register(database, "gate", "a.mp4", "ends", OPTIONS)
        commit_chunk(database, first.id, ChunkRecord(0, 1, 0, 0, [], []))
        kept = register(database, "gate", "a.mp4", "content", OPTIONS, former="ends")
        assert (kept.id, kept.fingerprint) == (first.id, "content")
        # From then on it is the content that counts.
        with pytest.raises(TrtkitError, match="held other footage when"):
            register(database, "gate", "a.mp4", "other", OPTIONS, former="ends")
