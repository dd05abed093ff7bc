"""Reading ahead: a source is decoded in a thread while its frames are looked at."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_END = object()
# How often a thread that waits for room looks whether anybody still listens.
_LOOK_SECONDS = 0.1


def ahead(items: Iterator[Item], limit: int) -> Generator[Item]:
    """The same items in the same order, taken before they are asked for.

    Up to `limit` of them wait, and one more may be at hand. An error of `items` is raised where it
    comes in the order. Closed early, it stops taking them.
    """
    waiting: queue.Queue[object] = queue.Queue(limit)
    stopped = threading.Event()
    failed: list[BaseException] = []

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_LOOK_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def take() -> None:
        try:
            try:
                for item in items:
                    if not put(item):
                        break
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - raised again below, where it is listened for
            failed.append(error)
        put(_END)

    thread = threading.Thread(target=take, name="trtkit-decode", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            yield item  # type: ignore[misc]
        if failed:
            raise failed[0]
    finally:
        stopped.set()
        thread.join()
