"""Adopting classifiers that others exported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.errors import TrtkitError
from trtkit.graph.foreign import adopt
from trtkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def take(model: onnx.ModelProto, image_size: int | None = None):
    return adopt(model, mean=MEAN, std=STD, image_size=image_size, name="m.onnx")


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


def half_input() -> onnx.ModelProto:
    model = classifier()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def two_inputs() -> onnx.ModelProto:
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    return model


def segmenter() -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    return make_model([node], ["n", 3, 8, 8], ("y", ["n", 3, 8, 8]))


def grey() -> onnx.ModelProto:
    node = helper.make_node("Flatten", ["x"], ["y"])
    return make_model([node], ["n", 1, 8, 8], ("y", ["n", 64]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (half_input, r"takes FLOAT16 .* must take float N x 3 x H x W"),
        (grey, r"takes FLOAT \? x 1 x 8 x 8 .* must take float N x 3 x H x W"),
        (two_inputs, r"has 2 \(x, mask\)"),
        (segmenter, r"a classifier gives one tensor of N x classes"),
    ],
)
def test_graphs_that_are_no_classifiers_are_refused(model, message):
    with pytest.raises(TrtkitError, match=message):
        take(model())


def test_imagenet_normalisation_is_that_of_torch():
    images = photos(1)
    adopted = adopt(
        classifier(), mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=None, name="m.onnx"
    )
    value = (images / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    expected = run(classifier(), value.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(run(adopted.model, images), expected, rtol=1e-4, atol=1e-5)
