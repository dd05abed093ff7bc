"""CUDA graphs: work recorded once and launched as one call."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from trtkit.engines.cuda.device import CudaError, Stream, bindings, call, check


class Graph:
    """What was queued while it was recorded. The addresses in it must stay valid while it is used."""

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        """Record what `enqueue` queues on `stream`; nothing of it runs.

        Raises CudaError when something in it cannot be recorded; the stream is usable afterwards.
        """
        self._runtime = runtime = bindings()
        # Other threads of the process, torch's say, go on calling CUDA meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            enqueue()
        finally:
            code, graph = runtime.cudaStreamEndCapture(stream.handle)
        if int(code) != 0:
            # Left as CUDA's last error it would be found by whoever asks next.
            runtime.cudaGetLastError()
            raise CudaError(f"A run could not be recorded ({code.name}).", code.name)
        try:
            self._executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            runtime.cudaGraphDestroy(graph)
        self._finalizer = weakref.finalize(self, _destroy, self._executable)

    def launch(self, stream: Stream) -> None:
        """Queue all of it on `stream`."""
        status = self._runtime.cudaGraphLaunch(self._executable, stream.handle)
        check("cudaGraphLaunch", status)


def _destroy(executable: object) -> None:
    bindings().cudaGraphExecDestroy(executable)
