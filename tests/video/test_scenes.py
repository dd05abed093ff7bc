"""Paths lie on the frame of the best picture, and without footage on a plain background."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from tests.video.clips import HEIGHT, WIDTH, number, write_clip
from trtkit.identity import file_digest
from trtkit.video.detections import Box, Sighting
from trtkit.video.footage.writing import SourceRow
from trtkit.video.frames import PixelPicture
from trtkit.video.scenes import PathRequest, _small, scenes_of
from trtkit.video.videofile import VideoFile


def sightings(*frames: int) -> list[Sighting]:
    return [Sighting(n, 40_000 * n, Box(n, 2 * n, 4, 6)) for n in frames]


def row_of(path: Path) -> SourceRow:
    return SourceRow(1, "gate", str(path), VideoFile(path).fingerprint, "{}", None, 1, 50, 1, True)


def test_the_frame_is_that_of_the_time_and_the_path_is_of_centres(tmp_path: Path) -> None:
    row = row_of(write_clip(tmp_path / "a.mp4", [40 * n for n in range(50)]))
    requests = [PathRequest(row, 40_000 * n, [sightings(1, n)]) for n in (30, 7, 41)]
    scenes, reasons = scenes_of(requests, file_digest)
    assert reasons == {}
    assert [number(simplejpeg.decode_jpeg(scene.frame)) for scene in scenes] == [30, 7, 41]
    assert {(scene.width, scene.height) for scene in scenes} == {(WIDTH, HEIGHT)}
    assert scenes[0].paths == (((3, 5), (32, 63)),)


def test_a_source_that_is_gone_or_changed_or_a_stream_has_no_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [40 * n for n in range(50)])
    row = row_of(path)
    stream = SourceRow(2, "yard", "rtsp://yard/1", "f", "{}", None, 1, 9, 9, False)
    requests = [
        PathRequest(row, 0, [sightings(1, 9)]),
        PathRequest(stream, 0, [sightings(3)]),
        PathRequest(row, 0, [sightings(20)]),
    ]
    path.unlink()
    scenes, reasons = scenes_of(requests, file_digest)
    assert [scene.frame for scene in scenes] == [None, None, None]
    # As far as the boxes of the source reach.
    assert [(scene.width, scene.height) for scene in scenes] == [(24, 46), (7, 12), (24, 46)]
    assert reasons == {
        1: f"{path} is no longer there; put it back.",
        2: "rtsp://yard/1 is a stream, which cannot be read again.",
    }
    write_clip(path, [40 * n for n in range(40)])
    assert "has changed" in scenes_of(requests, file_digest)[1][1]
    assert scenes_of([replace(requests[0], source=row_of(path))], file_digest)[1] == {}


def test_long_paths_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    stream = SourceRow(2, "yard", "rtsp://yard/1", "f", "{}", None, 1, 9, 9, False)
    ((scene,), _) = scenes_of([PathRequest(stream, 0, [sightings(*range(1001))])], file_digest)
    (path,) = scene.paths
    assert len(path) < 210
    assert (path[0], path[-1]) == ((2, 3), (1002, 2003))


def test_large_frames_are_made_small() -> None:
    picture = PixelPicture(np.zeros((1080, 1920, 3), np.uint8))
    assert simplejpeg.decode_jpeg(_small(picture)).shape == (270, 480, 3)
