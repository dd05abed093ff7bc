"""What a person sees: the progress bar and the lines above it share one terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading

from tests.pictures import write_photos


def on_a_terminal(*arguments: str) -> str:
    """What `trtkit` writes to a terminal that is both its stdout and its stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trtkit", *arguments], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                written.extend(chunk)
        except OSError:
            # How Linux says that nobody has the terminal open any more.
            return

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait() == 0, written.decode()
    reader.join()
    os.close(ours)
    return written.decode()


def test_predictions_appear_above_the_progress_bar(built, tmp_path):
    paths = write_photos(tmp_path / "photos", count=3, size=(80, 80))
    screen = on_a_terminal("infer", str(tmp_path / "photos"), "--workspace", str(built))
    assert "photos/s" in screen
    for path in paths:
        # Each at the start of a line: after a line break, or on one that was just erased.
        assert re.search(r"(\r?\n|\x1b\[2K)" + re.escape(str(path)), screen), screen


def test_tables_are_drawn_for_people_and_plain_for_programs(built):
    arguments = ("cuts", "resnet18", "--workspace", str(built))
    assert "│" in on_a_terminal(*arguments)
    piped = subprocess.run(
        [sys.executable, "-m", "trtkit", *arguments], capture_output=True, text=True, check=True
    )
    assert "│" not in piped.stdout
    assert piped.stdout.splitlines()[1].split("\t")[0] == "1"
