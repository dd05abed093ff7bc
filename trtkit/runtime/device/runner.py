"""The runner on a GPU. A batch's copies and another batch's computation run at the same time.

Three streams: `inward` copies to the device, `compute` runs the engines one after the other, which is
why they can share their scratch memory, `outward` copies to the host. Each batch has a slot of
buffers; a stage's output buffer is its children's input buffer. A stage fills its first rows, the maps
that are known already are copied behind them, and its children run over all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from trtkit.engines.base import Tensor
from trtkit.engines.cuda.device import Stream
from trtkit.engines.cuda.memory import DeviceMemory, PinnedRows, address
from trtkit.engines.tensorrt.engine import TensorRTEngine
from trtkit.errors import TrtkitError
from trtkit.runtime.device.resident import ResidentCache, ResidentLease
from trtkit.runtime.device.runs import PreparedRuns
from trtkit.runtime.device.slot import Slot, row_bytes
from trtkit.runtime.runner import (
    NOTHING,
    HostRunner,
    Known,
    Lease,
    Outputs,
    PassPlan,
    Planner,
    sources_of,
)
from trtkit.stages import OutputRef, Stage
from trtkit.tensors import Array

IN_FLIGHT = 2


class DeviceRunner:
    """Loaded plans of a tree of stages on one GPU.

    `engines`: the plan of each stage, by the stage's name. `guarded`: the edge that a feature store
    guards, None for none; `gpu_cache`: bytes of device memory for its maps that stay there, 0 for
    none. `graphs`: whether runs are recorded into CUDA graphs.
    """

    depth = IN_FLIGHT
    on_gpu = True

    def __init__(
        self,
        stages: Sequence[Stage],
        engines: Mapping[str, TensorRTEngine],
        *,
        guarded: OutputRef | None = None,
        gpu_cache: int = 0,
        graphs: bool = True,
    ) -> None:
        self._stages = list(stages)
        self._engines = engines
        self.planner = Planner(stages)
        self._image = next(stage.inputs[0] for stage in stages if stage.parent is None)
        self._row_bytes = {ref: row_bytes(spec) for ref, spec in self.planner.outputs.items()}
        self._smallest = {name: engine.batch[0] for name, engine in engines.items()}
        self.largest = min(engine.batch[1] for engine in engines.values())
        self._inward, self.compute, self._outward = Stream(), Stream(), Stream()
        most = max(engines.values(), key=lambda engine: engine.scratch_bytes)
        self._scratch = DeviceMemory(
            most.scratch_bytes, f"the intermediate results of {most.name}", "--batch"
        )
        self.runs = PreparedRuns(engines, self._scratch, self.compute, graphs=graphs)
        self._guarded = guarded
        self.resident: ResidentCache | None = None
        if gpu_cache and guarded is not None:
            self.resident = ResidentCache(gpu_cache, self._row_bytes[guarded])
        self._rows: PinnedRows | None = None
        self.slots: list[Slot] = []
        self._pending: dict[int, DevicePending] = {}
        self._turn = 0
        self.lock: AbstractContextManager[Any] = threading.RLock()

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        rows = max(images, *self._smallest.values())
        if not self.slots or rows > self.slots[0].rows:
            # Batches under way keep their own slots until they are collected.
            self.runs.clear()
            self.slots = []
            self.slots = [
                Slot(number, rows, self._image, self.planner.outputs) for number in range(IN_FLIGHT)
            ]
        if self._guarded and read_ahead > (self._rows.count if self._rows is not None else 0):
            spec = self.planner.outputs[self._guarded]
            shape = tuple(size or 1 for size in spec.shape[1:])
            self._rows = PinnedRows(read_ahead, shape, spec.dtype)

    def submit(
        self,
        wanted: Sequence[OutputRef],
        images: Sequence[Array],
        known: Known = NOTHING,
        *,
        keys: Sequence[bytes | None] = (),
    ) -> DevicePending:
        self.planner.check_images(images)
        work = self.planner.plan(wanted, len(images), known)
        hits = len(known.get(self._guarded, ())) if self._guarded is not None else 0
        if keys and len(keys) != len(images) + hits:
            raise TrtkitError(
                f"{len(keys)} keys do not fit {len(images)} images and {hits} known maps of "
                f"{self._guarded}; give a key or None for each, or no keys."
            )
        with self.lock:
            return self._start(wanted, images, known, keys, work)

    def enqueue(self, slot: Slot, images: int) -> None:
        """Queue all engines, on so many images that lie in the slot already, on the stream `compute`."""
        for stage in self._stages:
            self._run(stage, slot, images)

    def run(
        self, wanted: Sequence[OutputRef], images: Array, known: Known = NOTHING
    ) -> dict[OutputRef, Array]:
        if any(map(len, known.values())):
            with self.lock:
                outputs = _copied(self.submit(wanted, list(images), known).result())
            return {ref: outputs.get(ref, self.planner.empty(ref)) for ref in wanted}
        self.planner.plan(wanted, len(images), NOTHING)
        with self.lock:
            parts = [
                _copied(self.submit(wanted, list(images[start : start + self.largest])).result())
                for start in range(0, len(images), self.largest)
            ]
        return {
            ref: np.concatenate([self.planner.empty(ref), *(part[ref] for part in parts)])
            for ref in wanted
        }

    def on_device(self, wanted: OutputRef, images: Any) -> Tensor:
        # Where a profile has one context alone, batches under way may be using it.
        with self.lock:
            self.compute.synchronize()
            return HostRunner(self._stages, self._engines).on_device(wanted, images)

    def lease(self, key: bytes) -> Lease | None:
        return self.resident.lease(key) if self.resident is not None else None

    def read_hit(self, read: Callable[[Array | None], Array | None]) -> Array | None:
        return read(self._rows.take() if self._rows is not None else None)

    def close(self) -> None:
        """Wait for what is under way and let go of the buffers."""
        with self.lock:
            for stream in (self._inward, self.compute, self._outward):
                stream.synchronize()
            self.runs.clear()
            self._pending.clear()
            self.slots = []

    def is_logits(self, ref: OutputRef) -> bool:
        return self.planner.outputs[ref].kind == "logits"

    def forget(self, slot: Slot) -> None:
        """The slot's batch was collected."""
        self._pending.pop(slot.number, None)

    def _start(
        self,
        wanted: Sequence[OutputRef],
        images: Sequence[Array],
        known: Known,
        keys: Sequence[bytes | None],
        work: PassPlan,
    ) -> DevicePending:
        total = max(work.rows.values(), default=0)
        self._check(total)
        self.reserve(total)
        slot = self._next_slot()
        if len(images):
            self._copy_images(slot, images)
        last = work.stages[-1].name
        placed: set[OutputRef] = set()
        for stage in work.stages:
            for ref in sources_of(stage):
                if len(known.get(ref, ())) and ref not in placed:
                    placed.add(ref)
                    self._place(slot, ref, known[ref], work.rows[ref.stage])
            self._run(stage, slot, work.rows[stage.name])
            slot.made[stage.name].record(self.compute)
            early = [ref for ref in wanted if ref.stage == stage.name != last]
            if early:
                self._outward.wait(slot.made[stage.name])
                self._copy_out(slot, early, work)
        self._remember(slot, keys, known, len(images))
        slot.computed.record(self.compute)
        self._outward.wait(slot.computed)
        self._copy_out(slot, [ref for ref in wanted if ref.stage == last], work)
        slot.done.record(self._outward)
        rows = {ref: work.rows[ref.stage] for ref in wanted if work.rows[ref.stage]}
        pending = DevicePending(self, slot, rows, known)
        self._pending[slot.number] = pending
        return pending

    def _check(self, images: int) -> None:
        if not 1 <= images <= self.largest:
            raise TrtkitError(
                f"The engines take batches of 1 to {self.largest}, not {images}; choose one of those or "
                "build with --batch."
            )

    def _next_slot(self) -> Slot:
        slot = self.slots[self._turn]
        self._turn = (self._turn + 1) % len(self.slots)
        waiting = self._pending.get(slot.number)
        if waiting is not None:
            waiting.settle()
        return slot

    def _copy_images(self, slot: Slot, images: Sequence[Array]) -> None:
        for row, image in enumerate(images):
            slot.images[row] = image
        self._inward.copy(slot.image, address(slot.images), len(images) * row_bytes(self._image))
        slot.images_in.record(self._inward)
        self.compute.wait(slot.images_in)

    def _run(self, stage: Stage, slot: Slot, images: int) -> None:
        # Fewer than the engine takes: the rows behind them hold whatever was there, and go nowhere.
        images = max(images, self._smallest[stage.name])
        self.runs.enqueue(stage.name, slot.number, images, slot.addresses(stage))

    def _place(self, slot: Slot, ref: OutputRef, known: Sequence[Any], first: int) -> None:
        """Copy the maps that are known into the rows from `first` on."""
        size = self._row_bytes[ref]
        if 0 < first < self._smallest[ref.stage]:
            # The stage runs over more rows than it was given: those of the known maps.
            self._inward.wait(slot.made[ref.stage])
        from_host = False
        for row, value in enumerate(known, start=first):
            target = slot.buffers[ref] + row * size
            if isinstance(value, ResidentLease):
                self.compute.copy(target, value.address, size)
                continue
            from_host = True
            self._inward.copy(target, self._pinned_address(slot, ref, row, value), size)
        if from_host:
            slot.known_in.record(self._inward)
            self.compute.wait(slot.known_in)

    def _pinned_address(self, slot: Slot, ref: OutputRef, row: int, value: Array) -> int:
        spec = self.planner.outputs[ref]
        if self._rows is not None and self._rows.owns(value) and value.dtype.name == spec.dtype:
            return address(value)
        # Also brings a map to the engine's dtype, when it was stored in another.
        rows = slot.incoming(ref)
        rows[row] = value
        return address(rows) + row * self._row_bytes[ref]

    def _remember(self, slot: Slot, keys: Sequence[bytes | None], known: Known, fresh: int) -> None:
        """Keep this batch's maps of the guarded edge on the card, those that are not there already."""
        if self.resident is None or self._guarded is None:
            return
        size = self._row_bytes[self._guarded]
        hits = known.get(self._guarded, ())
        for row, key in enumerate(keys):
            held = row >= fresh and isinstance(hits[row - fresh], ResidentLease)
            place = None if key is None or held else self.resident.place(key)
            if place is not None:
                self.compute.copy(place, slot.buffers[self._guarded] + row * size, size)

    def _copy_out(self, slot: Slot, refs: Sequence[OutputRef], work: PassPlan) -> None:
        for ref in refs:
            size = work.rows[ref.stage] * self._row_bytes[ref]
            self._outward.copy(address(slot.outgoing(ref)), slot.buffers[ref], size)


class DevicePending:
    """A batch on its way through a slot. Holds the known maps that the device still copies from."""

    def __init__(
        self, runner: DeviceRunner, slot: Slot, rows: Mapping[OutputRef, int], known: Known
    ) -> None:
        self._runner = runner
        self._slot = slot
        self._rows = rows
        self._known: Known = known
        self._outputs: Outputs | None = None

    def result(self) -> Outputs:
        with self._runner.lock:
            return self._collected()

    def _collected(self) -> Outputs:
        if self._outputs is not None:
            return self._outputs
        self._slot.done.synchronize()
        self._known = NOTHING
        views = {ref: self._slot.outgoing(ref)[:rows] for ref, rows in self._rows.items()}
        self._outputs = {
            ref: view.copy() if self._runner.is_logits(ref) else view for ref, view in views.items()
        }
        self._runner.forget(self._slot)
        return self._outputs

    def settle(self) -> None:
        """Take the result out of the slot, which is wanted for another batch."""
        self._outputs = _copied(self.result())


def _copied(outputs: Outputs) -> dict[OutputRef, Array]:
    return {ref: value.copy() for ref, value in outputs.items()}
