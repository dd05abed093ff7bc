"""Engine runs that were prepared: bound to their buffers, and recorded once they come again."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from trtkit.engines.cuda.device import CudaError, Graph, Stream
from trtkit.engines.cuda.memory import DeviceMemory
from trtkit.engines.tensorrt.engine import Binding, TensorRTEngine
from trtkit.errors import TrtkitError

log = logging.getLogger("trtkit.device")

# Of each stage: in two slots it has two runs for each batch size. A binding is an execution context:
# memory on the host, and some on the device besides the shared scratch.
MAX_RUNS = 16
# A recording can fail for a reason that passes, such as memory that was freed meanwhile.
MAX_FAILED_RECORDINGS = 3


class PreparedRuns:
    """At most `limit` prepared runs a stage, the longest unused dropped; all on one stream.

    A run that comes a second time is recorded into a CUDA graph. The first time it is not: its
    warm-up must not be in the record, and a size that comes once is not worth one.
    """

    def __init__(
        self,
        engines: Mapping[str, TensorRTEngine],
        scratch: DeviceMemory,
        stream: Stream,
        *,
        limit: int = MAX_RUNS,
        graphs: bool = True,
    ) -> None:
        self._engines = engines
        self._scratch = scratch
        self._stream = stream
        self._limit = limit * len(engines)
        self._recordings_left = MAX_FAILED_RECORDINGS if graphs else 0
        self._runs: OrderedDict[tuple[str, int, int], PreparedRun] = OrderedDict()
        self.recorded = 0

    def __len__(self) -> int:
        return len(self._runs)

    def enqueue(self, stage: str, slot: int, images: int, addresses: Mapping[str, int]) -> None:
        """Run the engine of `stage` on `images` images.

        `addresses`: of its tensors on the device, by their names; the same each time for one stage and
        slot, until `clear`.
        """
        key = (stage, slot, images)
        run = self._runs.get(key)
        if run is None:
            self._make_room()
            engine = self._engines[stage]
            binding = Binding(engine, images, addresses, self._scratch, self._stream)
            run = self._runs[key] = PreparedRun(binding)
            binding.enqueue()
            return
        self._runs.move_to_end(key)
        if run.graph is None and self._recordings_left and run.binding.capturable:
            self._record(run)
        if run.graph is not None:
            run.graph.launch(self._stream)
        else:
            run.binding.enqueue()

    def clear(self) -> None:
        """Forget all of them, once they have run."""
        self._stream.synchronize()
        self._runs.clear()

    def _record(self, run: PreparedRun) -> None:
        try:
            run.graph = Graph(self._stream, run.binding.enqueue)
            self.recorded += 1
        except (CudaError, TrtkitError) as error:
            # Some engines cannot be recorded; they run as well without.
            self._recordings_left -= 1
            log.info("a run is queued one call at a time: %s", error)

    def _make_room(self) -> None:
        if len(self._runs) >= self._limit:
            # What is dropped may be running.
            self._stream.synchronize()
            self._runs.popitem(last=False)


@dataclass
class PreparedRun:
    """An engine bound to its buffers, and the graph of its run once it is recorded."""

    binding: Binding
    graph: Graph | None = None
