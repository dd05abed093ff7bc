"""Parquet: every object once, as the store has it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.measure.contents import content
from tests.video.fakes import (
    CLASSES,
    IDENTITY,
    OPTIONS,
    PATCHES,
    FakeFootage,
    FakeTail,
    Patch,
    claimed,
    run,
)
from trtkit import extras
from trtkit.errors import TrtkitError
from trtkit.video.footage import export as exporting
from trtkit.video.footage.database import FILE, Database, unpack_sightings, unpack_top
from trtkit.video.footage.export import export
from trtkit.video.footage.mot import export_mot
from trtkit.video.footage.schema import crc
from trtkit.video.footage.writing import source_rows
from trtkit.video.judging import Verdict, Verdicts

parquet = pytest.importorskip("pyarrow.parquet")

START = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources, one that says when it was taken; verdicts of two tails. Do not change it."""
    store = claimed(tmp_path_factory.mktemp("made") / "store")
    # Two of one colour, which share a cluster.
    extra = [Patch(first, first + 6, (100, 90), (4, 0), 24, (250, 40, 90)) for first in (10, 30)]
    run(
        store,
        FakeFootage(50, (*PATCHES, *extra), start_us=START),
        replace(OPTIONS, cluster=1.0),
        FakeTail(sensitive=False),
    )
    run(store, FakeFootage(40), camera="yard")
    with Database.open(store) as database:
        Verdicts(database, "aa").remember({2: Verdict(1, 0.75), 4: Verdict(0, 0.5)})
        Verdicts(database, "bb").remember({3: Verdict(1, 1.0)})
    return store


@pytest.mark.parametrize("at_once", [3, 10_000])
def test_every_object_is_a_row(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(exporting, "_AT_ONCE", at_once)
    path = tmp_path / "new" / "objects.parquet"
    with Database.open(store) as database:
        count = export(database, path, "aa", ("no", "yes"))
        ids = [row[0] for row in database.rows("SELECT id FROM objects ORDER BY id")]
        cluster_of = dict(database.rows("SELECT id, cluster FROM objects"))
        sources = source_rows(database)
    file = parquet.ParquetFile(path)
    assert file.num_row_groups == -(-count // at_once)
    rows = file.read().to_pylist()
    known = content(store)
    objects = [
        (source, place, each)
        for source in sources
        for place, each in enumerate(known[f"{source.camera} {source.location}"]["objects"])
    ]
    assert count == len(rows) == len(objects) == len(ids) > 4
    first = {source.id: min(i for i, (s, *_) in zip(ids, objects, strict=True) if s.id == source.id)
             for source in sources}  # fmt: skip
    verdicts = {2: ("yes", 0.75), 4: ("no", 0.5)}
    for number, row, (source, place, each) in zip(ids, rows, objects, strict=True):
        begun_by, _, start, end, top, packed, *_ = each
        sightings, (labels, scores) = unpack_sightings(packed), unpack_top(top)
        assert row == {
            "camera": source.camera, "source": "gate.mp4", "object": number,
            "cluster": cluster_of[number], "representative": begun_by == place,
            "start": start / 1e6, "end": end / 1e6,
            "start_time": row["start_time"], "end_time": row["end_time"],
            "frames": len(sightings), "frame": sightings[0].frame, "x": sightings[0].box.x,
            "y": sightings[0].box.y, "width": sightings[0].box.width,
            "height": sightings[0].box.height,
            "classes": [IDENTITY.classes[label] for label in labels], "scores": scores.tolist(),
            "class": verdicts.get(number, (None, None))[0],
            "confidence": verdicts.get(number, (None, None))[1],
        }  # fmt: skip
        assert cluster_of[number] == cluster_of[first[source.id] + begun_by]
        if source.camera == "yard":
            assert row["start_time"] is row["end_time"] is None
        else:
            assert row["start_time"] == f"2023-11-14T22:13:2{row['start']:.3f}+00:00"
            assert row["end_time"] >= row["start_time"]
    assert {row["representative"] for row in rows} == {True, False}


def test_without_an_expensive_tail(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "objects.parquet"
    with Database.open(store) as database:
        export(database, path)
    table = parquet.read_table(path)
    assert table.column("class").null_count == table.column("confidence").null_count == len(table)
    assert [str(field.type) for field in table.schema][:7] == [
        "string", "string", "int64", "int64", "bool", "double", "double",
    ]  # fmt: skip


def test_nothing_to_export(tmp_path: Path) -> None:
    store = claimed(tmp_path / "store")
    with Database.open(store) as database:
        assert export(database, tmp_path / "none.parquet") == 0
    table = parquet.read_table(tmp_path / "none.parquet")
    assert len(table) == 0 and len(table.schema) == 19


def test_what_is_ingested_meanwhile_is_left_out(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_AT_ONCE", 2)
    import shutil

    mine = Path(shutil.copytree(store, tmp_path / "store"))
    known = exporting.source_rows

    def late(database: Database) -> object:
        rows = known(database)
        run(mine, FakeFootage(40), camera="late")
        return rows

    monkeypatch.setattr(exporting, "source_rows", late)
    with Database.open(mine) as database:
        count = export(database, tmp_path / "objects.parquet")
    cameras = parquet.read_table(tmp_path / "objects.parquet").column("camera").to_pylist()
    assert len(cameras) == count and set(cameras) == {"gate", "yard"}


def test_a_file_appears_whole_or_not_at_all(store: Path, tmp_path: Path) -> None:
    import shutil

    mine = Path(shutil.copytree(store, tmp_path / "store"))
    with sqlite3.connect(mine / FILE) as sql:
        sql.create_function("crc", 1, crc, deterministic=True)
        # Labels that there are no classes for.
        sql.execute("UPDATE objects SET top = x'ff000000ff000000' WHERE id = 3")
    sql.close()
    out = tmp_path / "out"
    with (
        Database.open(mine) as database,
        pytest.raises(TrtkitError, match="object 3 has a class that does not exist"),
    ):
        export(database, out / "objects.parquet")
    assert list(out.iterdir()) == []
    (tmp_path / "file").touch()
    with Database.open(store) as database, pytest.raises(TrtkitError, match="cannot be written"):
        export(database, tmp_path / "file" / "objects.parquet")
    assert len(IDENTITY.classes) == CLASSES


def test_without_pyarrow_it_says_what_to_install(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = extras.Package.installed.fget
    monkeypatch.setattr(
        extras.Package,
        "installed",
        property(lambda package: package.module != "pyarrow" and installed(package)),
    )
    with (
        Database.open(store) as database,
        pytest.raises(TrtkitError, match=r"^Exporting needs pyarrow, .*pip install pyarrow"),
    ):
        export(database, tmp_path / "objects.parquet")
    assert not list(tmp_path.iterdir())


def test_tracks_as_motchallenge_rows(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "tracks.txt"
    with Database.open(store) as database:
        count = export_mot(database, path, "yard")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    tracks = [unpack_sightings(row[5]) for row in content(store)["yard gate.mp4"]["objects"]]
    assert count == len(tracks)
    expected = sorted(
        [sighting.frame + 1, number, *sighting.box]
        for number, track in enumerate(tracks, 1)
        for sighting in track
    )
    assert [[int(value) for value in row[:6]] for row in rows] == expected
    assert {tuple(row[6:]) for row in rows} == {("1", "-1", "-1", "-1")}


@pytest.mark.parametrize(
    ("camera", "sentence"),
    [
        (None, "the store has 2; choose one with --camera: gate, yard"),
        ("hall", "Camera 'hall' not found; available: gate, yard"),
    ],
)
def test_motchallenge_rows_are_of_one_source(
    store: Path, tmp_path: Path, camera: str | None, sentence: str
) -> None:
    with Database.open(store) as database, pytest.raises(TrtkitError, match=sentence):
        export_mot(database, tmp_path / "tracks.txt", camera)
    assert not list(tmp_path.iterdir())
