"""A reporter for tests: it records what code reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trtkit.reporting import reporting


class RecordingReporter:
    """`messages`: the texts; `phases`: phase and share of every advance; `events`: both, in order."""

    def __init__(self) -> None:
        self.events: list[str | tuple[str, float]] = []

    @property
    def messages(self) -> list[str]:
        return [event for event in self.events if isinstance(event, str)]

    @property
    def phases(self) -> list[tuple[str, float]]:
        return [event for event in self.events if not isinstance(event, str)]

    def message(self, text: str) -> None:
        self.events.append(text)

    def advance(self, phase: str, share: float) -> None:
        self.events.append((phase, share))


@contextmanager
def recorded() -> Iterator[RecordingReporter]:
    """Record what the block reports: `with recorded() as reports: ...; reports.messages`."""
    reporter = RecordingReporter()
    with reporting(reporter):
        yield reporter
