"""What a store holds, whether it is whole, and making it smaller."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.measure.contents import content
from tests.reports import recorded
from tests.video.fakes import IDENTITY, OPTIONS, FakeFootage, claimed, run, stopping
from trtkit.errors import TrtkitError
from trtkit.video.footage.database import FILE, Database
from trtkit.video.footage.maintenance import compact, info, verify, verify_at
from trtkit.video.footage.maps import maps_folder
from trtkit.video.footage.schema import crc
from trtkit.video.judging import Verdict, Verdicts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one whole source, with gaps, and one that is not at its end. Do not change it."""
    store = claimed(tmp_path_factory.mktemp("made") / "store")
    run(store, FakeFootage(gaps=((33, 36), (50, 52))))
    with pytest.raises(KeyboardInterrupt):
        run(store, camera="yard", advance=stopping(50, KeyboardInterrupt()))
    return store


@pytest.fixture
def store(tmp_path: Path, made: Path) -> Path:
    """A copy of it."""
    import shutil

    return Path(shutil.copytree(made, tmp_path / "store"))


def test_what_it_holds(made: Path) -> None:
    with Database.open(made) as database:
        Verdicts(database, "aa").remember({})
        held = info(database)
        whole, broken = content(made).values()
        assert held.identity == IDENTITY
        assert [each.row.camera for each in held.sources] == ["gate", "yard"]
        for each, known in zip(held.sources, (whole, broken), strict=True):
            assert each.segments == len(known["segments"])
            assert each.objects == len(known["objects"]) > 0
            assert each.clusters == len(known["clusters"]) > 0
            assert each.gaps == len(known["gaps"])
            folder = maps_folder(made, each.row.id)
            segments = [path for path in folder.iterdir() if "seg" in path.name]
            assert each.map_bytes == sum(path.stat().st_size for path in segments) > 0
        assert [each.gaps for each in held.sources] == [2, 0]
        assert [each.row.complete for each in held.sources] == [True, False]
        assert held.verdicts == {"aa": 0}
        assert held.database_bytes >= (made / FILE).stat().st_size > 0


def test_an_empty_store(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        held = info(database)
        assert (held.identity, held.sources, held.verdicts) == (None, (), {})
        with pytest.raises(TrtkitError, match="is empty; fill it"):
            verify(database)


def test_a_whole_store(made: Path) -> None:
    with Database.open(made) as database, recorded() as reports:
        report = verify(database)
    # Each source's maps are a phase that begins anew.
    shares = [share for phase, share in reports.phases if phase == "Checking pictures"]
    objects = sum(len(each["objects"]) for each in content(made).values())
    assert report.problems == ()
    assert report.objects == objects
    assert report.maps >= len(set(content(made)["gate gate.mp4"]["maps"]))
    assert shares[-1] == 1.0 and shares == sorted(shares)


ONE = "(SELECT max(id) FROM objects)"
# One with two pictures.
TWO = "(SELECT max(object) FROM pictures WHERE place = 1)"
DAMAGE = {
    "DELETE FROM pictures WHERE object = 3": "1 objects without a picture.",
    f"DELETE FROM pictures WHERE object = {TWO} AND place = 0": "1 pictures behind one that is missing.",
    f"UPDATE pictures SET object = 99 WHERE object = {TWO} AND place = 1": (
        "1 pictures of an object that is not there."
    ),
    "DELETE FROM sightings WHERE object IN (3, 4)": "2 objects without sightings.",
    "DELETE FROM vectors WHERE object = 3": "1 objects without features, which others have.",
    "UPDATE sightings SET packed = substr(packed, 1, 40) WHERE object = 3": (
        "1 objects whose sightings are not whole."
    ),
    "UPDATE sightings SET packed = x'' WHERE object = 3": (
        "1 objects whose sightings are not whole."
    ),
    "UPDATE objects SET cluster = 99999 WHERE id = 3": "1 objects of a cluster that is not there.",
    "UPDATE clusters SET representative = 99999 WHERE id = 1": (
        "1 clusters begun by an object that is not there."
    ),
    "DELETE FROM ranks WHERE class = (SELECT label FROM clusters WHERE id = 1)": (
        "objects that no question can find."
    ),
    "DELETE FROM segments WHERE source = 2": "objects of a segment that is not committed.",
    f"DELETE FROM objects WHERE id = {ONE}": (
        "1 segments that do not have the objects they were committed with."
    ),
    "UPDATE sources SET frames = frames + 1 WHERE id = 1": (
        "1 sources that do not have the frames they were ingested with."
    ),
    "UPDATE pictures SET jpeg = (SELECT jpeg FROM pictures WHERE object = 4) WHERE object = 3": (
        "A picture of object 3 is not the one that was indexed."
    ),
    "UPDATE pictures SET key = zeroblob(32) WHERE object = 3 AND place = 0": (
        "A picture of object 3 is not the one that was indexed."
    ),
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_found(store: Path, statement: str) -> None:
    with sqlite3.connect(store / FILE) as sql:
        # What keeps the seals right, so that the other checks are seen.
        sql.create_function("crc", 1, crc, deterministic=True)
        assert sql.execute(statement).rowcount > 0
    sql.close()
    with Database.open(store) as database:
        problems = verify(database).problems
    assert [each for each in problems if DAMAGE[statement] in each], problems


def test_a_damaged_feature_map_is_found(store: Path) -> None:
    (path,) = (path for path in maps_folder(store, 1).iterdir() if "seg" in path.name)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(damaged)
    with Database.open(store) as database:
        (problem,) = verify(database).problems
    assert problem.startswith("A feature map of gate is damaged (")
    assert problem.endswith("); it is computed again.")


def index_lost(path: Path) -> None:
    """A page of an index goes, and nothing else."""
    sql = sqlite3.connect(path)
    (page,) = sql.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'objects_by_cluster'"
    ).fetchone()
    (size,) = sql.execute("PRAGMA page_size").fetchone()
    (other,) = sql.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'clusters_by_use'"
    ).fetchone()
    sql.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = content[(other - 1) * size : other * size]
    path.write_bytes(content)


def pages_lost(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))


@pytest.mark.parametrize("damage", [index_lost, pages_lost])
def test_a_damaged_database_is_found(store: Path, damage: Callable[[Path], None]) -> None:
    damage(store / FILE)
    problems = verify_at(store).problems
    assert problems and all(each.startswith("SQLite: ") for each in problems)


def test_compacting(store: Path) -> None:
    with Database.open(store) as database:
        kept, gone = Verdicts(database, "aa"), Verdicts(database, "bb")
        kept.remember({1: Verdict(1, 0.5)})
        gone.remember({number: Verdict(1, 0.5) for number in range(20_000)})
        before = content(store)
        size = info(database).database_bytes
        freed = compact(database, frozenset({"aa", "cc"}))
        assert kept.known([1]) == {1: Verdict(1, 0.5)}
        assert gone.known([1]) == {}
        assert info(database).verdicts == {"aa": 1}
        assert freed == size - info(database).database_bytes > 200_000
        # Numbers of objects, which verdicts are kept by, are the same.
        assert content(store) == before
        assert verify(database).problems == ()
        assert compact(database, frozenset({"aa"})) == 0
    # And ingest goes on with it.
    assert run(store, camera="yard", options=OPTIONS).resumed_us is not None
