"""Making a quantized ONNX file of an exported one, in the form that TensorRT's parser takes."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from trtkit.graph.files import read_model
from trtkit.graph.values import image_input


def quantize(
    model: onnx.ModelProto | str | Path,
    destination: str | Path,
    images: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write `model` to `destination` with Q/DQ pairs around convolutions, Gemms and Adds.

    `images`: uint8 H x W x 3, what the ranges are measured on, one run each. Without them one image
    of noise: enough where a test parses and builds, and no logits are looked at. The metadata stay, but
    the seal.
    """
    loaded = read_model(Path(model)) if isinstance(model, (str, Path)) else model
    if images is None:
        images = [_noise(loaded)]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source = Path(folder) / "model.onnx"
        # A file of our own: ONNX Runtime would write into the ModelProto it is given.
        onnx.save(loaded, source)
        quantize_static(
            source,
            destination,
            _Images(image_input(loaded).name, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "Add"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # TensorRT has no zero points and adds biases in the type around the pairs.
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
            },
        )
    return Path(destination)


class _Images(CalibrationDataReader):
    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self._left = iter([{name: image[np.newaxis]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def _noise(model: onnx.ModelProto) -> np.ndarray:
    dims = image_input(model).type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in dims[1:]]
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It advises, through the root logger, preparing steps that an export does not need."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
