"""The reporter of a context."""

from __future__ import annotations

import threading

from trtkit.reporting import Silent, advance, current, message, reporting


class Kept:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[object] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, phase: str, share: float) -> None:
        self.lines.append((phase, share))


def test_reports_go_to_the_innermost_reporter_and_to_none_afterwards() -> None:
    outer, inner = Kept(), Kept()
    with reporting(outer):
        message("one")
        with reporting(inner):
            advance("two", 0.5)
        advance("three", 1.0)
    message("nobody hears this")
    assert outer.lines == ["one", ("three", 1.0)]
    assert inner.lines == [("two", 0.5)]
    assert isinstance(current(), Silent)


def test_threads_report_apart() -> None:
    reporter = Kept()
    with reporting(reporter):
        thread = threading.Thread(target=message, args=("from another thread",))
        thread.start()
        thread.join()
    assert reporter.lines == []
