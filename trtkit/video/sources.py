"""What a command line names as footage: files, folders of frames, URLs and cameras."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from trtkit.errors import TrtkitError, listed, nearest, os_reason
from trtkit.video.frames import Footage
from trtkit.video.stream import Stream, without_password

Kind = Literal["video", "frames", "stream"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# A misspelt name is compared with this many names of its folder, which may hold millions.
_COMPARED: Final = 10_000
_EXAMPLES: Final = (
    "a video file, a folder of frames, a URL or a camera number, as it is or as CAMERA=SOURCE"
)


@dataclass(frozen=True)
class Source:
    """Footage by name. `camera`: whose it is; `location`: a path, a URL or a camera's number."""

    camera: str
    location: str
    kind: Kind


def parse_source(text: str) -> Source:
    """The source that `text` names: PATH, URL or a camera's number, or CAMERA= before one of them.

    Without CAMERA the camera is called by the file's stem, the folder's name, camera-0 for number 0,
    or the host of the URL. What exists as written is a path, whatever it looks like, and what follows
    an `=` in a URL belongs to the URL.

    Raises TrtkitError when there is nothing at the path, with the nearest names of its folder, and
    when a part is empty.
    """
    if not text.strip():
        raise TrtkitError(f"An empty source was given; name {_EXAMPLES}.")
    camera, location = _named(text)
    if camera is not None and not camera.strip():
        raise TrtkitError(f"The source {text!r} has no camera before its `=`; name {_EXAMPLES}.")
    if not location:
        raise TrtkitError(f"The source {text!r} has nothing after its `=`; name {_EXAMPLES}.")
    kind = _kind(location)
    return Source(camera or _default_camera(location, kind), location, kind)


def find_sources(texts: Iterable[str]) -> tuple[Source, ...]:
    """The sources that `texts` name, in their order; several may be of one camera.

    Raises TrtkitError when there is none, one is named twice, however it is written, or one of them
    cannot be parsed.
    """
    found: dict[str, Source] = {}
    texts = [texts] if isinstance(texts, str) else texts
    for text in texts:
        source = parse_source(text)
        place = source.location
        if source.kind != "stream":
            place = str(Path(place).resolve())
        elif place.isdecimal():
            place = str(int(place))
        if place in found:
            raise TrtkitError(
                f"{without_password(source.location)} is named twice, as footage of "
                f"{found[place].camera} and of {source.camera}; leave one out."
            )
        found[place] = source
    if not found:
        raise TrtkitError(f"No source was named; name {_EXAMPLES}.")
    return tuple(found.values())


def open_source(source: Source, frame_rate: float = 25.0) -> Footage:
    """The footage of a source; `frame_rate`: images a second of a folder of frames (default 25).

    Raises TrtkitError when a file or a folder is none that can be read. A stream is opened when it
    is read.
    """
    if source.kind == "stream":
        return Stream(source.location)
    if source.kind == "frames":
        from trtkit.video.framefolder import FrameFolder

        return FrameFolder(Path(source.location).absolute(), frame_rate)
    from trtkit.video.videofile import VideoFile

    # However it is written, it is one source.
    return VideoFile(Path(source.location).absolute())


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
    # ASCII alone: what else is a digit to Python is none to a camera's driver.
    if location.isascii() and location.isdecimal():
        return "stream"
    raise TrtkitError(f"There is no file or folder {location}; {_instead(Path(location))}.")


def _exists(location: str) -> bool:
    try:
        return Path(location).exists()
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return False


def _instead(path: Path) -> str:
    try:
        names = [other.name for other in islice(path.parent.iterdir(), _COMPARED)]
    except FileNotFoundError:
        return f"its folder {path.parent} does not exist either, so correct the path"
    except (OSError, ValueError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        return f"its folder cannot be read ({reason}), so correct the path"
    alike = nearest(path.name, names)
    if alike:
        return f"its folder has {listed(alike)}, so correct the name"
    return f"its folder has {listed(sorted(names))}, so correct the path"


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
