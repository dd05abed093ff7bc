"""Times of frames whose container gives only those of their decoding."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from trtkit.video.container import packets

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Packets at the start of a file that show in which order its times are: two seconds of most footage.
_PROBED: Final = 64


@dataclass
class DisplayOrder:
    """Gives the times of packets, which are those of decoding, to frames in the order of display.

    The k-th frame that is shown has the k-th smallest time.
    """

    _times: list[tuple[int, int]] = field(default_factory=list)

    def sent(self, number: int, pts: int | None) -> None:
        """Packet `number`, counted in the order of decoding, goes to the decoder."""
        if pts is not None:
            heapq.heappush(self._times, (pts, number))

    def time_of(self, number: int, *, key: bool) -> int | None:
        """The time of the next frame that is shown, which came from packet `number`."""
        # Nothing before a keyframe is shown after it: those frames were lost.
        while key and self._times and self._times[0][1] < number:
            heapq.heappop(self._times)
        return heapq.heappop(self._times)[0] if self._times else None


def times_of_decoding(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the packets' times grow although frames are shown in another order, as in AVI.

    Decodes the first frames of a newly opened file.
    """
    import av

    context = stream.codec_context
    if not context.reorder_depth:
        return False
    last: int | None = None
    displayed: list[int] = []
    for packet in islice(packets(container, stream), _PROBED):
        if packet is None or packet.pts is None:
            continue
        if last is not None and packet.pts < last:
            return False
        last = packet.pts
        try:
            displayed += [frame.pts for frame in context.decode(packet) if frame.pts is not None]
        except av.FFmpegError:
            # Damage, which the reading reports.
            continue
    return displayed != sorted(displayed)
