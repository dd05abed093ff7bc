"""Cases whose engines have their inputs in place: what is timed or counted on the device."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from acceptance.context import Bundle, Context, unsplit
from trtkit.benchmark import trtexec
from trtkit.benchmark.protocol import ProtocolSettings, Turns, repeats_for, take_turns
from trtkit.benchmark.tensorrt_engines import WARM_UPS, BareLoop, PlacedEngines
from trtkit.engines.cuda.device import Stream, free_memory
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.engines.registry import RTX
from trtkit.engines.tensorrt.engine import Binding
from trtkit.errors import TrtkitError
from trtkit.runtime.device.slot import row_bytes
from trtkit.runtime.loading import load_chain
from trtkit.tensors import TensorSpec

SUBMIT_BATCHES = (1, 8)
# Samples of loops are longer: the first batch's latency must not count.
LOOPS_LONGER = 4
TRTEXEC_STARTS_SECONDS = 60


@dataclass(frozen=True)
class Timing:
    """Seconds of one batch or pass: the median of `samples` rounds, the 10th and the 90th percentile."""

    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    samples: int

    @classmethod
    def of(cls, turns: Turns, name: str) -> Timing:
        summary = turns.summary(name)
        return cls(summary.median, summary.p10, summary.p90, summary.count)


def rounds(count: int, **competitors: Callable[[], object]) -> Turns:
    """Let competitors take turns, `count` times after a warm-up."""
    return take_turns(competitors, ProtocolSettings.fixed(count))


def compute(context: Context, model: str, precision: str) -> Any:
    """Device time of a batch as prefix and tail and as the unsplit engine, with CUDA graphs and without.

    `graphs_recorded`: whether runs of this TensorRT can be recorded; if not there are no such rows.
    """
    scale = context.settings.scale
    bundles = {"chain": context.settings.set.shared, "unsplit": unsplit(model)}
    images = context.images(context.manifest(bundles["chain"], precision).preprocessing)
    engines = {name: context.engines(bundle, precision, model) for name, bundle in bundles.items()}
    rows: list[Any] = []
    recorded = False
    for graphs in (True, False):
        placed = {
            name: PlacedEngines(chain, len(images), graphs=graphs)
            for name, chain in engines.items()
        }
        for batch in context.settings.batches:
            for competitor in placed.values():
                competitor.fill(images[:batch])
            recorded = recorded or placed["chain"].recorded > 0
            if graphs and not recorded:
                continue
            once = placed["unsplit"].device_seconds(batch, 1)
            repeats = repeats_for(once, scale.sample_seconds, scale.most_repeats)
            turns = rounds(
                scale.rounds,
                chain=partial(placed["chain"].device_seconds, batch, repeats),
                unsplit=partial(placed["unsplit"].device_seconds, batch, repeats),
            )
            row = {"batch": batch, "graphs": graphs, "repeats": repeats}
            timings = {name: Timing.of(turns, name) for name in placed}
            rows.append({**row, **timings, "ratio": turns.paired("chain", "unsplit")})
        for competitor in placed.values():
            competitor.close()
    facts = {"model": model, "precision": precision, "graphs_recorded": recorded}
    return {**facts, "rows": rows}


def host_time(context: Context, bundle: Bundle, precision: str) -> Any:
    """Microseconds of the host in `submit` for a batch while the device has nothing to do.

    `pixels`: those of copying the images into pinned memory, a part of it. `graphs_recorded`: how many
    runs were recorded before anything was timed.
    """
    folder, manifest = context.built(bundle, precision), context.manifest(bundle, precision)
    chain: Any = load_chain(folder, manifest, manifest.tail(), context.backend)
    submits = context.settings.scale.submits
    rows = []
    for batch in [size for size in SUBMIT_BATCHES if size <= max(context.settings.batches)]:
        images = list(context.images(manifest.preprocessing)[:batch])
        for _ in range(chain.depth * WARM_UPS):
            chain.submit(images, ()).result()
        host = pinned((batch, *images[0].shape), "uint8", "the pixels")
        turns = rounds(
            submits, submit=partial(_submit, chain, images), pixels=partial(_copy, images, host)
        )
        row = {"batch": batch, "submits": submits}
        submit, pixels = turns.summary("submit"), turns.summary("pixels")
        for name in ("median", "p10", "p90"):
            row[f"submit_{name}_microseconds"] = 1e6 * getattr(submit, name)
        rows.append({**row, "pixels_median_microseconds": 1e6 * pixels.median})
    recorded, model = chain.runs.recorded, manifest.tail().name
    chain.close()
    return {"model": model, "precision": precision, "graphs_recorded": recorded, "rows": rows}


def _submit(chain: Any, images: list[Any]) -> float:
    started = time.perf_counter()
    pending = chain.submit(images, ())
    submitted = time.perf_counter()
    pending.result()
    return submitted - started


def _copy(images: list[Any], host: Any) -> None:
    for row, image in enumerate(images):
        host[row] = image


def loops(context: Context, model: str, precision: str) -> Any:
    """Throughput of the unsplit model's plan: prepared runs with CUDA graphs, a bare loop, trtexec.

    `ours`, `bare`: seconds of a batch by the host's clock; `ratio`: of the throughputs, ours to the bare
    loop's. `trtexec`: why there are no figures of it, None where there are.
    """
    scale, bundle = context.settings.scale, unsplit(model)
    manifest = context.manifest(bundle, precision)
    (stage,), (engine,) = manifest.stages, context.engines(bundle, precision, model)
    plan = context.built(bundle, precision) / stage.file
    images = context.images(manifest.preprocessing)
    placed = PlacedEngines([engine], len(images))
    bare = BareLoop(context.backend.name, plan, placed.buffers)
    sample, most = scale.sample_seconds * LOOPS_LONGER, scale.most_repeats * LOOPS_LONGER
    rows: list[Any] = []
    problem: str | None = None
    for batch in context.settings.batches:
        speed, why = _trtexec(context, plan, stage.inputs[0], batch)
        problem = problem or why
        placed.fill(images[:batch])
        bare.warm_up(batch, engine.profile_for(batch))
        repeats = repeats_for(placed.host_seconds(batch, 1), sample, most)
        turns = rounds(
            scale.rounds,
            ours=partial(placed.host_seconds, batch, repeats),
            bare=partial(bare.host_seconds, repeats),
        )
        rows.append(
            {
                "batch": batch,
                "repeats": repeats,
                "ours": Timing.of(turns, "ours"),
                "bare": Timing.of(turns, "bare"),
                # Throughput goes the other way than seconds.
                "ratio": turns.paired("bare", "ours"),
                "ours_images_per_second": batch / turns.medians["ours"],
                "bare_images_per_second": batch / turns.medians["bare"],
                "trtexec_images_per_second": speed,
            }
        )
    facts = {"model": model, "precision": precision, "graphs_recorded": placed.recorded}
    placed.close()
    return {**facts, "trtexec": problem, "rows": rows}


def _trtexec(
    context: Context, plan: Path, value: TensorSpec, batch: int
) -> tuple[float | None, str | None]:
    """Images per second by trtexec, or why there is no figure."""
    program = "tensorrt_rtx" if context.backend.name == RTX.name else trtexec.PROGRAM
    if shutil.which(program) is None:
        return None, f"{program} is not on the PATH"
    seconds = context.settings.scale.trtexec_seconds
    shapes = trtexec.shapes_option(value.name, value.shape, batch)
    limit = seconds + TRTEXEC_STARTS_SECONDS
    try:
        output = trtexec.run_plan(
            plan, shapes, "--useSpinWait", warm_up=500, seconds=seconds, program=program, timeout=limit
        )  # fmt: skip
        # Its queries are whole batches.
        return batch * trtexec.batches_per_second(output), None
    except TrtkitError as error:
        return None, str(error)


def leaks(context: Context, bundle: Bundle, precision: str) -> Any:
    """Make and drop bindings, which are execution contexts, and read the free device memory.

    `free_bytes_after`: by the number of bindings so far; `lost_bytes`: between the last two readings, as
    the first bindings may fill pools.
    """
    manifest = context.manifest(bundle, precision)
    engine = context.engines(bundle, precision, manifest.tail().name)[0]
    (value,), (result,) = engine.inputs, engine.outputs
    images = engine.batch[0]
    memory = [DeviceMemory(images * row_bytes(spec), spec.name) for spec in (value, result)]
    scratch, stream = DeviceMemory(engine.scratch_bytes, "the scratch memory"), Stream()
    addresses = dict(zip((value.name, result.name), (m.pointer for m in memory), strict=True))
    few, many = context.settings.scale.binds
    free = {0: free_memory()[0]}
    for number in range(1, many + 1):
        Binding(engine, images, addresses, scratch, stream)
        if number in (few, many):
            stream.synchronize()
            gc.collect()
            free[number] = free_memory()[0]
    return {"free_bytes_after": free, "lost_bytes": free[few] - free[many]}
