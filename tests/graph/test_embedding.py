"""The vector in front of a classifier's last product, and a tail divided there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.graph.onnx_graphs import classifier, make_model, run
from tests.quantized import quantize
from trtkit.building.adoption import adopt_file
from trtkit.errors import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.graph.embedding import cuts_before_embedding, divide, find_embedding
from trtkit.graph.split import split
from trtkit.graph.values import producers
from trtkit.preprocessing import Preprocessing

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal((4, 3)).astype(np.float32)
BIAS = RANDOM.standard_normal(3).astype(np.float32)
SHAPE = np.array([-1, 3], np.int64)
X = RANDOM.standard_normal((5, 4)).astype(np.float32)
NO_BLOCKS = ModelCard("foreign", "test", ["a"], Preprocessing(8, 8, 8), [])


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], output, **attributes)


def ending(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A Relu that gives `v`, and what comes behind it; its last tensor is the output."""
    weights = {"w": WEIGHTS, "b": BIAS, "shape": SHAPE, "axes": np.array([2], np.int64)}
    used = {name for each in nodes for name in each.input}
    return make_model(
        [node("Relu", "x", "v"), *nodes],
        ["N", 4],
        (nodes[-1].output[0], ["N", 3]),
        {name: value for name, value in weights.items() if name in used},
    )


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gemm", "v w b", "y")],
        [node("MatMul", "v w", "m"), node("Add", "m b", "y")],
        [node("MatMul", "v w", "m"), node("Add", "b m", "y")],
        [node("Gemm", "v w b", "m"), node("Softmax", "m", "y", axis=1)],
        [node("Gemm", "v w", "m"), node("Cast", "m", "c", to=1), node("Identity", "c", "y")],
        [node("Gemm", "v w", "m"), node("Reshape", "m shape", "c"), node("Flatten", "c", "y")],
    ],
    ids=lambda nodes: "-".join(each.op_type for each in nodes),
)
def test_what_the_last_product_takes(nodes):
    model = ending(*nodes)
    assert find_embedding(model, "m") == "v"
    sides = divide(model, "m")
    embedding = run(sides.prefix, X)
    np.testing.assert_array_equal(embedding, np.maximum(X, 0))
    np.testing.assert_array_equal(run(sides.tail, embedding), run(model, X))
    assert [each.op_type for each in sides.tail.graph.node] == [each.op_type for each in nodes]


def test_the_classifier_s_own_weights_are_all_that_is_left():
    model = classifier(softmax=True)
    assert find_embedding(model, "m") == "f"
    tail = split(model, "d").tail
    sides = divide(tail, "m")
    assert [weight.name for weight in sides.tail.graph.initializer] == ["fc"]
    feature = RANDOM.standard_normal((2, 4, 8, 8)).astype(np.float32)
    embedding = run(sides.prefix, feature)
    np.testing.assert_allclose(embedding, feature.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run(sides.tail, embedding), run(tail, feature))


def quantized(tmp_path) -> onnx.ModelProto:
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    foreign = classifier(1, reshape=[1, 4])
    model = adopt_file(foreign, mean=mean, std=std, name="m.onnx").adopted.model
    return onnx.load(quantize(model, tmp_path / "q.onnx"))


def test_of_a_quantized_product_the_tensor_in_front_of_the_pair(tmp_path):
    model = quantized(tmp_path)
    tensor = find_embedding(model, "m")
    made_by = producers(model.graph.node)
    gemm = next(each for each in model.graph.node if each.op_type == "Gemm")
    widened = made_by[gemm.input[0]]
    assert widened.op_type == "DequantizeLinear"
    assert tensor == made_by[widened.input[0]].input[0]
    sides = divide(model, "m")
    image = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    embedding = run(sides.prefix, image)
    assert (embedding.shape, embedding.dtype) == ((3, 4), np.float32)
    np.testing.assert_array_equal(run(sides.tail, embedding), run(model, image))


def test_logits_out_of_a_convolution():
    kernel = np.ones((3, 4, 1, 1), np.float32)
    model = make_model(
        [
            node("Conv", "x k", "c"),
            node("GlobalAveragePool", "c", "p"),
            node("Flatten", "p", "y"),
        ],
        ["N", 4, 2, 2],
        ("y", ["N", 3]),
        {"k": kernel},
    )
    with pytest.raises(
        TrtkitError,
        match="squeeze has no embeddings: .* its logits come out of GlobalAveragePool; build it "
        "without --embeddings",
    ):
        divide(model, "squeeze")


def test_a_sum_of_two_branches_has_no_last_product():
    model = ending(node("Gemm", "v w b", "a"), node("Gemm", "x w", "c"), node("Add", "a c", "y"))
    with pytest.raises(TrtkitError, match="its logits come out of Add"):
        divide(model, "m")


def test_a_product_of_more_than_vectors():
    model = make_model(
        [
            node("Relu", "x", "v"),
            node("MatMul", "v w", "m"),
            node("Squeeze", "m axes", "y"),
        ],
        ["N", 1, 4],
        ("y", ["N", 3]),
        {"w": WEIGHTS, "axes": np.array([1], np.int64)},
    )
    with pytest.raises(TrtkitError, match=r"takes another shape \(Nx1x4\)"):
        divide(model, "m")


def test_a_product_of_two_computed_matrices_or_the_wrong_way_round():
    for nodes in (
        [node("Flatten", "x", "u"), node("Gemm", "v u", "y", transB=1)],
        [node("Gemm", "w v", "y", transA=1, transB=1)],
    ):
        weights = {"w": WEIGHTS} if "w" in nodes[-1].input else {}
        model = make_model([node("Relu", "x", "v"), *nodes], ["N", 4], ("y", ["M", "N"]), weights)
        with pytest.raises(TrtkitError, match=r"takes another shape \(unknown\)"):
            find_embedding(model, "m")


def test_a_cut_where_the_embedding_is_or_behind_it(tmp_path):
    model = classifier(softmax=True)
    for tensor in ("f", "g"):
        with pytest.raises(
            TrtkitError,
            match="embeddings at the cut or before it, .* choose a lower cut .*trtkit cuts m",
        ):
            divide(split(model, tensor).tail, "m")
    narrow = quantized(tmp_path)
    tensor = find_embedding(narrow, "m")
    stored = next(
        each.output[0]
        for each in narrow.graph.node
        if each.op_type == "QuantizeLinear" and each.input[0] == tensor
    )
    with pytest.raises(TrtkitError, match="choose a lower cut"):
        divide(split(narrow, stored).tail, "m")


def test_the_last_cut_whose_tail_computes_it():
    # The separators of the classifier are those behind b, d, e and f, its embedding.
    model = classifier()
    last = cuts_before_embedding(model, NO_BLOCKS, "m")
    from trtkit.graph.boundaries import cut_points

    tensors = [point.tensor for point in cut_points(model, NO_BLOCKS)]
    assert tensors[last - 1] == "e"
    assert tensors[last] == "f"
    lone = make_model(
        [node("Gemm", "x w", "y")], ["N", 4], ("y", ["N", 3]), {"w": numpy_helper.to_array(
            numpy_helper.from_array(WEIGHTS))},
    )  # fmt: skip
    with pytest.raises(TrtkitError, match="choose a lower cut"):
        cuts_before_embedding(lone, NO_BLOCKS, "m")
