"""Times as people write them: since a source's beginning, or as date and time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo

from trtkit.errors import TrtkitError, available
from trtkit.video.frames import MICROSECONDS

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s?")
_OFFSET = re.compile(r"([+-]\d{2}):?(\d{2})")
# A thousand years: far less than what the store's numbers hold.
_LONGEST_SECONDS = 1000 * 366 * 86400
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse_time(text: str) -> int | datetime:
    """Microseconds since the beginning for `90`, `1:30` or `0:01:30.5`, a datetime for an ISO date.

    It has the zone of the text, if any. Raises TrtkitError for anything else.
    """
    try:
        seconds = _seconds(text.strip())
        if seconds is not None:
            return round(seconds * MICROSECONDS)
        # Python 3.10 does not know Z.
        written = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text.strip()))
        # The first and the last day of the calendar are beyond it in some zones.
        written.astimezone()
    except (ValueError, OverflowError) as error:
        raise TrtkitError(
            f"{text!r} is not a time; write seconds or H:MM:SS from the beginning, or a date and time such "
            "as 2026-03-01T08:30."
        ) from error
    return written


def zone_named(name: str) -> tzinfo:
    """The time zone of a name such as `Europe/Berlin`, or of an offset such as `+01:00`.

    Raises TrtkitError for any other text.
    """
    from zoneinfo import ZoneInfo, available_timezones

    offset = _OFFSET.fullmatch(name)
    try:
        if offset:
            minutes = timedelta(minutes=int(f"{name[0]}{offset[2]}"))
            return timezone(timedelta(hours=int(offset[1])) + minutes)
        # UTC needs no database.
        return timezone.utc if name in ("UTC", "Z") else ZoneInfo(name)
    # ZoneInfo raises OSError for a folder of zones; its own error is a KeyError.
    except (KeyError, ValueError, OSError) as error:
        if offset:
            raise TrtkitError(f"{name!r} is not an offset; write one such as +01:00.") from error
        names = sorted(available_timezones())
        known = (
            available(name, names)
            if names
            else "this machine has no names of time zones, which `pip install tzdata` installs"
        )
        raise TrtkitError(
            f"{name!r} is not a time zone; write a name such as Europe/Berlin or an offset such as "
            f"+01:00; {known}."
        ) from error


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


def since_start(
    moment: int | datetime | None, start_us: int | None, camera: str, zone: str = ""
) -> int | None:
    """A time in microseconds since the beginning of a source, whose own is `start_us` since 1970.

    A date without a zone is in the camera's `zone`, or in this machine's if that is empty. Raises
    TrtkitError for a date and time if it is unknown when the source was taken.
    """
    if moment is None or isinstance(moment, int):
        return moment
    if start_us is None:
        raise TrtkitError(
            f"{moment.isoformat()} cannot be located in {camera}, whose footage does not say when it was "
            "taken; write seconds or H:MM:SS from its beginning."
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone_named(zone)) if zone else moment.astimezone()
    return (moment - _EPOCH) // timedelta(microseconds=1) - start_us


def clock(time_us: int) -> str:
    """H:MM:SS.mmm of microseconds from a beginning."""
    seconds, rest = divmod(time_us, MICROSECONDS)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}.{rest // 1000:03}"


def moment(start_us: int | None, time_us: int, zone: str = "") -> str | None:
    """ISO date and time of a time in a source, in that zone, or in UTC if it is empty.

    None if it is unknown when the source was taken.
    """
    if start_us is None:
        return None
    local = (_EPOCH + timedelta(microseconds=start_us + time_us)).astimezone(
        zone_named(zone) if zone else timezone.utc
    )
    return local.isoformat(timespec="milliseconds")
