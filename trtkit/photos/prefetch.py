"""Work done ahead in threads, with the results in the order of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError

Item = TypeVar("Item")
Output = TypeVar("Output")


def ordered_map(
    function: Callable[[Item], Output], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Output, None, None]:
    """`function` of every item, in the order of `items`, computed by `workers` threads.

    At most `ahead` items are taken from `items` and not yet handed on, whether they wait, run or
    are done: memory does not grow with the number of items, which may be endless. Items are taken
    by the consumer's thread when it asks for the next result, so `items` need not be thread-safe.

    An exception, from `function` or from `items` itself, is raised where its result would have
    come, and ends the iteration. Whenever it ends early (that way, by `close()` or by Ctrl-C) items
    that have not started are dropped, and the threads have ended when control returns.

    Raises TrtkitError when `workers` or `ahead` is below 1.
    """
    if workers < 1 or ahead < 1:
        raise TrtkitError(
            f"The numbers of worker threads ({workers}) and of items ahead ({ahead}) must be 1 or more."
        )
    return _ordered_map(function, items, workers, ahead)


def _ordered_map(
    function: Callable[[Item], Output], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Output, None, None]:
    # Newest work is dropped and running work awaited on the way out of this block.
    with _Threads(min(workers, ahead)) as threads:
        pending: deque[Future[Output]] = deque()
        iterator = iter(items)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception:
                while pending:
                    yield pending.popleft().result()
                raise
            pending.append(threads.submit(function, item))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class _Threads(ThreadPoolExecutor):
    """A pool that forgets the work not yet started when it is left; its base would do it all."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="trtkit-prefetch")

    def __exit__(self, *error: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """Decoding threads: one per usable core, at most 16."""
    return min(16, usable_cores())
