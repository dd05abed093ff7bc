"""The table of answers on terminals of any width, and piped."""

from __future__ import annotations

import io

import pytest

from trtkit.cli.footage import COLUMNS, follow_answers
from trtkit.video.answers import Answer
from trtkit.video.detections import Box


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answer(number: int, when: str | None = None) -> Answer:
    return Answer(
        "car", "gate\x1b", "/footage/gate.mp4", 1.5, 2.0, when, when, (3, 4),
        (Box(0, 0, 10, 20), Box(30, 0, 10, 20)), 0.5, (number,), number,
    )  # fmt: skip


def lines(stream: io.StringIO, *answers: Answer) -> list[str]:
    assert follow_answers(answers, "table", stream) == list(answers)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [(200, 0), (80, 1), (60, 3), (50, 4), (10, 4)],
)
def test_a_terminal_has_the_columns_that_fit(monkeypatch, columns: int, left_out: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    header, first, second = lines(Terminal(), answer(7), answer(81234))
    spared = ("source", "frames", "path", "object")[:left_out]
    assert header.split() == [name for name in COLUMNS if name not in spared]
    assert "\x1b" not in first and first.startswith("gate\\x1b")
    # Under their headings.
    assert first.index("0:00:01.500") == header.index("start") == second.index("0:00:01.500")


def test_dates_are_under_their_headings(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    when = "2026-03-01T08:30:00.000+00:00"
    header, row = lines(Terminal(), answer(7, when))
    assert header.index("confidence") == row.index("0.500")
    assert header.index("path") == row.index("5,10 > 35,10")


def test_piped_fields_have_tabs_between_and_nothing_is_left_out(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    header, row = lines(io.StringIO(), answer(7))
    assert header.split("\t") == list(COLUMNS)
    assert row.split("\t") == [
        "gate\\x1b", "0:00:01.500", "0:00:02.000", "0.500", "7", "2", "5,10 > 35,10",
        "/footage/gate.mp4",
    ]  # fmt: skip
    assert lines(io.StringIO()) == [header]
    assert lines(Terminal()) == []
