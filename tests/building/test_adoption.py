"""Adopting classifiers that others exported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.graph.onnx_graphs import classifier, run
from trtkit.building.adoption import adopt_file
from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import cut_points
from trtkit.graph.card import ModelCard
from trtkit.graph.split import split
from trtkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def take(model: onnx.ModelProto, image_size: int | None = None, **options):
    options = {"mean": MEAN, "std": STD, **options}
    return adopt_file(model, "m.onnx", image_size=image_size, **options).adopted


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def normalised(images: np.ndarray) -> np.ndarray:
    values = (images / 255.0 - MEAN) / STD
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": "N"},
        {"batch": 1},
        {"batch": 1, "reshape": [1, -1]},
        {"batch": 1, "reshape": [1, 4]},
        {"batch": 1, "constant_nodes": True, "reshape": [1, 4]},
        {"batch": "N", "input_name": "image"},
    ],
)
def test_the_adopted_graph_takes_photos_in_any_batch(options):
    original = classifier(**options)
    images = photos(3)
    expected = np.concatenate([run(original, value[None]) for value in normalised(images)])
    adopted = take(original)
    onnx.checker.check_model(adopted.model, full_check=True)
    value = adopted.model.graph.input[0]
    assert (value.name, value.type.tensor_type.elem_type) == ("image", TensorProto.UINT8)
    np.testing.assert_allclose(run(adopted.model, images), expected, rtol=1e-4, atol=1e-5)
    assert (adopted.classes, adopted.ending.activation, adopted.single) == (5, None, False)
    assert (adopted.preprocessing.height, adopted.preprocessing.width) == (8, 8)


def test_the_original_is_not_changed():
    original = classifier(1, reshape=[1, 4])
    before = original.SerializeToString(deterministic=True)
    take(original)
    assert original.SerializeToString(deterministic=True) == before


def test_a_final_softmax_is_removed():
    adopted = take(classifier(softmax=True))
    assert adopted.ending.activation == "Softmax"
    logits = run(adopted.model, photos(2))
    expected = run(classifier(), normalised(photos(2)))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_an_open_image_size_has_to_be_said():
    with pytest.raises(TrtkitError, match=r"leaves its image size open .* --image-size"):
        take(classifier(size="S"))
    adopted = take(classifier(size="S"), image_size=8)
    assert run(adopted.model, photos(2)).shape == (2, 5)


def test_another_image_size_than_the_graph_has_is_refused():
    with pytest.raises(
        TrtkitError, match="takes images of 8 x 8, not 9 x 9; leave --image-size out"
    ):
        take(classifier(), image_size=9)


def test_initialisers_listed_as_inputs_are_no_images():
    model = classifier()
    for weight in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
        )
    model.ir_version = 3
    assert [value.name for value in take(model).model.graph.input] == ["image"]


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    takes: tuple[int, Sequence[int | str]] = (TensorProto.FLOAT, ("N", 3, 8, 8)),
    gives: Sequence[tuple[str, int, Sequence[int | str] | None]] = (
        ("y", TensorProto.FLOAT, ("N", 4)),
    ),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with the input `x`, not checked at all."""
    made = helper.make_graph(
        list(nodes),
        "theirs",
        [helper.make_tensor_value_info("x", takes[0], list(takes[1]))],
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in gives],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("theirs", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


RANDOM = np.random.default_rng(3)
W1 = (0.3 * RANDOM.standard_normal((8, 3, 3, 3))).astype(np.float32)
W2 = (0.3 * RANDOM.standard_normal((8, 8, 3, 3))).astype(np.float32)
FC = RANDOM.standard_normal((4, 8)).astype(np.float32)
PADS = [1, 1, 1, 1]


def body(image: str = "x", end: str = "g") -> list[onnx.NodeProto]:
    """Two convolutions with a ReLU, pooled to N x 8 x 1 x 1."""
    return [
        helper.make_node("Conv", [image, "w1"], ["c1"], "conv1", pads=PADS, strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=PADS),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], [end], "pool"),
    ]


BODY = {"w1": W1, "w2": W2}
END = [
    helper.make_node("Flatten", ["g"], ["f"], "flatten"),
    helper.make_node("Gemm", ["f", "fc"], ["y"], "fc", transB=1),
]
WHOLE = {**BODY, "fc": FC}


def plain() -> onnx.ModelProto:
    return graph([*body(), *END], WHOLE)


def grey_plain() -> onnx.ModelProto:
    weights = {**WHOLE, "w1": W1.sum(axis=1, keepdims=True)}
    return graph([*body(), *END], weights, takes=(TensorProto.FLOAT, ("N", 1, 8, 8)))


def nhwc() -> onnx.ModelProto:
    turn = helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 3, 1, 2])
    takes = (TensorProto.FLOAT, ("N", 8, 8, 3))
    return graph([turn, *body("t"), *END], WHOLE, takes=takes)


def nhwc_of_open_size() -> onnx.ModelProto:
    model = nhwc()
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "H", "W", "C"])
    model.graph.input[0].CopyFrom(shape)
    return model


def half() -> onnx.ModelProto:
    """Computes in float16 from end to end."""
    weights = {name: value.astype(np.float16) for name, value in WHOLE.items()}
    takes, gives = (TensorProto.FLOAT16, ("N", 3, 8, 8)), [("y", TensorProto.FLOAT16, ("N", 4))]
    return graph([*body(), *END], weights, takes=takes, gives=gives)


def double() -> onnx.ModelProto:
    cast = helper.make_node("Cast", ["x"], ["s"], "cast", to=TensorProto.FLOAT)
    return graph([cast, *body("s"), *END], WHOLE, takes=(TensorProto.DOUBLE, ("N", 3, 8, 8)))


def pixels(dtype: int, order: Sequence[int | str]) -> onnx.ModelProto:
    """Takes raw pixels and normalises them itself, as NCHW or NHWC."""
    nodes = [helper.make_node("Cast", ["x"], ["s"], "cast", to=TensorProto.FLOAT)]
    turned = "s"
    if order[1] != 3:
        nodes.append(helper.make_node("Transpose", ["s"], ["t"], "turn", perm=[0, 3, 1, 2]))
        turned = "t"
    nodes += [
        helper.make_node("Sub", [turned, "mean"], ["z"], "sub"),
        helper.make_node("Mul", ["z", "scale"], ["n"], "mul"),
    ]
    per_channel = (1, 3, 1, 1)
    weights = {
        **WHOLE,
        "mean": (255 * np.array(MEAN, np.float32)).reshape(per_channel),
        "scale": (1 / (255 * np.array(STD, np.float32))).reshape(per_channel),
    }
    return graph([*nodes, *body("n"), *END], weights, takes=(dtype, order))


def maps_of_one() -> onnx.ModelProto:
    """A convolution of 1 x 1 as the last layer: logits N x 4 x 1 x 1."""
    last = helper.make_node("Conv", ["g", "fc4"], ["y"], "fc")
    gives = [("y", TensorProto.FLOAT, ("N", 4, 1, 1))]
    return graph([*body(), last], {**BODY, "fc4": FC.reshape(4, 8, 1, 1)}, gives=gives)


def several() -> onnx.ModelProto:
    """The scores, the number of the best class, and the features: only one is N x classes of floats."""
    label = helper.make_node("ArgMax", ["y"], ["label"], "argmax", axis=1, keepdims=0)
    gives = [
        ("label", TensorProto.INT64, ("N",)),
        ("y", TensorProto.FLOAT, ("N", 4)),
        ("r2", TensorProto.FLOAT, ("N", 8, 4, 4)),
    ]
    return graph([*body(), *END, label], WHOLE, gives=gives)


def fixed_with_constant_reshape(batch: int = 1) -> onnx.ModelProto:
    """A fixed batch; a constant is reshaped to the very shape that the image's rows are."""
    nodes = [
        *body(),
        helper.make_node("Reshape", ["scale", "to"], ["scales"], "reshape-scale"),
        helper.make_node("Reshape", ["g", "to"], ["same"], "reshape-image"),
        helper.make_node("Mul", ["same", "scales"], ["m"], "mul"),
        helper.make_node("Reshape", ["m", "flat"], ["f"], "flatten"),
        END[1],
    ]
    weights = {
        **WHOLE,
        "scale": np.ones(8 * batch, np.float32),
        "to": np.array([batch, 8, 1, 1]),
        "flat": np.array([batch, 8]),
    }
    takes, gives = (TensorProto.FLOAT, (batch, 3, 8, 8)), [("y", TensorProto.FLOAT, (batch, 4))]
    return graph(nodes, weights, takes=takes, gives=gives)


def fixed_of_two() -> onnx.ModelProto:
    flat = helper.make_node("Reshape", ["g", "flat"], ["f"], "flatten")
    takes, gives = (TensorProto.FLOAT, (2, 3, 8, 8)), [("y", TensorProto.FLOAT, (2, 4))]
    weights = {**WHOLE, "flat": np.array([2, -1])}
    return graph([*body(), flat, END[1]], weights, takes=takes, gives=gives)


def any_batch_that_is_one() -> onnx.ModelProto:
    """Says that it takes any batch, and has 1 written into a Reshape."""
    flat = helper.make_node("Reshape", ["g", "flat"], ["f"], "flatten")
    return graph([*body(), flat, END[1]], {**WHOLE, "flat": np.array([1, 8])})


def dead_branch() -> onnx.ModelProto:
    """The scores go through an Identity that nothing reads, too, and into a Softmax."""
    nodes = [
        *body(),
        *END,
        helper.make_node("Identity", ["y"], ["unused"], "dangling"),
        helper.make_node("Softmax", ["y"], ["p"], "softmax", axis=1),
    ]
    return graph(nodes, WHOLE, gives=[("p", TensorProto.FLOAT, ("N", 4))])


def leftovers() -> onnx.ModelProto:
    """Inputs and weights that no output needs, as Caffe2 leaves them."""
    model = plain()
    for name in ("gpu_0/label", "gpu_0/lr"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "momentum"))
    model.graph.node.append(helper.make_node("Relu", ["gpu_0/lr"], ["gone"], "gone"))
    return model


def names_twice() -> onnx.ModelProto:
    model = plain()
    for node in model.graph.node:
        node.name = "same"
    return model


def wrong_declaration() -> onnx.ModelProto:
    """Says that it gives 2 to the 40th classes; it gives four."""
    return graph([*body(), *END], WHOLE, gives=[("y", TensorProto.FLOAT, ("N", 2**40))])


def undeclared() -> onnx.ModelProto:
    return graph([*body(), *END], WHOLE, gives=[("y", TensorProto.FLOAT, None)])


def local_function() -> onnx.ModelProto:
    model = plain()
    inner = helper.make_node("Relu", ["a"], ["b"])
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("theirs", "Act", ["a"], ["b"], [inner], opset))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Act", "theirs"
    return model


def padded_at_run_time() -> onnx.ModelProto:
    """The pads are computed from the image's shape: shape inference knows no sizes behind them."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Shape", ["s"], ["rank"]),
        helper.make_node("Mul", ["rank", "two"], ["count"]),
        helper.make_node("ConstantOfShape", ["count"], ["zeros"],
                         value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        helper.make_node("Add", ["zeros", "pads"], ["p"]),
        helper.make_node("Pad", ["x", "p"], ["xp"], "pad"),
        helper.make_node("Conv", ["xp", "w1"], ["c1"], "conv1", strides=[2, 2]),
        *body()[1:],
        *END,
    ]  # fmt: skip
    constants = {"two": np.array([2]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    return graph(nodes, {**WHOLE, **constants})


def flattened_at_run_time() -> onnx.ModelProto:
    """Reshape to (the batch of the image, 8): the end reads the image's shape."""
    nodes = [
        *body(),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "eight"], ["to"], axis=0),
        helper.make_node("Reshape", ["g", "to"], ["f"], "flatten"),
        END[1],
    ]
    return graph(nodes, {**WHOLE, "zero": np.array([0]), "eight": np.array([8])})


def later_ir() -> onnx.ModelProto:
    model = plain()
    model.ir_version = 12
    return model


def of_opset_6() -> onnx.ModelProto:
    """An addition with the attribute that ONNX Runtime does not know any more."""
    end = [
        END[0],
        helper.make_node("MatMul", ["f", "matrix"], ["m"], "fc"),
        helper.make_node("Add", ["m", "bias"], ["y"], "add", broadcast=1),
    ]
    weights = {**BODY, "matrix": FC.T.copy(), "bias": np.zeros(4, np.float32)}
    return graph([*body(), *end], weights, opset=6)


NHWC_UINT8 = (TensorProto.UINT8, ("N", 8, 8, 3))
FORMS = {
    "nhwc": nhwc, "nhwc-open": nhwc_of_open_size, "half": half, "double": double,
    "uint8-nhwc": lambda: pixels(*NHWC_UINT8),
    "uint8-nchw": lambda: pixels(TensorProto.UINT8, ("N", 3, 8, 8)),
    "int32-nhwc": lambda: pixels(TensorProto.INT32, ("N", 8, 8, 3)),
    "logits-4-1-1": maps_of_one, "several": several,
    "fixed-1": fixed_with_constant_reshape, "fixed-2": fixed_of_two, "one-at-a-time": any_batch_that_is_one,
    "leftovers": leftovers, "names-twice": names_twice, "wrong-shape": wrong_declaration,
    "undeclared": undeclared, "function": local_function, "run-time-pads": padded_at_run_time,
    "run-time-reshape": flattened_at_run_time, "ir-12": later_ir, "opset-6": of_opset_6,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_the_plain_one_does(form):
    images = photos(5)
    expected = run(plain(), normalised(images))
    original = FORMS[form]()
    raw = form.startswith(("uint8", "int32"))
    size = 8 if form == "nhwc-open" else None
    scaling = {"mean": None, "std": None} if raw else {}
    adoption = adopt_file(
        original, "m.onnx", image_size=size, **{"mean": MEAN, "std": STD, **scaling}
    )
    adopted = adoption.adopted
    onnx.checker.check_model(adopted.model, full_check=True)
    value = adopted.model.graph.input[0]
    assert (value.name, value.type.tensor_type.elem_type) == ("image", TensorProto.UINT8)
    assert [len(adopted.model.graph.output), adopted.classes] == [1, 4]
    assert adopted.preprocessing == Preprocessing(8, 8, 9)
    # float16 rounds each value by up to 2^-11.
    error = 1e-2 if form == "half" else 1e-4
    np.testing.assert_allclose(run(adopted.model, images), expected, rtol=error, atol=error)
    np.testing.assert_allclose(adoption.reference(images), expected, rtol=error, atol=error)
    # A foreign graph is fp32 and may be cut wherever it narrows.
    assert [node.op_type for node in adopted.model.graph.node].count("Cast") == 1
    floats = {value.data_type for value in adopted.model.graph.initializer}
    assert not floats & {TensorProto.FLOAT16, TensorProto.DOUBLE}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_be_cut_between_its_layers(form):
    size = 8 if form == "nhwc-open" else None
    raw = form.startswith(("uint8", "int32"))
    scaling = {} if raw else {"mean": MEAN, "std": STD}
    model = adopt_file(FORMS[form](), "m.onnx", image_size=size, **scaling).adopted.model
    card = ModelCard("foreign", "", list("abcd"), Preprocessing(8, 8, 9), [])
    points = {point.tensor.removesuffix("_"): point for point in cut_points(model, card)}
    shares = [points[name].flops_share for name in ("r1", "r2")]
    first, second, last = 4 * 4 * 8 * 27, 4 * 4 * 8 * 72, 4 * 8
    total = first + second + last
    assert shares == pytest.approx([first / total, (first + second) / total])
    assert points["r1"].shape == points["r2"].shape == (8, 4, 4)
    sides = split(model, points["r1"].tensor)
    images = photos(3)
    np.testing.assert_allclose(
        run(sides.tail, run(sides.prefix, images)), run(model, images), rtol=1e-5, atol=1e-6
    )


def test_a_batch_that_cannot_be_freed_is_named():
    # Each image of the batch has scales of its own.
    model = fixed_with_constant_reshape(2)
    with pytest.raises(
        TrtkitError, match=r"m\.onnx cannot be run on uint8 3 x 8 x 8 x 3 \(.*dynamic"
    ):
        take(model)


def test_a_softmax_with_a_branch_beside_it_gives_logits():
    adopted = take(dead_branch())
    assert adopted.ending.activation == "Softmax"
    images = photos(2)
    expected = run(plain(), normalised(images))
    np.testing.assert_allclose(run(adopted.model, images), expected, rtol=1e-4, atol=1e-5)
    assert "dangling" not in [node.name for node in adopted.model.graph.node]


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_grey_images_are_weighted_as_pillow_does(opset):
    from PIL import Image

    model = grey_plain()
    model.opset_import[0].version = opset
    images = photos(3)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    expected = run(model, ((grey / 255.0 - 0.5) / 0.25)[:, None].astype(np.float32))
    adopted = take(model, mean=[0.5], std=[0.25])
    # Pillow rounds its grey to whole levels.
    np.testing.assert_allclose(run(adopted.model, images), expected, atol=0.02)
    by_default = run(take(model, mean=None, std=None).model, images)
    scaled = (grey / 255.0 - np.mean(IMAGENET_MEAN)) / np.mean(IMAGENET_STD)
    np.testing.assert_allclose(
        by_default, run(model, scaled[:, None].astype(np.float32)), atol=0.02
    )


def test_an_output_is_chosen_by_name():
    gives = [("f", TensorProto.FLOAT, ("N", 8)), ("y", TensorProto.FLOAT, ("N", 4))]
    model = graph([*body(), *END], WHOLE, gives=gives)
    with pytest.raises(
        TrtkitError, match=r"2 outputs .*\(f float32 2 x 8, y float32 2 x 4\); .* --output"
    ):
        take(model)
    with pytest.raises(TrtkitError, match="no output 'z'; available: f, y"):
        take(model, output="z")
    images = photos(2)
    np.testing.assert_allclose(
        run(take(model, output="y").model, images), run(plain(), normalised(images)), rtol=1e-4,
        atol=1e-5,
    )  # fmt: skip
    adopted = take(model, output="f")
    assert adopted.classes == 8
    # What only the other output needs is gone.
    assert "fc" not in {value.name for value in adopted.model.graph.initializer}


def two_inputs() -> onnx.ModelProto:
    model = graph([*body(), *END[:1], helper.make_node("Mul", ["f", "mask"], ["y"], "mul")], WHOLE)
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    return model


def segmenter() -> onnx.ModelProto:
    return graph([helper.make_node("Relu", ["x"], ["y"])])


def four_channels() -> onnx.ModelProto:
    takes = (TensorProto.FLOAT, ("N", 4, 8, 8))
    return graph([helper.make_node("Flatten", ["x"], ["y"])], takes=takes)


def best_class() -> onnx.ModelProto:
    """Ends in ArgMax, and declares that as floats, which it is not."""
    label = helper.make_node("ArgMax", ["y"], ["label"], "argmax", axis=1)
    gives = [("label", TensorProto.FLOAT, ("N", 1))]
    return graph([*body(), *END, label], WHOLE, gives=gives)


def custom() -> onnx.ModelProto:
    mystery = helper.make_node("Mystery", ["g"], ["m"], "mystery", domain="theirs")
    return graph([*body(), mystery, helper.make_node("Flatten", ["m"], ["y"])], BODY)


def odd_padding_of_opset_1() -> onnx.ModelProto:
    """Pads with an attribute that later opsets do not have, which the converter does not know."""
    pad = helper.make_node("Pad", ["x"], ["padded"], paddings=[0, 0, 1, 1, 0, 0, 1, 1])
    return graph([pad, *body("padded"), *END], WHOLE, opset=1)


def of_opset_99() -> onnx.ModelProto:
    return graph([*body(), *END], WHOLE, opset=99)


def not_a_number() -> onnx.ModelProto:
    return graph([*body(), *END], {**WHOLE, "fc": np.full_like(FC, np.nan)})


def bomb(shape: Sequence[int]) -> onnx.ModelProto:
    """A few hundred bytes that ask for a constant of that shape."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"], "huge"),
        helper.make_node("ReduceSum", ["huge"], ["sum"], "sum", keepdims=0),
        *body(),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Add", ["f", "sum"], ["y"]),
    ]
    return graph(nodes, {**BODY, "shape": np.array(shape)})


def hidden_bomb() -> onnx.ModelProto:
    """The same, where only the values of the image say how large it is."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "zero"], ["none"]),
        helper.make_node("Add", ["shape", "none"], ["larger"]),
        helper.make_node("ConstantOfShape", ["larger"], ["huge"], "huge"),
        helper.make_node("ReduceSum", ["huge"], ["sum"], "sum", keepdims=0),
        *body(),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Add", ["f", "sum"], ["y"]),
    ]
    constants = {"zero": np.array(0), "shape": np.array([2**20, 2**13])}
    return graph(nodes, {**BODY, **constants})


def many_classes() -> onnx.ModelProto:
    """Repeats its features to more values than there are classes of anything."""
    nodes = [
        *body(),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Tile", ["f", "times"], ["y"]),
    ]
    return graph(nodes, {**BODY, "times": np.array([1, 2**18])})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            four_channels,
            r"^m\.onnx takes float \? x 4 x 8 x 8 as 'x', but an image is N x 3 x H x W, ",
        ),
        (two_inputs, r"^m\.onnx needs 2 inputs \(x, mask\)"),
        (
            segmenter,
            r"^m\.onnx gives y float32 2 x 3 x 8 x 8, but a classifier gives one float tensor",
        ),
        (
            best_class,
            r"^m\.onnx gives the number of the best class \(label, of ArgMax\), .* without",
        ),
        (custom, r"^ONNX Runtime cannot load m\.onnx \(theirs:Mystery\(-1\) is not a registered"),
        (
            odd_padding_of_opset_1,
            r"^m\.onnx cannot be run by ONNX Runtime\. .*from opset 1 to 7 \(",
        ),
        (of_opset_99, r"^m\.onnx has opset 99, and the installed onnx knows .* opset 17"),
        (not_a_number, r"^m\.onnx itself gives NaN or infinite values"),
        (
            lambda: bomb([2**20, 2**13]),
            r"^m\.onnx computes huge of 1048576 x 8192 elements, more than",
        ),
        (lambda: bomb([2**62]), r"^m\.onnx computes huge of 4611686018427387904 elements"),
        (hidden_bomb, r"^m\.onnx cannot be run on .*Available memory"),
        (many_classes, r"^m\.onnx gives 2,097,152 values for each image, .* 1,048,576 classes"),
    ],
)
def test_what_is_no_classifier_or_cannot_be_run_is_named(model, message, capfd):
    with pytest.raises(TrtkitError, match=message) as caught:
        adopt_file(model(), "m.onnx").reference(photos(1))
    sentence = str(caught.value)
    assert "\n" not in sentence and "[ONNXRuntimeError]" not in sentence and "/onnx" not in sentence
    # ONNX Runtime writes nothing of its own.
    assert capfd.readouterr() == ("", "")


def test_raw_pixels_are_not_normalised_twice():
    with pytest.raises(TrtkitError, match="normalises them itself; leave --mean and --std out"):
        take(pixels(*NHWC_UINT8))


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), (MEAN, (0.2, 0.0, 0.3))])
def test_a_normalisation_of_other_channels_is_refused(mean, std):
    with pytest.raises(TrtkitError, match="do not describe three channels; give three numbers"):
        take(plain(), mean=mean, std=std)


def test_imagenet_normalisation_is_that_of_torch():
    images = photos(1)
    adopted = take(classifier(), mean=None, std=None)
    value = (images / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    expected = run(classifier(), value.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(run(adopted.model, images), expected, rtol=1e-4, atol=1e-5)
