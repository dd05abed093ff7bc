"""Paths of objects on a frame of the footage, small enough for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trtkit.errors import TrtkitError
from trtkit.video.detections import Sighting
from trtkit.video.footage.writing import SourceRow
from trtkit.video.frames import Footage, Frame, Picture
from trtkit.video.original import open_original

# Pixels that a frame is wide on the page, and the quality of its JPEG.
_WIDTH: Final = 480
_QUALITY: Final = 70
# Points of a path; more cannot be seen.
_MOST_POINTS: Final = 200

Path2D = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PathRequest:
    """The paths to draw on the frame at `time_us`, microseconds since the source's first one."""

    source: SourceRow
    time_us: int
    paths: Sequence[Sequence[Sighting]]


@dataclass(frozen=True)
class PathView:
    """`frame`: JPEG, smaller than `width` x `height`, None where it cannot be read.

    `paths`: the centres of boxes, x and y in pixels of `width` x `height`, by time.
    """

    width: int
    height: int
    paths: tuple[Path2D, ...]
    frame: bytes | None


def scenes_of(
    requests: Sequence[PathRequest], digest: Callable[[Path], str]
) -> tuple[tuple[PathView, ...], dict[int, str]]:
    """A scene for each request, and by the source's id why its frames cannot be read.

    Without frames a scene is as large as the boxes of all requests of its source reach. `digest`: gives
    the digest of a file's content.
    """
    scenes: dict[int, PathView] = {}
    reasons: dict[int, str] = {}
    by_source: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        by_source.setdefault(request.source.id, []).append(place)
    for source, places in by_source.items():
        extent = _extent([requests[place] for place in places])
        try:
            with closing(open_original(requests[places[0]].source, digest)) as footage:
                for place in places:
                    picture = _picture(footage, requests[place].time_us)
                    scenes[place] = _scene(requests[place], picture, extent)
        except TrtkitError as error:
            reasons[source] = str(error)
            for place in places:
                scenes.setdefault(place, _scene(requests[place], None, extent))
    return tuple(scenes[place] for place in range(len(requests))), reasons


def _picture(footage: Footage, time_us: int) -> Picture | None:
    items = footage.read(time_us)
    try:
        return next((item.picture for item in items if isinstance(item, Frame)), None)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _scene(request: PathRequest, picture: Picture | None, extent: tuple[int, int]) -> PathView:
    paths = tuple(_path(sightings) for sightings in request.paths)
    if picture is None:
        return PathView(*extent, paths, None)
    return PathView(picture.width, picture.height, paths, _small(picture))


def _small(picture: Picture) -> bytes:
    import simplejpeg

    width = min(_WIDTH, picture.width)
    height = max(1, round(picture.height * width / picture.width))
    pixels = picture.shrunk(width, height) if width < picture.width else picture.rgb()
    return bytes(simplejpeg.encode_jpeg(pixels, quality=_QUALITY, colorspace="RGB"))


def _path(sightings: Sequence[Sighting]) -> Path2D:
    centres = [sighting.box.centre for sighting in sightings]
    step = -(-len(centres) // _MOST_POINTS)
    return (*centres[::step], *centres[-1:]) if step > 1 else tuple(centres)


def _extent(requests: Sequence[PathRequest]) -> tuple[int, int]:
    boxes = [
        sighting.box
        for request in requests
        for sightings in request.paths
        for sighting in sightings
    ]
    return (
        max((box.x + box.width for box in boxes), default=1),
        max((box.y + box.height for box in boxes), default=1),
    )
