"""Commands, and workers that exchange messages with their parent."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from trtkit import subprocesses
from trtkit.subprocesses import CommandFailed, Worker, WorkerFailed, run_command

# Stands in for launch.py: its arguments say what the worker does with a request.
SCRIPT = """
import os, signal, subprocess, sys, time
from trtkit.subprocesses import Parent

kind = sys.argv[1]
parent = Parent()
while (request := parent.receive()) is not None:
    if kind == "echo":
        print("printed, not sent", flush=True)
        parent.send({"stdin": sys.stdin.read(), **request, "mode": os.environ.get("MODE")})
    elif kind == "fail":
        raise RuntimeError("no graph " + "x" * 1000 + " in the file")
    elif kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "slow":
        time.sleep(60)
    elif kind == "child":
        parent.send({"child": subprocess.Popen(["sleep", "60"]).pid})
"""


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worker.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(subprocesses, "LAUNCH", path)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed child of another parent stays a zombie until that parent collects it.
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs(pid)


def test_a_command_gives_what_it_prints() -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr)"
    assert run_command([sys.executable, "-c", code]) == "one\ntwo\n"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo useful; echo 'no such card' >&2; exit 3"], "no such card"),
        (["sh", "-c", "exit 3"], "status 3"),
        (["trtkit-no-such-program"], "cannot be started: No such file or directory"),
    ],
)
def test_a_command_that_fails_says_why(command: list[str], reason: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_command(command)
    assert str(caught.value) == f"{command[0]} failed ({reason})."
    assert caught.value.reason == reason
    assert ("useful" in caught.value.output) == ("useful" in command[-1])


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandFailed, match=r"sleep failed \(no end after 0.2 s\)"):
        run_command(["sleep", "60"], timeout=0.2)


def test_a_worker_answers_and_its_prints_do_not_disturb() -> None:
    with Worker("The echo", "echo", environment={"MODE": "quiet"}) as worker:
        assert worker.ask({"n": 1}, timeout=60) == {"stdin": "", "n": 1, "mode": "quiet"}
        worker.send({"n": 2})
        worker.send({"n": 3})
        assert [worker.receive()["n"], worker.receive()["n"]] == [2, 3]
        pid = worker.pid
    assert not runs(pid)
    worker.close()  # a second time does nothing


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("fail", "ended with status 1"),
        ("killed", "was killed (SIGKILL, as the system does when memory runs out)"),
        ("crash", "crashed (SIGSEGV)"),
    ],
)
def test_a_worker_that_ends_says_how(kind: str, how: str) -> None:
    with Worker("The test", kind) as worker, pytest.raises(WorkerFailed) as caught:
        worker.ask({}, timeout=60)
    assert caught.value.how == how
    assert str(caught.value).startswith(f"The test {how}")
    if kind == "fail":
        assert caught.value.last_line.startswith("RuntimeError: no graph xxx")
        assert len(caught.value.last_line) == 400


def test_a_worker_that_does_not_answer_is_ended() -> None:
    with Worker("The test", "slow") as worker:
        with pytest.raises(WorkerFailed, match="^The test did not answer within 0.5 s$"):
            worker.ask({}, timeout=0.5)
        assert not runs(worker.pid)


def test_the_children_of_a_worker_end_with_it() -> None:
    with Worker("The test", "child") as worker:
        child = worker.ask({}, timeout=60)["child"]
        assert runs(child)
    assert ends(child)


def test_a_worker_that_is_busy_ends_when_its_parent_does(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from trtkit import subprocesses; "
        "subprocesses.LAUNCH = pathlib.Path(sys.argv[1]); "
        "worker = subprocesses.Worker('The test', 'slow'); worker.send({}); "
        "print(worker.pid, flush=True); os._exit(0)"
    )
    pid = int(run_command([sys.executable, "-c", code, str(tmp_path / "worker.py")]))
    assert ends(pid)


def test_a_worker_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(WorkerFailed, match=r"^The test could not be started \(No such file"):
        Worker("The test", "echo")
