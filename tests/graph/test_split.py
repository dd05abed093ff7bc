"""Cut points, separators and the two sides of a cut."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import cut_points, separators
from trtkit.graph.card import BlockBoundary, ModelCard
from trtkit.graph.files import read_model
from trtkit.graph.split import find_cut, split
from trtkit.graph.values import tensor_infos
from trtkit.preprocessing import Preprocessing

NO_BLOCKS = ModelCard("foreign", "test", ["a"], Preprocessing(8, 8, 8), [])


@st.composite
def random_graphs(draw) -> onnx.ModelProto:
    """Elementwise graphs of any wiring, in which every node leads to the output."""
    count = draw(st.integers(2, 9))
    nodes, tensors, unused = [], ["x"], set()
    for index in range(count):
        last = index == count - 1
        first = draw(st.sampled_from(tensors))
        second = draw(st.sampled_from(tensors))
        name = f"t{index}"
        if last:
            # Whatever leads nowhere is summed into the output.
            inputs = sorted({first, second} | unused)
            nodes.append(helper.make_node("Sum", inputs, [name], f"n{index}"))
        elif first == second:
            nodes.append(helper.make_node("Relu", [first], [name], f"n{index}"))
        else:
            nodes.append(helper.make_node("Add", [first, second], [name], f"n{index}"))
        unused = (unused - {first, second}) | {name}
        tensors.append(name)
    return make_model(nodes, ["batch", 2, 3], (tensors[-1], ["batch", 2, 3]))


def reachable_without(model: onnx.ModelProto, removed: str) -> bool:
    """Whether the output still depends on x when nothing passes through `removed`."""
    alive = {"x"}
    for node in model.graph.node:
        if set(node.input) & alive and node.output[0] != removed:
            alive.add(node.output[0])
    return model.graph.output[0].name in alive


@given(random_graphs())
@settings(max_examples=150, deadline=None)
def test_separators_are_the_tensors_that_all_paths_go_through(model):
    found = [boundary.tensor for boundary in separators(model, tensor_infos(model))]
    output = model.graph.output[0].name
    expected = [
        node.output[0]
        for node in model.graph.node
        if node.output[0] != output and not reachable_without(model, node.output[0])
    ]
    # No node of these graphs is heavy, so all count as preparing the image.
    assert found == []
    model.graph.node.insert(0, helper.make_node("MatMul", ["x0", "w"], ["x"], "heavy"))
    model.graph.input[0].name = "x0"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    found = [boundary.tensor for boundary in separators(model, tensor_infos(model))]
    assert found == ["x", *expected]


@given(random_graphs(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_two_sides_of_any_separator_chain_to_the_whole(model, batch):
    value = np.random.default_rng(0).standard_normal((batch, 2, 3)).astype(np.float32)
    whole = run(model, value)
    for node in model.graph.node[:-1]:
        tensor = node.output[0]
        if reachable_without(model, tensor):
            with pytest.raises(TrtkitError, match=f"cannot be cut at {tensor}: there are paths"):
                split(model, tensor)
            continue
        sides = split(model, tensor)
        onnx.checker.check_model(sides.prefix, full_check=True)
        onnx.checker.check_model(sides.tail, full_check=True)
        assert len(sides.prefix.graph.node) + len(sides.tail.graph.node) == len(model.graph.node)
        np.testing.assert_array_equal(run(sides.tail, run(sides.prefix, value)), whole)


def test_a_weight_that_both_sides_use_is_in_both():
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], "first"),
        helper.make_node("Mul", ["a", "w"], ["b"], "second"),
    ]
    weight = np.array([2.0], dtype=np.float32)
    model = make_model(nodes, ["batch", 3], ("b", ["batch", 3]), {"w": weight})
    sides = split(model, "a")
    assert [w.name for w in sides.prefix.graph.initializer] == ["w"]
    assert [w.name for w in sides.tail.graph.initializer] == ["w"]
    value = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(run(sides.tail, run(sides.prefix, value)), 4 * value)


def test_cut_points_of_a_foreign_graph():
    points = cut_points(classifier("batch"), NO_BLOCKS)
    assert [(point.tensor, point.block, point.shape) for point in points] == [
        ("a", "conv1", (4, 8, 8)),
        ("b", "relu1", (4, 8, 8)),
        # c is no cut: b goes around it.
        ("d", "add", (4, 8, 8)),
        ("e", "pool", (4, 1, 1)),
        ("f", "flatten", (4,)),
    ]
    conv1, conv2, gemm = 2 * 256 * 27, 2 * 256 * 36, 2 * 5 * 4
    total = conv1 + conv2 + gemm
    assert [point.flops_share for point in points] == pytest.approx(
        [conv1 / total, conv1 / total, *[(conv1 + conv2) / total] * 3]
    )
    assert [point.bytes for point in points] == [1024, 1024, 1024, 16, 16]


def test_cut_points_of_resnet18(full_exports):
    model = read_model(full_exports / "resnet18.onnx")
    card = ModelCard.read_from(model, "resnet18")
    points = cut_points(model, card)
    assert [point.cut for point in points] == list(range(1, 9))
    assert [point.block for point in points] == [
        f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)
    ]
    assert [point.shape for point in points] == [
        (64, 16, 16), (64, 16, 16), (128, 8, 8), (128, 8, 8),
        (256, 4, 4), (256, 4, 4), (512, 2, 2), (512, 2, 2),
    ]  # fmt: skip
    assert points[0].bytes == 64 * 16 * 16 * 4
    shares = [point.flops_share for point in points]
    assert shares == sorted(shares)
    assert 0.99 < shares[-1] < 1.0


def test_block_boundaries_are_among_the_separators(exports):
    model = read_model(exports / "resnet34.onnx")
    card = ModelCard.read_from(model, "resnet34")
    found = {boundary.tensor for boundary in separators(model, tensor_infos(model))}
    assert {block.tensor for block in card.blocks} <= found


def test_a_cut_out_of_range_says_what_exists(exports):
    model = read_model(exports / "resnet18.onnx")
    card = ModelCard.read_from(model, "resnet18")
    with pytest.raises(TrtkitError, match="resnet18 has 8 blocks and no cut 9; choose 1 to 8"):
        find_cut(model, card, 9, "resnet18")


def test_metadata_that_name_a_missing_tensor():
    card = ModelCard("x", "test", ["a"], Preprocessing(8, 8, 8), [BlockBoundary("one", "nowhere")])
    with pytest.raises(TrtkitError, match=r"nowhere .* no such tensor .* export the model again"):
        cut_points(classifier("batch"), card)
