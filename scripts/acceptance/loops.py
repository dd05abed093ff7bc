"""Our way of running a plan against a bare loop of TensorRT's own calls, and against trtexec."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.context import Context, last_line
from acceptance.device import WARM_UPS, EngineLine
from acceptance.settings import Bundle, Scale
from acceptance.timing import Ratio, Timing, in_turns, repeats_for
from trtkit.engines.cuda.device import Stream
from trtkit.engines.tensorrt.library import RTX, TENSORRT, load_library
from trtkit.errors import TrtkitError

# Long enough that the first batch's latency does not count.
SAMPLES_LONGER = 4
TRTEXEC_STARTS_SECONDS = 60
THROUGHPUT = re.compile(r"Throughput:\s*([0-9.]+)\s*qps")


class BareLoop:
    """A plan run as in a minimal program: a context with memory of its own and `execute_async_v3`."""

    def __init__(self, backend: Any, plan: Path, line: EngineLine) -> None:
        """Reads the images of `line` and writes where that writes: the two take turns."""
        library = load_library(RTX if backend.name == RTX.name else TENSORRT)
        self._runtime = library.trt.Runtime(library.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        self._context = self._engine.create_execution_context()
        self._stream = Stream()
        self._shape: tuple[int, ...] = ()
        mode = library.trt.TensorIOMode.INPUT
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        self._input = next(n for n in names if self._engine.get_tensor_mode(n) == mode)
        output = next(name for name in names if name != self._input)
        for name, address in zip((self._input, output), line.addresses, strict=True):
            self._context.set_tensor_address(name, address)

    def warm_up(self, images: int, profile: int) -> None:
        """Choose the profile and the shape, which holds from now on, and run."""
        shape = tuple(self._engine.get_tensor_shape(self._input))[1:]
        self._context.set_optimization_profile_async(profile, self._stream.pointer)
        self._stream.synchronize()
        self._context.set_input_shape(self._input, (images, *map(int, shape)))
        self.wall_seconds(WARM_UPS)

    def wall_seconds(self, repeats: int) -> float:
        """Seconds of one batch by the host's clock, from the first call to the end of the last batch."""
        run, handle = self._context.execute_async_v3, self._stream.pointer
        started = time.perf_counter()
        for _ in range(repeats):
            if not run(handle):
                raise TrtkitError("TensorRT refused a run in the bare loop.")
        self._stream.synchronize()
        return (time.perf_counter() - started) / repeats


@dataclass(frozen=True)
class LoopRow:
    """Wall time of one batch in each loop; `ratio` is that of the throughputs, ours to the bare one's.

    `trtexec_images_per_second` is None where there is no trtexec, or it cannot run the plan.
    """

    batch: int
    repeats: int
    ours: Timing
    bare: Timing
    ratio: Ratio
    ours_images_per_second: float
    bare_images_per_second: float
    trtexec_images_per_second: float | None


@dataclass(frozen=True)
class Loops:
    """`trtexec`: why figures of it are missing, None when none is."""

    model: str
    precision: str
    graphs_recorded: int
    trtexec: str | None
    rows: list[LoopRow]


def loops(context: Context, bundle: Bundle, precision: str) -> Loops:
    """Throughput of one plan, the unsplit model's: prepared runs with CUDA graphs, and a bare loop."""
    manifest = context.manifest(bundle, precision)
    (stage,) = manifest.stages
    plan = context.built(bundle, precision) / stage.file
    engines = context.engines(bundle, precision, stage.name)
    scale = context.settings.set.scale
    images = context.images(manifest.preprocessing, max(context.settings.batches))
    line = EngineLine(engines, images, graphs=True)
    bare = BareLoop(context.backend, plan, line)
    rows: list[LoopRow] = []
    problem: str | None = None
    for batch in context.settings.batches:
        qps, why = _trtexec(plan, stage.inputs[0], batch, scale, context.backend.name)
        problem = problem or why
        bare.warm_up(batch, engines[0].profile_for(batch))
        rows.append(_row(line, bare, batch, scale, qps))
    recorded = line.runs.recorded
    line.close()
    return Loops(stage.name, precision, recorded, problem, rows)


def _row(line: EngineLine, bare: BareLoop, batch: int, scale: Scale, qps: float | None) -> LoopRow:
    line.warm_up(batch)
    once = line.wall_seconds(batch, 1)
    most = scale.most_repeats * SAMPLES_LONGER
    repeats = repeats_for(once, scale.sample_seconds * SAMPLES_LONGER, most)
    samples = in_turns(
        {
            "ours": lambda: line.wall_seconds(batch, repeats),
            "bare": lambda: bare.wall_seconds(repeats),
        },
        scale.rounds,
    )
    ours, bares = Timing.of(samples["ours"]), Timing.of(samples["bare"])
    return LoopRow(
        batch=batch,
        repeats=repeats,
        ours=ours,
        bare=bares,
        # Throughput is what goes through in a time: the other way round.
        ratio=Ratio.of(samples["bare"], samples["ours"]),
        ours_images_per_second=batch / ours.median_seconds,
        bare_images_per_second=batch / bares.median_seconds,
        trtexec_images_per_second=None if qps is None else qps * batch,
    )


def _trtexec(
    plan: Path, value: Any, batch: int, scale: Scale, backend: str
) -> tuple[float | None, str | None]:
    """Batches per second by trtexec, or why there is no figure. Its queries are whole batches."""
    program = "tensorrt_rtx" if backend == RTX.name else "trtexec"
    if shutil.which(program) is None:
        return None, f"{program} is not on the PATH"
    shape = "x".join(map(str, (batch, *value.shape[1:])))
    command = [
        program,
        f"--loadEngine={plan}",
        f"--shapes={value.name}:{shape}",
        f"--duration={scale.trtexec_seconds}",
        "--warmUp=500",
        "--noDataTransfers",
        "--useCudaGraph",
        "--useSpinWait",
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=scale.trtexec_seconds + TRTEXEC_STARTS_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{program} failed: {error}"
    found = THROUGHPUT.search(done.stdout)
    if done.returncode != 0 or found is None:
        return None, f"{program} failed: {last_line(done.stderr or done.stdout)}"
    return float(found[1]), None
