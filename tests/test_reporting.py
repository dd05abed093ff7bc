"""The reporter of a context."""

from __future__ import annotations

import threading

from tests.reports import RecordingReporter
from trtkit.reporting import Silent, advance, current, message, reporting


def test_reports_go_to_the_innermost_reporter_and_to_none_afterwards() -> None:
    outer, inner = RecordingReporter(), RecordingReporter()
    with reporting(outer):
        message("one")
        with reporting(inner):
            advance("two", 0.5)
        advance("three", 1.0)
    message("nobody hears this")
    assert outer.events == ["one", ("three", 1.0)]
    assert inner.events == [("two", 0.5)]
    assert isinstance(current(), Silent)


def test_threads_report_apart() -> None:
    reporter = RecordingReporter()
    with reporting(reporter):
        thread = threading.Thread(target=message, args=("from another thread",))
        thread.start()
        thread.join()
    assert reporter.events == []
