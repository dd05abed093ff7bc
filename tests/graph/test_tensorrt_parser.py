"""NVIDIA's own parser and builder take what is exported and split. TensorRT for RTX needs no GPU for it."""

from __future__ import annotations

import onnx
import pytest

from tests.graph.onnx_graphs import classifier
from trtkit.graph.foreign import adopt
from trtkit.graph.split import split

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")


@pytest.fixture(scope="module")
def logger():
    # TensorRT takes one logger a process and ignores a second.
    return trt.Logger(trt.Logger.ERROR)


def build(model: onnx.ModelProto, logger) -> tuple[list[str], int]:
    """The inputs and outputs that TensorRT sees, and the size of the plan it builds, in bytes."""
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    tensors = [network.get_input(0), network.get_output(0)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = tuple(tensors[0].shape)[1:]
    profile.set_shape(tensors[0].name, (1, *shape), (4, *shape), (8, *shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return [f"{t.name} {t.dtype.name} {tuple(t.shape)}" for t in tensors], plan.nbytes


def weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(weight.raw_data) for weight in model.graph.initializer)


def test_an_export_and_both_sides_of_a_cut(exports, logger):
    whole = onnx.load(exports / "resnet18.onnx")
    sides = split(whole, "block_4")
    image, feature, logits = (
        "image UINT8 (-1, 64, 64, 3)", "block_4 FLOAT (-1, 128, 8, 8)", "logits FLOAT (-1, 1000)",
    )  # fmt: skip
    for model, ends in (
        (whole, [image, logits]),
        (sides.prefix, [image, feature]),
        (sides.tail, [feature, logits]),
    ):
        tensors, size = build(model, logger)
        assert tensors == ends
        assert size > 0.9 * weight_bytes(model)


def test_an_adopted_foreign_file(logger):
    adopted = adopt(
        classifier(1, reshape=[1, 4]),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        image_size=None,
        name="m.onnx",
    )
    tensors, _ = build(adopted.model, logger)
    assert tensors == ["image UINT8 (-1, 8, 8, 3)", "g FLOAT (-1, 5)"]
