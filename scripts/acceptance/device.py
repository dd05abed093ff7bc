"""Cases of the card alone: what it is, and what is timed or counted on it with inputs in place."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pynvml
from measure.report import machine

from acceptance.context import ROOT, Case, Context
from trtkit import __version__
from trtkit.benchmark import clocks, trtexec
from trtkit.benchmark.protocol import ProtocolSettings, Turns, repeats_for, take_turns
from trtkit.benchmark.tensorrt_engines import WARM_UPS, BareLoop, PlacedEngines
from trtkit.engines.cuda import device
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.engines.registry import RTX
from trtkit.engines.tensorrt.engine import Binding
from trtkit.errors import TrtkitError
from trtkit.nvml import NvmlError, gpu_handles, supported
from trtkit.runtime.device.slot import row_bytes
from trtkit.runtime.pipeline import load
from trtkit.subprocesses import CommandFailed, run_command
from trtkit.tensors import TensorSpec

SUBMIT_BATCHES = (1, 8)
# Loops have longer samples, so that the first batch's latency does not count.
LOOPS_LONGER = 4
TRTEXEC_STARTS_SECONDS = 60
GIT_SECONDS = 15.0
PERSISTENCE = {0: "Disabled", 1: "Enabled"}

# Seconds of a batch of so many images, repeated so often.
Measure = Callable[[int, int], float]


def per_batch(
    context: Context, batch: int, base: str, longer: int = 1, **competitors: Measure
) -> tuple[Turns, dict[str, Any]]:
    """Seconds of a batch by each competitor, which repeats it as often as fits for `base`.

    `longer`: times the usual length of a sample. The turns, and a row of their summaries.
    """
    scale = context.settings.scale
    once, most = competitors[base](batch, 1), scale.most_repeats * longer
    repeats = repeats_for(once, scale.sample_seconds * longer, most)
    functions = {name: partial(own, batch, repeats) for name, own in competitors.items()}
    turns = take_turns(functions, ProtocolSettings.fixed(scale.rounds))
    summaries = {name: turns.summary(name) for name in competitors}
    return turns, {"batch": batch, "repeats": repeats, **summaries}


def compute(context: Context, case: Case) -> Any:
    """Device time of a batch as prefix and tail and as the unsplit engine, with CUDA graphs and without.

    `graphs_recorded`: whether runs of this TensorRT can be recorded; if not there are no such rows.
    """
    split = replace(case, bundle=context.settings.set.shared)
    images = context.images(split)
    engines = {"chain": context.engines(split, case.model), "unsplit": context.engines(case)}
    rows: list[Any] = []
    recorded = False
    for graphs in (True, False):
        placed = {
            name: PlacedEngines(own, len(images), graphs=graphs) for name, own in engines.items()
        }
        for batch in context.settings.batches:
            for competitor in placed.values():
                competitor.fill(images[:batch])
            recorded = recorded or placed["chain"].recorded > 0
            if graphs and not recorded:
                continue
            competitors = {name: own.device_seconds for name, own in placed.items()}
            turns, row = per_batch(context, batch, "unsplit", **competitors)
            rows.append({"graphs": graphs, **row, "ratio": turns.paired("chain", "unsplit")})
        for competitor in placed.values():
            competitor.close()
    return {"graphs_recorded": recorded, "rows": rows}


def host_time(context: Context, case: Case) -> Any:
    """Seconds of the host in `submit` for a batch while the device has nothing to do.

    `pixels`: those of copying the images into pinned memory, a part of it. `graphs_recorded`: how many
    runs were recorded before anything was timed.
    """
    rows: list[Any] = []
    pipeline = load(context.built(case))
    submit = partial(pipeline.runner.submit, [pipeline.tail.ref("logits")])
    for batch in [size for size in SUBMIT_BATCHES if size <= max(context.settings.batches)]:
        images = list(context.images(case)[:batch])
        for _ in range(pipeline.runner.depth * WARM_UPS):
            submit(images).result()
        host = pinned((batch, *images[0].shape), "uint8", "the pixels")
        functions = {
            "submit": partial(_submit, submit, images),
            "pixels": partial(_copy, images, host),
        }
        turns = take_turns(functions, ProtocolSettings.fixed(context.settings.scale.submits))
        rows.append({"batch": batch, **{name: turns.summary(name) for name in turns.samples}})
    recorded = pipeline.runner.runs.recorded
    pipeline.close()
    return {"graphs_recorded": recorded, "rows": rows}


def _submit(submit: Callable[..., Any], images: list[Any]) -> float:
    started = time.perf_counter()
    pending = submit(images)
    submitted = time.perf_counter()
    pending.result()
    return submitted - started


def _copy(images: list[Any], host: Any) -> None:
    for row, image in enumerate(images):
        host[row] = image


def loops(context: Context, case: Case) -> Any:
    """Throughput of the unsplit model's plan: prepared runs with CUDA graphs, a bare loop, trtexec.

    `ours`, `bare`: seconds of a batch by the host's clock; `ratio`: of the throughputs, ours to the bare
    loop's. `trtexec`: why there are no figures of it, None where there are.
    """
    (stage,), engines = context.manifest(case).stages, context.engines(case)
    plan, images = context.built(case) / stage.file, context.images(case)
    placed = PlacedEngines(engines, len(images))
    bare = BareLoop(context.backend.name, plan, placed.buffers)
    rows: list[Any] = []
    problem: str | None = None

    def bare_seconds(batch: int, repeats: int) -> float:
        return bare.host_seconds(repeats)

    for batch in context.settings.batches:
        speed, why = _trtexec(context, plan, stage.inputs[0], batch)
        problem = problem or why
        placed.fill(images[:batch])
        bare.warm_up(batch, engines[0][1].profile_for(batch))
        competitors = {"ours": placed.host_seconds, "bare": bare_seconds}
        turns, row = per_batch(context, batch, "ours", LOOPS_LONGER, **competitors)
        # Throughput goes the other way than seconds.
        row["ratio"] = turns.paired("bare", "ours")
        for name, seconds in turns.medians.items():
            row[f"{name}_images_per_second"] = batch / seconds
        rows.append({**row, "trtexec_images_per_second": speed})
    recorded = placed.recorded
    placed.close()
    return {"graphs_recorded": recorded, "trtexec": problem, "rows": rows}


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


def leaks(context: Context, case: Case) -> Any:
    """Make and drop bindings, which are execution contexts, and read the free device memory.

    `free_bytes_after`: by the number of bindings so far; `lost_bytes`: between the last two readings, as
    the first bindings may fill pools; `lost_mib`: the same in MiB.
    """
    ((_, engine), *_) = context.engines(case)
    (value,), (result,) = engine.inputs, engine.outputs
    images = engine.batch[0]
    memory = [DeviceMemory(images * row_bytes(spec), spec.name) for spec in (value, result)]
    scratch, stream = DeviceMemory(engine.scratch_bytes, "the scratch memory"), device.Stream()
    addresses = dict(zip((value.name, result.name), (m.pointer for m in memory), strict=True))
    few, many = context.settings.scale.binds
    free = {0: device.free_memory()[0]}
    for number in range(1, many + 1):
        Binding(engine, images, addresses, scratch, stream)
        if number in (few, many):
            stream.synchronize()
            gc.collect()
            free[number] = device.free_memory()[0]
    lost = free[few] - free[many]
    return {"free_bytes_after": free, "lost_bytes": lost, "lost_mib": lost / 2**20}


def identity(backend: Any) -> dict[str, Any]:
    """What results must have in common to stand in one file. Raises CudaError without a GPU."""
    card, packages = device.current_card(), machine()["packages"]
    return {
        "card": card.name,
        "compute capability": card.capability,
        "driver": next((limits["driver"] for limits in _limits()), None),
        "CUDA": device.driver_version(),
        "library": f"{backend.name} {backend.version}",
        "cuda-python": packages.get("cuda-python") or packages.get("cuda-bindings"),
        "trtkit": __version__,
    }


def environment(context: Context, case: Case) -> dict[str, Any]:
    """The machine, as measurements describe it, and its card.

    `CUDA` is the newest that the driver offers, `cuda_runtime` the one that cuda-python uses. Memory in
    bytes. `limits`: NVML's, of each card that it lists, None where it does not tell them.
    """
    runtime = int(device.call("cudaRuntimeGetVersion"))
    return {
        **machine(),
        "command": context.journal.runs[-1]["command"],
        **identity(context.backend),
        "cuda_runtime": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "card_memory_bytes": device.current_card().memory,
        "commit": context.commit,
        "limits": _limits(),
    }


def commit() -> str | None:
    """The checkout's commit, `-dirty` when files were changed since; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return run_command(command, timeout=GIT_SECONDS).strip() or None
    except CommandFailed:
        return None


def _limits() -> list[dict[str, Any]]:
    """Of each card that NVML lists; a Jetson's it does not."""
    most, mode = "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetPersistenceMode"
    try:
        with gpu_handles() as cards:
            return [
                {
                    "driver": supported("nvmlSystemGetDriverVersion"),
                    "most_sm_clock_mhz": clocks.gpu_value(most, card, pynvml.NVML_CLOCK_SM),
                    "most_memory_clock_mhz": clocks.gpu_value(most, card, pynvml.NVML_CLOCK_MEM),
                    "power_limit_watts": clocks.watts("nvmlDeviceGetEnforcedPowerLimit", card),
                    "persistence_mode": PERSISTENCE.get(supported(mode, card)),
                }
                for card in cards
            ]
    except NvmlError:
        return []
