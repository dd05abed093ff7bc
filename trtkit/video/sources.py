"""Sources of footage on a command line: files, folders of frames, URLs and cameras."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from trtkit.errors import TrtkitError
from trtkit.identity import file_digest
from trtkit.names import names_of
from trtkit.reporting import message
from trtkit.video.container import USUAL_RATE, correction
from trtkit.video.frames import Footage
from trtkit.video.stream import LiveStream, without_password

Kind = Literal["video", "frames", "stream"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_EXAMPLES: Final = (
    "a video file, a folder of frames, a URL or a camera number, as it is or as CAMERA=SOURCE"
)


@dataclass(frozen=True)
class Source:
    """Named footage of a camera. `location`: a path, a URL or a camera's number."""

    camera: str
    location: str
    kind: Kind


def parse_source(text: str) -> Source:
    """The source that `text` names: PATH, URL or a camera's number, or CAMERA= before one of them.

    By default the camera is the file's stem, the folder's name, camera-0 for number 0, or the host of
    the URL. A text that exists as a path is a path, and an `=` in a URL belongs to the URL.

    Raises TrtkitError for a path that does not exist, with the nearest names of its folder, and for an
    empty part.
    """
    if not text.strip():
        raise TrtkitError(f"A source is empty; name {_EXAMPLES}.")
    camera, location = _named(text)
    if camera is not None and not camera.strip():
        raise TrtkitError(f"The source {text!r} has no camera before its `=`; name {_EXAMPLES}.")
    if not location:
        raise TrtkitError(f"The source {text!r} has nothing after its `=`; name {_EXAMPLES}.")
    kind = _kind(location)
    return Source(camera or _default_camera(location, kind), location, kind)


def find_sources(texts: Iterable[str], failed: dict[str, str] | None = None) -> tuple[Source, ...]:
    """The sources that `texts` name, in their order; several may be of one camera, which is reported.

    `failed` takes the reason for each text that cannot be parsed, unless none can. Raises TrtkitError
    without any source, for one that is named twice in any way, and without `failed` for such a text.
    """
    by_place: dict[str, Source] = {}
    names = list(names_of(texts))
    for text in names:
        try:
            source = parse_source(text)
        except TrtkitError as error:
            if failed is None or len(failed) + 1 == len(names):
                raise
            failed[text] = str(error)
            continue
        place = source.location
        if source.kind != "stream":
            place = str(Path(place).resolve())
        elif place.isdecimal():
            place = str(int(place))
        if place in by_place:
            raise TrtkitError(
                f"{without_password(source.location)} is named twice, as footage of "
                f"{by_place[place].camera} and of {source.camera}; leave one out."
            )
        by_place[place] = source
    if not by_place:
        raise TrtkitError(f"No source; name {_EXAMPLES}.")
    sources = tuple(by_place.values())
    for camera, count in Counter(source.camera for source in sources).items():
        if count > 1:
            message(
                f"{count} sources are footage of one camera, {camera}; if they are not, name them, as in "
                "NAME=SOURCE."
            )
    return sources


def open_source(
    source: Source,
    frame_rate: float | None = None,
    digest: Callable[[Path], str] = file_digest,
) -> Footage:
    """The footage of a source.

    `frame_rate`: frames a second of a folder of frames, 25 by default, or of a file without times, by
    default the rate that it states; `digest`: gives the digest of a file's content. Raises TrtkitError
    for a file or folder that cannot be read, and for a rate that is not above 0. A stream is opened when
    it is read.
    """
    if frame_rate is not None and not (math.isfinite(frame_rate) and frame_rate > 0):
        raise TrtkitError(
            f"The frame rate {frame_rate:g} of {source.location} is not above 0; choose a number such as "
            "25."
        )
    if source.kind == "stream":
        if frame_rate is not None:
            message(f"--frame-rate has no effect on the camera {source.camera}, which sends times.")
        return LiveStream(source.location)
    if source.kind == "frames":
        from trtkit.video.framefolder import FrameFolder

        rate = frame_rate or float(USUAL_RATE)
        return FrameFolder(Path(source.location).absolute(), rate, digest)
    from trtkit.video.videofile import VideoFile

    # One source, however its path is written.
    return VideoFile(Path(source.location).absolute(), frame_rate, digest)


def _named(text: str) -> tuple[str | None, str]:
    """The camera's name, where one is given, and the location."""
    name, equals, location = text.partition("=")
    if not equals or _URL.match(text) or _exists(text):
        return None, text
    return name, location


def _kind(location: str) -> Kind:
    if _URL.match(location):
        if not urlsplit(location).netloc:
            raise TrtkitError(f"The URL {location} names no host; write it as rtsp://HOST/PATH.")
        return "stream"
    if _exists(location):
        return "frames" if Path(location).is_dir() else "video"
    # ASCII only: other digits of Python's are none to a camera's driver.
    if location.isascii() and location.isdecimal():
        return "stream"
    raise TrtkitError(f"File or folder {location} not found; {correction(Path(location))}.")


def _exists(location: str) -> bool:
    try:
        return Path(location).exists()
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return False


def _default_camera(location: str, kind: Kind) -> str:
    if kind == "stream":
        return f"camera-{int(location)}" if location.isdecimal() else _host(location)
    # Resolved, because "." and ".." are no names.
    path = Path(location).resolve() if kind == "frames" else Path(location)
    return (path.name if kind == "frames" else path.stem) or location


def _host(url: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return host or url
