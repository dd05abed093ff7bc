"""Calls of many threads share batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


class SharedBatches(Generic[Item, Output]):
    """Runs what several threads bring in batches of up to `limit` items.

    No thread of its own: of those that wait one runs what has come meanwhile, for all of them. Before
    that it waits for callers that are still preparing theirs, at most as long as the last batch took. So
    a single caller waits for nobody, and the more callers there are the larger the batches.

    >>> sizes = []
    >>> doubled = SharedBatches(lambda items: sizes.append(len(items)) or [2 * n for n in items], limit=2)
    >>> doubled(lambda: [1, 2, 3]), sizes
    ([2, 4, 6], [2, 1])
    """

    def __init__(self, run: Callable[[list[Item]], Sequence[Output]], *, limit: int) -> None:
        self._run = run
        self._limit = limit
        self._waiting: deque[tuple[Item, Future[Output]]] = deque()
        self._preparing = 0
        # Of the two above.
        self._changed = threading.Condition()
        self._running = threading.Lock()
        self._last_seconds = 0.0

    def __call__(self, prepare: Callable[[], Sequence[Item]]) -> list[Output]:
        """The output of each item that `prepare` gives.

        An error of a batch is raised for each caller with an item in it; one of `prepare` for its caller.
        """
        with self._changed:
            self._preparing += 1
        items: Sequence[Item] = ()
        futures: list[Future[Output]] = []
        try:
            items = prepare()
        finally:
            with self._changed:
                self._preparing -= 1
                futures = [Future() for _ in items]
                self._waiting.extend(zip(items, futures, strict=True))
                self._changed.notify_all()
        while not all(future.done() for future in futures):
            with self._running:
                if not all(future.done() for future in futures):
                    self._run_batch()
        return [future.result() for future in futures]

    def _run_batch(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not self._preparing or len(self._waiting) >= self._limit,
                timeout=self._last_seconds,
            )
            count = min(self._limit, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
        started = time.perf_counter()
        try:
            outputs = self._run([item for item, _ in batch])
            for (_, future), output in zip(batch, outputs, strict=True):
                future.set_result(output)
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                # Ctrl-C is for this thread, whoever's items were in the batch.
                raise
            return
        self._last_seconds = time.perf_counter() - started
