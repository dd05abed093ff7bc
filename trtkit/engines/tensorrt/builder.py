"""From an ONNX graph to a plan: parse, check what was parsed, configure, build."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from trtkit import reporting
from trtkit.engines.cuda.device import Card, free_memory
from trtkit.engines.options import BuildOptions
from trtkit.engines.tensorrt.layers import check_layers, network_layers
from trtkit.engines.tensorrt.library import Library
from trtkit.engines.tensorrt.versions import DTYPES, Api
from trtkit.errors import TrtkitError, listed
from trtkit.sizes import human_bytes
from trtkit.tensors import TensorSpec


@dataclass(frozen=True)
class PlanRequest:
    """A graph as it goes to the parser.

    `content`: the serialized ONNX, at its precision. `nodes`: its nodes' names and operators in order;
    `expected`: what each heavy node computes in. `name` is for messages.
    """

    name: str
    content: bytes
    precision: str
    nodes: list[tuple[str, str]]
    expected: Mapping[str, str]
    options: BuildOptions


@dataclass(frozen=True)
class BuiltPlan:
    """A plan's bytes, its ends, the heavy layers of the network, and how long it took in seconds."""

    content: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: dict[str, int]
    seconds: float


def build_plan(
    library: Library, card: Card | None, request: PlanRequest, timing_folder: Path
) -> BuiltPlan:
    """Build a plan. Raises TrtkitError for what the parser or the builder refuses."""
    library.messages.clear()
    trt, api = library.trt, library.api
    builder = library.make("Builder", "build")
    strong = api.strongly_typed(dla=request.options.dla is not None)
    network = builder.create_network(api.network_flags(strong=strong))
    # The network's weights are the parser's: it must live until the plan is built.
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(request.content):
        raise _refused(library, parser, request)
    layers = network_layers(network, trt)
    counts: dict[str, int] = {}
    if strong:
        # Without strong types they are not yet the engine's: then the inspector alone can tell.
        counts = check_layers(
            [layer for _, layer in layers],
            request.precision,
            request.expected,
            f"the network of {request.name}",
        )
    config = builder.create_builder_config()
    _configure(library, builder, config, network, request)
    if not strong:
        api.allow_types(config, request.precision)
        if request.precision == "fp16" and request.options.dla is None:
            api.hold_to_half(config, network, (index for index, _ in layers))
    # TensorRT for RTX times nothing while it builds.
    timing = None if library.rtx else TimingCache(timing_folder, str(library), card)
    if timing is not None:
        timing.use(config)
    monitor = _make_monitor(api)
    if monitor is not None:
        api.report_progress(config, monitor)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if monitor is not None and monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise _not_built(library, card, request)
    if timing is not None:
        timing.keep(config)
    return BuiltPlan(
        bytes(plan),
        tuple(_spec(network.get_input(index)) for index in range(network.num_inputs)),
        tuple(_spec(network.get_output(index)) for index in range(network.num_outputs)),
        counts,
        seconds,
    )


class TimingCache:
    """How fast each kernel was, kept from one build to the next: a file for each library, version and card.

    Two builds at once lose nothing of each other.
    """

    def __init__(self, folder: Path, library: str, card: Card | None) -> None:
        name = f"{library} {card.name} {card.capability}" if card else f"{library} no card"
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"

    def use(self, config: Any) -> None:
        """Give a build what earlier ones measured."""
        config.set_timing_cache(config.create_timing_cache(self._read()), False)

    def keep(self, config: Any) -> None:
        """Add what this build measured to the file.

        The file is read again under a lock, because another build may have added to it meanwhile.
        """
        measured = config.get_timing_cache()
        if measured is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            both = config.create_timing_cache(self._read())
            both.combine(measured, False)
            fresh = self.path.with_suffix(".new")
            fresh.write_bytes(bytes(both.serialize()))
            fresh.replace(self.path)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""


def _make_monitor(api: Api) -> Any:
    """A monitor that reports to this context's reporter; None where this TensorRT has no monitors.

    Its `interrupted` says whether the user ended the build: an exception cannot pass through
    TensorRT, which asks after each step whether to go on.
    """
    base = api.monitor_base
    if base is None:
        return None
    # TensorRT calls from threads of its own.
    reporter = reporting.current()

    class Monitor(base):  # type: ignore[misc, valid-type]
        """Reports each phase; TensorRT calls it from any thread."""

        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = max(1, steps)

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)
            self._report(name, 1.0)

        def step_complete(self, name: str, step: int) -> bool:
            self._report(name, min(1.0, (step + 1) / self._steps.get(name, 1)))
            return not self.interrupted

        def _report(self, name: str, share: float) -> None:
            try:
                reporter.advance(name, share)
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()


def _configure(
    library: Library, builder: Any, config: Any, network: Any, request: PlanRequest
) -> None:
    trt, api, options = library.trt, library.api, request.options
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for profile in options.profiles:
        ranges = builder.create_optimization_profile()
        for value in inputs:
            shape = tuple(value.shape)[1:]
            ranges.set_shape(value.name, *((images, *shape) for images in profile))
        config.add_optimization_profile(ranges)
    api.share_profiles(config)
    # On by default, and rounds what is called fp32 to 10 bits.
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    # Without it the inspector tells names alone, and no precision can be checked.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_memory is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_memory)
    if options.optimization_level is not None:
        api.set_optimization_level(config, options.optimization_level)
    if options.hardware_compatible:
        api.set_hardware_compatible(config)
    if options.version_compatible:
        api.set_version_compatible(config)
    if options.own_tactics:
        api.own_tactics_only(config)
    if options.dla is not None:
        _use_dla(library, builder, config, options.dla)


def _use_dla(library: Library, builder: Any, config: Any, core: int) -> None:
    trt = library.trt
    if not 0 <= core < builder.num_DLA_cores:
        raise TrtkitError(
            f"There is no DLA {core}: {library} finds {builder.num_DLA_cores} deep learning accelerators; "
            "leave --dla out, or give a lower number."
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _refused(library: Library, parser: Any, request: PlanRequest) -> TrtkitError:
    problems: dict[str, None] = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = library.api.node_of(error, request.nodes)
        problems[f"node {name} ({operator}): {_reason(error)}"] = None
    reasons = listed(problems, limit=3) if problems else library.complaint()
    return TrtkitError(
        f"{library} cannot parse {request.name} ({reasons}); export the model without that operator, "
        "or build it with --backend onnxruntime."
    )


def _reason(error: Any) -> str:
    """Why the parser refuses a node; its first line may only repeat which node it is."""
    lines = [line.strip().rstrip(". ") for line in str(error.desc()).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Invalid Node"):
        return lines[1]
    # A check of the parser that has no words of its own.
    wordless = not lines or lines[0] in ("false", "true")
    return "it does not support that operator" if wordless else lines[0]


def _not_built(library: Library, card: Card | None, request: PlanRequest) -> TrtkitError:
    short = library.short_of_memory() if card is not None else False
    if short is not False:
        free, total = free_memory()
        happened = (
            "ran out of device memory" if short else "found no kernel, often for want of memory,"
        )
        return TrtkitError(
            f"{library} {happened} while it built {request.name} for up to "
            f"{request.options.batch[2]} images ({library.complaint()}; {human_bytes(free)} of "
            f"{human_bytes(total)} are free); lower --batch or --workspace-memory, or end what else uses "
            "the GPU."
        )
    complaint = library.complaint()
    return TrtkitError(
        f"{library} cannot build {request.name} at {request.precision} ({complaint}); "
        f"{_advice(request.options, complaint)}."
    )


def _advice(options: BuildOptions, complaint: str) -> str:
    if options.workspace_memory is not None and "workspace" in complaint.lower():
        return "give --workspace-memory more, or leave it out"
    flags = [flag for flag in options.beyond_batch() if flag != "--tf32"]
    if flags:
        return f"leave {listed(flags)} out, or try another precision"
    return "try another precision or --backend onnxruntime"


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return TensorSpec(tensor.name, DTYPES.get(tensor.dtype.name, tensor.dtype.name), shape)
