"""Clips show the frames of their stretch, and sources that cannot be cut are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.video.clips import number, pattern, write_clip
from trtkit.errors import TrtkitError
from trtkit.identity import file_digest
from trtkit.video import clips as module
from trtkit.video.clips import ClipReport, ClipRequest, clip_folder, cut_clips
from trtkit.video.footage.writing import SourceRow
from trtkit.video.framefolder import FrameFolder
from trtkit.video.original import open_original
from trtkit.video.videofile import VideoFile

SECOND = 1_000_000
TIMES_MS = [40 * n for n in range(200)]  # 8 s


def row_of(footage: VideoFile | FrameFolder, camera: str = "gate", frames: int = 200) -> SourceRow:
    return SourceRow(
        1, camera, footage.location, footage.fingerprint, "{}", None, 1, frames,
        (frames - 1) * 40_000, True,
    )  # fmt: skip


def cut(row: SourceRow, start: float, end: float, folder: Path) -> ClipReport:
    request = ClipRequest(row, round(start * SECOND), round(end * SECOND), 7)
    return cut_clips([request], folder, file_digest)


def shown(path: Path | None) -> tuple[str, list[int], list[float]]:
    """The codec of a clip, the numbers of its frames and their times in seconds."""
    assert path is not None
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return (
            container.streams.video[0].codec_context.name,
            [number(frame.to_ndarray(format="rgb24")) for frame in frames],
            [float(frame.time) for frame in frames],
        )


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_clip_has_the_frames_asked_for_from_the_keyframe_on(
    tmp_path: Path, ending: str, b_frames: int
) -> None:
    path = write_clip(tmp_path / f"a{ending}", TIMES_MS, gop=25, b_frames=b_frames)
    row = row_of(VideoFile(path))
    before = path.read_bytes()
    report = cut(row, 3.0, 4.0, tmp_path / "clips")
    assert report.missing == {} and not report.failed
    _, numbers, times = shown(report.files[0])
    # 2 s to 5 s, with a second on each side.
    assert set(range(50, 126)) <= set(numbers)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[0] > 50 - 26 and numbers[-1] < 125 + 5
    even = [times[0] + 0.04 * n for n in range(len(times))]
    assert times == pytest.approx(even, abs=2e-3)
    assert path.read_bytes() == before


def test_packets_are_copied_where_they_can_be(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_encode", lambda *_: pytest.fail("encoded"))
    path = write_clip(tmp_path / "a.mp4", TIMES_MS, rotation=90)
    (clip,) = cut(row_of(VideoFile(path)), 3.0, 4.0, tmp_path / "clips").files
    assert clip is not None and clip.name == "gate_0-00-03.000_7.mp4"
    with av.open(str(clip)) as container:
        assert next(container.decode(video=0)).rotation in (90, -90)


def test_a_clip_does_not_begin_long_before_its_object(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES_MS, gop=250)
    row = row_of(VideoFile(path))
    _, copied, _ = shown(cut(row, 5.5, 6.0, tmp_path / "copied").files[0])
    assert copied[0] == 0 and copied[-1] >= 175
    _, encoded, _ = shown(cut(row, 6.2, 6.5, tmp_path / "encoded").files[0])
    assert encoded == list(range(130, 188))


def test_times_that_do_not_begin_at_zero(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", [5000 + time for time in TIMES_MS])
    _, numbers, _ = shown(cut(row_of(VideoFile(path)), 3.0, 4.0, tmp_path / "clips").files[0])
    assert set(range(50, 126)) <= set(numbers) and numbers[0] > 50 - 13


def test_the_whole_of_a_short_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES_MS[:30])
    _, numbers, _ = shown(
        cut(row_of(VideoFile(path), frames=30), 0.2, 1.0, tmp_path / "c").files[0]
    )
    assert numbers == list(range(30))


@pytest.mark.parametrize("rate", [None, 10.0, 12.5])
def test_a_raw_stream_is_encoded_at_the_rate_it_was_ingested_with(
    tmp_path: Path, rate: float | None
) -> None:
    path = write_clip(tmp_path / "a.h264", TIMES_MS, b_frames=0)
    footage = VideoFile(path, rate)
    step = SECOND / (rate or 25)
    row = SourceRow(
        1, "gate", str(path), footage.fingerprint, "{}", None, 1, 200, round(199 * step), True
    )
    codec, numbers, times = shown(cut(row, 3.0, 4.0, tmp_path / "clips").files[0])
    assert codec == "h264"
    assert numbers == list(range(round(2 / step * SECOND), round(5 / step * SECOND) + 1))
    assert times[-1] == pytest.approx((len(numbers) - 1) * step / SECOND, abs=0.002)


@pytest.mark.parametrize("encoder", ["libx264", "mjpeg"])
def test_a_folder_of_frames_is_encoded(tmp_path: Path, monkeypatch, encoder: str) -> None:
    monkeypatch.setattr(module, "_ENCODERS", [e for e in module._ENCODERS if e[0] == encoder])
    folder = tmp_path / "frames"
    folder.mkdir()
    for n in range(40):
        # One pixel too wide and too high for H.264.
        image = np.pad(pattern(n), ((0, 1), (0, 1), (0, 0)))
        Image.fromarray(image).save(folder / f"{n}.png")
    fingerprint = FrameFolder(folder, 10.0).fingerprint
    row = SourceRow(1, "gate", str(folder), fingerprint, "{}", None, 1, 40, 3_900_000, True)
    codec, numbers, _ = shown(cut(row, 1.5, 2.0, tmp_path / "clips").files[0])
    assert codec == {"libx264": "h264"}.get(encoder, encoder)
    assert numbers == list(range(5, 31))


def test_missing_sources_are_named_and_the_others_are_cut(tmp_path: Path) -> None:
    good = row_of(VideoFile(write_clip(tmp_path / "good.mp4", TIMES_MS[:50])), frames=50)
    gone, changed = (
        row_of(VideoFile(write_clip(tmp_path / f"{name}.mp4", TIMES_MS[:50])), frames=50)
        for name in ("gone", "changed")
    )
    (tmp_path / "gone.mp4").unlink()
    write_clip(tmp_path / "changed.mp4", TIMES_MS[:50], gop=5)
    stream = SourceRow(4, "yard", "rtsp://yard/1", "f", "{}", None, 1, 9, 9, False)
    rows = [good, *(SourceRow(n, *vars_of(row)) for n, row in ((2, gone), (3, changed)))]
    requests = [ClipRequest(row, 0, SECOND, n) for n, row in enumerate([*rows, rows[1], stream])]
    report = cut_clips(requests, tmp_path / "clips", file_digest)
    assert [file is not None for file in report.files] == [True, False, False, False, False]
    assert not report.failed
    assert list(report.sentences()) == [
        f"2 clips are missing: {tmp_path}/gone.mp4 is no longer there; put it back.",
        f"1 clip is missing: {tmp_path}/changed.mp4 has changed since it was ingested.",
        "1 clip is missing: rtsp://yard/1 is a stream, which cannot be read again.",
    ]
    assert cut_clips(requests[1:], tmp_path / "clips", file_digest).failed


def vars_of(row: SourceRow) -> list:
    return [value for name, value in vars(row).items() if name != "id"]


def test_names_are_safe_and_other_files_stay(tmp_path: Path) -> None:
    row = row_of(
        VideoFile(write_clip(tmp_path / "a.mp4", TIMES_MS[:50])), "../../\x1b[1m tör =1", 50
    )
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "mine.mp4").write_text("mine")
    # A link of the clip's name is replaced, not followed.
    (folder / "1m-t-r-1_0-00-00.200_7.mp4").symlink_to(tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").read_bytes()
    (clip,) = cut(row, 0.2, 1.0, folder).files
    assert clip is not None and sorted(path.name for path in folder.iterdir()) == [
        clip.name,
        "mine.mp4",
    ]
    assert clip.name == "1m-t-r-1_0-00-00.200_7.mp4" and not clip.is_symlink()
    assert (folder / "mine.mp4").read_text() == "mine"
    assert (tmp_path / "a.mp4").read_bytes() == before
    dated = ClipRequest(replace(row, camera="...", start_us=1_772_353_800 * SECOND), 0, 1, 3)
    assert dated.stem == "camera_20260301T083000.000_3"
    local = replace(dated, source=replace(dated.source, zone="America/New_York"))
    assert local.stem == "camera_20260301T033000.000_3"


def test_a_clip_that_cannot_be_written_is_missing(tmp_path: Path) -> None:
    row = row_of(VideoFile(write_clip(tmp_path / "a.mp4", TIMES_MS[:50])), frames=50)
    (tmp_path / "clips" / "gate_0-00-00.200_7.mp4" / "full").mkdir(parents=True)
    report = cut(row, 0.2, 1.0, tmp_path / "clips")
    assert report.failed
    (sentence,) = report.sentences()
    assert "gate_0-00-00.200_7.mp4 cannot be written" in sentence


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrtkitError, match="file is a file; --clip takes a folder"):
        clip_folder(tmp_path / "file")
    # Nobody can write to /proc, not even root.
    for folder in (tmp_path / "file" / "below", Path("/proc")):
        with pytest.raises(TrtkitError, match=f"^Clips cannot be written to {folder} "):
            clip_folder(folder)
    report = cut_clips([], tmp_path / "none", file_digest)
    assert report.files == () and not report.failed and list(report.sentences()) == []


def test_footage_of_an_earlier_store_is_known_by_what_it_had_for_a_fingerprint(
    tmp_path: Path,
) -> None:
    footage = VideoFile(write_clip(tmp_path / "a.mp4", TIMES_MS[:10]))
    row = replace(row_of(footage), fingerprint=footage.former_fingerprint)
    assert open_original(row, file_digest).location == footage.location


def test_footage_is_opened_at_the_rate_that_it_was_ingested_with(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.h264", TIMES_MS[:20], b_frames=0)
    # No number of frames and no length leads to this rate.
    footage = VideoFile(path, 23.976023976)
    row = replace(row_of(footage, frames=20), frame_rate=footage.frame_rate)
    opened = open_original(row, file_digest)
    assert isinstance(opened, VideoFile) and opened.frame_rate == 23.976023976
    with pytest.raises(TrtkitError, match=r"a.h264 has changed since it was ingested\.$"):
        open_original(replace(row, frame_rate=24.0), file_digest)
