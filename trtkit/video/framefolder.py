"""A folder of images as footage: one image per frame, in the order of their names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

from trtkit.errors import ImageError, TrtkitError
from trtkit.identity import file_digest
from trtkit.photos.decode import decode
from trtkit.photos.files import find_images
from trtkit.photos.images import read_file
from trtkit.video.frames import DAMAGED, MICROSECONDS, Frame, Gap, PixelPicture


class FrameFolder:
    """The images of a folder and those below it, in the order of their names, numbers by their value.

    `frame_rate`: images a second, 25 by default, any number above 0. `location`: the folder as given.
    `start_us` is None, `zone` empty. `duration_us`: the number of images over the rate. `fingerprint`:
    BLAKE3, in hex, of the names, the contents and the rate; `digest` gives the contents' digests.

    Raises TrtkitError when there is no such folder or it holds no images.
    """

    seekable = True
    zone = ""

    def __init__(
        self,
        folder: str | Path,
        frame_rate: float = 25.0,
        digest: Callable[[Path], str] = file_digest,
    ) -> None:
        self.location = str(folder)
        self.start_us: int | None = None
        self.frame_rate: float | None = frame_rate
        self._rate = frame_rate
        self._paths = _images(Path(folder))
        self.duration_us: int | None = self._time_us(len(self._paths))
        self.fingerprint = self._fingerprint(Path(folder), digest)
        self.former_fingerprint = self._fingerprint(Path(folder), _size)

    def read(self, since_us: int = 0) -> Iterator[Frame | Gap]:
        """The images with times from `since_us` on, and the gaps that end after it.

        Images in a row that cannot be read are one Gap "damaged".
        """
        number = max(0, math.floor(since_us * self._rate / MICROSECONDS) - 1)
        while number < len(self._paths) and self._time_us(number) < since_us:
            number += 1
        damaged_from: int | None = None
        # That time may lie in a gap that began before it.
        while number > 0 and self._decoded(number - 1) is None:
            number -= 1
            damaged_from = number
        for at in range(number, len(self._paths)):
            picture = self._decoded(at)
            time_us = self._time_us(at)
            if picture is None:
                damaged_from = at if damaged_from is None else damaged_from
                continue
            if damaged_from is not None:
                if time_us > since_us:
                    yield Gap(self._time_us(damaged_from), time_us, DAMAGED)
                damaged_from = None
            if time_us >= since_us:
                yield Frame(time_us, picture)
        end_us = self._time_us(len(self._paths))
        if damaged_from is not None and end_us > since_us:
            yield Gap(self._time_us(damaged_from), end_us, DAMAGED)

    def close(self) -> None:
        """Nothing is held between readings."""

    def _time_us(self, number: int) -> int:
        return round(number * MICROSECONDS / self._rate)

    def _decoded(self, number: int) -> PixelPicture | None:
        try:
            return PixelPicture(decode(read_file(self._paths[number])).pixels)
        except ImageError:
            return None

    def _fingerprint(self, folder: Path, identify: Callable[[Path], str]) -> str:
        content = blake3(repr(self._rate).encode())
        for path in self._paths:
            try:
                identity = identify(path)
            except OSError:
                # Deleted, or a broken link: a gap when it is read.
                identity = "-1"
            name = str(path.relative_to(folder)).encode(errors="surrogateescape")
            content.update(name + b"\0" + identity.encode() + b"\0")
        return content.hexdigest()


def _size(path: Path) -> str:
    """What earlier versions took for the content."""
    return str(path.stat().st_size)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise TrtkitError(f"{folder} {what}; name a folder of images.")
    images = list(find_images([folder]))
    for item in images:
        if item.error is not None:
            raise TrtkitError(f"{item.path}: {item.error}")
    return sorted((item.path for item in images), key=_natural)


def _natural(path: Path) -> tuple[object, ...]:
    """A key that sorts frame9 before frame10, folder by folder; the path itself breaks ties."""
    # Texts and numbers alternate in each part, so a text is never compared with a number.
    parts = (re.split(r"([0-9]+)", part) for part in path.parts)
    return (
        *([int(piece) if at % 2 else piece for at, piece in enumerate(part)] for part in parts),
        str(path),
    )
