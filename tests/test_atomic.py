"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trtkit.atomic import (
    SCRATCH_PREFIX,
    not_written,
    scratch_folder,
    sweep,
    whole_file,
    written_file,
)
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
        # In a hidden folder beside it, so that moving is a renaming, and under the same name.
        assert temporary.parent.parent == path.parent
        assert (temporary.parent.name[0], temporary.name) == (".", "file.json")
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
    # What it left is hidden; the next process sweeps it away.
    assert [name for name in names(tmp_path) if name[0] != "."] == ["file"]
    assert len(names(tmp_path)) == 2
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


ENDED = """
import signal, sys, time
from pathlib import Path
from trtkit.atomic import remove_on_signals, whole_file
# A job behind nohup ignores it, and so do the processes that it starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
remove_on_signals()
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of the new")
    print("written", flush=True)
    {wait}
"""
# A library that holds the main thread in its own code.
BUSY = "import ctypes; ctypes.CDLL(None).usleep(60_000_000)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("wait", ["time.sleep(60)", BUSY])
def test_a_signal_ends_the_process_and_leaves_nothing(tmp_path, number, wait):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    run = [sys.executable, "-c", ENDED.format(wait=wait), str(path)]
    writer = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    writer.send_signal(number)
    writer.communicate(timeout=60)
    # By the signal itself, or as a shell says it.
    assert writer.returncode in (-number, 128 + number)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_ignored_signal_stays_ignored(tmp_path):
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from trtkit.atomic import *; "
        "remove_on_signals(); signal.raise_signal(signal.SIGHUP); print('alive')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "alive\n", run.stderr


def test_a_fork_leaves_its_parent_s_files_alone(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from trtkit.atomic import *\n"
        "remove_on_signals()\n"
        "with whole_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'new')\n"
        "    child = os.fork()\n"
        "    if not child: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM\n"
        "print('alive')"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60).stdout == "alive\n"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_two_writers_of_one_file_each_write_a_whole_one(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_bytes(b"first" * 1000)
        second.write_bytes(b"second" * 1000)
    assert path.read_bytes() == b"first" * 1000
    assert names(tmp_path) == ["file"]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    place = tmp_path / "place"
    place.mkdir()
    # The next names that are tried are links, one at the file itself.
    tokens = iter(["planted", "planted2", "free"])
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: tokens)
    (place / f"{SCRATCH_PREFIX}planted").symlink_to(tmp_path)
    (place / f"{SCRATCH_PREFIX}planted2").symlink_to(victim)
    (place / "file").symlink_to(victim)
    assert write(place / "file", b"new").parent.name == f"{SCRATCH_PREFIX}free"
    assert victim.read_bytes() == b"precious"
    assert (place / "file").read_bytes() == b"new"
    assert not (place / "file").is_symlink()


def test_a_user_s_own_link_is_followed_and_a_device_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with written_file(tmp_path / "link") as path:
        path.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    with written_file(Path(os.devnull)) as path:
        assert path == Path(os.devnull)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (
        pytest.raises(TrtkitError, match="loop cannot be written"),
        written_file(tmp_path / "loop"),
    ):
        pass


def test_only_what_dead_processes_left_is_swept(tmp_path):
    with scratch_folder(tmp_path) as living:
        old, new = (tmp_path / f"{SCRATCH_PREFIX}{age}" for age in ("old", "new"))
        for folder in (old, new):
            folder.mkdir()
        os.utime(old, (0, 0))
        (tmp_path / f"{SCRATCH_PREFIX}link").symlink_to(living)
        sweep(tmp_path)
        assert living.is_dir()
        # Without a lock it may be one that is being made.
        assert not old.exists()
        assert new.exists()


def test_removing_that_fails_hides_no_error(tmp_path, monkeypatch):
    def refuse(path, ignore_errors):
        assert ignore_errors

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(TrtkitError, match="No space left"), whole_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
