"""Running a command line in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from trtkit.cli.main import run


@dataclass
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def trtkit(monkeypatch, capsys) -> Callable[..., Ended]:
    """Run a command line in this process; stdout is no terminal, as in a pipe."""
    monkeypatch.setattr("trtkit.cli.main.own_process", lambda: None)

    def command(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["trtkit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return command
