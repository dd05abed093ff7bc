"""Seals of a footage store: no turned bit changes an answer, and none that counts stays unseen."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.video.fakes import CLASSES, claimed, run
from trtkit.errors import TrtkitError
from trtkit.sqlite import transaction
from trtkit.video.footage import schema
from trtkit.video.footage.database import FILE, KIND, Database
from trtkit.video.footage.maintenance import verify, verify_at
from trtkit.video.footage.reading import Span, candidates, crop_of, keys_of, sightings_of
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
        crops = [crop_of(database, number) for number in numbers]
        if None in crops:
            # As whoever needs the picture says it.
            raise database.damage("a picture is missing")
        return {
            "source": row,
            "identity": identity(database),
            "settings": QuerySettings.of(database),
            "candidates": by_class,
            "sightings": sightings_of(database, numbers),
            "keys": keys_of(database, numbers),
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
    assert flips_told(store, Path(shutil.copytree(store, tmp_path / "copy")), 40, seed=1) > 5


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
        "UPDATE crops SET jpeg = NULL",
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


def test_a_store_of_an_earlier_version_is_read_and_brought_forward(
    store: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    # As the first version made it: its tables, and the rows of this one.
    tables = "settings sources segments gaps clusters objects sightings crops vectors ranks tails verdicts"
    with closing(sqlite3.connect(old / FILE, isolation_level=None)) as sql:
        sql.create_function("crc", 1, schema.crc)
        with transaction(sql):
            schema.STEPS[0](sql)
        sql.execute(f"PRAGMA application_id = {KIND.application}")
        sql.execute("PRAGMA user_version = 1")
        sql.execute("ATTACH ? AS new", (str(store / FILE),))
        for table in tables.split():
            names = ", ".join(row[1] for row in sql.execute(f"PRAGMA main.table_info({table})"))
            sql.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
    assert same(answers(old), answers(store))
    with Database.open(old) as database:
        assert not database.sealed
        # Pictures are checked as ever.
        assert verify(database).problems == ()
    Database.create(old).close()
    with Database.open(old) as database:
        assert database.sealed
        assert verify(database).problems == ()
    assert same(answers(old), answers(store))
    rows = {}
    for folder in (old, store):
        with Database.open(folder) as database:
            rows[folder] = [
                database.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
                for table in ("ranks", "tallies")
            ]
    assert rows[old] == rows[store]
