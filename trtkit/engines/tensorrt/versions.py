"""TensorRT's API where its versions differ; what is used elsewhere is in all of them, 8.5.3 to 11.

| | 8.5 | 8.6 | 10 | 11, RTX |
| --- | --- | --- | --- | --- |
| what decides the types | flags and layer.precision | same | the graph (STRONGLY_TYPED) | the graph |
| EXPLICIT_BATCH | needed | needed | ignored | gone |
| optimization level, hardware and version compatibility | - | yes | yes | yes |
| progress monitor, node names of parser errors | - | - | yes | yes |
| contexts sharing a profile | - | a preview feature | yes | yes |
| context without memory | a method of its own | same | a strategy | a strategy |
| size of the scratch memory | device_memory_size | same | _v2 from 10.3 | _v2 |
| tactics of cuDNN and cuBLAS | may be left out | same | deprecated | gone |
| plans for more than one card | - | AMPERE_PLUS | same | same; RTX: always |

A feature is looked up by its name, because the releases between those in the table differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trtkit.errors import TrtkitError

# The names of TensorRT's data types, as NumPy calls them.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class Api:
    """One version of TensorRT: what it has, and how each thing is said in it."""

    def __init__(self, trt: Any, name: str) -> None:
        self.trt = trt
        self._name = f"{name} {trt.__version__}"

    def strongly_typed(self, *, dla: bool = False) -> bool:
        """Whether the graph's types are the engine's.

        Up to 10 a flag selects fp16 on the accelerators of a Jetson, as NVIDIA documents it.
        """
        return self._from_10 and not (dla and hasattr(self.trt.BuilderFlag, "FP16"))

    def network_flags(self, *, strong: bool) -> int:
        flag = self.trt.NetworkDefinitionCreationFlag
        if strong:
            return 1 << int(flag.STRONGLY_TYPED)
        return 1 << int(flag.EXPLICIT_BATCH)

    def allow_types(self, config: Any, precision: str) -> None:
        """Without strong types: let the engine use fp16, and int8 where Q/DQ pairs say so."""
        if precision != "fp32":
            config.set_flag(self.trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(self.trt.BuilderFlag.INT8)

    def hold_to_half(self, config: Any, network: Any, heavy: Iterable[int]) -> None:
        """Without strong types: fp16 for the layers of these numbers even where fp32 is faster."""
        config.set_flag(self.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        for index in heavy:
            network.get_layer(index).precision = self.trt.DataType.HALF

    @property
    def shares_profiles(self) -> bool:
        """Whether several execution contexts may use one optimization profile."""
        return self._asks_for_sharing or self._from_10

    def share_profiles(self, config: Any) -> None:
        """Ask for it where it is not the rule yet."""
        if self._asks_for_sharing:
            config.set_preview_feature(self.trt.PreviewFeature.PROFILE_SHARING_0806, True)

    @property
    def _asks_for_sharing(self) -> bool:
        return not self._from_10 and hasattr(self.trt.PreviewFeature, "PROFILE_SHARING_0806")

    @property
    def _from_10(self) -> bool:
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def own_tactics_only(self, config: Any) -> None:
        """Leave out cuDNN's and cuBLAS's kernels."""
        sources = self.trt.TacticSource
        if not hasattr(sources, "CUDNN"):
            raise TrtkitError(f"{self._name} has no kernels but its own; leave --own-tactics out.")
        own = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
        bits = [1 << int(getattr(sources, name)) for name in own if hasattr(sources, name)]
        config.set_tactic_sources(sum(bits))
        preview = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"
        if hasattr(self.trt.PreviewFeature, preview):
            config.set_preview_feature(getattr(self.trt.PreviewFeature, preview), True)

    def set_optimization_level(self, config: Any, level: int) -> None:
        self._need(config, "builder_optimization_level", "--optimization-level")
        config.builder_optimization_level = level

    def set_hardware_compatible(self, config: Any) -> None:
        if hasattr(config, "num_compute_capabilities"):
            raise TrtkitError(
                f"Plans of {self._name} run on all the cards that it supports from Ampere on; leave "
                "--hardware-compatible out."
            )
        self._need(config, "hardware_compatibility_level", "--hardware-compatible")
        config.hardware_compatibility_level = self.trt.HardwareCompatibilityLevel.AMPERE_PLUS

    def set_version_compatible(self, config: Any) -> None:
        self._need(self.trt.BuilderFlag, "VERSION_COMPATIBLE", "--version-compatible")
        config.set_flag(self.trt.BuilderFlag.VERSION_COMPATIBLE)

    def report_progress(self, config: Any, monitor: Any) -> None:
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = monitor

    @property
    def monitor_base(self) -> type | None:
        """The class that progress monitors derive from; None where there are none."""
        return getattr(self.trt, "IProgressMonitor", None)

    def node_of(self, error: Any, nodes: list[tuple[str, str]]) -> tuple[str, str]:
        """Name and operator of the ONNX node that a parser error is about; `nodes` are the graph's."""
        if hasattr(error, "node_name") and error.node_name():
            return str(error.node_name()), str(error.node_operator())
        index = int(error.node())
        return nodes[index] if 0 <= index < len(nodes) else (f"number {index}", "unknown")

    def allow_host_code(self, runtime: Any) -> None:
        """A version compatible plan holds the runtime it was built with, which is code."""
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True

    def scratch_bytes(self, engine: Any) -> int:
        if hasattr(engine, "device_memory_size_v2"):
            return int(engine.device_memory_size_v2)
        return int(engine.device_memory_size)

    def create_context(self, engine: Any) -> Any:
        """An execution context that is given its scratch memory; None when TensorRT cannot."""
        if hasattr(self.trt, "ExecutionContextAllocationStrategy"):
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            return engine.create_execution_context(strategy)
        return engine.create_execution_context_without_device_memory()

    def set_scratch(self, context: Any, pointer: int, nbytes: int) -> None:
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(pointer, nbytes)
        else:
            context.device_memory = pointer

    def capturable(self, context: Any, stream: int) -> bool:
        """Whether a run can be captured into a CUDA graph. RTX compiles kernels while it runs."""
        if hasattr(context, "is_stream_capturable"):
            return bool(context.is_stream_capturable(stream))
        return True

    def _need(self, owner: Any, attribute: str, option: str) -> None:
        if not hasattr(owner, attribute):
            raise TrtkitError(
                f"{self._name} does not have {option}, which came with TensorRT 8.6; leave it out."
            )
