"""The background thread between the callers of `put` and the segments."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable

from trtkit.store.append import Appender
from trtkit.store.codec import Array

QUEUE_BYTES = 64 * 1024 * 1024
COMMIT_BYTES = QUEUE_BYTES // 2
COMMIT_ENTRIES = 256
COMMIT_SECONDS = 1.0
PUT_WAIT_SECONDS = 1.0


class BackgroundWriter:
    """A bounded queue in front of an Appender, which a thread of its own drives. Thread-safe.

    Arrays handed in belong to the writer. It commits every COMMIT_ENTRIES entries, COMMIT_BYTES
    bytes or COMMIT_SECONDS seconds, whichever comes first. After an error it writes no more and
    says why in `failure`; `on_failure` is called once with that sentence.
    """

    def __init__(
        self,
        appender: Appender,
        on_written: Callable[[int], None],
        on_dropped: Callable[[], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._appender = appender
        self._on_written = on_written
        self._on_dropped = on_dropped
        self._on_failure = on_failure
        self.failure: str | None = None
        self._change = threading.Condition()
        # Insertion order is the order of writing. An entry moves from queued to writing when it is
        # appended and leaves with the commit, so that a key is always found somewhere.
        self._queued: dict[bytes, Array] = {}
        self._writing: dict[bytes, Array] = {}
        self._queued_bytes = 0
        self._writing_bytes = 0
        self._accepted = 0
        self._dequeued = 0
        self._appended = 0
        self._committed = 0
        # How many callers wait for a commit.
        self._urgent = 0
        self._closing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="trtkit-store", daemon=True)
        self._thread.start()

    def put(self, key: bytes, value: Array) -> bool:
        """Queue an entry, waiting up to PUT_WAIT_SECONDS for room; False when it was not taken."""
        with self._change:
            older = self._queued.get(key)
            if older is not None:
                # Keeps its place: a flush that waits for the older one gets the newer one.
                self._queued[key] = value
                self._queued_bytes += value.nbytes - older.nbytes
                return True
            if not self._has_room(value.nbytes):
                self._urgent += 1
                self._change.notify_all()
                self._change.wait_for(
                    lambda: self._has_room(value.nbytes) or self._stopped(), PUT_WAIT_SECONDS
                )
                self._urgent -= 1
            if self._stopped() or not self._has_room(value.nbytes):
                return False
            self._queued[key] = value
            self._queued_bytes += value.nbytes
            self._accepted += 1
            self._change.notify_all()
            return True

    def pending(self, key: bytes) -> Array | None:
        """The array put last under `key`, while it is not committed."""
        with self._change:
            queued = self._queued.get(key)
            return queued if queued is not None else self._writing.get(key)

    def flush(self) -> None:
        """Return once all that was put before is committed, or the writer has failed."""
        with self._change:
            target = self._accepted
            self._urgent += 1
            self._change.notify_all()
            self._change.wait_for(lambda: self._committed >= target or self._ended)
            self._urgent -= 1

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join()

    def _stopped(self) -> bool:
        return self._closing or self._ended

    def _has_room(self, size: int) -> bool:
        pending = self._queued_bytes + self._writing_bytes
        return pending == 0 or pending + size <= QUEUE_BYTES

    def _run(self) -> None:
        failure: str | None = "its writer thread ended unexpectedly"
        try:
            self._loop()
            failure = None
        except (OSError, sqlite3.Error, MemoryError) as error:
            failure = f"writing to it failed ({error})"
        finally:
            self._finish(failure)

    def _loop(self) -> None:
        deadline: float | None = None
        while True:
            with self._change:
                wait = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._change.wait_for(self._has_work, wait)
                entry = self._take()
                closing = self._closing
            if entry is not None:
                self._append(*entry)
                deadline = deadline or time.monotonic() + COMMIT_SECONDS
            if self._commit_due(deadline):
                self._commit()
                deadline = None
            if closing and entry is None:
                return

    def _has_work(self) -> bool:
        return bool(self._queued or self._closing or (self._urgent and self._writing))

    def _take(self) -> tuple[bytes, Array] | None:
        """Move the oldest queued entry to those being written."""
        if not self._queued:
            return None
        key = next(iter(self._queued))
        value = self._queued.pop(key)
        self._queued_bytes -= value.nbytes
        self._writing[key] = value
        self._writing_bytes += value.nbytes
        self._dequeued += 1
        return key, value

    def _append(self, key: bytes, value: Array) -> None:
        if self._appender.append(key, value):
            self._appended += 1
        else:
            self._on_dropped()

    def _commit_due(self, deadline: float | None) -> bool:
        with self._change:
            return (
                self._writing_bytes >= COMMIT_BYTES
                or len(self._writing) >= COMMIT_ENTRIES
                or (deadline is not None and time.monotonic() >= deadline)
                or (not self._queued and (self._urgent > 0 or self._closing))
            )

    def _commit(self) -> None:
        self._appender.commit()
        with self._change:
            self._committed = self._dequeued
            self._writing.clear()
            self._writing_bytes = 0
            self._change.notify_all()
        self._on_written(self._appended)
        self._appended = 0

    def _finish(self, failure: str | None) -> None:
        try:
            self._appender.close()
        except OSError as error:
            # What is left behind the last commit is cut off by the next writer.
            failure = failure or f"closing it failed ({error})"
        # Reported before `flush` returns: its caller then checks whether all went well.
        if failure is not None:
            self._on_failure(failure)
        with self._change:
            self.failure = failure
            self._ended = True
            self._queued.clear()
            self._writing.clear()
            self._queued_bytes = self._writing_bytes = 0
            self._change.notify_all()
