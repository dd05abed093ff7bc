"""A contestant in a process of its own.

Thread pools, memory and crashes of one never touch another, and a process that waits for its turn
does nothing. Parent and worker talk in lines of JSON over the worker's stdin and stdout: `load` with
the spec, `round`, `labels`, `close`, each but the last answered by one line. `launch.py` starts the
worker; it ends when its stdin does, so also when its parent dies.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

import trtkit
from trtkit.benchmark.protocol import ContestantFailed, uncollected
from trtkit.cpu import own_process, usable_cores
from trtkit.errors import TrtkitError, listed, os_reason

if TYPE_CHECKING:
    from trtkit.benchmark.loaded import Loaded

FACTORY = "trtkit.benchmark.competitors:load"
COMMANDS = ("load", "round", "labels", "close")

LAUNCH = Path(trtkit.__file__).with_name("launch.py")

# Seconds for a process that was asked to end; then it is killed.
GRACE = 10.0

# Of the end of the worker's stderr, bytes that are searched for its last line.
TAIL = 8192

# Characters of a reason that are kept: some libraries put a whole graph into it.
LONGEST = 400


class WorkerContestant:
    """A Contestant whose work is done in a process of its own.

    `spec` goes to the worker as JSON and there to the function that `spec["factory"]` names,
    "module:function", without that entry; by default to trtkit.benchmark.competitors:load. It returns
    what is measured (`Loaded`). `timeout` is how many seconds each answer may take, that to loading
    included; `grace` how many a process that was asked to end has before it is killed. `cores`: on how
    many cores it runs, the first of those that this process may use; None for all of them.

    `images` (photos of a round) and `note` are what it said of itself at loading; 0 and empty before.

    The process starts with the first `load()`, `round()` or `labels()`, in a session of its own, so
    that Ctrl-C goes to the parent alone; the parent ends it on `close()`, when the block of `with`
    is left, and when waiting for an answer ends in any exception.
    """

    def __init__(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        timeout: float = 600.0,
        grace: float = GRACE,
        cores: int | None = None,
    ) -> None:
        self.name = name
        self.cores = cores
        self.images = 0
        self.note = ""
        self._spec = dict(spec)
        self._timeout = timeout
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._received = b""
        self._why_ended: str | None = None

    @property
    def pid(self) -> int | None:
        """The process, None when there is none (yet, or any more)."""
        return None if self._process is None else self._process.pid

    def load(self) -> None:
        """Start the process and make what it measures, unless that was done.

        Raises ContestantFailed.
        """
        if self._why_ended is not None:
            raise ContestantFailed(self._why_ended)
        if self._process is None:
            self._start()
            answer = self._ask({"command": "load", "spec": self._spec})
            self.images, self.note = int(answer["images"]), str(answer["note"])

    def round(self) -> float:
        """One round: the seconds that the worker measured around its work alone, or its device said.

        Raises ContestantFailed when the worker dies, answers with an error or not in time.
        """
        self.load()
        return float(self._ask({"command": "round"})["seconds"])

    def labels(self) -> list[int]:
        """The class of every input, in their order. Raises ContestantFailed as `round` does."""
        self.load()
        return [int(label) for label in self._ask({"command": "labels"})["labels"]]

    def close(self) -> None:
        """End the process, whether it works or has failed; it cannot be started again."""
        if self._why_ended is None:
            self._why_ended = f"{self.name} was closed before this."
        process = self._process
        if process is None:
            return
        try:
            with contextlib.suppress(OSError):
                self._send({"command": "close"})
        except BaseException:
            # Ctrl-C while the pipe was full: nothing of it may stay.
            self._reap(0.0)
            raise
        self._reap(self._grace)

    def __enter__(self) -> WorkerContestant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        # A file: nobody has to read it while the worker writes, as a pipe would need. Closed with
        # the process.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._received = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(LAUNCH), "benchmark.worker", str(self.cores or 0)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
            )
        except OSError as error:
            self._said.close()
            raise ContestantFailed(
                self._end(f"could not start a process ({os_reason(error)})")
            ) from error

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `request`. Whatever exception it ends with, the process is gone then."""
        try:
            # One that died meanwhile has closed the pipe; why is found where its answer should be.
            with contextlib.suppress(BrokenPipeError):
                self._send(request)
            answer = self._answer(request["command"])
        except BaseException:
            # Ctrl-C too: the answer would come later, in the place of another one's.
            if self._why_ended is None:
                self._end(f"was stopped while it was asked for {request['command']}")
            raise
        if "error" in answer:
            raise ContestantFailed(self._end(answer["error"]))
        return answer

    def _send(self, request: Mapping[str, Any]) -> None:
        pipe = self._running.stdin
        if pipe is not None:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()

    def _answer(self, command: str) -> dict[str, Any]:
        """The next line of the worker, waited for at most `timeout` seconds."""
        pipe = cast(IO[bytes], self._running.stdout)
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise ContestantFailed(
                        self._end(f"did not answer to {command} within {self._timeout:g} s")
                    )
                some = os.read(pipe.fileno(), 1 << 16)
                if not some:
                    raise ContestantFailed(self._end(self._how_it_died(command)))
                self._received += some
        line, _, self._received = self._received.partition(b"\n")
        return cast(dict[str, Any], json.loads(line))

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ContestantFailed(f"{self.name} has no process.")
        return self._process

    def _how_it_died(self, command: str) -> str:
        """What is to be said of a worker that closed its end of the pipe."""
        process = self._running
        try:
            status = process.wait(self._grace)
        except subprocess.TimeoutExpired:
            return f"closed its pipe during {command} and did not end"
        if status >= 0:
            how = f"ended with status {status} during {command}"
        elif -status == signal.SIGKILL:
            how = f"was killed (SIGKILL) during {command}, as the system does without free memory"
        else:
            how = f"crashed ({_signal_name(-status)}) during {command}"
        last = self._last_line()
        return f"{how}: {last}" if last else how

    def _last_line(self) -> str:
        """The last line on the worker's stderr that is not empty."""
        if self._said is None:
            return ""
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - TAIL))
        lines = self._said.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _end(self, why: str) -> str:
        """End the process at once, and the sentence that says why."""
        self._why_ended = f"{self.name} {_shortened(why)}"
        self._reap(0.0)
        return self._why_ended

    def _reap(self, grace: float) -> None:
        """Wait `grace` seconds for the process to end, kill what is left of it, forget it."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        finally:
            # Its children too: the group is the session that it leads, and as long as one of them
            # lives, no other gets its number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                # What was not written yet goes into a pipe that has no reader any more.
                with contextlib.suppress(OSError):
                    process.stdin.close()
            if process.stdout is not None:
                process.stdout.close()
            if self._said is not None:
                self._said.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shortened(why: str) -> str:
    """`why` on one line, of readable length, with a full stop."""
    line = " ".join(why.split())
    if len(line) > LONGEST:
        line = line[: LONGEST - 4] + " ..."
    return line if line.endswith(".") else f"{line}."


def serve(requests: int, answers: IO[bytes]) -> None:
    """The worker: answer the requests (read from that descriptor) with one line each until `close`.

    An error of the work is answered with its sentence and raised.
    """
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    work: Loaded | None = None
    while True:
        request = waiting.get()
        command = request["command"]
        if command == "close":
            if work is not None:
                work.close()
            return
        try:
            if command == "load":
                work = _load(request["spec"])
                answer: dict[str, Any] = {"images": work.images, "note": work.note}
            else:
                answer = _obey(command, cast("Loaded", work))
        except Exception as error:
            _write(answers, {"error": f"failed at {command}: {_reason(error)}"})
            raise
        _write(answers, answer)


def _obey(command: str, work: Loaded) -> dict[str, Any]:
    if command == "labels":
        return {"labels": [int(label) for label in work.labels()]}
    if command == "round":
        work.before()
        with uncollected():
            start = time.perf_counter()
            taken = work.run()
            passed = time.perf_counter() - start
        return {"seconds": passed if taken is None else taken}
    raise TrtkitError(f"There is no command {command!r}; there are {listed(COMMANDS)}.")


def _read(requests: int, waiting: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Hand on the requests. Without a parent the process ends, in the middle of a round too."""
    # This thread's alone: another one could not close it as long as this one waits for a line.
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            waiting.put(request)
            if request["command"] == "close":
                return
    os._exit(0)


def _write(answers: IO[bytes], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _load(spec: dict[str, Any]) -> Loaded:
    module, _, function = spec.pop("factory", FACTORY).partition(":")
    return cast("Loaded", getattr(importlib.import_module(module), function)(spec))


def _reason(error: Exception) -> str:
    """The first line of the error; of errors that are not trtkit's, with their type."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, TrtkitError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def confine(cores: int) -> None:
    """Let this process and its threads run on the first `cores` of its cores alone; 0 for all of them.

    To be called before libraries are imported, which then start as many threads.
    """
    if cores and cores != usable_cores():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def main(cores: str) -> None:
    """Keep the pipes for requests and answers; what else is read is empty, what is printed is stderr.

    `cores` as `confine` takes them.
    """
    confine(int(cores))
    # As the command line says of its own, so that engines are set up alike.
    own_process()
    # The copies are not inherited, so that processes of the work do not keep the pipes open.
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    with os.fdopen(answers, "wb") as answered:
        serve(requests, answered)
