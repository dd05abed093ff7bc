"""What a long step reports, on a terminal and piped."""

from __future__ import annotations

import io
import sys

import pytest

from trtkit.cli.progress import terminal_reporter
from trtkit.reporting import Silent, advance, current, message


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_messages_go_to_stderr_and_nothing_is_drawn_when_piped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with terminal_reporter():
        message("Building prefix (fp16)")
        advance("Building prefix", 0.5)
        advance("Building prefix", 1.0)
    assert capsys.readouterr() == ("", "Building prefix (fp16)\n")
    assert isinstance(current(), Silent)


def test_a_terminal_shows_the_phase_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = sys.stderr
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with terminal_reporter() as reporter:
        reporter.message("Building prefix (fp16)")
        reporter.advance("Building tail", 0.5)
    drawn = screen.getvalue()
    assert drawn.index("Building prefix (fp16)") < drawn.index("Building tail")
    # The cursor is shown again, so the bar has been taken down.
    assert drawn.rstrip().endswith(("\x1b[?25h", "\x1b[2K"))


def test_a_complete_phase_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = sys.stderr
    with terminal_reporter() as reporter:
        reporter.advance("Building tail", 1.0)
    assert "Building tail" not in screen.getvalue()
