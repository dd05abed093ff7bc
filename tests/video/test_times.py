"""Times as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.errors import TrtkitError
from trtkit.video.times import clock, moment, parse_time, since_start, zone_named

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("90", 90 * SECOND),
        ("90s", 90 * SECOND),
        ("1.5", 1_500_000),
        ("0.000001", 1),
        (" 1:30 ", 90 * SECOND),
        ("0:01:30.5", 90_500_000),
        ("100:00:00", 360_000 * SECOND),
        ("2:03:04.005", 7_384_005_000),
    ],
)
def test_from_the_beginning(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text", ["2026-03-01T08:30+02:00", "2026-03-01T06:30Z", "2026-03-01 06:30:00.000+00:00"]
)
def test_a_moment_with_its_zone(text: str) -> None:
    assert parse_time(text) == datetime(2026, 3, 1, 6, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("zone", "offset_hours"),
    [("Europe/Berlin", 1), ("America/New_York", -5), ("+05:30", 5.5), ("-0330", -3.5), ("UTC", 0)],
)
def test_a_moment_without_one_is_in_that_of_the_camera(zone: str, offset_hours: float) -> None:
    parsed = parse_time("2026-03-01T08:30")
    assert parsed == datetime(2026, 3, 1, 8, 30)
    start_us = round(datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()) * SECOND
    expected = round((8.5 - offset_hours) * 3600) * SECOND
    assert since_start(parsed, start_us, "gate", zone) == expected
    # A zone of its own counts before that of the camera.
    assert since_start(parse_time("2026-03-01T08:30Z"), start_us, "gate", zone) == 30_600 * SECOND
    own = datetime(2026, 3, 1, 8, 30).astimezone()
    assert since_start(parsed, start_us, "gate") == since_start(own, start_us, "gate")


def test_a_moment_is_written_in_the_zone_of_the_camera() -> None:
    # Summer time begins on 29 March 2026 at 1:00 UTC.
    start_us = round(datetime(2026, 3, 29, 0, 59, 59, tzinfo=timezone.utc).timestamp()) * SECOND
    assert moment(start_us, 0, "Europe/Berlin") == "2026-03-29T01:59:59.000+01:00"
    assert moment(start_us, SECOND, "Europe/Berlin") == "2026-03-29T03:00:00.000+02:00"
    assert moment(start_us, 0, "-0330") == "2026-03-28T21:29:59.000-03:30"
    assert moment(start_us, 0) == "2026-03-29T00:59:59.000+00:00"


@pytest.mark.parametrize("name", ["Europe/Berlyn", "Europe", "", "+25:00", "../etc/passwd", "0100"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(
        TrtkitError,
        match="is not a time zone; write a name such as Europe/Berlin|is not an offset; write",
    ) as error:
        zone_named(name)
    assert repr(name) in str(error.value)
    if name == "Europe/Berlyn":
        assert "available: Europe/Berlin" in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-5", "1:2:3:4", "1:", "1h", "2026-13-01", "5 s", "inf", "nan", "1e3",
     "9" * 400, "9" * 400 + ":00:00", "99999999999999", "0001-01-01", "9999-12-31T23:59:59-14:00"],
)  # fmt: skip
def test_anything_else_is_refused_in_a_sentence(text: str) -> None:
    # The first and the last day of the calendar are beyond it in some zones only.
    try:
        parsed = parse_time(text)
    except TrtkitError as error:
        assert repr(text) in str(error)
        assert "H:MM:SS" in str(error)
    else:
        assert isinstance(parsed, datetime)
        assert text.startswith(("0001", "9999"))


@given(st.integers(0, 10**15))
def test_a_clock_is_read_back_to_the_millisecond(time_us: int) -> None:
    if time_us <= 10**13:
        assert parse_time(clock(time_us)) == time_us // 1000 * 1000
    hours, minutes, seconds = clock(time_us).split(":")
    assert (len(minutes), len(seconds)) == (2, 6)
    assert int(minutes) < 60
    assert float(seconds) < 60
    assert int(hours) == time_us // (3600 * SECOND)


def test_a_clock_as_it_is_shown() -> None:
    assert clock(0) == "0:00:00.000"
    assert clock(3_725_004_999) == "1:02:05.004"


@given(st.integers(0, 4 * 10**15), st.integers(0, 10**12))
def test_a_moment_of_a_source_is_so_long_after_its_beginning(start_us: int, time_us: int) -> None:
    when = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=start_us + time_us)
    assert since_start(when, start_us, "gate") == time_us
    elsewhere = when.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert since_start(elsewhere, start_us, "gate") == time_us
    said = moment(start_us, time_us)
    assert said is not None
    assert said.endswith("+00:00")
    assert 0 <= time_us - since_start(datetime.fromisoformat(said), start_us, "gate") < 1000


def test_what_is_from_the_beginning_already_stays() -> None:
    assert since_start(5, None, "gate") == since_start(5, 10**15, "gate") == 5
    assert since_start(None, None, "gate") is None
    assert moment(None, 5) is None


def test_a_moment_before_the_footage_is_negative() -> None:
    assert since_start(datetime(1970, 1, 1, tzinfo=timezone.utc), 7, "gate") == -7


def test_a_moment_of_footage_that_says_no_time_is_refused() -> None:
    with pytest.raises(
        TrtkitError, match="cannot be located in gate, whose footage does not say when it was taken"
    ):
        since_start(datetime.now(timezone.utc), None, "gate")
