"""The unsplit model on ONNX Runtime's CUDA provider."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from trtkit.benchmark.network import Network
from trtkit.engines.onnxruntime import ERRORS_ONLY, LOAD_ERRORS
from trtkit.errors import TrtkitError
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# As for torch: fp32 is fp32.
CUDA_OPTIONS = {"use_tf32": "0"}


def onnxruntime_on_device(
    model: onnx.ModelProto, threads: int, provider: str = CUDA, device: str = "cuda"
) -> Network:
    """The model on the first GPU, with default options but for the threads and TF32.

    Raises TrtkitError when ONNX Runtime cannot load it there; it would take the CPU in silence.
    """
    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN out of pip's packages, which are not where the system looks for libraries.
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    settings = CUDA_OPTIONS if provider == CUDA else {}
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[(provider, settings)]
        )
    except LOAD_ERRORS as error:
        raise TrtkitError(
            f"ONNX Runtime cannot load the exported model ({str(error).splitlines()[0]}); measure it "
            "without onnxruntime-cuda."
        ) from error
    if provider not in session.get_providers():
        raise TrtkitError(
            f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU here: it finds no CUDA or cuDNN "
            "of the versions that it was built for; install them (pip install "
            "'onnxruntime-gpu[cuda,cudnn]'), or measure it without onnxruntime-cuda."
        )
    bound = BoundSession(session, device)
    return Network(bound.logits, on_device=bound)


class BoundSession:
    """A session whose inputs and outputs lie on its device."""

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def logits(self, images: Array) -> Array:
        return np.asarray(self._session.run(None, {self._input: images})[0])

    def place(self, images: Array) -> Any:
        binding = self._session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(images, self._device, 0)
        binding.bind_ortvalue_input(self._input, value)
        binding.bind_output(self._output, self._device, 0)
        return binding

    def seconds(self, batches: Sequence[Any]) -> float:
        # Its streams cannot be asked for the time, so the host waits with its own clock.
        for binding in batches:
            binding.synchronize_inputs()
        started = time.perf_counter()
        for binding in batches:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return time.perf_counter() - started
