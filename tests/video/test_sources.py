"""What a command line names as footage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reports import recorded
from tests.video.clips import write_clip
from trtkit.errors import TrtkitError
from trtkit.video.framefolder import FrameFolder
from trtkit.video.sources import Source, find_sources, open_source, parse_source
from trtkit.video.stream import LiveStream
from trtkit.video.videofile import VideoFile


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two videos (not real ones), one with an odd name, and frames."""
    for name in ("gate.mp4", "yard.2024.mkv", "a=b.mp4", "7", "frames/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gate.mp4", ("gate", "gate.mp4", "video")),
        ("yard.2024.mkv", ("yard.2024", "yard.2024.mkv", "video")),
        ("front=gate.mp4", ("front", "gate.mp4", "video")),
        ("a=b.mp4", ("a=b", "a=b.mp4", "video")),
        ("c=a=b.mp4", ("c", "a=b.mp4", "video")),
        ("frames", ("frames", "frames", "frames")),
        ("frames/", ("frames", "frames/", "frames")),
        ("frames/../frames/.", ("frames", "frames/../frames/.", "frames")),
        ("back=frames", ("back", "frames", "frames")),
        ("0", ("camera-0", "0", "stream")),
        ("02", ("camera-2", "02", "stream")),
        ("door=0", ("door", "0", "stream")),
        ("7", ("7", "7", "video")),
        ("rtsp://me:pw@gate.local:55/a?x=1", ("gate.local", "rtsp://me:pw@gate.local:55/a?x=1", "stream")),
        ("lane=http://10.0.0.5/mjpg?a=b", ("lane", "http://10.0.0.5/mjpg?a=b", "stream")),
    ],
)  # fmt: skip
def test_what_a_text_names(text: str, expected: tuple[str, str, str]) -> None:
    assert dataclasses.astuple(parse_source(text)) == expected


def test_the_current_folder_has_a_name(here: Path) -> None:
    assert parse_source(".").camera == here.name


def refusal(*texts: str) -> str:
    with pytest.raises(TrtkitError) as caught:
        find_sources(texts)
    return str(caught.value)


def test_what_is_not_there() -> None:
    assert refusal("gat.mp4") == (
        "File or folder gat.mp4 not found; its folder has gate.mp4, a=b.mp4, so correct the name."
    )
    assert "File or folder gat.mp4 not found; its folder has gate.mp4" in refusal("x=gat.mp4")
    assert "its folder has 7, a=b.mp4, frames, gate.mp4, yard.2024.mkv" in refusal("zzzzzzzzz")
    assert "its folder no/such does not exist either" in refusal("no/such/file.mp4")
    # A digit to Python, but no camera's number.
    assert "File or folder ² not found" in refusal("²")
    assert "File or folder -1 not found" in refusal("-1")
    assert "cannot be read" in refusal("gate.mp4/x")


def test_what_says_nothing() -> None:
    assert "No source; name a video file" in refusal()
    assert "A source is empty; name" in refusal(" ")
    assert "no camera before its `=`" in refusal("=gate.mp4")
    assert "nothing after its `=`" in refusal("door=")
    assert "names no host" in refusal("rtsp:///path")


def test_several_files_of_one_camera() -> None:
    found = find_sources(["door=gate.mp4", "door=yard.2024.mkv", "1"])
    assert [source.camera for source in found] == ["door", "door", "camera-1"]
    assert find_sources("gate.mp4") == (Source("gate", "gate.mp4", "video"),)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gate.mp4", "frames/../gate.mp4"),
        ("gate.mp4", "door=gate.mp4"),
        ("1", "01"),
        ("rtsp://gate/1", "x=rtsp://gate/1"),
    ],
)
def test_one_place_named_twice(one: str, other: str) -> None:
    assert "is named twice, as footage of" in refusal(one, other)


def test_a_password_is_not_told() -> None:
    message = refusal("rtsp://me:pw@gate/1", "rtsp://me:pw@gate/1")
    assert message.startswith("rtsp://gate/1 is named twice")
    assert "pw" not in message


def test_a_link_is_the_place_that_it_leads_to(here: Path) -> None:
    (here / "link.mp4").symlink_to("gate.mp4")
    assert "is named twice, as footage of gate and of link" in refusal("gate.mp4", "link.mp4")


def test_a_source_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_source("0").camera = "other"  # type: ignore[misc]


def test_each_kind_is_opened(here: Path) -> None:
    write_clip(here / "real.mp4", [0, 40])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(here / "frames/1.png")
    video = open_source(parse_source("real.mp4"))
    assert isinstance(video, VideoFile)
    assert video.location == str(here / "real.mp4")
    folder = open_source(parse_source("frames"), frame_rate=4)
    assert isinstance(folder, FrameFolder)
    assert folder.duration_us == 250_000
    assert open_source(parse_source("frames")).duration_us == 40_000
    camera = open_source(parse_source("rtsp://me:secret@gate/1"))
    assert isinstance(camera, LiveStream)
    assert camera.location == "rtsp://gate/1"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("source", ["frames", "gate.mp4", "rtsp://gate/1"])
def test_a_frame_rate_is_above_0(here: Path, source: str, rate: float) -> None:
    with pytest.raises(TrtkitError, match="frame rate .* is not above 0"):
        open_source(parse_source(source), rate)


def test_a_frame_rate_for_a_stream_is_reported(here: Path) -> None:
    with recorded() as reports:
        open_source(parse_source("gate=rtsp://me:secret@gate/1"), 10)
    assert reports.messages == ["--frame-rate has no effect on the camera gate, which sends times."]


def test_one_source_that_is_not_there_leaves_the_others(here: Path) -> None:
    failed: dict[str, str] = {}
    assert [source.camera for source in find_sources(["gate.mp4", "gaet.mp4"], failed)] == ["gate"]
    assert list(failed) == ["gaet.mp4"]
    assert "gaet.mp4 not found" in failed["gaet.mp4"]
    with pytest.raises(TrtkitError, match="not found"):
        find_sources(["gaet.mp4", "nowhere.mp4"], {})


def test_two_sources_of_one_camera_are_reported(here: Path) -> None:
    with recorded() as reports:
        find_sources(["door=gate.mp4", "door=yard.2024.mkv", "1"])
        find_sources(["gate.mp4", "1"])
    assert reports.messages == [
        "2 sources are footage of one camera, door; if they are not, name them, as in NAME=SOURCE."
    ]
