"""Video files: exact times, the same frames from wherever they are read, and damage as gaps."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reports import recorded
from tests.video.clips import HEIGHT, WIDTH, number, overwrite, packets, pattern, write_clip
from trtkit.errors import TrtkitError
from trtkit.video import frames, soundness, videofile
from trtkit.video.container import rate_of
from trtkit.video.frames import Frame, Gap
from trtkit.video.videofile import VideoFile

STEADY = [40 * n for n in range(60)]
# Milliseconds between frames that repeat irregularly, as phones and screen recorders write them.
VARIABLE = list(itertools.accumulate([0, *([33, 34, 7, 120, 40, 501, 16] * 9)]))[:60]
FASTSTART = {"movflags": "faststart"}


def told(items: Iterator[Frame | Gap]) -> list[tuple[int, ...] | tuple[int, int, str]]:
    """What was read: time in ms and the number in the picture, or start and end in ms and reason."""
    return [
        (item.time_us // 1000, number(item.picture.rgb()))
        if isinstance(item, Frame)
        else (item.start_us // 1000, item.end_us // 1000, item.reason)
        for item in items
    ]


def pixels(items: Iterator[Frame | Gap]) -> list[tuple[int, int, str]]:
    """What was read, to the last bit: times, and the digest of the pixels or the reason."""
    return [
        (item.time_us, item.time_us, blake3(item.picture.rgb().tobytes()).hexdigest())
        if isinstance(item, Frame)
        else (item.start_us, item.end_us, item.reason)
        for item in items
    ]


def suffix(items: list[tuple[int, int, str]], since_us: int) -> list[tuple[int, int, str]]:
    """Frames from that time on, and gaps that end after it."""
    return [
        item
        for item in items
        if (item[0] >= since_us if len(item[2]) == 64 else item[1] > since_us)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return write_clip(folder / "steady.mp4", STEADY)


@pytest.fixture
def damaged(clip: Path, tmp_path: Path) -> Path:
    """A copy of the clip, to be damaged."""
    return Path(shutil.copy(clip, tmp_path / "damaged.mp4"))


def cut_to(path: Path, share: float) -> Path:
    """The file, cut to that share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    return path


def of_frame(path: Path, index: int) -> tuple[int, int]:
    """Offset and size of packet `index` in decoding order."""
    offset, size, _ = packets(path)[index]
    return offset, size


@pytest.fixture(scope="module")
def clips(folder: Path, clip: Path) -> dict[str, tuple[Path, list[tuple[int, int, str]]]]:
    """One file of every kind that is read from the middle, with all that is in it."""
    x264 = {"preset": "medium"}
    twice = write_clip(folder / "once.ts", STEADY).read_bytes()
    (folder / "twice.ts").write_bytes(twice * 2)
    broken = Path(shutil.copy(clip, folder / "broken.mp4"))
    for index in (5, 12, 31):
        offset, size = of_frame(clip, index)
        overwrite(broken, offset, size)
    cut = cut_to(write_clip(folder / "cut.mp4", STEADY, container_options=FASTSTART), 2 / 3)
    paths = {
        "steady": clip,
        "variable": write_clip(folder / "variable.mp4", VARIABLE, options=x264),
        "one GOP": write_clip(folder / "long.mp4", VARIABLE, gop=250, b_frames=3, options=x264),
        "open GOPs": write_clip(
            folder / "open.mp4",
            STEADY,
            gop=10,
            b_frames=3,
            options=x264 | {"x264-params": "open-gop=1"},
        ),
        "no B-frames": write_clip(folder / "plain.mkv", VARIABLE, b_frames=0),
        "AVI with B-frames": write_clip(folder / "b.avi", STEADY, b_frames=3, options=x264),
        "without times": write_clip(folder / "raw.h264", STEADY, b_frames=3, options=x264),
        "AVI cut short": cut_to(write_clip(folder / "cut.avi", STEADY), 0.7),
        "Matroska cut short": cut_to(write_clip(folder / "cut.mkv", STEADY), 0.7),
        "transport stream": folder / "once.ts",
        "clock goes back": folder / "twice.ts",
        "damaged": broken,
        "cut short": cut,
    }
    return {name: (path, pixels(VideoFile(path).read())) for name, path in paths.items()}


NAMES = (
    "steady", "variable", "one GOP", "open GOPs", "no B-frames", "transport stream",
    "clock goes back", "damaged", "cut short", "AVI with B-frames", "without times",
    "AVI cut short", "Matroska cut short",
)  # fmt: skip


class TestTimes:
    def test_frames_with_their_times_in_order(self, clip: Path) -> None:
        video = VideoFile(clip)
        assert told(video.read()) == [(40 * n, n) for n in range(60)]
        assert video.duration_us == 2_400_000
        assert video.seekable

    def test_variable_frame_rate(self, folder: Path) -> None:
        path = write_clip(folder / "vfr.mp4", VARIABLE, b_frames=3, options={"preset": "medium"})
        assert told(VideoFile(path).read()) == [(ms, n) for n, ms in enumerate(VARIABLE)]

    def test_times_count_from_the_first_frame(self, folder: Path) -> None:
        path = write_clip(folder / "late.ts", [5000 + ms for ms in STEADY[:20]])
        assert told(VideoFile(path).read()) == [(40 * n, n) for n in range(20)]

    @pytest.mark.parametrize("b_frames", [0, 1, 3])
    @pytest.mark.parametrize("suffix", ["avi", "h264", "mkv", "mp4"])
    def test_containers_that_give_times_of_decoding_or_none(
        self, folder: Path, suffix: str, b_frames: int
    ) -> None:
        path = folder / f"ordered-{b_frames}.{suffix}"
        write_clip(path, STEADY, b_frames=b_frames, options={"preset": "medium"})
        assert told(VideoFile(path).read()) == [(40 * n, n) for n in range(60)]

    def test_frames_lost_inside_a_group_do_not_move_the_next_group(self, folder: Path) -> None:
        path = write_clip(folder / "lost.avi", STEADY, b_frames=2, options={"preset": "medium"})
        offset, size, _ = packets(path)[16]
        overwrite(path, offset, size)
        items = told(VideoFile(path).read())
        assert items[:12] == [(40 * n, n) for n in range(12)]
        assert items[-36:] == [(40 * n, n) for n in range(24, 60)]

    def test_a_rate_that_the_stream_does_not_state_is_given_or_reported(self, folder: Path) -> None:
        path = write_clip(folder / "rate.h264", STEADY[:10])
        with recorded() as reports:
            assumed = VideoFile(path)
        assert reports.messages == [
            f"{path} has no times; 25 frames a second are assumed, --frame-rate sets their number."
        ]
        with recorded() as reports:
            slow = VideoFile(path, frame_rate=10)
        assert told(slow.read()) == [(100 * n, n) for n in range(10)]
        assert reports.messages == []
        assert assumed.fingerprint == VideoFile(path).fingerprint != slow.fingerprint

    def test_a_rate_that_a_raw_stream_states_is_used(self, folder: Path) -> None:
        options = {"x264-params": "force-cfr=1"}
        path = write_clip(folder / "stated.h264", STEADY[:10], options=options)
        with av.open(str(path)) as container:
            (stream,) = container.streams.video
            first = next(container.demux(stream))
            first.duration = stream.time_base.denominator // (stream.time_base.numerator * 10)
            assert rate_of(stream, first) == 10

    def test_a_given_rate_without_effect_is_reported(self, clip: Path) -> None:
        with recorded() as reports:
            assert told(VideoFile(clip, frame_rate=10).read())[1] == (40, 1)
        assert reports.messages == [
            f"--frame-rate has no effect on {clip}, which has times of its own."
        ]

    def test_thirds_of_a_microsecond_are_rounded(self, folder: Path) -> None:
        clock = frames.Clock(10, Fraction(1, 30_000), 33_333)
        assert [clock.time_us(10 + 1001 * n)[0] for n in range(4)] == [0, 33367, 66733, 100100]

    def test_a_clock_that_stands_still_or_goes_back(self) -> None:
        clock = frames.Clock(0, Fraction(1, 1000), 40_000)
        read = [clock.time_us(ms) for ms in (0, 40, 40, 80, 30, 70)]
        assert read == [
            (0, None), (40_000, None), (80_000, 0), (120_000, None), (160_000, 50_000),
            (200_000, None),
        ]  # fmt: skip

    def test_a_file_whose_clock_goes_back_goes_on(self, clips) -> None:
        path, _ = clips["clock goes back"]
        items = told(VideoFile(path).read())
        times = [item[0] for item in items if len(item) == 2]
        assert times == sorted(set(times))
        (at,) = [n for n, item in enumerate(items) if item[-1] == "the clock went back by 2.28 s"]
        assert items[at][:2] == (2320, 2320)
        assert items[at + 1 : at + 4] == [(2320, 0), (2360, 1), (2400, 2)]


class TestSince:
    @pytest.mark.parametrize("name", NAMES)
    @settings(
        max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_reading_from_a_time_is_the_end_of_reading_all(self, clips, name: str, data) -> None:
        path, everything = clips[name]
        times = [item[0] for item in everything] + [item[1] for item in everything]
        near = st.tuples(st.sampled_from(times), st.integers(-1, 1)).map(sum)
        since = data.draw(near | st.integers(0, 6_000_000))
        assert pixels(VideoFile(path).read(since)) == suffix(everything, since)

    def test_one_opened_file_is_read_several_times_and_at_once(self, clip: Path) -> None:
        video = VideoFile(clip)
        one, other = video.read(1_000_000), video.read(2_000_000)
        assert [told(iter([next(i)])) for i in (one, other, one)] == [
            [(1000, 25)], [(2000, 50)], [(1040, 26)],
        ]  # fmt: skip
        assert told(video.read(2_300_000)) == [(2320, 58), (2360, 59)]
        assert told(video.read(9_000_000)) == []

    def test_readings_at_once_do_not_mix_up_their_frames(self, clips) -> None:
        path, everything = clips["open GOPs"]
        video = VideoFile(path)
        for _ in range(5):
            readings = [video.read() for _ in range(4)]
            items = [pixels(iter(step)) for step in zip(*readings, strict=True)]
            assert items == [[item] * 4 for item in everything]

    def test_a_steady_file_is_not_read_from_its_start(self, clip: Path, monkeypatch) -> None:
        video = VideoFile(clip)
        sent: list[int] = []
        real = videofile.packets

        def counted(container, stream):
            for packet in real(container, stream):
                sent.append(packet.pts)
                yield packet

        monkeypatch.setattr(videofile, "packets", counted)
        assert len(told(video.read(2_000_000))) == 10
        assert len(sent) < 30


class TestDamage:
    def test_frames_that_build_on_damage_are_a_gap_up_to_the_next_keyframe(self, damaged) -> None:
        # Packet 13 is frame 15: frames 13 and 14 refer to it, and all up to the keyframe 24.
        overwrite(damaged, *of_frame(damaged, 13))
        expected = [(40 * n, n) for n in range(13)]
        expected += [(520, 960, "damaged"), *((40 * n, n) for n in range(24, 60))]
        assert told(VideoFile(damaged).read()) == expected

    def test_concealed_damage_is_not_shown(self, damaged: Path, clip: Path) -> None:
        # Zeros make the decoder paint over what is missing, without an error.
        offset, size = of_frame(damaged, 12)
        overwrite(damaged, offset + size // 2, size - size // 2, 0)
        good = set(pixels(VideoFile(clip).read()))
        video = VideoFile(damaged)
        frames = [item for item in pixels(video.read()) if item[2] != "damaged"]
        assert set(frames) <= good
        assert told(video.read())[11:14] == [(440, 11), (480, 960, "damaged"), (960, 24)]

    def test_one_lost_frame_within_others_that_are_shown(self, damaged: Path) -> None:
        # Packet 15 is frame 14, shown before frame 15 that was decoded before it.
        overwrite(damaged, *of_frame(damaged, 15))
        assert told(VideoFile(damaged).read())[13:18] == [
            (520, 13), (560, 600, "damaged"), (600, 15), (640, 960, "damaged"), (960, 24),
        ]  # fmt: skip

    def test_a_damaged_start_and_a_damaged_end(self, damaged: Path) -> None:
        overwrite(damaged, *of_frame(damaged, 0))
        overwrite(damaged, *of_frame(damaged, 48))
        video = VideoFile(damaged)
        expected = [(0, 480, "damaged"), *((40 * n, n) for n in range(12, 48))]
        expected += [(1920, 2400, "damaged")]
        assert told(video.read()) == expected
        assert told(video.read(2_100_000)) == [(1920, 2400, "damaged")]

    def test_packets_that_never_arrived(self, clips, tmp_path: Path) -> None:
        whole = clips["transport stream"][0].read_bytes()
        middle = len(whole) // 188 // 2 * 188
        path = tmp_path / "lost.ts"
        path.write_bytes(whole[:middle] + whole[middle + 10 * 188 :])
        good = set(clips["transport stream"][1])
        items = pixels(VideoFile(path).read())
        gaps = [item for item in items if item[2] == "damaged"]
        assert gaps
        assert set(items) - set(gaps) <= good
        assert items[-1][0] == 2_360_000

    @pytest.mark.parametrize("name", ["cut short", "Matroska cut short", "AVI cut short"])
    def test_a_file_that_is_cut_short(self, clips, name: str) -> None:
        path, _ = clips[name]
        video = VideoFile(path)
        items = told(video.read())
        assert video.duration_us == 2_400_000
        assert items[0] == (0, 0)
        assert items[-1][1:] == (2400, "the file is cut short")
        assert items[-2] == (items[-1][0] - 40, items[-2][1])

    def test_a_whole_file_has_no_gap(self, clips) -> None:
        for name in (
            "steady",
            "variable",
            "one GOP",
            "open GOPs",
            "no B-frames",
            "transport stream",
            "AVI with B-frames",
            "without times",
        ):
            items = clips[name][1]
            assert len(items) == 60, name
            assert all(len(digest) == 64 for _, _, digest in items), name


class TestPictures:
    def test_colours_and_sizes(self, clip: Path) -> None:
        frame = next(iter(VideoFile(clip).read(2_200_000)))
        assert isinstance(frame, Frame)
        picture = frame.picture
        assert (picture.width, picture.height) == (WIDTH, HEIGHT)
        rgb = picture.rgb()
        assert (rgb.shape, rgb.dtype, rgb.flags.c_contiguous) == (
            (HEIGHT, WIDTH, 3),
            np.uint8,
            True,
        )
        # Luminance survives the compression; half of the colour's resolution does not.
        difference = rgb.astype(int).mean(2) - pattern(55).astype(int).mean(2)
        assert abs(difference).mean() < 12
        small = picture.shrunk(32, 24)
        assert (small.shape, small.flags.c_contiguous) == ((24, 32, 3), True)
        halved = rgb.astype(int).reshape(24, 2, 32, 2, 3).mean((1, 3))
        assert abs(small - halved).mean() < 6

    def test_red_comes_first(self, folder: Path) -> None:
        path = write_clip(folder / "red.mp4", STEADY[:3], paint=(255, 0, 0))
        frame = next(iter(VideoFile(path).read()))
        assert isinstance(frame, Frame)
        for image in (frame.picture.rgb(), frame.picture.shrunk(8, 6)):
            red, green, blue = image.reshape(-1, 3).mean(0)
            assert red > 240
            assert max(green, blue) < 15

    def test_turned_recordings_are_upright(self, folder: Path) -> None:
        path = write_clip(folder / "turned.mp4", STEADY[:3], rotation=90)
        frame = list(VideoFile(path).read())[1]
        assert isinstance(frame, Frame)
        assert (frame.picture.width, frame.picture.height) == (HEIGHT, WIDTH)
        upright = frame.picture.rgb()
        assert upright.shape == (WIDTH, HEIGHT, 3)
        # Turned back, clockwise, the recording's own lines are there again.
        assert number(np.rot90(upright, -1)) == 1
        assert frame.picture.shrunk(24, 32).shape == (32, 24, 3)


class TestAbout:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2024-01-02T03:04:05.000000Z", 1_704_164_645),
            ("2024-01-02T03:04:05", 1_704_164_645),
            ("1904-01-01T00:00:00.000000Z", None),
            ("1970-01-01T00:00:00.000000Z", None),
            ("2999-01-01T00:00:00.000000Z", None),
            ("last Tuesday", None),
        ],
    )
    def test_when_it_was_recorded(self, tmp_path: Path, text: str, seconds: int | None) -> None:
        # Matroska keeps the text as it is.
        path = write_clip(tmp_path / "c.mkv", STEADY[:2], metadata={"creation_time": text})
        expected = None if seconds is None else seconds * 1_000_000
        assert VideoFile(path).start_us == expected

    @pytest.mark.parametrize(
        ("text", "zone"),
        [
            ("2024-01-02T05:04:05+0200", "+02:00"), ("2024-01-01T23:34:05-03:30", "-03:30"),
            ("2024-01-02T03:04:05Z", ""), ("2024-01-02", ""),
        ],
    )  # fmt: skip
    def test_the_zone_that_phones_state(self, tmp_path: Path, text: str, zone: str) -> None:
        key = "com.apple.quicktime.creationdate"
        stated = {key: text, "creation_time": "2024-01-02T03:04:05.000000Z"}
        tags = {"movflags": "use_metadata_tags"}
        path = write_clip(tmp_path / "c.mov", STEADY[:2], metadata=stated, container_options=tags)
        video = VideoFile(path)
        assert (video.start_us, video.zone) == (1_704_164_645_000_000, zone)

    @pytest.mark.parametrize(
        ("ending", "rate", "expected"),
        [("mp4", None, 25.0), ("h264", None, 25.0), ("h264", 23.976023976, 23.976023976)],
    )
    def test_its_frame_rate(
        self, tmp_path: Path, ending: str, rate: float | None, expected: float
    ) -> None:
        path = write_clip(tmp_path / f"c.{ending}", [0, 40, 80], b_frames=0)
        assert VideoFile(path, rate).frame_rate == expected

    def test_no_creation_time(self, clip: Path) -> None:
        assert VideoFile(clip).start_us is None

    def test_a_comment_that_is_not_utf8_does_not_matter(self, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "c.mkv", STEADY[:2], metadata={"comment": "Einfahrt Sued"})
        content = path.read_bytes()
        assert content.count(b"Einfahrt Sued") == 1
        path.write_bytes(content.replace(b"Sued", b"S\xfcd "))
        assert VideoFile(path).start_us is None

    def test_the_fingerprint_is_of_the_content(self, clip: Path, tmp_path: Path) -> None:
        mebibyte = 1 << 20
        path = tmp_path / "big.mp4"
        content = clip.read_bytes() + bytes(3 * mebibyte)
        path.write_bytes(content)
        expected = blake3(len(content).to_bytes(8, "little"))
        expected.update(content[:mebibyte] + content[-mebibyte:])
        video = VideoFile(path)
        assert video.fingerprint == blake3(content).hexdigest()
        # Earlier versions took the size, the beginning and the end for it.
        assert video.former_fingerprint == expected.hexdigest()
        overwrite(path, 2 * mebibyte, 1)
        other = VideoFile(path)
        assert other.fingerprint != video.fingerprint
        assert other.former_fingerprint == video.former_fingerprint


class TestRefused:
    def refusal(self, path: Path) -> str:
        with pytest.raises(TrtkitError) as caught:
            VideoFile(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_no_such_file(self, tmp_path: Path) -> None:
        (tmp_path / "gate.mp4").touch()
        assert "its folder has gate.mp4" in self.refusal(tmp_path / "gat.mp4")
        assert "its folder has gate.mp4, so correct the path" in self.refusal(tmp_path / "zzzzzz")
        assert "does not exist either, so correct the path" in self.refusal(
            tmp_path / "no" / "gate.mp4"
        )

    def test_a_folder_an_empty_file_and_a_pipe(self, tmp_path: Path) -> None:
        assert "is a folder" in self.refusal(tmp_path)
        (tmp_path / "empty.mp4").touch()
        assert "is an empty file" in self.refusal(tmp_path / "empty.mp4")
        os.mkfifo(tmp_path / "pipe")
        assert "is a pipe" in self.refusal(tmp_path / "pipe")

    def test_what_is_no_video(self, tmp_path: Path, clip: Path) -> None:
        path = tmp_path / "notes.mp4"
        path.write_text("Not a video at all.\n" * 50)
        assert "is not a video in a readable format" in self.refusal(path)
        # Without its index at the end an MP4 tells nothing.
        path.write_bytes(clip.read_bytes()[:5000])
        assert "cut short" in self.refusal(path)

    def test_no_video_stream(self, tmp_path: Path) -> None:
        import wave

        path = tmp_path / "sound.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(1600))
        assert "has no video stream, only these kinds: audio" in self.refusal(path)

    def test_an_unknown_codec(self, clip: Path, tmp_path: Path) -> None:
        path = tmp_path / "unknown.mp4"
        path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
        assert "codec" in self.refusal(path)

    def test_nothing_that_can_be_decoded(self, damaged: Path) -> None:
        for offset, size, _ in packets(damaged):
            overwrite(damaged, offset, size)
        assert "No frame of" in self.refusal(damaged)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_without_permission(self, damaged: Path) -> None:
        damaged.chmod(0)
        assert "Permission denied" in self.refusal(damaged)

    def test_what_the_system_refuses(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        assert "Permission denied" in self.refusal(clip)

    def test_without_pyav(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(TrtkitError, match="needs av, .* run `pip install av`"):
            VideoFile(clip)


class TestSoundness:
    """Streams that x264 does not write: packets by number, and what the decoder makes of them."""

    class Picture:
        def __init__(self, key: bool = False, corrupt: bool = False) -> None:
            self.key_frame, self.is_corrupt = key, corrupt

    class Packet:
        def __init__(self, discard: bool = False) -> None:
            self.is_discard, self.is_keyframe, self.pts = discard, discard, -2

    def sent(self, count: int) -> soundness.Soundness:
        sound = soundness.Soundness()
        for index in range(count):
            sound.sent(index, self.Packet())
        return sound

    def test_a_frame_waits_for_one_that_it_refers_to(self) -> None:
        sound = self.sent(3)
        assert [d.pts for d in sound.out(0, 0, self.Picture(key=True))] == [0]
        assert list(sound.out(2, 1, self.Picture())) == []
        assert list(sound.out(1, 2, self.Picture(corrupt=True))) == []
        assert list(sound.rest()) == []
        assert sound.broken

    def test_frames_before_a_keyframe_build_on_the_one_before_it(self) -> None:
        sound = self.sent(4)
        assert [d.pts for d in sound.out(0, 0, self.Picture(key=True))] == [0]
        sound.lost(1, 3)
        assert list(sound.out(3, 4, self.Picture())) == []
        released = list(sound.out(2, 5, self.Picture(key=True)))
        assert [(d.pts, d.after_damage) for d in released] == [(5, True)]

    def test_a_keyframe_that_the_container_leaves_out_is_built_on(self) -> None:
        sound = soundness.Soundness()
        sound.sent(0, self.Packet(discard=True))
        sound.sent(1, self.Packet())
        assert [d.pts for d in sound.out(1, 0, self.Picture())] == [0]
