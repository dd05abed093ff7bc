"""Ingest: what is found is what was drawn, and however it is broken off, the store ends the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.measure.contents import content
from tests.reports import recorded
from tests.video.fakes import OPTIONS, STEP_US, FakeFootage, FakeTail, Patch, claimed, run, stopping
from trtkit.errors import TrtkitError
from trtkit.video.detections import Box
from trtkit.video.footage import writing
from trtkit.video.footage.database import Database, unpack_sightings, unpack_top, unpack_vector
from trtkit.video.footage.maintenance import verify
from trtkit.video.footage.maps import MapWriter
from trtkit.video.handover import pack, unpack
from trtkit.video.progress import IngestProgress

ROOT = Path(__file__).resolve().parents[2]
# Half a minute of interruptions is too long for a test: shorter segments of a shorter clip.
# Its objects join clusters of earlier segments.
BRIEF = replace(OPTIONS, segment_seconds=1, cluster=0.7)
GATE = "gate gate.mp4"


def brief(**more: Any) -> FakeFootage:
    """Segments 0 to 4; gaps within one, at the beginning of one, over a whole one and at the end."""
    gaps = ((4, 6), (20, 22), (29, 41), (50, 52))
    return FakeFootage(52, **{"gaps": gaps, **more})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a store after one run over the usual footage."""
    store = tmp_path_factory.mktemp("whole")
    run(store)
    return content(store)


@pytest.fixture(scope="module")
def brief_whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("brief")
    run(store, brief(), BRIEF)
    return content(store)


def sightings_of(store: Path) -> list[Any]:
    with Database.open(store) as database:
        rows = database.rows("SELECT packed FROM sightings ORDER BY object")
    return [unpack_sightings(packed) for (packed,) in rows]


def drawn(patch: Patch, number: int) -> Box:
    x, y = patch.place(number) or (0, 0)
    return Box(x, y, patch.side, patch.side)


# What is found


def test_objects_are_where_they_were_drawn(tmp_path: Path) -> None:
    patches = (
        Patch(8, 18, (10, 20), (6, 0)),
        Patch(26, 38, (120, 70), (-6, 0), 26, (40, 240, 60)),
    )
    progress = run(tmp_path, FakeFootage(50, patches))
    seen = [sighting for found in sightings_of(tmp_path) for sighting in found]
    assert seen
    for patch in patches:
        for number in range(patch.first, patch.last + 1):
            here = [each.box.overlap(drawn(patch, number)) for each in seen if each.frame == number]
            assert here and max(here) > 0.4, number
    for each in seen:
        assert any(patch.place(each.frame) for patch in patches), "nothing was drawn there"
        assert each.time_us == each.frame * STEP_US
    assert (progress.frames, progress.objects) == (50, len(sightings_of(tmp_path)))
    assert progress.sightings == len(seen)
    assert progress.footage_us == progress.at_us == 49 * STEP_US
    assert not progress.up_to_date and progress.resumed_us is None


def test_an_object_that_stays_is_one_with_many_sightings(tmp_path: Path) -> None:
    still = Patch(8, 17, (60, 40), (0, 0), 30)
    # Most of the clip is without it.
    run(tmp_path, FakeFootage(40, (still,)))
    (sightings,) = sightings_of(tmp_path)
    assert [sighting.frame for sighting in sightings] == list(range(8, 18))
    (stored,) = content(tmp_path)[GATE]["objects"]
    assert stored[2:4] == (800_000, 1_700_000)


def test_what_goes_nowhere_is_dropped_unless_it_counts(tmp_path: Path) -> None:
    still = Patch(8, 17, (60, 40), (0, 0), 30)
    run(tmp_path, FakeFootage(40, (still,)), replace(OPTIONS, least_travel=0.5))
    assert content(tmp_path)[GATE]["objects"] == []


def test_what_is_stored_of_an_object(tmp_path: Path) -> None:
    import simplejpeg

    still = Patch(8, 18, (60, 40), (0, 0), 30)
    tail = FakeTail(sensitive=False)
    run(tmp_path, FakeFootage(40, (still,)), replace(OPTIONS, picture_side=32), tail)
    stored = content(tmp_path)[GATE]
    ((begun_by, segment, _, _, top, _, packed),) = stored["objects"]
    assert (begun_by, segment) == (0, 1)
    entries = []
    for place, picture in enumerate(stored["pictures"]):
        _, at, key, jpeg, frame, time_us, *box, own_top, own_vector = picture
        crop = simplejpeg.decode_jpeg(jpeg)
        # The margin is 0.2 on each side, and `picture_side` limits the crop.
        assert crop.shape[0] == crop.shape[1] == 32
        assert abs(crop[12:20, 12:20].astype(int).mean((0, 1)) - still.colour).max() < 12
        assert np.abs(crop[0].astype(int) - 100).mean() < 40, "a margin of background"
        assert (at, key, box) == (place, tail.key(jpeg), [60, 40, 30, 30])
        assert time_us == frame * STEP_US and 8 <= frame <= 18
        (entry,) = tail.index([jpeg], OPTIONS.top)
        entries.append(entry)
        np.testing.assert_array_equal(unpack_top(own_top)[0], entry.labels)
        np.testing.assert_array_equal(unpack_top(own_top)[1], entry.scores)
        np.testing.assert_array_equal(unpack_vector(own_vector), entry.vector)
        assert stored["maps"][place] == ("<f4", entry.feature.tobytes())
    # Half a second apart.
    times = sorted(picture[5] for picture in stored["pictures"])
    assert len(times) == 2 and times[1] - times[0] >= 500_000
    labels, scores = unpack_top(top)
    means = {
        label: np.mean([dict(zip(e.labels, e.scores, strict=True)).get(label, 0) for e in entries])
        for label in range(6)
    }
    assert labels.tolist() == sorted(means, key=lambda label: -means[label])[: OPTIONS.top]
    np.testing.assert_allclose(scores, [means[label] for label in labels], rtol=1e-6)
    mean = np.mean([entry.vector for entry in entries], axis=0)
    np.testing.assert_allclose(unpack_vector(packed), mean / np.linalg.norm(mean), atol=1e-3)
    assert stored["ranks"] == sorted(
        (label, 1, 0, rank, score)
        for rank, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True))
    )


def test_segments_and_numbers(whole: dict[str, Any], brief_whole: dict[str, Any]) -> None:
    found = whole[GATE]
    assert [row[:4] for row in found["segments"]] == [
        (number, number * 2_000_000, number * 2_000_000 + 1_900_000, 20) for number in range(4)
    ]
    assert sum(row[4] for row in found["segments"]) == len(found["objects"]) == 6
    # An object is of the segment in which it is known to be gone, which says since when it has objects.
    for number, start_us, end_us, _, _, since_us in found["segments"]:
        own = [row for row in found["objects"] if row[1] == number]
        assert since_us == min([start_us, *(row[2] for row in own)])
        assert all(start_us - 300_000 <= row[3] <= end_us for row in own)
    assert found["source"][3:] == (4, 80, 7_900_000, True)
    assert found["facts"] == (160, 120, 10.0, "")
    # Frames that are missing have no numbers; times are what they are.
    broken, there = brief_whole[GATE], brief().numbers()
    assert [row[:4] for row in broken["segments"]] == [
        (0, 0, 900_000, 8), (1, 1_000_000, 1_900_000, 10), (2, 2_200_000, 2_800_000, 7),
        (4, 4_100_000, 4_900_000, 9),
    ]  # fmt: skip
    for each in broken["objects"]:
        for sighting in unpack_sightings(each[5]):
            assert sighting.time_us == there[sighting.frame] * STEP_US
    assert broken["source"][3:] == (5, len(there), 4_900_000, True)
    assert broken["gaps"] == [
        (400_000, 600_000, "damaged"), (2_000_000, 2_200_000, "damaged"),
        (2_900_000, 4_100_000, "damaged"), (5_000_000, 5_200_000, "the file is cut short"),
    ]  # fmt: skip


def test_a_track_continues_in_the_next_segments(tmp_path: Path) -> None:
    # For two and a half segments, and pictures of each.
    run(tmp_path, FakeFootage(80, (Patch(12, 62, (4, 50), (2, 0), 24),)))
    (sightings,) = sightings_of(tmp_path)
    assert [sighting.frame for sighting in sightings] == list(range(12, 63))
    stored = content(tmp_path)[GATE]
    assert [row[4] for row in stored["segments"]] == [0, 0, 0, 1]
    assert stored["handover"] == []


def test_what_is_at_the_border_when_the_footage_ends_is_stored(tmp_path: Path) -> None:
    # Half of it in the picture, along whose border it goes.
    run(tmp_path, FakeFootage(80, (Patch(30, 79, (-12, 4), (0, 2), 24),)))
    (sightings,) = sightings_of(tmp_path)
    assert [sighting.frame for sighting in sightings] == list(range(30, 80))


def test_more_things_than_can_be_tracked_are_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtkit.video.chunks.MOST_DETECTIONS", 2)
    patches = [Patch(10, 30, (10, 5 + 28 * row), (2, 0), 16 + row) for row in range(4)]
    with recorded() as reports:
        run(tmp_path, FakeFootage(60, patches))
    crowded = [text for text in reports.messages if "things on one frame" in text]
    assert crowded == [
        "gate has 4 things on one frame at 0:00:01.000; only the 2 largest are tracked."
    ]
    widths = {sighting.box.width for track in sightings_of(tmp_path) for sighting in track}
    assert widths == {18, 19}


def test_less_light_is_no_motion(tmp_path: Path) -> None:
    class Dimmed(FakeFootage):
        def pixels(self, number: int) -> np.ndarray:
            light = 1 - 0.4 * min(1.0, max(0, number - 20) / 15)
            return (super().pixels(number) * light).astype(np.uint8)

    run(tmp_path / "dimmed", Dimmed(80))
    run(tmp_path / "bright", FakeFootage(80))
    dimmed, bright = (
        [[sighting.frame for sighting in track] for track in sightings_of(tmp_path / name)]
        for name in ("dimmed", "bright")
    )
    assert dimmed == bright


def test_a_stretch_in_which_everything_moves_is_reported(tmp_path: Path) -> None:
    class Switched(FakeFootage):
        def pixels(self, number: int) -> np.ndarray:
            return super().pixels(number) if number < 45 else 255 - super().pixels(number)

    run(tmp_path, Switched(60, ()))
    (gap,) = content(tmp_path)[GATE]["gaps"]
    assert gap[0] == 4_500_000 and gap[2].startswith("everything moved")


def test_the_tail_is_run_in_its_batches(tmp_path: Path) -> None:
    tail = FakeTail(batch=4)
    progress = run(tmp_path, tail=tail)
    pictures = content(tmp_path)[GATE]["pictures"]
    assert progress.objects == 6
    # Without the pictures that tracks were compared by.
    assert sum(tail.calls) == len(pictures) > 6 and max(tail.calls) <= 4


@pytest.mark.parametrize("count", [1, 3, 20, 21])
def test_clips_as_short_as_can_be(tmp_path: Path, count: int) -> None:
    # Shorter than the warm-up, one segment, and one frame of a second.
    progress = run(tmp_path, FakeFootage(count))
    found = content(tmp_path)[GATE]
    assert found["source"][3:] == ((count + 19) // 20, count, (count - 1) * STEP_US, True)
    assert progress.frames == count
    assert run(tmp_path, FakeFootage(count)).up_to_date


def test_nothing_moves(tmp_path: Path) -> None:
    progress = run(tmp_path, FakeFootage(45, ()))
    assert (progress.objects, progress.sightings, progress.map_bytes) == (0, 0, 0)
    found = content(tmp_path)[GATE]
    assert [row[4] for row in found["segments"]] == [0, 0, 0]
    assert found["source"][-1] and not found["objects"] and not found["clusters"]


def test_footage_with_nothing_but_a_gap(tmp_path: Path) -> None:
    run(tmp_path, FakeFootage(30, gaps=((0, 30),)))
    found = content(tmp_path)[GATE]
    assert found["gaps"] == [(0, 3_000_000, "the file is cut short")]
    assert found["source"][3:] == (0, 0, 0, True)
    assert run(tmp_path, FakeFootage(30, gaps=((0, 30),))).up_to_date


def test_a_gap_before_the_first_frame_is_kept(tmp_path: Path) -> None:
    # It covers the first segment and some of the second.
    run(tmp_path, FakeFootage(50, gaps=((0, 25),)))
    found = content(tmp_path)[GATE]
    assert found["gaps"] == [(0, 2_500_000, "damaged")]
    assert [row[0] for row in found["segments"]] == [1, 2]


def test_when_a_file_was_taken_is_kept(tmp_path: Path) -> None:
    run(tmp_path, FakeFootage(25, start_us=1_700_000_000_000_000))
    assert content(tmp_path)[GATE]["source"][2] == 1_700_000_000_000_000


def test_the_zone_of_a_camera(tmp_path: Path) -> None:
    def zone() -> str:
        with Database.open(tmp_path) as database:
            return writing.source_rows(database)[0].zone

    footage = FakeFootage(25)
    run(claimed(tmp_path), footage, zone="Europe/Berlin")
    assert zone() == "Europe/Berlin"
    # What a file states does not replace what was set, even once it is complete; another option does.
    footage.zone = "+02:00"
    assert run(tmp_path, footage).up_to_date
    assert zone() == "Europe/Berlin"
    run(tmp_path, footage, zone="UTC")
    assert zone() == "UTC"
    with Database.open(tmp_path) as database:
        writing.set_zone(database, 1, "")
    # As in a store that an earlier version made.
    run(tmp_path, footage)
    assert zone() == "+02:00"
    with Database.open(tmp_path) as database:
        assert verify(database).problems == ()


# Options


def test_clusters(tmp_path: Path) -> None:
    # Two of one colour, and between them another one.
    red, green = (250, 40, 90), (40, 250, 60)
    patches = [
        Patch(first, first + 8, (10, 10 + first * 2), (4, 0), 24, colour)
        for first, colour in ((5, red), (20, green), (35, red))
    ]
    run(tmp_path, FakeFootage(60, patches), tail=FakeTail(sensitive=False))
    stored = content(tmp_path)[GATE]
    assert [row[0] for row in stored["objects"]] == [0, 1, 0]
    assert [begun_by for begun_by, *_ in stored["clusters"]] == [0, 1]
    vectors = [unpack_vector(row[6]) for row in stored["objects"]]
    assert np.linalg.norm(vectors[0] - vectors[2]) <= 0.25 < np.linalg.norm(vectors[0] - vectors[1])


@pytest.mark.parametrize(
    ("cluster", "vectors"), [(None, True), (None, False), (0.25, False), (0.0, True)]
)
def test_without_clusters_each_object_is_its_own(
    tmp_path: Path, cluster: float | None, vectors: bool
) -> None:
    run(tmp_path, options=replace(OPTIONS, cluster=cluster), tail=FakeTail(vectors=vectors))
    found = content(tmp_path)[GATE]
    count = len(found["objects"])
    assert len(found["clusters"]) == count == 6
    assert [each[0] for each in found["objects"]] == list(range(count))
    assert all((each[6] is not None) == vectors for each in found["objects"])
    assert len(found["ranks"]) == count * OPTIONS.top


@pytest.mark.parametrize("kept", ["all", "representatives", "none"])
def test_whose_maps_are_kept(tmp_path: Path, whole: dict[str, Any], kept: Any) -> None:
    progress = run(tmp_path, options=replace(OPTIONS, maps=kept))
    stored = content(tmp_path)[GATE]
    begun = {begun_by for begun_by, *_ in stored["clusters"]}
    pairs = zip(stored["pictures"], stored["maps"], whole[GATE]["maps"], strict=True)
    for (place, *_), feature, full in pairs:
        there = kept == "all" or (kept == "representatives" and place in begun)
        assert feature == (full if there else None)
    assert (progress.map_bytes > 0) == (kept != "none")
    assert stored["objects"] == whole[GATE]["objects"]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_maps_are_kept_in_the_form_asked_for(
    tmp_path: Path, whole: dict[str, Any], codec: Any
) -> None:
    run(tmp_path, options=replace(OPTIONS, map_codec=codec, map_dtype="fp16"))
    for half, full in zip(content(tmp_path)[GATE]["maps"], whole[GATE]["maps"], strict=True):
        assert half[0] == "<f2"
        expected = np.frombuffer(full[1], np.float32).astype(np.float16)
        assert half[1] == expected.tobytes()


# Again, and on from where it ended


def test_the_same_command_again_does_nothing(tmp_path: Path, whole: dict[str, Any]) -> None:
    run(tmp_path)
    tail = FakeTail()
    footage = FakeFootage(fails_at=0)
    progress = run(tmp_path, footage, tail=tail)
    assert progress == IngestProgress("gate", duration_us=8_000_000, up_to_date=True)
    assert tail.calls == [] and content(tmp_path) == whole


@pytest.mark.parametrize("method", ["knn", "gmg"])
def test_other_background_models_continue_as_well(tmp_path: Path, method: Any) -> None:
    options = replace(OPTIONS, motion=method, cluster=None)
    run(tmp_path / "whole", options=options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", options=options, advance=stopping(50, KeyboardInterrupt()))
    assert run(tmp_path / "broken", options=options).resumed_us == 3_900_000
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert content(tmp_path / "whole")[GATE]["objects"]


def test_what_stands_from_the_beginning_is_found_if_it_leaves(tmp_path: Path) -> None:
    # The background of a file is what it shows most of the time.
    run(tmp_path, FakeFootage(80, (Patch(0, 25, (60, 40), (0, 0), 30),)))
    (sightings,) = sightings_of(tmp_path)
    assert [sighting.frame for sighting in sightings] == list(range(26))


def test_broken_off_at_any_frame(tmp_path: Path, brief_whole: dict[str, Any]) -> None:
    calls = 0

    def count(progress: object) -> None:
        nonlocal calls
        calls += 1

    run(tmp_path / "count", brief(), BRIEF, advance=count)
    frames = len(brief().numbers())
    # Each frame, each gap and each commit.
    assert calls == frames + 4 + 4
    resumed = set()
    for after in range(calls):
        store = tmp_path / str(after)
        error = KeyboardInterrupt() if after % 2 else TrtkitError("The disk is full.")
        with pytest.raises(type(error)):
            run(store, brief(), BRIEF, advance=stopping(after, error))
        progress = run(store, brief(), BRIEF)
        resumed.add(progress.resumed_us)
        assert content(store) == brief_whole, after
        assert progress.resumed_us is None or progress.frames < frames
    # After the last commit there is nothing left to be resumed.
    assert resumed == {None, 900_000, 1_900_000, 2_800_000}


@settings(max_examples=12, deadline=None)
@given(
    stops=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    place=st.sampled_from(["advance", "read", "index", "key", "flush", "write", "after"]),
)
def test_broken_off_anywhere_several_times(
    tmp_path_factory: pytest.TempPathFactory,
    brief_whole: dict[str, Any],
    stops: list[int],
    place: str,
) -> None:
    store = tmp_path_factory.mktemp("store")
    for after in stops:
        breaking(store, place, after)
    run(store, brief(), BRIEF)
    assert content(store) == brief_whole


def breaking(store: Path, place: str, after: int) -> None:
    """A run that fails at a place, the `after`th time that it comes there, if it comes there so often."""
    stop = stopping(after - 1, KeyboardInterrupt())
    tail, footage = FakeTail(), brief()
    advance: Any = stop if place == "advance" else lambda progress: None
    with pytest.MonkeyPatch.context() as patched:
        if place == "read":
            footage = brief(fails_at=after)
        elif place in ("index", "key"):
            method = getattr(tail, place)
            patched.setattr(tail, place, lambda *given: (stop(None), method(*given))[1])
        elif place == "flush":
            patched.setattr(MapWriter, "flush", lambda self: stop(None))
        elif place == "write":
            write = writing._write_object
            patched.setattr(writing, "_write_object", lambda *given: (write(*given), stop(None)))
        else:
            commit = writing.commit_chunk
            patched.setattr(writing, "commit_chunk", lambda *a, **k: (commit(*a, **k), stop(None)))
        try:
            run(store, footage, BRIEF, tail, advance=advance)
        except (KeyboardInterrupt, TrtkitError):
            return


def test_which_of_two_equal_clusters_is_joined_does_not_depend_on_resuming(tmp_path: Path) -> None:
    class Scripted(FakeTail):
        """Blue objects are as far from red as from green ones."""

        def _seen(self, crop: bytes, top: int, batch: int) -> Any:
            import simplejpeg

            middle = simplejpeg.decode_jpeg(crop)[12:20, 12:20].mean((0, 1))
            vector = np.float32([[1, 0], [0, 1], [0.707, 0.707]][int(middle.argmax())])
            return replace(super()._seen(crop, top, 0), labels=np.arange(3), vector=vector)

    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    patches = (
        Patch(4, 8, (10, 10), (0, 0), 30, red), Patch(4, 8, (60, 70), (0, 0), 30, green),
        Patch(10, 14, (100, 10), (0, 0), 30, red), Patch(28, 32, (10, 70), (0, 0), 30, blue),
    )  # fmt: skip
    options = replace(OPTIONS, cluster=0.8, pictures=1)
    run(tmp_path / "whole", FakeFootage(40, patches), options, Scripted())
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path / "broken", FakeFootage(40, patches), options, Scripted(),
            advance=stopping(25, KeyboardInterrupt()),
        )  # fmt: skip
    assert run(tmp_path / "broken", FakeFootage(40, patches), options, Scripted()).resumed_us
    found = content(tmp_path / "whole")
    assert [each[0] for each in found[GATE]["objects"]] == [0, 1, 0, 1]
    assert content(tmp_path / "broken") == found


def test_killed(tmp_path: Path, whole: dict[str, Any]) -> None:
    said = helper("kill", tmp_path / "store", 8, 25)
    kills = [line.split() for line in said.splitlines()]
    assert [was_killed for was_killed, _ in kills] == ["True"] * 8
    reached = [int(segment) for _, segment in kills]
    assert reached == sorted(reached) and 0 < reached[-1] < 4
    assert content(tmp_path / "store") == whole


def helper(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.video.fakes", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_maps_that_were_lost_with_rows_not_there_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    """They are on disk before the rows that name them."""
    order = []
    flush, commit = MapWriter.flush, writing.commit_chunk
    monkeypatch.setattr(MapWriter, "flush", lambda self: (order.append("maps"), flush(self)))
    monkeypatch.setattr(
        writing, "commit_chunk", lambda *a, **k: (order.append("rows"), commit(*a, **k))
    )
    run(tmp_path)
    assert order == ["maps", "rows"] * 4


def test_other_footage_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, advance=stopping(30, KeyboardInterrupt()))
    before = content(tmp_path)
    with pytest.raises(
        TrtkitError,
        match=r"^gate.mp4 was ingested as gate with other options \(min_size 8, top 3\); use those for "
        r"the rest of it, or another --store\.$",
    ):
        run(tmp_path, options=replace(OPTIONS, top=4, min_size=9))
    with pytest.raises(
        TrtkitError,
        match=r"^gate.mp4 held other footage when it was ingested as gate; choose another camera name, as "
        r"in NAME=gate.mp4\.$",
    ):
        run(tmp_path, FakeFootage(fingerprint="f2"))
    assert content(tmp_path) == before
    run(tmp_path)
    with pytest.raises(TrtkitError, match="other options"):
        run(tmp_path, options=replace(OPTIONS, top=4))
    # Another camera may look through the same file.
    run(tmp_path, FakeFootage(fingerprint="f2"), camera="yard")
    assert set(content(tmp_path)) == {GATE, "yard gate.mp4"}


@pytest.mark.parametrize("part", ["all", "tracker", "pictures"])
def test_the_handover_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, advance=stopping(30, KeyboardInterrupt()))
    handed_over = writing.handover_of

    def other(database: Database, source: int) -> bytes:
        detector, tracker, pictures = unpack(handed_over(database, source))
        return {
            "all": b"another form",
            "tracker": pack(detector, b"\x93\x01\x02\x03", pictures),
            "pictures": pack(detector, tracker, {"images": []}),
        }[part]

    monkeypatch.setattr(writing, "handover_of", other)
    with pytest.raises(
        TrtkitError,
        match=r"^gate was ingested up to 0:00:0\d\.\d+ by a version of trtkit that this one",
    ):
        run(tmp_path)


def test_what_was_broken_off_before_its_first_commit_binds_nobody(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, advance=stopping(10, KeyboardInterrupt()))
    options = replace(OPTIONS, top=2, cluster=None)
    run(tmp_path, FakeFootage(fingerprint="f2"), options)
    run(tmp_path / "other", FakeFootage(fingerprint="f2"), options)
    assert content(tmp_path) == content(tmp_path / "other")


# Several at once


def test_two_sources_at_once_from_two_processes(tmp_path: Path, whole: dict[str, Any]) -> None:
    assert helper("together", tmp_path / "store", "gate.mp4", "yard.mp4") == ""
    found = content(tmp_path / "store")
    assert set(found) == {GATE, "gate yard.mp4"}
    assert all(each == whole[GATE] for each in found.values())


def test_two_sources_at_once_from_two_threads(tmp_path: Path, whole: dict[str, Any]) -> None:
    failed: list[BaseException] = []

    def one(location: str) -> None:
        try:
            run(tmp_path, FakeFootage(location=location))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=one, args=(f"{n}.mp4",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(content(tmp_path).values()) == [whole[GATE]] * 2


def test_the_same_source_twice_at_once_is_refused(tmp_path: Path, whole: dict[str, Any]) -> None:
    refused = []

    def meanwhile(progress: IngestProgress) -> None:
        if progress.frames == 30 and not refused:
            with pytest.raises(TrtkitError) as caught:
                run(tmp_path)
            refused.append(str(caught.value))

    run(tmp_path, advance=meanwhile)
    assert refused == [
        f"Another process is ingesting gate.mp4 into {tmp_path}; wait for it, or choose another camera "
        "name."
    ]
    assert content(tmp_path) == whole
    said = helper("together", tmp_path / "processes", "gate.mp4", "gate.mp4")
    assert said.count("Another process is ingesting") == 1
    assert content(tmp_path / "processes") == whole


def test_a_source_that_another_finished_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    register = writing.register

    def late(*given: Any, **more: Any) -> Any:
        row = register(*given, **more)
        monkeypatch.setattr(writing, "register", register)
        run(tmp_path)
        return row

    monkeypatch.setattr(writing, "register", late)
    tail = FakeTail()
    # It does not read what is before the end either.
    assert run(tmp_path, FakeFootage(fails_at=78), tail=tail).up_to_date
    assert tail.calls == [] and content(tmp_path) == whole


# Streams

LIVE = "gate rtsp://gate"
BEGUN = 1_700_000_000_000_000


def live(count: int = 50, start_us: int = BEGUN, **more: Any) -> FakeFootage:
    return FakeFootage(count, seekable=False, location="rtsp://gate", start_us=start_us, **more)


def test_a_stream(tmp_path: Path) -> None:
    progress = run(tmp_path, live())
    found = content(tmp_path)[LIVE]
    assert [row[:4] for row in found["segments"]] == [
        (0, 0, 1_900_000, 20), (1, 2_000_000, 3_900_000, 20), (2, 4_000_000, 4_900_000, 10),
    ]  # fmt: skip
    assert found["source"][2:] == (BEGUN, 3, 50, 4_900_000, False)
    assert found["gaps"] == [] and found["objects"]
    assert (progress.frames, progress.duration_us, progress.up_to_date) == (50, None, False)


def test_a_stream_goes_on_with_a_gap(tmp_path: Path) -> None:
    run(tmp_path, live(30))
    # An hour later; then its clock is set back to before the beginning.
    second = run(tmp_path, live(30, BEGUN + 3_600_000_000, gaps=((4, 8),)))
    assert second.resumed_us == 2_900_000
    third = run(tmp_path, live(30, BEGUN - 5_000_000))
    found = content(tmp_path)[LIVE]
    hour = 3_600_000_000
    assert found["gaps"] == [
        (2_900_000, hour, "nothing was ingested"),
        (hour + 400_000, hour + 800_000, "damaged"),
        (hour + 2_900_000, hour + 2_900_001, "nothing was ingested"),
    ]
    assert [row[:4] for row in found["segments"]] == [
        (0, 0, 1_900_000, 20), (1, 2_000_000, 2_900_000, 10),
        (2, hour, hour + 1_900_000, 16), (3, hour + 2_000_000, hour + 2_900_000, 10),
        (4, hour + 2_900_001, hour + 4_800_001, 20), (5, hour + 4_900_001, hour + 5_800_001, 10),
    ]  # fmt: skip
    # The first frame's moment is that of the first run; numbers go on.
    assert found["source"][2:] == (BEGUN, 6, 86, hour + 5_800_001, False)
    numbers = [sighting for each in found["objects"] for sighting in unpack_sightings(each[5])]
    assert max(each.frame for each in numbers) >= 60
    times = dict(sorted((each.frame, each.time_us) for each in numbers))
    assert sorted(times.values()) == list(times.values())
    # The hour without footage is no footage.
    assert second.footage_us == third.footage_us == 2_900_000
    assert (second.frames, second.gaps) == (26, 2)


def test_a_stream_that_kept_nothing_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patched:
        patched.setattr(writing, "commit_chunk", lambda *a, **k: sys.exit(1))
        run(tmp_path, live(10))
    run(tmp_path, live(10, BEGUN + 60_000_000))
    found = content(tmp_path)[LIVE]
    assert found["source"][2] == BEGUN + 60_000_000
    assert found["gaps"] == [] and found["segments"][0][1] == 0


def begun_alike(store: Path, whole: Path) -> bool:
    """Whether each object of a stream is the beginning of one of another store."""
    tracks = {tuple(track[:2]): track for track in sightings_of(whole)}
    return all(tracks[tuple(track[:2])][: len(track)] == track for track in sightings_of(store))


PLACES = [
    *((place, after) for place in ("advance", "clock") for after in (1, 13, 20, 22, 40)),
    ("index", 0), ("key", 0), ("key", 2),
]  # fmt: skip


@pytest.mark.parametrize(("place", "after"), PLACES)
def test_what_a_stream_gave_until_ctrl_c_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, after: int
) -> None:
    store = claimed(tmp_path / "store")
    stop = stopping(after, KeyboardInterrupt())
    tail = FakeTail(sensitive=False)
    frames = 0

    def advance(progress: IngestProgress) -> None:
        nonlocal frames
        frames = progress.frames
        if place == "advance":
            stop(progress)

    if place in ("index", "key"):
        method = getattr(tail, place)
        monkeypatch.setattr(tail, place, lambda *given: (stop(None), method(*given))[1])
    error = KeyboardInterrupt if place != "clock" else TrtkitError
    footage = live(fails_at=after if place == "clock" else None)
    with pytest.raises(error):
        run(store, footage, tail=tail, advance=advance)
    run(tmp_path / "whole", live(), tail=FakeTail(sensitive=False))
    stored = content(store)[LIVE]
    (*_, count, _, _) = stored["source"]
    assert frames <= count <= frames + 1
    # Tracks end where the stream was broken off, also those that would have continued.
    assert begun_alike(store, tmp_path / "whole")
    with Database.open(store) as database:
        assert verify(database).problems == ()
    # A later run ends what was handed on.
    run(store, live(30, BEGUN + 60_000_000), tail=FakeTail(sensitive=False))
    numbers = {sighting.frame for track in sightings_of(store) for sighting in track}
    assert after < 13 or 10 in numbers
    with Database.open(store) as database:
        assert verify(database).problems == ()


@pytest.mark.parametrize("place", ["before", "after"])
def test_ctrl_c_within_the_commit_of_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whether the transaction is there decides, not how far the program came."""
    run(tmp_path / "whole", live())
    stop = stopping(0, KeyboardInterrupt())
    commit = writing.commit_chunk

    def interrupted(*given: Any, **more: Any) -> None:
        monkeypatch.setattr(writing, "commit_chunk", commit)
        if place == "after":
            commit(*given, **more)
        stop(None)

    monkeypatch.setattr(writing, "commit_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", live(50))
    (segment,) = content(tmp_path / "broken")[LIVE]["segments"]
    assert segment[:4] == (0, 0, 1_900_000, 20)
    # What was committed before the interruption was to go on.
    assert segment[4] == (2 if place == "before" else 0)
    assert begun_alike(tmp_path / "broken", tmp_path / "whole")


# How long


def test_seconds_of_a_stream(tmp_path: Path) -> None:
    assert run(tmp_path, live(), seconds=2.5).frames == 26
    # As much again, however long nothing was ingested.
    assert run(tmp_path, live(start_us=BEGUN + 90_000_000), seconds=2.5).frames == 26
    assert content(tmp_path)[LIVE]["source"][4] == 52


def test_seconds_of_a_file_end_with_a_segment(tmp_path: Path, whole: dict[str, Any]) -> None:
    progress = run(tmp_path, seconds=2.5)
    # The segment that it is in goes to its end: what is left out of one would be so for good.
    assert progress.frames == 40
    found = content(tmp_path)[GATE]
    assert found["source"][3:] == (2, 40, 3_900_000, False)
    assert found["objects"] == whole[GATE]["objects"][: len(found["objects"])]
    assert run(tmp_path, seconds=2.0).frames == 20
    assert run(tmp_path, seconds=0.1).frames == 20
    assert content(tmp_path) == whole
    assert run(tmp_path, seconds=1.0).up_to_date


def test_what_is_told_meanwhile(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    run(tmp_path, advance=lambda p: told.append((p.frames, p.at_us, p.objects)))
    assert [each[0] for each in told] == sorted(each[0] for each in told)
    assert told[-1][0] == 80 and told[-1][2] == len(content(tmp_path)[GATE]["objects"])
    # Those of the running segment count too, each once: a segment has 20 frames.
    assert any(objects > 0 for frames, _, objects in told if 20 < frames < 40)
    assert [each[2] for each in told] == sorted(each[2] for each in told)
    assert {frames for frames, _, _ in told} == set(range(1, 81))


def test_a_full_disk_keeps_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    commit = writing.commit_chunk

    def full(database: Database, source: int, record: Any, **more: Any) -> None:
        if record.number == 2:
            pages = database.rows("PRAGMA page_count")[0][0]
            database.rows(f"PRAGMA max_page_count = {pages + 1}")
        commit(database, source, record, **more)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "commit_chunk", full)
        with pytest.raises(
            TrtkitError,
            match=r"cannot be used \(database or disk is full\).*continues where it stopped",
        ):
            run(tmp_path)
    found = content(tmp_path)[GATE]
    assert found["source"][3] == 2
    assert found["objects"] == whole[GATE]["objects"][: len(found["objects"])]
    assert found["ranks"] and found["ranks"] == [
        each for each in whole[GATE]["ranks"] if each[1] < 2
    ]
    run(tmp_path)
    assert content(tmp_path) == whole
