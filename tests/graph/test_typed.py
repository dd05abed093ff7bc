"""A stage's precision in its graph: what is written, what is refused, what is expected of each layer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graph.onnx_graphs import classifier, make_model, run
from tests.quantized import quantize
from trtkit.building.adoption import adopt_file
from trtkit.errors import TrtkitError
from trtkit.graph.card import METADATA_KEY
from trtkit.graph.precision import HALF_SCALES_OPSET, quantize_from_fp32, write_precision
from trtkit.graph.split import split
from trtkit.graph.values import producers, tensor_infos

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
LAYERS = ("conv1", "conv2", "gemm")


def small() -> onnx.ModelProto:
    foreign = classifier(1, reshape=[1, 4])
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    return adopt_file(foreign, mean=mean, std=std, name="m.onnx").adopted.model


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    return quantize(small(), tmp_path_factory.mktemp("typed") / "q.onnx", IMAGES).read_bytes()


@pytest.fixture
def quantized(content) -> onnx.ModelProto:
    return onnx.load_from_string(content)


def write(model, precision, *, feature_input=False, feature_output=False, strong=True):
    return write_precision(
        model,
        precision,
        "the tail",
        feature_input=feature_input,
        feature_output=feature_output,
        strong=strong,
    )


def opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain == "")


def types_of(model: onnx.ModelProto, op_types: tuple[str, ...]) -> set[int]:
    """The types of what these operators read and write, apart from int8 and int64."""
    found = tensor_infos(model)
    names = [
        name
        for node in model.graph.node
        if node.op_type in op_types
        for name in (*node.input, *node.output)
    ]
    return {found[name].dtype for name in names} & {FLOAT, HALF}


def test_the_quantized_file_keeps_what_the_export_says(tmp_path):
    model = small()
    onnx.helper.set_model_props(model, {METADATA_KEY: "kept"})
    before = model.SerializeToString()
    made = onnx.load(quantize(model, tmp_path / "q.onnx"))
    assert [(item.key, item.value) for item in made.metadata_props if item.key == METADATA_KEY] == [
        (METADATA_KEY, "kept")
    ]
    assert model.SerializeToString() == before
    path = tmp_path / "plain.onnx"
    onnx.save(model, path)
    again = onnx.load(quantize(path, tmp_path / "again.onnx"))
    assert again.graph == made.graph


def test_the_quantized_file_has_symmetric_pairs_and_plain_biases(quantized):
    weights = {item.name: item for item in quantized.graph.initializer}
    made_by = producers(quantized.graph.node)
    for node in quantized.graph.node:
        if node.op_type in ("Conv", "Gemm", "Add"):
            assert [made_by[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        if node.op_type == "DequantizeLinear":
            zero = onnx.numpy_helper.to_array(weights[node.input[2]])
            assert zero.dtype == np.int8
            assert not zero.any()
    # Per channel: a scale for each of the four filters.
    scale = made_by[next(n for n in quantized.graph.node if n.name == "conv2").input[1]].input[1]
    assert onnx.numpy_helper.to_array(weights[scale]).shape == (4,)
    # Close to the original: the ranges were measured on these images.
    expected = run(small(), IMAGES)
    assert 0 < np.abs(run(quantized, IMAGES) - expected).max() < 0.1 * np.abs(expected).max()


def test_fp32_leaves_the_graph_as_it_is():
    model = small()
    before = model.SerializeToString()
    assert write(model, "fp32") == dict.fromkeys(LAYERS, "fp32")
    assert model.SerializeToString() == before


@pytest.mark.parametrize("strong", [False, True])
def test_fp16_is_in_the_types_whether_they_decide_or_not(strong):
    model = small()
    expected = run(model, IMAGES)
    assert write(model, "fp16", strong=strong) == dict.fromkeys(LAYERS, "fp16")
    assert types_of(model, ("Conv", "Gemm", "Add", "Relu")) == {HALF}
    logits = run(model, IMAGES)
    assert logits.dtype == np.float32
    # As many roundings of 2^-11 as in test_half.py.
    np.testing.assert_allclose(logits, expected, atol=15 * 2**-11 * np.abs(expected).max())


def test_int8_is_fp16_around_its_pairs(quantized):
    expected = run(quantized, IMAGES)
    assert opset(quantized) < HALF_SCALES_OPSET
    assert write(quantized, "int8") == dict.fromkeys(LAYERS, "int8")
    assert opset(quantized) == HALF_SCALES_OPSET
    assert types_of(quantized, ("Conv", "Gemm", "Add", "Relu", "DequantizeLinear")) == {HALF}
    assert types_of(quantized, ("Sub", "Mul")) == {FLOAT}
    quantize_from_fp32(quantized.graph)
    logits = run(quantized, IMAGES)
    assert logits.dtype == np.float32
    # A rounding to fp16 moves what lies between two of 127 steps to the other one at times.
    np.testing.assert_allclose(logits, expected, atol=4 / 127 * np.abs(expected).max())


def test_int8_without_strong_types_has_fp16_ends_alone(quantized):
    expected = run(quantized, IMAGES)
    sides = split(quantized, "d")
    for side, name in ((sides.prefix, "prefix"), (sides.tail, "tail")):
        found = write(
            side,
            "int8",
            feature_input=name == "tail",
            feature_output=name == "prefix",
            strong=False,
        )
        assert set(found.values()) == {"int8"}
        assert types_of(side, ("Conv", "Gemm", "Add", "DequantizeLinear")) == {FLOAT}
        assert opset(side) < HALF_SCALES_OPSET
    feature = run(sides.prefix, IMAGES)
    logits = run(sides.tail, feature)
    assert (feature.dtype, logits.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(logits, expected, atol=4 / 127 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_features_have_the_type_of_the_precision(precision):
    sides = split(small(), "d")
    write(sides.prefix, precision, feature_output=True)
    write(sides.tail, precision, feature_input=True)
    wanted = {"fp32": FLOAT, "fp16": HALF}[precision]
    for value in (sides.prefix.graph.output[0], sides.tail.graph.input[0]):
        assert value.type.tensor_type.elem_type == wanted
        assert value.name == "d"


def without_pair(model: onnx.ModelProto, name: str) -> None:
    """Take the pair off a node's input, in place: somebody left that layer out of the quantization."""
    made_by = producers(model.graph.node)
    node = next(node for node in model.graph.node if node.name == name)
    quantize_node = made_by[made_by[node.input[0]].input[0]]
    node.input[0] = quantize_node.input[0]


@pytest.mark.parametrize("strong", [False, True])
def test_a_layer_without_pairs_is_expected_in_fp16(quantized, strong):
    without_pair(quantized, "gemm")
    assert write(quantized, "int8", strong=strong) == {
        "conv1": "int8",
        "conv2": "int8",
        "gemm": "fp16",
    }


@pytest.mark.parametrize("strong", [False, True])
def test_int8_without_any_pairs_is_refused(strong):
    model = small()
    before = model.SerializeToString()
    with pytest.raises(
        TrtkitError, match=r"^int8 needs a quantized graph, but the tail has no .* --fp16\.$"
    ):
        write(model, "int8", strong=strong)
    assert model.SerializeToString() == before


def test_int8_of_a_stage_without_heavy_layers_is_fp16():
    # A head that only pools has nothing to quantize.
    pool = helper.make_node("GlobalAveragePool", ["x"], ["g"], "pool")
    model = make_model([pool], ["N", 3, 8, 8], ("g", ["N", 3, 1, 1]))
    assert write(model, "int8", feature_input=True) == {}
    assert types_of(model, ("GlobalAveragePool",)) == {HALF}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantized_graph_is_refused_but_for_int8(quantized, precision):
    with pytest.raises(
        TrtkitError,
        match=rf"^the tail cannot be built in {precision}, because it is quantized.* --int8, ",
    ):
        write(quantized, precision)


def test_every_node_has_a_name_of_its_own():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "same"),
        helper.make_node("Conv", ["b", "w"], ["c"], "same"),
        helper.make_node("Conv", ["c", "w"], ["g"], "own"),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32)}
    model = make_model(nodes, ["N", 3, 8, 8], ("g", ["N", 3, 8, 8]), weights)
    expected = write(model, "fp32")
    names = [node.name for node in model.graph.node]
    assert names == ["Conv_0", "same", "same_2", "own"]
    assert list(expected) == ["Conv_0", "same_2", "own"]
    # Names stay when it is written again, so that a record of them stays right.
    assert write(model, "fp32") == expected
    assert [node.name for node in model.graph.node] == names


def test_a_made_name_is_not_one_that_another_node_has():
    # Exporters number unnamed nodes; removing Constant nodes shifts the numbers.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "Conv_1"),
        helper.make_node("Conv", ["a", "w"], ["g"]),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32)}
    model = make_model(nodes, ["N", 3, 8, 8], ("g", ["N", 3, 8, 8]), weights)
    assert len(write(model, "fp32")) == 2


def test_what_is_quantized_from_fp32_is_rounded_by_every_onnx_runtime():
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=HALF),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=FLOAT),
    ]
    weights = {"s": np.array(0.5, np.float16), "z": np.zeros((), np.int8)}
    model = make_model(nodes, [4], ("y", [4]), weights, opset=19)
    quantize_from_fp32(model.graph)
    onnx.checker.check_model(model, full_check=True)
    value = np.array([0.8, -0.8, 0.2, 0.74], np.float32)
    assert run(model, value).tolist() == [1.0, -1.0, 0.0, 0.5]
    # Nothing is left to be changed in one of fp32.
    before = model.SerializeToString()
    quantize_from_fp32(model.graph)
    assert model.SerializeToString() == before
