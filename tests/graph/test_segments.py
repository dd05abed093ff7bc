"""Labels in the names of nodes and tensors, and reading them back out of layers' names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.graph.onnx_graphs import classifier, make_model, run
from tests.graph.segmented import branches, points, residual, vgg
from trtkit.graph.boundaries import label_segments, segment_of
from trtkit.graph.values import ancestors

IMAGES = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def labelled(model, tensors):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    label_segments(copy, points(tensors))
    onnx.checker.check_model(copy, full_check=True)
    return copy


def segments(model):
    """The segment in each node's name, by the name without it."""
    return {node.name.split("/", 1)[1]: segment_of(node.name) for node in model.graph.node}


def ends(model):
    graph = model.graph
    return [
        [value.name for value in each] for each in (graph.input, graph.output, graph.initializer)
    ]


def test_every_node_of_a_residual_network_is_in_its_block():
    model, tensors = residual()
    assert segments(labelled(model, tensors)) == {
        "stem_conv": 1, "stem_relu": 1,
        "block1_a_conv": 2, "block1_a_relu": 2, "block1_b_conv": 2, "block1_add": 2, "block1_relu": 2,
        "block2_a_conv": 3, "block2_a_relu": 3, "block2_b_conv": 3, "block2_add": 3, "block2_relu": 3,
        "head_pool": 4, "head_flat": 4, "head_gemm": 4,
    }  # fmt: skip


def test_every_node_of_a_vgg_is_in_its_block():
    model, tensors = vgg()
    assert segments(labelled(model, tensors)) == {
        "block1_conv": 1, "block1_relu": 1,
        "block2_conv": 2, "block2_relu": 2, "block2_pool": 2,
        "block3_conv": 3, "block3_relu": 3, "block3_pool": 3,
        "head_pool": 4, "head_flat": 4, "head_gemm": 4,
    }  # fmt: skip


@pytest.mark.parametrize("make", [residual, vgg])
def test_a_labelled_graph_computes_the_same_under_the_same_ends(make):
    model, tensors = make()
    changed = labelled(model, tensors)
    assert ends(changed) == ends(model)
    np.testing.assert_array_equal(run(changed, IMAGES), run(model, IMAGES))


def test_the_tensors_between_nodes_are_labelled_as_their_producers():
    model, tensors = residual()
    graph = labelled(model, tensors).graph
    for node in graph.node:
        for name in node.output:
            if name != graph.output[0].name:
                assert segment_of(name) == segment_of(node.name)


@st.composite
def cut_chains(draw):
    """A graph of any wiring and order of cuts along it, and which nodes have no name."""
    count = draw(st.integers(2, 8))
    nodes, tensors = [], ["x"]
    for index in range(count):
        pair = [draw(st.sampled_from(tensors)), tensors[-1]]
        name = draw(st.sampled_from(["", f"n{index}"]))
        nodes.append(helper.make_node("Add", pair, [f"t{index}"], name))
        tensors.append(f"t{index}")
    model = make_model(nodes, ["N", 3, 8, 8], (tensors[-1], ["N", 3, 8, 8]))
    places = draw(st.sets(st.integers(0, count - 1), max_size=4))
    return model, [f"t{place}" for place in sorted(places)]


@given(cut_chains())
@settings(max_examples=60, deadline=None)
def test_a_segment_is_what_a_cut_has_before_it_and_the_one_before_has_not(case):
    model, tensors = case
    changed = labelled(model, tensors)
    assert ends(changed) == ends(model)
    np.testing.assert_array_equal(run(changed, IMAGES), run(model, IMAGES))
    before = [{node.output[0] for node in ancestors(model.graph, [name])} for name in tensors]
    names = [node.name for node in changed.graph.node]
    assert len(set(names)) == len(names)
    for old, new in zip(model.graph.node, changed.graph.node, strict=True):
        holding = [n for n, made in enumerate(before, start=1) if old.output[0] in made]
        assert segment_of(new.name) == min(holding, default=len(tensors) + 1)
        assert new.name.split("/", 1)[1] in (old.name, f"{old.op_type}_{names.index(new.name)}")


def test_a_cut_at_the_output_and_none_at_all():
    model, _ = residual()
    assert set(segments(labelled(model, [])).values()) == {1}
    whole = labelled(model, [model.graph.output[0].name])
    assert set(segments(whole).values()) == {1}
    assert ends(whole) == ends(model)


def test_weights_made_by_nodes_belong_to_the_segment_that_uses_them_first():
    model = classifier(constant_nodes=True)
    found = segments(labelled(model, ["b", "d"]))
    assert (found["const_w1"], found["const_w2"], found["const_fc"]) == (1, 2, 3)


def test_shapes_that_name_tensors_are_left_to_the_backend():
    model, tensors = residual()
    inferred = onnx.shape_inference.infer_shapes(model)
    assert len(inferred.graph.value_info) > 0
    assert len(labelled(inferred, tensors).graph.value_info) == 0


def test_subgraphs_still_find_what_they_read_outside():
    model = branches("a", "flag")
    changed = labelled(model, ["a", "b"])
    assert segments(changed)["choose"] == 2
    for scale in (0.01, 1):
        images = IMAGES * np.float32(scale)
        np.testing.assert_array_equal(run(changed, images), run(model, images))


def test_a_subgraph_may_read_what_its_node_reads_too():
    """The condition itself, cast inside the branch."""
    model = branches("a", "flag")
    for attribute in model.graph.node[4].attribute:
        inner = attribute.g.node
        inner[0].input[1] = f"{attribute.name}_seen"
        cast = helper.make_node("Cast", ["flag"], [inner[0].input[1]], "see", to=TensorProto.FLOAT)
        inner.insert(0, cast)
    changed = labelled(model, ["a", "b"])
    np.testing.assert_array_equal(run(changed, IMAGES), run(model, IMAGES))


def test_a_node_without_its_first_output_is_told_from_another():
    sizes = {"axis": np.array([1], np.int64), "r": np.zeros((1, 4, 4), np.float32)}

    def recurrent(source, name):
        return [
            helper.make_node("RNN", [source, "w" + name, "r"], ["", name], name, hidden_size=4),
            helper.make_node("Relu", [name], [name + "_out"], name + "_relu"),
        ]

    weights = {
        **sizes,
        "wone": np.ones((1, 4, 3), np.float32),
        "wtwo": np.ones((1, 4, 4), np.float32),
    }
    nodes = [*recurrent("x", "one"), *recurrent("one_out", "two")]
    model = make_model(nodes, [5, 2, 3], ("two_out", [1, 2, 4]), weights)
    assert segments(labelled(model, ["one_out"])) == {
        "one": 1, "one_relu": 1, "two": 2, "two_relu": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "segment"),
    [
        ("segment3/conv1", 3),
        ("segment12/conv", 12),
        ("segment2/conv + segment2/add + segment3/relu", 2),
        ("{ForeignNode[segment4/a...segment7/b]}", 4),
        ("Reformatting CopyNode for Input Tensor 0 to segment5/conv + segment5/relu", 5),
        ("PWN(PWN(segment6/sigmoid), segment6/mul)", 6),
        ("__myl_AddMul_myl0_3 [segment8/add + segment9/mul]", 8),
        ("segment2/conv_out_nchwc", 2),
        ("segment1/mysegment9/conv", 1),
        ("ReorderOutput", None),
        ("segment/conv", None),
        ("segment7", None),
        ("", None),
    ],
)
def test_the_first_label_in_a_layers_name_counts(layer, segment):
    assert segment_of(layer) == segment
