"""Recording a stream's work into a graph, and launching it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cuda.bindings import runtime as real

from tests.engines.simulated.errors import CudaFailure
from tests.engines.simulated.schedule import Op, Schedule

Error = real.cudaError_t
Mode = real.cudaStreamCaptureMode


@dataclass(eq=False)
class Node:
    """One recorded op. Its action must be able to run again and again."""

    kind: str
    action: Callable[[], None] | None
    deps: list[Node]


@dataclass(eq=False)
class Stream:
    handle: int
    flags: int
    last: Op | None = None
    capture: Capture | None = None


@dataclass(eq=False)
class Event:
    handle: int
    flags: int
    op: Op | None = None
    capture: Capture | None = None
    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Graph:
    handle: int
    nodes: list[Node]


@dataclass(eq=False)
class Exec(Graph):
    """A graph that can be launched; its launches follow each other."""

    last: Op | None = None


class Capture:
    """The recording that begins on one stream and that others join by waiting for its events."""

    def __init__(self, origin: Stream, mode: real.cudaStreamCaptureMode) -> None:
        self.origin = origin
        self.mode = mode
        self.thread = threading.get_ident()
        self.nodes: list[Node] = []
        self.tails: dict[Stream, list[Node]] = {}
        self.valid = True
        self.active = True
        self.join(origin, [])

    def join(self, stream: Stream, nodes: list[Node]) -> None:
        stream.capture = self
        tails = self.tails.setdefault(stream, [])
        tails += [node for node in nodes if node not in tails]

    def add(self, stream: Stream, kind: str, action: Callable[[], None] | None) -> None:
        if not self.valid:
            raise CudaFailure(Error.cudaErrorStreamCaptureInvalidated)
        node = Node(kind, action, self.tails[stream])
        self.nodes.append(node)
        self.tails[stream] = [node]

    def spoil(self, error: real.cudaError_t) -> CudaFailure:
        """Invalidate the recording; returns what to raise."""
        self.valid = False
        return CudaFailure(error)

    def forbids_unsafe_calls(self) -> bool:
        """Whether this thread may now make no call that could synchronise."""
        if self.mode == Mode.cudaStreamCaptureModeThreadLocal:
            return self.thread == threading.get_ident()
        return bool(self.mode == Mode.cudaStreamCaptureModeGlobal)

    def end(self) -> list[Node]:
        """Close the recording. Raises CudaFailure when it is of no use."""
        self.active = False
        for stream in self.tails:
            stream.capture = None
        if not self.valid:
            raise CudaFailure(Error.cudaErrorStreamCaptureInvalidated)
        reached: set[Node] = set()
        stack = list(self.tails[self.origin])
        while stack:
            node = stack.pop()
            if node not in reached:
                reached.add(node)
                stack.extend(node.deps)
        if any(node not in reached for tails in self.tails.values() for node in tails):
            raise CudaFailure(Error.cudaErrorStreamCaptureUnjoined)
        return self.nodes


def launch(schedule: Schedule, graph: Exec, stream: Stream) -> None:
    """Queue a graph's work behind what the stream and earlier launches of the graph hold."""
    before: Iterable[Op] = [op for op in (stream.last, graph.last) if op is not None]
    start = schedule.add(Op(stream.handle, "graph begin", None, before))
    made: dict[Node, Op] = {}
    for node in graph.nodes:
        deps = [start, *(made[dep] for dep in node.deps)]
        made[node] = schedule.add(Op(stream.handle, node.kind, node.action, deps))
    end = Op(stream.handle, "graph end", None, [start, *made.values()])
    stream.last = graph.last = schedule.add(end)
