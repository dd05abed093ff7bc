"""Building bundles with embeddings, and what they are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import trtkit
from trtkit.photos.samples import generate_images


def build(place, *names, **options):
    return trtkit.build(list(names), workspace=place.root, **{"verify_images": 2, **options})


def outcome_of(folder, images, **options):
    """Logits and embeddings of these images."""
    with trtkit.load(folder, **options) as pipeline:
        logits = pipeline.tail.ref("logits")
        embedding = pipeline.manifest.embedding_of(pipeline.tail)
        wanted = [ref for ref in (logits, embedding) if ref is not None]
        outputs = pipeline.runner.run(wanted, images)
        return outputs[logits], outputs.get(embedding)


def images_of(report, count: int = 5) -> np.ndarray:
    return generate_images(count, report.manifest.preprocessing, seed=9)


def last_layer(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Weights, classes x D, and bias of an export's last layer."""
    graph = onnx.load(path).graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    gemm = next(each for each in reversed(graph.node) if each.op_type == "Gemm")
    # The exporter leaves out biases that are zero.
    return weights[gemm.input[1]], weights[gemm.input[2]] if len(gemm.input) > 2 else np.float32(0)
