"""fp16 arithmetic written into a graph, as ONNX Runtime computes it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.building.adoption import adopt_file
from trtkit.errors import TrtkitError
from trtkit.graph.precision import compute_half, quantize_from_fp32
from trtkit.graph.split import split
from trtkit.graph.values import tensor_infos

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
# Rounding to fp16's 11 bits changes a value by at most this much of it.
ROUNDING = 2.0**-11
SHAPE = ["N", 3, 8, 8]
WEIGHT = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
INPUT = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
CONV = helper.make_node("Conv", ["x", "w"], ["c"], "conv")


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {name: info.dtype for name, info in tensor_infos(model).items()}


def halved(nodes, weights=None, *, shape=SHAPE, opset=17):
    """A model around CONV, what it gives in fp32, and the same model in fp16; all checked."""
    model = make_model(nodes, SHAPE, ("g", shape), {"w": WEIGHT, **(weights or {})}, opset=opset)
    expected = run(model, INPUT)
    compute_half(model, feature_input=False, feature_output=False)
    return model, expected


def close(actual: np.ndarray, expected: np.ndarray, roundings: int) -> None:
    """Equal up to that many roundings of values as large as the largest, and not more exactly."""
    assert actual.shape == expected.shape
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=roundings * ROUNDING * largest)
    assert not np.array_equal(actual, expected)


@given(
    seed=st.integers(0, 1000),
    size=st.integers(4, 12),
    classes=st.integers(2, 9),
    softmax=st.booleans(),
    constant_nodes=st.booleans(),
    cut=st.sampled_from(["a", "b", "d", "e", "f"]),
)
@settings(max_examples=30, deadline=None)
def test_a_chain_in_fp16_is_close_to_fp32(seed, size, classes, softmax, constant_nodes, cut):
    model = classifier(
        "batch", size, classes, softmax=softmax, constant_nodes=constant_nodes, seed=seed
    )
    value = np.random.default_rng(seed).standard_normal((3, 3, size, size)).astype(np.float32)
    # Relative to the logits: a Softmax makes differences of logits smaller, never larger.
    bare = classifier("batch", size, classes, seed=seed)
    largest = float(np.abs(run(bare, value)).max())
    expected = run(model, value)
    sides = split(model, cut)
    compute_half(sides.prefix, feature_input=False, feature_output=True)
    compute_half(sides.tail, feature_input=True, feature_output=False)
    feature = run(sides.prefix, value)
    output = run(sides.tail, feature)
    assert (feature.dtype, output.dtype) == (np.float16, np.float32)
    # Nine tensors are rounded on the way (image, three weights, two convolutions, sum, mean, logits).
    # Each may be a few times as large as what its terms cancel to: the worst of 1500 tries was 4.
    np.testing.assert_allclose(output, expected, rtol=0, atol=15 * ROUNDING * max(largest, 1.0))
    for side in (sides.prefix, sides.tail):
        heavy = [node for node in side.graph.node if node.op_type in ("Conv", "Gemm")]
        found = types(side)
        assert {found[name] for node in heavy for name in (*node.input, *node.output)} <= {HALF}


def test_normalisation_is_fp32_and_all_behind_it_fp16():
    model = adopt_file(
        classifier(1, reshape=[1, 4]), mean=(0.5,) * 3, std=(0.2,) * 3, name="m"
    ).adopted.model
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    expected = run(model, image)
    compute_half(model, feature_input=False, feature_output=False)
    found = types(model)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    at = list(model.graph.node).index(first)
    before, behind = list(model.graph.node)[:at], list(model.graph.node)[at:]
    # The last of them casts for the convolution.
    assert [node.op_type for node in before] == ["Cast", "Transpose", "Sub", "Mul", "Cast"]
    assert [found[node.output[0]] for node in before] == [FLOAT] * 4 + [HALF]
    assert behind[-1].op_type == "Cast"
    assert {found[node.output[0]] for node in behind[:-1]} == {HALF}
    assert (found["image"], found["g"]) == (TensorProto.UINT8, FLOAT)
    close(run(model, image), expected, 10)


def test_weights_take_half_the_space():
    model = classifier("batch")
    before = {weight.name: weight for weight in model.graph.initializer}
    sizes = {name: len(weight.raw_data) for name, weight in before.items()}
    compute_half(model, feature_input=False, feature_output=False)
    after = {weight.name: len(weight.raw_data) for weight in model.graph.initializer}
    # The shape of the Reshape is no weight.
    assert after == {
        **{f"{name}_fp16": sizes[name] // 2 for name in ("w1", "w2", "fc")},
        "shape": sizes["shape"],
    }


@pytest.mark.parametrize("feature_input", [False, True])
@pytest.mark.parametrize("feature_output", [False, True])
def test_feature_ends_are_fp16_and_other_ends_as_they_were(feature_input, feature_output):
    model = classifier("batch")
    value = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    compute_half(model, feature_input=feature_input, feature_output=feature_output)
    given_type, got = (np.float16 if end else np.float32 for end in (feature_input, feature_output))
    assert run(model, value.astype(given_type)).dtype == got


def test_a_feature_map_made_before_any_heavy_layer_is_cast():
    model = make_model([helper.make_node("Relu", ["x"], ["g"], "relu")], SHAPE, ("g", SHAPE))
    compute_half(model, feature_input=False, feature_output=True)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Cast"]
    np.testing.assert_array_equal(run(model, INPUT), np.maximum(INPUT, 0).astype(np.float16))


def test_an_output_that_is_also_read_inside_stays_one_tensor():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["g"], "conv"),
        helper.make_node("Relu", ["g"], ["unused"], "relu"),
    ]
    model, expected = halved(nodes)
    assert types(model)["unused"] == HALF
    close(run(model, INPUT), expected, 6)


def test_a_weight_of_both_regions_is_there_in_both_types():
    scale = np.array([1.0003, 0.9, 3.3], np.float32).reshape(3, 1, 1)
    model, expected = halved(
        [
            helper.make_node("Mul", ["x", "k"], ["m"], "before"),
            helper.make_node("Conv", ["m", "w"], ["c"], "conv"),
            helper.make_node("Mul", ["c", "k"], ["g"], "behind"),
        ],
        {"k": scale},
    )
    kept = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert set(kept) == {"k", "k_fp16", "w_fp16"}
    np.testing.assert_array_equal(kept["k"], scale)
    np.testing.assert_array_equal(kept["k_fp16"], scale.astype(np.float16))
    reads = {node.name: list(node.input) for node in model.graph.node}
    assert (reads["before"][1], reads["behind"][1]) == ("k", "k_fp16")
    close(run(model, INPUT), expected, 8)


def test_a_tensor_read_by_several_heavy_layers_is_cast_once():
    model, expected = halved(
        [
            CONV,
            helper.make_node("Conv", ["x", "w"], ["d"], "again"),
            helper.make_node("Add", ["c", "d"], ["g"], "add"),
        ]
    )
    casts = [list(node.input) for node in model.graph.node if node.op_type == "Cast"]
    assert casts == [["x"], ["g_fp16"]]
    close(run(model, INPUT), expected, 6)


def test_casts_to_float_inside_become_casts_to_fp16():
    model, expected = halved(
        [
            CONV,
            helper.make_node("Cast", ["c"], ["wide"], "wide", to=FLOAT),
            helper.make_node("Cast", ["wide"], ["whole"], "whole", to=TensorProto.INT32),
            helper.make_node("Cast", ["whole"], ["back"], "back", to=FLOAT),
            helper.make_node("Sub", ["wide", "back"], ["g"], "sub"),
        ]
    )
    found = types(model)
    assert (found["wide"], found["whole"]) == (HALF, TensorProto.INT32)
    # What comes from integers was never fp16; it becomes so where it meets what is.
    assert (found["back"], found["back_fp16"], found["g_fp16"]) == (FLOAT, HALF, HALF)
    # Parts behind the point, but rounded as values of up to about 5 are.
    np.testing.assert_allclose(run(model, INPUT), expected, atol=6 * ROUNDING * 5)


def test_a_cast_before_the_region_stays():
    model, _ = halved(
        [
            helper.make_node("Cast", ["x"], ["whole"], "whole", to=TensorProto.INT32),
            helper.make_node("Cast", ["whole"], ["back"], "back", to=FLOAT),
            helper.make_node("Conv", ["back", "w"], ["g"], "conv"),
        ]
    )
    assert (types(model)["back"], types(model)["back_fp16"]) == (FLOAT, HALF)


def test_resize_keeps_its_region_and_scales_in_fp32():
    resize = helper.make_node(
        "Resize", ["c", "roi", "scales"], ["g"], "resize",
        mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    weights = {
        "roi": np.array([0, 0, 0, 0, 1, 1, 0.9, 0.7], np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    model, expected = halved([CONV, resize], weights, shape=["N", 3, 16, 16])
    found = types(model)
    assert (found["roi"], found["scales"], found["g_fp16"]) == (FLOAT, FLOAT, HALF)
    close(run(model, INPUT), expected, 8)


def test_shapes_are_computed_in_integers():
    model, expected = halved(
        [
            CONV,
            helper.make_node("Shape", ["c"], ["sizes"], "shape"),
            helper.make_node("Gather", ["sizes", "zero"], ["batch"], "gather", axis=0),
            helper.make_node("Concat", ["batch", "rest"], ["target"], "concat", axis=0),
            helper.make_node("Reshape", ["c", "target"], ["g"], "reshape"),
        ],
        {"zero": np.array([0]), "rest": np.array([-1])},
        shape=["N", 192],
    )
    found = types(model)
    assert {found[name] for name in ("sizes", "zero", "batch", "rest", "target")} == {INT64}
    assert found["g_fp16"] == HALF
    close(run(model, INPUT), expected, 6)


def test_a_batch_norm_a_clip_and_a_pad_behind_a_convolution():
    """Operators whose further inputs have the type of the first."""
    ones = np.ones(3, np.float32)
    model, expected = halved(
        [
            CONV,
            helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "norm"),
            helper.make_node("Clip", ["n", "low", "high"], ["l"], "clip"),
            helper.make_node("Pad", ["l", "pads", "fill"], ["g"], "pad"),
        ],
        {
            "s": ones * 1.5, "b": ones / 3, "m": ones / 7, "v": ones * 2,
            "low": np.array(-1.7, np.float32), "high": np.array(2.3, np.float32),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.array(0.1, np.float32),
        },
        shape=["N", 3, 10, 10],
    )  # fmt: skip
    found = types(model)
    assert {found[name] for name in ("c", "n", "l", "g_fp16", "low_fp16", "fill_fp16")} == {HALF}
    assert found["pads"] == INT64
    close(run(model, INPUT), expected, 12)


def spoiled(name: str, value: float) -> onnx.ModelProto:
    model = classifier("batch")
    weight = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(weight).copy()
    values.flat[-1] = value
    weight.CopyFrom(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize(("name", "value"), [("w2", 65600.0), ("fc", -1e9), ("w1", float("nan"))])
def test_a_weight_past_fp16_is_named(name, value):
    with pytest.raises(TrtkitError, match=rf"The weight {name} .* build with --fp32"):
        compute_half(spoiled(name, value), feature_input=False, feature_output=False)


def test_the_largest_fp16_value_is_taken():
    model = spoiled("w2", 65504.0)
    compute_half(model, feature_input=False, feature_output=False)
    weight = next(item for item in model.graph.initializer if item.name == "w2_fp16")
    assert numpy_helper.to_array(weight).max() == 65504.0


def pairs(first: str, opset: int) -> onnx.ModelProto:
    """A convolution whose input `first` and weight are quantized."""
    weights = {
        "s": np.array(0.021, np.float32),
        "z": np.array(0, np.int8),
        "ws": np.array([0.011, 0.012, 0.013], np.float32),
        "wz": np.zeros(3, np.int8),
        "wq": np.clip(np.round(WEIGHT / 0.012), -127, 127).astype(np.int8),
        "k": np.array(1.1, np.float32),
        "w": WEIGHT,
    }
    nodes = {
        "image": [helper.make_node("Mul", ["x", "k"], ["n"], "normalise")],
        "conv": [helper.make_node("Conv", ["x", "w"], ["n"], "plain")],
    }[first]
    nodes += [
        helper.make_node("QuantizeLinear", ["n", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "weight", axis=0),
        helper.make_node("Conv", ["d", "wd"], ["g"], "conv"),
    ]
    used = {name for node in nodes for name in node.input}
    held = {name: value for name, value in weights.items() if name in used}
    return make_model(nodes, SHAPE, ("g", SHAPE), held, opset=opset)


@pytest.mark.parametrize(("first", "quantizes"), [("image", FLOAT), ("conv", HALF)])
def test_dequantized_values_are_fp16_and_the_image_is_quantized_from_fp32(first, quantizes):
    model = pairs(first, 19)
    expected = run(model, INPUT)
    compute_half(model, feature_input=False, feature_output=False)
    found = types(model)
    nodes = {node.name: node for node in model.graph.node}
    for end in nodes["quantize"].input[:2]:
        assert found[end] == quantizes
    assert found["q"] == TensorProto.INT8
    assert (found["d"], found["wd"], found["g_fp16"]) == (HALF, HALF, HALF)
    quantize_from_fp32(model.graph)
    # Scales are rounded, and a value between two steps may be rounded to the other one.
    step = 0.021 * np.abs(WEIGHT).sum(axis=1).max()
    np.testing.assert_allclose(run(model, INPUT), expected, atol=step + 0.01)
    assert np.mean(np.abs(run(model, INPUT) - expected)) < step / 10


def test_pairs_of_an_older_opset_are_refused():
    # Before opset 19 scales are fp32 alone: write_precision raises the opset first.
    with pytest.raises(
        TrtkitError, match=r"cannot be written in fp16 \(.*\); build it with --fp32\."
    ):
        compute_half(pairs("image", 17), feature_input=False, feature_output=False)


def branches() -> onnx.NodeProto:
    graphs = []
    for op in ("Relu", "Neg"):
        output = helper.make_tensor_value_info("t", FLOAT, None)
        graphs.append(helper.make_graph([helper.make_node(op, ["c"], ["t"])], op, [], [output]))
    return helper.make_node(
        "If", ["yes"], ["g"], "if", then_branch=graphs[0], else_branch=graphs[1]
    )


@pytest.mark.parametrize(
    "behind",
    [
        # An operator for fp32 alone, and one whose body would have to be rewritten too.
        [
            helper.make_node("DynamicQuantizeLinear", ["c"], ["q", "s", "z"], "dynamic"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["g"], "dequantize"),
        ],
        [branches()],
    ],
)
def test_a_graph_without_an_fp16_form_is_refused(behind):
    weights = {"yes": np.array(True)} if behind[0].op_type == "If" else None
    with pytest.raises(
        TrtkitError, match=r"cannot be written in fp16 \(.*\); build it with --fp32\."
    ):
        halved([CONV, *behind], weights)


def test_the_scale_of_a_dead_channel_stays_positive():
    # Folding a batch norm leaves filters of 1e-9 or less; their scale is a 127th of that.
    model = pairs("image", 19)
    scale = next(item for item in model.graph.initializer if item.name == "ws")
    scale.CopyFrom(numpy_helper.from_array(np.array([0.011, 1e-11, 0.013], np.float32), "ws"))
    compute_half(model, feature_input=False, feature_output=False)
    scale = next(item for item in model.graph.initializer if item.name == "ws_fp16")
    assert (numpy_helper.to_array(scale) > 0).all()


def test_a_weight_that_is_called_like_an_fp16_form_is_kept():
    model, expected = halved(
        [
            CONV,
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "w_fp16"], ["g"], "conv2"),
        ],
        {"w_fp16": WEIGHT[::-1].copy() * 2},
    )
    close(run(model, INPUT), expected, 15)
