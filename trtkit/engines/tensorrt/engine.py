"""A loaded plan: running it on device memory, and inspecting it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.engines.base import Tensor, check_fits, input_of
from trtkit.engines.cuda.array import DeviceTensor, DeviceView, device_view
from trtkit.engines.cuda.device import Event, Stream, free_memory
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.engines.options import BatchRange
from trtkit.engines.tensorrt.library import Library
from trtkit.engines.tensorrt.versions import DTYPES, Api
from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes
from trtkit.tensors import TensorSpec


class TensorRTEngine:
    """One plan, deserialized. `name` is for messages."""

    def __init__(self, library: Library, runtime: Any, engine: Any, name: str) -> None:
        self.name = name
        self._library = library
        # An engine must not outlive its runtime.
        self._runtime = runtime
        self._engine = engine
        trt = library.trt
        self.inputs = self._specs(trt.TensorIOMode.INPUT)
        self.outputs = self._specs(trt.TensorIOMode.OUTPUT)
        entry = self.inputs[0].name
        self.profiles: tuple[BatchRange, ...] = tuple(
            _batches(engine.get_tensor_profile_shape(entry, index))
            for index in range(engine.num_optimization_profiles)
        )
        self.scratch_bytes = library.api.scratch_bytes(engine)
        # Only where contexts cannot share a profile: the one context of each profile.
        self._contexts: dict[int, Any] = {}

    @property
    def batch(self) -> tuple[int, int]:
        """The fewest and the most images of one run."""
        return min(low for low, _, _ in self.profiles), max(high for *_, high in self.profiles)

    @property
    def api(self) -> Api:
        return self._library.api

    def context_for(self, images: int, scratch: DeviceMemory, stream: Stream) -> Any:
        """An execution context with scratch memory, on the profile for that many images."""
        profile = self.profile_for(images)
        if profile in self._contexts:
            return self._contexts[profile]
        context = self.api.create_context(self._engine)
        if context is None:
            raise self.failed(images)
        self.api.set_scratch(context, scratch.pointer, scratch.nbytes)
        if not context.set_optimization_profile_async(profile, stream.pointer):
            raise self.failed(images)
        stream.synchronize()
        if not self.api.shares_profiles:
            self._contexts[profile] = context
        return context

    def profile_for(self, images: int) -> int:
        """The number of the profile tuned closest: the narrowest that takes that many images."""
        fitting = [
            (high - low, index)
            for index, (low, _, high) in enumerate(self.profiles)
            if low <= images <= high
        ]
        if not fitting:
            low, high = self.batch
            raise TrtkitError(
                f"{self.name} takes batches of {low} to {high}, not {images}; choose one of those or "
                "build with --batch."
            )
        return min(fitting)[1]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """All outputs, left on the device, for arrays of the host or the device.

        Arrays of other libraries on the device are read where they lie. Returns when the outputs are
        there.
        """
        placed = self.place(inputs)
        placed.binding.enqueue()
        placed.made.record(placed.stream)
        # Until here the inputs are read, and the binding's context must not go.
        placed.made.synchronize()
        return dict(placed.outputs)

    def place(self, inputs: Mapping[str, Any]) -> Placed:
        """Inputs as `run` takes them, on the device, with memory for the outputs: ready to run.

        Raises TrtkitError when a name, shape or dtype is not what the engine takes.
        """
        stream, scratch = self._own
        views = {spec.name: self._view(spec, inputs, stream) for spec in self.inputs}
        images = next(iter(views.values())).shape[0]
        made = Event()
        outputs = {spec.name: self._output(spec, images, made) for spec in self.outputs}
        addresses = {name: view.pointer for name, view in views.items()}
        addresses |= {name: output.pointer for name, output in outputs.items()}
        binding = Binding(self, images, addresses, scratch, stream)
        return Placed(binding, views, outputs, stream, made)

    def inspect(self, context: Any = None) -> str:
        """What TensorRT's inspector says about the engine, as JSON.

        The inspector gives formats only for a context with a shape: `context`, or one on the first
        profile.
        """
        if context is None:
            images = self.profiles[0][1]
            stream, scratch = self._own
            context = self.context_for(images, scratch, stream)
            for spec in self.inputs:
                context.set_input_shape(spec.name, (images, *spec.shape[1:]))
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        form = self._library.trt.LayerInformationFormat.JSON
        return str(inspector.get_engine_information(form))

    def complaint(self) -> str:
        """The last error that TensorRT logged."""
        return self._library.complaint()

    def failed(self, images: int) -> TrtkitError:
        """The error for TensorRT refusing to run, with what it logged."""
        return TrtkitError(
            f"TensorRT could not run {self.name} on {images} images ({self.complaint()}); "
            "lower --batch, or build the bundle again with `trtkit build`."
        )

    @cached_property
    def _own(self) -> tuple[Stream, DeviceMemory]:
        """This engine's own stream and scratch memory, for runs outside a chain."""
        what = f"the intermediate results of {self.name}"
        return Stream(), DeviceMemory(self.scratch_bytes, what)

    def _specs(self, mode: Any) -> tuple[TensorSpec, ...]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(
            TensorSpec(
                name,
                DTYPES[engine.get_tensor_dtype(name).name],
                (None, *(int(size) for size in tuple(engine.get_tensor_shape(name))[1:])),
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        )

    def _view(self, spec: TensorSpec, inputs: Mapping[str, Any], stream: Stream) -> DeviceView:
        value = input_of(spec, inputs)
        view = device_view(value, stream)
        if view is None:
            array = value if isinstance(value, np.ndarray) else value.numpy()
            check_fits(spec, array.shape, array.dtype.name)
            # Pinned, so that the copy is ordered before the run without the host waiting for it.
            host = pinned(array.shape, array.dtype.name, f"the input of {self.name}")
            host[...] = array
            memory = DeviceMemory(array.nbytes, f"the input of {self.name}")
            stream.copy(memory.pointer, host.ctypes.data, array.nbytes)
            view = DeviceView(memory.pointer, array.shape, array.dtype.name, (memory, host))
        check_fits(spec, view.shape, view.dtype)
        return view

    def _output(self, spec: TensorSpec, images: int, made: Event) -> DeviceTensor:
        shape = (images, *(size or 1 for size in spec.shape[1:]))
        nbytes = math.prod(shape) * np.dtype(spec.dtype).itemsize
        memory = DeviceMemory(nbytes, f"the output of {self.name} for {images} images")
        return DeviceTensor(memory, shape, spec.dtype, made)


class Binding:
    """An engine ready to run on `images` images: `enqueue` runs it, any number of times.

    `addresses`: of the tensors on the device, by name. `scratch` holds at least the engine's
    `scratch_bytes`; engines that never run at once may share it. Raises TrtkitError when no profile
    takes that many images.

    An execution context of its own, because a captured graph keeps the context's state of that time.
    Where a profile belongs to one context alone, bindings take turns on it and cannot be captured.
    """

    def __init__(
        self,
        owner: TensorRTEngine,
        images: int,
        addresses: Mapping[str, int],
        scratch: DeviceMemory,
        stream: Stream,
    ) -> None:
        self._owner = owner
        self._images = images
        self._addresses = dict(addresses)
        self._scratch = scratch
        self._stream = stream
        self.context = owner.context_for(images, scratch, stream)
        self._set()

    @property
    def capturable(self) -> bool:
        api = self._owner.api
        return api.shares_profiles and api.capturable(self.context, self._stream.pointer)

    def enqueue(self) -> None:
        """Queue one run on the stream. Raises TrtkitError when TensorRT refuses it."""
        if not self._owner.api.shares_profiles:
            # Another binding had its turn: its memory, shape and addresses are in the context.
            self._set()
        if not self.context.execute_async_v3(self._stream.pointer):
            raise self._owner.failed(self._images)

    def attach(self, profiler: Any) -> None:
        """Let `report` pass each layer's time to an IProfiler after a run.

        By default `enqueue` would do so and wait for the run inside TensorRT; trtexec does as this does.
        """
        self.context.profiler = profiler
        self.context.enqueue_emits_profile = False

    def report(self) -> bool:
        """Pass the times of the last run to the profiler. False when TensorRT cannot."""
        return bool(self.context.report_to_profiler())

    def _set(self) -> None:
        self._owner.api.set_scratch(self.context, self._scratch.pointer, self._scratch.nbytes)
        for spec in self._owner.inputs:
            self.context.set_input_shape(spec.name, (self._images, *spec.shape[1:]))
        for name, address in self._addresses.items():
            self.context.set_tensor_address(name, address)


@dataclass(frozen=True)
class Placed:
    """A binding and what it runs on: `views` hold the inputs, `made` is to be recorded on `stream`."""

    binding: Binding
    views: Mapping[str, DeviceView]
    outputs: Mapping[str, DeviceTensor]
    stream: Stream
    made: Event


def load_engine(
    library: Library, path: Path, rebuild: str, *, version_compatible: bool
) -> TensorRTEngine:
    """The engine of a plan file. Raises TrtkitError when TensorRT cannot load it.

    A version compatible plan brings code of its own, which then is run.
    """
    library.messages.clear()
    runtime = library.make("Runtime", "run")
    if version_compatible:
        library.api.allow_host_code(runtime)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None and library.short_of_memory():
        free, total = free_memory()
        raise TrtkitError(
            f"There is not enough device memory for {library} to load {path} ({library.complaint()}; "
            f"{human_bytes(free)} of {human_bytes(total)} are free); end what else uses the GPU, or build "
            "with a smaller --batch."
        )
    if engine is None:
        raise TrtkitError(
            f"{library} cannot load {path} ({library.complaint()}); run `{rebuild}` to build it for "
            "this machine."
        )
    return TensorRTEngine(library, runtime, engine, path.name.rpartition("-")[0])


def _batches(shapes: Any) -> BatchRange:
    low, best, high = (int(next(iter(shape))) for shape in shapes)
    return low, best, high
