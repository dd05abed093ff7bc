"""Other processes: commands that run to their end, and workers of trtkit's own.

A worker is a module of trtkit that runs in a process of its own, so that its memory, its thread pools
and its crashes stay there. Parent and worker exchange messages: a line of JSON each, over the worker's
stdin and stdout. The worker ends when its parent does.

    with Worker("The calibrator", "quantization.worker") as worker:
        worker.send({"photos": [...]})
        answer = worker.receive()

and in that module:

    def main() -> None:
        parent = Parent()
        request = parent.receive()
        parent.send({"ranges": ...})
"""

from __future__ import annotations

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from trtkit.errors import TrtkitError, os_reason

LAUNCH = Path(__file__).with_name("launch.py")

# Seconds for a worker to end by itself; then it is killed.
GRACE = 10.0
# Bytes at the end of stderr that are searched for the last line.
STDERR_TAIL = 8192
# Characters of a last line: some libraries print a whole graph.
LAST_LINE = 400


class CommandFailed(TrtkitError):
    """A command that could not be started, took too long or failed.

    `reason` is why, `output` what it printed until then (stdout, then stderr).
    """

    def __init__(self, program: str, reason: str, output: str = "") -> None:
        super().__init__(f"{program} failed ({reason}).")
        self.reason = reason
        self.output = output


def run_command(
    command: Sequence[str],
    *,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a command prints, stdout then stderr. Raises CommandFailed.

    `timeout`: seconds after which it is killed; None waits until it ends. `environment` is added to this
    process's.
    """
    program = Path(command[0]).name
    try:
        completed = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(program, f"no end after {timeout:g} s") from error
    except OSError as error:
        raise CommandFailed(program, f"cannot be started: {os_reason(error)}") from error
    output = completed.stdout + completed.stderr
    if completed.returncode:
        reason = last_line(output) or f"status {completed.returncode}"
        raise CommandFailed(program, reason, output)
    return output


class WorkerFailed(TrtkitError):
    """A worker that ended, or did not answer in time.

    `how` is what became of it, as in "ended with status 1"; `last_line` the end of its stderr.
    """

    def __init__(self, name: str, how: str, last_line: str = "") -> None:
        detail = f": {last_line}" if last_line else ""
        super().__init__(f"{name} {how}{detail}")
        self.how = how
        self.last_line = last_line


class Worker:
    """The parent's side of a worker process, which starts at once.

    `name` begins the sentences of errors; `module` is below `trtkit`, and its `main` takes
    `arguments`. `environment` is added to this process's. `python` is the interpreter, by default this
    process's. The worker leads a session of its own: Ctrl-C reaches the parent alone, and the worker's
    children end with it.

    Raises WorkerFailed when the process cannot be started.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        grace: float = GRACE,
        python: str | None = None,
    ) -> None:
        self.name = name
        self._grace = grace
        self._received = b""
        self._closed = False
        # A file, because nobody reads a pipe while the worker writes.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, str(LAUNCH), module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise WorkerFailed(name, f"could not be started ({os_reason(error)})") from error
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    @property
    def pid(self) -> int:
        """The id of the process, and of the session that it leads."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
        """Send a request and return the answer. Raises WorkerFailed.

        After any exception, Ctrl-C included, the worker is gone: its answer would come later, in the
        place of another.
        """
        try:
            self.send(request)
            return self.receive(timeout=timeout)
        except BaseException:
            self.kill()
            raise

    def send(self, message: Mapping[str, Any] | None) -> None:
        """Send a message; None asks the worker to end. `receive` reports when it has ended."""
        with suppress(BrokenPipeError):
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()

    def receive(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The next message of the worker, waited for at most `timeout` seconds.

        Raises WorkerFailed when none comes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or not selector.select(left):
                    raise WorkerFailed(self.name, f"did not answer within {timeout:g} s")
                chunk = os.read(self._stdout.fileno(), 1 << 16)
                if not chunk:
                    raise WorkerFailed(self.name, self._how_it_ended(), self._last_line())
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return cast(dict[str, Any], json.loads(line))

    def close(self) -> None:
        """Ask the worker to end, wait for it, and kill what is left of it after its grace."""
        if self._closed:
            return
        try:
            self.send(None)
        except BaseException:
            # Ctrl-C while the pipe was full: nothing of it may stay.
            self.kill()
            raise
        self._reap(self._grace)

    def kill(self) -> None:
        """End the worker and its children at once."""
        if not self._closed:
            self._reap(0.0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _reap(self, grace: float) -> None:
        self._closed = True
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        finally:
            # While a process of the session lives, no other session gets its number.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            # What was not written yet goes into a pipe without a reader.
            with suppress(OSError):
                self._stdin.close()
            self._stdout.close()
            self._stderr.close()

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            return "closed its pipe and did not end"
        if status >= 0:
            return f"ended with status {status}"
        if -status == signal.SIGKILL:
            return "was killed (SIGKILL, as the system does when memory runs out)"
        return f"crashed ({_signal_name(-status)})"

    def _last_line(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL))
        return last_line(self._stderr.read().decode(errors="replace"))


class Parent:
    """The worker's side: the parent's messages, and what is sent to it.

    It takes over the process's stdin and stdout: what else reads stdin finds it empty, and what is
    printed goes to stderr. When the parent dies the process ends at once, whatever it is doing.
    """

    def __init__(self) -> None:
        # Copies are not inherited, so that the worker's children do not keep the pipes open.
        requests, answers = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._answers = os.fdopen(answers, "wb")
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the parent wants the worker to end."""
        return self._waiting.get()

    def send(self, message: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(message).encode() + b"\n")
        self._answers.flush()

    def _read(self, requests: int) -> None:
        with os.fdopen(requests, "rb") as lines:
            for line in lines:
                message = json.loads(line)
                self._waiting.put(message)
                if message is None:
                    return
        os._exit(1)


def last_line(text: str) -> str:
    """The last line of `text` that is not blank, shortened to a readable length."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    line = " ".join(line.split())
    return line if len(line) <= LAST_LINE else line[: LAST_LINE - 4] + " ..."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
