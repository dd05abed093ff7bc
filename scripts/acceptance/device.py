"""Engines in a row with their inputs in place, and the steps that time or count on the device."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from measure.common import spread

from acceptance.context import Context
from acceptance.settings import Bundle, Pair, Scale
from acceptance.timing import Ratio, Timing, in_turns, repeats_for
from trtkit.engines.cuda.device import Event, Stream, free_memory
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.runtime.device.runs import PreparedRuns
from trtkit.runtime.device.slot import row_bytes
from trtkit.runtime.loading import load_chain
from trtkit.tensors import Array

# Bound, run, recorded, launched: after that a run is what it will always be.
WARM_UPS = 4


class EngineLine:
    """Engines from the image to the logits on one stream, with buffers for the images that it holds.

    The input is copied once. `close` it before the engines go.
    """

    def __init__(self, engines: Sequence[Any], images: Array, *, graphs: bool) -> None:
        self.stream = Stream()
        values = [engines[0].inputs[0], *(engine.outputs[0] for engine in engines)]
        self._memory = [
            DeviceMemory(len(images) * row_bytes(spec), f"{spec.name} of {len(images)} images")
            for spec in values
        ]
        self.addresses = [memory.pointer for memory in self._memory]
        scratch = DeviceMemory(
            max(engine.scratch_bytes for engine in engines), "the scratch memory"
        )
        self.runs = PreparedRuns(engines, scratch, self.stream, graphs=graphs)
        self._stages = range(len(engines))
        self._start, self._end = Event(timing=True), Event(timing=True)
        host = pinned(images.shape, images.dtype.name, "the images")
        host[...] = images
        self.stream.copy(self.addresses[0], host.ctypes.data, host.nbytes)
        self.stream.synchronize()

    def enqueue(self, images: int) -> None:
        """Queue one batch."""
        for stage in self._stages:
            self.runs.enqueue(stage, 0, images, *self.addresses[stage : stage + 2])

    def warm_up(self, images: int) -> None:
        for _ in range(WARM_UPS):
            self.enqueue(images)
        self.stream.synchronize()

    def device_seconds(self, images: int, repeats: int) -> float:
        """Seconds of one batch on the device, by events around `repeats` of them."""
        self._start.record(self.stream)
        for _ in range(repeats):
            self.enqueue(images)
        self._end.record(self.stream)
        self._end.synchronize()
        return self._end.seconds_since(self._start) / repeats

    def wall_seconds(self, images: int, repeats: int) -> float:
        """Seconds of one batch by the host's clock, from the first call to the end of the last batch."""
        started = time.perf_counter()
        for _ in range(repeats):
            self.enqueue(images)
        self.stream.synchronize()
        return (time.perf_counter() - started) / repeats

    def close(self) -> None:
        self.runs.clear()


@dataclass(frozen=True)
class ComputeRow:
    """One batch size, `batch` images: device time of a batch as chain and unsplit, and their ratio."""

    batch: int
    graphs: bool
    repeats: int
    chain: Timing
    unsplit: Timing
    ratio: Ratio


@dataclass(frozen=True)
class Compute:
    """`graphs_recorded`: whether this TensorRT's runs can be recorded; if not there are no such rows."""

    model: str
    precision: str
    graphs_recorded: bool
    rows: list[ComputeRow]


def compute(context: Context, pair: Pair, precision: str) -> Compute:
    """Device time of prefix and tail against the unsplit engine, in turns, with CUDA graphs and without."""
    scale = context.settings.set.scale
    bundles = {"chain": pair.chain, "unsplit": pair.unsplit}
    preprocessing = context.manifest(pair.chain, precision).preprocessing
    images = context.images(preprocessing, max(context.settings.batches))
    engines = {
        name: context.engines(bundle, precision, pair.model) for name, bundle in bundles.items()
    }
    rows: list[ComputeRow] = []
    recorded = False
    for graphs in (True, False):
        lines = {name: EngineLine(some, images, graphs=graphs) for name, some in engines.items()}
        for batch in context.settings.batches:
            row = _compute_row(lines, batch, graphs, scale)
            recorded = recorded or lines["chain"].runs.recorded > 0
            if recorded or not graphs:
                rows.append(row)
        for line in lines.values():
            line.close()
    return Compute(pair.model, precision, recorded, rows)


def _compute_row(
    lines: dict[str, EngineLine], batch: int, graphs: bool, scale: Scale
) -> ComputeRow:
    for line in lines.values():
        line.warm_up(batch)
    once = lines["unsplit"].device_seconds(batch, 1)
    repeats = repeats_for(once, scale.sample_seconds, scale.most_repeats)
    samples = in_turns(
        {name: partial(line.device_seconds, batch, repeats) for name, line in lines.items()},
        scale.rounds,
    )
    return ComputeRow(
        batch=batch,
        graphs=graphs,
        repeats=repeats,
        chain=Timing.of(samples["chain"]),
        unsplit=Timing.of(samples["unsplit"]),
        ratio=Ratio.of(samples["chain"], samples["unsplit"]),
    )


@dataclass(frozen=True)
class HostTimeRow:
    """Microseconds spent in `submit` for one batch, and of those in copying its pixels alone."""

    batch: int
    submits: int
    submit_median_microseconds: float
    submit_p10_microseconds: float
    submit_p90_microseconds: float
    pixels_median_microseconds: float


@dataclass(frozen=True)
class HostTime:
    """`graphs_recorded`: how many runs were recorded before anything was timed."""

    model: str
    precision: str
    graphs_recorded: int
    rows: list[HostTimeRow]


def host_time(context: Context, bundle: Bundle, precision: str) -> HostTime:
    """What a batch costs the host: each is submitted when the device has nothing to do."""
    folder, manifest = context.built(bundle, precision), context.manifest(bundle, precision)
    chain: Any = load_chain(folder, manifest, manifest.tail(), context.backend)
    rows = []
    for batch in (size for size in (1, 8) if size <= max(context.settings.batches)):
        images = list(context.images(manifest.preprocessing, batch))
        for _ in range(chain.depth * WARM_UPS):
            chain.submit(images, ()).result()
        rows.append(_host_row(chain, images, context.settings.set.scale.submits))
    recorded = chain.runs.recorded
    chain.close()
    return HostTime(manifest.tail().name, precision, recorded, rows)


def _host_row(chain: Any, images: list[Array], submits: int) -> HostTimeRow:
    place = pinned((len(images), *images[0].shape), "uint8", "the pixels")
    taken, copied = [], []
    gc.collect()
    for _ in range(submits):
        started = time.perf_counter()
        pending = chain.submit(images, ())
        submitted = time.perf_counter()
        pending.result()
        before = time.perf_counter()
        for row, image in enumerate(images):
            place[row] = image
        copied.append((time.perf_counter() - before) * 1e6)
        taken.append((submitted - started) * 1e6)
    low, high = spread(taken)
    return HostTimeRow(len(images), submits, median(taken), low, high, median(copied))


@dataclass(frozen=True)
class Leaks:
    """Free bytes of device memory after as many bindings as the name says were made and dropped.

    `lost_bytes` is what went between the first and the last count: the first ones may fill pools.
    """

    free_bytes_after: dict[int, int]
    lost_bytes: int


def leaks(context: Context, bundle: Bundle, precision: str) -> Leaks:
    """Make and drop bindings, which are execution contexts, and look at the free device memory."""
    manifest = context.manifest(bundle, precision)
    engine = context.engines(bundle, precision, manifest.tail().name)[0]
    (value,), (result,) = engine.inputs, engine.outputs
    images = engine.batch[0]
    memory = [DeviceMemory(images * row_bytes(spec), spec.name) for spec in (value, result)]
    scratch, stream = DeviceMemory(engine.scratch_bytes, "the scratch memory"), Stream()
    addresses = dict(zip((value.name, result.name), (m.pointer for m in memory), strict=True))
    few, many = context.settings.set.scale.binds
    free = {0: free_memory()[0]}
    for number in range(1, many + 1):
        engine.bind(images, addresses, scratch, stream)
        if number in (few, many):
            stream.synchronize()
            gc.collect()
            free[number] = free_memory()[0]
    return Leaks(free, free[few] - free[many])
