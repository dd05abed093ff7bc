"""Opening video files with FFmpeg, and reading what their containers state."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from trtkit.errors import TrtkitError, listed, nearest, os_reason
from trtkit.video.frames import MICROSECONDS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Frames a second where nothing is known; FFmpeg's own default.
USUAL_RATE: Final = Fraction(25)

_MEBIBYTE: Final = 1 << 20
# After so many failures in a row, as at the end of a file that is cut short, a demuxer finds no more.
_FAILURES: Final = 16
# No video file is older; cameras whose clock was never set write 1904, 1970 or 1980.
_OLDEST: Final = datetime(1990, 1, 1, tzinfo=timezone.utc)
# Phones state the local time there, "2026-03-01T08:30:00+0100".
_LOCAL_TIME: Final = "com.apple.quicktime.creationdate"
_OFFSET: Final = re.compile(r".*T.*([+-]\d{2}):?(\d{2})")
# A misspelt name is compared with this many names of its folder, which may hold millions.
_COMPARED: Final = 10_000


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream] | None]:
    """The packets of the stream in their order; None where the demuxer found damage."""
    import av

    failures = 0
    while failures < _FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                # The last one is empty: it stands for the end.
                if packet.size:
                    yield packet
            return
        except IndexError:
            # PyAV does not know the stream of this packet, which began inside the file.
            continue
        except av.FFmpegError:
            failures += 1
            yield None


def open_container(path: Path) -> tuple[InputContainer, VideoStream]:
    import av

    # A comment that is not UTF-8 must not keep a video from being read. PyAV 19 never refuses it.
    older = int(av.__version__.split(".")[0]) < 19
    lenient: dict[str, Any] = {"metadata_errors": "replace"} if older else {}
    try:
        container = av.open(str(path), **lenient)
    except av.error.InvalidDataError as error:
        raise TrtkitError(
            f"{path} is not a video in a readable format, or its recording was cut short; play it with "
            "ffplay to see which, and convert it to MP4 or copy it again."
        ) from error
    except av.FFmpegError as error:
        raise TrtkitError(
            f"{path} cannot be read ({error.strerror}); fix its permissions or copy it again."
        ) from error
    # To FFmpeg a cover picture is a video stream.
    cover = av.stream.Disposition.attached_pic
    videos = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not videos:
        kinds = listed(sorted({stream.type for stream in container.streams}))
        container.close()
        raise TrtkitError(
            f"{path} has no video stream, only these kinds: {kinds}; name a file with video."
        )
    # A stream whose codec has no decoder has no context, contrary to its type.
    context: object = videos[0].codec_context
    if context is None:
        container.close()
        raise TrtkitError(
            f"The FFmpeg of PyAV {av.__version__} cannot decode the codec of the video in {path}; convert "
            "it to H.264."
        )
    return container, videos[0]


def unit(stream: VideoStream) -> Fraction:
    base = stream.time_base
    # PyAV 19 has its own class of fractions.
    return Fraction(base.numerator, base.denominator) if base else Fraction(1, MICROSECONDS)


def rate_of(stream: VideoStream, first: Packet[VideoStream] | None) -> Fraction | None:
    """Frames a second that the container states, or without times (`timeless`) the stream; None if neither.

    `first`: the first packet.
    """
    if not timeless(first):
        rate = stream.average_rate or stream.guessed_rate
        return Fraction(rate.numerator, rate.denominator) if rate else None
    return 1 / (first.duration * unit(stream)) if first is not None and first.duration else None


def timeless(first: Packet[VideoStream] | None) -> bool:
    """Whether packets have no times, as in the raw H.264 that small cameras record."""
    return first is not None and first.pts is None


def duration_us(container: InputContainer, stream: VideoStream) -> int | None:
    if stream.duration is not None:
        duration = round(stream.duration * unit(stream) * MICROSECONDS)
    else:
        duration = container.duration or 0
    return duration if duration > 0 else None


def fingerprints(path: Path, digest: Callable[[Path], str]) -> tuple[str, str]:
    """The digest of the file's content, and what earlier versions took for it.

    That is BLAKE3, in hex, of the size and of the first and the last MiB. Raises TrtkitError for what is no
    regular file with content.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise TrtkitError(
                f"{path} is a folder, not a video file; name a file in it, or a folder of images."
            )
        if not stat.S_ISREG(status.st_mode):
            raise TrtkitError(f"{path} is a pipe, a socket or a device; name a regular file.")
        if not status.st_size:
            raise TrtkitError(f"{path} is an empty file; copy the video there again.")
        content = blake3(status.st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            content.update(file.read(_MEBIBYTE))
            file.seek(max(0, status.st_size - _MEBIBYTE))
            content.update(file.read(_MEBIBYTE))
        return digest(path), content.hexdigest()
    except FileNotFoundError as error:
        raise TrtkitError(f"File {path} not found; {correction(path)}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise TrtkitError(
            f"{path} cannot be read ({os_reason(error)}); fix its permissions or name another file."
        ) from error


def correction(path: Path) -> str:
    """What to do about a path at which there is nothing, for messages: the nearest names."""
    try:
        names = [other.name for other in islice(path.parent.iterdir(), _COMPARED)]
    except FileNotFoundError:
        return f"its folder {path.parent} does not exist either, so correct the path"
    except (OSError, ValueError) as error:
        return f"its folder cannot be read ({os_reason(error)}), so correct the path"
    alike = nearest(path.name, names)
    return (
        f"its folder has {listed(alike)}, so correct the name"
        if alike
        else f"its folder has {listed(sorted(names))}, so correct the path"
    )


def recording_time(container: InputContainer, stream: VideoStream) -> tuple[int | None, str]:
    """When the recording began, in microseconds since 1970 in UTC, and the camera's offset from UTC.

    The time is None if it is missing or implausible. The offset, such as `+01:00`, is empty if it is not
    stated: `creation_time` is in UTC wherever the camera is.
    """
    offset = _OFFSET.fullmatch(container.metadata.get(_LOCAL_TIME, ""))
    zone = f"{offset[1]}:{offset[2]}" if offset else ""
    text = container.metadata.get("creation_time") or stream.metadata.get("creation_time")
    try:
        # Python 3.10 knows no Z.
        time = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None, zone
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    if not _OLDEST <= time <= datetime.now(timezone.utc) + timedelta(days=1):
        return None, zone
    epoch = datetime.fromtimestamp(0, timezone.utc)
    return (time - epoch) // timedelta(microseconds=1), zone
