"""Real processes. The fakes at the end of this file are what they load and run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trtkit.benchmark.protocol import ContestantFailed, ProtocolSettings, take_turns
from trtkit.benchmark.worker import WorkerContestant
from trtkit.errors import TrtkitError

MODULE = Path(__file__).stem
TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker finds this file as a module."""
    path = os.environ.get("PYTHONPATH")
    folders = [str(Path(__file__).parent), *([path] if path else [])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


@contextlib.contextmanager
def worker(
    fake: str, timeout: float = TIMEOUT, grace: float = 10.0, **spec: object
) -> Iterator[WorkerContestant]:
    spec = {"factory": f"{MODULE}:{fake}", **spec}
    with WorkerContestant("the other", spec, timeout=timeout, grace=grace) as contestant:
        yield contestant


def gone(pid: int | None) -> bool:
    """Whether the process ends soon (one that is dead and not yet waited for has ended)."""
    assert pid is not None
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def failure(contestant: WorkerContestant, rounds: int = 1) -> str:
    """The sentence of the last of `rounds`; the process is gone with it, and it stays the same."""
    for _ in range(rounds - 1):
        contestant.round()
    contestant.load()
    pid = contestant.pid
    with pytest.raises(ContestantFailed) as raised:
        contestant.round()
    assert contestant.pid is None
    assert gone(pid)
    with pytest.raises(ContestantFailed) as again:
        contestant.labels()
    assert str(again.value) == str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")
    return str(raised.value)


def test_a_good_one_is_measured_in_its_process():
    with worker("Sleeping", seconds=0.05, before=2.0, answer=[3, 1, 2]) as contestant:
        assert contestant.pid is None
        contestant.load()
        assert (contestant.images, contestant.note) == (3, "sleeps for 0.05 s")
        pid = contestant.pid
        # Not timed: the worker's start, what comes before a round, the pipe.
        assert 0.045 <= contestant.round() <= 1.5
        assert contestant.labels() == [3, 1, 2]
        assert contestant.pid == pid != os.getpid()
    assert gone(pid)


def test_it_goes_into_turns_and_starts_by_itself():
    with worker("Sleeping", seconds=0.01) as one, worker("Dying", how="SIGSEGV", at=2) as other:
        one.name = "base"
        measured = take_turns([one, other], ProtocolSettings.fixed(3), baseline="base")
        assert (measured.rounds, measured.stopped) == (3, "most rounds")
        assert len(measured.samples["base"]) == 3
        # Its first round is the warm-up's.
        assert measured.samples["the other"] == []
        assert "crashed (SIGSEGV) during round" in measured.failures["the other"]
        assert other.pid is None
        assert one.labels() == [0]


def test_the_default_factory_is_that_of_the_competitors():
    with WorkerContestant("ours", {"kind": "no such kind"}, timeout=TIMEOUT) as contestant:
        with pytest.raises(ContestantFailed, match="ours failed at load: ") as raised:
            contestant.load()
        # It was found, and what is wrong is the spec.
        assert "ModuleNotFoundError" not in str(raised.value)
        assert "AttributeError" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "sentence"),
    (
        ("TrtkitError", "the other failed at load: There is no such model."),
        ("ValueError", "the other failed at load: ValueError: There is no such model."),
        ("MemoryError", "the other failed at load: MemoryError."),
    ),
)
def test_one_that_raises_at_load(error, sentence):
    with worker("Refusing", error=error) as contestant:
        with pytest.raises(ContestantFailed) as raised:
            contestant.load()
        assert str(raised.value) == sentence
        assert contestant.pid is None
        with pytest.raises(ContestantFailed, match="failed at load"):
            contestant.round()


def test_one_that_cannot_be_imported():
    contestant = WorkerContestant("x", {"factory": "no_such_module:load"}, timeout=TIMEOUT)
    with contestant, pytest.raises(ContestantFailed, match="x failed at load: ModuleNotFound"):
        contestant.round()


def test_one_that_raises_in_a_round():
    with worker("Dying", how="raise", at=2) as contestant:
        assert failure(contestant, rounds=2) == "the other failed at round: OSError: gone."


def test_one_that_crashes_in_its_second_round():
    with worker("Dying", how="SIGSEGV", at=2) as contestant:
        sentence = failure(contestant, rounds=2)
    assert sentence == "the other crashed (SIGSEGV) during round: about to go."


def test_one_that_is_killed_says_why_that_may_be():
    with worker("Dying", how="SIGKILL", at=1) as contestant:
        sentence = failure(contestant)
    assert sentence == (
        "the other was killed (SIGKILL, as the system does when memory runs out) during round: "
        "about to go."
    )


def test_one_that_leaves_says_its_status():
    with worker("Dying", how="exit", at=1) as contestant:
        assert failure(contestant) == "the other ended with status 3 during round: about to go."


def test_one_that_died_between_two_rounds():
    with worker("Sleeping") as contestant:
        contestant.round()
        os.kill(contestant.pid, signal.SIGKILL)
        assert gone(contestant.pid)
        assert (
            "was killed (SIGKILL, as the system does when memory runs out) during round"
            in failure(contestant)
        )


def test_a_long_reason_is_shortened():
    with worker("Dying", how="raise", at=1, message="long " * 1000 + "\nand more") as contestant:
        sentence = failure(contestant)
    assert len(sentence) < 450
    assert sentence.startswith("the other failed at round: OSError: long long")


def test_what_it_prints_disturbs_nothing():
    with worker("Printing") as contestant:
        for _ in range(3):
            assert contestant.round() >= 0
        # It asked for input in each round, and there was none.
        assert contestant.labels() == [0, 0, 0]


def test_what_it_prints_is_the_reason_when_it_dies():
    with worker("Printing", at=2) as contestant:
        assert "printed by a child" in failure(contestant, rounds=2)


def test_one_that_hangs_is_ended_after_the_timeout():
    with worker("Hanging") as contestant:
        # Loading takes its time on a machine that is busy; only the round is to be short.
        contestant.load()
        contestant._timeout = 0.3
        start = time.monotonic()
        assert failure(contestant) == "the other did not answer within 0.3 s during round."
        assert time.monotonic() - start < 20


def test_its_own_children_end_with_it(tmp_path):
    with worker("Hanging", child=str(tmp_path / "pid")) as contestant:
        contestant.load()
        contestant._timeout = 0.3
        failure(contestant)
        assert gone(int((tmp_path / "pid").read_text()))


def test_closing_ends_it_for_good(tmp_path):
    with worker("Sleeping", closed=str(tmp_path / "closed")) as contestant:
        contestant.load()
        pid = contestant.pid
        contestant.close()
        # It was asked to, and did what it does at the end.
        assert (tmp_path / "closed").exists()
        assert gone(pid)
        contestant.close()
        with pytest.raises(ContestantFailed, match="the other was closed before this"):
            contestant.round()


def test_one_that_does_not_end_when_asked_is_killed(tmp_path):
    with worker("Sleeping", grace=0.2, closing=600) as contestant:
        contestant.load()
        pid = contestant.pid
    assert gone(pid)


def test_one_that_never_started_is_closed_too():
    with worker("Sleeping") as contestant:
        pass
    assert contestant.pid is None


def test_ctrl_c_while_it_is_waited_for_ends_it():
    with worker("Hanging") as contestant:
        contestant.load()
        pid = contestant.pid

        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                contestant.round()
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert contestant.pid is None
        assert gone(pid)
        with pytest.raises(ContestantFailed, match="the other was stopped during round"):
            contestant.labels()


PARENT = """
import sys
from trtkit.benchmark.worker import WorkerContestant
contestant = WorkerContestant("x", {"factory": sys.argv[1]})
contestant.load()
print(contestant.pid, flush=True)
contestant.round()
"""


@pytest.mark.parametrize("fake", ("Hanging", "Waiting"))
def test_when_the_parent_is_killed_it_ends(fake):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{MODULE}:{fake}"], stdout=subprocess.PIPE, text=True
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert gone(pid)


def test_the_seconds_of_a_device_are_taken_for_those_of_the_round():
    with worker("Telling", seconds=0.3, told=0.125) as contestant:
        assert contestant.round() == 0.125
    with worker("Telling", seconds=0.0, told=0.0) as contestant:
        assert contestant.round() == 0.0


def test_ctrl_c_while_it_is_asked_to_end_leaves_nothing(monkeypatch):
    with worker("Sleeping") as contestant:
        contestant.load()
        pid = contestant.pid

        def interrupted(request):
            raise KeyboardInterrupt

        monkeypatch.setattr(contestant._worker, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            contestant.close()
        assert contestant.pid is None
        assert gone(pid)


def test_a_spec_of_many_photos_arrives():
    photos = [f"/photos/{number:06}.jpg" for number in range(20_000)]
    with worker("Sleeping", answer=list(range(20_000)), photos=photos) as contestant:
        assert contestant.labels() == list(range(20_000))


class Sleeping:
    """What the worker loads: it sleeps, and says what its spec told it to."""

    def __init__(self, spec: dict[str, object]) -> None:
        # The spec of the competitors knows no such field.
        assert "factory" not in spec
        self.spec = spec
        self.seconds = spec.get("seconds", 0.0)
        self.answer = spec.get("answer", [0])
        self.images = len(self.answer)
        self.note = f"sleeps for {self.seconds} s"

    def before(self) -> None:
        time.sleep(self.spec.get("before", 0.0))

    def run(self) -> None:
        time.sleep(self.seconds)

    def labels(self) -> list[int]:
        return self.answer

    def close(self) -> None:
        time.sleep(self.spec.get("closing", 0.0))
        if "closed" in self.spec:
            Path(self.spec["closed"]).touch()


class Telling(Sleeping):
    def run(self) -> float:
        super().run()
        return self.spec["told"]


class Refusing(Sleeping):
    def __init__(self, spec: dict[str, object]) -> None:
        raise {
            "TrtkitError": TrtkitError("There is no such model."),
            "ValueError": ValueError("\nThere is no such model.\nMore of it."),
            "MemoryError": MemoryError(),
        }[spec["error"]]


class Dying(Sleeping):
    """Goes in round `at`, in one of several ways."""

    rounds = 0

    def before(self) -> None:
        self.rounds += 1

    def run(self) -> None:
        if self.rounds < self.spec["at"]:
            return
        sys.stderr.write("about to go\n\n\n")
        sys.stderr.flush()
        how = self.spec["how"]
        if how == "raise":
            raise OSError(self.spec.get("message", "gone"))
        if how == "exit":
            sys.exit(3)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)


class Printing(Sleeping):
    """Writes to stdout by every way there is, and reads from stdin."""

    def __init__(self, spec: dict[str, object]) -> None:
        super().__init__(spec)
        self.read: list[int] = []

    def before(self) -> None:
        sys.stdout.write('{"seconds": -1}\n')

    def run(self) -> None:
        sys.stdout.write("no newline")
        sys.stdout.flush()
        os.write(1, b'{"seconds": -1}\n')
        subprocess.run(["sh", "-c", "cat; echo printed by a child"], check=True)
        self.read.append(len(sys.stdin.read()))
        if len(self.read) == self.spec.get("at"):
            os.kill(os.getpid(), signal.SIGKILL)

    def labels(self) -> list[int]:
        return self.read


class Hanging(Sleeping):
    def __init__(self, spec: dict[str, object]) -> None:
        super().__init__(spec)
        if "child" in spec:
            child = subprocess.Popen(["sleep", "600"])
            Path(spec["child"]).write_text(str(child.pid))

    def run(self) -> None:
        time.sleep(600)


class Waiting(Sleeping):
    """Its round is done at once; then its parent has nothing more to ask and is killed."""
