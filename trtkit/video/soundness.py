"""Which decoded frames are sound: nothing was damaged between them and the keyframe they depend on.

This is decided in the order of decoding, because decoders hide damage: they paint over what is missing,
and later frames copy the paint until the next keyframe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# H.264 and HEVC let no frame be shown more than 16 frames after it was decoded.
_MOST_REORDERED: Final = 16


class Number:
    """A packet's number, attached to its frame.

    PyAV identifies the attached object by its `id` and releases it with the first frame that has it, so
    equal small integers, which are one object, would be lost.
    """

    def __init__(self, value: int) -> None:
        self.value = value


@dataclass
class DecodedFrame:
    """A sound frame; `after_damage`: frames between it and the sound one before it were lost."""

    pts: int
    frame: VideoFrame
    after_damage: bool


@dataclass
class Soundness:
    """A filter that passes sound frames. Packets are numbered in the order of decoding."""

    # Packets that were lost or decoded to corrupt frames.
    _damaged: list[int] = field(default_factory=list)
    # Frames that are not passed and that no gap covers yet, with their times.
    _unreported: dict[int, int | None] = field(default_factory=dict)
    _keys: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_MOST_REORDERED))
    _pending: set[int] = field(default_factory=set)
    _waiting: deque[tuple[int, int, VideoFrame]] = field(default_factory=deque)

    @property
    def broken(self) -> bool:
        """Whether anything is missing after the last sound frame."""
        return bool(self._unreported)

    def sent(self, number: int, packet: Packet[VideoStream]) -> None:
        if not packet.is_discard:
            self._pending.add(number)
        elif packet.is_keyframe and packet.pts is not None:
            # The container discards its frame, on which the following ones depend.
            self._keys.append((number, packet.pts))

    def lost(self, number: int, pts: int | None) -> None:
        self._pending.discard(number)
        self._damaged.append(number)
        self._unreported[number] = pts

    def out(self, number: int, pts: int, frame: VideoFrame) -> Iterator[DecodedFrame]:
        """Take a frame from the decoder, in the order of display; the frames that are now certain."""
        self._pending.discard(number)
        if frame.is_corrupt:
            self._damaged.append(number)
        elif frame.key_frame:
            self._keys.append((number, pts))
            # Frames that were decoded earlier and are not out yet are never shown.
            self._pending = {other for other in self._pending if other > number}
        self._waiting.append((number, pts, frame))
        return self._released(_MOST_REORDERED)

    def rest(self) -> Iterator[DecodedFrame]:
        """The frames that still wait, at the end of the file."""
        return self._released(0)

    def _released(self, may_wait: int) -> Iterator[DecodedFrame]:
        # A frame that refers to a later one waits until that one is known to be sound.
        while self._waiting:
            number, pts, frame = self._waiting[0]
            if len(self._waiting) <= may_wait and any(n < number for n in self._pending):
                return
            self._waiting.popleft()
            start = self._start(number, pts)
            if start is None or any(start <= n <= number for n in self._damaged):
                # After damage the decoder may return such a frame early, before sound ones.
                self._unreported[number] = pts
                continue
            reported = [
                n
                for n, due in self._unreported.items()
                if n < start or (due is not None and due < pts)
            ]
            decoded = DecodedFrame(pts, frame, bool(reported))
            for n in reported:
                del self._unreported[n]
            self._damaged = [n for n in self._damaged if n >= start]
            yield decoded

    def _start(self, number: int, pts: int) -> int | None:
        """The keyframe that a frame depends on: decoded and displayed no later than it."""
        return max((n for n, time in self._keys if n <= number and time <= pts), default=None)
