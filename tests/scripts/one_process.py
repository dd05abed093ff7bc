"""Run a measurement with thin networks, and trtkit's commands in the same process.

    python tests/scripts/one_process.py thin|full NAME [options]

Starting a process for each command takes most of the time of a small measurement.
"""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "measure")]

import pytest  # noqa: E402
import stock  # type: ignore[import-not-found]  # noqa: E402
import video  # type: ignore[import-not-found]  # noqa: E402
from case import load_cases, run  # type: ignore[import-not-found]  # noqa: E402

from tests.thin import make_thin  # noqa: E402
from trtkit.cli.main import app  # noqa: E402

start_process: Callable[..., str] = stock.Stock.trtkit
ask_process: Callable[..., float | None] = video.first_seconds
answers: dict[bool, float | None] = {}


def command(self: stock.Stock, name: str, *arguments: object) -> str:
    """`Stock.trtkit` in this process. Ingests are killed after a part of the time that one took."""
    if name == "ingest":
        return start_process(self, name, *arguments)
    words = [name, *map(str, arguments), "--workspace", str(self.root)]
    with redirect_stdout(io.StringIO()) as printed:
        if status := app(words, standalone_mode=False):
            raise RuntimeError(f"trtkit {' '.join(words)} ended with {status}")
    return printed.getvalue()


def first_seconds(*question: object, optimised: bool) -> float | None:
    """The first answer, from a process of its own, stands for those of the other classes."""
    if answers.get(optimised) is None:
        answers[optimised] = ask_process(*question, optimised=optimised)
    return answers[optimised]


if __name__ == "__main__":
    load_cases()
    networks, case, *options = sys.argv[1:]
    stock.Stock.trtkit = command
    video.first_seconds = first_seconds
    if networks == "thin":
        make_thin(pytest.MonkeyPatch())
    run(case, options)
