"""Seals of a footage store: no turned bit changes an answer, and none that counts stays unseen."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.fakes import CLASSES, IDENTITY, OPTIONS, FakeTail, claimed, run
from trtkit.errors import TrtkitError
from trtkit.serialization import to_plain
from trtkit.sqlite import transaction
from trtkit.video.detections import Box, Sighting
from trtkit.video.footage import schema
from trtkit.video.footage.database import (
    FILE,
    KIND,
    Database,
    pack_sightings,
    pack_top,
    source_lock,
)
from trtkit.video.footage.maintenance import verify, verify_at
from trtkit.video.footage.reading import Span, candidates, jpeg_of, pictures_of, sightings_of
from trtkit.video.footage.settings import QuerySettings, identity
from trtkit.video.footage.writing import source_rows
from trtkit.video.judging import Verdict, Verdicts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = claimed(tmp_path_factory.mktemp("seals") / "store")
    run(folder)
    with Database.open(folder) as database:
        Verdicts(database, "aa").remember({1: Verdict(1, 0.5), 2: Verdict(0, 0.25)})
        with database.transaction() as sql:
            QuerySettings(top=2).write(sql)
    return folder


def answers(folder: Path) -> dict[str, Any]:
    """All that questions read. Raises TrtkitError."""
    with Database.open(folder) as database:
        (row,) = source_rows(database)
        by_class = {
            (label, span): [
                item._replace(score=round(item.score, 12))
                for item in candidates(database, label, span, 3, 0.0)
            ]
            for label in range(CLASSES)
            for span in (Span(row.id), Span(row.id, 2_000_000, 4_500_000))
        }
        numbers = sorted({item.object for of_class in by_class.values() for item in of_class})
        crops = [jpeg_of(database, number) for number in numbers]
        if None in crops:
            # As whoever needs the picture says it.
            raise database.damage("a picture is missing")
        return {
            "source": row,
            "identity": identity(database),
            "settings": QuerySettings.of(database),
            "candidates": by_class,
            "sightings": sightings_of(database, numbers),
            "pictures": pictures_of(database, numbers),
            "crops": crops,
            "verdicts": {
                number: (verdict.label, round(verdict.score, 12))
                for number, verdict in Verdicts(database, "aa").known(numbers).items()
            },
        }


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two answers are equal; a verdict that is not found is computed again."""
    verdicts = found["verdicts"].items() <= expected["verdicts"].items()
    return verdicts and all(found[key] == expected[key] for key in expected if key != "verdicts")


def flips_told(store: Path, copy: Path, count: int, seed: int) -> int:
    """Turn one bit at a time, look at every answer, and return how often that ended in a sentence."""
    expected, data, draw = answers(store), (store / FILE).read_bytes(), random.Random(seed)
    told = 0
    for _ in range(count):
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        (copy / FILE).write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            assert same(answers(copy), expected), (at, bit)
        except TrtkitError:
            told += 1
            assert verify_at(copy).problems, (at, bit)
    return told


def test_no_turned_bit_changes_an_answer(store: Path, tmp_path: Path) -> None:
    assert flips_told(store, Path(shutil.copytree(store, tmp_path / "copy")), 40, seed=1) > 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sightings SET packed = substr(packed, 1, 47) || x'07' || substr(packed, 49)",
        "UPDATE objects SET start_us = start_us + 1 WHERE id = 3",
        "UPDATE objects SET top = zeroblob(length(top)) WHERE id = 3",
        "UPDATE clusters SET representative = 2 WHERE id = 1",
        "UPDATE ranks SET score = score * 1.5",
        "UPDATE verdicts SET class = 2",
        "UPDATE settings SET value = replace(value, '2', '3') WHERE name = 'tuned'",
        "UPDATE sources SET start_us = 5",
        "UPDATE segments SET end_us = 'late'",
        "UPDATE tallies SET count = count + 1",
        "UPDATE pictures SET jpeg = NULL",
        "UPDATE pictures SET x = x + 1",
        "UPDATE pictures SET place = place + 1 WHERE place = 1",
        "DELETE FROM pictures WHERE place = 0",
        "UPDATE objects SET end_us = end_us + 1 WHERE id = 2",
        "DELETE FROM settings WHERE name = 'tuned'",
        "DELETE FROM segments WHERE number = 1",
        "DELETE FROM ranks WHERE segment = 1",
        "DELETE FROM ranks WHERE segment = (SELECT max(segment) FROM ranks)",
        "DELETE FROM objects WHERE id = 3",
        "DELETE FROM sightings WHERE object = 3",
        "DELETE FROM clusters WHERE id = 1",
        "DELETE FROM sources",
    ],
)
def test_a_changed_or_lost_row_is_one_sentence(store: Path, tmp_path: Path, statement: str) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    with closing(sqlite3.connect(copy / FILE)) as sql:
        for (name,) in sql.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            sql.execute(f"DROP TRIGGER {name}")
        sql.execute("PRAGMA writable_schema = ON")
        sql.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')")
        sql.commit()
    with closing(sqlite3.connect(copy / FILE)) as sql:
        assert sql.execute(statement).rowcount > 0
        sql.commit()
    with pytest.raises((TrtkitError, ValueError), match="is damaged|unpack"):
        answers(copy)
    assert verify_at(copy).problems


def test_a_changed_row_stays_wrong_when_more_of_it_changes(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    with closing(sqlite3.connect(copy / FILE)) as sql:
        sql.execute("DROP TRIGGER clusters_seal_changed")
        sql.execute("UPDATE clusters SET label = label + 1 WHERE id = 1")
        sql.commit()
    seal = schema._ALL["clusters"]
    with Database.open(copy) as database, database.transaction() as sql:
        sql.execute(seal.triggers().split(";;")[1])
        sql.execute("UPDATE clusters SET used = used + 1")
    with Database.open(copy) as database:
        assert verify(database).problems == ("1 rows of clusters are not as they were written.",)


def old_store(folder: Path, version: int) -> Path:
    """A store as an earlier version made it: two objects with a picture each, in one chunk."""
    folder.mkdir()
    sightings = pack_sightings(
        [Sighting(0, 0, Box(1, 2, 30, 40)), Sighting(3, 300, Box(5, 2, 30, 40))]
    )
    top = pack_top(np.array([2, 1]), np.float32([0.75, 0.25]))
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as sql:
        sql.create_function("crc", 1, schema.crc, deterministic=True)
        with transaction(sql):
            schema.STEPS[0](sql)
        options = {**json.loads(OPTIONS.to_json()), "duplicate": 6.0, "warmup_seconds": 0.5}
        identity_text = json.dumps(to_plain(IDENTITY))
        sql.execute("INSERT INTO settings (name, value) VALUES ('identity', ?)", (identity_text,))
        sql.execute(
            "INSERT INTO sources (camera, location, fingerprint, options, next_segment, frames, end_us) "
            "VALUES ('gate', 'gate.mp4', 'f1', ?, 1, 10, 900)",
            (json.dumps(options),),
        )
        sql.execute(
            "INSERT INTO segments (source, number, start_us, end_us, frames, objects) "
            "VALUES (1, 0, 0, 900, 10, 2)"
        )
        for number in (1, 2):
            jpeg = b"jpeg %d" % number
            sql.execute(
                "INSERT INTO clusters (id, source, representative, label, used) VALUES (?, 1, ?, 2, ?)",
                (number, number, number),
            )
            sql.execute(
                "INSERT INTO objects (id, source, segment, cluster, start_us, end_us, key, top) "
                "VALUES (?, 1, 0, ?, 0, 300, ?, ?)",
                (number, number, FakeTail().key(jpeg), top),
            )
            for table, value in (("sightings", sightings), ("crops", jpeg), ("vectors", b"ab")):
                column = "jpeg" if table == "crops" else "packed"
                sql.execute(
                    f"INSERT INTO {table} (object, {column}) VALUES (?, ?)", (number, value)
                )
            for rank, (label, score) in enumerate(((2, 0.75), (1, 0.25))):
                sql.execute(
                    "INSERT INTO ranks (class, source, segment, cluster, rank, score) "
                    "VALUES (?, 1, 0, ?, ?, ?)",
                    (label, number, rank, score),
                )
        if version == 2:
            with transaction(sql):
                schema.STEPS[1](sql)
        sql.execute(f"PRAGMA application_id = {KIND.application}")
        sql.execute(f"PRAGMA user_version = {version}")
    return folder


def rows_of(folder: Path) -> dict[str, list[Any]]:
    with Database.open(folder) as database:
        tables = {schema.table_of(name) for name in schema.sealed_tables()}
        return {table: database.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_format_is_brought_forward(tmp_path: Path, version: int) -> None:
    folder = old_store(tmp_path / "store", version)
    with pytest.raises(
        TrtkitError, match=f"has format {version}, .* `trtkit store upgrade --store .*` moves it"
    ):
        Database.open(folder)
    Database.upgrade(folder)
    with Database.open(folder) as database:
        assert verify(database).problems == ()
        assert [item.object for item in candidates(database, 2, Span(1), 3, 0.5)] == [1, 2]
        for number, (picture,) in pictures_of(database, [1, 2]).items():
            assert picture.sighting == Sighting(0, 0, Box(1, 2, 30, 40))
            assert jpeg_of(database, number) == b"jpeg %d" % number
        assert len(sightings_of(database, [2])[2]) == 2
        # Removed options do not bind the rest of the source.
        (row,) = source_rows(database)
        assert row.options == OPTIONS.to_json()
        assert (row.width, row.height, row.frame_rate, row.zone) == (None, None, None, "")
    with pytest.raises(TrtkitError, match="^No footage store"):
        Database.upgrade(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    if version == 1:
        Database.create(old_store(tmp_path / "other", 2)).close()
        assert rows_of(folder) == rows_of(tmp_path / "other")


def test_a_store_that_another_process_writes_is_not_brought_forward(tmp_path: Path) -> None:
    folder = old_store(tmp_path / "store", 2)
    before = (folder / FILE).read_bytes()
    with (
        source_lock(folder, 1, "gate.mp4"),
        pytest.raises(TrtkitError, match="Another process is ingesting gate.mp4"),
    ):
        Database.create(folder)
    assert (folder / FILE).read_bytes() == before


def test_a_damaged_store_is_not_brought_forward(tmp_path: Path) -> None:
    folder = old_store(tmp_path / "store", 2)
    with closing(sqlite3.connect(folder / FILE)) as sql:
        sql.execute("DROP TRIGGER objects_seal_changed")
        sql.execute("UPDATE objects SET top = zeroblob(16) WHERE id = 2")
        sql.commit()
    with pytest.raises(TrtkitError, match="is damaged"):
        Database.create(folder)
