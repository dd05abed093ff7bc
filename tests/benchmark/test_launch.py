"""Where a worker's modules come from, and on which cores it runs. What it loads is at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trtkit
from trtkit.benchmark.protocol import ContestantFailed
from trtkit.benchmark.worker import WorkerContestant
from trtkit.cpu import usable_cores

MODULE = Path(__file__).stem
TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker finds this file as a module."""
    path = os.environ.get("PYTHONPATH")
    folders = [str(Path(__file__).parent), *([path] if path else [])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


def worker(fake: str) -> WorkerContestant:
    return WorkerContestant("the other", {"factory": f"{MODULE}:{fake}"}, timeout=TIMEOUT)


def test_modules_of_the_current_folder_are_not_taken_for_others(tmp_path, monkeypatch):
    # What Python itself, the worker and the competitors import.
    for name in ("queue", "numpy", "json", "selectors", "statistics", "typing", "trtkit"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the user's {name} was taken')")
    monkeypatch.chdir(tmp_path)
    with worker("Plain") as contestant:
        assert contestant.round() >= 0
    ours = WorkerContestant("ours", {"kind": "no such kind"}, timeout=TIMEOUT)
    # It came as far as the spec.
    with (
        ours,
        pytest.raises(
            ContestantFailed,
            match="ours failed at load: ValueError: Object missing required field `measure`",
        ),
    ):
        ours.load()


def test_the_worker_is_of_the_same_trtkit_as_its_parent(tmp_path, monkeypatch):
    # Found first by PYTHONPATH, as another installation would be.
    (tmp_path / "trtkit").mkdir()
    (tmp_path / "trtkit" / "__init__.py").write_text("raise ImportError('another trtkit')")
    path = os.environ["PYTHONPATH"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), path]))
    with worker("Located") as contestant:
        assert contestant.note == ""
        contestant.load()
        assert contestant.note == trtkit.__file__
        # Modules beside the file that starts it are called as some of Python's own: statistics, profile.
        assert contestant.labels() == [0]


def test_a_trtkit_that_lies_in_no_path_is_found(tmp_path):
    """As that of a checkout in which `python -m trtkit` was started."""
    launch = Path(trtkit.__file__).with_name("launch.py")
    ended = subprocess.run(
        [sys.executable, "-S", str(launch), "benchmark.worker", "0"],
        input=b"null\n", capture_output=True, cwd=tmp_path, env={}, check=False,
    )  # fmt: skip
    # Without site packages there is no numpy either; the worker itself needs none.
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.skipif(usable_cores() < 2, reason="there is one core alone")
def test_it_has_as_many_cores_as_it_is_to_have():
    with worker("Counting") as contestant:
        assert contestant.labels() == [usable_cores()]
    spec = {"factory": f"{MODULE}:Counting"}
    with WorkerContestant("less", spec, timeout=TIMEOUT, cores=1) as contestant:
        # Its children too, and threads that are started later.
        assert contestant.labels() == [1]
    assert len(os.sched_getaffinity(0)) == usable_cores() > 1


def test_ctrl_c_reaches_the_parent_alone():
    with worker("Plain") as contestant:
        contestant.load()
        # The terminal sends it to the group of the parent.
        assert os.getpgid(contestant.pid) == contestant.pid != os.getpgid(0)
        assert os.getsid(contestant.pid) == contestant.pid


class Plain:
    """What the worker loads."""

    images, note = 1, ""

    def __init__(self, spec: dict[str, object]) -> None:
        return None

    def before(self) -> None:
        return None

    def run(self) -> None:
        return None

    def close(self) -> None:
        return None


class Located(Plain):
    def __init__(self, spec: dict[str, object]) -> None:
        self.note = trtkit.__file__
        inside = Path(trtkit.__file__).parent
        self.inside = sum(Path(entry).is_relative_to(inside) for entry in sys.path)

    def labels(self) -> list[int]:
        return [self.inside]


class Counting(Plain):
    def labels(self) -> list[int]:
        code = "import os; print(len(os.sched_getaffinity(0)))"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert int(said.stdout) == usable_cores()
        return [usable_cores()]
