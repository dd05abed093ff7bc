"""The unsplit model on ONNX Runtime, on the CPU or on a GPU, and the check of others against it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from trtkit.benchmark.network import TOLERANCE, Logits, Network, merged
from trtkit.engines.onnxruntime import FATAL_ONLY, LOAD_ERRORS
from trtkit.errors import TrtkitError, first_line
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# As for torch: fp32 is fp32.
CUDA_OPTIONS = {"use_tf32": "0"}


def onnxruntime_network(model: onnx.ModelProto, threads: int) -> Network:
    """The model on ONNX Runtime's CPU provider, with its default options but for the threads."""
    return Network(BoundSession(model, threads, CPU).logits)


def onnxruntime_on_device(
    model: onnx.ModelProto, threads: int, provider: str = CUDA, device: str = "cuda"
) -> Network:
    """The model on the first GPU, with default options but for the threads and TF32.

    Raises TrtkitError when ONNX Runtime cannot load it there; it would take the CPU in silence.
    """
    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN out of pip's packages, which are not where the system looks for libraries.
        onnxruntime.preload_dlls()
    session = BoundSession(model, threads, provider, device)
    return Network(session.logits, on_device=session)


class BoundSession:
    """A session of ONNX Runtime on one provider, whose inputs and outputs lie on its `device`.

    Raises TrtkitError when ONNX Runtime cannot load the model, or has no such provider.
    """

    def __init__(
        self, model: onnx.ModelProto, threads: int, provider: str, device: str = "cpu"
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = FATAL_ONLY
        settings = CUDA_OPTIONS if provider == CUDA else {}
        fix = (
            "measure it without onnxruntime-cuda"
            if device == "cuda"
            else "build the bundle again with `trtkit build`"
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=[(provider, settings)]
            )
        except LOAD_ERRORS as error:
            raise TrtkitError(
                f"ONNX Runtime cannot load the exported model ({first_line(error)}); {fix}."
            ) from error
        if provider not in self._session.get_providers():
            raise TrtkitError(
                f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU here: it finds no CUDA or "
                "cuDNN of the versions that it was built for; install them (pip install "
                "'onnxruntime-gpu[cuda,cudnn]'), or measure it without onnxruntime-cuda."
            )
        self._device = device
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def logits(self, images: Array) -> Array:
        return np.asarray(self._session.run(None, {self._input: images})[0])

    def place(self, images: Array) -> Any:
        binding = self._session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(images, self._device, 0)
        binding.bind_ortvalue_input(self._input, value)
        binding.bind_output(self._output, self._device, 0)
        return binding

    def seconds(self, batches: Sequence[Any]) -> float:
        # Its streams do not tell the time, so the host waits with its own clock.
        for binding in batches:
            binding.synchronize_inputs()
        started = time.perf_counter()
        for binding in batches:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return time.perf_counter() - started


def check_same(
    logits: Logits, parts: Sequence[onnx.ModelProto], images: Array, tolerance: float = TOLERANCE
) -> None:
    """Raise TrtkitError unless this is what the export computes, by the first image.

    A foreign graph may have the weights of an architecture and do something else with them.
    `tolerance`: the largest difference, as a share of the largest logit.
    """
    expected = onnxruntime_network(merged(parts), 1).logits(images[:1])
    error = float(np.abs(logits(images)[:1] - expected).max())
    # Written so that NaN is not accepted.
    if not error <= tolerance * float(np.abs(expected).max()):
        raise TrtkitError(
            f"The network rebuilt in torch is not the exported one (its logits differ by {error:.3g}); "
            "measure it without the torch baselines."
        )
