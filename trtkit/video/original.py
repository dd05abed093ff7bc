"""The footage that a store was made from, opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from trtkit.errors import TrtkitError
from trtkit.reporting import Silent, reporting
from trtkit.video.footage.writing import SourceRow
from trtkit.video.frames import MICROSECONDS, Footage
from trtkit.video.sources import Source, open_source
from trtkit.video.videofile import VideoFile

# Decimal places of a frame rate that is tried.
_MOST_PLACES = 3


def open_original(row: SourceRow, digest: Callable[[Path], str]) -> Footage:
    """The footage of a source, with the frames and times that were indexed. Close it.

    `digest`: gives the digest of a file's content. Raises TrtkitError for a stream, and for a file or
    folder that is missing or holds other footage by now.
    """
    path = Path(row.location)
    # Ingest stores paths as absolute ones; URLs and camera numbers are not.
    if not path.is_absolute():
        raise TrtkitError(f"{row.location} is a stream, which cannot be read again.")
    try:
        folder, exists = path.is_dir(), path.exists()
    except OSError:
        folder = exists = False
    if not exists:
        raise TrtkitError(f"{row.location} is no longer there; put it back.")
    source = Source(row.camera, row.location, "frames" if folder else "video")
    # What it says about rates was said when it was ingested.
    with reporting(Silent()):
        for rate in (None, *_rates(row)):
            footage = open_source(source, rate, digest)
            if row.fingerprint in (footage.fingerprint, footage.former_fingerprint):
                return footage
            footage.close()
            if isinstance(footage, VideoFile) and not footage.timeless:
                break
    raise TrtkitError(f"{row.location} has changed since it was ingested.")


def _rates(row: SourceRow) -> Iterator[float]:
    """The frame rate of the source; if it is unknown, as in stores that earlier versions made, all that its
    number of frames and its length can come from.
    """
    if row.frame_rate is not None:
        yield row.frame_rate
    elif row.end_us > 0 and row.frames > 1:
        exact = (row.frames - 1) * MICROSECONDS / row.end_us
        yield from dict.fromkeys(round(exact, places) for places in range(_MOST_PLACES + 1))
