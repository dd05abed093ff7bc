"""Damaged bytes and rows are misses, counted, said once, and repaired by the next put."""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.reports import recorded
from trtkit.errors import TrtkitError
from trtkit.store import codec
from trtkit.store.maintenance import clear, info, verify
from trtkit.store.store import FeatureStore

KEYS = [hashlib.sha256(bytes([n])).digest() for n in range(3)]


def map_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((8, 5, 5)).astype(np.float16)


def segment_of(folder: Path) -> Path:
    (path,) = folder.glob("segment-*.seg")
    return path


def place_of(folder: Path, key: bytes) -> tuple[int, int]:
    connection = sqlite3.connect(folder / "index.sqlite")
    row = connection.execute("SELECT offset, length FROM entries WHERE key = ?", (key,)).fetchone()
    connection.close()
    return row


@pytest.fixture(params=["none", "zstd"])
def folder(tmp_path, request):
    with FeatureStore(tmp_path, codec=request.param) as store:
        for number, key in enumerate(KEYS):
            store.put(key, np.maximum(map_of(number), 0))
    return tmp_path


def check_only_middle_is_lost(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entry 1 is a miss, is reported once, and can be put again; the others are intact."""
    with caplog.at_level(logging.WARNING, "trtkit.store"), FeatureStore(folder) as store:
        assert store.get(KEYS[1]) is None
        assert store.get(KEYS[1]) is None
        assert store.stats.damaged == store.stats.misses == 2
        assert sum("is damaged" in r.getMessage() for r in caplog.records) == 1
        assert {r.key for r in verify(folder).damaged} == {KEYS[1]}
        store.put(KEYS[1], np.maximum(map_of(1), 0))
        store.flush()
        for number, key in enumerate(KEYS):
            assert np.array_equal(store.get(key), np.maximum(map_of(number), 0))
        assert store.stats.damaged == 2
    report = verify(folder)
    assert report.entries == 3
    assert report.damaged == ()


HEADER_PLACES = {
    "magic": 0,
    "key": 8,
    "requested": 40,
    "dtype": 41,
    "codec": 42,
    "rank": 43,
    "raw bytes": 44,
    "payload bytes": 52,
    "shape": 60,
    "unused shape": 123,
    "checksum": 124,
    "end of checksum": codec.HEADER_BYTES - 1,
    "payload": codec.HEADER_BYTES,
    "end of payload": -1,
}


@pytest.mark.parametrize("place", HEADER_PLACES)
@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_flipped_bit(folder, caplog, place, bit):
    offset, length = place_of(folder, KEYS[1])
    at = offset + HEADER_PLACES[place] % length
    content = bytearray(segment_of(folder).read_bytes())
    content[at] ^= bit
    segment_of(folder).write_bytes(content)
    check_only_middle_is_lost(folder, caplog)


def test_every_byte_of_an_entry_is_covered(folder):
    offset, length = place_of(folder, KEYS[1])
    path = segment_of(folder)
    with FeatureStore(folder, mode="read") as store, path.open("r+b", buffering=0) as file:
        for at in range(offset, offset + length):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))
            assert store.get(KEYS[1]) is None, f"byte {at - offset} of {length}"
            file.seek(at)
            file.write(bytes([byte]))
        assert store.get(KEYS[1]) is not None
        assert store.stats.damaged == length


def test_truncated_segment(folder):
    offset, length = place_of(folder, KEYS[2])
    with segment_of(folder).open("r+b") as file:
        file.truncate(offset + length - 1)
    with FeatureStore(folder) as store:
        assert store.get(KEYS[2]) is None
        assert store.stats.damaged == 1
        assert np.array_equal(store.get(KEYS[1]), np.maximum(map_of(1), 0))
        store.put(KEYS[2], map_of(2))
        store.flush()
        assert np.array_equal(store.get(KEYS[2]), map_of(2))
        # Whatever was still whole stays readable.
        assert np.array_equal(store.get(KEYS[1]), np.maximum(map_of(1), 0))
    assert verify(folder).damaged == ()


def test_missing_segment(folder):
    segment_of(folder).unlink()
    with FeatureStore(folder) as store:
        assert [store.get(key) for key in KEYS] == [None] * 3
        assert store.stats.damaged == 3
        store.put(KEYS[0], map_of(0))
        store.flush()
        assert np.array_equal(store.get(KEYS[0]), map_of(0))
    assert len(verify(folder).damaged) == 2


@pytest.mark.parametrize(
    "change",
    [
        "offset = offset + 1",
        "offset = -5",
        "offset = 1 << 40",
        "length = length + 1",
        "length = length - 1",
        "length = 3",
        "length = 1 << 60",
        "segment = 77",
        f"(offset, length) = (SELECT offset, length FROM entries WHERE key = x'{KEYS[0].hex()}')",
        "requested = 2",
    ],
)
def test_row_that_points_wrongly(folder, caplog, change):
    connection = sqlite3.connect(folder / "index.sqlite")
    with connection:
        connection.execute(f"UPDATE entries SET {change} WHERE key = ?", (KEYS[1],))
    connection.close()
    if change == "requested = 2":
        with FeatureStore(folder, dtype="fp32") as store:
            assert store.get(KEYS[1]) is None
            assert store.stats.damaged == 1
    else:
        check_only_middle_is_lost(folder, caplog)


def test_repair_drops_the_damaged_rows(folder):
    offset, _ = place_of(folder, KEYS[1])
    content = bytearray(segment_of(folder).read_bytes())
    content[offset + codec.HEADER_BYTES] ^= 4
    segment_of(folder).write_bytes(content)
    with recorded() as reports:
        report = verify(folder, repair=True)
    assert reports.phases == [("Verifying feature maps", done / 3) for done in (1, 2, 3)]
    assert (report.entries, report.repaired) == (3, 1)
    (damage,) = report.damaged
    assert (damage.key, damage.offset, damage.reason) == (
        KEYS[1],
        offset,
        "its checksum does not match",
    )
    assert verify(folder).entries == 2
    with FeatureStore(folder, mode="read") as store:
        assert store.get(KEYS[1]) is None
        assert store.stats.damaged == 0


@pytest.mark.parametrize("damage", ["noise", "truncated", "empty", "missing", "page"])
def test_damaged_index_is_replaced_and_filled_from_the_segments(folder, caplog, damage):
    path = folder / "index.sqlite"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        bad = {
            "noise": np.random.default_rng(0).bytes(len(content)),
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "page": content[:4096] + b"\xff" * (len(content) - 4096),
        }
        path.write_bytes(bad[damage])
    with FeatureStore(folder, mode="read") as store:
        assert store.get(KEYS[0]) is None
    with caplog.at_level(logging.WARNING, "trtkit.store"), FeatureStore(folder) as store:
        assert store.writable
        for number, key in enumerate(KEYS):
            assert np.array_equal(store.get(key), np.maximum(map_of(number), 0))
        assert "3 entries" in caplog.text
        # Once by the reader, once by the writer.
        assert len(caplog.messages) <= 2
        assert (folder / "index.damaged").exists() == (damage != "missing")
        store.put(b"n" * 32, map_of(7))
    assert verify(folder).entries == 4
    assert verify(folder).damaged == ()


def index_damaged_by(content: bytes, draw: random.Random) -> bytes:
    """A bit turned, or a few bytes replaced."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 4])):
        at = draw.randrange(len(damaged))
        damaged[at] = draw.choice([damaged[at] ^ 1 << draw.randrange(8), draw.randrange(256)])
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_of_the_index_changes_a_map_or_ends_in_anything_but_a_sentence(tmp_path, seed):
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    with FeatureStore(whole) as store:
        for number, key in enumerate(KEYS):
            store.put(key, map_of(number))
    damaged = index_damaged_by((whole / "index.sqlite").read_bytes(), random.Random(seed))

    def a_copy() -> Path:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        (copy / "index.sqlite").write_bytes(damaged)
        return copy

    for look in (info, verify, lambda folder: verify(folder, repair=True)):
        with suppress(TrtkitError):
            look(a_copy())
    for mode in ("read", "auto"):
        with FeatureStore(a_copy(), mode=mode) as store:
            for number, key in enumerate(KEYS):
                array = store.get(key)
                assert array is None or np.array_equal(array, map_of(number))
    clear(a_copy())
    assert not list(copy.glob("*.seg"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET offset = NULL",
        "UPDATE entries SET length = 'many'",
        "UPDATE segments SET bytes = x'00ff'",
        "UPDATE segments SET bytes = -5",
        "UPDATE segments SET used_ns = 9223372036854775807",
        "UPDATE sqlite_sequence SET seq = 'x'",
        "DROP TABLE entries",
        "ALTER TABLE segments RENAME COLUMN used_ns TO usee_ns",
    ],
)
def test_an_index_that_is_a_database_of_other_things_is_set_aside(tmp_path, caplog, statement):
    with FeatureStore(tmp_path) as store:
        store.put(KEYS[0], map_of(0))
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as sql:
        sql.execute("PRAGMA writable_schema = ON")
        schema = "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')"
        if statement.startswith("UPDATE"):
            sql.execute(f"{schema} WHERE name IN ('entries', 'segments')")
        sql.commit()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as sql:
        sql.execute(statement)
        sql.commit()
    with caplog.at_level(logging.WARNING, "trtkit.store"), FeatureStore(tmp_path) as store:
        array = store.get(KEYS[0])
        assert array is None or np.array_equal(array, map_of(0))
        store.put(KEYS[1], map_of(1))
        store.flush()
        assert np.array_equal(store.get(KEYS[1]), map_of(1))
    assert len(caplog.messages) == 1, caplog.messages
    clear(tmp_path)
    assert info(tmp_path).entries == 0 if (tmp_path / "index.sqlite").exists() else True


def test_a_full_disk_is_cleared(folder, monkeypatch):
    def full(*arguments):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("trtkit.store.index.Index.drop_segment", full)
    assert clear(folder).segments == 1
    assert [path.name for path in folder.iterdir()] == ["writer.lock"]
