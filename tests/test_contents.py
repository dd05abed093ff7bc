"""Digests of files that are remembered while nobody can have changed the files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trtkit import contents
from trtkit.contents import SETTLED_NS, ContentRecord
from trtkit.identity import file_digest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def digest(path: Path) -> str:
        names.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(contents, "file_digest", digest)
    return names


def later(monkeypatch: pytest.MonkeyPatch, by_ns: int) -> None:
    """Have the clock go on."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + by_ns)


def test_a_file_that_nobody_touched_is_read_once(tmp_path, reads, monkeypatch):
    path, kept = tmp_path / "photo.jpg", tmp_path / "record.json"
    path.write_bytes(b"one")
    later(monkeypatch, 2 * SETTLED_NS)
    for _ in range(3):
        with ContentRecord(kept) as record:
            assert record.digest(path) == file_digest(path)
    assert reads == ["photo.jpg"]


def test_a_file_that_was_just_changed_is_read_again(tmp_path, reads):
    path, kept = tmp_path / "photo.jpg", tmp_path / "record.json"
    path.write_bytes(b"one")
    before = path.stat()
    for content in (b"one", b"two", b"six"):
        # Within one tick of a clock, and of the same size.
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with ContentRecord(kept) as record:
            assert record.digest(path) == file_digest(path)
    assert len(reads) == 3


def test_a_change_with_the_old_time_is_seen(tmp_path, reads, monkeypatch):
    path, kept = tmp_path / "photo.jpg", tmp_path / "record.json"
    path.write_bytes(b"one")
    before = path.stat()
    later(monkeypatch, 2 * SETTLED_NS)
    with ContentRecord(kept) as record:
        first = record.digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with ContentRecord(kept) as record:
        assert record.digest(path) != first


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_or_written_only_costs_time(tmp_path, reads, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"one")
    (tmp_path / "record.json").write_bytes(content)
    for place in (tmp_path / "record.json", tmp_path / "photo.jpg" / "below.json", None):
        with ContentRecord(place) as record:
            assert record.digest(path) == file_digest(path)
    with pytest.raises(FileNotFoundError):
        ContentRecord(None).digest(tmp_path / "nowhere")
