"""Normalisation that a foreign graph brings along."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.building.adoption import adopt_file
from trtkit.graph.scaling import own_scaling

MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
# What a graph does to a pixel, and whether it takes pixels of 0 to 255.
SCALINGS = [
    ([("Sub", MEAN), ("Div", STD)], True),
    ([("Sub", MEAN)], True),
    ([("Mul", np.float32([1 / 255]))], True),
    ([("Div", np.float32([127.5])), ("Sub", np.float32([1]))], True),
    ([("Sub", MEAN / 255), ("Div", STD / 255)], False),
    ([("Mul", np.float32([2])), ("Add", np.float32([-1]))], False),
]


def scaled(steps, *, shape=(1, 3, 1, 1), constant_nodes=False, before=()):
    """A classifier behind such a normalisation."""
    model = classifier()
    nodes, value = [], "x"
    for place, operator in enumerate(before):
        nodes.append(helper.make_node(operator, [value], [f"before_{place}"]))
        value = f"before_{place}"
    for place, (operator, numbers) in enumerate(steps):
        tensor = numpy_helper.from_array(
            numbers.reshape(shape if numbers.size == 3 else ()), f"constant_{place}"
        )
        if constant_nodes:
            nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            model.graph.initializer.append(tensor)
        nodes.append(helper.make_node(operator, [value, tensor.name], [f"scaled_{place}"]))
        value = f"scaled_{place}"
    model.graph.node[0].input[0] = value
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    return model


def by_hand(steps, pixels: np.ndarray) -> np.ndarray:
    operations = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    values = pixels.astype(np.float64)
    for operator, numbers in steps:
        values = operations[operator](values, numbers)
    return values


@pytest.mark.parametrize(("steps", "takes_bytes"), SCALINGS)
@pytest.mark.parametrize("constant_nodes", [False, True])
def test_what_a_graph_does_to_its_pixels(steps, takes_bytes, constant_nodes):
    model = scaled(steps, constant_nodes=constant_nodes, before=["Identity"])
    own = own_scaling(model.graph, "x", 3)
    pixels = np.array([[0, 0, 0], [10, 20, 30], [255, 255, 255]])
    np.testing.assert_allclose(own.factor * pixels + own.offset, by_hand(steps, pixels), rtol=1e-5)
    assert own.takes_bytes == takes_bytes


@pytest.mark.parametrize(("steps", "takes_bytes"), SCALINGS)
def test_such_a_graph_gets_pixels_as_they_are(steps, takes_bytes):
    model = scaled(steps)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    expected = run(model, np.float32(images.transpose(0, 3, 1, 2) / (1 if takes_bytes else 255)))
    adoption = adopt_file(model, "m.onnx")
    np.testing.assert_allclose(run(adoption.adopted.model, images), expected, rtol=1e-3, atol=1e-4)
    values = "0 to 255" if takes_bytes else "0 to 1"
    assert adoption.notes == (
        f"m.onnx begins with a normalisation of its own, so it gets values of {values}; --mean and --std "
        "set others.",
    )


def test_what_the_caller_states_holds():
    model = scaled(SCALINGS[0][0])
    adoption = adopt_file(model, "m.onnx", mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.full((1, 8, 8, 3), 255, np.uint8)
    expected = run(model, np.full((1, 3, 8, 8), 2, np.float32))
    np.testing.assert_allclose(run(adoption.adopted.model, images), expected, rtol=1e-3, atol=1e-4)
    assert "behind that of --mean and --std" in adoption.notes[0]


def nothing() -> list:
    other = np.float32([1, 2])
    return [
        classifier(),
        scaled([("Mul", np.float32([1]))]),
        scaled([("Mul", np.float32([0]))]),
        make_model(
            [helper.make_node("Mul", ["x", "x"], ["y"])], ["N", 3, 8, 8], ("y", ["N", 3, 8, 8])
        ),
        make_model(
            [helper.make_node("Div", ["two", "x"], ["y"])],
            ["N", 3, 8, 2],
            ("y", ["N", 3, 8, 2]),
            {"two": other},
        ),
    ]


def test_what_is_no_normalisation():
    for model in nothing():
        assert own_scaling(model.graph, "x", 3) is None
    assert adopt_file(classifier(), "m.onnx").notes == ()
