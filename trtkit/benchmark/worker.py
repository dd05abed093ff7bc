"""A contestant in a process of its own.

Thread pools, memory and crashes of one never touch another, and a process that waits for its turn
does nothing. The parent sends `load` with the spec, `round` and `labels`, each answered by one message
(`trtkit.subprocesses`).
"""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from trtkit.benchmark.protocol import ContestantFailed, uncollected
from trtkit.cpu import own_process, usable_cores
from trtkit.errors import TrtkitError, first_line
from trtkit.subprocesses import GRACE, Parent, Worker, WorkerFailed, last_line

FACTORY = "trtkit.benchmark.competitors:load"


class Loaded:
    """What a worker measures, ready to run. Not for several threads at once.

    `images`: photos of one run; `note`: what was chosen at loading, empty for nothing; `facts`: what
    else the parent wants to know.
    """

    images = 0
    note = ""
    facts: Mapping[str, Any] = MappingProxyType({})

    def before(self) -> None:
        """What has to happen before each run and is not timed."""

    def run(self) -> float | None:
        """One pass over all photos: the seconds that its device took, None to let the caller time it.

        Raises TrtkitError or ImageError when it failed.
        """
        raise NotImplementedError

    def labels(self) -> list[int]:
        """The index of the best class of every photo, in the order of the spec; takes a pass.

        Empty for one that runs on other numbers than the photos'.
        """
        return []

    def close(self) -> None:
        """Give back what it holds."""


class WorkerContestant:
    """A Contestant whose work is done in a process of its own.

    `spec` goes to the worker as JSON and there to the function that `spec["factory"]` names,
    "module:function", without that entry; by default to trtkit.benchmark.competitors:load. It returns
    what is measured (`Loaded`). `timeout`: seconds that each answer may take, loading included;
    `grace`: seconds that a process has to end before it is killed. `cores`: how many cores it runs on,
    the first of those that this process may use; None for all of them. `python`: the interpreter, by
    default this one; another one needs what the factory imports.

    `images` (photos of a round), `note` and `facts` are what the worker tells after loading; 0 and
    empty before.

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
        python: str | None = None,
    ) -> None:
        self.name = name
        self.images = 0
        self.note = ""
        self.facts: dict[str, Any] = {}
        self._spec = dict(spec)
        self._timeout = timeout
        self._start = partial(
            Worker, name, "benchmark.worker", str(cores or 0), grace=grace, python=python
        )
        self._worker: Worker | None = None
        self._why_ended: str | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process, None while there is none."""
        return None if self._worker is None else self._worker.pid

    def load(self, spec: Mapping[str, Any] | None = None) -> None:
        """Start the process and load the work, unless that was done; another `spec` replaces it.

        Raises ContestantFailed.
        """
        if self._why_ended is not None:
            raise ContestantFailed(self._why_ended)
        if self._worker is not None and spec is None:
            return
        self._spec = self._spec if spec is None else dict(spec)
        if self._worker is None:
            try:
                self._worker = self._start()
            except WorkerFailed as error:
                raise self._failure(error.how) from error
        answer = self._ask({"command": "load", "spec": self._spec})
        self.images, self.note = int(answer["images"]), str(answer["note"])
        self.facts = answer.get("facts", {})

    def round(self) -> float:
        """One round: the seconds that the worker measured around its work alone, or its device's.

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
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> WorkerContestant:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `request`. After any exception the process is gone."""
        worker, command = cast(Worker, self._worker), request["command"]
        try:
            answer = worker.ask(request, timeout=self._timeout)
        except WorkerFailed as error:
            detail = f": {error.last_line}" if error.last_line else ""
            raise self._failure(f"{error.how} during {command}{detail}") from error
        except BaseException:
            self._failure(f"was stopped during {command}")
            raise
        if "error" in answer:
            worker.kill()
            raise self._failure(answer["error"])
        return answer

    def _failure(self, why: str) -> ContestantFailed:
        self._worker = None
        self._why_ended = f"{self.name} {why.rstrip('.')}."
        return ContestantFailed(self._why_ended)


def round_seconds(work: Loaded) -> float:
    """One round of what was loaded: its device's seconds, or those that the host waited."""
    work.before()
    with uncollected():
        start = time.perf_counter()
        device_seconds = work.run()
        passed = time.perf_counter() - start
    return passed if device_seconds is None else device_seconds


def main(cores: str) -> None:
    """Answer the parent's requests until it ends the worker; `cores` as `confine` takes them.

    An error of the work is answered with its sentence and raised.
    """
    confine(int(cores))
    # As the command line does, so that engines are set up alike.
    own_process()
    parent = Parent()
    work: Loaded | None = None
    while (request := parent.receive()) is not None:
        command = request["command"]
        try:
            if command == "load":
                if work is not None:
                    work.close()
                gc.unfreeze()
                work = _load(request["spec"])
                # Rounds do not scan what was loaded for garbage.
                gc.freeze()
            answer = _answer(command, cast(Loaded, work))
        except Exception as error:
            parent.send({"error": f"failed at {command}: {_reason(error)}"})
            raise
        parent.send(answer)
    if work is not None:
        work.close()


def confine(cores: int) -> None:
    """Let this process and its threads run on the first `cores` of its cores alone; 0 for all of them.

    To be called before libraries are imported, which then start as many threads.
    """
    if cores and cores != usable_cores():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _load(spec: dict[str, Any]) -> Loaded:
    module, _, function = spec.pop("factory", FACTORY).partition(":")
    return cast(Loaded, getattr(importlib.import_module(module), function)(spec))


def _answer(command: str, work: Loaded) -> dict[str, Any]:
    if command == "load":
        facts = dict(getattr(work, "facts", {}))
        return {"images": work.images, "note": work.note, "facts": facts}
    if command == "labels":
        return {"labels": [int(label) for label in work.labels()]}
    if command == "round":
        return {"seconds": round_seconds(work)}
    raise TrtkitError(f"Command `{command}` not found; available: load, round, labels.")


def _reason(error: Exception) -> str:
    """The first line of the error; of errors that are not trtkit's, with their type."""
    first, name = first_line(error), type(error).__name__
    own = isinstance(error, TrtkitError) or first == name
    return last_line(first if own else f"{name}: {first}")
