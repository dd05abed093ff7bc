"""The ONNX Runtime backend on the CPU: nothing to start, runs every feature."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from trtkit.atomic import scratch_folder
from trtkit.cpu import (
    process_is_ours,
    processor_features,
    usable_cores,
)
from trtkit.engines.base import (
    BuiltEngine,
    LayerTime,
    StageBuild,
    Tensor,
    check_fits,
    input_of,
)
from trtkit.engines.optimised import WEIGHTS, KeptGraphs
from trtkit.errors import TrtkitError, first_line, listed
from trtkit.identity import build_id
from trtkit.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import onnx

    from trtkit.engines.registry import BackendEntry

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
}
PROVIDERS = ["CPUExecutionProvider"]
# ONNX Runtime also raises what it would log as an error.
FATAL_ONLY = 4
# Bytes; smaller weights stay in the kept graph itself.
SMALLEST_WEIGHTS = 1024
# In a profile: the ending of the events that are a kernel's work, and the unit of their durations.
KERNEL = "_kernel_time"
MICROSECONDS = 1e6
# The operators whose kernels run other kernels.
CONTROL_FLOW = ("If", "Loop", "Scan")
# Every error class of ONNX Runtime derives from Exception alone, so they are named one by one.
LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
# In an error message: codes, the path of the file, the library's own source line and condition.
_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:|Exception during initialization: |"
    r"/\S*onnxruntime_src/\S+:\d+ .*? was false\. ?|/\S*onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])|"
    r"Status Message: |This is an invalid model\. |Fatal error: "
)
_FAILED_NODE = re.compile(
    r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' ?"
)


def make_backend(entry: BackendEntry) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend()


@cache
def shared_pool() -> bool:
    """Whether all engines of this process share one thread pool; makes it when the process is ours.

    A chain of two engines then costs what the whole model costs: with a pool for each engine, the
    idle one takes time from the busy one. ONNX Runtime wants the pool before anything else of its
    own, and refuses from then on, anywhere in the process, sessions with threads of their own.
    """
    if not process_is_ours():
        return False
    try:
        onnxruntime.set_global_thread_pool_sizes(usable_cores(), 1)
    except ort_errors.Fail:
        # Something of this process was there first: each engine gets threads of its own.
        return False
    return True


class OnnxRuntimeBackend:
    """ONNX Runtime's CPU provider. fp16 is how weights and feature maps are kept, not computed.

    `exact`: compute what a quantized graph says, in fp32 between its Q/DQ pairs, instead of with the
    int8 kernels, which round in other places.
    """

    name = "onnxruntime"
    int8_form = "unsigned"
    suffix = ".onnx"
    on_device = False
    computes: Mapping[str, str] = {
        "fp32": "fp32",
        "fp16": "fp32 (ONNX Runtime's CPU kernels have no fp16: weights and feature maps are stored "
        "as fp16)",
        "int8": "int8 (the rest in fp32)",
    }

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact

    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def target(self) -> list[str]:
        return []

    def cannot_build(self) -> str | None:
        return None

    def cannot_run(self) -> str | None:
        return None

    def build(self, stage: StageBuild, destination: Path, timing: Path) -> BuiltEngine:
        from trtkit.graph.files import write_model
        from trtkit.graph.precision import store_half

        beyond = stage.options.beyond_batch()
        if beyond:
            raise TrtkitError(
                f"{self.name} does not have {listed(beyond)}; leave it out, or build with --backend "
                "tensorrt."
            )
        if not stage.root and stage.precision != "int8":
            _enter_blocked_layout(stage.graph.graph)
        if stage.precision == "fp16":
            store_half(stage.graph, feature_input=not stage.root, feature_output=not stage.leaf)
        write_model(stage.graph, destination)
        engine = self.load(destination)
        return BuiltEngine(engine.inputs, engine.outputs)

    def load(
        self,
        path: Path,
        record: Mapping[str, Any] | None = None,
        rebuild: str = "trtkit build",
        digest: str | None = None,
    ) -> OnnxRuntimeEngine:
        session = None
        graphs = KeptGraphs.usual()
        if graphs is not None and digest is not None:
            session = self._kept_session(graphs, path, digest, rebuild)
        if session is None:
            session = self._session(path, onnxruntime.SessionOptions(), rebuild)
        return OnnxRuntimeEngine(session)

    def layer_times(
        self, path: Path, record: Mapping[str, Any], inputs: Mapping[str, Array], runs: int
    ) -> list[LayerTime]:
        with scratch_folder() as folder:
            options = onnxruntime.SessionOptions()
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "layers")
            session = self._session(path, options, "trtkit build")
            engine = OnnxRuntimeEngine(session)
            try:
                for _ in range(runs + 1):
                    engine.run(inputs)
            finally:
                # Closes the file, which some systems need before its folder can be deleted.
                written = Path(session.end_profiling())
            events = json.loads(written.read_bytes())
        return _layer_times(events, runs)

    def _kept_session(
        self, graphs: KeptGraphs, path: Path, digest: str, rebuild: str
    ) -> Any | None:
        """A session of the optimised graph, which is kept for next time; None when it cannot be kept."""
        key = build_id(
            graph=digest,
            onnxruntime=self.version,
            exact=self._exact,
            processor=processor_features(),
        )[:32]
        try:
            graph = graphs.find(key)
            if graph is not None:
                options = onnxruntime.SessionOptions()
                options.graph_optimization_level = (
                    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                )
                return self._session(graph, options, rebuild)
            return graphs.keep(key, lambda path_: self._session(path, _written_to(path_), rebuild))
        except TrtkitError:
            # The kept graph cannot be read or written. Loading the engine itself says why, if it fails too.
            graphs.drop(key)
            return None

    def _session(self, path: Path, options: Any, rebuild: str) -> Any:
        options.log_severity_level = FATAL_ONLY
        # x86 without VNNI adds products of uint8 and int8 in 16 bits, which overflow. With this entry
        # ONNX Runtime multiplies uint8 by uint8 there, which is exact; elsewhere it has no effect.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if self._exact:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if shared_pool():
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = usable_cores()
            # A pool that spins while the next engine of the chain works takes its core.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
        except LOAD_ERRORS as error:
            raise TrtkitError(
                f"ONNX Runtime cannot load {path} ({reason(error)}); build the bundle "
                f"again with `{rebuild}`."
            ) from error


def reason(error: BaseException) -> str:
    """What ONNX Runtime says went wrong, without its codes, its own source lines and the file's path."""
    text = _NOISE.sub("", first_line(error))
    return _FAILED_NODE.sub(r"node \2 (\1): ", text)


def _written_to(graph: Path) -> Any:
    """Session options that write the optimised graph to `graph`, its weights to a file in that folder."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(graph)
    name = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(f"{name}file_name", WEIGHTS)
    options.add_session_config_entry(f"{name}min_size_in_bytes", str(SMALLEST_WEIGHTS))
    return options


def _layer_times(events: Sequence[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """The kernels in an ONNX Runtime profile of `runs` runs and one before them.

    A session runs its kernels in one order, so every run has as many events, in that order. Raises
    TrtkitError when some are missing: a profile ends at a million events.
    """
    kernels = _kernels(events)
    count, beyond = divmod(len(kernels), runs + 1)
    if beyond or not count:
        raise TrtkitError(
            f"ONNX Runtime's profile of {runs + 1} runs has {len(kernels)} kernels, which is not as "
            "many in each run; measure fewer runs."
        )
    return [
        LayerTime(
            name=kernels[place]["name"].removesuffix(KERNEL),
            kind=kernels[place]["args"]["op_name"],
            seconds=tuple(
                float(kernels[place + run * count]["dur"]) / MICROSECONDS
                for run in range(1, runs + 1)
            ),
        )
        for place in range(count)
    ]


def _kernels(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The kernels in the order of their work, without those whose time is part of another's."""
    kernels: list[Mapping[str, Any]] = []
    inside_until = 0.0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        if event.get("cat") != "Node" or not event["name"].endswith(KERNEL):
            continue
        begin = float(event["ts"])
        if begin < inside_until:
            continue
        kernels.append(event)
        if event["args"]["op_name"] in CONTROL_FLOW:
            inside_until = begin + float(event["dur"])
    return kernels


def _enter_blocked_layout(graph: onnx.GraphProto) -> None:
    """Put a pooling of 1 x 1, which changes nothing, behind the feature map, in place.

    ONNX Runtime keeps convolutions' tensors in a layout of channel blocks and fuses the shortcut of a
    residual block into its convolution only where the shortcut is in that layout too. A graph's input
    never is, so without this the whole chain of identity shortcuts behind a cut stays unfused.
    """
    from onnx import helper

    feature = graph.input[0]
    if len(feature.type.tensor_type.shape.dim) != 4:
        return
    blocked = f"{feature.name}_blocked"
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == feature.name:
                node.input[position] = blocked
    pool = helper.make_node("MaxPool", [feature.name], [blocked], blocked, kernel_shape=[1, 1])
    graph.node.insert(0, pool)


class OnnxRuntimeEngine:
    """One ONNX Runtime session."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, Array | Tensor]) -> dict[str, Tensor]:
        feeds = {spec.name: _feed(spec, inputs) for spec in self.inputs}
        try:
            values = self._session.run_with_ort_values(self._output_names, feeds)
        except LOAD_ERRORS as error:
            raise TrtkitError(
                f"ONNX Runtime could not run {', '.join(map(str, self.inputs))} "
                f"({reason(error)}); check the batch size and the memory that is free."
            ) from error
        return {
            name: OnnxRuntimeTensor(value)
            for name, value in zip(self._output_names, values, strict=True)
        }


class OnnxRuntimeTensor:
    """A value that ONNX Runtime allocated."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    @cached_property
    def _host(self) -> Array:
        return np.asarray(self.value.numpy())

    def numpy(self) -> Array:
        return self._host


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, DTYPES.get(value.type, value.type), shape)


def _feed(spec: TensorSpec, inputs: Mapping[str, Array | Tensor]) -> Any:
    value = input_of(spec, inputs)
    if isinstance(value, OnnxRuntimeTensor):
        return value.value
    array = value if isinstance(value, np.ndarray) else value.numpy()
    check_fits(spec, array.shape, array.dtype.name)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
