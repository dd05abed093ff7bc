"""fp16 as a storage format."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from tests.graph.onnx_graphs import classifier, run
from trtkit.errors import TrtkitError
from trtkit.graph.precision import store_half
from trtkit.graph.split import split


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_a_chain_stored_as_fp16_is_close_to_fp32(seed):
    model = classifier("batch", seed=seed)
    value = np.random.default_rng(seed).standard_normal((3, 3, 8, 8)).astype(np.float32)
    expected = run(model, value)
    sides = split(model, "d")
    store_half(sides.prefix, feature_input=False, feature_output=True)
    store_half(sides.tail, feature_input=True, feature_output=False)
    for side in (sides.prefix, sides.tail):
        onnx.checker.check_model(side, full_check=True)
    feature = run(sides.prefix, value)
    logits = run(sides.tail, feature)
    assert (feature.dtype, logits.dtype) == (np.float16, np.float32)
    # Three roundings of at most 2^-11 each, and a dot product of 4 terms behind the last.
    np.testing.assert_allclose(logits, expected, atol=20 * 2**-11 * np.abs(expected).max())
    assert not np.array_equal(logits, expected)


def test_weights_of_heavy_layers_take_half_the_space():
    model = classifier("batch")
    store_half(model, feature_input=False, feature_output=False)
    types = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert types == {
        "w1_fp16": TensorProto.FLOAT16,
        "w2_fp16": TensorProto.FLOAT16,
        "fc_fp16": TensorProto.FLOAT16,
        "shape": TensorProto.INT64,
    }
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("value", [70000.0, float("inf"), float("nan")])
def test_a_weight_past_fp16_is_named(value):
    model = classifier("batch")
    weight = next(item for item in model.graph.initializer if item.name == "w2")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = value
    weight.CopyFrom(numpy_helper.from_array(values, "w2"))
    with pytest.raises(TrtkitError, match=r"The weight w2 .* build with --fp32"):
        store_half(model, feature_input=False, feature_output=False)
