"""Plans on the GPU, timed by it: those of a bundle, and the model's one plan without a split."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtkit.atomic import whole_file
from trtkit.benchmark.network import merged, source_graphs
from trtkit.bundle import Manifest, check_files
from trtkit.engines.base import Backend, StageBuild
from trtkit.engines.cuda.device import Event, Stream
from trtkit.engines.cuda.memory import DeviceMemory, address
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import RTX, TENSORRT, get_backend
from trtkit.engines.tensorrt.engine import TensorRTEngine
from trtkit.engines.tensorrt.library import load_library
from trtkit.errors import TrtkitError
from trtkit.runtime.device.runner import DeviceRunner
from trtkit.runtime.loading import backend_of
from trtkit.runtime.models import LoadedModel, bare_stages, output_of
from trtkit.serialization import from_plain, read_json, write_json
from trtkit.stages import Role, Stage
from trtkit.tensors import Array
from trtkit.workspace import TIMING_FOLDER

# Bound, run, recorded, launched: after that a run is what it will always be.
WARM_UPS = 4


class PlacedEngines:
    """A runner of engines that follow each other, timed on batches of up to `rows` images.

    The batches lie on the GPU, and nothing else runs there. With `graphs` a run that comes again is
    recorded into a CUDA graph. Not for several threads at once.
    """

    def __init__(
        self, engines: Sequence[tuple[Role, TensorRTEngine]], rows: int, *, graphs: bool = True
    ) -> None:
        stages = bare_stages(engines)
        by_name = {stage.name: engine for stage, (_, engine) in zip(stages, engines, strict=True)}
        self._runner = DeviceRunner(stages, by_name, graphs=graphs)
        self._runner.reserve(rows)
        self._slot, self._stream = self._runner.slots[0], self._runner.compute
        self._model = LoadedModel(self._runner, output_of(stages[-1], "logits"))

    def place(self, images: Array) -> tuple[DeviceMemory, int]:
        """The images, uint8 N x H x W x 3, in device memory of their own, and how many they are."""
        count = len(images)
        self._slot.images[:count] = images
        memory = DeviceMemory(images.nbytes, f"{count} images to measure on")
        self._stream.copy(memory.pointer, address(self._slot.images), images.nbytes)
        self._stream.synchronize()
        return memory, count

    def seconds(self, batches: Sequence[tuple[DeviceMemory, int]]) -> float:
        """Device time from the first engine's start to the last one's end, of all batches.

        What brings each batch to where the engines read it is not in it.
        """
        marks = []
        for memory, count in batches:
            start, end = Event(timing=True), Event(timing=True)
            self._stream.copy(self._slot.image, memory.pointer, memory.nbytes)
            start.record(self._stream)
            self._runner.enqueue(self._slot, count)
            end.record(self._stream)
            marks.append((start, end))
        self._stream.synchronize()
        return sum(end.seconds_since(start) for start, end in marks)

    @property
    def buffers(self) -> list[int]:
        """Device addresses: where the images are read, each engine's output in turn."""
        return [self._slot.image, *self._slot.buffers.values()]

    @property
    def recorded(self) -> int:
        """How many runs were recorded into CUDA graphs."""
        return self._runner.runs.recorded

    def fill(self, images: Array) -> None:
        """Bring images to where the first engine reads them, for `device_seconds` and `host_seconds`."""
        memory, count = self.place(images)
        self._stream.copy(self._slot.image, memory.pointer, memory.nbytes)
        for _ in range(WARM_UPS):
            self._runner.enqueue(self._slot, count)
        self._stream.synchronize()

    def device_seconds(self, images: int, repeats: int) -> float:
        """Seconds of one batch on the device, by events around `repeats` of them."""
        start, end = Event(timing=True), Event(timing=True)
        start.record(self._stream)
        for _ in range(repeats):
            self._runner.enqueue(self._slot, images)
        end.record(self._stream)
        end.synchronize()
        return end.seconds_since(start) / repeats

    def host_seconds(self, images: int, repeats: int) -> float:
        """Seconds of one batch by the host's clock, from the first call to the end of the last batch."""
        started = time.perf_counter()
        for _ in range(repeats):
            self._runner.enqueue(self._slot, images)
        self._stream.synchronize()
        return (time.perf_counter() - started) / repeats

    def logits(self, images: Array) -> Array:
        """float32 N x classes on the host, of uint8 images N x H x W x 3."""
        return self._model.classify(images)

    def close(self) -> None:
        """Wait for what is under way and let go of what was prepared."""
        self._runner.close()


class BareLoop:
    """A plan run as in a minimal program: a context with memory of its own and `execute_async_v3`.

    `backend` is the name of the plan's. It reads and writes at the device addresses `buffers`: of the
    image and of the output.
    """

    def __init__(self, backend: str, plan: Path, buffers: Sequence[int]) -> None:
        library = load_library(RTX if backend == RTX.name else TENSORRT)
        self._runtime = library.trt.Runtime(library.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        self._context = self._engine.create_execution_context()
        self._stream = Stream()
        mode = library.trt.TensorIOMode.INPUT
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        self._input = next(n for n in names if self._engine.get_tensor_mode(n) == mode)
        output = next(name for name in names if name != self._input)
        for name, pointer in zip((self._input, output), buffers, strict=True):
            self._context.set_tensor_address(name, pointer)

    def warm_up(self, images: int, profile: int) -> None:
        """Choose the profile and the shape, which holds from now on, and run."""
        shape = tuple(self._engine.get_tensor_shape(self._input))[1:]
        self._context.set_optimization_profile_async(profile, self._stream.pointer)
        self._stream.synchronize()
        self._context.set_input_shape(self._input, (images, *map(int, shape)))
        self.host_seconds(WARM_UPS)

    def host_seconds(self, repeats: int) -> float:
        """Seconds of one batch by the host's clock, from the first call to the end of the last batch."""
        run, handle = self._context.execute_async_v3, self._stream.pointer
        started = time.perf_counter()
        for _ in range(repeats):
            if not run(handle):
                raise TrtkitError("TensorRT refused a run in the bare loop.")
        self._stream.synchronize()
        return (time.perf_counter() - started) / repeats


def bundle_engines(folder: Path, manifest: Manifest, tail: Stage) -> list[tuple[Role, Any]]:
    """The engines of a bundle for a GPU, from the root to `tail`, with their roles. Raises TrtkitError."""
    backend = backend_of(manifest)
    path = manifest.path_to(tail)
    check_files(folder, path)
    rebuild = f"trtkit build --bundle {manifest.name}"
    return [
        (stage.role, backend.load(folder / stage.file, stage.engine, rebuild)) for stage in path
    ]


def unsplit_engine(folder: Path, manifest: Manifest, tail: Stage, built: Path) -> Any:
    """One engine of the whole model, built as the bundle was: its precision, options and backend.

    A bundle for the CPU is built by the backend that `auto` chooses. `built`: a folder where the engine
    stays, so that it is built once. Raises TrtkitError when there is no TensorRT, or it cannot build or
    run here.
    """
    backend = _backend(manifest)
    # Named by the request and the tail; also the name that TensorRT's errors give it.
    plan = built / f"{tail.name}-{manifest.build_id[:16]}{backend.suffix}"
    record = plan.with_suffix(".json")
    if not record.is_file():
        _build(folder, manifest, tail, backend, plan, record)
    return backend.load(plan, read_json(record, dict[str, Any]), "trtkit bench")


def _backend(manifest: Manifest) -> Backend:
    backend = backend_of(manifest)
    if not backend.on_device:
        backend = get_backend("auto")
    blocked = backend.cannot_run()
    if backend.on_device and blocked is None:
        return backend
    raise TrtkitError(
        f"TensorRT cannot build an engine here: {blocked or 'no TensorRT here runs on this GPU'}; "
        "`trtkit doctor` shows what is missing."
    )


def _build(
    folder: Path, manifest: Manifest, tail: Stage, backend: Backend, plan: Path, record: Path
) -> None:
    options = BuildOptions(profiles=(manifest.batch,))
    if manifest.options and backend.name == manifest.backend:
        options = from_plain(manifest.options, BuildOptions)
    stage = StageBuild(
        name=tail.name,
        graph=merged(source_graphs(folder, manifest, tail.name)),
        precision=manifest.precision,
        root=True,
        leaf=True,
        options=options,
    )
    timing = plan.with_name(TIMING_FOLDER)
    bundle_timing = folder.parent / TIMING_FOLDER
    if bundle_timing.is_dir() and not timing.exists():
        # Most layers are the bundle's own: its build measured what each of their kernels takes.
        shutil.copytree(bundle_timing, timing)
    with whole_file(plan) as raw:
        built = backend.build(stage, raw, timing)
    # Last: where it is, the plan is whole.
    write_json(record, built.record)
