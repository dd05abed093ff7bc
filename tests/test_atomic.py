"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trtkit.atomic import not_written, whole_file
from trtkit.errors import TrtkitError

KILLED = """
import os, sys, time
from pathlib import Path
from trtkit.atomic import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of the new")
    print("written", flush=True)
    time.sleep(60)
"""
TOO_LARGE = """
import resource, sys
from pathlib import Path
from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_file(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(bytes(2000))
except TrtkitError as error:
    print(error)
"""


def write(path: Path, content: bytes) -> Path:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return temporary


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_has_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "below" / "deeper" / "file.json"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        # Beside it, so that moving is a renaming, hidden, and of the same kind.
        assert temporary.parent == path.parent
        assert (temporary.name[0], temporary.suffix) == (".", ".json")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file.json"]


def test_an_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    with whole_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, TrtkitError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_after_an_error_all_is_as_it_was(tmp_path, error, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
        (OSError("encoder error -2"), "encoder error -2"),
        (OSError(), "OSError"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(tmp_path, error, reason):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TrtkitError) as caught, whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert str(caught.value) == (
        f"{path} cannot be written ({reason}); free space there, mend its permissions or choose "
        "another folder."
    )
    assert caught.value.__cause__ is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TrtkitError, match="No space left on device"), whole_file(path) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(bytes(10_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_errors_after_writing_count_too(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(TrtkitError, match="No space left on device"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(TrtkitError, match=r"written \(No such file"), whole_file(path):
        pass
    assert names(tmp_path) == []


def test_a_file_larger_than_allowed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    run = [sys.executable, "-c", TOO_LARGE, str(path)]
    said = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith(f"{path} cannot be written (File too large); free"), said.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    run = [sys.executable, "-c", KILLED, str(path)]
    writer = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=60)
    assert path.read_bytes() == b"old"
    # What it left is hidden and in nobody's way.
    assert [name for name in names(tmp_path) if name[0] != "."] == ["file"]
    write(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_mode_is_the_user_s_own(tmp_path):
    umask = os.umask(0o027)
    try:
        write(tmp_path / "file", b"new")
    finally:
        os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("below", "reason"), [("file/new.json", "Not a directory|File exists"), ("x" * 300, "too long")]
)
def test_a_place_that_cannot_be_is_one_sentence(tmp_path, below, reason):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(TrtkitError, match=rf"cannot be written \(.*({reason})\); free"):
        write(tmp_path / below, b"new")
    assert names(tmp_path) == ["file"]


def test_the_sentence():
    assert str(not_written(Path("a/b"), "why")).startswith(
        "a/b cannot be written (why); free space"
    )
