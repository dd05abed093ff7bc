"""Cutting clips out of the footage that a store was made from.

The packets of a video file are copied as they are, from the keyframe before the start on. Everything else
is encoded: folders of frames, files without times, files whose clock goes back, keyframes long before the
start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from trtkit.atomic import scratch_folder, whole_file
from trtkit.errors import TrtkitError, os_reason
from trtkit.extras import require
from trtkit.reporting import message
from trtkit.video.container import open_container, packets
from trtkit.video.footage.writing import SourceRow
from trtkit.video.frames import MICROSECONDS, Footage, Frame
from trtkit.video.original import open_original
from trtkit.video.times import clock, moment
from trtkit.video.videofile import VideoFile

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# What a clip shows before its object appears and after it has gone.
MARGIN_US: Final = MICROSECONDS
# Codecs that players expect in MP4; the others go into Matroska.
_IN_MP4: Final = ("h264", "hevc", "mpeg4", "av1")
# The encoders that are tried, and the ending of their files.
_ENCODERS: Final = (("libx264", ".mp4", "yuv420p"), ("mjpeg", ".mkv", "yuvj420p"))
# How far before the start a keyframe is looked for when there was none, in microseconds.
_BACK_US: Final = tuple(seconds * MICROSECONDS for seconds in (0, 2, 10, 60))
# A keyframe further before the start would hide what the clip is about.
_MOST_LEAD_US: Final = 5 * MICROSECONDS
_LONGEST_NAME: Final = 80
_MILLISECOND: Final = Fraction(1, 1000)


@dataclass(frozen=True)
class ClipRequest:
    """A stretch of a source, in microseconds since its first frame, and the object that it shows."""

    source: SourceRow
    start_us: int
    end_us: int
    object: int

    @property
    def stem(self) -> str:
        """The file's name without its ending: camera, time and object, of safe characters alone."""
        camera = re.sub(r"[^A-Za-z0-9_-]+", "-", self.source.camera).strip("-")[:_LONGEST_NAME]
        begun = moment(self.source.start_us, self.start_us, self.source.zone)
        time = re.sub(r"[+-]\d\d:\d\d$|[-:]", "", begun) if begun else clock(self.start_us)
        return f"{camera or 'camera'}_{time.replace(':', '-')}_{self.object}"


@dataclass(frozen=True)
class ClipReport:
    """`files`: the clip of each request, None where it is missing; `missing`: counts, by the reason."""

    files: tuple[Path | None, ...]
    missing: dict[str, int]

    @property
    def failed(self) -> bool:
        """Whether clips were wanted and none could be cut."""
        return bool(self.files) and not any(self.files)

    def sentences(self) -> Iterator[str]:
        """Which clips are missing, and why."""
        for reason, count in self.missing.items():
            clips = "1 clip is" if count == 1 else f"{count} clips are"
            yield f"{clips} missing: {reason}"


def clip_folder(folder: Path) -> Path:
    """The folder for clips, made if it is missing. Raises TrtkitError unless it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder):
            pass
    except FileExistsError as error:
        raise TrtkitError(f"{folder} is a file; --clip takes a folder.") from error
    except OSError as error:
        raise TrtkitError(
            f"Clips cannot be written to {folder} ({os_reason(error)}); choose another folder for --clip."
        ) from error
    return folder


def cut_clips(
    requests: Sequence[ClipRequest], folder: Path, digest: Callable[[Path], str]
) -> ClipReport:
    """A clip of each request in `folder`, from a second before its start to a second after its end.

    `digest`: gives the digest of a file's content. A file of a clip's name is replaced, no other one is
    touched. Raises TrtkitError when there is no such folder and none can be made.
    """
    require("video", "Cutting clips", "av")
    clip_folder(folder)
    files: dict[int, Path] = {}
    missing: Counter[str] = Counter()
    by_source: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        by_source.setdefault(request.source.id, []).append(place)
    for places in by_source.values():
        try:
            footage = open_original(requests[places[0]].source, digest)
        except TrtkitError as error:
            missing[str(error)] += len(places)
            continue
        with closing(footage):
            for place in places:
                try:
                    files[place] = _cut(footage, requests[place], folder)
                except TrtkitError as error:
                    missing[str(error)] += 1
    return ClipReport(tuple(map(files.get, range(len(requests)))), dict(missing))


def _cut(footage: Footage, request: ClipRequest, folder: Path) -> Path:
    import av

    start_us, end_us = max(0, request.start_us - MARGIN_US), request.end_us + MARGIN_US
    path = folder / request.stem
    if isinstance(footage, VideoFile):
        bounds = footage.pts_of(start_us), footage.pts_of(end_us)
        if bounds[0] is not None and bounds[1] is not None:
            try:
                return _copy(footage, bounds[0], bounds[1], path)
            except (av.FFmpegError, ValueError) as error:
                message(f"{path.name} is encoded, not copied: {error}.")
    try:
        return _encode(footage, start_us, end_us, path)
    except (av.FFmpegError, ValueError) as error:
        raise TrtkitError(
            f"a clip of {footage.location} cannot be written to {folder} ({error})."
        ) from error


def _copy(footage: VideoFile, start: int, end: int, path: Path) -> Path:
    """The packets between two times of the container, from the keyframe before the first of them."""
    import av

    container, stream = open_container(Path(footage.location))
    with container:
        ending, form = (
            (".mp4", "mp4") if stream.codec_context.name in _IN_MP4 else (".mkv", "matroska")
        )
        target = path.with_name(path.name + ending)
        with whole_file(target) as part, av.open(str(part), "w", format=form) as output:
            copied = output.add_stream_from_template(stream)
            first: int | None = None
            for packet, pts, dts in _stretch(container, stream, start, end, footage.ticks):
                first = pts if first is None else first
                # Frames before the keyframe in display order refer to frames before it.
                if pts >= first:
                    packet.pts, packet.dts = pts - first, dts - first
                    packet.stream = copied
                    output.mux(packet)
            if first is None:
                raise ValueError("no packet was read")
    return target


def _stretch(
    container: InputContainer,
    stream: VideoStream,
    start: int,
    end: int,
    ticks: Callable[[int], int],
) -> Iterator[tuple[Packet[VideoStream], int, int]]:
    """Sound packets with their times of display and decoding, from the keyframe before `start` to `end`.

    Later frames come along if earlier ones refer to them, with all frames between.
    """
    for back_us in _BACK_US:
        container.seek(start - ticks(back_us), backward=True, stream=stream)
        sound = (packet for packet in packets(container, stream) if packet is not None)
        key = next((packet for packet in sound if packet.is_keyframe), None)
        if key is not None and key.pts is not None and key.pts <= start:
            if key.pts < start - ticks(_MOST_LEAD_US):
                raise ValueError("the footage has no keyframe near its start")
            last = key.pts
            for packet in chain([key], sound):
                pts, dts = packet.pts, packet.dts
                if pts is None or dts is None:
                    raise ValueError("a packet has no times")
                if dts > max(end, last):
                    return
                if dts <= end or pts < last:
                    last = max(last, pts)
                    yield packet, pts, dts
            return


def _encode(footage: Footage, start_us: int, end_us: int, path: Path) -> Path:
    """The frames between two times of the footage, encoded."""
    import av

    encoder = next((entry for entry in _ENCODERS if entry[0] in av.codecs_available), None)
    if encoder is None:
        raise TrtkitError(
            f"{footage.location} has to be encoded, and the FFmpeg of PyAV {av.__version__} has no "
            "encoder for H.264 or MJPEG; install PyAV from its wheel."
        )
    name, ending, form = encoder
    target = path.with_name(path.name + ending)
    items = footage.read(start_us)
    try:
        frames = (item for item in items if isinstance(item, Frame))
        first = next(frames, None)
        if first is None or first.time_us > end_us:
            raise TrtkitError(f"no frame of {footage.location} can be read there.")
        # H.264 halves the size for colours.
        width, height = (
            max(2, side // 2 * 2) for side in (first.picture.width, first.picture.height)
        )
        with whole_file(target) as part, av.open(str(part), "w") as output:
            options = {"preset": "veryfast", "bf": "0"} if name == "libx264" else {}
            stream = cast("VideoStream", output.add_stream(name, rate=25, options=options))
            stream.width, stream.height, stream.pix_fmt = width, height, form
            stream.time_base = stream.codec_context.time_base = _MILLISECOND
            frame: Frame | None = first
            while frame is not None and frame.time_us <= end_us:
                image = av.VideoFrame.from_ndarray(frame.picture.rgb(), "rgb24")
                image = image.reformat(width, height, form)
                image.pts = (frame.time_us - first.time_us) // 1000
                image.time_base = _MILLISECOND
                output.mux(stream.encode(image))
                frame = next(frames, None)
            output.mux(stream.encode(None))
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    return target
