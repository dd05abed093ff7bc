"""Feature maps of a store: there and back, missing is None, and a disk that takes no more says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.footage.records import row
from trtkit.errors import TrtkitError
from trtkit.store.append import Appender
from trtkit.video.footage import maps
from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapReader, MapWriter, maps_folder
from trtkit.video.options import IngestOptions

OPTIONS = IngestOptions(map_dtype="fp32")
ROOM = 1 << 20


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.create(tmp_path) as database:
        yield database


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def feature(number: int, size: int = 60) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((3, 4, size // 12), np.float32)


def found(database: Database, source: int, numbers: range) -> list[Any]:
    with closing(MapReader(database)) as reader:
        return [reader.get((source, key(number))) for number in numbers]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_there_and_back(database: Database, dtype: Any, codec: Any) -> None:
    options = IngestOptions(map_dtype=dtype, map_codec=codec)
    sources = [row(database, name, options) for name in ("a", "b")]
    for source in sources:
        with closing(MapWriter(database.folder, source, options, ROOM)) as writer:
            for number in range(5):
                writer.put(key(number), feature(number + 10 * source))
            writer.flush()
            # They can be read while the writer goes on.
            assert found(database, source, range(5))[4] is not None
            assert writer.bytes == 5 * (120 if dtype == "fp16" else 240)
    for source in sources:
        # Each source has its own.
        for number, array in enumerate(found(database, source, range(5))):
            wanted = feature(number + 10 * source).astype("<f2" if dtype == "fp16" else "<f4")
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)
    assert found(database, sources[0], range(5, 6)) == [None]
    assert found(database, 77, range(1)) == [None]


def test_none_were_kept(database: Database) -> None:
    source = row(database, "a", OPTIONS)
    assert found(database, source, range(2)) == [None, None]


def test_what_is_not_flushed_is_written_when_it_is_closed(database: Database) -> None:
    source = row(database, "a", OPTIONS)
    with closing(MapWriter(database.folder, source, OPTIONS, ROOM)) as writer:
        writer.put(key(1), feature(1))
    np.testing.assert_array_equal(found(database, source, range(1, 2))[0], feature(1))


def test_evicted(database: Database) -> None:
    source = row(database, "a", OPTIONS)
    with closing(MapWriter(database.folder, source, OPTIONS, 40_000)) as writer:
        for number in range(60):
            writer.put(key(number), feature(number, 1200))
            writer.flush()
    arrays = found(database, source, range(60))
    assert arrays[0] is None and arrays[-1] is not None
    for number, array in enumerate(arrays):
        assert array is None or (array == feature(number, 1200)).all()
    folder = maps_folder(database.folder, source)
    assert sum(path.stat().st_size for path in folder.glob("*.seg*")) <= 40_000


def test_damaged(database: Database) -> None:
    source = row(database, "a", OPTIONS)
    with closing(MapWriter(database.folder, source, OPTIONS, ROOM)) as writer:
        for number in range(3):
            writer.put(key(number), feature(number))
    (path,) = (
        path for path in maps_folder(database.folder, source).iterdir() if "seg" in path.name
    )
    content = bytearray(path.read_bytes())
    place = content.index(feature(1).tobytes())
    content[place + 7] ^= 1
    path.write_bytes(content)
    arrays = found(database, source, range(3))
    assert arrays[1] is None
    np.testing.assert_array_equal(arrays[0], feature(0))
    np.testing.assert_array_equal(arrays[2], feature(2))


def test_no_more_wait_than_are_taken(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    source = row(database, "a", OPTIONS)
    monkeypatch.setattr(maps, "WAITING_BYTES", 1000)
    flush, flushed = MapWriter.flush, []
    monkeypatch.setattr(MapWriter, "flush", lambda self: (flushed.append(1), flush(self)))
    with closing(MapWriter(database.folder, source, OPTIONS, ROOM)) as writer:
        for number in range(12):
            writer.put(key(number), feature(number))
    # Five are 1200 bytes.
    assert len(flushed) == 2
    assert all(array is not None for array in found(database, source, range(12)))


def test_a_disk_that_takes_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    source = row(database, "a", OPTIONS)
    with closing(MapWriter(database.folder, source, OPTIONS, ROOM)) as writer:
        writer.put(key(0), feature(0))
        writer.flush()

        def full(*given: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Appender, "append", full)
        writer.put(key(1), feature(1))
        for _ in range(2):
            with pytest.raises(
                TrtkitError,
                match=r"^The feature store in .* takes no more entries: .*No space left on device.*; free "
                r"space or make the folder writable, and run the command again: it continues with the "
                r"first chunk that is not committed\.$",
            ):
                writer.flush()
    monkeypatch.undo()
    arrays = found(database, source, range(2))
    assert arrays[0] is not None and arrays[1] is None


def test_of_another_dtype_is_not_found(database: Database) -> None:
    source = row(database, "a", OPTIONS)
    half = replace(OPTIONS, map_dtype="fp16")
    with closing(MapWriter(database.folder, source, half, ROOM)) as writer:
        writer.put(key(0), feature(0))
    assert found(database, source, range(1)) == [None]
