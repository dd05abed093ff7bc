"""Which decoded frames are sound: nothing between the keyframe that they build on and them was damaged.

Judged in the order of decoding. The decoder hides damage otherwise: it paints over what is missing, and
the frames that refer to it carry the paint on until the next keyframe.
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
    """A packet's number, which its frame is to carry.

    PyAV finds what a frame carries by its `id`, and forgets it with the first of several that are the
    same object: small integers are.
    """

    def __init__(self, value: int) -> None:
        self.value = value


@dataclass
class Decoded:
    """A sound frame; `after_damage`: something between it and the one before was lost."""

    pts: int
    frame: VideoFrame
    after_damage: bool


@dataclass
class Soundness:
    """Lets pass the frames that are sound. Packets are numbered in the order of decoding."""

    # The packets that were lost or came out corrupt.
    _damaged: list[int] = field(default_factory=list)
    # All that is not shown and that no gap tells of yet, with the times at which it would be shown.
    _untold: dict[int, int | None] = field(default_factory=dict)
    _keys: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_MOST_REORDERED))
    _pending: set[int] = field(default_factory=set)
    _waiting: deque[tuple[int, int, VideoFrame]] = field(default_factory=deque)

    @property
    def broken(self) -> bool:
        """Whether anything is missing after the last sound frame."""
        return bool(self._untold)

    def sent(self, number: int, packet: Packet[VideoStream]) -> None:
        if not packet.is_discard:
            self._pending.add(number)
        elif packet.is_keyframe and packet.pts is not None:
            # The container has its frame left out, and those that follow build on it.
            self._keys.append((number, packet.pts))

    def lost(self, number: int, pts: int | None) -> None:
        self._pending.discard(number)
        self._damaged.append(number)
        self._untold[number] = pts

    def out(self, number: int, pts: int, frame: VideoFrame) -> Iterator[Decoded]:
        """Take a frame from the decoder, in the order of display; the frames that now are certain."""
        self._pending.discard(number)
        if frame.is_corrupt:
            self._damaged.append(number)
        elif frame.key_frame:
            self._keys.append((number, pts))
            # What was decoded earlier and is not out is not shown at all.
            self._pending = {other for other in self._pending if other > number}
        self._waiting.append((number, pts, frame))
        return self._released(_MOST_REORDERED)

    def rest(self) -> Iterator[Decoded]:
        """The frames that waited, at the end of the file."""
        return self._released(0)

    def _released(self, may_wait: int) -> Iterator[Decoded]:
        # A frame shown before one that it refers to waits until that one turns out to be sound.
        while self._waiting:
            number, pts, frame = self._waiting[0]
            if len(self._waiting) <= may_wait and any(n < number for n in self._pending):
                return
            self._waiting.popleft()
            start = self._start(number, pts)
            if start is None or any(start <= n <= number for n in self._damaged):
                # After damage the decoder may give such a frame too early, before others that are sound.
                self._untold[number] = pts
                continue
            told = [
                n
                for n, shown in self._untold.items()
                if n < start or (shown is not None and shown < pts)
            ]
            decoded = Decoded(pts, frame, bool(told))
            for n in told:
                del self._untold[n]
            self._damaged = [n for n in self._damaged if n >= start]
            yield decoded

    def _start(self, number: int, pts: int) -> int | None:
        """The keyframe that a frame builds on: decoded and shown no later than it."""
        return max((n for n, shown in self._keys if n <= number and shown <= pts), default=None)
