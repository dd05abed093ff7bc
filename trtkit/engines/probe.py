"""Running a graph that is no stage: a file as its author wrote it, any tensor of it, for any inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from trtkit.engines.onnxruntime import FATAL_ONLY, LOAD_ERRORS, PROVIDERS, reason, shared_pool
from trtkit.errors import TrtkitError
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

NUMPY_TYPES = {
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
# Bytes that the tensors of a graph from elsewhere may take together, weights included.
MEMORY = 4 * 2**30


class GraphProbe:
    """A graph on ONNX Runtime's CPU provider, its memory limited to MEMORY.

    `model` is the graph, or its file; `name` is the file that messages speak of, `tensors` are those of a
    graph to be seen beside its outputs. `often`: it is run many times, so that optimising it pays. Raises
    TrtkitError when ONNX Runtime cannot load it.

        GraphProbe(model, "a.onnx").run({"x": images}, ["logits"])["logits"]
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        name: str,
        tensors: Sequence[str] = (),
        *,
        often: bool = False,
    ) -> None:
        self._name = name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        if not often:
            # All optimisations would only change sums, and take longer than the few runs.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        # What the graph says, in fp32 between the Q/DQ pairs of a quantized one.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.use_per_session_threads = not shared_pool()
        if _limited_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else _with_outputs(model, tensors),
                options,
                providers=PROVIDERS,
            )
        except (*LOAD_ERRORS, ValueError) as error:
            raise TrtkitError(
                f"ONNX Runtime cannot load {name} ({reason(error)}); export it again with operators "
                "and an opset that ONNX Runtime knows."
            ) from error

    @property
    def inputs(self) -> list[tuple[str, str, list[int | None]]]:
        """Name, numpy dtype and shape of each input; sizes that only a run shows are None."""
        return [
            (
                value.name,
                NUMPY_TYPES.get(value.type, "float32"),
                [size if isinstance(size, int) else None for size in value.shape],
            )
            for value in self._session.get_inputs()
        ]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [value.name for value in self._session.get_outputs()]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """The graph's outputs of these names. Raises TrtkitError when it cannot be run."""
        try:
            values = self._session.run(list(names), dict(feeds))
        except (*LOAD_ERRORS, ValueError) as error:
            shapes = ", ".join(
                f"{value.dtype.name} {' x '.join(map(str, value.shape))}"
                for value in feeds.values()
            )
            raise TrtkitError(
                f"{self._name} cannot be run on {shapes} ({reason(error)}); export it again, with a "
                "dynamic batch."
            ) from error
        return dict(zip(names, map(np.asarray, values), strict=True))

    def try_out(self) -> None:
        """Run the graph once, on a batch of one of zeros. Raises TrtkitError when it cannot be run."""
        feeds = {
            value.name: np.zeros(
                [size if isinstance(size, int) else 1 for size in value.shape],
                NUMPY_TYPES.get(value.type, "float32"),
            )
            for value in self._session.get_inputs()
        }
        self.run(feeds, [value.name for value in self._session.get_outputs()])


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """The serialized model with these tensors as further outputs. Weights are not copied for it."""
    from onnx import ValueInfoProto

    outputs = model.graph.output
    own = len(outputs)
    outputs.extend(ValueInfoProto(name=name) for name in tensors)
    try:
        return bytes(model.SerializeToString())
    finally:
        del outputs[own:]


@cache
def _limited_memory() -> bool:
    """Register the allocator that the probes of this process share; False where there is one already."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    try:
        onnxruntime.create_and_register_allocator(
            memory, onnxruntime.OrtArenaCfg({"max_mem": MEMORY})
        )
    except (ort_errors.Fail, ort_errors.InvalidArgument):
        return False
    return True
