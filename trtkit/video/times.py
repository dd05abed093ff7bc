"""Times as people write them: since a source's beginning, or as date and time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from trtkit.errors import TrtkitError
from trtkit.reporting import message
from trtkit.video.frames import MICROSECONDS

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s?")
# A thousand years: far less than what the store's numbers hold.
_LONGEST_SECONDS = 1000 * 366 * 86400
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse_time(text: str) -> int | datetime:
    """Microseconds since the beginning for `90`, `1:30` or `0:01:30.5`, a datetime for an ISO date.

    A date without a zone is in this machine's, which is reported. Raises TrtkitError for anything else.
    """
    try:
        seconds = _seconds(text.strip())
        if seconds is not None:
            return round(seconds * MICROSECONDS)
        # Python 3.10 does not know Z.
        written = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text.strip()))
        local = written.astimezone()
    except (ValueError, OverflowError) as error:
        raise TrtkitError(
            f"{text!r} is not a time; write seconds or H:MM:SS from the beginning, or a date and time such "
            "as 2026-03-01T08:30."
        ) from error
    if written.tzinfo is None:
        message(
            f"{text.strip()} has no time zone and is taken as this machine's, {local:%Z (UTC%z)}; write "
            "Z or +01:00 behind it for another one."
        )
    return local


def _seconds(text: str) -> float | None:
    """Seconds since the beginning, None for another kind of time. OverflowError beyond any footage."""
    seconds, clock = _SECONDS.fullmatch(text), _CLOCK.fullmatch(text)
    if seconds:
        value = float(seconds[1])
    elif clock:
        value = float(clock[1] or 0) * 3600 + float(clock[2]) * 60 + float(clock[3])
    else:
        return None
    if value > _LONGEST_SECONDS:
        raise OverflowError
    return value


def since_start(moment: int | datetime | None, start_us: int | None, camera: str) -> int | None:
    """A time in microseconds since the beginning of a source, whose own is `start_us` since 1970.

    Raises TrtkitError for a date and time if it is unknown when the source was taken.
    """
    if moment is None or isinstance(moment, int):
        return moment
    if start_us is None:
        raise TrtkitError(
            f"{moment.isoformat()} cannot be located in {camera}, whose footage does not say when it was "
            "taken; write seconds or H:MM:SS from its beginning."
        )
    return (moment - _EPOCH) // timedelta(microseconds=1) - start_us


def clock(time_us: int) -> str:
    """H:MM:SS.mmm of microseconds from a beginning."""
    seconds, rest = divmod(time_us, MICROSECONDS)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}.{rest // 1000:03}"


def moment(start_us: int | None, time_us: int) -> str | None:
    """ISO date and time, UTC, of a time in a source; None if it is unknown when that was taken."""
    if start_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=start_us + time_us)).isoformat(timespec="milliseconds")
