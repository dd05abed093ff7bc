"""Video files as footage: exact times, reading from any time, and gaps in place of damage."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from blake3 import blake3

from trtkit.errors import TrtkitError
from trtkit.extras import require
from trtkit.identity import file_digest
from trtkit.reporting import message
from trtkit.tensors import Array
from trtkit.video.container import (
    USUAL_RATE,
    duration_us,
    fingerprints,
    open_container,
    packets,
    rate_of,
    recording_time,
    timeless,
    unit,
)
from trtkit.video.frames import DAMAGED, MICROSECONDS, Clock, Frame, Gap, went_back
from trtkit.video.lengths import is_cut_short
from trtkit.video.order import DisplayOrder, times_of_decoding
from trtkit.video.soundness import DecodedFrame, Number, Soundness

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CUT_SHORT: Final = "the file is cut short"

# H.264 and HEVC let no frame be shown more than 16 frames after it was decoded.
_MOST_REORDERED: Final = 16
# How far before the wanted time the next keyframe is looked for when there was none, in microseconds.
_BACK: Final = tuple(seconds * MICROSECONDS for seconds in (0, 2, 10, 60))


class _ReadAgain(Exception):
    """The file has to be read in another way, from the last frame on."""


class VideoPicture:
    """A frame in the decoder's form, mostly YUV; converting turns it upright."""

    def __init__(self, frame: VideoFrame) -> None:
        self._frame = frame
        self._quarter_turns = round(frame.rotation / 90) % 4

    @property
    def width(self) -> int:
        return self._frame.height if self._quarter_turns % 2 else self._frame.width

    @property
    def height(self) -> int:
        return self._frame.width if self._quarter_turns % 2 else self._frame.height

    def rgb(self) -> Array:
        """The frame as uint8 height x width x 3, RGB, contiguous."""
        return self._turned(self._frame.to_ndarray(format="rgb24"))

    def shrunk(self, width: int, height: int) -> Array:
        """The frame in that size in pixels, averaged over areas; uint8 height x width x 3, RGB."""
        if self._quarter_turns % 2:
            width, height = height, width
        return self._turned(
            self._frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        )

    def _turned(self, pixels: Array) -> Array:
        return np.ascontiguousarray(np.rot90(pixels, self._quarter_turns))


class VideoFile:
    """A video file as footage, decoded by FFmpeg on all cores.

    `location`: the path as given. `start_us`: the creation time in the container, None if it is missing,
    before 1990 or in the future. `duration_us`: the container's, None if it is missing. `fingerprint`: the
    content's digest, which `digest` gives, in hex. No file stays open between two readings; several may run
    at once. `zone`: the offset that phones state. `frame_rate`: frames a second, above 0, of a stream
    without times (raw H.264, HEVC, MJPEG), by default what the stream states, else 25, which is reported.

    Raises TrtkitError when PyAV is missing or the file is no video that can be decoded.
    """

    seekable = True

    def __init__(
        self,
        path: str | Path,
        frame_rate: float | None = None,
        digest: Callable[[Path], str] = file_digest,
    ) -> None:
        require("video", "Reading video files", "av")
        self.location = str(path)
        self._path = Path(path)
        self.fingerprint, self.former_fingerprint = fingerprints(self._path, digest)
        self._threaded = True
        # Whether times always grow; None until it matters.
        self._steady: bool | None = None
        with self._open() as (container, stream):
            self._unit = unit(stream)
            self.start_us, self.zone = recording_time(container, stream)
            self.duration_us = duration_us(container, stream)
            # Only MP4 states its length and the times of all frames apart from the frames themselves.
            mp4 = "mp4" in container.format.name.split(",")
            complete = mp4 and 0 < stream.frames <= len(stream.index_entries)
            if complete:
                self._steady = True
            first = next(filter(None, packets(container, stream)), None)
            self.timeless = timeless(first)
            rate = self._rate(rate_of(stream, first), frame_rate)
            self.step = max(1, round(1 / (rate * self._unit)))
            cut_short = is_cut_short(self._path)
            if cut_short and stream.frames and self.duration_us is not None:
                # FFmpeg states what is left of an AVI, whose header counts all frames.
                whole = round(stream.frames / rate * MICROSECONDS)
                self.duration_us = max(self.duration_us, whole)
            self.stated_end_us = self.duration_us if complete or cut_short else None
        with self._open() as (container, stream):
            self.decode_times = times_of_decoding(container, stream)
        self._zero = 0
        self._zero = self._first_pts()

    def read(self, since_us: int = 0) -> Iterator[Frame | Gap]:
        """The frames with times from `since_us` on, and the gaps that end after it.

        A stretch that cannot be decoded is a Gap "damaged" up to the next sound keyframe. Where the
        file's clock goes back or stands still, the times continue one frame after the last one, with
        an empty Gap there; such files are always read from their start. A file that is shorter than its
        container states ends with a Gap.

        Raises TrtkitError when the file can no longer be opened.
        """
        at = since_us
        while True:
            try:
                for item in self._items(at):
                    if isinstance(item, Frame):
                        at = item.time_us + 1
                    yield item
            except _ReadAgain:
                continue
            return

    def _rate(self, stated: Fraction | None, frame_rate: float | None) -> Fraction:
        rate = stated or (USUAL_RATE if self.timeless else None)
        self.frame_rate = None if rate is None else float(rate)
        if self.timeless and frame_rate is not None:
            self.frame_rate = frame_rate
            # Other times are other footage.
            self.fingerprint, self.former_fingerprint = (
                blake3(f"{content} {frame_rate}".encode()).hexdigest()
                for content in (self.fingerprint, self.former_fingerprint)
            )
            return Fraction(frame_rate).limit_denominator(MICROSECONDS)
        if frame_rate is not None:
            message(f"--frame-rate has no effect on {self.location}, which has times of its own.")
        elif self.timeless and stated is None:
            message(
                f"{self.location} has no times; {USUAL_RATE} frames a second are assumed, --frame-rate "
                "sets their number."
            )
        return stated or USUAL_RATE

    def clock(self) -> Clock:
        return Clock(self._zero, self._unit, max(1, round(self.step * self._unit * MICROSECONDS)))

    def pts_of(self, time_us: int) -> int | None:
        """The container's time of a time of the footage, in its units.

        None where packets have other times than frames: no times, those of decoding, a clock that goes
        back.
        """
        if self._steady is None:
            self._steady = self._is_steady()
        if self.timeless or self.decode_times or not self._steady:
            return None
        return self._zero + self.ticks(time_us)

    def ticks(self, length_us: int) -> int:
        """A length of time in the container's units."""
        return round(length_us / (MICROSECONDS * self._unit))

    def found_unsteady(self) -> bool:
        """Note that times do not always grow; True."""
        self._steady = False
        return True

    def found_fragile(self) -> bool:
        """Record damage. True if the file must be read again without threads."""
        was_threaded, self._threaded = self._threaded, False
        return was_threaded

    def close(self) -> None:
        """Nothing is held between readings; a reading ends when its iterator is closed."""

    def _items(self, since_us: int) -> Iterator[Frame | Gap]:
        if since_us > 0 and self._steady is None:
            self._steady = self._is_steady()
        starts = [since_us - back for back in _BACK] if self._steady else []
        for start_us in [start for start in starts if start > 0]:
            with self._open() as (container, stream):
                if not self._seek(container, stream, start_us):
                    continue
                reading = _FilePass(self, container, stream, sought=True)
                first = next(reading.frames, None)
                if first is None or self.clock().us(first.pts) > since_us:
                    continue
                yield from reading.items(since_us, first)
                return
        with self._open() as (container, stream):
            yield from _FilePass(self, container, stream).items(since_us)

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        container, stream = open_container(self._path)
        with container:
            context = stream.codec_context
            context.thread_type = "AUTO" if self._threaded else "NONE"
            context.thread_count = 0 if self._threaded else 1
            context.copy_opaque = True
            try:
                yield container, stream
            finally:
                # Freeing a decoder holds Python's lock and waits for the decoder's threads, which need the
                # lock for the packets' numbers. This waits for them without it.
                context.flush_buffers()

    def _seek(self, container: InputContainer, stream: VideoStream, time_us: int) -> bool:
        import av

        pts = self._zero + int(time_us / (MICROSECONDS * self._unit))
        try:
            container.seek(pts, backward=True, stream=stream)
        except av.FFmpegError:
            return False
        return True

    def _is_steady(self) -> bool:
        """Whether the times of the packets, in the order of display, always grow."""
        with self._open() as (container, stream):
            depth = stream.codec_context.reorder_depth
            ahead: list[int] = []
            last: int | None = None
            for packet in packets(container, stream):
                if packet is None:
                    continue
                if packet.pts is None:
                    return False
                heapq.heappush(ahead, packet.pts)
                if len(ahead) > depth:
                    pts = heapq.heappop(ahead)
                    if last is not None and pts <= last:
                        return False
                    last = pts
            in_order = ([] if last is None else [last]) + sorted(ahead)
            return len(set(in_order)) == len(in_order) and in_order == sorted(in_order)

    def _first_pts(self) -> int:
        """The time of the first frame; of the first packet if damage follows it."""
        for _ in range(2):
            with self._open() as (container, stream):
                reading = _FilePass(self, container, stream)
                try:
                    first = next(reading.frames, None)
                except _ReadAgain:
                    continue
            if first is None:
                break
            packet_pts = reading.first_packet_pts
            if packet_pts is None or not first.after_damage:
                return first.pts
            return min(first.pts, packet_pts)
        raise TrtkitError(
            f"No frame of {self.location} can be decoded; it is damaged from its start, or cut short, "
            "so copy it again from where it was recorded."
        )


class _FilePass:
    """One pass through an opened file, from its start or from a sought keyframe."""

    def __init__(
        self,
        video: VideoFile,
        container: InputContainer,
        stream: VideoStream,
        *,
        sought: bool = False,
    ) -> None:
        self._video = video
        self._container = container
        self._stream = stream
        self._sought = sought
        self._sound = Soundness()
        self._shown_pts: int | None = None
        self._packet_ends: deque[int] = deque(maxlen=_MOST_REORDERED)
        self._order = DisplayOrder() if video.decode_times else None
        self.first_packet_pts: int | None = None
        self.frames = self._frames()

    def items(self, since_us: int, first: DecodedFrame | None = None) -> Iterator[Frame | Gap]:
        """The items of `VideoFile.read`; `first`: the frame that was already taken from `frames`."""
        clock = self._video.clock()
        end_us = 0
        for decoded in chain([] if first is None else [first], self.frames):
            time_us, back_us = clock.time_us(decoded.pts)
            if back_us is not None and self._video.found_unsteady() and self._sought:
                raise _ReadAgain
            # Damage before the sought keyframe is out of range.
            if decoded.after_damage and decoded is not first and time_us > since_us:
                yield Gap(min(end_us, time_us), time_us, DAMAGED)
            if back_us is not None and time_us > since_us:
                yield Gap(time_us, time_us, went_back(back_us))
            if time_us >= since_us:
                yield Frame(time_us, VideoPicture(decoded.frame))
            end_us = time_us + clock.length_us(decoded.frame.duration)
        last = self._last_gap(end_us, clock)
        if last is not None and last.end_us > since_us:
            yield last

    def _last_gap(self, end_us: int, clock: Clock) -> Gap | None:
        """The gap at the end of the file, whose last sound frame ends at `end_us`, if there is one."""
        seen_us = max((clock.us(end) for end in self._packet_ends), default=0)
        stated_us = self._video.stated_end_us
        if stated_us is not None and max(seen_us, end_us) + 2 * clock.step_us < stated_us:
            return Gap(end_us, stated_us, CUT_SHORT)
        if self._sound.broken:
            return Gap(end_us, max(seen_us, stated_us or 0, end_us + clock.step_us), DAMAGED)
        return None

    def _frames(self) -> Iterator[DecodedFrame]:
        import av

        context = self._stream.codec_context
        begun = False
        for number, packet in enumerate(packets(self._container, self._stream)):
            # Before the first keyframe there is nothing to build on.
            begun = begun or (packet is not None and packet.is_keyframe)
            if packet is None or packet.is_corrupt or not begun:
                self._note(packet)
                self._sound.lost(number, None if packet is None else packet.pts)
                continue
            self._note(packet)
            self._sound.sent(number, packet)
            if self._order is not None:
                self._order.sent(number, packet.pts)
            packet.opaque = Number(number)
            try:
                decoded = context.decode(packet)
            except av.FFmpegError:
                # With threads a failure surfaces too late to know its packet.
                if self._video.found_fragile():
                    raise _ReadAgain from None
                self._sound.lost(number, packet.pts)
                continue
            for frame in decoded:
                yield from self._out(frame, number)
        try:
            decoded = context.decode(None)
        except av.FFmpegError:
            if self._video.found_fragile():
                raise _ReadAgain from None
            decoded = []
        for frame in decoded:
            yield from self._out(frame, number)
        yield from self._sound.rest()

    def _note(self, packet: Packet[VideoStream] | None) -> None:
        if packet is None or packet.pts is None:
            return
        if self.first_packet_pts is None:
            self.first_packet_pts = packet.pts
        self._packet_ends.append(packet.pts + (packet.duration or 0))

    def _out(self, frame: VideoFrame, newest: int) -> Iterator[DecodedFrame]:
        label = frame.opaque
        number = label.value if isinstance(label, Number) else newest
        pts = frame.pts
        if self._order is not None:
            pts = self._order.time_of(number, key=frame.key_frame)
        # Without times, all frames last equally long.
        if pts is None:
            pts = 0 if self._shown_pts is None else self._shown_pts + self._video.step
        self._shown_pts = pts
        return self._sound.out(number, pts, frame)
