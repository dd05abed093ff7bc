"""Work done ahead in threads, with the results in the order of the inputs."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError

Item = TypeVar("Item")
Output = TypeVar("Output")


def ordered_map(
    function: Callable[[Item], Output],
    items: Iterable[Item],
    *,
    workers: int,
    ahead: int,
    group: int = 1,
) -> Generator[Output, None, None]:
    """`function` of every item, in the order of `items`, computed by `workers` threads.

    At most `ahead` items are taken from `items` and not yet handed on, whether they wait, run or
    are done: memory does not grow with the number of items, which may be endless. Items are taken
    by the consumer's thread when it asks for the next result, so `items` need not be thread-safe.
    A consumer that takes results in batches of `group` waits once for each batch.

    An exception, from `function` or from `items` itself, is raised where its result would have
    come, and ends the iteration. Whenever it ends early (that way, by `close()` or by Ctrl-C) items
    that have not started are dropped, and the threads have ended when control returns.

    Raises TrtkitError when `workers` or `ahead` is below 1.
    """
    if workers < 1 or ahead < 1:
        raise TrtkitError(
            f"The numbers of worker threads ({workers}) and of items ahead ({ahead}) must be 1 or more."
        )
    return _ordered_map(function, items, workers, ahead, group)


def _ordered_map(
    function: Callable[[Item], Output],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    group: int,
) -> Generator[Output, None, None]:
    # Newest work is dropped and running work awaited on the way out of this block.
    with _Threads(function, min(workers, ahead)) as threads:
        pending: deque[_Task[Item, Output]] = deque()
        iterator = iter(items)
        handed_on = 0
        while True:
            try:
                while len(pending) < ahead:
                    pending.append(threads.submit(next(iterator)))
            except StopIteration:
                iterator = iter(())
            except Exception:
                while pending:
                    yield pending.popleft().result()
                raise
            if not pending:
                break
            if handed_on % group == 0:
                pending[min(group, len(pending)) - 1].wait()
            handed_on += 1
            yield pending.popleft().result()


class _Task(Generic[Item, Output]):
    """An item, and what became of it once `done` is released."""

    __slots__ = ("done", "error", "item", "output")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.output: Output
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def wait(self) -> None:
        with self.done:
            pass

    def result(self) -> Output:
        """Wait for it."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.output


class _Threads(Generic[Item, Output]):
    """Up to `limit` threads that run `function`; leaving it drops what has not started.

    A hit in the cache is found in tens of microseconds. Handing it over as a task takes 2 of them, as a
    Future of a ThreadPoolExecutor 6 and, while the other thread computes, many more.
    """

    def __init__(self, function: Callable[[Item], Output], limit: int) -> None:
        self._function = function
        self._limit = limit
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[_Task[Item, Output] | None] = SimpleQueue()
        self._left = False

    def __enter__(self) -> _Threads[Item, Output]:
        return self

    def __exit__(self, *error: object) -> None:
        self._left = True
        for _ in self._threads:
            self._tasks.put(None)
        # When the program ends, Python has stopped the threads where they are.
        for thread in () if sys.is_finalizing() else self._threads:
            thread.join()

    def submit(self, item: Item) -> _Task[Item, Output]:
        if len(self._threads) < self._limit:
            name = f"trtkit-prefetch-{len(self._threads)}"
            # A program may end while an iteration is suspended, which nothing closes then.
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        task: _Task[Item, Output] = _Task(item)
        self._tasks.put(task)
        return task

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._left:
            self._run(task)
            # Its output is the consumer's alone while this thread waits.
            del task

    def _run(self, task: _Task[Item, Output]) -> None:
        try:
            task.output = self._function(task.item)
        except BaseException as error:
            task.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            task.done.release()


def default_workers() -> int:
    """Decoding threads: one per usable core, at most 16."""
    return min(16, usable_cores())
