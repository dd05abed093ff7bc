"""Queued work and the order in which it runs: any order that streams and events allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import Random

MOST_PENDING = 2000


class Op:
    """A piece of queued work. It may run once everything in `deps` is done."""

    __slots__ = ("action", "deps", "done", "finished", "kind", "stream")

    def __init__(
        self, stream: int, kind: str, action: Callable[[], None] | None, deps: Iterable[Op]
    ) -> None:
        self.stream = stream
        self.kind = kind
        self.action = action
        self.deps = [op for op in deps if not op.done]
        self.done = False
        self.finished = 0.0


class Schedule:
    """Runs nothing before something forces it, and then as little or as much as chance decides."""

    def __init__(self, random: Random) -> None:
        self.log: list[tuple[int, str]] = []
        self._random = random
        self._pending: dict[Op, None] = {}

    def add(self, op: Op) -> Op:
        self._pending[op] = None
        if len(self._pending) > MOST_PENDING:
            self.force([next(iter(self._pending))])
        return op

    @property
    def pending(self) -> list[Op]:
        return list(self._pending)

    def force(self, targets: Iterable[Op]) -> None:
        """Run `targets` and what they wait for; of everything else only what chance picks."""
        needed: set[Op] = set()
        stack = [op for op in targets if not op.done]
        while stack:
            op = stack.pop()
            if op not in needed:
                needed.add(op)
                stack.extend(dep for dep in op.deps if not dep.done)
        generosity = self._random.choice((0.0, 0.0, 0.2, 0.6))
        while needed:
            among = self._pending if self._random.random() < generosity else needed
            op = self._random.choice(self._ready(among))
            needed.discard(op)
            self._run(op)

    def drift(self, most: int) -> None:
        """Run up to `most` ops: a device works while the host does something else."""
        for _ in range(self._random.randint(0, most)):
            ready = self._ready(self._pending)
            if not ready:
                return
            self._run(self._random.choice(ready))

    def _ready(self, among: Iterable[Op]) -> list[Op]:
        ready = [op for op in among if all(dep.done for dep in op.deps)]
        # A set's order depends on addresses, and a seed must mean the same order each time.
        if isinstance(among, set):
            chosen = set(ready)
            ready = [op for op in self._pending if op in chosen]
        return ready

    def _run(self, op: Op) -> None:
        del self._pending[op]
        action, op.action, op.deps, op.done = op.action, None, [], True
        self.log.append((op.stream, op.kind))
        try:
            if action is not None:
                action()
        finally:
            op.finished = time.perf_counter()
