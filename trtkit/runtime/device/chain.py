"""The chain on a GPU. A batch's copies and another batch's computation run at the same time.

Three streams: `inward` copies to the device, `compute` runs the engines one after the other, which is
why they can share their scratch memory, `outward` copies to the host. Each batch has a slot of
buffers; the prefix's output buffer is the tail's input buffer. The prefix fills its first rows, the
feature maps that are known already are copied behind them, and the tail runs over all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trtkit.engines.base import Tensor
from trtkit.engines.cuda.device import Stream
from trtkit.engines.cuda.memory import DeviceMemory, PinnedRows, address
from trtkit.engines.tensorrt.engine import TensorRTEngine
from trtkit.errors import TrtkitError
from trtkit.runtime.chain import BatchResult, Chain, Lease
from trtkit.runtime.device.resident import ResidentCache, ResidentLease
from trtkit.runtime.device.runs import PreparedRuns
from trtkit.runtime.device.slot import Slot, row_bytes
from trtkit.tensors import Array

IN_FLIGHT = 2


class DeviceChain:
    """Loaded plans from the root to one tail on one GPU. Not for several threads at once.

    `gpu_cache`: bytes of device memory for feature maps that stay there, 0 for none. `graphs`:
    whether runs are recorded into CUDA graphs.
    """

    depth = IN_FLIGHT
    on_gpu = True

    def __init__(
        self, engines: Sequence[TensorRTEngine], *, gpu_cache: int = 0, graphs: bool = True
    ) -> None:
        self._engines = list(engines)
        self._values = [engines[0].inputs[0], *(engine.outputs[0] for engine in engines)]
        self._row_bytes = [row_bytes(spec) for spec in self._values]
        self._smallest = [engine.batch[0] for engine in engines]
        self.largest = min(engine.batch[1] for engine in engines)
        self._inward, self._compute, self._outward = Stream(), Stream(), Stream()
        most = max(engines, key=lambda engine: engine.scratch_bytes)
        self._scratch = DeviceMemory(
            most.scratch_bytes, f"the intermediate results of {most.name}", "--batch"
        )
        self.runs = PreparedRuns(self._engines, self._scratch, self._compute, graphs=graphs)
        self.resident: ResidentCache | None = None
        if gpu_cache and self.split:
            self.resident = ResidentCache(gpu_cache, self._row_bytes[1])
        self._rows: PinnedRows | None = None
        self._slots: list[Slot] = []
        self._pending: dict[int, DevicePending] = {}
        self._turn = 0

    @property
    def split(self) -> bool:
        return len(self._engines) > 1

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        rows = max(images, *self._smallest)
        if not self._slots or rows > self._slots[0].rows:
            # Batches under way keep their own slots until they are collected.
            self.runs.clear()
            self._slots = []
            self._slots = [Slot(number, rows, self._values) for number in range(IN_FLIGHT)]
        if self.split and read_ahead > (self._rows.count if self._rows is not None else 0):
            spec = self._values[1]
            shape = tuple(size or 1 for size in spec.shape[1:])
            self._rows = PinnedRows(read_ahead, shape, spec.dtype)

    def submit(
        self,
        images: Sequence[Array],
        hits: Sequence[Array | Lease],
        *,
        keys: Sequence[bytes | None] = (),
        keep: bool = False,
        penultimate: bool = False,
    ) -> DevicePending:
        fresh, total = len(images), len(images) + len(hits)
        self._check(total)
        self.reserve(total)
        slot = self._next_slot()
        if fresh:
            self._run_prefix(slot, images)
            if keep and self.split:
                self._outward.wait(slot.prefix_done)
                self._copy_out(slot, 1, slot.features, fresh)
        if hits:
            self._place(slot, hits, fresh)
        for stage in range(1, len(self._engines)):
            self._run(stage, slot, total)
        self._remember(slot, keys, hits, fresh)
        slot.computed.record(self._compute)
        self._outward.wait(slot.computed)
        last = len(self._engines)
        self._copy_out(slot, last, slot.logits, total)
        embeddings = total if penultimate and last > 2 else 0
        if embeddings:
            self._copy_out(slot, last - 1, slot.penultimate, embeddings)
        slot.done.record(self._outward)
        features = fresh if keep and self.split else 0
        pending = DevicePending(self, slot, total, features, embeddings, hits)
        self._pending[slot.number] = pending
        return pending

    def lease(self, key: bytes) -> ResidentLease | None:
        return self.resident.lease(key) if self.resident is not None else None

    def read_hit(self, read: Callable[[Array | None], Array | None]) -> Array | None:
        return read(self._rows.take() if self._rows is not None else None)

    def logits(self, images: Array) -> Array:
        step = self.largest
        parts = [
            self.submit(list(images[start : start + step]), ()).result().logits
            for start in range(0, len(images), step)
        ]
        return np.concatenate(parts)

    def on_device(self, images: Any) -> Tensor:
        # Where a profile has one context alone, batches under way may be using it.
        self._compute.synchronize()
        return Chain(self._engines).on_device(images)

    def close(self) -> None:
        """Wait for what is under way and let go of the buffers."""
        for stream in (self._inward, self._compute, self._outward):
            stream.synchronize()
        self.runs.clear()
        self._pending.clear()
        self._slots = []

    def forget(self, slot: Slot) -> None:
        """The slot's batch was collected."""
        self._pending.pop(slot.number, None)

    def _check(self, images: int) -> None:
        if not 1 <= images <= self.largest:
            raise TrtkitError(
                f"The engines take batches of 1 to {self.largest}, not {images}; choose one of those or "
                "build with --batch."
            )

    def _next_slot(self) -> Slot:
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        waiting = self._pending.get(slot.number)
        if waiting is not None:
            waiting.settle()
        return slot

    def _run_prefix(self, slot: Slot, images: Sequence[Array]) -> None:
        for row, image in enumerate(images):
            slot.images[row] = image
        size = len(images) * self._row_bytes[0]
        self._inward.copy(slot.buffers[0], address(slot.images), size)
        slot.images_in.record(self._inward)
        self._compute.wait(slot.images_in)
        self._run(0, slot, len(images))
        slot.prefix_done.record(self._compute)

    def _run(self, stage: int, slot: Slot, images: int) -> None:
        # Fewer than the engine takes: the rows behind them hold whatever was there, and go nowhere.
        images = max(images, self._smallest[stage])
        source, target = slot.buffers[stage : stage + 2]
        self.runs.enqueue(stage, slot.number, images, source, target)

    def _place(self, slot: Slot, hits: Sequence[Any], first: int) -> None:
        """Copy the feature maps that are known into the rows from `first` on."""
        size = self._row_bytes[1]
        if 0 < first < self._smallest[0]:
            # The prefix runs over more rows than it was given images for: those of the hits.
            self._inward.wait(slot.prefix_done)
        from_host = False
        for row, hit in enumerate(hits, start=first):
            target = slot.buffers[1] + row * size
            if isinstance(hit, ResidentLease):
                self._compute.copy(target, hit.address, size)
                continue
            from_host = True
            self._inward.copy(target, self._pinned_address(slot, row, hit), size)
        if from_host:
            slot.hits_in.record(self._inward)
            self._compute.wait(slot.hits_in)

    def _pinned_address(self, slot: Slot, row: int, hit: Array) -> int:
        spec = self._values[1]
        if self._rows is not None and self._rows.owns(hit) and hit.dtype.name == spec.dtype:
            return address(hit)
        # Also brings a map to the engine's dtype, when it was stored in another.
        slot.hits[row] = hit
        return address(slot.hits) + row * self._row_bytes[1]

    def _remember(
        self, slot: Slot, keys: Sequence[bytes | None], hits: Sequence[Any], fresh: int
    ) -> None:
        """Keep this batch's feature maps on the card, those that are not there already."""
        if self.resident is None:
            return
        size = self._row_bytes[1]
        for row, key in enumerate(keys):
            held = row >= fresh and isinstance(hits[row - fresh], ResidentLease)
            place = None if key is None or held else self.resident.place(key)
            if place is not None:
                self._compute.copy(place, slot.buffers[1] + row * size, size)

    def _copy_out(self, slot: Slot, value: int, host: Array, rows: int) -> None:
        size = rows * self._row_bytes[value]
        self._outward.copy(address(host), slot.buffers[value], size)


class DevicePending:
    """A batch on its way through a slot. Holds the hits that the device still copies from."""

    def __init__(
        self,
        chain: DeviceChain,
        slot: Slot,
        rows: int,
        features: int,
        embeddings: int,
        hits: Sequence[Any],
    ) -> None:
        self._chain = chain
        self._slot = slot
        self._rows = rows
        self._features = features
        self._embeddings = embeddings
        self._hits: Sequence[Any] = hits
        self._outcome: BatchResult | None = None

    def result(self) -> BatchResult:
        if self._outcome is not None:
            return self._outcome
        self._slot.done.synchronize()
        self._hits = ()
        features = self._slot.features[: self._features] if self._features else None
        penultimate = self._slot.penultimate[: self._embeddings] if self._embeddings else None
        self._outcome = BatchResult(self._slot.logits[: self._rows].copy(), features, penultimate)
        self._chain.forget(self._slot)
        return self._outcome

    def settle(self) -> None:
        """Take the result out of the slot, which is wanted for another batch."""
        outcome = self.result()
        self._outcome = BatchResult(
            outcome.logits, _copied(outcome.features), _copied(outcome.penultimate)
        )


def _copied(value: Array | None) -> Array | None:
    return None if value is None else value.copy()
