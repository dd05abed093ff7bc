"""What is printed: harmless on a terminal, whole or a sentence elsewhere."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.test_terminal import on_a_terminal
from tests.pictures import write_photos
from trtkit.cli import output, predictions
from trtkit.cli.output import csv_cell, note, print_table, printable
from trtkit.cli.progress import terminal_reporter
from trtkit.reporting import advance
from trtkit.runtime.results import Prediction, Result

EVIL = "\x1b]0;title\x07 a\nb\tc\u202ed\x9b2J\udce9"
SHOWN = r"\x1b]0;title\x07 a\nb\tc\u202ed\x9b2J\udce9"


@given(text=st.text())
def test_what_is_printed_neither_moves_nor_turns_anything(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not [
        letter for letter in shown if unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")
    ]
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not turning & {unicodedata.bidirectional(letter) for letter in shown}
    assert shown == text or len(shown) > len(text)


def test_names_of_everyday_stay_as_they_are() -> None:
    for name in ("photo-写真.jpg", "café ñ", "שלום", "مرحبا", "👩‍👧 [red].png", "a'b\"c"):
        assert printable(name) == name


def test_tables_and_messages(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [[EVIL]])
    note(EVIL)
    assert capsys.readouterr() == (f"name\n{SHOWN}\n", f"{SHOWN}\n")


def test_predictions_are_lines_of_cells() -> None:
    stream = io.StringIO()
    write = predictions.FORMATS["table"](stream, 1)
    write(Result(EVIL, (Prediction(0, EVIL, 0.5),)))
    write(Result(EVIL, (), error=EVIL))
    shown = stream.getvalue().splitlines()
    assert shown == [f"{SHOWN}\t 50.00% {SHOWN}", f"{SHOWN}\terror: {SHOWN}"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_cells_of_csv_are_no_formulas(start: str) -> None:
    stream, name = io.StringIO(newline=""), f"{start}cmd|' /C calc'!A0"
    predictions.FORMATS["csv"](stream, 1)(Result(name, (Prediction(0, name, 0.5),), tail=name))
    (row,) = csv.DictReader(io.StringIO(stream.getvalue(), newline=""))
    assert [row[column] for column in ("path", "label", "tail")] == [f"'{name}"] * 3
    assert csv_cell("photos/a=b-c.jpg") == "photos/a=b-c.jpg"


@given(cells=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2))
def test_lines_of_csv_are_read_back(cells: list[str]) -> None:
    assert list(csv.reader(io.StringIO(output.csv_line(cells), newline=""))) == [cells]


def test_csv_is_exact_in_a_file_and_harmless_on_a_terminal() -> None:
    name = "a\x1b[2J\nb.jpg"
    for stream, path in ((io.StringIO(newline=""), name), (Screen(newline=""), r"a\x1b[2J\nb.jpg")):
        predictions.FORMATS["csv"](stream, 1)(Result(name, (Prediction(0, "cat", 0.5),)))
        (row,) = csv.DictReader(io.StringIO(stream.getvalue(), newline=""))
        assert row["path"] == path


def test_progress_shows_names_that_look_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal_reporter():
        advance("[/red] \x1b]0;title\x07.mp4", 0.5)
    assert r"[/red] \x1b]0;title\x07.mp4" in screen.getvalue()


def test_a_photo_with_an_evil_name_on_a_terminal(built: Path, tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path / "photos", count=1, size=(80, 80))
    photo.rename(photo.with_name("\x1b]0;title\x07\u202egpj.jpg"))
    screen = on_a_terminal("infer", str(tmp_path / "photos"), "--workspace", str(built))
    assert r"\x1b]0;title\x07\u202egpj.jpg" in screen
    assert "\x1b]" not in screen


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of the shell, where `trtkit` is this one."""
    script = f'trtkit() {{ "{sys.executable}" -m trtkit "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "line",
    [
        "trtkit --help > /dev/full",
        "trtkit doctor --json > /dev/full",
        "trtkit cuts resnet18 > /dev/full",
        "trtkit infer photos --no-cache --format csv > /dev/full",
        "trtkit cuts resnet18 >&-",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_output_that_takes_nothing(
    line: str, encoding: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", count=1, size=(80, 80))
    monkeypatch.chdir(tmp_path)
    ended = shell(line, TRTKIT_WORKSPACE=str(built), PYTHONIOENCODING=encoding)
    assert ended.returncode == 2
    assert (
        ended.stderr.decode().splitlines()[-1].startswith("Error: The output cannot be written (")
    )
    assert b"Traceback" not in ended.stderr
    # Nowhere to write messages either: the exit code is left.
    assert shell(f"{line} 2>&-", TRTKIT_WORKSPACE=str(built)).returncode == 2


def test_a_reader_that_goes_away_is_no_error(built: Path) -> None:
    ended = shell("trtkit cuts resnet18 | true; echo ${PIPESTATUS[0]}", TRTKIT_WORKSPACE=str(built))
    assert ended.stderr == b""
    assert ended.stdout.strip() in (b"0", b"1")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_output_of_another_encoding(encoding: str, built: Path, tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path / "photos", count=1, size=(80, 80))
    photo.rename(photo.with_name("写真.jpg"))
    ended = shell(
        f"trtkit infer {tmp_path}/photos --no-cache --format table",
        TRTKIT_WORKSPACE=str(built),
        PYTHONIOENCODING=encoding,
    )
    assert ended.returncode == 0, ended.stderr
    assert rb"\u5199\u771f.jpg" in ended.stdout


def test_messages_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    output.note("lost")
    # Later messages, and the end of Python, find a stream that takes them.
    assert sys.stderr.name == os.devnull
    output.note("lost")


def test_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import platformdirs

    from trtkit.errors import TrtkitError
    from trtkit.workspace import user_cache

    def nowhere(*_: Any, **__: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(platformdirs, "user_cache_path", nowhere)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = user_cache()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert user_cache() == folder
    folder.chmod(0o777)
    with pytest.raises(TrtkitError, match=r"not this user's alone; set HOME or XDG_CACHE_HOME\.$"):
        user_cache()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(TrtkitError, match="not this user's alone"):
        user_cache()
