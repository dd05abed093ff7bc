"""The simulated runtime's calls about streams, events and graphs."""

from __future__ import annotations

from typing import Any

from cuda.bindings import runtime as real

from tests.engines.simulated.calls import call
from tests.engines.simulated.capture import Capture, Event, Exec, Graph, Stream, launch
from tests.engines.simulated.errors import CudaFailure, SimulationError

Error = real.cudaError_t
Status = real.cudaStreamCaptureStatus


class StreamCalls:
    """Mixed into SimulatedCuda, whose attributes it uses."""

    @call(1)
    def cudaStreamCreateWithFlags(self, flags):
        return real.cudaStream_t(self.register(lambda handle: Stream(handle, flags)))

    @call(ends=True)
    def cudaStreamDestroy(self, stream):
        # As on a real device, work that is queued still runs.
        self.drop(stream, Stream)

    @call()
    def cudaStreamSynchronize(self, stream):
        found = self.stream(stream)
        if found.capture:
            raise found.capture.spoil(Error.cudaErrorStreamCaptureUnsupported)
        if found.last:
            self.schedule.force([found.last])

    @call()
    def cudaStreamQuery(self, stream):
        found = self.stream(stream)
        if found.capture:
            raise found.capture.spoil(Error.cudaErrorStreamCaptureUnsupported)
        self.schedule.drift(4)
        if found.last and not found.last.done:
            raise CudaFailure(Error.cudaErrorNotReady)

    @call()
    def cudaStreamWaitEvent(self, stream, event, flags):
        found, waited = self.stream(stream), self.find(event, Event)
        if waited.capture is not None:
            if not waited.capture.active:
                raise SimulationError("waiting for an event of a capture that has ended")
            if found.capture not in (None, waited.capture):
                raise found.capture.spoil(Error.cudaErrorStreamCaptureMerge)
            waited.capture.join(found, waited.nodes)
        elif waited.op is not None:
            if found.capture:
                raise found.capture.spoil(Error.cudaErrorStreamCaptureIsolation)
            self.enqueue(found, "wait", None, [waited.op])

    @call(1)
    def cudaStreamIsCapturing(self, stream):
        capture = self.stream(stream).capture
        if capture is None:
            return Status.cudaStreamCaptureStatusNone
        if not capture.valid:
            return Status.cudaStreamCaptureStatusInvalidated
        return Status.cudaStreamCaptureStatusActive

    @call(1)
    def cudaEventCreateWithFlags(self, flags):
        return real.cudaEvent_t(self.register(lambda handle: Event(handle, flags)))

    @call(ends=True)
    def cudaEventDestroy(self, event):
        self.drop(event, Event)

    @call()
    def cudaEventRecord(self, event, stream):
        found, recorded = self.stream(stream), self.find(event, Event)
        recorded.capture, recorded.op, recorded.nodes = found.capture, None, []
        if found.capture:
            recorded.nodes = list(found.capture.tails[found])
        else:
            self.enqueue(found, "record", None)
            recorded.op = found.last

    # PyTorch's watchdog showed that these two break a capture in another thread.
    @call(unsafe=True)
    def cudaEventSynchronize(self, event):
        found = self._finished_outside_capture(event)
        if found.op:
            self.schedule.force([found.op])

    @call(unsafe=True)
    def cudaEventQuery(self, event):
        found = self._finished_outside_capture(event)
        self.schedule.drift(4)
        if found.op and not found.op.done:
            raise CudaFailure(Error.cudaErrorNotReady)

    def _finished_outside_capture(self, event: Any) -> Event:
        found: Event = self.find(event, Event)
        if found.capture:
            raise CudaFailure(Error.cudaErrorCapturedEvent)
        return found

    @call(1)
    def cudaEventElapsedTime(self, start, end):
        ends = [self.find(event, Event) for event in (start, end)]
        if any(event.flags & real.cudaEventDisableTiming or event.op is None for event in ends):
            raise CudaFailure(Error.cudaErrorInvalidResourceHandle)
        if not all(event.op.done for event in ends):
            raise CudaFailure(Error.cudaErrorNotReady)
        return (ends[1].op.finished - ends[0].op.finished) * 1000

    @call()
    def cudaStreamBeginCapture(self, stream, mode):
        found = self.stream(stream)
        if found.capture:
            raise CudaFailure(Error.cudaErrorIllegalState)
        if not isinstance(mode, real.cudaStreamCaptureMode):
            raise TypeError(f"mode must be a cudaStreamCaptureMode, not {mode!r}")
        self.capturing.append(Capture(found, mode))

    @call(1)
    def cudaStreamEndCapture(self, stream):
        found = self.stream(stream)
        capture = found.capture
        if capture is None:
            raise CudaFailure(Error.cudaErrorIllegalState)
        if capture.origin is not found:
            raise capture.spoil(Error.cudaErrorStreamCaptureUnmatched)
        self.capturing.remove(capture)
        nodes = capture.end()
        self.captures += 1
        return real.cudaGraph_t(self.register(lambda handle: Graph(handle, nodes)))

    @call(1)
    def cudaGraphInstantiate(self, graph, flags):
        nodes = self.find(graph, Graph).nodes
        return real.cudaGraphExec_t(self.register(lambda handle: Exec(handle, nodes)))

    @call()
    def cudaGraphUpload(self, graphExec, stream):
        self.find(graphExec, Exec)
        self.stream(stream)

    @call()
    def cudaGraphLaunch(self, graphExec, stream):
        found, graph = self.stream(stream), self.find(graphExec, Exec)
        if found.capture:
            raise SimulationError("the simulation cannot capture the launch of a graph")
        launch(self.schedule, graph, found)
        self.launches += 1

    @call(ends=True)
    def cudaGraphExecDestroy(self, graphExec):
        self.drop(graphExec, Exec)

    @call(ends=True)
    def cudaGraphDestroy(self, graph):
        self.drop(graph, Graph)
